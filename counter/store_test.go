package counter

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"pgregory.net/rapid"

	"github.com/whygate/whygate/whytest/redisserver"
)

// fakeStore is a store in this process, whose clock stands still.
func fakeStore(t testing.TB) (*Store, *miniredis.Miniredis) {
	t.Helper()
	m := miniredis.RunT(t)
	m.SetTime(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC))
	return openStore(t, "redis://"+m.Addr(), ""), m
}

func openStore(t testing.TB, url, password string) *Store {
	t.Helper()
	s, err := NewStore(StoreOptions{URL: url, Password: password, Timeout: 5 * time.Second, Prefix: "test"})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// realServer starts a server, or skips the test.
func realServer(t testing.TB, args ...string) *redisserver.Server {
	t.Helper()
	r, err := redisserver.Start(t.TempDir(), args...)
	if err == redisserver.ErrNone {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Kill)
	return r
}

// asking asks for one limit by itself.
type asking func(c *Call, of any)

func rateOf(r Rate, who string, cost int64) asking {
	return func(c *Call, of any) { c.Rate(of, NewSharedRate("limit", r), who, cost, false) }
}

func quotaOf(kind string, limit int64, at time.Time) asking {
	return func(c *Call, of any) {
		c.Quota(of, NewSharedQuota("limit", limit), SpansOf(kind, PeriodOf(kind, at, time.UTC), time.UTC), "x", 1, false)
	}
}

func placeOf(limit int64) asking {
	return func(c *Call, of any) { c.Place(of, NewSharedPlaces("limit", limit), "x", false) }
}

// fataler is what tests of all kinds have.
type fataler interface {
	Helper()
	Fatal(args ...any)
}

// begin asks for limits and returns the call, which the caller ends, with what came of each.
func begin(t fataler, s *Store, spend bool, asks ...asking) (*Call, []Asked) {
	t.Helper()
	c := s.Call()
	for i, a := range asks {
		a(c, i)
	}
	var err error
	if spend {
		err = c.Take()
	} else {
		err = c.Peek(0)
	}
	if err != nil {
		t.Fatal(err, s.Why())
	}
	var got []Asked
	for i := range asks {
		got = append(got, *c.Of(i))
	}
	return c, got
}

func take(t fataler, s *Store, asks ...asking) []Asked {
	t.Helper()
	c, got := begin(t, s, true, asks...)
	c.Give()
	return got
}

func peek(t fataler, s *Store, asks ...asking) []Asked {
	t.Helper()
	c, got := begin(t, s, false, asks...)
	c.Give()
	return got
}

// clockStore is a store on a real server, with a clock that the test sets.
func clockStore(t *testing.T) (*Store, func(time.Time)) {
	r := realServer(t)
	s, err := NewStore(StoreOptions{URL: "redis://" + r.Addr, Timeout: 5 * time.Second, Prefix: "test"})
	if err != nil {
		t.Fatal(err)
	}
	set := func(at time.Time) {
		if err := s.client.MSet(t.Context(), "s", at.Unix(), "us", at.Nanosecond()/1000).Err(); err != nil {
			t.Fatal(err)
		}
	}
	set(time.Unix(1e9, 0))
	clock := strings.NewReplacer("redis.call('TIME')", "redis.call('MGET', 's', 'us')")
	s.asking, s.settling = newScript(clock.Replace(askScript)), newScript(clock.Replace(settleScript))
	s.Start()
	t.Cleanup(s.Close)
	return s, set
}

// TestSharedRateEqualsRate: the arithmetic of the server is that of this package.
func TestSharedRateEqualsRate(t *testing.T) {
	t.Run("miniredis", func(t *testing.T) {
		s, fake := fakeStore(t)
		equalsRate(t, s, fake.SetTime)
	})
	t.Run("server", func(t *testing.T) {
		s, set := clockStore(t)
		equalsRate(t, s, set)
	})
}

func equalsRate(t *testing.T, s *Store, setTime func(time.Time)) {
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		who := fmt.Sprint(n)
		burst := rapid.OneOf(rapid.Int64Range(1, 5), rapid.Int64Range(1, 1e6)).Draw(t, "burst")
		r := Rate{Requests: rapid.Int64Range(1, 1e6).Draw(t, "requests"), Burst: burst, Period: time.Duration(rapid.Int64Range(1, int64(100*time.Second)).Draw(t, "period"))}
		if full := float64(r.interval()) * float64(burst); full > 1<<52 {
			t.Skip("longer than numbers of Lua are exact")
		}
		at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
		tat := int64(0)
		for range rapid.IntRange(1, 12).Draw(t, "calls") {
			at = at.Add(time.Duration(rapid.Int64Range(0, 2*int64(r.interval())/1000+1).Draw(t, "later")) * time.Microsecond)
			setTime(at)
			now := at.UnixNano() // what follows fits: the spans are short
			cost := rapid.Int64Range(1, min(burst, 3)).Draw(t, "cost")
			next, want := r.gcra(tat, now, cost)
			var c *Call
			var got []Asked
			switch rapid.SampledFrom([]string{"take", "take", "peek", "undo"}).Draw(t, "how") {
			case "take":
				c, got = begin(t, s, true, rateOf(r, who, cost))
				tat = next
			case "peek":
				c, got = begin(t, s, false, rateOf(r, who, cost))
			case "undo":
				c, got = begin(t, s, true, rateOf(r, who, cost))
				if c.Undo(); want.OK {
					tat = next - r.interval()*cost
				}
			}
			c.Give()
			if g := got[0].Result; g.OK != want.OK || g.Left != want.Left || g.Retry != want.Retry || g.Reset != want.Reset {
				t.Fatalf("%+v at %v: the store says %+v, want %+v", r, at, g, want)
			}
		}
	})
}

