package gateway

import (
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/upstream"
	"github.com/whygate/whygate/wire"
)

// buildRequest writes what every target gets alike: path, fields, who the client is.
func (c *call) buildRequest() {
	x, o := &c.x, &c.out
	*o = wire.Outgoing{Method: x.Method, Path: x.Path, Query: x.Query, HasQuery: x.HasQuery, Fields: o.Fields[:0], Length: x.Length, Upgrade: x.Upgrade}
	if b, ok := x.Replaced(); ok {
		o.Length = int64(len(b))
	} else if c.content.read {
		o.Length = int64(len(c.content.bytes))
	}
	if c.route.Strip > 0 {
		if o.Path = x.Path[c.route.Strip:]; o.Path == "" {
			o.Path = "/"
		}
	}
	nominated := ""
	for i := range x.Fields {
		if f := &x.Fields[i]; f.ID == wire.Connection && !plainConnection(f.Value) {
			nominated += f.Value + ","
		}
	}
	believed, dropped := c.snap.Trust.Has(x.Client.Nearest()), ""
	for i := range x.Fields {
		f := &x.Fields[i]
		switch f.ID {
		case wire.OtherField:
			if spoofed(f.Name) {
				continue
			}
			if !believed && claimsIdentity(f.Name) {
				dropped = f.Name
				continue
			}
		case wire.TE:
			o.Trailers = o.Trailers || wire.HasToken(f.Value, "trailers")
			continue
		case wire.Host, wire.Connection, wire.KeepAlive, wire.ProxyConnection, wire.ProxyAuthorization, wire.TransferEncoding, wire.ContentLength,
			wire.Upgrade, wire.HTTP2Settings, wire.Expect,
			wire.XForwardedFor, wire.XForwardedHost, wire.XForwardedPort, wire.XForwardedPrefix, wire.XForwardedProto, wire.XRealIP, wire.XRequestID, wire.Forwarded:
			continue
		}
		if nominated != "" && wire.HasToken(nominated, f.Name) {
			continue
		}
		o.Fields = append(o.Fields, *f)
	}
	if dropped != "" {
		c.hint("identity.dropped", dropped+" names a caller to the application, and came from no trusted proxy: it was not passed on")
	}
	c.introduce(o)
	for _, e := range c.route.RequestEdits {
		e.EditRequest(x, o)
	}
	c.path = o.Path
}

// plainConnection values name no field of the request.
func plainConnection(v string) bool {
	return v == "" || wire.EqualFold(v, "keep-alive") || wire.EqualFold(v, "close") || wire.EqualFold(v, "upgrade")
}

// spoofed names are those by which the gateway tells upstreams who calls. A client's own are
// not passed on.
func spoofed(name string) bool {
	switch name[0] | 0x20 {
	case 'w':
		return len(name) > 8 && wire.EqualFold(name[:8], "whygate-")
	case 'x':
		return len(name) > 11 && wire.EqualFold(name[:11], "x-consumer-")
	}
	return false
}

