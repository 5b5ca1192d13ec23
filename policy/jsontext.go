package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxJSONDepth bounds how deep JSON may be nested. Nobody writes more; attackers do.
const maxJSONDepth = 256

// jsonScanner reads JSON (RFC 8259) token by token and knows where in the text each one stands. It is
// strict, so that what it passes on is JSON if what it was given is.
type jsonScanner struct {
	b     []byte
	i     int
	keyAt int // where the last name begins
}

// jsonError says what is wrong with a text that should be JSON.
type jsonError struct {
	at   int
	what string
}

func (e *jsonError) Error() string { return e.what + " at byte " + strconv.Itoa(e.at) }

func (s *jsonScanner) fail(what string) error { return &jsonError{s.i, what} }

// space skips white space and returns the next byte, 0 at the end.
func (s *jsonScanner) space() byte {
	for ; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// text reads a string, quotes included. It stands at the first quote.
func (s *jsonScanner) text() ([]byte, error) {
	start := s.i
	for s.i++; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return s.b[start:s.i], nil
		case c < ' ':
			return nil, s.fail("a control byte in a string")
		case c == '\\':
			if s.i++; s.i >= len(s.b) {
				return nil, s.fail("a string without an end")
			}
			switch s.b[s.i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				if _, ok := hex4(s.b[s.i+1:]); !ok {
					return nil, s.fail("a wrong escape in a string")
				}
				s.i += 4
			default:
				return nil, s.fail("a wrong escape in a string")
			}
		}
	}
	return nil, s.fail("a string without an end")
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

// word reads a number, true, false or null.
func (s *jsonScanner) word() ([]byte, error) {
	start := s.i
	for ; s.i < len(s.b); s.i++ {
		if c := s.b[s.i]; c != '-' && c != '+' && c != '.' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			break
		}
	}
	w := s.b[start:s.i]
	switch string(w) {
	case "true", "false", "null":
		return w, nil
	}
	if !jsonNumber(w) {
		s.i = start
		if start == len(s.b) {
			return nil, s.fail("no value")
		}
		return nil, s.fail("neither a value nor its end")
	}
	return w, nil
}

// jsonNumber is the grammar of RFC 8259 §6.
func jsonNumber(w []byte) bool {
	i := 0
	digits := func() bool {
		start := i
		for i < len(w) && '0' <= w[i] && w[i] <= '9' {
			i++
		}
		return i > start
	}
	if i < len(w) && w[i] == '-' {
		i++
	}
	start := i
	if !digits() || w[start] == '0' && i > start+1 {
		return false
	}
	if i < len(w) && w[i] == '.' {
		if i++; !digits() {
			return false
		}
	}
	if i < len(w) && w[i]|0x20 == 'e' {
		if i++; i < len(w) && (w[i] == '+' || w[i] == '-') {
			i++
		}
		if !digits() {
			return false
		}
	}
	return i == len(w)
}

// skip reads a whole value and returns its text.
func (s *jsonScanner) skip(depth int) ([]byte, error) {
	c := s.space()
	start := s.i
	switch c {
	case '"':
		return s.text()
	case '{', '[':
		if depth >= maxJSONDepth {
			return nil, s.fail("JSON nested deeper than " + strconv.Itoa(maxJSONDepth))
		}
		s.i++
		for first := true; ; first = false {
			_, done, err := s.member(c, first)
			if err != nil {
				return nil, err
			}
			if done {
				return s.b[start:s.i], nil
			}
			if _, err := s.skip(depth + 1); err != nil {
				return nil, err
			}
		}
	}
	return s.word()
}

