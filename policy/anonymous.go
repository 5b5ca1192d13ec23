package policy

import (
	"strings"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
)

// Anonymous names the caller of routes that need no identity.
//
// Beside other methods of authentication it takes the calls that carry nothing for any of those. A
// credential that is wrong is refused all the same: who sends one wants to know. Where an anonymous caller may not do something,
// the answer is 401 and asks for one of those credentials; where there is no other method, it is 403.
//
//	policies:
//	- anonymous: {subject: visitor, scopes: [read]}
type Anonymous struct {
	// Subject is the name that rules and records show.
	Subject string `json:"subject" default:"anonymous"`
	// Scopes that everybody has.
	Scopes []string `json:"scopes" example:"[read]"`
	// Roles that everybody has.
	Roles []string `json:"roles"`
	// Groups that everybody belongs to.
	Groups []string `json:"groups"`
}

type anonymousCheck struct {
	identity consumer.Identity
	at       *reason.Source
}

// Compile makes the identity.
func (p *Anonymous) Compile(env *Env) any {
	if strings.TrimSpace(p.Subject) == "" {
		env.Problem("subject", "such as anonymous, or leave the field out", "an identity needs a name")
	}
	env.scopeNames("scopes", p.Scopes)
	env.filled("roles", p.Roles)
	env.filled("groups", p.Groups)
	return &anonymousCheck{at: env.Source(""), identity: consumer.Identity{Method: "anonymous", Subject: p.Subject, Scopes: p.Scopes, Roles: p.Roles, Groups: p.Groups}}
}

// Presents is always false: there is nothing to send.
func (c *anonymousCheck) Presents(*Exchange) bool { return false }

// Wants is nothing.
func (c *anonymousCheck) Wants() string { return "" }

// Check names the caller.
func (c *anonymousCheck) Check(x *Exchange) reason.Verdict {
	if x.Identity == nil && x.Application == nil {
		x.Identity = &c.identity
	}
	if x.Explaining {
		return reason.Pass(reason.Own("subject", c.identity.Subject).At(c.at))
	}
	return reason.Verdict{}
}
