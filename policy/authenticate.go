package policy

import (
	"slices"
	"strings"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// Authenticator is a check of the phase Authentication: one way to find out who calls.
type Authenticator interface {
	Check
	// Presents says that the call carries something for this method, be it right or wrong. It costs
	// little and tells nothing.
	Presents(x *Exchange) bool
	// Wants names what the method looks for: "an API key in header X-Api-Key".
	Wants() string
}

// AnyOf is several methods on one route, one of which has to identify the caller.
type AnyOf struct {
	Methods []Step
	at      *reason.Source
}

// AllOf is several methods on one route, each of which has to accept the call.
type AllOf struct{ Methods []Step }

var nothingPresented = reason.New(reason.Reason{
	Code: "authentication.missing", Status: 401,
	Title:  "The call does not say who makes it",
	Says:   "this API wants {wanted}, and the call carries none of them",
	Wanted: "{wanted}",
	Seen:   "nothing of that kind[; {slips}]",
	Fixes: []reason.Fix{
		{By: reason.Caller, Text: "send {wanted}"},
		{By: reason.Application, Text: "ask {owner|the owner of this API} for access if you have none of them"},
	},
	Hint: "the methods are the policies of the phase authentication on this route; a proxy in front may have taken a header away",
})

// NewMethods joins the methods of a route into one check; how is "any" or "all".
func NewMethods(methods []Step, how string) Check {
	if how == "all" {
		return &AllOf{Methods: methods}
	}
	// Who comes without anything is nobody in particular only if no method was tried.
	slices.SortStableFunc(methods, func(a, b Step) int {
		_, last := a.Check.(*anonymousCheck)
		_, first := b.Check.(*anonymousCheck)
		switch {
		case last && !first:
			return 1
		case first && !last:
			return -1
		}
		return 0
	})
	return &AnyOf{Methods: methods, at: methods[0].Source}
}

// Presents is whether the call carries something for one of the methods.
func (c *AnyOf) Presents(x *Exchange) bool {
	return slices.ContainsFunc(c.Methods, func(s Step) bool { return s.Check.(Authenticator).Presents(x) })
}

// Wants lists what the methods want.
func (c *AnyOf) Wants() string {
	var all []string
	for _, s := range c.Methods {
		if w := s.Check.(Authenticator).Wants(); w != "" {
			all = append(all, w)
		}
	}
	return reason.List(all)
}

// Check asks the methods that the call carries something for. The first that accepts it has identified
// the caller; if all refuse, the first refusal is told, and what the others said is a fact of it.
func (c *AnyOf) Check(x *Exchange) reason.Verdict {
	var first reason.Verdict
	var tried []string
	var challenges []string
	for i := range c.Methods {
		s := &c.Methods[i]
		_, anonymous := s.Check.(*anonymousCheck)
		if !s.Check.(Authenticator).Presents(x) && !(anonymous && !first.Refused()) {
			continue
		}
		v := s.Check.Check(x)
		if !v.Refused() {
			if len(challenges) > 0 || len(tried) > 0 {
				x.Extra.Remove("WWW-Authenticate")
			}
			return v
		}
		challenges = append(challenges, x.takeChallenge()...)
		tried = append(tried, s.Name+": "+v.Reason.Code)
		if !first.Refused() {
			first = v
		}
	}
	if first.Refused() {
		for i := range c.Methods {
			if s := &c.Methods[i]; !slices.ContainsFunc(tried, func(t string) bool { return strings.HasPrefix(t, s.Name+": ") }) {
				tried = append(tried, s.Name+": nothing sent")
			}
		}
		x.challenge(challenges)
		first.Facts = append(first.Facts, reason.Own("tried", tried).At(c.at))
		return first
	}
	return c.missing(x)
}

// missing has every method say what it misses, for its challenge and the slip that it finds.
func (c *AnyOf) missing(x *Exchange) reason.Verdict {
	var challenges, slips []string
	for i := range c.Methods {
		v := c.Methods[i].Check.Check(x)
		challenges = append(challenges, x.takeChallenge()...)
		if v.Reason == preflightRefused {
			return v
		}
		if f, ok := v.Facts.Find("slip", reason.ToCaller); ok {
			slips = append(slips, f.Text())
		}
	}
	x.challenge(challenges)
	facts := []reason.Fact{reason.Public("wanted", "one of: "+c.Wants()).At(c.at), x.OwnerFact()}
	if len(slips) > 0 {
		facts = append(facts, reason.Public("slips", strings.Join(slips, "; ")))
	}
	return nothingPresented.Refuse(facts...)
}

// Check asks all methods. The first to identify an application or a subject says who calls.
func (c *AllOf) Check(x *Exchange) reason.Verdict {
	var all reason.Verdict
	for i := range c.Methods {
		id, app, cred := x.Identity, x.Application, x.Credential
		v := c.Methods[i].Check.Check(x)
		if v.Refused() {
			if len(c.Methods) > 1 {
				v.Facts = append(v.Facts, reason.Own("all_of", c.Wants()))
			}
			return v
		}
		if id != nil {
			x.Identity = id
		}
		if app != nil {
			x.Application, x.Credential = app, cred
		}
		all.Facts = append(all.Facts, v.Facts...)
	}
	return all
}

// Presents is whether the call carries something for one of the methods.
func (c *AllOf) Presents(x *Exchange) bool {
	return slices.ContainsFunc(c.Methods, func(s Step) bool { return s.Check.(Authenticator).Presents(x) })
}

// Wants lists what the methods want.
func (c *AllOf) Wants() string {
	var all []string
	for _, s := range c.Methods {
		if w := s.Check.(Authenticator).Wants(); w != "" {
			all = append(all, w)
		}
	}
	return strings.Join(all, " and ")
}

// takeChallenge takes the WWW-Authenticate fields back out of the answer.
func (x *Exchange) takeChallenge() (challenges []string) {
	for i := range x.Extra {
		if x.Extra[i].ID == wire.WWWAuthenticate {
			challenges = append(challenges, x.Extra[i].Value)
		}
	}
	x.Extra.Remove("WWW-Authenticate")
	return challenges
}

// challenge puts one field for each challenge into the answer (RFC 9110 §11.6.1).
func (x *Exchange) challenge(challenges []string) {
	for i, c := range challenges {
		if !slices.Contains(challenges[:i], c) {
			x.Extra.Add("WWW-Authenticate", c)
		}
	}
}
