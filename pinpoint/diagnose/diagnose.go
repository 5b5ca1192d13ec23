// Package diagnose goes from a case to a verdict: it reads what was handed in, looks at this machine
// where it is the server's, experiments within the rules of safety, asks the firewall which part of a
// request it dislikes, and weighs what came of it.
package diagnose

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whygate/whygate/pinpoint"
	"github.com/whygate/whygate/pinpoint/apache"
	"github.com/whygate/whygate/pinpoint/input"
	"github.com/whygate/whygate/pinpoint/machine"
	"github.com/whygate/whygate/pinpoint/nginx"
	"github.com/whygate/whygate/pinpoint/replay"
	"github.com/whygate/whygate/pinpoint/waf"
)

// Options say what a diagnosis may do.
type Options struct {
	Replay   replay.Options
	Offline  bool             // nothing is sent
	Plan     bool             // nothing is sent; what would be is listed
	Machine  *machine.Machine // not nil: the server is this machine
	Given    []Given          // configurations that were handed in, from the client on
	Bisect   bool             // find the part of the request that a firewall dislikes; sends to decoy paths
	Now      func() time.Time
	Readers  map[string]machine.Reader // beside those for the servers that are known here
	Progress func(replay.Event)        // nil for none
	// Ask asks a server that keeps records of its refusals for that of this answer. Its clues have the ID Recorded, and
	// end the experiments. nil: no server is asked.
	Ask func(context.Context, *pinpoint.Case, *pinpoint.Answer) []pinpoint.Clue
}

// Result is a verdict and what led to it.
type Result struct {
	Verdict   pinpoint.Verdict
	Case      *pinpoint.Case
	Plan      []pinpoint.Experiment // of Options.Plan
	Bisection *waf.Result
	Machine   *machine.Report
	Answer    *pinpoint.Answer // the refusal that was diagnosed; nil when none is known
}

// Run diagnoses a case. The error is one of the context, or says why the case cannot be diagnosed at all.
func Run(ctx context.Context, c *pinpoint.Case, o Options) (Result, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if c.Vault == nil {
		pinpoint.Seal(c)
	}
	d := &diagnosis{ctx: ctx, c: c, o: o}
	d.out.Case = c
	d.read()
	// Without a recorded refusal the machine is looked at when the first one has come: only then do its logs
	// hold a line of it.
	if x := c.Exchange(); x == nil || x.Answer != nil || o.Plan || o.Offline {
		if err := d.look(); err != nil {
			return d.out, err
		}
	}
	switch {
	case c.Exchange() == nil || c.Exchange().Request == nil: // a line of a log: there is nothing to send
	case o.Plan:
		d.out.Plan = replay.Plan(c, d.clues, causes(), d.replayOptions())
	case o.Offline, d.recorded:
	default:
		if err := d.experiment(); err != nil {
			return d.out, err
		}
		// Nothing could be sent and no answer is known: what the server would do is known all the same.
		if d.out.Machine == nil && !d.unanswered() {
			if err := d.look(); err != nil {
				return d.out, err
			}
		}
		if o.Bisect {
			if err := d.bisect(); err != nil {
				return d.out, err
			}
		} else {
			d.predict()
		}
	}
	d.conclude()
	return d.out, ctx.Err()
}

type diagnosis struct {
	ctx      context.Context
	c        *pinpoint.Case
	o        Options
	clues    []pinpoint.Clue
	result   *replay.Result
	problems []func() []pinpoint.Step // what the readers of configurations could not read
	recorded bool                     // the server has told why
	failed   error                    // while reading within the experiments
	wasGiven bool                     // the configurations that were handed in are evaluated
	out      Result
}

// causes are the hypotheses of the planner.
func causes() (list []*pinpoint.Cause) {
	all := pinpoint.Causes()
	for i := range all {
		list = append(list, &all[i])
	}
	return list
}

// read takes what the case says by itself.
func (d *diagnosis) read() {
	d.clues = append(d.clues, pinpoint.Read(d.c, d.o.Now())...)
	if x := d.c.Exchange(); x != nil && x.Answer != nil {
		d.clues = append(d.clues, pinpoint.Match(x.Answer)...)
		d.out.Answer = x.Answer
		if d.o.Ask != nil && x.Answer.Refused() {
			told := d.o.Ask(d.ctx, d.c, x.Answer)
			d.recorded = d.recorded || len(told) > 0
			d.clues = append(d.clues, told...)
		}
	}
	if l := d.c.Line; l != nil {
		d.clues = append(d.clues, pinpoint.Attribute(l)...)
		for line := range strings.SplitSeq(l.Fields[pinpoint.ErrorText], "\n") {
			d.clues = append(d.clues, pinpoint.MatchLog("", line)...)
		}
	}
}

