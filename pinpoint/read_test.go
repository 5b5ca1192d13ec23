package pinpoint

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/rogpeppe/go-internal/txtar"
)

// readNow is the present of the tests.
var readNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var madeToken = regexp.MustCompile(`@jwt(\{.*?\})@`)

// readToken writes a token with these claims; its signature is made up.
func readToken(claims string) string {
	e := base64.RawURLEncoding.EncodeToString
	return e([]byte(`{"alg":"RS256","typ":"JWT","kid":"k1"}`)) + "." + e([]byte(claims)) + "." + e([]byte("a signature that nobody checks"))
}

// readExchange reads "METHOD URL", fields, an empty line and a body, then ">>> STATUS" and the same again.
func readExchange(t testing.TB, text string) Exchange {
	t.Helper()
	text = madeToken.ReplaceAllStringFunc(text, func(m string) string { return readToken(m[4 : len(m)-1]) })
	text = strings.NewReplacer("@1h-ago@", readNow.Add(-time.Hour).Format(time.RFC1123), "@now@", strings.Replace(readNow.Format(time.RFC1123), "UTC", "GMT", 1)).Replace(text)
	message := func(s string) (first string, h Header, body []byte) {
		head, rest, _ := strings.Cut(strings.TrimLeft(s, "\n"), "\n\n")
		sc := bufio.NewScanner(strings.NewReader(head))
		sc.Buffer(nil, 4<<20)
		for sc.Scan() {
			line := sc.Text()
			if first == "" {
				first = line
				continue
			}
			name, value, ok := strings.Cut(line, ": ")
			if !ok {
				t.Fatalf("no field: %q", line)
			}
			h = append(h, Field{name, value})
		}
		return first, h, []byte(strings.TrimSuffix(rest, "\n"))
	}
	sent, got, answered := strings.Cut(text, ">>> ")
	first, h, body := message(sent)
	method, url, _ := strings.Cut(first, " ")
	at := readNow
	if v := h.Value("@at"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			t.Fatal(err)
		}
		at = at.Add(d)
	}
	ex := Exchange{Request: &Request{Method: method, URL: url, Header: h.Without("@at"), Body: body}, At: at}
	if answered {
		first, h, body := message(got)
		word, rest, _ := strings.Cut(first, " ")
		status, err := strconv.Atoi(word)
		if err != nil {
			t.Fatalf("no status: %q", first)
		}
		a := &Answer{Status: status, Header: h, Body: body, At: at, Err: rest}
		if v := h.Value("@ms"); v != "" {
			ms, _ := strconv.Atoi(v)
			a.FirstByte, a.Header = time.Duration(ms)*time.Millisecond, h.Without("@ms")
		}
		ex.Answer = a
	}
	return ex
}

// readCase makes a case of exchanges; the last one is asked about.
func readCase(t testing.TB, exchanges ...string) *Case {
	t.Helper()
	c := &Case{Source: "har"}
	for _, e := range exchanges {
		c.Exchanges = append(c.Exchanges, readExchange(t, e))
	}
	c.Asked = len(c.Exchanges) - 1
	return c
}

// readSealed takes the secrets out, about as Seal does, and returns them.
func readSealed(c *Case) (secrets []string) {
	v := NewVault()
	c.Vault = v
	hide := func(s string) string {
		if len(s) >= 8 {
			secrets = append(secrets, s)
		}
		return v.Hide(s)
	}
	pairs := func(s string) string {
		parts := strings.Split(s, "; ")
		for i, p := range parts {
			if name, value, ok := strings.Cut(p, "="); ok {
				parts[i] = name + "=" + hide(value)
			}
		}
		return strings.Join(parts, "; ")
	}
	for i := range c.Exchanges {
		ex := &c.Exchanges[i]
		for j, f := range ex.Request.Header {
			switch strings.ToLower(f.Name) {
			case "authorization":
				if scheme, rest, ok := strings.Cut(f.Value, " "); ok {
					ex.Request.Header[j].Value = scheme + " " + hide(rest)
				} else {
					ex.Request.Header[j].Value = hide(f.Value)
				}
			case "cookie":
				ex.Request.Header[j].Value = pairs(f.Value)
			case "x-api-key", "dpop":
				ex.Request.Header[j].Value = hide(f.Value)
			}
		}
		if ex.Answer == nil {
			continue
		}
		for j, f := range ex.Answer.Header {
			if strings.EqualFold(f.Name, "Set-Cookie") {
				first, rest, _ := strings.Cut(f.Value, ";")
				ex.Answer.Header[j].Value = pairs(first) + ";" + rest
			}
		}
	}
	return secrets
}