// Quotas count in the period that the server is in, whatever the clock of the node says.
func TestSharedQuota(t *testing.T) {
	s, fake := fakeStore(t)
	noon := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	fake.SetTime(noon)
	for n, skew := range []time.Duration{0, time.Hour, -time.Hour} { // of the node
		got := take(t, s, quotaOf("hour", 3, noon.Add(skew)))[0]
		if !got.OK || got.Left != int64(2-n) || got.Reset != time.Hour || !got.Period.Start.Equal(noon) || !got.Period.End.Equal(noon.Add(time.Hour)) {
			t.Errorf("a node whose clock is %v off: %+v", skew, got)
		}
	}
	if got := peek(t, s, quotaOf("hour", 3, noon))[0]; got.OK || got.Left != 0 || got.Retry != time.Hour {
		t.Errorf("a fourth of three: %+v", got)
	}
	fake.SetTime(noon.Add(59*time.Minute + 59*time.Second))
	if got := take(t, s, quotaOf("hour", 3, noon))[0]; got.OK || got.Retry != time.Second {
		t.Errorf("a second before the end: %+v", got)
	}
	fake.SetTime(noon.Add(time.Hour))
	c, got := begin(t, s, true, quotaOf("hour", 3, noon)) // a node that is late
	if !got[0].OK || got[0].Left != 2 || !got[0].Period.Start.Equal(noon.Add(time.Hour)) {
		t.Errorf("the next hour: %+v", got[0])
	}
	c.Undo()
	c.Give()
	if got := peek(t, s, quotaOf("hour", 3, noon))[0]; got.Left != 2 {
		t.Errorf("what was given back is not there: %+v", got)
	}
	for _, k := range fake.Keys() {
		if fake.TTL(k) <= 0 {
			t.Errorf("the key %s stays for ever", k)
		}
	}
}

