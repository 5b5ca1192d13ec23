package nginx

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// grammar makes random server blocks that nginx accepts.
type grammar struct {
	*rand.Rand
	label int
	used  map[string]bool
}

func (g *grammar) pick(list ...string) string { return list[g.IntN(len(list))] }
func (g *grammar) chance(n int) bool          { return g.IntN(100) < n }

func (g *grammar) condition() string {
	return g.pick(
		`$request_method = POST`, `$request_method != GET`, `$http_user_agent ~* curl`, `$http_user_agent ~ "^Moz"`, `$arg_x`, `$arg_x = 1`,
		`$invalid_referer`, `$flagged`, `$agent = bad`, `$uri ~ ^/dir/(.*)$`, `$request_uri ~* "\.html"`, `-f $request_filename`, `!-e $request_filename`,
		`-d $document_root/dir`, `-f DIR/flag`, `$made`, `$made = "two"`, `$cookie_sid !~ ^ok`, `$remote_addr = 127.0.0.1`, `$inside`, `$host ~ ^s1`, `$args ~ "x=(?<got>\d)"`, `$got`,
	)
}

func (g *grammar) code() string {
	return g.pick(`return 403;`, `return 404;`, `return 200 "r";`, `return 403 "text";`, `return 410;`, `return 444;`, `return 301 /moved$is_args$args;`, `return 302 /x/$1;`, `return 204;`, `return 401;`, `return 503;`)
}

func (g *grammar) rewrite() string {
	return g.pick(
		`rewrite ^/dir/(.*)$ /img/$1 last;`, `rewrite ^/api/(.*)$ /dir/$1?from=api last;`, `rewrite ^/(.*)\.jpg$ /$1.html break;`, `rewrite ^/old /new redirect;`,
		`rewrite ^/a\.html$ /dir/b.txt;`, `rewrite ^/private/(.*)$ /$1? permanent;`, `rewrite ^(.*)$ http://x.test$1;`, `rewrite /sub/ /dir/sub/c.html break;`, `rewrite ^/img/$ /dir/?y=2;`,
		`rewrite ^/loop /loop2 last;`, `rewrite ^/loop2 /loop last;`, `rewrite ^/(api|dir)$ /$1/ last;`,
	)
}

// codes are directives of the rewrite module.
func (g *grammar) codes(loc bool) (out string) {
	for range g.IntN(3) {
		switch g.IntN(6) {
		case 0:
			out += g.pick(`set $made "";`, `set $made two;`, `set $made $arg_x;`, `set $made "$made$uri";`)
		case 1, 2:
			body := ""
			switch g.IntN(4) {
			case 0:
				body = g.code()
			case 1:
				body = g.rewrite()
			case 2:
				body = g.pick(`set $made two;`, `set $made "$1";`, `break;`)
			default:
				body = g.code()
				if loc && g.chance(50) {
					body = g.pick(`proxy_pass http://UPSTREAM;`, `root DIR/other;`, `add_header X-Loc inif always;`, `error_page 404 =200 /50x.html;`)
				}
			}
			out += "if (" + g.condition() + ") { " + body + " }\n"
		case 3:
			out += g.rewrite()
		case 4:
			if g.chance(30) {
				out += g.code()
			}
		case 5:
			if g.chance(40) {
				out += "break;"
			}
		}
	}
	return out
}

