package policy

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/whytest/issuer"
	"github.com/whygate/whygate/wire"
)

const issuerURL = "https://login.shop.test"

// direct answers requests by calling the issuer.
type direct struct{ h http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	d.h.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

// tokenBed is a testbed with an issuer that policies reach without a network.
type tokenBed struct {
	*testbed
	issuer *issuer.Issuer
	kept   map[string]Kept
	// watched are the files that policies have read.
	watched []string
}

func newTokenBed(t *testing.T) *tokenBed {
	b := &tokenBed{testbed: newTestbed(t), issuer: issuer.New(issuerURL), kept: map[string]Kept{}}
	b.issuer.Now = func() time.Time { return b.now }
	t.Cleanup(b.close)
	return b
}

func (b *tokenBed) close() {
	for _, k := range b.kept {
		k.Close()
	}
	clear(b.kept)
}

func (b *tokenBed) compile(kind, config string) (any, resource.Problems) {
	b.t.Helper()
	k, _, _ := KindNamed(kind)
	node, problems := resource.ParseNode(resource.File{Name: "test.yaml", Data: []byte(config)})
	p := k.New()
	resource.Decode(node, p, &problems)
	if problems.HasErrors() {
		return nil, problems
	}
	made := p.Compile(&Env{Node: node, Name: kind, Problems: &problems, Route: &b.route, Consumers: b.consumers, Trust: b.trust, Memory: b.memory,
		Quotas: b.quotas, Gateway: &b.gateway, LimitName: "test/" + kind, Kinds: b.kinds, Watch: func(path string) { b.watched = append(b.watched, path) }, Keep: func(name string, create func() Kept) Kept {
			k := b.kept[name]
			if k == nil {
				k = create()
				b.kept[name] = k
				switch s := k.(type) {
				case *keySource:
					s.client.Transport = direct{b.issuer}
				case *introspector:
					s.client.Transport = direct{b.issuer}
				}
				k.Start()
			}
			return k
		}})
	return made, problems
}

func (b *tokenBed) check(kind, config string) Check {
	b.t.Helper()
	made, problems := b.compile(kind, config)
	if problems.HasErrors() {
		b.t.Fatalf("%s: %v", kind, problems)
	}
	return made.(Check)
}

func (b *tokenBed) bearer(token string) *Exchange { return b.with("Authorization", "Bearer "+token) }

// with makes a call with one header of any length.
func (b *tokenBed) with(name, value string) *Exchange {
	x := b.call("GET /")
	x.Fields = append(x.Fields, wire.Field{Name: name, Value: value, ID: wire.FieldIDOf(name)})
	return x
}

const jwtConfig = `{issuer: "https://login.shop.test", audience: ["https://api.shop.test"]}`

func TestJWT(t *testing.T) {
	b := newTokenBed(t)
	acme := b.application("acme")
	cred := &consumer.Credential{Name: "acme-token", Application: acme, Prefix: issuer.Client, Identity: &consumer.Identity{Scopes: []string{"extra"}}}
	b.consumers.AddNamed("token", issuerURL+" "+issuer.Client, cred)
	anyApp := b.application("any")
	b.consumers.AddNamed("token", " any-issuer", &consumer.Credential{Name: "any", Application: anyApp})
	revoked := &consumer.Credential{Name: "old", Application: anyApp, Revoked: true}
	b.consumers.AddNamed("token", " revoked", revoked)
	b.consumers.AddNamed("token", " over", &consumer.Credential{Name: "over", Application: anyApp, Until: b.now})
	banned := b.application("banned")
	banned.Suspended = true
	b.consumers.AddNamed("token", " banned", &consumer.Credential{Name: "banned", Application: banned})
	is := b.issuer
	c := b.check("jwt", `{issuer: "https://login.shop.test", audience: ["https://api.shop.test", "https://api-prod.shop.test"], claims: [{name: tenant}, {name: realm.level, values: ["3", gold]}], rolesClaim: realm.roles}`)
	type m = map[string]any
	realm := m{"level": 3, "roles": []string{"clerk"}}
	tok := func(change m) string {
		all := m{"tenant": "t", "realm": realm}
		for k, v := range change {
			all[k] = v
		}
		return is.Token(all)
	}
	good := tok(nil)
	for name, pass := range map[string]string{
		"usual": good, "again": good, "list of audiences": tok(m{"aud": []string{"x", "https://api.shop.test"}}),
		"a little late": tok(m{"exp": b.now.Add(-59 * time.Second).Unix()}), "a little early": tok(m{"nbf": b.now.Add(59 * time.Second).Unix()}),
		"one of a list": tok(m{"realm": m{"level": []any{1, "gold"}}}), "part of a second": tok(m{"exp": float64(b.now.Unix()) + 0.5}),
	} {
		x := b.bearer(pass)
		wants(t, c.Check(x), "")
		if x.Identity == nil || x.Identity.Subject != "ann" || x.Identity.Issuer != issuerURL || x.Identity.Method != "jwt" || x.Application != acme || x.Credential != cred {
			t.Errorf("%s: identified %+v as %v", name, x.Identity, x.Application)
		}
	}
	x := b.bearer(good)
	c.Check(x)
	if got := strings.Join(x.Identity.Scopes, " ") + "|" + strings.Join(x.Identity.Roles, " "); got != "orders.read orders.write extra|clerk" {
		t.Errorf("scopes and roles %s", got)
	}
	x = b.bearer(tok(m{"azp": nil, "client_id": "any-issuer", "sub": nil, "scope": nil, "scp": []string{"a"}}))
	wants(t, c.Check(x), "")
	if x.Application != anyApp || x.Identity.Subject != "any-issuer" || len(x.Identity.Scopes) != 1 {
		t.Errorf("%+v of %v", x.Identity, x.Application)
	}
	x = b.bearer(tok(m{"azp": "stranger"}))
	if wants(t, c.Check(x), ""); x.Application != nil || x.Identity == nil {
		t.Error("a client that nobody knows has an identity and no application")
	}

	key := is.Key()
	sign := func(header m, payload string) string { return issuer.Sign(key, header, []byte(payload)) }
	usual := m{"alg": "ES256", "kid": key.ID}
	parts := strings.Split(good, ".")
	other := issuer.New("https://login.shop.test/")
	none := issuer.Encode([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	claims := func(change m) string { j, _ := json.Marshal(is.Claims(change)); return string(j) }
	for _, r := range []struct{ code, text, header string }{
		{"jwt.missing", "wants a JWT in Authorization: Bearer", ""},
		{"jwt.missing", `without the word "Bearer" before it`, good},
		{"jwt.missing", "no token behind it", "Bearer"},
		{"jwt.missing", "no space between", "Bearer" + good},
		{"jwt.missing", `the word Bearer is there, and ":" behind it where a space is due`, "Bearer: " + good},
		{"jwt.missing", `and "=" behind it`, "Bearer=" + good},
		{"jwt.missing", "all of Authorization is wrapped in quotes", `"Bearer ` + good + `"`},
		{"jwt.missing", `without the word "Bearer" before it`, `"` + good + `"`},
		{"jwt.missing", "behind the word Token, which has to be Bearer", "Token " + good},
		{"jwt.missing", "Authorization carries Token, which is not looked at", "Token abc"},
		{"jwt.malformed", "several tokens with commas between them", "Bearer " + good + ", Bearer " + good},
		{"jwt.missing", "Authorization carries Basic", "Basic eA=="},
		{"jwt.missing", `something is there without the word "Bearer"`, "s3cret more"},
		{"jwt.malformed", `the word "Bearer" once more`, "Bearer Bearer " + good},
		{"jwt.malformed", "wrapped in quotes", `Bearer "` + good + `"`},
		{"jwt.malformed", "spaces in it", "Bearer " + parts[0] + ". " + parts[1] + "." + parts[2]},
		{"jwt.malformed", "a variable that was not filled in", "Bearer ${TOKEN}"},
		{"jwt.malformed", "the word undefined", "Bearer undefined"},
		{"jwt.malformed", "percent-encoded", "Bearer a%2Eb"},
		{"jwt.malformed", "an API key", "Bearer " + b.key(acme, nil)},
		{"jwt.malformed", "no dots", "Bearer 8f0c2d"},
		{"jwt.malformed", "it has 2 parts", "Bearer " + parts[0] + "." + parts[1]},
		{"jwt.malformed", "encrypted", "Bearer a.b.c.d.e"},
		{"jwt.malformed", "more than 6 parts", "Bearer " + strings.Repeat("a.", 100)},
		{"jwt.malformed", "padded with =", "Bearer " + parts[0] + "=." + parts[1] + "." + parts[2]},
		{"jwt.malformed", "the base64 of + and /", "Bearer ++++." + parts[1] + "." + parts[2]},
		{"jwt.malformed", "its header is no JSON", "Bearer " + issuer.Encode([]byte("{")) + "." + parts[1] + "." + parts[2]},
		{"jwt.malformed", "its header names \"alg\" twice", "Bearer " + issuer.Encode([]byte(`{"alg":"none","alg":"ES256"}`)) + "." + parts[1] + "." + parts[2]},
		{"jwt.malformed", "names no algorithm", "Bearer " + sign(m{}, "{}")},
		{"jwt.malformed", "alg in its header is no text", "Bearer " + sign(m{"alg": 1}, "{}")},
		{"jwt.malformed", "(crit)", "Bearer " + sign(m{"alg": "ES256", "kid": key.ID, "crit": []string{"b64"}, "b64": true}, claims(nil))},
		{"jwt.malformed", "its payload is no JSON object", "Bearer " + sign(usual, `"text"`)},
		{"jwt.malformed", "names \"sub\" twice", "Bearer " + sign(usual, `{"sub":"a","sub":"b"}`)},
		{"jwt.malformed", "claim exp is no time", "Bearer " + tok(m{"exp": "tomorrow"})},
		{"jwt.malformed", "claim exp is no time", "Bearer " + tok(m{"exp": -1})},
		{"jwt.malformed", "claim iss is no text", "Bearer " + tok(m{"iss": 1})},
		{"jwt.malformed", "claim aud is neither", "Bearer " + tok(m{"aud": 1})},
		{"jwt.algorithm", "signed with none|no signature at all", "Bearer " + none},
		{"jwt.algorithm", "no signature at all", "Bearer " + strings.Replace(none, issuer.Encode([]byte(`{"alg":"none"}`)), issuer.Encode([]byte(`{"alg":"NonE"}`)), 1)},
		{"jwt.algorithm", "capital letters", "Bearer " + sign(m{"alg": "es256", "kid": key.ID}, claims(nil))},
		{"jwt.algorithm", "signed with HS256", "Bearer " + issuer.SignHMAC([]byte("s"), m{"alg": "HS256"}, []byte("{}"))},
		{"jwt.algorithm", "its key is for ES256 alone", "Bearer " + sign(m{"alg": "ES384", "kid": key.ID}, claims(nil))},
		{"jwt.unknown-key", `names the key elsewhere|keys key-1`, "Bearer " + sign(m{"alg": "ES256", "kid": "elsewhere"}, claims(nil))},
		{"jwt.signature", "it says that it comes from https://login.shop.test/", "Bearer " + other.Token(nil)},
		{"jwt.signature", "fits none of 1 key", "Bearer " + parts[0] + "." + issuer.Encode([]byte(claims(m{"sub": "eve"}))) + "." + parts[2]},
		{"jwt.signature", "", "Bearer " + parts[0] + "." + parts[1] + "."},
		{"jwt.expired", "expired 2m ago, at 2026-11-22 11:58:00 UTC", "Bearer " + tok(m{"exp": b.now.Add(-2 * time.Minute).Unix()})},
		{"jwt.expired", "expired 1m ago", "Bearer " + tok(m{"exp": b.now.Add(-time.Minute).Unix()})},
		{"jwt.not-yet-valid", "(nbf), and it is 2026-11-22 12:00:00 UTC here: 10m too early", "Bearer " + tok(m{"nbf": b.now.Add(10 * time.Minute).Unix()})},
		{"jwt.not-yet-valid", "iat 2026-11-22 12:01:01 UTC, 1m1s ahead", "Bearer " + tok(m{"iat": b.now.Add(61 * time.Second).Unix()})},
		{"jwt.issuer", "they differ in the slash at the end", "Bearer " + tok(m{"iss": "https://login.shop.test/"})},
		{"jwt.issuer", "comes from https://evil.test, and this API trusts https://login.shop.test", "Bearer " + tok(m{"iss": "https://evil.test"})},
		{"jwt.audience", "is for https://api-sandbox.shop.test|wants one for https://api.shop.test or https://api-prod.shop.test|they differ in \"-sandbox\" alone", "Bearer " + tok(m{"aud": "https://api-sandbox.shop.test"})},
		{"jwt.audience", "it has a nonce: is it an ID token", "Bearer " + tok(m{"aud": "acme-spa", "nonce": "n-0S6_WzA2Mj"})},
		{"jwt.audience", "that is the client itself", "Bearer " + tok(m{"aud": issuer.Client})},
		{"jwt.audience", "is for nothing", "Bearer " + tok(m{"aud": []string{}})},
		{"jwt.claim-missing", "has no claim tenant|it has tennant", "Bearer " + tok(m{"tenant": nil, "tennant": 1})},
		{"jwt.claim-missing", "has no claim exp", "Bearer " + tok(m{"exp": nil})},
		{"jwt.claim-missing", "has no claim iss", "Bearer " + tok(m{"iss": nil})},
		{"jwt.claim-missing", "has no claim aud", "Bearer " + tok(m{"aud": nil})},
		{"jwt.claim-missing", "has no claim realm.level|3 or gold", "Bearer " + tok(m{"realm": m{}})},
		{"jwt.claim-mismatch", "the claim realm.level of the token is 2, and this API accepts 3 or gold", "Bearer " + tok(m{"realm": m{"level": 2}})},
		{"jwt.token-type", `an ID token (it has at_hash)`, "Bearer " + tok(m{"at_hash": "x"})},
		{"jwt.token-type", `an ID token (token_use "id")`, "Bearer " + tok(m{"token_use": "id"})},
		{"jwt.token-type", `a token of type "dpop+jwt"`, "Bearer " + sign(m{"alg": "ES256", "kid": key.ID, "typ": "dpop+jwt"}, claims(nil))},
		{"jwt.client-not-accepted", "client revoked, which is not accepted now: it has been revoked", "Bearer " + tok(m{"azp": "revoked"})},
		{"jwt.client-not-accepted", "until 2026-11-22 12:00:00 UTC", "Bearer " + tok(m{"azp": "over"})},
		{"application.suspended", "banned", "Bearer " + tok(m{"azp": "banned"})},
	} {
		x := b.call("GET /")
		if r.header != "" {
			x = b.with("Authorization", r.header)
		}
		v := c.Check(x)
		wants(t, v, r.code, strings.Split(r.text, "|")...)
		if !v.Refused() {
			continue
		}
		challenge := x.Extra.Get(wire.WWWAuthenticate)
		switch {
		case v.Reason.Status == 403:
			if challenge != "" {
				t.Errorf("%s is a 403 with the challenge %s", r.code, challenge)
			}
		case r.code == "jwt.missing":
			if challenge != `Bearer realm="orders"` {
				t.Errorf("%s: challenge %s", r.code, challenge)
			}
		case challenge != `Bearer realm="orders", error="invalid_token", error_description="`+v.Reason.Title+`"` || x.Extra.Count("WWW-Authenticate") != 1:
			t.Errorf("%s: challenge %s", r.code, challenge)
		}
		if x.Identity != nil && r.code != "application.suspended" {
			t.Errorf("%s leaves an identity", r.code)
		}
		for _, f := range v.Facts { // a token is never a fact
			if len(r.header) > 100 && strings.Contains(f.Text(), r.header[len(r.header)-40:]) {
				t.Errorf("%s tells the token in %s", r.code, f.Name)
			}
		}
		// Explanations agree with what serving says.
		x = b.with("Authorization", r.header)
		x.Explaining = true
		if e := c.Check(x); r.header != "" && (!e.Refused() || e.Reason != v.Reason) {
			t.Errorf("%s: explained as %v", r.code, e.Reason)
		}
	}

	x = b.bearer(good)
	x.Explaining = true
	v := c.Check(x)
	for name, want := range map[string]string{"subject": "ann", "client": issuer.Client, "application": "acme", "alg": "ES256", "kid": "key-1", "expires_in": "5m"} {
		if f, ok := v.Facts.Find(name, reason.ToOperator); !ok || f.Text() != want {
			t.Errorf("explained with %s %q, want %q", name, f.Text(), want)
		}
	}
	// What was remembered counts only in its time, and only while the credential does.
	x = b.bearer(good)
	x.Now = b.now.Add(5*time.Minute + time.Minute)
	wants(t, c.Check(x), "jwt.expired", "1m ago")
	x = b.bearer(good)
	x.Now = b.now.Add(-2 * time.Minute)
	wants(t, c.Check(x), "jwt.not-yet-valid")
	cred.Revoked = true
	wants(t, c.Check(b.bearer(good)), "jwt.client-not-accepted")
}

func TestJWTPlaces(t *testing.T) {
	b := newTokenBed(t)
	good, other := b.issuer.Token(nil), b.issuer.Token(map[string]any{"sub": "bob"})
	c := b.check("jwt", `{issuer: "https://login.shop.test", header: X-Token, cookie: at, query: access_token, forward: false, challengeScopes: [orders.read]}`)
	for _, lines := range [][]string{
		{"GET /", "X-Token: " + good}, {"GET /", "X-Token: Bearer " + good}, {"GET /", "x-token: bearer  " + good}, {"GET /", "Cookie: a=b; at=" + good}, {"GET /?access_token=" + good},
		{"GET /?access_token=" + good, "X-Token: " + good},
	} {
		x := b.call(lines...)
		wants(t, c.Check(x), "")
		if !c.(Authenticator).Presents(x) {
			t.Errorf("%q presents nothing", lines)
		}
	}
	x := b.call("GET /?access_token="+other, "X-Token: "+good)
	wants(t, c.Check(x), "jwt.repeated", "header X-Token, cookie at or query parameter access_token")
	if got := x.Extra.Get(wire.WWWAuthenticate); got != `Bearer realm="orders", scope="orders.read", error="invalid_request", error_description="More than one token was sent"` {
		t.Error(got)
	}
	wants(t, c.Check(b.call("GET /", "Authorization: Bearer "+good)), "jwt.missing", "Authorization is there, which is not looked at")
	x = b.call("OPTIONS /", "Origin: https://page.test", "Access-Control-Request-Method: GET")
	x.Preflight = true
	wants(t, c.Check(x), "cors.preflight", "https://page.test")

	o := &wire.Outgoing{Path: "/", Query: "a=b&access_token=" + good, HasQuery: true}
	o.Fields.Add("X-Token", good)
	o.Fields.Add("Cookie", "a=b; at="+good)
	o.Fields.Add("Authorization", "stays")
	c.(RequestEditor).EditRequest(nil, o)
	if o.Query != "a=b" || len(o.Fields) != 2 || o.Fields.Get(wire.Cookie) != "a=b" {
		t.Errorf("the upstream gets %q %v", o.Query, o.Fields)
	}
	o = &wire.Outgoing{}
	o.Fields.Add("Authorization", "Bearer "+good)
	b.check("jwt", jwtConfig).(RequestEditor).EditRequest(nil, o)
	if len(o.Fields) != 1 {
		t.Error("a token is forwarded unless the policy says otherwise")
	}
}

// TestKeysWithoutNames: a token that names no key is tried with those that fit.
func TestKeysWithoutNames(t *testing.T) {
	is := issuer.New(issuerURL)
	var keys []any
	var first, last *issuer.Key
	for i := range 10 {
		last = is.Rotate("EdDSA")
		if i == 0 {
			first = last
		}
		k := last.JWK()
		delete(k, "kid")
		keys = append(keys, k)
	}
	doc, _ := json.Marshal(map[string]any{"keys": keys})
	b := newTokenBed(t)
	b.issuer.Publish(string(doc), "")
	c := b.check("jwt", jwtConfig)
	payload, _ := json.Marshal(b.issuer.Claims(nil))
	for _, header := range []map[string]any{{"alg": "EdDSA"}, {"alg": "Ed25519"}, {"alg": "EdDSA", "kid": "any"}} {
		wants(t, c.Check(b.bearer(issuer.Sign(first, header, payload))), "")
	}
	wants(t, c.Check(b.bearer(issuer.Sign(last, map[string]any{"alg": "EdDSA"}, payload))), "jwt.signature", "fits none of the first 8 of 10 keys that fit", "it names no key (kid)")
	wants(t, c.Check(b.bearer(issuer.Sign(last, map[string]any{"alg": "RS256"}, payload))), "jwt.algorithm", "its key is for EdDSA alone")
}

// TestKeyRotation: a new key is found when a token names it, and a key that the issuer takes back counts no longer.
func TestKeyRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTokenBed(t)
		b.now = time.Now()
		c := b.check("jwt", `{issuer: "https://login.shop.test", noExpiry: true}`)
		forever := map[string]any{"exp": nil}
		old := b.issuer.Token(forever)
		wants(t, c.Check(b.bearer(old)), "") // waits for the first fetch
		b.issuer.Rotate("RS256")
		fresh := b.issuer.Token(forever)
		// The keys were fetched a moment ago: an unknown key causes no other fetch, however many calls name it.
		for range 50 {
			wants(t, c.Check(b.bearer(fresh)), "jwt.unknown-key", "names the key key-2", "keys key-1", "at most every 10 s")
		}
		if n := b.issuer.Fetches(); n != 1 {
			t.Errorf("%d fetches, want 1", n)
		}
		time.Sleep(10 * time.Second)
		x := b.bearer(fresh)
		x.Explaining = true
		wants(t, c.Check(x), "jwt.unknown-key") // explaining changes nothing
		wants(t, c.Check(b.bearer(fresh)), "")
		wants(t, c.Check(b.bearer(old)), "")
		if n := b.issuer.Fetches(); n != 2 {
			t.Errorf("%d fetches, want 2", n)
		}
		b.issuer.Rotate("EdDSA") // key-1 goes
		time.Sleep(15*time.Minute + time.Second)
		synctest.Wait()
		wants(t, c.Check(b.bearer(old)), "jwt.unknown-key", "keys key-2 or key-3")
		wants(t, c.Check(b.bearer(fresh)), "")
		wants(t, c.Check(b.bearer(b.issuer.Token(forever))), "")
		b.close()
	})
}

