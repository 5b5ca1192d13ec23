package input

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
	"github.com/whygate/whygate/pinpoint"
	"pgregory.net/rapid"
)

// arrived is what one connection to a loopback listener brought, byte for byte.
func arrived(t *testing.T, run func(address string)) (first string, header []string, body []byte) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type message struct {
		first  string
		header []string
		body   []byte
		err    error
	}
	done := make(chan message, 1)
	go func() {
		var m message
		defer func() { done <- m }()
		c, err := l.Accept()
		if err != nil {
			m.err = err
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		r := bufio.NewReader(c)
		length := 0
		for n := 0; ; n++ {
			line, err := r.ReadString('\n')
			if err != nil {
				m.err = err
				return
			}
			line = strings.TrimRight(line, "\r\n")
			if n == 0 {
				m.first = line
				continue
			}
			if line == "" {
				break
			}
			name, value, _ := strings.Cut(line, ":")
			if strings.EqualFold(name, "Content-Length") {
				length, _ = strconv.Atoi(strings.TrimSpace(value))
			}
			m.header = append(m.header, name+": "+strings.Trim(value, " \t"))
		}
		m.body = make([]byte, length)
		if _, m.err = io.ReadFull(r, m.body); m.err == nil {
			io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
		}
	}()
	run(l.Addr().String())
	l.Close()
	m := <-done
	if m.err != nil {
		t.Fatalf("the server read no request: %v", m.err)
	}
	return m.first, m.header, m.body
}

var boundaries = regexp.MustCompile(`-{20,}[0-9A-Za-z]{10,}`)

