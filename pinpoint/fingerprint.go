package pinpoint

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// fingerprint is one entry of fingerprints.yaml: an answer by which a product is known.
type fingerprint struct {
	ID      string
	Refuser string
	Layer   string
	Match   struct {
		Status  []int
		Headers map[string]string
		Absent  []string
		Body    string
		Cookies []string
	}
	Cause      string
	Refine     []refinement
	Confidence float64
	Passes     bool
	Look       string
	Fix        string
	Source     string

	headers []headerPattern
	body    *pattern
	cookies []*pattern
}

type headerPattern struct {
	name string
	*pattern
}

// refinement replaces a cause by a finer one when the text that matched says more.
type refinement struct {
	Re    string
	Cause string

	pattern *pattern
}

var fingerprints = sync.OnceValue(func() []*fingerprint {
	var list []*fingerprint
	read("fingerprints", &list)
	for _, f := range list {
		for name, text := range f.Match.Headers {
			f.headers = append(f.headers, headerPattern{name, newPattern(text)})
		}
		slices.SortFunc(f.headers, func(a, b headerPattern) int { return strings.Compare(a.name, b.name) })
		if f.Match.Body != "" {
			f.body = newPattern(f.Match.Body)
		}
		for _, text := range f.Match.Cookies {
			f.cookies = append(f.cookies, newPattern(text))
		}
		for i := range f.Refine {
			f.Refine[i].pattern = newPattern(f.Refine[i].Re)
		}
	}
	return list
})

// fingerprintLook is what to look at to confirm a fingerprint.
var fingerprintLook = sync.OnceValue(func() map[string]string {
	m := map[string]string{}
	for _, f := range fingerprints() {
		m[f.ID] = f.Look
	}
	return m
})

// How much of an answer the fingerprints see.
const (
	searchedBody   = 64 << 10
	searchedFields = 256
	searchedValue  = 8 << 10
)

// Match holds an answer against all fingerprints. The clues come best first: more conditions before
// fewer, a named cause before a refuser alone, then by weight. Each has Source FromAnswer, and as Weight the
// logarithm of the odds that refuser and cause are right when only this match is known, so it is below 0
// where they are more likely wrong.
func Match(a *Answer) []Clue {
	if a == nil || a.Status == 0 {
		return nil
	}
	body := a.Body[:min(len(a.Body), searchedBody)]
	fields := a.Header[:min(len(a.Header), searchedFields)]
	in := newSearched(body)
	var cookies []string
	for _, f := range fields {
		if strings.EqualFold(f.Name, "Set-Cookie") {
			name, _, _ := strings.Cut(f.Value, "=")
			cookies = append(cookies, strings.TrimSpace(name[:min(len(name), 256)]))
		}
	}
	type found struct {
		clue       Clue
		conditions int
	}
	var all []found
next:
	for _, f := range fingerprints() {
		if !slices.Contains(f.Match.Status, a.Status) {
			continue
		}
		quote := ""
		text := body // what refinements look at
		for _, h := range f.headers {
			value, ok := fieldMatching(fields, h)
			if !ok {
				continue next
			}
			quote = h.name + ": " + value
			if f.body == nil {
				text = []byte(value)
			}
		}
		for _, name := range f.Match.Absent {
			if Header(fields).Has(name) {
				continue next
			}
		}
		for _, c := range f.cookies {
			if !slices.ContainsFunc(cookies, func(n string) bool { return c.compile().MatchString(n) }) {
				continue next
			}
		}
		if f.body != nil {
			at := f.body.find(body, in)
			if at == nil {
				continue next
			}
			text = body[at[0]:at[1]]
			if len(text) > 0 {
				quote = string(text[:min(len(text), 4*quoteLength)])
			}
		}
		c := Clue{Source: FromAnswer, ID: f.ID, Refuser: f.Refuser, Quote: excerpt(quote)}
		if f.Refuser == "unknown" || f.Refuser == "origin" || f.Refuser == "http-cache" || f.Refuser == "bearer-resource-server" {
			c.Refuser = ""
		}
		if f.Cause != refuserOnly {
			c.Cause = refine(f.Cause, f.Refine, text)
			if f.Fix != "" && c.Cause == f.Cause {
				c.Fix = []string{f.Fix}
			}
		}
		c.Weight = min(math.Log(f.Confidence/(1-f.Confidence)), Certain)
		c.Says = f.says(c.Cause)
		if c.Weight < 0 && c.Cause != "" && !f.Passes {
			c.Says = strings.Replace(c.Says, "The answer is one that ", "The answer may be one that ", 1)
		}
		if f.Passes {
			c.Refuser, c.Against = f.Refuser, true
		}
		if names := answerNames(f, fields, text); len(names) > 0 {
			c.Names = names
		}
		n := len(f.headers) + len(f.Match.Absent) + len(f.cookies) + 1
		if f.body != nil {
			n += 2 // a text is more than a field
		}
		all = append(all, found{c, n})
	}
	slices.SortStableFunc(all, func(x, y found) int {
		return cmp.Or(
			cmp.Compare(rank(y.clue), rank(x.clue)),
			cmp.Compare(y.conditions, x.conditions),
			cmp.Compare(y.clue.Weight, x.clue.Weight),
		)
	})
	var clues []Clue
	named := map[string]string{} // cause that the best entry of a product names
	for _, f := range all {
		c := f.clue
		if c.Cause != "" && c.Refuser != "" && !c.Against {
			if before, ok := named[c.Refuser]; !ok && c.Weight >= Fair {
				named[c.Refuser] = c.Cause
			} else if ok && before != c.Cause {
				c.Weight = min(c.Weight, 0) // a wider entry of the same product, kept as a mention
			}
		}
		clues = append(clues, c)
	}
	return clues
}

