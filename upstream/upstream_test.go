package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bubble runs f in fake time, which begins in the year 2000: long before the start of this
// process, which times are counted from.
func bubble(t *testing.T, f func(t *testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(50 * 365 * 24 * time.Hour)
		f(t)
	})
}

// newUpstream makes an upstream of target URLs with the defaults of the document; edit changes them.
func newUpstream(t testing.TB, edit func(*resource.Upstream), urls ...string) *Upstream {
	t.Helper()
	var spec resource.Upstream
	var ps resource.Problems
	resource.Decode(resource.Node{}, &spec, &ps) // targets, which are required, come now
	for _, u := range urls {
		spec.Targets = append(spec.Targets, resource.Target{URL: u, Weight: 1})
	}
	if edit != nil {
		edit(&spec)
	}
	w := wire.NewWatch()
	u, err := New("up", spec, nil, func(p string) string { return p }, w, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	u.Start()
	t.Cleanup(func() {
		u.Close()
		w.Close()
	})
	return u
}

// urls are n targets that nobody calls.
func urls(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("http://127.0.%d.%d:80", i/250, i%250+1))
	}
	return list
}

func pick(t testing.TB, u *Upstream, hash uint64) *Target {
	t.Helper()
	target, v := u.Pick(time.Now(), hash, nil)
	if v.Refused() {
		t.Fatalf("no target: %s", v.Tell(reason.ToOperator).Says)
	}
	return target
}

// Weighted shares are exact over each round, and evenly spread within it.
func TestRoundRobinShares(t *testing.T) {
	for _, weights := range [][]int{{1}, {1, 1, 1}, {5, 1, 1}, {100, 200, 300}, {0, 2, 3}, {7, 0, 0, 13}} {
		u := newUpstream(t, func(s *resource.Upstream) {
			for i := range s.Targets {
				s.Targets[i].Weight = weights[i]
			}
		}, urls(len(weights))...)
		total, g := 0, 0
		for _, w := range weights {
			total, g = total+w, gcd(g, w)
		}
		const rounds = 3
		got := map[*Target]int{}
		longest, run, last := 0, 0, (*Target)(nil)
		for range rounds * total / g {
			target := pick(t, u, 0)
			got[target]++
			if run++; target != last {
				run, last = 1, target
			}
			longest = max(longest, run)
		}
		for i, target := range u.Targets() {
			if want := rounds * weights[i] / g; got[target] != want {
				t.Errorf("weights %v: target %d got %d calls, want %d", weights, i, got[target], want)
			}
		}
		if weights[0] == 5 && longest > 4 { // two at the end of a round, two at the beginning of the next
			t.Errorf("weights %v: %d calls in a row to one target", weights, longest)
		}
	}
}

// The calls of a target that is out go to the others.
func TestRoundRobinSkips(t *testing.T) {
	u := newUpstream(t, nil, urls(3)...)
	ts := u.Targets()
	ts[1].down.Store(true)
	for range 30 {
		if pick(t, u, 0) == ts[1] {
			t.Fatal("a target that is down was chosen")
		}
	}
	// Targets that failed this call are taken only when nothing else is left.
	got, _ := u.Pick(time.Now(), 0, []*Target{ts[0]})
	if got != ts[2] {
		t.Errorf("chose %v", got.Address)
	}
	if got, v := u.Pick(time.Now(), 0, []*Target{ts[0], ts[2]}); v.Refused() || got == ts[1] {
		t.Errorf("chose %v %v", got, v)
	}
	ts[0].down.Store(true)
	ts[2].down.Store(true)
	text := asked + "status 500"
	ts[1].lastError.Store(&text)
	if _, v := u.Pick(time.Now(), 0, nil); v.Reason != ejected || !strings.Contains(v.Tell(reason.ToOperator).Seen, ts[1].Address+" is down by its health check (status 500)") {
		t.Errorf("%+v", v)
	}
}

// Least requests keeps targets of different speed evenly loaded.
func TestLeastRequests(t *testing.T) {
	u := newUpstream(t, func(s *resource.Upstream) {
		s.Balance.By = "least-requests"
		s.Targets[0].Weight = 2
	}, urls(4)...)
	ts := u.Targets()
	ts[3].inFlight.Store(1000) // hangs
	for range 1200 {
		target := pick(t, u, 0)
		target.inFlight.Add(1)
	}
	loads := []int64{ts[0].inFlight.Load(), ts[1].inFlight.Load(), ts[2].inFlight.Load()}
	// Two choices out of four: the busy one is chosen only when both fall on it.
	if extra := ts[3].inFlight.Load() - 1000; extra > 200 {
		t.Errorf("the busy target got %d of 1200 calls", extra)
	}
	if loads[1] < loads[2]*7/10 || loads[2] < loads[1]*7/10 || loads[0] <= loads[1] {
		t.Errorf("loads %v for weights 2, 1, 1", loads)
	}
}

