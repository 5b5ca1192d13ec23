package gateway_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/whytest"
)

// patience bounds every fault: nothing may hang.
const patience = 5 * time.Second

// upstreamSpec adds settings to the Upstream of whytest.API.
func upstreamSpec(documents, settings string) string {
	return strings.Replace(documents, "spec: {targets", "spec: {"+settings+", targets", 1)
}

// quick settings let faults show soon, and try once.
const quick = "timeouts: {connect: 600ms, firstByte: 600ms, idle: 600ms, stream: 600ms}, retries: {attempts: 0}, breaker: {rate: 0}"

// blackhole is an address whose connections are never completed: its queue is full.
func blackhole(t *testing.T) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", sa.(*unix.SockaddrInet4).Port)
	for range 8 {
		nc, err := net.DialTimeout("tcp", addr, 100*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { nc.Close() })
	}
	t.Skip("this kernel completes connections that nobody accepts")
	return ""
}

// closedPort is an address on which nothing listens, and nothing can: it is bound.
func closedPort(t testing.TB) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", sa.(*unix.SockaddrInet4).Port)
}

func reset(nc net.Conn) {
	nc.(*net.TCPConn).SetLinger(0)
	nc.Close()
}

// says is an upstream that reads a request's head, says something and closes.
func says(text string) func(net.Conn, *bufio.Reader) {
	return func(nc net.Conn, r *bufio.Reader) {
		if _, _, err := whytest.ReadRequest(r); err == nil {
			io.WriteString(nc, text)
		}
	}
}

// then says something and goes on with f.
func then(text string, f func(net.Conn, *bufio.Reader)) func(net.Conn, *bufio.Reader) {
	return func(nc net.Conn, r *bufio.Reader) {
		says(text)(nc, r)
		f(nc, r)
	}
}

// waits until the gateway closes.
func waits(_ net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) }

// floods sends until the gateway closes, at most a gigabyte.
func floods(piece string) func(net.Conn, *bufio.Reader) {
	return func(nc net.Conn, _ *bufio.Reader) {
		b := bytes.Repeat([]byte(piece), 64<<10/len(piece))
		for range 1 << 30 / len(b) {
			if _, err := nc.Write(b); err != nil {
				return
			}
		}
	}
}

// drips sends a text byte by byte.
func drips(text string, pause time.Duration) func(net.Conn, *bufio.Reader) {
	return func(nc net.Conn, r *bufio.Reader) {
		for i := range len(text) {
			if _, err := io.WriteString(nc, text[i:i+1]); err != nil {
				return
			}
			time.Sleep(pause)
		}
		waits(nc, r)
	}
}

