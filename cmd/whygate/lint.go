package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/snapshot"
)

func (a *app) lintCommand() *cobra.Command {
	var strict bool
	c := &cobra.Command{
		Use:   "lint FILE|DIR…",
		Short: "Find what will surprise people, before documents are published",
		Long: `Finds all that check finds, and besides it what can be meant, and mostly is not:
scopes, roles and groups that no credential has, access lists that leave subscribers
out, subscriptions that nobody has, clocks that may not differ, addresses that may be
those of a balancer, paths written as another gateway has them, rules that never hold,
strict rules that nobody has watched. The exit code is 1 when there are errors, with --strict
also when there are warnings.`,
		Example: "  whygate lint examples/shop\n  whygate lint --strict examples/shop",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("lint what? name files or folders with documents")
			}
			snap, set, problems := compileOffline(args)
			if snap != nil {
				problems = append(problems, lint(snap, problems)...)
				problems.Sort(set.Files())
			}
			return a.judge(snap, set, problems, strict)
		},
	}
	c.Flags().BoolVar(&strict, "strict", false, "treat warnings as errors")
	return c
}

// lint looks for what people have lost days to elsewhere and what is no mistake everywhere.
func lint(snap *snapshot.Snapshot, checked resource.Problems) resource.Problems {
	l := &linter{snap: snap, checked: checked, access: map[string]written[*policy.Access]{}, method: map[string]written[*policy.Method]{}, demands: map[string]entry{}}
	all := entries(snap.Set)
	for _, e := range all {
		if e.Off || e.Shadow {
			continue
		}
		kind, _, ok := policy.KindNamed(e.Kind)
		if !ok {
			continue
		}
		config := kind.New()
		var wrong resource.Problems
		if resource.Decode(e.Config, config, &wrong); wrong.HasErrors() {
			continue // compileOffline has said so
		}
		switch p := config.(type) {
		case *policy.Scopes:
			l.held(e, all, p.All, p.Any, "scope", func(c resource.Credential) []string { return c.Scopes })
		case *policy.Roles:
			l.held(e, all, p.All, p.Any, "role", func(c resource.Credential) []string { return c.Roles })
		case *policy.Groups:
			l.held(e, all, p.All, p.Any, "group", func(c resource.Credential) []string { return c.Groups })
		case *policy.JWT:
			l.leeway(e, p.Leeway)
		case *policy.HMAC:
			l.leeway(e, p.Leeway)
		case *policy.WAF:
			if p.Paranoia > 2 && len(p.Exclusions) == 0 && p.Directives == "" && e.Enforce == 0 {
				l.warn(e, "paranoia", "waf.unwatched", "let it watch first (shadow: true), and let whygate waf suggest say what to exclude",
					"at paranoia %d many legitimate calls are refused, and nothing is excluded", p.Paranoia)
			}
		case *policy.IPAccess:
			l.address(e, "", "judges")
			l.everybody(e, "allow", p.Allow, "ip-access.allows-everybody", "the list keeps nobody out")
			l.everybody(e, "deny", p.Deny, "ip-access.denies-everybody", "every call is refused")
		case *policy.Geo:
			l.address(e, "", "judges")
		case *policy.Method:
			l.method[placeOf(policy.SourceOf(e.Node(), ""))] = written[*policy.Method]{e, p}
		case *policy.Subscribe:
			l.demands[placeOf(policy.SourceOf(e.Node(), ""))] = e
		case *policy.RateLimit:
			l.per(e, p.Per)
		case *policy.Quota:
			l.per(e, p.Per)
		case *policy.Concurrency:
			l.per(e, p.Per)
		case *policy.Access:
			l.access[placeOf(policy.SourceOf(e.Node(), ""))] = written[*policy.Access]{e, p}
		}
	}
	l.gates()
	l.nobody()
	l.methods()
	l.paths()
	return l.found
}

type linter struct {
	snap    *snapshot.Snapshot
	checked resource.Problems                  // that check has found
	access  map[string]written[*policy.Access] // by their place
	method  map[string]written[*policy.Method]
	demands map[string]entry // the policies subscription
	found   resource.Problems
}

// placeOf tells policies apart: several may stand in one line.
func placeOf(s *reason.Source) string { return s.Document + " " + s.Field }

// entry is an entry of a list of policies; api is "" for those of the Gateway.
type entry struct {
	resource.PolicyEntry
	api string
}

