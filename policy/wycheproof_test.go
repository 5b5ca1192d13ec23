package policy

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/whytest/suite"
)

// TestWycheproof sends the JOSE vectors of Project Wycheproof as bearer tokens. Most payloads are no claims, so a
// valid vector either passes or is refused for its payload behind a signature that is right.
func TestWycheproof(t *testing.T) {
	suite.JOSE(t, func(keys []byte) suite.Judge {
		b, check := wycheproofCheck(t, keys)
		if check == nil {
			return nil
		}
		return func(token string) (bool, string) {
			v := check.Check(b.bearer(token))
			if !v.Refused() {
				return true, ""
			}
			slip, _ := v.Facts.Find("slip", reason.ToAnyone)
			return v.Reason == jwtMalformed && strings.HasPrefix(slip.Text(), "its signature is right"), v.Reason.Code
		}
	})
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
