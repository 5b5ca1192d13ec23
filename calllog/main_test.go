package calllog

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if child := os.Getenv("CALLLOG_CHILD"); child != "" {
		os.Exit(runChild(child))
	}
	goleak.VerifyTestMain(m)
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// tested is a journal of small files that waits long for its disk, so that a slow
// machine does not make it drop records.
func tested(t testing.TB, dir string, o Options) *Journal {
	t.Helper()
	tune := usualTuning()
	tune.patience = 30 * time.Second
	return tuned(t, dir, o, tune)
}

func tuned(t testing.TB, dir string, o Options, tune tuning) *Journal {
	t.Helper()
	if o.FileBytes == 0 {
		o.FileBytes = minFileBytes
	}
	if o.Logger == nil {
		o.Logger = quiet
	}
	if o.Now == nil {
		start := time.Now()
		o.Now = func() time.Time { return began.Add(time.Since(start)) }
	}
	j, err := open(dir, o, tune)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return j
}

var began = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// call is a record like most: n numbers it.
func call(n int) *Record {
	start := began.Add(time.Duration(n) * time.Millisecond)
	return &Record{
		ID: NewID(start, 1, uint64(n)), Start: start, Duration: 3 * time.Millisecond, Decide: 20 * time.Microsecond, Wait: 2 * time.Millisecond,
		Status: 200, Proto: 11, Tries: 1, Method: "GET", Host: "api.shop.test", Path: fmt.Sprintf("/prod/orders/%d", n),
		Listener: "public", API: "orders", Version: "v2", Stage: "prod", Route: "get-order", Application: "acme-shop",
		Credential: "wg_7Q2x", Plan: "gold", Upstream: "orders", Target: "10.0.0.7:8080",
		Client: netip.AddrFrom4([4]byte{203, 0, 113, byte(n)}), Peer: netip.AddrFrom4([4]byte{10, 0, 0, 2}),
		UserAgent: "curl/8.5", BytesOut: 176, Revision: 57, Remaining: 97,
	}
}

// refused is a record of a call that a check refused.
func refused(n int, reason string) *Record {
	r := call(n)
	r.Status, r.Outcome, r.Reason, r.Check, r.Step, r.Steps = 403, Refused, reason, "subscription", 5, 9
	r.Upstream, r.Target, r.Tries = "", "", 0
	r.Detail = []byte(`{"facts":{"application":"acme-shop","api":"orders"}}`)
	return r
}

func find(t testing.TB, r *Reader, id ID) Record {
	t.Helper()
	rec, ok, err := r.Find(id)
	if err != nil {
		t.Fatalf("finding %s: %v", id, err)
	}
	if !ok {
		t.Fatalf("%s is not found", id)
	}
	return rec
}

// memoryDir is a directory that needs no disk, where there is such a thing: tests
// that make hundreds of files would wait for the disk most of their time.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "calllog")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// eventually waits for the background.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}
