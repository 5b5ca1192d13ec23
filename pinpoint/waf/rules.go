package waf

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/corazawaf/coraza/v3"

	"github.com/whygate/whygate/pinpoint"
)

// Left is a directive of the server's rules that the replica could not take over.
type Left struct {
	At   pinpoint.Place
	Name string // "SecRule 942100", "SecGeoLookupDb"
	Why  string
}

// rule is one directive, or a chain of rules, which belongs together.
type rule struct {
	file string
	line int
	name string // lower case
	text string
}

// Bounds of rule files.
const (
	maxRuleFiles = 500
	maxRuleBytes = 16 << 20
	maxRules     = 20_000
	maxRuleText  = 60 << 10
	maxIncludes  = 20
	maxRetries   = 25
	maxLeft      = 200
)

// taken are directives that the engine gets. All others either write, fetch or execute something, or say nothing
// about what is refused.
var taken = []string{"secrule", "secaction", "secmarker", "secruleremovebyid", "secruleremovebytag", "secruleremovebymsg", "secruleupdatetargetbyid",
	"secruleupdatetargetbytag", "secruleupdatetargetbymsg", "secruleupdateactionbyid", "secdefaultaction", "secargumentseparator",
	"secrequestbodyjsondepthlimit", "secargumentslimit", "secrequestbodyaccess"}

// unheard begin the names of directives that are about logs, answers, memory and places of files.
var unheard = []string{"secaudit", "secdebug", "secupload", "sectmp", "secdata", "secpcre", "secunicode", "secstatus", "secresponse", "secserver",
	"seccollection", "secrequestbodyinmemory", "secrequestbodynofiles", "secrequestbodylimit", "secruleengine", "seccomponent", "seccookieformat",
	"secconn", "secwebapp", "secsensor", "secruleperf", "secrxprefilter", "secignore", "secxmlexternalentity", "seccookiev0", "secinterceptonerror",
	"secdisablebackend", "secchroot", "secguardian", "secstream", "seccontentinjection", "seccachetransformations", "secparsexml"}

// forbidden are operators and actions that would run a program, ask the network or read what is not a rule.
var forbidden = regexp.MustCompile(`(?i)@(?:inspectFile|rbl|validateSchema|validateDTD|gsbLookup|geoLookup|ipMatchFromFile\s+https?:|pmFromFile\s+https?:|fuzzyHash)\b|[",\s](?:exec|proxy):`)

var (
	// lasting are actions on what is remembered between requests, which Coraza does not have. They do not change
	// what becomes of this one.
	lasting = regexp.MustCompile(`(?i),\s*(?:setvar|expirevar|deprecatevar):'?!?(?:ip|global|session|user|resource)\.[^,"']*'?`)
	chained = regexp.MustCompile(`(?i)[",\s]chain\s*(?:[",]|$)`)
	ruleID  = regexp.MustCompile(`(?i)[",\s]id:'?(\d+)`)
)

// NewReplicaFrom has the rules of a server: SecLang files, their includes resolved. What Coraza lacks is left
// out and returned, as is what stands in a section for one place, such as <Location>.
func NewReplicaFrom(files pinpoint.Files, paths ...string) (*Replica, []Left, error) {
	c := &collector{files: files}
	for _, p := range paths {
		if err := c.file(p, 0); err != nil {
			return nil, c.left, err
		}
	}
	if len(c.rules) == 0 {
		return nil, c.left, fmt.Errorf("there is no rule in these files")
	}
	r := &Replica{own: true, detection: c.engine != "on", limits: c.limits, serial: new(sync.Mutex)}
	until := time.Now().Add(patience)
	rules := c.alone(until)
	for try := 0; ; try++ {
		w, bad, err := compile(files, rules)
		if err == nil {
			r.waf = w
			return r, c.left, nil
		}
		if bad < 0 || try == maxRetries || time.Now().After(until) {
			return nil, c.left, fmt.Errorf("compiling the rules of the server: %s", clip(err.Error(), 200))
		}
		c.leave(rules[bad], reasonOf(err))
		rules = slices.Delete(slices.Clone(rules), bad, bad+1)
	}
}

