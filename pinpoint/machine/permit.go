package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/whygate/whygate/pinpoint"
)

// Permit computes what the kernel tells a worker that opens a file, and walks every component of its
// path: mode bits, access lists, capabilities, links and mounts decide; labels of SELinux and profiles
// of AppArmor give clues, as their policy is only read in part. ok says that the file exists and that no
// known rule stands against it. It is false without a clue when the file is missing, or when this
// program may not look; the last component says which.
//
// Sources: path_resolution(7), acl(5), capabilities(7), proc_sys_fs(5) on protected_symlinks, mount.fuse3(8).
func (m *Machine) Permit(a pinpoint.Access, who Identity) (ok bool, clues []pinpoint.Clue, walk []Component) {
	if !supported {
		return false, nil, []Component{{Path: a.Path, Unknown: "permissions are computed on Linux only"}}
	}
	if !path.IsAbs(a.Path) || strings.IndexByte(a.Path, 0) >= 0 {
		return false, nil, []Component{{Path: a.Path, Unknown: "the path is not absolute"}}
	}
	m.scan()
	d := &door{Machine: m, access: a, who: who, root: m.view(who.Process)}
	ok = d.open()
	d.sandbox(&ok)
	if ok && d.doubt() {
		ok = false
	}
	for i := range d.clues {
		c := &d.clues[i]
		c.Source, c.At = pinpoint.FromFiles, a.At
		if c.ID == "" {
			c.ID = "stat-path"
		}
		if c.Names == nil {
			c.Names = map[string]string{}
		}
		c.Names["user"] = who.Name
		c.Names["file"] = show(a.Path)
		if c.Names["path"] == "" {
			c.Names["path"] = show(a.Path)
		}
	}
	return ok, d.clues, d.walk
}

// view is the root of the file system that a process sees.
func (m *Machine) view(p *Process) string {
	if p == nil || p.PID == 0 {
		return m.Root
	}
	if p.Root == "/" && (p.MountNS == "" || p.MountNS == m.ownMountNS()) {
		return m.Root
	}
	return m.Root + "/proc/" + strconv.Itoa(p.PID) + "/root"
}

// door is one access of one worker.
type door struct {
	*Machine
	access pinpoint.Access
	who    Identity
	root   string
	walk   []Component
	clues  []pinpoint.Clue
	mounts []mount
	final  string // the path with its links resolved, when it was reached
}

// need is what the worker asks of the object itself.
func need(want string) uint32 {
	switch want {
	case "read", "list":
		return bitR
	case "search":
		return bitX
	case "write":
		return bitW
	case "exec":
		return bitX
	}
	return 0
}

// bits writes a wish down: "rx".
func bits(want uint32) string {
	s := ""
	for i, b := range []uint32{bitR, bitW, bitX} {
		if want&b != 0 {
			s += string("rwx"[i])
		}
	}
	return s
}

// open walks the path; false when something denies or nothing is there.
func (d *door) open() bool {
	d.mounts = d.mountsOf(d.who.Process)
	stopped := false
	check := func(c, parent *Component) bool {
		if parent != nil {
			stopped = !d.follow(c, parent)
		} else {
			stopped = !d.ask(c, bitX, "")
		}
		return !stopped
	}
	t := d.trace(d.root, d.access.Path, check)
	d.walk = t.parts
	last := &d.walk[len(d.walk)-1]
	switch {
	case stopped:
		return false
	case errors.Is(t.err, fs.ErrNotExist) || errors.Is(t.err, syscall.ENOTDIR):
		last.Missing = true
		return d.missing(last)
	case errors.Is(t.err, syscall.ELOOP):
		last.Denied = true
		d.add(pinpoint.Clue{Cause: "fs-symlink-denied", Weight: pinpoint.Strong, Names: map[string]string{"path": show(last.Path)},
			Says: fmt.Sprintf("%s runs through more than %d symbolic links: they lead in a circle", show(d.access.Path), maxLinks),
			Fix:  []string{fmt.Sprintf("Point the symbolic link %s at a file that is none itself.", show(last.Path))}})
		return false
	case t.err != nil:
		d.blind(last, t.err)
		return false
	}
	d.final = last.Path
	want := need(d.access.Want)
	if want == 0 {
		return true
	}
	if (d.access.Want == "list" || d.access.Want == "search") && !last.dir() {
		last.Missing = true // no directory of that name
		return false
	}
	if d.access.Want == "write" && last.dir() {
		want |= bitX
	}
	if !d.ask(last, want, d.access.Want) {
		return false
	}
	return d.mountAllows(last)
}

