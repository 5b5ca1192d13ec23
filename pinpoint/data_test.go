package pinpoint

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

var owners = []string{"caller", "app-dev", "server-admin", "cdn-admin", "waf-admin", "api-owner", "identity-admin", "storage-owner", "network-admin"}

var layers = []string{"client", "network", "cdn", "waf", "gateway", "auth", "files", "web-server", "framework", "application", "storage"}

// operators are those of package replay, and what a cause may expect of them.
var operators = strings.Fields(`repeat wait method-get method-head method-options auth-drop auth-corrupt auth-swap cookie-drop
	cookie-one ua-browser ua-plain ua-drop referer-same referer-drop origin-same origin-drop accept-any lang-any ctype-json
	ctype-form ctype-drop host-noport host-canonical host-other sni-match sni-drop ip4 ip6 from-elsewhere xff-drop xff-one
	scheme-swap http1 http2 slash-add slash-strip path-decode path-case path-prefix path-nonexistent path-sibling query-drop
	query-one body-benign body-empty body-grow body-shrink cache-bust direct-origin`)

// lowering are words of advice that makes a server less safe than it was.
var lowering = regexp.MustCompile(`(?i)\b0?777\b|\b0?666\b|chmod -R|a\+rwx|SecRuleEngine\s+(?:Off|DetectionOnly)|setenforce|SELINUX=|aa-(?:disable|complain|teardown)|` +
	`Require all granted|allow all|Allow from all|satisfy any;|csrf_exempt|csrf\(\)?\.disable|verify\s*=\s*false|--insecure|\s-k\s|rejectUnauthorized|` +
	`Access-Control-Allow-Origin: \*|ALLOWED_HOSTS = \['\*|permitAll\(\) for all|disable the (?:WAF|rule|check|firewall)|switch (?:off|the WAF off)|ssl_verify_client off|` +
	`autoindex on|Options \+?Indexes|learning mode|count-mode|ufw disable|spoof|imitate a browser's header|rotate (?:proxies|addresses)|residential|chown -R|--no-verify|alg(?:orithm)? none|rm -rf|privileged`)

// placeholder is what a fix quotes; each has something to say when the name is not known.
var placeholderWithDefault = regexp.MustCompile(`\{[a-z_]+\|[^{}]*\}`)