// A target that goes moves its own calls and no others, and its calls spread over the rest.
func TestHashMovesLittle(t *testing.T) {
	const keys = 10000
	all := urls(10)
	where := func(urls []string) map[int]string {
		u := newUpstream(t, func(s *resource.Upstream) { s.Balance.By = "hash" }, urls...)
		m := map[int]string{}
		for k := range keys {
			m[k] = pick(t, u, HashOf(fmt.Sprint("key", k))).Address
		}
		return m
	}
	before := where(all)
	count := map[string]int{}
	for _, a := range before {
		count[a]++
	}
	for a, n := range count {
		if n < keys/10*6/10 || n > keys/10*14/10 {
			t.Errorf("%s has %d of %d keys", a, n, keys)
		}
	}
	if again := where(all); fmt.Sprint(again) != fmt.Sprint(before) {
		t.Error("a restart moves calls")
	}
	shuffled := slices.Clone(all)
	rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	if again := where(shuffled); fmt.Sprint(again) != fmt.Sprint(before) {
		t.Error("the order of the document moves calls")
	}
	gone := strings.TrimPrefix(all[3], "http://")
	heirs := map[string]bool{}
	for k, a := range where(slices.Delete(slices.Clone(all), 3, 4)) {
		if before[k] == gone {
			heirs[a] = true
		} else if a != before[k] {
			t.Fatalf("key %d moved from %s to %s although neither went", k, before[k], a)
		}
	}
	if len(heirs) < 7 {
		t.Errorf("the calls of the target that went move to %d others", len(heirs))
	}
	// The same when it is only out for a while.
	u := newUpstream(t, func(s *resource.Upstream) { s.Balance.By = "hash" }, all...)
	u.Targets()[3].down.Store(true)
	for k := range keys {
		if a := pick(t, u, HashOf(fmt.Sprint("key", k))).Address; before[k] != gone && a != before[k] {
			t.Fatalf("key %d moved", k)
		}
	}
}

// The hash of a key is part of the contract between nodes and versions.
func TestHashIsStable(t *testing.T) {
	if h := HashOf("shop"); h != 0x46dc5e18e28e2409 {
		t.Errorf("HashOf has changed: %#x", h)
	}
	u := newUpstream(t, func(s *resource.Upstream) { s.Balance.By = "hash" }, urls(5)...)
	got := ""
	for _, key := range []string{"a", "b", "c", "d", "e", "f"} {
		got += pick(t, u, HashOf(key)).Address + " "
	}
	if want := "127.0.0.4:80 127.0.0.3:80 127.0.0.1:80 127.0.0.2:80 127.0.0.1:80 127.0.0.2:80 "; got != want {
		t.Errorf("keys have moved: %s", got)
	}
}

// Five failures within ten seconds eject a target, twice as long each time; a success forgives, and
// never more than the given share is out.
func TestEjection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUpstream(t, func(s *resource.Upstream) { s.Breaker.Rate = 0 }, urls(4)...)
		target := u.Targets()[0]
		fail := func(target *Target, n int) {
			for range n {
				target.Report(time.Now(), false)
			}
		}
		state := func() string { return target.State(time.Now()) }
		fail(target, 4)
		target.Report(time.Now(), true)
		fail(target, 4)
		if state() != "up" {
			t.Fatal("four failures in a row eject")
		}
		time.Sleep(11 * time.Second) // these four are too old
		fail(target, 4)
		if state() != "up" {
			t.Fatal("failures over more than ten seconds eject")
		}
		fail(target, 1)
		if state() != "ejected" {
			t.Fatal("five failures in a row do not eject")
		}
		for _, out := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute} {
			time.Sleep(out - time.Millisecond)
			if state() != "ejected" {
				t.Fatalf("back before %v", out)
			}
			time.Sleep(2 * time.Millisecond)
			if state() != "up" {
				t.Fatalf("not back after %v", out)
			}
			fail(target, 5)
		}
		if state() != "ejected" || target.Ejected.Load() != 4 {
			t.Fatalf("%s, %d times ejected", state(), target.Ejected.Load())
		}
		time.Sleep(4*time.Minute + 301*time.Second) // quiet for ten times the first
		fail(target, 5)
		time.Sleep(30*time.Second + time.Millisecond)
		if state() != "up" {
			t.Error("a quiet spell does not forgive")
		}
		// Half of four may be out.
		for _, t := range u.Targets() {
			fail(t, 5)
		}
		out := 0
		for _, target := range u.Targets() {
			if target.State(time.Now()) == "ejected" {
				out++
			}
		}
		if out != 2 {
			t.Errorf("%d of 4 targets are out", out)
		}
	})
}

