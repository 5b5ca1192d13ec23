package nginx

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// one is a machine that has one file.
type one string

func (o one) ReadFile(name string) ([]byte, error) {
	if name == "/etc/nginx/nginx.conf" {
		return []byte(o), nil
	}
	return nil, os.ErrNotExist
}

func (o one) Glob(pattern string) ([]string, error) {
	if len(pattern)%3 == 0 {
		return []string{pattern}, nil
	}
	return nil, nil
}

// FuzzParse reads anything as a configuration.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"http { server { listen 80; } }", "a { b 'c' \"d\\\"\" ${e} #f\n; }", "x_by_lua_block { [[ } ]] -- }\n }", "include a*;", "include /etc/nginx/nginx.conf;", "map $a $b { ~x 1; }", "\\", "a \\\n;"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := &reader{files: one(text), base: "/etc/nginx"}
		body := r.file("/etc/nginx/nginx.conf", 0)
		var check func(list []*directive, depth int)
		check = func(list []*directive, depth int) {
			if depth > 2*maxDepth+2 {
				t.Fatal("too deep")
			}
			for _, d := range list {
				if d.name == "" && len(d.args) == 0 && d.at.Line == 0 {
					t.Fatal("a directive without a place")
				}
				d.text()
				check(d.block, depth+1)
			}
		}
		check(body, 0)
	})
}

// FuzzDecide sends anything through any configuration.
func FuzzDecide(f *testing.F) {
	f.Add("rewrite ^/(.*)$ /x/$1 last; location / { try_files $uri @n; } location @n { return 403; }", "GET", "/a%2e/../b?c=d", "X", "y")
	f.Add("set $a $b; set $b $a$a$a; if ($a ~ (x+)+y) { return 403; } error_page 403 /e; recursive_error_pages on; deny all;", "POST", "//", "Referer", "http://a/")
	f.Add("location ~ ^/(a|b) { alias /x/$1; } location /c/ { proxy_pass http://$http_x$uri; limit_except GET { deny all; } }", "PUT", "/c/%00", "X-Forwarded-For", "1.2.3.4, ::1")
	f.Add("auth_basic x; auth_basic_user_file nginx.conf; satisfy any; auth_request /q; location /q { auth_request /q; return 401; }", "GET", "/q", "Authorization", "Basic eDp5")
	f.Add("valid_referers none ~x *.y z/w server_names; if ($invalid_referer) { set $x 1; } index $x /y; disable_symlinks on from=$x; autoindex on;", "HEAD", "/", "Host", "[::1")
	f.Add("secure_link $arg_a,$arg_b; secure_link_md5 $uri; if ($secure_link) { return 200 $secure_link_expires; } dav_methods PUT; location /x/ { root /y; } location = /x/ { uwsgi_pass u; }", "PUT", "/x", "a_b", "c")
	f.Fuzz(func(t *testing.T, text, method, url, name, val string) {
		c, err := Load(one("http { map $http_x $m { default $n; ~a(.) $1; } map $m $n { default $m; } geo $g { 10.0.0.0/8 1; } limit_req_zone $m zone=z:1m rate=1r/s; server { listen 80; server_name ~^(?<s>.*)$ *.x; "+text+"\n} }"), "", "")
		if err != nil {
			return
		}
		a := pinpoint.Arrival{
			Request: &pinpoint.Request{Method: method, URL: "http://h.test" + url, Header: pinpoint.Header{{Name: name, Value: val}}},
			Client:  netip.MustParseAddr("10.0.0.1"), Local: netip.MustParseAddrPort("10.0.0.2:80"), Status: 403,
		}
		start := time.Now()
		d := c.Decide(a)
		if took := time.Since(start); took > 20*time.Second {
			t.Fatalf("took %v", took)
		}
		if d.Status < 0 || len(d.Trail) > 4*maxSteps || len(d.Clues) > 100 {
			t.Fatalf("status %d, %d steps, %d clues", d.Status, len(d.Trail), len(d.Clues))
		}
		c.Decide(pinpoint.Arrival{Request: a.Request})
	})
}
