package replay

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// hypothesis is a cause that may hold, with the natural logarithm of its odds.
type hypothesis struct {
	cause *pinpoint.Cause
	log   float64
	clued bool // some clue speaks for it
	read  bool // the server's own log, configuration or files say so
	off   bool // it never shows with this status
}

func (h *hypothesis) fit(status int) {
	h.off = !h.clued && status != 0 && len(h.cause.Statuses) > 0 && !slices.Contains(h.cause.Statuses, status)
}

// maxWeight bounds what clues can say before an experiment: one that contradicts must be heard.
const maxWeight = 8

func hypotheses(causes []*pinpoint.Cause, clues []pinpoint.Clue, status int) (all []*hypothesis) {
	for _, c := range causes {
		if c == nil || c.Pseudo {
			continue
		}
		h := &hypothesis{cause: c, log: c.Prior}
		for _, clue := range clues {
			switch {
			case clue.Cause == c.ID && clue.Against:
				h.log -= clue.Weight
			case clue.Cause == c.ID:
				h.log += clue.Weight
				h.clued = h.clued || clue.Weight > 0
				h.read = h.read || clue.Weight >= pinpoint.Strong && (clue.Source == pinpoint.FromLog || clue.Source == pinpoint.FromConfig || clue.Source == pinpoint.FromFiles)
			}
		}
		h.log = min(max(h.log, -maxWeight), maxWeight)
		h.fit(status)
		all = append(all, h)
	}
	return all
}

// outcomes are what planning counts with, in this order.
var outcomes = [3]string{"passes", "same", "other"}

// predicts is how probable each outcome is if the cause holds.
func (h *hypothesis) predicts(op *Operator) (p [3]float64) {
	named := 0
	for _, e := range h.cause.Expect {
		if i := slices.Index(outcomes[:], e.Shows); e.Operator == op.Name && i >= 0 {
			p[i]++
			named++
		}
	}
	if named > 0 {
		for i := range p {
			p[i] = 0.8*p[i]/float64(named) + 0.2/3
		}
		return p
	}
	return unnamed(op)
}

// unnamed is what an operator shows for a cause that does not name it: the same, unless it asks for
// something else.
func unnamed(op *Operator) [3]float64 {
	switch {
	case op.Name == "path-nonexistent" || op.Name == "host-other":
		return [3]float64{0.05, 0.4, 0.55}
	case op.Name == "path-sibling":
		return [3]float64{0.5, 0.3, 0.2}
	case op.Moves:
		return [3]float64{0.2, 0.55, 0.25}
	}
	return [3]float64{0.03, 0.93, 0.04}
}

// mass is the share of causes that are in no catalogue.
const mass = 0.1

// weights are the probabilities of the hypotheses; the last is for none of them.
func weights(hyps []*hypothesis) []float64 {
	top := math.Inf(-1)
	for _, h := range hyps {
		if !h.off {
			top = max(top, h.log)
		}
	}
	w := make([]float64, len(hyps)+1)
	sum := 0.0
	for i, h := range hyps {
		if !h.off {
			w[i] = math.Exp(h.log - top)
			sum += w[i]
		}
	}
	for i := range hyps {
		if sum > 0 {
			w[i] *= (1 - mass) / sum
		}
	}
	w[len(hyps)] = mass
	return w
}

// gain is the expected information of an operator in bits: how much its outcome says about the cause.
func gain(hyps []*hypothesis, w []float64, op *Operator) (bits float64, total [3]float64) {
	conditional := 0.0
	for i, p := range w {
		if p == 0 {
			continue
		}
		d := unnamed(op)
		if i < len(hyps) {
			d = hyps[i].predicts(op)
		}
		for k := range d {
			total[k] += p * d[k]
			conditional -= p * d[k] * math.Log2(d[k])
		}
	}
	for _, p := range total {
		if p > 0 {
			bits -= p * math.Log2(p)
		}
	}
	return bits - conditional, total
}

// minGain is the information below which an experiment is not worth a request.
const minGain = 0.008

// candidate is an experiment that could be next.
type candidate struct {
	op       *Operator
	variants []variant
	class    pinpoint.Class
	decoy    bool
	bits     float64
	score    float64 // bits per cost
	learns   string
}

