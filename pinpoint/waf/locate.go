package waf

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// This file goes from the whole request to the places, the windows in them and their characters.

// order are the leaves that the oracle sees, the suspicious ones first.
func (b *bisection) order() (list []int) {
	var matches []Match
	if b.opts.Replica != nil {
		p := b.opts.Replica.Predict(b.m.Render(b.m.All()))
		matches = p.Matches
	}
	weight := make([]float64, len(b.m.Leaves))
	for i := range b.m.Leaves {
		l := &b.m.Leaves[i]
		if l.Plain {
			continue
		}
		if c, ok := b.oracle.(coverer); ok && !c.Covers(l.Component) {
			continue
		}
		odd := 0
		for _, c := range l.Text(0, min(len(l.units), 4096)) {
			if strings.ContainsRune(`'"<>();|&$`+"`"+`{}\%=*-./`, c) {
				odd++
			}
		}
		weight[i] = float64(odd) + float64(len(l.units))/64
		for j := range matches {
			if l.is(&matches[j]) {
				weight[i] += 1000 * float64(matches[j].Score+1)
			}
		}
		list = append(list, i)
	}
	slices.SortStableFunc(list, func(x, y int) int { return cmp.Compare(weight[y], weight[x]) })
	return list
}

// is says that a match is at the leaf.
func (l *Leaf) is(m *Match) bool {
	target := l.Targets.Coraza
	if strings.EqualFold(target, m.Target()) {
		return true
	}
	switch m.Variable {
	case "REQUEST_URI", "REQUEST_URI_RAW", "REQUEST_LINE", "REQUEST_FILENAME", "REQUEST_BASENAME":
		return l.Component == Path || l.Component == Query && m.Variable != "REQUEST_FILENAME" && m.Variable != "REQUEST_BASENAME"
	case "QUERY_STRING":
		return l.Component == Query
	case "REQUEST_BODY":
		return l.Component == Body
	case "XML":
		return target == xmlText || target == xmlAttribute
	case "FILES", "FILES_NAMES", "MULTIPART_FILENAME":
		return l.Kind == "file name"
	}
	return false
}

// rounds finds one trigger after the other until the rest passes.
func (b *bisection) rounds(order []int, full, twin Kept) error {
	leaves := 0
	for _, i := range order {
		leaves = max(leaves, len(b.m.Leaves[i].units))
	}
	b.bound(len(order), leaves, 1, 64)
	for len(b.triggers) < maxTriggers {
		rest := b.rest(full)
		if len(b.triggers) > 0 {
			blocked, err := b.until(rest, true, "original without what was found")
			if err != nil {
				return err
			}
			if !blocked {
				break
			}
		}
		set, err := b.set(order, rest, twin)
		if err != nil {
			return err
		}
		t := make(trigger, len(set))
		for i, leaf := range set {
			t[i] = window{leaf: leaf, span: Span{0, len(b.m.Leaves[leaf].units)}}
		}
		b.triggers = append(b.triggers, t)
		if b.noisy && b.safe == nil { // the budget may not suffice for more than the place
			if err := b.settle(full, twin); err != nil {
				return err
			}
		}
		for i := range t {
			if err := b.narrow(t, i, rest, twin); err != nil {
				return err
			}
		}
	}
	if err := b.prove(full, twin); err != nil {
		return err
	}
	if !b.opts.NoCharacters && b.res.Proved {
		for _, t := range b.triggers {
			for i := range t {
				if err := b.characters(t, i, twin); err != nil && !errors.Is(err, errFlaky) {
					return err
				}
			}
		}
	}
	return nil
}

// settle proves the places before anything within them is looked for.
func (b *bisection) settle(full, twin Kept) error {
	switch err := b.prove(full, twin); {
	case errors.Is(err, errAgain) && b.res.Alone == BLOCK: // there is more in other places
		return nil
	case err != nil:
		return err
	}
	b.safe = make([]trigger, len(b.triggers))
	for i, t := range b.triggers {
		b.safe[i] = slices.Clone(t)
	}
	b.res.Proved = false
	return nil
}

// certain are the odds that a proof needs.
func (b *bisection) certain() float64 {
	if b.noisy {
		return 6
	}
	return 5
}

// rest is the original without the windows that were found.
func (b *bisection) rest(full Kept) Kept {
	k := Kept{}
	for i, s := range full {
		k[i] = s
	}
	for _, t := range b.triggers {
		for _, w := range t {
			k[w.leaf] = cut(k[w.leaf], w.span)
		}
	}
	return k
}

// cut takes a span out of spans.
func cut(spans []Span, out Span) (left []Span) {
	for _, s := range spans {
		if s.From < min(s.To, out.From) {
			left = append(left, Span{s.From, min(s.To, out.From)})
		}
		if max(s.From, out.To) < s.To {
			left = append(left, Span{max(s.From, out.To), s.To})
		}
	}
	return left
}

