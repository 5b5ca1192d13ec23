package servers

import (
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// ride is a request on its way through lighttpd.
type ride struct {
	*walk
	l       *Lighttpd
	uri     string // path, decoded and without dot segments
	on      map[*block]truth
	file    string
	rewrote bool
}

// Decide follows a request through lighttpd: conditions, rewrites, the modules in the order of
// server.modules, then the file (mod_access, mod_auth, gateways, mod_indexfile, mod_staticfile).
func (l *Lighttpd) Decide(a pinpoint.Arrival) pinpoint.Decision {
	p := l.follow(a)
	d := p.decision()
	d.User = p.setting("server.username").value.s
	if s := p.setting("server.errorlog"); s.value.s != "" {
		d.Logs = append(d.Logs, pinpoint.LogFile{Path: s.value.s, Product: "lighttpd", Kind: "error", Level: "error", At: s.at})
	}
	if s := p.setting("accesslog.filename"); s.value.s != "" && p.has("mod_accesslog") {
		format := p.setting("accesslog.format").value.s
		if format == "" {
			format = `%h %V %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i"`
		}
		d.Logs = append(d.Logs, pinpoint.LogFile{Path: s.value.s, Product: "lighttpd", Kind: "access", Format: format, At: s.at})
	}
	d.Silent = []string{"lighttpd-access-deny", "lighttpd-no-handler", "fs-file-unreadable", "fs-dir-no-search", "no-index-listing-off", "auth-missing", "user-agent-blocked", "hotlink-referer", "host-not-allowed", "body-too-large", "ip-denied", "method-denied-by-rule"}
	if p.setting("debug.log-request-handling").value.s == "enable" {
		d.Silent = slices.DeleteFunc(d.Silent, func(s string) bool { return s == "lighttpd-access-deny" })
	}
	return d
}

func (p *ride) has(module string) bool { return slices.Contains(p.l.modules, module) }

// setting is the value that holds for this request: that of the last context whose condition holds.
func (p *ride) setting(key string) setting {
	s, _ := p.ask(key)
	return s
}

// ask tells the context too. A context that may hold makes the value uncertain.
func (p *ride) ask(key string) (found setting, by *block) {
	for _, c := range p.l.contexts {
		s, ok := c.set[key]
		if !ok {
			continue
		}
		switch p.holds(c) {
		case yes:
			found, by = s, c
		case maybe:
			if p.unsure < 1000 {
				p.unsure++
			}
			p.step(c.at, "whether `%s` holds is not known here, and it sets %s", show(c.text), key)
		}
	}
	return found, by
}

// holds evaluates a condition and those around it.
func (p *ride) holds(c *block) truth {
	if t, ok := p.on[c]; ok {
		return t
	}
	t := yes
	if c.parent != nil {
		t = p.holds(c.parent)
	}
	for b, n := c.before, 0; b != nil && n < 1000 && t != no; b, n = b.before, n+1 {
		t = min(t, p.compare(b).not())
	}
	if t != no && !c.always && c.parent != nil {
		t = min(t, p.compare(c))
	}
	p.on[c] = t
	return t
}

func (p *ride) compare(c *block) truth {
	if c.always {
		return yes
	}
	if c.unknown != "" {
		return maybe
	}
	have, negative := "", c.op == "!=" || c.op == "!~"
	switch key := strings.ToLower(strings.NewReplacer(`"`, "", " ", "").Replace(c.key)); key {
	case "http[url]":
		have = p.uri
	case "http[querystring]", "http[query-string]":
		have = queryOf(p.target)
	case "http[host]":
		have = strings.ToLower(p.host)
		if !strings.Contains(c.want, ":") || c.re != nil {
			have = hostname(p.host)
		}
	case "http[referer]", "http[useragent]", "http[user-agent]", "http[cookie]", "http[language]":
		name := map[string]string{"referer": "Referer", "useragent": "User-Agent", "user-agent": "User-Agent", "cookie": "Cookie", "language": "Accept-Language"}[key[5:len(key)-1]]
		have = strings.Join(p.header.Values(name), ", ")
	case "http[request-method]", "http[requestmethod]":
		have = p.method
	case "http[scheme]":
		have = p.scheme()
	case "http[remoteip]", "http[remote-ip]":
		if !p.client.IsValid() {
			return maybe
		}
		if c.op == "==" || c.op == "!=" {
			if _, ok := network(c.want); ok {
				t := inside(p.client, c.want)
				if negative {
					t = t.not()
				}
				return t
			}
		}
		have = p.client.String()
	case "server[socket]":
		addr := p.a.Local
		want := strings.TrimPrefix(c.want, "0.0.0.0")
		t := no
		if port, ok := strings.CutPrefix(want, ":"); ok {
			t = sure(port == strconv.Itoa(int(addr.Port())))
		} else if ap, err := netip.ParseAddrPort(c.want); err == nil {
			t = sure(ap.Port() == addr.Port() && (ap.Addr() == addr.Addr().Unmap() || ap.Addr().IsUnspecified()))
		}
		if negative {
			t = t.not()
		}
		return t
	default:
		name, ok := strings.CutPrefix(key, "request_header[")
		if !ok {
			name, ok = strings.CutPrefix(key, "req_header[")
		}
		if !ok {
			return maybe
		}
		have = strings.Join(p.header.Values(strings.TrimSuffix(name, "]")), ", ")
	}
	t := no
	switch c.op {
	case "==", "!=":
		want := c.want
		if strings.Contains(strings.ToLower(c.key), "host") {
			want = strings.ToLower(want)
		}
		t = sure(have == want)
	case "=~", "!~":
		t = c.re.holds(have)
	case "=^":
		t = sure(strings.HasPrefix(have, c.want))
	case "=$":
		t = sure(strings.HasSuffix(have, c.want))
	default:
		return maybe
	}
	if negative {
		t = t.not()
	}
	return t
}

// normal is a path as lighttpd takes it: decoded, slashes merged by dot removal, no dot segments.
func normal(target string) string {
	s := unescape(pathOf(target))
	var out []string
	parts := strings.Split(strings.TrimPrefix(s, "/"), "/")
	for i, part := range parts {
		last := i == len(parts)-1
		switch part {
		case "", ".":
			if last {
				out = append(out, "")
			}
		case "..":
			if len(out) > 0 {
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, part)
		}
	}
	return "/" + strings.Join(out, "/")
}

// normalTarget is the URL that rewrites and redirects are matched with: normalised, and escaped where it must be.
func normalTarget(target string) string {
	var b strings.Builder
	for _, c := range []byte(normal(target)) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("%?#\"<>\\^`{|}", c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	if _, q, ok := strings.Cut(target, "?"); ok {
		return b.String() + "?" + q
	}
	return b.String()
}

var lightMethods = strings.Fields("GET HEAD QUERY POST PUT DELETE CONNECT OPTIONS TRACE ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT COPY LABEL LINK LOCK MERGE MKACTIVITY MKCALENDAR MKCOL MKREDIRECTREF MKWORKSPACE MOVE ORDERPATCH PATCH PROPFIND PROPPATCH REBIND REPORT SEARCH UNBIND UNCHECKOUT UNLINK UNLOCK UPDATE UPDATEREDIRECTREF VERSION-CONTROL PRI")

func (l *Lighttpd) follow(a pinpoint.Arrival) *ride {
	p := &ride{walk: begin("lighttpd", a, l.env.Vault), l: l, on: map[*block]truth{}}
	if a.Request == nil {
		return p
	}
	p.uri = normal(p.target)
	root := l.contexts[0].at
	switch {
	case !slices.Contains(lightMethods, p.method):
		p.refuse(501, pinpoint.Clue{Cause: "method-not-allowed", ID: "method", Weight: pinpoint.Certain, At: root, Says: fmt.Sprintf("lighttpd does not know the method %s", show(p.method))})
		return p
	case controls(p.target):
		p.refuse(400, pinpoint.Clue{Cause: "path-encoding", ID: "url-ctrls-reject", Weight: pinpoint.Certain, At: root, Says: "the URL holds a control character, escaped or not (server.http-parseopts: url-ctrls-reject)", Fix: []string{"Take the control character out of the URL"}})
		return p
	case !validHost(p.host) && p.host != "":
		p.refuse(400, pinpoint.Clue{Cause: "host-not-allowed", ID: "host-strict", Weight: pinpoint.Certain, At: root, Says: fmt.Sprintf("the Host %s is no valid name (server.http-parseopts: host-strict)", show(p.host)), Fix: []string{"Send a Host of letters, digits, hyphens and dots"}})
		return p
	}
	if n, err := strconv.Atoi(p.setting("server.max-request-size").value.s); err == nil && n > 0 && len(a.Request.Body) > n<<10 {
		s := p.setting("server.max-request-size")
		p.refuse(413, pinpoint.Clue{Cause: "body-too-large", ID: "server.max-request-size", Weight: pinpoint.Certain, At: s.at, Says: fmt.Sprintf("the body has %d bytes; server.max-request-size in %s allows %d KiB", len(a.Request.Body), where(s.at), n),
			Names: map[string]string{"directive": "server.max-request-size"}})
		return p
	}
	p.forwarder()
	for _, m := range l.modules {
		if m == "mod_rewrite" {
			p.rewrite()
		}
	}
	taken := ""
	for _, m := range l.modules {
		done := false
		switch m {
		case "mod_access":
			done = p.access()
		case "mod_redirect":
			done = p.redirect()
		case "mod_auth":
			done = p.auth()
		case "mod_proxy", "mod_fastcgi", "mod_scgi":
			// A gateway takes the request, and the modules behind it still look at it.
			if taken == "" && p.takes(gateways[m], p.uri, true) != nil {
				taken = gateways[m]
			}
		case "mod_status":
			if s := p.setting("status.status-url"); s.value.s != "" && s.value.s == p.uri {
				p.step(s.at, "mod_status answers")
				p.status, done = 200, true
			}
		case "mod_evasive":
			if s := p.setting("evasive.max-conns-per-ip"); s.value.s != "" {
				p.possible(403, pinpoint.Clue{Cause: "concurrency-limit", ID: "evasive", Weight: pinpoint.Fair, At: s.at, Says: fmt.Sprintf("mod_evasive (%s) refuses with 403 above %s connections of one address", where(s.at), show(s.value.s))})
			}
		case "mod_secdownload":
			if s := p.setting("secdownload.uri-prefix"); s.value.s != "" && strings.HasPrefix(p.uri, s.value.s) {
				p.unsure++
				p.possible(403, pinpoint.Clue{Cause: "app-signed-url-invalid", ID: "secdownload", Weight: pinpoint.Strong, At: s.at, Says: fmt.Sprintf("mod_secdownload (%s) refuses links below %s whose MAC does not fit", where(s.at), show(s.value.s))})
			}
		case "mod_webdav":
			if p.setting("webdav.activate").value.s == "enable" {
				p.unsure++
			}
		}
		if done {
			return p
		}
	}
	if taken == "" || !p.gateway(taken, p.uri, true) {
		p.serve()
	}
	return p
}

var gateways = map[string]string{"mod_proxy": "proxy.server", "mod_fastcgi": "fastcgi.server", "mod_scgi": "scgi.server"}

func controls(target string) bool {
	s := unescape(pathOf(target))
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func validHost(h string) bool {
	name, port := h, ""
	if i := strings.LastIndexByte(h, ':'); i >= 0 && !strings.HasSuffix(h, "]") {
		name, port = h[:i], h[i+1:]
		if n, err := strconv.Atoi(port); port != "" && (err != nil || n < 0 || n > 65535) {
			return false
		}
	}
	if strings.HasPrefix(name, "[") {
		_, err := netip.ParseAddr(strings.Trim(name, "[]"))
		return err == nil
	}
	for _, label := range strings.Split(strings.TrimSuffix(name, "."), ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' || strings.ContainsFunc(label, func(r rune) bool { return !(r == '-' || r >= '0' && r <= '9' || r|0x20 >= 'a' && r|0x20 <= 'z') }) {
			return false
		}
	}
	return true
}

// forwarder is mod_extforward: proxies whose X-Forwarded-For is taken.
func (p *ride) forwarder() {
	s := p.setting("extforward.forwarder")
	if !p.has("mod_extforward") || len(s.value.list) == 0 || !p.client.IsValid() {
		return
	}
	trusted := func(a netip.Addr) bool {
		for _, i := range s.value.list {
			if i.val.s == "trust" && (i.key == "all" || inside(a, i.key) == yes) {
				return true
			}
		}
		return false
	}
	if real, ok := p.forwardedFor(); ok && trusted(p.client) && !trusted(real) {
		p.client = real
		p.step(s.at, "mod_extforward takes %s for the client", real)
	}
}

// rewrite is url.rewrite-once, which restarts with the new URL.
func (p *ride) rewrite() {
	for _, key := range []string{"url.rewrite-once", "url.rewrite", "url.rewrite-final", "url.rewrite-repeat"} {
		s := p.setting(key)
		for _, i := range s.value.list {
			to, ok := p.substitute(i)
			if !ok {
				continue
			}
			if to == "" || p.rewrote {
				return
			}
			p.step(i.at, "`%s` makes %s of it", key, show(p.vault.Redact(to)))
			if to[0] != '/' {
				to = "/" + to
			}
			p.target, p.uri, p.rewrote = to, normal(to), true
			p.shown = p.vault.Redact(p.uri)
			p.on = map[*block]truth{}
			return
		}
	}
}

// substitute fills $1 and ${…} in, if the expression of an item matches the URL.
func (p *ride) substitute(i item) (string, bool) {
	groups, known := compile(i.key, false).match(normalTarget(p.target))
	if !known {
		p.unsure++
		return "", false
	}
	if groups == nil {
		return "", false
	}
	var b strings.Builder
	for t := i.val.s; t != ""; t = t[1:] {
		if t[0] == '$' && len(t) > 1 && t[1] >= '0' && t[1] <= '9' {
			if n := int(t[1] - '0'); n < len(groups) && b.Len() < maxText {
				b.WriteString(groups[n])
			}
			t = t[1:]
			continue
		}
		if t[0] == '%' && len(t) > 1 && t[1] >= '0' && t[1] <= '9' || strings.HasPrefix(t, "${") {
			p.unsure++
			return "", false
		}
		b.WriteByte(t[0])
	}
	return b.String(), true
}

func (p *ride) redirect() bool {
	s := p.setting("url.redirect")
	for _, i := range s.value.list {
		to, ok := p.substitute(i)
		if !ok {
			continue
		}
		if to == "" {
			return false
		}
		p.status = 301
		if n, err := strconv.Atoi(p.setting("url.redirect-code").value.s); err == nil && n > 0 {
			p.status = n
		}
		p.step(i.at, "`url.redirect` answers %d", p.status)
		return true
	}
	return false
}

// access is mod_access: endings that are allowed or denied.
func (p *ride) access() bool {
	fold := p.setting("server.force-lowercase-filenames").value.s == "enable"
	uri := p.uri
	fits := func(end string) bool {
		if fold {
			return strings.HasSuffix(strings.ToLower(uri), strings.ToLower(end))
		}
		return strings.HasSuffix(uri, end)
	}
	if s, by := p.ask("url.access-allow"); s.value.array && len(s.value.list) > 0 {
		if !slices.ContainsFunc(s.value.strings(), fits) {
			p.denied("url.access-allow", "", s, by)
			return true
		}
		return false
	}
	s, by := p.ask("url.access-deny")
	if !s.value.array {
		return false
	}
	for _, end := range s.value.strings() {
		if fits(end) {
			p.denied("url.access-deny", end, s, by)
			return true
		}
	}
	return false
}

func (p *ride) denied(key, end string, s setting, by *block) {
	c := pinpoint.Clue{Cause: "lighttpd-access-deny", ID: key, Weight: pinpoint.Certain, At: s.at, Quote: fmt.Sprintf("%s = ( \"%s\" )", key, strings.Join(s.value.strings(), `", "`)),
		Names: map[string]string{"directive": key, "ending": end}}
	switch {
	case key == "url.access-allow":
		c.Says = fmt.Sprintf("%s in %s admits other endings than the one of %s", key, where(s.at), show(p.shown))
	case end == "":
		c.Says = fmt.Sprintf("%s = ( \"\" ) in %s refuses every path", key, where(s.at))
	default:
		c.Says = fmt.Sprintf("%s in %s refuses paths that end in %q, as %s does", key, where(s.at), end, show(p.shown))
		c.Fix = []string{fmt.Sprintf("Publish the file under another ending than %s; or, if exactly this path is to be public, set a narrower url.access-deny in a condition on $HTTP[\"url\"] (%s)", end, where(s.at))}
	}
	c.Says += "; lighttpd logs it only with debug.log-request-handling"
	clues := []pinpoint.Clue{c}
	if by != nil && by.parent != nil {
		clues[0].Says += fmt.Sprintf("; it stands in `%s` (%s)", show(by.text), where(by.at))
		clues[0].Names["condition"] = by.text
		clues[0].Fix = []string{fmt.Sprintf("Correct the condition `%s` in %s so that it does not take this request in", show(by.text), where(by.at))}
		if more, ok := p.about(by); ok && (end == "" || key == "url.access-allow") {
			more.At, more.Quote, more.ID = by.at, by.text, "condition"
			more.Says += ": " + clues[0].Says
			more.Names = map[string]string{"rule": by.text, "mechanism": "lighttpd-access-deny"}
			if len(more.Fix) == 0 {
				more.Fix = clues[0].Fix
			}
			if more.Weight == pinpoint.Certain {
				clues[0].Weight = pinpoint.Strong
				clues = append([]pinpoint.Clue{more}, clues...)
			} else {
				clues = append(clues, more)
			}
		}
	}
	p.step(s.at, "%s", c.Says)
	p.refuse(403, clues...)
}

// about says what a condition judges.
func (p *ride) about(by *block) (c pinpoint.Clue, ok bool) {
	c.Weight = pinpoint.Certain
	switch strings.Trim(strings.ToLower(by.key), " ") {
	case "http[useragent]", "http[user-agent]", "request_header[user-agent]":
		c.Cause, c.Says = "user-agent-blocked", fmt.Sprintf("the User-Agent %q is refused", show(p.vault.Redact(p.header.Value("User-Agent"))))
	case "http[referer]", "request_header[referer]":
		c.Cause, c.Says = "hotlink-referer", "the Referer, or that there is none, is refused"
	case "http[request-method]", "http[requestmethod]":
		c.Cause, c.Says = "method-denied-by-rule", "the method "+show(p.method)+" is refused"
	case "http[host]":
		c.Cause, c.Says = "host-not-allowed", "the Host "+show(p.host)+" is refused"
	case "http[scheme]":
		c.Cause, c.Says = "https-required", "plain HTTP is refused"
		if p.a.TLS {
			return c, false
		}
	case "http[remoteip]", "http[remote-ip]":
		c.Cause, c.Says = "ip-denied", fmt.Sprintf("the address %s is refused", p.client)
		if by.op == "!=" || by.op == "!~" {
			c.Cause, c.Says = "ip-allowlist-miss", fmt.Sprintf("the address %s is not among those that are admitted", p.client)
		}
		if real, has := p.forwardedFor(); has && private(p.client) && real != p.client {
			if seen := p.client; true {
				p.client = real
				t := p.compare(by)
				p.client = seen
				if t == no {
					c.Cause = "client-ip-lost-behind-proxy"
					c.Says = fmt.Sprintf("the condition judges %s, which is a proxy in front; for %s, which X-Forwarded-For names, it would not hold", seen, real)
					c.Fix = []string{fmt.Sprintf("Load mod_extforward and set `extforward.forwarder = ( \"%s\" => \"trust\" )`, for your own proxies only", seen)}
				}
			}
		}
	default:
		return c, false
	}
	return c, true
}

// auth is mod_auth: the first path of auth.require that fits.
func (p *ride) auth() bool {
	s := p.setting("auth.require")
	for _, i := range s.value.list {
		if !strings.HasPrefix(p.uri, i.key) {
			continue
		}
		need := i.val.get("require").s
		at := i.at
		refuse := func(cause, says string) bool {
			p.refuse(401, pinpoint.Clue{Cause: cause, ID: "auth.require", Weight: pinpoint.Certain, At: at, Quote: fmt.Sprintf("auth.require %q", i.key), Says: fmt.Sprintf("auth.require in %s asks for a password below %q: %s", where(at), i.key, says), Names: map[string]string{"directive": "auth.require"}})
			return true
		}
		given := p.header.Value("Authorization")
		if given == "" {
			return refuse("auth-missing", "the request has no credentials")
		}
		scheme, rest, _ := strings.Cut(given, " ")
		method := i.val.get("method").s
		if !strings.EqualFold(scheme, method) {
			return refuse("auth-scheme-wrong", "Authorization has another scheme than "+show(method))
		}
		data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest))
		user, password, ok := strings.Cut(string(data), ":")
		if method != "basic" || strings.Contains(given, "‹secret:") {
			return p.unknownPassword(at)
		}
		if err != nil || !ok {
			return refuse("basic-credentials-wrong", "the credentials cannot be decoded")
		}
		if p.setting("auth.backend").value.s != "plain" {
			return p.unknownPassword(at)
		}
		text, err := p.l.src.read(p.setting("auth.backend.plain.userfile").value.s)
		if err != nil {
			return p.unknownPassword(at)
		}
		right := false
		for l := range strings.Lines(text) {
			u, pw, ok := strings.Cut(strings.TrimRight(l, "\r\n"), ":")
			right = right || ok && u == user && subtle.ConstantTimeCompare([]byte(pw), []byte(password)) == 1
		}
		if !right {
			return refuse("basic-credentials-wrong", "the user or the password is wrong")
		}
		for _, rule := range strings.Split(need, "|") {
			if rule == "valid-user" || rule == "user="+user {
				return false
			}
		}
		return refuse("basic-credentials-wrong", "the password is right, but `require` names other users")
	}
	return false
}

