//go:build linux

package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/whygate/whygate/pinpoint"
)

// srv is a machine in a root of its own, with accounts.
func srv(t *testing.T, files ...string) *Machine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can give files away")
	}
	plain := map[string]string{"/etc/passwd": "root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/var/www:/none\nanna:x:1000:1000::/home/anna:/bin/sh\n", "/etc/group": "root:x:0:\nwww-data:x:33:\nanna:x:1000:\n"}
	for _, f := range files {
		plain[f] = "x"
	}
	m := plant(t, plain)
	if err := os.Chmod(m.Root, 0o755); err != nil {
		t.Fatal(err)
	}
	return m
}

func www(t *testing.T, m *Machine) Identity {
	t.Helper()
	who, err := m.Identity("www-data")
	if err != nil {
		t.Fatal(err)
	}
	return who
}

func chmod(t *testing.T, m *Machine, name string, mode uint32) {
	t.Helper()
	if err := unix.Chmod(m.Root+name, mode); err != nil {
		t.Fatal(err)
	}
}

// harmful are parts of commands that no fix may have.
var harmful = []string{"777", "666", "chmod -R", "chown -R", "a+", "o+w", "+rwx", "setenforce 0", "aa-disable", "aa-complain", "Require all granted"}

// one is the one clue of an access, checked for what every fix must keep.
func one(t *testing.T, clues []pinpoint.Clue) pinpoint.Clue {
	t.Helper()
	if len(clues) != 1 {
		t.Fatalf("clues: %+v", clues)
	}
	if len(clues[0].Fix) == 0 {
		t.Errorf("no fix: %+v", clues[0])
	}
	for _, f := range clues[0].Fix {
		for _, h := range harmful {
			if strings.Contains(f, h) {
				t.Errorf("fix %q has %q", f, h)
			}
		}
	}
	return clues[0]
}

// TestS01 is a directory without the search bit.
func TestS01(t *testing.T) {
	m := srv(t, "/srv/t1/private/a.html")
	chmod(t, m, "/srv/t1/private", 0o750)
	ok, clues, walk := m.Permit(pinpoint.Access{Path: "/srv/t1/private/a.html", Want: "read", At: pinpoint.Place{File: "/etc/nginx/nginx.conf", Line: 7}}, www(t, m))
	c := one(t, clues)
	if ok || c.Cause != "fs-dir-no-search" || c.Names["path"] != "/srv/t1/private" || c.Names["user"] != "www-data" || c.Names["bit"] != "x" || c.At.Line != 7 || c.Source != pinpoint.FromFiles || c.Weight != pinpoint.Certain {
		t.Errorf("%v %+v", ok, c)
	}
	want := []string{"setfacl -m u:www-data:x /srv/t1/private", "chmod o+x /srv/t1/private   # instead, if every account of this machine may"}
	if !slices.Equal(c.Fix, want) {
		t.Errorf("fix %q", c.Fix)
	}
	if last := walk[len(walk)-1]; last.Path != "/srv/t1/private" || !last.Denied || last.Class != "other" {
		t.Errorf("walk %+v", last)
	}
	// What the fix says must help, and the other way round.
	chmod(t, m, "/srv/t1/private", 0o751)
	if ok, clues, _ := m.Permit(pinpoint.Access{Path: "/srv/t1/private/a.html", Want: "read"}, www(t, m)); !ok || clues != nil {
		t.Errorf("after the fix: %v %+v", ok, clues)
	}
}

