package apache

import (
	"io/fs"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// Product is how clues name httpd.
const Product = "apache-httpd"

const (
	symlink      = fs.ModeSymlink
	maxTrail     = 200
	maxRedirects = 10 // LimitInternalRecursion
	maxWalks     = 60 // requests and sub-requests of one walk
)

// refusal is the end of a request: its status and why.
type refusal struct {
	status int
	clues  []pinpoint.Clue
	scope  *scope
}

// request is one request, or sub-request, on its way.
type request struct {
	c          *Config
	in         pinpoint.Arrival
	srv        *server
	method     string
	uri        string // decoded
	query      string
	header     pinpoint.Header
	host       string
	client     netip.Addr
	remoteUsed bool
	env        map[string]string
	envFrom    map[string]*directive
	scope      *scope
	pre        *scope
	filename   string
	pathInfo   string
	kind       string // "", "file", "dir", "none"
	current    string // %{REQUEST_FILENAME} while rules run
	user       string
	handler    string
	forced     string // handler of a rule
	script     bool   // by ScriptAlias
	proxied    string // target
	proxyFrom  *directive
	rewritten  *rule
	ended      bool // [END]
	prefix     string
	prefixRoot string
	merged     []*section
	ignored    []ignored
	leaves     []verdictOf
	groups     []string
	doubts     *doubts
	out        *pinpoint.Decision
	sub        bool
	quiet      bool
	depth      int
	walks      *int
	pending    *rewritten // an internal redirect that the handler makes
	walked     walked
	passed     *walked // the configuration that access was granted for
	seen       func(*request)
}

// walked is the result of a directory walk. httpd keeps it for sub-requests and internal redirects
// to the same directory.
type walked struct {
	dir    string
	scope  *scope
	merged []*section
}

// ignored is a .htaccess that AllowOverride keeps from being read.
type ignored struct {
	file, dir string
	over      override
	before    *scope
	scope     *scope
}

func (r *request) step(at pinpoint.Place, says string) {
	if r.quiet || len(r.out.Trail) >= maxTrail {
		return
	}
	s := pinpoint.Step{Says: says, At: at}
	if n := len(r.out.Trail); n > 0 && r.out.Trail[n-1] == s {
		return
	}
	r.out.Trail = append(r.out.Trail, s)
}

func (r *request) open(a pinpoint.Access) {
	if !slices.Contains(r.out.Files, a) && len(r.out.Files) < 1000 {
		r.out.Files = append(r.out.Files, a)
	}
}

func (r *request) clue(cause string, weight float64, at pinpoint.Place) pinpoint.Clue {
	return pinpoint.Clue{Source: pinpoint.FromConfig, ID: "apache-config", Cause: cause, Refuser: Product, Weight: weight, At: at,
		Names: map[string]string{"client": r.client.String(), "method": r.methodName()}}
}

// derived is a clue for another cause with the same place.
func (r *request) derived(from pinpoint.Clue, cause string, weight float64) pinpoint.Clue {
	c := from
	c.Cause, c.Weight = cause, weight
	c.Names = maps.Clone(from.Names)
	c.Fix = slices.Clone(from.Fix)
	return c
}

func (r *request) refuse(status int, clues ...pinpoint.Clue) *refusal {
	for i := range clues {
		clues[i].Names = maps.Clone(clues[i].Names)
	}
	return &refusal{status: status, clues: clues, scope: r.scope}
}

func (r *request) who() string { return "this request from " + r.client.String() }

func (r *request) methodName() string { return cut(r.in.Request.Method, 40) }

// getMethod is the method as mod_authz_core and mod_allowmethods compare it: HEAD goes as GET.
func (r *request) getMethod() string {
	if r.method == "HEAD" {
		return "GET"
	}
	return r.method
}

// objectName is what a refusal is about: the file, or the URL where there is none.
func (r *request) objectName() string {
	if r.proxied != "" {
		return r.uri
	}
	if r.filename != "" {
		return r.filename
	}
	return r.uri
}

func placeText(p pinpoint.Place) string {
	if p.File == "" {
		return "an unknown place"
	}
	return p.File + ":" + strconv.Itoa(p.Line)
}

// origin says which section or .htaccess holds a place.
func (r *request) origin(at pinpoint.Place) (text, section string) {
	for i := len(r.merged) - 1; i >= 0; i-- {
		if m := r.merged[i]; m.d != nil && contains(m.d, at, 0) {
			return ", in " + m.d.String(), m.d.String()
		}
	}
	if strings.HasPrefix(path.Base(at.File), ".ht") {
		return ", for the directory " + path.Dir(at.File), at.File
	}
	return "", r.srv.title()
}

func contains(d *directive, at pinpoint.Place, depth int) bool {
	if depth > maxNested {
		return false
	}
	for _, x := range d.inside {
		if x.at == at || contains(x, at, depth+1) {
			return true
		}
	}
	return false
}

// filesSection is the Files section that holds a place.
func (r *request) filesSection(at pinpoint.Place) *section {
	for i := len(r.merged) - 1; i >= 0; i-- {
		if m := r.merged[i]; m.kind == "files" && contains(m.d, at, 0) {
			return m
		}
	}
	return nil
}

// splitURL takes scheme and host off a URL and leaves the escapes as they are.
func splitURL(u string) (host, p, query string) {
	if i := strings.Index(u, "://"); i >= 0 {
		u = u[i+3:]
		n := strings.IndexAny(u, "/?#")
		if n < 0 {
			n = len(u)
		}
		host, u = u[:n], u[n:]
		if i := strings.LastIndexByte(host, '@'); i >= 0 {
			host = host[i+1:]
		}
	}
	u, _, _ = strings.Cut(u, "#")
	p, query, _ = strings.Cut(u, "?")
	if p == "" {
		p = "/"
	}
	return host, p, query
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

func decode(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) && unhex(s[i+1]) >= 0 && unhex(s[i+2]) >= 0 {
			b = append(b, byte(unhex(s[i+1])<<4|unhex(s[i+2])))
			i += 2
		} else {
			b = append(b, s[i])
		}
	}
	return string(b)
}

