package replay

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/whygate/whygate/pinpoint"
)

// samples are requests that every operator finds something to change in.
func samples() (all []*pinpoint.Case) {
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"} {
		for _, u := range []string{"https://me:pw@Shop.test:8443/A/b%2Fc//x;s=1/?a=1&b=2&api_key=k", "http://[::1]:8080/items/5", "http://127.0.0.1/", "https://shop.test/docs?x"} {
			r := get(u, "User-Agent", "curl/8", "Authorization", "Bearer abcdef", "X-Api-Key", "key1", "Cookie", "sid=1; theme=dark; big=xxxxxxxx",
				"Referer", "https://other.example/", "Origin", "https://other.example", "Accept", "text/html", "Accept-Language", "de",
				"Host", "alias.test:99", "X-Forwarded-For", "1.1.1.1, 2.2.2.2", "X-Real-IP", "3.3.3.3")
			r.Method = method
			if method[0] == 'P' {
				r.Header = append(r.Header, pinpoint.Field{Name: "Content-Type", Value: "text/plain"}, pinpoint.Field{Name: "Content-Length", Value: "13"})
				r.Body = []byte(`{"a":"b's 12"}`)
			}
			c := caseOf(r)
			c.Swap = pinpoint.Header{{Name: "Authorization", Value: "Bearer other"}}
			for _, known := range []string{"/stage/ok.css", "/a/B%2fc//X;s=1/"} {
				k := get(strings.Replace(origin(get(u)), "me:pw@", "", 1) + known)
				c.Exchanges = append(c.Exchanges, pinpoint.Exchange{Request: k, Answer: &pinpoint.Answer{Status: 200}})
			}
			all = append(all, c)
		}
	}
	return all
}

// changed names the parts in which two requests differ.
func changed(t *testing.T, a, b *pinpoint.Request) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	note := func(part string, differ bool) {
		if differ {
			out[part] = true
		}
	}
	u, err1 := url.Parse(a.URL)
	v, err2 := url.Parse(b.URL)
	if err1 != nil || err2 != nil {
		t.Fatal(a.URL, b.URL)
	}
	note("method", a.Method != b.Method)
	note("scheme", u.Scheme != v.Scheme)
	note("host", u.Host != v.Host)
	note("Authorization", u.User.String() != v.User.String())
	note("path", u.EscapedPath() != v.EscapedPath())
	note("query", u.RawQuery != v.RawQuery)
	note("body", string(a.Body) != string(b.Body))
	note("proto", a.Proto != b.Proto)
	note("via", a.Via != b.Via)
	names := map[string]bool{}
	for _, f := range append(slices.Clone(a.Header), b.Header...) {
		names[f.Name] = true
	}
	for n := range names {
		note(n, !slices.Equal(a.Header.Values(n), b.Header.Values(n)))
	}
	return out
}

// TestOperatorsChangeWhatTheySay holds operators to their list, and to the rule that none of them
// tricks an access control.
func TestOperatorsChangeWhatTheySay(t *testing.T) {
	// Fields that no operator may bring in, or give another value than a part of the old one.
	tricks := append([]string{"X-Original-URL", "X-Rewrite-URL", "X-HTTP-Method-Override", "X-Method-Override", "X-Originating-IP", "X-Host", "X-Custom-IP-Authorization"}, forwarding...)
	applied := map[string]int{}
	o := Options{Origin: "127.0.0.1:9", From: "127.0.0.2", Name: "shop.test"}
	for _, c := range samples() {
		from := c.Exchange().Request
		before, _ := json.Marshal(from)
		for _, op := range Operators {
			for _, to := range op.Apply(c, o, from) {
				applied[op.Name]++
				got := changed(t, from, to)
				for part := range got {
					allowed := slices.Contains(op.Changes, part) ||
						slices.Contains(op.Changes, "credentials") && credential(part) ||
						slices.Contains(op.Changes, "forwarding") && slices.Contains(forwarding, part)
					if !allowed {
						t.Errorf("%s changes %s: %s → %s", op.Name, part, from.URL, to.URL)
					}
				}
				if len(got) == 0 && op.Name != "repeat" && op.Name != "wait" {
					t.Errorf("%s changes nothing of %s %s", op.Name, from.Method, from.URL)
				}
				for _, n := range tricks {
					if v := to.Header.Value(n); v != "" && !strings.Contains(from.Header.Value(n), v) {
						t.Errorf("%s sends %s: %s", op.Name, n, v)
					}
				}
				if to.Method != from.Method && !slices.Contains([]string{"GET", "HEAD", "OPTIONS"}, to.Method) {
					t.Errorf("%s makes a %s of a %s", op.Name, to.Method, from.Method)
				}
				if v, err := splitURL(to.URL); err != nil || strings.Contains(v.path, "..") {
					t.Errorf("%s: %q %v", op.Name, to.URL, err)
				}
				// The class follows the table: nothing unsafe is S1.
				if class := op.class(&o, from, to); !safe(&o, to) && class == pinpoint.S1 || class == pinpoint.S0 {
					t.Errorf("%s of %s %s is %s", op.Name, to.Method, to.URL, class)
				}
			}
		}
		if after, _ := json.Marshal(from); string(after) != string(before) {
			t.Fatalf("the request itself was changed: %s", after)
		}
	}
	for _, op := range Operators {
		if applied[op.Name] == 0 && op.Name != "http1" { // of HTTP/2 only, below
			t.Errorf("%s never applied", op.Name)
		}
	}
	r := get("https://shop.test/")
	r.Proto = "HTTP/2"
	if len(operator("http1").Apply(caseOf(r), o, r)) != 1 {
		t.Error("http1 does not apply to HTTP/2")
	}
}