// introduce tells the upstream who the client is and how it got here.
func (c *call) introduce(o *wire.Outgoing) {
	x := &c.x
	nearest := x.Client.Nearest()
	addr := x.AddrText(nearest)
	believed := c.snap.Trust.Has(nearest) // then what it says of those before it is passed on
	xff, fwd := addr, ""
	host := x.Authority
	if believed {
		if before := joined(x, wire.XForwardedFor); before != "" {
			xff = x.Text(before, ", ", addr)
		}
		fwd = joined(x, wire.Forwarded)
		if h := x.Fields.Get(wire.XForwardedHost); h != "" {
			host = h
		}
	}
	o.Fields.Put(wire.XForwardedFor, xff)
	o.Fields.Put(wire.XForwardedProto, x.Scheme)
	if host != "" {
		o.Fields.Put(wire.XForwardedHost, host)
	}
	o.Fields.Put(wire.XForwardedPort, c.port(believed))
	if c.route.Prefix != "" {
		o.Fields.Put(wire.XForwardedPrefix, c.route.Prefix)
	}
	node := addr
	if nearest.Is6() {
		node = x.Text(`"[`, addr, `]"`)
	}
	var element string
	if x.Authority != "" {
		element = x.Text("for=", node, `;host="`, x.Authority, `";proto=`, x.Scheme)
	} else {
		element = x.Text("for=", node, ";proto=", x.Scheme)
	}
	if fwd != "" {
		element = x.Text(fwd, ", ", element)
	}
	o.Fields.Put(wire.Forwarded, element)
	rid := x.Fields.Get(wire.XRequestID)
	if c.snap.Gateway.RequestID != "keep" || !goodRequestID(rid) {
		rid = c.idString()
	}
	c.rec.RequestID = rid
	o.Fields.Put(wire.XRequestID, rid)
	o.Fields.Add("Whygate-Call", c.idString())
	if x.Application != nil {
		o.Fields.Add("Whygate-Application", x.Application.Name)
	}
	if s := subjectFor(x); s != "" {
		o.Fields.Add("Whygate-Subject", s)
	}
	if x.Plan != nil {
		o.Fields.Add("Whygate-Plan", x.Plan.Name)
	}
	o.Fields.Put(wire.Via, viaOf(x.Proto))
}

// subjectFor is who calls as upstreams are told, where that is neither nobody in particular nor just the application, and can
// stand in a field.
func subjectFor(x *policy.Exchange) string {
	id := x.Identity
	if id == nil || id.Method == "anonymous" || len(id.Subject) > 256 || x.Application != nil && id.Subject == x.Application.Name {
		return ""
	}
	for i := 0; i < len(id.Subject); i++ {
		if c := id.Subject[i]; c < ' ' || c == 0x7f {
			return ""
		}
	}
	return strings.TrimSpace(id.Subject)
}

func viaOf(proto uint8) string {
	switch proto {
	case 20:
		return "2.0 whygate"
	case 10:
		return "1.0 whygate"
	}
	return "1.1 whygate"
}

func joined(x *policy.Exchange, id wire.FieldID) string {
	s := ""
	for i := range x.Fields {
		if f := &x.Fields[i]; f.ID == id {
			if s == "" {
				s = f.Value
			} else {
				s = x.Text(s, ", ", f.Value)
			}
		}
	}
	return s
}

func (c *call) port(believed bool) string {
	if believed {
		if p := c.x.Fields.Get(wire.XForwardedPort); p != "" && len(p) <= 5 {
			return p
		}
	}
	switch {
	case c.x.Port != "":
		return c.x.Port
	case c.x.Scheme == "https":
		return "443"
	}
	return "80"
}

