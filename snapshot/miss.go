package snapshot

import (
	"cmp"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

var (
	routeNone = reason.New(reason.Reason{
		Code: "route.none", Status: 404,
		Title:  "There is no such path",
		Says:   "no route for {method} {path}[ on {host}][; the nearest is {nearest}]",
		Wanted: "a path that a route serves[, such as {nearest}]",
		Seen:   "{method} {path}[ on {host}]",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "check the path[; did you mean {nearest}?]"}, {By: reason.Owner, Text: "add a route for {method} {path}"}},
		Hint:   "[callers who can use it are told {withheld}; ]paths are literal but for segments in braces[; stages are mounted at {stages}]",
	})
	routeMethod = reason.New(reason.Reason{
		Code: "route.method", Status: 405,
		Title:  "This path does not serve that method",
		Says:   "{path} serves {allowed}, not {method}",
		Wanted: "{allowed}",
		Seen:   "{method}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "use {allowed}[; a redirect that turned {lost} into GET is the usual cause: then call {path} itself]"}, {By: reason.Owner, Text: "add {method} to the methods of the route"}},
		Hint:   "methods of the route {route}[; a client that follows a 301 or 302 repeats a {lost} as GET]",
	})
	routeSlash = reason.New(reason.Reason{
		Code: "route.slash", Status: 404,
		Title:  "The path is right but for its slashes",
		Says:   "no route for {method} {path}; {nearest} exists",
		Wanted: "{nearest}",
		Seen:   "{path}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "call {nearest}"}},
		Hint:   "/a, /a/ and //a are three paths to the gateway, as they are to many services",
	})
	routeStageMissing = reason.New(reason.Reason{
		Code: "route.stage-missing", Status: 404,
		Title:  "The stage or base path is missing",
		Says:   "no route for {method} {path}; {nearest} exists[; the page before was {referer}, so a link or redirect of the application lost {prefix}]",
		Wanted: "{nearest}",
		Seen:   "{path}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "call {nearest}"},
			{By: reason.Owner, Text: "[let the application that wrote {referer} build its links from X-Forwarded-Prefix, which is {prefix}]"},
		},
		Hint: "Location, Link and cookie paths are rewritten by the gateway; links inside pages are the application's",
	})
	routePrefixDoubled = reason.New(reason.Reason{
		Code: "route.prefix-doubled", Status: 404,
		Title:  "The stage or base path stands there twice",
		Says:   "no route for {method} {path}; {nearest} exists",
		Wanted: "{nearest}",
		Seen:   "{path}, with {prefix} too often",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "call {nearest}"},
			{By: reason.Owner, Text: "an application that puts {prefix} before its links itself wants strip: none, or not to use X-Forwarded-Prefix"},
		},
		Hint: "the prefix is put before links by the gateway and by the application",
	})
	routeCase = reason.New(reason.Reason{
		Code: "route.case", Status: 404,
		Title:  "The path is right but for capital letters",
		Says:   "no route for {method} {path}; {nearest} exists",
		Wanted: "{nearest}",
		Seen:   "{path}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "call {nearest}"}},
		Hint:   "paths are compared byte by byte",
	})
	routeHost = reason.New(reason.Reason{
		Code: "route.host", Status: 404,
		Title:  "This host name does not serve the path",
		Says:   "no route for {method} {path}[ on {host}]; {nearest_host} serves it",
		Wanted: "Host: {nearest_host}",
		Seen:   "Host: {host|none, which HTTP/1.0 allows}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "call {nearest_host}"}, {By: reason.Owner, Text: "add {host} to the hosts of the API"}},
		Hint:   "a proxy in front that replaces Host causes this for every call",
	})
	routeVersionRetired = reason.New(reason.Reason{
		Code: "route.version-retired", Status: 410,
		Title:  "This version of the API is no longer in service",
		Says:   "version {version} of API {api} has been retired[; in service: {versions}]",
		Wanted: "version {versions}",
		Seen:   "version {version}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "move to version {versions}[: call {nearest}][: send {header}]"}, {By: reason.Owner, Text: "ask {owner|the owner of this API} how to move on"}},
		Hint:   "state of the version in API {api}",
	})
	routeVersionUnknown = reason.New(reason.Reason{
		Code: "route.version-unknown", Status: 404,
		Title:  "There is no such version of the API",
		Says:   "API {api} has no version {version}[; in service: {versions}]",
		Wanted: "{header}: {versions}",
		Seen:   "{header}: {version}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "send {header}: {versions}"}},
		Hint:   "versions of API {api}",
	})
)

