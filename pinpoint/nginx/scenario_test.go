package nginx

import (
	"fmt"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/whygate/whygate/pinpoint"
)

// tree is a machine in memory: names and contents; a name with a slash at its end is a directory.
type tree map[string]string

func (t tree) ReadFile(name string) ([]byte, error) {
	if text, ok := t[name]; ok {
		return []byte(text), nil
	}
	return nil, os.ErrNotExist
}

func (t tree) Glob(pattern string) ([]string, error) {
	found := map[string]bool{}
	for name := range t {
		for p := strings.TrimSuffix(name, "/"); p != "/" && p != "." && p != ""; p = path.Dir(p) {
			ok, err := path.Match(pattern, p)
			if err != nil {
				return nil, err
			}
			if ok {
				found[p] = true
			}
			if pattern == p+"/." && (p != strings.TrimSuffix(name, "/") || strings.HasSuffix(name, "/")) {
				found[pattern] = true
			}
		}
	}
	var out []string
	for n := range found {
		out = append(out, n)
	}
	slices.Sort(out)
	return out, nil
}

// web is a configuration with one server around a piece, and a few files.
func web(t *testing.T, server string, extra map[string]string) *Config {
	t.Helper()
	files := tree{
		"/etc/nginx/nginx.conf": "user www-data;\nhttp {\n" + extra["http"] + "\nserver {\nlisten 8080;\nlisten [::]:8080;\nserver_name shop.test;\nroot /srv/www;\n" + server + "\n}\n}\n",
		"/srv/www/a.html":       "a", "/srv/www/img/": "", "/srv/www/Case.html": "c", "/srv/www/pic.jpg": "p", "/srv/www/.well-known/acme-challenge/tok": "t", "/srv/www/.git/config": "g",
		"/data/img/x.png": "x", "/srv/static/x.css": "x",
		"/etc/nginx/htpasswd": "bob:$apr1$abcdefgh$" + md5Crypt("right", "abcdefgh", "$apr1$") + "\nann:{SHA}" + "W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n",
	}
	for name, text := range extra {
		if strings.HasPrefix(name, "/") {
			files[name] = text
		}
	}
	c, err := Load(files, "/etc/nginx/nginx.conf", "/usr/share/nginx")
	if err != nil || len(c.Problems) > 0 {
		t.Fatal(err, c.Problems)
	}
	return c
}

func arrive(method, url, client string, fields ...string) pinpoint.Arrival {
	r := &pinpoint.Request{Method: method, URL: url, Proto: "HTTP/1.1"}
	for i := 0; i+1 < len(fields); i += 2 {
		r.Header = append(r.Header, pinpoint.Field{Name: fields[i], Value: fields[i+1]})
	}
	a := pinpoint.Arrival{Request: r, Client: netip.MustParseAddr(client), Local: netip.MustParseAddrPort("127.0.0.1:8080")}
	if a.Client.Is6() {
		a.Local = netip.MustParseAddrPort("[::1]:8080")
	}
	if strings.HasPrefix(url, "https:") {
		a.TLS = true
	}
	return a
}

func first(d pinpoint.Decision) string {
	best := ""
	top := -1.0
	for _, c := range d.Clues {
		if c.Weight > top {
			best, top = c.Cause, c.Weight
		}
	}
	return best
}