func TestDenials(t *testing.T) {
	m := srv(t, "/srv/a/report.pdf", "/srv/a/mine", "/srv/a/group", "/srv/a/.htpasswd", "/srv/a/server.key", "/srv/a/We ird'$x", "/root/site/a", "/home/anna/site/a", "/srv/a/listed", "/srv/a/masked", "/srv/up/x", "/srv/a/Photo.JPG", "/srv/real/a")
	chmod(t, m, "/srv/a/report.pdf", 0o600)
	chmod(t, m, "/srv/a/mine", 0o077)
	os.Chown(m.Root+"/srv/a/mine", 33, 0)
	chmod(t, m, "/srv/a/group", 0o604)
	os.Chown(m.Root+"/srv/a/group", 0, 33)
	for _, n := range []string{"/srv/a/.htpasswd", "/srv/a/server.key", "/srv/a/We ird'$x"} {
		chmod(t, m, n, 0o600)
	}
	chmod(t, m, "/root", 0o700)
	chmod(t, m, "/home/anna", 0o700)
	os.Symlink("/srv/real", m.Root+"/srv/a/current")
	acl := true
	acl = acl && setACL(t, m.Root+"/srv/a/listed", []Entry{{"user-obj", 0, 6}, {"user", 33, 0}, {"group-obj", 0, 4}, {"mask", 0, 4}, {"other", 0, 4}})
	acl = acl && setACL(t, m.Root+"/srv/a/masked", []Entry{{"user-obj", 0, 6}, {"user", 33, 4}, {"group-obj", 0, 0}, {"mask", 0, 1}, {"other", 0, 4}})
	for _, c := range []struct {
		a                pinpoint.Access
		cause, path, fix string
	}{
		{pinpoint.Access{Path: "/srv/a/report.pdf", Want: "read"}, "fs-file-unreadable", "/srv/a/report.pdf", "setfacl -m u:www-data:r /srv/a/report.pdf"},
		{pinpoint.Access{Path: "/srv/a/mine", Want: "read"}, "fs-file-unreadable", "/srv/a/mine", "chmod u+r /srv/a/mine"},
		{pinpoint.Access{Path: "/srv/a/group", Want: "read"}, "fs-file-unreadable", "/srv/a/group", "chmod g+r /srv/a/group"},
		{pinpoint.Access{Path: "/srv/a/.htpasswd", Want: "read"}, "fs-file-unreadable", "/srv/a/.htpasswd", "setfacl -m u:www-data:r /srv/a/.htpasswd"},
		{pinpoint.Access{Path: "/srv/a/server.key", Want: "read"}, "fs-file-unreadable", "/srv/a/server.key", "Leave /srv/a/server.key unreadable: its name says that it holds secrets. Serve another file."},
		{pinpoint.Access{Path: "/srv/a/We ird'$x", Want: "read"}, "fs-file-unreadable", "/srv/a/We ird'$x", `setfacl -m u:www-data:r '/srv/a/We ird'\''$x'`},
		{pinpoint.Access{Path: "/root/site/a", Want: "read"}, "fs-dir-no-search", "/root", "Move the content out of /root, for example to /srv/www, and name it in the configuration. Leave /root closed."},
		{pinpoint.Access{Path: "/home/anna/site/a", Want: "read"}, "fs-dir-no-search", "/home/anna", "setfacl -m u:www-data:x /home/anna"},
		{pinpoint.Access{Path: "/srv/a/listed", Want: "read"}, "fs-posix-acl-denied", "/srv/a/listed", "setfacl -m u:www-data:r /srv/a/listed   # getfacl /srv/a/listed shows the entry that denies"},
		{pinpoint.Access{Path: "/srv/a/masked", Want: "read"}, "fs-posix-acl-denied", "/srv/a/masked", "setfacl -m m::rx /srv/a/masked   # look at getfacl first: the mask is one for all named users and groups"},
		{pinpoint.Access{Path: "/srv/up", Want: "write"}, "fs-upload-dir-unwritable", "/srv/up", "setfacl -m u:www-data:wx /srv/up"},
		{pinpoint.Access{Path: "/srv/up/new", Want: "write"}, "fs-upload-dir-unwritable", "/srv/up", "setfacl -m u:www-data:wx /srv/up"},
		{pinpoint.Access{Path: "/srv/a/photo.jpg", Want: "read"}, "fs-case-or-name", "/srv/a/photo.jpg", "Ask for Photo.JPG as it is written on the disk, or rename it: mv -n /srv/a/Photo.JPG /srv/a/photo.jpg"},
		{pinpoint.Access{Path: "/srv/a/current/a", Want: "read", Links: "none"}, "fs-symlink-denied", "/srv/a/current", ""},
		{pinpoint.Access{Path: "/srv/a/current/a", Want: "read", Links: "none", LinksFrom: "/srv/a"}, "fs-symlink-denied", "/srv/a/current", ""},
		{pinpoint.Access{Path: "/srv/a/mine", Want: "exec"}, "apache-cgi-denied", "/srv/a/mine", "chmod u+x /srv/a/mine"},
	} {
		if strings.HasPrefix(c.cause, "fs-posix") && !acl {
			continue
		}
		ok, clues, _ := m.Permit(c.a, www(t, m))
		got := one(t, clues)
		if ok || got.Cause != c.cause || got.Names["path"] != c.path || c.fix != "" && got.Fix[0] != c.fix {
			t.Errorf("%+v: %v %+v", c.a, ok, got)
		}
	}
	for _, a := range []pinpoint.Access{
		{Path: "/srv/a/current/a", Want: "read"},
		{Path: "/srv/a/current/a", Want: "read", Links: "owner"},
		{Path: "/srv/a/current/a", Want: "read", Links: "none", LinksFrom: "/srv/elsewhere"},
		{Path: "/srv/a", Want: "list"}, {Path: "/srv/a/..", Want: "search"},
	} {
		if ok, clues, walk := m.Permit(a, www(t, m)); !ok || clues != nil {
			t.Errorf("%+v: %+v %+v", a, clues, walk)
		}
	}
	os.Lchown(m.Root+"/srv/a/current", 1000, 1000)
	_, clues, _ := m.Permit(pinpoint.Access{Path: "/srv/a/current/a", Want: "read", Links: "owner"}, www(t, m))
	if c := one(t, clues); c.Cause != "fs-symlink-denied" || c.Fix[0] != "Give the link the owner of its target: chown -h --reference=/srv/real /srv/a/current" {
		t.Errorf("%+v", c)
	}
	ok, clues, walk := m.Permit(pinpoint.Access{Path: "/srv/a/none/x", Want: "read"}, www(t, m))
	if last := walk[len(walk)-1]; ok || clues != nil || !last.Missing || last.Path != "/srv/a/none" || nearest(walk) != "/srv/a" {
		t.Errorf("missing: %v %+v %+v", ok, clues, last)
	}
}

