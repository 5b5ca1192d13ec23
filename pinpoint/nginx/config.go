// Package nginx reads the configuration of an nginx and decides, as nginx would, what becomes of one
// request: which server and which location take it, what refuses it there, which line says so.
//
// Load reads the files to a tree of directives with their lines. Decide walks the phases of a request
// over it (https://nginx.org/en/docs/dev/development_guide.html#http_phases): server rewrite, search of
// the location, rewrite, access, try_files, content, and the error pages behind each refusal. What
// cannot be evaluated here (Lua, Perl, unknown variables) becomes a step of the trail and lowers the
// weight of what is concluded behind it; nothing is run and nothing is guessed.
package nginx

import (
	"errors"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// Build is what was compiled into an nginx: `nginx -V` tells it.
type Build struct {
	Prefix, Conf        string
	ErrorLog, AccessLog string
	User                string
}

// Debian is the build of Debian's and Ubuntu's packages.
var Debian = Build{Prefix: "/usr/share/nginx", Conf: "/etc/nginx/nginx.conf", ErrorLog: "/var/log/nginx/error.log", AccessLog: "/var/log/nginx/access.log", User: "nobody"}

// ReadBuild reads the output of `nginx -V`. What it lacks has nginx's own defaults.
func ReadBuild(text string) Build {
	if len(text) > 64<<10 {
		text = text[:64<<10]
	}
	given := map[string]string{}
	for _, f := range strings.Fields(text) {
		if name, value, ok := strings.Cut(f, "="); ok && strings.HasPrefix(name, "--") {
			given[name] = strings.Trim(value, `'"`)
		}
	}
	pick := func(name, otherwise string) string {
		if v := given[name]; v != "" {
			return v
		}
		return otherwise
	}
	b := Build{Prefix: pick("--prefix", "/usr/local/nginx"), User: pick("--user", "nobody")}
	b.Conf = absolute(pick("--conf-path", "conf/nginx.conf"), b.Prefix)
	b.ErrorLog, b.AccessLog = pick("--error-log-path", "logs/error.log"), absolute(pick("--http-log-path", "logs/access.log"), b.Prefix)
	if b.ErrorLog != "stderr" {
		b.ErrorLog = absolute(b.ErrorLog, b.Prefix)
	}
	return b
}

func absolute(name, base string) string {
	if path.IsAbs(name) {
		return name
	}
	return path.Join(base, name)
}

// Discover finds the configuration of a running nginx by its command line, with Debian's defaults.
// The title of a master process ("nginx: master process /usr/sbin/nginx -c …") is understood too.
func Discover(args []string) (conf, prefix string) {
	conf, prefix = Debian.Conf, Debian.Prefix
	given := false
	words := strings.Fields(strings.Join(args, " "))
	for i := 0; i < len(words) && i < maxArgs; i++ {
		w := words[i]
		if len(w) < 2 || w[0] != '-' {
			continue
		}
		// Flags without a value may stand before one that has: -qc file.
		at := strings.IndexAny(w[1:], "cpgse")
		if at < 0 {
			continue
		}
		flag, value := w[1+at], w[2+at:]
		if value == "" && i+1 < len(words) {
			i++
			value = words[i]
		}
		if value == "" {
			break
		}
		switch flag {
		case 'c':
			conf, given = value, true
		case 'p':
			prefix = value
		case 'g': // its directives may hold blanks
			for i+1 < len(words) && !strings.HasPrefix(words[i+1], "-") {
				i++
			}
		}
	}
	if given {
		conf = absolute(conf, prefix)
	}
	return conf, path.Clean(prefix)
}

// Config is a configuration that was read.
type Config struct {
	Conf, Prefix string
	// Problems are mistakes and gaps: files that could not be read, directives that nginx would reject.
	Problems []pinpoint.Step
	// Read are the files that were read, in order.
	Read []string
	// Build holds the defaults that were compiled in; Load sets Debian's.
	Build Build

	files     pinpoint.Files
	main      *scope
	http      *scope
	servers   []*scope
	upstreams map[string]*directive
	formats   map[string]*directive
	computed  map[string]*directive // map, geo, split_clients and their like, by the name of their variable
	sets      map[string]bool       // variables that set and named groups make
	maps      map[*directive]*table
	patterns  map[patternKey]*pattern
}

type patternKey struct {
	source string
	fold   bool
}

// scope is one level of the configuration: http, server, location, and the levels without a name that
// `if` and limit_except make.
type scope struct {
	kind   string // "main", "http", "server", "location", "if", "limit_except"
	parent *scope
	d      *directive
	body   []*directive
	server *scope

	// Of locations:
	mod  string // "", "=", "^~", "~", "~*", "@"
	name string
	re   *pattern

	plain   []*scope // exact ones and prefixes, in order
	regexes []*scope
	named   map[string]*scope // of a server
	limit   *scope            // of limit_except
	methods []string          // that limit_except lets be
	ifs     map[*directive]*scope

	names   []serverName // of a server
	listens []listen
}

type serverName struct {
	text string
	re   *pattern
	at   pinpoint.Place
}

type listen struct {
	d           *directive
	addr        netip.Addr // zero: any address
	family      int        // 4, 6; 0 for a path
	port        int
	unix        string
	fallback    bool // default_server
	ssl, both   bool // both: [::] takes IPv4 as well
	proxy, http bool
}

// Load reads a configuration. Mistakes are collected in Problems; an error says that there is nothing
// to decide with.
func Load(files pinpoint.Files, conf, prefix string) (*Config, error) {
	if prefix == "" {
		prefix = Debian.Prefix
	}
	if conf == "" {
		conf = Debian.Conf
	}
	conf = absolute(conf, prefix)
	c := &Config{
		Conf: conf, Prefix: prefix, Build: Debian, files: files,
		upstreams: map[string]*directive{}, formats: map[string]*directive{}, computed: map[string]*directive{},
		sets: map[string]bool{}, maps: map[*directive]*table{}, patterns: map[patternKey]*pattern{},
	}
	r := &reader{files: files, base: path.Dir(conf)}
	body := r.file(conf, 0)
	c.main = &scope{kind: "main", body: body}
	for _, d := range body {
		if d.name == "http" && d.open {
			c.http = &scope{kind: "http", parent: c.main, d: d, body: d.block}
			break
		}
	}
	if c.http != nil {
		c.compile(r)
	}
	c.Problems, c.Read = r.problems, r.named
	if c.http == nil {
		if len(c.Problems) > 0 {
			return c, errors.New("reading the configuration of nginx: " + c.Problems[0].Says)
		}
		return c, errors.New("reading the configuration of nginx: there is no http block")
	}
	return c, nil
}

func (c *Config) compile(r *reader) {
	for _, d := range c.http.body {
		switch d.name {
		case "upstream":
			c.upstreams[d.arg(0)] = d
		case "log_format":
			c.formats[d.arg(0)] = d
		case "map", "split_clients":
			c.computed[strings.TrimPrefix(d.arg(1), "$")] = d
		case "geo":
			if len(d.args) > 0 {
				c.computed[strings.TrimPrefix(d.args[len(d.args)-1], "$")] = d
			}
		case "server":
			if d.open {
				s := &scope{kind: "server", parent: c.http, d: d, body: d.block, named: map[string]*scope{}}
				s.server = s
				c.server(r, s)
				c.servers = append(c.servers, s)
			}
		}
	}
	for _, d := range c.computed {
		c.table(r, d)
	}
}

func (c *Config) server(r *reader, s *scope) {
	for _, d := range s.body {
		switch d.name {
		case "listen":
			if l, ok := readListen(d); ok {
				s.listens = append(s.listens, l...)
			} else {
				r.problem(d.at, "the address of listen cannot be read")
			}
		case "server_name":
			for _, n := range d.args {
				name := serverName{text: strings.ToLower(n), at: d.at}
				if strings.HasPrefix(n, "~") {
					name.text = n
					if name.re = c.pattern(n[1:], true); name.re == nil {
						r.problem(d.at, "the regular expression of server_name cannot be read")
						continue
					}
				} else if n == "$hostname" {
					r.problem(d.at, "server_name $hostname depends on the name of the machine, which is not known here")
				}
				s.names = append(s.names, name)
			}
		}
	}
	if len(s.listens) == 0 {
		s.listens = []listen{{family: 4, port: 80, http: true}}
	}
	if len(s.names) == 0 {
		s.names = []serverName{{at: s.d.at}}
	}
	c.level(r, s, 0)
}

// level builds the locations and the levels without a name below a server or a location.
func (c *Config) level(r *reader, s *scope, depth int) {
	s.ifs = map[*directive]*scope{}
	for _, d := range s.body {
		if !d.open {
			for _, a := range d.args {
				if d.name == "rewrite" || d.name == "set" {
					c.declare(d, a)
				}
			}
			if d.name == "rewrite" && c.pattern(d.arg(0), false) == nil {
				r.problem(d.at, "the regular expression of rewrite cannot be read")
			}
			continue
		}
		switch d.name {
		case "location":
			l := &scope{kind: "location", parent: s, d: d, body: d.block, server: s.server}
			switch {
			case len(d.args) == 2:
				l.mod, l.name = d.args[0], d.args[1]
			case len(d.args) == 1:
				l.name = d.args[0]
				// The modifier may stand without a blank before the name.
				for _, mod := range []string{"^~", "~*", "~", "=", "@"} {
					if strings.HasPrefix(l.name, mod) {
						l.mod = mod
						if mod != "@" {
							l.name = l.name[len(mod):]
						}
						break
					}
				}
			default:
				r.problem(d.at, "a location wants a name")
				continue
			}
			switch l.mod {
			case "~", "~*":
				if l.re = c.pattern(l.name, l.mod == "~*"); l.re == nil {
					r.problem(d.at, "the regular expression of this location cannot be read; the location is left out")
					continue
				}
				s.regexes = append(s.regexes, l)
			case "@":
				s.server.named[l.name] = l
			case "", "=", "^~":
				s.plain = append(s.plain, l)
			default:
				r.problem(d.at, "the modifier of this location is not known")
				continue
			}
			c.level(r, l, depth+1)
		case "if":
			for i, a := range d.args {
				if op := strings.TrimPrefix(a, "!"); (op == "~" || op == "~*") && i+1 < len(d.args) {
					if c.pattern(operand(d.args[i+1:]), op == "~*") == nil {
						r.problem(d.at, "the regular expression of this condition cannot be read")
					}
				}
			}
			i := &scope{kind: "if", parent: s, d: d, body: d.block, server: s.server, name: s.name, mod: s.mod}
			s.ifs[d] = i
			c.level(r, i, depth+1)
		case "limit_except":
			l := &scope{kind: "limit_except", parent: s, d: d, body: d.block, server: s.server, name: s.name, mod: s.mod}
			s.limit = l
			s.methods = nil
			for _, m := range d.args {
				s.methods = append(s.methods, strings.ToUpper(m))
			}
			if slices.Contains(s.methods, "GET") {
				s.methods = append(s.methods, "HEAD")
			}
			c.level(r, l, depth+1)
		}
	}
}

// declare notes what variables a directive makes, so that they are empty where it did not run.
func (c *Config) declare(d *directive, a string) {
	if d.name == "set" && a == d.arg(0) {
		c.sets[strings.TrimPrefix(a, "$")] = true
	}
}

// pattern compiles an expression once.
func (c *Config) pattern(source string, fold bool) *pattern {
	k := patternKey{source, fold}
	p, ok := c.patterns[k]
	if !ok {
		p = compile(source, fold)
		c.patterns[k] = p
		if p != nil {
			var names []string
			names = append(names, p.names...)
			for _, n := range names {
				if n != "" {
					c.sets[n] = true
				}
			}
		}
	}
	return p
}

// readListen reads one listen directive. localhost means both loopback addresses.
func readListen(d *directive) ([]listen, bool) {
	if len(d.args) == 0 {
		return nil, false
	}
	l := listen{d: d, family: 4, port: 80, http: true}
	for _, a := range d.args[1:] {
		switch a {
		case "default_server", "default":
			l.fallback = true
		case "ssl":
			l.ssl = true
		case "proxy_protocol":
			l.proxy = true
		case "ipv6only=off":
			l.both = true
		}
	}
	text := d.args[0]
	if rest, ok := strings.CutPrefix(text, "unix:"); ok {
		l.family, l.unix, l.port = 0, rest, 0
		return []listen{l}, true
	}
	number := func(s string) bool {
		n, err := strconv.Atoi(s)
		l.port = n
		return err == nil && n > 0 && n < 65536
	}
	if number(text) {
		return []listen{l}, true
	}
	l.port = 80
	host := text
	if strings.HasPrefix(text, "[") {
		i := strings.IndexByte(text, ']')
		if i < 0 || i+1 < len(text) && (text[i+1] != ':' || !number(text[i+2:])) {
			return nil, false
		}
		addr, err := netip.ParseAddr(text[1:i])
		if err != nil {
			return nil, false
		}
		l.family = 6
		if !addr.IsUnspecified() {
			l.addr = addr.Unmap()
		}
		return []listen{l}, true
	}
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		host = text[:i]
		if !number(text[i+1:]) {
			return nil, false
		}
	}
	switch host {
	case "*", "0.0.0.0":
		return []listen{l}, true
	case "localhost":
		six := l
		l.addr, six.addr, six.family = netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback(), 6
		return []listen{l, six}, true
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return nil, false
	}
	l.addr = addr
	return []listen{l}, true
}

