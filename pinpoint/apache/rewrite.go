package apache

import (
	"errors"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// rewriteScope is mod_rewrite for a server or a directory.
// https://httpd.apache.org/docs/2.4/mod/mod_rewrite.html
type rewriteScope struct {
	dir     string // with a slash at its end; "" for a server
	base    string
	engine  *directive
	inherit string // "", "inherit", "inheritbefore"
	down    string // "", "inheritdown", "inheritdownbefore"
	ignore  bool
	rules   []*rule
	broken  error
}

type condition struct {
	d       *directive
	test    string
	pattern string
	not     bool
	fold    bool
	or      bool
	re      *regex
	failed  error
}

type rule struct {
	d       *directive
	re      *regex
	failed  error
	not     bool
	target  string
	status  int // of F, G, R=4xx
	forbid  bool
	redir   int
	last    bool
	end     bool
	next    bool
	chain   bool
	proxy   bool
	pass    bool
	nosub   bool
	skip    int
	handler string
	envs    []string
	qsa     bool
	qsd     bool
	discard bool
	conds   []*condition
}

// add reads one directive; conditions wait for their rule.
func (s *rewriteScope) add(d *directive, conds []*condition, c *Config) []*condition {
	switch d.name {
	case "rewriteengine":
		s.engine = d
	case "rewritebase":
		s.base = d.arg(0)
	case "rewriteoptions":
		for _, a := range d.args {
			switch o := lower(a); o {
			case "inherit", "inheritbefore":
				s.inherit = o
			case "inheritdown", "inheritdownbefore":
				s.down = o
			case "ignoreinherit":
				s.ignore = true
			}
		}
	case "rewritecond":
		a := rewriteArgs(d.raw)
		if len(a) < 2 {
			s.broken = errors.New("RewriteCond: bad argument line")
			return conds
		}
		x := &condition{d: d, test: a[0], pattern: a[1]}
		for _, f := range flagsOf(a) {
			switch lower(f) {
			case "nc", "nocase":
				x.fold = true
			case "or", "ornext":
				x.or = true
			}
		}
		if p, ok := strings.CutPrefix(x.pattern, "!"); ok && x.test != "expr" {
			x.not, x.pattern = true, p
		}
		if !x.special() {
			x.re, x.failed = compile(x.pattern, x.fold)
		}
		return append(conds, x)
	case "rewriterule":
		a := rewriteArgs(d.raw)
		if len(a) < 2 {
			s.broken = errors.New("RewriteRule: bad argument line")
			return nil
		}
		x := &rule{d: d, target: a[1], conds: conds}
		pattern := a[0]
		if p, ok := strings.CutPrefix(pattern, "!"); ok {
			x.not, pattern = true, p
		}
		x.flags(flagsOf(a))
		fold := false
		for _, f := range flagsOf(a) {
			fold = fold || strings.EqualFold(f, "nc") || strings.EqualFold(f, "nocase")
		}
		x.re, x.failed = compile(pattern, fold)
		x.nosub = x.target == "-"
		s.rules = append(s.rules, x)
		return nil
	}
	return conds
}

// rewriteArgs takes the line apart as mod_rewrite does: quotes group, a backslash before a blank
// keeps it, and backslashes stay.
func rewriteArgs(s string) (out []string) {
	for len(out) < 3 {
		s = strings.TrimLeft(s, " \t")
		if s == "" {
			return out
		}
		quote := s[0]
		i := 0
		if quote == '"' || quote == '\'' {
			i = 1
		} else {
			quote = 0
		}
		start := i
		for i < len(s) {
			if s[i] == '\\' && i+1 < len(s) && (s[i+1] == ' ' || s[i+1] == '\t' || quote != 0 && s[i+1] == quote) {
				i += 2
				continue
			}
			if quote != 0 && s[i] == quote || quote == 0 && (s[i] == ' ' || s[i] == '\t') {
				break
			}
			i++
		}
		out = append(out, s[start:i])
		s = s[min(i+1, len(s)):]
	}
	return out
}

func flagsOf(a []string) []string {
	if len(a) < 3 {
		return nil
	}
	f := strings.TrimSuffix(strings.TrimPrefix(a[2], "["), "]")
	out := strings.Split(f, ",")
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	return out
}

func (x *rule) flags(flags []string) {
	for _, f := range flags {
		name, value, _ := strings.Cut(f, "=")
		switch lower(name) {
		case "f", "forbidden":
			x.status, x.forbid = 403, true
		case "g", "gone":
			x.status = 410
		case "r", "redirect":
			x.redir = 302
			switch lower(value) {
			case "permanent":
				x.redir = 301
			case "temp", "":
			case "seeother":
				x.redir = 303
			default:
				if n, err := strconv.Atoi(value); err == nil && n > 0 && n < 1000 {
					x.redir = n
				}
			}
			if x.redir < 300 || x.redir > 399 {
				x.status, x.redir = x.redir, 0
			}
		case "l", "last":
			x.last = true
		case "end":
			x.end = true
		case "n", "next":
			x.next = true
		case "c", "chain":
			x.chain = true
		case "p", "proxy":
			x.proxy = true
		case "pt", "passthrough":
			x.pass = true
		case "s", "skip":
			x.skip, _ = strconv.Atoi(value)
		case "h", "handler":
			x.handler = value
		case "e", "env":
			x.envs = append(x.envs, value)
		case "qsa", "qsappend":
			x.qsa = true
		case "qsd", "qsdiscard":
			x.qsd = true
		case "dpi", "discardpath":
			x.discard = true
		}
	}
}

// special says that a pattern is a test and no expression.
func (x *condition) special() bool {
	p := x.pattern
	switch {
	case x.test == "expr":
		return true
	case len(p) == 2 && p[0] == '-':
		return true
	case len(p) > 3 && p[0] == '-':
		switch p[1:3] {
		case "eq", "ne", "lt", "le", "gt", "ge":
			return true
		}
	case p != "" && (p[0] == '<' || p[0] == '>' || p[0] == '='):
		return true
	}
	return false
}

// merge is how mod_rewrite joins directories.
func (s *rewriteScope) merge(n *rewriteScope) *rewriteScope {
	if n == nil {
		return s
	}
	if s == nil {
		return n
	}
	m := *n
	if m.engine == nil {
		m.engine = s.engine
	}
	if m.base == "" && (n.inherit != "" || s.down != "") {
		m.base = s.base
	}
	switch {
	case n.inherit == "inherit", s.down == "inheritdown" && !n.ignore:
		m.rules = append(append([]*rule(nil), n.rules...), s.rules...)
	case n.inherit == "inheritbefore", s.down == "inheritdownbefore" && !n.ignore:
		m.rules = append(append([]*rule(nil), s.rules...), n.rules...)
	}
	if m.down == "" {
		m.down = s.down
	}
	return &m
}

func (s *rewriteScope) inherits() bool { return s.inherit != "" }

// mergeServer is how it joins the main server and a virtual host.
func (s *rewriteScope) mergeServer(n *rewriteScope) *rewriteScope { return s.merge(n) }

func (s *rewriteScope) on() bool {
	return s != nil && s.engine != nil && strings.EqualFold(s.engine.arg(0), "on")
}

const maxRounds = 64 // httpd's own are 32,000 for [N]; a bound for a diagnosis

// rewritten is what a set of rules did.
type rewritten struct {
	changed bool
	to      string // new name
	query   string
	pass    bool
	proxy   bool
	redir   int
	end     bool
	by      *rule
	refused *refusal
}

// apply runs rules over a name: the URL path of a server, or the file name in a directory.
func (r *request) apply(s *rewriteScope, name string) (out rewritten) {
	out.to, out.query = name, r.query
	groups := []string(nil)
	for round, steps := 0, 0; ; round++ {
		again := false
		for i := 0; i < len(s.rules); i++ {
			if steps++; steps > 20_000 {
				return out
			}
			x := s.rules[i]
			if r.sub && x.redir != 0 {
				continue
			}
			subject := out.to
			if s.dir != "" {
				subject = strings.TrimPrefix(subject+r.rewriteInfo(out.changed), s.dir)
			}
			hit := false
			if x.failed != nil {
				hit = r.doubt("whether “"+x.d.String()+"” matches ("+x.failed.Error()+")", x.d.at)
				groups = []string{subject}
			} else {
				g, err := x.re.match(subject)
				if err != nil {
					hit = r.doubt("whether “"+x.d.String()+"” matches ("+err.Error()+")", x.d.at) != x.not
				} else {
					hit = g != nil
				}
				groups = g
				if hit = hit != x.not; hit && x.not {
					groups = nil
				}
			}
			var decisive *condition
			var condGroups []string
			if hit {
				hit, decisive, condGroups = r.conditions(x, groups, s, out)
			}
			if !hit {
				for x.chain && i+1 < len(s.rules) {
					i++
					x = s.rules[i]
				}
				continue
			}
			for _, e := range x.envs {
				e = r.substitute(e, groups, condGroups, x.d.at)
				if name, not := strings.CutPrefix(e, "!"); not {
					delete(r.env, name)
				} else {
					n, v, _ := strings.Cut(e, ":")
					r.setenv(n, v, x.d)
				}
			}
			if x.status != 0 {
				out.refused = r.ruleRefusal(x, decisive)
				return out
			}
			out.by = x
			if x.handler != "" {
				r.forced = r.substitute(x.handler, groups, condGroups, x.d.at)
			}
			if !x.nosub {
				to := r.substitute(x.target, groups, condGroups, x.d.at)
				out.changed = true
				if to == "" {
					to = "/"
				}
				absolute := strings.Contains(to, "://") || strings.HasPrefix(lower(to), "unix:")
				if path, q, ok := strings.Cut(to, "?"); ok && !x.nosub {
					to = path
					if x.qsa && out.query != "" {
						if q != "" {
							q += "&"
						}
						q += out.query
					}
					out.query = q
				} else if x.qsd {
					out.query = ""
				}
				if s.dir != "" && !absolute && !strings.HasPrefix(to, "/") && !x.proxy {
					to = s.dir + to
				} else if s.dir == "" && !absolute && !x.proxy {
					to = "/" + strings.TrimLeft(to, "/")
				}
				if x.redir != 0 && strings.HasPrefix(to, "/") {
					to = "http://" + r.host + to // a redirect is made absolute at once, and later rules see that
				}
				if len(to) > maxSubject {
					return out
				}
				out.to = to
				if x.discard {
					r.pathInfo = ""
				}
				if absolute && !x.proxy {
					out.redir = x.redir
					if out.redir == 0 {
						out.redir = 302
					}
				}
			}
			if x.redir != 0 && !x.nosub {
				out.redir = x.redir
			}
			if x.proxy {
				out.proxy, out.changed = true, true
				return out
			}
			if x.end {
				out.end = true
				return out
			}
			if x.pass && !x.nosub {
				out.pass = true
				return out
			}
			if x.last || x.redir != 0 && !x.nosub && out.redir != 0 && x.last {
				return out
			}
			if x.next {
				again = true
				break
			}
			if x.skip > 0 {
				i += x.skip
			}
		}
		if !again {
			return out
		}
		if round >= maxRounds {
			r.step(pinpoint.Place{}, "a rule with [N] runs in circles; the walk was ended")
			return out
		}
	}
}

func (r *request) rewriteInfo(changed bool) string {
	if changed {
		return ""
	}
	return r.pathInfo
}

// conditions evaluates the RewriteCond lines of a rule. The decisive one is told in a refusal.
func (r *request) conditions(x *rule, groups []string, s *rewriteScope, out rewritten) (ok bool, decisive *condition, back []string) {
	for i := 0; i < len(x.conds); i++ {
		c := x.conds[i]
		hit := r.condition(c, groups, &back, s, out)
		if c.or {
			if hit {
				decisive = c
				for i < len(x.conds) && x.conds[i].or {
					i++
				}
			}
			continue // an [OR] at the end that fails does not count
		}
		if !hit {
			return false, nil, back
		}
		decisive = pick(decisive, c)
	}
	return true, decisive, back
}

// pick prefers the condition that looks at a field of the request.
func pick(a, b *condition) *condition {
	if a != nil && fieldOf(a.test) != "" && fieldOf(b.test) == "" {
		return a
	}
	return b
}

func (r *request) condition(c *condition, groups []string, back *[]string, s *rewriteScope, out rewritten) bool {
	unsure := func(err error) bool {
		return r.doubt("whether “"+c.d.String()+"” holds ("+err.Error()+")", c.d.at)
	}
	if c.test == "expr" {
		ok, err := r.evaluate(c.pattern, c.d.at)
		if err != nil {
			return unsure(err)
		}
		return ok
	}
	saved, savedQuery := r.current, r.query
	r.current, r.query = out.to, out.query
	test, err := r.interpolate(c.test, groups, *back)
	r.current, r.query = saved, savedQuery
	if err != nil {
		return unsure(err)
	}
	if c.failed != nil {
		return unsure(c.failed)
	}
	if c.re != nil {
		g, err := c.re.match(test)
		if err != nil {
			return unsure(err)
		}
		if g != nil && !c.not {
			*back = g
		}
		return (g != nil) != c.not
	}
	p := c.pattern
	hit := false
	switch {
	case len(p) == 2 && p[0] == '-':
		switch p[1] {
		case 'F', 'U':
			return unsure(errors.New("it asks httpd again"))
		}
		if hit, err = r.fileTest(p[1], test); err != nil {
			return unsure(err)
		}
	case p[0] == '-':
		a, _ := strconv.Atoi(test)
		b, _ := strconv.Atoi(p[3:])
		switch p[1:3] {
		case "eq":
			hit = a == b
		case "ne":
			hit = a != b
		case "lt":
			hit = a < b
		case "le":
			hit = a <= b
		case "gt":
			hit = a > b
		case "ge":
			hit = a >= b
		}
	default:
		op, value := p[:1], p[1:]
		if strings.HasPrefix(value, "=") && op != "=" {
			op, value = op+"=", value[1:]
		}
		if value == `""` {
			value = ""
		}
		if c.fold {
			test, value = lower(test), lower(value)
		}
		switch op {
		case "=":
			hit = test == value
		case "<":
			hit = test < value
		case ">":
			hit = test > value
		case "<=":
			hit = test <= value
		case ">=":
			hit = test >= value
		}
	}
	return hit != c.not
}

var errVariable = errors.New("a variable is not known here")

// interpolate fills in $N, %N, %{VAR} and ${map:key}.
func (r *request) interpolate(s string, groups, back []string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case (c == '$' || c == '%') && i+1 < len(s) && s[i+1] >= '0' && s[i+1] <= '9':
			from := groups
			if c == '%' {
				from = back
			}
			if n := int(s[i+1] - '0'); n < len(from) {
				b.WriteString(from[n])
			}
			i++
		case c == '%' && i+1 < len(s) && s[i+1] == '{':
			end := strings.IndexByte(s[i:], '}')
			if end < 0 {
				return "", errVariable
			}
			v, ok := r.variable(s[i+2 : i+end])
			if !ok {
				return "", errors.New("%{" + cut(s[i+2:i+end], 60) + "} is not known here")
			}
			b.WriteString(v)
			i += end
		case c == '$' && i+1 < len(s) && s[i+1] == '{':
			end := strings.IndexByte(s[i:], '}')
			if end < 0 {
				return "", errVariable
			}
			v, err := r.mapped(s[i+2:i+end], groups, back)
			if err != nil {
				return "", err
			}
			b.WriteString(v)
			i += end
		default:
			b.WriteByte(c)
		}
		if b.Len() > maxSubject {
			return "", errRegexSlow
		}
	}
	return b.String(), nil
}