func (p *ride) unknownPassword(at pinpoint.Place) bool {
	p.unsure++
	p.step(at, "whether the password is right is not known here")
	p.possible(401, pinpoint.Clue{Cause: "basic-credentials-wrong", ID: "auth.require", Weight: pinpoint.Hint, At: at, Says: fmt.Sprintf("auth.require in %s compares the password, which was not done here", where(at))})
	return false
}

// servers are those of one entry of a gateway.
func (i *item) servers() []item {
	for _, k := range []string{"host", "socket", "bin-path", "port"} {
		if i.val.get(k).s != "" {
			return []item{{val: i.val}}
		}
	}
	return i.val.list
}

// takes is the entry of a gateway whose prefix or ending fits, before the file is looked at or after.
func (p *ride) takes(key, name string, early bool) *item {
	s := p.setting(key)
	for n := range s.value.list {
		i := &s.value.list[n]
		if strings.HasPrefix(i.key, "/") && !strings.HasPrefix(p.uri, i.key) || !strings.HasPrefix(i.key, "/") && !strings.HasSuffix(name, i.key) {
			continue
		}
		local := false
		if hosts := i.servers(); len(hosts) > 0 && key != "proxy.server" {
			local = hosts[0].val.get("check-local").s != "disable"
		}
		if local != early {
			return i
		}
	}
	return nil
}

