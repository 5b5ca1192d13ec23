//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of times in /proc: USER_HZ, 100 per second on every
// architecture that both Go and Debian support.
const tick = 10 * time.Millisecond

// stat is what /proc/PID/stat says, as far as it matters here (proc_pid_stat(5)).
// Times cover all threads, ended ones included.
type stat struct {
	pid, parent  int
	user, kernel time.Duration
}

func parseStat(line []byte) (stat, error) {
	// The name is in parentheses and may hold anything, parentheses and spaces too.
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return stat{}, fmt.Errorf("%q has no name in parentheses", line)
	}
	fields := strings.Fields(string(line[end+1:]))
	if len(fields) < 13 {
		return stat{}, fmt.Errorf("%q has %d fields after the name, not 13 or more", line, len(fields))
	}
	var s stat
	var user, kernel int64
	for _, f := range []struct {
		text string
		to   func(int64)
	}{
		{strings.TrimSpace(string(line[:open])), func(n int64) { s.pid = int(n) }},
		{fields[1], func(n int64) { s.parent = int(n) }},
		{fields[11], func(n int64) { user = n }},
		{fields[12], func(n int64) { kernel = n }},
	} {
		n, err := strconv.ParseInt(f.text, 10, 64)
		if err != nil {
			return stat{}, fmt.Errorf("%q: %w", line, err)
		}
		f.to(n)
	}
	s.user, s.kernel = time.Duration(user)*tick, time.Duration(kernel)*tick
	return s, nil
}

// tree returns the processes descending from root, root first.
func tree(root int) ([]stat, error) {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	all := map[int]stat{}
	children := map[int][]int{}
	for _, name := range names {
		if c := name.Name()[0]; c < '0' || c > '9' {
			continue
		}
		line, err := os.ReadFile("/proc/" + name.Name() + "/stat")
		if err != nil {
			continue // it has ended meanwhile
		}
		s, err := parseStat(line)
		if err != nil {
			return nil, err
		}
		all[s.pid] = s
		children[s.parent] = append(children[s.parent], s.pid)
	}
	if _, ok := all[root]; !ok {
		return nil, fmt.Errorf("process %d is gone", root)
	}
	var found []stat
	for queue := []int{root}; len(queue) > 0; queue = queue[1:] {
		found = append(found, all[queue[0]])
		queue = append(queue, children[queue[0]]...)
	}
	return found, nil
}

// cpuTime is what processes have spent. Total comes from the kernel's clock of
// each process, exact to the nanosecond; user and kernel come from /proc and
// are sampled on timer ticks, so they say how Total divides, not more.
type cpuTime struct {
	total, user, kernel time.Duration
}

func (a cpuTime) since(b cpuTime) cpuTime {
	d := cpuTime{a.total - b.total, a.user - b.user, a.kernel - b.kernel}
	if ticks := d.user + d.kernel; ticks > 0 {
		d.user = time.Duration(float64(d.total) * float64(d.user) / float64(ticks))
		d.kernel = d.total - d.user
	}
	return d
}

// cpuOf sums a process and its descendants.
func cpuOf(root int) (cpuTime, error) {
	family, err := tree(root)
	if err != nil {
		return cpuTime{}, err
	}
	var sum cpuTime
	for _, s := range family {
		var t unix.Timespec
		// clock_getcpuclockid(3): CPUCLOCK_SCHED of another process.
		if err := unix.ClockGettime(int32(^s.pid)<<3|2, &t); err != nil {
			return cpuTime{}, fmt.Errorf("reading the CPU clock of process %d: %w", s.pid, err)
		}
		sum.total += time.Duration(t.Nano())
		sum.user += s.user
		sum.kernel += s.kernel
	}
	return sum, nil
}

// memory is resident memory in KiB. File counts pages of mapped files, which the
// kernel can drop; it is part of RSS.
type memory struct {
	RSS  int64 `json:"rssKiB"`
	Peak int64 `json:"peakKiB"`
	Anon int64 `json:"anonKiB"`
	File int64 `json:"fileKiB"`
}

func parseStatus(text []byte) (memory, error) {
	var m memory
	seen := 0
	for line := range bytes.Lines(text) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		var to *int64
		switch string(name) {
		case "VmRSS":
			to = &m.RSS
		case "VmHWM":
			to = &m.Peak
		case "RssAnon":
			to = &m.Anon
		case "RssFile":
			to = &m.File
		default:
			continue
		}
		number, ok := strings.CutSuffix(strings.TrimSpace(string(value)), " kB")
		n, err := strconv.ParseInt(number, 10, 64)
		if !ok || err != nil {
			return m, fmt.Errorf("%q is not a size in kB", line)
		}
		*to = n
		seen++
	}
	if seen != 4 {
		return m, fmt.Errorf("found %d of VmRSS, VmHWM, RssAnon and RssFile", seen)
	}
	return m, nil
}

// memoryOf sums a process and its descendants; what they share counts for each.
func memoryOf(root int) (memory, error) {
	family, err := tree(root)
	if err != nil {
		return memory{}, err
	}
	var sum memory
	for _, s := range family {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(s.pid) + "/status")
		if err != nil {
			return memory{}, err
		}
		m, err := parseStatus(text)
		if err != nil {
			return memory{}, fmt.Errorf("/proc/%d/status: %w", s.pid, err)
		}
		sum.RSS += m.RSS
		sum.Peak += m.Peak
		sum.Anon += m.Anon
		sum.File += m.File
	}
	return sum, nil
}

// parseBusy finds in /proc/stat how long a core was not idle.
func parseBusy(text []byte, cpu int) (time.Duration, error) {
	name := "cpu" + strconv.Itoa(cpu)
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		if len(fields) == 0 || fields[0] != name {
			continue
		}
		if len(fields) < 9 {
			return 0, fmt.Errorf("%q has %d fields, not 9 or more", line, len(fields))
		}
		var busy time.Duration
		// user nice system idle iowait irq softirq steal; guest time is part of user.
		for i, field := range fields[1:9] {
			n, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%q: %w", line, err)
			}
			if i != 3 && i != 4 {
				busy += time.Duration(n) * tick
			}
		}
		return busy, nil
	}
	return 0, fmt.Errorf("/proc/stat has no core %d", cpu)
}

// busyOf is how long a core was not idle since boot, whoever used it.
func busyOf(cpu int) (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseBusy(text, cpu)
}
