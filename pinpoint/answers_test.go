package pinpoint

import (
	"bufio"
	"bytes"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// verdictOf is who refused, and why.
type verdictOf struct{ refuser, cause string }

// recordedVerdicts are those of the answers of testdata/answers.
func recordedVerdicts(t testing.TB) map[string]verdictOf {
	t.Helper()
	text, err := os.ReadFile("testdata/answers/verdicts.txt")
	if err != nil {
		t.Fatal(err)
	}
	list := map[string]verdictOf{}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 {
			list[f[0]] = verdictOf{f[1], f[2]}
		}
	}
	return list
}

// readAnswer reads a recorded answer. Only fields and body matter; the status line is taken as it is.
func readAnswer(t testing.TB, name string) *Answer {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(text)), nil)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	a := &Answer{Status: res.StatusCode, Body: body, Proto: res.Proto}
	for _, n := range slices.Sorted(maps.Keys(res.Header)) {
		for _, v := range res.Header[n] {
			a.Header = append(a.Header, Field{n, v})
		}
	}
	return a
}

func caseOf(a *Answer) *Case {
	return &Case{Source: "har", Exchanges: []Exchange{{Request: &Request{Method: "GET", URL: "https://shop.example/orders"}, Answer: a}}}
}

// Answers of products that cannot run here, written after their documentation, are known without a request.
func TestRecordedAnswers(t *testing.T) {
	recorded := recordedVerdicts(t)
	files, _ := filepath.Glob("testdata/answers/*.http")
	if len(files) != len(recorded) || len(files) < 50 {
		t.Errorf("%d files and %d expectations, want the same and at least 50", len(files), len(recorded))
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".http")
		want := recorded[name]
		t.Run(name, func(t *testing.T) {
			a := readAnswer(t, file)
			v := Conclude(caseOf(a), Match(a), nil, a.Status)
			if v.Refuser.Product != want.refuser || v.Cause != want.cause {
				t.Errorf("%s, %s (%s %.2f %s), want %s, %s\n%+v", v.Refuser.Product, v.Cause, v.Outcome, v.Confidence, v.Grade, want.refuser, want.cause, v.Alternatives)
			}
			if want.cause == refuserOnly {
				if v.Outcome != Unknown || v.Next == "" {
					t.Errorf("outcome %s, next %q", v.Outcome, v.Next)
				}
			} else if v.Outcome != Likely || v.Grade < "C" || len(v.Fix.Steps) == 0 {
				t.Errorf("a text is grade C at best: %s %s, fix %v", v.Outcome, v.Grade, v.Fix.Steps)
			}
			if v.Sentence == "" || strings.ContainsAny(v.Sentence, "{}") {
				t.Errorf("sentence %q", v.Sentence)
			}
		})
	}
}

// Where nothing is refused, no cause is named.
func TestOrdinaryPagesHaveNoCause(t *testing.T) {
	files, _ := filepath.Glob("testdata/pages/*.http")
	if len(files) < 10 {
		t.Errorf("%d pages, want at least 10", len(files))
	}
	for _, file := range files {
		a := readAnswer(t, file)
		clues := Match(a)
		for _, c := range clues {
			if c.Cause != "" && c.Weight > 0 {
				t.Errorf("%s: %s says %s", file, c.ID, c.Cause)
			}
		}
		// What was sent looks odd; that is no reason where nothing was refused.
		if a.Status < 400 {
			clues = append(clues, Clue{Source: FromRequest, ID: "jwt-exp", Cause: "jwt-expired", Weight: Certain, Says: "The token has expired."})
		}
		v := Conclude(caseOf(a), clues, nil, a.Status)
		if v.Cause != "" && v.Cause != refuserOnly || v.Outcome != Unknown {
			t.Errorf("%s: %s, %s", file, v.Outcome, v.Cause)
		}
	}
}

func FuzzMatch(f *testing.F) {
	for _, fp := range fingerprintsWithSamples(f) {
		for n, v := range fp.Sample.Headers {
			f.Add(fp.Sample.Status, n, v, []byte(fp.Sample.Body))
			break
		}
	}
	f.Fuzz(func(t *testing.T, status int, name, value string, body []byte) {
		a := &Answer{Status: status, Header: Header{{name, value}, {"Set-Cookie", value}}, Body: body}
		clues := Match(a)
		for _, c := range clues {
			sound(t, c)
		}
		v := Conclude(caseOf(a), clues, nil, status)
		if v.Confidence < 0 || v.Confidence > 1 || v.Grade < "C" && v.Outcome == Proved {
			t.Errorf("%+v", v)
		}
	})
}

func FuzzMatchLog(f *testing.F) {
	for _, p := range patternsWithSamples(f) {
		f.Add(p.Product, p.Sample)
		f.Add("", p.Sample)
	}
	f.Fuzz(func(t *testing.T, product, line string) {
		for _, c := range MatchLog(product, line) {
			sound(t, c)
		}
	})
}

func FuzzAttribute(f *testing.F) {
	f.Add("haproxy", "termination_state", "PR--", "server", "<NOSRV>", 403)
	f.Add("json", "OriginStatus", "0", "DownstreamStatus", "403", 403)
	f.Add("envoy", "response_code_details", "rbac_access_denied_matched_policy[none]", "response_flags", "-", 403)
	f.Add("iis", "sc-substatus", "14", "sc-win32-status", "0", 403)
	f.Add("alb", "target_status_code", "-", "actions_executed", "waf", 403)
	f.Fuzz(func(t *testing.T, format, n1, v1, n2, v2 string, status int) {
		for _, c := range Attribute(&LogLine{Format: format, Status: status, Upstream: v2, Fields: map[string]string{n1: v1, n2: v2}}) {
			sound(t, c)
		}
	})
}