// gateway hands on to a server behind, if a prefix or an ending fits.
func (p *ride) gateway(key, name string, early bool) bool {
	if i := p.takes(key, name, early); i != nil {
		hosts := i.servers()
		if len(hosts) == 0 {
			p.refuse(503, pinpoint.Clue{Cause: "upstream-unavailable", ID: key, Weight: pinpoint.Strong, At: i.at, Says: fmt.Sprintf("%s %q in %s names no server", key, i.key, where(i.at))})
			return true
		}
		h := hosts[0].val
		p.step(i.at, "`%s` takes %q", key, i.key)
		to := h.get("socket").s
		if to == "" {
			host := h.get("host").s
			if host == "" {
				host = "127.0.0.1"
			}
			if strings.HasPrefix(host, "/") {
				to = host
			} else {
				port := h.get("port").s
				if port == "" {
					port = "80"
				}
				to = host + ":" + port
			}
		}
		r := p.outgoing("http", p.target)
		if key == "proxy.server" && p.client.IsValid() {
			r.Header = append(r.Header, pinpoint.Field{Name: "X-Forwarded-For", Value: p.client.String()})
		}
		n := len(p.next)
		p.forward(i.at, to, false, r)
		if len(p.next) > n && key == "fastcgi.server" {
			p.next[n].Script = path.Join(p.root(), p.uri)
			if p.file != "" {
				p.next[n].Script = p.file
			}
			p.next[n].Client = p.client
		}
		return true
	}
	return false
}

