package gateway

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/metric"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/snapshot"
	"github.com/whygate/whygate/wire"
)

// call is one call on its way. Its memory is used again for later calls.
type call struct {
	g    *Gateway
	w    *wire.Call
	snap *snapshot.Snapshot
	x    policy.Exchange
	// route is nil where no route serves the call.
	route *snapshot.Route
	id    calllog.ID

	rec      calllog.Record
	ref      calllog.Ref
	recorded bool
	detail   Detail
	out      wire.Outgoing
	hop      hop
	path     string // for the upstream, without that of the target
	head     wire.Head
	pieceIn  int64 // bytes of the request's content
	content  content
	filters  []policy.Transform // of the answer

	stats  *metric.Route
	stripe uint32 // number of this call's memory, for counters that are kept in stripes
	idText [26]byte
}

// Serve takes a call through its life. This is the only place that knows the order.
func (g *Gateway) Serve(w *wire.Call) {
	c := g.begin(w)
	defer c.end()

	if c.wellKnown() || c.shed() {
		return
	}
	if v := c.misdirected(); v.Refused() {
		c.count(g.unknown)
		c.refuse(v)
		return
	}
	if !c.match() {
		c.refuse(c.miss())
		return
	}
	if v, step := c.decide(); v.Refused() {
		if v.Reason == clientLeft {
			c.clientGone()
		} else {
			c.refuseAt(step, v)
		}
		return
	}
	if c.x.Answer != nil {
		c.answerItself()
		return
	}
	c.forward()
}

// begin identifies the client and readies what the call needs.
func (g *Gateway) begin(w *wire.Call) *call {
	c := g.calls.Get().(*call)
	c.w, c.snap, c.route = w, g.current.Load(), nil
	c.recorded, c.pieceIn, c.head.Close = false, 0, false
	c.detail = Detail{}
	c.id = g.newID(w.Start)
	x := &c.x
	x.Reset(&w.Request, w.Start)
	x.TLS = w.TLS
	x.Client = c.snap.Trust.Client(w.Peer.Addr(), w.Announced.Addr(), w.Request.Fields)
	x.Scheme = c.scheme()
	x.Route = &noRoute
	x.Content, x.Waiting = c, c
	c.content = content{}
	c.rec = calllog.Record{ID: c.id, Start: w.Start, Remaining: -1}
	return c
}

// noRoute stands for the route of a call that has none.
var noRoute policy.Route

// scheme is how the client spoke to the first trusted proxy, or to us.
func (c *call) scheme() string {
	own := "http"
	if c.w.TLS != nil {
		own = "https"
	}
	if c.snap.Trust.Has(c.x.Client.Nearest()) {
		if p := c.w.Request.Fields.Get(wire.XForwardedProto); p == "http" || p == "https" {
			return p
		}
	}
	return own
}

var requestMisdirected = reason.New(reason.Reason{
	Code: "request.misdirected", Status: 421,
	Title:  "The connection was made for another host",
	Says:   "the connection was made for {server}, and its certificate does not stand for {host}",
	Wanted: "a connection whose server name (SNI) is {host}[; this one's certificate is for {names}]",
	Seen:   "a connection for {server} with a request for {host}",
	Fixes: []reason.Fix{
		{By: reason.Caller, Text: "make a connection of its own for {host}, with this server name in the TLS handshake"},
		{By: reason.Operator, Text: "if {host} should be served here, give listener {listener} a certificate for it; if a proxy connects under another name, add its network to trustedProxies"},
	},
	Hint: "HTTP clients try once more on a new connection (RFC 9110, section 15.5.20); a proxy that sets Host but not the server name never gets further",
})

// misdirected refuses a request in a TLS connection that was made for another host. A trusted proxy connects under the
// name that it likes, and is believed which host it calls for.
func (c *call) misdirected() reason.Verdict {
	if c.w.TLS == nil || c.w.TLS.ServerName == "" || c.snap.Trust.Has(c.w.Peer.Addr()) {
		return reason.Verdict{}
	}
	for _, l := range c.snap.Listeners {
		if l.Address != c.w.Listener.Address {
			continue
		}
		if names, wrong := l.Misdirected(c.w.TLS.ServerName, c.x.Host); wrong {
			return requestMisdirected.Refuse(reason.Public("server", strings.Clone(c.w.TLS.ServerName)), reason.Public("host", strings.Clone(c.x.Host)),
				reason.Public("names", names[:min(len(names), 10)]), reason.Rule("listener", l.Name))
		}
	}
	return reason.Verdict{}
}

// match finds the route.
func (c *call) match() bool {
	c.route = c.snap.Match(&c.x)
	if c.route == nil {
		c.count(c.g.unknown)
		return false
	}
	c.x.Route = &c.route.Route
	c.x.Preflight = isPreflight(&c.x)
	c.count(c.route.Stats)
	return true
}

