package waf

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/corazawaf/coraza-coreruleset/v4"
	"github.com/corazawaf/coraza/v3"
	"github.com/corazawaf/coraza/v3/experimental/plugins/plugintypes"
	"github.com/corazawaf/coraza/v3/types"
	"github.com/corazawaf/coraza/v3/types/variables"

	"github.com/whygate/whygate/pinpoint"
)

// Replica runs rules of a web application firewall here: those of the OWASP Core Rule Set 4, which is built in, or
// the server's own. It sends nothing. What it says of a server is worth something only if it refuses the request
// that the server refused.
type Replica struct {
	waf   coraza.WAF
	level int
	own   bool // the server's own rules
	// detection says that the rules only watch (SecRuleEngine DetectionOnly, Off).
	detection bool
	limits    limits
	// serial is there where the rules take targets out of rules: Coraza appends those to lists that calls share.
	serial *sync.Mutex
}

// limits of ModSecurity on bodies, in bytes. Coraza has no SecRequestBodyNoFilesLimit.
type limits struct {
	body, noFiles int64
	partial       bool // SecRequestBodyLimitAction ProcessPartial
}

// The limits of ModSecurity's recommended configuration.
var usualLimits = limits{body: 13107200, noFiles: 131072}

// base readies the engine as ModSecurity's recommended configuration does, with the parsers chosen by media type.
const base = `
SecRuleEngine On
SecRequestBodyAccess On
SecResponseBodyAccess Off
SecAuditEngine Off
SecRxPreFilter Off
SecArgumentsLimit 1000
SecRequestBodyJsonDepthLimit 512
SecRequestBodyLimit 134217728
SecRequestBodyInMemoryLimit 134217728
`

const recommended = `
SecRule REQUEST_HEADERS:Content-Type "@rx ^(?:application(?:/soap\+|/)|text/)xml" "id:200000,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=XML"
SecRule REQUEST_HEADERS:Content-Type "@rx ^application/(?:[a-z0-9.-]+[+])?json" "id:200001,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
SecRule REQBODY_ERROR "!@eq 0" "id:200002,phase:2,t:none,log,deny,status:400,msg:'Failed to parse request body'"
SecRule MULTIPART_STRICT_ERROR "!@eq 0" "id:200003,phase:2,t:none,log,deny,status:400,msg:'Multipart request body failed strict validation'"
`

// embedded is the engine with the built-in rules, made when it is first needed: it takes about a second and 20 MB.
// All paranoia levels share it.
var embedded = sync.OnceValues(func() (coraza.WAF, error) { return build("", "") })

// build compiles the built-in rules with directives before and behind them.
func build(before, behind string) (coraza.WAF, error) {
	w, err := coraza.NewWAF(coraza.NewWAFConfig().WithRootFS(coreruleset.FS).WithDirectives(base + recommended).
		WithDirectivesFromFile("@crs-setup.conf.example").WithDirectives(before + "\n").
		WithDirectivesFromFile("@owasp_crs/*.conf").WithDirectives(behind + "\n"))
	if err != nil {
		return nil, fmt.Errorf("compiling the rules: %w", err)
	}
	return w, nil
}

// NewReplica has the built-in rules at a paranoia level from 1 to 4.
func NewReplica(level int) (*Replica, error) {
	if level < 1 || level > 4 {
		return nil, fmt.Errorf("there is no paranoia level %d", level)
	}
	w, err := embedded()
	if err != nil {
		return nil, err
	}
	return &Replica{waf: w, level: level, limits: usualLimits}, nil
}

