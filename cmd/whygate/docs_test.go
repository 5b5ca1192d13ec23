package main

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/whygate/whygate/policy"
)

var (
	fenced  = regexp.MustCompile("(?ms)^```.*?^```$|`[^`\n]*`")
	linked  = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	direct  = regexp.MustCompile(`(?m)^\t(\S+) v\S+$`)
)

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestLinks: every relative link of the documentation leads to a file, and to a heading in it.
func TestLinks(t *testing.T) {
	const root = "../.."
	files := []string{root + "/README.md", root + "/CHANGELOG.md", root + "/bench/README.md"}
	if err := filepath.WalkDir(root+"/docs", func(name string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(name) == ".md" {
			files = append(files, name)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range files {
		for _, m := range linked.FindAllStringSubmatch(read(t, file), -1) {
			u, err := url.Parse(m[1])
			if err != nil {
				t.Errorf("%s: %q: %v", file, m[1], err)
				continue
			}
			if u.Scheme != "" {
				continue
			}
			found++
			target := file
			if u.Path != "" {
				target = filepath.Join(filepath.Dir(file), u.Path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which is not there", file, m[1])
				continue
			}
			if u.Fragment != "" && filepath.Ext(target) == ".md" && !hasHeading(read(t, target), u.Fragment) {
				t.Errorf("%s links to %s: there is no such heading", file, m[1])
			}
		}
	}
	if found < 50 {
		t.Errorf("only %d links were found", found)
	}
}

// hasHeading says that a heading gets this anchor, by the rule of the usual viewers.
func hasHeading(text, anchor string) bool {
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ' || r == '-':
				return '-'
			case r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_':
				return r
			}
			return -1
		}, strings.ToLower(m[1]))
		if name == anchor {
			return true
		}
	}
	return false
}

// TestDependenciesAreExplained: each module that go.mod requires directly is named in docs/dependencies.md, and nothing
// is named in its tables that go.mod does not require.
func TestDependenciesAreExplained(t *testing.T) {
	doc := read(t, "../../docs/dependencies.md")
	named := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| \\S").FindAllStringSubmatch(doc, -1) {
		named[m[1]] = true
	}
	required := direct.FindAllStringSubmatch(read(t, "../../go.mod"), -1)
	if len(required) == 0 {
		t.Fatal("go.mod was not understood")
	}
	for _, m := range required {
		if !named[m[1]] {
			t.Errorf("docs/dependencies.md does not say why we need %s", m[1])
		}
		delete(named, m[1])
	}
	for m := range named {
		t.Errorf("docs/dependencies.md names %s, which go.mod does not require", m)
	}
}

