//go:build linux

package machine

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// apacheMatch stands in for the pattern table: messages of httpd 2.4.
func apacheMatch(_, line string) []pinpoint.Clue {
	clue := pinpoint.Clue{ID: "apache", Refuser: "apache-httpd", Weight: pinpoint.Certain, Names: map[string]string{}}
	switch {
	case strings.Contains(line, "AH00132: file permissions deny server access: "):
		_, clue.Names["path"], _ = strings.Cut(line, "server access: ")
		clue.ID, clue.Cause = "AH00132", "fs-file-unreadable"
	case strings.Contains(line, "AH00529: "):
		_, after, _ := strings.Cut(line, "AH00529: ")
		clue.Names["path"], _, _ = strings.Cut(after, " ")
		clue.ID, clue.Cause = "AH00529", "apache-htaccess-unreadable"
	case strings.Contains(line, "AH00035: "):
		_, after, _ := strings.Cut(line, "filesystem path '")
		clue.Names["path"], _, _ = strings.Cut(after, "'")
		clue.ID, clue.Cause = "AH00035", "fs-dir-no-search"
	default:
		return nil
	}
	return []pinpoint.Clue{clue}
}

// TestApache runs S02, S06 and a closed directory against a real httpd.
func TestApache(t *testing.T) {
	program, err := exec.LookPath("apache2")
	if err != nil {
		t.Skip("apache2 is not installed")
	}
	dir, _ := tempTree(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().(*net.TCPAddr).AddrPort()
	free.Close()
	conf := fmt.Sprintf("ServerRoot %[1]s\nServerName localhost\nListen %[2]v\nPidFile %[1]s/pid\nDefaultRuntimeDir %[1]s\nMutex file:%[1]s default\nUser www-data\nGroup www-data\nErrorLog %[1]s/error.log\nLoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so\nLoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so\nStartServers 1\nDocumentRoot %[1]s/www\n<Directory />\nAllowOverride None\n</Directory>\n<Directory %[1]s/www>\nAllowOverride All\nRequire all granted\n</Directory>\n", dir, at)
	for name, mode := range map[string]os.FileMode{"/www/report.pdf": 0o600, "/www/ht/.htaccess": 0o600, "/www/ht/a.html": 0o644, "/www/shut/a.html": 0o644} {
		os.MkdirAll(dir+name[:strings.LastIndexByte(name, '/')], 0o755)
		os.WriteFile(dir+name, nil, mode)
	}
	os.Chmod(dir+"/www/shut", 0o700)
	os.WriteFile(dir+"/httpd.conf", []byte(conf), 0o644)
	cmd := exec.Command(program, "-f", dir+"/httpd.conf", "-DFOREGROUND")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() }()
	get := func(uri string) *pinpoint.Case {
		c := caseOf(fmt.Sprintf("http://%v%s", at, uri), 0)
		for tries := 0; ; tries++ {
			resp, err := http.Get(c.Exchanges[0].Request.URL)
			if err != nil {
				if tries == 100 {
					text, _ := os.ReadFile(dir + "/error.log")
					t.Skipf("apache2 does not start: %v\n%s", err, text)
				}
				time.Sleep(50 * time.Millisecond)
				continue
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			c.Exchanges[0].Answer = &pinpoint.Answer{Status: resp.StatusCode, At: time.Now(), Header: pinpoint.Header{{Name: "Date", Value: resp.Header.Get("Date")}}}
			return c
		}
	}
	for _, c := range []struct {
		uri   string
		files []pinpoint.Access
		want  []string
		path  string
	}{
		{"/report.pdf", []pinpoint.Access{{Path: dir + "/www/report.pdf", Want: "read"}}, []string{"1 fs-file-unreadable stat-path +6", "1 fs-file-unreadable AH00132 +6"}, "/www/report.pdf"},
		{"/ht/a.html", []pinpoint.Access{{Path: dir + "/www/ht/.htaccess", Want: "read", Says: ".htaccess", Optional: true}, {Path: dir + "/www/ht/a.html", Want: "read"}},
			[]string{"1 fs-file-unreadable stat-path +1.5", "1 apache-htaccess-unreadable stat-path +6", "1 apache-htaccess-unreadable AH00529 +6"}, "/www/ht/.htaccess"},
		{"/shut/a.html", []pinpoint.Access{{Path: dir + "/www/shut/.htaccess", Want: "read", Says: ".htaccess", Optional: true}, {Path: dir + "/www/shut/a.html", Want: "read"}},
			[]string{"1 fs-dir-no-search stat-path +6", "1 fs-dir-no-search AH00529 +6"}, "/www/shut"},
	} {
		one := get(c.uri)
		if s := one.Exchanges[0].Answer.Status; s != 403 {
			t.Fatalf("%s: %d", c.uri, s)
		}
		r, err := Walk(t.Context(), New(), one, Readers{Reading: Reading{Match: apacheMatch}, Servers: map[string]Reader{"apache-httpd": func(m *Machine, p *Process) (Decider, error) {
			if !slices.Contains(p.Args, dir+"/httpd.conf") {
				return nil, fmt.Errorf("arguments %q", p.Args)
			}
			return decide(func(pinpoint.Arrival) pinpoint.Decision {
				return pinpoint.Decision{Product: "apache-httpd", User: "www-data", Files: c.files, Logs: []pinpoint.LogFile{{Path: dir + "/error.log", Product: "apache-httpd", Kind: "error", Level: "warn"}}}
			}), nil
		}}})
		if err != nil {
			t.Fatal(err)
		}
		if got := summary(r); !slices.Equal(got, c.want) {
			text, _ := os.ReadFile(dir + "/error.log")
			t.Errorf("%s: %q, want %q\n%+v\n%s", c.uri, got, c.want, r.Trail, text)
			continue
		}
		if last := r.Clues[len(r.Clues)-1]; r.Hops[0].Worker.Name != "www-data" || last.Names["path"] != dir+c.path {
			t.Errorf("%s: worker %s, %+v", c.uri, r.Hops[0].Worker.Name, last)
		}
	}
}
