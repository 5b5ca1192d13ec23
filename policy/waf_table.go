package policy

import (
	"encoding/binary"
	"regexp/syntax"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"unicode"
	"unicode/utf8"
)

// A rule's expression meets thousands of characters that lead nowhere. The regexp package looks at each with all places
// of the expression that may go on there; a table that is made on the way says the same with one step (Thompson's
// construction, its subsets made when first met; R. Cox, "Regular Expression Matching in the Wild", 2010). The
// table only says that there is no match. Where it is not sure, and for what a match captures, the
// regexp package is asked.

// rxTable is the table of one expression.
type rxTable struct {
	prog  *syntax.Prog
	sets  []int32 // of an instruction: the number of its set of characters, -1 if it reads none
	takes [][]bool
	// Characters that no set tells apart are one class.
	ascii [utf8.RuneSelf]uint8
	from  []rune // where the classes of other characters begin, rising
	class []uint8
	shown []rune // a character of each class

	size         int  // bytes that it may take
	words, lines bool // the expression asks for ends of words, of lines
	states       atomic.Pointer[rxStates]
}

// rxStates are the states that were met so far.
type rxStates struct {
	start  *rxState
	walked atomic.Int64 // bytes of values

	mu    sync.Mutex // held while states are made
	known map[string]*rxState
	size  int // about so many bytes of memory
	work  rxWork
}

// rxState is what may go on behind a character: instructions, and what the character was.
type rxState struct {
	next   []atomic.Pointer[rxState] // by class; nil: not made yet
	places []uint32                  // sorted
	before rune                      // one of the kind of the last character; -1 at the beginning
	end    atomic.Int32              // at the end of the value: 1 no match, 2 a match
}

// rxMatched is the state of a match.
var rxMatched = new(rxState)

// Bounds of tables.
const (
	maxTableProg    = 20_000  // instructions
	maxTableClasses = 200     // of characters
	baseTableSize   = 1 << 17 // bytes of one table, and
	instTableSize   = 1 << 8  // more for each instruction: with all rules 50 MB if strangers fill them, 6 with ordinary text
	maxTableMade    = 400     // transitions that are made for one value
	minTableWalked  = 1 << 20 // bytes of values between two beginnings anew
)

// newRxTable prepares the table of an expression, or is nil if it would be too large.
func newRxTable(expr string) *rxTable {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil || len(prog.Inst) > maxTableProg {
		return nil
	}
	t := &rxTable{prog: prog, sets: make([]int32, len(prog.Inst)), size: baseTableSize + instTableSize*len(prog.Inst)}
	if !t.classify() {
		return nil
	}
	t.begin()
	return t
}

// classify finds the classes of characters. It is false if they are too many.
func (t *rxTable) classify() bool {
	starts := []rune{0, '\n', '\n' + 1, '0', '9' + 1, 'A', 'Z' + 1, '_', '_' + 1, 'a', 'z' + 1, utf8.RuneSelf}
	numbers := map[string]int32{}
	var readers []*syntax.Inst // one for each set
	for pc := range t.prog.Inst {
		i := &t.prog.Inst[pc]
		t.sets[pc] = -1
		switch i.Op {
		case syntax.InstEmptyWidth:
			op := syntax.EmptyOp(i.Arg)
			t.words = t.words || op&(syntax.EmptyWordBoundary|syntax.EmptyNoWordBoundary) != 0
			t.lines = t.lines || op&(syntax.EmptyBeginLine|syntax.EmptyEndLine) != 0
		case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			key := string(i.Rune)
			if len(i.Rune) == 1 {
				key += string(rune(i.Arg & uint32(syntax.FoldCase)))
				for r := range foldings(i.Rune[0], syntax.Flags(i.Arg)&syntax.FoldCase != 0) {
					starts = append(starts, r, r+1)
				}
			}
			for k := 0; k+1 < len(i.Rune); k += 2 {
				starts = append(starts, i.Rune[k], i.Rune[k+1]+1)
			}
			n, ok := numbers[key]
			if !ok {
				n = int32(len(readers))
				numbers[key] = n
				readers = append(readers, i)
			}
			t.sets[pc] = n
		}
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)
	classes := map[string]uint8{}
	t.takes = make([][]bool, len(readers))
	for at, r := range starts {
		alike := make([]byte, 0, len(readers)+1)
		kind := byte(0)
		switch {
		case syntax.IsWordChar(r):
			kind = 1
		case r == '\n':
			kind = 2
		}
		alike = append(alike, kind)
		for _, i := range readers {
			if i.MatchRune(r) {
				alike = append(alike, 1)
			} else {
				alike = append(alike, 0)
			}
		}
		c, ok := classes[string(alike)]
		if !ok {
			if len(classes) == maxTableClasses {
				return false
			}
			c = uint8(len(classes))
			classes[string(alike)] = c
			t.shown = append(t.shown, r)
			for n := range readers {
				t.takes[n] = append(t.takes[n], alike[n+1] == 1)
			}
		}
		if r >= utf8.RuneSelf {
			t.from, t.class = append(t.from, r), append(t.class, c)
			continue
		}
		for a := r; a < starts[at+1]; a++ { // RuneSelf is a start
			t.ascii[a] = c
		}
	}
	return true
}

