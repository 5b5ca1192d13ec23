package policy

import (
	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/reason"
)

// Subscribe demands that the calling application has an active subscription to the API,
// for the version and stage that it calls. The plan of the subscription sets its rate limit and
// quota. On a stage with an openPlan every application may call without a subscription.
//
// It needs a policy that identifies the application, such as key-auth.
//
//	policies:
//	- subscription
type Subscribe struct{}

var (
	subscriptionMissing = reason.New(reason.Reason{
		Code: "subscription.missing", Status: 403,
		Title:  "The application has no subscription to this API",
		Says:   "application \"{application}\" has no subscription to API \"{api}\"",
		Wanted: "an active subscription of application \"{application}\" to API \"{api}\"[ {version}]",
		Seen:   "none[; it is subscribed to {others}]",
		Fixes: []reason.Fix{
			{By: reason.Application, Text: "subscribe {request|to this API}[; {owner} approves it]"},
		},
		Hint: "a document of kind Subscription with application: {application} and api: {api} would allow it",
	})
	subscriptionNobody = reason.New(reason.Reason{
		Code: "subscription.no-application", Status: 403,
		Title:  "The call belongs to no application",
		Says:   "subscriptions are those of applications, and {caller|the caller} belongs to none[; the token was made for client {client}]",
		Wanted: "a call of an application that has subscribed to API \"{api}\"",
		Seen:   "{caller|nobody}[, identified by {method}][, with a token of client {client}], and no application",
		Fixes: []reason.Fix{
			{By: reason.Owner, Text: "ask {owner|the owner of this API} which application this is[: client {client}]"},
		},
		Hint: "a Credential says which application a caller belongs to[: token with client {client}]; policies that know subjects alone identify no application",
	})
	subscriptionPending = reason.New(reason.Reason{
		Code: "subscription.pending", Status: 403,
		Title:  "The subscription has not been approved yet",
		Says:   "the subscription of application \"{application}\" to API \"{api}\" was requested[ {requested}] and waits for approval by {owner|the owner of this API}",
		Wanted: "an active subscription of application \"{application}\" to API \"{api}\"[ {version}]",
		Seen:   "requested[ {requested}], waiting for approval by {owner|the owner of this API}",
		Fixes:  []reason.Fix{{By: reason.Owner, Text: "ask {owner|the owner of this API} to approve it"}},
		Hint:   "set state: active in Subscription \"{subscription}\"[, {written}]",
	})
	subscriptionSuspended = reason.New(reason.Reason{
		Code: "subscription.suspended", Status: 403,
		Title:  "The subscription is suspended",
		Says:   "the subscription of application \"{application}\" to API \"{api}\" is suspended[: {note}]",
		Wanted: "an active subscription of application \"{application}\" to API \"{api}\"[ {version}]",
		Seen:   "suspended[: {note}]",
		Fixes:  []reason.Fix{{By: reason.Owner, Text: "ask {owner|the owner of this API} to resume it"}},
		Hint:   "set state: active in Subscription \"{subscription}\"[, {written}]",
	})
	subscriptionRejected = reason.New(reason.Reason{
		Code: "subscription.rejected", Status: 403,
		Title:  "The subscription was rejected",
		Says:   "{owner|the owner of this API} rejected the subscription of application \"{application}\" to API \"{api}\"[: {note}]",
		Wanted: "an active subscription of application \"{application}\" to API \"{api}\"[ {version}]",
		Seen:   "rejected[: {note}]",
		Fixes:  []reason.Fix{{By: reason.Application, Text: "ask {owner|the owner of this API} what is missing, and request it again"}},
		Hint:   "if it may call after all, set state: active in Subscription \"{subscription}\"[, {written}]",
	})
	subscriptionExpired = reason.New(reason.Reason{
		Code: "subscription.expired", Status: 403,
		Title:  "The subscription has expired",
		Says:   "the subscription of application \"{application}\" to API \"{api}\" has expired[ {ago} ago, at {until}]",
		Wanted: "an active subscription of application \"{application}\" to API \"{api}\"[ {version}]",
		Seen:   "expired[ at {until}]",
		Fixes:  []reason.Fix{{By: reason.Application, Text: "ask {owner|the owner of this API} to renew it"}},
		Hint:   "set a later until, and state: active, in Subscription \"{subscription}\"[, {written}]",
	})
	subscriptionEarly = reason.New(reason.Reason{
		Code: "subscription.not-yet-valid", Status: 403,
		Title:  "The subscription is not valid yet",
		Says:   "the subscription of application \"{application}\" to API \"{api}\" holds from {from}, in {wait}",
		Wanted: "a call at or after {from}",
		Seen:   "a call at {now}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "wait {wait|until it begins}"}},
		Hint:   "set an earlier from in Subscription \"{subscription}\"[, {written}]",
	})
	subscriptionElsewhere = reason.New(reason.Reason{
		Code: "subscription.elsewhere", Status: 403,
		Title:  "The subscription is for another version or stage",
		Says:   "the subscription of application \"{application}\" to API \"{api}\" is for {covers}, the call is for {called}",
		Wanted: "a subscription that covers {called}",
		Seen:   "a subscription that covers {covers}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "call {covers|what the subscription covers}"},
			{By: reason.Application, Text: "ask {owner|the owner of this API} to extend the subscription to {called}"},
		},
		Hint: "add {called} to version and stages of Subscription \"{subscription}\"[, {written}]",
	})
)

