package gateway

import (
	"errors"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/upstream"
	"github.com/whygate/whygate/wire"
)

// maxInformed bounds informational answers to one call; more is a flood.
const maxInformed = 16

// maxTries is Retries.Attempts at its largest, and one.
const maxTries = 11

// forward sends the call to a target, again if it may, and relays the answer.
func (c *call) forward() {
	u := c.route.Upstream
	c.rec.Upstream = u.Name
	content, whole := c.content()
	c.buildRequest()
	hash := uint64(0)
	if u.Spec.Balance.By == "hash" {
		hash = c.hashOn(u.Spec.Balance.HashOn)
	}
	var tried [maxTries]*upstream.Target
	fresh := false
	for n := 0; ; {
		t, v := u.Pick(c.w.Start, hash, tried[:n])
		if v.Refused() {
			c.failed(v)
			return
		}
		c.rec.Tries++
		c.rec.Target = t.Address
		again := c.try(t, content, whole, fresh, n < u.Spec.Retries.Attempts)
		switch again {
		case done:
			return
		case stale: // an idle connection had been closed: the same target, anew, at no charge
			fresh = true
			c.rec.Tries--
			continue
		}
		tried[n] = t
		n++
		fresh = false
		c.rec.Flags |= calllog.Retried
	}
}

// outcome says how forward goes on after a try.
type outcome uint8

const (
	done  outcome = iota // the call is answered
	retry                // another target may be tried
	stale                // the connection was dead before it was used
)

// content takes the request's content if all of it is here already: then it is sent with the
// head, and can be sent again.
func (c *call) content() (content []byte, whole bool) {
	if !c.w.Whole() {
		return nil, false
	}
	piece, _, err := c.w.Next()
	if err != nil {
		return nil, false
	}
	c.pieceIn = int64(len(piece))
	return piece, true
}