// What may be used once is used by one node alone, however many ask at the same time; it is not given back with what a
// call took besides, and free again in the end.
func TestOnce(t *testing.T) {
	once := func(who string, long time.Duration) asking {
		return func(c *Call, of any) { c.Once(of, "nonces", who, long) }
	}
	r := realServer(t)
	var wait sync.WaitGroup
	var first atomic.Int64
	for range 3 {
		s := openStore(t, "redis://"+r.Addr, "")
		for range 8 {
			wait.Go(func() {
				for n := range 50 {
					if take(t, s, once(strconv.Itoa(n), time.Minute))[0].OK {
						first.Add(1)
					}
				}
			})
		}
	}
	wait.Wait()
	if first.Load() != 50 {
		t.Errorf("50 were used %d times", first.Load())
	}

	s, fake := fakeStore(t)
	for range 2 {
		if !peek(t, s, once("a", time.Second))[0].OK {
			t.Error("looking used it")
		}
	}
	c, got := begin(t, s, true, once("a", 1500*time.Millisecond), placeOf(1))
	if !got[0].OK || !got[1].OK {
		t.Errorf("the first: %+v", got)
	}
	c.Undo()
	c.Give()
	if got := peek(t, s, once("a", time.Second), placeOf(1)); got[0].OK || got[0].Retry <= time.Second || !got[1].OK {
		t.Errorf("given back: %+v", got)
	}
	fake.FastForward(2 * time.Second)
	if !take(t, s, once("a", time.Second))[0].OK {
		t.Error("it is kept for too long")
	}
}

// Places are counted exactly, given back at the end of the call, and free again when a node died.
func TestSharedPlaces(t *testing.T) {
	s, fake := fakeStore(t)
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	first, got := begin(t, s, true, placeOf(2))
	if !got[0].OK || got[0].Left != 2 {
		t.Errorf("the first: %+v", got[0])
	}
	second, got := begin(t, s, true, placeOf(2))
	if !got[0].OK || got[0].Left != 1 {
		t.Errorf("the second: %+v", got[0])
	}
	if got := take(t, s, placeOf(2)); got[0].OK || got[0].Left != 0 {
		t.Errorf("a third of two: %+v", got[0])
	}
	first.Give()
	if got := peek(t, s, placeOf(2)); !got[0].OK || got[0].Left != 1 {
		t.Errorf("after one left: %+v", got[0])
	}
	// A call that lasts holds on to its place, one whose node died does not.
	fake.SetTime(at.Add(50 * time.Second))
	s.renew()
	peek(t, s, placeOf(2)) // it is sent with what is asked next
	fake.SetTime(at.Add(70 * time.Second))
	if got := peek(t, s, placeOf(2)); got[0].Left != 1 {
		t.Errorf("a place that was renewed: %+v", got[0])
	}
	fake.SetTime(at.Add(111 * time.Second))
	if got := peek(t, s, placeOf(2)); got[0].Left != 2 {
		t.Errorf("a place that nobody renews: %+v", got[0])
	}
	second.Give()
}

// All limits of a call are spent or none, those that only watch aside.
func TestAllOrNothing(t *testing.T) {
	s, _ := fakeStore(t)
	wide, narrow := rateOf(Rate{Requests: 5, Burst: 5, Period: time.Hour}, "wide", 1), rateOf(Rate{Requests: 1, Burst: 1, Period: time.Hour}, "narrow", 1)
	for n := range 3 {
		got := take(t, s, wide, narrow, placeOf(3))
		if got[0].OK != true || got[1].OK != (n == 0) {
			t.Errorf("%d: %+v", n, got)
		}
	}
	if got := peek(t, s, wide, placeOf(3)); got[0].Left != 3 || got[1].Left != 3 {
		t.Errorf("what was refused was spent all the same: %+v", got)
	}
	watching := func(c *Call, of any) {
		c.Rate(of, NewSharedRate("limit", Rate{Requests: 1, Burst: 1, Period: time.Hour}), "narrow", 1, true)
	}
	if got := take(t, s, wide, watching); !got[0].OK || got[1].OK {
		t.Errorf("%+v", got)
	}
	if got := peek(t, s, wide); got[0].Left != 2 {
		t.Errorf("a limit that only watches kept another from being spent: %+v", got)
	}
	if got := peek(t, s, wide); got[0].Left != 2 {
		t.Errorf("peeking spends: %+v", got)
	}
}

