package servers

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// Lighttpd is the configuration of a lighttpd 1.4.
// https://redmine.lighttpd.net/projects/lighttpd/wiki/Docs_Configuration
type Lighttpd struct {
	Problems []Problem
	src      *source
	env      Env
	contexts []*block // in the order of the configuration, the global one first
	modules  []string
}

// block is the global part of a configuration, or what stands in a condition.
type block struct {
	parent  *block
	before  *block // of an else: the branch before it
	key     string // `HTTP["url"]`
	op      string
	want    string
	re      *pattern
	text    string
	at      pinpoint.Place
	set     map[string]setting
	always  bool // a plain else
	unknown string
}

type setting struct {
	value value
	at    pinpoint.Place
}

// value is a string or number, or an array whose items may have keys.
type value struct {
	s     string
	list  []item
	array bool
	why   string // it is not known
}

type item struct {
	key string
	val value
	at  pinpoint.Place
}

// strings are the items of an array, or the value itself.
func (v value) strings() (out []string) {
	if !v.array {
		return []string{v.s}
	}
	for _, i := range v.list {
		out = append(out, i.val.s)
	}
	return out
}

func (v value) get(key string) value {
	for _, i := range v.list {
		if i.key == key {
			return i.val
		}
	}
	return value{}
}

// DiscoverLighttpd finds the configuration of a process from its arguments.
func DiscoverLighttpd(args []string) string {
	for i := 1; i+1 < len(args); i++ {
		if args[i] == "-f" {
			return args[i+1]
		}
	}
	return "/etc/lighttpd/lighttpd.conf"
}

// LoadLighttpd reads a configuration. What could not be read is in Problems.
func LoadLighttpd(files pinpoint.Files, conf string, env Env) (*Lighttpd, error) {
	l := &Lighttpd{src: &source{files: files}, env: env}
	text, err := l.src.read(conf)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of lighttpd %q: %w", conf, err)
	}
	r := &lightReader{l: l, vars: map[string]value{"CWD": {s: path.Dir(conf)}}}
	r.now = &block{set: map[string]setting{}, at: pinpoint.Place{File: conf, Line: 1}}
	l.contexts = []*block{r.now}
	r.file(conf, text, 0)
	loaded := l.contexts[0].set["server.modules"].value.strings()
	if l.contexts[0].set["server.compat-module-load"].value.s != "disable" {
		// What is not named is loaded anyway: mod_indexfile first, the other two last.
		if !slices.Contains(loaded, "mod_indexfile") {
			loaded = append([]string{"mod_indexfile"}, loaded...)
		}
		for _, m := range []string{"mod_dirlisting", "mod_staticfile"} {
			if !slices.Contains(loaded, m) {
				loaded = append(loaded, m)
			}
		}
	}
	for _, m := range loaded {
		if m != "" && !slices.Contains(l.modules, m) {
			l.modules = append(l.modules, m)
		}
	}
	l.Problems = l.src.problems
	return l, nil
}

// token is a word of a configuration.
type token struct {
	kind byte // 's' string, 'n' number, 'w' word, 'o' operator, 'l' end of line, 0 end
	text string
	line int
}

type lightReader struct {
	l     *Lighttpd
	name  string
	toks  []token
	pos   int
	now   *block
	last  *block // the condition that ended last, for else
	vars  map[string]value
	steps int
}

func lightTokens(text string) (out []token, problem string) {
	line := 1
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case len(out) > 4*maxLines:
			return out, "the file has more words than are read here"
		case c == '\n':
			out = append(out, token{'l', "", line})
			line++
			i++
		case c == ' ' || c == '\t' || c == '\r':
			i++
		case c == '#':
			for i < len(text) && text[i] != '\n' {
				i++
			}
		case c == '"':
			var b strings.Builder
			start := line
			i++
			for i < len(text) && text[i] != '"' {
				if text[i] == '\\' && i+1 < len(text) && text[i+1] == '"' {
					i++
				}
				if text[i] == '\n' {
					line++
				}
				b.WriteByte(text[i])
				i++
			}
			if i >= len(text) {
				problem = "a string that is not closed"
			}
			i++
			out = append(out, token{'s', b.String(), start})
		case strings.IndexByte("(){}[],$", c) >= 0:
			out = append(out, token{'o', string(c), line})
			i++
		case strings.IndexByte("=+!:", c) >= 0:
			n := 1
			for _, op := range []string{"==", "=~", "!=", "!~", "=>", "+=", ":=", "=^", "=$"} {
				if strings.HasPrefix(text[i:], op) {
					n = 2
				}
			}
			out = append(out, token{'o', text[i : i+n], line})
			i += n
		default:
			j := i
			for j < len(text) && (text[j] == '.' || text[j] == '-' || text[j] == '_' || text[j] >= '0' && text[j] <= '9' || text[j]|0x20 >= 'a' && text[j]|0x20 <= 'z') {
				j++
			}
			if j == i {
				problem = "a character that has no meaning"
				i++
				continue
			}
			kind := byte('w')
			if _, err := strconv.Atoi(text[i:j]); err == nil {
				kind = 'n'
			}
			out = append(out, token{kind, text[i:j], line})
			i = j
		}
	}
	return out, problem
}

