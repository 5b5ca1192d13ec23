package policy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/whytest/issuer"
	"github.com/whygate/whygate/wire"
)

const introspectionConfig = `{endpoint: "https://login.shop.test/introspect", clientId: gateway, clientSecret: {env: INTROSPECTION_SECRET}, audience: ["https://api.shop.test"], staleFor: 5m}`

func newIntrospectionBed(t *testing.T) *tokenBed {
	b := newTokenBed(t)
	t.Setenv("INTROSPECTION_SECRET", issuer.Secret)
	return b
}

func TestIntrospection(t *testing.T) {
	b := newIntrospectionBed(t)
	acme := b.application("acme")
	b.consumers.AddNamed("token", issuerURL+" "+issuer.Client, &consumer.Credential{Name: "acme", Application: acme})
	is := b.issuer
	type m = map[string]any
	for _, auth := range []string{"basic", "post"} {
		c := b.check("introspection", strings.Replace(introspectionConfig, "{", "{clientAuth: "+auth+", issuer: \""+issuerURL+"\", claims: [{name: tenant, values: [t]}], ", 1))
		good := is.Opaque(m{"tenant": "t"})
		for range 3 {
			x := b.bearer(good)
			wants(t, c.Check(x), "")
			if x.Application != acme || x.Identity.Subject != "ann" || x.Identity.Method != "introspection" || len(x.Identity.Scopes) != 2 || x.Identity.Claims["active"] != nil {
				t.Errorf("identified %+v", x.Identity)
			}
		}
		x := b.bearer(good)
		x.Explaining = true
		v := c.Check(x)
		if f, ok := v.Facts.Find("expires_in", reason.ToCaller); v.Refused() || !ok || f.Text() != "5m" {
			t.Errorf("explained as %v", v)
		}
		for _, r := range []struct{ code, text, token string }{
			{"introspection.missing", "wants a token in Authorization: Bearer", ""},
			{"introspection.inactive", "https://login.shop.test says that the token is not active", "unknown-" + auth},
			{"introspection.inactive", "it is a JWT; was it made by another issuer?", is.Token(m{"jti": auth})},
			{"introspection.inactive", "valid from 2026-11-22 12:30:00 UTC", is.Opaque(m{"tenant": "t", "nbf": b.now.Add(30 * time.Minute).Unix()})},
			{"introspection.malformed", "wrapped in quotes", `"` + good + `"`},
			{"introspection.malformed", "it holds the character '!'", `a!b`},
			{"introspection.malformed", "at most 32768 are read", strings.Repeat("a", 10<<20)},
			{"introspection.issuer", "comes from https://evil.test", is.Opaque(m{"tenant": "t", "iss": "https://evil.test"})},
			{"introspection.audience", "is for other", is.Opaque(m{"tenant": "t", "aud": "other"})},
			{"introspection.claim-missing", "has no claim tenant", is.Opaque(nil)},
			{"introspection.claim-mismatch", "the claim tenant of the token is u", is.Opaque(m{"tenant": "u"})},
		} {
			x := b.call("GET /")
			if r.token != "" {
				x = b.bearer(r.token)
			}
			v := c.Check(x)
			wants(t, v, r.code, r.text)
			if challenge := x.Extra.Get(wire.WWWAuthenticate); v.Refused() && (challenge != "") != (v.Reason.Status == 401) {
				t.Errorf("%s: challenge %q", r.code, challenge)
			}
		}
		x = b.call("GET /?access_token=a", "Authorization: Bearer b")
		wants(t, b.check("introspection", strings.Replace(introspectionConfig, "{", "{query: access_token, ", 1)).Check(x), "introspection.repeated")
	}
	// A wrong secret is the gateway's fault, and never called that of the token.
	t.Setenv("INTROSPECTION_SECRET", "wrong")
	c := b.check("introspection", introspectionConfig)
	x := b.bearer(is.Opaque(nil))
	wants(t, c.Check(x), "introspection.unavailable", "does not accept the credentials of this gateway")
	if x.Extra.Get(wire.RetryAfter) == "" || x.Extra.Get(wire.WWWAuthenticate) != "" {
		t.Errorf("fields %v", x.Extra)
	}
	for config, want := range map[string]string{
		`{endpoint: login, clientId: a, clientSecret: {env: INTROSPECTION_SECRET}}`:               "no URL that can be asked",
		`{endpoint: "https://a.test", clientId: a, clientSecret: {}}`:                             "in a file or in an environment variable",
		`{endpoint: "https://a.test", clientId: a, clientSecret: {env: INTROSPECTION_NOT_SET}}`:   "is not set",
		`{endpoint: "https://a.test", clientSecret: {env: INTROSPECTION_SECRET}}`:                 "clientId",
		`{endpoint: "https://a.test", clientId: a, clientSecret: {file: no/such/file}}`:           "cannot be read",
		`{endpoint: "https://a.test", clientId: a, clientSecret: {env: HOME}, concurrency: 5000}`: "1000",
	} {
		if _, problems := b.compile("introspection", config); !problems.HasErrors() || !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: problems %v, want %q", config, problems, want)
		}
	}
}

