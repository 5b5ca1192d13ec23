package pinpoint

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"
)

// FuzzRead reads cases made of arbitrary text: no clue may hold control characters or secrets.
func FuzzRead(f *testing.F) {
	for _, row := range append(readWith[:len(readWith):len(readWith)], readWithout...) {
		f.Add(strings.Join(row.with, "\x1e"), uint8(len(row.with)))
	}
	f.Add("GET http://[::1%25/ \nHost: \x00\n\n>>> 403\nVia: ,,,=\"\n\n{\"errors\":[[]]}", uint8(1))
	f.Fuzz(func(t *testing.T, text string, asked uint8) {
		c := &Case{Source: "har"}
		for part := range strings.SplitSeq(text, "\x1e") {
			c.Exchanges = append(c.Exchanges, fuzzedExchange(part))
		}
		c.Asked = int(asked) % (len(c.Exchanges) + 1)
		secrets := readSealed(c)
		var long []string
		for _, s := range secrets {
			if len(s) >= 12 && !strings.Contains(strings.ReplaceAll(text, s, ""), s[:6]) {
				long = append(long, s)
			}
		}
		readCheck(t, Read(c, readNow), long)
		for _, h := range Hops(c) {
			if h.Kind == "" || len(h.Says) > 200 {
				t.Errorf("hop %+v", h)
			}
		}
	})
}

// fuzzedExchange is readExchange for text that follows no rule.
func fuzzedExchange(text string) Exchange {
	fields := func(s string) (first string, h Header, body []byte) {
		head, rest, _ := strings.Cut(s, "\n\n")
		lines := strings.Split(head, "\n")
		for _, l := range lines[1:] {
			name, value, _ := strings.Cut(l, ": ")
			h = append(h, Field{name, value})
		}
		return lines[0], h, []byte(rest)
	}
	sent, got, answered := strings.Cut(text, ">>> ")
	first, h, body := fields(sent)
	method, u, _ := strings.Cut(first, " ")
	ex := Exchange{Request: &Request{Method: method, URL: u, Header: h, Body: body}, At: readNow}
	if answered {
		first, h, body := fields(got)
		status := 0
		for _, c := range first[:min(len(first), 3)] {
			if c >= '0' && c <= '9' {
				status = status*10 + int(c-'0')
			}
		}
		ex.Answer = &Answer{Status: status, Header: h, Body: body, At: readNow, FirstByte: time.Duration(len(body)) * time.Millisecond, Err: first[min(len(first), 3):]}
	}
	return ex
}

// FuzzChallenges reads values of WWW-Authenticate.
func FuzzChallenges(f *testing.F) {
	for _, s := range []string{`Bearer realm="a", error="invalid_token", Basic realm="b\"c"`, `Negotiate YWJj==, NTLM`, `Digest qop="auth,auth-int", nonce=1`, `,,=,"`, `Basic`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out := challengesOf(s)
		if len(out) > 16 {
			t.Fatalf("%d challenges", len(out))
		}
		for _, c := range out {
			if c.scheme == "" || len(c.params) > 32 {
				t.Errorf("%+v of %q", c, s)
			}
		}
	})
}

// FuzzFaults holds the checkers of bodies against their definition.
func FuzzFaults(f *testing.F) {
	for _, s := range []string{`{"a":1,}`, `{'a':1}`, `[1 2]`, "{\"a\":\"\n\"}", `{"a":1} x`, `<a>&amp;</a>`, `<a>&b;</a>`, `<a><b></a>`, "--x\r\n\r\n--x--", "a=%zz"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		if at, why := jsonFault(b); (why == "") != json.Valid(b) || at < 0 || at > len(b) {
			t.Errorf("jsonFault(%q) = %d, %q", b, at, why)
		}
		if line, why := xmlFault(b); why != "" && (line < 1 || line > 1+bytes.Count(b, []byte("\n"))) {
			t.Errorf("xmlFault(%q) = %d, %q", b, line, why)
		}
		multipartFault(b, "x")
		if at := badEscape(b); at >= len(b) && len(b) > 0 || at >= 0 && b[at] != '%' {
			t.Errorf("badEscape(%q) = %d", b, at)
		}
		if line, column := position(b, len(b)); line < 1 || column < 0 {
			t.Errorf("position %d:%d", line, column)
		}
	})
}