// TestRules takes the rules one by one: what is asked, what nginx answers, which cause leads, and what
// its clue must say.
func TestRules(t *testing.T) {
	basic := "auth_basic staff; auth_basic_user_file htpasswd;"
	for _, c := range []struct {
		name, server string
		a            pinpoint.Arrival
		seen         int
		status       int
		cause        string
		says         []string
		extra        map[string]string
	}{
		{name: "S03 no index", server: "location / { }", a: arrive("GET", "http://shop.test:8080/img/", "127.0.0.2"), status: 403, cause: "no-index-listing-off", says: []string{"/img/", "index.html"}},
		{name: "S09 family", server: "allow 127.0.0.1;\ndeny all;", a: arrive("GET", "http://[::1]:8080/a.html", "::1"), status: 403, cause: "ip-family-mismatch", says: []string{"::1", "allow ::1;", "nginx.conf:10"}},
		{name: "family of the internet", server: "allow 192.0.2.0/24; deny all;", a: arrive("GET", "http://shop.test:8080/a.html", "2001:db8::7"), status: 403, cause: "nginx-deny-rule", says: []string{"2001:db8::7"}},
		{name: "address", server: "location /admin/ { allow 10.0.0.0/8;\ndeny all; }", a: arrive("GET", "http://shop.test:8080/admin/", "192.0.2.7"), status: 403, cause: "nginx-deny-rule", says: []string{"nginx.conf:10", "192.0.2.7", "location /admin/"}},
		{name: "S11 dot rule", server: "location / { }\nlocation ~ /\\. { deny all; }", a: arrive("GET", "http://shop.test:8080/.well-known/acme-challenge/tok", "192.0.2.7"), status: 403, cause: "nginx-location-precedence", says: []string{"location ^~ /.well-known/acme-challenge/", "nginx.conf:10", `~ /\.`}},
		{name: "dot rule with return", server: "location ~ /\\. { return 404; }", a: arrive("GET", "http://shop.test:8080/.well-known/acme-challenge/tok", "192.0.2.7"), status: 404, cause: "nginx-location-precedence", says: []string{"^~"}},
		{name: "dot rule does its work", server: "location ~ /\\. { deny all; }", a: arrive("GET", "http://shop.test:8080/.git/config", "192.0.2.7"), status: 403, cause: "nginx-deny-rule"},
		{name: "S12 limit_except", server: "location /api/ {\nlimit_except GET { deny all; }\nproxy_pass http://127.0.0.1:9; }", a: arrive("POST", "http://shop.test:8080/api/items", "192.0.2.7"), status: 403, cause: "method-denied-by-rule", says: []string{"limit_except GET", "POST", "nginx.conf:10"}},
		{name: "S13 hotlink", server: "location ~ \\.jpg$ { valid_referers none server_names;\nif ($invalid_referer) { return 403; } }", a: arrive("GET", "http://shop.test:8080/pic.jpg", "192.0.2.7", "Referer", "https://other.example/"), status: 403, cause: "hotlink-referer", says: []string{"other.example", "no line", "valid_referers none server_names"}},
		{name: "S13 own site", server: "location ~ \\.jpg$ { valid_referers none server_names;\nif ($invalid_referer) { return 403; } }", a: arrive("GET", "http://shop.test:8080/pic.jpg", "192.0.2.7", "Referer", "https://shop.test/x")},
		{name: "auth_request closes", server: "location /app/ { auth_request /_auth; root /nowhere; }\nlocation = /_auth { internal; return 444; }", a: arrive("GET", "http://shop.test:8080/app/", "192.0.2.7"), status: 444, cause: "nginx-auth-request-denied", says: []string{"/_auth", "444"}},
		{name: "auth_request after a body that is too large", server: "client_max_body_size 5; error_page 413 =403 /big.html; auth_request /_auth;\nlocation = /_auth { internal; return 401; }", a: arrive("POST", "http://shop.test:8080/app/", "192.0.2.7", "Content-Length", "6"), status: 401, cause: "body-too-large"},
		{name: "S14 auth_request", server: "location /app/ { auth_request /_auth; proxy_pass http://127.0.0.1:8001; }\nlocation = /_auth { internal; proxy_pass http://127.0.0.1:8000/check; }", a: arrive("GET", "http://shop.test:8080/app/", "192.0.2.7", "Cookie", "sid=bad"), seen: 403, cause: "nginx-auth-request-denied", says: []string{"/_auth", "verifier", "127.0.0.1:8000"}},
		{name: "S15 satisfy all", server: "allow 127.0.0.3;\ndeny all;\n" + basic, a: arrive("GET", "http://shop.test:8080/a.html", "127.0.0.2", "Authorization", "Basic Ym9iOnJpZ2h0"), status: 403, cause: "nginx-satisfy-all", says: []string{"satisfy any", "before the password"}},
		{name: "password right", server: basic, a: arrive("GET", "http://shop.test:8080/a.html", "127.0.0.2", "Authorization", "Basic Ym9iOnJpZ2h0")},
		{name: "password wrong", server: basic, a: arrive("GET", "http://shop.test:8080/a.html", "127.0.0.2", "Authorization", "Basic Ym9iOndyb25n"), status: 401, cause: "basic-credentials-wrong", says: []string{"bob", "/etc/nginx/htpasswd"}},
		{name: "password missing", server: basic, a: arrive("GET", "http://shop.test:8080/a.html", "127.0.0.2"), status: 401, cause: "auth-missing"},
		{name: "password sealed", server: basic, a: arrive("GET", "http://shop.test:8080/a.html", "127.0.0.2", "Authorization", "Basic ‹secret:3f9c1b2a len=12›"), seen: 401, cause: "basic-credentials-wrong"},
		{name: "password file gone", server: "auth_basic x; auth_basic_user_file gone;", a: arrive("GET", "http://shop.test:8080/a.html", "127.0.0.2", "Authorization", "Basic Ym9iOnJpZ2h0"), status: 403, cause: "fs-file-unreadable", says: []string{"/etc/nginx/gone"}},
		{name: "S20 body", server: "location /up/ { proxy_pass http://127.0.0.1:9; }", a: arrive("POST", "http://shop.test:8080/up/x", "192.0.2.7", "Content-Length", "2097152"), status: 413, cause: "body-too-large", says: []string{"client_max_body_size", "2097152", "1m"}},
		{name: "agent by map", server: "if ($bad) { return 403; }", extra: map[string]string{"http": "map $http_user_agent $bad {\ndefault 0;\n~*^curl 1; }"}, a: arrive("GET", "http://shop.test:8080/a.html", "192.0.2.7", "User-Agent", "curl/8.1"), status: 403, cause: "user-agent-blocked", says: []string{"curl/8.1", "nginx.conf:5", "error.log"}},
		{name: "agent by a set", server: "set $bad 0; if ($http_user_agent ~ python) { set $bad 1; } if ($bad) { return 403; }", a: arrive("GET", "http://shop.test:8080/a.html", "192.0.2.7", "User-Agent", "python-requests/2"), status: 403, cause: "user-agent-blocked"},
		{name: "method by if", server: "if ($request_method !~ ^(GET|HEAD)$) { return 405; }", a: arrive("PUT", "http://shop.test:8080/a.html", "192.0.2.7"), status: 405, cause: "method-denied-by-rule", says: []string{"PUT"}},
		{name: "https by if", server: "if ($scheme = http) { return 403; }", a: arrive("GET", "http://shop.test:8080/a.html", "192.0.2.7"), status: 403, cause: "https-required"},
		{name: "country", server: "if ($geoip_country_code = XX) { return 403; }", a: arrive("GET", "http://shop.test:8080/a.html", "192.0.2.7"), seen: 403, cause: "geo-blocked", says: []string{"could not be evaluated"}},
		{name: "return", server: "location /x { return 403; }", a: arrive("GET", "http://shop.test:8080/x", "192.0.2.7"), status: 403, cause: "nginx-return-403", says: []string{"error.log", "nginx.conf:9"}},
		{name: "internal", server: "location /x { internal; }", a: arrive("GET", "http://shop.test:8080/x", "192.0.2.7"), status: 404, cause: "nginx-internal-location"},
		{name: "masked", server: "deny all; error_page 403 =404 /none; location = /none { allow all; }", a: arrive("GET", "http://shop.test:8080/a.html", "192.0.2.7"), status: 404, cause: "nginx-deny-rule", says: []string{"deny all"}},
		{name: "alias", server: "location /img/ {\nalias /data/img; }", a: arrive("GET", "http://shop.test:8080/img/x.png", "192.0.2.7"), status: 404, cause: "nginx-alias-trap", says: []string{"/data/imgx.png", "alias /data/img/;", "nginx.conf:10"}},
		{name: "root twice", server: "location /static/ { root /srv/static; }", a: arrive("GET", "http://shop.test:8080/static/x.css", "192.0.2.7"), status: 404, cause: "nginx-alias-trap"},
		{name: "case", server: "", a: arrive("GET", "http://shop.test:8080/case.html", "192.0.2.7"), status: 404, cause: "fs-case-or-name", says: []string{"Case.html"}},
		{name: "post to a file", server: "", a: arrive("POST", "http://shop.test:8080/a.html", "192.0.2.7"), status: 405, cause: "method-not-allowed"},
		{name: "dav", server: "dav_methods DELETE;", a: arrive("PUT", "http://shop.test:8080/b.html", "192.0.2.7"), status: 405, cause: "nginx-dav-denied", says: []string{"PUT"}},
		{name: "proxy lost", server: "allow 192.0.2.0/24; deny all;", a: arrive("GET", "http://shop.test:8080/a.html", "10.0.0.5", "X-Forwarded-For", "192.0.2.7"), status: 403, cause: "client-ip-lost-behind-proxy", says: []string{"set_real_ip_from 10.0.0.5", "192.0.2.7"}},
		{name: "realip", server: "set_real_ip_from 10.0.0.0/8; real_ip_header X-Forwarded-For; allow 192.0.2.0/24; deny all;", a: arrive("GET", "http://shop.test:8080/a.html", "10.0.0.5", "X-Forwarded-For", "192.0.2.7")},
		{name: "limit", server: "limit_req zone=z burst=5;", extra: map[string]string{"http": "limit_req_zone $binary_remote_addr zone=z:1m rate=1r/s;"}, a: arrive("GET", "http://shop.test:8080/a.html", "192.0.2.7"), seen: 503, cause: "rate-limit-as-503", says: []string{"limit_req_status 429"}},
		{name: "limit as 429", server: "limit_req_status 429; limit_req zone=z;", extra: map[string]string{"http": "limit_req_zone $binary_remote_addr zone=z:1m rate=1r/s;"}, a: arrive("GET", "http://shop.test:8080/a.html", "192.0.2.7"), seen: 429, cause: "rate-limit"},
		{name: "S29 cached", server: "location / { proxy_pass http://127.0.0.1:9; proxy_cache c;\nproxy_cache_valid any 10m; }", a: arrive("GET", "http://shop.test:8080/a", "192.0.2.7"), seen: 403, cause: "cdn-cached-refusal", says: []string{"10m", "nginx.conf:10"}},
		{name: "not cached", server: "location / { proxy_pass http://127.0.0.1:9; proxy_cache c; proxy_cache_valid 200 10m; }", a: arrive("GET", "http://shop.test:8080/a", "192.0.2.7"), seen: 403},
		{name: "stripped", server: "location / { proxy_pass http://127.0.0.1:9; proxy_set_header Authorization \"\"; }", a: arrive("GET", "http://shop.test:8080/a", "192.0.2.7", "Authorization", "Bearer ‹secret:3f9c1b2a len=80›"), seen: 401, cause: "auth-header-stripped", says: []string{"proxy_set_header Authorization"}},
		{name: "underscore", server: "location / { proxy_pass http://127.0.0.1:9; }", a: arrive("GET", "http://shop.test:8080/a", "192.0.2.7", "api_key", "k"), seen: 401, cause: "auth-header-stripped", says: []string{"underscores_in_headers"}},
		{name: "big cookie", server: "", a: arrive("GET", "http://shop.test:8080/a.html", "192.0.2.7", "Cookie", "s=‹secret:3f9c1b2a len=9000›"), status: 400, cause: "header-too-large", says: []string{"Cookie", "large_client_header_buffers"}},
		{name: "long line", server: "", a: arrive("GET", "http://shop.test:8080/a.html?"+strings.Repeat("x", 9000), "192.0.2.7"), status: 414, cause: "uri-too-long"},
		{name: "symlinks", server: "disable_symlinks on;", a: arrive("GET", "http://shop.test:8080/a.html", "192.0.2.7"), seen: 403, cause: "fs-symlink-denied"},
		{name: "secret in a condition", server: "if ($http_x_api_key != right) { return 403; }", a: arrive("GET", "http://shop.test:8080/a.html", "192.0.2.7", "X-Api-Key", "‹secret:3f9c1b2a len=8›"), seen: 403, cause: "api-key-invalid", says: []string{"could not be evaluated"}},
		{name: "key missing", server: "if ($http_x_api_key = \"\") { return 403; }", a: arrive("GET", "http://shop.test:8080/a.html", "192.0.2.7"), status: 403, cause: "api-key-missing"},
		{name: "maintenance", server: "if (-f /srv/www/a.html) { return 503; }", a: arrive("GET", "http://shop.test:8080/x", "192.0.2.7"), status: 503, cause: "app-maintenance"},
		{name: "wrong vhost", server: "", extra: map[string]string{"http": "server { listen 8080 default_server; return 403; }"}, a: arrive("GET", "http://other.test:8080/a.html", "192.0.2.7"), status: 403, cause: "web-server-default-vhost", says: []string{"other.test", "shop.test"}},
		{name: "secure link", server: "location /dl/ { secure_link $arg_md5,$arg_expires; secure_link_md5 \"$secure_link_expires$uri k\"; if ($secure_link = \"\") { return 403; } }", a: arrive("GET", "http://shop.test:8080/dl/x?md5=AAAAAAAAAAAAAAAAAAAAAA&expires=1", "192.0.2.7"), status: 403, cause: "nginx-secure-link"},
		{name: "served", server: "", a: arrive("GET", "http://shop.test:8080/a.html", "192.0.2.7")},
		{name: "closed", server: "return 444;", a: arrive("GET", "http://shop.test:8080/a.html", "192.0.2.7"), status: 444, cause: "nginx-return-403"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := web(t, c.server, c.extra)
			c.a.Status = c.seen
			if c.seen == 0 {
				c.a.Status = c.status
			}
			d := conf.Decide(c.a)
			if d.Status != c.status || first(d) != c.cause {
				t.Fatalf("got %d %q, want %d %q\nclues %+v\ntrail%s", d.Status, first(d), c.status, c.cause, d.Clues, trailText(d.Trail))
			}
			if d.User != "www-data" || d.Product != "nginx" {
				t.Errorf("user %q, product %q", d.User, d.Product)
			}
			for _, clue := range d.Clues {
				if clue.Cause == "" || clue.Says == "" || clue.At.File == "" || clue.At.Line == 0 || clue.Source != pinpoint.FromConfig {
					t.Errorf("clue lacks something: %+v", clue)
				}
				if clue.Cause != c.cause {
					continue
				}
				text := fmt.Sprint(clue)
				for _, s := range c.says {
					if !strings.Contains(text, s) {
						t.Errorf("%q is not in %s", s, text)
					}
				}
			}
		})
	}
}

