package servers

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/whygate/whygate/pinpoint"
)

// lightSetting is one that the block does not have yet: lighttpd takes each once.
func (g dice) lightSetting(depth int, used map[string]bool) string {
	for {
		s := g.lightLine(depth)
		key, _, _ := strings.Cut(s, " ")
		if cond, _, ok := strings.Cut(s, " {"); ok {
			key = cond
		}
		if !used[key] {
			used[key] = true
			return s
		}
	}
}

func (g dice) lightLine(depth int) string {
	switch g.IntN(12) {
	case 0, 1:
		return `url.access-deny ` + g.pick("=", "=", "+=") + ` ( ` + g.pick(`"~", ".inc"`, `""`, `".html"`, `".txt", ".php"`, ``, `"/secret"`, `"b"`) + ` )`
	case 2:
		return `url.access-allow = ( ` + g.pick(`".html"`, `".html", "/"`, `".txt"`) + ` )`
	case 3:
		return `static-file.exclude-extensions = ( ` + g.pick(`".php"`, `".html", ".php"`, `".txt"`) + ` )`
	case 4:
		return `index-file.names = ( ` + g.pick(`"index.html"`, `"b.txt", "index.html"`, `"none"`, `"index.php", "index.html"`, `"/a.html"`) + ` )`
	case 5:
		return `dir-listing.activate = "` + g.pick("enable", "disable") + `"`
	case 6:
		return `auth.require = ( "` + g.pick("", "/dir", "/dir/", "/private") + `" => ( "method" => "basic", "realm" => "x", "require" => "` + g.pick("valid-user", "user=bob", "user=ann", "user=ann|user=bob") + `" ) )`
	case 7:
		return `alias.url = ( "` + g.pick(`/al/" => "DIR/other/`, `/dir/" => "DIR/www/`, `/al" => "DIR/other`) + `" )`
	case 8:
		return `url.redirect = ( "` + g.pick(`^/old" => "/new`, `^/(.*)\.jpg$" => "http://x.test/$1`, `^/dir/sub" => "`) + `" )`
	case 9:
		return `url.rewrite-once = ( "` + g.pick(`^/r/(.*)$" => "/dir/$1`, `^/dir/(.*)\.txt" => "/$1.html`, `^/x$" => "/config.inc`, `^/old" => "/a.html?z=1`) + `" )`
	case 10:
		return `proxy.server = ( "` + g.pick("/api", ".php", "") + `" => ( ( "host" => "127.0.0.1", "port" => UPPORT ) ) )`
	}
	if depth > 2 {
		return `dir-listing.activate = "enable"`
	}
	return g.lightCondition(depth)
}

func (g dice) lightCondition(depth int) string {
	cond := func() string {
		return g.pick(
			`$HTTP["url"] =~ "^/dir"`, `$HTTP["url"] =^ "/dir/"`, `$HTTP["url"] =$ ".html"`, `$HTTP["url"] !~ "\.(html|txt)$"`, `$HTTP["url"] == "/a.html"`, `$HTTP["url"] != "/a.html"`, `$HTTP["url"] =~ "^/(?!dir)"`,
			`$HTTP["remoteip"] == "127.0.0.1"`, `$HTTP["remoteip"] != "127.0.0.2"`, `$HTTP["remoteip"] == "127.0.0.0/30"`, `$HTTP["remoteip"] =~ "^127\.0\.0\.[29]$"`, `$HTTP["remote-ip"] == "127.0.0.2"`,
			`$HTTP["useragent"] =~ "(?i)curl"`, `$HTTP["user-agent"] !~ "^Moz"`, `$HTTP["request-method"] == "POST"`, `$HTTP["request-method"] =~ "^(GET|HEAD)$"`, `$HTTP["querystring"] =~ "x=1"`, `$HTTP["query-string"] == ""`,
			`$HTTP["referer"] !~ "^http://x\.test"`, `$HTTP["referer"] == ""`, `$HTTP["cookie"] =~ "sid=ok"`, `$HTTP["scheme"] == "http"`, `$HTTP["host"] =~ "^s"`, `$REQUEST_HEADER["x-api-key"] == "one"`, `$REQUEST_HEADER["X-List"] =~ "b"`, `$HTTP["language"] =~ "de"`,
		)
	}
	body := func() (out string) {
		used := map[string]bool{}
		for range 1 + g.IntN(2) {
			out += "  " + g.lightSetting(depth+1, used) + "\n"
		}
		return out
	}
	out := cond() + " {\n" + body() + "}"
	if g.chance(25) {
		out += g.pick(" ", "\n") + "else " + g.pick("", "if ") + fmt.Sprintf(`$REQUEST_HEADER["x-n"] =~ "^[%d]"`, g.IntN(1e9)) + " {\n" + body() + "}"
	}
	if !strings.Contains(out, "else") && g.chance(30) {
		out += " else {\n" + body() + "}"
	}
	return out
}

