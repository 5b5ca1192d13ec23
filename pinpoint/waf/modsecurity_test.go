package waf

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

const (
	modules = "/usr/lib/apache2/modules/"
	crs3    = "/usr/share/modsecurity-crs/rules"
)

// apache is a server with ModSecurity and the Core Rule Set, as Debian packages them, on the loopback.
type apache struct {
	address string
	log     string
}

// startApache starts one with directives in front of the rule set.
func startApache(t *testing.T, before string) *apache {
	t.Helper()
	program, err := exec.LookPath("apache2")
	for _, name := range []string{modules + "mod_security2.so", crs3, "/etc/modsecurity/modsecurity.conf-recommended"} {
		if err == nil {
			_, err = os.Stat(name)
		}
	}
	if err != nil {
		t.Skipf("apache2, libapache2-mod-security2 and modsecurity-crs are needed: %v", err)
	}
	dir := t.TempDir()
	os.Chmod(filepath.Dir(dir), 0o755)
	os.Mkdir(filepath.Join(dir, "www"), 0o755)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &apache{address: l.Addr().String(), log: filepath.Join(dir, "access.log")}
	l.Close()
	recommended, err := os.ReadFile("/etc/modsecurity/modsecurity.conf-recommended")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("SecRuleEngine DetectionOnly", "SecRuleEngine On", "SecAuditEngine RelevantOnly", "SecAuditEngine Off",
		"unicode.mapping", "/etc/modsecurity/unicode.mapping").Replace(string(recommended))
	text = regexp.MustCompile(`(?m)^SecAuditLog .*$`).ReplaceAllString(text, "")
	os.WriteFile(filepath.Join(dir, "modsecurity.conf"), []byte(text), 0o644)
	os.WriteFile(filepath.Join(dir, "before.conf"), []byte(before+"\n"), 0o644)
	conf := fmt.Sprintf(`
ServerRoot %[1]q
ServerName shop.test
Listen %[2]s
PidFile pid
Mutex file:%[1]s
LoadModule mpm_event_module %[3]smod_mpm_event.so
LoadModule authz_core_module %[3]smod_authz_core.so
LoadModule unique_id_module %[3]smod_unique_id.so
LoadModule security2_module %[3]smod_security2.so
User www-data
Group www-data
ErrorLog error.log
LogFormat "%%m %%U %%>s" counter
CustomLog access.log counter
ServerSignature Off
StartServers 1
DocumentRoot %[1]s/www
<Directory %[1]s/www>
Require all granted
</Directory>
SecDataDir %[1]s
Include %[1]s/modsecurity.conf
Include /etc/modsecurity/crs/crs-setup.conf
Include %[1]s/before.conf
Include %[4]s/*.conf
`, dir, a.address, modules, crs3)
	file := filepath.Join(dir, "httpd.conf")
	os.WriteFile(file, []byte(conf), 0o644)
	cmd := exec.Command(program, "-f", file, "-D", "FOREGROUND")
	var out bytes.Buffer
	cmd.Stderr, cmd.Stdout = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	for range 600 { // half a minute, for a machine with much to do
		if c, err := net.Dial("tcp", a.address); err == nil {
			c.Close()
			return a
		}
		time.Sleep(50 * time.Millisecond)
	}
	data, _ := os.ReadFile(filepath.Join(dir, "error.log"))
	t.Fatalf("apache2 does not answer: %s %s", &out, data)
	return nil
}

// Send sends to this server whatever the URL says.
func (a *apache) Send(ctx context.Context, r *pinpoint.Request) (*pinpoint.Answer, error) {
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, bytes.NewReader(r.Body))
	if err != nil {
		return nil, err
	}
	for _, f := range r.Header {
		if f.Name == "Host" {
			req.Host = f.Value
		} else if f.Name != "Content-Length" {
			req.Header[f.Name] = append(req.Header[f.Name], f.Value)
		}
	}
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, a.address)
	}}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return &pinpoint.Answer{Err: err.Error()}, nil
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(res.Body, pinpoint.MaxBody))
	return &pinpoint.Answer{Status: res.StatusCode, Body: body}, nil
}

