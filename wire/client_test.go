package wire

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// upstreamConn is a Conn to an upstream that the test plays.
func upstreamConn(t *testing.T, secure bool, serve func(nc net.Conn, r *bufio.Reader)) *Conn {
	t.Helper()
	checkLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		if secure {
			nc = tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{testCertificate()}})
		}
		nc.SetDeadline(time.Now().Add(20 * time.Second))
		serve(nc, bufio.NewReader(nc))
	}()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if secure {
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true})
	}
	w := NewWatch()
	lim := answerLimits
	c := NewConn(nc, w, &lim)
	t.Cleanup(func() {
		c.Close()
		ln.Close()
		<-done
		w.Close()
	})
	return c
}

// roundTrip makes a GET and reads its answer whole.
func roundTrip(c *Conn, path string) (int, string, error) {
	c.Begin()
	if err := c.Send(&Outgoing{Method: "GET", Path: path, Host: "up"}, nil, time.Second); err != nil {
		return 0, "", err
	}
	if err := c.ReadHead("GET", 5*time.Second); err != nil {
		return 0, "", err
	}
	body, err := content(c)
	return c.Head().Status, body, err
}

// content reads the answer's content to its end.
func content(c *Conn) (string, error) {
	c.SetTimeout(5 * time.Second)
	body := ""
	for {
		p, last, err := c.Next()
		body += string(p)
		if last || err != nil {
			return body, err
		}
	}
}

// TestOutgoing: what is sent is what net/http reads, with content at hand, in pieces and in chunks.
func TestOutgoing(t *testing.T) {
	long := strings.Repeat("0123456789", 10_000)
	for _, secure := range []bool{false, true} {
		for _, a := range []struct {
			name    string
			o       Outgoing
			content string
			pieces  []string
			trailer Fields
			want    string
		}{
			{"GET", Outgoing{Method: "GET", Path: "/a", Host: "up"}, "", nil, nil, "GET /a up 0 [] map[] \"\" map[]"},
			{"query", Outgoing{Method: "GET", Path: "/a", Query: "b=c", HasQuery: true, Host: "up"}, "", nil, nil, "GET /a?b=c up 0 [] map[] \"\" map[]"},
			{"an empty query", Outgoing{Method: "DELETE", Path: "/a", HasQuery: true, Host: "up"}, "", nil, nil, "DELETE /a? up 0 [] map[] \"\" map[]"},
			{"POST without content", Outgoing{Method: "POST", Path: "/", Host: "up"}, "", nil, nil, "POST / up 0 [] map[Content-Length:[0]] \"\" map[]"},
			{"fields", Outgoing{Method: "GET", Path: "/", Host: "up", Fields: Fields{{Name: "x-B", Value: "1"}, {Name: "X-B", Value: "2"}}}, "", nil, nil, "GET / up 0 [] map[X-B:[1 2]] \"\" map[]"},
			{"content at hand", Outgoing{Method: "PUT", Path: "/", Host: "up", Length: 5}, "hello", nil, nil, "PUT / up 5 [] map[Content-Length:[5]] \"hello\" map[]"},
			{"content in pieces", Outgoing{Method: "PUT", Path: "/", Host: "up", Length: 5}, "", []string{"he", "", "llo"}, nil, "PUT / up 5 [] map[Content-Length:[5]] \"hello\" map[]"},
			{"long content at hand", Outgoing{Method: "PUT", Path: "/", Host: "up", Length: int64(len(long))}, long, nil, nil, fmt.Sprintf("PUT / up %d [] map[Content-Length:[%d]] %q map[]", len(long), len(long), long)},
			{"chunks", Outgoing{Method: "PUT", Path: "/", Host: "up", Length: -1}, "", []string{"he", "llo", long}, nil, fmt.Sprintf("PUT / up -1 [chunked] map[] %q map[]", "hello"+long)},
			{"chunks at hand", Outgoing{Method: "PUT", Path: "/", Host: "up", Length: -1}, "hello", nil, nil, "PUT / up -1 [chunked] map[] \"hello\" map[]"},
			{"trailers", Outgoing{Method: "PUT", Path: "/", Host: "up", Length: -1, Trailers: true, Fields: Fields{{Name: "Trailer", Value: "X-Sum"}}}, "", []string{"hello"}, Fields{{Name: "X-Sum", Value: "1"}}, "PUT / up -1 [chunked] map[Connection:[TE] Te:[trailers]] \"hello\" map[X-Sum:[1]]"},
			{"upgrade", Outgoing{Method: "GET", Path: "/", Host: "up", Upgrade: "websocket"}, "", nil, nil, "GET / up 0 [] map[Connection:[Upgrade] Upgrade:[websocket]] \"\" map[]"},
		} {
			t.Run(fmt.Sprintf("%s/secure=%v", a.name, secure), func(t *testing.T) {
				saw := make(chan string, 2)
				c := upstreamConn(t, secure, func(nc net.Conn, r *bufio.Reader) {
					for range 2 { // what follows must begin where it should
						h, err := http.ReadRequest(r)
						if err != nil {
							saw <- err.Error()
							return
						}
						b, err := io.ReadAll(h.Body)
						if err != nil {
							saw <- err.Error()
							return
						}
						if h.Trailer == nil {
							h.Trailer = http.Header{}
						}
						saw <- fmt.Sprintf("%s %s %s %d %v %v %q %v", h.Method, h.RequestURI, h.Host, h.ContentLength, h.TransferEncoding, h.Header, b, h.Trailer)
						io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
					}
				})
				for range 2 {
					o := a.o
					c.Begin()
					if err := c.Send(&o, []byte(a.content), 5*time.Second); err != nil {
						t.Fatal(err)
					}
					for _, p := range a.pieces {
						if err := c.Write([]byte(p)); err != nil {
							t.Fatal(err)
						}
					}
					if err := c.EndBody(a.trailer); err != nil {
						t.Fatal(err)
					}
					if err := c.ReadHead(o.Method, 5*time.Second); err != nil {
						t.Fatal(err)
					}
					if got := <-saw; got != a.want {
						t.Fatalf("the upstream saw\n%.300s, want\n%.300s", got, a.want)
					}
					if b, err := content(c); err != nil || b != "ok" || !c.Reusable() {
						t.Fatalf("%q, %v, reusable: %v", b, err, c.Reusable())
					}
					c.Release()
				}
			})
		}
	}
}

