package policy

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/corazawaf/coraza/v3/experimental/plugins/plugintypes"
	"github.com/corazawaf/coraza/v3/types/variables"
)

// WAFExclusion is what the rules of waf must not look at.
type WAFExclusion struct {
	// Rules by their numbers. Without rules and tags, all rules are meant.
	Rules []int `json:"rules" example:"[942100]"`
	// Tags of rules, such as attack-sqli or language-php.
	Tags []string `json:"tags" example:"[attack-sqli]"`
	// Route by its name. Empty: all routes that have the policy.
	Route string `json:"route" example:"search"`
	// Path for which the exclusion holds: * stands for a segment or a part of one, ** at the end for all that
	// follows. Empty: all paths.
	Path string `json:"path" example:"/articles/*/text"`
	// Parameter of the query, the form or the JSON body that is left alone. One of a JSON body is a JSON pointer
	// (RFC 6901) in which * stands for any name or number: /items/*/note.
	Parameter string `json:"parameter" example:"q"`
	// Variable of the rules that is left alone, for what is no parameter: REQUEST_HEADERS:User-Agent,
	// REQUEST_COOKIES:session, REQUEST_BODY.
	Variable string `json:"variable" example:"REQUEST_HEADERS:User-Agent"`
}

// wafRemover takes rules, or targets of rules, out of one transaction.
type wafRemover interface {
	RemoveRuleByID(id int)
	RemoveRuleTargetByID(id int, variable variables.RuleVariable, key string, keyRx *regexp.Regexp)
}

type wafVariables interface {
	Variables() plugintypes.TransactionVariables
}

// exclusion is a WAFExclusion that was compiled.
type exclusion struct {
	route, path string
	rules       []int
	targets     []wafTarget // none: the whole rules
	numbered    bool        // a name in it is a number, as positions in lists are
}

type wafTarget struct {
	variable variables.RuleVariable
	key      string
	rx       *regexp.Regexp
}

// parameters are the variables that hold parameters; rules name any of them.
var parameters = []variables.RuleVariable{variables.Args, variables.ArgsGet, variables.ArgsPost}

// compile reports what is wrong at field.
func (w *WAFExclusion) compile(env *Env, field string, e *wafEngine) *exclusion {
	x := &exclusion{route: w.Route, path: w.Path, numbered: ruleNumber.MatchString(w.Parameter) || ruleNumber.MatchString(w.Variable)}
	if len(w.Rules)+len(w.Tags) == 0 && w.Parameter == "" && w.Variable == "" {
		env.Problem(field, "name rules, tags, a parameter or a variable", "an exclusion of everything: take the policy off instead (off: true)")
		return x
	}
	if w.Parameter != "" && w.Variable != "" {
		env.Problem(field+".variable", "write two exclusions", "an exclusion has a parameter or a variable, not both")
	}
	if w.Path != "" {
		if _, err := path.Match(strings.TrimSuffix(w.Path, "**"), "/"); err != nil || w.Path[0] != '/' {
			env.Problem(field+".path", "such as /articles/*/text or /articles/**", "%q is no pattern of a path", w.Path)
		}
	}
	for i, id := range w.Rules {
		switch r := e.rules[id]; {
		case r == nil && env.Faulty["directives"]: // which may have it
		case r == nil, id <= 0: // what has no number of its own cannot be named
			env.Problem(index(field+".rules", i), e.nearRules(id), "there is no rule %d", id)
		case id == wafInbound || id == wafInboundToo:
			env.Problem(index(field+".rules", i), "exclude the rules that made the score, or raise the threshold", "rule %d only compares the score with the threshold", id)
		default:
			x.rules = append(x.rules, id)
		}
	}
	for i, tag := range w.Tags {
		before := len(x.rules)
		for id, r := range e.rules {
			if slices.Contains(r.tags, tag) && !slices.Contains(x.rules, id) {
				x.rules = append(x.rules, id)
			}
		}
		if before == len(x.rules) {
			env.Problem(index(field+".tags", i), "such as attack-sqli, attack-xss, language-php, paranoia-level/2", "no rule has the tag %q", tag)
		}
	}
	x.targets = w.target(env, field)
	if len(w.Rules)+len(w.Tags) == 0 {
		for id, r := range e.rules {
			if slices.Contains(r.tags, "OWASP_CRS") && r.splits() {
				x.rules = append(x.rules, id)
			}
		}
	} else if len(x.targets) > 0 {
		for _, id := range x.rules {
			if !e.rules[id].splits() && slices.Contains(w.Rules, id) {
				env.Problem(field, "leave the parameter or variable out, or write SecRuleUpdateTargetById in directives", "rule %d can only be excluded as a whole: it has exceptions of its own", id)
			}
		}
		x.rules = slices.DeleteFunc(x.rules, func(id int) bool { return !e.rules[id].splits() })
	}
	slices.Sort(x.rules)
	return x
}

