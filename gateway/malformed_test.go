package gateway_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/whytest"
	"github.com/whygate/whygate/wire"
)

// How a request that was refused for its form shows itself: in the answer and in the record, on both
// engines alike.
var malformedCalls = []struct {
	name, send string
	status     int
	reason     string
	rule       wire.Rule
}{
	{"no HTTP", "hello there\r\n\r\n", 400, "request.malformed", wire.BadRequestLine},
	{"method", "GE:T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request.malformed", wire.BadMethod},
	{"target", "GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request.malformed", wire.BadTarget},
	{"control byte in the target", "GET /a\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request.malformed", wire.BadTargetByte},
	{"escape", "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request.malformed", wire.BadEscape},
	{"NUL in the path", "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request.malformed", wire.NulInPath},
	{"above the root", "GET /../a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request.malformed", wire.EscapesRoot},
	{"hidden dots", "GET /a/..;/b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request.malformed", wire.HiddenDots},
	{"target and Host disagree", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request.malformed", wire.AbsoluteConflict},
	{"host", "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400, "request.malformed", wire.BadHost},
	{"no host", "GET / HTTP/1.1\r\n\r\n", 400, "request.malformed", wire.MissingHost},
	{"two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "request.malformed", wire.RepeatedHost},
	{"LF", "GET / HTTP/1.1\nHost: a\n\n", 400, "request.malformed", wire.BareLF},
	{"folded", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", 400, "request.malformed", wire.ObsFold},
	{"CR", "GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n", 400, "request.malformed", wire.BareCR},
	{"space before colon", "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400, "request.malformed", wire.SpaceBeforeColon},
	{"field name", "GET / HTTP/1.1\r\nHost: a\r\nX(: y\r\n\r\n", 400, "request.malformed", wire.BadFieldName},
	{"underscore", "GET / HTTP/1.1\r\nHost: a\r\nX_Y: z\r\n\r\n", 400, "request.malformed", wire.UnderscoreInName},
	{"no colon", "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400, "request.malformed", wire.MissingColon},
	{"NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", 400, "request.malformed", wire.BadFieldValue},
	{"length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", 400, "request.malformed", wire.BadLength},
	{"two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400, "request.malformed", wire.RepeatedLength},
	{"length and coding", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "request.malformed", wire.LengthAndCoding},
	{"coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "request.unsupported", wire.UnknownCoding},
	{"trailer announced", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\n\r\n", 400, "request.malformed", wire.ForbiddenTrailer},
	{"too many fields", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 100) + "\r\n", 431, "request.headers-too-large", wire.TooManyHeaders},
	{"head too large", "GET / HTTP/1.1\r\nHost: a\r\nCookie: " + strings.Repeat("y", 50_000) + "\r\n\r\n", 431, "request.headers-too-large", wire.HeadersTooLarge},
	{"head far too large", "GET / HTTP/1.1\r\nHost: a\r\nCookie: " + strings.Repeat("y", 400_000) + "\r\n\r\n", 431, "request.headers-too-large", wire.HeadersTooLarge},
	{"target too long", "GET /" + strings.Repeat("y", 9000) + " HTTP/1.1\r\nHost: a\r\n\r\n", 414, "request.uri-too-long", wire.TargetTooLong},
	{"expectation", "GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417, "request.expectation", wire.UnknownExpectation},
	{"version", "GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, "request.version", wire.UnsupportedVersion},
	{"upgrade with a body", "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 1\r\n\r\ny", 400, "request.malformed", wire.UpgradeWithBody},
	{"connect", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 501, "request.unsupported", wire.ConnectMethod},
	{"stalled head", "GET / HTTP/1.1\r\nHost: a\r\n", 408, "request.timeout", wire.HeaderTimeout},
	{"stalled body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe", 408, "request.timeout", wire.BodyTimeout},
	{"bad chunk", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n", 400, "request.malformed", wire.BadChunkSize},
	{"bad chunk end", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz0\r\n\r\n", 400, "request.malformed", wire.BadChunkEnd},
}

func TestMalformed(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		var reached atomic.Int32
		up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(r.Body); err == nil {
				reached.Add(1)
			}
		})
		n := whytest.Start(t, engine, whytest.GatewayDocument(engine, "  timeouts: {header: 500ms, body: 500ms}\n  disclosure: {anonymous: operator}\n")+"---\n"+whytest.API(up.URL, "/", ""))
		for _, c := range malformedCalls {
			t.Run(c.name, func(t *testing.T) {
				reached.Store(0)
				raw := n.Raw(c.send, 5*time.Second)
				res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(raw)), nil)
				if err != nil {
					t.Fatalf("%q: %v", raw, err)
				}
				body, _ := io.ReadAll(res.Body)
				if res.StatusCode != c.status || res.Header.Get("Whygate-Reason") != c.reason || res.Header.Get("Whygate-Refused-By") != "gateway" || !res.Close {
					t.Errorf("%d %v", res.StatusCode, res.Header)
				}
				var problem struct {
					Status               int
					Reason, Detail, Call string
					Fix                  []any
				}
				if err := json.Unmarshal(body, &problem); err != nil || res.Header.Get("Content-Type") != "application/problem+json" {
					t.Fatalf("%s %q: %v", res.Header.Get("Content-Type"), body, err)
				}
				if problem.Status != c.status || problem.Reason != c.reason || problem.Detail == "" || problem.Call != res.Header.Get("Whygate-Call") || len(problem.Fix) == 0 {
					t.Errorf("%s", body)
				}
				if reached.Load() != 0 {
					t.Error("the upstream was called")
				}
				rec := n.Record(whytest.Answer{Response: res})
				if rec.Outcome != calllog.Refused || rec.Reason != c.reason || int(rec.Status) != c.status {
					t.Errorf("record %+v", rec)
				}
				d, err := gateway.DecodeDetail(rec.Detail)
				if err != nil || d.Verdict == nil {
					t.Fatalf("the record has no verdict: %s, %v", rec.Detail, err)
				}
				for _, fact := range []string{"rule", "found", "wanted"} {
					f, ok := d.Verdict.Facts.Find(fact, reason.ToAnyone)
					if v, _ := f.Value.(string); !ok || v == "" || fact == "rule" && v != string(c.rule) {
						t.Errorf("the fact %s is %v, want rule %s", fact, f.Value, c.rule)
					}
				}
			})
		}
	})
}

// TestNoHost: a request of HTTP/1.0 may have no Host, and is told so where one is needed.
func TestNoHost(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		n := whytest.Start(t, engine, whytest.GatewayDocument(engine, "  disclosure: {anonymous: operator}\n")+`---
apiVersion: whygate/v1
kind: Upstream
metadata: {name: up}
spec: {targets: [{url: "http://127.0.0.1:1"}]}
---
apiVersion: whygate/v1
kind: API
metadata: {name: shop}
spec: {upstream: up, hosts: [shop.test]}
`)
		raw := n.Raw("GET /a HTTP/1.0\r\n\r\n", 5*time.Second)
		for _, want := range []string{"Whygate-Reason: route.host", `"detail": "no route for GET /a; shop.test serves it"`, `"seen": "Host: none, which HTTP/1.0 allows"`} {
			if !strings.Contains(raw, want) {
				t.Errorf("%s does not say %s", raw, want)
			}
		}
	})
}

// TestMalformedForms: the refusal of a request without a form has the form that its sender can read.
func TestMalformedForms(t *testing.T) {
	n := whytest.Start(t, "wire", whytest.API("http://127.0.0.1:1", "/", ""))
	html := n.Raw("GET /%zz HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n", 5*time.Second)
	if !strings.Contains(html, "Content-Type: text/html") || !strings.Contains(html, "request.malformed") {
		t.Errorf("%.300q", html)
	}
	// Text of the request is escaped in the page.
	html = n.Raw("GET /%<b> HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n", 5*time.Second)
	if strings.Contains(html, "<b>") {
		t.Errorf("%q", html)
	}
	// HEAD has no content, also when it is refused before it was understood.
	head := n.Raw("HEAD /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 5*time.Second)
	if !strings.HasPrefix(head, "HTTP/1.1 400") || !strings.HasSuffix(head, "\r\n\r\n") {
		t.Errorf("%q", head)
	}
}

func TestPlainHTTPOnTLS(t *testing.T) {
	cert, key, _ := whytest.NewAuthority(t).Issue(t, "a")
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		n := whytest.Start(t, engine, "apiVersion: whygate/v1\nkind: Gateway\nmetadata: {name: gateway}\nspec:\n  listeners: [{address: \"127.0.0.1:0\", http1: {engine}, tls: {certificates: [{cert: "+cert+", key: "+key+"}]}}]\n---\n"+whytest.API("http://127.0.0.1:1", "/", ""))
		raw := n.Raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 5*time.Second)
		if !strings.HasPrefix(raw, "HTTP/1.1 400") || !strings.Contains(raw, "Whygate-Reason: request.plain-http-on-tls") {
			t.Errorf("%q", raw)
		}
		nc, err := tls.Dial("tcp", n.Addr(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		nc.Close()
	})
}

// TestConnectionLimit: who is turned away is told so, and finds it in the records.
func TestConnectionLimit(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		n := whytest.Start(t, engine, whytest.GatewayDocument(engine, "  limits: {connectionsPerAddress: 1}\n")+"---\n"+whytest.API("http://127.0.0.1:1", "/", ""))
		first, err := net.Dial("tcp", n.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer first.Close()
		whytest.Eventually(t, "the first connection is counted", func() bool { return n.Server().Conns() == 1 })
		raw := n.Raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 5*time.Second)
		if !strings.HasPrefix(raw, "HTTP/1.1 503") || !strings.Contains(raw, "Whygate-Reason: request.too-many-connections") {
			t.Errorf("%q", raw)
		}
		n.Last(func(r *calllog.Record) bool {
			return r.Reason == "request.too-many-connections" && bytes.Contains(r.Detail, []byte(wire.TooManyFromAddr))
		})
	})
}
