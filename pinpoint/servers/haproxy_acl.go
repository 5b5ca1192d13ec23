package servers

import (
	"crypto/subtle"
	"encoding/base64"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// acl is one line of an ACL, or one in braces.
type acl struct {
	name     string // "" in braces
	line     string // as written, without the values that are secrets
	at       pinpoint.Place
	expr     expression
	match    string // method of matching: "str", "beg", "reg", …; "" by the type
	fold     bool
	patterns []hapLine // one word each
	unread   string    // why patterns are not known
}

// expression is a fetch and its converters (section 7.1.1): req.hdr(host),lower.
type expression struct {
	fetch    call
	convs    []call
	problems bool
}

type call struct {
	name string
	args []string
}

func (c call) arg(i int) string {
	if i < len(c.args) {
		return c.args[i]
	}
	return ""
}

// condition is a sum of products of ACLs (section 7.2).
type condition struct {
	unless bool
	any    [][]term
	text   string
}

type term struct {
	not  bool
	name string
	acl  *acl
}

// parseExpression reads name(args),conv(args)… .
func parseExpression(s string) (e expression) {
	for i := 0; len(s) > 0 && i < 64; i++ {
		n := strings.IndexAny(s, "(,")
		var c call
		if n < 0 {
			c.name, s = s, ""
		} else {
			c.name = s[:n]
			if s[n] == '(' {
				c.args, s = arguments(s[n+1:])
			} else {
				s = s[n:]
			}
			if s != "" && s[0] != ',' {
				e.problems = true
				return e
			}
			s = strings.TrimPrefix(s, ",")
		}
		if i == 0 {
			e.fetch = c
		} else {
			e.convs = append(e.convs, c)
		}
	}
	return e
}

// arguments reads up to the closing parenthesis; rest is what follows it.
func arguments(s string) (args []string, rest string) {
	var b strings.Builder
	quote := byte(0)
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s) && quote != '\'':
			i++
			if s[i] != ',' && s[i] != ')' && s[i] != '(' && s[i] != '\\' && s[i] != '"' && s[i] != '\'' && s[i] != ' ' {
				b.WriteByte('\\')
			}
			b.WriteByte(s[i])
		case (c == '\'' || c == '"') && (quote == 0 || quote == c):
			if quote == 0 {
				quote = c
			} else {
				quote = 0
			}
		case quote == 0 && c == ',':
			args = append(args, b.String())
			b.Reset()
		case quote == 0 && c == ')':
			return append(args, b.String()), s[i+1:]
		default:
			b.WriteByte(c)
		}
	}
	return append(args, b.String()), ""
}

var suffixes = map[string]string{"beg": "beg", "end": "end", "sub": "sub", "dir": "dir", "dom": "dom", "reg": "reg", "len": "len"}

// acl reads the words behind the name of an ACL, or those in braces (section 7.1.3).
func (h *HAProxy) acl(words []string, at pinpoint.Place) *acl {
	if len(words) == 0 {
		return nil
	}
	a := &acl{at: at, expr: parseExpression(words[0])}
	name := a.expr.fetch.name
	if i := strings.LastIndexByte(name, '_'); i > 0 && suffixes[name[i+1:]] != "" && name != "url_sub" || name == "url_sub" {
		base := name[:strings.LastIndexByte(name, '_')]
		switch base {
		case "path", "url", "base", "hdr", "cook", "urlp", "url_param", "method", "ssl_fc_sni", "req.hdr", "req_ssl_sni", "req.ssl_sni", "query", "req_ver", "http_auth_group", "shdr", "scook", "pathq":
			a.expr.fetch.name, a.match = base, suffixes[name[strings.LastIndexByte(name, '_')+1:]]
		}
	}
	hidden := secretive(a.expr.fetch.name + a.expr.fetch.arg(0))
	shown := words[0]
	op, flags := "", true
	for i := 1; i < len(words); i++ {
		w := words[i]
		if flags {
			known := true
			switch w {
			case "-i":
				a.fold = true
			case "-n", "-u":
				if w == "-u" {
					i++
				}
			case "-M":
			case "-m":
				if i++; i < len(words) {
					a.match = words[i]
					shown += " -m " + words[i]
				}
				continue
			case "-f":
				if i++; i < len(words) {
					shown += " -f " + words[i]
					a.file(h, words[i])
				}
				continue
			case "--":
				flags = false
			default:
				known, flags = false, false
			}
			if known {
				shown += " " + w
				continue
			}
		}
		if slices.Contains([]string{"eq", "gt", "ge", "lt", "le"}, w) && i+1 < len(words) && (a.integer() || a.match == "len" || a.match == "int") {
			op = w
			shown += " " + w
			continue
		}
		p := w
		if op != "" {
			p = op + " " + w
		}
		if len(a.patterns) < maxLines {
			a.patterns = append(a.patterns, hapLine{[]string{p}, at})
		}
		if hidden {
			w = "…"
		}
		shown += " " + w
	}
	a.line = shown
	return a
}

