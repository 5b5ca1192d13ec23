package nginx

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// walk is one request on its way through the phases.
type walk struct {
	c *Config
	a pinpoint.Arrival

	pick   chosen
	srv    *scope
	loc    *scope
	header pinpoint.Header // what nginx took of the request's fields
	host   string          // without port, lower case
	client netip.Addr      // after realip
	realip bool            // realip has decided

	rawHost, method, mainMethod string

	uri, args, unparsed string
	rawURI              bool // unparsed may be sent on as it is
	valid               bool // the URI still begins with the name of the location
	internal, changed   bool
	changes             int
	errorPage           bool
	discarded           bool // the body need not be read any more
	errorStatus         int
	sub                 bool // a subrequest
	addURI              bool // to an alias of a regular expression

	handler   *directive
	from      *scope // where handler stands
	vars      map[string]value
	groups    []string
	groupDeps []string
	groupWhy  string
	proxyHost string
	deep      int
	conds     []condition // that the code being run stands behind
	seen      map[string][2]bool
	nested    int // walks within walks
	noRegex   bool
	unsure    int
	budget    int
	slow      int // expressions that took too long
	limits    bool

	trail  []pinpoint.Step
	clues  []pinpoint.Clue
	hints  []pinpoint.Clue // what is possible besides
	files  []pinpoint.Access
	next   []pinpoint.Arrival
	tried  []string // files that were looked for and not found
	ended  bool
	status int // 0: forwarded or served
	target string
	text   string
}

// condition is an `if` that held.
type condition struct {
	d *directive
	v value // what it looked at
}

const (
	goOn     = 0
	finished = -1
	maxSteps = 200 // of the trail
	cycles   = 10  // NGX_HTTP_MAX_URI_CHANGES
	maxTurns = 400
	maxCodes = 20_000
)

func (w *walk) step(at pinpoint.Place, format string, args ...any) {
	if len(w.trail) < maxSteps {
		w.trail = append(w.trail, pinpoint.Step{Says: fmt.Sprintf(format, args...), At: at})
	}
}

// doubt notes that something was not evaluated; what is concluded behind it weighs less.
func (w *walk) doubt(at pinpoint.Place, format string, args ...any) {
	w.unsure++
	w.step(at, format, args...)
}

// phases in the order of nginx
const (
	serverRewrite = iota
	findConfig
	rewrite
	postRewrite
	preAccess
	access
	preContent
	content
)

// run walks from a phase to the end.
func (w *walk) run(phase int) {
	for turn := 0; turn < maxTurns && !w.ended; turn++ {
		rc := goOn
		at := phase
		phase++
		switch at {
		case serverRewrite:
			w.loc = w.srv
			rc, _ = w.codes(w.srv, w.srv.body, 0)
			w.conds = nil
		case findConfig:
			rc = w.findConfig()
		case rewrite:
			if w.loc.kind == "location" { // limit_except and the server itself have none
				rc, _ = w.codes(w.loc, w.loc.body, 0)
				w.conds = nil
			}
		case postRewrite:
			if w.changed {
				w.changes--
				if w.changes <= 0 {
					w.step(w.loc.d.at, "the URI was rewritten more than %d times", cycles)
					rc = w.broken(w.loc.d.at, "rewrite or internal redirection cycle")
					break
				}
				w.loc = w.srv
				phase = findConfig
			}
		case preAccess:
			w.resolveClient(w.loc)
			w.limited()
		case access:
			if !w.sub {
				rc = w.access()
			}
		case preContent:
			var to int
			if rc, to = w.tryFiles(); to >= 0 {
				phase = to
			}
		case content:
			var to int
			rc, to = w.content()
			if to >= 0 {
				phase = to
			} else if rc == goOn {
				rc = finished
			}
		}
		switch {
		case rc == finished:
			w.ended = true
		case rc > 0:
			phase = w.special(rc)
		}
	}
	if !w.ended {
		w.doubt(w.srv.d.at, "the way through the configuration does not end")
		w.ended = true
	}
}

// special answers with a status, by way of an error page if there is one. It returns the phase to go
// on with. https://nginx.org/en/docs/http/ngx_http_core_module.html#error_page
func (w *walk) special(code int) int {
	if code == 444 {
		w.ended, w.status = true, 444
		return 0
	}
	w.errorStatus = code
	if !w.errorPage && w.changes > 0 {
		if pages := w.loc.find("error_page"); pages != nil {
			if w.loc.setting("recursive_error_pages", "off") != "on" {
				w.errorPage = true
			}
			for _, d := range pages {
				if phase, ok := w.errorPageOf(d, code); ok {
					return phase
				}
			}
		}
	}
	if code >= 494 && code <= 497 {
		w.errorStatus = 400
	}
	w.finish(w.errorStatus)
	return 0
}