// TestHostileNames gives names that a terminal or a shell would obey.
func TestHostileNames(t *testing.T) {
	m := srv(t)
	name := "/srv/\x1b[2J; rm -rf ~\n'$(id)'"
	if err := os.MkdirAll(m.Root+name, 0o700); err != nil {
		t.Fatal(err)
	}
	chmod(t, m, "/srv", 0o755)
	_, clues, _ := m.Permit(pinpoint.Access{Path: name + "/a", Want: "read"}, www(t, m))
	c := one(t, clues)
	if text := fmt.Sprint(c); strings.ContainsAny(text, "\x1b\n") {
		t.Errorf("%q", text)
	}
	out, err := exec.Command("bash", "-c", "printf %s "+shell(name)).Output()
	if err != nil || string(out) != name {
		t.Errorf("%q, %v", out, err)
	}
}

func FuzzShell(f *testing.F) {
	f.Add("/a b'c\\\n\x1b")
	f.Fuzz(func(t *testing.T, s string) {
		q := shell(s)
		if strings.ContainsAny(q, "\x00\n\x1b") {
			t.Errorf("%q", q)
		}
		if !strings.HasPrefix(q, "$'") && !strings.HasPrefix(q, "'") && strings.ContainsAny(q, " '\"$`\\;&|<>()*?[]{}!#~\t") {
			t.Errorf("%q is read by the shell", q)
		}
	})
}

