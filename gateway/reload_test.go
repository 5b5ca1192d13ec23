package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/snapshot"
	"github.com/whygate/whygate/whytest"
	"github.com/whygate/whygate/wire"
)

// load makes calls on keep-alive connections of its own until stop, each on one connection for as
// long as that may be used. A call that fails is an error: nothing is repeated.
type load struct {
	calls, conns atomic.Int64
	stop         atomic.Bool
	last         atomic.Bool // nobody connects any more
	done         sync.WaitGroup
}

func startLoad(t *testing.T, addr string, connections int) *load {
	l := &load{}
	t.Cleanup(l.end) // before the gateway goes away
	requests := []string{
		"GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
		"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	}
	for i := range connections {
		l.done.Add(1)
		go func() {
			defer l.done.Done()
			for !l.stop.Load() {
				nc, err := net.Dial("tcp", addr)
				if err != nil {
					if !l.last.Load() {
						t.Errorf("connecting: %v", err)
					}
					return
				}
				l.conns.Add(1)
				nc.SetDeadline(time.Now().Add(12 * patience))
				r := bufio.NewReader(nc)
				for n := i; !l.stop.Load(); n++ {
					send := requests[n%len(requests)]
					if _, err := io.WriteString(nc, send); err != nil {
						t.Errorf("sending: %v", err)
						break
					}
					res, err := http.ReadResponse(r, nil)
					if err != nil {
						t.Errorf("%.20q: %v", send, err)
						break
					}
					b, err := io.ReadAll(res.Body)
					if err != nil || res.StatusCode != 200 || string(b) != "ok" {
						t.Errorf("%.20q: %d %q %v", send, res.StatusCode, b, err)
						break
					}
					l.calls.Add(1)
					if res.Close {
						break
					}
				}
				nc.Close()
			}
		}()
	}
	return l
}

func (l *load) end() {
	l.stop.Store(true)
	l.done.Wait()
}

// Documents change under load, again and again: no call fails, and nothing piles up.
func TestReloadUnderLoad(t *testing.T) {
	reloads := 200
	if testing.Short() {
		reloads = 50
	}
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		a, b := whytest.Script(t, always(ok)), whytest.Script(t, always(ok))
		docs := func(i int) string {
			settings := fmt.Sprintf("timeouts: {firstByte: %ds}", 20+i%4) // a new upstream every time but some
			if i%5 == 0 {
				settings = "timeouts: {firstByte: 20s}"
			}
			up := a
			if i%3 == 0 {
				up = b
			}
			policies := ""
			if i%2 == 0 {
				policies = fmt.Sprintf("  - rate-limit: {requests: 1000000, period: 1s}\n  - headers: {response: {set: {X-Revision: \"%d\"}}}", i)
			}
			return upstreamSpec(whytest.API(up.URL(), "/", policies), settings)
		}
		n := whytest.Start(t, engine, docs(0))
		// Each of the 8 clients has one here, up to three at the gateway and one at an upstream.
		most := runtime.NumGoroutine() + 8*5
		l := startLoad(t, n.Addr(), 8)
		whytest.Eventually(t, "calls are made", func() bool { return l.calls.Load() > 100 })
		for i := range reloads {
			if ps := n.Apply(docs(i + 1)); ps.HasErrors() {
				t.Fatal(ps)
			}
			time.Sleep(2 * time.Millisecond)
		}
		whytest.Eventually(t, "goroutines of old revisions have ended", func() bool { return runtime.NumGoroutine() <= most })
		calls := l.calls.Load()
		whytest.Eventually(t, "calls go on", func() bool { return l.calls.Load() > calls+100 })
		l.end()
		t.Logf("%d calls on %d connections during %d reloads", l.calls.Load(), l.conns.Load(), reloads)
		if l.conns.Load() != 8 {
			t.Errorf("%d connections were needed: reloading closed some", l.conns.Load())
		}
		// Only the upstream in use may hold connections.
		whytest.Eventually(t, "connections of old upstreams are closed", func() bool { return a.Open()+b.Open() <= 8 })
		if rec := n.Last(func(*calllog.Record) bool { return true }); rec.Revision != uint64(reloads+1) {
			t.Errorf("revision %d", rec.Revision)
		}
	})
}

