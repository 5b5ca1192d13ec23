//go:build linux

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The cases, in the order in which they run: rate needs the results of small.
const (
	caseSmall    = "small"    // small calls, as many as go
	caseRate     = "rate"     // small calls at a fixed rate
	caseLarge    = "large"    // 1 MiB bodies, both ways
	caseIdle     = "idle"     // memory of idle connections
	casePolicies = "policies" // small calls through Whygate with one policy each
	caseWAF      = "waf"      // calls through the Core Rule Set, in nginx and in Whygate
	largeAnswer  = "large-answer"
	largeRequest = "large-request"
)

var caseNames = []string{caseSmall, caseRate, caseLarge, caseIdle, casePolicies, caseWAF}

const (
	largeSize        = 1 << 20
	largeConnections = 16
)

// A harness is one run: the origins that live as long as it does, and what is
// needed to start an entry.
type harness struct {
	set      settings
	programs map[string]string
	self     string
	dir      string
	key      key
	callers  callers // of the case policies
	launch   launcher
	slots    int // entries started so far, for folder names

	small, upload       string // addresses of the origins
	smallProc, sinkProc *process

	commands []command // the first of each label
}

func newHarness(ctx context.Context, set settings, programs map[string]string, dir string) (*harness, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this binary: %w", err)
	}
	// Orphans of our children become our children, so that close finds them.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("adopting orphans: %w", err)
	}
	h := &harness{set: set, programs: programs, self: self, dir: dir, key: newKey(), launch: newLauncher()}
	if slices.Contains(set.Cases, casePolicies) || slices.Contains(set.Cases, caseWAF) {
		if h.callers, err = newCallers(dir, time.Now()); err != nil {
			return nil, err
		}
	}
	if err := h.startOrigins(ctx); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// close stops what lives as long as the run, and whatever a killed server may have
// left behind.
func (h *harness) close() {
	h.smallProc.stop()
	h.sinkProc.stop()
	if family, err := tree(os.Getpid()); err == nil {
		for _, s := range family[1:] {
			syscall.Kill(s.pid, syscall.SIGKILL)
		}
	}
}

// startOrigins starts nginx for answers and, where bodies are sent, a sink: nginx
// would answer before it has read the body, and so let proxies stop early.
func (h *harness) startOrigins(ctx context.Context) error {
	dir := filepath.Join(h.dir, "origin")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), bytes.Repeat([]byte("x"), largeSize), 0o600); err != nil {
		return err
	}
	origin := entry{title: "origin", program: "nginx", config: "origin.conf", command: nginxCommand}
	var s site
	var err error
	if h.smallProc, s, err = h.start(ctx, origin, dir, h.set.OriginCPU, h.set.Connections, ""); err != nil {
		return fmt.Errorf("starting the origin: %w", err)
	}
	h.small = s.Listen
	if !slices.Contains(h.set.Cases, caseLarge) {
		return nil
	}
	sink := entry{title: "sink", command: func(s site) []string { return []string{"sink", "-listen", s.Listen} }}
	if h.sinkProc, s, err = h.start(ctx, sink, dir, h.set.OriginCPU, h.set.Connections, ""); err != nil {
		return fmt.Errorf("starting the origin of large requests: %w", err)
	}
	h.upload = s.Listen
	return nil
}

// start runs an entry in dir on one core and waits until it answers.
func (h *harness) start(ctx context.Context, e entry, dir string, cpu, connections int, origin string) (*process, site, error) {
	for try := 1; ; try++ {
		p, s, err := h.tryStart(ctx, e, dir, cpu, connections, origin)
		if err == nil || try == 3 || !portTaken(said(filepath.Join(dir, e.outputName()))) {
			return p, s, err
		}
		// Somebody took the port between choosing and listening.
		os.Remove(s.Config)
	}
}

func (e entry) outputName() string { return cmp.Or(e.name, e.title) + ".out" }