// find returns the directives of a name at the nearest level that has one; they are inherited only
// when the level has none of its own.
func (s *scope) find(names ...string) []*directive {
	for ; s != nil; s = s.parent {
		var found []*directive
		for _, d := range s.body {
			if slices.Contains(names, d.name) {
				found = append(found, d)
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

// last is the directive of a name that counts, nil if there is none.
func (s *scope) last(names ...string) *directive {
	if found := s.find(names...); len(found) > 0 {
		return found[len(found)-1]
	}
	return nil
}

// own is like last, for directives that are not inherited.
func (s *scope) own(names ...string) (d *directive) {
	for _, e := range s.body {
		if slices.Contains(names, e.name) {
			d = e
		}
	}
	return d
}

// setting is the first argument of a directive, or what holds without one.
func (s *scope) setting(name, otherwise string) string {
	if d := s.last(name); d != nil && len(d.args) > 0 {
		return d.args[0]
	}
	return otherwise
}

// title is how a level is written in the file.
func (s *scope) title() string {
	switch s.kind {
	case "location":
		if s.mod == "" || s.mod == "@" {
			return "location " + s.name
		}
		return "location " + s.mod + " " + s.name
	case "server":
		return "the server level"
	}
	return s.d.text()
}

// location is the nearest level that has a name.
func (s *scope) location() *scope {
	for s.kind == "if" || s.kind == "limit_except" {
		s = s.parent
	}
	return s
}

// size reads 8k, 1m, 1g. The error value is -1.
func size(text string) int64 {
	unit := int64(1)
	if text != "" {
		switch text[len(text)-1] {
		case 'k', 'K':
			unit = 1 << 10
		case 'm', 'M':
			unit = 1 << 20
		case 'g', 'G':
			unit = 1 << 30
		}
		if unit > 1 {
			text = text[:len(text)-1]
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > 1<<50 {
		return -1
	}
	return n * unit
}

// choose finds the server block for an arrival as ngx_http_find_virtual_server does: first by the
// address, then an exact name, the longest name with a leading and with a trailing wildcard, the first
// regular expression, and else the default server of the address.
// https://nginx.org/en/docs/http/request_processing.html
type chosen struct {
	server   *scope
	fallback *scope // default server of the address
	listen   listen
	by       string // "exact", "wildcard", "regex", "default"
	name     serverName
	groups   []string
	others   int // servers of the address
	sure     bool
}

// candidates are the listens that take a connection to an address, with their servers.
func (c *Config) candidates(local netip.AddrPort, sure *bool) (pairs []struct {
	s *scope
	l listen
}) {
	addr := local.Addr().Unmap()
	best := -1
	for _, s := range c.servers {
		for _, l := range s.listens {
			score := -1
			switch {
			case l.unix != "":
			case local.Port() != 0 && l.port != int(local.Port()):
			case !addr.IsValid() || addr.IsUnspecified():
				score = 0
				if len(pairs) > 0 && pairs[0].l.addr != l.addr {
					*sure = false // which of the addresses is not known
				}
			case l.addr.IsValid():
				if l.addr == addr {
					score = 2
				}
			case (l.family == 6) == addr.Is6():
				score = 1
			case l.both:
				score = 0
			}
			if score < 0 || score < best {
				continue
			}
			if score > best {
				best, pairs = score, nil
			}
			pairs = append(pairs, struct {
				s *scope
				l listen
			}{s, l})
		}
	}
	return pairs
}

func (c *Config) choose(local netip.AddrPort, host string) chosen {
	r := chosen{sure: true, by: "default"}
	pairs := c.candidates(local, &r.sure)
	if len(pairs) == 0 {
		return r
	}
	r.fallback, r.listen = pairs[0].s, pairs[0].l
	for _, p := range pairs {
		if p.l.fallback {
			r.fallback, r.listen = p.s, p.l
			break
		}
	}
	for _, p := range pairs { // ssl of one listen holds for the address
		r.listen.ssl = r.listen.ssl || p.l.ssl
	}
	r.server, r.others = r.fallback, len(pairs)
	score, length := 0, 0
	for _, p := range pairs {
		for _, n := range p.s.names {
			got, wild := 0, 0
			switch {
			case n.re != nil:
				if score == 0 && host != "" {
					if groups, ok := n.re.match(host); groups != nil {
						r.server, r.by, r.name, r.groups, score = p.s, "regex", n, groups, 1
					} else if !ok {
						r.sure = false
					}
				}
				continue
			case n.text == host, strings.HasPrefix(n.text, ".") && n.text[1:] == host && host != "":
				got = 4
			case host == "" || n.text == "":
			case strings.HasPrefix(n.text, "*.") && strings.HasSuffix(host, n.text[1:]) && len(host) >= len(n.text):
				got, wild = 3, len(n.text)
			case strings.HasPrefix(n.text, ".") && strings.HasSuffix(host, n.text) && len(host) > len(n.text):
				got, wild = 3, len(n.text)+1
			case strings.HasSuffix(n.text, ".*") && strings.HasPrefix(host, n.text[:len(n.text)-1]) && len(host) >= len(n.text):
				got, wild = 2, len(n.text)
			}
			if got > score || got == score && got > 0 && got < 4 && wild > length {
				r.server, r.name, score, length, r.groups = p.s, n, got, wild, nil
				r.by = map[int]string{2: "wildcard", 3: "wildcard", 4: "exact"}[got]
			}
		}
	}
	return r
}

// operand is the right side of a condition, without the bracket that ends it.
func operand(rest []string) string {
	switch {
	case len(rest) == 0:
		return ""
	case len(rest) == 1:
		return strings.TrimSuffix(rest[0], ")")
	}
	return rest[0] // quoted: the bracket is a word of its own
}