// rank puts a cause that is more likely right than wrong first, and what speaks of handing on last.
func rank(c Clue) int {
	switch {
	case c.Against:
		return 0
	case c.Cause != "" && c.Weight >= 0:
		return 2
	}
	return 1
}

func (f *fingerprint) says(cause string) string {
	if f.Passes {
		return fmt.Sprintf("The fields of the answer show that %s handed it on from a server behind it.", ProductName(f.Refuser))
	}
	title := ""
	if c, ok := CauseByID(cause); ok {
		title = c.Title
	}
	who := ProductName(f.Refuser)
	switch {
	case f.Refuser == "unknown" || f.Refuser == "origin":
		who = "a server"
	case f.Refuser == "http-cache":
		who = "a cache"
	case f.Refuser == "bearer-resource-server":
		who = "a server that takes bearer tokens"
	}
	if title == "" {
		return fmt.Sprintf("The answer is one that %s gives; it does not say why.", who)
	}
	return fmt.Sprintf("The answer is one that %s gives for this: %s.", who, title)
}

func fieldMatching(fields Header, h headerPattern) (string, bool) {
	for _, f := range fields {
		if !strings.EqualFold(f.Name, h.name) {
			continue
		}
		v := f.Value[:min(len(f.Value), searchedValue)]
		if h.compile().MatchString(v) {
			return v, true
		}
	}
	return "", false
}

func refine(cause string, by []refinement, text []byte) string {
	for _, r := range by {
		if r.pattern.compile().Match(text) {
			return r.Cause
		}
	}
	return cause
}

// namedFields are fields of an answer that a person asks the owner with, or that a fix quotes.
var namedFields = []struct{ field, name string }{
	{"CF-Ray", "incident"}, {"X-Azure-Ref", "incident"}, {"X-Amz-Cf-Id", "incident"}, {"X-Amzn-RequestId", "request_id"},
	{"X-Amz-Request-Id", "request_id"}, {"Retry-After", "retry_after"}, {"Allow", "allow"}, {"Whygate-Call", "call"},
	{"X-Varnish", "xid"},
}

// incident is the number by which the owner of a firewall finds the event: "Attack ID: 20000008", "Your support ID is: 17".
var incident = regexp.MustCompile(`(?i)\b((?:attack|incident|support|reference|event|request|block|case|ray) (?:id|number|no|code))\b\.?(?: is)?\s{0,3}[:#]\s{0,3}(?:</?[a-z]{1,8}>\s{0,3}){0,2}([A-Za-z0-9][A-Za-z0-9._-]{3,79})`)

func answerNames(f *fingerprint, fields Header, text []byte) map[string]string {
	names := map[string]string{}
	for _, n := range namedFields {
		if v := fields.Value(n.field); v != "" {
			names[n.name] = excerpt(v)
		}
	}
	if f.body != nil {
		re := f.body.compile()
		if m := re.FindSubmatch(text); m != nil {
			for i, name := range re.SubexpNames() {
				if name != "" && len(m[i]) > 0 {
					names[name] = excerpt(string(m[i]))
				}
			}
		}
	}
	if f.Layer == "waf" && names["incident"] == "" {
		if m := incident.FindSubmatch(text); m != nil {
			names["incident"] = excerpt(string(m[1]) + " " + string(m[2]))
		}
	}
	if v := fields.Value("WWW-Authenticate"); v != "" {
		if scope := parameter(v, "scope"); scope != "" {
			names["scope"] = excerpt(scope)
		}
		if scheme, _, _ := strings.Cut(v, " "); scheme != "" && len(scheme) < 32 {
			names["scheme"] = excerpt(scheme)
		}
	}
	return names
}

// parameter is the value of a quoted parameter of a challenge (RFC 9110, section 11.2).
func parameter(challenge, name string) string {
	challenge = challenge[:min(len(challenge), searchedValue)]
	i := strings.Index(strings.ToLower(challenge), name+`="`)
	if i < 0 {
		return ""
	}
	value, _, _ := strings.Cut(challenge[i+len(name)+2:], `"`)
	return value
}
