package replay

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/whygate/whygate/pinpoint"
)

// quick is a Sender without pauses for a URL.
func quick(t *testing.T, r *pinpoint.Request, o SenderOptions) *Sender {
	t.Helper()
	o.Pace = -1
	s, err := NewSender(caseOf(r), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func caseOf(r *pinpoint.Request) *pinpoint.Case {
	return &pinpoint.Case{Source: "url", Exchanges: []pinpoint.Exchange{{Request: r}}, Vault: pinpoint.NewVault()}
}

func get(u string, fields ...string) *pinpoint.Request {
	r := &pinpoint.Request{Method: "GET", URL: u}
	for i := 0; i+1 < len(fields); i += 2 {
		r.Header = append(r.Header, pinpoint.Field{Name: fields[i], Value: fields[i+1]})
	}
	return r
}

// listen runs a server of bare connections; it counts them.
func listen(t *testing.T, serve func(c net.Conn)) (addr string, count *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	count = new(atomic.Int32)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			count.Add(1)
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(20 * time.Second))
				serve(c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String(), count
}

// heard reads one request as raw text.
func heard(c net.Conn) string {
	var b strings.Builder
	r := bufio.NewReader(c)
	length := 0
	for {
		line, err := r.ReadString('\n')
		b.WriteString(line)
		if n, ok := strings.CutPrefix(strings.ToLower(line), "content-length: "); ok {
			fmt.Sscan(n, &length)
		}
		if err != nil || line == "\r\n" {
			break
		}
	}
	body := make([]byte, length)
	io.ReadFull(r, body)
	return b.String() + string(body)
}

func TestSenderIsExact(t *testing.T) {
	var got string
	addr, _ := listen(t, func(c net.Conn) {
		got = heard(c)
		io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 403 Forbidden\r\nserver: tEst\r\nX-One: 1\r\nx-one: 2\r\n folded\r\nContent-Length: 2\r\n\r\nno")
	})
	r := get("http://"+addr+"/a%2Fb//c;x=%C3%A4/../ü z?q=%20&q=+#frag", "user-AGENT", "x", "X-Dup", "1", "Host", "shop.test", "x-dup", "2", ":authority", "y", "content-length", "99")
	r.Method, r.Body = "POST", []byte("body")
	a, err := quick(t, r, SenderOptions{}).Send(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	want := "POST /a%2Fb//c;x=%C3%A4/../%C3%BC%20z?q=%20&q=+ HTTP/1.1\r\nuser-AGENT: x\r\nX-Dup: 1\r\nHost: shop.test\r\nx-dup: 2\r\ncontent-length: 4\r\n\r\nbody"
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	header := pinpoint.Header{{Name: "server", Value: "tEst"}, {Name: "X-One", Value: "1"}, {Name: "x-one", Value: "2 folded"}, {Name: "Content-Length", Value: "2"}}
	if d := cmp.Diff(header, a.Header); d != "" || a.Status != 403 || string(a.Body) != "no" || a.Cut || a.Remote.String() != addr {
		t.Errorf("%s %+v", d, a)
	}
}

func TestSenderChunks(t *testing.T) {
	var got []byte
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, _ = io.ReadAll(r.Body)
		if !slices.Equal(r.TransferEncoding, []string{"chunked"}) {
			t.Errorf("%v", r.TransferEncoding)
		}
	}))
	defer srv.Close()
	r := get(srv.URL, "Transfer-Encoding", "chunked", "Content-Length", "3")
	r.Method, r.Body = "PUT", []byte("a body")
	a, err := quick(t, r, SenderOptions{}).Send(context.Background(), r)
	if err != nil || a.Status != 200 || string(got) != "a body" {
		t.Errorf("%v %+v %q", err, a, got)
	}
}