// TestIssuerAway: keys are used while the issuer is away, then tokens can be called neither right nor wrong.
func TestIssuerAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTokenBed(t)
		b.now = time.Now()
		c := b.check("jwt", `{issuer: "https://login.shop.test", noExpiry: true, staleFor: 1h}`)
		forever := map[string]any{"exp": nil}
		good := b.issuer.Token(forever)
		wants(t, c.Check(b.bearer(good)), "")
		b.issuer.Down(true)
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		x := b.bearer(good)
		x.Explaining = true
		v := c.Check(x)
		wants(t, v, "")
		if f, ok := v.Facts.Find("stale_keys", reason.ToOwner); !ok || !strings.Contains(f.Text(), "the issuer is away since 2000-01-01 00:15:00 UTC; its keys of 2000-01-01 00:00:00 UTC are used until 2000-01-01 01:00:00 UTC") {
			t.Errorf("stale keys are not flagged: %v", v.Facts)
		}
		x = b.bearer(b.issuer.Token(map[string]any{"exp": nil, "sub": "bob"}))
		wants(t, c.Check(x), "")
		if len(x.Notes) != 1 || x.Notes[0].Code != "jwt.keys-stale" || !strings.Contains(x.Notes[0].Text, "are used until 2000-01-01 01:00:00 UTC: https://login.shop.test/.well-known/openid-configuration answers 503") {
			t.Errorf("the record does not flag stale keys: %v", x.Notes)
		}
		b.issuer.Rotate("ES256")
		fresh := b.issuer.Token(forever)
		x = b.bearer(fresh)
		wants(t, c.Check(x), "jwt.keys-unavailable", "neither right nor wrong", "key-2", "answers 503")
		if x.Extra.Get(wire.RetryAfter) == "" || x.Extra.Get(wire.WWWAuthenticate) != "" {
			t.Errorf("a 503 wants Retry-After and no challenge: %v", x.Extra)
		}
		wants(t, c.Check(b.bearer("a.b.c")), "jwt.malformed") // what is wrong in any case is said so
		time.Sleep(31 * time.Minute)
		synctest.Wait()
		wants(t, c.Check(b.bearer(good)), "jwt.keys-unavailable", "were fetched at 2000-01-01 00:00:00 UTC and may be used for 1h")
		b.issuer.Down(false)
		time.Sleep(time.Minute) // the longest pause between tries
		synctest.Wait()
		wants(t, c.Check(b.bearer(fresh)), "")
		x = b.bearer(good)
		wants(t, c.Check(x), "")
		if len(x.Notes) != 0 {
			t.Errorf("the issuer is back, and the record says %v", x.Notes)
		}
		b.close()
	})
}

