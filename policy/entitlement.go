package policy

import (
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// entitlement is what scopes, roles and groups have in common: names that the identity of the
// caller must hold, all of some and one of others.
type entitlement struct {
	word     string // scope, role, group
	reason   *reason.Reason
	held     func(*consumer.Identity) []string
	fact     func(name string, v any) reason.Fact // for what is wanted
	all, any []string
	wants    string // in words
	at       *reason.Source
	// scope is what the answer to bearer tokens asks for; "" for none.
	scope string
}

// compile checks the lists of a configuration.
func (e *entitlement) compile(env *Env, all, any []string) {
	e.all, e.any = all, any
	e.at = env.Source("")
	kind := e.word + "s"
	if len(all)+len(any) == 0 {
		env.Problem("", "for example "+kind+": {all: [orders.read]}", "%s without names decides nothing", kind)
	}
	for _, l := range []struct {
		field string
		names []string
	}{{"all", all}, {"any", any}} {
		for i, n := range l.names {
			at := index(l.field, i)
			switch {
			case strings.TrimSpace(n) != n || n == "":
				env.Problem(at, "remove the spaces", "%q has spaces around it, or nothing in it", n)
			case slices.Contains(l.names[:i], n):
				env.Problem(at, "name it once", "%s %q is there twice", e.word, n)
			}
		}
	}
	for i, n := range any {
		if slices.Contains(all, n) {
			env.Lint(kind+".any-useless", index("any", i), "take it out of any or out of all", "%s %q is wanted by all already, so any adds nothing", e.word, n)
		}
	}
	switch {
	case len(any) == 0 || len(all) == 0 && len(any) == 1:
		e.wants = e.words(append(slices.Clone(all), any...), "and")
	case len(all) == 0:
		e.wants = "one of the " + e.words(any, "or")
	default:
		e.wants = e.words(all, "and") + ", and one of the " + e.words(any, "or")
	}
	env.lintNobody(kind+".no-identity", kind+" refuses every call")
}

// lintNobody warns when no policy of the route tells who calls.
func (e *Env) lintNobody(code, consequence string) {
	switch {
	case e.Identifies(false) || e.Kinds["anonymous"]:
	case e.Identifies(true) || e.Kinds["anonymous"+Watching]:
		if !e.Shadow {
			e.Lint(code, "", "let both of them watch: shadow: true", "the policies that identify callers only watch on this route: of calls that they would have refused nobody is known, and %s", consequence)
		}
	default:
		e.Lint(code, "", "add key-auth, jwt or another policy that identifies callers", "no policy on this route identifies who calls, so %s", consequence)
	}
}

// Scope is what the caller needs at least, for challenges to bearer tokens.
func (e *entitlement) Scope() string { return e.scope }

// words writes `scope "a"`, `scopes "a" and "b"`.
func (e *entitlement) words(names []string, and string) string {
	if len(names) == 0 {
		return "no " + e.word
	}
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = strconv.Quote(n)
	}
	if len(names) == 1 {
		return e.word + " " + quoted[0]
	}
	last := len(quoted) - 1
	return e.word + "s " + strings.Join(quoted[:last], ", ") + " " + and + " " + quoted[last]
}

// Check looks for the wanted names among those that the caller holds.
func (e *entitlement) Check(x *Exchange) reason.Verdict {
	var held []string
	if x.Identity != nil {
		held = e.held(x.Identity)
	}
	pass := len(e.any) == 0
	for _, n := range e.any {
		if slices.Contains(held, n) {
			pass = true
			break
		}
	}
	for _, n := range e.all {
		pass = pass && slices.Contains(held, n)
	}
	if !pass {
		return e.refuse(x, held)
	}
	if x.Explaining {
		var used []string
		for _, n := range held {
			if slices.Contains(e.all, n) || slices.Contains(e.any, n) {
				used = append(used, n)
			}
		}
		return reason.Pass(e.fact("wanted", e.wants).At(e.at), reason.Own("held", e.words(bounded(used), "and")))
	}
	return reason.Verdict{}
}

// maxShownNames bounds how many names of a caller a refusal shows.
const maxShownNames = 50

// bounded copies names for a record. Tokens may hold any number of them, of any length.
func bounded(names []string) []string {
	n := min(len(names), maxShownNames)
	list := make([]string, 0, n+1)
	for _, s := range names[:n] {
		list = append(list, strings.ToValidUTF8(clip(s, 100), "�"))
	}
	if len(names) > n {
		list = append(list, "… "+strconv.Itoa(len(names)-n)+" more")
	}
	return list
}

// clip shortens a text and copies it.
func clip(s string, most int) string {
	if len(s) > most {
		return s[:most] + "…"
	}
	return strings.Clone(s)
}

// refuse says what is wanted, held and missing.
func (e *entitlement) refuse(x *Exchange, held []string) reason.Verdict {
	missing := []string{}
	for _, n := range e.all {
		if !slices.Contains(held, n) {
			missing = append(missing, n)
		}
	}
	lacks := ""
	if len(missing) > 0 {
		lacks = e.words(missing, "and")
	}
	if !slices.ContainsFunc(e.any, func(n string) bool { return slices.Contains(held, n) }) && len(e.any) > 0 {
		one := e.words(e.any, "or")
		if len(e.any) > 1 {
			one = "one of the " + one
		}
		if lacks != "" {
			lacks += ", and "
		}
		lacks += one
		missing = append(missing, e.any...)
	}
	facts := []reason.Fact{e.fact("wants", e.wants).At(e.at), e.fact("lacks", lacks), e.fact("missing", missing), x.OwnerFact()}
	if x.Identity == nil {
		facts = append(facts, e.fact("has", "no "+e.word+": no policy has identified the caller"))
	} else {
		shown := bounded(held)
		facts = append(facts, reason.Own("has", e.words(shown, "and")), reason.Own("held", shown), reason.Own("caller", x.Caller()))
	}
	if slip := e.slip(missing, held); slip != "" {
		facts = append(facts, reason.Own("slip", slip))
	}
	if c := x.Credential; c != nil && !isToken(x.Identity) {
		facts = append(facts, reason.Rule("credential", c.Name).At(c.Source), reason.Rule("written", c.Source.String()))
	}
	if e.scope != "" && byToken(x) {
		x.Extra.Put(wire.WWWAuthenticate, "Bearer realm="+quote(x.Route.API)+`, error="insufficient_scope", scope=`+quote(e.scope))
	}
	return x.unlessNamed(e.reason.Refuse(facts...))
}

// slip finds a name that is held and was probably meant.
func (e *entitlement) slip(missing, held []string) string {
	for i, h := range held {
		if i == maxShownNames {
			break
		}
		if len(h) > 200 {
			continue
		}
		for _, m := range missing {
			if parts := strings.FieldsFunc(h, func(r rune) bool { return r == ' ' || r == ',' }); len(parts) > 1 && slices.Contains(parts, m) {
				return strconv.Quote(h) + " is one " + e.word + " here, and was probably meant as several"
			}
		}
	}
	for _, m := range missing {
		if near := resource.Nearest(m, held[:min(len(held), maxShownNames)]); near != "" {
			return "it has " + e.word + " " + strconv.Quote(near) + ", which is not " + strconv.Quote(m)
		}
	}
	return ""
}

// byToken says that the caller was identified by a bearer token (RFC 6750).
func byToken(x *Exchange) bool {
	if x.Identity == nil {
		return false
	}
	if isToken(x.Identity) {
		return true
	}
	_, ok := bearer(x.Fields.Get(wire.Authorization))
	return ok && x.Identity.Method != "anonymous"
}