func TestSenderHTTP2(t *testing.T) {
	var path, host, proto, body string
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		body = string(b)
		path, host, proto = r.RequestURI, r.Host, r.Proto
		w.Header().Set("Set-Cookie", "sid=very-secret; Path=/")
		w.WriteHeader(403)
		io.WriteString(w, "you sent "+r.Header.Get("Authorization"))
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	r := get(srv.URL+"/a%2Fb?x", "Host", "shop.test", "Connection", "close")
	c := caseOf(r)
	r.Header = append(r.Header, pinpoint.Field{Name: "Authorization", Value: "Bearer " + c.Vault.Hide("token-of-someone")})
	s, err := NewSender(c, SenderOptions{Pace: -1})
	if err != nil {
		t.Fatal(err)
	}
	if a, _ := s.Send(context.Background(), r); a.Status != 0 || a.Err != "the certificate is from an unknown authority" {
		t.Errorf("an unknown certificate: %+v", a)
	}
	r.Via.Insecure = true
	r.Method, r.Body = "POST", []byte("a body")
	for _, p := range []string{"HTTP/1.1", "HTTP/2"} {
		r.Proto = p
		a, err := s.Send(context.Background(), r)
		if err != nil || a.Status != 403 || path != "/a%2Fb?x" || body != "a body" || host != "shop.test" || !strings.HasPrefix(proto, p) || !strings.HasPrefix(a.Proto, p) || a.TLS != "TLS 1.3" {
			t.Fatalf("%s: %v %+v %q %q %q", p, err, a, path, host, proto)
		}
		if strings.Contains(string(a.Body)+a.Header.Value("Set-Cookie"), "secret;") || strings.Contains(string(a.Body), "token-of") {
			t.Errorf("%s: a secret stays in %q, %q", p, a.Body, a.Header)
		}
		if !strings.Contains(string(a.Body), "you sent Bearer ‹secret:") {
			t.Errorf("%s: %q", p, a.Body)
		}
	}
}

