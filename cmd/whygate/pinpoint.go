package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/whygate/whygate/pinpoint"
	"github.com/whygate/whygate/pinpoint/diagnose"
	"github.com/whygate/whygate/pinpoint/input"
	"github.com/whygate/whygate/pinpoint/machine"
	"github.com/whygate/whygate/pinpoint/replay"
	"github.com/whygate/whygate/pinpoint/report"
	"github.com/whygate/whygate/pinpoint/waf"
	"github.com/whygate/whygate/resource"
)

// pinpointFlags are the flags of the command; everything else on its line is curl's.
type pinpointFlags struct {
	curl, har, postman, environment, raw, log, url      string
	entry                                               int
	item                                                string
	allowFiles, unsafeGET, swap                         []string
	onServer, plan, offline, bisect, probe, sideEffects bool
	serverConfig                                        []string
	noProbeHeader, asJSON, quiet                        bool
	html, share                                         string
	requests, strikes, status                           int
	pace, maxWait                                       time.Duration
	name, from, origin                                  string
	root                                                string
}

func (a *app) pinpointCommand() *cobra.Command {
	f := &pinpointFlags{}
	c := &cobra.Command{
		Use:   "pinpoint URL [options of curl] | --curl COMMAND | --har FILE | --postman FILE | --raw FILE | --log LINE",
		Short: "Find who refused a request, and why, on any server",
		Long: `Finds out who refused a request (which hop, which product) and why, from what you
have: a URL with the options of curl, a copied command, a recording, a Postman
collection, a raw message or a line of a log. A file named - is the
standard input.

Reading comes first and sends nothing. Then a few requests are sent to the named
server, and to no other: GET, HEAD and OPTIONS by default. --probe allows requests
that cannot succeed (to a path that does not exist, without the credential),
--yes-side-effects those that may have an effect. --plan shows them and sends
nothing. Secrets are replaced as they are read; they go to the named server and
nowhere else.

With --on-server this machine is the server: its configurations, logs and
permissions are read, and nothing is changed. With --server-config a
configuration is evaluated that you hand in: of nginx, Apache httpd, HAProxy,
lighttpd, Caddy or IIS, also one that was copied from another machine.

The exit code is the outcome: 0 proved, 4 likely, 5 unknown, 6 not reproduced,
7 input incomplete, 8 refused by the rules of safety (whygate exit-codes).`,
		Example: `  whygate pinpoint https://shop.test/orders -H 'Authorization: Bearer …'
  whygate pinpoint --curl "$(pbpaste)" --plan
  whygate pinpoint --har session.har --html report.html
  whygate pinpoint http://shop.test/private/a.html --on-server
  whygate pinpoint --raw refused.txt --offline --server-config web.config`,
		DisableFlagParsing: true,
	}
	fs := c.Flags()
	fs.StringVar(&f.curl, "curl", "", "a command as browsers copy it: curl for bash or cmd, PowerShell, fetch")
	fs.StringVar(&f.har, "har", "", "a recording of a browser (HAR)")
	fs.IntVar(&f.entry, "entry", -1, "which entry of the recording, where several were refused")
	fs.StringVar(&f.postman, "postman", "", "a Postman collection")
	fs.StringVar(&f.item, "item", "", "the request of the collection, or of a file of .http requests")
	fs.StringVar(&f.environment, "environment", "", "the environment file of the collection")
	fs.StringVar(&f.raw, "raw", "", "a file with a request as text, perhaps with its answer; also what curl -v printed")
	fs.StringVar(&f.log, "log", "", "a line of an access log (combined, JSON, HAProxy, Envoy, IIS, CloudFront, ALB), or of an error log")
	fs.StringVar(&f.url, "url", "", "the URL that a line of a log is about")
	fs.IntVar(&f.status, "status", 0, "the status that the request was refused with, where the answer was not kept")
	fs.StringSliceVar(&f.allowFiles, "allow-file", nil, "a file that the input may read with @")
	fs.StringArrayVar(&f.swap, "swap", nil, "a header field of another identity to try: 'Authorization: Bearer …'")
	fs.BoolVar(&f.onServer, "on-server", false, "this machine is the server: read its configurations, logs and permissions")
	fs.StringArrayVar(&f.serverConfig, "server-config", nil, "a configuration of the server, from this or another machine: web.config, nginx=FILE; several from the client on")
	fs.StringVar(&f.root, "root", "", "where the server's files are mounted, with --on-server")
	fs.BoolVar(&f.plan, "plan", false, "show what would be sent and why; send nothing")
	fs.BoolVar(&f.offline, "offline", false, "send nothing")
	fs.BoolVar(&f.bisect, "bisect", false, "find which part of the request the firewall dislikes; implies --probe")
	fs.BoolVar(&f.probe, "probe", false, "allow requests with unsafe methods that cannot succeed")
	fs.BoolVar(&f.sideEffects, "yes-side-effects", false, "allow requests that may have an effect")
	fs.BoolVar(&f.noProbeHeader, "no-probe-header", false, "leave X-Whygate-Probe out of such requests")
	fs.StringSliceVar(&f.unsafeGET, "unsafe-get", nil, "a path whose GET has an effect")
	fs.IntVar(&f.requests, "requests", 24, "how many requests may be sent")
	fs.IntVar(&f.strikes, "strikes", 20, "how many refusals may be provoked")
	fs.DurationVar(&f.pace, "pace", time.Second, "between two requests")
	fs.DurationVar(&f.maxWait, "wait", 10*time.Second, "how long to wait when the server asks for it, at most a minute")
	fs.StringVar(&f.name, "name", "", "the name of the server, where the URL has an address")
	fs.StringVar(&f.from, "from", "", "another address of this machine to try")
	fs.StringVar(&f.origin, "origin", "", "the next hop as host:port, to ask it directly")
	fs.BoolVar(&f.asJSON, "json", false, "print JSON; with data, as in --json '{…}', it is curl's")
	fs.StringVar(&f.html, "html", "", "write the report as a page into this file")
	fs.StringVar(&f.share, "share", "", "write a bundle without names into this file (.zip)")
	fs.BoolVarP(&f.quiet, "quiet", "q", false, "no progress")
	fs.StringVar(&a.data, "node-data", defaultData(), "data directory of a Whygate on this machine; --data is curl's")
	fs.StringVar(&a.admin, "admin", "", "address of that node's admin API (default: as the node left it in the data directory)")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		rest, err := splitArgs(cmd.Flags(), args)
		if err != nil {
			return err
		}
		if help, _ := cmd.Flags().GetBool("help"); help {
			return cmd.Help()
		}
		switch a.color {
		case "auto", "always", "never":
		default:
			return usage("--color is auto, always or never, not %q", a.color)
		}
		a.style = a.styleFor(a.out)
		return a.pinpoint(cmd.Context(), f, rest)
	}
	completeFlag(c, "share", words("pinpoint.zip\tthe bundle"))
	return c
}

