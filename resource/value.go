package resource

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Bounds of one document, far above what people write.
const (
	maxDepth  = 100     // collections inside of collections
	maxValues = 1 << 20 // values or 64 bytes of text, each alias counted as what it stands for
)

// valueKind is what a value is.
type valueKind uint8

// Text without quotes is null, a bool or a number where YAML 1.2 says so: null, true,
// 12, 0x1f, 1.5, and nothing like yes or 1_000.
const (
	isNull valueKind = iota
	isBool
	isInt
	isFloat
	isText
	isList
	isMap
)

// span is a part of a file, as offsets into source.text.
type span struct{ start, end int32 }

// value is one value and everything below it. It never changes.
type value struct {
	span
	kind  valueKind
	flow  bool     // a list or mapping written in brackets
	quote byte     // of a text: ", ' or the | or > of a block; 0 without quotes
	text  string   // of a scalar: as written, quotes and escapes resolved
	keys  []key    // of a mapping, in order; keys[i] names items[i]
	items []*value // of a list or mapping
}

// key is the name of a field.
type key struct {
	span
	text string
}

// field finds a field of a mapping by name and returns its index, or -1.
func (v *value) field(name string) int {
	for i := range v.keys {
		if v.keys[i].text == name {
			return i
		}
	}
	return -1
}

// reader turns the nodes of one document into values. It notes every fault and goes
// on, until a bound is passed.
type reader struct {
	*source
	part     span
	line     int                 // of the file, where the part begins
	json     bool                // texts are read again, see surrogates
	values   int                 // counted against maxValues
	open     map[*yaml.Node]bool // anchored values that are being read
	problems Problems
	stopped  bool  // a bound was passed
	alias    int32 // the outermost alias that is being read, or 0
}

// at is the offset of a place as the library counts: from 1, in characters, in this part.
func (r *reader) at(line, col int) int32 { return r.offset(r.line+line-1, col) }

// fail notes a fault. Those of what an alias stands for are known already.
func (r *reader) fail(at span, hint, format string, args ...any) {
	if len(r.problems) < maxProblems && !r.stopped && r.alias == 0 {
		r.problems = append(r.problems, r.problem(at, fmt.Sprintf(format, args...), hint))
	}
}

// stop notes a bound that was passed.
func (r *reader) stop(at int32, hint, format string, args ...any) {
	if r.alias > 0 {
		at, r.alias = r.alias, 0
	}
	r.fail(span{at, at + 1}, hint, format, args...)
	r.stopped = true
}

// value reads a node and everything below it. An alias becomes a copy of what it
// stands for, with the places of that.
func (r *reader) value(n *yaml.Node, depth int) *value {
	start := r.at(n.Line, n.Column)
	if n.Kind == yaml.AliasNode {
		if !r.open[n.Alias] {
			if r.alias == 0 {
				r.alias = start
				defer func() { r.alias = 0 }()
			}
			return r.value(n.Alias, depth)
		}
		r.fail(span{start, start + 1 + int32(len(n.Value))}, "an anchor must be complete before it is used",
			"the alias %s stands inside of its own anchor", clip("*"+n.Value))
		n = &yaml.Node{Kind: yaml.ScalarNode}
	}
	v := &value{span: span{start, start + 1}, flow: n.Style&yaml.FlowStyle != 0}
	if r.values += 1 + len(n.Value)/64; r.values > maxValues {
		r.stop(start, "split it, or use fewer aliases", "a document has at most a million values and 64 MiB of text, with what its aliases stand for")
	}
	if n.Kind != yaml.ScalarNode {
		if depth++; depth > maxDepth {
			r.stop(start, "", "%s", errTooDeep)
		}
	}
	if r.stopped {
		return v
	}
	if n.Anchor != "" {
		r.open[n] = true
		defer delete(r.open, n)
	}
	r.noTag(n, start)
	switch n.Kind {
	case yaml.ScalarNode:
		r.scalar(v, n)
	case yaml.SequenceNode:
		v.kind, v.items = isList, make([]*value, len(n.Content))
		for i, c := range n.Content {
			v.items[i] = r.value(c, depth)
		}
	case yaml.MappingNode:
		v.kind = isMap
		r.mapping(v, n, depth)
	}
	return v
}

func (r *reader) noTag(n *yaml.Node, at int32) {
	if n.Style&yaml.TaggedStyle != 0 || n.Tag == "!" {
		r.fail(span{at, at + 1}, "remove it, or put text that begins with ! in quotes", "tags are not supported, found %s", clip(n.Tag))
	}
}

