package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/corazawaf/coraza-coreruleset/v4"
	"github.com/corazawaf/coraza/v3"
	"github.com/corazawaf/coraza/v3/experimental"
	"github.com/corazawaf/coraza/v3/types"
)

// wafEngine is a compiled set of rules. Paranoia, thresholds and exclusions are set per call, so that
// all routes without directives of their own share one: it takes a fifth of a second and 20 MB to make.
type wafEngine struct {
	waf   coraza.WAF
	rules map[int]*wafRule
	skip  *skipIndex
	// line of the directives at which compiling failed, and why.
	line int
	err  error
}

// wafRule is what refusals and exclusions need to know of a rule.
type wafRule struct {
	id    int
	tags  []string
	phase types.RulePhase
	// firstScores says that the first link of a chain adds to the score, and not the last one.
	firstScores bool
	// exceptions is the largest number of them that a target has in the rule itself; grown says that
	// directives added some. See splits.
	exceptions int
	grown      bool
}

// Start does nothing: the engine has no life of its own.
func (*wafEngine) Start() {}

// Close gives compiled expressions back that no other engine uses.
func (e *wafEngine) Close() {
	if c, ok := e.waf.(interface{ Close() error }); ok {
		c.Close() // it cannot fail: nothing is written
	}
}

// splits says that single targets can be taken out of the rule for one call. Coraza appends those to a list
// that calls share, which is safe only where that list has no room left.
func (r *wafRule) splits() bool { return !r.grown && r.exceptions&(r.exceptions-1) == 0 }

// wafBase comes before the rules: which bodies are parsed and how strictly. 200002 and 200003 are the
// rules of Coraza's recommended configuration for bodies that cannot be read. SecRxPreFilter stays off: with it
// Coraza 3.8.1 misses attacks that its own expressions match (tests 932311-7 and 942220-2 of the rule set).
const wafBase = `
SecRuleEngine On
SecRequestBodyAccess On
SecResponseBodyAccess On
SecAuditEngine Off
SecRxPreFilter Off
SecArgumentsLimit 1000
SecRequestBodyJsonDepthLimit 64
SecResponseBodyJsonDepthLimit 64
SecRequestBodyLimit 134217728
SecRequestBodyInMemoryLimit 134217728
SecResponseBodyLimit 134217728
SecResponseBodyMimeType text/plain text/html text/xml application/json application/problem+json application/xml
SecRule REQUEST_HEADERS:Content-Type "@rx ^(?:application(?:/soap\+|/)|text/)xml" "id:200000,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=XML"
SecRule REQUEST_HEADERS:Content-Type "@rx ^application/[a-z0-9.-]+[+]xml" "id:200005,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=XML"
SecRule REQUEST_HEADERS:Content-Type "@rx ^application/json" "id:200001,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
SecRule REQUEST_HEADERS:Content-Type "@rx ^application/[a-z0-9.-]+[+]json" "id:200006,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
SecRule REQBODY_ERROR "!@eq 0" "id:200002,phase:2,t:none,log,deny,status:400,msg:'The body cannot be parsed'"
SecRule MULTIPART_STRICT_ERROR "!@eq 0" "id:200003,phase:2,t:none,log,deny,status:400,msg:'The multipart body is not strictly formed'"
SecRule ARGUMENTS_LIMIT_REACHED "!@eq 0" "id:200007,phase:2,t:none,log,deny,status:400,msg:'More than 1000 parameters'"
`

// The rules of wafBase that refuse what cannot be inspected.
const (
	wafBodyError  = 200002
	wafMultipart  = 200003
	wafTooMany    = 200007
	wafInbound    = 949110
	wafInboundToo = 949111 // in phase 1
)

// directive is one directive of a file: several lines where they end in a backslash.
type directive struct {
	line int // of its beginning, from 1
	name string
	text string
}

