package machine

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Identity is what the kernel looks at when a process opens a file (credentials(7)).
type Identity struct {
	Name   string // of the user, "uid 33" when no account has it
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary
	Caps   uint64   // effective capabilities
	// Process is the worker itself, when it runs: its view of the file system and its label count.
	Process *Process
}

// Process is one process of this machine (proc(5)).
type Process struct {
	Identity
	PID       int
	Parent    int
	Exe       string   // "" when this program may not know
	Comm      string   // the short name
	Args      []string // of servers: all where the configuration is found by them, else the program and its script
	Title     string   // when the program wrote over its arguments: "nginx: worker process"
	Product   string   // "nginx", "apache-httpd", …; "" of programs that are no servers
	Dir       string   // working directory
	Root      string   // "/" unless it lives in another root
	MountNS   string   // mount namespace
	Unit      string   // of systemd: "nginx.service"
	Label     string   // SELinux context or AppArmor profile, as the kernel writes it
	Container bool     // its root file system is not ours
}

// products are the servers that are known by the name of their program.
var products = map[string]string{
	"nginx": "nginx", "openresty": "nginx", "angie": "nginx", "apache2": "apache-httpd", "httpd": "apache-httpd", "haproxy": "haproxy",
	"lighttpd": "lighttpd", "caddy": "caddy", "envoy": "envoy", "whygate": "whygate", "traefik": "traefik", "varnishd": "varnish",
	"node": "node", "nodejs": "node", "java": "java", "gunicorn": "python", "uwsgi": "uwsgi", "uvicorn": "python", "ruby": "ruby", "puma": "ruby",
	"dotnet": "dotnet", "squid": "squid", "docker-proxy": "docker-proxy", "rootlessport": "docker-proxy", "openlitespeed": "litespeed", "litespeed": "litespeed", "lshttpd": "litespeed",
	"hitch": "hitch", "stunnel4": "stunnel", "stunnel": "stunnel", "php": "php", "pound": "pound", "oauth2-proxy": "oauth2-proxy",
}

// configured are products that find their configuration by their arguments, so that all are kept.
var configured = []string{"nginx", "apache-httpd", "haproxy", "lighttpd", "caddy", "envoy", "whygate", "traefik", "varnish", "php-fpm", "docker-proxy", "squid", "hitch", "pound"}

// product is the server that a program is.
func product(exe, comm string) string {
	for _, name := range []string{path.Base(strings.TrimSuffix(exe, " (deleted)")), comm} {
		if p, ok := products[name]; ok {
			return p
		}
		switch {
		case strings.HasPrefix(name, "php-fpm"):
			return "php-fpm"
		case strings.HasPrefix(name, "python"):
			return "python"
		case strings.HasPrefix(name, "apache2-"), strings.HasPrefix(name, "httpd."):
			return "apache-httpd"
		}
	}
	return ""
}

// Listener is a socket that waits for connections.
type Listener struct {
	Addr  netip.AddrPort // not valid for a unix socket
	Path  string         // of a unix socket
	UID   uint32         // who made the socket
	Inode uint64
	PIDs  []int // who holds it; empty when this program may not know
}

const (
	maxProcesses = 1 << 15
	maxSockets   = 1 << 16
	maxDescr     = 1 << 18 // file descriptors of all processes
)

// Processes are the processes of this machine that can be seen, by number.
func (m *Machine) Processes() []*Process {
	m.scan()
	return m.procs
}

// Process is one of them, or nil.
func (m *Machine) Process(pid int) *Process {
	m.scan()
	i, ok := slices.BinarySearchFunc(m.procs, pid, func(p *Process, pid int) int { return p.PID - pid })
	if !ok {
		return nil
	}
	return m.procs[i]
}

// Listeners are the sockets that wait for connections.
func (m *Machine) Listeners() []Listener {
	m.scan()
	return m.listeners
}

// Listening is who serves a port: the process that reads the configuration, and its product. It is nil
// when nobody listens there, or when this program may not see who does; then the product is "".
// An exact address goes before a wildcard, and a wildcard of IPv6 takes IPv4 too.
func (m *Machine) Listening(at netip.AddrPort) (*Process, string) {
	var best *Listener
	rank := 0
	want := at.Addr().Unmap().WithZone("")
	for i := range m.Listeners() {
		l := &m.listeners[i]
		if l.Path != "" || l.Addr.Port() != at.Port() {
			continue
		}
		has, r := l.Addr.Addr(), 0
		switch {
		case has.Unmap() == want:
			r = 4
		case !want.IsValid():
			r = 1
		case has.Is4() && has.IsUnspecified() && want.Is4():
			r = 3
		case has.Is6() && has.IsUnspecified():
			r = 2
		}
		if r > rank {
			best, rank = l, r
		}
	}
	return m.owner(best)
}