// The breaker opens on the rate of failures among enough calls, lets a few probes through after a
// while, and closes when all of them succeed.
func TestBreaker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUpstream(t, func(s *resource.Upstream) {
			s.Ejection.Failures = 0
			s.Breaker = resource.Breaker{Rate: 50, Calls: 10, Window: resource.Duration(10 * time.Second), Open: resource.Duration(5 * time.Second), Probes: 3}
		}, urls(1)...)
		target := u.Targets()[0]
		blocked := func() bool {
			_, v := u.Pick(time.Now(), 0, nil)
			if v.Refused() && v.Reason != breakerOpened {
				t.Fatalf("%+v", v)
			}
			return v.Refused()
		}
		report := func(ok bool, n int) {
			for range n {
				target.Report(time.Now(), ok)
			}
		}
		report(false, 4)
		report(true, 5)
		if blocked() {
			t.Fatal("open at 4 of 9")
		}
		time.Sleep(15 * time.Second) // out of the window
		report(false, 4)
		if blocked() {
			t.Fatal("failures out of the window count")
		}
		report(true, 4)
		report(false, 2)
		if !blocked() {
			t.Fatal("closed at 6 of 10")
		}
		_, v := u.Pick(time.Now(), 0, nil)
		if f, _ := v.Facts.Find("failed", reason.ToOperator); f.Text() != "6" {
			t.Errorf("failed: %s", f.Text())
		}
		report(true, 20) // calls from before
		if !blocked() {
			t.Fatal("late successes of calls from before close it")
		}
		time.Sleep(5 * time.Second)
		for i := range 3 {
			if blocked() {
				t.Fatalf("probe %d is not let through", i)
			}
		}
		if !blocked() {
			t.Fatal("more than three probes at once")
		}
		report(true, 2)
		report(false, 1)
		if !blocked() {
			t.Fatal("a failed probe does not open it again")
		}
		time.Sleep(5 * time.Second)
		blocked()
		target.Unreport() // a probe whose client left tells nothing, and another takes its place
		for i := range 3 {
			if blocked() {
				t.Fatalf("probe %d is not let through", i)
			}
		}
		report(true, 3)
		if blocked() || u.BreakerOpen() {
			t.Fatal("not closed after three good probes")
		}
		report(false, 3)
		if blocked() {
			t.Error("what was before it opened still counts")
		}
		// Probes that never come back do not lock it for ever.
		report(false, 20)
		time.Sleep(5 * time.Second)
		for !blocked() {
		}
		time.Sleep(10*time.Second + time.Millisecond)
		if blocked() {
			t.Error("lost probes lock the breaker")
		}
	})
}

func TestRetryBudget(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUpstream(t, func(s *resource.Upstream) { s.Retries.Budget = 20 }, urls(1)...)
		may := func() (n int) {
			for u.MayRetry(time.Now()) {
				n++
			}
			return n
		}
		if n := may(); n != 3 {
			t.Errorf("a quiet upstream has %d tries to give, want 3", n)
		}
		time.Sleep(time.Duration(u.Spec.Breaker.Window) + time.Second)
		for range 100 {
			u.Targets()[0].Report(time.Now(), true)
		}
		if n := may(); n != 20 {
			t.Errorf("100 calls allow %d tries, want 20", n)
		}
	})
}

