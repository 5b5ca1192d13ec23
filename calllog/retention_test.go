package calllog

import (
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// clocks are a wall clock that can be set and the time that the process runs.
type clocks struct{ wall, uptime atomic.Int64 }

func (c *clocks) now() time.Time { return began.Add(time.Duration(c.wall.Load())) }
func (c *clocks) pass(d time.Duration) {
	c.wall.Add(int64(d))
	c.uptime.Add(int64(d))
}

func (c *clocks) journal(t *testing.T, dir string, o Options) *Journal {
	tune := usualTuning()
	tune.patience = 30 * time.Second
	tune.uptime = func() time.Duration { return time.Duration(c.uptime.Load()) }
	tune.retention = 5 * time.Millisecond
	o.Now = c.now
	return tuned(t, dir, o, tune)
}

// fileOf appends one record of the present and seals its file.
func (c *clocks) fileOf(t *testing.T, j *Journal, n int) ID {
	r := call(n)
	r.Start = c.now()
	r.ID = NewID(r.Start, 1, uint64(n))
	j.Append(r)
	rotate(t, j)
	settled(t, j)
	return r.ID
}

func has(j *Journal, id ID) bool {
	_, ok, _ := j.Find(id)
	return ok
}

func passes(n int) { time.Sleep(time.Duration(n) * 10 * time.Millisecond) }

func TestRetentionByBytes(t *testing.T) {
	dir := t.TempDir()
	j := tested(t, dir, Options{KeepBytes: 4 * minFileBytes})
	for i := range 6000 {
		if j.Append(call(i)).Dropped() {
			t.Fatal("dropped")
		}
	}
	rotate(t, j)
	j.Append(call(6000))
	settled(t, j)
	eventually(t, "there is no more than allowed", func() bool { return j.Stats().Bytes <= 4*minFileBytes })
	if st := j.Stats(); st.Deleted == 0 || st.Files < 2 {
		t.Errorf("stats: %+v", st)
	}
	if has(j, call(0).ID) {
		t.Error("the oldest record is still there")
	}
	find(t, j.Reader, call(5999).ID)
	// With almost no room the active file stays.
	o := *j.options.Load()
	o.KeepBytes = 1
	j.Configure(o)
	eventually(t, "sealed files are gone", func() bool { return j.Stats().Files == 1 })
	find(t, j.Reader, call(6000).ID)
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 3 {
		t.Errorf("files: %v, %v", names, err)
	}
}

func TestRetentionByAge(t *testing.T) {
	var c clocks
	j := c.journal(t, memoryDir(t), Options{KeepFor: 10 * time.Hour})
	var ids []ID
	for i := range 4 {
		ids = append(ids, c.fileOf(t, j, i))
		c.pass(time.Hour)
	}
	c.pass(5*time.Hour + 30*time.Minute) // the first is 9.5 hours old
	passes(3)
	for _, id := range ids {
		find(t, j.Reader, id)
	}
	c.pass(2 * time.Hour) // and now 11.5; the second 10.5
	eventually(t, "two are deleted", func() bool { return !has(j, ids[0]) && !has(j, ids[1]) })
	passes(3)
	find(t, j.Reader, ids[2])
	find(t, j.Reader, ids[3])
}

// Whatever the wall clock does while the process runs, only time that has passed
// counts.
func TestRetentionWithAJumpingClock(t *testing.T) {
	var c clocks
	j := c.journal(t, memoryDir(t), Options{KeepFor: 10 * time.Hour})
	a := c.fileOf(t, j, 1)
	c.wall.Add(int64(10 * 365 * day)) // forward
	b := c.fileOf(t, j, 2)
	passes(3)
	find(t, j.Reader, a)
	find(t, j.Reader, b)
	c.wall.Add(-int64(20 * 365 * day)) // far back
	d := c.fileOf(t, j, 3)
	passes(3)
	for _, id := range []ID{a, b, d} {
		find(t, j.Reader, id)
	}
	// The clock is right again. The file with times of the future goes with those
	// after it.
	c.wall.Add(int64(10 * 365 * day))
	c.pass(time.Hour)
	e := c.fileOf(t, j, 4)
	passes(3)
	c.pass(9*time.Hour + 30*time.Minute)
	eventually(t, "the old ones are gone", func() bool { return !has(j, a) && !has(j, b) && !has(j, d) })
	passes(3)
	find(t, j.Reader, e)
}

// A clock that is wrong from the start looks like a long stop; so does a long stop.
func TestRetentionWithAWrongClockAtStart(t *testing.T) {
	for _, jump := range []time.Duration{10 * 365 * day, -10 * 365 * day} {
		var c clocks
		dir := memoryDir(t)
		j := c.journal(t, dir, Options{KeepFor: 10 * time.Hour})
		var ids []ID
		for i := range 5 {
			ids = append(ids, c.fileOf(t, j, i))
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		c.wall.Add(int64(jump))
		j = c.journal(t, dir, Options{KeepFor: 10 * time.Hour})
		passes(5)
		for _, id := range ids {
			find(t, j.Reader, id)
		}
		// After running for so long they are old by any clock, if this one is right.
		c.pass(11 * time.Hour)
		passes(5)
		if gone := !has(j, ids[0]); gone != (jump > 0) {
			t.Errorf("jump by %v: the oldest gone: %v", jump, gone)
		}
	}
}

// One pass deletes at most two files for their age, so that even a journal that
// believes a wrong clock loses its files slowly.
func TestRetentionByAgeIsSlow(t *testing.T) {
	var c clocks
	j := c.journal(t, memoryDir(t), Options{KeepFor: 10 * time.Hour, Sync: time.Hour})
	for i := range 6 {
		c.fileOf(t, j, i)
	}
	if err := j.Close(); err != nil { // no more passes of its own
		t.Fatal(err)
	}
	c.pass(20 * time.Hour)
	for want := 4; want >= 0; want -= 2 {
		j.retain()
		if got := len(j.held); got != want {
			t.Errorf("%d files left, want %d", got, want)
		}
	}
}

func TestRetentionForEver(t *testing.T) {
	var c clocks
	j := c.journal(t, memoryDir(t), Options{KeepFor: -1, KeepBytes: -1})
	id := c.fileOf(t, j, 1)
	c.pass(100 * 365 * day)
	passes(3)
	find(t, j.Reader, id)
}

// Who opens a journal before reading how long records are kept deletes none by the defaults.
func TestHold(t *testing.T) {
	var c clocks
	dir := memoryDir(t)
	j := c.journal(t, dir, Options{KeepFor: -1, KeepBytes: -1})
	a := c.fileOf(t, j, 1)
	c.pass(3 * day)
	b := c.fileOf(t, j, 2)
	j.Close()
	j = c.journal(t, dir, Options{Hold: true, KeepFor: day, KeepBytes: 1})
	passes(3)
	find(t, j.Reader, a)
	find(t, j.Reader, b)
	o := *j.options.Load()
	o.Hold, o.KeepBytes = false, -1
	j.Configure(o)
	eventually(t, "the old one is gone", func() bool { return !has(j, a) })
	find(t, j.Reader, b)
}
