package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/whytest"
)

// soakDocuments are an API without conditions, one with a key and limits that never bind, and one each
// for refusals of other kinds. The first line changes with every reload.
const soakDocuments = `# revision %d
apiVersion: whygate/v1
kind: Gateway
metadata: {name: soak}
spec:
  listeners: [{address: "127.0.0.1:0", http1: %s}]
  limits: {connectionsPerAddress: 0, bodyBytes: 8MiB}
  timeouts: {header: 2s, body: 2s, idle: 3s}
---
apiVersion: whygate/v1
kind: Upstream
metadata: {name: up}
spec:
  targets: [{url: %q}]
  timeouts: {firstByte: 2s}
  breaker: {rate: 0}
  ejection: {failures: 0}
%s
---
apiVersion: whygate/v1
kind: Subscription
metadata: {name: soak}
spec: {application: soak, api: keyed, plan: soak, state: active}
---
apiVersion: whygate/v1
kind: Plan
metadata: {name: soak}
spec: {approval: automatic}
`

const soakAPI = `---
apiVersion: whygate/v1
kind: API
metadata: {name: %s}
spec:
  upstream: up
  basePath: /%s
  policies: [%s]
`

// TestSoak drives a node for a while with calls of all kinds, good and bad, while its documents change:
// every answer is the right one, every answered call has its record, nothing panics, and memory,
// descriptors and goroutines come back to where they were. WHYGATE_SOAK says for how long.
func TestSoak(t *testing.T) {
	length := 3 * time.Second
	if s := os.Getenv("WHYGATE_SOAK"); s != "" {
		var err error
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	} else if testing.Short() {
		t.Skip("takes some seconds")
	}
	if runtime.GOOS != "linux" {
		t.Skip("descriptors and memory of a process are read from /proc")
	}
	whytest.EachEngine(t, func(t *testing.T, engine string) { soakNode(t, engine, length/time.Duration(len(whytest.Engines))) })
}

func soakNode(t *testing.T, engine string, length time.Duration) {
	s := startSoak(t, engine)
	s.settle() // every path has been taken once before anything is measured
	before := s.footprint()
	t.Logf("before: %v", before)

	end := time.Now().Add(length)
	var all sync.WaitGroup
	for i := range 12 {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(s.seed, uint64(i)))
			for time.Now().Before(end) && !t.Failed() {
				s.act(soakActs[rng.IntN(len(soakActs))], rng)
			}
		})
	}
	var peak footprint
	sampled := time.Now()
	for revision := 2; time.Now().Before(end) && !t.Failed(); revision++ {
		time.Sleep(300 * time.Millisecond)
		s.write(revision)
		s.process.Signal(syscall.SIGHUP)
		if u := s.footprint(); u.resident > peak.resident {
			peak = u
		}
		if time.Since(sampled) > 30*time.Second {
			sampled = time.Now()
			t.Logf("%v to go, %d calls: %v", time.Until(end).Round(time.Second), s.calls.Load(), s.footprint())
		}
	}
	all.Wait()
	var counts []string
	for _, a := range soakActs {
		counts = append(counts, fmt.Sprintf("%s %d", a.name, s.done[a.name].Load()))
	}
	t.Logf("%d calls with an id, seed %d: %s", s.calls.Load(), s.seed, strings.Join(counts, ", "))

	whytest.Eventually(t, "connections are closed and calls have ended", func() bool {
		u := s.footprint()
		return u.connections == 0 && u.inFlight == 0 && u.descriptors <= before.descriptors+16 && u.goroutines <= before.goroutines+16
	})
	after := s.footprint()
	t.Logf("at most %v; after: %v", peak, after)
	if after.panics != 0 || after.dropped != 0 {
		t.Errorf("%v panics, %v records dropped", after.panics, after.dropped)
	}
	if after.resident > before.resident+128<<20 {
		t.Errorf("resident memory went from %d to %d MiB", before.resident>>20, after.resident>>20)
	}
	whytest.Eventually(t, "the documents were loaded again", func() bool { return s.value(s.metrics(), "whygate_revision") > 1 })
	s.process.Signal(syscall.SIGTERM)
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the node ended with %v", err)
	}
	s.checkRecords()
}

