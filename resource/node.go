package resource

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Node is a located value of a document. It can be decoded later, by whoever knows
// its type, and says where it is written. The zero Node stands for nothing; all
// methods may be called on it. Nodes are immutable and safe for concurrent use.
type Node struct {
	doc   *docRef
	value *value // nil or Null: nothing is written here
	key   span   // the name of the field, or else what stands for the missing value
	path  string // "spec.routes[2].path"
}

// docRef is the document that a Node belongs to.
type docRef struct {
	src *source
	id  string // "API/orders"
}

// IsZero says that no value is written here.
func (n Node) IsZero() bool { return n.value == nil || n.value.kind == isNull }

// Document names the document: "API/orders".
func (n Node) Document() string {
	if n.doc == nil {
		return ""
	}
	return n.doc.id
}

// Path is the way from the top of the document: "spec.routes[2].path".
func (n Node) Path() string { return n.path }

// Pos is where the value is written; of a value on lines of its own, where its
// key is.
func (n Node) Pos() Pos {
	if n.doc == nil {
		return Pos{}
	}
	return n.doc.src.pos(n.mark().start)
}

// mark is the part of the source that stands for the node.
func (n Node) mark() span {
	v := n.value
	switch {
	case n.IsZero():
		return n.key
	case v.kind < isList || v.flow:
		return v.span
	case n.key.end > n.key.start:
		return n.key
	case v.kind == isMap && len(v.keys) > 0:
		return v.keys[0].span
	}
	return span{v.start, v.start + 1}
}

// At is where the field at a path below this node is written, such as
// "limits.bodyBytes" or "routes[2].path". Of a field that is not written it is the
// nearest thing around it.
func (n Node) At(path string) Pos { return n.find(path).Pos() }

// Has says that a field of this node is written.
func (n Node) Has(name string) bool { return n.field(name).value != nil }

// Problem is an error at the field at a path below this node.
func (n Node) Problem(path, message, hint string) Problem {
	n = n.find(path)
	if n.doc == nil {
		return Problem{Message: message, Hint: hint}
	}
	return n.doc.src.problem(n.mark(), message, hint)
}

// ProblemIn is an error inside of the text at a path below this node: length characters from a line
// of the text, counted from 1, and a column, counted from 0. Where that cannot be found in the file,
// since the text is folded, exact is false and the problem is one of the whole field.
func (n Node) ProblemIn(path string, line, column, length int, message, hint string) (p Problem, exact bool) {
	n = n.find(path)
	if n.doc == nil || n.value == nil || n.value.kind != isText {
		return n.Problem("", message, hint), false
	}
	src := n.doc.src
	start, ok := src.within(n.value, line, column)
	if !ok {
		return n.Problem("", message, hint), false
	}
	end := start
	for i := 0; i < length && int(end) < len(src.text) && src.text[end] != '\n'; i++ {
		_, size := utf8.DecodeRuneInString(src.text[end:])
		end += int32(size)
	}
	return src.problem(span{start, max(end, start+1)}, message, hint), true
}

// within is the offset of a place in a text. It is found in texts on one line, whose quotes may
// have simple escapes, and in blocks (|) of lines.
func (s *source) within(v *value, line, column int) (int32, bool) {
	lines := strings.Split(v.text, "\n")
	if line < 1 || line > len(lines) {
		return 0, false
	}
	text := lines[line-1]
	offset := 0 // in that line
	for i := 0; i < column && offset < len(text); i++ {
		_, size := utf8.DecodeRuneInString(text[offset:])
		offset += size
	}
	switch v.quote {
	case '|':
		at := s.pos(v.start).Line + line
		if at > len(s.lines) {
			return 0, false
		}
		start := s.lines[at-1]
		written, _, _ := strings.Cut(s.text[start:], "\n")
		return start + int32(len(written)-len(text)+offset), strings.HasSuffix(written, text)
	case '"', '\'':
		for _, l := range lines[:line-1] {
			offset += len(l) + 1
		}
		n, ok := written(s.text[v.start:], v.quote, offset)
		return v.start + int32(n), ok
	case 0:
		return v.start + int32(offset), line == 1 && strings.HasPrefix(s.text[v.start:], v.text)
	}
	return 0, false
}

// written finds where the byte at an offset of a text in quotes stands, escapes counted. raw begins
// with the quote.
func written(raw string, quote byte, offset int) (int, bool) {
	i := 1
	for ; offset > 0; offset-- {
		switch {
		case i+1 >= len(raw) || raw[i] == '\n' || raw[0] != quote:
			return 0, false
		case quote == '"' && raw[i] == '\\':
			if strings.IndexByte(`"\/nt`, raw[i+1]) < 0 {
				return 0, false
			}
			i++
		case quote == '\'' && raw[i] == '\'':
			i++
		}
		i++
	}
	return i, raw[0] == quote
}