// finish ends the request with a status of its own; that of an error page before it wins.
func (w *walk) finish(status int) {
	w.ended = true
	w.status = status
	if w.errorStatus > 0 {
		w.status = w.errorStatus
	}
}

// serve ends the request with a file or an answer of a module.
func (w *walk) serve() {
	w.ended = true
	w.status = w.errorStatus
}

func (w *walk) errorPageOf(d *directive, code int) (phase int, ok bool) {
	if len(d.args) < 2 {
		return 0, false
	}
	codes, target := d.args[:len(d.args)-1], d.args[len(d.args)-1]
	over := -1
	if last := codes[len(codes)-1]; strings.HasPrefix(last, "=") {
		codes = codes[:len(codes)-1]
		if last == "=" {
			over = 0
		} else if n, err := strconv.Atoi(last[1:]); err == nil {
			over = n
		} else {
			return 0, false
		}
	}
	if !slices.Contains(codes, strconv.Itoa(code)) {
		return 0, false
	}
	if over == -1 && (code >= 494 && code <= 497) {
		over = 400
	}
	if over >= 0 {
		w.errorStatus = over
	}
	to := w.expand(target)
	if to.why != "" {
		w.doubt(d.at, "error_page leads to %s, which cannot be evaluated: %s", target, to.why)
		w.finish(code)
		return 0, true
	}
	shown := code
	if over > 0 {
		shown = over
	}
	switch {
	case over == 0:
		w.step(d.at, "error_page hands the %d to %s, and the status of that counts", code, target)
	case shown != code:
		w.step(d.at, "error_page hands the %d to %s and shows %d", code, target, shown)
	default:
		w.step(d.at, "error_page hands the %d to %s", code, target)
	}
	switch {
	case strings.HasPrefix(to.s, "/"):
		if w.method != "HEAD" {
			w.method, w.mainMethod = "GET", "GET"
		}
		uri, args, _ := strings.Cut(to.s, "?")
		return w.redirect(d.at, uri, args), true
	case strings.HasPrefix(to.s, "@"):
		return w.toNamed(d.at, to.s), true
	}
	switch over {
	case 301, 302, 303, 307, 308:
	default:
		w.errorStatus = 302
	}
	w.target = to.s
	w.finish(w.errorStatus)
	return 0, true
}

// redirect is an internal redirect: all phases are walked again.
func (w *walk) redirect(at pinpoint.Place, uri, args string) int {
	w.changes--
	if w.changes <= 0 {
		w.ended, w.status = true, 500
		w.step(at, "rewrite or internal redirection cycle")
		w.note(at, "rewrite or internal redirection cycle")
		return 0
	}
	w.uri, w.args = uri, args
	w.rawURI, w.addURI = false, false
	w.internal, w.changed, w.valid = true, false, true
	w.loc = w.srv
	return serverRewrite
}

// toNamed goes to a named location; the URI stays.
func (w *walk) toNamed(at pinpoint.Place, name string) int {
	w.changes--
	if w.changes <= 0 {
		w.ended, w.status = true, 500
		w.step(at, "rewrite or internal redirection cycle")
		return 0
	}
	l := w.srv.named[name]
	if l == nil {
		w.step(at, "there is no location %s", name)
		w.ended, w.status = true, 500
		return 0
	}
	w.internal, w.changed, w.addURI = true, false, false
	w.handler, w.from = nil, nil
	w.enter(l)
	w.step(l.d.at, "%s takes over", l.title())
	return rewrite
}

// enter makes a level the one that decides, as ngx_http_update_location_config does.
func (w *walk) enter(s *scope) {
	w.loc = s
	if s.limit != nil && !slices.Contains(s.methods, w.method) {
		w.step(s.limit.d.at, "%s is not among the methods of limit_except, so its rules hold", w.method)
		w.loc = s.limit
	}
	if h := handlerOf(w.loc); h != nil {
		w.handler, w.from = h, w.loc
	} else if w.loc.kind == "limit_except" {
		if h := handlerOf(s); h != nil {
			w.handler, w.from = h, s
		}
	}
}

var passes = []string{"proxy_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass", "grpc_pass", "memcached_pass"}

