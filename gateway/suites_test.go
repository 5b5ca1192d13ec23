package gateway_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/c2sp/wycheproof"

	"github.com/whygate/whygate/whytest"
)

// listed reads a list of known differences that a policy's own test keeps: those texts that differences
// there begin with, each with its cause.
func listed(t *testing.T, name, separator string) map[string]bool {
	text, err := os.ReadFile("../policy/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimRight(line, "\n"); line != "" && !strings.HasPrefix(line, "#") {
			if separator != "" {
				line, _, _ = strings.Cut(line, separator)
			}
			known[line] = true
		}
	}
	return known
}

// TestWycheproofAsBearerTokens: the JOSE vectors of Project Wycheproof through a gateway, in the field that
// clients send. policy.TestWycheproof keeps the list of differences and their causes.
func TestWycheproofAsBearerTokens(t *testing.T) {
	known := listed(t, "wycheproof.txt", ": ")
	up := whytest.Upstream(t, func(http.ResponseWriter, *http.Request) {})
	n := whytest.Start(t, "wire", whytest.API(up.URL, "/", ""))
	dir := t.TempDir()
	right, differ, groups := 0, 0, 0
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
			groups++
			path := filepath.Join(dir, fmt.Sprintf("%d.json", groups))
			if err := os.WriteFile(path, keys, 0o600); err != nil {
				t.Fatal(err)
			}
			// An algorithm that no key is made for is an error of the document.
			with := func(algorithms []string) bool {
				return !n.Apply(whytest.API(up.URL, "/", fmt.Sprintf("    - jwt: {keyFile: %s, noExpiry: true, algorithms: [%s]}", path, strings.Join(algorithms, ", ")))).HasErrors()
			}
			var algorithms []string
			for _, a := range strings.Fields("HS256 HS384 HS512 RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA") {
				if with([]string{a}) {
					algorithms = append(algorithms, a)
				}
			}
			usable := len(algorithms) > 0 && with(algorithms)
			for _, c := range g.Tests {
				if c.JWS == nil { // JWE, which no policy reads
					continue
				}
				var token string
				if json.Unmarshal(c.JWS, &token) != nil { // the JSON form
					var compact strings.Builder
					enc := json.NewEncoder(&compact)
					enc.SetEscapeHTML(false)
					if err := enc.Encode(c.JWS); err != nil {
						t.Fatal(err)
					}
					token = strings.TrimSpace(compact.String())
				}
				got, code := "invalid", "no usable key"
				if usable {
					a := n.Call("GET", "/", "", "Authorization: Bearer "+token)
					code = a.Header.Get("Whygate-Reason")
					switch {
					case a.StatusCode == 200:
						got = "valid"
					case a.StatusCode != 401:
						t.Errorf("%s %d: status %d %s", name, c.TcID, a.StatusCode, code)
					case code == "jwt.malformed":
						if rec := n.Record(a); strings.Contains(string(rec.Detail), "its signature is right") {
							got = "valid" // most payloads are no claims
						}
					}
				}
				id := fmt.Sprintf("%s %d", strings.TrimSuffix(name, "_test.json"), c.TcID)
				switch {
				case got == c.Result:
					right++
				case known[id]:
					differ++
				default:
					t.Errorf("%s (%s) is %s (%s), want %s", id, c.Comment, got, code, c.Result)
				}
			}
		}
	}
	if right < 460 || differ != len(known) {
		t.Errorf("%d vectors are right and %d of %d known ones differ", right, differ, len(known))
	}
	t.Logf("%d vectors right, %d known differences", right, differ)
}

// TestJSONSchemaSuiteThroughARoute: the required cases of the JSON Schema Test Suite for 2020-12 as bodies of calls.
// policy.TestJSONSchemaSuite keeps the list of differences and their causes.
func TestJSONSchemaSuiteThroughARoute(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/jsonschema-go").Output()
	names, _ := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "jsonschema", "testdata", "draft2020-12", "*.json"))
	if err != nil || len(names) < 40 {
		t.Fatalf("the suite is not in the module cache: %v, %d files", err, len(names))
	}
	known := listed(t, "json-schema-suite.txt", "")
	up := whytest.Upstream(t, func(http.ResponseWriter, *http.Request) {})
	n := whytest.Start(t, "wire", whytest.API(up.URL, "/", ""))
	dir := t.TempDir()
	cases := 0
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var suite []struct {
			Description string          `json:"description"`
			Schema      json.RawMessage `json:"schema"`
			Tests       []struct {
				Description string          `json:"description"`
				Data        json.RawMessage `json:"data"`
				Valid       bool            `json:"valid"`
			} `json:"tests"`
		}
		if err := json.Unmarshal(text, &suite); err != nil {
			t.Fatal(err)
		}
		for i, g := range suite {
			id := filepath.Base(name) + ": " + g.Description
			path := filepath.Join(dir, fmt.Sprintf("%s-%d.json", strings.TrimSuffix(filepath.Base(name), ".json"), i))
			if err := os.WriteFile(path, g.Schema, 0o600); err != nil {
				t.Fatal(err)
			}
			if n.Apply(whytest.API(up.URL, "/", fmt.Sprintf("    - schema: {body: %q, formats: false}", path))).HasErrors() {
				if !known[id] {
					t.Errorf("%s does not compile", id)
				}
				continue
			}
			for _, test := range g.Tests {
				cases++
				a := n.Call("POST", "/", string(test.Data), "Content-Type: application/json")
				if (a.StatusCode == 200) != test.Valid && !known[id+": "+test.Description] {
					t.Errorf("%s: %s: %d %s %s", id, test.Description, a.StatusCode, a.Header.Get("Whygate-Reason"), a.Body)
				}
			}
		}
	}
	if cases < 1050 {
		t.Errorf("only %d cases ran", cases)
	}
}