// preflight finds the route that a CORS preflight asks about: the one for the method that the
// page wants to use, if that route has a policy for it.
func (s *Snapshot) preflight(x *policy.Exchange) *Route {
	asked, ok := x.Fields.Find(wire.AccessControlRequestMethod)
	if !ok {
		return nil
	}
	if _, ok := x.Fields.Find(wire.Origin); !ok {
		return nil
	}
	q := search{method: asked, fields: x.Fields, path: x.Path}
	r := s.router.match(x.Host, &q)
	if r == nil { // browsers ask before they could know the method
		q = search{path: x.Path, any: true}
		s.router.match(x.Host, &q)
		if len(q.found) > 0 {
			r = q.found[0]
		}
	}
	return r
}

// Also names the routes that serve the path as well, but less specifically than chosen.
func (s *Snapshot) Also(x *policy.Exchange, chosen *Route) []string {
	q := search{path: x.Path, any: true}
	s.router.match(x.Host, &q)
	var list []string
	for _, r := range q.found {
		if r == chosen || len(r.Methods) > 0 && !slices.Contains(r.Methods, x.Method) {
			continue
		}
		if name := r.API + " " + r.Name + " (" + r.Mount + r.Template + ")"; !slices.Contains(list, name) && len(list) < 5 {
			list = append(list, name)
		}
	}
	return list
}

// near is a route that the call did not hit, but nearly.
type near struct {
	reason *reason.Reason
	path   string // what to call instead
	host   string
	prefix string
	route  *Route
}

// Miss says why no route serves a call. usable tells whether the caller could use a
// route; the others are facts for its owner only, so that strangers learn nothing.
func (s *Snapshot) Miss(x *policy.Exchange, usable func(*Route) bool) reason.Verdict {
	facts := []reason.Fact{
		reason.Public("method", strings.Clone(x.Method)),
		reason.Public("path", short(x.Path)),
	}
	if x.Host != "" {
		facts = append(facts, reason.Public("host", strings.Clone(x.Host)))
	}
	q := search{method: x.Method, fields: x.Fields, path: x.Path}
	s.router.match(x.Host, &q)
	if len(q.methods) > 0 {
		allowed := slices.Clone(q.methods)
		slices.Sort(allowed)
		allowed = slices.Compact(allowed)
		x.Extra.Add("Allow", strings.Join(allowed, ", "))
		facts = append(facts, reason.Public("allowed", allowed).At(q.others.Source), reason.Rule("route", q.others.Name))
		if x.Method == "GET" && slices.Contains(allowed, "POST") {
			facts = append(facts, reason.Public("lost", "POST"))
		}
		return routeMethod.Refuse(facts...)
	}
	if r := q.retired; r != nil && usable(r) {
		return routeVersionRetired.Refuse(append(append(facts, s.versionFacts(r, r.Version)...), s.moved(x, r)...)...)
	}
	if r := q.version; r != nil && usable(r) {
		h := s.Set.API(r.API).Spec.VersionHeader
		v, _ := x.Fields.Lookup(h)
		return routeVersionUnknown.Refuse(append(append(facts, reason.Public("header", h)), s.versionFacts(r, short(v))...)...)
	}
	best, hidden := s.nearest(x, usable)
	if best == nil {
		switch {
		case hidden != nil:
			told := hidden.reason.Code
			if hidden.reason == routeNone {
				told = "of the path that is nearest"
			}
			facts = append(append(facts, hidden.facts(reason.Rule)...), reason.Rule("withheld", told))
		case q.retired != nil:
			facts = append(facts, reason.Rule("withheld", "that version "+q.retired.Version+" of API "+q.retired.API+" is retired"))
			for _, f := range s.moved(x, q.retired) {
				f.Tier = reason.ToOwner
				facts = append(facts, f.At(q.retired.Source))
			}
		case q.version != nil:
			h := s.Set.API(q.version.API).Spec.VersionHeader
			facts = append(facts, reason.Rule("withheld", "that API "+q.version.API+" has no such version as the header "+h+" says").At(q.version.Source))
		}
		return routeNone.Refuse(append(facts, s.stageFacts()...)...)
	}
	facts = append(facts, best.facts(reason.Public)...)
	if best.reason == routeStageMissing {
		if ref := refererPath(x); strings.HasPrefix(ref, best.prefix+"/") || ref == best.prefix {
			facts = append(facts, reason.Public("referer", short(ref)))
		}
	}
	return best.reason.Refuse(append(facts, s.stageFacts()...)...)
}