// handlerOf is the directive of a level that takes its content over, nil if files are served.
func handlerOf(s *scope) *directive {
	var h *directive
	for _, d := range s.body {
		switch d.name {
		case "proxy_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass", "grpc_pass", "memcached_pass",
			"stub_status", "empty_gif", "flv", "mp4", "perl", "js_content", "content_by_lua_block", "content_by_lua",
			"content_by_lua_file", "api", "hls", "echo", "passenger_enabled", "f4f", "njs_content", "rds_json_ret":
			h = d
		}
	}
	return h
}

// findConfig is the search of the location with what nginx checks at once.
func (w *walk) findConfig() int {
	w.handler, w.from = nil, nil
	w.changed = false
	w.loc = w.srv
	found := w.search(w.srv, 0)
	if d := w.loc.last("internal"); d != nil && !w.internal { // inherited by nested locations
		w.step(w.loc.d.at, "%s wins", w.loc.title())
		w.refuse(404, pinpoint.Clue{
			Cause: "nginx-internal-location", ID: "internal", Weight: pinpoint.Certain, At: d.at, Quote: d.text(),
			Says: fmt.Sprintf("%s is internal: nginx answers 404 to whoever asks for it from outside", w.loc.title()),
			Fix: []string{fmt.Sprintf("Call the public URL that leads here by X-Accel-Redirect, try_files, error_page or rewrite. If %s is meant for the public, take `internal` out in %s", w.loc.title(), where(d.at)),
				"nginx writes no line about it to error.log"},
		})
		return 404
	}
	if w.loc == w.srv {
		w.step(w.srv.d.at, "no location matches %s, so the server level decides", show(w.uri))
	} else {
		w.step(w.loc.d.at, "%s wins for %s%s", w.loc.title(), show(w.uri), w.reason())
	}
	at := w.loc
	w.enter(at)
	if rc := w.bodySize(); rc != 0 {
		return rc
	}
	if found == autoSlash {
		to := at.name
		w.target = to
		if w.args != "" {
			w.target += "?" + w.args
		}
		w.step(at.d.at, "nginx answers 301 with a slash behind the name: %s", show(w.target))
		return 301
	}
	return goOn
}

func (w *walk) reason() string {
	switch w.loc.mod {
	case "=":
		return ": an exact name"
	case "^~":
		return ": the longest prefix, and ^~ keeps regular expressions out"
	case "~", "~*":
		return ": the first regular expression that matches"
	}
	return ": the longest prefix, and no regular expression matches"
}

const (
	nothing = iota
	prefixFound
	exactFound
	autoSlash
)

// search follows https://nginx.org/en/docs/http/ngx_http_core_module.html#location: an exact name ends
// it, else the longest prefix is remembered with its nested locations, and the first regular expression
// wins over it unless it has ^~.
func (w *walk) search(s *scope, depth int) int {
	if depth > maxDepth {
		return nothing
	}
	var best, slash *scope
	adds := false
	for _, l := range s.plain {
		if l.name == w.uri+"/" {
			adds = adds || redirects(l)
			if slash == nil || l.mod == "=" {
				slash = l
			}
		}
		if l.mod == "=" {
			if l.name == w.uri {
				w.loc = l
				return exactFound
			}
			continue
		}
		if strings.HasPrefix(w.uri, l.name) && (best == nil || len(l.name) > len(best.name)) {
			best = l
		}
	}
	if adds && (best == nil || best.name != w.uri) {
		w.loc = slash
		return autoSlash
	}
	found := nothing
	if best != nil {
		w.loc = best
		found = prefixFound
		if in := w.search(best, depth+1); in == exactFound || in == autoSlash {
			return in
		}
		if best.mod == "^~" {
			return found
		}
	}
	if w.noRegex && s.kind == "server" {
		return found
	}
	for _, l := range s.regexes {
		groups, sure := w.match(l.re, w.uri)
		if !sure {
			w.doubt(l.d.at, "the regular expression of %s cannot be evaluated", l.title())
			continue
		}
		if groups != nil {
			w.capture(l.re, groups, value{deps: []string{"uri"}})
			w.loc = l
			w.search(l, depth+1) // below a regular expression nginx adds no slash
			return exactFound
		}
	}
	return found
}

// redirects says that nginx adds a slash for this location: it ends in one and hands on.
func redirects(l *scope) bool {
	if !strings.HasSuffix(l.name, "/") {
		return false
	}
	return l.own(passes...) != nil
}

