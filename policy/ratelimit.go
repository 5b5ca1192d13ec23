package policy

import (
	"strconv"
	"time"

	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// RateLimit bounds how fast each caller may call.
//
// Allowance flows back evenly (GCRA): with 100 requests per minute a caller may send 100 at
// once and then one every 0.6 seconds. A smaller burst spreads them from the start. A
// refusal says exactly when the same call will pass; allowed calls carry RateLimit and
// RateLimit-Policy too, of the limit or quota that has least left. Every caller has a counter of their own; which one it was is a fact
// of each refusal. A limit that is changed counts anew from then on.
//
// Each node counts for itself in memory, at no cost worth mentioning. With counters.store: redis in the
// Gateway all nodes count together and exactly, for one round trip per call.
//
//	policies:
//	- rate-limit: {requests: 100, period: 1m, per: application}
type RateLimit struct {
	// Requests is how many calls one caller may make in each period.
	Requests int64 `json:"requests" required:"true" min:"1" max:"1000000000"`
	// Period is the time over which they are spread.
	Period resource.Duration `json:"period" default:"1m" min:"1ms" max:"366d"`
	// Burst is how many may come at once. 0 means as many as requests.
	Burst int64 `json:"burst" min:"0" max:"1000000000"`
	// Per is who is counted: each application, credential or address, or all calls of
	// the route together. Calls without an application are counted by address.
	Per string `json:"per" enum:"application,credential,address,route" default:"application"`
	// Cost is what one call takes of the limit: a number, or an expression over the call as in the policy
	// rule, such as `request.method == "GET" ? 1 : 5`. It takes at most what may come at once.
	Cost any `json:"cost" example:"5"`
}

var rateExceeded = reason.New(reason.Reason{
	Code: "rate-limit.exceeded", Status: 429,
	Title:  "Too many calls",
	Says:   "{caller} used {allowance}[; {left} left, and this call costs {cost}]",
	Wanted: "at most {rule}[, {burst} at once]",
	Seen:   "{allowance} used[, {left} left for a call that costs {cost}], counted by {counter}",
	Fixes: []reason.Fix{
		{By: reason.Caller, Text: "wait {retry_after}, then call again"},
		{By: reason.Owner, Text: "ask {owner|the owner of this API} for a larger limit[ than plan \"{plan}\" has]"},
	},
	Hint: "the counter is {counter}[, {kept}][; if {address} is a proxy, add it to trustedProxies of the Gateway]",
})

type rateCheck struct {
	limitOf
	cost cost
	per  string
}

// limitOf is a rate with what its explanation needs.
type limitOf struct {
	limit       uint64 // names its counters
	rate        counter.Rate
	name        string // in the fields RateLimit and RateLimit-Policy
	policyField string // the value of RateLimit-Policy
	of          string // the plan, "" for a policy
	at          *reason.Source
	memory      *counter.Memory
	trust       *Trust

	shared *Shared
	asker  sharer
	asked  *counter.SharedRate
	share  counter.Rate // of this node, while the shared counters are away
}

// sharedBy has the rate counted by the shared counters, if there are any.
func (l *limitOf) sharedBy(s *Shared, asker sharer, name string) {
	if s != nil {
		l.shared, l.asker, l.asked, l.share = s, asker, counter.NewSharedRate(name, l.rate), s.rate(l.rate)
	}
}

// Compile prepares the arithmetic.
func (p *RateLimit) Compile(env *Env) any {
	if p.Burst == 0 {
		p.Burst = p.Requests
	}
	c := &rateCheck{per: p.Per}
	c.limitOf = limitOf{
		rate: counter.Rate{Requests: p.Requests, Burst: p.Burst, Period: time.Duration(p.Period)},
		name: env.Name, at: env.Source("requests"), memory: env.Memory, trust: env.Trust,
	}
	c.limit = counter.LimitID(c.rate.Named(env.LimitName))
	c.policyField = policyField(c.name, c.rate)
	c.cost = env.compileCost("cost", p.Cost, c.rate)
	c.sharedBy(env.Shared, c, env.LimitName)
	env.lintPer("rate-limit", p.Per)
	return c
}

func policyField(name string, r counter.Rate) string {
	return quote(name) + ";q=" + strconv.FormatInt(r.Burst, 10) + ";w=" + secondsText(r.Period)
}

// key finds the counter of this call and who it counts.
func (c *rateCheck) key(x *Exchange) (counter.Key, string) {
	who, per := c.who(x)
	return counter.KeyOf(c.limit, who), per
}

// who is counted, and as what.
func (c *rateCheck) who(x *Exchange) (who, per string) {
	switch {
	case c.per == "route":
		return "", "route"
	case c.per == "credential" && x.Credential != nil:
		return x.Credential.Prefix, "credential"
	case c.per == "application" && x.Application != nil:
		return x.Application.Name, "application"
	}
	return x.AddrText(wire.CountedAddr(x.Client.Addr)), "address"
}

func (c *rateCheck) ask(x *Exchange, call *counter.Call, watch bool) {
	if c.shared == nil {
		return
	}
	if n, v := c.cost.call(x); !v.Refused() {
		who, _ := c.who(x)
		call.Rate(&c.limitOf, c.asked, who, n, watch)
	}
}

// Impersonal says that calls are counted, and cost, the same whoever makes them.
func (c *rateCheck) Impersonal() bool {
	return (c.per == "route" || c.per == "address") && (c.cost.of == nil || !c.cost.of.caller && !c.cost.of.plan)
}

// Check spends one call.
func (c *rateCheck) Check(x *Exchange) reason.Verdict {
	n, v := c.cost.call(x)
	if v.Refused() {
		return v
	}
	k, per := c.key(x)
	return c.check(x, k, per, n)
}

// check takes the cost of a call from the counter.
func (l *limitOf) check(x *Exchange, k counter.Key, per string, cost int64) reason.Verdict {
	rate := l.rate
	by, asked := l.shared.count(x, l.asker, l)
	var res counter.Result
	switch {
	case by == byStore:
		res = asked.Result
	case by == byNobody:
		return l.shared.open(x)
	case by == refused:
		return l.shared.refuse(x)
	default:
		if by == byShare {
			rate = l.share
		}
		if x.Explaining {
			res = l.memory.Peek(k, rate, cost, x.Now)
		} else {
			res = l.memory.Take(k, rate, cost, x.Now)
		}
	}
	tightest := !x.Limited || res.Left < x.Tightest.Left
	x.limit(res)
	if res.OK {
		if x.Explaining {
			v := reason.Pass(reason.Own("used", rate.Burst-res.Left-cost), reason.Own("limit", rate.Burst).At(l.at),
				reason.Own("period", l.rate.Period), reason.Own("counter", by.counterText(x, per)))
			if cost != 1 {
				v.Facts = append(v.Facts, reason.Own("cost", cost))
			}
			return v
		}
		if by != byStore {
			x.hold(hold{onRefuse: l, key: k, cost: cost, share: by == byShare})
		}
		if tightest {
			l.tell(x, res)
		}
		return reason.Verdict{}
	}
	l.tell(x, res)
	x.Extra.Add("Retry-After", secondsText(res.Retry))
	facts := []reason.Fact{
		reason.Own("caller", x.counted(per)),
		reason.Own("limit", l.rate.Requests).At(l.at),
		reason.Own("period", l.rate.Period),
		reason.Own("per", per),
		reason.Own("counter", x.counterText(per)),
		by.kept(),
		reason.Public("retry_after", res.Retry.Round(time.Millisecond)),
		x.OwnerFact(),
	}
	each := " per " + reason.Span(l.rate.Period)
	allowance := allCalls(l.rate.Requests) + each
	if l.rate.Burst != l.rate.Requests {
		facts = append(facts, reason.Own("burst", l.rate.Burst))
		allowance = allCalls(l.rate.Burst) + " that may come at once"
	}
	if by == byShare {
		allowance = allCalls(rate.Burst) + l.shared.shareText(by)
	}
	if cost != 1 {
		facts = append(facts, reason.Own("cost", cost), reason.Own("left", res.Left))
		allowance = strconv.FormatInt(rate.Burst-res.Left, 10) + " of " + strconv.FormatInt(rate.Burst, 10) + each
	}
	facts = append(facts, reason.Own("allowance", allowance), reason.Own("rule", ruleText(l.rate.Requests, each, per)))
	if l.of != "" {
		facts = append(facts, reason.Own("plan", l.of))
	}
	return rateExceeded.Refuse(x.countedAddress(facts, per, l.trust)...)
}

// release gives a call back that a later check refused.
func (l *limitOf) release(h *hold) {
	rate := l.rate
	if h.share {
		rate = l.share
	}
	l.memory.Return(h.key, rate, h.cost)
}

// tell sets the fields RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers)
// to the limit that binds most.
func (l *limitOf) tell(x *Exchange, res counter.Result) {
	x.tellLimit(l.policyField, l.name, res.Left, res.Reset)
}

// tellLimit says which limit binds most, how much it has left, and when it has all again.
func (x *Exchange) tellLimit(policyField, name string, left int64, reset time.Duration) {
	x.Extra.Remove("RateLimit")
	x.Extra.Remove("RateLimit-Policy")
	x.Extra.Add("RateLimit-Policy", policyField)
	x.Extra.Add("RateLimit", x.appendText(func(b []byte) []byte {
		b = append(b, '"')
		b = append(b, name...)
		b = append(b, `";r=`...)
		b = strconv.AppendInt(b, left, 10)
		b = append(b, ";t="...)
		return strconv.AppendInt(b, seconds(reset), 10)
	}))
}

// allCalls names an allowance that is used up.
func allCalls(n int64) string {
	if n == 1 {
		return "the only call"
	}
	return "all " + strconv.FormatInt(n, 10) + " calls"
}

// ruleText is a limit in words: "100 calls per 1m of each application".
func ruleText(n int64, each, per string) string {
	of := " of each " + per
	if per == "route" {
		of = " of all callers of the route together"
	}
	return plural(int(n), "call") + each + of
}

// counted names whose calls a limit counts, for sentences.
func (x *Exchange) counted(per string) string {
	if per == "route" {
		return "the callers of this route together"
	}
	return x.Caller()
}

// countedAddress adds how the address was found that a limit counts by.
func (x *Exchange) countedAddress(facts []reason.Fact, per string, t *Trust) []reason.Fact {
	if per != "address" {
		return facts
	}
	return append(facts, reason.Own("address", x.Client.Addr), reason.Own("hops", x.Hops(t)))
}

// counterText is the counter in words.
func (x *Exchange) counterText(per string) string {
	switch per {
	case "application":
		return "application " + quote(x.Application.Name)
	case "credential":
		return "key " + x.Credential.Prefix
	case "subscription":
		if x.Subscription != nil {
			return "subscription " + quote(x.Subscription.Name)
		}
		if x.Application != nil {
			return "application " + quote(x.Application.Name) + " on stage " + quote(x.Route.Stage)
		}
	case "route":
		return "all calls of this route"
	}
	from := "the address of the connection"
	if x.Client.Hop > 0 {
		from = "X-Forwarded-For, hop " + strconv.Itoa(x.Client.Hop)
	} else if x.Client.Announced.IsValid() {
		from = "the PROXY header"
	}
	return "address " + wire.CountedAddr(x.Client.Addr).String() + " (" + from + ")"
}