func (k *candidate) key() string {
	if k.decoy {
		return "decoy " + k.op.Name
	}
	return k.op.Name
}

// candidates are the experiments that were not made yet, the best first.
func (x *run) candidates() (all []candidate) {
	w := weights(x.hyps)
	add := func(op *Operator, base *pinpoint.Request, decoy bool) {
		k := candidate{op: op, decoy: decoy}
		if op.Name == "repeat" || x.tried[k.key()] || x.done(op) {
			return
		}
		k.variants = op.apply(x.m, base)
		if len(k.variants) == 0 {
			return
		}
		k.class = op.class(x.o, base, k.variants[0].request)
		for _, v := range k.variants {
			k.class = max(k.class, op.class(x.o, base, v.request))
		}
		if decoy {
			k.class = min(k.class, decoyClass(base))
		}
		if k.class == Never || op.Safe == Never && safe(x.o, base) {
			return
		}
		var p [3]float64
		k.bits, p = gain(x.hyps, w, op)
		if op.Name == "body-benign" { // it opens the way for those that change the size as well
			for _, size := range sizes {
				b, _ := gain(x.hyps, w, operator(size))
				k.bits = max(k.bits, b)
			}
		}
		switch {
		case op.Name == "path-nonexistent" && !x.safe:
			// Its own outcome, and what the twins on it may tell then.
			best := 0.0
			for _, twin := range []string{"body-benign", "ctype-json", "ua-browser"} {
				b, _ := gain(x.hyps, w, operator(twin))
				best = max(best, b)
			}
			k.bits += 0.7 * best
		case op.Name == "cache-bust" && cached(x.ref):
			k.bits += 0.3
		}
		// A flip is confirmed with more requests; a refusal is a strike.
		cost := 0.5 + 0.5*float64(len(k.variants)) + p[0] + 0.3*p[1] + map[pinpoint.Class]float64{pinpoint.S2: 0.5, pinpoint.S3: 2}[k.class]
		switch op.Name {
		case "wait":
			cost += 3
		case "ip4", "ip6": // often there is no such address
			cost += 0.5
		}
		k.score = k.bits / cost
		k.learns = x.learns(op, w)
		all = append(all, k)
	}
	for _, op := range Operators {
		if op.Name == "wait" && (!x.safe || x.budget.maxWait <= 0 || !x.timed()) {
			continue
		}
		add(op, x.asked, false)
		if x.decoy != nil && op.Unsafe != Never && !op.Moves && op.Name != "wait" {
			add(op, x.decoy, true)
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return cmp.Compare(b.score, a.score) })
	return all
}

// timed says that something speaks for a cause that goes away by waiting; else a pause is time lost.
func (x *run) timed() bool {
	return x.ref != nil && (x.ref.Status == 429 || x.ref.Status == 503) || slices.ContainsFunc(x.hyps, func(h *hypothesis) bool { return h.clued && h.passes(operator("wait")) })
}

// done says that an operator would repeat what is known.
func (x *run) done(op *Operator) bool {
	if op.Name == "method-head" && x.tried["method-get"] {
		return true
	}
	if slices.Contains(sizes, op.Name) && !x.stayed("body-benign") && len(operator("body-benign").apply(x.m, x.asked)) > 0 {
		return true
	}
	if larger := larger[op.Name]; len(larger) > 0 && !slices.ContainsFunc(larger, func(name string) bool { return !x.stayed(name) }) {
		return true
	}
	if x.ref == nil || !x.ref.Remote.IsValid() {
		return false
	}
	is4 := x.ref.Remote.Addr().Unmap().Is4()
	return op.Name == "ip4" && is4 || op.Name == "ip6" && !is4
}

// sizes are the operators that change the size of a body and its content: they tell of the size only
// where the content alone changes nothing.
var sizes = []string{"body-empty", "body-shrink", "body-grow"}

// larger are the operators that change all that one changes, and more: when the refusal stays with
// each of them, the smaller change tells nothing.
var larger = map[string][]string{
	"cookie-one": {"cookie-drop"}, "query-one": {"query-drop"}, "xff-one": {"xff-drop"}, "ua-plain": {"ua-browser", "ua-drop"},
}

// stayed says that the refusal stayed the same with an operator.
func (x *run) stayed(name string) bool {
	return slices.ContainsFunc(x.shown, func(s shown) bool { return s.op.Name == name && s.shows == "same" })
}

