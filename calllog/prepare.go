package calllog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"time"
)

const (
	// Pages ahead of the tail are made writable before a record comes there. Pages behind
	// it begin their way to the disk, so that the flusher finds little left to wait for, and
	// leave the process: its resident memory does not grow with the size of a file.
	warmAhead  = 2 << 20
	warmPiece  = 256 << 10 // at a time; the thread does nothing else meanwhile
	coolBehind = 1 << 20
	// Append wakes the preparer whenever it enters another piece.
	nudgeShift = 18
)

// preparer keeps a segment ready behind the active one, and pages ahead of its tail.
func (j *Journal) preparer() {
	retry := time.NewTimer(j.tuning.retry)
	defer retry.Stop()
	for {
		select {
		case <-j.stop:
			return
		case <-j.wakePreparer:
		case <-retry.C:
			retry.Reset(j.tuning.retry)
			j.prepareNext()
			continue
		}
		j.mu.Lock()
		wait := j.trouble != nil
		j.mu.Unlock()
		if !wait { // else the timer tries again
			j.prepareNext()
		}
		if s := j.active.Load(); s != nil {
			s.warm()
		}
	}
}

// prepareNext makes a segment if there is none in reserve.
func (j *Journal) prepareNext() {
	j.mu.Lock()
	if j.next != nil || j.closed {
		j.mu.Unlock()
		return
	}
	j.seq++
	j.making = j.seq
	j.mu.Unlock()

	j.tuning.stall()
	s, err := j.create(j.making)

	j.mu.Lock()
	defer j.mu.Unlock()
	making := j.making
	j.making = 0
	switch {
	case err != nil:
		if j.seq == making {
			j.seq-- // to be tried again
		}
		c := causeNoFile
		if noSpace(err) {
			c = causeNoSpace
		}
		j.inTrouble(c, err)
		j.signal()
		return
	case j.closed:
		_ = os.Remove(s.path)
		return
	case j.active.Load() == nil:
		j.active.Store(s)
		j.signal()
		wake(j.wakePreparer) // and one in reserve
	default:
		j.next = s
	}
	j.outOfTrouble()
}

func (j *Journal) create(seq uint64) (*segment, error) {
	o := j.options.Load()
	s, err := createSegment(j.dir, seq, o.FileBytes, o.Node, o.Now())
	if errors.Is(err, fs.ErrNotExist) { // somebody deleted the directory
		if err := j.restore(); err != nil {
			return nil, err
		}
		s, err = createSegment(j.dir, seq, o.FileBytes, o.Node, o.Now())
	}
	if errors.Is(err, fs.ErrExist) { // a stranger's file took the number
		j.mu.Lock()
		j.seq++
		j.making = j.seq
		seq = j.seq
		j.mu.Unlock()
		s, err = createSegment(j.dir, seq, o.FileBytes, o.Node, o.Now())
	}
	if err != nil {
		return nil, err
	}
	s.warm()
	return s, nil
}

// restore makes the directory anew and locks it.
func (j *Journal) restore() error {
	f, err := lockDir(j.dir, j.options.Load().Node)
	if err != nil {
		return fmt.Errorf("making the directory of the call journal anew: %w", err)
	}
	j.mu.Lock()
	old := j.lockFile
	j.lockFile = f
	j.mu.Unlock()
	_ = old.Close()
	return nil
}

// inTrouble begins an episode; mu is held.
func (j *Journal) inTrouble(c cause, err error) {
	j.failed(err)
	if j.trouble != nil {
		return
	}
	j.trouble = &trouble{cause: c, since: time.Now()}
	for c := range j.dropped {
		j.trouble.dropped += j.dropped[c].Load()
	}
	j.options.Load().Logger.Error("the call journal makes no new file for now; when the current one is full, records are dropped and counted",
		"cause", causeNames[c], "error", err, "retry", j.tuning.retry)
}

// outOfTrouble ends an episode; mu is held.
func (j *Journal) outOfTrouble() {
	if j.trouble == nil {
		return
	}
	var dropped uint64
	for c := range j.dropped {
		dropped += j.dropped[c].Load()
	}
	j.options.Load().Logger.Info("the call journal has room again", "after", time.Since(j.trouble.since).Round(time.Millisecond),
		"dropped", dropped-j.trouble.dropped)
	j.trouble = nil
}

// warm makes the pages ahead of the tail writable and lets go of those behind it.
func (s *segment) warm() {
	end, _, ended, err := s.used()
	if err != nil || ended {
		return
	}
	for to := min(end+warmAhead, s.limit); s.warmed < to; {
		n := min(warmPiece, s.limit-s.warmed)
		populate(s.mem[s.warmed : s.warmed+n])
		s.warmed += n
	}
	for to := pageOf(end); s.begun+warmPiece <= to; s.begun += warmPiece {
		beginWrite(s.file, s.begun, warmPiece)
	}
	if to := (end - min(end, coolBehind)) &^ (fileBytesUnit - 1); to > s.cooled {
		release(s.mem[s.cooled:to])
		s.cooled = to
	}
	runtime.KeepAlive(s)
}
