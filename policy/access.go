package policy

import (
	"slices"
	"strconv"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
)

// Access lets calls in by who makes them: the application, its team, its tenant, or the subject.
//
// What is denied wins over what is allowed. With an allow list, whoever is not named there is
// refused, by application, team, tenant or subject, one of which is enough; with a deny list alone, everybody
// else may pass. An API's list holds for all its routes; a route that has one of its own replaces it.
//
//	policies:
//	- key-auth
//	- access: {allow: {teams: [finance]}, deny: {applications: [finance-intern]}}
type Access struct {
	// Allow lists who may call.
	Allow AccessList `json:"allow"`
	// Deny lists who may not, whatever Allow says.
	Deny AccessList `json:"deny"`
}

// AccessList names callers.
type AccessList struct {
	// Applications by name.
	Applications []string `json:"applications" example:"[bistro]"`
	// Teams whose applications are meant: owner.team of the Application.
	Teams []string `json:"teams" example:"[finance]"`
	// Tenants whose applications are meant: tenant of the Application.
	Tenants []string `json:"tenants" example:"[acme]"`
	// Subjects as identities name them: the claim sub of a token, a user name, the subject of a certificate; of an API key or
	// a signature its application.
	Subjects []string `json:"subjects" example:"[alice]"`
}

var (
	accessDenied = reason.New(reason.Reason{
		Code: "access.denied", Status: 403,
		Title:  "This caller may not call this API",
		Says:   "{caller} may not call this API[: {match} is denied]",
		Wanted: "a caller that is not denied[: none of {denied}]",
		Seen:   "{caller}[ of team \"{team}\"][ of tenant \"{tenant}\"]",
		Fixes:  []reason.Fix{{By: reason.Owner, Text: "ask {owner|the owner of this API} to take {match|the caller} off the deny list"}},
		Hint:   "deny of this policy wins over allow[; application \"{application}\" is written in {written}]",
	})
	accessNotAllowed = reason.New(reason.Reason{
		Code: "access.not-allowed", Status: 403,
		Title:  "This caller is not on the allow list of this API",
		Says:   "{caller} is not among those who may call this API[: {allowed}]",
		Wanted: "one of {allowed}",
		Seen:   "{caller}[ of team \"{team}\"][ of tenant \"{tenant}\"][; did the list mean {near}?]",
		Fixes: []reason.Fix{
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to allow {caller|this caller}"},
			{By: reason.Caller, Text: "call as somebody who is allowed[: {allowed}]"},
		},
		Hint: "allow of this policy names applications, teams, tenants and subjects[; application \"{application}\" is written in {written}]",
	})
)

type accessCheck struct {
	allow, deny     accessSet
	allowAt, denyAt *reason.Source
}

// accessSet is an AccessList to look things up in.
type accessSet struct {
	applications, teams, tenants, subjects map[string]struct{}
	list                                   []string // in words
	names                                  AccessList
}

func newAccessSet(l AccessList) accessSet {
	s := accessSet{applications: map[string]struct{}{}, teams: map[string]struct{}{}, tenants: map[string]struct{}{}, subjects: map[string]struct{}{}, names: l}
	for _, p := range []struct {
		word  string
		names []string
		into  map[string]struct{}
	}{{"application", l.Applications, s.applications}, {"team", l.Teams, s.teams}, {"tenant", l.Tenants, s.tenants}, {"subject", l.Subjects, s.subjects}} {
		for _, n := range p.names {
			p.into[n] = struct{}{}
			s.list = append(s.list, p.word+" "+strconv.Quote(n))
		}
	}
	return s
}

// match says which entry names the caller.
func (s *accessSet) match(x *Exchange) (word, name string) {
	if a := x.Application; a != nil {
		if _, ok := s.applications[a.Name]; ok {
			return "application", a.Name
		}
		if _, ok := s.teams[a.Owner.Team]; ok && a.Owner.Team != "" {
			return "team", a.Owner.Team
		}
		if _, ok := s.tenants[a.Tenant]; ok && a.Tenant != "" {
			return "tenant", a.Tenant
		}
	}
	if id := x.Identity; id != nil {
		if _, ok := s.subjects[id.Subject]; ok {
			return "subject", id.Subject
		}
	}
	return "", ""
}

