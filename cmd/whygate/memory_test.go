package main

import (
	"os"
	"path/filepath"
	"testing"
)

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
