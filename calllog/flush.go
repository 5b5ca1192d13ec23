package calllog

import (
	"errors"
	"fmt"
	"os"
	"time"
)

var errShort = errors.New("somebody deleted the file or cut it short")

// flusher writes records to the disk at each sync interval, and looks whether the
// active file is still there and not too old.
func (j *Journal) flusher() {
	every := j.options.Load().Sync
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-j.stop:
			return
		case <-j.wakeFlusher:
			if now := j.options.Load().Sync; now != every {
				every = now
				tick.Reset(every)
			}
			continue
		case <-tick.C:
		}
		j.check()
		_ = j.sync(false) // noted for Stats
	}
}

// Sync writes what was appended before to the disk, without waiting for the interval.
func (j *Journal) Sync() error { return j.sync(true) }

// sync leaves the page out that records still come to, unless it is asked for or nothing has come
// since the last time: the next write to a page that is on its way to the disk is a fault, which may
// wait for the file system's own journal, and with it everything on that core.
func (j *Journal) sync(tail bool) error {
	j.flushing.Lock()
	defer j.flushing.Unlock()
	j.mu.Lock()
	var todo []*segment
	for _, s := range j.queue {
		if !s.sealed.Load() { // the sealer syncs the file itself
			todo = append(todo, s)
		}
	}
	touched := j.touched
	j.touched = nil
	j.mu.Unlock()
	if s := j.active.Load(); s != nil {
		todo = append(todo, s)
	}
	var err error
	for _, s := range todo {
		if e := s.flush(tail); e != nil && err == nil {
			err = e
		}
	}
	for _, s := range touched {
		if e := s.flushFrom(s.amended.Swap(0), s.limit); e != nil && err == nil {
			err = e
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	was := j.unsynced
	j.unsynced = err != nil
	if err != nil {
		err = fmt.Errorf("writing the call journal to the disk: %w", err)
		j.failed(err)
		if !was {
			j.options.Load().Logger.Error("the call journal cannot be written to the disk; a loss of power would lose records", "error", err)
		}
		return err
	}
	if was {
		j.options.Load().Logger.Info("the call journal is written to the disk again")
	}
	j.lastSync = j.options.Load().Now()
	return nil
}

func (s *segment) flush(tail bool) error {
	from, to, end, err := s.unflushed(tail)
	if err != nil || from == end {
		return nil // if the file broke, check will find it
	}
	if err := s.flushFrom(from, to); err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	s.flushed = [2]uint64{s.flushed[1], end}
	return nil
}

// unflushed is what changed since the flush before the last one: a writer may have
// reserved its room before the last flush and filled it after. end is the tail, to is what to
// flush up to.
func (s *segment) unflushed(tail bool) (from, to, end uint64, err error) {
	end, _, _, err = s.used()
	from = s.flushed[0]
	if low := s.amended.Swap(0); low != 0 {
		from = min(from, low)
	}
	if from == headerBytes {
		from = 0
	}
	if to = end; !tail && end != s.flushed[1] {
		to = pageOf(end)
	}
	return from, to, end, err
}

// check replaces the active segment when its file is gone, cut short or too old,
// and the next one when its file is gone.
func (j *Journal) check() {
	j.mu.Lock()
	next := j.next
	j.mu.Unlock()
	if next != nil && !next.present() {
		j.mu.Lock()
		if j.next == next {
			j.next = nil
			wake(j.wakePreparer)
		}
		j.mu.Unlock()
	}
	s := j.active.Load()
	if s == nil {
		return
	}
	if !s.present() {
		j.retire(s, errShort)
		return
	}
	o := j.options.Load()
	now := o.Now()
	switch age := now.Sub(s.born); {
	case s.count() == 0, age < 0: // the clock went back: begin to count again
		s.born = now
	case o.FileAge > 0 && age >= o.FileAge:
		j.mu.Lock()
		ready := j.next != nil
		j.mu.Unlock()
		if ready { // else at the next tick
			j.retire(s, s.finish())
		}
	}
}

// present says that the file has its name and its size.
func (s *segment) present() bool {
	info, err := os.Stat(s.path)
	return err == nil && uint64(info.Size()) >= s.limit
}