// target is what the exclusion takes out of its rules.
func (w *WAFExclusion) target(env *Env, field string) (list []wafTarget) {
	if p := w.Parameter; p != "" {
		t := wafTarget{key: p}
		if p[0] == '/' {
			t.key, t.rx = "", pointerPattern(p)
		}
		for _, v := range parameters {
			t.variable = v
			list = append(list, t)
		}
		return list
	}
	if w.Variable == "" {
		return nil
	}
	name, key, colon := strings.Cut(w.Variable, ":")
	v, err := variables.Parse(name)
	if err != nil {
		env.Problem(field+".variable", "such as REQUEST_HEADERS:User-Agent, REQUEST_COOKIES:session, REQUEST_URI or ARGS_NAMES", "there is no variable %q", clipBytes(name, 60))
		return nil
	}
	if colon && key == "" {
		env.Problem(field+".variable", "name one of its entries behind the colon, or leave the colon out", "%q names no entry of %s", w.Variable, name)
	}
	list = []wafTarget{{variable: v, key: key}}
	if v == variables.RequestXML { // which rules call XML
		list = append(list, wafTarget{variable: variables.XML, key: key})
	}
	return list
}

// pointerPattern matches the name that the engine gives to a JSON value: json.items.0.note for
// /items/0/note. It compares names in lower case.
func pointerPattern(pointer string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString("^json")
	for seg := range strings.SplitSeq(pointer[1:], "/") {
		b.WriteString(`\.`)
		if seg == "*" {
			b.WriteString(`[^.]+`)
		} else {
			b.WriteString(regexp.QuoteMeta(strings.ToLower(unescapePointer.Replace(seg))))
		}
	}
	b.WriteByte('$')
	return regexp.MustCompile(b.String()) // everything in it is quoted
}

var unescapePointer, pointerEscaper = strings.NewReplacer("~1", "/", "~0", "~"), strings.NewReplacer("~", "~0", "/", "~1")

// nearRules helps with the number of a rule that does not exist.
func (e *wafEngine) nearRules(id int) string {
	near := 0
	for have := range e.rules {
		if have <= 0 {
			continue // it has no number of its own
		}
		if d, best := max(have-id, id-have), max(near-id, id-near); near == 0 || d < best || d == best && have < near {
			near = have
		}
	}
	return fmt.Sprintf("a refusal names its rules; the nearest to this number is %d", near)
}

// holds says that the exclusion is for this call.
func (x *exclusion) holds(call *Exchange) bool {
	return (x.route == "" || x.route == call.Route.Name) && (x.path == "" || matchesPath(x.path, call.Path))
}

// matchesPath compares segment by segment; ** at the end of the pattern stands for the rest.
func matchesPath(pattern, p string) bool {
	head, all := strings.CutSuffix(pattern, "**")
	if all {
		n := strings.Count(head, "/")
		for i := 0; i < len(p); i++ {
			if p[i] == '/' {
				if n--; n == 0 {
					ok, _ := path.Match(head, p[:i+1])
					return ok
				}
			}
		}
		return false
	}
	ok, _ := path.Match(pattern, p)
	return ok
}

// positional says that the exclusion is for one position in a list of a JSON body.
func (x *exclusion) positional() bool { return x.numbered }

var ruleNumber = regexp.MustCompile(`(^|[./])[0-9]+([./]|$)`)

// apply takes what is excluded out of a transaction.
func (x *exclusion) apply(tx wafRemover) {
	for _, id := range x.rules {
		if len(x.targets) == 0 {
			tx.RemoveRuleByID(id)
		}
		for _, t := range x.targets {
			tx.RemoveRuleTargetByID(id, t.variable, t.key, t.rx)
		}
	}
}
