package apache

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// disk reads the files of this machine.
type disk struct{}

func (disk) ReadFile(n string) ([]byte, error)   { return os.ReadFile(n) }
func (disk) Glob(p string) ([]string, error)     { return filepath.Glob(p) }
func (disk) Stat(n string) (fs.FileInfo, error)  { return os.Stat(n) }
func (disk) Lstat(n string) (fs.FileInfo, error) { return os.Lstat(n) }

const moduleDir = "/usr/lib/apache2/modules"

// httpd starts an apache2 with a configuration and returns its port.
func httpd(t *testing.T, root, conf string, modules ...string) (port int, file string) {
	t.Helper()
	bin, err := exec.LookPath("apache2")
	if err != nil {
		t.Skip("apache2 is not installed")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	var b strings.Builder
	fmt.Fprintf(&b, "ServerRoot %s\nServerName main.test\nListen 127.0.0.1:%d\nPidFile %s/pid\nErrorLog %s/error.log\nLogLevel warn\nUser www-data\nGroup www-data\nDefaultRuntimeDir %s\n", root, port, root, root, root)
	for _, m := range append([]string{"mpm_event", "authn_core", "authn_file", "authz_core", "authz_host", "authz_user", "authz_groupfile", "auth_basic", "access_compat", "alias",
		"dir", "autoindex", "mime", "env", "setenvif", "rewrite", "allowmethods", "headers", "remoteip"}, modules...) {
		if _, err := os.Stat(moduleDir + "/mod_" + m + ".so"); err != nil {
			t.Skip("the module " + m + " of apache2 is not installed")
		}
		fmt.Fprintf(&b, "LoadModule %s_module %s/mod_%s.so\n", m, moduleDir, m)
	}
	b.WriteString("TypesConfig /dev/null\nStartServers 1\nThreadsPerChild 8\nMaxRequestWorkers 8\nServerLimit 1\n" + strings.ReplaceAll(conf, "PORT", strconv.Itoa(port)))
	file = root + "/httpd.conf"
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-f", file, "-D", "FOREGROUND")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Skip("apache2 does not start: " + err.Error())
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-done
		}
	})
	for range 200 {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
			return port, file
		}
		select {
		case <-done:
			log, _ := os.ReadFile(root + "/error.log")
			t.Fatalf("apache2 ended: %s%s", out.String(), log)
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatal("apache2 does not answer")
	return 0, ""
}

// ask sends one request and returns the status.
func ask(from string, port int, r *pinpoint.Request) (int, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
	c, err := d.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	host, p, q := splitURL(r.URL)
	if q != "" {
		p += "?" + q
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", r.Method, p, host)
	for _, f := range r.Header {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	if len(r.Body) > 0 {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(r.Body))
	}
	b.WriteString("\r\n")
	b.Write(r.Body)
	c.Write(b.Bytes())
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: r.Method})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, nil
}

// world makes random configurations.
type world struct {
	*rand.Rand
	root string
}

func (w world) pick(s ...string) string { return s[w.IntN(len(s))] }
func (w world) one(n int) bool          { return w.IntN(n) == 0 }

func (w world) require(depth int, inAll bool) string {
	if depth < 2 && w.one(4) {
		kind := w.pick("RequireAll", "RequireAny", "RequireNone")
		if !inAll && kind == "RequireNone" {
			kind = "RequireAny"
		}
		var b strings.Builder
		b.WriteString("<" + kind + ">\n")
		b.WriteString(w.require(2, false))
		for range w.IntN(3) {
			b.WriteString(w.require(depth+1, kind == "RequireAll"))
		}
		if kind == "RequireAll" && w.one(2) {
			b.WriteString("Require not " + w.pick("ip 127.0.0.2", "ip 127.0.0.1", "env bad", "method POST") + "\n")
		}
		return b.String() + "</" + kind + ">\n"
	}
	return "Require " + w.pick("all granted", "all denied", "all granted", "ip 127.0.0.1", "ip 127.0.0.2 127.0.0.3", "ip 127.0.0.0/30", "ip 10 127.0.0", "local", "env good", "env bad",
		"method GET POST", "method POST", `expr "%{REQUEST_METHOD} == 'GET'"`, `expr "%{HTTP_USER_AGENT} =~ /curl/ && ! %{REQUEST_URI} =~ m#^/a#"`, `expr "-R '127.0.0.2/31' || %{QUERY_STRING} in { 'x=1', 'y' }"`,
		"valid-user", "user bob", "group staff", "user alice bob") + "\n"
}

