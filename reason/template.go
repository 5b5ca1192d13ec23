package reason

import (
	"fmt"
	"regexp"
	"strings"
)

// Render fills a template for a reader of tier t. {name} stands for the fact of
// that name, {name|a text} for the fact or, without it, for the text. A part in [brackets] is left out when one of its facts is missing
// or above the tier. Outside brackets such a fact makes the whole sentence
// unsayable: Render answers "" and the reader is shown the reason's title.
func (fs Facts) Render(template string, t Tier) string {
	out, ok := fs.render(template, t)
	if !ok {
		return ""
	}
	return out
}

func (fs Facts) render(s string, t Tier) (string, bool) {
	var b strings.Builder
	for s != "" {
		i := strings.IndexAny(s, "{[")
		if i < 0 {
			b.WriteString(s)
			break
		}
		b.WriteString(s[:i])
		n := strings.IndexByte(s[i:], closing[s[i]])
		if n < 0 { // only a text that New never saw can be open-ended
			b.WriteString(s[i:])
			break
		}
		end := i + n
		inner := s[i+1 : end]
		if s[i] == '[' {
			if part, ok := fs.render(inner, t); ok {
				b.WriteString(part)
			}
		} else {
			name, otherwise, has := strings.Cut(inner, "|")
			f, ok := fs.Find(name, t)
			switch {
			case ok:
				b.WriteString(f.Text())
			case has:
				b.WriteString(otherwise)
			default:
				return "", false
			}
		}
		s = s[end+1:]
	}
	return b.String(), true
}

var closing = map[byte]byte{'{': '}', '[': ']'}

// checkTemplate says what is wrong with a template. Brackets do not nest.
func checkTemplate(s string) error {
	var open byte
	inBracket := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '{' && open == 0:
			open = '{'
		case c == '}' && open == '{':
			open = 0
		case c == '[' && open == 0 && !inBracket:
			inBracket = true
		case c == ']' && open == 0 && inBracket:
			inBracket = false
		case strings.IndexByte("{}[]", c) >= 0:
			return fmt.Errorf("%q at position %d has no partner", c, i)
		}
	}
	if open != 0 || inBracket {
		return fmt.Errorf("a bracket is not closed")
	}
	return nil
}

// Readable is a template for people who have no facts: <retry_after> for {retry_after}, and
// what is in brackets as it stands.
func Readable(template string) string {
	return strings.NewReplacer("{", "<", "}", ">", "[", "", "]", "").Replace(alternative.ReplaceAllString(template, "}"))
}

var alternative = regexp.MustCompile(`\|[^}]*\}`)
