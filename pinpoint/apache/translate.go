package apache

import (
	"net/netip"
	"path"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// translate maps the URL: rules of the server, ProxyPass, Redirect, Alias, DocumentRoot.
func (r *request) translate() *refusal {
	uri := r.uri
	if s := r.srv.rewrite; s.on() && r.c.has("rewrite") && !r.ended && len(s.rules) > 0 {
		out := r.apply(s, uri)
		if out.refused != nil {
			return out.refused
		}
		if out.end {
			r.ended = true
		}
		if out.by != nil && (out.changed || out.redir != 0) {
			r.step(out.by.d.at, "“"+out.by.d.String()+"” makes "+cut(uri, 120)+" to "+cut(out.to, 200))
		}
		switch {
		case out.proxy:
			r.toProxy(out.to, out.by.d)
			return nil
		case out.redir != 0:
			return r.redirected(out.redir, out.by.d)
		case out.changed:
			r.query = out.query
			if out.to != uri {
				r.rewritten = out.by
			}
			if !strings.HasPrefix(out.to, "/") {
				return r.relative(out)
			}
			if out.pass {
				r.uri = out.to
				break
			}
			first, _, _ := strings.Cut(out.to[1:], "/")
			if first != "" && exists(r.c.files, "/"+first) {
				r.filename = out.to
				return nil
			}
			r.filename = strings.TrimSuffix(r.srv.root, "/") + out.to // Location is still held against the old URL
			return nil
		}
	}
	if r.c.has("proxy") && r.proxyPass() {
		return nil
	}
	if ref := r.redirects(r.srv.redirect); ref != nil {
		return ref
	}
	if r.c.has("alias") && r.aliased() {
		return nil
	}
	r.filename = strings.TrimSuffix(r.srv.root, "/") + r.uri
	return nil
}

// relative refuses what a rule of a server made of the path, if that is no path.
func (r *request) relative(out rewritten) *refusal {
	c := r.clue("apache-rewrite-unsafe", pinpoint.Strong, pinpoint.Place{})
	if out.by != nil {
		c.At = out.by.d.at
		c.Quote, c.Names["rule"], c.Names["directive"] = out.by.d.String(), out.by.d.String(), out.by.d.String()
		c.Says = "“" + out.by.d.String() + "” at " + placeText(c.At) + " makes the path to “" + cut(out.to, 80) + "”, which does not begin with a slash; httpd answers 400."
		c.Fix = []string{"Begin the target of “" + out.by.d.String() + "” at " + placeText(c.At) + " with a slash."}
	}
	return r.refuse(400, c)
}

// under says that a URL lies at or below a prefix, and gives the rest.
func under(uri, prefix string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(uri, prefix)
	if !ok || prefix == "" {
		return "", false
	}
	return rest, rest == "" || rest[0] == '/' || strings.HasSuffix(prefix, "/")
}

// aliased is Alias and its kin.
func (r *request) aliased() bool {
	if d := r.pre.alias; d != nil && len(d.args) == 1 {
		r.filename = r.c.path(d.arg(0))
		for _, l := range r.srv.urls {
			if l.scope.alias == d && l.regex == nil {
				if rest, ok := under(r.uri, l.pattern); ok {
					r.filename, r.prefix, r.prefixRoot = r.c.path(d.arg(0))+rest, l.pattern, r.c.path(d.arg(0))
				}
			}
		}
		r.script = d.name == "scriptalias"
		r.step(d.at, "“"+d.String()+"” maps it to "+r.filename)
		return true
	}
	for _, d := range r.srv.aliasing {
		var to string
		if strings.HasSuffix(d.name, "match") {
			re, err := compile(d.arg(0), false)
			if err != nil {
				continue
			}
			g, _ := re.match(r.uri)
			if g == nil {
				continue
			}
			to = fill(d.arg(1), g)
		} else {
			rest, ok := under(r.uri, d.arg(0))
			if !ok {
				continue
			}
			to = d.arg(1) + rest
			if !path.IsAbs(to) {
				to = r.c.path(d.arg(1)) + rest
			}
			r.prefix, r.prefixRoot = d.arg(0), r.c.path(d.arg(1))
		}
		if !path.IsAbs(to) {
			to = r.c.path(to)
		}
		r.filename = to
		r.script = strings.HasPrefix(d.name, "script")
		r.step(d.at, "“"+d.String()+"” maps it to "+r.filename)
		return true
	}
	return false
}

// redirects is Redirect and RedirectMatch, where they come first in a list.
func (r *request) redirects(ds []*directive) *refusal {
	if !r.c.has("alias") {
		return nil
	}
	for _, d := range ds {
		args := d.args
		status := 302
		switch d.name {
		case "redirectpermanent":
			status = 301
		case "redirect", "redirectmatch":
			if len(args) > 0 {
				known := true
				switch a := lower(args[0]); a {
				case "permanent":
					status = 301
				case "temp":
				case "seeother":
					status = 303
				case "gone":
					status = 410
				default:
					n, err := strconv.Atoi(a)
					if known = err == nil; known {
						status = n
					}
				}
				if known {
					args = args[1:]
				}
			}
		}
		hit := len(args) == 0 || len(args) == 1 && status >= 300 && status < 400
		if !hit {
			if strings.HasSuffix(d.name, "match") {
				re, err := compile(args[0], false)
				if err != nil {
					hit = r.doubt("whether “"+d.String()+"” matches", d.at)
				} else {
					g, err := re.match(r.uri)
					hit = g != nil || err != nil && r.doubt("whether “"+d.String()+"” matches", d.at)
				}
			} else {
				_, hit = under(r.uri, args[0])
			}
		}
		if !hit {
			continue
		}
		if status >= 300 && status < 400 {
			return r.redirected(status, d)
		}
		c := r.clue("apache-rewrite-forbidden", pinpoint.Certain, d.at)
		c.ID = "apache-redirect"
		c.Quote, c.Names["directive"], c.Names["rule"], c.Names["path"] = d.String(), d.String(), d.String(), r.uri
		c.Says = "“" + d.String() + "” at " + placeText(d.at) + " answers " + strconv.Itoa(status) + " by itself; the error log is silent about it."
		c.Fix = []string{"Take this path out of “" + d.String() + "” at " + placeText(d.at) + " if it is in use."}
		return r.refuse(status, c)
	}
	return nil
}

// redirected ends with a redirect, which is no refusal.
func (r *request) redirected(status int, d *directive) *refusal {
	if d != nil {
		r.step(d.at, "“"+d.String()+"” redirects with "+strconv.Itoa(status))
	} else {
		r.step(pinpoint.Place{}, "mod_dir redirects to the URL with a slash at its end")
	}
	return r.refuse(status)
}

// proxyPass is ProxyPass and ProxyPassMatch, in sections first.
func (r *request) proxyPass() bool {
	if d := r.pre.proxyPass; d != nil && len(d.args) > 0 {
		if d.arg(0) == "!" {
			return false
		}
		target := d.arg(0)
		for _, l := range r.srv.urls {
			if l.scope.proxyPass != d {
				continue
			}
			if l.regex != nil {
				if g, _ := l.regex.match(r.uri); g != nil {
					target = fill(target, g)
				}
			} else if rest, ok := under(r.uri, l.pattern); ok {
				target += rest
			}
		}
		r.toProxy(target, d)
		return true
	}
	for _, d := range r.srv.proxy {
		if len(d.args) < 2 {
			continue
		}
		target := d.arg(1)
		if d.name == "proxypassmatch" {
			re, err := compile(d.arg(0), false)
			if err != nil {
				continue
			}
			g, _ := re.match(r.uri)
			if g == nil {
				continue
			}
			if target == "!" {
				return false
			}
			if strings.Contains(target, "$") {
				target = fill(target, g)
			} else {
				target += r.uri
			}
		} else {
			rest, ok := under(r.uri, d.arg(0))
			if !ok {
				continue
			}
			if target == "!" {
				return false
			}
			target += rest
		}
		r.toProxy(target, d)
		return true
	}
	return false
}

func (r *request) toProxy(target string, d *directive) {
	r.proxied, r.proxyFrom = target, d
	at := pinpoint.Place{}
	text := "a handler"
	if d != nil {
		at, text = d.at, "“"+d.String()+"”"
	}
	r.step(at, text+" hands the request on to "+cut(target, 200))
}

// forward makes the next arrivals.
func (r *request) forward() *refusal {
	target := r.proxied
	socket := ""
	if strings.HasPrefix(lower(target), "unix:") {
		var rest string
		socket, rest, _ = strings.Cut(target[5:], "|")
		target = rest
	}
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok {
		return nil
	}
	scheme = lower(scheme)
	host, p, _ := strings.Cut(rest, "/")
	p = "/" + p
	if scheme == "balancer" {
		members := r.srv.members["balancer://"+host]
		if len(members) == 0 {
			members = r.srv.members["balancer://"+host+"/"]
		}
		for i, m := range members {
			if i >= 16 || m == "" || strings.HasPrefix(m, "balancer:") {
				break
			}
			o := *r
			o.proxied = strings.TrimSuffix(m, "/") + p
			if ref := o.forward(); ref != nil {
				return ref
			}
		}
		return nil
	}
	switch scheme {
	case "fcgi", "scgi", "uwsgi", "ajp":
		if scheme != "ajp" {
			at := pinpoint.Place{}
			if r.proxyFrom != nil {
				at = r.proxyFrom.at
			}
			r.stripped(at)
			if r.kind == "file" {
				r.open(pinpoint.Access{Path: r.filename, Want: "read", Says: "script of " + scheme, At: at})
			}
		}
	}
	in := r.in
	req := in.Request.Clone()
	sealedHost, _, sealedQuery := splitURL(in.Request.URL)
	if h := in.Request.Header.Value("Host"); h != "" {
		sealedHost = h
	}
	query := sealedQuery
	if r.rewritten != nil {
		query = r.query
		if strings.Contains(sealedQuery, "‹secret:") {
			query = sealedQuery
		}
	}
	if scheme == "wss" {
		scheme = "https"
	} else if scheme == "ws" {
		scheme = "http"
	}
	if host == "" {
		host = "localhost"
	}
	req.URL = scheme + "://" + host + escapePath(p)
	if query != "" {
		req.URL += "?" + query
	}
	preserve := r.srv.set["proxypreservehost"]
	if d := r.scope.set["proxypreservehost"]; d != nil {
		preserve = d
	}
	req.Header = req.Header.Without("Host", "Connection", "Keep-Alive", "Proxy-Authorization", "TE", "Trailer", "Upgrade")
	if preserve != nil && strings.EqualFold(preserve.arg(0), "on") {
		req.Header = append(pinpoint.Header{{Name: "Host", Value: sealedHost}}, req.Header...)
	}
	add := r.srv.set["proxyaddheaders"]
	if scheme == "http" || scheme == "https" {
		if add == nil || !strings.EqualFold(add.arg(0), "off") {
			chain := r.in.Client.Unmap().String()
			if r.remoteUsed {
				chain = r.client.String()
			}
			if old := in.Request.Header.Values("X-Forwarded-For"); len(old) > 0 {
				chain = strings.Join(old, ", ") + ", " + chain
			}
			req.Header = req.Header.With("X-Forwarded-For", chain).With("X-Forwarded-Host", sealedHost).With("X-Forwarded-Server", r.srv.name)
		}
	}
	req.Header = r.requestHeaders(req.Header)
	next := pinpoint.Arrival{Request: req, At: in.At, Status: in.Status, TLS: scheme == "https"}
	name, port := host, defaultPort(scheme)
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		name = host[:i]
		if n, err := strconv.ParseUint(host[i+1:], 10, 16); err == nil {
			port = uint16(n)
		}
	}
	addr, err := netip.ParseAddr(strings.Trim(name, "[]"))
	if err != nil && name == "localhost" {
		addr, err = netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	}
	if err == nil {
		next.Local = netip.AddrPortFrom(addr, port)
		next.Client = in.Local.Addr()
		if addr.IsLoopback() {
			next.Client = addr
		}
	}
	if socket != "" {
		r.step(pinpoint.Place{}, "the next hop listens on the socket "+socket)
		req.Via.To = "unix:" + socket
		next.Local, next.Client, next.Socket = netip.AddrPort{}, netip.Addr{}, socket
	} else {
		req.Via.To = ""
	}
	if scheme == "https" {
		next.SNI = name
	}
	if scheme == "fcgi" {
		next.Script = p // SCRIPT_FILENAME is the path behind the address
	}
	if len(r.out.Next) < 32 {
		r.out.Next = append(r.out.Next, next)
	}
	return nil
}

