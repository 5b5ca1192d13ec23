package replay

import (
	"cmp"
	"context"
	"crypto/rand"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// Options say what may be sent and how.
type Options struct {
	// Sender sends; nil stands for one over sockets with the options of Send.
	Sender pinpoint.Sender
	Send   SenderOptions
	// Probe allows S2, SideEffects S3 as well.
	Probe, SideEffects bool
	// Requests and Strikes are the budgets; 0 stands for 24 and 20.
	Requests, Strikes int
	// MaxWait is how long one wait for the server may be, at most a minute. 0: it is not waited.
	MaxWait time.Duration
	// UnsafeGET are paths, or patterns of package path, whose GET has side effects.
	UnsafeGET []string
	// AnonymousPosts says that the server takes unsafe requests without credentials: then removing
	// them is no protection.
	AnonymousPosts bool
	// Idempotency is the field that makes a repetition harmless, where the API documents one.
	Idempotency string
	// Run is the id of a run that is continued: its decoys have the same paths. "" for a new one.
	Run string
	// NoProbeHeader leaves X-Whygate-Probe out of S2 and S3.
	NoProbeHeader bool
	// Name is the name of the site, for a URL with an address; From another own address; Origin the
	// next hop as host:port. They are used only when given.
	Name, From, Origin string
	// Read reads the refusal of a case that had no recorded answer, as soon as it is there; its
	// clues guide the experiments, and are part of the Result.
	Read func(pinpoint.Exchange) []pinpoint.Clue
	// Events is called for everything that happens, in order.
	Events func(Event)
}

// Event is something to show while a diagnosis runs.
type Event struct {
	Kind       string // "baseline", "trying", "showed", "waiting", "skipped", "note", "stopped"
	Says       string
	Experiment pinpoint.Experiment // of "trying", "showed", "skipped"
	Sent       int
	Requests   int // budget
	Strikes    int
	MaxStrikes int
}

// Baseline says whether the refusal could be had again.
type Baseline string

// The outcomes of a baseline.
const (
	Reproduced    Baseline = "reproduced"
	Assumed       Baseline = "assumed"          // as recorded; sending it again was not permitted
	NotReproduced Baseline = "not-reproduced"   // the request passes now
	Differs       Baseline = "baseline-differs" // refused, but otherwise than recorded
	Intermittent  Baseline = "intermittent"     // refused at times, without a pattern
	Incomplete    Baseline = "input-incomplete" // a replay would prove nothing
	NotSent       Baseline = "not-sent"         // no recorded answer, and sending was not permitted
	Unreachable   Baseline = "unreachable"      // no answer, and none was recorded
)

// Outcome is what a baseline means for the verdict; "" when a diagnosis goes on.
func (b Baseline) Outcome() pinpoint.Outcome {
	switch b {
	case NotReproduced, Differs, Intermittent:
		return pinpoint.NotReproduced
	case Incomplete:
		return pinpoint.InputIncomplete
	case NotSent:
		return pinpoint.Unsafe
	case Unreachable:
		return pinpoint.Unknown
	}
	return ""
}

// Result is what the experiments showed.
type Result struct {
	Baseline    Baseline
	Experiments []pinpoint.Experiment
	Answers     []*pinpoint.Answer // of each experiment; nil where none came
	Clues       []pinpoint.Clue
	Request     *pinpoint.Request   // the refused one: behind redirects another than was asked
	Reference   *pinpoint.Answer    // the refusal that answers were held against
	Redirects   []pinpoint.Exchange // that were followed to get there
	Sent        int
	Strikes     int
	Run         string    // value of X-Whygate-Probe
	Stopped     string    // why the series ended early
	Resume      time.Time // when the server may be asked again
}

// run is one diagnosis.
type run struct {
	c      *pinpoint.Case
	o      *Options
	sender pinpoint.Sender
	budget *budget
	m      *material
	id     string
	out    Result

	asked    *pinpoint.Request // A
	safe     bool              // A may be repeated
	ref      *pinpoint.Answer
	sig      string
	weak     bool // ref lacks a body or fields: only the status counts
	hyps     []*hypothesis
	tried    map[string]bool
	decoy    *pinpoint.Request // refused like A, on a path that does not exist
	flips    []flip
	shown    []shown
	sinceA   int               // requests since A was last sent
	pass     *pinpoint.Request // it passed, by passOp
	passOp   *Operator
	aiming   bool // redirects lead to the refused request, which is not known yet
	unstable bool // A passed at times
	over     bool // no more experiments
}

// flip is a change that passes where the request is refused.
type flip struct {
	op        *Operator
	says      string
	method    string
	decoy     bool
	confirmed int // how often A was refused and B passed, behind the first pair
	sure      bool
}

// shown is the outcome of an operator.
type shown struct {
	op    *Operator
	shows string
	decoy bool
	says  string
}

// Run reproduces a refusal and experiments with it. causes are the hypotheses, clues what was found
// so far. The error is that of the context or of a case that cannot be sent; everything else is in
// the Result.
func Run(ctx context.Context, c *pinpoint.Case, clues []pinpoint.Clue, causes []*pinpoint.Cause, o Options) (Result, error) {
	x := newRun(c, clues, causes, &o)
	recorded := x.ref
	if x.asked == nil || blocked(c) {
		x.out.Baseline = Incomplete
		x.clue(pinpoint.Clue{ID: "repeat", Cause: "input-incomplete", Weight: pinpoint.Strong,
			Says: "The input lacks something that matters; a replay would be another request."})
		return x.out, nil
	}
	if x.sender = o.Sender; x.sender == nil {
		s, err := NewSender(c, sendOptions(&o))
		if err != nil {
			return x.out, err
		}
		x.sender = s
	}
	if x.ref != nil && x.ref.Status != 0 && !x.ref.Refused() && !disguised(clues) {
		x.out.Baseline = NotReproduced // nothing was refused
		x.conclude()
		return x.out, nil
	}
	x.out.Baseline = x.baseline(ctx)
	x.event("baseline", baselineSays[x.out.Baseline], nil)
	if x.out.Baseline == NotReproduced && x.safe {
		x.rateSeries(ctx, 5)
	}
	if o.Read != nil && x.ref != nil && x.ref != recorded {
		fresh := o.Read(pinpoint.Exchange{Request: x.out.Request, Answer: x.ref, At: x.ref.At})
		x.out.Clues = append(x.out.Clues, fresh...)
		x.hyps = hypotheses(causes, append(slices.Clone(clues), fresh...), x.ref.Status)
	}
	told := slices.ContainsFunc(x.out.Clues, func(c pinpoint.Clue) bool { return c.ID == pinpoint.Recorded && c.Source == pinpoint.FromLog })
	if !told && !alerted(x.ref) && (x.out.Baseline == Reproduced || x.out.Baseline == Assumed) {
		x.explore(ctx)
	}
	x.conclude()
	return x.out, ctx.Err()
}

// alerted says that the server ended the handshake: nothing in a request changes that.
func alerted(a *pinpoint.Answer) bool {
	return a != nil && a.Status == 0 && strings.HasPrefix(a.Err, "TLS alert: ")
}

// standsIn says that an answer which is no refusal by its status is one by what it holds: the page of a firewall,
// errors of GraphQL or gRPC.
func (x *run) standsIn(r *pinpoint.Request, a *pinpoint.Answer) bool {
	if a.Status/100 != 2 {
		return false
	}
	c := &pinpoint.Case{Source: x.c.Source, Exchanges: []pinpoint.Exchange{{Request: r, Answer: a, At: a.At}}, Gaps: x.c.Gaps, Vault: x.c.Vault}
	return disguised(append(pinpoint.Match(a), pinpoint.Read(c, time.Now())...))
}

// disguised says that what was read speaks of a refusal, whatever the status says.
func disguised(clues []pinpoint.Clue) bool {
	for _, c := range clues {
		if c.Cause != "" && !c.Against && c.Weight > 0 && c.Source != pinpoint.FromRequest {
			return true
		}
	}
	return false
}

func sendOptions(o *Options) SenderOptions {
	s := o.Send
	if s.Origin == "" {
		s.Origin = o.Origin
	}
	return s
}

var baselineSays = map[Baseline]string{
	Reproduced:    "The same refusal came again.",
	Assumed:       "The request was not sent again; the recorded refusal counts.",
	NotReproduced: "The request passes now.",
	Differs:       "The replay is refused in another way than was recorded.",
	Intermittent:  "The request is refused at times only.",
	NotSent:       "The request has no recorded answer and may have an effect: it was not sent.",
	Unreachable:   "No answer came.",
}

func blocked(c *pinpoint.Case) bool {
	for _, g := range c.Gaps {
		if g.Blocks {
			return true
		}
	}
	return false
}

func newRun(c *pinpoint.Case, clues []pinpoint.Clue, causes []*pinpoint.Cause, o *Options) *run {
	x := &run{c: c, o: o, budget: newBudget(o), id: cmp.Or(o.Run, strings.ToLower(rand.Text()[:12])), tried: map[string]bool{}}
	x.out.Run = x.id
	x.m = newMaterial(c, o, x.id)
	if e := c.Exchange(); e != nil && e.Request != nil {
		x.asked = e.Request
		x.out.Request = x.asked
		x.safe = safe(o, x.asked) && !paid(x.asked)
		if e.Answer != nil && (e.Answer.Status != 0 || e.Answer.Err != "") {
			x.reference(e.Answer)
		} else if c.Line != nil && c.Line.Status >= 400 {
			x.reference(&pinpoint.Answer{Status: c.Line.Status, Cut: true})
		}
	}
	status := 0
	if x.ref != nil {
		status = x.ref.Status
	}
	x.hyps = hypotheses(causes, clues, status)
	return x
}

// reference sets the refusal that answers are held against.
func (x *run) reference(a *pinpoint.Answer) {
	x.ref, x.out.Reference = a, a
	x.sig = pinpoint.SignatureFor(x.asked, a)
	missing := len(a.Body) == 0 && a.Header.Value("Content-Length") != "0"
	x.weak = a.Status != 0 && (len(a.Header) == 0 || missing || a.Cut && len(a.Body) < 64<<10)
}

// replayed sets an answer of our own as the reference: nothing of it was lost.
func (x *run) replayed(a *pinpoint.Answer) {
	x.reference(a)
	x.weak = false
}

// same says that an answer is the refusal that is asked about.
func (x *run) same(r *pinpoint.Request, a *pinpoint.Answer) bool {
	if x.ref == nil {
		return false
	}
	if x.weak || r.Method == http.MethodHead && x.asked.Method != http.MethodHead {
		return a.Status == x.ref.Status && (len(x.ref.Header) == 0 || server(a) == server(x.ref))
	}
	return pinpoint.SignatureFor(r, a) == x.sig
}

func server(a *pinpoint.Answer) string {
	product, _, _ := strings.Cut(strings.ToLower(a.Header.Value("Server")), "/")
	return strings.TrimSpace(product)
}

// judge says what an answer shows, as Expect does.
func (x *run) judge(r *pinpoint.Request, a *pinpoint.Answer, decoy bool) string {
	switch {
	case x.same(r, a):
		return "same"
	case a.Status == 0 || a.Status == 429 || a.Status >= 500 || challenge(a):
		return "unclear"
	case decoy && (a.Status < 500 && a.Status != 403 && a.Status != 406):
		return "passes" // a later hop saw it
	case a.Status == 101, a.Status/100 == 2 && !login(a), a.Status == 304:
		return "passes"
	}
	return "other"
}

// challenge says that a server wants to see a browser (Cloudflare and AWS WAF mark it so).
func challenge(a *pinpoint.Answer) bool {
	return a.Header.Has("Cf-Mitigated") || a.Header.Has("X-Amzn-Waf-Action")
}

var passwordField = regexp.MustCompile(`(?i)<input[^>]{0,200}type=["']?password`)

// login says that a page asks to log in: it stands in for a refusal.
func login(a *pinpoint.Answer) bool { return passwordField.Match(a.Body) }

// try sends one request within class and budgets. ok is false when it was not sent.
func (x *run) try(ctx context.Context, op *Operator, v variant, class pinpoint.Class, decoy bool, learns string) (a *pinpoint.Answer, shows string, ok bool) {
	e := pinpoint.Experiment{Operator: op.Name, Class: class, Says: x.says(op, v, decoy), Method: pinpoint.SafeText(v.request.Method, 20),
		URL: shownURL(v.request), Learns: learns}
	if ctx.Err() != nil || x.budget.left() == 0 || x.budget.forbids(class) != "" {
		return nil, "", false
	}
	if time.Until(x.budget.until) > 0 {
		x.event("waiting", "The server asked to wait.", nil)
		if x.budget.ready(ctx) != nil {
			return nil, "", false
		}
	}
	x.event("trying", e.Says, &e)
	r := v.request
	if class >= pinpoint.S2 && !x.o.NoProbeHeader {
		r = r.Clone()
		r.Header = r.Header.With("X-Whygate-Probe", x.id)
	}
	began := time.Now()
	a, err := x.sender.Send(ctx, r)
	if err != nil {
		e.Skipped = pinpoint.SafeText(err.Error(), 200)
		x.record(e, nil)
		x.event("skipped", e.Skipped, &e)
		return nil, "", false
	}
	e.Took, e.Status = time.Since(began), a.Status
	shows = x.judge(v.request, a, decoy)
	e.Shows = shows
	x.budget.took(a, shows == "same" || x.ref == nil && a.Refused())
	x.sinceA++
	if class == pinpoint.S2 && !safe(x.o, r) && a.Status/100 == 2 {
		x.budget.accepted = true
		x.event("note", "What should not have succeeded was accepted: nothing with an effect is sent any more.", nil)
	}
	x.record(e, a)
	told := e
	if x.ref == nil && a.Refused() {
		told.Shows = "refused"
	}
	x.event("showed", told.Shows, &told)
	if next := canonical(v.request, a); next != nil && !x.aiming && shows == "other" && x.budget.left() > 0 {
		// The same place by its proper name: what counts is what is there.
		x.out.Redirects = append(x.out.Redirects, pinpoint.Exchange{Request: v.request, Answer: a, At: a.At})
		for range maxFollow {
			if a, err = x.sender.Send(ctx, next); err != nil {
				break
			}
			shows = x.judge(next, a, decoy)
			x.budget.took(a, shows == "same")
			e.Says, e.URL, e.Status, e.Shows = x.says(op, v, decoy)+", and where it redirects to", shownURL(next), a.Status, shows
			x.record(e, a)
			x.event("showed", shows, &e)
			further := canonical(next, a)
			if further == nil || x.budget.left() == 0 {
				break
			}
			next = further
		}
	}
	return a, shows, true
}

// shownURL is the URL of a request for a report: without user and password.
func shownURL(r *pinpoint.Request) string {
	u := r.URL
	if p, err := splitURL(u); err == nil && p.user != "" {
		u = strings.Replace(u, p.user+"@", "", 1)
	}
	return pinpoint.SafeText(u, 300)
}

// canonical is the request behind a redirect that only repairs the form of a URL.
func canonical(r *pinpoint.Request, a *pinpoint.Answer) *pinpoint.Request {
	next := redirected(r, a)
	if next == nil {
		return nil
	}
	from, err1 := splitURL(r.URL)
	to, err2 := splitURL(next.URL)
	if err1 != nil || err2 != nil {
		return nil
	}
	p, _, _ := strings.Cut(from.path, "?")
	q, _, _ := strings.Cut(to.path, "?")
	if strings.EqualFold(strings.TrimRight(p, "/"), strings.TrimRight(q, "/")) && r.URL != next.URL {
		return next
	}
	return nil
}

func (x *run) says(op *Operator, v variant, decoy bool) string {
	s := op.Says
	if v.says != "" {
		s = v.says
	}
	if decoy && op.Name != "path-nonexistent" {
		s += ", on a path that does not exist"
	}
	return s
}

func (x *run) record(e pinpoint.Experiment, a *pinpoint.Answer) {
	x.out.Experiments = append(x.out.Experiments, e)
	x.out.Answers = append(x.out.Answers, a)
	x.out.Sent, x.out.Strikes = x.budget.sent, x.budget.struck
}

func (x *run) event(kind, says string, e *pinpoint.Experiment) {
	if x.o.Events == nil || says == "" {
		return
	}
	v := Event{Kind: kind, Says: says, Sent: x.budget.sent, Requests: x.budget.requests, Strikes: x.budget.struck, MaxStrikes: x.budget.strikes}
	if e != nil {
		v.Experiment = *e
	}
	x.o.Events(v)
}

func (x *run) clue(c pinpoint.Clue) {
	c.Source = pinpoint.FromExperiment
	x.out.Clues = append(x.out.Clues, c)
}

// again sends A once more. It is for safe requests only.
func (x *run) again(ctx context.Context) (a *pinpoint.Answer, shows string, ok bool) {
	a, shows, ok = x.try(ctx, operator("repeat"), variant{request: x.asked}, pinpoint.S1, false, "")
	if ok {
		x.sinceA = 0
	}
	return a, shows, ok
}

// baseline has the refusal come again, if that is permitted.
func (x *run) baseline(ctx context.Context) Baseline {
	if !x.safe {
		return x.baselineUnsafe(ctx)
	}
	recorded := x.ref != nil
	same, passes, other, silent := 0, 0, 0, 0
	first, latest := "", ""
	var last *pinpoint.Answer
	for n := range 3 {
		x.aiming = n == 0 && !recorded
		a, shows, ok := x.again(ctx)
		if !ok {
			break
		}
		if n == 0 && !recorded { // the first refusal becomes the reference
			for range maxFollow { // of a page that a redirect leads to, as a browser would
				next := redirected(x.asked, a)
				if next == nil || x.budget.left() == 0 || next.URL == x.asked.URL {
					break
				}
				x.out.Redirects = append(x.out.Redirects, pinpoint.Exchange{Request: x.asked, Answer: a, At: a.At})
				was := x.asked
				x.asked, x.out.Request = next, next
				if !safe(x.o, next) {
					x.asked, x.out.Request = was, was
					break
				}
				if a, shows, ok = x.again(ctx); !ok {
					return Unreachable
				}
			}
			turned := len(x.out.Redirects) > 0 && a.Status/100 == 2 && login(a)
			if turned { // a way that ends at a login: the first redirect is the refusal
				x.asked, a = x.out.Redirects[0].Request, x.out.Redirects[0].Answer
				x.out.Request, x.out.Redirects = x.asked, nil
			}
			if a.Refused() || alerted(a) || turned || x.standsIn(x.asked, a) {
				x.replayed(a)
				shows = "same"
				x.out.Experiments[len(x.out.Experiments)-1].Shows = shows
				x.restatus()
			}
		}
		x.aiming = false
		last, latest = a, shows
		if n == 0 {
			first = shows
		}
		switch shows {
		case "same":
			if same++; x.weak {
				x.replayed(a) // it has what the recording lacks
			} else if x.ref.Remote.IsValid() != a.Remote.IsValid() {
				c := *x.ref
				c.Remote, c.Proto = a.Remote, a.Proto
				x.ref = &c
			}
		case "passes":
			passes++
		default:
			if other++; a.Status == 0 {
				silent++
			}
		}
		if same == 2 || other == 2 {
			break
		}
	}
	switch {
	case same > 0 && passes == 0 && other == 0:
		return Reproduced
	case same > 0:
		x.unstable, x.out.Baseline = true, Intermittent
		if first == "passes" && latest == "same" { // a rate was used up, perhaps
			x.rateSeries(ctx, 5)
		}
		return x.out.Baseline
	case passes > 0 && other == 0:
		return NotReproduced
	case silent == other && !recorded:
		return Unreachable
	case other > 0 && last != nil && x.ref != nil:
		return x.differs(ctx, last)
	case x.budget.sent == 0:
		return Unreachable
	}
	return NotReproduced
}

// restatus lets the hypotheses know the status, now that there is one.
func (x *run) restatus() {
	for _, h := range x.hyps {
		h.fit(x.ref.Status)
	}
}

// baselineUnsafe sends an unsafe request once, with consent only, and never again.
func (x *run) baselineUnsafe(ctx context.Context) Baseline {
	if x.budget.forbids(pinpoint.S3) != "" || x.ref != nil && !x.ref.Refused() {
		if x.ref == nil {
			e := x.planned(candidate{op: operator("repeat"), variants: []variant{{request: x.asked}}, class: pinpoint.S3, learns: "whether and how the request is refused"})
			if e.Skipped = x.budget.forbids(pinpoint.S3); e.Skipped != "" {
				x.record(e, nil)
				x.event("skipped", e.Skipped, &e)
			}
			return NotSent
		}
		return Assumed
	}
	v := variant{request: x.asked}
	if x.o.Idempotency != "" && !x.asked.Header.Has(x.o.Idempotency) {
		v.request = x.asked.Clone()
		v.request.Header = v.request.Header.With(x.o.Idempotency, x.id)
	}
	a, shows, ok := x.try(ctx, operator("repeat"), v, pinpoint.S3, false, "")
	switch {
	case !ok || a.Status == 0:
		x.budget.stop("it is not known whether the request had an effect: it is not repeated")
		if x.ref == nil {
			return Unreachable
		}
		return Assumed
	case x.ref == nil && a.Refused():
		x.replayed(a)
		x.restatus()
		x.out.Experiments[len(x.out.Experiments)-1].Shows = "same"
		return Reproduced
	case shows == "same":
		return Reproduced
	case shows == "passes" || x.ref == nil:
		return NotReproduced
	}
	return Differs
}

// differs looks at a replay that is refused in another way: is it our client that is refused?
func (x *run) differs(ctx context.Context, a *pinpoint.Answer) Baseline {
	if x.asked.Proto == "" || wantsHTTP2(x.asked.Proto) { // the protocol was not known: the other one
		for _, v := range operator("http2").apply(x.m, x.asked) {
			if b, shows, ok := x.try(ctx, operator("http2"), v, pinpoint.S1, false, ""); ok && shows == "same" {
				x.asked, x.out.Request = v.request, v.request
				x.replayed(b)
				return Reproduced
			}
		}
	}
	c := pinpoint.Clue{ID: "repeat", Cause: "baseline-differs", Weight: pinpoint.Strong,
		Says: "The replay is refused in another way than was recorded; its refusal is not the one that is asked about."}
	if challenge(a) || botPage.Match(a.Body) {
		c.Cause, c.Weight = "tool-fingerprint-blocked", pinpoint.Fair
		c.Says = "The replay meets a check for browsers that the recorded request did not meet: the client of this tool is refused."
	}
	x.clue(c)
	return Differs
}

var botPage = regexp.MustCompile(`(?i)captcha|challenge-platform|are you a human|verify you are human|checking your browser|bot detection|unusual traffic`)

// rateSeries sends at most n plain requests that passed so far, to see whether a rate brings the
// refusal. One refusal is no pattern: three in a row behind passes are.
func (x *run) rateSeries(ctx context.Context, n int) {
	refused, passed := 0, 0
	for range n {
		a, shows, ok := x.again(ctx)
		if !ok {
			break
		}
		if x.ref == nil && (a.Status == 403 || a.Status == 429 || a.Status == 503) {
			x.replayed(a)
			x.restatus()
			shows = "same"
		}
		if shows == "same" || a.Status == 429 {
			refused++
			continue
		}
		if passed++; refused > 0 { // refused and passing by turns
			x.out.Baseline, x.unstable = Intermittent, true
			return
		}
	}
	if refused == 0 {
		return
	}
	x.unstable = true
	if refused < 3 && x.budget.stopped == "" {
		x.out.Baseline = Intermittent
		return
	}
	last := x.out.Answers[len(x.out.Answers)-1]
	weight := pinpoint.Strong
	if refused < 3 && !x.budget.resume.After(time.Now()) {
		weight = pinpoint.Hint
	}
	x.out.Baseline = Reproduced
	x.over = true
	x.clue(pinpoint.Clue{ID: "wait", Cause: rateCause(last), Weight: weight,
		Says: "The same request passed first, then it was refused, and it stayed refused: it is the number of requests in a time."})
	x.event("note", "The refusal came with the number of requests.", nil)
}

// rateCause is the cause of the catalogue for a rate that answers with a status.
func rateCause(a *pinpoint.Answer) string {
	switch {
	case a != nil && a.Status == 429:
		return "rate-limit"
	case a != nil && a.Status == 503:
		return "rate-limit-as-503"
	}
	return "rate-limit-as-403"
}