// integer says that a fetch without -m yields a number.
func (a *acl) integer() bool {
	n := a.expr.fetch.name
	for _, s := range []string{"sc_", "sc0_", "sc1_", "sc2_", "src_", "table_", "nbsrv", "be_", "fe_", "srv_", "queue", "avg_queue", "connslots"} {
		if strings.HasPrefix(n, s) {
			return true
		}
	}
	if len(a.expr.convs) > 0 {
		c := a.expr.convs[len(a.expr.convs)-1].name
		return slices.Contains([]string{"length", "int", "add", "sub", "mul", "div", "mod", "neg", "count"}, c) || strings.HasPrefix(c, "table_")
	}
	return slices.Contains([]string{"dst_port", "src_port", "hdr_cnt", "req.hdr_cnt", "hdr_val", "req.hdr_val", "req.len", "req_len", "req.body_len", "req.body_size", "req.cook_val", "cook_val", "urlp_val", "url_port", "status", "int", "rand", "date", "cook_cnt", "req.cook_cnt", "ssl_c_verify", "ssl_fc_use_keysize", "http_first_req", "req.hdrs_bin", "so_id", "hdr_len"}, n)
}

// file reads patterns from a file: one a line, comments begin with #.
func (a *acl) file(h *HAProxy, name string) {
	list, err := h.table(name)
	if err != "" {
		a.unread = err
		return
	}
	a.patterns = append(a.patterns, list...)
}

func (h *HAProxy) table(name string) ([]hapLine, string) {
	if !strings.HasPrefix(name, "/") {
		return nil, "the file " + show(name) + " has no absolute path"
	}
	if list, ok := h.tables[name]; ok {
		return list, ""
	}
	text, err := h.src.read(name)
	if err != nil {
		return nil, "the file " + show(name) + " could not be read"
	}
	var list []hapLine
	n := 0
	for l := range strings.Lines(text) {
		n++
		l = strings.TrimRight(strings.TrimLeft(l, " \t"), "\r\n")
		if l == "" || l[0] == '#' {
			continue
		}
		if len(list) >= maxLines {
			return nil, "the file " + show(name) + " is longer than is read here"
		}
		list = append(list, hapLine{[]string{l}, pinpoint.Place{File: name, Line: n}})
	}
	h.tables[name] = list
	return list, ""
}

// condition reads what follows if or unless.
func (h *HAProxy) condition(words []string, unless bool, at pinpoint.Place) *condition {
	c := &condition{unless: unless, any: [][]term{nil}}
	var shown []string
	for i := 0; i < len(words); i++ {
		w := words[i]
		t := term{}
		bangs := ""
		for strings.HasPrefix(w, "!") {
			t.not = !t.not
			bangs += "!"
			w = w[1:]
			if w == "" && i+1 < len(words) {
				i++
				w = words[i]
			}
		}
		switch w {
		case "or", "OR", "||":
			c.any = append(c.any, nil)
			shown = append(shown, "or")
			continue
		case "":
			continue
		case "{":
			end := i + 1
			for end < len(words) && words[end] != "}" {
				end++
			}
			t.acl = h.acl(words[i+1:end], at)
			i = end
			if t.acl == nil {
				continue
			}
			shown = append(shown, bangs+"{ "+t.acl.line+" }")
		default:
			t.name = w
			shown = append(shown, bangs+w)
		}
		c.any[len(c.any)-1] = append(c.any[len(c.any)-1], t)
	}
	c.text = "if " + strings.Join(shown, " ")
	if unless {
		c.text = "unless " + strings.Join(shown, " ")
	}
	return c
}

