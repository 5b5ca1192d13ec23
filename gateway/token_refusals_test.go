package gateway_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/whytest"
	"github.com/whygate/whygate/whytest/issuer"
)

// lasting are changed claims of a token that outlives the tests.
func lasting(change map[string]any) map[string]any {
	claims := map[string]any{"exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(claims, change)
	return claims
}

// keysArrive waits until the gateway has the keys of the issuer, however slow the machine is.
func keysArrive(t *testing.T, n *whytest.Node) {
	token := issuer.New("https://login.elsewhere.test").Token(nil) // of no issuer that is known
	whytest.Eventually(t, "the keys are there", func() bool {
		return n.Call("GET", "/", "", "Authorization: Bearer "+token).Header.Get("Whygate-Reason") != "jwt.keys-unavailable"
	})
}

// tokenRefusals provoke the reasons of policies that read tokens.
func tokenRefusals(t *testing.T) []refusal {
	type m = map[string]any
	is := issuer.Start(t)
	away := issuer.Start(t)
	away.Down(true)
	odd := issuer.Start(t) // publishes a key that cannot be used beside a good one
	keys, err := json.Marshal(m{"keys": []any{odd.Key().JWK(), m{"kty": "EC", "kid": "odd-key", "crv": "hidden-curve", "x": "AA", "y": "AA"}}})
	if err != nil {
		t.Fatal(err)
	}
	odd.Publish(string(keys), "")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(issuer.Secret), 0o600); err != nil {
		t.Fatal(err)
	}
	_, app := whytest.Consumer("hidden-app", "")
	credential := func(how string) string {
		return app + "---\napiVersion: whygate/v1\nkind: Credential\nmetadata: {name: hidden-credential}\nspec: {application: hidden-app, token: {client: " + issuer.Client + "}, " + how + "}\n"
	}
	const claims = `claims: [{name: tenant, values: [hidden-tenant, hidden-other]}]`
	const audience = `audience: ["https://api.shop.test"]`
	jwtOf := func(is *issuer.Issuer, code, settings, token string) refusal {
		c := refusal{code: "jwt." + code, policies: fmt.Sprintf("  - jwt: {issuer: %q, %s}", is.URL, settings)}
		if token != "" {
			c.header = []string{"Authorization: Bearer " + token}
		}
		if is != away {
			c.before = keysArrive
		}
		return c
	}
	jwt := func(code, settings, token string) refusal { return jwtOf(is, code, settings, token) }
	fetched := func(is *issuer.Issuer, code, token string) refusal { // from an address that callers do not know
		c := jwtOf(is, code, "", token)
		c.policies = fmt.Sprintf("  - jwt: {jwks: %q}", is.URL+"/keys")
		return c
	}
	signed := func(change m) string { return is.Token(lasting(change)) }
	head := func(k *issuer.Key, change m, claims m) string {
		header := m{"alg": k.Alg, "kid": k.ID}
		maps.Copy(header, change)
		payload, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		return issuer.Sign(k, header, payload)
	}
	now := time.Now()
	good := signed(nil)

	asks := func(is *issuer.Issuer, code, settings, token string) refusal {
		c := refusal{code: "introspection." + code, policies: fmt.Sprintf("  - introspection: {endpoint: %q, clientId: gateway, clientSecret: {file: %q}, timeout: 20s, %s}", is.URL+"/introspect", secret, settings)}
		if token != "" {
			c.header = []string{"Authorization: Bearer " + token}
		}
		return c
	}
	opaque := func(code, settings string, change m) refusal {
		return asks(is, code, settings, is.Opaque(lasting(change)))
	}
	and := func(c refusal, docs string, header ...string) refusal {
		c.docs = docs
		c.header = append(c.header, header...)
		return c
	}
	stranger := func(c refusal) refusal { // a gateway that the issuer does not know
		c.policies = strings.Replace(c.policies, "clientId: gateway", "clientId: hidden-client", 1)
		return c
	}
	named := fmt.Sprintf("issuer: %q", is.URL)
	nobody := jwt("", audience, good) // of a client that no Credential names
	nobody.code, nobody.policies = "subscription.no-application", nobody.policies+"\n  - subscription: {}"
	return []refusal{
		nobody,
		jwt("missing", audience, ""),
		and(jwt("missing", audience, ""), "", "Authorization: "+good),
		and(jwt("repeated", "cookie: session", good), "", "Cookie: session="+signed(m{"sub": "bob"})),
		jwt("malformed", audience, "8f0c2d51"),
		jwt("malformed", audience, `"`+good+`"`),
		jwt("algorithm", "algorithms: [RS256]", good),
		jwt("algorithm", audience, issuer.SignHMAC([]byte("x"), m{"alg": "HS256"}, []byte("{}"))),
		jwt("algorithm", audience, issuer.Encode([]byte(`{"alg":"none"}`))+"."+issuer.Encode([]byte("{}"))+"."),
		jwt("unknown-key", audience, head(is.Key(), m{"kid": "another-key"}, is.Claims(nil))),
		jwtOf(odd, "unknown-key", audience, head(odd.Key(), m{"kid": "odd-key"}, odd.Claims(m{"iss": "https://login.elsewhere.test"}))),
		jwt("signature", audience, issuer.New(is.URL).Token(nil)),
		jwt("signature", audience, issuer.New("https://login.elsewhere.test").Token(nil)),
		jwt("expired", audience, is.Token(m{"exp": now.Add(-time.Hour).Unix()})),
		jwt("not-yet-valid", audience, signed(m{"nbf": now.Add(time.Hour).Unix()})),
		jwt("not-yet-valid", audience, signed(m{"iat": now.Add(time.Hour).Unix()})),
		jwt("token-type", audience, signed(m{"at_hash": "x"})),
		jwt("token-type", audience, head(is.Key(), m{"typ": "logout+jwt"}, is.Claims(lasting(nil)))),
		jwt("issuer", audience, signed(m{"iss": "https://login.elsewhere.test"})),
		jwt("issuer", audience, signed(m{"iss": is.URL + "/"})),
		jwt("audience", audience, signed(m{"aud": "https://api-sandbox.shop.test"})),
		jwt("audience", `audience: ["https://api.shop.test", "https://more.shop.test"], audienceMatch: all`, good),
		jwt("claim-missing", claims, signed(m{"tenants": "hidden-tenant"})),
		jwt("claim-missing", audience, signed(m{"aud": nil})),
		jwt("claim-missing", audience, signed(m{"iss": nil})),
		jwt("claim-missing", audience, signed(m{"exp": nil})),
		jwt("claim-mismatch", claims, signed(m{"tenant": "strange-tenant"})),
		and(jwt("client-not-accepted", audience, good), credential("state: revoked")),
		and(jwt("client-not-accepted", audience, good), credential("until: 2020-01-01")),
		and(jwt("client-not-accepted", audience, good), credential("from: 2099-01-01")),
		jwtOf(away, "keys-unavailable", audience, away.Token(lasting(nil))),
		fetched(is, "unknown-key", head(is.Key(), m{"kid": "another-key"}, is.Claims(nil))),
		fetched(is, "signature", issuer.New(is.URL).Token(nil)),
		fetched(away, "keys-unavailable", away.Token(lasting(nil))),

		asks(is, "missing", audience, ""),
		and(asks(is, "missing", audience, ""), "", "Authorization: Basic eDp5"),
		and(asks(is, "repeated", "cookie: session", "one"), "", "Cookie: session=two"),
		asks(is, "malformed", audience, "a!b"),
		asks(is, "inactive", audience, "an-unknown-token"),
		asks(is, "inactive", audience, good),
		opaque("inactive", audience, m{"nbf": now.Add(time.Hour).Unix()}),
		opaque("issuer", named, m{"iss": "https://login.elsewhere.test"}),
		opaque("audience", audience, m{"aud": "https://api-sandbox.shop.test"}),
		opaque("claim-missing", claims, m{"tenants": "hidden-tenant"}),
		opaque("claim-missing", named, m{"iss": nil}),
		opaque("claim-mismatch", claims, m{"tenant": "strange-tenant"}),
		and(opaque("client-not-accepted", audience, nil), credential("state: revoked")),
		stranger(asks(away, "unavailable", audience, "a-token")),
		stranger(asks(is, "unavailable", audience, "a-token")),
	}
}

