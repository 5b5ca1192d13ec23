package nginx

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// disk reads the files of this machine.
type disk struct{}

func (disk) ReadFile(name string) ([]byte, error)  { return os.ReadFile(name) }
func (disk) Glob(pattern string) ([]string, error) { return filepath.Glob(pattern) }
func (disk) Readlink(name string) (string, error)  { return os.Readlink(name) }

// rig is a real nginx on loopback with a web root and a backend.
type rig struct {
	t       *testing.T
	dir     string
	port    int
	backend *httptest.Server
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	for name, text := range map[string]string{
		"www/a.html": "a", "www/up.jpg": "jpg", "www/dir/index.html": "index", "www/dir/b.txt": "b", "www/dir/sub/c.html": "c",
		"www/.well-known/acme-challenge/tok": "tok", "www/.git/config": "secret", "www/50x.html": "sorry", "www/index.php": "php",
		"other/dir/b.txt": "ob", "other/a.html": "oa", "flag": "1",
		"htpasswd": "bob:{PLAIN}right\n",
	} {
		r.write(name, text)
	}
	os.MkdirAll(filepath.Join(r.dir, "www/img"), 0o755)
	r.backend = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("X-Up", "1")
		fmt.Fprintf(w, "%s %s %s %s", q.Method, q.RequestURI, q.Host, q.Header.Get("X-Forwarded-For"))
	}))
	t.Cleanup(r.backend.Close)
	r.port = freePort(t)
	return r
}

func (r *rig) write(name, text string) {
	name = filepath.Join(r.dir, name)
	os.MkdirAll(filepath.Dir(name), 0o755)
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) up() string { return strings.TrimPrefix(r.backend.URL, "http://") }

// conf puts a configuration around the inside of an http block and writes it.
func (r *rig) conf(inside string) string {
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;\n"
	}
	text := user + `daemon off; worker_processes 1; pid ` + r.dir + `/nginx.pid; error_log ` + r.dir + `/error.log info;
events { worker_connections 256; }
http {
	access_log off; absolute_redirect off; server_names_hash_max_size 8192; server_names_hash_bucket_size 128;
	client_body_temp_path ` + r.dir + `/t1; proxy_temp_path ` + r.dir + `/t2; fastcgi_temp_path ` + r.dir + `/t3; uwsgi_temp_path ` + r.dir + `/t4; scgi_temp_path ` + r.dir + `/t5;
` + inside + "\n}\n"
	r.write("nginx.conf", text)
	return filepath.Join(r.dir, "nginx.conf")
}

func (r *rig) replace(text string) string {
	return strings.NewReplacer("DIR", r.dir, "PORT", fmt.Sprint(r.port), "UPSTREAM", r.up()).Replace(text)
}

// start runs nginx until the test ends.
func (r *rig) start() {
	r.t.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		if _, err = os.Stat("/usr/sbin/nginx"); err != nil {
			r.t.Skip("nginx is not installed")
		}
		program = "/usr/sbin/nginx"
	}
	args := []string{"-p", r.dir, "-c", filepath.Join(r.dir, "nginx.conf")}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, program, append(args, "-t")...).CombinedOutput(); err != nil {
		r.t.Fatalf("nginx -t: %v\n%s", err, tail(string(out)))
	}
	cmd := exec.Command(program, args...)
	cmd.Stderr = io.Discard
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
	for range 200 {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", r.port))
		if err == nil {
			c.Close()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	r.t.Fatal("nginx does not listen")
}

func tail(s string) string {
	if len(s) > 2000 {
		return s[len(s)-2000:]
	}
	return s
}