// predefined are the ACLs that need no declaration (section 7.4).
var predefined = map[string]string{
	"FALSE": "always_false", "TRUE": "always_true", "HTTP": "req.proto_http", "HTTP_1.0": "req.ver 1.0", "HTTP_1.1": "req.ver 1.1", "HTTP_2.0": "req.ver 2.0",
	"HTTP_CONTENT": "req.hdr_val(content-length) gt 0", "HTTP_URL_ABS": "url_reg ^[^/:]*://", "HTTP_URL_SLASH": "url_beg /", "HTTP_URL_STAR": "url *",
	"LOCALHOST": "src 127.0.0.1/8 ::1", "METH_CONNECT": "method CONNECT", "METH_DELETE": "method DELETE", "METH_GET": "method GET HEAD", "METH_HEAD": "method HEAD",
	"METH_OPTIONS": "method OPTIONS", "METH_POST": "method POST", "METH_PUT": "method PUT", "METH_TRACE": "method TRACE",
	"REQ_CONTENT": "req.len gt 0", "WAIT_END": "wait_end",
}

// sample is one value of an expression.
type sample struct {
	s    string
	kind byte // 's' text, 'i' number, 'b' boolean, 'a' address, 'm' method
	n    int64
	addr netip.Addr
}

func text(s string) sample        { return sample{s: s, kind: 's'} }
func number(n int64) sample       { return sample{s: strconv.FormatInt(n, 10), kind: 'i', n: n} }
func address(a netip.Addr) sample { return sample{s: a.String(), kind: 'a', addr: a} }
func (s sample) boolean() bool    { return s.n != 0 }
func boolean(b bool) sample {
	return sample{s: map[bool]string{true: "1", false: "0"}[b], kind: 'b', n: map[bool]int64{true: 1}[b]}
}
func none() ([]sample, string)        { return nil, "" }
func one(s sample) ([]sample, string) { return []sample{s}, "" }

// passage is a request on its way through HAProxy.
type passage struct {
	*walk
	h      *HAProxy
	fe, be *proxy
	bind   bind
	src    netip.Addr
	vars   map[string]sample
	lost   map[string]string // variables that are not known, and why
	deps   map[string]bool   // what the condition looked at
	saw    []string          // ACLs of the condition, for people
	seen   map[string]string // the same by name
	asked  string            // method as it came
	budget int
}

// evaluate says what a condition is for this request.
func (p *passage) evaluate(c *condition, where *proxy) truth {
	p.deps, p.saw, p.seen = map[string]bool{}, nil, map[string]string{}
	if c == nil {
		return yes
	}
	result := no
	for _, all := range c.any {
		t := yes
		for _, x := range all {
			v := p.term(x, where)
			if t = min(t, v); t == no {
				break
			}
		}
		if len(all) == 0 && len(c.any) > 1 {
			t = no
		}
		if result = max(result, t); result == yes {
			break
		}
	}
	if c.unless {
		return result.not()
	}
	return result
}

// term is one ACL; lines of the same name are alternatives.
func (p *passage) term(x term, px *proxy) truth {
	var list []*acl
	if x.acl != nil {
		list = []*acl{x.acl}
	} else {
		for q := px; q != nil; q = q.defaults {
			for _, a := range q.acls {
				if a.name == x.name {
					list = append(list, a)
				}
			}
		}
		if len(list) == 0 {
			if def, ok := predefined[x.name]; ok {
				a := p.h.acl(strings.Fields(def), pinpoint.Place{})
				a.name = x.name
				list = []*acl{a}
			}
		}
	}
	result := no
	if len(list) == 0 {
		p.saw = append(p.saw, "the ACL "+show(x.name)+" is not declared")
		result = maybe
	}
	for _, a := range list {
		v, why := p.test(a)
		name := a.name
		if name == "" {
			name = "{ " + a.line + " }"
		}
		says := show(name) + " " + v.String()
		if a.name != "" {
			says += " (`" + show(a.line) + "`"
			if a.at.Line > 0 {
				says += ", line " + strconv.Itoa(a.at.Line)
			}
			says += ")"
		}
		if why != "" {
			says += ": " + why
		}
		if len(p.saw) < 20 && !slices.Contains(p.saw, says) {
			p.saw = append(p.saw, says)
			p.seen[name] = v.String()
		}
		if result = max(result, v); result == yes {
			break
		}
	}
	if x.not {
		return result.not()
	}
	return result
}