// ListeningUnix is who serves a unix socket.
func (m *Machine) ListeningUnix(path string) (*Process, string) {
	for i := range m.Listeners() {
		if l := &m.listeners[i]; l.Path != "" && l.Path == path {
			return m.owner(l)
		}
	}
	return nil, ""
}

// owner is the main process of those that hold a socket: of a known product rather than systemd, which
// may hold it for another, and the parent rather than its children.
func (m *Machine) owner(l *Listener) (*Process, string) {
	if l == nil {
		return nil, ""
	}
	var main *Process
	for _, pid := range l.PIDs {
		p := m.Process(pid)
		if p == nil {
			continue
		}
		switch {
		case main == nil, main.Product == "" && p.Product != "", main.PID == 1:
			main = p
		case p.Product == main.Product && p.PID == main.Parent:
			main = p
		}
	}
	if main == nil {
		return nil, ""
	}
	for range 8 {
		up := m.Process(main.Parent)
		if up == nil || up.Product == "" || up.Product != main.Product || !slices.Contains(l.PIDs, up.PID) && !slices.Contains(configured, up.Product) {
			break
		}
		main = up
	}
	return main, main.Product
}

// Worker is the process that opens files for requests: a child of the same program, of another user if
// the parent is root, or the process itself.
func (m *Machine) Worker(p *Process) *Process {
	var found *Process
	for _, c := range m.Processes() {
		if c.Parent != p.PID || c.Product != p.Product || strings.Contains(c.Title, "cache ") || strings.Contains(c.Title, "privileged agent") {
			continue
		}
		if found == nil || found.UID == 0 && c.UID != 0 {
			found = c
		}
	}
	if found == nil {
		return p
	}
	return found
}

// Environment are some variables of a process, those that are named and set.
func (m *Machine) Environment(p *Process, names ...string) map[string]string {
	found := map[string]string{}
	for entry := range bytes.SplitSeq(m.proc(p.PID, "environ", 1<<20), []byte{0}) {
		name, value, ok := bytes.Cut(entry, []byte("="))
		if ok && slices.Contains(names, string(name)) {
			found[string(name)] = string(value)
		}
	}
	return found
}

// proc reads a file of /proc/PID.
func (m *Machine) proc(pid int, name string, limit int64) []byte {
	return m.readProc("/proc/"+strconv.Itoa(pid)+"/"+name, limit)
}

// readProc reads the beginning of a regular file that belongs to the system.
func (m *Machine) readProc(name string, limit int64) []byte {
	f, err := os.OpenFile(m.Root+name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil
	}
	return readUpTo(f, limit)
}

// link reads a link of /proc/PID.
func (m *Machine) link(pid int, name string) string {
	s, _ := os.Readlink(m.Root + "/proc/" + strconv.Itoa(pid) + "/" + name)
	return s
}

// scan reads processes and sockets once.
func (m *Machine) scan() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.scanned {
		return
	}
	m.scanned = true
	m.users = m.readAccounts()
	left := maxEntries
	names, _ := listReal(m.Root+"/proc", &left)
	own := m.readProc("/proc/self/mountinfo", 4<<20)
	ownRoot, ownNS := rootDevice(own), ""
	ownNS, _ = os.Readlink(m.Root + "/proc/self/ns/mnt")
	holders := map[uint64][]int{}
	descriptors := maxDescr
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil || pid <= 0 || len(m.procs) == maxProcesses {
			continue
		}
		p := m.readProcess(pid)
		if p == nil {
			continue
		}
		if p.MountNS != "" && p.MountNS != ownNS {
			if r := rootDevice(m.proc(pid, "mountinfo", 4<<20)); r != "" && r != ownRoot {
				p.Container = true
			}
		}
		m.procs = append(m.procs, p)
		dir := m.Root + "/proc/" + n + "/fd"
		left := descriptors
		fds, _ := listReal(dir, &left)
		descriptors = left
		for _, fd := range fds {
			target, err := os.Readlink(dir + "/" + fd)
			if err != nil || !strings.HasPrefix(target, "socket:[") {
				continue
			}
			if inode, err := strconv.ParseUint(strings.TrimSuffix(target[len("socket:["):], "]"), 10, 64); err == nil {
				if pids := holders[inode]; len(pids) == 0 || pids[len(pids)-1] != pid {
					holders[inode] = append(pids, pid)
				}
			}
		}
		if descriptors < 0 {
			descriptors = 0
		}
	}
	slices.SortFunc(m.procs, func(a, b *Process) int { return a.PID - b.PID })
	m.listeners = slices.Concat(
		parseTCP(m.readProc("/proc/net/tcp", 16<<20)),
		parseTCP(m.readProc("/proc/net/tcp6", 16<<20)),
		parseUnix(m.readProc("/proc/net/unix", 16<<20)))
	for i := range m.listeners {
		l := &m.listeners[i]
		l.PIDs = holders[l.Inode]
		slices.Sort(l.PIDs)
	}
}

