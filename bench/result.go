//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
)

// results are all that a run found: what -json writes.
type results struct {
	Settings settings  `json:"settings"`
	Machine  machine   `json:"machine"`
	Commands []command `json:"commands"`
	Rate     float64   `json:"rate"` // offered calls per second of the case rate
	Samples  []sample  `json:"samples"`
	Goals    []goal    `json:"goals"`
}

// A sample is one entry, measured once. Latencies are microseconds.
type sample struct {
	Case    string `json:"case"`
	Entry   string `json:"entry"`
	Round   int    `json:"round"`
	Invalid string `json:"invalid,omitempty"` // why this sample must not be used

	Connections int        `json:"connections"`
	Calls       int64      `json:"calls,omitempty"`
	Bytes       int64      `json:"bytes,omitempty"` // of body, in each call
	Seconds     float64    `json:"seconds,omitempty"`
	CPU         cpuSeconds `json:"cpuSeconds,omitzero"`
	P50         float64    `json:"p50,omitempty"`
	P99         float64    `json:"p99,omitempty"`
	P999        float64    `json:"p999,omitempty"`
	Longest     float64    `json:"longest,omitempty"`
	Lag99       float64    `json:"lag99,omitempty"` // how late the generator sent

	Memory  memory `json:"memory,omitzero"`
	AtStart memory `json:"memoryAtStart,omitzero"` // before the connections of the case idle

	// Shares of a core that was not idle, by /proc/stat, and how much of that was
	// neither the entry's nor the load's.
	ProxyCore       float64 `json:"proxyCore,omitempty"`
	OthersProxyCore float64 `json:"othersProxyCore,omitempty"`
	LoadCore        float64 `json:"loadCore,omitempty"`
	OthersLoadCore  float64 `json:"othersLoadCore,omitempty"`
}

type cpuSeconds struct {
	Total  float64 `json:"total"`
	User   float64 `json:"user"`
	Kernel float64 `json:"kernel"`
}

// What a sample says, in the units of the tables. A metric of a case that a sample
// does not belong to is NaN or zero.

func (s sample) perSecond() float64  { return float64(s.Calls) / s.Seconds }
func (s sample) cpuCall() float64    { return s.CPU.Total * 1e6 / float64(s.Calls) }
func (s sample) userCall() float64   { return s.CPU.User * 1e6 / float64(s.Calls) }
func (s sample) kernelCall() float64 { return s.CPU.Kernel * 1e6 / float64(s.Calls) }
func (s sample) busy() float64       { return 100 * s.CPU.Total / s.Seconds }
func (s sample) others() float64     { return 100 * max(s.OthersProxyCore, s.OthersLoadCore) }
func (s sample) loadBusy() float64   { return 100 * s.LoadCore }
func (s sample) p50() float64        { return s.P50 }
func (s sample) p99() float64        { return s.P99 }
func (s sample) p999() float64       { return s.P999 }
func (s sample) lag99() float64      { return s.Lag99 }
func (s sample) rss() float64        { return float64(s.Memory.RSS) / 1024 }
func (s sample) anon() float64       { return float64(s.Memory.Anon) / 1024 }
func (s sample) peak() float64       { return float64(s.Memory.Peak) / 1024 }
func (s sample) rssStart() float64   { return float64(s.AtStart.RSS) / 1024 }
func (s sample) mib() float64        { return float64(s.Calls) * float64(s.Bytes) / (1 << 20) }
func (s sample) mibSecond() float64  { return s.mib() / s.Seconds }
func (s sample) cpuMiB() float64     { return s.CPU.Total * 1e6 / s.mib() }
func (s sample) idleKiB() float64 {
	return float64(s.Memory.RSS-s.AtStart.RSS) / float64(s.Connections)
}

// String is the line of progress.
func (s sample) String() string {
	switch {
	case s.Invalid != "":
		return "INVALID: " + strings.ReplaceAll(s.Invalid, "\n", " / ")
	case s.Case == caseIdle:
		return fmt.Sprintf("%.1f KiB for each of %d connections", s.idleKiB(), s.Connections)
	case s.Bytes > 0:
		return fmt.Sprintf("%.0f MiB/s, %.0f µs CPU per MiB", s.mibSecond(), s.cpuMiB())
	case s.CPU.Total == 0:
		return fmt.Sprintf("%.0f calls/s, p99 %.0f µs", s.perSecond(), s.P99)
	}
	return fmt.Sprintf("%.1f µs CPU per call, %.0f calls/s, p99 %.0f µs, others took %.0f %% of a core", s.cpuCall(), s.perSecond(), s.P99, s.others())
}

