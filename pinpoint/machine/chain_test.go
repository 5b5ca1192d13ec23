//go:build linux

package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// network makes a root whose /proc has servers: one line "pid product user-id port|socket" each.
func network(t *testing.T, m *Machine, servers ...string) {
	t.Helper()
	write := func(name, text string) {
		os.MkdirAll(filepath.Dir(m.Root+name), 0o755)
		if err := os.WriteFile(m.Root+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tcp := "  sl  local_address rem_address\n"
	unix := "Num       RefCount Protocol Flags    Type St Inode Path\n"
	for i, s := range servers {
		var pid, uid int
		var product, at string
		fmt.Sscan(s, &pid, &product, &uid, &at)
		inode := 9000 + i
		var port int
		if _, err := fmt.Sscanf(at, "%d", &port); err == nil {
			tcp += fmt.Sprintf("   %d: 00000000:%04X 00000000:0000 0A 0:0 0:0 0 0 0 %d 1 0 100 0 0 10 0\n", i, port, inode)
		} else {
			unix += fmt.Sprintf("0: 00000002 00000000 00010000 0001 01 %d %s\n", inode, at)
		}
		for n, id := range []int{0, uid} { // the main process, and its worker
			dir := fmt.Sprintf("/proc/%d", pid+n)
			parent := 1
			if n == 1 {
				parent = pid
			}
			write(dir+"/status", fmt.Sprintf("Name:\t%s\nPPid:\t%d\nUid:\t%d\t%d\t%d\t%d\nGid:\t%d\t%d\t%d\t%d\n", product, parent, id, id, id, id, id, id, id, id))
			write(dir+"/cmdline", product+"\x00-y\x00/etc/php/fpm.conf\x00")
			os.MkdirAll(m.Root+dir+"/fd", 0o755)
			os.Symlink(fmt.Sprintf("socket:[%d]", inode), m.Root+dir+"/fd/3")
		}
	}
	write("/proc/net/tcp", tcp)
	write("/proc/net/unix", unix)
	write("/proc/self/mountinfo", "30 1 8:1 / / rw - ext4 /dev/a rw\n")
}

// decide is a configuration of a test.
type decide func(pinpoint.Arrival) pinpoint.Decision

func (d decide) Decide(a pinpoint.Arrival) pinpoint.Decision { return d(a) }

func reads(d decide) Reader { return func(*Machine, *Process) (Decider, error) { return d, nil } }

func caseOf(url string, status int) *pinpoint.Case {
	return &pinpoint.Case{Exchanges: []pinpoint.Exchange{{Request: &pinpoint.Request{Method: "GET", URL: url}, Answer: &pinpoint.Answer{Status: status, At: noon}}}}
}

func walked(t *testing.T, m *Machine, c *pinpoint.Case, servers map[string]Reader) Report {
	t.Helper()
	r, err := Walk(t.Context(), m, c, Readers{Servers: servers, Reading: testReading, Now: noon.Add(time.Minute), Zone: time.UTC})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// summary is the clues as "hop cause id ±weight".
func summary(r Report) (s []string) {
	for _, c := range r.Clues {
		sign := "+"
		if c.Against {
			sign = "-"
		}
		s = append(s, fmt.Sprintf("%d %s %s %s%g", c.Hop, c.Cause, c.ID, sign, c.Weight))
	}
	return s
}

// TestWalkChain goes nginx → apache → php-fpm, where the last may not search a directory.
func TestWalkChain(t *testing.T) {
	m := srv(t, "/srv/app/private/index.php", "/run/php.sock", "/srv/nginx/index.html")
	chmod(t, m, "/srv/app/private", 0o700)
	network(t, m, "100 nginx 33 8080", "200 apache2 33 8081", "300 php-fpm8.2 1000 /run/php.sock")
	os.MkdirAll(m.Root+"/etc/php", 0o755)
	os.WriteFile(m.Root+"/etc/php/fpm.conf", []byte("[global]\n[app]\nuser = anna\nlisten = /run/php.sock\n"), 0o644)
	os.Chown(m.Root+"/run/php.sock", 33, 33)
	servers := map[string]Reader{
		"nginx": reads(func(a pinpoint.Arrival) pinpoint.Decision {
			next := a
			next.Local = netip.MustParseAddrPort("127.0.0.1:8081")
			next.Client = netip.MustParseAddr("127.0.0.1")
			return pinpoint.Decision{Product: "nginx", User: "www-data", Trail: []pinpoint.Step{{Says: "location / wins", At: pinpoint.Place{File: "/etc/nginx/nginx.conf", Line: 3}}}, Next: []pinpoint.Arrival{next}}
		}),
		"apache-httpd": reads(func(a pinpoint.Arrival) pinpoint.Decision {
			next := a
			next.Local, next.Socket, next.Script = netip.AddrPort{}, "/run/php.sock", "/srv/app/private/index.php"
			return pinpoint.Decision{Product: "apache-httpd", Next: []pinpoint.Arrival{next}}
		}),
	}
	r := walked(t, m, caseOf("http://127.0.0.1:8080/x", 404), servers)
	if got, want := summary(r), []string{"3 fs-dir-no-search stat-path +6"}; !slices.Equal(got, want) {
		t.Errorf("clues %q, want %q\n%+v", got, want, r.Trail)
	}
	if len(r.Hops) != 3 || r.Hops[2].Product != "php-fpm" || r.Hops[2].Worker.Name != "anna" || r.Hops[2].Denied == nil || r.Clues[0].Names["user"] != "anna" || r.Clues[0].Refuser != "php-fpm" {
		t.Errorf("%+v", r.Hops)
	}
	if !slices.ContainsFunc(r.Trail, func(s pinpoint.Step) bool { return s.Says == "hop 1: location / wins" && s.At.Line == 3 }) {
		t.Errorf("trail %+v", r.Trail)
	}
	// With a 403 it was something else.
	if got, want := summary(walked(t, m, caseOf("http://127.0.0.1:8080/x", 403), servers)), []string{"3 fs-dir-no-search stat-path +1.5"}; !slices.Equal(got, want) {
		t.Errorf("clues %q, want %q", got, want)
	}
	// The socket belongs to somebody else: the web server cannot connect.
	os.Chown(m.Root+"/run/php.sock", 0, 0)
	r = walked(t, m, caseOf("http://127.0.0.1:8080/x", 502), servers)
	if !slices.ContainsFunc(r.Clues, func(c pinpoint.Clue) bool { return c.Cause == "upstream-unavailable" && c.Hop == 2 }) {
		t.Errorf("%q", summary(r))
	}
}

// TestWalkCircle has a server that sends each request to itself, in two ways.
func TestWalkCircle(t *testing.T) {
	m := srv(t)
	network(t, m, "100 nginx 33 8080")
	n := 0
	same := map[string]Reader{"nginx": reads(func(a pinpoint.Arrival) pinpoint.Decision {
		n++
		return pinpoint.Decision{Product: "nginx", Next: []pinpoint.Arrival{a, a}}
	})}
	r := walked(t, m, caseOf("http://127.0.0.1:8080/x", 403), same)
	if len(r.Hops) != 1 || n != 1 {
		t.Errorf("%d hops, %d decisions", len(r.Hops), n)
	}
	n = 0
	other := map[string]Reader{"nginx": reads(func(a pinpoint.Arrival) pinpoint.Decision {
		n++
		d := pinpoint.Decision{Product: "nginx"}
		for range 100 {
			next := a
			next.Request = a.Request.Clone()
			next.Request.URL += "x"
			d.Next = append(d.Next, next)
		}
		return d
	})}
	r = walked(t, m, caseOf("http://127.0.0.1:8080/x", 403), other)
	if len(r.Hops) > maxArrivals || n > maxArrivals || len(r.Gaps) == 0 {
		t.Errorf("%d hops, %d decisions, gaps %v", len(r.Hops), n, r.Gaps)
	}
}

// TestWalkSide has a verifier that decides for nginx.
func TestWalkSide(t *testing.T) {
	m := srv(t)
	network(t, m, "100 nginx 33 8080", "200 python3 33 9000")
	refusal := pinpoint.Clue{Cause: "nginx-auth-request-denied", ID: "auth_request", Weight: pinpoint.Fair, Source: pinpoint.FromConfig}
	r := walked(t, m, caseOf("http://127.0.0.1:8080/x", 403), map[string]Reader{
		"nginx": reads(func(a pinpoint.Arrival) pinpoint.Decision {
			side, next := a, a
			side.Local, side.Why = netip.MustParseAddrPort("127.0.0.1:9000"), "auth_request"
			next.Local = netip.MustParseAddrPort("127.0.0.1:9999")
			return pinpoint.Decision{Product: "nginx", Status: 403, Clues: []pinpoint.Clue{refusal}, Next: []pinpoint.Arrival{side, next}}
		}),
	})
	if len(r.Hops) != 2 || r.Hops[1].Why != "auth_request" || r.Hops[1].Product != "python" || r.Hops[1].N != 2 {
		t.Errorf("hops %+v", r.Hops)
	}
	if got := summary(r); !slices.Equal(got, []string{"1 nginx-auth-request-denied auth_request +1.5"}) {
		t.Errorf("%q", got)
	}
}

// TestWalkFiles looks at what order, options and the status make of denials.
func TestWalkFiles(t *testing.T) {
	m := srv(t, "/srv/a/closed", "/srv/a/open", "/srv/a/.htaccess")
	chmod(t, m, "/srv/a/closed", 0o600)
	chmod(t, m, "/srv/a/.htaccess", 0o600)
	network(t, m, "100 nginx 33 8080", "200 apache2 33 8081")
	closed := pinpoint.Access{Path: "/srv/a/closed", Want: "read"}
	try := pinpoint.Access{Path: "/srv/a/closed", Want: "read", Says: "try_files", Optional: true}
	open := pinpoint.Access{Path: "/srv/a/open", Want: "read"}
	ht := pinpoint.Access{Path: "/srv/a/.htaccess", Want: "read", Says: ".htaccess", Optional: true}
	none := pinpoint.Access{Path: "/srv/.htaccess", Want: "read", Says: ".htaccess", Optional: true}
	config := pinpoint.Clue{Cause: "nginx-deny-rule", ID: "deny", Weight: pinpoint.Strong, Source: pinpoint.FromConfig}
	for name, c := range map[string]struct {
		port   int
		status int
		d      pinpoint.Decision
		want   []string
	}{
		"hard":               {8080, 403, pinpoint.Decision{Files: []pinpoint.Access{closed, closed}}, []string{"1 fs-file-unreadable stat-path +6"}},
		"masked":             {8080, 404, pinpoint.Decision{Files: []pinpoint.Access{try, open}}, []string{"1 nginx-try-files-masks-permission stat-path +3"}},
		"optional":           {8080, 403, pinpoint.Decision{Files: []pinpoint.Access{try, open}}, []string{"1 fs-file-unreadable stat-path +1.5"}},
		"another status":     {8080, 429, pinpoint.Decision{Files: []pinpoint.Access{closed}}, []string{"1 fs-file-unreadable stat-path +0.7"}},
		"refused before":     {8080, 403, pinpoint.Decision{Status: 403, Clues: []pinpoint.Clue{config}, Files: []pinpoint.Access{closed}}, []string{"1 nginx-deny-rule deny +3", "1 fs-file-unreadable stat-path +0.7"}},
		"nothing":            {8080, 403, pinpoint.Decision{Files: []pinpoint.Access{open}}, nil},
		"S06 .htaccess":      {8081, 403, pinpoint.Decision{Files: []pinpoint.Access{none, ht, open}}, []string{"1 fs-file-unreadable stat-path +1.5", "1 apache-htaccess-unreadable stat-path +6"}},
		"htaccess and rules": {8081, 403, pinpoint.Decision{Status: 403, Clues: []pinpoint.Clue{config}, Files: []pinpoint.Access{ht}}, []string{"1 nginx-deny-rule deny +3", "1 fs-file-unreadable stat-path +1.5", "1 apache-htaccess-unreadable stat-path +6"}},
	} {
		r := reads(func(pinpoint.Arrival) pinpoint.Decision { return c.d })
		got := summary(walked(t, m, caseOf(fmt.Sprintf("http://127.0.0.1:%d/x", c.port), c.status), map[string]Reader{"nginx": r, "apache-httpd": r}))
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestWalkLogs holds the configuration against lines and against silence.
func TestWalkLogs(t *testing.T) {
	m := srv(t)
	network(t, m, "100 nginx 33 8080")
	os.MkdirAll(m.Root+"/var/log", 0o755)
	old := nginxLine(noon.Add(-time.Hour), 1, "old", "127.0.0.1", "GET /old")
	access := func(up string) string {
		return `127.0.0.1 - - [03/Feb/2026:09:00:00 +0000] "GET /old HTTP/1.1" 200 1 upstream=-` + "\n" + `127.0.0.1 - - [03/Feb/2026:10:11:12 +0000] "GET /x HTTP/1.1" 403 1 upstream=` + up + "\n"
	}
	deny := pinpoint.Clue{Cause: "nginx-deny-rule", ID: "deny", Weight: pinpoint.Strong, Source: pinpoint.FromConfig}
	back := pinpoint.Clue{Cause: "nginx-return-403", ID: "return", Weight: pinpoint.Strong, Source: pinpoint.FromConfig}
	for name, c := range map[string]struct {
		error, access string
		clue          pinpoint.Clue
		want          []string
	}{
		"line":      {old + nginxLine(noon, 2, "access forbidden by rule", "127.0.0.1", "GET /x"), access("-"), deny, []string{"1 nginx-deny-rule deny +3", "1 nginx-deny-rule nginx-log-access-rule +6", "1  access-log-upstream +3"}},
		"against":   {old, access("-"), deny, []string{"1 nginx-deny-rule deny +3", "1  access-log-upstream +3", "1 nginx-deny-rule log-silence -1.5"}},
		"for":       {old, access("-"), back, []string{"1 nginx-return-403 return +3", "1  access-log-upstream +3", "1 nginx-return-403 log-silence +1.5"}},
		"passed":    {old, access("403"), back, []string{"1 nginx-return-403 return +3", "1  access-log-upstream -3", "1 nginx-return-403 log-silence +1.5"}},
		"elsewhere": {old, old, back, []string{"1 nginx-return-403 return +3", "1  access-log-silent -1.5", "1 nginx-return-403 log-silence +0.7"}},
	} {
		os.WriteFile(m.Root+"/var/log/e", []byte(c.error), 0o644)
		os.WriteFile(m.Root+"/var/log/a", []byte(c.access), 0o644)
		r := walked(t, m, caseOf("http://127.0.0.1:8080/x", 403), map[string]Reader{"nginx": reads(func(pinpoint.Arrival) pinpoint.Decision {
			return pinpoint.Decision{Product: "nginx", Status: 403, Clues: []pinpoint.Clue{c.clue}, Silent: []string{"nginx-return-403"},
				Logs: []pinpoint.LogFile{{Path: "/var/log/e", Product: "nginx", Kind: "error", Level: "error"}, {Path: "/var/log/a", Product: "nginx", Kind: "access"}}}
		})})
		if got := summary(r); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestWalkTargets looks at where a walk begins.
func TestWalkTargets(t *testing.T) {
	m := srv(t)
	network(t, m, "100 nginx 33 80")
	var arrived pinpoint.Arrival
	servers := map[string]Reader{"nginx": reads(func(a pinpoint.Arrival) pinpoint.Decision { arrived = a; return pinpoint.Decision{} })}
	for url, want := range map[string]string{"http://localhost/": "127.0.0.1:80", "http://192.0.2.10/": "192.0.2.10:80", "http://shop.example/": "0.0.0.0:80", "http://198.51.100.1/": "0.0.0.0:80"} {
		arrived = pinpoint.Arrival{}
		walked(t, m, caseOf(url, 403), servers)
		if arrived.Local.String() != want {
			t.Errorf("%s: %v, want %s", url, arrived.Local, want)
		}
	}
	for _, url := range []string{"https://shop.example/", "http://10.9.9.9/", "http://shop.example:81/"} {
		if _, err := Walk(t.Context(), m, caseOf(url, 403), Readers{Servers: servers}); !errors.Is(err, ErrElsewhere) {
			t.Errorf("%s: %v", url, err)
		}
	}
	if _, err := Walk(t.Context(), m, &pinpoint.Case{}, Readers{}); err == nil {
		t.Error("an empty case was walked")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Walk(ctx, m, caseOf("http://localhost/", 403), Readers{Servers: servers}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	// No reader, and one that fails without telling a secret.
	r := walked(t, m, caseOf("http://localhost/", 403), nil)
	if len(r.Gaps) == 0 || len(r.Clues) != 0 {
		t.Errorf("%+v", r)
	}
	r = walked(t, m, caseOf("http://localhost/", 403), map[string]Reader{"nginx": func(*Machine, *Process) (Decider, error) { return nil, errors.New("line 3: password=hunter22") }})
	if len(r.Gaps) == 0 || strings.Contains(fmt.Sprint(r), "hunter22") {
		t.Errorf("%+v", r)
	}
}

func TestFPM(t *testing.T) {
	m := plant(t, map[string]string{
		"/etc/php/fpm.conf":      "[global]\nerror_log = /var/log/fpm.log ; comment\ninclude=/etc/php/pool.d/*.conf\n",
		"/etc/php/pool.d/a.conf": "[www]\nuser = www-data\nlisten = 127.0.0.1:9000\nlisten.allowed_clients = 127.0.0.1,192.0.2.10\nsecurity.limit_extensions = .php .html\naccess.log = /var/log/$pool.log\n",
		"/etc/php/pool.d/b.conf": "[b]\nuser=anna\nlisten = \"/run/b.sock\"\nchroot = /srv/jail\nphp_admin_value[open_basedir] = /www:/lib\n",
		"/srv/jail/www/a.php":    "", "/srv/jail/etc/a.php": "", "/srv/jail/wwwx/a.php": "",
	})
	d, err := FPM(m, &Process{Args: []string{"php-fpm", "-y", "/etc/php/fpm.conf"}})
	if err != nil {
		t.Fatal(err)
	}
	tcp := netip.MustParseAddrPort("127.0.0.1:9000")
	for _, c := range []struct {
		a           pinpoint.Arrival
		cause, user string
		files       string
		line        int
	}{
		{pinpoint.Arrival{Local: tcp, Script: "/srv/a.php"}, "", "www-data", "/srv/a.php", 0},
		{pinpoint.Arrival{Local: tcp, Script: "/srv/a.html"}, "", "www-data", "/srv/a.html", 0},
		{pinpoint.Arrival{Local: tcp, Script: "/srv/a.txt"}, "php-fpm-limit-extensions", "www-data", "", 5},
		{pinpoint.Arrival{Local: tcp, Script: "/srv/a"}, "php-fpm-limit-extensions", "www-data", "", 5},
		{pinpoint.Arrival{Local: tcp, Script: "/srv/a.php", Client: netip.MustParseAddr("192.0.2.99")}, "upstream-unavailable", "www-data", "", 4},
		{pinpoint.Arrival{Socket: "/run/b.sock", Script: "/www/a.php"}, "", "anna", "/srv/jail/www/a.php", 0},
		{pinpoint.Arrival{Socket: "/run/b.sock", Script: "/etc/a.php"}, "php-open-basedir", "anna", "/srv/jail/etc/a.php", 5},
		{pinpoint.Arrival{Socket: "/run/b.sock", Script: "/wwwx/a.php"}, "php-open-basedir", "anna", "/srv/jail/wwwx/a.php", 5},
		{pinpoint.Arrival{Socket: "/run/b.sock", Script: "/www/a.html"}, "php-fpm-limit-extensions", "anna", "", 3},
		{pinpoint.Arrival{Socket: "/run/other.sock", Script: "/www/a.html"}, "", "", "", 0},
	} {
		got := d.Decide(c.a)
		cause, line, files := "", 0, ""
		if len(got.Clues) > 0 {
			cause, line = got.Clues[0].Cause, got.Clues[0].At.Line
		}
		if len(got.Files) > 0 {
			files = got.Files[0].Path
		}
		if cause != c.cause || got.User != c.user || line != c.line || files != c.files {
			t.Errorf("%+v: %q line %d user %q files %q", c.a, cause, line, got.User, files)
		}
	}
	if logs := d.Decide(pinpoint.Arrival{Local: tcp}).Logs; len(logs) != 2 || logs[0].Path != "/var/log/fpm.log" || logs[1].Path != "/var/log/www.log" {
		t.Errorf("logs %+v", logs)
	}
	os.WriteFile(m.Root+"/etc/php/loop.conf", []byte("include=/etc/php/loop.conf\n"), 0o644)
	if _, err := FPM(m, &Process{Args: []string{"php-fpm", "--fpm-config=/etc/php/loop.conf"}}); !errors.Is(err, errTooMany) {
		t.Errorf("loop: %v", err)
	}
	if _, err := FPM(m, &Process{}); err == nil {
		t.Error("no configuration named")
	}
}

// TestNginx runs S01 against a real nginx: the listener, its worker, the permissions and its error log have to agree.
func TestNginx(t *testing.T) {
	program, err := exec.LookPath("nginx")
	if err != nil {
		t.Skip("nginx is not installed")
	}
	dir, _ := tempTree(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().(*net.TCPAddr).AddrPort()
	free.Close()
	os.MkdirAll(dir+"/www/private", 0o755)
	os.MkdirAll(dir+"/tmp", 0o777)
	os.WriteFile(dir+"/www/private/a.html", []byte("hello"), 0o644)
	os.Chmod(dir+"/www/private", 0o750)
	conf := fmt.Sprintf("user www-data;\ndaemon off;\nworker_processes 1;\npid %[1]s/pid;\nerror_log %[1]s/error.log error;\nevents { worker_connections 64; }\nhttp { access_log off; client_body_temp_path %[1]s/tmp; proxy_temp_path %[1]s/tmp; fastcgi_temp_path %[1]s/tmp; uwsgi_temp_path %[1]s/tmp; scgi_temp_path %[1]s/tmp;\nserver { listen %[2]v; root %[1]s/www/private; } }\n", dir, at)
	os.WriteFile(dir+"/nginx.conf", []byte(conf), 0o644)
	cmd := exec.Command(program, "-c", dir+"/nginx.conf", "-p", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() }()
	c := caseOf(fmt.Sprintf("http://%v/a.html", at), 0)
	for tries := 0; ; tries++ {
		resp, err := http.Get(c.Exchanges[0].Request.URL)
		if err != nil {
			if tries == 100 {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
			continue
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		c.Exchanges[0].Answer.Status = resp.StatusCode
		c.Exchanges[0].Answer.Header = pinpoint.Header{{Name: "Date", Value: resp.Header.Get("Date")}}
		break
	}
	c.Exchanges[0].Answer.At = time.Now()
	if c.Exchanges[0].Answer.Status != 403 {
		t.Fatalf("nginx answers %d", c.Exchanges[0].Answer.Status)
	}
	m := New()
	r, err := Walk(t.Context(), m, c, Readers{Reading: testReading, Servers: map[string]Reader{"nginx": func(m *Machine, p *Process) (Decider, error) {
		i := slices.Index(p.Args, "-c")
		if i < 0 || i+1 >= len(p.Args) || p.Args[i+1] != dir+"/nginx.conf" {
			return nil, fmt.Errorf("arguments %q", p.Args)
		}
		if _, err := m.ReadFile(p.Args[i+1]); err != nil {
			return nil, err
		}
		return decide(func(a pinpoint.Arrival) pinpoint.Decision {
			return pinpoint.Decision{Product: "nginx", User: "www-data", Files: []pinpoint.Access{{Path: dir + "/www/private/a.html", Want: "read", Says: "static file"}},
				Logs: []pinpoint.LogFile{{Path: dir + "/error.log", Product: "nginx", Kind: "error", Level: "error"}}}
		}), nil
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := summary(r), []string{"1 fs-dir-no-search stat-path +6", "1 fs-dir-no-search nginx-log-open-eacces +6"}; !slices.Equal(got, want) {
		t.Fatalf("%q, want %q\n%+v\n%+v", got, want, r.Trail, r.Gaps)
	}
	if h := r.Hops[0]; h.Worker.Name != "www-data" || h.Process.PID != cmd.Process.Pid || r.Clues[0].Names["path"] != dir+"/www/private" || r.Clues[1].Names["path"] != dir+"/www/private" {
		t.Errorf("%+v", h)
	}
	if !slices.Contains(r.Files, dir+"/error.log") {
		t.Errorf("files %v", r.Files)
	}
}

// TestWritesNothing traces the system calls of a walk of this machine: no file is opened for writing, made, changed
// or removed.
func TestWritesNothing(t *testing.T) {
	if os.Getenv("MACHINE_TEST_WALK") != "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		syscall.Stat("/walk-begins", &syscall.Stat_t{})
		m := New()
		for _, p := range m.Processes() {
			m.Permit(pinpoint.Access{Path: "/etc/passwd", Want: "write"}, p.Identity)
		}
		Walk(t.Context(), m, caseOf("http://"+l.Addr().String()+"/x", 403), Readers{Reading: testReading})
		m.Search(t.Context(), []pinpoint.LogFile{{Path: "/var/log/dpkg.log", Kind: "error"}}, Query{At: noon}, testReading)
		m.Denied(t.Context(), Query{At: noon}, &Process{}, testReading)
		m.Glob("/etc/*/*.conf")
		m.profile("nginx")
		syscall.Stat("/walk-ends", &syscall.Stat_t{})
		return
	}
	tracer, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	out := filepath.Join(t.TempDir(), "trace")
	cmd := exec.CommandContext(t.Context(), tracer, "-f", "-qq", "-s", "256", "-o", out, "-e", "trace=%file,ftruncate,fchmod,fchown,fsetxattr", os.Args[0], "-test.run=^TestWritesNothing$")
	cmd.Env = append(os.Environ(), "MACHINE_TEST_WALK=1")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("strace: %v %s", err, text)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	_, walk, ok := strings.Cut(string(text), "/walk-begins")
	walk, _, ok2 := strings.Cut(walk, "/walk-ends")
	if !ok || !ok2 || strings.Count(walk, "openat(") < 20 {
		t.Fatalf("the trace shows no walk: %d bytes", len(text))
	}
	for line := range strings.Lines(walk) {
		for _, call := range []string{"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND", "O_TMPFILE", " mkdir", " unlink", " rename", " link(", " linkat", " symlink", " chmod", " fchmod", " chown", " lchown", " fchown", "truncate", "setxattr", " mknod", " utime", "removexattr", " mount(", " execve"} {
			if strings.Contains(line, call) {
				t.Errorf("the walk does %s", line)
			}
		}
	}
}
