package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// anyJSON lets pass what encoding/json does.
var anyJSON = jsonBounds{depth: 10000, keys: -1, elements: -1, values: -1, text: -1, numberText: -1, exponent: -1, twice: true, notUTF8: true}

func TestScanJSON(t *testing.T) {
	strict := jsonBounds{depth: 3, keys: 2, elements: 3, values: 12, text: 5, numberText: 6, exponent: 20}
	for _, c := range []struct {
		text    string
		kind    jsonFaultKind
		at      int
		count   int
		pointer string
	}{
		{`{"a":[1,{"b":2}]}`, jsonFine, 0, 0, ""},
		{" \t\r\n1 ", jsonFine, 0, 0, ""},
		{`"\u00e4\ud83d\ude00"`, jsonLongText, 0, 6, ""},
		{`"\ud83d\ude00"`, jsonFine, 0, 0, ""},
		{`[[[1]]]`, jsonFine, 0, 0, ""},
		{`[[[[1]]]]`, jsonTooDeep, 3, 4, "/0/0/0"},
		{`{"a":{"b":{"c":{"d":[]}}}}`, jsonTooDeep, 15, 5, "/a/b/c"},
		{`{"a":1,"b":2,"c":3,"d":[4,5]}`, jsonManyKeys, 13, 4, ""},
		{`{"x":[1,2,3,4,"],",5]}`, jsonManyElements, 12, 6, "/x/3"},
		{`[[1,2,3],[1,2,3],[1,2,3]]`, jsonManyValues, 22, 13, "/2/2"},
		{`["abcdef"]`, jsonLongText, 1, 6, "/0"},
		{`{"abcdef":1}`, jsonLongText, 1, 6, ""},
		{`[1234567]`, jsonLongNumber, 1, 7, "/0"},
		{`[1e21]`, jsonExponent, 1, 4, "/0"},
		{`[1e-9999999999999999999999]`, jsonExponent, 1, 25, "/0"},
		{`{"a":1,"a":2}`, jsonTwice, 7, 1, "/a"},
		{`{"a":1,"\u0061":2}`, jsonTwice, 7, 1, "/a"},
		{`{"a":{"a":1},"b":{"a":1}}`, jsonFine, 0, 0, ""},
		{"[\"\xff\"]", jsonNotUTF8, 2, 0, "/0"},
		{"[\"\xc0\x80\"]", jsonNotUTF8, 2, 0, "/0"},
		{`["\ud800"]`, jsonNotUTF8, 2, 0, "/0"},
		{`["\ude00"]`, jsonNotUTF8, 2, 0, "/0"},
		{`["\ufffd"]`, jsonFine, 0, 0, ""},
		{"", jsonMalformed, 0, 0, ""},
		{"{", jsonMalformed, 1, 0, ""},
		{`{"a"`, jsonMalformed, 4, 0, "/a"},
		{`{"a":`, jsonMalformed, 5, 0, "/a"},
		{`{"a":1,}`, jsonMalformed, 7, 0, ""},
		{`{"a":1 "b"`, jsonMalformed, 7, 0, "/a"},
		{`[1,]`, jsonMalformed, 3, 0, "/1"},
		{`[1}`, jsonMalformed, 2, 0, "/0"},
		{`[01]`, jsonMalformed, 2, 0, "/0"},
		{`[-]`, jsonMalformed, 2, 0, "/0"},
		{`[1.]`, jsonMalformed, 3, 0, "/0"},
		{`[1e+]`, jsonMalformed, 4, 0, "/0"},
		{`[+1]`, jsonMalformed, 1, 0, "/0"},
		{`[NaN]`, jsonMalformed, 1, 0, "/0"},
		{`[nul]`, jsonMalformed, 1, 0, "/0"},
		{`{'a':1}`, jsonMalformed, 1, 0, ""},
		{"[\"a\nb\"]", jsonMalformed, 3, 0, "/0"},
		{`["\x"]`, jsonMalformed, 2, 0, "/0"},
		{`["\u12g4"]`, jsonMalformed, 4, 0, "/0"},
		{`["a`, jsonMalformed, 3, 0, "/0"},
		{`1 2`, jsonMalformed, 2, 0, ""},
		{"\ufeff1", jsonMalformed, 0, 0, ""},
		{`{"a/b":{"~":[x]}}`, jsonMalformed, 13, 0, "/a~1b/~0/0"},
	} {
		f := scanJSON([]byte(c.text), &strict)
		if f.kind != c.kind || f.at != c.at || f.count != c.count {
			t.Errorf("%s: fault %+v, want kind %d at %d, count %d", c.text, f, c.kind, c.at, c.count)
		}
		if f.kind == jsonMalformed && f.wanted == "" {
			t.Errorf("%s: nothing was wanted", c.text)
		}
		if pointer := f.pointer([]byte(c.text)); f.kind != jsonFine && pointer != c.pointer {
			t.Errorf("%s: pointer %q, want %q", c.text, pointer, c.pointer)
		}
	}
	if l, c := lineAndColumn([]byte("{\n \"ä\" x"), 8); l != 2 || c != 6 {
		t.Errorf("line %d, column %d", l, c)
	}
}