// TestReadmeCommands: each `whygate` and `make` command of the README exists.
func TestReadmeCommands(t *testing.T) {
	readme, makefile := read(t, "../../README.md"), read(t, "../../Makefile")
	known := map[string]bool{}
	for _, c := range commands() {
		known[c.Name()] = true
	}
	checked := 0
	for _, block := range fenced.FindAllString(readme, -1) {
		for _, m := range regexp.MustCompile(`\bwhygate ([a-z]+)\b`).FindAllStringSubmatch(block, -1) {
			if checked++; !known[m[1]] {
				t.Errorf("there is no command whygate %s", m[1])
			}
		}
		for _, m := range regexp.MustCompile("(?m)(?:^|`)make ([a-z0-9]+)").FindAllStringSubmatch(block, -1) {
			if checked++; !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("there is no target %s in the Makefile", m[1])
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d commands were found", checked)
	}
}

// TestReadmeDocuments: the documents in the README compile.
func TestReadmeDocuments(t *testing.T) {
	blocks := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllStringSubmatch(read(t, "../../README.md"), -1)
	if len(blocks) == 0 {
		t.Fatal("the README has no documents")
	}
	for _, b := range blocks {
		file := filepath.Join(t.TempDir(), "readme.yaml")
		if err := os.WriteFile(file, []byte(b[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, problems := compileOffline([]string{file}); len(problems) > 0 {
			t.Errorf("%s\n%v", b[1], problems)
		}
	}
}

// TestPolicyTables: the tables of policies by phase have each policy, in the order in which they decide.
func TestPolicyTables(t *testing.T) {
	var want []string
	for _, k := range policy.All {
		row := "| " + k.Phase.String() + " |"
		if n := len(want); n == 0 || !strings.HasPrefix(want[n-1], row) {
			want = append(want, row)
		}
		want[len(want)-1] += " " + k.Name
	}
	for _, file := range []string{"../../README.md", "../../docs/architecture.md"} {
		_, table, _ := strings.Cut(read(t, file), "\n| phase | policies |\n|---|---|\n")
		table, _, _ = strings.Cut(table, "\n\n")
		var have []string
		for line := range strings.SplitSeq(table, "\n") {
			phase, names, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
			row := "| " + phase + " |"
			for _, m := range regexp.MustCompile("`([a-z-]+)`").FindAllStringSubmatch(names, -1) {
				row += " " + m[1]
			}
			have = append(have, row)
		}
		if d := cmp.Diff(want, have); d != "" {
			t.Errorf("%s:\n%s", file, d)
		}
	}
}

// TestReadmeStory: the story at the top of the README is what a node tells, but for what differs each time.
func TestReadmeStory(t *testing.T) {
	_, story, _ := strings.Cut(read(t, "../../README.md"), "$ whygate why last\n")
	story, _, _ = strings.Cut(story, "```")
	t.Chdir("../..") // the story names files as they are called there
	dir := t.TempDir()
	key, doc, err := newCredential("acme-shop", "", "")
	if err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(dir, "keys.yaml")
	if err := os.WriteFile(keys, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	var log lines
	go func() {
		ended <- run(ctx, []string{"serve", "examples/shop", keys, "--data", dir, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--node", "gw-1"}, strings.NewReader(""), io.Discard, &log)
	}()
	defer func() {
		cancel()
		<-ended
	}()
	var n nodeInfo
	for range 500 {
		if n, err = readNode(dir); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	req, err := http.NewRequest("POST", "http://"+n.Listeners[0]+"/prod/orders", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Api-Key", key)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	var told bytes.Buffer
	if code := run(ctx, []string{"why", "last", "--data", dir}, strings.NewReader(""), &told, &told); code != exitOK {
		t.Fatalf("exit code %d: %s", code, &told)
	}
	differs := regexp.MustCompile(`wg_\w+|\b[0-9A-Z]{26}\b|\d[\d.]* ms| at \d.* UTC|[\d.]+ KiB out`)
	if d := cmp.Diff(strings.TrimSpace(differs.ReplaceAllString(story, "…")), strings.TrimSpace(differs.ReplaceAllString(told.String(), "…"))); d != "" {
		t.Error(d)
	}
}

// TestReadmePinpoint: the verdict in the README is what pinpoint tells of the recording that the guide has.
func TestReadmePinpoint(t *testing.T) {
	const command = "$ whygate pinpoint --har session.har --entry 1 --offline\n"
	_, story, ok := strings.Cut(read(t, "../../README.md"), command)
	story, _, _ = strings.Cut(story, "```")
	if !ok || story == "" {
		t.Fatal("the README has no verdict")
	}
	var told bytes.Buffer
	args := []string{"pinpoint", "--har", "../../examples/guide/session.har", "--entry", "1", "--offline", "--node-data", t.TempDir()}
	if code := run(t.Context(), args, strings.NewReader(""), &told, &told); code != 4 {
		t.Fatalf("exit code %d: %s", code, &told)
	}
	have, _, _ := strings.Cut(told.String(), "  sent ")
	if d := cmp.Diff(strings.TrimSpace(story), strings.TrimSpace(have)); d != "" {
		t.Error(d)
	}
}