// root is the directory of the site.
func (p *ride) root() string {
	if p.has("mod_simple_vhost") {
		if base := p.setting("simple-vhost.server-root").value.s; base != "" {
			for _, h := range []string{hostname(p.host), p.setting("simple-vhost.default-host").value.s} {
				dir := path.Join(base, h, p.setting("simple-vhost.document-root").value.s)
				if h != "" && !strings.ContainsAny(h, "/\\") && p.stat(dir) != missing {
					return dir
				}
			}
		}
	}
	if p.has("mod_evhost") && p.setting("evhost.path-pattern").value.s != "" {
		p.unsure++
		p.step(p.setting("evhost.path-pattern").at, "mod_evhost chooses the directory by the host; that is not computed here")
	}
	return p.setting("server.document-root").value.s
}

type presence int

const (
	missing presence = iota
	regular
	directory
)

// stat asks the machine; what may not be seen counts as a file.
func (p *ride) stat(name string) presence {
	if strings.ContainsAny(name, "*?[\\\x00") || !path.IsAbs(name) || len(name) > 4096 {
		return missing
	}
	if list, err := p.l.src.files.Glob(name); err != nil || len(list) == 0 {
		return missing
	}
	// A pattern below it finds something only in a directory; an empty one cannot be read as a file.
	if list, err := p.l.src.files.Glob(name + "/*"); err == nil && len(list) > 0 {
		return directory
	}
	if _, err := p.l.src.files.ReadFile(name); err != nil && (strings.Contains(err.Error(), "regular") || strings.Contains(err.Error(), "directory")) {
		return directory
	}
	return regular
}