// Active checks take a target out after so many bad answers and back in after so many good ones.
func TestHealth(t *testing.T) {
	var bad, asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path != "/below/healthz" || r.Host != "health.test" || r.UserAgent() != "whygate-health" {
			t.Errorf("asked %s %s as %s", r.Host, r.URL.Path, r.UserAgent())
		}
		if bad.Load() > 0 {
			w.WriteHeader(500)
		}
	}))
	defer s.Close()
	u := newUpstream(t, func(spec *resource.Upstream) {
		spec.Health = &resource.Health{Path: "/healthz", Host: "health.test", Every: resource.Duration(20 * time.Millisecond), Timeout: resource.Duration(time.Second), Up: 2, Down: 3}
	}, s.URL+"/below")
	target := u.Targets()[0]
	wait := func(what string, ok func() bool) {
		t.Helper()
		for range 500 {
			if ok() {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Fatal(what)
	}
	wait("never asked", func() bool { return asked.Load() > 3 })
	if target.State(time.Now()) != "up" {
		t.Fatal("a good target is", target.State(time.Now()))
	}
	bad.Store(1)
	from := asked.Load()
	wait("not down", func() bool { return target.down.Load() })
	if n := asked.Load() - from; n < 3 {
		t.Errorf("down after %d bad answers", n)
	}
	if !strings.Contains(target.LastError(), "health check: status 500") {
		t.Errorf("last error %q", target.LastError())
	}
	bad.Store(0)
	wait("not up again", func() bool { return !target.down.Load() })
	s.Close()
	wait("not down when it is gone", func() bool { return target.down.Load() })
}

// Names are looked up again and again: addresses that stay keep their connections, those that go are let go.
func TestResolve(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mu sync.Mutex
		answer, fails, looked := []string{"10.0.0.1", "10.0.0.2"}, error(nil), 0
		old := lookup
		lookup = func(_ context.Context, host string) ([]netip.Addr, error) {
			mu.Lock()
			defer mu.Unlock()
			if looked++; host != "shop.test" {
				t.Errorf("looked up %q", host)
			}
			var list []netip.Addr
			for _, a := range answer {
				list = append(list, netip.MustParseAddr(a))
			}
			return list, fails
		}
		defer func() { lookup = old }()
		set := func(err error, addrs ...string) {
			mu.Lock()
			defer mu.Unlock()
			answer, fails = addrs, err
		}
		u := newUpstream(t, func(s *resource.Upstream) { s.Resolve = resource.Duration(30 * time.Second) }, "http://shop.test:8080/x", "http://127.0.0.1:1")
		addresses := func() (list []string) {
			for _, t := range u.Targets() {
				list = append(list, t.Address)
			}
			return list
		}
		expect := func(want ...string) {
			t.Helper()
			if got := addresses(); !slices.Equal(got, want) {
				t.Errorf("targets %v, want %v", got, want)
			}
		}
		synctest.Wait()
		expect("10.0.0.1:8080", "10.0.0.2:8080", "127.0.0.1:1")
		kept, leaving := u.Targets()[0], u.Targets()[1]
		if kept.Host != "shop.test:8080" || kept.Path != "/x" {
			t.Errorf("target %q %q", kept.Host, kept.Path)
		}
		a, b := net.Pipe()
		defer b.Close()
		conn := wire.NewConn(a, u.watch, &u.limits)
		leaving.push(conn)
		kept.lastError.Store(new(string))
		set(nil, "::ffff:10.0.0.3", "10.0.0.1", "10.0.0.1")
		time.Sleep(31 * time.Second)
		synctest.Wait()
		expect("10.0.0.1:8080", "10.0.0.3:8080", "127.0.0.1:1")
		if u.Targets()[0] != kept {
			t.Error("an address that stayed lost what was known of it")
		}
		if _, err := b.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the connection to an address that went is open: %v", err)
		}
		// A call that was still at it does not bring its connection back.
		c, d := net.Pipe()
		leaving.push(wire.NewConn(c, u.watch, &u.limits))
		if _, err := d.Read(make([]byte, 1)); err != io.EOF || leaving.IdleConns() != 0 {
			t.Errorf("a connection is kept for an address that went: %v", err)
		}
		set(errors.New("no such host"))
		time.Sleep(31 * time.Second)
		synctest.Wait()
		expect("10.0.0.1:8080", "10.0.0.3:8080", "127.0.0.1:1") // the last known
		n := looked
		set(nil, "10.0.0.9")
		time.Sleep(3 * time.Second) // sooner while it fails
		synctest.Wait()
		expect("10.0.0.9:8080", "127.0.0.1:1")
		if looked == n {
			t.Error("not looked up again")
		}
	})
}

// A name that never resolved is a reason of its own, and calls do not wait for it again and again.
func TestUnresolved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		old := lookup
		lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			time.Sleep(time.Second)
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		defer func() { lookup = old }()
		u := newUpstream(t, nil, "http://shop.test")
		start := time.Now()
		_, v := u.Pick(time.Now(), 0, nil)
		if v.Reason != unresolved || time.Since(start) != time.Second {
			t.Errorf("%+v after %v", v, time.Since(start))
		}
		if says := v.Tell(reason.ToOperator).Says; !strings.Contains(says, "lookup shop.test: no such host") {
			t.Errorf("says %q", says)
		}
		start = time.Now()
		u.Pick(time.Now(), 0, nil)
		if time.Since(start) != 0 {
			t.Errorf("a second call waits for %v", time.Since(start))
		}
	})
}

