package main

import (
	"log/slog"
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
)

// limitMemory has the garbage collector work harder before the node reaches the memory that its control group
// may use, at which the kernel would kill it and every call in flight. GOMEMLIMIT, if set, is left as it is.
func limitMemory(log *slog.Logger) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	if most := groupMemory("/proc/self/cgroup", "/sys/fs/cgroup"); most > 0 {
		soft := most / 10 * 9
		debug.SetMemoryLimit(soft)
		log.Debug("memory", "soft limit", soft, "limit of the control group", most)
	}
}

// groupMemory is the least memory.max of the control group named in a file such as /proc/self/cgroup and of
// those above it, 0 for none (cgroup v2: Documentation/admin-guide/cgroup-v2.rst of Linux).
func groupMemory(membership, root string) int64 {
	b, err := os.ReadFile(membership)
	if err != nil {
		return 0
	}
	group := ""
	for line := range strings.Lines(string(b)) {
		if g, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			group = path.Clean("/" + g)
		}
	}
	if group == "" {
		return 0
	}
	least := int64(math.MaxInt64)
	for ; ; group = path.Dir(group) {
		if b, err := os.ReadFile(filepath.Join(root, group, "memory.max")); err == nil {
			if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 {
				least = min(least, n)
			}
		}
		if group == "/" {
			break
		}
	}
	if least == math.MaxInt64 {
		return 0
	}
	return least
}