// FuzzCookie reads Set-Cookie and tokens of strangers.
func FuzzCookie(f *testing.F) {
	f.Add("sid=a; Domain=.x.test; Path=/a; Max-Age=10; SameSite=None; Secure")
	f.Add("__Host-a=b; Expires=Wed, 21-Oct-2015 07:28:00 GMT")
	f.Add(readToken(`{"exp":"x","nbf":1e308,"aud":[1,"a"],"scope":["a",{}]}`))
	from, _ := url.Parse("https://www.a.test/x/y")
	f.Fuzz(func(t *testing.T, s string) {
		if k, ok := setCookie(s, from, readNow); ok && (k.name == "" || !strings.HasPrefix(k.path, "/")) {
			t.Errorf("%+v of %q", k, s)
		}
		tok, reason := decodeJWT(s)
		if reason == "" && tok.header == nil {
			t.Errorf("a token without a header: %q", s)
		}
		tok.number("exp")
		tok.scopes()
		tokenOnPage([]byte(s))
		if len(s) < 4096 && !wildcard(strings.Repeat("*", len(s)%9+1), s) {
			t.Errorf("stars do not match %q", s)
		}
	})
}

// TestReadHostile reads what servers send that wish harm: a megabyte of fields, bodies of the full size,
// thousands of exchanges, and terminal escapes.
func TestReadHostile(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	long := strings.Repeat("a=b, \"\\;%41\x1b[31m", 64<<10)[:1<<20]
	var many Header
	names := []string{"WWW-Authenticate", "Set-Cookie", "Via", "Allow", "X-Cache", "RateLimit", "Access-Control-Allow-Origin", "Location", "X-Varnish", "Link", "X-Served-By", "Vary", "Retry-After", "Grpc-Message"}
	for range 40000 {
		many = append(many, Field{names[rnd.IntN(len(names))], "Bearer a=b; c\x1b[2J"})
	}
	bodies := [][]byte{
		bytes.Repeat([]byte("["), MaxBody), bytes.Repeat([]byte(`{"errors":[`), MaxBody/11), bytes.Repeat([]byte("<input name=_token value=x>"), MaxBody/27),
		bytes.Repeat([]byte("<input "), MaxBody/7), bytes.Repeat([]byte("host:a\n"), MaxBody/7), []byte(strings.Repeat("requires ", MaxBody/9)),
	}
	for n, status := range []int{200, 302, 400, 401, 403, 405, 413, 415, 419, 422, 429, 431, 503} {
		for i, body := range bodies {
			if (i+n)%3 != 0 {
				continue
			}
			ans := &Answer{Status: status, Header: append(Header{{"Content-Type", "application/json"}, {"Location", long}, {"Allow", long}, {"WWW-Authenticate", long}, {"Server", "\x1b]0;x\x07nginx"}}, many...), Body: body, At: readNow,
				Remote: netip.MustParseAddrPort("127.0.0.1:80")}
			req := &Request{Method: []string{"GET", "POST"}[i%2], URL: "https://a.test/graphql?" + long, Header: Header{{"Cookie", long}, {"Authorization", "Bearer " + long}, {"Origin", "https://b.test/" + long}, {"Content-Type", "multipart/form-data; boundary=x"}}, Body: body}
			c := &Case{Source: "har"}
			for range 60 {
				c.Exchanges = append(c.Exchanges, Exchange{Request: req, Answer: ans, At: readNow})
			}
			c.Asked = 50
			done := make(chan []Clue, 1)
			go func() { done <- Read(c, readNow) }()
			select {
			case clues := <-done:
				readCheck(t, clues, nil)
			case <-time.After(30 * time.Second):
				t.Fatalf("status %d, body %d: reading does not end", status, i)
			}
			Hops(c)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	c := readCase(b,
		"GET https://shop.test/cart\nCookie: sid=abcdefgh1234\n\n>>> 200\nContent-Type: text/html\nSet-Cookie: sid=abcdefgh1234; Path=/\n\n"+strings.Repeat("<p>some text of a page</p>\n", 2000)+"<input type=hidden name=csrf_token value=abcdefgh>",
		"POST https://shop.test/cart\nCookie: sid=abcdefgh1234\nAuthorization: Bearer @jwt{\"exp\":1772300000,\"scope\":\"a b\"}@\nContent-Type: application/json\n\n{\"a\":[1,2,3],\"text\":\""+strings.Repeat("word ", 2000)+"\"}\n>>> 403\nDate: @now@\nServer: nginx\nContent-Type: application/json\n\n{\"message\":\"Forbidden\"}")
	for range 18 {
		c.Exchanges = append([]Exchange{c.Exchanges[0]}, c.Exchanges...)
		c.Asked++
	}
	readSealed(c)
	for b.Loop() {
		if len(Read(c, readNow)) == 0 {
			b.Fatal("no clue")
		}
	}
}
