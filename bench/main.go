//go:build linux

// Command bench runs the same work through Whygate and through its peers, side
// by side, and prints what each call costs.
//
// One run goes: install what is missing → start the origin → for each case, in
// rounds, each entry in turn (start it alone, warm up, measure, stop) → tables,
// ratios and goals. entry.go lists what is compared, measure.go how each case
// is measured, report.go what is printed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// settings are the flags of a run.
type settings struct {
	Whygate     string        `json:"whygate"`
	Cases       []string      `json:"cases"`
	Entries     []string      `json:"entries"`
	Rounds      int           `json:"rounds"`
	Duration    time.Duration `json:"durationNs"`
	PolicyTime  time.Duration `json:"policyDurationNs"` // of the cases policies and waf
	Warmup      time.Duration `json:"warmupNs"`
	Connections int           `json:"connections"`
	Idle        int           `json:"idle"`
	Rate        float64       `json:"rate"` // calls per second; 0 derives it from the closed loop
	ProxyCPU    int           `json:"proxyCPU"`
	LoadCPU     int           `json:"loadCPU"`
	OriginCPU   int           `json:"originCPU"`

	json string
	keep bool
}

func main() {
	if len(os.Args) > 1 {
		if run, ok := roles[os.Args[1]]; ok {
			if err := run(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		}
	}
	os.Exit(supervise())
}

// roles are what this binary becomes when a run starts it again as one of its
// own children.
var roles = map[string]func(args []string) error{
	"reverse-proxy": reverseProxy,
	"sink":          sink,
	"pace":          pace,
}

func supervise() int {
	set, err := parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err = run(ctx, set)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "bench: interrupted; everything it started has been stopped")
		return 130
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

func parse(args []string) (settings, error) {
	var set settings
	var cases, entries string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&set.Whygate, "whygate", "./bin/whygate", "the `binary` to measure; without it, Whygate is left out")
	f.StringVar(&cases, "cases", strings.Join(caseNames, ","), "what to measure, a comma-separated `list`")
	f.StringVar(&entries, "entries", strings.Join(entryNames(), ","), "what to compare, a comma-separated `list`; ratios need nginx")
	f.IntVar(&set.Rounds, "rounds", 3, "how often each case is measured")
	f.DurationVar(&set.Duration, "duration", 5*time.Second, "how long each measurement takes; the cases policies and waf, which have many, take 2s unless this is set")
	f.DurationVar(&set.Warmup, "warmup", time.Second, "load before each measurement that is not counted")
	f.IntVar(&set.Connections, "connections", 64, "keep-alive connections of the cases small and rate")
	f.IntVar(&set.Idle, "idle", 10000, "connections of the case idle")
	f.Float64Var(&set.Rate, "rate", 0, "offered `calls` per second of the case rate; 0 takes 40 % of what the slowest entry reaches")
	f.IntVar(&set.ProxyCPU, "proxy-cpu", 0, "the core of the entry being measured")
	f.IntVar(&set.LoadCPU, "load-cpu", 1, "the core of the load generators")
	f.IntVar(&set.OriginCPU, "origin-cpu", -1, "the core of the origin; -1 shares the load generators'")
	f.StringVar(&set.json, "json", "", "write all raw numbers to this `file`")
	f.BoolVar(&set.keep, "keep", false, "keep the folder of rendered configurations and say where it is")
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "usage: go run ./bench [flags]\n\nRuns the same work through Whygate and its peers, side by side. See bench/README.md.\n\n")
		f.PrintDefaults()
		fmt.Fprintf(f.Output(), "\nexample: go run ./bench -cases small,rate -rounds 5 -json bench.json\n")
	}
	if err := f.Parse(args); err != nil {
		return set, err
	}
	set.PolicyTime = 2 * time.Second
	f.Visit(func(one *flag.Flag) {
		if one.Name == "duration" {
			set.PolicyTime = set.Duration
		}
	})
	if f.NArg() > 0 {
		return set, fmt.Errorf("%q is not understood; everything is a flag, see -help", f.Arg(0))
	}
	var err error
	if set.Cases, err = choose("case", cases, caseNames); err != nil {
		return set, err
	}
	if set.Entries, err = choose("entry", entries, entryNames()); err != nil {
		return set, err
	}
	if set.OriginCPU < 0 {
		set.OriginCPU = set.LoadCPU
	}
	switch {
	case set.Rounds < 1:
		return set, fmt.Errorf("-rounds %d: at least one is needed", set.Rounds)
	case set.Duration < time.Second:
		return set, fmt.Errorf("-duration %v: below a second, numbers say nothing", set.Duration)
	case set.Warmup < time.Second:
		return set, fmt.Errorf("-warmup %v: wrk counts in whole seconds, one is the least", set.Warmup)
	case set.Duration%time.Second != 0 || set.Warmup%time.Second != 0:
		return set, errors.New("-duration and -warmup are whole seconds, because wrk counts in them")
	case set.Connections < 1 || set.Idle < 1:
		return set, errors.New("-connections and -idle are at least 1")
	case set.Rate < 0:
		return set, fmt.Errorf("-rate %g is negative", set.Rate)
	}
	return set, nil
}

