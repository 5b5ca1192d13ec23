package counter

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bucket is a naive limit: it remembers every call that it let pass, and when its allowance is back.
type bucket struct {
	rate Rate
	back []int64 // when each spent call flows back
}

// take lets a call pass if fewer than Burst are out. Spent calls flow back one after the other,
// each an interval after the one before.
func (b *bucket) take(now, cost int64) (ok bool, left int64) {
	t := int64(b.rate.Period) / b.rate.Requests
	kept := b.back[:0]
	for _, at := range b.back {
		if at > now {
			kept = append(kept, at)
		}
	}
	if b.back = kept; int64(len(kept))+cost > b.rate.Burst {
		return false, b.rate.Burst - int64(len(kept))
	}
	for range cost {
		last := now
		if n := len(b.back); n > 0 {
			last = b.back[n-1]
		}
		b.back = append(b.back, last+t)
	}
	return true, b.rate.Burst - int64(len(b.back))
}

// The limit agrees with the naive one on every call, and tells the truth about the future: a
// refused call passes after Retry and not a nanosecond before, and all is free after Reset.
func TestRateAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Rate{Requests: rapid.Int64Range(1, 50).Draw(t, "requests"), Burst: rapid.Int64Range(1, 50).Draw(t, "burst"), Period: time.Duration(rapid.Int64Range(100, 1e10).Draw(t, "period"))}
		m, b, k := NewMemory(), &bucket{rate: r}, KeyOf(1, "x")
		interval := int64(r.Period) / r.Requests
		now := time.Duration(0)
		for range rapid.IntRange(1, 100).Draw(t, "calls") {
			now += time.Duration(rapid.OneOf(rapid.Int64Range(0, 2), rapid.Int64Range(0, 2*interval), rapid.Int64Range(0, int64(r.Period))).Draw(t, "pause"))
			at := m.start.Add(now)
			cost := rapid.Int64Range(1, min(3, r.Burst)).Draw(t, "cost")
			if peek := m.Peek(k, r, cost, at); peek != m.Peek(k, r, cost, at) {
				t.Fatal("peeking changes something")
			}
			peek := m.Peek(k, r, cost, at)
			ok, left := b.take(int64(now), cost)
			res := m.Take(k, r, cost, at)
			if res != peek {
				t.Fatalf("Take says %+v, Peek said %+v", res, peek)
			}
			if res.OK != ok || res.Left != left || res.Limit != r.Burst || (res.Retry == 0) != ok {
				t.Fatalf("%+v after %v: %+v, want ok %v, %d left", r, now, res, ok, left)
			}
			if !ok {
				if m.Peek(k, r, cost, at.Add(res.Retry-1)).OK || !m.Peek(k, r, cost, at.Add(res.Retry)).OK {
					t.Fatalf("%+v: Retry %v is not exact", r, res.Retry)
				}
			}
			// All of it is free after Reset, and not before.
			if after := m.Peek(k, r, r.Burst, at.Add(res.Reset)); !after.OK {
				t.Fatalf("%+v: after Reset %v: %+v", r, res.Reset, after)
			}
			if res.Reset > 0 && m.Peek(k, r, r.Burst, at.Add(res.Reset-1)).OK {
				t.Fatalf("%+v: free before Reset %v", r, res.Reset)
			}
		}
	})
}

// What is returned can be spent again, and no more than that.
func TestReturn(t *testing.T) {
	m, r, k := NewMemory(), Rate{Requests: 5, Burst: 5, Period: time.Minute}, KeyOf(1, "x")
	at := m.start.Add(time.Second)
	for range 5 {
		m.Take(k, r, 1, at)
	}
	for n := range 5 {
		m.Return(k, r, 1)
		if left := m.Peek(k, r, 1, at).Left; left != int64(n) {
			t.Errorf("%d returned, %d left behind the next call", n+1, left)
		}
	}
	m.Return(k, r, 1) // once too often
	if left := m.Peek(k, r, 1, at).Left; left != 4 {
		t.Errorf("%d left behind the next call of 5", left)
	}
	m.Return(KeyOf(2, "nobody"), r, 1)
	if m.Cells() != 1 {
		t.Errorf("%d cells", m.Cells())
	}
}

// Callers and limits have counters of their own.
func TestKeys(t *testing.T) {
	m, r := NewMemory(), Rate{Requests: 1, Burst: 1, Period: time.Hour}
	seen := map[Key]string{}
	for limit := range uint64(10) {
		for who := range 1000 {
			k, name := KeyOf(limit, fmt.Sprint(who)), fmt.Sprint(limit, " ", who)
			if other, ok := seen[k]; ok {
				t.Fatalf("%s and %s share a counter", name, other)
			}
			seen[k] = name
			if !m.Take(k, r, 1, time.Now()).OK {
				t.Fatalf("%s was counted before", name)
			}
		}
	}
}

// Large limits do not overflow: they let pass what they should.
func TestLargeLimits(t *testing.T) {
	for _, r := range []Rate{
		{Requests: 1, Burst: 1e9, Period: 366 * 24 * time.Hour},
		{Requests: 1, Burst: 1000, Period: 366 * 24 * time.Hour},
		{Requests: 1e9, Burst: 1e9, Period: time.Millisecond},
		{Requests: 1e9, Burst: 1, Period: 366 * 24 * time.Hour},
	} {
		m, k := NewMemory(), KeyOf(1, "x")
		at := m.start.Add(time.Second)
		for range min(r.Burst, 100) {
			if res := m.Take(k, r, 1, at); !res.OK || res.Left < 0 || res.Reset < 0 {
				t.Fatalf("%+v: %+v", r, res)
			}
		}
		if r.Burst == 1 && m.Take(k, r, 1, at).OK {
			t.Errorf("%+v lets two pass at once", r)
		}
	}
}

