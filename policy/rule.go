package policy

import (
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
)

// Rule decides by expressions over the call, its caller and the time.
//
// The rules are read in order, and the first one whose expression holds decides. Where none does, the
// default decides: deny if there is a rule that allows, else allow. A refusal shows the rule and
// the value behind each of its terms; when nothing allows the call, it shows the rule that came
// closest and the terms of it that failed.
//
// Expressions are written in CEL (https://cel.dev), for instance
// `claims.dept == "sales" && request.method in ["GET", "HEAD"]`, and checked when they are loaded. They may name:
//
//   - request.method, .path, .host, .scheme, .size (in bytes, -1 if not announced)
//   - request.headers["name"] (in lower case; several of one name are joined by commas), request.query["name"],
//     request.cookies["name"], whose values explanations never show
//   - request.params["name"] (of the route's path), decoded like the query
//   - client.ip, client.hop (its position in X-Forwarded-For, 0 for the connection itself)
//   - identity.subject, .issuer, .method (key-auth, jwt, …), .scopes, .roles, .groups, and claims of the token (of a
//     certificate: claims.subject, .issuer, .fingerprint and .names)
//   - application.name, application.team, application.tenant, plan, api, version, stage, route
//   - now, the time of the call: now.getHours("Europe/Berlin") < 18
//   - body, the content as JSON: body.amount < 1000
//
// Besides the functions of CEL there are `client.ip.within("10.0.0.0/8")`, which takes lists too, and lowerAscii,
// upperAscii, trim, substring, split, indexOf, lastIndexOf and charAt of texts. A field that may be absent is asked for with
// `has(claims.dept)` or read with `claims[?"dept"].orValue("")`.
//
// An expression that cannot be decided, since a claim is missing or a value is of another type, fails
// closed: a rule that allows does not hold, a rule that denies refuses. So does a query parameter or cookie with
// several values, and an expression with loops that takes more than 100000 steps. Where rules name body, the
// content is read, up to MaxBody, and must be JSON in which no name of an object is there twice.
//
//	policies:
//	- key-auth
//	- rule:
//	    rules:
//	    - {name: night, effect: deny, when: 'now.getHours("Europe/Berlin") < 6', message: closed from midnight to six}
//	    - {name: office, effect: allow, when: 'client.ip.within("192.0.2.0/24")'}
//	    - {name: managers, effect: allow, when: '"manager" in identity.roles'}
type Rule struct {
	// Rules in their order; the first that holds decides.
	Rules []RuleEntry `json:"rules" required:"true"`
	// Default decides where no rule holds. Empty: deny if any rule allows, else allow.
	Default string `json:"default" enum:"deny,allow"`
	// MaxBody is the largest content that is read where a rule names body.
	MaxBody resource.Size `json:"maxBody" default:"1MiB" min:"1" max:"64MiB"`
}

// RuleEntry is one rule.
type RuleEntry struct {
	// Name of the rule, for explanations.
	Name string `json:"name" required:"true" example:"office-hours"`
	// Effect of the rule where it holds.
	Effect string `json:"effect" required:"true" enum:"allow,deny"`
	// When the rule holds: an expression in CEL that is true or false.
	When string `json:"when" required:"true" example:"request.method == \"GET\""`
	// Message is told to callers whom this rule refuses, or who were refused as they came close to being
	// allowed by it. What the rule wants they are not told, only the values of theirs that it looked at.
	Message string `json:"message"`
}