// TestTLS holds what a handshake decides (S30).
func TestTLS(t *testing.T) {
	files := tree{"/etc/nginx/nginx.conf": `http {
server { listen 8443 ssl default_server; server_name a.test; ssl_verify_client on; ssl_client_certificate ca.pem; error_page 495 496 /sorry; location / { return 200; } }
server { listen 8443 ssl; server_name opt.test; ssl_verify_client optional; if ($ssl_client_verify != SUCCESS) { return 403; } return 200; }
server { listen 8443 ssl; server_name plain.test; return 200; }
server { listen 8444 ssl; server_name r.test; ssl_reject_handshake on; }
}`}
	conf, err := Load(files, "", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		url, sni, cert string
		plain          bool
		port           uint16
		status         int
		cause          string
	}{
		{"https://a.test/", "a.test", "none", false, 8443, 400, "mtls-client-cert-missing"},
		{"https://a.test/", "a.test", "", false, 8443, 400, "mtls-client-cert-missing"},
		{"https://a.test/", "a.test", "expired", false, 8443, 400, "mtls-client-cert-invalid"},
		{"https://a.test/", "a.test", "untrusted", false, 8443, 400, "mtls-client-cert-invalid"},
		{"https://a.test/", "a.test", "valid", false, 8443, 200, ""},
		{"https://a.test/", "plain.test", "none", false, 8443, 421, "sni-host-mismatch"},
		{"https://opt.test/", "opt.test", "none", false, 8443, 403, "mtls-client-cert-missing"},
		{"https://plain.test/", "plain.test", "none", false, 8443, 200, ""},
		{"http://plain.test/", "", "", true, 8443, 400, "plain-http-on-tls-port"},
		{"https://x.test/", "x.test", "none", false, 8444, 0, "sni-host-mismatch"},
	} {
		a := arrive("GET", c.url, "192.0.2.7")
		a.TLS, a.SNI, a.Cert = !c.plain, c.sni, c.cert
		a.Local = netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), c.port)
		d := conf.Decide(a)
		if d.Status != c.status || first(d) != c.cause {
			t.Errorf("%+v: got %d %q\n%s", c, d.Status, first(d), trailText(d.Trail))
		}
		if !slices.Contains(d.Silent, "mtls-client-cert-missing") && c.port == 8443 {
			t.Error("a missing certificate is told at info only")
		}
	}
}

