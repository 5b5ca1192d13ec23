package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/whytest"
	"github.com/whygate/whygate/whytest/issuer"
)

// until repeats a call until it is answered with that reason ("" for a 200), for at most 20 seconds.
func until(t *testing.T, n *whytest.Node, want string, header ...string) whytest.Answer {
	t.Helper()
	var a whytest.Answer
	for range 400 {
		a = n.Call("GET", "/", "", header...)
		if got := a.Header.Get("Whygate-Reason"); got == want && (want != "" || a.StatusCode == 200) {
			return a
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("answered %d %s, want %q: %s", a.StatusCode, a.Header.Get("Whygate-Reason"), want, a.Body)
	return a
}

// login gets a token with the credentials of a client (RFC 6749 §4.4).
func login(t *testing.T, is *issuer.Issuer, audience string) string {
	t.Helper()
	req, err := http.NewRequest("POST", is.URL+"/token", strings.NewReader(url.Values{"grant_type": {"client_credentials"}, "audience": {audience}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(issuer.Client, issuer.Secret)
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return tokenIn(t, res)
}

// tokenIn reads the answer of a token endpoint (RFC 6749 §5.1).
func tokenIn(t *testing.T, res *http.Response) string {
	t.Helper()
	defer res.Body.Close()
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || answer.Token == "" {
		t.Fatalf("%s: %v", res.Status, err)
	}
	return answer.Token
}

// TestIssuer takes a gateway through the life of an issuer: keys rotate, it goes away and comes back, documents are
// applied meanwhile.
func TestIssuer(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("Whygate-Application")) })
		is := issuer.Start(t)
		docs := func(audience string) string {
			return whytest.API(up.URL, "/", fmt.Sprintf("    - jwt: {issuer: %q, audience: [%q], refetch: 1s}", is.URL, audience)) +
				"---\napiVersion: whygate/v1\nkind: Application\nmetadata: {name: acme}\n---\napiVersion: whygate/v1\nkind: Credential\nmetadata: {name: acme-token}\nspec: {application: acme, token: {client: acme-web}}\n"
		}
		n := whytest.Start(t, engine, docs("https://api.shop.test"))
		bearer := func(change map[string]any) string { return "Authorization: Bearer " + is.Token(change) }
		good := bearer(nil)
		// The first call waits for the keys.
		if a := n.Call("GET", "/", "", good); a.StatusCode != 200 || a.Body != "acme" {
			t.Fatalf("%d %s", a.StatusCode, a.Body)
		}
		a := n.Call("GET", "/", "", bearer(map[string]any{"aud": "https://other.shop.test"}))
		if a.StatusCode != 401 || a.Header.Get("Whygate-Reason") != "jwt.audience" ||
			a.Header.Get("WWW-Authenticate") != `Bearer realm="api", error="invalid_token", error_description="The token is for somebody else"` {
			t.Errorf("wrong audience: %d %v", a.StatusCode, a.Header)
		}
		if a := n.Call("GET", "/", "", "Authorization: Bearer "+strings.Repeat("a", 20<<10)); a.Header.Get("Whygate-Reason") != "jwt.malformed" {
			t.Errorf("a long token: %v", a.Header)
		}

		// A client logs in and calls.
		if a := n.Call("GET", "/", "", "Authorization: Bearer "+login(t, is, "https://api.shop.test")); a.StatusCode != 200 || a.Body != "acme" {
			t.Errorf("a client's own token: %d %s", a.StatusCode, a.Body)
		}

		// Explaining a call says what making it does.
		now := time.Now()
		for _, header := range []string{good, "X-None: ", "Authorization: x", bearer(map[string]any{"exp": now.Add(-time.Hour).Unix()}), bearer(map[string]any{"nbf": now.Add(time.Hour).Unix()}),
			bearer(map[string]any{"iss": "https://evil.test"}), bearer(map[string]any{"aud": nil}), bearer(map[string]any{"at_hash": "x"}), bearer(map[string]any{"azp": nil}),
			"Authorization: Bearer a.b.c", "Authorization: Bearer " + issuer.New(is.URL).Token(nil), "Authorization: Bearer " + issuer.SignHMAC(nil, map[string]any{"alg": "HS256"}, []byte("{}"))} {
			name, value, _ := strings.Cut(header, ": ")
			e, err := gateway.Explain(n.Snapshot(), gateway.Question{URL: "/", Header: [][2]string{{name, value}}})
			if err != nil {
				t.Fatal(err)
			}
			code := ""
			if e.Verdict != nil {
				code = e.Verdict.Reason.Code
			}
			if a := n.Call("GET", "/", "", header); a.Header.Get("Whygate-Reason") != code || (a.StatusCode == 200) != e.Passes {
				t.Errorf("%.60s: explained as %q, answered %d %s", header, code, a.StatusCode, a.Header.Get("Whygate-Reason"))
			}
		}

		// Applying documents fetches nothing: keys outlive revisions.
		fetched := is.Fetches()
		if ps := n.Apply(docs("https://other.shop.test")); ps.HasErrors() {
			t.Fatal(ps)
		}
		if a := n.Call("GET", "/", "", bearer(map[string]any{"aud": "https://other.shop.test"})); a.StatusCode != 200 {
			t.Errorf("the new audience: %d %s", a.StatusCode, a.Body)
		}
		if a := n.Call("GET", "/", "", good); a.Header.Get("Whygate-Reason") != "jwt.audience" {
			t.Errorf("the audience before: %v", a.Header)
		}
		n.Apply(docs("https://api.shop.test"))
		if got := is.Fetches(); got != fetched {
			t.Errorf("applying documents fetched keys %d times", got-fetched)
		}

		is.Rotate("EdDSA")
		until(t, n, "", bearer(nil))
		is.Down(true)
		is.Rotate("ES256")
		fresh := bearer(nil)
		a = until(t, n, "jwt.keys-unavailable", fresh)
		if a.StatusCode != 503 || a.Header.Get("Retry-After") == "" || a.Header.Get("WWW-Authenticate") != "" {
			t.Errorf("keys that are away: %d %v", a.StatusCode, a.Header)
		}
		if a := n.Call("GET", "/", "", good); a.StatusCode != 200 {
			t.Errorf("keys that were there: %d %s", a.StatusCode, a.Body)
		}
		e, err := gateway.Explain(n.Snapshot(), gateway.Question{URL: "/", Header: [][2]string{{"Authorization", strings.TrimPrefix(good, "Authorization: ")}}})
		if err != nil || !e.Passes || e.Caller != "acme" {
			t.Errorf("explained as %+v, %v", e, err)
		}
		stale := false
		for _, step := range e.Trail {
			for _, f := range step.Facts {
				stale = stale || f.Name == "stale_keys"
			}
		}
		if !stale {
			t.Error("the explanation does not say that keys are stale")
		}
		is.Down(false)
		until(t, n, "", fresh)
	})
}

