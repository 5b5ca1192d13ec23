package policy

import (
	"net/netip"

	"github.com/gaissmai/bart"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
)

// Maintenance takes an API out of service and says until when. It decides before everything else,
// so that nobody is counted or sent away for another reason meanwhile.
//
//	policies:
//	- maintenance: {until: 2026-12-01T06:00:00Z, message: "moving to new servers", allow: [10.0.0.0/8]}
type Maintenance struct {
	// Until is when the API is expected back; the policy ends by itself then. Empty: open end.
	Until resource.Time `json:"until" example:"2026-12-01T06:00:00Z"`
	// From is when it begins. Empty: now.
	From resource.Time `json:"from"`
	// Message for callers.
	Message string `json:"message"`
	// Allow lists networks that may call nevertheless, to test.
	Allow []resource.Prefix `json:"allow"`
}

var underMaintenance = reason.New(reason.Reason{
	Code: "maintenance.active", Status: 503,
	Title:  "This API is under maintenance",
	Says:   "API {api} is under maintenance[ until {until}][: {message}]",
	Wanted: "a call after the maintenance[, which ends {until}]",
	Seen:   "a call at {now}",
	Fixes: []reason.Fix{
		{By: reason.Caller, Text: "call again[ after {until}]"},
		{By: reason.Owner, Text: "ask {owner|the owner of this API} when it will be back[, or to let {address} in meanwhile]"},
	},
	Hint: "remove the policy maintenance, or add your network to its allow list",
})

type maintenanceCheck struct {
	Maintenance
	allow bart.Lite
	at    *reason.Source
}

// Compile builds the table of those who may call.
func (p *Maintenance) Compile(env *Env) any {
	c := &maintenanceCheck{Maintenance: *p, at: env.Source("")}
	for _, n := range p.Allow {
		c.allow.Insert(n.Prefix)
	}
	if !p.From.IsZero() && !p.Until.IsZero() && !p.From.Before(p.Until.Time) {
		env.Problem("until", "", "the maintenance ends before it begins")
	}
	return c
}

// Check refuses while the maintenance lasts.
func (c *maintenanceCheck) Check(x *Exchange) reason.Verdict {
	if !c.From.IsZero() && x.Now.Before(c.From.Time) || !c.Until.IsZero() && !x.Now.Before(c.Until.Time) {
		if !x.Explaining {
			return reason.Verdict{}
		}
		if x.Now.Before(c.From.Time) {
			return reason.Pass(reason.Public("begins", c.From.Time).At(c.at))
		}
		return reason.Pass(reason.Public("ended", c.Until.Time).At(c.at))
	}
	if len(c.Allow) > 0 && c.allow.Contains(x.Client.Addr) {
		if x.Explaining {
			n, _ := c.allow.LookupPrefixLPM(netip.PrefixFrom(x.Client.Addr, x.Client.Addr.BitLen()))
			return reason.Pass(reason.Rule("allowed_by", n).At(c.at))
		}
		return reason.Verdict{}
	}
	facts := []reason.Fact{reason.Public("api", x.Route.API).At(c.at), reason.Public("now", x.Now), x.OwnerFact(), reason.Own("address", x.Client.Addr)}
	if !c.Until.IsZero() {
		facts = append(facts, reason.Public("until", c.Until.Time))
		x.Extra.Add("Retry-After", secondsText(c.Until.Sub(x.Now)))
	}
	if c.Message != "" {
		facts = append(facts, reason.Public("message", c.Message))
	}
	return underMaintenance.Refuse(facts...)
}
