package policy

import (
	"io/fs"
	"math/bits"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/corazawaf/coraza-coreruleset/v4"
	"github.com/corazawaf/coraza/v3/collection"
	"github.com/corazawaf/coraza/v3/experimental/plugins"
	"github.com/corazawaf/coraza/v3/experimental/plugins/plugintypes"
	"github.com/corazawaf/coraza/v3/types"
	"github.com/corazawaf/coraza/v3/types/variables"
)

// The engine runs each rule over all values it is for, which takes a microsecond or more for each of some hundred
// rules and each parameter. So all values of a call are looked at once before, for what the rules need to match at
// all, and those that cannot match are taken out for that call. It is done by an operator of ours in a rule before
// all others of its phase. What is taken out would not have matched, and a rule that does not match leaves nothing
// behind, so no verdict changes.

// wafSkipRules come before all others, one for each phase of the request.
const wafSkipRules = `
SecRule REQUEST_METHOD "@whygateSkip" "id:200010,phase:1,pass,nolog,t:none"
SecRule REQUEST_METHOD "@whygateSkip" "id:200011,phase:2,pass,nolog,t:none"
`

// skipIndex is what the operator knows of the rules of an engine.
type skipIndex struct {
	rules   []skipRule
	sources []skipSource
	chains  [][]chainStep
	steps   map[string]int // numbers of transformations
	chainOf map[string]int // by the names of transformations
	// plans by phase and paranoia.
	plans [3][5]*skipPlan
	find  *needFinder
	pool  sync.Pool
	// counted is, by phase, how many of the rules that come next another rule may pass over by their number.
	counted [3]int
}

type skipRule struct {
	id, phase, paranoia int
	sources             []int
	chains              []int // more than one where a match of each step counts
	needs               []need
	expression          string // of the operator rx
}

// skipSource is where values come from: a variable, or a key of it.
type skipSource struct {
	variable variables.RuleVariable
	key      string
}

// skipPlan is what is looked at in one phase.
type skipPlan struct {
	sources []int
	rules   bitset         // those that can be taken out
	reads   map[int]bitset // by source
	chains  []skipChain    // those of the rules
}

type skipChain struct {
	steps []chainStep
	rules bitset
}

type bitset []uint64

func (b bitset) set(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bitset) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }

// maxSkipSources is as many as fit into a word.
const maxSkipSources = 64

// skipVariables are those that do not change while a phase runs.
var skipVariables = map[string]variables.RuleVariable{}

func init() {
	for _, v := range []variables.RuleVariable{
		variables.Args, variables.ArgsGet, variables.ArgsPost, variables.ArgsNames, variables.ArgsGetNames, variables.ArgsPostNames,
		variables.RequestCookies, variables.RequestCookiesNames, variables.RequestHeaders, variables.RequestHeadersNames,
		variables.RequestFilename, variables.RequestBasename, variables.RequestURI, variables.RequestURIRaw, variables.RequestLine,
		variables.RequestMethod, variables.RequestProtocol, variables.QueryString, variables.RequestBody, variables.Files, variables.FilesNames,
		variables.XML, variables.MultipartPartHeaders, variables.MultipartFilename, variables.MultipartName,
	} {
		skipVariables[v.Name()] = v
	}
	plugins.RegisterOperator("whygateSkip", newSkipOperator)
	plugins.RegisterOperator(rxOperatorName[1:], newRxOperator)
}

// skipAction is an action that passes over some rules.
var skipAction = regexp.MustCompile(`(?i)\bskip\s*:\s*'?(\d+)`)

func newSkipIndex() *skipIndex {
	return &skipIndex{steps: map[string]int{}, chainOf: map[string]int{}}
}

