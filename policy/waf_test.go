package policy

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// wafCall is a call as a browser makes it, with a body of a type, if it has one.
func (b *testbed) wafCall(line, kind, body string, more ...string) *Exchange {
	b.t.Helper()
	head := []string{line, "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Accept: */*"}
	if body != "" {
		head = append(head, fmt.Sprint("Content-Length: ", len(body)))
	}
	if kind != "" {
		head = append(head, "Content-Type: "+kind)
	}
	x := b.call(append(head, more...)...)
	x.Content = wafContent(body)
	return x
}

const (
	sqli = "1' OR '1'='1"
	xss  = "<script>alert(1)</script>"
	form = "application/x-www-form-urlencoded"
)

// attacks are calls with an attack, and where it is.
var attacks = []struct{ line, kind, body, header, place string }{
	{"GET /a?q=1'+OR+'1'='1", "", "", "", "query parameter q"},
	{"POST /a", form, "name=x&note=" + sqli, "", "form field note"},
	{"POST /a?note=harmless", "application/json", `{"items":[{"note":"x"},{"note":"` + xss + `"}]}`, "", "JSON body at /items/1/note"},
	{"POST /a", "application/merge-patch+json", `{"a.b":{"c/d~e":"` + sqli + `"}}`, "", "JSON body at /a.b/c~1d~0e"},
	{"POST /a", "application/json", `["` + sqli + `"]`, "", "JSON body at /0"},
	{"POST /a", "application/xml", `<order><note>` + sqli + `</note></order>`, "", "XML body"},
	{"POST /a", "multipart/form-data; boundary=bbb", "--bbb\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\n" + sqli + "\r\n--bbb--\r\n", "", "form field note"},
	{"GET /a", "", "", "Cookie: basket=" + sqli, "cookie basket"},
	{"GET /a", "", "", "Referer: " + xss, "header Referer"},
	{"GET /a?" + "%3Cscript%3Ealert(1)=1", "", "", "", "name of parameter <script>alert(1)"},
	{"GET /a/.git/config", "", "", "", "path"},
	{"POST /a", "text/html", "x", "", "header Content-Type"},
	{"GET /a", "", "", "Proxy: evil", "in name of header Proxy looks"},
}

func TestWAFPlaces(t *testing.T) {
	b := newTestbed(t)
	check := b.waf("{}")
	for _, a := range attacks {
		var more []string
		if a.header != "" {
			more = append(more, a.header)
		}
		v := check.Check(b.wafCall(a.line, a.kind, a.body, more...))
		wants(t, v, "waf.blocked", a.place)
		if _, ok := v.Facts.Find("places", reason.ToAnyone); ok {
			t.Errorf("%s: strangers are told the place", a.line)
		}
		caller := fmt.Sprintf("%+v", v.Tell(reason.ToCaller))
		if strings.Contains(caller, "OR '1'") || strings.Contains(caller, "alert") && !strings.HasPrefix(a.place, "name") || strings.Contains(caller, "score") && !strings.Contains(caller, "less than") {
			t.Errorf("%s: the caller is told more than the place: %s", a.line, caller)
		}
	}
	for _, c := range []struct{ line, kind, body string }{
		{"GET /a?q=teapot&page=2", "", ""},
		{"POST /a", form, "name=Jane+Doe&note=two+cups%2C+please"},
		{"POST /a", "application/json", jsonOrder(400)},
		{"PUT /a", "application/json", "null"},
		{"DELETE /a/17", "", ""},
	} {
		x := b.wafCall(c.line, c.kind, c.body, "Expect: 100-continue")
		wants(t, check.Check(x), "")
		x.Explaining = true
		if v := check.Check(x); v.Refused() || len(v.Facts) == 0 {
			t.Errorf("%s: an explanation says %+v", c.line, v)
		}
	}
}

