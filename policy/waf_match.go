package policy

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/corazawaf/coraza/v3/experimental/plugins/plugintypes"
	"github.com/corazawaf/coraza/v3/types"
	"github.com/corazawaf/coraza/v3/types/variables"
	"github.com/tidwall/gjson"

	"github.com/whygate/whygate/reason"
)

// WAFMatch is one place of a call that a rule matched, and what that added to the score.
type WAFMatch struct {
	Rule     int
	Severity string
	Score    int // 0 where another place of the same rule carries its score
	// Variable of the rules, such as ARGS_GET; Key is the part of it that matched.
	Variable, Key string
	// Pointer is the key of a JSON body as a JSON pointer.
	Pointer string
	Message string
	bytes   string // what matched, of it the first maxMatched
	hidden  bool   // the route says that it is not for records
}

// Bounds of what a refusal tells.
const (
	maxMatches = 40 // places
	maxMatched = 80 // bytes of each
	maxKey     = 80
)

// String is how records hold a match; ParseWAFMatch reads it.
func (m *WAFMatch) String() string {
	return fmt.Sprintf("%d %s +%d %s: %s", m.Rule, m.Severity, m.Score, quoteTarget(m.target()), m.Message)
}

func (m *WAFMatch) target() string {
	switch {
	case m.Pointer != "":
		return "JSON:" + m.Pointer
	case m.Key != "":
		return m.Variable + ":" + m.Key
	}
	return m.Variable
}

// quoteTarget quotes what would not be one word.
func quoteTarget(t string) string {
	for _, r := range t {
		if r <= ' ' || r > '~' || r == '"' {
			return strconv.Quote(t)
		}
	}
	return t
}

// ParseWAFMatch reads what the fact matches of a refusal holds.
func ParseWAFMatch(s string) (m WAFMatch, ok bool) {
	word, s, _ := strings.Cut(s, " ")
	m.Rule, _ = strconv.Atoi(word)
	m.Severity, s, _ = strings.Cut(s, " ")
	word, s, ok = strings.Cut(s, " ")
	score, plus := strings.CutPrefix(word, "+")
	var err error
	if m.Score, err = strconv.Atoi(score); err != nil || !plus || !ok || m.Rule <= 0 || m.Score < 0 {
		return WAFMatch{}, false
	}
	var target string
	if strings.HasPrefix(s, `"`) {
		q, err := strconv.QuotedPrefix(s)
		if err != nil {
			return WAFMatch{}, false
		}
		target, _ = strconv.Unquote(q)
		s = s[len(q):]
	} else {
		end := strings.IndexByte(s, ' ')
		if end < 1 || s[end-1] != ':' {
			return WAFMatch{}, false
		}
		target, s = s[:end-1], s[end-1:]
	}
	if m.Message, ok = strings.CutPrefix(s, ": "); !ok {
		return WAFMatch{}, false
	}
	if p, ok := strings.CutPrefix(target, "JSON:"); ok {
		m.Variable, m.Pointer = "ARGS_POST", p
	} else {
		m.Variable, m.Key, _ = strings.Cut(target, ":")
	}
	return m, m.Variable != ""
}

// Place names what matched in words of a caller.
func (m *WAFMatch) Place() string {
	key := " " + quoteTarget(m.Key)
	if m.Key == "" {
		key = ""
	}
	switch m.Variable {
	case "ARGS_GET":
		return "query parameter" + key
	case "ARGS_POST":
		if m.Pointer != "" {
			return "JSON body at " + quoteTarget(m.Pointer)
		}
		return "form field" + key
	case "ARGS":
		return "parameter" + key
	case "ARGS_NAMES", "ARGS_GET_NAMES", "ARGS_POST_NAMES":
		return "name of parameter" + key
	case "REQUEST_HEADERS":
		return "header" + key
	case "REQUEST_HEADERS_NAMES":
		return "name of header" + key
	case "REQUEST_COOKIES":
		return "cookie" + key
	case "REQUEST_COOKIES_NAMES":
		return "name of cookie" + key
	case "REQUEST_URI", "REQUEST_URI_RAW", "REQUEST_LINE":
		return "request target"
	case "REQUEST_FILENAME", "REQUEST_BASENAME":
		return "path"
	case "QUERY_STRING":
		return "query"
	case "REQUEST_METHOD":
		return "method"
	case "REQUEST_PROTOCOL":
		return "HTTP version"
	case "REQUEST_BODY":
		return "body"
	case "XML":
		return "XML body"
	case "FILES", "FILES_NAMES", "MULTIPART_FILENAME", "MULTIPART_NAME":
		return "name of an uploaded file"
	case "MULTIPART_PART_HEADERS":
		return "part header of the multipart body"
	case "RESPONSE_BODY":
		return "answer"
	case "RESPONSE_HEADERS":
		return "header" + key + " of the answer"
	case "RESPONSE_STATUS":
		return "status of the answer"
	}
	return m.Variable + key
}