// lacking is what the user could give to make an experiment possible.
var lacking = []struct {
	operator, needs string
	has             func(x *run) bool
}{
	{"auth-swap", "needs another identity that is yours to use (--swap)", func(x *run) bool { return len(x.c.Swap) > 0 || !x.personal() }},
	{"from-elsewhere", "needs another own address to send from (--from)", func(x *run) bool { return x.o.From != "" }},
	{"direct-origin", "needs the address of the next hop (--origin)", func(x *run) bool { return x.o.Origin != "" }},
	{"wait", "needs time: --wait lets it pause for up to a minute", func(x *run) bool { return x.o.MaxWait > 0 || !x.safe || !x.timed() }},
}

// personal says that the refusal may depend on who asks: there is a credential, or something speaks of one.
func (x *run) personal() bool {
	return carriesSecrets(x.asked) || x.ref != nil && x.ref.Status == 401 || slices.ContainsFunc(x.hyps, func(h *hypothesis) bool { return h.clued && h.passes(operator("auth-swap")) })
}

// wanting are experiments that would tell much and lack something that only the user has.
func (x *run) wanting() (all []pinpoint.Experiment) {
	w := weights(x.hyps)
	for _, l := range lacking {
		op := operator(l.operator)
		if l.has(x) || x.tried[op.Name] {
			continue
		}
		if bits, _ := gain(x.hyps, w, op); bits < wantGain {
			continue
		}
		class := op.Safe
		if !x.safe {
			class = op.Unsafe
		}
		all = append(all, pinpoint.Experiment{Operator: op.Name, Class: class, Says: op.Says, Method: pinpoint.SafeText(x.asked.Method, 20),
			URL: shownURL(x.asked), Skipped: l.needs, Learns: x.learns(op, w)})
	}
	return all
}

// wantGain is the information for which the user is asked for something.
const wantGain = 0.03

// learns names the causes that an operator speaks about.
func (x *run) learns(op *Operator, w []float64) string {
	type named struct {
		id string
		p  float64
	}
	var all []named
	for i, h := range x.hyps {
		if slices.ContainsFunc(h.cause.Expect, func(e pinpoint.Expect) bool { return e.Operator == op.Name }) && w[i] > 0 {
			all = append(all, named{h.cause.ID, w[i]})
		}
	}
	slices.SortStableFunc(all, func(a, b named) int { return cmp.Compare(b.p, a.p) })
	var ids []string
	for _, n := range all[:min(len(all), 4)] {
		ids = append(ids, n.id)
	}
	if len(ids) == 0 {
		return ""
	}
	return "speaks for or against " + strings.Join(ids, ", ")
}

// explore makes experiments as long as they separate what is possible.
func (x *run) explore(ctx context.Context) {
	for !x.over && ctx.Err() == nil && x.budget.left() > 0 {
		if x.clear() {
			break
		}
		if x.sinceA >= 10 && !x.sentinel(ctx) {
			break
		}
		next, ok := x.next()
		if !ok {
			break
		}
		x.tried[next.key()] = true
		x.experiment(ctx, next)
		if n := len(x.flips); n > 0 && x.flips[n-1].op == next.op && next.op.Moves && !next.op.far() && x.safe {
			// Where any path passes, another path proves nothing.
			for _, k := range x.candidates() {
				if k.op.Name == "path-nonexistent" && x.budget.forbids(k.class) == "" {
					x.tried[k.key()] = true
					x.experiment(ctx, k)
				}
			}
		}
	}
	if !x.over {
		x.unsent()
	}
	x.out.Stopped, x.out.Resume = x.budget.stopped, x.budget.resume
	if x.out.Stopped != "" {
		x.event("stopped", x.out.Stopped, nil)
	}
}

// next is the best experiment that may be sent.
func (x *run) next() (candidate, bool) {
	for _, k := range x.candidates() {
		if k.bits >= minGain && x.budget.forbids(k.class) == "" {
			return k, true
		}
	}
	return candidate{}, false
}

