package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"math"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/whygate/whygate/wire"
)

// jsonBounds are what a jsonScan holds a text to. A bound of -1 holds nothing.
type jsonBounds struct {
	depth      int // of lists and objects inside of each other
	keys       int // of one object
	elements   int // of one list
	values     int // of the whole text
	text       int // bytes of one text or name, escapes resolved
	numberText int // characters of one number
	exponent   int // of one number, either way
	// Twice and notUTF8 let pass what parsers read in different ways.
	twice, notUTF8 bool
}

// jsonFault is what is wrong with a text: the first thing, in reading order.
type jsonFault struct {
	kind   jsonFaultKind
	at     int    // offset
	wanted string // of malformed texts
	limit  int
	count  int // what was found where a bound was passed; of the key written twice, the offset of the first
}

// err is the fault for those who only say that a text is no JSON they can use.
func (f jsonFault) err() error {
	switch f.kind {
	case jsonTooDeep:
		return fmt.Errorf("JSON nested deeper than %d, at byte %d", f.limit, f.at)
	case jsonManyValues:
		return fmt.Errorf("more than %d values", f.limit)
	}
	return fmt.Errorf("something else than %s at byte %d", bracketWords.Replace(f.wanted), f.at)
}

// bracketWords are for errors, which stand in sentences.
var bracketWords = strings.NewReplacer(" }", " a closing brace", " ]", " a closing bracket")

type jsonFaultKind uint8

const (
	jsonFine jsonFaultKind = iota
	jsonMalformed
	jsonTooDeep
	jsonManyKeys
	jsonManyElements
	jsonManyValues
	jsonLongText
	jsonLongNumber
	jsonExponent
	jsonTwice
	jsonNotUTF8
)

// jsonScan reads one JSON text (RFC 8259) from front to end, without recursion: all of it by run, or piece by piece by
// begin, value, member and skip. It keeps its memory for the next one. With build set it makes the value, too; names
// and texts of that are views of data.
type jsonScan struct {
	data   []byte
	pos    int
	values int
	bounds *jsonBounds
	fault  jsonFault
	frames []jsonFrame
	names  jsonNames

	build bool
	stack []any // the values that are being made
	root  any
	// perDepth counts the values that are being made by how many lists and objects they lie in.
	perDepth []int32
}

// jsonFrame is a list or object that is not closed yet.
type jsonFrame struct {
	id     uint32 // tells the names of one object from those of others
	object bool
	count  int32
	// name is where the current name of an object stands, quotes left out.
	name, nameEnd int32
	key           string // of the value to come, while building
}

var jsonScans = sync.Pool{New: func() any { return new(jsonScan) }}

// scanJSON holds a text to its bounds. It allocates nothing once the pool is warm.
func scanJSON(data []byte, b *jsonBounds) jsonFault {
	s := jsonScans.Get().(*jsonScan)
	s.run(data, b, false)
	f := s.fault
	s.release()
	return f
}

// decodeJSON is scanJSON that makes the value: nil, bool, int64, json.Number, string, []any and
// map[string]any. It holds as long as data is not changed.
func decodeJSON(data []byte, b *jsonBounds) (any, jsonFault) {
	v, f, _ := decodeJSONFor(nil, data, b)
	return v, f
}

// decodeJSONFor is decodeJSON that says how much work a schema has with the value.
func decodeJSONFor(w *schemaWork, data []byte, b *jsonBounds) (v any, f jsonFault, work int64) {
	s := jsonScans.Get().(*jsonScan)
	s.run(data, b, true)
	f, v = s.fault, s.root
	if w != nil {
		work = w.of(s.perDepth)
	}
	s.release()
	return v, f, work
}

// release gives the memory back, unless one text has made it unusually large.
func (s *jsonScan) release() {
	s.data, s.root, s.bounds = nil, nil, nil
	clear(s.stack[:cap(s.stack)])
	s.stack = s.stack[:0]
	for i := range s.frames[:cap(s.frames)] {
		s.frames[:cap(s.frames)][i].key = ""
	}
	if len(s.names.slots) <= maxKeptNames {
		jsonScans.Put(s)
	}
}

const maxKeptNames = 1 << 12

func (s *jsonScan) fail(kind jsonFaultKind, at int, wanted string) bool {
	s.fault = jsonFault{kind: kind, at: at, wanted: wanted}
	return false
}

