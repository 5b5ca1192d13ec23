package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/snapshot"
	"github.com/whygate/whygate/whytest"
	"github.com/whygate/whygate/wire"
)

// asking makes one call of a client.
type asking func(method, path, body string, header ...string) whytest.Answer

// eachWay runs a test with both engines, an upstream of HTTP/1.1 and of HTTP/2, and a client of HTTP/2.
func eachWay(t *testing.T, h http.HandlerFunc, policies string, test func(t *testing.T, n *whytest.Node, ask asking)) {
	for _, way := range []struct {
		name, engine, protocol string
		client2                bool
	}{{"wire", "wire", "http1", false}, {"std", "std", "http1", false}, {"client h2", "wire", "http1", true}, {"upstream h2", "wire", "h2", false}, {"both h2", "wire", "h2", true}} {
		t.Run(way.name, func(t *testing.T) {
			n := whytest.Start(t, way.engine, upstreamSpec(whytest.API(newUpstream2(t, h), "/", policies), "protocol: "+way.protocol))
			ask := n.Call
			if way.client2 {
				client := client2(t)
				client.Transport.(*http.Transport).DisableCompression = true
				ask = func(method, path, body string, header ...string) whytest.Answer {
					req, _ := http.NewRequest(method, n.URL(path), strings.NewReader(body))
					if body == "" {
						req.Body, req.ContentLength = nil, 0
					}
					for _, l := range header {
						name, value, _ := strings.Cut(l, ":")
						req.Header.Add(name, strings.TrimSpace(value))
					}
					res, err := client.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					defer res.Body.Close()
					b, err := io.ReadAll(res.Body)
					if err != nil {
						t.Fatal(err)
					}
					return whytest.Answer{Response: res, Body: string(b)}
				}
			}
			test(t, n, ask)
		})
	}
}

// hints are those of a call's record, by code.
func hints(t *testing.T, n *whytest.Node, a whytest.Answer) (map[string]string, calllog.Record) {
	t.Helper()
	rec := n.Record(a)
	d, err := gateway.DecodeDetail(rec.Detail)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, h := range d.Hints {
		all[h.Code] += h.Text
	}
	return all, rec
}

func decoded(t *testing.T, a whytest.Answer) string {
	t.Helper()
	var r io.Reader = strings.NewReader(a.Body)
	var err error
	switch e := a.Header.Get("Content-Encoding"); e {
	case "":
	case "gzip":
		r, err = gzip.NewReader(r)
	case "br":
		r = brotli.NewReader(r)
	case "zstd":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1)); err == nil {
			defer d.Close()
			r = d
		}
	default:
		t.Fatalf("Content-Encoding: %s", e)
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("%v in %d bytes of %s", err, len(a.Body), a.Header.Get("Content-Encoding"))
	}
	return string(b)
}

// page is an upstream whose answers are as the query says.
func page(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h, q := w.Header(), r.URL.Query()
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("ETag", `"abc"`)
		h.Set("Accept-Ranges", "bytes")
		h.Set("Content-Digest", "sha-256=:xyz=:")
		for name, values := range q {
			if strings.HasPrefix(name, "h.") {
				h[http.CanonicalHeaderKey(name[2:])] = values
			}
		}
		if q.Has("trailer") {
			h.Set("Trailer", "X-Sum, Content-Digest")
			h.Del("Content-Digest")
		}
		if !q.Has("chunked") && !q.Has("trailer") {
			h.Set("Content-Length", fmt.Sprint(len(body)))
		}
		status := 200
		fmt.Sscan(q.Get("status"), &status)
		if status == 204 || status == 304 {
			h.Del("Content-Length")
		}
		w.WriteHeader(status)
		if r.Method != "HEAD" && status != 204 && status != 304 {
			for rest := body; rest != ""; {
				n := min(len(rest), 10_000)
				io.WriteString(w, rest[:n])
				rest = rest[n:]
			}
		}
		if q.Has("trailer") {
			h.Set("X-Sum", "42")
			h.Set("Content-Digest", "sha-256=:xyz=:")
		}
	}
}

