package servers

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/whygate/whygate/pinpoint"
)

// hapDice makes random proxies that HAProxy accepts.
type hapDice struct {
	dice
	dir string
}

func (g hapDice) test() string {
	return g.pick(
		"path /admin /", "path_beg /admin", "path_beg -i /ADM", "path_end .php .html", "path_end -i .PHP", "path_sub secret", `path_reg ^/a(dmin|pi)/`, "path_reg -i ^/API", "path_dir api", "path_dir -i admin sub",
		"path_len gt 8", "path -m beg /api", "path -m reg -i ^/x", "hdr(host) -i shop.test", "hdr(host) shop.test", "hdr_beg(host) -i www.", "hdr_end(host) .test .example", "hdr_dom(host) -i shop", "hdr_sub(user-agent) -i curl bot",
		"hdr_reg(user-agent) -i ^mozilla", "req.hdr(user-agent) -m found", "req.hdr(x-api-key) one two", "req.hdr(x-api-key) -m found", "hdr_cnt(x-list) gt 1", "req.hdr_cnt(x-list) 0", "hdr(x-list) b", "req.fhdr(x-list) b", "hdr(x-list,1) a", "hdr(x-list,-1) c",
		"hdr_val(content-length) gt 5", "src 127.0.0.1", "src 127.0.0.0/30 10.0.0.0/8", "src 127.0.0.2 ::1", "src 127.0.0.0/255.255.255.254", "method POST PUT", "method GET", "method DELETE", "url_beg /admin?", "url /admin?x=1", "url_sub x=1", "url_reg x=[0-9]$", "urlp(x) 1", "urlp(x) -m found", "url_param(y) -m beg z",
		"cook(sid) ok", "cook(sid) -m found", "cook_beg(sid) b", "ssl_fc", "dst_port 1:65535", "base_beg shop.test/admin", "base_reg ^[a-z.]+/api", "query -m sub x=1", "always_true", "always_false", "req.ver 1.1",
		"path -f DIR/paths", "path_beg -i -f DIR/paths", "hdr(host),lower -f DIR/hosts", "req.hdr(host),lower,field(1,:) shop.test", "path,lower -m beg /admin", "path,url_dec -m sub ..", "path,length ge 6", "hdr_ip(x-forwarded-for,-1) 10.0.0.0/8", "hdr_ip(x-forwarded-for) 10.1.1.1", "req.hdr(x-forwarded-for) -m ip 127.0.0.2",
		"var(txn.v) -m found", "var(txn.v) -m str one", "var(txn.v) -m beg /a", "path,map_beg(DIR/map) -m found", "req.hdr(host),lower,map(DIR/hostmap,none) bk1", "path,word(1,/) api", "path,field(2,/) api", "http_auth(people)", "http_auth_group(people) staff", "req.hdr(host),host_only -i shop.test", "hdr_len(host) gt 9", "path_dom admin", "url_dir sub", "hdr_dir(referer) x",
	)
}

func (g hapDice) condition(names []string) string {
	if g.chance(20) {
		return ""
	}
	out := " " + g.pick("if", "if", "if", "unless")
	for i := range 1 + g.IntN(3) {
		if i > 0 && g.chance(30) {
			out += g.pick(" or", " ||")
		}
		if g.chance(25) {
			out += g.pick(" !", " ! ")
		} else {
			out += " "
		}
		switch {
		case g.chance(50) && len(names) > 0:
			out += g.pick(names...)
		case g.chance(30):
			out += g.pick("METH_GET", "METH_POST", "LOCALHOST", "TRUE", "FALSE", "HTTP_1.1", "HTTP_URL_SLASH", "METH_HEAD", "HTTP_CONTENT", "HTTP")
		default:
			out += "{ " + g.test() + " }"
		}
	}
	return out
}

