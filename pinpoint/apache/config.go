package apache

import (
	"errors"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// Problem is something in a configuration that could not be read.
type Problem struct {
	Says string
	At   pinpoint.Place
}

// Config is the configuration of one httpd.
type Config struct {
	File     string
	Problems []Problem
	files    pinpoint.Files
	env      Env
	root     string
	defined  map[string]bool
	vars     map[string]string
	modules  map[string]bool
	listens  []listen
	main     *server
	vhosts   []*server
	user     string
	group    string
}

// listen is one Listen.
type listen struct {
	addr  netip.Addr // invalid: every address
	port  uint16
	https bool
	at    pinpoint.Place
}

// endpoint is an address of a VirtualHost.
type endpoint struct {
	addr netip.Addr
	any  bool
	port uint16 // 0: every port
	name string // a host name that is not resolved here
}

// server is the main server or a virtual host.
type server struct {
	d        *directive // nil for the main server
	points   []endpoint
	name     string
	nameAt   pinpoint.Place
	aliases  []string
	root     string
	rootAt   pinpoint.Place
	set      map[string]*directive // settings of the whole server
	scope    *scope
	dirs     []*section // in the order of merging
	urls     []*section
	proxies  []*section
	aliasing []*directive // Alias, AliasMatch, ScriptAlias, ScriptAliasMatch, in order
	redirect []*directive
	proxy    []*directive // ProxyPass, ProxyPassMatch
	rewrite  *rewriteScope
	maps     map[string]*directive
	members  map[string][]string // balancer → members
	logs     []*directive
	formats  map[string]string
}

// static are modules that are compiled in.
var static = []string{"core.c", "http_core.c", "mod_so.c", "mod_log_config.c", "mod_logio.c", "mod_version.c", "mod_unixd.c", "mod_watchdog.c",
	"core_module", "so_module", "http_module", "log_config_module", "logio_module", "version_module", "unixd_module", "watchdog_module"}

// Load reads a configuration. What cannot be read is told in Problems; only a main file that cannot
// be read is an error.
func Load(files pinpoint.Files, conf string, env Env) (*Config, error) {
	if files == nil || conf == "" {
		return nil, errors.New("reading the configuration of httpd: no file is named")
	}
	if _, err := files.ReadFile(conf); err != nil {
		return nil, errors.New("reading " + conf + ": " + brief(err))
	}
	c := &Config{File: conf, files: files, env: env}
	r := &reader{files: files, env: env, root: env.Root, vars: map[string]string{}, defined: map[string]bool{}, modules: map[string]bool{}, macros: map[string]*macro{}}
	if r.root == "" {
		r.root = path.Dir(conf)
	}
	for _, d := range env.Defines {
		name, value, _ := strings.Cut(d, "=")
		r.defined[name] = true
		if value != "" {
			r.vars[name] = value
		}
	}
	for _, m := range slices.Concat(static, env.Modules) {
		r.modules[m] = true
	}
	ds := r.file(conf, pinpoint.Place{}, 0)
	c.root, c.modules, c.defined, c.vars, c.Problems = r.root, r.modules, r.defined, r.vars, r.problems
	c.build(ds)
	return c, nil
}

func (c *Config) problem(at pinpoint.Place, format string, args ...any) {
	r := reader{problems: c.Problems}
	r.problem(at, format, args...)
	c.Problems = r.problems
}

// has says that a module is loaded, by its identifier without _module.
func (c *Config) has(module string) bool { return c.modules[module+"_module"] }

// path is a name of the configuration as an absolute one.
func (c *Config) path(name string) string {
	if name == "" || path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(c.root, name)
}

func (c *Config) build(ds []*directive) {
	var vhosts []*directive
	var main []*directive
	for _, d := range ds {
		switch d.name {
		case "virtualhost":
			vhosts = append(vhosts, d)
		case "listen":
			c.listen(d)
		case "user":
			c.user = d.arg(0)
		case "group":
			c.group = d.arg(0)
		default:
			main = append(main, d)
		}
	}
	c.main = c.server(nil, main, nil)
	base := *c.main
	for _, d := range vhosts {
		c.vhosts = append(c.vhosts, c.server(d, d.inside, &base))
	}
	c.main.sort()
	for _, v := range c.vhosts {
		v.sort()
	}
}

func (c *Config) listen(d *directive) {
	l := listen{at: d.at, https: strings.EqualFold(d.arg(1), "https")}
	a := d.arg(0)
	if i := strings.LastIndexByte(a, ':'); i >= 0 && !strings.HasSuffix(a, "]") {
		if a[:i] != "*" {
			addr, err := netip.ParseAddr(strings.Trim(a[:i], "[]"))
			if err != nil {
				c.problem(d.at, "Listen %s is not understood", cut(a, 60))
				return
			}
			l.addr = addr
		}
		a = a[i+1:]
	}
	p, err := strconv.ParseUint(a, 10, 16)
	if err != nil {
		c.problem(d.at, "Listen %s is not understood", cut(d.arg(0), 60))
		return
	}
	l.port = uint16(p)
	l.https = l.https || d.arg(1) == "" && p == 443
	c.listens = append(c.listens, l)
}

// server builds the main server (base nil) or a virtual host on it.
func (c *Config) server(d *directive, ds []*directive, base *server) *server {
	s := &server{d: d, set: map[string]*directive{}, maps: map[string]*directive{}, members: map[string][]string{}, formats: map[string]string{}}
	w := where{c: c}
	var plain []*directive
	own := &rewriteScope{}
	var conds []*condition
	var logs []*directive
	for _, x := range ds {
		switch x.name {
		case "directory", "directorymatch":
			s.dirs = append(s.dirs, w.container(x, "directory"))
		case "location", "locationmatch":
			s.urls = append(s.urls, w.container(x, "location"))
		case "proxy", "proxymatch":
			s.proxies = append(s.proxies, w.container(x, "proxy"))
			for _, m := range x.inside {
				if m.name == "balancermember" {
					s.members[x.arg(0)] = append(s.members[x.arg(0)], m.arg(0))
				}
			}
		case "servername":
			s.name, s.nameAt = x.arg(0), x.at
		case "serveralias":
			s.aliases = append(s.aliases, x.args...)
		case "documentroot":
			s.root, s.rootAt = c.path(x.arg(0)), x.at
		case "alias", "aliasmatch", "scriptalias", "scriptaliasmatch":
			s.aliasing = append(s.aliasing, x)
		case "redirect", "redirectmatch", "redirecttemp", "redirectpermanent":
			s.redirect = append(s.redirect, x)
		case "proxypass", "proxypassmatch":
			s.proxy = append(s.proxy, x)
		case "balancermember":
			s.members[x.arg(0)] = append(s.members[x.arg(0)], x.arg(1))
		case "rewriteengine", "rewriterule", "rewritecond", "rewriteoptions", "rewritebase":
			conds = own.add(x, conds, c)
		case "rewritemap":
			s.maps[x.arg(0)] = x
		case "customlog", "errorlog", "transferlog", "secauditlog", "secauditlog2", "globallog":
			logs = append(logs, x)
		case "logformat":
			name := x.arg(1)
			if name == "" {
				name = "-"
			}
			s.formats[name] = x.arg(0)
		case "proxypreservehost", "proxyrequests", "allowencodedslashes", "limitrequestfields", "limitrequestfieldsize", "limitrequestline", "traceenable", "sslengine", "sslverifyclient",
			"sslstrictsnivhostcheck", "remoteipheader", "remoteipproxyprotocol", "loglevel", "httpprotocoloptions", "accessfilename", "usecanonicalname", "mergeslashes", "strict", "proxyaddheaders", "sslcacertificatefile", "sslcertificatefile", "userdir", "virtualdocumentroot", "luahookaccesschecker":
			s.set[x.name] = x
			if x.name == "sslverifyclient" {
				plain = append(plain, x)
			}
		case "remoteipinternalproxy", "remoteiptrustedproxy", "remoteipinternalproxylist", "remoteiptrustedproxylist":
			s.logs = append(s.logs, x)
		default:
			plain = append(plain, x)
		}
	}
	trusted := s.logs
	s.logs = logs
	s.set["remoteip"] = &directive{inside: trusted}
	own.dir = ""
	s.scope, _ = w.build(plain)
	if d != nil {
		for _, a := range d.args {
			s.points = append(s.points, parseEndpoint(a))
		}
	}
	s.rewrite = own
	if base == nil {
		root := &scope{opts: optFollow | optUnset, override: override{}}
		s.scope = root.merge(s.scope)
		if s.root == "" {
			s.root = path.Join(c.root, "htdocs")
		}
		return s
	}
	for k, v := range base.set {
		if s.set[k] == nil || k == "remoteip" && len(s.set[k].inside) == 0 {
			s.set[k] = v
		}
	}
	for k, v := range base.maps {
		if s.maps[k] == nil && own.inherits() {
			s.maps[k] = v
		}
	}
	for k, v := range base.members {
		s.members[k] = slices.Concat(s.members[k], v)
	}
	for k, v := range base.formats {
		if _, ok := s.formats[k]; !ok {
			s.formats[k] = v
		}
	}
	s.scope = base.scope.merge(s.scope)
	s.dirs = slices.Concat(base.dirs, s.dirs)
	s.urls = slices.Concat(base.urls, s.urls)
	s.proxies = slices.Concat(base.proxies, s.proxies)
	s.aliasing = slices.Concat(s.aliasing, base.aliasing)
	s.redirect = slices.Concat(s.redirect, base.redirect)
	s.proxy = slices.Concat(s.proxy, base.proxy)
	s.rewrite = base.rewrite.mergeServer(own)
	if s.root == "" {
		s.root, s.rootAt = base.root, base.rootAt
	}
	if s.name == "" {
		s.name = base.name
	}
	if !slices.ContainsFunc(s.logs, func(d *directive) bool { return d.name == "errorlog" }) {
		for _, l := range base.logs {
			if l.name == "errorlog" {
				s.logs = append(s.logs, l)
			}
		}
	}
	if !slices.ContainsFunc(s.logs, func(d *directive) bool { return d.name == "customlog" || d.name == "transferlog" }) {
		for _, l := range base.logs {
			if l.name == "customlog" || l.name == "transferlog" {
				s.logs = append(s.logs, l)
			}
		}
	}
	for _, l := range base.logs {
		if strings.HasPrefix(l.name, "secaudit") {
			s.logs = append(s.logs, l)
		}
	}
	return s
}

// sort puts <Directory> sections in their order: fewer components first, expressions
// last, and those too by the number of their slashes.
func (s *server) sort() {
	slices.SortStableFunc(s.dirs, func(a, b *section) int {
		ra, rb := a.regex != nil || a.nothing, b.regex != nil || b.nothing
		switch {
		case ra && !rb:
			return 1
		case rb && !ra:
			return -1
		}
		return a.names - b.names
	})
}

func parseEndpoint(s string) endpoint {
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host, port = s[:i], s[i+1:]
	}
	var e endpoint
	if port != "" && port != "*" {
		p, _ := strconv.ParseUint(port, 10, 16)
		e.port = uint16(p)
	}
	if host == "*" || host == "_default_" {
		e.any = true
		return e
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if err != nil {
		e.name = host
		return e
	}
	e.addr = a
	return e
}

// title is how a server is called in sentences.
func (s *server) title() string {
	if s.d == nil {
		return "the main server"
	}
	if s.name != "" {
		return "the virtual host " + s.name + " (" + strings.Join(s.d.args, " ") + ")"
	}
	return "the virtual host " + strings.Join(s.d.args, " ")
}

// hostOf is a Host field without its port, in lower case.
func hostOf(h string) string {
	if i := strings.LastIndexByte(h, ':'); i >= 0 && !strings.HasSuffix(h, "]") {
		h = h[:i]
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(h, "[]"), "."))
}

