package nginx

import (
	"fmt"
	"path"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// Bounds of reading. Configurations of real machines stay far below them.
const (
	maxFiles      = 1000     // files that includes may name
	maxBytes      = 16 << 20 // of all files together
	maxDirectives = 200_000
	maxToken      = 64 << 10
	maxDepth      = 64 // blocks in blocks, and includes in includes
	maxArgs       = 4096
)

// directive is one statement, with the block behind it if it has one.
type directive struct {
	name  string
	args  []string
	at    pinpoint.Place
	open  bool // it has a block
	block []*directive
}

// arg is an argument, "" if it is not there.
func (d *directive) arg(i int) string {
	if i < len(d.args) {
		return d.args[i]
	}
	return ""
}

// text is the directive as one would write it, cut.
func (d *directive) text() string {
	var b strings.Builder
	b.WriteString(d.name)
	hide := d.name == "if" && len(d.args) > 2 && secretVariable(d.args[0])
	for i, a := range d.args {
		if hide && i >= 2 { // what a credential is compared with is one itself
			b.WriteString(" …)")
			break
		}
		b.WriteByte(' ')
		if a == "" || strings.ContainsAny(a, " \t\n;{}\"'") && d.name != "if" {
			a = `"` + strings.ReplaceAll(a, `"`, `\"`) + `"`
		}
		b.WriteString(a)
		if b.Len() > 200 {
			return strings.ToValidUTF8(b.String()[:200], "") + "…"
		}
	}
	return b.String()
}

// reader reads the files of one configuration.
type reader struct {
	files    pinpoint.Files
	base     string // directory that includes are relative to
	read     int
	bytes    int
	count    int
	problems []pinpoint.Step
	named    []string // files that were read
}

func (r *reader) problem(at pinpoint.Place, format string, args ...any) {
	if len(r.problems) < 100 {
		r.problems = append(r.problems, pinpoint.Step{Says: fmt.Sprintf(format, args...), At: at})
	}
}

// file reads one file. What it holds before a mistake in its syntax is kept.
func (r *reader) file(name string, depth int) []*directive {
	data, err := r.files.ReadFile(name)
	if err != nil {
		r.problem(pinpoint.Place{File: name}, "cannot be read, so what it says is not known")
		return nil
	}
	if r.read++; r.read > maxFiles {
		r.problem(pinpoint.Place{File: name}, "is not read: the configuration has more than %d files", maxFiles)
		return nil
	}
	if r.bytes += len(data); r.bytes > maxBytes {
		r.problem(pinpoint.Place{File: name}, "is not read: the configuration is larger than %d bytes", maxBytes)
		return nil
	}
	r.named = append(r.named, name)
	p := &parser{reader: r, lexer: lexer{src: string(data), file: name, line: 1}}
	out, _ := p.block(depth, false)
	return out
}

// include expands a pattern; a name without wildcards must exist.
func (r *reader) include(d *directive, depth int) []*directive {
	if len(d.args) != 1 {
		r.problem(d.at, "include wants one argument")
		return nil
	}
	if depth >= maxDepth {
		r.problem(d.at, "includes are nested more than %d deep: a file seems to include itself", maxDepth)
		return nil
	}
	name := d.args[0]
	if !path.IsAbs(name) {
		name = path.Join(r.base, name)
	}
	if !strings.ContainsAny(name, "*?[") {
		return r.file(name, depth+1)
	}
	names, err := r.files.Glob(name)
	if err != nil {
		r.problem(d.at, "the pattern of include cannot be read")
		return nil
	}
	var out []*directive
	for _, n := range names {
		if hidden(name, n) {
			continue // glob(3) leaves out names with a dot
		}
		out = append(out, r.file(n, depth+1)...)
	}
	return out
}

func hidden(pattern, name string) bool {
	return strings.HasPrefix(path.Base(name), ".") && !strings.HasPrefix(path.Base(pattern), ".")
}

type parser struct {
	*reader
	lexer
}

// block reads directives up to the end of the file or, in a block, the brace. It says whether the
// syntax was right.
func (p *parser) block(depth int, inner bool) ([]*directive, bool) {
	var out []*directive
	if depth > maxDepth {
		p.problem(p.place(), "blocks are nested more than %d deep", maxDepth)
		return out, false
	}
	for {
		var words []string
		at := pinpoint.Place{File: p.lexer.file}
		var t token
		for {
			t = p.next()
			if t.kind != word {
				break
			}
			if len(words) == 0 {
				at.Line = t.line
			}
			if words = append(words, t.text); len(words) > maxArgs {
				p.problem(at, "a directive has more than %d arguments", maxArgs)
				return out, false
			}
		}
		switch {
		case t.kind == broken:
			p.problem(p.place(), "%s; nginx would not start with this file", t.text)
			return out, false
		case t.kind == end:
			if len(words) > 0 {
				p.problem(at, "the file ends inside of %q; nginx would not start with it", words[0])
			} else if inner {
				p.problem(p.place(), "the file ends before a block does; nginx would not start with it")
			}
			return out, !inner && len(words) == 0
		case t.kind == closing:
			if len(words) > 0 || !inner {
				p.problem(p.place(), "unexpected }; nginx would not start with this file")
				return out, false
			}
			return out, true
		case len(words) == 0:
			p.problem(p.place(), "unexpected %q; nginx would not start with this file", map[kind]string{semicolon: ";", opening: "{"}[t.kind])
			return out, false
		}
		if p.count++; p.count > maxDirectives {
			p.problem(at, "the configuration has more than %d directives", maxDirectives)
			return out, false
		}
		d := &directive{name: words[0], args: words[1:], at: at}
		if t.kind == opening {
			d.open = true
			if strings.HasSuffix(d.name, "_by_lua_block") {
				if !p.skipLua() {
					p.problem(at, "the block of %s does not end", d.name)
					return out, false
				}
			} else {
				var ok bool
				if d.block, ok = p.block(depth+1, true); !ok {
					return append(out, d), false
				}
			}
		} else if d.name == "include" {
			out = append(out, p.include(d, depth)...)
			continue
		}
		out = append(out, d)
	}
}

type kind int

const (
	word kind = iota
	semicolon
	opening
	closing
	end
	broken
)

type token struct {
	kind kind
	text string
	line int
}

// lexer cuts a file into words as ngx_conf_read_token does: a quote only counts where a word begins,
// a brace within a word belongs to it unless it opens a block, and ${ belongs to a variable.
type lexer struct {
	src  string
	file string
	pos  int
	line int
}

func (l *lexer) place() pinpoint.Place { return pinpoint.Place{File: l.file, Line: l.line} }

func (l *lexer) next() token {
	for l.pos < len(l.src) {
		switch c := l.src[l.pos]; c {
		case '\n':
			l.line++
			l.pos++
		case ' ', '\t', '\r':
			l.pos++
		case '#':
			for l.pos < len(l.src) && l.src[l.pos] != '\n' {
				l.pos++
			}
		case ';':
			l.pos++
			return token{kind: semicolon, line: l.line}
		case '{':
			l.pos++
			return token{kind: opening, line: l.line}
		case '}':
			l.pos++
			return token{kind: closing, line: l.line}
		case '"', '\'':
			return l.quoted(c)
		default:
			return l.bare()
		}
	}
	return token{kind: end, line: l.line}
}

func (l *lexer) quoted(q byte) token {
	start := l.line
	l.pos++
	var b strings.Builder
	for l.pos < len(l.src) {
		c := l.src[l.pos]
		if b.Len() > maxToken {
			return token{broken, "a parameter is too long", start}
		}
		switch {
		case c == '\\' && l.pos+1 < len(l.src):
			l.escape(&b)
			continue
		case c == q:
			l.pos++
			if l.pos < len(l.src) && !strings.ContainsRune(" \t\r\n;{)", rune(l.src[l.pos])) {
				return token{broken, fmt.Sprintf("unexpected %q behind a quote", l.src[l.pos]), l.line}
			}
			// Behind a quote, a bracket begins a word of its own.
			return token{word, b.String(), start}
		case c == '\n':
			l.line++
		}
		b.WriteByte(c)
		l.pos++
	}
	return token{broken, "a quote is not closed", start}
}

func (l *lexer) bare() token {
	start := l.line
	var b strings.Builder
	for l.pos < len(l.src) {
		c := l.src[l.pos]
		if b.Len() > maxToken {
			return token{broken, "a parameter is too long", start}
		}
		switch {
		case c == '\\' && l.pos+1 < len(l.src):
			l.escape(&b)
			continue
		case c == '$' && l.pos+1 < len(l.src) && l.src[l.pos+1] == '{':
			b.WriteString("${")
			l.pos += 2
			continue
		case c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == ';' || c == '{':
			return token{word, b.String(), start}
		}
		b.WriteByte(c)
		l.pos++
	}
	return token{word, b.String(), start}
}

// escape reads a backslash and what follows. Only some escapes mean another character; the others
// stay as written, as regular expressions need them.
func (l *lexer) escape(b *strings.Builder) {
	c := l.src[l.pos+1]
	switch c {
	case '"', '\'', '\\':
		b.WriteByte(c)
	case 't':
		b.WriteByte('\t')
	case 'r':
		b.WriteByte('\r')
	case 'n':
		b.WriteByte('\n')
	default:
		b.WriteByte('\\')
		b.WriteByte(c)
	}
	if c == '\n' {
		l.line++
	}
	l.pos += 2
}

// skipLua goes behind the brace that ends a block of Lua. Strings and comments may hold braces.
func (l *lexer) skipLua() bool {
	depth := 1
	for l.pos < len(l.src) {
		rest := l.src[l.pos:]
		switch c := rest[0]; {
		case c == '\n':
			l.line++
		case c == '{':
			depth++
		case c == '}':
			if depth--; depth == 0 {
				l.pos++
				return true
			}
		case c == '"' || c == '\'':
			for l.pos++; l.pos < len(l.src) && l.src[l.pos] != c && l.src[l.pos] != '\n'; l.pos++ {
				if l.src[l.pos] == '\\' {
					l.pos++
				}
			}
			if l.pos < len(l.src) && l.src[l.pos] == '\n' {
				l.line++
			}
		case strings.HasPrefix(rest, "--[") && longBracket(rest[2:]) > 0:
			l.skipLong(2)
			continue
		case strings.HasPrefix(rest, "--"):
			for l.pos < len(l.src) && l.src[l.pos] != '\n' {
				l.pos++
			}
			continue
		case c == '[' && longBracket(rest) > 0:
			l.skipLong(0)
			continue
		}
		l.pos++
	}
	return false
}

// longBracket is the length of [[, [=[ and so on, 0 if there is none.
func longBracket(s string) int {
	n := 1
	for n < len(s) && s[n] == '=' {
		n++
	}
	if n < len(s) && s[n] == '[' {
		return n + 1
	}
	return 0
}

func (l *lexer) skipLong(lead int) {
	n := longBracket(l.src[l.pos+lead:])
	closer := "]" + strings.Repeat("=", n-2) + "]"
	from := l.pos + lead + n
	i := strings.Index(l.src[from:], closer)
	stop := len(l.src)
	if i >= 0 {
		stop = from + i + len(closer)
	}
	l.line += strings.Count(l.src[l.pos:stop], "\n")
	l.pos = stop
}

// secretVariable says that a text looks at a credential of the request.
func secretVariable(text string) bool {
	for _, n := range variablesIn(text) {
		if strings.HasPrefix(n, "cookie_") || (strings.HasPrefix(n, "http_") || strings.HasPrefix(n, "arg_")) && (credential(n) || strings.Contains(n, "pass")) {
			return true
		}
	}
	return false
}
