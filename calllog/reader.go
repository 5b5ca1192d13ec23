package calllog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"
)

// Reader reads the records in a directory, whether a node is writing there, in this
// process or another one, or none. It keeps nothing open between its calls, and
// files may come, grow and go while it reads. It may be used by many goroutines.
type Reader struct {
	dir      string
	looked   atomic.Uint64 // records walked over, for tests
	holeWait time.Duration // of followers; 0 for the usual, tests change it
}

// OpenReader reads the journal in dir.
func OpenReader(dir string) (*Reader, error) {
	r := &Reader{dir: dir}
	if _, err := r.list(); err != nil {
		return nil, fmt.Errorf("opening the call journal in %q for reading: %w; name the directory that the node writes to, as a user who may read it", dir, err)
	}
	return r, nil
}

// list names the files of the journal, oldest first.
func (r *Reader) list() ([]file, error) {
	d, err := os.Open(r.dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	files := make([]file, 0, len(names)/2)
	for _, name := range names {
		if seq, ok := sequence(name, segmentSuffix); ok {
			files = append(files, file{seq, filepath.Join(r.dir, name)})
		}
	}
	slices.SortFunc(files, func(a, b file) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	return files, nil
}

func (r *Reader) reading(err error) error {
	return fmt.Errorf("reading the call journal in %q: %w", r.dir, err)
}

// Find looks up one call. A call that just ended is found as soon as its record was
// appended. The error is about the directory; a file that cannot be read holds no
// record (Stats names it).
//
// Ids tell when a call began, files when it ended, maybe hours later. So Find asks
// every index, newest first; most answer from their summary. Then it walks the files
// that have none: the active one, and those about to be sealed.
func (r *Reader) Find(id ID) (Record, bool, error) {
	files, err := r.list()
	if err != nil {
		return Record{}, false, r.reading(err)
	}
	var rec Record
	var unsure []file
	for _, f := range slices.Backward(files) {
		found, sure := findIndexed(f, id, &rec)
		if found {
			return rec, true, nil
		}
		if !sure {
			unsure = append(unsure, f)
		}
	}
	for _, f := range unsure {
		if r.walkFor(f, id, &rec) {
			return rec, true, nil
		}
	}
	return Record{}, false, nil
}

// findIndexed looks into the index of one file. sure says that this is an answer.
func findIndexed(f file, id ID, rec *Record) (found, sure bool) {
	x, err := openIndex(f)
	if err != nil {
		return false, false
	}
	defer x.close()
	var s *segment
	err = x.lookup(id, func(off uint64) bool {
		if s == nil {
			if s, err = openSegment(f); err != nil {
				return true
			}
			if s.mark != x.mark {
				err = errIndex
				return true
			}
		}
		found = s.read(off, id, rec)
		return found
	})
	if s != nil {
		s.close()
	}
	return found, err == nil && !x.unsettled
}

// read decodes the record at off if it is the one of this id.
func (s *segment) read(off uint64, id ID, rec *Record) bool {
	w := newWalk(s, off, s.limit)
	v, _, err := w.forward(0)
	if err != nil || v == nil || w.off != off || v.id() != id {
		return false
	}
	v.decode(s.seed, rec)
	return true
}

func (r *Reader) walkFor(f file, id ID, rec *Record) (found bool) {
	_ = r.walkFile(f, nil, func(v view) bool { return v.id() == id }, func(s *segment, v view) bool {
		v.decode(s.seed, rec)
		found = true
		return false
	})
	return found
}

// walkFile shows the matching records of one file, newest first, until show returns
// false. before is asked once every stride and may end the walk with an error.
// A file that cannot be read, or that vanished, shows nothing.
func (r *Reader) walkFile(f file, before func(*segment) error, match func(view) bool, show func(*segment, view) bool) error {
	s, end, err := openToEnd(f)
	if err != nil {
		return nil
	}
	defer s.close()
	w := newWalk(s, end, 0)
	defer func() { r.looked.Add(w.seen) }()
	for {
		if before != nil {
			if err := before(s); err != nil {
				return err
			}
		}
		v, more, err := w.back(match)
		if err != nil {
			return nil
		}
		if v == nil && !more || v != nil && !show(s, v) {
			return nil
		}
	}
}

// openToEnd opens a file and finds where its records end. The sealer cuts a file behind them, and what was
// mapped there before is gone then: so it is opened once more.
func openToEnd(f file) (s *segment, end uint64, err error) {
	for range 3 {
		if s, err = openSegment(f); err != nil {
			return nil, 0, err
		}
		if end, err = s.extent(); err == nil {
			return s, end, nil
		}
		s.close()
	}
	return nil, 0, err
}

// Stats are those of the directory: what its files hold, and which cannot be read.
func (r *Reader) Stats() (Stats, error) {
	st := Stats{Dir: r.dir}
	files, err := r.list()
	if err != nil {
		return st, r.reading(err)
	}
	for _, f := range files {
		l, err := inspect(f)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			st.Unreadable = append(st.Unreadable, Unreadable{filepath.Base(f.path), err.Error()})
		default:
			st.add(l)
		}
	}
	return st, nil
}
