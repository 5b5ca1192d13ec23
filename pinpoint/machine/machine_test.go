//go:build linux

package machine

import (
	"compress/gzip"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/whygate/whygate/pinpoint"
)

var _ pinpoint.Files = (*Machine)(nil)

// plant writes files below a root.
func plant(t testing.TB, files map[string]string) *Machine {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &Machine{Root: root, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.10")}}
}

func TestReadFile(t *testing.T) {
	m := plant(t, map[string]string{"/etc/a.conf": "a", "/etc/big": strings.Repeat("x", MaxFile+1), "/etc/full": strings.Repeat("x", MaxFile)})
	outside := filepath.Join(t.TempDir(), "outside")
	os.WriteFile(outside, []byte("outside"), 0o644)
	os.Symlink("/etc/a.conf", m.Root+"/etc/link") // absolute: below the root
	os.Symlink("../../../../../../../../etc/a.conf", m.Root+"/etc/climb")
	os.Symlink(outside, m.Root+"/etc/out")
	os.Symlink("loop", m.Root+"/etc/loop")
	if err := syscall.Mkfifo(m.Root+"/etc/pipe", 0o644); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"/etc/a.conf": "a", "/etc/link": "a", "/etc/climb": "a", "/etc/../etc/./a.conf": "a"} {
		if got, err := m.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, err := m.ReadFile("/etc/full"); err != nil || len(got) != MaxFile {
		t.Errorf("a file of 4 MiB: %d bytes, %v", len(got), err)
	}
	for name, want := range map[string]error{"/etc/big": errTooLarge, "/etc/pipe": errRegular, "/etc": errRegular, "/etc/none": os.ErrNotExist, "/etc/out": os.ErrNotExist, "/etc/loop": syscall.ELOOP, "/etc/a.conf\x00": syscall.EINVAL} {
		if got, err := m.ReadFile(name); !errors.Is(err, want) || strings.Contains(fmt.Sprint(err), m.Root) {
			t.Errorf("%q: %q, %v, want %v", name, got, err, want)
		}
	}
	if _, err := m.ReadFile("etc/a.conf"); err == nil {
		t.Error("a relative name was read")
	}
	if !slices.Contains(m.Files(), "/etc/a.conf") {
		t.Errorf("files read: %v", m.Files())
	}
}

func TestGlob(t *testing.T) {
	files := map[string]string{"/etc/n/sites/b.conf": "", "/etc/n/sites/a.conf": "", "/etc/n/sites/c.txt": "", "/etc/n/x/d.conf": ""}
	m := plant(t, files)
	os.Symlink("/etc/n/sites", m.Root+"/etc/n/linked")
	for pattern, want := range map[string][]string{
		"/etc/n/sites/*.conf":      {"/etc/n/sites/a.conf", "/etc/n/sites/b.conf"},
		"/etc/n/*/d.conf":          {"/etc/n/x/d.conf"},
		"/etc/n/linked/[ab].conf":  {"/etc/n/linked/a.conf", "/etc/n/linked/b.conf"},
		"/etc/n/sites/a.conf":      {"/etc/n/sites/a.conf"},
		"/etc/n/sites/none.conf":   nil,
		"/etc/n/sites/a.conf/none": nil,
	} {
		if got, err := m.Glob(pattern); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v, want %v", pattern, got, err, want)
		}
	}
	for _, bad := range []string{"sites/*", "/etc/[", "/" + strings.Repeat("a/", 400)} {
		if got, err := m.Glob(bad); err == nil {
			t.Errorf("%.20q: %v", bad, got)
		}
	}
	for i := range MaxGlob + 1 {
		os.WriteFile(fmt.Sprintf("%s/etc/n/x/%05d", m.Root, i), nil, 0o644)
	}
	if got, err := m.Glob("/etc/n/x/*"); !errors.Is(err, errTooMany) || len(got) != MaxGlob {
		t.Errorf("too many: %d, %v", len(got), err)
	}
}

