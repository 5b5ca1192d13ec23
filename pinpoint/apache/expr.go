package apache

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// expression evaluates httpd's expressions while it reads them. Branches that do not count are read
// without being evaluated. https://httpd.apache.org/docs/2.4/expr.html
type expression struct {
	r      *request
	s      string
	i      int
	depth  int
	groups []string
}

var errExpr = errors.New("the expression is not understood here")

func (r *request) evaluate(text string, at pinpoint.Place) (bool, error) {
	if len(text) > maxRegex {
		return false, errExpr
	}
	e := &expression{r: r, s: text, groups: r.groups}
	ok, err := e.or(true)
	if err == nil && e.peek() != "" {
		err = errExpr
	}
	r.groups = e.groups
	return ok, err
}

func (e *expression) space() {
	for e.i < len(e.s) && strings.IndexByte(" \t\r\n", e.s[e.i]) >= 0 {
		e.i++
	}
}

// peek is the next few bytes, "" at the end.
func (e *expression) peek() string {
	e.space()
	return e.s[e.i:]
}

func (e *expression) take(tokens ...string) bool {
	rest := e.peek()
	for _, t := range tokens {
		if !strings.HasPrefix(lower(rest[:min(len(rest), len(t))]), t) {
			continue
		}
		last := t[len(t)-1]
		if last >= 'a' && last <= 'z' && len(rest) > len(t) && letter(rest[len(t)]) {
			continue
		}
		e.i += len(t)
		return true
	}
	return false
}

func letter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
}

func (e *expression) or(eval bool) (bool, error) {
	v, err := e.and(eval)
	for err == nil && e.take("||", "or") {
		var w bool
		w, err = e.and(eval && !v)
		v = v || w
	}
	return v, err
}

func (e *expression) and(eval bool) (bool, error) {
	v, err := e.not(eval)
	for err == nil && e.take("&&", "and") {
		var w bool
		w, err = e.not(eval && v)
		v = v && w
	}
	return v, err
}

func (e *expression) not(eval bool) (bool, error) {
	if e.depth++; e.depth > maxNested {
		return false, errExpr
	}
	defer func() { e.depth-- }()
	rest := e.peek()
	switch {
	case strings.HasPrefix(rest, "!") && !strings.HasPrefix(rest, "!="), strings.HasPrefix(lower(rest), "not "):
		e.take("!", "not")
		v, err := e.not(eval)
		return !v, err
	case strings.HasPrefix(rest, "("):
		e.i++
		v, err := e.or(eval)
		if err == nil && !e.take(")") {
			err = errExpr
		}
		return v, err
	case e.take("true"):
		return true, nil
	case e.take("false"):
		return false, nil
	case len(rest) > 2 && rest[0] == '-' && (rest[2] == ' ' || rest[2] == '\t' || rest[2] == '%' || rest[2] == '\'' || rest[2] == '"'):
		op := rest[1]
		e.i += 2
		w, err := e.word(eval)
		if err != nil || !eval {
			return false, err
		}
		return e.unary(op, w)
	}
	return e.compare(eval)
}

func (e *expression) unary(op byte, w string) (bool, error) {
	r := e.r
	switch op {
	case 'n':
		return w != "", nil
	case 'z':
		return w == "", nil
	case 'T':
		switch lower(w) {
		case "", "0", "off", "false", "no":
			return false, nil
		}
		return true, nil
	case 'R':
		return within(w, r.client), nil
	case 'e':
		return exists(r.c.files, w), nil
	case 'd', 'f', 's', 'L', 'h':
		return r.fileTest(op, w)
	}
	return false, fmt.Errorf("the operator -%c is not evaluated here", op)
}

