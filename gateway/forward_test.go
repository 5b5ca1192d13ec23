package gateway_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/upstream"
	"github.com/whygate/whygate/whytest"
)

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// always answers every request with the same bytes.
func always(answer string) func(*whytest.Received) string {
	return func(*whytest.Received) string { return answer }
}

func TestMethodsAndBodies(t *testing.T) {
	t.Parallel()
	long := bytes.Repeat([]byte("0123456789abcdef"), 5<<20/16)
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {
			h := sha256.New()
			n, err := io.Copy(h, r.Body)
			if err != nil {
				t.Errorf("reading the body: %v", err)
			}
			w.Header().Set("X-Seen", fmt.Sprintf("%s %d %x %d %v", r.Method, n, h.Sum(nil)[:4], r.ContentLength, r.TransferEncoding))
			w.Write(long)
		})
		n := whytest.Start(t, engine, whytest.API(up.URL, "/", ""))
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"} {
			for _, size := range []int{0, 1, 3000, len(long)} {
				for _, chunked := range []bool{false, true} {
					if size == 0 && chunked || size == len(long) && method != "POST" {
						continue
					}
					var body io.Reader
					if size > 0 {
						body = bytes.NewReader(long[:size])
					}
					req, _ := http.NewRequest(method, n.URL("/x"), body)
					framing := fmt.Sprintf("%d []", size)
					if chunked {
						req.ContentLength = -1
						framing = "-1 [chunked]"
					}
					a := n.Do(req)
					sum := sha256.Sum256(long[:size])
					want := fmt.Sprintf("%s %d %x %s", method, size, sum[:4], framing)
					if got := a.Header.Get("X-Seen"); got != want {
						t.Errorf("%s of %d bytes: the upstream saw %q, want %q", method, size, got, want)
					}
					if a.StatusCode != 200 || a.Body != string(long) {
						t.Errorf("%s of %d bytes: status %d, %d bytes", method, size, a.StatusCode, len(a.Body))
					}
					rec := n.Record(a)
					if rec.BytesIn != int64(size) || rec.BytesOut != int64(len(long)) || rec.Outcome != calllog.Allowed || rec.Method != method || rec.Tries != 1 || rec.Target != up.Listener.Addr().String() || rec.Upstream != "up" {
						t.Errorf("%s of %d bytes: record %+v", method, size, rec)
					}
				}
			}
		}
	})
}

// Both sides in chunks, with trailers both ways.
func TestChunksAndTrailers(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n"))
		n := whytest.Start(t, engine, whytest.API(up.URL(), "/", ""))
		pr, pw := io.Pipe()
		req, _ := http.NewRequest("POST", n.URL("/"), pr)
		req.Trailer = http.Header{"X-Digest": nil}
		req.Header.Set("TE", "trailers")
		go func() {
			io.WriteString(pw, "one")
			time.Sleep(50 * time.Millisecond)
			io.WriteString(pw, "two")
			req.Trailer.Set("X-Digest", "six")
			pw.Close()
		}()
		a := n.Do(req)
		if a.Body != "abcde" || a.Trailer.Get("X-Sum") != "5" {
			t.Errorf("answer %q, trailer %v", a.Body, a.Trailer)
		}
		seen := up.Last(t)
		if seen.Body != "onetwo" || seen.Trailer.Get("X-Digest") != "six" || seen.Get("TE") != "trailers" || seen.Get("Connection") != "TE" || seen.Get("Transfer-Encoding") != "chunked" {
			t.Errorf("the upstream saw %+v", seen)
		}
		if rec := n.Record(a); rec.BytesIn != 6 || rec.BytesOut != 5 {
			t.Errorf("record: %d in, %d out", rec.BytesIn, rec.BytesOut)
		}
	})
}

// Answers of every framing arrive as they were meant, and the connection goes on being used
// where that is possible.
func TestFramingOfAnswers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, method, answer string
		status               int
		body                 string
		length               string // Content-Length that the client gets
		closes               bool   // the upstream's connection cannot be used again
	}{
		{name: "length", answer: ok, status: 200, body: "ok", length: "2"},
		{name: "empty", answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", status: 200, length: "0"},
		{name: "no content", answer: "HTTP/1.1 204 No Content\r\n\r\n", status: 204},
		{name: "not modified", answer: "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 2000\r\n\r\n", status: 304, length: "2000"},
		{name: "partial", answer: "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/9\r\nContent-Length: 2\r\n\r\nok", status: 206, body: "ok", length: "2"},
		{name: "head", method: "HEAD", answer: "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n", status: 200, length: "12345"},
		{name: "head chunked", method: "HEAD", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", status: 200},
		{name: "reset content", answer: "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", status: 205, length: "0"},
		{name: "chunked", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", status: 200, body: "ok"},
		{name: "error", answer: "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy", status: 503, body: "busy", length: "4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			whytest.EachEngine(t, func(t *testing.T, engine string) {
				up := whytest.Script(t, always(c.answer))
				n := whytest.Start(t, engine, whytest.API(up.URL(), "/", ""))
				method := c.method
				if method == "" {
					method = "GET"
				}
				length := c.length
				if c.status == 304 && engine == "std" {
					length = "" // net/http has it so
				}
				for range 3 {
					a := n.Call(method, "/", "")
					if a.StatusCode != c.status || a.Body != c.body || a.Header.Get("Content-Length") != length {
						t.Errorf("%d %q, Content-Length %q; want %d %q %q", a.StatusCode, a.Body, a.Header.Get("Content-Length"), c.status, c.body, length)
					}
					if rec := n.Record(a); int(rec.Status) != c.status || rec.BytesOut != int64(len(c.body)) {
						t.Errorf("record: status %d, %d bytes out", rec.Status, rec.BytesOut)
					}
				}
				if up.Opened() != 1 {
					t.Errorf("three calls took %d connections to the upstream", up.Opened())
				}
			})
		})
	}
}