// ask lets the kernel's rules decide on one object and says what would help.
func (d *door) ask(c *Component, want uint32, why string) bool {
	if d.foreign(c) {
		return false
	}
	ok, class := d.who.may(c, want)
	c.Needs, c.Class, c.Denied = bits(want), class, !ok
	if ok {
		return true
	}
	d.deny(c, want, class, why)
	return false
}

// foreign says that a FUSE file system is not for this worker, whatever the bits say: without
// allow_other only the user who mounted it may enter.
func (d *door) foreign(c *Component) bool {
	mt := mountOf(d.mounts, c.Path)
	if mt == nil || !mt.fuse() {
		return false
	}
	if _, all := mt.option("allow_other"); all {
		return false
	}
	owner, ok := mt.option("user_id")
	if !ok || number(owner) == d.who.UID {
		return false
	}
	c.Denied, c.Needs, c.Class = true, "x", "mount"
	d.add(pinpoint.Clue{Cause: "fs-network-squash", Weight: pinpoint.Certain, ID: "mount",
		Says:  fmt.Sprintf("%s is a FUSE file system (%s) without allow_other: only its user %s may enter, %s may not", show(mt.Point), mt.Type, d.users.name(number(owner)), d.who.Name),
		Names: map[string]string{"path": show(mt.Point), "directive": "allow_other"},
		Fix:   []string{fmt.Sprintf("Mount %s with the options allow_other,default_permissions, so that the bits of its files decide.", show(mt.Point))}})
	return true
}

// follow decides on a symbolic link: fs.protected_symlinks, and what the options of the server say.
func (d *door) follow(c, parent *Component) bool {
	if c.last && parent.Mode&fs.ModeSticky != 0 && parent.perm&0o002 != 0 && c.UID != d.who.UID && c.UID != parent.UID && d.protected() {
		c.Denied, c.Class = true, "protected_symlinks"
		d.add(pinpoint.Clue{Cause: "fs-symlink-denied", Weight: pinpoint.Certain, Names: map[string]string{"path": show(c.Path), "directive": "fs.protected_symlinks"},
			Says: fmt.Sprintf("the symbolic link %s lies in the sticky directory %s and belongs to %s: the kernel lets %s not follow it (fs.protected_symlinks)", show(c.Path), show(parent.Path), d.users.name(c.UID), d.who.Name),
			Fix:  []string{fmt.Sprintf("Move the content out of %s to a directory that not everybody may write, and set the link there.", show(parent.Path))}})
		return false
	}
	if d.access.Links == "" || d.access.LinksFrom != "" && !below(c.Path, strings.TrimRight(d.access.LinksFrom, "/")) {
		return true
	}
	if d.access.Links == "owner" {
		target, err := examine(d.root + d.resolve(c))
		if err == nil && target.UID == c.UID {
			return true
		}
	}
	c.Denied, c.Class = true, "links"
	says := fmt.Sprintf("%s is a symbolic link to %s, and the server does not follow links there", show(c.Path), show(c.Target))
	fix := "Name the real path in the configuration instead of the link, or let the server follow links in this one directory."
	if d.access.Links == "owner" {
		says = fmt.Sprintf("%s is a symbolic link of %s to %s, which belongs to another user: the server follows only links of the owner of the target", show(c.Path), d.users.name(c.UID), show(c.Target))
		fix = fmt.Sprintf("Give the link the owner of its target: chown -h --reference=%s %s", shell(d.resolve(c)), shell(c.Path))
	}
	d.add(pinpoint.Clue{Cause: "fs-symlink-denied", Weight: pinpoint.Certain, Names: map[string]string{"path": show(c.Path), "target": show(c.Target)}, Says: says, Fix: []string{fix}})
	return false
}

// resolve is where a link leads in the view of the worker.
func (d *door) resolve(c *Component) string {
	target := c.Target
	if !path.IsAbs(target) {
		target = path.Join(path.Dir(c.Path), target)
	}
	t := d.trace(d.root, target, nil)
	return t.parts[len(t.parts)-1].Path
}

