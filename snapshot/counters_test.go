package snapshot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/metric"
	"github.com/whygate/whygate/resource"
)

// What is wrong with the counters of a Gateway is said when it is read.
func TestCounters(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty": "\n", "secret": "geheim\n", "none.crt": "no certificate"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("STORE_PASSWORD", "geheim")
	for _, c := range []struct{ spec, problem string }{
		{`{store: redis, url: "redis://127.0.0.1:6379"}`, ""},
		{`{store: redis, url: "redis://gateway@127.0.0.1:6379/3", password: {env: STORE_PASSWORD}}`, ""},
		{`{store: redis, url: "rediss://store.test", password: {file: secret}}`, ""},
		{`{store: memory}`, ""},
		{`{url: "redis://127.0.0.1:6379"}`, "the URL is not used"},
		{`{store: redis}`, "needs the URL"},
		{`{store: redis, url: "http://127.0.0.1:6379"}`, "redis:// or rediss://"},
		{`{store: redis, url: "redis:///0"}`, "redis:// or rediss://"},
		{`{store: redis, url: "redis://a b/0"}`, "this is no URL"},
		{`{store: redis, url: "redis://127.0.0.1/zero"}`, "not the URL of a store"},
		{`{store: redis, url: "redis://:geheim@127.0.0.1"}`, "holds a password"},
		{`{store: redis, url: "redis://127.0.0.1?db=3"}`, "has parameters"},
		{`{store: redis, url: "redis://127.0.0.1", password: {}}`, "a file or in an environment variable"},
		{`{store: redis, url: "redis://127.0.0.1", password: {env: NO_SUCH_VARIABLE}}`, "NO_SUCH_VARIABLE is not set"},
		{`{store: redis, url: "redis://127.0.0.1", password: {file: empty}}`, "the file is empty"},
		{`{store: redis, url: "redis://127.0.0.1", password: {file: nowhere}}`, "cannot be read: no such file"},
		{`{store: redis, url: "rediss://127.0.0.1", ca: none.crt}`, "holds no certificate"},
		{`{store: redis, url: "redis://127.0.0.1", timeout: 10s}`, "5s"},
		{`{store: redis, url: "redis://127.0.0.1", localShare: 0}`, "0.01"},
		{`{store: redis, url: "redis://127.0.0.1", whenAway: maybe}`, "local"},
		{`{store: redis, url: "redis://127.0.0.1", prefix: "a b"}`, "letters"},
	} {
		doc := "apiVersion: whygate/v1\nkind: Gateway\nmetadata: {name: gateway}\nspec:\n  counters: " + c.spec + "\n"
		set, problems := resource.Parse(resource.File{Name: filepath.Join(dir, "gateway.yaml"), Data: []byte(doc)})
		var snap *Snapshot
		if !problems.HasErrors() {
			quotas, _ := counter.OpenQuotas("")
			snap, problems = Compile(set, Env{Memory: counter.NewMemory(), Quotas: quotas, Metrics: metric.NewRegistry()})
		}
		var text strings.Builder
		problems.Render(&text, nil, false)
		if c.problem == "" && (len(problems) > 0 || snap == nil) || !strings.Contains(text.String(), c.problem) {
			t.Errorf("%s: %s, want %q", c.spec, text.String(), c.problem)
		}
		for _, p := range problems {
			if strings.Contains(p.Message, "geheim") {
				t.Errorf("%s tells the password: %s", c.spec, p.Message)
			}
		}
		if snap != nil {
			if shares := snap.Shared != nil; shares != strings.Contains(c.spec, "store: redis") {
				t.Errorf("%s: shared %v", c.spec, shares)
			}
			snap.Retire(nil)
		}
	}
}