func (g hapDice) rule(names []string) string {
	c := g.condition(names)
	switch g.IntN(14) {
	case 0, 1, 2:
		return "http-request deny" + g.pick("", "", " deny_status 404", " deny_status 429", " status 410") + c
	case 3:
		return "http-request allow" + c
	case 4:
		return "http-request return status " + g.pick("200", "403", "418", "503") + ` content-type text/plain string "x"` + c
	case 5:
		return "http-request redirect " + g.pick("location /moved", "prefix https://x.test", "scheme https code 301") + c
	case 6:
		return "http-request " + g.pick("tarpit", "tarpit deny_status 403", "reject") + c
	case 7:
		return "http-request " + g.pick("set-path /api%[path]", "set-path /admin", "set-query a=b", "set-uri /new?x=1", `replace-path /api/(.*) /admin/\1`, `replace-uri ^/(.*) /z/\1`, "set-method POST") + c
	case 8:
		return "http-request " + g.pick("set-header X-Api-Key one", "del-header User-Agent", "set-header Host www.shop.test", "add-header X-List z", "set-header X-Api-Key %[path,lower]", "del-header X- -m beg", `replace-header User-Agent (.*)l(.*) \2bot\1`) + c
	case 9:
		return "http-request set-var(txn.v) " + g.pick("path", "req.hdr(x-api-key)", "str(one)", "src", "path,lower") + c
	case 10:
		return "http-request auth realm x" + c
	case 11:
		return "http-request set-src " + g.pick("hdr(x-forwarded-for)", "hdr_ip(x-forwarded-for,-1)") + c
	case 12:
		return "redirect " + g.pick("location /r", "prefix /p") + c
	}
	return "http-request deny" + c
}

func (g hapDice) acls() (lines string, names []string) {
	for i := range 1 + g.IntN(5) {
		n := "a" + strconv.Itoa(i)
		if g.chance(15) && i > 0 {
			n = "a" + strconv.Itoa(i-1)
		} else {
			names = append(names, n)
		}
		lines += "  acl " + n + " " + g.test() + "\n"
	}
	return lines, names
}

// sorted puts redirect lines behind http-request lines, as HAProxy evaluates them.
func (g hapDice) rules(names []string, n int) (out string) {
	for range g.IntN(n) {
		out += "  " + g.rule(names) + "\n"
	}
	return out
}

func (g hapDice) proxies(n int, address, up string) string {
	var b strings.Builder
	acls, names := g.acls()
	if g.chance(20) {
		fmt.Fprintf(&b, "defaults d%d\n  mode http\n  timeout client 5s\n  timeout server 5s\n  timeout connect 5s\n  timeout tarpit 5ms\n", n)
		if g.chance(50) {
			b.WriteString("  http-request deny" + g.condition(nil) + "\n")
		}
		if g.chance(50) {
			b.WriteString("  errorfile 403 DIR/masked.http\n")
		}
		fmt.Fprintf(&b, "frontend f%d from d%d\n", n, n)
	} else {
		fmt.Fprintf(&b, "frontend f%d from base\n", n)
	}
	fmt.Fprintf(&b, "  bind %s\n%s", address, acls)
	if g.chance(10) {
		fmt.Fprintf(&b, "  tcp-request connection reject%s\n", g.pick(" if { src 127.0.0.2 }", " unless { src 127.0.0.0/30 }"))
	}
	if g.chance(10) {
		b.WriteString("  tcp-request inspect-delay 100ms\n  tcp-request content " + g.pick("reject if { src 127.0.0.9 }", "accept if HTTP", "reject if { path_beg /api }", "reject if METH_POST") + "\n")
	}
	if g.chance(15) {
		b.WriteString("  monitor-uri /health\n")
		if g.chance(40) {
			b.WriteString("  monitor fail if { src 127.0.0.2 }\n")
		}
	}
	if g.chance(30) {
		b.WriteString("  option forwardfor" + g.pick("", " except 127.0.0.1", " if-none", " header X-Forwarded-For") + "\n")
	}
	b.WriteString(g.rules(names, 5))
	for i := range g.IntN(4) {
		switch {
		case g.chance(15):
			fmt.Fprintf(&b, "  use_backend bk%%[req.hdr(x-n)]%s\n", g.condition(names))
		case g.chance(15):
			fmt.Fprintf(&b, "  use_backend %%[req.hdr(host),lower,map(DIR/hostmap,bk2)]%s\n", g.condition(names))
		default:
			fmt.Fprintf(&b, "  use_backend b%d_%d%s\n", n, i%2, g.condition(names))
		}
	}
	if g.chance(85) {
		fmt.Fprintf(&b, "  default_backend %s\n", g.pick(fmt.Sprintf("b%d_0", n), fmt.Sprintf("b%d_1", n), "bk1"))
	}
	for i := range 2 {
		acls, names := g.acls()
		fmt.Fprintf(&b, "backend b%d_%d from base\n%s", n, i, acls)
		if g.chance(60) {
			b.WriteString(g.rules(names, 4))
		}
		fmt.Fprintf(&b, "  http-response set-header X-Be b%d_%d\n", n, i)
		switch {
		case g.chance(8):
		case g.chance(10):
			fmt.Fprintf(&b, "  server s %s disabled\n", up)
		default:
			fmt.Fprintf(&b, "  server s %s\n", up)
		}
	}
	return b.String()
}