// Upstreams that end their answer by closing, and those of HTTP/1.0.
func TestClosingUpstreams(t *testing.T) {
	for _, c := range []struct{ name, answer string }{
		{"1.1 until close", "HTTP/1.1 200 OK\r\n\r\nall of it"},
		{"1.1 with close", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\nall of it"},
		{"1.0 until close", "HTTP/1.0 200 OK\r\n\r\nall of it"},
		{"1.0 with length", "HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nall of it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			whytest.EachEngine(t, func(t *testing.T, engine string) {
				addr := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
					if _, _, err := whytest.ReadRequest(r); err == nil {
						io.WriteString(nc, c.answer)
					}
				})
				n := whytest.Start(t, engine, whytest.API("http://"+addr, "/", ""))
				for range 3 {
					a := n.Call("GET", "/", "")
					if a.StatusCode != 200 || a.Body != "all of it" || a.Proto != "HTTP/1.1" || a.Close {
						t.Errorf("%s %d %q, close %v", a.Proto, a.StatusCode, a.Body, a.Close)
					}
				}
				// A client of HTTP/1.0 gets what it understands.
				if raw := n.Raw("GET / HTTP/1.0\r\n\r\n", time.Second); !strings.HasSuffix(raw, "\r\n\r\nall of it") || strings.Contains(raw, "chunked") {
					t.Errorf("to an HTTP/1.0 client: %q", raw)
				}
			})
		})
	}
}

// A connection that HTTP/1.0 asks to keep is kept.
func TestKeepAlive10(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"))
		n := whytest.Start(t, engine, whytest.API(up.URL(), "/", ""))
		raw := n.Raw("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n", time.Second)
		if strings.Count(raw, " 200 OK") != 2 || strings.Count(strings.ToLower(raw), "connection: keep-alive") != 1 {
			t.Errorf("two calls on one connection: %q", raw)
		}
		if up.Opened() != 1 {
			t.Errorf("%d connections to an upstream that keeps them", up.Opened())
		}
	})
}

func TestPhraseIsKept(t *testing.T) {
	up := whytest.Script(t, always("HTTP/1.1 200 Very Well\r\nContent-Length: 0\r\n\r\n"))
	n := whytest.Start(t, "wire", whytest.API(up.URL(), "/", "")) // net/http writes phrases of its own
	if a := n.Call("GET", "/", ""); a.Status != "200 Very Well" {
		t.Errorf("status line %q", a.Status)
	}
}

// Informational answers reach the client as they come; 100 is the gateway's own business.
func TestInformational(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: X-Hop\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"+ok))
		n := whytest.Start(t, engine, whytest.API(up.URL(), "/", ""))
		var informed []string
		req, _ := http.NewRequest("GET", n.URL("/"), nil)
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			informed = append(informed, fmt.Sprint(code, " ", h.Get("Link"), h.Get("Connection")))
			return nil
		}}))
		a := n.Do(req)
		if a.StatusCode != 200 || a.Body != "ok" {
			t.Errorf("%d %q", a.StatusCode, a.Body)
		}
		if want := []string{"103 </a.css>; rel=preload", "102 "}; !slices.Equal(informed, want) {
			t.Errorf("informed %q, want %q", informed, want)
		}
		if raw := n.Raw("GET / HTTP/1.0\r\n\r\n", time.Second); strings.Contains(raw, " 103 ") {
			t.Errorf("an HTTP/1.0 client was informed: %q", raw)
		}
	})
}

// The body of a client that asks first is fetched only when the call is let pass.
func TestExpectContinue(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always(ok))
		n := whytest.Start(t, engine, whytest.API(up.URL(), "/", "  - size: {body: 10B}"))
		ask := func(length int) (status string, nc net.Conn, r *bufio.Reader) {
			nc, err := net.Dial("tcp", n.Addr())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { nc.Close() })
			fmt.Fprintf(nc, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", length)
			nc.SetDeadline(time.Now().Add(5 * time.Second))
			r = bufio.NewReader(nc)
			status, _ = r.ReadString('\n')
			return status, nc, r
		}
		status, nc, r := ask(4)
		if !strings.HasPrefix(status, "HTTP/1.1 100") {
			t.Fatalf("asked, and was told %q", status)
		}
		r.ReadString('\n')
		io.WriteString(nc, "body")
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("after the body: %v %v", res, err)
		}
		if seen := up.Last(t); seen.Body != "body" || seen.Get("Expect") != "" {
			t.Errorf("the upstream saw %+v", seen)
		}
		calls := len(up.Seen())
		if status, _, _ := ask(11); !strings.HasPrefix(status, "HTTP/1.1 413") {
			t.Errorf("a body that is too large was told %q", status)
		}
		if len(up.Seen()) != calls {
			t.Error("the upstream was called for a refused body")
		}
	})
}

