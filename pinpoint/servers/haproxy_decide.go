package servers

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// Decide walks the configuration in HAProxy's order: the bind line, tcp-request rules, http-request rules
// and redirects of the frontend, use_backend, then the same of the backend, and its servers.
func (h *HAProxy) Decide(a pinpoint.Arrival) pinpoint.Decision {
	p := h.follow(a)
	d := p.decision()
	d.User = h.user
	seen := map[pinpoint.LogFile]bool{}
	if p.fe != nil {
		for _, l := range p.fe.logs {
			file := logOf(l)
			if l.word(1) == "global" {
				for _, g := range h.logs {
					if !seen[g] {
						seen[g] = true
						d.Logs = append(d.Logs, p.logFormat(g))
					}
				}
			} else if !seen[file] {
				seen[file] = true
				d.Logs = append(d.Logs, p.logFormat(file))
			}
			if len(d.Logs) >= 8 {
				break
			}
		}
	}
	if len(d.Logs) > 1 {
		d.Logs = slices.CompactFunc(d.Logs, func(a, b pinpoint.LogFile) bool { return a.Path == b.Path })
	}
	return d
}

func (p *passage) logFormat(l pinpoint.LogFile) pinpoint.LogFile {
	switch {
	case p.fe.settings["log-format"].words != nil:
		l.Format = p.fe.settings["log-format"].word(1)
	case p.fe.options["httplog"].words != nil:
		l.Format = "httplog"
	case p.fe.options["httpslog"].words != nil:
		l.Format = "httpslog"
	case p.fe.options["tcplog"].words != nil:
		l.Format = "tcplog"
	}
	return l
}

func (h *HAProxy) follow(a pinpoint.Arrival) *passage {
	p := &passage{walk: begin("haproxy", a, h.env.Vault), h: h, vars: map[string]sample{}, lost: map[string]string{}, budget: 200_000}
	p.src, p.asked = p.client, p.method
	p.deps = map[string]bool{}
	if a.Request == nil {
		return p
	}
	best, rank, rivals := (*proxy)(nil), 0, 0
	for _, px := range h.proxies {
		if px.off || px.kind == "backend" {
			continue
		}
		for _, b := range px.binds {
			switch r := b.takes(a); {
			case r > rank:
				best, p.bind, rank, rivals = px, b, r, 0
			case r == rank && r > 0 && px != best:
				rivals++
			}
		}
	}
	if best == nil {
		p.step(h.first, "no bind line listens on %s", a.Local)
		return p
	}
	p.fe = best
	p.step(p.bind.at, "%s %s takes what comes to %s", best.kind, show(best.name), cmp.Or(a.Socket, a.Local.String()))
	if rivals > 0 {
		p.unsure++
		p.step(p.bind.at, "another section listens there too: the kernel chooses between them")
	}
	if p.bind.has("accept-proxy") {
		p.step(p.bind.at, "accept-proxy: the address of the client is the one that the proxy protocol names")
	}
	if p.connection() || p.tls() {
		return p
	}
	if !p.fe.http {
		p.tcp()
		return p
	}
	if p.head() || p.rules(p.fe, "tcp-request content") || p.monitor() || p.http(p.fe) {
		return p
	}
	if p.be = p.choose(); p.be == nil {
		return p
	}
	if p.be != p.fe && (p.rules(p.be, "tcp-request content") || p.http(p.be)) {
		return p
	}
	p.responses()
	p.toServer("http")
	return p
}

// all are the rules of a kind, those of a named defaults section first.
func (px *proxy) all(sets ...string) (list []*rule) {
	if px.defaults != nil && px.defaults.name != "" {
		for _, r := range px.defaults.rules {
			if slices.Contains(sets, r.set) {
				list = append(list, r)
			}
		}
	}
	for _, r := range px.rules {
		if slices.Contains(sets, r.set) {
			list = append(list, r)
		}
	}
	return list
}

func (p *passage) connection() bool {
	return p.rules(p.fe, "tcp-request connection") || p.rules(p.fe, "tcp-request session")
}

// rules walks tcp-request rules.
func (p *passage) rules(px *proxy, set string) bool {
	for _, r := range px.all(set) {
		t := p.evaluate(r.cond, px)
		if t == no {
			continue
		}
		switch r.action {
		case "accept":
			if t == maybe {
				p.doubt(r)
				continue
			}
			p.step(r.line.at, "`%s` holds", r.says())
			return false
		case "reject", "silent-drop":
			if t == maybe {
				p.maybe(r, 0)
				continue
			}
			p.closed = true
			p.deny(r, 0, "haproxy-acl-deny", "closes the connection without an answer")
			return true
		case "set-src":
			p.setSrc(r, t)
		case "set-var", "set-var-fmt":
			p.setVar(r, t)
		default:
			if strings.HasPrefix(r.action, "lua.") || strings.HasPrefix(r.action, "expect-") {
				p.step(r.line.at, "`%s` is not evaluated", r.says())
			}
		}
	}
	return false
}