// shared are directives that any level takes.
func (g *grammar) shared() (out string) {
	if g.chance(20) {
		out += g.pick(`deny all;`, `allow 127.0.0.1; deny all;`, `deny 127.0.0.1;`, `allow 127.0.0.2; deny all;`, `deny 127.0.0.2; allow all;`, `allow 127.0.0.0/30; deny all;`)
	}
	if g.chance(15) {
		out += `auth_basic x; auth_basic_user_file ` + g.pick("DIR/htpasswd", "DIR/htpasswd", "DIR/none") + `;`
	} else if g.chance(10) {
		out += `auth_basic off;`
	}
	if g.chance(15) {
		out += g.pick(`satisfy any;`, `satisfy all;`)
	}
	if g.chance(10) {
		out += g.pick(`auth_request /auth200;`, `auth_request /auth403;`, `auth_request /auth401;`, `auth_request /authup;`, `auth_request /auth500;`, `auth_request off;`)
	}
	if g.chance(25) {
		for range 1 + g.IntN(2) {
			out += g.pick(`error_page 403 /50x.html;`, `error_page 403 =404 /50x.html;`, `error_page 403 404 = @named;`, `error_page 404 =200 /dir/b.txt;`, `error_page 403 @named;`,
				`error_page 401 /a.html;`, `error_page 405 =200 $uri;`, `error_page 404 /missing;`, `error_page 403 404 http://e.test/;`, `error_page 403 =301 /dir/;`, `error_page 404 =418 /nope;`, `error_page 413 =403 /50x.html;`)
		}
	}
	if g.chance(10) {
		out += `recursive_error_pages on;`
	}
	if g.chance(12) {
		out += g.pick(`index b.txt index.html;`, `index nothing;`, `index nothing /a.html;`)
	}
	if g.chance(8) {
		out += `autoindex on;`
	}
	if g.chance(10) {
		out += g.pick(`client_max_body_size 5;`, `client_max_body_size 0;`, `client_max_body_size 1k;`)
	}
	if g.chance(10) {
		out += g.pick(`valid_referers none server_names;`, `valid_referers none blocked *.friend.test;`, `valid_referers ~\.good\.;`, `valid_referers friend.test/path;`)
	}
	if g.chance(8) {
		out += `set_real_ip_from 127.0.0.0/8;` + g.pick(``, `real_ip_header X-Forwarded-For;`) + g.pick(``, `real_ip_recursive on;`)
	}
	return out
}

func (g *grammar) location(depth int, outer string) string {
	names := []string{"/", "/dir/", "/dir", "/img/", "= /a.html", "^~ /dir/", "^~ /img", `~ \.html$`, `~* \.(JPG|txt)$`, `~ /\.`, "/api/", "/api", "= /", "/private/", `~ ^/(dir|api)/(.+)$`, "= /dir", "/old", "= /api/", "/dir/sub/", `~ ^/api/.*b`}
	if depth > 0 {
		names = []string{outer + "x/", outer + "b.txt", "= " + outer + "index.html", `~ \.txt$`, `~ /$`, outer + "sub"}
	}
	name := g.pick(names...)
	key := strings.TrimPrefix(name, "^~ ")
	if g.used[fmt.Sprint(depth, outer, key)] {
		return ""
	}
	g.used[fmt.Sprint(depth, outer, key)] = true
	g.label++
	out := "location " + name + " { add_header X-Loc L" + strconv.Itoa(g.label) + " always;\n" + g.codes(true) + "\n" + g.shared() + "\n"
	regex := strings.Contains(name, "~ ") && !strings.HasPrefix(name, "^~") || strings.HasPrefix(name, "~*")
	prefix := strings.TrimPrefix(strings.TrimPrefix(name, "= "), "^~ ")
	uri := func(list ...string) string {
		if regex {
			return ""
		}
		return g.pick(list...)
	}
	switch g.IntN(9) {
	case 0, 1:
		out += `proxy_pass http://UPSTREAM` + uri("", "", "/", "/base/", "/base") + ";"
		out += g.pick("", "", `proxy_set_header Host $host;`, `proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;`)
	case 2:
		out += `try_files ` + g.pick("$uri $uri/ =404", "$uri /index.php?q=$uri", "$uri @named", "$uri/ $uri =403", "$uri.html /dir/b.txt", "/nothing @missing", "$uri $uri/ /a.html", "$uri =444") + ";"
	case 3:
		if regex {
			out += `alias DIR/www/dir/b.txt;`
		} else {
			out += `alias DIR/www` + g.pick("/dir/", "/dir", "/", "/img/") + ";"
		}
	case 4:
		out += `root DIR/other;`
	case 5:
		out += g.code()
	case 6:
		out += "internal;"
	case 7:
		out += "limit_except " + g.pick("GET", "POST", "GET POST", "PUT") + " { " + g.pick("deny all;", "allow 127.0.0.1; deny all;", "auth_basic x; auth_basic_user_file DIR/htpasswd;", "allow all;") + " }"
		if g.chance(50) {
			out += `proxy_pass http://UPSTREAM;`
		}
	}
	if depth == 0 && !regex && !strings.HasPrefix(name, "=") && g.chance(25) {
		for range 1 + g.IntN(2) {
			out += "\n" + g.location(1, prefix)
		}
	}
	return out + "}\n"
}