// TestKeysNeverCame: the first call waits a bounded time, later ones only if nobody knows yet.
func TestKeysNeverCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTokenBed(t)
		b.now = time.Now()
		release := b.issuer.Hold()
		c := b.check("jwt", jwtConfig)
		start := time.Now()
		wants(t, c.Check(b.bearer(b.issuer.Token(nil))), "jwt.keys-unavailable", "no keys have been fetched yet")
		if d := time.Since(start); d != keysWait {
			t.Errorf("the first call waits for %v", d)
		}
		time.Sleep(keysTime)
		synctest.Wait()
		start = time.Now()
		wants(t, c.Check(b.bearer(b.issuer.Token(nil))), "jwt.keys-unavailable", "no keys could be fetched since", "does not answer in time")
		if d := time.Since(start); d != 0 {
			t.Errorf("a call waits for %v for an issuer that is known to be away", d)
		}
		release()
		time.Sleep(keysRetryMost)
		synctest.Wait()
		b.now = time.Now()
		wants(t, c.Check(b.bearer(b.issuer.Token(nil))), "")
		b.close()
	})
}

// TestKeySets: what an issuer may publish, and what of it is used.
func TestKeySets(t *testing.T) {
	is := issuer.New(issuerURL)
	jwks := func(change map[string]any, more ...any) string {
		k := is.Key().JWK()
		for n, v := range change {
			if k[n] = v; v == nil {
				delete(k, n)
			}
		}
		b, _ := json.Marshal(map[string]any{"keys": append(more, k)})
		return string(b)
	}
	type m = map[string]any
	weak := new(big.Int).SetBit(big.NewInt(1), 1023, 1)
	many := make([]any, maxKeys)
	for i := range many {
		many[i] = m{"kty": "OKP", "crv": "X25519"}
	}
	for name, c := range map[string]struct {
		doc, wrong string
		keys       int
	}{
		"usual":            {jwks(nil), "", 1},
		"no alg":           {jwks(m{"alg": nil, "use": nil}), "", 1},
		"another kind too": {jwks(nil, m{"kty": "future"}, m{"kty": "OKP", "crv": "X25519", "x": issuer.Encode(make([]byte, 32))}), "", 1},
		"for encryption":   {jwks(m{"use": "enc"}), "its use is \"enc\"", 0},
		"to sign":          {jwks(m{"key_ops": []string{"sign"}}), "its key_ops do not hold verify", 0},
		"of another alg":   {jwks(m{"alg": "RS256"}), "fits no signature", 0},
		"weak":             {jwks(m{"kty": "RSA", "alg": "RS256", "n": issuer.Encode(weak.Bytes()), "e": "AQAB", "crv": nil, "x": nil, "y": nil}), "cannot be read", 0},
		"off the curve":    {jwks(m{"x": issuer.Encode(make([]byte, 32))}), "cannot be read", 0},
		"a secret":         {`{"keys":[{"kty":"oct","k":"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U"}]}`, "a shared secret does not belong", 0},
		"twice":            {jwks(nil, is.Key().JWK()), "two keys have the same kid", 0},
		"too many":         {jwks(nil, many...), "101 keys", 0},
		"empty":            {`{"keys":[]}`, "no key that signatures", 0},
		"no JSON":          {`<html>`, "no JSON", 0},
		"too large":        {strings.Repeat(" ", maxKeySet+1), "more than", 0},
	} {
		set, err := parseKeySet([]byte(c.doc), false)
		switch {
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%s: %v, want %q", name, err, c.wrong)
		case c.wrong == "" && (err != nil || len(set.keys) != c.keys):
			t.Errorf("%s: %v %v", name, set, err)
		}
	}
	// The discovery document has to be of the issuer that was asked.
	synctest.Test(t, func(t *testing.T) {
		for meta, want := range map[string]string{
			`{"issuer":"https://evil.test","jwks_uri":"https://evil.test/keys"}`:            "of issuer \"https://evil.test\"",
			`{"issuer":"https://login.shop.test","jwks_uri":"file:///etc/shadow"}`:          "is no URL",
			`{"issuer":"https://login.shop.test","jwks_uri":"http://login.shop.test/keys"}`: "leaves https",
			`[`: "no JSON",
		} {
			b := newTokenBed(t)
			b.now = time.Now()
			b.issuer.Publish("", meta)
			c := b.check("jwt", jwtConfig)
			wants(t, c.Check(b.bearer(b.issuer.Token(nil))), "jwt.keys-unavailable", want)
			b.close()
		}
	})
}