// secret says that what matched must not be told. Cookies are credentials as a rule.
func (m *WAFMatch) secret() bool {
	if m.hidden || m.Variable == "REQUEST_COOKIES" || m.Variable == "REQUEST_BODY" || strings.HasPrefix(m.Variable, "RESPONSE") {
		return true
	}
	return isSecret(m.Key)
}

// story is a match as owners read it.
func (m *WAFMatch) story() string {
	weight := m.Severity + ", +" + strconv.Itoa(m.Score)
	if m.Score == 0 && m.Severity == "unknown" { // as rules in a file of directives that name none
		weight = "by itself"
	}
	s := fmt.Sprintf("rule %d (%s, %s) at %s", m.Rule, m.Message, weight, m.Place())
	switch {
	case m.bytes == "":
	case m.secret():
		s += ": not shown"
	default:
		s += ": " + strconv.QuoteToGraphic(m.bytes)
	}
	return s
}

// findings are the matches of a transaction.
type findings struct {
	matches []WAFMatch
	more    int // places that are left out
	score   int
	refused *types.Interruption
}

// scored is what the rules add to the score, by severity, as the rule set defines it.
func scored(s types.RuleSeverity) int {
	switch s {
	case types.RuleSeverityCritical:
		return 5
	case types.RuleSeverityError:
		return 4
	case types.RuleSeverityWarning:
		return 3
	case types.RuleSeverityNotice:
		return 2
	}
	return 0
}

// find collects what the rules of phases from..to found; body is the JSON body, if it is one.
func (e *wafEngine) find(tx wafTransaction, from, to types.RulePhase, body string) *findings {
	f := &findings{refused: tx.Interruption()}
	v := tx.Variables()
	total := v.TX().Get("blocking_inbound_anomaly_score")
	if from > types.PhaseRequestBody {
		total = v.TX().Get("blocking_outbound_anomaly_score")
	}
	if len(total) > 0 {
		f.score, _ = strconv.Atoi(total[0])
	}
	for _, m := range tx.MatchedRules() {
		r := m.Rule()
		refuses := f.refused != nil && f.refused.RuleID == r.ID()
		evaluates := r.ID()/1000 == 949 || r.ID()/1000 == 959 || r.ID()/1000 == 980
		if r.Phase() < from || r.Phase() > to || evaluates || r.Severity() < 0 && !refuses {
			continue
		}
		f.matches = append(f.matches, e.places(v, m, body)...)
	}
	slices.SortStableFunc(f.matches, func(a, b WAFMatch) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Variable, b.Variable), cmp.Compare(a.Key, b.Key))
	})
	if len(f.matches) > maxMatches {
		f.more = len(f.matches) - maxMatches
		f.matches = f.matches[:maxMatches]
	}
	for i := range f.matches { // what was found lasts longer than the call
		m := &f.matches[i]
		m.Key, m.bytes, m.Pointer = strings.Clone(m.Key), strings.Clone(m.bytes), strings.Clone(m.Pointer)
	}
	return f
}

// places are where a rule matched. A rule adds to the score once for each value that the scoring link of
// its chain matched.
func (e *wafEngine) places(v plugintypes.TransactionVariables, m types.MatchedRule, body string) (list []WAFMatch) {
	r := m.Rule()
	data := m.MatchedDatas()
	last := 0
	for _, d := range data {
		last = max(last, d.ChainLevel())
	}
	scoring := last
	if k := e.rules[r.ID()]; k != nil && k.firstScores {
		scoring = 0
	}
	times := 0
	first := last + 1
	for _, d := range data {
		if d.ChainLevel() == scoring {
			times++
		}
		if !inner(d.Variable()) {
			first = min(first, d.ChainLevel())
		}
	}
	each := scored(r.Severity())
	message := clipBytes(m.Message(), 120)
	if message == "" {
		message = "rule " + strconv.Itoa(r.ID())
	}
	narrow := slices.ContainsFunc(data, func(d types.MatchData) bool { return d.ChainLevel() == first && isNamedIn(d, data) })
	for _, d := range data {
		if d.ChainLevel() != first || inner(d.Variable()) || len(list) > maxMatches || narrow && !isNamedIn(d, data) {
			continue
		}
		w := WAFMatch{Rule: r.ID(), Severity: r.Severity().String(), Variable: d.Variable().Name(), Key: d.Key(), Message: message, bytes: matched(d)}
		w.locate(v, body)
		if i := slices.IndexFunc(list, func(o WAFMatch) bool { return o.Variable == w.Variable && o.Key == w.Key }); i >= 0 {
			if last == 0 {
				list[i].Score += each // two values of one name
			}
			continue
		}
		if last == 0 {
			w.Score = each
		}
		list = append(list, w)
	}
	if len(list) == 0 {
		list = append(list, WAFMatch{Rule: r.ID(), Severity: r.Severity().String(), Variable: "TX", Message: message})
	}
	slices.SortFunc(list, func(a, b WAFMatch) int { return cmp.Or(cmp.Compare(a.Variable, b.Variable), cmp.Compare(a.Key, b.Key)) }) // the engine keeps no order
	if last > 0 || list[0].Variable == "TX" {                                                                                        // a chain scores as a whole
		list[0].Score = each * max(times, 1)
	}
	return list
}