// add takes a rule in, if what it does can be foreseen.
func (x *skipIndex) add(m types.RuleMetadata) {
	phase := int(m.Phase())
	if phase != 1 && phase != 2 {
		return
	}
	counted := x.counted[phase] > 0
	if counted {
		x.counted[phase]--
	}
	if n := skipAction.FindStringSubmatch(m.Raw()); n != nil {
		count, _ := strconv.Atoi(n[1])
		x.counted[phase] = max(x.counted[phase], count)
	}
	text, ok := strings.CutPrefix(m.Raw(), "SecRule ")
	if !ok || m.ID() <= 0 || counted {
		return
	}
	targets, operator, actions, ok := splitRule(text)
	if !ok {
		return
	}
	r := skipRule{id: m.ID(), phase: phase, paranoia: 1}
	for _, tag := range m.Tags() {
		if n, ok := strings.CutPrefix(tag, "paranoia-level/"); ok {
			r.paranoia, _ = strconv.Atoi(n)
		}
	}
	if r.paranoia < 1 || r.paranoia > 4 {
		return
	}
	for t := range strings.SplitSeq(targets, "|") {
		if strings.HasPrefix(t, "!") {
			continue // less to look at
		}
		s, ok := x.source(t)
		if !ok {
			return
		}
		r.sources = append(r.sources, s)
	}
	r.chains = x.chainsOf(actions)
	r.needs = operatorNeeds(operator, m.File())
	if name, args, _ := strings.Cut(operator, " "); name == rxOperatorName {
		r.expression = strings.TrimSpace(args)
	}
	x.rules = append(x.rules, r)
}

// splitRule cuts a rule into its parts, as the engine does.
func splitRule(s string) (targets, operator, actions string, ok bool) {
	targets, s, ok = strings.Cut(strings.TrimSpace(s), " ")
	s = strings.TrimLeft(s, " ")
	if !ok || s == "" || s[0] != '"' {
		return "", "", "", false
	}
	end := 1
	for escaped := false; ; end++ {
		if end == len(s) {
			return "", "", "", false
		}
		if s[end] == '"' && !escaped {
			break
		}
		escaped = s[end] == '\\' && !escaped
	}
	operator = strings.ReplaceAll(s[1:end], `\"`, `"`)
	actions = strings.TrimSpace(s[end+1:])
	if actions != "" && (len(actions) < 2 || actions[0] != '"' || actions[len(actions)-1] != '"') {
		return "", "", "", false
	}
	return targets, operator, strings.Trim(actions, `"`), true
}

// source numbers a target. Keys count for headers only; else it is the whole variable that is looked at.
func (x *skipIndex) source(target string) (int, bool) {
	name, key, _ := strings.Cut(target, ":")
	v, ok := skipVariables[strings.ToUpper(name)]
	if !ok {
		return 0, false
	}
	if v != variables.RequestHeaders || strings.ContainsAny(key, "/'\"") {
		key = ""
	}
	s := skipSource{v, key}
	if i := slices.Index(x.sources, s); i >= 0 {
		return i, true
	}
	if len(x.sources) == maxSkipSources {
		return 0, false
	}
	x.sources = append(x.sources, s)
	return len(x.sources) - 1, true
}

// unknownChain stands for transformations whose results are not known.
const unknownChain = -1

// chainsOf numbers the transformations among the actions of a rule.
func (x *skipIndex) chainsOf(actions string) []int {
	var names []string
	multi := false
	for _, a := range splitActions(actions) {
		name, value, _ := strings.Cut(a, ":")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "multimatch":
			multi = true
		case "t":
			value = strings.ToLower(strings.Trim(strings.TrimSpace(value), "'"))
			if value == "none" {
				names = names[:0]
				continue
			}
			names = append(names, value)
		}
	}
	var steps []chainStep
	for _, name := range names {
		c := changes[name]
		if c == nil {
			return []int{unknownChain}
		}
		n, ok := x.steps[name]
		if !ok {
			n = len(x.steps)
			x.steps[name] = n
		}
		steps = append(steps, chainStep{*c, n})
	}
	var list []int
	from := len(names)
	if multi {
		from = 0
	}
	for ; from <= len(names); from++ {
		key := strings.Join(names[:from], ",")
		i, ok := x.chainOf[key]
		if !ok {
			i = len(x.chains)
			x.chainOf[key] = i
			x.chains = append(x.chains, steps[:from])
		}
		list = append(list, i)
	}
	return list
}

// splitActions cuts actions at the commas that are not quoted, as the engine does.
func splitActions(s string) (list []string) {
	begin, quoted := 0, false
	for i := 1; i < len(s); i++ {
		switch {
		case s[i-1] == '\\':
		case s[i] == '\'':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			list = append(list, s[begin:i])
			begin = i + 1
		}
	}
	return append(list, s[begin:])
}

