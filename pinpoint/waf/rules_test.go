package waf

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/whygate/whygate/pinpoint"
)

// texts are files in memory.
type texts map[string]string

func (f texts) ReadFile(name string) ([]byte, error) {
	if text, ok := f[name]; ok {
		return []byte(text), nil
	}
	return nil, fs.ErrNotExist
}

func (f texts) Glob(pattern string) (names []string, err error) {
	for name := range f {
		if ok, err := filepath.Match(pattern, name); err != nil {
			return nil, err
		} else if ok {
			names = append(names, name)
		}
	}
	return names, nil
}

const someRules = `
# rules of a shop
<IfModule security2_module>
SecRuleEngine On
SecRequestBodyNoFilesLimit 1000
SecAuditLog /var/log/modsec.log
Include rules/*.conf
Include gone.conf
</IfModule>
<IfModule !security2_module>
SecRule ARGS "@rx never" "id:1,phase:2,deny"
</IfModule>
<Location /admin>
SecRule ARGS "@rx admin" "id:2,phase:2,deny"
</Location>
`

const moreRules = `
SecRule REQUEST_HEADERS:Content-Type "^application/json" "id:200001,phase:1,pass,nolog,ctl:requestBodyProcessor=JSON"
SecRule ARGS "@rx (?i)forbidden[ ]fruit" \
  "id:77001,phase:2,deny,status:406,\
   msg:'no fruit',severity:CRITICAL"
SecRule REQUEST_METHOD "@streq POST" "id:77002,phase:2,deny,status:403,msg:'two of them',chain"
SecRule ARGS:a "@streq one" "chain"
SecRule ARGS:b "@streq two"
SecRule ARGS "@rx (?<!x)lookbehind" "id:77003,phase:2,deny"
SecRule FILES_TMPNAMES "@inspectFile /bin/true" "id:77004,phase:2,deny"
SecRule ARGS "@pmFromFile words.data" "id:77005,phase:2,deny,msg:'a word'"
SecGeoLookupDb /x.dat
SecRuleRemoveById 77006
`

func shopRules() texts {
	return texts{"/etc/modsec/main.conf": someRules, "/etc/modsec/rules/a.conf": moreRules, "/etc/modsec/rules/words.data": "pineapple\n"}
}