type subscriptionCheck struct {
	consumers *consumer.Directory
	at        *reason.Source
}

// Compile demands that somebody identifies the application before.
func (p *Subscribe) Compile(env *Env) any {
	watched := env.Identifies(true)
	switch {
	case env.Identifies(false), watched && env.Shadow:
	case watched:
		env.Problem("", "let both of them watch: shadow: true", "subscription refuses calls without a key, which key-auth lets pass as it only watches")
	default:
		env.Problem("", "add key-auth, or another policy that identifies it", "subscription needs a policy that identifies the application, and this route has none")
	}
	return &subscriptionCheck{consumers: env.Consumers, at: env.Source("")}
}

// Check looks for a subscription that holds now, for this version and stage.
func (c *subscriptionCheck) Check(x *Exchange) reason.Verdict {
	if x.Application == nil {
		return c.noApplication(x)
	}
	subs := c.consumers.Subscriptions(x.Application, x.Route.API)
	for _, s := range subs {
		if s.Covers(x.Route.Version, x.Route.Stage) && s.StateAt(x.Now) == consumer.Active && !x.Now.Before(s.From) {
			x.Subscription, x.Plan = s, s.Plan
			if x.Explaining {
				return reason.Pass(reason.Own("subscription", s.Name).At(s.Source), reason.Own("plan", s.Plan.Name).At(s.Plan.Source))
			}
			return reason.Verdict{}
		}
	}
	if p := x.Route.OpenPlan; p != nil {
		x.Plan = p
		if x.Explaining {
			return reason.Pass(reason.Own("plan", p.Name).At(p.Source), reason.Own("subscription", "none needed on this stage"))
		}
		return reason.Verdict{}
	}
	return c.refuse(x, subs)
}

// noApplication refuses who is known, and not as an application.
func (c *subscriptionCheck) noApplication(x *Exchange) reason.Verdict {
	facts := []reason.Fact{reason.Public("api", x.Route.API).At(c.at), x.OwnerFact()}
	if id := x.Identity; id != nil {
		facts = append(facts, reason.Own("caller", clip(x.Caller(), 200)), reason.Own("method", id.Method))
		if client := clientOf(id.Claims, ""); client != "" {
			facts = append(facts, reason.Own("client", clipped(client, 100)))
		}
	}
	return x.unlessNamed(subscriptionNobody.Refuse(facts...))
}

// refuse names what is wrong with the subscription that comes closest.
func (c *subscriptionCheck) refuse(x *Exchange, subs []*consumer.Subscription) reason.Verdict {
	facts := []reason.Fact{
		reason.Own("application", x.Application.Name),
		reason.Own("api", x.Route.API).At(c.at),
		x.OwnerFact(),
	}
	if v := x.Route.Version; v != "" {
		facts = append(facts, reason.Own("version", v))
	}
	v := c.closest(x, subs, facts)
	for _, o := range x.Route.OpenStages {
		v = v.Fix(reason.Caller, "call stage \"{open_stage}\" at {open_path}, where the plan \"{open_plan}\" needs no approval",
			reason.Own("open_stage", o.Stage), reason.Own("open_path", o.Path), reason.Own("open_plan", o.Plan))
		break
	}
	// What the caller can do stands behind what makes this very call pass.
	if n := len(v.Fixes); n > 0 {
		v.Fixes = append(append([]reason.Fix{}, v.Reason.Fixes...), v.Fixes...)
	}
	return v
}

