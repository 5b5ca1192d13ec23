//go:build linux

package machine

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

var noon = time.Date(2026, 2, 3, 10, 11, 12, 0, time.UTC)

func TestStamp(t *testing.T) {
	zone := time.FixedZone("", 3600)
	here := noon.Add(-time.Hour) // a line without a zone, on a machine one hour ahead
	for line, want := range map[string]time.Time{
		`2026/02/03 10:11:12 [error] 812#812: *4 access forbidden by rule`:                here,
		`192.0.2.7 - - [03/Feb/2026:10:11:12 +0000] "GET / HTTP/1.1" 403 1`:               noon,
		`[Tue Feb 03 10:11:12.500000 2026] [authz_core:error] [pid 9]`:                    here.Add(500 * time.Millisecond),
		`[Tue Feb  3 10:11:12 2026] [error] x`:                                            here,
		`haproxy[77]: 192.0.2.7:40112 [03/Feb/2026:10:11:12.123] fe_main fe_main/<NOSRV>`: here.Add(123 * time.Millisecond),
		`Feb  3 10:11:12 web nginx: x`:                                                    here,
		`<134>Feb 03 10:11:12 web haproxy[7]: x`:                                          here,
		`Dec 31 10:11:12 web nginx: x`:                                                    time.Date(2025, 12, 31, 9, 11, 12, 0, time.UTC),
		`2026-02-03T10:11:12.250000+00:00 web kernel: x`:                                  noon.Add(250 * time.Millisecond),
		`<34>1 2026-02-03T10:11:12Z web app - - - x`:                                      noon,
		`2026-02-03 10:11:12: (mod_access.c.123) url denied`:                              here,
		`2026-02-03 10:11:12,000 fail2ban.actions [7]: NOTICE [sshd] Ban 192.0.2.7`:       here,
		`type=AVC msg=audit(1770113472.100:99): avc:  denied`:                             noon.Add(100 * time.Millisecond),
		`[12345.678] audit: type=1400 audit(1770113472.100:99): apparmor="DENIED"`:        noon.Add(100 * time.Millisecond),
		`{"level":"info","ts":1770113472.5,"msg":"handled request"}`:                      noon.Add(500 * time.Millisecond),
		`{"time":"2026-02-03T10:11:12+00:00","status":403}`:                               noon,
		`{"msec": "1770113472.500"}`:                                                      noon.Add(500 * time.Millisecond),
		`[03-Feb-2026 10:11:12] WARNING: [pool www] x`:                                    here,
		`[03-Feb-2026 10:11:12 UTC] PHP Warning`:                                          noon,
		`127.0.0.1 - - [03/Feb/2026 10:11:12] "GET / HTTP/1.1" 403 -`:                     here,
		`[03/Feb/2026:10:11:12.000100 +0000] aAbB 192.0.2.7 1 127.0.0.1 80`:               noon.Add(100 * time.Microsecond),
	} {
		if got, ok := stamp(line, "", zone, noon); !ok || !got.Equal(want) {
			t.Errorf("%s: %v %v, want %v", line, got.UTC(), ok, want)
		}
	}
	if got, ok := stamp("2026-02-03 10:11:12 10.0.0.5 GET /img/", "iis", zone, noon); !ok || !got.Equal(noon) {
		t.Errorf("iis: %v", got)
	}
	for _, line := range []string{"", "at org.example.Main(Main.java:7)", "99999999999", "2026/13/45 10:11:12 x", "[Tue Foo 03 10:11:12 2026]"} {
		if got, ok := stamp(line, "", zone, noon); ok {
			t.Errorf("%q: %v", line, got)
		}
	}
}

// testMatch stands in for the pattern table.
func testMatch(product, line string) []pinpoint.Clue {
	switch {
	case strings.Contains(line, "access forbidden by rule"):
		return []pinpoint.Clue{{ID: "nginx-log-access-rule", Cause: "nginx-deny-rule", Refuser: "nginx", Weight: pinpoint.Certain, Says: "deny", Names: map[string]string{"uri": line}}}
	case strings.Contains(line, "AH01630"):
		return []pinpoint.Clue{{ID: "apache-ah01630", Cause: "apache-require-denied", Weight: pinpoint.Certain}}
	case strings.Contains(line, "failed (13: Permission denied)"):
		_, name, _ := strings.Cut(line, `open() "`)
		name, _, _ = strings.Cut(name, `"`)
		return []pinpoint.Clue{{ID: "nginx-log-open-eacces", Cause: "fs-file-unreadable", Refuser: "nginx", Weight: pinpoint.Certain, Names: map[string]string{"path": name}}}
	}
	return nil
}