const authBasic = "AuthType Basic\nAuthName r\nAuthUserFile ROOT/users\nAuthGroupFile ROOT/groups\n"

func (w world) auth() string { return strings.ReplaceAll(authBasic, "ROOT", w.root) }

func (w world) rules(dir bool) string {
	var b strings.Builder
	b.WriteString("RewriteEngine " + w.pick("On", "On", "On", "Off") + "\n")
	if w.one(4) {
		b.WriteString("RewriteOptions " + w.pick("Inherit", "InheritBefore") + "\n")
	}
	if dir && w.one(4) {
		b.WriteString("RewriteBase /\n")
	}
	for range 1 + w.IntN(3) {
		for range w.IntN(3) {
			b.WriteString("RewriteCond " + w.pick(`%{HTTP_USER_AGENT} ^curl`, `%{HTTP_USER_AGENT} !^curl`, `%{REQUEST_METHOD} =POST`, `%{REQUEST_METHOD} ^(GET|HEAD)$`, `%{REMOTE_ADDR} !^127\.0\.0\.1$`, `%{QUERY_STRING} x=1`,
				`%{REQUEST_FILENAME} -f`, `%{REQUEST_FILENAME} !-f`, `%{REQUEST_FILENAME} !-d`, `%{HTTP:X-Key} ^$`, `%{REQUEST_URI} ^/a`, `expr "%{REQUEST_URI} -strmatch '/a*'"`, `%{THE_REQUEST} HTTP/1`, `%{ENV:bad} =1`, `%{HTTP_REFERER} (?!ok)o`) +
				w.pick("", "", " [OR]", " [NC]", " [NC,OR]") + "\n")
		}
		b.WriteString("RewriteRule " + w.pick(
			`^ - [F]`, `\.php$ - [F]`, `^/?a/ - [F,NC]`, `^/?b - [G]`, `. - [R=404]`, `^/?a/x\.html$ /b/x.html`, `^/?old/(.*)$ /a/$1 [L]`, `^/?old/(.*)$ /a/$1 [PT]`, `^/?old/(.*)$ /a/$1 [END]`,
			`!^/?a - [F]`, `^/?a - [S=1]`, `^/?b - [C]`, `^/?r /a/ [R]`, `^/?r /a/ [R=301,L]`, `x\.html$ y.html`, `^(.*)$ - [E=bad:1]`, `^/?old http://elsewhere.test/ [R,L]`, `nothing - [L]`, `^/?a/x - [L]`, `^(.*)z(.*)$ /$1$2 [N]`) + "\n")
	}
	return b.String()
}

