package policy

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// Mask hides what clients must not read in answers, and nobody in records: fields of JSON by name or path, and e-mail addresses,
// phone, card and account numbers in JSON and texts.
//
// JSON is read whole, and stays JSON: a field that is masked becomes a text, its name stays. Patterns look
// into all texts of it, names included. Server-sent events and lines of JSON are masked line by line as
// they come; other texts in pieces, where a match has at most 4 KiB. What is neither text nor JSON passes. An
// answer that cannot be looked into (too large, encoded, a part of a whole, not the JSON that it says it
// is) is refused, unless Otherwise lets it pass. The upstream is asked for whole answers without
// encoding. Answers of upstreams that refuse are masked too; refusals of the gateway hold nothing to mask.
// How much was masked is a hint in the call's record, which never holds what it was.
//
// Records of calls hold what a check has seen, so that refusals can be explained: the same is masked in them, in what
// is recorded of a request as well, its path and User-Agent included. Values of fields and paths are not told by schema, rule and waf.
//
//	policies:
//	- mask: {fields: [password], paths: ["customers[*].email"], patterns: [card, iban]}
type Mask struct {
	// Fields are names, at any depth and in any case.
	Fields []string `json:"fields" example:"[password, ssn]"`
	// Paths lead to single fields: "customer.email", "orders[*].card", "[0].name", "a.*.b".
	Paths []string `json:"paths" example:"[\"customers[*].email\"]"`
	// Patterns that are masked in texts: email; phone, in the international form; card, with its check
	// digit; iban, with its check digits.
	Patterns []string `json:"patterns" enum:"email,phone,card,iban" example:"[email, card]"`
	// Match are regular expressions (RE2) for what else is masked in texts.
	Match []string `json:"match" example:"[\"\\\\bEMP-[0-9]{6}\\\\b\"]"`
	// With says what stands there then: full is Replacement; last4 keeps the last four letters and
	// digits of eight or more; hash makes the same of the same, so that it can be told apart.
	With string `json:"with" enum:"full,last4,hash" default:"full"`
	// Replacement of what is masked, or of what is cut.
	Replacement string `json:"replacement" default:"***"`
	// Salt makes hashes the same on all nodes and after restarts. Without one each node has its own.
	Salt string `json:"salt"`
	// MaxBody is the largest answer, or line, that is read whole.
	MaxBody resource.Size `json:"maxBody" default:"1MiB" min:"1KiB" max:"16MiB"`
	// Otherwise is what becomes of answers that cannot be looked into.
	Otherwise string `json:"otherwise" enum:"refuse,pass" default:"refuse"`
}

type mask struct {
	fields      map[string]bool
	paths       []jsonPath
	texts       texts
	with        string
	replacement string
	salt        []byte
	max         int
	refuse      bool
}

// nodeSalt makes hashes of this node differ from those of others: short numbers could be guessed
// from a hash that everybody can make.
var nodeSalt = sync.OnceValue(func() []byte {
	b := make([]byte, 32)
	rand.Read(b)
	return b
})

// Compile compiles the patterns.
func (p *Mask) Compile(env *Env) any {
	m := &mask{fields: map[string]bool{}, with: p.With, replacement: p.Replacement, salt: []byte(p.Salt), max: int(p.MaxBody), refuse: p.Otherwise == "refuse"}
	if p.Salt == "" {
		m.salt = nodeSalt()
	}
	for i, f := range p.Fields {
		if f == "" {
			env.Problem(index("fields", i), "such as password", "an empty name")
		}
		m.fields[strings.ToLower(f)] = true
	}
	for i, text := range p.Paths {
		path, err := parseJSONPath(text)
		if err != nil {
			env.Problem(index("paths", i), `such as "customer.email", "orders[*].card"`, "%q is no path: %v", text, err)
		}
		m.paths = append(m.paths, path)
	}
	for _, k := range p.Patterns {
		m.texts.email = m.texts.email || k == "email"
		m.texts.phone = m.texts.phone || k == "phone"
		m.texts.card = m.texts.card || k == "card"
		m.texts.iban = m.texts.iban || k == "iban"
	}
	for i, text := range p.Match {
		re, err := regexp.Compile(text)
		switch {
		case err != nil:
			env.Problem(index("match", i), "RE2 syntax, without look-around and back references", "%v", err)
			continue
		case re.MatchString(""):
			env.Problem(index("match", i), `at least one character, such as "[0-9]+"`, "%q matches nothing at all, everywhere", text)
		}
		m.texts.patterns = append(m.texts.patterns, re)
	}
	if !m.structured() && !m.texts.any() {
		env.Problem("", "fields, paths, patterns or match", "mask without settings hides nothing")
	}
	for i := 0; i < len(p.Replacement); i++ {
		if p.Replacement[i] < ' ' {
			env.Problem("replacement", "such as ***", "a replacement cannot hold control bytes")
			break
		}
	}
	return m
}