// What the real curl sends is what the reader says, for a table of command lines that bash runs.
func TestCurlDiffers(t *testing.T) {
	for _, tool := range []string{"curl", "bash"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not installed")
		}
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	data, picture, headers := write("data.txt", "a=1\r\nb=2\n"), write("p.png", "\x89PNG\x00"), write("h.txt", "X-One: 1\nX-Two: 2\n")
	jar := write("jar", "# Netscape HTTP Cookie File\nhost.test\tFALSE\t/\tFALSE\t0\tc1\tv1\n#HttpOnly_.host.test\tTRUE\t/x\tFALSE\t0\tc2\tv2\nother.test\tFALSE\t/\tFALSE\t0\tc3\tv3\n")
	allow := Allow(data, picture, headers, jar)
	for _, line := range []string{
		`curl 'http://host.test:PORT/a?b=c#frag'`,
		`curl http://host.test:PORT`,
		`curl host.test:PORT/x?y=1`,
		`curl 'http://host.test:PORT/?a=1' -d 'x=1' -d y=2`,
		`curl 'http://host.test:PORT/a' -X PUT --data-raw $'it\'s\n\u00e9\x41\101\cA'`,
		`curl "http://host.test:PORT/a" -H "X-A: \"q\" \$5" -H 'X-Empty;' -H 'Accept:' -H 'User-Agent:'`,
		`curl http://host.test:PORT/ -H 'Host: other.test' -H 'x-lower: v' -H 'X-Dup: 1' -H 'X-Dup: 2'`,
		`curl http://host.test:PORT/ -d @` + data,
		`curl http://host.test:PORT/ --data-binary @` + data,
		`curl http://host.test:PORT/ --data-raw @x -H 'Content-Type:'`,
		`curl http://host.test:PORT/ -d a -H 'Content-Type: text/plain; charset=utf-8'`,
		`curl http://host.test:PORT/ --data-urlencode 'a b&c=é~' --data-urlencode 'n=v w/+' --data-urlencode '=x=y' --data-urlencode f@` + data,
		`curl -G http://host.test:PORT/p?q=1 -d a=1 --data-urlencode 'b=x y'`,
		`curl -G http://host.test:PORT/p -d a=1`,
		`curl -I http://host.test:PORT/p`,
		`curl --json '{"a":1}' http://host.test:PORT/p`,
		`curl --json '{"a":' --json '1}' -H 'Accept: x/y' http://host.test:PORT/p`,
		`curl -F a=1 -F 'f=@` + picture + `' -F 'j={"x":1};type=application/json' -F 's=<` + data + `' --form-string 'l=@x' http://host.test:PORT/p`,
		`curl -F 'f=@` + picture + `;filename="n a.bin";type=text/x' -F 'q="a;b"' http://host.test:PORT/p`,
		`curl -u al:pw http://host.test:PORT/p -A agent/1 -e http://ref.test/ -b 'a=1; b=2' --compressed -r 0-9`,
		`curl -u al:pw -H 'Authorization: Bearer x' http://host.test:PORT/p`,
		`curl --oauth2-bearer tok http://host.test:PORT/p`,
		`curl http://us%40er:p%3Aw@host.test:PORT/p`,
		`curl -b a=1 -b b=2 http://host.test:PORT/p`,
		`curl -b a=1 -H 'Cookie: z=9' http://host.test:PORT/p`,
		`curl -b ` + jar + ` http://host.test:PORT/x/y`,
		`curl -H @` + headers + ` http://host.test:PORT/p`,
		`curl http://host.test:PORT/a/../b/./c/..?x=/../y`,
		`curl --path-as-is http://host.test:PORT/a/../b/./c`,
		`curl -g 'http://host.test:PORT/{a,b}[1-3]'`,
		`curl 'http://host.test:PORT/%7Ea%2fb?c=%zz'`,
		`curl -sSLkX POST http://host.test:PORT/ -d ''`,
		`curl -sS -o /dev/null -w '%{http_code}' --url http://host.test:PORT/u --max-time 5`,
		`curl --request PATCH --location http://host.test:PORT/u --header 'X: 1' --data '{"a": "b"}'`,
		`curl -T ` + data + ` http://host.test:PORT/up/`,
		`curl --http1.0 http://host.test:PORT/u`,
		`curl http://host.test:PORT/ -H 'Referer: a' -e b -H "User-Agent: c" -A d`,
		`curl http://host.test:PORT/u \` + "\n" + `  -H 'A: b' \` + "\n" + `  --data-binary $'a\r\nb' # a comment`,
		`curl http://host.test:PORT/u -H "$(printf x)"`,
		`curl --url-query 'a=b c' http://host.test:PORT/u?z`,
	} {
		t.Run(line, func(t *testing.T) {
			if strings.Contains(line, "$(") {
				if _, err := Curl(line, allow); err == nil {
					t.Fatal("a command substitution was read")
				}
				return
			}
			var address, ran string
			first, header, body := arrived(t, func(a string) {
				address = a
				_, port, _ := net.SplitHostPort(a)
				ran = strings.ReplaceAll(line, "PORT", port)
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				cmd := exec.CommandContext(ctx, "bash", "-c", ran+" --resolve 'host.test:"+port+":127.0.0.1' -q --noproxy '*' -s")
				cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C.UTF-8"}
				cmd.Dir = dir
				if strings.Contains(ran, "#") && strings.Contains(ran, "comment") {
					cmd = exec.CommandContext(ctx, "bash", "-c", strings.Replace(ran, " # a comment", " --resolve 'host.test:"+port+":127.0.0.1' --noproxy '*'", 1))
				}
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("curl: %v %s", err, out)
				}
			})
			c, err := Curl(ran, allow)
			if err != nil {
				t.Fatal(err)
			}
			r := c.Exchange().Request
			u, err := r.Parsed()
			if err != nil {
				t.Fatal(err)
			}
			target := r.URL[strings.Index(r.URL, u.Host)+len(u.Host):]
			proto := r.Proto
			if proto == "" {
				proto = "HTTP/1.1"
			}
			host := u.Host
			if r.Header.Has("Host") {
				host = r.Header.Value("Host")
			}
			got := []string{"Host: " + host}
			for _, f := range r.Header.Without("Host") {
				if f.Name == "Accept-Encoding" {
					f.Value = "(set)"
				}
				if !(f.Name == "User-Agent" && f.Value == curlAgent) {
					got = append(got, f.Name+": "+f.Value)
				}
			}
			var want []string
			for _, h := range header {
				name, _, _ := strings.Cut(h, ":")
				switch {
				case name == "Content-Length" || name == "Expect", name == "User-Agent" && strings.HasPrefix(h, "User-Agent: curl/"):
				case name == "Accept-Encoding":
					want = append(want, "Accept-Encoding: (set)")
				case name == "Host":
					want = append([]string{h}, want...)
				default:
					want = append(want, h)
				}
			}
			same := func(s string) string { return boundaries.ReplaceAllString(s, "BOUNDARY") }
			if d := cmp.Diff(first, r.Method+" "+target+" "+proto); d != "" {
				t.Errorf("request line (-curl +read)\n%s", d)
			}
			if d := cmp.Diff(same(strings.Join(want, "\n")), same(strings.Join(got, "\n"))); d != "" {
				t.Errorf("header (-curl +read)\n%s", d)
			}
			if d := cmp.Diff(same(string(body)), same(string(r.Body))); d != "" {
				t.Errorf("body (-curl +read)\n%s", d)
			}
			_ = address
		})
	}
}

