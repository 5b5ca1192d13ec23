package apache

import (
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// legacy is mod_access_compat: Order, Allow, Deny, Satisfy.
// https://httpd.apache.org/docs/2.4/mod/mod_access_compat.html
type legacy struct {
	orders    []legacyLine
	allows    []legacyLine
	denies    []legacyLine
	satisfies []legacyLine
}

type legacyLine struct {
	d     *directive
	m     *methods
	value string
}

func (l *legacy) add(d *directive, m *methods) {
	switch d.name {
	case "order":
		v := lower(strings.Join(strings.Fields(strings.ReplaceAll(d.raw, ",", " ")), ","))
		l.orders = append(l.orders, legacyLine{d, m, v})
	case "satisfy":
		l.satisfies = append(l.satisfies, legacyLine{d, m, lower(d.arg(0))})
	default:
		args := d.args
		if len(args) > 0 && strings.EqualFold(args[0], "from") {
			args = args[1:]
		}
		for _, a := range args {
			if d.name == "allow" {
				l.allows = append(l.allows, legacyLine{d, m, a})
			} else {
				l.denies = append(l.denies, legacyLine{d, m, a})
			}
		}
	}
}

// satisfy is "any", "all" or "" where nothing is said.
func (l *legacy) satisfy(method string) (v string) {
	if l == nil {
		return ""
	}
	for _, s := range l.satisfies {
		if s.m.holds(method) {
			v = s.value
		}
	}
	return v
}

func (r *request) listed(lines []legacyLine) *legacyLine {
	for i := range lines {
		l := &lines[i]
		if !l.m.holds(r.method) {
			continue
		}
		v := lower(l.value)
		switch {
		case v == "all":
			return l
		case strings.HasPrefix(v, "env="):
			name, not := strings.CutPrefix(l.value[4:], "!")
			if _, ok := r.env[name]; ok != not {
				return l
			}
		default:
			if _, ok := networkOf(l.value); ok {
				if within(l.value, r.client) {
					return l
				}
			} else if r.doubt("whether the name of the address "+r.client.String()+" in DNS ends in “"+cut(l.value, 80)+"”", l.d.at) {
				return l
			}
		}
	}
	return nil
}

// legacyAccess evaluates Order, Allow and Deny.
func (r *request) legacyAccess() *refusal {
	l := r.scope.legacy
	if l == nil {
		return nil
	}
	order := legacyLine{value: "deny,allow"}
	for _, o := range l.orders {
		if o.m.holds(r.method) {
			order = o
		}
	}
	allow, deny := r.listed(l.allows), r.listed(l.denies)
	var by *legacyLine
	refused := false
	switch order.value {
	case "allow,deny":
		switch {
		case deny != nil:
			refused, by = true, deny
		case allow == nil:
			refused, by = true, &order
		}
	case "mutual-failure":
		if refused = allow == nil || deny != nil; deny != nil {
			by = deny
		} else {
			by = &order
		}
	default:
		if deny != nil && allow == nil {
			refused, by = true, deny
		}
	}
	if !refused {
		return nil
	}
	c := r.clue("apache-legacy-order-deny", pinpoint.Certain, pinpoint.Place{})
	text := "Order"
	if by != nil && by.d != nil {
		c.At, text = by.d.at, by.d.String()
	}
	where, section := r.origin(c.At)
	c.Quote = text
	c.Names["directive"], c.Names["section"], c.Names["path"] = text, section, r.objectName()
	c.Says = "“" + text + "” of mod_access_compat at " + placeText(c.At) + " refuses " + r.who() + where + "; the error log says AH01797."
	c.Fix = []string{"Replace Order, Allow and Deny at " + placeText(c.At) + " by Require of the same meaning (“Require ip …”, or “Require all granted” for what is public), in this section only, and drop mod_access_compat."}
	if r.scope.auth != nil {
		c.Says += " The Require lines of the same path are not enough: both have to let the request in."
	}
	clues := []pinpoint.Clue{c}
	if by != nil && by.m != nil {
		m := r.derived(c, "method-denied-by-rule", pinpoint.Certain)
		m.Says = "The method " + r.methodName() + " falls under " + by.m.at.String() + " at " + placeText(by.m.at.at) + ", and “" + text + "” refuses it."
		clues = append([]pinpoint.Clue{m}, append(clues, r.derived(m, "apache-limit-except", pinpoint.Strong))...)
	}
	if by != nil && strings.HasPrefix(lower(by.value), "env=") {
		if m := r.mechanism(by.value[4:], c.At, c); m != nil {
			clues = append([]pinpoint.Clue{*m}, clues...)
		}
	} else if by != nil && by == deny && lower(by.value) != "all" {
		clues = append(clues, r.derived(c, "ip-denied", pinpoint.Strong))
	}
	if sec := r.filesSection(c.At); sec != nil {
		f := r.derived(c, "apache-files-protected", pinpoint.Certain)
		f.Says = "The name of the file falls under " + sec.d.String() + " at " + placeText(sec.d.at) + ", which refuses it."
		clues = append([]pinpoint.Clue{f}, clues...)
	}
	if !r.quiet {
		if lost := r.lost(func(o *request) bool { o.quiet = true; return o.legacyAccess() == nil }, c); lost != nil {
			clues = append([]pinpoint.Clue{*lost}, clues...)
		}
	}
	return r.refuse(403, clues...)
}
