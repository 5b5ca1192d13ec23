package wire

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// This file is what the tests over real sockets share: a server with a handler of the test, and a
// client that speaks bytes.

// testServer is a server on a free port of loopback.
type testServer struct {
	*Server
	t    testing.TB
	addr string
	ln   net.Listener
	done chan struct{}

	mu     sync.Mutex
	faults []Rule
	serve  func(*Call)
}

// Serve has the test serve the call.
func (s *testServer) Serve(c *Call) { s.serve(c) }

// Malformed answers with the rule as content.
func (s *testServer) Malformed(c *Call, f *Fault) {
	s.mu.Lock()
	s.faults = append(s.faults, f.Rule)
	s.mu.Unlock()
	answer(c, f.Status, string(f.Rule)+"\n"+f.Text)
}

// lastFault is the rule that was broken last.
func (s *testServer) lastFault() Rule {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.faults) == 0 {
		return ""
	}
	return s.faults[len(s.faults)-1]
}

// answer gives a short answer.
func answer(c *Call, status int, text string) error {
	c.Respond(&Head{Status: status, Length: int64(len(text))})
	c.Write([]byte(text))
	return c.End(nil)
}

// readAll reads the request's content to its end.
func readAll(c *Call) (string, error) {
	var b bytes.Buffer
	c.Continue()
	for {
		p, last, err := c.Next()
		b.Write(p)
		if last || err != nil {
			return b.String(), err
		}
	}
}

// echo answers with what it saw, each request in one line.
func echo(c *Call) {
	body, err := readAll(c)
	if err != nil {
		answer(c, 400, "body: "+err.Error())
		return
	}
	r := &c.Request
	target := r.Path
	if r.HasQuery {
		target += "?" + r.Query
	}
	answer(c, 200, fmt.Sprintf("%s %s %s %q\n", r.Method, r.Host, target, body))
}

// testConfig has timeouts that no test meets by accident.
func testConfig() Config {
	return Config{Limits: testLimits, HeaderTimeout: 20 * time.Second, BodyTimeout: 20 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: 20 * time.Second,
		HandshakeTimeout: 20 * time.Second, HalfClosedTimeout: time.Second, TunnelTimeout: 20 * time.Second, MaxStreams: 100}
}

// start serves calls with a handler until the test ends, and then sees to it that no
// connection, goroutine or socket is left.
func start(t testing.TB, l *Listener, handler func(*Call), change func(*Config), tune ...func(*Server)) *testServer {
	t.Helper()
	checkLeaks(t)
	cfg := testConfig()
	if change != nil {
		change(&cfg)
	}
	if l == nil {
		l = &Listener{Name: "test"}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &testServer{t: t, addr: ln.Addr().String(), ln: ln, done: make(chan struct{}), serve: handler}
	s.Server = &Server{Handler: s, Watch: NewWatch(), Log: slog.New(slog.DiscardHandler), Trusted: func(a netip.Addr) bool { return a.IsLoopback() }}
	s.linger = 100 * time.Millisecond
	s.SetConfig(cfg)
	for _, f := range tune {
		f(s.Server)
	}
	go func() {
		defer close(s.done)
		s.Server.Serve(ln, l)
	}()
	t.Cleanup(func() {
		s.stop()
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
		defer cancel()
		s.Drain(ctx)
		eventually(t, "all connections are counted out", func() bool { return s.Conns() == 0 })
		s.Watch.Close()
		if n := s.Panics.Load(); n > 0 {
			t.Errorf("%d connections panicked", n)
		}
	})
	return s
}

// stop closes the listener and loses no connection that had been made.
func (s *testServer) stop() {
	Stop(s.ln)
	<-s.done
	s.ln.Close()
}

// checkLeaks compares goroutines and sockets at the end of the test with now.
func checkLeaks(t testing.TB) {
	ignore := goleak.IgnoreCurrent()
	before := sockets()
	t.Cleanup(func() {
		if err := goleak.Find(ignore); err != nil {
			t.Error(err)
		}
		eventually(t, "all sockets are closed", func() bool { return sockets() <= before })
	})
}

// sockets is how many this process has open, 0 where the system does not tell.
func sockets() (n int) {
	const list = "/proc/self/fd/"
	names, _ := os.ReadDir(list)
	for _, name := range names {
		if to, err := os.Readlink(list + name.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

// eventually waits for a condition for five seconds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("not so after five seconds: %s", what)
			return
		}
	}
}

// client is a connection to a server under test.
type client struct {
	net.Conn
	t testing.TB
	r *bufio.Reader
}

// dial connects; the connection is closed when the test ends.
func (s *testServer) dial() *client {
	s.t.Helper()
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	return newClient(s.t, nc)
}

func newClient(t testing.TB, nc net.Conn) *client {
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	t.Cleanup(func() { nc.Close() })
	return &client{nc, t, bufio.NewReader(nc)}
}

// send writes bytes; that the server has closed meanwhile is no error here.
func (c *client) send(text string) { io.WriteString(c.Conn, text) }

// got is an answer as the client read it.
type got struct {
	*http.Response
	text string
}

// read reads one answer to a request of that method.
func (c *client) read(method string) got {
	c.t.Helper()
	res, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("reading an answer: %v", err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("reading an answer's content after %q: %v", b, err)
	}
	return got{res, string(b)}
}

// expect reads an answer and compares it.
func (c *client) expect(status int, text string) got {
	c.t.Helper()
	g := c.read("GET")
	if g.StatusCode != status || !strings.HasPrefix(g.text, text) {
		c.t.Fatalf("answer %d %q, want %d %q", g.StatusCode, g.text, status, text)
	}
	return g
}

// closed waits for the server to close, within a time, and says after how long that was.
func (c *client) closed(within time.Duration) time.Duration {
	c.t.Helper()
	start := time.Now()
	c.SetReadDeadline(start.Add(within))
	b, err := io.ReadAll(c.r)
	if err != nil {
		c.t.Fatalf("the connection was not closed within %v: %q, %v", within, b, err)
	}
	if len(b) > 0 {
		c.t.Fatalf("the server sent %q and closed", b)
	}
	return time.Since(start)
}

// get is a request without a body.
func get(path string, fields ...string) string {
	return lines(append([]string{"GET " + path + " HTTP/1.1", "Host: a"}, fields...)...)
}