// TestWAFSuggestion: the exclusion that a refusal proposes lets the call pass, and what is computed from the
// record is what the rules find.
func TestWAFSuggestion(t *testing.T) {
	b := newTestbed(t)
	refuses := b.waf("{paranoia: 2}")
	lenient := "{paranoia: 2, threshold: 1, exclusions: [%s]}"
	for _, a := range attacks {
		var more []string
		if a.header != "" {
			more = append(more, a.header)
		}
		x := b.wafCall(a.line, a.kind, a.body, more...)
		v := refuses.Check(x)
		if !v.Refused() {
			t.Errorf("%s passes", a.line)
			continue
		}
		fact, _ := v.Facts.Find("exclusion", reason.ToOwner)
		exclusions, _ := fact.Value.(string)
		if exclusions == "" {
			t.Errorf("%s: no exclusion is proposed: %v", a.line, v.Facts)
			continue
		}
		wants(t, b.waf("paranoia: 2\n"+exclusions).Check(x), "")

		f, _ := v.Facts.Find("matches", reason.ToOwner)
		var matches []WAFMatch
		for _, line := range f.Value.([]string) {
			m, ok := ParseWAFMatch(line)
			if !ok {
				t.Fatalf("%q cannot be read", line)
			}
			matches = append(matches, m)
		}
		score, _ := v.Facts.Find("score", reason.ToOwner)
		set := SuggestWAF(matches, int(score.Value.(int64)), 5, "list")
		left := RemainingWAF(matches, int(score.Value.(int64)), "list", set)
		var list []string
		for i := range set {
			list = append(list, set[i].YAML())
		}
		real := 0
		if v := b.waf(fmt.Sprintf(lenient, strings.Join(list, ", "))).Check(x); v.Refused() {
			f, _ := v.Facts.Find("score", reason.ToOwner)
			real = int(f.Value.(int64))
		}
		if left != real {
			t.Errorf("%s: the record says that %d is left with %v, the rules say %d", a.line, left, list, real)
		}
	}
}

func TestWAFExclusions(t *testing.T) {
	b := newTestbed(t)
	b.route.Name = "search"
	attack := func(name string) *Exchange { return b.wafCall("GET /search?"+name+"=1'+OR+'1'='1", "", "") }
	inJSON := func(body string) *Exchange { return b.wafCall("POST /search", "application/json", body) }
	for _, c := range []struct {
		exclusion string
		x         *Exchange
		passes    bool
	}{
		{"{rules: [942100]}", attack("q"), true},
		{"{rules: [942100], parameter: q}", attack("q"), true},
		{"{rules: [942100], parameter: Q}", attack("q"), true},
		{"{rules: [942100], parameter: q}", attack("name"), false},
		{"{rules: [942101], parameter: q}", attack("q"), false},
		{"{tags: [attack-sqli], parameter: q}", attack("q"), true},
		{"{tags: [attack-xss], parameter: q}", attack("q"), false},
		{"{parameter: q}", attack("q"), true},
		{"{parameter: q}", attack("p"), false},
		{"{rules: [942100], variable: ARGS}", attack("p"), true},
		{"{rules: [942100], variable: 'ARGS:p'}", attack("p"), true},
		{"{rules: [942100], route: search, parameter: q}", attack("q"), true},
		{"{rules: [942100], route: other, parameter: q}", attack("q"), false},
		{"{rules: [942100], path: /search}", attack("q"), true},
		{"{rules: [942100], path: /search/**}", attack("q"), false},
		{"{rules: [942100], parameter: /a/*/b}", inJSON(`{"a":[{"b":"x"},{"b":"` + sqli + `"}]}`), true},
		{"{rules: [942100], parameter: /a/0/b}", inJSON(`{"a":[{"b":"x"},{"b":"` + sqli + `"}]}`), false},
		{"{rules: [942100], parameter: /a/*/b}", inJSON(`{"a":[{"b":"x","c":"` + sqli + `"}]}`), false},
		{"{rules: [942100], parameter: /a/*}", inJSON(`{"a":[{"b":"` + sqli + `"}]}`), false},
		{"{variable: XML}", b.wafCall("POST /a", "application/xml", "<a>"+sqli+"</a>"), true},
		{"{variable: REQUEST_XML}", b.wafCall("POST /a", "application/xml", "<a>"+sqli+"</a>"), true},
		{"{rules: [942100], variable: 'REQUEST_COOKIES:basket'}", b.wafCall("GET /a", "", "", "Cookie: basket="+sqli), true},
		{"{rules: [942100], variable: 'REQUEST_COOKIES:other'}", b.wafCall("GET /a", "", "", "Cookie: basket="+sqli), false},
	} {
		check := b.waf("exclusions: [" + c.exclusion + "]")
		code := "waf.blocked"
		if c.passes {
			code = ""
		}
		t.Run(c.exclusion, func(t *testing.T) { wants(t, check.Check(c.x), code) })
	}
}

