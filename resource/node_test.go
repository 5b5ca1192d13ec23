package resource

import "testing"

func TestProblemIn(t *testing.T) {
	for _, c := range []struct {
		yaml         string
		line, column int
		want         string // position, "" for none within the text
	}{
		{"a: one two", 1, 4, "t.yaml:1:8"},
		{"a: 'one two'", 1, 4, "t.yaml:1:9"},
		{`a: "one two"`, 1, 4, "t.yaml:1:9"},
		{`{a: "ö two", b: c}`, 1, 2, "t.yaml:1:8"},
		{"a: |\n  one\n   two\n", 2, 1, "t.yaml:3:4"},
		{"a: |-\n    one\n    two", 2, 1, "t.yaml:3:6"},
		{"b: c\na: |2\n   one\n", 1, 1, "t.yaml:3:4"},
		{"a: |\r\n  one\r\n  two\r\n", 2, 0, "t.yaml:3:3"},
		{"a: >\n  one\n  two\n", 1, 1, ""},
		{`a: "one\ttwo"`, 1, 4, "t.yaml:1:10"},
		{`a: "one\x41two"`, 1, 2, "t.yaml:1:7"},
		{`a: "one\x41two"`, 1, 4, ""},
		{`{"a": "say \"hö\"\nand \\ go"}`, 2, 4, "t.yaml:1:24"},
		{"a: 'it''s'", 1, 3, "t.yaml:1:9"},
		{"a: 'one\n  two'", 1, 5, ""},
		{"a: one\n  two", 1, 1, ""},
		{"a: one", 2, 0, ""},
		{"a: |\n  one\n", 7, 0, ""},
		{"a: 12", 1, 1, ""},
		{"b: one", 1, 1, ""},
		{"a: &x one\nb: *x", 1, 1, ""},
	} {
		n, problems := ParseNode(File{Name: "t.yaml", Data: []byte(c.yaml)})
		if problems.HasErrors() {
			t.Fatal(problems)
		}
		p, exact := n.ProblemIn("a", c.line, c.column, 2, "m", "h")
		if exact != (c.want != "") || exact && (p.Pos.String() != c.want || p.Len > 2) || p.Message != "m" || p.Hint != "h" {
			t.Errorf("%q %d:%d is %v, length %d, exact %v, want %s", c.yaml, c.line, c.column, p, p.Len, exact, c.want)
		}
	}
	var none Node
	if _, exact := none.ProblemIn("a", 1, 1, 1, "", ""); exact {
		t.Error("nothing is written nowhere")
	}
}
