package calllog

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// logged collects log lines.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}

// Somebody cuts the active file short: the process survives the fault, the record
// at hand goes into the next file.
func TestFileCutUnderTheJournal(t *testing.T) {
	for _, size := range []int64{0, 100, headerBytes, headerBytes + 300} {
		j := tested(t, memoryDir(t), Options{Sync: time.Hour})
		n := 0
		for ; n < 20; n++ {
			j.Append(call(n))
		}
		ref := j.Append(call(n))
		if err := os.Truncate(j.active.Load().path, size); err != nil {
			t.Fatal(err)
		}
		j.Amend(ref, ClientGone, 1, time.Second) // may work within the page that is left
		var group sync.WaitGroup
		for g := range 4 {
			group.Go(func() {
				for i := range 200 {
					r := call(i)
					r.ID = goroutineID(g+1, i)
					if j.Append(r).Dropped() {
						t.Errorf("cut at %d: a record was dropped", size)
					}
				}
			})
		}
		group.Wait()
		if st := j.Stats(); st.Broken != 1 || !strings.Contains(st.LastError, "cut short") {
			t.Errorf("cut at %d: %d broken files, last error %q", size, st.Broken, st.LastError)
		}
		// What went into the page that was left is lost with the file, the rest is there.
		find(t, j.Reader, goroutineID(1, 199))
		find(t, j.Reader, goroutineID(4, 199))
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A file that is cut and grown again shows no fault, but zeros where its header was.
func TestFileEmptiedUnderTheJournal(t *testing.T) {
	j := tested(t, memoryDir(t), Options{Sync: time.Hour})
	j.Append(call(1))
	path := j.active.Load().path
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, minFileBytes); err != nil {
		t.Fatal(err)
	}
	j.Append(call(2))
	find(t, j.Reader, call(2).ID)
	if st := j.Stats(); st.Broken != 1 {
		t.Errorf("stats: %+v", st)
	}
}

// Readers meet the same fault: the file ends for them.
func TestFileCutUnderReaders(t *testing.T) {
	dir := memoryDir(t)
	s, _ := writtenSegment(t, dir, 500)
	r, err := openSegment(file{1, s.path})
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	end, err := r.extent()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.path, headerBytes); err != nil {
		t.Fatal(err)
	}
	if _, _, err := newWalk(r, end, 0).back(func(view) bool { return true }); err != errFault {
		t.Errorf("reading back: %v", err)
	}
	if _, _, err := newWalk(r, headerBytes, end).forward(1 << 30); err != errFault {
		t.Errorf("reading forward: %v", err)
	}
	if _, err := r.filled(); err != errFault {
		t.Errorf("filled: %v", err)
	}
	if err := os.Truncate(s.path, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := r.used(); err != errFault {
		t.Errorf("used: %v", err)
	}
	if _, err := r.extent(); err != errFault {
		t.Errorf("extent: %v", err)
	}
	if err := s.amend(headerBytes, 0, 0, 0); err != errFault {
		t.Errorf("amend: %v", err)
	}
	if err := s.finish(); err != errFault {
		t.Errorf("finish: %v", err)
	}
}

// Other faults are bugs and must not be swallowed.
func TestOtherPanicsGoOn(t *testing.T) {
	j := tested(t, memoryDir(t), Options{})
	defer func() {
		if recover() == nil {
			t.Error("Append(nil) did not panic")
		}
	}()
	j.Append(nil)
}

func TestDirectoryDeletedWhileRunning(t *testing.T) {
	dir := memoryDir(t) + "/calls"
	var log logged
	j := tested(t, dir, Options{Sync: 10 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	j.Append(call(1))
	eventually(t, "a segment is in reserve", func() bool { j.mu.Lock(); defer j.mu.Unlock(); return j.next != nil })
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	n := 1
	eventually(t, "records are found again", func() bool {
		n++
		if j.Append(call(n)).Dropped() {
			t.Fatal("a record was dropped")
		}
		_, ok, _ := j.Find(call(n).ID)
		return ok
	})
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "writes there") {
		t.Errorf("the new directory is not locked: %v", err)
	}
	if st := j.Stats(); st.Broken == 0 || !st.Recording {
		t.Errorf("stats: %+v", st)
	}
}

// Without room for the next file the journal drops, counts, says so once, and goes
// on by itself.
func TestNoFileCanBeMade(t *testing.T) {
	dir := memoryDir(t)
	var log logged
	tune := usualTuning()
	tune.retry = 20 * time.Millisecond
	j := tuned(t, dir, Options{Sync: time.Hour, Logger: slog.New(slog.NewTextHandler(&log, nil))}, tune)
	eventually(t, "a segment is in reserve", func() bool { j.mu.Lock(); defer j.mu.Unlock(); return j.next != nil })
	// A directory in the place of every name that a file would be made under.
	first := j.active.Load().seq
	for seq := first + 2; seq < first+5; seq++ {
		if err := os.Mkdir(segmentPath(dir, seq)+newSuffix, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for ; j.Stats().Dropped["no-file"] < 1000; n++ {
		start := time.Now()
		j.Append(call(n))
		if took := time.Since(start); took > 5*time.Second {
			t.Fatalf("Append took %v", took)
		}
	}
	st := j.Stats()
	if st.Recording || st.Appended+st.Dropped["no-file"] != uint64(n) || !strings.Contains(st.LastError, "is a directory") {
		t.Errorf("after %d records: %+v", n, st)
	}
	find(t, j.Reader, call(0).ID) // what was taken stays to be read
	for seq := first + 2; seq < first+5; seq++ {
		if err := os.Remove(segmentPath(dir, seq) + newSuffix); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the journal records again", func() bool { return j.Stats().Recording })
	if j.Append(call(n)).Dropped() {
		t.Error("dropped after the trouble")
	}
	find(t, j.Reader, call(n).ID)
	if log.count("makes no new file") != 1 || log.count("has room again") != 1 {
		t.Errorf("the log:\n%s", log.b.String())
	}
}

// When the next file is late, Append waits for it, but not longer than its patience.
func TestNextFileIsLate(t *testing.T) {
	stall := make(chan struct{}, 100)
	tune := usualTuning()
	tune.patience = 50 * time.Millisecond
	tune.stall = func() { <-stall }
	stall <- struct{}{}
	stall <- struct{}{}
	j := tuned(t, memoryDir(t), Options{Sync: time.Hour}, tune)
	defer close(stall)
	rotate(t, j)
	s := j.active.Load()
	j.retire(s, s.finish())

	start := time.Now()
	if !j.Append(call(1)).Dropped() {
		t.Fatal("where did the record go?")
	}
	if took := time.Since(start); took < tune.patience || took > 5*time.Second {
		t.Errorf("Append gave up after %v", took)
	}
	if got := j.Stats().Dropped["slow"]; got != 1 {
		t.Errorf("%d dropped as slow", got)
	}

	j.tuning.patience = time.Minute
	done := make(chan Ref)
	go func() { done <- j.Append(call(2)) }()
	select {
	case <-done:
		t.Error("Append did not wait")
	case <-time.After(20 * time.Millisecond):
	}
	stall <- struct{}{}
	if (<-done).Dropped() {
		t.Error("dropped although the file came in time")
	}
	find(t, j.Reader, call(2).ID)
}

func TestReadOnlyDirectory(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write anywhere")
	}
	dir := memoryDir(t)
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "permission denied; it needs a directory") {
		t.Errorf("error %v", err)
	}
}

func TestStrangersFileTookTheNumber(t *testing.T) {
	dir := memoryDir(t)
	j := tested(t, dir, Options{Sync: time.Hour})
	eventually(t, "a segment is in reserve", func() bool { j.mu.Lock(); defer j.mu.Unlock(); return j.next != nil })
	stranger := segmentPath(dir, j.active.Load().seq+2)
	if err := os.WriteFile(stranger, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		j.Append(call(i))
		rotate(t, j)
	}
	settled(t, j)
	for i := range 4 {
		find(t, j.Reader, call(i).ID)
	}
	if b, err := os.ReadFile(stranger); err != nil || string(b) != "mine" {
		t.Errorf("the stranger's file: %q, %v", b, err)
	}
	eventually(t, "Stats name it", func() bool { return len(j.Stats().Unreadable) == 1 })
}

func TestWriteZeros(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/zeros")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := writeZeros(f, 1<<20+5); err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != 1<<20+5 {
		t.Errorf("%v, %v", info, err)
	}
}
