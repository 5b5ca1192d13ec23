package snapshot

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
)

// level is a list of policies and where it stands: gateway, API, stage, version or route.
type level struct {
	list  []resource.PolicyEntry
	scope string // for the names of counters
	at    func(field, message, hint string) resource.Problem
	field string
}

// inherited is a policy as it holds on a route.
type inherited struct {
	entry resource.PolicyEntry
	name  string
	scope string
	kind  policy.Kind
	order int
}

// decoded is the configuration of a policy, and its fields that could not be decoded.
type decoded struct {
	config policy.Policy
	faulty map[string]bool
}

// policies works out which policies hold on a route and compiles them. The policy mock, where it does not only watch,
// answers every call that the others let pass.
func (c *compiler) policies(m *mounted, r *resource.Route, field string, route *Route) (mocked bool) {
	api := "API/" + route.API
	levels := []level{{list: c.Gateway.Policies, scope: "Gateway", field: "spec.policies"}}
	if g := c.Set.Gateway; g != nil {
		levels[0].at = g.Problem
	}
	levels = append(levels,
		level{m.d.Spec.Policies, api, m.d.Problem, "spec.policies"},
		level{m.stage.Policies, api + "/stages/" + route.Stage, m.d.Problem, m.stageField + ".policies"},
		level{m.version.Policies, api + "/versions/" + route.Version, m.d.Problem, m.versionField + ".policies"},
		level{r.Policies, api + "/stages/" + route.Stage + "/versions/" + route.Version + "/routes/" + route.Name, m.d.Problem, field + ".policies"})
	var held []inherited
	for _, l := range levels {
		held = c.inherit(held, l)
	}
	slices.SortStableFunc(held, func(a, b inherited) int {
		return cmp.Or(cmp.Compare(a.kind.Phase, b.kind.Phase), cmp.Compare(a.order, b.order))
	})
	c.checkMethods(held)
	kinds := map[string]bool{}
	for _, h := range held {
		if h.entry.Shadow {
			kinds[h.kind.Name+policy.Watching] = true
		} else {
			kinds[h.kind.Name] = true
		}
	}
	for _, h := range held {
		c.compilePolicy(m, route, h, kinds)
		mocked = mocked || h.kind.Name == "mock" && !h.entry.Shadow && shareOf(h.entry.Enforce) == 0
	}
	c.implied(route, kinds)
	c.lintRoute(m, field, route, kinds)
	c.joinMethods(m, r, route)
	route.ShareLimits(route.Steps)
	return mocked
}

// checkMethods finds methods of authentication that are to be enforced for some callers only, beside others:
// what that means for a call that the others refuse, nobody could say.
func (c *compiler) checkMethods(held []inherited) {
	isMethod := func(h inherited) bool { return h.kind.Phase == policy.Authentication && !h.entry.Shadow }
	several := 0
	for _, h := range held {
		if isMethod(h) {
			several++
		}
	}
	for _, h := range held {
		if several > 1 && isMethod(h) && h.entry.Enforce > 0 && h.entry.Enforce < 100 {
			n := h.entry.Node()
			where := n.Document() + " " + n.Path() + " enforce"
			if !c.told[where] {
				c.told[where] = true
				c.problem(n.Problem("enforce", fmt.Sprintf("%s is one of several methods of authentication of a route, and cannot be enforced for a share of callers", h.name), "take enforce out, or watch it first: shadow: true"))
			}
		}
	}
}

// joinMethods makes one step of the methods of authentication, where a route has several.
func (c *compiler) joinMethods(m *mounted, r *resource.Route, route *Route) {
	isMethod := func(s policy.Step) bool { return s.Phase == policy.Authentication && !s.Shadow }
	first := slices.IndexFunc(route.Steps, isMethod)
	var methods, rest []policy.Step
	for _, s := range route.Steps {
		if isMethod(s) {
			methods = append(methods, s)
		} else {
			rest = append(rest, s)
		}
	}
	if len(methods) < 2 {
		return
	}
	how := cmp.Or(r.Authentication, m.d.Spec.Authentication)
	joined := policy.Step{Check: policy.NewMethods(methods, how), Name: "authentication", Kind: "authentication", Phase: policy.Authentication, Source: methods[0].Source}
	route.Steps = slices.Insert(rest, first, joined)
}

