package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

var (
	unresolved = reason.New(reason.Reason{
		Code: "upstream.unresolved", Status: 502,
		Title:  "The service behind this API cannot be found",
		Says:   "no address is known for upstream \"{upstream}\": {error}",
		Wanted: "a name that resolves",
		Seen:   "{error}",
		Fixes:  []reason.Fix{{By: reason.Operator, Text: "check the targets of upstream \"{upstream}\" and the name service[: {error}]"}, {By: reason.Caller, Text: "try again later"}},
		Hint:   "names are looked up every few seconds; the last answer was {error}",
	})
	unreachable = reason.New(reason.Reason{
		Code: "upstream.unreachable", Status: 502,
		Title:  "The service behind this API cannot be reached",
		Says:   "no connection to {target} of upstream \"{upstream}\": {error}",
		Wanted: "a connection to {target}",
		Seen:   "{error}",
		Fixes:  []reason.Fix{{By: reason.Operator, Text: "see whether something listens on {target} and a firewall lets this node through"}, {By: reason.Caller, Text: "try again later"}},
		Hint:   "[after {tries} tries ]the last error was {error}",
	})
	timedOut = reason.New(reason.Reason{
		Code: "upstream.timeout", Status: 504,
		Title:  "The service behind this API did not answer in time",
		Says:   "{target} of upstream \"{upstream}\" {did} within {limit}",
		Wanted: "{wanted_step} within {limit}",
		Seen:   "nothing for {waited}",
		Fixes:  []reason.Fix{{By: reason.Owner, Text: "see why {target} is slow, or raise {setting}"}, {By: reason.Caller, Text: "try again later[; the call may have had its effect: {unsafe}]"}},
		Hint:   "the time is set by {setting}",
	})
	broken = reason.New(reason.Reason{
		Code: "upstream.broken", Status: 502,
		Title:  "The service behind this API broke off",
		Says:   "{target} of upstream \"{upstream}\" {did}: {error}",
		Wanted: "a whole HTTP answer",
		Seen:   "{error}",
		Fixes:  []reason.Fix{{By: reason.Owner, Text: "see the log of {target} at that time"}, {By: reason.Caller, Text: "try again later[; the call may have had its effect: {unsafe}]"}},
		Hint:   "{connection}",
	})
	badTLS = reason.New(reason.Reason{
		Code: "upstream.tls", Status: 502,
		Title:  "The service behind this API has no valid certificate",
		Says:   "the TLS handshake with {target} of upstream \"{upstream}\" failed: {error}",
		Wanted: "a certificate for {server_name} of a known authority",
		Seen:   "{error}",
		Fixes:  []reason.Fix{{By: reason.Operator, Text: "set tls.ca or tls.serverName of upstream \"{upstream}\", or renew the certificate of {target}"}, {By: reason.Caller, Text: "try again later"}},
		Hint:   "{error}",
	})
	ejected = reason.New(reason.Reason{
		Code: "upstream.ejected", Status: 503,
		Title:  "The service behind this API is out of order",
		Says:   "all {count} targets of upstream \"{upstream}\" are out: {targets}",
		Wanted: "one target in rotation",
		Seen:   "{targets}",
		Fixes:  []reason.Fix{{By: reason.Operator, Text: "repair one of the targets[; the last error was {error}]"}, {By: reason.Caller, Text: "try again[ in {retry_after}]"}},
		Hint:   "ejection and health of the Upstream say when a target comes back",
	})
	breakerOpened = reason.New(reason.Reason{
		Code: "upstream.breaker-open", Status: 503,
		Title:  "The service behind this API fails too often",
		Says:   "{failed} of the last {calls} calls to upstream \"{upstream}\" failed, so none is sent for another {retry_after}",
		Wanted: "fewer than {rate} % failures among {calls} calls",
		Seen:   "{failed} of {calls} failed[; the last error was {error}]",
		Fixes:  []reason.Fix{{By: reason.Operator, Text: "repair the service[; the last error was {error}]"}, {By: reason.Caller, Text: "wait {retry_after}, then call again"}},
		Hint:   "breaker of the Upstream",
	})
	busy = reason.New(reason.Reason{
		Code: "upstream.overloaded", Status: 503,
		Title:  "The service behind this API is busy",
		Says:   "{target} of upstream \"{upstream}\" is at its limit of calls in flight, {limit}, and {queued} waited[; none ended within {waited}]",
		Wanted: "a free connection within {queue_for}",
		Seen:   "{limit} in flight, {queued} waiting[, no place free for {waited}]",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "try again in a moment"}, {By: reason.Operator, Text: "add targets, or raise connections.max of upstream \"{upstream}\""}},
		Hint:   "connections of the Upstream",
	})
)