// splitArgs takes our flags out of a line; what is left is for curl's table of options. The value of an option of
// curl is never taken for a flag.
func splitArgs(fs *pflag.FlagSet, args []string) (rest []string, err error) {
	for i := 0; i < len(args); i++ {
		t := args[i]
		if t == "--" {
			return append(rest, args[i+1:]...), nil
		}
		name, value, given := strings.Cut(strings.TrimPrefix(t, "--"), "=")
		flag := (*pflag.Flag)(nil)
		switch {
		case strings.HasPrefix(t, "--"):
			flag = fs.Lookup(name)
		case len(t) == 2 && t[0] == '-' && (t[1] == 'q' || t[1] == 'h'):
			flag = fs.ShorthandLookup(t[1:])
			value, given = "", false
		}
		if flag != nil && flag.Name == "json" { // curl has one with data; no URL looks like that
			next := value
			if !given && i+1 < len(args) {
				next = args[i+1]
			}
			if next != "" && strings.IndexByte("{[\"@", next[0]) >= 0 {
				flag = nil
			}
		}
		switch {
		case flag == nil:
			if strings.HasPrefix(t, "--") && !input.Knows(t) {
				var ours []string
				fs.VisitAll(func(f *pflag.Flag) { ours = append(ours, f.Name) })
				if near := resource.Nearest(name, ours); near != "" {
					return nil, usage("neither whygate nor curl has a flag --%s; did you mean --%s?", clean(name), near)
				}
			}
			rest = append(rest, t)
			if input.TakesValue(t) && i+1 < len(args) {
				i++
				rest = append(rest, args[i])
			}
			continue
		case given:
		case flag.NoOptDefVal != "":
			value = flag.NoOptDefVal
		case i+1 < len(args):
			i++
			value = args[i]
		default:
			return nil, usage("--%s needs a value; whygate pinpoint --help lists the flags", flag.Name)
		}
		if err := fs.Set(flag.Name, value); err != nil {
			return nil, usage("--%s: %v", flag.Name, err)
		}
	}
	return rest, nil
}