// An upstream whose document stays the same keeps its connections, its counts and its health.
func TestUpstreamsAreKept(t *testing.T) {
	up := whytest.Script(t, always(ok))
	n := whytest.Start(t, "wire", whytest.API(up.URL(), "/", ""))
	n.Call("GET", "/", "")
	first := n.Snapshot().Upstreams["up"]
	for i := range 5 {
		n.Apply(whytest.API(up.URL(), "/", fmt.Sprintf("  - size: {body: %dKiB}", i+1)))
		if n.Snapshot().Upstreams["up"] != first {
			t.Fatal("another upstream for the same document")
		}
		n.Call("GET", "/", "")
	}
	if up.Opened() != 1 || first.Targets()[0].Calls.Load() != 6 {
		t.Errorf("%d connections, %d calls", up.Opened(), first.Targets()[0].Calls.Load())
	}
	n.Apply(upstreamSpec(whytest.API(up.URL(), "/", ""), "timeouts: {idle: 1s}"))
	if n.Snapshot().Upstreams["up"] == first {
		t.Error("the same upstream for another document")
	}
	whytest.Eventually(t, "the old connection is closed", func() bool { return up.Open() == 0 })
	n.Call("GET", "/", "")
	// Documents with errors change nothing.
	now := n.Snapshot()
	if ps := n.Apply(whytest.API("ftp://nowhere", "/", "")); !ps.HasErrors() || n.Snapshot() != now {
		t.Error("wrong documents were applied")
	}
	if a := n.Call("GET", "/", ""); a.StatusCode != 200 {
		t.Error(a.StatusCode)
	}
}

// A call in flight ends by the revision it began with, on the upstream of that revision.
func TestCallsInFlightKeepTheirRevision(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		arrived, let := make(chan bool), make(chan bool)
		up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {
			arrived <- true
			<-let
			io.WriteString(w, "ok")
		})
		n := whytest.Start(t, engine, whytest.API(up.URL, "/", "  - headers: {response: {set: {X-Old: \"yes\"}}}"))
		old := n.Snapshot().Upstreams["up"]
		answer := make(chan whytest.Answer)
		go func() { answer <- n.Call("GET", "/", "") }()
		<-arrived
		n.Apply("apiVersion: whygate/v1\nkind: Upstream\nmetadata: {name: up}\nspec: {targets: [{url: \"http://127.0.0.1:1\"}]}\n")
		if a := n.Call("GET", "/", ""); a.StatusCode != 404 {
			t.Errorf("by the new revision: %d", a.StatusCode)
		}
		close(let)
		a := <-answer
		rec := n.Record(a)
		if a.StatusCode != 200 || a.Header.Get("X-Old") != "yes" || rec.Revision != 1 || rec.API != "api" {
			t.Errorf("%d %v, record: revision %d, API %q", a.StatusCode, a.Header, rec.Revision, rec.API)
		}
		whytest.Eventually(t, "the old upstream lets go", func() bool { return old.Targets()[0].IdleConns() == 0 && old.Targets()[0].InFlight() == 0 })
	})
}

// A listener that moves: the new address is served, the old one is not, and open connections live on.
func TestListenerMoves(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always(ok))
		at := func(listeners string) string {
			return "apiVersion: whygate/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {listeners: [" + listeners + "]}\n---\n" + whytest.API(up.URL(), "/", "")
		}
		n := whytest.Start(t, engine, at("{address: \"127.0.0.1:0\", http1: {engine}}"))
		old := n.Addr()
		nc, err := net.Dial("tcp", old)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(patience))
		r := bufio.NewReader(nc)
		ask := func() {
			t.Helper()
			io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			res, err := http.ReadResponse(r, nil)
			if err != nil || res.StatusCode != 200 {
				t.Fatalf("%v %v", res, err)
			}
			io.Copy(io.Discard, res.Body)
		}
		ask()
		if ps := n.Apply(at("{address: \"127.0.0.2:0\", http1: {engine}}, {address: \"127.0.0.3:0\", name: more, http1: {engine}}")); ps.HasErrors() {
			t.Fatal(ps)
		}
		ask()
		if c, err := net.Dial("tcp", old); err == nil {
			c.Close()
			t.Error("the old address is still served")
		}
		for _, a := range n.Addresses() {
			res, err := http.Get("http://" + a.String() + "/")
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
		}
		http.DefaultClient.CloseIdleConnections()
		if len(n.Addresses()) != 2 {
			t.Errorf("addresses %v", n.Addresses())
		}
		// An address that is taken is an error that says so, and the others are served.
		taken, err := net.Listen("tcp", "127.0.0.4:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		snap := n.Snapshot()
		snap.Listeners[1].Address = taken.Addr().String()
		if err := n.Listen(); err == nil || !strings.Contains(err.Error(), "address already in use") || !strings.Contains(err.Error(), "ss -ltnp") {
			t.Errorf("%v", err)
		}
		ask()
	})
}