// wafDirectives are those that directives files may use. The others would write files, fetch rules or
// change what the policy has settings for.
var wafDirectives = map[string]string{
	"secrule": "", "secaction": "", "secmarker": "", "secruleremovebyid": "", "secruleremovebytag": "", "secruleremovebymsg": "",
	"secruleupdatetargetbyid": "", "secruleupdatetargetbytag": "", "secruleupdateactionbyid": "", "secdefaultaction": "", "secdataset": "",
	"seccomponentsignature": "", "secargumentslimit": "", "secrequestbodyjsondepthlimit": "", "secresponsebodyjsondepthlimit": "",
	"secruleengine": "shadow: true beside waf watches only", "secrequestbodylimit": "the setting is maxBody", "secrequestbodyaccess": "the setting is bodies",
	"secresponsebodyaccess": "the setting is responses", "secresponsebodylimit": "the setting is maxResponse", "include": "put the directives into this file",
}

// directiveError is what is wrong at a line of a directives file.
type directiveError struct {
	line       int
	text, hint string
}

const (
	maxDirectives     = 4096
	maxDirectiveBytes = 32 << 10
)

// splitDirectives finds the directives of a file. The engine itself does not tell at which line it
// stopped, so each is given to it alone.
func splitDirectives(data []byte) (list []directive, bad *directiveError) {
	var d directive
	quoted := false // between backticks
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if d.text == "" {
			d.line = i + 1
		}
		if len(d.text)+len(line) > maxDirectiveBytes {
			return nil, &directiveError{d.line, fmt.Sprintf("a directive of more than %d bytes", maxDirectiveBytes), ""}
		}
		if !quoted && strings.HasSuffix(line, "`") {
			quoted = true
		} else if quoted && line[0] == '`' {
			quoted = false
		}
		if quoted {
			d.text += line + "\n"
			continue
		}
		more := strings.HasSuffix(line, `\`)
		if d.text += line; more {
			d.text = d.text[:len(d.text)-1] + " "
			continue
		}
		d.name, _, _ = strings.Cut(d.text, " ")
		hint, known := wafDirectives[strings.ToLower(d.name)]
		switch {
		case !known && !strings.HasPrefix(strings.ToLower(d.name), "sec"):
			return nil, &directiveError{d.line, fmt.Sprintf("%q is no directive", clipBytes(d.name, 40)), "a line that goes on ends in a backslash"}
		case !known:
			return nil, &directiveError{d.line, fmt.Sprintf("the directive %s is not for this file", clipBytes(d.name, 40)), "SecRule, SecAction, SecRuleRemoveById, SecRuleUpdateTargetById and their like can be used"}
		case hint != "":
			return nil, &directiveError{d.line, fmt.Sprintf("the directive %s is not for this file", d.name), hint}
		case len(list) == maxDirectives:
			return nil, &directiveError{d.line, fmt.Sprintf("more than %d directives", maxDirectives), ""}
		}
		list = append(list, d)
		d = directive{}
	}
	if quoted || d.text != "" {
		return nil, &directiveError{d.line, "this directive does not end", "a backslash at the end of its last line, or an open backtick"}
	}
	return list, nil
}

// updates says that a directive changes rules that must be there already.
func (d *directive) updates() bool {
	name := strings.ToLower(d.name)
	return strings.HasPrefix(name, "secruleremove") || strings.HasPrefix(name, "secruleupdate")
}

// rulesFS shows the engine each directive as a file of its own, beside the files of the rule set.
type rulesFS struct {
	fs.FS
	list []directive
	line int // of the directive that was read last
	skip *skipIndex
}

const directiveFile = "whygate-directive-"

// ReadFile is what the engine calls.
func (r *rulesFS) ReadFile(name string) ([]byte, error) {
	r.line = 0
	if _, n, ok := strings.Cut(name, directiveFile); ok {
		if i, err := strconv.Atoi(n); err == nil && i >= 0 && i < len(r.list) {
			r.line = r.list[i].line
			return []byte(r.list[i].text), nil
		}
	}
	data, err := fs.ReadFile(r.FS, name)
	if err == nil && strings.HasSuffix(name, ".conf") {
		data = withRxOperator(data)
	}
	return data, err
}

// newWAFEngine compiles the rule set with directives of the user. Those that define something come before
// the rule set, so that they can prepare what it does; those that change rules come behind it.
func newWAFEngine(list []directive) *wafEngine {
	e := &wafEngine{rules: map[int]*wafRule{}, skip: newSkipIndex()}
	files := &rulesFS{FS: coreruleset.FS, list: list, skip: e.skip}
	base := wafBase
	if skipsWith(list) {
		base = wafSkipRules + wafBase
	}
	config := coraza.NewWAFConfig().WithRootFS(files).WithDirectives(base).WithDirectivesFromFile("@crs-setup.conf.example")
	add := func(updates bool) {
		for i := range list {
			if list[i].updates() == updates {
				config = config.WithDirectivesFromFile(directiveFile + strconv.Itoa(i))
			}
		}
	}
	add(false)
	config = config.WithDirectivesFromFile("@owasp_crs/*.conf")
	add(true)
	config = experimental.WAFConfigWithRuleObserver(config, e.observe)
	if e.waf, e.err = coraza.NewWAF(config); e.err != nil {
		e.line = files.line
		return e
	}
	for i := range list {
		e.grow(&list[i])
	}
	e.skip.build(func(id int) bool { return !e.rules[id].grown })
	tx := e.waf.NewTransaction()
	defer tx.Close()
	if _, ok := tx.(wafTransaction); !ok {
		panic("BUG: this version of Coraza has no transaction that exclusions can be set in")
	}
	return e
}

// wafFault is the engine's own error without what it says of its files.
func wafFault(err error) string {
	text := err.Error()
	for u := err; u != nil; u = errors.Unwrap(u) {
		text = u.Error()
	}
	if _, rest, ok := strings.Cut(text, `failed to compile the directive "`); ok {
		_, text, _ = strings.Cut(rest, `": `)
	}
	return clipBytes(text, 200)
}

