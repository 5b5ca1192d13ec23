package rig

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// stage is the servers of one scenario, in a directory that www-data can reach.
type stage struct {
	t       testing.TB
	dir     string
	files   map[string]string // of testdata, by name
	fill    *strings.Replacer
	ports   []int
	stops   []func()
	mu      sync.Mutex
	syslog  []string // lines of HAProxy
	stopped bool
}

// section splits a file of testdata: "-- name --" begins a file, what stands before are steps.
func section(text string) (steps string, files map[string]string) {
	files = map[string]string{}
	name := ""
	for line := range strings.Lines(text) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "-- "); ok && strings.HasSuffix(n, " --") {
			name = strings.TrimSuffix(n, " --")
			files[name] = ""
			continue
		}
		if name == "" {
			steps += line
		} else {
			files[name] += line
		}
	}
	return steps, files
}

// programs are the servers of a scenario by their file, in the order in which they start.
var programs = []struct {
	file, program string
	start         func(*stage, string)
}{
	{"app.py", "/usr/bin/python3", (*stage).python},
	{"fpm.conf", "php-fpm8.2", (*stage).php},
	{"httpd.conf", "apache2", (*stage).apache},
	{"lighttpd.conf", "lighttpd", (*stage).lighttpd},
	{"nginx.conf", "nginx", (*stage).nginx},
	{"Caddyfile", "caddy", (*stage).caddy},
	{"haproxy.cfg", "haproxy", (*stage).haproxy},
}

// port is where a server listens: the first one, seen from the client, on {port1}, one behind it on {port2}.
func (s *stage) port(file string) int {
	for _, front := range []string{"haproxy.cfg", "nginx.conf", "lighttpd.conf"} {
		if front == file {
			break
		}
		if s.files[front] != "" {
			return s.ports[1]
		}
	}
	return s.ports[0]
}

