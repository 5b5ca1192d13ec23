package policy

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// authorizing is an authorizer: users are let in by their bearer token, the others get what they ask for.
type authorizing struct {
	*httptest.Server
	asked atomic.Int64
	last  atomic.Pointer[http.Request]
}

func newAuthorizing(t *testing.T) *authorizing {
	a := &authorizing{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.asked.Add(1)
		a.last.Store(r)
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		h := w.Header()
		switch token {
		case "ann":
			h.Set("X-User", "ann")
			h.Set("X-Scopes", "read write,admin")
			h.Set("X-Other", "not copied")
			h.Add("Set-Cookie", "session=renewed")
			h.Add("Set-Cookie", "more=1")
			w.WriteHeader(204)
		case "somebody":
			w.WriteHeader(200)
		case "slow":
			<-r.Context().Done()
		case "login":
			h.Set("Location", "https://login.test/")
			for i := range 30 {
				h.Add("Set-Cookie", fmt.Sprint("c", i, "=1"))
			}
			w.WriteHeader(302)
		case "nowhere":
			w.WriteHeader(302)
		case "challenge":
			h.Add("WWW-Authenticate", `Bearer realm="theirs"`)
			h.Add("WWW-Authenticate", `Other x="y"`)
			w.WriteHeader(401)
		case "busy":
			h.Set("Retry-After", "7")
			w.WriteHeader(429)
		case "gone":
			w.WriteHeader(410)
		case "broken":
			w.WriteHeader(500)
		case "talks":
			w.WriteHeader(403)
			fmt.Fprint(w, "no \x00 entry for you\n", strings.Repeat("x", 100<<10))
		case "":
			w.WriteHeader(401)
		default:
			w.WriteHeader(403)
		}
	}))
	t.Cleanup(a.Close)
	return a
}