// PlainMiss is Miss without looking for near misses.
func (s *Snapshot) PlainMiss(x *policy.Exchange) reason.Verdict {
	return routeNone.Refuse(reason.Public("method", strings.Clone(x.Method)), reason.Public("path", short(x.Path)))
}

func (n *near) facts(as func(string, any) reason.Fact) []reason.Fact {
	fs := []reason.Fact{as("nearest", n.path).At(n.route.Source)}
	if n.prefix != "" {
		fs = append(fs, as("prefix", n.prefix))
	}
	if n.host != "" {
		fs = append(fs, as("nearest_host", n.host))
	}
	return fs
}

func (s *Snapshot) versionFacts(r *Route, version string) []reason.Fact {
	return []reason.Fact{reason.Public("api", r.API).At(r.Source), reason.Public("version", version), reason.Public("versions", r.Versions), (&policy.Exchange{Route: &r.Route}).OwnerFact()}
}

// moved says how the newest version in service is called: by a header, or at another path.
func (s *Snapshot) moved(x *policy.Exchange, r *Route) []reason.Fact {
	spec := &s.Set.API(r.API).Spec
	var stage string
	for _, st := range spec.Stages {
		if st.Name == r.Stage {
			stage = cmp.Or(st.Path, "/"+st.Name)
		}
	}
	for i := len(spec.Versions) - 1; i >= 0; i-- {
		v := &spec.Versions[i]
		if v.State == "retired" {
			continue
		}
		if v.Path == "" {
			return []reason.Fact{reason.Public("header", spec.VersionHeader)}
		}
		path := cleanMount(stage) + cleanMount(spec.BasePath) + cleanMount(v.Path) + x.Path[min(len(r.Mount), len(x.Path)):]
		q := search{method: x.Method, fields: x.Fields, path: path}
		if s.router.match(x.Host, &q) != nil {
			return []reason.Fact{reason.Public("nearest", short(path))}
		}
	}
	return nil
}

// stageFacts say where stages are mounted, as far as a list of them helps.
func (s *Snapshot) stageFacts() []reason.Fact {
	if len(s.stages) == 0 {
		return nil
	}
	return []reason.Fact{reason.Rule("stages", s.stages)}
}