// scalar fills in what a scalar is, and where it ends on its first line. One with an
// anchor is marked there.
func (r *reader) scalar(v *value, n *yaml.Node) {
	v.kind, v.text = isText, n.Value
	switch {
	case n.Style&yaml.DoubleQuotedStyle != 0:
		v.quote = '"'
	case n.Style&yaml.SingleQuotedStyle != 0:
		v.quote = '\''
	case n.Style&yaml.LiteralStyle != 0:
		v.quote = '|'
	case n.Style&yaml.FoldedStyle != 0:
		v.quote = '>'
	default:
		v.kind, v.end = resolve(n.Value), v.start
		for _, c := range []byte(n.Value) {
			if int(v.end) == len(r.text) || r.text[v.end] != c {
				break // the text goes on in the next line
			}
			v.end++
		}
	}
	if (v.quote == '"' || v.quote == '\'') && n.Anchor == "" {
		v.end = r.quoteEnd(v.start)
	}
	if r.json && v.quote == '"' {
		_ = json.Unmarshal([]byte(r.text[v.start:v.end]), &v.text)
	}
}

// quoteEnd is where the quote closes, or else the end of its line.
func (s *source) quoteEnd(start int32) int32 {
	text := s.text[start:]
	for i := 1; i < len(text); i++ {
		switch c, q := text[i], text[0]; {
		case c == '\n':
			return start + int32(i)
		case c == '\\' && q == '"' || c == q && q == '\'' && strings.HasPrefix(text[i+1:], "'"):
			i++
		case c == q:
			return start + int32(i) + 1
		}
	}
	return int32(len(s.text))
}

var (
	ints   = regexp.MustCompile(`^([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$`)
	floats = regexp.MustCompile(`^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$`)
)

// resolve says what text without quotes is: YAML 1.2.2, section 10.3.2. The library
// goes by YAML 1.1 here, for which 1_000 and 0b1 are numbers and 2026-01-01 is a time.
func resolve(s string) valueKind {
	switch s {
	case "", "~", "null", "Null", "NULL":
		return isNull
	case "true", "True", "TRUE", "false", "False", "FALSE":
		return isBool
	}
	switch {
	case strings.IndexByte("+-.0123456789", s[0]) < 0:
	case ints.MatchString(s):
		return isInt
	case floats.MatchString(s):
		return isFloat
	}
	return isText
}

// mapping reads the fields of a mapping. It refuses doubles and resolves "<<": own
// fields win, then the source named first.
func (r *reader) mapping(v *value, n *yaml.Node, depth int) {
	index := make(map[string]int, len(n.Content)/2)
	add := func(k key, item *value) {
		index[k.text] = len(v.keys)
		v.keys, v.items = append(v.keys, k), append(v.items, item)
	}
	var merges []*value
	for i := 0; i < len(n.Content); i += 2 {
		k, ok := r.key(n.Content[i])
		item := r.value(n.Content[i+1], depth)
		first, twice := index[k.text]
		switch {
		case !ok:
		case k.text == "<<" && n.Content[i].Style == 0:
			merges = append(merges, r.merge(k, item)...)
		case twice:
			r.fail(k.span, fmt.Sprintf("the first one is in line %d; keep one of them", r.pos(v.keys[first].start).Line), "%s is written twice", clip(k.text))
		default:
			add(k, item)
		}
	}
	for _, from := range merges {
		for i, k := range from.keys {
			if _, ok := index[k.text]; !ok {
				add(k, from.items[i])
			}
		}
	}
}

// key reads the name of a field.
func (r *reader) key(n *yaml.Node) (k key, ok bool) {
	start := r.at(n.Line, n.Column)
	v := value{span: span{start, start + 1}}
	r.values += len(n.Value) / 64
	r.noTag(n, start)
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		r.fail(v.span, "write the key out", "keys have no anchors and aliases")
	case n.Kind != yaml.ScalarNode:
		r.fail(v.span, "put text that begins with { or [ in quotes", "wanted text as a key, found a list or mapping")
	case n.Value == "" && n.Style == 0:
		r.fail(v.span, "", "wanted a key before the colon")
	default:
		r.scalar(&v, n)
		ok = true
	}
	return key{v.span, v.text}, ok
}

// merge is the mappings that "<<" takes over.
func (r *reader) merge(k key, v *value) []*value {
	maps := []*value{v}
	if v.kind == isList {
		maps = v.items
	}
	for _, m := range maps {
		if m.kind != isMap && !r.stopped {
			r.fail(k.span, "write <<: *name, where &name marks a mapping", `wanted a mapping to take over after "<<"`)
			return nil
		}
	}
	return maps
}
