package policy

import (
	"path/filepath"
	"strings"
	"unicode"
)

// Rules look at values after transformations. Most values pass through most of them unchanged; those that do not are
// transformed here where that is simple, and else taken for something that any rule may match.

// valueTraits are what a string has that transformations look for.
type valueTraits uint32

const (
	hasEscape      valueTraits = 1 << iota // %, +
	hasAmpersand                           // &
	hasBackslash                           // \
	hasNull                                // a byte of zero
	hasHigh                                // a byte that is not ASCII
	hasSpace                               // white space
	hasShell                               // what a shell takes as more than a letter
	hasSlash                               // /
	hasComment                             // /* */ -- #
	hasColon                               // :
	endsLoose                              // ends in a dot or a space
	isEmptyOrDot                           // "", "."
	foldsStrangely                         // see foldsToASCII
)

var byteTraits = func() (t [256]valueTraits) {
	for _, c := range []struct {
		bytes string
		trait valueTraits
	}{
		{"%+", hasEscape}, {"&", hasAmpersand}, {"\\", hasBackslash | hasShell}, {"\x00", hasNull}, {" \t\n\v\f\r", hasSpace},
		{"\"'^ ,;\t\r\n/(", hasShell}, {"/", hasSlash}, {":", hasColon}, {"#", hasComment},
	} {
		for _, b := range []byte(c.bytes) {
			t[b] |= c.trait
		}
	}
	for b := 0x80; b < 256; b++ {
		t[b] = hasHigh
	}
	return t
}()

func traitsOf(s string) (t valueTraits) {
	for i := range len(s) {
		t |= byteTraits[s[i]]
	}
	if t&hasHigh != 0 && foldsToASCII(s) {
		t |= foldsStrangely
	}
	if strings.Contains(s, "/*") || strings.Contains(s, "*/") || strings.Contains(s, "--") {
		t |= hasComment
	}
	if s == "" || s == "." {
		t |= isEmptyOrDot
	}
	if s != "" && (s[len(s)-1] == '.' || s[len(s)-1] == ' ') {
		t |= endsLoose
	}
	return t
}

// change is one transformation: what it looks for, and what it then does. Without do the result is not known. Results
// are right but for the case of letters.
type change struct {
	looksFor valueTraits
	do       func(s string) (result string, known bool)
}

var changes = map[string]*change{
	"lowercase":          {hasHigh, known(strings.ToLower)},
	"urldecode":          {looksFor: hasEscape},
	"urldecodeuni":       {hasEscape, decodeEscapes},
	"htmlentitydecode":   {looksFor: hasAmpersand},
	"jsdecode":           {looksFor: hasBackslash},
	"cssdecode":          {looksFor: hasBackslash},
	"escapeseqdecode":    {looksFor: hasBackslash},
	"removenulls":        {looksFor: hasNull},
	"utf8tounicode":      {looksFor: hasHigh},
	"cmdline":            {hasShell, known(commandLine)},
	"normalizepath":      {hasSlash | hasBackslash | hasColon | isEmptyOrDot, known(cleanPath)},
	"normalisepath":      {hasSlash | hasBackslash | hasColon | isEmptyOrDot, known(cleanPath)},
	"normalizepathwin":   {looksFor: hasSlash | hasBackslash | hasColon | endsLoose | isEmptyOrDot},
	"normalisepathwin":   {looksFor: hasSlash | hasBackslash | hasColon | endsLoose | isEmptyOrDot},
	"compresswhitespace": {hasSpace | hasHigh, compressSpaces},
	"removewhitespace":   {hasSpace | hasHigh, known(removeSpaces)},
	"replacecomments":    {looksFor: hasComment},
	"removecommentschar": {looksFor: hasComment},
	"trim":               {looksFor: hasSpace},
}

func known(f func(string) string) func(string) (string, bool) {
	return func(s string) (string, bool) { return f(s), true }
}

// decodeEscapes is urlDecodeUni, but for %uFFFF.
func decodeEscapes(s string) (string, bool) {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '+':
			c = ' '
		case c != '%' || i+1 == len(s):
		case s[i+1]|0x20 == 'u':
			return "", false
		case i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			c = hexDigit(s[i+1])<<4 | hexDigit(s[i+2])
			i += 2
		}
		out = append(out, c)
	}
	return string(out), true
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}

func hexDigit(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}

// commandLine is cmdLine.
func commandLine(s string) string {
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\'', '\\', '^':
		case ' ', ',', ';', '\t', '\r', '\n':
			if n := len(out); n == 0 || out[n-1] != ' ' {
				out = append(out, ' ')
			}
		case '/', '(':
			if n := len(out); n > 0 && out[n-1] == ' ' {
				out = out[:n-1]
			}
			out = append(out, c)
		default:
			out = append(out, c)
		}
	}
	return string(out)
}

// cleanPath is normalizePath.
func cleanPath(s string) string {
	if s == "" {
		return ""
	}
	clean := filepath.Clean(s)
	switch {
	case clean == ".":
		return ""
	case s[len(s)-1] == '/':
		return clean + "/"
	}
	return clean
}

// compressSpaces is compressWhitespace, for ASCII.
func compressSpaces(s string) (string, bool) {
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		switch t := byteTraits[s[i]]; {
		case t&hasHigh != 0:
			return "", false
		case t&hasSpace == 0:
			out = append(out, s[i])
		case len(out) == 0 || out[len(out)-1] != ' ':
			out = append(out, ' ')
		}
	}
	return string(out), true
}

// removeSpaces is removeWhitespace.
func removeSpaces(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, s)
}

// chainStep is a transformation in a chain. The number tells it from the others of an engine.
type chainStep struct {
	change
	number int
}

// variant is what becomes of a value.
type variant struct {
	text   string
	traits valueTraits
}

// variants are what becomes of a value in all chains, each result once.
type variants struct {
	list []variant
	memo [][]int16 // per variant and change, the variant that it makes, +1; negative: not known
}

const unknownVariant = -1

// set begins with a value.
func (v *variants) set(s string, changes int) {
	v.list = append(v.list[:0], variant{s, traitsOf(s)})
	v.row(0, changes)
}

func (v *variants) row(i, changes int) {
	if i == len(v.memo) {
		v.memo = append(v.memo, make([]int16, changes))
	}
	if len(v.memo[i]) < changes {
		v.memo[i] = make([]int16, changes)
	}
	clear(v.memo[i])
}

// after is what a chain of changes makes of the value.
func (v *variants) after(chain []chainStep, changes int) int {
	at := 0
	for _, step := range chain {
		if v.list[at].traits&foldsStrangely != 0 {
			return unknownVariant
		}
		if v.list[at].traits&step.looksFor == 0 {
			continue
		}
		if step.do == nil {
			return unknownVariant
		}
		m := v.memo[at][step.number]
		if m == 0 {
			m = unknownVariant
			if text, ok := step.do(v.list[at].text); ok {
				m = int16(v.add(text, changes) + 1)
			}
			v.memo[at][step.number] = m
		}
		if m < 0 {
			return unknownVariant
		}
		at = int(m) - 1
	}
	if v.list[at].traits&foldsStrangely != 0 {
		return unknownVariant
	}
	return at
}

// add returns the number of a result.
func (v *variants) add(text string, changes int) int {
	for i := range v.list {
		if v.list[i].text == text {
			return i
		}
	}
	v.list = append(v.list, variant{text, traitsOf(text)})
	v.row(len(v.list)-1, changes)
	return len(v.list) - 1
}
