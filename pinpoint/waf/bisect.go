package waf

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// Outcome is what an oracle says of one request.
type Outcome int

// The outcomes: something else stood in the way, a later hop answered, the firewall refused as it refused the
// original, the firewall refuses everything by now.
const (
	UNCLEAR Outcome = iota
	PASS
	BLOCK
	BANNED
)

func (o Outcome) String() string {
	return [...]string{"UNCLEAR", "PASS", "BLOCK", "BANNED"}[o]
}

// Oracle says whether the firewall would refuse a request. An error ends the search.
type Oracle interface {
	Test(ctx context.Context, r *pinpoint.Request) (Outcome, error)
}

// An Oracle may implement these, too.
type (
	// waiter says how long the server asks to wait after an UNCLEAR answer.
	waiter interface{ Wait() time.Duration }
	// coverer says which components reach the firewall as they are.
	coverer interface{ Covers(Component) bool }
)

// The caps on what one search sends, and on how many refusals it provokes.
const (
	MaxRequests = 120
	MaxStrikes  = 40
)

// Options of a search. The zero value is a search without a replica.
type Options struct {
	// Replica guesses the place, so that often only the guess is verified. It also names the rules.
	Replica *Replica
	// MaxRequests and MaxStrikes lower the caps; they cannot raise them, except for a Replica as oracle.
	MaxRequests, MaxStrikes int
	// Sleep waits when the server asks for it; nil waits for real.
	Sleep func(context.Context, time.Duration) error
	// Told hears of each request.
	Told func(Step)
	// Characters are searched for unless this is set.
	NoCharacters bool
	// NoExclusion leaves out the exclusions, whose verification compiles the rules once more.
	NoExclusion bool
	// Cause is what content that is refused stands for where the product is known, such as waf-managed-rule. Where
	// it is empty it is waf-crs-anomaly if the replica refuses the fragment, too, and otherwise waf-custom-rule.
	Cause string
	// Host is a name of the server, for the form test of numeric hosts; "" where none is known.
	Host string
}

// Step is one request of a search.
type Step struct {
	Says     string // what was kept or changed
	Outcome  Outcome
	Requests int
	Strikes  int
	Bound    int // 0 until known
}

// Status is how a search ended.
type Status string

// The ends of a search.
const (
	Found         Status = "found"
	Form          Status = "form"           // not the content: the cause is a form of the request
	NotReproduced Status = "not-reproduced" // the oracle lets the full request pass
	Nothing       Status = "not-found"      // content, but no place could be proved
	Flaky         Status = "flaky"          // the answers contradict each other
	Banned        Status = "banned"         // harmless requests are refused by now
	Stopped       Status = "unclear"        // other answers stood in the way
)

// Fragment is a smallest part that the firewall dislikes.
type Fragment struct {
	Component Component `json:"component"`
	Kind      string    `json:"kind"`
	Name      string    `json:"name"`
	Location  string    `json:"location"` // for people
	// From and To are characters of the decoded value; From 0 and To Length where only the place is known.
	From   int    `json:"from"`
	To     int    `json:"to"`
	Length int    `json:"length"`
	Text   string `json:"text"` // at most 24 characters, masked
	// Narrowed says that From and To are as close as prefix and suffix allow.
	Narrowed bool `json:"narrowed"`
	// Necessary are the characters without which the fragment passes; nil where they were not looked for.
	Necessary []string `json:"necessary,omitempty"`
	// By says who named window and characters: "server", or the engine of the replica, whose guess the server confirmed.
	By         string      `json:"by"`
	Rules      []Candidate `json:"rules,omitempty"`
	Exclusions []Exclusion `json:"exclusions,omitempty"`

	leaf int
}

// Candidate is a rule that probably matched.
type Candidate struct {
	Engine  string `json:"engine"`
	Rule    int    `json:"rule"`
	Message string `json:"message"`
	Target  string `json:"target"`
}

