package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func render(ps Problems, source string, color bool) string {
	var b bytes.Buffer
	ps.Render(&b, map[string][]byte{"a.yaml": []byte(source)}, color)
	return b.String()
}

func at(line, col, n int) Problems {
	return Problems{{Pos: Pos{"a.yaml", line, col}, Message: "wrong", Len: n}}
}

// TestExcerpt has source lines and the carets below them; | marks the caret's
// place in what a terminal shows.
func TestExcerpt(t *testing.T) {
	for _, c := range []struct {
		line        string
		col, n      int
		text, caret string
	}{
		{"abc", 2, 1, "abc", " ^"},
		{"abc", 1, 3, "abc", "^^^"},
		{"abc", 1, 0, "abc", "^"},
		{"abc", 4, 1, "abc", "   ^"},
		{"abc", 9, 1, "abc", "   ^"},
		{"abc", 2, 9, "abc", " ^^"},
		{"", 1, 1, "", "^"},
		{"abc\r", 4, 1, "abc", "   ^"},
		{"\ta", 2, 1, "    a", "    ^"},
		{"a\tb\tc", 3, 1, "a   b   c", "    ^"},
		{"a\tb\tc", 5, 1, "a   b   c", "        ^"},
		{"a\tb", 2, 1, "a   b", " ^^^"},
		{"ü: x", 4, 1, "ü: x", "   ^"},
		{"日本: x", 5, 1, "日本: x", "      ^"},
		{"日本: x", 2, 1, "日本: x", "  ^^"},
		{"e\u0301: x", 5, 1, "e\u0301: x", "   ^"},
		{"🎉 x", 3, 1, "🎉 x", "   ^"},
		{"👩\u200d💻 x", 5, 1, "👩\u200d💻 x", "     ^"},
		{"a\x1b[31mb", 7, 1, "a\ufffd[31mb", "      ^"},
		{"a\xffb", 3, 1, "a\ufffdb", "  ^"},
		{"a\u202eb", 3, 1, "a\ufffdb", "  ^"},
		{strings.Repeat("x", 300), 200, 3, "…" + strings.Repeat("x", 109) + "…", strings.Repeat(" ", 41) + "^^^"},
		{strings.Repeat("x", 300), 300, 1, "…" + strings.Repeat("x", 41), strings.Repeat(" ", 41) + "^"},
		{strings.Repeat("x", 300), 5, 300, strings.Repeat("x", 110) + "…", "    " + strings.Repeat("^", 106)},
		{strings.Repeat("日", 300), 200, 1, "…" + strings.Repeat("日", 55) + "…", strings.Repeat(" ", 81) + "^^"},
	} {
		text, caret := excerpt([]byte(c.line), c.col, c.n)
		if text != c.text || caret != c.caret {
			t.Errorf("%q col %d:\n got %q\n     %q\nwant %q\n     %q", c.line, c.col, text, caret, c.text, c.caret)
		}
	}
}

func TestRender(t *testing.T) {
	if diff := cmp.Diff("a.yaml:2:1: error: wrong\n   2 | b\n     | ^\n", render(at(2, 1, 1), "a\nb\n", false)); diff != "" {
		t.Error(diff)
	}
	// Places that are not in the sources are printed without a line.
	for _, ps := range []Problems{at(9, 1, 1), {{Pos: Pos{File: "b.yaml", Line: 1, Col: 1}, Message: "wrong"}}, {{Pos: Pos{File: "a.yaml"}, Message: "wrong"}}, {{Message: "wrong"}}} {
		if got := render(ps, "a\n", false); got != ps[0].String()+"\n" {
			t.Errorf("%q", got)
		}
	}
	lint := Problems{{Pos: Pos{"a.yaml", 1, 1}, Severity: Warning, Code: "route.unreachable", Message: "never matches", Hint: "remove it", Len: 1}}
	want := "\x1b[1ma.yaml:1:1\x1b[0m: \x1b[1;33mwarning:\x1b[0m never matches [route.unreachable]\n\x1b[2m   1 |\x1b[0m a\n\x1b[2m     |\x1b[0m \x1b[1;33m^\x1b[0m\n      hint: remove it\n"
	if diff := cmp.Diff(want, render(lint, "a\n", true)); diff != "" {
		t.Error(diff)
	}
}

