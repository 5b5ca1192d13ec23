package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// The fuzz targets hold the parser against net/http's: what net/http refuses is never accepted
// here, and what both accept both read alike. We may refuse more.

// fuzzLimits do not get in the way.
var fuzzLimits = Limits{HeaderBytes: 1 << 20, HeaderCount: 1000, URIBytes: 1 << 20, Underscores: UnderscoreAllow}

// headerOf is how net/http presents fields.
func headerOf(fs Fields) http.Header {
	h := http.Header{}
	for _, f := range fs {
		k := textproto.CanonicalMIMEHeaderKey(f.Name)
		h[k] = append(h[k], f.Value)
	}
	return h
}

// sameHeader compares our fields to net/http's, which takes some out and puts one in.
func sameHeader(ours Fields, theirs http.Header, chunked bool) error {
	want, got := headerOf(ours), theirs.Clone()
	for _, h := range []http.Header{want, got} {
		h.Del("Host")              // Request.Host
		h.Del("Transfer-Encoding") // Request.TransferEncoding
		if chunked {
			h.Del("Trailer") // Request.Trailer
		}
		if h.Get("Pragma") == "no-cache" {
			h.Del("Cache-Control") // net/http adds one
		}
	}
	if !reflect.DeepEqual(want, got) {
		return fmt.Errorf("fields\n%v, net/http reads\n%v", want, got)
	}
	return nil
}

func FuzzRequest(f *testing.F) {
	for _, c := range requestFaults {
		f.Add([]byte(c.bad))
		f.Add([]byte(c.fine))
	}
	f.Add([]byte(browserHead))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, fault := ParseRequest(data, &fuzzLimits)
		if fault != nil {
			if fault.Text == "" || fault.Wanted == "" || fault.Status < 400 || fault.Status > 599 {
				t.Fatalf("%q: a fault that says nothing: %+v", data, fault)
			}
			return
		}
		br := bufio.NewReaderSize(bytes.NewReader(data), max(len(data), 16))
		h, err := http.ReadRequest(br)
		if err != nil {
			t.Fatalf("%q: accepted; net/http: %v", data, err)
		}
		scanned := 0
		n, _ := headEnd(data, &scanned)
		if rest := br.Buffered(); rest != len(data)-n {
			t.Fatalf("%q: the head ends at %d, net/http says at %d", data, n, len(data)-rest)
		}
		chunked := slices.Equal(h.TransferEncoding, []string{"chunked"})
		switch {
		case r.Method != h.Method, r.Target != h.RequestURI, int(r.Proto) != h.ProtoMajor*10+h.ProtoMinor:
			t.Fatalf("%q: %s %s %d, net/http reads %s %s %s", data, r.Method, r.Target, r.Proto, h.Method, h.RequestURI, h.Proto)
		case r.Authority != h.Host:
			t.Fatalf("%q: authority %q, net/http reads %q", data, r.Authority, h.Host)
		case r.Length != h.ContentLength || (r.Length < 0) != chunked || len(h.TransferEncoding) > 0 && !chunked:
			t.Fatalf("%q: length %d, net/http reads %d and %v", data, r.Length, h.ContentLength, h.TransferEncoding)
		case r.KeepAlive == h.Close:
			t.Fatalf("%q: keep alive %v, net/http closes: %v", data, r.KeepAlive, h.Close)
		}
		if err := sameHeader(r.Fields, h.Header, chunked); err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		if r.Path != "*" {
			checkNormal(t, r.Target, r.Path)
		}
	})
}