// Trigger is what is refused by itself. Several parts are refused only together, since scores add up.
type Trigger struct {
	Parts []Fragment `json:"parts"`
	// Also are rules about the form of the request, such as a numeric host, that add to the score.
	Also []Candidate `json:"also,omitempty"`
}

// Result of a search.
type Result struct {
	Status   Status    `json:"status"`
	Cause    string    `json:"cause,omitempty"` // of the catalogue
	Says     string    `json:"says"`
	Triggers []Trigger `json:"triggers,omitempty"`
	// Field is what a form test blames: a method, a media type, a header.
	Field string `json:"field,omitempty"`
	// Without is what became of the request with only the fragments neutralised, Alone of the harmless twin with
	// only one trigger. PASS and BLOCK prove the place.
	Without Outcome `json:"without"`
	Alone   Outcome `json:"alone"`
	Proved  bool    `json:"proved"`

	Requests  int     `json:"requests"`
	Strikes   int     `json:"strikes"`
	Sentinels int     `json:"sentinels"` // of the requests: tests whether the server still answers as before
	Retests   int     `json:"retests"`   // of the requests: repetitions because answers contradicted each other
	Bound     int     `json:"bound"`     // of the requests without sentinels and retests
	Noise     float64 `json:"noise"`     // share of answers that were outvoted
	// Sampled says that the firewall refuses only some of equal requests.
	Sampled bool     `json:"sampled,omitempty"`
	Capped  bool     `json:"capped,omitempty"` // a cap ended the search early
	Notes   []string `json:"notes,omitempty"`

	named bool // the cause is more than a guess
}

var (
	errCap    = errors.New("the budget is used up")
	errBanned = errors.New("harmless requests are refused by now")
	errFlaky  = errors.New("the answers contradict each other")
	errOther  = errors.New("the answers are neither a refusal nor a pass")
)

// bisection is a search under way.
type bisection struct {
	ctx           context.Context
	oracle        Oracle
	opts          Options
	m             *Message
	tally         map[[32]byte]*votes
	res           *Result
	noisy         bool    // answers contradicted each other, or a proof failed
	due           float64 // share of refusals among those that are due, where some of equal requests are refused only
	run           int     // refusals in a row
	sinceSentinel int
	sinceBlock    int
	reserve       int // requests kept for the proof
	watching      bool
	guessed       bool // the replica's guess was proved
	triggers      []trigger
	safe          []trigger // whole leaves, which are proved
}

type votes struct{ block, pass int }

// trigger is a set of windows that is refused by itself.
type trigger []window

type window struct {
	leaf      int
	span      Span
	narrowed  bool
	necessary []int // units
	chars     bool
}