func (a *app) pinpoint(ctx context.Context, f *pinpointFlags, rest []string) error {
	c, err := a.pinpointCase(f, rest)
	if err != nil {
		return err
	}
	if f.status != 0 {
		x := c.Exchange()
		switch {
		case f.status < 400 || f.status > 599:
			return usage("--status is that of a refusal, 400 to 599, not %d", f.status)
		case x == nil || x.Request == nil:
			return usage("--status belongs to a request: give its URL")
		case x.Answer != nil && x.Answer.Status != 0:
			return usage("the input holds the answer, with status %d: leave --status out", x.Answer.Status)
		}
		x.Answer = &pinpoint.Answer{Status: f.status, Cut: true}
		c.Gaps = slices.DeleteFunc(c.Gaps, func(g pinpoint.Gap) bool { return g.Kind == "no-answer" })
	}
	for _, s := range f.swap {
		name, value, ok := strings.Cut(s, ":")
		if !ok {
			return usage("--swap is a header field such as 'Authorization: Bearer …'")
		}
		c.Swap = append(c.Swap, pinpoint.Field{Name: strings.TrimSpace(name), Value: strings.TrimSpace(value)})
	}
	// Files that the line itself names may be read; those in a pasted command only with permission.
	read := (func(string) ([]byte, error))(input.Allow(f.allowFiles...))
	if len(rest) > 0 && !pasted(rest) {
		read = os.ReadFile
	}
	o := diagnose.Options{
		Offline: f.offline, Plan: f.plan, Bisect: f.bisect,
		Replay: replay.Options{
			Send:  replay.SenderOptions{Pace: f.pace, ReadFile: read},
			Probe: f.probe || f.bisect || f.sideEffects, SideEffects: f.sideEffects, Requests: f.requests, Strikes: f.strikes,
			MaxWait: f.maxWait, UnsafeGET: f.unsafeGET, NoProbeHeader: f.noProbeHeader, Name: f.name, From: f.from, Origin: f.origin,
		},
	}
	if o.Given, err = diagnose.ParseGiven(f.serverConfig); err != nil {
		return usage("--server-config: %v", err)
	}
	if f.onServer {
		o.Machine = &machine.Machine{Root: f.root}
	}
	if s := a.styleFor(a.err); !f.quiet && !f.plan && (s.terminal || !f.asJSON && s.on) {
		o.Progress = func(e replay.Event) { a.tellProgress(s, e) }
	}
	var told record
	o.Ask = a.whygateRecord(&o, &told)
	r, err := diagnose.Run(ctx, c, o)
	if err != nil {
		if ctx.Err() != nil {
			return &exitError{exitEnvironment, "interrupted"}
		}
		return environment(err)
	}
	if r, err = a.askToProbe(ctx, f, o, r); err != nil {
		return err
	}
	told.explain(&r.Verdict)
	page := pageOf(&r)
	if f.html != "" {
		if err := writeReport(f.html, func(w io.Writer) error { return report.HTML(w, page) }); err != nil {
			return environment(err)
		}
	}
	if f.share != "" {
		if err := writeReport(f.share, func(w io.Writer) error { return report.Share(w, page) }); err != nil {
			return environment(err)
		}
	}
	switch {
	case f.asJSON && f.plan:
		err = a.printJSON(r.Plan)
	case f.asJSON:
		err = a.printJSON(r.Verdict)
	case f.plan:
		a.tellPlan(&r)
	default:
		a.tellVerdict(&r, page)
	}
	if err != nil || f.plan {
		return err
	}
	if !f.asJSON {
		for _, file := range []string{f.html, f.share} {
			if file != "" {
				fmt.Fprintln(a.out, a.style.soft("written to "+file))
			}
		}
	}
	if code := pinpointExits[r.Verdict.Outcome]; code != exitOK {
		return &exitError{code, ""}
	}
	return nil
}