type collector struct {
	files  pinpoint.Files
	rules  []rule
	left   []Left
	count  int // files
	bytes  int
	engine string
	limits limits
}

func (c *collector) leave(r rule, why string) {
	if len(c.left) >= maxLeft {
		return
	}
	name := r.text
	name, _, _ = strings.Cut(name, " ")
	if m := ruleID.FindStringSubmatch(r.text); m != nil {
		name += " " + m[1]
	}
	c.left = append(c.left, Left{pinpoint.Place{File: r.file, Line: r.line}, clip(name, 80), why})
}

// reasonOf is the innermost error, which says nothing of where this program keeps things.
func reasonOf(err error) string {
	text := err.Error()
	if _, rest, ok := strings.Cut(text, `failed to compile the directive "`); ok {
		_, text, _ = strings.Cut(rest, `": `)
	}
	return "Coraza cannot use it: " + clip(text, 160)
}

// file reads one file of directives.
func (c *collector) file(name string, depth int) error {
	if depth > maxIncludes {
		return fmt.Errorf("%s: includes are nested more than %d deep", name, maxIncludes)
	}
	if c.count++; c.count > maxRuleFiles {
		return fmt.Errorf("more than %d rule files", maxRuleFiles)
	}
	data, err := c.files.ReadFile(name)
	if err != nil {
		return fmt.Errorf("reading rules: %w", err)
	}
	if c.bytes += len(data); c.bytes > maxRuleBytes {
		return fmt.Errorf("the rule files have more than %d bytes", maxRuleBytes)
	}
	var text strings.Builder
	start := 0
	scoped, negated := 0, 0
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if text.Len() == 0 {
			start = i + 1
		}
		if text.Len()+len(line) > maxRuleText {
			return fmt.Errorf("%s:%d: a directive of more than %d bytes", name, start, maxRuleText)
		}
		if more, ok := strings.CutSuffix(line, `\`); ok {
			text.WriteString(more)
			continue
		}
		text.WriteString(line)
		r := rule{file: name, line: start, text: text.String()}
		text.Reset()
		word, rest, _ := strings.Cut(strings.ReplaceAll(r.text, "\t", " "), " ")
		r.name = strings.ToLower(word)
		rest = strings.Trim(strings.TrimSpace(rest), `"'>`)
		switch {
		case strings.HasPrefix(r.name, "</ifmodule"), strings.HasPrefix(r.name, "</ifversion"), strings.HasPrefix(r.name, "</ifdefine"):
			negated = max(0, negated-1)
			continue
		case strings.HasPrefix(r.name, "<if"):
			if negated > 0 || strings.HasPrefix(rest, "!") && strings.Contains(rest, "security") || r.name == "<ifdefine" {
				negated++
			}
			continue
		case strings.HasPrefix(r.name, "</"):
			scoped = max(0, scoped-1)
			continue
		case strings.HasPrefix(r.name, "<"):
			scoped++
			c.leave(r, "it applies to one place only; the replica runs rules for all")
			continue
		case negated > 0:
			continue
		case scoped > 0:
			if strings.HasPrefix(r.name, "sec") {
				c.leave(r, "it applies to one place only; the replica runs rules for all")
			}
			continue
		}
		if err := c.directive(r, rest, depth); err != nil {
			return err
		}
	}
	return nil
}

