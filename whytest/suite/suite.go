// Package suite runs the suites of others that policies are held to, and keeps the list of what is known to differ.
// The same loop serves the tests of a policy and those through a gateway.
package suite

import (
	"bytes"
	_ "embed" // a list
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/c2sp/wycheproof"
	_ "github.com/google/jsonschema-go/jsonschema" // has the JSON Schema Test Suite among its files
)

//go:embed jose.txt
var joseDifferences string

// A Judge says whether one case of a suite is found valid, and in a few words why.
type Judge func(text string) (valid bool, why string)

// differences are the known ones of a suite: lines of "case: cause".
type differences struct {
	causes map[string]string
	met    map[string]bool
	right  int
}

func newDifferences(t *testing.T, list string) *differences {
	d := &differences{causes: map[string]string{}, met: map[string]bool{}}
	for line := range strings.Lines(list) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		id, cause, _ := strings.Cut(line, ": ")
		if cause == "" {
			t.Fatalf("the known difference %q names no cause", id)
		}
		d.causes[id] = cause
	}
	return d
}

// note holds what came out for one case against what the suite says.
func (d *differences) note(t *testing.T, id string, right bool, format string, args ...any) {
	_, known := d.causes[id]
	d.met[id] = true
	switch {
	case right && known:
		t.Errorf("%s is right now: take it off the list", id)
	case right:
		d.right++
	case !known:
		t.Errorf("%s: %s", id, fmt.Sprintf(format, args...))
	}
}

// end looks for known differences that there are no cases of, and for a suite that has shrunk.
func (d *differences) end(t *testing.T, least int) {
	for id := range d.causes {
		if !d.met[id] {
			t.Errorf("%s is listed as a difference, and there is no such case", id)
		}
	}
	if d.right < least {
		t.Errorf("only %d cases are right, want %d", d.right, least)
	}
	t.Logf("%d right, %d known differences", d.right, len(d.causes))
}

// JOSE gives the vectors of Project Wycheproof for signed tokens to the judge that begin returns for the keys (a
// JWK or a set of them) of each group; nil says that none of the keys can be used, so that no token is valid.
func JOSE(t *testing.T, begin func(keys []byte) Judge) {
	d := newDifferences(t, joseDifferences)
	for _, name := range []string{"json_web_signature_test.json", "json_web_crypto_test.json", "json_web_key_test.json"} {
		data, err := fs.ReadFile(wycheproof.TestVectors, name)
		if err != nil {
			t.Fatal(err)
		}
		var file struct {
			TestGroups []struct {
				Public, Private json.RawMessage
				Tests           []struct {
					TcID            int
					Comment, Result string
					JWS             json.RawMessage
				}
			}
		}
		if err := json.Unmarshal(data, &file); err != nil {
			t.Fatal(err)
		}
		for _, g := range file.TestGroups {
			keys := g.Public
			if keys == nil {
				keys = g.Private
			}
			judge := begin(keys)
			for _, c := range g.Tests {
				if c.JWS == nil { // JWE, which no policy reads
					continue
				}
				var token string
				if json.Unmarshal(c.JWS, &token) != nil { // the JSON form
					var compact bytes.Buffer
					if err := json.Compact(&compact, c.JWS); err != nil {
						t.Fatal(err)
					}
					token = compact.String()
				}
				valid, why := false, "no usable key"
				if judge != nil {
					valid, why = judge(token)
				}
				id := fmt.Sprintf("%s %d", strings.TrimSuffix(name, "_test.json"), c.TcID)
				d.note(t, id, valid == (c.Result == "valid"), "%s: valid is %v (%s), and the suite says %s\n%s\n%s", c.Comment, valid, why, c.Result, token, keys)
			}
		}
	}
	d.end(t, 468)
}

// JSONSchema gives the required cases of the JSON Schema Test Suite for 2020-12, which a module in the cache of
// the tool chain contains, to the judge that begin returns for the file of each schema; nil says that it cannot be
// used. The folder remotes is what the suite expects under http://localhost:1234/.
func JSONSchema(t *testing.T, begin func(schema, remotes string) Judge) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/jsonschema-go").Output()
	dir := filepath.Join(strings.TrimSpace(string(out)), "jsonschema", "testdata")
	names, _ := filepath.Glob(filepath.Join(dir, "draft2020-12", "*.json"))
	if err != nil || len(names) < 40 {
		t.Fatalf("the suite is not in the module cache: %v, %d files", err, len(names))
	}
	d := newDifferences(t, "")
	folder := t.TempDir()
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var groups []struct {
			Description string          `json:"description"`
			Schema      json.RawMessage `json:"schema"`
			Tests       []struct {
				Description string          `json:"description"`
				Data        json.RawMessage `json:"data"`
				Valid       bool            `json:"valid"`
			} `json:"tests"`
		}
		if err := json.Unmarshal(text, &groups); err != nil {
			t.Fatal(err)
		}
		for i, g := range groups {
			path := filepath.Join(folder, fmt.Sprintf("%s-%d.json", strings.TrimSuffix(filepath.Base(name), ".json"), i))
			if err := os.WriteFile(path, g.Schema, 0o600); err != nil {
				t.Fatal(err)
			}
			id := filepath.Base(name) + ": " + g.Description
			judge := begin(path, filepath.Join(dir, "remotes"))
			if judge == nil {
				d.note(t, id, false, "the schema cannot be used: %s", g.Schema)
				continue
			}
			for _, c := range g.Tests {
				valid, why := judge(string(c.Data))
				d.note(t, id+": "+c.Description, valid == c.Valid, "%s: valid is %v (%s), and the suite says %v", c.Data, valid, why, c.Valid)
			}
		}
	}
	d.end(t, 1099)
}
