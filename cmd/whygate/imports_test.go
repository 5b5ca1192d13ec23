package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// importRules keep dependencies one way. A package that begins with from may not import one that begins with to,
// also not through others.
var importRules = []struct{ from, to, why string }{
	{"reason", "", "reasons are what every package speaks in; they know none"},
	{"resource", "policy", "documents are data; what they mean is compiled elsewhere"},
	{"resource", "snapshot", "documents are data; what they mean is compiled elsewhere"},
	{"resource", "gateway", "documents are data; what they mean is compiled elsewhere"},
	{"wire", "policy", "bytes on the wire are read before anybody decides"},
	{"wire", "gateway", "bytes on the wire are read before anybody decides"},
	{"wire", "reason", "wire says what is wrong with a message; which refusal that is, the gateway says"},
	{"counter", "policy", "counters count; policies ask them"},
	{"policy", "gateway", "a policy sees an Exchange, never the server around it"},
	{"policy", "snapshot", "a policy is compiled by a snapshot and knows none"},
	{"policy", "upstream", "a policy decides before a target is chosen"},
	{"upstream", "policy", "a target is chosen when everything is decided"},
	{"snapshot", "gateway", "a snapshot is data that the gateway serves from"},
	{"gateway", "admin", "calls are served without anybody who administers"},
	{"gateway", "database/sql", "no call waits for a database"},
	{"calllog", "gateway", "the journal stores records; it does not know who makes them"},
	{"pinpoint", "gateway", "the doctor looks at any server; ours is one of them"},
	{"pinpoint", "policy", "the doctor has its own eyes: sharing the gateway's would hide the gateway's faults"},
	{"pinpoint", "admin", "the doctor works where no node runs"},
}

// TestImports: see importRules.
func TestImports(t *testing.T) {
	const module = "github.com/whygate/whygate/"
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Deps " "}}`, module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	within := func(path, of string) bool { return path == of || strings.HasPrefix(path, of+"/") }
	checked := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		name := strings.TrimPrefix(words[0], module)
		for _, r := range importRules {
			if !within(name, r.from) {
				continue
			}
			checked[r.from+" "+r.to] = true
			to := r.to
			if to != "database/sql" {
				to = module + to
			}
			i := slices.IndexFunc(words[1:], func(dep string) bool {
				if r.to == "" {
					return strings.HasPrefix(dep, module) && !within(dep, module+r.from)
				}
				return within(dep, to)
			})
			if i >= 0 {
				t.Errorf("%s depends on %s: %s", name, words[1+i], r.why)
			}
		}
	}
	for _, r := range importRules {
		if !checked[r.from+" "+r.to] {
			t.Errorf("there is no package %s", r.from)
		}
	}
}