// says is a rule as one would quote it; values of credentials are left out.
func (r *rule) says() string {
	s := r.set
	if r.action != "" {
		s += " " + r.action
	}
	if r.action != "set-header" && r.action != "add-header" || len(r.args) > 0 && !secretive(r.args[0]) {
		for _, a := range r.args {
			s += " " + a
		}
	}
	if r.cond != nil {
		s += " " + r.cond.text
	}
	return show(s)
}

// doubt notes a rule that ends the walk if its condition holds, which is not known.
func (p *passage) doubt(r *rule) {
	p.step(r.line.at, "whether `%s` holds is not known: %s", r.says(), strings.Join(p.saw, "; "))
	p.unsure++
}

// tls looks at the handshake.
func (p *passage) tls() bool {
	ssl := p.bind.has("ssl")
	clue := func(cause, says string, fix ...string) {
		p.closed = true
		p.refuse(0, pinpoint.Clue{Cause: cause, ID: "bind", Weight: pinpoint.Certain, At: p.bind.at, Quote: "bind " + strings.Join(p.bind.words, " "), Says: says, Fix: fix})
	}
	switch {
	case ssl && !p.a.TLS && p.fe.http:
		clue("plain-http-on-tls-port", fmt.Sprintf("the port of `bind` in %s speaks TLS, and the request is plain HTTP; HAProxy closes the connection", where(p.bind.at)), "Use https:// for this port")
		return true
	case ssl && p.bind.after("verify") == "required":
		switch p.a.Cert {
		case "none":
			clue("mtls-client-cert-missing", fmt.Sprintf("`verify required` in %s ends the TLS handshake of clients without a certificate", where(p.bind.at)), "Send a client certificate: `curl --cert client.pem --key client.key …`")
			return true
		case "expired", "untrusted":
			clue("mtls-client-cert-invalid", fmt.Sprintf("`verify required` in %s ends the TLS handshake: the client certificate is %s", where(p.bind.at), p.a.Cert), "Renew the certificate of the client, or send its chain; its issuer must be in the ca-file of the bind line")
			return true
		}
	case ssl && p.bind.has("strict-sni") && p.a.SNI == "":
		p.step(p.bind.at, "strict-sni: a handshake without a server name is refused")
	}
	return false
}

// head looks at what the parser of HTTP/1 refuses.
func (p *passage) head() bool {
	bad := func(cause, says, fix string) bool {
		p.refuse(p.errorStatus(400), pinpoint.Clue{Cause: cause, ID: "parser", Weight: pinpoint.Certain, At: p.fe.at, Says: says, Fix: []string{fix}})
		return true
	}
	size := len(p.method) + len(p.target) + 12 + len("Host: \r\n") + len(p.host)
	for _, f := range p.header {
		size += len(f.Name) + len(f.Value) + 4
	}
	if limit := p.h.bufsize - 1024; size > limit {
		return bad("header-too-large", fmt.Sprintf("the head of the request has %d bytes; HAProxy takes %d (tune.bufsize less tune.maxrewrite)", size, limit), "Send a shorter URL and fewer cookies")
	}
	for i := range len(p.target) {
		if c := p.target[i]; c <= ' ' || c >= 0x7f {
			if p.fe.options["accept-invalid-http-request"].words == nil {
				return bad("haproxy-bad-request", "the URL holds a byte that must be escaped (a blank, a control character or one above 0x7e)", "Escape the URL: %20 for a blank, UTF-8 as %XX")
			}
			break
		}
	}
	return false
}

// monitor answers the checks of a balancer in front.
func (p *passage) monitor() bool {
	l := p.fe.settings["monitor-uri"]
	if l.words == nil || p.target != l.word(1) {
		return false
	}
	for _, r := range p.fe.all("monitor") {
		if t := p.evaluate(r.cond, p.fe); t == yes {
			p.refuse(p.errorStatus(503), pinpoint.Clue{Cause: "upstream-unavailable", ID: "monitor", Weight: pinpoint.Strong, At: r.line.at, Quote: r.says(), Says: "`" + r.says() + "` holds, so the monitor answers 503"})
			return true
		} else if t == maybe {
			p.maybe(r, 503)
		}
	}
	p.status = 200
	p.step(l.at, "`monitor-uri` answers 200")
	return true
}

// http walks the rules of one proxy. It says that HAProxy answered.
func (p *passage) http(px *proxy) bool {
	if !px.http {
		p.step(px.at, "%s %s has no `mode http`", px.kind, show(px.name))
	}
	for _, r := range px.all("block") {
		switch p.evaluate(r.cond, px) {
		case yes:
			p.deny(r, p.errorStatus(403), "", "answers 403")
			return true
		case maybe:
			p.maybe(r, 403)
		}
	}
	stop := false
	for _, r := range px.all("http-request") {
		t := p.evaluate(r.cond, px)
		if t == no {
			continue
		}
		done, allow := p.act(r, px, t)
		if done {
			return true
		}
		if stop = allow; stop {
			p.step(r.line.at, "`%s` holds: the rules after it are passed over", r.says())
			break
		}
	}
	if p.stats(px) {
		return true
	}
	for _, r := range px.all("redirect") {
		switch t := p.evaluate(r.cond, px); t {
		case yes:
			p.redirect(r, append([]string{r.action}, r.args...))
			return true
		case maybe:
			p.doubt(r)
		}
	}
	return false
}