// Words are those of bash.
func TestBashWords(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("bash is not installed")
	}
	piece := rapid.SampledFrom([]string{"a", "B", "9", " ", "'", `"`, `\`, "$'", "\\n", `\u00e9`, `\x41`, `\101`, `\'`, `\"`, "\\\n", "é", "=", ":", "/", "@", "%", "^", "!", ",", "#", "]", "}"})
	rapid.Check(t, func(t *rapid.T) {
		line := "curl " + strings.Join(rapid.SliceOfN(piece, 0, 20).Draw(t, "pieces"), "")
		got, err := bashWords(line)
		if err != nil || strings.HasSuffix(line, `\`) { // a copy that ends within a continuation is read
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, bash, "--norc", "-c", `curl() { printf '%s\0' curl "$@"; }`+"\n"+line)
		cmd.Env = []string{"LC_ALL=C.UTF-8"}
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("bash refuses %q, which was read: %v", line, err)
		}
		var texts []string
		for _, w := range got {
			texts = append(texts, w.text)
		}
		if want := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); !cmp.Equal(want, texts) {
			t.Fatalf("%q (-bash +read)\n%s", line, cmp.Diff(want, texts))
		}
	})
}

// Quoting as the browsers' developer tools do it, one function for each dialect.
func quoteBash(s string) string {
	if !regexp.MustCompile(`[\x00-\x1f\x7f-\x9f!]|'`).MatchString(s) {
		return "'" + s + "'"
	}
	var b strings.Builder
	b.WriteString("$'")
	for _, r := range s {
		switch {
		case r == '\\' || r == '\'':
			b.WriteString(`\` + string(r))
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == '!':
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String() + "'"
}

var (
	cmdEscape  = regexp.MustCompile(`[^a-zA-Z0-9\s_\-:=+~'/.',?;()*` + "`" + `]`)
	cmdPercent = regexp.MustCompile(`%([a-zA-Z0-9_])`)
)

func quoteCmd(s string) string {
	s = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)
	s = cmdEscape.ReplaceAllString(s, "^$0")
	s = cmdPercent.ReplaceAllString(s, "%^$1")
	s = regexp.MustCompile(`\r?\n`).ReplaceAllString(s, "^\n\n")
	return `^"` + s + `^"`
}

func quotePowerShell(s string) string {
	var b strings.Builder
	for _, u := range utf16.Encode([]rune(s)) {
		switch {
		case u == '`' || u == '"' || u == '$':
			b.WriteString("`" + string(rune(u)))
		case u == '\n':
			b.WriteString("`n")
		case u == '\r':
			b.WriteString("`r")
		case u < ' ' || u > '~':
			fmt.Fprintf(&b, "$([char]%d)", u)
		default:
			b.WriteByte(byte(u))
		}
	}
	return `"` + b.String() + `"`
}

// A request that was quoted in any dialect reads back as it was.
func TestCurlRoundTrip(t *testing.T) {
	text := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "Z", "0", " ", "'", `"`, `\`, `\\"`, "^", "%", "%20", "%PATH%", "$", "$x", "`", "`n", "!", "&", "|", "<", ">", "(", ")", "{", "}", "[", "]", "*", "?", "#", ";", ",", "~", "=", ":", "@", "/", "é", "’", "😀", "${x}", "$(id)"}), 0, 12).Draw(t, "text"), "")
	})
	rapid.Check(t, func(t *rapid.T) {
		method := rapid.SampledFrom([]string{"PUT", "PATCH", "DELETE"}).Draw(t, "method")
		target := "https://host.test/p%20q?a=b%E4%BD%A0&c='" + rapid.SampledFrom([]string{"", "&d=$x", "&e=(f)!", "&g=%^h"}).Draw(t, "query")
		var header []pinpoint.Field
		for i := range rapid.IntRange(1, 3).Draw(t, "fields") {
			v := strings.TrimSpace(text.Draw(t, "value"))
			if v == "" {
				v = "v"
			}
			header = append(header, pinpoint.Field{Name: "x-" + strconv.Itoa(i), Value: v})
		}
		body := text.Draw(t, "body")
		lines := rapid.Bool().Draw(t, "lines")
		if lines {
			body = "x" + body + "\n" + text.Draw(t, "second") + "y"
		}
		if body == "" {
			body = "b"
		}
		dialects := map[string]string{}
		for name, q := range map[string]func(string) string{"bash": quoteBash, "cmd": quoteCmd} {
			next := map[string]string{"bash": " \\\n  ", "cmd": " ^\n  "}[name]
			line := "curl " + q(target) + next + "-X " + q(method)
			for _, f := range header {
				line += next + "-H " + q(f.Name+": "+f.Value)
			}
			dialects[name] = line + next + "--data-raw " + q(body)
		}
		ps := "$session = New-Object Microsoft.PowerShell.Commands.WebRequestSession\n$session.UserAgent = \"agent\"\nInvoke-WebRequest -UseBasicParsing -Uri " + quotePowerShell(target) + " `\n-Method " + quotePowerShell(method) + " `\n-WebSession $session `\n-Headers @{\n"
		for _, f := range header {
			ps += quotePowerShell(f.Name) + "=" + quotePowerShell(f.Value) + "\n"
		}
		dialects["powershell"] = ps + "} `\n-Body ([System.Text.Encoding]::UTF8.GetBytes(" + quotePowerShell(body) + "))"
		js := "fetch(" + jsQuote(target) + ", {\n  \"headers\": {\n"
		for _, f := range header {
			js += "    " + jsQuote(f.Name) + ": " + jsQuote(f.Value) + ",\n"
		}
		dialects["fetch"] = js + "  },\n  \"body\": " + jsQuote(body) + ",\n  \"method\": " + jsQuote(method) + "\n});"
		for name, line := range dialects {
			c, err := Curl(line, nil)
			if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, line)
			}
			r := c.Exchange().Request
			var got []pinpoint.Field
			for _, f := range r.Header {
				if strings.HasPrefix(f.Name, "x-") {
					got = append(got, f)
				}
			}
			if r.Method != method || r.URL != target || string(r.Body) != body || !cmp.Equal(header, got) {
				t.Fatalf("%s: %s\nread %s %s %q %q\nwant %s %s %q %q", name, line, r.Method, r.URL, got, r.Body, method, target, header, body)
			}
		}
	})
}

func jsQuote(s string) string {
	b, err := plainJSON(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// Commands as they are copied, with the request that is expected in the file beside them.
func TestCopied(t *testing.T) {
	files, err := filepath.Glob("testdata/copied/*.txt")
	if err != nil || len(files) < 12 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			command, want, ok := strings.Cut(string(text), "\n-- request --\n")
			if !ok {
				t.Fatal("the file lacks its -- request -- part")
			}
			c, err := Curl(command, nil)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, shown(c)); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// shown is a request as text.
func shown(c *pinpoint.Case) string {
	r := c.Exchange().Request
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\n", r.Method, r.URL, r.Proto)
	for _, f := range r.Header {
		fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Value)
	}
	if r.Via != (pinpoint.Via{}) {
		fmt.Fprintf(&b, "via %+v\n", r.Via)
	}
	for _, g := range c.Gaps {
		if g.Kind != "no-answer" {
			fmt.Fprintf(&b, "gap %s %v\n", g.Kind, g.Blocks)
		}
	}
	if r.Body != nil {
		fmt.Fprintf(&b, "\n%s\n", r.Body)
	}
	return b.String()
}

func TestCurlRefuses(t *testing.T) {
	for line, want := range map[string]string{
		"curl http://a.test/ -H \"X: $(id)\"":                     "line 1, column 28: $(…) would run a program: put its result there",
		"curl http://a.test/ -H \"X: `id`\"":                      "backticks would run a program",
		"curl $URL":                                               "line 1, column 6: a shell variable stands here",
		"curl \"${URL}\"":                                         "a shell variable stands here",
		"curl http://a.test/ | jq .":                              "after a pipe",
		"curl http://a.test/x?a=1&b=2":                            "an unquoted & ends the command",
		"curl http://a.test/; id":                                 "an unquoted ; ends the command",
		"curl http://a.test/ > out":                               "redirects to or from a file",
		"curl http://a.test/ -d @*.json":                          "replace this pattern by file names",
		"curl http://a.test/ -d {a,b}":                            "expand these braces",
		"curl http://a.test/ ~/x":                                 "home directory",
		"curl http://a.test/\ncurl http://b.test/":                "line 2, column 1: here a second command begins",
		"curl 'http://a.test/":                                    "line 1, column 6: this single quote is not closed",
		"curl http://a.test/ http://b.test/":                      "line 1, column 21: there are 2 URLs",
		"curl http://a.test/ --next http://b.test/":               "several requests",
		"curl http://a.test/ --haeder 'X: 1'":                     "curl has no option --haeder: did you mean --header?",
		"curl http://a.test/ --dat x":                             "",
		"curl http://a.test/ -H":                                  "the option -H lacks its value",
		"curl":                                                    "there is no URL",
		"wget http://a.test/":                                     "this is not a curl command",
		"curl 'http://a.test/{a,b}'":                              "several URLs of the braces",
		"curl ftp://a.test/":                                      "only http and https",
		"curl http://a.test/ -d a -F b=c":                         "-d and -F exclude each other",
		"curl 'http://a.test/' -H $'X: a\\r\\nY: b'":              "a header field holds a line break",
		"curl ^\"http://a.test/^\" ^\n -H ^\"X: %USERNAME%^\"":    "a variable of cmd stands here",
		"curl ^\"http://a.test/^\" ^\n -H ^\"X: 1^\" & calc":      "an unquoted & ends the command",
		"Invoke-WebRequest -Uri \"http://a.test/$(Get-Date)\"":    "$(…) would run a command",
		"Invoke-WebRequest -Uri \"http://a.test/$x\"":             "the variable $x is not set in the copy",
		"Invoke-WebRequest -Uri http://a.test/ -Bdoy x":           "did you mean -body?",
		"fetch(`http://a.test/${x}`)":                             "would have to be computed",
		"fetch(\"http://a.test/\", {headers: new Headers()})":     "would have to be computed",
		"curl --variable x=1 http://a.test/":                      "variables of curl",
		"curl http://a.test/ -X 'GE T'":                           "the method is not a token",
		"curl 'http://a.test/a b'":                                "the URL is malformed",
		"curl http://a.test:99999999/":                            "",
		"curl -K cfg 'http://a.test/' --expand-data '{{secret}}'": "curl would fill variables into --expand-data",
	} {
		c, err := Curl(line, nil)
		if want == "" {
			continue
		}
		if err == nil {
			t.Errorf("%s was read as %s", line, shown(c))
			continue
		}
		if _, ok := asError(err); !ok || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n got %v\nwant %s", line, err, want)
		}
	}
}

func TestCurlFiles(t *testing.T) {
	p := filepath.Join(t.TempDir(), "body.json")
	if err := os.WriteFile(p, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		allow Files
		body  string
		gap   bool
	}{{nil, "", true}, {Allow("/nowhere"), "", true}, {Allow(p), "{}", false}} {
		c, err := Curl("curl http://a.test/ -d @"+p, tt.allow)
		if err != nil {
			t.Fatal(err)
		}
		gap := false
		for _, g := range c.Gaps {
			gap = gap || g.Kind == "file-not-read" && g.Blocks
		}
		if string(c.Exchange().Request.Body) != tt.body || gap != tt.gap {
			t.Errorf("body %q, gap %v; want %q, %v", c.Exchange().Request.Body, gap, tt.body, tt.gap)
		}
	}
	if _, err := Allow("/dev/zero")("/dev/zero"); err == nil {
		t.Error("a device was read")
	}
	if _, err := Allow(p)(p + "x"); !errors.Is(err, ErrNotAllowed) {
		t.Errorf("another path: %v", err)
	}
}

func TestCurlWay(t *testing.T) {
	for line, want := range map[string]pinpoint.Via{
		"-k --resolve a.test:443:192.0.2.7 --interface eth0 -4":   {To: "192.0.2.7:443", From: "eth0", Family: 4, Insecure: true},
		"--resolve other.test:443:192.0.2.7":                      {},
		"--resolve 'a.test:443:[2001:db8::1]' -6":                 {To: "[2001:db8::1]:443", Family: 6},
		"--connect-to a.test:443:b.test:8443":                     {To: "b.test:8443"},
		"--connect-to ::b.test:":                                  {To: "b.test:443"},
		"--cacert ca.pem --cert 'me.pem:passphrase' --key me.key": {CA: "ca.pem", Cert: "me.pem", Key: "me.key"},
		"-x proxy.test:3128 -U u:p":                               {Proxy: "http://u:p@proxy.test:3128"},
		"--socks5-hostname localhost:9050":                        {Proxy: "socks5h://localhost:9050"},
	} {
		c, err := Curl("curl https://a.test/ "+line, nil)
		if err != nil {
			t.Errorf("%s: %v", line, err)
		} else if d := cmp.Diff(want, c.Exchange().Request.Via); d != "" {
			t.Errorf("%s (-want +got)\n%s", line, d)
		}
	}
}

func TestArgs(t *testing.T) {
	c, err := Args([]string{"https://shop.test/orders?a={b,c}", "-X", "POST", "-H", "Authorization: Bearer $x", "-d", "a b"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "POST https://shop.test/orders?a={b,c} \nUser-Agent: " + curlAgent + "\nAccept: */*\nAuthorization: Bearer $x\nContent-Type: application/x-www-form-urlencoded\n\na b\n"
	if d := cmp.Diff(want, shown(c)); d != "" || c.Source != "url" {
		t.Errorf("source %q (-want +got)\n%s", c.Source, d)
	}
	if _, err := Args([]string{"https://a.test", "--reqest", "PUT"}, nil); err == nil || !strings.Contains(err.Error(), "--request") {
		t.Errorf("a misspelt option: %v", err)
	}
}

// The dialect is told by the shape, and by what stands outside of bodies.
func TestShape(t *testing.T) {
	for text, want := range map[string]string{
		"curl 'http://a.test/' -d '{\"re\": \"^\"}'":   "bash",
		"curl 'http://a.test/' -d '{\"re\": ^\"x'":     "bash",
		"curl http://a.test/ \\\n -d 'a ^\"b'":         "bash",
		"curl 'http://a.test/' -d 'a ```\nb'":          "bash",
		"$ curl http://a.test/":                        "bash",
		"curl.exe http://a.test/ `\n -H 'X: 1'":        "powershell-curl",
		"curl ^\"http://a.test/^\"":                    "cmd",
		"curl \"http://a.test/\" ^\r\n  -H \"X: 1\"":   "cmd",
		"curl \"http://a.test/\" -d \"{\"\"a\"\":1}\"": "cmd",
		"$r = irm http://a.test/":                      "powershell",
		"iwr http://a.test/":                           "powershell",
		"await fetch('http://a.test/')":                "fetch",
		"const r = await fetch(\"http://a.test/\")":    "fetch",
		"wget http://a.test/":                          "",
		"":                                             "",
	} {
		if got := shape(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

// Long hostile text takes no more than one pass: these would take minutes otherwise.
func TestCurlLinear(t *testing.T) {
	const n = 1 << 18
	for _, text := range []string{
		"curl x" + strings.Repeat("\n", n), "curl x" + strings.Repeat("\n-a", 2000), "curl x" + strings.Repeat(`\ `, n), "curl x" + strings.Repeat("{", n), "curl http://a.test/ -F 'a=" + strings.Repeat(";", n) + "'",
		"curl ^\"x^\"" + strings.Repeat(" \n", n), "curl ^\"" + strings.Repeat(`\`, n), "irm " + strings.Repeat("` ", n), "irm " + strings.Repeat("(", n), "fetch(" + strings.Repeat("[", n),
		"curl $'" + strings.Repeat(`\u`, n), "GET http://a.test/ HTTP/1.1\nA: b\n" + strings.Repeat(" x\n", n), "GET http://a.test/ HTTP/1.1\n\n" + strings.Repeat("HTTP/1.1 x\n", n/4),
		"### \n" + strings.Repeat("@a = {{a}}{{a}}\n", n/16) + "GET http://a.test/{{a}}\n",
	} {
		c, err := Any(strings.NewReader(text), nil)
		harmless(t, c, err)
	}
}

// Every option of the installed curl is in the table, with the right arity.
func TestOptionTable(t *testing.T) {
	out, err := exec.Command("curl", "--help", "all").Output()
	if err != nil {
		t.Skip("curl is not installed")
	}
	line := regexp.MustCompile(`(?m)^ *(?:-(.), +)?--([a-z0-9.-]+)( [<\[]\S)?`)
	for _, m := range line.FindAllStringSubmatch(string(out), -1) {
		o, off, err := longOption(m[2])
		if err != nil {
			t.Errorf("--%s: %v", m[2], err)
			continue
		}
		short := optionTable().short
		if o.valued != (m[3] != "") || !off && m[1] != "" && short[m[1][0]].long != m[2] && m[2] != "no-buffer" {
			t.Errorf("--%s: %+v", m[2], o)
		}
	}
}

// harmless checks what every case promises.
func harmless(t *testing.T, c *pinpoint.Case, err error) {
	t.Helper()
	if err != nil {
		return
	}
	for _, x := range c.Exchanges {
		if _, err := x.Request.Parsed(); err != nil {
			t.Fatalf("URL %q: %v", x.Request.URL, err)
		}
		if !token(x.Request.Method) {
			t.Fatalf("method %q", x.Request.Method)
		}
		for _, f := range x.Request.Header {
			if !token(f.Name) || strings.ContainsAny(f.Value, "\r\n\x00") {
				t.Fatalf("field %q: %q", f.Name, f.Value)
			}
		}
		if _, err := http.NewRequest(x.Request.Method, x.Request.URL, bytes.NewReader(x.Request.Body)); err != nil {
			t.Fatalf("%s %q cannot be sent: %v", x.Request.Method, x.Request.URL, err)
		}
	}
}

func seeds(f *testing.F, kind string) {
	files, err := filepath.Glob("testdata/copied/" + kind + "*.txt")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds of %s: %v", kind, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		command, _, _ := strings.Cut(string(text), "\n-- request --\n")
		f.Add(command)
	}
}

func FuzzCurlBash(f *testing.F) {
	seeds(f, "bash")
	f.Add("curl 'http://a.test/' -H $'\\u00e9: x' -F 'a=@b;type=c' --data-urlencode 'a b'")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Curl(text, nil)
		harmless(t, c, err)
		c, err = Args(strings.Fields(text), nil)
		harmless(t, c, err)
	})
}

func FuzzCurlCmd(f *testing.F) {
	seeds(f, "cmd")
	f.Fuzz(func(t *testing.T, text string) {
		words, err := cmdWords(text)
		if err == nil && len(words) > 0 {
			c, err := (&command{text: text, source: "curl"}).run(words[1:])
			harmless(t, c, err)
		}
	})
}

func FuzzCurlPowerShell(f *testing.F) {
	seeds(f, "powershell")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := powerShell(text, nil)
		harmless(t, c, err)
		powerShellWords(text)
	})
}

func FuzzFetch(f *testing.F) {
	seeds(f, "fetch")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := fetchCall(text)
		harmless(t, c, err)
	})
}