// Bisect finds the smallest part of a request that the firewall refuses. It stays within the caps, and proves
// what it says: the original with only this part neutralised passes, and a harmless twin with only this part is
// refused. The error is that of the oracle; what was found until then is in the result.
func Bisect(ctx context.Context, r *pinpoint.Request, o Oracle, opts Options) (Result, error) {
	_, local := o.(*Replica)
	most, strikes := MaxRequests, MaxStrikes
	if local {
		most, strikes = 4000, 4000
	}
	if opts.MaxRequests <= 0 || opts.MaxRequests > most {
		opts.MaxRequests = most
	}
	if opts.MaxStrikes <= 0 || opts.MaxStrikes > strikes {
		opts.MaxStrikes = strikes
	}
	if opts.Sleep == nil {
		opts.Sleep = sleep
	}
	res := Result{}
	b := &bisection{ctx: ctx, oracle: o, opts: opts, m: Take(r), tally: map[[32]byte]*votes{}, res: &res, reserve: 3}
	res.Notes = b.m.Notes
	err := b.search()
	b.conclude(r, local)
	switch {
	case errors.Is(err, errCap):
		res.Capped, err = true, nil
		if res.Status == "" {
			res.Status, res.Says = Nothing, "The budget was used up before the place was found."
		}
	case errors.Is(err, errBanned) && res.Proved:
		res.Notes, err = append(res.Notes, "after the proof harmless requests were refused as well; the search stopped"), nil
	case errors.Is(err, errBanned):
		res.Status, res.Cause, res.Says, err = Banned, "waf-escalated-ban", "Harmless requests are refused by now as well: the firewall seems to have banned this client. The search stopped at once.", nil
	case errors.Is(err, errFlaky):
		res.Status, res.Says, err = Flaky, "Equal requests were answered differently too often; nodes may have different rules.", nil
	case errors.Is(err, errOther):
		res.Status, res.Says, err = Stopped, "The server answered neither with the refusal nor as it answers harmless requests; the search stopped.", nil
	case err != nil:
		res.Status, res.Says = cmp.Or(res.Status, Stopped), cmp.Or(res.Says, "The search stopped.")
	}
	return res, err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *bisection) search() error {
	full, twin := b.m.All(), b.m.Twin()
	refused, err := b.calibrate(full, twin)
	if err != nil || !refused {
		return err
	}
	_, local := b.oracle.(*Replica)
	b.watching = !local
	if err = b.guess(full, twin); err != nil || b.res.Proved {
		return err
	}
	order := b.order()
	if len(order) == 0 {
		b.res.Status, b.res.Says = Nothing, "Nothing of this request can be replaced by harmless content."
		return nil
	}
	for round := 0; round < maxRounds; round++ {
		err = b.rounds(order, full, twin)
		if !errors.Is(err, errAgain) {
			break
		}
		b.triggers = nil
		if err = b.doubt(); err != nil {
			break
		}
		err = errAgain
	}
	if errors.Is(err, errAgain) {
		err = errFlaky
	}
	if b.res.Proved || !errors.Is(err, errCap) && !errors.Is(err, errFlaky) {
		return err
	}
	if b.safe != nil {
		b.triggers, b.res.Alone, b.res.Without, b.res.Proved = b.safe, BLOCK, PASS, true
		b.res.Capped = errors.Is(err, errCap)
		return nil
	}
	if errors.Is(err, errCap) && len(b.triggers) > 0 {
		if proof := b.prove(full, twin); proof != nil && !errors.Is(proof, errAgain) {
			return proof
		}
		b.res.Capped = true
		return nil
	}
	return err
}

const (
	maxRounds   = 3
	maxTriggers = 4 // that are refused by themselves
	maxTogether = 4 // parts of one
	maxWait     = time.Minute
	watchEvery  = 10
	maxRun      = 5 // refusals in a row before a harmless request is tried
)

// errAgain says that a proof failed: some answer was wrong.
var errAgain = errors.New("a proof failed")

// bound is the largest number of requests without noise (section 5.3 of the specification of the search):
// 4 for the calibration, 2⌈log c⌉+2 for the components, 2k(⌈log m⌉+2) for the leaves, k(2⌈log L⌉+2) for the windows,
// 2kw for the characters, 2 for the proof.
func (b *bisection) bound(leaves, length, k, w int) {
	components := map[Component]bool{}
	for i := range b.m.Leaves {
		components[b.m.Leaves[i].Component] = true
	}
	b.res.Bound = Bound(len(components), leaves, k, length, w)
	if b.noisy { // each answer is worth less: the capacity of a channel with this much noise is 0.6
		b.res.Bound = min(MaxRequests, b.res.Bound*5/3)
	}
}

// Bound is the formula: components, leaves, guilty parts, length of the longest leaf, length of the window.
func Bound(c, m, k, length, w int) int {
	return 4 + 2*log2(c) + 2 + 2*k*(log2(m)+2) + k*(2*log2(length)+2) + 2*k*w + 2
}

func log2(n int) int {
	if n < 2 {
		return 0
	}
	return bits.Len(uint(n - 1))
}