func TestMatchesPath(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"/a", "/a", true}, {"/a", "/a/b", false}, {"/a/*/c", "/a/b/c", true}, {"/a/*/c", "/a/b/d/c", false},
		{"/a/**", "/a/b/c", true}, {"/a/**", "/a/", true}, {"/a/**", "/ab", false}, {"/a/**", "/a", false}, {"/*/b/**", "/x/b/c", true}, {"/**", "/", true}, {"/**", "/a/b", true},
		{"/a*/**", "/ab/c", true}, {"/a*/**", "/b/c", false},
	} {
		if got := matchesPath(c.pattern, c.path); got != c.want {
			t.Errorf("%s of %s: %v", c.path, c.pattern, got)
		}
	}
}

// keeper is Env.Keep of one revision.
type keeper map[string]Kept

func (k keeper) keep(name string, create func() Kept) Kept {
	if k[name] == nil {
		k[name] = create()
	}
	return k[name]
}

// compileKept is compile with things that are kept.
func (b *testbed) compileKept(k keeper, config string) (*wafCheck, resource.Problems) {
	b.t.Helper()
	node, problems := resource.ParseNode(resource.File{Name: "test.yaml", Data: []byte(config)})
	p := new(WAF)
	resource.Decode(node, p, &problems)
	made := p.Compile(&Env{Node: node, Name: "waf", Problems: &problems, Route: &b.route, Keep: k.keep})
	if both, ok := made.(*wafBoth); ok {
		return both.wafCheck, problems
	}
	return made.(*wafCheck), problems
}

// engines are compiled once for all tests.
var engines = keeper{}

func (b *testbed) waf(config string) Check {
	b.t.Helper()
	c, problems := b.compileKept(engines, config)
	if problems.HasErrors() {
		b.t.Fatal(problems)
	}
	return c
}

