package calllog

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSealedIsFoundByIndex(t *testing.T) {
	j := tested(t, memoryDir(t), Options{FileBytes: 1 << 20})
	const n = 2500
	for i := range n {
		j.Append(call(i))
	}
	rotate(t, j)
	settled(t, j)
	before := j.looked.Load()
	for i := range n {
		find(t, j.Reader, call(i).ID)
	}
	for i := n; i < 2*n; i++ {
		for _, id := range []ID{call(i).ID, NewID(began, 7, uint64(i))} {
			if _, ok, err := j.Find(id); ok || err != nil {
				t.Fatalf("unknown id %s: found %v, error %v", id, ok, err)
			}
		}
	}
	if got := j.looked.Load() - before; got != 0 {
		t.Errorf("looked at %d records, want only those that the index names", got)
	}
}

// A long call ends in a later file than its id suggests.
func TestLongCallsAreFound(t *testing.T) {
	j := tested(t, memoryDir(t), Options{})
	for i := range 3 {
		j.Append(call(1000 * i))
		j.Append(call(i)) // begun in the time of the first file
		rotate(t, j)
	}
	settled(t, j)
	for i := range 3 {
		find(t, j.Reader, call(i).ID)
	}
}

func TestDamagedIndex(t *testing.T) {
	dir := memoryDir(t)
	j := tested(t, dir, Options{FileBytes: 1 << 20})
	const n = 700 // two blocks
	for i := range n {
		j.Append(call(i))
	}
	s := j.active.Load()
	rotate(t, j)
	settled(t, j)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	path := file{s.seq, s.path}.indexPath()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := &Reader{dir: dir}
	check := func(what string) {
		t.Helper()
		for i := 0; i < n; i += 69 {
			if _, ok, err := r.Find(call(i).ID); !ok || err != nil {
				t.Fatalf("%s: record %d is not found (%v)", what, i, err)
			}
		}
		if got, err := r.Last(1, Filter{Path: call(3).Path, API: "orders"}); len(got) != 1 || err != nil {
			t.Fatalf("%s: %d records, %v", what, len(got), err)
		}
	}
	o, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for at := 0; at < len(good); at++ {
		if at > indexHeader+16 && at%7 != 0 || at < indexHeader && at%3 != 0 {
			continue
		}
		if _, err := o.WriteAt([]byte{good[at] ^ 0x41}, int64(at)); err != nil {
			t.Fatal(err)
		}
		check("damaged")
		if _, err := o.WriteAt(good[at:at+1], int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	for _, size := range []int{0, 100, indexHeader, len(good) - 8, len(good) - 1} {
		if err := os.WriteFile(path, good[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		check("cut")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	check("missing")

	// The next journal makes it anew.
	tested(t, dir, Options{})
	eventually(t, "the index is as before", func() bool { b, _ := os.ReadFile(path); return bytes.Equal(b, good) })
}

// An index of another file is of no use.
func TestExchangedIndexes(t *testing.T) {
	dir := memoryDir(t)
	j := tested(t, dir, Options{})
	var files [2]file
	for i := range files {
		s := j.active.Load()
		files[i] = file{s.seq, s.path}
		j.Append(call(i))
		rotate(t, j)
	}
	settled(t, j)
	a, b, c := files[0].indexPath(), files[1].indexPath(), filepath.Join(dir, "between")
	for _, names := range [][2]string{{a, c}, {b, a}, {c, b}} {
		if err := os.Rename(names[0], names[1]); err != nil {
			t.Fatal(err)
		}
	}
	for i := range files {
		find(t, j.Reader, call(i).ID)
		if got, err := j.Last(1, Filter{Until: call(i).Start.Add(1), Since: call(i).Start}); len(got) != 1 || err != nil {
			t.Errorf("%d records, %v", len(got), err)
		}
	}
}

// A writer may be so late with its record that the file is sealed without it. It
// is found all the same.
func TestLateRecordIsFound(t *testing.T) {
	j := tested(t, memoryDir(t), Options{})
	s := j.active.Load()
	j.Append(call(1))
	off := s.tail.Load() & bytesMask
	hole(t, s, call(2), true)
	j.Append(call(3))
	rotate(t, j)
	settled(t, j)
	if x, err := openIndex(file{s.seq, s.path}); err != nil || x.count != 2 || x.file.Close() != nil {
		t.Fatalf("the index: %v", err)
	}
	if _, ok, _ := j.Find(call(2).ID); ok {
		t.Error("found before it was committed")
	}
	word(s.mem[off:]).Store(uint64(s.mark) | uint64(len(encode(call(2), 1, 1)))<<32)
	find(t, j.Reader, call(2).ID)
}

func TestSortEntries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entries := rapid.SliceOfN(rapid.Uint64(), 0, 3000).Draw(t, "entries")
		want := slices.Sorted(slices.Values(entries))
		if sortEntries(entries, func() {}); !slices.Equal(want, entries) {
			t.Fatal("not sorted")
		}
	})
}

// Many ids with one hash, over several blocks, are told apart.
func TestLookupWithCollisions(t *testing.T) {
	s, _ := writtenSegment(t, memoryDir(t), 1)
	b := newIndexBuilder(s, 10)
	id := call(1).ID
	hash := uint64(idHash(id)) << 32
	for i := range 3000 {
		e := hash | uint64(i)
		if i < 400 {
			e = 1<<32 | uint64(i)
		}
		if i >= 2000 {
			e = 1<<64 - 1 - uint64(i)
		}
		b.entries = append(b.entries, e)
	}
	b.count, b.seq, b.maxID = 3000, 1, ID(bytes.Repeat([]byte{0xFF}, 16))
	b.minID = ID{}
	f := file{1, s.path}
	if err := b.write(f.indexPath(), func() {}); err != nil {
		t.Fatal(err)
	}
	x, err := openIndex(f)
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	next := uint64(400)
	if err := x.lookup(id, func(off uint64) bool {
		if off != next {
			t.Fatalf("offset %d, want %d", off, next)
		}
		next++
		return false
	}); err != nil || next != 2000 {
		t.Errorf("ended at %d, %v", next, err)
	}
}

// What could not be sealed is found by walking, and sealed when it can be.
func TestSealingIsTriedAgain(t *testing.T) {
	tune := usualTuning()
	tune.retention = 20 * time.Millisecond
	j := tuned(t, memoryDir(t), Options{}, tune)
	s := j.active.Load()
	inTheWay := file{s.seq, s.path}.indexPath() + newSuffix
	if err := os.Mkdir(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(inTheWay+"/x", 0o700); err != nil { // keeps it from being removed
		t.Fatal(err)
	}
	j.Append(call(1))
	rotate(t, j)
	settled(t, j)
	find(t, j.Reader, call(1).ID)
	if st := j.Stats(); st.Records != 1 || !strings.Contains(st.LastError, "is a directory") {
		t.Errorf("stats: %+v", st)
	}
	if err := os.RemoveAll(inTheWay); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the file has its index", func() bool { _, err := os.Stat(file{s.seq, s.path}.indexPath()); return err == nil })
}