func (h *harness) tryStart(ctx context.Context, e entry, dir string, cpu, connections int, origin string) (*process, site, error) {
	s := site{Dir: dir, Origin: origin, User: nginxUser(), Slots: connections + 1024, Body: body, Module: modsecurity, Rules: filepath.Join(h.dir, "crs"), key: h.key, callers: h.callers}
	if e.policy != nil {
		s.Policies = e.policy.policies
	}
	var err error
	if s.Listen, err = freeAddress(); err != nil {
		return nil, s, err
	}
	if s.Admin, err = freeAddress(); err != nil {
		return nil, s, err
	}
	if e.config != "" {
		s.Config = filepath.Join(dir, e.config)
		if err := render(s); err != nil {
			return nil, s, err
		}
	}
	program := h.self
	if e.program != "" {
		program = h.programs[e.program]
	}
	out, err := os.Create(filepath.Join(dir, e.outputName()))
	if err != nil {
		return nil, s, err
	}
	defer out.Close()
	argv := append([]string{program}, e.command(s)...)
	if e.policy == nil || e.label != "" {
		h.note(cmp.Or(e.label, e.name, e.title), argv)
	} else {
		h.note(casePolicies, argv) // one line for all rows
	}
	p, err := h.launch.start(cpu, dir, []string{"GOMAXPROCS=1"}, out, out, argv)
	if err != nil {
		return nil, s, err
	}
	if err := h.ready(ctx, p, e, s.Listen); err != nil {
		p.stop()
		return nil, s, fmt.Errorf("%w; %s", err, said(out.Name()))
	}
	return p, s, nil
}

// A command is how something was started. Ports differ each time.
type command struct {
	Label string `json:"label"`
	Line  string `json:"line"` // paths relative to the folder that -keep keeps
}

// note keeps the first command of each label for the report.
func (h *harness) note(label string, argv []string) {
	if !slices.ContainsFunc(h.commands, func(c command) bool { return c.Label == label }) {
		line := strings.NewReplacer(h.dir+"/", "", h.self, "bench").Replace(commandLine(h.key, argv))
		h.commands = append(h.commands, command{label, line})
	}
}