func TestListening(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket := filepath.Join(t.TempDir(), "a socket")
	u, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	m := New()
	p, product := m.Listening(l.Addr().(*net.TCPAddr).AddrPort())
	if p == nil || p.PID != os.Getpid() || product != "" || p.UID != uint32(os.Geteuid()) {
		t.Errorf("tcp: %+v, %q", p, product)
	}
	if p, _ := m.ListeningUnix(socket); p == nil || p.PID != os.Getpid() {
		t.Errorf("unix: %+v", p)
	}
	if p, _ := m.Listening(netip.MustParseAddrPort("127.0.0.1:1")); p != nil {
		t.Errorf("port 1: %+v", p)
	}
	t.Setenv("PINPOINT_TEST_SEEN", "not in environ: it was set later")
	if got := m.Environment(p, "PATH", "PINPOINT_TEST_NONE"); got["PATH"] == "" || len(got) != 1 {
		t.Errorf("environment: %v", got)
	}
}

func TestProcText(t *testing.T) {
	tcp := "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" +
		"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000    33        0 4711 1 0 100 0 0 10 0\n" +
		"   1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000    33        0 4712 1 0 100 0 0 10 0\n" +
		"   2: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0\n" +
		"   3: zz:0050 0:0 0A 0 0 0 0 0 4714\n"
	got := parseTCP([]byte(tcp))
	if len(got) != 2 || got[0].Addr.String() != "127.0.0.1:8080" || got[0].UID != 33 || got[0].Inode != 4711 || got[1].Addr.String() != "[::1]:80" {
		t.Errorf("tcp: %+v", got)
	}
	unix := "Num       RefCount Protocol Flags    Type St Inode Path\n" +
		"0000000000000000: 00000002 00000000 00010000 0001 01 17179 /run/php/my pool.sock\n" +
		"0000000000000000: 00000002 00000000 00010000 0001 01 17180 @abstract\n" +
		"0000000000000000: 00000003 00000000 00000000 0001 03 17181 /run/php/my pool.sock\n"
	if got := parseUnix([]byte(unix)); len(got) != 1 || got[0].Path != "/run/php/my pool.sock" || got[0].Inode != 17179 {
		t.Errorf("unix: %+v", got)
	}
	var p Process
	parseStatus([]byte("Name:\tnginx\nPPid:\t9\nUid:\t1\t2\t3\t33\nGid:\t0\t0\t0\t34\nGroups:\t4 24\nCapEff:\t0000000000000006\n"), &p)
	if p.Comm != "nginx" || p.Parent != 9 || p.UID != 33 || p.GID != 34 || !slices.Equal(p.Groups, []uint32{4, 24}) || p.Caps != 6 {
		t.Errorf("status: %+v", p)
	}
	for raw, want := range map[string][]string{
		"nginx: master process /usr/sbin/nginx -c /tmp/x.conf":        {"/usr/sbin/nginx", "-c", "/tmp/x.conf"},
		"php-fpm: master process (/etc/php/8.2/fpm/php-fpm.conf)\x00": {"php-fpm", "-y", "/etc/php/8.2/fpm/php-fpm.conf"},
		"/usr/sbin/apache2\x00-k\x00start\x00":                        {"/usr/sbin/apache2", "-k", "start"},
		"nginx: worker process":                                       nil,
	} {
		if got, _ := arguments([]byte(raw)); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", raw, got, want)
		}
	}
	for raw, want := range map[string]string{"0::/system.slice/nginx.service\n": "nginx.service", "1:name=systemd:/user.slice/user-0.slice/user@0.service/app.slice/x.scope": "", "0::/": "", "0::/system.slice/php8.2-fpm.service/child\n": "php8.2-fpm.service"} {
		if got := parseUnit([]byte(raw)); got != want {
			t.Errorf("%q: %q, want %q", raw, got, want)
		}
	}
	mounts := parseMounts([]byte("22 27 0:21 / /proc rw - proc proc rw\n30 1 8:1 / / rw shared:1 - ext4 /dev/a rw\n31 30 0:40 / /mnt/my\\040disk rw - fuse.sshfs me@h: rw,user_id=1000,group_id=1000\n"))
	if mt := mountOf(mounts, "/mnt/my disk/a"); mt == nil || mt.Type != "fuse.sshfs" || !mt.fuse() {
		t.Errorf("mounts: %+v", mt)
	}
	if mt := mountOf(mounts, "/mnt/my disks"); mt == nil || mt.Point != "/" {
		t.Errorf("mounts: %+v", mt)
	}
}