// MaskText hides what the patterns find.
func (m *mask) MaskText(text string) string {
	hits := m.texts.find(text)
	if len(hits) == 0 {
		return text
	}
	var b strings.Builder
	done := 0
	for _, f := range hits {
		b.WriteString(text[done:f.start])
		b.WriteString(m.hide(text[f.start:f.end]))
		done = f.end
	}
	b.WriteString(text[done:])
	return b.String()
}

// Hides says that a field of some name, or at the end of a path, holds the place.
func (m *mask) Hides(place []string) bool {
	for _, name := range place {
		if m.fields[strings.ToLower(name)] {
			return true
		}
	}
	return slices.ContainsFunc(m.paths, func(p jsonPath) bool { return p.leadsTo(place) })
}

// structured says that fields of JSON are masked, wherever they stand.
func (m *mask) structured() bool { return len(m.fields) > 0 || len(m.paths) > 0 }

// EditRequest asks for an answer that can be looked into.
func (m *mask) EditRequest(_ *Exchange, o *wire.Outgoing) {
	if _, ok := o.Fields.Find(wire.AcceptEncoding); ok {
		o.Fields.Set("Accept-Encoding", "identity")
	}
	if _, ok := o.Fields.Lookup("Range"); ok {
		o.Fields.Remove("Range")
		o.Fields.Remove("If-Range")
	}
}

// Ways to look into content.
const (
	notMasked = iota
	maskJSON  // as a whole
	maskGuess // as a whole: JSON if it is, else text
	maskLines // of JSON
	maskEvents
	maskPlain // text, in pieces
)

var (
	jsonTypes = []string{"application/json", "*+json"}
	lineTypes = []string{"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines", "application/jsonlines"}
	textTypes = []string{"text/*", "application/xml", "*+xml", "application/javascript", "application/yaml", "*+yaml", "application/x-www-form-urlencoded"}
)

func (m *mask) way(contentType string) int {
	kind := mediaType(contentType)
	switch {
	case kind == "":
		return maskGuess
	case ofType(kind, jsonTypes):
		return maskJSON
	case ofType(kind, lineTypes):
		return maskLines
	case wire.EqualFold(kind, "text/event-stream"):
		return maskEvents
	case wire.EqualFold(kind, "text/plain") && m.structured(): // many servers call JSON that
		return maskGuess
	case ofType(kind, textTypes):
		return maskPlain
	}
	return notMasked
}

// readable says that a charset keeps ASCII as it is.
func readable(contentType string) bool {
	_, params, _ := strings.Cut(contentType, ";")
	for params != "" {
		var part string
		part, params, _ = strings.Cut(params, ";")
		name, value, _ := strings.Cut(strings.Trim(part, " \t"), "=")
		if wire.EqualFold(name, "charset") {
			value = strings.ToLower(strings.Trim(value, `"`))
			return value == "utf-8" || value == "utf8" || value == "us-ascii" || value == "ascii" || strings.HasPrefix(value, "iso-8859-") || strings.HasPrefix(value, "windows-125") || value == ""
		}
	}
	return true
}

var errMaskEncoded = errors.New("mask: the answer is encoded, although it was asked for without encoding")
var errMaskPart = errors.New("mask: the answer is a part of a whole, although the whole was asked for")
var errMaskCharset = errors.New("mask: the answer has a charset that cannot be looked into")

// Filter decides how an answer is looked into.
func (m *mask) Filter(x *Exchange, h *wire.Head) (Transform, error) {
	kind := h.Fields.Get(wire.ContentType)
	way := m.way(kind)
	if way == notMasked || way == maskPlain && !m.texts.any() || h.Status < 200 {
		return nil, nil
	}
	if h.Status == 204 || h.Status == 304 {
		return nil, nil
	}
	var problem error
	encoding, _ := h.Fields.Lookup("Content-Encoding")
	switch {
	case encoding != "" && !wire.EqualFold(encoding, "identity"):
		problem = errMaskEncoded
	case h.Status == 206 || hasField(h.Fields, "Content-Range"):
		problem = errMaskPart
	case !readable(kind):
		problem = errMaskCharset
	case h.Length > int64(m.max) && way != maskPlain && way != maskLines && way != maskEvents:
		problem = m.tooLarge()
	}
	if problem != nil {
		if m.refuse {
			return nil, problem
		}
		x.Note("mask.passed", problem.Error())
		return nil, nil
	}
	Changed(h)
	return &masking{mask: m, x: x, way: way}, nil
}

func (m *mask) tooLarge() error {
	return errors.New("mask: the answer is larger than the " + reason.Bytes(m.max).String() + " of maxBody")
}