// written is the configuration of an entry.
type written[T any] struct {
	entry  entry
	config T
}

// entries are all policies as they are written.
func entries(set *resource.Set) (all []entry) {
	add := func(api string, list []resource.PolicyEntry) {
		for _, e := range list {
			all = append(all, entry{e, api})
		}
	}
	if set.Gateway != nil {
		add("", set.Gateway.Spec.Policies)
	}
	for _, d := range set.APIs {
		add(d.Meta.Name, d.Spec.Policies)
		for _, s := range d.Spec.Stages {
			add(d.Meta.Name, s.Policies)
		}
		for _, v := range d.Spec.Versions {
			add(d.Meta.Name, v.Policies)
			for _, r := range v.Routes {
				add(d.Meta.Name, r.Policies)
			}
		}
		for _, r := range d.Spec.Routes {
			add(d.Meta.Name, r.Policies)
		}
	}
	return all
}

func (l *linter) add(p resource.Problem, code string) {
	p.Severity, p.Code = resource.Warning, code
	l.found = append(l.found, p)
}

func (l *linter) warn(e entry, field, code, hint, format string, args ...any) {
	l.add(e.Config.Problem(field, fmt.Sprintf(format, args...), hint), code)
}

// held warns of names that no caller can hold, where all of them come from Credentials.
func (l *linter) held(e entry, all []entry, wanted, choice []string, word string, of func(resource.Credential) []string) {
	for _, o := range all {
		if e.api != "" && o.api != "" && o.api != e.api {
			continue
		}
		switch o.Kind {
		case "jwt", "introspection", "forward-auth", "anonymous":
			return // names may come from elsewhere
		}
	}
	if len(l.snap.Set.Credentials) == 0 {
		return // they are elsewhere
	}
	var known []string
	for _, d := range l.snap.Set.Credentials {
		known = append(known, of(d.Spec)...)
	}
	slices.Sort(known)
	known = slices.Compact(known)
	tell := func(field, name, consequence string) {
		hint := "give it to a Credential"
		if l.snap.Consumers.Application(name) != nil {
			hint = fmt.Sprintf("%q is an application; to let applications in by name, use the policy access", name)
		} else if near := resource.Nearest(name, known); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		l.warn(e, field, word+"s.held-by-nobody", hint, "no Credential has the %s %q, %s", word, name, consequence)
	}
	for i, n := range wanted {
		if !slices.Contains(known, n) {
			tell(fmt.Sprintf("all[%d]", i), n, "so every call is refused")
		}
	}
	for i, n := range choice {
		if !slices.Contains(known, n) {
			tell(fmt.Sprintf("any[%d]", i), n, "so it lets nobody in")
		}
	}
}

// usualSkew is how far clocks that are kept by NTP have been seen to differ for a while.
const usualSkew = 5 * time.Second

func (l *linter) leeway(e entry, d resource.Duration) {
	if time.Duration(d) < usualSkew {
		l.warn(e, "leeway", e.Kind+".no-leeway", "30s does no harm", "clocks differ by some seconds now and then, and with a leeway of %v calls are refused meanwhile", d)
	}
}

func (l *linter) per(e entry, per string) {
	at := e.Config.Problem("per", "", "").Pos
	if per == "address" || slices.ContainsFunc(l.checked, func(p resource.Problem) bool { return p.Code == e.Kind+".no-identity" && p.Pos == at }) {
		l.address(e, "per", "counts")
	}
}

// everybody warns of networks that hold every address.
func (l *linter) everybody(e entry, field string, list []resource.Prefix, code, consequence string) {
	for i, n := range list {
		if n.Bits() == 0 {
			family := "IPv4"
			if n.Addr().Is6() {
				family = "IPv6"
			}
			l.warn(e, fmt.Sprintf("%s[%d]", field, i), code, "name the networks that are meant", "%v is every %s address, so %s", n, family, consequence)
		}
	}
}

