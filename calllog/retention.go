package calllog

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// agedPerPass bounds how many files go for their age in one pass, one pass being
// made each minute and after each sealed file. Whatever the clock says, old records
// do not vanish at once.
const agedPerPass = 2

// ageClock is the clock by which files age. A clock that jumps must not delete
// records, so it is the earlier one of two: the wall clock, and the wall clock at the
// start of the process plus the time that it runs. At the start, a wall clock that
// is further from the newest record than files are kept is not believed either:
// time then goes on from that record.
type ageClock struct {
	base time.Time
	from time.Duration
}

func (j *Journal) startClock() ageClock {
	o := j.options.Load()
	c := ageClock{base: o.Now(), from: j.tuning.uptime()}
	newest := int64(noTime)
	for _, h := range j.held {
		newest = max(newest, h.newest)
	}
	if newest != noTime && o.KeepFor > 0 && c.base.Sub(fromNanos(newest)) > o.KeepFor {
		o.Logger.Warn("the clock is further ahead of the newest call record than records are kept; they are kept as if no time had passed, in case the clock is wrong",
			"newest", fromNanos(newest), "now", c.base)
		c.base = fromNanos(newest)
	}
	return c
}

func (j *Journal) ageNow() time.Time {
	now := j.options.Load().Now()
	if steady := j.clock.base.Add(j.tuning.uptime() - j.clock.from); steady.Before(now) {
		return steady
	}
	return now
}

// retain deletes the oldest files while there are too many bytes or they are too old.
// Only the sealer calls it.
func (j *Journal) retain() {
	if err := j.refresh(); err != nil {
		return // the directory is gone; the flusher sees that too
	}
	o := j.options.Load()
	if o.Hold {
		return
	}
	if j.clock.base.IsZero() {
		j.clock = j.startClock()
	}
	now := j.ageNow()
	j.mu.Lock()
	held := j.held
	var total int64
	for _, s := range append(j.queue[:len(j.queue):len(j.queue)], j.active.Load(), j.next) {
		if s != nil {
			total += int64(s.limit)
		}
	}
	j.mu.Unlock()

	old := 0 // so many are too old: up to the last one by its time, whatever those before say
	for i, h := range held {
		total += h.bytes
		if h.newest != noTime && o.KeepFor > 0 && now.Sub(fromNanos(h.newest)) > o.KeepFor {
			old = i + 1
		}
	}
	deleted := 0
	for i, h := range held {
		tooMuch := o.KeepBytes > 0 && total > o.KeepBytes
		if !tooMuch && (i >= old || i >= agedPerPass) {
			break
		}
		if err := remove(h.file); err != nil {
			j.mu.Lock()
			j.failed(err)
			j.mu.Unlock()
			break
		}
		total -= h.bytes
		deleted++
	}
	if deleted > 0 {
		j.mu.Lock()
		j.held = held[deleted:]
		j.deleted += uint64(deleted)
		j.mu.Unlock()
	}
}

// remove deletes the segment first: an index without segment is cleared away at the
// next start, a segment without index would be indexed again.
func remove(f file) error {
	err := os.Remove(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if e := os.Remove(f.indexPath()); err == nil && e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = e
	}
	return err
}
