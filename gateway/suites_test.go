package gateway_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whygate/whygate/whytest"
	"github.com/whygate/whygate/whytest/suite"
)

// TestWycheproofAsBearerTokens: the JOSE vectors of Project Wycheproof through a gateway, in the field that
// clients send.
func TestWycheproofAsBearerTokens(t *testing.T) {
	up := whytest.Upstream(t, func(http.ResponseWriter, *http.Request) {})
	n := whytest.Start(t, "wire", whytest.API(up.URL, "/", ""))
	dir := t.TempDir()
	groups := 0
	suite.JOSE(t, func(keys []byte) suite.Judge {
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
		if len(algorithms) == 0 || !with(algorithms) {
			return nil
		}
		return func(token string) (bool, string) {
			a := n.Call("GET", "/", "", "Authorization: Bearer "+token)
			code := a.Header.Get("Whygate-Reason")
			switch {
			case a.StatusCode == 200:
				return true, ""
			case a.StatusCode != 401:
				t.Errorf("status %d %s for %s", a.StatusCode, code, token)
			case code == "jwt.malformed":
				return strings.Contains(string(n.Record(a).Detail), "its signature is right"), code // most payloads are no claims
			}
			return false, code
		}
	})
}

// TestJSONSchemaSuiteThroughARoute: the required cases of the JSON Schema Test Suite for 2020-12 as bodies of calls.
func TestJSONSchemaSuiteThroughARoute(t *testing.T) {
	up := whytest.Upstream(t, func(http.ResponseWriter, *http.Request) {})
	n := whytest.Start(t, "wire", whytest.API(up.URL, "/", ""))
	suite.JSONSchema(t, func(schema, remotes string) suite.Judge {
		if n.Apply(whytest.API(up.URL, "/", fmt.Sprintf("    - schema: {body: %q, formats: false, references: {\"http://localhost:1234/\": %q}}", schema, remotes))).HasErrors() {
			return nil
		}
		return func(body string) (bool, string) {
			a := n.Call("POST", "/", body, "Content-Type: application/json")
			if a.StatusCode != 200 && a.StatusCode != 422 && a.StatusCode != 400 {
				t.Errorf("status %d %s for %s", a.StatusCode, a.Body, body)
			}
			return a.StatusCode == 200, a.Header.Get("Whygate-Reason")
		}
	})
}
