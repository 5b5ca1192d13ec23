// Package apache reads the configuration of an Apache httpd 2.4 and decides, as httpd would, what
// happens to one request.
//
// Load reads the files to directives that know their file and line (reader.go) and builds servers and
// sections from them (config.go, scope.go). Decide walks them for one Arrival in the order of httpd's
// request processing (decide.go): choice of the virtual host, limits of the protocol, Location
// sections, translation of the URL (translate.go, rewrite.go), directories with their .htaccess
// (walk.go), Files, Location and If, then access (access.go, legacy.go, basic.go), fix-ups and the
// handler. What cannot be evaluated here is tried both ways (doubt.go).
package apache

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// Bounds of reading. httpd's own are 16 MiB a line and 128 nested includes.
const (
	maxFile       = 4 << 20
	maxTotal      = 32 << 20
	maxDirectives = 200_000
	maxIncludes   = 2_000
	maxNested     = 64
	maxLine       = 256 << 10
	maxProblems   = 200
)

// directive is one directive, or a section with those inside it.
type directive struct {
	name    string // lower case
	written string
	raw     string // what follows the name, variables filled in
	at      pinpoint.Place
	section bool
	inside  []*directive
	args    []string
}

// String is the directive as one would quote it.
func (d *directive) String() string {
	if d.section {
		return "<" + d.written + pad(d.raw) + ">"
	}
	return d.written + pad(d.raw)
}

func pad(s string) string {
	if s == "" {
		return ""
	}
	return " " + cut(s, 160)
}

// cut shortens a text for a sentence.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n] + "…"
}

// arg is one argument, "" if there is none.
func (d *directive) arg(i int) string {
	if i < len(d.args) {
		return d.args[i]
	}
	return ""
}

// reader turns files to directives. It evaluates what httpd evaluates while it reads: Define,
// Include, IfModule, IfDefine, IfVersion, IfFile, LoadModule, Macro.
type reader struct {
	files    pinpoint.Files
	env      Env
	root     string // ServerRoot
	vars     map[string]string
	defined  map[string]bool
	modules  map[string]bool
	macros   map[string]*macro
	open     []string // files that are being read
	includes int
	total    int
	count    int
	problems []Problem
	htaccess bool
}

// macro is one of mod_macro.
type macro struct {
	params []string
	lines  []line
}

// line is a logical line: continuation lines are joined.
type line struct {
	text string
	at   pinpoint.Place
}

func (r *reader) problem(at pinpoint.Place, format string, args ...any) {
	if len(r.problems) < maxProblems {
		r.problems = append(r.problems, Problem{Says: fmt.Sprintf(format, args...), At: at})
	}
}

