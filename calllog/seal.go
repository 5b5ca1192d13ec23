package calllog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// The sealer rests after so many records, so that it takes no core from calls for
	// longer than some 50 µs. It does not rest when files wait for it.
	restEvery = 128
	restFor   = 500 * time.Microsecond
	// How long it waits for a writer that has reserved room in a full file.
	settleEvery = 50 * time.Millisecond
	settleTries = 20
)

var errNothing = errors.New("no record in it is readable")

// sealer indexes files that are full, and those that an earlier process left, and
// deletes old ones.
func (j *Journal) sealer() {
	tick := time.NewTicker(j.tuning.retention)
	defer tick.Stop()
	unsealed := j.sealOld()
	j.retain()
	for stopped := false; !stopped; {
		select {
		case <-j.stop:
			stopped = true
		case <-j.wakeSealer:
		case <-tick.C:
			// Where the disk was full there may be room now.
			unsealed = slices.DeleteFunc(unsealed, func(f file) bool { return !worthAnother(j.seal(f, nil)) })
		}
		for {
			f, err := j.sealFirst()
			if f.seq == 0 {
				break
			}
			if worthAnother(err) {
				unsealed = append(unsealed, f)
			}
		}
		if !stopped {
			j.retain()
		}
	}
}

func worthAnother(err error) bool {
	return err != nil && !errors.Is(err, errNothing) && !errors.Is(err, fs.ErrNotExist)
}

// clearAway deletes files that were never completed, and indexes without a segment.
// It runs before this process makes any.
func (j *Journal) clearAway() {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if seq, ok := sequence(e.Name(), indexSuffix); ok {
			if _, err := os.Lstat(segmentPath(j.dir, seq)); errors.Is(err, fs.ErrNotExist) {
				_ = os.Remove(filepath.Join(j.dir, e.Name()))
			}
		}
		_, segment := sequence(e.Name(), segmentSuffix+newSuffix)
		_, index := sequence(e.Name(), indexSuffix+newSuffix)
		if segment || index {
			_ = os.Remove(filepath.Join(j.dir, e.Name()))
		}
	}
}

// sealOld seals what earlier processes could not. It returns what it cannot either.
func (j *Journal) sealOld() (unsealed []file) {
	j.mu.Lock()
	old := slices.Clone(j.held)
	j.mu.Unlock()
	for _, h := range old {
		select {
		case <-j.stop:
			return nil // the next process will
		default:
		}
		if h.indexed {
			continue
		}
		err := j.seal(h.file, nil)
		j.noteSealing(h.file, err)
		if worthAnother(err) {
			unsealed = append(unsealed, h.file)
		}
	}
	_ = j.refresh()
	return unsealed
}

// sealFirst seals the oldest full segment; the zero file says that there is none.
func (j *Journal) sealFirst() (file, error) {
	j.mu.Lock()
	if len(j.queue) == 0 {
		j.mu.Unlock()
		return file{}, nil
	}
	s := j.queue[0]
	broken := s.broken != nil
	j.mu.Unlock()

	s.sealed.Store(true)
	f := file{s.seq, s.path}
	live := s
	if broken {
		live = nil
	}
	err := j.seal(f, live)
	if broken {
		err = nil // was told already, and will not get better
	}
	j.noteSealing(f, err)
	if len(s.mem) > fileBytesUnit {
		release(s.mem[fileBytesUnit:])
	}
	h, inspectErr := inspect(f)

	j.mu.Lock()
	defer j.mu.Unlock()
	j.past += s.count()
	j.queue[0] = nil // else its memory stays
	j.queue = j.queue[1:]
	switch {
	case inspectErr == nil:
		j.held = append(j.held, h)
	case !errors.Is(inspectErr, fs.ErrNotExist):
		j.unreadable[filepath.Base(f.path)] = inspectErr.Error()
	}
	return f, err
}

func (j *Journal) noteSealing(f file, err error) {
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return
	}
	err = fmt.Errorf("sealing %s: %w", f.path, err)
	j.mu.Lock()
	j.failed(err)
	j.mu.Unlock()
	j.options.Load().Logger.Warn("a file of the call journal stays without index for now; looking into it takes longer", "error", err)
}

// seal gives back the disk space that a file did not need and writes its index. live
// is its segment if this process wrote it and it did not break. A file
// in which nothing was ever written is deleted.
func (j *Journal) seal(f file, live *segment) error {
	s, err := openSegment(f)
	if err != nil {
		return err
	}
	defer s.close()

	var x *indexBuilder
	var end uint64
	for try := 0; ; try++ {
		var count uint64
		if live != nil {
			var ended bool
			if end, count, ended, err = s.used(); err != nil {
				return err
			}
			if !ended && try < settleTries { // the writer that found it full stores that in a moment
				time.Sleep(settleEvery)
				continue
			}
		} else {
			if end, err = s.filled(); err != nil {
				return err
			}
			count = (end - headerBytes) / minRecord
		}
		if end == headerBytes {
			return os.Remove(f.path)
		}
		if x, err = j.index(s, end, count); err != nil {
			return err
		}
		if x.unsettled = live != nil && x.lost > 0; !x.unsettled || try >= settleTries {
			break
		}
		time.Sleep(settleEvery)
	}
	if x.count == 0 {
		return errNothing
	}
	if err := finishFile(s, end, x.count); err != nil {
		return err
	}
	return x.write(f.indexPath(), j.rest())
}

// rest returns a function that pauses the sealer unless it must hurry.
func (j *Journal) rest() func() {
	return func() {
		select {
		case <-j.stop:
			return
		default:
		}
		j.mu.Lock()
		hurry := len(j.queue) > 2
		j.mu.Unlock()
		if !hurry {
			time.Sleep(restFor)
		}
	}
}

func (j *Journal) index(s *segment, end, expect uint64) (*indexBuilder, error) {
	x := newIndexBuilder(s, expect)
	w := newWalk(s, headerBytes, end)
	rest := j.rest()
	for n := 1; ; n++ {
		v, more, err := w.forward(1 << 20)
		if err != nil {
			return nil, err
		}
		if v == nil && !more {
			break
		}
		if v != nil {
			x.add(v, w.off, s.seed)
		}
		if n%restEvery == 0 {
			rest()
		}
	}
	x.lost = w.lost
	return x, nil
}

// finishFile cuts the file behind its last byte in use and makes it durable.
func finishFile(s *segment, end, count uint64) error {
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrPermission) {
		return nil // somebody keeps it read-only; the index is still worth having
	}
	if err != nil {
		return err
	}
	defer f.Close()
	_, _, ended, err := s.used()
	if err != nil {
		return err
	}
	if !ended {
		// Tells followers that nothing more comes here.
		var w [8]byte
		binary.NativeEndian.PutUint64(w[:], count<<countShift|end)
		if _, err := f.WriteAt(w[:], offEnd); err != nil {
			return err
		}
	}
	if uint64(len(s.mem)) > end {
		if err := f.Truncate(int64(end)); err != nil {
			return err
		}
	}
	return f.Sync()
}