// TestAnswers reads answers of every framing, in pieces of every size, and says which leave the
// connection ready for another call.
func TestAnswers(t *testing.T) {
	long := strings.Repeat("0123456789", 10_000)
	for _, a := range []struct {
		name, method, send string
		close              bool // the upstream closes behind it
		status             int
		want               string
		reusable           bool
	}{
		{"length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, 200, "hello", true},
		{"nothing", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, 200, "", true},
		{"chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nhe\r\n3\r\nllo\r\n0\r\nX-Sum: 1\r\n\r\n", false, 200, "hello", true},
		{"long", "GET", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(long), long), false, 200, long, true},
		{"long chunk", "GET", fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(long), long), false, 200, long, true},
		{"until close", "GET", "HTTP/1.1 200 OK\r\n\r\nhello" + long, true, 200, "hello" + long, false},
		{"close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", true, 200, "hello", false},
		{"1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", true, 200, "hello", false},
		{"1.0 kept", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", false, 200, "hello", true},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false, 200, "", true},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", false, 204, "", true},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false, 304, "", true},
		{"informed", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, 200, "hello", true},
		{"more than promised", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\n", false, 200, "hello", false},
		{"more behind chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", false, 200, "", false},
		{"HEAD with content", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, 200, "", false},
		{"204 with content", "GET", "HTTP/1.1 204 No Content\r\n\r\nhello", false, 204, "", false},
		{"a large head", "GET", "HTTP/1.1 200 OK\r\nX: " + long[:60_000] + "\r\nContent-Length: 5\r\n\r\nhello", false, 200, "hello", true},
	} {
		for _, size := range []int{1 << 20, 4096, 1000, 1} {
			if size == 1 && len(a.send) > 1000 {
				continue
			}
			t.Run(fmt.Sprintf("%s/%d", a.name, size), func(t *testing.T) {
				c := upstreamConn(t, false, func(nc net.Conn, r *bufio.Reader) {
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					for rest := a.send; rest != ""; {
						n := min(size, len(rest))
						io.WriteString(nc, rest[:n])
						rest = rest[n:]
					}
					if !a.close {
						io.Copy(io.Discard, r)
					}
				})
				c.Begin()
				if err := c.Send(&Outgoing{Method: a.method, Path: "/", Host: "up"}, nil, time.Second); err != nil {
					t.Fatal(err)
				}
				if c.Received() {
					t.Error("something was received before it was read")
				}
				for {
					if err := c.ReadHead(a.method, 5*time.Second); err != nil {
						t.Fatal(err)
					}
					if c.Head().Status >= 200 {
						break
					}
				}
				if !a.close && !a.reusable { // so that what is too much has arrived
					time.Sleep(20 * time.Millisecond)
				}
				b, err := content(c)
				if err != nil || b != a.want || c.Head().Status != a.status || !c.Received() {
					t.Fatalf("%d %.100q, %v", c.Head().Status, b, err)
				}
				// Byte by byte, the surplus may come later: then asking the socket tells.
				if got := c.Reusable() && c.Quiet(); got != a.reusable {
					t.Errorf("reusable: %v", got)
				}
				if a.name == "chunks" && (len(c.Trailer()) != 1 || c.Trailer()[0].Value != "1") {
					t.Errorf("trailer %v", c.Trailer())
				}
			})
		}
	}
}