// readProcess reads one process; nil when it is gone.
func (m *Machine) readProcess(pid int) *Process {
	status := m.proc(pid, "status", 1<<16)
	if status == nil {
		return nil
	}
	p := &Process{PID: pid, Root: "/"}
	parseStatus(status, p)
	p.Identity.Process = p
	p.Name = m.users.name(p.UID)
	p.Exe = strings.TrimSuffix(m.link(pid, "exe"), " (deleted)")
	if p.Exe == "" && p.Parent == 2 && m.link(2, "exe") == "" {
		return nil // a thread of the kernel
	}
	p.Product = product(p.Exe, p.Comm)
	if p.Product == "" {
		return p
	}
	p.Args, p.Title = arguments(m.proc(pid, "cmdline", 1<<16))
	if !slices.Contains(configured, p.Product) && len(p.Args) > 2 {
		p.Args = p.Args[:2] // what follows may be a secret
	}
	p.Dir = m.link(pid, "cwd")
	if r := m.link(pid, "root"); r != "" {
		p.Root = r
	}
	p.MountNS = m.link(pid, "ns/mnt")
	p.Unit = parseUnit(m.proc(pid, "cgroup", 1<<16))
	p.Label = trimNull(m.proc(pid, "attr/apparmor/current", 4096))
	if p.Label == "" {
		p.Label = trimNull(m.proc(pid, "attr/current", 4096))
	}
	return p
}

// parseStatus reads /proc/PID/status. The ids are those of the file system, which is what opens use.
func parseStatus(status []byte, p *Process) {
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		fields := strings.Fields(value)
		switch key {
		case "Name":
			p.Comm = value
		case "PPid":
			p.Parent, _ = strconv.Atoi(value)
		case "Uid":
			if len(fields) == 4 {
				p.UID = number(fields[3])
			}
		case "Gid":
			if len(fields) == 4 {
				p.GID = number(fields[3])
			}
		case "Groups":
			for i, f := range fields {
				if i < 1<<16 {
					p.Groups = append(p.Groups, number(f))
				}
			}
		case "CapEff":
			p.Caps, _ = strconv.ParseUint(value, 16, 64)
		}
	}
}

func number(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return ^uint32(0) // nobody's: what cannot be read must not look like root
	}
	return uint32(n)
}

// arguments takes a command line apart. A program that wrote a title over its arguments has one string
// with blanks in it: nginx, php-fpm and others put the old arguments behind "master process".
func arguments(raw []byte) (args []string, title string) {
	raw = bytes.TrimRight(raw, "\x00")
	if len(raw) == 0 {
		return nil, ""
	}
	args = strings.Split(string(raw), "\x00")
	first := strings.TrimSpace(args[0])
	if i := strings.Index(first, ": "); i > 0 && !strings.Contains(first[:i], " ") && len(args) == 1 {
		title = first
		args = nil
		if _, old, ok := strings.Cut(title, "master process "); ok {
			args = strings.Fields(old)
			if strings.HasPrefix(old, "(") { // php-fpm: the configuration file
				args = []string{"php-fpm", "-y", strings.Trim(old, "()")}
			}
		}
	}
	return args, title
}