func FuzzResponse(f *testing.F) {
	for _, method := range []string{"GET", "HEAD", "POST"} {
		f.Add(method, []byte(lines("HTTP/1.1 200 OK", "Content-Length: 5", "Connection: close")))
		f.Add(method, []byte(lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Trailer: X-Sum")))
		f.Add(method, []byte(lines("HTTP/1.0 304", "Content-Length: 5", "Connection: keep-alive")))
		f.Add(method, []byte(lines("HTTP/1.1 204 No Content")))
		f.Add(method, []byte(lines("HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: websocket")))
		f.Add(method, []byte(lines("HTTP/1.1 103 Early Hints", "Link: </a>; rel=preload")))
		f.Add(method, []byte("HTTP/1.1 200 OK\nX: y\r\n z\r\n\r\n"))
	}
	f.Fuzz(func(t *testing.T, method string, data []byte) {
		if !IsToken(method) {
			return
		}
		scanned := 0
		n, fault := headEnd(data, &scanned)
		if n == 0 || fault != nil {
			return
		}
		var r Response
		if fault := r.parse(data[:n], method, &fuzzLimits); fault != nil {
			return
		}
		br := bufio.NewReaderSize(bytes.NewReader(data), max(len(data), 16))
		h, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("%q: accepted; net/http: %v", data, err)
		}
		if rest := br.Buffered(); rest != len(data)-n {
			t.Fatalf("%q: the head ends at %d, net/http says at %d", data, n, len(data)-rest)
		}
		length := r.Length
		switch never := r.Status < 200 || r.Status == 204; {
		case method == "HEAD" && never: // there is nothing to promise, but net/http still says what stands there
			length = h.ContentLength
		case method != "HEAD" && r.Status == 304: // net/http keeps the promise to itself
			length = 0
		}
		chunked := slices.Equal(h.TransferEncoding, []string{"chunked"})
		switch {
		case r.Status != h.StatusCode, int(r.Proto) != h.ProtoMajor*10+h.ProtoMinor:
			t.Fatalf("%q: %d %d, net/http reads %d %s", data, r.Status, r.Proto, h.StatusCode, h.Proto)
		case length != h.ContentLength || (r.framing == byChunks) && !chunked:
			t.Fatalf("%s %q: framing %d, length %d, net/http reads %d and %v", method, data, r.framing, r.Length, h.ContentLength, h.TransferEncoding)
		case r.keepAlive && h.Close:
			t.Fatalf("%s %q: kept alive, net/http closes", method, data)
		}
		if !r.keepAlive { // then net/http takes the field out
			r.Fields.Remove("Connection")
			h.Header.Del("Connection")
		}
		if err := sameHeader(r.Fields, h.Header, chunked); err != nil {
			t.Fatalf("%q: %v", data, err)
		}
	})
}

func FuzzChunked(f *testing.F) {
	for _, c := range chunkFaults {
		if len(c.bad) < 2000 {
			f.Add([]byte(c.bad), []byte{0}, uint16(0))
			f.Add([]byte(c.fine+"GET /next"), []byte{3, 0, 9}, uint16(7))
		}
	}
	f.Fuzz(func(t *testing.T, data, splits []byte, first uint16) {
		content, rest, trailer, err := decode(data, byChunks, 0, smallBuffer, 64, int(first), splits, &fuzzLimits)
		// How the bytes arrive makes no difference.
		again, rest2, _, err2 := decode(data, byChunks, 0, smallBuffer, 64, 1<<20, nil, &fuzzLimits)
		if !bytes.Equal(content, again) || !bytes.Equal(rest, rest2) || ruleOf(err) != ruleOf(err2) {
			t.Fatalf("%q: in pieces of %v: %q, rest %q, %v; at once: %q, rest %q, %v", data, splits, content, rest, err, again, rest2, err2)
		}
		if err != nil {
			return
		}
		const head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
		br := bufio.NewReaderSize(strings.NewReader(head+string(data)), len(head)+len(data))
		h, herr := http.ReadRequest(br)
		if herr != nil {
			t.Fatal(herr)
		}
		theirs, herr := io.ReadAll(h.Body)
		if herr != nil {
			t.Fatalf("%q: accepted as %q; net/http: %v", data, content, herr)
		}
		theirRest, _ := io.ReadAll(br)
		if !bytes.Equal(content, theirs) || !bytes.Equal(rest, theirRest) {
			t.Fatalf("%q: %q, rest %q; net/http reads %q, rest %q", data, content, rest, theirs, theirRest)
		}
		if want, got := headerOf(trailer), h.Trailer; len(want)+len(got) > 0 && !reflect.DeepEqual(want, got) {
			t.Fatalf("%q: trailer %v, net/http reads %v", data, want, got)
		}
	})
}

// ruleOf is what two errors must agree in.
func ruleOf(err error) any {
	var f *Fault
	if errors.As(err, &f) {
		return f.Rule
	}
	return err
}

func FuzzPath(f *testing.F) {
	for _, p := range []string{"/", "/a/../b", "/%2e%2E/", "/a/..;/b", "/a%2f..%5c", "//a//..", "/é%c3%a9", "/a?b/../c", "http://a/b/../c", "*", "/.well-known", "/..%3bx"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, in string) {
		p, fault := normal(in)
		if fault != nil || p == "*" {
			return
		}
		if strings.HasPrefix(in, "/") {
			checkNormal(t, in, p)
		}
		if s := SafePath(p); s != p {
			t.Fatalf("%q: the normal form %q is not safe: %q", in, p, s)
		}
	})
}

func FuzzHeadEnd(f *testing.F) {
	f.Add([]byte(browserHead+"GET / HTTP/1.1\r\n"), []byte{0})
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\n\r\n"), []byte{2, 5})
	f.Add([]byte("\r\n\r\n"), []byte{0})
	f.Add([]byte("GET / HTTP/1.1\r\n\r\r\n\r\n"), []byte{16, 0})
	f.Fuzz(func(t *testing.T, data, splits []byte) {
		scanned := 0
		want, wantFault := headEnd(data, &scanned)
		n, scanned := 0, 0
		var fault *Fault
		src := script{data: data, splits: splits}
		var have []byte
		buf := make([]byte, 64)
		for n == 0 && fault == nil {
			m, err := src.read(buf)
			if err != nil {
				break
			}
			have = append(have, buf[:m]...)
			n, fault = headEnd(have, &scanned)
		}
		if n != want || !reflect.DeepEqual(fault, wantFault) {
			t.Fatalf("%q in pieces of %v: %d, %v; at once: %d, %v", data, splits, n, fault, want, wantFault)
		}
		if n > 0 && !bytes.HasSuffix(data[:n], []byte("\r\n\r\n")) && n != 2 {
			t.Fatalf("%q: a head of %q", data, data[:n])
		}
	})
}

