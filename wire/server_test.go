package wire

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// mixed are requests of every kind in a row, and what echo answers.
var mixed = []struct{ method, send, want string }{
	{"GET", get("/1"), "GET a /1 \"\"\n"},
	{"POST", "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "POST a /2 \"hello\"\n"},
	{"POST", "POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n02\r\nde\r\n0\r\n\r\n", "POST a /3 \"abcde\"\n"},
	{"HEAD", "HEAD /4 HTTP/1.1\r\nHost: a\r\n\r\n", ""},
	{"POST", "POST /5 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "POST a /5 \"\"\n"},
	{"POST", "POST /6 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n", "POST a /6 \"\"\n"},
	{"PUT", "PUT /7?a=b HTTP/1.1\r\nHost: b.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", "PUT b.test /7?a=b \"abc\"\n"},
	{"POST", "POST /8 HTTP/1.1\r\nHost: a\r\nContent-Length: 6000\r\n\r\n" + strings.Repeat("x", 6000), fmt.Sprintf("POST a /8 %q\n", strings.Repeat("x", 6000))},
	{"DELETE", "DELETE /9 HTTP/1.1\r\nHost: a\r\n\r\n", "DELETE a /9 \"\"\n"},
}

// TestPipelining sends requests of every kind, all at once and in pieces of every size.
func TestPipelining(t *testing.T) {
	s := start(t, nil, echo, nil)
	all := ""
	for range 3 {
		for _, m := range mixed {
			all += m.send
		}
	}
	for _, size := range []int{len(all), 4096, 1000, 333, 50, 7} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			c := s.dial()
			go func() {
				for rest := all; rest != ""; {
					n := min(size, len(rest))
					c.send(rest[:n])
					rest = rest[n:]
					if size < 4096 && len(rest)%5 == 0 {
						time.Sleep(50 * time.Microsecond) // so that not everything arrives at once
					}
				}
			}()
			for i := range 3 * len(mixed) {
				m := mixed[i%len(mixed)]
				g := c.read(m.method)
				if g.StatusCode == 100 {
					g = c.read(m.method)
				}
				if g.StatusCode != 200 || g.text != m.want {
					t.Fatalf("request %d: %d %.80q, want %.80q", i, g.StatusCode, g.text, m.want)
				}
			}
		})
	}
}

// TestByteByByte sends each byte on its own.
func TestByteByByte(t *testing.T) {
	s := start(t, nil, echo, nil)
	c := s.dial()
	for _, m := range mixed[:7] {
		for i := range m.send {
			c.send(m.send[i : i+1])
			if i%16 == 0 {
				time.Sleep(100 * time.Microsecond)
			}
		}
		g := c.read(m.method)
		if g.StatusCode == 100 {
			g = c.read(m.method)
		}
		if g.text != m.want {
			t.Fatalf("%q: %q, want %q", m.send, g.text, m.want)
		}
	}
}

// TestBodyLeavesNothingBehind: a body that comes in parts is read into the buffer in which its
// first part had come. What is left there of that part is no request.
func TestBodyLeavesNothingBehind(t *testing.T) {
	var calls atomic.Int32
	s := start(t, nil, func(c *Call) { calls.Add(1); echo(c) }, nil)
	c := s.dial()
	c.send("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 43\r\n\r\nxxxxx" + get("/hidden"))
	time.Sleep(50 * time.Millisecond)
	c.send("yyyyy")
	c.expect(200, "POST a /1 ")
	c.send(get("/2"))
	c.expect(200, "GET a /2 ")
	if n := calls.Load(); n != 2 {
		t.Errorf("%d calls were served, two were made", n)
	}
}

// TestEmptyLines: one before a request is passed over, as RFC 9112 §2.2 wants it.
func TestEmptyLines(t *testing.T) {
	s := start(t, nil, echo, nil)
	c := s.dial()
	c.send("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\r\n" + get("/2"))
	c.expect(200, "POST a /1 ")
	c.expect(200, "GET a /2 ")
	c.send("\r\n")
	time.Sleep(20 * time.Millisecond)
	c.send(get("/3"))
	c.expect(200, "GET a /3 ")
	c.send("\r\n\r\n" + get("/4"))
	c.expect(400, string(BadRequestLine))
	c.closed(5 * time.Second)
}

func TestHeaderTimeout(t *testing.T) {
	s := start(t, nil, echo, func(c *Config) { c.HeaderTimeout = 300 * time.Millisecond })
	t.Run("first request", func(t *testing.T) {
		c := s.dial()
		begun := time.Now()
		stop := drip(c, "GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
		defer stop()
		c.expect(408, string(HeaderTimeout))
		if d := time.Since(begun); d < 300*time.Millisecond || d > 3*time.Second {
			t.Errorf("refused after %v", d)
		}
	})
	t.Run("later request", func(t *testing.T) {
		c := s.dial()
		c.send(get("/"))
		c.expect(200, "GET")
		c.send("GET / HTTP/1.1\r\n")
		c.expect(408, string(HeaderTimeout))
		c.closed(5 * time.Second)
	})
	t.Run("nothing at all", func(t *testing.T) { // there is no request to answer
		c := s.dial()
		if d := c.closed(3 * time.Second); d < 200*time.Millisecond {
			t.Errorf("closed after %v", d)
		}
	})
	t.Run("within the pipeline", func(t *testing.T) {
		c := s.dial()
		c.send(get("/1") + "GET /2 HTTP/1.1\r\nHost: a\r\n")
		c.expect(200, "GET a /1")
		c.expect(408, string(HeaderTimeout))
	})
}

// drip sends text and then a byte every 20 ms.
func drip(c *client, text string) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		c.send(text)
		for {
			select {
			case <-quit:
				return
			case <-time.After(20 * time.Millisecond):
				c.send("x")
			}
		}
	}()
	return func() { close(quit); <-done }
}

