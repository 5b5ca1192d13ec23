package policy

import (
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/whygate/whygate/wire"
)

// Path changes the path that the upstream gets, after the mount has been stripped. Checks have
// seen the path as it was; records keep it.
//
//	policies:
//	- path: {strip: /public}
//	- path: {match: "^/v1/(.*)$", replace: "/api/$1"}
type Path struct {
	// Strip takes a prefix off, where it is there.
	Strip string `json:"strip" pattern:"^/" example:"/public"`
	// Add puts a prefix on.
	Add string `json:"add" pattern:"^/" example:"/api"`
	// Match is a regular expression (RE2) on the path; what it matches is replaced.
	Match string `json:"match" example:"^/v1/(.*)$"`
	// Replace is what a match becomes; $1 is the first group.
	Replace string `json:"replace" example:"/api/$1"`
}

type pathEdit struct {
	strip, add string
	match      *regexp.Regexp
	replace    string
}

// Compile compiles the expression.
func (p *Path) Compile(env *Env) any {
	e := &pathEdit{strip: strings.TrimSuffix(p.Strip, "/"), add: strings.TrimSuffix(p.Add, "/"), replace: p.Replace}
	if p.Match != "" {
		re, err := regexp.Compile(p.Match)
		if err != nil {
			env.Problem("match", "RE2 syntax, without look-around and back references", "%v", err)
			return e
		}
		e.match = re
		if !anchored(p.Match) {
			hint := `begin with "^" to match from the start of the path`
			if strings.Contains(p.Match, "|") {
				hint += `; around alternatives, "^(a|b)"`
			}
			env.Lint("path.unanchored", "match", hint, "the pattern %q is not anchored: it matches anywhere in the path", p.Match)
		}
	} else if p.Replace != "" {
		env.Problem("replace", "add match", "replace without match does nothing")
	}
	if p.Strip == "" && p.Add == "" && p.Match == "" {
		env.Problem("", "strip, add or match", "path without settings does nothing")
	}
	return e
}

// anchored says that a pattern matches at the start of a path only.
func anchored(pattern string) bool {
	re, err := syntax.Parse(pattern, syntax.Perl)
	return err == nil && beginsAtStart(re)
}

func beginsAtStart(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpBeginText:
		return true
	case syntax.OpConcat, syntax.OpCapture:
		return beginsAtStart(re.Sub[0])
	case syntax.OpPlus:
		return beginsAtStart(re.Sub[0])
	case syntax.OpAlternate:
		return !slices.ContainsFunc(re.Sub, func(s *syntax.Regexp) bool { return !beginsAtStart(s) })
	}
	return false
}

// EditRequest changes the path. Whatever comes out begins with a slash and holds no byte
// that could end the request line.
func (e *pathEdit) EditRequest(_ *Exchange, o *wire.Outgoing) {
	p := o.Path
	if e.strip != "" {
		if rest, ok := strings.CutPrefix(p, e.strip); ok && (rest == "" || rest[0] == '/') {
			p = rest
		}
	}
	if e.match != nil {
		p = e.match.ReplaceAllString(p, e.replace)
	}
	if e.add != "" {
		p = e.add + p
	}
	if p == "" || p[0] != '/' {
		p = "/" + p
	}
	o.Path = wire.SafePath(p)
}