// look reads this machine, where it is the server's.
func (d *diagnosis) look() error {
	d.given()
	if d.o.Machine == nil {
		return nil
	}
	if x := d.c.Exchange(); x == nil || x.Request == nil {
		d.c.Gaps = append(d.c.Gaps, pinpoint.Gap{Kind: "no-request", Says: "The machine was not looked at: the input names no URL. Give it with --url."})
		return nil
	}
	readers := machine.Readers{
		Servers: map[string]machine.Reader{"nginx": d.readNginx, "apache-httpd": d.readApache, "haproxy": d.readHAProxy, "lighttpd": d.readLighttpd, "caddy": d.readCaddy},
		Reading: machine.Reading{Match: pinpoint.MatchLog, Parse: input.Line, Clean: d.c.Vault.Redact, Run: d.o.Machine.Journal},
		Now:     d.o.Now(),
	}
	for product, r := range d.o.Readers {
		readers.Servers[product] = r
	}
	report, err := machine.Walk(d.ctx, d.o.Machine, d.c, readers)
	switch {
	case errors.Is(err, machine.ErrElsewhere):
		d.c.Gaps = append(d.c.Gaps, pinpoint.Gap{Kind: "elsewhere", Says: "Nothing on this machine listens where the request goes: its configuration and its logs say nothing of it."})
	case d.ctx.Err() != nil:
		return d.ctx.Err()
	case err != nil:
		d.c.Gaps = append(d.c.Gaps, pinpoint.Gap{Kind: "machine", Says: "The machine could be read in part only: " + err.Error()})
	}
	d.c.Gaps = append(d.c.Gaps, report.Gaps...)
	d.partly()
	d.clues = append(d.clues, report.Clues...)
	d.out.Machine = &report
	return nil
}

// maxUnread is how many parts of configurations that could not be read are named.
const maxUnread = 3

// partly tells what of the configurations could not be read or is not understood: the verdict rests on the rest.
func (d *diagnosis) partly() {
	var list []string
	for _, problems := range d.problems {
		for _, p := range problems() {
			at := p.At.File
			if p.At.Line > 0 {
				at += ":" + strconv.Itoa(p.At.Line)
			}
			text := pinpoint.MaskLine(pinpoint.SafeText(strings.TrimPrefix(at+": "+strings.TrimSuffix(p.Says, "."), ": "), 300))
			if !slices.Contains(list, text) {
				list = append(list, text)
			}
		}
	}
	d.problems = nil
	more := len(list) - maxUnread
	for i, text := range list[:min(len(list), maxUnread)] {
		says := "A part of the configuration was not evaluated. " + text + "."
		if more > 0 && i == maxUnread-1 {
			says += fmt.Sprintf(" There are %d more.", more)
		}
		d.c.Gaps = append(d.c.Gaps, pinpoint.Gap{Kind: "configuration", Says: says})
	}
}

// steps brings the problems of a reader into one form, when they are asked for: some show while a request is decided.
func steps[P ~struct {
	Says string
	At   pinpoint.Place
}](list *[]P) func() []pinpoint.Step {
	return func() (out []pinpoint.Step) {
		for _, p := range *list {
			out = append(out, pinpoint.Step(p))
		}
		return out
	}
}

func (d *diagnosis) readNginx(m *machine.Machine, p *machine.Process) (machine.Decider, error) {
	conf, prefix := nginx.Discover(p.Args)
	c, err := nginx.Load(m, conf, prefix)
	if c == nil {
		return nil, err
	}
	d.problems = append(d.problems, func() []pinpoint.Step { return c.Problems })
	return c, nil
}

