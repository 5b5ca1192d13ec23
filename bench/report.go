//go:build linux

package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// A column shows one metric: its median and, where it matters, the whole range.
type column struct {
	title  string
	digits int
	metric metric
	kind   int
}

const (
	asMedian = iota
	asRange  // median (least–most)
	asRatio  // against the baseline, round by round
)

var (
	smallColumns = []column{
		{"µs CPU/call", 1, sample.cpuCall, asRange},
		{"user", 1, sample.userCall, asMedian},
		{"kernel", 1, sample.kernelCall, asMedian},
		{"× nginx", 2, sample.cpuCall, asRatio},
		{"calls/s", 0, sample.perSecond, asRange},
		{"p50 µs", 0, sample.p50, asMedian},
		{"p99 µs", 0, sample.p99, asRange},
		{"× nginx", 2, sample.p99, asRatio},
		{"RSS MiB", 1, sample.rss, asMedian},
		{"anon", 1, sample.anon, asMedian},
		{"peak", 1, sample.peak, asMedian},
		{"busy %", 0, sample.busy, asMedian},
		{"others %", 0, sample.others, asMedian},
		{"load core %", 0, sample.loadBusy, asMedian},
	}
	rateColumns = []column{
		{"p50 µs", 0, sample.p50, asMedian},
		{"p99 µs", 0, sample.p99, asRange},
		{"p99.9 µs", 0, sample.p999, asRange},
		{"p99 × nginx", 2, sample.p99, asRatio},
		{"µs CPU/call", 1, sample.cpuCall, asRange},
		{"× nginx", 2, sample.cpuCall, asRatio},
		{"busy %", 0, sample.busy, asMedian},
		{"others %", 0, sample.others, asMedian},
		{"sent late p99 µs", 0, sample.lag99, asMedian},
	}
	largeColumns = []column{
		{"MiB/s", 0, sample.mibSecond, asRange},
		{"µs CPU/MiB", 0, sample.cpuMiB, asRange},
		{"× nginx", 2, sample.cpuMiB, asRatio},
		{"RSS MiB", 1, sample.rss, asMedian},
		{"peak", 1, sample.peak, asMedian},
		{"busy %", 0, sample.busy, asMedian},
		{"others %", 0, sample.others, asMedian},
		{"load core %", 0, sample.loadBusy, asMedian},
	}
	idleColumns = []column{
		{"KiB/connection", 1, sample.idleKiB, asRange},
		{"× nginx", 2, sample.idleKiB, asRatio},
		{"RSS MiB at start", 1, sample.rssStart, asMedian},
		{"with connections", 1, sample.rss, asMedian},
	}
)

