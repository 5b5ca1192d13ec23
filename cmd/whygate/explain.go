package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
)

func (a *app) explainCommand() *cobra.Command {
	var live, asJSON bool
	var headers []string
	var data, from, at, as string
	c := &cobra.Command{
		Use:   "explain FILE|DIR… METHOD URL",
		Short: "Say what would become of a call, check by check",
		Long: `Runs every check on a call that is never made: all obstacles, not only the first;
near misses; the smallest change that would make it pass, and who can make it.
Counters are peeked at, never spent; the upstream is not called. Offline the
documents count, with empty counters; with --live the documents and counters of a
running node. --as NAME has an application call with a credential of its own, which
need not be known. The exit code is 0 when the call would pass and 1 when not.`,
		Example: `  whygate explain examples/shop GET http://localhost/prod/orders -H 'X-Api-Key: KEY'
  whygate explain --live POST /prod/orders -H 'X-Api-Key: KEY' -d @order.json --from 203.0.113.7
  whygate explain --live POST /prod/orders --as acme-shop`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if n := len(args); n < 2 || !live && n < 3 {
				return usage("explain wants %sa method and a URL", map[bool]string{true: "", false: "documents, "}[live])
			}
			q, err := question(args[len(args)-2], args[len(args)-1], headers, data, from, at)
			if err != nil {
				return err
			}
			q.As = as
			var e *gateway.Explanation
			if live {
				cl, err := a.client()
				if err == nil {
					err = cl.do(cmd.Context(), "POST", "/v1/explain", nil, q, &e)
				}
				if err != nil {
					return environment(err)
				}
			} else {
				snap, set, problems := compileOffline(args[:len(args)-2])
				if problems.HasErrors() {
					problems.Render(a.err, set.Sources(), a.styleFor(a.err).on)
					return wrong("the documents have errors")
				}
				if e, err = gateway.Explain(snap, q); err != nil {
					return usage("%v", err)
				}
			}
			if asJSON {
				if err := a.printJSON(e); err != nil {
					return err
				}
			} else {
				a.tellExplanation(e)
			}
			if !e.Passes {
				return &exitError{code: exitWrong}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&live, "live", false, "ask a running node")
	c.Flags().StringArrayVarP(&headers, "header", "H", nil, `a header of the call: "Name: value"`)
	c.Flags().StringVarP(&data, "body", "d", "", "content of the call, or @FILE")
	c.Flags().StringVar(&from, "from", "", "address that the connection comes from (default 127.0.0.1)")
	c.Flags().StringVar(&at, "at", "", "when the call is made (default now)")
	c.Flags().StringVar(&as, "as", "", "the application that calls, without its credential")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	a.nodeFlags(c)
	return c
}

// maxContent is how much of a body is explained; of a longer one only the size counts.
const maxContent = 8 << 20

func question(method, url string, headers []string, data, from, at string) (q gateway.Question, err error) {
	q.Method, q.URL = strings.ToUpper(method), url
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return q, usage("-H %q has no colon: \"Name: value\"", h)
		}
		q.Header = append(q.Header, [2]string{strings.TrimSpace(name), strings.TrimSpace(value)})
	}
	if file, ok := strings.CutPrefix(data, "@"); ok {
		info, err := os.Stat(file)
		if err != nil {
			return q, usage("-d: %v", err)
		}
		if q.Body = info.Size(); q.Body <= maxContent {
			if q.Content, err = os.ReadFile(file); err != nil {
				return q, usage("-d: %v", err)
			}
			q.Body = int64(len(q.Content))
		}
	} else {
		q.Body, q.Content = int64(len(data)), []byte(data)
	}
	if from != "" {
		if q.From, err = netip.ParseAddr(from); err != nil {
			return q, usage("--from %q is no address", from)
		}
	}
	if at != "" {
		var t resource.Time
		if err := t.UnmarshalText([]byte(at)); err != nil {
			return q, usage("--at %q is no time, such as 2026-11-22T09:40:00Z", at)
		}
		q.At = t.Time
	}
	return q, nil
}