func TestClasses(t *testing.T) {
	o := Options{UnsafeGET: []string{"/mail/*"}}
	for _, c := range []struct {
		method, url, operator string
		want                  pinpoint.Class
	}{
		{"GET", "http://h/a", "repeat", s1},
		{"POST", "http://h/a", "repeat", s3},
		{"GET", "http://h/logout", "repeat", s3},
		{"GET", "http://h/Log-Out", "repeat", s3},
		{"GET", "http://h/blog/a", "repeat", s1},
		{"GET", "http://h/items/5/delete", "repeat", s3},
		{"GET", "http://h/items/5/%64elete", "repeat", s3},
		{"GET", "http://h/?action=x", "ua-browser", s3},
		{"GET", "http://h/graphql?query=mutation", "repeat", s3},
		{"GET", "http://h/mail/send1", "repeat", s3},
		{"OPTIONS", "http://h/delete", "repeat", s1},
		{"POST", "http://h/items/5/delete", "method-get", s3},
		{"POST", "http://h/items", "method-get", s1},
		{"POST", "http://h/items", "method-options", s1},
		{"POST", "http://h/items", "auth-drop", s2},
		{"POST", "http://h/items", "auth-corrupt", s2},
		{"POST", "http://h/items", "auth-swap", s3},
		{"POST", "http://h/items", "ua-browser", s3},
		{"POST", "http://h/items", "path-nonexistent", s2},
		{"DELETE", "http://h/items/5", "path-nonexistent", s2},
		{"PUT", "http://h/items/5", "path-nonexistent", s3}, // it would create
		{"POST", "http://h/v1/chat/completions", "auth-drop", s3},
		{"POST", "http://h/items", "cookie-drop", s2}, // the session is among them
		{"GET", "http://h/logout", "path-nonexistent", s1},
	} {
		r := get(c.url, "Authorization", "Bearer abc", "Cookie", "sid=1; theme=2")
		r.Method = c.method
		k := caseOf(r)
		k.Swap = pinpoint.Header{{Name: "Authorization", Value: "Bearer b"}}
		op := operator(c.operator)
		v := op.Apply(k, o, r)
		if len(v) == 0 {
			t.Errorf("%+v: does not apply", c)
		} else if got := op.class(&o, r, v[0]); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
	// One cookie of no importance is no protection.
	r := get("http://h/items", "Cookie", "theme=dark-and-long; sid=1")
	r.Method = "POST"
	v := operator("cookie-one").Apply(caseOf(r), o, r)
	if len(v) != 2 || operator("cookie-one").class(&o, r, v[0]) != s3 || operator("cookie-one").class(&o, r, v[1]) != s2 {
		t.Errorf("%+v", v)
	}
	// Where anybody may post, removing credentials protects nothing.
	open := Options{AnonymousPosts: true}
	r = get("http://h/items", "Authorization", "Bearer abc")
	r.Method = "POST"
	if got := operator("auth-drop").class(&open, r, operator("auth-drop").Apply(caseOf(r), open, r)[0]); got != s3 {
		t.Error(got)
	}
}

func TestPlainPath(t *testing.T) {
	for from, want := range map[string]string{
		"/a%2Fb":          "/a/b",
		"/a%252Fb":        "/a/b",
		"//a///b/":        "/a/b/",
		"/a/./b/../c":     "/a/c",
		"/../../etc":      "/etc",
		"/%2e%2e/%2e/etc": "/etc",
		"/a;x=1/b;y":      "/a/b",
		"/%41%20%C3%A4":   "/A%20%C3%A4",
		"/100%":           "/100%25",
		"/":               "/",
		"/a%3Fb":          "/a%3Fb",
	} {
		if got := plainPath(from); got != want {
			t.Errorf("%s → %s, want %s", from, got, want)
		}
	}
}

func TestTwins(t *testing.T) {
	for _, c := range []struct{ ctype, body, want string }{
		{"application/json", `{"k 1":"it's \"x\" 12","n":-12.5e3,"b":true,"z":null,"l":["a","ü"]}`, `{"k 1":"aaaaaaaaaaa11","n":-11.1e1,"b":true,"z":null,"l":["a","aa"]}`},
		{"", ` [{"a":"<script>"}`, ` [{"a":"aaaaaaaa"}`},
		{"application/json", `{"a":"unended`, `{"a":"aaaaaaa`},
		{"application/json", `{"a":"\`, `{"a":"a`},
		{"application/x-www-form-urlencoded", "a=1%27+OR&b=&c", "a=1aaaa&b=&c"},
		{"application/xml", `<?xml version="1.0"?><a b="x'1"><!-- c -->t 1</a>`, `<?xml version="1.0"?><a b="aa1"><!-- c -->a 1</a>`},
		{"text/plain", "x' OR 1\nnext", "aaaaaa1\naaaa"},
		{"multipart/form-data; boundary=B", "--B\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\n<x> 1\r\n--B--\r\n", "--B\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\naaaa1\r\n--B--\r\n"},
		{"application/json", `{"p":"‹secret:3f9c1b2a len=5›"}`, `{"p":"aaaaa"}`},
	} {
		if d := cmp.Diff(c.want, string(twin(c.ctype, []byte(c.body)))); d != "" {
			t.Errorf("%s: %s", c.ctype, d)
		}
	}
}

func TestResized(t *testing.T) {
	body := []byte(`{"comment":"` + strings.Repeat("word ", 1000) + `","n":1}`)
	if n := len(resized("application/json", body, 2*len(body))); n != 2*len(body) {
		t.Errorf("grown to %d of %d", n, len(body))
	}
	small := resized("application/json", body, len(body)/8)
	if !json.Valid(small) || len(small) > len(body)/8 {
		t.Errorf("%d bytes: %s", len(small), small)
	}
}

func TestAuthCorruptStaysSealed(t *testing.T) {
	r := get("http://shop.test/")
	c := caseOf(r)
	r.Header = pinpoint.Header{{Name: "Authorization", Value: "Bearer " + c.Vault.Hide("abcdefgh")}}
	v := operator("auth-corrupt").Apply(c, Options{}, r)
	if len(v) != 1 {
		t.Fatal(v)
	}
	got := v[0].Header.Value("Authorization")
	if strings.Contains(got, "abcdef") || c.Vault.Reveal(got) != "Bearer abcdefhh" {
		t.Errorf("%q is %q", got, c.Vault.Reveal(got))
	}
	r.Header[0].Value = "Basic Ym9iOnJpZ2h0" // bob:right
	if got := operator("auth-corrupt").Apply(c, Options{}, r)[0].Header.Value("Authorization"); got != "Basic Ym9iOnJpZ2l0" {
		t.Error(got)
	}
}

func FuzzOperators(f *testing.F) {
	f.Add("GET", "http://h/a%2Fb//c;x/../?a=1&b=2", "a=1; b=2", "application/json", `{"a":"b"}`)
	f.Add("POST", "https://u:p@h:1/‹secret:3f9c1b2a len=8›?k=‹secret:aa len=3›", "x", "multipart/form-data; boundary=-", "--\n\n-")
	f.Add("PUT", "http://[::1]:80", ";;=", "text/xml", "<a b='>'")
	f.Fuzz(func(t *testing.T, method, u, cookie, ctype, body string) {
		r := get(u, "Cookie", cookie, "Content-Type", ctype, "Authorization", cookie, "X-Forwarded-For", cookie)
		r.Method, r.Body = method, []byte(body)
		c := caseOf(r)
		c.Exchanges = append(c.Exchanges, pinpoint.Exchange{Request: get(u + "x"), Answer: &pinpoint.Answer{Status: 200}})
		was := *r.Clone()
		o := Options{Origin: "h:1", From: "1.1.1.1"}
		for _, op := range Operators {
			for _, n := range op.Apply(c, o, r) {
				if class := op.class(&o, r, n); !safe(&o, n) && class == pinpoint.S1 {
					t.Errorf("%s: %s %s is S1", op.Name, n.Method, n.URL)
				}
				if len(n.URL) > 3*len(u)+200 || len(n.Body) > 3*len(body)+(64<<10) {
					t.Errorf("%s grows without bound", op.Name)
				}
				if a, err := splitURL(u); err == nil {
					if b, err := splitURL(n.URL); err != nil || a.host != b.host {
						t.Errorf("%s leads elsewhere: %q, %q, %v", op.Name, u, n.URL, err)
					}
				}
			}
		}
		if d := cmp.Diff(&was, r); d != "" {
			t.Errorf("the request was changed: %s", d)
		}
	})
}

func TestOperatorNames(t *testing.T) {
	// Those of the specification that send something.
	want := strings.Fields(`repeat wait method-get method-head method-options auth-drop auth-corrupt auth-swap cookie-drop cookie-one
		ua-browser ua-plain ua-drop referer-same referer-drop origin-same origin-drop accept-any lang-any ctype-json ctype-form ctype-drop
		host-noport host-canonical host-other sni-match sni-drop ip4 ip6 from-elsewhere xff-drop xff-one scheme-swap http1 http2
		slash-add slash-strip path-decode path-case path-prefix path-nonexistent path-sibling query-drop query-one
		body-benign body-empty body-grow body-shrink cache-bust direct-origin`)
	have := map[string]bool{}
	for _, op := range Operators {
		have[op.Name] = true
		if op.Says == "" {
			t.Errorf("%s says nothing", op.Name)
		}
	}
	slices.Sort(want)
	if d := cmp.Diff(want, slices.Sorted(maps.Keys(have))); d != "" {
		t.Error(d)
	}
}