// TestWAFShared: routes share compiled rules whatever their settings are, and their exclusions stay apart, also while
// calls of both are made at once.
func TestWAFShared(t *testing.T) {
	b := newTestbed(t)
	kept := keeper{}
	strict, _ := b.compileKept(kept, "{paranoia: 1}")
	loose, ps := b.compileKept(kept, "{paranoia: 1, threshold: 9, maxBody: 1MiB, exclusions: [{rules: [942100], parameter: q}, {rules: [942100], parameter: r}]}")
	if ps.HasErrors() || len(kept) != 1 || strict.engine != loose.engine {
		t.Fatalf("two settings have %d engines: %v", len(kept), ps)
	}
	file := filepath.Join(t.TempDir(), "own.conf")
	if err := os.WriteFile(file, []byte("SecRuleRemoveById 942100\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	own, ps := b.compileKept(kept, "{directives: "+file+"}")
	if ps.HasErrors() || len(kept) != 2 || own.engine == strict.engine {
		t.Fatalf("with directives there are %d engines: %v", len(kept), ps)
	}
	wants(t, own.Check(b.wafCall("GET /a?q=1'+OR+'1'='1", "", "")), "")
	var wg sync.WaitGroup
	for _, c := range []struct {
		check *wafCheck
		want  bool
	}{{strict, true}, {loose, false}, {strict, true}, {loose, false}} {
		x := b.wafCall("GET /a?q=1'+OR+'1'='1", "", "")
		wg.Go(func() {
			for range 20 {
				if v := c.check.Check(x); v.Refused() != c.want {
					t.Errorf("refused %v, want %v", v.Refused(), c.want)
				}
			}
		})
	}
	wg.Wait()
}

// TestWAFSplits: rules with exceptions of their own are excluded whole, or not at all: to take a target out of
// them for one call would write into memory that calls share.
func TestWAFSplits(t *testing.T) {
	b := newTestbed(t)
	_, problems := b.compileKept(engines, "exclusions: [{rules: [920274], variable: 'REQUEST_HEADERS:X-Trace'}]")
	if !problems.HasErrors() || !strings.Contains(problems[0].Message, "rule 920274 can only be excluded as a whole") {
		t.Errorf("%v", problems)
	}
	b.waf("exclusions: [{rules: [920274]}]")
	file := filepath.Join(t.TempDir(), "own.conf")
	if err := os.WriteFile(file, []byte("SecRuleUpdateTargetById 942100-942110 \"!ARGS:a\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, problems = b.compileKept(engines, "{directives: "+file+", exclusions: [{rules: [942100], parameter: q}]}")
	if !problems.HasErrors() {
		t.Error("a target is taken out of a rule that directives gave exceptions")
	}
	for _, c := range []struct {
		targets string
		want    int
	}{{"ARGS|!ARGS:a|!ARGS:b|REQUEST_COOKIES|!REQUEST_COOKIES:c", 2}, {"ARGS", 0}, {"!ARGS:a|ARGS", 1}} {
		if got := mostExceptions(c.targets); got != c.want {
			t.Errorf("%s has %d exceptions, want %d", c.targets, got, c.want)
		}
	}
}

func zipped(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(text))
	w.Close()
	return b.String()
}

// TestWAFUnreadable: what cannot be parsed is not let pass unseen, and what is hostile is bounded.
func TestWAFUnreadable(t *testing.T) {
	b := newTestbed(t)
	check := b.waf("exclusions: [{rules: [920450]}]") // which refuses any Content-Encoding
	object := func(n int) string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf(`"k%d":%d`, i, i)
		}
		return "{" + strings.Join(list, ",") + "}"
	}
	for _, c := range []struct{ name, kind, body, coding, code, says string }{
		{"cut JSON", "application/json", `{"a":`, "", "waf.body-unreadable", "JSON: invalid JSON"},
		{"64 levels", "application/json", strings.Repeat("[", 63) + strings.Repeat("]", 63), "", "", ""},
		{"65 levels", "application/json", strings.Repeat("[", 65) + strings.Repeat("]", 65), "", "waf.body-unreadable", "max recursion"},
		{"100,000 levels", "application/json", strings.Repeat("[", 100_000), "", "waf.body-unreadable", "max recursion"},
		{"999 members", "application/json", object(999), "", "", ""},
		{"1,100 members", "application/json", object(1100), "", "waf.body-unreadable", "more than 1000 parameters"},
		{"1,100 fields", form, strings.Repeat("a=1&", 1100), "", "waf.body-unreadable", "more than 1000 parameters"},
		{"long value", form, "a=" + strings.Repeat("x", 100_000), "", "", ""},
		{"multipart without parts", "multipart/form-data; boundary=b", "nothing", "", "waf.body-unreadable", "MULTIPART"},
		{"multipart without boundary", "multipart/form-data", "nothing", "", "waf.body-unreadable", "MULTIPART"},
		{"gzip", "application/json", zipped(`{"a":"b"}`), "gzip", "", ""},
		{"attack in gzip", "application/json", zipped(`{"a":"` + sqli + `"}`), "gzip", "waf.blocked", "JSON body at /a"},
		{"no gzip", "application/json", `{"a":"b"}`, "gzip", "waf.body-unreadable", "gzip does not hold"},
		{"cut gzip", "application/json", zipped(`{"a":"b"}`)[:20], "gzip", "waf.body-unreadable", "gzip does not hold"},
		{"bomb", "application/json", zipped(strings.Repeat(" ", 50<<20)), "gzip", "waf.body-unreadable", "larger than 128 KiB"},
		{"brotli", "application/json", "x", "br", "waf.body-unreadable", "br is not one of gzip and deflate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var more []string
			if c.coding != "" {
				more = append(more, "Content-Encoding: "+c.coding)
			}
			wants(t, check.Check(b.wafCall("POST /a", c.kind, c.body, more...)), c.code, c.says)
		})
	}
	// A query alone can be too much as well.
	wants(t, check.Check(b.wafCall("GET /a?"+strings.Repeat("a&", 1100), "", "")), "waf.body-unreadable", "more than 1000 parameters")
}