// TestScanJSONNames meets many objects with many names, one of them twice at the very end.
func TestScanJSONNames(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("[")
	for range 3 {
		b.WriteString("{")
		for i := range 5000 {
			fmt.Fprintf(&b, `"k%d":1,`, i)
		}
		b.WriteString(`"z":0},`)
	}
	text := b.String() + `{"k1":1}]`
	if f := scanJSON([]byte(text), &jsonBounds{depth: 9, keys: -1, elements: -1, values: -1, text: -1, numberText: -1, exponent: -1}); f.kind != jsonFine {
		t.Errorf("fault %+v", f)
	}
	twice := strings.Replace(text, `"z":0},{`, `"k4999":0},{`, 1)
	if f := scanJSON([]byte(twice), &jsonBounds{depth: 9, keys: -1, elements: -1, values: -1, text: -1, numberText: -1, exponent: -1}); f.kind != jsonTwice {
		t.Errorf("fault %+v", f)
	}
}

func TestDecodeJSON(t *testing.T) {
	text := `{"a":[1,-2.50,"x\ny",{},[],null,true,12345678901234567890],"":{"b":false}}`
	v, f := decodeJSON([]byte(text), &anyJSON)
	if f.kind != jsonFine {
		t.Fatal(f)
	}
	want := map[string]any{"a": []any{int64(1), json.Number("-2.50"), "x\ny", map[string]any{}, []any{}, nil, true, json.Number("12345678901234567890")}, "": map[string]any{"b": false}}
	if !reflect.DeepEqual(v, want) {
		t.Errorf("decoded %#v", v)
	}
}

// FuzzScanJSON compares with encoding/json: without bounds both accept the same texts and read the same
// values, and what the bounds refuse is what they say.
func FuzzScanJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,{"b":2.5e3}],"c":"\u00e4\ud83d\ude00"}`, `[[[[]]]]`, "\"\xff\"", `{"a":1,"a":2}`, `[1e999]`, ` nul`, `{"a":"\ud800"}`, `-0`, `[1,2`, "\ufeff{}", `"\`, `"\u12`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		loose := scanJSON(data, &anyJSON)
		if valid := json.Valid(data); valid != (loose.kind == jsonFine) {
			t.Fatalf("encoding/json says %v, we say %+v", valid, loose)
		}
		if loose.at > len(data) {
			t.Fatalf("a fault behind the end: %+v", loose)
		}
		loose.pointer(data)
		lineAndColumn(data, loose.at)
		strict := jsonBounds{depth: 8, keys: 4, elements: 4, values: 40, text: 12, numberText: 10, exponent: 300}
		s := scanJSON(data, &strict)
		if s.kind == jsonFine && loose.kind != jsonFine {
			t.Fatalf("the bounds let pass what is malformed: %+v", loose)
		}
		if loose.kind != jsonFine {
			return
		}
		var want any
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		if err := d.Decode(&want); err != nil {
			t.Fatal(err)
		}
		m := measure(want)
		switch s.kind {
		case jsonMalformed:
			t.Fatalf("the bounds make it malformed: %+v", s)
		case jsonFine:
			if m.depth > 8 || m.keys > 4 || m.elements > 4 || m.text > 12 || !utf8.Valid(data) {
				t.Fatalf("the bounds let pass %+v", m)
			}
			have, _ := decodeJSON(data, &strict)
			if h, w := fmt.Sprint(plainNumbers(have)), fmt.Sprint(plainNumbers(want)); h != w {
				t.Fatalf("decoded %s, want %s", h, w)
			}
		}
	})
}

type measures struct{ depth, keys, elements, text int }

// measure finds the largest of each kind. Of keys that are written twice it sees one.
func measure(v any) (m measures) {
	with := func(v any) {
		in := measure(v)
		m.depth = max(m.depth, in.depth+1)
		m.keys, m.elements, m.text = max(m.keys, in.keys), max(m.elements, in.elements), max(m.text, in.text)
	}
	switch v := v.(type) {
	case string:
		m.text = len(v)
	case []any:
		m.depth, m.elements = 1, len(v)
		for _, e := range v {
			with(e)
		}
	case map[string]any:
		m.depth, m.keys = 1, len(v)
		for k, e := range v {
			m.text = max(m.text, len(k))
			with(e)
		}
	}
	return m
}

// plainNumbers has all numbers as they were written, but for -0.
func plainNumbers(v any) any {
	switch v := v.(type) {
	case int64:
		return json.Number(fmt.Sprint(v))
	case json.Number:
		if v == "-0" {
			return json.Number("0")
		}
	case []any:
		for i := range v {
			v[i] = plainNumbers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = plainNumbers(v[k])
		}
	}
	return v
}
