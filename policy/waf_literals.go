package policy

import (
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
)

// What a value must contain for a regular expression to match it: all of the needs, of each at least one string.
// Strings are in lower case, and highByte stands for any byte that is not ASCII. Nothing here is more than
// necessary for a match; a value that has all of it need not match.

// need is a set of strings of which a match contains one.
type need struct {
	list []string
	// loose needs are looked for without looseDrops, and hold for values without looseAbsent only.
	loose bool
}

// Many expressions allow what a shell ignores between any two letters of a word. Without that, words are words.
const (
	looseDrops  = "\"')[\\"
	looseAbsent = '$'
)

// highByte is how folded strings show bytes from 0x80 on.
const highByte = 0x80

// foldByte is the byte that strings are compared by.
var foldByte = func() (t [256]byte) {
	for i := range t {
		switch {
		case i >= 0x80:
			t[i] = highByte
		case i >= 'A' && i <= 'Z':
			t[i] = byte(i) + 'a' - 'A'
		default:
			t[i] = byte(i)
		}
	}
	return t
}()

// foldsToASCII says that a value has a letter that is no ASCII and equal to one but for its case: ſ or the sign for
// Kelvin. What needs say does not hold for such values.
func foldsToASCII(s string) bool {
	return strings.Contains(s, "\u017f") || strings.Contains(s, "\u212a")
}

// Bounds of what is computed for an expression.
const (
	maxExact   = 64 // strings that a part can be
	maxMembers = 12 // characters of a class that are taken as strings
	maxNeedLen = 6  // bytes of a string
	maxNeeds   = 4  // of a part
	maxVoid    = 0.5
)

// rxNeeds are the needs of a regular expression, the rarest first.
func rxNeeds(expr string) []need {
	re, err := syntax.Parse("(?s)"+expr, syntax.Perl)
	if err != nil {
		return nil
	}
	re = re.Simplify()
	var all []need
	for _, r := range []reader{{}, {loose: true}} {
		p := r.partOf(re)
		if p.never { // without $
			return []need{{[]string{string(looseAbsent)}, true}}
		}
		all = append(all, r.all(p)...)
	}
	return rarest(all)
}

// reader reads an expression, as it is or loosely.
type reader struct{ loose bool }

func (r reader) drops(c rune) bool  { return r.loose && strings.ContainsRune(looseDrops, c) }
func (r reader) absent(c rune) bool { return r.loose && c == looseAbsent }

// rxPart is what is known of a part of an expression: the strings that it can be, or else what it needs.
type rxPart struct {
	exact []string // nil: not known
	needs []need
	never bool // it cannot match
}

// all are the needs of a part, with that of being one of its strings.
func (r reader) all(p rxPart) []need {
	if n, ok := r.needOf(p.exact); ok {
		return append(slices.Clone(p.needs), n)
	}
	return p.needs
}

// needOf is the need for one of some strings, if there is one.
func (r reader) needOf(list []string) (n need, ok bool) {
	for _, s := range list {
		if s == "" {
			return need{}, false
		}
		n.list = append(n.list, s[:min(len(s), maxNeedLen)])
	}
	n.loose = r.loose
	return n.tidy(), len(list) > 0
}

// tidy takes out what is there twice, and strings that contain another.
func (n need) tidy() need {
	slices.Sort(n.list)
	n.list = slices.Compact(n.list)
	if len(n.list) > 400 {
		return n
	}
	slices.SortStableFunc(n.list, func(a, b string) int { return len(a) - len(b) })
	var kept []string
	for _, s := range n.list {
		if !slices.ContainsFunc(kept, func(k string) bool { return strings.Contains(s, k) }) {
			kept = append(kept, s)
		}
	}
	n.list = kept
	return n
}