var (
	ruleDenied = reason.New(reason.Reason{
		Code: "rule.denied", Status: 403,
		Title:  "A rule of this API refuses this call",
		Says:   "{message|a rule of this API refuses this call}[; it is rule \"{rule}\": {trail}]",
		Wanted: "a call for which this does not hold: {when}",
		Seen:   "{seen|what the rule looks for}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "make a call for which this does not hold: {condition}"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} whether this call may be made"},
		},
		Hint: "rule \"{rule}\" is written in {written}; rules before it that allow would win",
	})
	ruleNoMatch = reason.New(reason.Reason{
		Code: "rule.no-match", Status: 403,
		Title:  "No rule of this API allows this call",
		Says:   "{message|no rule of this API allows this call}[; rule \"{closest}\" comes closest: {trail}]",
		Wanted: "{wanted}",
		Seen:   "{seen|nothing that would do}",
		Fixes: []reason.Fix{
			{By: reason.Owner, Text: "ask {owner|the owner of this API} for a rule that allows this call"},
		},
		Hint: "of {rules} that allow, rule \"{closest}\" comes closest ({written})",
	})
	ruleFailed = reason.New(reason.Reason{
		Code: "rule.failed", Status: 403,
		Title:  "A rule of this API cannot be decided for this call",
		Says:   "{message|a rule of this API cannot be decided for this call}[: {problem}][; it is rule \"{rule}\": {trail}]",
		Wanted: "{wanted}",
		Seen:   "{problem|values that the rule cannot use}",
		Fixes: []reason.Fix{
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to let the rule say what holds without it[: has({missing}) && …]"},
		},
		Hint: "rule \"{rule}\" ({written}) fails closed; has(…) asks whether a field is there",
	})
)

// Bounds of a list of rules. Those with loops may each cost some milliseconds.
const (
	maxRules       = 200
	maxCostlyRules = 20
)

type ruleCheck struct {
	rules   []rule
	allow   bool // the default
	maxBody int64
	body    bool
	caller  bool // a rule is about who calls, or what was agreed with them
	hidden  secrets
	at      *reason.Source // of the default, or of all
}

type rule struct {
	*RuleEntry
	deny bool
	when *expression
	at   *reason.Source
}

// Compile checks the expressions.
func (p *Rule) Compile(env *Env) any {
	c := &ruleCheck{maxBody: int64(p.MaxBody), hidden: secrets{consumers: env.Consumers}, at: env.Source("default")}
	if len(p.Rules) > maxRules {
		env.Problem("rules", "make several policies of it", "%d rules, at most %d are read", len(p.Rules), maxRules)
		return c
	}
	allows, denies, costly, caller := 0, 0, 0, ""
	for i := range p.Rules {
		r := &p.Rules[i]
		at := index("rules", i)
		if slices.ContainsFunc(p.Rules[:i], func(o RuleEntry) bool { return o.Name == r.Name }) {
			env.Problem(at+".name", "give each a name of its own", "two rules are named %q", r.Name)
		}
		if r.Effect == "deny" {
			denies++
		} else {
			allows++
		}
		e := env.compileExpression(at+".when", r.When, cel.BoolType)
		if e == nil {
			continue
		}
		if e.ast.Expr().AsLiteral() == types.True && i < len(p.Rules)-1 {
			env.Lint("rule.unreachable", at+".when", "put it last", "rule %q always holds, so none behind it is ever asked", r.Name)
		}
		for _, name := range e.params {
			if params := templateParams(env.Route.Template); !slices.Contains(params, name) {
				hint := ""
				if near := resource.Nearest(name, params); near != "" {
					hint = "did you mean request.params." + near + "?"
				}
				env.Lint("rule.no-param", at+".when", hint, "the path %s has no {%s}: on this route the rule cannot be decided", env.Route.Template, name)
			}
		}
		for _, cmp := range e.compared {
			if why, hint := cmp.never(env.Consumers); why != "" {
				env.Lint("rule.never-holds", at+".when", hint, "a term of rule %q never holds: %s", r.Name, why)
			}
		}
		if e.caller && caller == "" {
			caller = at + ".when"
		}
		if e.costly {
			if costly++; costly > maxCostlyRules {
				env.Problem(at+".when", "join some of them by ||", "more than %d rules have loops, or search in the body", maxCostlyRules)
			}
		}
		c.body, c.caller = c.body || e.body, c.caller || e.caller || e.plan
		c.rules = append(c.rules, rule{RuleEntry: r, deny: r.Effect == "deny", when: e, at: env.Source(at + ".when")})
	}
	if caller != "" {
		env.lintNobody("rule.no-identity", "rules over identity, claims and application see empty values")
	}
	c.allow = p.Default == "allow" || p.Default == "" && allows == 0
	switch {
	case c.allow && denies == 0:
		env.Lint("rule.refuses-nothing", "default", "leave it out, or add a rule that denies", "default: allow without a rule that denies refuses nothing")
	case !c.allow && allows == 0:
		env.Lint("rule.allows-nothing", "default", "leave it out, or add a rule that allows", "default: deny without a rule that allows refuses every call")
	}
	return c
}

