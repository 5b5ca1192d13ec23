package upstream

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whygate/whygate/resource"
)

// Report tells how a try ended: it moves the target's ejection, the breaker and the retry budget.
func (t *Target) Report(now time.Time, ok bool) {
	t.up.window.add(now, !ok)
	t.up.breaker.report(&t.up.window, now, ok)
	if ok {
		if t.failures.Load() != 0 {
			t.failures.Store(0)
		}
		if t.failing.Load() {
			t.failing.Store(false)
		}
		return
	}
	t.Failed.Add(1)
	t.failing.Store(true)
	t.blame(now)
}

// Unreport ends a try that says nothing about the target: the client left, or the request was
// at fault.
func (t *Target) Unreport() { t.up.breaker.giveBack() }

// FailedStatus says that an answered status counts as a failure of the target.
func FailedStatus(status int) bool { return status >= 502 && status <= 504 }

// blame counts a failure and ejects the target when there were too many in a row.
func (t *Target) blame(now time.Time) {
	spec := &t.up.Spec.Ejection
	if spec.Failures == 0 {
		return
	}
	at := mono(now)
	if first := t.firstFailure.Load(); t.failures.Load() == 0 || at-first > int64(spec.Within) {
		t.firstFailure.Store(at)
		t.failures.Store(0)
	}
	if t.failures.Add(1) < int32(spec.Failures) || t.ejectedUntil.Load() > at {
		return
	}
	t.failures.Store(0)
	targets := t.up.targets.Load().targets
	out := 1
	for _, other := range targets {
		if other != t && other.ejectedUntil.Load() > at {
			out++
		}
	}
	if out*100 > spec.Most*len(targets) {
		return // taking more out would flood the rest
	}
	// Each ejection in a row lasts twice as long; a quiet spell of ten times the last forgives.
	if last := t.ejectedUntil.Load(); at-last > 10*int64(spec.For) {
		t.ejections.Store(0)
	}
	n := min(t.ejections.Add(1)-1, 10)
	pause := time.Duration(spec.For) << n
	t.ejectedUntil.Store(at + int64(pause))
	t.Ejected.Add(1)
	t.up.log.Warn("target ejected", "upstream", t.up.Name, "target", t.Address, "for", pause, "error", t.LastError())
}

// LastError is the last thing that went wrong at the target, "" for nothing.
func (t *Target) LastError() string {
	if e := t.lastError.Load(); e != nil {
		return *e
	}
	return ""
}

// State is "up", "down" (by its health check) or "ejected".
func (t *Target) State(now time.Time) string {
	switch {
	case t.down.Load():
		return "down"
	case t.ejectedUntil.Load() > mono(now):
		return "ejected"
	}
	return "up"
}

// Failing says that the last try failed, which is not enough to take a target out of rotation.
func (t *Target) Failing() bool { return t.failing.Load() }

// asked stands before the errors of health checks.
const asked = "health check: "

