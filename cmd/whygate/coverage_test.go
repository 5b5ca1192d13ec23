package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/reason"
)

// unprovoked are the reasons without a scenario, and why a scenario cannot bring them about.
var unprovoked = map[string]string{
	"basic.busy":    "how many passwords it takes depends on the machine; policy/basic_test.go takes all turns",
	"gateway.panic": "no call is known that makes the gateway panic; gateway/answer_test.go plants one",
	"node.memory":   "control groups with a limit are not to be had everywhere; gateway/answer_test.go has calls shed, memory_test.go says when",
	"waf.busy":      "how many large calls it takes depends on the machine; policy/waf_test.go takes all turns",
}

// asserts are the lines of a scenario that hold the gateway to something.
var asserts = regexp.MustCompile(`(?m)^(stdout|stderr|says|eventually|log|grep|until-seen) .*$`)

// assertedIn is what a scenario holds the gateway to: its assertions, and the files that output is compared with
// (shows, cmp).
func assertedIn(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	script, archive, _ := strings.Cut(string(b), "\n-- ")
	asserted := strings.Join(asserts.FindAllString(script, -1), "\n") + "\n"
	for part := range strings.SplitSeq("\n-- "+archive, "\n-- ") {
		name, body, _ := strings.Cut(part, " --\n")
		if compared := regexp.MustCompile(`(?m)^(shows|cmp \w+) ` + regexp.QuoteMeta(name) + `$`); name != "" && compared.MatchString(script) {
			asserted += body + "\n"
		}
	}
	return asserted
}

// TestEveryReasonHasAScenario: each reason is met by a call in examples, which reads its code in an answer, a
// record or an explanation.
func TestEveryReasonHasAScenario(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	var asserted strings.Builder
	for _, file := range files {
		asserted.WriteString(assertedIn(t, file))
	}
	for _, r := range reason.All() {
		found := regexp.MustCompile(`(^|[^\w.*-])` + regexp.QuoteMeta(r.Code) + `($|[^\w.-])`).MatchString(asserted.String())
		why, excused := unprovoked[r.Code]
		switch {
		case !found && !excused:
			t.Errorf("no scenario in examples shows %s", r.Code)
		case found && excused:
			t.Errorf("a scenario shows %s, although %q: take it off the list", r.Code, why)
		}
	}
	for code := range unprovoked {
		if reason.ByCode(code) == nil {
			t.Errorf("there is no reason %s", code)
		}
	}
}

