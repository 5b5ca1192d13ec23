package waf

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// Exclusion is a directive that takes one place of one path out of some rules. Everything else is judged as before.
type Exclusion struct {
	Product   string `json:"product"` // "modsecurity-2", "modsecurity-3", "coraza"
	Directive string `json:"directive"`
	Placement string `json:"placement"`
	Says      string `json:"says"`
	Rules     []int  `json:"rules"`
	Target    string `json:"target"`
	// Verified says that the built-in rules, run here with the exclusion in Coraza's spelling, let the request pass
	// and still refuse the same content in another field.
	Verified bool `json:"verified"`
}

// explain names the rules of each fragment, and what to exclude.
func (b *bisection) explain(r *pinpoint.Request) {
	p := b.opts.Replica
	if own, ok := b.oracle.(*Replica); ok {
		p = own
	}
	if p == nil {
		return
	}
	full := p.Predict(r)
	twin := b.m.Twin()
	for t := range b.res.Triggers {
		alone := p.Predict(b.m.Render(b.alone(b.triggers[t], twin)))
		if alone.Refused && t == 0 {
			b.res.Cause, b.res.named = alone.Cause, true
		}
		out := &b.res.Triggers[t]
		for i := range alone.Matches {
			m := &alone.Matches[i]
			c := Candidate{p.Engine(), m.Rule, m.Message, m.Target()}
			mine := false
			for f := range out.Parts {
				if b.m.Leaves[out.Parts[f].leaf].is(m) {
					out.Parts[f].Rules = append(out.Parts[f].Rules, c)
					mine = true
				}
			}
			if !mine && m.Score > 0 && len(out.Also) < 8 {
				out.Also = append(out.Also, c)
			}
		}
		if b.opts.NoExclusion || !full.Refused {
			continue
		}
		for f := range out.Parts {
			out.Parts[f].Exclusions = exclude(p, r, &full, &b.m.Leaves[out.Parts[f].leaf])
		}
	}
}

// What may stand in a directive as it is. Requests are strangers' words: nothing else of them gets into one.
var (
	plainPath = regexp.MustCompile(`^(?:/[A-Za-z0-9_.~-]+)*/?$`)
	plainKey  = regexp.MustCompile(`^[A-Za-z0-9_.\[\]-]{1,128}$`)
)

// exclude is the narrowest exclusion for one leaf: the rules that matched there, at this target, on this path.
func exclude(p *Replica, r *pinpoint.Request, full *Prediction, l *Leaf) []Exclusion {
	var rules []int
	for i := range full.Matches {
		m := &full.Matches[i]
		if l.is(m) && (CauseOf(m.Rule) == "waf-crs-anomaly" || CauseOf(m.Rule) == "waf-custom-rule") && !slices.Contains(rules, m.Rule) && len(rules) < 12 {
			rules = append(rules, m.Rule)
		}
	}
	if len(rules) == 0 {
		return nil
	}
	slices.Sort(rules)
	path, _, _ := strings.Cut(requestTarget(r.URL), "?")
	condition := `SecRule REQUEST_FILENAME "@streq ` + path + `"`
	if l.Component == Path || !plainPath.MatchString(path) || strings.Contains(path, "‹") {
		for path != "/" && (l.Component == Path || !plainPath.MatchString(path)) {
			path = strings.TrimSuffix(path, "/")
			path = path[:strings.LastIndexByte(path, '/')+1]
			if l.Component == Path && plainPath.MatchString(path) {
				break
			}
		}
		if path == "/" || path == "" {
			return nil // an exclusion for every path is not narrow
		}
		condition = `SecRule REQUEST_FILENAME "@beginsWith ` + path + `"`
	}
	make := func(target string, rules []int) (string, bool) {
		collection, key, keyed := strings.Cut(target, ":")
		if keyed && !plainKey.MatchString(key) && collection != "XML" {
			return "", false
		}
		var b strings.Builder
		fmt.Fprintf(&b, `%s "id:%d,phase:1,pass,t:none,nolog`, condition, 10001)
		for _, id := range rules {
			fmt.Fprintf(&b, ",ctl:ruleRemoveTargetById=%d;%s", id, target)
		}
		b.WriteByte('"')
		return b.String(), true
	}
	coraza, ok := make(l.Targets.Coraza, rules)
	if !ok {
		return nil
	}
	verified := false
	if !p.own {
		// Rules that need not be excluded are judged as before: the fewest that let the request pass.
		for _, id := range slices.Clone(rules) {
			if fewer := slices.DeleteFunc(slices.Clone(rules), func(o int) bool { return o == id }); len(fewer) > 0 && len(rules) <= 4 {
				if text, _ := make(l.Targets.Coraza, fewer); passes(p, r, text) {
					rules, coraza = fewer, text
				}
			}
		}
		verified = passes(p, r, coraza) && stillRefuses(p, r, l, coraza)
	}
	var ids []string
	for _, id := range rules {
		ids = append(ids, strconv.Itoa(id))
	}
	var list []Exclusion
	for _, e := range []struct{ product, target string }{{"modsecurity-2", l.Targets.ModSecurity2}, {"modsecurity-3", l.Targets.ModSecurity3}, {"coraza", l.Targets.Coraza}} {
		if text, ok := make(e.target, rules); ok {
			list = append(list, Exclusion{Product: e.product, Directive: text, Rules: rules, Target: e.target, Verified: verified,
				Placement: "REQUEST-900-EXCLUSION-RULES-BEFORE-CRS.conf, in front of the rule set; choose an id that is free",
				Says:      fmt.Sprintf("For %s, take %s out of rule %s on %s only", e.product, e.target, strings.Join(ids, ", "), path)})
		}
	}
	return list
}

// passes says that the request is let through with an exclusion.
func passes(p *Replica, r *pinpoint.Request, directive string) bool {
	q, err := p.With(directive)
	return err == nil && !q.Predict(r).Refused
}

// stillRefuses says that with an exclusion the same content is refused in a field of another name.
func stillRefuses(p *Replica, r *pinpoint.Request, l *Leaf, directive string) bool {
	q, err := p.With(directive)
	if err != nil {
		return false
	}
	m := Take(r)
	other := m.Render(m.Twin())
	sign := "?"
	if strings.Contains(other.URL, "?") {
		sign = "&"
	}
	other.URL += sign + "elsewhere=" + url.QueryEscape(letters(l.Text(0, min(len(l.units), 4096))))
	return q.Predict(other).Refused
}