func TestJWTFiles(t *testing.T) {
	b := newTokenBed(t)
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := b.issuer.Rotate("RS256")
	der, err := x509.MarshalPKIXPublicKey(key.Private.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	private, _ := x509.MarshalPKCS8PrivateKey(key.Private)
	pemFile := write("key.pem", public)
	set := write("keys.json", b.issuer.KeySet())
	secret := write("secret", []byte(strings.Repeat("s", 32)+"\n"))
	t.Setenv("JWT_SHORT", "short")
	token := b.issuer.Token(nil)
	for _, file := range []string{pemFile, set} {
		c := b.check("jwt", fmt.Sprintf(`{issuer: %q, keyFile: %s}`, issuerURL, file))
		wants(t, c.Check(b.bearer(token)), "")
		// The public key is no secret: a token signed with it by HMAC is not accepted.
		wants(t, c.Check(b.bearer(issuer.SignHMAC(public, map[string]any{"alg": "HS256"}, []byte(`{}`)))), "jwt.algorithm")
	}
	c := b.check("jwt", fmt.Sprintf(`{secret: {file: %s}, algorithms: [HS256]}`, secret))
	if want := []string{pemFile, set, secret}; !slices.Equal(b.watched, want) {
		t.Errorf("watched %q, want %q", b.watched, want)
	}
	payload, _ := json.Marshal(b.issuer.Claims(nil))
	wants(t, c.Check(b.bearer(issuer.SignHMAC([]byte(strings.Repeat("s", 32)), map[string]any{"alg": "HS256"}, payload))), "")
	wants(t, c.Check(b.bearer(issuer.SignHMAC([]byte(strings.Repeat("t", 32)), map[string]any{"alg": "HS256"}, payload))), "jwt.signature", "does not fit its content and the keys of this API", "get a new token from whoever issues tokens for this API", "fits none of 1 key")
	wants(t, c.Check(b.bearer(token)), "jwt.algorithm", "accepts HS256")

	for config, want := range map[string]string{
		`{}`:                "nothing to check signatures with",
		`{issuer: "login"}`: "no URL that keys can be fetched from",
		`{issuer: "https://a.test", jwks: "ftp://a.test"}`:                                                                      "no URL",
		fmt.Sprintf(`{jwks: "https://a.test/keys", keyFile: %s}`, pemFile):                                                      "one of jwks, keyFile and secret",
		`{issuer: "https://a.test", algorithms: [HS256]}`:                                                                       "publishes keys",
		`{issuer: "https://a.test", algorithms: [none]}`:                                                                        "none",
		`{issuer: "https://a.test", header: "", cookie: ""}`:                                                                    "looked for nowhere",
		`{issuer: "https://a.test", header: "a b"}`:                                                                             "no header name",
		`{issuer: "https://a.test", staleFor: 1m}`:                                                                              "too old",
		`{issuer: "https://a.test", claims: [{name: iss, values: [x]}]}`:                                                        "setting of its own",
		`{issuer: "https://a.test", audience: [""]}`:                                                                            "an entry is empty",
		`{issuer: "https://a.test", challengeScopes: ['a"b']}`:                                                                  "is no scope",
		`{secret: {env: JWT_NOT_SET}, algorithms: [HS256]}`:                                                                     "is not set",
		`{secret: {}, algorithms: [HS256]}`:                                                                                     "in a file or in an environment variable",
		`{secret: {env: JWT_SHORT}, algorithms: [HS256]}`:                                                                       "at least 32 bytes, and this one has 5",
		fmt.Sprintf(`{secret: {file: %s}}`, secret):                                                                             "accepted only where they are set",
		fmt.Sprintf(`{secret: {file: %s}, algorithms: [RS256]}`, secret):                                                        "wants a public key",
		fmt.Sprintf(`{keyFile: %s}`, filepath.Join(dir, "absent")):                                                              "cannot be read",
		fmt.Sprintf(`{keyFile: %s}`, secret):                                                                                    "neither PEM nor a JWK set",
		fmt.Sprintf(`{keyFile: %s}`, write("private.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))): "it holds a private key",
		fmt.Sprintf(`{keyFile: %s, algorithms: [ES384]}`, pemFile):                                                              "no key of the file is for ES384",
	} {
		if _, problems := b.compile("jwt", config); !problems.HasErrors() || !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: problems %v, want %q", config, problems, want)
		}
	}
	for config, code := range map[string]string{jwtConfig: "", `{issuer: "https://a.test"}`: "jwt.any-audience", `{issuer: "http://a.test", audience: [x]}`: "jwt.plain-http", fmt.Sprintf(`{keyFile: %s, audience: [x]}`, pemFile): "jwt.any-issuer"} {
		_, problems := b.compile("jwt", config)
		if code == "" && len(problems) != 0 || code != "" && (len(problems) != 1 || problems[0].Code != code) {
			t.Errorf("%s: %v, want the warning %q", config, problems, code)
		}
	}
}

// TestHostileTokens: what is made to cost is refused, with its reason.
func TestHostileTokens(t *testing.T) {
	b := newTokenBed(t)
	c := b.check("jwt", jwtConfig)
	audiences := make([]string, 1000)
	for i := range audiences {
		audiences[i] = fmt.Sprintf("aud%d", i)
	}
	deep := issuer.Sign(b.issuer.Key(), map[string]any{"alg": "ES256", "kid": "key-1"}, []byte(`{"a":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+`}`))
	wide := issuer.Sign(b.issuer.Key(), map[string]any{"alg": "ES256", "kid": "key-1"}, []byte(`{"a":[`+strings.Repeat("0,", 5000)+`0]}`))
	for want, token := range map[string]string{
		"it has 10485760 bytes, and at most 32768 are read": strings.Repeat("a", 10<<20),
		"lists 1000 audiences, and at most 100 are read":    b.issuer.Token(map[string]any{"aud": audiences}),
		"nested deeper than 16 levels":                      deep,
		"more than 2000 values":                             wide,
		"more than 6 parts":                                 strings.Repeat(".", 30000),
		"a number that is too large":                        issuer.Sign(b.issuer.Key(), map[string]any{"alg": "ES256", "kid": "key-1"}, []byte(`{"exp":1e999}`)),
		"is no valid UTF-8":                                 issuer.Sign(b.issuer.Key(), map[string]any{"alg": "ES256", "kid": "key-1"}, []byte("{\"sub\":\"\xff\"}")),
	} {
		v := c.Check(b.bearer(token))
		wants(t, v, "jwt.malformed", want)
		for _, f := range v.Facts {
			if len(f.Text()) > 1000 {
				t.Errorf("%s: the fact %s has %d bytes", want, f.Name, len(f.Text()))
			}
		}
	}
	long := strings.Repeat("x", 5000)
	for _, token := range []string{
		issuer.Sign(b.issuer.Key(), map[string]any{"alg": "ES256", "kid": long}, []byte(`{}`)),
		issuer.Sign(b.issuer.Key(), map[string]any{"alg": long}, []byte(`{}`)),
		issuer.Sign(b.issuer.Key(), map[string]any{"alg": "ES256", "typ": long}, []byte(fmt.Sprintf(`{"exp":%d}`, b.now.Add(time.Hour).Unix()))),
		b.issuer.Token(map[string]any{"aud": audiences[:100], "azp": long}), b.issuer.Token(map[string]any{"iss": long}), b.issuer.Token(map[string]any{"aud": long}),
		b.issuer.Token(map[string]any{"aud": nil, long: 1}),
	} {
		v := c.Check(b.bearer(token))
		if !v.Refused() {
			t.Error("passes")
		}
		for _, f := range v.Facts {
			if len(f.Text()) > 1500 {
				t.Errorf("%s: the fact %s has %d bytes", v.Reason.Code, f.Name, len(f.Text()))
			}
		}
	}
}

// TestChallengeTitles: titles go into error_description, which takes no quotes and no letters beyond ASCII (RFC 6750 §3).
func TestChallengeTitles(t *testing.T) {
	n := 0
	for _, r := range reason.All() {
		if family, _, _ := strings.Cut(r.Code, "."); family == "jwt" || family == "introspection" {
			if n++; !printableASCII(r.Title) || strings.ContainsAny(r.Title, `"\\`) {
				t.Errorf("%s: %q", r.Code, r.Title)
			}
		}
	}
	if n < 20 {
		t.Errorf("%d reasons", n)
	}
}