// decided says that the server itself named the cause, and that nothing else comes near what it named.
func (x *run) decided() bool {
	read, other := math.Inf(-1), math.Inf(-1)
	for _, h := range x.hyps {
		switch {
		case h.read:
			read = max(read, h.log)
		case !h.off && h.clued:
			other = max(other, h.log)
		}
	}
	return read > 0 && read-other > 2
}

// clear says that one cause stands clear of the others, and that an experiment proved it.
func (x *run) clear() bool {
	if x.decided() {
		return true
	}
	first, second := math.Inf(-1), math.Inf(-1)
	var top *hypothesis
	for _, h := range x.hyps {
		switch {
		case h.off:
		case h.log > first:
			first, second, top = h.log, first, h
		case h.log > second:
			second = h.log
		}
	}
	return top != nil && first-second > 4 && slices.ContainsFunc(x.flips, func(f flip) bool { return f.sure && top.passes(f.op) })
}

// passes says that a cause has an operator flip the answer.
func (h *hypothesis) passes(op *Operator) bool {
	return slices.Contains(h.cause.Expect, pinpoint.Expect{Operator: op.Name, Shows: "passes"})
}

// sentinel sends again what is known to be refused, and what is known to pass.
func (x *run) sentinel(ctx context.Context) bool {
	x.sinceA = 0
	if x.safe {
		if _, shows, ok := x.again(ctx); ok && shows == "passes" {
			x.vanished(ctx)
			return false
		}
	}
	if x.pass != nil && x.budget.left() > 0 && safe(x.o, x.pass) {
		if _, shows, ok := x.try(ctx, x.passOp, variant{x.pass, "what passed before"}, pinpoint.S1, false, ""); ok && shows == "same" {
			x.clue(pinpoint.Clue{ID: "repeat", Cause: "waf-escalated-ban", Weight: pinpoint.Fair,
				Says: "A request that passed before is refused now: the experiments themselves are held against us."})
			x.budget.stop("a request that passed before is refused now")
			return false
		}
	}
	return true
}

// vanished looks closer when the refused request passes: a rate, chance, or a repair meanwhile.
func (x *run) vanished(ctx context.Context) {
	x.unstable, x.over = true, true
	x.out.Baseline = NotReproduced
	x.event("note", "The request that was refused passes now.", nil)
	x.rateSeries(ctx, 5)
}

// experiment sends one candidate and follows up on what it shows.
func (x *run) experiment(ctx context.Context, k candidate) {
	if k.op.Name == "wait" {
		x.wait(ctx, k)
		return
	}
	for _, v := range k.variants {
		a, shows, ok := x.try(ctx, k.op, v, k.class, k.decoy, k.learns)
		if !ok {
			return
		}
		at := len(x.out.Experiments) - 1
		if shows == "unclear" {
			continue
		}
		if k.op.Name == "path-nonexistent" && shows == "same" && !safe(x.o, v.request) {
			x.decoy = v.request
		}
		sure := true
		if shows == "passes" {
			sure = x.confirm(ctx, k, v, at)
			if x.over {
				return
			}
		}
		if !sure {
			continue
		}
		if shows == "passes" && !k.decoy && a != nil {
			x.pass, x.passOp = v.request, k.op
		}
		last := v.request == k.variants[len(k.variants)-1].request
		if shows != "same" || last {
			x.shown = append(x.shown, shown{k.op, shows, k.decoy, x.out.Experiments[at].Says})
			i := slices.Index(outcomes[:], shows)
			for _, h := range x.hyps {
				p := h.predicts(k.op)
				h.log += math.Log(p[i])
				if n := len(x.flips); shows == "passes" && n > 0 && x.flips[n-1].sure && h.passes(k.op) {
					h.log += pinpoint.Strong // it was repeated
				}
			}
			return
		}
	}
}