// Every way in which an upstream can fail has its status, reason and record; the client is told
// nothing of what is behind, and can tell an answer that is not whole.
func TestUpstreamFaults(t *testing.T) {
	t.Parallel()
	const head100 = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, c := range []struct {
		name   string
		serve  func(net.Conn, *bufio.Reader)
		target func(*testing.T) string // instead of serve
		method string
		body   string
		status int    // 0: the answer begins with 200 and breaks off
		reason string // "" for a call that succeeds
		err    string // in the facts of the operator
		got    string // of the content
	}{
		{name: "refused", target: func(t *testing.T) string { return closedPort(t) }, status: 502, reason: "upstream.unreachable", err: "connection refused"},
		{name: "takes no connection", target: blackhole, status: 504, reason: "upstream.timeout", err: "no answer in time"},
		{name: "never answers", serve: waits, status: 504, reason: "upstream.timeout", err: "no answer in time"},
		{name: "never answers a POST", serve: waits, method: "POST", body: "x", status: 504, reason: "upstream.timeout", err: "no answer in time"},
		{name: "closes at once", serve: func(net.Conn, *bufio.Reader) {}, status: 502, reason: "upstream.broken"},
		{name: "closes without an answer", serve: says(""), status: 502, reason: "upstream.broken", err: "closed"},
		{name: "resets without an answer", serve: then("", func(nc net.Conn, _ *bufio.Reader) { reset(nc) }), status: 502, reason: "upstream.broken", err: "reset"},
		{name: "answers garbage", serve: says("SSH-2.0-OpenSSH_9.2\r\n\r\n"), status: 502, reason: "upstream.broken", err: "SSH-2.0"},
		{name: "answers noise", serve: says("\x16\x03\x01\x00\x00\xff\xff\n\n"), status: 502, reason: "upstream.broken"},
		{name: "speaks HTTP/2", serve: says("\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"), status: 502, reason: "upstream.broken"},
		{name: "status 99", serve: says("HTTP/1.1 099 No\r\n\r\n"), status: 502, reason: "upstream.broken"},
		{name: "status 999", serve: says("HTTP/1.1 999 No\r\n\r\n"), status: 502, reason: "upstream.broken"},
		{name: "closes within the head", serve: says("HTTP/1.1 200 OK\r\nContent-Le"), status: 502, reason: "upstream.broken", err: "closed"},
		{name: "drips the head", serve: drips("HTTP/1.1 200 OK\r\nX-Long: "+strings.Repeat("x", 200), 20*time.Millisecond), status: 504, reason: "upstream.timeout"},
		{name: "header of a gigabyte", serve: then("HTTP/1.1 200 OK\r\n", floods("X-A: "+strings.Repeat("x", 123)+"\r\n")), status: 502, reason: "upstream.broken", err: "headers-too-large"},
		{name: "header without end", serve: then("HTTP/1.1 200 OK\r\nX-A: ", floods("x")), status: 502, reason: "upstream.broken", err: "headers-too-large"},
		{name: "many headers", serve: says("HTTP/1.1 200 OK\r\n" + strings.Repeat("a: b\r\n", 300) + "\r\n"), status: 502, reason: "upstream.broken", err: "headers-too-many"},
		{name: "flood of 1xx", serve: then("", floods("HTTP/1.1 103 Early Hints\r\n\r\n")), status: 502, reason: "upstream.broken", err: "informational-flood"},
		{name: "1xx and then nothing", serve: then("HTTP/1.1 103 Early Hints\r\n\r\n", waits), status: 504, reason: "upstream.timeout"},
		{name: "1xx and then nothing to an upload", serve: then("HTTP/1.1 103 Early Hints\r\n\r\n", waits), method: "POST", body: "chunked", status: 504, reason: "upstream.timeout"},
		{name: "two lengths", serve: says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"), status: 502, reason: "upstream.broken", err: "content-length-repeated"},
		{name: "length and coding", serve: says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"), status: 502, reason: "upstream.broken", err: "content-length-and-coding"},
		{name: "unknown coding", serve: says("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"), status: 502, reason: "upstream.broken", err: "transfer-coding"},
		{name: "folded header", serve: says("HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok"), status: 502, reason: "upstream.broken", err: "obs-fold"},
		{name: "an upgrade nobody asked for", serve: says("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), status: 502, reason: "upstream.broken", err: "upgrade"},
		{name: "nothing of the body", serve: says(head100), status: 502, reason: "upstream.broken", err: "closed"},
		{name: "reset before the body", serve: then(head100, func(nc net.Conn, _ *bufio.Reader) { time.Sleep(20 * time.Millisecond); reset(nc) }), status: 502, reason: "upstream.broken", err: "reset"},
		{name: "no body in time", serve: then(head100, waits), status: 504, reason: "upstream.timeout", err: "no answer in time"},
		{name: "a part of the body", serve: says(head100 + "0123456789"), reason: "upstream.broken", err: "closed", got: "0123456789"},
		{name: "a part, then a reset", serve: then(head100+"0123456789", func(nc net.Conn, _ *bufio.Reader) { time.Sleep(50 * time.Millisecond); reset(nc) }), reason: "upstream.broken", err: "reset", got: "0123456789"},
		{name: "a part, then a pause", serve: then(head100+"0123456789", waits), reason: "upstream.timeout", err: "no answer in time", got: "0123456789"},
		{name: "a part in chunks", serve: says(chunked + "a\r\n0123456789\r\n"), reason: "upstream.broken", err: "closed", got: "0123456789"},
		{name: "a part of a chunk", serve: says(chunked + "ff\r\n0123456789"), reason: "upstream.broken", err: "closed", got: "0123456789"},
		{name: "chunks without their end", serve: says(chunked + "a\r\n0123456789\r\n0\r\n"), reason: "upstream.broken", err: "closed", got: "0123456789"},
		{name: "a wrong chunk at once", serve: says(chunked + "nonsense\r\n"), status: 502, reason: "upstream.broken", err: "chunk-size"},
		{name: "a wrong chunk later", serve: says(chunked + "a\r\n0123456789\r\nnonsense\r\n"), reason: "upstream.broken", err: "chunk-size", got: "0123456789"},
		{name: "a chunk that is too long", serve: says(chunked + "a\r\n0123456789ab\r\n0\r\n\r\n"), reason: "upstream.broken", err: "chunk-end", got: "0123456789"},
		{name: "drips the body", serve: then("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", drips("0123456789", 60*time.Millisecond)), got: "0123456789"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			whytest.EachEngine(t, func(t *testing.T, engine string) {
				var open atomic.Int64
				addr := ""
				if c.target != nil {
					addr = c.target(t)
				} else {
					addr = whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
						open.Add(1)
						defer open.Add(-1)
						c.serve(nc, r)
					})
				}
				n := whytest.Start(t, engine, upstreamSpec(whytest.API("http://"+addr, "/", ""), quick))
				method := "GET"
				if c.method != "" {
					method = c.method
				}
				start := time.Now()
				status, header, got, err := fetch(t, n, method, c.body)
				if took := time.Since(start); took > patience {
					t.Errorf("took %v", took)
				}
				want, broken := c.status, false
				if want == 0 {
					want, broken = 200, c.reason != ""
				}
				if status != want {
					t.Fatalf("status %d, want %d: %s", status, want, got)
				}
				if (err != nil) != broken {
					t.Errorf("the client sees the error %v, want one: %v", err, broken)
				}
				if c.status == 0 && got != c.got {
					t.Errorf("content %q, want %q", got, c.got)
				}
				rec := n.Record(whytest.Answer{Response: &http.Response{Header: header}})
				if int(rec.Status) != want || rec.Reason != c.reason || rec.Tries != 1 || rec.Target != addr || rec.Upstream != "up" {
					t.Errorf("record: status %d, reason %q, %d tries at %q of %q", rec.Status, rec.Reason, rec.Tries, rec.Target, rec.Upstream)
				}
				if truncated := rec.Flags&calllog.Truncated != 0; truncated != broken {
					t.Errorf("record: truncated %v", truncated)
				}
				if c.reason == "" {
					if rec.Outcome != calllog.Allowed {
						t.Errorf("outcome %v", rec.Outcome)
					}
				} else {
					checkFault(t, rec, addr, c.err)
					if !broken {
						checkRefusal(t, status, header, got, c.reason, addr)
					}
				}
				if c.reason != "" {
					whytest.Eventually(t, "no connection to the upstream is left open", func() bool { return open.Load() == 0 })
				}
				for _, target := range n.Snapshot().Upstreams["up"].Targets() {
					if target.InFlight() != 0 || target.IdleConns() != 0 && c.reason != "" {
						t.Errorf("%d calls in flight, %d idle connections", target.InFlight(), target.IdleConns())
					}
				}
				if n.Panics.Load()+n.Server().Panics.Load() != 0 {
					t.Errorf("panicked:\n%s", n.Log)
				}
			})
		})
	}
}

// fetch makes a call on a connection of its own; err tells that the answer was not whole. A body
// of "chunked" is sent slowly and in chunks.
func fetch(t *testing.T, n *whytest.Node, method, body string) (status int, header http.Header, content string, err error) {
	t.Helper()
	nc, err := net.Dial("tcp", n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(2 * patience))
	switch {
	case body == "chunked":
		fmt.Fprintf(nc, "%s / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", method)
		time.Sleep(20 * time.Millisecond)
		io.WriteString(nc, "1\r\nx\r\n0\r\n\r\n")
	case body != "":
		fmt.Fprintf(nc, "%s / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", method, len(body), body)
	default:
		fmt.Fprintf(nc, "%s / HTTP/1.1\r\nHost: a\r\n\r\n", method)
	}
	r := bufio.NewReader(nc)
	for {
		res, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("no answer: %v", err)
		}
		if res.StatusCode < 200 {
			continue
		}
		b, err := io.ReadAll(res.Body)
		return res.StatusCode, res.Header, string(b), err
	}
}

