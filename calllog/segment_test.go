package calllog

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// writtenSegment is an unsealed file of n calls, as a dead process leaves it, and
// the ends of its records.
func writtenSegment(t testing.TB, dir string, n int) (*segment, []uint64) {
	t.Helper()
	s, err := createSegment(dir, 1, minFileBytes, "gw-1", began)
	if err != nil {
		t.Fatal(err)
	}
	var ends []uint64
	for i := range n {
		r := call(i)
		if i%3 == 2 {
			r = refused(i, "subscription.pending")
		}
		ends = append(ends, mustStore(t, s, r))
	}
	return s, ends
}

func mustStore(t testing.TB, s *segment, r *Record) (end uint64) {
	t.Helper()
	var e encoder
	e.measure(r)
	off, result := s.store(&e)
	if result != storedWell {
		t.Fatalf("storing: %d", result)
	}
	return off + e.size
}

// all returns the records of a directory, oldest first.
func all(t testing.TB, dir string) []*Record {
	t.Helper()
	r, err := OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []*Record
	if err := r.Query(context.Background(), Filter{}, func(rec *Record) bool { out = append(out, rec); return true }); err != nil {
		t.Fatal(err)
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// forward reads a file in the order in which it is indexed and followed.
func forward(t testing.TB, f file) (out []*Record) {
	t.Helper()
	s, err := openSegment(f)
	if err != nil {
		return nil
	}
	defer s.close()
	w := newWalk(s, headerBytes, s.limit)
	for {
		v, more, err := w.forward(1 << 30)
		if err != nil {
			t.Fatal(err)
		}
		if v == nil {
			if more {
				continue
			}
			return out
		}
		rec := new(Record)
		v.decode(s.seed, rec)
		out = append(out, rec)
	}
}

func TestTornTail(t *testing.T) {
	const n = 5
	_, ends := writtenSegment(t, memoryDir(t), n) // for the ends only
	dir := memoryDir(t)
	s, _ := writtenSegment(t, dir, n)
	want := all(t, dir)
	if len(want) != n {
		t.Fatalf("%d records, want %d", len(want), n)
	}
	image := append([]byte(nil), s.mem[:ends[n-1]+2*headerBytes]...)
	copyDir := memoryDir(t)
	f := file{1, segmentPath(copyDir, 1)}
	o, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()

	t.Run("cut", func(t *testing.T) {
		if _, err := o.WriteAt(image, 0); err != nil {
			t.Fatal(err)
		}
		for cut := len(image); cut >= 0; cut-- {
			if cut > int(ends[n-1])+100 && cut%501 != 0 || cut < headerBytes && cut%97 != 0 {
				continue
			}
			if err := o.Truncate(int64(cut)); err != nil {
				t.Fatal(err)
			}
			whole := 0
			for whole < n && ends[whole] <= uint64(cut) {
				whole++
			}
			for way, got := range map[string][]*Record{"back": all(t, copyDir), "forward": forward(t, f)} {
				if len(got) != whole {
					t.Fatalf("cut at %d, read %s: %d records, want %d", cut, way, len(got), whole)
				}
				for i := range got {
					if diff := cmp.Diff(want[i], got[i], sameAddr); diff != "" {
						t.Fatalf("cut at %d, read %s: record %d differs\n%s", cut, way, i, diff)
					}
				}
			}
		}
	})

	t.Run("garbled", func(t *testing.T) {
		if _, err := o.WriteAt(image, 0); err != nil {
			t.Fatal(err)
		}
		for at := range len(image) {
			unused := at < headerBytes && at >= offHeaderSum+4 && at < offTail || at > offEnd+8 && at < headerBytes
			if (unused || at > int(ends[n-1])+64) && at%101 != 0 {
				continue
			}
			if _, err := o.WriteAt([]byte{image[at] ^ 0xA5}, int64(at)); err != nil {
				t.Fatal(err)
			}
			for way, got := range map[string][]*Record{"back": all(t, copyDir), "forward": forward(t, f)} {
				if at < offHeaderSum+4 {
					if len(got) != 0 {
						t.Fatalf("header garbled at %d: %d records read %s", at, len(got), way)
					}
					continue
				}
				// Every record but the one that was hit is as it was; that one is as it
				// was or absent.
				var left []*Record
				for i, r := range want {
					hit := uint64(at) < ends[i] && (i == 0 && at >= headerBytes || i > 0 && uint64(at) >= ends[i-1])
					if hit && (len(got) <= len(left) || got[len(left)].ID != r.ID) {
						continue
					}
					left = append(left, r)
				}
				if diff := cmp.Diff(left, got, sameAddr); diff != "" {
					t.Fatalf("garbled at %d, read %s (-want +got)\n%s", at, way, diff)
				}
			}
			if _, err := o.WriteAt(image[at:at+1], int64(at)); err != nil {
				t.Fatal(err)
			}
		}
	})

	// A journal that is opened over such a file seals it without losing more.
	t.Run("sealed afterwards", func(t *testing.T) {
		for at := headerBytes; at < int(ends[n-1]); at += 307 {
			dir := memoryDir(t)
			garbled := append([]byte(nil), image...)
			garbled[at] ^= 0xA5
			if err := os.WriteFile(segmentPath(dir, 1), garbled, 0o600); err != nil {
				t.Fatal(err)
			}
			before := all(t, dir)
			j := tested(t, dir, Options{})
			eventually(t, "the old file is indexed", func() bool { _, err := os.Stat(file{1, segmentPath(dir, 1)}.indexPath()); return err == nil })
			if diff := cmp.Diff(before, all(t, dir), sameAddr); diff != "" || len(before) < n-1 {
				t.Fatalf("garbled at %d: %d records before (-before +after sealing)\n%s", at, len(before), diff)
			}
			for _, r := range before {
				find(t, j.Reader, r.ID)
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// hole reserves room as a writer does that dies before it commits. With filled, it
// dies just before the commit word.
func hole(t testing.TB, s *segment, r *Record, filled bool) {
	t.Helper()
	var e encoder
	e.measure(r)
	off := s.tail.Add(1<<countShift|e.size)&bytesMask - e.size
	if filled {
		e.put(s.mem[off:off+e.size], s.mark, s.seed)
	}
}

// reserve reserves room for a record as a slow writer does, and returns what fills it.
func reserve(t testing.TB, s *segment, r *Record) (fill func()) {
	t.Helper()
	e := new(encoder)
	e.measure(r)
	off := s.tail.Add(1<<countShift|e.size)&bytesMask - e.size
	return func() {
		b := s.mem[off : off+e.size]
		e.put(b, s.mark, s.seed)
		word(b).Store(uint64(s.mark) | e.size<<32)
	}
}

func TestReadersPassHoles(t *testing.T) {
	for _, filled := range []bool{false, true} {
		dir := memoryDir(t)
		s, _ := writtenSegment(t, dir, 3)
		hole(t, s, call(100), filled)
		mustStore(t, s, call(3))
		hole(t, s, refused(101, "x"), filled)
		hole(t, s, refused(102, "x"), filled)
		mustStore(t, s, call(4))
		mustStore(t, s, call(5))
		hole(t, s, call(103), filled)

		ids := func(recs []*Record) (out []uint64) {
			for _, r := range recs {
				out = append(out, binary.BigEndian.Uint64(r.ID[8:]))
			}
			return out
		}
		want := []uint64{0, 1, 2, 3, 4, 5}
		if diff := cmp.Diff(want, ids(all(t, dir))); diff != "" {
			t.Errorf("backwards, filled %v (-want +got)\n%s", filled, diff)
		}
		if diff := cmp.Diff(want, ids(forward(t, file{1, s.path}))); diff != "" {
			t.Errorf("forwards, filled %v (-want +got)\n%s", filled, diff)
		}
		// Sealing keeps all and tells that nothing can come any more.
		j := tested(t, dir, Options{})
		eventually(t, "the file is indexed", func() bool { x, err := openIndex(file{1, s.path}); return err == nil && x.file.Close() == nil })
		if diff := cmp.Diff(want, ids(all(t, dir))); diff != "" {
			t.Errorf("sealed, filled %v (-want +got)\n%s", filled, diff)
		}
		find(t, j.Reader, call(4).ID)
		if _, ok, _ := j.Find(call(103).ID); ok {
			t.Error("a record that was never committed is found")
		}
	}
}

// A client may put the bytes of a record into its request. They are not taken for
// one when the record around them is damaged.
func TestRecordsWithinRecordsAreNotBelieved(t *testing.T) {
	dir := memoryDir(t)
	s, _ := writtenSegment(t, dir, 1)
	fake := encode(refused(66, "forged"), s.mark+2, s.seed+1)
	r := call(1)
	r.Detail = bytes.Repeat(fake, 3)
	from := mustStore(t, s, r) - uint64(len(encode(r, 1, 1)))
	mustStore(t, s, call(2))
	clear(s.mem[from : from+8])
	for way, got := range map[string][]*Record{"back": all(t, dir), "forward": forward(t, file{1, s.path})} {
		if len(got) != 2 || got[0].ID != call(0).ID || got[1].ID != call(2).ID {
			t.Errorf("read %s: %d records", way, len(got))
		}
	}
}

func TestUnreadableFilesAreLeftAlone(t *testing.T) {
	dir := memoryDir(t)
	s, _ := writtenSegment(t, memoryDir(t), 4)
	good := append([]byte(nil), s.mem[:headerBytes+2048]...)
	future := append([]byte(nil), good...)
	future[12] = 9
	other := append([]byte(nil), good...)
	other[8], other[11] = other[11], other[8]
	damaged := append([]byte(nil), good...)
	damaged[30]++
	files := map[string][]byte{
		"0000000001.journal": []byte("PAR1 is not ours"),
		"0000000002.journal": {},
		"0000000003.journal": future,
		"0000000004.journal": other,
		"0000000005.journal": damaged,
		"0000000006.journal": good[:headerBytes-1],
		"0000000007.journal": bytes.Repeat([]byte("PAR1"), 3000),
		"notes.txt":          []byte("hello"),
		"7.journal":          []byte("not a name of ours"),
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "0000000008.journal"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere/at/all", filepath.Join(dir, "0000000009.journal")); err != nil {
		t.Fatal(err)
	}
	j := tested(t, dir, Options{KeepBytes: 1})
	j.Append(call(1))
	find(t, j.Reader, call(1).ID)
	want := map[string]string{
		"0000000001.journal": "16 bytes are too few for a journal file",
		"0000000002.journal": "0 bytes are too few for a journal file",
		"0000000003.journal": "format version 9; this build reads version 1",
		"0000000004.journal": "written on a machine of the other byte order",
		"0000000005.journal": "damaged header",
		"0000000006.journal": "4095 bytes are too few for a journal file",
		"0000000007.journal": "not a journal file",
		"0000000008.journal": "not a regular file",
	}
	got := make(map[string]string)
	for _, u := range j.Stats().Unreadable {
		got[u.Name] = u.Why
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("unreadable (-want +got)\n%s", diff)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for name, b := range files {
		if after, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(after, b) {
			t.Errorf("%s was changed (%v)", name, err)
		}
	}
}

// A file that cannot be read is no reason to lose count of those behind it: retention would forget them.
func TestUnreadableFileBeforeOthers(t *testing.T) {
	dir := memoryDir(t)
	j := tested(t, dir, Options{})
	j.Append(call(1))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "0000000001.journal"), []byte("PAR1 is not ours"), 0o600); err != nil {
		t.Fatal(err)
	}
	j = tested(t, dir, Options{})
	for range 2 { // the second time, what was read before is known
		if err := j.refresh(); err != nil {
			t.Fatal(err)
		}
		st := j.Stats()
		if len(st.Unreadable) != 1 || st.Unreadable[0].Name != "0000000001.journal" || st.Records != 1 {
			t.Errorf("%d records, unreadable %v", st.Records, st.Unreadable)
		}
	}
}

// A flush covers what the one before may have missed, and what was amended.
func TestFlushCoversWhatChanged(t *testing.T) {
	s, ends := writtenSegment(t, memoryDir(t), 5)
	check := func(what string, from, to uint64) {
		t.Helper()
		gotFrom, gotTo, end, err := s.unflushed(true)
		if err != nil || gotFrom != from || gotTo != to {
			t.Errorf("%s: from %d to %d (%v), want from %d to %d", what, gotFrom, gotTo, err, from, to)
		}
		s.flushed = [2]uint64{s.flushed[1], end}
	}
	check("at first", 0, ends[4])
	more := mustStore(t, s, call(6))
	check("a writer may have been late", 0, more)
	check("and again", ends[4], more)
	for _, off := range []uint64{ends[2], ends[0], ends[1]} {
		if err := s.amend(off, ClientGone, 1, 1); err != nil {
			t.Fatal(err)
		}
	}
	check("amended", ends[0], more)
	check("quiet", more, more)
}

// The page that records still come to waits until they come to another, or no more come.
func TestFlushLeavesTheTailPage(t *testing.T) {
	s, _ := writtenSegment(t, memoryDir(t), 5)
	check := func(what string, want func(end uint64) uint64) {
		t.Helper()
		_, to, end, err := s.unflushed(false)
		if err != nil || to != want(end) {
			t.Errorf("%s: up to %d (%v), want %d of %d", what, to, err, want(end), end)
		}
		s.flushed = [2]uint64{s.flushed[1], end}
	}
	whole := func(end uint64) uint64 { return end }
	check("at first", pageOf)
	check("quiet", whole)
	mustStore(t, s, call(6))
	check("busy", pageOf)
	for range 100 {
		mustStore(t, s, call(7))
	}
	check("some pages on", pageOf)
	check("quiet again", whole)
	if from, _, end, _ := s.unflushed(false); from != end {
		t.Errorf("from %d to %d, and nothing came", from, end)
	}
}
