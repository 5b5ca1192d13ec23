package calllog

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// smallDisk is a file system of some bytes.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may mount a small disk")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENODEV) {
			t.Skipf("this system does not let root mount a small disk: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestDiskFull(t *testing.T) {
	dir := smallDisk(t, "1536k")
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 640<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	var log logged
	tune := usualTuning()
	tune.retry = 20 * time.Millisecond
	j := tuned(t, filepath.Join(dir, "calls"), Options{KeepBytes: -1, Logger: slog.New(slog.NewTextHandler(&log, nil))}, tune)
	n := 0
	for ; j.Stats().Dropped["no-space"] < 500; n++ {
		j.Append(call(n))
	}
	st := j.Stats()
	if st.Recording || st.Appended+st.Dropped["no-space"] != uint64(n) || !strings.Contains(st.LastError, "no space left on device") {
		t.Errorf("after %d records: %+v", n, st)
	}
	for i := range int(st.Appended) {
		find(t, j.Reader, call(i).ID)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the journal records again", func() bool { return !j.Append(call(n)).Dropped() })
	find(t, j.Reader, call(n).ID)
	if log.count("makes no new file") == 0 || log.count("makes no new file") > 2 {
		t.Errorf("the log:\n%s", log.b.String())
	}
}

// A full disk does not keep a node from starting.
func TestDiskFullFromTheStart(t *testing.T) {
	dir := smallDisk(t, "128k")
	j := tested(t, dir, Options{})
	if !j.Append(call(1)).Dropped() || j.Stats().Dropped["no-space"] != 1 {
		t.Errorf("stats: %+v", j.Stats())
	}
	if _, ok, err := j.Find(call(1).ID); ok || err != nil {
		t.Errorf("found %v, %v", ok, err)
	}
}

// Sealed files go for their bytes also while no new one can be made, which ends the
// trouble.
func TestRetentionMakesRoom(t *testing.T) {
	dir := smallDisk(t, "1200k")
	tune := usualTuning()
	tune.retry, tune.retention = 10*time.Millisecond, 10*time.Millisecond
	j := tuned(t, dir, Options{KeepBytes: -1}, tune)
	n := 0
	for ; j.Stats().Dropped["no-space"] == 0; n++ {
		j.Append(call(n))
	}
	o := *j.options.Load()
	o.KeepBytes = 3 * minFileBytes
	j.Configure(o)
	eventually(t, "the journal records again", func() bool { return !j.Append(call(n)).Dropped() })
}
