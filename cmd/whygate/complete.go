package main

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/whygate/whygate/admin"
	"github.com/whygate/whygate/reason"
)

// completer offers words for a place in a command line. A word may have an explanation behind a tab.
type completer = func(c *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective)

// words completes from a fixed list.
func words(list ...string) completer {
	return func(_ *cobra.Command, _ []string, begin string) ([]string, cobra.ShellCompDirective) {
		return begun(list, begin), cobra.ShellCompDirectiveNoFileComp
	}
}

func begun(list []string, begin string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(w string) bool { return !strings.HasPrefix(w, begin) })
}

// completeFlag panics when there is no such flag: that is a slip of ours.
func completeFlag(c *cobra.Command, flag string, f completer) {
	if err := c.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic("BUG: completing --" + flag + ": " + err.Error())
	}
}

// reasonCodes are all codes with their titles.
func reasonCodes() (list []string) {
	for _, r := range reason.All() {
		list = append(list, r.Code+"\t"+r.Title)
	}
	return list
}

// reasonPatterns are all codes and the stars that stand for several of them.
func reasonPatterns() []string {
	list := reasonCodes()
	for _, r := range reason.All() {
		family, _, _ := strings.Cut(r.Code, ".")
		list = append(list, family+".*\tall of "+family)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// recent asks for the newest calls, and gives up soon: nobody waits for a completion.
func (a *app) recent(c *cobra.Command, limit string, refused bool) []admin.Call {
	parent := c.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, time.Second)
	defer cancel()
	query := url.Values{"limit": {limit}}
	if refused {
		query.Set("refused", "true")
	}
	calls, _ := a.listCalls(ctx, query)
	return calls
}

// completeCall offers the ids of the newest refusals.
func (a *app) completeCall(c *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list := []string{"last\tthe newest call that was refused or failed"}
	for _, call := range a.recent(c, "20", true) {
		list = append(list, call.ID.String()+"\t"+clean(strings.Join(strings.Fields(call.Start.UTC().Format("15:04:05")+" "+call.Method+" "+cut(call.Path, 40)+" "+call.Reason), " ")))
	}
	return begun(list, begin), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// seenIn completes what the newest calls have had in a field.
func (a *app) seenIn(field func(*admin.Call) string) completer {
	return func(c *cobra.Command, _ []string, begin string) ([]string, cobra.ShellCompDirective) {
		var list []string
		for _, call := range a.recent(c, "1000", false) {
			if v := field(&call); v != "" && v == clean(v) && !slices.Contains(list, v) {
				list = append(list, v)
			}
		}
		slices.Sort(list)
		return begun(list, begin), cobra.ShellCompDirectiveNoFileComp
	}
}