func defaultPort(scheme string) uint16 {
	switch scheme {
	case "https":
		return 443
	case "fcgi":
		return 8000
	case "ajp":
		return 8009
	case "scgi":
		return 4000
	}
	return 80
}

// escapePath writes a decoded path so that it can stand in a URL.
func escapePath(p string) string {
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		c := p[i]
		if letter(c) || strings.IndexByte("/-._~!$&'()*+,;=:@", c) >= 0 {
			b.WriteByte(c)
		} else {
			b.WriteString("%" + strings.ToUpper(string("0123456789abcdef"[c>>4])+string("0123456789abcdef"[c&15])))
		}
	}
	return b.String()
}

// requestHeaders is RequestHeader, as far as it is plain.
func (r *request) requestHeaders(h pinpoint.Header) pinpoint.Header {
	for _, d := range r.scope.headers {
		action, name, value := lower(d.arg(0)), d.arg(1), d.arg(2)
		if name == "" || len(h) > 1000 {
			continue
		}
		if last := d.arg(len(d.args) - 1); len(d.args) > 3 && (strings.HasPrefix(last, "env=") || strings.HasPrefix(last, "expr=")) {
			r.step(d.at, "“"+d.String()+"” depends on a condition that is not evaluated here")
			continue
		}
		switch action {
		case "unset":
			h = h.Without(name)
			if strings.EqualFold(name, "Authorization") {
				r.strippedBy(d)
			}
		case "set":
			if strings.Contains(value, "%{") {
				r.step(d.at, "what “"+d.String()+"” sets is not evaluated here")
				continue
			}
			h = h.With(name, value)
		case "add", "append":
			if !strings.Contains(value, "%{") {
				h = append(h, pinpoint.Field{Name: name, Value: value})
			}
		case "setifempty":
			if !h.Has(name) && !strings.Contains(value, "%{") {
				h = h.With(name, value)
			}
		}
	}
	return h
}

