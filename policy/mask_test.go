package policy

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/whygate/whygate/wire"
)

func (b *testbed) mask(config string) *mask {
	b.t.Helper()
	made, problems := b.compile("mask", config)
	if problems.HasErrors() {
		b.t.Fatal(problems)
	}
	return made.(*mask)
}

// masked runs an answer through a mask in pieces of a size.
func (b *testbed) masked(m *mask, kind, body string, piece int) (string, *Exchange, error) {
	b.t.Helper()
	x := b.call("GET /")
	h := &wire.Head{Status: 200, Length: -1}
	h.Fields.Put(wire.ContentType, kind)
	t, err := m.Filter(x, h)
	if err != nil || t == nil {
		return body, x, err
	}
	var out strings.Builder
	for rest := body; ; {
		n := min(piece, len(rest))
		p, err := t.Write([]byte(rest[:n]), n == len(rest))
		if err != nil {
			return out.String(), x, err
		}
		out.Write(p)
		if rest = rest[n:]; rest == "" {
			return out.String(), x, nil
		}
	}
}

func TestMaskTexts(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"write to ann@shop.test now", "write to *** now"},
		{"a.b+c_d%e@mail.shop.co.uk.", "***."},
		{"<ann@shop.test>,bob@shop.test", "<***>,***"},
		{"jürgen@bücher.example", "***"},
		{"no@domain, @name, a@b, x@1.2.3.4", "no@domain, @name, a@b, x@1.2.3.4"},
		{"a@@b.test", "a@@b.test"},
		{"call +49 30 1234567 today", "call *** today"},
		{"+1 (555) 123-4567, +441632960961", "***, ***"},
		{"1+2345678, a+49301234567, +12345, +-", "1+2345678, a+49301234567, +12345, +-"},
		{"4111111111111111", "***"}, {"card 4111 1111 1111 1111 12/27", "card *** 12/27"}, {"5500-0000-0000-0004.", "***."}, {"3782 822463 10005", "***"},
		{"6011000990139424x", "***x"}, {"4111111111111112", "4111111111111112"}, {"41111111111111111111111", "41111111111111111111111"},
		{"0000000000000000 1234567890123", "0000000000000000 1234567890123"}, {"20261122120000123", "20261122120000123"},
		{"12 34 4111111111111111", "12 34 ***"}, {"1234 4111 1111 1111 1111", "1234 ***"},
		{"DE89370400440532013000", "***"}, {"pay DE89 3704 0044 0532 0130 00 today", "pay *** today"}, {"gb82west12345698765432", "***"},
		{"DE88370400440532013000 XDE89370400440532013000", "DE88370400440532013000 XDE89370400440532013000"},
		{"EMP-123456", "***"}, {"ann@shop.test4111111111111111", "***"},
	} {
		tx := texts{email: true, phone: true, card: true, iban: true, patterns: newTestbed(t).mask(`{match: ["EMP-[0-9]{6}"]}`).texts.patterns}
		at, got := 0, ""
		for _, f := range tx.find(c.text) {
			got += c.text[at:f.start] + "***"
			at = f.end
		}
		if got += c.text[at:]; got != c.want {
			t.Errorf("%q becomes %q, want %q", c.text, got, c.want)
		}
	}
	tx := texts{email: true, phone: true, card: true, iban: true}
	if n := testing.AllocsPerRun(100, func() { tx.find("nothing to hide here: 12, a@b, +1, DE12") }); n > 0 {
		t.Errorf("finding nothing allocates %v times", n)
	}
}