// TestForward holds what the next hop sees (S10, S28).
func TestForward(t *testing.T) {
	c := web(t, `location /prod/ { proxy_pass http://127.0.0.1:8081/; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }
location /internal/ { proxy_pass http://app; proxy_set_header Host $host; }
location ~ \.php$ { fastcgi_pass unix:/run/php/fpm.sock; }`, map[string]string{"http": "upstream app { server 127.0.0.1:9001; server 127.0.0.1:9002; }"})
	d := c.Decide(arrive("GET", "http://shop.test:8080/prod/items?x=1", "127.0.0.2", "Authorization", "Bearer t"))
	if len(d.Next) != 1 {
		t.Fatalf("next %+v", d.Next)
	}
	n := d.Next[0]
	if n.Request.URL != "http://127.0.0.1:8081/items?x=1" || n.Local.String() != "127.0.0.1:8081" || n.Client.String() != "127.0.0.1" ||
		n.Request.Header.Value("X-Forwarded-For") != "127.0.0.2" || n.Request.Header.Value("Authorization") != "Bearer t" || n.Request.Host() != "127.0.0.1:8081" {
		t.Errorf("next %+v %+v", n, n.Request)
	}
	n = c.Decide(arrive("GET", "http://shop.test:8080/internal/x", "127.0.0.2")).Next[0]
	if n.Request.Via.To != "127.0.0.1:9001" || n.Request.Host() != "shop.test" {
		t.Errorf("next %+v %+v", n, n.Request)
	}
	n = c.Decide(arrive("GET", "http://shop.test:8080/x.php", "127.0.0.2")).Next[0]
	if n.Request.Via.To != "unix:/run/php/fpm.sock" {
		t.Errorf("next %+v", n.Request)
	}
}

