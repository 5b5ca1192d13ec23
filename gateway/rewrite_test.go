package gateway_test

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/whytest"
)

// staged is an API on /dev and /prod with a base path and a strip setting.
func staged(url, base, strip string) string {
	return strings.Replace(whytest.API(url, base, ""), "  upstream: up\n", "  upstream: up\n  strip: "+strip+"\n  stages: [{name: dev}, {name: prod}]\n", 1)
}

// Fields of an answer that hold URLs or paths lead back through the mount, and no further.
func TestStageInAnswers(t *testing.T) {
	for _, c := range []struct {
		strip, field, value, want string
		hint                      bool
	}{
		{"mount", "Location", "/login", "/prod/shop/login", false},
		{"mount", "Location", "/login?next=/a#b", "/prod/shop/login?next=/a#b", false},
		{"mount", "Location", "/", "/prod/shop/", false},
		{"mount", "Location", "login", "login", false},
		{"mount", "Location", "../login", "../login", false},
		{"mount", "Location", "?page=2", "?page=2", false},
		{"mount", "Location", "", "", false},
		{"mount", "Location", "/prod/shop/login", "/prod/shop/login", false}, // it knows of X-Forwarded-Prefix
		{"mount", "Location", "/prod/shop", "/prod/shop", false},
		{"mount", "Location", "/prod/shopping", "/prod/shop/prod/shopping", false},
		{"mount", "Location", "http://shop.test/login", "http://shop.test/prod/shop/login", false},
		{"mount", "Location", "http://shop.test", "http://shop.test/prod/shop/", false},
		{"mount", "Location", "http://SHOP.test/prod/shop/x", "http://SHOP.test/prod/shop/x", false},
		{"mount", "Location", "//shop.test/login", "//shop.test/prod/shop/login", false},
		{"mount", "Location", "http://{target}/login", "http://shop.test/prod/shop/login", false},
		{"mount", "Location", "http://localhost:{port}/login", "http://shop.test/prod/shop/login", false},
		{"mount", "Location", "http://localhost:1/login", "http://localhost:1/login", false},
		{"mount", "Location", "https://elsewhere.test/login", "https://elsewhere.test/login", false},
		{"mount", "Location", "//elsewhere.test/login", "//elsewhere.test/login", false},
		{"mount", "Location", "mailto:a@b.test", "mailto:a@b.test", false},
		{"mount", "Content-Location", "http://[", "http://[", false},
		{"mount", "Content-Location", "/x", "/prod/shop/x", false},
		{"mount", "Link", `</p?page=2>; rel="next", <https://elsewhere.test/>; rel=help, <http://shop.test/p?page=9>; rel="last"; title="<a, b>"`, `</prod/shop/p?page=2>; rel="next", <https://elsewhere.test/>; rel=help, <http://shop.test/prod/shop/p?page=9>; rel="last"; title="<a, b>"`, false},
		{"mount", "Refresh", "5; url=/next", "5; url=/prod/shop/next", false},
		{"mount", "Refresh", `0;URL="/next"`, `0;URL=/prod/shop/next`, false},
		{"mount", "Refresh", "5", "5", false},
		{"mount", "Set-Cookie", "a=b; Path=/", "a=b; Path=/prod/shop", false},
		{"mount", "Set-Cookie", "a=b; HttpOnly; path=/admin; Secure", "a=b; HttpOnly; path=/prod/shop/admin; Secure", false},
		{"mount", "Set-Cookie", "a=b; Path=/prod/shop/x", "a=b; Path=/prod/shop/x", false},
		{"mount", "Set-Cookie", "a=b", "a=b", false},
		{"mount", "Set-Cookie", "path=/; HttpOnly", "path=/; HttpOnly", false}, // a cookie of that name
		{"stage", "Location", "/shop/login", "/prod/shop/login", false},
		{"stage", "Location", "/other", "/prod/other", true},
		{"stage", "Set-Cookie", "a=b; Path=/shop", "a=b; Path=/prod/shop", false},
		{"none", "Location", "/prod/shop/login", "/prod/shop/login", false},
		{"none", "Location", "/login", "/login", true},
		{"none", "Location", "http://{target}/login", "http://shop.test/login", true},
		{"none", "Set-Cookie", "a=b; Path=/", "a=b; Path=/", false},
	} {
		t.Run(c.strip+" "+c.field+" "+c.value, func(t *testing.T) {
			t.Parallel()
			var value string
			up := whytest.Script(t, func(*whytest.Received) string {
				return "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n" + c.field + ": " + value + "\r\n\r\n"
			})
			_, port, _ := net.SplitHostPort(up.Address)
			value = strings.NewReplacer("{target}", up.Address, "{port}", port).Replace(c.value)
			n := whytest.Start(t, "wire", staged(up.URL(), "/shop", c.strip))
			a := n.Call("GET", "/prod/shop/page", "", "Host: shop.test")
			if got := a.Header.Get(c.field); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			path, prefix := map[string]string{"mount": "/page", "stage": "/shop/page", "none": "/prod/shop/page"}[c.strip], map[string]string{"mount": "/prod/shop", "stage": "/prod"}[c.strip]
			if seen := up.Last(t); seen.Line != "GET "+path+" HTTP/1.1" || seen.Get("X-Forwarded-Prefix") != prefix {
				t.Errorf("the upstream saw %q, X-Forwarded-Prefix %q", seen.Line, seen.Get("X-Forwarded-Prefix"))
			}
			rec := n.Record(a)
			if rec.Stage != "prod" || rec.Path != "/prod/shop/page" {
				t.Errorf("record: stage %q, path %q", rec.Stage, rec.Path)
			}
			d, err := gateway.DecodeDetail(rec.Detail)
			if err != nil {
				t.Fatal(err)
			}
			if hinted := rec.Flags&calllog.Hinted != 0; hinted != c.hint || hinted && (len(d.Hints) != 1 || d.Hints[0].Code != "stage.left" || !strings.Contains(d.Hints[0].Text, "/prod/shop")) {
				t.Errorf("hints %+v, flags %b", d.Hints, rec.Flags)
			}
		})
	}
}