func (r *request) strippedBy(d *directive) {
	if !r.header.Has("Authorization") {
		return
	}
	c := r.clue("auth-header-stripped", r.weightOfLoss(), d.at)
	c.Quote, c.Names["directive"], c.Names["field"] = d.String(), d.String(), "Authorization"
	c.Says = "“" + d.String() + "” at " + placeText(d.at) + " takes Authorization off before the application sees it."
	c.Fix = []string{"Remove “" + d.String() + "” at " + placeText(d.at) + " for the paths whose application reads Authorization."}
	r.out.Clues = append(r.out.Clues, c)
}

func (r *request) weightOfLoss() float64 {
	if r.in.Status == 401 || r.in.Status == 403 {
		return pinpoint.Strong
	}
	return pinpoint.Hint
}

// stripped says that a program behind CGI or FastCGI does not see Authorization.
// https://httpd.apache.org/docs/2.4/mod/core.html#cgipassauth
func (r *request) stripped(at pinpoint.Place) {
	if !r.header.Has("Authorization") || r.scope.on("cgipassauth") || r.authConfigured() && r.user != "" {
		return
	}
	for name := range r.env {
		if strings.EqualFold(name, "HTTP_AUTHORIZATION") {
			return
		}
	}
	for _, d := range r.scope.setEnv {
		if strings.Contains(strings.ToUpper(d.raw), "HTTP_AUTHORIZATION") {
			return
		}
	}
	for _, c := range r.out.Clues {
		if c.Cause == "auth-header-stripped" {
			return
		}
	}
	c := r.clue("auth-header-stripped", r.weightOfLoss(), at)
	c.Names["directive"], c.Names["field"] = "CGIPassAuth", "Authorization"
	c.Says = "httpd keeps Authorization from CGI and FastCGI programs unless CGIPassAuth is On, and it is not set for this path."
	c.Fix = []string{"Add “CGIPassAuth On” in the <Directory> section of " + path.Dir(r.objectName()) + ", if the program itself checks the credential."}
	r.out.Clues = append(r.out.Clues, c)
}