// isNamedIn says that a later link of a chain matched what this one had put into a variable of the rules. Some chains
// begin with all headers and then look for one of them.
func isNamedIn(d types.MatchData, data []types.MatchData) bool {
	value := strings.ToLower(d.Value())
	return value != "" && slices.ContainsFunc(data, func(later types.MatchData) bool {
		return later.ChainLevel() > d.ChainLevel() && later.Variable() == variables.TX && strings.Contains(strings.ToLower(later.Value()), "/"+value+"/")
	})
}

// inner says that a variable is made by the rules and is no part of a call.
func inner(v variables.RuleVariable) bool {
	switch v {
	case variables.Unknown, variables.TX, variables.MatchedVar, variables.MatchedVars, variables.MatchedVarName, variables.MatchedVarsNames, variables.Rule, variables.UniqueID:
		return true
	}
	return false
}

// matched is the part of a value that matched, or the begin of the value.
func matched(d types.MatchData) string {
	value := d.Value()
	if text, ok := strings.CutPrefix(d.Data(), "Matched Data: "); ok {
		if part, _, ok := strings.Cut(text, " found within "); ok && part != "" && strings.Contains(value, part) {
			value = part
		}
	}
	return clipBytes(value, maxMatched)
}

// clip cuts a text to n bytes and never within a character.
func clipBytes(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// locate says which kind of parameter it was, and where in a JSON body.
func (m *WAFMatch) locate(v plugintypes.TransactionVariables, body string) {
	if m.Variable == "ARGS" || m.Variable == "ARGS_POST" {
		switch {
		case m.Variable == "ARGS" && len(v.ArgsGet().Get(m.Key)) > 0 && (body == "" || len(v.ArgsPost().Get(m.Key)) == 0):
			m.Variable = "ARGS_GET"
		case len(v.ArgsPost().Get(m.Key)) > 0:
			m.Variable = "ARGS_POST"
			if body != "" {
				m.Pointer = clipBytes(pointerOfKey(body, m.Key), maxPointer)
			}
		}
	}
	if m.Variable == "REQUEST_XML" {
		m.Variable = "XML" // what rules call it
	}
	if strings.HasPrefix(m.Variable, "REQUEST_HEADERS") || strings.HasPrefix(m.Variable, "RESPONSE_HEADERS") {
		m.Key = http.CanonicalHeaderKey(m.Key)
	}
	m.Key = clipBytes(strings.Map(printable, m.Key), maxKey)
}

func printable(r rune) rune {
	if !unicode.IsPrint(r) {
		return utf8.RuneError
	}
	return r
}

const (
	maxPointer      = 256
	maxPointerSteps = 10_000
)

// pointerOfKey finds the JSON pointer (RFC 6901) of a value that the engine names json.a.0.b. Names
// with dots make that ambiguous, so the body is asked.
func pointerOfKey(body, name string) string {
	rest, ok := strings.CutPrefix(name, "json.")
	if !ok {
		return ""
	}
	steps := maxPointerSteps
	p, _ := pointerIn(gjson.Parse(body), rest, &steps)
	return p
}

func pointerIn(v gjson.Result, rest string, steps *int) (pointer string, ok bool) {
	i := 0
	array := v.IsArray()
	if !array && !v.IsObject() {
		return "", false
	}
	v.ForEach(func(key, value gjson.Result) bool {
		if *steps--; *steps < 0 {
			return false
		}
		k := key.Str
		if array {
			k = strconv.Itoa(i)
			i++
		}
		switch {
		case len(rest) == len(k) && strings.EqualFold(rest, k):
			pointer, ok = "/"+pointerEscaper.Replace(k), true
		case len(rest) > len(k) && rest[len(k)] == '.' && strings.EqualFold(rest[:len(k)], k):
			var below string
			if below, ok = pointerIn(value, rest[len(k)+1:], steps); ok {
				pointer = "/" + pointerEscaper.Replace(k) + below
			}
		}
		return !ok
	})
	return pointer, ok
}

// withStatus gives a refusal the status that a rule of the user's directives asks for, 403 where it names
// none. The rule set asks for none.
func (f *findings) withStatus(v reason.Verdict) reason.Verdict {
	in := f.refused
	if in == nil || in.RuleID >= firstOfRuleSet && in.RuleID <= lastOfRuleSet {
		return v
	}
	if v.Status = in.Status; v.Status < 400 || v.Status > 599 {
		v.Status = http.StatusForbidden
	}
	return v
}

// The rule ids of the OWASP rule set.
const firstOfRuleSet, lastOfRuleSet = 900_000, 999_999

// place is where the match lies, as policies that hide values name it.
func (m *WAFMatch) place() []string {
	if m.Pointer != "" {
		return pointerTokens(m.Pointer)
	}
	return []string{m.Key}
}