func TestBodyTimeout(t *testing.T) {
	errs := make(chan error, 10)
	s := start(t, nil, func(c *Call) {
		_, err := readAll(c)
		errs <- err
		answer(c, 408, "slow")
	}, func(c *Config) { c.BodyTimeout = 300 * time.Millisecond })
	for name, text := range map[string]string{
		"length":       "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello",
		"within chunk": "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
		"chunk size":   "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5",
		"trailer":      "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := s.dial()
			begun := time.Now()
			c.send(text)
			g := c.expect(408, "slow")
			if d := time.Since(begun); d < 300*time.Millisecond || d > 3*time.Second {
				t.Errorf("refused after %v", d)
			}
			if !g.Close {
				t.Error("the answer does not say that the connection closes")
			}
			var f *Fault
			if err := <-errs; !errors.As(err, &f) || f.Rule != BodyTimeout || f.Status != 408 {
				t.Errorf("the handler got %v", err)
			}
			c.closed(5 * time.Second)
		})
	}
	t.Run("slow but steady", func(t *testing.T) { // the bound is on pauses
		cfg := testConfig()
		cfg.BodyTimeout = time.Second
		s.SetConfig(cfg)
		c := s.dial()
		c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
		for range 5 {
			time.Sleep(300 * time.Millisecond)
			c.send("x")
		}
		c.expect(408, "slow") // the handler always says so
		if err := <-errs; err != nil {
			t.Error(err)
		}
	})
}

func TestIdleTimeout(t *testing.T) {
	s := start(t, nil, echo, func(c *Config) { c.IdleTimeout = time.Second })
	c := s.dial()
	for range 5 { // each call begins the time anew
		c.send(get("/"))
		c.expect(200, "GET")
		time.Sleep(300 * time.Millisecond)
	}
	if d := c.closed(5 * time.Second); d < 500*time.Millisecond {
		t.Errorf("closed after %v", d)
	}
}