// testParse reads combined lines with an upstream status behind them.
func testParse(line string) (*pinpoint.LogLine, error) {
	method, uri, ok := requestOf(line)
	f := strings.Fields(line)
	if !ok || len(f) < 9 {
		return nil, fmt.Errorf("not combined")
	}
	l := &pinpoint.LogLine{Client: f[0], Method: method, Path: uri}
	fmt.Sscan(f[8], &l.Status)
	if _, up, ok := strings.Cut(line, "upstream="); ok {
		l.Upstream = strings.TrimSpace(up)
	}
	return l, nil
}

var testReading = Reading{Match: testMatch, Parse: testParse}

func ask(m *Machine, q Query, f pinpoint.LogFile) Log {
	q.Zone = time.UTC
	if q.Now.IsZero() {
		q.Now = noon.Add(time.Minute)
	}
	return m.Search(context.Background(), []pinpoint.LogFile{f}, q, testReading)[0]
}

func nginxLine(at time.Time, conn int, text, client, request string) string {
	s := fmt.Sprintf("%s [error] 812#812: *%d %s, client: %s, server: _", at.UTC().Format("2006/01/02 15:04:05"), conn, text, client)
	if request != "" {
		s += fmt.Sprintf(`, request: "%s HTTP/1.1", host: "a"`, request)
	}
	return s + "\n"
}

func TestSearchNginx(t *testing.T) {
	f := pinpoint.LogFile{Path: "/var/log/error.log", Product: "nginx", Kind: "error", Level: "error"}
	q := Query{At: noon.Add(300 * time.Millisecond), Method: "GET", Path: "/admin/?token=geheim", Client: netip.MustParseAddr("192.0.2.7"), Status: 403}
	text := nginxLine(noon.Add(-time.Hour), 1, "old", "192.0.2.7", "GET /admin/") +
		nginxLine(noon, 4, "access forbidden by rule", "192.0.2.7", "GET /admin/?token=geheim") +
		nginxLine(noon, 4, "something else of the connection", "192.0.2.9", "") +
		nginxLine(noon, 5, "access forbidden by rule", "192.0.2.7", "GET /other/") +
		nginxLine(noon, 6, "access forbidden by rule", "192.0.2.8", "") +
		nginxLine(noon.Add(5*time.Second), 7, "access forbidden by rule", "192.0.2.7", "GET /admin/?token=geheim")
	m := plant(t, map[string]string{"/var/log/error.log": text})
	l := ask(m, q, f)
	if l.State != "lines" || len(l.Lines) != 1 || l.Lines[0].By != "request" || len(l.Lines[0].Clues) != 1 {
		t.Fatalf("%+v", l)
	}
	c := l.Lines[0].Clues[0]
	if c.Source != pinpoint.FromLog || c.Weight != pinpoint.Certain || strings.Contains(fmt.Sprint(l.Lines[0].Text, c), "geheim") || !strings.Contains(c.Quote, "access forbidden by rule") {
		t.Errorf("%+v", c)
	}
	// The same request of another client counts little.
	q.Client = netip.MustParseAddr("198.51.100.9")
	if l := ask(m, q, f); len(l.Lines) != 1 || l.Lines[0].By != "like" || l.Lines[0].Clues[0].Weight != pinpoint.Fair {
		t.Errorf("like: %+v", l)
	}
	// Without the client, the connection number ties the other line.
	q.Client = netip.Addr{}
	if l := ask(m, q, f); len(l.Lines) != 2 || l.Lines[1].By != "connection" {
		t.Errorf("connection: %+v", l.Lines)
	}
	// Another time: silence that is covered.
	q.At = noon.Add(-30 * time.Minute)
	if l := ask(m, q, f); l.State != "silent" || !strings.Contains(l.Says, "threshold is error") {
		t.Errorf("silent: %+v", l)
	}
	// Before the log begins. The file itself is younger.
	q.At = noon.Add(-2 * time.Hour)
	if l := ask(m, q, f); l.State != "uncovered" {
		t.Errorf("uncovered: %+v", l)
	}
	// The time is not known: the last minutes.
	q.At, q.Now = time.Time{}, noon.Add(time.Minute)
	if l := ask(m, q, f); l.State != "lines" || len(l.Lines) != 3 {
		t.Errorf("recent: %+v", l)
	}
}