func TestCompress(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("all work and no play makes Jack a dull boy. ", 5000)
	eachWay(t, page(long), "  - compress: {}", func(t *testing.T, n *whytest.Node, ask asking) {
		for _, c := range []struct {
			name, method, path string
			accept             string
			encoding           string // "" for an answer as it is
			vary               bool
		}{
			{"gzip", "GET", "/", "gzip", "gzip", true},
			{"brotli", "GET", "/", "gzip, br", "br", true},
			{"all", "GET", "/", "gzip, deflate, br, zstd", "zstd", true},
			{"weights", "GET", "/", "zstd;q=0.1, br;q=0.2, gzip;q=0.9, *;q=0", "gzip", true},
			{"any", "GET", "/", "*", "zstd", true},
			{"none", "GET", "/", "", "", true},
			{"not gzip", "GET", "/", "gzip;q=0, identity", "", true},
			{"identity first", "GET", "/", "gzip;q=0.5, identity;q=0.8", "", true},
			{"chunked", "GET", "/?chunked", "gzip", "gzip", true},
			{"trailers", "GET", "/?trailer", "gzip", "gzip", true},
			{"an error", "GET", "/?status=500", "gzip", "gzip", true},
			{"HEAD", "HEAD", "/", "gzip", "gzip", true},
			{"image", "GET", "/?h.content-type=image/png", "gzip", "", false},
			{"no-transform", "GET", "/?h.cache-control=no-transform", "gzip", "", false},
			{"part", "GET", "/?status=206&h.content-range=bytes+0-9/100", "gzip", "", false},
			{"grpc", "GET", "/?h.content-type=application/grpc", "gzip", "", false},
			{"json of a kind", "GET", "/?h.content-type=application/hal%2Bjson", "gzip", "gzip", true},
			{"204", "GET", "/?status=204", "gzip", "", false},
		} {
			t.Run(c.name, func(t *testing.T) {
				a := ask(c.method, c.path, "", "Accept-Encoding: "+c.accept)
				if got := a.Header.Get("Content-Encoding"); got != c.encoding {
					t.Fatalf("Content-Encoding %q, want %q: %d %v", got, c.encoding, a.StatusCode, a.Header)
				}
				if got := strings.Contains(a.Header.Get("Vary"), "Accept-Encoding"); got != c.vary {
					t.Errorf("Vary: %q", a.Header.Get("Vary"))
				}
				etag, ranges, digest := `"abc"`, "bytes", "sha-256=:xyz=:"
				if c.encoding != "" {
					etag, ranges, digest = `W/"abc"`, "", ""
				}
				if a.Header.Get("ETag") != etag || a.Header.Get("Accept-Ranges") != ranges || a.Header.Get("Content-Digest") != digest {
					t.Errorf("%v", a.Header)
				}
				want := long
				if c.method == "HEAD" || strings.Contains(c.path, "204") {
					want = ""
					if c.method == "HEAD" && a.ContentLength >= 0 {
						t.Errorf("a length of %d is promised", a.ContentLength)
					}
				} else if c.encoding != "" && len(a.Body) > len(long)/10 {
					t.Errorf("%d bytes of %d", len(a.Body), len(long))
				}
				if c.method != "HEAD" && decoded(t, a) != want {
					t.Errorf("%d bytes, want %d", len(decoded(t, a)), len(want))
				}
				if strings.Contains(c.path, "trailer") && (a.Trailer.Get("X-Sum") != "42" || a.Trailer.Get("Content-Digest") != "") {
					t.Errorf("trailer %v", a.Trailer)
				}
				if rec := n.Record(a); rec.BytesOut != int64(len(a.Body)) || int(rec.Status) != a.StatusCode {
					t.Errorf("record: %d, %d bytes of %d", rec.Status, rec.BytesOut, len(a.Body))
				}
			})
		}
		a := ask("GET", "/?h.content-encoding=br", "", "Accept-Encoding: gzip")
		if a.Header.Get("Content-Encoding") != "br" || a.Body != long {
			t.Error("an encoded answer was changed")
		}
		if a := ask("GET", "/?status=304", "", "Accept-Encoding: gzip"); a.StatusCode != 304 || a.Header.Get("ETag") != `W/"abc"` || a.Header.Get("Vary") != "Accept-Encoding" || a.Body != "" {
			t.Errorf("%d %v", a.StatusCode, a.Header)
		}
	})
}

// Small answers stay as they are, whether or not their length is announced.
func TestCompressSmall(t *testing.T) {
	t.Parallel()
	eachWay(t, page("small"), "  - compress: {}", func(t *testing.T, n *whytest.Node, ask asking) {
		if a := ask("GET", "/", "", "Accept-Encoding: gzip"); a.Header.Get("Content-Encoding") != "" || a.Header.Get("Vary") != "" || a.Body != "small" {
			t.Errorf("%v %q", a.Header, a.Body)
		}
		if a := ask("GET", "/?chunked", "", "Accept-Encoding: gzip"); decoded(t, a) != "small" {
			t.Errorf("%v %q", a.Header, a.Body)
		}
	})
}

// A stream goes on at once: each event reaches the client before the upstream writes the next.
func TestContentStreams(t *testing.T) {
	t.Parallel()
	for _, policies := range []string{"  - compress: {}", "  - mask: {fields: [secret], patterns: [email]}", "  - mask: {fields: [secret], patterns: [email]}\n  - compress: {}"} {
		t.Run(policies, func(t *testing.T) {
			next := make(chan bool)
			whytest.EachEngine(t, func(t *testing.T, engine string) {
				for _, protocol := range []string{"http1", "h2"} {
					up := newUpstream2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						w.Header().Set("Content-Type", "text/event-stream")
						w.WriteHeader(200)
						w.(http.Flusher).Flush()
						for i := range 3 {
							<-next
							fmt.Fprintf(w, "data: {\"n\": %d, \"secret\": \"s\", \"to\": \"a@shop.test\"}\n\n", i)
							w.(http.Flusher).Flush()
						}
						<-next
					}))
					n := whytest.Start(t, engine, upstreamSpec(whytest.API(up, "/", policies), "protocol: "+protocol))
					tr := &http.Transport{DisableCompression: true}
					req, _ := http.NewRequest("GET", n.URL("/"), nil)
					req.Header.Set("Accept-Encoding", "gzip")
					res, err := tr.RoundTrip(req) // comes before the first event
					if err != nil {
						t.Fatal(err)
					}
					next <- true
					var r io.Reader = res.Body
					if strings.Contains(policies, "compress") {
						if res.Header.Get("Content-Encoding") != "gzip" {
							t.Fatal(res.Header)
						}
						z, err := gzip.NewReader(r)
						if err != nil {
							t.Fatal(err)
						}
						r = z
					}
					lines := bufio.NewReader(r)
					for i := range 3 {
						line, err := lines.ReadString('\n')
						if want := fmt.Sprintf(`data: {"n": %d, "secret": "***", "to": "***"}`, i); err != nil || strings.Contains(policies, "mask") && strings.TrimSpace(line) != want || !strings.HasPrefix(line, fmt.Sprintf(`data: {"n": %d,`, i)) {
							t.Fatalf("%q, want %q: %v", line, want, err)
						}
						lines.ReadString('\n')
						next <- true
					}
					if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
						t.Errorf("%q, %v", rest, err)
					}
					res.Body.Close()
					tr.CloseIdleConnections()
				}
			})
		})
	}
}