// test is one line of an ACL.
func (p *passage) test(a *acl) (truth, string) {
	values, why := p.value(a.expr)
	if why != "" {
		return maybe, why
	}
	match := a.match
	if match == "found" {
		return sure(len(values) > 0), ""
	}
	if len(a.patterns) == 0 && a.unread == "" {
		for _, v := range values {
			if (v.kind == 'b' || v.kind == 'i') && v.boolean() {
				return yes, ""
			}
		}
		return no, ""
	}
	result := no
	for _, v := range values[:min(len(values), 200)] {
		for _, pat := range a.patterns {
			if p.budget--; p.budget < 0 {
				return maybe, "there are more values than are compared here"
			}
			t := matchPattern(v, match, pat.word(0), a.fold)
			if result = max(result, t); t == yes {
				if pat.at.File != a.at.File {
					return yes, "by " + where(pat.at)
				}
				return yes, ""
			}
		}
	}
	if result == no && a.unread != "" && len(values) > 0 {
		return maybe, a.unread
	}
	return result, ""
}

// matchPattern compares one value with one pattern (section 7.1.2 and on).
func matchPattern(v sample, match, pat string, fold bool) truth {
	s := v.s
	if match == "" {
		match = map[byte]string{'s': "str", 'i': "int", 'b': "bool", 'a': "ip", 'm': "meth"}[v.kind]
	}
	if fold && match != "reg" && match != "ip" && match != "int" {
		s, pat = lowerASCII(s), lowerASCII(pat)
	}
	switch match {
	case "str", "meth":
		return sure(s == pat)
	case "beg":
		return sure(strings.HasPrefix(s, pat))
	case "end":
		return sure(strings.HasSuffix(s, pat))
	case "sub":
		return sure(strings.Contains(s, pat))
	case "dir":
		return sure(hasWord(s, pat, "/?"))
	case "dom":
		return sure(hasWord(s, pat, "/?.:"))
	case "reg":
		return compile(pat, fold).holds(s)
	case "bool":
		return sure(v.boolean() == (pat == "1" || strings.EqualFold(pat, "true")))
	case "len":
		return within(int64(len(s)), pat)
	case "int":
		n := v.n
		if v.kind == 's' {
			var err error
			if n, err = strconv.ParseInt(s, 10, 64); err != nil {
				return no
			}
		}
		return within(n, pat)
	case "ip":
		a := v.addr
		if !a.IsValid() {
			var err error
			if a, err = netip.ParseAddr(strings.TrimSpace(s)); err != nil {
				return no
			}
		}
		return inside(a, pat)
	}
	return maybe
}

func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 32
		}
		return r
	}, s)
}

// hasWord says that a text has a pattern between delimiters.
func hasWord(s, pat, delimiters string) bool {
	pat = strings.Trim(pat, delimiters)
	start := true // a word may begin here
	for i := 0; i+len(pat) <= len(s); i++ {
		if i < len(s) && strings.IndexByte(delimiters, s[i]) >= 0 {
			start = true
			continue
		}
		if !start {
			continue
		}
		if rest := s[i:]; strings.HasPrefix(rest, pat) && (len(rest) == len(pat) || strings.IndexByte(delimiters, rest[len(pat)]) >= 0) {
			return true
		}
		start = false
	}
	return false
}

// within reads "gt 5", "5", "1:10", ":10", "1:".
func within(n int64, pat string) truth {
	op, rest, ok := strings.Cut(pat, " ")
	if !ok {
		op, rest = "", pat
	}
	if low, high, ranged := strings.Cut(rest, ":"); ranged && op == "" {
		lo, err := strconv.ParseInt(low, 10, 64)
		hi, err2 := strconv.ParseInt(high, 10, 64)
		if low != "" && err != nil || high != "" && err2 != nil {
			return maybe
		}
		return sure((low == "" || n >= lo) && (high == "" || n <= hi))
	}
	want, err := strconv.ParseInt(rest, 10, 64)
	if err != nil {
		return maybe
	}
	switch op {
	case "gt":
		return sure(n > want)
	case "ge":
		return sure(n >= want)
	case "lt":
		return sure(n < want)
	case "le":
		return sure(n <= want)
	}
	return sure(n == want)
}