func TestSenderRefuses(t *testing.T) {
	addr, count := listen(t, func(c net.Conn) { heard(c) })
	base := get("http://" + addr + "/")
	secure := get("https://shop.test/")
	for _, c := range []struct {
		name string
		from *pinpoint.Request
		edit func(r *pinpoint.Request)
	}{
		{"another host", base, func(r *pinpoint.Request) { r.URL = "http://127.0.0.2:80/" }},
		{"another port", base, func(r *pinpoint.Request) { r.URL = "http://127.0.0.1:1/" }},
		{"another address to connect to", base, func(r *pinpoint.Request) { r.Via.To = "127.0.0.1:1" }},
		{"a field with a line end", base, func(r *pinpoint.Request) {
			r.Header = pinpoint.Header{{Name: "A", Value: "x\r\nEvil: 1"}}
		}},
		{"a name with a space", base, func(r *pinpoint.Request) { r.Header = pinpoint.Header{{Name: "A B", Value: "x"}} }},
		{"a method with a space", base, func(r *pinpoint.Request) { r.Method = "GET /x HTTP/1.1\r\n" }},
		{"a URL with a line end", base, func(r *pinpoint.Request) { r.URL += "\r\nEvil: 1" }},
		{"a file", base, func(r *pinpoint.Request) { r.URL = "file:///etc/passwd" }},
		{"a certificate without permission", secure, func(r *pinpoint.Request) { r.Via.Cert = "/etc/passwd" }},
		{"a CA without permission", secure, func(r *pinpoint.Request) { r.Via.CA = "/etc/passwd" }},
		{"a credential in the clear", secure, func(r *pinpoint.Request) {
			r.URL = "http://shop.test/"
			r.Header = pinpoint.Header{{Name: "Authorization", Value: "x"}}
		}},
		{"a proxy of another kind", base, func(r *pinpoint.Request) { r.Via.Proxy = "ftp://127.0.0.1:1" }},
		{"a family", base, func(r *pinpoint.Request) { r.Via.Family = 5 }},
	} {
		s := quick(t, c.from, SenderOptions{})
		r := c.from.Clone()
		c.edit(r)
		a, err := s.Send(context.Background(), r)
		if err == nil || a != nil {
			t.Errorf("%s: sent", c.name)
		} else if strings.Contains(err.Error(), "Evil") || strings.Contains(err.Error(), "passwd") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if n := count.Load(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

// TestHostileServers meets servers that want to do harm: each ends within its bound.
func TestHostileServers(t *testing.T) {
	bomb := func(w func(io.Writer) io.WriteCloser) []byte {
		var b bytes.Buffer
		z := w(&b)
		zero := make([]byte, 1<<20)
		for range 4 {
			z.Write(zero)
		}
		z.Close()
		return b.Bytes()
	}
	coded := func(coding string, body []byte) func(io.Writer) {
		return func(w io.Writer) {
			fmt.Fprintf(w, "HTTP/1.1 403 no\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n", coding, len(body))
			w.Write(body)
		}
	}
	gz := func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }
	packed := func(b []byte) []byte {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		z.Write(b)
		z.Close()
		return out.Bytes()
	}
	forever := func(w io.Writer, s string) {
		for {
			if _, err := io.WriteString(w, s); err != nil {
				return
			}
		}
	}
	for _, c := range []struct {
		name   string
		serve  func(w io.Writer)
		status int
		err    string
		cut    bool
		body   int // exact length, -1 any
	}{
		{"endless body", func(w io.Writer) {
			io.WriteString(w, "HTTP/1.1 403 no\r\n\r\n")
			forever(w, strings.Repeat("x", 4096))
		}, 403, "", true, pinpoint.MaxBody},
		{"endless chunks", func(w io.Writer) {
			io.WriteString(w, "HTTP/1.1 403 no\r\nTransfer-Encoding: chunked\r\n\r\n")
			forever(w, "5\r\nhello\r\n")
		}, 403, "", true, -1},
		{"endless fields", func(w io.Writer) { io.WriteString(w, "HTTP/1.1 403 no\r\n"); forever(w, "X: y\r\n") }, 0, "malformed answer: its head is longer than 65536 bytes", false, 0},
		{"one field of a megabyte", func(w io.Writer) {
			io.WriteString(w, "HTTP/1.1 403 no\r\nX: "+strings.Repeat("y", 1<<20)+"\r\n\r\n")
		}, 0, "malformed answer: its head is longer than 65536 bytes", false, 0},
		{"endless interim answers", func(w io.Writer) { forever(w, "HTTP/1.1 100 Continue\r\n\r\n") }, 0, "malformed answer: too many interim answers", false, 0},
		{"no HTTP", func(w io.Writer) { forever(w, "SSH-2.0-x\r\n") }, 0, "malformed answer: it does not begin with HTTP/", false, 0},
		{"drip", func(w io.Writer) {
			io.WriteString(w, "HTTP/1.1 403 no\r\n\r\n")
			for {
				if _, err := io.WriteString(w, "x"); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}, 403, "", true, -1},
		{"silence", func(w io.Writer) { io.Copy(io.Discard, w.(io.Reader)) }, 0, "timeout", false, 0},
		{"data behind a handshake", func(w io.Writer) {
			io.WriteString(w, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
			forever(w, "frame")
		}, 101, "", false, 0},
		{"nothing", func(io.Writer) {}, 0, "connection closed without an answer", false, 0},
		{"broken chunks", func(w io.Writer) {
			io.WriteString(w, "HTTP/1.1 403 no\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx")
		}, 403, "", true, 0},
		{"a length that lies", func(w io.Writer) { io.WriteString(w, "HTTP/1.1 403 no\r\nContent-Length: 99\r\n\r\nabc") }, 403, "", true, 3},
		{"a length below zero", func(w io.Writer) { io.WriteString(w, "HTTP/1.1 403 no\r\nContent-Length: -1\r\n\r\nabc") }, 403, "", true, 0},
		{"gzip bomb", coded("gzip", bomb(gz)), 403, "", true, pinpoint.MaxBody},
		{"zlib bomb", coded("deflate", bomb(func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) })), 403, "", true, pinpoint.MaxBody},
		{"bare deflate bomb", coded("deflate", bomb(func(w io.Writer) io.WriteCloser { z, _ := flate.NewWriter(w, 9); return z })), 403, "", true, pinpoint.MaxBody},
		{"brotli bomb", coded("br", bomb(func(w io.Writer) io.WriteCloser { return brotli.NewWriterLevel(w, 4) })), 403, "", true, pinpoint.MaxBody},
		{"zstd bomb", coded("zstd", bomb(func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w); return z })), 403, "", true, pinpoint.MaxBody},
		{"bomb in a bomb", coded("gzip, gzip", packed(bomb(gz))), 403, "", true, pinpoint.MaxBody},
		{"broken gzip", coded("gzip", []byte("no gzip")), 403, "", false, 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			addr, count := listen(t, func(conn net.Conn) { heard(conn); c.serve(conn) })
			r := get("http://" + addr + "/")
			limit := 15 * time.Second
			if c.name == "drip" || c.name == "silence" { // these end by time only
				limit = 2 * time.Second
			}
			a, err := quick(t, r, SenderOptions{Timeout: limit}).Send(context.Background(), r)
			if err != nil {
				t.Fatal(err)
			}
			if a.Status != c.status || a.Err != c.err || a.Cut != c.cut || len(a.Body) > pinpoint.MaxBody || c.body >= 0 && len(a.Body) != c.body {
				t.Errorf("status %d, error %q, cut %t, %d bytes", a.Status, a.Err, a.Cut, len(a.Body))
			}
			if n := count.Load(); n != 1 {
				t.Errorf("%d connections", n)
			}
		})
	}
	t.Run("reset", func(t *testing.T) {
		addr, _ := listen(t, func(c net.Conn) { heard(c); c.(*net.TCPConn).SetLinger(0) })
		r := get("http://" + addr + "/")
		if a, err := quick(t, r, SenderOptions{}).Send(context.Background(), r); err != nil || a.Err != "connection reset" {
			t.Errorf("%v %+v", err, a)
		}
	})
	t.Run("refused while a large body is written", func(t *testing.T) {
		read := make(chan bool)
		addr, _ := listen(t, func(c net.Conn) {
			bufio.NewReader(c).ReadString('\n')
			io.WriteString(c, "HTTP/1.1 413 no\r\nContent-Length: 0\r\n\r\n")
			<-read // closing with unread bytes would reset the connection
		})
		defer close(read)
		r := get("http://" + addr + "/")
		r.Method, r.Body = "POST", make([]byte, 16<<20)
		if a, err := quick(t, r, SenderOptions{}).Send(context.Background(), r); err != nil || a.Status != 413 {
			t.Errorf("%v %+v", err, a)
		}
	})
}

