package gateway

import (
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/snapshot"
)

// miss says why no route serves the call.
func (c *call) miss() reason.Verdict {
	usable := func(r *snapshot.Route) bool { return c.usable(r) }
	if !c.g.misses.take(c.w.Start) {
		return c.snap.PlainMiss(&c.x)
	}
	return c.snap.Miss(&c.x, usable)
}

// usable says that this caller could use a route: the checks up to the subscription let them
// pass. Strangers are told of routes that need no credential, and of no others.
func (c *call) usable(r *snapshot.Route) bool { return Usable(&c.x, r) }

// Usable judges a route for a call that was not matched to it. The call is not changed.
func Usable(x *policy.Exchange, r *snapshot.Route) bool {
	y := policy.Exchange{Request: x.Request, Now: x.Now, Scheme: x.Scheme, TLS: x.TLS, Client: x.Client, Route: &r.Route, Explaining: true, Cheap: true, BodySize: x.BodySize}
	for i := range r.Steps {
		s := &r.Steps[i]
		if s.Phase > policy.Subscribed {
			break
		}
		if s.Phase == policy.Form {
			continue
		}
		if !s.Watches(&y) && (s.Check.Check(&y).Refused() || y.Unknown) {
			return false
		}
	}
	return true
}