// foldings are the characters that one stands for.
func foldings(r rune, fold bool) func(yield func(rune) bool) {
	return func(yield func(rune) bool) {
		if !yield(r) || !fold {
			return
		}
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			if !yield(f) {
				return
			}
		}
	}
}

// begin starts with no states but the first.
func (t *rxTable) begin() {
	s := &rxStates{known: map[string]*rxState{}, work: rxWork{seen: make([]uint32, len(t.prog.Inst))}}
	s.start = t.state(s, nil, -1)
	t.states.Store(s)
}

// classOf is the class of a character that is not ASCII.
func (t *rxTable) classOf(r rune) uint8 {
	return t.class[sort.Search(len(t.from), func(i int) bool { return t.from[i] > r })-1]
}

// misses says that a value does not match. False may be either.
func (t *rxTable) misses(value string) bool {
	states := t.states.Load()
	states.walked.Add(int64(len(value)))
	s, made := states.start, 0
	for i := 0; i < len(value); {
		var c uint8
		if b := value[i]; b < utf8.RuneSelf {
			c = t.ascii[b]
			i++
		} else {
			r, size := utf8.DecodeRuneInString(value[i:])
			c = t.classOf(r)
			i += size
		}
		next := s.next[c].Load()
		if next == nil {
			if made++; made > maxTableMade {
				return false
			}
			if next = t.make(states, s, c); next == nil {
				return false
			}
		}
		if next == rxMatched {
			return false
		}
		s = next
	}
	end := s.end.Load()
	if end == 0 {
		end = 1
		states.mu.Lock()
		if states.work.closure(t, s.places, syntax.EmptyOpContext(s.before, -1)) {
			end = 2
		}
		states.mu.Unlock()
		s.end.Store(end)
	}
	return end == 1
}

// make finds where a class leads from a state, or nothing where the table is full.
func (t *rxTable) make(states *rxStates, s *rxState, c uint8) *rxState {
	states.mu.Lock()
	defer states.mu.Unlock()
	if next := s.next[c].Load(); next != nil {
		return next
	}
	if states.size > t.size {
		// A stranger may have filled it with what nobody else sends. So it begins anew, but not with each value.
		if states.walked.Load() > minTableWalked && t.states.Load() == states {
			t.begin()
		}
		return nil
	}
	w := &states.work
	if w.closure(t, s.places, syntax.EmptyOpContext(s.before, t.shown[c])) {
		s.next[c].Store(rxMatched)
		return rxMatched
	}
	w.ahead = w.ahead[:0]
	for _, pc := range w.readers {
		if t.takes[t.sets[pc]][c] {
			w.ahead = append(w.ahead, t.prog.Inst[pc].Out)
		}
	}
	slices.Sort(w.ahead)
	before := ' '
	switch r := t.shown[c]; {
	case t.words && syntax.IsWordChar(r):
		before = 'a'
	case t.lines && r == '\n':
		before = '\n'
	}
	next := t.state(states, slices.Compact(w.ahead), before)
	s.next[c].Store(next)
	return next
}

// state is the state of some places behind a character. The lock is held, or nobody else knows of the states.
func (t *rxTable) state(states *rxStates, places []uint32, before rune) *rxState {
	key := binary.AppendVarint(nil, int64(before))
	for _, pc := range places {
		key = binary.AppendUvarint(key, uint64(pc))
	}
	s := states.known[string(key)]
	if s == nil {
		s = &rxState{next: make([]atomic.Pointer[rxState], len(t.shown)), places: slices.Clone(places), before: before}
		states.known[string(key)] = s
		states.size += 8*len(s.next) + 4*len(places) + len(key) + 150
	}
	return s
}

// rxWork is memory for making states.
type rxWork struct {
	seen    []uint32 // by instruction, the round in which it was met
	round   uint32
	stack   []uint32
	readers []uint32 // instructions that read a character
	ahead   []uint32
}

// closure finds the instructions that read the next character, from some places and from the beginning of the
// expression, since a match may begin everywhere. It is true if there is a match already.
func (w *rxWork) closure(t *rxTable, places []uint32, at syntax.EmptyOp) (match bool) {
	if w.round++; w.round == 0 {
		clear(w.seen)
		w.round = 1
	}
	w.readers = w.readers[:0]
	w.stack = append(append(w.stack[:0], uint32(t.prog.Start)), places...)
	for len(w.stack) > 0 {
		pc := w.stack[len(w.stack)-1]
		w.stack = w.stack[:len(w.stack)-1]
		if w.seen[pc] == w.round {
			continue
		}
		w.seen[pc] = w.round
		switch i := &t.prog.Inst[pc]; i.Op {
		case syntax.InstMatch:
			return true
		case syntax.InstAlt, syntax.InstAltMatch:
			w.stack = append(w.stack, i.Out, i.Arg)
		case syntax.InstCapture, syntax.InstNop:
			w.stack = append(w.stack, i.Out)
		case syntax.InstEmptyWidth:
			if syntax.EmptyOp(i.Arg)&^at == 0 {
				w.stack = append(w.stack, i.Out)
			}
		case syntax.InstFail:
		default:
			w.readers = append(w.readers, pc)
		}
	}
	return false
}