func (d *door) protected() bool {
	return strings.TrimSpace(string(d.readProc("/proc/sys/fs/protected_symlinks", 16))) == "1"
}

// mountAllows decides what mount options say on the object itself.
func (d *door) mountAllows(c *Component) bool {
	mt := mountOf(d.mounts, c.Path)
	if mt == nil {
		return true
	}
	_, noexec := mt.option("noexec")
	switch {
	case d.access.Want == "exec" && noexec && c.regular:
		d.add(pinpoint.Clue{Cause: "apache-cgi-denied", Weight: pinpoint.Strong, ID: "mount", Names: map[string]string{"path": show(c.Path), "directive": "noexec"},
			Says: fmt.Sprintf("%s is mounted noexec: no program on it is started", show(mt.Point)),
			Fix:  []string{fmt.Sprintf("Move the script %s to a file system that is not mounted noexec.", show(c.Path))}})
	case d.access.Want == "write" && (slices.Contains(strings.Split(mt.Options, ","), "ro") || slices.Contains(strings.Split(mt.Super, ","), "ro")) && (c.regular || c.dir()):
		d.add(pinpoint.Clue{Cause: "fs-upload-dir-unwritable", Weight: pinpoint.Certain, ID: "mount", Names: map[string]string{"path": show(c.Path), "directive": "ro"},
			Says: fmt.Sprintf("%s is mounted read-only for the worker: nothing is written to %s", show(mt.Point), show(c.Path)),
			Fix:  []string{fmt.Sprintf("Let the server write to a directory that is mounted rw; for a unit of systemd, name it in ReadWritePaths=%s.", shell(c.Path))}})
	default:
		return true
	}
	c.Denied, c.Class = true, "mount"
	return false
}

// deny turns a denial into its clue.
func (d *door) deny(c *Component, want uint32, class, why string) {
	kind, cause := "file", "fs-file-unreadable"
	switch {
	case why == "write":
		cause = "fs-upload-dir-unwritable"
	case why == "exec":
		cause = "apache-cgi-denied"
	case c.dir() && want&bitX != 0:
		cause = "fs-dir-no-search"
	}
	if c.dir() {
		kind = "directory"
	}
	doing := map[uint32]string{bitR: "read", bitW: "write", bitX: "search", bitW | bitX: "write to"}[want]
	if want == bitX && !c.dir() {
		doing = "execute"
	}
	clue := pinpoint.Clue{Cause: cause, Weight: pinpoint.Certain, Names: map[string]string{"path": show(c.Path), "bit": bits(want), "mode": octal(c.perm),
		"owner": d.users.name(c.UID), "group": d.users.group(c.GID)}}
	state := fmt.Sprintf("%s %s (mode %s, owner %s, group %s)", kind, show(c.Path), octal(c.perm), d.users.name(c.UID), d.users.group(c.GID))
	switch class {
	case "owner":
		clue.Says = fmt.Sprintf("%s may not %s the %s: it is the owner, and the owner lacks %s", d.who.Name, doing, state, bits(want))
	case "group":
		clue.Says = fmt.Sprintf("%s may not %s the %s: it is in the group, and the group lacks %s", d.who.Name, doing, state, bits(want))
	case "user", "mask", "group-obj":
		clue.Says = fmt.Sprintf("%s may not %s the %s: the access list denies %s", d.who.Name, doing, state, bits(want))
	default:
		clue.Says = fmt.Sprintf("%s may not %s the %s: others lack %s", d.who.Name, doing, state, bits(want))
	}
	if class == "other" || class == "group" {
		d.lost(c, want, &clue)
	}
	if class != "mask" && d.emptied(c, want) {
		class = "mask"
		if why != "write" {
			clue.Cause = "fs-posix-acl-denied"
		}
		clue.Names["acl"] = d.written(c.ACL)
		clue.Quote = clue.Names["acl"]
		clue.Says = fmt.Sprintf("%s may not %s the %s: an entry of the access list allows %s, its mask is empty, as a chmod leaves it that takes all rights from the group", d.who.Name, doing, state, bits(want))
	}
	if listed := c.ACL != nil && c.perm&0o070 != 0 && class != "owner"; listed && class != "other" {
		if why != "write" {
			clue.Cause = "fs-posix-acl-denied"
		}
		clue.Names["acl"] = d.written(c.ACL)
		clue.Quote = clue.Names["acl"]
		if class == "mask" {
			clue.Says = fmt.Sprintf("%s may not %s the %s: an entry of the access list allows %s, its mask takes it away", d.who.Name, doing, state, bits(want))
		}
	}
	if mt := mountOf(d.mounts, c.Path); mt != nil && (mt.Type == "cifs" || mt.Type == "smb3" || mt.Type == "vfat" || mt.Type == "exfat" || mt.Type == "ntfs3") {
		clue.Cause = "fs-network-squash"
		clue.Says += fmt.Sprintf("; on %s (%s) owner and mode come from the mount options", show(mt.Point), mt.Type)
		clue.Fix = []string{fmt.Sprintf("Mount %s with gid= of a group that %s is in, and with file_mode=0640,dir_mode=0750.", show(mt.Point), d.who.Name)}
		d.add(clue)
		return
	}
	if clue.Fix == nil {
		clue.Fix = d.repair(c, want, class)
	}
	d.add(clue)
}