// count counts the call in; end counts it out.
func (c *call) count(r *metric.Route) {
	c.stats = r
	r.Begin(c.stripe)
}

// isPreflight says that a browser asks whether it may make another call (Fetch standard, CORS-preflight request).
func isPreflight(x *policy.Exchange) bool {
	if x.Method != "OPTIONS" {
		return false
	}
	_, origin := x.Fields.Find(wire.Origin)
	_, method := x.Fields.Find(wire.AccessControlRequestMethod)
	return origin && method
}

// decide runs the checks in order; the first refusal ends it. step is the index of the check
// that refused.
func (c *call) decide() (v reason.Verdict, step int) {
	steps := c.route.Steps
	for i := range steps {
		s := &steps[i]
		if (s.Shadow || s.Share > 0) && s.Watches(&c.x) {
			c.watch(s)
		} else if v := s.Check.Check(&c.x); v.Refused() {
			return v, i
		}
		if c.x.Answer != nil {
			break
		}
	}
	c.rec.Decide = time.Since(c.w.Start)
	return reason.Verdict{}, -1
}

// watch runs a policy that only watches: what it would have refused is noted, and the call and its
// answer carry nothing of that, but for what prepares callers for the day when it refuses. Who calls stays known, for those
// behind that watch too. A panic is noted as well, and the call goes on.
func (c *call) watch(s *policy.Step) {
	x := &c.x
	extra, onward := slices.Clone(x.Extra), len(x.Onward)
	tightest, limited := x.Tightest, x.Limited
	content, replaced := x.Replaced()
	keeps := false
	defer func() {
		if p := recover(); p != nil {
			c.report(p)
			c.hint("shadow.panicked", s.Name+" only watches, and failed; the log of this node has the stack")
		}
		if !keeps {
			x.Onward = x.Onward[:onward]
			x.Restore(content, replaced)
		}
		if !keeps || !s.Answers(x) {
			x.Answer = nil
		}
		x.Store, x.Tightest, x.Limited = nil, tightest, limited
		if p, ok := s.Check.(policy.Preparer); (!keeps || s.Phase >= policy.Limits) && !(ok && p.Prepares()) {
			x.Extra = append(x.Extra[:0], extra...)
		}
	}()
	v := s.Check.Check(x)
	if keeps = !v.Refused() && !s.Shadow; v.Refused() {
		c.rec.Flags |= calllog.Shadowed
		c.detail.Shadows = append(c.detail.Shadows, entryOf(s, reason.Shadow, s.Told(v, true)))
		x.Spare(s)
	}
}

// Malformed answers a request that never became a call.
func (g *Gateway) Malformed(w *wire.Call, f *wire.Fault) {
	c := g.begin(w)
	defer c.end()
	c.count(g.unknown)
	c.refuse(malformed(f))
}

// end gives the call's memory back, whatever happened. A panic is answered with a reason and
// counted; it never takes the node down.
func (c *call) end() {
	if p := recover(); p != nil {
		c.panicked(p)
	}
	c.x.Finish()
	if c.stats != nil {
		c.stats.End(c.stripe, int(c.rec.Status), c.rec.Duration, c.rec.BytesIn, c.rec.BytesOut)
	}
	clear(c.filters[:cap(c.filters)])
	c.filters = c.filters[:0]
	c.w, c.snap, c.route, c.stats = nil, nil, nil, nil
	c.g.calls.Put(c)
}

var panicked = reason.New(reason.Reason{
	Code: "gateway.panic", Status: 500,
	Title:  "The gateway has failed",
	Says:   "the gateway failed while it served this call",
	Wanted: "a decision",
	Seen:   "a panic[: {panic}]",
	Fixes:  []reason.Fix{{By: reason.Operator, Text: "report the call and the log of this node to those who make Whygate"}, {By: reason.Caller, Text: "try again; tell the operator the id of this call"}},
	Hint:   "the log of this node has the stack: {panic}",
})

// report counts and logs a panic, marks the call, and returns the text of the panic.
func (c *call) report(p any) string {
	c.rec.Flags |= calllog.Panicked
	return c.logPanic(p)
}

// logPanic counts and logs a panic, and returns its text. The upload may call it beside the call.
func (c *call) logPanic(p any) string {
	c.g.Panics.Add(1)
	text := fmt.Sprint(p)
	c.g.Log.Error("serving a call panicked", "call", c.id, "path", strings.Clone(c.x.Path), "panic", text, "stack", string(debug.Stack()))
	return text
}

func (c *call) panicked(p any) {
	text := c.report(p)
	if c.hop.trip != nil {
		c.hop.t.Unreport()
		c.unbindBroken()
	}
	if c.w.Begun {
		if !c.recorded {
			c.rec.Status, c.rec.Outcome, c.rec.Reason = 500, calllog.Failed, panicked.Code
			c.record()
		}
		c.w.Abort()
		return
	}
	c.refuse(panicked.Refuse(reason.Inner("panic", text)))
}
