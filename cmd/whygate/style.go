package main

import (
	"io"
	"os"
	"runtime"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// style paints text on terminals and leaves it alone elsewhere.
type style struct {
	on       bool
	terminal bool
	width    int // columns of the terminal, or how wide text is otherwise
}

func (a *app) styleFor(w io.Writer) style {
	s := style{width: 120}
	f, ok := w.(*os.File)
	terminal := ok && term.IsTerminal(int(f.Fd()))
	if terminal {
		s.width, s.terminal = 80, true // a serial line or a new pseudoterminal reports no width
		if cols, _, err := term.GetSize(int(f.Fd())); err == nil && cols > 0 {
			s.width = max(cols, 20)
		}
	}
	switch a.color {
	case "always":
		s.on = true
	case "never":
	default:
		s.on = terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	return s
}

func (s style) paint(code, text string) string {
	if !s.on || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s style) bad(t string) string    { return s.paint("1;31", t) }
func (s style) good(t string) string   { return s.paint("1;32", t) }
func (s style) warn(t string) string   { return s.paint("1;33", t) }
func (s style) strong(t string) string { return s.paint("1", t) }
func (s style) soft(t string) string   { return s.paint("2", t) }

// clean keeps what callers sent from steering the terminal.
func clean(t string) string {
	if strings.IndexFunc(t, isControl) < 0 {
		return t
	}
	var b strings.Builder
	for _, r := range t {
		if isControl(r) {
			b.WriteRune('�')
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func isControl(r rune) bool {
	return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == utf8.RuneError || unicode.Is(unicode.Bidi_Control, r)
}

// shellWord quotes a text of a caller for a command line that somebody may copy.
func shellWord(t string) string {
	safe := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-%:@,+=", r)
	}
	if t = clean(t); t != "" && strings.IndexFunc(t, func(r rune) bool { return !safe(r) }) < 0 {
		return t
	}
	return "'" + strings.ReplaceAll(t, "'", `'\''`) + "'"
}

// wrap breaks text at spaces, so that each line has at most n columns where it can.
func wrap(text string, n int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > n:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}

// rightMost bounds lines that have something at their right margin: the eye must find the way.
const rightMost = 110

// columns lays text out behind an indent, with something at the right margin of its first line, or in a line of
// its own where there is no room beside the text.
func (s style) columns(indent int, text, right string) []string {
	width := min(s.width, rightMost) - indent
	text, right = clean(text), clean(right)
	if right == "" {
		return wrap(text, max(width, 30))
	}
	n := utf8.RuneCountInString(right)
	if room := width - n - 2; room >= 24 {
		lines := wrap(text, room)
		if gap := width - utf8.RuneCountInString(lines[0]) - n; gap >= 2 {
			lines[0] += strings.Repeat(" ", gap) + s.soft(right)
			return lines
		}
	}
	return append(wrap(text, max(width, 30)), strings.Repeat(" ", max(width-n, 0))+s.soft(right))
}

func goVersion() string { return runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH }
