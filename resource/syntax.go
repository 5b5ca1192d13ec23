package resource

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// This file turns bytes into values. A library reads YAML, and JSON as a part of it;
// what is added here is where everything stands, bounds, and the refusal of what
// configuration can do without and readers disagree about: tags, keys that are not
// text, doubles. The flow is text → parts (one for each document) → nodes → values.

// documents reads the documents of a file and tells the faults of each. The value is
// nil where there is nothing but comments, and where the document cannot be read.
func (s *source) documents() iter.Seq2[*value, Problems] {
	return func(yield func(*value, Problems) bool) {
		if p, bad := s.badCharacter(); bad {
			yield(nil, Problems{p})
			return
		}
		for part := range s.parts() {
			if !yield(s.document(part)) {
				return
			}
		}
	}
}

// badCharacter finds the first character that no document may contain. The library
// takes some of them as line breaks, and would count lines differently from editors.
func (s *source) badCharacter() (p Problem, bad bool) {
	for i, r := range s.text {
		var message, hint string
		switch {
		case r == '\n' || r == '\t' || r >= ' ' && r < 0x7f || r >= 0xa0 && r < 0x2028:
			continue
		case r == '\r':
			message, hint = "found a carriage return without a line feed", "save the file with LF or CRLF line breaks"
		case r == 0 && i < 4 || i == 0 && (strings.HasPrefix(s.text, "\xff\xfe") || strings.HasPrefix(s.text, "\xfe\xff")):
			message, hint = "the file is not UTF-8 text", "save it as UTF-8"
		case r == utf8.RuneError && !strings.HasPrefix(s.text[i:], "\ufffd"):
			message, hint = fmt.Sprintf("the byte 0x%02x is not UTF-8 text", s.text[i]), "save the file as UTF-8"
		case r < 0xa0 || r == 0x2028 || r == 0x2029 || r == 0xfeff || r == 0xfffe || r == 0xffff:
			message, hint = fmt.Sprintf("the control character %U may not stand in a document", r), fmt.Sprintf(`write it in double quotes as \u%04x`, r)
		default:
			continue
		}
		return s.problem(span{int32(i), int32(i + 1)}, message, hint), true
	}
	return Problem{}, false
}

// parts cuts a file in front of lines that begin with "---" and behind those that begin
// with "...", which end a document whatever stands around them. The library reads
// each part alone, so that a fault in one document does not hide the next. Comments
// and directives in front of "---" belong to no part.
func (s *source) parts() iter.Seq[span] {
	return func(yield func(span) bool) {
		s.once.Do(s.index)
		start, begun := int32(0), false
		for i, at := range s.lines {
			end := int32(len(s.text))
			if i+1 < len(s.lines) {
				end = s.lines[i+1]
			}
			switch line := strings.TrimRight(s.text[at:end], "\n"); {
			case line == "---" || strings.HasPrefix(line, "--- ") || strings.HasPrefix(line, "---\t"):
				if begun && !yield(span{start, at}) {
					return
				}
				start, begun = at, true
			case line == "..." || strings.HasPrefix(line, "... ") || strings.HasPrefix(line, "...\t"):
				if !yield(span{start, end}) {
					return
				}
				start, begun = end, false
			case !begun:
				line = strings.TrimSpace(line)
				begun = line != "" && line[0] != '#' && line[0] != '%'
			}
		}
		yield(span{start, int32(len(s.text))})
	}
}

// document reads one part of a file.
func (s *source) document(part span) (*value, Problems) {
	r := &reader{source: s, part: part, line: s.pos(part.start).Line, open: map[*yaml.Node]bool{}}
	text := s.text[part.start:part.end]
	if tooMany(text) {
		r.stop(part.start, "split it", "a document has at most a million values")
		return nil, r.problems
	}
	root, err := compose(text)
	if err != nil && surrogates.MatchString(text) {
		r.json = json.Valid([]byte(text))
		if again, e := compose(surrogates.ReplaceAllLiteralString(text, `\ufffd\ufffd`)); r.json || e != nil {
			root, err = again, e
		}
	}
	if err != nil {
		return nil, Problems{r.explain(err)}
	}
	if root == nil {
		return nil, nil
	}
	v := r.value(root, 0)
	if r.stopped {
		v = nil
	}
	return v, r.problems
}

// surrogates are the two escapes with which JSON writes a character above U+FFFF.
// YAML does not know them, so texts that have them are read again as JSON.
var surrogates = regexp.MustCompile(`\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}`)

// tooMany says that a document gets so many values that the nodes of the library, at
// more than 200 bytes each, would fill the memory. Each one, or each key and its value,
// needs one of these characters.
func tooMany(text string) bool {
	n := 0
	for i := range len(text) {
		switch text[i] {
		case '\n', ',', '[', '{':
			n++
		case ' ', '\t':
			if i > 0 && (text[i-1] == '-' || text[i-1] == '?') {
				n++
			}
		}
	}
	return n > maxValues
}

// compose reads the document in text, and returns nil when there is none.
func compose(text string) (root *yaml.Node, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("this document cannot be read: %v", r)
		}
	}()
	var docs []yaml.Node
	if err := yaml.Load([]byte(text), &docs, yaml.WithAllDocuments(), yaml.WithPlugin(limits{})); err != nil {
		return nil, err
	}
	switch len(docs) {
	case 0:
		return nil, nil
	case 1:
		return docs[0].Content[0], nil
	}
	return nil, errors.New("this document cannot be told from the next")
}

// limits keeps the library from stacking up brackets. Aliases stay nodes here.
type limits struct{}

var errTooDeep = fmt.Errorf("lists and mappings may be nested %d deep", maxDepth)

func (limits) CheckDepth(depth int, _ *yaml.DepthContext) error {
	if depth > maxDepth {
		return errTooDeep
	}
	return nil
}

func (limits) CheckAlias(int, int) error { return nil }
