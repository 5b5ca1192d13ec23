package input

import (
	"regexp"
	"strings"
)

// cmdVariable is what cmd.exe would replace. Names that begin with two hexadecimal digits are escapes of
// a URL.
var cmdVariable = regexp.MustCompile(`%[A-Za-z_][A-Za-z0-9_()]{2,40}%`)
var hexPair = regexp.MustCompile(`^%[0-9A-Fa-f]{2}`)

// cmdWords splits a command line of cmd.exe: first the carets, as the command interpreter undoes them,
// then the quotes and backslashes, as the C runtime splits the arguments ("Parsing C command-line
// arguments", Microsoft). A caret and two newlines are a newline, as browsers write it.
func cmdWords(text string) ([]word, error) {
	line := make([]byte, 0, len(text))
	offsets := make([]int32, 0, len(text)) // of each byte of line in text
	begun := false                         // something but blanks was read
	put := func(c byte, i int) {
		begun = begun || c > ' '
		line = append(line, c)
		offsets = append(offsets, int32(i))
	}
	quoted := false
	literal := map[int]bool{} // newlines of line that are part of a word
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\r' && i+1 < len(text) && text[i+1] == '\n':
			continue
		case c == '%':
			if m := cmdVariable.FindString(text[i:min(len(text), i+50)]); m != "" && strings.HasPrefix(text[i:], m) && !hexPair.MatchString(m) {
				return nil, at(text, i, "a variable of cmd stands here", "put its value there")
			}
			put(c, i)
		case c == '"':
			quoted = !quoted
			put(c, i)
		case c == '^' && !quoted:
			i++
			if i < len(text) && text[i] == '\r' {
				i++
			}
			if i >= len(text) {
				break
			}
			if text[i] != '\n' {
				put(text[i], i)
				break
			}
			if strings.HasPrefix(text[i+1:], "\r\n") {
				i++
			}
			if i+1 < len(text) && text[i+1] == '\n' { // the first newline continues the line, the second is escaped
				i++
				literal[len(line)] = true
				put('\n', i)
			}
		case c == '\n' && quoted: // cmd would end the command; copies of old Firefox have it so
			literal[len(line)] = true
			put(c, i)
		case c == '\n':
			rest := strings.TrimLeft(text[i:], " \t\r\n")
			i = len(text) - len(rest) - 1
			if rest != "" && rest[0] != '-' && begun {
				return nil, at(text, i+1, "here a second command begins", "hand in one command; a line that goes on ends with a caret")
			}
			put(' ', i)
		case !quoted && (c == '&' || c == '|'):
			return nil, at(text, i, "an unquoted "+string(c)+" ends the command", "put the argument in double quotes, or hand in the curl command alone")
		case !quoted && (c == '<' || c == '>'):
			return nil, at(text, i, "the command redirects to or from a file", "leave the redirection out")
		default:
			put(c, i)
		}
	}
	// Browsers double every backslash, and the C runtime halves only those before a quote. When all runs
	// are even, the copy is a browser's, and what it sent had half of them.
	double := strings.Contains(text, `^"`)
	for i := 0; i < len(line) && double; i++ {
		n := i
		for n < len(line) && line[n] == '\\' {
			n++
		}
		double = (n-i)%2 == 0 || n < len(line) && line[n] == '"'
		i = n
	}
	var words []word
	for i := 0; i < len(line); {
		for i < len(line) && (line[i] == ' ' || line[i] == '\t' || line[i] == '\n' && !literal[i]) {
			i++
		}
		if i == len(line) {
			break
		}
		if len(words) == maxWords {
			return nil, at(text, int(offsets[i]), "the command has more than 10,000 words", "hand in one request")
		}
		w := word{offset: int(offsets[i])}
		var b strings.Builder
		inside := false
	next:
		for i < len(line) {
			switch c := line[i]; {
			case c == '\\':
				n := i
				for n < len(line) && line[n] == '\\' {
					n++
				}
				count := n - i
				i = n
				if n == len(line) || line[n] != '"' {
					if double {
						count /= 2
					}
					b.WriteString(strings.Repeat(`\`, count))
				} else {
					b.WriteString(strings.Repeat(`\`, count/2))
					if count%2 == 1 {
						b.WriteByte('"')
						i++
					}
				}
			case c == '"' && inside && i+1 < len(line) && line[i+1] == '"':
				b.WriteByte('"')
				i += 2
			case c == '"':
				inside = !inside
				i++
			case !inside && (c == ' ' || c == '\t' || c == '\n' && !literal[i]):
				break next
			default:
				b.WriteByte(c)
				i++
			}
		}
		if inside {
			return nil, at(text, w.offset, "a double quote is not closed in this argument", "copy the command to its end")
		}
		w.text = b.String()
		words = append(words, w)
	}
	return words, nil
}