func TestMask(t *testing.T) {
	t.Parallel()
	const answer = `{"id": 7, "password": "hunter2", "customer": {"mail": "ann@shop.test", "card": "4111 1111 1111 1111"}}`
	const masked = `{"id": 7, "password": "***", "customer": {"mail": "***", "card": "***"}}`
	h := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Range", r.Header.Get("Range"))
		w.Header().Set("X-Accept", r.Header.Get("Accept-Encoding"))
		body := answer
		switch r.URL.Path {
		case "/broken":
			body = `{"password": "hunter2"`
		case "/large":
			body = `{"password": "hunter2", "x": "` + strings.Repeat("x", 3000) + `"}`
		case "/text":
			body = "mail ann@shop.test, " + strings.Repeat("x", 5000) + " card 4111111111111111"
		}
		r.URL.RawQuery += "&h.content-type=application/json"
		if r.URL.Path == "/text" {
			r.URL.RawQuery = r.URL.Query().Encode() + "&h.content-type=text/html"
			q := r.URL.Query()
			q["h.content-type"] = []string{"text/html"}
			r.URL.RawQuery = q.Encode()
		}
		page(body)(w, r)
	}
	eachWay(t, h, "  - mask: {fields: [password], paths: [customer.mail], patterns: [card, email], maxBody: 2KiB}", func(t *testing.T, n *whytest.Node, ask asking) {
		for _, path := range []string{"/", "/?chunked", "/?status=404"} {
			a := ask("GET", path, "", "Range: bytes=0-3", "Accept-Encoding: gzip")
			if a.Body != masked || a.ContentLength != int64(len(masked)) || a.Header.Get("ETag") != `W/"abc"` || a.Header.Get("Content-Digest") != "" || a.Header.Get("X-Range") != "" || a.Header.Get("X-Accept") != "identity" {
				t.Errorf("%s: %d %v %q", path, a.StatusCode, a.Header, a.Body)
			}
			notes, rec := hints(t, n, a)
			if notes["mask.masked"] != "2 field, 1 card" || rec.BytesOut != int64(len(masked)) {
				t.Errorf("record: %v, %d bytes", notes, rec.BytesOut)
			}
			if d := string(rec.Detail); strings.Contains(d, "4111") || strings.Contains(d, "hunter2") || strings.Contains(d, "ann@") {
				t.Errorf("the record holds what is secret: %s", d)
			}
		}
		if a := ask("HEAD", "/", ""); a.StatusCode != 200 || a.Header.Get("Content-Length") != "" || a.Header.Get("ETag") != `W/"abc"` {
			t.Errorf("HEAD: %d %v", a.StatusCode, a.Header)
		}
		if a := ask("GET", "/?status=304", ""); a.StatusCode != 304 {
			t.Errorf("%d %v", a.StatusCode, a.Header)
		}
		if a := ask("GET", "/text", ""); strings.Contains(a.Body, "4111") || strings.Contains(a.Body, "ann") || !strings.HasSuffix(a.Body, " card ***") {
			t.Errorf("%q", a.Body)
		}
		for path, why := range map[string]string{"/broken": "not valid JSON", "/large": "larger than the 2 KiB", "/large?chunked": "larger than the 2 KiB", "/?h.content-encoding=gzip": "encoded", "/?status=206": "a part", "/?h.content-type=application/json%3Bcharset=utf-16": ""} {
			a := ask("GET", path, "")
			if why == "" {
				continue
			}
			if a.StatusCode != 502 || a.Header.Get("Whygate-Reason") != "answer.not-transformed" || strings.Contains(a.Body, "hunter2") || a.ContentLength != int64(len(a.Body)) {
				t.Errorf("%s: %d %v %s", path, a.StatusCode, a.Header, a.Body)
			}
			d, _ := gateway.DecodeDetail(n.Record(a).Detail)
			if d.Verdict == nil || !strings.Contains(d.Verdict.Tell(3).Says, why) {
				t.Errorf("%s: the record does not say %q: %+v", path, why, d.Verdict)
			}
		}
	})
}

// An upstream that breaks off before a filter let anything out is refused as a whole; later, the client can
// tell that the answer is not whole.
func TestFilteredAnswerBreaks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		policies, says string
		status         int
	}{
		{"  - mask: {patterns: [card], fields: [a]}", "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"a\": 1", 502},
		{"  - mask: {patterns: [card], fields: [a]}", "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n{\"a\": 1\r\n", 502},
		{"  - compress: {}", "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 5000), 0},
	} {
		whytest.EachEngine(t, func(t *testing.T, engine string) {
			addr := whytest.RawUpstream(t, says(c.says))
			n := whytest.Start(t, engine, upstreamSpec(whytest.API("http://"+addr, "/", c.policies), quick))
			req, _ := http.NewRequest("GET", n.URL("/"), nil)
			req.Header.Set("Accept-Encoding", "gzip")
			tr := &http.Transport{}
			defer tr.CloseIdleConnections()
			res, err := tr.RoundTrip(req)
			status := 0
			if err == nil {
				_, err = io.ReadAll(res.Body)
				res.Body.Close()
				if status = res.StatusCode; err != nil {
					status = 0
				}
			}
			if status != c.status {
				t.Errorf("%s: %d %v", c.policies, status, err)
			}
			rec := n.Last(func(*calllog.Record) bool { return true })
			if rec.Reason != "upstream.broken" || rec.Outcome != calllog.Failed {
				t.Errorf("record %v %q", rec.Outcome, rec.Reason)
			}
		})
	}
}