// bodySize compares the announced length with client_max_body_size. The question of an auth_request has
// no body, but the length of the request counts there too.
func (w *walk) bodySize() int {
	limit := size(w.loc.setting("client_max_body_size", "1m"))
	n := int64(-1)
	chunked := strings.Contains(strings.ToLower(w.header.Value("Transfer-Encoding")), "chunked")
	if h := w.header.Value("Content-Length"); h != "" {
		if v, err := strconv.ParseInt(h, 10, 64); err == nil {
			n = v
		}
	} else if len(w.a.Request.Body) > 0 {
		n = int64(plainLength(string(w.a.Request.Body)))
		if chunked && w.handler == nil {
			return goOn // an unread body has no length yet
		}
	}
	if limit <= 0 || n <= limit || w.discarded {
		return goOn
	}
	d := w.loc.last("client_max_body_size")
	c := pinpoint.Clue{
		Cause: "body-too-large", ID: "client_max_body_size", Weight: pinpoint.Certain,
		Names: map[string]string{"limit": strconv.FormatInt(limit, 10), "size": strconv.FormatInt(n, 10), "directive": "client_max_body_size"},
	}
	at := w.loc.location()
	if d != nil {
		c.At, c.Quote = d.at, d.text()
		c.Says = fmt.Sprintf("the body has %d bytes, and client_max_body_size allows %s", n, d.arg(0))
	} else {
		c.At = at.d.at
		c.Says = fmt.Sprintf("the body has %d bytes, and client_max_body_size is not set, so that 1m holds", n)
	}
	c.Fix = []string{fmt.Sprintf("In %s, within %s, set `client_max_body_size %s;` if bodies of this size are wanted there; elsewhere leave the limit. Then `nginx -t && nginx -s reload`", where(at.d.at), at.title(), roomFor(n))}
	w.discarded = true
	w.refuse(413, c)
	return 413
}

// roomFor is a limit in megabytes that n bytes fit in.
func roomFor(n int64) string { return strconv.FormatInt((n+n/4)>>20+1, 10) + "m" }

// codes runs the directives of the rewrite module in their order. It says whether they were stopped.
// https://nginx.org/en/docs/http/ngx_http_rewrite_module.html
func (w *walk) codes(s *scope, body []*directive, depth int) (rc int, stop bool) {
	for _, d := range body {
		if w.budget--; w.budget < 0 {
			w.doubt(d.at, "the rewrite directives are too many to be evaluated")
			return goOn, true
		}
		switch d.name {
		case "set":
			name := strings.TrimPrefix(d.arg(0), "$")
			v := w.expand(d.arg(1))
			for _, c := range w.conds {
				known := v.why
				v.depend(value{deps: c.v.deps, at: c.v.at, quote: c.v.quote})
				v.why = known
			}
			w.vars[name] = v
		case "break":
			if w.changed {
				w.valid, w.changed = false, false
			}
			return goOn, true
		case "return":
			return w.giveBack(d), true
		case "rewrite":
			rc, stop := w.rewrite(d)
			if rc != goOn || stop {
				return rc, true
			}
		case "if":
			if !d.open {
				continue
			}
			yes, v := w.test(d)
			if v.why != "" || v.sealed {
				why := cmp.Or(v.why, "it depends on a secret that is not known here")
				w.doubt(d.at, "%s cannot be evaluated: %s. Its block is passed over", d.text(), why)
				w.maybe(d, v)
				continue
			}
			if !yes {
				continue
			}
			w.step(d.at, "%s holds", d.text())
			w.conds = append(w.conds, condition{d, v})
			inner := s.ifs[d]
			if inner == nil || depth > maxDepth {
				continue
			}
			if s.kind != "server" && !(s.kind == "if" && inServer(s)) {
				w.enter(inner)
			}
			rc, stop := w.codes(inner, d.block, depth+1)
			if rc != goOn || stop {
				return rc, true
			}
			w.conds = w.conds[:len(w.conds)-1]
		case "rewrite_by_lua_block", "rewrite_by_lua", "rewrite_by_lua_file", "set_by_lua_block", "set_by_lua", "set_by_lua_file", "js_set", "perl_set":
			w.doubt(d.at, "%s runs a script here, which is not evaluated", d.name)
			if n := strings.TrimPrefix(d.arg(0), "$"); n != d.arg(0) {
				w.vars[n] = value{why: "$" + n + " is set by a script"}
			}
		}
	}
	return goOn, false
}

func inServer(s *scope) bool {
	for s.kind == "if" {
		s = s.parent
	}
	return s.kind == "server"
}