func TestForwardAuth(t *testing.T) {
	b := newTestbed(t)
	a := newAuthorizing(t)
	made, problems := b.keeping(map[string]Kept{}, "forward-auth", `{url: "`+a.URL+`/check?for=orders", headers: [Authorization, X-Tenant], copy: [X-User], subject: X-User, scopes: X-Scopes, timeout: 20s}`, nil)
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	c := made.(*forwardCheck)
	ask := func(token string) (*Exchange, reason.Verdict) {
		x := b.call("GET /a/../orders?x=1", "Authorization: Bearer "+token, "X-Tenant: shop", "X-Private: kept", "X-User: forged")
		return x, c.Check(x)
	}
	x, v := ask("ann")
	wants(t, v, "")
	if id := x.Identity; id == nil || id.Subject != "ann" || !slices.Equal(id.Scopes, []string{"read", "write", "admin"}) || id.Method != "forward-auth" {
		t.Errorf("identity %+v", x.Identity)
	}
	got := a.last.Load()
	for name, want := range map[string]string{"X-Forwarded-Method": "GET", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.test", "X-Forwarded-Uri": "/orders?x=1", "X-Forwarded-For": "203.0.113.7", "X-Tenant": "shop", "X-Private": "", "X-User": ""} {
		if got.Header.Get(name) != want {
			t.Errorf("the authorizer got %s: %q, want %q", name, got.Header.Get(name), want)
		}
	}
	if got.URL.RequestURI() != "/check?for=orders" || got.Method != "GET" {
		t.Errorf("it was asked %s %s", got.Method, got.URL)
	}
	o := &wire.Outgoing{Fields: append(wire.Fields{}, x.Fields...)}
	c.EditRequest(x, o)
	if user, _ := o.Fields.Lookup("X-User"); user != "ann" || o.Fields.Count("X-User") != 1 || o.Fields.Count("X-Other") != 0 {
		t.Errorf("the upstream gets %v", o.Fields)
	}
	// What the client writes never takes the place of what the authorizer did not say.
	x, v = ask("somebody")
	wants(t, v, "")
	o = &wire.Outgoing{Fields: append(wire.Fields{}, x.Fields...)}
	if c.EditRequest(x, o); o.Fields.Count("X-User") != 0 || x.Identity != nil {
		t.Errorf("the upstream gets %v, identity %v", o.Fields, x.Identity)
	}

	for _, r := range []struct {
		token, code, text string
		status            int
	}{
		{"wrong", "forward-auth.refused", "refused the call with the status 403", 403}, {"gone", "forward-auth.refused", "410", 403}, {"challenge", "forward-auth.refused", "the authorizer got Authorization, X-Tenant", 401},
		{"login", "forward-auth.refused", "302", 302}, {"nowhere", "forward-auth.refused", "302", 403}, {"busy", "forward-auth.refused", "429", 429}, {"talks", "forward-auth.refused", "no · entry for you", 403},
		{"broken", "forward-auth.unavailable", "it answered with the status 500", 503},
	} {
		x, v := ask(r.token)
		wants(t, v, r.code, r.text)
		if v.Refused() && v.StatusCode() != r.status {
			t.Errorf("%s: status %d, want %d", r.token, v.StatusCode(), r.status)
		}
		switch r.token {
		case "challenge":
			if !slices.Equal(challenges(x), []string{`Bearer realm="theirs"`, `Other x="y"`}) {
				t.Errorf("challenges %q", challenges(x))
			}
		case "login":
			if x.Extra.Get(wire.Location) != "https://login.test/" || x.Extra.Count("Set-Cookie") != maxCookies {
				t.Errorf("fields %v", x.Extra)
			}
		case "busy":
			if x.Extra.Get(wire.RetryAfter) != "7" {
				t.Errorf("fields %v", x.Extra)
			}
		case "talks":
			f, _ := v.Facts.Find("excerpt", reason.ToOwner)
			if _, told := v.Facts.Find("excerpt", reason.ToCaller); told || len(f.Text()) > maxExcerpt+10 {
				t.Errorf("an excerpt of %d bytes, told to callers: %v", len(f.Text()), told)
			}
		default:
			if len(x.Extra) != 0 {
				t.Errorf("%s: fields %v", r.token, x.Extra)
			}
		}
	}
	x = b.call("GET /")
	wants(t, c.Check(x), "forward-auth.refused")
	if !slices.Equal(challenges(x), []string{`ForwardAuth realm="orders"`}) {
		t.Errorf("challenges %q", challenges(x))
	}

	// Explaining asks nobody, and a preflight is not worth a question.
	before := a.asked.Load()
	x = b.call("GET /", "Authorization: Bearer ann")
	if x.Explaining = true; c.Check(x).Refused() || !x.Unknown || x.Identity != nil {
		t.Error("an explanation is not left open")
	}
	x = b.call("OPTIONS /", "Origin: https://shop.test", "Access-Control-Request-Method: GET")
	x.Preflight = true
	wants(t, c.Check(x), "cors.preflight")
	if a.asked.Load() != before {
		t.Error("the authorizer was asked")
	}
}

func TestForwardAuthUnavailable(t *testing.T) {
	b := newTestbed(t)
	a := newAuthorizing(t)
	slow := b.method("forward-auth", `{url: "`+a.URL+`", timeout: 20ms}`)
	call := func() *Exchange { return b.call("GET /", "Authorization: Bearer slow") }
	wants(t, slow.Check(call()), "forward-auth.unavailable", "no answer within 20 ms")

	full := b.method("forward-auth", `{url: "`+a.URL+`", timeout: 20ms, concurrency: 1}`).(*forwardCheck)
	full.authorizer.turns <- struct{}{}
	wants(t, full.Check(b.call("GET /", "Authorization: Bearer ann")), "forward-auth.unavailable", "as many questions as allowed are under way, 1")

	a.Close()
	closed := b.method("forward-auth", `{url: "`+a.URL+`"}`)
	wants(t, closed.Check(call()), "forward-auth.unavailable", "connect")
	x := call()
	wants(t, b.method("forward-auth", `{url: "`+a.URL+`", failOpen: true}`).Check(x), "")
	if len(x.Notes) != 1 || x.Notes[0].Code != "forward-auth.unavailable" || x.Identity != nil {
		t.Errorf("notes %v, identity %v", x.Notes, x.Identity)
	}
}