func (e *expression) compare(eval bool) (bool, error) {
	a, err := e.word(eval)
	if err != nil {
		return false, err
	}
	rest := e.peek()
	switch {
	case e.take("=~", "!~"):
		re, err := e.regex(eval)
		if err != nil || !eval {
			return false, err
		}
		g, err := re.match(a)
		if err != nil {
			return false, err
		}
		if rest[0] == '!' {
			return g == nil, nil
		}
		if g != nil {
			e.groups = g
		}
		return g != nil, nil
	case e.take("in"):
		if !e.take("{") {
			return false, errors.New("a list that is computed is not evaluated here")
		}
		found := false
		for n := 0; ; n++ {
			w, err := e.word(eval)
			if err != nil || n > 10_000 {
				return false, errExpr
			}
			found = found || w == a
			if e.take("}") {
				return found, nil
			}
			if !e.take(",") {
				return false, errExpr
			}
		}
	}
	op := ""
	for _, o := range []string{"==", "!=", "<=", ">=", "=", "<", ">", "-eq", "-ne", "-lt", "-le", "-gt", "-ge", "eq", "ne", "lt", "le", "gt", "ge", "-ipmatch", "-strmatch", "-strcmatch", "-fnmatch"} {
		if e.take(o) {
			op = o
			break
		}
	}
	if op == "" {
		return false, errExpr
	}
	b, err := e.word(eval)
	if err != nil || !eval {
		return false, err
	}
	switch op {
	case "==", "=":
		return a == b, nil
	case "!=":
		return a != b, nil
	case "<":
		return a < b, nil
	case "<=":
		return a <= b, nil
	case ">":
		return a > b, nil
	case ">=":
		return a >= b, nil
	case "-ipmatch":
		addr, err := parseAddr(a)
		return err == nil && within(b, addr), nil
	case "-strmatch":
		return wildcard(b, a), nil
	case "-strcmatch":
		return wildcard(lower(b), lower(a)), nil
	case "-fnmatch":
		return matches(b, path.Clean(a)), nil
	}
	x, _ := strconv.Atoi(strings.TrimSpace(a))
	y, _ := strconv.Atoi(strings.TrimSpace(b))
	switch strings.TrimPrefix(op, "-") {
	case "eq":
		return x == y, nil
	case "ne":
		return x != y, nil
	case "lt":
		return x < y, nil
	case "le":
		return x <= y, nil
	case "gt":
		return x > y, nil
	}
	return x >= y, nil
}