// choose splits a list and keeps the order of known, so that rounds always run
// the same way.
func choose(what, list string, known []string) ([]string, error) {
	wanted := strings.Split(list, ",")
	for i, name := range wanted {
		wanted[i] = strings.TrimSpace(name)
		if !slices.Contains(known, wanted[i]) {
			return nil, fmt.Errorf("no %s is called %q; there are %s", what, wanted[i], strings.Join(known, ", "))
		}
	}
	var chosen []string
	for _, name := range known {
		if slices.Contains(wanted, name) {
			chosen = append(chosen, name)
		}
	}
	return chosen, nil
}

func run(ctx context.Context, set settings) (err error) {
	if err := checkCores(set); err != nil {
		return err
	}
	programs, err := findPrograms(ctx, set)
	if err != nil {
		return err
	}
	if programs["whygate"] == "" {
		set.Entries = slices.DeleteFunc(set.Entries, func(name string) bool {
			if find(name).program != "whygate" {
				return false
			}
			fmt.Fprintf(os.Stderr, "%s is left out: there is no binary at %s (build it, or name one with -whygate)\n", name, set.Whygate)
			return true
		})
	}
	if len(set.Entries) == 0 {
		return errors.New("nothing is left to measure")
	}
	if set.Idle, err = raiseFileLimit(set.Idle); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "whygate-bench-")
	if err != nil {
		return fmt.Errorf("making a folder for configurations: %w", err)
	}
	if set.keep {
		fmt.Fprintln(os.Stderr, "configurations are kept in", dir)
	} else {
		defer func() {
			if e := os.RemoveAll(dir); e != nil && err == nil {
				err = fmt.Errorf("removing %s: %w", dir, e)
			}
		}()
	}
	h, err := newHarness(ctx, set, programs, dir)
	if err != nil {
		return err
	}
	defer h.close()
	results, err := h.measure(ctx)
	if err != nil {
		return err
	}
	h.close()
	report(os.Stdout, results)
	if set.json != "" {
		if err := writeJSON(set.json, results); err != nil {
			return err
		}
	}
	if !slices.ContainsFunc(results.Samples, func(s sample) bool { return s.Invalid == "" }) {
		return errors.New("not one measurement was valid")
	}
	return nil
}

func checkCores(set settings) error {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("reading which cores may be used: %w", err)
	}
	for _, cpu := range []int{set.ProxyCPU, set.LoadCPU, set.OriginCPU} {
		if cpu < 0 || !allowed.IsSet(cpu) {
			return fmt.Errorf("core %d may not be used here (%d cores seen); choose others with -proxy-cpu, -load-cpu, -origin-cpu", cpu, runtime.NumCPU())
		}
	}
	if set.ProxyCPU == set.LoadCPU || set.ProxyCPU == set.OriginCPU {
		return fmt.Errorf("the entry being measured needs core %d for itself; choose others with -load-cpu and -origin-cpu", set.ProxyCPU)
	}
	return nil
}

// raiseFileLimit makes room for n connections in this process and its children,
// and returns how many there is room for: without root, the hard limit decides.
func raiseFileLimit(n int) (int, error) {
	const spare = 2048
	want := uint64(n + spare)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("reading the limit on open files: %w", err)
	}
	if raised := (syscall.Rlimit{Cur: max(want, limit.Max), Max: max(want, limit.Max)}); syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised) == nil {
		return n, nil
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("raising the limit on open files: %w", err)
	}
	if limit.Max >= want {
		return n, nil
	}
	if limit.Max < 2*spare {
		return 0, fmt.Errorf("%d open files are too few; raise the hard limit (ulimit -Hn) to %d", limit.Max, want)
	}
	fewer := int(limit.Max) - spare
	fmt.Fprintf(os.Stderr, "idle is measured with %d connections: the hard limit on open files is %d\n", fewer, limit.Max)
	return fewer, nil
}