func TestMaskJSON(t *testing.T) {
	b := newTestbed(t)
	for _, c := range []struct{ config, in, want string }{
		{`{fields: [Password]}`, `{"a": {"PASSWORD" : "x", "passwords": "y"}, "password": [1, {"b": 2}]}`, `{"a": {"PASSWORD" : "***", "passwords": "y"}, "password": "***"}`},
		{`{fields: [password]}`, `{"p\u0061ssword": "x", "password": null, "password": 12, "password": true}`, `{"p\u0061ssword": "***", "password": null, "password": "***", "password": "***"}`},
		{`{paths: [a.b, "l[1].c", "m[*]", "$.d.*.e", '["x.y"]']}`, `{"a": {"b": 1, "c": {"b": 2}}, "b": 3, "l": [{"c": 1}, {"c": 2}], "m": [1, "2", null], "d": {"p": {"e": 1}, "q": {"e": 2, "f": 3}}, "x.y": 1}`,
			`{"a": {"b": "***", "c": {"b": 2}}, "b": 3, "l": [{"c": 1}, {"c": "***"}], "m": ["***", "***", null], "d": {"p": {"e": "***"}, "q": {"e": "***", "f": 3}}, "x.y": "***"}`},
		{`{patterns: [email, card]}`, `{"ann@shop.test": "mail a\u0040b.test \"now\"", "n": 4111111111111111, "m": 41111}`, `{"***": "mail *** \"now\"", "n": "***", "m": 41111}`},
		{`{patterns: [card], with: last4}`, `["4111 1111 1111 1111", "4111-1111-1111-1111"]`, `["***1111", "***1111"]`},
		{`{fields: [a], with: last4}`, `{"a": "1234567", "a": "12345678", "a": {"b": 123456789}}`, `{"a": "***", "a": "***5678", "a": "***"}`},
		{`{fields: [a], replacement: "<\"hidden\">"}`, `{"a": 1}`, `{"a": "\u003c\"hidden\"\u003e"}`},
		{`{fields: [a]}`, " \n", " \n"},
		{`{fields: [a]}`, `"just a text"`, `"just a text"`},
		{`{patterns: [email]}`, `"just a@b.test"`, `"just ***"`},
	} {
		m := b.mask(c.config)
		for _, piece := range []int{1, 7, 1000} {
			if got, _, err := b.masked(m, "application/json", c.in, piece); err != nil || got != c.want {
				t.Errorf("%s: %s becomes %s, want %s: %v", c.config, c.in, got, c.want, err)
			}
		}
	}
	// Hashes are the same of the same, and of nothing else.
	m := b.mask(`{fields: [a], with: hash, salt: pepper}`)
	got, _, _ := b.masked(m, "application/json", `[{"a": "x"}, {"a": "x"}, {"a": "y"}]`, 100)
	if got != `[{"a": "#3907347a65f6001d"}, {"a": "#3907347a65f6001d"}, {"a": "#`+got[len(got)-19:] || strings.Count(got, "3907347a65f6001d") != 2 {
		t.Errorf("%s", got)
	}
	for _, bad := range []string{`{"a": 1`, `{"a" 1}`, `{"a": 1,}`, `[1 2]`, `{"a": 01}`, `{"a": "x}`, `{"a": tru}`, `{"a": "\x"}`, `{"a": 1} {"a": 2}`, "{\"a\": \"\n\"}", strings.Repeat("[", 300) + strings.Repeat("]", 300)} {
		if got, _, err := b.masked(m, "application/json", bad, 100); err == nil || got != "" {
			t.Errorf("%s passes as %s", bad, got)
		}
		pass := b.mask(`{fields: [a], otherwise: pass}`)
		if got, x, err := b.masked(pass, "application/json", bad, 3); err != nil || got != bad || len(x.Notes) != 1 || x.Notes[0].Code != "mask.passed" {
			t.Errorf("%s: passes as %s, %v", bad, got, x.Notes)
		}
	}
}

// Texts are masked in pieces, and it makes no difference in which.
func TestMaskPieces(t *testing.T) {
	b := newTestbed(t)
	m := b.mask(`{patterns: [email, card, phone, iban], match: ["secret-[a-z]+"], maxBody: 1KiB}`)
	line := "mail ann@shop.test card 4111 1111 1111 1111 iban DE89 3704 0044 0532 0130 00, +49 30 1234567; secret-abc "
	want := "mail *** card *** iban ***, ***; *** "
	for _, end := range []string{"", "\n"} {
		body, masked := strings.Repeat(line+end, 3000), strings.Repeat(want+end, 3000)
		for _, piece := range []int{13, 4096, 70_001, 1 << 20} {
			got, x, err := b.masked(m, "text/plain", body, piece)
			if err != nil || got != masked {
				t.Errorf("pieces of %d: %d bytes, want %d: %v", piece, len(got), len(masked), err)
			}
			if len(x.Notes) != 1 || x.Notes[0].Text != "3000 email, 3000 phone, 3000 card, 3000 iban, 3000 pattern" {
				t.Errorf("%v", x.Notes)
			}
		}
	}
	if got, _, err := b.masked(b.mask(`{fields: [a], patterns: [email]}`), "application/x-ndjson", "{\"a\": 1}\n{\"a\": 2}\n\n{\"b\": \"x@y.test\"}", 5); err != nil || got != "{\"a\": \"***\"}\n{\"a\": \"***\"}\n\n{\"b\": \"***\"}" {
		t.Errorf("%s %v", got, err)
	}
	if got, _, err := b.masked(b.mask(`{fields: [a]}`), "application/x-ndjson", "{\"a\": 1}\n{\"a\"", 5); err == nil {
		t.Errorf("%s passes", got)
	}
	events := "event: x\r\ndata: {\"a\": 1}\r\n\r\n: to x@y.test\ndata: to x@y.test\ndata:[DONE]\n\n"
	if got, _, err := b.masked(b.mask(`{fields: [b], patterns: [email]}`), "text/event-stream", strings.ReplaceAll(events, "[DONE]", "DONE"), 3); err != nil || got != "event: x\r\ndata: {\"a\": 1}\r\n\r\n: to ***\ndata: to ***\ndata:DONE\n\n" {
		t.Errorf("%q %v", got, err)
	}
	// Many servers say text/plain, or nothing, of JSON.
	for _, kind := range []string{"", "text/plain; charset=utf-8"} {
		if got, _, err := b.masked(b.mask(`{fields: [a], patterns: [email]}`), kind, `{"a": 1}`, 3); err != nil || got != `{"a": "***"}` {
			t.Errorf("%q: %s %v", kind, got, err)
		}
		if got, _, err := b.masked(b.mask(`{fields: [a], patterns: [email]}`), kind, `hello x@y.test`, 3); err != nil || got != `hello ***` {
			t.Errorf("%q: %s %v", kind, got, err)
		}
	}
	if got, _, err := b.masked(m, "image/png", "x@y.test", 3); err != nil || got != "x@y.test" {
		t.Errorf("%s %v", got, err)
	}
}

