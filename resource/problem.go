package resource

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Severity is how bad a problem is.
type Severity uint8

// The severities.
const (
	Error   Severity = iota // the documents cannot be used
	Warning                 // they can, but hardly mean what they say
)

var severities = [...]string{"error", "warning"}

func (s Severity) String() string { return severities[s] }

// MarshalText writes the severity's name.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the severity's name.
func (s *Severity) UnmarshalText(b []byte) error {
	i := slices.Index(severities[:], string(b))
	if i < 0 {
		return fmt.Errorf("severity %q is none of %s", b, strings.Join(severities[:], ", "))
	}
	*s = Severity(i)
	return nil
}

// Problem is one thing wrong with the documents, told to the person who wrote them.
type Problem struct {
	Pos
	Severity Severity `json:"severity"`
	Code     string   `json:"code,omitempty"` // of a lint: "route.unreachable"
	Message  string   `json:"message"`        // what was wanted and what was found
	Hint     string   `json:"hint,omitempty"` // what to do
	Len      int      `json:"len,omitempty"`  // characters that the caret line marks
	Hidden   bool     `json:"-"`              // they may be a secret, and are not shown
}

// String is the problem on one line.
func (p Problem) String() string {
	var b strings.Builder
	if !p.Pos.IsZero() {
		b.WriteString(p.Pos.String() + ": ")
	}
	b.WriteString(p.Severity.String() + ": " + p.Message)
	if p.Code != "" {
		b.WriteString(" [" + p.Code + "]")
	}
	return b.String()
}

// Problems are all problems of a set of documents.
type Problems []Problem

// HasErrors says that the documents cannot be used.
func (ps Problems) HasErrors() bool {
	return slices.ContainsFunc(ps, func(p Problem) bool { return p.Severity == Error })
}

// Err is ps when it has errors, and nil when it has none.
func (ps Problems) Err() error {
	if !ps.HasErrors() {
		return nil
	}
	return ps
}