func randomRequest(g dice) *pinpoint.Request {
	path := g.pick("/", "/admin", "/admin/", "/ADMIN/x", "/api/x", "/API", "/a/api/b", "/secret/a.html", "/x.php", "/X.PHP", "/sub/admin/y", "/health", "/moved", "/api", "/a%2e%2e/b", "//admin", "/paths/one", "/p1", "/dir/sub")
	path += g.pick("", "", "", "?x=1", "?x=2&y=zz", "?y=z", "?")
	r := &pinpoint.Request{Method: g.pick("GET", "GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"), Proto: "HTTP/1.1"}
	host := g.pick("shop.test", "www.shop.test", "SHOP.test:8080", "shop.example", "other.org", "a.shop.test")
	r.URL = "http://" + host + path
	r.Header = pinpoint.Header{{Name: "Host", Value: host}}
	add := func(chance int, name string, values ...string) {
		if g.chance(chance) {
			r.Header = append(r.Header, pinpoint.Field{Name: name, Value: g.pick(values...)})
		}
	}
	add(80, "User-Agent", "curl/8.1", "Mozilla/5.0 (X11, Linux)", "a-bot")
	add(30, "X-Api-Key", "one", "two", "three")
	add(25, "X-List", "a, b", "a,b,c", "b", `"a,b", c`, "")
	add(10, "X-List", "c", "b")
	add(25, "X-Forwarded-For", "10.1.1.1", "127.0.0.2", "10.1.1.1, 127.0.0.9", "nonsense", "192.0.2.1,10.2.2.2")
	add(25, "Cookie", "sid=ok", "a=1; sid=bad", "sid=")
	add(25, "Authorization", "Basic Ym9iOnJpZ2h0", "Basic Ym9iOndyb25n", "Bearer x", "Basic YW5uOnB3")
	add(15, "Referer", "http://x.test/x/y", "https://other/")
	add(20, "X-N", "1", "2", "9")
	if r.Method == "POST" || r.Method == "PUT" {
		r.Body = []byte(strings.Repeat("b", g.IntN(12)))
		r.Header = append(r.Header, pinpoint.Field{Name: "Content-Length", Value: strconv.Itoa(len(r.Body))})
	}
	return r
}