// readCauses are the causes of clues that weigh enough, the first one first.
func readCauses(clues []Clue, least float64) (out []string) {
	for _, c := range clues {
		if c.Cause != "" && !c.Against && c.Weight >= least && !slices.Contains(out, c.Cause) {
			out = append(out, c.Cause)
		}
	}
	return out
}

// readCheck fails for clues that no report may print.
func readCheck(t testing.TB, clues []Clue, secrets []string) {
	t.Helper()
	for _, c := range clues {
		texts := append([]string{c.Says, c.Quote, c.ID, c.Cause, c.Refuser}, c.Fix...)
		for k, v := range c.Names {
			texts = append(texts, k, v)
		}
		for _, text := range texts {
			for _, s := range secrets {
				if strings.Contains(text, s) {
					t.Errorf("%s: a secret of %d bytes stands in the clue", c.Cause, len(s))
				}
			}
			for _, r := range text {
				if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
					t.Errorf("%s: control character %U in %q", c.Cause, r, text)
				}
			}
			if len(text) > 600 {
				t.Errorf("%s: text of %d bytes", c.Cause, len(text))
			}
		}
		if c.Says == "" || c.ID != decodeLocal || c.Weight <= 0 || c.Weight > Certain {
			t.Errorf("incomplete clue %+v", c)
		}
	}
}

// TestReadScenarios walks testdata/read: each file is a case, its comment says what must come first.
func TestReadScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/read/*.txtar")
	if err != nil || len(files) < 30 {
		t.Fatalf("%d scenarios: %v", len(files), err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var texts []string
			asked := len(a.Files) - 1
			for i, f := range a.Files {
				if f.Name == "asked" {
					asked = i
				}
				texts = append(texts, string(f.Data))
			}
			c := readCase(t, texts...)
			c.Asked = asked
			var expect string
			var says, not, also []string
			for line := range strings.SplitSeq(string(a.Comment), "\n") {
				key, value, _ := strings.Cut(line, ": ")
				switch key {
				case "expect":
					expect = value
				case "also":
					also = append(also, value)
				case "says":
					says = append(says, value)
				case "not":
					not = append(not, value)
				case "source":
					c.Source = value
				case "gap":
					c.Gaps = append(c.Gaps, Gap{Kind: value})
				}
			}
			secrets := readSealed(c)
			clues := Read(c, readNow)
			readCheck(t, clues, secrets)
			got := readCauses(clues, Fair)
			if expect == "nothing" {
				if len(got) > 0 {
					t.Errorf("got %v, want nothing\n%v", got, readText(clues))
				}
				return
			}
			if len(got) == 0 || got[0] != expect {
				t.Fatalf("got %v, want %s\n%s", got, expect, readText(clues))
			}
			for _, w := range also {
				if !slices.Contains(got, w) {
					t.Errorf("%s lacks in %v", w, got)
				}
			}
			for _, w := range not {
				if slices.Contains(got, w) {
					t.Errorf("%s is wrong:\n%s", w, readText(clues))
				}
			}
			for _, w := range says {
				if !strings.Contains(readText(clues), w) {
					t.Errorf("%q lacks in:\n%s", w, readText(clues))
				}
			}
		})
	}
}

func readText(clues []Clue) string {
	var b strings.Builder
	for _, c := range clues {
		fmt.Fprintf(&b, "%.1f %s against=%v hop=%d %s %s | %s %v %q %v\n", c.Weight, c.Cause, c.Against, c.Hop, c.Refuser, c.Source, c.Says, c.Names, c.Quote, c.Fix)
	}
	return b.String()
}