// Levels are replicas of the built-in rules at all four levels.
func Levels() ([]*Replica, error) {
	var list []*Replica
	for level := 1; level <= 4; level++ {
		r, err := NewReplica(level)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// Refusing is the replica of the lowest paranoia level that refuses a request, nil where none does.
func Refusing(r *pinpoint.Request) (*Replica, error) {
	list, err := Levels()
	if err != nil {
		return nil, err
	}
	for _, p := range list {
		if p.Predict(r).Refused {
			return p, nil
		}
	}
	return nil, nil
}

// Engine names the rules: "crs-4 PL1", or "rules of the server".
func (p *Replica) Engine() string {
	if p.own {
		return "rules of the server"
	}
	return "crs-4 PL" + strconv.Itoa(p.level)
}

// Match is one place that a rule matched.
type Match struct {
	Rule     int
	Message  string
	Severity string
	Score    int // what it adds; 0 where another place of the rule carries its score
	// Variable and Key name the place as rules do, such as ARGS and json.comment.
	Variable, Key string
	Data          string // what matched: cut, and masked where it looks personal
	Phase         int
}

// Target is the place as rules spell it.
func (m *Match) Target() string {
	if m.Key == "" {
		return m.Variable
	}
	return m.Variable + ":" + m.Key
}

// Prediction is what the replica does with a request.
type Prediction struct {
	Refused   bool
	Status    int    // the usual one where the rules name none
	Rule      int    // the one that refuses; 949110 when it is the score
	Score     int    //
	Threshold int    //
	Cause     string // of the catalogue
	Matches   []Match
	Fault     string // why the body cannot be read
	Limit     int64  // the limit that the body exceeds
	Detection bool   // the rules would refuse, but only watch
	Engine    string
}

// Rules are the ids of the rules that matched, without repetition.
func (p *Prediction) Rules() (ids []int) {
	for i := range p.Matches {
		if !slices.Contains(ids, p.Matches[i].Rule) {
			ids = append(ids, p.Matches[i].Rule)
		}
	}
	return ids
}

const maxMatches = 60

// letters puts letters where placeholders are: rules must not judge how secrets are hidden.
func letters(s string) string {
	if !strings.Contains(s, "‹secret:") {
		return s
	}
	return placeholder.ReplaceAllStringFunc(s, func(p string) string {
		n, _ := strconv.Atoi(placeholder.FindStringSubmatch(p)[1])
		return strings.Repeat("a", min(n, 4096))
	})
}

// Target of a request line: what follows the origin of the URL.
func requestTarget(u string) string {
	if i := strings.Index(u, "://"); i >= 0 {
		u = u[i+3:]
		if i = strings.IndexAny(u, "/?#"); i < 0 {
			return "/"
		}
		u = u[i:]
	}
	u, _, _ = strings.Cut(u, "#")
	if !strings.HasPrefix(u, "/") {
		u = "/" + u
	}
	return u
}

// Predict judges a request.
func (p *Replica) Predict(r *pinpoint.Request) Prediction {
	out := Prediction{Engine: p.Engine()}
	media, _ := mediaType(r.Header.Value("Content-Type"))
	size := int64(len(r.Body))
	switch {
	case p.limits.body > 0 && size > p.limits.body && !p.limits.partial:
		out.Limit = p.limits.body
	case p.limits.noFiles > 0 && size > p.limits.noFiles && !p.limits.partial && !strings.HasPrefix(media, "multipart/"):
		out.Limit = p.limits.noFiles
	}
	if out.Limit > 0 {
		out.Cause, out.Status, out.Refused, out.Detection = "waf-body-limit", 413, !p.detection, p.detection
		return out
	}
	if p.serial != nil {
		p.serial.Lock()
		defer p.serial.Unlock()
	}
	tx := p.waf.NewTransactionWithID("pinpoint")
	defer tx.Close()
	state := tx.(plugintypes.TransactionState)
	if !p.own {
		for _, name := range []string{"blocking_paranoia_level", "detection_paranoia_level"} {
			state.Variables().TX().Set(name, []string{strconv.Itoa(p.level)})
		}
	}
	tx.ProcessConnection("192.0.2.1", 40000, "192.0.2.2", 443) // of the block for documentation (RFC 5737)
	proto := "HTTP/1.1"
	if strings.HasPrefix(r.Proto, "HTTP/2") || strings.HasPrefix(r.Proto, "h2") {
		proto = "HTTP/2.0"
	} else if r.Proto == "HTTP/1.0" {
		proto = r.Proto
	}
	method := r.Method
	if method == "" {
		method = "GET"
	}
	target := letters(requestTarget(r.URL))
	tx.ProcessURI(strings.ReplaceAll(target, " ", "%20"), method, proto)
	body := letters(string(r.Body))
	for _, f := range r.Header {
		if strings.EqualFold(f.Name, "Content-Length") && !r.Header.Has("Transfer-Encoding") {
			f.Value = strconv.Itoa(len(body))
		}
		tx.AddRequestHeader(f.Name, letters(f.Value))
	}
	if !r.Header.Has("Host") {
		tx.AddRequestHeader("Host", r.Host())
	}
	if len(body) > 0 && !r.Header.Has("Content-Length") && !r.Header.Has("Transfer-Encoding") {
		tx.AddRequestHeader("Content-Length", strconv.Itoa(len(body)))
	}
	host := r.Host()
	if u, err := url.Parse("//" + host); err == nil {
		host = u.Hostname()
	}
	tx.SetServerName(host)
	tx.ProcessRequestHeaders()
	if tx.Interruption() == nil {
		if len(body) > 0 {
			if _, _, err := tx.WriteRequestBody([]byte(body)); err != nil {
				out.Fault = clip(err.Error(), 200)
			}
		}
		if _, err := tx.ProcessRequestBody(); err != nil && out.Fault == "" {
			out.Fault = clip(err.Error(), 200)
		}
	}
	p.read(tx, state.Variables(), &out)
	return out
}

// read collects what the rules found.
func (p *Replica) read(tx types.Transaction, v plugintypes.TransactionVariables, out *Prediction) {
	number := func(names ...string) (n int) {
		for _, name := range names {
			if values := v.TX().Get(name); len(values) > 0 {
				if n, _ = strconv.Atoi(values[0]); n > 0 {
					return n
				}
			}
		}
		return n
	}
	out.Score = number("blocking_inbound_anomaly_score", "anomaly_score")
	out.Threshold = number("inbound_anomaly_score_threshold")
	if in := tx.Interruption(); in != nil {
		out.Rule, out.Status = in.RuleID, in.Status
		if out.Status < 300 {
			out.Status = 403
		}
		out.Refused, out.Detection = !p.detection, p.detection
		if in.RuleID == 200002 {
			out.Fault = clip(v.RequestBodyErrorMsg().Get(), 200)
		}
	}
	for _, m := range tx.MatchedRules() {
		r := m.Rule()
		family := r.ID() / 1000
		if family == 949 || family == 959 || family == 980 || r.Severity() < 0 && r.ID() != out.Rule || len(out.Matches) >= maxMatches {
			continue
		}
		out.Matches = append(out.Matches, places(m)...)
	}
	if len(out.Matches) > maxMatches {
		out.Matches = out.Matches[:maxMatches]
	}
	slices.SortStableFunc(out.Matches, func(a, b Match) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Target(), b.Target()))
	})
	if out.Refused || out.Detection {
		out.Cause = out.cause()
	}
}