// TestWAFReduced: a JSON body is judged as if all of it had been looked at.
func TestWAFReduced(t *testing.T) {
	b := newTestbed(t)
	list := func(n int, more string) string {
		return `{"items":[` + strings.Repeat(`{"name":"teapot","size":3,"tags":["blue","round"]},`, n) + more + `],"note":"all of it"}`
	}
	plain, ok := reduceJSON(list(40, `{"name":"cup","size":3}`))
	if want := `{"items":[{"name":"teapot","size":3,"tags":["blue","round"]},{"name":"cup"}],"note":"all of it"}`; !ok || plain != want {
		t.Errorf("reduced to %s", plain)
	}
	for _, body := range []string{
		list(5, "{}"),                         // short
		list(40, `{"name":"cup","name":"x"}`), // two values of one name, which rules count
		list(40, `{"a":{"b":1},"a.b":2}`), list(40, `{"A":1,"a":1}`),
		list(40, strings.Repeat("[", 64)+strings.Repeat("]", 64)),
		list(400, "{}"), // too many
		list(40, `{"name":}`), `"` + strings.Repeat("x", 1000) + `"`,
	} {
		if short, ok := reduceJSON(body); ok {
			t.Errorf("%.60s… is reduced to %s", body, short)
		}
	}
	full := *b.waf("{paranoia: 4, threshold: 1}").(*wafCheck)
	reduced := full
	full.reduces = false
	outcome := func(c *wafCheck, body string) string {
		v := c.Check(b.wafCall("POST /a", "application/json; charset=utf-8", body, "Accept-Language: en", "Accept-Encoding: gzip"))
		if !v.Refused() {
			return "passes"
		}
		return fmt.Sprintf("%s %+v", v.Reason.Code, v.Tell(reason.ToOperator).Facts["matches"])
	}
	for _, more := range []string{`{"name":"` + sqli + `"}`, `{"name":"teapot","size":"` + xss + `"}`, `{"` + xss + `":"teapot"}`, `{"tags":["` + sqli + `"]},{"tags":["` + sqli + `"]}`, `"teapot"`, `null`,
		`{"name":{"name":"` + sqli + `"}}`, `{"size":2147483648}`, `{"name":"teapot' or 'a'='a"}`, `"\u003cscript\u003e"`} {
		if a, b := outcome(&full, list(40, more)), outcome(&reduced, list(40, more)); a != b {
			t.Errorf("%s: %s in full, %s reduced", more, a, b)
		}
	}
	if got := outcome(&reduced, list(40, `{"name":"cup"}`)); !strings.Contains(got, "passes") && outcome(&full, list(40, `{"name":"cup"}`)) != got {
		t.Errorf("a list of teapots: %s", got)
	}
	for config, want := range map[string]bool{"{}": true, "exclusions: [{parameter: /a/*/b}]": true, "exclusions: [{parameter: /a/0/b}]": false, "exclusions: [{variable: 'ARGS:json.1'}]": false} {
		if c := b.waf(config).(*wafCheck); c.reduces != want {
			t.Errorf("%s: reduces %v", config, c.reduces)
		}
	}
}

