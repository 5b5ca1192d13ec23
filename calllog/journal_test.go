package calllog

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// rotate puts the next segment in the place of the active one, as age does.
func rotate(t testing.TB, j *Journal) {
	t.Helper()
	eventually(t, "a segment is in reserve", func() bool { j.mu.Lock(); defer j.mu.Unlock(); return j.next != nil })
	s := j.active.Load()
	j.retire(s, s.finish())
}

// settled waits until every full segment is sealed.
func settled(t testing.TB, j *Journal) {
	t.Helper()
	waiting := func() int { j.mu.Lock(); defer j.mu.Unlock(); return len(j.queue) }
	// The sealer rests often, and a busy machine wakes it late: one file may take long.
	last, since := waiting(), time.Now()
	for n := last; n > 0; n = waiting() {
		if n != last {
			last, since = n, time.Now()
		}
		if time.Since(since) > 3*time.Minute {
			t.Fatalf("still not: full files are sealed; %d wait", n)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func TestAppendedIsFoundAtOnce(t *testing.T) {
	j := tested(t, memoryDir(t), Options{})
	for i := range 3000 { // over several files
		r := call(i)
		if i%10 == 0 {
			r = refused(i, "rate-limit.exceeded")
		}
		if j.Append(r).Dropped() {
			t.Fatalf("record %d was dropped", i)
		}
		if diff := cmp.Diff(*r, find(t, j.Reader, r.ID), sameAddr); diff != "" {
			t.Fatalf("record %d (-appended +found)\n%s", i, diff)
		}
	}
	if _, ok, err := j.Find(call(5000).ID); ok || err != nil {
		t.Errorf("an unknown id: found %v, error %v", ok, err)
	}
	if st := j.Stats(); st.Appended != 3000 || st.Records != 3000 || st.Files < 4 {
		t.Errorf("stats: %+v", st)
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	j := tested(t, memoryDir(t), Options{FileBytes: 16 << 20, Sync: time.Hour})
	time.Sleep(50 * time.Millisecond) // until the reserve is made
	plain, long := call(1), refused(2, "subscription.pending")
	long.Path = strings.Repeat("/ä", 2000)
	for name, r := range map[string]*Record{"plain": plain, "refused and cut": long} {
		if n := testing.AllocsPerRun(1000, func() {
			ref := j.Append(r)
			if ref.Dropped() {
				t.Error("dropped")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations per record, want 0", name, n)
		}
	}
	ref := j.Append(plain)
	if n := testing.AllocsPerRun(100, func() { j.Amend(ref, ClientGone, 1, time.Second) }); n != 0 {
		t.Errorf("Amend: %v allocations, want 0", n)
	}
}

func TestAmend(t *testing.T) {
	j := tested(t, t.TempDir(), Options{})
	r := call(1)
	r.Flags = Streamed
	ref := j.Append(r)
	j.Append(call(2))
	if !j.Amend(ref, ClientGone, 99, 7*time.Second) {
		t.Fatal("the record is there, but Amend says no")
	}
	want := *r
	want.Flags, want.BytesOut, want.Duration = Streamed|ClientGone, 99, 7*time.Second
	if diff := cmp.Diff(want, find(t, j.Reader, r.ID), sameAddr); diff != "" {
		t.Errorf("amended (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(*call(2), find(t, j.Reader, call(2).ID), sameAddr); diff != "" {
		t.Errorf("the neighbour (-want +got)\n%s", diff)
	}
	if got, _ := j.Last(10, Filter{Flags: ClientGone}); len(got) != 1 {
		t.Errorf("%d records with the flag, want 1", len(got))
	}

	// Also when its file was sealed meanwhile.
	rotate(t, j)
	path := j.active.Load().path
	ref = j.Append(call(3))
	rotate(t, j)
	settled(t, j)
	if !j.Amend(ref, ClientGone, 1, time.Second) {
		t.Error("the record is in a sealed file, but Amend says no")
	}
	if err := j.Sync(); err != nil {
		t.Errorf("syncing what was amended: %v", err)
	}
	if got, _ := j.Last(10, Filter{Flags: ClientGone}); len(got) != 2 {
		t.Errorf("%d records with the flag, want 2", len(got))
	}

	// Nothing happens when the file or the record is gone.
	if j.Amend(Ref{}, ClientGone, 1, time.Second) {
		t.Error("a dropped record was amended")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	j.Amend(ref, ClientGone, 1, time.Second)
}

func goroutineID(g, n int) ID { return NewID(began, uint16(g), uint64(n)) }

func split(id ID) (g, n int) {
	return int(binary.BigEndian.Uint16(id[6:8])), int(binary.BigEndian.Uint64(id[8:]))
}

// Many goroutines append over many rotations while readers query and follow.
// Nothing is lost, and each goroutine's records keep their order.
func TestConcurrentAppend(t *testing.T) {
	const goroutines, each = 8, 1500
	dir := t.TempDir()
	j := tested(t, dir, Options{Sync: 10 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()

	// A follower sees everything, in order.
	var followers, appenders sync.WaitGroup
	for f := range 2 {
		r, err := OpenReader(dir)
		if err != nil {
			t.Fatal(err)
		}
		if f == 1 {
			r = j.Reader
		}
		started := make(chan struct{})
		var once sync.Once
		next := make([]int, goroutines)
		seen := 0
		followers.Go(func() {
			err := r.Follow(ctx, Filter{API: "orders"}, func(rec *Record) bool {
				g, n := split(rec.ID)
				if g == 1000 {
					once.Do(func() { close(started) })
					return true
				}
				if n != next[g] {
					t.Errorf("follower %d: goroutine %d: record %d where %d is next", f, g, n, next[g])
					return false
				}
				next[g]++
				seen++
				return seen < goroutines*each
			})
			if err != nil {
				t.Errorf("follower %d saw %d records: %v", f, seen, err)
			}
		})
		for running := false; !running; {
			r := call(0)
			r.ID = goroutineID(1000, 0)
			j.Append(r)
			select {
			case <-started:
				running = true
			case <-time.After(5 * time.Millisecond):
			}
		}
	}

	var appended [goroutines]atomic.Int64
	stop := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			last := make([]int, goroutines)
			for g := range last {
				last[g] = int(appended[g].Load()) - 1
			}
			newest := make([]int, goroutines)
			for g := range newest {
				newest[g] = -1
			}
			seen := 0
			err := j.Query(ctx, Filter{}, func(rec *Record) bool {
				g, n := split(rec.ID)
				if g == 1000 {
					return true
				}
				if newest[g] < 0 && n < last[g] {
					t.Errorf("goroutine %d: the newest is %d, although %d was appended before", g, n, last[g])
				}
				if newest[g] >= 0 && n != newest[g]-1 {
					t.Errorf("goroutine %d: %d before %d", g, n, newest[g])
				}
				newest[g] = n
				seen++
				return seen < 3000
			})
			if err != nil {
				t.Error(err)
			}
		}
	})
	readers.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if at := int(appended[n%goroutines].Load()) - 1; at >= 0 {
				find(t, j.Reader, goroutineID(n%goroutines, at))
			}
		}
	})

	for g := range goroutines {
		appenders.Go(func() {
			for n := range each {
				r := call(n)
				if n%7 == 0 {
					r = refused(n, "quota.spent")
				}
				r.ID = goroutineID(g, n)
				ref := j.Append(r)
				if ref.Dropped() {
					t.Errorf("record %d of goroutine %d was dropped: %v", n, g, j.Stats().Dropped)
				}
				if n%50 == 0 {
					j.Amend(ref, ClientGone, 1, time.Second)
				}
				appended[g].Add(1)
			}
		})
	}
	appenders.Wait()
	close(stop)
	readers.Wait()
	done := make(chan struct{})
	go func() { followers.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		cancel()
		<-done
	}
	settled(t, j)
	for g := range goroutines {
		for n := 0; n < each; n += 101 {
			find(t, j.Reader, goroutineID(g, n))
		}
	}
	if st := j.Stats(); st.Appended < goroutines*each || st.Appended != st.Records || st.Broken != 0 {
		t.Errorf("stats: %+v", st)
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		j := tested(t, dir, Options{Node: "gw-1"})
		for i := range 10 {
			j.Append(call(round*10 + i))
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if j.Append(call(99)); j.Stats().Dropped["closed"] != 1 {
			t.Error("a record after Close is not counted as dropped")
		}
		if err := j.Close(); err != nil {
			t.Errorf("closing again: %v", err)
		}
	}
	names, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(names) != 7 { // three segments with their indexes, and the lock
		t.Errorf("files: %q", names)
	}
	for i, r := range all(t, dir) {
		if diff := cmp.Diff(call(i), r, sameAddr); diff != "" {
			t.Errorf("record %d (-want +got)\n%s", i, diff)
		}
	}
	r, err := OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := r.Stats(); err != nil || st.Records != 30 || st.Files != 3 || !st.Oldest.Equal(began) {
		t.Errorf("stats: %+v, %v", st, err)
	}
}

func TestOneNodePerDirectory(t *testing.T) {
	dir := memoryDir(t)
	j := tested(t, dir, Options{Node: "gw-1"})
	_, err := Open(dir, Options{})
	want := fmt.Sprintf(`opening the call journal in %q: process %d (node "gw-1") writes there; stop it, or give this node a directory of its own`, dir, os.Getpid())
	if err == nil || err.Error() != want {
		t.Errorf("error %v\nwant  %s", err, want)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	tested(t, dir, Options{})
}

func TestUnusableDirectory(t *testing.T) {
	file := filepath.Join(memoryDir(t), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		_, err := Open(dir, Options{})
		if err == nil || !strings.Contains(err.Error(), "not a directory; it needs a directory in which this user may make files") {
			t.Errorf("%s: %v", dir, err)
		}
		_, err = OpenReader(dir)
		if err == nil || !strings.Contains(err.Error(), "name the directory that the node writes to") {
			t.Errorf("reading %s: %v", dir, err)
		}
	}
}

func TestConfigure(t *testing.T) {
	dir := memoryDir(t)
	j := tested(t, dir, Options{Sync: time.Hour})
	now := j.options.Load().Now
	j.Append(call(1))
	if !j.Stats().LastSync.IsZero() {
		t.Error("synced already")
	}
	j.Configure(Options{Sync: 10 * time.Millisecond, FileBytes: 512 << 10, Node: "gw-2", Now: now, Logger: quiet})
	eventually(t, "the journal syncs at the new interval", func() bool { return !j.Stats().LastSync.IsZero() })
	rotate(t, j)
	rotate(t, j)
	if got := j.active.Load().limit; got != 512<<10 {
		t.Errorf("a new file has %d bytes", got)
	}
	b, err := os.ReadFile(j.active.Load().path)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := parseHeader(b); err != nil || h.node != "gw-2" || h.limit != 512<<10 {
		t.Errorf("header %+v, %v", h, err)
	}
	if got := j.Stats().Node; got != "gw-2" {
		t.Errorf("node %q", got)
	}
}

func TestOptionDefaults(t *testing.T) {
	got := Options{}.withDefaults()
	if got.FileBytes != 64<<20 || got.FileAge != time.Hour || got.KeepBytes != 1<<30 || got.KeepFor != 24*time.Hour || got.Sync != time.Second {
		t.Errorf("%+v", got)
	}
	got = Options{FileBytes: 1, Sync: 1}.withDefaults()
	if got.FileBytes != 256<<10 || got.Sync != 10*time.Millisecond {
		t.Errorf("%+v", got)
	}
	if got := (Options{FileBytes: 1 << 40}).withDefaults(); got.FileBytes != 1<<30 {
		t.Errorf("%+v", got)
	}
}

func TestFileAge(t *testing.T) {
	var ahead atomic.Int64
	now := func() time.Time { return began.Add(time.Duration(ahead.Load())) }
	j := tested(t, memoryDir(t), Options{FileAge: time.Hour, Sync: 10 * time.Millisecond, Now: now})
	first := j.active.Load()
	ticks := func() { // lets the flusher look twice
		for range 2 {
			before := j.Stats().LastSync
			ahead.Add(1)
			eventually(t, "a tick", func() bool { return j.Stats().LastSync.After(before) })
		}
	}
	ahead.Add(int64(2 * time.Hour))
	ticks()
	if j.active.Load() != first {
		t.Error("an empty file was closed for its age")
	}
	j.Append(call(1))
	ahead.Add(-int64(100 * time.Hour)) // the clock goes back
	time.Sleep(30 * time.Millisecond)
	if j.active.Load() != first {
		t.Error("a file was closed because the clock went back")
	}
	ahead.Add(int64(59 * time.Minute))
	time.Sleep(30 * time.Millisecond)
	if j.active.Load() != first {
		t.Error("a file was closed before its time")
	}
	ahead.Add(int64(2 * time.Minute))
	eventually(t, "the file is closed", func() bool { return j.active.Load() != first })
	find(t, j.Reader, call(1).ID)
}

// A record is found all the time while its file is sealed, which cuts the file and writes its index.
func TestFindWhileSealed(t *testing.T) {
	j := tested(t, memoryDir(t), Options{})
	for i := range 200 {
		r := call(i)
		j.Append(r)
		rotate(t, j)
		for looks := 0; looks < 20; {
			find(t, j.Reader, r.ID)
			j.mu.Lock()
			if len(j.queue) == 0 {
				looks += 10
			}
			j.mu.Unlock()
		}
	}
}

// The memory of a sealed file is given back when nobody can reach it any more.
func TestMemoryIsGivenBack(t *testing.T) {
	if _, err := os.Stat("/proc/self/maps"); err != nil {
		t.Skip("this system has no list of mappings")
	}
	dir := t.TempDir()
	j := tested(t, dir, Options{})
	mapped := func() int {
		b, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(b), dir)
	}
	for i := range 20 {
		j.Append(call(i))
		rotate(t, j)
	}
	settled(t, j)
	eventually(t, "only the active file and the reserve are mapped", func() bool { runtime.GC(); return mapped() <= 2 })
}

// The resident memory of the process grows neither with what is appended nor with
// what is read.
func TestResidentMemory(t *testing.T) {
	if _, err := os.Stat("/proc/self/smaps"); err != nil {
		t.Skip("this system does not tell what is resident")
	}
	dir := t.TempDir()
	j := tested(t, dir, Options{FileBytes: 32 << 20})
	resident := func() (kib int) {
		b, err := os.ReadFile("/proc/self/smaps")
		if err != nil {
			t.Fatal(err)
		}
		ours := false
		for line := range strings.Lines(string(b)) {
			if name, rest, _ := strings.Cut(line, ":"); strings.Contains(line, "-") && strings.Contains(line, " r") {
				ours = strings.Contains(line, dir)
			} else if name == "Rss" && ours {
				n := 0
				if _, err := fmt.Sscan(rest, &n); err != nil {
					t.Fatal(err)
				}
				kib += n
			}
		}
		return kib
	}
	r := refused(1, "a")
	r.Detail = make([]byte, 8000)
	for i := range 3000 { // 25 MB
		r.ID = NewID(began, 1, uint64(i))
		j.Append(r)
		if i%200 == 0 {
			eventually(t, "pages behind the tail are released", func() bool { return resident() < 9<<10 })
		}
	}
	worst, n := 0, 0
	if err := j.Query(t.Context(), Filter{}, func(*Record) bool {
		if n++; n%200 == 0 {
			worst = max(worst, resident())
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if n != 3000 || worst > 18<<10 {
		t.Errorf("%d records, %d KiB resident while reading", n, worst)
	}
	if resident() == 0 {
		t.Error("the test sees no mapping")
	}
	rotate(t, j)
	settled(t, j)
	find(t, j.Reader, NewID(began, 1, 0))
}