// with is the twin with some leaves as they are in rest.
func with(twin, rest Kept, leaves ...int) Kept {
	k := Kept{}
	for i, s := range twin {
		k[i] = s
	}
	for _, l := range leaves {
		k[l] = rest[l]
	}
	return k
}

// set finds a smallest set of leaves that is refused by itself. Each search for the shortest refused beginning of
// the list finds one element that is needed; what is in front of it holds the others.
func (b *bisection) set(order []int, rest, twin Kept) ([]int, error) {
	for range 3 {
		var need []int
		for list := order; len(list) > 0 && len(need) < maxTogether; {
			keep := func(n int) Kept { return with(twin, rest, append(slices.Clone(need), list[:n]...)...) }
			says := func(n int) string {
				return fmt.Sprintf("only %d of %d places kept", len(need)+n, len(b.m.Leaves))
			}
			n, err := b.threshold(len(list), 0.38, func(n int) float64 { return 1 / float64(n+4) }, keep, says)
			if err != nil {
				return nil, err
			}
			last := list[n-1]
			need = append(need, last)
			alone, err := b.until(with(twin, rest, need...), true, "only "+b.m.Leaves[last].String()+" kept")
			if err != nil {
				return nil, err
			}
			if alone {
				return b.fewest(need, rest, twin)
			}
			if !b.noisy { // either an answer was wrong, or more places are refused only together
				if err := b.doubt(); err != nil {
					return nil, err
				}
				break
			}
			list = list[:n-1]
		}
	}
	return nil, errFlaky
}

// fewest leaves out what is not needed.
func (b *bisection) fewest(need []int, rest, twin Kept) ([]int, error) {
	for i := 0; i < len(need) && len(need) > 1; i++ {
		fewer := slices.Delete(slices.Clone(need), i, i+1)
		blocked, err := b.until(with(twin, rest, fewer...), true, "without "+b.m.Leaves[need[i]].String())
		if err != nil {
			return nil, err
		}
		if blocked {
			need, i = fewer, -1
		}
	}
	if !slices.ContainsFunc(slices.Collect(maps.Values(b.tally)), func(v *votes) bool { return v.block > 0 && v.pass > 0 }) {
		b.noisy = false // they are refused only together, and no answer was wrong
	}
	slices.Sort(need)
	return need, nil
}

// narrow finds the window in one part of a trigger: the shortest refused beginning, and in it the shortest end.
func (b *bisection) narrow(t trigger, i int, rest, twin Kept) error {
	leaf := &b.m.Leaves[t[i].leaf]
	base := b.alone(t, twin)
	whole := rest[t[i].leaf]
	says := func(from, to int) string { return fmt.Sprintf("only characters %d to %d of %s kept", from, to, leaf) }
	within := func(from, to int) Kept {
		k := with(base, base)
		k[t[i].leaf] = cut(cut(whole, Span{0, from}), Span{to, len(leaf.units)})
		return k
	}
	end, err := b.threshold(len(leaf.units), 0.5, evenly, func(n int) Kept { return within(0, n) }, func(n int) string { return says(0, n) })
	if err != nil {
		return err
	}
	if end == len(leaf.units) && end > 1 { // no beginning was refused: is the leaf as a whole?
		k := within(0, end)
		b.res.Retests++
		blocked, err := b.send(k, says(0, end))
		if err == nil && !blocked {
			if err = b.doubt(); err == nil {
				blocked, err = b.until(k, true, says(0, end))
			}
			if err == nil && !blocked {
				err = errAgain
			}
		}
		if err != nil {
			return err
		}
	}
	n, err := b.threshold(end, 0.5, evenly, func(n int) Kept { return within(end-n, end) }, func(n int) string { return says(end-n, end) })
	if err != nil {
		return err
	}
	from := end - n
	for from > 0 && leaf.harmless(from-1) { // of letters that are those of the twin nothing can be said
		from--
	}
	for end < len(leaf.units) && leaf.harmless(end) {
		end++
	}
	t[i].span, t[i].narrowed = Span{from, end}, true
	return nil
}

// alone is the twin with a trigger.
func (b *bisection) alone(t trigger, twin Kept) Kept {
	k := with(twin, twin)
	for _, w := range t {
		k[w.leaf] = []Span{w.span}
	}
	return k
}

const maxCharacters = 64