// lines splits a file to logical lines. A backslash at the end of a line joins it with the next one;
// comments are lines that begin with #, and they are joined too.
func (r *reader) lines(name string, data []byte) (out []line) {
	text := strings.TrimPrefix(string(data), "\ufeff")
	no, start := 0, 0
	var b strings.Builder
	flush := func() {
		s := strings.TrimSpace(b.String())
		b.Reset()
		if s == "" || s[0] == '#' {
			return
		}
		at := pinpoint.Place{File: name, Line: start}
		if len(s) > maxLine {
			r.problem(at, "the line has %d bytes, more than is read here", len(s))
			return
		}
		out = append(out, line{s, at})
	}
	for l := range strings.Lines(text) {
		no++
		if b.Len() == 0 {
			start = no
		}
		l = strings.TrimSuffix(strings.TrimSuffix(l, "\n"), "\r")
		if strings.HasSuffix(l, `\`) {
			b.WriteString(l[:len(l)-1])
			continue
		}
		b.WriteString(l)
		flush()
	}
	flush()
	return out
}

// file reads one file to directives.
func (r *reader) file(name string, from pinpoint.Place, depth int) []*directive {
	for _, o := range r.open {
		if o == name {
			r.problem(from, "%s includes itself", name)
			return nil
		}
	}
	if r.includes++; r.includes > maxIncludes || len(r.open) >= maxNested {
		r.problem(from, "%s is not read: too many files include each other", name)
		return nil
	}
	data, err := r.files.ReadFile(name)
	if err != nil {
		r.problem(from, "%s cannot be read: %s", name, brief(err))
		return nil
	}
	if r.total += len(data); len(data) > maxFile || r.total > maxTotal {
		r.problem(from, "%s is not read: the configuration is too large", name)
		return nil
	}
	r.open = append(r.open, name)
	defer func() { r.open = r.open[:len(r.open)-1] }()
	return r.all(r.lines(name, data), depth)
}

// brief is the reason of a file error without the name, which the sentence has already.
func brief(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "it does not exist"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return "it could not be read"
}

// cursor walks through lines.
type cursor struct {
	lines []line
	next  int
}

func (r *reader) all(lines []line, depth int) (out []*directive) {
	c := &cursor{lines: lines}
	for c.next < len(c.lines) {
		out = append(out, r.block(c, "", pinpoint.Place{}, depth)...)
	}
	return out
}

var closing = regexp.MustCompile(`^</\s*([A-Za-z0-9_]+)\s*>?`)

// block reads until the section ends, or the lines do.
func (r *reader) block(c *cursor, section string, opened pinpoint.Place, depth int) (out []*directive) {
	for c.next < len(c.lines) {
		l := c.lines[c.next]
		c.next++
		if m := closing.FindStringSubmatch(l.text); m != nil {
			if strings.EqualFold(m[1], section) {
				return out
			}
			if section == "" {
				r.problem(l.at, "</%s> closes nothing", m[1])
			} else {
				r.problem(l.at, "</%s> stands where </%s> should", m[1], section)
			}
			continue
		}
		out = append(out, r.one(c, l, depth)...)
	}
	if section != "" {
		r.problem(opened, "<%s> is never closed", section)
	}
	return out
}

// one reads a directive, or a section with what is inside. Most give one; an Include gives many.
func (r *reader) one(c *cursor, l line, depth int) []*directive {
	if r.count++; r.count > maxDirectives {
		if r.count == maxDirectives+1 {
			r.problem(l.at, "the rest is not read: more than %d directives", maxDirectives)
		}
		c.next = len(c.lines)
		return nil
	}
	d := &directive{at: l.at}
	text := l.text
	if text[0] == '<' {
		d.section = true
		text = strings.TrimLeft(text[1:], " \t")
	}
	end := strings.IndexAny(text, " \t>\"'")
	if end < 0 {
		end = len(text)
	}
	d.written = text[:end]
	d.name = strings.ToLower(d.written)
	d.raw = strings.TrimSpace(text[end:])
	if d.section {
		if i := strings.LastIndexByte(d.raw, '>'); i >= 0 {
			d.raw = strings.TrimSpace(d.raw[:i])
		} else {
			r.problem(l.at, "<%s lacks its >", d.written)
		}
	}
	d.raw = r.expand(d.raw)
	d.args = words(d.raw)
	if d.section {
		return r.sectionOf(c, d, depth)
	}
	switch d.name {
	case "include", "includeoptional":
		if r.htaccess {
			break
		}
		return r.include(d, depth)
	case "define":
		if n := d.arg(0); n != "" && !strings.Contains(n, ":") {
			r.defined[n] = true
			if len(d.args) > 1 {
				r.vars[n] = d.args[1]
			}
		}
		return nil
	case "undefine":
		delete(r.defined, d.arg(0))
		delete(r.vars, d.arg(0))
		return nil
	case "serverroot":
		if p := d.arg(0); p != "" {
			r.root = path.Clean(p)
		}
	case "loadmodule":
		r.load(d.arg(0), d.arg(1))
	case "use":
		return r.use(d, depth)
	case "undefmacro":
		delete(r.macros, strings.ToLower(d.arg(0)))
		return nil
	}
	return []*directive{d}
}

// load notes a module under both of its names: rewrite_module and mod_rewrite.c.
func (r *reader) load(id, file string) {
	if id == "" {
		return
	}
	r.modules[id] = true
	base := strings.TrimSuffix(path.Base(file), ".so")
	switch {
	case strings.HasPrefix(base, "libphp"):
		r.modules["mod_php.c"] = true
		r.modules[strings.Replace(base, "libphp", "mod_php", 1)+".c"] = true
	case strings.HasPrefix(base, "mod_mpm_"):
		r.modules[strings.TrimPrefix(base, "mod_mpm_")+".c"] = true
	}
	r.modules[base+".c"] = true
}

func (r *reader) sectionOf(c *cursor, d *directive, depth int) []*directive {
	if depth >= maxNested {
		r.problem(d.at, "<%s> is nested too deeply", d.written)
		r.skip(c, d)
		return nil
	}
	a, not := d.arg(0), false
	if strings.HasPrefix(a, "!") {
		a, not = a[1:], true
	}
	var holds bool
	switch d.name {
	case "ifmodule":
		holds = r.modules[a]
	case "ifdefine":
		holds = r.defined[a]
	case "iffile":
		holds = exists(r.files, r.path(a))
	case "ifversion":
		holds, not = r.version(d), false
	case "macro":
		r.macro(c, d)
		return nil
	default:
		d.inside = r.block(c, d.written, d.at, depth+1)
		return []*directive{d}
	}
	if holds == not {
		r.skip(c, d)
		return nil
	}
	return r.block(c, d.written, d.at, depth+1)
}

// skip passes over a section without reading it.
func (r *reader) skip(c *cursor, d *directive) { r.soak(c, d) }

func (r *reader) soak(c *cursor, d *directive) (lines []line) {
	open := regexp.MustCompile(`(?i)^<\s*` + regexp.QuoteMeta(d.written) + `[\s>]`)
	for depth := 1; c.next < len(c.lines); {
		l := c.lines[c.next]
		c.next++
		if m := closing.FindStringSubmatch(l.text); m != nil && strings.EqualFold(m[1], d.written) {
			if depth--; depth == 0 {
				return lines
			}
		} else if open.MatchString(l.text) {
			depth++
		}
		lines = append(lines, l)
	}
	r.problem(d.at, "<%s> is never closed", d.written)
	return lines
}

func (r *reader) macro(c *cursor, d *directive) {
	lines := r.soak(c, d)
	if len(d.args) == 0 {
		r.problem(d.at, "a Macro needs a name")
		return
	}
	r.macros[strings.ToLower(d.args[0])] = &macro{params: d.args[1:], lines: lines}
}

func (r *reader) use(d *directive, depth int) []*directive {
	m := r.macros[strings.ToLower(d.arg(0))]
	if m == nil {
		r.problem(d.at, "there is no macro %q", cut(d.arg(0), 60))
		return nil
	}
	if depth >= maxNested || len(d.args)-1 != len(m.params) {
		r.problem(d.at, "the macro %s cannot be used like this", cut(d.arg(0), 60))
		return nil
	}
	pairs := make([]string, 0, 2*len(m.params))
	for i, p := range m.params {
		if p != "" {
			pairs = append(pairs, p, d.args[i+1])
		}
	}
	in := strings.NewReplacer(pairs...)
	lines := make([]line, len(m.lines))
	for i, l := range m.lines {
		if lines[i] = (line{in.Replace(l.text), l.at}); len(lines[i].text) > maxLine {
			r.problem(d.at, "the macro grows too long")
			return nil
		}
	}
	return r.all(lines, depth+1)
}

func (r *reader) include(d *directive, depth int) (out []*directive) {
	if depth >= maxNested {
		r.problem(d.at, "%s: too deep", d.written)
		return nil
	}
	pattern := r.path(d.arg(0))
	if d.arg(0) == "" {
		r.problem(d.at, "%s needs a file", d.written)
		return nil
	}
	names := []string{pattern}
	switch {
	case strings.ContainsAny(pattern, "*?["):
		var err error
		if names, err = r.files.Glob(pattern); err != nil {
			r.problem(d.at, "%s: the pattern cannot be expanded", d.written)
		}
		if len(names) == 0 && d.name == "include" {
			r.problem(d.at, "no file matches %s: httpd does not start", pattern)
		}
	case isDir(r.files, pattern):
		names, _ = r.files.Glob(pattern + "/*") // a directory is read in the order of its names
	case !exists(r.files, pattern):
		if d.name == "include" {
			r.problem(d.at, "%s does not exist: httpd does not start", pattern)
		}
		return nil
	}
	for _, n := range names {
		if isDir(r.files, n) {
			below, _ := r.files.Glob(n + "/*")
			for _, b := range below {
				if !isDir(r.files, b) {
					out = append(out, r.file(b, d.at, depth+1)...)
				}
			}
			continue
		}
		out = append(out, r.file(n, d.at, depth+1)...)
	}
	return out
}

// path is a name of the configuration as an absolute one.
func (r *reader) path(name string) string {
	if name == "" || path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(r.root, name)
}

var variable = regexp.MustCompile(`\$\{([^}:]+)\}`)

// expand fills in ${VAR}: of Define first, then of the environment. Others stay as they are.
func (r *reader) expand(s string) string {
	if !strings.Contains(s, "${") {
		return s
	}
	out := variable.ReplaceAllStringFunc(s, func(v string) string {
		name := v[2 : len(v)-1]
		if value, ok := r.vars[name]; ok {
			return value
		}
		if value, ok := r.env.Vars[name]; ok {
			return value
		}
		return v
	})
	if len(out) > maxLine {
		return s
	}
	return out
}

// version evaluates IfVersion [[!]operator] version.
func (r *reader) version(d *directive) bool {
	op, want := "=", d.arg(0)
	if len(d.args) > 1 {
		op, want = d.args[0], d.args[1]
	}
	not := strings.HasPrefix(op, "!")
	op = strings.TrimPrefix(op, "!")
	have := r.env.Version
	if have == "" {
		have = DefaultVersion
	}
	var holds bool
	if op == "~" || strings.HasPrefix(want, "/") {
		re, err := regexp.Compile(strings.Trim(want, "/"))
		holds = err == nil && re.MatchString(have)
	} else {
		a, b := numbers(have), numbers(want)
		cmp := 0
		for i := 0; i < 3 && cmp == 0; i++ {
			cmp = a[i] - b[i]
		}
		switch op {
		case "=", "==":
			holds = cmp == 0
		case ">":
			holds = cmp > 0
		case ">=":
			holds = cmp >= 0
		case "<":
			holds = cmp < 0
		case "<=":
			holds = cmp <= 0
		}
	}
	return holds != not
}

func numbers(v string) (n [3]int) {
	for i, p := range strings.SplitN(v, ".", 3) {
		n[i], _ = strconv.Atoi(p)
	}
	return n
}

// words takes the arguments apart as httpd does: separated by blanks, in quotes of either kind; a
// backslash stands before a backslash or before the quote.
func words(s string) (out []string) {
	for {
		var w string
		var ok bool
		if w, s, ok = word(s); !ok {
			return out
		}
		out = append(out, w)
	}
}

func word(s string) (w, rest string, ok bool) {
	s = strings.TrimLeft(s, " \t\r\v\f")
	if s == "" {
		return "", "", false
	}
	quote := s[0]
	end := 0
	if quote == '"' || quote == '\'' {
		s = s[1:]
		for end < len(s) && s[end] != quote {
			if s[end] == '\\' && end+1 < len(s) && (s[end+1] == '\\' || s[end+1] == quote) {
				end++
			}
			end++
		}
	} else {
		quote = 0
		for end < len(s) && !strings.ContainsRune(" \t\r\v\f", rune(s[end])) {
			end++
		}
	}
	if rest = ""; end < len(s) {
		rest = s[end+1:]
	}
	w = s[:min(end, len(s))]
	if strings.IndexByte(w, '\\') >= 0 {
		b := make([]byte, 0, len(w))
		for i := 0; i < len(w); i++ {
			if w[i] == '\\' && i+1 < len(w) && (w[i+1] == '\\' || quote != 0 && w[i+1] == quote) {
				i++
			}
			b = append(b, w[i])
		}
		w = string(b)
	}
	return w, rest, true
}

// Lister is what Files may offer beside its own methods; without it existence and kind of a file are
// found with Glob, and symbolic links are not seen.
type Lister interface {
	Stat(name string) (fs.FileInfo, error)
	Lstat(name string) (fs.FileInfo, error)
}

var globMeta = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

func exists(files pinpoint.Files, name string) bool {
	if l, ok := files.(Lister); ok {
		_, err := l.Stat(name)
		return err == nil
	}
	found, err := files.Glob(globMeta.Replace(name))
	return err == nil && len(found) > 0
}

func isDir(files pinpoint.Files, name string) bool {
	if l, ok := files.(Lister); ok {
		fi, err := l.Stat(name)
		return err == nil && fi.IsDir()
	}
	found, err := files.Glob(globMeta.Replace(strings.TrimSuffix(name, "/")) + "/.")
	if err == nil && len(found) > 0 {
		return true
	}
	found, err = files.Glob(globMeta.Replace(strings.TrimSuffix(name, "/")) + "/*")
	return err == nil && len(found) > 0
}

// matches is a wildcard of the configuration: * and ? do not match a slash.
func matches(pattern, s string) bool {
	ok, err := filepath.Match(pattern, s)
	return err == nil && ok
}