// The exit codes of pinpoint, beside the general ones.
var pinpointExits = map[pinpoint.Outcome]int{
	pinpoint.Proved: exitOK, pinpoint.Likely: 4, pinpoint.Unknown: 5, pinpoint.NotReproduced: 6, pinpoint.InputIncomplete: 7, pinpoint.Unsafe: 8,
}

// pinpointCase reads what was handed in.
func (a *app) pinpointCase(f *pinpointFlags, rest []string) (*pinpoint.Case, error) {
	given := 0
	for _, s := range []string{f.curl, f.har, f.postman, f.raw, f.log} {
		if s != "" {
			given++
		}
	}
	if len(rest) > 0 && given > 0 {
		if f.raw != "" {
			return nil, usage("the input is given twice: as --raw %s, and as %q; --raw is a file here, and what curl calls so changes no request: leave it out", clean(f.raw), clean(rest[0]))
		}
		return nil, usage("the input is given twice: as a flag, and as %q", clean(rest[0]))
	}
	if given > 1 {
		return nil, usage("give one of --curl, --har, --postman, --raw and --log")
	}
	allow := input.Allow(f.allowFiles...)
	c, err := a.readCase(f, rest, allow)
	var many *input.Ambiguous
	if errors.As(err, &many) {
		return nil, a.tellChoices(f, many)
	}
	var bad *input.Error
	if errors.As(err, &bad) {
		return nil, usage("%v", bad)
	}
	if err != nil {
		var e *exitError
		if errors.As(err, &e) {
			return nil, err
		}
		return nil, environment(err)
	}
	return c, nil
}

func (a *app) readCase(f *pinpointFlags, rest []string, allow input.Files) (*pinpoint.Case, error) {
	switch {
	case f.curl != "":
		text, err := a.textOf(f.curl, false)
		if err != nil {
			return nil, err
		}
		return input.Curl(text, allow)
	case f.har != "":
		r, err := a.open(f.har)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		h, err := input.HAR(r)
		if err != nil {
			return nil, err
		}
		if f.entry >= 0 {
			return h.Choose(f.entry)
		}
		c, err := h.Only()
		var many *input.Ambiguous
		if errors.As(err, &many) {
			if i, ok := a.choose(many); ok {
				return h.Choose(i)
			}
		}
		return c, err
	case f.postman != "":
		text, err := a.textOf(f.postman, true)
		if err != nil {
			return nil, err
		}
		var environment []byte
		if f.environment != "" {
			t, err := a.textOf(f.environment, true)
			if err != nil {
				return nil, err
			}
			environment = []byte(t)
		}
		p, err := input.Postman([]byte(text), environment)
		if err != nil {
			return nil, err
		}
		if f.item != "" {
			return p.Choose(f.item)
		}
		c, err := p.Only()
		var many *input.Ambiguous
		if errors.As(err, &many) {
			if i, ok := a.choose(many); ok {
				return p.Pick(i)
			}
		}
		return c, err
	case f.raw != "":
		text, err := a.textOf(f.raw, true)
		if err != nil {
			return nil, err
		}
		return input.Raw(text, input.RawOptions{Name: f.item, Files: allow})
	case f.log != "":
		text, err := a.textOf(f.log, false)
		if err != nil {
			return nil, err
		}
		return input.Log(text, f.url)
	case len(rest) == 0 && f.url != "":
		return input.Args([]string{f.url}, allow)
	case len(rest) == 0:
		return nil, usage("what was refused? give a URL, or one of --curl, --har, --postman, --raw and --log; whygate pinpoint --help shows each")
	case pasted(rest):
		return input.Any(a.in, allow)
	}
	return input.Args(rest, allow)
}

