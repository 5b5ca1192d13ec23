//go:build linux

package machine

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// TestRealFPM asks a real php-fpm for scripts, and holds its answers against what its configuration says.
func TestRealFPM(t *testing.T) {
	program := ""
	for _, name := range []string{"php-fpm8.2", "php-fpm8.3", "php-fpm8.4", "php-fpm"} {
		if p, err := exec.LookPath(name); err == nil {
			program = p
			break
		}
	}
	client, err := exec.LookPath("cgi-fcgi")
	if program == "" || err != nil {
		t.Skip("php-fpm or cgi-fcgi is not installed")
	}
	dir, _ := tempTree(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().(*net.TCPAddr).AddrPort()
	free.Close()
	for name, mode := range map[string]os.FileMode{"/in/a.php": 0o644, "/in/a.html": 0o644, "/in/closed.php": 0o600, "/in/shut/a.php": 0o644, "/out/a.php": 0o644} {
		os.MkdirAll(dir+name[:strings.LastIndexByte(name, '/')], 0o755)
		os.WriteFile(dir+name, []byte("<?php echo 'hello';"), mode)
	}
	os.Chmod(dir+"/in/shut", 0o700)
	os.WriteFile(dir+"/fpm.conf", fmt.Appendf(nil, "[global]\nerror_log = %[1]s/fpm.log\ndaemonize = no\n[www]\nuser = www-data\ngroup = www-data\nlisten = %[2]v\npm = static\npm.max_children = 1\nphp_admin_value[open_basedir] = %[1]s/in\n", dir, at), 0o644)
	cmd := exec.Command(program, "-y", dir+"/fpm.conf", "-c", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() }()
	for tries := 0; ; tries++ {
		if c, err := net.Dial("tcp", at.String()); err == nil {
			c.Close()
			break
		}
		if tries == 100 {
			t.Skip("php-fpm does not start")
		}
		time.Sleep(50 * time.Millisecond)
	}
	for script, want := range map[string]string{"/in/a.php": "200", "/in/a.html": "403 php-fpm-limit-extensions", "/in/closed.php": "403 fs-file-unreadable", "/in/shut/a.php": "404 fs-dir-no-search", "/out/a.php": "404 php-open-basedir", "/in/none.php": "404"} {
		ask := exec.CommandContext(t.Context(), client, "-bind", "-connect", at.String())
		ask.Env = []string{"SCRIPT_FILENAME=" + dir + script, "SCRIPT_NAME=" + script, "REQUEST_METHOD=GET"}
		out, err := ask.Output()
		if err != nil {
			t.Fatal(err)
		}
		status := 200
		if _, s, ok := strings.Cut(string(out), "Status: "); ok {
			fmt.Sscan(s, &status)
		}
		m := New()
		p, product := m.Listening(at)
		if product != "php-fpm" {
			t.Fatalf("%+v %q", p, product)
		}
		d, err := FPM(m, p)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(status)
		decision := d.Decide(pinpoint.Arrival{Local: at, Script: dir + script})
		who := m.Worker(p).Identity
		if who.Name != "www-data" {
			t.Errorf("worker %+v", who)
		}
		clues := decision.Clues
		for _, a := range decision.Files {
			_, more, _ := m.Permit(a, who)
			clues = append(clues, more...)
		}
		for _, c := range clues {
			got += " " + c.Cause
		}
		if got != want {
			t.Errorf("%s: %q, want %q\n%s", script, got, want, out)
		}
	}
}
