package policy

import (
	"slices"
	"strings"

	"github.com/whygate/whygate/consumer"
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

// challenger is an Authenticator that a WWW-Authenticate field can ask for.
type challenger interface{ Challenge(x *Exchange) string }

// AnyOf is several methods on one route, one of which has to identify the caller.
type AnyOf struct{ group }

// AllOf is several methods on one route, each of which has to accept the call.
type AllOf struct{ group }

// group is the checks of a route that find out who calls. Anonymous is the last of them: who comes
// without anything is nobody in particular only if no other method was tried.
type group struct {
	Methods []Step
	at      *reason.Source
}

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

var applicationsDiffer = reason.New(reason.Reason{
	Code: "authentication.conflict", Status: 401,
	Title:  "The call carries the credentials of two applications",
	Says:   "the credentials of this call belong to two applications[, \"{application}\" and \"{other}\"]",
	Wanted: "credentials of one application",
	Seen:   "{first} of application \"{application}\" and {second} of application \"{other}\"",
	Fixes:  []reason.Fix{{By: reason.Caller, Text: "send credentials that belong to the same application"}},
	Hint:   "authentication: all wants each method to accept the call, for one and the same application",
})

// NewMethods joins the methods of a route into one check; how is "any" or "all".
func NewMethods(list []Step, how string) Check {
	g := group{Methods: list, at: list[0].Source}
	slices.SortStableFunc(list, func(a, b Step) int {
		switch last, first := isAnonymous(&a), isAnonymous(&b); {
		case last && !first:
			return 1
		case first && !last:
			return -1
		}
		return 0
	})
	if how == "all" {
		return &AllOf{g}
	}
	return &AnyOf{g}
}

func isAnonymous(s *Step) bool { _, is := s.Check.(*anonymousCheck); return is }

func (s *Step) presents(x *Exchange) bool { return s.Check.(Authenticator).Presents(x) }

// Presents is whether the call carries something for one of the methods.
func (g *group) Presents(x *Exchange) bool {
	for i := range g.Methods {
		if g.Methods[i].presents(x) {
			return true
		}
	}
	return false
}

// ReadsBody is whether one of the methods may read the request's content.
func (g *group) ReadsBody() bool {
	return slices.ContainsFunc(g.Methods, func(s Step) bool { return s.ReadsBody() })
}

func (s *Step) ReadsBody() bool {
	r, ok := s.Check.(BodyReader)
	return ok && r.ReadsBody()
}

// wants are the sentences of all methods that want something.
func (g *group) wants() (all []string) {
	for _, s := range g.Methods {
		if w := s.Check.(Authenticator).Wants(); w != "" {
			all = append(all, w)
		}
	}
	return all
}

// Wants lists what the methods want.
func (c *AnyOf) Wants() string { return reason.List(c.wants()) }

// Wants lists what the methods want.
func (c *AllOf) Wants() string { return strings.Join(c.wants(), " and ") }

// caller is what methods find out.
type caller struct {
	identity    *consumer.Identity
	application *consumer.Application
	credential  *consumer.Credential
}

func (x *Exchange) caller() caller { return caller{x.Identity, x.Application, x.Credential} }

func (x *Exchange) setCaller(c caller) {
	x.Identity, x.Application, x.Credential = c.identity, c.application, c.credential
}

// attempt is what a method said of a call that it did not accept.
type attempt struct {
	step    *Step
	verdict reason.Verdict
	caller  caller
	extra   wire.Fields // for the answer
	says    string      // instead of a verdict
}

// try asks a method. Unless it accepts the call, nothing that it found or wrote stays in the exchange.
func try(x *Exchange, s *Step) (v reason.Verdict, a attempt, accepted bool) {
	before, written := x.caller(), len(x.Extra)
	v = s.Check.Check(x)
	if !v.Refused() && !x.Unknown {
		return v, attempt{}, true
	}
	a = attempt{step: s, verdict: v, caller: x.caller(), extra: slices.Clone(x.Extra[written:])}
	if !v.Refused() {
		a.says = "cannot be told without making the call"
	}
	x.Unknown, x.Extra = false, x.Extra[:written]
	x.setCaller(before)
	return v, a, false
}

// attempts are the methods that did not accept a call.
type attempts []attempt

// told is the refusal that says most: of a method that could not decide, since it might have accepted the
// call; else of the one that got furthest with what was sent.
func (as attempts) told() (best *attempt) {
	for i := range as {
		if as[i].verdict.Refused() && (best == nil || progress(as[i].verdict) > progress(best.verdict)) {
			best = &as[i]
		}
	}
	return best
}

// unknown says that a method was left open.
func (as attempts) unknown() bool {
	return slices.ContainsFunc(as, func(a attempt) bool { return !a.verdict.Refused() })
}

func (as attempts) of(s *Step) *attempt {
	for i := range as {
		if as[i].step == s {
			return &as[i]
		}
	}
	return nil
}

// progress is how far a method got before it refused.
func progress(v reason.Verdict) int {
	code := v.Reason.Code
	_, cause, _ := strings.Cut(code, ".")
	switch status := v.StatusCode(); {
	case status != 401 && status != 403:
		return 4 // it could not decide, or sends the caller elsewhere
	case status == 403:
		return 3 // it knows who calls
	case cause == "missing":
		return 0
	case cause == "malformed" || strings.HasPrefix(cause, "unknown"):
		return 1 // what was sent may be meant for another method
	}
	return 2
}

// facts are what each method tried and saw.
func (g *group) facts(as attempts, otherwise string) []reason.Fact {
	var tried, saw []string
	for i := range g.Methods {
		s := &g.Methods[i]
		switch a := as.of(s); {
		case a == nil && isAnonymous(s):
		case a == nil:
			tried = append(tried, s.Name+": "+otherwise)
		case a.says != "":
			tried = append(tried, s.Name+": "+a.says)
		default:
			tried = append(tried, s.Name+": "+a.verdict.Reason.Code)
			if text := a.verdict.Facts.Render(a.verdict.Reason.Seen, reason.ToCaller); text != "" {
				saw = append(saw, s.Name+": "+text)
			}
		}
	}
	facts := []reason.Fact{reason.Public("tried", tried).At(g.at)}
	if saw != nil {
		facts = append(facts, reason.Own("saw", saw))
	}
	return facts
}

// Check asks the methods that the call carries something for. The first that accepts it has identified
// the caller. If all refuse, one refusal is told, and what the others said is a fact of it.
func (c *AnyOf) Check(x *Exchange) reason.Verdict {
	var tried attempts
	for i := range c.Methods {
		s := &c.Methods[i]
		if !s.presents(x) && !(isAnonymous(s) && tried == nil) {
			continue
		}
		v, a, accepted := try(x, s)
		if accepted {
			return c.accepted(x, s, v, tried)
		}
		tried = append(tried, a)
	}
	if tried == nil {
		return c.missing(x)
	}
	return c.refuse(x, tried)
}

func (c *AnyOf) accepted(x *Exchange, s *Step, v reason.Verdict, tried attempts) reason.Verdict {
	if isAnonymous(s) {
		x.methods = &c.group
	}
	if x.Explaining {
		v.Facts = append(v.Facts, reason.Public("accepted_by", s.Name).At(s.Source))
		if tried != nil {
			v.Facts = append(v.Facts, c.facts(tried, "not asked")...)
		}
	}
	return v
}

// refuse tells one refusal of those of the methods that were tried.
func (c *AnyOf) refuse(x *Exchange, tried attempts) reason.Verdict {
	facts := c.facts(tried, "nothing sent")
	if tried.unknown() { // the call might pass
		x.Unknown = true
		return reason.Pass(facts...)
	}
	told := tried.told()
	x.setCaller(told.caller)
	challenges := challengesIn(told.extra) // before others, which may say another thing of the same token
	for i := range tried {
		challenges = append(challenges, challengesIn(tried[i].extra)...)
	}
	for i := range c.Methods {
		if ch, ok := c.Methods[i].Check.(challenger); ok && tried.of(&c.Methods[i]) == nil {
			challenges = append(challenges, ch.Challenge(x))
		}
	}
	if told.verdict.StatusCode() != 401 {
		challenges = challengesIn(told.extra)
	}
	told.extra.Remove("WWW-Authenticate")
	x.Extra = append(x.Extra, told.extra...)
	x.challenge(challenges)
	v := told.verdict
	v.Facts = append(slices.Clip(v.Facts), facts...)
	return v
}

// missing has every method say what it misses, for its challenge and the slip that it finds. A method
// that decides by something else than what callers send may accept or refuse the call all the same.
func (c *AnyOf) missing(x *Exchange) reason.Verdict {
	var tried attempts
	var challenges, slips []string
	for i := range c.Methods {
		s := &c.Methods[i]
		v, a, accepted := try(x, s)
		switch {
		case accepted:
			return c.accepted(x, s, v, tried)
		case v.Refused() && v.Reason == preflightRefused:
			return x.refusePreflight("one of: "+c.Wants(), c.at)
		case !v.Refused() || progress(v) > 0:
			tried = append(tried, a)
		default:
			challenges = append(challenges, challengesIn(a.extra)...)
			if f, ok := v.Facts.Find("slip", reason.ToCaller); ok {
				slips = append(slips, f.Text())
			}
		}
	}
	if tried != nil {
		return c.refuse(x, tried)
	}
	x.challenge(challenges)
	facts := []reason.Fact{reason.Public("wanted", "one of: "+c.Wants()).At(c.at), x.OwnerFact()}
	// What one method does not look at, another one may have said more of.
	others := func(s string) bool { return strings.HasPrefix(s, carries) }
	if slices.ContainsFunc(slips, func(s string) bool { return !others(s) }) {
		slips = slices.DeleteFunc(slips, others)
	}
	if len(slips) > 0 {
		facts = append(facts, reason.Public("slips", strings.Join(slips, "; ")))
	}
	return nothingPresented.Refuse(facts...)
}

// Check asks all methods. The first to identify an application says which one calls, and they must agree on
// it. The first identity counts, unless a later one is that of a token and it is not: its claims say most.
func (c *AllOf) Check(x *Exchange) reason.Verdict {
	var facts []reason.Fact
	var open attempts
	for i := range c.Methods {
		s := &c.Methods[i]
		before := x.caller()
		v, a, accepted := try(x, s)
		switch {
		case v.Refused():
			return c.refuse(x, i, a)
		case !accepted:
			open = append(open, a)
			continue
		case before.application != nil && x.Application != before.application:
			return c.conflict(x, before)
		}
		if id := before.identity; id != nil && (x.Identity == nil || isToken(id) || !isToken(x.Identity)) {
			x.Identity = id
		}
		if before.application != nil {
			x.Credential = before.credential
		}
		facts = append(facts, v.Facts...)
	}
	if open != nil {
		x.Unknown = true
		return reason.Pass(c.facts(open, "accepted")...)
	}
	return reason.Verdict{Facts: facts}
}

// isToken says that an identity is what an issuer claims.
func isToken(id *consumer.Identity) bool {
	return id != nil && (id.Method == "jwt" || id.Method == "introspection")
}

// refuse tells the refusal of a method. Those behind it say what they would say, so that nobody finds
// out one by one; nothing is spent for that.
func (c *AllOf) refuse(x *Exchange, i int, a attempt) reason.Verdict {
	known := x.caller()
	was := x.Explaining
	x.Explaining = true
	all := attempts{a}
	for j := range c.Methods {
		s := &c.Methods[j]
		switch {
		case j < i:
			all = append(all, attempt{step: s, says: "accepted"})
		case j == i || isAnonymous(s):
		case !s.presents(x):
			all = append(all, attempt{step: s, says: "nothing sent"})
		case s.ReadsBody() && (x.Content == nil || !x.Content.Known()):
			all = append(all, attempt{step: s, says: "not asked"})
		default:
			_, b, accepted := try(x, s)
			if x.setCaller(known); accepted {
				b = attempt{step: s, says: "would accept"}
			}
			all = append(all, b)
		}
	}
	x.Explaining = was
	if a.caller.application != nil {
		known = a.caller
	}
	x.setCaller(known)
	x.Extra = append(x.Extra, a.extra...)
	v := a.verdict
	v.Facts = append(slices.Clip(v.Facts), reason.Own("all_of", c.Wants()))
	v.Facts = append(v.Facts, c.facts(all, "not asked")...)
	return v
}

// conflict refuses credentials of two applications. Nobody is taken to have called.
func (c *AllOf) conflict(x *Exchange, before caller) reason.Verdict {
	other, first, second := x.Application, "something", "something"
	if before.credential != nil {
		first = before.credential.Prefix
	}
	if x.Credential != nil {
		second = x.Credential.Prefix
	}
	x.setCaller(caller{})
	var challenges []string
	for i := range c.Methods {
		if ch, ok := c.Methods[i].Check.(challenger); ok {
			challenges = append(challenges, ch.Challenge(x))
		}
	}
	x.challenge(challenges)
	return applicationsDiffer.Refuse(reason.Own("application", before.application.Name).At(before.application.Source), reason.Own("other", other.Name).At(other.Source),
		reason.Own("first", first), reason.Own("second", second))
}

// unlessNamed makes a refusal of what a caller may do into a 401, where the caller is anonymous and the route takes credentials,
// which might be of somebody who may (RFC 9110 §15.5.2).
func (x *Exchange) unlessNamed(v reason.Verdict) reason.Verdict {
	if x.methods == nil {
		return v
	}
	var challenges []string
	for i := range x.methods.Methods {
		if ch, ok := x.methods.Methods[i].Check.(challenger); ok {
			challenges = append(challenges, ch.Challenge(x))
		}
	}
	x.challenge(challenges)
	v.Status = 401
	return v.Fix(reason.Caller, "say who calls: send {methods}", reason.Public("methods", reason.List(x.methods.wants())))
}

// challengesIn are the values of WWW-Authenticate fields.
func challengesIn(fields wire.Fields) (challenges []string) {
	for i := range fields {
		if fields[i].ID == wire.WWWAuthenticate {
			challenges = append(challenges, fields[i].Value)
		}
	}
	return challenges
}

// challenge puts one field for each challenge into the answer (RFC 9110 §11.6.1). Of those for tokens of one realm the first
// is enough: clients take the error of one of them (RFC 6750 §3).
func (x *Exchange) challenge(challenges []string) {
	space := func(c string) string { // scheme and realm of a token's
		if !strings.HasPrefix(c, "Bearer realm=") {
			return c
		}
		realm, _, _ := strings.Cut(c, ",")
		return realm
	}
	for i, c := range challenges {
		if !slices.ContainsFunc(challenges[:i], func(before string) bool { return space(before) == space(c) }) {
			x.Extra.Add("WWW-Authenticate", c)
		}
	}
}

// Assume identifies an application as if the call had brought a credential of it, for explanations; ok is false where this
// step takes none that applications have. One of which no credential is known, as where keys are kept apart from the other
// documents, is identified all the same, without scopes, roles and groups.
func (s *Step) Assume(x *Exchange, consumers *consumer.Directory, a *consumer.Application) (v reason.Verdict, ok bool) {
	kinds := []string{s.Kind}
	for _, m := range s.methods() {
		kinds = append(kinds, m.Kind)
	}
	kinds = slices.DeleteFunc(kinds, func(k string) bool { return lapsesOf(k) == nil })
	if len(kinds) == 0 {
		return v, false
	}
	assumed := "a call with a credential, of which none is known here"
	cred := consumers.CredentialOf(a, kinds, x.Now)
	if cred == nil {
		cred = &consumer.Credential{Application: a, Identity: &consumer.Identity{Method: kinds[0], Subject: a.Name}}
	} else if v = lapsesOf(cred.Identity.Method).lapsed(x, cred); v.Refused() {
		return v, true
	} else {
		assumed = "a call with credential " + cred.Prefix
	}
	if v = x.identify(cred); v.Refused() {
		return v, true
	}
	return reason.Pass(reason.Own("assumed", assumed), reason.Own("application", a.Name).At(a.Source)), true
}

// lapsesOf are the reasons of a kind of policy whose credentials belong to applications; nil for the others.
func lapsesOf(kind string) *lapses {
	switch kind {
	case "key-auth":
		return &keyLapses
	case "basic":
		return &basicLapses
	case "hmac":
		return &hmacLapses
	case "mtls":
		return &mtlsLapses
	}
	return nil
}

// methods are those of a step of several.
func (s *Step) methods() []Step {
	switch g := s.Check.(type) {
	case *AnyOf:
		return g.Methods
	case *AllOf:
		return g.Methods
	}
	return nil
}
