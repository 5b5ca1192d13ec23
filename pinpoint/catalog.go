package pinpoint

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"sync"
)

// The knowledge is data. People write the YAML files beside these; go test ./pinpoint -run TestData -update makes the JSON
// files of them, without the samples, because they are read at every start and JSON is read in a tenth of the time.
//
//go:embed data/causes.json data/fingerprints.json data/logs.json
var data embed.FS

// Causes are all entries of the catalogue, in its order. The slice is shared: do not change it.
func Causes() []Cause { return catalogue().causes }

// CauseByID finds an entry of the catalogue.
func CauseByID(id string) (Cause, bool) {
	c := catalogue()
	i, ok := c.byID[id]
	if !ok {
		return Cause{}, false
	}
	return c.causes[i], true
}

// Pseudo-causes that this package itself deals with.
const (
	refuserOnly     = "refuser-only"
	notReproduced   = "not-reproduced"
	baselineDiffers = "baseline-differs"
	inputIncomplete = "input-incomplete"
)

// causes is the content of causes.yaml, ready for use.
type causes struct {
	causes []Cause
	byID   map[string]int
	kind   map[string]string // "mechanism", "condition" or ""
}

// expected is what an operator shows if a cause holds: "same" where the catalogue says nothing.
func (c *causes) expected(id, operator string) string {
	if i, ok := c.byID[id]; ok {
		for _, e := range c.causes[i].Expect {
			if e.Operator == operator {
				return e.Shows
			}
		}
	}
	return "same"
}

// ancestor says that a cause is refined, over one step or several, by another.
func (c *causes) ancestor(of, maybe string) bool {
	for range 8 { // parents are checked to form no circle
		i, ok := c.byID[of]
		if !ok || c.causes[i].Parent == "" {
			return false
		}
		if of = c.causes[i].Parent; of == maybe {
			return true
		}
	}
	return false
}

// root is the cause that a cause refines in the end, or itself.
func (c *causes) root(of string) string {
	for range 8 {
		i, ok := c.byID[of]
		if !ok || c.causes[i].Parent == "" {
			break
		}
		of = c.causes[i].Parent
	}
	return of
}

var catalogue = sync.OnceValue(func() *causes {
	var entries []struct {
		ID, Layer, Title   string
		Statuses           []int
		Symptoms, Evidence string
		Expect             []string // "method-get passes"
		Fix                Fix
		Prior              float64
		Pseudo             bool
		Parent, Kind       string
		Silent             []string
	}
	read("causes", &entries)
	c := &causes{byID: make(map[string]int, len(entries)), kind: map[string]string{}}
	for _, e := range entries {
		known := Cause{ID: e.ID, Layer: e.Layer, Title: e.Title, Statuses: e.Statuses, Symptoms: e.Symptoms, Evidence: e.Evidence,
			Fix: e.Fix, Prior: e.Prior, Pseudo: e.Pseudo, Parent: e.Parent, Silent: e.Silent}
		for _, x := range e.Expect {
			op, shows, _ := strings.Cut(x, " ")
			if op == "" || !slices.Contains([]string{"passes", "same", "other"}, shows) {
				panic(fmt.Sprintf("BUG: cause %s expects %q", e.ID, x))
			}
			known.Expect = append(known.Expect, Expect{op, shows})
		}
		if _, ok := c.byID[e.ID]; ok || e.ID == "" {
			panic(fmt.Sprintf("BUG: cause %q stands twice", e.ID))
		}
		if e.Kind != "" {
			c.kind[e.ID] = e.Kind
		}
		c.byID[e.ID] = len(c.causes)
		c.causes = append(c.causes, known)
	}
	for _, e := range c.causes {
		for p, steps := e.Parent, 0; p != ""; steps++ {
			i, ok := c.byID[p]
			if !ok || steps > 6 {
				panic(fmt.Sprintf("BUG: the parents of cause %s do not end", e.ID))
			}
			p = c.causes[i].Parent
		}
	}
	return c
})

// read decodes an embedded file; the tests load every one.
func read(name string, into any) {
	text, err := data.ReadFile("data/" + name + ".json")
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		err = d.Decode(into)
	}
	if err != nil {
		panic(fmt.Sprintf("BUG: %s: %v", name, err))
	}
}

// pattern is an RE2 expression that is compiled when a text may match it for the first time.
type pattern struct {
	compile func() *regexp.Regexp
	needs   *need // so that most expressions never run
}