// walk decides with the doubts answered as they are.
func (c *Config) walk(a pinpoint.Arrival, ds *doubts) pinpoint.Decision {
	return c.walkWith(a, ds, nil)
}

func (c *Config) walkWith(a pinpoint.Arrival, ds *doubts, seen func(*request)) pinpoint.Decision {
	d := pinpoint.Decision{Product: Product, User: c.user}
	if a.Request == nil {
		d.Trail = append(d.Trail, pinpoint.Step{Says: "There is no request to decide."})
		return d
	}
	reveal := func(s string) string { return c.env.Vault.Reveal(s) }
	walks := 0
	r := &request{c: c, in: a, method: a.Request.Method, client: a.Client.Unmap().WithZone(""), env: map[string]string{}, envFrom: map[string]*directive{}, doubts: ds, out: &d, walks: &walks, seen: seen}
	if r.method == "" {
		r.method = "GET"
	}
	if !r.client.IsValid() {
		r.client = netip.IPv4Unspecified()
		if ds.ask("client", "which address the client has", pinpoint.Place{}) {
			r.client = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
	}
	for _, f := range a.Request.Header {
		r.header = append(r.header, pinpoint.Field{Name: f.Name, Value: reveal(f.Value)})
	}
	host, raw, query := splitURL(reveal(a.Request.URL))
	r.host, r.query = host, query
	if h := r.header.Value("Host"); h != "" {
		r.host = h
	}
	if !a.Local.IsValid() {
		port := uint16(80)
		if a.TLS {
			port = 443
		}
		if i := strings.LastIndexByte(r.host, ':'); i >= 0 {
			if n, err := strconv.ParseUint(r.host[i+1:], 10, 16); err == nil {
				port = uint16(n)
			}
		}
		a.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
		r.in.Local = a.Local
	}
	srv, first, why := c.vhost(a.Local, r.host)
	r.srv, r.scope, r.pre = srv, srv.scope, srv.scope
	at := srv.nameAt
	if srv.d != nil {
		at = srv.d.at
	}
	r.step(at, srv.title()+" answers: "+why+".")
	r.logs()
	ref := r.protocol(first, raw)
	if ref == nil {
		r.remoteIP()
		r.environment(srv.scope)
		ref = r.handle()
	}
	r.finish(ref)
	if ref != nil && srv == first && srv.d != nil && !strings.Contains(why, "is the host") && !strings.Contains(why, "matches the host") && strings.Contains(why, "first VirtualHost") && ref.status >= 400 {
		x := r.clue("web-server-default-vhost", pinpoint.Fair, at)
		x.Says = "The host " + cut(hostOf(r.host), 100) + " is no ServerName or ServerAlias of this address, so the first VirtualHost, " + srv.title() + " at " + placeText(at) + ", answered."
		x.Names["host"] = cut(hostOf(r.host), 100)
		x.Fix = []string{"Add “ServerAlias " + cut(hostOf(r.host), 100) + "” to the VirtualHost that is meant to answer."}
		d.Clues = append(d.Clues, x)
	}
	d.Silent = append(d.Silent, "apache-rewrite-forbidden", "auth-missing", "user-agent-blocked", "hotlink-referer", "body-too-large", "header-too-large", "uri-too-long")
	return d
}

// dropping are statuses after which httpd closes the connection, so that it need not read the body away
// (ap_status_drops_connection).
var dropping = []int{400, 408, 411, 413, 414, 500, 501, 503}

// finish writes a refusal to the decision, after ErrorDocument.
func (r *request) finish(ref *refusal) {
	d := r.out
	if ref == nil {
		return
	}
	if ref.status >= 300 && !slices.Contains(dropping, ref.status) && ref.scope != nil && r.uri != "" {
		r.scope = ref.scope
		if big := r.bodyLimit(); big != nil { // httpd reads the body away before it answers, and stops at the limit
			for i := range ref.clues {
				ref.clues[i].Weight = min(ref.clues[i].Weight, pinpoint.Fair)
			}
			ref = &refusal{status: 413, clues: append(big.clues, ref.clues...), scope: ref.scope}
		}
	}
	d.Status = ref.status
	d.Clues = append(d.Clues, ref.clues...)
	if ref.status < 400 || ref.scope == nil {
		return
	}
	doc := ref.scope.errorDocs[ref.status]
	if doc == nil {
		return
	}
	target := doc.arg(1)
	switch {
	case strings.Contains(target, "://"):
		d.Status = 302
		c := r.clue("refusal-masked", pinpoint.Certain, doc.at)
		c.Quote, c.Names["directive"] = doc.String(), doc.String()
		c.Names["status"] = strconv.Itoa(ref.status)
		c.Says = "“" + doc.String() + "” at " + placeText(doc.at) + " answers with a redirect instead of " + strconv.Itoa(ref.status) + "."
		c.Fix = []string{"Use a path of this server in “" + doc.String() + "” at " + placeText(doc.at) + ", so that callers see the status " + strconv.Itoa(ref.status) + "."}
		d.Clues = append(d.Clues, c)
	case strings.HasPrefix(target, "/"):
		r.step(doc.at, "“"+doc.String()+"” supplies the page; the status stays unless a program behind it sets another one")
	}
}

// logs lists the logs of the server.
func (r *request) logs() {
	level := "warn"
	if d := r.srv.set["loglevel"]; d != nil {
		level = d.raw
	}
	for _, l := range r.srv.logs {
		switch l.name {
		case "errorlog":
			name := l.arg(0)
			if strings.HasPrefix(name, "|") || strings.HasPrefix(name, "syslog") {
				r.step(l.at, "the error log goes to "+cut(name, 60))
				continue
			}
			r.out.Logs = append(r.out.Logs, pinpoint.LogFile{Path: r.c.path(name), Product: Product, Kind: "error", Level: level, At: l.at})
		case "customlog", "transferlog", "globallog":
			name := l.arg(0)
			if strings.HasPrefix(name, "|") {
				continue
			}
			format := l.arg(1)
			if f, ok := r.srv.formats[format]; ok {
				format = f
			} else if format == "" {
				format = r.srv.formats["-"]
			}
			if format == "" {
				format = `%h %l %u %t "%r" %>s %b`
			}
			r.out.Logs = append(r.out.Logs, pinpoint.LogFile{Path: r.c.path(name), Product: Product, Kind: "access", Format: format, At: l.at})
		case "secauditlog", "secauditlog2":
			r.out.Logs = append(r.out.Logs, pinpoint.LogFile{Path: r.c.path(l.arg(0)), Product: "modsecurity", Kind: "audit", At: l.at})
		}
	}
}

func (s *server) number(name string, otherwise int) (int, pinpoint.Place) {
	if d := s.set[name]; d != nil {
		if n, err := strconv.Atoi(d.arg(0)); err == nil && n >= 0 {
			return n, d.at
		}
	}
	return otherwise, pinpoint.Place{}
}

// protocol checks what httpd checks before it knows a path: line, fields, escapes, dots.
func (r *request) protocol(first *server, raw string) *refusal {
	rawURL := raw
	if r.query != "" {
		rawURL += "?" + r.query
	}
	if n, at := first.number("limitrequestline", 8190); len(r.method)+len(rawURL)+10 > n {
		c := r.clue("uri-too-long", pinpoint.Certain, at)
		c.Says = "The request line has " + strconv.Itoa(len(r.method)+len(rawURL)+10) + " bytes, and LimitRequestLine is " + strconv.Itoa(n) + "."
		c.Names["limit"], c.Names["directive"] = strconv.Itoa(n), "LimitRequestLine"
		c.Fix = []string{"Send the long part in a body, or raise LimitRequestLine in " + first.title() + "."}
		return r.refuse(414, c)
	}
	size, at := first.number("limitrequestfieldsize", 8190)
	for _, f := range r.header {
		if len(f.Name)+len(f.Value)+2 > size {
			c := r.clue("header-too-large", pinpoint.Certain, at)
			c.Says = "The field " + cut(f.Name, 60) + " has " + strconv.Itoa(len(f.Name)+len(f.Value)+2) + " bytes, and LimitRequestFieldSize is " + strconv.Itoa(size) + " (AH00561, at level info)."
			c.Names["field"], c.Names["limit"], c.Names["directive"] = cut(f.Name, 60), strconv.Itoa(size), "LimitRequestFieldSize"
			c.Fix = []string{"Make the field " + cut(f.Name, 60) + " smaller; for cookies, delete old ones and give each a narrow Path.", "Or raise LimitRequestFieldSize in " + first.title() + ", the first VirtualHost of this address."}
			return r.refuse(400, c)
		}
	}
	if n, at := first.number("limitrequestfields", 100); n > 0 && len(r.header) > n {
		c := r.clue("header-too-large", pinpoint.Certain, at)
		c.Says = "The request has " + strconv.Itoa(len(r.header)) + " fields, and LimitRequestFields is " + strconv.Itoa(n) + "."
		c.Names["limit"], c.Names["directive"] = strconv.Itoa(n), "LimitRequestFields"
		c.Fix = []string{"Send fewer fields, or raise LimitRequestFields in " + first.title() + "."}
		return r.refuse(400, c)
	}
	if d := r.srv.set["sslengine"]; d != nil && strings.EqualFold(d.arg(0), "on") {
		if ref := r.serverName(first); ref != nil {
			return ref
		}
	}
	return r.normalize(raw)
}

// serverName compares the name of the TLS handshake with Host, as mod_ssl does.
func (r *request) serverName(first *server) *refusal {
	d := r.srv.set["sslengine"]
	if !r.in.TLS {
		c := r.clue("plain-http-on-tls-port", pinpoint.Certain, d.at)
		c.Says = "“" + d.String() + "” at " + placeText(d.at) + " speaks TLS at this port, and the request came without."
		c.Fix = []string{"Call the https URL."}
		return r.refuse(400, c)
	}
	strict := first.set["sslstrictsnivhostcheck"]
	if strict == nil {
		strict = r.srv.set["sslstrictsnivhostcheck"]
	}
	if r.in.SNI == "" && strict != nil && strings.EqualFold(strict.arg(0), "on") {
		c := r.clue("sni-host-mismatch", pinpoint.Strong, strict.at)
		c.Says = "“" + strict.String() + "” at " + placeText(strict.at) + " refuses clients that name no server in the TLS handshake (AH02033)."
		c.Fix = []string{"Let the client send SNI equal to Host; from a proxy, set the server name of its TLS connection."}
		return r.refuse(403, c)
	}
	if r.in.SNI == "" || hostOf(r.in.SNI) == hostOf(r.host) {
		return nil
	}
	other, _, _ := r.c.vhost(r.in.Local, r.in.SNI)
	if other == r.srv {
		return nil
	}
	differs := false
	for _, n := range []string{"sslverifyclient", "sslcacertificatefile"} {
		a, b := other.set[n], r.srv.set[n]
		differs = differs || (a == nil) != (b == nil) || a != nil && a.raw != b.raw
	}
	if !differs {
		return nil
	}
	c := r.clue("sni-host-mismatch", pinpoint.Strong, d.at)
	c.Says = "The TLS handshake named " + cut(r.in.SNI, 100) + " and Host names " + cut(hostOf(r.host), 100) + "; their virtual hosts have different TLS settings, so httpd answers 421 (AH02032)."
	c.Names["host"], c.Names["sni"] = cut(hostOf(r.host), 100), cut(r.in.SNI, 100)
	c.Fix = []string{"Let the client open a connection with SNI equal to Host, and not reuse one of another host."}
	return r.refuse(421, c)
}

// normalize decodes the path as httpd 2.4 does.
func (r *request) normalize(raw string) *refusal {
	bad := func(status int, says string) *refusal {
		r.uri = raw
		c := r.clue("path-encoding", pinpoint.Certain, r.srv.placeOf("allowencodedslashes"))
		c.Says = says
		c.Fix = []string{"Encode the path once, and keep slashes of values out of it (in the query they are safe)."}
		return r.refuse(status, c)
	}
	slashes := "off"
	if d := r.srv.set["allowencodedslashes"]; d != nil {
		slashes = lower(d.arg(0))
	}
	var b []byte
	found := ""
	for i := 0; i < len(raw); i++ {
		if raw[i] != '%' {
			b = append(b, raw[i])
			continue
		}
		if i+2 >= len(raw) || unhex(raw[i+1]) < 0 || unhex(raw[i+2]) < 0 {
			return bad(400, "The path has a percent sign that two hexadecimal digits do not follow; httpd answers 400.")
		}
		v := byte(unhex(raw[i+1])<<4 | unhex(raw[i+2]))
		switch {
		case v == 0:
			found = "a zero byte (%00)"
		case v == '/' && slashes == "off":
			found = "an encoded slash (%2F), and AllowEncodedSlashes is Off"
		case v == '/' && slashes == "nodecode":
			b = append(b, raw[i:i+3]...)
			i += 2
			continue
		}
		b = append(b, v)
		i += 2
	}
	var segs []string
	if !strings.HasPrefix(string(b), "/") {
		if r.method == "OPTIONS" && string(b) == "*" {
			r.uri = "*"
			return nil
		}
		return bad(400, "The path does not begin with a slash; httpd answers 400.")
	}
	parts := strings.Split(string(b)[1:], "/")
	for i, p := range parts {
		last := i == len(parts)-1
		switch {
		case p == "" && !last:
		case p == ".":
			if last {
				segs = append(segs, "")
			}
		case p == "..":
			if len(segs) == 0 {
				return bad(400, "The path climbs above the root with “..”; httpd answers 400 (AH10244).")
			}
			segs = segs[:len(segs)-1]
			if last {
				segs = append(segs, "")
			}
		default:
			segs = append(segs, p)
		}
	}
	if found != "" {
		status := 404
		if strings.Contains(found, "zero") {
			status = 404
		}
		return bad(status, "The path has "+found+"; httpd answers "+strconv.Itoa(status)+".")
	}
	r.uri = "/" + strings.Join(segs, "/")
	return nil
}

func (s *server) placeOf(name string) pinpoint.Place {
	if d := s.set[name]; d != nil {
		return d.at
	}
	return pinpoint.Place{}
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(strings.Trim(strings.TrimSpace(s), "[]"))
	return a.Unmap().WithZone(""), err
}

// remoteIP is mod_remoteip: it takes addresses from the right of the field as long as they are given
// by a proxy that is trusted. https://httpd.apache.org/docs/2.4/mod/mod_remoteip.html
func (r *request) remoteIP() {
	d := r.srv.set["remoteipheader"]
	if p := r.srv.set["remoteipproxyprotocol"]; p != nil && strings.EqualFold(p.arg(0), "on") {
		r.step(p.at, "the address of the client comes with the PROXY protocol, which is not seen here")
	}
	if d == nil || !r.c.has("remoteip") {
		return
	}
	values := r.header.Values(d.arg(0))
	if len(values) == 0 {
		return
	}
	type proxy struct {
		net      netip.Prefix
		internal bool
	}
	var proxies []proxy
	open := false
	for _, l := range r.srv.set["remoteip"].inside {
		internal := strings.Contains(l.name, "internal")
		names := l.args
		if strings.HasSuffix(l.name, "list") {
			data, err := r.c.files.ReadFile(r.c.path(l.arg(0)))
			if err != nil {
				open = true
				continue
			}
			names = nil
			for x := range strings.Lines(string(data)) {
				if x, _, _ = strings.Cut(x, "#"); strings.TrimSpace(x) != "" && len(names) < 10_000 {
					names = append(names, strings.TrimSpace(x))
				}
			}
		}
		for _, n := range names {
			if p, ok := networkOf(n); ok {
				proxies = append(proxies, proxy{p, internal})
			} else {
				open = true
			}
		}
	}
	all := strings.Split(strings.Join(values, ","), ",")
	before := r.client
	for i := len(all) - 1; i >= 0 && len(all)-i < 100; i-- {
		internal := false
		if len(proxies) > 0 || open {
			found := false
			for _, p := range proxies {
				if p.net.Contains(r.client) {
					found, internal = true, p.internal
					break
				}
			}
			if !found && open {
				found = r.doubt("whether "+r.client.String()+" is a trusted proxy", d.at)
			}
			if !found {
				break
			}
		}
		addr, err := parseAddr(all[i])
		if err != nil {
			break
		}
		if !internal && (addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast()) {
			break
		}
		r.client = addr
	}
	r.remoteUsed = r.client != before
	if r.remoteUsed {
		r.step(d.at, "mod_remoteip takes "+r.client.String()+" from "+d.arg(0)+" for the client, instead of "+before.String())
	} else {
		r.step(d.at, "mod_remoteip keeps "+before.String()+", because it is no trusted proxy or "+d.arg(0)+" holds no usable address")
	}
}

func (r *request) setenv(name, value string, from *directive) {
	if r.env == nil {
		r.env = map[string]string{}
	}
	if len(r.env) < 5000 {
		r.env[name] = value
	}
	if r.envFrom == nil {
		r.envFrom = map[string]*directive{}
	}
	r.envFrom[name] = from
}

// fixedVariables is SetEnv of mod_env. httpd sets them after it has decided about access, so they count
// for what comes later only: the sub-requests for index files, and, with REDIRECT_ before their names,
// internal redirects. What PassEnv takes from the server's own environment is not known here.
// https://httpd.apache.org/docs/2.4/mod/mod_env.html#setenv
func (r *request) fixedVariables() {
	if !r.c.has("env") {
		return
	}
	for _, d := range r.scope.setEnv {
		if d.name == "setenv" {
			r.setenv(d.arg(0), d.arg(1), d)
		}
	}
}

// without leaves out what an UnsetEnv of the section inside takes away.
func without(outer, inner []*directive) []*directive {
	return slices.DeleteFunc(slices.Clone(outer), func(o *directive) bool {
		return slices.ContainsFunc(inner, func(d *directive) bool { return d.name == "unsetenv" && slices.Contains(d.args, o.arg(0)) })
	})
}

// environment is mod_setenvif. https://httpd.apache.org/docs/2.4/mod/mod_setenvif.html
func (r *request) environment(s *scope) {
	for _, d := range s.setEnvIf {
		args := d.args
		var attr, pattern string
		fold := strings.HasSuffix(d.name, "nocase")
		switch d.name {
		case "setenvifexpr":
			if len(args) < 2 {
				continue
			}
			ok, err := r.evaluate(args[0], d.at)
			if err != nil {
				ok = r.doubt("whether “"+d.String()+"” holds ("+err.Error()+")", d.at)
			}
			if ok {
				r.assign(args[1:], r.groups, d)
			}
			continue
		case "browsermatch", "browsermatchnocase":
			if len(args) < 2 {
				continue
			}
			attr, pattern, args = "User-Agent", args[0], args[1:]
		default:
			if len(args) < 3 {
				continue
			}
			attr, pattern, args = args[0], args[1], args[2:]
		}
		value := ""
		switch lower(attr) {
		case "remote_addr":
			value = r.client.String()
		case "server_addr":
			value = r.in.Local.Addr().String()
		case "request_method":
			value = r.method
		case "request_protocol":
			value = r.in.Request.Proto
			if value == "" {
				value = "HTTP/1.1"
			}
		case "request_uri":
			value = r.uri
		case "remote_host":
			if r.doubt("whether “"+d.String()+"” holds (the name of the client in DNS)", d.at) {
				r.assign(args, nil, d)
			}
			continue
		default:
			if r.header.Has(attr) {
				value = strings.Join(r.header.Values(attr), ", ")
			} else if v, ok := r.env[attr]; ok {
				value = v
			} else if strings.ContainsAny(attr, "^$*+?[](|") {
				if re, err := compile(attr, true); err == nil {
					for _, f := range r.header {
						if g, _ := re.match(f.Name); g != nil {
							value = f.Value
							break
						}
					}
				}
			}
		}
		re, err := compile(pattern, fold)
		var g []string
		if err == nil {
			g, err = re.match(value)
		}
		if err != nil {
			if r.doubt("whether “"+d.String()+"” matches ("+err.Error()+")", d.at) {
				r.assign(args, nil, d)
			}
			continue
		}
		if g != nil {
			r.assign(args, g, d)
		}
	}
}

func (r *request) assign(args, groups []string, d *directive) {
	for _, a := range args {
		if name, not := strings.CutPrefix(a, "!"); not {
			delete(r.env, name)
			continue
		}
		name, value, ok := strings.Cut(a, "=")
		if !ok {
			value = "1"
		}
		if groups != nil {
			value = fill(value, groups)
		}
		r.setenv(name, value, d)
	}
}

// variable is %{NAME} of rules and expressions. ok is false for those that are not known here.
func (r *request) variable(name string) (value string, ok bool) {
	if kind, arg, found := strings.Cut(name, ":"); found {
		switch strings.ToUpper(kind) {
		case "HTTP":
			return r.header.Value(arg), true
		case "ENV":
			return r.env[arg], true
		case "SSL":
			if arg == "HTTPS" {
				return r.variable("HTTPS")
			}
		}
		return "", false
	}
	file := r.filename
	if r.current != "" {
		file = r.current
	}
	switch strings.ToUpper(name) {
	case "HTTP_USER_AGENT":
		return r.header.Value("User-Agent"), true
	case "HTTP_REFERER":
		return r.header.Value("Referer"), true
	case "HTTP_COOKIE":
		return r.header.Value("Cookie"), true
	case "HTTP_FORWARDED":
		return r.header.Value("Forwarded"), true
	case "HTTP_HOST":
		return r.host, true
	case "HTTP_ACCEPT":
		return r.header.Value("Accept"), true
	case "HTTP_PROXY_CONNECTION":
		return r.header.Value("Proxy-Connection"), true
	case "REMOTE_ADDR":
		return r.client.String(), true
	case "CONN_REMOTE_ADDR":
		return r.in.Client.String(), true
	case "REMOTE_USER":
		return strings.TrimPrefix(r.user, unknownUser), r.user != unknownUser
	case "REQUEST_METHOD":
		return r.method, true
	case "REQUEST_URI", "DOCUMENT_URI":
		return r.uri, true
	case "REQUEST_FILENAME", "SCRIPT_FILENAME":
		if file == "" {
			file = r.uri
		}
		return file, true
	case "PATH_INFO":
		return r.pathInfo, true
	case "QUERY_STRING":
		return r.query, true
	case "THE_REQUEST":
		_, p, q := splitURL(r.c.env.Vault.Reveal(r.in.Request.URL))
		if q != "" {
			p += "?" + q
		}
		proto := r.in.Request.Proto
		if proto == "" {
			proto = "HTTP/1.1"
		}
		return r.in.Request.Method + " " + p + " " + proto, true
	case "SERVER_NAME":
		if r.srv.set["usecanonicalname"] == nil {
			return hostOf(r.host), true
		}
		return hostOf(r.srv.name), true
	case "SERVER_PORT":
		return strconv.Itoa(int(r.in.Local.Port())), true
	case "SERVER_ADDR":
		return r.in.Local.Addr().String(), true
	case "SERVER_PROTOCOL":
		if r.in.Request.Proto == "" {
			return "HTTP/1.1", true
		}
		return r.in.Request.Proto, true
	case "REQUEST_SCHEME":
		if r.in.TLS {
			return "https", true
		}
		return "http", true
	case "HTTPS":
		if r.in.TLS {
			return "on", true
		}
		return "off", true
	case "DOCUMENT_ROOT":
		return r.srv.root, true
	case "CONTEXT_PREFIX":
		return r.prefix, true
	case "CONTEXT_DOCUMENT_ROOT":
		if r.prefixRoot != "" {
			return r.prefixRoot, true
		}
		return r.srv.root, true
	case "IS_SUBREQ":
		return strconv.FormatBool(r.sub), true
	case "AUTH_TYPE":
		return r.scope.setting("authtype"), true
	case "HANDLER":
		return r.handler, true
	case "IPV6":
		if r.client.Is6() {
			return "on", true
		}
		return "off", true
	case "CONTENT_TYPE":
		return "", false
	case "TIME_YEAR", "TIME_MON", "TIME_DAY", "TIME_HOUR", "TIME_MIN", "TIME_SEC", "TIME_WDAY":
		return "", false
	}
	return "", false
}