func TestSearchStates(t *testing.T) {
	m := plant(t, map[string]string{"/var/log/empty.log": ""})
	old := ask(m, Query{At: noon, Path: "/a"}, pinpoint.LogFile{Path: "/var/log/empty.log", Kind: "error"})
	now := time.Now()
	for deadline := now.Add(10 * time.Second); !now.After(deadline); now = time.Now() {
		if b := born(m.Root + "/var/log/empty.log"); b.IsZero() || b.Before(now.Add(-time.Second).Truncate(time.Second)) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	young := ask(m, Query{At: now, Slack: time.Millisecond, Now: now, Path: "/a"}, pinpoint.LogFile{Path: "/var/log/empty.log", Kind: "error"})
	if old.State != "uncovered" || !born(m.Root+"/var/log/empty.log").IsZero() && young.State != "silent" {
		t.Errorf("empty: %q then %q", old.State, young.State)
	}
	for name, want := range map[string]string{"/var/log/none.log": "unreadable", "off": "elsewhere", "syslog:server=127.0.0.1": "elsewhere", "|/usr/bin/rotatelogs x": "elsewhere", "stderr": "elsewhere", "/dev/null": "elsewhere", "/var/log": "unreadable"} {
		if l := ask(m, Query{At: noon, Path: "/a"}, pinpoint.LogFile{Path: name}); l.State != want || l.Says == "" {
			t.Errorf("%s: %q %q, want %q", name, l.State, l.Says, want)
		}
	}
}

func TestSearchApache(t *testing.T) {
	m := plant(t, map[string]string{"/var/log/error.log": "[Tue Feb 03 09:00:00.000001 2026] [core:notice] [pid 9] AH00094: Command line\n" +
		"[Tue Feb 03 10:11:12.100000 2026] [authz_core:error] [pid 9:tid 9] [client 192.0.2.7:4000] AH01630: client denied by server configuration: /srv/t5/pub/a.html\n" +
		"[Tue Feb 03 10:11:12.200000 2026] [authz_core:error] [pid 9:tid 9] [client 192.0.2.8:4000] AH01630: client denied by server configuration: /srv/t5/other\n"})
	f := pinpoint.LogFile{Path: "/var/log/error.log", Product: "apache-httpd", Kind: "error"}
	q := Query{At: noon, Method: "GET", Path: "/pub/a.html"}
	q.Client = netip.MustParseAddr("192.0.2.7")
	if l := ask(m, q, f); len(l.Lines) != 1 || l.Lines[0].By != "client" || l.Lines[0].Clues[0].Weight != pinpoint.Strong {
		t.Errorf("client: %+v", l)
	}
	q.Port = 4001
	if l := ask(m, q, f); len(l.Lines) != 0 {
		t.Errorf("another port: %+v", l)
	}
	q.Port, q.Objects = 0, []string{"/srv/t5/pub/a.html"}
	if l := ask(m, q, f); len(l.Lines) != 1 || l.Lines[0].By != "object" || l.Lines[0].Clues[0].Weight != pinpoint.Certain {
		t.Errorf("object: %+v", l)
	}
	q = Query{At: noon, Path: "/x", Client: netip.MustParseAddr("192.0.2.9")}
	if l := ask(m, q, f); l.State != "silent" {
		t.Errorf("nobody: %+v", l)
	}
}

// TestSearchFar finds a line far from the end, in a rotated and in a packed file, without reading more than
// the bound.
func TestSearchFar(t *testing.T) {
	var b strings.Builder
	for i := range 200_000 {
		b.WriteString(nginxLine(noon.Add(time.Duration(i)*time.Second), i, "noise", "192.0.2.99", "GET /noise"))
	}
	hit := nginxLine(noon.Add(-time.Second), 0, "access forbidden by rule", "192.0.2.7", "GET /a")
	m := plant(t, map[string]string{"/l/far.log": hit + b.String(), "/l/turned.log": b.String()[:100_000], "/l/turned.log.1": hit, "/l/packed.log": "", "/l/packed.log.1": b.String()[:100_000]})
	gzipped(t, m.Root+"/l/packed.log.2.gz", hit)
	q := Query{At: noon.Add(-time.Second), Now: noon.Add(100 * time.Hour), Method: "GET", Path: "/a"}
	for _, name := range []string{"far", "turned", "packed"} {
		if l := ask(m, q, pinpoint.LogFile{Path: "/l/" + name + ".log", Product: "nginx", Kind: "error"}); l.State != "lines" || len(l.Lines) != 1 {
			t.Errorf("%s: %+v", name, l)
		}
	}
	big := m.Root + "/l/huge.log"
	if err := os.Truncate(mustCreate(t, big), 1<<40); err != nil {
		t.Skip("no sparse files")
	}
	if l := ask(m, q, pinpoint.LogFile{Path: "/l/huge.log", Kind: "error"}); l.State != "uncovered" {
		t.Errorf("huge: %+v", l)
	}
}

func mustCreate(t *testing.T, name string) string {
	t.Helper()
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestDenied(t *testing.T) {
	m := plant(t, map[string]string{
		"/var/log/audit/audit.log": `type=AVC msg=audit(1770113472.1:99): avc:  denied  { read } for  pid=9 comm="nginx" name="index.html" dev="dm-0" ino=7 scontext=system_u:system_r:httpd_t:s0 tcontext=unconfined_u:object_r:user_home_t:s0 tclass=file permissive=0` + "\n" +
			`type=AVC msg=audit(1770113472.1:100): avc:  denied  { read } for  pid=9 comm="nginx" name="allowed.html" dev="dm-0" ino=7 scontext=a:b:httpd_t:s0 tcontext=u:o:user_home_t:s0 tclass=file permissive=1` + "\n" +
			`type=AVC msg=audit(1770113472.1:101): avc:  denied  { read } for  pid=9 comm="other" name="index.html" dev="dm-0" ino=7 scontext=a:b:x_t:s0 tcontext=u:o:user_home_t:s0 tclass=file permissive=0` + "\n",
		"/var/log/kern.log":     `2026-02-03T10:11:12+00:00 web kernel: audit: type=1400 audit(1770113472.1:99): apparmor="DENIED" operation="open" class="file" profile="nginx" name="/srv/www/a.html" pid=9 comm="nginx" requested_mask="r" denied_mask="r" fsuid=33 ouid=0` + "\n",
		"/var/log/fail2ban.log": "2026-02-03 09:11:12,000 fail2ban.actions [7]: NOTICE [nginx-botsearch] Ban 192.0.2.7\n2026-02-03 09:00:00,000 fail2ban.actions [7]: NOTICE [x] Ban 192.0.2.8\n2026-02-03 09:30:00,000 fail2ban.actions [7]: NOTICE [x] Unban 192.0.2.8\n",
	})
	q := Query{At: noon, Now: noon, Zone: time.UTC, Client: netip.MustParseAddr("192.0.2.7"), Objects: []string{"/srv/www/a.html", "/srv/www/index.html"}, Path: "/a.html"}
	clues := m.Denied(t.Context(), q, &Process{Comm: "nginx", Identity: Identity{Name: "www-data"}}, Reading{})
	got := map[string]float64{}
	for _, c := range clues {
		got[c.Cause+" "+c.Names["path"]] = c.Weight
	}
	if len(clues) != 3 || got["fs-selinux-denied index.html"] != pinpoint.Strong || got["fs-apparmor-denied /srv/www/a.html"] != pinpoint.Certain || got["ip-temporarily-banned "] != pinpoint.Strong {
		t.Errorf("%v", got)
	}
	q.Client = netip.MustParseAddr("192.0.2.8")
	if clues := m.Denied(t.Context(), q, &Process{Comm: "apache2"}, Reading{}); len(clues) != 0 {
		t.Errorf("%+v", clues)
	}
}

func TestMask(t *testing.T) {
	const secret = "s3cr3tvalue"
	for _, line := range []string{
		`request: "GET /a?api_key=` + secret + `&b=1 HTTP/1.1"`, `"GET /?x=1&token=` + secret + ` HTTP/1.1"`, `header line: "Cookie: sid=` + secret + `; b=` + secret + `"`,
		`Authorization: Bearer ` + secret, `upstream: "http://u:` + secret + `@10.0.0.1/x"`, `{"password":"` + secret + `"}`, `{"password": "` + secret + `","a":1}`,
		`[data "Matched Data: ' or 1=1 ` + secret + ` found within ARGS:comment: ' or 1=1 -- ` + secret + `"]`, `eyJhbGciOiJIUzI1NiJ9.` + secret + `.` + secret, `X-Api-Key: ` + secret, `session_id=` + secret, "password=" + secret,
	} {
		if got := mask(" " + line); strings.Contains(got, secret) {
			t.Errorf("%s: %s", line, got)
		}
	}
	if got := mask("a\x1b[31mred\x07\u202e " + strings.Repeat("é", 2000)); strings.ContainsAny(got, "\x1b\x07\u202e") || len(got) > 700 {
		t.Errorf("%q", got)
	}
	plain := `2026/02/03 10:11:12 [error] 812#812: *4 open() "/srv/www/a.html" failed (13: Permission denied), client: 192.0.2.7, server: _, request: "GET /a.html HTTP/1.1", host: "shop.example"`
	if got := mask(plain); got != plain {
		t.Errorf("%s", got)
	}
	plain = `[Tue Feb 03 10:11:12.123456 2026] [authz_core:error] [pid 1:tid 2] [client 192.0.2.7:1] AH01630: client denied by server configuration: /srv/www/a.html`
	if got := mask(plain); got != plain {
		t.Errorf("%s", got)
	}
}

func TestJournal(t *testing.T) {
	var asked []string
	how := testReading
	how.Run = func(_ context.Context, args ...string) ([]byte, error) {
		asked = args
		line := strings.TrimSpace(strings.ReplaceAll(nginxLine(noon, 4, "access forbidden by rule", "192.0.2.7", "GET /a"), `"`, `\"`))
		return fmt.Appendf(nil, `{"MESSAGE":"%s","__REALTIME_TIMESTAMP":"%d"}`+"\n"+`{"MESSAGE":[1,2],"__REALTIME_TIMESTAMP":"1"}`+"\nnot json\n", line, noon.UnixMicro()), nil
	}
	q := Query{At: noon, Now: noon, Zone: time.UTC, Method: "GET", Path: "/a"}
	l := New().Search(t.Context(), []pinpoint.LogFile{{Path: "syslog:server=unix:/dev/log,tag=edge", Product: "nginx", Kind: "error"}}, q, how)[0]
	if l.State != "lines" || len(l.Lines) != 1 || len(l.Lines[0].Clues) != 1 || !strings.Contains(strings.Join(asked, " "), "--identifier=edge") {
		t.Errorf("%+v %q", l, asked)
	}
}

func TestDeniedJournal(t *testing.T) {
	how := Reading{Run: func(_ context.Context, args ...string) ([]byte, error) {
		if !strings.Contains(strings.Join(args, " "), "--dmesg") {
			t.Errorf("%q", args)
		}
		return fmt.Appendf(nil, `{"MESSAGE":"audit: type=1400 audit(1770113472.1:99): apparmor=\"DENIED\" operation=\"open\" profile=\"nginx\" name=\"/srv/www/a.html\" pid=9 comm=\"nginx\"","__REALTIME_TIMESTAMP":"%d"}`+"\n", noon.UnixMicro()), nil
	}}
	m := plant(t, nil)
	clues := m.Denied(t.Context(), Query{At: noon, Now: noon, Zone: time.UTC, Objects: []string{"/srv/www/a.html"}}, &Process{Comm: "nginx"}, how)
	if len(clues) != 1 || clues[0].Cause != "fs-apparmor-denied" || clues[0].Weight != pinpoint.Certain {
		t.Errorf("%+v", clues)
	}
}

func FuzzLine(f *testing.F) {
	f.Add(nginxLine(noon, 4, "access forbidden by rule", "192.0.2.7", "GET /a?x=%zz"), "nginx")
	f.Add(`[Tue Feb 03 10:11:12.100000 2026] [a:error] [client ::1:4000] AH01630: /a`, "apache-httpd")
	f.Add(`{"ts":1e300,"x":"`, "caddy")
	f.Add("a\n\n\xff\x00[03/Feb/2026:10:11:12 +0000] \"GET /a HTTP/1.1\" 403", "")
	f.Fuzz(func(t *testing.T, text, product string) {
		for _, kind := range []string{"error", "access"} {
			for _, client := range []netip.Addr{{}, netip.MustParseAddr("192.0.2.7")} {
				s := search{Machine: New(), ctx: t.Context(), how: testReading, log: Log{LogFile: pinpoint.LogFile{Path: "/l", Kind: kind, Product: product}}}
				s.q = Query{At: noon, Now: noon, Zone: time.UTC, Method: "GET", Path: "/a", Client: client, IDs: []string{"AAAAAAAAAA"}}
				s.q = s.q.filled()
				s.lines(strings.NewReader(text), true)
				s.connect()
				s.end(true)
				for _, l := range s.log.Lines {
					if len(l.Text) > 700 || strings.ContainsAny(l.Text, "\x1b\x00") {
						t.Errorf("%q", l.Text)
					}
				}
			}
		}
		journalLine([]byte(text))
		hostPort(text)
	})
}