// checkFault looks at what the operator can read of a failure.
func checkFault(t *testing.T, rec calllog.Record, target, err string) {
	t.Helper()
	if rec.Outcome != calllog.Failed {
		t.Errorf("outcome %v", rec.Outcome)
	}
	d, derr := gateway.DecodeDetail(rec.Detail)
	if derr != nil || d.Verdict == nil {
		t.Fatalf("the record explains nothing: %v", derr)
	}
	facts := d.Verdict.Facts
	if f, ok := facts.Find("target", reason.ToOperator); !ok || f.Text() != target {
		t.Errorf("the facts do not name the target %s: %+v", target, facts)
	}
	var rule string // that a message which is no HTTP broke
	if f, ok := facts.Find("rule", reason.ToOperator); ok {
		rule = f.Text()
	}
	if f, ok := facts.Find("error", reason.ToOperator); !ok || f.Text() == "" || rule != err && !strings.Contains(f.Text(), err) {
		t.Errorf("the error is %q, by rule %q, want %q", f.Text(), rule, err)
	}
	told := d.Verdict.Tell(reason.ToOperator)
	if told.Says == told.Title || strings.ContainsAny(told.Says+told.Hint+told.Wanted+told.Seen, "{}[") || told.Hint == "" || told.Wanted == "" || told.Seen == "" {
		t.Errorf("told badly: %+v", told)
	}
}

// checkRefusal looks at what a stranger gets to read.
func checkRefusal(t *testing.T, status int, header http.Header, body, code, hidden string) {
	t.Helper()
	if header.Get("Whygate-Reason") != code || header.Get("Whygate-Refused-By") != "gateway" || header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("header %v", header)
	}
	if strings.Contains(body, hidden) || strings.Contains(body, "connection") && strings.Contains(body, "reset") {
		t.Errorf("a stranger is told %s", body)
	}
	if !strings.Contains(body, fmt.Sprintf(`"reason": %q`, code)) || !strings.Contains(body, fmt.Sprintf(`"status": %d`, status)) {
		t.Errorf("the body says %s", body)
	}
}

// Connections that an upstream closed between two calls are nobody's fault: idempotent calls do not
// notice, and neither do others, since the gateway asks before it sends.
func TestStaleConnections(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"GET", "POST", "PUT"} {
		t.Run(method, func(t *testing.T) {
			whytest.EachEngine(t, func(t *testing.T, engine string) {
				var conns sync.Map
				up := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
					conns.Store(nc, true)
					for {
						if _, _, err := whytest.ReadRequest(r); err != nil {
							return
						}
						io.WriteString(nc, ok)
					}
				})
				n := whytest.Start(t, engine, upstreamSpec(whytest.API("http://"+up, "/", ""), quick))
				body := ""
				if method != "GET" {
					body = "x"
				}
				for i := range 20 {
					if a := n.Call(method, "/", body); a.StatusCode != 200 {
						t.Fatalf("call %d: %d %s", i, a.StatusCode, a.Body)
					} else if rec := n.Record(a); rec.Tries != 1 || rec.Flags&calllog.Retried != 0 {
						t.Errorf("call %d: %d tries", i, rec.Tries)
					}
					conns.Range(func(nc, _ any) bool {
						if i%2 == 0 {
							nc.(net.Conn).Close()
						} else {
							reset(nc.(net.Conn))
						}
						conns.Delete(nc)
						return true
					})
					time.Sleep(5 * time.Millisecond)
				}
				target := n.Snapshot().Upstreams["up"].Targets()[0]
				if target.Failed.Load() != 0 {
					t.Errorf("%d failures were counted", target.Failed.Load())
				}
			})
		})
	}
}

// A connection that dies just as a call is sent on it: the call is made once more where that
// is safe, at the same target and at no charge; elsewhere the reason says what happened.
func TestDeathOnReuse(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		var calls, posts atomic.Int64
		up := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
			for first := true; ; first = false {
				req, _, err := whytest.ReadRequest(r)
				if err != nil {
					return
				}
				calls.Add(1)
				if req.Method == "POST" {
					posts.Add(1)
				}
				if !first { // it closes instead of answering a second call
					return
				}
				io.WriteString(nc, ok)
			}
		})
		n := whytest.Start(t, engine, upstreamSpec(whytest.API("http://"+up, "/", ""), quick))
		for range 2 {
			if a := n.Call("GET", "/", ""); a.StatusCode != 200 {
				t.Fatalf("%d %s", a.StatusCode, a.Body)
			} else if rec := n.Record(a); rec.Tries != 1 {
				t.Errorf("%d tries", rec.Tries)
			}
		}
		if calls.Load() != 3 {
			t.Errorf("two calls arrived %d times", calls.Load())
		}
		a := n.Call("POST", "/", "x")
		rec := n.Record(a)
		if a.StatusCode != 502 || rec.Reason != "upstream.broken" || posts.Load() != 1 {
			t.Errorf("POST: %d %q, arrived %d times", a.StatusCode, rec.Reason, posts.Load())
		}
		d, _ := gateway.DecodeDetail(rec.Detail)
		if told := d.Verdict.Tell(reason.ToOperator); !strings.Contains(told.Hint, "kept open since an earlier call") {
			t.Errorf("hint %q", told.Hint)
		}
	})
}

