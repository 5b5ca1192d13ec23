package machine

import (
	"io"
	"slices"
	"strconv"
	"strings"
)

// mount is one line of mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	Device  string
	Root    string // what of the file system is mounted
	Point   string
	Options string
	Type    string
	Source  string
	Super   string
}

// network says that another machine, or a program, decides about files beside the kernel.
func (mt *mount) network() bool {
	switch mt.Type {
	case "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "lustre", "glusterfs", "virtiofs":
		return true
	}
	return mt.fuse()
}

func (mt *mount) fuse() bool { return mt.Type == "fuse" || strings.HasPrefix(mt.Type, "fuse.") }

// option is the value of a mount option and whether it is there.
func (mt *mount) option(name string) (string, bool) {
	for _, list := range []string{mt.Options, mt.Super} {
		for o := range strings.SplitSeq(list, ",") {
			if k, v, _ := strings.Cut(o, "="); k == name {
				return v, true
			}
		}
	}
	return "", false
}

const maxMounts = 1 << 14

func parseMounts(raw []byte) (mounts []mount) {
	for line := range strings.Lines(string(raw)) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(g) < 2 || len(mounts) == maxMounts {
			continue
		}
		mt := mount{Device: f[2], Root: unescape(f[3]), Point: unescape(f[4]), Options: f[5], Type: g[0], Source: unescape(g[1])}
		if len(g) > 2 {
			mt.Super = g[2]
		}
		mounts = append(mounts, mt)
	}
	return mounts
}

// unescape undoes the octal escapes of mountinfo: \040 is a blank.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mountOf is the mount that a resolved path lies on; the last one over the same point wins.
func mountOf(mounts []mount, name string) *mount {
	var best *mount
	for i := range mounts {
		if mt := &mounts[i]; below(name, mt.Point) && (best == nil || len(mt.Point) >= len(best.Point)) {
			best = mt
		}
	}
	return best
}

// below says that a path is a directory or lies in it.
func below(name, dir string) bool {
	return name == dir || dir == "/" || strings.HasPrefix(name, dir) && len(name) > len(dir) && name[len(dir)] == '/'
}

// mountsOf is the mount table that a worker sees, or ours when it is not known.
func (m *Machine) mountsOf(p *Process) []mount {
	if p != nil {
		if own := parseMounts(m.proc(p.PID, "mountinfo", 4<<20)); own != nil {
			return own
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mounts == nil {
		m.mounts = parseMounts(m.readProc("/proc/self/mountinfo", 4<<20))
	}
	return slices.Clip(m.mounts)
}

func readUpTo(r io.Reader, limit int64) []byte {
	data, _ := io.ReadAll(io.LimitReader(r, limit))
	return data
}
