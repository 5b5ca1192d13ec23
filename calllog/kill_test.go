package calllog

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const childGoroutines = 4

// runChild is a node that appends from several goroutines as fast as it can. It
// prints each id after Append returned, until somebody kills it. It rotates all
// the time.
func runChild(dir string) int {
	tune := usualTuning()
	tune.patience = time.Minute // a machine that is busy with tests drops nothing
	j, err := open(dir, Options{FileBytes: minFileBytes, KeepBytes: -1, KeepFor: -1, Logger: quiet, Sync: 20 * time.Millisecond}, tune)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	round := uint16(time.Now().UnixNano() >> 10) // so that no two children use one id
	for g := range childGoroutines {
		go func() {
			for n := 0; ; n++ {
				r := call(n)
				if n%5 == 0 {
					r = refused(n, "quota.spent")
				}
				r.ID = NewID(r.Start, round<<2|uint16(g), uint64(n))
				ref := j.Append(r)
				if ref.Dropped() {
					panic("dropped")
				}
				if n%50 == 49 {
					j.Amend(ref, ClientGone, 1, time.Second)
				}
				_, _ = fmt.Println(r.ID)
			}
		}()
	}
	select {}
}

type child struct {
	cmd   *exec.Cmd
	lines *bufio.Reader
}

func startChild(t *testing.T, dir string) *child {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "CALLLOG_CHILD="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd, bufio.NewReaderSize(out, 1<<20)}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if line, err := c.lines.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the child says %q, %v", line, err)
	}
	return c
}

// killAfter lets the child run, kills it with SIGKILL and returns what it printed.
func (c *child) killAfter(t *testing.T, d time.Duration) (ids []ID) {
	t.Helper()
	timer := time.AfterFunc(d, func() { _ = c.cmd.Process.Kill() })
	defer timer.Stop()
	for {
		line, err := c.lines.ReadString('\n')
		if err == io.EOF { // a line without its end was not printed
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		id, err := ParseID(strings.TrimSuffix(line, "\n"))
		if err != nil {
			t.Fatalf("the child says %q", line)
		}
		ids = append(ids, id)
	}
	_ = c.cmd.Wait()
	return ids
}

// Every call whose Append returned is there after kill -9, however often.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	var printed []ID
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		ids := startChild(t, dir).killAfter(t, time.Duration(rand.IntN(150)+5)*time.Millisecond)
		printed = append(printed, ids...)
		if round%2 == 0 {
			continue // two in a row without a look
		}
		have := make(map[ID]*Record)
		for _, r := range all(t, dir) {
			if have[r.ID] != nil {
				t.Fatalf("%s is there twice", r.ID)
			}
			have[r.ID] = r
		}
		for _, id := range printed {
			r := have[id]
			if r == nil {
				t.Fatalf("round %d: %s was printed and is lost", round, id)
			}
			_, n := split(id)
			want := call(n)
			if r.Path != want.Path || r.Client != want.Client || r.Duration != want.Duration && r.Duration != time.Second || r.Revision != 57 {
				t.Fatalf("%s reads %+v", id, r)
			}
		}
		// What was appended and not yet printed: at most one per goroutine and round.
		if extra := len(have) - len(printed); extra > childGoroutines*(round+1) {
			t.Errorf("%d records more than were printed", extra)
		}
	}
	// The same through the indexes that the next node makes.
	j := tested(t, dir, Options{KeepBytes: -1, KeepFor: -1})
	eventually(t, "all files are indexed", func() bool {
		j.mu.Lock()
		defer j.mu.Unlock()
		for _, h := range j.held {
			if !h.indexed {
				return false
			}
		}
		return len(j.held) > 0
	})
	for range 300 {
		find(t, j.Reader, printed[rand.IntN(len(printed))])
	}
	if st := j.Stats(); len(st.Unreadable) > 0 || st.LastError != "" {
		t.Errorf("stats: %+v", st)
	}
	t.Logf("%d records in %d rounds", len(printed), rounds)
}

// A reader in another process sees what the node appends while it appends, rotates
// and indexes.
func TestReadAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	c := startChild(t, dir)
	r, err := OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d (node", c.cmd.Process.Pid)) {
		t.Errorf("opening the child's directory: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	var found, followed, queried atomic.Int64
	group.Go(func() {
		next := make(map[int]int)
		_ = r.Follow(ctx, Filter{}, func(rec *Record) bool {
			g, n := split(rec.ID)
			if want, ok := next[g]; ok && n != want {
				t.Errorf("followed %d of goroutine %d, want %d", n, g, want)
				return false
			}
			next[g] = n + 1
			followed.Add(1)
			return true
		})
	})
	group.Go(func() {
		for ctx.Err() == nil {
			last := make(map[int]int)
			_ = r.Query(ctx, Filter{Limit: 2000}, func(rec *Record) bool {
				g, n := split(rec.ID)
				if before, ok := last[g]; ok && n != before-1 {
					t.Errorf("%d of goroutine %d before %d", n, g, before)
				}
				last[g] = n
				queried.Add(1)
				return true
			})
		}
	})
	deadline := time.Now().Add(20 * time.Second)
	for (found.Load() < 2000 || followed.Load() < 2000 || queried.Load() < 2000) && time.Now().Before(deadline) && !t.Failed() {
		line, err := c.lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		id, err := ParseID(strings.TrimSuffix(line, "\n"))
		if err != nil {
			t.Fatal(err)
		}
		if found.Add(1)%20 == 0 {
			find(t, r, id)
		}
	}
	c.killAfter(t, 0)
	cancel()
	group.Wait()
	t.Logf("followed %d, queried %d, found %d", followed.Load(), queried.Load(), found.Load())
	if followed.Load() < 2000 || queried.Load() < 2000 || found.Load() < 2000 {
		t.Error("that is too few")
	}
}