// Bytes behind an answer, and an upstream that closes its sending side: the connection is not used again.
func TestConnectionsThatAreNotKept(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		act  func(net.Conn, *bufio.Reader)
	}{
		{"surplus", says(ok + "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")},
		{"late surplus", func(nc net.Conn, r *bufio.Reader) {
			says(ok)(nc, r)
			time.Sleep(20 * time.Millisecond)
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
		}},
		{"half-close", func(nc net.Conn, r *bufio.Reader) {
			says(ok)(nc, r)
			nc.(*net.TCPConn).CloseWrite()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			whytest.EachEngine(t, func(t *testing.T, engine string) {
				acted := make(chan bool, 8)
				up := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
					c.act(nc, r)
					acted <- true
					waits(nc, r)
				})
				n := whytest.Start(t, engine, upstreamSpec(whytest.API("http://"+up, "/", ""), quick))
				for range 4 {
					for _, method := range []string{"GET", "POST"} {
						if a := n.Call(method, "/", ""); a.StatusCode != 200 || a.Body != "ok" {
							t.Fatalf("%s: %d %q", method, a.StatusCode, a.Body)
						}
						<-acted
						time.Sleep(10 * time.Millisecond) // until it has arrived
					}
				}
			})
		})
	}
}

// An upstream may answer before it has read the body. The client gets that answer whole.
func TestEarlyAnswer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		after func(net.Conn, *bufio.Reader)
	}{
		{"then reads on", waits},
		{"then closes", func(net.Conn, *bufio.Reader) {}},
		{"then reads nothing", func(nc net.Conn, r *bufio.Reader) {
			for range 100 { // until the gateway closes, which resets what it has sent
				time.Sleep(20 * time.Millisecond)
				if _, err := io.WriteString(nc, "x"); err != nil {
					return
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			whytest.EachEngine(t, func(t *testing.T, engine string) {
				var open atomic.Int64
				up := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
					open.Add(1)
					defer open.Add(-1)
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					io.WriteString(nc, "HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large")
					c.after(nc, r)
				})
				n := whytest.Start(t, engine, upstreamSpec(whytest.API("http://"+up, "/", "  - size: {body: unlimited}"), quick))
				nc, err := net.Dial("tcp", n.Addr())
				if err != nil {
					t.Fatal(err)
				}
				defer nc.Close()
				nc.SetDeadline(time.Now().Add(patience))
				fmt.Fprintf(nc, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", 64<<20)
				sent := make(chan struct{})
				go func() { // a client that sends on until it may not
					defer close(sent)
					io.CopyN(nc, zeros{}, 64<<20)
				}()
				res, err := http.ReadResponse(bufio.NewReader(nc), nil)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != 413 || string(b) != "too large" || res.Header.Get("Whygate-Refused-By") != "upstream" {
					t.Errorf("%d %q %v", res.StatusCode, b, err)
				}
				if !res.Close {
					t.Error("the connection cannot go on, and the client is not told so")
				}
				nc.Close()
				<-sent
				rec := n.Record(whytest.Answer{Response: res})
				if rec.Outcome != calllog.Relayed || rec.Status != 413 {
					t.Errorf("record: %v %d %q", rec.Outcome, rec.Status, rec.Reason)
				}
				whytest.Eventually(t, "the connection to the upstream is closed", func() bool { return open.Load() == 0 })
			})
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// An upstream that answers each upload at once keeps the client's connection alive: the end of an
// upload and the beginning of its answer may come in any order.
func TestUploadsKeepConnections(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always(ok))
		n := whytest.Start(t, engine, whytest.API(up.URL(), "/", ""))
		nc, err := net.Dial("tcp", n.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(2 * patience))
		r := bufio.NewReader(nc)
		for i := range 200 {
			io.WriteString(nc, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n")
			io.WriteString(nc, "con")
			io.WriteString(nc, "tent!")
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("call %d: %v", i, err)
			}
			if b, err := io.ReadAll(res.Body); err != nil || string(b) != "ok" || res.Close {
				t.Fatalf("call %d: %q %v, close %v", i, b, err, res.Close)
			}
		}
		if up.Opened() != 1 {
			t.Errorf("%d connections to the upstream", up.Opened())
		}
	})
}

// What is wrong with a body may show only on its way. The call is refused for it, and the
// upstream is not blamed.
func TestFaultyUploads(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, head, policy string
		send               func(net.Conn)
		status             int
		reason, check      string
	}{
		{"chunk", "Transfer-Encoding: chunked", "", func(nc net.Conn) { io.WriteString(nc, "5\r\nhello\r\nnonsense\r\n") }, 400, "request.malformed", ""},
		{"size", "Transfer-Encoding: chunked", "  - size: {body: 100B}", func(nc net.Conn) {
			for range 20 {
				io.WriteString(nc, "a\r\n0123456789\r\n")
				time.Sleep(time.Millisecond)
			}
		}, 413, "size.body", "size"},
		{"stalled", "Content-Length: 10", "", func(nc net.Conn) { io.WriteString(nc, "12345") }, 408, "request.timeout", ""},
		{"cut short", "Content-Length: 10", "", func(nc net.Conn) {
			io.WriteString(nc, "12345")
			nc.(*net.TCPConn).CloseWrite()
		}, 400, "request.malformed", ""},
		{"reset", "Content-Length: 10", "", func(nc net.Conn) {
			io.WriteString(nc, "12345")
			time.Sleep(50 * time.Millisecond)
			reset(nc)
		}, 499, "client.gone", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			whytest.EachEngine(t, func(t *testing.T, engine string) {
				if c.name == "cut short" && engine == "std" {
					t.Skip("net/http takes a half-closed client for one that left")
				}
				var open atomic.Int64
				up := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
					open.Add(1)
					defer open.Add(-1)
					waits(nc, r)
				})
				docs := whytest.GatewayDocument(engine, "  timeouts: {body: 300ms}\n") + "---\n" + whytest.API("http://"+up, "/", c.policy)
				n := whytest.Start(t, engine, docs)
				nc, err := net.Dial("tcp", n.Addr())
				if err != nil {
					t.Fatal(err)
				}
				defer nc.Close()
				nc.SetDeadline(time.Now().Add(patience))
				fmt.Fprintf(nc, "PUT / HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n", c.head)
				time.Sleep(20 * time.Millisecond)
				c.send(nc)
				if c.status != 499 {
					res, err := http.ReadResponse(bufio.NewReader(nc), nil)
					if err != nil {
						t.Fatal(err)
					}
					if res.StatusCode != c.status || !res.Close {
						t.Errorf("status %d, close %v", res.StatusCode, res.Close)
					}
				}
				rec := n.Last(func(r *calllog.Record) bool { return r.Method == "PUT" })
				if int(rec.Status) != c.status || rec.Reason != c.reason || rec.Check != c.check || rec.BytesIn == 0 && engine == "wire" {
					t.Errorf("record: %d %q by %q, %d bytes in", rec.Status, rec.Reason, rec.Check, rec.BytesIn)
				}
				target := n.Snapshot().Upstreams["up"].Targets()[0]
				if target.Failed.Load() != 0 {
					t.Error("the target was blamed")
				}
				whytest.Eventually(t, "the connection to the upstream is closed", func() bool { return open.Load() == 0 && target.InFlight() == 0 })
			})
		})
	}
}