// pasted says that the line names the standard input instead of a URL.
func pasted(rest []string) bool { return len(rest) == 1 && rest[0] == "-" }

// textOf is a text, a file of that name, or the standard input for "-".
func (a *app) textOf(text string, file bool) (string, error) {
	if !file && text != "-" {
		return text, nil
	}
	r, err := a.open(text)
	if err != nil {
		return "", err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, 64<<20+1))
	if err != nil {
		return "", environment(fmt.Errorf("reading %s: %w", text, err))
	}
	if len(b) > 64<<20 {
		return "", usage("%s has more than 64 MiB", text)
	}
	return string(b), nil
}

func (a *app) open(name string) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(a.in), nil
	}
	r, err := os.Open(name)
	if err != nil {
		return nil, environment(fmt.Errorf("reading the input: %w", err))
	}
	return r, nil
}

// interactive says that somebody can be asked.
func (a *app) interactive() bool {
	f, ok := a.in.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && a.styleFor(a.err).terminal
}

// choose asks which of several requests is meant.
func (a *app) choose(m *input.Ambiguous) (index int, ok bool) {
	if !a.interactive() {
		return 0, false
	}
	a.listChoices(a.err, m)
	fmt.Fprint(a.err, "which one? ")
	line, err := bufio.NewReader(io.LimitReader(a.in, 100)).ReadString('\n')
	if err != nil {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || !slices.ContainsFunc(m.Choices, func(c input.Choice) bool { return c.Index == n }) {
		return 0, false
	}
	return n, true
}

func (a *app) listChoices(w io.Writer, m *input.Ambiguous) {
	for i, c := range m.Choices {
		if i == 30 {
			fmt.Fprintf(w, "  … and %d more\n", len(m.Choices)-i)
			break
		}
		what := c.Err
		if c.Status != 0 {
			what = strconv.Itoa(c.Status)
		}
		fmt.Fprintln(w, clean(strings.TrimRight(fmt.Sprintf("  %4d  %-4s %-7s %s  %s", c.Index, what, c.Method, c.URL, c.Name), " ")))
	}
}

// tellChoices is for those who cannot be asked.
func (a *app) tellChoices(f *pinpointFlags, m *input.Ambiguous) error {
	a.listChoices(a.err, m)
	how := "--entry N"
	if f.postman != "" {
		how = "--item NAME"
	}
	return usage("%v (%s)", m, how)
}

// askToProbe asks on a terminal whether the experiments may be sent that could tell more and cannot succeed.
func (a *app) askToProbe(ctx context.Context, f *pinpointFlags, o diagnose.Options, r diagnose.Result) (diagnose.Result, error) {
	if o.Replay.Probe || f.plan || f.offline || !a.interactive() || r.Verdict.Outcome == pinpoint.Proved {
		return r, nil
	}
	var would []pinpoint.Experiment
	for _, e := range r.Verdict.Experiments {
		if e.Skipped != "" && e.Class == pinpoint.S2 {
			would = append(would, e)
		}
	}
	// The budgets are those of the whole diagnosis.
	requests, strikes := o.Replay.Requests-r.Verdict.Sent, o.Replay.Strikes-r.Verdict.Strikes
	if len(would) == 0 || requests <= 0 || strikes <= 0 {
		return r, nil
	}
	fmt.Fprintln(a.err, "These requests could tell more. They cannot succeed: a path that does not exist, or no credential.")
	for _, e := range would {
		fmt.Fprintln(a.err, "  "+clean(e.Method+" "+e.URL+"   "+e.Says))
	}
	fmt.Fprint(a.err, "send them? [y/N] ")
	line, _ := bufio.NewReader(io.LimitReader(a.in, 100)).ReadString('\n')
	if t := strings.ToLower(strings.TrimSpace(line)); t != "y" && t != "yes" {
		return r, nil
	}
	o.Replay.Probe, o.Replay.Run, o.Replay.Requests, o.Replay.Strikes = true, r.Verdict.Run, requests, strikes
	again, err := diagnose.Run(ctx, r.Case, o)
	if err != nil {
		return r, environment(err)
	}
	again.Verdict.Sent += r.Verdict.Sent
	again.Verdict.Strikes += r.Verdict.Strikes
	return again, nil
}

func pageOf(r *diagnose.Result) report.Page {
	p := report.Page{Verdict: r.Verdict, At: time.Now()}
	if x := r.Case.Exchange(); x != nil && x.Request != nil {
		p.Method, p.URL = x.Request.Method, x.Request.URL
	} else if l := r.Case.Line; l != nil {
		p.Method, p.URL, p.Status = l.Method, l.Path, l.Status
	}
	if r.Answer != nil {
		p.Status = r.Answer.Status
	}
	return p
}

// writeReport makes a file that only its owner may read.
func writeReport(name string, write func(io.Writer) error) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	if err := write(f); err != nil {
		f.Close()
		return fmt.Errorf("writing the report to %s: %w", filepath.Base(name), err)
	}
	return f.Close()
}

