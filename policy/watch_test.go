package policy

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Every file that is read while documents are compiled has them compiled again when it changes.
func TestFilesAreWatched(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	root := (*authorityOf)(nil).issue(t, named("Clients CA", isAuthority))
	ca := write("ca.pem", pemOf(root.cert))
	for kind, c := range map[string]struct{ config, file string }{
		"mock":         {`{answers: [{status: 200, file: FILE}]}`, write("answer.json", `{}`)},
		"waf":          {`{directives: FILE}`, write("more.conf", "SecRuleRemoveById 942100\n")},
		"jwt":          {`{issuer: "https://login.test", audience: [a], algorithms: [HS256], secret: {file: FILE}}`, write("secret", "0123456789abcdef0123456789abcdef")},
		"mtls":         {`{ca: FILE, allow: [{subject: CN=a}]}`, ca},
		"forward-auth": {`{url: "https://auth.test/", ca: FILE}`, ca},
		"schema":       {`{body: FILE}`, write("schema.json", `{"type": "object"}`)},
	} {
		var watched []string
		b := newTestbed(t)
		_, problems := b.keeping(map[string]Kept{}, kind, strings.ReplaceAll(c.config, "FILE", filepath.Base(c.file)), func(e *Env) {
			e.Resolve = func(name string) string { return filepath.Join(dir, name) }
			e.Watch = func(path string) { watched = append(watched, path) }
		})
		if problems.HasErrors() {
			t.Errorf("%s: %v", kind, problems)
		}
		if !slices.Contains(watched, c.file) {
			t.Errorf("%s reads %s, and watches %v", kind, c.file, watched)
		}
	}
}