func TestReplicaOfOwnRules(t *testing.T) {
	p, left, err := NewReplicaFrom(shopRules(), "/etc/modsec/main.conf")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range left {
		names = append(names, l.Name)
		if l.Why == "" || l.At.Line == 0 || l.At.File == "" {
			t.Errorf("%+v", l)
		}
	}
	for _, want := range []string{"Include", "SecRule 2", "SecRule 77003", "SecRule 77004", "SecGeoLookupDb"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s was not reported among %v", want, names)
		}
	}
	for _, c := range []struct {
		body, cause string
		rule        int
		status      int
	}{
		{`{"a":"hello"}`, "", 0, 0},
		{`{"a":"a Forbidden fruit"}`, "waf-custom-rule", 77001, 406},
		{`{"a":"pineapple"}`, "waf-custom-rule", 77005, 403},
		{`{"a":"` + strings.Repeat("a", 1000) + `"}`, "waf-body-limit", 0, 413},
	} {
		r := ordinary("POST", "http://shop.test/x", "application/json", c.body)
		out := p.Predict(r)
		if out.Cause != c.cause || out.Rule != c.rule || out.Status != c.status || out.Refused != (c.cause != "") {
			t.Errorf("%.40s: %+v", c.body, out)
		}
		clues := p.Clues(r, c.status)
		if len(clues) != 1 || clues[0].Against != (c.cause == "") || clues[0].Source != pinpoint.FromReplica {
			t.Errorf("%.40s: clues %+v", c.body, clues)
		}
	}
	form := ordinary("POST", "http://shop.test/x", "application/x-www-form-urlencoded", "a=one&b=two")
	if out := p.Predict(form); out.Rule != 77002 {
		t.Errorf("a chain of three: %+v", out)
	}
	r := ordinary("POST", "http://shop.test/x", "application/json", `{"n":"1","deep":[{"note":"my forbidden fruit."}]}`)
	res, err := Bisect(context.Background(), r, p, Options{})
	if err != nil || !res.Proved || res.Cause != "waf-custom-rule" || res.Triggers[0].Parts[0].Name != "/deep/0/note" || res.Triggers[0].Parts[0].Text != "forbidden fruit" {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestDetectionOnlyRefusesNothing(t *testing.T) {
	f := shopRules()
	f["/etc/modsec/main.conf"] = strings.Replace(someRules, "SecRuleEngine On", "SecRuleEngine DetectionOnly", 1)
	p, _, err := NewReplicaFrom(f, "/etc/modsec/main.conf")
	if err != nil {
		t.Fatal(err)
	}
	r := ordinary("POST", "http://shop.test/x", "application/json", `{"a":"forbidden fruit"}`)
	if out := p.Predict(r); out.Refused || !out.Detection {
		t.Errorf("%+v", out)
	}
	if c := p.Clues(r, 403); len(c) != 1 || !c[0].Against {
		t.Errorf("%+v", c)
	}
}

func TestRuleFilesAreBounded(t *testing.T) {
	for name, f := range map[string]texts{
		"a circle of includes": {"/a": "Include /a\n"},
		"a long directive":     {"/a": "SecRule " + strings.Repeat("x\\\n", maxRuleText)},
		"no rule":              {"/a": "ServerName x\n"},
		"no file":              {},
	} {
		if _, _, err := NewReplicaFrom(f, "/a"); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// The rules that Debian packages are taken over nearly as a whole.
func TestReplicaOfDebianRules(t *testing.T) {
	if _, err := os.Stat(crs3); err != nil {
		t.Skipf("modsecurity-crs is needed: %v", err)
	}
	p, left, err := NewReplicaFrom(disk{}, "/etc/modsecurity/modsecurity.conf-recommended", "/usr/share/modsecurity-crs/owasp-crs.load")
	if err != nil {
		t.Fatal(err)
	}
	rules := 0
	for _, l := range left {
		if strings.HasPrefix(l.Name, "SecRule ") {
			rules++
		}
		t.Logf("%s:%d %s: %s", filepath.Base(l.At.File), l.At.Line, l.Name, l.Why)
	}
	if rules > 20 { // those for addresses over time, and some expressions that only PCRE has
		t.Errorf("%d rules were left out", rules)
	}
	out := p.Predict(ticket())
	if !out.Detection || out.Cause != "waf-crs-anomaly" || !slices.Contains(out.Rules(), 942100) || out.Score < 5 {
		t.Errorf("%+v", out)
	}
}

type disk struct{}

func (disk) ReadFile(name string) ([]byte, error)            { return os.ReadFile(name) }
func (disk) Glob(pattern string) (names []string, err error) { return filepath.Glob(pattern) }

// Placeholders of secrets are never cut, and never judged.
func TestSecretsStayWhole(t *testing.T) {
	r := ordinary("POST", "http://shop.test/x?key=‹secret:0123abcd len=20›", "application/json",
		`{"token":"ab‹secret:9999abcd len=40›cd","note":"x' OR '1'='1 y ‹secret:9999abcd len=40› z"}`)
	p := replica(t, 1)
	for _, o := range []Oracle{p, spy{t, p}} {
		res, err := Bisect(context.Background(), r, o, Options{})
		if err != nil || !res.Proved || res.Triggers[0].Parts[0].Name != "/note" {
			t.Errorf("%+v, %v", res, err)
		}
	}
}

type spy struct {
	t *testing.T
	p *Replica
}

func (s spy) Test(ctx context.Context, r *pinpoint.Request) (Outcome, error) {
	for _, text := range []string{r.URL, string(r.Body)} {
		if rest := placeholder.ReplaceAllString(text, ""); strings.ContainsAny(rest, "‹›") || strings.Contains(rest, "secret:") {
			s.t.Errorf("a placeholder was cut: %s", text)
		}
	}
	return s.p.Test(ctx, r)
}

func TestShowMasks(t *testing.T) {
	for in, want := range map[string]string{
		"' OR '1'='1":                   "' OR '1'='1",
		"4111 1111 1111 1111":           "**** **** **** ****",
		"ann@shop.test' OR 1":           "***@*** OR 1",
		"\x1b[31mred\x00":               "·[31mred·",
		strings.Repeat("long ", 20):     "long long long long long…",
		"tel 030-123456 now":            "tel ***-****** now",
		"3 of 12, then 45 and 6 pieces": "3 of 12, then 45 and 6 p…",
	} {
		if got := Show(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// FuzzRuleFiles reads any rule file without harm; nothing is compiled.
func FuzzRuleFiles(f *testing.F) {
	f.Add(someRules, moreRules)
	f.Add("Include /b\nSecRule A \"@rx x\" \"id:1,chain\"", "Include /a\n</Location>\n<If>\nSecRuleEngine")
	f.Fuzz(func(t *testing.T, a, b string) {
		c := &collector{files: texts{"/a": a, "/b": b}}
		err := c.file("/a", 0)
		if errors.Is(err, context.Canceled) || len(c.rules) > maxRules || c.bytes > maxRuleBytes+len(a)+len(b) || len(c.left) > maxLeft {
			t.Errorf("%v: %d rules, %d bytes", err, len(c.rules), c.bytes)
		}
		for _, r := range c.rules {
			if r.file == "" || r.line < 1 || r.text == "" || !slices.Contains(taken, strings.Replace(r.name, "chain", "secrule", 1)) {
				t.Errorf("%+v", r)
			}
		}
	})
}
