package servers

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/whygate/whygate/pinpoint"
)

// decider is what all readers here are.
type decider interface {
	Decide(pinpoint.Arrival) pinpoint.Decision
}

func arrival(method, url, client string, status int, header ...string) pinpoint.Arrival {
	r := &pinpoint.Request{Method: method, URL: url, Proto: "HTTP/1.1"}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header = append(r.Header, pinpoint.Field{Name: header[i], Value: header[i+1]})
	}
	a := pinpoint.Arrival{Request: r, Client: netip.MustParseAddr(client), Local: netip.MustParseAddrPort("192.0.2.80:80"), Status: status}
	if strings.HasPrefix(url, "https:") {
		a.TLS, a.Local = true, netip.MustParseAddrPort("192.0.2.80:443")
	}
	return a
}

func load(t *testing.T, product string, files memory) decider {
	t.Helper()
	var d decider
	var err error
	switch product {
	case "haproxy":
		d, err = LoadHAProxy(files, []string{"/c"}, Env{})
	case "lighttpd":
		d, err = LoadLighttpd(files, "/c", Env{})
	case "caddyfile":
		d, err = LoadCaddyfile(files, "/c", Env{})
	case "iis":
		var names []string
		for n := range files {
			names = append(names, n)
		}
		d, err = LoadIIS(files, names, Env{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const hap = "defaults\n  mode http\n  log global\n  option httplog\nfrontend fe\n  bind :80\n"

// TestScenarios are configurations with the cause that the first clue must have, and what it must name.
func TestScenarios(t *testing.T) {
	for _, s := range []struct {
		name, product, conf string
		more                memory
		a                   pinpoint.Arrival
		status              int
		cause               string
		names               []string // in the sentence, the place or the names of the first clue
	}{
		{"S21 ACL", "haproxy", hap + "  acl admin path_beg /admin\n  acl lan src 10.0.0.0/8\n  http-request deny if admin !lan\n  default_backend b\nbackend b\n  server s 192.0.2.9:80\n", nil,
			arrival("GET", "http://shop.test/admin/", "192.0.2.7", 403), 403, "haproxy-acl-deny", []string{"admin holds", "lan does not hold", "PR--", "/c:9", "line 7"}},
		{"S22 stick table", "haproxy", hap + "  stick-table type ip size 1k expire 30s store http_req_rate(10s)\n  http-request track-sc0 src\n  http-request deny deny_status 403 if { sc_http_req_rate(0) gt 5 }\n  default_backend b\nbackend b\n  server s 192.0.2.9:80\n", nil,
			arrival("GET", "http://shop.test/", "192.0.2.7", 403), 0, "rate-limit-as-403", []string{"sc_http_req_rate(0) gt 5", "/c:9", "show table"}},
		{"S23 ending", "lighttpd", "server.modules = ( \"mod_access\" )\nserver.document-root = \"/w\"\nurl.access-deny = ( \"~\", \".inc\" )\n", memory{"/w/config.inc": "x"},
			arrival("GET", "http://shop.test/config.inc", "192.0.2.7", 403), 403, "lighttpd-access-deny", []string{".inc", "/c:3", "debug.log-request-handling"}},
		{"client lost behind a proxy", "haproxy", hap + "  http-request deny unless { src 203.0.113.0/24 }\n  default_backend b\nbackend b\n  server s 192.0.2.9:80\n", nil,
			arrival("GET", "http://shop.test/", "10.0.0.5", 403, "X-Forwarded-For", "203.0.113.9"), 403, "client-ip-lost-behind-proxy", []string{"10.0.0.5", "203.0.113.9", "set-src"}},
		{"set-src mends it", "haproxy", hap + "  http-request set-src hdr_ip(x-forwarded-for,-1) if { src 10.0.0.5 }\n  http-request deny unless { src 203.0.113.0/24 }\n  default_backend b\nbackend b\n  server s 192.0.2.9:80\n", nil,
			arrival("GET", "http://shop.test/", "10.0.0.5", 403, "X-Forwarded-For", "203.0.113.9"), 0, "", nil},
		{"tarpit", "haproxy", hap + "  timeout tarpit 7s\n  http-request tarpit if { hdr_sub(user-agent) -i bot }\n", nil,
			arrival("GET", "http://shop.test/", "192.0.2.7", 500, "User-Agent", "a-Bot"), 500, "haproxy-tarpit", []string{"7s", "PT--"}},
		{"tarpit of counters", "haproxy", hap + "  http-request tarpit deny_status 429 if { sc0_http_req_rate gt 5 }\n  default_backend b\nbackend b\n  server s 192.0.2.9:80\n", nil,
			arrival("GET", "http://shop.test/", "192.0.2.7", 429), 0, "haproxy-tarpit", []string{"stick table"}},
		{"agent", "haproxy", hap + "  http-request deny if { req.hdr(user-agent) -m sub curl }\n", nil,
			arrival("GET", "http://shop.test/", "192.0.2.7", 403, "User-Agent", "curl/8"), 403, "user-agent-blocked", []string{"curl/8", "/c:7"}},
		{"method", "haproxy", hap + "  http-request deny unless METH_GET\n", nil, arrival("DELETE", "http://shop.test/", "192.0.2.7", 403), 403, "method-denied-by-rule", []string{"DELETE"}},
		{"key", "haproxy", hap + "  http-request deny deny_status 401 unless { req.hdr(x-api-key) verysecretvalue }\n", nil, arrival("GET", "http://shop.test/", "192.0.2.7", 401), 401, "api-key-missing", []string{"x-api-key"}},
		{"no route", "haproxy", hap + "  use_backend b if { hdr(host) a.test }\nbackend b\n  server s 192.0.2.9:80\n", nil, arrival("GET", "http://shop.test/", "192.0.2.7", 503), 503, "gw-route-missing", []string{"default_backend"}},
		{"certificate", "haproxy", "defaults\n mode http\nfrontend f\n bind :443 ssl crt /x ca-file /y verify required\n default_backend b\n", nil,
			func() pinpoint.Arrival {
				a := arrival("GET", "https://shop.test/", "192.0.2.7", 0)
				a.Cert = "none"
				return a
			}(), 0, "mtls-client-cert-missing", []string{"verify required"}},
		{"unless in defaults", "haproxy", "defaults d\n mode http\n http-request deny if { path /x }\nfrontend f from d\n bind :80\n", nil, arrival("GET", "http://shop.test/x", "192.0.2.7", 403), 403, "haproxy-acl-deny", []string{"/c:3"}},

		{"address", "lighttpd", "server.modules = ( \"mod_access\" )\nserver.document-root = \"/w\"\n$HTTP[\"remoteip\"] != \"10.0.0.0/8\" {\n  url.access-deny = ( \"\" )\n}\n", nil,
			arrival("GET", "http://shop.test/", "192.0.2.7", 403), 403, "ip-allowlist-miss", []string{"192.0.2.7", "/c:3"}},
		{"address behind a proxy", "lighttpd", "server.modules = ( \"mod_access\" )\nserver.document-root = \"/w\"\n$HTTP[\"remoteip\"] != \"203.0.113.0/24\" {\n  url.access-deny = ( \"\" )\n}\n", nil,
			arrival("GET", "http://shop.test/", "10.0.0.5", 403, "X-Forwarded-For", "203.0.113.9"), 403, "client-ip-lost-behind-proxy", []string{"mod_extforward"}},
		{"no handler", "lighttpd", "server.document-root = \"/w\"\nstatic-file.exclude-extensions = ( \".php\" )\n", memory{"/w/a.php": "x"}, arrival("GET", "http://shop.test/a.php", "192.0.2.7", 403), 403, "lighttpd-no-handler", []string{".php", "fastcgi.server"}},
		{"no index", "lighttpd", "server.document-root = \"/w\"\nindex-file.names = ( \"index.html\" )\n", memory{"/w/d/x": "x", "/w/d": "", "/w/d/": ""}, arrival("GET", "http://shop.test/d/", "192.0.2.7", 403), 403, "no-index-listing-off", []string{"index.html"}},
		{"password", "lighttpd", "server.modules = ( \"mod_auth\" )\nauth.backend = \"plain\"\nauth.require = ( \"/p\" => ( \"method\" => \"basic\", \"require\" => \"valid-user\" ) )\n", nil, arrival("GET", "http://shop.test/p/x", "192.0.2.7", 401), 401, "auth-missing", []string{"/c:3"}},

		{"respond", "caddyfile", ":80 {\n\t@x path /admin*\n\trespond @x 403\n\tfile_server\n}\n", nil, arrival("GET", "http://shop.test/admin/a", "192.0.2.7", 403), 403, "caddy-respond-403", []string{"/admin", "/c:3"}},
		{"respond to addresses", "caddyfile", ":80 {\n\t@x not remote_ip 203.0.113.0/24\n\terror @x 403\n}\n", nil, arrival("GET", "http://shop.test/", "10.0.0.5", 403, "X-Forwarded-For", "203.0.113.9"), 403, "client-ip-lost-behind-proxy", []string{"client_ip", "trusted_proxies"}},
		{"basic_auth", "caddyfile", "http://shop.test {\n\tbasic_auth /p* {\n\t\tbob x\n\t}\n}\n", nil, arrival("GET", "http://shop.test/p", "192.0.2.7", 401), 401, "auth-missing", []string{"basic_auth"}},

		{"verb", "iis", "", memory{"/site/web.config": `<configuration><system.webServer><security><requestFiltering><verbs><add verb="DELETE" allowed="false" /></verbs></requestFiltering></security></system.webServer></configuration>`},
			arrival("DELETE", "http://shop.test/x", "192.0.2.7", 404), 404, "iis-request-filtering", []string{"404.6", "DELETE"}},
		{"extension", "iis", "", memory{"/h/applicationHost.config": "<configuration>\n<system.webServer><security><requestFiltering>\n<fileExtensions>\n<add fileExtension=\".bak\" allowed=\"false\" /></fileExtensions></requestFiltering></security></system.webServer></configuration>"},
			arrival("GET", "http://shop.test/a.BAK", "192.0.2.7", 404), 404, "iis-request-filtering", []string{"404.7", "applicationHost.config:4"}},
		{"segment", "iis", "", memory{"/s/web.config": `<configuration><system.webServer><security><requestFiltering><hiddenSegments><add segment="App_Data" /></hiddenSegments></requestFiltering></security></system.webServer></configuration>`},
			arrival("GET", "http://shop.test/app_data/x", "192.0.2.7", 404), 404, "iis-request-filtering", []string{"404.8"}},
		{"removed below", "iis", "", memory{"/s/web.config": `<configuration><system.webServer><security><requestFiltering><hiddenSegments><add segment="bin" /></hiddenSegments></requestFiltering></security></system.webServer></configuration>`,
			"/s/pub/web.config": `<configuration><system.webServer><security><requestFiltering><hiddenSegments><remove segment="bin" /></hiddenSegments></requestFiltering></security></system.webServer></configuration>`},
			arrival("GET", "http://shop.test/pub/bin/x", "192.0.2.7", 0), 0, "", nil},
		{"address list", "iis", "", memory{"/s/web.config": `<configuration><location path="admin"><system.webServer><security><ipSecurity allowUnlisted="false"><add ipAddress="10.0.0.0" subnetMask="255.0.0.0" allowed="true" /></ipSecurity></security></system.webServer></location></configuration>`},
			arrival("GET", "http://shop.test/admin/x", "192.0.2.7", 403), 403, "ip-allowlist-miss", []string{"403.6", "192.0.2.7"}},
		{"other location", "iis", "", memory{"/s/web.config": `<configuration><location path="admin"><system.webServer><security><ipSecurity allowUnlisted="false" /></security></system.webServer></location></configuration>`},
			arrival("GET", "http://shop.test/administrator", "192.0.2.7", 0), 0, "", nil},
		{"TLS", "iis", "", memory{"/s/web.config": `<configuration><system.webServer><security><access sslFlags="Ssl, SslNegotiateCert" /></security></system.webServer></configuration>`},
			arrival("GET", "http://shop.test/", "192.0.2.7", 403), 403, "https-required", []string{"403.4"}},
		{"ASP.NET", "iis", "", memory{"/s/web.config": `<configuration><system.web><authorization><allow users="*" /></authorization></system.web></configuration>`, "/s/in/web.config": `<configuration><system.web><authorization><deny users="?" /></authorization></system.web></configuration>`},
			arrival("GET", "http://shop.test/in/x.aspx", "192.0.2.7", 401), 401, "iis-url-authorization", []string{"/s/in/web.config"}},
		{"body", "iis", "", memory{"/s/web.config": `<configuration><system.webServer><security><requestFiltering><requestLimits maxQueryString="4" /></requestFiltering></security></system.webServer></configuration>`},
			arrival("GET", "http://shop.test/?abcdef", "192.0.2.7", 404), 404, "uri-too-long", []string{"404.15"}},
	} {
		t.Run(s.name, func(t *testing.T) {
			files := memory{}
			for k, v := range s.more {
				files[k] = v
			}
			if s.conf != "" {
				files["/c"] = s.conf
			}
			d := load(t, s.product, files).Decide(s.a)
			if d.Status != s.status {
				t.Errorf("status %d, want %d", d.Status, s.status)
			}
			if s.cause == "" {
				if len(d.Clues) > 0 {
					t.Errorf("a clue of %s: %s", d.Clues[0].Cause, d.Clues[0].Says)
				}
				return
			}
			if len(d.Clues) == 0 {
				t.Fatalf("no clue; trail:%s", trailText(d.Trail))
			}
			c := d.Clues[0]
			if c.Cause != s.cause || c.Source != pinpoint.FromConfig || c.Refuser != d.Product {
				t.Errorf("%s by %s of %s: %s", c.Cause, c.Refuser, c.Source, c.Says)
			}
			all := c.Says + " " + where(c.At) + " " + strings.Join(c.Fix, " ") + fmt.Sprint(c.Names)
			for _, n := range s.names {
				if !strings.Contains(all, n) {
					t.Errorf("%q is not named: %s", n, all)
				}
			}
			if s.status != 0 && c.At.Line == 0 {
				t.Error("the clue has no place")
			}
			for _, c := range d.Clues {
				if strings.Contains(c.Says+c.Quote+fmt.Sprint(c.Names, c.Fix), "verysecret") {
					t.Error("a clue tells the key that a rule compares with")
				}
				if _, ok := pinpoint.CauseByID(c.Cause); !ok {
					t.Errorf("the catalogue has no cause %s", c.Cause)
				}
			}
		})
	}
}

// TestSealed compares secrets and tells none of them.
func TestSealed(t *testing.T) {
	v := pinpoint.NewVault()
	files := memory{"/c": "userlist u\n user bob insecure-password right\n" + hap + "  http-request auth unless { http_auth(u) }\n  http-request set-header X-Old %[req.hdr(authorization)]\n  default_backend b\nbackend b\n  server s 192.0.2.9:80\n"}
	h, err := LoadHAProxy(files, []string{"/c"}, Env{Vault: v})
	if err != nil {
		t.Fatal(err)
	}
	right := "Basic " + v.Hide("Ym9iOnJpZ2h0")
	d := h.Decide(arrival("GET", "http://shop.test/", "192.0.2.7", 0, "Authorization", right))
	if d.Status != 0 || len(d.Next) != 1 {
		t.Fatalf("the right password is refused: %+v", d)
	}
	if s := fmt.Sprintf("%+v %+v", d, d.Next[0].Request); strings.Contains(s, "Ym9iOnJpZ2h0") {
		t.Error("the credential is told")
	}
	d = h.Decide(arrival("GET", "http://shop.test/", "192.0.2.7", 401, "Authorization", "Basic "+v.Hide("Ym9iOndyb25n")))
	if d.Status != 401 || !slices.ContainsFunc(d.Clues, func(c pinpoint.Clue) bool { return c.Cause == "basic-credentials-wrong" }) {
		t.Errorf("the wrong password passes: %+v", d)
	}
}

func TestDiscover(t *testing.T) {
	files := memory{"/etc/h/a.cfg": "", "/etc/h/b.cfg": ""}
	for _, c := range []struct {
		args string
		dir  string
		want string
	}{
		{"haproxy -Ws -f /etc/haproxy/haproxy.cfg -p /run/h.pid", "/", "/etc/haproxy/haproxy.cfg"},
		{"haproxy -f h.cfg", "/srv", "/srv/h.cfg"},
		{"haproxy -C /opt -f h.cfg -f /x.cfg", "/srv", "/opt/h.cfg /x.cfg"},
		{"haproxy -f /etc/h", "/", "/etc/h/a.cfg /etc/h/b.cfg"},
		{"haproxy -db -- one two", "/srv", "/srv/one /srv/two"},
		{"haproxy", "/", "/etc/haproxy/haproxy.cfg"},
	} {
		if got := strings.Join(DiscoverHAProxy(files, strings.Fields(c.args), c.dir), " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.args, got, c.want)
		}
	}
	if got := DiscoverLighttpd([]string{"lighttpd", "-D", "-f", "/x"}); got != "/x" {
		t.Error(got)
	}
	if got := DiscoverCaddy([]string{"caddy", "run", "--config=/y.json"}); got != "/y.json" {
		t.Error(got)
	}
}
