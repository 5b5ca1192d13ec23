package calllog

import "runtime/debug"

const (
	// stride is how many records a walk looks at before its caller may stop it.
	stride = 1024
	// A walk hands its pages back so that reading a file does not make the process
	// as large as the file.
	releaseBytes = 4 << 20
)

// walk reads the records of a segment in one direction.
type walk struct {
	seg  *segment
	pos  uint64 // backwards: end of what is unread; forwards: its begin
	end  uint64 // forwards: where to stop
	buf  []byte // copy of the record that was found
	off  uint64 // where it lies
	lost uint64 // bytes passed over because no record was in them
	seen uint64 // records looked at
	kept uint64 // pages between here and pos were not yet handed back
}

func newWalk(s *segment, pos, end uint64) *walk {
	return &walk{seg: s, pos: pos, end: end, kept: pos}
}

// back goes to older records until one matches. It returns nil and more after a
// stride without a match, and nil and no more at the begin of the file. The record
// that is returned is sound, and valid until the next call.
func (w *walk) back(match func(view) bool) (v view, more bool, err error) {
	s := w.seg
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer s.caught(&err)
	for range stride {
		n := w.frameBefore()
		if n == 0 {
			return nil, false, nil
		}
		w.pos -= n
		w.seen++
		if w.kept-w.pos > releaseBytes {
			w.release(w.pos, w.kept)
			w.kept = w.pos
		}
		if match(view(s.mem[w.pos : w.pos+n : w.pos+n])) {
			if v := w.take(w.pos, n); v != nil && match(v) {
				return v, true, nil
			}
		}
	}
	return nil, true, nil
}

// frameBefore finds the length of the last record that ends at pos, after moving
// pos down over holes and damage.
func (w *walk) frameBefore() uint64 {
	s := w.seg
	for ; w.pos >= headerBytes+minRecord; w.pos -= 8 {
		n := uint64(le.Uint32(s.mem[w.pos-4:]) ^ s.mark)
		if n >= minRecord && n <= maxRecord && n&7 == 0 && n <= w.pos-headerBytes && s.frame(w.pos-n, w.pos) == n {
			return n
		}
		w.lost += 8
	}
	return 0
}

// forward finds the next record, passing over holes and damage, and at most budget
// bytes of them. It returns nil and more when the budget is used up, nil and no
// more at the end.
func (w *walk) forward(budget int) (v view, more bool, err error) {
	s := w.seg
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer s.caught(&err)
	for ; w.pos+minRecord <= w.end; w.pos += 8 {
		if n := s.frame(w.pos, w.end); n != 0 {
			if v := w.take(w.pos, n); v != nil {
				w.off = w.pos
				w.pos += n
				if w.pos-w.kept > releaseBytes {
					w.release(w.kept, w.pos)
					w.kept = w.pos
				}
				return v, true, nil
			}
		}
		w.lost += 8
		if budget -= 8; budget < 0 {
			w.pos += 8
			return nil, true, nil
		}
	}
	return nil, false, nil
}

// take copies the record and checks the copy, since the bytes in a mapped file may
// change between a check and a use.
func (w *walk) take(off, n uint64) view {
	w.buf = append(w.buf[:0], w.seg.mem[off:off+n]...)
	if v := view(w.buf); v.sound(w.seg.seed) {
		w.off = off
		return v
	}
	return nil
}

// release hands back the whole pages between two places.
func (w *walk) release(from, to uint64) {
	const page = 1 << 16 // a multiple of all page sizes
	from, to = (from+page-1)&^(page-1), to&^(page-1)
	if from < to {
		release(w.seg.mem[from:to])
	}
}