// TestROCA: a modulus of the broken generator is a power of 65537 modulo small primes.
func TestROCA(t *testing.T) {
	m := big.NewInt(1)
	for _, p := range []int64{2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167} {
		m.Mul(m, big.NewInt(p))
	}
	n := new(big.Int).Exp(big.NewInt(65537), big.NewInt(123456789), m)
	if n.Add(n, new(big.Int).Mul(m, big.NewInt(987654321))); !isROCA(n) {
		t.Error("a weak modulus is not seen")
	}
	if isROCA(n.Add(n, big.NewInt(2))) {
		t.Error("another modulus is called weak")
	}
}

func FuzzParseSigned(f *testing.F) {
	is := issuer.New(issuerURL)
	f.Add(is.Token(nil))
	f.Add("a.b.c")
	f.Add(issuer.Encode([]byte(`{"alg":"ES256","kid":"x","typ":"at+jwt"}`)) + "." + issuer.Encode([]byte(`{"a":[1,2.5,null,true,{"b":"c"}]}`)) + ".AA")
	f.Fuzz(func(t *testing.T, token string) {
		s, err := parseSigned(token)
		if err != nil {
			if len(err.Error()) > 300 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			return
		}
		// One token has one spelling.
		parts := strings.Split(token, ".")
		if len(parts) != 3 || issuer.Encode(s.payload) != parts[1] || issuer.Encode(s.signature) != parts[2] || s.input != parts[0]+"."+parts[1] {
			t.Errorf("%q has another spelling", token)
		}
		m, err := parseObject(s.payload)
		var std map[string]any
		if stdErr := json.Unmarshal(s.payload, &std); err == nil && (stdErr != nil || len(std) != len(m)) {
			t.Errorf("%q: %v and %v (%v)", s.payload, m, std, stdErr)
		}
	})
}