// scope writes directives of a section or of a .htaccess.
func (w world) scope(htaccess bool) string {
	var b strings.Builder
	for range 1 + w.IntN(3) {
		switch w.IntN(14) {
		case 0, 1, 2:
			if w.one(2) {
				b.WriteString(w.auth())
			}
			b.WriteString(w.require(0, false))
			if w.one(3) {
				b.WriteString(w.require(0, false))
			}
		case 3:
			b.WriteString("AuthMerging " + w.pick("Off", "And", "Or") + "\n")
		case 4:
			b.WriteString("Order " + w.pick("allow,deny", "deny,allow", "Deny,Allow") + "\n")
			for range w.IntN(3) {
				b.WriteString(w.pick("Allow", "Deny") + " from " + w.pick("all", "127.0.0.1", "127.0.0.2 127.0.0.3", "127.0.0.0/31", "env=bad", "env=!good", "10") + "\n")
			}
			if w.one(3) {
				b.WriteString(w.auth())
				b.WriteString("Require " + w.pick("valid-user", "user bob") + "\n")
			}
			if w.one(2) {
				b.WriteString("Satisfy " + w.pick("Any", "All") + "\n")
			}
		case 5:
			kind := w.pick("Limit", "LimitExcept")
			b.WriteString("<" + kind + " " + w.pick("GET", "POST", "PUT DELETE", "GET POST", "HEAD", "get") + ">\n")
			b.WriteString(w.pick("Require all denied\n", "Require all granted\n", "Require ip 127.0.0.2\n", "Order deny,allow\nDeny from all\n", "Order allow,deny\nDeny from 127.0.0.1\n"))
			b.WriteString("</" + kind + ">\n")
		case 6:
			b.WriteString("Options " + w.pick("None", "Indexes FollowSymLinks", "-Indexes", "+Indexes", "-FollowSymLinks", "+FollowSymLinks", "+SymLinksIfOwnerMatch -FollowSymLinks", "SymLinksIfOwnerMatch", "All") + "\n")
		case 7:
			b.WriteString(w.rules(true))
		case 8:
			b.WriteString("DirectoryIndex " + w.pick("index.html", "x.html", "none.html y.html", "disabled", "/b/x.html") + "\n")
		case 9:
			b.WriteString(w.pick("Redirect gone /a/gone\n", "Redirect 403 /a/x.html\n", "RedirectMatch 404 \\.bak$\n", "Redirect /r /a/\n", "RedirectMatch gone ^/b\n"))
		case 10:
			b.WriteString(w.pick(`SetEnvIf User-Agent curl bad`, `SetEnvIfNoCase X-Key "^K" good`, `BrowserMatch ^Moz good`, `SetEnvIf Remote_Addr "127.0.0.2" bad=1`, `SetEnvIf Request_URI "\.html$" good !bad`, `SetEnv good 1`, `SetEnvIf Request_Method POST bad`) + "\n")
		case 11:
			kind := w.pick("<Files x.html>", "<Files *.bak>", `<FilesMatch "^\.ht">`, `<FilesMatch "\.(php|bak)$">`, `<Files "index.html">`)
			b.WriteString(kind + "\n" + w.require(1, false) + "</" + strings.TrimPrefix(strings.Fields(strings.TrimSuffix(kind, ">"))[0], "<") + ">\n")
		case 12:
			if htaccess {
				b.WriteString(w.pick("FallbackResource /b/x.html\n", "DirectorySlash Off\n", "LimitRequestBody 10\n", "ErrorDocument 403 http://elsewhere.test/no\n"))
			} else {
				b.WriteString(w.pick("AllowMethods GET\n", "AllowMethods POST PUT\n", "LimitRequestBody 10\n", "DirectorySlash Off\n", "FallbackResource /b/x.html\n", "ErrorDocument 403 http://elsewhere.test/no\n"))
			}
		case 13:
			b.WriteString("<If \"" + w.pick("%{REQUEST_METHOD} == 'POST'", "%{HTTP:X-Key} == 'k'", "%{QUERY_STRING} =~ /x/", "-n %{HTTP:Referer}") + "\">\n" + w.require(1, false) + "</If>\n")
			if w.one(2) {
				b.WriteString("<Else>\n" + w.require(1, false) + "</Else>\n")
			}
		}
	}
	return b.String()
}