// FuzzReduceJSON: nothing is lost but repetitions, and nothing is made up.
func FuzzReduceJSON(f *testing.F) {
	f.Add(`{"a":[` + strings.Repeat(`{"b":"c","d":[1,2,{}]},`, 40) + `null]}`)
	f.Add(strings.Repeat(" ", 600) + `[1,1,1,1,1,1]`)
	f.Fuzz(func(t *testing.T, body string) {
		short, ok := reduceJSON(body)
		if !ok {
			return
		}
		if len(short) > len(body) || !gjson.Valid(short) {
			t.Fatalf("%q became %q", body, short)
		}
		values := func(s string) map[string]bool {
			set := map[string]bool{}
			var walk func(v gjson.Result, place string)
			walk = func(v gjson.Result, place string) {
				if v.Type != gjson.JSON {
					set[place+"="+v.Raw] = true
					return
				}
				array := v.IsArray()
				v.ForEach(func(k, v gjson.Result) bool {
					if array {
						walk(v, place+"/*")
					} else {
						walk(v, place+"/"+strconv.Quote(k.Str))
					}
					return true
				})
			}
			walk(gjson.Parse(s), "")
			return set
		}
		if d := cmp.Diff(values(body), values(short)); d != "" {
			t.Error(d)
		}
	})
}

// limited is content that is too large.
type limited struct{}

func (limited) Known() bool { return true }
func (limited) Body(int64) ([]byte, reason.Verdict) {
	return nil, bodyTooLarge.Refuse(reason.Public("size", reason.Bytes(9)), reason.Public("over", reason.Bytes(1)), reason.Public("limit", reason.Bytes(8)))
}

func TestWAFBodies(t *testing.T) {
	b := newTestbed(t)
	large := func() *Exchange {
		x := b.wafCall("POST /a", "application/json", `{"a":"`+sqli+`"}`)
		x.BodySize, x.Content = 1<<20, limited{}
		return x
	}
	wants(t, b.waf("{}").Check(large()), "size.body")
	wants(t, b.waf("{larger: head}").Check(large()), "")
	attack := b.wafCall("POST /a", "application/json", `{"a":"`+sqli+`"}`)
	skips := b.waf("{bodies: skip}")
	wants(t, skips.Check(attack), "")
	if skips.(BodyReader).ReadsBody() || !b.waf("{}").(BodyReader).ReadsBody() {
		t.Error("bodies: skip says that it reads bodies, or inspect that it does not")
	}
	wants(t, skips.Check(b.wafCall("POST /a?q=1'+OR+'1'='1", "application/json", "{}")), "waf.blocked", "query parameter q")
	// What a socket carries after an upgrade is no body.
	up := b.wafCall("GET /a", "", "")
	up.Upgrade, up.Content = "websocket", limited{}
	wants(t, b.waf("{}").Check(up), "")
}

func TestWAFMethodsAndTypes(t *testing.T) {
	b := newTestbed(t)
	wants(t, b.waf("{methods: [GET]}").Check(b.wafCall("PUT /a", "application/json", "{}")), "waf.blocked", "at method")
	b.route.Methods = []string{"GET", "PURGE"}
	wants(t, b.waf("{}").Check(b.wafCall("PURGE /a", "", "")), "")
	b.route.Methods = nil
	wants(t, b.waf("{}").Check(b.wafCall("POST /a", "text/csv", "a;b")), "waf.blocked", "header Content-Type")
	wants(t, b.waf("{contentTypes: [text/csv]}").Check(b.wafCall("POST /a", "text/csv", "a;b")), "")
}

