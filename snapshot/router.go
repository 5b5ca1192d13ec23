package snapshot

import (
	"slices"
	"strings"

	"github.com/whygate/whygate/wire"
)

// router finds the route of a call. Hosts come first: an exact name, then the longest
// "*.name", then routes for any host. Below a host lies a tree of path segments; at each
// segment a literal goes before a parameter and a parameter before a rest. Every
// tree node lies at one depth and a path has one length, so a search looks at each
// node once at most: the cost depends on the path, not on the number of routes.
type router struct {
	exact map[string]*tree
	below map[string]*tree // by the name behind "*."
	any   *tree
	all   *tree // every route whatever its host, for near misses; nil when no route names a host
}

// tree is the routes of one host.
type tree struct{ root node }

type node struct {
	literal map[string]*node
	param   *node
	here    []entry // routes whose path ends here
	rest    []entry // routes that serve everything below
}

// entry is a route at the end of its path, with what else decides between routes there.
type entry struct {
	route   *Route
	methods []string // empty: all
	// version is the value of the header that chooses it, "" where the path does.
	header, version string
	isDefault       bool // serves calls without that header
	retired         bool
}

func newRouter() *router {
	return &router{exact: map[string]*tree{}, below: map[string]*tree{}}
}

// add puts an entry at the end of its path below a host ("" for any). It returns the entry that
// already serves the same calls, if any.
func (r *router) add(host string, segments []string, e entry) *entry {
	var t **tree
	switch {
	case host == "":
		t = &r.any
	case strings.HasPrefix(host, "*."):
		p := r.below[host[2:]]
		if p == nil {
			p = new(tree)
			r.below[host[2:]] = p
		}
		t = &p
	default:
		p := r.exact[host]
		if p == nil {
			p = new(tree)
			r.exact[host] = p
		}
		t = &p
	}
	if *t == nil {
		*t = new(tree)
	}
	return (*t).add(segments, e)
}

func (t *tree) add(segments []string, e entry) *entry {
	n := &t.root
	for _, s := range segments {
		switch {
		case isRest(s):
			return addEntry(&n.rest, e)
		case isParam(s):
			if n.param == nil {
				n.param = new(node)
			}
			n = n.param
		default:
			next := n.literal[s]
			if next == nil {
				if n.literal == nil {
					n.literal = map[string]*node{}
				}
				next = new(node)
				n.literal[s] = next
			}
			n = next
		}
	}
	return addEntry(&n.here, e)
}

// addEntry keeps routes with methods before those for all, and reports one that would
// always win over the new one.
func addEntry(list *[]entry, e entry) *entry {
	for i := range *list {
		o := &(*list)[i]
		if o.header == e.header && o.version == e.version && o.retired == e.retired && sameMethods(o.methods, e.methods) {
			return o
		}
	}
	i := len(*list)
	if len(e.methods) > 0 {
		for i > 0 && len((*list)[i-1].methods) == 0 {
			i--
		}
	}
	*list = slices.Insert(*list, i, e)
	return nil
}

func sameMethods(a, b []string) bool {
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	for _, m := range a {
		if slices.Contains(b, m) {
			return true
		}
	}
	return false
}

func isParam(s string) bool { return len(s) > 2 && s[0] == '{' && s[len(s)-1] == '}' && !isRest(s) }
func isRest(s string) bool  { return len(s) > 5 && s[0] == '{' && strings.HasSuffix(s, "...}") }

// search is one look-up and what it met on the way.
type search struct {
	method  string
	fields  wire.Fields
	path    string
	any     bool // method and version do not matter: for near misses
	methods []string
	others  *Route // serves the path with those methods
	retired *Route // serves the path in a version that is out of service
	version *Route // serves the path in other versions than the header asks for
	found   []*Route
}

// match finds the route of a call, or nil.
func (r *router) match(host string, s *search) *Route {
	if t := r.exact[host]; t != nil {
		if route := t.match(s); route != nil {
			return route
		}
	}
	if len(r.below) > 0 {
		for rest := host; ; {
			i := strings.IndexByte(rest, '.')
			if i < 0 {
				break
			}
			rest = rest[i+1:]
			if t := r.below[rest]; t != nil {
				if route := t.match(s); route != nil {
					return route
				}
			}
		}
	}
	if r.any != nil {
		return r.any.match(s)
	}
	return nil
}

func (t *tree) match(s *search) *Route {
	if s.path == "" || s.path[0] != '/' {
		return nil
	}
	return t.root.find(s, 1)
}

// find looks for the rest of the path, from position i on, below n.
func (n *node) find(s *search, i int) *Route {
	if i > len(s.path) {
		return s.pick(n.here)
	}
	end := i
	for end < len(s.path) && s.path[end] != '/' {
		end++
	}
	if len(n.literal) > 0 {
		if next := n.literal[s.path[i:end]]; next != nil {
			if r := next.find(s, end+1); r != nil {
				return r
			}
		}
	}
	if n.param != nil && end > i {
		if r := n.param.find(s, end+1); r != nil {
			return r
		}
	}
	return s.pick(n.rest)
}

// pick chooses among the routes at the end of a path by method and version.
func (s *search) pick(list []entry) *Route {
	for i := range list {
		e := &list[i]
		if s.any {
			if !e.retired {
				s.found = append(s.found, e.route)
			}
			continue
		}
		if e.header != "" {
			if v, ok := s.fields.Lookup(e.header); ok && v != e.version || !ok && !e.isDefault {
				if !e.retired {
					s.version = e.route
				}
				continue
			}
		}
		if !e.serves(s.method) {
			if !e.retired {
				s.methods, s.others = append(s.methods, e.methods...), e.route
			}
			continue
		}
		if e.retired {
			s.retired = e.route
			continue
		}
		return e.route
	}
	return nil
}

func (e *entry) serves(method string) bool {
	if len(e.methods) == 0 {
		return true
	}
	for _, m := range e.methods {
		if m == method {
			return true
		}
	}
	return false
}