// confirm holds a change that passes against the request without it: refused again, passing again,
// refused again. It reports false when the change was not it.
func (x *run) confirm(ctx context.Context, k candidate, v variant, at int) bool {
	f := flip{op: k.op, says: x.out.Experiments[at].Says, method: v.request.Method, decoy: k.decoy}
	base := x.asked
	if k.decoy {
		base = x.decoy
	}
	if k.class == pinpoint.S3 {
		x.budget.highest = pinpoint.S2 // it had its effect; consent was not for a second one
	}
	if !k.decoy && !(x.safe && safe(x.o, v.request)) {
		x.flips = append(x.flips, f) // what has effects is not repeated: no control, no proof
		return true
	}
	control := func() (string, bool) {
		if !k.decoy {
			_, shows, ok := x.again(ctx)
			return shows, ok
		}
		_, shows, ok := x.try(ctx, operator("path-nonexistent"), variant{base, "the same path without the change"}, k.class, true, "")
		return shows, ok
	}
	// A server that refuses nine of ten by chance imitates two turns in one of twenty diagnoses.
	rounds := 3
	if k.op.far() || slices.ContainsFunc(x.flips, func(f flip) bool { return f.sure && f.op.Size <= k.op.Size }) {
		rounds = 1 // it proves little, or a smaller change explains it already
	}
	for range rounds {
		shows, ok := control()
		if !ok || shows == "unclear" {
			break
		}
		if shows != "same" {
			if k.decoy {
				x.decoy = nil
				x.unstable, x.over = true, true
			} else {
				x.vanished(ctx)
			}
			return false
		}
		f.confirmed++
		x.out.Experiments[at].Flip = true
		if f.confirmed == rounds || x.budget.left() < 2 {
			break
		}
		_, shows, ok = x.try(ctx, k.op, v, k.class, k.decoy, "")
		if !ok || shows == "unclear" {
			break
		}
		if shows != "passes" { // it passed once and does not again: chance
			x.unstable = true
			x.out.Experiments[at].Flip = false
			return false
		}
	}
	f.sure = f.confirmed == 3
	x.flips = append(x.flips, f)
	return true
}

// wait sends A after a quiet period, and when it passes, a few more to see the refusal return.
func (x *run) wait(ctx context.Context, k candidate) {
	pause := x.budget.maxWait
	x.event("waiting", fmt.Sprintf("A quiet period of %s.", pause.Round(time.Second)), nil)
	if sleep(ctx, pause) != nil {
		return
	}
	_, shows, ok := x.try(ctx, k.op, k.variants[0], k.class, false, k.learns)
	if !ok || shows == "unclear" {
		return
	}
	if shows == "passes" {
		x.vanished(ctx)
		if x.out.Baseline == Reproduced {
			for i := range x.out.Clues {
				if c := &x.out.Clues[i]; c.ID == "wait" && c.Weight == pinpoint.Strong {
					c.Weight = pinpoint.Certain
					c.Says = "After a pause the same request passed, then it was refused again, and it stayed refused: it is the number of requests in a time."
				}
			}
		}
		return
	}
	x.shown = append(x.shown, shown{k.op, shows, false, k.op.Says})
}

// cached says that an answer came out of a cache.
func cached(a *pinpoint.Answer) bool {
	if a == nil {
		return false
	}
	if v := strings.TrimLeft(strings.TrimSpace(a.Header.Value("Age")), "0"); v != "" {
		return true
	}
	for _, n := range []string{"X-Cache", "CF-Cache-Status", "X-Cache-Status", "X-Proxy-Cache", "Cache-Status", "X-Vercel-Cache", "X-Drupal-Cache"} {
		if strings.Contains(strings.ToLower(a.Header.Value(n)), "hit") {
			return true
		}
	}
	return false
}

// unsent lists what would tell more and may not be sent, with the flag that allows it.
func (x *run) unsent() {
	n := 0
	all := x.candidates()
	slices.SortStableFunc(all, func(a, b candidate) int { return cmp.Compare(a.class, b.class) }) // the safer first
	for _, k := range all {
		why := x.budget.forbids(k.class)
		if why == "" || k.bits < minGain || n == 5 {
			continue
		}
		n++
		e := x.planned(k)
		e.Skipped = why
		x.record(e, nil)
		x.event("skipped", why, &e)
	}
	for _, e := range x.wanting() {
		x.record(e, nil)
		x.event("skipped", e.Skipped, &e)
	}
}

func (x *run) planned(k candidate) pinpoint.Experiment {
	v := k.variants[0]
	return pinpoint.Experiment{Operator: k.op.Name, Class: k.class, Says: x.says(k.op, v, k.decoy), Learns: k.learns,
		Method: pinpoint.SafeText(v.request.Method, 20), URL: shownURL(v.request)}
}