func TestHostileHTTP2(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/fields" {
			w.Header().Set("X-Large", strings.Repeat("x", 1<<20))
			return
		}
		w.WriteHeader(403)
		for {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	r := get(srv.URL + "/")
	r.Proto, r.Via.Insecure = "HTTP/2", true
	s := quick(t, r, SenderOptions{})
	if a, err := s.Send(context.Background(), r); err != nil || a.Status != 403 || !a.Cut || len(a.Body) != pinpoint.MaxBody {
		t.Errorf("%v %d %s %t %d", err, a.Status, a.Err, a.Cut, len(a.Body))
	}
	r.URL += "fields"
	if a, err := s.Send(context.Background(), r); err != nil || a.Status != 0 || a.Err == "" {
		t.Errorf("%v %d %q, %d fields", err, a.Status, a.Err, len(a.Header))
	}
}

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := NewSender(caseOf(get("http://shop.test/")), SenderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for range 4 {
			if err := s.pause(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(began); d < 3*time.Second || d > 3750*time.Millisecond {
			t.Errorf("four requests in %s", d)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if s.pause(ctx) == nil {
			t.Error("a wait outlives its context")
		}
	})
}

func TestTraceEnds(t *testing.T) {
	var n atomic.Int32
	var elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		switch r.URL.Path {
		case "/circle":
			http.Redirect(w, r, "/circle2", http.StatusFound)
		case "/circle2":
			http.Redirect(w, r, "/circle", http.StatusFound)
		case "/away":
			http.Redirect(w, r, other.URL, http.StatusFound)
		default:
			http.Redirect(w, r, r.URL.Path+"x", http.StatusFound)
		}
	}))
	defer srv.Close()
	for _, c := range []struct {
		method, path string
		want         int
	}{{"GET", "/circle", 2}, {"GET", "/away", 1}, {"GET", "/on", 6}, {"POST", "/on", 1}, {"HEAD", "/on", 1}} {
		n.Store(0)
		r := get(srv.URL + c.path)
		r.Method = c.method
		all, err := quick(t, r, SenderOptions{}).Trace(context.Background(), r)
		if err != nil || len(all) != c.want || int(n.Load()) != c.want {
			t.Errorf("%s %s: %v, %d exchanges, %d requests", c.method, c.path, err, len(all), n.Load())
		}
	}
	if elsewhere.Load() != 0 {
		t.Error("another host was asked")
	}
}

