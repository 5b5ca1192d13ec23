package policy

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"path"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/corazawaf/coraza-coreruleset/v4"
	crstests "github.com/corazawaf/coraza-coreruleset/v4/tests"
	"github.com/corazawaf/coraza/v3"
	"github.com/corazawaf/coraza/v3/experimental/plugins"
	"github.com/corazawaf/coraza/v3/experimental/plugins/plugintypes"
	"go.yaml.in/yaml/v4"
)

// sharedEngine is the engine without directives, and plainEngine the same rules as the library runs them.
var (
	sharedEngine = sync.OnceValue(func() *wafEngine { return newWAFEngine(nil) })
	plainEngine  = sync.OnceValue(func() coraza.WAF {
		waf, err := coraza.NewWAF(coraza.NewWAFConfig().WithRootFS(coreruleset.FS).WithDirectives(wafBase).
			WithDirectivesFromFile("@crs-setup.conf.example").WithDirectivesFromFile("@owasp_crs/*.conf"))
		if err != nil {
			panic(err)
		}
		return waf
	})
)

// writer makes strings that an expression matches, often.
type writer struct {
	*rand.Rand
	b strings.Builder
}

func (w *writer) write(re *syntax.Regexp) {
	if w.b.Len() > 400 {
		return
	}
	times := func(low, high int) {
		if high < 0 || high > low+3 {
			high = low + 3
		}
		for range low + w.IntN(high-low+1) {
			w.write(re.Sub[0])
		}
	}
	switch re.Op {
	case syntax.OpLiteral:
		for _, r := range re.Rune {
			w.letter(r, re.Flags&syntax.FoldCase != 0)
		}
	case syntax.OpCharClass:
		if n := len(re.Rune) / 2; n > 0 {
			i := w.IntN(n)
			lo, hi := re.Rune[2*i], re.Rune[2*i+1]
			w.b.WriteRune(lo + rune(w.IntN(min(int(hi-lo), 300)+1)))
		}
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		w.b.WriteString([]string{"a", "7", " ", "é", "\xff", ";"}[w.IntN(6)])
	case syntax.OpCapture:
		w.write(re.Sub[0])
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			w.write(sub)
		}
	case syntax.OpAlternate:
		w.write(re.Sub[w.IntN(len(re.Sub))])
	case syntax.OpStar:
		times(0, -1)
	case syntax.OpPlus:
		times(1, -1)
	case syntax.OpQuest:
		times(0, 1)
	case syntax.OpRepeat:
		times(re.Min, re.Max)
	}
}

func (w *writer) letter(r rune, folds bool) {
	if folds {
		for range w.IntN(4) {
			r = firstFold(r)
		}
	}
	w.b.WriteRune(r)
}

// firstFold goes around the forms of a letter, ſ and the sign for Kelvin among them.
func firstFold(r rune) rune {
	for _, orbit := range []string{"kK\u212a", "sS\u017f"} {
		if i := slices.Index([]rune(orbit), r); i >= 0 {
			return []rune(orbit)[(i+1)%3]
		}
	}
	if l := strings.ToLower(string(r)); l != string(r) {
		return []rune(l)[0]
	}
	return []rune(strings.ToUpper(string(r)))[0]
}

// mutate changes a string a little.
func mutate(r *rand.Rand, s string) string {
	b := []byte(s)
	for range r.IntN(3) {
		if len(b) == 0 {
			break
		}
		i := r.IntN(len(b))
		switch r.IntN(5) {
		case 0:
			b = slices.Delete(b, i, i+1)
		case 1:
			b[i] = byte(r.IntN(256))
		case 2:
			b = slices.Insert(b, i, " '\"\\/%+&\x00;("[r.IntN(11)])
		case 3:
			b[i] ^= 0x20
		default:
			b = append(b, "pad x"...)
		}
	}
	return string(b)
}

// expressions are all that the index has needs for, and what they are without.
func expressions(t *testing.T) map[int32]*regexp.Regexp {
	x := sharedEngine().skip
	list := map[int32]*regexp.Regexp{}
	for i, r := range x.rules {
		if r.expression != "" && len(r.needs) > 0 {
			list[int32(i)] = regexp.MustCompile("(?sm)" + r.expression)
		}
	}
	if len(list) < 150 {
		t.Fatalf("only %d expressions of the rule set have needs", len(list))
	}
	return list
}