func (g *grammar) server(n int) string {
	g.used = map[string]bool{}
	out := fmt.Sprintf("server { listen 127.0.0.1:PORT; server_name s%d.test %s; root DIR/www; add_header X-Loc S%d always;\n", n, g.pick("", fmt.Sprintf("*.s%d.test", n), fmt.Sprintf(`~^r(\d+)\.s%d\.test$`, n), fmt.Sprintf("s%d.*", n)), n)
	if g.chance(30) {
		out += g.codes(false)
	}
	if g.chance(40) {
		out += g.shared()
	}
	out += g.pick("", "", "merge_slashes off;")
	for range 1 + g.IntN(6) {
		out += g.location(0, "")
	}
	out += `location @named { add_header X-Loc named always; ` + g.pick(`return 200 n;`, `return 403;`, `proxy_pass http://UPSTREAM;`, `try_files /a.html =404;`, `rewrite ^ /dir/b.txt;`, ``) + " }\n"
	out += `location = /auth200 { return 200; } location = /auth403 { deny all; return 403; } location = /auth401 { internal; return 401; } location = /auth500 { return 404; } location = /authup { proxy_pass http://UPSTREAM/verify; }`
	return out + "}\n"
}

func (g *grammar) request(servers int) *pinpoint.Request {
	n := g.IntN(servers)
	path := g.pick("/", "/a.html", "/dir/", "/dir", "/dir/b.txt", "/dir/sub/c.html", "/dir/sub/", "/img/", "/img", "/img/x.jpg", "/api/", "/api", "/api/items/b", "/.well-known/acme-challenge/tok", "/.git/config",
		"/private/a.html", "/private/", "/up.jpg", "/nothing", "/old/x", "/dir//b.txt", "/dir/../a.html", "/%64ir/b.txt", "/dir%2Fb.txt", "/a%20b", "/dir/./sub/../b.txt", "/../a.html", "/loop", "/50x.html", "/index.php",
		"/dir/index.html", "/auth200", "/auth401", "/dir/x/y", "/apix", "/%zz", "/a%00b", "/dir/..", "/dir/.", "/%3Fa", "/DIR/b.txt", "/img/b.txt", "//a.html", "/dir/b.txt/", "/a.html/x")
	path += g.pick("", "", "", "?x=1", "?x=2&y=3", "?")
	r := &pinpoint.Request{Method: g.pick("GET", "GET", "GET", "GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"), Proto: "HTTP/1.1"}
	host := g.pick(fmt.Sprintf("s%d.test", n), fmt.Sprintf("s%d.test", n), fmt.Sprintf("s%d.test", n), fmt.Sprintf("a.s%d.test", n), fmt.Sprintf("r7.s%d.test", n), fmt.Sprintf("S%d.Test.:80", n), fmt.Sprintf("s%d.example", n), "unknown.test")
	r.URL = "http://" + host + path
	r.Header = pinpoint.Header{{Name: "Host", Value: host}, {Name: "User-Agent", Value: g.pick("curl/8", "Mozilla/5.0", "bad-bot")}}
	if g.chance(30) {
		r.Header = append(r.Header, pinpoint.Field{Name: "Referer", Value: g.pick("https://other.example/", "http://friend.test/path/x", "http://www.friend.test", "masked", "https://a.good.one/", fmt.Sprintf("http://s%d.test/", n))})
	}
	if g.chance(30) {
		r.Header = append(r.Header, pinpoint.Field{Name: "Authorization", Value: g.pick("Basic Ym9iOnJpZ2h0", "Basic Ym9iOndyb25n", "Bearer x", "Basic eA==")})
	}
	if g.chance(20) {
		r.Header = append(r.Header, pinpoint.Field{Name: "Cookie", Value: g.pick("sid=ok", "a=b; sid=bad")})
	}
	if g.chance(20) {
		r.Header = append(r.Header, pinpoint.Field{Name: g.pick("X-Forwarded-For", "X-Real-IP"), Value: g.pick("127.0.0.2", "10.0.0.1, 127.0.0.1", "127.0.0.9, 127.0.0.2", "nonsense", "10.1.1.1:99")})
	}
	if g.chance(10) {
		r.Header = append(r.Header, pinpoint.Field{Name: "X_Under", Value: "1"})
	}
	if r.Method == "POST" || r.Method == "PUT" {
		r.Body = []byte(strings.Repeat("b", g.IntN(12)))
		r.Header = append(r.Header, pinpoint.Field{Name: "Content-Length", Value: strconv.Itoa(len(r.Body))})
	}
	return r
}