// vhost chooses as httpd does: by address and port first (an exact address before *), then by name;
// the first of those with that address answers for all other names.
func (c *Config) vhost(local netip.AddrPort, host string) (chosen, first *server, why string) {
	var exact, wild []*server
	addr := local.Addr().Unmap()
	for _, v := range c.vhosts {
		for _, p := range v.points {
			if p.port != 0 && p.port != local.Port() {
				continue
			}
			if p.any {
				wild = append(wild, v)
				break
			} else if p.addr.IsValid() && p.addr.Unmap() == addr {
				exact = append(exact, v)
				break
			}
		}
	}
	set := exact
	if len(set) == 0 {
		set = wild
	}
	if len(set) == 0 {
		return c.main, c.main, "no VirtualHost holds the address " + local.String() + ", so the main server answers"
	}
	host = hostOf(host)
	for _, v := range set {
		name := v.name
		if i := strings.Index(name, "://"); i >= 0 {
			name = name[i+3:]
		}
		if host != "" && hostOf(name) == host {
			return v, set[0], "ServerName " + name + " is the host that was asked for"
		}
		for _, a := range v.aliases {
			if wildcard(strings.ToLower(a), host) && host != "" {
				return v, set[0], "ServerAlias " + cut(a, 80) + " matches the host that was asked for"
			}
		}
	}
	return set[0], set[0], "no ServerName or ServerAlias is " + cut(host, 100) + ", so the first VirtualHost of this address answers"
}

// wildcard is a match of * and ? against anything.
func wildcard(pattern, s string) bool {
	if len(pattern) > 4096 || len(s) > maxSubject {
		return false
	}
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// Roots are the directories that the servers publish, for a look at them from outside.
func (c *Config) Roots() (roots []string) {
	for _, s := range append([]*server{c.main}, c.vhosts...) {
		if !slices.Contains(roots, s.root) {
			roots = append(roots, s.root)
		}
	}
	return roots
}