// need is what a text must hold for an expression to match it: a literal, all of several, or one of several.
type need struct {
	literal  []byte   // in lower case
	grams    []uint16 // hashes of some three letters in a row of it
	all, any []*need
}

// searched is a text in lower case, and which three letters in a row it holds: hundreds of literals are looked
// for in one page, and most are not there.
type searched struct {
	lower []byte
	grams *[1 << 16 / 64]uint64 // bits by hash; nil for texts so short that looking is as fast
}

// fewLetters is how long a text is searched without knowing what it holds.
const fewLetters = 512

func newSearched(text []byte) searched {
	s := searched{lower: lowered(text)}
	if len(text) <= fewLetters {
		return s
	}
	s.grams = new([1 << 16 / 64]uint64)
	for i := 2; i < len(s.lower); i++ {
		h := gram(s.lower[i-2], s.lower[i-1], s.lower[i])
		s.grams[h>>6] |= 1 << (h & 63)
	}
	return s
}

// gram is a hash of three letters.
func gram(a, b, c byte) uint16 {
	return uint16((uint32(a)<<16 | uint32(b)<<8 | uint32(c)) * 2654435761 >> 16)
}

// gramsOf are up to eight of them, spread over a literal.
func gramsOf(literal []byte) (list []uint16) {
	step := max(1, (len(literal)-2+7)/8)
	for i := 2; i < len(literal); i += step {
		list = append(list, gram(literal[i-2], literal[i-1], literal[i]))
	}
	return list
}

// has says that the text holds a literal.
func (s searched) has(n *need) bool {
	if s.grams != nil {
		for _, h := range n.grams {
			if s.grams[h>>6]&(1<<(h&63)) == 0 {
				return false
			}
		}
	}
	return bytes.Contains(s.lower, n.literal)
}

func newPattern(text string) *pattern {
	p := &pattern{compile: sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })}
	if tree, err := syntax.Parse(text, syntax.Perl); err == nil {
		p.needs = needs(tree)
	}
	return p
}

// find searches text; in is the same text, ready to be searched for literals.
func (p *pattern) find(text []byte, in searched) []int {
	if !p.needs.met(in) {
		return nil
	}
	return p.compile().FindSubmatchIndex(text)
}

func (n *need) met(in searched) bool {
	switch {
	case n == nil:
		return true
	case n.literal != nil:
		return in.has(n)
	case n.any != nil:
		return slices.ContainsFunc(n.any, func(n *need) bool { return n.met(in) })
	}
	for _, a := range n.all {
		if !a.met(in) {
			return false
		}
	}
	return true
}

// needs is what every match of an expression holds, nil when nothing is known of it.
func needs(re *syntax.Regexp) *need {
	switch re.Op {
	case syntax.OpLiteral:
		s := string(re.Rune)
		for _, r := range s {
			if r >= 0x80 { // folding beyond ASCII changes lengths
				return nil
			}
		}
		if re.Flags&syntax.FoldCase != 0 && strings.ContainsAny(s, "kKsS") {
			// K and S fold with letters beyond ASCII (KELVIN SIGN, LONG S): take the longest part without them.
			longest := ""
			for _, part := range strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune("kKsS", r) }) {
				if len(part) > len(longest) {
					longest = part
				}
			}
			s = longest
		}
		if len(s) < 3 {
			return nil
		}
		literal := []byte(strings.ToLower(s))
		return &need{literal: literal, grams: gramsOf(literal)}
	case syntax.OpCapture, syntax.OpPlus:
		return needs(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return needs(re.Sub[0])
		}
	case syntax.OpConcat:
		var all []*need
		for _, sub := range re.Sub {
			if n := needs(sub); n != nil {
				all = append(all, n)
			}
		}
		if len(all) > 0 {
			return &need{all: all}
		}
	case syntax.OpAlternate:
		var list []*need
		for _, sub := range re.Sub {
			n := needs(sub)
			if n == nil {
				return nil
			}
			list = append(list, n)
		}
		return &need{any: list}
	}
	return nil
}

// lowered is a text in which the letters A to Z are small ones; lengths stay.
func lowered(text []byte) []byte {
	out := make([]byte, len(text))
	for i, b := range text {
		if 'A' <= b && b <= 'Z' {
			b += 'a' - 'A'
		}
		out[i] = b
	}
	return out
}