// inherit applies one level: a policy replaces one of the same name, or switches it off.
func (c *compiler) inherit(held []inherited, l level) []inherited {
	here := map[string]bool{}
	for i, e := range l.list {
		at := fmt.Sprintf("%s[%d]", l.field, i)
		name := cmp.Or(e.Name, e.Kind)
		if here[name] {
			c.problem(l.at(at, fmt.Sprintf("two policies of this list are named %q", name), "give one of them a name of its own: name: …"))
			continue
		}
		here[name] = true
		pos := slices.IndexFunc(held, func(h inherited) bool { return h.name == name })
		if e.Off {
			if pos < 0 {
				c.lint(l.at(at, fmt.Sprintf("there is no policy %q to switch off", name), ""), "policy.off-nothing")
			} else {
				held = slices.Delete(held, pos, pos+1)
			}
			continue
		}
		kind, order, ok := policy.KindNamed(e.Kind)
		if !ok {
			hint := "known: " + strings.Join(policy.Names(), ", ")
			if n := resource.Nearest(e.Kind, policy.Names()); n != "" {
				hint = fmt.Sprintf("did you mean %q?", n)
			}
			c.problem(l.at(at, fmt.Sprintf("there is no policy %q", e.Kind), hint))
			continue
		}
		h := inherited{entry: e, name: name, scope: l.scope, kind: kind, order: order}
		if pos >= 0 {
			held[pos] = h
		} else {
			held = append(held, h)
		}
	}
	return held
}

// compilePolicy compiles one policy for a route, or takes what was compiled for a route that is the
// same to it.
func (c *compiler) compilePolicy(m *mounted, route *Route, h inherited, kinds map[string]bool) {
	node := h.entry.Node()
	where := node.Document() + " " + node.Path()
	d, ok := c.configs[where]
	if !ok {
		d.config = h.kind.New()
		d.faulty = resource.Decode(h.entry.Config, d.config, &c.problems)
		c.configs[where] = d
	}
	config := d.config
	// What a policy may depend on besides its configuration.
	key := where + "\x00" + route.API + "\x00" + route.Version + "\x00" + route.Stage + "\x00" + strings.Join(route.Methods, ",") + "\x00" + fmt.Sprint(sortedKeys(kinds))
	if p, ok := config.(policy.PerRoute); ok && p.PerRoute() {
		key += "\x00" + route.Mount + "\x00" + route.Template
	}
	made, ok := c.compiled[key]
	if !ok {
		env := &policy.Env{Node: h.entry.Config, Faulty: d.faulty, Name: h.name, Problems: &c.problems, Route: &route.Route, Consumers: c.Consumers, Trust: c.Trust,
			Memory: c.Memory, Quotas: c.Quotas, Shared: c.Shared, Gateway: &c.Gateway, LimitName: h.scope + "/" + h.name, Kinds: kinds, Shadow: h.entry.Shadow, Keep: c.keep, Local: c.local, Resolve: node.Resolve,
			Watch: c.watch, Authorities: c.authorities, Log: c.Log}
		made = config.Compile(env)
		c.compiled[key] = made
		if _, refuses := made.(policy.Check); !refuses && h.kind.Phase == policy.Rewrite && (h.entry.Shadow || h.entry.Enforce > 0) {
			what, field := "watch", "shadow"
			if !h.entry.Shadow {
				what, field = "enforce", "enforce"
			}
			c.problem(node.Problem("", fmt.Sprintf("%s changes what passes, so there is nothing to %s", h.entry.Kind, what), "take "+field+" out, or the policy"))
		}
	}
	if d.faulty != nil { // it was compiled only to find what else is wrong
		return
	}
	step := policy.Step{Name: h.name, Kind: h.kind.Name, Phase: h.kind.Phase, Shadow: h.entry.Shadow,
		Share: shareOf(h.entry.Enforce), Source: policy.SourceOf(node, "")}
	if check, ok := made.(policy.Check); ok {
		step.Check = check
		route.Steps = append(route.Steps, step)
	}
	if p, ok := made.(policy.Preparer); h.entry.Shadow && !(ok && p.Prepares()) { // it watches, and changes nothing
		return
	}
	if e, ok := made.(policy.RequestEditor); ok {
		route.RequestEdits = append(route.RequestEdits, step.RequestEdit(e))
	}
	if e, ok := made.(policy.ResponseEditor); ok {
		route.ResponseEdits = append(route.ResponseEdits, step.ResponseEdit(e))
	}
	if m, ok := made.(policy.RecordMasker); ok {
		route.Masks = append(route.Masks, m)
	}
	if f, ok := made.(policy.ContentFilter); ok {
		route.Filters = append(route.Filters, step.Filter(f))
	}
}