// maybe looks into a block whose condition is not known: what it sets is not known either, and what
// it refuses is possible.
func (w *walk) maybe(d *directive, v value) {
	for _, e := range d.block {
		switch e.name {
		case "set":
			name := strings.TrimPrefix(e.arg(0), "$")
			w.vars[name] = value{why: "$" + name + " depends on a condition that cannot be evaluated", deps: v.deps}
		case "return":
			if code, err := strconv.Atoi(e.arg(0)); err == nil && (code >= 400 && code < 600) && !w.errorPage {
				clues := w.returned(e, code, []condition{{d, v}})
				for i := range clues {
					clues[i].Weight = min(clues[i].Weight, pinpoint.Hint)
					clues[i].Says += "; whether the condition holds for this request could not be evaluated"
				}
				w.possible(code, clues...)
			}
		case "rewrite":
			w.step(e.at, "a rewrite behind that condition may lead elsewhere")
		}
	}
}

// test evaluates the condition of an if.
func (w *walk) test(d *directive) (bool, value) {
	args := slices.Clone(d.args)
	if len(args) == 0 || !strings.HasPrefix(args[0], "(") {
		return false, value{why: "the condition cannot be read"}
	}
	args[0] = args[0][1:]
	if args[0] == "" {
		args = args[1:]
	}
	last := len(args) - 1
	if last < 0 || !strings.HasSuffix(args[last], ")") {
		return false, value{why: "the condition cannot be read"}
	}
	if args[last] = args[last][:len(args[last])-1]; args[last] == "" {
		args = args[:last]
	}
	if len(args) == 0 {
		return false, value{why: "the condition cannot be read"}
	}
	if name, ok := strings.CutPrefix(args[0], "$"); ok {
		v := w.variable(strings.Trim(name, "{}"))
		if v.why != "" {
			return false, v
		}
		if len(args) == 1 {
			v.sealed = false
			return v.s != "" && v.s != "0", v
		}
		if len(args) > 3 || len(args) == 2 && args[1] != "=" && args[1] != "!=" {
			return false, value{why: "the condition cannot be read"}
		}
		right := ""
		if len(args) == 3 {
			right = args[2]
		}
		switch op := args[1]; op {
		case "=", "!=":
			o := w.expand(right)
			if o.s == "" && o.known() && v.sealed {
				return op == "!=", value{deps: v.deps, at: v.at, quote: v.quote}
			}
			v2 := v
			v2.depend(o)
			return (v.s == o.s) == (op == "="), v2
		case "~", "~*", "!~", "!~*":
			if v.sealed {
				return false, v
			}
			neg := op[0] == '!'
			p := w.re(right, strings.HasSuffix(op, "*"))
			groups, sure := w.match(p, v.s)
			if !sure {
				v.why = "the regular expression cannot be evaluated"
				return false, v
			}
			if groups != nil {
				w.capture(p, groups, v)
			} else {
				w.groups, w.groupWhy = nil, ""
			}
			return (groups != nil) != neg, v
		}
		return false, value{why: "the operator is not known"}
	}
	op, neg := strings.CutPrefix(args[0], "!")
	if len(op) == 2 && op[0] == '-' && len(args) == 2 {
		v := w.expand(args[1])
		if !v.known() {
			return false, v
		}
		v.deps = append([]string{"-file"}, v.deps...)
		there, dir := w.exists(absolute(v.s, w.c.Prefix))
		switch op[1] {
		case 'f':
			return (there && !dir) != neg, v
		case 'd':
			return dir != neg, v
		case 'e':
			return there != neg, v
		case 'x':
			v.why = "whether a file is executable is not read here"
			return false, v
		}
	}
	return false, value{why: "the condition cannot be read"}
}

// re is a compiled expression; those of the configuration were compiled by Load.
func (w *walk) re(source string, fold bool) *pattern {
	if p, ok := w.c.patterns[patternKey{source, fold}]; ok {
		return p
	}
	return compile(source, fold)
}

// match runs an expression. After a few that took too long, no more are tried.
func (w *walk) match(p *pattern, s string) (groups []string, sure bool) {
	if w.slow > 5 {
		return nil, false
	}
	if groups, sure = p.match(s); !sure {
		w.slow++
	}
	return groups, sure
}