// TestWAFDenies: a rule of the directives may refuse by itself.
func TestWAFDenies(t *testing.T) {
	b := newTestbed(t)
	file := filepath.Join(t.TempDir(), "own.conf")
	if err := os.WriteFile(file, []byte("SecRule ARGS:coupon \"@rx ^FREE\" \\\n  \"id:1001,phase:2,deny,msg:'No free lunch'\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	check := b.waf("{directives: " + file + "}")
	wants(t, check.Check(b.wafCall("GET /a?coupon=FREE4ALL", "", "")), "waf.blocked", "rule 1001 (No free lunch, by itself)", "query parameter coupon", "that rule 1001 does not refuse")
	wants(t, check.Check(b.wafCall("GET /a?coupon=HALF", "", "")), "")
}

func TestWAFSecrets(t *testing.T) {
	b := newTestbed(t)
	check := b.waf("{paranoia: 4}")
	for _, x := range []*Exchange{
		b.wafCall("POST /a", form, "password="+sqli), b.wafCall("POST /a", "application/json", `{"user":{"api_key":"`+sqli+`"}}`),
		b.wafCall("GET /a", "", "", "Cookie: sid="+sqli), b.wafCall("GET /a", "", "", "Authorization: Basic "+sqli),
	} {
		v := check.Check(x)
		if text := fmt.Sprintf("%+v", v.Tell(reason.ToOperator)); !v.Refused() || strings.Contains(text, "OR '1'") {
			t.Errorf("%s: %s", x.Target, text)
		}
	}
	// What is told is bounded.
	v := check.Check(b.wafCall("POST /a", form, "note="+strings.Repeat(sqli+" union select ", 1000)))
	why, _ := v.Facts.Find("why", reason.ToOwner)
	if n := len(why.Text()); n == 0 || n > maxRulesTold*400 {
		t.Errorf("%d bytes tell why", n)
	}
	many := make([]string, 300)
	for i := range many {
		many[i] = fmt.Sprintf("a%d=%s", i, sqli)
	}
	v = check.Check(b.wafCall("POST /a", form, strings.Join(many, "&")))
	f, _ := v.Facts.Find("matches", reason.ToOwner)
	more, ok := v.Facts.Find("more", reason.ToOwner)
	if lines, _ := f.Value.([]string); len(lines) != maxMatches || !ok || more.Value.(int64) < 100 {
		t.Errorf("%d matches are told, and %v more", len(lines), more.Value)
	}
}

func TestDirectives(t *testing.T) {
	list, bad := splitDirectives([]byte("# c\n\nSecRule A \\\n  B\nSecMarker x\nSecDataset d `\na\n\nb\n`\n"))
	if bad != nil {
		t.Fatal(bad)
	}
	want := []directive{{3, "SecRule", "SecRule A  B"}, {5, "SecMarker", "SecMarker x"}, {6, "SecDataset", "SecDataset d `\na\nb\n`"}}
	if d := cmp.Diff(want, list, cmp.AllowUnexported(directive{})); d != "" {
		t.Error(d)
	}
	for _, c := range []struct {
		text string
		line int
		says string
	}{
		{"SecMarker a\nSecRule X \\\n", 2, "does not end"}, {"SecDataset d `\na", 1, "does not end"}, {"\nallow all", 2, `"allow" is no directive`},
		{"SecAuditLog /tmp/x", 1, "not for this file"}, {"Include /etc/passwd", 1, "not for this file"}, {"secruleengine off", 1, "not for this file"},
		{"SecMarker " + strings.Repeat("x", maxDirectiveBytes), 1, "more than 32768 bytes"}, {strings.Repeat("SecMarker a\n", maxDirectives+1), maxDirectives + 1, "more than 4096 directives"},
	} {
		if _, bad := splitDirectives([]byte(c.text)); bad == nil || bad.line != c.line || !strings.Contains(bad.text, c.says) {
			t.Errorf("%.40q: %+v", c.text, bad)
		}
	}
}

func FuzzDirectives(f *testing.F) {
	f.Add([]byte("SecRule A \\\n  B\n# c\nSecDataset d `\na\n`\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, bad := splitDirectives(data)
		lines := bytes.Count(data, []byte("\n")) + 1
		if bad != nil && (bad.line < 1 || bad.line > lines) {
			t.Errorf("line %d of %d", bad.line, lines)
		}
		last := 0
		for _, d := range list {
			if d.line <= last || d.line > lines || d.name == "" {
				t.Errorf("a directive at line %d after one at line %d", d.line, last)
			}
			last = d.line
		}
	})
}

func FuzzWAFMatch(f *testing.F) {
	f.Add(942100, "ARGS_GET", "q", "", "SQL: injection")
	f.Add(942100, "ARGS_POST", "a b\"c", "/a b/0", "")
	f.Fuzz(func(t *testing.T, rule int, variable, key, pointer, message string) {
		m := WAFMatch{Rule: rule&0xffffff + 1, Severity: "critical", Score: 5, Variable: "ARGS_GET", Key: key, Message: message}
		if pointer != "" {
			m.Variable, m.Key, m.Pointer = "ARGS_POST", "", pointer
		}
		back, ok := ParseWAFMatch(m.String())
		if !ok || strings.ToValidUTF8(m.target(), "") == m.target() && back != m {
			t.Errorf("%q is read as %+v, %v", m.String(), back, ok)
		}
		ParseWAFMatch(message) // anything may stand in a record
	})
}

func FuzzJSONPointer(f *testing.F) {
	f.Add(`{"a":[{"b":1}],"a.0":{"b":2}}`, "json.a.0.b")
	f.Add(`[[[]]]`, "json.0.0")
	f.Fuzz(func(t *testing.T, body, name string) {
		p := pointerOfKey(body, name)
		if p == "" {
			return
		}
		segs := strings.Split(p[1:], "/")
		for i := range segs {
			segs[i] = unescapePointer.Replace(segs[i])
		}
		if got := "json." + strings.Join(segs, "."); !strings.EqualFold(got, name) {
			t.Errorf("%s is the pointer of %s, not of %s", p, got, name)
		}
		if !slices.Contains([]string{p}, anyIndex(p)) && !strings.Contains(anyIndex(p), "*") {
			t.Errorf("%s became %s", p, anyIndex(p))
		}
	})
}

// TestWAFBusy: calls that take long take turns, also where their coding made them small, and none waits for ever.
func TestWAFBusy(t *testing.T) {
	b := newTestbed(t)
	c := *b.waf(`{}`).(*wafCheck)
	c.turns, c.patience = make(turns, 1), time.Millisecond
	c.turns <- struct{}{}
	long := "note=" + strings.Repeat("a", 4<<10)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write([]byte(long))
	z.Close()
	calls := func() []*Exchange {
		return []*Exchange{b.wafCall("POST /a", form, long), b.wafCall("GET /a?"+long, "", ""), b.wafCall("POST /a", form, packed.String(), "Content-Encoding: gzip")}
	}
	for i, x := range calls() {
		wants(t, c.Check(x), "waf.busy")
		if x.Extra.Get(wire.RetryAfter) == "" {
			t.Errorf("call %d: no Retry-After", i)
		}
	}
	for _, x := range calls() {
		x.Explaining = true
		if v := c.Check(x); v.Refused() || !x.Unknown {
			t.Errorf("explaining: %v, unknown %v", v, x.Unknown)
		}
	}
	wants(t, c.Check(b.wafCall("GET /a", "", "")), "")
	c.turns.give()
	for _, x := range calls()[:2] {
		wants(t, c.Check(x), "")
	}
	if len(c.turns) > 0 {
		t.Error("a turn was not given back")
	}
}