// Places at a target are given in order, and none is lost, whatever the order of coming and going.
func TestPlaces(t *testing.T) {
	u := newUpstream(t, func(s *resource.Upstream) {
		s.Connections.Max, s.Connections.Queue, s.Connections.QueueFor = 3, 50, resource.Duration(5*time.Second)
	}, urls(1)...)
	target := u.Targets()[0]
	var inside, most, refused atomic.Int64
	var all sync.WaitGroup
	for range 200 {
		all.Add(1)
		go func() {
			defer all.Done()
			for range 50 {
				if v := target.enter(); v.Refused() {
					refused.Add(1)
					continue
				}
				if n := inside.Add(1); n > most.Load() {
					most.Store(n)
				}
				time.Sleep(time.Duration(rand.IntN(20)) * time.Microsecond)
				inside.Add(-1)
				target.leave()
			}
		}()
	}
	all.Wait()
	if most.Load() > 3 || target.InFlight() != 0 || target.waiting.Load() != 0 || len(target.queue) != 0 {
		t.Errorf("%d at once, %d in flight, %d waiting", most.Load(), target.InFlight(), target.waiting.Load())
	}
	if refused.Load() == 0 {
		t.Error("200 callers never filled a queue of 50: the test shows nothing")
	}
}

func TestQueueTimeout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUpstream(t, func(s *resource.Upstream) { s.Connections.Max, s.Connections.Queue = 1, 1 }, urls(1)...)
		target := u.Targets()[0]
		target.enter()
		start := time.Now()
		if v := target.enter(); v.Reason != busy || time.Since(start) != 250*time.Millisecond {
			t.Errorf("%+v after %v", v, time.Since(start))
		}
		go func() {
			time.Sleep(100 * time.Millisecond)
			target.leave()
		}()
		if v := target.enter(); v.Refused() || time.Since(start) != 350*time.Millisecond {
			t.Errorf("%+v after %v", v, time.Since(start))
		}
		if target.InFlight() != 1 || target.waiting.Load() != 0 {
			t.Errorf("%d in flight, %d waiting", target.InFlight(), target.waiting.Load())
		}
	})
}

// Idle connections are bounded in number and age, and the last one used goes first.
func TestIdleConnections(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUpstream(t, func(s *resource.Upstream) {
			s.Connections.Idle, s.Connections.IdleFor = 2, resource.Duration(10*time.Second)
		}, urls(1)...)
		target := u.Targets()[0]
		var ends []net.Conn
		var conns []*wire.Conn
		for range 3 {
			a, b := net.Pipe()
			ends, conns = append(ends, b), append(conns, wire.NewConn(a, u.watch, &u.limits))
			conns[len(conns)-1].Idle = time.Now()
			target.push(conns[len(conns)-1])
		}
		if _, err := ends[2].Read(make([]byte, 1)); target.IdleConns() != 2 || err != io.EOF {
			t.Errorf("%d idle connections; the third: %v", target.IdleConns(), err)
		}
		if c := target.pop(time.Now()); c != conns[1] {
			t.Error("not the last one used")
		}
		time.Sleep(11 * time.Second)
		if c := target.pop(time.Now()); c != nil || target.IdleConns() != 0 {
			t.Error("an old connection is used")
		}
		conns[1].Close()
	})
}

func TestParseTarget(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"http://a", "http a 80  <nil>"},
		{"https://a/", "https a 443  <nil>"},
		{"http://[::1]:8080/x%2Fy/", "http ::1 8080 /x%2Fy <nil>"},
		{"ftp://a", `ftp a   the scheme is "ftp"; http and https are spoken`},
		{"http://", "http  80  the URL has no host"},
		{"http://u@a", "http a 80  only scheme, host, port and path belong here"},
		{"http://a?x", "http a 80  only scheme, host, port and path belong here"},
	} {
		scheme, host, port, path, err := ParseTarget(c.in)
		if got := fmt.Sprint(scheme, " ", host, " ", port, " ", path, " ", err); got != c.want {
			t.Errorf("%s: %q, want %q", c.in, got, c.want)
		}
	}
}

