package resource

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestSense has texts and what they mean, in JSON.
func TestSense(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "null"},
		{"# nothing", "null"},
		{"---\n...\n", "null"},
		{"[null, Null, NULL, ~, nULL]", `[null,null,null,null,"nULL"]`},
		{"- # nothing\n-\n- ''", `[null,null,""]`},
		{"[true, False, TRUE, yes, no, on, off, y, tRUE]", `[true,false,true,"yes","no","on","off","y","tRUE"]`},
		{"[0, -1, +2, 0x1F, 0o17, 1_000, 0b1, 0xg, 0o8, 1:30]", `[0,-1,2,31,15,"1_000","0b1","0xg","0o8","1:30"]`},
		{"[1.5, .5, 1., -1e3, 1E+2, 1.e1, 1e, ., .e1, 1.2.3, 1.1.1.1]", `[1.5,0.5,1,-1000,100,10,"1e",".",".e1","1.2.3","1.1.1.1"]`},
		{"[.inf, -.INF, .NaN, inf, nan]", `[".inf","-.INF",".NaN","inf","nan"]`},
		{"[2026-01-01, 2026-01-01T10:00:00Z, 12:30]", `["2026-01-01","2026-01-01T10:00:00Z","12:30"]`},
		{"['5', \"true\", 'it''s', \"\\x41\\u00e9\\U0001F600\\/\\n\"]", `["5","true","it's","Aé😀/\n"]`},
		{"a: |\n  b\n   c\n\nd: >-\n  e\n  f\ng: h\n  i\n\n  j\n", `{"a":"b\n c\n","d":"e f","g":"h i\nj"}`},
		{"{a, b: , c: [d, e: f], ? g : h, 'i':j}", `{"a":null,"b":null,"c":["d",{"e":"f"}],"g":"h","i":"j"}`},
		{"12: a\ntrue: b\n~: c\n? d\n: e", `{"12":"a","true":"b","~":"c","d":"e"}`},
		{"a: &x {b: 1}\nc: [*x, *x]\nd: &x 2\ne: *x\n", `{"a":{"b":1},"c":[{"b":1},{"b":1}],"d":2,"e":2}`},
		{"- &a {x: 1, y: 1}\n- &b {y: 2, z: 2}\n- {<<: [*a, *b], x: 0}\n- <<: *b\n  <<: *a\n- {'<<': 1}", `[{"x":1,"y":1},{"y":2,"z":2},{"x":0,"y":1,"z":2},{"y":2,"z":2,"x":1},{"\u003c\u003c":1}]`},
		{`{"a": "\ud83d\ude00 \u00fc", "\ud83d\ude00": "\\ud83d", "b": 1}`, `{"a":"😀 ü","😀":"\\ud83d","b":1}`},
		{`a: \ud83d\ude00 '`, `{"a":"\\ud83d\\ude00 '"}`},
		{"%YAML 1.2\n# a comment\n---\n a: b", `{"a":"b"}`},
		{"{\n\t\"a\": [\n\t\t1\n\t]\n}", `{"a":[1]}`},
	} {
		b, err := json.Marshal(node(t, c.text))
		if diff := cmp.Diff(c.want, string(b)); diff != "" || err != nil {
			t.Errorf("%q: %s %v", c.text, diff, err)
		}
	}
}

// TestFaultsHideNothing: each document and each file is read whatever is in the others.
func TestFaultsHideNothing(t *testing.T) {
	for _, bad := range []string{"a: [", "a: \"b", "a: 'b", "a: |x", "- a\nb", "\ta: b", "a: *b", "a: {b: \"c\n  d", "!!x", "? [", "a: >\n b\n  c\n d\n e:", "a: b # c\n  d: e"} {
		const good = "\n---\napiVersion: whygate/v1\nkind: Plan\nmetadata: {name: good}\n"
		for _, text := range []string{bad + good, "---\n" + bad + good, bad + "\n..." + good, good + "---\n" + bad + "\n", good + "...\n" + bad} {
			set, ps := Parse(File{"a", []byte(text)})
			if set.Plan("good") == nil || len(ps) == 0 {
				t.Errorf("%q: %v", text, ps)
			}
		}
	}
}

