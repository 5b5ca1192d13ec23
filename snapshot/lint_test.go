package snapshot

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/resource"
)

// TestCertificatesOutOfTime: a certificate that clients refuse is a warning, as the rest of the node can serve.
func TestCertificatesOutOfTime(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		from, until time.Duration
		code        string
	}{
		{-48 * time.Hour, -24 * time.Hour, "tls.expired"},
		{24 * time.Hour, 48 * time.Hour, "tls.not-yet-valid"},
		{-24 * time.Hour, 24 * time.Hour, ""},
	} {
		dir := t.TempDir()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		form := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "shop.test"}, NotBefore: now.Add(c.from), NotAfter: now.Add(c.until)}
		cert, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		for name, block := range map[string]*pem.Block{"a.crt": {Type: "CERTIFICATE", Bytes: cert}, "a.key": {Type: "PRIVATE KEY", Bytes: der}} {
			if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, problems := compile(t, fmt.Sprintf(`apiVersion: whygate/v1
kind: Gateway
metadata: {name: g}
spec: {listeners: [{address: ":8443", tls: {certificates: [{cert: %[1]q, key: %[2]q}]}}]}
`, filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key")))
		var codes []string
		for _, p := range problems {
			codes = append(codes, p.Code)
			if p.Severity == resource.Error {
				t.Error(p)
			}
		}
		if got := strings.Join(codes, " "); got != c.code {
			t.Errorf("valid from %v until %v: %q, wanted %q", c.from, c.until, got, c.code)
		}
	}
}

// lintCode finds codes where they are given out, and those that are put together of a policy's name and a word.
var (
	lintCode  = regexp.MustCompile(`\b[lL]int\(.*?"([a-z-]+\.[a-z-]+)"(?:,|\)$)`)
	lintsCode = regexp.MustCompile(`\bLint\(kind\+"(\.[a-z-]+)"`)
	lastCode  = regexp.MustCompile(`\blint\(.*, "([a-z-]+\.[a-z-]+)"\)$`)
)

// TestEveryWarningIsShown: each code of a warning stands in testdata or in a scenario, or is asked for by a test.
func TestEveryWarningIsShown(t *testing.T) {
	shown, codes := "", map[string]bool{}
	for _, pattern := range []string{"testdata/problems/*.txt", "*_test.go", "../policy/*_test.go", "../examples/*.txtar"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			shown += string(b)
		}
	}
	for _, pattern := range []string{"*.go", "../policy/*.go"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			for line := range strings.SplitSeq(string(b), "\n") {
				if m := lastCode.FindStringSubmatch(line); m != nil {
					codes[m[1]] = true
				} else if m := lintsCode.FindStringSubmatch(line); m != nil {
					kinds := []string{"rate-limit", "quota", "concurrency"}
					switch filepath.Base(f) {
					case "entitlement.go":
						kinds = []string{"scopes"} // stands for roles and groups, which share the line
					case "follow.go":
						kinds = []string{"ip-access"} // for all that read files
					}
					for _, kind := range kinds {
						codes[kind+m[1]] = true
					}
				} else if m := lintCode.FindStringSubmatch(line); m != nil {
					codes[m[1]] = true
				}
			}
		}
	}
	if len(codes) < 20 {
		t.Fatalf("only %d codes were found", len(codes))
	}
	for code := range codes {
		if !strings.Contains(shown, code) {
			t.Errorf("nothing shows the warning %s", code)
		}
	}
}

// TestMethodMisspelt: methods of one's own are fine, those that look like a slip are told.
func TestMethodMisspelt(t *testing.T) {
	_, problems := compile(t, `apiVersion: whygate/v1
kind: Upstream
metadata: {name: shop}
spec: {targets: [{url: "http://127.0.0.1:9000"}]}
---
apiVersion: whygate/v1
kind: API
metadata: {name: orders}
spec:
  upstream: shop
  stages: [{name: dev}, {name: prod}]
  routes: [{path: /a, methods: [GETT, get, PURGE, PROPFIND, DELTE]}]
`)
	var found []string
	for _, p := range problems {
		if p.Code == "route.method-misspelt" {
			found = append(found, p.Message+": "+p.Hint)
		}
	}
	want := []string{`"GETT" is no registered method, so hardly a call matches: did you mean GET?`, `"DELTE" is no registered method, so hardly a call matches: did you mean DELETE?`}
	if !slices.Equal(found, want) {
		t.Errorf("%q, want %q", found, want)
	}
}