// TestHAProxyDifferential compares decisions with a real HAProxy over random proxies and requests: the
// status, which backend answered, and what came to it. PINPOINT_HAPROXY_ROUNDS asks for more rounds,
// PINPOINT_SEED for others.
func TestHAProxyDifferential(t *testing.T) {
	exe := program(t, "haproxy")
	for round := range rounds("PINPOINT_HAPROXY_ROUNDS", 1) {
		t.Run(strconv.Itoa(round), func(t *testing.T) {
			const sections, requests = 150, 2500
			dir := t.TempDir()
			g := hapDice{dice{rand.New(rand.NewPCG(seed(), uint64(round)))}, dir}
			up, port := upstream(t), freePort(t)
			write(t, dir+"/paths", "# comment\n/admin\n\n/p1\n  /api\n")
			write(t, dir+"/hosts", "shop.test\nother.org\n")
			write(t, dir+"/map", "/admin one\n/ad two words\n/api\tthree\n")
			write(t, dir+"/hostmap", "shop.test bk1\nother.org bk2\n")
			write(t, dir+"/masked.http", "HTTP/1.0 404 Not Found\r\nContent-Type: text/html\r\n\r\nno\r\n")
			var b strings.Builder
			b.WriteString("global\n  maxconn 500\nuserlist people\n  group staff users bob\n  user bob insecure-password right\n  user ann insecure-password pw\n" +
				"defaults base\n  mode http\n  timeout client 5s\n  timeout server 5s\n  timeout connect 5s\n  timeout tarpit 5ms\n" +
				"backend bk1 from base\n  http-response set-header X-Be bk1\n  server s UP\nbackend bk2 from base\n  http-response set-header X-Be bk2\n  server s UP\n")
			var blocks []string
			for n := range sections {
				s := g.proxies(n, fmt.Sprintf("127.7.%d.1:%d", n, port), up)
				blocks = append(blocks, s)
				b.WriteString(s)
			}
			conf := filepath.Join(dir, "haproxy.cfg")
			write(t, conf, strings.NewReplacer("DIR", dir, "UP", up).Replace(b.String()))
			run(t, exe, []string{"-c", "-f", conf}, []string{"-q", "-db", "-f", conf}, fmt.Sprintf("127.7.0.1:%d", port))
			h, err := LoadHAProxy(disk{}, []string{conf}, Env{})
			if err != nil || len(h.Problems) > 0 {
				t.Fatal(err, h.Problems)
			}
			wrong, refused := 0, 0
			for range requests {
				n := g.IntN(sections)
				q := randomRequest(g.dice)
				from := g.pick("127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.9")
				local := netip.MustParseAddrPort(fmt.Sprintf("127.7.%d.1:%d", n, port))
				want := ask(t, local.String(), from, q)
				want.Location, want.Body = "", ""
				p := h.follow(pinpoint.Arrival{Request: q, Client: netip.MustParseAddr(from), Local: local})
				got := reply{Status: p.status}
				if len(p.next) > 0 {
					r := p.next[0].Request
					got = reply{Status: 200, Backend: p.be.name}
					got.Up = fmt.Sprintf("%s %s %s %s", r.Method, targetOf(r.URL), r.Host(), lastOf(r.Header.Values("X-Forwarded-For")))
					got.Up = strings.TrimSpace(got.Up)
				}
				if p.status >= 400 && len(p.clues) == 0 {
					t.Errorf("a refusal without a clue: %s %s", q.Method, q.URL)
				}
				if len(p.clues) > 0 {
					refused++
				}
				if got == want && p.unsure == 0 {
					continue
				}
				if wrong++; wrong <= 6 {
					t.Errorf("%s %s %v from %s\nhaproxy: %+v\nhere:    %+v (unsure %d)\n%s\ntrail: %s", q.Method, q.URL, q.Header, from, want, got, p.unsure, blocks[n], trailText(p.trail))
				}
			}
			t.Logf("%d frontends, %d requests, %d refused, %d differences", sections, requests, refused, wrong)
			if refused < requests/10 {
				t.Error("too few refusals to prove anything")
			}
		})
	}
}