// TestFaultsInJSON: that texts with surrogates are read twice changes no message.
func TestFaultsInJSON(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`{"a": "\ud83d\ude00" "b": 1}`, "t.yaml:1:22: error: wanted \",\" or \"}\", found `\"b\": 1}`"},
		{`{"a": "\ud83d"}`, "t.yaml:1:8: error: `\\ud83d` is not an escape"},
		{`{'a': "\ud83d\ude00"}`, "t.yaml:1:8: error: `\\ud83d` is not an escape"},
		{"{\"a\": \"\u2028\"}", "t.yaml:1:8: error: the control character U+2028 may not stand in a document"},
		{"{\"a\":\u00a01, \"\": \x00}", "t.yaml:1:14: error: the control character U+0000 may not stand in a document"},
	} {
		_, ps := ParseNode(File{"t.yaml", []byte(c.text)})
		if diff := cmp.Diff(c.want, ps.Error()); diff != "" {
			t.Errorf("%s: %s", c.text, diff)
		}
	}
}

// TestOffset: offset finds what pos tells.
func TestOffset(t *testing.T) {
	for _, text := range []string{"", "a", "ab\n\ncd\n", "ü", "日本\nx: ö\n", strings.Repeat("日", 1000) + "\n" + strings.Repeat("aé", 1000) + "\nx"} {
		s := newSource("a", []byte(text))
		for i := range text + "\x00" {
			p := s.pos(int32(i))
			if got := s.offset(p.Line, p.Col); got != int32(i) {
				t.Fatalf("%.20q: %d is at %v, which is %d", text, i, p, got)
			}
		}
		if s.offset(99, 1) != int32(len(text)) || s.offset(0, 0) != 0 {
			t.Errorf("%.20q: places outside of the text", text)
		}
	}
}

// TestLinear: input made to be slow is not. Reading it in quadratic time would
// take minutes.
func TestLinear(t *testing.T) {
	const size = 1 << 18
	for _, c := range []struct{ head, again string }{
		{"a: |\n ", "\n"}, {"a: |\n ", "\n\n  x"}, {"a: >\n ", " \n"}, {"a: |+\n", "  \n"}, {"a: \"", "\t"}, {"a: \"", "\t\\"}, {"a: \"", "\n"}, {"a: \"", "\\\n"},
		{"a: '", "''"}, {"a: '", " \n"}, {"", "<"}, {"", "<<: "}, {"", " -"}, {"", "- "}, {"", "-\n"}, {"", "a:\n"}, {"", "? "}, {"", ": "}, {"", "{"}, {"", "["},
		{"", "[{"}, {"[", "a,"}, {"[", "a\n"}, {"[", "\n"}, {"{", "a: b,"}, {"{", "a b\n"}, {"", "!"}, {"", "! "}, {"", "&a "}, {"", "&a\n"}, {"a: &a b\nb: [", "*a,"},
		{"", "#\n"}, {"", " #"}, {"a: ", "b\n c\n"}, {"a: b", "\n  c"}, {"a: b", "\n\n"}, {"a: b\n", "\n  \n"}, {"", "\n---\n"}, {"", "---\n["}, {"", "%YAML\n"}, {"", "...\n"},
		{"", "日"}, {"", "\t"}, {"", "a: \"\n---\n"}, {"[é,", "a: 1,"}, {"[é, &a a,", "*a,"}, {"{\"a\":[", "\"\\ud83d\\ude00\","}, {"k: v\n", "  # c\n\n"}, {"{a: b", "\n# c"},
		{"- a\n", "- - b # c\n"}, {"", "a: \"\n b\n---\n"}, {"x: &a [", "\n#\n"},
	} {
		takes := func(size int) time.Duration {
			start := time.Now()
			Parse(File{"a", []byte(c.head + strings.Repeat(c.again, size/len(c.again)))})
			return time.Since(start)
		}
		// Sixteen times as much takes 256 times as long in quadratic time. A machine that is busy, or slow under the race
		// detector, is so for both; short times say nothing.
		if part, all := takes(size/16), takes(size); all > 100*max(part, 50*time.Millisecond) {
			t.Errorf("%q and again %q: a sixteenth takes %v, all of it %v", c.head, c.again, part, all)
		}
	}
	var many strings.Builder
	for i := range 100_000 {
		many.WriteString(strings.Repeat("k", i%7) + strconv.Itoa(i) + ": v\n")
	}
	start := time.Now()
	if n := node(t, many.String()); len(n.value.keys) != 100_000 {
		t.Errorf("%d keys", len(n.value.keys))
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("many keys take %v", took)
	}
}