// act is one http-request rule whose condition holds, or may.
func (p *passage) act(r *rule, px *proxy, t truth) (done, allow bool) {
	code := func(otherwise int, words ...string) int {
		for _, w := range append(words, "deny_status", "status") {
			if i := slices.Index(r.args, w); i >= 0 && i+1 < len(r.args) {
				if n, err := strconv.Atoi(r.args[i+1]); err == nil {
					return n
				}
			}
		}
		return otherwise
	}
	end := func(status int, cause, does string) (bool, bool) {
		if t == maybe {
			p.maybe(r, status)
			return false, false
		}
		p.deny(r, status, cause, does)
		return true, false
	}
	switch r.action {
	case "allow":
		if t == maybe {
			p.doubt(r)
			return false, false
		}
		return false, true
	case "deny", "block":
		n := code(403)
		shown := n
		if !slices.ContainsFunc(r.args, func(a string) bool {
			return a == "content-type" || a == "file" || a == "string" || a == "lf-string" || a == "lf-file" || a == "errorfile"
		}) {
			shown = p.errorStatus(n)
		}
		return end(shown, "", fmt.Sprintf("answers %d", n))
	case "tarpit":
		n := code(500)
		wait := cmp.Or(p.timeout("tarpit"), p.timeout("connect"), "the timeout")
		return end(p.errorStatus(n), "haproxy-tarpit", fmt.Sprintf("keeps the client waiting for %s, then answers %d", wait, n))
	case "reject", "silent-drop":
		if t == yes {
			p.closed = true
		}
		return end(0, "", "closes the connection without an answer")
	case "return":
		n := code(200)
		if n < 400 && t == yes {
			p.status = n
			p.step(r.line.at, "`%s` answers %d", r.says(), n)
			return true, false
		}
		return end(n, "gw-termination", fmt.Sprintf("answers %d", n))
	case "redirect":
		if t == maybe {
			p.doubt(r)
			return false, false
		}
		p.redirect(r, r.args)
		return true, false
	case "auth":
		n := 401
		if t == maybe {
			p.maybe(r, n)
			return false, false
		}
		p.authenticate(r)
		return true, false
	case "use-service":
		if t == yes {
			p.status = 200
			p.step(r.line.at, "`%s` answers by itself", r.says())
			return true, false
		}
		p.doubt(r)
	case "set-src":
		p.setSrc(r, t)
	case "set-var", "set-var-fmt":
		p.setVar(r, t)
	case "set-path", "set-pathq", "set-query", "set-uri", "set-method", "set-header", "add-header", "del-header", "replace-header", "replace-value", "replace-path", "replace-pathq", "replace-uri", "normalize-uri":
		p.rewrite(r, t)
	default:
		if strings.HasPrefix(r.action, "lua.") {
			p.doubt(r)
		} else if strings.HasPrefix(r.action, "set-var(") || strings.HasPrefix(r.action, "set-var-fmt(") {
			p.setVar(r, t)
		} else if strings.HasPrefix(r.action, "send-spoe") {
			p.step(r.line.at, "`%s` asks an agent; what it sets is not known here", r.says())
		}
	}
	return false, false
}

func (p *passage) timeout(name string) string {
	for _, px := range []*proxy{p.be, p.fe} {
		if px != nil && px.settings["timeout "+name].words != nil {
			return px.settings["timeout "+name].word(2)
		}
	}
	return ""
}

func (p *passage) setSrc(r *rule, t truth) {
	values, why := p.value(parseExpression(first(r.args)))
	if t != yes || why != "" {
		p.src = netip.Addr{}
		p.step(r.line.at, "what `%s` takes for the client is not known", r.says())
		return
	}
	if len(values) > 0 {
		v := values[len(values)-1]
		a := v.addr
		if !a.IsValid() {
			a, _ = netip.ParseAddr(v.s)
		}
		if a.IsValid() {
			p.src = a.Unmap()
			p.step(r.line.at, "`%s` takes %s for the client", r.says(), a)
		}
	}
}

func first(list []string) string {
	if len(list) > 0 {
		return list[0]
	}
	return ""
}

// setVar keeps a variable: set-var(txn.x) expression.
func (p *passage) setVar(r *rule, t truth) {
	_, rest, ok := strings.Cut(r.action, "(")
	name, _, closed := strings.Cut(rest, ")")
	if !ok || !closed || len(p.vars) > 1000 {
		return
	}
	name, _, _ = strings.Cut(name, ",")
	if t == maybe {
		p.lost[name] = "whether `" + r.says() + "` ran is not known"
		return
	}
	if strings.HasPrefix(r.action, "set-var-fmt") {
		s, why := p.format(first(r.args))
		if why != "" {
			p.lost[name] = why
			return
		}
		p.vars[name] = text(s)
		delete(p.lost, name)
		return
	}
	values, why := p.value(parseExpression(first(r.args)))
	if why != "" {
		p.lost[name] = why
		return
	}
	if len(values) > 0 {
		p.vars[name] = values[len(values)-1]
		delete(p.lost, name)
	}
}