func TestSenderProxy(t *testing.T) {
	var line, auth string
	addr, _ := listen(t, func(c net.Conn) {
		text := heard(c)
		line, _, _ = strings.Cut(text, "\r\n")
		auth = ""
		if i := strings.Index(text, "Proxy-Authorization: "); i >= 0 {
			auth, _, _ = strings.Cut(text[i+len("Proxy-Authorization: "):], "\r\n")
		}
		if strings.HasPrefix(line, "CONNECT") {
			io.WriteString(c, "HTTP/1.1 403 no\r\n\r\n")
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	r := get("http://shop.test:81/x%20y")
	r.Via.Proxy = "http://me:" + url.QueryEscape("p w") + "@" + addr
	a, err := quick(t, r, SenderOptions{}).Send(context.Background(), r)
	if err != nil || a.Status != 200 || line != "GET http://shop.test:81/x%20y HTTP/1.1" || auth == "" {
		t.Errorf("%v %+v %q %q", err, a, line, auth)
	}
	s := get("https://shop.test/x")
	s.Via.Proxy = r.Via.Proxy
	a, err = quick(t, s, SenderOptions{}).Send(context.Background(), s)
	if err != nil || a.Err != "Received HTTP code 403 from proxy after CONNECT" || line != "CONNECT shop.test:443 HTTP/1.1" || auth == "" {
		t.Errorf("%v %+v %q %q", err, a, line, auth)
	}
}

func TestSenderUsesUserOfURL(t *testing.T) {
	var auth string
	addr, _ := listen(t, func(c net.Conn) {
		for l := range strings.SplitSeq(heard(c), "\r\n") {
			if strings.HasPrefix(l, "Authorization") {
				auth = l
			}
		}
		io.WriteString(c, "HTTP/1.1 204 x\r\n\r\n")
	})
	c := caseOf(nil)
	c.Exchanges[0].Request = get("http://bob:" + c.Vault.Hide("right") + "@" + addr + "/?k=" + c.Vault.Hide("s"))
	s, err := NewSender(c, SenderOptions{Pace: -1})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := s.Send(context.Background(), c.Exchanges[0].Request); err != nil || a.Status != 204 || auth != "Authorization: Basic Ym9iOnJpZ2h0" {
		t.Errorf("%v %+v %q", err, a, auth)
	}
}

func FuzzReadAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 403 Forbidden\r\nA: b\r\n\r\nbody"))
	f.Add([]byte("HTTP/1.1 100 x\n\nHTTP/1.0 200\nTransfer-Encoding: chunked\n\n3\r\nabc\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 403 x\r\nContent-Encoding: br, gzip\r\n c\r\nContent-Length: 9\r\n\r\n\x1f\x8b"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		a := &pinpoint.Answer{}
		h := &headReader{r: bytes.NewReader(wire)}
		if err := h.read(a); err != nil {
			if words(err) == "" {
				t.Error("an error without words")
			}
			return
		}
		readBody(bytes.NewReader(h.rest), a)
		if a.Status < 101 || a.Status > 999 || len(a.Body) > pinpoint.MaxBody || len(a.Header) > maxFields {
			t.Errorf("%d, %d bytes, %d fields", a.Status, len(a.Body), len(a.Header))
		}
		pinpoint.Signature(a)
	})
}

func FuzzAskedPause(f *testing.F) {
	f.Add(429, "30", "", "")
	f.Add(503, "Wed, 21 Oct 2026 07:28:00 GMT", "", "")
	f.Add(403, "", "1e300", "0")
	f.Add(403, "-5", "1792567680", "0")
	f.Fuzz(func(t *testing.T, status int, after, reset, remaining string) {
		a := answerWith(status, "Retry-After", after, "X-RateLimit-Reset", reset, "X-RateLimit-Remaining", remaining)
		d := askedPause(a, time.Unix(1_700_000_000, 0))
		if d < 0 || d > maxPause || status < 400 && d != 0 {
			t.Errorf("%s for %+v", d, a)
		}
	})
}

func answerWith(status int, fields ...string) *pinpoint.Answer {
	return &pinpoint.Answer{Status: status, Header: get("", fields...).Header}
}
