package servers

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// disk reads the files of this machine.
type disk struct{}

func (disk) ReadFile(name string) ([]byte, error)  { return os.ReadFile(name) }
func (disk) Glob(pattern string) ([]string, error) { return filepath.Glob(pattern) }

// memory is a machine with some files.
type memory map[string]string

func (m memory) ReadFile(name string) ([]byte, error) {
	if s, ok := m[name]; ok {
		return []byte(s), nil
	}
	return nil, os.ErrNotExist
}

func (m memory) Glob(pattern string) (names []string, err error) {
	for n := range m {
		if ok, _ := filepath.Match(pattern, n); ok {
			names = append(names, n)
		}
	}
	return names, nil
}

// dice makes choices that come back with their seed.
type dice struct{ *rand.Rand }

func (d dice) pick(list ...string) string { return list[d.IntN(len(list))] }
func (d dice) chance(n int) bool          { return d.IntN(100) < n }

// some are up to n different ones of a list.
func (d dice) some(n int, list ...string) []string {
	var out []string
	for _, i := range d.Perm(len(list))[:min(n, len(list))] {
		out = append(out, list[i])
	}
	return out
}

func write(t *testing.T, name, text string) {
	t.Helper()
	os.MkdirAll(filepath.Dir(name), 0o755)
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// program finds a server that may be installed, and skips the test if it is not.
func program(t *testing.T, name string) string {
	t.Helper()
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	if p := "/usr/sbin/" + name; exists(p) {
		return p
	}
	t.Skipf("%s is not installed", name)
	return ""
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// run starts a server until the test ends; check is how it tests its configuration.
func run(t *testing.T, program string, check, args []string, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, program, check...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", program, check, err, out[:min(len(out), 3000)])
	}
	cmd := exec.Command(program, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		done := make(chan bool)
		go func() { cmd.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			cmd.Process.Kill()
			<-done
		}
	})
	for range 300 {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("%s does not listen on %s", program, address)
}

// upstream says what came to it.
func upstream(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("X-Up", fmt.Sprintf("%s %s %s %s", q.Method, q.RequestURI, q.Host, lastOf(q.Header.Values("X-Forwarded-For"))))
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// reply is what a server answered. Status 0: it closed the connection.
type reply struct {
	Status   int
	Backend  string
	Up       string
	Location string
	Body     string
}

func ask(t *testing.T, address, from string, r *pinpoint.Request) reply {
	t.Helper()
	d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.Dial("tcp", address)
	if err != nil {
		return reply{} // closed as soon as it was accepted
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nConnection: close\r\n", r.Method, targetOf(r.URL))
	for _, f := range r.Header {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	b.WriteString("\r\n")
	b.Write(r.Body)
	io.WriteString(c, b.String())
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: r.Method})
	if err != nil {
		return reply{}
	}
	body, _ := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	return reply{Status: res.StatusCode, Backend: res.Header.Get("X-Be"), Up: res.Header.Get("X-Up"), Location: res.Header.Get("Location"), Body: string(body)}
}

// rounds is how much a differential test does, from an environment variable.
func rounds(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

func seed() uint64 {
	if n, err := strconv.ParseUint(os.Getenv("PINPOINT_SEED"), 10, 64); err == nil {
		return n
	}
	return 1
}

func trailText(steps []pinpoint.Step) string {
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&b, "\n  %d: %s", s.At.Line, s.Says)
	}
	return b.String()
}

func lastOf(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[len(list)-1]
}