// masking is one answer on its way.
type masking struct {
	*mask
	x      *Exchange
	way    int
	held   []byte // what has come and is not looked into yet
	out    []byte
	counts [numMasks]int
	passed bool // otherwise: pass, and it could not be looked into
}

// Write takes a piece.
func (t *masking) Write(piece []byte, last bool) ([]byte, error) {
	if t.passed {
		return piece, nil
	}
	t.out = t.out[:0]
	t.held = append(t.held, piece...)
	var err error
	switch t.way {
	case maskJSON, maskGuess:
		err = t.whole(last)
	case maskPlain:
		t.plain(last)
	default:
		err = t.lines(last)
	}
	if err != nil {
		if t.refuse {
			return nil, err
		}
		t.x.Note("mask.passed", err.Error())
		t.passed = true
		t.out = append(t.out, t.held...)
		t.held = nil
	}
	if last {
		t.report()
	}
	return t.out, nil
}

// report counts what was masked.
func (t *masking) report() {
	var parts []string
	for i, n := range t.counts {
		if n > 0 {
			parts = append(parts, strconv.Itoa(n)+" "+maskKinds[i])
		}
	}
	if len(parts) > 0 {
		t.x.Note("mask.masked", strings.Join(parts, ", "))
	}
}

func (t *masking) whole(last bool) error {
	if len(t.held) > t.max {
		return t.tooLarge()
	}
	if !last {
		return nil
	}
	b := t.held
	if len(bytes.TrimSpace(b)) == 0 {
		t.out, t.held = append(t.out, b...), nil
		return nil
	}
	if err := t.json(b); err != nil {
		if t.way == maskJSON {
			return errors.New("mask: the answer is not valid JSON: " + err.Error())
		}
		t.text(b)
	}
	t.held = nil
	return nil
}