// The failure of an upstream within an upload is the upstream's.
func TestUpstreamFailsWithinUpload(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		serve  func(net.Conn, *bufio.Reader)
		status int
		reason string
		did    string
	}{
		{"closes", func(net.Conn, *bufio.Reader) { time.Sleep(50 * time.Millisecond) }, 502, "upstream.broken", ""},
		{"resets", func(nc net.Conn, r *bufio.Reader) { r.Peek(1); reset(nc) }, 502, "upstream.broken", ""},
		{"takes nothing", func(net.Conn, *bufio.Reader) { <-t.Context().Done() }, 504, "upstream.timeout", "took nothing of the request"},
		{"answers garbage", func(nc net.Conn, r *bufio.Reader) { io.WriteString(nc, "nonsense\r\n\r\n"); waits(nc, r) }, 502, "upstream.broken", "no HTTP"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			whytest.EachEngine(t, func(t *testing.T, engine string) {
				up := whytest.RawUpstream(t, c.serve)
				n := whytest.Start(t, engine, upstreamSpec(whytest.API("http://"+up, "/", "  - size: {body: unlimited}"), quick))
				nc, err := net.Dial("tcp", n.Addr())
				if err != nil {
					t.Fatal(err)
				}
				defer nc.Close()
				nc.SetDeadline(time.Now().Add(patience))
				fmt.Fprintf(nc, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", 64<<20)
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					io.CopyN(nc, zeros{}, 64<<20)
				}()
				res, err := http.ReadResponse(bufio.NewReader(nc), nil)
				if err != nil {
					t.Fatal(err)
				}
				rec := n.Record(whytest.Answer{Response: res})
				if res.StatusCode != c.status || rec.Reason != c.reason {
					t.Errorf("%d, record %q", res.StatusCode, rec.Reason)
				}
				d, _ := gateway.DecodeDetail(rec.Detail)
				if says := d.Verdict.Tell(reason.ToOperator).Says; !strings.Contains(says, c.did) {
					t.Errorf("says %q, want %q", says, c.did)
				}
				nc.Close()
				<-sent
			})
		})
	}
}

// A long upload may take longer than the upstream may take to answer, whatever it says meanwhile;
// and a long answer may pause longer than that.
func TestUploadLongerThanFirstByte(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			io.WriteString(nc, "HTTP/1.1 102 Processing\r\n\r\n")
			r.Discard(len("1\r\nx\r\n")*8 + len("0\r\n\r\n"))
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
			time.Sleep(600 * time.Millisecond)
			io.WriteString(nc, "1\r\nb\r\n0\r\n\r\n")
		})
		n := whytest.Start(t, engine, upstreamSpec(whytest.API("http://"+up, "/", ""), "timeouts: {firstByte: 250ms, idle: 5s}, retries: {attempts: 0}"))
		pr, pw := io.Pipe()
		go func() {
			for range 8 {
				io.WriteString(pw, "x")
				time.Sleep(100 * time.Millisecond)
			}
			pw.Close()
		}()
		req, _ := http.NewRequest("POST", n.URL("/"), pr)
		if a := n.Do(req); a.StatusCode != 200 || a.Body != "ab" {
			t.Errorf("%d %q", a.StatusCode, a.Body)
		}
	})
}

// A route's timeout counts from the beginning of the call, and says so.
func TestRouteTimeout(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.RawUpstream(t, waits)
		docs := whytest.API("http://"+up, "/", "") + "  routes: [{path: \"/{rest...}\", timeout: 300ms}]\n"
		n := whytest.Start(t, engine, upstreamSpec(docs, "timeouts: {firstByte: 5s}, retries: {attempts: 5, budget: 100}"))
		start := time.Now()
		a := n.Call("GET", "/", "")
		if took := time.Since(start); a.StatusCode != 504 || took > 1500*time.Millisecond {
			t.Errorf("%d after %v", a.StatusCode, took)
		}
		rec := n.Record(a)
		d, _ := gateway.DecodeDetail(rec.Detail)
		if f, _ := d.Verdict.Facts.Find("setting", reason.ToOperator); f.Text() != "timeout of the route" || rec.Tries != 1 {
			t.Errorf("setting %q, %d tries", f.Text(), rec.Tries)
		}
	})
}

// A stream that has begun ends with an event that says why.
func TestBrokenEventStream(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.RawUpstream(t, says("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"))
		n := whytest.Start(t, engine, upstreamSpec(whytest.API("http://"+up, "/", ""), quick))
		a := n.Call("GET", "/", "", "Accept: text/event-stream")
		if a.StatusCode != 200 || !strings.HasPrefix(a.Body, "data: 1\n\n\n\nevent: error\ndata: {\n") || !strings.Contains(a.Body, "upstream.broken") || !strings.HasSuffix(a.Body, "\n\n") {
			t.Errorf("%d %q", a.StatusCode, a.Body)
		}
		if strings.Contains(a.Body, up) {
			t.Errorf("a stranger is told %s", a.Body)
		}
		rec := n.Record(a)
		checkFault(t, rec, up, "closed")
		if rec.BytesOut != int64(len(a.Body)) || rec.Flags&calllog.Truncated == 0 {
			t.Errorf("record: %d bytes of %d, flags %b", rec.BytesOut, len(a.Body), rec.Flags)
		}
	})
}