// A client that leaves in the midst of a filtered answer leaves nothing behind.
func TestClientLeavesFiltered(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		begun := make(chan bool, 1)
		gone := make(chan bool, 1)
		up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"a": "`)
			w.(http.Flusher).Flush()
			begun <- true
			<-r.Context().Done()
			gone <- true
		})
		n := whytest.Start(t, engine, whytest.API(up.URL, "/", "  - mask: {fields: [a]}\n  - compress: {}"))
		nc, err := net.Dial("tcp", n.Addr())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(nc, "GET /leaves HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
		<-begun
		nc.Close()
		<-gone
		rec := n.Last(func(r *calllog.Record) bool { return r.Path == "/leaves" })
		if rec.Status != 499 || rec.Reason != "client.gone" || rec.BytesOut != 0 {
			t.Errorf("record %d %q, %d bytes", rec.Status, rec.Reason, rec.BytesOut)
		}
	})
}

func TestTransformEndToEnd(t *testing.T) {
	t.Parallel()
	h := func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Seen", fmt.Sprintf("%s %s %d %s %q %q", r.Method, r.URL, r.ContentLength, b, r.Header.Get("X-Who"), r.Header.Get("Content-Digest")))
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/v2/404":
			w.WriteHeader(404)
		case "/v2/html":
			w.Header().Set("Content-Type", "text/html")
		}
		io.WriteString(w, `{"data": [{"qty": 1, "cost": 9}, {"qty": 2}], "big": 12345678901234567890, "z": 1, "a": 2}`)
	}
	policies := `  - transform:
        request:
          headers: {set: {X-Who: "{header.user-agent|nobody}"}}
          query: {remove: [debug], rename: {q: search}, set: {id: "{query.num|0}"}}
          path: "/v2/{query.num|0}"
          body: {remove: [debug], set: {meta.source: gateway}}
        response:
          status: {"404": 410}
          headers: {set: {X-For: "{query.q}"}}
          body: {remove: ["data[*].cost"], rename: {"data[*].qty": quantity}}`
	eachWay(t, h, policies, func(t *testing.T, n *whytest.Node, ask asking) {
		a := ask("POST", "/x?debug=1&q=a%20b&num=404&id=evil", `{"debug": true, "item": "lamp"}`, "Content-Type: application/json", "User-Agent: me", "Content-Digest: x")
		if want := `POST /v2/404?search=a%20b&num=404&id=404 43 {"item":"lamp","meta":{"source":"gateway"}} "me" ""`; a.Header.Get("X-Seen") != want {
			t.Errorf("the upstream saw %s", a.Header.Get("X-Seen"))
		}
		const body = `{"data":[{"quantity":1},{"quantity":2}],"big":12345678901234567890,"z":1,"a":2}`
		if a.StatusCode != 410 || a.Header.Get("X-For") != "a b" || a.Body != body || a.ContentLength != int64(len(body)) {
			t.Errorf("%d %v %s", a.StatusCode, a.Header, a.Body)
		}
		notes, rec := hints(t, n, a)
		if rec.Status != 410 || notes["transform.status"] == "" || rec.BytesIn != 31 {
			t.Errorf("record: %d, %v, %d bytes in", rec.Status, notes, rec.BytesIn)
		}
		if a := ask("GET", "/x", ""); !strings.HasPrefix(a.Header.Get("X-Seen"), "GET /v2/0?id=0 0 ") || a.Body != body || a.Header.Get("X-For") != "" {
			t.Errorf("%v %s", a.Header, a.Body)
		}
		if a := ask("GET", "/x?num=html", ""); !strings.Contains(a.Body, "cost") {
			t.Errorf("an answer that is no JSON was changed: %s", a.Body)
		}
		for _, c := range []struct{ path, body, kind, reason string }{
			{"/x", "{", "application/json", "transform.not-json"}, {"/x", "a=b", "text/plain", "transform.content-type"}, {"/x?num=..", "{}", "application/json", "transform.path"},
			{"/x", strings.Repeat(" ", 2<<20) + "{}", "application/json", "content.too-large"},
		} {
			if a := ask("POST", c.path, c.body, "Content-Type: "+c.kind); a.Header.Get("Whygate-Reason") != c.reason {
				t.Errorf("%s: %d %s", c.reason, a.StatusCode, a.Body)
			}
		}
	})
}