// try sends the call to one target.
func (c *call) try(t *upstream.Target, content []byte, whole, fresh, mayRetry bool) outcome {
	now := time.Now()
	safe := idempotent(c.x.Method)
	trip, reused, v := t.Acquire(now, fresh, safe && whole)
	if v.Refused() { // nothing was sent, so any method may go elsewhere
		if mayRetry && t.Upstream().MayRetry(now) {
			return retry
		}
		c.failed(v)
		return done
	}
	o := &c.out
	c.address(o, t)
	spec := &t.Upstream().Spec
	c.w.Bind(trip)
	var up *upload
	var err error
	stage := upstream.Sending
	timeout := time.Duration(spec.Timeouts.FirstByte)
	if limit := c.route.Timeout; limit > 0 {
		timeout = min(timeout, max(limit-time.Since(c.w.Start), 10*time.Millisecond))
	}
	if whole {
		if err = trip.Send(o, content, time.Duration(spec.Timeouts.Idle)); err == nil {
			stage = upstream.Awaiting
			err = trip.ReadHead(o.Method, timeout)
		}
	} else {
		if err = trip.Send(o, nil, time.Duration(spec.Timeouts.Idle)); err == nil {
			c.w.Continue()
			up = c.startUpload(trip, timeout)
			stage = upstream.Awaiting
			err = trip.ReadHead(o.Method, 0)
		}
	}
	for n := 0; err == nil && trip.Head().Status < 200 && trip.Head().Status != 101; n++ {
		if n == maxInformed {
			err = &wire.Fault{Rule: "informational-flood", Text: "more than " + strconv.Itoa(maxInformed) + " informational answers"}
			break
		}
		if s := trip.Head().Status; s != 100 {
			c.w.Inform(s, relayable(trip.Head().Fields))
		}
		err = trip.ReadHead(o.Method, timeout)
	}
	if err == nil && mayRetry && whole && retryStatus(spec, trip.Head().Status) && (safe || spec.Retries.NonIdempotent) && t.Upstream().MayRetry(now) {
		c.unbind(t, trip, up)
		t.Report(now, false)
		return retry
	}
	if err != nil {
		return c.tryFailed(t, trip, up, err, stage, timeout, reused, whole, safe, mayRetry)
	}
	c.rec.Wait = time.Since(c.w.Start)
	if trip.Head().Status == 101 {
		c.tunnel(t, trip)
		return done
	}
	t.Report(now, !upstream.FailedStatus(trip.Head().Status))
	c.relay(t, trip, up)
	return done
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
func (c *call) tryFailed(t *upstream.Target, trip upstream.Trip, up *upload, err error, stage upstream.Stage, timeout time.Duration, reused, whole, safe, mayRetry bool) outcome {
	received := trip.Received()
	gone := c.unbind(t, trip, up)
	now := time.Now()
	if up != nil && up.verdict.Refused() { // the request itself was at fault
		c.rec.Outcome, c.rec.Reason = calllog.Refused, up.verdict.Reason.Code
		c.head.Close = true // what follows in the connection cannot be told from the rest of the body
		c.write(up.verdict, up.verdict.Reason.Status)
		return done
	}
	if gone || c.w.Gone() {
		c.clientGone()
		return done
	}
	// A kept connection that the target closed while it was idle says nothing about the
	// target: the request goes out once more on a new one.
	if reused && !received && whole && !errors.Is(err, wire.ErrTimeout) && (safe || stage == upstream.Sending) {
		return stale
	}
	t.Report(now, false)
	repeatable := whole && !received && (safe || c.route.Upstream.Spec.Retries.NonIdempotent || stage == upstream.Sending)
	if repeatable && mayRetry && t.Upstream().MayRetry(now) {
		return retry
	}
	c.failed(t.FailedBy(err, stage, timeout, reused, !safe))
	return done
}

var clientLeft = reason.New(reason.Reason{
	Code: "client.gone", Status: reason.StatusClientGone,
	Title:  "The client left before it was answered",
	Says:   "the client closed its connection after {waited}, before the upstream had answered",
	Wanted: "a client that waits for the answer",
	Seen:   "a closed connection after {waited}",
	Fixes:  []reason.Fix{{By: reason.Caller, Text: "wait longer than {waited}: a timeout of the client or of a proxy before the gateway is the usual cause"}},
	Hint:   "this never reaches the client; it is in the records only",
})

// clientGone records a call whose client did not wait. There is nobody to answer.
func (c *call) clientGone() {
	v := clientLeft.Refuse(reason.Own("waited", time.Since(c.w.Start).Round(time.Millisecond)))
	c.rec.Status, c.rec.Outcome, c.rec.Reason = reason.StatusClientGone, calllog.Failed, clientLeft.Code
	c.rec.Flags |= calllog.ClientGone
	c.detail.Verdict = &v
	c.record()
	c.w.Abort()
}

// unbind ends a try: it stops the upload, gives the connection back and reports whether the client left.
func (c *call) unbind(t *upstream.Target, trip upstream.Trip, up *upload) (gone bool) {
	gone = c.w.Unbind()
	spoiled := gone
	if up != nil {
		if !up.ended.Load() { // it answered before it had read everything
			spoiled = true
			trip.Interrupt()
			c.w.StopReading()
		}
		<-up.done
		c.pieceIn = up.bytes.Load()
	}
	t.Release(trip, spoiled)
	return gone
}

// upload sends content that did not arrive with the head. It runs beside the reading of the
// answer, since an upstream may answer before it has read everything.
type upload struct {
	done    chan struct{}
	ended   atomic.Bool
	bytes   atomic.Int64
	verdict reason.Verdict // what was wrong with the request, if that ended it
}

func (c *call) startUpload(trip upstream.Trip, timeout time.Duration) *upload {
	u := &upload{done: make(chan struct{})}
	limit := int64(-1)
	if b := c.route.Body; b != nil {
		limit = b.Body
	}
	go func() {
		defer close(u.done)
		defer u.ended.Store(true)
		for {
			piece, last, err := c.w.Next()
			if err != nil {
				var f *wire.Fault
				switch {
				case errors.As(err, &f):
					u.verdict = malformed(f)
				case err == io.ErrUnexpectedEOF:
					u.verdict = malformed(&wire.Fault{Rule: wire.BodyCutShort, Wanted: "the whole body", Text: "the client closed within the body"})
				}
				trip.Interrupt()
				return
			}
			n := u.bytes.Add(int64(len(piece)))
			if limit >= 0 && n > limit {
				u.verdict = c.route.Body.TooLarge(&c.x, n)
				trip.Interrupt()
				return
			}
			if err := trip.Write(piece); err != nil {
				trip.Await(timeout) // it may have answered before it stopped reading
				return
			}
			if last {
				trip.EndBody(c.w.Trailer())
				trip.Await(timeout)
				return
			}
		}
	}()
	return u
}

// relay passes the upstream's answer on to the client.
func (c *call) relay(t *upstream.Target, trip upstream.Trip, up *upload) {
	spec := &t.Upstream().Spec
	res := trip.Head()
	c.rec.Status = uint16(res.Status)
	c.rec.Outcome = calllog.Allowed
	stream := isEventStream(res.Fields.Get(wire.ContentType))
	if stream {
		trip.SetTimeout(time.Duration(spec.Timeouts.Stream))
	} else {
		trip.SetTimeout(time.Duration(spec.Timeouts.Idle))
	}
	h := &c.head
	c.buildAnswer(h, res)
	refused := res.Status >= 400
	if refused {
		c.rec.Outcome = calllog.Relayed
		h.Fields.Add("Whygate-Refused-By", "upstream")
	}
	// The first piece, if it is here or must come soon: while nothing was sent, a broken
	// answer can still become a whole refusal.
	var piece []byte
	var last bool
	var err error
	if trip.Buffered() || res.Length >= 0 && !stream {
		if piece, last, err = trip.Next(); err != nil && c.nothingSent(t, trip, up, err) {
			return
		}
	}
	if refused {
		c.attribute(res, piece)
	}
	c.w.Respond(h)
	if err == nil {
		err = c.copyContent(trip, up, piece, last)
	}
	c.afterRelay(t, trip, up, err, stream)
}

// nothingSent turns an answer that broke before any of it was sent into a refusal.
func (c *call) nothingSent(t *upstream.Target, trip upstream.Trip, up *upload, err error) bool {
	timeout := time.Duration(t.Upstream().Spec.Timeouts.Idle)
	gone := c.unbind(t, trip, up)
	if gone || c.w.Gone() {
		c.clientGone()
		return true
	}
	t.Report(time.Now(), false)
	c.failed(t.FailedBy(err, upstream.Receiving, timeout, false, !idempotent(c.x.Method)))
	return true
}

// errClient wraps an error of writing to the client.
type errClient struct{ error }

// copyContent writes the content piece by piece. What comes later than its predecessor is sent at
// once; the record is written before the last piece.
func (c *call) copyContent(trip upstream.Trip, up *upload, piece []byte, last bool) error {
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
			if err := c.w.End(relayable(trip.Trailer())); err != nil {
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
	}
}

// afterRelay ends an exchange whose answer has begun.
func (c *call) afterRelay(t *upstream.Target, trip upstream.Trip, up *upload, err error, stream bool) {
	var client errClient
	switch {
	case err == nil:
		c.unbind(t, trip, up)
		return
	case errors.As(err, &client) || errors.Is(err, wire.ErrInterrupted) || c.w.Gone():
		c.unbindBroken(t, trip, up)
		c.rec.Flags |= calllog.ClientGone
		if c.recorded {
			c.amend(calllog.ClientGone)
		}
		c.record()
		c.w.Abort()
		return
	}
	// The upstream broke off. The client has a part; it must not take it for the whole.
	timeout := time.Duration(t.Upstream().Spec.Timeouts.Idle)
	if stream {
		timeout = time.Duration(t.Upstream().Spec.Timeouts.Stream)
	}
	c.unbindBroken(t, trip, up)
	t.Report(time.Now(), false)
	v := t.FailedBy(err, upstream.Receiving, timeout, false, false)
	c.detail.Verdict = &v
	c.rec.Outcome, c.rec.Reason = calllog.Failed, v.Reason.Code
	c.rec.Flags |= calllog.Truncated
	if c.stats != nil {
		c.stats.Refused(v.Reason.Code)
	}
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

// unbindBroken ends an exchange whose connection cannot be used again.
func (c *call) unbindBroken(t *upstream.Target, trip upstream.Trip, up *upload) {
	c.w.Unbind()
	trip.Interrupt()
	if up != nil {
		c.w.StopReading()
		<-up.done
		c.pieceIn = up.bytes.Load()
	}
	t.Release(trip, true)
}

func isEventStream(contentType string) bool {
	return len(contentType) >= 17 && wire.EqualFold(contentType[:17], "text/event-stream")
}

// tunnel joins both connections after a protocol upgrade.
func (c *call) tunnel(t *upstream.Target, trip upstream.Trip) {
	res := trip.Head()
	h := &c.head
	c.buildAnswer(h, res)
	h.Fields.Put(wire.Upgrade, res.Upgrade)
	h.Length = 0
	if res.Upgrade == "" || c.x.Upgrade == "" {
		gone := c.unbind(t, trip, nil)
		t.Report(time.Now(), false)
		if gone {
			c.clientGone()
			return
		}
		c.failed(t.FailedBy(&wire.Fault{Rule: "upgrade", Text: "101 without an upgrade that was asked for"}, upstream.Awaiting, 0, false, true))
		return
	}
	c.w.Unbind()
	up, pre := trip.Tunnel()
	if up == nil {
		t.ReleaseTunnel()
		c.failed(t.FailedBy(&wire.Fault{Rule: "upgrade", Text: "101 on a connection that cannot become a tunnel"}, upstream.Awaiting, 0, false, true))
		return
	}
	defer t.ReleaseTunnel()
	t.Report(time.Now(), true)
	c.rec.Status, c.rec.Outcome = 101, calllog.Allowed
	c.rec.Flags |= calllog.Upgraded
	c.w.Respond(h)
	client, sent, err := c.w.Tunnel()
	if err != nil {
		up.Close()
		c.rec.Flags |= calllog.ClientGone
		c.record()
		return
	}
	defer client.Close()
	defer up.Close()
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