func TestProducts(t *testing.T) {
	for exe, want := range map[string]string{"/usr/sbin/nginx": "nginx", "/usr/sbin/apache2": "apache-httpd", "/usr/sbin/httpd": "apache-httpd", "/usr/sbin/php-fpm8.2": "php-fpm", "/usr/bin/python3.11": "python", "/usr/bin/bash": "", "/usr/sbin/lighttpd": "lighttpd", "/usr/sbin/nginx (deleted)": "nginx"} {
		if got := product(exe, "x"); got != want {
			t.Errorf("%s: %q, want %q", exe, got, want)
		}
	}
}

func TestAccounts(t *testing.T) {
	m := plant(t, map[string]string{"/etc/passwd": "root:x:0:0:r:/root:/bin/sh\nwww-data:x:33:33::/var/www:/none\nbad\n", "/etc/group": "www-data:x:33:\nadm:x:4:syslog,www-data\n"})
	who, err := m.Identity("www-data")
	if err != nil || !cmp.Equal(who, Identity{Name: "www-data", UID: 33, GID: 33, Groups: []uint32{4}}) {
		t.Errorf("%+v, %v", who, err)
	}
	if _, err := m.Identity("nobody"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody: %v", err)
	}
}

// TestReadsOnly looks at the source: this package has no call that creates, changes or removes anything,
// and opens files for reading only.
func TestReadsOnly(t *testing.T) {
	names, _ := filepath.Glob("*.go")
	looked := 0
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, ok := sel.X.(*ast.Ident)
			if !ok || !slices.Contains([]string{"os", "syscall", "unix", "exec", "ioutil"}, pkg.Name) {
				return true
			}
			looked++
			allowed := map[string]string{
				"os":      "OpenFile O_RDONLY Stat Lstat Readlink File",
				"syscall": "O_NONBLOCK ENOTDIR ELOOP ENAMETOOLONG EACCES EINVAL ENOENT",
				"unix":    "Stat_t Lstat S_IFMT S_IFDIR S_IFLNK S_IFREG S_IFSOCK S_ISVTX Lgetxattr ERANGE Statx_t Statx AT_FDCWD STATX_BTIME",
				"exec":    "CommandContext",
			}
			if !slices.Contains(strings.Fields(allowed[pkg.Name]), sel.Sel.Name) {
				t.Errorf("%s uses %s.%s", name, pkg.Name, sel.Sel.Name)
			}
			return true
		})
	}
	if looked < 20 {
		t.Errorf("looked at %d calls only", looked)
	}
}

func gzipped(t *testing.T, name, text string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	z.Write([]byte(text))
	z.Close()
	f.Close()
}

// "/." asks for a directory: a file of that name is none (path_resolution(7)).
func TestGlobOfDirectories(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "www/empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "www/a.html"), []byte("a"), 0o644); err != nil {
		t.Fatal(err)
	}
	m := &Machine{Root: root}
	for pattern, want := range map[string][]string{
		"/www/a.html": {"/www/a.html"}, "/www/a.html/.": nil, "/www/a.html/": nil, "/www/empty/.": {"/www/empty"}, "/www/*/.": {"/www/empty"}, "/www/none/.": nil,
	} {
		got, err := m.Glob(pattern)
		if err != nil || !slices.Equal(got, want) && len(got)+len(want) > 0 {
			t.Errorf("Glob(%q) = %q, %v, want %q", pattern, got, err, want)
		}
	}
}