func (u *Upstream) fact() reason.Fact { return reason.Rule("upstream", u.Name).At(u.Source) }

func (u *Upstream) nowhere(s *set) reason.Verdict {
	err := "not looked up yet"
	if s.problem != nil {
		err = s.problem.Error()
	}
	return unresolved.Refuse(u.fact(), reason.Rule("error", err))
}

// unreachable is the verdict on a connection that could not be opened.
func (t *Target) unreachable(err error) reason.Verdict {
	text := Plain(err)
	t.lastError.Store(&text)
	facts := []reason.Fact{t.up.fact(), reason.Rule("target", t.Address), reason.Rule("error", text)}
	var ne net.Error
	switch {
	case errors.As(err, &ne) && ne.Timeout() || errors.Is(err, context.DeadlineExceeded):
		limit := time.Duration(t.up.Spec.Timeouts.Connect)
		did := "took no connection"
		if isTLS(err) {
			did = "did not end its TLS handshake"
		}
		return timedOut.Refuse(append(facts, reason.Rule("did", did), reason.Rule("wanted_step", "a connection"),
			reason.Rule("limit", limit), reason.Rule("waited", limit), reason.Rule("setting", t.setting("connect")))...)
	case isTLS(err):
		return badTLS.Refuse(append(facts, reason.Rule("server_name", t.tlsConfig().ServerName))...)
	}
	return unreachable.Refuse(facts...)
}

// Stage is how far a try had come when it failed.
type Stage uint8

// The stages.
const (
	Sending   Stage = iota // the request
	Awaiting               // the head of the answer
	Receiving              // its content
)

// Failure is how a try ended before its time.
type Failure struct {
	Err   error
	Stage Stage
	// Limit is what ran out, if it was time; ByRoute says that the route sets it.
	Limit   time.Duration
	ByRoute bool
	Reused  bool // the connection had carried calls before
	Unsafe  bool // the call must not be repeated blindly
}

// setting names a timeout of the upstream.
func (t *Target) setting(field string) string {
	return "timeouts." + field + " of upstream \"" + t.up.Name + "\""
}

// FailedBy is the verdict on a try that failed. It says nothing about a client that left.
func (t *Target) FailedBy(f Failure) reason.Verdict {
	var dial *dialError
	if errors.As(f.Err, &dial) {
		return t.unreachable(dial.err)
	}
	err, stage := f.Err, f.Stage
	text := Plain(err)
	t.lastError.Store(&text)
	facts := []reason.Fact{t.up.fact(), reason.Rule("target", t.Address), reason.Rule("error", text)}
	if f.Unsafe {
		facts = append(facts, reason.Own("unsafe", "look before you repeat it"))
	}
	if errors.Is(err, wire.ErrTimeout) {
		did, step, field := "took nothing of the request", "progress", "idle"
		switch stage {
		case Awaiting:
			did, step, field = "did not begin to answer", "the head of an answer", "firstByte"
		case Receiving:
			did = "paused within its answer"
		}
		setting := t.setting(field)
		if f.ByRoute {
			setting = "timeout of the route"
		}
		return timedOut.Refuse(append(facts, reason.Rule("did", did), reason.Rule("wanted_step", step), reason.Rule("limit", f.Limit),
			reason.Rule("waited", f.Limit), reason.Rule("setting", setting))...)
	}
	did := [...]string{"closed while it was sent the request", "closed without an answer", "closed within its answer"}[stage]
	var fault *wire.Fault
	switch {
	case errors.As(err, &fault):
		did = "answered what is no HTTP"
		facts = append(facts, reason.Rule("rule", string(fault.Rule)))
	case stage == Awaiting && errors.Is(err, io.ErrUnexpectedEOF):
		did = "closed within the head of its answer"
	}
	connection := "the connection was new"
	if f.Reused {
		connection = "the connection had been kept open since an earlier call; a target that closes idle connections sooner than connections.idleFor causes this"
	}
	v := broken.Refuse(append(facts, reason.Rule("did", did), reason.Rule("connection", connection))...)
	if fault != nil && fault.Rule == wire.NotHTTP {
		return v.Fix(reason.Owner, "see what listens on {target}; the gateway needs {needs}", reason.Rule("needs", fault.Wanted))
	}
	return v
}