// serve finds the file, then asks the modules that work on files.
func (p *ride) serve() {
	root := p.root()
	if root == "" {
		return
	}
	p.file = path.Join(root, p.uri)
	if p.has("mod_alias") {
		s := p.setting("alias.url")
		for _, i := range s.value.list {
			if i.key != "" && strings.HasPrefix(p.uri, i.key) {
				p.file = path.Clean(i.val.s + strings.TrimPrefix(p.uri, i.key))
				p.step(i.at, "alias.url maps %s to %s", show(i.key), show(p.file))
				break
			}
		}
	}
	at := p.setting("server.document-root").at
	p.step(at, "the path stands for %s", show(p.file))
	look := func(name, says string) {
		p.files = append(p.files, pinpoint.Access{Path: name, Want: "read", Says: says, At: at})
	}
	notFound := func() {
		look(p.file, "static file")
		p.refuse(404, pinpoint.Clue{Cause: "wrong-path", ID: "file", Weight: pinpoint.Strong, At: at, Says: fmt.Sprintf("%s does not exist", show(p.file)), Names: map[string]string{"file": p.file}})
	}
	kind := p.stat(p.file)
	if kind == missing {
		// What follows a file is its path-info.
		dir := p.file
		for range 64 {
			if dir = path.Dir(dir); len(dir) <= len(root) {
				break
			}
			if k := p.stat(dir); k == regular {
				p.step(at, "%s is a file; the rest of the path is its path-info", show(dir))
				p.uri = strings.TrimSuffix(p.uri, strings.TrimPrefix(p.file, dir))
				p.uri = strings.TrimSuffix(p.uri, "/")
				p.file, kind = dir, regular
				break
			} else if k == directory {
				break
			}
		}
		if kind == missing {
			notFound()
			return
		}
	} else if kind == regular && strings.HasSuffix(p.uri, "/") {
		p.uri = strings.TrimSuffix(p.uri, "/")
	}
	if kind == directory && !strings.HasSuffix(p.uri, "/") {
		p.status = 301
		p.step(at, "%s is a directory, so lighttpd redirects to %s/", show(p.file), show(p.shown))
		return
	}
	isDir := kind == directory
	for _, m := range p.l.modules {
		switch m {
		case "mod_indexfile":
			if !isDir {
				continue
			}
			s := p.setting("index-file.names")
			if !s.value.array {
				s = p.setting("server.indexfiles")
			}
			for _, n := range s.value.strings() {
				if n == "" {
					continue
				}
				name := path.Join(p.file, n)
				if n[0] == '/' {
					name = path.Join(root, n)
				}
				if p.stat(name) == regular {
					p.step(s.at, "index-file.names finds %s", show(name))
					p.uri, p.file, isDir = path.Join("/", p.uri, n), name, false
					break
				}
			}
		case "mod_access":
			if p.access() {
				return
			}
		case "mod_fastcgi":
			if !isDir && p.gateway("fastcgi.server", p.file, false) {
				look(p.file, "script")
				return
			}
		case "mod_scgi":
			if !isDir && p.gateway("scgi.server", p.file, false) {
				return
			}
		case "mod_cgi":
			for _, i := range p.setting("cgi.assign").value.list {
				if !isDir && strings.HasSuffix(p.file, i.key) {
					p.step(i.at, "mod_cgi runs %s", show(p.file))
					look(p.file, "CGI script")
					return
				}
			}
		case "mod_dirlisting":
			if isDir && (p.method == "GET" || p.method == "HEAD") && (p.setting("dir-listing.activate").value.s == "enable" || p.setting("server.dir-listing").value.s == "enable") {
				p.status = 200
				p.files = append(p.files, pinpoint.Access{Path: p.file, Want: "list", Says: "dir-listing", At: at})
				return
			}
		case "mod_staticfile":
			if isDir || p.method != "GET" && p.method != "HEAD" && p.method != "POST" {
				continue
			}
			s := p.setting("static-file.exclude-extensions")
			if i := slices.IndexFunc(s.value.strings(), func(e string) bool { return e != "" && strings.HasSuffix(p.file, e) }); i >= 0 && s.value.array {
				ext := s.value.strings()[i]
				p.refuse(403, pinpoint.Clue{Cause: "lighttpd-no-handler", ID: "static-file.exclude-extensions", Weight: pinpoint.Certain, At: s.at, Quote: "static-file.exclude-extensions",
					Says:  fmt.Sprintf("no module serves %s: static-file.exclude-extensions in %s leaves %q to a program, and none is configured for it", show(p.file), where(s.at), ext),
					Names: map[string]string{"directive": "static-file.exclude-extensions", "ending": ext},
					Fix:   []string{fmt.Sprintf("Configure the program for %s: load mod_fastcgi and add %q to fastcgi.server (Debian: `lighty-enable-mod fastcgi-php-fpm`)", ext, ext)}})
				return
			}
			look(p.file, "static file")
			p.status = 0
			return
		}
	}
	switch p.method {
	case "OPTIONS":
		p.status = 200
	case "GET", "HEAD", "POST":
		if isDir {
			s := p.setting("index-file.names")
			cause := "no-index-listing-off"
			p.refuse(403, pinpoint.Clue{Cause: cause, ID: "directory", Weight: pinpoint.Certain, At: s.at, Quote: "index-file.names",
				Says:  fmt.Sprintf("%s is a directory without any of %s, and dir-listing.activate is off; lighttpd logs nothing of it", show(p.file), show(strings.Join(s.value.strings(), ", "))),
				Names: map[string]string{"path": p.shown, "directive": "index-file.names"}})
			return
		}
		p.refuse(403, pinpoint.Clue{Cause: "lighttpd-no-handler", ID: "handler", Weight: pinpoint.Certain, At: at, Says: "no module of lighttpd serves this file"})
	default:
		p.refuse(501, pinpoint.Clue{Cause: "method-not-allowed", ID: "handler", Weight: pinpoint.Certain, At: at, Says: fmt.Sprintf("no module of lighttpd serves %s here; mod_staticfile knows GET, HEAD and POST", show(p.method))})
	}
}