func TestMock(t *testing.T) {
	t.Parallel()
	h := func(w http.ResponseWriter, r *http.Request) { t.Error("the upstream was called") }
	policies := `  - mock:
        answers:
          - {body: {id: 1, item: lamp}, headers: {X-Mock: yes}}
          - {name: unknown, status: 404, body: no such order}
          - {name: none, status: 204}
          - {name: long, body: "` + strings.Repeat("long ", 1000) + `"}
  - mask: {fields: [item]}
  - compress: {}`
	eachWay(t, h, policies, func(t *testing.T, n *whytest.Node, ask asking) {
		for _, c := range []struct {
			method, prefer string
			status         int
			body, kind     string
		}{
			{"GET", "", 200, `{"id":1,"item":"***"}`, "application/json"},
			{"POST", "return=minimal", 200, `{"id":1,"item":"***"}`, "application/json"},
			{"HEAD", "", 200, "", "application/json"},
			{"GET", "code=404", 404, "no such order", "text/plain; charset=utf-8"},
			{"GET", "wait=1, example=\"unknown\"; x=y", 404, "no such order", "text/plain; charset=utf-8"},
			{"GET", "example=none", 204, "", ""},
			{"GET", "example=long", 200, strings.Repeat("long ", 1000), "text/plain; charset=utf-8"},
		} {
			a := ask(c.method, "/", "", "Prefer: "+c.prefer, "Accept-Encoding: gzip")
			if a.StatusCode != c.status || c.method != "HEAD" && decoded(t, a) != c.body || a.Header.Get("Content-Type") != c.kind {
				t.Errorf("%s %q: %d %v %s", c.method, c.prefer, a.StatusCode, a.Header, a.Body)
			}
			if by := a.Header.Get("Whygate-Refused-By"); (by == "mock") != (c.status == 404) {
				t.Errorf("refused by %q", by)
			}
			if rec := n.Record(a); rec.Outcome != calllog.Answered || int(rec.Status) != c.status || rec.BytesOut != int64(len(a.Body)) {
				t.Errorf("record %v, %d, %d bytes of %d", rec.Outcome, rec.Status, rec.BytesOut, len(a.Body))
			}
		}
		if a := ask("GET", "/", "", "Prefer: code=500"); a.Header.Get("Whygate-Reason") != "mock.no-such-answer" {
			t.Errorf("%d %s", a.StatusCode, a.Body)
		}
	})
}

// A client that leaves while a mock answer is delayed is not waited for.
func TestMockDelay(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		n := whytest.Start(t, engine, whytest.API("http://127.0.0.1:1", "/", "  - mock: {delay: 1m, answers: [{body: late}]}"))
		nc, err := net.Dial("tcp", n.Addr())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(nc, "GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
		nc.Close()
		if rec := n.Last(func(r *calllog.Record) bool { return r.Path == "/late" }); rec.Status != 499 {
			t.Errorf("record %d %q", rec.Status, rec.Reason)
		}
	})
}