// Without a mount too, an upstream that names itself must not lead clients past the gateway.
func TestSelfNamingUpstream(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		var up *whytest.Scripted
		up = whytest.Script(t, func(r *whytest.Received) string {
			return "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://" + r.Get("Host") + "/next\r\nLink: <http://" + up.Address + ">\r\nRefresh: 1; url=/x\r\nSet-Cookie: a=b; Path=/\r\n\r\n"
		})
		n := whytest.Start(t, engine, strings.Replace(whytest.API(up.URL(), "/", ""), "spec: {targets", "spec: {hostHeader: target, targets", 1))
		a := n.Call("GET", "/", "", "Host: shop.test")
		for name, want := range map[string]string{"Location": "http://shop.test/next", "Link": "<http://shop.test>", "Refresh": "1; url=/x", "Set-Cookie": "a=b; Path=/"} {
			if got := a.Header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
	})
}

// Behind TLS that the application does not know of, links keep https.
func TestSchemeOfLinks(t *testing.T) {
	up := whytest.Script(t, always("HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://shop.test/next\r\n\r\n"))
	n := whytest.Start(t, "wire", "apiVersion: whygate/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {trustedProxies: [127.0.0.1/32], listeners: [{address: \"127.0.0.1:0\"}]}\n---\n"+staged(up.URL(), "/", "mount"))
	if a := n.Call("GET", "/dev/x", "", "Host: shop.test", "X-Forwarded-Proto: https"); a.Header.Get("Location") != "https://shop.test/dev/next" {
		t.Errorf("Location: %q", a.Header.Get("Location"))
	}
	if a := n.Call("GET", "/dev/x", "", "Host: shop.test"); a.Header.Get("Location") != "http://shop.test/dev/next" {
		t.Errorf("Location: %q", a.Header.Get("Location"))
	}
}

// A page that lost its stage is told the right address, and why.
func TestLostStage(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always(ok))
		n := whytest.Start(t, engine, staged(up.URL(), "/", "mount"))
		for _, c := range []struct{ method, path, referer, nearest string }{
			{"GET", "/account?x=1", "http://shop.test/prod/", "/prod/account"},
			{"POST", "/account", "http://shop.test/dev/form", "/dev/account"},
			{"GET", "/account", "https://shop.test/dev", "/dev/account"},
		} {
			a := n.Call(c.method, c.path, "", "Host: shop.test", "Referer: "+c.referer)
			if a.StatusCode != 404 || a.Header.Get("Whygate-Reason") != "route.stage-missing" || !strings.Contains(a.Body, "call "+c.nearest) || !strings.Contains(a.Body, "the page before was") {
				t.Errorf("%s %s from %s: %d %s", c.method, c.path, c.referer, a.StatusCode, a.Body)
			}
		}
		if len(up.Seen()) != 0 {
			t.Error("the upstream was called")
		}
	})
}

