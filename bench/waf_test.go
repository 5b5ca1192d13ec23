//go:build linux

package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/snapshot"
)

// Both entries of each row get a configuration, and Whygate takes its own.
func TestWAFRows(t *testing.T) {
	dir := t.TempDir()
	who, err := newCallers(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	quotas, err := counter.OpenQuotas("")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{0, 150, 9 << 10, 9 << 10} {
		row := &wafRows[i]
		if n := len(row.content); n < want-200 || n > want+200 {
			t.Errorf("%s sends %d bytes", row.name, n)
		}
		for _, e := range wafEntries(row) {
			own := filepath.Join(dir, e.name)
			if err := os.Mkdir(own, 0o700); err != nil {
				t.Fatal(err)
			}
			s := site{Dir: own, Config: filepath.Join(own, e.config), Listen: "127.0.0.1:1", Origin: "127.0.0.1:3", Slots: 1088, Policies: row.policies,
				Module: modsecurity, Rules: "/rules", key: newKey(), callers: who}
			if err := render(s); err != nil {
				t.Fatal(err)
			}
			if e.program != "whygate" {
				continue
			}
			set, problems := resource.Load(s.Config)
			_, more := snapshot.Compile(set, snapshot.Env{Memory: counter.NewMemory(), Quotas: quotas, Log: slog.New(slog.DiscardHandler)})
			if problems = append(problems, more...); problems.HasErrors() {
				var text strings.Builder
				problems.Render(&text, set.Sources(), false)
				t.Errorf("%s:\n%s", row.name, text.String())
			}
		}
	}
}

// The rule set is written whole, each rule after an empty line.
func TestWriteRules(t *testing.T) {
	dir := t.TempDir()
	if err := writeRules(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"crs-setup.conf", "all.conf", "rules/REQUEST-949-BLOCKING-EVALUATION.conf", "rules/unix-shell.data"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "rules/REQUEST-942-APPLICATION-ATTACK-SQLI.conf"))
	if err != nil {
		t.Fatal(err)
	}
	rules := strings.Count("\n"+string(text), "\nSecRule ")
	if rules < 50 || rules != strings.Count("\n"+string(text), "\n\nSecRule ") {
		t.Errorf("%d rules, of which %d come after an empty line", rules, strings.Count("\n"+string(text), "\n\nSecRule "))
	}
}

func TestWAFRatios(t *testing.T) {
	row := &wafRows[0]
	both := wafEntries(row)
	at := func(name string, round int, cpu float64) sample {
		return sample{Case: caseWAF, Entry: name, Round: round, Calls: 10, Seconds: 1, CPU: cpuSeconds{Total: cpu}}
	}
	broken := at(both[1].name, 3, 9)
	broken.Invalid = "broken"
	samples := []sample{at(both[0].name, 1, 2), at(both[1].name, 1, 1), at(both[0].name, 2, 4), at(both[1].name, 2, 1), at(both[0].name, 3, 1), broken}
	list := wafRatios(samples, row)
	if len(list) != 2 || list[0] != 0.5 || list[1] != 0.25 {
		t.Errorf("the ratios are %v", list)
	}
	if line := strings.Join(wafTable(samples)[1], "|"); line != "waf, GET|0|200000|100000|0.38|0.25|0.50|2" {
		t.Errorf("the line is %s", line)
	}
}