func TestCache(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	long := strings.Repeat("kept ", 1000)
	h := func(w http.ResponseWriter, r *http.Request) {
		n := calls.Add(1)
		w.Header().Set("X-Call", fmt.Sprint(n))
		w.Header().Set("X-Asked", r.Header.Get("If-None-Match"))
		if r.URL.Query().Has("h.etag") && r.Header.Get("If-None-Match") == r.URL.Query().Get("h.etag") {
			w.Header().Set("Cache-Control", r.URL.Query().Get("h.cache-control"))
			w.Header().Set("X-New", "yes")
			w.WriteHeader(304)
			return
		}
		page(long)(w, r)
	}
	eachWay(t, h, "  - cache: {maxAnswer: 64KiB}\n  - compress: {}", func(t *testing.T, n *whytest.Node, ask asking) {
		asked := func(f func()) int64 {
			before := calls.Load()
			f()
			return calls.Load() - before
		}
		const fresh = "?h.cache-control=max-age%3D60"
		var first, again whytest.Answer
		if made := asked(func() { first, again = ask("GET", "/a"+fresh, ""), ask("GET", "/a"+fresh, "") }); made != 1 {
			t.Errorf("%d calls of the upstream", made)
		}
		if first.Body != long || again.Body != long || first.Header.Get("Cache-Status") != "whygate; fwd=uri-miss; stored" || !strings.HasPrefix(again.Header.Get("Cache-Status"), "whygate; hit; ttl=") || again.Header.Get("Age") == "" {
			t.Errorf("%v, then %v", first.Header, again.Header)
		}
		if first.Header.Get("Whygate-Call") == again.Header.Get("Whygate-Call") || len(again.Header.Values("Whygate-Call")) != 1 || len(again.Header.Values("Date")) != 1 || again.Header.Get("Date") != first.Header.Get("Date") {
			t.Errorf("%v, then %v", first.Header, again.Header)
		}
		if notes, rec := hints(t, n, again); notes["cache.hit"] == "" || rec.Outcome != calllog.Answered || rec.BytesOut != int64(len(long)) {
			t.Errorf("record: %v %v, %d", notes, rec.Outcome, rec.BytesOut)
		}
		if notes, _ := hints(t, n, first); notes["cache.miss"] != "kept for 1m" {
			t.Errorf("record: %v", notes)
		}
		// Everything that a hit can be.
		if made := asked(func() {
			if a := ask("HEAD", "/a"+fresh, ""); a.StatusCode != 200 || a.ContentLength != int64(len(long)) || a.Body != "" {
				t.Errorf("HEAD: %d %v", a.StatusCode, a.Header)
			}
			for _, cond := range []string{`"abc"`, `W/"abc"`, `"x,y", "abc"`, "*"} {
				if a := ask("GET", "/a"+fresh, "", "If-None-Match: "+cond); a.StatusCode != 304 || a.Body != "" || a.Header.Get("ETag") != `"abc"` || a.Header.Get("Content-Length") != "" || a.Header.Get("Content-Type") != "" {
					t.Errorf("%s: %d %v", cond, a.StatusCode, a.Header)
				}
			}
			if a := ask("GET", "/a"+fresh, "", `If-None-Match: "other"`); a.StatusCode != 200 {
				t.Errorf("%d %v", a.StatusCode, a.Header)
			}
			a := ask("GET", "/a"+fresh, "", "Accept-Encoding: gzip")
			if decoded(t, a) != long || a.Header.Get("Content-Encoding") != "gzip" || a.Header.Get("ETag") != `W/"abc"` || n.Record(a).BytesOut != int64(len(a.Body)) {
				t.Errorf("compressed: %v", a.Header)
			}
			for _, c := range []struct {
				status       int
				body, header string
			}{{206, "kept", "Range: bytes=0-3"}, {206, "ept k", "Range: bytes=1-5"}, {206, "pt ", "Range: bytes=-3"}, {206, "kept", "Range: bytes=0-3|If-Range: \"abc\""}, {200, long, "Range: bytes=0-3|If-Range: \"other\""}, {200, long, "Range: bytes=0-3|If-Range: W/\"abc\""}, {304, "", "Range: bytes=0-3|If-None-Match: \"abc\""}} {
				a := ask("GET", "/a"+fresh, "", strings.Split(c.header, "|")...)
				if a.StatusCode != c.status || a.Body != c.body || (a.Header.Get("Content-Range") != "") != (c.status == 206) || n.Record(a).BytesOut != int64(len(c.body)) {
					t.Errorf("%s: %d %v, %d bytes", c.header, a.StatusCode, a.Header, len(a.Body))
				}
			}
			if a := ask("GET", "/a"+fresh, "", "Range: bytes=0-3", "Accept-Encoding: gzip"); a.StatusCode != 200 || decoded(t, a) != long {
				t.Errorf("a part of what is compressed now: %d %v", a.StatusCode, a.Header)
			}
			if a := ask("GET", "/a"+fresh, "", "Cache-Control: only-if-cached"); a.StatusCode != 200 {
				t.Errorf("only-if-cached: %d", a.StatusCode)
			}
			if a := ask("GET", "/other"+fresh, "", "Cache-Control: only-if-cached"); a.StatusCode != 504 || a.Header.Get("Whygate-Reason") != "cache.only-if-cached" {
				t.Errorf("only-if-cached: %d %s", a.StatusCode, a.Body)
			}
		}); made != 0 {
			t.Errorf("%d calls of the upstream", made)
		}
		// Calls that the upstream has to see.
		for _, c := range []struct{ name, header, status string }{
			{"no-cache", "Cache-Control: no-cache", "fwd=request"}, {"no-store", "Cache-Control: no-store", "fwd=bypass"}, {"max-age=0", "Pragma: no-cache", "fwd=request"},
			{"ranges", "Range: bytes=0-3, 5-6", "fwd=bypass"}, {"no range", "Range: bytes=9999999-", "fwd=bypass"}, {"credentials", "Authorization: Basic YTpi", "fwd=bypass"}, {"cookie", "Cookie: a=b", "fwd=bypass"},
		} {
			if made := asked(func() {
				if a := ask("GET", "/a"+fresh, "", c.header); !strings.Contains(a.Header.Get("Cache-Status"), c.status) {
					t.Errorf("%s: %v", c.name, a.Header)
				}
			}); made != 1 {
				t.Errorf("%s: %d calls of the upstream", c.name, made)
			}
		}
		// Answers that are not kept.
		for _, q := range []string{"", "?h.cache-control=no-store", "?h.cache-control=private,max-age%3D60", "?h.cache-control=max-age%3D60&h.set-cookie=a%3Db", "?h.cache-control=max-age%3D60&h.vary=*",
			"?h.cache-control=max-age%3D60&h.vary=Cookie", "?h.cache-control=max-age%3D60&status=206", "?h.cache-control=max-age%3D0", "?h.cache-control=max-age%3D60&h.age=70"} {
			if made := asked(func() {
				a := ask("GET", "/never"+q, "", "If-None-Match: \"none\"")
				b := ask("GET", "/never"+q, "")
				if strings.Contains(a.Header.Get("Cache-Status"), "stored") != strings.Contains(q, "max-age%3D0") && !strings.Contains(q, "h.age") || b.Body != long {
					t.Errorf("%s: %v", q, a.Header)
				}
			}); made != 2 {
				t.Errorf("%s: %d calls of the upstream", q, made)
			}
		}
		// Public answers are for calls with credentials too.
		const public = "/p?h.cache-control=public,max-age%3D60"
		if made := asked(func() {
			ask("GET", public, "", "Authorization: Basic YTpi")
			ask("GET", public, "", "Authorization: Basic YjpD")
		}); made != 1 {
			t.Errorf("public: %d calls of the upstream", made)
		}
		// What Vary names.
		const vary = "/v?h.cache-control=max-age%3D60&h.vary=Accept-Language"
		if made := asked(func() {
			for _, l := range []string{"de", "en", "de", "en"} {
				ask("GET", vary, "", "Accept-Language: "+l)
			}
		}); made != 2 {
			t.Errorf("vary: %d calls of the upstream", made)
		}
		// Stale: the upstream is asked whether it still holds.
		const stale = "/s?h.cache-control=max-age%3D0&h.etag=%22v1%22"
		if made := asked(func() {
			ask("GET", stale, "")
			a := ask("GET", stale, "", `If-None-Match: "other"`)
			if a.StatusCode != 200 || a.Body != long || a.Header.Get("X-New") != "yes" || a.Header.Get("X-Asked") != `"v1"` || !strings.HasPrefix(a.Header.Get("Cache-Status"), "whygate; fwd=stale; fwd-status=304") {
				t.Errorf("revalidated: %d %v, %d bytes", a.StatusCode, a.Header, len(a.Body))
			}
			if notes, rec := hints(t, n, a); notes["cache.revalidated"] == "" || rec.Target == "" {
				t.Errorf("record %v %q", notes, rec.Target)
			}
			if a := ask("GET", stale, "", `If-None-Match: "v1"`); a.StatusCode != 304 || a.Body != "" {
				t.Errorf("revalidated: %d", a.StatusCode)
			}
		}); made != 3 {
			t.Errorf("stale: %d calls of the upstream", made)
		}
		// A change removes what is kept.
		if made := asked(func() {
			ask("GET", "/c"+fresh, "")
			if a := ask("POST", "/c"+fresh, "x"); a.Header.Get("Cache-Status") != "whygate; fwd=method" {
				t.Errorf("%v", a.Header)
			}
			ask("GET", "/c"+fresh, "")
		}); made != 3 {
			t.Errorf("changed: %d calls of the upstream", made)
		}
		// The order of parameters, and hosts.
		if made := asked(func() {
			ask("GET", "/q"+fresh+"&b=1&a=2", "")
			ask("GET", "/q?a=2&b=1&"+fresh[1:], "")
		}); made != 1 {
			t.Errorf("query: %d calls of the upstream", made)
		}
	})
}