// Compile builds the sets.
func (p *Access) Compile(env *Env) any {
	c := &accessCheck{allow: newAccessSet(p.Allow), deny: newAccessSet(p.Deny), allowAt: env.Source("allow"), denyAt: env.Source("deny")}
	if len(c.allow.list)+len(c.deny.list) == 0 {
		env.Problem("", "list applications, teams, tenants or subjects under allow or deny", "access without names decides nothing")
	}
	known, teams, tenants := env.Consumers.Names()
	for _, l := range []struct {
		field string
		names []string
		known []string
		what  string
	}{
		{"allow.applications", p.Allow.Applications, known, "application"}, {"deny.applications", p.Deny.Applications, known, "application"},
		{"allow.teams", p.Allow.Teams, teams, "team"}, {"deny.teams", p.Deny.Teams, teams, "team"},
		{"allow.tenants", p.Allow.Tenants, tenants, "tenant"}, {"deny.tenants", p.Deny.Tenants, tenants, "tenant"},
	} {
		for i, n := range l.names {
			if _, ok := slices.BinarySearch(l.known, n); ok || n == "" {
				continue
			}
			hint := ""
			if near := resource.Nearest(n, l.known[:min(len(l.known), maxNearNames)]); near != "" {
				hint = "did you mean " + strconv.Quote(near) + "?"
			}
			if _, ok := slices.BinarySearch(teams, n); ok {
				hint = strconv.Quote(n) + " is the team of applications: write it under teams"
			} else if _, ok := slices.BinarySearch(known, n); ok {
				hint = strconv.Quote(n) + " is an application: write it under applications"
			} else if hint == "" {
				hint = "for groups, roles and scopes of callers there are policies of these names"
			}
			switch l.what {
			case "team":
				env.Lint("access.unknown-team", index(l.field, i), hint, "no application has the team %q as its owner", n)
			case "tenant":
				env.Lint("access.unknown-tenant", index(l.field, i), hint, "no application belongs to the tenant %q", n)
			default:
				env.Lint("access.unknown-application", index(l.field, i), hint, "there is no application %q", n)
			}
		}
	}
	for _, l := range []struct {
		field string
		names []string
	}{
		{"deny.applications", p.Deny.Applications}, {"deny.teams", p.Deny.Teams}, {"deny.tenants", p.Deny.Tenants}, {"deny.subjects", p.Deny.Subjects},
		{"allow.applications", p.Allow.Applications}, {"allow.teams", p.Allow.Teams}, {"allow.tenants", p.Allow.Tenants}, {"allow.subjects", p.Allow.Subjects},
	} {
		env.filled(l.field, l.names)
	}
	for _, l := range []struct {
		field       string
		names, deny []string
	}{
		{"allow.applications", p.Allow.Applications, p.Deny.Applications}, {"allow.teams", p.Allow.Teams, p.Deny.Teams}, {"allow.tenants", p.Allow.Tenants, p.Deny.Tenants}, {"allow.subjects", p.Allow.Subjects, p.Deny.Subjects},
	} {
		for i, n := range l.names {
			if slices.Contains(l.deny, n) {
				env.Problem(index(l.field, i), "take it out of one of them", "%q is allowed and denied; deny wins", n)
			}
		}
	}
	env.lintNobody("access.no-identity", "access knows nobody")
	return c
}

// maxNearNames bounds the search for a name that was probably meant.
const maxNearNames = 10000

// Check looks the caller up, in the deny list first.
func (c *accessCheck) Check(x *Exchange) reason.Verdict {
	word, name := c.deny.match(x)
	if word != "" && !x.lifted(accessDenied) {
		return x.unlessNamed(accessDenied.Refuse(append([]reason.Fact{reason.Rule("match", word+" "+strconv.Quote(name)).At(c.denyAt), reason.Rule("denied", bounded(c.deny.list))}, callerFacts(x)...)...))
	}
	word, name = c.allow.match(x)
	if word == "" && len(c.allow.list) > 0 {
		facts := append([]reason.Fact{reason.Rule("allowed", bounded(c.allow.list)).At(c.allowAt)}, callerFacts(x)...)
		if near := c.near(x); near != "" {
			facts = append(facts, reason.Rule("near", near))
		}
		return x.unlessNamed(accessNotAllowed.Refuse(facts...))
	}
	if x.Explaining {
		if word != "" {
			return reason.Pass(reason.Rule("allowed_by", word+" "+strconv.Quote(name)).At(c.allowAt))
		}
		return reason.Pass(reason.Rule("not_in", bounded(c.deny.list)).At(c.denyAt))
	}
	return reason.Verdict{}
}

// near finds an allowed name that differs from the caller's by a slip.
func (c *accessCheck) near(x *Exchange) string {
	if a := x.Application; a != nil {
		if n := resource.Nearest(a.Name, c.allow.names.Applications); n != "" {
			return "application " + strconv.Quote(a.Name) + " by " + strconv.Quote(n)
		}
		if n := resource.Nearest(a.Owner.Team, c.allow.names.Teams); n != "" {
			return "team " + strconv.Quote(a.Owner.Team) + " by " + strconv.Quote(n)
		}
		if n := resource.Nearest(a.Tenant, c.allow.names.Tenants); n != "" && a.Tenant != "" {
			return "tenant " + strconv.Quote(a.Tenant) + " by " + strconv.Quote(n)
		}
		if slices.Contains(c.allow.names.Subjects, a.Name) {
			return "application " + strconv.Quote(a.Name) + ", which it names as a subject,"
		}
	}
	if id := x.Identity; id != nil {
		if n := resource.Nearest(id.Subject, c.allow.names.Subjects); n != "" {
			return "subject " + strconv.Quote(clip(id.Subject, 100)) + " by " + strconv.Quote(n)
		}
	}
	return ""
}

// callerFacts say who calls, for refusals of it.
func callerFacts(x *Exchange) []reason.Fact {
	facts := []reason.Fact{x.OwnerFact()}
	switch a, id := x.Application, x.Identity; {
	case a != nil:
		facts = append(facts, reason.Own("caller", x.Caller()), reason.Own("application", a.Name).At(a.Source), reason.Rule("written", a.Source.String()))
		if a.Owner.Team != "" {
			facts = append(facts, reason.Own("team", a.Owner.Team))
		}
		if a.Tenant != "" {
			facts = append(facts, reason.Own("tenant", a.Tenant))
		}
		if id != nil && id.Subject != a.Name {
			facts = append(facts, reason.Own("subject", clip(id.Subject, 100)))
		}
	case id != nil:
		facts = append(facts, reason.Own("caller", strconv.Quote(clip(id.Subject, 100))), reason.Own("subject", clip(id.Subject, 100)))
	default:
		facts = append(facts, reason.Own("caller", "a caller whom no policy has identified"))
	}
	return facts
}