// PerRoute says that the rules depend on the path of the route.
func (p *Rule) PerRoute() bool {
	return slices.ContainsFunc(p.Rules, func(r RuleEntry) bool { return strings.Contains(r.When, "params") })
}

// Hide keeps the values of a header, query parameter or cookie out of explanations. It is called before
// the check is in use.
func (c *ruleCheck) Hide(name string) {
	if name != "" {
		c.HidePlaces(func(place []string) bool {
			return slices.ContainsFunc(place, func(key string) bool { return strings.EqualFold(key, name) })
		})
	}
}

// HidePlaces keeps values out of explanations by where they stand, such as customer, phone of body.customer.phone: what the
// policy mask hides. It is called before the check is in use.
func (c *ruleCheck) HidePlaces(hides func(place []string) bool) {
	for i := range c.rules {
		c.rules[i].when.hide(hides)
	}
}

// Impersonal says that no rule is about who calls.
func (c *ruleCheck) Impersonal() bool { return !c.caller }

// ReadsBody says that a rule names body.
func (c *ruleCheck) ReadsBody() bool { return c.body }

// Check asks the rules in their order.
func (c *ruleCheck) Check(x *Exchange) reason.Verdict {
	v := newVars(x, c.maxBody)
	defer v.free()
	for i := range c.rules {
		r := &c.rules[i]
		out, _, err := r.when.eval(v)
		switch {
		case v.refused.Refused():
			return v.refused
		case err != nil && r.deny:
			return c.failed(v, r, nil)
		case err == nil && out == types.True && r.deny:
			return c.denied(v, r)
		case err == nil && out == types.True:
			if x.Explaining {
				return reason.Pass(reason.Rule("allowed_by", "rule "+strconv.Quote(r.Name)+": "+trail(r.when.judge(v, &c.hidden))).At(r.at))
			}
			return reason.Verdict{}
		case err == nil && out != types.False && r.deny: // an expression of no fixed type that is neither
			return c.failed(v, r, nil)
		}
	}
	if !c.allow {
		return c.noMatch(v)
	}
	if x.Explaining {
		return reason.Pass(reason.Rule("default", "allow: none of "+plural(len(c.rules), "rule")+" refuses it").At(c.at))
	}
	return reason.Verdict{}
}

// trail writes the terms of a rule with their results.
func trail(outcomes []outcome) string {
	var b strings.Builder
	for i := range outcomes {
		if i > 0 {
			b.WriteString(" · ")
		}
		if i == maxTermsTold {
			b.WriteString("… " + plural(len(outcomes)-i, "more term"))
			break
		}
		b.WriteString(outcomes[i].mark())
	}
	return cut(b.String(), maxTold)
}

// facts are what all refusals of a rule have in common.
func (c *ruleCheck) facts(v *vars, r *rule, outcomes []outcome) []reason.Fact {
	facts := []reason.Fact{reason.Rule("rule", r.Name).At(r.at), reason.Rule("when", whenText(r.when)), reason.Rule("trail", trail(outcomes)), reason.Rule("written", r.at.String()), v.x.OwnerFact()}
	if r.when.ast.Expr().Kind() != ast.LiteralKind { // else no call is without it
		facts = append(facts, reason.Rule("condition", whenText(r.when)))
	}
	if r.Message != "" {
		facts = append(facts, reason.Public("message", r.Message))
	}
	return facts
}

// whenText is the expression on one line, without what secrets are compared with.
func whenText(e *expression) string {
	var parts []string
	for i, t := range e.terms {
		if i == maxTermsTold {
			parts = append(parts, "…")
			break
		}
		parts = append(parts, t.text)
	}
	return strings.Join(parts, " && ")
}

// denied is the verdict of a rule that denies and holds. What it saw in each term is shown.
func (c *ruleCheck) denied(v *vars, r *rule) reason.Verdict {
	outcomes := r.when.judge(v, &c.hidden)
	facts := c.facts(v, r, outcomes)
	if seen := seenIn(outcomes, true); seen != "" {
		facts = append(facts, reason.Own("seen", seen))
	}
	return r.unlessNamed(v.x, ruleDenied.Refuse(facts...))
}

