package pinpoint

import (
	"strings"
	"testing"
)

func answerOf(status int, body string, fields ...string) *Answer {
	a := &Answer{Status: status, Body: []byte(body)}
	for i := 0; i+1 < len(fields); i += 2 {
		a.Header = append(a.Header, Field{fields[i], fields[i+1]})
	}
	return a
}

func TestSignatureSame(t *testing.T) {
	for _, c := range []struct {
		name string
		a, b *Answer
	}{
		{"ray id", answerOf(403, "<h1>Error</h1> Ray ID: <b>8a1b2c3d4e5f6789</b>"), answerOf(403, "<h1>Error</h1> Ray ID: <b>7fedcba987654321</b>")},
		{"ray with colo", answerOf(403, "ray 8a1b2c3d4e5f6789-FRA"), answerOf(403, "ray 7a1b2c3d4e5f6789-AMS")},
		{"uuid", answerOf(403, `{"id":"3f9c1b2a-1111-4222-8333-123456789abc"}`), answerOf(403, `{"id":"00000000-aaaa-4bbb-8ccc-123456789abc"}`)},
		{"letters only request id", answerOf(403, `<RequestId>ABCDEFGHIJKL</RequestId>`), answerOf(403, `<RequestId>QWERTYUIOPAS</RequestId>`)},
		{"time", answerOf(403, "at Sun, 22 Nov 2026 14:29:26 GMT."), answerOf(403, "at Mon, 1 Feb 2027 04:09:06 GMT.")},
		{"iso time", answerOf(403, `{"timestamp":"2026-11-22T14:29:26.123Z","error":"Forbidden"}`), answerOf(403, `{"timestamp":"2027-01-02T04:09:06Z","error":"Forbidden"}`)},
		{"month first", answerOf(403, "Generated November 22, 2026 2:29 PM"), answerOf(403, "Generated May 3, 2027 11:05 AM")},
		{"address 4", answerOf(403, "Your IP is 192.0.2.1"), answerOf(403, "Your IP is 203.0.113.77")},
		{"address 6", answerOf(403, "Your IP is 2001:db8::1"), answerOf(403, "Your IP is 2001:db8:0:4::beef")},
		{"counter", answerOf(403, "retry in 5 seconds"), answerOf(403, "retry in 37 seconds")},
		{"nonce", answerOf(403, `<p nonce="abcdefgh">x</p>`), answerOf(403, `<p nonce="zyxwvuts">x</p>`)},
		{"script", answerOf(403, `<script>a=1</script>no`), answerOf(403, `<script>b="q"</script>no`)},
		{"sealed", answerOf(403, "you said ‹secret:3f9c1b2a len=812›"), answerOf(403, "you said ‹secret:aaaaaaaa len=9›")},
		{"white space", answerOf(403, "a  b\n"), answerOf(403, "a b")},
		{"charset and field case", answerOf(403, "x", "Content-Type", "text/html; charset=utf-8", "WWW-Authenticate", "a"), answerOf(403, "x", "content-type", "text/html", "www-authenticate", "b")},
		{"cache state", answerOf(403, "x", "Age", "3", "X-Cache", "HIT"), answerOf(403, "x", "X-Cache", "MISS")},
		{"version", answerOf(403, "x", "Server", "nginx/1.22.1"), answerOf(403, "x", "Server", "nginx/1.24.0")},
		{"hash", answerOf(403, "etag d41d8cd98f00b204e9800998ecf8427e"), answerOf(403, "etag 0cc175b9c0f1b6a831c399e269772661")},
	} {
		if a, b := Signature(c.a), Signature(c.b); a != b {
			t.Errorf("%s: %q and %q differ: %q, %q", c.name, a, b, template(string(c.a.Body)), template(string(c.b.Body)))
		}
	}
}

func TestSignatureDiffers(t *testing.T) {
	for _, c := range []struct {
		name string
		a, b *Answer
	}{
		{"status", answerOf(403, "x"), answerOf(401, "x")},
		{"text", answerOf(403, "Request blocked"), answerOf(403, "Access denied")},
		{"server", answerOf(403, "x", "Server", "nginx"), answerOf(403, "x", "Server", "Apache")},
		{"type", answerOf(403, "x", "Content-Type", "text/html"), answerOf(403, "x", "Content-Type", "application/json")},
		{"challenge field", answerOf(403, "x"), answerOf(403, "x", "WWW-Authenticate", "Bearer")},
		{"upstream field", answerOf(403, "x", "X-Kong-Response-Latency", "1"), answerOf(403, "x", "X-Kong-Upstream-Latency", "1")},
		{"error code", answerOf(403, "Error 1020"), answerOf(403, "Error 1006")},
		{"JSON code", answerOf(403, `{"code":10013}`), answerOf(403, `{"code":10009}`)},
		{"substatus", answerOf(403, "HTTP Error 403.14 - Forbidden"), answerOf(403, "HTTP Error 403.4 - Forbidden")},
		{"location", answerOf(302, "", "Location", "/login?back=1"), answerOf(302, "", "Location", "/blocked")},
		{"no answer", &Answer{Err: "connection refused"}, &Answer{Err: "timeout"}},
		{"words of dates", answerOf(403, "you may not"), answerOf(403, "you can not")},
	} {
		if a, b := Signature(c.a), Signature(c.b); a == b {
			t.Errorf("%s: both are %q", c.name, a)
		}
	}
}

func TestSignatureForMasksTheRequest(t *testing.T) {
	r := func(u string) *Request { return &Request{Method: "GET", URL: u} }
	page := func(p string) *Answer {
		return answerOf(403, "You don't have permission to access "+p+" on this server.")
	}
	a := SignatureFor(r("http://shop.test/secret/a.html?x=1"), page("/secret/a.html"))
	b := SignatureFor(r("http://shop.test/secret/whygate-probe-q"), page("/secret/whygate-probe-q"))
	if a != b {
		t.Errorf("%q, %q", a, b)
	}
	if Signature(page("/secret/a.html")) == Signature(page("/other/b.html")) {
		t.Error("Signature alone knows no request")
	}
}

func FuzzSignature(f *testing.F) {
	f.Add(403, "Ray ID: 8a1b2c3d4e5f6789", "nginx/1.2")
	f.Add(302, "::1 2001:db8::1 <script>", "\x1b[2J")
	f.Add(0, "timeout 5", "")
	f.Fuzz(func(t *testing.T, status int, body, server string) {
		a := answerOf(status, body, "Server", server, "Location", body)
		a.Err = body
		s := Signature(a)
		if len(s) > 1000 {
			t.Errorf("%d bytes", len(s))
		}
		if strings.ContainsAny(s, "\x1b\n\r\x00") {
			t.Errorf("control characters in %q", s)
		}
		if s != Signature(a) {
			t.Error("not the same twice")
		}
	})
}
