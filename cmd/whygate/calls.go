package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/whygate/whygate/admin"
	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/consumer"
)

func (a *app) callsCommand() *cobra.Command {
	var asJSON, follow, refused bool
	text := map[string]*string{}
	var outcomes, flags []string
	var limit int
	c := &cobra.Command{
		Use:   "calls",
		Short: "List recorded calls",
		Long: `Lists recorded calls, the newest first. All conditions must hold. --reason takes a
code or the begin of codes: rate-limit.exceeded, "rate-limit.*".`,
		Example: "  whygate calls --refused --since 1h\n  whygate calls --refused --since 1h --api orders --reason rate-limit.exceeded\n  whygate calls --credential wg_8fK2mQ4z --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{}
			for name, v := range text {
				if *v != "" {
					query.Set(name, *v)
				}
			}
			if key := query.Get("credential"); len(key) != consumer.PrefixLength && !strings.HasPrefix(key, "sha256:") && key != "" {
				query.Set("credential", consumer.Fingerprint(key))
			}
			if refused {
				query.Set("refused", "true")
			}
			query["outcome"], query["flag"] = outcomes, flags
			query.Set("limit", strconv.Itoa(limit))
			if _, err := admin.ParseFilter(query, time.Now()); err != nil {
				return usage("--%v", err)
			}
			if follow {
				return a.followCalls(cmd.Context(), query, asJSON, a.callLine)
			}
			calls, err := a.listCalls(cmd.Context(), query)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(calls)
			}
			a.callTable(calls)
			return nil
		},
	}
	for _, f := range [][2]string{
		{"since", "only calls that began after this: a span before now (1h) or a time"},
		{"until", "only calls that began before this"},
		{"api", "only calls to this API"}, {"version", "only calls to this version"}, {"stage", "only calls to this stage"}, {"route", "only calls of this route"},
		{"application", "only calls of this application"}, {"credential", "only calls with this key: its public prefix, its fingerprint, or the key itself, which is not passed on"},
		{"reason", "only calls refused for this reason; a star at the end matches more"},
		{"status", "only calls with this status: 403, 4xx or 400-499"},
		{"client", "only calls from this address"}, {"path", "only calls whose path begins so"}, {"method", "only calls with this method"},
	} {
		text[f[0]] = c.Flags().String(f[0], "", f[1])
	}
	c.Flags().BoolVar(&refused, "refused", false, "only calls that were refused, by the gateway or the upstream, or failed")
	c.Flags().StringSliceVar(&outcomes, "outcome", nil, "only calls that ended so: allowed, relayed, refused, failed, answered")
	c.Flags().StringSliceVar(&flags, "flag", nil, "only calls with this mark: shadowed, hinted, retried, streamed, upgraded, client-gone, truncated, panicked, tls")
	c.Flags().IntVarP(&limit, "limit", "n", 50, "at most so many")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "show calls as they come")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	a.nodeFlags(c)
	return c
}

func (a *app) listCalls(ctx context.Context, query url.Values) ([]admin.Call, error) {
	cl, err := a.client()
	if err == nil {
		var calls []admin.Call
		if err = cl.do(ctx, "GET", "/v1/calls", query, nil, &calls); err == nil {
			return calls, nil
		}
	}
	if !errors.Is(err, errNoNode) {
		return nil, environment(err)
	}
	r, openErr := a.records()
	if openErr != nil {
		return nil, environment(err)
	}
	f, parseErr := admin.ParseFilter(query, time.Now())
	if parseErr != nil {
		return nil, usage("%v", parseErr)
	}
	calls := []admin.Call{}
	err = r.Query(ctx, f, func(rec *calllog.Record) bool {
		calls = append(calls, admin.CallOf(rec, true))
		return true
	})
	return calls, err
}

func (a *app) callTable(calls []admin.Call) {
	if len(calls) == 0 {
		fmt.Fprintln(a.out, "no such calls")
		return
	}
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "TIME\tSTATUS\tMETHOD\tPATH\tAPI\tCALLER\tCLIENT\tTOOK\tREASON\tCALL")
	for i := range calls {
		fmt.Fprintln(w, a.callRow(&calls[i], "\t"))
	}
	w.Flush()
}

func (a *app) callLine(c *admin.Call) { fmt.Fprintln(a.out, a.callRow(c, "  ")) }

func (a *app) callRow(c *admin.Call, sep string) string {
	orDash := func(s string) string {
		if s == "" {
			return "-"
		}
		return clean(s)
	}
	who := c.Application
	if who == "" {
		who = c.Credential
	}
	path := clean(c.Path)
	if len([]rune(path)) > 48 {
		path = string([]rune(path)[:47]) + "…"
	}
	why := c.Reason
	if c.Has("shadowed") && why == "" {
		why = "shadow"
		if c.Detail != nil && len(c.Detail.Shadows) > 0 {
			why += ":" + c.Detail.Shadows[0].Reason.Code
		}
	}
	row := ""
	for i, v := range []string{c.Start.UTC().Format("01-02 15:04:05"), strconv.Itoa(c.Status), orDash(c.Method), orDash(path), orDash(c.API), orDash(who), c.Client.String(),
		milliseconds(c.Duration), orDash(why), c.ID.String()} {
		if i > 0 {
			row += sep
		}
		row += v
	}
	return row
}
