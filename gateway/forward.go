package gateway

import (
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/upstream"
	"github.com/whygate/whygate/wire"
)

// maxInformed bounds informational answers to one call; more is a flood.
const maxInformed = 16

// maxTries is Retries.Attempts at its largest, and one.
const maxTries = 11

// hop is the exchange with one target while it goes on.
type hop struct {
	t    *upstream.Target
	trip upstream.Trip
	up   *upload // nil when the content went out with the head
}

// forward sends the call to a target, again if it may, and relays the answer.
func (c *call) forward() {
	u := c.route.Upstream
	c.rec.Upstream = u.Name
	content, whole := c.wholeContent()
	c.buildRequest()
	hash := uint64(0)
	if u.Spec.Balance.By == "hash" {
		hash = c.hashOn(u.Spec.Balance.HashOn)
	}
	var tried [maxTries]*upstream.Target
	now := c.w.Start.Add(c.rec.Decide)
	for n := 0; ; n++ {
		t, v := u.Pick(now, hash, tried[:n])
		if v.Refused() {
			c.upstreamFailed(v)
			return
		}
		c.rec.Tries++
		c.rec.Target = t.Address
		more := n < u.Spec.Retries.Attempts
		again := c.try(now, t, content, whole, false, more)
		if again == stale {
			again = c.try(now, t, content, whole, true, more)
		}
		if again == done {
			return
		}
		tried[n] = t
		c.rec.Flags |= calllog.Retried
		now = time.Now()
	}
}

// outcome says how forward goes on after a try.
type outcome uint8

const (
	done  outcome = iota // the call is answered
	retry                // another target may be tried
	stale                // the kept connection was dead: the same target again, on a new one
)

// wholeContent takes the request's content if all of it is here already: then it is sent with the
// head, and can be sent again.
func (c *call) wholeContent() (content []byte, whole bool) {
	if b, ok := c.x.Replaced(); ok {
		return b, true
	}
	if c.content.read {
		return c.content.bytes, true
	}
	if len(c.content.bytes) > 0 || !c.w.Whole() {
		return nil, false
	}
	piece, _, err := c.w.Next()
	if err != nil {
		return nil, false
	}
	c.pieceIn = int64(len(piece))
	return piece, true
}

// try sends the call to one target. fresh demands a new connection; more says that the call
// has tries left.
func (c *call) try(now time.Time, t *upstream.Target, content []byte, whole, fresh, more bool) outcome {
	safe := idempotent(c.x.Method)
	trip, reused, v := t.Acquire(now, fresh)
	if v.Refused() { // nothing was sent, so any method may go elsewhere
		if more && c.inTime() && t.Upstream().MayRetry(now) {
			return retry
		}
		c.upstreamFailed(v)
		return done
	}
	o := &c.out
	c.address(o, t)
	spec := &t.Upstream().Spec
	c.hop = hop{t: t, trip: trip}
	c.w.Bind(trip)
	f := upstream.Failure{Stage: upstream.Sending, Limit: time.Duration(spec.Timeouts.Idle), Reused: reused, Unsafe: !safe}
	wait, byRoute := c.patience(spec)
	var err error
	sent := false
	if whole {
		sent, err = trip.Exchange(o, content, f.Limit, wait)
	} else if err = trip.Send(o, nil, f.Limit); err == nil {
		sent = true
		c.w.Continue()
		c.hop.up = c.startUpload(trip, wait)
		err = trip.ReadHead(o.Method, 0) // the upload begins the wait when it ends
	}
	if sent {
		f.Stage, f.Limit, f.ByRoute = upstream.Awaiting, wait, byRoute
	}
	if !whole {
		wait = 0
	}
	for n := 0; err == nil && trip.Head().Status < 200 && trip.Head().Status != 101; n++ {
		if n == maxInformed {
			err = &wire.Fault{Rule: "informational-flood", Text: "more than " + strconv.Itoa(maxInformed) + " informational answers"}
			break
		}
		if s := trip.Head().Status; s != 100 {
			c.w.Inform(s, relayable(trip.Head().Fields))
		}
		err = trip.ReadHead(o.Method, wait)
	}
	if err != nil {
		f.Err = err
		return c.tryFailed(f, whole, more)
	}
	status := trip.Head().Status
	if more && whole && (safe || spec.Retries.NonIdempotent) && retryStatus(spec, status) && c.inTime() && t.Upstream().MayRetry(now) {
		c.unbind()
		t.Report(now, false)
		return retry
	}
	c.rec.Wait = time.Since(c.w.Start)
	if status == 101 {
		c.tunnel()
		return done
	}
	t.Report(now, !upstream.FailedStatus(status))
	c.relay()
	return done
}

