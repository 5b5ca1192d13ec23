package policy

import (
	"bytes"
	"fmt"
	"mime/multipart"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// sentBody is the content of a call in tests.
type sentBody struct {
	content string
	read    int
}

func (b *sentBody) Known() bool { return true }

func (b *sentBody) Body(max int64) ([]byte, reason.Verdict) {
	b.read++
	if int64(len(b.content)) > max {
		return nil, bodyTooLarge.Refuse()
	}
	return []byte(b.content), reason.Verdict{}
}

const testSecret = "0123456789abcdef0123456789abcdef"

// csrfBed asks a csrf policy.
type csrfBed struct {
	*shelf
	c Check
}

func newCSRFBed(t *testing.T, config string) *csrfBed {
	s := newShelf(t)
	s.write("secret", testSecret+"\n")
	return &csrfBed{s, s.check("csrf", config)}
}

// token makes a GET call and returns the token that the answer brings, and its cookie if it sets one.
func (b *csrfBed) token(lines ...string) (token, cookie string) {
	b.t.Helper()
	x := b.call(append([]string{"GET /"}, lines...)...)
	wants(b.t, b.c.Check(x), "")
	token, _ = x.Extra.Lookup("X-CSRF-Token")
	return token, x.Extra.Get(wire.SetCookie)
}

func TestCSRF(t *testing.T) {
	b := newCSRFBed(t, `{secret: {file: secret}, lifetime: 1h}`)
	token, cookie := b.token()
	if len(token) != csrfTokenLength || cookie != "csrf_token="+token+"; Path=/; Max-Age=3600; SameSite=Lax; Secure" {
		t.Fatalf("token %q, cookie %q", token, cookie)
	}
	other, _ := b.token()
	if other == token {
		t.Fatal("two tokens are the same")
	}
	c := "Cookie: a=b; csrf_token=" + token
	h := "X-CSRF-Token: " + token
	for _, r := range []struct {
		code, text string
		lines      []string
	}{
		{"", "", []string{"POST /", c, h}},
		{"", "", []string{"DELETE /", c, h, "Origin: https://shop.test", "Sec-Fetch-Site: same-origin"}},
		{"", "", []string{"POST /", "Cookie: csrf_token=" + other, c, h}}, // one of a neighbouring host beside ours
		{"csrf.missing-cookie", "the client sends no cookies at all", []string{"POST /"}},
		{"csrf.missing-cookie", "the token is there, but the client sends no cookies", []string{"POST /", h}},
		{"csrf.missing-cookie", "in header X-CSRF-Token or form field csrf_token", []string{"POST /", "Cookie: sid=1", h}},
		{"csrf.missing-token", "no token in header X-CSRF-Token or form field csrf_token", []string{"POST /", c}},
		{"csrf.missing-token", "the header X-XSRF-Token is there", []string{"POST /", c, "X-XSRF-Token: " + token}},
		{"csrf.missing-token", "the query parameter csrf_token is there", []string{"POST /?csrf_token=" + token, c}},
		{"csrf.missing-token", "the body is no form", []string{"POST /", c, "Content-Type: application/json", "Content-Length: 2"}},
		{"csrf.mismatch", "both are from this gateway, of different answers", []string{"POST /", c, "X-CSRF-Token: " + other}},
		{"csrf.mismatch", "the token is not from this gateway", []string{"POST /", c, "X-CSRF-Token: " + strings.Repeat("A", csrfTokenLength)}},
		{"csrf.mismatch", "the cookie is not from this gateway", []string{"POST /", "Cookie: csrf_token=" + strings.Repeat("A", csrfTokenLength), h}},
		{"csrf.mismatch", "wrapped in quotes", []string{"POST /", c, `X-CSRF-Token: "` + token + `"`}},
		{"csrf.mismatch", "a variable that was not filled in", []string{"POST /", c, "X-CSRF-Token: {{csrf}}"}},
		{"csrf.mismatch", "it did not find the cookie", []string{"POST /", c, "X-CSRF-Token: undefined"}},
		{"csrf.bad-signature", "", []string{"POST /", "Cookie: csrf_token=" + strings.Repeat("A", csrfTokenLength), "X-CSRF-Token: " + strings.Repeat("A", csrfTokenLength)}},
		{"csrf.bad-signature", "the token has 3 characters, tokens have 64 characters", []string{"POST /", "Cookie: csrf_token=abc", "X-CSRF-Token: abc"}},
	} {
		v := b.c.Check(b.call(r.lines...))
		wants(t, v, r.code, r.text)
		if v.Refused() && v.Reason.Status != 403 {
			t.Errorf("%s is a %d", r.code, v.Reason.Status)
		}
		for _, f := range v.Facts { // a token is never a fact
			if strings.Contains(f.Text(), token) || strings.Contains(f.Text(), other) {
				t.Errorf("%s tells a token in the fact %s", r.code, f.Name)
			}
		}
	}

	// Every change of what is checked is noticed: the time, the chance and the MAC that binds them.
	for i := range token {
		if at := i * 3 / 4; at+1 >= csrfHead && at < csrfHead+csrfMAC {
			continue // only asked where the other MAC is wrong
		}
		forged := token[:i] + string(rune('A'+(token[i]+1)%26)) + token[i+1:]
		if forged == token {
			continue
		}
		if v := b.c.Check(b.call("POST /", "Cookie: csrf_token="+forged, "X-CSRF-Token: "+forged)); v.Reason != csrfSignature { // nothing is bound, so it is no other session
			t.Errorf("changed at %d: %v", i, v.Reason)
		}
	}

	// Time.
	x := b.call("POST /", c, h)
	x.Now = b.now.Add(time.Hour - time.Second)
	wants(t, b.c.Check(x), "")
	x.Now = b.now.Add(2 * time.Hour)
	v := b.c.Check(x)
	wants(t, v, "csrf.expired", "was made 2h ago and held for 1h")
	if f, _ := v.Facts.Find("lifetime", reason.ToOwner); f.From == nil || f.From.Field != "lifetime" {
		t.Errorf("written at %+v", f)
	}
	b.now = b.now.Add(10 * time.Minute)
	newer, _ := b.token()
	wants(t, b.c.Check(b.call("POST /", "Cookie: csrf_token="+newer, h)), "csrf.mismatch", "the token is older than the cookie")
}

// TestCSRFBrings: a GET brings a token where there is no good one, or it ends soon.
func TestCSRFBrings(t *testing.T) {
	b := newCSRFBed(t, `{secret: {file: secret}, lifetime: 1h, cookie: __Host-csrf}`)
	token, _ := b.token()
	c := "Cookie: __Host-csrf=" + token
	if again, set := b.token(c); again != token || set != "" {
		t.Errorf("a good token is replaced: %q", set)
	}
	b.now = b.now.Add(44 * time.Minute)
	if again, set := b.token(c); again != token || set != "" {
		t.Errorf("a good token is replaced: %q", set)
	}
	b.now = b.now.Add(2 * time.Minute)
	if again, set := b.token(c); again == token || set == "" {
		t.Error("a token near its end is not replaced")
	}
	for _, bad := range []string{"__Host-csrf=abc", "__Host-csrf=", "other=1"} {
		if again, set := b.token("Cookie: " + bad); !strings.Contains(set, again) || again == "" {
			t.Errorf("%s: %q", bad, set)
		}
	}
	// Explaining and preflights bring nothing.
	x := b.call("GET /")
	x.Explaining = true
	if v := b.c.Check(x); len(x.Extra) > 0 || len(v.Facts) == 0 {
		t.Errorf("explaining: %v %v", x.Extra, v.Facts)
	}
	x = b.call("OPTIONS /", "Origin: https://evil.test")
	x.Preflight = true
	if wants(t, b.c.Check(x), ""); len(x.Extra) > 0 {
		t.Errorf("a preflight: %v", x.Extra)
	}
	// What is not for everybody is not stored for everybody.
	x = b.call("GET /")
	b.c.Check(x)
	head := &wire.Head{Fields: append(wire.Fields{}, x.Extra...)}
	head.Fields.Add("Cache-Control", "public, max-age=60")
	b.c.(ResponseEditor).EditResponse(x, head)
	if got, _ := head.Fields.Lookup("Cache-Control"); got != "no-store" || !head.Fields.HasToken(wire.Vary, "Cookie") {
		t.Errorf("fields %v", head.Fields)
	}
	b.now = b.now.Add(-46 * time.Minute)
	x = b.call("GET /", c)
	b.c.Check(x)
	head = &wire.Head{Fields: append(wire.Fields{}, x.Extra...)}
	head.Fields.Add("Cache-Control", "public, max-age=60")
	b.c.(ResponseEditor).EditResponse(x, head)
	if got, _ := head.Fields.Lookup("Cache-Control"); got != "public, max-age=60" || !head.Fields.HasToken(wire.Vary, "Cookie") {
		t.Errorf("fields %v", head.Fields)
	}
	plain := b.call("GET /")
	plain.Scheme = "http"
	b.c.Check(plain)
	if got := plain.Extra.Get(wire.SetCookie); strings.Contains(got, "Secure") {
		t.Errorf("over http: %s", got)
	}
	plain = b.call("POST /", "Cookie: a=b")
	plain.Scheme = "http"
	wants(t, b.c.Check(plain), "csrf.missing-cookie", "over http, where browsers keep no cookie of that name")
}

func TestCSRFOrigin(t *testing.T) {
	strict := newCSRFBed(t, `{secret: {file: secret}, origins: ["https://app.test", "https://*.app.test"]}`)
	loose := newCSRFBed(t, `{secret: {file: secret}, sameSite: true}`)
	token, _ := strict.token()
	for _, r := range []struct {
		lines         string
		strict, loose string
		text          string
	}{
		{"Origin: https://shop.test", "", "", ""},
		{"Origin: https://evil.test", "csrf.foreign-origin", "csrf.foreign-origin", "Origin: https://evil.test"},
		{"Origin: null", "csrf.foreign-origin", "csrf.foreign-origin", "sandboxed frame"},
		{"Origin: http://shop.test", "csrf.foreign-origin", "csrf.foreign-origin", "has the scheme http instead of https"},
		{"Origin: https://shop.test:8443", "csrf.foreign-origin", "csrf.foreign-origin", "has another port than https://shop.test"},
		{"Origin: https://app.test", "", "csrf.foreign-origin", ""},
		{"Origin: https://a.app.test|Sec-Fetch-Site: cross-site", "", "csrf.foreign-origin", ""},
		{"Sec-Fetch-Site: same-origin", "", "", ""},
		{"Sec-Fetch-Site: same-origin|Origin: http://shop.test", "", "", ""}, // a proxy in front ends TLS
		{"Sec-Fetch-Site: none", "", "", ""},
		{"Sec-Fetch-Site: same-site|Origin: https://www.shop.test", "csrf.foreign-origin", "", "https://www.shop.test"},
		{"Sec-Fetch-Site: cross-site", "csrf.foreign-origin", "csrf.foreign-origin", "Sec-Fetch-Site: cross-site"},
		{"Sec-Fetch-Site: cross-site|Origin: https://shop.test", "csrf.foreign-origin", "csrf.foreign-origin", ""},
		{"Sec-Fetch-Site: nonsense|Origin: https://evil.test", "csrf.foreign-origin", "csrf.foreign-origin", ""},
		{"Referer: https://shop.test/form?x=1", "", "", ""},
		{"Referer: https://evil.test/form?x=1", "csrf.foreign-origin", "csrf.foreign-origin", "Referer: https://evil.test"},
		{"Referer: https://shop.test@evil.test/", "", "", ""}, // no page: as if it were not there
		{"X-A: b", "", "", ""},
	} {
		for bed, code := range map[*csrfBed]string{strict: r.strict, loose: r.loose} {
			lines := append([]string{"POST /", "Cookie: csrf_token=" + token, "X-CSRF-Token: " + token}, strings.Split(r.lines, "|")...)
			v := bed.c.Check(bed.call(lines...))
			if wants(t, v, code, r.text); v.Refused() != (code != "") {
				t.Errorf("%s: %v, want %q", r.lines, v.Reason, code)
			}
		}
	}
	v := strict.c.Check(strict.call("POST /", "Origin: https://evil.test"))
	wants(t, v, "csrf.foreign-origin", "a page of https://shop.test, https://app.test or https://*.app.test", "add https://evil.test to the origins")
	// The default port is left out by browsers.
	x := strict.call("POST /", "Host: shop.test:443", "Origin: https://shop.test", "Cookie: csrf_token="+token, "X-CSRF-Token: "+token)
	wants(t, strict.c.Check(x), "")
	// A page may open WebSockets to anywhere.
	upgrade := []string{"GET /", "Connection: Upgrade", "Upgrade: websocket"}
	wants(t, strict.c.Check(strict.call(append(upgrade, "Origin: https://evil.test")...)), "csrf.foreign-origin")
	wants(t, strict.c.Check(strict.call(append(upgrade, "Origin: https://shop.test")...)), "")
	wants(t, strict.c.Check(strict.call("GET /", "Origin: https://evil.test")), "")
}

func TestCSRFForms(t *testing.T) {
	b := newCSRFBed(t, `{secret: {file: secret}, maxBody: 4KiB}`)
	token, _ := b.token()
	ask := func(contentType, content string, more ...string) (reason.Verdict, *sentBody) {
		x := b.call(append([]string{"POST /", "Cookie: csrf_token=" + token, "Content-Type: " + contentType, fmt.Sprintf("Content-Length: %d", len(content))}, more...)...)
		body := &sentBody{content: content}
		x.Content = body
		return b.c.Check(x), body
	}
	form := "application/x-www-form-urlencoded; charset=UTF-8"
	var parts bytes.Buffer
	w := multipart.NewWriter(&parts)
	f, _ := w.CreateFormFile("csrf_token", "csrf_token")
	fmt.Fprint(f, "a file of that name is no field")
	w.WriteField("a", "b")
	w.WriteField("csrf_token", token)
	w.Close()
	long := "a=" + strings.Repeat("x", 5000) + "&csrf_token=" + token
	for _, c := range []struct{ kind, content, code string }{
		{form, "a=b&csrf_token=" + token + "&c=d", ""},
		{form, "csrf%5Ftoken=" + token, ""},
		{form, "a=b", "csrf.missing-token"},
		{form, "csrf_token=%zz", "csrf.missing-token"},
		{form, "csrf_token=other", "csrf.mismatch"},
		{form, "csrf_token=" + strings.Repeat("x", 3000), "csrf.mismatch"},
		{form, long, "size.body"},
		{w.FormDataContentType(), parts.String(), ""},
		{w.FormDataContentType(), parts.String()[:200], "csrf.missing-token"},
		{"multipart/form-data", parts.String(), "csrf.missing-token"},
		{"multipart/form-data; boundary=other", parts.String(), "csrf.missing-token"},
		{"text/plain", "csrf_token=" + token, "csrf.missing-token"},
		{"application/json", `{"csrf_token": "` + token + `"}`, "csrf.missing-token"},
	} {
		if v, _ := ask(c.kind, c.content); v.Refused() != (c.code != "") || v.Refused() && v.Reason.Code != c.code {
			t.Errorf("%s %.60q: %v, want %q", c.kind, c.content, v.Reason, c.code)
		}
	}
	// With the header nothing is read, however large the form is.
	v, body := ask(form, long, "X-CSRF-Token: "+token)
	if wants(t, v, ""); body.read > 0 {
		t.Error("the body was read")
	}
	v, _ = ask(form, "csrf_token="+token, "Content-Encoding: gzip")
	wants(t, v, "csrf.missing-token", "the form is compressed")
	none := newCSRFBed(t, `{secret: {file: secret}, field: ""}`)
	if none.c.(BodyReader).ReadsBody() || !b.c.(BodyReader).ReadsBody() {
		t.Error("who reads bodies is told wrong")
	}
	x := none.call("POST /", "Cookie: csrf_token="+token, "Content-Type: "+form)
	x.Content = &sentBody{content: "csrf_token=" + token}
	wants(t, none.c.Check(x), "csrf.missing-token", "in header X-CSRF-Token")
}

func TestCSRFBound(t *testing.T) {
	b := newCSRFBed(t, `{secret: {file: secret}, session: sid}`)
	token, _ := b.token("Cookie: sid=ann")
	post := func(cookies string) reason.Verdict {
		return b.c.Check(b.call("POST /", "Cookie: "+cookies+"; csrf_token="+token, "X-CSRF-Token: "+token))
	}
	wants(t, post("sid=ann"), "")
	wants(t, post("sid=bob"), "csrf.other-session", "another session than this call has")
	wants(t, post("a=b"), "csrf.other-session")
	if again, set := b.token("Cookie: sid=bob; csrf_token=" + token); again == token || set == "" {
		t.Error("a token of another session is kept")
	}
	s := newShelf(t)
	s.write("secret", testSecret)
	s.kinds["key-auth"] = true
	who := &csrfBed{s, s.check("csrf", `{secret: {file: secret}, identity: true}`)}
	call := func(subject string, lines ...string) *Exchange {
		x := who.call(lines...)
		x.Identity = &consumer.Identity{Method: "basic", Subject: subject}
		return x
	}
	x := call("ann", "GET /")
	who.c.Check(x)
	token, _ = x.Extra.Lookup("X-CSRF-Token")
	lines := []string{"POST /", "Cookie: csrf_token=" + token, "X-CSRF-Token: " + token}
	wants(t, who.c.Check(call("ann", lines...)), "")
	wants(t, who.c.Check(call("bob", lines...)), "csrf.other-session", "another identity")
}

// TestCSRFExempt: what no page of another site can send needs no token.
func TestCSRFExempt(t *testing.T) {
	s := newShelf(t)
	s.write("secret", testSecret)
	acme := s.application("acme")
	key, other := s.key(acme, nil), s.key(acme, nil)
	c := s.check("csrf", `{secret: {file: secret}}`)
	strict := s.check("csrf", `{secret: {file: secret}, exemptTokens: false}`)
	for _, check := range []Check{c, strict} {
		check.(*csrfCheck).AllowHeader("X-Api-Key")
		check.(*csrfCheck).AllowHeader("X-CSRF-Token") // its own is none
	}
	ask := func(check Check, edit func(x *Exchange), lines ...string) reason.Verdict {
		x := s.call(append([]string{"POST /"}, lines...)...)
		edit(x)
		return check.Check(x)
	}
	keyed := func(x *Exchange) { x.Application, x.Credential = acme, s.consumers.Credential([]byte(key)) }
	by := func(method string) func(x *Exchange) {
		return func(x *Exchange) { x.Identity = &consumer.Identity{Method: method, Subject: "ann"} }
	}
	wants(t, ask(c, keyed, "X-Api-Key: "+key), "")
	wants(t, ask(c, keyed, "Authorization: Bearer "+key), "")
	wants(t, ask(strict, keyed, "X-Api-Key: "+key), "csrf.missing-cookie")
	wants(t, ask(c, keyed, "Cookie: key="+key), "csrf.missing-cookie")
	wants(t, ask(c, keyed, "Cookie: key="+key, "X-Api-Key: x"), "csrf.missing-cookie")
	wants(t, ask(c, keyed, "Cookie: key="+key, "X-Api-Key: "+other), "csrf.missing-cookie")
	wants(t, ask(c, keyed, "Cookie: key="+key, "X-CSRF-Token: "+key), "csrf.missing-cookie")
	wants(t, ask(c, by("jwt"), "Authorization: Bearer abc"), "")
	wants(t, ask(c, by("jwt"), "Cookie: token=abc"), "csrf.missing-cookie")
	wants(t, ask(c, by("hmac")), "")
	wants(t, ask(c, by("basic"), "Authorization: Basic abc"), "csrf.missing-cookie")
	wants(t, ask(c, by("mtls")), "csrf.missing-cookie")
	wants(t, ask(c, by("anonymous"), "Authorization: Bearer abc"), "csrf.missing-cookie")
	wants(t, ask(c, func(*Exchange) {}, "X-Api-Key: "+key), "csrf.missing-cookie") // nobody asked for it
	v := ask(c, func(x *Exchange) { keyed(x); x.Explaining = true }, "X-Api-Key: "+key)
	if f, ok := v.Facts.Find("exempt", reason.ToCaller); !ok || !strings.Contains(f.Text(), "the API key in header X-Api-Key") {
		t.Errorf("facts %v", v.Facts)
	}
}

func TestCSRFSecret(t *testing.T) {
	s := newShelf(t)
	s.write("secret", testSecret)
	s.write("short", "0123456789")
	s.write("empty", "\n")
	t.Setenv("CSRF_SECRET", testSecret)
	t.Setenv("CSRF_EMPTY", "")
	fromFile, fromEnv, made := &csrfBed{s, s.check("csrf", `{secret: {file: secret}}`)}, &csrfBed{s, s.check("csrf", `{secret: {env: CSRF_SECRET}}`)}, &csrfBed{s, s.check("csrf", `{}`)}
	token, _ := fromFile.token()
	lines := []string{"POST /", "Cookie: csrf_token=" + token, "X-CSRF-Token: " + token}
	wants(t, fromEnv.c.Check(s.call(lines...)), "")
	v := made.c.Check(s.call(lines...))
	wants(t, v, "csrf.bad-signature")
	if hint := v.Tell(reason.ToOperator).Hint; !strings.Contains(hint, "made at each start") {
		t.Errorf("hint %q", hint)
	}
	// The next revision has the same one.
	token, _ = made.token()
	wants(t, s.check("csrf", `{}`).Check(s.call("POST /", "Cookie: csrf_token="+token, "X-CSRF-Token: "+token)), "")
	// A new secret in the file ends old tokens, with the revision that the change makes.
	token, _ = fromFile.token()
	s.write("secret", testSecret+"2")
	wants(t, fromFile.c.Check(s.call("POST /", "Cookie: csrf_token="+token, "X-CSRF-Token: "+token)), "")
	fromFile.c = s.check("csrf", `{secret: {file: secret}}`)
	wants(t, fromFile.c.Check(s.call("POST /", "Cookie: csrf_token="+token, "X-CSRF-Token: "+token)), "csrf.bad-signature")

	for _, c := range [][3]string{
		{`{secret: {file: none}}`, "test.yaml:1:17", "no such file"},
		{`{secret: {file: short}}`, "test.yaml:1:17", "at least 16 bytes"},
		{`{secret: {file: empty}}`, "test.yaml:1:17", "the file is empty"},
		{`{secret: {}}`, "test.yaml", "file"},
		{`{secret: {file: secret, env: CSRF_SECRET}}`, "test.yaml:1:10", "write file: or env:"},
		{`{secret: {env: CSRF_NOT_SET}}`, "test.yaml:1:16", "is not set"},
		{`{secret: {env: CSRF_EMPTY}}`, "test.yaml:1:16", "is not set"},
		{`{cookie: "a b"}`, "test.yaml:1:10", "no name of a cookie"},
		{`{cookie: ""}`, "test.yaml:1:10", "no name of a cookie"},
		{`{cookie: __Host-csrf, path: /shop}`, "test.yaml:1:10", "with a path or a domain"},
		{`{header: "X Y"}`, "test.yaml:1:10", "no header name"},
		{`{header: Authorization}`, "test.yaml:1:10", "a meaning of its own"},
		{`{session: csrf_token}`, "test.yaml:1:11", "its own cookie"},
		{`{identity: true}`, "test.yaml:1:12", "add an authentication"},
		{`{origins: ["*"]}`, "test.yaml:1:12", "there to prevent"},
		{`{origins: ["null"]}`, "test.yaml:1:12", "there to prevent"},
		{`{origins: ["app.test"]}`, "test.yaml:1:12", "no origin"},
		{`{domain: "https://shop.test"}`, "test.yaml:1:10", "no domain"},
		{`{path: "a"}`, "test.yaml:1:8", "a path"},
		{`{path: "/; Domain=evil.test"}`, "test.yaml:1:8", "a path"},
		{`{lifetime: 1s}`, "test.yaml:1:12", "at least 1m"},
		{`{maxBody: 1GiB}`, "test.yaml:1:11", "at most 16MiB"},
	} {
		s.errs("csrf", c[0], c[1], c[2])
	}
}

func TestCSRFDoesNotAllocate(t *testing.T) {
	if !pooled {
		t.Skip("the race detector empties pools at random")
	}
	b := newCSRFBed(t, `{secret: {file: secret}, session: sid}`)
	token, _ := b.token("Cookie: sid=ann")
	for _, lines := range [][]string{{"POST /", "X-CSRF-Token: " + token}, {"GET /"}} {
		x := b.call(append(lines, "Cookie: sid=ann; csrf_token="+token, "Origin: https://shop.test")...)
		if n := testing.AllocsPerRun(100, func() {
			x.Extra = x.Extra[:0]
			if b.c.Check(x).Refused() {
				t.Fatal("refused")
			}
		}); n > 0 {
			t.Errorf("%s: a call that passes allocates %v times", lines[0], n)
		}
	}
}

func BenchmarkCSRF(b *testing.B) {
	t := &testing.T{}
	bed := newTestbed(t)
	c := &csrfCheck{CSRF: CSRF{Cookie: "csrf_token", Header: "X-CSRF-Token", Lifetime: 3600e9}}
	k := newCSRFKey([]byte(testSecret))
	c.key = func() *csrfKey { return k }
	token := k.make(bed.now, tokenBinding{})
	x := bed.call("POST /", "Cookie: csrf_token="+token, "X-CSRF-Token: "+token, "Origin: https://shop.test")
	b.ReportAllocs()
	for b.Loop() {
		if c.Check(x).Refused() {
			b.Fatal("refused")
		}
	}
}

// FuzzFormValue compares with net/url.
func FuzzFormValue(f *testing.F) {
	for _, s := range []string{"a=b&csrf_token=x", "csrf%5ftoken=%41", "csrf_token", "&&=", "csrf_token=%zz", "csrf+token=1", "a%"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got := formValue(body, "csrf_token")
		want, err := url.ParseQuery(string(body))
		if v := want.Get("csrf_token"); err == nil && len(v) < 50 && got != v && !strings.Contains(string(body), ";") {
			t.Fatalf("%q: %q, to net/url it is %q", body, got, v)
		}
	})
}

// FuzzPartValue: whatever stands in a form of parts, reading it ends.
func FuzzPartValue(f *testing.F) {
	f.Add([]byte("--b\r\nContent-Disposition: form-data; name=\"csrf_token\"\r\n\r\nx\r\n--b--\r\n"), "multipart/form-data; boundary=b")
	f.Add([]byte("--b\r\n\r\n"), "multipart/form-data; boundary=")
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		kind, boundary := formKind(contentType)
		if kind == "multipart" {
			if v := partValue(body, boundary, "csrf_token"); len(v) > longestField {
				t.Fatalf("a value of %d bytes", len(v))
			}
		}
	})
}

// FuzzCSRFToken: no token but one that was made is good.
func FuzzCSRFToken(f *testing.F) {
	k := newCSRFKey([]byte(testSecret))
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	f.Add(k.make(now, tokenBinding{session: "ann"}))
	f.Add("")
	f.Add(strings.Repeat("A", csrfTokenLength))
	f.Fuzz(func(t *testing.T, token string) {
		if _, state := newCSRFKey([]byte("another secret of this length")).read(token, tokenBinding{session: "ann"}); state != tokenForged {
			t.Fatalf("%q is good", token)
		}
	})
}