// value evaluates an expression; why is not empty when it is not known from here.
func (p *passage) value(e expression) ([]sample, string) {
	if e.problems {
		return nil, "the expression could not be read"
	}
	values, why := p.fetch(e.fetch)
	if why != "" {
		return nil, why
	}
	for _, c := range e.convs {
		var out []sample
		for _, v := range values {
			r, keep, why := p.convert(v, c)
			if why != "" {
				return nil, why
			}
			if len(r.s) > maxText {
				return nil, "a value is longer than is computed here"
			}
			if keep {
				out = append(out, r)
			}
		}
		values = out
	}
	return values, ""
}

// splitList takes a field apart at the commas outside quotes.
func splitList(s string) (out []string) {
	start, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			out = append(out, strings.Trim(s[start:i], " \t"))
			start = i + 1
		}
	}
	return append(out, strings.Trim(s[start:], " \t"))
}

// fields are the values of a header, apart at commas unless full.
func (p *passage) fields(name string, full bool) (list []string) {
	values := p.header.Values(name)
	if strings.EqualFold(name, "host") && p.host != "" {
		values = append([]string{p.host}, values...)
	}
	for _, v := range values {
		if full {
			list = append(list, v)
		} else {
			list = append(list, splitList(v)...)
		}
	}
	return list
}

// occurrence takes the n-th of a list; negative counts from the end, 0 is all.
func occurrence(list []string, n string) []string {
	k, err := strconv.Atoi(n)
	switch {
	case err != nil || k == 0:
		return list
	case k > 0 && k <= len(list):
		return list[k-1 : k]
	case k < 0 && -k <= len(list):
		return list[len(list)+k : len(list)+k+1]
	}
	return nil
}

func texts(list []string) (out []sample) {
	for _, s := range list {
		out = append(out, text(s))
	}
	return out
}