// TestExchange: a request and the head of its answer in one, on plain connections and with TLS.
func TestExchange(t *testing.T) {
	long := strings.Repeat("x", 4<<20) // more than a socket takes at once
	for _, secure := range []bool{false, true} {
		for _, a := range []struct {
			name   string
			fields Fields
			before string // what the upstream says on its own, ahead of the second request
			early  bool   // ahead of the first one, rather
			answer string // to each request; none if it is empty
			sent   bool
			err    error
		}{
			{name: "twice", answer: "HTTP/1.1 204 No Content\r\n\r\n", sent: true},
			{name: "more than the socket takes", fields: Fields{{Name: "X-Long", Value: long}}, answer: "HTTP/1.1 204 No Content\r\n\r\n", sent: true},
			{name: "an answer nobody asked for", before: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", answer: "HTTP/1.1 204 No Content\r\n\r\n", err: ErrNotQuiet},
			{name: "an answer to the connection", before: "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", early: true, sent: true},
			{name: "silence", sent: true, err: ErrTimeout},
		} {
			t.Run(fmt.Sprintf("%s/secure=%v", a.name, secure), func(t *testing.T) {
				said := make(chan struct{})
				end := make(chan struct{})
				defer close(end)
				c := upstreamConn(t, secure, func(nc net.Conn, r *bufio.Reader) {
					if a.early {
						io.WriteString(nc, a.before)
						said <- struct{}{}
					}
					for n := 0; n < 2; n++ {
						h, err := http.ReadRequest(r)
						if err != nil {
							return
						}
						if got := len(h.Header.Get("X-Long")); len(a.fields) > 0 && got != len(long) {
							t.Errorf("the upstream got %d bytes of %d", got, len(long))
						}
						io.WriteString(nc, a.answer)
						if n == 0 && !a.early && a.before != "" {
							<-said // apart from the answer
							io.WriteString(nc, a.before)
						}
					}
					<-end
				})
				if a.early {
					if secure {
						if err := c.nc.(*tls.Conn).Handshake(); err != nil {
							t.Fatal(err)
						}
					}
					<-said
					waitLoud(t, c)
				}
				o := Outgoing{Method: "GET", Path: "/", Host: "up", Fields: a.fields}
				exchange := func() (bool, error) {
					c.Begin()
					timeout := 10 * time.Second
					if a.answer == "" && !a.early {
						timeout = time.Millisecond
					}
					sent, err := c.Exchange(&o, nil, 10*time.Second, timeout)
					if err == nil {
						if _, err := content(c); err != nil {
							t.Error(err)
						}
						if !c.Reusable() && !a.early {
							t.Error("the connection cannot be used again")
						}
						c.Release()
					}
					return sent, err
				}
				sent, err := exchange()
				if a.answer != "" {
					if !sent || err != nil {
						t.Fatalf("the first exchange: sent %v, %v", sent, err)
					}
					if a.before != "" {
						said <- struct{}{}
						waitLoud(t, c)
					}
					sent, err = exchange()
				}
				if sent != a.sent || !errors.Is(err, a.err) {
					t.Errorf("sent %v, %v; want %v, %v", sent, err, a.sent, a.err)
				}
			})
		}
	}
}

// waitLoud waits until the connection has something to read.
func waitLoud(t *testing.T, c *Conn) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); c.Quiet(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the connection stays quiet")
		}
	}
}

