package snapshot

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

func env(t testing.TB) Env {
	quotas, _ := counter.OpenQuotas("")
	w := wire.NewWatch()
	t.Cleanup(w.Close)
	return Env{Memory: counter.NewMemory(), Quotas: quotas, Watch: w, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

const upDoc = "apiVersion: whygate/v1\nkind: Upstream\nmetadata: {name: up}\nspec: {targets: [{url: \"http://127.0.0.1:1\"}]}\n---\n"

func compile(t testing.TB, doc string) (*Snapshot, resource.Problems) {
	t.Helper()
	set, problems := resource.Parse(resource.File{Name: "test.yaml", Data: []byte(doc)})
	s, more := Compile(set, env(t))
	return s, append(problems, more...)
}

func stepsOf(r *Route) (list []string) {
	for _, s := range r.Steps {
		name := s.Name
		if s.Shadow {
			name += "~"
		}
		list = append(list, name)
	}
	return list
}

// TestInheritance: further in replaces by name, and can switch off; the order is that of phases.
func TestInheritance(t *testing.T) {
	s, problems := compile(t, upDoc+`apiVersion: whygate/v1
kind: Gateway
metadata: {name: g}
spec:
  policies:
  - rate-limit: {requests: 1, per: address}
    name: everybody
  - ip-access: {deny: [10.0.0.0/8]}
---
apiVersion: whygate/v1
kind: API
metadata: {name: a}
spec:
  upstream: up
  stages: [{name: dev, policies: [{name: key-auth, off: true}]}, {name: prod}]
  policies:
  - rate-limit: {requests: 10}
  - key-auth
  routes:
  - {path: /plain, methods: [GET]}
  - path: /own
    methods: [GET]
    policies:
    - rate-limit: {requests: 99}
      shadow: true
    - {name: everybody, off: true}
    - maintenance: {message: x}
`)
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	got := map[string][]string{}
	for _, r := range s.Routes {
		got[r.Stage+r.Template] = stepsOf(r)
	}
	want := map[string][]string{
		"dev/plain":  {"ip-access", "size", "everybody", "rate-limit"},
		"dev/own":    {"maintenance", "ip-access", "size", "rate-limit~"},
		"prod/plain": {"ip-access", "size", "key-auth", "everybody", "rate-limit"},
		"prod/own":   {"maintenance", "ip-access", "size", "key-auth", "rate-limit~"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestUpstreamsPassOver: what did not change keeps its connections and counts.
func TestUpstreamsPassOver(t *testing.T) {
	doc := upDoc + "apiVersion: whygate/v1\nkind: API\nmetadata: {name: a}\nspec: {upstream: up}\n"
	e := env(t)
	load := func(doc string) *Snapshot {
		set, _ := resource.Parse(resource.File{Name: "test.yaml", Data: []byte(doc)})
		s, problems := Compile(set, e)
		if problems.HasErrors() {
			t.Fatal(problems)
		}
		s.Activate()
		if e.Before != nil {
			e.Before.Retire(s)
		}
		e.Before = s
		return s
	}
	first := load(doc)
	second := load(doc + "---\napiVersion: whygate/v1\nkind: Plan\nmetadata: {name: p}\nspec: {}\n")
	if first.Upstreams["up"] != second.Upstreams["up"] {
		t.Error("an unchanged upstream was made anew")
	}
	third := load(strings.Replace(doc, "127.0.0.1:1", "127.0.0.1:2", 1))
	if third.Upstreams["up"] == second.Upstreams["up"] {
		t.Error("a changed upstream stayed")
	}
	third.Retire(nil)
}

// TestShares: a share of callers is that, however small; only without one is a policy enforced for all.
func TestShares(t *testing.T) {
	for enforce, want := range map[string]uint32{"": 0, "100%": 0, "50%": 1 << 15, "0.001%": 1, "99.9999%": 1<<16 - 1} {
		s, problems := compile(t, upDoc+"apiVersion: whygate/v1\nkind: API\nmetadata: {name: a}\nspec:\n  upstream: up\n  policies: [{method: {allow: [GET]}, enforce: \""+enforce+"\"}]\n")
		if problems.HasErrors() {
			t.Fatal(enforce, problems)
		}
		for _, step := range s.Routes[0].Steps {
			if step.Name == "method" && step.Share != want {
				t.Errorf("enforce %q: share %d, want %d", enforce, step.Share, want)
			}
		}
		s.Retire(nil)
	}
}

// TestFilesOfPolicies: a path is relative to the document that it is written in, also where
// another document inherits the policy.
func TestFilesOfPolicies(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("node/gateway.yaml", "apiVersion: whygate/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {policies: [{ip-access: {denyFiles: [blocked.txt]}}]}\n")
	write("node/blocked.txt", "203.0.113.0/24\n")
	write("apis/up.yaml", upDoc)
	write("apis/a.yaml", "apiVersion: whygate/v1\nkind: API\nmetadata: {name: a}\nspec: {upstream: up}\n")
	set, problems := resource.Load(dir)
	s, more := Compile(set, env(t))
	if problems = append(problems, more...); problems.HasErrors() {
		t.Fatal(problems)
	}
	s.Retire(nil)
}

// TestProblems: the wrong documents in testdata say what testdata says, each at its place.
func TestProblems(t *testing.T) {
	files, err := filepath.Glob("testdata/problems/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			set, problems := resource.Parse(resource.File{Name: filepath.Base(file), Data: data})
			_, more := Compile(set, env(t))
			problems = append(problems, more...)
			problems.Sort(set.Files())
			var b strings.Builder
			problems.Render(&b, set.Sources(), false)
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if os.Getenv("UPDATE") != "" {
				os.WriteFile(golden, []byte(b.String()), 0o644)
			}
			want, _ := os.ReadFile(golden)
			if d := cmp.Diff(string(want), b.String()); d != "" {
				t.Errorf("%s (UPDATE=1 writes it):\n%s", golden, d)
			}
		})
	}
}

// TestLargeConfiguration: twenty thousand routes compile in a moment.
func TestLargeConfiguration(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles 20,000 routes")
	}
	var b strings.Builder
	b.WriteString(upDoc)
	for a := range 100 {
		fmt.Fprintf(&b, "apiVersion: whygate/v1\nkind: API\nmetadata: {name: api%d}\nspec:\n  upstream: up\n  basePath: /api%d\n  policies: [key-auth, subscription, {rate-limit: {requests: 100}}]\n  routes:\n", a, a)
		for r := range 200 {
			fmt.Fprintf(&b, "  - {path: \"/r%d/{id}\", methods: [GET]}\n", r)
		}
		b.WriteString("---\n")
	}
	s, problems := compile(t, b.String())
	if problems.HasErrors() || len(s.Routes) != 20_000 {
		t.Fatalf("%d routes, %v", len(s.Routes), problems[:min(len(problems), 3)])
	}
}
