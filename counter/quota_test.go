package counter

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
	_ "time/tzdata"

	"pgregory.net/rapid"
)

func zone(t interface{ Fatal(...any) }, name string) *time.Location {
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestPeriods(t *testing.T) {
	const form = "2006-01-02T15:04:05Z07:00"
	for _, c := range []struct{ kind, zone, at, start, end string }{
		{"hour", "UTC", "2026-11-22T10:15:00Z", "2026-11-22T10:00:00Z", "2026-11-22T11:00:00Z"},
		{"hour", "Asia/Kolkata", "2026-11-22T10:15:00Z", "2026-11-22T15:00:00+05:30", "2026-11-22T16:00:00+05:30"},
		{"day", "UTC", "2026-11-22T23:59:59Z", "2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z"},
		{"day", "Europe/Berlin", "2026-11-22T23:30:00Z", "2026-11-23T00:00:00+01:00", "2026-11-24T00:00:00+01:00"},
		{"day", "Europe/Berlin", "2026-03-29T10:00:00Z", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"}, // 23 hours
		{"day", "Europe/Berlin", "2026-10-25T10:00:00Z", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"}, // 25 hours
		{"hour", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"},
		{"hour", "Europe/Berlin", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"},
		{"week", "UTC", "2026-11-22T10:00:00Z", "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"}, // a Sunday
		{"week", "UTC", "2026-11-23T00:00:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"}, // a Monday
		{"week", "UTC", "2027-01-01T00:00:00Z", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"},
		{"month", "UTC", "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"},
		{"month", "America/New_York", "2026-12-01T04:59:59Z", "2026-11-01T00:00:00-04:00", "2026-12-01T00:00:00-05:00"},
		{"year", "UTC", "2026-12-31T23:59:59Z", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{"day", "America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00"}, // midnight does not exist
	} {
		at, err := time.Parse(form, c.at)
		if err != nil {
			t.Fatal(err)
		}
		p := PeriodOf(c.kind, at, zone(t, c.zone))
		if got := p.Start.Format(form) + " " + p.End.Format(form); got != c.start+" "+c.end {
			t.Errorf("%s of %s in %s: %s, want %s %s", c.kind, c.at, c.zone, got, c.start, c.end)
		}
	}
}

// Whatever the zone and its laws, each moment lies in exactly one period, and periods follow each other.
func TestPeriodsAreWhole(t *testing.T) {
	zones := []string{"UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Beirut", "Pacific/Apia", "Africa/Casablanca", "Asia/Kathmandu", "America/St_Johns", "Atlantic/Azores"}
	rapid.Check(t, func(t *rapid.T) {
		z := zone(t, rapid.SampledFrom(zones).Draw(t, "zone"))
		kind := rapid.SampledFrom([]string{"hour", "day", "week", "month", "year"}).Draw(t, "kind")
		at := time.Unix(rapid.Int64Range(1262304000, 2051222400).Draw(t, "at"), 0) // 2010 to 2035
		p := PeriodOf(kind, at, z)
		if at.Before(p.Start) || !at.Before(p.End) {
			t.Fatalf("%v does not lie in its %s %v to %v", at.In(z), kind, p.Start, p.End)
		}
		for _, in := range []time.Time{p.Start, p.End.Add(-time.Second)} {
			if q := PeriodOf(kind, in, z); !q.Start.Equal(p.Start) || !q.End.Equal(p.End) {
				t.Fatalf("%v lies in %v to %v, and not in %v to %v", in, q.Start, q.End, p.Start, p.End)
			}
		}
		if next := PeriodOf(kind, p.End, z); !next.Start.Equal(p.End) {
			t.Fatalf("after %v to %v comes %v", p.Start, p.End, next.Start)
		}
	})
}

// Days whose midnight is skipped, repeated or missing altogether are days like others.
func TestDaysFollowEachOther(t *testing.T) {
	for _, name := range []string{"Europe/Berlin", "America/Sao_Paulo", "America/Havana", "Asia/Beirut", "Pacific/Apia", "Africa/Casablanca", "Asia/Amman", "America/Asuncion", "Atlantic/Azores", "Asia/Tehran", "Africa/Cairo", "America/Santiago"} {
		z := zone(t, name)
		last := PeriodOf("day", time.Date(2010, 1, 1, 12, 0, 0, 0, z), z)
		for last.End.Year() < 2027 {
			p := PeriodOf("day", last.End, z)
			if !p.Start.Equal(last.End) || !p.Start.Before(p.End) || p.End.Sub(p.Start) > 25*time.Hour || p.Start.Add(-time.Second).Day() == p.Start.Day() {
				t.Fatalf("%s: after %v to %v comes %v to %v", name, last.Start, last.End, p.Start, p.End)
			}
			for _, in := range []time.Time{p.Start.Add(30 * time.Minute), p.Start.Add(90 * time.Minute), p.End.Add(-30 * time.Minute), p.End.Add(-90 * time.Minute)} {
				if q := PeriodOf("day", in, z); q != p {
					t.Fatalf("%s: %v lies in %v to %v, and not in %v to %v", name, in, q.Start, q.End, p.Start, p.End)
				}
			}
			last = p
		}
	}
}

func TestQuota(t *testing.T) {
	q, _ := OpenQuotas("")
	now := time.Date(2026, 11, 22, 23, 0, 0, 0, time.UTC)
	p := PeriodOf("day", now, time.UTC)
	for n := range int64(3) {
		if res := q.Take("a", 3, p, now, true); !res.OK || res.Left != 2-n {
			t.Errorf("peeking at call %d: %+v", n, res)
		}
		if res := q.Take("a", 3, p, now, false); !res.OK || res.Left != 2-n || res.Reset != time.Hour || res.Limit != 3 {
			t.Errorf("call %d: %+v", n, res)
		}
	}
	if res := q.Take("a", 3, p, now, false); res.OK || res.Retry != time.Hour || res.Left != 0 {
		t.Errorf("a fourth of three: %+v", res)
	}
	if res := q.Take("b", 3, p, now, false); !res.OK {
		t.Error("somebody else is counted along")
	}
	q.Return("a")
	if res := q.Take("a", 3, p, now, false); !res.OK || res.Left != 0 {
		t.Errorf("after one was returned: %+v", res)
	}
	q.Return("nobody")
	if res := q.Take("a", 1, p, now, false); res.OK || res.Left != 0 { // lowered meanwhile
		t.Errorf("a lower limit: %+v", res)
	}
	// It passes at the time that Retry tells, and not a moment before.
	for d, want := range map[time.Duration]bool{time.Hour - time.Millisecond: false, time.Hour: true} {
		then := now.Add(d)
		if res := q.Take("a", 3, PeriodOf("day", then, time.UTC), then, true); res.OK != want {
			t.Errorf("after %v: %+v", d, res)
		}
	}
}

// A clock that is set back does not give quotas anew, and one that was wrong by years does not
// keep them for ever.
func TestClockSetBack(t *testing.T) {
	day := func(d int, h int) time.Time { return time.Date(2026, 11, d, h, 0, 0, 0, time.UTC) }
	take := func(q *Quotas, now time.Time) Result {
		return q.Take("a", 2, PeriodOf("day", now, time.UTC), now, false)
	}
	q, _ := OpenQuotas("")
	take(q, day(22, 1))
	take(q, day(22, 1))
	if res := take(q, day(21, 23)); res.OK {
		t.Errorf("two hours back: %+v", res)
	}
	if res := take(q, day(22, 2)); res.OK {
		t.Errorf("and forth: %+v", res)
	}
	if res := take(q, day(23, 0)); !res.OK {
		t.Errorf("the next day: %+v", res)
	}
	q, _ = OpenQuotas("")
	future := time.Date(2036, 1, 1, 12, 0, 0, 0, time.UTC)
	take(q, future)
	take(q, future)
	if res := take(q, day(22, 1)); !res.OK {
		t.Errorf("a clock that was ten years ahead locks out: %+v", res)
	}
	take(q, day(22, 1))
	if res := take(q, day(22, 1)); res.OK {
		t.Errorf("counting has ended: %+v", res)
	}
	if res := take(q, day(23, 1)); !res.OK {
		t.Errorf("the next day: %+v", res)
	}
}

// A quota whose period is changed goes on counting and ends with its new period.
func TestPeriodChanged(t *testing.T) {
	now := time.Date(2026, 11, 10, 12, 0, 0, 0, time.UTC)
	take := func(q *Quotas, kind string, now time.Time) bool {
		return q.Take("a", 2, PeriodOf(kind, now, time.UTC), now, false).OK
	}
	for _, c := range []struct{ from, to string }{{"month", "day"}, {"day", "month"}, {"year", "hour"}} {
		q, _ := OpenQuotas("")
		take(q, c.from, now)
		take(q, c.from, now)
		if take(q, c.to, now) {
			t.Errorf("%s to %s: calls of the period are forgotten", c.from, c.to)
		}
		q.Return("a")
		take(q, c.to, now)
		end := PeriodOf(c.to, now, time.UTC).End
		if take(q, c.to, end.Add(-time.Second)) {
			t.Errorf("%s to %s: free before the end of the period", c.from, c.to)
		}
		if !take(q, c.to, end) {
			t.Errorf("%s to %s: still counted after the end of the period", c.from, c.to)
		}
	}
}

func TestSaveAndLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "quotas.json")
	q, err := OpenQuotas(file)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	p := PeriodOf("month", now, time.UTC)
	if err := q.Save(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a file was written for nothing")
	}
	for i := range 100 {
		for range i % 7 {
			q.Take(fmt.Sprint("caller\x00", i), 10, p, now, false)
		}
	}
	q.Take("old", 10, PeriodOf("day", now.Add(-72*time.Hour), time.UTC), now.Add(-72*time.Hour), false)
	if err := q.Save(); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(file)
	again, err := OpenQuotas(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if res := again.Take(fmt.Sprint("caller\x00", i), 10, p, now, true); res.Left != int64(9-i%7) {
			t.Errorf("caller %d: %+v", i, res)
		}
	}
	if _, ok := again.shard("old").cells["old"]; ok {
		t.Error("what ended long ago is kept")
	}
	if err := q.Save(); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(file); after.ModTime() != before.ModTime() {
		t.Error("written again without a change")
	}
	if left, _ := filepath.Glob(file + ".*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestUnreadableFile(t *testing.T) {
	for name, content := range map[string]string{"garbage": "{", "null": `{"a":null}`, "empty": ""} {
		file := filepath.Join(t.TempDir(), "quotas.json")
		os.WriteFile(file, []byte(content), 0o600)
		q, err := OpenQuotas(file)
		if name != "null" {
			if err == nil {
				t.Errorf("%s: no error", name)
			}
			if b, _ := os.ReadFile(file + ".unreadable"); string(b) != content {
				t.Errorf("%s: the file was not kept", name)
			}
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		now := time.Now()
		if res := q.Take("a", 1, PeriodOf("day", now, time.UTC), now, false); !res.OK {
			t.Errorf("%s: %+v", name, res)
		}
		if err := q.Save(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	q, _ := OpenQuotas(filepath.Join(t.TempDir(), "missing", "quotas.json"))
	now := time.Now()
	q.Take("a", 1, PeriodOf("day", now, time.UTC), now, false)
	if q.Save() == nil || !q.dirty.Load() {
		t.Error("what could not be saved is taken for saved")
	}
}

// A flood of callers pushes others out rather than filling memory, and costs no search of all.
func TestQuotasAreBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("fills all quotas")
	}
	q, _ := OpenQuotas("")
	now := time.Now()
	p := PeriodOf("month", now, time.UTC)
	for i := range quotaBound * shards {
		q.Take(fmt.Sprint(i), 1, p, now, false)
	}
	for i := range 1000 {
		q.Take(fmt.Sprint("more ", i), 1, p, now, false)
	}
	for i := range q.shards {
		if n := len(q.shards[i].cells); n > quotaBound {
			t.Errorf("shard %d holds %d cells, the bound is %d", i, n, quotaBound)
		}
	}
}

// While Save waits for one shard, calls that are counted in others go on: before and after it in the order of copying.
func TestSaveHoldsOneShard(t *testing.T) {
	q, _ := OpenQuotas(filepath.Join(t.TempDir(), "quotas.json"))
	now := time.Now()
	p := PeriodOf("month", now, time.UTC)
	for i := range 10 * shards {
		q.Take(fmt.Sprint(i), 10, p, now, false)
	}
	held := &q.shards[shards/2]
	held.mu.Lock()
	saved := make(chan error, 1)
	go func() { saved <- q.Save() }()
	for q.dirty.Load() { // until Save has begun
		runtime.Gosched()
	}
	taken := 0
	for i := range 10 * shards {
		if name := fmt.Sprint(i); q.shard(name) != held {
			q.Take(name, 10, p, now, false)
			taken++
		}
	}
	select {
	case <-saved:
		t.Error("Save did not wait for a shard that was held")
	default:
	}
	held.mu.Unlock()
	if err := <-saved; err != nil {
		t.Fatal(err)
	}
	if !q.dirty.Load() || taken == 0 {
		t.Errorf("%d calls were counted meanwhile; still to be saved: %v", taken, q.dirty.Load())
	}
	if err := q.Save(); err != nil {
		t.Fatal(err)
	}
	again, err := OpenQuotas(q.file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 * shards {
		name := fmt.Sprint(i)
		want := int64(7)
		if q.shard(name) == held {
			want = 8
		}
		if res := again.Take(name, 10, p, now, true); res.Left != want {
			t.Errorf("%s: %d left, want %d", name, res.Left, want)
		}
	}
}

// What a call pays while a million cells are being saved: the longest wait is reported beside the mean.
func BenchmarkTakeWhileSaving(b *testing.B) {
	q, _ := OpenQuotas(filepath.Join(b.TempDir(), "quotas.json"))
	now := time.Now()
	p := PeriodOf("month", now, time.UTC)
	names := make([]string, quotaBound*shards*9/10)
	for i := range names {
		names[i] = fmt.Sprint("caller ", i)
		q.Take(names[i], 1<<40, p, now, false)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				q.Save()
			}
		}
	}()
	var longest time.Duration
	for i := 0; b.Loop(); i++ {
		start := time.Now()
		q.Take(names[i*7919%len(names)], 1<<40, p, now, false)
		longest = max(longest, time.Since(start))
	}
	b.ReportMetric(float64(longest.Microseconds()), "longest-µs")
	close(stop)
	<-stopped
}

// What a process leaves that is killed while it writes does not pile up.
func TestQuotasKilledWhileWriting(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "quotas.json")
	for _, name := range []string{"quotas.json.new123", "quotas.json.new4"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenQuotas(file); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}