// rewrite changes the request for the rules behind and for the server.
func (p *passage) rewrite(r *rule, t truth) {
	fail := func(why string) {
		p.unsure++
		p.step(r.line.at, "what `%s` makes is not known: %s", r.says(), why)
	}
	if t == maybe {
		fail(strings.Join(p.saw, "; "))
		return
	}
	last := ""
	if len(r.args) > 0 {
		last = r.args[len(r.args)-1]
	}
	setTarget := func(s string) {
		if len(s) <= maxText {
			p.target = s
			p.shown = pathOf(p.vault.Redact(s))
			p.step(r.line.at, "`%s` makes the path %s", r.says(), show(p.shown))
		}
	}
	query := ""
	if _, q, ok := strings.Cut(p.target, "?"); ok {
		query = "?" + q
	}
	switch r.action {
	case "normalize-uri":
		fail("the target is normalised")
		return
	case "del-header":
		name := strings.ToLower(first(r.args))
		match := ""
		if i := slices.Index(r.args, "-m"); i > 0 && i+1 < len(r.args) {
			match = r.args[i+1]
		}
		if match == "" && name == "host" {
			p.host = ""
		}
		var kept pinpoint.Header
		for _, f := range p.header {
			if m := matchPattern(text(strings.ToLower(f.Name)), cmp.Or(match, "str"), name, false); m != yes {
				kept = append(kept, f)
			}
		}
		p.header = kept
		return
	case "replace-header", "replace-value":
		if len(r.args) < 3 {
			return
		}
		re := compile(r.args[1], false)
		for i, f := range p.header {
			if !strings.EqualFold(f.Name, r.args[0]) || re == nil || re.fast == nil {
				continue
			}
			if g := re.fast.FindStringSubmatch(f.Value); g != nil {
				to, why := p.format(r.args[2])
				if why != "" {
					fail(why)
					return
				}
				p.header[i].Value = backrefs(to, g)
			}
		}
		return
	case "replace-path", "replace-pathq", "replace-uri":
		if len(r.args) < 2 {
			return
		}
		in := pathOf(p.target)
		if r.action != "replace-path" {
			in, query = p.target, ""
		}
		re := compile(r.args[0], false)
		if re == nil || re.fast == nil {
			fail("its expression")
			return
		}
		groups := re.fast.FindStringSubmatch(in)
		if groups == nil {
			return
		}
		to, why := p.format(r.args[1])
		if why != "" {
			fail(why)
			return
		}
		setTarget(backrefs(to, groups) + query)
		return
	}
	to, why := p.format(last)
	if why != "" {
		if r.action == "set-header" || r.action == "add-header" {
			// A field that is not known is rarely looked at again.
			if h := first(r.args); r.action == "set-header" {
				p.header = p.header.Without(h)
			}
			p.step(r.line.at, "what `%s` writes is not known: %s", r.says(), why)
			return
		}
		fail(why)
		return
	}
	switch r.action {
	case "set-path":
		setTarget(to + query)
	case "set-pathq", "set-uri":
		setTarget(to)
	case "set-query":
		setTarget(pathOf(p.target) + "?" + strings.TrimPrefix(to, "?"))
	case "set-method":
		p.method = to
	case "set-header":
		if h := first(r.args); strings.EqualFold(h, "host") {
			p.host = to
		} else {
			p.header = append(p.header.Without(h), pinpoint.Field{Name: h, Value: to})
		}
	case "add-header":
		p.header = append(p.header, pinpoint.Field{Name: first(r.args), Value: to})
	}
}

// redirect answers with another place.
func (p *passage) redirect(r *rule, args []string) {
	p.status = 302
	if i := slices.Index(args, "code"); i >= 0 && i+1 < len(args) {
		if n, err := strconv.Atoi(args[i+1]); err == nil {
			p.status = n
		}
	}
	p.step(r.line.at, "`%s` redirects with %d", r.says(), p.status)
}

// errorStatus is what the file of an errorfile really says: its first line is the status of the answer.
func (p *passage) errorStatus(n int) int {
	for _, px := range []*proxy{p.be, p.fe} {
		if px == nil {
			continue
		}
		l, ok := px.errors[n]
		if !ok {
			continue
		}
		switch l.word(0) {
		case "errorloc", "errorloc302":
			return 302
		case "errorloc303":
			return 303
		}
		lines, why := p.h.table(l.word(2))
		if why != "" || len(lines) == 0 {
			return n
		}
		f := strings.Fields(lines[0].word(0))
		if len(f) > 1 && strings.HasPrefix(f[0], "HTTP/") {
			if s, err := strconv.Atoi(f[1]); err == nil && s != n && s >= 200 && s < 600 {
				p.step(l.at, "`%s` shows %d as %d", show(l.text()), n, s)
				p.masked(n, s, l)
				return s
			}
		}
		return n
	}
	return n
}