func TestWriteTimeout(t *testing.T) {
	type result struct {
		err  error
		took time.Duration
		gone bool
	}
	results := make(chan result, 1)
	s := start(t, nil, func(c *Call) {
		begun := time.Now()
		c.Respond(&Head{Status: 200, Length: -1})
		piece := make([]byte, 32<<10)
		var err error
		for err == nil {
			begun = time.Now()
			err = c.Write(piece)
		}
		results <- result{err, time.Since(begun), c.Gone()}
	}, func(c *Config) { c.WriteTimeout = 300 * time.Millisecond })
	c := s.dial()
	c.send(get("/"))
	select { // the client takes nothing
	case r := <-results:
		if r.err == nil || r.took < 300*time.Millisecond || !r.gone {
			t.Errorf("the last write gave %v after %v; gone: %v", r.err, r.took, r.gone)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the handler still writes")
	}
	eventually(t, "the connection is closed", func() bool { return s.Conns() == 0 })
}

func TestHTTP10(t *testing.T) {
	s := start(t, nil, func(c *Call) {
		if c.Request.Path == "/stream" {
			c.Respond(&Head{Status: 200, Length: -1})
			c.Write([]byte("one"))
			c.Flush()
			c.Inform(103, nil) // not to 1.0
			c.Write([]byte("two"))
			c.End(Fields{{Name: "X-Sum", Value: "1"}})
			return
		}
		echo(c)
	}, nil)
	t.Run("closes", func(t *testing.T) {
		c := s.dial()
		c.send("GET / HTTP/1.0\r\n\r\n")
		b, err := io.ReadAll(c)
		if want := "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nGET  / \"\"\n"; err != nil || string(b) != want {
			t.Errorf("%q, %v; want %q", b, err, want)
		}
	})
	t.Run("keeps alive where asked", func(t *testing.T) {
		c := s.dial()
		for range 3 {
			c.send("POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\nHost: b\r\n\r\nhi")
			if g := c.expect(200, "POST b / \"hi\""); g.Header.Get("Connection") != "keep-alive" {
				t.Errorf("Connection: %q", g.Header.Get("Connection"))
			}
		}
	})
	t.Run("content until the end", func(t *testing.T) { // chunks are unknown to it
		c := s.dial()
		c.send("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
		b, err := io.ReadAll(c)
		if want := "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nonetwo"; err != nil || string(b) != want {
			t.Errorf("%q, %v; want %q", b, err, want)
		}
	})
	t.Run("a body in two parts", func(t *testing.T) {
		c := s.dial()
		c.send("POST / HTTP/1.0\r\nContent-Length: 4\r\n\r\nab")
		time.Sleep(20 * time.Millisecond)
		c.send("cd")
		c.expect(200, "POST  / \"abcd\"")
		c.closed(5 * time.Second)
	})
}

func TestConnectionClose(t *testing.T) {
	s := start(t, nil, echo, nil)
	c := s.dial()
	c.send(get("/1", "Connection: close") + get("/2"))
	if g := c.expect(200, "GET a /1"); !g.Close {
		t.Error("the answer does not say that the connection closes")
	}
	c.closed(5 * time.Second) // the second request is not served
}

// TestFraming looks at the bytes of answers.
func TestFraming(t *testing.T) {
	var head Head
	var pieces []string
	var trailer Fields
	s := start(t, nil, func(c *Call) {
		h := head
		c.Respond(&h)
		for _, p := range pieces {
			if p == "" {
				c.Flush()
			}
			c.Write([]byte(p))
		}
		c.End(trailer)
	}, nil)
	sum := Fields{{Name: "X-Sum", Value: "1"}}
	for _, a := range []struct {
		name, method string
		head         Head
		pieces       []string
		trailer      Fields
		want         string
	}{
		{"length", "GET", Head{Status: 200, Length: 5}, []string{"hel", "lo"}, nil, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"},
		{"nothing", "GET", Head{Status: 200, Length: 0}, nil, nil, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
		{"chunks", "GET", Head{Status: 200, Length: -1}, []string{"hel", "", "lo and more than nine"}, nil, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n15\r\nlo and more than nine\r\n0\r\n\r\n"},
		{"no chunks", "GET", Head{Status: 200, Length: -1}, nil, nil, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{"trailer", "GET", Head{Status: 200, Length: -1, Fields: Fields{{Name: "Trailer", Value: "X-Sum"}}}, []string{"a"}, sum, "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n"},
		{"no trailer behind a length", "GET", Head{Status: 200, Length: 1}, []string{"a"}, sum, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"},
		{"HEAD", "HEAD", Head{Status: 200, Length: 5}, []string{"hello"}, nil, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"},
		{"HEAD, length unknown", "HEAD", Head{Status: 200, Length: -1}, []string{"hello"}, sum, "HTTP/1.1 200 OK\r\n\r\n"},
		{"204", "GET", Head{Status: 204, Length: 0}, []string{"hello"}, nil, "HTTP/1.1 204 No Content\r\n\r\n"},
		{"304", "GET", Head{Status: 304, Length: -1}, []string{"hello"}, nil, "HTTP/1.1 304 Not Modified\r\n\r\n"},
		{"304 with a promise", "GET", Head{Status: 304, Length: 5}, nil, nil, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"},
		{"a status of one's own", "GET", Head{Status: 499, Phrase: "Odd", Length: 0}, nil, nil, "HTTP/1.1 499 Odd\r\nContent-Length: 0\r\n\r\n"},
		{"a status without a phrase", "GET", Head{Status: 499, Length: 0}, nil, nil, "HTTP/1.1 499 \r\nContent-Length: 0\r\n\r\n"},
	} {
		t.Run(a.name, func(t *testing.T) {
			head, pieces, trailer = a.head, a.pieces, a.trailer
			c := s.dial()
			c.send(a.method + " / HTTP/1.1\r\nHost: a\r\n\r\n")
			b := make([]byte, len(a.want))
			n, err := io.ReadFull(c, b)
			if string(b[:n]) != a.want {
				t.Errorf("%q, %v; want %q", b[:n], err, a.want)
			}
			// The next answer stands where it belongs.
			head, pieces, trailer = Head{Status: 200, Length: 2}, []string{"ok"}, nil
			c.send(get("/next"))
			c.expect(200, "ok")
		})
	}
}

// TestLargeAnswers: pieces around the sizes of buffers arrive whole, by length and in chunks.
func TestLargeAnswers(t *testing.T) {
	data := make([]byte, 200_000)
	for i := range data {
		data[i] = byte(i * 13 >> 4)
	}
	s := start(t, nil, func(c *Call) {
		var length int64
		var piece int
		fmt.Sscanf(c.Request.Path, "/%d/%d", &length, &piece)
		c.Respond(&Head{Status: 200, Length: length})
		for rest := data; len(rest) > 0; {
			n := min(piece, len(rest))
			if c.Write(rest[:n]) != nil {
				return
			}
			rest = rest[n:]
		}
		c.End(nil)
	}, nil)
	c := s.dial()
	for _, length := range []int{-1, len(data)} {
		for _, piece := range []int{1000, 3900, 4000, 4050, 4094, 4096, 32 << 10, 200_000} {
			c.send(get(fmt.Sprintf("/%d/%d", length, piece)))
			if g := c.read("GET"); g.text != string(data) {
				t.Fatalf("length %d, pieces of %d: got %d bytes", length, piece, len(g.text))
			}
		}
	}
}

func TestContinue(t *testing.T) {
	var wanted atomic.Bool
	s := start(t, nil, func(c *Call) {
		if !wanted.Load() {
			answer(c, 403, "no")
			return
		}
		echo(c)
	}, nil)
	head := func(n int) string {
		return fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", n)
	}
	t.Run("wanted", func(t *testing.T) {
		wanted.Store(true)
		c := s.dial()
		for range 3 {
			c.send(head(5))
			if g := c.read("POST"); g.StatusCode != 100 {
				t.Fatalf("status %d", g.StatusCode)
			}
			c.send("hello")
			c.expect(200, "POST a / \"hello\"")
		}
	})
	t.Run("sent anyway", func(t *testing.T) {
		wanted.Store(true)
		c := s.dial()
		c.send(head(5) + "hello" + get("/2"))
		c.expect(200, "POST a / \"hello\"") // 100 would come too late to mean anything
		c.expect(200, "GET a /2")
	})
	t.Run("sent in part", func(t *testing.T) {
		wanted.Store(true)
		c := s.dial()
		c.send(head(5) + "he")
		time.Sleep(20 * time.Millisecond)
		c.send("llo")
		c.expect(200, "POST a / \"hello\"")
	})
	t.Run("refused", func(t *testing.T) {
		wanted.Store(false)
		c := s.dial()
		c.send(head(5))
		if g := c.expect(403, "no"); !g.Close { // whether the body follows is not known (RFC 9110 §10.1.1)
			t.Error("the connection is kept")
		}
		c.send(get("/smuggled")) // as the body
		c.closed(5 * time.Second)
	})
	t.Run("refused, sent anyway", func(t *testing.T) {
		wanted.Store(false)
		c := s.dial()
		c.send(head(36) + get("/smuggled"))
		c.expect(403, "no")
		c.closed(5 * time.Second)
	})
	t.Run("no body", func(t *testing.T) {
		wanted.Store(false)
		c := s.dial()
		c.send(head(0))
		if g := c.expect(403, "no"); g.Close {
			t.Error("the connection is not kept")
		}
		c.send(get("/2"))
		c.expect(403, "no")
	})
}

// TestTrailers carries them in: those that a client sends arrive with the end of the content.
func TestTrailers(t *testing.T) {
	s := start(t, nil, func(c *Call) {
		_, err := readAll(c)
		text := fmt.Sprint(err)
		for _, f := range c.Trailer() {
			text += " " + f.Name + "=" + f.Value
		}
		answer(c, 200, text)
	}, nil)
	c := s.dial()
	const head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
	c.send(head + "1\r\na\r\n0\r\nX-Sum: 5\r\nX-Other: 6\r\n\r\n")
	c.expect(200, "<nil> X-Sum=5 X-Other=6")
	c.send(head + "1\r\na\r\n0\r\n\r\n") // those of the call before are gone
	if g := c.expect(200, "<nil>"); g.text != "<nil>" {
		t.Errorf("%q", g.text)
	}
	c.send(head + "1\r\na\r\n0\r\nContent-Length: 5\r\n\r\n" + get("/2"))
	if g := c.expect(200, "trailer-forbidden"); !g.Close {
		t.Error("the connection is kept after a fault within the body")
	}
	c.closed(5 * time.Second)
}

// TestFaultWithinBody: where the next request begins is not known any more.
func TestFaultWithinBody(t *testing.T) {
	var read atomic.Bool
	s := start(t, nil, func(c *Call) {
		if read.Load() {
			readAll(c)
		}
		answer(c, 200, "answered")
	}, nil)
	for _, r := range []bool{true, false} {
		read.Store(r)
		c := s.dial()
		c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n0\r\n\r\n" + get("/smuggled"))
		c.expect(200, "answered")
		c.closed(5 * time.Second)
	}
}

// TestLargeBodies streams both ways with bounded memory: 64 MiB, and 1 GiB with WHYGATE_LONG=1.
func TestLargeBodies(t *testing.T) {
	size := int64(64 << 20)
	if os.Getenv("WHYGATE_LONG") != "" {
		size = 1 << 30
	}
	s := start(t, nil, func(c *Call) { // gives back what it takes
		c.Respond(&Head{Status: 200, Length: c.Request.Length})
		for {
			p, last, err := c.Next()
			if err != nil {
				c.Abort()
				return
			}
			if c.Write(p) != nil {
				return
			}
			if last {
				c.End(nil)
				return
			}
		}
	}, nil)
	piece := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	for _, how := range []string{"length", "chunked"} {
		t.Run(how, func(t *testing.T) {
			c := s.dial()
			c.SetDeadline(time.Now().Add(5 * time.Minute))
			go func() {
				w := bufio.NewWriterSize(c, 64<<10)
				if how == "length" {
					fmt.Fprintf(w, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size)
				} else {
					io.WriteString(w, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
				}
				for left := size; left > 0; left -= int64(len(piece)) {
					if how == "chunked" {
						fmt.Fprintf(w, "%x\r\n", len(piece))
					}
					w.Write(piece)
					if how == "chunked" {
						io.WriteString(w, "\r\n")
					}
				}
				if how == "chunked" {
					io.WriteString(w, "0\r\n\r\n")
				}
				w.Flush()
			}()
			res, err := http.ReadResponse(c.r, nil)
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, len(piece))
			most := uint64(0)
			for n := int64(0); n < size; n += int64(len(piece)) {
				if _, err := io.ReadFull(res.Body, buf); err != nil || !bytes.Equal(buf, piece) {
					t.Fatalf("after %d bytes: %v", n, err)
				}
				if n%(8<<20) == 0 {
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					most = max(most, m.HeapInuse)
				}
			}
			if n, err := res.Body.Read(buf); n != 0 || err != io.EOF {
				t.Errorf("the end: %d, %v", n, err)
			}
			if most > 32<<20 {
				t.Errorf("the heap grew to %d MiB", most>>20)
			}
		})
	}
}

// waiting is what a call waits for in tests.
type waiting struct{ interrupted chan struct{} }

func (w *waiting) Interrupt() { close(w.interrupted) }

// TestClientGone: a call that waits learns within two seconds that nobody waits for it.
func TestClientGone(t *testing.T) {
	type result struct {
		after time.Duration
		told  bool // by Unbind
		gone  bool
	}
	results := make(chan result, 1)
	begun := make(chan time.Time, 1)
	s := start(t, nil, func(c *Call) {
		w := &waiting{make(chan struct{})}
		c.Bind(w)
		begun <- time.Now()
		select {
		case <-w.interrupted:
		case <-time.After(10 * time.Second):
		}
		at := time.Now()
		results <- result{after: time.Since(at), told: c.Unbind(), gone: c.Gone()}
		c.Abort()
	}, func(c *Config) { c.HalfClosedTimeout = 500 * time.Millisecond })
	for name, leave := range map[string]func(*client){
		"closed": func(c *client) { c.Close() },
		"reset":  func(c *client) { c.Conn.(*net.TCPConn).SetLinger(0); c.Close() },
		"half-closed for long": func(c *client) {
			c.Conn.(*net.TCPConn).CloseWrite()
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.dial()
			c.send(get("/"))
			at := <-begun
			leave(c)
			select {
			case r := <-results:
				if d := time.Since(at); d > 3*time.Second || !r.told || !r.gone {
					t.Errorf("interrupted after %v: %+v", d, r)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("the call still waits")
			}
		})
	}
}

// TestHalfClosed: a client that has sent all it has to say still gets its answer, when that comes soon.
func TestHalfClosed(t *testing.T) {
	s := start(t, nil, func(c *Call) {
		w := &waiting{make(chan struct{})}
		c.Bind(w)
		select {
		case <-w.interrupted:
		case <-time.After(400 * time.Millisecond):
		}
		if c.Unbind() {
			c.Abort()
			return
		}
		echo(c)
	}, func(c *Config) { c.HalfClosedTimeout = 3 * time.Second })
	c := s.dial()
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
	c.Conn.(*net.TCPConn).CloseWrite()
	c.expect(200, "POST a / \"hello\"")
	c.closed(5 * time.Second)
	// Cut short, the request is answered too.
	c = s.dial()
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
	c.Conn.(*net.TCPConn).CloseWrite()
	c.expect(400, "body: unexpected EOF")
	// Within the head there is nothing to answer to.
	c = s.dial()
	c.send("GET / HTTP/1.1\r\nHo")
	c.Conn.(*net.TCPConn).CloseWrite()
	c.closed(5 * time.Second)
}

// TestEarlyAnswer answers while another goroutine still reads the body, as forwarding does when the
// upstream does not wait for it.
func TestEarlyAnswer(t *testing.T) {
	s := start(t, nil, func(c *Call) {
		read := make(chan error)
		go func() {
			for {
				_, last, err := c.Next()
				if err != nil || last {
					read <- err
					return
				}
			}
		}()
		if c.Request.Path == "/whole" { // the body does come to its end, after the answer has begun
			c.Respond(&Head{Status: 200, Length: 5})
			c.Write([]byte("ear"))
			c.Flush()
			if err := <-read; err != nil {
				t.Errorf("reading the body: %v", err)
			}
			c.Write([]byte("ly"))
			c.End(nil)
			return
		}
		answer(c, 401, "early")
		c.StopReading()
		if err := <-read; err == nil {
			t.Error("the body was read to its end")
		}
	}, nil)
	for _, framing := range []string{"Content-Length: 10000000", "Transfer-Encoding: chunked"} {
		c := s.dial()
		c.send("POST / HTTP/1.1\r\nHost: a\r\n" + framing + "\r\n\r\n")
		stop := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			piece := "4000\r\n" + strings.Repeat("x", 0x4000) + "\r\n"
			for {
				select {
				case <-stop:
					return
				default:
					if _, err := io.WriteString(c, piece); err != nil {
						return
					}
				}
			}
		}()
		c.expect(401, "early")
		close(stop)
		c.Conn.Close()
		<-done
	}
	c := s.dial()
	c.send("POST /whole HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
	time.Sleep(50 * time.Millisecond)
	c.send("cde")
	c.expect(200, "early")
	c.send(get("/whole")) // a small rest was awaited, so the connection is kept
	c.expect(200, "early")
}

// TestUnreadBodies: a refused call does not read its body. A small one is read to keep the
// connection, a large one ends it; the answer can be read in any case.
func TestUnreadBodies(t *testing.T) {
	s := start(t, nil, func(c *Call) {
		if c.Request.Path == "/read" {
			echo(c)
			return
		}
		answer(c, 403, "no")
	}, nil)
	t.Run("small", func(t *testing.T) {
		c := s.dial()
		for _, framing := range []string{"Content-Length: 60000\r\n\r\n" + strings.Repeat("x", 60000), "Transfer-Encoding: chunked\r\n\r\nea60\r\n" + strings.Repeat("x", 60000) + "\r\n0\r\n\r\n"} {
			c.send("POST / HTTP/1.1\r\nHost: a\r\n" + framing)
			if g := c.expect(403, "no"); g.Close {
				t.Error("the connection is not kept")
			}
			c.send(get("/read"))
			c.expect(200, "GET a /read")
		}
	})
	t.Run("small, late", func(t *testing.T) {
		c := s.dial()
		c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
		c.expect(403, "no")
		c.send("hello" + get("/read"))
		c.expect(200, "GET a /read")
	})
	for name, framing := range map[string]string{"large": "Content-Length: 20000000\r\n\r\n", "large, in chunks": "Transfer-Encoding: chunked\r\n\r\n1312d00\r\n"} {
		t.Run(name, func(t *testing.T) {
			c := s.dial()
			// It sends all of it before it reads anything.
			_, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\n"+framing+strings.Repeat("x", 20_000_000))
			if err != nil {
				t.Errorf("sending: %v", err)
			}
			c.expect(403, "no")
			c.closed(5 * time.Second)
		})
	}
	t.Run("slow", func(t *testing.T) { // for longer than the server waits for one piece
		c := s.dial()
		c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n")
		for range 25 {
			if _, err := io.WriteString(c, strings.Repeat("x", 1000)); err != nil {
				t.Fatalf("sending: %v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		c.expect(403, "no")
	})
	t.Run("sent after Connection: close", func(t *testing.T) {
		for range 20 {
			c := s.dial()
			c.send("POST /read HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi\r\n")
			c.expect(200, "POST a /read \"hi\"")
			c.closed(5 * time.Second)
		}
	})
}

// TestHeadTooLarge: the refusal names what is too large.
func TestHeadTooLarge(t *testing.T) {
	s := start(t, nil, echo, func(c *Config) { c.HeaderBytes, c.URIBytes = 8<<10, 1<<10 })
	big := strings.Repeat("y", 6000)
	for _, a := range []struct {
		name, send string
		status     int
		rule       Rule
		says       string
	}{
		{"a cookie", get("/x:y", "A: 1", "Cookie: "+big, "X: "+strings.Repeat("z", 3000)), 431, HeadersTooLarge, `"Cookie" with 60`},
		{"without end", "GET / HTTP/1.1\r\nHost: a\r\nX-Big: " + strings.Repeat("y", 20000), 431, HeadersTooLarge, `"X-Big"`},
		{"the target", get("/" + big), 414, TargetTooLong, "1024"},
		{"the target, without end", "GET /" + strings.Repeat("y", 20000), 414, TargetTooLong, "request line"},
		{"many", get("/", strings.Split(strings.TrimSuffix(strings.Repeat("X: y,", 101), ","), ",")...), 431, TooManyHeaders, "100"},
		{"just right", get("/", "X: "+strings.Repeat("y", 8<<10-len(get("/", "X: ")))), 200, "", "GET a /"},
		{"one byte more", get("/", "X: "+strings.Repeat("y", 8<<10-len(get("/", "X: "))+1)), 431, HeadersTooLarge, `"X"`},
	} {
		for _, pieces := range []int{1, 7} {
			t.Run(fmt.Sprintf("%s/%d", a.name, pieces), func(t *testing.T) {
				c := s.dial()
				for i := range pieces {
					c.send(a.send[len(a.send)*i/pieces : len(a.send)*(i+1)/pieces])
					time.Sleep(time.Millisecond)
				}
				g := c.read("GET")
				if g.StatusCode != a.status || !strings.Contains(g.text, a.says) {
					t.Errorf("%d %.200q, want %d and %q", g.StatusCode, g.text, a.status, a.says)
				}
				if a.rule != "" && !strings.HasPrefix(g.text, string(a.rule)+"\n") {
					t.Errorf("%.100q, want the rule %s", g.text, a.rule)
				}
			})
		}
	}
}

// TestConfigSwap: a connection obeys a new configuration from its next call on.
func TestConfigSwap(t *testing.T) {
	s := start(t, nil, echo, nil)
	c := s.dial()
	c.send(get("/" + strings.Repeat("x", 100)))
	c.expect(200, "GET")
	cfg := testConfig()
	cfg.URIBytes = 50
	s.SetConfig(cfg)
	c.send(get("/" + strings.Repeat("x", 100)))
	c.expect(414, string(TargetTooLong))
}

func TestMaxAge(t *testing.T) {
	for name, l := range map[string]*Listener{"wire": nil, "std": stdListener} {
		t.Run(name, func(t *testing.T) { testMaxAge(t, l) })
	}
	t.Run("h2", func(t *testing.T) {
		s := start(t, &Listener{Name: "h2c", HTTP2: true}, echo, func(c *Config) { c.MaxAge, c.IdleTimeout = 100*time.Millisecond, time.Hour })
		h := dialH2(s.dial())
		get := []string{":method: GET", ":scheme: http", ":authority: a", ":path: /"}
		h.request(1, true, get...)
		if got := h.answer(1); !strings.HasPrefix(got, "200 GET") {
			t.Fatalf("%q", got)
		}
		time.Sleep(150 * time.Millisecond)
		h.request(3, true, get...)
		for answered, ends := false, false; !answered || !ends; {
			f, err := h.fr.ReadFrame()
			if err != nil {
				t.Fatalf("answered: %v, said to end: %v, then %v", answered, ends, err)
			}
			switch f := f.(type) {
			case *http2.MetaHeadersFrame:
				answered = f.StreamID == 3 && f.PseudoValue("status") == "200"
			case *http2.GoAwayFrame:
				ends = f.ErrCode == http2.ErrCodeNo
			}
		}
	})
}

func testMaxAge(t *testing.T, l *Listener) {
	s := start(t, l, echo, func(c *Config) { c.MaxAge = 100 * time.Millisecond })
	c := s.dial()
	c.send(get("/"))
	if g := c.expect(200, "GET"); g.Close {
		t.Error("closed at once")
	}
	time.Sleep(150 * time.Millisecond)
	c.send(get("/"))
	if g := c.expect(200, "GET"); !g.Close {
		t.Error("kept beyond its age")
	}
	c.closed(5 * time.Second)
}

func TestConnectionLimits(t *testing.T) {
	s := start(t, nil, echo, func(c *Config) { c.MaxConns = 3 }, func(s *Server) { s.Trusted = nil })
	open := func(n int, rule Rule) {
		var kept []*client
		for range n {
			c := s.dial()
			c.send(get("/"))
			c.expect(200, "GET")
			kept = append(kept, c)
		}
		for range 3 {
			c := s.dial()
			c.send(get("/"))
			c.expect(503, string(rule))
			c.Close()
		}
		for _, c := range kept { // those that are in are not touched
			c.send(get("/"))
			c.expect(200, "GET")
			c.Close()
		}
		eventually(t, "connections are counted out", func() bool { return s.Conns() == 0 })
	}
	open(3, TooManyConns)
	cfg := testConfig()
	cfg.MaxConnsPerAddr = 2
	s.SetConfig(cfg)
	open(2, TooManyFromAddr)
	if n := s.TurnedAway.Load(); n != 6 {
		t.Errorf("%d were turned away", n)
	}
}

// TestConnectionsOfANetwork: addresses of IPv6 that one host has by the million count as one.
func TestConnectionsOfANetwork(t *testing.T) {
	s := &Server{}
	s.SetConfig(Config{MaxConnsPerAddr: 2})
	s.conns, s.perAddr = map[*conn]struct{}{}, map[netip.Addr]int{}
	var open []*conn
	for i, c := range []struct {
		peer string
		over bool
	}{{"2001:db8::1", false}, {"2001:db8::2", false}, {"2001:db8::ffff:3", true}, {"2001:db8:0:1::1", false}, {"192.0.2.1", false}, {"192.0.2.2", false}, {"192.0.2.1", false}, {"192.0.2.1", true}} {
		conn := &conn{srv: s, cfg: s.config.Load()}
		conn.call.Peer = netip.AddrPortFrom(netip.MustParseAddr(c.peer), uint16(1000+i))
		f := s.remember(conn)
		if open = append(open, conn); (f != nil) != c.over {
			t.Errorf("%d %s: %v", i, c.peer, f)
		} else if f != nil && strings.Contains(c.peer, ":") && !strings.Contains(f.Text, "2001:db8::/64 holds") {
			t.Errorf("%d: %s", i, f.Text)
		}
	}
	for _, c := range open {
		s.forget(c)
	}
	if len(s.perAddr) > 0 || s.active != 0 {
		t.Errorf("left are %v", s.perAddr)
	}
}

// TestFlood: beyond the bound, connections are answered only as long as they are few.
func TestFlood(t *testing.T) {
	s := start(t, nil, echo, func(c *Config) { c.MaxConns = 8 })
	var open []*client
	for range 100 {
		open = append(open, s.dial())
	}
	eventually(t, "all but eight are turned away", func() bool { return s.TurnedAway.Load() == 92 })
	answered := 0
	for _, c := range open {
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if b, _ := c.r.Peek(1); len(b) > 0 {
			answered++
		}
	}
	for _, c := range open {
		c.Close()
	}
	if answered < maxRefusing/2 || answered > 2*maxRefusing {
		t.Errorf("%d were answered", answered)
	}
	eventually(t, "connections are counted out", func() bool { return s.Conns() == 0 })
	c := s.dial()
	c.send(get("/"))
	c.expect(200, "GET")
}

// TestStopTakesTheQueue: who has connected is served, though nobody had accepted the connection yet.
func TestStopTakesTheQueue(t *testing.T) {
	s := start(t, nil, echo, nil)
	s.stop()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var clients []net.Conn
	for i := range 20 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, get(fmt.Sprint("/", i)))
		clients = append(clients, c)
	}
	Stop(ln)
	if err := s.Server.Serve(ln, &Listener{Name: "test"}); err != nil {
		t.Fatal(err)
	}
	ln.Close()
	for i, c := range clients {
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		if b, _ := io.ReadAll(res.Body); res.StatusCode != 200 || string(b) != fmt.Sprintf("GET a /%d \"\"\n", i) {
			t.Errorf("client %d: %d %q", i, res.StatusCode, b)
		}
	}
}

// TestDrain drains under load: clients that obey Connection: close lose no request.
func TestDrain(t *testing.T) {
	for round := range 2 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			s := start(t, nil, func(c *Call) {
				time.Sleep(time.Millisecond)
				echo(c)
			}, nil, func(s *Server) { s.linger = 2 * time.Second }) // longer than any client of this test lingers
			var calls, lost atomic.Int64
			var wg sync.WaitGroup
			stop := make(chan struct{})
			idle := s.dial()
			idle.send(get("/"))
			idle.expect(200, "GET")
			for range 32 {
				c := s.dial()
				wg.Go(func() {
					defer c.Close()
					for n := 0; ; n++ {
						if _, err := io.WriteString(c, get(fmt.Sprint("/", n))); err != nil {
							lost.Add(1)
							return
						}
						res, err := http.ReadResponse(c.r, nil)
						if err != nil {
							lost.Add(1)
							t.Errorf("request %d: %v", n, err)
							return
						}
						io.Copy(io.Discard, res.Body)
						calls.Add(1)
						if res.Close {
							return
						}
						select {
						case <-stop:
							t.Error("the connection outlived the drain")
							return
						default:
						}
					}
				})
			}
			time.Sleep(100 * time.Millisecond)
			s.stop()
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			begun := time.Now()
			if broken := s.Drain(ctx); broken > 0 {
				t.Errorf("%d connections had to be broken", broken)
			}
			took := time.Since(begun)
			close(stop)
			wg.Wait()
			if lost.Load() > 0 || calls.Load() < 32 {
				t.Errorf("%d calls, %d lost", calls.Load(), lost.Load())
			}
			if took < time.Second || took > 8*time.Second {
				t.Errorf("draining took %v, with a connection that was idle", took)
			}
			idle.closed(time.Second)
		})
	}
}

// TestAbort: the client must not take the part that it got for the whole.
func TestAbort(t *testing.T) {
	s := start(t, nil, func(c *Call) {
		c.Respond(&Head{Status: 200, Length: -1})
		c.Write([]byte("part"))
		c.Flush()
		time.Sleep(20 * time.Millisecond)
		c.Abort()
	}, nil)
	for _, proto := range []string{"1.1", "1.0"} {
		c := s.dial()
		c.send("GET / HTTP/" + proto + "\r\nHost: a\r\n\r\n")
		if b, err := io.ReadAll(c); err == nil || !bytes.HasSuffix(b, []byte("part")) && !bytes.HasSuffix(b, []byte("part\r\n")) {
			t.Errorf("HTTP/%s: %q, %v", proto, b, err)
		}
	}
}

// TestInform sends informational answers before the final one.
func TestInform(t *testing.T) {
	s := start(t, nil, func(c *Call) {
		c.Inform(103, Fields{{Name: "Link", Value: "</a>; rel=preload"}})
		c.Inform(102, nil)
		echo(c)
	}, nil)
	c := s.dial()
	c.send(get("/"))
	if g := c.read("GET"); g.StatusCode != 103 || g.Header.Get("Link") != "</a>; rel=preload" {
		t.Errorf("%d %v", g.StatusCode, g.Header)
	}
	if g := c.read("GET"); g.StatusCode != 102 {
		t.Errorf("%d", g.StatusCode)
	}
	c.expect(200, "GET")
}

// TestTunnel: the connection changes hands with what had been read of it, and is counted until it
// is closed.
func TestTunnel(t *testing.T) {
	s := start(t, nil, func(c *Call) {
		c.Respond(&Head{Status: 101, Fields: Fields{{Name: "Upgrade", Value: c.Request.Upgrade, ID: Upgrade}}})
		nc, pre, err := c.Tunnel()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		b, _ := io.ReadAll(nc)
		nc.Write([]byte(strings.ToUpper(string(pre) + string(b))))
	}, nil)
	c := s.dial()
	c.send(get("/", "Connection: Upgrade", "Upgrade: echo") + "with the head, ")
	if g := c.read("GET"); g.StatusCode != 101 || g.Header.Get("Upgrade") != "echo" || g.Header.Get("Connection") != "Upgrade" {
		t.Fatalf("%d %v", g.StatusCode, g.Header)
	}
	c.send("and behind it")
	if n := s.Conns(); n != 1 {
		t.Errorf("%d connections are counted", n)
	}
	c.Conn.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(c.r)
	if err != nil || string(b) != "WITH THE HEAD, AND BEHIND IT" {
		t.Errorf("%q, %v", b, err)
	}
	eventually(t, "the tunnel is counted out", func() bool { return s.Conns() == 0 })
}

// TestPanic: a handler that panics costs its connection and nothing else.
func TestPanic(t *testing.T) {
	s := start(t, nil, func(c *Call) {
		if c.Request.Path == "/panic" {
			panic("as asked")
		}
		echo(c)
	}, nil)
	c := s.dial()
	c.send(get("/panic"))
	c.closed(5 * time.Second)
	c = s.dial()
	c.send(get("/"))
	c.expect(200, "GET")
	if s.Panics.Swap(0) != 1 {
		t.Error("the panic was not counted")
	}
}

// TestPoison: a string of a request that somebody kept shows itself.
func TestPoison(t *testing.T) {
	kept := make(chan string, 1)
	s := start(t, nil, func(c *Call) {
		select {
		case kept <- c.Request.Path:
		default:
		}
		echo(c)
	}, nil)
	c := s.dial()
	c.send(get("/kept"))
	c.expect(200, "GET")
	c.send(get("/next"))
	c.expect(200, "GET")
	if p := <-kept; p == "/kept" {
		t.Error("the memory of a call was not poisoned after it")
	}
}

// TestGarbage: what is no HTTP at all is answered with a rule, at once.
func TestGarbage(t *testing.T) {
	s := start(t, nil, echo, nil)
	for _, a := range []struct{ send, says string }{
		{"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"},
		{"\x00\x01\x02\x03", "0x00"},
		{"SSH-2.0-OpenSSH_9.2\n", string(BareLF)},
		{"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + get("/"), string(BadProxyHeader)},
		{"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c", string(BadProxyHeader)},
		{"\x80\x80\x80", "0x80"},
		{" GET / HTTP/1.1\r\n", "0x20"},
		{Preface, string(UnsupportedVersion)},
	} {
		c := s.dial()
		c.send(a.send)
		if g := c.read("GET"); g.StatusCode < 400 || !strings.Contains(g.text, a.says) || !g.Close {
			t.Errorf("%q: %d %q, want %q", a.send, g.StatusCode, g.text, a.says)
		}
		c.closed(5 * time.Second)
	}
}
