package main

import (
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/whygate/whygate/admin"
)

func (a *app) cacheCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "cache", Short: "Take answers out of the cache of a node", Args: cobra.NoArgs,
		Long: "Takes answers out of what the policy cache keeps on a node.",
	}
	c.AddCommand(a.cachePurgeCommand())
	return c
}

func (a *app) cachePurgeCommand() *cobra.Command {
	var api, host string
	var all bool
	c := &cobra.Command{
		Use: "purge [PATH]", Short: "Take the answers for a path out of the cache",
		Example: "  whygate cache purge /orders/7\n  whygate cache purge '/orders/*' --host shop.test\n  whygate cache purge --api orders\n  whygate cache purge --all",
		Long: `Takes answers out of the cache of a node: those for a path as clients call it, whatever
the query, or with a star at its end for all paths that begin so. What is being fetched
meanwhile is not kept. Each node has a cache of its own.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{}
			if len(args) > 0 {
				if args[0] == "" || args[0][0] != '/' {
					return usage("%q is no path: it begins with /", args[0])
				}
				q.Set("path", args[0])
			}
			if api != "" {
				q.Set("api", api)
			}
			if host != "" {
				q.Set("host", host)
			}
			if all == (len(q) > 0) {
				return usage("purge what? name a path, --api or --host, or say --all")
			}
			cl, err := a.client()
			if err != nil {
				return environment(err)
			}
			var done admin.Purged
			if err := cl.do(cmd.Context(), "POST", "/v1/cache/purge", q, nil, &done); err != nil {
				return environment(err)
			}
			answers := "answers"
			if done.Answers == 1 {
				answers = "answer"
			}
			fmt.Fprintln(a.out, a.style.good("ok"), done.Answers, answers, "taken out")
			return nil
		},
	}
	c.Flags().StringVar(&api, "api", "", "name of an API: only its answers")
	c.Flags().StringVar(&host, "host", "", "host as clients write it, without the port: only answers for that")
	c.Flags().BoolVar(&all, "all", false, "all answers")
	a.nodeFlags(c)
	return c
}