// fetch is one sample fetch (sections 7.3.2 to 7.3.6).
func (p *passage) fetch(c call) ([]sample, string) {
	dep := func(n string) { p.deps[n] = true }
	name := strings.TrimPrefix(c.name, "req.")
	path := pathOf(p.target)
	switch name {
	case "always_true", "wait_end", "proto_http", "req_proto_http":
		return one(boolean(true))
	case "always_false":
		return one(boolean(false))
	case "bool":
		return one(boolean(c.arg(0) == "1" || c.arg(0) == "true"))
	case "int":
		n, _ := strconv.ParseInt(c.arg(0), 10, 64)
		return one(number(n))
	case "str":
		return one(text(strings.Join(c.args, ",")))
	case "env":
		if v, ok := p.h.vars[c.arg(0)]; ok {
			return one(text(v))
		}
		return nil, "the environment of HAProxy is not known here"
	case "ipv4", "ipv6":
		if a, err := netip.ParseAddr(c.arg(0)); err == nil {
			return one(address(a))
		}
		return none()
	case "src":
		dep("src")
		if !p.src.IsValid() {
			return nil, "the address of the client is not known"
		}
		return one(address(p.src))
	case "dst":
		dep("dst")
		if !p.a.Local.IsValid() {
			return nil, "the address of the listener is not known"
		}
		return one(address(p.a.Local.Addr().Unmap()))
	case "dst_port":
		dep("dst")
		return one(number(int64(p.a.Local.Port())))
	case "method":
		dep("method")
		// set-method changes what is sent; the method that was parsed is what this fetch yields.
		if slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT"}, p.asked) {
			return one(sample{s: p.asked, kind: 'm'})
		}
		return one(sample{s: p.method, kind: 'm'})
	case "path", "pathq":
		dep("path")
		s := p.target
		if i := strings.IndexByte(s, '/'); i >= 0 {
			s = s[i:]
		} else {
			return none()
		}
		if name == "path" {
			s = pathOf(s)
		}
		return one(text(s))
	case "query":
		dep("query")
		if strings.Contains(p.target, "?") {
			return one(text(queryOf(p.target)))
		}
		return none()
	case "url":
		dep("path")
		if p.a.Request != nil && strings.HasPrefix(p.a.Request.Proto, "HTTP/2") {
			return one(text(p.scheme() + "://" + p.host + p.target))
		}
		return one(text(p.target))
	case "base":
		dep("path")
		dep("hdr:host")
		return one(text(p.host + path))
	case "baseq":
		dep("path")
		dep("hdr:host")
		return one(text(p.host + p.target))
	case "ver", "req_ver":
		dep("version")
		switch {
		case p.a.Request == nil || p.a.Request.Proto == "":
			return nil, "the version of HTTP is not known"
		case p.a.Request.Proto == "HTTP/2":
			return one(text("2.0"))
		}
		return one(text(strings.TrimPrefix(p.a.Request.Proto, "HTTP/")))
	case "hdr", "fhdr", "hdr_ip", "hdr_val", "hdr_cnt", "fhdr_cnt", "hdr_len":
		field := strings.ToLower(c.arg(0))
		dep("hdr:" + field)
		list := p.fields(field, strings.HasPrefix(name, "f"))
		if strings.HasSuffix(name, "_cnt") {
			return one(number(int64(len(list))))
		}
		list = occurrence(list, c.arg(1))
		if name == "hdr_ip" {
			var out []sample
			for _, s := range list {
				if a, err := netip.ParseAddr(s); err == nil {
					out = append(out, address(a.Unmap()))
				} else if ap, err := netip.ParseAddrPort(s); err == nil {
					out = append(out, address(ap.Addr().Unmap()))
				}
			}
			return out, ""
		}
		if name == "hdr_val" {
			var out []sample
			for _, s := range list {
				n, _ := strconv.ParseInt(leading(s), 10, 64)
				out = append(out, number(n))
			}
			return out, ""
		}
		return texts(list), ""
	case "cook", "cook_cnt", "cook_val":
		dep("hdr:cookie")
		var list []string
		for _, line := range p.header.Values("Cookie") {
			for _, pair := range strings.Split(line, ";") {
				k, v, ok := strings.Cut(strings.TrimSpace(pair), "=")
				if ok && v != "" && (k == c.arg(0) || c.arg(0) == "") {
					list = append(list, v)
				}
			}
		}
		if name == "cook_cnt" {
			return one(number(int64(len(list))))
		}
		if name == "cook_val" {
			var out []sample
			for _, s := range list {
				n, _ := strconv.ParseInt(leading(s), 10, 64)
				out = append(out, number(n))
			}
			return out, ""
		}
		return texts(list), ""
	case "urlp", "url_param", "urlp_val":
		dep("query")
		delim := "?"
		if d := c.arg(1); d != "" {
			delim = d
		}
		_, q, ok := strings.Cut(p.target, delim)
		var list []string
		for _, pair := range strings.FieldsFunc(q, func(r rune) bool { return r == '&' || r == ';' }) {
			k, v, has := strings.Cut(pair, "=")
			if ok && has && (k == c.arg(0) || c.arg(0) == "") {
				list = append(list, v)
			}
		}
		return texts(list), ""
	case "ssl_fc":
		dep("ssl")
		return one(boolean(p.bind.has("ssl")))
	case "ssl_fc_sni", "ssl_sni", "req_ssl_sni", "ssl_fc_sni_reg":
		dep("ssl")
		if p.a.SNI == "" {
			return none()
		}
		return one(text(p.a.SNI))
	case "ssl_fc_has_sni":
		dep("ssl")
		return one(boolean(p.a.SNI != "" && p.bind.has("ssl")))
	case "ssl_c_used", "ssl_fc_has_crt":
		dep("cert")
		if p.a.Cert == "" && p.a.TLS {
			return nil, "whether a client certificate was sent is not known"
		}
		return one(boolean(p.a.Cert != "none" && p.a.Cert != ""))
	case "ssl_c_verify":
		dep("cert")
		switch p.a.Cert {
		case "valid", "none":
			return one(number(0))
		case "expired":
			return one(number(10))
		}
		return nil, "how the client certificate verifies is not known"
	case "fe_name":
		return one(text(p.fe.name))
	case "be_name":
		if p.be != nil {
			return one(text(p.be.name))
		}
		return none()
	case "http_auth", "http_auth_group":
		dep("auth")
		return p.auth(c)
	case "http_auth_user":
		dep("auth")
		user, _, ok := p.credentials()
		if !ok {
			return none()
		}
		return one(text(user))
	case "var":
		n := c.arg(0)
		dep("var:" + n)
		if why, lost := p.lost[n]; lost {
			return nil, why
		}
		if v, ok := p.vars[n]; ok {
			return one(v)
		}
		if strings.HasPrefix(n, "proc.") {
			return nil, "the variable " + show(n) + " belongs to the process"
		}
		return none()
	case "len", "req_len", "body_len", "body_size":
		dep("body")
		if p.a.Request == nil || len(p.a.Request.Body) > 0 && name != "body_size" && name != "body_len" {
			return nil, "how much of the body HAProxy has read is not known"
		}
		return one(number(int64(len(p.a.Request.Body))))
	}
	for _, s := range []string{"sc_", "sc0_", "sc1_", "sc2_", "src_", "table_", "so_"} {
		if strings.HasPrefix(name, s) && name != "src_port" && name != "src_is_local" && !strings.HasPrefix(name, "so_id") {
			dep("rate")
			return nil, "the counter is known to the running HAProxy only"
		}
	}
	for _, s := range []string{"be_", "fe_", "nbsrv", "srv_", "queue", "avg_queue", "connslots"} {
		if strings.HasPrefix(name, s) {
			dep("load")
			return nil, "the load and the health of servers are known to the running HAProxy only"
		}
	}
	dep("other:" + c.name)
	return nil, show(c.name) + " is not known from here"
}