func (r *lightReader) file(name, text string, depth int) {
	at := pinpoint.Place{File: name}
	if depth > maxDepth {
		r.l.src.problem(at, "includes are nested deeper than is read here")
		return
	}
	outer := *r
	toks, problem := lightTokens(text)
	if problem != "" {
		r.l.src.problem(at, "%s", problem)
	}
	r.name, r.toks, r.pos = name, toks, 0
	for r.peek().kind != 0 {
		r.statement(depth)
	}
	r.name, r.toks, r.pos = outer.name, outer.toks, outer.pos
}

func (r *lightReader) peek() token {
	if r.pos < len(r.toks) {
		return r.toks[r.pos]
	}
	return token{}
}

func (r *lightReader) next() token {
	t := r.peek()
	r.pos++
	return t
}

func (r *lightReader) lines() {
	for r.peek().kind == 'l' {
		r.pos++
	}
}

func (r *lightReader) is(text string) bool {
	t := r.peek()
	return t.kind == 'o' && t.text == text
}

func (r *lightReader) at(t token) pinpoint.Place { return pinpoint.Place{File: r.name, Line: t.line} }

// statement reads one; a line that cannot be read is passed over.
func (r *lightReader) statement(depth int) {
	r.lines()
	t := r.peek()
	start := r.pos
	switch {
	case t.kind == 0:
		return
	case t.kind == 'o' && t.text == "}":
		r.pos++
		return
	case t.kind == 'o' && t.text == "$":
		r.condition(depth, nil)
		return
	case t.kind == 'w' && t.text == "else" || t.text == "elseif" || t.text == "elsif":
		r.pos++
		always := r.peek().text == "if"
		if always {
			r.pos++
		}
		r.lines()
		n := len(r.l.contexts)
		r.condition(depth, r.last)
		// lighttpd 1.4 drops the condition behind "else if": `lighttpd -p` shows it as a plain else.
		if always && n < len(r.l.contexts) {
			r.l.contexts[n].always = true
			r.l.contexts[n].text = "else if"
		}
		return
	case t.kind == 'w' && (t.text == "include" || t.text == "include_shell"):
		r.pos++
		v := r.value(depth)
		r.include(t, v, depth)
	case t.kind == 'w':
		r.pos++
		op := r.next()
		if op.kind == 'o' && (op.text == "=" || op.text == "+=" || op.text == ":=") {
			r.lines()
			r.assign(t, op.text, r.value(depth))
			break
		}
		fallthrough
	default:
		r.l.src.problem(r.at(t), "a line that could not be read, at %q", show(t.text))
		r.pos = max(r.pos, start+1)
		for k := r.peek().kind; k != 0 && k != 'l'; k = r.peek().kind {
			r.pos++
		}
	}
}

func (r *lightReader) include(t token, v value, depth int) {
	if t.text == "include_shell" {
		// Debian's two scripts print listeners and types; nothing is executed here.
		if !strings.Contains(v.s, "create-mime") && !strings.Contains(v.s, "use-ipv6") {
			r.l.src.problem(r.at(t), "the output of `include_shell %q` is not known here", show(v.s))
		}
		return
	}
	name := v.s
	if !path.IsAbs(name) {
		name = path.Join(path.Dir(r.name), name)
	}
	names, err := r.l.src.files.Glob(name)
	if err != nil || len(names) == 0 {
		if !strings.ContainsAny(name, "*?[") {
			names = []string{name}
		}
	}
	slices.Sort(names)
	for _, n := range names[:min(len(names), maxFiles)] {
		text, err := r.l.src.read(n)
		if err != nil {
			r.l.src.problem(r.at(t), "%s could not be included", show(n))
			continue
		}
		r.file(n, text, depth+1)
	}
}