// places are where a rule matched; the first carries the score.
func places(m types.MatchedRule) (list []Match) {
	r := m.Rule()
	level := -1
	for _, d := range m.MatchedDatas() {
		if !inner(d.Variable()) && (level < 0 || d.ChainLevel() < level) {
			level = d.ChainLevel()
		}
	}
	message := clip(m.Message(), 120)
	for _, d := range m.MatchedDatas() {
		if d.ChainLevel() != level || inner(d.Variable()) || len(list) >= maxMatches {
			continue
		}
		w := Match{Rule: r.ID(), Message: message, Severity: r.Severity().String(), Variable: d.Variable().Name(), Key: strings.Clone(d.Key()), Phase: int(r.Phase())}
		switch w.Variable {
		case "ARGS_GET", "ARGS_POST":
			w.Variable = "ARGS"
		case "ARGS_GET_NAMES", "ARGS_POST_NAMES":
			w.Variable = "ARGS_NAMES"
		case "REQUEST_XML":
			w.Variable = "XML"
		}
		if w.Variable == "XML" {
			w.Key = "/*"
		}
		if !slices.ContainsFunc(list, func(o Match) bool { return o.Variable == w.Variable && o.Key == w.Key }) {
			w.Data = Show(matched(d))
			list = append(list, w)
		}
	}
	if len(list) == 0 {
		list = []Match{{Rule: r.ID(), Message: message, Severity: r.Severity().String(), Variable: "TX", Phase: int(r.Phase())}}
	}
	slices.SortFunc(list, func(a, b Match) int { return cmp.Compare(a.Target(), b.Target()) })
	list[0].Score = points(r.Severity())
	return list
}