// TestUnaskedAnswer: what an upstream sends between two calls is not the answer to the second.
func TestUnaskedAnswer(t *testing.T) {
	for _, secure := range []bool{false, true} {
		for name, unasked := range map[string]string{
			"an answer":               "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen",
			"the content of HEAD":     "hello",
			"a timeout of the server": "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
			"a close":                 "",
		} {
			t.Run(fmt.Sprintf("%s/secure=%v", name, secure), func(t *testing.T) {
				said := make(chan struct{})
				c := upstreamConn(t, secure, func(nc net.Conn, r *bufio.Reader) {
					for range 2 {
						if _, err := http.ReadRequest(r); err != nil {
							return
						}
						io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
					}
					time.Sleep(20 * time.Millisecond) // apart from the answer
					io.WriteString(nc, unasked)
					if unasked == "" {
						nc.Close()
					}
					close(said)
					io.Copy(nc, r)
				})
				for range 2 {
					if status, body, err := roundTrip(c, "/"); status != 200 || body != "ok" || err != nil || !c.Reusable() {
						t.Fatalf("%d %q %v", status, body, err)
					}
					c.Release()
				}
				<-said
				time.Sleep(20 * time.Millisecond)
				if status, body, err := roundTrip(c, "/2"); err != ErrNotQuiet || c.Received() || c.Reusable() {
					t.Errorf("%d %q %v", status, body, err)
				}
			})
		}
	}
}

// TestBrokenAnswers: an upstream that answers no HTTP, too much, or only a part.
func TestBrokenAnswers(t *testing.T) {
	for _, a := range []struct {
		name, send string
		rule       Rule  // of the fault
		err        error // where it is none
	}{
		{"garbage", "hello there\r\n\r\n", NotHTTP, nil},
		{"binary", "\x00\x01\x02\x03\n", NotHTTP, nil},
		{"TLS", "\x15\x03\x03\x00\x02\x02\x28", NotHTTP, nil},
		{"HTTP/2", "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00", NotHTTP, nil},
		{"another protocol", "SSH-2.0-OpenSSH_9.2\r\n", NotHTTP, nil},
		{"less than a word", "HTT", "", io.ErrUnexpectedEOF},
		{"nothing", "", "", io.EOF},
		{"half a head", "HTTP/1.1 200 OK\r\nContent-", "", io.ErrUnexpectedEOF},
		{"half a body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", "", io.ErrUnexpectedEOF},
		{"half a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhello", "", io.ErrUnexpectedEOF},
		{"no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "", io.ErrUnexpectedEOF},
		{"a bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", BadChunkSize, nil},
		{"a chunk that overflows", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8000000000000000\r\n\r\n", BadChunkSize, nil},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", RepeatedLength, nil},
		{"a head without end", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 1<<20), HeadersTooLarge, nil},
		{"fields without end", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 1<<18), HeadersTooLarge, nil},
		{"many fields", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 300) + "\r\n", TooManyHeaders, nil},
		{"a forbidden trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nSet-Cookie: a=b\r\n\r\n", ForbiddenTrailer, nil},
	} {
		t.Run(a.name, func(t *testing.T) {
			c := upstreamConn(t, false, func(nc net.Conn, r *bufio.Reader) {
				if _, err := http.ReadRequest(r); err == nil {
					io.WriteString(nc, a.send)
				}
			})
			_, _, err := roundTrip(c, "/")
			var f *Fault
			switch {
			case a.err != nil && !errors.Is(err, a.err):
				t.Errorf("%v, want %v", err, a.err)
			case a.rule != "" && (!errors.As(err, &f) || f.Rule != a.rule || len(f.Text) > 400):
				t.Errorf("%.300v, want %s", err, a.rule)
			}
			if c.Reusable() {
				t.Error("the connection would be used again")
			}
		})
	}
}

