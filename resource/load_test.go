package resource

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const plan = "apiVersion: whygate/v1\nkind: Plan\nmetadata: {name: %s}\n"

// tree writes files below a new folder and makes that the working directory.
func tree(t *testing.T, files map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func plans(set *Set) (names []string) {
	for _, p := range set.Plans {
		names = append(names, p.Meta.Name)
	}
	return names
}

func TestLoadFolders(t *testing.T) {
	p := func(name string) string { return fmt.Sprintf(plan, name) }
	tree(t, map[string]string{
		"docs/b.yaml":        p("b1") + "---\n" + p("b2"),
		"docs/a.yml":         p("a"),
		"docs/sub/c.JSON":    `{"apiVersion": "whygate/v1", "kind": "Plan", "metadata": {"name": "c"}}`,
		"docs/readme.txt":    "not a document",
		"docs/.hidden.yaml":  "[",
		"docs/.git/x.yaml":   "[",
		"docs/empty/.keep":   "",
		"other/linked.yaml":  p("linked"),
		"other/named.conf":   p("named"),
		"data/..v1/m.yaml":   p("mounted"),
		"docs/folder.yaml/x": "a folder with the name of a file",
	})
	for from, to := range map[string]string{
		"docs/link.yaml": "../other/linked.yaml", "docs/loop": "../docs", "docs/self.yaml": "self.yaml", "docs/gone.yaml": "nowhere.yaml",
		"data/..data": "..v1", "data/m.yaml": "..data/m.yaml", // how Kubernetes mounts a ConfigMap
	} {
		if err := os.Symlink(to, from); err != nil {
			t.Fatal(err)
		}
	}
	set, ps := Load("docs", "other/named.conf", "docs/a.yml", "data")
	if diff := cmp.Diff([]string{"a", "b1", "b2", "linked", "c", "named", "mounted"}, plans(set)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"docs/a.yml", "docs/b.yaml", "docs/link.yaml", "docs/sub/c.JSON", "other/named.conf", "data/m.yaml"}, set.Files()); diff != "" {
		t.Error(diff)
	}
	var got []string
	for _, p := range ps {
		got = append(got, p.String())
	}
	want := []string{"docs/gone.yaml: error: cannot be read: no such file or directory", "docs/self.yaml: error: cannot be read: too many levels of symbolic links"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLoadWhatIsNotThere(t *testing.T) {
	tree(t, map[string]string{"empty/readme.md": "", "good.yaml": fmt.Sprintf(plan, "good")})
	set, ps := Load("nowhere", "empty", "good.yaml")
	if len(ps) != 2 || ps[0].Severity != Warning || ps[1].Message != "cannot be read: no such file or directory" || set.Plan("good") == nil {
		t.Errorf("%v", ps)
	}
	var out bytes.Buffer
	ps.Render(&out, set.Sources(), false)
	if diff := cmp.Diff(`empty: warning: no documents here
      hint: documents are in files named *.yaml, *.yml or *.json
nowhere: error: cannot be read: no such file or directory
      hint: check the path, which is relative to the working directory
`, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestLoadStdin(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func(old *os.File) { os.Stdin = old }(os.Stdin)
	os.Stdin = r
	fmt.Fprintf(w, plan, "piped")
	w.Close()
	set, ps := Load("-")
	if len(ps) > 0 || set.Plan("piped").At("metadata.name").String() != "stdin:3:18" {
		t.Errorf("%v %v", ps, plans(set))
	}
}

func TestLoadBounds(t *testing.T) {
	tree(t, map[string]string{
		"a-big.yaml":  strings.Repeat("# a comment line\n", maxFileBytes/16),
		"b-good.yaml": fmt.Sprintf(plan, "good"),
	})
	set, ps := Load(".")
	if len(ps) != 1 || ps[0].String() != "a-big.yaml: error: a file has at most 16 MiB" || set.Plan("good") == nil {
		t.Errorf("%v", ps)
	}
	for _, c := range []struct{ text, want string }{
		{"a: " + strings.Repeat("[", 10_000_000), "1:1: error: a document has at most a million values"},
		{"a: " + strings.Repeat("[", 500_000), "1:104: error: lists and mappings may be nested 100 deep"},
		{"a: " + strings.Repeat("[", 100) + strings.Repeat("]", 100), "1:103: error: lists and mappings may be nested 100 deep"},
		{strings.Repeat("- ", 101) + "a", "1:201: error: lists and mappings may be nested 100 deep"},
		{"- &a " + strings.Repeat("[", 60) + strings.Repeat("]", 60) + "\n- " + strings.Repeat("[", 60) + "*a" + strings.Repeat("]", 60), "2:63: error: lists and mappings may be nested 100 deep"},
		{"a: &a " + strings.Repeat("x", 1<<20) + "\nb: [" + strings.Repeat("*a, ", 100) + "]\n", "2:253: error: a document has at most a million values and 64 MiB of text, with what its aliases stand for"},
	} {
		_, ps = Parse(File{"a", []byte(c.text)})
		if len(ps) != 1 || ps[0].String() != "a:"+c.want {
			t.Errorf("%.20q: %v", c.text, ps)
		}
	}
	set, ps = Parse(File{"many.yaml", []byte(strings.Repeat("---\na: b\n", 5000))}, File{"good.yaml", fmt.Appendf(nil, plan, "good")})
	if len(ps) != maxProblems+1 || set.Plan("good") == nil || !strings.Contains(ps[maxProblems].Message, "too many problems") {
		t.Errorf("%d problems", len(ps))
	}
}

func TestLookupsAndPlaces(t *testing.T) {
	tree(t, map[string]string{"conf/all.yaml": `# Everything in one file.
apiVersion: whygate/v1
kind: Gateway
metadata: {name: main}
spec:
  listeners:
    - address: :8443
      tls:
        certificates: [{cert: tls/a.crt, key: /etc/a.key}]
---
apiVersion: whygate/v1
kind: Upstream
metadata: {name: orders}
spec: {targets: [{url: "http://a"}]}
---
apiVersion: whygate/v1
kind: API
metadata:
  name: orders
  labels: {a.b: c}
spec:
  routes:
  - path: /a
  -
    path: /b
    timeout: unlimited
---
apiVersion: whygate/v1
kind: Plan
metadata: {name: gold}
spec: {quota: {requests: 5}}
---
apiVersion: whygate/v1
kind: Application
metadata: {name: acme}
---
apiVersion: whygate/v1
kind: Credential
metadata: {name: acme-1}
spec:
  application: acme
  key: {prefix: wg_1, sha256: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef}
---
apiVersion: whygate/v1
kind: Subscription
metadata: {name: acme-orders}
spec: {application: acme, api: orders, plan: gold, state: active}
`})
	set, ps := Load("conf")
	if len(ps) > 0 {
		t.Fatal(ps)
	}
	api := set.API("orders")
	got := map[string]string{}
	for _, p := range []string{"", "kind", "metadata.name", `metadata.labels["a.b"]`, "spec", "spec.routes", "spec.routes[0]", "spec.routes[1]",
		"spec.routes[1].path", "spec.routes[1].timeout", "spec.routes[7]", "spec.routes[1].upstream", "spec.owner.team", "status", "spec.routes[x]", "[", `["`} {
		got[p] = api.At(p).String()
	}
	want := map[string]string{
		"": "16:1", "kind": "17:7", "metadata.name": "19:9", `metadata.labels["a.b"]`: "20:17", "spec": "21:1", "spec.routes": "22:3",
		"spec.routes[0]": "23:5", "spec.routes[1]": "25:5", "spec.routes[1].path": "25:11", "spec.routes[1].timeout": "26:14",
		"spec.routes[7]": "22:3", "spec.routes[1].upstream": "25:5", "spec.owner.team": "21:1", "status": "16:1", "spec.routes[x]": "22:3", "[": "16:1", `["`: "16:1",
	}
	for k, v := range want {
		want[k] = "conf/all.yaml:" + v
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	ids := []string{set.Gateway.ID(), set.Upstream("orders").ID(), api.ID(), set.Plan("gold").ID(), set.Application("acme").ID(),
		set.Credential("acme-1").ID(), set.Subscription("acme-orders").ID()}
	var nodes []string
	for _, n := range set.Documents() {
		nodes = append(nodes, n.Document())
	}
	wantIDs := []string{"Gateway/main", "Upstream/orders", "API/orders", "Plan/gold", "Application/acme", "Credential/acme-1", "Subscription/acme-orders"}
	if diff := cmp.Diff(wantIDs, ids) + cmp.Diff(wantIDs, nodes); diff != "" {
		t.Error(diff)
	}
	if set.API("x") != nil || set.Plan("x") != nil {
		t.Error("found what is not there")
	}
	cert := set.Gateway.Spec.Listeners[0].TLS.Certificates[0]
	if got := set.Gateway.Resolve(cert.Cert); got != filepath.FromSlash("conf/tls/a.crt") {
		t.Error(got)
	}
	if set.Gateway.Resolve(cert.Key) != cert.Key || set.Gateway.Resolve("") != "" {
		t.Error("an absolute or empty path was changed")
	}
	p := api.Problem("spec.routes[1].timeout", "too long", "shorten it")
	if p.String() != "conf/all.yaml:26:14: error: too long" || p.Len != 9 || p.Hint != "shorten it" {
		t.Errorf("%+v", p)
	}
	if api.Spec.Routes[1].Timeout != Unlimited || api.Spec.BasePath != "/" || api.Meta.Tenant != "default" {
		t.Errorf("%+v", api.Spec)
	}
}

// TestGatewayDefaults are what holds when a Gateway says nothing.
func TestGatewayDefaults(t *testing.T) {
	var g Gateway
	var ps Problems
	Decode(Node{}, &g, &ps)
	set, more := Parse(File{"g.yaml", []byte("apiVersion: whygate/v1\nkind: Gateway\nmetadata: {name: main}\n")})
	if len(ps)+len(more) > 0 {
		t.Fatal(ps, more)
	}
	a, _ := json.Marshal(g)
	b, _ := json.Marshal(set.Gateway.Spec)
	if diff := cmp.Diff(string(a), string(b)); diff != "" {
		t.Error(diff)
	}
	if g.Limits.HeaderBytes != 32<<10 || g.Timeouts.Idle.String() != "2m" || g.Records.KeepFor.String() != "1d" || g.Disclosure.Owner != "owner" || g.Listeners != nil {
		t.Errorf("%s", a)
	}
}

func TestDigest(t *testing.T) {
	digest := func(files ...File) string {
		set, _ := Parse(files...)
		return set.Digest()
	}
	a, b := File{"a.yaml", []byte("# one")}, File{"b.yaml", []byte("# two")}
	if digest(a, b) != digest(b, a) {
		t.Error("the digest depends on the order of reading")
	}
	moved := File{"/etc/x/a.yaml", a.Data}
	if digest(a) != digest(moved) {
		t.Error("the digest depends on the folder")
	}
	seen := map[string]bool{}
	for _, d := range []string{digest(), digest(a), digest(b), digest(a, b), digest(File{"a.yaml", []byte("# one# two")})} {
		if seen[d] {
			t.Error("two sets have one digest")
		}
		seen[d] = true
	}
}

// TestForms: line breaks, byte order marks and JSON make no difference.
func TestForms(t *testing.T) {
	const text = `apiVersion: whygate/v1
kind: API
metadata: {name: orders, labels: {"ü": "日本"}}
spec:
  hosts: [shop.test, "*.shop.test"]
  legacyStatuss: 1
  routes:
    - path: /a
      methods: [GET, POST]
      timeout: 1m30s
      legacyStatus: true
      policies:
        - size: {body: 1MiB}
          shadow: true
        - cors
`
	const compact = `{"apiVersion":"whygate/v1","kind":"API","metadata":{"name":"orders","labels":{"\u00fc":"\u65e5\u672c"}},"spec":{"hosts":["shop.test","*.shop.test"],"legacyStatuss":1,"routes":[{"path":"\/a","methods":["GET","POST"],"timeout":"1m30s","legacyStatus":true,"policies":[{"size":{"body":"1MiB"},"shadow":true},"cors"]}]}}`
	var tabs bytes.Buffer
	if err := json.Indent(&tabs, []byte(compact), "", "\t"); err != nil {
		t.Fatal(err)
	}
	read := func(name, text string) (string, string) {
		set, ps := Parse(File{name, []byte(text)})
		if len(ps) != 1 || ps[0].Message != `unknown field "legacyStatuss"` {
			t.Fatalf("%s: %v", name, ps)
		}
		spec, err := json.Marshal(set.APIs[0].Spec)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := json.Marshal(set.APIs[0].Node())
		if err != nil {
			t.Fatal(err)
		}
		return string(spec) + string(doc), ps[0].Pos.String()
	}
	want, _ := read("a", text)
	for _, c := range []struct{ name, text, pos string }{
		{"lf.yaml", text, "lf.yaml:6:3"},
		{"crlf.yaml", strings.ReplaceAll(text, "\n", "\r\n"), "crlf.yaml:6:3"},
		{"bom.yaml", "\ufeff" + text, "bom.yaml:6:3"},
		{"marked.yaml", "---\n" + text + "...\n", "marked.yaml:7:3"},
		{"compact.json", compact, "compact.json:1:149"},
		{"tabs.json", tabs.String(), "tabs.json:15:3"},
		{"tabs-crlf.json", "\ufeff" + strings.ReplaceAll(tabs.String(), "\n", "\r\n"), "tabs-crlf.json:15:3"},
	} {
		got, pos := read(c.name, c.text)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
		if pos != c.pos {
			t.Errorf("%s: problem at %s, want %s", c.name, pos, c.pos)
		}
	}
}