// points are what a rule adds by its severity, as the rule set defines it (crs-setup.conf, rule 900100).
func points(s types.RuleSeverity) int {
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

// inner says that a variable is made by the rules.
func inner(v variables.RuleVariable) bool {
	switch v {
	case variables.Unknown, variables.TX, variables.MatchedVar, variables.MatchedVars, variables.MatchedVarName, variables.MatchedVarsNames, variables.Rule, variables.UniqueID:
		return true
	}
	return false
}

// matched is the part of a value that matched, or the whole value.
func matched(d types.MatchData) string {
	value := d.Value()
	if text, ok := strings.CutPrefix(d.Data(), "Matched Data: "); ok {
		if part, _, ok := strings.Cut(text, " found within "); ok && part != "" && strings.Contains(value, part) {
			return part
		}
	}
	return value
}

// CauseOf is the cause that a rule of the Core Rule Set or of ModSecurity's recommended configuration stands for.
func CauseOf(rule int) string {
	switch {
	case rule == 911100:
		return "waf-method-policy"
	case rule == 920420 || rule == 920470 || rule == 920480 || rule == 920530:
		return "waf-content-type-policy"
	case rule == 920450 || rule == 920451:
		return "waf-header-policy"
	case rule == 920440 || rule == 920500:
		return "waf-extension-policy"
	case rule == 920350:
		return "waf-numeric-host"
	case rule == 920300 || rule == 920310 || rule == 920311 || rule == 920320 || rule == 920330 || rule == 920340 || rule == 920341:
		return "waf-missing-headers"
	case rule >= 920360 && rule <= 920410 || rule == 200007:
		return "waf-args-limit"
	case rule >= 200002 && rule <= 200006:
		return "waf-body-parse-error"
	case rule/1000 == 913:
		return "waf-scanner-ua"
	case rule/1000 == 920 || rule/1000 == 921:
		return "waf-protocol-violation"
	case rule/1000 >= 950 && rule/1000 <= 959:
		return "waf-response-blocked"
	case rule/1000 >= 900 && rule/1000 <= 999:
		return "waf-crs-anomaly"
	}
	return "waf-custom-rule"
}

// cause picks the one without which the request would pass. Where several add up, content counts as a whole.
func (p *Prediction) cause() string {
	if p.Rule != 949110 && p.Rule != 949111 {
		return CauseOf(p.Rule)
	}
	sums := map[string]int{}
	for i := range p.Matches {
		sums[CauseOf(p.Matches[i].Rule)] += p.Matches[i].Score
	}
	best := "waf-crs-anomaly"
	for cause, sum := range sums {
		if sum > sums[best] || sum == sums[best] && best != "waf-crs-anomaly" && cause < best {
			best = cause
		}
	}
	return best
}

// Clues are what the prediction says about a refusal with a status; 0 where it is not known. A replica of the
// built-in rules shows what such a firewall would do, not that there is one.
func (p *Replica) Clues(r *pinpoint.Request, status int) (clues []pinpoint.Clue) {
	out := p.Predict(r)
	id := "local-replica " + out.Engine
	if out.Detection {
		return []pinpoint.Clue{{Source: pinpoint.FromReplica, ID: id, Cause: out.Cause, Against: true, Weight: pinpoint.Strong,
			Says: "The rules of the server match this request, but they only watch: SecRuleEngine is not On."}}
	}
	if !out.Refused {
		if p.own {
			clues = append(clues, pinpoint.Clue{Source: pinpoint.FromReplica, ID: id, Cause: "waf-crs-anomaly", Against: true, Weight: pinpoint.Fair,
				Says: "The firewall rules of the server, run here, let this request pass."})
		}
		return clues
	}
	weight := pinpoint.Fair
	switch {
	case p.own:
		weight = pinpoint.Strong
	case p.level > 1 || out.Cause == "waf-body-limit" && status != 413:
		weight = pinpoint.Hint
	}
	if status != 0 && status != out.Status && !(out.Status == 403 && (status == 406 || status == 400)) {
		weight /= 2
	}
	c := pinpoint.Clue{Source: pinpoint.FromReplica, ID: id, Cause: out.Cause, Weight: weight, Names: map[string]string{}}
	switch {
	case out.Limit > 0:
		directive := "SecRequestBodyNoFilesLimit"
		if out.Limit == p.limits.body {
			directive = "SecRequestBodyLimit"
		}
		c.Says = fmt.Sprintf("The body has %d bytes; ModSecurity refuses more than %d (%s).", len(r.Body), out.Limit, directive)
		c.Names["directive"], c.Names["limit"] = directive, strconv.FormatInt(out.Limit, 10)
	case out.Cause == "waf-body-parse-error":
		c.Says = fmt.Sprintf("The rules (%s) refuse the body because it cannot be read: %s.", out.Engine, cmp.Or(Show(out.Fault), "it does not hold to its type"))
		c.Names["rule"] = strconv.Itoa(out.Rule)
	default:
		var told []string
		var rules []string
		for i := range out.Matches {
			m := &out.Matches[i]
			if m.Score == 0 {
				continue
			}
			if id := strconv.Itoa(m.Rule); !slices.Contains(rules, id) && len(rules) < 6 {
				rules = append(rules, id)
			}
			if len(told) < 3 {
				told = append(told, fmt.Sprintf("%d at %s (%s, +%d)", m.Rule, m.Target(), m.Message, m.Score))
			}
			if CauseOf(m.Rule) == out.Cause && c.Names["field"] == "" {
				c.Names["field"], c.Quote = m.Target(), m.Data
			}
		}
		c.Names["rule"] = strings.Join(rules, ", ")
		c.Says = fmt.Sprintf("Rules run here (%s) refuse this request with score %d from %d on: %s.", out.Engine, out.Score, out.Threshold, strings.Join(told, "; "))
		if out.Rule != 949110 && out.Rule != 949111 {
			c.Says = fmt.Sprintf("Rule %d, run here (%s), refuses this request: %s.", out.Rule, out.Engine, strings.Join(told, "; "))
		}
	}
	return append(clues, c)
}

// Test makes the replica an oracle for Bisect.
func (p *Replica) Test(ctx context.Context, r *pinpoint.Request) (Outcome, error) {
	if err := ctx.Err(); err != nil {
		return UNCLEAR, err
	}
	if p.Predict(r).Refused {
		return BLOCK, nil
	}
	return PASS, nil
}

// With is the replica with one more directive, as an exclusion would be placed: before the rule set where it is a rule
// with ctl, behind it where it is SecRuleUpdateTargetById.
func (p *Replica) With(directive string) (*Replica, error) {
	if p.own {
		return nil, fmt.Errorf("exclusions are tried with the built-in rules only")
	}
	before, behind := directive, ""
	if strings.HasPrefix(directive, "SecRuleUpdate") || strings.HasPrefix(directive, "SecRuleRemove") {
		before, behind = "", directive
	}
	variants.Lock()
	defer variants.Unlock()
	w, ok := variants.kept[directive]
	if !ok {
		var err error
		if w, err = build(before, behind); err != nil {
			return nil, err
		}
		if len(variants.kept) >= 4 {
			clear(variants.kept)
		}
		variants.kept[directive] = w
	}
	q := *p
	q.waf, q.serial = w, &variants.serial
	return &q, nil
}

// variants are engines with an exclusion, of which a few are kept. The lock is held while one is compiled.
var variants = struct {
	sync.Mutex
	kept   map[string]coraza.WAF
	serial sync.Mutex
}{kept: map[string]coraza.WAF{}}

// Show is text for a report: at most 24 characters, without controls, and masked where it looks personal: numbers
// of six digits or more, mail addresses.
func Show(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '·'
		}
		return r
	}, s)
	s = mail(s)
	var b strings.Builder
	digits := 0
	for i, r := range s {
		if r >= '0' && r <= '9' {
			n := 0
			for _, d := range s[i:] {
				if d >= '0' && d <= '9' {
					n++
				} else if d != ' ' && d != '-' {
					break
				}
			}
			if digits+n >= 6 {
				digits++
				b.WriteByte('*')
				continue
			}
		} else if r != ' ' && r != '-' {
			digits = 0
		}
		b.WriteRune(r)
	}
	runes := []rune(b.String())
	if len(runes) > 24 {
		return string(runes[:24]) + "…"
	}
	return string(runes)
}

// mail masks addresses.
func mail(s string) string {
	words := strings.FieldsFunc(s, unicode.IsSpace)
	for _, w := range words {
		if at := strings.IndexByte(w, '@'); at > 0 && strings.Contains(w[at:], ".") {
			s = strings.ReplaceAll(s, w, "***@***")
		}
	}
	return s
}

// clip cuts a text to n bytes, not within a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

var _ fs.ReadFileFS = (*ruleFiles)(nil)

// patience bounds how long own rules may take to compile.
const patience = 20 * time.Second