type soak struct {
	testing.TB
	cmd                       *exec.Cmd
	process                   *os.Process
	docs, data, upstream, key string
	engine                    string
	base, addr, admin         string
	consumers                 string
	seed                      uint64
	clients                   [2]*http.Client // HTTP/1.1 and HTTP/2
	tried                     atomic.Int64
	calls                     atomic.Int64
	done                      map[string]*atomic.Int64

	mu  sync.Mutex
	ids []string // of a part of the answered calls
}

func startSoak(t *testing.T, engine string) *soak {
	dir := t.TempDir()
	s := &soak{TB: t, engine: engine, docs: filepath.Join(dir, "docs.yaml"), data: filepath.Join(dir, "data"), seed: uint64(time.Now().UnixNano()), done: map[string]*atomic.Int64{}}
	if seed, err := strconv.ParseUint(os.Getenv("WHYGATE_SEED"), 10, 64); err == nil {
		s.seed = seed
	}
	for _, a := range soakActs {
		s.done[a.name] = new(atomic.Int64)
	}
	s.upstream = whytest.Upstream(t, soakUpstream).URL
	s.key, s.consumers = whytest.Consumer("soak", "")
	s.write(1)
	s.cmd = exec.Command(binary(t), "serve", s.docs, "--admin", "127.0.0.1:0", "--data", s.data, "--log-level", "error")
	log := &whytest.Log{} // each load of the documents repeats their warnings
	s.cmd.Stderr = log
	t.Cleanup(func() {
		if t.Failed() {
			text := log.String()
			t.Logf("the end of the log: %s", text[max(0, len(text)-4000):])
		}
	})
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.process = s.cmd.Process
	t.Cleanup(func() { s.process.Kill(); s.cmd.Wait() })
	whytest.Eventually(t, "the node serves", func() bool {
		n, err := readNode(s.data)
		if err != nil || len(n.Listeners) == 0 || n.Admin == "" {
			return false
		}
		s.addr, s.base, s.admin = n.Listeners[0], "http://"+n.Listeners[0], "http://"+n.Admin
		return true
	})
	for i := range s.clients {
		tr := &http.Transport{MaxIdleConnsPerHost: 12, IdleConnTimeout: time.Second, Protocols: new(http.Protocols)}
		tr.Protocols.SetHTTP1(i == 0)
		tr.Protocols.SetUnencryptedHTTP2(i == 1)
		s.clients[i] = &http.Client{Timeout: 20 * time.Second, Transport: tr}
		t.Cleanup(s.clients[i].CloseIdleConnections)
	}
	return s
}

// write writes the documents of a revision, in one step.
func (s *soak) write(revision int) {
	s.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, soakDocuments, revision, s.engine, s.upstream, s.consumers)
	for _, api := range []struct{ name, policies string }{
		{"open", fmt.Sprintf(`headers: {response: {set: {X-Revision: "%d"}}}`, revision)},
		{"keyed", `key-auth: {}, subscription: {}, rate-limit: {requests: 100000000, period: 1s}, concurrency: {calls: 100000}, quota: {requests: 1000000000, period: day}`},
		{"tight", `rate-limit: {requests: 1, period: 1h, per: address}`},
		{"small", `size: {body: 1KiB}, method: {allow: [GET, POST]}`},
		{"guarded", `waf: {}`},
		{"kept", `cache: {size: 1MiB, maxAnswer: 64KiB, ttl: 1s}, compress: {minSize: 100}`},
	} {
		fmt.Fprintf(&b, soakAPI, api.name, api.name, policiesOf(api.policies))
	}
	temporary := s.docs + ".new"
	if err := os.WriteFile(temporary, []byte(b.String()), 0o600); err != nil {
		s.Error(err)
	}
	if err := os.Rename(temporary, s.docs); err != nil {
		s.Error(err)
	}
}

// policiesOf makes "a: {}, b: {}" the entries of a list.
func policiesOf(list string) string {
	var entries []string
	depth, from := 0, 0
	for i, c := range list + "," {
		switch {
		case c == '{':
			depth++
		case c == '}':
			depth--
		case c == ',' && depth == 0:
			entries = append(entries, "{"+strings.TrimSpace(list[from:i])+"}")
			from = i + 1
		}
	}
	return strings.Join(entries, ", ")
}

