package replay

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// Defaults of the budgets.
const (
	Requests = 24
	Strikes  = 20 // refusals feed bans, scores and alarms
	MaxWait  = 60 * time.Second
)

// budget counts what was sent and decides whether more may be. Once stopped it stays so.
type budget struct {
	requests, strikes int // limits
	highest           pinpoint.Class
	maxWait           time.Duration

	sent, struck int
	timeouts     int // in a row
	stopped      string
	accepted     bool      // something that could not succeed did: nothing unsafe leaves any more
	resume       time.Time // when the server may be asked again, if it said so
	until        time.Time // nothing is sent before
}

func newBudget(o *Options) *budget {
	b := &budget{requests: o.Requests, strikes: o.Strikes, highest: pinpoint.S1, maxWait: min(o.MaxWait, MaxWait)}
	if b.requests <= 0 {
		b.requests = Requests
	}
	if b.strikes <= 0 {
		b.strikes = Strikes
	}
	if o.Probe {
		b.highest = pinpoint.S2
	}
	if o.SideEffects {
		b.highest = pinpoint.S3
	}
	return b
}

// left is how many more requests may be sent.
func (b *budget) left() int {
	if b.stopped != "" {
		return 0
	}
	return max(0, min(b.requests-b.sent, b.strikes-b.struck))
}

// forbids says why a class may not leave, "" if it may.
func (b *budget) forbids(c pinpoint.Class) string {
	switch {
	case b.accepted && c >= pinpoint.S2:
		return "a request that should not have succeeded was accepted"
	case c <= b.highest:
		return ""
	case c == pinpoint.S2:
		return "needs --probe: an unsafe method, built so that it cannot succeed"
	}
	return "needs --yes-side-effects: it may have an effect"
}

func (b *budget) stop(format string, args ...any) {
	if b.stopped == "" {
		b.stopped = fmt.Sprintf(format, args...)
	}
}

// ready waits as long as the server asked for.
func (b *budget) ready(ctx context.Context) error {
	return sleep(ctx, time.Until(b.until))
}

// took counts an answer. reference says that it is the refusal that is asked about: then neither a
// 5xx nor a 503 surprises.
func (b *budget) took(a *pinpoint.Answer, reference bool) {
	b.sent++
	if a.Status >= 400 && a.Status != 404 && a.Status != 405 || reference {
		b.struck++
	}
	if a.Status == 0 && a.Err == "timeout" {
		if b.timeouts++; b.timeouts == 2 {
			b.stop("two requests in a row had no answer in time")
		}
	} else {
		b.timeouts = 0
	}
	if pause := askedPause(a, time.Now()); pause > 0 {
		if pause > b.maxWait {
			b.resume = time.Now().Add(pause)
			b.stop("the server asks to wait %s", pause.Round(time.Second))
		} else {
			b.until = time.Now().Add(pause)
		}
	}
	// A method or a version that a server does not know (RFC 9110, sections 15.6.2 and 15.6.6) is no sign of distress.
	if a.Status >= 500 && a.Status != http.StatusNotImplemented && a.Status != http.StatusHTTPVersionNotSupported && !reference {
		b.stop("the server answered %d", a.Status)
	}
	switch {
	case b.sent >= b.requests:
		b.stop("the budget of %d requests is used", b.requests)
	case b.struck >= b.strikes:
		b.stop("the budget of %d refused answers is used", b.strikes)
	}
}

// maxPause bounds what is believed of a server: a month.
const maxPause = 31 * 24 * time.Hour

// askedPause is how long an answer asks to wait: Retry-After (RFC 9110, section 10.2.3) of any
// refusal, and the reset of a quota of which nothing is left (draft-ietf-httpapi-ratelimit-headers and
// the older X- fields). 0 when it asks for nothing.
func askedPause(a *pinpoint.Answer, now time.Time) time.Duration {
	if a.Status < 400 {
		return 0
	}
	if v := strings.TrimSpace(a.Header.Value("Retry-After")); v != "" {
		if t, err := http.ParseTime(v); err == nil {
			base := now
			if d, err := http.ParseTime(a.Header.Value("Date")); err == nil { // the clock of the server counts
				base = d
			}
			return bounded(t.Sub(base))
		}
		if n, ok := number(v); ok {
			return seconds(n)
		}
	}
	for _, prefix := range []string{"RateLimit-", "X-RateLimit-", "X-Rate-Limit-"} {
		reset, ok := number(a.Header.Value(prefix + "Reset"))
		if !ok || a.Status != 429 && a.Status != 503 && strings.TrimSpace(a.Header.Value(prefix+"Remaining")) != "0" {
			continue
		}
		switch {
		case reset > 1e11: // milliseconds since 1970
			return bounded(time.UnixMilli(int64(min(reset, 1e14))).Sub(now))
		case reset > 1e8: // seconds since 1970; nobody waits three years
			return bounded(time.Unix(int64(reset), 0).Sub(now))
		}
		return seconds(reset)
	}
	return 0
}

func bounded(d time.Duration) time.Duration { return min(max(d, 0), maxPause) }

// number is a decimal that is not negative.
func number(s string) (float64, bool) {
	n, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	return n, err == nil && n >= 0 // NaN is not
}

func seconds(n float64) time.Duration {
	return time.Duration(min(n, maxPause.Seconds()) * float64(time.Second))
}