// parseUnit finds the unit of systemd in /proc/PID/cgroup.
func parseUnit(raw []byte) string {
	for line := range strings.Lines(string(raw)) {
		_, p, _ := strings.Cut(strings.TrimSpace(line), "/")
		for _, part := range slices.Backward(strings.Split(p, "/")) {
			if strings.HasSuffix(part, ".service") && !strings.HasPrefix(part, "user@") {
				return part
			}
		}
	}
	return ""
}

// parseTCP reads the listening sockets of /proc/net/tcp and tcp6: addresses are words in the byte order of
// the machine, the state 0A is LISTEN.
func parseTCP(raw []byte) (found []Listener) {
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != "0A" || len(found) == maxSockets {
			continue
		}
		host, port, _ := strings.Cut(f[1], ":")
		b, err := hex.DecodeString(host)
		n, err2 := strconv.ParseUint(port, 16, 16)
		inode, err3 := strconv.ParseUint(f[9], 10, 64)
		if errors.Join(err, err2, err3) != nil || len(b) != 4 && len(b) != 16 {
			continue
		}
		for i := 0; i < len(b); i += 4 {
			binary.BigEndian.PutUint32(b[i:], binary.NativeEndian.Uint32(b[i:]))
		}
		addr, _ := netip.AddrFromSlice(b)
		found = append(found, Listener{Addr: netip.AddrPortFrom(addr, uint16(n)), UID: number(f[7]), Inode: inode})
	}
	return found
}

// parseUnix reads the listening sockets of /proc/net/unix (flag 0x10000) that have a path.
func parseUnix(raw []byte) (found []Listener) {
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) < 8 || len(found) == maxSockets {
			continue
		}
		flags, err := strconv.ParseUint(fields[3], 16, 64)
		inode, err2 := strconv.ParseUint(fields[6], 10, 64)
		if err != nil || err2 != nil || flags&0x10000 == 0 {
			continue
		}
		if i := strings.IndexByte(line, '/'); i > 0 {
			found = append(found, Listener{Path: strings.TrimRight(line[i:], "\n"), Inode: inode})
		}
	}
	return found
}

// rootDevice is the device of "/" in a mountinfo.
func rootDevice(mountinfo []byte) string {
	device := ""
	for _, mt := range parseMounts(mountinfo) {
		if mt.Point == "/" {
			device = mt.Device
		}
	}
	return device
}

func trimNull(b []byte) string {
	return strings.TrimSpace(strings.TrimRight(string(b), "\x00\n "))
}

// Identity is the account of a name: its groups come from /etc/group. Accounts of a directory service
// are not found here.
func (m *Machine) Identity(name string) (Identity, error) {
	m.scan()
	return m.users.identity(name)
}

// accounts are users and groups of the machine (passwd(5), group(5)).
type accounts struct {
	users  []account
	groups []account
}

type account struct {
	name    string
	id, gid uint32
	home    string
	members []string
}

func (m *Machine) readAccounts() (a accounts) {
	read := func(name string) []byte { return m.readProc(name, MaxFile) }
	for line := range strings.Lines(string(read("/etc/passwd"))) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) >= 6 && len(a.users) < 1<<16 {
			a.users = append(a.users, account{name: f[0], id: number(f[2]), gid: number(f[3]), home: f[5]})
		}
	}
	for line := range strings.Lines(string(read("/etc/group"))) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) >= 4 && len(a.groups) < 1<<16 {
			a.groups = append(a.groups, account{name: f[0], id: number(f[2]), members: strings.Split(f[3], ",")})
		}
	}
	return a
}

func (a accounts) name(uid uint32) string {
	for _, u := range a.users {
		if u.id == uid {
			return u.name
		}
	}
	return "uid " + strconv.FormatUint(uint64(uid), 10)
}

func (a accounts) group(gid uint32) string {
	for _, g := range a.groups {
		if g.id == gid {
			return g.name
		}
	}
	return "gid " + strconv.FormatUint(uint64(gid), 10)
}

func (a accounts) identity(name string) (Identity, error) {
	for _, u := range a.users {
		if u.name != name {
			continue
		}
		who := Identity{Name: name, UID: u.id, GID: u.gid}
		if u.id == 0 {
			who.Caps = ^uint64(0)
		}
		for _, g := range a.groups {
			if slices.Contains(g.members, name) {
				who.Groups = append(who.Groups, g.id)
			}
		}
		return who, nil
	}
	return Identity{}, &fs.PathError{Op: "user", Path: name, Err: fs.ErrNotExist}
}