// patience is how long the head of an answer may take from the end of the request, and whether
// it is the route that says so. gRPC streams may be silent for as long as the service likes.
func (c *call) patience(spec *resource.Upstream) (wait time.Duration, byRoute bool) {
	if c.isGRPC() {
		return time.Duration(spec.Timeouts.Stream), false
	}
	wait = time.Duration(spec.Timeouts.FirstByte)
	if limit := c.route.Timeout; limit > 0 {
		if left := max(limit-time.Since(c.w.Start), 10*time.Millisecond); left < wait {
			return left, true
		}
	}
	return wait, false
}

// overdue says that a client of gRPC has given up by the deadline it sent along. Its service has
// too, often before the client's word comes, and is not to blame.
func (c *call) overdue() bool {
	if !c.isGRPC() {
		return false
	}
	v, ok := c.x.Fields.Lookup("Grpc-Timeout")
	if !ok || len(v) < 2 || len(v) > 9 {
		return false
	}
	n, err := strconv.ParseInt(v[:len(v)-1], 10, 64)
	unit := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': 1}[v[len(v)-1]]
	return err == nil && unit > 0 && time.Since(c.w.Start)/unit >= time.Duration(n)
}

// inTime says that the route's timeout has not run out.
func (c *call) inTime() bool {
	return c.route.Timeout <= 0 || time.Since(c.w.Start) < c.route.Timeout
}

func retryStatus(spec *resource.Upstream, status int) bool {
	for _, s := range spec.Retries.Statuses {
		if s == status {
			return true
		}
	}
	return false
}

// idempotent methods may be repeated (RFC 9110 §9.2.2).
func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// tryFailed decides what becomes of a try that got no answer.
func (c *call) tryFailed(f upstream.Failure, whole, more bool) outcome {
	t := c.hop.t
	received := c.hop.trip.Received()
	intact := whole || c.hop.up == nil // the content can be sent once more
	if c.unbindFailed(&f) {
		return done
	}
	if upstream.NotSent(f.Err) {
		f.Stage = upstream.Sending
	}
	// A kept connection that the target closed while it was idle says nothing about the
	// target: the request goes out once more on a new one.
	if f.Reused && !received && intact && !errors.Is(f.Err, wire.ErrTimeout) && (!f.Unsafe || f.Stage == upstream.Sending) {
		t.Unreport()
		return stale
	}
	now := time.Now()
	t.Report(now, false)
	repeatable := !f.Unsafe || f.Stage == upstream.Sending || c.route.Upstream.Spec.Retries.NonIdempotent
	if errors.Is(f.Err, wire.ErrTimeout) && len(c.route.Upstream.Targets()) == 1 {
		repeatable = false // who was too slow would get the same work twice, and the client wait twice as long
	}
	if !received && intact && repeatable && more && c.inTime() && t.Upstream().MayRetry(now) {
		return retry
	}
	c.upstreamFailed(t.FailedBy(f))
	return done
}

// unbindFailed ends a try that failed before anything was sent to the client. It reports true
// when that was the client's doing, and the call has been dealt with.
func (c *call) unbindFailed(f *upstream.Failure) bool {
	t, up := c.hop.t, c.hop.up
	gone := c.unbind()
	switch {
	case up != nil && up.verdict.Refused(): // the request itself was at fault
		t.Unreport()
		c.refuseBody(up)
		return true
	case up != nil && up.panicked:
		t.Unreport()
		c.head.Close = true
		c.refuse(panicked.Refuse(reason.Inner("panic", up.panic)))
		return true
	case gone || c.w.Gone() || c.overdue() || up != nil && up.clientLeft:
		t.Unreport()
		c.clientGone()
		return true
	case up != nil && errors.Is(up.err, wire.ErrTimeout):
		f.Err, f.Stage, f.Limit, f.ByRoute = up.err, upstream.Sending, time.Duration(t.Upstream().Spec.Timeouts.Idle), false
	}
	return false
}

// refuseBody answers a request whose content turned out to be wrong on its way.
func (c *call) refuseBody(up *upload) {
	c.head.Close = true // what follows in the connection cannot be told from the rest of the body
	step := -1
	if up.tooLarge {
		_, step = c.bound()
	}
	c.refuseAt(step, up.verdict)
}