// Calls for the same thing at once: one of them fetches it.
func TestCacheCollapses(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		var calls atomic.Int64
		release := make(chan bool)
		up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {
			calls.Add(1)
			<-release
			w.Header().Set("Cache-Control", "max-age=60")
			w.Write(bytes.Repeat([]byte("x"), 100))
		})
		n := whytest.Start(t, engine, whytest.API(up.URL, "/", "  - cache: {wait: 30s}"))
		const clients = 10
		done := make(chan string, clients)
		for range clients {
			go func() {
				res, err := http.Get(n.URL("/x"))
				if err != nil {
					done <- err.Error()
					return
				}
				b, _ := io.ReadAll(res.Body)
				res.Body.Close()
				done <- fmt.Sprint(len(b), " ", strings.Contains(res.Header.Get("Cache-Status"), "collapsed"))
			}()
		}
		stats := n.Snapshot().Routes[0].Stats
		whytest.Eventually(t, "all calls are here", func() bool { return stats.Read().InFlight == clients })
		close(release)
		collapsed := 0
		for range clients {
			switch got := <-done; got {
			case "100 true":
				collapsed++
			case "100 false":
			default:
				t.Error(got)
			}
		}
		if calls.Load() != 1 || collapsed == 0 {
			t.Errorf("%d calls of the upstream, %d collapsed", calls.Load(), collapsed)
		}
		http.DefaultClient.CloseIdleConnections()
	})
}

// What is kept is given while the upstream fails, however it does, and the record says so.
func TestCacheWhileUpstreamFails(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		var calls atomic.Int64
		addr := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
			if _, _, err := whytest.ReadRequest(r); err != nil {
				return
			}
			switch n := calls.Add(1); n {
			case 1:
				io.WriteString(nc, "HTTP/1.1 200 OK\r\nCache-Control: max-age=0, stale-if-error=60\r\nETag: \"a\"\r\nContent-Length: 4\r\n\r\nkept")
			case 2, 3, 4, 5:
				fmt.Fprintf(nc, "HTTP/1.1 %d No\r\nContent-Length: 6\r\n\r\nbroken", []int{500, 502, 503, 504}[n-2])
			case 6: // closes
			case 7: // and within the answer
				io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
			default:
				io.WriteString(nc, "HTTP/1.1 501 No\r\nContent-Length: 6\r\n\r\nbroken")
			}
		})
		n := whytest.Start(t, engine, upstreamSpec(whytest.API("http://"+addr, "/", "  - cache: {}"), "retries: {attempts: 0}"))
		for i := 1; i <= 7; i++ {
			a := n.Call("GET", "/a", "", "Host: a")
			if a.StatusCode != 200 || a.Body != "kept" || a.Header.Get("Whygate-Refused-By") != "" {
				t.Fatalf("call %d: %d %v %q", i, a.StatusCode, a.Header, a.Body)
			}
			if notes, _ := hints(t, n, a); (notes["cache.stale"] != "") != (i > 1) {
				t.Errorf("call %d: %v", i, notes)
			}
		}
		if a := n.Call("GET", "/a", "", "Host: a"); a.StatusCode != 501 {
			t.Errorf("a failure that is none: %d", a.StatusCode)
		}
	})
}

// An answer that breaks off is not kept.
func TestCacheKeepsWholeAnswersOnly(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		var calls atomic.Int64
		addr := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
			if _, _, err := whytest.ReadRequest(r); err != nil {
				return
			}
			length := 100_000
			if calls.Add(1) > 1 {
				length = 50_000
			}
			fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n%s", length, strings.Repeat("x", 50_000))
		})
		n := whytest.Start(t, engine, upstreamSpec(whytest.API("http://"+addr, "/", "  - cache: {}"), quick))
		if _, _, _, err := fetch(t, n, "GET", ""); err == nil {
			t.Error("a broken answer is whole")
		}
		for range 2 {
			if a := n.Call("GET", "/", "", "Host: a"); len(a.Body) != 50_000 {
				t.Errorf("%d bytes", len(a.Body))
			}
		}
		if calls.Load() != 2 {
			t.Errorf("%d calls of the upstream", calls.Load())
		}
	})
}

// Routes that inherit a transform have parameters of their own.
func TestTransformInherited(t *testing.T) {
	t.Parallel()
	up := whytest.Script(t, always(ok))
	docs := whytest.API(up.URL(), "/", "  - transform: {request: {headers: {set: {X-Id: \"{path.id}\"}}}}") + "  stages: [{name: dev}]\n  routes: [{path: \"/a/{id}\"}, {path: \"/b/c/{id}\"}]\n"
	n := whytest.Start(t, "wire", docs)
	for _, path := range []string{"/dev/a/7", "/dev/b/c/7"} {
		if a := n.Call("GET", path, ""); a.StatusCode != 200 || up.Last(t).Get("X-Id") != "7" {
			t.Errorf("%s: %d, %q", path, a.StatusCode, up.Last(t).Get("X-Id"))
		}
	}
}