// TestOtherProtocols: what a server of another protocol says tells at once that it is one, and is not waited on.
func TestOtherProtocols(t *testing.T) {
	for send, want := range map[string]string{
		"\x15\x03\x03":                         "https:// in the url of the target",
		"\x00\x00\x06\x04\x00\x00\x00\x00\x00": "protocol: h2 in the Upstream",
		"220 mail.test ESMTP":                  "an HTTP server at this port",
	} {
		release := make(chan struct{})
		c := upstreamConn(t, false, func(nc net.Conn, r *bufio.Reader) {
			if _, err := http.ReadRequest(r); err == nil {
				io.WriteString(nc, send)
				<-release // it waits for more, as such servers do
			}
		})
		_, _, err := roundTrip(c, "/")
		var f *Fault
		if !errors.As(err, &f) || f.Rule != NotHTTP || f.Wanted != want {
			t.Errorf("%q: %v", send, err)
		}
		close(release)
	}
}

// TestAnswerTooLarge tells the field that is to blame, and does not depend on how the head arrives.
func TestAnswerTooLarge(t *testing.T) {
	for _, size := range []int{1 << 20, 700} {
		c := upstreamConn(t, false, func(nc net.Conn, r *bufio.Reader) {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			for rest := lines("HTTP/1.1 200 OK", "A: 1", "Set-Cookie: "+strings.Repeat("y", 2000), "Content-Length: 0"); rest != ""; {
				n := min(size, len(rest))
				io.WriteString(nc, rest[:n])
				rest = rest[n:]
				time.Sleep(5 * time.Millisecond)
			}
		})
		c.lim.HeaderBytes = 1000
		_, _, err := roundTrip(c, "/")
		var f *Fault
		if !errors.As(err, &f) || f.Rule != HeadersTooLarge || f.Limit != 1000 || f.Seen <= 1000 && size > 1000 || !strings.Contains(f.Text, `"Set-Cookie"`) {
			t.Errorf("pieces of %d: %v", size, err)
		}
	}
}