// soakUpstream is well-behaved or not, as the path asks.
func soakUpstream(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/echo":
		http.NewResponseController(w).EnableFullDuplex()
		io.Copy(w, r.Body)
	case "/sum": // reads everything before it answers
		h := sha256.New()
		n, _ := io.Copy(h, r.Body)
		fmt.Fprintf(w, "%d %x", n, h.Sum(nil))
	case "/long":
		w.Header().Set("Content-Length", strconv.Itoa(4<<20))
		piece := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
		for range 64 {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	case "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			http.NewResponseController(w).Flush()
			time.Sleep(5 * time.Millisecond)
		}
	case "/hang":
		<-r.Context().Done()
	case "/die":
		nc, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			nc.Close()
		}
	case "/short": // less than it promised
		nc, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
			nc.Close()
		}
	case "/garbage":
		nc, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			io.WriteString(nc, "nonsense\r\n\r\n")
			nc.Close()
		}
	case "/refuse":
		http.Error(w, "no", http.StatusForbidden)
	case "/socket":
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, b) != nil {
				return
			}
		}
	default:
		fmt.Fprintf(w, "you asked for %s, %s", r.URL.Path, strings.Repeat("and again ", 20))
	}
}

// A soakAct is one thing that clients do.
type soakAct struct {
	name string
	do   func(*soak, *rand.Rand) error
}