func (w world) vhost(t *testing.T, n int) string {
	dir := fmt.Sprintf("%s/v%d", w.root, n)
	for _, f := range []string{"a/x.html", "a/y.html", "a/index.html", "a/sub/x.html", "a/sub/page.php", "b/x.html", "b/old.bak", "c/empty/.keep", "index.html", "d/x.html"} {
		os.MkdirAll(filepath.Dir(dir+"/"+f), 0o755)
		os.WriteFile(dir+"/"+f, []byte("hello\n"), 0o644)
	}
	os.Symlink(dir+"/a", dir+"/link")
	os.Symlink(dir+"/b/x.html", dir+"/a/link.html")
	var b strings.Builder
	fmt.Fprintf(&b, "<VirtualHost *:PORT>\nServerName c%d.test\nServerAlias *.c%d.test\nDocumentRoot %s\n", n, n, dir)
	if w.one(4) {
		b.WriteString("TraceEnable off\n")
	}
	if w.one(4) {
		b.WriteString(w.pick("AllowEncodedSlashes On\n", "AllowEncodedSlashes NoDecode\n"))
	}
	if w.one(3) {
		b.WriteString(w.rules(false))
	}
	if w.one(4) {
		b.WriteString(w.pick("Redirect gone /gone\n", "RedirectMatch 403 secret\n", "Redirect 301 /r /a/\n"))
	}
	if w.one(3) {
		b.WriteString(w.pick("Alias /alias "+dir+"/a\n", "Alias /alias/ "+dir+"/b/\n", "AliasMatch ^/m/(.*)$ "+dir+"/a/$1\n"))
	}
	if w.one(5) {
		b.WriteString("RemoteIPHeader X-Forwarded-For\n" + w.pick("", "RemoteIPInternalProxy 127.0.0.2\n", "RemoteIPTrustedProxy 127.0.0.1 127.0.0.2\n"))
	}
	if w.one(3) {
		b.WriteString(w.pick(`SetEnvIf User-Agent curl bad`, `BrowserMatch ^Moz good`) + "\n")
	}
	over := w.pick("None", "None", "All", "All", "AuthConfig", "FileInfo Indexes", "Limit Options", "AuthConfig FileInfo Indexes Limit Options=Indexes,FollowSymLinks", "Nonfatal=All FileInfo")
	fmt.Fprintf(&b, "<Directory %s>\nAllowOverride %s\n%s%s</Directory>\n", dir, over, w.pick("", "Require all granted\n", "Require all granted\n", "Require all denied\n"), "")
	for range 1 + w.IntN(3) {
		switch w.IntN(4) {
		case 0, 1:
			fmt.Fprintf(&b, "<Directory %s/%s>\n%s</Directory>\n", dir, w.pick("a", "b", "a/sub", "c/empty", "?", "a/*"), w.scope(false))
		case 2:
			fmt.Fprintf(&b, "<DirectoryMatch \"^%s/%s\">\n%s</DirectoryMatch>\n", dir, w.pick("a", ".*/sub", "[ab]/$"), w.scope(false))
		case 3:
			s := w.scope(false)
			if strings.Contains(s, "<Files") || strings.Contains(s, "Options") || strings.Contains(s, "Rewrite") {
				s = w.require(0, false)
			}
			fmt.Fprintf(&b, "<%s>\n%s</%s>\n", "Location "+w.pick("/a", "/a/", "/b/x.html", "/", "/*/x.html", "/c"), s, "Location")
		}
	}
	if w.one(4) {
		fmt.Fprintf(&b, "<LocationMatch \"%s\">\n%s</LocationMatch>\n", w.pick("^/a", "x\\.html$"), w.require(0, false))
	}
	b.WriteString("</VirtualHost>\n")
	for _, d := range []string{"", "/a", "/a/sub", "/b"} {
		if w.one(4) {
			os.WriteFile(dir+d+"/.htaccess", []byte(w.scope(true)), 0o644)
		}
	}
	return b.String()
}