// TestFiles holds which files are opened, for the walk of the permissions (S01).
func TestFiles(t *testing.T) {
	c := web(t, `location / { try_files $uri $uri/ =404; }`, nil)
	d := c.Decide(arrive("GET", "http://shop.test:8080/a.html", "192.0.2.7"))
	if len(d.Files) < 2 || d.Files[0].Path != "/srv/www/a.html" || !d.Files[0].Optional || d.Files[len(d.Files)-1].Want != "read" || d.Files[len(d.Files)-1].Optional {
		t.Errorf("files %+v", d.Files)
	}
	d = c.Decide(arrive("GET", "http://shop.test:8080/nothing", "192.0.2.7"))
	if d.Status != 404 || len(d.Files) != 2 || d.Files[1].Want != "search" {
		t.Errorf("%d files %+v", d.Status, d.Files)
	}
}

func TestLogs(t *testing.T) {
	c := web(t, "error_log /var/log/nginx/shop.error.log crit; access_log logs/shop.log full;", map[string]string{"http": "log_format full escape=json '$status ' '$upstream_status';"})
	d := c.Decide(arrive("GET", "http://shop.test:8080/a.html", "192.0.2.7"))
	if len(d.Logs) != 2 || d.Logs[0].Path != "/var/log/nginx/shop.error.log" || d.Logs[0].Level != "crit" || d.Logs[1].Path != "/usr/share/nginx/logs/shop.log" || d.Logs[1].Format != "$status $upstream_status" {
		t.Errorf("logs %+v", d.Logs)
	}
	if !slices.Contains(d.Silent, "nginx-deny-rule") {
		t.Error("at crit the access rules are silent")
	}
	d = web(t, "", nil).Decide(arrive("GET", "http://shop.test:8080/a.html", "192.0.2.7"))
	if len(d.Logs) != 2 || d.Logs[0].Path != Debian.ErrorLog || d.Logs[1].Path != Debian.AccessLog || slices.Contains(d.Silent, "nginx-deny-rule") || !slices.Contains(d.Silent, "nginx-return-403") {
		t.Errorf("logs %+v %v", d.Logs, d.Silent)
	}
}