var soakActs = []soakAct{
	{"allowed", func(s *soak, _ *rand.Rand) error { return s.expect("GET", "/open/a", nil, 200, "") }},
	{"with a key", func(s *soak, _ *rand.Rand) error {
		return s.expect("GET", "/keyed/a", nil, 200, "", "X-Api-Key", s.key)
	}},
	{"with a wrong key", func(s *soak, _ *rand.Rand) error {
		return s.expect("GET", "/keyed/a", nil, 401, "key.unknown", "X-Api-Key", "wg_0123456789")
	}},
	{"without a key", func(s *soak, _ *rand.Rand) error { return s.expect("GET", "/keyed/a", nil, 401, "key.missing") }},
	{"over the limit", func(s *soak, _ *rand.Rand) error {
		return s.expect("GET", "/tight/a", nil, 429, "rate-limit.exceeded")
	}},
	{"nowhere", func(s *soak, _ *rand.Rand) error {
		return s.expect("GET", "/opne/a", nil, 404, "route.none")
	}},
	{"too large", func(s *soak, rng *rand.Rand) error {
		return s.expect("POST", "/small/echo", make([]byte, 2<<10+rng.IntN(1<<20)), 413, "size.body")
	}},
	{"wrong method", func(s *soak, _ *rand.Rand) error {
		return s.expect("DELETE", "/small/a", nil, 405, "method.not-allowed")
	}},
	{"attack", func(s *soak, _ *rand.Rand) error {
		return s.expect("GET", "/guarded/a?q=1%27+OR+%271%27%3D%271", nil, 403, "waf.blocked")
	}},
	{"no attack", func(s *soak, _ *rand.Rand) error { return s.expect("GET", "/guarded/a?q=teapot", nil, 200, "") }},
	{"cached", func(s *soak, rng *rand.Rand) error {
		return s.expect("GET", fmt.Sprintf("/kept/%d", rng.IntN(100)), nil, 200, "")
	}},
	{"echo", func(s *soak, rng *rand.Rand) error {
		content := make([]byte, rng.IntN(200<<10))
		for i := range content {
			content[i] = byte(rng.Uint32())
		}
		got, err := s.call("POST", "/open/echo", bytes.NewReader(content), 200, "")
		if err == nil && !bytes.Equal(got, content) {
			return fmt.Errorf("%d bytes came back as %d others", len(content), len(got))
		}
		return err
	}},
	{"upload in chunks", func(s *soak, rng *rand.Rand) error {
		content := bytes.Repeat([]byte{byte(rng.Uint32())}, rng.IntN(3<<20))
		got, err := s.call("POST", "/open/sum", struct{ io.Reader }{bytes.NewReader(content)}, 200, "")
		if want := fmt.Sprintf("%d %x", len(content), sha256.Sum256(content)); err == nil && string(got) != want {
			return fmt.Errorf("the upstream got %s, not %s", got, want)
		}
		return err
	}},
	{"long answer", func(s *soak, _ *rand.Rand) error {
		got, err := s.call("GET", "/open/long", nil, 200, "")
		if err == nil && len(got) != 4<<20 {
			return fmt.Errorf("%d bytes", len(got))
		}
		return err
	}},
	{"events", func(s *soak, _ *rand.Rand) error {
		got, err := s.call("GET", "/open/events", nil, 200, "")
		if err == nil && !strings.HasSuffix(string(got), "data: 4\n\n") {
			return fmt.Errorf("the events %q", got)
		}
		return err
	}},
	{"upstream refuses", func(s *soak, _ *rand.Rand) error {
		_, err := s.call("GET", "/open/refuse", nil, 403, "")
		return err
	}},
	{"upstream dies", func(s *soak, _ *rand.Rand) error {
		return s.expect("POST", "/open/die", []byte("x"), 502, "upstream.broken")
	}},
	{"upstream talks nonsense", func(s *soak, _ *rand.Rand) error {
		return s.expect("GET", "/open/garbage", nil, 502, "upstream.broken")
	}},
	{"upstream stops", func(s *soak, _ *rand.Rand) error {
		_, err := s.call("GET", "/open/short", nil, 200, "")
		if err == nil {
			return errors.New("half an answer was taken for whole")
		}
		return nil
	}},
	{"client leaves", func(s *soak, rng *rand.Rand) error {
		path := []string{"/open/hang", "/open/long", "/open/events", "/keyed/long"}[rng.IntN(4)]
		return s.raw("GET "+path+" HTTP/1.1\r\nHost: a\r\nX-Api-Key: "+s.key+"\r\n\r\n", time.Duration(rng.IntN(30))*time.Millisecond, "")
	}},
	{"client stops sending", func(s *soak, rng *rand.Rand) error {
		sends := []string{"GET /open/a HT", "POST /open/sum HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nhalf", "POST /open/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe"}
		return s.raw(sends[rng.IntN(3)], time.Duration(rng.IntN(20))*time.Millisecond, "")
	}},
	{"malformed", func(s *soak, rng *rand.Rand) error {
		sends := []string{"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "GET /a\x00b HTTP/1.1\r\nHost: a\r\n\r\n", "nonsense\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}
		return s.raw(sends[rng.IntN(len(sends))], 10*time.Second, "HTTP/1.1 4")
	}},
	{"pipelined", func(s *soak, _ *rand.Rand) error {
		return s.raw(strings.Repeat("GET /open/a HTTP/1.1\r\nHost: a\r\n\r\n", 5)+"GET /open/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 10*time.Second, "HTTP/1.1 200")
	}},
	{"WebSocket", func(s *soak, rng *rand.Rand) error {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		c, _, err := websocket.Dial(ctx, s.base+"/open/socket", nil)
		if err != nil {
			return err
		}
		defer c.CloseNow()
		for range 1 + rng.IntN(5) {
			want := strings.Repeat("x", rng.IntN(2000))
			if err := c.Write(ctx, websocket.MessageText, []byte(want)); err != nil {
				return err
			}
			if _, got, err := c.Read(ctx); err != nil || string(got) != want {
				return fmt.Errorf("a message of %d bytes came back as %d: %v", len(want), len(got), err)
			}
		}
		if rng.IntN(2) == 0 {
			return nil // and leaves without a word
		}
		return c.Close(websocket.StatusNormalClosure, "")
	}},
}

// act does one thing and notes what was wrong with it.
func (s *soak) act(a soakAct, rng *rand.Rand) {
	if err := a.do(s, rng); err != nil {
		s.Errorf("%s: %v", a.name, err)
	}
	s.done[a.name].Add(1)
}

// settle does everything once.
func (s *soak) settle() {
	rng := rand.New(rand.NewPCG(s.seed, 99))
	s.clients[0].Get(s.base + "/tight/a") // the one call that is allowed
	for range 2 {
		for _, a := range soakActs {
			s.act(a, rng)
		}
	}
}

func (s *soak) expect(method, path string, content []byte, status int, code string, header ...string) error {
	var body io.Reader
	if content != nil {
		body = bytes.NewReader(content)
	}
	_, err := s.call(method, path, body, status, code, header...)
	return err
}

// call makes a call and compares its status and its reason.
func (s *soak) call(method, path string, body io.Reader, status int, code string, header ...string) ([]byte, error) {
	req, err := http.NewRequest(method, s.base+path, body)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	client := s.clients[0]
	if s.tried.Add(1)%3 == 0 {
		client = s.clients[1]
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	id := res.Header.Get("Whygate-Call")
	if res.StatusCode != status || res.Header.Get("Whygate-Reason") != code || id == "" {
		return nil, fmt.Errorf("%s %s: %d %q, want %d %q; call %q, %.200q", method, path, res.StatusCode, res.Header.Get("Whygate-Reason"), status, code, id, content)
	}
	if n := s.calls.Add(1); err == nil && (n < 1000 || n%64 == 0) {
		s.mu.Lock()
		s.ids = append(s.ids, id)
		s.mu.Unlock()
	}
	return content, err
}

// raw sends bytes, waits for an end at most so long, and leaves. Every status line must begin as wanted.
func (s *soak) raw(send string, wait time.Duration, want string) error {
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	if _, err := io.WriteString(nc, send); err != nil {
		return err
	}
	nc.SetReadDeadline(time.Now().Add(wait))
	got, err := io.ReadAll(bufio.NewReader(nc))
	if want == "" {
		return nil
	}
	if err != nil || !strings.HasPrefix(string(got), want) || strings.Count(string(got), "HTTP/1.1 ") != strings.Count(string(got), want) || strings.Count(send, "\r\n\r\n") > 1 && strings.Count(string(got), want) != strings.Count(send, "\r\n\r\n") {
		return fmt.Errorf("%.60q was answered %.300q, %v", send, got, err)
	}
	return nil
}

// footprint is what the process takes.
type footprint struct {
	resident, heap                                                  int64
	descriptors, goroutines, connections, inFlight, panics, dropped float64
}

func (u footprint) String() string {
	return fmt.Sprintf("%d MiB resident, next collection at %d MiB of heap, %.0f descriptors, %.0f goroutines, %.0f connections, %.0f calls in flight", u.resident>>20, u.heap>>20, u.descriptors, u.goroutines, u.connections, u.inFlight)
}

func (s *soak) footprint() footprint {
	m := s.metrics()
	return footprint{
		resident:    int64(s.value(m, "process_resident_memory_bytes")),
		heap:        int64(s.value(m, "go_memstats_next_gc_bytes")),
		descriptors: s.value(m, "process_open_fds"),
		goroutines:  s.value(m, "go_goroutines"),
		connections: s.value(m, "whygate_connections"),
		inFlight:    s.value(m, "whygate_calls_in_flight"),
		panics:      s.value(m, "whygate_panics_total"),
		dropped:     s.value(m, "whygate_records_dropped_total"),
	}
}

func (s *soak) metrics() string {
	res, err := http.Get(s.admin + "/metrics")
	if err != nil {
		s.Error(err)
		return ""
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return string(b)
}

// value is the sum of a metric's series.
func (s *soak) value(metrics, name string) (sum float64) {
	found := false
	for line := range strings.Lines(metrics) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		fields := strings.Fields(line)
		v, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			s.Errorf("metric %q", line)
		}
		sum, found = sum+v, true
	}
	if !found {
		s.Errorf("no metric %s", name)
	}
	return sum
}

// checkRecords looks for the records of answered calls.
func (s *soak) checkRecords() {
	reader, err := calllog.OpenReader(filepath.Join(s.data, journalName))
	if err != nil {
		s.Fatal(err)
	}
	slices.Sort(s.ids)
	if len(slices.Compact(s.ids)) < 20 {
		s.Errorf("only %d calls to look for", len(s.ids))
	}
	for _, text := range s.ids {
		id, err := calllog.ParseID(text)
		if err != nil {
			s.Fatalf("call %q: %v", text, err)
		}
		if rec, ok, err := reader.Find(id); err != nil || !ok || rec.Status == 0 {
			s.Errorf("call %s was answered and has no record (%v)", text, err)
		}
	}
}
