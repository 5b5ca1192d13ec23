package calllog

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// short is a record of 200 bytes of content in the file: 152 fixed, 44 of texts.
func short(n int) *Record {
	start := began.Add(time.Duration(n) * 100 * time.Microsecond)
	return &Record{ID: NewID(start, 1, uint64(n)), Start: start, Status: 200, Method: "GET", Host: "shop.test", Path: "/orders/17",
		API: "orders", Stage: "prod", Application: "acme", Client: call(n).Client, Remaining: -1}
}

func benchmarkAppend(b *testing.B, goroutines int, r *Record) {
	tune := usualTuning()
	tune.patience = time.Minute
	j := tuned(b, b.TempDir(), Options{FileBytes: 64 << 20, KeepBytes: 512 << 20}, tune)
	var ids atomic.Uint64
	b.ReportAllocs()
	b.ResetTimer()
	var group sync.WaitGroup
	for g := range goroutines {
		group.Go(func() {
			rec := *r
			for range (b.N + g) / goroutines {
				rec.ID = NewID(rec.Start, uint16(g), ids.Load())
				if j.Append(&rec).Dropped() {
					b.Error("a record was dropped")
				}
			}
		})
	}
	group.Wait()
	b.StopTimer()
	var e encoder
	e.measure(r)
	b.SetBytes(int64(e.size))
}

func BenchmarkAppend(b *testing.B) {
	for _, goroutines := range []int{1, 2} {
		b.Run("short/"+strconv.Itoa(goroutines), func(b *testing.B) { benchmarkAppend(b, goroutines, short(1)) })
		b.Run("usual/"+strconv.Itoa(goroutines), func(b *testing.B) { benchmarkAppend(b, goroutines, call(1)) })
		b.Run("refused/"+strconv.Itoa(goroutines), func(b *testing.B) { benchmarkAppend(b, goroutines, refused(1, "subscription.pending")) })
	}
}

// BenchmarkWriteCall is what docs/decisions/002-journal.md compares with: encoding a
// record and one write(2) to a file for it.
func BenchmarkWriteCall(b *testing.B) {
	f, err := os.Create(b.TempDir() + "/records")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	r, buf := call(1), make([]byte, maxRecord)
	b.ReportAllocs()
	for range b.N {
		var e encoder
		e.measure(r)
		clear(buf[:e.size])
		e.put(buf[:e.size], 1, 2)
		if _, err := f.Write(buf[:e.size]); err != nil {
			b.Fatal(err)
		}
	}
}

// benchmarkJournal holds 200,000 usual records in sealed files of 8 MiB; every
// hundredth was refused.
func benchmarkJournal(b *testing.B) *Journal {
	tune := usualTuning()
	tune.patience = time.Minute
	j := tuned(b, b.TempDir(), Options{FileBytes: 8 << 20, KeepBytes: -1}, tune)
	for i := range 200_000 {
		r := call(i)
		if i%100 == 0 {
			r = refused(i, "quota.spent")
		}
		if i == 1000 {
			r.Reason = "rate-limit.exceeded"
		}
		j.Append(r)
	}
	rotate(b, j)
	settled(b, j)
	b.ReportAllocs()
	b.ResetTimer()
	return j
}

func BenchmarkFind(b *testing.B) {
	b.Run("known", func(b *testing.B) {
		j := benchmarkJournal(b)
		for i := range b.N {
			find(b, j.Reader, call(i*7919%200_000).ID)
		}
	})
	b.Run("unknown", func(b *testing.B) {
		j := benchmarkJournal(b)
		for i := range b.N {
			if _, ok, _ := j.Find(NewID(call(i*7919%200_000).Start, 9, 1)); ok {
				b.Fatal("found what is not there")
			}
		}
	})
}