const maps = `
map $http_user_agent $agent { default good; ~*^curl bad; bad-bot bad; }
map $agent $flagged { bad 1; default 0; }
geo $inside { default 0; 127.0.0.0/30 1; 127.0.0.2 0; }
`

// answer is what nginx said, or would say.
type answer struct {
	Status   int
	Loc      string
	Location string
	Up       string // request line, Host and X-Forwarded-For of the backend
}

func ask(t *testing.T, addr, from string, r *pinpoint.Request) answer {
	d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	_, rest, _ := strings.Cut(r.URL, "://")
	target := rest[strings.IndexByte(rest, '/'):]
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nConnection: close\r\n", r.Method, target)
	for _, f := range r.Header {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	b.WriteString("\r\n")
	b.Write(r.Body)
	io.WriteString(c, b.String())
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: r.Method})
	if err != nil {
		return answer{Status: 444}
	}
	body, _ := io.ReadAll(res.Body)
	a := answer{Status: res.StatusCode, Loc: res.Header.Get("X-Loc"), Location: res.Header.Get("Location")}
	if res.Header.Get("X-Up") != "" {
		a.Up = "HEAD"
		if r.Method != "HEAD" {
			a.Up = string(body)
		}
	}
	return a
}

func predict(c *Config, local netip.AddrPort, from string, r *pinpoint.Request) (answer, *walk) {
	w := c.follow(pinpoint.Arrival{Request: r, Client: netip.MustParseAddr(from), Local: local})
	a := answer{Status: w.status, Location: w.target}
	if a.Status == 0 {
		a.Status = 200
	}
	if h := w.loc.last("add_header"); h != nil {
		a.Loc = h.arg(1)
	}
	if a.Status == 444 {
		return answer{Status: 444}, w
	}
	for _, n := range w.next {
		if n.Why == "" {
			u := n.Request.URL[strings.Index(n.Request.URL, "://")+3:]
			a.Up = fmt.Sprintf("%s %s %s %s", n.Request.Method, u[strings.IndexByte(u, '/'):], n.Request.Host(), n.Request.Header.Value("X-Forwarded-For"))
			if r.Method == "HEAD" {
				a.Up = "HEAD"
			}
		}
	}
	return a, w
}

