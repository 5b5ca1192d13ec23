package policy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/c2sp/wycheproof"

	"github.com/whygate/whygate/reason"
)

// TestWycheproof sends the JOSE vectors of Project Wycheproof as bearer tokens. Most payloads are no claims, so a
// valid vector either passes or is refused for its payload behind a signature that is right. What differs is
// listed with its cause in testdata/wycheproof.txt.
func TestWycheproof(t *testing.T) {
	known := knownDifferences(t)
	seen := map[string]bool{}
	right, refused := 0, 0
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
			b, check := wycheproofCheck(t, keys)
			for _, c := range g.Tests {
				if c.JWS == nil { // JWE, which no policy reads
					continue
				}
				var token string
				if json.Unmarshal(c.JWS, &token) != nil { // the JSON form
					token = string(c.JWS)
				}
				got, code := "invalid", "no usable key"
				if check != nil {
					v := check.Check(b.bearer(token))
					slip, _ := v.Facts.Find("slip", reason.ToAnyone)
					switch code = ""; {
					case !v.Refused():
						got = "valid"
					case v.Reason == jwtMalformed && strings.HasPrefix(slip.Text(), "its signature is right"):
						got, code = "valid", v.Reason.Code
					default:
						code = v.Reason.Code
					}
				}
				id := fmt.Sprintf("%s %d", strings.TrimSuffix(name, "_test.json"), c.TcID)
				_, listed := known[id]
				switch {
				case got == c.Result && listed:
					t.Errorf("%s (%s) is right now: take it off the list", id, c.Comment)
				case got != c.Result && !listed:
					t.Errorf("%s (%s) is %s (%s), want %s\n%s\n%s", id, c.Comment, got, code, c.Result, token, keys)
				}
				seen[id] = true
				if got == c.Result {
					right++
				}
				if c.Result == "invalid" && got == "invalid" {
					refused++
				}
			}
		}
	}
	for id := range known {
		if !seen[id] {
			t.Errorf("there is no vector %s", id)
		}
	}
	t.Logf("%d vectors, %d right (%d of them refused), %d known differences", len(seen), right, refused, len(known))
}

// wycheproofCheck compiles a policy with the keys of a group in a file, or is nil if they cannot be used.
func wycheproofCheck(t *testing.T, keys json.RawMessage) (*tokenBed, Check) {
	b := newTokenBed(t)
	set, err := parseKeyFile(keys)
	if err != nil {
		return b, nil
	}
	var algorithms []string
	for _, a := range append([]string{"HS256", "HS384", "HS512"}, asymmetric...) {
		for _, k := range set.keys {
			if fits(a, k.key) == "" {
				algorithms = append(algorithms, a)
				break
			}
		}
	}
	path := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(path, keys, 0o600); err != nil {
		t.Fatal(err)
	}
	return b, b.check("jwt", fmt.Sprintf("{keyFile: %s, noExpiry: true, algorithms: [%s]}", path, strings.Join(algorithms, ", ")))
}

// knownDifferences reads "file tcId: cause" lines.
func knownDifferences(t *testing.T) map[string]string {
	data, err := os.ReadFile("testdata/wycheproof.txt")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]string{}
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		if line := s.Text(); line != "" && !strings.HasPrefix(line, "#") {
			id, cause, ok := strings.Cut(line, ": ")
			if !ok || cause == "" {
				t.Fatalf("%q names no cause", line)
			}
			known[id] = cause
		}
	}
	return known
}