func TestMaskConfiguration(t *testing.T) {
	b := newTestbed(t)
	for config, want := range map[string]string{
		`{}`: "hides nothing", `{paths: ["a..b"]}`: "an empty name", `{paths: ["a[x]"]}`: "[x] is neither", `{match: ["("]}`: "missing closing", `{match: ["a*"]}`: "matches nothing at all",
		`{patterns: [zip]}`: "zip", `{fields: [""]}`: "an empty name", `{fields: [a], maxBody: 1GiB}`: "16",
	} {
		if _, problems := b.compile("mask", config); !problems.HasErrors() || !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: %v, want %s", config, problems, want)
		}
	}
}

// What is JSON stays JSON, what should be hidden is, and nothing else changes.
func FuzzMaskJSON(f *testing.F) {
	for _, s := range []string{`{"a": {"password": 1}}`, `[1, "ann@shop.test", 4111111111111111]`, `{"p\u0061ssword": "\ud83d\ude00\"", "b": []}`, `"\ud800"`, `{"a":[{"c":1}]}`, "[[[[", `{"":""}`} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, piece uint8) {
		b := newTestbed(t)
		m := b.mask(`{fields: [password], paths: ["a[*].c"], patterns: [email, card, iban, phone]}`)
		got, _, err := b.masked(m, "application/json", string(in), int(piece)+1)
		valid := json.Valid(in)
		if err == nil && len(bytes.TrimSpace(in)) > 0 && !bytes.HasPrefix(in, []byte("\xef\xbb\xbf")) && valid != json.Valid([]byte(got)) {
			t.Fatalf("%q becomes %q", in, got)
		}
		if err != nil {
			if valid && !strings.Contains(err.Error(), "deeper") && len(in) < 1<<20 {
				t.Fatalf("%q: %v", in, err)
			}
			return
		}
		var v any
		if json.Unmarshal([]byte(got), &v) == nil {
			checkHidden(t, v, got)
		}
		again, _, err := b.masked(m, "application/json", got, 1000)
		if err != nil || again != got {
			t.Fatalf("%q, masked again, becomes %q: %v", got, again, err)
		}
	})
}

func checkHidden(t *testing.T, v any, text string) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if strings.EqualFold(k, "password") && e != nil && e != "***" && isASCII(k) {
				t.Fatalf("a password shows in %s", text)
			}
			checkHidden(t, e, text)
		}
	case []any:
		for _, e := range v {
			checkHidden(t, e, text)
		}
	}
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// Pieces make no difference for texts.
func FuzzMaskText(f *testing.F) {
	f.Add("mail ann@shop.test\ncard 4111 1111 1111 1111", uint16(3))
	f.Add("+49 30 1234567 DE89 3704 0044 0532 0130 00 @@..", uint16(1))
	f.Fuzz(func(t *testing.T, in string, piece uint16) {
		b := newTestbed(t)
		m := b.mask(`{patterns: [email, card, iban, phone], match: ["x[0-9]+y"]}`)
		whole, _, err := b.masked(m, "text/html", in, len(in)+1)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(in, "\n") && len(in) < textPiece {
			if got, _, _ := b.masked(m, "text/html", in, int(piece)+1); got != whole {
				t.Fatalf("%q becomes %q in pieces of %d, and %q as a whole", in, got, int(piece)+1, whole)
			}
		}
		for _, found := range m.texts.find(in) {
			if found.start >= found.end || found.end > len(in) {
				t.Fatalf("%q: %+v", in, found)
			}
		}
	})
}

// TestMaskHides: which places of a request are not for records.
func TestMaskHides(t *testing.T) {
	b := newTestbed(t)
	m := b.mask(`{fields: [Salary], paths: ["customers[*].mail", "a.*.b", "[0].x"]}`)
	for place, want := range map[string]bool{
		"salary": true, "of/SALARY/0": true, "customers/0/mail": true, "customers/17/mail/deep": true, "a/x/b": true, "a/0/b": true, "0/x": true,
		"": false, "customers/0": false, "mail": false, "customers/x/name": false, "x/customers/0/mail": false, "1/x": false,
	} {
		if got := m.Hides(strings.Split(place, "/")); got != want {
			t.Errorf("%s is hidden: %v", place, got)
		}
	}
}