// readApache reads with the secrets of the case, since passwords are compared, and with the eyes of the workers.
func (d *diagnosis) readApache(m *machine.Machine, p *machine.Process) (machine.Decider, error) {
	var environ []string
	for name, value := range m.Environment(p, "APACHE_CONFDIR", "APACHE_RUN_USER", "APACHE_RUN_GROUP", "APACHE_LOG_DIR", "APACHE_RUN_DIR", "APACHE_PID_FILE", "APACHE_LOCK_DIR", "LANG") {
		environ = append(environ, name+"="+value)
	}
	conf, env := apache.Discover(m, p.Args, environ)
	env.Vault = d.c.Vault
	env.May = func(user string, a pinpoint.Access) bool {
		who, err := m.Identity(user)
		if err != nil {
			return true // not known: the permissions are walked anyway
		}
		ok, _, _ := m.Permit(a, who)
		return ok
	}
	c, err := apache.Load(m, conf, env)
	if c == nil {
		return nil, err
	}
	d.problems = append(d.problems, steps(&c.Problems))
	return c, nil
}

func (d *diagnosis) replayOptions() replay.Options {
	o := d.o.Replay
	o.Events = d.o.Progress
	if d.o.Bisect {
		o.Probe = true
	}
	return o
}

// experiment sends what is permitted.
func (d *diagnosis) experiment() error {
	o := d.replayOptions()
	// The reference of a case without a recorded answer is read when it comes.
	o.Read = func(x pinpoint.Exchange) []pinpoint.Clue {
		known := d.clues
		d.c.Exchanges = append(slices.Clone(d.c.Exchanges[:d.c.Asked]), x)
		d.c.Gaps = slices.DeleteFunc(d.c.Gaps, func(g pinpoint.Gap) bool { return g.Kind == "no-answer" })
		d.clues = nil
		d.read()
		if err := d.look(); err != nil {
			d.failed = err
		}
		fresh := slices.DeleteFunc(d.clues, func(c pinpoint.Clue) bool {
			return slices.ContainsFunc(known, func(k pinpoint.Clue) bool { return k.ID == c.ID && k.Cause == c.Cause && k.Says == c.Says })
		})
		d.clues = known
		return fresh
	}
	r, err := replay.Run(d.ctx, d.c, d.clues, causes(), o)
	d.result = &r
	d.clues = append(d.clues, r.Clues...)
	if r.Reference != nil {
		d.out.Answer = r.Reference
	}
	if err == nil {
		err = d.failed
	}
	return err
}

// unanswered says that the request was sent and nobody answered.
func (d *diagnosis) unanswered() bool {
	return d.result != nil && d.result.Baseline == replay.Unreachable
}

// contents are the experiments that change what a firewall reads, and the collections that its rules name it by.
var contents = map[string][]string{
	"query-drop": {"ARGS", "QUERY_STRING", "REQUEST_URI"}, "query-one": {"ARGS", "QUERY_STRING", "REQUEST_URI"},
	"body-benign": {"ARGS", "REQUEST_BODY", "FILES", "XML", "JSON"}, "cookie-one": {"REQUEST_COOKIES"}, "cookie-drop": {"REQUEST_COOKIES"},
}

// predict asks the rules that are built in whether they dislike a content that flips the answer: if nothing there is
// suspicious, it is hardly a firewall that refuses. It sends nothing.
func (d *diagnosis) predict() {
	if d.result == nil || d.result.Request == nil {
		return
	}
	var read []string
	for _, e := range d.result.Experiments {
		if e.Flip {
			read = append(read, contents[e.Operator]...)
		}
	}
	if read == nil {
		return
	}
	replica, err := waf.NewReplica(1)
	if err != nil {
		return
	}
	r := d.result.Request.Clone()
	// The rules that are built in read the secrets too; what they say names places, never values.
	r.URL, r.Body = d.c.Vault.Reveal(r.URL), []byte(d.c.Vault.Reveal(string(r.Body)))
	for i := range r.Header {
		r.Header[i].Value = d.c.Vault.Reveal(r.Header[i].Value)
	}
	if u, err := r.Parsed(); err == nil && net.ParseIP(u.Hostname()) != nil {
		r.Header = r.Header.With("Host", "www.example") // a numeric host scores by itself
	}
	p := replica.Predict(r)
	for i := range p.Matches {
		m := &p.Matches[i]
		if m.Score > 0 && slices.ContainsFunc(read, func(v string) bool { return strings.HasPrefix(m.Variable, v) }) {
			d.clues = append(d.clues, pinpoint.Clue{Source: pinpoint.FromReplica, ID: "local-replica", Cause: "waf-crs-anomaly", Weight: pinpoint.Hint, Quote: pinpoint.SafeText(m.Message, 120),
				Says:  fmt.Sprintf("The OWASP rules that are built in would score it: rule %d at %s.", m.Rule, pinpoint.SafeText(m.Target(), 80)),
				Names: map[string]string{"rule": strconv.Itoa(m.Rule), "target": pinpoint.SafeText(m.Target(), 80)}})
			return
		}
	}
	for _, cause := range []string{"waf-crs-anomaly", "waf-managed-rule", "waf-custom-rule"} {
		weight := pinpoint.Fair
		if cause == "waf-custom-rule" {
			weight = pinpoint.Hint
		}
		d.clues = append(d.clues, pinpoint.Clue{Source: pinpoint.FromReplica, ID: "local-replica", Cause: cause, Against: true, Weight: weight,
			Says: "The OWASP rules that are built in find nothing in what flips the answer: it reads as ordinary content."})
	}
}