// tellExplanation prints the trail, the obstacles and the ways out.
func (a *app) tellExplanation(e *gateway.Explanation) {
	s := a.style
	if e.Passes {
		a.tellHead(s.good("✓"), e.Method+" "+e.URL, "would pass")
	} else {
		a.tellHead(s.bad("✗"), e.Method+" "+e.URL, fmt.Sprintf("would be refused with %d, %s", e.Status, plural(e.Obstacles, "obstacle")))
	}
	t := &teller{a: a}
	if r := e.Route; r != nil {
		name := "API " + r.API
		for _, p := range [][2]string{{"version", r.Version}, {"stage", r.Stage}, {"route", r.Name}} {
			if p[1] != "" {
				name += " " + p[0] + " " + p[1]
			}
		}
		t.line("route", name+" ("+r.Path+")", r.Source.String())
	}
	if len(e.Also) > 0 {
		t.line("also", "less specific routes that would serve it: "+strings.Join(e.Also, ", "), "")
	}
	for _, h := range e.Hops {
		text := h.Address + " — " + h.From
		if h.Why != "" {
			text += ", " + h.Why
		}
		if h.Chosen {
			t.line("client", text, "")
		} else {
			t.line("hop", text, "")
		}
	}
	if e.Caller != "" {
		who := "application " + e.Caller
		if e.Plan != "" {
			who += ", plan " + e.Plan
		}
		t.line("caller", who, "")
	}
	fmt.Fprintln(a.out)
	for _, entry := range e.Trail {
		a.tellEntry(entry)
	}
	fmt.Fprintln(a.out)
	if v := e.Verdict; v != nil && len(e.Ways) == 0 {
		t.fixes(v.Tell(reason.ToOperator).Fixes)
	}
	for i, w := range e.Ways {
		label := "to pass"
		if i > 0 {
			label = "or"
		}
		for j, f := range w.Changes {
			text := f.Text
			if j > 0 {
				text, label = "and "+text, ""
			}
			t.put(label, text, whoCan(f))
		}
		if !w.Complete {
			t.put("", "(what "+strings.Join(w.Open, ", ")+" would say then is not known yet)", "")
		}
	}
	if e.Forward != "" {
		t.line("forward", e.Forward, "")
	}
	if e.Revision > 0 {
		t.line("revision", fmt.Sprintf("%d · at %s", e.Revision, reason.Stamp(e.At)), "")
	} else {
		t.line("asked", "offline, for "+reason.Stamp(e.At), "")
	}
}

// tellEntry is one check of the trail with its facts.
func (a *app) tellEntry(e reason.Entry) {
	s := a.style
	mark := map[reason.Outcome]string{reason.Passed: s.good("✓"), reason.Denied: s.bad("✗"), reason.Shadow: s.warn("~"), reason.Skipped: s.soft("-"), reason.Unknown: s.soft("?")}[e.Outcome]
	text := ""
	switch e.Outcome {
	case reason.Denied, reason.Shadow:
		told := e.Tell(reason.ToOperator)
		text = told.Code + ": " + told.Says
		enforced, some := e.Facts.Find("enforced", reason.ToOperator)
		switch {
		case some:
			text = "(enforced for " + enforced.Text() + ") " + text
		case e.Outcome == reason.Shadow:
			text = "(only watches) " + text
		}
	case reason.Unknown:
		if text = "cannot be told without knowing the caller, or the body"; len(e.Facts) > 0 {
			text = "cannot be told without making the call: " + factsText(e.Facts)
		}
	default:
		text = factsText(e.Facts)
	}
	right := e.From.String()
	for _, f := range e.Facts {
		if right == "" { // of a limit that a plan sets
			right = f.From.String()
		}
	}
	indent := 24
	if s.terminal && s.width < 100 {
		indent = 21
	}
	for i, l := range s.columns(indent, text, right) {
		name := strings.Repeat(" ", indent)
		if i == 0 {
			name = fmt.Sprintf("  %s %-*s", mark, indent-4, e.Check)
		}
		fmt.Fprintln(a.out, strings.TrimRight(name+l, " "))
	}
}

func factsText(facts reason.Facts) string {
	if text := usedText(facts); text != "" {
		if c, ok := facts.Find("counter", reason.ToOperator); ok {
			text += ", counted by " + c.Text()
		}
		return text
	}
	var parts []string
	for _, f := range facts {
		if f.Name == "hops" {
			continue
		}
		parts = append(parts, strings.ReplaceAll(f.Name, "_", " ")+" "+f.Text())
	}
	return strings.Join(parts, ", ")
}
