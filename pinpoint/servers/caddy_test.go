package servers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

const caddySites = `{
	admin off
	auto_https off
}
(common) {
	@bots header User-Agent *bot*
	error @bots "no robots" 403
	request_body {
		max_size 8
	}
}
http://shop.test:PORT, http://*.shop.test:PORT {
	import common
	root * DIR/www
	@blocked {
		path /admin/* /api
		not remote_ip 127.0.0.2 10.0.0.0/8
	}
	@writes method POST PUT
	@nokey {
		path /secret/*
		not header X-Api-Key one
	}
	@list header X-List *
	@nolist header !X-List
	@re path_regexp ^/(p|paths)\d?
	respond @blocked "no" 403
	respond @nokey 401
	respond @re 410
	handle_path /dir/* {
		@deep path /sub/* /sub
		respond @deep 418
		file_server
	}
	handle /sub/* {
		error 404
	}
	handle /moved {
		abort
	}
	route /x* {
		respond @writes 405
		respond /x.php 451
		respond 402
	}
	redir /health /up 308
	rewrite /a/api/b /b.html
	basicauth /a* {
		bob $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG
	}
	file_server {
		hide b.html
	}
}
http://other.org:PORT {
	respond /API "path" 403
	respond @q 403
	@q protocol https
	reverse_proxy UP
}
:PORT {
	respond * "default" 421
}
`

// TestCaddyAgainstCaddy compares decisions with a real Caddy: from the Caddyfile, and from what caddy adapt makes of it.
func TestCaddyAgainstCaddy(t *testing.T) {
	exe := program(t, "caddy")
	dir, up, port := t.TempDir(), upstream(t), freePort(t)
	for _, n := range []string{"www/admin", "www/index.html", "www/b.html", "www/p1"} {
		write(t, dir+"/"+n, "x")
	}
	conf := dir + "/Caddyfile"
	write(t, conf, strings.NewReplacer("DIR", dir, "UP", up, "PORT", fmt.Sprint(port)).Replace(caddySites))
	t.Setenv("HOME", dir)
	t.Setenv("XDG_DATA_HOME", dir)
	t.Setenv("XDG_CONFIG_HOME", dir)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	adapted, err := exec.CommandContext(ctx, exe, "adapt", "--adapter", "caddyfile", "--config", conf).Output()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("caddy adapt: %s", e.Stderr)
	} else if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	run(t, exe, []string{"validate", "--adapter", "caddyfile", "--config", conf}, []string{"run", "--adapter", "caddyfile", "--config", conf}, address)
	byFile, err := LoadCaddyfile(disk{}, conf, Env{})
	if err != nil || len(byFile.Problems) > 0 {
		t.Fatal(err, byFile.Problems)
	}
	byJSON, err := ParseCaddy(adapted, "adapted.json", Env{})
	if err != nil {
		t.Fatal(err)
	}
	g := dice{rand.New(rand.NewPCG(seed(), 99))}
	wrong, refused := 0, 0
	for range rounds("PINPOINT_CADDY_REQUESTS", 1500) {
		q := randomRequest(g)
		q.Body = nil
		q.Header = q.Header.Without("Content-Length", "Authorization")
		from := g.pick("127.0.0.1", "127.0.0.2", "127.0.0.9")
		want := ask(t, address, from, q)
		for name, c := range map[string]*Caddy{"Caddyfile": byFile, "JSON": byJSON} {
			d := c.Decide(pinpoint.Arrival{Request: q, Client: netip.MustParseAddr(from), Local: netip.MustParseAddrPort(address)})
			got := d.Status
			closed := len(d.Clues) > 0 && got == 0 && d.Clues[0].ID != "caddy-file_server"
			if got == 0 && !closed {
				got = 200
				if len(d.Files) > 0 && !exists(d.Files[0].Path) {
					got = 404
				} else if len(d.Files) > 0 && want.Status == 308 {
					got = 308 // the slash of a directory
				}
			}
			if got >= 400 {
				refused++
			}
			if got != want.Status || (len(d.Next) > 0) != (want.Up != "") {
				if wrong++; wrong < 6 {
					t.Errorf("%s: %s %s %v from %s: caddy %+v, here %d\n%s", name, q.Method, q.URL, q.Header, from, want, got, trailText(d.Trail))
				}
			}
		}
	}
	t.Logf("%d refused, %d differences", refused, wrong)
	if refused < 300 {
		t.Error("too few refusals to prove anything")
	}
}

func TestRunningCaddy(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "GET" || r.URL.Path != "/config/" {
			w.WriteHeader(500)
			return
		}
		io.WriteString(w, `{"apps":{"http":{"servers":{"s":{"listen":[":80"],"routes":[{"match":[{"path":["/a"]}],"handle":[{"handler":"static_response","status_code":"403"}]}]}}}}}`)
	}))
	defer s.Close()
	c, err := RunningCaddy(t.Context(), strings.TrimPrefix(s.URL, "http://"), Env{})
	if err != nil {
		t.Fatal(err)
	}
	d := c.Decide(pinpoint.Arrival{Request: &pinpoint.Request{Method: "GET", URL: "http://x.test/a"}, Local: netip.MustParseAddrPort("127.0.0.1:80"), Status: 403})
	if d.Status != 403 || len(d.Clues) == 0 || d.Clues[0].Cause != "caddy-respond-403" {
		t.Errorf("%+v", d)
	}
	if _, err := RunningCaddy(t.Context(), "192.0.2.1:2019", Env{}); err == nil {
		t.Error("another machine was asked")
	}
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 200 {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}))
	defer endless.Close()
	if _, err := RunningCaddy(t.Context(), strings.TrimPrefix(endless.URL, "http://"), Env{}); err == nil {
		t.Error("an endless configuration was taken")
	}
}
