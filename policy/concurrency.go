package policy

import (
	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/reason"
)

// Concurrency bounds how many calls of one caller may be in flight at once. It protects
// an upstream from slow calls that a rate limit would let pile up.
//
// Each node counts for itself. With counters.store: redis in the Gateway all nodes count together; the
// places of a node that died are free again after a minute.
//
//	policies:
//	- concurrency: {calls: 10, per: application}
type Concurrency struct {
	// Calls that may be in flight at once.
	Calls int64 `json:"calls" required:"true" min:"1" max:"1000000"`
	// Per is who is counted: each application, credential or address, or all calls of
	// the route together. Calls without an application are counted by address.
	Per string `json:"per" enum:"application,credential,address,route" default:"application"`
}

var concurrencyExceeded = reason.New(reason.Reason{
	Code: "concurrency.exceeded", Status: 429,
	Title:  "Too many calls at once",
	Says:   "{caller} has {held} in flight, as many as are allowed at once",
	Wanted: "at most {rule}",
	Seen:   "{held} in flight, counted by {counter}",
	Fixes: []reason.Fix{
		{By: reason.Caller, Text: "wait for a call to end before sending the next[; {limit} may run at once]"},
		{By: reason.Owner, Text: "ask {owner|the owner of this API} to allow more calls at once"},
	},
	Hint: "the counter is {counter}[, {kept}][; if {address} is a proxy, add it to trustedProxies of the Gateway]; calls that hang in the upstream keep their place until they time out",
})

type concurrencyCheck struct {
	rateCheck // for key
	calls     int64
	place     *place
	places    *counter.SharedPlaces
	part      int64 // of this node, while the shared counters are away
}

// Compile names the counter.
func (p *Concurrency) Compile(env *Env) any {
	c := &concurrencyCheck{calls: p.Calls}
	c.per, c.limit, c.memory, c.at, c.trust = p.Per, counter.LimitID(env.LimitName), env.Memory, env.Source("calls"), env.Trust
	c.place = &place{env.Memory}
	if s := env.Shared; s != nil {
		c.shared, c.places, c.part = s, counter.NewSharedPlaces(env.LimitName, p.Calls), s.number(p.Calls)
	}
	env.lintPer("concurrency", p.Per)
	return c
}

// Check takes a place until the call ends.
func (c *concurrencyCheck) Check(x *Exchange) reason.Verdict {
	k, per := c.key(x)
	calls := c.calls
	by, asked := c.shared.count(x, c, c)
	switch {
	case by == byNobody:
		return c.shared.open(x)
	case by == refused:
		return c.shared.refuse(x)
	case by == byShare:
		calls = c.part
	}
	switch {
	case x.Explaining:
		res := counter.Result{}
		if by == byStore {
			res = asked.Result
		} else {
			res = c.memory.Inside(k, calls)
		}
		if res.OK {
			return reason.Pass(reason.Own("in_flight", calls-res.Left), reason.Own("limit", calls).At(c.at), reason.Own("counter", by.counterText(x, per)))
		}
	case by == byStore:
		if asked.OK {
			return reason.Verdict{}
		}
	case c.memory.Enter(k, calls).OK:
		x.hold(hold{onEnd: c.place, key: k})
		return reason.Verdict{}
	}
	x.Extra.Add("Retry-After", "1")
	return concurrencyExceeded.Refuse(x.countedAddress([]reason.Fact{
		reason.Own("caller", x.counted(per)),
		reason.Own("limit", c.calls).At(c.at),
		reason.Own("held", plural(int(calls), "call")+c.shared.shareText(by)),
		reason.Own("rule", ruleText(c.calls, " at once", per)),
		reason.Own("per", per),
		reason.Own("counter", x.counterText(per)),
		by.kept(),
		x.OwnerFact(),
	}, per, c.trust)...)
}

func (c *concurrencyCheck) ask(x *Exchange, call *counter.Call, watch bool) {
	if c.shared != nil {
		who, _ := c.who(x)
		call.Place(c, c.places, who, watch)
	}
}

// place is a place among the calls in flight.
type place struct{ memory *counter.Memory }

func (p *place) release(h *hold) { p.memory.Leave(h.key) }