func (r *lightReader) assign(t token, op string, v value) {
	if r.steps++; r.steps > maxLines {
		return
	}
	if strings.HasPrefix(t.text, "var.") {
		if op == "+=" {
			v = plus(r.vars[t.text[4:]], v)
		}
		r.vars[t.text[4:]] = v
		return
	}
	key := t.text
	if op == "+=" {
		for c := r.now; c != nil; c = c.parent {
			if s, ok := c.set[key]; ok {
				v = plus(s.value, v)
				break
			}
		}
	}
	to := r.now
	if key == "server.modules" {
		to = r.l.contexts[0]
	}
	to.set[key] = setting{v, r.at(t)}
}

func plus(a, b value) value {
	if a.why != "" || b.why != "" {
		return value{why: a.why + b.why, array: a.array || b.array}
	}
	if a.array || b.array {
		if !a.array && a.s != "" {
			a.list = []item{{val: value{s: a.s}}}
		}
		list := slices.Clone(a.list)
		if !b.array {
			b.list = []item{{val: b}}
		}
		for _, i := range b.list {
			if len(list) < 100_000 {
				list = append(list, i)
			}
		}
		return value{array: true, list: list}
	}
	if len(a.s)+len(b.s) > maxText {
		return value{why: "a value is longer than is computed here"}
	}
	return value{s: a.s + b.s}
}

// value reads a sum of strings, numbers, variables and arrays.
func (r *lightReader) value(depth int) value {
	v := r.single(depth)
	for r.is("+") {
		r.pos++
		r.lines()
		v = plus(v, r.single(depth))
	}
	return v
}

func (r *lightReader) single(depth int) value {
	t := r.peek()
	switch {
	case t.kind == 's' || t.kind == 'n':
		r.pos++
		return value{s: t.text}
	case t.kind == 'w':
		r.pos++
		if name, ok := strings.CutPrefix(t.text, "env."); ok {
			if s, ok := r.l.env.Vars[name]; ok {
				return value{s: s}
			}
			return value{why: "the environment is not known here"}
		}
		if name, ok := strings.CutPrefix(t.text, "var."); ok {
			return r.vars[name]
		}
		for c := r.now; c != nil; c = c.parent {
			if s, ok := c.set[t.text]; ok {
				return s.value
			}
		}
		return value{s: t.text}
	case r.is("("):
		r.pos++
		v := value{array: true}
		if depth++; depth > 2*maxDepth {
			return v
		}
		for {
			r.lines()
			t := r.peek()
			if t.kind == 0 {
				return v
			}
			if r.is(")") {
				r.pos++
				return v
			}
			if r.is(",") {
				r.pos++
				continue
			}
			start := r.pos
			i := item{val: r.value(depth), at: r.at(t)}
			r.lines()
			if r.is("=>") {
				r.pos++
				r.lines()
				i.key = i.val.s
				i.val = r.value(depth)
			}
			if r.pos == start {
				r.pos++
				continue
			}
			if len(v.list) < 100_000 {
				v.list = append(v.list, i)
			}
		}
	}
	return value{}
}

// condition reads `$HTTP["host"] =~ "x" { … }`, or what follows else.
func (r *lightReader) condition(depth int, before *block) {
	c := &block{parent: r.now, before: before, set: map[string]setting{}, at: r.at(r.peek())}
	if r.is("$") {
		r.pos++
		name := r.next().text
		if r.is("[") {
			r.pos++
			name += "[" + strings.ToLower(r.next().text) + "]"
			if r.is("]") {
				r.pos++
			}
		}
		c.key, c.op = name, r.next().text
		want := r.value(depth)
		c.want, c.unknown = want.s, want.why
		c.text = fmt.Sprintf("$%s %s %q", strings.NewReplacer("[", `["`, "]", `"]`).Replace(name), c.op, c.want)
		if c.op == "=~" || c.op == "!~" {
			c.re = compile(c.want, false)
		}
	} else {
		c.always, c.text = true, "else"
	}
	r.lines()
	if !r.is("{") || depth > maxDepth || len(r.l.contexts) > 10_000 {
		r.l.src.problem(c.at, "a condition that could not be read")
		r.pos++
		return
	}
	r.pos++
	// The same condition at the same level goes on with the block that it had.
	same := slices.IndexFunc(r.l.contexts, func(o *block) bool {
		return o.parent == c.parent && before == nil && o.before == nil && !o.always && o.text == c.text && o.parent != nil
	})
	if same >= 0 {
		c = r.l.contexts[same]
	} else {
		r.l.contexts = append(r.l.contexts, c)
	}
	outer := r.now
	r.now, r.last = c, nil
	for {
		r.lines()
		if r.peek().kind == 0 {
			break
		}
		if r.is("}") {
			r.pos++
			break
		}
		r.statement(depth + 1)
	}
	r.now, r.last = outer, c
}