// operatorNeeds is what a value needs for an operator to match it; nothing where that is not known.
func operatorNeeds(operator, file string) []need {
	name, args, _ := strings.Cut(operator, " ")
	args = strings.TrimSpace(args)
	switch strings.TrimSpace(name) {
	case "@rx", rxOperatorName:
		return rxNeeds(args)
	case "@pm":
		return wordNeeds(strings.Split(strings.ToLower(args), " "))
	case "@pmFromFile", "@pmf":
		if !strings.Contains(file, "@owasp_crs/") || strings.Contains(args, " ") {
			return nil
		}
		data, err := fs.ReadFile(coreruleset.FS, "@owasp_crs/"+args)
		if err != nil {
			return nil
		}
		var words []string
		for line := range strings.Lines(string(data)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				words = append(words, line)
			}
		}
		return wordNeeds(words)
	case "@validateByteRange":
		return byteNeeds(args)
	case "@detectXSS": // a tag, a comment or the value of an attribute
		return []need{{list: []string{"<", "="}}}
	case "@contains", "@streq":
		if args != "" && !strings.Contains(args, "%") {
			return wordNeeds([]string{args})
		}
	}
	return nil
}

// byteNeeds are the bytes outside some ranges.
func byteNeeds(ranges string) []need {
	inside := map[int]bool{}
	for r := range strings.SplitSeq(ranges, ",") {
		low, high, ok := strings.Cut(strings.TrimSpace(r), "-")
		if !ok {
			high = low
		}
		from, err := strconv.Atoi(low)
		to, err2 := strconv.Atoi(high)
		if err != nil || err2 != nil {
			return nil
		}
		for b := from; b <= to && b < 256; b++ {
			inside[b] = true
		}
	}
	var n need
	for b := range 256 {
		if !inside[b] {
			n.list = append(n.list, string([]byte{foldByte[b]}))
		}
	}
	if n.list == nil {
		return nil
	}
	return rarest([]need{n.tidy()})
}

// skipSlots is how many needs of a rule are looked for.
const skipSlots = 3

// build makes the plans when all rules are there. Rules that directives changed are left to the engine.
func (x *skipIndex) build(asWritten func(id int) bool) {
	x.rules = slices.DeleteFunc(x.rules, func(r skipRule) bool { return !asWritten(r.id) })
	words := (len(x.rules) + 63) / 64
	x.find = newNeedFinder(x.rules, words)
	for phase := 1; phase <= 2; phase++ {
		for level := 1; level <= 4; level++ {
			p := &skipPlan{rules: make(bitset, words), reads: map[int]bitset{}}
			chains := map[int]bitset{}
			for i := range x.rules {
				r := &x.rules[i]
				if r.phase != phase || r.paranoia > level {
					continue
				}
				p.rules.set(i)
				for _, n := range r.chains {
					if chains[n] == nil {
						chains[n] = make(bitset, words)
					}
					chains[n].set(i)
				}
				for _, s := range r.sources {
					if p.reads[s] == nil {
						p.reads[s] = make(bitset, words)
						p.sources = append(p.sources, s)
					}
					p.reads[s].set(i)
				}
			}
			for n, rules := range chains {
				c := skipChain{rules: rules}
				if n == unknownChain {
					c.steps = []chainStep{{change{looksFor: ^valueTraits(0)}, 0}}
				} else {
					c.steps = x.chains[n]
				}
				p.chains = append(p.chains, c)
			}
			slices.Sort(p.sources)
			x.plans[phase][level] = p
		}
	}
}

// skipsWith says that rules can be taken out beside some directives: none that changes the actions of rules, and none
// that counts rules to pass over.
func skipsWith(list []directive) bool {
	return !slices.ContainsFunc(list, func(d directive) bool {
		text := strings.Join(strings.Fields(strings.ToLower(d.text)), "")
		return strings.HasPrefix(text, "secruleupdateaction") || strings.Contains(text, "skip:")
	})
}

// skipOperator takes out the rules that cannot match.
type skipOperator struct{ index *skipIndex }

func newSkipOperator(o plugintypes.OperatorOptions) (plugintypes.Operator, error) {
	if files, ok := o.Root.(*rulesFS); ok {
		return skipOperator{files.skip}, nil
	}
	return skipOperator{}, nil
}