// nearest tries what callers usually get wrong, likeliest first. It returns the first near
// miss that the caller could use, and the first that they could not.
func (s *Snapshot) nearest(x *policy.Exchange, usable func(*Route) bool) (best, hidden *near) {
	try := func(n near, path, host string) bool {
		if path == "" || path[0] != '/' {
			return false
		}
		q := search{method: x.Method, fields: x.Fields, path: path}
		r := s.router.match(host, &q)
		if r == nil {
			return false
		}
		n.route = r
		if n.path == "" {
			n.path = short(path)
		}
		if usable(r) {
			best = &n
			return true
		}
		if hidden == nil {
			hidden = &n
		}
		return false
	}
	p := x.Path
	// The page before names the stage that the link lost.
	if ref := refererPath(x); ref != "" {
		for _, m := range s.mounts {
			if m.path != "" && (ref == m.path || strings.HasPrefix(ref, m.path+"/")) && try(near{reason: routeStageMissing, prefix: m.path}, m.path+p, x.Host) {
				return
			}
		}
	}
	if slash, ok := strings.CutSuffix(p, "/"); ok && try(near{reason: routeSlash}, slash, x.Host) || !ok && try(near{reason: routeSlash}, p+"/", x.Host) {
		return
	}
	if once := singleSlashes(p); once != p && try(near{reason: routeSlash}, once, x.Host) {
		return
	}
	for i := 1; i < len(p); i++ {
		if p[i] == '/' && within(p[i:], p[:i]) && try(near{reason: routePrefixDoubled, prefix: short(p[:i])}, p[i:], x.Host) {
			return
		}
	}
	for i, m := range s.written {
		if i == maxMounts {
			break // a miss must stay cheap whatever the number of APIs
		}
		// A part of the mount is there, what stands before it is not; or something is missing within.
		if head, ok := missingHead(m.path, p); ok && try(near{reason: routeStageMissing, prefix: head}, head+p, x.Host) {
			return
		}
		if full := missingMiddle(m.path, p); full != "" && s.literal(x, full) && try(near{reason: routeStageMissing, prefix: m.path}, full, x.Host) {
			return
		}
	}
	for i, m := range s.written {
		if i == maxMounts {
			break
		}
		if m.path != "" && s.literal(x, m.path+p) && try(near{reason: routeStageMissing, prefix: m.path}, m.path+p, x.Host) {
			return
		}
	}
	if s.router.all != nil {
		q := search{method: x.Method, fields: x.Fields, path: p}
		if r := s.router.all.match(&q); r != nil && len(r.Hosts) > 0 {
			n := near{reason: routeHost, route: r, host: r.Hosts[0], path: short(p)}
			if usable(r) {
				return &n, hidden
			}
			if hidden == nil {
				hidden = &n
			}
		}
	}
	if r, path := s.similar(x.Host, p); r != nil {
		n := near{reason: routeNone, route: r, path: path}
		if strings.EqualFold(path, p) {
			n.reason = routeCase
		}
		if usable(r) {
			return &n, hidden
		}
		if hidden == nil {
			hidden = &n
		}
	}
	// Behind all of these, what only a parameter took: /prod/7 for /prod/orders/7.
	for i, m := range s.written {
		if i == maxMounts {
			break
		}
		if full := missingMiddle(m.path, p); full != "" && try(near{reason: routeStageMissing, prefix: m.path}, full, x.Host) {
			return
		}
	}
	if r := s.closest(x.Host, p); r != nil {
		n := near{reason: routeNone, route: r, path: r.Mount + r.Template}
		if usable(r) {
			return &n, hidden
		}
		if hidden == nil {
			hidden = &n
		}
	}
	return nil, hidden
}

// closest is the route at which a walk along the path gets furthest, if it gets anywhere.
func (s *Snapshot) closest(host, path string) (best *Route) {
	if !strings.HasPrefix(path, "/") {
		return nil
	}
	for _, t := range []*tree{s.router.exact[host], s.router.any, s.router.all} {
		if t == nil || best != nil {
			continue
		}
		n := &t.root
		for seg := range strings.SplitSeq(path[1:], "/") {
			next := n.literal[seg]
			if next == nil && n != &t.root {
				next = n.param
			}
			if next == nil {
				break
			}
			if n = next; len(n.here) > 0 && !n.here[0].retired {
				best = n.here[0].route
			}
		}
	}
	return best
}

// maxMounts bounds how many mounts are tried for a near miss.
const maxMounts = 64