// What belongs to a connection ends there, and so does what Connection names.
func TestHopByHop(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, X-Per-Hop\r\nKeep-Alive: timeout=5\r\nX-Per-Hop: 1\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nTE: gzip\r\nX-End: 2\r\nWhygate-Call: forged\r\nWhygate-Refused-By: upstream\r\nX-Consumer-Id: forged\r\n\r\nok"))
		n := whytest.Start(t, engine, whytest.API(up.URL(), "/", ""))
		raw := n.Raw("GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close, X-Mine, x-other\r\nKeep-Alive: 1\r\nProxy-Connection: x\r\nProxy-Authorization: Basic eA==\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\nTE: trailers, deflate\r\nX-Mine: 1\r\nX-Other: 2\r\nX-Kept: 3\r\nCookie: a=b\r\n\r\n", time.Second)
		seen := up.Last(t)
		for _, name := range []string{"Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Upgrade", "HTTP2-Settings", "X-Mine", "X-Other"} {
			if v := seen.All(name); v != nil {
				t.Errorf("the upstream got %s: %q", name, v)
			}
		}
		if seen.Get("Connection") != "TE" || seen.Get("TE") != "trailers" || seen.Get("X-Kept") != "3" || seen.Get("Cookie") != "a=b" || seen.Get("Host") != "shop.test" {
			t.Errorf("the upstream got %q", seen.Fields)
		}
		res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(raw)), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"Keep-Alive", "X-Per-Hop", "Proxy-Connection", "Upgrade", "Te", "X-Consumer-Id", "Whygate-Refused-By"} {
			if v, ok := res.Header[name]; ok {
				t.Errorf("the client got %s: %q", name, v)
			}
		}
		if res.Header.Get("X-End") != "2" || len(res.Header["Whygate-Call"]) != 1 || res.Header.Get("Whygate-Call") == "forged" {
			t.Errorf("the client got %v", res.Header)
		}
	})
}

// An upgrade to HTTP/2 would carry calls past every policy.
func TestNoUpgradeToHTTP2(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always(ok))
		n := whytest.Start(t, engine, whytest.API(up.URL(), "/", ""))
		n.Raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", 300*time.Millisecond)
		n.Raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n", 300*time.Millisecond)
		for _, seen := range up.Seen() {
			if v := seen.All("Upgrade"); v != nil {
				t.Errorf("the upstream was offered %q", v)
			}
		}
		if len(up.Seen()) != 2 {
			t.Errorf("%d calls arrived", len(up.Seen()))
		}
	})
}