type metric func(sample) float64

// of keeps the samples of one case.
func of(samples []sample, name string) []sample {
	var kept []sample
	for _, s := range samples {
		if s.Case == name {
			kept = append(kept, s)
		}
	}
	return kept
}

// values are a metric in the valid rounds of an entry.
func values(samples []sample, entry string, m metric) []float64 {
	var list []float64
	for _, s := range samples {
		if s.Entry == entry && s.Invalid == "" {
			list = append(list, m(s))
		}
	}
	return list
}

// ratios divide an entry's metric by the baseline's, round by round, so that what
// slowed a whole round down cancels. Rounds in which either is invalid are left out.
func ratios(samples []sample, entry string, m metric) []float64 {
	base := map[int]float64{}
	for _, s := range samples {
		if s.Entry == baseline && s.Invalid == "" {
			base[s.Round] = m(s)
		}
	}
	var list []float64
	for _, s := range samples {
		if b := base[s.Round]; s.Entry == entry && s.Invalid == "" && b > 0 {
			list = append(list, m(s)/b)
		}
	}
	return list
}

// median of a list, NaN when it is empty.
func median(list []float64) float64 {
	if len(list) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(list))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// A goal is a bound on one number. Missing it fails nothing: time on a shared
// machine proves little.
type goal struct {
	Text  string   `json:"text"`
	Limit float64  `json:"limit"`
	Value *float64 `json:"value"` // null when it was not measured
	Met   bool     `json:"met"`
}

// goals are what the project promises, against what was measured.
func goals(samples []sample, set settings) []goal {
	small, rate, idle := of(samples, caseSmall), of(samples, caseRate), of(samples, caseIdle)
	list := []goal{
		aim("Whygate full ≤ 1.00 × nginx bare in CPU per call, closed loop", 1, ratios(small, whygateFull, sample.cpuCall)),
		aim("Whygate full ≤ 1.00 × nginx bare in CPU per call, fixed rate", 1, ratios(rate, whygateFull, sample.cpuCall)),
		aim("Whygate full ≤ 1.00 × nginx bare in p99, closed loop", 1, ratios(small, whygateFull, sample.p99)),
		aim("Whygate full ≤ 1.00 × nginx bare in p99, fixed rate", 1, ratios(rate, whygateFull, sample.p99)),
		aim(fmt.Sprintf("Whygate full ≤ 64 MiB resident at %d connections", set.Connections), 64, values(small, whygateFull, sample.rss)),
		aim(fmt.Sprintf("Whygate full ≤ 20 KiB for each of %d idle connections", set.Idle), 20, values(idle, whygateFull, sample.idleKiB)),
	}
	for _, g := range policyGoals {
		list = append(list, aim(fmt.Sprintf("policy %s adds ≤ %.2f µs of CPU to a call", g.row, g.limit), g.limit, added(of(samples, casePolicies), g.row)))
	}
	for i := range wafRows {
		row := &wafRows[i]
		list = append(list, aim(row.name+": Whygate ≤ 1.00 × nginx with ModSecurity in CPU per call", 1, wafRatios(of(samples, caseWAF), row)))
	}
	return list
}

func aim(text string, limit float64, list []float64) goal {
	g := goal{Text: text, Limit: limit}
	if v := median(list); !math.IsNaN(v) {
		g.Value = &v
		g.Met = v <= limit
	}
	return g
}

func (g goal) String() string {
	switch {
	case g.Value == nil:
		return "goal: " + g.Text + ": not measured"
	case g.Met:
		return fmt.Sprintf("goal: %s: %.2f met", g.Text, *g.Value)
	}
	return fmt.Sprintf("goal: %s: %.2f NOT met", g.Text, *g.Value)
}

func writeJSON(path string, r *results) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("writing results: %w", err)
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