// tellProgress is one line while a diagnosis runs. What is being tried stands there until its outcome takes its place.
func (a *app) tellProgress(s style, e replay.Event) {
	budget, over := "", ""
	if e.Requests > 0 {
		budget = fmt.Sprintf("  %d of %d requests, %d of %d refusals", e.Sent, e.Requests, e.Strikes, e.MaxStrikes)
	}
	if s.terminal {
		over = "\r\x1b[K" // to the begin of the line, and clear it (ECMA-48, EL)
	}
	tried := e.Experiment.Says
	if e.Experiment.Operator == "repeat" {
		tried = "the same request"
	}
	switch e.Kind {
	case "trying":
		if s.terminal {
			text := []rune(clean("  trying " + tried + " …"))
			fmt.Fprint(a.err, over+s.soft(string(text[:min(len(text), s.width-1)])))
		}
	case "showed":
		text := e.Says
		if tried != "" {
			text = tried + ": " + report.ShowsText(e.Experiment)
		}
		fmt.Fprintln(a.err, over+"  "+clean(text)+s.soft(budget))
	case "skipped":
		fmt.Fprintln(a.err, over+s.soft("  "+clean(tried+": not sent, "+strings.TrimPrefix(e.Says, "not sent: "))))
	default:
		fmt.Fprintln(a.err, over+s.soft("  "+clean(e.Says)))
	}
}

// tellPlan lists what would be sent.
func (a *app) tellPlan(r *diagnose.Result) {
	s := a.style
	t := &teller{a: a}
	if v := r.Verdict; v.Sentence != "" {
		a.tellHead(s.warn("?"), v.Sentence, "")
	}
	n := 0
	for _, e := range r.Plan {
		if e.Skipped == "" {
			n++
		}
	}
	fmt.Fprintf(a.out, "\n%s would be sent, one after the other, until nothing separates what is possible. Nothing was sent.\n\n", plural(n, "request"))
	for i, e := range r.Plan {
		head := fmt.Sprintf("%2d. %s %s", i+1, e.Method, e.URL)
		fmt.Fprintf(a.out, "%s   %s\n", s.strong(clean(head)), s.soft(e.Class.String()))
		t.line("changed", e.Says, "")
		t.line("learns", e.Learns, "")
		t.line("not sent", e.Skipped, "")
	}
}