func (w world) request(n int) (from string, r *pinpoint.Request) {
	host := fmt.Sprintf("c%d.test", n)
	if w.one(10) {
		host = "www." + host
	}
	r = &pinpoint.Request{Proto: "HTTP/1.1", Method: w.pick("GET", "GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "BREW", "PATCH"),
		URL: "http://" + host + w.pick("/", "/a/", "/a", "/a/x.html", "/a/x.html", "/a/y.html", "/a/sub/", "/a/sub/x.html", "/a/sub/page.php", "/b/", "/b/x.html", "/b/old.bak", "/c/empty/", "/c", "/link/x.html", "/a/link.html", "/none", "/a/none.html",
			"/a/.htaccess", "/old/x.html", "/r", "/r/q", "/gone", "/gone/x", "/secret", "/alias/x.html", "/alias", "/m/x.html", "/a//x.html", "/a/./x.html", "/b/../a/x.html", "/%61/x.html", "/a%2Fx.html", "/../x", "/a/x.html/more", "/a/%zz", "/d/x.html", "/azb", "/a/gone", "/%2e%2e/x", "/a%00b")}
	if w.one(5) {
		r.URL += "?" + w.pick("x=1", "y", "q=x")
	}
	add := func(n, v string) { r.Header = append(r.Header, pinpoint.Field{Name: n, Value: v}) }
	add("User-Agent", w.pick("curl/8", "Mozilla/5.0", "python"))
	if w.one(3) {
		add("Authorization", w.pick("Basic Ym9iOnJpZ2h0", "Basic Ym9iOndyb25n", "Basic YWxpY2U6cmlnaHQ=", "Bearer x", "Basic !", "Basic Z2hvc3Q6eA=="))
	}
	if w.one(4) {
		add("X-Key", w.pick("k", "Kay"))
	}
	if w.one(5) {
		add("Referer", w.pick("https://ok.test/", "https://other.test/"))
	}
	if w.one(5) {
		add("X-Forwarded-For", w.pick("127.0.0.2", "203.0.113.9", "127.0.0.3, 127.0.0.1", "10.0.0.1, 203.0.113.9", "x"))
	}
	if (r.Method == "POST" || r.Method == "PUT") && w.one(2) {
		r.Body = []byte("0123456789abcdef")[:w.pick("a", "abcdefghijklmnop")[0]%2*11+5]
	}
	return w.pick("127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.3"), r
}

// TestAgainstHTTPD compares decisions with a real httpd on random configurations and requests.
// WHYGATE_APACHE_VHOSTS and WHYGATE_APACHE_SEED make it longer.
func TestAgainstHTTPD(t *testing.T) {
	vhosts, seed, perHost := 120, uint64(1), 25
	if n, err := strconv.Atoi(os.Getenv("WHYGATE_APACHE_VHOSTS")); err == nil {
		vhosts = n
	}
	if n, err := strconv.ParseUint(os.Getenv("WHYGATE_APACHE_SEED"), 10, 64); err == nil {
		seed = n
	}
	if os.Geteuid() != 0 {
		t.Skip("apache2 with its own user is started as root only")
	}
	root, err := os.MkdirTemp("", "httpd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	os.Chmod(root, 0o755)
	w := world{rand.New(rand.NewPCG(seed, 7)), root}
	write := func(n, s string) {
		if err := os.WriteFile(root+"/"+n, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("users", "bob:"+apr1("right", "abcdefgh")+"\nalice:{SHA}"+"2Jmj7l5rSw0yVb/vlWAYkK/YBwk="+"\n")
	write("groups", "staff: alice carol\n")
	var conf strings.Builder
	conf.WriteString("<Directory />\nAllowOverride None\nRequire all denied\n</Directory>\n")
	for n := range vhosts {
		conf.WriteString(w.vhost(t, n))
	}
	port, file := httpd(t, root, conf.String())
	c, err := Load(disk{}, file, Env{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range c.Problems {
		t.Errorf("%s: %s", placeText(p.At), p.Says)
	}
	type job struct {
		from string
		r    *pinpoint.Request
		n    int
	}
	var jobs []job
	for n := range vhosts {
		for range perHost {
			from, r := w.request(n)
			jobs = append(jobs, job{from, r, n})
		}
	}
	var mu sync.Mutex
	differ, refused, silent := 0, 0, 0
	shown := map[int]bool{}
	var wg sync.WaitGroup
	next := make(chan job)
	for range 4 {
		wg.Go(func() {
			for j := range next {
				got, err := ask(j.from, port, j.r)
				if err != nil {
					mu.Lock()
					t.Errorf("%s %s: %v", j.r.Method, j.r.URL, err)
					mu.Unlock()
					continue
				}
				d := c.Decide(pinpoint.Arrival{Request: j.r, Client: netip.MustParseAddr(j.from), Local: netip.MustParseAddrPort(fmt.Sprintf("127.0.0.1:%d", port))})
				want := d.Status
				mu.Lock()
				if got >= 400 {
					refused++
				}
				if d.Status >= 400 && len(d.Clues) == 0 && d.Status != 404 && d.Status != 500 {
					silent++
					t.Errorf("%s %s: %d without a clue", j.r.Method, j.r.URL, d.Status)
				}
				if !(want == got || want == 0 && got >= 200 && got < 300) {
					differ++
					if !shown[j.n] && len(shown) < 12 {
						shown[j.n] = true
						var trail strings.Builder
						for _, s := range d.Trail {
							fmt.Fprintf(&trail, "  %s (%s)\n", s.Says, placeText(s.At))
						}
						ht := ""
						for _, sub := range []string{"", "/a", "/a/sub", "/b"} {
							if b, err := os.ReadFile(fmt.Sprintf("%s/v%d%s/.htaccess", root, j.n, sub)); err == nil {
								ht += "--- " + sub + "/.htaccess\n" + string(b)
							}
						}
						t.Errorf("%s %s from %s %v: httpd %d, decided %d\n%s\n%s", j.r.Method, j.r.URL, j.from, j.r.Header, got, want, trail.String(), extract(conf.String(), j.n)+ht)
					}
				}
				mu.Unlock()
			}
		})
	}
	for _, j := range jobs {
		next <- j
	}
	close(next)
	wg.Wait()
	if differ > 0 {
		t.Errorf("%d of %d differ", differ, len(jobs))
	}
	t.Logf("%d virtual hosts, %d requests, %d refused, %d differ", vhosts, len(jobs), refused, differ)
}

func extract(conf string, n int) string {
	i := strings.Index(conf, fmt.Sprintf("<VirtualHost *:PORT>\nServerName c%d.test\n", n))
	s := conf[i:]
	return s[:strings.Index(s, "</VirtualHost>")]
}