// likelihood is a guess at how often a position of an ordinary value begins one of the strings.
func (n need) likelihood() (sum float64) {
	for _, s := range n.list {
		p := 1.0
		for i := range len(s) {
			switch c := s[i]; {
			case c >= 'a' && c <= 'z':
				p *= 0.07
			case c >= '0' && c <= '9':
				p *= 0.1
			case c == ' ' || c == '.' || c == highByte:
				p *= 0.1
			case c == '-' || c == '_' || c == ',' || c == '/' || c == ':':
				p *= 0.04
			default:
				p *= 0.01
			}
		}
		sum += p
	}
	return sum
}

// rarest sorts needs and leaves out those that most values have.
func rarest(list []need) []need {
	list = slices.DeleteFunc(slices.Clone(list), func(n need) bool { return n.likelihood() > maxVoid })
	slices.SortStableFunc(list, func(a, b need) int {
		switch x, y := a.likelihood(), b.likelihood(); {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return slices.Compare(a.list, b.list)
	})
	list = slices.CompactFunc(list, func(a, b need) bool { return slices.Equal(a.list, b.list) })
	return list[:min(len(list), maxNeeds)]
}

func (r reader) partOf(re *syntax.Regexp) rxPart {
	switch re.Op {
	case syntax.OpNoMatch:
		return rxPart{never: true}
	case syntax.OpEmptyMatch, syntax.OpBeginLine, syntax.OpEndLine, syntax.OpBeginText, syntax.OpEndText, syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return rxPart{exact: []string{""}}
	case syntax.OpLiteral:
		return r.literalPart(re.Rune, re.Flags&syntax.FoldCase != 0)
	case syntax.OpCharClass:
		return r.classPart(re.Rune)
	case syntax.OpCapture:
		return r.partOf(re.Sub[0])
	case syntax.OpStar, syntax.OpQuest, syntax.OpPlus, syntax.OpRepeat:
		return r.repeatPart(re)
	case syntax.OpConcat:
		return r.concatPart(re.Sub)
	case syntax.OpAlternate:
		return r.alternatePart(re.Sub)
	}
	return rxPart{}
}

// repeatPart is a part that may be there several times or not at all.
func (r reader) repeatPart(re *syntax.Regexp) rxPart {
	p := r.partOf(re.Sub[0])
	must := re.Op == syntax.OpPlus || re.Op == syntax.OpRepeat && re.Min > 0
	empty := len(p.exact) == 1 && p.exact[0] == ""
	switch {
	case empty, p.never && !must:
		return rxPart{exact: []string{""}}
	case p.never:
		return p
	case must:
		return rxPart{needs: rarest(r.all(p))}
	case re.Op == syntax.OpQuest && p.exact != nil && len(p.exact) < maxExact:
		return rxPart{exact: mergeSorted(p.exact, []string{""})}
	}
	return rxPart{}
}

// literalPart cuts a literal at what is not ASCII.
func (r reader) literalPart(runes []rune, folds bool) rxPart {
	var p rxPart
	run, pure := "", true
	flush := func() {
		if n, ok := r.needOf([]string{run}); ok {
			p.needs = append(p.needs, n)
		}
		run = ""
	}
	for _, c := range runes {
		if r.absent(c) {
			return rxPart{never: true}
		}
		if c < 0x80 {
			if !r.drops(c) {
				run += string(rune(foldByte[c]))
			}
			continue
		}
		pure = false
		flush()
		ascii := false
		for f := unicode.SimpleFold(c); f != c; f = unicode.SimpleFold(f) {
			ascii = ascii || f < 0x80
		}
		if !folds || !ascii {
			p.needs = append(p.needs, need{[]string{string([]byte{highByte})}, r.loose})
		}
	}
	if pure {
		return rxPart{exact: []string{run}}
	}
	flush()
	p.needs = rarest(p.needs)
	return p
}

// classPart is a class of characters, given as pairs of bounds.
func (r reader) classPart(bounds []rune) rxPart {
	var set []string
	high, others := false, false
	for i := 0; i+1 < len(bounds); i += 2 {
		lo, hi := bounds[i], bounds[i+1]
		for c := lo; c <= min(hi, 0x7f); c++ {
			switch {
			case r.drops(c):
				set = append(set, "")
			case !r.absent(c):
				set = append(set, string(rune(foldByte[c])))
			}
		}
		// Values with ſ and the sign for Kelvin are set apart, see foldsToASCII.
		foreign := hi >= 0x80 && lo == hi && (lo == 0x17f || lo == 0x212a)
		high = high || hi >= 0x80 && !foreign
		others = others || foreign
	}
	slices.Sort(set)
	set = slices.Compact(set)
	switch {
	case high && !slices.Contains(set, ""):
		return rxPart{needs: rarest([]need{{append(set, string([]byte{highByte})), r.loose}})}
	case high:
		return rxPart{}
	case len(set) == 0:
		return rxPart{never: !others}
	case len(set) <= maxMembers:
		return rxPart{exact: set}
	case set[0] != "":
		return rxPart{needs: rarest([]need{{set, r.loose}})}
	}
	return rxPart{}
}

// concatPart joins neighbours whose strings are known.
func (r reader) concatPart(subs []*syntax.Regexp) rxPart {
	var needs []need
	joined, all := []string{""}, true
	flush := func() {
		if n, ok := r.needOf(joined); ok {
			needs = append(needs, n)
		}
	}
	for _, sub := range subs {
		p := r.partOf(sub)
		if p.never {
			return p
		}
		if p.exact != nil && len(p.exact)*len(joined) <= maxExact {
			var next []string
			for _, a := range joined {
				for _, b := range p.exact {
					next = append(next, a+b)
				}
			}
			slices.Sort(next)
			joined = slices.Compact(next)
			continue
		}
		flush()
		all = false
		needs = append(needs, p.needs...)
		if joined = p.exact; joined == nil {
			joined = []string{""}
		}
	}
	if all {
		return rxPart{exact: joined}
	}
	flush()
	return rxPart{needs: rarest(needs)}
}

// alternatePart needs what one of the alternatives needs. Several such needs can be made, each with one of every
// alternative.
func (r reader) alternatePart(subs []*syntax.Regexp) rxPart {
	var parts []rxPart
	var exact []string
	all := true
	for _, sub := range subs {
		p := r.partOf(sub)
		if p.never {
			continue
		}
		parts = append(parts, p)
		all = all && p.exact != nil
		exact = mergeSorted(exact, p.exact)
	}
	if len(parts) == 0 {
		return rxPart{never: true}
	}
	if all && len(exact) <= maxExact {
		return rxPart{exact: exact}
	}
	var p rxPart
	for k := range maxNeeds {
		n := need{loose: r.loose}
		for i := range parts {
			of := rarest(r.all(parts[i]))
			if len(of) == 0 {
				return rxPart{}
			}
			n.list = append(n.list, of[min(k, len(of)-1)].list...)
		}
		p.needs = append(p.needs, n.tidy())
	}
	p.needs = rarest(p.needs)
	return p
}

func mergeSorted(a, b []string) []string {
	u := append(slices.Clone(a), b...)
	slices.Sort(u)
	return slices.Compact(u)
}

// wordNeeds are the needs of an operator that looks for one of some words, whatever their case.
func wordNeeds(words []string) []need {
	var n need
	for _, w := range words {
		best := ""
		for _, run := range strings.FieldsFunc(w, func(r rune) bool { return r >= 0x80 }) {
			if len(run) > len(best) {
				best = run
			}
		}
		switch {
		case w == "":
			return nil
		case best == "":
			n.list = append(n.list, string([]byte{highByte}))
		default:
			b := []byte(best[:min(len(best), maxNeedLen)])
			for i := range b {
				b[i] = foldByte[b[i]]
			}
			n.list = append(n.list, string(b))
		}
	}
	if len(n.list) == 0 {
		return nil
	}
	return rarest([]need{n.tidy()})
}