// tellTried lists the experiments that were sent, those with one outcome together.
func (a *app) tellTried(t *teller, list []pinpoint.Experiment) {
	var order []string
	said := map[string][]string{}
	for _, e := range list {
		if e.Skipped != "" || e.Operator == "repeat" {
			continue
		}
		shows := report.ShowsText(e)
		if said[shows] == nil {
			order = append(order, shows)
		}
		if !slices.Contains(said[shows], e.Says) {
			said[shows] = append(said[shows], e.Says)
		}
	}
	for i, shows := range order {
		label := "tried"
		if i > 0 {
			label = ""
		}
		t.put(label, strings.Join(said[shows], "; ")+" → "+shows, "")
	}
}

// tellVerdict is the report on a terminal.
func (a *app) tellVerdict(r *diagnose.Result, p report.Page) {
	s := a.style
	v := &r.Verdict
	mark := s.bad("✗")
	if v.Outcome != pinpoint.Proved && v.Outcome != pinpoint.Likely {
		mark = s.warn("?")
	}
	head := strings.TrimSpace(p.Method + " " + p.URL)
	if head == "" {
		head = "a line of a log"
	}
	if p.Status != 0 {
		head = strconv.Itoa(p.Status) + " " + head
	}
	a.tellHead(mark, head, "")
	t := &teller{a: a}
	t.line("verdict", v.Sentence, "")
	who := v.Refuser.Product
	if v.Refuser.Decider != "" {
		who += ", which asked " + v.Refuser.Decider
	}
	if v.Refuser.Hop > 0 {
		who += fmt.Sprintf(", hop %d", v.Refuser.Hop)
	}
	t.line("who", who, "")
	why := strings.TrimPrefix(v.Cause+": "+v.Title, ": ")
	if v.Title == "" {
		why = v.Cause
	}
	t.line("why", why, "")
	grade := report.OutcomeText(v.Outcome)
	if v.Grade != "" {
		grade += ", grade " + report.GradeText(v.Grade)
	}
	if v.Confidence > 0 {
		grade += fmt.Sprintf(", confidence %.0f %%", 100*v.Confidence)
	}
	t.line("proof", grade, "")
	for i, c := range report.Proof(v) {
		if i == 8 {
			t.line("", "… and more in --json and --html", "")
			break
		}
		text := c.Says
		if c.Against {
			text = "against it: " + text
		}
		t.line("", "· "+text, report.Place(c.At))
		if c.Quote != "" {
			t.line("", "  “"+c.Quote+"”", "")
		}
	}
	a.tellTried(t, v.Experiments)
	for i, step := range v.Fix.Steps {
		label, right := "fix", report.OwnerText(v.Fix.Owner)
		if i > 0 {
			label, right = "", ""
		}
		t.put(label, step, right)
	}
	t.line("risk", v.Fix.Risk, "")
	for i, alt := range v.Alternatives {
		if i == 4 {
			break
		}
		label := "else"
		if i > 0 {
			label = ""
		}
		text := fmt.Sprintf("%s, %s (%.0f %%)", alt.Cause, alt.Title, 100*alt.Confidence)
		if alt.Separate != "" {
			text += "; " + alt.Separate
		}
		t.line(label, text, "")
	}
	for _, g := range v.Gaps {
		t.line("lacks", g.Says, "")
	}
	t.line("next", v.Next, "")
	if r.Bisection != nil {
		t.line("bisection", r.Bisection.Says, plural(r.Bisection.Requests, "request")+" of "+strconv.Itoa(waf.MaxRequests))
	}
	sent := plural(v.Sent, "request") + " sent"
	if v.Sent > 0 {
		sent += fmt.Sprintf(", %d refused", v.Strikes)
		if v.Run != "" {
			sent += " · run " + v.Run
		}
	}
	t.line("sent", sent, "")
	t.line("stopped", report.StoppedText(v), "")
	fmt.Fprintln(a.out)
}