func BenchmarkQuery(b *testing.B) {
	for name, f := range map[string]Filter{
		"last 50":            {Limit: 50},
		"last 50 refused":    {Refused: true, Limit: 50},
		"one path of 200000": {Path: "/prod/orders/77777"},
		"one rare reason":    {Reason: "rate-limit.*"},
		"absent application": {Application: "nobody"},
	} {
		b.Run(name, func(b *testing.B) {
			j := benchmarkJournal(b)
			for range b.N {
				if err := j.Query(context.Background(), f, func(*Record) bool { return true }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestTenMillion builds a journal of ten million records, about 2 GB, when
// CALLLOG_TEN_MILLION is set, and holds Find to 50 ms.
func TestTenMillion(t *testing.T) {
	if os.Getenv("CALLLOG_TEN_MILLION") == "" {
		t.Skip("set CALLLOG_TEN_MILLION=1 to build a journal of ten million records (2.3 GB, half a minute)")
	}
	const total = 10_000_000
	tune := usualTuning()
	tune.patience = time.Minute
	j := tuned(t, t.TempDir(), Options{FileBytes: 64 << 20, KeepBytes: -1, KeepFor: -1}, tune)
	start := time.Now()
	var group sync.WaitGroup
	for g := range 2 {
		group.Go(func() {
			for i := g; i < total; i += 2 {
				r := short(i)
				if i%1000 == 0 { // a call that began hours ago
					r.Start = r.Start.Add(-3 * time.Hour)
					r.ID = NewID(r.Start, 2, uint64(i))
				}
				if j.Append(r).Dropped() {
					t.Error("dropped")
				}
			}
		})
	}
	group.Wait()
	t.Logf("appended in %v", time.Since(start).Round(time.Millisecond))
	settled(t, j)
	st := j.Stats()
	t.Logf("sealed after %v: %d records in %d files, %d MB", time.Since(start).Round(time.Millisecond), st.Records, st.Files, st.Bytes>>20)
	r, err := OpenReader(j.dir)
	if err != nil {
		t.Fatal(err)
	}
	measure := func(what string, known bool, id func(i int) ID) {
		t.Helper()
		const times = 300
		var worst, sum time.Duration
		for range times {
			i := rand.IntN(total)
			want := id(i)
			start := time.Now()
			_, ok, err := r.Find(want)
			took := time.Since(start)
			if err != nil || ok != known {
				t.Fatalf("%s: found %v, %v", what, ok, err)
			}
			sum += took
			worst = max(worst, took)
		}
		t.Logf("%s: mean %v, worst %v", what, (sum / times).Round(time.Microsecond), worst.Round(time.Microsecond))
		if worst > 50*time.Millisecond {
			t.Errorf("%s: %v is longer than 50 ms", what, worst)
		}
	}
	ids := func(i int) ID {
		if i%1000 == 0 {
			i++
		}
		return short(i).ID
	}
	// The page cache is as the writing left it. A cold one is measured by hand:
	// echo 1 > /proc/sys/vm/drop_caches
	if os.Getenv("CALLLOG_TEN_MILLION") == "cold" {
		drop := func() {
			if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
				t.Fatal(err)
			}
		}
		inner := ids
		ids = func(i int) ID { drop(); return inner(i) }
	}
	measure("known id", true, ids)
	measure("id of a long call", true, func(i int) ID { i -= i % 1000; return NewID(short(i).Start.Add(-3*time.Hour), 2, uint64(i)) })
	measure("unknown id in that time", false, func(i int) ID { ids(i); return NewID(short(i).Start, 3, uint64(i)) })
	measure("unknown id of another year", false, func(i int) ID { return NewID(time.Now().AddDate(3, 0, 0), 3, uint64(i)) })
	start = time.Now()
	n := 0
	if err := r.Query(t.Context(), Filter{Path: "/nowhere"}, func(*Record) bool { n++; return true }); err != nil || n != 0 {
		t.Errorf("%d, %v", n, err)
	}
	t.Logf("a query that looks at all records: %v", time.Since(start).Round(time.Millisecond))
	start = time.Now()
	if err := r.Query(t.Context(), Filter{Application: "nobody"}, func(*Record) bool { n++; return true }); err != nil || n != 0 {
		t.Errorf("%d, %v", n, err)
	}
	t.Logf("a query for a name that no file has: %v", time.Since(start).Round(time.Microsecond))
}
