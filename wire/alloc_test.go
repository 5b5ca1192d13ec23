package wire

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"testing"
	"time"
)

// loop is a server whose calls are counted in allocations: neither it nor its client makes any of
// its own.
type loop struct {
	t      testing.TB
	client net.Conn
	send   []byte
	buf    []byte
	want   []byte // end of an answer
}

// call makes one call and reads its answer.
func (l *loop) call() {
	if _, err := l.client.Write(l.send); err != nil {
		l.t.Fatal(err)
	}
	for n := 0; ; {
		m, err := l.client.Read(l.buf[n:])
		if err != nil {
			l.t.Fatal(err)
		}
		if n += m; bytes.HasSuffix(l.buf[:n], l.want) {
			return
		}
	}
}

type handlerFunc func(*Call)

func (f handlerFunc) Serve(c *Call) { f(c) }

func (f handlerFunc) Malformed(c *Call, fault *Fault) { panic(fault) }

// newLoop starts a server for one client.
func newLoop(t testing.TB, send, want string, h func(*Call), w *Watch) *loop {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Handler: handlerFunc(h), Watch: w, Log: slog.New(slog.DiscardHandler)}
	s.SetConfig(testConfig())
	s.prepare()
	go s.Serve(ln, &Listener{Name: "loop"})
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nc.Close()
		ln.Close()
		for s.Conns() > 0 {
			time.Sleep(time.Millisecond)
		}
	})
	return &loop{t, nc, []byte(send), make([]byte, 64<<10), []byte(want)}
}

// fields of an answer, made once.
var answerFields = Fields{{Name: "Content-Type", Value: "application/json", ID: ContentType}, {Name: "Date", Value: "Sun, 22 Nov 2026 09:40:00 GMT", ID: Date}}

const answerBody = `{"id":5,"state":"shipped","lines":[{"sku":"a-1","count":2},{"sku":"b-7","count":1}]}`

// serveLoop answers from a handler.
func serveLoop(t testing.TB, send string) *loop {
	w := NewWatch()
	t.Cleanup(w.Close)
	var h Head
	body := []byte(answerBody)
	return newLoop(t, send, answerBody, func(c *Call) {
		h = Head{Status: 200, Fields: append(h.Fields[:0], answerFields...), Length: int64(len(body))}
		c.Respond(&h)
		c.Write(body)
		c.End(nil)
	}, w)
}

// proxyLoop carries each call to an upstream over one connection.
func proxyLoop(t testing.TB, send, answer, end string) *loop {
	w := NewWatch()
	t.Cleanup(w.Close)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // the upstream
		defer close(done)
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		buf, reply := make([]byte, 64<<10), []byte(answer)
		for n := 0; ; {
			m, err := nc.Read(buf[n:])
			if err != nil {
				return
			}
			if n += m; bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
				n = 0
				if _, err := nc.Write(reply); err != nil {
					return
				}
			}
		}
	}()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	lim := answerLimits
	up := NewConn(nc, w, &lim)
	t.Cleanup(func() {
		up.Close()
		ln.Close()
		<-done
	})
	var o Outgoing
	var h Head
	return newLoop(t, send, end, func(c *Call) {
		r := &c.Request
		o = Outgoing{Method: r.Method, Path: r.Path, Query: r.Query, HasQuery: r.HasQuery, Host: r.Authority, Fields: o.Fields[:0], Length: r.Length}
		for i := range r.Fields {
			if f := &r.Fields[i]; f.ID != Host && f.ID != Connection {
				o.Fields = append(o.Fields, *f)
			}
		}
		up.Begin()
		c.Bind(up)
		if err := up.Send(&o, nil, time.Minute); err != nil {
			panic(err)
		}
		if err := up.ReadHead(r.Method, time.Minute); err != nil {
			panic(err)
		}
		up.SetTimeout(time.Minute)
		res := up.Head()
		h = Head{Status: res.Status, Phrase: res.Phrase, Fields: h.Fields[:0], Length: res.Length}
		for i := range res.Fields {
			if f := &res.Fields[i]; f.ID != ContentLength && f.ID != TransferEncoding && f.ID != Connection {
				h.Fields = append(h.Fields, *f)
			}
		}
		c.Respond(&h)
		for {
			piece, last, err := up.Next()
			if err != nil {
				panic(err)
			}
			c.Write(piece)
			if last {
				break
			}
		}
		c.End(nil)
		if c.Unbind() || !up.Reusable() {
			panic("the connection cannot be used again")
		}
		up.Release()
	}, w)
}

