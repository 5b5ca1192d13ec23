package policy

import (
	"net/url"
	"strings"
	"testing"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

func TestCORSOrigins(t *testing.T) {
	s := newShelf(t)
	c := s.check("cors", `{origins: ["https://shop.test", "https://*.shop.test", "http://localhost:*", "https://[2001:db8::1]:8443"], originRegexps: ['https://pr-\d+\.preview\.test', 'https://a\.test|https://b\.test']}`)
	for origin, passes := range map[string]bool{
		"https://shop.test": true, "HTTPS://SHOP.TEST": true, "http://shop.test": false, "https://shop.test:8443": false, "https://shop.test.evil.test": false,
		"https://a.shop.test": true, "https://a.b.shop.test": true, "https://.shop.test": false, "https://evilshop.test": false, "https://evil.test/.shop.test": false,
		"https://evil.test:1@x.shop.test": false, "https://evil.test:1.shop.test": false, "https://evil.test#.shop.test": false,
		"http://localhost:3000": true, "http://localhost": false, "http://localhost:": false, "http://localhost:80a": false, "http://localhost:123456": false, "http://localhost.evil.test": false,
		"https://pr-12.preview.test": true, "https://pr-12.preview.test.evil.test": false, "https://evil.test/https://pr-12.preview.test": false, "https://pr-x.preview.test": false,
		"https://a.test": true, "https://b.test": true, "https://a.test.evil.test": false, "https://evilb.test": false, "evil https://b.test": false,
		"https://[2001:db8::1]:8443": true, "null": false, "": false, "https://api.test": true, "https://api.test:443": false,
	} {
		v := c.Check(s.call("GET /", "Host: api.test:443", "Origin: "+origin))
		if v.Refused() == passes {
			t.Errorf("%q: refused %v", origin, v.Refused())
		}
		// Only who is allowed may read.
		h := &wire.Head{}
		c.(ResponseEditor).EditResponse(s.call("GET /", "Host: api.test", "Origin: "+origin), h)
		if got, _ := h.Fields.Lookup("Access-Control-Allow-Origin"); got != "" && (got != origin || !passes) {
			t.Errorf("%q is answered %q", origin, got)
		}
		if !h.Fields.HasToken(wire.Vary, "Origin") {
			t.Errorf("%q: no Vary: Origin", origin)
		}
	}
	v := c.Check(s.call("GET /", "Origin: https://evil.test", "Host: api.test"))
	wants(t, v, "cors.origin", `among https://shop.test, https://*.shop.test, http://localhost:*`, `the expression https://pr-\d+\.preview\.test`)
	if f, _ := c.Check(s.call("GET /", "Host: api.test", "Origin: https://"+strings.Repeat("x", 5000))).Facts.Find("origin", reason.ToAnyone); len(f.Text()) > longestOrigin+3 {
		t.Errorf("a fact of %d bytes", len(f.Text()))
	}
	below := s.check("cors", `{origins: ["https://*.shop.test"]}`)
	wants(t, below.Check(s.call("GET /", "Host: api.test", "Origin: https://shop.test")), "cors.origin", "means the names below it")

	null := s.check("cors", `{origins: ["https://shop.test"], nullOrigin: true}`)
	wants(t, null.Check(s.call("GET /", "Origin: null")), "")
	wants(t, null.Check(s.call("GET /", "Host: api.test", "Origin: https://evil.test")), "cors.origin", "https://shop.test or null")
	all := s.check("cors", `{origins: ["*"]}`)
	wants(t, all.Check(s.call("GET /", "Origin: null")), "")
}

func TestCORSAnswers(t *testing.T) {
	s := newShelf(t)
	preflight := func(c Check, lines ...string) (*Exchange, reason.Verdict, *wire.Head) {
		x := s.call(append([]string{"OPTIONS /", "Host: api.test", "Origin: https://shop.test", "Access-Control-Request-Method: GET"}, lines...)...)
		x.Preflight = true
		v := c.Check(x)
		h := &wire.Head{}
		if x.Answer != nil {
			h.Fields = append(h.Fields, x.Answer.Fields...)
			c.(ResponseEditor).EditResponse(x, h)
		}
		return x, v, h
	}
	field := func(h *wire.Head, name string) string { v, _ := h.Fields.Lookup(name); return v }

	closed := s.check("cors", `{origins: ["https://shop.test"]}`)
	_, v, h := preflight(closed)
	wants(t, v, "")
	if field(h, "Access-Control-Allow-Private-Network") != "" || h.Fields.Count("Access-Control-Allow-Origin") != 1 {
		t.Errorf("answer %v", h.Fields)
	}
	for _, token := range []string{"Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers", "Access-Control-Request-Private-Network"} {
		if !h.Fields.HasToken(wire.Vary, token) {
			t.Errorf("no Vary: %s", token)
		}
	}
	_, v, _ = preflight(closed, "Access-Control-Request-Private-Network: true")
	wants(t, v, "cors.private-network", "https://shop.test", "privateNetwork: true")
	open := s.check("cors", `{origins: ["https://shop.test"], privateNetwork: true, expose: [X-Total-Count], credentials: true}`)
	_, v, h = preflight(open, "Access-Control-Request-Private-Network: true")
	wants(t, v, "")
	if field(h, "Access-Control-Allow-Private-Network") != "true" || field(h, "Access-Control-Allow-Credentials") != "true" {
		t.Errorf("answer %v", h.Fields)
	}
	if _, _, h = preflight(open); field(h, "Access-Control-Allow-Private-Network") != "" {
		t.Errorf("nobody asked: %v", h.Fields)
	}

	x := s.call("GET /", "Host: api.test", "Origin: https://shop.test")
	h = &wire.Head{}
	h.Fields.Add("Vary", "Accept-Encoding, origin")
	open.(ResponseEditor).EditResponse(x, h)
	if h.Fields.Count("Vary") != 1 || !strings.HasSuffix(field(h, "Access-Control-Expose-Headers"), ", X-Total-Count") {
		t.Errorf("fields %v", h.Fields)
	}
	// An answer of the gateway itself that came with fields of its own has them replaced.
	x.Answer, h = &Answer{}, &wire.Head{}
	h.Fields.Add("Access-Control-Allow-Origin", "https://other.test")
	open.(ResponseEditor).EditResponse(x, h)
	if h.Fields.Count("Access-Control-Allow-Origin") != 1 || field(h, "Access-Control-Allow-Origin") != "https://shop.test" {
		t.Errorf("fields %v", h.Fields)
	}
	all := s.check("cors", `{origins: ["*"], expose: ["*", X-A]}`)
	h = &wire.Head{}
	all.(ResponseEditor).EditResponse(x, h)
	if field(h, "Access-Control-Allow-Origin") != "*" || field(h, "Access-Control-Expose-Headers") != "*" || h.Fields.Count("Vary") != 0 {
		t.Errorf("fields %v", h.Fields)
	}
}

func TestCORSConfiguration(t *testing.T) {
	s := newShelf(t)
	for _, c := range [][3]string{
		{`{}`, "test.yaml:1:1", "lets no page call"},
		{`{origins: ["*"], credentials: true}`, "test.yaml:1:12", "cannot go with credentials"},
		{`{origins: ["null"]}`, "test.yaml:1:12", "nullOrigin: true"},
		{`{origins: [shop.test]}`, "test.yaml:1:12", "scheme://host"},
		{`{origins: ["https://shop.test/"]}`, "test.yaml:1:12", "write https://shop.test"},
		{`{origins: ["https://shop.test/a"]}`, "test.yaml:1:12", "is no origin"},
		{`{origins: ["https://shop.test:443"]}`, "test.yaml:1:12", "write https://shop.test"},
		{`{origins: ["http://shop.test:80"]}`, "test.yaml:1:12", "write http://shop.test"},
		{`{origins: ["https://*"]}`, "test.yaml:1:12", "is no origin"},
		{`{origins: ["https://a.*.test"]}`, "test.yaml:1:12", "is no origin"},
		{`{origins: ["https://*.shop.test:*"]}`, "test.yaml:1:12", "two stars"},
		{`{originRegexps: ["a("]}`, "test.yaml:1:18", "no regular expression"},
		{`{originRegexps: ["a)|(b"]}`, "test.yaml:1:18", "no regular expression"},
		{`{originRegexps: ["` + strings.Repeat("a", 1001) + `"]}`, "test.yaml:1:18", "this one has 1001"},
		{`{originRegexps: [".*"], credentials: true}`, "test.yaml:1:18", "cannot go with credentials"},
		{`{nullOrigin: true, credentials: true}`, "test.yaml:1:14", "cannot go with credentials"},
		{`{origins: ["https://shop.test"], expose: ["*"], credentials: true}`, "test.yaml:1:43", "cannot go with credentials"},
		{`{origins: ["https://shop.test"], expose: ["X A"]}`, "test.yaml:1:43", "no header name"},
		{`{origins: ["https://shop.test"], headers: ["*"]}`, "test.yaml:1:44", "leave the field out"},
		{`{origins: ["https://shop.test"], headers: ["X:"]}`, "test.yaml:1:44", "no header name"},
		{`{origins: ["https://shop.test"], methods: ["*"]}`, "test.yaml:1:44", "name the methods"},
		{`{origins: ["https://shop.test"], methods: ["A B"]}`, "test.yaml:1:44", "no method"},
	} {
		s.errs("cors", c[0], c[1], c[2])
	}
	for config, code := range map[string]string{
		`{origins: ["https://*.test"]}`: "origin.wide-wildcard", `{origins: ["https://*.shop.test"]}`: "",
		`{originRegexps: ["https://.*"]}`: "origin.matches-anybody", `{originRegexps: ["https://shop.test"]}`: "origin.unescaped-point", `{originRegexps: ['https://(a|b)\.shop\.test']}`: "",
		`{originRegexps: ['https://.*\.shop\.test']}`: "",
	} {
		s.warns("cors", config, code)
	}
}

// FuzzOrigin: what a pattern for names below lets in has a host below.
func FuzzOrigin(f *testing.F) {
	for _, s := range []string{"https://a.shop.test", "https://evil.test:1@x.shop.test", "https://[::1].shop.test", "https://x.shop.test:8443", "null"} {
		f.Add(s)
	}
	set := originSet{pattern: []originPattern{{before: "https://", after: ".shop.test"}, {before: "http://localhost", port: true}}}
	f.Fuzz(func(t *testing.T, origin string) {
		if !set.has(origin) {
			return
		}
		u, err := url.Parse(strings.ToLower(origin))
		if err != nil { // what is no URL is nobody's origin, and still ends as it should
			if !strings.HasSuffix(strings.ToLower(origin), ".shop.test") {
				t.Fatalf("%q is let in", origin)
			}
			return
		}
		if u.Host != "localhost:"+u.Port() && !strings.HasSuffix(u.Host, ".shop.test") || u.Path != "" && u.Path != "/" {
			t.Fatalf("%q is let in, of host %q", origin, u.Host)
		}
	})
}