// calls are the lines of the access log: method, path, status.
func (a *apache) calls(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile(a.log)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

func TestBisectAgainstModSecurity(t *testing.T) {
	payloads := payloads(20)
	fields, long := 20, 600
	if payloads <= 20 { // small ones, for rules take their time
		fields, long = 8, 200
	}
	a := startApache(t, "")
	ctx := context.Background()
	first := ticket()
	first.URL = "http://shop.test/whygate-probe-first"
	refusal, err := a.Send(ctx, first)
	if err != nil || refusal.Status != 403 {
		t.Fatalf("the server does not refuse an attack: %+v, %v", refusal, err)
	}
	rng := rand.New(rand.NewPCG(3, 5))
	p1 := replica(t, 1)
	right, sum, most, strikes, sent := 0, 0, 0, 0, 1
	for i := 0; i < payloads; {
		p := plantWith(rng, []string{"<script>alert(1)</script>", "../../../etc/passwd", ";cat /etc/passwd", "UNION SELECT password FROM users", "${jndi:ldap://x}"}, tame, fields, long)
		m := Take(p.r)
		if !p1.Predict(p.r).Refused || p1.Predict(m.Render(m.Twin())).Refused { // no rule looks there
			continue
		}
		d, err := NewDecoy(a, p.r, refusal, sign)
		if err != nil {
			t.Fatal(err)
		}
		sent++
		if o, err := d.Test(ctx, p.r); err != nil || o != BLOCK { // the rules of this server are older and do not look there
			continue
		}
		i++
		opts := Options{NoExclusion: true}
		if i%2 == 0 {
			opts.Replica = p1
		}
		res, err := Bisect(ctx, p.r, d, opts)
		if err != nil {
			t.Fatal(err)
		}
		sent += res.Requests
		sum, most, strikes = sum+res.Requests, max(most, res.Requests), max(strikes, res.Strikes)
		if p.right(&res) {
			right++
		} else {
			t.Logf("%d: %q in %s %s: %s, alone %v without %v: %+v", i, p.trigger, p.component, p.name, res.Says, res.Alone, res.Without, res.Triggers)
		}
		if i%25 == 0 {
			t.Logf("%d of %d right so far", right, i)
		}
		if n := res.Requests - res.Sentinels - res.Retests; n > res.Bound {
			t.Errorf("%d: %d requests, bound %d", i, n, res.Bound)
		}
	}
	t.Logf("%d of %d right; requests: mean %.1f, most %d; most strikes %d", right, payloads, float64(sum)/float64(payloads), most, strikes)
	if right*100 < payloads*99 {
		t.Errorf("%d of %d right", right, payloads)
	}
	calls := a.calls(t)
	if len(calls) != sent {
		t.Errorf("%d calls arrived, %d were told of", len(calls), sent)
	}
	for _, c := range calls {
		if !strings.Contains(c, "/whygate-probe-") {
			t.Errorf("the real path was called: %s", c)
		}
	}
}

// The exclusions for ModSecurity 2 do there what was said of them.
func TestExclusionsInModSecurity(t *testing.T) {
	const attack = "the form says 1' OR '1'='1 when I save"
	bodies := map[string]string{
		"/tickets": `{"title":"help","comment":%q}`,
		"/lists":   `{"notes":["x",%q]}`,
		"/deep":    `{"a":{"b":[{"c":%q}]}}`,
		"/root":    `[{"v":%q}]`,
	}
	p := replica(t, 1)
	var before strings.Builder
	n := 10001
	for path, body := range bodies {
		r := ordinary("POST", "http://shop.test"+path, "application/json", fmt.Sprintf(body, attack))
		res, err := Bisect(context.Background(), r, p, Options{NoCharacters: true})
		if err != nil || len(res.Triggers) == 0 {
			t.Fatalf("%s: %+v, %v", path, res, err)
		}
		for _, e := range res.Triggers[0].Parts[0].Exclusions {
			if e.Product == "modsecurity-2" {
				if !e.Verified {
					t.Errorf("%s: not verified: %s", path, e.Directive)
				}
				before.WriteString(strings.Replace(e.Directive, "id:10001", "id:"+strconv.Itoa(n), 1) + "\n")
				n++
			}
		}
	}
	a := startApache(t, before.String())
	send := func(path, body string) int {
		answer, err := a.Send(context.Background(), ordinary("POST", "http://shop.test"+path, "application/json", body))
		if err != nil {
			t.Fatal(err)
		}
		return answer.Status
	}
	for path, body := range bodies {
		if s := send(path, fmt.Sprintf(body, attack)); s != 404 {
			t.Errorf("%s with the exclusion: %d\n%s", path, s, before.String())
		}
		if s := send(path, fmt.Sprintf(`{"elsewhere":%q}`, attack)); s != 403 {
			t.Errorf("%s, the same in another field: %d", path, s)
		}
		if s := send("/other", fmt.Sprintf(body, attack)); s != 403 {
			t.Errorf("%s on another path: %d", path, s)
		}
	}
}