// The largest costs do not overflow: what costs more than there is of a limit is refused, again and again.
func TestLargeCosts(t *testing.T) {
	for _, r := range []Rate{{Requests: 1, Burst: 10, Period: 366 * 24 * time.Hour}, {Requests: 1000, Burst: 1000, Period: time.Second}} {
		for _, cost := range []int64{r.Burst + 1, 1 << 31, 1 << 40, 1 << 62, 1<<63 - 1} {
			m, k := NewMemory(), KeyOf(1, "x")
			at := m.start.Add(time.Second)
			for range 3 {
				if res := m.Take(k, r, cost, at); res.OK || res.Retry <= 0 || res.Left < 0 {
					t.Errorf("%+v, cost %d: %+v", r, cost, res)
				}
			}
		}
	}
}

// A question about another time is answered for a caller who is not known, whenever that is.
func TestPeekAtAnyTime(t *testing.T) {
	m, r := NewMemory(), Rate{Requests: 3, Burst: 3, Period: time.Second}
	for _, d := range []time.Duration{-365 * 24 * time.Hour, -time.Second, 0, time.Hour} {
		if res := m.Peek(KeyOf(1, "x"), r, 1, m.start.Add(d)); !res.OK || res.Left != 2 {
			t.Errorf("%v from the start: %+v", d, res)
		}
	}
}

// Counters that mean nothing any more are swept away, and others stay.
func TestSweep(t *testing.T) {
	m := NewMemory()
	short, long := Rate{Requests: 1, Burst: 1, Period: time.Nanosecond}, Rate{Requests: 1, Burst: 1, Period: time.Hour}
	for i := range 1000 {
		m.Take(KeyOf(1, fmt.Sprint(i)), short, 1, time.Now())
		m.Take(KeyOf(2, fmt.Sprint(i)), long, 1, time.Now())
	}
	time.Sleep(time.Millisecond)
	m.Sweep()
	if m.Cells() != 1000 {
		t.Errorf("%d cells are left of 2000", m.Cells())
	}
	if m.Take(KeyOf(2, "7"), long, 1, time.Now()).OK {
		t.Error("a counter that is needed was swept away")
	}
}

// Memory is bounded: who floods with callers only pushes others out.
func TestMemoryIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("fills all counters")
	}
	m, r := NewMemory(), Rate{Requests: 1, Burst: 1, Period: time.Hour}
	at := time.Now()
	start := time.Now()
	for range shards*shardBound + shards*shardBound/4 {
		m.Take(Key{rand.Uint64(), rand.Uint64()}, r, 1, at)
	}
	if n := m.Cells(); n > shards*shardBound || n < shards*shardBound*9/10 {
		t.Errorf("%d cells, the bound is %d", n, shards*shardBound)
	}
	t.Logf("filled and flooded in %v", time.Since(start))
}

// Places are counted exactly, whoever comes and goes.
func TestInside(t *testing.T) {
	m, k := NewMemory(), KeyOf(1, "x")
	for n := range int64(3) {
		if res := m.Inside(k, 3); !res.OK || res.Left != 3-n {
			t.Errorf("%d inside: %+v", n, res)
		}
		if res := m.Enter(k, 3); !res.OK || res.Left != 2-n || res.Limit != 3 {
			t.Errorf("%d inside: %+v", n, res)
		}
	}
	if res := m.Enter(k, 3); res.OK || res.Left != 0 {
		t.Errorf("a fourth of three: %+v", res)
	}
	if res := m.Enter(k, 2); res.OK || res.Left != 0 { // the limit was lowered meanwhile
		t.Errorf("%+v", res)
	}
	for range 3 {
		m.Leave(k)
	}
	m.Leave(k) // once too often
	if res := m.Inside(k, 3); res.Left != 3 {
		t.Errorf("after all left: %+v", res)
	}
	for i := range m.shards {
		if len(m.shards[i].inside) != 0 {
			t.Error("an empty counter is kept")
		}
	}
}

// Under fire from many goroutines exactly as many pass as may.
func TestConcurrentTake(t *testing.T) {
	m, r, k := NewMemory(), Rate{Requests: 1000, Burst: 1000, Period: 100 * time.Hour}, KeyOf(1, "x")
	at := m.start.Add(time.Second)
	passed := make(chan int, 8)
	for range 8 {
		go func() {
			n := 0
			for range 500 {
				if m.Take(k, r, 1, at).OK {
					n++
				}
				m.Peek(k, r, 1, at)
			}
			passed <- n
		}()
	}
	total := 0
	for range 8 {
		total += <-passed
	}
	if total != 1000 {
		t.Errorf("%d of 1000 passed", total)
	}
}

func BenchmarkTake(b *testing.B) {
	m, r, k := NewMemory(), Rate{Requests: 1 << 30, Burst: 1 << 30, Period: time.Hour}, KeyOf(1, "x")
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		m.Take(k, r, 1, now)
	}
}
