package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/whygate/whygate/admin"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/metric"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/resource/doc"
	"github.com/whygate/whygate/whytest"
	"github.com/whygate/whygate/wire"
)

var update = flag.Bool("update", false, "write the references instead of comparing them")

const referenceDir = "../../docs/reference"

// TestReference generates docs/reference from the code. `make docs` runs it with -update; without, it
// fails when a page is stale. surface.txt is the golden list of everything that users and programs rely on: a
// line that changes there is a change of the contract and belongs into CHANGELOG.md.
func TestReference(t *testing.T) {
	comments := map[string]string{}
	for _, dir := range []string{"../../policy", "../../resource"} {
		m, err := doc.Comments(dir)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range m {
			comments[k] = v
		}
	}
	metrics := metricNames(t)
	pages := map[string][]byte{
		"schema.json":  schemaPage(t, comments),
		"documents.md": documentsPage(comments),
		"policies.md":  policiesPage(t, comments),
		"reasons.md":   printedBy(t, "reasons", "--markdown"),
		"cli.md":       cliPage(),
		"admin.md":     adminPage(metrics),
		"surface.txt":  surface(metrics),
	}
	for name, want := range pages {
		file := filepath.Join(referenceDir, name)
		if *update {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		have, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(have, want) {
			t.Errorf("%s is stale; run make docs and look at the difference:\n%s", name, cmp.Diff(string(have), string(want)))
		}
	}
}

// printedBy is what a command prints.
func printedBy(t *testing.T, args ...string) []byte {
	var out bytes.Buffer
	if code := run(t.Context(), args, strings.NewReader(""), &out, &out); code != exitOK {
		t.Fatalf("whygate %v: exit code %d: %s", args, code, &out)
	}
	return out.Bytes()
}

func policyTypes(comments map[string]string) (list []resource.PolicyType) {
	for _, k := range policy.All {
		t := reflect.TypeOf(k.New()).Elem()
		list = append(list, resource.PolicyType{Kind: k.Name, Config: t, Doc: firstSentence(inDocuments(comments[t.Name()], t.Name(), k.Name))})
	}
	return list
}

// inDocuments calls a policy by the name it has in documents, instead of its Go type.
func inDocuments(comment, typ, name string) string {
	if rest, ok := strings.CutPrefix(comment, typ+" "); ok {
		return "`" + name + "` " + rest
	}
	return comment
}

func firstSentence(s string) string {
	s, _, _ = strings.Cut(s, "\n\n")
	if i := strings.Index(s, ". "); i >= 0 {
		return s[:i+1]
	}
	return s
}

func schemaPage(t *testing.T, comments map[string]string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(resource.Schema(policyTypes(comments), comments)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var kinds = []struct {
	name string
	t    reflect.Type
}{
	{"Gateway", reflect.TypeFor[resource.Gateway]()}, {"Upstream", reflect.TypeFor[resource.Upstream]()}, {"API", reflect.TypeFor[resource.API]()},
	{"Plan", reflect.TypeFor[resource.Plan]()}, {"Application", reflect.TypeFor[resource.Application]()}, {"Credential", reflect.TypeFor[resource.Credential]()},
	{"Subscription", reflect.TypeFor[resource.Subscription]()},
}

func documentsPage(comments map[string]string) []byte {
	var b bytes.Buffer
	b.WriteString(generated + "# Documents\n\nEvery document has the same envelope: `apiVersion: " + resource.Version + "`, `kind`, `metadata` with a `name`, and `spec`.\n" +
		"Several documents in a file are separated by `---`. Unknown fields are refused. `whygate schema` prints all of this as a\nJSON Schema for editors, `whygate check` finds what is wrong.\n\n")
	for _, k := range kinds {
		fmt.Fprintf(&b, "- [%s](#%s)\n", k.name, strings.ToLower(k.name))
	}
	b.WriteString("\n## metadata\n\n")
	fieldTable(&b, comments, "metadata", resource.Describe(reflect.TypeFor[resource.Meta]()))
	for _, k := range kinds {
		fmt.Fprintf(&b, "## %s\n\n%s\n\n", k.name, comments[k.t.Name()])
		fieldTable(&b, comments, "spec", resource.Describe(k.t))
	}
	b.WriteString("## Entries of policy lists\n\n" + comments["PolicyEntry"] + "\n\nThe policies and their settings are in [policies.md](policies.md).\n\n")
	fieldTable(&b, comments, "", resource.Describe(reflect.TypeFor[resource.PolicyEntry]()))
	return b.Bytes()
}

// fieldTable lists fields and, below them, those of each nested struct.
func fieldTable(b *bytes.Buffer, comments map[string]string, path string, fields []resource.FieldInfo) {
	if len(fields) == 0 {
		b.WriteString("It has no settings.\n\n")
		return
	}
	b.WriteString("| field | type | default | what it does |\n|---|---|---|---|\n")
	rows(b, comments, path, fields)
	b.WriteString("\n")
}

func rows(b *bytes.Buffer, comments map[string]string, path string, fields []resource.FieldInfo) {
	for _, f := range fields {
		name := f.Name
		if path != "" {
			name = path + "." + f.Name
		}
		def := ""
		switch {
		case f.Required:
			def = "required"
		case f.Default != "":
			def = "`" + f.Default + "`"
		}
		about := strings.ReplaceAll(strings.ReplaceAll(comments[f.Key], "\n", " "), "|", "\\|")
		if len(f.Rules) > 0 {
			about += " *" + strings.ReplaceAll(strings.Join(f.Rules, "; "), "|", "\\|") + "*"
		}
		if f.Example != "" {
			about += " Example: `" + f.Example + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", name, f.Type, def, about)
		inner := name
		if strings.HasPrefix(f.Type, "list") {
			inner += "[]"
		}
		rows(b, comments, inner, f.Fields)
	}
}

func policiesPage(t *testing.T, comments map[string]string) []byte {
	var b bytes.Buffer
	b.WriteString(generated + "# Policies\n\nPolicies stand in lists of the Gateway, an API, a stage, a version or a route. One further in replaces one of the same name, or\nswitches it off (`off: true`). They decide in the order of this page, whatever the order in the documents.\n" +
		"With `shadow: true` a policy records what it would have refused and refuses nothing.\n\n| policy | phase | what it does |\n|---|---|---|\n")
	for _, k := range policy.All {
		name := reflect.TypeOf(k.New()).Elem().Name()
		if comments[name] == "" {
			t.Errorf("policy %s has no doc comment", k.Name)
		}
		fmt.Fprintf(&b, "| [%s](#%s) | %s | %s |\n", k.Name, k.Name, k.Phase, firstSentence(inDocuments(comments[name], name, k.Name)))
	}
	for _, k := range policy.All {
		typ := reflect.TypeOf(k.New()).Elem()
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", k.Name, codeBlocks(inDocuments(comments[typ.Name()], typ.Name(), k.Name)))
		fieldTable(&b, comments, "", resource.Describe(typ))
		var codes []string
		for _, r := range reason.All() {
			own := strings.HasPrefix(r.Code, reasonFamily(k.Name)+".")
			switch r.Code {
			case "counter.unavailable":
				own = k.Phase == policy.Limits || k.Name == "subscription"
			case "answer.not-transformed":
				own = k.Name == "transform" || k.Name == "mask"
			case "schema.unknown-operation", "schema.unknown-method":
				own = own || k.Name == "mock"
			case "content.too-large":
				own = k.Name == "csrf" || k.Name == "json-limits" || k.Name == "transform"
			}
			if own {
				codes = append(codes, fmt.Sprintf("[`%s`](reasons.md#%s)", r.Code, strings.ReplaceAll(r.Code, ".", "")))
			}
		}
		if len(codes) > 0 {
			fmt.Fprintf(&b, "Reasons: %s\n", strings.Join(codes, ", "))
		}
	}
	return b.Bytes()
}

// reasonFamily is what the codes of a policy's reasons begin with.
func reasonFamily(name string) string {
	if name == "json-limits" {
		return "json"
	}
	return strings.TrimSuffix(name, "-auth")
}

// codeBlocks fences the indented examples of a doc comment.
func codeBlocks(s string) string {
	var out []string
	in := false
	for line := range strings.SplitSeq(s, "\n") {
		code := strings.HasPrefix(line, "\t")
		switch {
		case code && !in:
			out = append(out, "```yaml")
		case !code && in:
			out = append(out, "```")
		}
		in = code
		out = append(out, strings.TrimPrefix(line, "\t"))
	}
	if in {
		out = append(out, "```")
	}
	return strings.Join(out, "\n")
}

func commands() (list []*cobra.Command) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		list = append(list, c)
		for _, sub := range c.Commands() {
			if sub.Name() != "help" && !sub.Hidden {
				walk(sub)
			}
		}
	}
	os.Setenv("WHYGATE_DATA", "/var/lib/whygate") // the reference must not tell of this machine
	defer os.Unsetenv("WHYGATE_DATA")
	root := (&app{in: strings.NewReader(""), out: io.Discard, err: io.Discard}).root()
	root.InitDefaultCompletionCmd()
	walk(root)
	return list
}

func cliPage() []byte {
	var b bytes.Buffer
	b.WriteString(generated + "# The command line\n\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "## %s\n\n%s\n\n", c.CommandPath(), strings.TrimSpace(orElse(c.Long, c.Short)))
		if c.Runnable() {
			fmt.Fprintf(&b, "```\n%s\n```\n\n", c.UseLine())
		}
		if c.Example != "" {
			fmt.Fprintf(&b, "```sh\n%s\n```\n\n", dedent(c.Example))
		}
		if c.Parent() != nil && c.Parent().Name() == "completion" {
			continue
		}
		var flags []string
		c.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name == "help" || f.Name == "version" && c.Parent() == nil {
				return
			}
			name := "--" + f.Name
			if f.Shorthand != "" {
				name = "-" + f.Shorthand + ", " + name
			}
			def := ""
			if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.Name != "node" {
				def = " (default `" + f.DefValue + "`)"
			}
			flags = append(flags, "- `"+name+"` "+f.Usage+def)
		})
		if len(flags) > 0 {
			b.WriteString(strings.Join(flags, "\n") + "\n\n")
		}
	}
	return b.Bytes()
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func dedent(s string) string {
	var lines []string
	for l := range strings.SplitSeq(s, "\n") {
		lines = append(lines, strings.TrimPrefix(l, "  "))
	}
	return strings.Join(lines, "\n")
}

func adminPage(metrics []string) []byte {
	var b bytes.Buffer
	b.WriteString(generated + "# The admin API\n\nIt listens on the address of `serve --admin`, by default on loopback only. All but the first three want\n`Authorization: Bearer TOKEN`; the token is in the file `admin.token` of the data directory.\nWithout it, the node answers on loopback to an address or localhost in `Host`, and to no name that somebody else could point there (421).\n\n| route | what it answers |\n|---|---|\n")
	for _, r := range admin.Routes() {
		fmt.Fprintf(&b, "| `%s` | %s |\n", r[0], r[1])
	}
	b.WriteString("\n## What listeners serve\n\nWithout a token, beside the APIs, on every listener of the gateway:\n\n| route | what it answers |\n|---|---|\n")
	for _, r := range gateway.WellKnown() {
		fmt.Fprintf(&b, "| `%s` | %s |\n", r[0], r[1])
	}
	b.WriteString("\n## Metrics\n\n| metric and labels | what it counts |\n|---|---|\n")
	for _, m := range metrics {
		name, help, _ := strings.Cut(m, "\t")
		fmt.Fprintf(&b, "| `%s` | %s |\n", name, help)
	}
	b.WriteString("\nBesides them: the Go runtime's and the process's own (`go_*`, `process_*`). What routes and targets have together\nis bounded by `metrics.series` of the Gateway; those beyond are counted as `" + metric.Overflow + "`.\n")
	return b.Bytes()
}

// metricNames asks a running node for its metrics.
func metricNames(t *testing.T) (list []string) {
	up := whytest.Upstream(t, nil)
	n := whytest.Start(t, "wire", whytest.API(up.URL, "/", "    - key-auth: {}"))
	n.Record(n.Call("GET", "/", ""))
	s := &admin.Server{Gateway: n.Gateway, Calls: n.Journal.Reader, Journal: n.Journal, Started: time.Now(), LastReload: func() admin.ReloadStatus { return admin.ReloadStatus{OK: true} }}
	var w *httptest.ResponseRecorder
	whytest.Eventually(t, "the metrics of the call", func() bool { // it is counted when its answer is with the client
		w = httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		return strings.Contains(w.Body.String(), "whygate_calls_total{")
	})
	help := map[string]string{}
	labels := map[string]string{}
	for line := range strings.SplitSeq(w.Body.String(), "\n") {
		if rest, ok := strings.CutPrefix(line, "# HELP whygate_"); ok {
			name, text, _ := strings.Cut(rest, " ")
			help["whygate_"+name] = text
			continue
		}
		if name, rest, ok := strings.Cut(line, "{"); ok && strings.HasPrefix(name, "whygate_") {
			rest, _, _ = strings.Cut(rest, "}")
			var keys []string
			for part := range strings.SplitSeq(rest, ",") {
				if k, _, ok := strings.Cut(part, "="); ok && k != "le" {
					keys = append(keys, k)
				}
			}
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if base, ok := strings.CutSuffix(name, suffix); ok && help[base] != "" {
					name = base
				}
			}
			labels[name] = "{" + strings.Join(keys, ",") + "}"
		}
	}
	for name, text := range help {
		list = append(list, name+labels[name]+"\t"+text)
	}
	slices.Sort(list)
	return list
}