// TestSandbox is a worker with a file system of its own over /home, as ProtectHome makes it.
func TestSandbox(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may make mount namespaces")
	}
	home := filepath.Join(t.TempDir(), "home")
	os.MkdirAll(home+"/anna", 0o755)
	for d := home; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	file := home + "/anna/a.html"
	if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "-m", "sh", "-c", `mount -t tmpfs tmpfs "$1" && echo ready && exec sleep 60`, "sh", home)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip("unshare: ", err)
	}
	defer func() { cmd.Process.Signal(syscall.SIGKILL); cmd.Wait() }()
	ready := make([]byte, 6)
	if n, _ := out.Read(ready); !strings.HasPrefix(string(ready[:n]), "ready") {
		t.Skip("mount namespaces are not allowed here")
	}
	m := New()
	p := &Process{PID: cmd.Process.Pid, Root: "/", Unit: "nginx.service", Product: "nginx"}
	p.MountNS = m.link(p.PID, "ns/mnt")
	who := Identity{Name: "www-data", UID: 33, GID: 33, Process: p}
	ok, clues, _ := m.Permit(pinpoint.Access{Path: file, Want: "read"}, who)
	c := one(t, clues)
	if ok || c.Cause != "fs-systemd-sandbox" || c.Names["path"] != home || c.Names["unit"] != "nginx.service" || c.Names["directive"] != "TemporaryFileSystem=" {
		t.Errorf("%v %+v", ok, c)
	}
	who.Process = nil
	if ok, clues, _ := m.Permit(pinpoint.Access{Path: file, Want: "read"}, who); !ok {
		t.Errorf("in our own view: %+v", clues)
	}
}