// Evaluate takes the rules out that cannot match. It never matches itself.
func (o skipOperator) Evaluate(tx plugintypes.TransactionState, _ string) bool {
	remover, ok := tx.(wafRemover)
	phase := int(tx.LastPhase())
	if o.index == nil || o.index.find == nil || !ok || phase != 1 && phase != 2 {
		return false
	}
	level := 4
	if v := tx.Variables().TX().Get("detection_paranoia_level"); len(v) == 1 {
		if n, err := strconv.Atoi(v[0]); err == nil && n >= 1 && n <= 4 {
			level = n
		}
	}
	o.index.skip(tx, o.index.plans[phase][level], remover.RemoveRuleByID)
	return false
}

// skipScratch is memory of one call.
type skipScratch struct {
	values    map[string]uint64 // the sources of each
	variants  variants
	match     bitset   // rules that may match
	hits      []bitset // by slot
	here, all bitset
	results   []bitset // by variant, the rules whose chain leads there
}

func (x *skipIndex) skip(tx plugintypes.TransactionState, p *skipPlan, remove func(id int)) {
	s, _ := x.pool.Get().(*skipScratch)
	if s == nil {
		s = x.newScratch()
	}
	clear(s.values)
	clear(s.match)
	for _, n := range p.sources {
		for _, m := range x.sources[n].values(tx) {
			s.values[m.Value()] |= 1 << n
		}
	}
	for value, from := range s.values {
		clear(s.here)
		for f := from; f != 0; f &= f - 1 {
			for i, w := range p.reads[bits.TrailingZeros64(f)] {
				s.here[i] |= w
			}
		}
		open := false // some rule that reads it is not known to match yet
		for i, w := range s.here {
			open = open || w&^s.match[i] != 0
		}
		if open {
			x.look(s, p, value)
		}
	}
	for i, w := range p.rules {
		for w &^= s.match[i]; w != 0; w &= w - 1 {
			remove(x.rules[i*64+bits.TrailingZeros64(w)].id)
		}
	}
	if len(s.values) <= maxScratchValues {
		clear(s.values) // they may be large
		clear(s.variants.list)
		x.pool.Put(s)
	}
}

const maxScratchValues = 500

func (x *skipIndex) newScratch() *skipScratch {
	words := (len(x.rules) + 63) / 64
	s := &skipScratch{values: map[string]uint64{}, match: make(bitset, words), here: make(bitset, words), all: make(bitset, words)}
	for range skipSlots {
		s.hits = append(s.hits, make(bitset, words))
	}
	return s
}

// values are those of a source now.
func (s skipSource) values(tx plugintypes.TransactionState) []types.MatchData {
	c := tx.Collection(s.variable)
	if c == nil {
		return nil
	}
	if k, ok := c.(collection.Keyed); ok && s.key != "" {
		return k.FindString(s.key)
	}
	return c.FindAll()
}

// look adds the rules that may match a value to match, of those in here.
func (x *skipIndex) look(s *skipScratch, p *skipPlan, value string) {
	s.variants.set(value, len(x.steps))
	used := 0
	for i := range p.chains {
		c := &p.chains[i]
		open := false
		for k, w := range c.rules {
			open = open || w&s.here[k]&^s.match[k] != 0
		}
		if !open {
			continue
		}
		at := s.variants.after(c.steps, len(x.steps))
		if at == unknownVariant {
			for k, w := range c.rules {
				s.match[k] |= w & s.here[k]
			}
			continue
		}
		for used <= at {
			if used == len(s.results) {
				s.results = append(s.results, make(bitset, len(s.match)))
			}
			clear(s.results[used])
			used++
		}
		for k, w := range c.rules {
			s.results[at][k] |= w
		}
	}
	for at := range used {
		open := false
		for k, w := range s.results[at] {
			w &= s.here[k] &^ s.match[k]
			s.results[at][k] = w
			open = open || w != 0
		}
		if open {
			x.find.find(s.variants.list[at].text, s.hits)
			for k, w := range s.results[at] {
				for _, h := range s.hits {
					w &= h[k]
				}
				s.match[k] |= w
			}
		}
	}
}

// needFinder finds the needs of all rules in one pass over a value, or two.
type needFinder struct {
	words        int
	none         []bitset // by slot, the rules that need nothing there
	looseSlots   []bitset // by slot, the rules whose need there is loose
	plain, loose stringFinder
}