// Nobody waits for the end of an answer that is not kept.
func TestCacheWaitsForHeadsOnly(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		var calls atomic.Int64
		head, end := make(chan bool), make(chan bool)
		up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {
			if calls.Add(1) == 1 {
				<-head
				w.Header().Set("Content-Type", "text/event-stream")
				w.WriteHeader(200)
				w.(http.Flusher).Flush()
				<-end
			}
			io.WriteString(w, "end")
		})
		n := whytest.Start(t, engine, whytest.API(up.URL, "/", "  - cache: {ttl: 1h, wait: 30s}"))
		done := make(chan string, 2)
		get := func() { done <- n.Call("GET", "/x", "").Body }
		stats := n.Snapshot().Routes[0].Stats
		go get()
		whytest.Eventually(t, "the first call is at the upstream", func() bool { return calls.Load() == 1 })
		go get()
		whytest.Eventually(t, "the second call is here", func() bool { return stats.Read().InFlight == 2 })
		close(head)
		if got := <-done; got != "end" || calls.Load() != 2 { // the second: the first has not ended
			t.Errorf("%q after %d calls", got, calls.Load())
		}
		close(end)
		<-done
	})
}

// A client that leaves while its call waits for another one is not waited for.
func TestClientLeavesCacheWait(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		var calls atomic.Int64
		release := make(chan bool)
		up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {
			calls.Add(1)
			<-release
			w.Header().Set("Cache-Control", "max-age=60")
		})
		n := whytest.Start(t, engine, whytest.API(up.URL, "/", "  - cache: {wait: 30s}"))
		done := make(chan bool)
		go func() { n.Call("GET", "/x", ""); close(done) }()
		whytest.Eventually(t, "the first call is at the upstream", func() bool { return calls.Load() == 1 })
		nc, err := net.Dial("tcp", n.Addr())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(nc, "GET /x HTTP/1.1\r\nHost: "+n.Addr()+"\r\nUser-Agent: leaves\r\n\r\n")
		stats := n.Snapshot().Routes[0].Stats
		whytest.Eventually(t, "the second call is here", func() bool { return stats.Read().InFlight == 2 })
		nc.Close()
		if rec := n.Last(func(r *calllog.Record) bool { return r.UserAgent == "leaves" }); rec.Status != 499 {
			t.Errorf("record %d %q", rec.Status, rec.Reason)
		}
		close(release)
		<-done
	})
}

// What gRPC sends passes every filter as it is, trailers included.
func TestGRPCUntouched(t *testing.T) {
	t.Parallel()
	_, _, url := startGRPC(t)
	policies := "  - cache: {ttl: 1m}\n  - transform: {response: {body: {remove: [a]}}}\n  - mask: {patterns: [card], fields: [a]}\n  - compress: {minSize: 1B, types: [application/grpc, text/*]}"
	n := whytest.Start(t, "wire", upstreamSpec(whytest.API(url, "/", policies), "protocol: h2"))
	client := dialGRPC(t, n.Addresses()[0], nil)
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "x-ask", "me", "accept-encoding", "gzip"), 4*patience)
	defer cancel()
	for range 2 {
		var header, trailer metadata.MD
		res, err := client.UnaryCall(ctx, &pb.SimpleRequest{ResponseSize: 4111, Payload: &pb.Payload{Body: []byte("4111111111111111")}}, grpc.Header(&header), grpc.Trailer(&trailer))
		if err != nil || len(res.Payload.Body) != 4111 || trailer["x-trailer"] == nil || header["content-encoding"] != nil || header["cache-status"] != nil {
			t.Errorf("%v, header %v, trailer %v", err, header, trailer)
		}
	}
}

// An answer that cannot be passed on, to a call whose body is still on its way.
func TestFilterRefusesDuringUpload(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		addr := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
			for { // the head alone
				if line, err := r.ReadString('\n'); err != nil || line == "\r\n" {
					break
				}
			}
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{")
			io.Copy(io.Discard, r)
		})
		n := whytest.Start(t, engine, whytest.API("http://"+addr, "/", "  - mask: {fields: [a]}"))
		nc, err := net.Dial("tcp", n.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(patience))
		io.WriteString(nc, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nthe beginning")
		res, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 502 || res.Header.Get("Whygate-Reason") != "answer.not-transformed" || !res.Close {
			t.Errorf("%d %v %s %v, close %v", res.StatusCode, res.Header, b, err, res.Close)
		}
	})
}

// A policy that panics on an answer takes neither the node nor the connection of the upstream with it.
func TestFilterPanics(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always(ok))
		n := whytest.Start(t, engine, "")
		n.Edit = func(s *snapshot.Snapshot) {
			for _, r := range s.Routes {
				r.Filters = append(r.Filters, panicFilter{})
			}
		}
		if ps := n.Apply(whytest.API(up.URL(), "/", "")); ps.HasErrors() {
			t.Fatal(ps)
		}
		for range 3 {
			if a := n.Call("GET", "/", ""); a.StatusCode != 500 || a.Header.Get("Whygate-Reason") != "gateway.panic" || a.ContentLength != int64(len(a.Body)) {
				t.Errorf("%d %v %s", a.StatusCode, a.Header, a.Body)
			}
		}
	})
}

type panicFilter struct{}

func (panicFilter) Filter(*policy.Exchange, *wire.Head) (policy.Transform, error) {
	return panicFilter{}, nil
}

func (panicFilter) Write([]byte, bool) ([]byte, error) { panic("in a filter") }