func (r *request) substitute(s string, groups, back []string, at pinpoint.Place) string {
	v, err := r.interpolate(s, groups, back)
	if err != nil {
		r.doubt("what “"+cut(s, 80)+"” becomes ("+err.Error()+")", at)
	}
	return v
}

// mapped looks up ${map:key|default}: the internal functions and plain text files.
func (r *request) mapped(ref string, groups, back []string) (string, error) {
	name, key, ok := strings.Cut(ref, ":")
	if !ok {
		return "", errVariable
	}
	key, other, _ := strings.Cut(key, "|")
	key, err := r.interpolate(key, groups, back)
	if err != nil {
		return "", err
	}
	d := r.srv.maps[name]
	if d == nil {
		return other, nil
	}
	kind, where, _ := strings.Cut(d.arg(1), ":")
	switch kind {
	case "int":
		switch where {
		case "tolower":
			return strings.ToLower(key), nil
		case "toupper":
			return strings.ToUpper(key), nil
		case "unescape":
			return decode(key), nil
		}
	case "txt":
		data, err := r.c.files.ReadFile(r.c.path(where))
		if err != nil {
			break
		}
		for l := range strings.Lines(string(data)) {
			f := strings.Fields(l)
			if len(f) > 1 && f[0] == key && f[0][0] != '#' {
				return f[1], nil
			}
		}
		return other, nil
	}
	return "", errors.New("the map " + cut(name, 60) + " is not evaluated here")
}