// bound is the policy size that allows this call the least content, and its step; nil and -1 if none
// bounds it.
func (c *call) bound() (least *policy.SizeCheck, step int) {
	step = -1
	for i := range c.route.Steps {
		s := &c.route.Steps[i]
		if b, ok := s.Check.(*policy.SizeCheck); ok && b.Body >= 0 && (least == nil || b.Body < least.Body) && !s.Watches(&c.x) {
			least, step = b, i
		}
	}
	return least, step
}

var clientLeft = reason.New(reason.Reason{
	Code: "client.gone", Status: reason.StatusClientGone,
	Title:  "The client left before it was answered",
	Says:   "the client closed its connection after {waited}, before the upstream had answered",
	Wanted: "a client that waits for the answer",
	Seen:   "a closed connection after {waited}",
	Fixes:  []reason.Fix{{By: reason.Caller, Text: "wait longer than {waited}: a timeout of the client or of a proxy before the gateway is the usual cause"}},
	Hint:   "HTTP clients never see this; it is in the records only",
})

// clientGone records a call whose client did not wait. There is nobody to answer, as a rule.
func (c *call) clientGone() {
	v := clientLeft.Refuse(reason.Own("waited", time.Since(c.w.Start).Round(time.Millisecond)))
	c.rec.Status, c.rec.Outcome, c.rec.Reason = reason.StatusClientGone, calllog.Failed, clientLeft.Code
	c.rec.Flags |= calllog.ClientGone
	if !c.w.Gone() && c.overdue() { // it hears in the same moment what it has found out itself
		c.failed(v)
		return
	}
	c.detail.Verdict = &v
	c.record()
	c.w.Abort()
}

// unbind ends a try: it stops the upload, gives the connection back and reports whether the client left.
func (c *call) unbind() (gone bool) {
	gone = c.w.Unbind()
	spoiled := gone
	if c.hop.up != nil && !c.settle() {
		spoiled = true
	}
	c.hop.t.Release(c.hop.trip, spoiled)
	c.hop = hop{}
	return gone
}

// unbindBroken ends an exchange whose connection cannot be used again.
func (c *call) unbindBroken() {
	c.w.Unbind()
	c.hop.trip.Interrupt()
	if c.hop.up != nil {
		c.settle()
	}
	c.hop.t.Release(c.hop.trip, true)
	c.hop = hop{}
}

// lastWrite is how long an upload may go on when the answer is complete and the client has sent everything.
const lastWrite = 100 * time.Millisecond

// settle waits for the end of the upload, and hastens it where the answer came before all was
// sent. It reports whether the upstream got everything.
func (c *call) settle() bool {
	up, trip := c.hop.up, c.hop.trip
	if up.read.Load() && !up.sent.Load() { // the last piece is being written, as a rule
		t := time.NewTimer(lastWrite)
		select {
		case <-up.done:
		case <-t.C:
		}
		t.Stop()
	}
	if !up.sent.Load() {
		up.stopped.Store(true)
		trip.Interrupt()
		if !up.read.Load() {
			c.w.StopReading()
		}
	}
	<-up.done
	c.pieceIn = up.bytes.Load()
	if up.panicked {
		c.amend(calllog.Panicked)
	}
	return up.sent.Load()
}

// upload sends content that did not arrive with the head. It runs beside the reading of the
// answer, since an upstream may answer before it has read everything.
type upload struct {
	done    chan struct{}
	bytes   atomic.Int64
	read    atomic.Bool // the client has sent everything
	sent    atomic.Bool // and the upstream has been given it
	stopped atomic.Bool // by settle: reading fails then, and the client has not left

	mu       sync.Mutex // guards answered
	answered bool

	// What ended it early; to be read after done.
	verdict    reason.Verdict // what was wrong with the request
	tooLarge   bool           // that is, its size
	clientLeft bool
	err        error // of sending
	panicked   bool
	panic      string // its text
}

