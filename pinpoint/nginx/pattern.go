package nginx

import (
	"regexp"
	"strings"
	"time"

	"github.com/dlclark/regexp2"
)

// pattern is a regular expression of the configuration. nginx hands them to PCRE, which reads bytes.
// Go's engine takes most; regexp2 takes those with lookaround and backreferences.
type pattern struct {
	source string
	go1    *regexp.Regexp
	back   *regexp2.Regexp
	names  []string
	bytes  bool // what is matched is widened to one rune for each byte
}

const maxPattern = 4096

// compile returns nil for what neither engine reads.
func compile(source string, fold bool) *pattern {
	p := &pattern{source: source, bytes: true}
	text := source
	for _, verb := range []string{"(*UTF8)", "(*UTF)"} {
		if strings.HasPrefix(text, verb) {
			text, p.bytes = text[len(verb):], false
		}
	}
	if len(text) > maxPattern {
		return nil
	}
	if p.bytes {
		text = widen(text)
	}
	flags := ""
	if fold {
		flags = "(?i)"
	}
	// In PCRE, $ also matches before a newline at the end; a decoded path rarely has one.
	if re, err := regexp.Compile(flags + text); err == nil {
		p.go1, p.names = re, re.SubexpNames()
		return p
	}
	options := regexp2.RegexOptions(regexp2.None)
	if fold {
		options = regexp2.IgnoreCase
	}
	re, err := regexp2.Compile(text, options)
	if err != nil {
		return nil
	}
	re.MatchTimeout = 100 * time.Millisecond
	p.back = re
	for _, n := range re.GetGroupNumbers() {
		name := re.GroupNameFromNumber(n)
		if name != "" && name[0] >= '0' && name[0] <= '9' {
			name = ""
		}
		p.names = append(p.names, name)
	}
	return p
}

// match returns the groups, nil when there is no match. It is not sure when the engine gave up.
func (p *pattern) match(s string) (groups []string, sure bool) {
	if p == nil || len(s) > 1<<20 {
		return nil, false
	}
	if p.bytes {
		s = widen(s)
	}
	if p.go1 != nil {
		groups = p.go1.FindStringSubmatch(s)
	} else {
		m, err := p.back.FindStringMatch(s)
		if err != nil {
			return nil, false
		}
		if m == nil {
			return nil, true
		}
		for _, g := range m.Groups() {
			groups = append(groups, g.String())
		}
	}
	if p.bytes {
		for i := range groups {
			groups[i] = narrow(groups[i])
		}
	}
	return groups, true
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// widen makes a rune of each byte, so that . matches one byte as PCRE does.
func widen(s string) string {
	if ascii(s) {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(rune(s[i]))
	}
	return b.String()
}

func narrow(s string) string {
	if ascii(s) {
		return s
	}
	out := make([]byte, 0, len(s))
	for _, r := range s {
		out = append(out, byte(r))
	}
	return string(out)
}