// TestEveryReasonIsComplete: each reason has a title, a sentence, fixes and a hint, in its JSON and in the reference.
func TestEveryReasonIsComplete(t *testing.T) {
	var pages []gateway.Page
	if err := json.Unmarshal(printedBy(t, "reasons", "--json"), &pages); err != nil {
		t.Fatal(err)
	}
	told := map[string]gateway.Page{}
	for _, p := range pages {
		told[p.Code] = p
	}
	reference := string(printedBy(t, "reasons", "--markdown"))
	for _, r := range reason.All() {
		p := told[r.Code]
		if p.Status != r.Status || p.Title == "" || p.Says == "" || len(p.Fixes) == 0 || p.Hint == "" {
			t.Errorf("%s as JSON lacks something: %+v", r.Code, p)
		}
		_, section, _ := strings.Cut(reference, "\n## "+r.Code+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		if want := fmt.Sprintf("**%d. %s.** ", r.Status, r.Title); !strings.Contains(section, want) || !strings.Contains(section, "\n- hint: ") || strings.Count(section, "\n- ") != len(r.Fixes)+1 {
			t.Errorf("the reference of %s lacks something: %s", r.Code, section)
		}
	}
	if len(pages) != len(reason.All()) {
		t.Errorf("%d pages of %d reasons", len(pages), len(reason.All()))
	}
}

// TestEveryCommandShowsAnExample: --help of each command that runs has one.
func TestEveryCommandShowsAnExample(t *testing.T) {
	for _, c := range commands() {
		if c.Runnable() && c.Example == "" && c.Name() != "completion" && c.Parent().Name() != "completion" {
			t.Errorf("%s --help shows no example", c.CommandPath())
		}
	}
}

// stories are lost days of people elsewhere, and the evidence that would have ended each of them at once.
var stories = []struct {
	what     string
	scenario string
	evidence []string // each is asserted there
}{
	{"a list of groups that holds names of consumers", "story-01-names-of-another-kind", []string{
		`there is no application "acme"`, `"acme" is the team of applications`, `"acme-key" is a credential`,
		`✗ subscription subscription.missing: application "acme-shop" has no subscription to API "orders"`}},
	{"the same, of groups at run time", "roles-and-groups", []string{
		`it has group "Finance", which is not "finance"`, `groups come from a claim of the token, or from the Credential "till-key"`}},
	{"the same, before it is published", "lint", []string{
		`no Credential has the group "acme", so it lets nobody in [groups.held-by-nobody]`, `"acme" is an application; to let applications in by name, use the policy access`}},
	{"403 for minutes at a time, by stale state", "story-02-stale-refusal", []string{
		`revision 1 · node gw-1`, `! revision 2 is in use since`, `and this call was decided by revision 1`, `revision  2, loaded`}},
	{"403 where nobody was identified", "story-04-no-credential-is-401", []string{
		`HTTP/1.1 401 Unauthorized`, `Www-Authenticate: ApiKey`, `caller nobody: no key was sent`}},
	{"granted at one gate, blocked at another", "story-05-every-gate-at-once", []string{
		`would be refused with 403, 3 obstacles`, `✗ ip-access`, `✗ size`, `✓ key-auth`, `✗ subscription`, `next size would refuse`}},
	{"a wildcard that is a 404 after an upgrade", "story-06-star-in-a-path", []string{
		`no route for GET /services/SF_Reh/cases on shop.test; the nearest is /services/{name}`, `to pass call /services/SF_Reh you can`}},
	{"one limit for everybody behind an ingress", "story-08-limit-shared-by-everybody", []string{
		`the counter is address 127.0.0.1 (the address of the connection), in this node: each node counts for itself`,
		`X-Forwarded-For[1] "198.51.100.20": ignored: the gateway has no trustedProxies`}},
	{"the key was right, and the message blamed it", "story-09-not-the-key", []string{
		`Whygate-Reason: subscription.missing`, `✓ key-auth key wg_`, `✗ subscription subscription.missing: application "web1" has no subscription`}},
	{"a check of the consumer before the consumer was known", "story-11-order-does-not-matter", []string{
		"✓ maintenance", "✓ ip-access", "✓ cors", "✓ key-auth", "✓ subscription", "✓ rate-limit"}},
	{"a rule that let everybody pass whom it did not name", "story-12-who-may-use-which-method", []string{
		`✗ method method.not-allowed: DELETE is not allowed on this API; GET or HEAD may be used`,
		`is for stage public, the call is for stage internal`}},
	{"the own address is on the list, and refused", "story-13-own-address-still-refused", []string{
		`client 127.0.0.1 — socket, the address of the connection; X-Forwarded-For[1] "203.0.113.7": ignored: the gateway has no trustedProxies`,
		`seen 127.0.0.1; nearest allowed network 203.0.113.0/24`}},
	{"a list that let the internet in", "story-15-allowed-by-surprise", []string{
		`✓ ip-access address 10.5.37.1, allowed by 10.0.0.0/8`, `[ip-access.allows-proxy]`}},
	{"a preflight that was refused for want of a key", "story-16-preflight-refused", []string{
		`[cors.preflight-refused]`, `seen a preflight from https://shop.test for GET, and no policy cors`}},
	{"a token from a clock that is ahead", "jwt", []string{`"reason": "jwt.not-yet-valid"`, `too early`}},
	{"no leeway for clocks, before it is published", "lint", []string{`with a leeway of 0s calls are refused meanwhile [jwt.no-leeway]`}},
	{"a masked key that nobody can tell apart", "story-19-whose-key-is-it", []string{
		`a key with this prefix is known, of application acme-shop (team "acme", dev@acme.test), but the rest differs`, `403 +GET +/orders/1 +orders +acme-shop `,
		`401 +GET +/orders/2 +orders +sha256:9f9f5111 `}},
	{"which of many policies said no", "story-20-who-is-told-what", []string{
		`"field": "spec.policies[1].subscription"`, `"line": 22`, `refused by the gateway, check 3 of 5: subscription`}},
	{"authentication was hunted, and a slash was missing", "story-22-wrong-path", []string{
		`"reason": "route.stage-missing"`, `no route for GET /prod/catalogue/pages; /prod/catalogue/pages/ exists`,
		`stages are mounted at /dev/catalogue, /prod/catalogue or /prod/orders`}},
	{"a firewall that names its score only", "waf", []string{
		`rule 942100 (SQL Injection Attack Detected via libinjection, critical, +5) at query parameter q`, `at JSON body at /items/1/note: "<script>"`,
		`exclusions: [{rules: [942100], route: echo, parameter: q}]`}},
	{"404 for every rule, and a log without id, URL and reason", "story-24-all-rules-are-404", []string{
		`no route for GET /orders on shop.test; api.shop.test serves it`, `seen Host: shop.test`, `✓ request path /Orders/8`, `"path": "/orders"`}},
}

// TestEveryStoryIsTold: each story has a scenario that shows its evidence, and no scenario of a story is forgotten.
func TestEveryStoryIsTold(t *testing.T) {
	told := map[string]bool{}
	for _, s := range stories {
		told[s.scenario] = true
		asserted := assertedIn(t, "../../examples/"+s.scenario+".txtar")
		for _, e := range s.evidence {
			if !strings.Contains(asserted, e) && !strings.Contains(strings.ReplaceAll(asserted, `\`, ""), e) {
				t.Errorf("%s: examples/%s.txtar does not show %q", s.what, s.scenario, e)
			}
		}
	}
	files, err := filepath.Glob("../../examples/story-*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no stories", err)
	}
	for _, file := range files {
		if name := strings.TrimSuffix(filepath.Base(file), ".txtar"); !told[name] {
			t.Errorf("%s is a story without its evidence in this test", name)
		}
	}
}