// bisect finds the fragment that a firewall dislikes, through decoy paths.
func (d *diagnosis) bisect() error {
	if d.out.Answer == nil || !d.out.Answer.Refused() || d.result == nil || d.result.Request == nil || d.result.Baseline == replay.Incomplete {
		return nil
	}
	without := func(why string) {
		d.c.Gaps = append(d.c.Gaps, pinpoint.Gap{Kind: "no-bisection", Says: "The part that a firewall dislikes was not looked for: " + strings.TrimSuffix(why, ".") + "."})
	}
	for _, e := range d.result.Experiments {
		if e.Class == pinpoint.S2 && e.Skipped == "" && e.Status/100 == 2 {
			without(waf.ErrAccepted.Error())
			return nil
		}
	}
	send := d.o.Replay.Sender
	if send == nil {
		s, err := replay.NewSender(d.c, d.o.Replay.Send)
		if err != nil {
			return err
		}
		send = s
	}
	replica, err := waf.NewReplica(1)
	if err != nil {
		return err
	}
	oracle, err := waf.NewDecoy(d.marked(send), d.result.Request, d.out.Answer, pinpoint.Signature)
	if err != nil {
		without(err.Error())
		return nil
	}
	r, err := waf.Bisect(d.ctx, d.result.Request, oracle, waf.Options{Replica: replica, Host: d.o.Replay.Name, Told: func(s waf.Step) {
		if d.o.Progress != nil {
			d.o.Progress(replay.Event{Kind: "showed", Says: s.Says + ": " + strings.ToLower(s.Outcome.String()), Sent: s.Requests, Requests: waf.MaxRequests, Strikes: s.Strikes, MaxStrikes: waf.MaxStrikes})
		}
	}})
	d.out.Bisection = &r
	d.clues = append(d.clues, r.Clues()...)
	if err != nil && d.ctx.Err() == nil { // what was found until then stands
		without(pinpoint.SafeText(err.Error(), 200))
	}
	return d.ctx.Err()
}

// marked lets owners find what is sent with an unsafe method: it carries the id of the run.
func (d *diagnosis) marked(send pinpoint.Sender) pinpoint.Sender {
	if d.o.Replay.NoProbeHeader || d.result == nil || d.result.Run == "" {
		return send
	}
	return markedSender{send, d.result.Run}
}

type markedSender struct {
	pinpoint.Sender
	run string
}

func (s markedSender) Send(ctx context.Context, r *pinpoint.Request) (*pinpoint.Answer, error) {
	switch r.Method {
	case "", "GET", "HEAD", "OPTIONS":
	default:
		r = r.Clone()
		r.Header = r.Header.With("X-Whygate-Probe", s.run)
	}
	return s.Sender.Send(ctx, r)
}

// unreachable says why no answer came, "" if one did.
func (d *diagnosis) unreachable() string {
	if !d.unanswered() {
		return ""
	}
	for _, a := range d.result.Answers {
		if a != nil && a.Status == 0 && a.Err != "" {
			d.c.Gaps = slices.DeleteFunc(d.c.Gaps, func(g pinpoint.Gap) bool { return g.Kind == "no-answer" })
			return strings.TrimSuffix(pinpoint.SafeText(a.Err, 200), ".")
		}
	}
	return ""
}