// goodRequestID keeps texts out of logs that were never ids.
func goodRequestID(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-_.~:/+=@", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// address writes what depends on the target: Host, and the path before the path.
func (c *call) address(o *wire.Outgoing, t *upstream.Target) {
	switch h := t.Upstream().Spec.HostHeader; {
	case h == "target" || h == "" && t.Secure:
		o.Host = t.Host
	case h == "client" || h == "":
		if o.Host = c.x.Authority; o.Host == "" {
			o.Host = t.Host
		}
	default:
		o.Host = h
	}
	if o.Path = c.path; t.Path != "" {
		o.Path = c.x.Text(t.Path, c.path)
	}
}

// hashOn is what consistent hashing goes by.
func (c *call) hashOn(on string) uint64 {
	x := &c.x
	kind, name, _ := strings.Cut(on, ":")
	switch kind {
	case "path":
		return upstream.HashOf(x.Path)
	case "application":
		if x.Application != nil {
			return upstream.HashOf(x.Application.Name)
		}
	case "header":
		if v, ok := x.Fields.Lookup(name); ok {
			return upstream.HashOf(v)
		}
	case "cookie":
		if v := policy.Cookie(x.Fields.Get(wire.Cookie), name); v != "" {
			return upstream.HashOf(v)
		}
	}
	return upstream.HashOf(x.AddrText(x.Client.Addr))
}

// relayable leaves out the fields that end at each connection.
func relayable(fs wire.Fields) wire.Fields {
	kept := fs[:0]
	for _, f := range fs {
		switch f.ID {
		case wire.Connection, wire.KeepAlive, wire.ProxyConnection, wire.TransferEncoding, wire.ContentLength, wire.Upgrade, wire.TE, wire.TrailerField:
		default:
			kept = append(kept, f)
		}
	}
	return kept
}

// buildAnswer makes the head of the answer from the upstream's: without what ends at the connection,
// with links that lead back through the mount, and with what the gateway has to say.
func (c *call) buildAnswer(h *wire.Head, res *wire.Response) {
	dated := c.passOn(h, res)
	if c.x.Store != nil && res.Status >= 200 {
		c.x.Store.Head(&c.x, h)
	}
	h.Fields = append(h.Fields, c.x.Extra...)
	if c.route.Deprecated {
		h.Fields.Add("Deprecation", "true")
	}
	for _, e := range c.route.ResponseEdits {
		e.EditResponse(&c.x, h)
	}
	h.Fields.Add("Whygate-Call", c.idString())
	if !dated {
		h.Fields.Put(wire.Date, httpDate(c.w.Start))
	}
}

// passOn makes what the upstream says into the head of the answer, and tells whether it has a date.
func (c *call) passOn(h *wire.Head, res *wire.Response) (dated bool) {
	*h = wire.Head{Status: res.Status, Phrase: res.Phrase, Fields: h.Fields[:0], Length: res.Length}
	nominated := ""
	for i := range res.Fields {
		if f := &res.Fields[i]; f.ID == wire.Connection && !plainConnection(f.Value) {
			nominated += f.Value + ","
		}
	}
	for i := range res.Fields {
		f := res.Fields[i]
		switch f.ID {
		case wire.OtherField:
			if spoofed(f.Name) {
				continue
			}
		case wire.Connection, wire.KeepAlive, wire.ProxyConnection, wire.TransferEncoding, wire.ContentLength, wire.Upgrade, wire.TE:
			continue
		case wire.TrailerField:
			if res.Length >= 0 {
				continue
			}
		case wire.Date:
			dated = true
		case wire.Location, wire.ContentLocation:
			f.Value = c.rewriteURL(f.Value, f.Name)
		case wire.Link:
			f.Value = c.rewriteLink(f.Value)
		case wire.Refresh:
			f.Value = c.rewriteRefresh(f.Value)
		case wire.SetCookie:
			f.Value = c.rewriteCookie(f.Value)
		}
		if nominated != "" && wire.HasToken(nominated, f.Name) {
			continue
		}
		h.Fields = append(h.Fields, f)
	}
	return dated
}

// rewriteURL leads a URL of the upstream back through the mount: "/login" of an application on
// /prod is /prod/login to the client. One that names the upstream itself names the gateway then.
func (c *call) rewriteURL(v, field string) string {
	before, path := "", v // scheme and authority, if any, and the rest
	if i := strings.Index(v, "://"); i > 0 && i < 6 || strings.HasPrefix(v, "//") {
		u, err := url.Parse(v)
		if err != nil || !c.ownAuthority(u.Host) {
			return v // leads to somebody else
		}
		start := strings.Index(v, "//") + 2
		end := strings.IndexAny(v[start:], "/?#")
		if end < 0 {
			end = len(v) - start
		}
		before, path = v[:start+end], v[start+end:]
		if !wire.EqualFold(u.Host, c.x.Authority) && c.x.Authority != "" {
			before = c.x.Scheme + "://" + c.x.Authority // it named itself
		} else if u.Scheme == "http" && c.x.Scheme == "https" {
			before = "https://" + c.x.Authority // it does not know of TLS before it
		}
	}
	mount := c.route.Mount
	if mount == "" {
		return before + path
	}
	if !strings.HasPrefix(path, "/") {
		if before == "" {
			return v // relative: the client resolves it within the mount
		}
		path = "/" + path
	}
	if within(path, mount) {
		return before + path
	}
	if c.route.Prefix == "" {
		c.hint("stage.left", field+": "+v+" points outside of "+mount+", and strip: none leaves it as it is")
		return before + path
	}
	path = c.route.Prefix + path
	if !within(path, mount) {
		c.hint("stage.left", field+": "+v+" points outside of "+mount)
	}
	return before + path
}

// within says that a path lies below a mount.
func within(path, mount string) bool {
	if !strings.HasPrefix(path, mount) {
		return false
	}
	rest := path[len(mount):]
	return rest == "" || rest[0] == '/' || rest[0] == '?' || rest[0] == '#'
}

// ownAuthority says that a host in an upstream's URL means the upstream itself, or us.
func (c *call) ownAuthority(host string) bool {
	if wire.EqualFold(host, c.x.Authority) || wire.EqualFold(host, c.out.Host) || host == c.rec.Target {
		return true
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = host, "80"
	}
	addr, err := netip.ParseAddr(name)
	local := err == nil && addr.IsLoopback() || strings.EqualFold(name, "localhost")
	for _, t := range c.route.Upstream.Targets() {
		if wire.EqualFold(host, t.Host) || host == t.Address {
			return true
		}
		if _, p, _ := net.SplitHostPort(t.Address); local && p == port {
			return true // where it is to itself
		}
	}
	return false
}

// rewriteLink rewrites the targets of a Link field (RFC 8288): <target>; rel=next, …
func (c *call) rewriteLink(v string) string {
	var b strings.Builder
	for {
		open := strings.IndexByte(v, '<')
		if open < 0 {
			break
		}
		end := strings.IndexByte(v[open:], '>')
		if end < 0 {
			break
		}
		b.WriteString(v[:open+1])
		b.WriteString(c.rewriteURL(v[open+1:open+end], "Link"))
		v = v[open+end:]
	}
	b.WriteString(v)
	return b.String()
}

// rewriteRefresh rewrites "5; url=/next".
func (c *call) rewriteRefresh(v string) string {
	i := strings.Index(strings.ToLower(v), "url=")
	if i < 0 {
		return v
	}
	target := strings.Trim(v[i+4:], `"' `)
	return v[:i+4] + c.rewriteURL(target, "Refresh")
}

// rewriteCookie moves the path of a cookie below the mount, so that stages do not
// overwrite each other's cookies and the client sends them back.
func (c *call) rewriteCookie(v string) string {
	prefix := c.route.Prefix
	if prefix == "" {
		return v
	}
	for i := 0; i < len(v); {
		semi := strings.IndexByte(v[i:], ';')
		if semi < 0 {
			return v
		}
		i += semi + 1
		for i < len(v) && v[i] == ' ' {
			i++
		}
		if len(v)-i < 5 || !wire.EqualFold(v[i:i+5], "path=") {
			continue
		}
		start := i + 5
		end := strings.IndexByte(v[start:], ';')
		if end < 0 {
			end = len(v) - start
		}
		path := v[start : start+end]
		if !strings.HasPrefix(path, "/") || within(path, prefix) {
			return v
		}
		if path == "/" {
			path = ""
		}
		return v[:start] + prefix + path + v[start+end:]
	}
	return v
}

// hint notes something odd that did not stop the call.
func (c *call) hint(code, text string) {
	if len(text) > 500 {
		text = text[:500] + "…"
	}
	c.rec.Flags |= calllog.Hinted
	c.detail.Hints = append(c.detail.Hints, Hint{Code: code, Text: strings.Clone(text)})
}