var (
	upstreamAnswer = fmt.Sprintf("HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sun, 22 Nov 2026 09:40:00 GMT\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: keep-alive\r\n\r\n%s", len(answerBody), answerBody)
	upstreamChunks = fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(answerBody), answerBody)
)

// TestAllocations: a call over a connection that is kept costs no memory, answered here or by an upstream.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("pools forget at random under the race detector")
	}
	for _, c := range []struct {
		name string
		loop *loop
	}{
		{"served", serveLoop(t, smallHead)},
		{"served, browser", serveLoop(t, browserHead)},
		{"served, POST", serveLoop(t, "POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")},
		{"proxied", proxyLoop(t, smallHead, upstreamAnswer, answerBody)},
		{"proxied, browser", proxyLoop(t, browserHead, upstreamAnswer, answerBody)},
		{"proxied, chunks", proxyLoop(t, smallHead, upstreamChunks, "0\r\n\r\n")},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.loop.t = t
			for range 100 {
				c.loop.call()
			}
			runtime.GC()
			// Less than one in twenty: the runtime itself allocates now and then, and a collection
			// empties pools.
			if n := allocations(2000, c.loop.call); n > 0.05 {
				t.Errorf("%.3f allocations per call", n)
			}
		})
	}
}

// allocations is how many of all goroutines fall on one run of f.
func allocations(runs int, f func()) float64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		f()
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(runs)
}

func benchmarkLoop(b *testing.B, l *loop) {
	l.call()
	b.ReportAllocs()
	for b.Loop() {
		l.call()
	}
}

// BenchmarkServe makes calls that are answered by a handler, one after the other.
func BenchmarkServe(b *testing.B) {
	b.Run("small", func(b *testing.B) { benchmarkLoop(b, serveLoop(b, smallHead)) })
	b.Run("browser", func(b *testing.B) { benchmarkLoop(b, serveLoop(b, browserHead)) })
}

// BenchmarkProxy makes calls that go to an upstream over one connection.
func BenchmarkProxy(b *testing.B) {
	b.Run("small", func(b *testing.B) { benchmarkLoop(b, proxyLoop(b, smallHead, upstreamAnswer, answerBody)) })
	b.Run("browser", func(b *testing.B) { benchmarkLoop(b, proxyLoop(b, browserHead, upstreamAnswer, answerBody)) })
}

// TestIdleConnections: what a client costs that made a call and then stays, after calls that came one
// by one and after calls that were all in flight together. The bound is generous; the number is
// printed.
func TestIdleConnections(t *testing.T) {
	const conns, most = 2000, 9 << 10
	for _, together := range []bool{false, true} {
		t.Run(fmt.Sprintf("together=%v", together), func(t *testing.T) {
			gate := make(chan struct{})
			if !together {
				close(gate)
			}
			s := start(t, nil, func(c *Call) {
				<-gate
				echo(c)
			}, nil)
			measure := func() (heap, stack int64) {
				for range 3 { // pools live for two collections
					runtime.GC()
				}
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				return int64(m.HeapInuse), int64(m.StackInuse)
			}
			clients := make([]net.Conn, 0, conns)
			defer func() {
				for _, nc := range clients {
					nc.Close()
				}
			}()
			buf := make([]byte, 4096)
			read := func(nc net.Conn) {
				nc.SetDeadline(time.Now().Add(20 * time.Second))
				if _, err := nc.Read(buf); err != nil {
					t.Fatal(err)
				}
			}
			heap, stack := measure()
			for range conns {
				nc, err := net.Dial("tcp", s.addr)
				if err != nil {
					t.Fatal(err)
				}
				clients = append(clients, nc)
				io.WriteString(nc, browserHead)
				if !together {
					read(nc)
				}
			}
			if together {
				eventually(t, "all are connected", func() bool { return s.Conns() == conns })
				time.Sleep(100 * time.Millisecond)
				close(gate)
				for _, nc := range clients {
					read(nc)
				}
			}
			time.Sleep(50 * time.Millisecond)
			heap2, stack2 := measure()
			h, st := (heap2-heap)/conns, (stack2-stack)/conns
			t.Logf("an idle connection costs %d bytes: heap %d, stack %d (some 500 of it are the client's)", h+st, h, st)
			if h+st > most && !raceEnabled {
				t.Errorf("an idle connection costs %d bytes, at most %d are meant", h+st, most)
			}
		})
	}
}