func TestCauses(t *testing.T) {
	if n := len(Causes()); n < 246 {
		t.Fatalf("%d causes, want at least 246", n)
	}
	refined := 0
	for _, c := range Causes() {
		if c.Title == "" || c.Symptoms == "" || c.Evidence == "" || len(c.Statuses) == 0 || len(c.Fix.Steps) == 0 || c.Fix.Risk == "" {
			t.Errorf("%s: an entry needs title, statuses, symptoms, evidence and a fix with steps and risk", c.ID)
		}
		if !regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`).MatchString(c.ID) {
			t.Errorf("%q is no id", c.ID)
		}
		if !c.Pseudo && !slices.Contains(layers, c.Layer) {
			t.Errorf("%s: layer %q", c.ID, c.Layer)
		}
		if strings.HasSuffix(c.Title, ".") || strings.ToUpper(c.Title[:1]) == c.Title[:1] && !regexp.MustCompile(`^[A-Z]{2}|^(HAProxy|Order|Envoy)`).MatchString(c.Title) {
			t.Errorf("%s: the title %q is to go on after a colon", c.ID, c.Title)
		}
		if !slices.Contains(owners, c.Fix.Owner) {
			t.Errorf("%s: owner %q", c.ID, c.Fix.Owner)
		}
		for _, e := range c.Expect {
			if !slices.Contains(operators, e.Operator) {
				t.Errorf("%s expects something of %q, which is no operator", c.ID, e.Operator)
			}
		}
		for _, s := range append([]string{c.Fix.Risk}, c.Fix.Steps...) {
			if m := lowering.FindString(s); m != "" {
				t.Errorf("%s: the fix says %q: %s", c.ID, m, s)
			}
			if !regexp.MustCompile(`[.…]$`).MatchString(s) && s != "" {
				t.Errorf("%s: no sentence: %s", c.ID, s)
			}
			if rest := placeholderWithDefault.ReplaceAllString(s, ""); strings.ContainsAny(rest, "{}") && !strings.Contains(rest, "{ … }") {
				t.Errorf("%s: a placeholder needs a text for when it is not known: %s", c.ID, s)
			}
			if strings.Contains(fill(s, nil), "{}") {
				t.Errorf("%s: %s", c.ID, fill(s, nil))
			}
		}
		if c.Parent != "" {
			refined++
		}
		for _, p := range c.Silent {
			if p != "nginx" && p != "apache-httpd" && p != "lighttpd" && p != "caddy" && p != "haproxy" {
				t.Errorf("%s: silent %q", c.ID, p)
			}
		}
	}
	if refined < 30 {
		t.Errorf("%d refinements, want at least 30", refined)
	}
	for id := range catalogue().kind {
		if k := catalogue().kind[id]; k != "mechanism" && k != "condition" {
			t.Errorf("%s: kind %q", id, k)
		}
	}
}

func TestEveryPatternCompilesAndNamesACause(t *testing.T) {
	check := func(where, text string) {
		t.Helper()
		if _, err := regexp.Compile(text); err != nil {
			t.Errorf("%s: %v", where, err)
		}
	}
	cause := func(where, id string) {
		t.Helper()
		if _, ok := CauseByID(id); !ok {
			t.Errorf("%s: there is no cause %q", where, id)
		}
	}
	ids := map[string]bool{}
	for _, f := range fingerprints() {
		if ids[f.ID] {
			t.Errorf("fingerprint %s stands twice", f.ID)
		}
		ids[f.ID] = true
		cause(f.ID, f.Cause)
		check(f.ID, f.Match.Body)
		for _, h := range f.Match.Headers {
			check(f.ID, h)
		}
		for _, c := range f.Match.Cookies {
			check(f.ID, c)
		}
		for _, r := range f.Refine {
			check(f.ID, r.Re)
			cause(f.ID, r.Cause)
		}
		if f.Confidence <= 0 || f.Confidence >= 1 || len(f.Match.Status) == 0 || f.Refuser == "" || f.Look == "" || f.Source == "" {
			t.Errorf("%s: needs refuser, status, confidence between 0 and 1, look and source", f.ID)
		}
		if m := lowering.FindString(f.Fix); m != "" {
			t.Errorf("%s: the fix says %q: %s", f.ID, m, f.Fix)
		}
		if len(f.Match.Headers)+len(f.Match.Cookies) == 0 && f.Match.Body == "" && f.ID != "rfc7725-451" {
			t.Errorf("%s: a status alone is no fingerprint", f.ID)
		}
	}
	if len(ids) < 298 {
		t.Errorf("%d fingerprints, want at least 298", len(ids))
	}
	k := logs()
	for _, p := range k.Patterns {
		if ids[p.ID] {
			t.Errorf("log pattern %s stands twice", p.ID)
		}
		ids[p.ID] = true
		check(p.ID, p.Re)
		cause(p.ID, p.Cause)
		for _, r := range p.Refine {
			check(p.ID, r.Re)
			cause(p.ID, r.Cause)
		}
		for _, a := range p.Also {
			check(p.ID, a)
		}
	}
	for _, m := range []map[string]string{k.IIS, k.Envoy, k.Flags} {
		for code, id := range m {
			cause(code, id)
		}
	}
}

// answerSample is an answer that a fingerprint matches.
type answerSample struct {
	Status  int
	Headers map[string]string
	Body    string
}

type sampledFingerprint struct {
	*fingerprint
	Sample answerSample
}

type sampledPattern struct {
	*logPattern
	Sample string
}

func fingerprintsWithSamples(t testing.TB) (list []sampledFingerprint) {
	var samples []struct{ Sample answerSample }
	decode(t, written(t, "fingerprints"), &samples)
	for i, f := range fingerprints() {
		list = append(list, sampledFingerprint{f, samples[i].Sample})
	}
	return list
}

func patternsWithSamples(t testing.TB) (list []sampledPattern) {
	var samples struct{ Patterns []struct{ Sample string } }
	decode(t, written(t, "logs"), &samples)
	for i, p := range logs().Patterns {
		list = append(list, sampledPattern{p, samples.Patterns[i].Sample})
	}
	return list
}

// written is what people wrote into a file of data.
func written(t testing.TB, name string) (v any) {
	text, err := os.ReadFile("data/" + name + ".yaml")
	if err == nil {
		err = yaml.Unmarshal(text, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func decode(t testing.TB, v, into any) {
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestData holds the embedded files to the written ones.
func TestData(t *testing.T) {
	for _, name := range []string{"causes", "fingerprints", "logs"} {
		v := written(t, name)
		entries, ok := v.([]any)
		if !ok {
			entries = v.(map[string]any)["patterns"].([]any)
		}
		for _, e := range entries {
			delete(e.(map[string]any), "sample")
		}
		want, err := json.MarshalIndent(v, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, '\n')
		file := "data/" + name + ".json"
		if *update {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if have, err := os.ReadFile(file); err != nil || !bytes.Equal(have, want) {
			t.Errorf("%s is stale: go test ./pinpoint -run TestData -update (%v)", file, err)
		}
	}
}

func (s answerSample) answer() *Answer {
	a := &Answer{Status: s.Status, Body: []byte(s.Body)}
	for n, v := range s.Headers {
		a.Header = append(a.Header, Field{n, v})
	}
	return a
}

// lookAlikes are entries that come first on the sample of another, with the reason.
var lookAlikes = map[string]struct{ first, because string }{}

func TestEveryFingerprintWinsItsSample(t *testing.T) {
	used := map[string]bool{}
	for _, f := range fingerprintsWithSamples(t) {
		clues := Match(f.Sample.answer())
		i := slices.IndexFunc(clues, func(c Clue) bool { return c.ID == f.ID })
		if i < 0 {
			t.Errorf("%s does not match its sample", f.ID)
			continue
		}
		first := clues[0]
		if l, ok := lookAlikes[f.ID]; ok {
			used[f.ID] = true
			if first.ID != l.first {
				t.Errorf("%s: %s comes first, not %s as listed", f.ID, first.ID, l.first)
			}
			continue
		}
		if first.ID == f.ID {
			continue
		}
		t.Errorf("%s (%s, %s): %s (%s, %s) comes first on its sample", f.ID, f.Refuser, f.Cause, first.ID, first.Refuser, first.Cause)
	}
	for id := range lookAlikes {
		if !used[id] {
			t.Errorf("look-alike %s is no fingerprint", id)
		}
	}
}

func TestEveryLogPatternWinsItsSample(t *testing.T) {
	for _, p := range patternsWithSamples(t) {
		found := false
		for _, c := range MatchLog(p.Product, p.Sample) {
			if c.Refuser != p.Product && c.Refuser != p.Refuser {
				continue
			}
			if c.ID != p.ID {
				t.Errorf("%s: %s takes its sample", p.ID, c.ID)
			}
			found = true
			if c.Quote == "" || c.Says == "" {
				t.Errorf("%s: nothing to say: %+v", p.ID, c)
			}
		}
		if !found {
			t.Errorf("%s does not match its sample", p.ID)
		}
	}
}

// A line that is handed in is masked before it is read: that takes away no pattern's match.
func TestMaskedLinesStillMatch(t *testing.T) {
	causes := func(list []Clue) (out []string) {
		for _, c := range list {
			out = append(out, c.ID+" "+c.Cause)
		}
		return out
	}
	for _, p := range patternsWithSamples(t) {
		if want, got := causes(MatchLog(p.Product, p.Sample)), causes(MatchLog(p.Product, MaskLine(p.Sample))); !slices.Equal(want, got) {
			t.Errorf("%s: %v, masked %v: %s", p.ID, want, got, MaskLine(p.Sample))
		}
	}
}