// What the upstream gets, field by field.
func TestIntroduction(t *testing.T) {
	key, consumer := whytest.Consumer("shop", "")
	consumer += "---\napiVersion: whygate/v1\nkind: Plan\nmetadata: {name: gold}\nspec: {}\n---\napiVersion: whygate/v1\nkind: Subscription\nmetadata: {name: s}\nspec: {application: shop, api: api, plan: gold, state: active}\n"
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, c := range []struct {
		name    string
		gateway string // lines of the Gateway's spec
		proxy   string // PROXY header
		send    []string
		want    map[string]string
		dynamic []string // fields whose value is the call's id
		client  string
	}{
		{
			name: "stranger",
			send: []string{"X-Forwarded-For: 198.51.100.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.test", "X-Forwarded-Port: 1", "X-Forwarded-Prefix: /evil", "X-Real-IP: 1.2.3.4", "Forwarded: for=evil", "X-Request-Id: not an id",
				"Whygate-Application: admin", "whygate-plan: gold", "X-Consumer-Username: admin", "Remote-User: admin", "x-forwarded-user: admin", "X-Auth-Request-Email: admin", "SSL-Client-Verify: SUCCESS", "X-Remote-Users: 1", "Via: 1.1 before", "traceparent: " + trace, "tracestate: a=b"},
			want: map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "shop.test:8080", "X-Forwarded-Port": "8080", "X-Forwarded-Prefix": "/base",
				"Forwarded": `for=127.0.0.1;host="shop.test:8080";proto=http`, "X-Real-IP": "", "Whygate-Application": "shop", "Whygate-Plan": "gold", "X-Consumer-Username": "",
				"Remote-User": "", "X-Forwarded-User": "", "X-Auth-Request-Email": "", "Ssl-Client-Verify": "", "X-Remote-Users": "1",
				"Traceparent": trace, "Tracestate": "a=b", "X-Api-Key": "", "Host": "shop.test:8080"},
			dynamic: []string{"X-Request-Id", "Whygate-Call"},
			client:  "127.0.0.1",
		},
		{
			name:    "trusted proxy",
			gateway: "  trustedProxies: [127.0.0.0/8, 10.0.0.0/8]\n",
			send: []string{"X-Forwarded-For: 198.51.100.9", "X-Forwarded-For: 10.1.1.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: www.shop.test", "X-Forwarded-Port: 443", "Forwarded: for=198.51.100.9;proto=https",
				"X-Request-Id: abc-123", "X-Forwarded-User: carol"},
			want: map[string]string{"X-Forwarded-User": "carol", "X-Forwarded-For": "198.51.100.9, 10.1.1.1, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "www.shop.test", "X-Forwarded-Port": "443",
				"Forwarded": `for=198.51.100.9;proto=https, for=127.0.0.1;host="shop.test:8080";proto=https`, "X-Request-Id": "abc-123"},
			dynamic: []string{"Whygate-Call"},
			client:  "198.51.100.9",
		},
		{
			name:    "replaced request id",
			gateway: "  requestId: replace\n",
			send:    []string{"X-Request-Id: abc-123"},
			dynamic: []string{"Whygate-Call", "X-Request-Id"},
			client:  "127.0.0.1",
		},
		{
			name:    "PROXY header",
			gateway: "  trustedProxies: [127.0.0.0/8]\n  listeners: [{address: \"127.0.0.1:0\", http1: {engine}, proxyProtocol: true}]\n",
			proxy:   "PROXY TCP6 2001:db8::7 2001:db8::1 4000 443\r\n",
			send:    []string{"X-Forwarded-For: 198.51.100.9"},
			want:    map[string]string{"X-Forwarded-For": "2001:db8::7", "Forwarded": `for="[2001:db8::7]";host="shop.test:8080";proto=http`},
			client:  "2001:db8::7",
		},
		{
			name:    "PROXY header of a client that says what proxies say",
			gateway: "  trustedProxies: [127.0.0.0/8]\n  listeners: [{address: \"127.0.0.1:0\", http1: {engine}, proxyProtocol: true}]\n",
			proxy:   "PROXY TCP4 198.51.100.7 192.0.2.1 4000 443\r\n",
			send:    []string{"X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.test", "X-Forwarded-Port: 443"},
			want: map[string]string{"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "shop.test:8080", "X-Forwarded-Port": "8080",
				"Forwarded": `for=198.51.100.7;host="shop.test:8080";proto=http`},
			client: "198.51.100.7",
		},
		{
			name:    "PROXY header of IPv4",
			gateway: "  trustedProxies: [127.0.0.0/8, 192.0.2.0/24]\n  listeners: [{address: \"127.0.0.1:0\", http1: {engine}, proxyProtocol: true}]\n",
			proxy:   "PROXY TCP4 192.0.2.7 192.0.2.1 4000 443\r\n",
			send:    []string{"X-Forwarded-For: [2001:db8::9]:1234"},
			want:    map[string]string{"X-Forwarded-For": "[2001:db8::9]:1234, 192.0.2.7", "Forwarded": `for=192.0.2.7;host="shop.test:8080";proto=http`},
			client:  "2001:db8::9",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			whytest.EachEngine(t, func(t *testing.T, engine string) {
				up := whytest.Script(t, always(ok))
				spec := c.gateway
				if !strings.Contains(spec, "listeners:") {
					spec = "  listeners: [{address: \"127.0.0.1:0\", http1: {engine}}]\n" + spec
				}
				n := whytest.Start(t, engine, "apiVersion: whygate/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n"+spec+"---\n"+whytest.API(up.URL(), "/base", "  - key-auth: {}\n  - subscription")+consumer)
				raw := n.Raw(c.proxy+"GET /base/x HTTP/1.1\r\nHost: shop.test:8080\r\nX-Api-Key: "+key+"\r\nConnection: close\r\n"+strings.Join(c.send, "\r\n")+"\r\n\r\n", time.Second)
				if !strings.HasPrefix(raw, "HTTP/1.1 200") {
					t.Fatalf("answered %q", raw)
				}
				seen := up.Last(t)
				if seen.Line != "GET /x HTTP/1.1" {
					t.Errorf("request line %q", seen.Line)
				}
				for name, want := range c.want {
					if got := seen.Get(name); got != want {
						t.Errorf("%s: %q, want %q", name, got, want)
					}
				}
				rec := n.Last(func(*calllog.Record) bool { return true })
				for _, name := range c.dynamic {
					if got := seen.Get(name); got != rec.ID.String() {
						t.Errorf("%s: %q, want the id %v", name, got, rec.ID)
					}
				}
				if rec.RequestID != seen.Get("X-Request-Id") || rec.Client.String() != c.client {
					t.Errorf("record: request id %q, client %v", rec.RequestID, rec.Client)
				}
				if via := seen.All("Via"); via[len(via)-1] != "1.1 whygate" {
					t.Errorf("Via: %q", via)
				}
				for _, f := range seen.Fields {
					if strings.Contains(f, key) {
						t.Errorf("the key was passed on: %q", f)
					}
				}
				if slices.ContainsFunc(c.send, func(s string) bool { return strings.HasPrefix(s, "traceparent") }) && rec.Trace != trace[3:35] {
					t.Errorf("trace %q", rec.Trace)
				}
			})
		})
	}
}