// TestTokenChallenges: refusals of tokens say in WWW-Authenticate what RFC 6750 §3 wants, and when to come back where
// the token is not to blame.
func TestTokenChallenges(t *testing.T) {
	t.Parallel()
	for _, c := range append(tokenRefusals(t), scopeRefusals(t)...) {
		t.Run(c.code, func(t *testing.T) {
			t.Parallel()
			whytest.EachEngine(t, func(t *testing.T, engine string) {
				_, a := c.provoke(t, engine, "anonymous", "")
				want, again := `Bearer realm="api"`, ""
				switch r := reason.ByCode(c.code); {
				case strings.HasSuffix(c.code, ".missing"):
				case r.Status == 400:
					want += fmt.Sprintf(`, error="invalid_request", error_description=%q`, r.Title)
				case r.Status == 401:
					want += fmt.Sprintf(`, error="invalid_token", error_description=%q`, r.Title)
				case c.code == "scopes.insufficient":
					want += `, error="insufficient_scope", scope="wanted.scope other.scope"`
				case r.Status == 503:
					want, again = "", "5"
				default:
					want = ""
				}
				if a.Header.Get("Whygate-Reason") != c.code || a.Header.Get("WWW-Authenticate") != want || a.Header.Get("Retry-After") != again {
					t.Errorf("%d %v, want WWW-Authenticate: %s", a.StatusCode, a.Header, want)
				}
			})
		})
	}
}

// TestAddressOfIssuer: strangers are not told where keys are fetched and tokens are asked about. Owners are.
func TestAddressOfIssuer(t *testing.T) {
	t.Parallel()
	told := 0
	for _, c := range tokenRefusals(t) {
		address := regexp.MustCompile(`(?:jwks|endpoint): "http://([0-9.:]+)/`).FindStringSubmatch(c.policies)
		if address == nil || strings.Contains(c.policies, "issuer: ") || c.code == "introspection.claim-missing" {
			continue // the token itself says whose it is
		}
		if _, a := c.provoke(t, "wire", "caller", ""); strings.Contains(a.Body, address[1]) {
			t.Errorf("%s tells callers about %s: %s", c.code, address[1], a.Body)
		}
		if _, a := c.provoke(t, "wire", "owner", ""); strings.Contains(a.Body, address[1]) {
			told++
		}
	}
	if told < 6 {
		t.Errorf("%d answers tell owners about the address", told)
	}
}

// scopeRefusals are calls with tokens that lack a scope.
func scopeRefusals(t *testing.T) []refusal {
	is := issuer.Start(t)
	return []refusal{{code: "scopes.insufficient", policies: fmt.Sprintf("  - jwt: {issuer: %q}\n  - scopes: {all: [wanted.scope], any: [other.scope, third.scope]}", is.URL),
		header: []string{"Authorization: Bearer " + is.Token(lasting(nil))}, before: keysArrive}}
}