func TestPlain(t *testing.T) {
	_, refused := net.Dial("tcp", "127.0.0.1:1")
	for _, c := range []struct {
		err  error
		want string
	}{
		{refused, "connection refused"},
		{wire.ErrTimeout, "no answer in time"},
		{&tlsError{context.DeadlineExceeded}, "no answer in time"},
		{io.EOF, "the connection was closed"},
		{io.ErrUnexpectedEOF, "the connection was closed in the middle of an answer"},
		{&wire.Fault{Rule: wire.BadChunkSize, Text: "x"}, "x"},
		{&net.DNSError{Err: "no such host", Name: "shop.test"}, "looking up shop.test: no such host"},
		{errors.New("other"), "other"},
	} {
		if got := Plain(c.err); got != c.want {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
}

// Targets of one host that differ in their paths or weights stay what they are, look-up after look-up.
func TestResolveKeepsTargetsApart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		old := lookup
		lookup = func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil
		}
		defer func() { lookup = old }()
		u := newUpstream(t, func(s *resource.Upstream) { s.Targets[2].Weight = 7 }, "http://shop.test/a", "http://shop.test/b", "http://shop.test/b")
		synctest.Wait()
		before := u.Targets()
		time.Sleep(time.Duration(u.Spec.Resolve) + time.Second)
		synctest.Wait()
		after := u.Targets()
		if !slices.Equal(before, after) {
			t.Error("what was known of the targets is lost")
		}
		for i, want := range []string{"/a 1", "/b 1", "/b 7"} {
			if got := fmt.Sprint(after[i].Path, " ", after[i].Weight); got != want {
				t.Errorf("target %d is %s, want %s", i, got, want)
			}
		}
	})
}

// An upstream that goes out of use does not wait for name servers and targets that do not answer.
func TestCloseWaitsForNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		old := lookup
		lookup = func(ctx context.Context, _ string) ([]netip.Addr, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		defer func() { lookup = old }()
		u := newUpstream(t, nil, "http://a.test", "http://b.test", "http://c.test")
		synctest.Wait()
		start := time.Now()
		u.Close()
		if d := time.Since(start); d != 0 {
			t.Errorf("closing took %v", d)
		}
	})
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	u := newUpstream(t, func(s *resource.Upstream) {
		s.Health = &resource.Health{Path: "/", Every: resource.Duration(time.Second), Timeout: resource.Duration(time.Hour), Up: 1, Down: 1}
	}, "http://"+silent.Addr().String())
	asking, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer asking.Close()
	u.Close() // or the test runs into the time limit of all tests
	if u.Targets()[0].LastError() != "" {
		t.Errorf("a question that was broken off is blamed on the target: %s", u.Targets()[0].LastError())
	}
}

// A probe that found no place at its target tells nothing of it: another call may be the probe.
func TestBusyTargetGivesProbeBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUpstream(t, func(s *resource.Upstream) {
			s.Ejection.Failures = 0
			s.Connections.Max, s.Connections.Queue = 1, 0
			s.Breaker = resource.Breaker{Rate: 50, Calls: 1, Window: resource.Duration(10 * time.Second), Open: resource.Duration(5 * time.Second), Probes: 1}
		}, urls(1)...)
		target := u.Targets()[0]
		target.Report(time.Now(), false)
		time.Sleep(5 * time.Second)
		target.enter() // a long call from before
		pick(t, u, 0)
		if _, _, v := target.Acquire(time.Now(), false); v.Reason != busy {
			t.Fatalf("%+v", v)
		}
		if _, v := u.Pick(time.Now(), 0, nil); v.Refused() {
			t.Errorf("the place of the probe is lost: %s", v.Tell(reason.ToOperator).Says)
		}
	})
}

// Who comes back at the time that a refusal names finds a target.
func TestRetryAfterEjection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUpstream(t, func(s *resource.Upstream) {
			s.Ejection = resource.Ejection{Failures: 1, Within: resource.Duration(time.Second), For: resource.Duration(1400 * time.Millisecond), Most: 100}
		}, urls(1)...)
		u.Targets()[0].Report(time.Now(), false)
		_, v := u.Pick(time.Now(), 0, nil)
		f, _ := v.Facts.Find("retry_after", reason.ToAnyone)
		wait, _ := f.Value.(time.Duration)
		time.Sleep(wait)
		if _, v := u.Pick(time.Now(), 0, nil); v.Refused() {
			t.Errorf("after %v: %s", wait, v.Tell(reason.ToOperator).Says)
		}
	})
}
