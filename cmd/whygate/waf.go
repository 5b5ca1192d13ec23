package main

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/whygate/whygate/admin"
	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
)

func (a *app) wafCommand() *cobra.Command {
	c := &cobra.Command{Use: "waf", Short: "Work on the exclusions of the policy waf", Example: "  whygate waf suggest last"}
	c.AddCommand(a.wafSuggestCommand())
	return c
}

func (a *app) wafSuggestCommand() *cobra.Command {
	var asJSON bool
	var since string
	c := &cobra.Command{
		Use:   "suggest ID",
		Short: "Print the narrowest exclusion that would have let a call pass",
		Long: `Prints the narrowest exclusion that would have let a recorded call pass the policy waf: as
few rules as possible, each at one place of one route. Then it goes through the other recorded
calls that the policy refused, or would have refused where it only watches, and lists those that would pass, too:
look whether an attack is among them. Only the record is read; nothing is changed.`,
		Example: "  whygate waf suggest 01KAM3H5Q8Z9YV7C2T4XW6B0RD\n  whygate waf suggest last --since 7d",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("suggest for which call? give its id (header Whygate-Call of the answer), or last")
			}
			if _, err := admin.ParseFilter(url.Values{"since": {since}}, time.Now()); err != nil {
				return usage("--%v", err)
			}
			call, err := a.findCall(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			s, err := a.suggest(cmd.Context(), call, since)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(s)
			}
			a.tellSuggestion(s)
			return nil
		},
	}
	c.ValidArgsFunction = a.completeCall
	c.Flags().StringVar(&since, "since", "24h", "go through the calls since this: a span before now or a time")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	a.nodeFlags(c)
	return c
}

// maxCompared bounds how many recorded calls a suggestion is compared with.
const maxCompared = 5000

// suggestion is the answer of `waf suggest`.
type suggestion struct {
	Call      *admin.Call    `json:"call"`
	Score     int            `json:"score"`
	Threshold int            `json:"threshold"`
	Matches   []string       `json:"matches"`
	At        *reason.Source `json:"at,omitempty"`
	// Exclusions in the form of the policy's setting, and what remains of the score with them.
	Exclusions []string `json:"exclusions"`
	Remaining  int      `json:"remaining"`
	// Compared is how many other calls were gone through; Passing are those that would pass.
	Compared int          `json:"compared"`
	Passing  []passingToo `json:"passing"`

	matches []policy.WAFMatch
}

type passingToo struct {
	Call *admin.Call `json:"call"`
	Why  string      `json:"why"`
}

// wafRefusal is the verdict of the policy waf in a record, also of one that only watched.
func wafRefusal(c *admin.Call) (v *reason.Verdict, at *reason.Source) {
	d := c.Detail
	if d == nil {
		return nil, nil
	}
	is := func(v *reason.Verdict) bool {
		return v.Reason != nil && (v.Reason.Code == "waf.blocked" || v.Reason.Code == "waf.response")
	}
	if d.Verdict != nil && is(d.Verdict) {
		return d.Verdict, d.From
	}
	for _, list := range []reason.Trail{d.Shadows, d.Next} {
		for i := range list {
			if is(&list[i].Verdict) {
				return &list[i].Verdict, list[i].From
			}
		}
	}
	return nil, nil
}

// wafFacts are the facts of a refusal that a suggestion rests on.
func wafFacts(v *reason.Verdict) (matches []policy.WAFMatch, lines []string, score, threshold int, whole bool) {
	number := func(name string) int {
		f, _ := v.Facts.Find(name, reason.ToOperator)
		n, _ := f.Value.(int64)
		return int(n)
	}
	f, _ := v.Facts.Find("matches", reason.ToOperator)
	lines, _ = f.Value.([]string)
	for _, l := range lines {
		if m, ok := policy.ParseWAFMatch(l); ok {
			matches = append(matches, m)
		}
	}
	return matches, lines, number("score"), number("threshold"), number("more") == 0 && number("denied_by") == 0
}