// nobody warns of APIs that demand a subscription which no application has.
func (l *linter) nobody() {
	if len(l.snap.Set.Credentials)+len(l.snap.Set.Subscriptions) == 0 {
		return // they are elsewhere
	}
	told := map[string]bool{}
	for _, r := range l.snap.Routes {
		if r.OpenPlan != nil || len(r.OpenStages) > 0 || slices.ContainsFunc(l.snap.Set.Subscriptions, func(d *resource.Document[resource.Subscription]) bool { return d.Spec.API == r.API }) {
			continue
		}
		for _, s := range r.Steps {
			if s.Kind != "subscription" || s.Shadow || told[r.API] {
				continue
			}
			if e, ok := l.demands[placeOf(s.Source)]; ok {
				told[r.API] = true
				l.warn(e, "", "subscription.nobody", "write a document of kind Subscription for an application, or give a stage an openPlan", "no application has a subscription to API %q, so every call is refused", r.API)
			}
		}
	}
}

// methods warns of routes of which the policy method lets nothing pass.
func (l *linter) methods() {
	told := map[string]bool{}
	for _, r := range l.snap.Routes {
		for _, s := range r.Steps {
			if s.Kind != "method" || s.Shadow || len(r.Methods) == 0 {
				continue
			}
			m, ok := l.method[placeOf(s.Source)]
			if !ok {
				continue
			}
			passes := func(name string) bool {
				has := func(list []string) bool {
					return slices.ContainsFunc(list, func(m string) bool {
						return strings.EqualFold(m, name) || strings.EqualFold(m, "GET") && name == "HEAD"
					})
				}
				return (len(m.config.Allow) == 0 || has(m.config.Allow)) && !slices.ContainsFunc(m.config.Deny, func(m string) bool { return strings.EqualFold(m, name) })
			}
			where := placeOf(s.Source) + r.Name
			if slices.ContainsFunc(r.Methods, passes) || told[where] {
				continue
			}
			told[where] = true
			l.warn(m.entry, "", "method.refuses-route", "allow one of them, or take the route out", "route %q serves %s, of which this policy lets nothing pass", r.Name, strings.Join(r.Methods, ", "))
		}
	}
}

// paths warns of paths that are written as other gateways have them, and mean something else here.
func (l *linter) paths() {
	for _, d := range l.snap.Set.APIs {
		warn := func(field, code, hint, format string, args ...any) {
			l.add(d.Problem(field, fmt.Sprintf(format, args...), hint), code)
		}
		base := strings.TrimSuffix(d.Spec.BasePath, "/")
		below := func(path, prefix string) bool {
			return prefix != "" && prefix != "/" && (path == prefix || strings.HasPrefix(path, prefix+"/"))
		}
		stages := map[string]string{}
		for _, s := range d.Spec.Stages {
			stages[s.Name] = strings.TrimSuffix(cmp.Or(s.Path, "/"+s.Name), "/")
			if below(base, stages[s.Name]) {
				warn("spec.basePath", "api.stage-twice", "write basePath without it", "the stage %q lies before basePath by itself, so calls go to %s%s", s.Name, stages[s.Name], base)
			}
		}
		lists := map[string][]resource.Route{"spec.routes": d.Spec.Routes}
		for i, v := range d.Spec.Versions {
			lists[fmt.Sprintf("spec.versions[%d].routes", i)] = v.Routes
		}
		for list, routes := range lists {
			for i, r := range routes {
				field := fmt.Sprintf("%s[%d].path", list, i)
				if below(r.Path, base) {
					warn(field, "route.base-twice", "write the path without basePath", "the path of a route lies below basePath, so calls go to %s%s", base, r.Path)
				}
				for _, s := range d.Spec.Stages {
					if below(r.Path, stages[s.Name]) && !below(r.Path, base) {
						warn(field, "route.stage-twice", "write the path without the stage", "the path of a route lies below the stage %q, so calls go to %s%s%s", s.Name, stages[s.Name], base, r.Path)
					}
				}
				for part := range strings.SplitSeq(r.Path, "/") {
					if name, ok := strings.CutPrefix(part, ":"); ok && name != "" {
						warn(field, "route.colon", "write {"+name+"} for any value", "the segment %q is literal here, colon and all", part)
					}
				}
				bare := strings.TrimSuffix(r.Path, "/")
				if bare != r.Path && bare != "" && !slices.ContainsFunc(routes, func(o resource.Route) bool {
					return o.Path == bare || strings.HasPrefix(bare, strings.TrimSuffix(o.Path, "{rest...}")) && strings.HasSuffix(o.Path, "...}")
				}) {
					warn(field, "route.slash-only", "add a route for "+bare+"; "+bare+"/{rest...} serves all that lies below", "calls of %s%s, without the slash at the end, are 404", base, bare)
				}
			}
		}
	}
}