// A node that drains finishes what it has begun. Clients that honour Connection: close see no failure.
func TestDrainUnderLoad(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		for round := range 5 {
			up := whytest.Script(t, func(*whytest.Received) string {
				time.Sleep(time.Duration(round) * time.Millisecond)
				return ok
			})
			n := whytest.Start(t, engine, whytest.API(up.URL(), "/", ""))
			l := startLoad(t, n.Addr(), 8)
			whytest.Eventually(t, "calls are made", func() bool { return l.calls.Load() > 50 })
			l.last.Store(true) // each client ends with its connection from here on
			ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
			start := time.Now()
			if broken := n.Drain(ctx); broken != 0 {
				t.Errorf("%d connections were broken", broken)
			}
			cancel()
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("took %v", took)
			}
			l.done.Wait()
		}
	})
}

// A long call is waited for; one that is too long is broken off at the deadline.
func TestDrainDeadline(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		for _, c := range []struct {
			takes, deadline time.Duration
			broken          int
		}{{300 * time.Millisecond, patience, 0}, {patience, 300 * time.Millisecond, 1}} {
			let := make(chan bool)
			up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {
				select {
				case <-time.After(c.takes):
					io.WriteString(w, "ok")
				case <-r.Context().Done():
				case <-let:
				}
			})
			n := whytest.Start(t, engine, whytest.API(up.URL, "/", ""))
			answer := make(chan string, 1)
			go func() {
				nc, err := net.Dial("tcp", n.Addr())
				if err != nil {
					answer <- err.Error()
					return
				}
				defer nc.Close()
				io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				b, _ := io.ReadAll(nc)
				answer <- string(b)
			}()
			target := n.Snapshot().Upstreams["up"].Targets()[0]
			whytest.Eventually(t, "the call is in flight", func() bool { return target.InFlight() == 1 })
			ctx, cancel := context.WithTimeout(context.Background(), c.deadline)
			start := time.Now()
			if broken := n.Drain(ctx); broken != c.broken {
				t.Errorf("%d connections were broken, want %d", broken, c.broken)
			}
			cancel()
			if took := time.Since(start); took > min(c.takes, c.deadline)+2*time.Second {
				t.Errorf("took %v", took)
			}
			got := <-answer
			if whole := strings.HasSuffix(got, "\r\n\r\nok") && strings.Contains(got, "Connection: close"); whole != (c.broken == 0) {
				t.Errorf("answered %q", got)
			}
			close(let)
			whytest.Eventually(t, "the call has ended", func() bool { return target.InFlight() == 0 })
		}
	})
}

// --- panics ---

// A check that panics costs its call and nothing else.
func TestPanickingCheck(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always(ok))
		n := whytest.Start(t, engine, "")
		n.Edit = func(s *snapshot.Snapshot) {
			for _, r := range s.Routes {
				if r.Name == "bad" { // last, when all limits have taken what is theirs
					r.Steps = append(r.Steps, policy.Step{Check: panics("oh dear"), Name: "test", Kind: "test"})
				}
			}
		}
		docs := whytest.API(up.URL(), "/", "  - concurrency: {calls: 1}\n  - rate-limit: {requests: 3, period: 1h}\n  - quota: {requests: 3}") + "  routes: [{path: /good}, {path: /bad, name: bad}]\n"
		if ps := n.Apply(docs); ps.HasErrors() {
			t.Fatal(ps)
		}
		nc, err := net.Dial("tcp", n.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(patience))
		r := bufio.NewReader(nc)
		ask := func(path string) (*http.Response, string) {
			fmt.Fprintf(nc, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path)
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(res.Body)
			return res, string(b)
		}
		for i := range 5 { // more often than any limit allows
			res, body := ask("/bad")
			if res.StatusCode != 500 || res.Header.Get("Whygate-Reason") != "gateway.panic" || strings.Contains(body, "oh dear") {
				t.Fatalf("call %d: %d %s", i, res.StatusCode, body)
			}
			rec := n.Record(whytest.Answer{Response: res})
			if rec.Flags&calllog.Panicked == 0 || rec.Reason != "gateway.panic" || rec.Status != 500 || rec.Route != "bad" || !strings.Contains(string(rec.Detail), "oh dear") {
				t.Errorf("record %+v", rec)
			}
		}
		for i := range 3 {
			if res, body := ask("/good"); res.StatusCode != 200 {
				t.Errorf("call %d on the same connection: %d %s", i, res.StatusCode, body)
			}
		}
		if n.Panics.Load() != 5 || !strings.Contains(n.Log.String(), "oh dear") || !strings.Contains(n.Log.String(), "reload_test.go") && !strings.Contains(n.Log.String(), "answer_test.go") {
			t.Errorf("%d panics were counted; the log: %s", n.Panics.Load(), n.Log)
		}
		if n.Server().Panics.Load() != 0 {
			t.Error("a panic got through to the server")
		}
	})
}

