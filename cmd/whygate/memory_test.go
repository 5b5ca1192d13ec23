package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/whygate/whygate/whytest"
)

// Calls are refused from 95 % of the limit on, and taken again below 92 %.
func TestWatchMemory(t *testing.T) {
	if n := usedMemory(); n < 1<<20 || n > 64<<30 {
		t.Errorf("%d bytes are in use", n)
	}
	up := whytest.Script(t, func(*whytest.Received) string { return "HTTP/1.1 204 No Content\r\n\r\n" })
	n := whytest.Start(t, "wire", whytest.API(up.URL(), "/", ""))
	used := new(atomic.Int64)
	var reads atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		watchMemory(ctx, n.Gateway, 1000, func() int64 { reads.Add(1); return used.Load() }, slog.New(slog.DiscardHandler))
	}()
	defer func() { stop(); <-done }()
	for _, c := range []struct {
		used   int64
		status int
		code   string
	}{{900, 204, ""}, {951, 503, "node.memory"}, {930, 503, "node.memory"}, {919, 204, ""}, {930, 204, ""}, {1100, 503, "node.memory"}, {0, 204, ""}} {
		used.Store(c.used)
		seen := reads.Load()
		whytest.Eventually(t, "memory is looked at", func() bool { return reads.Load() > seen+1 })
		a := n.Call("GET", "/", "")
		if a.StatusCode != c.status || a.Header.Get("Whygate-Reason") != c.code || (a.Header.Get("Retry-After") != "") != (c.status == 503) {
			t.Errorf("%d of 1000 used: %d %q, Retry-After %q", c.used, a.StatusCode, a.Header.Get("Whygate-Reason"), a.Header.Get("Retry-After"))
		}
	}
}

// The least limit on the way up counts; "max" is none, and in a container the group is often the root.
func TestGroupMemory(t *testing.T) {
	for _, c := range []struct {
		name, membership string
		limits           map[string]string
		want             int64
	}{
		{"own", "0::/system.slice/whygate.service\n", map[string]string{"system.slice/whygate.service": "536870912\n", "system.slice": "max\n"}, 512 << 20},
		{"above", "0::/a/b\n", map[string]string{"a/b": "max\n", "a": "1073741824\n"}, 1 << 30},
		{"both", "0::/a/b\n", map[string]string{"a/b": "4294967296\n", "a": "1073741824\n"}, 1 << 30},
		{"container", "0::/\n", map[string]string{".": "268435456\n"}, 256 << 20},
		{"beside v1", "4:memory:/x\n0::/a\n", map[string]string{"a": "1048576\n", "x": "1\n"}, 1 << 20},
		{"v1 alone", "4:memory:/x\n", map[string]string{"x": "1\n"}, 0},
		{"none", "0::/a\n", map[string]string{"a": "max\n"}, 0},
		{"garbage", "0::/a\n", map[string]string{"a": "many\n"}, 0},
		{"upwards", "0::/../../a\n", map[string]string{"a": "1048576\n"}, 1 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for group, limit := range c.limits {
				if err := os.MkdirAll(filepath.Join(dir, group), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, group, "memory.max"), []byte(limit), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			membership := filepath.Join(dir, "membership")
			if err := os.WriteFile(membership, []byte(c.membership), 0o644); err != nil {
				t.Fatal(err)
			}
			if got := groupMemory(membership, dir); got != c.want {
				t.Errorf("%d, want %d", got, c.want)
			}
		})
	}
	if got := groupMemory(filepath.Join(t.TempDir(), "nothing"), "/"); got != 0 {
		t.Errorf("%d without a membership", got)
	}
}