//go:embed testdata/flask_app.py
var flaskApp string

// flask starts an application that knows nothing of stages (plain), or builds its links from the
// X-Forwarded fields as its framework can (proxied).
func flask(t *testing.T, proxied bool) (url string) {
	python := ""
	for _, p := range []string{"/usr/bin/python3", "python3"} {
		if path, err := exec.LookPath(p); err == nil && exec.Command(path, "-c", "import flask").Run() == nil {
			python = path
			break
		}
	}
	if python == "" {
		t.Skip("no Python here can import flask; Debian has it as python3-flask")
	}
	cmd := exec.Command(python, "-", fmt.Sprint(proxied))
	cmd.Stdin = strings.NewReader(flaskApp)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the application did not start: %v", err)
	}
	return "http://127.0.0.1:" + strings.TrimSpace(line)
}

var (
	formAction = regexp.MustCompile(`action="([^"]*)"`)
	greeting   = regexp.MustCompile(`<p>(.*)</p>`)
)

// A form, its POST, the redirect and the page behind it, with a session in a cookie: the same on
// every stage and on a host of its own.
func TestFlask(t *testing.T) {
	t.Parallel()
	for _, proxied := range []bool{false, true} {
		t.Run(map[bool]string{false: "unaware", true: "X-Forwarded-Prefix"}[proxied], func(t *testing.T) {
			app := flask(t, proxied)
			whytest.EachEngine(t, func(t *testing.T, engine string) {
				docs := staged(app, "/", "mount") + "---\napiVersion: whygate/v1\nkind: API\nmetadata: {name: bare}\nspec: {upstream: up, hosts: [bare.test]}\n"
				n := whytest.Start(t, engine, docs)
				jar, _ := cookiejar.New(nil)
				tr := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
					return (&net.Dialer{}).DialContext(ctx, network, n.Addr())
				}}
				defer tr.CloseIdleConnections()
				client := &http.Client{Jar: jar, Transport: tr, Timeout: 10 * time.Second}
				visit := func(base, name string) string {
					get := func(req *http.Request) (string, *url.URL) {
						res, err := client.Do(req)
						if err != nil {
							t.Fatalf("%s: %v", base, err)
						}
						defer res.Body.Close()
						b, _ := io.ReadAll(res.Body)
						if res.StatusCode != 200 {
							t.Fatalf("%s %s: %d %s", req.Method, req.URL, res.StatusCode, b)
						}
						return string(b), res.Request.URL
					}
					req, _ := http.NewRequest("GET", base+"/form", nil)
					page, at := get(req)
					action := formAction.FindStringSubmatch(page)
					if action == nil {
						t.Fatalf("%s: no form in %s", base, page)
					}
					target, err := at.Parse(action[1])
					if err != nil {
						t.Fatal(err)
					}
					req, _ = http.NewRequest("POST", target.String(), strings.NewReader(url.Values{"name": {name}}.Encode()))
					req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
					page, at = get(req)
					if want := base + "/done"; at.String() != want {
						t.Errorf("the redirect led to %s, want %s", at, want)
					}
					m := greeting.FindStringSubmatch(page)
					if m == nil {
						t.Fatalf("%s: %s", at, page)
					}
					return m[1]
				}
				for round := 1; round <= 2; round++ {
					for _, base := range []string{"http://bare.test", "http://shop.test/dev", "http://shop.test/prod"} {
						if got, want := visit(base, "Ann"), fmt.Sprintf("Ann, form %d", round); got != want {
							t.Errorf("%s: %q, want %q", base, got, want)
						}
					}
				}
				// The application's own refusal is attributed to it.
				a := n.Call("GET", "/dev/secret", "")
				rec := n.Record(a)
				if a.StatusCode != 403 || a.Header.Get("Whygate-Refused-By") != "upstream" || rec.Outcome != calllog.Relayed || rec.Reason != "upstream:flask" {
					t.Errorf("%d by %q, record %v %q", a.StatusCode, a.Header.Get("Whygate-Refused-By"), rec.Outcome, rec.Reason)
				}
			})
		})
	}
}