// stringFinder finds strings in folded values.
type stringFinder struct {
	drops   [256]bool     // bytes that are passed over
	single  [256][]bitset // by byte and slot, the rules that this byte is enough for; nil for none
	classes [256]uint8    // of bytes that no string tells apart
	width   int           // number of classes
	next    []int32       // state × class → state
	found   [][]foundNeed // by state
}

type foundNeed struct {
	slot, rule int32
}

func newNeedFinder(rules []skipRule, words int) *needFinder {
	f := &needFinder{words: words}
	for range skipSlots {
		f.none = append(f.none, make(bitset, words))
		f.looseSlots = append(f.looseSlots, make(bitset, words))
	}
	strs := map[bool]map[string][]foundNeed{false: {}, true: {}}
	for i, r := range rules {
		for slot := range skipSlots {
			if slot >= len(r.needs) {
				f.none[slot].set(i)
				continue
			}
			n := r.needs[slot]
			to := &f.plain
			if n.loose {
				to = &f.loose
				f.looseSlots[slot].set(i)
			}
			for _, s := range n.list {
				if len(s) > 1 {
					strs[n.loose][s] = append(strs[n.loose][s], foundNeed{int32(slot), int32(i)})
					continue
				}
				if to.single[s[0]] == nil {
					for range skipSlots {
						to.single[s[0]] = append(to.single[s[0]], make(bitset, words))
					}
				}
				to.single[s[0]][slot].set(i)
			}
		}
	}
	for _, c := range []byte(looseDrops) {
		f.loose.drops[c] = true
	}
	f.plain.automaton(strs[false])
	f.loose.automaton(strs[true])
	return f
}

// automaton is that of Aho and Corasick, with a table of all transitions.
func (f *stringFinder) automaton(strs map[string][]foundNeed) {
	f.width = 1
	list := make([]string, 0, len(strs))
	for s := range strs {
		list = append(list, s)
		for i := range len(s) {
			if f.classes[s[i]] == 0 {
				f.classes[s[i]] = uint8(f.width)
				f.width++
			}
		}
	}
	slices.Sort(list)
	for b := range f.classes { // folding is done with the classes
		f.classes[b] = f.classes[foldByte[b]]
	}
	state := func() int32 {
		f.next = append(f.next, make([]int32, f.width)...)
		f.found = append(f.found, nil)
		return int32(len(f.found) - 1)
	}
	state()
	for _, s := range list {
		at := int32(0)
		for i := range len(s) {
			c := int(f.classes[s[i]])
			to := f.next[int(at)*f.width+c]
			if to == 0 {
				to = state()
				f.next[int(at)*f.width+c] = to
			}
			at = to
		}
		f.found[at] = append(f.found[at], strs[s]...)
	}
	fail := make([]int32, len(f.found))
	queue := []int32{0}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		for c := range f.width {
			cell := &f.next[int(at)*f.width+c]
			back := int32(0)
			if at != 0 {
				back = f.next[int(fail[at])*f.width+c]
			}
			if *cell == 0 {
				*cell = back
				continue
			}
			fail[*cell] = back
			f.found[*cell] = append(f.found[*cell], f.found[back]...)
			queue = append(queue, *cell)
		}
	}
}

// find sets, by slot, the rules whose need a value has.
func (f *needFinder) find(s string, hits []bitset) {
	for slot := range hits {
		copy(hits[slot], f.none[slot])
	}
	f.plain.find(s, hits)
	if strings.IndexByte(s, looseAbsent) < 0 {
		f.loose.find(s, hits)
		return
	}
	for slot, rules := range f.looseSlots {
		for k, w := range rules {
			hits[slot][k] |= w
		}
	}
}

func (f *stringFinder) find(s string, hits []bitset) {
	var seen [4]uint64
	at := int32(0)
	for i := range len(s) {
		b := foldByte[s[i]]
		if f.drops[b] {
			continue
		}
		if seen[b/64]&(1<<(b%64)) == 0 {
			seen[b/64] |= 1 << (b % 64)
			for slot, rules := range f.single[b] {
				for k, w := range rules {
					hits[slot][k] |= w
				}
			}
		}
		at = f.next[int(at)*f.width+int(f.classes[b])]
		for _, n := range f.found[at] {
			hits[n.slot].set(int(n.rule))
		}
	}
}