func (s *jsonScan) over(kind jsonFaultKind, at, limit, count int) bool {
	s.fault = jsonFault{kind: kind, at: at, limit: limit, count: count}
	return false
}

func (s *jsonScan) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// begin goes to the first value of a text.
func (s *jsonScan) begin(data []byte, b *jsonBounds, build bool) bool {
	s.data, s.pos, s.values, s.bounds, s.fault, s.build, s.root = data, 0, 0, b, jsonFault{}, build, nil
	s.frames, s.stack, s.perDepth = s.frames[:0], s.stack[:0], s.perDepth[:0]
	s.names.reset()
	if len(data) > math.MaxInt32 {
		return s.fail(jsonMalformed, 0, "a text of less than 2 GiB")
	}
	if bytes.HasPrefix(data, []byte("\ufeff")) {
		return s.fail(jsonMalformed, 0, "a value without a byte order mark before it")
	}
	s.space()
	return true
}

func (s *jsonScan) run(data []byte, b *jsonBounds, build bool) {
	if !s.begin(data, b, build) {
		return
	}
	if _, ok := s.skip(); ok {
		s.ended()
	}
}

// next goes on in the innermost list or object: to its next value, or to its end.
func (s *jsonScan) next() bool {
	done, ok := s.member()
	if done || !ok {
		return ok
	}
	if f := &s.frames[len(s.frames)-1]; f.count == 1 && !f.object {
		return s.value("a value or ]")
	}
	return s.value("a value")
}

// member goes to where the next value of the innermost list or object begins. done says that there is none, and that
// the end was read.
func (s *jsonScan) member() (done, ok bool) {
	s.space()
	f := &s.frames[len(s.frames)-1]
	c := s.peek()
	closing, wanted := byte(']'), "a comma or ]"
	if f.object {
		closing, wanted = '}', "a comma or }"
	}
	if c == closing {
		s.pos++
		s.closeFrame()
		return true, true
	}
	if f.count > 0 {
		if c != ',' {
			return false, s.fail(jsonMalformed, s.pos, wanted)
		}
		s.pos++
		s.space()
	}
	f.count++
	if !f.object {
		if n := s.bounds.elements; n >= 0 && int(f.count) > n {
			return false, s.over(jsonManyElements, s.pos, n, s.countRest(int(f.count)))
		}
		return false, true
	}
	if n := s.bounds.keys; n >= 0 && int(f.count) > n {
		return false, s.over(jsonManyKeys, s.pos, n, s.countRest(int(f.count)))
	}
	f.nameEnd = 0
	if s.peek() != '"' {
		if f.count == 1 {
			return false, s.fail(jsonMalformed, s.pos, `a name in double quotes or }`)
		}
		return false, s.fail(jsonMalformed, s.pos, `a name in double quotes`)
	}
	start := s.pos + 1
	escaped, ok := s.text()
	if !ok {
		return false, false
	}
	f.name, f.nameEnd = int32(start), int32(s.pos-1)
	if !s.bounds.twice {
		if first, twice := s.names.add(s.data, f.id, f.name, f.nameEnd, escaped); twice {
			return false, s.over(jsonTwice, start-1, 0, int(first)-1)
		}
	}
	if s.build {
		f.key = s.made(start, s.pos-1, escaped)
	}
	s.space()
	if s.peek() != ':' {
		return false, s.fail(jsonMalformed, s.pos, "a colon")
	}
	s.pos++
	s.space()
	return false, true
}

// name is the name of the current member of an object as it is written, with its quotes, and where that stands.
func (s *jsonScan) name() (raw []byte, at int) {
	f := &s.frames[len(s.frames)-1]
	return s.data[f.name-1 : f.nameEnd+1], int(f.name - 1)
}

// skip reads a whole value and returns its text.
func (s *jsonScan) skip() (raw []byte, ok bool) {
	start, depth := s.pos, len(s.frames)
	if !s.value("a value") {
		return nil, false
	}
	for len(s.frames) > depth {
		if !s.next() {
			return nil, false
		}
	}
	return s.data[start:s.pos], true
}

// ended says that nothing follows.
func (s *jsonScan) ended() bool {
	s.space()
	return s.pos == len(s.data) || s.fail(jsonMalformed, s.pos, "the end of the body")
}

// textEnd is the closing quote of a text that begins at i, or a place behind all of the data: it is skimmed, not checked.
func (s *jsonScan) textEnd(i int) int {
	for i++; i < len(s.data) && s.data[i] != '"'; i++ {
		if s.data[i] == '\\' {
			i++
		}
	}
	return i
}