func leading(s string) string {
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9' || i == 0 && s[i] == '-') {
		i++
	}
	return s[:i]
}

// credentials are those of Basic.
func (p *passage) credentials() (user, password string, ok bool) {
	return basicCredentials(p.header.Value("Authorization"))
}

func basicCredentials(given string) (user, password string, ok bool) {
	scheme, rest, _ := strings.Cut(given, " ")
	if !strings.EqualFold(scheme, "basic") {
		return "", "", false
	}
	data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest))
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(data), ":")
}

func (p *passage) auth(c call) ([]sample, string) {
	list := p.h.users[c.arg(0)]
	if list == nil {
		return nil, "there is no userlist " + show(c.arg(0))
	}
	if strings.Contains(p.header.Value("Authorization"), "‹secret:") {
		return nil, "the credential is sealed"
	}
	fails := func() ([]sample, string) {
		if c.name == "http_auth_group" {
			return none()
		}
		return one(boolean(false))
	}
	name, password, ok := p.credentials()
	u, known := list.users[name]
	if !ok || !known {
		return fails()
	}
	if !u.plain {
		return nil, "the password is kept as a hash that only crypt(3) compares"
	}
	if subtle.ConstantTimeCompare([]byte(u.password), []byte(password)) != 1 {
		return fails()
	}
	if c.name == "http_auth_group" {
		groups := slices.Clone(u.groups)
		for g, users := range list.groups {
			if slices.Contains(users, name) {
				groups = append(groups, g)
			}
		}
		return texts(groups), ""
	}
	return one(boolean(true))
}

// convert is one converter (section 7.3.1).
func (p *passage) convert(v sample, c call) (out sample, keep bool, why string) {
	switch c.name {
	case "lower":
		return text(lowerASCII(v.s)), true, ""
	case "upper":
		return text(strings.ToUpper(v.s)), true, ""
	case "length":
		return number(int64(len(v.s))), true, ""
	case "str", "string", "hex_str":
		return text(v.s), true, ""
	case "url_dec":
		s := v.s
		if c.arg(0) != "" && c.arg(0) != "0" {
			s = strings.ReplaceAll(s, "+", " ")
		}
		if u, err := url.PathUnescape(s); err == nil {
			return text(u), true, ""
		}
		return v, false, ""
	case "host_only":
		h := v.s
		if i := strings.LastIndexByte(h, ':'); i >= 0 && !strings.HasSuffix(h, "]") {
			h = h[:i]
		}
		return text(h), true, ""
	case "not":
		return boolean(!v.boolean()), true, ""
	case "bool":
		return boolean(v.boolean()), true, ""
	case "field", "word":
		n, err := strconv.Atoi(c.arg(0))
		if err != nil || n == 0 || c.arg(1) == "" || len(c.args) > 2 {
			return v, false, "the converter " + c.name + " could not be read"
		}
		var parts []string
		split := func(r rune) bool { return strings.ContainsRune(c.arg(1), r) }
		if c.name == "word" {
			parts = strings.FieldsFunc(v.s, split)
		} else {
			rest := v.s
			for {
				i := strings.IndexFunc(rest, split)
				if i < 0 {
					break
				}
				parts, rest = append(parts, rest[:i]), rest[i+1:]
			}
			parts = append(parts, rest)
		}
		list := occurrence(parts, c.arg(0))
		if len(list) == 0 {
			if c.name == "field" {
				return text(""), true, ""
			}
			return v, false, ""
		}
		return text(list[0]), true, ""
	case "regsub":
		s, why := regsub(v.s, c.arg(0), c.arg(1), strings.Contains(c.arg(2), "i"), strings.Contains(c.arg(2), "g"))
		return text(s), true, why
	case "concat":
		return v, false, "the converter concat is not computed here"
	case "in_table":
		p.deps["rate"] = true
		return v, false, "the table is known to the running HAProxy only"
	}
	if strings.HasPrefix(c.name, "table_") {
		p.deps["rate"] = true
		return v, false, "the counter is known to the running HAProxy only"
	}
	if strings.HasPrefix(c.name, "map") {
		return p.mapped(v, c)
	}
	return v, false, "the converter " + show(c.name) + " is not computed here"
}