// regex reads /…/flags or m#…#flags.
func (e *expression) regex(eval bool) (*regex, error) {
	rest := e.peek()
	if strings.HasPrefix(rest, "m") && len(rest) > 2 && !letter(rest[1]) {
		rest = rest[1:]
		e.i++
	}
	if rest == "" || strings.IndexByte("/#|^!,;:$%+=~?_", rest[0]) < 0 {
		return nil, errors.New("an expression that is computed is not evaluated here")
	}
	delim := rest[0]
	end := 1
	for end < len(rest) && rest[end] != delim {
		if rest[end] == '\\' && end+1 < len(rest) {
			end++
		}
		end++
	}
	if end >= len(rest) {
		return nil, errExpr
	}
	source := strings.ReplaceAll(rest[1:end], `\`+string(delim), string(delim))
	e.i += end + 1
	fold := false
	for e.i < len(e.s) && strings.IndexByte("ismg", e.s[e.i]) >= 0 {
		fold = fold || e.s[e.i] == 'i'
		e.i++
	}
	if !eval {
		return nil, nil
	}
	return compile(source, fold)
}

// word reads a value: a string, a variable, a number, a group, a function; joined with a dot.
func (e *expression) word(eval bool) (string, error) {
	v, err := e.part(eval)
	for err == nil && e.take(".") {
		var w string
		w, err = e.part(eval)
		if v += w; len(v) > maxSubject {
			return "", errExpr
		}
	}
	return v, err
}

func (e *expression) part(eval bool) (string, error) {
	if e.depth++; e.depth > maxNested {
		return "", errExpr
	}
	defer func() { e.depth-- }()
	rest := e.peek()
	if rest == "" {
		return "", errExpr
	}
	switch c := rest[0]; {
	case c == '"' || c == '\'':
		var b strings.Builder
		e.i++
		for e.i < len(e.s) && e.s[e.i] != c {
			switch {
			case e.s[e.i] == '\\' && e.i+1 < len(e.s):
				b.WriteByte(e.s[e.i+1])
				e.i += 2
			case strings.HasPrefix(e.s[e.i:], "%{"), e.s[e.i] == '$' && e.i+1 < len(e.s) && e.s[e.i+1] >= '0' && e.s[e.i+1] <= '9':
				v, err := e.part(eval)
				if err != nil {
					return "", err
				}
				b.WriteString(v)
			default:
				b.WriteByte(e.s[e.i])
				e.i++
			}
			if b.Len() > maxSubject {
				return "", errExpr
			}
		}
		if e.i >= len(e.s) {
			return "", errExpr
		}
		e.i++
		return b.String(), nil
	case strings.HasPrefix(rest, "%{"):
		end := strings.IndexByte(rest, '}')
		if end < 0 {
			return "", errExpr
		}
		e.i += end + 1
		name := rest[2:end]
		if !eval {
			return "", nil
		}
		if fn, arg, ok := strings.Cut(name, ":"); ok {
			return e.call(fn, arg)
		}
		v, ok := e.r.variable(name)
		if !ok {
			return "", errors.New("%{" + cut(name, 60) + "} is not known here")
		}
		return v, nil
	case c == '$' && len(rest) > 1 && rest[1] >= '0' && rest[1] <= '9':
		e.i += 2
		if n := int(rest[1] - '0'); n < len(e.groups) {
			return e.groups[n], nil
		}
		return "", nil
	case c >= '0' && c <= '9' || c == '-' && len(rest) > 1 && rest[1] >= '0' && rest[1] <= '9':
		n := 1
		for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
			n++
		}
		e.i += n
		return rest[:n], nil
	case letter(c):
		n := 0
		for n < len(rest) && letter(rest[n]) {
			n++
		}
		if n == len(rest) || rest[n] != '(' {
			return "", errExpr
		}
		e.i += n + 1
		arg, err := e.word(eval)
		if err != nil {
			return "", err
		}
		if !e.take(")") {
			return "", errExpr
		}
		if !eval {
			return "", nil
		}
		return e.call(rest[:n], arg)
	}
	return "", errExpr
}

func (e *expression) call(fn, arg string) (string, error) {
	switch lower(fn) {
	case "http", "req", "req_novary":
		return e.r.header.Value(arg), nil
	case "env", "reqenv":
		return e.r.env[arg], nil
	case "tolower":
		return strings.ToLower(arg), nil
	case "toupper":
		return strings.ToUpper(arg), nil
	case "unescape":
		return decode(arg), nil
	case "osenv":
		return e.r.c.env.Vars[arg], nil
	}
	return "", errors.New("the function " + cut(fn, 40) + " is not evaluated here")
}

// fileTest is -d, -f, -s, -L and -h of expressions and of RewriteCond.
func (r *request) fileTest(op byte, name string) (bool, error) {
	if name == "" || name[0] != '/' || strings.IndexByte(name, 0) >= 0 || len(name) > 4096 {
		return false, nil
	}
	switch op {
	case 'd':
		return isDir(r.c.files, name), nil
	case 'f':
		return exists(r.c.files, name) && !isDir(r.c.files, name), nil
	case 's', 'x':
		l, ok := r.c.files.(Lister)
		if !ok {
			return false, errors.New("whether " + name + " is empty or executable is not seen here")
		}
		fi, err := l.Stat(name)
		if err != nil {
			return false, nil
		}
		if op == 'x' {
			return fi.Mode().Perm()&0o111 != 0, nil
		}
		return fi.Mode().IsRegular() && fi.Size() > 0, nil
	case 'L', 'h', 'l':
		l, ok := r.c.files.(Lister)
		if !ok {
			return false, errors.New("whether " + name + " is a symbolic link is not seen here")
		}
		fi, err := l.Lstat(name)
		return err == nil && fi.Mode().Type()&symlink != 0, nil
	}
	return false, errExpr
}