// countRest is how many elements the innermost list or object has, or at least that many: the text is
// skimmed, not checked.
func (s *jsonScan) countRest(n int) int {
	depth := 0
	for i := s.pos; i < len(s.data); i++ {
		switch s.data[i] {
		case '"':
			i = s.textEnd(i)
		case '[', '{':
			depth++
		case ']', '}':
			if depth--; depth < 0 {
				return n
			}
		case ',':
			if depth == 0 {
				n++
			}
		}
	}
	return n
}

// peek is the next byte, 0 at the end.
func (s *jsonScan) peek() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

// value reads a value, or the opening of one.
func (s *jsonScan) value(wanted string) bool {
	c := s.peek()
	if s.values++; s.bounds.values >= 0 && s.values > s.bounds.values {
		return s.over(jsonManyValues, s.pos, s.bounds.values, s.values)
	}
	if s.build {
		for len(s.perDepth) <= len(s.frames) {
			s.perDepth = append(s.perDepth, 0)
		}
		s.perDepth[len(s.frames)]++
	}
	switch {
	case c == '{' || c == '[':
		if n := s.bounds.depth; n >= 0 && len(s.frames) >= n {
			return s.over(jsonTooDeep, s.pos, n, s.depthFrom())
		}
		s.pos++
		s.frames = append(s.frames, jsonFrame{id: uint32(s.values), object: c == '{'})
		if s.build {
			if c == '{' {
				s.stack = append(s.stack, make(map[string]any))
			} else {
				s.stack = append(s.stack, []any(nil))
			}
		}
		return true
	case c == '"':
		start := s.pos + 1
		escaped, ok := s.text()
		if ok && s.build {
			s.put(s.made(start, s.pos-1, escaped))
		}
		return ok
	case c == '-' || c >= '0' && c <= '9':
		return s.numberText()
	case c == 't':
		return s.word("true", true)
	case c == 'f':
		return s.word("false", false)
	case c == 'n':
		return s.word("null", nil)
	}
	return s.fail(jsonMalformed, s.pos, wanted)
}

// depthFrom is how deep the text goes on from an opening bracket at pos.
func (s *jsonScan) depthFrom() int {
	depth, most := len(s.frames), 0
	for i := s.pos; i < len(s.data); i++ {
		switch s.data[i] {
		case '"':
			i = s.textEnd(i)
		case '[', '{':
			depth++
			most = max(most, depth)
		case ']', '}':
			depth--
		}
	}
	return most
}

func (s *jsonScan) word(w string, v any) bool {
	for i := range len(w) {
		if s.pos+i >= len(s.data) || s.data[s.pos+i] != w[i] {
			return s.fail(jsonMalformed, s.pos, "a value: true, false and null are written like this, and texts in double quotes")
		}
	}
	s.pos += len(w)
	if s.build {
		s.put(v)
	}
	return true
}