func (p *passage) masked(was, shown int, l hapLine) {
	if len(p.hints) < maxClues {
		p.hints = append(p.hints, p.fill(pinpoint.Clue{Cause: "refusal-masked", ID: "errorfile", Weight: pinpoint.Fair, At: l.at, Quote: l.text(),
			Says:  fmt.Sprintf("HAProxy refuses with %d, and the file of `errorfile` in %s says %d; the log has %d", was, where(l.at), shown, was),
			Names: map[string]string{"shown": strconv.Itoa(shown)}}, was))
	}
}

// stats is the page of statistics.
func (p *passage) stats(px *proxy) bool {
	if len(px.stats) == 0 {
		return false
	}
	uri := "/haproxy?stats"
	at := px.at
	for _, l := range px.stats["uri"] {
		uri, at = l.word(2), l.at
	}
	if !strings.HasPrefix(p.target, uri) || len(px.stats["enable"])+len(px.stats["uri"])+len(px.stats["auth"]) == 0 {
		return false
	}
	if list := px.stats["auth"]; len(list) > 0 {
		user, password, ok := p.credentials()
		for _, l := range list {
			u, pw, _ := strings.Cut(l.word(2), ":")
			if ok && u == user && pw == password {
				p.status = 200
				p.step(l.at, "the page of statistics answers")
				return true
			}
		}
		cause, says := "auth-missing", "needs a user and a password"
		if ok {
			cause, says = "basic-credentials-wrong", "does not know this user and password"
		}
		p.refuse(401, pinpoint.Clue{Cause: cause, ID: "stats", Weight: pinpoint.Certain, At: list[0].at, Quote: "stats auth …", Says: fmt.Sprintf("the page of statistics (%s) %s", where(list[0].at), says)})
		return true
	}
	p.status = 200
	p.step(at, "the page of statistics answers")
	return true
}

// authenticate is http-request auth.
func (p *passage) authenticate(r *rule) {
	cause, says := "auth-missing", "the request has no credentials"
	given := p.header.Value("Authorization")
	if given != "" {
		cause, says = "basic-credentials-wrong", "the user or the password is not in the userlist, or not in its group"
		if scheme, _, _ := strings.Cut(given, " "); !strings.EqualFold(scheme, "basic") {
			cause, says = "auth-scheme-wrong", "Authorization has another scheme than Basic"
		}
	}
	fix := "Send the user and the password of the userlist as Basic credentials"
	p.refuse(p.errorStatus(401), pinpoint.Clue{Cause: cause, ID: "auth", Weight: pinpoint.Certain, At: r.line.at, Quote: r.says(),
		Says: fmt.Sprintf("`%s` (%s) asks for a password: %s", r.says(), where(r.line.at), says), Names: map[string]string{"rule": r.says()}, Fix: []string{fix}})
}

// choose finds the backend.
func (p *passage) choose() *proxy {
	for _, r := range p.fe.all("use_backend") {
		switch t := p.evaluate(r.cond, p.fe); t {
		case no:
			continue
		case maybe:
			p.doubt(r)
			continue
		}
		name, why := p.format(r.action)
		if why != "" {
			p.unsure++
			p.step(r.line.at, "the name in `%s` is not known: %s", r.says(), why)
			return nil
		}
		be := p.h.find(name)
		if be != nil {
			p.step(r.line.at, "`%s` chooses %s", r.says(), show(name))
			return p.open(be)
		}
		if !strings.Contains(r.action, "%") {
			p.step(r.line.at, "there is no backend %s", show(name))
		}
		break // a computed name that no backend has leads to default_backend
	}
	if l := p.fe.settings["default_backend"]; l.words != nil {
		if be := p.h.find(l.word(1)); be != nil {
			p.step(l.at, "`%s` takes the rest", show(l.text()))
			return p.open(be)
		}
	}
	if p.fe.kind == "listen" {
		return p.fe
	}
	p.refuse(p.errorStatus(503), pinpoint.Clue{Cause: "gw-route-missing", ID: "use_backend", Weight: pinpoint.Certain, At: p.fe.at,
		Says: fmt.Sprintf("no use_backend of the frontend %s fits this request, and it has no default_backend; HAProxy answers 503", show(p.fe.name)),
		Fix:  []string{fmt.Sprintf("Add a use_backend for this host or path, or a default_backend, to the frontend %s (%s)", show(p.fe.name), where(p.fe.at))}})
	return nil
}

func (p *passage) open(be *proxy) *proxy {
	if !be.off {
		return be
	}
	p.refuse(p.errorStatus(503), pinpoint.Clue{Cause: "upstream-unavailable", ID: "disabled", Weight: pinpoint.Certain, At: be.at, Says: fmt.Sprintf("the backend %s is disabled", show(be.name))})
	return nil
}