func TestUpstreamTimeouts(t *testing.T) {
	const limit = 300 * time.Millisecond
	stall := func(send string) func(net.Conn, *bufio.Reader) {
		return func(nc net.Conn, r *bufio.Reader) {
			http.ReadRequest(r)
			io.WriteString(nc, send)
			io.Copy(io.Discard, r)
		}
	}
	for _, a := range []struct{ name, send string }{
		{"no answer", ""}, {"half a head", "HTTP/1.1 200 OK\r\n"}, {"half a body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"},
	} {
		t.Run(a.name, func(t *testing.T) {
			c := upstreamConn(t, false, stall(a.send))
			c.Begin()
			if err := c.Send(&Outgoing{Method: "GET", Path: "/", Host: "up"}, nil, limit); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			err := c.ReadHead("GET", limit)
			c.SetTimeout(limit)
			for last := false; err == nil && !last; {
				_, last, err = c.Next()
			}
			if d := time.Since(begun); err != ErrTimeout || d < limit || d > 5*time.Second {
				t.Errorf("%v after %v", err, d)
			}
			if c.Reusable() {
				t.Error("the connection would be used again")
			}
		})
	}
	t.Run("takes nothing", func(t *testing.T) {
		stop := make(chan struct{})
		c := upstreamConn(t, false, func(nc net.Conn, r *bufio.Reader) { <-stop })
		defer close(stop)
		c.Begin()
		c.Send(&Outgoing{Method: "PUT", Path: "/", Host: "up", Length: -1}, nil, limit)
		piece := make([]byte, 1<<20)
		var err error
		for begun := time.Now(); err == nil && time.Since(begun) < 10*time.Second; {
			err = c.Write(piece)
		}
		if err != ErrTimeout {
			t.Error(err)
		}
	})
	t.Run("slow client", func(t *testing.T) { // nothing of what the upstream sent in time is late
		c := upstreamConn(t, false, func(nc net.Conn, r *bufio.Reader) {
			http.ReadRequest(r)
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for range 3 {
				io.WriteString(nc, "1\r\nx\r\n")
				time.Sleep(50 * time.Millisecond)
			}
			io.WriteString(nc, "0\r\n\r\n")
		})
		c.Begin()
		c.Send(&Outgoing{Method: "GET", Path: "/", Host: "up"}, nil, limit)
		if err := c.ReadHead("GET", limit); err != nil {
			t.Fatal(err)
		}
		c.SetTimeout(limit)
		for last := false; !last; {
			time.Sleep(2 * limit) // the client is written to meanwhile
			var err error
			if _, last, err = c.Next(); err != nil {
				t.Fatal(err)
			}
		}
		if !c.Reusable() {
			t.Error("the connection is not used again")
		}
	})
	t.Run("awaited from the end of the upload on", func(t *testing.T) {
		c := upstreamConn(t, false, stall(""))
		c.Begin()
		c.Send(&Outgoing{Method: "PUT", Path: "/", Host: "up", Length: -1}, nil, limit)
		errs := make(chan error)
		go func() { errs <- c.ReadHead("PUT", 0) }()
		for range 4 { // longer than the limit
			time.Sleep(limit / 2)
			if err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		c.EndBody(nil)
		c.Await(limit)
		if err := <-errs; err != ErrTimeout {
			t.Error(err)
		}
	})
	t.Run("the upload ends within the answer", func(t *testing.T) {
		more := make(chan struct{})
		c := upstreamConn(t, false, func(nc net.Conn, r *bufio.Reader) {
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
			<-more
			io.WriteString(nc, "llo")
			io.Copy(io.Discard, r)
		})
		c.Begin()
		c.Send(&Outgoing{Method: "PUT", Path: "/", Host: "up", Length: -1}, nil, limit)
		if err := c.ReadHead("PUT", 0); err != nil {
			t.Fatal(err)
		}
		go func() {
			c.EndBody(nil)
			c.Await(limit) // means nothing any more
			time.Sleep(3 * limit)
			close(more)
		}()
		if b, err := content(c); b != "hello" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
	})
}

// TestInterrupt ends a wait of any kind.
func TestInterrupt(t *testing.T) {
	for _, stage := range []string{"head", "content", "upload"} {
		t.Run(stage, func(t *testing.T) {
			stop := make(chan struct{})
			c := upstreamConn(t, false, func(nc net.Conn, r *bufio.Reader) {
				if stage == "content" {
					io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
				}
				<-stop
			})
			defer close(stop)
			c.Begin()
			c.Send(&Outgoing{Method: "PUT", Path: "/", Host: "up", Length: -1}, nil, time.Minute)
			time.AfterFunc(50*time.Millisecond, c.Interrupt)
			var err error
			switch stage {
			case "upload":
				for err == nil {
					err = c.Write(make([]byte, 1<<20))
				}
			default:
				if err = c.ReadHead("PUT", time.Minute); err == nil {
					_, err = content(c)
				}
			}
			if err != ErrInterrupted || c.Reusable() {
				t.Errorf("%v, reusable: %v", err, c.Reusable())
			}
		})
	}
}

// TestConnTunnel: after 101, what came behind the head is not lost.
func TestConnTunnel(t *testing.T) {
	c := upstreamConn(t, false, func(nc net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nwelcome")
		io.Copy(nc, r)
	})
	c.Begin()
	c.Send(&Outgoing{Method: "GET", Path: "/", Host: "up", Upgrade: "echo"}, nil, time.Second)
	if err := c.ReadHead("GET", 300*time.Millisecond); err != nil || c.Head().Upgrade != "echo" || c.Reusable() {
		t.Fatal(err, c.Head().Upgrade, c.Reusable())
	}
	nc, pre := c.Tunnel()
	time.Sleep(600 * time.Millisecond) // the timeout of the head is not that of the tunnel
	io.WriteString(nc, "hello")
	b := make([]byte, 5)
	nc.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(nc, b); err != nil {
		t.Fatal(err)
	}
	if got := string(pre) + " " + string(b); got != "welcome hello" {
		t.Errorf("%q", got)
	}
	nc.Close()
}

// pipe is two ends of a TCP connection.
func pipe(t *testing.T) (a, b *net.TCPConn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	x, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	y, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close(); y.Close() })
	return x.(*net.TCPConn), y.(*net.TCPConn)
}