func regsub(s, re, to string, fold, all bool) (string, string) {
	x := compile(re, fold)
	if x == nil || x.fast == nil {
		return "", "the expression of regsub is not computed here"
	}
	n := 0
	return x.fast.ReplaceAllStringFunc(s, func(m string) string {
		if n++; n > 1 && !all {
			return m
		}
		return backrefs(to, x.fast.FindStringSubmatch(m))
	}), ""
}

// backrefs fills \0 to \9 in.
func backrefs(to string, groups []string) string {
	var b strings.Builder
	for i := 0; i < len(to) && b.Len() < maxText; i++ {
		if to[i] == '\\' && i+1 < len(to) {
			i++
			if d := int(to[i] - '0'); to[i] >= '0' && to[i] <= '9' {
				if d < len(groups) {
					b.WriteString(groups[d])
				}
				continue
			}
		}
		b.WriteByte(to[i])
	}
	return b.String()
}

// mapped looks a value up in a map file: key and value on a line.
func (p *passage) mapped(v sample, c call) (out sample, keep bool, why string) {
	list, why := p.h.table(c.arg(0))
	if why != "" {
		return v, false, why
	}
	match := "str"
	parts := strings.Split(c.name, "_")
	if len(parts) > 1 && parts[1] != "int" && parts[1] != "ip" || len(parts) == 3 || len(parts) == 2 && parts[1] == "ip" {
		match = parts[1]
	}
	longest := -1
	for _, l := range list {
		key, value := strings.TrimSpace(l.word(0)), ""
		if i := strings.IndexAny(key, " \t"); i >= 0 {
			key, value = key[:i], key[i:]
		}
		if p.budget--; p.budget < 0 {
			return v, false, "there are more values than are compared here"
		}
		t := matchPattern(v, match, key, false)
		if t == maybe {
			return v, false, "an entry of " + show(c.arg(0)) + " could not be compared"
		}
		// Trees look for the longest key; the other kinds take the first.
		if t == yes && (longest < 0 || (match == "beg" || match == "ip") && len(key) > longest) {
			out, longest = text(strings.TrimSpace(value)), len(key)
		}
	}
	if longest >= 0 {
		return out, true, ""
	}
	if len(c.args) > 1 {
		return text(c.arg(1)), true, ""
	}
	return v, false, ""
}

// format evaluates a log-format string (section 8.2.4) as far as rules use it.
func (p *passage) format(s string) (string, string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' || i+1 >= len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if s[i] == '{' {
			j := strings.IndexByte(s[i:], '}')
			if j < 0 || i+j+1 >= len(s) {
				return "", "a format could not be read"
			}
			i += j + 1
		}
		switch {
		case s[i] == '%':
			b.WriteByte('%')
		case s[i] == '[':
			depth, j := 1, i+1
			for ; j < len(s); j++ {
				if s[j] == '[' {
					depth++
				} else if s[j] == ']' {
					if depth--; depth == 0 {
						break
					}
				}
			}
			if j >= len(s) {
				return "", "a format could not be read"
			}
			values, why := p.value(parseExpression(s[i+1 : j]))
			if why != "" {
				return "", why
			}
			if len(values) > 0 {
				b.WriteString(values[len(values)-1].s)
			}
			i = j
		case strings.HasPrefix(s[i:], "ci"):
			b.WriteString(p.src.String())
			i++
		default:
			return "", "a format has a variable that is not known here"
		}
		if b.Len() > maxText {
			return "", "a value is longer than is computed here"
		}
	}
	return b.String(), ""
}
