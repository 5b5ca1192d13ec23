package main

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/whygate/whygate/admin"
	"github.com/whygate/whygate/reason"
)

func (a *app) statusCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "status", Short: "Say how a node is", Example: "  whygate status", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return environment(err)
			}
			var st admin.Status
			if err := cl.do(cmd.Context(), "GET", "/v1/status", nil, nil, &st); err != nil {
				return environment(err)
			}
			if asJSON {
				return a.printJSON(st)
			}
			a.tellStatus(&st)
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	a.nodeFlags(c)
	return c
}

func (a *app) tellStatus(st *admin.Status) {
	s := a.style
	mark, state := s.good("✓"), "takes calls"
	if st.Draining {
		mark, state = s.warn("!"), "is draining"
	}
	fmt.Fprintf(a.out, "%s node %s %s, up %s, version %s\n", mark, s.strong(st.Node), state, reason.Span(time.Since(st.Started).Round(time.Second)), st.Version)
	t := &teller{a: a}
	for _, l := range st.Listeners {
		t.line("listens", l, "")
	}
	t.line("revision", fmt.Sprintf("%d, loaded %s, %s, %s", st.Revision, reason.Stamp(st.Loaded), plural(st.Routes, "route"), plural(st.Warnings, "warning")), "")
	if !st.Reload.OK {
		t.line("reload", s.bad("refused")+" at "+reason.Stamp(st.Reload.At)+"; the revision before stays. First problem: "+firstProblem(st.Reload), "")
	}
	t.line("consumers", fmt.Sprintf("%s, %s, %s", plural(st.Consumers.Applications, "application"), plural(st.Consumers.Credentials, "credential"), plural(st.Consumers.Subscriptions, "subscription")), "")
	t.line("calls", fmt.Sprintf("%d, %d of them refused or failed; %s open", st.Calls, st.Refused, plural(st.Conns, "connection")), "")
	if st.Panics > 0 {
		t.line("panics", s.bad(fmt.Sprint(st.Panics))+": see the log of the node", "")
	}
	for _, u := range st.Upstreams {
		for i, tg := range u.Targets {
			label := ""
			if i == 0 {
				label = "upstream"
			}
			text := fmt.Sprintf("%s %s is %s, %s, %d failed, %d in flight", u.Name, tg.Address, tg.State, plural(int(tg.Calls), "try"), tg.Failed, tg.InFlight)
			if tg.LastError != "" {
				text += "; last error: " + tg.LastError
			}
			t.line(label, text, "")
		}
		if u.BreakerOpen {
			t.line("", u.Name+": the breaker is open", "")
		}
	}
	if c := st.Counters; c != nil {
		text := fmt.Sprintf("%s answers, %s counted", c.Address, plural(int(c.Asked), "call"))
		if !c.Up {
			text = fmt.Sprintf("%s is %s since %s: %s", c.Address, s.bad("away"), reason.Stamp(c.Since), c.Error)
		}
		t.line("counters", text, "")
		if c.Without > 0 {
			t.line("", fmt.Sprintf("%s decided without them (%s)", plural(int(c.Without), "call"), c.WhenAway), "")
		}
	}
	a.tellRecords(t, st)
	t.line("memory", reason.Bytes(st.Memory).String(), "")
}

func (a *app) tellRecords(t *teller, st *admin.Status) {
	r := st.Records
	text := fmt.Sprintf("%d in %s, %v", r.Records, plural(r.Files, "file"), reason.Bytes(r.Bytes))
	if !r.Oldest.IsZero() {
		text += ", the oldest from " + reason.Stamp(r.Oldest)
	}
	t.line("records", text, "")
	if !r.Recording {
		t.line("", a.style.bad("not recording")+": "+r.LastError, "")
	}
	for _, cause := range slices.Sorted(maps.Keys(r.Dropped)) {
		if n := r.Dropped[cause]; n > 0 {
			t.line("", a.style.bad(fmt.Sprintf("%s dropped: %s", plural(int(n), "record"), cause)), "")
		}
	}
	for _, u := range r.Unreadable {
		t.line("", "unreadable file "+u.Name+": "+u.Why, "")
	}
}

func firstProblem(r admin.ReloadStatus) string {
	for _, p := range r.Problems {
		return p.String()
	}
	return "none"
}

func (a *app) reloadCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "reload", Short: "Make a node load its documents again", Example: "  whygate reload", Args: noArgs,
		Long: "Makes a node load its documents again, as it does by itself when a file changes and on SIGHUP. If anything is wrong the revision in use stays.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return environment(err)
			}
			var st admin.ReloadStatus
			if err := cl.do(cmd.Context(), "POST", "/v1/reload", nil, nil, &st); err != nil {
				return environment(err)
			}
			st.Problems.Render(a.out, nil, a.style.on)
			if !st.OK {
				return wrong("the documents have errors; the revision in use stays")
			}
			fmt.Fprintln(a.out, a.style.good("ok"))
			return nil
		},
	}
	a.nodeFlags(c)
	return c
}