func (c *call) startUpload(trip upstream.Trip, wait time.Duration) *upload {
	u := &upload{done: make(chan struct{})}
	bound, _ := c.bound()
	begun := c.content.bytes // what a check has read that only watches
	go func() {
		defer close(u.done)
		defer func() { // a panic here would end the node: Serve's recover is for its own goroutine
			if p := recover(); p != nil {
				u.panicked, u.panic = true, c.logPanic(p)
				trip.Interrupt()
			}
		}()
		for {
			var last bool
			var err error
			piece := begun
			if begun = nil; len(piece) == 0 {
				piece, last, err = c.w.Next()
			}
			if err != nil {
				u.blame(err)
				trip.Interrupt()
				return
			}
			n := u.bytes.Add(int64(len(piece)))
			if bound != nil && n > bound.Body {
				u.verdict, u.tooLarge = bound.TooLarge(&c.x, n), true
				trip.Interrupt()
				return
			}
			u.read.Store(last)
			if err = trip.Write(piece); err == nil && last {
				err = trip.EndBody(c.w.Trailer())
			}
			switch {
			case errors.Is(err, wire.ErrTimeout):
				u.err = err
				trip.Interrupt()
				return
			case err != nil: // it may have answered before it stopped reading
				u.await(trip, wait)
				return
			case last:
				u.sent.Store(true)
				u.await(trip, wait)
				return
			}
		}
	}()
	return u
}

// blame says what an error of reading the content means.
func (u *upload) blame(err error) {
	var f *wire.Fault
	switch {
	case errors.As(err, &f):
		u.verdict = malformed(f)
	case errors.Is(err, io.ErrUnexpectedEOF):
		u.verdict = malformed(&wire.Fault{Rule: wire.BodyCutShort, Wanted: "the whole body", Text: "the client closed within the body"})
	default:
		u.clientLeft = !u.stopped.Load()
	}
}

// await begins the wait for the answer, unless that has come already: then other bounds hold.
func (u *upload) await(trip upstream.Trip, wait time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.answered {
		trip.Await(wait)
	}
}

// answer notes that the head of the answer has come.
func (u *upload) answer() {
	u.mu.Lock()
	u.answered = true
	u.mu.Unlock()
}

// relay passes the upstream's answer on to the client.
func (c *call) relay() {
	t, trip, up := c.hop.t, c.hop.trip, c.hop.up
	spec := &t.Upstream().Spec
	res := trip.Head()
	c.rec.Status = uint16(res.Status)
	c.rec.Outcome = calllog.Allowed
	kind := res.Fields.Get(wire.ContentType)
	stream := isEventStream(kind) || isGRPCType(kind)
	pause := time.Duration(spec.Timeouts.Idle)
	if stream {
		pause = time.Duration(spec.Timeouts.Stream)
	}
	if up != nil {
		up.answer()
	}
	trip.SetTimeout(pause)
	h := &c.head
	if c.x.Store != nil && res.Status == 304 && c.keptAnswer(res) {
		return
	}
	if c.x.Store != nil && (res.Status == 500 || res.Status >= 502 && res.Status <= 504) && c.keptInstead(res.Status, "it answered "+strconv.Itoa(res.Status)) {
		return
	}
	c.buildAnswer(h, res)
	refused := res.Status >= 400
	if refused {
		c.rec.Outcome = calllog.Relayed
		h.Fields.Add("Whygate-Refused-By", "upstream")
	}
	// The first piece, if it is here or must come soon: while nothing was sent, a broken
	// answer can still become a whole refusal, and a refusal says in its body who wrote it.
	var piece []byte
	var last bool
	var err error
	if trip.Buffered() || res.Length == 0 || (res.Length > 0 || refused) && !stream {
		if piece, last, err = trip.Next(); err != nil {
			f := upstream.Failure{Err: err, Stage: upstream.Receiving, Limit: pause, Unsafe: !idempotent(c.x.Method)}
			if c.unbindFailed(&f) {
				return
			}
			t.Report(time.Now(), false)
			c.upstreamFailed(t.FailedBy(f))
			return
		}
	}
	if refused {
		c.attribute(res, piece)
	}
	pieceRead := last || len(piece) > 0
	if known := h.Length; last { // filters like to know how much it is
		h.Length = int64(len(piece))
		if c.contentless(h) {
			h.Length = known
		}
		err = c.filter(h)
		if len(c.filters) == 0 && h.Length >= 0 {
			h.Length = known
		}
	} else {
		err = c.filter(h)
	}
	if err != nil {
		c.unchanged(err, last)
		return
	}
	c.rec.Status = uint16(h.Status)
	switch {
	case len(c.filters) > 0 && (pieceRead || !stream): // the head of a stream goes ahead of its first event
		// Nothing is sent before a filter has let something out: if it fails at what it has to see as a
		// whole, the client gets a refusal and not a part.
		if piece, last, err = c.firstChanged(h, piece, last, pieceRead); err != nil {
			var filter errFilter
			if errors.As(err, &filter) {
				c.unchanged(err, last)
				return
			}
			f := upstream.Failure{Err: err, Stage: upstream.Receiving, Limit: pause, Unsafe: !idempotent(c.x.Method)}
			if c.unbindFailed(&f) {
				return
			}
			t.Report(time.Now(), false)
			c.failed(t.FailedBy(f))
			return
		}
	case pieceRead:
		c.keep(piece, last)
	}
	// An answer before the end of the request: what is left of that will not be read.
	h.Close = h.Close || up != nil && !up.read.Load()
	c.w.Respond(h)
	c.afterRelay(c.copyContent(piece, last), stream, pause)
}