// overloaded is the verdict on a call that found the queue full, or waited in it in vain.
func (t *Target) overloaded(queued int, waited time.Duration) reason.Verdict {
	c := t.up.Spec.Connections
	facts := []reason.Fact{t.up.fact(), reason.Rule("target", t.Address), reason.Rule("limit", c.Max), reason.Rule("queued", queued),
		reason.Rule("queue_for", time.Duration(c.QueueFor))}
	if waited > 0 {
		facts = append(facts, reason.Rule("waited", waited))
	}
	return busy.Refuse(facts...)
}

// mostTold is how many targets one refusal names.
const mostTold = 10

func (u *Upstream) allOut(s *set, now time.Time) reason.Verdict {
	var list []string
	var last string
	var soonest time.Duration
	for _, t := range s.targets {
		state := "of weight 0"
		if until := t.ejectedUntil.Load() - mono(now); until > 0 {
			d := time.Duration(until)
			state = "ejected for another " + reason.Span(d.Round(time.Second))
			if soonest == 0 || d < soonest {
				soonest = d
			}
		} else if t.down.Load() {
			state = "down by its health check"
		}
		if e := t.LastError(); e != "" {
			state += " (" + strings.TrimPrefix(e, asked) + ")"
			last = e
		}
		list = append(list, t.Address+" is "+state)
	}
	if n := len(list); n > mostTold {
		list = append(list[:mostTold], fmt.Sprintf("%d more are out as well", n-mostTold))
	}
	facts := []reason.Fact{u.fact(), reason.Rule("count", len(s.targets)), reason.Rule("targets", strings.Join(list, "; "))}
	if last != "" {
		facts = append(facts, reason.Rule("error", last))
	}
	if soonest > 0 {
		facts = append(facts, reason.Public("retry_after", (soonest+time.Second-1).Truncate(time.Second)))
	}
	return ejected.Refuse(facts...)
}

func (u *Upstream) breakerOpen(wait time.Duration) reason.Verdict {
	calls, failed := u.breaker.sum()
	facts := []reason.Fact{u.fact(), reason.Rule("calls", calls), reason.Rule("failed", failed), reason.Rule("rate", u.Spec.Breaker.Rate),
		reason.Public("retry_after", max(wait, time.Millisecond).Round(time.Millisecond))}
	for _, t := range u.targets.Load().targets {
		if e := t.lastError.Load(); e != nil {
			facts = append(facts, reason.Rule("error", *e))
			break
		}
	}
	return breakerOpened.Refuse(facts...)
}

// Plain says what went wrong without Go's chain of wrapped calls.
func Plain(err error) string {
	var dns *net.DNSError
	var sys syscall.Errno
	var f *wire.Fault
	switch {
	case errors.As(err, &f):
		return f.Text
	case errors.As(err, &dns):
		return fmt.Sprintf("looking up %s: %s", dns.Name, dns.Err)
	case errors.Is(err, wire.ErrTimeout), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.As(err, &sys):
		return sys.Error()
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed in the middle of an answer"
	case errors.Is(err, io.EOF):
		return "the connection was closed"
	}
	return err.Error()
}