// emptied says that an access list would allow it and does not count, since its mask allows nothing: the bits of the
// group are the mask (acl(5)).
func (d *door) emptied(c *Component, want uint32) bool {
	if c.ACL == nil || c.perm&0o070 != 0 || d.who.UID == c.UID {
		return false
	}
	return slices.ContainsFunc(c.ACL, func(e Entry) bool {
		return (e.Tag == "user" && e.ID == d.who.UID || e.Tag == "group" && d.who.in(e.ID)) && e.Perm&want == want
	})
}

// lost says that the account is in the group that may, and the process is not: groups are taken on when a server starts.
func (d *door) lost(c *Component, want uint32, clue *pinpoint.Clue) {
	account, err := d.users.identity(d.who.Name)
	if err != nil || d.who.Process == nil || c.perm>>3&want != want || d.who.in(c.GID) || !account.in(c.GID) {
		return
	}
	var runs []string
	for _, g := range append([]uint32{d.who.GID}, d.who.Groups...) {
		if name := d.users.group(g); !slices.Contains(runs, name) && len(runs) < 8 {
			runs = append(runs, name)
		}
	}
	group := d.users.group(c.GID)
	clue.Says += fmt.Sprintf("; the account %s is in the group %s, and the process that runs is not (its groups: %s)", d.who.Name, group, strings.Join(runs, ", "))
	clue.Fix = []string{fmt.Sprintf("Restart the server: a process keeps the groups that its account had when it started. If it still lacks %s, the configuration names another group for its workers.", group)}
}

// written is an access list as getfacl prints it, in one line.
func (d *door) written(acl []Entry) string {
	var parts []string
	for _, e := range acl {
		perm := []byte("---")
		for i, b := range []uint32{bitR, bitW, bitX} {
			if e.Perm&b != 0 {
				perm[i] = "rwx"[i]
			}
		}
		name := ""
		switch e.Tag {
		case "user":
			name = d.users.name(e.ID)
		case "group":
			name = d.users.group(e.ID)
		}
		tag, _, _ := strings.Cut(e.Tag, "-")
		parts = append(parts, tag+":"+name+":"+string(perm))
		if len(parts) == 32 {
			parts = append(parts, "…")
			break
		}
	}
	return strings.Join(parts, ",")
}

// secretNames end the names of files that a web server should not hand out.
var secretNames = []string{".key", ".pem", ".p12", ".pfx", ".env", "shadow", "id_rsa", "id_ed25519", ".kdbx", ".sql", "credentials", ".bak", ".git-credentials", ".npmrc", ".pgpass"}

