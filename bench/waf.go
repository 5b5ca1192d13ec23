//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/corazawaf/coraza-coreruleset/v4"
)

// The case waf: nginx with ModSecurity and Whygate with the policy waf, both with the same files of the Core Rule Set
// at paranoia 1.

// wafConnections are few, for a call takes some milliseconds of a core.
const wafConnections = 8

// modsecurity is the module that nginx loads.
const modsecurity = "/usr/lib/nginx/modules/ngx_http_modsecurity_module.so"

// wafRows are the calls, as rows for Whygate.
var wafRows = []policyRow{
	{name: "waf, GET", call: call{path: "/orders?status=open&page=2"}},
	{name: "waf, 150 bytes", call: call{path: "/orders", content: orderOf(150)}},
	{name: "waf, 9 KB", call: call{path: "/orders", content: orderOf(9 << 10)}},
	{name: "waf, 9 KB of prose", call: call{path: "/orders", content: notesOf(9 << 10)}},
}

func init() {
	for i := range wafRows {
		row := &wafRows[i]
		row.policies = []string{`waf: {}`}
		row.wrong, row.status = call{path: attack}, 403
	}
}

// orderOf is an order in JSON of about so many bytes.
func orderOf(size int) string {
	var b strings.Builder
	b.WriteString(`{"customer":"bistro","address":{"street":"Rue de la Paix 12","city":"Paris"},"items":[`)
	for i := 0; b.Len() < size-60; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"sku":"TP-%04d","name":"teapot, blue","quantity":%d,"gift":false}`, i, i%7+1)
	}
	b.WriteString(`]}`)
	return b.String()
}

// notesOf is a JSON body of about so many bytes, with prose that does not repeat itself.
func notesOf(size int) string {
	words := strings.Fields("the teapot that we ordered in May came with a chip on its lid, so please send another one; we would like to keep the cups, which are fine. " +
		"Could you tell us when it is likely to arrive? Ann, from the bistro in Paris (not the one in Lyon)")
	var b strings.Builder
	b.WriteString(`{"customer":"bistro"`)
	for i := 0; b.Len() < size-200; i++ {
		fmt.Fprintf(&b, `,"note%d":"`, i)
		for k := range 60 {
			b.WriteString(words[(i*7+k*(i%5+1))%len(words)])
			b.WriteByte(' ')
		}
		b.WriteString(`"`)
	}
	b.WriteString(`}`)
	return b.String()
}

// wafEntries are what takes a row: nginx first, which ratios are taken of.
func wafEntries(row *policyRow) []entry {
	return []entry{
		{name: row.name + ", nginx", title: row.name, label: "nginx-waf", program: "nginx", config: "nginx-waf.conf", command: nginxCommand, policy: row},
		{name: row.name, title: row.name, label: "whygate-waf", program: "whygate", config: "whygate-policy.yaml", command: whygateCommand, policy: row},
	}
}

// writeRules writes the rule set as ModSecurity takes it: comments are left out in the embedded files, and without
// the empty lines that stood there its parser joins rules. Names have no @, at which it stops.
func writeRules(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "rules"), 0o755); err != nil {
		return err
	}
	all := fmt.Sprintf("Include %s/rules/*.conf\n", dir)
	if err := os.WriteFile(filepath.Join(dir, "all.conf"), []byte(all), 0o644); err != nil {
		return err
	}
	return fs.WalkDir(coreruleset.FS, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		to := ""
		switch {
		case name == "@crs-setup.conf.example":
			to = "crs-setup.conf"
		case strings.HasPrefix(name, "@owasp_crs/"):
			to = filepath.Join("rules", filepath.Base(name))
		default:
			return nil
		}
		text, err := fs.ReadFile(coreruleset.FS, name)
		if err != nil {
			return err
		}
		if strings.HasSuffix(to, ".conf") {
			text = spaced(text)
		}
		return os.WriteFile(filepath.Join(dir, to), text, 0o644)
	})
}

// spaced puts an empty line before each directive.
func spaced(text []byte) []byte {
	var out []byte
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "SecRule") || strings.HasPrefix(line, "SecAction") || strings.HasPrefix(line, "SecMarker") {
			out = append(out, '\n')
		}
		out = append(out, line...)
	}
	return out
}

// waf measures each call with both, one after the other.
func (h *harness) waf(ctx context.Context, r *results) error {
	if h.programs["whygate"] == "" {
		fmt.Fprintln(os.Stderr, "the case waf is left out: Whygate is not among the entries")
		return nil
	}
	if err := writeRules(filepath.Join(h.dir, "crs")); err != nil {
		return fmt.Errorf("writing the rule set: %w", err)
	}
	for round := 1; round <= h.set.Rounds; round++ {
		for i := range wafRows {
			row := &wafRows[i]
			l := load{origin: h.small, path: row.target(), headers: append(row.lines(h.callers), "Host: shop.test"), content: row.content, connections: wafConnections, duration: h.set.PolicyTime}
			if row.content != "" {
				dir := fmt.Sprint("waf-", len(row.content))
				if err := os.MkdirAll(filepath.Join(h.dir, dir), 0o700); err != nil {
					return err
				}
				l.script = filepath.Join(dir, "post.lua")
			}
			for _, e := range wafEntries(row) {
				s := h.once(ctx, e, caseWAF, round, h.closedLoop(l))
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if !h.smallProc.running() {
					return errors.New("the origin ended")
				}
				r.Samples = append(r.Samples, s)
				fmt.Fprintf(os.Stderr, "%s round %d of %d: %-22s %s\n", caseWAF, round, h.set.Rounds, e.name, s)
			}
		}
	}
	return nil
}

// wafRatios are Whygate's CPU per call against that of nginx with ModSecurity, round by round.
func wafRatios(samples []sample, row *policyRow) (list []float64) {
	both := wafEntries(row)
	base := map[int]float64{}
	for _, s := range samples {
		if s.Entry == both[0].name && s.Invalid == "" {
			base[s.Round] = s.cpuCall()
		}
	}
	for _, s := range samples {
		if b := base[s.Round]; s.Entry == both[1].name && s.Invalid == "" && b > 0 {
			list = append(list, s.cpuCall()/b)
		}
	}
	return list
}

// wafTable makes rows of cells, the first row being the titles.
func wafTable(samples []sample) [][]string {
	cells := [][]string{{"", "bytes sent", "nginx µs CPU/call", "Whygate µs CPU/call", "× nginx", "least", "most", "rounds"}}
	for i := range wafRows {
		row := &wafRows[i]
		line := []string{row.name, fmt.Sprint(len(row.content))}
		for _, e := range wafEntries(row) {
			cell := "–"
			if spent := values(samples, e.name, sample.cpuCall); len(spent) > 0 {
				cell = fmt.Sprintf("%.0f", median(spent))
			}
			line = append(line, cell)
		}
		list := wafRatios(samples, row)
		if len(list) == 0 {
			line = append(line, "–", "–", "–")
		} else {
			line = append(line, fmt.Sprintf("%.2f", median(list)), fmt.Sprintf("%.2f", slices.Min(list)), fmt.Sprintf("%.2f", slices.Max(list)))
		}
		cells = append(cells, append(line, fmt.Sprint(len(list))))
	}
	return cells
}
