package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
)

func (a *app) reasonsCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "reasons [CODE]",
		Short:   "List the reasons of refusals, or tell about one",
		Example: "  whygate reasons\n  whygate reasons rate-limit.exceeded",
		RunE: func(_ *cobra.Command, args []string) error {
			switch len(args) {
			case 0:
				return a.listReasons(asJSON)
			case 1:
			default:
				return usage("reasons takes one code")
			}
			r := reason.ByCode(args[0])
			if r == nil {
				var codes []string
				for _, r := range reason.All() {
					codes = append(codes, r.Code)
				}
				if n := resource.Nearest(args[0], codes); n != "" {
					return wrong("there is no reason %q; did you mean %s?", args[0], n)
				}
				return wrong("there is no reason %q; whygate reasons lists all", args[0])
			}
			p := gateway.About(r)
			if asJSON {
				return a.printJSON(p)
			}
			fmt.Fprintf(a.out, "%s   %d   %s\n", a.style.strong(p.Code), p.Status, p.Title)
			t := &teller{a: a}
			t.line("says", p.Says, "")
			t.fixes(p.Fixes)
			t.line("hint", p.Hint, "")
			return nil
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return begun(reasonCodes(), begin), cobra.ShellCompDirectiveNoFileComp
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (a *app) listReasons(asJSON bool) error {
	var pages []gateway.Page
	for _, r := range reason.All() {
		pages = append(pages, gateway.About(r))
	}
	if asJSON {
		return a.printJSON(pages)
	}
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	for _, p := range pages {
		fmt.Fprintf(w, "%s\t%d\t%s\n", p.Code, p.Status, p.Title)
	}
	return w.Flush()
}