// conclude puts what was found into the result.
func (b *bisection) conclude(r *pinpoint.Request, local bool) {
	res := b.res
	total, lost := 0, 0
	for _, v := range b.tally {
		total += v.block + v.pass
		lost += min(v.block, v.pass)
	}
	if total > 0 && b.due == 0 {
		res.Noise = float64(lost) / float64(total)
	}
	if len(b.triggers) == 0 {
		return
	}
	by := "server"
	if p, ok := b.oracle.(*Replica); ok {
		by = p.Engine()
	} else if b.guessed {
		by = b.opts.Replica.Engine()
	}
	k, w, length := 0, 0, 1
	for _, t := range b.triggers {
		var out Trigger
		for _, win := range t {
			l := &b.m.Leaves[win.leaf]
			f := Fragment{Component: l.Component, Kind: l.Kind, Name: l.Name, Location: l.String(), From: win.span.From, To: win.span.To, Length: len(l.units),
				Narrowed: win.narrowed, By: by, leaf: win.leaf}
			if win.narrowed {
				f.Text = Show(l.Text(win.span.From, win.span.To))
			}
			if win.chars {
				f.Necessary = []string{}
				for _, u := range win.necessary {
					if c := Show(l.Text(u, u+1)); !slices.Contains(f.Necessary, c) {
						f.Necessary = append(f.Necessary, c)
					}
				}
			}
			k++
			w, length = max(w, min(maxCharacters, win.span.To-win.span.From)), max(length, len(l.units))
			out.Parts = append(out.Parts, f)
		}
		res.Triggers = append(res.Triggers, out)
	}
	for i := range b.m.Leaves {
		length = max(length, len(b.m.Leaves[i].units))
	}
	b.bound(len(b.m.Leaves), length, k, w)
	res.Status, res.Cause = Found, "waf-custom-rule"
	b.explain(r)
	if b.opts.Cause != "" {
		res.Cause, res.named = b.opts.Cause, true
	}
	var places []string
	for _, t := range res.Triggers {
		for _, f := range t.Parts {
			if p := f.Location; !slices.Contains(places, p) {
				places = append(places, p)
			}
		}
	}
	joint := " and "
	if len(res.Triggers) == 1 && len(res.Triggers[0].Parts) > 1 {
		joint = " together with "
	}
	res.Says = "The firewall refuses what stands in " + strings.Join(places, joint) + "."
	if !res.Proved {
		res.Status = Nothing
		res.Says = "The firewall probably refuses what stands in " + strings.Join(places, joint) + "; the proof is missing."
	}
}

// Clues are what the search proves.
func (r *Result) Clues() []pinpoint.Clue {
	if r.Cause == "" || r.Status != Found && r.Status != Form && r.Status != Banned {
		return nil
	}
	c := pinpoint.Clue{Source: pinpoint.FromExperiment, ID: "bisect", Cause: r.Cause, Weight: pinpoint.Strong, Says: r.Says, Names: map[string]string{}}
	if r.Field != "" {
		c.Names["field"] = r.Field
	}
	switch {
	case r.Status == Found && r.Proved && r.named:
		c.Weight = pinpoint.Certain
	case r.Status == Form && !r.named && r.Cause == "waf-body-limit":
		c.Weight = pinpoint.Hint // as any hop does that limits bodies
	case r.Status != Banned && !r.named:
		c.Weight = pinpoint.Fair // it is refused; by whose rule is not known
	}
	if r.Proved && r.Status == Found {
		c.Says += fmt.Sprintf(" With only this part made harmless the request passes, and a harmless request with only this part is refused (%d requests, %d refusals).", r.Requests, r.Strikes)
	}
	if len(r.Triggers) > 0 {
		f := &r.Triggers[0].Parts[0]
		c.Names["field"], c.Names["fragment"] = f.Location, f.Text
		c.Quote = f.Text
		if len(f.Necessary) > 0 {
			c.Names["characters"] = strings.Join(f.Necessary, " ")
		}
		if len(f.Rules) > 0 {
			c.Names["rule"] = strconv.Itoa(f.Rules[0].Rule)
		}
		for _, e := range f.Exclusions {
			if e.Verified {
				c.Fix = append(c.Fix, e.Says+": "+e.Directive)
			}
		}
	}
	return []pinpoint.Clue{c}
}