// rewrite runs one rewrite directive.
func (w *walk) rewrite(d *directive) (rc int, stop bool) {
	p := w.re(d.arg(0), false)
	groups, sure := w.match(p, w.uri)
	if !sure {
		w.doubt(d.at, "%s cannot be evaluated", d.text())
		return goOn, false
	}
	if groups == nil {
		w.groups, w.groupWhy = nil, ""
		return goOn, false
	}
	w.capture(p, groups, value{deps: []string{"uri"}})
	to, flag := d.arg(1), d.arg(2)
	code := 0
	if strings.HasPrefix(to, "http://") || strings.HasPrefix(to, "https://") || strings.HasPrefix(to, "$scheme") {
		code = 302
	}
	switch flag {
	case "redirect":
		code = 302
	case "permanent":
		code = 301
	}
	path, query, more := strings.Cut(to, "?")
	keep := true
	if strings.HasSuffix(to, "?") {
		keep, query = false, strings.TrimSuffix(query, "?")
	}
	plain := w.groups
	if strings.ContainsAny(w.unparsed, "%+") {
		w.groups = escapeArgs(plain)
	}
	q := w.expand(query)
	if code == 0 {
		w.groups = plain
	}
	v := w.expand(path)
	w.groups = plain
	if v.why != "" || q.why != "" {
		w.doubt(d.at, "where %s leads cannot be evaluated: %s", d.text(), cmp.Or(v.why, q.why))
		return goOn, false
	}
	if v.sealed || q.sealed {
		w.doubt(d.at, "where %s leads depends on a secret that is not known here", d.text())
	}
	args := w.args
	if more {
		args = q.s
		if keep && w.args != "" {
			args += "&" + w.args
			if q.s == "" {
				args = w.args
			}
		}
	}
	if code != 0 {
		w.target = unescapeRedirect(v.s)
		if args != "" {
			w.target += "?" + args
		}
		w.step(d.at, "%s redirects with %d to %s", d.text(), code, show(w.target))
		return code, true
	}
	if v.s == "" {
		w.step(d.at, "%s leaves an empty URI", d.text())
		return w.broken(d.at, "the rewritten URI has a zero length"), true
	}
	w.uri, w.args = v.s, args
	w.internal, w.rawURI = true, false
	w.step(d.at, "%s makes %s of the URI", d.text(), show(w.uri))
	if flag == "break" {
		w.valid, w.changed = false, false
		return goOn, true
	}
	w.changed = true
	return goOn, flag == "last"
}

// giveBack runs return.
func (w *walk) giveBack(d *directive) int {
	code, err := strconv.Atoi(d.arg(0))
	if err != nil {
		code = 302
		w.target = w.expand(d.arg(0)).s
		w.step(d.at, "return redirects to %s", show(w.target))
		return code
	}
	w.step(d.at, "%s answers", d.text())
	text := w.expand(d.arg(1))
	switch code {
	case 301, 302, 303, 307, 308:
		w.target = text.s
		return code
	}
	if code >= 400 {
		w.refuse(code, w.returned(d, code, w.conds)...)
	}
	if code < 400 || len(d.args) > 1 {
		w.text = text.s
		w.finish(code)
		return finished
	}
	return code
}

// broken is an error of the configuration itself.
func (w *walk) broken(at pinpoint.Place, says string) int {
	w.note(at, says)
	return 500
}

func (w *walk) note(at pinpoint.Place, says string) {
	w.step(at, "nginx answers 500: %s", says)
}

func show(s string) string {
	if len(s) > 120 {
		s = s[:120] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

func where(at pinpoint.Place) string {
	if at.Line == 0 {
		return at.File
	}
	return at.File + ":" + strconv.Itoa(at.Line)
}

// escapeArgs writes groups as they go into a query or a redirect (NGX_ESCAPE_ARGS).
func escapeArgs(groups []string) []string {
	out := make([]string, len(groups))
	for i, g := range groups {
		var b strings.Builder
		for j := range len(g) {
			if c := g[j]; c <= ' ' || c >= 0x7f || strings.IndexByte("#%&+?", c) >= 0 {
				fmt.Fprintf(&b, "%%%02X", c)
			} else {
				b.WriteByte(c)
			}
		}
		out[i] = b.String()
	}
	return out
}

// unescapeRedirect takes escapes out up to a question mark (NGX_UNESCAPE_REDIRECT).
func unescapeRedirect(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				if n == '?' {
					return b.String() + "?" + s[i+3:]
				}
				if n > '%' && n < 0x7f {
					b.WriteByte(byte(n))
					i += 2
					continue
				}
			}
		}
		if s[i] == '?' {
			return b.String() + s[i:]
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