func (a *app) suggest(ctx context.Context, call *admin.Call, since string) (*suggestion, error) {
	v, at := wafRefusal(call)
	if v == nil {
		return nil, wrong("call %s was not refused by the policy waf; whygate why %s tells what became of it", call.ID, call.ID)
	}
	s := &suggestion{Call: call, At: at}
	var whole bool
	s.matches, s.Matches, s.Score, s.Threshold, whole = wafFacts(v)
	set := policy.SuggestWAF(s.matches, s.Score, int64(s.Threshold), call.Route)
	if !whole || set == nil {
		return nil, wrong("no exclusion of single places would have let call %s pass: too many rules matched, or a rule of the directives refused it", call.ID)
	}
	for i := range set {
		s.Exclusions = append(s.Exclusions, set[i].YAML())
	}
	s.Remaining = policy.RemainingWAF(s.matches, s.Score, call.Route, set)
	seen := map[calllog.ID]bool{call.ID: true}
	for _, query := range []url.Values{{"reason": {"waf.*"}}, {"flag": {"shadowed"}}} {
		query.Set("api", call.API)
		query.Set("since", since)
		query.Set("limit", strconv.Itoa(maxCompared))
		calls, err := a.listCalls(ctx, query)
		if err != nil {
			return nil, err
		}
		for i := range calls {
			if seen[calls[i].ID] {
				continue
			}
			seen[calls[i].ID] = true
			s.compare(&calls[i], v.Reason.Code, set)
		}
	}
	slices.SortStableFunc(s.Passing, func(a, b passingToo) int { return b.Call.Start.Compare(a.Call.Start) })
	return s, nil
}

// compare looks whether another call would pass with the exclusions.
func (s *suggestion) compare(c *admin.Call, code string, set []policy.WAFExclusion) {
	v, _ := wafRefusal(c)
	if v == nil || v.Reason.Code != code {
		return
	}
	s.Compared++
	matches, _, score, threshold, whole := wafFacts(v)
	if !whole || policy.RemainingWAF(matches, score, c.Route, set) >= threshold {
		return
	}
	why, _ := v.Facts.Find("why", reason.ToOperator)
	text, _ := why.Value.(string)
	s.Passing = append(s.Passing, passingToo{c, text})
}

func (a *app) tellSuggestion(s *suggestion) {
	c := s.Call
	a.tellHead(a.style.bad("✗"), fmt.Sprintf("%s %s", c.Method, c.Path), fmt.Sprintf("score %d, from %d on calls are refused", s.Score, s.Threshold))
	t := &teller{a: a}
	for i := range s.matches {
		m := &s.matches[i]
		t.line("rule", fmt.Sprintf("%d +%d %s: %s", m.Rule, m.Score, m.Place(), m.Message), "")
	}
	fmt.Fprintf(a.out, "\nWith this in the policy waf, the call would score %d and pass:\n", s.Remaining)
	fmt.Fprintln(a.out, "  exclusions:")
	for _, e := range s.Exclusions {
		fmt.Fprintln(a.out, "  - "+clean(e))
	}
	if at := s.At.String(); at != "" {
		fmt.Fprintf(a.out, "The policy is written in %s.\n", at)
	}
	fmt.Fprintln(a.out)
	switch {
	case s.Compared == 0:
		fmt.Fprintln(a.out, "No other recorded call was refused by the policy.")
	case len(s.Passing) == 0:
		fmt.Fprintf(a.out, "Of %d other recorded calls that the policy refused, none would pass.\n", s.Compared)
	default:
		fmt.Fprintf(a.out, "Of %d other recorded calls that the policy refused, %d would pass, too. Is an attack among them?\n", s.Compared, len(s.Passing))
	}
	for i, p := range s.Passing {
		if i == 20 {
			fmt.Fprintf(a.out, "  and %d more\n", len(s.Passing)-i)
			break
		}
		fmt.Fprintf(a.out, "  %s  %s  %s  %s %s\n", p.Call.ID, p.Call.Start.UTC().Format("2006-01-02 15:04:05"), p.Call.Client, clean(p.Call.Method), clean(p.Call.Path))
		fmt.Fprintf(a.out, "    %s\n", clean(p.Why))
	}
}
