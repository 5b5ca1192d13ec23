package main

import (
	"context"
	"log/slog"
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"github.com/whygate/whygate/gateway"
)

// limitMemory has the garbage collector work harder before the node reaches the memory that its control group
// may use, at which the kernel would kill it and every call in flight. GOMEMLIMIT, if set, is left as it is. It returns
// the limit of the group, 0 for none.
func limitMemory(log *slog.Logger) (most int64) {
	most = groupMemory("/proc/self/cgroup", "/sys/fs/cgroup")
	if most > 0 && os.Getenv("GOMEMLIMIT") == "" {
		soft := most / 10 * 9
		debug.SetMemoryLimit(soft)
		log.Debug("memory", "soft limit", soft, "limit of the control group", most)
	}
	return most
}

// watchMemory has new calls refused while the node uses nearly all memory that its control group may use: what the
// collector cannot free belongs to calls in flight, which are to end well.
func watchMemory(ctx context.Context, g *gateway.Gateway, most int64, used func() int64, log *slog.Logger) {
	ticker := time.NewTicker(memoryTick)
	defer ticker.Stop()
	shedding := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		switch n := used(); {
		case n > most/100*shedAbove:
			g.Shed(&gateway.Strain{Used: n, Limit: most})
			if !shedding {
				log.Warn("memory is short: new calls are refused", "used", n, "limit of the control group", most)
			}
			shedding = true
		case shedding && n < most/100*shedUntil:
			g.Shed(nil)
			shedding = false
			log.Info("memory is no longer short: calls are taken again", "used", n)
		}
	}
}

const (
	memoryTick = 100 * time.Millisecond
	shedAbove  = 95 // percent of the group's limit
	shedUntil  = 92
)

// usedMemory is what the runtime has of the system, without what it gave back.
func usedMemory() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64() - s[1].Value.Uint64())
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
