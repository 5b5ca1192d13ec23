package policy

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// Quota bounds how many calls each caller may make in a calendar period: this hour, day, week,
// month or year, in a time zone. Quotas outlive a restart of the node. A call that a later check
// refuses is not counted. Answers carry RateLimit and RateLimit-Policy, as those of rate-limit do.
//
// Each node counts for itself. With counters.store: redis in the Gateway all nodes count together, in periods by
// the clock of the store.
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
	Hint: "the counter is {counter}[, {kept}][; if {address} is a proxy, add it to trustedProxies of the Gateway]",
})

type quotaCheck struct {
	quotaOf
	per   string
	named string // what its counters begin with
}

type quotaOf struct {
	name   string // in the fields RateLimit and RateLimit-Policy
	limit  int64
	period string
	zone   *time.Location
	of     string
	at     *reason.Source
	quotas *counter.Quotas
	trust  *Trust
	now    atomic.Pointer[counter.Period] // the one that the last call lay in

	shared *Shared
	asker  sharer
	asked  *counter.SharedQuota
	share  int64                         // of this node, while the shared counters are away
	spans  atomic.Pointer[counter.Spans] // around the period of the last call
}

// sharedBy has the quota counted by the shared counters, if there are any.
func (q *quotaOf) sharedBy(s *Shared, asker sharer, name string) {
	if s != nil {
		q.shared, q.asker, q.asked, q.share = s, asker, counter.NewSharedQuota(name, q.limit), s.number(q.limit)
	}
}

// Compile loads the time zone.
func (p *Quota) Compile(env *Env) any {
	zone, err := time.LoadLocation(p.TimeZone)
	if err != nil {
		env.Problem("timeZone", "an IANA name such as Europe/Berlin", "time zone %q is not known", p.TimeZone)
	}
	c := &quotaCheck{per: p.Per, named: env.LimitName + "\x00"}
	c.name, c.limit, c.period, c.zone, c.at, c.quotas, c.trust = env.Name, p.Requests, p.Period, zone, env.Source("requests"), env.Quotas, env.Trust
	c.sharedBy(env.Shared, c, env.LimitName)
	env.lintPer("quota", p.Per)
	return c
}

// Impersonal says that calls are counted the same whoever makes them.
func (c *quotaCheck) Impersonal() bool { return c.per == "route" || c.per == "address" }

// Check counts one call.
func (c *quotaCheck) Check(x *Exchange) reason.Verdict {
	who, per := c.who(x)
	return c.check(x, who, per)
}

// who is counted, behind the name of the limit, and as what.
func (c *quotaCheck) who(x *Exchange) (who, per string) {
	switch {
	case c.per == "route":
		return c.named, "route"
	case c.per == "credential" && x.Credential != nil:
		return x.Text(c.named, x.Credential.Prefix), "credential"
	case c.per == "application" && x.Application != nil:
		return x.Text(c.named, x.Application.Name), "application"
	}
	return x.Text(c.named, x.AddrText(wire.CountedAddr(x.Client.Addr))), "address"
}

func (c *quotaCheck) ask(x *Exchange, call *counter.Call, watch bool) {
	if c.shared != nil {
		who, _ := c.who(x)
		call.Quota(&c.quotaOf, c.asked, c.spansAt(x.Now), who, 1, watch)
	}
}

// spansAt are the periods around that of t.
func (q *quotaOf) spansAt(t time.Time) *counter.Spans {
	p := q.periodAt(t)
	if s := q.spans.Load(); s != nil && s.Around(p) {
		return s
	}
	s := counter.SpansOf(q.period, p, q.zone)
	q.spans.Store(s)
	return s
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
	limit := q.limit
	by, asked := q.shared.count(x, q.asker, q)
	var res counter.Result
	switch {
	case by == byStore:
		res, p = asked.Result, asked.Period
		res.Limit = limit
	case by == byNobody:
		return q.shared.open(x)
	case by == refused:
		return q.shared.refuse(x)
	default:
		if by == byShare {
			limit = q.share
		}
		res = q.quotas.Take(name, limit, p, x.Now, x.Explaining)
	}
	tightest := !x.Limited || res.Left < x.Tightest.Left
	x.limit(res)
	if tightest && !x.Explaining || !res.OK {
		q.tell(x, limit, p, res.Left)
	}
	if res.OK {
		if x.Explaining {
			return reason.Pass(reason.Own("used", limit-res.Left-1), reason.Own("limit", limit).At(q.at), reason.Own("period", q.period), reason.Own("counter", by.counterText(x, per)))
		}
		if by != byStore {
			x.hold(hold{onRefuse: q, name: name})
		}
		return reason.Verdict{}
	}
	x.Extra.Add("Retry-After", secondsText(res.Retry))
	facts := []reason.Fact{
		reason.Own("caller", x.counted(per)),
		reason.Own("limit", q.limit).At(q.at),
		reason.Own("period", q.period),
		reason.Own("per", per),
		reason.Own("counter", x.counterText(per)),
		by.kept(),
		reason.Public("retry_after", res.Retry.Round(time.Second)),
		reason.Public("ends_in", roughly(res.Retry)),
		reason.Public("reset", p.End),
		reason.Own("allowance", allCalls(limit)+q.shared.shareText(by)),
		reason.Own("rule", ruleText(q.limit, " per "+q.period, per)),
		x.OwnerFact(),
	}
	if q.of != "" {
		facts = append(facts, reason.Own("plan", q.of))
	}
	return quotaExceeded.Refuse(x.countedAddress(facts, per, q.trust)...)
}

// tell sets the fields RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers). Their window is the
// period of now, however long that is.
func (q *quotaOf) tell(x *Exchange, limit int64, p counter.Period, left int64) {
	field := x.appendText(func(b []byte) []byte {
		b = append(b, '"')
		b = append(b, q.name...)
		b = append(b, `";q=`...)
		b = strconv.AppendInt(b, limit, 10)
		b = append(b, ";w="...)
		return strconv.AppendInt(b, int64(p.End.Sub(p.Start)/time.Second), 10)
	})
	x.tellLimit(field, q.name, left, p.End.Sub(x.Now))
}

// release gives a call back that a later check refused.
func (q *quotaOf) release(h *hold) { q.quotas.Return(h.name) }