func (c *subscriptionCheck) closest(x *Exchange, subs []*consumer.Subscription, facts []reason.Fact) reason.Verdict {
	version, stage := x.Route.Version, x.Route.Stage
	var elsewhere *consumer.Subscription
	for _, s := range subs { // the most useful state comes first
		if !s.Covers(version, stage) {
			if elsewhere == nil && s.StateAt(x.Now) == consumer.Active {
				elsewhere = s
			}
			continue
		}
		x.Subscription, x.Plan = s, s.Plan // for the record, and to ask the limits behind
		facts = append(facts, reason.Own("subscription", s.Name).At(s.Source), reason.Rule("written", s.Source.String()))
		if s.Note != "" {
			facts = append(facts, reason.Own("note", s.Note))
		}
		switch s.StateAt(x.Now) {
		case consumer.Active:
			return subscriptionEarly.Refuse(append(facts, reason.Own("from", s.From), reason.Own("now", x.Now), reason.Own("wait", roughly(s.From.Sub(x.Now))))...)
		case consumer.Pending:
			if !s.Requested.IsZero() {
				facts = append(facts, reason.Own("requested", s.Requested))
			}
			return subscriptionPending.Refuse(facts...)
		case consumer.Suspended:
			return subscriptionSuspended.Refuse(facts...)
		case consumer.Rejected:
			return subscriptionRejected.Refuse(facts...)
		default:
			if !s.Until.IsZero() {
				facts = append(facts, reason.Own("until", s.Until), reason.Own("ago", roughly(x.Now.Sub(s.Until))))
			}
			return subscriptionExpired.Refuse(facts...)
		}
	}
	if elsewhere != nil {
		return subscriptionElsewhere.Refuse(append(facts, reason.Own("subscription", elsewhere.Name).At(elsewhere.Source), reason.Rule("written", elsewhere.Source.String()),
			reason.Own("covers", covers(elsewhere.Version, elsewhere.Stages)), reason.Own("called", covers(version, []string{stage})))...)
	}
	return subscriptionMissing.Refuse(append(facts, reason.Own("request", "application "+quote(x.Application.Name)+" to API "+quote(x.Route.API)))...)
}

func covers(version string, stages []string) string {
	s := ""
	if version != "" {
		s = "version " + version
	}
	if len(stages) > 0 && stages[0] != "" {
		if s != "" {
			s += " on "
		}
		s += "stage " + reason.List(stages)
	}
	if s == "" {
		return "the API without version and stage"
	}
	return s
}

// NewPlanSteps returns the checks that keep the rate limit and the quota of whatever plan a call
// goes by. The snapshot adds them to routes with a subscription policy.
func NewPlanSteps(plans []*consumer.Plan, m *counter.Memory, q *counter.Quotas, shared *Shared) []Step {
	rates, quotas := planRates{}, planQuotas{}
	for _, p := range plans {
		if r := p.Rate; r != nil {
			l := &limitOf{rate: counter.Rate{Requests: int64(r.Requests), Burst: int64(r.Burst), Period: r.Period}, name: "plan", of: p.Name, at: r.Source, memory: m}
			l.limit = counter.LimitID(l.rate.Named("plan"))
			l.policyField = policyField(l.name, l.rate)
			l.sharedBy(shared, rates, "plan")
			rates[p] = l
		}
		if u := p.Quota; u != nil {
			c := &quotaOf{name: "plan-quota", limit: u.Requests, period: u.Period, zone: u.Zone, of: p.Name, at: u.Source, quotas: q}
			c.sharedBy(shared, quotas, "plan")
			quotas[p] = c
		}
	}
	return []Step{
		{Check: rates, Name: "plan-rate-limit", Kind: "rate-limit", Phase: Limits},
		{Check: quotas, Name: "plan-quota", Kind: "quota", Phase: Limits},
	}
}

type (
	planRates  map[*consumer.Plan]*limitOf
	planQuotas map[*consumer.Plan]*quotaOf
)

// Check spends one call of the plan's rate.
func (c planRates) Check(x *Exchange) reason.Verdict {
	if l := c[x.Plan]; l != nil {
		return l.check(x, counter.KeyOf(l.limit, x.planKey()), "subscription", 1)
	}
	return x.noLimit()
}

// Check counts one call of the plan's quota.
func (c planQuotas) Check(x *Exchange) reason.Verdict {
	if q := c[x.Plan]; q != nil {
		return q.check(x, x.Text("plan\x00", x.planKey()), "subscription")
	}
	return x.noLimit()
}

func (c planRates) ask(x *Exchange, call *counter.Call, watch bool) {
	if l := c[x.Plan]; l != nil && l.shared != nil {
		call.Rate(l, l.asked, x.planKey(), 1, watch)
	}
}

func (c planQuotas) ask(x *Exchange, call *counter.Call, watch bool) {
	if q := c[x.Plan]; q != nil && q.shared != nil {
		call.Quota(q, q.asked, q.spansAt(x.Now), x.planKey(), 1, watch)
	}
}

// noLimit lets pass what the plan leaves open.
func (x *Exchange) noLimit() reason.Verdict {
	switch {
	case !x.Explaining:
		return reason.Verdict{}
	case x.Plan == nil:
		return reason.Pass(reason.Own("limit", "none without a plan"))
	}
	return reason.Pass(reason.Own("limit", "none in plan "+quote(x.Plan.Name)).At(x.Plan.Source))
}

// planKey is who is counted: the subscription, or on an open plan the application on this stage.
func (x *Exchange) planKey() string {
	if x.Subscription != nil {
		return x.Subscription.Name
	}
	return x.Text(x.Application.Name, "\x00", x.Route.API, "\x00", x.Route.Stage)
}