// TestMismatch lowers what does not fit the status that was seen.
func TestMismatch(t *testing.T) {
	a := arrive("GET", "http://shop.test:8080/a.html", "192.0.2.7")
	a.Status = 429
	for _, c := range web(t, "deny all;", nil).Decide(a).Clues {
		if c.Weight > pinpoint.Fair {
			t.Errorf("%s weighs %v", c.Cause, c.Weight)
		}
	}
}

func TestServers(t *testing.T) {
	files := tree{"/etc/nginx/nginx.conf": `http {
server { listen 80; server_name first; }
server { listen 80; server_name www.a.test; }
server { listen 80; server_name *.a.test; }
server { listen 80; server_name *.b.a.test; }
server { listen 80; server_name www.*; }
server { listen 80; server_name ~^(?<u>\w+)\.c\.test$; }
server { listen 80; server_name .d.test; }
server { listen 80; server_name ""; }
server { listen 192.0.2.1:80; server_name only; }
server { listen 192.0.2.1:80 default_server; server_name default; }
server { listen [::]:80; server_name six; }
server { listen unix:/run/x.sock; server_name sock; }
}`}
	c, err := Load(files, "", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		local, host string
		want        int
	}{
		{"10.0.0.1:80", "www.a.test", 1}, {"10.0.0.1:80", "x.a.test", 2}, {"10.0.0.1:80", "x.b.a.test", 3}, {"10.0.0.1:80", "www.z", 4}, {"10.0.0.1:80", "joe.c.test", 5},
		{"10.0.0.1:80", "d.test", 6}, {"10.0.0.1:80", "x.y.d.test", 6}, {"10.0.0.1:80", "", 7}, {"10.0.0.1:80", "nobody", 0},
		{"192.0.2.1:80", "www.a.test", 9}, {"192.0.2.1:80", "only", 8}, {"[2001:db8::1]:80", "www.a.test", 10}, {"10.0.0.1:81", "first", -1},
	} {
		p := c.choose(netip.MustParseAddrPort(x.local), x.host)
		if got := slices.Index(c.servers, p.server); got != x.want {
			t.Errorf("%s %q: got %d, want %d", x.local, x.host, got, x.want)
		}
	}
}

func TestNormalise(t *testing.T) {
	for raw, want := range map[string]string{
		"/a/b": "/a/b", "//a///b": "/a/b", "/a/./b": "/a/b", "/a/../b": "/b", "/a/..": "/", "/a/.": "/a/", "/a%2Fb": "/a/b", "/%2e%2e/a": "!", "/..": "!", "/a%25b": "/a%b", "/a%3Fb": "/a?b",
		"/%": "!", "/%0": "!", "/%00": "!", "/...": "/...", "/.a": "/.a", "/a/b/../../c": "/c", "/a//../b": "/b", "/": "/", "/a%20b": "/a b",
	} {
		got, ok := normalise(raw, true)
		if !ok {
			got = "!"
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", raw, got, want)
		}
	}
	if got, _ := normalise("//a//../b", false); got != "//a/b" {
		t.Errorf("without merge_slashes: %q", got)
	}
}

