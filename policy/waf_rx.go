package policy

import (
	"bytes"
	"regexp"
	"strings"
	"sync"

	"github.com/corazawaf/coraza/v3/experimental/plugins/plugintypes"
)

// rxOperatorName is the operator that expressions of the rule set are given to instead of rx. It is the same, but looks
// first in the table of the expression.
const rxOperatorName = "@whygateRx"

// rxOperator is shared by all rules with one expression.
type rxOperator struct {
	re    *regexp.Regexp
	once  sync.Once
	table *rxTable // nil: it would be too large
}

// misses says that a value does not match. False may be either.
func (o *rxOperator) misses(value string) bool {
	o.once.Do(func() { o.table = newRxTable(o.re.String()) })
	return o.table != nil && o.table.misses(value)
}

func newRxOperator(o plugintypes.OperatorOptions) (plugintypes.Operator, error) {
	// As rx: the dot is for line ends as well, and ^ and $ are for lines.
	expr := "(?sm)" + o.Arguments
	compile := func() (any, error) {
		re, err := regexp.Compile(expr)
		return &rxOperator{re: re}, err
	}
	var op any
	var err error
	if o.Memoizer != nil {
		op, err = o.Memoizer.Do("whygate "+expr, compile)
	} else {
		op, err = compile()
	}
	if err != nil {
		return nil, err
	}
	return op.(*rxOperator), nil
}

// maxCaptured is how many groups rules can use.
const maxCaptured = 9

func (o *rxOperator) Evaluate(tx plugintypes.TransactionState, value string) bool {
	if o.misses(value) {
		return false
	}
	if !tx.Capturing() {
		return o.re.MatchString(value)
	}
	at := o.re.FindStringSubmatchIndex(value)
	for i := 0; i < len(at) && i < 2*maxCaptured; i += 2 {
		text := ""
		if at[i] >= 0 {
			text = value[at[i]:at[i+1]]
		}
		tx.CaptureField(i/2, text)
	}
	return at != nil
}

// otherBytes are bytes in hexadecimal that are not ASCII, or may not be. The engine has another kind of expression for
// them.
var otherBytes = regexp.MustCompile(`\\x([^0-7]|[0-7][^0-9a-fA-F]|.?$)`)

// withRxOperator gives the expressions of a file of rules to our operator.
func withRxOperator(data []byte) []byte {
	var out []byte
	for line := range bytes.Lines(data) {
		if expr, ok := operatorIn(string(line)); ok && !otherBytes.MatchString(expr) {
			line = bytes.Replace(line, []byte(`"@rx `), []byte(`"`+rxOperatorName+" "), 1)
		}
		out = append(out, line...)
	}
	return out
}

// operatorIn is the expression of a rule that begins in a line.
func operatorIn(line string) (expr string, ok bool) {
	if !strings.HasPrefix(strings.TrimLeft(line, " \t"), "SecRule ") {
		return "", false
	}
	line = strings.TrimSpace(line)
	_, expr, ok = strings.Cut(line, ` "@rx `)
	return expr, ok && (strings.HasSuffix(line, `"`) || strings.HasSuffix(line, `" \`)) // it ends in this line
}