// Over HTTP/2 a broken answer is a reset stream, and other streams of the connection go on.
func TestBrokenAnswerOverHTTP2(t *testing.T) {
	up := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
		req, _, err := whytest.ReadRequest(r)
		if err != nil {
			return
		}
		if req.URL.Path == "/broken" {
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789")
			return
		}
		io.WriteString(nc, ok)
	})
	n := whytest.Start(t, "wire", upstreamSpec(whytest.API("http://"+up, "/", ""), quick))
	client := client2(t)
	for range 3 {
		res, err := client.Get(n.URL("/broken"))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(res.Body); err == nil || string(b) != "0123456789" {
			t.Errorf("%q %v", b, err)
		}
		res.Body.Close()
		res, err = client.Get(n.URL("/"))
		if err != nil || res.ProtoMajor != 2 {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(res.Body); err != nil || string(b) != "ok" {
			t.Errorf("%q %v", b, err)
		}
		res.Body.Close()
	}
	if n.Server().Accepted.Load() != 1 {
		t.Errorf("%d connections", n.Server().Accepted.Load())
	}
}

// A client of HTTP/1.0 knows the end of an answer by the close alone, so a broken one is reset.
func TestBrokenAnswerToHTTP10(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
			says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n")(nc, r)
			time.Sleep(50 * time.Millisecond)
		})
		n := whytest.Start(t, engine, upstreamSpec(whytest.API("http://"+up, "/", ""), quick))
		nc, err := net.Dial("tcp", n.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		io.WriteString(nc, "GET / HTTP/1.0\r\n\r\n")
		if b, err := io.ReadAll(nc); err == nil {
			t.Errorf("the client takes this for whole: %q", b)
		}
	})
}

// Faults of a TLS upstream.
func TestUpstreamTLS(t *testing.T) {
	t.Parallel()
	ca := whytest.NewAuthority(t)
	_, _, good := ca.Issue(t, "127.0.0.1")
	_, _, other := ca.Issue(t, "other.test")
	clientCert, clientKey, _ := ca.Issue(t, "gateway.test")
	serve := func(config *tls.Config) func(*testing.T) string {
		return func(t *testing.T) string {
			return whytest.RawUpstream(t, func(nc net.Conn, _ *bufio.Reader) {
				c := tls.Server(nc, config)
				r := bufio.NewReader(c)
				for {
					if _, _, err := whytest.ReadRequest(r); err != nil {
						return
					}
					io.WriteString(c, ok)
				}
			})
		}
	}
	plain := func(t *testing.T) string {
		return whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
			r.Peek(1)
			io.WriteString(nc, "HTTP/1.1 400 Bad Request\r\n\r\n")
			waits(nc, r)
		})
	}
	silent := func(t *testing.T) string { return whytest.RawUpstream(t, waits) }
	for _, c := range []struct {
		name, spec string
		target     func(*testing.T) string
		status     int
		reason     string
		err        string
	}{
		{"good", "tls: {ca: " + ca.File + "}", serve(&tls.Config{Certificates: []tls.Certificate{good}}), 200, "", ""},
		{"unknown authority", "tls: {}", serve(&tls.Config{Certificates: []tls.Certificate{good}}), 502, "upstream.tls", "unknown authority"},
		{"unverified", "tls: {skipVerify: true}", serve(&tls.Config{Certificates: []tls.Certificate{good}}), 200, "", ""},
		{"other name", "tls: {ca: " + ca.File + "}", serve(&tls.Config{Certificates: []tls.Certificate{other}}), 502, "upstream.tls", "127.0.0.1"},
		{"server name", "tls: {ca: " + ca.File + ", serverName: other.test}", serve(&tls.Config{Certificates: []tls.Certificate{other}}), 200, "", ""},
		{"client certificate", fmt.Sprintf("tls: {ca: %s, cert: %s, key: %s}", ca.File, clientCert, clientKey), serve(&tls.Config{Certificates: []tls.Certificate{good}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool}), 200, "", ""},
		{"plain HTTP", "tls: {ca: " + ca.File + "}", plain, 502, "upstream.tls", "does not look like a TLS handshake"},
		{"silent", "tls: {ca: " + ca.File + "}", silent, 504, "upstream.timeout", "no answer in time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, protocol := range []string{"http1", "h2"} {
				if protocol == "h2" && c.status == 200 {
					continue // these speak no HTTP/2
				}
				addr, settings := c.target(t), quick
				if c.name != "silent" {
					settings = strings.ReplaceAll(quick, "600ms", "10s") // handshakes take their time on a busy machine
				}
				n := whytest.Start(t, "wire", upstreamSpec(whytest.API("https://"+addr, "/", ""), "protocol: "+protocol+", "+c.spec+", "+settings))
				for range 2 {
					a := n.Call("POST", "/", "x")
					rec := n.Record(a)
					if a.StatusCode != c.status || rec.Reason != c.reason {
						t.Errorf("%s: %d, record %q: %s", protocol, a.StatusCode, rec.Reason, rec.Detail)
					}
					if c.reason != "" {
						checkFault(t, rec, addr, c.err)
					}
				}
			}
		})
	}
}

