package snapshot

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/whygate/whygate/policy"
	"pgregory.net/rapid"
)

// naive finds the best route by comparing all of them: what the tree must agree with.
func naive(routes []testRoute, host, method, path string) string {
	best := ""
	var bestRank []int
	for _, r := range routes {
		rank, ok := r.rank(host, path)
		if !ok || len(r.methods) > 0 && !strings.Contains(" "+strings.Join(r.methods, " ")+" ", " "+method+" ") {
			continue
		}
		if len(r.methods) == 0 {
			rank = append(rank, 0)
		} else {
			rank = append(rank, 1)
		}
		if best == "" || more(rank, bestRank) {
			best, bestRank = r.name, rank
		}
	}
	return best
}

func more(a, b []int) bool {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return a[i] > b[i]
		}
	}
	return len(a) > len(b)
}

type testRoute struct {
	name, host, path string
	methods          []string
}

// rank says how specific a route is for a call: host first, then segment by segment, a
// literal (3) before a parameter (2) before a rest (1).
func (r testRoute) rank(host, path string) ([]int, bool) {
	rank := []int{0}
	switch {
	case r.host == "":
	case strings.HasPrefix(r.host, "*."):
		if !strings.HasSuffix(host, r.host[1:]) {
			return nil, false
		}
		rank[0] = 1 + len(r.host)
	case r.host == host:
		rank[0] = 1000
	default:
		return nil, false
	}
	have, want := strings.Split(path[1:], "/"), strings.Split(r.path[1:], "/")
	for i, w := range want {
		if isRest(w) {
			if i >= len(have) {
				return nil, false
			}
			return append(rank, 1), true
		}
		if i >= len(have) {
			return nil, false
		}
		switch {
		case isParam(w):
			if have[i] == "" {
				return nil, false
			}
			rank = append(rank, 2)
		case w == have[i]:
			rank = append(rank, 3)
		default:
			return nil, false
		}
	}
	return rank, len(have) == len(want)
}

func build(routes []testRoute) *router {
	r := newRouter()
	for _, t := range routes {
		route := &Route{Route: policy.Route{Name: t.name}, Methods: t.methods}
		r.add(t.host, segmentsOf("", t.path), entry{route: route, methods: t.methods})
	}
	return r
}

func TestRouterAgainstNaive(t *testing.T) {
	segment := rapid.SampledFrom([]string{"a", "b", "{x}", "ab", ""})
	hosts := rapid.SampledFrom([]string{"", "", "one.test", "*.test", "*.one.test"})
	methods := rapid.SampledFrom([][]string{nil, {"GET", "HEAD"}, {"POST"}, {"PUT"}})
	rapid.Check(t, func(t *rapid.T) {
		var routes []testRoute
		seen := map[string]bool{}
		for i := range rapid.IntRange(1, 25).Draw(t, "routes") {
			var parts []string
			for range rapid.IntRange(1, 4).Draw(t, "depth") {
				parts = append(parts, segment.Draw(t, "segment"))
			}
			if rapid.Bool().Draw(t, "rest") {
				parts = append(parts, "{rest...}")
			}
			r := testRoute{fmt.Sprint("r", i), hosts.Draw(t, "host"), "/" + strings.Join(parts, "/"), methods.Draw(t, "methods")}
			// Two routes for the same calls are an error of the documents.
			if key := fmt.Sprint(r.host, r.path, r.methods); !seen[key] {
				seen[key] = true
				routes = append(routes, r)
			}
		}
		rt := build(routes)
		for range 20 {
			var parts []string
			for range rapid.IntRange(1, 5).Draw(t, "path depth") {
				parts = append(parts, rapid.SampledFrom([]string{"a", "b", "c", "ab", ""}).Draw(t, "path segment"))
			}
			path := "/" + strings.Join(parts, "/")
			host := rapid.SampledFrom([]string{"one.test", "two.test", "x.one.test", "other"}).Draw(t, "call host")
			method := rapid.SampledFrom([]string{"GET", "POST", "DELETE"}).Draw(t, "method")
			got := ""
			if r := rt.match(host, &search{method: method, path: path}); r != nil {
				got = r.Name
			}
			if want := naive(routes, host, method, path); got != want {
				t.Fatalf("%s %s on %s: the tree says %q, comparing all says %q\n%+v", method, path, host, got, want, routes)
			}
		}
	})
}

// FuzzMatch is the same for arbitrary bytes: documents and paths that nobody would draw by hand.
func FuzzMatch(f *testing.F) {
	f.Add("/a/{id}\n/a/b\n/{rest...}\n/a//c", "/a/b")
	f.Add("/\n/{x}/{y}/z\n/q/{r...}", "/q/1/z")
	f.Fuzz(func(t *testing.T, templates, path string) {
		if !strings.HasPrefix(path, "/") || len(path) > 200 {
			return
		}
		var routes []testRoute
		seen := map[string]bool{}
		for i, line := range strings.Split(templates, "\n") {
			if i == 40 || checkTemplate(line, true) != "" {
				continue
			}
			var shape []string
			for s := range strings.SplitSeq(line, "/") {
				if isRest(s) {
					s = "{...}"
				} else if isParam(s) {
					s = "{}"
				}
				shape = append(shape, s)
			}
			if key := strings.Join(shape, "/"); !seen[key] {
				seen[key] = true
				routes = append(routes, testRoute{name: fmt.Sprint("r", i), path: line})
			}
		}
		got := ""
		if r := build(routes).match("h", &search{method: "GET", path: path}); r != nil {
			got = r.Name
		}
		if want := naive(routes, "h", "GET", path); got != want {
			t.Fatalf("%q among %q: the tree says %q, comparing all says %q", path, templates, got, want)
		}
	})
}

// TestRouterDoesNotAllocate: a match is on the path of every call.
func TestRouterDoesNotAllocate(t *testing.T) {
	rt := manyRoutes(1000)
	s := &search{method: "GET", path: "/v400/orders/77/items"}
	if rt.match("shop.test", s) == nil {
		t.Fatal("no match")
	}
	if n := testing.AllocsPerRun(100, func() { rt.match("shop.test", s) }); n != 0 {
		t.Errorf("a match allocates %v times", n)
	}
}

func manyRoutes(n int) *router {
	var routes []testRoute
	for i := range n / 2 {
		routes = append(routes, testRoute{fmt.Sprint("a", i), "", fmt.Sprintf("/v%d/orders/{id}/items", i), []string{"GET"}},
			testRoute{fmt.Sprint("b", i), "", fmt.Sprintf("/v%d/orders/{id}", i), nil})
	}
	return build(routes)
}

// At 100,000 routes a match costs about what it costs at 100:
//
//	go test ./snapshot -bench Match -run none
func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{100, 10_000, 100_000} {
		rt := manyRoutes(n)
		paths := make([]string, 256)
		r := rand.New(rand.NewPCG(1, 2))
		for i := range paths {
			paths[i] = fmt.Sprintf("/v%d/orders/%d/items", r.IntN(n/2), i)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := &search{method: "GET"}
			for i := range b.N {
				s.path = paths[i&255]
				if rt.match("shop.test", s) == nil {
					b.Fatal("no match")
				}
			}
		})
	}
}