func TestRelay(t *testing.T) {
	type result struct {
		in, out int64
		err     error
	}
	relay := func(t *testing.T, idle time.Duration) (client, up *net.TCPConn, results chan result) {
		checkLeaks(t)
		client, a := pipe(t)
		b, up := pipe(t)
		results = make(chan result, 1)
		go func() {
			in, out, err := Relay(a, b, []byte("pre "), idle)
			a.Close()
			b.Close()
			results <- result{in, out, err}
		}()
		for _, nc := range []net.Conn{client, up} {
			nc.SetDeadline(time.Now().Add(10 * time.Second))
		}
		return client, up, results
	}
	t.Run("both ways", func(t *testing.T) {
		client, up, results := relay(t, 10*time.Second)
		io.WriteString(client, "hello")
		client.CloseWrite() // half-closed: the other direction goes on
		b, err := io.ReadAll(up)
		if err != nil || string(b) != "pre hello" {
			t.Errorf("%q, %v", b, err)
		}
		io.WriteString(up, "goodbye")
		up.Close()
		b, err = io.ReadAll(client)
		if err != nil || string(b) != "goodbye" {
			t.Errorf("%q, %v", b, err)
		}
		if r := <-results; r != (result{9, 7, nil}) {
			t.Errorf("%+v", r)
		}
	})
	t.Run("silence", func(t *testing.T) {
		_, _, results := relay(t, 200*time.Millisecond)
		select {
		case r := <-results:
			if !isTimeout(r.err) {
				t.Errorf("%+v", r)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("the relay goes on")
		}
	})
	t.Run("one direction talks", func(t *testing.T) {
		client, up, results := relay(t, 400*time.Millisecond)
		var wg sync.WaitGroup
		wg.Go(func() {
			for range 12 {
				time.Sleep(100 * time.Millisecond)
				io.WriteString(up, "x")
			}
			up.Close()
		})
		b, err := io.ReadAll(client)
		if err != nil || len(b) != 12 {
			t.Errorf("%q, %v", b, err)
		}
		wg.Wait()
		client.Close()
		<-results
	})
	t.Run("broken", func(t *testing.T) {
		client, up, results := relay(t, 10*time.Second)
		up.SetLinger(0)
		up.Close()
		if _, err := io.ReadAll(client); err == nil {
			client.Write([]byte("x"))
		}
		select {
		case <-results:
		case <-time.After(5 * time.Second):
			t.Fatal("the relay goes on")
		}
	})
}
