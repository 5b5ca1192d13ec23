package pinpoint

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// layerTitles are the layers in the order in which a request meets them.
var layerTitles = []struct{ layer, title, says string }{
	{"client", "Client and form of the request", "What was sent, and how."},
	{"network", "Network, address and reputation", "Where it came from."},
	{"cdn", "CDN and caches", "What answers before the own servers do."},
	{"waf", "WAF and bot management", "Rules on content and behaviour."},
	{"gateway", "API gateway and quota", "Routes, keys, plans, limits and authorizers."},
	{"auth", "Authentication, tokens, authorization", "Who calls, and what they may do."},
	{"files", "Files and operating system", "What the worker of a server may read."},
	{"web-server", "Web server configuration", "What the configuration refuses."},
	{"framework", "Framework", "What a framework refuses before the application is asked."},
	{"application", "Application and data", "Rules of the application itself."},
	{"storage", "Object storage", "S3 and its relatives, Azure Storage, Google Cloud Storage."},
	{"", "Answers that are no cause", "How a diagnosis ends when no cause can be named."},
}

// Reference writes the catalogue of causes as Markdown: docs/reference/causes.md.
func Reference(w io.Writer) error {
	b := bufio.NewWriter(w)
	byCause := map[string][]*fingerprint{}
	for _, f := range fingerprints() {
		byCause[f.Cause] = append(byCause[f.Cause], f)
		for _, r := range f.Refine {
			if r.Cause != f.Cause && !slices.Contains(byCause[r.Cause], f) {
				byCause[r.Cause] = append(byCause[r.Cause], f)
			}
		}
	}
	lines := map[string][]*logPattern{}
	for _, p := range logs().Patterns {
		lines[p.Cause] = append(lines[p.Cause], p)
		for _, r := range p.Refine {
			if !slices.Contains(lines[r.Cause], p) {
				lines[r.Cause] = append(lines[r.Cause], p)
			}
		}
	}
	fmt.Fprintf(b, "# Causes\n\n<!-- Written by go test ./pinpoint -run TestReference -update. -->\n\n"+
		"These are the reasons for which servers refuse requests, as `whygate pinpoint` names them: %d causes, %d answers and %d log lines by which they are known. "+
		"[Weighing evidence](../decisions/006-weighing-evidence.md) tells how a verdict is reached, [adding a cause](../guides/adding-a-cause.md) how to add one.\n",
		len(Causes()), len(fingerprints()), len(logs().Patterns))
	for _, l := range layerTitles {
		fmt.Fprintf(b, "\n## %s\n\n%s\n", l.title, l.says)
		for _, c := range Causes() {
			if c.Layer != l.layer {
				continue
			}
			fmt.Fprintf(b, "\n### %s\n\n%s.\n\n", c.ID, prose(strings.ToUpper(c.Title[:1])+c.Title[1:]))
			var statuses []string
			for _, s := range c.Statuses {
				statuses = append(statuses, fmt.Sprint(s))
			}
			fmt.Fprintf(b, "- Shows up as: %s\n- Symptoms: %s\n- Decisive: %s\n", strings.Join(statuses, ", "), prose(c.Symptoms), prose(c.Evidence))
			if c.Parent != "" {
				fmt.Fprintf(b, "- Refines: [%s](#%s)\n", c.Parent, c.Parent)
			}
			if len(c.Expect) > 0 {
				var list []string
				for _, e := range c.Expect {
					list = append(list, fmt.Sprintf("`%s` %s", e.Operator, shows(e.Shows)))
				}
				fmt.Fprintf(b, "- Experiments: %s\n", strings.Join(list, ", "))
			}
			if len(c.Silent) > 0 {
				fmt.Fprintf(b, "- Not in the error log of: %s\n", strings.Join(c.Silent, ", "))
			}
			if known := known(byCause[c.ID], lines[c.ID]); known != "" && !c.Pseudo {
				fmt.Fprintf(b, "- Known by: %s\n", known)
			}
			fmt.Fprintf(b, "- Fix (%s): %s\n", c.Fix.Owner, prose(strings.Join(fillAll(c.Fix.Steps, nil), " ")))
			if c.Fix.Risk != "" && c.Fix.Risk != "None." {
				fmt.Fprintf(b, "- Risk: %s\n", prose(c.Fix.Risk))
			}
		}
	}
	return b.Flush()
}

func known(answers []*fingerprint, lines []*logPattern) string {
	var who, log []string
	for _, f := range answers {
		if n := ProductName(f.Refuser); !slices.Contains(who, n) && f.Refuser != "unknown" {
			who = append(who, n)
		}
	}
	for _, p := range lines {
		if n := ProductName(cmp.Or(p.Refuser, p.Product)); !slices.Contains(log, n) {
			log = append(log, n)
		}
	}
	var parts []string
	if len(who) > 0 {
		parts = append(parts, "answers of "+strings.Join(who, ", "))
	}
	if len(log) > 0 {
		parts = append(parts, "log lines of "+strings.Join(log, ", "))
	}
	return strings.Join(parts, "; ")
}

// prose keeps Markdown from reading marks into a text.
func prose(s string) string {
	return strings.NewReplacer("<", "&lt;", "*", "\\*", "_", "\\_", "|", "\\|", "[", "\\[", "`", "\\`").Replace(s)
}