// A server that is away is found out once, and nobody waits for it again; what comes back counts on.
func TestStoreGoesAndComes(t *testing.T) {
	r := realServer(t)
	s := openStore(t, "redis://"+r.Addr+"/3", "")
	limit := rateOf(Rate{Requests: 3, Burst: 3, Period: time.Hour}, "x", 1)
	take(t, s, limit)
	long, _ := begin(t, s, true, placeOf(5))
	undone, _ := begin(t, s, true, limit)
	r.Kill()
	c := s.Call()
	limit(c, 0)
	for range 1000 {
		if c.Take() != ErrAway {
			t.Fatal("a server that was killed answers")
		}
	}
	c.Give()
	st := s.Stats()
	if st.Up || st.Error == "" || st.Failed < 1 || st.Without != 1000 || s.Why() != st.Error {
		t.Errorf("%+v", st)
	}
	long.Give() // while nobody listens
	undone.Undo()
	undone.Give()
	if err := r.Again(); err != nil {
		t.Fatal(err)
	}
	for !s.up.Load() {
		time.Sleep(time.Millisecond)
	}
	// The server has forgotten all, its scripts too.
	for n := range 4 {
		if got := take(t, s, limit)[0]; got.OK != (n < 3) {
			t.Errorf("call %d: %+v", n, got)
		}
	}
	if got := peek(t, s, placeOf(5))[0]; got.Left != 5 {
		t.Errorf("a place that was given back meanwhile: %+v", got)
	}
	if st := s.Stats(); !st.Up || st.Error != "" {
		t.Errorf("%+v", st)
	}
}

// Who is answered too late has been told that the server is away; what was spent is given back.
func TestStoreHangs(t *testing.T) {
	r := realServer(t)
	s, err := NewStore(StoreOptions{URL: "redis://" + r.Addr, Timeout: 30 * time.Millisecond, Prefix: "test"})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer s.Close()
	limit := rateOf(Rate{Requests: 3, Burst: 3, Period: time.Hour}, "x", 1)
	patient := openStore(t, "redis://"+r.Addr, "")
	take(t, patient, limit)
	if err := r.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			c := s.Call()
			limit(c, 0)
			if c.Take() != ErrAway {
				t.Error("a server that hangs answers")
			}
			c.Give()
		})
	}
	wait.Wait()
	if !strings.Contains(s.Why(), "no answer") && !strings.Contains(s.Why(), "timeout") {
		t.Errorf("why: %q", s.Why())
	}
	if err := r.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for {
		c := s.Call()
		limit(c, 0)
		err := c.Take()
		c.Give()
		if err == nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// Servers that answer and cannot count are away, and why is told.
func TestStoreCannotCount(t *testing.T) {
	r := realServer(t, "--requirepass", "geheim")
	for _, c := range []struct{ password, why string }{{"", "NOAUTH"}, {"wrong", "WRONGPASS"}} {
		s := openStore(t, "redis://"+r.Addr, c.password)
		call := s.Call()
		placeOf(1)(call, 0)
		if err := call.Take(); err != ErrAway || !strings.Contains(s.Why(), c.why) || strings.Contains(s.Why(), "wrong") {
			t.Errorf("%v, %q; want %s", err, s.Why(), c.why)
		}
		call.Give()
	}
	take(t, openStore(t, "redis://"+r.Addr, "geheim"), placeOf(1))
	full := realServer(t, "--maxmemory", "1kb", "--maxmemory-policy", "noeviction")
	s := openStore(t, "redis://"+full.Addr, "")
	call := s.Call()
	placeOf(1)(call, 0)
	if err := call.Take(); err != ErrAway || !strings.Contains(s.Why(), "OOM") {
		t.Errorf("%v, %q", err, s.Why())
	}
	call.Give()
}

// TestManyStoresCountExactly: nodes that ask at the same time let as many pass as may.
func TestManyStoresCountExactly(t *testing.T) {
	r := realServer(t)
	limit := Rate{Requests: 1000, Burst: 1000, Period: 1000 * time.Hour}
	var passed, inside sync.Map
	var wait sync.WaitGroup
	for node := range 3 {
		s := openStore(t, "redis://"+r.Addr, "")
		for g := range 8 {
			wait.Go(func() {
				n, held := 0, 0
				for range 100 {
					got := take(t, s, rateOf(limit, "x", 1))
					if got[0].OK {
						n++
					}
					c, in := begin(t, s, true, placeOf(4))
					if in[0].OK {
						held++
					}
					c.Give()
				}
				passed.Store(node*8+g, n)
				inside.Store(node*8+g, held)
			})
		}
	}
	wait.Wait()
	total := 0
	passed.Range(func(_, n any) bool { total += n.(int); return true })
	if total != 1000 {
		t.Errorf("%d of 1000 passed", total)
	}
	held := 0
	inside.Range(func(_, n any) bool { held += n.(int); return true })
	if held == 0 {
		t.Error("nobody found a place")
	}
	s := openStore(t, "redis://"+r.Addr, "")
	for range 400 { // what others gave back may still be on its way
		if got := peek(t, s, placeOf(4)); got[0].Left == 4 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("places are held after all calls have ended")
}

// Answers of a server are a stranger's bytes.
func TestReadAnswer(t *testing.T) {
	for _, v := range [][]int64{nil, {1}, {2, 0, 0, 0, 0}, {1, -1, 0, 0, 0}, {1, 0, -5, 0, 0}, {1, 0, 0, -5, 0}, {1, 0, 0, 0, 0, 1}} {
		if readAnswer(v, 1) == nil {
			t.Errorf("%v is taken for an answer", v)
		}
	}
	if err := readAnswer([]int64{1, 2, 3, 4, 5}, 1); err != nil {
		t.Error(err)
	}
}

func BenchmarkStore(b *testing.B) {
	r := realServer(b)
	s := openStore(b, "redis://"+r.Addr, "")
	shared := NewSharedRate("limit", Rate{Requests: 1e9, Burst: 1e9, Period: time.Second})
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c := s.Call()
			c.Rate(shared, shared, "x", 1, false)
			if err := c.Take(); err != nil {
				b.Error(err, s.Why())
			}
			c.Give()
		}
	})
}