// member goes to the next value of an object or array that was begun with open, and returns the key
// as it is written. done says that there is none, and that the end has been read.
func (s *jsonScanner) member(open byte, first bool) (key []byte, done bool, err error) {
	c := s.space()
	if c == open+2 { // } is two after {, ] two after [
		s.i++
		return nil, true, nil
	}
	if !first {
		if c != ',' {
			return nil, false, s.fail("neither a comma nor an end")
		}
		s.i++
		c = s.space()
		if c == open+2 {
			return nil, false, s.fail("a comma before the end")
		}
	}
	if open == '[' {
		return nil, false, nil
	}
	if c != '"' {
		return nil, false, s.fail("no name in quotes")
	}
	s.keyAt = s.i
	if key, err = s.text(); err != nil {
		return nil, false, err
	}
	if s.space() != ':' {
		return nil, false, s.fail("no colon")
	}
	s.i++
	s.space()
	return key, false, nil
}

// unquote is what a string stands for. A lone surrogate becomes U+FFFD.
func unquote(raw []byte) string {
	raw = raw[1 : len(raw)-1]
	if i := strings.IndexByte(string(raw), '\\'); i < 0 {
		return string(raw)
	}
	b := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			b = append(b, raw[i])
			continue
		}
		i++
		switch c := raw[i]; c {
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			r, _ := hex4(raw[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				low := rune(-1)
				if i+2 < len(raw) && raw[i+1] == '\\' && raw[i+2] == 'u' {
					low, _ = hex4(raw[i+3:])
				}
				if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
					r = both
					i += 6
				} else {
					r = utf8.RuneError
				}
			}
			b = utf8.AppendRune(b, r)
		default:
			b = append(b, c)
		}
	}
	return string(b)
}

// appendQuoted writes a string of JSON.
func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c < ' ' || c == 0x7f || c == '<' || c == '>' || c == '&': // the last three for pages that JSON is put into
			b = append(b, `\u00`...)
			b = append(b, "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// jsonPath is a path into JSON: a.b, a[0].b, a[*].b, a.*.b, ["a.b"].
type jsonPath []jsonStep

type jsonStep struct {
	name  string
	index int // of an array, -1: not one
	any   bool
}

// maxPathSteps bounds the length of paths in documents.
const maxPathSteps = 32

// parseJSONPath reads a path. A "$." before it is fine.
func parseJSONPath(p string) (jsonPath, error) {
	rest := strings.TrimPrefix(p, "$")
	var path jsonPath
	for first := true; rest != ""; first = false {
		step := jsonStep{index: -1}
		switch {
		case rest[0] == '[':
			end := strings.IndexByte(rest, ']')
			if len(rest) > 1 && rest[1] == '"' {
				if q := strings.Index(rest[2:], `"]`); q >= 0 {
					end = q + 3
				} else {
					end = -1
				}
			}
			if end < 0 {
				return nil, errors.New("a [ without its ]")
			}
			inner := rest[1:end]
			rest = rest[end+1:]
			switch n, err := strconv.ParseUint(inner, 10, 31); {
			case inner == "*":
				step.any = true
			case strings.HasPrefix(inner, `"`):
				step.name = strings.Trim(inner, `"`)
			case err != nil:
				return nil, fmt.Errorf("[%s] is neither an index, nor [*], nor a name in quotes", inner)
			default:
				step.index = int(n)
			}
		default:
			if rest[0] == '.' {
				rest = rest[1:]
			} else if !first || p != rest {
				return nil, errors.New("no dot between two names")
			}
			end := strings.IndexAny(rest, ".[")
			if end < 0 {
				end = len(rest)
			}
			if step.name, rest = rest[:end], rest[end:]; step.name == "" {
				return nil, errors.New("an empty name")
			}
			if step.name == "*" {
				step.name, step.any = "", true
			}
		}
		if path = append(path, step); len(path) > maxPathSteps {
			return nil, fmt.Errorf("more than %d steps", maxPathSteps)
		}
	}
	if len(path) == 0 {
		return nil, errors.New("an empty path")
	}
	return path, nil
}

// matches says whether the step leads to this member.
func (s *jsonStep) matches(key string, index int) bool {
	return s.any || index < 0 && s.index < 0 && s.name == key || index >= 0 && s.index == index
}