// An upstream of HTTP/2 has the same faults.
func TestFaultsOfHTTP2Upstream(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	up := newUpstream2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/never":
			select {
			case <-r.Context().Done():
			case <-stop:
			}
		case "/hints":
			w.WriteHeader(103)
			select {
			case <-r.Context().Done():
			case <-stop:
			}
		case "/reset":
			panic(http.ErrAbortHandler)
		case "/part":
			io.WriteString(w, "part")
			w.(http.Flusher).Flush()
			time.Sleep(50 * time.Millisecond)
			panic(http.ErrAbortHandler)
		case "/pause":
			io.WriteString(w, "part")
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
			case <-stop:
			}
		case "/flood":
			for range 100 {
				w.WriteHeader(103)
			}
		case "/early":
			w.WriteHeader(413)
		default:
			b, err := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %v %v", b, err, r.Trailer)
		}
	}))
	t.Cleanup(func() { close(stop) })
	addr := strings.TrimPrefix(up, "http://")
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		n := whytest.Start(t, engine, upstreamSpec(whytest.API(up, "/", ""), "protocol: h2, "+quick))
		for _, c := range []struct {
			path   string
			status int
			reason string
			broken bool
		}{
			{"/never", 504, "upstream.timeout", false},
			{"/hints", 504, "upstream.timeout", false},
			{"/reset", 502, "upstream.broken", false},
			{"/part", 200, "upstream.broken", true},
			{"/pause", 200, "upstream.timeout", true},
			{"/flood", 502, "upstream.broken", false},
		} {
			for _, body := range []io.Reader{nil, strings.NewReader("x"), io.MultiReader(strings.NewReader("x"))} {
				req, _ := http.NewRequest("POST", n.URL(c.path), body)
				res, err := http.DefaultTransport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				_, err = io.ReadAll(res.Body)
				res.Body.Close()
				rec := n.Record(whytest.Answer{Response: res})
				if res.StatusCode != c.status || rec.Reason != c.reason || (err != nil) != c.broken {
					t.Errorf("%s: %d, record %q, error %v", c.path, res.StatusCode, rec.Reason, err)
				}
				checkFault(t, rec, addr, "")
			}
		}
		// Bodies arrive whole, with their trailers, whichever way they came.
		for _, body := range []io.Reader{strings.NewReader("content"), io.MultiReader(strings.NewReader("content"))} {
			req, _ := http.NewRequest("POST", n.URL("/"), body)
			want := "content <nil> map[]"
			if req.ContentLength <= 0 {
				req.Trailer = http.Header{"X-Sum": {"7"}}
				want = "content <nil> map[X-Sum:[7]]"
			}
			if a := n.Do(req); a.StatusCode != 200 || a.Body != want {
				t.Errorf("%d %q, want %q", a.StatusCode, a.Body, want)
			}
		}
		target := n.Snapshot().Upstreams["up"].Targets()[0]
		whytest.Eventually(t, "no call is left at the target", func() bool { return target.InFlight() == 0 })
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		n := whytest.Start(t, engine, upstreamSpec(whytest.API("http://"+closedPort(t), "/", ""), "protocol: h2, "+quick))
		a := n.Call("POST", "/", "x")
		if rec := n.Record(a); a.StatusCode != 502 || rec.Reason != "upstream.unreachable" {
			t.Errorf("%d, record %q", a.StatusCode, rec.Reason)
		}
	})
}

// A client that leaves while it waits: the upstream's connection is closed soon, and the record says so.
func TestClientLeavesWhileWaiting(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, send string }{
		{"GET", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"upload", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\npart"},
		{"upload complete", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n0\r\n\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			whytest.EachEngine(t, func(t *testing.T, engine string) {
				arrived, left := make(chan struct{}), make(chan struct{})
				up := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
					r.ReadString('\n')
					close(arrived)
					waits(nc, r)
					close(left)
				})
				n := whytest.Start(t, engine, upstreamSpec(whytest.API("http://"+up, "/", ""), "timeouts: {firstByte: 1m}"))
				nc, err := net.Dial("tcp", n.Addr())
				if err != nil {
					t.Fatal(err)
				}
				io.WriteString(nc, c.send)
				<-arrived
				time.Sleep(100 * time.Millisecond)
				reset(nc)
				select {
				case <-left:
				case <-time.After(2500 * time.Millisecond):
					t.Fatal("the upstream's connection is still open")
				}
				rec := n.Last(func(*calllog.Record) bool { return true })
				if rec.Status != 499 || rec.Reason != "client.gone" || rec.Outcome != calllog.Failed || rec.Flags&calllog.ClientGone == 0 {
					t.Errorf("record: %d %q %v %b", rec.Status, rec.Reason, rec.Outcome, rec.Flags)
				}
				if target := n.Snapshot().Upstreams["up"].Targets()[0]; target.Failed.Load() != 0 {
					t.Error("the target was blamed")
				}
			})
		})
	}
}

// A client that closes its sending side and waits is answered within timeouts.halfClosed, and taken
// for gone after it.
func TestHalfClosedClient(t *testing.T) {
	t.Parallel()
	up := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
		req, _, err := whytest.ReadRequest(r)
		if err != nil {
			return
		}
		if req.URL.Path == "/slow" {
			waits(nc, r)
			return
		}
		time.Sleep(400 * time.Millisecond)
		io.WriteString(nc, ok)
	})
	n := whytest.Start(t, "wire", whytest.GatewayDocument("wire", "  timeouts: {halfClosed: 1s}\n")+"---\n"+whytest.API("http://"+up, "/", ""))
	ask := func(path string) (string, time.Duration) {
		nc, err := net.Dial("tcp", n.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		fmt.Fprintf(nc, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path)
		nc.(*net.TCPConn).CloseWrite()
		nc.SetReadDeadline(time.Now().Add(patience))
		start := time.Now()
		b, _ := io.ReadAll(nc)
		return string(b), time.Since(start)
	}
	if got, _ := ask("/"); !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Errorf("answered %q", got)
	}
	if got, took := ask("/slow"); got != "" || took > 3*time.Second {
		t.Errorf("answered %q after %v", got, took)
	}
}

// A client that leaves within its answer: the upstream is let go, the record is marked.
func TestClientLeavesWithinAnswer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		serve func(net.Conn, *bufio.Reader)
	}{
		{"much to send", then("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n", floods("x"))},
		{"nothing to send", then("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart", waits)},
		{"events", then("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n", waits)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			whytest.EachEngine(t, func(t *testing.T, engine string) {
				left := make(chan struct{})
				up := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
					c.serve(nc, r)
					close(left)
				})
				n := whytest.Start(t, engine, whytest.API("http://"+up, "/", ""))
				nc, err := net.Dial("tcp", n.Addr())
				if err != nil {
					t.Fatal(err)
				}
				io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				nc.SetReadDeadline(time.Now().Add(patience))
				if _, err := nc.Read(make([]byte, 1000)); err != nil {
					t.Fatal(err)
				}
				reset(nc)
				select {
				case <-left:
				case <-time.After(3 * time.Second):
					t.Fatal("the upstream's connection is still open")
				}
				rec := n.Last(func(*calllog.Record) bool { return true })
				if rec.Status != 200 || rec.Outcome != calllog.Allowed || rec.Flags&calllog.ClientGone == 0 || rec.Flags&calllog.Truncated != 0 {
					t.Errorf("record: %d %v %b %q", rec.Status, rec.Outcome, rec.Flags, rec.Reason)
				}
				if target := n.Snapshot().Upstreams["up"].Targets()[0]; target.Failed.Load() != 0 || target.InFlight() != 0 {
					t.Errorf("%d failures, %d in flight", target.Failed.Load(), target.InFlight())
				}
			})
		})
	}
}