// Upstreams are told who calls, by nobody but the gateway, and nothing that would break the request.
func TestSubjectReachesUpstream(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		is := issuer.Start(t)
		up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%q %q %q", r.Header.Values("Whygate-Subject"), r.Header.Values("Whygate-Application"), r.Header.Values("X-Evil"))
		})
		key, app := whytest.Consumer("shop", "")
		n := whytest.Start(t, engine, whytest.API(up.URL, "/", fmt.Sprintf("  - jwt: {issuer: %q}\n  - key-auth: {}\n  - anonymous: {}", is.URL))+app)
		keysArrive(t, n)
		bearer := func(sub any) string {
			return "Authorization: Bearer " + is.Token(lasting(map[string]any{"sub": sub, "azp": nil}))
		}
		for _, c := range []struct{ header, want string }{
			{bearer("ann"), `["ann"] [] []`}, {bearer("Änne Ö"), `["Änne Ö"] [] []`}, {bearer("a\r\nX-Evil: 1"), `[] [] []`}, {bearer("a\x00"), `[] [] []`}, {bearer(strings.Repeat("a", 257)), `[] [] []`},
			{bearer(nil), `[] [] []`}, {"X-Api-Key: " + key, `[] ["shop"] []`}, {"X-Other: 1", `[] [] []`},
		} {
			a := n.Call("GET", "/", "", c.header, "Whygate-Subject: admin", "whygate-application: admin")
			if a.StatusCode != 200 || string(a.Body) != c.want {
				t.Errorf("%.60s: %d %s, want %s", c.header, a.StatusCode, a.Body, c.want)
			}
		}
	})
}
