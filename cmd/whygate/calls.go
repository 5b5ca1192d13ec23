package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/whygate/whygate/admin"
	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
)

func (a *app) callsCommand() *cobra.Command {
	var asJSON, follow, refused, callers bool
	text := map[string]*string{}
	var outcomes, flags []string
	var limit int
	c := &cobra.Command{
		Use:   "calls",
		Short: "List recorded calls",
		Long: `Lists recorded calls, the newest first. All conditions must hold. --reason takes a
code or the begin of codes: rate-limit.exceeded, "rate-limit.*".

With --callers the calls of each caller are counted for each reason instead: with --flag shadowed, that
is who would be refused if the policies that only watch were enforced.`,
		Example: "  whygate calls --refused --since 1h\n  whygate calls --refused --since 1h --api orders --reason rate-limit.exceeded\n  whygate calls --flag shadowed --since 24h --callers\n  whygate calls --credential wg_8fK2mQ4z --json",
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
			if callers && follow {
				return usage("--callers counts what was recorded, and --follow shows what comes: use one of them")
			}
			if callers && !cmd.Flags().Changed("limit") {
				limit = admin.MaxCalls
			}
			query.Set("limit", strconv.Itoa(limit))
			filter, err := admin.ParseFilter(query, time.Now())
			if err != nil {
				return usage("--%v", err)
			}
			if follow {
				return a.followCalls(cmd.Context(), query, asJSON, a.followTable())
			}
			calls, err := a.listCalls(cmd.Context(), query)
			if err != nil {
				return err
			}
			switch {
			case callers && asJSON:
				return a.printJSON(countCallers(calls))
			case callers:
				a.callerTable(countCallers(calls), len(calls), limit)
			case asJSON:
				return a.printJSON(calls)
			default:
				a.callTable(calls)
			}
			if !asJSON {
				a.tellKept(cmd.Context(), filter.Since)
			}
			if len(calls) == 0 && !asJSON {
				for _, line := range a.misspelt(cmd, query) {
					fmt.Fprintln(a.out, line)
				}
			}
			return nil
		},
	}
	for _, f := range [][2]string{
		{"since", "only calls that began after this: a span before now (1h) or a time"},
		{"until", "only calls that began before this"},
		{"before", "only calls recorded before this one, by its id: the last of a page leads to the next"},
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
	c.Flags().BoolVar(&callers, "callers", false, "count the calls of each caller for each reason, of the newest 10000 unless --limit says otherwise")
	c.Flags().IntVarP(&limit, "limit", "n", 50, "at most so many, up to 10000")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "show calls as they come")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	a.nodeFlags(c)
	completeFlag(c, "reason", words(reasonPatterns()...))
	completeFlag(c, "outcome", words("allowed", "relayed", "refused", "failed", "answered"))
	completeFlag(c, "flag", words("shadowed", "hinted", "retried", "streamed", "upgraded", "client-gone", "truncated", "panicked", "tls"))
	completeFlag(c, "status", words("2xx", "3xx", "4xx", "5xx", "401", "403", "404", "429", "502", "503", "504"))
	completeFlag(c, "method", words("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
	for name, field := range namedIn {
		completeFlag(c, name, a.seenIn(field))
	}
	completeFlag(c, "credential", a.seenIn(func(c *admin.Call) string { return c.Credential }))
	completeFlag(c, "client", a.seenIn(func(c *admin.Call) string { return c.Client.String() }))
	completeFlag(c, "path", a.seenIn(func(c *admin.Call) string { return c.Path }))
	return c
}

// tellKept says so when calls are asked for that are older than records are kept: that there are none says nothing of
// what happened then.
func (a *app) tellKept(ctx context.Context, since time.Time) {
	if since.IsZero() {
		return
	}
	cl, err := a.client()
	var st admin.Status
	if err != nil || cl.do(ctx, "GET", "/v1/status", nil, nil, &st) != nil || st.KeepFor == 0 || time.Since(since) <= time.Duration(st.KeepFor) {
		return
	}
	fmt.Fprintf(a.err, "records are kept for %v (records.keepFor of the Gateway): older calls are gone\n", st.KeepFor)
}

// namedIn are the fields of a call that name something of the documents.
var namedIn = map[string]func(*admin.Call) string{
	"api": func(c *admin.Call) string { return c.API }, "version": func(c *admin.Call) string { return c.Version },
	"stage": func(c *admin.Call) string { return c.Stage }, "route": func(c *admin.Call) string { return c.Route },
	"application": func(c *admin.Call) string { return c.Application },
}

// misspelt says which names of a query that found nothing are near to one that there is: in the newest
// calls or, of reasons, at all.
func (a *app) misspelt(c *cobra.Command, query url.Values) (list []string) {
	var calls []admin.Call
	for _, name := range slices.Sorted(maps.Keys(query)) {
		field, value := namedIn[name], query.Get(name)
		var known []string
		switch {
		case name == "reason" && reason.ByCode(value) == nil && !strings.Contains(value, "*") && !strings.Contains(value, ":"):
			for _, r := range reason.All() {
				known = append(known, r.Code)
			}
		case field != nil:
			if calls == nil {
				calls = a.recent(c, "1000", false)
			}
			for i := range calls {
				known = append(known, field(&calls[i]))
			}
		}
		if near := resource.Nearest(value, known); near != "" && near != value && !slices.Contains(known, value) {
			list = append(list, fmt.Sprintf("--%s %s: did you mean %s?", name, value, near))
		}
	}
	return list
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
	if errors.Is(err, calllog.ErrNoRecord) {
		err = environment(admin.NoRecord(f.Before))
	}
	return calls, err
}

func (a *app) callTable(calls []admin.Call) {
	if len(calls) == 0 {
		fmt.Fprintln(a.out, "no such calls")
		return
	}
	t := newCallTable(a.style, calls)
	fmt.Fprintln(a.out, t.header())
	for i := range calls {
		fmt.Fprintln(a.out, t.line(&calls[i]))
	}
}

// callTable prints calls in columns. On a terminal they fit its width: what matters least is left out, what
// is long is cut. Elsewhere everything is there.
type callTable struct {
	style   style
	columns []callColumn
}

type callColumn struct {
	name  string
	value func(*admin.Call) string
	width int
	least int // the column may be cut down to this; 0 for never
	rank  int // the highest are left out first; 0 for never
}

func callColumns(today bool) []callColumn {
	stamp := "01-02 15:04:05"
	if today {
		stamp = "15:04:05"
	}
	return []callColumn{
		{name: "UTC", value: func(c *admin.Call) string { return c.Start.UTC().Format(stamp) }},
		{name: "STATUS", value: func(c *admin.Call) string { return strconv.Itoa(c.Status) }},
		{name: "METHOD", value: func(c *admin.Call) string { return c.Method }, rank: 2},
		{name: "PATH", value: func(c *admin.Call) string { return cut(clean(c.Path), 48) }, least: 14},
		{name: "API", value: func(c *admin.Call) string { return c.API }, rank: 3, least: 10},
		{name: "CALLER", value: callerOf, rank: 1, least: 11},
		{name: "CLIENT", value: func(c *admin.Call) string { return c.Client.String() }, rank: 4},
		{name: "TOOK", value: func(c *admin.Call) string { return milliseconds(c.Duration) }, rank: 5},
		{name: "REASON", value: whyOf, least: 14},
		{name: "CALL", value: func(c *admin.Call) string { return c.ID.String() }},
	}
}

// callerCount is how many calls of one caller had one reason.
type callerCount struct {
	Caller string `json:"caller"`
	Reason string `json:"reason,omitempty"`
	// Watched says that the calls passed, and a policy that only watches would have refused them.
	Watched bool      `json:"watched,omitempty"`
	Calls   int       `json:"calls"`
	Newest  time.Time `json:"newest"`
	ID      string    `json:"call"` // of the newest, for whygate why
}

// countCallers counts calls, the newest of which comes first. A call that several policies would have refused counts for
// each of them.
func countCallers(calls []admin.Call) []callerCount {
	counts := []callerCount{}
	at := map[callerCount]int{}
	for i := range calls {
		c := &calls[i]
		key := callerCount{Caller: cmp.Or(callerOf(c), c.Client.String())}
		var keys []callerCount
		if c.Reason != "" || !c.Has("shadowed") || c.Detail == nil {
			keys = append(keys, callerCount{Caller: key.Caller, Reason: c.Reason})
		}
		if c.Detail != nil {
			for _, s := range c.Detail.Shadows {
				keys = append(keys, callerCount{Caller: key.Caller, Reason: s.Reason.Code, Watched: true})
			}
		}
		for _, k := range keys {
			n, ok := at[k]
			if !ok {
				n = len(counts)
				at[k] = n
				counts = append(counts, k)
				counts[n].Newest, counts[n].ID = c.Start, c.ID.String()
			}
			counts[n].Calls++
		}
	}
	slices.SortStableFunc(counts, func(a, b callerCount) int { return b.Calls - a.Calls })
	return counts
}

func (a *app) callerTable(counts []callerCount, calls, limit int) {
	if len(counts) == 0 {
		fmt.Fprintln(a.out, "no such calls")
		return
	}
	width, reasons := len("CALLER"), len("REASON")
	why := func(c *callerCount) string {
		if c.Watched {
			return "shadow:" + c.Reason
		}
		return orDash(c.Reason)
	}
	for i := range counts {
		width, reasons = max(width, utf8.RuneCountInString(clean(counts[i].Caller))), max(reasons, len(why(&counts[i])))
	}
	fmt.Fprintln(a.out, a.style.soft(fmt.Sprintf("%6s  %-*s  %-*s  %-26s  %s", "CALLS", width, "CALLER", reasons, "REASON", "NEWEST CALL", "UTC")))
	for i := range counts {
		c := &counts[i]
		fmt.Fprintf(a.out, "%6d  %-*s  %-*s  %s  %s\n", c.Calls, width, clean(c.Caller), reasons, why(c), c.ID, c.Newest.UTC().Format("01-02 15:04:05"))
	}
	if calls == limit {
		fmt.Fprintf(a.out, "of the newest %d calls; --since and --until look at others\n", limit)
	}
}

// callerOf is the application, the credential that was refused, or the subject where the record tells it.
func callerOf(c *admin.Call) string {
	if c.Application == "" && c.Credential == "" && c.Detail != nil && c.Detail.Identity != nil {
		return c.Detail.Identity.Subject
	}
	return cmp.Or(c.Application, c.Credential)
}

func whyOf(c *admin.Call) string {
	if c.Reason == "" && c.Has("shadowed") {
		if c.Detail != nil && len(c.Detail.Shadows) > 0 {
			return "shadow:" + c.Detail.Shadows[0].Reason.Code
		}
		return "shadow"
	}
	return c.Reason
}

// newCallTable makes columns as wide as these calls need, as far as the terminal has room.
func newCallTable(s style, calls []admin.Call) *callTable {
	now := time.Now().UTC().Format(time.DateOnly)
	today := s.terminal
	for i := range calls {
		today = today && calls[i].Start.UTC().Format(time.DateOnly) == now
	}
	t := &callTable{s, callColumns(today)}
	for i := range t.columns {
		col := &t.columns[i]
		col.width = len(col.name)
		for j := range calls {
			col.width = max(col.width, utf8.RuneCountInString(orDash(col.value(&calls[j]))))
		}
	}
	t.fit()
	return t
}

// fit makes the table as narrow as the terminal.
func (t *callTable) fit() {
	if !t.style.terminal {
		return
	}
	for t.over() > 0 {
		worst, room := -1, 0
		for i, c := range t.columns {
			room += max(c.width-max(c.least, len(c.name)), 0) * min(c.least, 1)
			if c.rank > 0 && (worst < 0 || c.rank > t.columns[worst].rank) {
				worst = i
			}
		}
		if t.over() <= room || worst < 0 {
			break
		}
		t.columns = slices.Delete(t.columns, worst, worst+1)
	}
	for _, name := range []string{"PATH", "API", "CALLER", "REASON"} {
		i := slices.IndexFunc(t.columns, func(c callColumn) bool { return c.name == name })
		if over := t.over(); over > 0 && i >= 0 {
			c := &t.columns[i]
			c.width = max(c.width-over, min(c.width, c.least))
		}
	}
}

// over is how many columns of the terminal are missing.
func (t *callTable) over() int {
	n := -2
	for _, c := range t.columns {
		n += c.width + 2
	}
	return n - t.style.width
}

func (t *callTable) header() string {
	return t.style.soft(t.row(func(c *callColumn) string { return c.name }))
}

func (t *callTable) line(call *admin.Call) string {
	row := t.row(func(c *callColumn) string { return clean(orDash(c.value(call))) })
	switch {
	case call.Status >= 500:
		return t.style.paint("31", row)
	case call.Status >= 400:
		return t.style.paint("33", row)
	}
	return row
}

func (t *callTable) row(value func(*callColumn) string) string {
	var b strings.Builder
	for i := range t.columns {
		c := &t.columns[i]
		v := cut(value(c), c.width)
		b.WriteString(v)
		if i < len(t.columns)-1 {
			b.WriteString(strings.Repeat(" ", c.width-utf8.RuneCountInString(v)+2))
		}
	}
	return b.String()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// cut shortens a text to n runes.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// followTable shows calls as they come: nobody knows how wide they will be.
func (a *app) followTable() func(*admin.Call) {
	t := &callTable{a.style, callColumns(a.style.terminal)}
	for i, width := range []int{len("01-02 15:04:05"), 6, 7, 32, 12, 14, 15, 8, 26, 26} {
		t.columns[i].width = width
	}
	if a.style.terminal {
		t.columns[0].width = len("15:04:05")
	}
	t.fit()
	first := true
	return func(c *admin.Call) {
		if first && a.style.terminal {
			fmt.Fprintln(a.out, t.header())
		}
		first = false
		fmt.Fprintln(a.out, t.line(c))
	}
}