func find(program string) string {
	if p, err := exec.LookPath(program); err == nil {
		return p
	}
	if p := "/usr/sbin/" + program; filepath.Base(program) == program {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}

// module says that Python has a module.
var module = sync.OnceValue(func() map[string]bool {
	have := map[string]bool{}
	for _, m := range []string{"flask", "django"} {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		have[m] = exec.CommandContext(ctx, "/usr/bin/python3", "-c", "import "+m).Run() == nil
		cancel()
	}
	return have
})

// newStage writes the files of a scenario and starts its servers. It skips when a program is not installed.
func newStage(t testing.TB, name string) *stage {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("workers run as www-data, which takes root to start")
	}
	text, err := os.ReadFile(filepath.Join("testdata", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t}
	var steps string
	steps, s.files = section(string(text))
	for _, p := range programs {
		if s.files[p.file] != "" && find(p.program) == "" {
			t.Skipf("%s is not installed", p.program)
		}
	}
	for _, m := range []string{"flask", "django"} {
		if strings.Contains(s.files["app.py"], "from "+m) && !module()[m] {
			t.Skipf("python3-%s is not installed", m)
		}
	}
	if strings.Contains(s.files["httpd.conf"], "security2") {
		for _, f := range []string{modules + "/mod_security2.so", "/usr/share/modsecurity-crs/owasp-crs.load", "/etc/modsecurity/modsecurity.conf-recommended"} {
			if _, err := os.Stat(f); err != nil {
				t.Skip("libapache2-mod-security2 or modsecurity-crs is not installed")
			}
		}
	}
	// Not below TempDir of the test: www-data may not search it.
	if s.dir, err = os.MkdirTemp("/var/tmp", "whygate-rig-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.stop()
		os.RemoveAll(s.dir)
	})
	if err := os.Chmod(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	pairs := []string{"{dir}", s.dir}
	for i := range 4 {
		s.ports = append(s.ports, freePort(t))
		pairs = append(pairs, fmt.Sprintf("{port%d}", i+1), strconv.Itoa(s.ports[i]))
	}
	pairs = append(pairs, "{syslog}", strconv.Itoa(s.listenSyslog()), "{modules}", loads(), "{firewall}", firewall)
	s.fill = strings.NewReplacer(pairs...)
	for name, text := range s.files {
		s.write(name, s.fill.Replace(s.fill.Replace(text)))
	}
	for line := range strings.Lines(steps) {
		s.step(strings.Fields(line))
	}
	for _, p := range programs {
		if s.files[p.file] != "" {
			p.start(s, find(p.program))
		}
	}
	return s
}

// step prepares something: "chmod 0600 FILE", "mkdir DIR", "chown UID GID FILE", "link TARGET NAME", "acl UID rights FILE",
// "certificates".
func (s *stage) step(words []string) {
	if len(words) == 0 || words[0] == "#" {
		return
	}
	var err error
	switch {
	case words[0] == "chmod" && len(words) == 3:
		mode, bad := strconv.ParseUint(words[1], 8, 32)
		err = errors.Join(bad, os.Chmod(filepath.Join(s.dir, words[2]), os.FileMode(mode)))
	case words[0] == "mkdir" && len(words) == 2:
		err = os.MkdirAll(filepath.Join(s.dir, words[1]), 0o755)
	case words[0] == "chown" && len(words) == 4:
		uid, bad := strconv.Atoi(words[1])
		gid, bad2 := strconv.Atoi(words[2])
		err = errors.Join(bad, bad2, os.Lchown(filepath.Join(s.dir, words[3]), uid, gid))
	case words[0] == "link" && len(words) == 3:
		err = os.Symlink(words[1], filepath.Join(s.dir, words[2]))
	case words[0] == "acl" && len(words) == 5:
		err = s.acl(filepath.Join(s.dir, words[4]), words[1], words[2], words[3])
	case words[0] == "large" && len(words) == 2:
		err = os.WriteFile(filepath.Join(s.dir, words[1]), bytes.Repeat([]byte("a"), 2<<20), 0o644)
	case words[0] == "certificates":
		s.certificates()
	default:
		err = fmt.Errorf("no such step: %q", words)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// acl gives a file an access control list: rights of one more user, and the mask (acl(5); the bytes are those of the
// attribute system.posix_acl_access: version 2, then tag, rights and id of each entry).
func (s *stage) acl(name, uid, rights, mask string) error {
	id, bad := strconv.ParseUint(uid, 10, 32)
	if bad != nil {
		return bad
	}
	bits := func(text string) (n uint16) {
		for _, c := range text {
			n |= map[rune]uint16{'r': 4, 'w': 2, 'x': 1}[c]
		}
		return n
	}
	const nobody = 0xffffffff
	value := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, rights uint16
		id          uint32
	}{{0x01, 6, nobody}, {0x02, bits(rights), uint32(id)}, {0x04, 0, nobody}, {0x10, bits(mask), nobody}, {0x20, 0, nobody}} {
		value = binary.LittleEndian.AppendUint16(value, e.tag)
		value = binary.LittleEndian.AppendUint16(value, e.rights)
		value = binary.LittleEndian.AppendUint32(value, e.id)
	}
	err := syscall.Setxattr(name, "system.posix_acl_access", value, 0)
	if errors.Is(err, syscall.ENOTSUP) {
		s.t.Skip("this file system has no access control lists")
	}
	return err
}

func (s *stage) write(name, text string) {
	name = filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) read(name string) string {
	b, _ := os.ReadFile(filepath.Join(s.dir, name))
	return string(b)
}

// used are ports that were handed out: two scenarios at a time must not get the same.
var used = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

func freePort(t testing.TB) int {
	used.Lock()
	defer used.Unlock()
	for range 100 {
		// Below the ports that connections come from (ip(7), ip_local_port_range): one of those may be taken before the server has it.
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20000+mathrand.IntN(12000)))
		if err != nil {
			continue
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if !used.ports[port] {
			used.ports[port] = true
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// run starts a server and waits until it listens. It ends by its own process id.
func (s *stage) run(port int, end os.Signal, program string, args ...string) {
	s.t.Helper()
	s.runAt("tcp", fmt.Sprintf("127.0.0.1:%d", port), end, program, args...)
}

func (s *stage) runAt(network, at string, end os.Signal, program string, args ...string) {
	s.t.Helper()
	out, err := os.Create(filepath.Join(s.dir, filepath.Base(program)+".out"))
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, out, out
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1", "XDG_DATA_HOME="+s.dir+"/data", "XDG_CONFIG_HOME="+s.dir+"/config")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		out.Close()
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		cmd.Wait()
		out.Close()
		close(done)
	}()
	s.stops = append(s.stops, func() {
		cmd.Process.Signal(end)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-done
		}
	})
	for range 600 {
		if c, err := net.DialTimeout(network, at, time.Second); err == nil {
			c.Close()
			return
		}
		select {
		case <-done:
			s.t.Fatalf("%s ended: %s%s", program, s.read(filepath.Base(program)+".out"), s.read("error.log"))
		case <-time.After(50 * time.Millisecond):
		}
	}
	s.t.Fatalf("%s does not listen", program)
}

// stop ends the servers; then their logs are complete.
func (s *stage) stop() {
	if s.stopped {
		return
	}
	s.stopped = true
	for _, f := range slices.Backward(s.stops) {
		f()
	}
}

func (s *stage) python(program string) {
	s.run(s.ports[2], os.Interrupt, program, filepath.Join(s.dir, "app.py"), strconv.Itoa(s.ports[2]))
}

func (s *stage) nginx(program string) {
	port := s.port("nginx.conf")
	user := "www-data"
	if u := s.files["user"]; u != "" {
		user = strings.TrimSpace(u)
	}
	s.write("nginx.conf", `user `+user+`; daemon off; worker_processes 1; pid `+s.dir+`/nginx.pid; error_log `+s.dir+`/error.log;
events { worker_connections 256; }
http {
	access_log `+s.dir+`/access.log;
	client_body_temp_path `+s.dir+`/t1; proxy_temp_path `+s.dir+`/t2; fastcgi_temp_path `+s.dir+`/t3; uwsgi_temp_path `+s.dir+`/t4; scgi_temp_path `+s.dir+`/t5;
`+s.read("nginx.conf")+"}\n")
	s.run(port, os.Interrupt, program, "-p", s.dir, "-c", filepath.Join(s.dir, "nginx.conf"))
}

func (s *stage) haproxy(program string) {
	s.run(s.ports[0], os.Interrupt, program, "-db", "-f", filepath.Join(s.dir, "haproxy.cfg"))
}

func (s *stage) lighttpd(program string) {
	s.run(s.port("lighttpd.conf"), os.Interrupt, program, "-D", "-f", filepath.Join(s.dir, "lighttpd.conf"))
}

func (s *stage) caddy(program string) {
	s.run(s.port("Caddyfile"), os.Interrupt, program, "run", "--config", filepath.Join(s.dir, "Caddyfile"), "--adapter", "caddyfile")
}

// php starts php-fpm; the pool listens on {dir}/fpm.sock or on {port4}.
func (s *stage) php(program string) {
	network, at := "unix", filepath.Join(s.dir, "fpm.sock")
	if !strings.Contains(s.files["fpm.conf"], "fpm.sock") {
		network, at = "tcp", fmt.Sprintf("127.0.0.1:%d", s.ports[3])
	}
	s.runAt(network, at, os.Interrupt, program, "-F", "-y", filepath.Join(s.dir, "fpm.conf"))
}

const modules = "/usr/lib/apache2/modules"

// loads are the modules of Apache httpd that Debian enables, and those that scenarios need.
func loads() string {
	var b strings.Builder
	for _, m := range []string{"mpm_event", "authn_core", "authn_file", "authz_core", "authz_host", "authz_user", "auth_basic", "access_compat", "alias", "dir", "autoindex", "mime", "env",
		"setenvif", "rewrite", "headers", "proxy", "proxy_http", "proxy_fcgi", "remoteip"} {
		fmt.Fprintf(&b, "LoadModule %s_module %s/mod_%s.so\n", m, modules, m)
	}
	return b.String()
}

// firewall is mod_security2 with the Core Rule Set as Debian sets them up, and the engine on.
const firewall = `LoadModule unique_id_module ` + modules + `/mod_unique_id.so
LoadModule security2_module ` + modules + `/mod_security2.so
Include {dir}/modsecurity.conf
Include /usr/share/modsecurity-crs/owasp-crs.load
`

func (s *stage) apache(program string) {
	port := s.port("httpd.conf")
	if strings.Contains(s.files["httpd.conf"], "{firewall}") || strings.Contains(s.files["httpd.conf"], "security2") {
		text, err := os.ReadFile("/etc/modsecurity/modsecurity.conf-recommended")
		if err != nil {
			s.t.Fatal(err)
		}
		conf := strings.Replace(string(text), "SecRuleEngine DetectionOnly", "SecRuleEngine On", 1)
		conf = strings.ReplaceAll(conf, "/var/log/apache2/", s.dir+"/")
		conf = strings.ReplaceAll(conf, "SecUnicodeMapFile unicode.mapping", "SecUnicodeMapFile /etc/modsecurity/unicode.mapping")
		s.write("modsecurity.conf", conf)
	}
	s.write("httpd.conf", fmt.Sprintf(`ServerRoot %[1]s
ServerName main.test
Listen 127.0.0.1:%[2]d
PidFile %[1]s/httpd.pid
ErrorLog %[1]s/error-apache.log
LogLevel warn
User www-data
Group www-data
DefaultRuntimeDir %[1]s
TypesConfig /dev/null
StartServers 1
ThreadsPerChild 8
MaxRequestWorkers 8
ServerLimit 1
LogFormat "%%h %%l %%u %%t \"%%r\" %%>s %%O \"%%{Referer}i\" \"%%{User-Agent}i\"" combined
`, s.dir, port)+s.read("httpd.conf"))
	s.run(port, os.Interrupt, program, "-f", filepath.Join(s.dir, "httpd.conf"), "-D", "FOREGROUND")
}

// listenSyslog takes what HAProxy logs.
func (s *stage) listenSyslog() int {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.stops = append(s.stops, func() { c.Close() })
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.syslog = append(s.syslog, string(buf[:n]))
			s.mu.Unlock()
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).Port
}

// logged is the last line of HAProxy with a text.
func (s *stage) logged(text string) string {
	for range 200 {
		s.mu.Lock()
		for _, l := range slices.Backward(s.syslog) {
			if strings.Contains(l, text) {
				s.mu.Unlock()
				_, line, _ := strings.Cut(l, ">")
				return strings.TrimSpace(line)
			}
		}
		s.mu.Unlock()
		time.Sleep(20 * time.Millisecond)
	}
	s.t.Fatalf("HAProxy did not log %q", text)
	return ""
}

// arrived counts what came to the first server by method, behind its stop.
func (s *stage) arrived() (lines []string) {
	for _, name := range []string{"access.log", "access-apache.log", "logs/access.log"} {
		for line := range strings.Lines(s.read(name)) {
			if _, rest, ok := strings.Cut(line, `"`); ok {
				request, _, _ := strings.Cut(rest, `"`)
				lines = append(lines, request)
			}
		}
		if len(lines) > 0 {
			return lines
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.syslog {
		if strings.Contains(l, "<BADREQ>") {
			continue // the connection that waited for the port
		}
		if _, rest, ok := strings.Cut(l, `"`); ok {
			lines = append(lines, strings.TrimSuffix(strings.TrimSpace(rest), `"`))
		}
	}
	if len(lines) > 0 {
		return lines
	}
	for line := range strings.Lines(s.read("app.log")) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

// certificates are a CA, a server of shop.test, and two clients, one of them expired.
func (s *stage) certificates() {
	now := time.Now()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			s.t.Fatal(err)
		}
		return k
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "rig CA"}, NotBefore: now.AddDate(0, -3, 0), NotAfter: now.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caKey := key()
	issue := func(name string, c *x509.Certificate, k *ecdsa.PrivateKey) {
		der, err := x509.CreateCertificate(rand.Reader, c, ca, &k.PublicKey, caKey)
		if err != nil {
			s.t.Fatal(err)
		}
		private, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			s.t.Fatal(err)
		}
		s.write(name+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
		s.write(name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})))
	}
	issue("ca", ca, caKey)
	issue("server", &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "shop.test"}, DNSNames: []string{"shop.test"}, NotBefore: now.AddDate(0, 0, -1), NotAfter: now.AddDate(0, 1, 0), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, key())
	issue("client", &x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "till"}, NotBefore: now.AddDate(0, 0, -1), NotAfter: now.AddDate(0, 1, 0), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, key())
	issue("expired", &x509.Certificate{SerialNumber: big.NewInt(4), Subject: pkix.Name{CommonName: "old till"}, NotBefore: now.AddDate(0, -2, 0), NotAfter: now.AddDate(0, -1, 0), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, key())
}
