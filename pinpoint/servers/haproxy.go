package servers

import (
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// HAProxy is the configuration of an HAProxy.
// https://docs.haproxy.org/2.6/configuration.html
type HAProxy struct {
	Problems []Problem
	src      *source
	env      Env
	proxies  []*proxy
	users    map[string]*userlist
	errors   map[string]map[int]string // http-errors sections: status → file
	user     string
	logs     []pinpoint.LogFile
	bufsize  int
	tables   map[string][]hapLine // files of -f and of maps
	vars     map[string]string
	first    pinpoint.Place
}

// hapLine is one line as words.
type hapLine struct {
	words []string
	at    pinpoint.Place
}

func (l hapLine) text() string { return strings.Join(l.words, " ") }

func (l hapLine) word(i int) string {
	if i >= 0 && i < len(l.words) {
		return l.words[i]
	}
	return ""
}

// proxy is a frontend, a backend, a listen or a defaults section.
type proxy struct {
	kind, name string
	at         pinpoint.Place
	defaults   *proxy // whose settings it takes over
	binds      []bind
	acls       []*acl
	rules      []*rule
	servers    []hapServer
	base       []string // options of default-server
	settings   map[string]hapLine
	options    map[string]hapLine // of option and no option
	errors     map[int]hapLine    // errorfile and errorloc
	stats      map[string][]hapLine
	logs       []hapLine
	http       bool
	off        bool
}

type bind struct {
	addr   netip.Addr // not valid: any
	v4, v6 bool       // what "any" stands for
	low    uint16
	high   uint16
	socket string
	words  []string
	at     pinpoint.Place
}

func (b bind) has(word string) bool { return slices.Contains(b.words, word) }

func (b bind) after(word string) string {
	if i := slices.Index(b.words, word); i >= 0 && i+1 < len(b.words) {
		return b.words[i+1]
	}
	return ""
}

type hapServer struct {
	name, address string
	words         []string
	at            pinpoint.Place
}

func (s hapServer) has(word string) bool { return slices.Contains(s.words, word) }

type userlist struct {
	users  map[string]hapUser
	groups map[string][]string
}

type hapUser struct {
	password string
	plain    bool
	groups   []string
}

// rule is a line that acts, with its condition.
type rule struct {
	set    string // "http-request", "tcp-request connection", "redirect", "use_backend", …
	action string
	args   []string
	cond   *condition
	line   hapLine
}

// DiscoverHAProxy finds the configuration files of a process from its arguments: -f, -C, and what follows --.
// Names without a slash at their beginning start from -C, or from dir, the directory of the process.
func DiscoverHAProxy(files pinpoint.Files, args []string, dir string) (confs []string) {
	add := func(name string) {
		if !path.IsAbs(name) {
			name = path.Join("/", dir, name)
		}
		if some, err := files.Glob(path.Join(name, "*.cfg")); err == nil && len(some) > 0 {
			slices.Sort(some)
			confs = append(confs, some...)
			return
		}
		confs = append(confs, name)
	}
	for i := 1; i < len(args); i++ {
		if args[i] == "-C" && i+1 < len(args) {
			dir = path.Join("/", dir, args[i+1])
			if path.IsAbs(args[i+1]) {
				dir = path.Clean(args[i+1])
			}
		}
	}
	for i := 1; i < len(args); i++ {
		switch {
		case args[i] == "--":
			for _, a := range args[i+1:] {
				add(a)
			}
			return confs
		case args[i] == "-f" && i+1 < len(args):
			i++
			add(args[i])
		}
	}
	if len(confs) == 0 {
		confs = []string{"/etc/haproxy/haproxy.cfg"}
	}
	return confs
}

// LoadHAProxy reads configuration files in their order. What could not be read is in Problems.
func LoadHAProxy(files pinpoint.Files, confs []string, env Env) (*HAProxy, error) {
	h := &HAProxy{src: &source{files: files}, env: env, users: map[string]*userlist{}, errors: map[string]map[int]string{}, tables: map[string][]hapLine{}, bufsize: 16384, vars: map[string]string{}}
	for k, v := range env.Vars {
		h.vars[k] = v
	}
	r := &hapReader{h: h}
	for _, name := range confs {
		text, err := h.src.read(name)
		if err != nil {
			return nil, fmt.Errorf("reading the configuration of HAProxy %q: %w", name, err)
		}
		if h.first.File == "" {
			h.first = pinpoint.Place{File: name, Line: 1}
		}
		r.file(name, text)
	}
	h.Problems = h.src.problems
	return h, nil
}

type hapReader struct {
	h       *HAProxy
	kind    string
	section *proxy
	last    *proxy // defaults that apply to what follows
	named   map[string]*proxy
	users   *userlist
	errors  map[int]string
	skip    []bool // of .if: what is not taken
	lines   int
}

func (r *hapReader) file(name, text string) {
	if r.named == nil {
		r.named = map[string]*proxy{}
	}
	r.kind, r.section = "", nil
	n := 0
	for l := range strings.Lines(text) {
		n++
		if r.lines++; r.lines > maxLines {
			r.h.src.problem(pinpoint.Place{File: name, Line: n}, "the rest has more lines than are read here")
			return
		}
		at := pinpoint.Place{File: name, Line: n}
		words, err := hapWords(strings.TrimRight(l, "\r\n"), r.h.vars)
		if err != "" {
			r.h.src.problem(at, "%s", err)
		}
		if len(words) > 0 {
			r.line(hapLine{words, at})
		}
	}
}

// hapWords splits a line (section 2.2): quotes, backslashes, comments, variables within double quotes.
func hapWords(l string, vars map[string]string) (words []string, problem string) {
	var b strings.Builder
	in, quote := false, byte(0)
	flush := func() {
		if in {
			words = append(words, b.String())
		}
		b.Reset()
		in = false
	}
	for i := 0; i < len(l); i++ {
		c := l[i]
		switch {
		case b.Len() > maxText:
			return words, "a word is longer than is read here"
		case c == '\\' && quote != '\'' && i+1 < len(l):
			i++
			in = true
			switch e := l[i]; {
			case quote == '"' && !strings.ContainsRune(`"\$`, rune(e)) && e != 'r' && e != 'n' && e != 't' && e != 'x':
				b.WriteByte('\\')
				b.WriteByte(e)
			case e == 'r':
				b.WriteByte('\r')
			case e == 'n':
				b.WriteByte('\n')
			case e == 't':
				b.WriteByte('\t')
			case e == 'x' && i+2 < len(l):
				if n, err := strconv.ParseUint(l[i+1:i+3], 16, 8); err == nil {
					b.WriteByte(byte(n))
					i += 2
				}
			default:
				if strings.IndexByte(`\"' #$`, e) < 0 || e == '$' && quote == 0 {
					b.WriteByte('\\')
				}
				b.WriteByte(e)
			}
		case quote == 0 && c == '#':
			flush()
			return words, ""
		case quote == 0 && (c == ' ' || c == '\t'):
			flush()
		case (c == '\'' || c == '"') && (quote == 0 || quote == c):
			in = true
			if quote == c {
				quote = 0
			} else {
				quote = c
			}
		case quote == '"' && c == '$':
			name, rest := l[i+1:], 0
			if strings.HasPrefix(name, "{") {
				j := strings.IndexByte(name, '}')
				if j < 0 {
					return words, "a variable without its closing brace"
				}
				name, rest = name[1:j], j+1
			} else {
				j := 0
				for j < len(name) && (name[j] == '_' || name[j] >= '0' && name[j] <= '9' || name[j]|0x20 >= 'a' && name[j]|0x20 <= 'z') {
					j++
				}
				name, rest = name[:j], j
			}
			name, otherwise, _ := strings.Cut(name, "-")
			b.WriteString(cmp.Or(vars[strings.TrimSuffix(name, "[*]")], otherwise))
			i += rest
		default:
			in = true
			b.WriteByte(c)
		}
	}
	flush()
	if quote != 0 {
		problem = "a quote that is not closed"
	}
	return words, problem
}

var hapSections = []string{"global", "defaults", "frontend", "backend", "listen", "userlist", "peers", "mailers", "resolvers", "program", "http-errors", "ring", "log-forward", "cache", "fcgi-app", "crt-store", "log-profile", "traces", "acme"}

func (r *hapReader) line(l hapLine) {
	h := r.h
	if w := l.words[0]; strings.HasPrefix(w, ".") {
		r.conditional(l)
		return
	}
	if slices.Contains(r.skip, true) {
		return
	}
	if slices.Contains(hapSections, l.words[0]) {
		r.start(l)
		return
	}
	switch r.kind {
	case "global":
		switch l.words[0] {
		case "user":
			h.user = l.word(1)
		case "uid":
			if h.user == "" {
				h.user = l.word(1)
			}
		case "tune.bufsize":
			if n, err := strconv.Atoi(l.word(1)); err == nil && n > 0 {
				h.bufsize = n
			}
		case "log":
			h.logs = append(h.logs, logOf(l))
		case "setenv", "presetenv":
			if _, set := h.vars[l.word(1)]; !set || l.words[0] == "setenv" {
				h.vars[l.word(1)] = l.word(2)
			}
		}
	case "userlist":
		switch l.words[0] {
		case "group":
			if i := slices.Index(l.words, "users"); i > 0 {
				r.users.groups[l.word(1)] = strings.Split(l.word(i+1), ",")
			} else {
				r.users.groups[l.word(1)] = nil
			}
		case "user":
			u := hapUser{}
			for i := 2; i+1 < len(l.words); i++ {
				switch l.words[i] {
				case "password":
					u.password = l.words[i+1]
				case "insecure-password":
					u.password, u.plain = l.words[i+1], true
				case "groups":
					u.groups = strings.Split(l.words[i+1], ",")
				}
			}
			if len(r.users.users) < 10_000 {
				r.users.users[l.word(1)] = u
			}
		}
	case "http-errors":
		if l.words[0] == "errorfile" {
			if n, err := strconv.Atoi(l.word(1)); err == nil {
				r.errors[n] = l.word(2)
			}
		}
	case "defaults", "frontend", "backend", "listen":
		r.proxy(l)
	}
}

// conditional evaluates .if blocks (section 2.4) as far as they are plain.
func (r *hapReader) conditional(l hapLine) {
	switch l.words[0] {
	case ".if", ".elif":
		test := strings.Join(l.words[1:], " ")
		holds := false
		switch {
		case test == "1", test == "true":
			holds = true
		case strings.HasPrefix(test, "defined(") && strings.HasSuffix(test, ")"):
			_, holds = r.h.vars[strings.TrimSuffix(test[8:], ")")]
		case strings.HasPrefix(test, "!defined(") && strings.HasSuffix(test, ")"):
			_, holds = r.h.vars[strings.TrimSuffix(test[9:], ")")]
			holds = !holds
		case test == "0", test == "false", test == "":
		default:
			holds = true
			r.h.src.problem(l.at, "`%s` was taken to hold", show(l.text()))
		}
		if l.words[0] == ".if" {
			if len(r.skip) < maxDepth {
				r.skip = append(r.skip, !holds)
			}
		} else if n := len(r.skip); n > 0 {
			r.skip[n-1] = !r.skip[n-1] || !holds
		}
	case ".else":
		if n := len(r.skip); n > 0 {
			r.skip[n-1] = !r.skip[n-1]
		}
	case ".endif":
		if n := len(r.skip); n > 0 {
			r.skip = r.skip[:n-1]
		}
	}
}

func (r *hapReader) start(l hapLine) {
	h := r.h
	r.kind, r.section = l.words[0], nil
	switch r.kind {
	case "userlist":
		r.users = &userlist{users: map[string]hapUser{}, groups: map[string][]string{}}
		h.users[l.word(1)] = r.users
	case "http-errors":
		r.errors = map[int]string{}
		h.errors[l.word(1)] = r.errors
	case "defaults", "frontend", "backend", "listen":
		p := &proxy{kind: r.kind, name: l.word(1), at: l.at, settings: map[string]hapLine{}, options: map[string]hapLine{}, errors: map[int]hapLine{}, stats: map[string][]hapLine{}}
		from := ""
		if i := slices.Index(l.words, "from"); i > 0 {
			from = l.word(i + 1)
			if i == 1 {
				p.name = ""
			}
		}
		if r.kind == "defaults" {
			if from != "" {
				p.inherit(r.named[from])
			}
			r.last, r.section = p, p
			if p.name != "" {
				r.named[p.name] = p
			}
			return
		}
		p.defaults = r.last
		if from != "" {
			if p.defaults = r.named[from]; p.defaults == nil {
				h.src.problem(l.at, "there is no defaults section %q", show(from))
			}
		}
		p.inherit(p.defaults)
		r.section = p
		h.proxies = append(h.proxies, p)
		// Up to 1.8 the address could stand in the line of the section.
		if a := l.word(2); a != "" && a != "from" && strings.Contains(a, ":") && r.kind != "backend" {
			p.binds = append(p.binds, binds(a, l.words[3:], l.at)...)
		}
	}
}

// inherit takes over what a defaults section sets. Rules and ACLs stay there.
func (p *proxy) inherit(d *proxy) {
	if d == nil {
		return
	}
	for k, v := range d.settings {
		p.settings[k] = v
	}
	for k, v := range d.options {
		p.options[k] = v
	}
	for k, v := range d.errors {
		p.errors[k] = v
	}
	for k, v := range d.stats {
		p.stats[k] = slices.Clone(v)
	}
	p.logs = slices.Clone(d.logs)
	p.base = slices.Clone(d.base)
	p.http, p.off = d.http, d.off
	if p.kind == "defaults" {
		p.rules, p.acls = slices.Clone(d.rules), slices.Clone(d.acls)
	}
}

func (r *hapReader) proxy(l hapLine) {
	p, first := r.section, l.words[0]
	if p == nil {
		return
	}
	if first == "no" && len(l.words) > 1 {
		switch l.words[1] {
		case "option":
			delete(p.options, l.word(2))
		case "log":
			p.logs = nil
		default:
			delete(p.settings, l.words[1])
		}
		return
	}
	switch first {
	case "bind":
		p.binds = append(p.binds, binds(l.word(1), l.words[min(2, len(l.words)):], l.at)...)
	case "mode":
		p.http = l.word(1) == "http"
	case "disabled":
		p.off = true
	case "enabled":
		p.off = false
	case "acl":
		if len(l.words) > 2 && l.words[1] != "or" {
			if a := r.h.acl(l.words[2:], l.at); a != nil {
				a.name = l.words[1]
				p.acls = append(p.acls, a)
			}
		}
	case "http-request", "redirect", "use_backend", "use-server", "block", "http-response", "monitor":
		r.rule(p, first, l, 1)
	case "tcp-request", "tcp-response":
		r.rule(p, first+" "+l.word(1), l, 2)
	case "server", "server-template":
		s := hapServer{name: l.word(1), address: l.word(2), at: l.at}
		rest := l.words[min(3, len(l.words)):]
		if first == "server-template" {
			s.address = l.word(3)
			rest = l.words[min(4, len(l.words)):]
		}
		s.words = append(slices.Clone(p.base), rest...)
		if len(p.servers) < 10_000 {
			p.servers = append(p.servers, s)
		}
	case "default-server":
		p.base = append(p.base, l.words[1:]...)
	case "option":
		p.options[l.word(1)] = l
	case "errorfile", "errorloc", "errorloc302", "errorloc303":
		if n, err := strconv.Atoi(l.word(1)); err == nil {
			p.errors[n] = l
		}
	case "errorfiles":
		for n, file := range r.h.errors[l.word(1)] {
			if len(l.words) == 2 || slices.Contains(l.words[2:], strconv.Itoa(n)) {
				p.errors[n] = hapLine{[]string{"errorfile", strconv.Itoa(n), file}, l.at}
			}
		}
	case "stats":
		p.stats[l.word(1)] = append(p.stats[l.word(1)], l)
	case "log":
		p.logs = append(p.logs, l)
	case "timeout":
		p.settings["timeout "+l.word(1)] = l
	case "reqdeny", "reqideny", "reqtarpit", "reqitarpit", "reqallow", "reqiallow", "reqpass", "reqipass":
		r.h.src.problem(l.at, "`%s` ended with HAProxy 2.1 and is not evaluated", first)
	default:
		p.settings[first] = l
	}
}

// rule splits a line into action, arguments and condition.
func (r *hapReader) rule(p *proxy, set string, l hapLine, from int) {
	words := l.words[min(from, len(l.words)):]
	x := &rule{set: set, line: l}
	for i, w := range words {
		if (w == "if" || w == "unless") && (i > 0 || set == "block") {
			x.cond = r.h.condition(words[i+1:], w == "unless", l.at)
			words = words[:i]
			break
		}
	}
	if len(words) > 0 {
		x.action, x.args = words[0], words[1:]
	}
	if len(p.rules) < maxLines {
		p.rules = append(p.rules, x)
	}
}

// binds reads the addresses of a bind line.
func binds(list string, words []string, at pinpoint.Place) (out []bind) {
	for _, a := range strings.Split(list, ",") {
		b := bind{words: words, at: at, v4: true, v6: slices.Contains(words, "v4v6")}
		for {
			head, rest, ok := strings.Cut(a, "@")
			if !ok {
				break
			}
			a = rest
			switch head {
			case "ipv4", "ipv4p", "tcp4":
				b.v6 = false
			case "ipv6", "tcp6":
				b.v4, b.v6 = slices.Contains(words, "v4v6"), true
			case "unix":
				b.socket = a
			case "quic4", "quic6", "udp4", "udp6":
				b.v4, b.v6 = false, false
			}
		}
		if strings.HasPrefix(a, "/") {
			b.socket = a
		}
		if b.socket != "" {
			out = append(out, b)
			continue
		}
		i := strings.LastIndexByte(a, ':')
		if i < 0 {
			continue
		}
		host, ports := strings.Trim(a[:i], "[]"), a[i+1:]
		low, high, ranged := strings.Cut(ports, "-")
		n, err := strconv.ParseUint(low, 10, 16)
		if err != nil {
			continue
		}
		b.low, b.high = uint16(n), uint16(n)
		if ranged {
			if m, err := strconv.ParseUint(high, 10, 16); err == nil {
				b.high = uint16(m)
			}
		}
		switch {
		case host == "" || host == "*" || host == "0.0.0.0":
		case host == "::":
			b.v4, b.v6 = slices.Contains(words, "v4v6") || !slices.Contains(words, "v6only"), true
		case host == "localhost":
			b.addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		default:
			addr, err := netip.ParseAddr(host)
			if err != nil {
				continue
			}
			b.addr = addr.Unmap()
		}
		out = append(out, b)
	}
	return out
}

// takes says how well a bind line fits an address: 0 is not at all.
func (b bind) takes(a pinpoint.Arrival) int {
	if a.Socket != "" || b.socket != "" {
		if a.Socket != "" && b.socket == a.Socket {
			return 3
		}
		return 0
	}
	if p := a.Local.Port(); p < b.low || p > b.high {
		return 0
	}
	to := a.Local.Addr().Unmap()
	switch {
	case b.addr.IsValid() && b.addr == to:
		return 3
	case b.addr.IsValid():
		return 0
	case to.Is4() && b.v4, to.Is6() && b.v6, !to.IsValid() && (b.v4 || b.v6):
		return 2
	}
	return 0
}

// logOf is the file behind a log line. HAProxy logs to a syslog daemon; Debian's writes to /var/log/haproxy.log.
func logOf(l hapLine) pinpoint.LogFile {
	name := "/var/log/haproxy.log"
	if a := l.word(1); a == "stdout" || a == "stderr" || strings.HasPrefix(a, "fd@") {
		name = "stderr"
	}
	return pinpoint.LogFile{Path: name, Product: "haproxy", Kind: "access", At: l.at}
}

// find is a backend by its name.
func (h *HAProxy) find(name string) *proxy {
	for _, p := range h.proxies {
		if p.name == name && (p.kind == "backend" || p.kind == "listen") {
			return p
		}
	}
	return nil
}