// characters finds which characters of a window are needed, by replacing parts of it.
func (b *bisection) characters(t trigger, i int, twin Kept) error {
	leaf := &b.m.Leaves[t[i].leaf]
	from, to := t[i].span.From, t[i].span.To
	var groups []Span
	for u := from; u < to; u++ {
		if to-from > maxCharacters && len(groups) > 0 && u > from && word(leaf.Text(u-1, u)) == word(leaf.Text(u, u+1)) {
			groups[len(groups)-1].To++
			continue
		}
		groups = append(groups, Span{u, u + 1})
	}
	if len(groups) > maxCharacters {
		return nil
	}
	gone := make([]bool, len(groups))
	keep := func() Kept {
		k := b.alone(t, twin)
		spans := k[t[i].leaf]
		for g := range groups {
			if gone[g] {
				spans = cut(spans, groups[g])
			}
		}
		k[t[i].leaf] = spans
		return k
	}
	var need []int
	var divide func(lo, hi int, known bool) error
	divide = func(lo, hi int, known bool) error {
		if !known {
			for g := lo; g < hi; g++ {
				gone[g] = true
			}
			if b.res.Requests >= b.opts.MaxRequests-b.reserve-4 || b.res.Strikes >= b.opts.MaxStrikes-3 {
				return errCap
			}
			blocked, err := b.blocks(keep(), fmt.Sprintf("characters %d to %d of %s replaced", groups[lo].From, groups[hi-1].To, leaf))
			if err != nil || blocked {
				return err
			}
			for g := lo; g < hi; g++ {
				gone[g] = false
			}
		}
		if hi-lo == 1 {
			for u := groups[lo].From; u < groups[lo].To; u++ {
				need = append(need, u)
			}
			return nil
		}
		mid := (lo + hi) / 2
		if err := divide(lo, mid, false); err != nil {
			return err
		}
		return divide(mid, hi, false)
	}
	err := divide(0, len(groups), true)
	if errors.Is(err, errCap) {
		b.res.Capped = true // the range stays
		return nil
	}
	if err != nil {
		return err
	}
	t[i].necessary, t[i].chars = need, true
	return nil
}

func word(s string) bool {
	for _, r := range s {
		return unicode.IsLetter(r) || unicode.IsDigit(r) || r == '_'
	}
	return false
}

// prove asks for both sides once more: a trigger alone, and the original without all of them.
func (b *bisection) prove(full, twin Kept) error {
	if len(b.triggers) == 0 {
		return nil
	}
	reserve := b.reserve
	b.reserve = 0
	defer func() { b.reserve = reserve }()
	type side struct {
		k    Kept
		want bool
		says string
	}
	var sides []side
	for _, t := range b.triggers {
		sides = append(sides, side{b.alone(t, twin), true, "proof: harmless twin with only the fragment"})
	}
	for _, side := range append(sides, side{b.rest(full), false, "proof: original without the fragment"}) {
		got, err := b.until(side.k, true, side.says)
		if err != nil {
			return err
		}
		o := PASS
		if got {
			o = BLOCK
		}
		if side.want {
			b.res.Alone = o
		} else {
			b.res.Without = o
		}
		if got == side.want {
			continue
		}
		if !side.want && len(b.triggers) >= maxTriggers {
			b.res.Notes = append(b.res.Notes, "more of the request is refused than what was found")
			return nil
		}
		return errAgain
	}
	b.res.Proved = true
	return nil
}

// guess runs the search on the replica, where it costs nothing, and asks the server for the two sides of the proof.
func (b *bisection) guess(full, twin Kept) error {
	p := b.opts.Replica
	if _, local := b.oracle.(*Replica); local || p == nil || !p.Predict(b.m.Render(full)).Refused {
		return nil
	}
	g := &bisection{ctx: b.ctx, oracle: p, m: b.m, tally: map[[32]byte]*votes{}, res: &Result{}, reserve: 3,
		opts: Options{MaxRequests: 4000, MaxStrikes: 4000, NoCharacters: b.opts.NoCharacters}}
	if refused, err := g.calibrate(full, twin); err != nil || !refused {
		return nil
	}
	if g.rounds(g.order(), full, twin) != nil || !g.res.Proved {
		return b.ctx.Err()
	}
	for _, t := range g.triggers {
		for _, w := range t {
			if c, ok := b.oracle.(coverer); ok && !c.Covers(b.m.Leaves[w.leaf].Component) {
				return nil
			}
		}
	}
	blocked, err := b.blocks(b.alone(g.triggers[0], twin), "guess: harmless twin with only the fragment")
	if err != nil || !blocked {
		return err
	}
	b.triggers = g.triggers
	blocked, err = b.blocks(b.rest(full), "guess: original without the fragment")
	if err == nil && !blocked {
		if err = b.prove(full, twin); err == nil && b.res.Proved {
			b.guessed = true
			return nil
		}
	}
	b.triggers, b.res.Alone, b.res.Without = nil, UNCLEAR, UNCLEAR
	if errors.Is(err, errAgain) {
		err = b.doubt()
	}
	return err
}