// fieldOf is the field of the request that a TestString looks at.
func fieldOf(test string) string {
	t := strings.ToUpper(test)
	switch {
	case strings.Contains(t, "HTTP_USER_AGENT"), strings.Contains(t, "HTTP:USER-AGENT"):
		return "User-Agent"
	case strings.Contains(t, "HTTP_REFERER"), strings.Contains(t, "HTTP:REFERER"):
		return "Referer"
	case strings.Contains(t, "REQUEST_METHOD"):
		return "method"
	case strings.Contains(t, "REMOTE_ADDR"):
		return "address"
	case strings.Contains(t, "HTTPS"), strings.Contains(t, "REQUEST_SCHEME"):
		return "scheme"
	case strings.Contains(t, "HTTP_HOST"), strings.Contains(t, "SERVER_NAME"):
		return "Host"
	}
	return ""
}

// ruleRefusal explains [F], [G] and [R=4xx].
func (r *request) ruleRefusal(x *rule, by *condition) *refusal {
	main := r.clue("apache-rewrite-forbidden", pinpoint.Certain, x.d.at)
	text := x.d.String()
	main.Quote, main.Names["rule"], main.Names["directive"] = text, text, text
	main.Names["path"] = r.uri
	main.Says = "“" + text + "” at " + placeText(x.d.at) + " answers " + strconv.Itoa(x.status) + " by itself. The error log is silent about that unless LogLevel rewrite:trace2 is set."
	main.Fix = []string{"Correct the pattern of “" + text + "” at " + placeText(x.d.at) + ", or put a RewriteCond before it that lets this request pass."}
	clues := []pinpoint.Clue{main}
	if by != nil {
		main.Names["condition"] = by.d.String()
		main.Says = "“" + by.d.String() + "” at " + placeText(by.d.at) + " holds, so “" + text + "” at " + placeText(x.d.at) + " answers " + strconv.Itoa(x.status) + ". The error log is silent about that unless LogLevel rewrite:trace2 is set."
		main.Fix = []string{"Narrow “" + by.d.String() + "” at " + placeText(by.d.at) + " so that it no longer holds for this request."}
		clues[0] = main
		cause := ""
		switch f := fieldOf(by.test); {
		case f == "User-Agent":
			cause = "user-agent-blocked"
		case f == "Referer":
			cause = "hotlink-referer"
		case f == "method":
			cause = "method-denied-by-rule"
		case f == "address" && by.not:
			cause = "ip-allowlist-miss"
		case f == "address":
			cause = "ip-denied"
		case f == "scheme":
			cause = "https-required"
		case f == "Host":
			cause = "host-not-allowed"
		}
		if cause != "" {
			c := r.derived(main, cause, pinpoint.Certain)
			c.At = by.d.at
			c.Quote = by.d.String()
			c.Names["field"] = fieldOf(by.test)
			if cause == "user-agent-blocked" {
				c.Fix = []string{"Narrow “" + by.d.String() + "” at " + placeText(by.d.at) + " so that it spares this client.", "As the caller, send a User-Agent that names the client honestly, and ask the owner of the server to let it in."}
			}
			main.Weight = pinpoint.Strong
			clues = []pinpoint.Clue{c, main}
		}
	}
	return r.refuse(x.status, clues...)
}