func (c *collector) directive(r rule, rest string, depth int) error {
	number := func(into *int64) {
		if n, err := strconv.ParseInt(rest, 10, 64); err == nil {
			*into = n
		}
	}
	switch r.name {
	case "include", "includeoptional":
		pattern := rest
		if !path.IsAbs(pattern) {
			pattern = path.Join(path.Dir(r.file), pattern)
		}
		names, err := c.files.Glob(pattern)
		if err != nil || len(names) == 0 && !strings.ContainsAny(pattern, "*?[") {
			if r.name == "include" {
				c.leave(r, "the file cannot be found")
			}
			return nil
		}
		slices.Sort(names)
		for _, n := range names {
			if err := c.file(n, depth+1); err != nil {
				return err
			}
		}
		return nil
	case "secruleengine":
		c.engine = strings.ToLower(rest)
		return nil
	case "secrequestbodylimit":
		number(&c.limits.body)
		return nil
	case "secrequestbodynofileslimit":
		number(&c.limits.noFiles)
		return nil
	case "secrequestbodylimitaction":
		c.limits.partial = strings.EqualFold(rest, "ProcessPartial")
		return nil
	}
	switch {
	case !strings.HasPrefix(r.name, "sec"):
		return nil
	case !slices.Contains(taken, r.name):
		if !slices.ContainsFunc(unheard, func(p string) bool { return strings.HasPrefix(r.name, p) }) {
			c.leave(r, "the replica does not have this directive")
		}
		return nil
	case len(c.rules) >= maxRules:
		return fmt.Errorf("more than %d rules", maxRules)
	case r.name == "secrule" && len(c.rules) > 0:
		if last := &c.rules[len(c.rules)-1]; last.name == "chain" && last.file == r.file {
			if len(last.text) > maxRuleText {
				return fmt.Errorf("%s:%d: a chain of more than %d bytes", r.file, last.line, maxRuleText)
			}
			last.text += "\n" + r.text
			if !chained.MatchString(r.text) {
				last.name = "secrule"
			}
			return nil
		}
	}
	if (r.name == "secrule" || r.name == "secaction") && chained.MatchString(r.text) {
		r.name = "chain"
	}
	c.rules = append(c.rules, r)
	return nil
}

// alone leaves out rules that do not compile by themselves.
func (c *collector) alone(until time.Time) (kept []rule) {
	for _, r := range c.rules {
		switch {
		case forbidden.MatchString(r.text):
			c.leave(r, "it would run a program, ask the network or read another file")
			continue
		case r.name == "chain":
			c.leave(r, "the chain does not end")
			continue
		case r.name == "secrule" && time.Now().Before(until):
			_, _, err := compile(c.files, []rule{r})
			if lasting.MatchString(r.text) && err != nil {
				r.text = lasting.ReplaceAllString(r.text, "")
				_, _, err = compile(c.files, []rule{r})
			}
			if err != nil {
				c.leave(r, reasonOf(err))
				continue
			}
		}
		kept = append(kept, r)
	}
	return kept
}

// compile makes an engine. bad is the rule at which it stopped, -1 where that is not known.
func compile(files pinpoint.Files, rules []rule) (w coraza.WAF, bad int, err error) {
	f := &ruleFiles{files: files, rules: rules, last: -1}
	config := coraza.NewWAFConfig().WithRootFS(f).WithDirectives(base)
	for i := range rules {
		config = config.WithDirectivesFromFile(path.Join(path.Dir(rules[i].file), ruleFile+strconv.Itoa(i)))
	}
	if w, err = coraza.NewWAF(config); err != nil {
		return nil, f.last, err
	}
	return w, -1, nil
}

// ruleFiles shows the engine each rule as a file of its own, in the directory of its file, and beside them the data
// files of rules.
type ruleFiles struct {
	files pinpoint.Files
	rules []rule
	last  int // rule that was read last
}

const ruleFile = "whygate-rule-"

// ReadFile is what the engine calls.
func (f *ruleFiles) ReadFile(name string) ([]byte, error) {
	if n, ok := strings.CutPrefix(path.Base(name), ruleFile); ok {
		if i, err := strconv.Atoi(n); err == nil && i >= 0 && i < len(f.rules) {
			f.last = i
			return []byte(f.rules[i].text), nil
		}
	}
	data, err := f.files.ReadFile(name)
	if err == nil && len(data) > maxRuleBytes {
		err = fmt.Errorf("%s is too large", path.Base(name))
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return data, nil
}

// Open is there because fs.FS asks for it.
func (f *ruleFiles) Open(name string) (fs.File, error) {
	data, err := f.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return &openRule{Reader: bytes.NewReader(data)}, nil
}

type openRule struct{ *bytes.Reader }

func (*openRule) Stat() (fs.FileInfo, error) { return nil, fs.ErrInvalid }
func (*openRule) Close() error               { return nil }

var _ io.Reader = (*openRule)(nil)
