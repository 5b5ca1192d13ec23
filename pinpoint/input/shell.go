package input

import (
	"regexp"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// word is one word of a command line after quoting was undone.
type word struct {
	text   string
	offset int // where it begins
}

// bashWords splits one simple command as bash does (Bash Reference Manual, 3.1.2 Quoting). Whatever
// bash would compute is refused. A reader of the whole shell language recurses with the input, which
// hostile text uses up the stack by; nothing here nests.
func bashWords(text string) ([]word, error) {
	var words []word
	var b strings.Builder
	start := -1 // of the word that is being read
	globAt, braceAt := -1, -1
	refuse := func(i int, says, do string) ([]word, error) { return nil, at(text, i, says, do) }
	begin := func(i int) {
		if start < 0 {
			start, globAt, braceAt = i, -1, -1
		}
	}
	end := func() error {
		if start < 0 {
			return nil
		}
		if w := b.String(); globAt >= 0 && !strings.Contains(w, "://") && !queryLike.MatchString(w) { // no file has such a name, so it stays as it is
			return at(text, globAt, "the shell would replace this pattern by file names", "put the argument in single quotes")
		}
		if braceAt >= 0 && strings.ContainsRune(b.String(), '}') {
			return at(text, braceAt, "the shell would expand these braces", "put the argument in single quotes")
		}
		if len(words) == maxWords {
			return at(text, start, "the command has more than 10,000 words", "hand in one request")
		}
		words = append(words, word{b.String(), start})
		b.Reset()
		start = -1
		return nil
	}
	for i := 0; i < len(text); {
		switch c := text[i]; c {
		case ' ', '\t', '\r':
			if err := end(); err != nil {
				return nil, err
			}
			i++
		case '\n':
			if err := end(); err != nil {
				return nil, err
			}
			rest := strings.TrimLeft(text[i:], " \t\r\n")
			i = len(text) - len(rest)
			if rest != "" && len(words) > 0 && rest[0] != '#' && rest[0] != '-' && !strings.HasPrefix(rest, "'-") { // some copies lose their backslashes
				return refuse(i, "here a second command begins", "hand in one command; a line that goes on ends with a backslash")
			}
		case '\\':
			if i+1 == len(text) { // the copy ends within a continuation
				i++
			} else if text[i+1] == '\n' {
				i += 2
			} else if strings.HasPrefix(text[i+1:], "\r\n") {
				i += 3
			} else if (text[i+1] == ' ' || text[i+1] == '\t') && endsLine(text[i+1:]) { // a continuation with blanks behind it
				i += 1 + strings.IndexByte(text[i+1:], '\n') + 1
			} else {
				begin(i)
				_, n := utf8.DecodeRuneInString(text[i+1:])
				b.WriteString(text[i+1 : i+1+n])
				i += 1 + n
			}
		case '\'':
			begin(i)
			n := strings.IndexByte(text[i+1:], '\'')
			if n < 0 {
				return refuse(i, "this single quote is not closed", "copy the command to its end")
			}
			b.WriteString(text[i+1 : i+1+n])
			i += n + 2
		case '"':
			begin(i)
			n, err := doubleQuoted(text, i+1, &b)
			if err != nil {
				return nil, err
			}
			i = n
		case '$':
			begin(i)
			switch {
			case strings.HasPrefix(text[i:], "$'"):
				n, err := ansiC(text, i+2, &b)
				if err != nil {
					return nil, err
				}
				i = n
			case strings.HasPrefix(text[i:], `$"`):
				i++
			default:
				if err := expansion(text, i); err != nil {
					return nil, err
				}
				b.WriteByte('$')
				i++
			}
		case '`':
			return refuse(i, "backticks would run a program", "put its result there")
		case '|':
			return refuse(i, "the command goes on after a pipe", "hand in the curl command alone, without what follows |")
		case '&':
			return refuse(i, "an unquoted & ends the command", "put the URL in single quotes, or hand in the curl command alone")
		case ';':
			return refuse(i, "an unquoted ; ends the command", "put the argument in single quotes, or hand in the curl command alone")
		case '<', '>':
			return refuse(i, "the command redirects to or from a file", "leave the redirection out")
		case '(', ')':
			return refuse(i, "this parenthesis belongs to a shell program", "hand in the curl command alone, and put arguments in single quotes")
		case '*', '?', '[':
			begin(i)
			globAt = i
			b.WriteByte(c)
			i++
		case '{':
			begin(i)
			ahead := text[i:min(len(text), i+200)]
			if n := strings.IndexAny(ahead, " \t\r\n'\""); n >= 0 {
				ahead = ahead[:n]
			}
			if strings.Contains(ahead, ",") || strings.Contains(ahead, "..") {
				braceAt = i
			}
			b.WriteByte(c)
			i++
		case '~':
			if start < 0 {
				return refuse(i, "the shell would put a home directory here", "write the path in full")
			}
			b.WriteByte(c)
			i++
		case '#':
			if start >= 0 {
				b.WriteByte(c)
				i++
			} else if n := strings.IndexByte(text[i:], '\n'); n < 0 {
				i = len(text)
			} else {
				i += n
			}
		default:
			begin(i)
			_, n := utf8.DecodeRuneInString(text[i:])
			b.WriteString(text[i : i+n])
			i += n
		}
	}
	if err := end(); err != nil {
		return nil, err
	}
	return words, nil
}

// endsLine says that only blanks follow in this line.
func endsLine(s string) bool {
	for i := range len(s) {
		switch s[i] {
		case '\n':
			return true
		case ' ', '\t', '\r':
		default:
			return false
		}
	}
	return false
}

// queryLike is a URL without its scheme.
var queryLike = regexp.MustCompile(`^[^?*\[]*/[^?*\[]*\?[^*\[]*=`)

var shellName = regexp.MustCompile(`^\$(?:[A-Za-z_0-9@*#?$!-]|\{)`)

// expansion refuses a dollar that bash would replace.
func expansion(text string, i int) error {
	head := text[i:min(len(text), i+2)]
	switch {
	case head == "$(":
		return at(text, i, "$(…) would run a program", "put its result there")
	case shellName.MatchString(head):
		return at(text, i, "a shell variable stands here", "put its value there, or put the argument in single quotes if the $ is meant")
	}
	return nil
}

// doubleQuoted reads from behind a double quote to behind the closing one.
func doubleQuoted(text string, i int, b *strings.Builder) (int, error) {
	open := i - 1
	for i < len(text) {
		switch c := text[i]; c {
		case '"':
			return i + 1, nil
		case '\\':
			if i+1 < len(text) && strings.IndexByte("$`\"\\", text[i+1]) >= 0 {
				b.WriteByte(text[i+1])
				i += 2
			} else if i+1 < len(text) && text[i+1] == '\n' {
				i += 2
			} else {
				b.WriteByte(c)
				i++
			}
		case '`':
			return 0, at(text, i, "backticks would run a program", "put its result there")
		case '$':
			if err := expansion(text, i); err != nil {
				return 0, err
			}
			b.WriteByte(c)
			i++
		default:
			b.WriteByte(c)
			i++
		}
	}
	return 0, at(text, open, "this double quote is not closed", "copy the command to its end")
}

// ansiC reads $'…' from behind its quote (Bash Reference Manual, 3.1.2.4). Pairs of \u escapes that are
// UTF-16 surrogates, as Chrome writes them, become one character.
func ansiC(text string, i int, b *strings.Builder) (int, error) {
	open := i - 2
	var pending rune // a high surrogate
	flush := func() {
		if pending != 0 {
			b.WriteRune(utf8.RuneError)
			pending = 0
		}
	}
	digits := func(from, most, base int) (rune, int) {
		n := 0
		var v rune
		for n < most && from+n < len(text) {
			d, err := strconv.ParseUint(text[from+n:from+n+1], base, 8)
			if err != nil {
				break
			}
			v = v*rune(base) + rune(d)
			n++
		}
		return v, n
	}
	for i < len(text) {
		c := text[i]
		if c == '\'' {
			flush()
			return i + 1, nil
		}
		if c != '\\' || i+1 == len(text) {
			flush()
			b.WriteByte(c)
			i++
			continue
		}
		e := text[i+1]
		if e == 'u' || e == 'U' {
			most := 4
			if e == 'U' {
				most = 8
			}
			v, n := digits(i+2, most, 16)
			if n == 0 {
				flush()
				b.WriteString(text[i : i+2])
				i += 2
				continue
			}
			i += 2 + n
			switch {
			case pending != 0 && v >= 0xdc00 && v < 0xe000:
				b.WriteRune(utf16.DecodeRune(pending, v))
				pending = 0
			case v >= 0xd800 && v < 0xdc00:
				flush()
				pending = v
			default:
				flush()
				b.WriteRune(v)
			}
			continue
		}
		flush()
		i += 2
		switch e {
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 't':
			b.WriteByte('\t')
		case 'a':
			b.WriteByte(7)
		case 'b':
			b.WriteByte(8)
		case 'e', 'E':
			b.WriteByte(27)
		case 'f':
			b.WriteByte(12)
		case 'v':
			b.WriteByte(11)
		case '\\', '\'', '"', '?':
			b.WriteByte(e)
		case 'x':
			v, n := digits(i, 2, 16)
			if n == 0 {
				b.WriteString(`\x`)
			} else {
				b.WriteByte(byte(v))
			}
			i += n
		case '0', '1', '2', '3', '4', '5', '6', '7':
			v, n := digits(i-1, 3, 8)
			b.WriteByte(byte(v))
			i += n - 1
		case 'c':
			if i < len(text) && text[i] != '\'' {
				b.WriteByte(text[i] & 0x1f)
				i++
			}
		default:
			b.WriteByte('\\')
			b.WriteByte(e)
		}
	}
	return 0, at(text, open, "this $'…' is not closed", "copy the command to its end")
}