// repair is the narrowest change that lets this worker pass, on this object alone.
func (d *door) repair(c *Component, want uint32, class string) []string {
	p, b := shell(c.Path), bits(want)
	if below(c.Path, "/proc") || below(c.Path, "/sys") || below(c.Path, "/etc/shadow") || below(c.Path, "/etc/ssl/private") {
		return []string{fmt.Sprintf("Leave %s closed: no request needs it. Correct the path in the configuration.", show(c.Path))}
	}
	if c.Path == "/root" || below(c.Path, "/root") && c.dir() {
		return []string{fmt.Sprintf("Move the content out of /root, for example to /srv/www, and name it in the configuration. Leave %s closed.", show(c.Path))}
	}
	if !c.dir() && want == bitR {
		base := strings.ToLower(path.Base(c.Path))
		for _, s := range secretNames {
			if strings.HasSuffix(base, s) {
				return []string{fmt.Sprintf("Leave %s unreadable: its name says that it holds secrets. Serve another file.", show(c.Path))}
			}
		}
	}
	only := fmt.Sprintf("setfacl -m u:%s:%s %s", shell(d.account()), b, p)
	switch class {
	case "owner":
		return []string{fmt.Sprintf("chmod u+%s %s", b, p)}
	case "group":
		return []string{fmt.Sprintf("chmod g+%s %s", b, p), only + "   # instead, if not the whole group should"}
	case "mask":
		mask := want
		for _, e := range c.ACL {
			if e.Tag == "mask" {
				mask |= e.Perm
			}
		}
		return []string{fmt.Sprintf("setfacl -m m::%s %s   # look at getfacl first: the mask is one for all named users and groups", bits(mask), p)}
	case "user", "group-obj":
		return []string{fmt.Sprintf("setfacl -m u:%s:%s %s   # getfacl %s shows the entry that denies", shell(d.account()), bits(want|d.entry(c)), p, p)}
	}
	if c.dir() && want&bitW != 0 || !c.dir() && want == bitW {
		return []string{only, fmt.Sprintf("chown %s %s   # instead, if only the server writes there", shell(d.account()), p)}
	}
	if c.dir() && strings.HasPrefix(c.Path, "/home/") && strings.Count(c.Path, "/") == 2 {
		return []string{only, "Or move the content out of the home directory, for example to /srv/www."}
	}
	if strings.HasPrefix(path.Base(c.Path), ".ht") {
		return []string{only}
	}
	return []string{only, fmt.Sprintf("chmod o+%s %s   # instead, if every account of this machine may", b, p)}
}

// account is how commands name the worker.
func (d *door) account() string { return strings.TrimPrefix(d.who.Name, "uid ") }

// entry is what the list gives the worker by name.
func (d *door) entry(c *Component) uint32 {
	for _, e := range c.ACL {
		if e.Tag == "user" && e.ID == d.who.UID {
			return e.Perm
		}
	}
	return 0
}

// missing looks why nothing is there: another case, and the nearest directory that exists.
func (d *door) missing(c *Component) bool {
	parent := path.Dir(c.Path)
	if d.access.Want == "write" && c.last && !strings.HasSuffix(d.access.Path, "/") {
		// A file that does not exist is made: its directory has to allow that.
		t := d.trace(d.root, parent, nil)
		if t.err == nil {
			dir := t.parts[len(t.parts)-1]
			ok := d.ask(&dir, bitW|bitX, "write") && d.mountAllows(&dir)
			d.walk[len(d.walk)-1] = dir
			return ok
		}
	}
	left := maxEntries
	names, _ := listReal(d.root+parent, &left)
	base := path.Base(c.Path)
	for _, n := range names {
		if n == base || !strings.EqualFold(strings.TrimSpace(n), strings.TrimSpace(base)) {
			continue
		}
		d.add(pinpoint.Clue{Cause: "fs-case-or-name", Weight: pinpoint.Strong,
			Says:  fmt.Sprintf("%s does not exist, %s does: names differ by case here", show(c.Path), show(path.Join(parent, n))),
			Names: map[string]string{"path": show(c.Path), "found": show(path.Join(parent, n)), "parent": show(parent)},
			Fix:   []string{fmt.Sprintf("Ask for %s as it is written on the disk, or rename it: mv -n %s %s", show(n), shell(path.Join(parent, n)), shell(c.Path))}})
		break
	}
	return false
}

// blind says what it may mean that this program itself may not look.
func (d *door) blind(c *Component, err error) {
	c.Unknown = reasonOf(err)
	mt := mountOf(d.mounts, c.Path)
	if mt == nil || !mt.network() || !errors.Is(err, fs.ErrPermission) || d.ownCaps()&capSearch == 0 {
		return
	}
	// Root of this machine is refused: that is done by the other side.
	d.add(pinpoint.Clue{Cause: "fs-network-squash", Weight: pinpoint.Strong, ID: "mount", Names: map[string]string{"path": show(mt.Point)},
		Says: fmt.Sprintf("even root may not look at %s: the file system %s is %s, and its other side decides", show(c.Path), show(mt.Point), mt.Type),
		Fix:  []string{fmt.Sprintf("Let the server that exports %s give %s read access; for FUSE, mount with allow_other.", show(mt.Source), d.who.Name)}})
}