func TestPasswords(t *testing.T) {
	// openssl passwd -apr1 -salt abcdefgh right; openssl passwd -1 -salt abcdefgh right
	for _, c := range []struct {
		hash        string
		right, sure bool
	}{
		{"$apr1$abcdefgh$tPMe7lknrFZeX55XJF00t0", true, true}, {"$1$abcdefgh$vdBSIIpG7R8DPkuUogsqU0", true, true}, {"{PLAIN}right", true, true}, {"{PLAIN}wrong", false, true},
		{"$6$salt$whatever", false, false}, {"abJnggxhB/yWI", false, false}, {"{SHA}!!", false, true}, {"$2y$31$xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", false, false},
	} {
		if right, sure := verify(c.hash, "right"); right != c.right || sure != c.sure {
			t.Errorf("%s: %v %v", c.hash, right, sure)
		}
	}
}

func TestDiscover(t *testing.T) {
	for _, c := range []struct {
		args         []string
		conf, prefix string
	}{
		{nil, "/etc/nginx/nginx.conf", "/usr/share/nginx"},
		{[]string{"/usr/sbin/nginx", "-g", "daemon on; master_process on;"}, "/etc/nginx/nginx.conf", "/usr/share/nginx"},
		{[]string{"nginx: master process /usr/sbin/nginx -g daemon off; -c /srv/n.conf"}, "/srv/n.conf", "/usr/share/nginx"},
		{[]string{"nginx", "-p", "/opt/x/", "-c", "conf/n.conf"}, "/opt/x/conf/n.conf", "/opt/x"},
		{[]string{"nginx", "-c/a.conf"}, "/a.conf", "/usr/share/nginx"},
		{[]string{"nginx", "-c"}, "/etc/nginx/nginx.conf", "/usr/share/nginx"},
	} {
		if conf, prefix := Discover(c.args); conf != c.conf || prefix != c.prefix {
			t.Errorf("%q: %s %s", c.args, conf, prefix)
		}
	}
	b := ReadBuild("nginx version: nginx/1.22.1\nconfigure arguments: --prefix=/usr/share/nginx --conf-path=/etc/nginx/nginx.conf --error-log-path=stderr --http-log-path=/var/log/nginx/access.log")
	if b.ErrorLog != "stderr" || b.Conf != "/etc/nginx/nginx.conf" || b.AccessLog != "/var/log/nginx/access.log" || b.User != "nobody" {
		t.Errorf("%+v", b)
	}
}