// shareOf is a share of callers as a Step has it, of 1<<16: 0 for all of them, and at least 1 for any part.
func shareOf(p resource.Percent) uint32 {
	if p <= 0 || p >= 100 {
		return 0
	}
	return max(1, uint32(p/100*(1<<16)))
}

// watch is policy.Env.Watch.
func (c *compiler) watch(path string) {
	if !slices.Contains(c.Watched, path) {
		c.Watched = append(c.Watched, path)
	}
}

func sortedKeys(m map[string]bool) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// implied adds what follows from the policies of a route: the gateway's bound on bodies where no
// policy sets one, and the limits of plans behind a subscription.
func (c *compiler) implied(route *Route, kinds map[string]bool) {
	if !kinds["size"] {
		var at *reason.Source
		if g := c.Set.Gateway; g != nil {
			if at = source(g, "spec.limits.bodyBytes"); g.At("spec.limits.bodyBytes") == g.At("spec.limits") {
				at = nil // the default
			}
		}
		route.insert(policy.Step{Check: policy.DefaultSize(int64(c.Gateway.Limits.BodyBytes), at), Name: "size", Kind: "size", Phase: policy.Form, Source: at})
	}
	if kinds["subscription"] {
		c.apis[route.API] = true
		for _, s := range c.planSteps {
			route.insert(s)
		}
	}
	// Challenges for tokens name the scopes that are wanted.
	for _, s := range route.Steps {
		if e, ok := s.Check.(interface{ Scope() string }); ok && !s.Shadow && e.Scope() != "" {
			route.Scope = strings.TrimSpace(route.Scope + " " + e.Scope())
		}
	}
	// Explanations of rules do not show what carries a key, nor what a mask hides.
	for _, s := range route.Steps {
		rules, ok := s.Check.(interface{ Hide(string) })
		if !ok {
			continue
		}
		if m, ok := s.Check.(interface{ HidePlaces(func([]string) bool) }); ok && len(route.Masks) > 0 {
			m.HidePlaces(route.Hides)
		}
		for _, k := range route.Steps {
			if key, ok := k.Check.(interface{ Carriers() []string }); ok {
				for _, name := range key.Carriers() {
					rules.Hide(name)
				}
			} else if key, ok := k.Check.(interface{ HeaderName() string }); ok {
				rules.Hide(key.HeaderName())
			}
		}
	}
	// Pages must be allowed to send the key.
	for _, s := range route.Steps {
		cors, ok := s.Check.(interface{ AllowHeader(string) })
		if !ok {
			continue
		}
		for _, k := range route.Steps {
			if key, ok := k.Check.(interface{ HeaderName() string }); ok && key.HeaderName() != "" {
				cors.AllowHeader(key.HeaderName())
			}
			if signed, ok := k.Check.(interface{ HeaderNames() []string }); ok {
				for _, name := range signed.HeaderNames() {
					cors.AllowHeader(name)
				}
			}
		}
	}
}

// insert puts a step at the end of its phase.
func (r *Route) insert(s policy.Step) {
	i := len(r.Steps)
	for i > 0 && r.Steps[i-1].Phase > s.Phase {
		i--
	}
	r.Steps = slices.Insert(r.Steps, i, s)
}

// answersPreflights says that the route has the policy cors.
func (r *Route) answersPreflights() bool {
	return slices.ContainsFunc(r.Steps, func(s policy.Step) bool { return s.Kind == "cors" && !s.Shadow })
}

// identifies is the first step that finds out who calls, or nil.
func (r *Route) identifies() *policy.Step {
	for i := range r.Steps {
		if s := &r.Steps[i]; s.Phase == policy.Authentication && s.Kind != "anonymous" && !s.Shadow {
			return s
		}
	}
	return nil
}

// lintRoute looks for what surprises people later.
func (c *compiler) lintRoute(m *mounted, field string, route *Route, kinds map[string]bool) {
	authenticates := route.identifies() != nil
	serves := func(method string) bool { return len(route.Methods) == 0 || slices.Contains(route.Methods, method) }
	if authenticates && !kinds["cors"] && serves("OPTIONS") && len(route.Methods) > 0 {
		c.lint(m.d.Problem(field+".methods", "CORS preflights (OPTIONS) of this route are refused for want of a key: browsers send none with them", "add the policy cors, which answers preflights before authentication"), "cors.preflight-refused")
	}
	if authenticates && !kinds["cors"] && len(route.Methods) == 0 {
		c.lint(m.d.Problem(field, "this route serves OPTIONS like any other method, so CORS preflights are refused for want of a key", "add the policy cors if web pages call this API, or list the methods"), "cors.preflight-refused")
	}
}