func (d *door) add(c pinpoint.Clue) { d.clues = append(d.clues, c) }

// ownCaps are the capabilities of this program.
func (m *Machine) ownCaps() uint64 {
	var p Process
	parseStatus(m.readProc("/proc/self/status", 1<<16), &p)
	return p.Caps
}

// ownMountNS is the mount namespace of this program.
func (m *Machine) ownMountNS() string {
	s, _ := os.Readlink(m.Root + "/proc/self/ns/mnt")
	return s
}

// sandbox compares the view of the worker with ours: what exists here, and is missing or closed there,
// was taken away by its unit (systemd.exec(5): ProtectHome, PrivateTmp, InaccessiblePaths, TemporaryFileSystem).
func (d *door) sandbox(ok *bool) {
	p := d.who.Process
	if *ok || p == nil || d.root == d.Root || p.Container || p.Root != "/" {
		return
	}
	ours := d.trace(d.Root, d.access.Path, nil)
	if ours.err != nil {
		return
	}
	here := ours.parts[len(ours.parts)-1].Path
	mine, theirs := mountOf(d.mountsOf(nil), here), mountOf(d.mounts, here)
	if theirs == nil || mine != nil && *mine == *theirs {
		return
	}
	last := d.walk[len(d.walk)-1]
	if !last.Missing && !last.Denied {
		return
	}
	option := ""
	switch {
	case strings.Contains(theirs.Root, "systemd-private-"):
		option = "PrivateTmp="
	case strings.Contains(theirs.Root, "systemd/inaccessible"), strings.Contains(theirs.Point, "systemd/inaccessible"):
		option = "InaccessiblePaths="
	case theirs.Type == "tmpfs":
		option = "TemporaryFileSystem="
	default:
		return
	}
	if theirs.Point == "/home" || theirs.Point == "/root" || theirs.Point == "/run/user" {
		option = "ProtectHome="
	}
	unit := p.Unit
	if unit == "" {
		unit = "its unit"
	}
	d.clues = slices.DeleteFunc(d.clues, func(c pinpoint.Clue) bool { return c.Cause != "" })
	d.add(pinpoint.Clue{Cause: "fs-systemd-sandbox", Weight: pinpoint.Certain, ID: "mount",
		Says:  fmt.Sprintf("%s exists, but not for %s (pid %d): %s has a file system of its own over %s (%s)", show(d.access.Path), d.who.Name, p.PID, unit, show(theirs.Point), option),
		Names: map[string]string{"path": show(theirs.Point), "unit": unit, "directive": option},
		Fix: []string{fmt.Sprintf("Move the content below /srv and name it in the configuration; then %s can stay.", option),
			fmt.Sprintf("Or let the unit see this one directory: systemctl edit %s, [Service] BindReadOnlyPaths=%s", unit, shell(path.Dir(d.access.Path)))}})
}

// octal is a mode as chmod takes it.
func octal(perm uint32) string { return fmt.Sprintf("%04o", perm) }

// show writes a path for people: as it is, or quoted when it holds what a terminal would obey.
func show(p string) string {
	if len(p) > 512 {
		p = p[:256] + "…" + p[len(p)-200:]
	}
	if !utf8.ValidString(p) || strings.ContainsFunc(p, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(p)
	}
	return p
}

// shell writes a word for a shell, so that nothing in it is obeyed.
func shell(p string) string {
	plain, control := true, !utf8.ValidString(p)
	for _, r := range p {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:,@%", r)) {
			plain = false
		}
		control = control || !unicode.IsPrint(r)
	}
	switch {
	case control:
		var b strings.Builder
		for i := range len(p) {
			if c := p[i]; c < ' ' || c >= 0x7f || c == '\'' || c == '\\' {
				fmt.Fprintf(&b, `\x%02x`, c)
			} else {
				b.WriteByte(c)
			}
		}
		return "$'" + b.String() + "'"
	case plain && p != "" && p[0] != '-':
		return p
	}
	return "'" + strings.ReplaceAll(p, "'", `'\''`) + "'"
}