// missingHead is what a path lacks before it: /prod for /orders/5 where the mount is /prod/orders.
func missingHead(mount, p string) (string, bool) {
	for i := 1; i < len(mount); i++ {
		if mount[i] == '/' && within(p, mount[i:]) {
			return mount[:i], true
		}
	}
	return "", false
}

// missingMiddle puts in what a path lacks within: /prod/items becomes /prod/orders/items where the
// mount is /prod/orders.
func missingMiddle(mount, p string) string {
	for i := len(mount) - 1; i > 0; i-- {
		if mount[i] == '/' && within(p, mount[:i]) && !within(p, mount) {
			return mount + p[i:]
		}
	}
	return ""
}

// singleSlashes takes out empty segments, but for one at the end.
func singleSlashes(p string) string {
	for strings.Contains(p, "//") {
		p = strings.ReplaceAll(p, "//", "/")
	}
	return p
}

func within(p, mount string) bool {
	return strings.HasPrefix(p, mount) && (len(p) == len(mount) || p[len(mount)] == '/')
}

// literal says that a route would serve the path by more than parameters: every path fits
// into /{id} somewhere, which is no near miss.
func (s *Snapshot) literal(x *policy.Exchange, path string) bool {
	q := search{method: x.Method, fields: x.Fields, path: path}
	r := s.router.match(x.Host, &q)
	if r == nil {
		return false
	}
	below := strings.TrimPrefix(r.Template, "/")
	first, _, _ := strings.Cut(below, "/")
	return first != "" && !isParam(first) && !isRest(first)
}

// similar walks the tree along the path and, where it leaves the routes, takes the literal
// that is spelt most alike. It answers the path that would have matched.
func (s *Snapshot) similar(host, path string) (*Route, string) {
	for _, t := range []*tree{s.router.exact[host], s.router.any, s.router.all} {
		if t == nil {
			continue
		}
		if r, p := t.root.similar(path, 1, "", 1); r != nil {
			return r, p
		}
	}
	return nil, ""
}

// similarBound is how many literals are compared at one node.
const similarBound = 64

func (n *node) similar(path string, i int, so string, mistakes int) (*Route, string) {
	if i > len(path) {
		if len(n.here) > 0 && !n.here[0].retired {
			if so == "" {
				so = "/"
			}
			return n.here[0].route, so
		}
		return nil, ""
	}
	end := i
	for end < len(path) && path[end] != '/' {
		end++
	}
	seg := path[i:end]
	if next := n.literal[seg]; next != nil {
		if r, p := next.similar(path, end+1, so+"/"+seg, mistakes); r != nil {
			return r, p
		}
	}
	if mistakes > 0 && len(n.literal) > 0 {
		names := make([]string, 0, min(len(n.literal), similarBound))
		for name := range n.literal {
			if len(names) == similarBound {
				break
			}
			names = append(names, name)
		}
		slices.Sort(names)
		if name := resource.Nearest(seg, names); name != "" && name != seg {
			if r, p := n.literal[name].similar(path, end+1, so+"/"+name, mistakes-1); r != nil {
				return r, p
			}
		}
	}
	if n.param != nil && seg != "" {
		if r, p := n.param.similar(path, end+1, so+"/"+seg, mistakes); r != nil {
			return r, p
		}
	}
	if len(n.rest) > 0 && mistakes == 0 {
		return n.rest[0].route, so + path[i-1:]
	}
	return nil, ""
}

func refererPath(x *policy.Exchange) string {
	ref := x.Fields.Get(wire.Referer)
	if ref == "" || len(ref) > 2048 {
		return ""
	}
	u, err := url.Parse(ref)
	if err != nil || u.Host != "" && !wire.EqualFold(u.Host, x.Authority) {
		return ""
	}
	return u.EscapedPath()
}

// short copies a text of the caller for a fact, and bounds it.
func short(s string) string {
	if len(s) > 200 {
		return s[:200] + "… (" + strconv.Itoa(len(s)) + " bytes)"
	}
	return strings.Clone(s)
}