// A policy that only watches costs no call, whatever happens to it: its panic is counted, logged and recorded.
func TestPanickingWatcher(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always(ok))
		n := whytest.Start(t, engine, "")
		n.Edit = func(s *snapshot.Snapshot) {
			for _, r := range s.Routes {
				r.Steps = slices.Insert(r.Steps, 0, policy.Step{Check: panics("oh dear"), Name: "test", Kind: "test", Shadow: true})
			}
		}
		if ps := n.Apply(whytest.API(up.URL(), "/", "  - method: {allow: [GET]}")); ps.HasErrors() {
			t.Fatal(ps)
		}
		for i, method := range []string{"GET", "PUT", "GET"} {
			a := n.Call(method, "/", "")
			if want := map[string]int{"GET": 200, "PUT": 405}[method]; a.StatusCode != want { // the next policy still decides
				t.Fatalf("%s: %d %s", method, a.StatusCode, a.Body)
			}
			rec := n.Record(a)
			d, err := gateway.DecodeDetail(rec.Detail)
			if err != nil || rec.Flags&(calllog.Panicked|calllog.Hinted) != calllog.Panicked|calllog.Hinted || len(d.Hints) != 1 || d.Hints[0].Code != "shadow.panicked" ||
				!strings.Contains(d.Hints[0].Text, "test only watches") || strings.Contains(d.Hints[0].Text, "oh dear") {
				t.Errorf("record %+v %s %v", rec, rec.Detail, err)
			}
			if n.Panics.Load() != int64(i+1) || n.Server().Panics.Load() != 0 {
				t.Errorf("%d panics were counted", n.Panics.Load())
			}
		}
		if !strings.Contains(n.Log.String(), "oh dear") {
			t.Errorf("the log does not say why: %s", n.Log)
		}
	})
}

// editor panics where answers are changed: a call to the upstream is in flight then.
type editor struct{ policy.ResponseEditor }

func (editor) EditResponse(*policy.Exchange, *wire.Head) { panic("while editing") }

func TestPanicWithinCall(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always(ok))
		n := whytest.Start(t, engine, "")
		n.Edit = func(s *snapshot.Snapshot) { s.Routes[0].ResponseEdits = append(s.Routes[0].ResponseEdits, editor{}) }
		if ps := n.Apply(whytest.API(up.URL(), "/", "  - concurrency: {calls: 1}")); ps.HasErrors() {
			t.Fatal(ps)
		}
		for range 5 {
			for _, body := range []io.Reader{nil, strings.NewReader("x"), io.MultiReader(strings.NewReader("x"))} {
				req, _ := http.NewRequest("POST", n.URL("/"), body)
				if a := n.Do(req); a.StatusCode != 500 || a.Header.Get("Whygate-Reason") != "gateway.panic" {
					t.Fatalf("%d %s", a.StatusCode, a.Body)
				}
			}
		}
		target := n.Snapshot().Upstreams["up"].Targets()[0]
		whytest.Eventually(t, "nothing is left of the calls", func() bool { return target.InFlight() == 0 && up.Open() == 0 })
		if n.Panics.Load() != 15 || n.Server().Panics.Load() != 0 {
			t.Errorf("%d panics were counted, %d got through", n.Panics.Load(), n.Server().Panics.Load())
		}
	})
}