// responses keeps rules on answers, which may turn an answer to a refusal.
func (p *passage) responses() {
	for _, px := range []*proxy{p.be, p.fe} {
		for _, r := range px.all("http-response") {
			if r.action == "deny" || r.action == "return" {
				status := 502
				for _, w := range []string{"deny_status", "status"} {
					if i := slices.Index(r.args, w); i >= 0 && i+1 < len(r.args) {
						status, _ = strconv.Atoi(r.args[i+1])
					}
				}
				p.possible(status, pinpoint.Clue{Cause: "haproxy-acl-deny", ID: "http-response", Weight: pinpoint.Hint, At: r.line.at, Quote: r.says(),
					Says: fmt.Sprintf("`%s` (%s) may turn the answer of the server to %d; the log shows PH--", r.says(), where(r.line.at), status), Names: map[string]string{"rule": r.says()}})
			}
		}
		if p.be == p.fe {
			break
		}
	}
}

// toServer hands the request to the servers of the backend.
func (p *passage) toServer(mode string) {
	var up, spare []hapServer
	for _, s := range p.be.servers {
		switch {
		case s.has("disabled"):
		case s.has("backup"):
			spare = append(spare, s)
		default:
			up = append(up, s)
		}
	}
	if len(up) == 0 {
		up = spare
	}
	for _, r := range p.be.all("use-server") {
		t := p.evaluate(r.cond, p.be)
		if i := slices.IndexFunc(p.be.servers, func(s hapServer) bool { return s.name == r.action }); t == yes && i >= 0 {
			up = []hapServer{p.be.servers[i]}
			p.step(r.line.at, "`%s` chooses the server", r.says())
			break
		}
	}
	if len(up) == 0 {
		for _, name := range []string{"dispatch"} {
			if l := p.be.settings[name]; l.words != nil {
				up = []hapServer{{name: name, address: l.word(1), at: l.at}}
			}
		}
	}
	if len(up) == 0 {
		if l := p.be.options["transparent"]; l.words != nil || p.be.options["http_proxy"].words != nil {
			return
		}
		p.refuse(p.errorStatus(503), pinpoint.Clue{Cause: "upstream-unavailable", ID: "server", Weight: pinpoint.Certain, At: p.be.at,
			Says: fmt.Sprintf("the backend %s has no server that is enabled; HAProxy answers 503", show(p.be.name)),
			Fix:  []string{fmt.Sprintf("Add or enable a server in the backend %s (%s)", show(p.be.name), where(p.be.at))}})
		return
	}
	if len(up) > 1 {
		p.step(p.be.at, "the backend %s has %d servers: the request goes to one of them", show(p.be.name), len(up))
	}
	for _, s := range up[:min(len(up), 4)] {
		p.toOne(s, mode)
	}
}

func (p *passage) toOne(s hapServer, mode string) {
	a := s.address
	for {
		head, rest, ok := strings.Cut(a, "@")
		if !ok {
			break
		}
		a = rest
		if head == "unix" && !strings.HasPrefix(a, "/") {
			a = "/" + a
		}
	}
	if !strings.HasPrefix(a, "/") {
		i := strings.LastIndexByte(a, ':')
		if i < 0 || strings.Count(a, ":") > 1 && !strings.Contains(a, "]") && strings.Count(a, ":") > 6 {
			a += ":" + strconv.Itoa(int(p.a.Local.Port()))
		} else if port := a[i+1:]; strings.HasPrefix(port, "+") || strings.HasPrefix(port, "-") {
			n, _ := strconv.Atoi(port)
			a = a[:i+1] + strconv.Itoa(int(p.a.Local.Port())+n)
		}
	}
	tls, scheme := s.has("ssl"), "http"
	if tls {
		scheme = "https"
	}
	if mode == "tcp" && !s.has("ssl") {
		tls = p.a.TLS && !p.bind.has("ssl")
		if tls {
			scheme = "https"
		}
	}
	r := p.outgoing(scheme, p.target)
	if mode == "http" {
		r.Method = p.method
		r.Header = nil
		for _, f := range p.header {
			r.Header = append(r.Header, pinpoint.Field{Name: f.Name, Value: p.vault.Redact(f.Value)})
		}
		if p.host != "" {
			r.Header = append(pinpoint.Header{{Name: "Host", Value: p.host}}, r.Header...)
		}
		p.forwardFor(r)
	}
	n := len(p.next)
	p.forward(s.at, a, tls, r)
	if len(p.next) > n {
		last := &p.next[len(p.next)-1]
		if tls && mode == "tcp" {
			last.SNI, last.Cert = p.a.SNI, p.a.Cert
		} else if tls {
			last.Cert = "none"
			if s.has("crt") {
				last.Cert = ""
			}
		}
		if s.has("send-proxy") || s.has("send-proxy-v2") || s.has("send-proxy-v2-ssl") || s.has("send-proxy-v2-ssl-cn") {
			p.step(s.at, "send-proxy: the server behind must read the proxy protocol to know the client")
		}
	}
}