// TestLighttpdDifferential compares decisions with a real lighttpd over random configurations and
// requests: the status and what was served. PINPOINT_LIGHTTPD_ROUNDS asks for more rounds, PINPOINT_SEED for others.
func TestLighttpdDifferential(t *testing.T) {
	exe := program(t, "lighttpd")
	for round := range rounds("PINPOINT_LIGHTTPD_ROUNDS", 1) {
		t.Run(strconv.Itoa(round), func(t *testing.T) {
			const sites, requests = 200, 1500
			dir := t.TempDir()
			g := dice{rand.New(rand.NewPCG(seed(), 7000+uint64(round)))}
			up, port := upstream(t), freePort(t)
			_, upPort, _ := strings.Cut(up, ":")
			for _, f := range []string{"www/a.html", "www/config.inc", "www/x.php", "www/dir/index.html", "www/dir/b.txt", "www/dir/sub/c.html", "www/idx/index.php", "www/secret", "www/private/a.html", "other/b.txt", "other/a.html"} {
				write(t, filepath.Join(dir, f), dir+"/"+f)
			}
			os.MkdirAll(dir+"/www/empty", 0o755)
			write(t, dir+"/users", "bob:right\nann:pw\n")
			modules := g.some(9, `"mod_access"`, `"mod_auth"`, `"mod_rewrite"`, `"mod_redirect"`, `"mod_alias"`, `"mod_proxy"`)
			var b strings.Builder
			fmt.Fprintf(&b, "server.modules = ( %s, \"mod_authn_file\" )\nserver.document-root = \"DIR/www\"\nserver.bind = \"127.0.0.1\"\nserver.port = %d\nserver.errorlog = \"/dev/null\"\nvar.ends = \".inc\"\nurl.access-deny = ( \"~\", var.ends )\nindex-file.names = ( \"index.html\" )\nserver.network-backend = \"writev\"\n"+
				"static-file.exclude-extensions = ( \".php\" )\nauth.backend = \"plain\"\nauth.backend.plain.userfile = \"DIR/users\"\nproxy.header = ( \"map-host-request\" => ( \"-\" => \"-\" ) )\n", strings.Join(modules, ", "), port)
			var blocks []string
			for n := range sites {
				s := fmt.Sprintf("$HTTP[\"host\"] == \"s%d.test\" {\n", n)
				used := map[string]bool{}
				for range 1 + g.IntN(4) {
					s += g.lightSetting(0, used) + "\n"
				}
				s += "}\n"
				blocks = append(blocks, s)
				b.WriteString(s)
			}
			conf := dir + "/lighttpd.conf"
			write(t, conf, strings.NewReplacer("DIR", dir, "UPPORT", upPort).Replace(b.String()))
			address := fmt.Sprintf("127.0.0.1:%d", port)
			run(t, exe, []string{"-tt", "-f", conf}, []string{"-D", "-f", conf}, address)
			l, err := LoadLighttpd(disk{}, conf, Env{})
			if err != nil || len(l.Problems) > 0 {
				t.Fatal(err, l.Problems)
			}
			wrong, refused := 0, 0
			for range requests {
				n := g.IntN(sites)
				q := randomRequest(g)
				q.Method = g.pick("GET", "GET", "GET", "GET", "POST", "HEAD", "PUT", "OPTIONS", "DELETE")
				q.Body = nil
				path := g.pick("/", "/a.html", "/config.inc", "/x.php", "/dir", "/dir/", "/dir/b.txt", "/dir/sub/c.html", "/dir/sub/", "/idx/", "/secret", "/secret/", "/private/a.html", "/empty/", "/empty", "/nope", "/nope.inc", "/a.html/x", "/config.inc/y", "/al/b.txt", "/al/../a.html", "/%61.html", "/old", "/r/b.txt", "/x", "/x.jpg", "/api/y", "//a.html", "/./dir//b.txt", "/dir%2Fb.txt", "/a%01", "/a.html~", "/A.HTML", "/dir/..", "/dir/sub/%2e%2e/b.txt", "/al")
				host := g.pick(fmt.Sprintf("s%d.test", n), fmt.Sprintf("s%d.test", n), fmt.Sprintf("s%d.test", n), fmt.Sprintf("S%d.TEST:81", n), "other.test", "a_b.test")
				q.URL = "http://" + host + path + g.pick("", "", "?x=1", "?y")
				q.Header = q.Header.Without("Content-Length", "Host").With("Host", host)
				if q.Method == "POST" || q.Method == "PUT" {
					q.Body = []byte("x=1")
					q.Header = append(q.Header, pinpoint.Field{Name: "Content-Length", Value: "3"})
				}
				from := g.pick("127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.9")
				want := ask(t, address, from, q)
				p := l.follow(pinpoint.Arrival{Request: q, Client: netip.MustParseAddr(from), Local: netip.MustParseAddrPort(address)})
				got := reply{Status: p.status}
				if got.Status == 0 {
					got.Status = 200
					if len(p.next) > 0 {
						got.Up = "up"
					} else if q.Method != "HEAD" {
						got.Body = p.file
					}
				}
				if p.status >= 400 && len(p.clues) == 0 {
					t.Errorf("a refusal without a clue: %s %s", q.Method, q.URL)
				}
				if want.Up != "" {
					want.Up = "up"
				}
				if want.Location = ""; want.Status != 200 || !strings.HasPrefix(want.Body, dir) {
					want.Body = ""
				}
				if len(p.clues) > 0 {
					refused++
				}
				if got == want && p.unsure == 0 {
					continue
				}
				if wrong++; wrong <= 6 {
					t.Errorf("%s %s %v from %s\nlighttpd: %+v\nhere:     %+v (unsure %d)\n%s%v\ntrail: %s", q.Method, q.URL, q.Header, from, want, got, p.unsure, blocks[n], l.modules, trailText(p.trail))
				}
			}
			t.Logf("%d sites, %d requests, %d refused, %d differences", sites, requests, refused, wrong)
			if refused < requests/10 {
				t.Error("too few refusals to prove anything")
			}
		})
	}
}