// TestParse holds quoting, lines, includes and mistakes.
func TestParse(t *testing.T) {
	files := tree{
		"/etc/nginx/nginx.conf":   "http { # comment {\n include sites/*.conf;\n include \"one more.conf\";\n content_by_lua_block { local s = \"}\" -- }\n local t = [[ } ]] }\n server { server_name 'a b' \"c\\\"d\" e\\ f; if ($a ~ \"x{2}\") { return 200 '${b}'; } }\n}\n",
		"/etc/nginx/sites/a.conf": "server {\n listen 81;\n}\n", "/etc/nginx/sites/.hidden.conf": "broken {", "/etc/nginx/one more.conf": "server { listen 82; }", "/etc/nginx/loop.conf": "include loop.conf;",
	}
	c, err := Load(files, "/etc/nginx/nginx.conf", "/p")
	if err != nil || len(c.Problems) > 0 {
		t.Fatal(err, c.Problems)
	}
	if len(c.servers) != 3 || c.servers[0].listens[0].d.at != (pinpoint.Place{File: "/etc/nginx/sites/a.conf", Line: 2}) || c.servers[2].d.at.Line != 6 {
		t.Errorf("%d servers, %+v", len(c.servers), c.servers[2].d.at)
	}
	if got := c.servers[2].d.block[0].args; !slices.Equal(got, []string{"a b", `c"d`, `e\ f`}) && !slices.Equal(got, []string{"a b", `c"d`, `e\`, "f"}) {
		t.Errorf("%q", got)
	}
	for text, want := range map[string]string{
		"http { server { listen 80 } }": "unexpected", "http {": "ends before", "http { include loop.conf; }": "nested", "http { a 'b": "quote", "http { } }": "unexpected }", "http { a 'b'c; }": "behind a quote",
		"http { include gone.conf; }": "cannot be read",
	} {
		files["/etc/nginx/nginx.conf"] = text
		c, _ := Load(files, "/etc/nginx/nginx.conf", "/p")
		if c == nil || !strings.Contains(fmt.Sprint(c.Problems), want) {
			t.Errorf("%s: %+v", text, c)
		}
	}
}

// TestSystem reads what is installed on this machine and the examples of the packages.
func TestSystem(t *testing.T) {
	if _, err := os.Stat("/etc/nginx/nginx.conf"); err != nil {
		t.Skip("nginx is not installed")
	}
	c, err := Load(disk{}, "/etc/nginx/nginx.conf", "")
	if err != nil || len(c.Problems) > 0 {
		t.Error(err, c.Problems)
	}
	d := c.Decide(arrive("GET", "http://localhost/", "127.0.0.1"))
	if d.User != "www-data" {
		t.Errorf("user %q", d.User)
	}
	filepath.WalkDir("/etc/nginx", func(name string, e os.DirEntry, err error) error {
		// Modules put files of their own there.
		own := name == "/etc/nginx/nginx.conf" || strings.Contains(name, "/sites-") || strings.Contains(name, "/conf.d/") || strings.Contains(name, "/snippets/") || strings.HasSuffix(name, "_params")
		if err == nil && e.Type().IsRegular() && own {
			r := &reader{files: disk{}, base: "/etc/nginx"}
			if r.file(name, 0); len(r.problems) > 0 {
				t.Errorf("%s: %v", name, r.problems)
			}
		}
		return nil
	})
}

// TestLookaround holds the expressions that only PCRE and regexp2 read, and that a slow one ends.
func TestLookaround(t *testing.T) {
	c := web(t, `location ~ /\.(?!well-known) { deny all; }
location ~ ^/(a+)+(?=x)$ { deny all; }`, nil)
	if d := c.Decide(arrive("GET", "http://shop.test:8080/.well-known/acme-challenge/tok", "192.0.2.7")); d.Status != 0 || len(d.Clues) > 0 {
		t.Errorf("%d %+v", d.Status, d.Clues)
	}
	if d := c.Decide(arrive("GET", "http://shop.test:8080/.git/config", "192.0.2.7")); d.Status != 403 || first(d) != "nginx-deny-rule" {
		t.Errorf("%d %+v", d.Status, d.Clues)
	}
	a := arrive("GET", "http://shop.test:8080/"+strings.Repeat("a", 5000)+"!", "192.0.2.7")
	if d := c.Decide(a); !strings.Contains(trailText(d.Trail), "cannot be evaluated") && d.Status != 404 {
		t.Errorf("%d%s", d.Status, trailText(d.Trail))
	}
}

// TestConcurrent decides many requests at once; the race detector looks on.
func TestConcurrent(t *testing.T) {
	c := web(t, "if ($http_user_agent ~* (curl)) { return 403; } location ~ /\\. { deny all; } "+
		"valid_referers ~x; if ($invalid_referer) { return 403; }", nil)
	done := make(chan string)
	for range 8 {
		go func() {
			d := c.Decide(arrive("GET", "http://shop.test:8080/.git/config", "192.0.2.7", "Referer", "http://x.test/", "User-Agent", "me"))
			done <- first(d)
		}()
	}
	for range 8 {
		if got := <-done; got != "nginx-deny-rule" {
			t.Errorf("got %q", got)
		}
	}
}

// TestGeo holds the longest network, repetition and removal, and that long lists are read in time
// that grows with their length.
func TestGeo(t *testing.T) {
	var b strings.Builder
	b.WriteString("geo $in { default none; 10.0.0.0/8 wide; 10.1.0.0/16 old; 10.1.0.0/16 narrow; 10.2.0.0/16 gone; delete 10.2.0.0/16; 2001:db8::/32 six;\n")
	for i := range 60_000 {
		fmt.Fprintf(&b, "172.%d.%d.%d/32 n%d;\n", 16+i>>16, i>>8&255, i&255, i)
	}
	b.WriteString("}")
	c := web(t, `return 200 "$in";`, map[string]string{"http": b.String()})
	for client, want := range map[string]string{"10.9.9.9": "wide", "10.1.2.3": "narrow", "10.2.0.1": "wide", "192.0.2.1": "none", "2001:db8::5": "six", "172.16.4.1": "n1025"} {
		if got := c.follow(arrive("GET", "http://shop.test:8080/", client)).text; got != want {
			t.Errorf("%s: got %q, want %q", client, got, want)
		}
	}
}

// TestSecrets holds that credentials of the configuration stay in it.
func TestSecrets(t *testing.T) {
	c := web(t, `if ($http_x_api_key != "hunter2x") { return 403; } if ($who = "") { return 403; }
location / { proxy_pass http://127.0.0.1:9; proxy_set_header Authorization "Basic aHVudGVyMng="; }`, map[string]string{"http": `map $http_x_token $who { default ""; hunter3x bob; }`})
	for _, fields := range [][]string{nil, {"X-Api-Key", "hunter2x"}, {"X-Api-Key", "hunter2x", "X-Token", "hunter3x"}} {
		d := c.Decide(arrive("GET", "http://shop.test:8080/a", "192.0.2.7", fields...))
		text := fmt.Sprint(d.Clues, d.Trail)
		for _, n := range d.Next {
			text += n.Request.Header.Value("Authorization")
		}
		if strings.Contains(text, "hunter") || strings.Contains(text, "aHVudGVy") {
			t.Errorf("a secret shows: %s", text)
		}
	}
}