func TestForwardAuthIsRemembered(t *testing.T) {
	b := newTestbed(t)
	a := newAuthorizing(t)
	kept := map[string]Kept{}
	made := func() Check {
		c, problems := b.keeping(kept, "forward-auth", `{url: "`+a.URL+`", subject: X-User, copy: [X-User], copyBack: [set-cookie], cacheFor: 1m, timeout: 20s}`, nil)
		if problems.HasErrors() {
			t.Fatal(problems)
		}
		return c.(Check)
	}
	c := made()
	asks := func(after time.Duration, lines ...string) bool {
		before := a.asked.Load()
		x := b.call(lines...)
		x.Now = b.now.Add(after)
		if v := c.Check(x); !v.Refused() && (x.Identity == nil || x.Identity.Subject != "ann" || len(x.Onward) != 1) {
			t.Errorf("%q: identity %v, onward %v", lines, x.Identity, x.Onward)
		} else if back := x.Extra.Count("Set-Cookie"); !v.Refused() && (back == 2) != (a.asked.Load() > before) || back == 1 {
			t.Errorf("%q: the caller gets %v, and the authorizer was asked: %v", lines, x.Extra, a.asked.Load() > before)
		}
		return a.asked.Load() > before
	}
	const ann = "Authorization: Bearer ann"
	if !asks(0, "GET /a", ann) || asks(59*time.Second, "GET /a", ann) {
		t.Error("an answer counts for a minute")
	}
	for _, other := range [][]string{{"GET /b", ann}, {"POST /a", ann}, {"GET /a?x", ann}, {"GET /a", ann, "Cookie: a=b"}, {"GET /a", ann, "Host: other.test"}} {
		if !asks(0, other...) {
			t.Errorf("%q takes the answer to another question", other)
		}
	}
	if !asks(time.Minute, "GET /a", ann) {
		t.Error("an answer counts for ever")
	}
	for range 2 {
		if !asks(0, "GET /a", "Authorization: Bearer no") {
			t.Error("a refusal is remembered")
		}
	}
	if c = made(); asks(0, "GET /b", ann) {
		t.Error("a new revision has forgotten")
	}
	// What is remembered can be explained, and costs no memory.
	x := b.call("GET /b", ann)
	if x.Explaining = true; c.Check(x).Refused() || x.Unknown {
		t.Error("what is remembered is not told")
	}
	x = b.call("GET /b", ann)
	req := x.Request
	client := x.Client
	if n := testing.AllocsPerRun(100, func() {
		x.Reset(req, b.now)
		x.Scheme, x.Route, x.Client = "https", &b.route, client
		if c.Check(x).Refused() {
			t.Fatal("refused")
		}
	}); n > 0 {
		t.Errorf("a call that passes allocates %v times", n)
	}
}

func TestForwardAuthProblems(t *testing.T) {
	b := newTestbed(t)
	for config, text := range map[string]string{
		`{}`: "", `{url: auth.internal}`: "no URL", `{url: "ftp://a/"}`: "no URL", `{url: "http://user:pw@a/"}`: "no secrets", `{url: "http://a", headers: [Host]}`: "belongs to the connection",
		`{url: "http://a", headers: [X-Forwarded-For]}`: "the gateway writes it", `{url: "http://a", copy: ["a b"]}`: "no header name", `{url: "http://a", subject: "a b"}`: "no header name",
		`{url: "http://a", scopes: X-Scopes}`: "of nobody", `{url: "http://a", pass: [200]}`: "", `{url: "https://a", ca: nowhere.pem}`: "no such file",
	} {
		if _, problems := b.keeping(map[string]Kept{}, "forward-auth", config, nil); !problems.HasErrors() || !strings.Contains(problems[0].Message, text) {
			t.Errorf("%s: %v, want %s", config, problems, text)
		}
	}
}
