package resource

import (
	"encoding/json"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// FuzzParse: whatever the bytes, every problem lies within its file, can be
// printed, and says something.
func FuzzParse(f *testing.F) {
	paths, _ := filepath.Glob("testdata/problems/*.txtar")
	for _, p := range paths {
		_, files, _ := readTranscript(f, p)
		for _, file := range files {
			f.Add(file.Data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		set, ps := Parse(File{"a.yaml", data})
		lines := strings.Split(strings.TrimPrefix(string(data), "\ufeff"), "\n")
		last := Pos{}
		for _, p := range ps {
			if p.File != "a.yaml" || p.Line < 1 || p.Line > len(lines) || p.Col < 1 || p.Message == "" {
				t.Fatalf("%+v of %d lines", p, len(lines))
			}
			if width := utf8.RuneCountInString(lines[p.Line-1]); utf8.Valid(data) && (p.Col > width+1 || p.Len < 1 || p.Col+p.Len > width+2) {
				t.Fatalf("%+v in %q", p, lines[p.Line-1])
			}
			if p.Line < last.Line || p.Line == last.Line && p.Col < last.Col {
				t.Fatalf("%v after %v", p.Pos, last)
			}
			last = p.Pos
		}
		if err := ps.Render(io.Discard, set.Sources(), true); err != nil {
			t.Fatal(err)
		}
		_ = ps.Error()
		_ = set.Digest()
		for _, n := range set.Documents() {
			if _, err := n.MarshalJSON(); err != nil {
				t.Fatal(err)
			}
			n.At("spec.routes[0].path")
		}
	})
}

// FuzzJSON: JSON is refused, or read as encoding/json reads it.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a": [1, -2.5e3, true, null, "\u00fc\ud83d\ude00\\\n\/"], "b": {"": {}}}`, `"\\ud83d\ude00"`, "[\t1\r\n,\n2 ]", `{"a":1,"a":2}`, `{"<<":{"b":1}}`, `{"---":"---"}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var want any
		if json.Unmarshal([]byte(text), &want) != nil {
			return
		}
		n, ps := ParseNode(File{"a.json", []byte(text)})
		if len(ps) > 0 {
			return
		}
		if diff := cmp.Diff(want, plain(n.value)); diff != "" {
			t.Error(diff)
		}
	})
}

// plain is a value as encoding/json would read it.
func plain(v *value) any {
	switch v.kind {
	case isBool:
		return v.text == "true"
	case isInt, isFloat:
		f, _ := strconv.ParseFloat(v.text, 64)
		return f
	case isText:
		return v.text
	case isList:
		list := []any{}
		for _, item := range v.items {
			list = append(list, plain(item))
		}
		return list
	case isMap:
		m := map[string]any{}
		for i, k := range v.keys {
			m[k.text] = plain(v.items[i])
		}
		return m
	}
	return nil
}