// find walks down a path as far as it is written.
func (n Node) find(path string) Node {
	for path != "" && !n.IsZero() {
		var key string
		index := -1
		key, index, path = step(path)
		child := Node{}
		if index >= 0 {
			child = n.item(index)
		} else {
			child = n.field(key)
		}
		if child.doc == nil {
			return n
		}
		n = child
	}
	return n
}

// step takes the first step of a path: a field by name or, where index is not
// negative, an item of a list.
func step(path string) (key string, index int, rest string) {
	path = strings.TrimPrefix(path, ".")
	if strings.HasPrefix(path, `["`) {
		if q, err := strconv.QuotedPrefix(path[1:]); err == nil {
			key, _ = strconv.Unquote(q)
			return key, -1, strings.TrimPrefix(path[1+len(q):], "]")
		}
	}
	if strings.HasPrefix(path, "[") {
		digits, rest, _ := strings.Cut(path[1:], "]")
		if i, err := strconv.Atoi(digits); err == nil && i >= 0 {
			return "", i, rest
		}
		return path, -1, ""
	}
	if i := strings.IndexAny(path, ".["); i > 0 {
		return path[:i], -1, path[i:]
	}
	return path, -1, ""
}

// field is the named field of a mapping, the zero Node when it is not there.
func (n Node) field(name string) Node {
	if n.value == nil || n.value.kind != isMap {
		return Node{}
	}
	i := n.value.field(name)
	if i < 0 {
		return Node{}
	}
	return n.fieldAt(i)
}

func (n Node) fieldAt(i int) Node {
	k := n.value.keys[i]
	return Node{n.doc, n.value.items[i], k.span, joinPath(n.path, k.text)}
}

// item is an item of a list, the zero Node when there are fewer.
func (n Node) item(i int) Node {
	if n.value == nil || n.value.kind != isList || i >= len(n.value.items) {
		return Node{}
	}
	v := n.value.items[i]
	return Node{n.doc, v, span{v.start, v.start}, n.path + "[" + strconv.Itoa(i) + "]"}
}

// joinPath puts a field name behind a path. Names that contain more than letters,
// digits, "-" and "_" are quoted: labels["a.b"].
func joinPath(path, name string) string {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool {
		return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) {
		return path + "[" + strconv.Quote(name) + "]"
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

// MarshalJSON writes the value as JSON, fields in the order in which they are written.
func (n Node) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	if err := writeJSON(&b, n.value); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func writeJSON(b *bytes.Buffer, v *value) error {
	text := func(s string) error {
		t, err := json.Marshal(s)
		b.Write(t)
		return err
	}
	switch {
	case v == nil || v.kind == isNull:
		b.WriteString("null")
	case v.kind == isBool:
		b.WriteString(strings.ToLower(v.text))
	case v.kind == isText:
		return text(v.text)
	case v.kind == isInt || v.kind == isFloat:
		x, err := number(v.text, v.kind)
		if err != nil {
			return text(v.text)
		}
		t, err := json.Marshal(x)
		b.Write(t)
		return err
	default:
		open := byte('[')
		if v.kind == isMap {
			open = '{'
		}
		b.WriteByte(open)
		for i, item := range v.items {
			if i > 0 {
				b.WriteByte(',')
			}
			if v.kind == isMap {
				if err := text(v.keys[i].text); err != nil {
					return err
				}
				b.WriteByte(':')
			}
			if err := writeJSON(b, item); err != nil {
				return err
			}
		}
		b.WriteByte(open + 2) // ] and } follow two places behind [ and {
	}
	return nil
}

// number is a number as written: int64, or float64 for those with a point or exponent.
func number(s string, k valueKind) (any, error) {
	digits := strings.TrimLeft(s, "+-")
	if k == isFloat {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || digits[0] == '.' && len(digits) > 1 && (digits[1]|0x20 == 'i' || digits[1]|0x20 == 'n') {
			return nil, fmt.Errorf("%s is not a number that can be used here", shorten(s))
		}
		return f, nil
	}
	if len(digits) > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9' {
		return nil, fmt.Errorf("%s begins with 0, which some read as octal", shorten(s))
	}
	i, err := strconv.ParseInt(s, 0, 64)
	if err != nil {
		return nil, fmt.Errorf("%s is too large a number", shorten(s))
	}
	return i, nil
}