// forwardFor is option forwardfor of the frontend or of the backend.
func (p *passage) forwardFor(r *pinpoint.Request) {
	for _, px := range []*proxy{p.be, p.fe} {
		l := px.options["forwardfor"]
		if l.words == nil || !p.src.IsValid() {
			continue
		}
		name := "X-Forwarded-For"
		for i, w := range l.words {
			if w == "header" {
				name = cmp.Or(l.word(i+1), name)
			}
			if w == "except" && inside(p.src, l.word(i+1)) == yes {
				return
			}
		}
		if slices.Contains(l.words, "if-none") && r.Header.Has(name) {
			return
		}
		r.Header = append(r.Header, pinpoint.Field{Name: name, Value: p.src.String()})
		return
	}
}

// tcp forwards without reading HTTP.
func (p *passage) tcp() {
	if p.rules(p.fe, "tcp-request content") {
		return
	}
	p.step(p.fe.at, "%s %s forwards connections (mode tcp): it does not read the request", p.fe.kind, show(p.fe.name))
	if p.be = p.choose(); p.be == nil {
		p.status, p.closed = 0, true
		return
	}
	if p.be != p.fe && p.rules(p.be, "tcp-request content") {
		return
	}
	p.toServer("tcp")
}

// kinds are the causes behind what a condition looks at, beside the path, which only narrows it.
func (p *passage) kinds() (found []string) {
	for d := range p.deps {
		if d != "path" && d != "query" && d != "hdr:host" {
			found = append(found, d)
		}
	}
	slices.Sort(found)
	return found
}

// deny explains a rule that holds.
func (p *passage) deny(r *rule, status int, cause, does string) {
	saw := strings.Join(p.saw, "; ")
	rule := r.says()
	c := pinpoint.Clue{Cause: cmp.Or(cause, "haproxy-acl-deny"), ID: "rule", Weight: pinpoint.Certain, At: r.line.at, Quote: rule, Names: p.names(r)}
	term := "PR--"
	if cause == "haproxy-tarpit" {
		term = "PT--"
	} else if cause == "gw-termination" {
		term = "LR--"
	}
	c.Says = fmt.Sprintf("`%s` in %s holds and %s", rule, where(r.line.at), does)
	if saw != "" {
		c.Says += ": " + saw
	}
	c.Says += "; the log shows " + term + " and <NOSRV>"
	c.Names["term"] = term
	if r.cond == nil {
		c.Says = fmt.Sprintf("`%s` in %s has no condition and %s every request that comes to it; the log shows %s and <NOSRV>", rule, where(r.line.at), map[bool]string{true: "closes the connection of", false: "refuses"}[status == 0], term)
		c.Fix = []string{fmt.Sprintf("If this request is to pass, add an ACL to the rule in %s, or an http-request allow with a narrow ACL before it", where(r.line.at))}
	} else {
		c.Fix = []string{fmt.Sprintf("Correct the condition of `%s` (%s) so that it does not take this request in", rule, where(r.line.at))}
	}
	clues := []pinpoint.Clue{c}
	deps := p.kinds()
	if len(deps) == 1 && cause == "" {
		if more, ok := p.about(deps[0], r, rule); ok {
			more.At, more.Quote, more.ID = c.At, c.Quote, c.ID
			if more.Names == nil {
				more.Names = p.names(r)
			}
			more.Names["mechanism"] = "haproxy-acl-deny"
			more.Says += ": " + c.Says
			if len(more.Fix) == 0 {
				more.Fix = c.Fix
			}
			if more.Weight == pinpoint.Certain {
				clues[0].Weight = pinpoint.Strong
				clues = append([]pinpoint.Clue{more}, clues...)
			} else {
				clues = append(clues, more)
			}
		}
	}
	if lost, ok := p.lostClient(r); ok {
		clues[0].Weight = min(clues[0].Weight, pinpoint.Strong)
		clues = append([]pinpoint.Clue{lost}, clues...)
	}
	p.step(r.line.at, "%s", c.Says)
	p.refuse(status, clues...)
}

func (p *passage) names(r *rule) map[string]string {
	names := map[string]string{"rule": r.says(), "directive": r.says()}
	var list []string
	for name, v := range p.seen {
		if len(list) < 20 {
			list = append(list, name+" "+v)
		}
	}
	slices.Sort(list)
	if len(list) > 0 {
		names["acl"] = strings.Join(list, ", ")
	}
	return names
}

