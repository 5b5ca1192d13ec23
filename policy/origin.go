package policy

import (
	"regexp"
	"regexp/syntax"
	"strings"

	"github.com/whygate/whygate/wire"
)

// originSet is origins that a policy allows: one by one, with stars, or by regular expressions.
type originSet struct {
	any     bool
	null    bool
	exact   []string
	pattern []originPattern
	regexps []*regexp.Regexp
	written []string // all of it, as facts show it
}

// originPattern is "https://*.shop.test:8443" or "http://localhost:*", cut at the star.
type originPattern struct {
	before, after string
	port          bool // the star stands for a port
}

var originForm = regexp.MustCompile(`^[a-z][a-z0-9+.-]*://(\*\.)?[a-z0-9\[\]:._-]+?(:\*)?$`)

// add reads an origin with a scheme, or reports it. What "*" and "null" mean is the policy's to say.
func (s *originSet) add(env *Env, at, origin string) {
	o := strings.ToLower(origin)
	switch {
	case !originForm.MatchString(o) && originForm.MatchString(strings.TrimRight(o, "/")):
		env.Problem(at, "write "+strings.TrimRight(origin, "/"), "%q ends with a slash, which no origin does", origin)
		return
	case !originForm.MatchString(o):
		env.Problem(at, `scheme://host or scheme://host:port, such as "https://shop.test"; a star may stand for names below, or for the port`, "%q is no origin", origin)
		return
	}
	if bare := withoutDefaultPort(o); bare != o {
		env.Problem(at, "write "+bare, "browsers leave the port of %q out, so it never matches", origin)
		return
	}
	s.written = append(s.written, origin)
	stem, port := strings.CutSuffix(o, ":*")
	before, after, below := strings.Cut(stem, "*")
	switch {
	case below && port:
		env.Problem(at, "write one star", "%q has two stars", origin)
	case below:
		if name, _, _ := strings.Cut(after[1:], ":"); !strings.Contains(name, ".") {
			env.Lint("origin.wide-wildcard", at, "name the site", "%s is every site below %s", origin, name)
		}
		s.pattern = append(s.pattern, originPattern{before: before, after: after})
	case port:
		s.pattern = append(s.pattern, originPattern{before: stem, port: true})
	default:
		s.exact = append(s.exact, o)
	}
}

// addRegexp reads a regular expression for whole origins. It is held to begin and end where the origin
// does, since one that is not lets in https://shop.test.evil.example.
func (s *originSet) addRegexp(env *Env, at, expression string) {
	const most = 1000
	switch {
	case strings.TrimSpace(expression) == "":
		env.Problem(at, `such as https://pr-\d+\.shop\.test, or take the entry out`, "an empty expression matches no origin")
		return
	case len(expression) > most:
		env.Problem(at, "split it", "a regular expression may have %d characters, this one has %d", most, len(expression))
		return
	}
	re, err := regexp.Compile(`^(?i:` + expression + `)$`)
	tree, alone := syntax.Parse(expression, syntax.Perl)
	if err != nil || alone != nil {
		env.Problem(at, "regular expressions are those of RE2: github.com/google/re2/wiki/Syntax", "%q is no regular expression: %v", expression, alone)
		return
	}
	s.written = append(s.written, "the expression "+expression)
	s.regexps = append(s.regexps, re)
	switch {
	case re.MatchString("https://anybody.invalid"):
		env.Lint("origin.matches-anybody", at, `name the hosts; "*" allows everybody on purpose`, "%q matches the origin of any page", expression)
	case pointBetweenLetters(tree):
		env.Lint("origin.unescaped-point", at, `write \. for a point`, "in %q a point stands for any character, so that other hosts match too", expression)
	}
}

// pointBetweenLetters finds "shop.test" where "shop\.test" is meant.
func pointBetweenLetters(re *syntax.Regexp) bool {
	for i, sub := range re.Sub {
		if pointBetweenLetters(sub) {
			return true
		}
		any := sub.Op == syntax.OpAnyCharNotNL || sub.Op == syntax.OpAnyChar
		if re.Op == syntax.OpConcat && any && i+1 < len(re.Sub) && re.Sub[i+1].Op == syntax.OpLiteral {
			return true
		}
	}
	return false
}

// has compares an origin as browsers send it.
func (s *originSet) has(origin string) bool {
	if s.any || origin == "null" {
		return s.any || s.null
	}
	for _, o := range s.exact {
		if wire.EqualFold(o, origin) {
			return true
		}
	}
	for i := range s.pattern {
		if s.pattern[i].matches(origin) {
			return true
		}
	}
	for _, re := range s.regexps {
		if len(origin) <= longestOrigin && re.MatchString(origin) {
			return true
		}
	}
	return false
}

// longestOrigin is what a scheme, the longest host name and a port come to, and more.
const longestOrigin = 512

func (p originPattern) matches(origin string) bool {
	if len(origin) <= len(p.before) || !wire.EqualFold(origin[:len(p.before)], p.before) {
		return false
	}
	rest := origin[len(p.before):]
	if p.port {
		return rest[0] == ':' && len(rest) <= 6 && strings.Trim(rest[1:], "0123456789") == "" && len(rest) > 1
	}
	n := len(rest) - len(p.after)
	return n > 0 && wire.EqualFold(rest[n:], p.after) && !strings.ContainsAny(rest[:n], "/:@[]?#")
}

// ownOrigin: browsers send Origin with calls to the page's own origin too.
func ownOrigin(origin, scheme, authority string) bool {
	authority = authority[:len(authority)-len(defaultPort(scheme, authority))]
	return len(origin) == len(scheme)+3+len(authority) && wire.EqualFold(origin[:len(scheme)], scheme) &&
		origin[len(scheme):len(scheme)+3] == "://" && wire.EqualFold(origin[len(scheme)+3:], authority)
}

// defaultPort is the port at the end of an authority, if origins of the scheme leave it out.
func defaultPort(scheme, authority string) string {
	switch {
	case scheme == "https" && strings.HasSuffix(authority, ":443"):
		return ":443"
	case scheme == "http" && strings.HasSuffix(authority, ":80"):
		return ":80"
	}
	return ""
}

func withoutDefaultPort(origin string) string {
	scheme, authority, _ := strings.Cut(origin, "://")
	return strings.TrimSuffix(origin, defaultPort(scheme, authority))
}

// slip names the usual mistakes in an origin that is nearly right.
func (s *originSet) slip(origin string) string {
	scheme, host, _ := strings.Cut(strings.ToLower(origin), "://")
	for _, o := range s.written {
		want, h, ok := strings.Cut(strings.ToLower(o), "://")
		if !ok || strings.Contains(want, " ") { // an expression
			continue
		}
		bare, _, _ := strings.Cut(host, ":")
		wantBare, _, _ := strings.Cut(h, ":")
		switch {
		case h == host && want != scheme:
			return "has the scheme " + scheme + " instead of " + want
		case wantBare == bare && h != host:
			return "has another port than " + o
		case "www."+h == host || "www."+host == h:
			return "differs from " + o + " by www."
		case "*."+host == h:
			return "is not below itself: " + o + " means the names below it"
		}
	}
	return ""
}