// conclude weighs everything.
func (d *diagnosis) conclude() {
	var experiments []pinpoint.Experiment
	status := 0
	if d.out.Answer != nil {
		status = d.out.Answer.Status
	}
	if d.result != nil {
		experiments = d.result.Experiments
	}
	unreachable := d.unreachable()
	v := pinpoint.Conclude(d.c, d.clues, experiments, status)
	if unreachable != "" && v.Outcome == pinpoint.Unknown && v.Refuser.Product == "" {
		v.Sentence = "No answer came, so nobody refused anything yet: " + unreachable + "."
		v.Next = "See that the name, the port and the network between are right; a refusal is looked for when there is one."
	}
	v.Hops = showRefuser(pinpoint.Hops(d.c), &v)
	if d.result != nil {
		v.Sent, v.Strikes, v.Run = d.result.Sent, d.result.Strikes, d.result.Run
		v.Stopped, v.Resume = d.result.Stopped, d.result.Resume
		if d.result.Baseline == replay.NotSent && v.Grade == "" && (v.Outcome == pinpoint.Unknown || v.Outcome == pinpoint.Unsafe) {
			v.Outcome = d.result.Baseline.Outcome()
			v.Gaps = slices.DeleteFunc(slices.Clone(v.Gaps), func(g pinpoint.Gap) bool { return g.Kind == "no-answer" })
			v.Next = "Hand in the answer that it got (curl -i, a HAR), or at least its status (--status 403): then what is harmless can be tried. With --yes-side-effects the request itself is sent."
		}
	}
	if d.out.Bisection != nil {
		v.Sent += d.out.Bisection.Requests
		v.Strikes += d.out.Bisection.Strikes
	}
	if d.out.Machine != nil {
		v.Trail = d.out.Machine.Trail
		v.Hops = hops(d.out.Machine, v)
	}
	d.out.Verdict = v
}

// layers are the kinds of hops that causes of a layer arise at.
var layers = map[string]string{"network": "gateway", "cdn": "cdn", "waf": "waf", "gateway": "gateway", "web-server": "web-server", "files": "web-server", "storage": "storage"}

// showRefuser shows at which station the refusal arose: where the answer itself names no refuser, the verdict does.
func showRefuser(hops []pinpoint.Hop, v *pinpoint.Verdict) []pinpoint.Hop {
	product := v.Refuser.Product
	if product == "" || v.Outcome == pinpoint.NotReproduced {
		return hops
	}
	at := slices.IndexFunc(hops, func(h pinpoint.Hop) bool { return h.Product == product })
	if at < 0 {
		// What the answer does not name stands behind what it does, except for what guards the way.
		kind := layers[v.Layer]
		if kind == "" {
			kind = "application"
		}
		at = len(hops)
		switch {
		case kind == "cdn" || kind == "waf":
			at = 1
			if kind == "waf" {
				for at < len(hops) && hops[at].Kind == "cdn" {
					at++
				}
			}
		case hops[at-1].Kind == "application" && hops[at-1].Product == "": // the nameless one behind the last proxy
			at--
			hops = slices.Delete(hops, at, at+1)
		}
		hops = slices.Insert(hops, at, pinpoint.Hop{Kind: kind, Product: product})
	}
	for i := range hops {
		hops[i].Refused = i == at
	}
	if at == len(hops)-1 && slices.Contains([]string{"cdn", "waf", "balancer", "gateway"}, hops[at].Kind) {
		hops = append(hops, pinpoint.Hop{Kind: "application", Says: "not reached"})
	}
	return hops
}

// hops are the stations that the machine showed, behind those that the answer did.
func hops(r *machine.Report, v pinpoint.Verdict) []pinpoint.Hop {
	if len(r.Hops) == 0 {
		return v.Hops
	}
	list := []pinpoint.Hop{{Kind: "client", Says: "you"}}
	for _, h := range r.Hops {
		if h.Why != "" {
			continue
		}
		kind := "web-server"
		if h.Product == "haproxy" || h.Product == "envoy" || h.Product == "traefik" || h.Product == "whygate" {
			kind = "gateway"
		} else if h.Product != "nginx" && h.Product != "apache-httpd" && h.Product != "lighttpd" && h.Product != "caddy" {
			kind = "application"
		}
		list = append(list, pinpoint.Hop{Kind: kind, Product: h.Product, Says: h.At, Refused: v.Refuser.Hop == h.N})
	}
	return list
}