// unlessNamed is Exchange.unlessNamed where the rule asks who calls: other refusals would be the same for everybody.
func (r *rule) unlessNamed(x *Exchange, v reason.Verdict) reason.Verdict {
	if r.when.caller {
		return x.unlessNamed(v)
	}
	return v
}

// noMatch names the rule that came closest: the one with the fewest terms that fail, and of those
// the one with the most that hold.
func (c *ruleCheck) noMatch(v *vars) reason.Verdict {
	var closest *rule
	var best []outcome
	least, most, allows := 0, 0, 0
	for i := range c.rules {
		r := &c.rules[i]
		if r.deny {
			continue
		}
		allows++
		outcomes := r.when.judge(v, &c.hidden)
		hold := 0
		for i := range outcomes {
			if outcomes[i].holds() {
				hold++
			}
		}
		if fail := len(outcomes) - hold; closest == nil || fail < least || fail == least && hold > most {
			closest, best, least, most = r, outcomes, fail, hold
		}
	}
	if closest == nil { // default: deny, and nothing that allows
		return ruleNoMatch.Refuse(reason.Rule("rules", "no rules").At(c.at), v.x.OwnerFact())
	}
	if slices.ContainsFunc(best, func(o outcome) bool { return o.failed() }) && !slices.ContainsFunc(best, func(o outcome) bool { return o.value == types.False }) {
		return c.failed(v, closest, best)
	}
	facts := append(c.facts(v, closest, best), reason.Rule("closest", closest.Name), reason.Rule("rules", plural(allows, "rule")))
	return closest.unlessNamed(v.x, c.wanted(ruleNoMatch, closest, best, facts))
}

// failed is the verdict of a rule that cannot be decided.
func (c *ruleCheck) failed(v *vars, r *rule, outcomes []outcome) reason.Verdict {
	if outcomes == nil {
		outcomes = r.when.judge(v, &c.hidden)
	}
	facts := c.facts(v, r, outcomes)
	for i := range outcomes {
		if o := &outcomes[i]; o.problem != "" {
			facts = append(facts, reason.Own("problem", o.problem))
			if o.missing != "" {
				facts = append(facts, reason.Own("missing", o.missing))
			}
			if o.near != "" {
				facts = append(facts, reason.Own("near", o.near))
			}
			break
		}
	}
	if r.deny { // what would make a denying rule hold is no remedy
		return r.unlessNamed(v.x, ruleFailed.Refuse(append(facts, reason.Rule("wanted", "a call for which this can be decided: "+whenText(r.when)))...))
	}
	return r.unlessNamed(v.x, c.wanted(ruleFailed, r, outcomes, facts))
}

// wanted adds the terms that failed, what they saw, and what would make them hold.
func (c *ruleCheck) wanted(because *reason.Reason, r *rule, outcomes []outcome, facts []reason.Fact) reason.Verdict {
	var failed, remedies []string
	for i := range outcomes {
		o := &outcomes[i]
		if o.holds() || len(failed) == maxTermsTold {
			continue
		}
		failed = append(failed, o.text)
		remedy := o.remedy(r.when)
		if remedy == "" {
			remedy = "make a call for which this holds: " + o.text
		}
		if !slices.Contains(remedies, remedy) {
			remedies = append(remedies, remedy)
		}
	}
	facts = append(facts, reason.Rule("wanted", strings.Join(failed, " && ")), reason.Rule("failed_terms", failed))
	if seen := seenIn(outcomes, false); seen != "" {
		facts = append(facts, reason.Own("seen", seen))
	}
	return because.Refuse(facts...).Fix(reason.Caller, "{remedy}", reason.Rule("remedy", strings.Join(remedies, ", and ")))
}

// seenIn joins what terms saw, those that hold or those that do not.
func seenIn(outcomes []outcome, hold bool) string {
	var seen []string
	for i := range outcomes {
		o := &outcomes[i]
		if o.holds() != hold || len(seen) >= maxTermsTold {
			continue
		}
		parts := o.seen
		if o.problem != "" {
			parts = append(slices.Clone(parts), o.problem)
		}
		for _, s := range parts {
			if !slices.Contains(seen, s) {
				seen = append(seen, s)
			}
		}
	}
	return cut(strings.Join(seen, ", "), maxTold)
}