func (e *wafEngine) observe(m types.RuleMetadata) {
	raw := m.Raw()
	head, _, _ := strings.Cut(strings.TrimPrefix(raw, "SecRule "), " ")
	r := &wafRule{id: m.ID(), tags: slices.Clone(m.Tags()), phase: m.Phase(), firstScores: strings.Contains(raw, "anomaly_score_pl")}
	r.exceptions = mostExceptions(head)
	e.rules[r.id] = r
	e.skip.add(m)
}

// mostExceptions is the largest number of exceptions of one variable in a list of targets.
func mostExceptions(targets string) (most int) {
	count := map[string]int{}
	for t := range strings.SplitSeq(targets, "|") {
		if name, ok := strings.CutPrefix(t, "!"); ok {
			name, _, _ = strings.Cut(name, ":")
			count[name]++
			most = max(most, count[name])
		}
	}
	return most
}

// grow notes which rules a directive adds exceptions to.
func (e *wafEngine) grow(d *directive) {
	words := strings.Fields(d.text)
	if !strings.HasPrefix(strings.ToLower(d.name), "secruleupdatetarget") || len(words) < 3 {
		return
	}
	for _, word := range words[1 : len(words)-1] {
		low, high, _ := strings.Cut(word, "-")
		from, err := strconv.Atoi(low)
		to := from
		if high != "" && err == nil {
			to, err = strconv.Atoi(high)
		}
		for id, r := range e.rules {
			if err != nil || id >= from && id <= to { // a tag: it may be any rule
				r.grown = true
			}
		}
	}
}

// wafTransaction is what a transaction of Coraza can do besides types.Transaction.
type wafTransaction interface {
	types.Transaction
	wafRemover
	wafVariables
}

// engineFor returns the engine of a set of directives, which all revisions and routes share.
func engineFor(env *Env, list []directive) *wafEngine {
	var key bytes.Buffer
	key.WriteString("waf")
	for _, d := range list {
		fmt.Fprintf(&key, "\x00%d %s", d.line, d.text)
	}
	create := func() Kept { return newWAFEngine(list) }
	if env.Keep == nil {
		return create().(*wafEngine)
	}
	return env.Keep(key.String(), create).(*wafEngine)
}