// checkHealth asks every target regularly how it is.
func (u *Upstream) checkHealth() {
	h := u.Spec.Health
	ticker := time.NewTicker(time.Duration(h.Every))
	defer ticker.Stop()
	counts := map[*Target]int{} // good answers in a row, bad ones negative
	for {
		targets := u.targets.Load().targets
		good := make([]bool, len(targets))
		var all sync.WaitGroup
		for i, t := range targets {
			all.Add(1)
			go func() {
				defer all.Done()
				err := t.ask(h)
				if good[i] = err == nil; err != nil && u.ctx.Err() == nil {
					text := asked + Plain(err)
					t.lastError.Store(&text)
				}
			}()
		}
		all.Wait()
		if u.ctx.Err() != nil {
			return
		}
		maps.DeleteFunc(counts, func(t *Target, _ int) bool { return !slices.Contains(targets, t) })
		for i, t := range targets {
			switch n := counts[t]; {
			case good[i]:
				counts[t] = max(n, 0) + 1
			default:
				counts[t] = min(n, 0) - 1
			}
			switch n := counts[t]; {
			case n >= h.Up && t.down.Load():
				t.down.Store(false)
				u.log.Info("target is up again", "upstream", u.Name, "target", t.Address)
			case -n >= h.Down && !t.down.Load():
				t.down.Store(true)
				u.log.Warn("target is down", "upstream", u.Name, "target", t.Address, "error", t.LastError())
			}
		}
		select {
		case <-u.ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// ask sends one question.
func (t *Target) ask(h *resource.Health) error {
	ctx, cancel := context.WithTimeout(t.up.ctx, time.Duration(h.Timeout))
	defer cancel()
	scheme := "http"
	if t.Secure {
		scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, "GET", scheme+"://"+t.Address+t.Path+h.Path, nil)
	if err != nil {
		return err
	}
	req.Host = t.Host
	if h.Host != "" {
		req.Host = h.Host
	}
	req.Header.Set("User-Agent", "whygate-health")
	tr := &http.Transport{DisableKeepAlives: true}
	if t.Secure {
		tr.TLSClientConfig = t.tlsConfig()
	}
	if t.http2 != nil {
		tr.Protocols = t.http2.Protocols
	}
	tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return t.connect(ctx) }
	defer tr.CloseIdleConnections()
	res, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	io.CopyN(io.Discard, res.Body, 4096)
	res.Body.Close()
	if len(h.Statuses) == 0 && res.StatusCode >= 200 && res.StatusCode < 400 || slices.Contains(h.Statuses, res.StatusCode) {
		return nil
	}
	return fmt.Errorf("status %d", res.StatusCode)
}

// window counts calls, failures and retries of the last seconds, in ten buckets.
type window struct {
	span    time.Duration
	buckets [windowBuckets]bucket
}

const windowBuckets = 10

type bucket struct {
	epoch                  atomic.Int64
	calls, failed, retries atomic.Int64
}

func (w *window) at(now time.Time) *bucket {
	epoch := mono(now)/max(int64(w.span)/windowBuckets, 1) + windowBuckets
	b := &w.buckets[epoch%windowBuckets]
	if old := b.epoch.Load(); old != epoch && b.epoch.CompareAndSwap(old, epoch) {
		// A count that comes between these stores is lost, which nobody will miss.
		b.calls.Store(0)
		b.failed.Store(0)
		b.retries.Store(0)
	}
	return b
}

func (w *window) add(now time.Time, failed bool) {
	b := w.at(now)
	b.calls.Add(1)
	if failed {
		b.failed.Add(1)
	}
}

func (w *window) sum(now time.Time) (calls, failed, retries int64) {
	epoch := mono(now)/max(int64(w.span)/windowBuckets, 1) + windowBuckets
	for i := range w.buckets {
		if b := &w.buckets[i]; epoch-b.epoch.Load() < windowBuckets {
			calls += b.calls.Load()
			failed += b.failed.Load()
			retries += b.retries.Load()
		}
	}
	return calls, failed, retries
}

func (w *window) clear() {
	for i := range w.buckets {
		w.buckets[i].epoch.Store(0)
	}
}

// MayRetry asks the retry budget for one more try, and takes it.
func (u *Upstream) MayRetry(now time.Time) bool {
	calls, _, retries := u.window.sum(now)
	// A quiet upstream has no share to take from: a few tries are always there.
	if retries >= 3 && retries*100 >= calls*int64(u.Spec.Retries.Budget) {
		return false
	}
	u.window.at(now).retries.Add(1)
	return true
}

// breaker stops calls to an upstream that mostly fails.
type breaker struct {
	spec   resource.Breaker
	opened atomic.Int64 // when it closes for good or half; 0 when closed

	mu                 sync.Mutex // guards what follows
	probing            bool
	started, succeeded int
	probeSince         int64
	calls, failed      int64 // when it opened
}

// blocks says whether the call must not be sent, and for how long.
func (b *breaker) blocks(now time.Time) (time.Duration, bool) {
	until := b.opened.Load()
	if until == 0 {
		return 0, false
	}
	at := mono(now)
	if at < until {
		return time.Duration(until - at), true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.opened.Load() == 0 {
		return 0, false
	}
	// Half open: a few calls may try. Probes that never report back are replaced after a while.
	if !b.probing || at-b.probeSince > int64(max(time.Duration(b.spec.Open), 10*time.Second)) {
		b.probing, b.started, b.succeeded, b.probeSince = true, 0, 0, at
	}
	if b.started >= b.spec.Probes {
		return time.Duration(b.spec.Open), true
	}
	b.started++
	return 0, false
}

// giveBack lets another call be a probe in place of one that found nothing out.
func (b *breaker) giveBack() {
	if b.opened.Load() == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.probing && b.started > b.succeeded {
		b.started--
	}
}

func (b *breaker) report(w *window, now time.Time, ok bool) {
	if b.spec.Rate == 0 {
		return
	}
	at := mono(now)
	if b.opened.Load() != 0 {
		b.mu.Lock()
		defer b.mu.Unlock()
		if !b.probing || b.opened.Load() == 0 {
			return // a call from before
		}
		if !ok {
			b.probing = false
			b.opened.Store(at + int64(b.spec.Open))
		} else if b.succeeded++; b.succeeded >= b.spec.Probes {
			b.probing = false
			b.opened.Store(0)
			w.clear()
		}
		return
	}
	if ok {
		return
	}
	calls, failed, _ := w.sum(now)
	if calls < int64(b.spec.Calls) || failed*100 < calls*int64(b.spec.Rate) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.opened.Load() == 0 {
		b.probing, b.calls, b.failed = false, calls, failed
		b.opened.Store(at + int64(b.spec.Open))
	}
}

func (b *breaker) sum() (calls, failed int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls, b.failed
}

// BreakerOpen says that no call is let through.
func (u *Upstream) BreakerOpen() bool { return u.breaker.opened.Load() != 0 }