func TestIPv6Peer(t *testing.T) {
	if ln, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Skip("this machine has no IPv6: ", err)
	} else {
		ln.Close()
	}
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always(ok))
		n := whytest.Start(t, engine, "apiVersion: whygate/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  listeners: [{address: \"[::1]:0\", http1: {engine}}]\n---\n"+whytest.API(up.URL(), "/", ""))
		n.Call("GET", "/", "")
		seen := up.Last(t)
		want := fmt.Sprintf(`for="[::1]";host="%s";proto=http`, n.Addr())
		if seen.Get("X-Forwarded-For") != "::1" || seen.Get("Forwarded") != want {
			t.Errorf("X-Forwarded-For %q, Forwarded %q, want %q", seen.Get("X-Forwarded-For"), seen.Get("Forwarded"), want)
		}
	})
}

func TestHostHeader(t *testing.T) {
	for _, c := range []struct{ setting, want string }{{"", "shop.test"}, {"client", "shop.test"}, {"target", "{target}"}, {"inner.test", "inner.test"}} {
		whytest.EachEngine(t, func(t *testing.T, engine string) {
			up := whytest.Script(t, always(ok))
			doc := strings.Replace(whytest.API(up.URL()+"/below/", "/", ""), "targets:", fmt.Sprintf("hostHeader: %q, targets:", c.setting), 1)
			n := whytest.Start(t, engine, doc)
			n.Call("GET", "/x?q=1", "", "Host: shop.test")
			seen := up.Last(t)
			if want := strings.ReplaceAll(c.want, "{target}", up.Address); seen.Get("Host") != want || seen.Line != "GET /below/x?q=1 HTTP/1.1" {
				t.Errorf("hostHeader %q: Host %q, %q", c.setting, seen.Get("Host"), seen.Line)
			}
		})
	}
}

// The key is taken away wherever it was, and nothing else is.
func TestKeyIsNotForwarded(t *testing.T) {
	key, consumer := whytest.Consumer("shop", "")
	for _, c := range []struct {
		policy, target string
		fields         []string
		line, cookie   string
	}{
		{"key-auth: {header: X-Key}", "/?a=1", []string{"X-Key: " + key}, "GET /?a=1 HTTP/1.1", ""},
		{"key-auth: {query: k}", "/?a=1&k=" + key + "&b", nil, "GET /?a=1&b HTTP/1.1", ""},
		{"key-auth: {query: k}", "/?k=" + key, nil, "GET / HTTP/1.1", ""},
		{"key-auth: {cookie: k}", "/", []string{"Cookie: a=1; k=" + key + "; b=2"}, "GET / HTTP/1.1", "a=1; b=2"},
		{"key-auth: {bearer: true}", "/", []string{"Authorization: Bearer " + key}, "GET / HTTP/1.1", ""},
	} {
		whytest.EachEngine(t, func(t *testing.T, engine string) {
			up := whytest.Script(t, always(ok))
			n := whytest.Start(t, engine, whytest.API(up.URL(), "/", "  - "+c.policy)+consumer)
			if a := n.Call("GET", c.target, "", c.fields...); a.StatusCode != 200 {
				t.Fatalf("%s: %d %s", c.policy, a.StatusCode, a.Body)
			}
			seen := up.Last(t)
			if seen.Line != c.line || seen.Get("Cookie") != c.cookie || strings.Contains(strings.Join(seen.Fields, "\n"), key) {
				t.Errorf("%s: the upstream saw %q %q", c.policy, seen.Line, seen.Fields)
			}
		})
	}
}

// Policies and the upstream see one path, whatever protocol carries it.
func TestOnePath(t *testing.T) {
	for _, protocol := range []string{"http1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			whytest.EachEngine(t, func(t *testing.T, engine string) {
				h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Seen", r.RequestURI+" "+r.Host) })
				up := newUpstream2(t, h)
				n := whytest.Start(t, engine, strings.Replace(whytest.API(up, "/", ""), "spec: {targets:", "spec: {protocol: "+protocol+", targets:", 1))
				for _, c := range [][2]string{
					{"/a/b?c=d&e=%2F", "/a/b?c=d&e=%2F"},
					{"/", "/"},
					{"/?", "/?"},
					{"//foo/bar", "//foo/bar"},
					{"//foo:80/bar?x", "//foo:80/bar?x"},
					{"/a//b", "/a//b"},
					{"/a%2Fb/%C3%A9;p=1", "/a%2Fb/%C3%A9;p=1"},
					{"/x/./../y", "/y"},
					{"/a:b@c/'(!)*", "/a:b@c/'(!)*"},
					{"/%5B%5D%7B%7D", "/%5B%5D%7B%7D"},
				} {
					raw := n.Raw("GET "+c[0]+" HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n", time.Second)
					res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(raw)), nil)
					if err != nil {
						t.Fatal(err)
					}
					if got := res.Header.Get("X-Seen"); got != c[1]+" shop.test" {
						t.Errorf("%s: the upstream saw %q (%d)", c[0], got, res.StatusCode)
					}
				}
			})
		})
	}
}

