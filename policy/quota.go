package policy

import (
	"sync/atomic"
	"time"

	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/reason"
)

// Quota bounds how many calls each caller may make in a calendar period: this hour, day, week,
// month or year, in a time zone. Quotas outlive a restart of the node. A call that a later check
// refuses is not counted.
//
//	policies:
//	- quota: {requests: 10000, period: month, timeZone: Europe/Berlin}
type Quota struct {
	// Requests is how many calls one caller may make in each period.
	Requests int64 `json:"requests" required:"true" min:"1"`
	// Period of the calendar; weeks begin on Monday.
	Period string `json:"period" enum:"hour,day,week,month,year" default:"month"`
	// TimeZone in which periods begin, an IANA name.
	TimeZone string `json:"timeZone" default:"UTC" example:"Europe/Berlin"`
	// Per is who is counted: each application, credential or address, or all calls of
	// the route together. Calls without an application are counted by address.
	Per string `json:"per" enum:"application,credential,address,route" default:"application"`
}

var quotaExceeded = reason.New(reason.Reason{
	Code: "quota.exceeded", Status: 429,
	Title:  "The quota is used up",
	Says:   "{caller} used {allowance} of this {period}; it ends in {ends_in}, at {reset}",
	Wanted: "at most {rule}",
	Seen:   "{allowance} of this {period} used, counted by {counter}",
	Fixes: []reason.Fix{
		{By: reason.Caller, Text: "wait until the period ends, in {ends_in}"},
		{By: reason.Owner, Text: "ask {owner|the owner of this API} for a larger quota[ than plan \"{plan}\" has]"},
	},
	Hint: "the counter is {counter}[; if {address} is a proxy, add it to trustedProxies of the Gateway]",
})

type quotaCheck struct {
	quotaOf
	per  string
	name string
}

type quotaOf struct {
	limit  int64
	period string
	zone   *time.Location
	of     string
	at     *reason.Source
	quotas *counter.Quotas
	trust  *Trust
	now    atomic.Pointer[counter.Period] // the one that the last call lay in
}

// Compile loads the time zone.
func (p *Quota) Compile(env *Env) any {
	zone, err := time.LoadLocation(p.TimeZone)
	if err != nil {
		env.Problem("timeZone", "an IANA name such as Europe/Berlin", "time zone %q is not known", p.TimeZone)
	}
	c := &quotaCheck{per: p.Per, name: env.LimitName + "\x00"}
	c.limit, c.period, c.zone, c.at, c.quotas, c.trust = p.Requests, p.Period, zone, env.Source("requests"), env.Quotas, env.Trust
	env.lintPer("quota", p.Per)
	return c
}

// Check counts one call.
func (c *quotaCheck) Check(x *Exchange) reason.Verdict {
	switch {
	case c.per == "route":
		return c.check(x, c.name, "route")
	case c.per == "credential" && x.Credential != nil:
		return c.check(x, x.Text(c.name, x.Credential.Prefix), "credential")
	case c.per == "application" && x.Application != nil:
		return c.check(x, x.Text(c.name, x.Application.Name), "application")
	}
	return c.check(x, x.Text(c.name, x.AddrText(countedAddr(x.Client.Addr))), "address")
}

func (q *quotaOf) periodAt(t time.Time) counter.Period {
	if p := q.now.Load(); p != nil && !t.Before(p.Start) && t.Before(p.End) {
		return *p
	}
	p := counter.PeriodOf(q.period, t, q.zone)
	q.now.Store(&p)
	return p
}

func (q *quotaOf) check(x *Exchange, name, per string) reason.Verdict {
	p := q.periodAt(x.Now)
	res := q.quotas.Take(name, q.limit, p, x.Now, x.Explaining)
	x.limit(res)
	if res.OK {
		if x.Explaining {
			return reason.Pass(reason.Own("used", q.limit-res.Left-1), reason.Own("limit", q.limit).At(q.at), reason.Own("period", q.period), reason.Own("counter", x.counterText(per)))
		}
		x.hold(hold{onRefuse: q, name: name})
		return reason.Verdict{}
	}
	x.Extra.Add("Retry-After", secondsText(res.Retry))
	facts := []reason.Fact{
		reason.Own("caller", x.counted(per)),
		reason.Own("limit", q.limit).At(q.at),
		reason.Own("period", q.period),
		reason.Own("per", per),
		reason.Own("counter", x.counterText(per)),
		reason.Public("retry_after", res.Retry.Round(time.Second)),
		reason.Public("ends_in", roughly(res.Retry)),
		reason.Public("reset", p.End),
		reason.Own("allowance", allCalls(q.limit)),
		reason.Own("rule", ruleText(q.limit, " per "+q.period, per)),
		x.OwnerFact(),
	}
	if q.of != "" {
		facts = append(facts, reason.Own("plan", q.of))
	}
	return quotaExceeded.Refuse(x.countedAddress(facts, per, q.trust)...)
}

// release gives a call back that a later check refused.
func (q *quotaOf) release(h *hold) { q.quotas.Return(h.name) }