func newHits(words int) (hits []bitset) {
	for range skipSlots {
		hits = append(hits, make(bitset, words))
	}
	return hits
}

// has says that a value has what a rule needs.
func has(hits []bitset, rule int, value string) bool {
	for _, h := range hits {
		if !h.has(rule) {
			return foldsToASCII(value)
		}
	}
	return true
}

// TestWAFNeeds: a value that an expression of the rule set matches has what is said to be needed for it.
func TestWAFNeeds(t *testing.T) {
	t.Parallel()
	find := sharedEngine().skip.find
	hits := newHits(find.words)
	list := expressions(t)
	r := rand.New(rand.NewPCG(1, 2))
	matched := 0
	check := func(s string, rules map[int32]*regexp.Regexp) {
		find.find(s, hits)
		for i, re := range rules {
			if !re.MatchString(s) {
				continue
			}
			matched++
			if !has(hits, int(i), s) {
				t.Fatalf("%q matches %s, which is said to need %+v", s, re, sharedEngine().skip.rules[i].needs)
			}
		}
	}
	for i, re := range list {
		tree, err := syntax.Parse(re.String(), syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		for range 60 {
			w := writer{Rand: r}
			w.write(tree)
			check(w.b.String(), map[int32]*regexp.Regexp{i: re})
			check(mutate(r, w.b.String()), map[int32]*regexp.Regexp{i: re})
		}
	}
	if matched < len(list)*20 {
		t.Fatalf("only %d strings matched %d expressions", matched, len(list))
	}
}

// FuzzNeeds is the same with any expression.
func FuzzNeeds(f *testing.F) {
	for _, s := range []string{"(?i)k[as]t", "a(?:b|cd)?e+", "[^a-z]x{2,3}", "é|\\bfoo", "(?i)(?:union|select)\\s+\\w", "ſ", "(?i)ſ|\u212a", "^$|a", "[\\x80-\\xff]b", "(?i)\u0130x", "(a|)b"} {
		f.Add(s, "kat sT union select 1", uint64(7))
	}
	f.Fuzz(func(t *testing.T, expr, value string, seed uint64) {
		re, err := regexp.Compile("(?sm)" + expr)
		if err != nil || len(expr) > 200 {
			return
		}
		needs := rxNeeds(expr)
		find, hits := newNeedFinder([]skipRule{{needs: needs}}, 1), newHits(1)
		tree, err := syntax.Parse("(?sm)"+expr, syntax.Perl)
		if err != nil {
			return
		}
		w := writer{Rand: rand.New(rand.NewPCG(seed, 1))}
		w.write(tree)
		for _, s := range []string{value, w.b.String(), mutate(w.Rand, w.b.String())} {
			find.find(s, hits)
			if re.MatchString(s) && !has(hits, 0, s) {
				t.Fatalf("%q matches %q, which is said to need %+v", s, expr, needs)
			}
		}
	})
}

// seen is what the operator of the next test was given.
var seen []string

type seeOperator struct{}

func (seeOperator) Evaluate(_ plugintypes.TransactionState, s string) bool {
	seen = append(seen, s)
	return false
}

// transformer is an engine that shows what its transformations do, by the number of a rule.
func transformer(chains []string) coraza.WAF {
	plugins.RegisterOperator("whygateSee", func(plugintypes.OperatorOptions) (plugintypes.Operator, error) { return seeOperator{}, nil })
	var b strings.Builder
	for i, c := range chains {
		fmt.Fprintf(&b, "SecRule REQUEST_HEADERS:x \"@whygateSee\" \"id:%d,phase:1,pass,nolog,t:none", i+1)
		for name := range strings.SplitSeq(c, ",") {
			if name != "" {
				fmt.Fprintf(&b, ",t:%s", name)
			}
		}
		b.WriteString("\"\n")
	}
	waf, err := coraza.NewWAF(coraza.NewWAFConfig().WithDirectives(b.String()))
	if err != nil {
		panic(err)
	}
	return waf
}

func chainNames(x *skipIndex) []string {
	names := make([]string, len(x.chains))
	for name, i := range x.chainOf {
		names[i] = name
	}
	return names
}

func folded(s string) string {
	b := []byte(s)
	for i := range b {
		if b[i] < 0x80 {
			b[i] = foldByte[b[i]]
		}
	}
	return string(b)
}

// compareChanges holds what is foreseen for a value against what the library does with it. It returns how many
// results were known.
func compareChanges(t *testing.T, x *skipIndex, waf coraza.WAF, names []string, value string) (known int) {
	tx := waf.NewTransaction()
	defer tx.Close()
	seen = seen[:0]
	tx.AddRequestHeader("x", value)
	tx.ProcessRequestHeaders()
	if len(seen) != len(names) {
		t.Fatalf("%d rules ran, not %d", len(seen), len(names))
	}
	var v variants
	v.set(value, len(x.steps))
	for i, name := range names {
		at := v.after(x.chains[i], len(x.steps))
		if at == unknownVariant {
			continue
		}
		known++
		if got := v.list[at].text; folded(got) != folded(seen[i]) {
			t.Fatalf("%q becomes %q in %s, not %q", value, seen[i], name, got)
		}
	}
	return known
}

// TestWAFChanges: what is foreseen of transformations is what the library does.
func TestWAFChanges(t *testing.T) {
	x := newSkipIndex()
	for name := range changes {
		x.chainsOf("t:" + name)
	}
	for name := range sharedEngine().skip.chainOf {
		x.chainsOf("t:" + strings.Join(strings.Split(name, ","), ",t:"))
	}
	delete(x.chainOf, "")
	names := chainNames(x)
	for i, n := range names {
		if n == "" {
			names[i] = "none"
		}
	}
	waf := transformer(names)
	pieces := []string{"a", "B", "teapot", "7", " ", "  ", "\t", "\v", "\n", "%41", "%", "%2", "%zz", "%u0041", "+", "&lt;", "&", "\\", "\\x41", "\x00", "é", "ſ", "\u212a", "İ", "\u00a0", "\u0085", "\xa0", "\xff",
		"/", "//", "/./", "/../", "..", ".", "/*", "*/", "--", "#", ":", "'", "\"", "^", "(", ",", ";", "<!--", "-->", "=", "%C5%BF"}
	r := rand.New(rand.NewPCG(3, 4))
	known := 0
	for range 4000 {
		var b strings.Builder
		for range r.IntN(6) {
			b.WriteString(pieces[r.IntN(len(pieces))])
		}
		known += compareChanges(t, x, waf, names, b.String())
	}
	if known < 4000*len(names)/4 {
		t.Fatalf("only %d of %d results were known", known, 4000*len(names))
	}
	if n := compareChanges(t, x, waf, names, "teapot-12_b"); n != len(names) {
		t.Errorf("%d of %d chains are known for a word", n, len(names))
	}
}

// recordedAttacks are what the regression tests of the rule set send.
func recordedAttacks(t *testing.T, each int) (list []string) {
	n := 0
	err := fs.WalkDir(crstests.FS, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(name) != ".yaml" {
			return err
		}
		data, err := fs.ReadFile(crstests.FS, name)
		if err != nil {
			return err
		}
		var file struct {
			Tests []struct {
				Stages []struct {
					Input struct {
						URI     string            `yaml:"uri"`
						Data    string            `yaml:"data"`
						Headers map[string]string `yaml:"headers"`
					} `yaml:"input"`
				} `yaml:"stages"`
			} `yaml:"tests"`
		}
		if yaml.Unmarshal(data, &file) != nil {
			return nil // headers in another form
		}
		for _, test := range file.Tests {
			for _, s := range test.Stages {
				if n++; n%each == 0 {
					list = append(list, s.Input.URI, s.Input.Data, s.Input.Headers["Cookie"], s.Input.Headers["User-Agent"], s.Input.Headers["Referer"])
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	list = slices.DeleteFunc(list, func(s string) bool { return s == "" || len(s) > 4000 })
	slices.Sort(list)
	return slices.Compact(list)
}

// wafCall is a call that both engines are given.
type wafCall struct {
	target, method, contentType, body string
	headers                           [][2]string
	paranoia                          int
}

// matchesOf is all that the rules found, in words.
func (c *wafCall) matchesOf(waf coraza.WAF) (list []string) {
	tx := waf.NewTransactionWithID("whygate").(wafTransaction)
	defer tx.Close()
	for _, name := range []string{"blocking_paranoia_level", "detection_paranoia_level"} {
		tx.Variables().TX().Set(name, []string{strconv.Itoa(c.paranoia)})
	}
	tx.ProcessConnection("192.0.2.1", 0, "", 0)
	tx.ProcessURI(c.target, c.method, "HTTP/1.1")
	tx.AddRequestHeader("Host", "shop.example")
	for _, h := range c.headers {
		tx.AddRequestHeader(h[0], h[1])
	}
	if c.contentType != "" {
		tx.AddRequestHeader("Content-Type", c.contentType)
		tx.AddRequestHeader("Content-Length", strconv.Itoa(len(c.body)))
	}
	tx.ProcessRequestHeaders()
	if c.body != "" && tx.Interruption() == nil {
		tx.WriteRequestBody([]byte(c.body))
	}
	if tx.Interruption() == nil {
		tx.ProcessRequestBody()
	}
	for _, m := range tx.MatchedRules() {
		for _, d := range m.MatchedDatas() {
			list = append(list, fmt.Sprintf("%d %s %q %q", m.Rule().ID(), d.Variable().Name(), d.Key(), d.Value()))
		}
	}
	slices.Sort(list) // the library has no order of parameters, which messages show too
	score := tx.Variables().TX().Get("blocking_inbound_anomaly_score")
	return append(list, fmt.Sprint(score, tx.Interruption()))
}

// callsWith puts a value into all places of a call.
func callsWith(r *rand.Rand, value string) []wafCall {
	clean := strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return -1
		}
		return c
	}, value)
	quoted := jsonString(value)
	calls := []wafCall{
		{target: "/orders?q=" + url.QueryEscape(value) + "&page=2", method: "GET", headers: [][2]string{{"User-Agent", "Mozilla/5.0"}, {"Accept", "*/*"}}},
		{target: "/orders", method: "POST", contentType: "application/json", body: `{"name":"teapot, blue","note":` + quoted + `,"items":[{"n":1},{"n":2}]}`},
		{target: "/orders", method: "POST", contentType: "application/x-www-form-urlencoded", body: "a=1&b=" + url.QueryEscape(value)},
		{target: "/orders", method: "POST", contentType: "application/xml", body: "<a><b c='d'>" + strings.NewReplacer("<", "&lt;", "&", "&amp;").Replace(clean) + "</b></a>"},
		{target: "/orders", method: "GET", headers: [][2]string{{"User-Agent", clean}, {"Referer", clean}, {"Cookie", "a=" + clean}}},
		{target: clean, method: "GET", headers: [][2]string{{"User-Agent", "curl/8"}}},
		{target: "/orders?" + clean + "=1", method: "POST", contentType: "text/plain", body: value},
		{target: "/upload", method: "POST", contentType: "multipart/form-data; boundary=xx", body: "--xx\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n" + value + "\r\n--xx--\r\n"},
	}
	i := r.IntN(len(calls))
	c := []wafCall{calls[i], calls[(i+1+r.IntN(len(calls)-1))%len(calls)]}
	for k := range c {
		c[k].paranoia = 1 + r.IntN(4)
	}
	return c
}

func jsonString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c < ' ':
			fmt.Fprintf(&b, `\u%04x`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// TestWAFSkips: what is left out of the rules changes nothing that they find.
func TestWAFSkips(t *testing.T) {
	t.Parallel()
	each := 40
	if os.Getenv("WHYGATE_CRS") != "" {
		each = 1
	}
	r := rand.New(rand.NewPCG(5, 6))
	found, calls := 0, 0
	for _, value := range recordedAttacks(t, each) {
		for _, v := range []string{value, mutate(r, value)} {
			for _, c := range callsWith(r, v) {
				want := c.matchesOf(plainEngine())
				got := c.matchesOf(sharedEngine().waf)
				for range 30 { // the library takes parameters in any order, which a few rules depend on
					if slices.Equal(got, want) {
						break
					}
					want = c.matchesOf(plainEngine())
				}
				if !slices.Equal(got, want) {
					t.Fatalf("%+v: the rules find\n%s\nand when some are left out\n%s", c, strings.Join(want, "\n"), strings.Join(got, "\n"))
				}
				calls++
				if !strings.HasPrefix(want[len(want)-1], "[0]") {
					found++
				}
			}
		}
	}
	if found < calls/4 {
		t.Fatalf("rules found something in %d of %d calls only", found, calls)
	}
	t.Logf("%d calls, %d of them with findings", calls, found)
}