func TestRenderIsBounded(t *testing.T) {
	var ps Problems
	for range shownPerFile + 57 {
		ps = append(ps, at(1, 1, 1)...)
	}
	ps = append(ps, Problem{Pos: Pos{File: "b.yaml"}, Message: "other"})
	got := render(ps, "a\n", false)
	if n := strings.Count(got, "wrong"); n != shownPerFile || !strings.HasSuffix(got, "a.yaml: and 57 more problems\nb.yaml: error: other\n") {
		t.Errorf("%d shown, ends with %q", n, got[len(got)-80:])
	}
}

func TestProblemsAsError(t *testing.T) {
	var none Problems
	warning := Problems{{Severity: Warning, Message: "hm"}}
	if none.Err() != nil || warning.Err() != nil || warning.HasErrors() {
		t.Error("no errors, but an error")
	}
	err := fmt.Errorf("loading: %w", append(warning, at(1, 2, 0)...).Err())
	var ps Problems
	if !errors.As(err, &ps) || len(ps) != 2 || err.Error() != "loading: warning: hm\na.yaml:1:2: error: wrong" {
		t.Error(err)
	}
	for range 20 {
		ps = append(ps, ps[1])
	}
	if !strings.HasSuffix(ps.Error(), "\nand 12 more") {
		t.Error(ps.Error())
	}
	b, err := json.Marshal(at(1, 2, 3))
	if string(b) != `[{"file":"a.yaml","line":1,"col":2,"severity":"error","message":"wrong","len":3}]` || err != nil {
		t.Errorf("%s %v", b, err)
	}
	var back Problems
	if err := json.Unmarshal(b, &back); err != nil || !cmp.Equal(back, at(1, 2, 3)) {
		t.Error(back, err)
	}
}

func TestSort(t *testing.T) {
	var ps Problems
	for _, p := range []Pos{{"b", 2, 1}, {"a", 9, 9}, {"b", 1, 5}, {"", 0, 0}, {"b", 1, 2}, {"gone", 1, 1}} {
		ps = append(ps, Problem{Pos: p})
	}
	ps.Sort([]string{"b", "a"})
	var got []string
	for _, p := range ps {
		got = append(got, p.Pos.String())
	}
	if diff := cmp.Diff([]string{"", "gone:1:1", "b:1:2", "b:1:5", "b:2:1", "a:9:9"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"rateLimit", "requests", "period", "ip", "GET", "legacyStatus"}
	for word, want := range map[string]string{
		"ratelimit": "rateLimit", "rate-limit": "rateLimit", "rate_limit": "rateLimit", "rateLimt": "rateLimit", "RATELIMIT": "rateLimit",
		"request": "requests", "reqeusts": "requests", "perod": "period", "preiod": "period", "get": "GET", "GTE": "GET", "legacyStats": "legacyStatus",
		"xyz": "", "": "", "quota": "", "rate": "", "p": "ip", "é": "", strings.Repeat("x", 1000): "",
	} {
		if got := Nearest(word, known); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
	if Nearest("x", nil) != "" {
		t.Error("found a word in none")
	}
	if got := Nearest("ab", []string{"abc", "abd"}); got != "abc" {
		t.Errorf("of equally near words %q instead of the first", got)
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"ca", "abc", 3}, {"kitten", "sitting", 3}, {"日本", "本日", 1}} {
		if got := distance([]rune(c.a), []rune(c.b)); got != c.want {
			t.Errorf("%q %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// Who writes a secret where a document wants a hash of it, or the place where it is, does not find it in logs.
func TestSecretsAreNotShown(t *testing.T) {
	for _, spec := range []string{
		`{application: a, key: wg_abcdefghs3cret}`, `{application: a, key: {prefix: wg_abcdefgh, sha256: wg_abcdefghs3cret}}`, `{application: a, key: {prefix: wg_abcdefgh, sha256: "s3cret", sha265: 1}}`,
		`{application: a, basic: "ann:s3cret"}`, `{application: a, basic: {username: ann, hash: s3cret}}`,
		`{application: a, hmac: {keyId: a, secret: s3cret}}`,
	} {
		file := File{Name: "a.yaml", Data: []byte("apiVersion: whygate/v1\nkind: Credential\nmetadata: {name: a}\nspec: " + spec + "\n")}
		set, ps := Parse(file)
		var b strings.Builder
		if err := ps.Render(&b, set.Sources(), false); err != nil {
			t.Fatal(err)
		}
		text := b.String()
		for _, p := range ps {
			text += p.String() + p.Hint
		}
		if !ps.HasErrors() || strings.Contains(text, "s3cret") || !strings.Contains(text, "which is not shown") || !strings.Contains(text, "••••") {
			t.Errorf("%s:\n%s", spec, text)
		}
	}
}