// lines masks whole lines, and the last one without an end.
func (t *masking) lines(last bool) error {
	rest := t.held
	defer func() { t.held = t.held[:copy(t.held, rest)] }()
	for {
		n := bytes.IndexByte(rest, '\n')
		switch {
		case n < 0 && len(rest) > t.max:
			return t.tooLarge()
		case n < 0 && !last:
			return nil
		case n < 0:
			n = len(rest)
		default:
			n++
		}
		if n == 0 {
			return nil
		}
		if err := t.line(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
}

func (t *masking) line(b []byte) error {
	prefix := 0
	if t.way == maskEvents {
		if bytes.HasPrefix(b, []byte("data:")) {
			prefix = 5
		} else {
			t.text(b)
			return nil
		}
	}
	content := bytes.TrimSpace(b[prefix:])
	if len(content) == 0 {
		t.out = append(t.out, b...)
		return nil
	}
	mark := len(t.out)
	t.out = append(t.out, b[:prefix]...)
	err := t.json(b[prefix:])
	if err == nil {
		return nil
	}
	t.out = t.out[:mark]
	if t.way == maskLines || t.structured() && strings.IndexByte(`{["`, content[0]) >= 0 {
		return errors.New("mask: a line of the answer is not valid JSON: " + err.Error())
	}
	t.text(b)
	return nil
}

// Pieces of plain text: what is longer than textPiece without an end of line is cut, but never within
// the last textOverlap bytes or within a match.
const (
	textPiece   = 64 << 10
	textOverlap = 4 << 10
)

func (t *masking) plain(last bool) {
	for {
		n := len(t.held)
		if !last {
			n = bytes.LastIndexByte(t.held, '\n') + 1
			if n == 0 {
				if len(t.held) < textPiece {
					return
				}
				n = t.cut()
			}
		}
		if n == 0 {
			return
		}
		t.text(t.held[:n])
		t.held = t.held[:copy(t.held, t.held[n:])]
		if last {
			return
		}
	}
}

// cut finds where a long line can be cut: at white space, and within no match.
func (t *masking) cut() int {
	n := len(t.held) - textOverlap
	if i := bytes.LastIndexAny(t.held[n-textOverlap:n], " \t,;<>"); i > 0 {
		n += i - textOverlap
	}
	for _, f := range t.texts.find(wire.View(t.held)) {
		if f.start < n && n < f.end {
			if f.start > 0 {
				return f.start
			}
			return f.end
		}
	}
	return n
}

// text masks a piece of text.
func (t *masking) text(b []byte) {
	at := 0
	for _, f := range t.texts.find(wire.View(b)) {
		t.out = append(t.out, b[at:f.start]...)
		t.out = append(t.out, t.hide(string(b[f.start:f.end]))...)
		t.counts[f.kind]++
		at = f.end
	}
	t.out = append(t.out, b[at:]...)
}

// hide is what stands instead of a text.
func (m *mask) hide(s string) string {
	switch m.with {
	case "last4":
		count, at := 0, len(s)
		for i := len(s) - 1; i >= 0; i-- {
			if isAlnum(s[i]) {
				if count++; count == 4 {
					at = i
				}
			}
		}
		if count < 8 {
			return m.replacement
		}
		tail := make([]byte, 0, 4)
		for i := at; i < len(s); i++ {
			if isAlnum(s[i]) {
				tail = append(tail, s[i])
			}
		}
		return m.replacement + string(tail)
	case "hash":
		mac := hmac.New(sha256.New, m.salt)
		mac.Write([]byte(s))
		return "#" + hex.EncodeToString(mac.Sum(nil)[:8])
	}
	return m.replacement
}

// json masks a value of JSON and appends it to out, or leaves that as it was.
func (t *masking) json(b []byte) (err error) {
	counts, mark := t.counts, len(t.out)
	defer func() {
		if err != nil {
			t.counts, t.out = counts, t.out[:mark]
		}
	}()
	s := jsonScans.Get().(*jsonScan)
	defer s.release()
	if bytes.HasPrefix(b, []byte("\ufeff")) { // a byte order mark, which stays
		t.out, b = append(t.out, b[:3]...), b[3:]
	}
	if len(bytes.TrimSpace(b)) == 0 {
		t.out = append(t.out, b...)
		return nil
	}
	w := &jsonMasking{masking: t, s: s}
	for i := range t.paths {
		w.active = append(w.active, pathAt{path: i})
	}
	if !s.begin(b, &asWritten, false) || !w.value(0, len(w.active)) || !s.ended() {
		return s.fault.err()
	}
	t.out = append(t.out, b[w.copied:]...)
	return nil
}

// pathAt is a path of which the first steps lead to where the scanner is.
type pathAt struct{ path, step int }

type jsonMasking struct {
	*masking
	s      *jsonScan
	copied int // of the text, into out
	active []pathAt
}

// replace puts a string of JSON instead of a part of the text.
func (w *jsonMasking) replace(start, end int, s string) {
	w.out = append(w.out, w.s.data[w.copied:start]...)
	w.out = appendQuoted(w.out, s)
	w.copied = end
}

// value reads a value to which the active paths from first on lead.
func (w *jsonMasking) value(first, count int) bool {
	c := w.s.peek()
	start := w.s.pos
	if c != '{' && c != '[' {
		raw, ok := w.s.skip()
		if ok && w.texts.any() {
			w.scalar(start, raw)
		}
		return ok
	}
	if !w.s.value("a value") {
		return false
	}
	for n := 0; ; n++ {
		done, ok := w.s.member()
		if done || !ok {
			return ok
		}
		name, position := "", n
		if c == '{' {
			key, at := w.s.name()
			name, position = unquote(key), -1
			if w.texts.any() {
				w.scalar(at, key)
			}
		}
		// The paths that lead further.
		from, hidden := len(w.active), c == '{' && len(w.fields) > 0 && w.fields[strings.ToLower(name)]
		for _, a := range w.active[first : first+count] {
			path := w.paths[a.path]
			if !path[a.step].matches(name, position) {
				continue
			}
			if a.step+1 == len(path) {
				hidden = true
			} else {
				w.active = append(w.active, pathAt{a.path, a.step + 1})
			}
		}
		if hidden {
			at := w.s.pos
			raw, ok := w.s.skip()
			if !ok {
				return false
			}
			w.hideValue(at, raw)
		} else if !w.value(from, len(w.active)-from) {
			return false
		}
		w.active = w.active[:from]
	}
}

// hideValue masks all of a value. Null stays: it hides nothing.
func (w *jsonMasking) hideValue(at int, raw []byte) {
	if string(raw) == "null" {
		return
	}
	s := string(raw)
	switch raw[0] {
	case '"':
		s = unquote(raw)
	case '{', '[': // its last four would be those of anything
		if w.with == "last4" {
			s = ""
		}
	}
	w.replace(at, at+len(raw), w.hide(s))
	w.counts[maskField]++
}

// scalar masks what is found in a string or a number, which is a string then.
func (w *jsonMasking) scalar(at int, raw []byte) {
	s := wire.View(raw)
	if raw[0] == '"' {
		if s = s[1 : len(s)-1]; strings.IndexByte(s, '\\') >= 0 {
			s = unquote(raw)
		}
	}
	hits := w.texts.find(s)
	if len(hits) == 0 {
		return
	}
	var b strings.Builder
	done := 0
	for _, f := range hits {
		b.WriteString(s[done:f.start])
		b.WriteString(w.hide(s[f.start:f.end]))
		w.counts[f.kind]++
		done = f.end
	}
	b.WriteString(s[done:])
	w.replace(at, at+len(raw), b.String())
}