// TestDifferential compares decisions with the real nginx, over random configurations and requests.
// PINPOINT_NGINX_ROUNDS asks for more rounds, PINPOINT_NGINX_SEED for others.
func TestDifferential(t *testing.T) {
	rounds, seed := 1, uint64(1)
	if n, err := strconv.Atoi(os.Getenv("PINPOINT_NGINX_ROUNDS")); err == nil {
		rounds = n
	}
	if n, err := strconv.ParseUint(os.Getenv("PINPOINT_NGINX_SEED"), 10, 64); err == nil {
		seed = n
	}
	for round := range rounds {
		t.Run(strconv.Itoa(round), func(t *testing.T) {
			const servers, requests = 300, 3000
			r := newRig(t)
			g := &grammar{Rand: rand.New(rand.NewPCG(seed, uint64(round)))}
			var b strings.Builder
			b.WriteString(maps)
			var blocks []string
			for n := range servers {
				s := r.replace(g.server(n))
				blocks = append(blocks, s)
				b.WriteString(s)
			}
			conf := r.conf(b.String())
			r.start()
			c, err := Load(disk{}, conf, r.dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(c.Problems) > 0 {
				t.Fatalf("problems: %v", c.Problems)
			}
			local := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(r.port))
			wrong := 0
			log := errorLog(filepath.Join(r.dir, "error.log"))
			for range requests {
				q := g.request(servers)
				from := g.pick("127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.9")
				before := log.size(t)
				want := ask(t, local.String(), from, q)
				lines := log.since(t, before)
				got, w := predict(c, local, from, q)
				if got == want {
					if says := unexplained(w, lines); says != "" {
						if wrong++; wrong <= 8 {
							t.Errorf("%s\n%s %s %v from %s: %d\nlog: %s\nclues: %+v\ntrail: %s", says, q.Method, q.URL, q.Header[1:], from, got.Status, lines, w.clues, trailText(w.trail))
						}
					}
					continue
				}
				if wrong++; wrong > 8 {
					continue
				}
				var n int
				for i, s := range c.servers {
					if s == w.srv {
						n = i
					}
				}
				t.Errorf("%s %s %v from %s\nnginx: %+v\nhere:  %+v\n%s\ntrail: %s", q.Method, q.URL, q.Header[1:], from, want, got, blocks[n], trailText(w.trail))
			}
			t.Logf("%d servers, %d requests, %d differences", servers, requests, wrong)
		})
	}
}

func trailText(steps []pinpoint.Step) string {
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&b, "\n  %d: %s", s.At.Line, s.Says)
	}
	return b.String()
}

// errorLog is the log of the real nginx: it says why, and the clues must agree.
type errorLog string

func (l errorLog) size(t *testing.T) int64 {
	i, err := os.Stat(string(l))
	if err != nil {
		t.Fatal(err)
	}
	return i.Size()
}

func (l errorLog) since(t *testing.T, at int64) string {
	f, err := os.Open(string(l))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, at, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// reasons are what the log says for causes. Where nginx writes the line, one of the causes must be
// among the clues, and where one of them is, so must be the line.
var reasons = []struct {
	line   []string
	causes []string
}{
	{[]string{"access forbidden by rule"}, []string{"nginx-deny-rule"}},
	{[]string{"directory index of"}, []string{"no-index-listing-off"}},
	{[]string{"too large body"}, []string{"body-too-large"}},
}

// unexplained says where the clues and the log disagree, or that a refusal has no clue.
func unexplained(w *walk, lines string) string {
	var causes []string
	for _, c := range w.clues {
		causes = append(causes, c.Cause)
		if c.At.Line == 0 || c.Says == "" {
			return "a clue lacks its place or its sentence"
		}
	}
	if w.status >= 400 && w.status != 500 && w.status != 418 && len(w.next) == 0 && len(causes) == 0 {
		return "a refusal without a clue"
	}
	asked := slices.ContainsFunc(w.trail, func(s pinpoint.Step) bool { return strings.Contains(s.Says, "auth_request asks") })
	either := w.loc.setting("satisfy", "all") == "any" || w.status == 401 || len(w.clues) > 0 && w.clues[0].Names["status"] == "401" // a 401 under satisfy any hides the rule
	for _, r := range reasons {
		logged := slices.ContainsFunc(r.line, func(s string) bool { return strings.Contains(lines, s) })
		found := slices.ContainsFunc(r.causes, func(c string) bool { return slices.Contains(causes, c) })
		// Under satisfy any, a missing password file ends in the same line.
		if logged != found && !slices.Contains(causes, "fs-file-unreadable") && !asked && !either && len(w.clues) < 20 {
			return fmt.Sprintf("the log speaks of %q: %v, the clues of %v: %v", r.line, logged, r.causes, found)
		}
	}
	return ""
}