// fake makes a process of a root that is not ours: its mounts and labels are files there.
func fake(t *testing.T, m *Machine, label, mounts string) Identity {
	t.Helper()
	who := www(t, m)
	who.Process = &Process{PID: 4242, Root: "/", Label: label, Comm: "nginx", Product: "nginx"}
	for name, text := range map[string]string{"/proc/4242/mountinfo": mounts, "/proc/self/mountinfo": mounts} {
		os.MkdirAll(filepath.Dir(m.Root+name), 0o755)
		if err := os.WriteFile(m.Root+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return who
}

func TestMounts(t *testing.T) {
	m := srv(t, "/mnt/f/a", "/mnt/ok/a", "/mnt/cifs/a", "/mnt/noexec/a", "/mnt/ro/a")
	root := "30 1 8:1 / / rw - ext4 /dev/a rw\n"
	who := fake(t, m, "", root+
		"31 30 0:40 / /mnt/f rw - fuse.sshfs me@h: rw,user_id=1000,group_id=1000\n"+
		"32 30 0:41 / /mnt/ok rw - fuse.sshfs me@h: rw,user_id=1000,allow_other\n"+
		"33 30 0:42 / /mnt/cifs rw - cifs //h/s rw,file_mode=0600\n"+
		"34 30 0:43 / /mnt/noexec rw,noexec - ext4 /dev/b rw\n"+
		"35 30 0:44 / /mnt/ro ro - ext4 /dev/c rw\n")
	chmod(t, m, "/mnt/cifs/a", 0o600)
	chmod(t, m, "/mnt/noexec/a", 0o755)
	chmod(t, m, "/mnt/ro/a", 0o646)
	for _, c := range []struct{ path, want, cause string }{
		{"/mnt/f/a", "read", "fs-network-squash"}, {"/mnt/ok/a", "read", ""}, {"/mnt/cifs/a", "read", "fs-network-squash"},
		{"/mnt/noexec/a", "exec", "apache-cgi-denied"}, {"/mnt/noexec/a", "read", ""}, {"/mnt/ro/a", "write", "fs-upload-dir-unwritable"}, {"/mnt/ro/a", "read", ""},
	} {
		ok, clues, walk := m.Permit(pinpoint.Access{Path: c.path, Want: c.want}, who)
		if ok != (c.cause == "") {
			t.Errorf("%s %s: %v %+v %+v", c.want, c.path, ok, clues, walk)
		} else if c.cause != "" && one(t, clues).Cause != c.cause {
			t.Errorf("%s %s: %+v", c.want, c.path, clues)
		}
	}
}

func TestAppArmor(t *testing.T) {
	m := srv(t, "/srv/www/a.html", "/srv/other/a.html", "/srv/www/secret/k", "/etc/apparmor.d/zz")
	write := func(name, text string) {
		os.MkdirAll(filepath.Dir(m.Root+name), 0o755)
		os.WriteFile(m.Root+name, []byte(text), 0o644)
	}
	write("/etc/apparmor.d/tunables/global", "@{WEB}=/srv/www /var/www/\n")
	write("/etc/apparmor.d/abstractions/base", "  /etc/{passwd,group} r,\n  /lib/**.so* mr,\n")
	profile := "#include <tunables/global>\nprofile nginx /usr/sbin/nginx flags=(attach_disconnected) {\n  #include <abstractions/base>\n  include if exists <local/none>\n  capability dac_override,\n  network inet stream,\n  @{WEB}/** r, # content\n  deny /srv/www/secret/** rw,\n  owner /var/log/** w,\n  ^hat {\n    /srv/other/** r,\n  }\n}\n"
	write("/etc/apparmor.d/usr.sbin.nginx", profile)
	root := "30 1 8:1 / / rw - ext4 /dev/a rw\n"
	who := fake(t, m, "nginx (enforce)", root)
	if ok, clues, _ := m.Permit(pinpoint.Access{Path: "/srv/www/a.html", Want: "read"}, who); !ok || clues != nil {
		t.Errorf("allowed: %+v", clues)
	}
	ok, clues, _ := m.Permit(pinpoint.Access{Path: "/srv/other/a.html", Want: "read"}, who)
	if c := one(t, clues); ok || c.Cause != "fs-apparmor-denied" || c.Weight != pinpoint.Strong || c.Fix[0] != "Add the line “/srv/other/a.html r,” to /etc/apparmor.d/local/usr.sbin.nginx, then apparmor_parser -r /etc/apparmor.d/usr.sbin.nginx" {
		t.Errorf("no rule: %v %+v", ok, c)
	}
	ok, clues, _ = m.Permit(pinpoint.Access{Path: "/srv/www/secret/k", Want: "read"}, who)
	if c := one(t, clues); ok || !strings.Contains(c.Says, "deny rule") {
		t.Errorf("deny: %v %+v", ok, c)
	}
	// What is not understood makes it possible only.
	write("/etc/apparmor.d/usr.sbin.nginx", strings.Replace(profile, "  capability", "  @{UNKNOWN}/** r,\n  capability", 1))
	ok, clues, _ = m.Permit(pinpoint.Access{Path: "/srv/other/a.html", Want: "read"}, who)
	if c := one(t, clues); !ok || c.Weight != pinpoint.Hint {
		t.Errorf("possible: %v %+v", ok, c)
	}
	for _, label := range []string{"nginx (complain)", "unconfined", ""} {
		who.Process.Label = label
		if ok, clues, _ := m.Permit(pinpoint.Access{Path: "/srv/other/a.html", Want: "read"}, who); !ok || clues != nil {
			t.Errorf("%q: %+v", label, clues)
		}
	}
}

func TestSELinux(t *testing.T) {
	contexts := &fileContexts{}
	contexts.add("# policy\n/.*\tsystem_u:object_r:default_t:s0\n/srv/([^/]*/)?www(/.*)?\tsystem_u:object_r:httpd_sys_content_t:s0\n/srv/www/pipe -p system_u:object_r:pipe_t:s0\n/bad( system_u:object_r:bad_t:s0\n/none <<none>>\n")
	for name, want := range map[string]string{"/srv/www/a": "httpd_sys_content_t", "/srv/x/www": "httpd_sys_content_t", "/srv/xwww": "default_t", "/none": "", "/srv/www/pipe": "httpd_sys_content_t"} {
		if got := field(contexts.match(name, false), 2); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	m := srv(t, "/srv/www/a.html")
	who := fake(t, m, "system_u:system_r:httpd_t:s0", "30 1 8:1 / / rw - ext4 /dev/a rw\n")
	d := &door{Machine: m, who: who, final: "/srv/www/a.html", walk: []Component{{Path: "/srv/www", Mode: os.ModeDir, Label: "u:o:var_t:s0"}, {Path: "/srv/www/a.html", Label: "unconfined_u:object_r:user_home_t:s0"}}}
	if d.doubt(); d.clues != nil {
		t.Errorf("not enforcing: %+v", d.clues)
	}
	os.MkdirAll(m.Root+"/sys/fs/selinux", 0o755)
	os.WriteFile(m.Root+"/sys/fs/selinux/enforce", []byte("1"), 0o644)
	os.MkdirAll(m.Root+"/etc/selinux/targeted/contexts/files", 0o755)
	os.WriteFile(m.Root+"/etc/selinux/targeted/contexts/files/file_contexts", []byte("/srv/www(/.*)? system_u:object_r:httpd_sys_content_t:s0\n"), 0o644)
	if d.doubt() {
		t.Error("a label alone is no proof")
	}
	if c := one(t, d.clues); c.Cause != "fs-selinux-denied" || c.Weight != pinpoint.Strong || c.Fix[0] != "restorecon -v /srv/www/a.html" {
		t.Errorf("%+v", c)
	}
}

func FuzzText(f *testing.F) {
	f.Add("profile x /usr/sbin/nginx {\n /a/** r,\n @{V}/{a,b}[c]*? rw,\n}\n", "/srv/a")
	f.Add("[www]\nlisten = /run/a.sock\nsecurity.limit_extensions = .php\ninclude=/etc/*.conf\n", "/a.php")
	f.Add("/srv(/.*)?\t--\tu:o:t:s0\n", "/srv/www")
	f.Add("30 1 8:1 / /a\\040b rw - nfs h:/x rw\n", "/a b")
	f.Fuzz(func(t *testing.T, text, name string) {
		if body, ok := armorBlock(text, "x"); ok {
			r, a := armorReader{m: &Machine{Root: "/nonexistent"}, vars: map[string][]string{"V": {"/v/", "w"}}}, &armor{whole: true}
			r.variables(text, 0)
			r.read(body, a, 0)
			a.decide(name, "r", true)
		}
		c := &fileContexts{}
		c.add(text)
		c.match(name, false)
		mountOf(parseMounts([]byte(text)), name)
		parseTCP([]byte(text))
		parseUnix([]byte(text))
		parseStatus([]byte(text), &Process{})
		parseUnit([]byte(text))
		arguments([]byte(text))
		parseACL([]byte(text))
		ini(name)
		if strings.ContainsFunc(mask(text), func(r rune) bool { return r < ' ' && r != '\t' }) {
			t.Errorf("%q", mask(text))
		}
	})
}

// TestProtectedSymlinks is the rule of proc_sys_fs(5) for links in sticky directories that all may write: only
// the last part of a path is subject to it.
func TestProtectedSymlinks(t *testing.T) {
	m := srv(t, "/srv/d/f", "/tmp/x")
	chmod(t, m, "/tmp", 0o1777)
	os.MkdirAll(m.Root+"/proc/sys/fs", 0o755)
	for name, uid := range map[string]int{"anna": 1000, "www": 33, "root": 0} {
		os.Symlink("/srv/d", m.Root+"/tmp/"+name)
		os.Lchown(m.Root+"/tmp/"+name, uid, uid)
	}
	for value, cases := range map[string]map[string]bool{
		"1\n": {"/tmp/anna": false, "/tmp/anna/f": true, "/tmp/www": true, "/tmp/root": true},
		"0\n": {"/tmp/anna": true},
	} {
		os.WriteFile(m.Root+"/proc/sys/fs/protected_symlinks", []byte(value), 0o644)
		for name, want := range cases {
			ok, clues, _ := m.Permit(pinpoint.Access{Path: name, Want: "read"}, www(t, m))
			if ok != want {
				t.Errorf("%s with %q: %v %+v", name, value, ok, clues)
			} else if !ok && one(t, clues).Cause != "fs-symlink-denied" {
				t.Errorf("%s: %+v", name, clues)
			}
		}
	}
}
