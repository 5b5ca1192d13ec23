package apache

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/whygate/whygate/pinpoint"
)

// tree is files in memory. A name that ends in a slash is a directory; the content "EACCES" is a
// file that may not be read.
type tree map[string]string

func (t tree) ReadFile(n string) ([]byte, error) {
	s, ok := t[n]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: n, Err: fs.ErrNotExist}
	}
	if s == "EACCES" {
		return nil, &fs.PathError{Op: "open", Path: n, Err: fs.ErrPermission}
	}
	return []byte(s), nil
}

func (t tree) names() map[string]bool {
	all := map[string]bool{"/": true}
	for n := range t {
		dir := strings.HasSuffix(n, "/")
		all[strings.TrimSuffix(n, "/")] = dir
		for d := path.Dir(strings.TrimSuffix(n, "/")); d != "/"; d = path.Dir(d) {
			all[d] = true
		}
	}
	return all
}

func (t tree) Glob(p string) (found []string, err error) {
	if dir, ok := strings.CutSuffix(p, "/."); ok {
		if t.names()[strings.ReplaceAll(dir, `\`, "")] {
			return []string{p}, nil
		}
		return nil, nil
	}
	for n := range t.names() {
		if ok, err := filepath.Match(p, n); err != nil {
			return nil, err
		} else if ok {
			found = append(found, n)
		}
	}
	sort.Strings(found)
	return found, nil
}

const preamble = `ServerRoot /etc/apache2
Listen 8080
User www-data
ErrorLog /var/log/apache2/error.log
LogFormat "%h %s" short
CustomLog /var/log/apache2/access.log short
`

func modules(names ...string) string {
	var b strings.Builder
	for _, m := range append([]string{"authn_core", "authn_file", "authz_core", "authz_host", "authz_user", "auth_basic", "access_compat", "alias", "dir", "autoindex", "mime", "env", "setenvif",
		"rewrite", "allowmethods", "headers", "remoteip", "proxy", "proxy_http", "proxy_fcgi", "cgi", "ssl", "security2"}, names...) {
		fmt.Fprintf(&b, "LoadModule %s_module modules/mod_%s.so\n", m, m)
	}
	return b.String()
}

func load(t testing.TB, files tree, conf string) *Config {
	t.Helper()
	files["/etc/apache2/apache2.conf"] = preamble + modules() + conf
	c, err := Load(files, "/etc/apache2/apache2.conf", Env{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func arrival(method, url string, fields ...string) pinpoint.Arrival {
	r := &pinpoint.Request{Method: method, URL: url, Proto: "HTTP/1.1"}
	for i := 0; i+1 < len(fields); i += 2 {
		r.Header = append(r.Header, pinpoint.Field{Name: fields[i], Value: fields[i+1]})
	}
	return pinpoint.Arrival{Request: r, Client: netip.MustParseAddr("192.0.2.7"), Local: netip.MustParseAddrPort("198.51.100.1:8080")}
}

// line is where a text stands in the main file.
func lineOf(files tree, name, text string) pinpoint.Place {
	for i, l := range strings.Split(files[name], "\n") {
		if strings.Contains(l, text) {
			return pinpoint.Place{File: name, Line: i + 1}
		}
	}
	return pinpoint.Place{}
}

// TestCauses decides one request for each rule and compares status, first cause, place and names.
func TestCauses(t *testing.T) {
	site := func() tree {
		return tree{"/srv/www/a.html": "x", "/srv/www/img/": "", "/srv/www/pub/a.html": "x", "/srv/www/.git/config": "x", "/srv/www/x.cgi": "x", "/srv/www/app/index.php": "x"}
	}
	const grant = "DocumentRoot /srv/www\n<Directory /srv/www>\nAllowOverride All\nRequire all granted\n</Directory>\n"
	const main = "/etc/apache2/apache2.conf"
	cases := []struct {
		name   string
		files  tree
		conf   string
		method string
		url    string
		fields []string
		edit   func(*pinpoint.Arrival)
		status int
		cause  string
		at     string // text of the line that the clue points to
		file   string
		says   []string
	}{
		{name: "served", conf: grant, url: "/a.html"},
		{name: "SetEnv counts for the index", files: tree{"/srv/www/img/index.html": "x", "/srv/www/img/.htaccess": "Order allow,deny\nAllow from env=!closed\n"}, conf: grant + "<Directory /srv/www/img>\nSetEnv closed 1\nDirectoryIndex /pub/a.html\n</Directory>\n<Directory /srv/www/pub>\nOrder allow,deny\nAllow from env=!closed\n</Directory>\n",
			url: "/img/", status: 403, cause: "apache-legacy-order-deny"},
		{name: "the index is asked for with GET", files: tree{"/srv/www/img/index.html": "x"}, conf: grant + "<Location /img>\nRequire method POST\n</Location>\n", method: "POST", url: "/img/", status: 403, cause: "method-denied-by-rule", at: "Require method POST", says: []string{"looks for /img/index.html with GET"}},
		{name: "bare Options leaves an option out", files: tree{"/srv/www/img/.htaccess": "Options SymLinksIfOwnerMatch\n"}, conf: "DocumentRoot /srv/www\n<Directory /srv/www>\nAllowOverride Options\nRequire all granted\n</Directory>\n",
			url: "/img/", status: 500, cause: "apache-allowoverride-none", at: "Options SymLinksIfOwnerMatch", file: "/srv/www/img/.htaccess", says: []string{"AllowOverride Options"}},
		{name: "a body above the limit takes the place of a redirect", conf: grant + "<Location /img>\nLimitRequestBody 4\n</Location>\n", method: "POST", url: "/img", fields: []string{"Content-Length", "9"}, status: 413, cause: "body-too-large", at: "LimitRequestBody 4"},
		{name: "the ErrorDocument of an index does not count", conf: grant + "<Directory /srv/www/img>\nDirectoryIndex /pub/a.html\n</Directory>\n<Directory /srv/www/pub>\nErrorDocument 403 http://elsewhere.test/\nRequire all denied\n</Directory>\n",
			url: "/img/", status: 403, cause: "apache-require-denied", at: "Require all denied"},
		{name: "S04 listing", conf: grant + "<Directory /srv/www/img>\nOptions -Indexes\n</Directory>\n", url: "/img/", status: 403, cause: "no-index-listing-off", at: "Options -Indexes", says: []string{"AH01276", "/srv/www/img/"}},
		{name: "S05 inherited .htaccess", conf: grant, files: tree{"/srv/www/.htaccess": "# closed\nRequire all denied\n"}, url: "/pub/a.html", status: 403, cause: "apache-require-denied", at: "Require all denied", file: "/srv/www/.htaccess", says: []string{"/srv/www/.htaccess:2", "AH01630"}},
		{name: "S06 unreadable .htaccess", conf: grant, files: tree{"/srv/www/.htaccess": "EACCES"}, url: "/a.html", status: 403, cause: "apache-htaccess-unreadable", file: "/srv/www/.htaccess", says: []string{"AH00529"}},
		{name: "S07 AllowOverride None", conf: "DocumentRoot /srv/www\n<Directory /srv/www>\nAllowOverride None\nRequire all denied\n</Directory>\n", files: tree{"/srv/www/.htaccess": "Require all granted\n"}, url: "/a.html", status: 403,
			cause: "apache-allowoverride-none", at: "AllowOverride None", says: []string{"/srv/www/.htaccess", main}},
		{name: "S08 User-Agent rule", conf: grant + "<VirtualHost *:8080>\nServerName shop.test\nRewriteEngine On\nRewriteCond %{HTTP_USER_AGENT} ^(curl|python-requests)\nRewriteRule ^ - [F]\n</VirtualHost>\n", url: "/a.html", fields: []string{"User-Agent", "curl/8.5"}, status: 403,
			cause: "user-agent-blocked", at: "RewriteCond", says: []string{"silent", "RewriteCond %{HTTP_USER_AGENT}"}},
		{name: "S08 browser", conf: grant + "RewriteEngine On\nRewriteCond %{HTTP_USER_AGENT} ^(curl|python-requests)\nRewriteRule ^ - [F]\n", url: "/a.html", fields: []string{"User-Agent", "Mozilla/5.0"}},
		{name: "S10 address lost", conf: grant + "<Location /pub>\nRequire ip 203.0.113.9\n</Location>\n", url: "/pub/a.html", fields: []string{"X-Forwarded-For", "203.0.113.9"}, status: 403, cause: "client-ip-lost-behind-proxy", at: "Require ip", says: []string{"192.0.2.7", "203.0.113.9", "remoteip"}},
		{name: "S10 address kept", conf: grant + "RemoteIPHeader X-Forwarded-For\nRemoteIPInternalProxy 192.0.2.7\n<Location /pub>\nRequire ip 203.0.113.9\n</Location>\n", url: "/pub/a.html", fields: []string{"X-Forwarded-For", "203.0.113.9"}},
		{name: "S10 other address", conf: grant + "<Location /pub>\nRequire ip 203.0.113.10\n</Location>\n", url: "/pub/a.html", fields: []string{"X-Forwarded-For", "203.0.113.9"}, status: 403, cause: "apache-require-denied", at: "Require ip"},
		{name: "S19 body limit of mod_security", conf: grant + "SecRuleEngine On\nSecRequestBodyAccess On\nSecRequestBodyLimit 13107200\nSecRequestBodyNoFilesLimit 131072\n", method: "POST", url: "/a.html", fields: []string{"Content-Length", "204800", "Content-Type", "application/json"}, status: 413,
			cause: "waf-body-limit", at: "NoFilesLimit", says: []string{"131072"}},
		{name: "DetectionOnly refuses nothing", conf: grant + "SecRuleEngine DetectionOnly\nSecRequestBodyAccess On\nSecRequestBodyNoFilesLimit 131072\n", method: "POST", url: "/a.html", fields: []string{"Content-Length", "204800"}},
		{name: "not allowed here", conf: "DocumentRoot /srv/www\n<Directory /srv/www>\nAllowOverride FileInfo\nRequire all granted\n</Directory>\n", files: tree{"/srv/www/.htaccess": "Require all granted\n"}, url: "/a.html", status: 500, cause: "apache-allowoverride-none", at: "Require all granted", file: "/srv/www/.htaccess", says: []string{"AllowOverride FileInfo"}},
		{name: "unknown directive", conf: grant, files: tree{"/srv/www/.htaccess": "\nRequier all granted\n"}, url: "/a.html", status: 500, cause: "apache-htaccess-error", at: "Requier", file: "/srv/www/.htaccess"},
		{name: "Order and Deny", conf: grant + "<Directory /srv/www/pub>\nOrder deny,allow\nDeny from 192.0.2.0/24\n</Directory>\n", url: "/pub/a.html", status: 403, cause: "apache-legacy-order-deny", at: "Deny from", says: []string{"AH01797"}},
		{name: "dot files", conf: grant + "<FilesMatch \"^\\.git|^config$\">\nRequire all denied\n</FilesMatch>\n", url: "/.git/config", status: 403, cause: "apache-files-protected", says: []string{"FilesMatch"}},
		{name: "LimitExcept", conf: grant + "<Directory /srv/www/pub>\n<LimitExcept GET>\nRequire all denied\n</LimitExcept>\n</Directory>\n", method: "PUT", url: "/pub/a.html", status: 403, cause: "method-denied-by-rule", at: "<LimitExcept", says: []string{"PUT"}},
		{name: "AllowMethods", conf: grant + "<Location />\nAllowMethods GET\n</Location>\n", method: "POST", url: "/a.html", status: 405, cause: "method-not-allowed", at: "AllowMethods"},
		{name: "TraceEnable", conf: grant + "TraceEnable off\n", method: "TRACE", url: "/a.html", status: 405, cause: "method-not-allowed", at: "TraceEnable"},
		{name: "rewrite without links", conf: grant + "<Directory /srv/www/pub>\nOptions None\nRewriteEngine On\nRewriteRule x y\n</Directory>\n", url: "/pub/a.html", status: 403, cause: "apache-options-rewrite", at: "Options None", says: []string{"AH00670"}},
		{name: "rewrite target", conf: grant + "RewriteEngine On\nRewriteRule ^/pretty$ /pub/a.html\n<Directory /srv/www/pub>\nRequire all denied\n</Directory>\n", url: "/pretty", status: 403, cause: "apache-rewrite-target-denied", at: "Require all denied", says: []string{"RewriteRule"}},
		{name: "Redirect 403", conf: grant + "Redirect 403 /pub\n", url: "/pub/a.html", status: 403, cause: "apache-rewrite-forbidden", at: "Redirect 403", says: []string{"silent"}},
		{name: "hotlink", conf: grant + "SetEnvIf Referer other\\.test foreign\n<Location /pub>\n<RequireAll>\nRequire all granted\nRequire not env foreign\n</RequireAll>\n</Location>\n", url: "/pub/a.html", fields: []string{"Referer", "https://other.test/"}, status: 403, cause: "hotlink-referer", at: "SetEnvIf"},
		{name: "password missing", conf: grant + "<Location />\nAuthType Basic\nAuthName r\nAuthUserFile /etc/users\nRequire valid-user\n</Location>\n", url: "/a.html", status: 401, cause: "auth-missing"},
		{name: "password wrong", conf: grant + "<Location />\nAuthType Basic\nAuthName r\nAuthUserFile /etc/users\nRequire valid-user\n</Location>\n", files: tree{"/etc/users": "bob:" + apr1("right", "saltsalt") + "\n"}, url: "/a.html", fields: []string{"Authorization", "Basic Ym9iOndyb25n"}, status: 401, cause: "basic-credentials-wrong", at: "AuthUserFile"},
		{name: "other user", conf: grant + "<Location />\nAuthType Basic\nAuthName r\nAuthUserFile /etc/users\nAuthzSendForbiddenOnFailure On\nRequire user alice\n</Location>\n", files: tree{"/etc/users": "bob:" + apr1("right", "saltsalt") + "\n"}, url: "/a.html", fields: []string{"Authorization", "Basic Ym9iOnJpZ2h0"}, status: 403, cause: "apache-authz-user", at: "Require user", says: []string{"bob"}},
		{name: "body", conf: grant + "LimitRequestBody 100\n", method: "POST", url: "/a.html", fields: []string{"Content-Length", "101"}, status: 413, cause: "body-too-large", at: "LimitRequestBody"},
		{name: "field", conf: grant, url: "/a.html", fields: []string{"Cookie", strings.Repeat("c", 9000)}, status: 400, cause: "header-too-large", says: []string{"Cookie", "8190"}},
		{name: "encoded slash", conf: grant, url: "/pub%2Fa.html", status: 404, cause: "path-encoding", says: []string{"AllowEncodedSlashes"}},
		{name: "CGI", conf: grant + "<Directory /srv/www>\nAddHandler cgi-script .cgi\n</Directory>\n", url: "/x.cgi", status: 403, cause: "apache-cgi-denied", says: []string{"AH02809"}},
		{name: "TLS needed", conf: grant + "<Directory /srv/www/pub>\nSSLRequireSSL\n</Directory>\n", url: "/pub/a.html", status: 403, cause: "https-required", at: "SSLRequireSSL"},
		{name: "certificate", conf: grant + "<Location /pub>\nSSLVerifyClient require\n</Location>\n", url: "/pub/a.html", edit: func(a *pinpoint.Arrival) { a.TLS, a.Cert = true, "none" }, status: 403, cause: "mtls-client-cert-missing", at: "SSLVerifyClient"},
		{name: "masked", conf: grant + "ErrorDocument 403 https://other.test/login\n<Location /pub>\nRequire all denied\n</Location>\n", url: "/pub/a.html", status: 302, cause: "apache-require-denied"},
	}
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			files := site()
			for n, s := range tt.files {
				files[n] = s
			}
			c := load(t, files, tt.conf)
			for _, p := range c.Problems {
				t.Errorf("problem: %s %s", placeText(p.At), p.Says)
			}
			if tt.method == "" {
				tt.method = "GET"
			}
			a := arrival(tt.method, "http://shop.test:8080"+tt.url, tt.fields...)
			if tt.edit != nil {
				tt.edit(&a)
			}
			d := c.Decide(a)
			if d.Status != tt.status || cause(d) != tt.cause {
				t.Fatalf("status %d, cause %q; want %d, %q\n%+v\n%v", d.Status, cause(d), tt.status, tt.cause, d.Clues, d.Trail)
			}
			if tt.cause == "" {
				return
			}
			first := d.Clues[0]
			file := tt.file
			if file == "" {
				file = main
			}
			if tt.at != "" && first.At != lineOf(files, file, tt.at) {
				t.Errorf("the clue points to %v, want %v", first.At, lineOf(files, file, tt.at))
			}
			all := fmt.Sprint(first.Says, first.Fix, first.Names)
			for _, c := range d.Clues {
				all += c.Says
			}
			for _, s := range tt.says {
				if !strings.Contains(all, s) {
					t.Errorf("%q is not said in %s", s, all)
				}
			}
			if len(first.Fix) == 0 {
				t.Errorf("no fix for %s", first.Cause)
			}
			for _, bad := range []string{"777", "SecRuleEngine Off", "SecRuleEngine off"} {
				if strings.Contains(fmt.Sprint(first.Fix), bad) {
					t.Errorf("the fix says %s", bad)
				}
			}
		})
	}
}

// TestUnknownIsSaid: what cannot be evaluated lowers the weight and stands in the trail.
func TestUnknownIsSaid(t *testing.T) {
	files := tree{"/srv/www/a.html": "x"}
	c := load(t, files, "DocumentRoot /srv/www\n<Directory /srv/www>\nRequire ldap-group cn=staff\nRequire host example.test\n</Directory>\n")
	a := arrival("GET", "http://shop.test/a.html")
	a.Status = 403
	d := c.Decide(a)
	if len(d.Clues) == 0 || d.Clues[0].Weight > pinpoint.Fair {
		t.Errorf("clues %+v", d.Clues)
	}
	if !strings.Contains(fmt.Sprint(d.Trail), "example.test") {
		t.Errorf("the trail does not name the open question: %v", d.Trail)
	}
	a.Status = 200
	if d := c.Decide(a); len(d.Clues) != 0 && d.Clues[0].Weight > pinpoint.Fair {
		t.Errorf("a clue of weight %v for a request that passed", d.Clues[0].Weight)
	}
}

// TestNextHops: proxies and php-fpm give arrivals.
func TestNextHops(t *testing.T) {
	files := tree{"/srv/www/app/index.php": "x"}
	c := load(t, files, `DocumentRoot /srv/www
<Directory /srv/www>
Require all granted
</Directory>
<FilesMatch \.php$>
SetHandler "proxy:unix:/run/php/fpm.sock|fcgi://localhost"
</FilesMatch>
ProxyPass /static !
ProxyPass /api http://127.0.0.1:9000/v1
ProxyPass /pool balancer://pool
<Proxy balancer://pool>
BalancerMember http://10.0.0.1:80
BalancerMember http://10.0.0.2:80
</Proxy>
`)
	d := c.Decide(arrival("GET", "http://shop.test/api/x?q=1", "X-Forwarded-For", "203.0.113.1"))
	if len(d.Next) != 1 || d.Next[0].Request.URL != "http://127.0.0.1:9000/v1/x?q=1" || d.Next[0].Request.Header.Value("X-Forwarded-For") != "203.0.113.1, 192.0.2.7" || d.Next[0].Local.Port() != 9000 {
		t.Errorf("next %+v", d.Next)
	}
	if d := c.Decide(arrival("GET", "http://shop.test/pool/y")); len(d.Next) != 2 || d.Next[1].Request.URL != "http://10.0.0.2:80/y" {
		t.Errorf("next %+v", d.Next)
	}
	a := arrival("GET", "http://shop.test/app/index.php", "Authorization", "Bearer x")
	a.Status = 401
	d = c.Decide(a)
	if len(d.Next) != 1 || d.Next[0].Request.Via.To != "unix:/run/php/fpm.sock" || cause(d) != "auth-header-stripped" {
		t.Errorf("next %+v, clues %+v", d.Next, d.Clues)
	}
	if len(d.Logs) != 2 || d.Logs[0].Kind != "access" && d.Logs[1].Kind != "access" {
		t.Errorf("logs %+v", d.Logs)
	}
}

// TestReader reads what configurations are made of.
func TestReader(t *testing.T) {
	files := tree{
		"/etc/apache2/a/1.conf": "ServerName one\\\n.test\n", "/etc/apache2/a/2.conf": "Use site two\n",
		"/etc/apache2/loop.conf": "Include loop.conf\n",
	}
	c := load(t, files, "Define ROOT /srv\n<Macro site $n>\nServerAdmin $n@x.test\n</Macro>\nDocumentRoot \"${ROOT}/www\"\n<IfDefine !NOPE>\nUseCanonicalName On\n</IfDefine>\n<IfModule mod_nothing.c>\nBroken <x\n<IfModule mod_alias.c>\n</IfModule>\n</IfModule>\n<IfModule rewrite_module>\nTraceEnable off\n</IfModule>\nIncludeOptional a/*.conf\nIncludeOptional none/*.conf\nInclude loop.conf\n<IfVersion >= 2.4>\nLimitRequestBody 5\n</IfVersion>\n</Directory>\n")
	if c.main.root != "/srv/www" || c.main.name != "one.test" || c.main.set["traceenable"] == nil || c.main.scope.setting("serveradmin") != "two@x.test" || c.main.scope.setting("limitrequestbody") != "5" {
		t.Errorf("root %q, name %q, settings %v", c.main.root, c.main.name, c.main.scope.set)
	}
	if len(c.Problems) != 2 {
		t.Errorf("problems %v", c.Problems)
	}
	if _, err := Load(files, "/none", Env{}); err == nil {
		t.Error("a missing file is no error")
	}
}

// TestHashes compares with known hashes of htpasswd.
func TestHashes(t *testing.T) {
	for hash, password := range map[string]string{
		"$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/":                        "myPassword",
		"{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=":                            "myPassword",
		"$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC": "myPassword",
	} {
		if right, known := verify(hash, password); !right || !known {
			t.Errorf("%s: right %v, known %v", hash, right, known)
		}
		if right, _ := verify(hash, password+"x"); right {
			t.Errorf("%s takes a wrong password", hash)
		}
	}
	if _, known := verify("rqXexS6ZhobKA", "myPassword"); known {
		t.Error("crypt is not computed here")
	}
}

// TestSecretsStay: nothing of a sealed or open credential comes out in texts.
func TestSecretsStay(t *testing.T) {
	vault := pinpoint.NewVault()
	files := tree{"/srv/www/a.html": "x", "/etc/users": "bob:" + apr1("right", "saltsalt") + "\n"}
	files["/etc/apache2/apache2.conf"] = preamble + modules() + "DocumentRoot /srv/www\n<Location />\nAuthType Basic\nAuthName r\nAuthUserFile /etc/users\nRequire user bob\n</Location>\n"
	c, err := Load(files, "/etc/apache2/apache2.conf", Env{Vault: vault})
	if err != nil {
		t.Fatal(err)
	}
	d := c.Decide(arrival("GET", "http://shop.test/a.html", "Authorization", vault.Hide("Basic Ym9iOndyb25n")))
	if d.Status != 401 || cause(d) != "basic-credentials-wrong" {
		t.Errorf("status %d, clues %+v", d.Status, d.Clues)
	}
	if s := fmt.Sprintf("%+v %+v", d.Clues, d.Trail); strings.Contains(s, "Ym9i") || strings.Contains(s, "wrong:") || strings.Contains(s, "apr1") {
		t.Errorf("a secret is shown: %s", s)
	}
	if d := c.Decide(arrival("GET", "http://shop.test/a.html", "Authorization", "Basic "+vault.Hide("Ym9iOnJpZ2h0"))); d.Status != 0 {
		t.Errorf("status %d with the right password", d.Status)
	}
}

// TestDebian reads the tree of the Debian package.
func TestDebian(t *testing.T) {
	if _, err := os.Stat("/etc/apache2/apache2.conf"); errors.Is(err, fs.ErrNotExist) {
		t.Skip("/etc/apache2 is not installed")
	}
	conf, env := Discover(disk{}, []string{"/usr/sbin/apache2", "-k", "start"}, nil)
	if conf != "/etc/apache2/apache2.conf" || env.Vars["APACHE_RUN_USER"] == "" {
		t.Fatalf("found %q with %v", conf, env.Vars)
	}
	c, err := Load(disk{}, conf, env)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range c.Problems {
		t.Errorf("%s: %s", placeText(p.At), p.Says)
	}
	a := arrival("GET", "http://localhost/.htpasswd")
	a.Local = netip.MustParseAddrPort("127.0.0.1:80")
	d := c.Decide(a)
	if d.User != env.Vars["APACHE_RUN_USER"] || len(d.Logs) == 0 || strings.Contains(d.Logs[0].Path, "$") {
		t.Errorf("user %q, logs %v", d.User, d.Logs)
	}
	if d.Status != 403 || d.Clues[0].Cause != "apache-files-protected" {
		t.Errorf("status %d, clues %+v", d.Status, d.Clues)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(grammar, "Require all denied\n")
	f.Add("<Directory />\n<If \"%{HTTP_HOST} == 'x' && -R '10/8'\">\nRequire not ip x\n</If>\n", "RewriteRule ^(.*)z$ $1 [N]\n")
	f.Add("Include *\n<IfModule", "<Files \"\\")
	f.Add("<Macro a $x>\nUse a $x$x\n</Macro>\nUse a b\n", "Options +")
	f.Fuzz(func(t *testing.T, conf, htaccess string) {
		files := tree{"/srv/www/a.html": "x", "/srv/www/.htaccess": htaccess, "/etc/apache2/apache2.conf": modules() + "DocumentRoot /srv/www\n<Directory /srv/www>\nAllowOverride All\n</Directory>\n" + conf}
		c, err := Load(files, "/etc/apache2/apache2.conf", Env{})
		if err != nil {
			t.Fatal(err)
		}
		d := c.Decide(arrival("GET", "http://shop.test/a.html", "User-Agent", "curl", "Authorization", "Basic Ym9iOng="))
		if len(d.Trail) > maxTrail+maxDoubts {
			t.Errorf("%d steps", len(d.Trail))
		}
	})
}

const grammar = `RewriteEngine On
RewriteCond %{HTTP_USER_AGENT} ^curl [NC,OR]
RewriteCond %{REQUEST_FILENAME} !-f
RewriteRule ^/?(.*)$ /$1?x=%1 [QSA,L]
Alias /x /srv/www
SetEnvIf User-Agent "^(c)" v=$1
<VirtualHost *:8080>
ServerName shop.test
<Location /a>
<RequireAll>
Require not ip 10
Require expr "%{REQUEST_URI} =~ m#^/a#"
</RequireAll>
</Location>
</VirtualHost>
`

func FuzzDecide(f *testing.F) {
	files := tree{"/srv/www/a.html": "x", "/srv/www/img/": ""}
	c := load(f, files, "DocumentRoot /srv/www\n"+grammar+"<Directory /srv/www>\nRequire valid-user\nAuthType Basic\nAuthName x\nAuthUserFile /etc/users\nOrder deny,allow\nDeny from x.test 10/8\n</Directory>\nProxyPass /p http://127.0.0.1:1\n")
	f.Add("GET", "http://shop.test/a.html", "User-Agent", "curl")
	f.Add("", "//%2e%2e/\x00%00?", "X-Forwarded-For", "::1,,")
	f.Add("BREW", "p/%", "Authorization", "Basic Og==")
	f.Fuzz(func(t *testing.T, method, url, name, value string) {
		for _, local := range []netip.AddrPort{{}, netip.MustParseAddrPort("[::1]:8080")} {
			c.Decide(pinpoint.Arrival{Request: &pinpoint.Request{Method: method, URL: url, Header: pinpoint.Header{{Name: name, Value: value}}}, Local: local})
		}
	})
}