// Plan lists what Run would send, in order as far as no answer changes it, and sends nothing.
// Experiments that need a flag carry it in Skipped.
func Plan(c *pinpoint.Case, clues []pinpoint.Clue, causes []*pinpoint.Cause, o Options) []pinpoint.Experiment {
	o.Events = nil
	x := newRun(c, clues, causes, &o)
	if x.asked == nil || blocked(c) {
		return nil
	}
	var list []pinpoint.Experiment
	base := candidate{op: operator("repeat"), variants: []variant{{request: x.asked}}, class: pinpoint.S1, learns: "whether the refusal comes again"}
	if !x.safe {
		base.class = pinpoint.S3
	}
	e := x.planned(base)
	e.Skipped = x.budget.forbids(base.class)
	list = append(list, e)
	if x.safe {
		list = append(list, e)
	}
	room := min(x.budget.requests, x.budget.strikes) - len(list)
	var flagged []pinpoint.Experiment
	for _, k := range x.candidates() {
		if k.bits < minGain {
			continue
		}
		e := x.planned(k)
		if e.Skipped = x.budget.forbids(k.class); e.Skipped != "" {
			flagged = append(flagged, e)
			continue
		}
		for _, v := range k.variants {
			if room--; room < 0 {
				break
			}
			one := k
			one.variants = []variant{v}
			list = append(list, x.planned(one))
		}
	}
	return append(append(list, flagged...), x.wanting()...)
}

// conclude turns what was shown into clues.
func (x *run) conclude() {
	if x.out.Stopped == "" {
		x.out.Stopped, x.out.Resume = x.budget.stopped, x.budget.resume
	}
	switch x.out.Baseline {
	case NotReproduced, Intermittent:
		x.clue(pinpoint.Clue{ID: "repeat", Cause: "not-reproduced", Weight: pinpoint.Strong, Says: baselineSays[x.out.Baseline]})
		x.unflip()
		return // whatever flipped, it flips by itself
	case Reproduced, Assumed:
	default:
		return
	}
	x.unflip()
	smallest := math.MaxInt
	for _, f := range x.flips {
		if f.sure || f.confirmed > 0 {
			smallest = min(smallest, f.op.Size)
		}
	}
	busted := x.busted()
	for _, s := range x.shown {
		var f *flip
		if i := slices.IndexFunc(x.flips, func(f flip) bool { return f.op == s.op && f.decoy == s.decoy }); i >= 0 && s.shows == "passes" {
			f = &x.flips[i]
		}
		for _, h := range x.hyps {
			if h.off {
				continue
			}
			if c, ok := x.weigh(h, s, f, smallest, busted); ok {
				x.clue(c)
			}
		}
	}
}

// busted says that the refusal comes out of a cache: another URL passes.
func (x *run) busted() bool {
	return cached(x.ref) && slices.ContainsFunc(x.flips, func(f flip) bool { return f.op.Name == "cache-bust" && f.confirmed > 0 })
}

// anyPath says that even a path that does not exist passes.
func (x *run) anyPath() bool {
	return slices.ContainsFunc(x.shown, func(s shown) bool { return s.op.Name == "path-nonexistent" && s.shows == "passes" })
}

// unflip takes the mark of proof from experiments whose flip has another reason.
func (x *run) unflip() {
	for i := range x.out.Experiments {
		e := &x.out.Experiments[i]
		op := operator(e.Operator)
		if x.unstable || x.busted() && e.Operator != "cache-bust" || op != nil && op.Moves && x.anyPath() {
			e.Flip = false
		}
	}
}

// late are the layers that look at a request behind the routes.
var late = []string{"application", "framework", "files", "storage"}

