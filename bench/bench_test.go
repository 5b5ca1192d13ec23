//go:build linux

package main

import (
	"bytes"
	"context"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// The files *.txt in testdata are what wrk 4.1.0 and a Linux kernel printed.

func TestParseWrk(t *testing.T) {
	for _, test := range []struct {
		file string
		want wrkResult
		err  string
	}{
		{file: "wrk-good.txt", want: wrkResult{calls: 196096, took: 2 * time.Second, p50: 331 * time.Microsecond, p99: 890 * time.Microsecond}},
		{file: "wrk-non2xx.txt", want: wrkResult{calls: 153761, took: 2100 * time.Millisecond, p50: 840 * time.Microsecond, p99: 2250 * time.Microsecond,
			errors: "Non-2xx or 3xx responses: 131006"}},
		{file: "wrk-broken.txt", want: wrkResult{calls: 144639, took: 3 * time.Second, p50: 625 * time.Microsecond, p99: 1080 * time.Microsecond,
			errors: "Socket errors: connect 0, read 91, write 75918, timeout 0; Non-2xx or 3xx responses: 128220"}},
		{file: "wrk-refused.txt", err: "Connection refused"},
	} {
		t.Run(test.file, func(t *testing.T) {
			got, err := parseWrk(fixture(t, test.file))
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error is %v, want one with %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got != test.want {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

func fixture(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestParseStat(t *testing.T) {
	got, err := parseStat(fixture(t, "stat-odd-name.txt"))
	if err != nil {
		t.Fatal(err)
	}
	want := stat{pid: 9317, parent: 9310, user: 23 * tick, kernel: 106 * tick}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, bad := range []string{"", "1 sh S 1", "1 (sh) S 1 2", "1 (sh) S x 1 1 0 -1 4194304 99 0 0 0 0 0 0", "x (sh) S 1 1 1 0 -1 4194304 99 0 0 0 0 0 0"} {
		if s, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was read as %+v", bad, s)
		}
	}
}

func TestParseStatus(t *testing.T) {
	text := fixture(t, "status.txt")
	got, err := parseStatus(text)
	if err != nil {
		t.Fatal(err)
	}
	if want := (memory{RSS: 1824, Peak: 1824, Anon: 112, File: 1712}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	// A zombie has no memory lines.
	if m, err := parseStatus(bytes.ReplaceAll(text, []byte("VmRSS"), []byte("VmXXX"))); err == nil {
		t.Errorf("without VmRSS it was read as %+v", m)
	}
}

func TestParseBusy(t *testing.T) {
	text := fixture(t, "cores.txt")
	got, err := parseBusy(text, 1)
	if err != nil {
		t.Fatal(err)
	}
	// user + nice + system + irq + softirq + steal, not idle and not iowait
	if want := (8995 + 0 + 2767 + 0 + 46 + 27) * tick; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, err := parseBusy(text, 2); err == nil {
		t.Error("a core that is not listed was found")
	}
}

func TestTreeFindsChildren(t *testing.T) {
	p, err := newLauncher().start(0, t.TempDir(), nil, nil, nil, []string{"/bin/sh", "-c", "trap 'kill $!' TERM; sleep 60 & wait"})
	if err != nil {
		t.Fatal(err)
	}
	var family []stat
	for deadline := time.Now().Add(10 * time.Second); len(family) < 2 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if family, err = tree(p.pid); err != nil {
			t.Fatal(err)
		}
	}
	p.stop()
	if len(family) != 2 || family[0].pid != p.pid || family[1].parent != p.pid {
		t.Errorf("the family of %d is %+v", p.pid, family)
	}
	if p.running() {
		t.Error("it runs after stop")
	}
	if _, err := cpuOf(p.pid); err == nil {
		t.Error("a process that ended still spends")
	}
}

func TestSinceDividesByTicks(t *testing.T) {
	got := cpuTime{total: 1003, user: 50, kernel: 170}.since(cpuTime{total: 3, user: 20, kernel: 80})
	if want := (cpuTime{total: 1000, user: 250, kernel: 750}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestHistogramQuantiles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var h histogram
	var all []time.Duration
	for range 100_000 {
		d := time.Duration(math.Exp(r.Float64()*20) * 10) // 10 ns to 80 minutes
		h.add(d)
		all = append(all, d)
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.001, 0.5, 0.9, 0.99, 0.999, 1} {
		exact := all[max(int(math.Ceil(q*float64(len(all)))), 1)-1]
		got := h.quantile(q)
		if off := float64(got-exact) / float64(exact); off < 0 || off > 0.008 {
			t.Errorf("quantile %g is %v, exactly %v: off by %.2f %%", q, got, exact, 100*off)
		}
	}
	var empty histogram
	if got := empty.quantile(0.99); got != 0 {
		t.Errorf("the quantile of nothing is %v", got)
	}
}

func TestBucketsJoin(t *testing.T) {
	for i := range len(histogram{}.buckets) - 1 {
		last := upper(i)
		if last < 0 || last == math.MaxInt64 {
			break // beyond what a duration holds
		}
		if bucket(last) != i || bucket(last+1) != i+1 {
			t.Fatalf("bucket %d ends at %d, but %d is in %d and %d in %d", i, last, last, bucket(last), last+1, bucket(last+1))
		}
	}
	if bucket(-5) != 0 || bucket(math.MaxInt64) >= len(histogram{}.buckets) {
		t.Error("the ends do not fit")
	}
}

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		list []float64
		want float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 5}, 5},
		{[]float64{9, 1, 5, 2}, 3.5},
	} {
		if got := median(test.list); got != test.want {
			t.Errorf("median of %v is %v, want %v", test.list, got, test.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing is %v", got)
	}
}

// spent is a sample of n microseconds of CPU in each call.
func spent(entry string, round int, n float64) sample {
	return sample{Case: caseSmall, Entry: entry, Round: round, Calls: 1000, Seconds: 1, CPU: cpuSeconds{Total: n / 1000}}
}

func TestRatiosPairRounds(t *testing.T) {
	broken := spent(baseline, 3, 1)
	broken.Invalid = "Socket errors"
	samples := []sample{
		spent(baseline, 1, 20), spent("haproxy", 1, 10),
		spent(baseline, 2, 40), spent("haproxy", 2, 44),
		broken, spent("haproxy", 3, 500), // nothing to compare with
		spent(baseline, 4, 10), // nothing to compare
	}
	var got []float64
	for _, v := range ratios(samples, "haproxy", sample.cpuCall) {
		got = append(got, math.Round(v*1000)/1000)
	}
	if want := []float64{0.5, 1.1}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestGoals(t *testing.T) {
	loaded := spent(whygateFull, 1, 21.6)
	loaded.Memory.RSS = 50 << 10
	idle := sample{Case: caseIdle, Entry: whygateFull, Round: 1, Connections: 10, Memory: memory{RSS: 350}, AtStart: memory{RSS: 100}}
	var lines []string
	for _, g := range goals([]sample{spent(baseline, 1, 20), loaded, idle}, settings{Connections: 64, Idle: 10}) {
		lines = append(lines, g.String())
	}
	for _, want := range []string{
		"goal: Whygate full ≤ 1.00 × nginx bare in CPU per call, closed loop: 1.08 NOT met",
		"goal: Whygate full ≤ 1.00 × nginx bare in p99, fixed rate: not measured",
		"goal: Whygate full ≤ 64 MiB resident at 64 connections: 50.00 met",
		"goal: Whygate full ≤ 20 KiB for each of 10 idle connections: 25.00 NOT met",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("%q is not among\n%s", want, strings.Join(lines, "\n"))
		}
	}
}

func TestTableLeavesOutInvalidRounds(t *testing.T) {
	broken := spent("haproxy", 1, 1)
	broken.Invalid = "Non-2xx or 3xx responses: 7"
	got := table([]sample{spent(baseline, 1, 20), broken, spent(baseline, 2, 30), spent("haproxy", 2, 33), spent(direct, 1, 0)}, []column{
		{"µs CPU/call", 1, sample.cpuCall, asRange},
		{"× nginx", 2, sample.cpuCall, asRatio},
	})
	want := [][]string{
		{"", "µs CPU/call", "× nginx", "rounds"},
		{"origin, no proxy", "–", "–", "1 of 1"},
		{"nginx proxy_pass", "25.0 (20.0–30.0)", "1.00", "2 of 2"},
		{"HAProxy", "33.0", "1.10", "1 of 2"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}

func TestParseFlags(t *testing.T) {
	set, err := parse([]string{"-cases", "idle, small", "-entries", "haproxy,nginx"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(set.Cases, []string{"small", "idle"}) || !slices.Equal(set.Entries, []string{"nginx", "haproxy"}) || set.OriginCPU != set.LoadCPU {
		t.Errorf("got %+v", set)
	}
	if set.PolicyTime != 2*time.Second || set.Duration != 5*time.Second {
		t.Errorf("without -duration, policies take %v and others %v", set.PolicyTime, set.Duration)
	}
	if set, err = parse([]string{"-duration", "7s"}); err != nil || set.PolicyTime != 7*time.Second {
		t.Errorf("with -duration 7s, policies take %v (%v)", set.PolicyTime, err)
	}
	for _, test := range []struct{ flag, want string }{
		{"-cases=large,tiny", `no case is called "tiny"; there are small, rate, large, idle, policies`},
		{"-entries=envoy", `no entry is called "envoy"`},
		{"-rounds=0", "-rounds 0: at least one"},
		{"-duration=10ms", "below a second"},
		{"-warmup=1500ms", "whole seconds"},
		{"extra", `"extra" is not understood`},
	} {
		if _, err := parse([]string{test.flag}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error is %v, want one with %q", test.flag, err, test.want)
		}
	}
}

func TestRenderEveryConfiguration(t *testing.T) {
	if len(body) != 176 {
		t.Errorf("the answer has %d bytes, not 176", len(body))
	}
	s := site{Dir: t.TempDir(), Listen: "127.0.0.1:1", Admin: "127.0.0.1:2", Origin: "127.0.0.1:3", User: "root", Slots: 1088, Body: body, key: newKey()}
	for _, e := range append(entries, entry{config: "origin.conf"}) {
		if e.config == "" {
			continue
		}
		s.Config = filepath.Join(s.Dir, e.config)
		if err := render(s); err != nil {
			t.Errorf("%s: %v", e.name, err)
			continue
		}
		text, err := os.ReadFile(s.Config)
		if err != nil {
			t.Fatal(err)
		}
		if e.name != "" && !bytes.Contains(text, []byte(s.Origin)) {
			t.Errorf("%s does not lead to the origin:\n%s", e.config, text)
		}
		// nginx needs the key itself; Whygate stores its hash only.
		if e.program == "whygate" && bytes.Contains(text, []byte(s.Key)) {
			t.Errorf("%s contains the key", e.config)
		}
		if e.keyed && !bytes.Contains(text, []byte(s.Key)) && !bytes.Contains(text, []byte(s.KeySHA256)) {
			t.Errorf("%s cannot know the key", e.config)
		}
	}
}

func TestDenyServices(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy-rc.d")
	allow, err := denyServices(path)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || string(text) != "#!/bin/sh\nexit 101\n" {
		t.Errorf("the policy is %q, %v", text, err)
	}
	// Meanwhile it is somebody else's: left alone.
	leave, err := denyServices(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error("a policy that was there before was removed")
	}
	if err := allow(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("our own policy stayed")
	}
}

func TestPortTakenReadsGo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := serve(l.Addr().String(), http.NotFoundHandler()); err == nil || !portTaken(err.Error()) {
		t.Errorf("not seen as a taken port: %v", err)
	}
}

func TestCommandLineHidesTheKey(t *testing.T) {
	k := newKey()
	got := commandLine(k, []string{"wrk", "-H", "X-Api-Key: " + k.Key, "-g", "daemon off;"})
	if want := `wrk -H "X-Api-Key: ` + k.KeyPrefix + `…" -g "daemon off;"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestComplete(t *testing.T) {
	const whole = "HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 2\r\n\r\nok"
	for n := range len(whole) {
		if done, err := complete([]byte(whole[:n])); done || err != nil {
			t.Errorf("%q: %v, %v", whole[:n], done, err)
		}
	}
	if done, err := complete([]byte(whole)); !done || err != nil {
		t.Errorf("%q: %v, %v", whole, done, err)
	}
	for _, bad := range []string{
		whole + "x",
		"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
	} {
		if done, err := complete([]byte(bad)); done || err == nil {
			t.Errorf("%q: %v, %v", bad, done, err)
		}
	}
}

func TestPacerCountsEveryCall(t *testing.T) {
	answering := func(status int) netip.AddrPort {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			io.WriteString(w, body)
		}))
		t.Cleanup(server.Close)
		return netip.MustParseAddrPort(server.Listener.Addr().String())
	}
	p, err := newPacer(answering(200), 500, 8)
	if err != nil {
		t.Fatal(err)
	}
	warmed := 0
	got, err := p.run(100*time.Millisecond, 400*time.Millisecond, func() { warmed++ })
	p.close()
	if err != nil {
		t.Fatal(err)
	}
	if got.Calls != 200 || warmed != 1 {
		t.Errorf("%d calls were counted, not 200; the warm-up ended %d times", got.Calls, warmed)
	}
	if !(0 < got.P50 && got.P50 <= got.P99 && got.P99 <= got.P999 && got.P999 <= got.Longest) {
		t.Errorf("latencies are out of order: %+v", got)
	}

	if p, err = newPacer(answering(500), 500, 8); err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if _, err = p.run(0, 100*time.Millisecond, func() {}); err == nil || !strings.Contains(err.Error(), "500 Internal") {
		t.Errorf("answers of 500 gave the error %v", err)
	}
}

// A proxy that stalls pays for the calls it kept waiting, sent or not.
func TestPacerHasNoCoordinatedOmission(t *testing.T) {
	const stall = 300 * time.Millisecond
	calls := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls++; calls == 1 {
			time.Sleep(stall)
		}
		io.WriteString(w, body)
	}))
	defer server.Close()
	// One connection, so that 100 calls a second queue behind the first.
	p, err := newPacer(netip.MustParseAddrPort(server.Listener.Addr().String()), 100, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	got, err := p.run(0, 400*time.Millisecond, func() {})
	if err != nil {
		t.Fatal(err)
	}
	// Of 40 calls, the 15 that were due in the first half of the stall waited for
	// the second half at least, so the upper quarter is slow. A closed loop would see one.
	if slow := p.latency.quantile(0.75); slow < stall/2 {
		t.Errorf("the upper quarter of latencies begins at %v: %+v", slow, got)
	}
}

func TestConnectAll(t *testing.T) {
	h := &harness{key: newKey()}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Api-Key") != h.key.Key {
			w.WriteHeader(401)
		}
	}))
	defer server.Close()
	address := server.Listener.Addr().String()
	conns := make([]net.Conn, 50)
	if err := h.connectAll(context.Background(), address, conns); err != nil {
		t.Fatal(err)
	}
	for i, c := range conns {
		if err := h.callOn(c, address); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
		c.Close()
	}
	other := &harness{key: newKey()}
	if err := other.connectAll(context.Background(), address, make([]net.Conn, 50)); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("calls with another key gave the error %v", err)
	}
}