// surface lists what is public, one thing a line.
func surface(metrics []string) []byte {
	var lines []string
	for _, r := range reason.All() {
		lines = append(lines, fmt.Sprintf("reason %s %d", r.Code, r.Status))
	}
	for _, r := range wire.Rules() {
		lines = append(lines, "rule "+string(r))
	}
	var fields func(path string, list []resource.FieldInfo)
	fields = func(path string, list []resource.FieldInfo) {
		for _, f := range list {
			lines = append(lines, "field "+path+"."+f.Name)
			fields(path+"."+f.Name, f.Fields)
		}
	}
	for _, k := range kinds {
		fields(k.name, resource.Describe(k.t))
	}
	for _, k := range policy.All {
		lines = append(lines, "policy "+k.Name+" "+k.Phase.String())
		fields(k.Name, resource.Describe(reflect.TypeOf(k.New()).Elem()))
	}
	for _, r := range admin.Routes() {
		lines = append(lines, "route "+r[0])
	}
	for _, r := range gateway.WellKnown() {
		lines = append(lines, "listener "+r[0])
	}
	for _, m := range metrics {
		name, _, _ := strings.Cut(m, "\t")
		lines = append(lines, "metric "+name)
	}
	for _, c := range commands() {
		lines = append(lines, "command "+c.CommandPath())
		c.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" {
				lines = append(lines, "flag "+c.CommandPath()+" --"+f.Name)
			}
		})
	}
	slices.Sort(lines)
	return []byte(strings.Join(slices.Compact(lines), "\n") + "\n")
}