// A body that arrives with the head is not lost or mixed up when calls are pipelined.
func TestPipelining(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, func(r *whytest.Received) string {
			b := r.Line + " " + r.Body
			return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
		})
		n := whytest.Start(t, engine, whytest.API(up.URL(), "/", ""))
		raw := n.Raw("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\noneGET /2 HTTP/1.1\r\nHost: a\r\n\r\nPOST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nthree\r\n0\r\n\r\nGET /4 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 2*time.Second)
		r := bufio.NewReader(strings.NewReader(raw))
		var bodies []string
		for {
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				break
			}
			b, _ := io.ReadAll(res.Body)
			bodies = append(bodies, string(b))
		}
		want := []string{"POST /1 HTTP/1.1 one", "GET /2 HTTP/1.1 ", "POST /3 HTTP/1.1 three", "GET /4 HTTP/1.1 "}
		if d := cmp.Diff(want, bodies); d != "" {
			t.Error(d)
		}
	})
}

// --- tries ---

// twoTargets is an API in front of two upstreams.
func twoTargets(a, b, settings string) string {
	return upstreamSpec(strings.Replace(whytest.API("http://"+a, "/", ""), "{url: \"http://"+a+"\"}", "{url: \"http://"+a+"\"}, {url: \"http://"+b+"\"}", 1), settings)
}

// A call is tried again only where that can do no harm.
func TestRetries(t *testing.T) {
	dies := func(net.Conn, *bufio.Reader) {}
	for _, c := range []struct {
		name     string
		bad      func(net.Conn, *bufio.Reader) // nil: nobody listens
		settings string
		method   string
		body     string // "chunked": sent bit by bit
		status   int
		tries    uint8
	}{
		{"refused GET", nil, "retries: {attempts: 1}", "GET", "", 200, 2},
		{"refused POST", nil, "retries: {attempts: 1}", "POST", "x", 200, 2}, // nothing was sent
		{"refused upload", nil, "retries: {attempts: 1}", "POST", "chunked", 200, 2},
		{"no attempts", nil, "retries: {attempts: 0}", "GET", "", 502, 1},
		{"no budget", nil, "retries: {attempts: 1, budget: 0}", "GET", "", 200, 2}, // a quiet upstream has three
		{"dies, GET", dies, "retries: {attempts: 1}", "GET", "", 200, 2},
		{"dies, PUT", dies, "retries: {attempts: 1}", "PUT", "x", 200, 2},
		{"dies, DELETE", dies, "retries: {attempts: 1}", "DELETE", "", 200, 2},
		{"dies, upload", dies, "retries: {attempts: 1}", "PUT", "chunked", 502, 1}, // it cannot be sent twice
		{"timeout", waits, "retries: {attempts: 1}, timeouts: {firstByte: 200ms}", "GET", "", 200, 2},
		{"answers, then POST dies", then("", dies), "retries: {attempts: 1}", "POST", "x", 502, 1},
		{"non-idempotent", then("", dies), "retries: {attempts: 1, nonIdempotent: true}", "POST", "x", 200, 2},
		{"a byte of the answer", says("H"), "retries: {attempts: 1}", "GET", "", 502, 1},
		{"garbage", says("nonsense\r\n\r\n"), "retries: {attempts: 1}", "GET", "", 502, 1},
		{"status", says("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"), "retries: {attempts: 1, statuses: [503]}", "GET", "", 200, 2},
		{"status of POST", says("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"), "retries: {attempts: 1, statuses: [503]}", "POST", "x", 503, 1},
		{"status of POST, allowed", says("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"), "retries: {attempts: 1, statuses: [503], nonIdempotent: true}", "POST", "x", 200, 2},
		{"other status", says("HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops"), "retries: {attempts: 1, statuses: [503]}", "GET", "", 500, 1},
	} {
		for _, engine := range whytest.Engines {
			t.Run(engine+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				status, tries := c.status, c.tries
				if engine == "std" && c.body == "x" && c.bad != nil { // there no content is at hand before the head is sent, so it cannot be sent twice
					if tries = 1; status == 200 {
						status = 502
						if strings.Contains(c.settings, "statuses") {
							status = 503
						}
					}
				}
				good := whytest.Script(t, always(ok))
				bad := ""
				if c.bad != nil {
					bad = whytest.RawUpstream(t, c.bad)
				} else {
					bad = closedPort(t)
				}
				// Round robin begins with the second one. The breaker and ejection have tests of their own.
				n := whytest.Start(t, engine, twoTargets(good.Address, bad, "breaker: {rate: 0}, ejection: {failures: 0}, "+c.settings))
				got, header, body, err := fetch(t, n, c.method, c.body)
				if got != status || err != nil {
					t.Fatalf("%d %s %v", got, body, err)
				}
				rec := n.Record(whytest.Answer{Response: &http.Response{Header: header}})
				target := bad
				if tries == 2 {
					target = good.Address
				}
				if rec.Tries != tries || (rec.Flags&calllog.Retried != 0) != (tries > 1) || rec.Target != target {
					t.Errorf("record: %d tries, flags %b, target %s", rec.Tries, rec.Flags, rec.Target)
				}
				if want := int(tries) - 1; len(good.Seen()) != want {
					t.Errorf("the good target was called %d times, want %d", len(good.Seen()), want)
				} else if want == 1 && c.body != "chunked" && good.Last(t).Body != c.body {
					t.Errorf("the good target got %q", good.Last(t).Body)
				}
			})
		}
	}
}