// A client that takes nothing is bounded by timeouts.write; one that is slow is not, and the
// upstream is not blamed for it.
func TestSlowReaders(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"http1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			whytest.EachEngine(t, func(t *testing.T, engine string) {
				const size = 8 << 20
				up := newUpstream2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Length", fmt.Sprint(size))
					io.CopyN(w, zeros{}, size)
				}))
				docs := whytest.GatewayDocument(engine, "  timeouts: {write: 3s}\n") + "---\n" + whytest.API(up, "/", "")
				n := whytest.Start(t, engine, upstreamSpec(docs, "protocol: "+protocol+", timeouts: {idle: 1s, firstByte: 5s}"))
				ask := func(path string) (*net.TCPConn, *bufio.Reader) {
					nc, err := net.Dial("tcp", n.Addr())
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { nc.Close() })
					nc.(*net.TCPConn).SetReadBuffer(64 << 10)
					fmt.Fprintf(nc, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path)
					return nc.(*net.TCPConn), bufio.NewReader(nc)
				}
				nc, r := ask("/slow")
				res, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				for range 2 { // longer than the upstream may pause, shorter than the client may
					io.CopyN(io.Discard, res.Body, 2<<20)
					time.Sleep(1500 * time.Millisecond)
				}
				rest, err := io.Copy(io.Discard, res.Body)
				if err != nil || rest != size-2*(2<<20) {
					t.Errorf("a slow client got %d of the rest: %v", rest, err)
				}
				nc.Close()

				ask("/stuck")
				rec := n.Last(func(r *calllog.Record) bool { return r.Path == "/stuck" })
				if rec.Flags&calllog.ClientGone == 0 || rec.BytesOut >= size || rec.Duration < 3*time.Second {
					t.Errorf("record: flags %b, %d bytes, %v", rec.Flags, rec.BytesOut, rec.Duration)
				}
				target := n.Snapshot().Upstreams["up"].Targets()[0]
				if target.Failed.Load() != 0 {
					t.Error("the target was blamed")
				}
			})
		})
	}
}

// The pause between a request and its answer is the upstream's time, not the client's.
func TestSlowAnswerToBody(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
			for {
				if _, _, err := whytest.ReadRequest(r); err != nil {
					return
				}
				time.Sleep(700 * time.Millisecond)
				io.WriteString(nc, ok)
			}
		})
		n := whytest.Start(t, engine, whytest.GatewayDocument(engine, "  timeouts: {body: 200ms, write: 200ms, header: 200ms}\n")+"---\n"+whytest.API("http://"+up, "/", ""))
		a := n.Call("POST", "/", "x")
		if a.StatusCode != 200 {
			t.Errorf("%d %s", a.StatusCode, a.Body)
		}
		// And over HTTP/2.
		res, err := client2(t).Post(n.URL("/"), "text/plain", strings.NewReader("x"))
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("%v %v", res, err)
		}
		res.Body.Close()
	})
}

// client2 speaks HTTP/2 with prior knowledge.
func client2(t testing.TB) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 4 * patience}
}

// rawHTTP2 is an upstream that answers each stream with the fields that its path names, whatever sense they make.
func rawHTTP2(t *testing.T, answer func(path string) []hpack.HeaderField) (address string) {
	return whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
		if _, err := io.ReadFull(r, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		fr := http2.NewFramer(nc, r)
		fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		fr.WriteSettings()
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				return
			}
			switch f := f.(type) {
			case *http2.SettingsFrame:
				if !f.IsAck() {
					fr.WriteSettingsAck()
				}
			case *http2.MetaHeadersFrame:
				block.Reset()
				for _, field := range answer(f.PseudoValue("path")) {
					enc.WriteField(field)
				}
				for rest, first := block.Bytes(), true; first || len(rest) > 0; first = false {
					n := min(len(rest), 16000)
					if first {
						fr.WriteHeaders(http2.HeadersFrameParam{StreamID: f.StreamID, BlockFragment: rest[:n], EndHeaders: n == len(rest), EndStream: true})
					} else {
						fr.WriteContinuation(f.StreamID, n == len(rest), rest[:n])
					}
					rest = rest[n:]
				}
			}
		}
	})
}

// Heads of HTTP/2 are held to the bounds of those of HTTP/1.1, and none has a call wait for ever.
func TestForeignHeadsOfHTTP2Upstream(t *testing.T) {
	t.Parallel()
	up := rawHTTP2(t, func(path string) []hpack.HeaderField {
		status, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
		fields := []hpack.HeaderField{{Name: ":status", Value: status}}
		switch rest {
		case "large":
			fields = append(fields, hpack.HeaderField{Name: "x-large", Value: strings.Repeat("x", 200<<10)})
		case "many":
			for i := range 1000 {
				fields = append(fields, hpack.HeaderField{Name: fmt.Sprintf("x-%d", i), Value: "y"})
			}
		}
		return fields
	})
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		n := whytest.Start(t, engine, upstreamSpec(whytest.API("http://"+up, "/", ""), "protocol: h2, "+quick))
		for _, path := range []string{"/0", "/-5", "/42", "/099", "/600", "/999", "/70000", "/x", "/200/large", "/200/many", "/101"} {
			a := n.Call("GET", path, "")
			if rec := n.Record(a); a.StatusCode != 502 || rec.Reason != "upstream.broken" {
				t.Errorf("%s: %d, record %q", path, a.StatusCode, rec.Reason)
			}
		}
		if a := n.Call("GET", "/204", ""); a.StatusCode != 204 {
			t.Errorf("%d %s", a.StatusCode, a.Body)
		}
	})
}
