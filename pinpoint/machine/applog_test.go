package machine

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// The logs of an application are the files that it writes and that are named so; not what it reads, nor its data.
func TestOpenLogs(t *testing.T) {
	if _, err := os.Stat("/proc/self/fdinfo"); err != nil {
		t.Skip("no /proc here")
	}
	dir := t.TempDir()
	for name, flag := range map[string]int{"app.log": os.O_CREATE | os.O_WRONLY | os.O_APPEND, "both.log": os.O_CREATE | os.O_RDWR, "data.db": os.O_CREATE | os.O_RDWR} {
		f, err := os.OpenFile(filepath.Join(dir, name), flag, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	read := filepath.Join(dir, "old.log")
	if err := os.WriteFile(read, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(read)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := New()
	p := m.Process(os.Getpid())
	if p == nil {
		t.Fatal("this process is not seen")
	}
	var names []string
	for _, l := range m.openLogs(p) {
		if filepath.Dir(l.Path) == dir {
			names = append(names, filepath.Base(l.Path))
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"app.log", "both.log"}) {
		t.Errorf("logs %q", names)
	}
}

func TestVerifier(t *testing.T) {
	for line, want := range map[string]bool{
		`127.0.0.1 - - [22/Nov/2026 16:00:15] "GET /verify HTTP/1.0" 403 -`: true,
		`INFO: 127.0.0.1:55 - "GET /verify HTTP/1.0" 401 Unauthorized`:      true,
		`127.0.0.1 - - [22/Nov/2026 16:00:15] "GET /verify HTTP/1.0" 204 -`: false,
		`GET /verify 403`: false,
	} {
		w := &walker{}
		w.report.Hops = []Hop{{N: 1, Product: "nginx"}}
		h := &Hop{N: 2, At: "127.0.0.1:9000"}
		if _, ok := w.verifier(h, Line{raw: line, By: "request"}); ok {
			t.Errorf("%q of a server that nobody asked", line)
		}
		h.Arrival.Why = "auth_request"
		c, ok := w.verifier(h, Line{raw: line, By: "request"})
		if ok != want || ok && (c.Hop != 1 || c.Refuser != "nginx" || c.Names["decider"] != h.At) {
			t.Errorf("%q: %v %+v", line, ok, c)
		}
	}
}
