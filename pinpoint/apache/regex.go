package apache

import (
	"errors"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/dlclark/regexp2"
)

// regex is an expression of the configuration. Most are those of Go's regexp too, which runs in
// linear time; others (look-around, back-references) go to an engine that backtracks, with a limit.
// httpd compiles with PCRE's DOTALL and DOLLAR_ENDONLY.
type regex struct {
	source string
	fast   *regexp.Regexp
	slow   *regexp2.Regexp
}

const (
	maxRegex   = 16 << 10
	maxSubject = 64 << 10
	slowLimit  = 200 * time.Millisecond
)

var (
	errRegexLong = errors.New("the expression is too long")
	errRegexSlow = errors.New("the expression takes too long")
)

var regexes struct {
	sync.Mutex
	kept map[string]*regex
}

func compile(source string, fold bool) (*regex, error) {
	if len(source) > maxRegex {
		return nil, errRegexLong
	}
	flags := "(?s)"
	if fold {
		flags = "(?si)"
	}
	key := flags + source
	regexes.Lock()
	defer regexes.Unlock()
	if re := regexes.kept[key]; re != nil {
		return re, nil
	}
	re := &regex{source: source}
	var err error
	if re.fast, err = regexp.Compile(key); err != nil {
		opts := regexp2.RegexOptions(regexp2.Singleline)
		if fold {
			opts |= regexp2.IgnoreCase
		}
		if re.slow, err = regexp2.Compile(source, opts); err != nil {
			return nil, errors.New("the expression " + cut(source, 80) + " is not valid, or not known here")
		}
		re.slow.MatchTimeout = slowLimit
	}
	if regexes.kept == nil || len(regexes.kept) > 2000 {
		regexes.kept = map[string]*regex{}
	}
	regexes.kept[key] = re
	return re, nil
}

// match returns the groups, nil if there is no match.
func (re *regex) match(s string) ([]string, error) {
	if re == nil {
		return nil, errors.New("the expression cannot be evaluated")
	}
	if len(s) > maxSubject {
		return nil, errRegexSlow
	}
	if re.fast != nil {
		return re.fast.FindStringSubmatch(s), nil
	}
	m, err := re.slow.FindStringMatch(s)
	if err != nil {
		return nil, errRegexSlow
	}
	if m == nil {
		return nil, nil
	}
	var groups []string
	for _, g := range m.Groups() {
		groups = append(groups, g.String())
	}
	return groups, nil
}

// fill puts $0 to $9 of groups into a text.
func fill(text string, groups []string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+1 < len(text) {
			i++
			b.WriteByte(text[i])
		} else if text[i] == '$' && i+1 < len(text) && text[i+1] >= '0' && text[i+1] <= '9' {
			i++
			if n := int(text[i] - '0'); n < len(groups) && b.Len() < maxLine {
				b.WriteString(groups[n])
			}
		} else {
			b.WriteByte(text[i])
		}
	}
	return b.String()
}
