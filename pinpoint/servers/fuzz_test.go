package servers

import (
	"net/netip"
	"testing"

	"github.com/whygate/whygate/pinpoint"
)

func decideAnything(t *testing.T, d decider, method, url, name, val string) {
	a := pinpoint.Arrival{
		Request: &pinpoint.Request{Method: method, URL: "http://h.test" + url, Header: pinpoint.Header{{Name: name, Value: val}}},
		Client:  netip.MustParseAddr("10.0.0.1"), Local: netip.MustParseAddrPort("10.0.0.2:80"), Status: 403,
	}
	got := d.Decide(a)
	if got.Status < 0 || len(got.Trail) > maxSteps+1 || len(got.Clues) > 3*maxClues {
		t.Fatalf("status %d, %d steps, %d clues", got.Status, len(got.Trail), len(got.Clues))
	}
	d.Decide(pinpoint.Arrival{Request: a.Request})
	d.Decide(pinpoint.Arrival{})
}

func FuzzHAProxy(f *testing.F) {
	f.Add("acl a path_beg /x\nhttp-request deny if a or !{ src 10.0.0.0/8 } b", "GET", "/x?y=1", "X-Forwarded-For", "1.2.3.4, ::1")
	f.Add("http-request set-path %[path,regsub((a+)+,b,g),field(1,/)]\nhttp-request replace-uri (.*) \\1\\1\nhttp-request return status 403 if { path -f /c }\nuse_backend %[path,map(/c,x)]", "POST", "/aaa", "A", "b")
	f.Add("http-request set-var(txn.a) path\nhttp-request set-header X %[var(txn.a),word(-1,/)]\nstats uri /x\nmonitor-uri /y\nerrorfile 403 /c\nserver s unix@/a send-proxy", "GET", "/y", "Cookie", "a=b;c")
	f.Fuzz(func(t *testing.T, text, method, url, name, val string) {
		h, err := LoadHAProxy(memory{"/c": "userlist u\nuser a insecure-password b\ndefaults d\nmode http\nfrontend f from d\nbind :80\n" + text}, []string{"/c"}, Env{})
		if err == nil {
			decideAnything(t, h, method, url, name, val)
		}
	})
}

func FuzzLighttpd(f *testing.F) {
	f.Add("server.modules = (\"mod_access\", \"mod_rewrite\")\nserver.document-root = \"/w\"\n$HTTP[\"url\"] =~ \"^/(a+)+$\" { url.access-deny = (\"\") } else $HTTP[\"host\"] == \"x\" { include \"/c\" } else { }", "GET", "/a/../b", "Host", "x")
	f.Add("var.a = (\"x\" => (\"y\" => 1))\nauth.require = var.a + (\"/\" => (\"method\" => \"basic\"))\nurl.rewrite-once = (\"^/(.*)$\" => \"/$1$1\")\nproxy.server = (\"\" => ((\"host\" => \"::1\")))\nserver.modules += (\"mod_auth\",\"mod_proxy\",\"mod_rewrite\")", "PUT", "/%2e%2e/%00", "Authorization", "Basic eDp5")
	f.Fuzz(func(t *testing.T, text, method, url, name, val string) {
		l, err := LoadLighttpd(memory{"/c": text, "/w/a": "x", "/w/d/b": "x"}, "/c", Env{})
		if err == nil {
			decideAnything(t, l, method, url, name, val)
		}
	})
}

func FuzzCaddy(f *testing.F) {
	f.Add(`{"apps":{"http":{"servers":{"s":{"listen":[":80"],"routes":[{"match":[{"not":[{"path":["/x*"]}],"header":{"A":null}}],"handle":[{"handler":"subroute","routes":[{"handle":[{"handler":"error","status_code":"403"}]}]}]}]}}}}}`, "GET", "/x", "A", "b")
	f.Add(":80 {\n@a {\n path /x* *.y\n not header A b\n}\nrespond @a 403\nhandle_path /z/* {\nreverse_proxy localhost:1 unix//a\n}\nimport /c\nfile_server {\nhide a*\n}\n}", "PUT", "/z/x", "User-Agent", "b")
	f.Add("(a) {\nimport a\n}\n:80, h.test {\nimport a\nbasicauth {\nb c\n}\nrewrite /x {path}\nphp_fastcgi unix//x\nrequest_body {\nmax_size 1KB\n}\n}", "GET", "//", "Authorization", "Basic x")
	f.Fuzz(func(t *testing.T, text, method, url, name, val string) {
		if c, err := ParseCaddy([]byte(text), "/c", Env{}); err == nil {
			decideAnything(t, c, method, url, name, val)
		}
		if c, err := LoadCaddyfile(memory{"/c": text}, "/c", Env{}); err == nil {
			decideAnything(t, c, method, url, name, val)
		}
	})
}

func FuzzIIS(f *testing.F) {
	f.Add(`<configuration><location path="a"><system.webServer><security><ipSecurity allowUnlisted="false"><add ipAddress="10.0.0.0" subnetMask="255.0.255.0"/></ipSecurity><requestFiltering allowDoubleEscaping="false"><verbs allowUnlisted="false"/><requestLimits maxUrl="-1"><headerLimits><add header="A" sizeLimit="0"/></headerLimits></requestLimits></requestFiltering></security></system.webServer></location></configuration>`, "GET", "/a/b+c", "A", "b")
	f.Add(`<a><system.web><authorization><deny users="?" verbs="GET"/></authorization></system.web></a>`, "GET", "/%2525", "Cookie", "b")
	f.Fuzz(func(t *testing.T, text, method, url, name, val string) {
		if c, err := LoadIIS(memory{"/s/web.config": text, "/s/a/web.config": text, "/h/applicationHost.config": text}, []string{"/s/web.config", "/s/a/web.config", "/h/applicationHost.config"}, Env{}); err == nil {
			decideAnything(t, c, method, url, name, val)
		}
	})
}