// sound says that a clue of hostile input can be shown: short, one line, nothing for a terminal.
func sound(t *testing.T, c Clue) {
	t.Helper()
	if c.Cause != "" {
		if _, ok := CauseByID(c.Cause); !ok {
			t.Errorf("there is no cause %q", c.Cause)
		}
	}
	texts := []string{c.Says, c.Quote, c.Refuser}
	for n, v := range c.Names {
		texts = append(texts, n, v)
	}
	for _, s := range texts {
		if !utf8.ValidString(s) || utf8.RuneCountInString(s) > 2*quoteLength {
			t.Errorf("%s: %d characters: %q", c.ID, utf8.RuneCountInString(s), s)
		}
		for _, r := range s {
			if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
				t.Errorf("%s: %U in %q", c.ID, r, s)
			}
		}
	}
}

func TestExcerpt(t *testing.T) {
	for in, want := range map[string]string{
		"a\x1b[31mb\x1b[0m":                        "ab",
		"\x1b]0;title\x07text":                     "text",
		"\x1b]52;c;aGk=\x1b\\x":                    "x",
		"a\r\n\tb":                                 "a b",
		"evil\u202etxt":                            "eviltxt",
		"GET /a?token=abcdef&x=1 HTTP/1.1":         "GET /a?token=…&x=… HTTP/1.1",
		"Authorization: Bearer abcdefgh1jkl":       "Authorization: Bearer …",
		"Basic authentication failed":              "Basic authentication failed",
		`{"password":"hunter22hunter"}`:            `{"password":"…"}`,
		"jwt eyJhbGciOiJIUzI1NiJ9.eyJhIjoxfQ.c2ln": "jwt …",
		"/a?t=‹secret:3f9c1b2a len=8›":             "/a?t=‹secret:3f9c1b2a len=8›",
		"bad \xff utf":                             "bad \uFFFD utf",
	} {
		if got := excerpt(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if n := utf8.RuneCountInString(excerpt(strings.Repeat("ä", 1<<20))); n > quoteLength {
		t.Errorf("%d characters", n)
	}
}

// A hostile body that holds what every fingerprint looks for is searched all the same.
func hostile() *Answer {
	var b bytes.Buffer
	for b.Len() < MaxBody {
		for _, f := range fingerprints() {
			if f.body != nil {
				f.body.needs.write(&b)
			}
		}
	}
	return &Answer{Status: 403, Body: b.Bytes()[:MaxBody]}
}

func (n *need) write(b *bytes.Buffer) {
	if n == nil {
		return
	}
	for _, sub := range append(slices.Clone(n.all), n.any...) {
		sub.write(b)
	}
	b.Write(n.literal)
	b.WriteString(" x ")
}

func BenchmarkMatch(b *testing.B) {
	a := readAnswer(b, "testdata/answers/cloudflare-1020.http")
	a.Body = append(a.Body, bytes.Repeat([]byte("<p>An ordinary line of an ordinary page.</p>\n"), 200)...)
	Match(a)
	b.ReportAllocs()
	for b.Loop() {
		Match(a)
	}
}

func BenchmarkMatchHostile(b *testing.B) {
	a := hostile()
	Match(a)
	for b.Loop() {
		Match(a)
	}
}

func BenchmarkMatchLog(b *testing.B) {
	line := `2026/02/03 10:11:12 [error] 812#812: *4 access forbidden by rule, client: 192.0.2.7, server: shop.example, request: "GET /admin/ HTTP/1.1", host: "shop.example"`
	MatchLog("nginx", line)
	for b.Loop() {
		MatchLog("nginx", line)
	}
}

func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		var list []*fingerprint
		read("fingerprints", &list)
		read("logs", &logKnowledge{})
	}
}

// TestSealedAnswersAreStillKnown: taking secrets out of an answer leaves what its page is known by.
func TestSealedAnswersAreStillKnown(t *testing.T) {
	for name, want := range recordedVerdicts(t) {
		a := readAnswer(t, filepath.Join("testdata", "answers", name+".http"))
		c := caseOf(a)
		if c.Exchanges[0].Request == nil {
			c.Exchanges[0].Request = &Request{Method: "GET", URL: "https://shop.test/orders"}
		}
		Seal(c)
		if v := Conclude(c, Match(c.Exchanges[0].Answer), nil, a.Status); v.Cause != want.cause || v.Refuser.Product != want.refuser {
			t.Errorf("%s: %s by %s, want %s by %s\n%s", name, v.Cause, v.Refuser.Product, want.cause, want.refuser, c.Exchanges[0].Answer.Body)
		}
	}
}

// TestSearchedHoldsEveryLiteral: what a text holds is found in it, also when it is so long that its letters are noted.
func TestSearchedHoldsEveryLiteral(t *testing.T) {
	page := []byte(strings.Repeat("An ordinary Line of an ordinary page; ", 40) + "<center>nginx</center>")
	in := newSearched(page)
	if in.grams == nil {
		t.Fatal("the letters of a long text are not noted")
	}
	low := strings.ToLower(string(page))
	for at := range len(low) - 20 {
		for _, n := range []int{3, 4, 9, 20} {
			literal := []byte(low[at : at+n])
			if !in.has(&need{literal: literal, grams: gramsOf(literal)}) {
				t.Fatalf("%q is not found", literal)
			}
		}
	}
	for _, text := range []string{"<center>apache", "ordinary pages", "zzz"} {
		if in.has(&need{literal: []byte(text), grams: gramsOf([]byte(text))}) {
			t.Errorf("%q is found and is not there", text)
		}
	}
}
