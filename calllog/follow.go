package calllog

import (
	"context"
	"runtime/debug"
	"time"
)

const (
	// A follower looks for new records this often, less often the longer there are none.
	pollFirst = time.Millisecond
	pollLast  = 50 * time.Millisecond
	// How long a follower waits for a record whose room is reserved. In a living node that takes
	// microseconds, or seconds where its machine has no time for it; behind a dead one it would be
	// forever. That a node died is known once another one writes behind it.
	holeWait     = 10 * time.Second
	holeWaitDead = time.Second
	// How many records it reads between two looks at the context.
	followBatch = 256
)

// Follow calls fn with each record that is appended from now on and matches, in the
// order of the journal, until fn returns false (nil is returned), the limit is
// reached, or ctx is done (its error is returned). It survives rotation, and the
// end and new start of the node. Files deleted before Follow came to them are lost
// to it; so is a record whose writer needed longer than ten seconds between reserving
// its room and filling it.
func (r *Reader) Follow(ctx context.Context, f Filter, fn func(*Record) bool) error {
	fo := follower{reader: r, match: f.compile(), left: f.Limit}
	defer fo.leave()
	if err := fo.atEnd(); err != nil {
		return r.reading(err)
	}
	wait := pollFirst
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		recs := fo.read(wait >= pollLast)
		for _, rec := range recs {
			if !fn(rec) {
				return nil
			}
			if fo.left--; fo.left == 0 {
				return nil
			}
		}
		if fo.moved {
			wait = pollFirst
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
			wait = min(2*wait, pollLast)
		}
	}
}

func (r *Reader) patience() time.Duration {
	if r.holeWait != 0 {
		return r.holeWait
	}
	return holeWait
}

// follower is a place in the journal.
type follower struct {
	reader *Reader
	match  *matcher
	left   int
	seq    uint64   // of the segment it is in, or was in last
	seg    *segment // nil between two segments
	walk   *walk
	stuck  time.Time // when the hole at the place was met first
	moved  bool      // the last read made progress
	atTail bool      // and came to the end of what is reserved
}

func (fo *follower) enter(s *segment, pos uint64) {
	fo.seg, fo.seq, fo.walk, fo.stuck = s, s.seq, newWalk(s, pos, pos), time.Time{}
}

func (fo *follower) leave() {
	if fo.seg != nil {
		fo.seg.close()
		fo.seg = nil
	}
}

// atEnd goes behind the newest record.
func (fo *follower) atEnd() error {
	files, err := fo.reader.list()
	if err != nil {
		return err
	}
	for i := len(files) - 1; i >= 0; i-- {
		s, err := openSegment(files[i])
		if err != nil {
			continue
		}
		end, n, _, err := s.used()
		if err == nil && n == 0 && i > 0 {
			s.close() // prepared and not yet in use
			continue
		}
		if err == nil {
			fo.enter(s, end)
			return nil
		}
		s.close()
	}
	// Only empty or unreadable files. Records will come in the first readable one.
	return nil
}

// read returns the next records that match, some at a time. idle says that there
// was nothing for long, which makes it look whether the file is still the one.
func (fo *follower) read(idle bool) []*Record {
	fo.moved = false
	if fo.seg == nil {
		fo.next()
		if fo.seg == nil {
			return nil
		}
	}
	recs, err := fo.advance()
	if err != nil {
		fo.leave()
		fo.moved = true
		return recs
	}
	if !fo.moved && idle && fo.atTail && fo.abandoned() {
		fo.leave()
		fo.moved = true
	}
	return recs
}

// next enters the segment behind the last one.
func (fo *follower) next() {
	files, err := fo.reader.list()
	if err != nil {
		return
	}
	for _, f := range files {
		if f.seq <= fo.seq {
			continue
		}
		if s, err := openSegment(f); err == nil {
			fo.enter(s, headerBytes)
			fo.moved = true
			return
		}
	}
}

// abandoned says that a later segment is in use, although this one was never ended:
// its node died.
func (fo *follower) abandoned() bool {
	files, err := fo.reader.list()
	if err != nil {
		return false
	}
	for _, f := range files {
		if f.seq <= fo.seq {
			continue
		}
		if s, err := openSegment(f); err == nil {
			_, n, _, err := s.used()
			s.close()
			if err == nil && n > 0 {
				return true
			}
		}
	}
	return false
}

func (fo *follower) advance() (recs []*Record, err error) {
	s, w := fo.seg, fo.walk
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer s.caught(&err)
	fo.match.seed, fo.atTail = s.seed, false
	end, _, ended, err := s.used()
	if err != nil {
		return nil, err
	}
	w.end = end
	for range followBatch {
		if w.pos >= end {
			fo.atTail = true
			if ended {
				fo.leave()
				fo.moved = true
			}
			return recs, nil
		}
		if s.frame(w.pos, end) == 0 { // reserved, not there yet
			now := time.Now()
			if fo.stuck.IsZero() {
				fo.stuck = now
			}
			if waited := now.Sub(fo.stuck); waited < holeWaitDead || waited < fo.reader.patience() && (ended || !fo.abandoned()) {
				return recs, nil
			}
		}
		fo.stuck = time.Time{}
		v, _, err := w.forward(1 << 20)
		if err != nil {
			return recs, err
		}
		fo.moved = true
		if v != nil && fo.match.match(v) {
			rec := new(Record)
			v.decode(s.seed, rec)
			recs = append(recs, rec)
		}
	}
	return recs, nil
}
