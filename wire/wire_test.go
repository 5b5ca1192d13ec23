package wire

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// TestMain poisons the memory of calls that have ended, and ends with a look for goroutines that
// a test left behind.
func TestMain(m *testing.M) {
	Poison = true
	goleak.VerifyTestMain(m)
}

// testLimits are the gateway's defaults.
var testLimits = Limits{HeaderBytes: 32 << 10, HeaderCount: 100, URIBytes: 8 << 10}

// lines makes a message head of lines: CRLF after each, an empty one at the end.
func lines(line ...string) string { return strings.Join(line, "\r\n") + "\r\n\r\n" }

// provenElsewhere are the rules that need a server, and the test that breaks each.
var provenElsewhere = map[Rule]string{
	HeaderTimeout:   "TestHeaderTimeout",
	BodyTimeout:     "TestBodyTimeout",
	HeadersTooLarge: "TestHeadTooLarge",
	PlainOnTLS:      "TestPlainHTTPOnTLS",
	TooManyConns:    "TestConnectionLimits",
	TooManyFromAddr: "TestConnectionLimits",
	EngineRefused:   "TestStdOwnAnswer",
	BadStatusLine:   "TestResponseFaults",
	NotHTTP:         "TestBrokenAnswers",
}

// TestEveryRuleIsBroken sees to it that no rule goes without a message that breaks it.
func TestEveryRuleIsBroken(t *testing.T) {
	broken := map[Rule]bool{}
	for _, c := range requestFaults {
		broken[c.rule] = true
	}
	for _, c := range chunkFaults {
		broken[c.rule] = true
	}
	sources := ""
	files, _ := filepath.Glob("*_test.go")
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sources += string(b)
	}
	for rule, test := range provenElsewhere {
		if strings.Contains(sources, "func "+test+"(") {
			broken[rule] = true
		}
	}
	for _, rule := range Rules() {
		if !broken[rule] {
			t.Errorf("no test breaks the rule %q", rule)
		}
	}
}