// memConn is a connection in memory: it gives its script and then ends.
type memConn struct {
	script
	out    bytes.Buffer
	closed chan struct{}
}

func (m *memConn) Read(p []byte) (int, error)  { return m.script.read(p) }
func (m *memConn) Write(p []byte) (int, error) { return m.out.Write(p) }
func (m *memConn) Close() error {
	select {
	case <-m.closed:
	default:
		close(m.closed)
	}
	return nil
}
func (m *memConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (m *memConn) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }
func (m *memConn) SetDeadline(time.Time) error      { return nil }
func (m *memConn) SetReadDeadline(time.Time) error  { return nil }
func (m *memConn) SetWriteDeadline(time.Time) error { return nil }

// seen is one request as a server made it out of a stream.
type seen struct {
	method, target, body string
	whole                bool
}

// reader is a handler that reads some of the bodies and answers.
type reader struct {
	how    byte
	seen   []seen
	faults []*Fault
}

func (r *reader) Serve(c *Call) {
	s := seen{method: strings.Clone(c.Request.Method), target: strings.Clone(c.Request.Target)}
	pieces := -1 // all
	switch r.how % 4 {
	case 1:
		pieces = 0
	case 2:
		pieces = 1
	case 3:
		pieces = len(r.seen) % 3
	}
	c.Continue()
	for ; pieces != 0; pieces-- {
		p, last, err := c.Next()
		s.body += string(p)
		if s.whole = last && err == nil; last || err != nil {
			break
		}
	}
	// The head must have stayed as it was while the body was read behind it.
	if s.method != c.Request.Method || s.target != c.Request.Target {
		panic("the head was written over")
	}
	r.seen = append(r.seen, s)
	c.Respond(&Head{Status: 200, Length: 2})
	c.Write([]byte("ok"))
	c.End(nil)
}

func (r *reader) Malformed(c *Call, f *Fault) {
	r.faults = append(r.faults, f)
	c.Respond(&Head{Status: f.Status, Length: 0})
	c.End(nil)
}

// streams are seeds: pipelined requests in which a body may pass for a request.
var streams = []string{
	"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloPOST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 43\r\n\r\nxxxxxGET /hidden HTTP/1.1\r\nHost: a\r\n\r\nyyyyyGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /1 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n24\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n0\r\n\r\n\r\n0\r\nX: y\r\n\r\nGET /2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\nHEAD /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /4 HTTP/1.1\r\nHost: a\r\n\r\n",
}

// FuzzStream serves a stream of requests as it comes from a connection, in pieces, and holds the
// requests that were served against those that net/http finds in the same stream. This is
// request smuggling in small: no byte of a body may become a request.
func FuzzStream(f *testing.F) {
	for i, s := range streams {
		f.Add([]byte(s), []byte{255}, byte(i))
		f.Add([]byte(s), []byte{0}, byte(i+1))
		f.Add([]byte(s), []byte{86, 4}, byte(i+4-i%4)) // the third: its body in two reads, the second over the first
	}
	w := NewWatch()
	f.Cleanup(w.Close)
	f.Fuzz(func(t *testing.T, data, splits []byte, how byte) {
		r := &reader{how: how}
		s := &Server{Handler: r, Watch: w, Log: slog.New(slog.DiscardHandler)}
		s.SetConfig(Config{Limits: fuzzLimits, HeaderTimeout: time.Minute, BodyTimeout: time.Minute, WriteTimeout: time.Minute, IdleTimeout: time.Minute})
		m := &memConn{script: script{data: data, splits: splits}, closed: make(chan struct{})}
		s.conns, s.perAddr = map[*conn]struct{}{}, map[netip.Addr]int{}
		s.start(m, &Listener{Name: "fuzz"})
		<-m.closed
		if s.Panics.Load() > 0 {
			t.Fatalf("%q: panicked", data)
		}
		br := bufio.NewReaderSize(bytes.NewReader(data), max(len(data), 16))
		for i, got := range r.seen {
			for skipped := 0; ; skipped++ { // an empty line before a request
				if b, _ := br.Peek(2); string(b) != "\r\n" || skipped == 1 {
					break
				}
				br.Discard(2)
			}
			h, err := http.ReadRequest(br)
			if err != nil {
				t.Fatalf("%q: request %d is %+v; net/http: %v", data, i, got, err)
			}
			body, err := io.ReadAll(h.Body)
			if h.Method != got.method || h.RequestURI != got.target || got.whole && (err != nil || string(body) != got.body) || !strings.HasPrefix(string(body), got.body) {
				t.Fatalf("%q: request %d is %+v; net/http reads %s %s %q %v", data, i, got, h.Method, h.RequestURI, body, err)
			}
		}
	})
}