// numberText reads a number (RFC 8259 §6).
func (s *jsonScan) numberText() bool {
	start, whole := s.pos, true
	if s.peek() == '-' {
		s.pos++
	}
	switch c := s.peek(); {
	case c == '0':
		s.pos++
		if d := s.peek(); d >= '0' && d <= '9' {
			return s.fail(jsonMalformed, s.pos, "a number without a 0 before it")
		}
	case !s.digits():
		return s.fail(jsonMalformed, s.pos, "a digit")
	}
	if s.peek() == '.' {
		whole = false
		if s.pos++; !s.digits() {
			return s.fail(jsonMalformed, s.pos, "a digit behind the point")
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		whole = false
		s.pos++
		if c := s.peek(); c == '+' || c == '-' {
			s.pos++
		}
		from := s.pos
		if !s.digits() {
			return s.fail(jsonMalformed, s.pos, "a digit of the exponent")
		}
		if most := s.bounds.exponent; most >= 0 {
			e, err := strconv.Atoi(wire.View(s.data[from:min(s.pos, from+18)]))
			if err != nil || s.pos-from > 18 || e > most {
				return s.over(jsonExponent, start, most, s.pos-start)
			}
		}
	}
	if n := s.bounds.numberText; n >= 0 && s.pos-start > n {
		return s.over(jsonLongNumber, start, n, s.pos-start)
	}
	if s.build {
		text := wire.View(s.data[start:s.pos])
		if whole && len(text) <= 18 {
			n, _ := strconv.ParseInt(text, 10, 64)
			s.put(n)
		} else {
			s.put(json.Number(text))
		}
	}
	return true
}

func (s *jsonScan) digits() bool {
	from := s.pos
	for s.pos < len(s.data) && s.data[s.pos] >= '0' && s.data[s.pos] <= '9' {
		s.pos++
	}
	return s.pos > from
}

// plainByteText are the bytes that a text is mostly made of: printable ASCII but for the quote and the
// backslash.
var plainByteText = func() (t [256]bool) {
	for c := byte(' '); c < 0x80; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// text reads a text in quotes and says whether it has escapes.
func (s *jsonScan) text() (escaped, ok bool) {
	start := s.pos
	i := start + 1
	spare := 0 // bytes that escapes take beyond what they stand for
	for {
		for i < len(s.data) && plainByteText[s.data[i]] {
			i++
		}
		if i >= len(s.data) {
			s.pos = i
			return false, s.fail(jsonMalformed, i, "the closing quote of a text")
		}
		switch c := s.data[i]; {
		case c == '"':
			s.pos = i + 1
			if n := s.bounds.text; n >= 0 && i-start-1-spare > n {
				return false, s.over(jsonLongText, start, n, i-start-1-spare)
			}
			return escaped, true
		case c == '\\':
			escaped = true
			r, size, wanted := escape(s.data[i:])
			if wanted != "" {
				s.pos = i
				return false, s.fail(jsonMalformed, i+size, wanted)
			}
			if r == utf8.RuneError && size == 6 && !s.bounds.notUTF8 && !bytes.EqualFold(s.data[i+2:i+6], []byte("fffd")) {
				return false, s.fail(jsonNotUTF8, i, "")
			}
			spare += size - utf8.RuneLen(r)
			i += size
		case c < ' ':
			s.pos = i
			return false, s.fail(jsonMalformed, i, "control characters in texts as escapes, such as \\n")
		default:
			r, size := utf8.DecodeRune(s.data[i:])
			if r == utf8.RuneError && size == 1 && !s.bounds.notUTF8 {
				return false, s.fail(jsonNotUTF8, i, "")
			}
			i += size
		}
	}
}

// hex4 reads the four digits of an escape \u.
func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// escape reads an escape, a pair of surrogates at once. Half of a pair is RuneError. Where it is
// malformed, wanted says so and size is the offset of the fault.
func escape(b []byte) (r rune, size int, wanted string) {
	const known = `one of the escapes \" \\ \/ \b \f \n \r \t \uXXXX`
	if len(b) < 2 {
		return 0, 1, known
	}
	switch b[1] {
	case '"', '\\', '/':
		return rune(b[1]), 2, ""
	case 'b':
		return '\b', 2, ""
	case 'f':
		return '\f', 2, ""
	case 'n':
		return '\n', 2, ""
	case 'r':
		return '\r', 2, ""
	case 't':
		return '\t', 2, ""
	case 'u':
	default:
		return 0, 0, known
	}
	r, ok := hex4(b[2:])
	switch {
	case !ok:
		return 0, 2, "four hexadecimal digits behind \\u"
	case r < 0xd800 || r > 0xdfff:
		return r, 6, ""
	case r < 0xdc00 && len(b) >= 12 && b[6] == '\\' && b[7] == 'u':
		if low, ok := hex4(b[8:]); ok && low >= 0xdc00 && low <= 0xdfff {
			return (r-0xd800)<<10 | (low - 0xdc00) + 0x10000, 12, ""
		}
	}
	return utf8.RuneError, 6, ""
}

// unescape resolves the escapes of a text that text has read.
func unescape(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\\')
		if i < 0 {
			return append(out, b...)
		}
		r, size, _ := escape(b[i:])
		out = utf8.AppendRune(append(out, b[:i]...), r)
		b = b[i+size:]
	}
	return out
}

// made is the text between two offsets.
func (s *jsonScan) made(start, end int, escaped bool) string {
	b := s.data[start:end]
	if escaped {
		b = unescape(b)
	}
	return wire.View(b)
}

// put places a finished value in what holds it.
func (s *jsonScan) put(v any) {
	if len(s.stack) == 0 {
		s.root = v
		return
	}
	top := len(s.stack) - 1
	switch in := s.stack[top].(type) {
	case map[string]any:
		in[s.frames[top].key] = v
	case []any:
		s.stack[top] = append(in, v)
	}
}

func (s *jsonScan) closeFrame() {
	n := len(s.frames) - 1
	s.frames = s.frames[:n]
	if s.build {
		v := s.stack[n]
		s.stack = s.stack[:n]
		if list, ok := v.([]any); ok && list == nil {
			v = []any{}
		}
		s.put(v)
	}
}

// jsonNames are the names of all objects that a scan has met, to find those written twice. Where texts
// of strangers collide cannot be foreseen: the hash is seeded.
type jsonNames struct {
	slots []jsonName // open addressing; a power of two of them
	used  int
	epoch uint32
}

type jsonName struct {
	epoch      uint32 // of another scan: free
	object     uint32
	hash       uint32
	start, end int32
	escaped    bool
}

var jsonSeed = maphash.MakeSeed()

func (n *jsonNames) reset() {
	n.used = 0
	if n.epoch++; n.epoch == 0 { // once in four thousand million scans
		clear(n.slots)
		n.epoch = 1
	}
}

// add notes a name of an object and finds the first one that is the same.
func (n *jsonNames) add(data []byte, object uint32, start, end int32, escaped bool) (first int32, twice bool) {
	if n.used*2 >= len(n.slots) {
		n.grow()
	}
	b := data[start:end]
	if escaped {
		b = unescape(b)
	}
	h := uint32(maphash.Bytes(jsonSeed, b)) ^ object*0x9e3779b1
	mask := uint32(len(n.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		s := &n.slots[i]
		if s.epoch != n.epoch {
			*s = jsonName{n.epoch, object, h, start, end, escaped}
			n.used++
			return 0, false
		}
		if s.hash == h && s.object == object {
			have := data[s.start:s.end]
			if s.escaped {
				have = unescape(have)
			}
			if bytes.Equal(have, b) {
				return s.start, true
			}
		}
	}
}

func (n *jsonNames) grow() {
	old := n.slots
	n.slots = make([]jsonName, max(64, 2*len(old)))
	mask := uint32(len(n.slots) - 1)
	for _, s := range old {
		if s.epoch != n.epoch {
			continue
		}
		i := s.hash & mask
		for n.slots[i].epoch == n.epoch {
			i = (i + 1) & mask
		}
		n.slots[i] = s
	}
}

// lineAndColumn is where an offset of a text is: line and column from 1, the column in characters.
func lineAndColumn(data []byte, at int) (line, col int) {
	before := data[:min(at, len(data))]
	line = bytes.Count(before, []byte{'\n'}) + 1
	return line, utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
}

// pointer is the JSON pointer of what is wrong.
func (f jsonFault) pointer(data []byte) string {
	p := jsonPointer(data, f.at)
	if f.kind == jsonTwice {
		s := jsonScan{data: data, pos: f.at, bounds: &jsonBounds{text: -1, notUTF8: true}}
		if escaped, ok := s.text(); ok {
			p += "/" + pointerToken(strings.ToValidUTF8(strings.Clone(s.made(f.at+1, s.pos-1, escaped)), "\ufffd"))
		}
	}
	return cutText(p, 200)
}

// jsonPointer is the JSON pointer (RFC 6901) of the value at an offset, found by reading the text again. Of
// a text that goes on and on it is the first 200 characters.
func jsonPointer(data []byte, at int) string {
	var s jsonScan
	s.run(data[:min(at, len(data))], &jsonBounds{depth: -1, keys: -1, elements: -1, values: -1, text: -1, numberText: -1, exponent: -1, twice: true, notUTF8: true}, false)
	var b strings.Builder
	for _, f := range s.frames {
		switch {
		case !f.object && f.count == 0:
		case !f.object:
			b.WriteByte('/')
			b.WriteString(strconv.Itoa(int(f.count - 1)))
		case f.nameEnd > 0:
			name := s.data[f.name:f.nameEnd]
			b.WriteString("/" + pointerToken(strings.ToValidUTF8(string(unescape(name)), "\ufffd")))
		}
		if b.Len() > 200 {
			return cutText(b.String(), 200)
		}
	}
	return b.String()
}

// pointerToken writes a name as a part of a JSON pointer.
func pointerToken(name string) string {
	if strings.ContainsAny(name, "~/") {
		return strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
	}
	return name
}

// cutText is at most n bytes of a text, with … where something is left out.
func cutText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