// explained panics when it is only asked what it would have said.
type explained struct{}

func (explained) Check(x *policy.Exchange) reason.Verdict {
	if x.Explaining {
		panic("while explaining")
	}
	return reason.Verdict{}
}

// A panic while a refusal is being written takes nothing of the refusal: neither its reason nor what
// the other policies add to it.
func TestPanicWithinRefusal(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		for _, c := range []struct {
			name string
			edit func(*snapshot.Route)
		}{
			{"a check behind it", func(r *snapshot.Route) {
				r.Steps = append(r.Steps, policy.Step{Check: explained{}, Name: "test", Kind: "test", Phase: policy.Authentication})
			}},
			{"an edit of the answer", func(r *snapshot.Route) {
				r.ResponseEdits = slices.Insert(r.ResponseEdits, 0, policy.ResponseEditor(editor{}))
			}},
		} {
			n := whytest.Start(t, engine, "")
			n.Edit = func(s *snapshot.Snapshot) {
				for _, r := range s.Routes {
					c.edit(r)
				}
			}
			docs := whytest.API("http://"+closedPort(t), "/", "  - cors: {origins: [\"https://shop.test\"]}\n  - key-auth: {}\n  - headers: {response: {set: {X-Mark: here}}}")
			if ps := n.Apply(docs); ps.HasErrors() {
				t.Fatal(ps)
			}
			for i := range 3 {
				a := n.Call("GET", "/", "", "Origin: https://shop.test")
				rec := n.Record(a)
				if a.StatusCode != 401 || a.Header.Get("Whygate-Reason") != "key.missing" || a.Header.Get("X-Mark") != "here" || a.Header.Get("Access-Control-Allow-Origin") != "https://shop.test" {
					t.Errorf("%s: %d %v", c.name, a.StatusCode, a.Header)
				}
				if rec.Reason != "key.missing" || rec.Status != 401 || rec.Flags&calllog.Panicked == 0 || n.Panics.Load() != int64(i+1) || n.Server().Panics.Load() != 0 {
					t.Errorf("%s: record %d %q, flags %b, %d panics", c.name, rec.Status, rec.Reason, rec.Flags, n.Panics.Load())
				}
			}
		}
	})
}

// recorder panics on records of one path.
type recorder struct{ *calllog.Journal }

func (r recorder) Append(rec *calllog.Record) calllog.Ref {
	if rec.Path == "/bad" {
		panic("while recording")
	}
	return r.Journal.Append(rec)
}

// A panic after the answer has begun breaks the connection, so that nobody takes it for whole.
func TestPanicWithinAnswer(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
		n := whytest.Start(t, engine, whytest.API(up.URL(), "/", "  - concurrency: {calls: 1}"))
		n.Gateway.Journal = recorder{n.Journal}
		for range 3 {
			raw := n.Raw("GET /bad HTTP/1.1\r\nHost: a\r\n\r\n", 2*time.Second)
			if res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(raw)), nil); err == nil {
				if _, err := io.ReadAll(res.Body); err == nil {
					t.Errorf("a whole answer: %q", raw)
				}
			}
			if a := n.Call("GET", "/", ""); a.StatusCode != 200 {
				t.Errorf("the next call: %d %s", a.StatusCode, a.Body)
			}
		}
		target := n.Snapshot().Upstreams["up"].Targets()[0]
		whytest.Eventually(t, "no call is in flight", func() bool { return target.InFlight() == 0 })
		if n.Panics.Load() != 3 {
			t.Errorf("%d panics", n.Panics.Load())
		}
	})
}

// Nothing that was opened stays open: descriptors come back to what they were.
func TestDescriptors(t *testing.T) {
	count := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("this system does not list descriptors")
		}
		return len(list)
	}
	up := whytest.Script(t, always(ok))
	n := whytest.Start(t, "wire", whytest.API(up.URL(), "/", ""))
	n.Call("GET", "/", "")
	before := count()
	for range 20 {
		for _, send := range []string{"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "nonsense\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhi", "GET / HT"} {
			nc, err := net.Dial("tcp", n.Addr())
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(nc, send)
			nc.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			nc.Read(make([]byte, 1))
			nc.Close()
		}
	}
	whytest.Eventually(t, "descriptors are closed", func() bool { return count() <= before+2 })
}