// about says what a condition on one thing is about.
func (p *passage) about(dep string, r *rule, rule string) (c pinpoint.Clue, ok bool) {
	c.Weight = pinpoint.Certain
	field, isField := strings.CutPrefix(dep, "hdr:")
	switch {
	case dep == "method":
		c.Cause, c.Says = "method-denied-by-rule", fmt.Sprintf("the method %s is refused", show(p.method))
	case field == "user-agent":
		c.Cause, c.Says = "user-agent-blocked", fmt.Sprintf("the User-Agent %q is refused", show(p.vault.Redact(p.header.Value("User-Agent"))))
		c.Fix = []string{fmt.Sprintf("Identify the client by an honest name of its own, and let the rule in %s name only the clients that are meant", where(r.line.at))}
	case field == "referer":
		c.Cause, c.Says = "hotlink-referer", "the Referer, or that there is none, is refused"
	case field == "origin":
		c.Cause, c.Says = "cors-origin-not-allowed", "the Origin is refused"
	case field == "content-type":
		c.Cause, c.Says = "content-type-unsupported", "the Content-Type is refused"
	case dep == "ssl" && !p.a.TLS, field == "x-forwarded-proto":
		c.Cause, c.Says = "https-required", "plain HTTP is refused"
		c.Fix = []string{"Use https://; a balancer in front must send X-Forwarded-Proto"}
	case dep == "cert":
		c.Cause, c.Says = "mtls-client-cert-missing", "no valid client certificate was sent"
		if p.a.Cert == "expired" || p.a.Cert == "untrusted" {
			c.Cause, c.Says = "mtls-client-cert-invalid", "the client certificate is "+p.a.Cert
		}
	case dep == "auth":
		c.Cause, c.Says = "auth-missing", "the request has no Basic credentials"
		if p.header.Has("Authorization") {
			c.Cause, c.Says = "basic-credentials-wrong", "the user or the password is not in the userlist"
		}
	case field == "authorization":
		c.Cause, c.Says = "auth-missing", "the request has no Authorization"
		if p.header.Has("Authorization") {
			c.Cause, c.Says = "auth-credentials-invalid", "the Authorization is refused"
		}
	case isField && secretive(field) && field != "cookie":
		c.Cause, c.Says = "api-key-missing", "the request has no field "+show(field)
		if p.header.Has(field) {
			c.Cause, c.Says = "api-key-invalid", "the value of the field "+show(field)+" is refused"
		}
		c.Names = p.names(r)
		c.Names["field"] = field
	case dep == "src":
		c.Cause, c.Says, c.Weight = "ip-denied", fmt.Sprintf("the address %s is judged", p.src), pinpoint.Hint
		if strings.Contains(rule, "!") || strings.Contains(rule, "unless") {
			c.Cause = "ip-allowlist-miss"
		}
	default:
		return c, false
	}
	return c, true
}

// lostClient asks whether the rule would hold for the client that X-Forwarded-For names.
func (p *passage) lostClient(r *rule) (c pinpoint.Clue, ok bool) {
	real, has := p.forwardedFor()
	if !p.deps["src"] || !has || !p.src.IsValid() || !private(p.src) || real == p.src || r.cond == nil {
		return c, false
	}
	saw, deps, seen, src := p.saw, p.deps, p.seen, p.src
	defer func() { p.saw, p.deps, p.seen, p.src = saw, deps, seen, src }()
	px := p.fe
	if p.be != nil && !slices.Contains(p.fe.rules, r) {
		px = p.be
	}
	p.src = real
	if p.evaluate(r.cond, px) != no {
		return c, false
	}
	set := "http-request set-src hdr_ip(x-forwarded-for,-1) if { src " + src.String() + " }"
	return pinpoint.Clue{Cause: "client-ip-lost-behind-proxy", ID: "src", Weight: pinpoint.Certain, At: r.line.at, Quote: r.says(), Names: p.names(r),
		Says: fmt.Sprintf("`%s` in %s judges %s, which is a proxy in front; for %s, which X-Forwarded-For names, the rule would not hold", r.says(), where(r.line.at), src, real),
		Fix:  []string{fmt.Sprintf("Before the rule in %s add `%s`, for your own proxies only; or let the proxy in front send the proxy protocol and add accept-proxy to the bind line", where(r.line.at), set)}}, true
}

// maybe keeps a rule that refuses if its condition holds, which is not known here.
func (p *passage) maybe(r *rule, status int) {
	saw := strings.Join(p.saw, "; ")
	c := pinpoint.Clue{Cause: "haproxy-acl-deny", ID: "rule", Weight: pinpoint.Fair, At: r.line.at, Quote: r.says(), Names: p.names(r)}
	c.Says = fmt.Sprintf("`%s` in %s refuses with %d if it holds, which is not known here: %s", r.says(), where(r.line.at), status, saw)
	if r.action == "tarpit" {
		c.Cause = "haproxy-tarpit"
	}
	if p.deps["rate"] {
		c.Cause = map[int]string{403: "rate-limit-as-403", 503: "rate-limit-as-503"}[status]
		if c.Cause == "" {
			c.Cause = "rate-limit"
		}
		if r.action == "tarpit" {
			c.Cause = "haproxy-tarpit"
		}
		if p.a.Status == status {
			c.Weight = pinpoint.Strong
		}
		c.ID = "stick-table"
		c.Says = fmt.Sprintf("`%s` in %s refuses with %d when a counter of a stick table is above its limit; it is the only condition left: %s", r.says(), where(r.line.at), status, saw)
		c.Fix = []string{fmt.Sprintf("Slow down and try again when the period of the stick table is over; as owner, raise the limit in %s for clients that need it, or track a better key than the address. `show table` on the stats socket shows the counters", where(r.line.at))}
		p.rates++
	} else {
		p.unsure++
	}
	p.step(r.line.at, "%s", c.Says)
	p.possible(status, c)
}