// report prints what a run found.
func report(w io.Writer, r *results) {
	r.Goals = goals(r.Samples, r.Settings)
	set := r.Settings
	fmt.Fprintf(w, "\n%s\n", r.Machine)
	for _, part := range []struct {
		name, title string
		columns     []column
	}{
		{caseSmall, fmt.Sprintf("Small calls, closed loop: GET, %d bytes answered, %d connections, %v after %v of warm-up", len(body), set.Connections, set.Duration, set.Warmup), smallColumns},
		{caseRate, fmt.Sprintf("Small calls at a fixed rate: %.0f calls/s offered on %d connections, latency from the moment a call was due", r.Rate, set.Connections), rateColumns},
		{largeAnswer, fmt.Sprintf("Large answers, closed loop: GET, 1 MiB answered, %d connections", largeConnections), largeColumns},
		{largeRequest, fmt.Sprintf("Large requests, closed loop: POST, 1 MiB sent, %d connections", largeConnections), largeColumns},
		{caseIdle, fmt.Sprintf("Idle connections: %d, each after one call", set.Idle), idleColumns},
	} {
		if samples := of(r.Samples, part.name); len(samples) > 0 {
			fmt.Fprintf(w, "\n%s\n", part.title)
			printTable(w, table(samples, part.columns))
			noteDisturbed(w, samples)
		}
	}
	if samples := of(r.Samples, casePolicies); len(samples) > 0 {
		fmt.Fprintf(w, "\nOne policy each, closed loop: GET, or POST of %d bytes of JSON, %d connections, %v after %v of warm-up\n", len(order), set.Connections, set.PolicyTime, set.Warmup)
		printTable(w, policyTable(samples))
		noteDisturbed(w, samples)
		fmt.Fprintln(w, "“added” is the median of the differences to the row compared with, taken round by round, with the least and the most.")
	}
	if samples := of(r.Samples, caseWAF); len(samples) > 0 {
		fmt.Fprintf(w, "\nThe Core Rule Set at paranoia 1, closed loop: nginx with ModSecurity and Whygate with the policy waf, %d connections, %v after %v of warm-up\n", wafConnections, set.PolicyTime, set.Warmup)
		printTable(w, wafTable(samples))
		noteDisturbed(w, samples)
	}
	fmt.Fprintln(w, "\nMedians of the valid rounds (least–most). “× nginx” is the median of the ratios to nginx proxy_pass, taken round by round.")
	invalid := slices.DeleteFunc(slices.Clone(r.Samples), func(s sample) bool { return s.Invalid == "" })
	for _, s := range invalid {
		fmt.Fprintf(w, "invalid, not used: %s round %d, %s: %s\n", s.Case, s.Round, s.Entry, s.Invalid)
	}
	fmt.Fprintln(w, "\nCommands, paths relative to the folder that -keep keeps:")
	for _, c := range r.Commands {
		fmt.Fprintf(w, "  %-21s %s\n", c.Label, c.Line)
	}
	fmt.Fprintln(w)
	for _, g := range r.Goals {
		fmt.Fprintln(w, g)
	}
}

func noteDisturbed(w io.Writer, samples []sample) {
	if n := disturbed(samples); n > 0 {
		fmt.Fprintf(w, "In %d of %d measurements, other work took more than 10 %% of a core used; what waited for it shows in latency and calls/s.\n", n, len(samples))
	}
}

// disturbed counts measurements that had to share a core with something else.
func disturbed(samples []sample) int {
	n := 0
	for _, s := range samples {
		if s.others() > 10 {
			n++
		}
	}
	return n
}

// table makes rows of cells, the first row being the titles.
func table(samples []sample, columns []column) [][]string {
	titles := []string{""}
	for _, c := range columns {
		titles = append(titles, c.title)
	}
	rows := [][]string{append(titles, "rounds")}
	for _, e := range entries {
		measured := 0
		for _, s := range samples {
			if s.Entry == e.name {
				measured++
			}
		}
		if measured == 0 {
			continue
		}
		row := []string{e.title}
		for _, c := range columns {
			row = append(row, c.cell(samples, e.name))
		}
		valid := len(values(samples, e.name, sample.perSecond))
		rows = append(rows, append(row, fmt.Sprintf("%d of %d", valid, measured)))
	}
	return rows
}

func (c column) cell(samples []sample, entry string) string {
	list := values(samples, entry, c.metric)
	if c.kind == asRatio {
		list = ratios(samples, entry, c.metric)
	}
	list = slices.DeleteFunc(list, func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) })
	middle := median(list)
	if math.IsNaN(middle) || entry == direct && middle == 0 {
		return "–"
	}
	if c.kind == asRange && len(list) > 1 {
		return fmt.Sprintf("%.*f (%.*f–%.*f)", c.digits, middle, c.digits, slices.Min(list), c.digits, slices.Max(list))
	}
	return fmt.Sprintf("%.*f", c.digits, middle)
}

// printTable aligns the first column to the left and the others to the right.
func printTable(w io.Writer, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				line.WriteString(cell + pad)
			} else {
				line.WriteString("  " + pad + cell)
			}
		}
		fmt.Fprintln(w, line.String())
	}
}