// Over TLS the server must be vouched for.
func TestStoreTLS(t *testing.T) {
	certified := httptest.NewTLSServer(nil)
	defer certified.Close()
	m := miniredis.NewMiniRedis()
	if err := m.StartTLS(&tls.Config{Certificates: certified.TLS.Certificates}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	for _, known := range []bool{true, false} {
		pool := x509.NewCertPool()
		if known {
			pool.AddCert(certified.Certificate())
		}
		s, err := NewStore(StoreOptions{URL: "rediss://" + m.Addr(), TLS: &tls.Config{RootCAs: pool}, Timeout: 5 * time.Second, Prefix: "test"})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		c := s.Call()
		placeOf(1)(c, 0)
		if err := c.Take(); known != (err == nil) || !known && !strings.Contains(s.Why(), "certificate") {
			t.Errorf("vouched for: %v: %v, %q", known, err, s.Why())
		}
		c.Give()
		s.Close()
	}
}

// Who floods a store that does not answer waits in a queue that ends.
func TestQueueIsBounded(t *testing.T) {
	s, err := NewStore(StoreOptions{URL: "redis://127.0.0.1:1", Timeout: time.Second, Prefix: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.up.Store(true) // and nobody sends
	s.queue = make([]*Call, queueBound)
	c := s.Call()
	placeOf(1)(c, 0)
	if c.Take() != ErrAway {
		t.Error("a call was added to a full queue")
	}
	c.Give()
	s.returns = make([]returned, returnBound)
	s.give(&Call{}, returned{again: true})
	if len(s.queue) != queueBound || len(s.returns) != returnBound {
		t.Errorf("%d calls and %d commands wait", len(s.queue), len(s.returns))
	}
}