func FuzzKeySet(f *testing.F) {
	f.Add(issuer.New(issuerURL).KeySet())
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQ","e":"AQAB"},{"kty":"oct","k":"AA"}]}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		set, err := parseKeySet(doc, false)
		if err != nil {
			return
		}
		for _, k := range set.keys {
			if _, secret := k.key.([]byte); secret || describeKey(k.key) == "a key of another kind" {
				t.Errorf("%T is used", k.key)
			}
		}
	})
}

// TestRepeatedToken: a token that has passed costs no allocation.
func TestRepeatedToken(t *testing.T) {
	b := newTokenBed(t)
	acme := b.application("acme")
	b.consumers.AddNamed("token", " "+issuer.Client, &consumer.Credential{Name: "t", Application: acme})
	c := b.check("jwt", jwtConfig)
	x := b.bearer(b.issuer.Token(nil))
	req := x.Request
	run := func() {
		x.Reset(req, b.now)
		x.Route = &b.route
		if v := c.Check(x); v.Refused() || x.Application != acme {
			t.Fatal(v)
		}
	}
	run()
	if n := testing.AllocsPerRun(200, run); n > 0 {
		t.Errorf("a token that passed before allocates %v times", n)
	}
}

// BenchmarkJWT is what a repeated token costs, and one that is seen for the first time.
func BenchmarkJWT(bench *testing.B) {
	t := &testing.T{}
	b := &tokenBed{testbed: newTestbed(t), issuer: issuer.New(issuerURL), kept: map[string]Kept{}}
	defer b.close()
	b.issuer.Now = func() time.Time { return b.now }
	b.issuer.Rotate("RS256")
	c := b.check("jwt", jwtConfig)
	run := func(bench *testing.B, x *Exchange) {
		req := x.Request
		for bench.Loop() {
			x.Reset(req, b.now)
			x.Route = &b.route
			if v := c.Check(x); v.Refused() {
				bench.Fatal(v.Reason.Code)
			}
		}
	}
	bench.Run("repeated", func(bench *testing.B) {
		bench.ReportAllocs()
		run(bench, b.bearer(b.issuer.Token(nil)))
	})
	bench.Run("first", func(bench *testing.B) {
		bench.ReportAllocs()
		x := b.bearer(b.issuer.Token(nil))
		req := x.Request
		for bench.Loop() {
			j := c.(*jwtCheck)
			j.accepted.init()
			j.keys.verified.init()
			x.Reset(req, b.now)
			x.Route = &b.route
			if v := c.Check(x); v.Refused() {
				bench.Fatal(v.Reason.Code)
			}
		}
	})
}

func printableASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e })
}