// keptAnswer gives what a store keeps, since the upstream says that it still holds.
func (c *call) keptAnswer(res *wire.Response) bool {
	c.passOn(&c.head, res)
	a := c.x.Store.NotModified(&c.x, &c.head)
	if a == nil {
		return false
	}
	c.unbind()
	c.x.Answer = a
	c.answerItself()
	return true
}

// upstreamFailed answers a call that got no answer of the upstream: with what a store keeps, or a refusal.
func (c *call) upstreamFailed(v reason.Verdict) {
	if c.x.Store != nil && c.keptInstead(0, v.Reason.Code) {
		return
	}
	c.failed(v)
}

// keptInstead gives what a store keeps, since the upstream failed.
func (c *call) keptInstead(status int, why string) bool {
	a := c.x.Store.Failed(&c.x, status, why)
	if a == nil {
		return false
	}
	if c.hop.trip != nil { // what follows of its answer is not read
		c.unbindBroken()
	}
	c.x.Answer = a
	c.answerItself()
	return true
}

// unchanged refuses an answer that a filter could not change, before any of it was sent. whole says
// that all of it was read.
func (c *call) unchanged(err error, whole bool) {
	c.head.Close = c.hop.up != nil && !c.hop.up.read.Load()
	if whole {
		c.unbind()
	} else {
		c.unbindBroken()
	}
	c.failed(c.notTransformed(err))
}

// keep shows a piece of the upstream's content to the store.
func (c *call) keep(piece []byte, last bool) {
	if c.x.Store != nil {
		c.x.Store.Piece(piece, last)
	}
}

// firstChanged runs content through the filters until some of it comes out. If that is all of it,
// the answer gets a length.
func (c *call) firstChanged(h *wire.Head, piece []byte, last, read bool) ([]byte, bool, error) {
	trip := c.hop.trip
	for {
		if read {
			c.keep(piece, last)
			out, err := c.transform(piece, last, !trip.Buffered())
			if err != nil {
				return nil, last, err
			}
			if last && len(trip.Trailer()) == 0 {
				h.Length = int64(len(out))
			}
			if last || len(out) > 0 {
				return out, last, nil
			}
		}
		var err error
		if piece, last, err = trip.Next(); err != nil {
			return nil, false, err
		}
		read = true
	}
}

// errClient wraps an error of writing to the client.
type errClient struct{ error }

// copyContent writes the content piece by piece, the first of which has been through the filters. What
// comes later than its predecessor is sent at once; the record is written before the last piece.
func (c *call) copyContent(piece []byte, last bool) error {
	trip, up := c.hop.trip, c.hop.up
	for {
		c.rec.BytesOut += int64(len(piece))
		if last {
			if up != nil {
				c.pieceIn = up.bytes.Load()
			}
			c.record()
			if err := c.w.Write(piece); err != nil {
				return errClient{err}
			}
			trailer := relayable(trip.Trailer())
			if len(c.filters) > 0 {
				trailer = policy.ChangedTrailer(trailer)
			}
			if err := c.w.End(trailer); err != nil {
				return errClient{err}
			}
			return nil
		}
		if err := c.w.Write(piece); err != nil {
			return errClient{err}
		}
		if !trip.Buffered() {
			if err := c.w.Flush(); err != nil {
				return errClient{err}
			}
			c.rec.Flags |= calllog.Streamed
		}
		var err error
		if piece, last, err = trip.Next(); err != nil {
			return err
		}
		c.keep(piece, last)
		if len(c.filters) > 0 {
			if piece, err = c.transform(piece, last, !trip.Buffered()); err != nil {
				return err
			}
		}
	}
}