// weigh is the clue that an outcome gives for or against a cause.
func (x *run) weigh(h *hypothesis, s shown, f *flip, smallest int, busted bool) (c pinpoint.Clue, ok bool) {
	expected := map[string]bool{}
	for _, e := range h.cause.Expect {
		if e.Operator == s.op.Name {
			expected[e.Shows] = true
		}
	}
	if len(expected) == 0 {
		return c, false
	}
	c = pinpoint.Clue{ID: s.op.Name, Cause: h.cause.ID}
	switch {
	case s.shows == "passes" && expected["passes"]:
		c.Weight, c.Says = flipWeight(f)
		switch {
		case x.unstable:
			c.Weight = min(c.Weight, pinpoint.Hint)
			c.Says += " But the answers changed by themselves, too."
		case busted && s.op.Name != "cache-bust":
			c.Weight = min(c.Weight, pinpoint.Hint)
			c.Says += " But the refusal comes out of a cache, and any other URL passes."
		case s.op.Moves && !s.op.far() && x.anyPath():
			c.Weight = min(c.Weight, pinpoint.Hint)
			c.Says += " But a path that does not exist passes, too."
		case s.op.Name == "cache-bust" && !cached(x.ref):
			c.Weight = min(c.Weight, pinpoint.Hint)
			c.Says += " But nothing else speaks of a cache: it may be that any query passes."
		case s.op.far():
			c.Weight = min(c.Weight, pinpoint.Fair) // another thing was asked for
		case f != nil && f.op.Size > smallest:
			c.Weight = min(c.Weight, pinpoint.Fair)
			c.Says += " A smaller change does the same."
		}
		if s.decoy && slices.Contains(late, h.cause.Layer) {
			c.Weight = pinpoint.Hint
			c.Says += " But it was refused on a path that does not exist, too: the routes were not asked."
		}
		if !knownBy(h, s.op) || s.decoy && h.cause.Layer == "client" { // it may do so; it is not what the cause is known by
			c.Weight = map[float64]float64{pinpoint.Certain: pinpoint.Strong, pinpoint.Strong: pinpoint.Fair, pinpoint.Fair: pinpoint.Hint}[c.Weight]
			if c.Weight == 0 {
				c.Weight = pinpoint.Hint / 2
			}
		}
		c.Says = "With " + s.says + ": " + c.Says
	case expected[s.shows] && s.shows == "same":
		c.Weight = pinpoint.Hint // so would most causes
		if s.op.Name == "path-nonexistent" || s.op.Name == "host-other" {
			c.Weight = pinpoint.Fair
		}
		c.Says = "With " + s.says + " the same refusal comes, as this cause has it."
	case expected[s.shows]:
		c.Weight = pinpoint.Fair
		c.Says = "With " + s.says + " another answer comes, as this cause has it."
	case s.shows == "same" && expected["passes"]:
		c.Against, c.Weight = true, 2/float64(h.cause.Ways())
		c.Says = "With " + s.says + " the refusal stays; it would be gone if this were the cause."
		if s.op.Name == "wait" || h.cause.Layer == "waf" { // others wait longer; what a rule dislikes may stand elsewhere
			c.Weight = pinpoint.Hint
		}
	case s.shows == "passes" && slices.ContainsFunc(x.flips, func(f flip) bool {
		return f.sure && h.passes(f.op) && slices.Equal(f.op.Changes, s.op.Changes)
	}):
		return c, false // another way to change the same thing, which is the cause
	case s.shows == "other" && expected["passes"] && !s.op.Moves && !s.op.far() && !slices.Contains(s.op.Changes, "credentials"):
		c.Weight = pinpoint.Fair
		c.Says = "With " + s.says + " another refusal comes: this one is gone, and a later one shows."
	default:
		c.Against, c.Weight = true, pinpoint.Hint
		if s.op.Name == "path-nonexistent" && !x.safe { // what judges the content comes before the routes
			c.Weight = 2
		}
		c.Says = "With " + s.says + " the answer is not what this cause would show."
	}
	return c, true
}

// knownBy says that a cause is known by an operator: the first of its list, or another way to change the same field.
func knownBy(h *hypothesis, op *Operator) bool {
	first := h.cause.Expect[0]
	if first.Operator == op.Name {
		return true
	}
	o := operator(first.Operator)
	return o != nil && first.Shows == "passes" && len(op.Changes) == 1 && slices.Equal(o.Changes, op.Changes) && !slices.Contains([]string{"via", "path", "query", "credentials"}, op.Changes[0])
}

// flipWeight grades a flip: a change that was never held against a control proves nothing.
func flipWeight(f *flip) (float64, string) {
	switch {
	case f == nil || f.confirmed == 0:
		return pinpoint.Fair, "the request is not refused; it was not repeated without the change."
	case f.sure:
		return pinpoint.Certain, "refused without it, not with it, three times in turn."
	}
	return pinpoint.Strong, "refused without it, not with it, and refused again without it."
}