// A target that was too slow is not asked again where it is the only one.
func TestSlowTargetIsAskedOnce(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		slow := whytest.RawUpstream(t, waits)
		n := whytest.Start(t, engine, upstreamSpec(whytest.API("http://"+slow, "/", ""), "retries: {attempts: 3}, timeouts: {firstByte: 200ms}"))
		a := n.Call("GET", "/", "")
		if rec := n.Record(a); a.StatusCode != 504 || rec.Tries != 1 || rec.Reason != "upstream.timeout" {
			t.Errorf("%d, record: %d tries, %s", a.StatusCode, rec.Tries, rec.Reason)
		}
	})
}

// When nothing helps, the record says how often it was tried; when the last status is one to be
// tried again, that answer is relayed.
func TestRetriesUsedUp(t *testing.T) {
	n := whytest.Start(t, "wire", twoTargets(closedPort(t), closedPort(t), "breaker: {rate: 0}, ejection: {failures: 0}, retries: {attempts: 3, budget: 100}"))
	a := n.Call("GET", "/", "")
	rec := n.Record(a)
	if a.StatusCode != 502 || rec.Tries != 4 || rec.Reason != "upstream.unreachable" {
		t.Errorf("%d, record: %d tries, %q", a.StatusCode, rec.Tries, rec.Reason)
	}
	if !strings.Contains(string(rec.Detail), `"tries"`) {
		t.Errorf("the facts do not tell the number of tries: %s", rec.Detail)
	}
	busy := whytest.Script(t, always("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"))
	n.Apply(twoTargets(busy.Address, busy.Address, "breaker: {rate: 0}, ejection: {failures: 0}, retries: {attempts: 2, statuses: [503], budget: 100}"))
	a = n.Call("GET", "/", "")
	if rec := n.Record(a); a.StatusCode != 503 || a.Body != "busy" || rec.Tries != 3 || rec.Outcome != calllog.Relayed {
		t.Errorf("%d %q, record: %d tries, %v", a.StatusCode, a.Body, rec.Tries, rec.Outcome)
	}
}

// Tries are bounded by a share of the calls, so that an upstream in trouble is not flooded.
func TestRetryBudget(t *testing.T) {
	var calls atomic.Int64
	up := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
		if _, _, err := whytest.ReadRequest(r); err == nil {
			calls.Add(1)
		}
	})
	n := whytest.Start(t, "wire", upstreamSpec(whytest.API("http://"+up, "/", ""), "breaker: {rate: 0}, ejection: {failures: 0}, retries: {attempts: 5, budget: 20}"))
	const made = 100
	for range made {
		if a := n.Call("GET", "/", ""); a.StatusCode != 502 {
			t.Fatal(a.StatusCode)
		}
	}
	// A fifth of all tries may be repetitions: of n calls that is n/4, and three to begin with.
	if extra := calls.Load() - made; extra < 10 || extra > made/4+5 {
		t.Errorf("%d calls were repeated %d times", made, extra)
	}
}