// ready waits for the first right answer, and checks that an entry which wants
// the key refuses without it: an entry that does less work than it says would
// make every number worthless.
func (h *harness) ready(ctx context.Context, p *process, e entry, address string) error {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func(key string) (int, string, error) {
		req, err := http.NewRequestWithContext(ctx, "GET", "http://"+address+"/", nil)
		if err != nil {
			return 0, "", err
		}
		if key != "" {
			req.Header.Set("X-Api-Key", key)
		}
		answer, err := client.Do(req)
		if err != nil {
			return 0, "", err
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		return answer.StatusCode, string(text), err
	}
	var status int
	var text string
	var err error
	for deadline := time.Now().Add(15 * time.Second); ; {
		if status, text, err = ask(h.key.Key); err == nil {
			break
		}
		if !p.running() {
			return errors.New("it ended at once")
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no answer within 15 s: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	if e.policy != nil {
		return e.policy.verify(ctx, client, "http://"+address, h.key, h.callers)
	}
	if status != 200 || text != body {
		return fmt.Errorf("it answers %d %.200q, not the origin's 200", status, text)
	}
	if e.keyed {
		if status, _, err = ask(""); err != nil || status != 401 {
			return fmt.Errorf("without a key it answers %d (%v), not 401", status, err)
		}
	}
	return nil
}

// measure runs all cases and collects their samples.
func (h *harness) measure(ctx context.Context) (*results, error) {
	r := &results{Settings: h.set, Machine: h.describe(ctx)}
	for _, c := range h.set.Cases {
		var err error
		switch c {
		case caseSmall:
			err = h.rounds(ctx, r, caseSmall, h.closedLoop(load{origin: h.small, path: "/", connections: h.set.Connections, duration: h.set.Duration}))
		case caseRate:
			if r.Rate, err = h.chooseRate(ctx, r); err == nil {
				err = h.rounds(ctx, r, caseRate, h.fixedRate(r.Rate))
			}
		case caseLarge:
			err = h.rounds(ctx, r, largeAnswer, h.closedLoop(load{origin: h.small, path: "/large", connections: largeConnections, duration: h.set.Duration, bytes: largeSize}))
			if err == nil {
				err = h.rounds(ctx, r, largeRequest, h.closedLoop(load{origin: h.upload, path: "/", connections: largeConnections, duration: h.set.Duration, bytes: largeSize, script: "upload.lua"}))
			}
		case caseIdle:
			err = h.rounds(ctx, r, caseIdle, h.idle())
		case casePolicies:
			err = h.policies(ctx, r)
		case caseWAF:
			err = h.waf(ctx, r)
		}
		if err != nil {
			return nil, err
		}
	}
	r.Commands = h.commands
	return r, nil
}

// A target is an entry that is running: where it listens and, if it is a process,
// which.
type target struct {
	address string
	proc    *process // nil when calls go straight to the origin
}

// A measurement fills one sample from one running entry.
type measurement struct {
	origin      string
	connections int
	run         func(ctx context.Context, t target, s *sample) error
}

// rounds measures each entry in turn, as often as there are rounds.
func (h *harness) rounds(ctx context.Context, r *results, name string, m measurement) error {
	for round := 1; round <= h.set.Rounds; round++ {
		for _, entryName := range h.set.Entries {
			if entryName == direct && name == caseIdle {
				continue
			}
			s := h.once(ctx, find(entryName), name, round, m)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if !h.smallProc.running() {
				return errors.New("the origin ended")
			}
			r.Samples = append(r.Samples, s)
			fmt.Fprintf(os.Stderr, "%s round %d of %d: %-14s %s\n", name, round, h.set.Rounds, entryName, s)
		}
	}
	return nil
}

// once starts an entry, measures it and stops it. What goes wrong makes the
// sample invalid, not the run.
func (h *harness) once(ctx context.Context, e entry, name string, round int, m measurement) sample {
	s := sample{Case: name, Entry: e.name, Round: round, Connections: m.connections}
	err := func() error {
		t := target{address: m.origin}
		if e.command != nil {
			h.slots++
			dir := filepath.Join(h.dir, fmt.Sprintf("%03d-%s-%s-%d", h.slots, name, e.name, round))
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			defer h.sweep(dir)
			p, at, err := h.start(ctx, e, dir, h.set.ProxyCPU, m.connections, m.origin)
			if err != nil {
				return err
			}
			defer p.stop()
			t = target{at.Listen, p}
			if err := m.run(ctx, t, &s); err != nil {
				return err
			}
			if !p.running() {
				return fmt.Errorf("it ended under load; %s", said(filepath.Join(dir, e.outputName())))
			}
			return nil
		}
		return m.run(ctx, t, &s)
	}()
	if err != nil {
		s.Invalid = err.Error()
	}
	return s
}

// sweep removes the folder of an entry that has been measured. When folders are
// kept, it removes only what the load made big.
func (h *harness) sweep(dir string) {
	if h.set.keep {
		os.Remove(filepath.Join(dir, "calls.log"))
		os.RemoveAll(filepath.Join(dir, "data"))
		return
	}
	os.RemoveAll(dir)
}

// A reading is what had been spent at one moment.
type reading struct {
	at                  time.Time
	proxy, origin       cpuTime
	proxyCore, loadCore time.Duration
}

func (h *harness) read(t target, origin *process) (reading, error) {
	r := reading{at: time.Now()}
	var err error
	if t.proc != nil {
		if r.proxy, err = cpuOf(t.proc.pid); err != nil {
			return r, err
		}
	}
	if h.set.OriginCPU == h.set.LoadCPU {
		if r.origin, err = cpuOf(origin.pid); err != nil {
			return r, err
		}
	}
	if r.proxyCore, err = busyOf(h.set.ProxyCPU); err != nil {
		return r, err
	}
	r.loadCore, err = busyOf(h.set.LoadCPU)
	return r, err
}

// charge writes into the sample what was spent between two readings; load is what
// the generator itself spent.
func (s *sample) charge(before, after reading, load time.Duration) {
	wall := after.at.Sub(before.at)
	spent := after.proxy.since(before.proxy)
	s.Seconds = wall.Seconds()
	s.CPU = cpuSeconds{spent.total.Seconds(), spent.user.Seconds(), spent.kernel.Seconds()}
	share := func(d time.Duration) float64 { return max(d.Seconds()/wall.Seconds(), 0) }
	s.ProxyCore = share(after.proxyCore - before.proxyCore)
	s.LoadCore = share(after.loadCore - before.loadCore)
	s.OthersProxyCore = share(after.proxyCore - before.proxyCore - spent.total)
	s.OthersLoadCore = share(after.loadCore - before.loadCore - after.origin.since(before.origin).total - load)
}

// A load is what wrk sends.
type load struct {
	origin      string // address that the calls end at
	path        string
	headers     []string // besides the key
	script      string   // template in testdata/, in a folder or not; "" for GET
	content     string   // that the script sends; "" is order
	bytes       int64    // of a large body, in each call
	connections int
	duration    time.Duration
}

// closedLoop measures with wrk: each connection sends its next call as soon as
// the last is answered.
func (h *harness) closedLoop(l load) measurement {
	originProc := h.smallProc
	if l.origin == h.upload {
		originProc = h.sinkProc
	}
	argv := func(t target, d time.Duration) []string {
		list := []string{h.programs["wrk"], "-t1", fmt.Sprintf("-c%d", l.connections), fmt.Sprintf("-d%.0fs", d.Seconds()),
			"--latency", "-H", "X-Api-Key: " + h.key.Key}
		for _, line := range l.headers {
			list = append(list, "-H", line)
		}
		if l.script != "" {
			list = append(list, "-s", filepath.Join(h.dir, l.script))
		}
		return append(list, "http://"+t.address+l.path)
	}
	return measurement{l.origin, l.connections, func(ctx context.Context, t target, s *sample) error {
		if l.script != "" {
			script := filepath.Join(h.dir, l.script)
			if err := render(site{Config: script, Body: cmp.Or(l.content, order)}); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		s.Bytes = l.bytes
		if _, _, err := h.wrk(ctx, argv(t, h.set.Warmup)); err != nil {
			return err
		}
		before, err := h.read(t, originProc)
		if err != nil {
			return err
		}
		// Memory is read while the connections are open and busy.
		type look struct {
			memory memory
			err    error
		}
		looked := make(chan look, 1)
		if t.proc != nil {
			timer := time.AfterFunc(l.duration*4/5, func() {
				m, err := memoryOf(t.proc.pid)
				looked <- look{m, err}
			})
			defer timer.Stop()
		} else {
			looked <- look{}
		}
		h.note("load of "+s.Case, argv(t, l.duration))
		r, spent, err := h.wrk(ctx, argv(t, l.duration))
		if err != nil {
			return err
		}
		seen := <-looked
		if seen.err != nil {
			return seen.err
		}
		s.Memory = seen.memory
		after, err := h.read(t, originProc)
		if err != nil {
			return err
		}
		s.charge(before, after, spent)
		s.Seconds = r.took.Seconds()
		s.Calls = r.calls
		s.P50, s.P99 = micros(r.p50), micros(r.p99)
		if r.calls == 0 {
			return errors.New("no call was answered")
		}
		if r.errors != "" {
			return errors.New(r.errors)
		}
		return nil
	}}
}

// wrk runs the generator and returns what it said and the CPU time it took.
func (h *harness) wrk(ctx context.Context, argv []string) (wrkResult, time.Duration, error) {
	var out bytes.Buffer
	p, err := h.launch.start(h.set.LoadCPU, h.dir, nil, &out, &out, argv)
	if err != nil {
		return wrkResult{}, 0, err
	}
	defer p.stop()
	select {
	case <-p.ended:
	case <-ctx.Done():
		return wrkResult{}, 0, ctx.Err()
	}
	if !p.cmd.ProcessState.Success() {
		return wrkResult{}, 0, fmt.Errorf("wrk: %v: %s", p.cmd.ProcessState, bytes.TrimSpace(out.Bytes()))
	}
	r, err := parseWrk(out.Bytes())
	return r, p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime(), err
}

// rateShare is what part of its closed-loop throughput the slowest entry is offered.
// It is no more than 40 %, because at a fixed rate each call wakes a process that
// would find the next ones already waiting in the closed loop: a call costs more.
const rateShare = 0.4

// chooseRate takes that part of what the slowest entry reached in the closed loop,
// and asks for a short one where that case was not measured.
func (h *harness) chooseRate(ctx context.Context, r *results) (float64, error) {
	if h.set.Rate > 0 {
		return h.set.Rate, nil
	}
	samples := r.Samples
	if !slices.Contains(h.set.Cases, caseSmall) {
		trial := &results{}
		quick := *h
		quick.set.Rounds = 1
		if err := quick.rounds(ctx, trial, "trial", h.closedLoop(load{origin: h.small, path: "/", connections: h.set.Connections, duration: 2 * time.Second})); err != nil {
			return 0, err
		}
		h.slots = quick.slots
		samples = trial.Samples
	}
	slowest := 0.0
	for _, name := range h.set.Entries {
		reached := median(values(samples, name, sample.perSecond))
		if name != direct && reached > 0 && (slowest == 0 || reached < slowest) {
			slowest = reached
		}
	}
	if slowest == 0 {
		return 0, errors.New("no entry was measured in the closed loop, so there is nothing to derive a rate from; give one with -rate")
	}
	return math.Round(slowest*rateShare/100) * 100, nil
}

// fixedRate measures with this binary as an open-loop generator.
func (h *harness) fixedRate(rate float64) measurement {
	return measurement{h.small, h.set.Connections, func(ctx context.Context, t target, s *sample) error {
		argv := []string{h.self, "pace", "-address", t.address, "-rate", fmt.Sprintf("%g", rate), "-connections", fmt.Sprint(h.set.Connections),
			"-warmup", h.set.Warmup.String(), "-duration", h.set.Duration.String()}
		h.note("load of "+s.Case, argv)
		from, to, err := os.Pipe()
		if err != nil {
			return err
		}
		defer from.Close()
		var errs bytes.Buffer
		p, err := h.launch.start(h.set.LoadCPU, h.dir, []string{"GOMAXPROCS=1", keyVariable + "=" + h.key.Key}, to, &errs, argv)
		to.Close()
		if err != nil {
			return err
		}
		defer p.stop()
		defer context.AfterFunc(ctx, p.stop)()
		// The generator says when the warm-up is over, and at the end what it saw.
		lines := bufio.NewScanner(from)
		var before, after reading
		var loadBefore, loadAfter cpuTime
		var seen paced
		for lines.Scan() {
			if lines.Text() == measuring {
				if before, err = h.read(t, h.smallProc); err != nil {
					return err
				}
				if loadBefore, err = cpuOf(p.pid); err != nil {
					return err
				}
				continue
			}
			if after, err = h.read(t, h.smallProc); err != nil {
				return err
			}
			if loadAfter, err = cpuOf(p.pid); err != nil {
				return err
			}
			if err := json.Unmarshal(lines.Bytes(), &seen); err != nil {
				return fmt.Errorf("reading the generator's result: %w", err)
			}
			break
		}
		from.Close() // the generator waits for this
		<-p.ended
		if before.at.IsZero() || after.at.IsZero() {
			return fmt.Errorf("the generator ended early: %v: %s", p.cmd.ProcessState, bytes.TrimSpace(errs.Bytes()))
		}
		s.charge(before, after, loadAfter.since(loadBefore).total)
		s.Seconds = seen.Seconds
		s.Calls = seen.Calls
		s.P50, s.P99, s.P999, s.Longest, s.Lag99 = seen.P50, seen.P99, seen.P999, seen.Longest, seen.Lag99
		if t.proc != nil {
			if s.Memory, err = memoryOf(t.proc.pid); err != nil {
				return err
			}
		}
		if reached := s.perSecond(); reached < 0.99*rate {
			return fmt.Errorf("offered %.0f calls per second, answered %.0f", rate, reached)
		}
		return nil
	}}
}