// Error lists the first problems, one on each line. Render shows all with their
// source lines.
func (ps Problems) Error() string {
	const most = 10
	var b strings.Builder
	for i, p := range ps {
		if i == most {
			fmt.Fprintf(&b, "\nand %d more", len(ps)-most)
			break
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(p.String())
	}
	return b.String()
}

// Sort brings problems into the order of the files, which Set.Files gives, and
// of the lines in them. Problems of other files come first.
func (ps Problems) Sort(files []string) {
	order := make(map[string]int, len(files))
	for i, f := range files {
		order[f] = i + 1
	}
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(order[a.File], order[b.File]), cmp.Compare(a.File, b.File),
			cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
}

// shownPerFile bounds what Render prints about one file.
const shownPerFile = 100

// Render prints every problem with its source line, a caret line and its hint:
//
//	orders.yaml:4:3: error: unknown field "rateLimt"
//	   4 |   rateLimt: 5
//	     |   ^^^^^^^^
//	     hint: did you mean "rateLimit"?
//
// sources are the files by name, as Set.Sources returns them.
func (ps Problems) Render(w io.Writer, sources map[string][]byte, color bool) error {
	out := bufio.NewWriter(w)
	paint := func(code, s string) string {
		if !color {
			return s
		}
		return "\x1b[" + code + "m" + s + "\x1b[0m"
	}
	severityColor := map[Severity]string{Error: "1;31", Warning: "1;33"}
	gutter := 0
	for _, p := range ps {
		gutter = max(gutter, len(strconv.Itoa(p.Line)))
	}
	lines := map[string][][]byte{}
	shown := map[string]int{}
	for _, p := range ps {
		if _, ok := lines[p.File]; !ok {
			lines[p.File] = bytes.Split(bytes.TrimPrefix(sources[p.File], []byte("\ufeff")), []byte("\n"))
		}
		if n := p.Line - 1; p.Hidden && n >= 0 && n < len(lines[p.File]) {
			lines[p.File][n] = hide(lines[p.File][n], p.Col, p.Len)
		}
	}
	for i, p := range ps {
		if shown[p.File]++; shown[p.File] > shownPerFile {
			if i == len(ps)-1 || ps[i+1].File != p.File {
				fmt.Fprintf(out, "%s: and %d more problems\n", p.File, shown[p.File]-shownPerFile)
			}
			continue
		}
		if !p.Pos.IsZero() {
			fmt.Fprintf(out, "%s: ", paint("1", p.Pos.String()))
		}
		fmt.Fprintf(out, "%s %s", paint(severityColor[p.Severity], p.Severity.String()+":"), p.Message)
		if p.Code != "" {
			fmt.Fprintf(out, " [%s]", p.Code)
		}
		fmt.Fprintln(out)
		if n := p.Line - 1; n >= 0 && sources[p.File] != nil && n < len(lines[p.File]) {
			text, caret := excerpt(lines[p.File][n], p.Col, p.Len)
			fmt.Fprintf(out, "%s %s\n", paint("2", fmt.Sprintf("%*d |", gutter+3, p.Line)), text)
			fmt.Fprintf(out, "%s %s\n", paint("2", fmt.Sprintf("%*s |", gutter+3, "")), paint(severityColor[p.Severity], caret))
		}
		if p.Hint != "" {
			fmt.Fprintf(out, "%*s hint: %s\n", gutter+4, "", p.Hint)
		}
	}
	return out.Flush()
}

// hide is a line without n characters from column col on.
func hide(line []byte, col, n int) []byte {
	r := []rune(string(line))
	for i := max(col-1, 0); i < min(col-1+n, len(r)); i++ {
		r[i] = '•'
	}
	return []byte(string(r))
}

// excerpt is a source line as a terminal can show it, and the carets below n
// characters from column col on. Of a long line it is the part around them.
func excerpt(line []byte, col, n int) (text, caret string) {
	const (
		most   = 110 // columns shown
		before = 40  // of them before the caret, in a long line
		tab    = 4
	)
	line = bytes.TrimSuffix(line, []byte("\r"))
	// Skip what is far to the left by characters, which is near enough.
	skip := 0
	if col > most-before {
		skip = col - 1 - before
	}
	var t, c strings.Builder
	width := 0
	if skip > 0 {
		t.WriteString("…")
		c.WriteByte(' ')
		width = 1
	}
	at := 0
	for len(line) > 0 && width < most {
		r, size := utf8.DecodeRune(line)
		line = line[size:]
		if at++; at <= skip {
			continue
		}
		cells := cellWidth(r)
		switch {
		case r == '\t':
			cells = tab - width%tab
			t.WriteString(strings.Repeat(" ", cells))
		case cells < 0 || r == utf8.RuneError && size == 1:
			cells = 1
			t.WriteRune(utf8.RuneError)
		default:
			t.WriteRune(r)
		}
		width += cells
		mark := " "
		if at >= col && at < col+max(n, 1) {
			mark = "^"
		}
		c.WriteString(strings.Repeat(mark, cells))
	}
	if len(line) > 0 {
		t.WriteString("…")
	}
	if at < col { // behind the end of the line
		c.WriteByte('^')
	}
	return strings.TrimRight(t.String(), " "), strings.TrimRight(c.String(), " ")
}

// cellWidth is how many columns of a terminal a character takes, -1 for those
// that would move the cursor or reorder the text.
func cellWidth(r rune) int {
	switch {
	case r < ' ' || r >= 0x7f && r < 0xa0 || unicode.Is(unicode.Bidi_Control, r):
		return -1
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case unicode.Is(wide, r):
		return 2
	}
	return 1
}

// wide are the characters of East Asian width W and F, in coarse ranges (Unicode
// Standard Annex 11), emoji included.
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{{0x1100, 0x115f, 1}, {0x231a, 0x231b, 1}, {0x23e9, 0x23ec, 1}, {0x2e80, 0x303e, 1}, {0x3041, 0x33ff, 1},
		{0x3400, 0x4dbf, 1}, {0x4e00, 0x9fff, 1}, {0xa000, 0xa4cf, 1}, {0xac00, 0xd7a3, 1}, {0xf900, 0xfaff, 1},
		{0xfe30, 0xfe6f, 1}, {0xff00, 0xff60, 1}, {0xffe0, 0xffe6, 1}},
	R32: []unicode.Range32{{0x1f300, 0x1f64f, 1}, {0x1f680, 0x1f6ff, 1}, {0x1f900, 0x1f9ff, 1}, {0x20000, 0x3fffd, 1}},
}