// TestIntrospectionCache: answers are remembered, by their time and by that of the token.
func TestIntrospectionCache(t *testing.T) {
	b := newIntrospectionBed(t)
	c := b.check("introspection", introspectionConfig)
	begin := b.now
	asked := func(token string, at time.Duration, code string, questions int) {
		t.Helper()
		b.now = begin.Add(at)
		before := b.issuer.Asked()
		x := b.bearer(token)
		y := b.bearer(token)
		y.Explaining = true
		c.Check(y)
		wants(t, c.Check(x), code)
		if n := b.issuer.Asked() - before; n != questions || y.Unknown != (questions > 0) {
			t.Errorf("after %v %d questions, want %d; explained as unknown: %v", at, n, questions, y.Unknown)
		}
	}
	good, short := b.issuer.Opaque(nil), b.issuer.Opaque(map[string]any{"exp": begin.Add(20 * time.Second).Unix()})
	asked(good, 0, "", 1)
	asked(good, 59*time.Second, "", 0)
	b.issuer.Revoke(good)
	asked(good, 59*time.Second, "", 0)
	asked(good, 60*time.Second, "introspection.inactive", 1)
	asked(good, 69*time.Second, "introspection.inactive", 0)
	asked(good, 70*time.Second, "introspection.inactive", 1)
	asked(short, 0, "", 1)
	asked(short, 19*time.Second, "", 0)
	asked(short, 20*time.Second, "introspection.inactive", 1)

	// Made-up tokens do not drive out what is known of good ones.
	lasting := b.issuer.Opaque(nil)
	asked(lasting, 0, "", 1)
	for i := range 3 * slotRows * 4 {
		c.Check(b.bearer(fmt.Sprintf("made-up-%d", i)))
	}
	asked(lasting, time.Second, "", 0)

	// The issuer is away: what was active then lasts for staleFor, nothing else does.
	stale := b.issuer.Opaque(nil)
	asked(stale, 0, "", 1)
	b.issuer.Down(true)
	asked(stale, 59*time.Second, "", 0)
	down := func(token string, at time.Duration, code string) {
		t.Helper()
		b.now = begin.Add(at)
		wants(t, c.Check(b.bearer(token)), code)
	}
	b.now = begin.Add(4 * time.Minute)
	x := b.bearer(stale)
	wants(t, c.Check(x), "")
	if len(x.Notes) != 1 || x.Notes[0].Code != "introspection.stale" || !strings.Contains(x.Notes[0].Text, "the issuer could not be asked about the token; its answer of "+reason.Stamp(begin)) {
		t.Errorf("the record does not flag a stale answer: %v", x.Notes)
	}
	down(stale, 5*time.Minute+20*time.Second, "introspection.unavailable") // it has expired meanwhile
	down(b.issuer.Opaque(nil), 0, "introspection.unavailable")

	// A token that was revoked is not let in again because the issuer goes away.
	b.issuer.Down(false)
	revoked := b.issuer.Opaque(map[string]any{"exp": begin.Add(time.Hour).Unix()})
	asked(revoked, 0, "", 1)
	b.issuer.Revoke(revoked)
	asked(revoked, time.Minute, "introspection.inactive", 1)
	b.issuer.Down(true)
	down(revoked, 2*time.Minute, "introspection.unavailable")
}

// TestIntrospectionShares: calls with one token share one question, and questions under way are bounded.
func TestIntrospectionShares(t *testing.T) {
	t.Setenv("INTROSPECTION_SECRET", issuer.Secret)
	synctest.Test(t, func(t *testing.T) {
		b := newTokenBed(t)
		b.now = time.Now()
		c := b.check("introspection", strings.Replace(introspectionConfig, "{", "{concurrency: 2, ", 1))
		release := b.issuer.Hold()
		tokens := []string{b.issuer.Opaque(nil), b.issuer.Opaque(nil), b.issuer.Opaque(nil)}
		var wg sync.WaitGroup
		codes := make([]string, 30)
		for i := range codes {
			x := b.bearer(tokens[i%3])
			wg.Go(func() {
				if v := c.Check(x); v.Refused() {
					codes[i] = v.Reason.Code
				}
			})
		}
		synctest.Wait()
		release()
		wg.Wait()
		if got := strings.Join(codes, ""); got != "" || b.issuer.Asked() != 3 {
			t.Errorf("%d questions, refusals %q", b.issuer.Asked(), got)
		}
		// Nobody waits longer than the timeout.
		release = b.issuer.Hold()
		start := time.Now()
		for range 5 {
			x := b.bearer(b.issuer.Opaque(nil))
			wg.Go(func() { wants(t, c.Check(x), "introspection.unavailable") })
		}
		wg.Wait()
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("calls wait for %v", d)
		}
		release()
		b.close()
	})
}

// TestIntrospectionAnswers: what an endpoint may answer wrong is the endpoint's fault.
func TestIntrospectionAnswers(t *testing.T) {
	b := newIntrospectionBed(t)
	c := b.check("introspection", introspectionConfig)
	for answer, want := range map[string]string{
		`{`:                              "is no JSON",
		`[]`:                             "no JSON object",
		`{}`:                             "does not say whether",
		`{"active":"true"}`:              "does not say whether",
		`{"active":true,"exp":"soon"}`:   "claim exp is no time",
		strings.Repeat(" ", maxAnswer+1): "more than 262144 bytes",
		`{"active":true,"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`: "nested deeper",
	} {
		for _, k := range b.kept {
			k.(*introspector).client.Transport = direct{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, answer) })}
		}
		wants(t, c.Check(b.bearer(fmt.Sprintf("t%d", len(answer)))), "introspection.unavailable", want)
	}
	var elsewhere int
	for _, k := range b.kept {
		k.(*introspector).client.Transport = direct{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/introspect" {
				elsewhere++
			}
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		})}
	}
	if wants(t, c.Check(b.bearer("t")), "introspection.unavailable", "307"); elsewhere != 0 {
		t.Error("a redirect was followed with the token")
	}
}

func TestRepeatedOpaqueToken(t *testing.T) {
	b := newIntrospectionBed(t)
	c := b.check("introspection", introspectionConfig)
	x := b.bearer(b.issuer.Opaque(nil))
	req := x.Request
	run := func() {
		x.Reset(req, b.now)
		x.Route = &b.route
		if v := c.Check(x); v.Refused() {
			t.Fatal(v)
		}
	}
	run()
	if n := testing.AllocsPerRun(200, run); n > 0 {
		t.Errorf("a token that passed before allocates %v times", n)
	}
}
