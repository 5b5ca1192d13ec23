package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/whygate/whygate/reason"
)

// unprovoked are the reasons without a scenario, and why a scenario cannot bring them about.
var unprovoked = map[string]string{
	"basic.busy":    "how many passwords it takes depends on the machine; policy/basic_test.go takes all turns",
	"gateway.panic": "no call is known that makes the gateway panic; gateway/answer_test.go plants one",
	"waf.busy":      "how many large calls it takes depends on the machine; policy/waf_test.go takes all turns",
}

// asserts are the lines of a scenario that hold the gateway to something.
var asserts = regexp.MustCompile(`(?m)^(stdout|stderr|says|eventually|log|grep|until-seen) .*$`)

// TestEveryReasonHasAScenario: each reason is met by a call in examples, which reads its code in an answer, a
// record or an explanation. Files that answers are compared with (shows, cmp) count as well.
func TestEveryReasonHasAScenario(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	var asserted strings.Builder
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		script, archive, _ := strings.Cut(string(b), "\n-- ")
		asserted.WriteString(strings.Join(asserts.FindAllString(script, -1), "\n") + "\n")
		for part := range strings.SplitSeq("\n-- "+archive, "\n-- ") {
			name, body, _ := strings.Cut(part, " --\n")
			if compared := regexp.MustCompile(`(?m)^(shows|cmp \w+) ` + regexp.QuoteMeta(name) + `$`); name != "" && compared.MatchString(script) {
				asserted.WriteString(body + "\n")
			}
		}
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

// TestEveryCommandShowsAnExample: --help of each command that runs has one.
func TestEveryCommandShowsAnExample(t *testing.T) {
	for _, c := range commands() {
		if c.Runnable() && c.Example == "" && c.Name() != "completion" && c.Parent().Name() != "completion" {
			t.Errorf("%s --help shows no example", c.CommandPath())
		}
	}
}
