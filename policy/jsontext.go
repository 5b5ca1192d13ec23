package policy

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// maxJSONDepth bounds how deep JSON may be nested. Nobody writes more; attackers do.
const maxJSONDepth = 256

// asWritten are the bounds for those who change parts of a text and leave the rest as it came: names may be written twice,
// and bytes need not be UTF-8.
var asWritten = jsonBounds{depth: maxJSONDepth, keys: -1, elements: -1, values: -1, text: -1, numberText: -1, exponent: -1, twice: true, notUTF8: true}

// unquote is what a string stands for, quotes included. A lone surrogate becomes U+FFFD.
func unquote(raw []byte) string {
	raw = raw[1 : len(raw)-1]
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw)
	}
	return string(unescape(raw))
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

// leadsTo says that the path leads to a place, or to what holds it. Positions in lists are written as numbers.
func (p jsonPath) leadsTo(place []string) bool {
	if len(p) > len(place) {
		return false
	}
	for i := range p {
		position, err := strconv.Atoi(place[i])
		if !p[i].matches(place[i], -1) && (err != nil || position < 0 || !p[i].matches("", position)) {
			return false
		}
	}
	return true
}