// A target that keeps failing gets no calls for a while, and a call says so when none is left.
func TestEjectionAndBreaker(t *testing.T) {
	bad := closedPort(t)
	good := whytest.Script(t, always(ok))
	n := whytest.Start(t, "wire", twoTargets(good.Address, bad, "breaker: {rate: 0}, retries: {attempts: 1, budget: 100}"))
	tries := 0
	for range 40 {
		a := n.Call("GET", "/", "")
		if a.StatusCode != 200 {
			t.Fatal(a.StatusCode)
		}
		tries += int(n.Record(a).Tries)
	}
	if tries != 45 {
		t.Errorf("40 calls took %d tries; five failures eject", tries)
	}
	if targets := n.Snapshot().Upstreams["up"].Targets(); targets[1].State(time.Now()) != "ejected" || targets[1].Ejected.Load() != 1 {
		t.Errorf("the bad target is %s", targets[1].State(time.Now()))
	}

	n.Apply(twoTargets(bad, bad, "breaker: {rate: 0}, retries: {attempts: 0}, ejection: {failures: 2, most: 100, for: 5s}"))
	var a whytest.Answer
	for range 5 {
		a = n.Call("GET", "/", "")
	}
	rec := n.Record(a)
	if a.StatusCode != 503 || rec.Reason != "upstream.ejected" || rec.Tries != 0 || a.Header.Get("Retry-After") != "5" {
		t.Errorf("%d, record %q, Retry-After %q", a.StatusCode, rec.Reason, a.Header.Get("Retry-After"))
	}
	d, _ := gateway.DecodeDetail(rec.Detail)
	if seen := d.Verdict.Tell(reason.ToOperator).Seen; !strings.Contains(seen, bad+" is ejected for another 5 s") {
		t.Errorf("seen: %q", seen)
	}

	n.Apply(upstreamSpec(whytest.API("http://"+bad, "/", ""), "retries: {attempts: 0}, breaker: {calls: 4, open: 2s}"))
	for range 5 {
		a = n.Call("GET", "/", "")
	}
	rec = n.Record(a)
	if a.StatusCode != 503 || rec.Reason != "upstream.breaker-open" || rec.Tries != 0 || a.Header.Get("Retry-After") != "2" {
		t.Errorf("%d, record %q, Retry-After %q", a.StatusCode, rec.Reason, a.Header.Get("Retry-After"))
	}
	d, _ = gateway.DecodeDetail(rec.Detail)
	if says := d.Verdict.Tell(reason.ToOperator).Says; !strings.HasPrefix(says, "4 of the last 4 calls to upstream \"up\" failed, so none is sent for another") {
		t.Errorf("says: %q", says)
	}
}

// More calls than a target takes wait for a moment in a short queue.
func TestOverload(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		let := make(chan bool)
		up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) { <-let })
		docs := func(queueFor string) string {
			return upstreamSpec(whytest.API(up.URL, "/", ""), "retries: {attempts: 0}, connections: {max: 2, queue: 1, queueFor: "+queueFor+"}")
		}
		n := whytest.Start(t, engine, docs("1m"))
		// fill begins two calls, as many as the target takes.
		fill := func(results chan whytest.Answer) *upstream.Target {
			target := n.Snapshot().Upstreams["up"].Targets()[0]
			for range 2 {
				go func() { results <- n.Call("GET", "/", "") }()
			}
			whytest.Eventually(t, "two calls are in flight", func() bool { return target.InFlight() == 2 })
			return target
		}
		refused := func(a whytest.Answer, target *upstream.Target) {
			t.Helper()
			if rec := n.Record(a); a.StatusCode != 503 || rec.Reason != "upstream.overloaded" || rec.Target != target.Address {
				t.Errorf("%d, record %q", a.StatusCode, rec.Reason)
			}
		}
		results := make(chan whytest.Answer, 3)
		target := fill(results)
		go func() { results <- n.Call("GET", "/", "") }() // waits, and gets the place that becomes free
		whytest.Eventually(t, "a call waits", func() bool { return target.Queued() == 1 })
		refused(n.Call("GET", "/", ""), target) // the queue has one place
		if target.Queued() != 1 || len(results) != 0 {
			t.Errorf("%d calls wait, %d were answered", target.Queued(), len(results))
		}
		close(let)
		for range 3 {
			if a := <-results; a.StatusCode != 200 {
				t.Errorf("%d %s", a.StatusCode, a.Body)
			}
		}
		if target.InFlight() != 0 || target.Queued() != 0 {
			t.Errorf("%d in flight, %d wait", target.InFlight(), target.Queued())
		}
		// No place becomes free in time.
		let = make(chan bool)
		n.Apply(docs("300ms"))
		target = fill(results)
		late := n.Call("GET", "/", "")
		refused(late, target)
		if took := n.Record(late).Duration; took < 300*time.Millisecond {
			t.Errorf("the queue was left after %v", took)
		}
		close(let)
		<-results
		<-results
	})
}

// Calls with the same key go to the same target, on every node and after every restart.
func TestHashBalancing(t *testing.T) {
	var ups [5]*whytest.Scripted
	urls := ""
	for i := range ups {
		ups[i] = whytest.Script(t, always(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d", i)))
		urls += fmt.Sprintf("{url: \"http://%s\"}, ", ups[i].Address)
	}
	for _, on := range []string{"header:X-User", "cookie:user", "path", "address"} {
		doc := strings.Replace(whytest.API("x", "/", ""), `{url: "x"}`, strings.TrimSuffix(urls, ", "), 1)
		doc = upstreamSpec(doc, "balance: {by: hash, hashOn: \""+on+"\"}")
		first := map[string]string{}
		for range 2 {
			n := whytest.Start(t, "wire", doc)
			for i := range 40 {
				user := fmt.Sprint("user", i%20)
				a := n.Call("GET", "/"+user, "", "X-User: "+user, "Cookie: user="+user)
				if first[user] == "" {
					first[user] = a.Body
				} else if first[user] != a.Body {
					t.Errorf("%s: %s went to %s and then to %s", on, user, first[user], a.Body)
				}
			}
		}
		used := map[string]bool{}
		for _, target := range first {
			used[target] = true
		}
		if on == "address" && len(used) != 1 || on != "address" && len(used) < 4 {
			t.Errorf("%s: 20 users use %d of 5 targets", on, len(used))
		}
	}
}