// address warns of policies that go by addresses, where nobody has said whose they are. check warns by
// itself where the listeners show that they are those of a proxy.
func (l *linter) address(e entry, field, what string) {
	if g := l.snap.Set.Gateway; g != nil && g.At("spec.trustedProxies") != g.At("spec") {
		return
	}
	if slices.ContainsFunc(l.checked, func(p resource.Problem) bool {
		return p.Code == e.Kind+".judges-proxy" || p.Code == e.Kind+".counts-proxy" || p.Code == "gateway.proxy-protocol-untrusted"
	}) {
		return
	}
	l.warn(e, field, e.Kind+".proxies-unsaid", "list them under trustedProxies of the Gateway; trustedProxies: [] says that there are none",
		"%s %s by address, and nothing says which proxies stand in front: behind one, all calls have its address", e.Kind, what)
}

// gates compares the two policies that name applications, access and subscription.
func (l *linter) gates() {
	type gate struct {
		access *written[*policy.Access]
		route  *snapshot.Route
	}
	apis := map[string][]gate{}
	for _, r := range l.snap.Routes {
		g, demanded := gate{route: r}, false
		for _, s := range r.Steps {
			if s.Shadow {
				continue
			}
			switch s.Kind {
			case "subscription":
				demanded = true
			case "access":
				if a, ok := l.access[placeOf(s.Source)]; ok && g.access == nil {
					g.access = &a
				}
			}
		}
		if demanded {
			apis[r.API] = append(apis[r.API], g)
		}
	}
	covers := func(s *consumer.Subscription, r *snapshot.Route) bool { return s.Covers(r.Version, r.Stage) }
	for _, d := range l.snap.Set.Subscriptions {
		app := l.snap.Consumers.Application(d.Spec.Application)
		if app == nil {
			continue
		}
		i := slices.IndexFunc(l.snap.Consumers.Subscriptions(app, d.Spec.API), func(s *consumer.Subscription) bool { return s.Name == d.Meta.Name })
		if i < 0 {
			continue
		}
		s := l.snap.Consumers.Subscriptions(app, d.Spec.API)[i]
		var bars *written[*policy.Access]
		open := false
		for _, g := range apis[s.API] {
			switch {
			case !covers(s, g.route):
			case g.access == nil || admits(g.access.config, app):
				open = true
			default:
				bars = cmp.Or(bars, g.access)
			}
		}
		if bars != nil && !open {
			l.add(d.Problem("spec.application", fmt.Sprintf("%q has this subscription, and the policy access lets it call no route of it", app.Name),
				"see access at "+policy.SourceOf(bars.entry.Node(), "").String()), "subscription.barred")
		}
	}
	told := map[string]bool{}
	for _, d := range l.snap.Set.APIs {
		for _, g := range apis[d.Meta.Name] {
			if g.access == nil || g.route.OpenPlan != nil {
				continue
			}
			for i, n := range g.access.config.Allow.Applications {
				app, at := l.snap.Consumers.Application(n), fmt.Sprintf("allow.applications[%d]", i)
				where := placeOf(policy.SourceOf(g.access.entry.Node(), "")) + " " + at + " " + d.Meta.Name
				if app == nil || told[where] || len(l.snap.Consumers.Subscriptions(app, d.Meta.Name)) > 0 {
					continue
				}
				told[where] = true
				l.warn(g.access.entry, at, "access.not-subscribed", "a Subscription lets it in, or take it out of the list",
					"%s may call, and has no subscription to API %q, which the policy subscription demands", strconv.Quote(n), d.Meta.Name)
			}
		}
	}
}

// admits says that access can let callers of an application pass. Subjects may be anybody's.
func admits(p *policy.Access, app *consumer.Application) bool {
	names := func(l policy.AccessList) bool {
		return slices.Contains(l.Applications, app.Name) || app.Owner.Team != "" && slices.Contains(l.Teams, app.Owner.Team) || app.Tenant != "" && slices.Contains(l.Tenants, app.Tenant)
	}
	if names(p.Deny) {
		return false
	}
	none := len(p.Allow.Applications)+len(p.Allow.Teams)+len(p.Allow.Tenants)+len(p.Allow.Subjects) == 0
	return none || len(p.Allow.Subjects) > 0 || names(p.Allow)
}