// afterRelay ends an exchange whose answer has begun.
func (c *call) afterRelay(err error, stream bool, pause time.Duration) {
	t, up := c.hop.t, c.hop.up
	if err == nil {
		c.unbind()
		return
	}
	gone := c.w.Gone() || c.overdue()
	c.unbindBroken()
	var client errClient
	switch {
	case up != nil && up.verdict.Refused(): // the answer came first, then the fault in the request
		c.detail.Verdict = &up.verdict
		c.rec.Outcome, c.rec.Reason = calllog.Refused, up.verdict.Reason.Code
		c.rec.Flags |= calllog.Truncated
		c.record()
		c.w.Abort()
		return
	case up != nil && up.panicked:
		v := panicked.Refuse(reason.Inner("panic", up.panic))
		c.brokenOff(&v)
		c.record()
		c.w.Abort()
		return
	case gone || errors.As(err, &client) || errors.Is(err, wire.ErrInterrupted):
		c.amend(calllog.ClientGone)
		c.record()
		if client.error == nil && !c.w.Gone() && c.overdue() {
			var tr wire.Fields
			tr.Put(wire.GRPCStatus, strconv.Itoa(grpcCode(reason.StatusClientGone)))
			c.w.End(tr)
			return
		}
		c.w.Abort()
		return
	}
	// The upstream broke off. The client has a part; it must not take it for the whole.
	var v reason.Verdict
	var filter errFilter
	if errors.As(err, &filter) {
		v = c.notTransformed(filter)
	} else {
		t.Report(time.Now(), false)
		v = t.FailedBy(upstream.Failure{Err: err, Stage: upstream.Receiving, Limit: pause})
	}
	c.brokenOff(&v)
	told := v.Tell(c.tier())
	switch {
	case c.isGRPC():
		c.record()
		var tr wire.Fields
		tr.Put(wire.GRPCStatus, strconv.Itoa(grpcCode(v.Reason.Status)))
		tr.Add("Grpc-Message", grpcEscape(told.Says))
		c.w.End(tr)
	case stream:
		event := "\n\nevent: error\ndata: " + strings.ReplaceAll(strings.TrimSpace(string(c.problem(told, v.Reason.Status))), "\n", "\ndata: ") + "\n\n"
		c.rec.BytesOut += int64(len(event))
		c.record()
		c.w.Write([]byte(event))
		c.w.End(nil)
	default:
		c.record()
		c.w.Flush()
		c.w.Abort()
	}
}

// brokenOff notes why an answer that had begun was not brought to its end.
func (c *call) brokenOff(v *reason.Verdict) {
	c.detail.Verdict = v
	c.rec.Outcome, c.rec.Reason = calllog.Failed, v.Reason.Code
	c.rec.Flags |= calllog.Truncated
	if c.stats != nil {
		c.stats.Refused(v.Reason.Code)
	}
}

func isEventStream(contentType string) bool {
	return len(contentType) >= 17 && wire.EqualFold(contentType[:17], "text/event-stream")
}

// tunnel joins both connections after a protocol upgrade.
func (c *call) tunnel() {
	t, trip := c.hop.t, c.hop.trip
	res := trip.Head()
	h := &c.head
	c.buildAnswer(h, res)
	h.Fields.Put(wire.Upgrade, res.Upgrade)
	h.Length = 0
	f := upstream.Failure{Err: &wire.Fault{Rule: "upgrade", Text: "101 without an upgrade that was asked for"}, Stage: upstream.Awaiting, Unsafe: true}
	if res.Upgrade == "" || c.out.Upgrade == "" {
		if !c.unbindFailed(&f) {
			t.Report(time.Now(), false)
			c.failed(t.FailedBy(f))
		}
		return
	}
	c.w.Unbind()
	up, pre := trip.Tunnel()
	c.hop = hop{}
	defer t.ReleaseTunnel()
	defer up.Close()
	t.Report(time.Now(), true)
	c.rec.Status, c.rec.Outcome = 101, calllog.Allowed
	c.rec.Flags |= calllog.Upgraded
	c.w.Respond(h)
	client, sent, err := c.w.Tunnel()
	if err != nil {
		c.rec.Flags |= calllog.ClientGone
		c.record()
		return
	}
	defer client.Close()
	if len(pre) > 0 {
		if _, err = client.Write(pre); err == nil {
			c.rec.BytesOut += int64(len(pre))
		}
	}
	if err == nil {
		var in, out int64
		in, out, _ = wire.Relay(client, up, sent, time.Duration(c.snap.Gateway.Timeouts.Tunnel))
		c.pieceIn, c.rec.BytesOut = in, c.rec.BytesOut+out
	}
	c.record()
}
