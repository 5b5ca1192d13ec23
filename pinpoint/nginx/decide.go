package nginx

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

func newWalk(c *Config, a pinpoint.Arrival) *walk {
	return &walk{
		c: c, a: a, changes: cycles + 1, valid: true, rawURI: true, budget: 8 << 20,
		vars: map[string]value{}, seen: map[string][2]bool{},
	}
}

// Decide says what nginx would do with a request: what it answers by itself and why, or where it hands
// the request on, and which files it opens. It is safe for concurrent use if the Files are.
func (c *Config) Decide(a pinpoint.Arrival) pinpoint.Decision {
	d := pinpoint.Decision{Product: "nginx", User: c.user()}
	if c.http == nil || a.Request == nil {
		return d
	}
	w := c.follow(a)
	if w.srv == nil {
		d.Trail = w.trail
		return d
	}
	return w.decision(d)
}

// follow walks a request to its end.
func (c *Config) follow(a pinpoint.Arrival) *walk {
	w := newWalk(c, a)
	if w.begin() && !w.ended {
		w.run(serverRewrite)
	}
	return w
}

func (c *Config) user() string {
	for _, d := range c.main.body {
		if d.name == "user" && len(d.args) > 0 {
			return d.args[0]
		}
	}
	return c.Build.User
}

// start takes the request apart and chooses the server. It says whether one listens.
func (w *walk) start() bool {
	r := w.a.Request
	raw := r.URL
	if _, rest, ok := strings.Cut(raw, "://"); ok {
		i := strings.IndexAny(rest, "/?#")
		if i < 0 {
			i = len(rest)
		}
		raw = rest[i:]
	}
	raw, _, _ = strings.Cut(raw, "#")
	if !strings.HasPrefix(raw, "/") && raw != "*" {
		raw = "/" + raw
	}
	w.unparsed = raw
	w.uri, w.args, _ = strings.Cut(raw, "?")
	w.method = strings.ToUpper(r.Method)
	if w.method == "" {
		w.method = "GET"
	}
	w.mainMethod = w.method
	if w.a.Client.IsValid() {
		w.client = w.a.Client.Unmap().WithZone("")
	}
	w.rawHost = r.Host()
	if w.rawHost != "" && !r.Header.Has("Host") { // a URL names the port that a client leaves out
		switch {
		case strings.HasPrefix(r.URL, "http://"):
			w.rawHost = strings.TrimSuffix(w.rawHost, ":80")
		case strings.HasPrefix(r.URL, "https://"):
			w.rawHost = strings.TrimSuffix(w.rawHost, ":443")
		}
		if i := strings.LastIndexByte(w.rawHost, '@'); i >= 0 {
			w.rawHost = w.rawHost[i+1:]
		}
	}
	w.host = bareHost(w.rawHost)
	if !w.a.Local.IsValid() { // only the URL says where it arrived
		port := uint16(80)
		if w.a.TLS || strings.HasPrefix(r.URL, "https:") {
			port = 443
		}
		if u, err := r.Parsed(); err == nil {
			if n, err := strconv.ParseUint(u.Port(), 10, 16); err == nil && n > 0 {
				port = uint16(n)
			}
		}
		w.a.Local = netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	}
	w.pick = w.c.choose(w.a.Local, w.host)
	if w.pick.server == nil {
		return false
	}
	w.srv = w.pick.server
	w.loc = w.srv
	if w.pick.groups != nil {
		w.capture(w.pick.name.re, w.pick.groups, value{deps: []string{"host"}})
	}
	// The default server of the address reads the header, before a name is known.
	if w.pick.fallback.setting("ignore_invalid_headers", "on") == "on" {
		under := w.pick.fallback.setting("underscores_in_headers", "off") == "on"
		for _, f := range r.Header {
			if fieldName(f.Name, under) {
				w.header = append(w.header, f)
			} else if w.nested == 0 {
				w.step(w.pick.fallback.d.at, "the field %s is dropped: nginx takes no such name unless %s", show(f.Name), map[bool]string{true: "underscores_in_headers is on", false: "ignore_invalid_headers is off"}[strings.Contains(f.Name, "_")])
				if credential(f.Name) && (w.a.Status == 401 || w.a.Status == 403) {
					w.possible(w.a.Status, pinpoint.Clue{
						Cause: "auth-header-stripped", ID: "underscores_in_headers", Weight: pinpoint.Strong, At: w.pick.fallback.d.at,
						Says:  fmt.Sprintf("nginx drops the field %s for the underscore in its name, so the next hop never sees it", show(f.Name)),
						Names: map[string]string{"field": f.Name, "directive": "underscores_in_headers"},
						Fix:   []string{fmt.Sprintf("Send %s with hyphens, or set `underscores_in_headers on;` in the default server (%s)", show(f.Name), where(w.pick.fallback.d.at))},
					})
				}
			}
		}
	} else {
		w.header = r.Header
	}
	if uri, ok := normalise(w.uri, w.pick.fallback.setting("merge_slashes", "on") == "on"); ok {
		w.uri = uri
	}
	return true
}

func credential(name string) bool {
	name = strings.ToLower(name)
	return strings.Contains(name, "key") || strings.Contains(name, "token") || strings.Contains(name, "auth") || strings.Contains(name, "secret")
}

func fieldName(name string, under bool) bool {
	for i := range len(name) {
		c := name[i]
		if c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' && under {
			continue
		}
		return false
	}
	return name != ""
}

// bareHost is a Host without port, in lower case, without a dot at the end.
func bareHost(h string) string {
	h = strings.ToLower(h)
	if strings.HasPrefix(h, "[") {
		if i := strings.IndexByte(h, ']'); i >= 0 {
			return h[:i+1]
		}
		return h
	}
	h, _, _ = strings.Cut(h, ":")
	return strings.TrimSuffix(h, ".")
}

// begin does what comes before the phases: TLS, the request line, the fields, the Host.
func (w *walk) begin() bool {
	if !w.start() {
		w.step(pinpoint.Place{File: w.c.Conf}, "no server listens on %s", w.a.Local)
		return false
	}
	p := w.pick
	how := map[string]string{"exact": "its server_name is the host", "wildcard": "its server_name fits the host", "regex": "its server_name is a regular expression that fits the host"}[p.by]
	at := p.name.at
	if how == "" {
		at = w.srv.d.at
		how = "no server_name of this address is the host, so the default server answers"
		if p.others <= 1 {
			how = "it is the only one on this address"
		}
	}
	w.step(at, "server at %s takes %s: %s", where(w.srv.d.at), show(w.host), how)
	if !p.sure {
		w.doubt(w.srv.d.at, "which server answers is not certain: the local address or a name is not known")
	}
	if p.listen.proxy {
		w.step(p.listen.d.at, "this address expects the PROXY protocol")
	}
	rc := w.hello()
	if rc == 0 {
		rc = w.head()
	}
	if rc > 0 && !w.ended {
		if phase := w.special(rc); !w.ended {
			w.run(phase)
		}
	}
	if !w.ended {
		w.resolveClient(w.srv)
	}
	return true
}

// hello is what TLS decides.
func (w *walk) hello() int {
	l := w.pick.listen
	if !w.a.TLS {
		if (l.ssl || w.srv.own("ssl") != nil && w.srv.setting("ssl", "off") == "on") && l.d != nil {
			w.step(l.d.at, "plain HTTP arrives at a port for TLS")
			w.refuse(400, pinpoint.Clue{Cause: "plain-http-on-tls-port", ID: "497", Weight: pinpoint.Certain, At: l.d.at, Quote: l.d.text(),
				Says: fmt.Sprintf("`%s` in %s speaks TLS, and the request came in plain HTTP", l.d.text(), where(l.d.at)),
				Fix:  []string{"Use https:// in the URL", fmt.Sprintf("`error_page 497 =301 https://$host:$server_port$request_uri;` in %s leads such clients over", where(w.srv.d.at))}})
			return 497
		}
		return 0
	}
	if !l.ssl {
		return 0
	}
	names := w.c.choose(w.a.Local, bareHost(w.a.SNI))
	if names.server == nil {
		return 0
	}
	if d := names.server.last("ssl_reject_handshake"); d != nil && d.arg(0) == "on" {
		w.step(d.at, "the handshake is rejected for the name %q", w.a.SNI)
		w.refuse(0, pinpoint.Clue{Cause: "sni-host-mismatch", ID: "ssl_reject_handshake", Weight: pinpoint.Certain, At: d.at, Quote: d.text(),
			Says:  fmt.Sprintf("`%s` in %s ends the handshake, as no other server has the name %q", d.text(), where(d.at), w.a.SNI),
			Names: map[string]string{"host": w.a.SNI, "directive": d.text()},
			Fix:   []string{fmt.Sprintf("Ask by a name of server_name, or add %q to the server_name that it belongs to", w.a.SNI)}})
		w.ended = true
		return 0
	}
	if w.a.SNI != "" && bareHost(w.a.SNI) != w.host && names.by != "default" {
		if v := w.srv.last("ssl_verify_client"); v != nil && v.arg(0) != "off" {
			w.step(v.at, "the name of the handshake (%s) is not the Host (%s), and this server asks for client certificates", show(w.a.SNI), show(w.host))
			w.refuse(421, pinpoint.Clue{Cause: "sni-host-mismatch", ID: "421", Weight: pinpoint.Certain, At: v.at, Quote: v.text(),
				Says:  fmt.Sprintf("the handshake named %s and the request asks for %s; a server that asks for client certificates takes no other name than that of the handshake", show(w.a.SNI), show(w.host)),
				Names: map[string]string{"sni": w.a.SNI, "host": w.host, "directive": v.text()},
				Fix:   []string{"Send the same name in the handshake and in Host; behind a proxy `proxy_ssl_server_name on;` and `proxy_ssl_name`"}})
			return 421
		}
	}
	v := w.srv.last("ssl_verify_client")
	if v == nil || v.arg(0) == "off" {
		return 0
	}
	quiet := "nginx tells it at the level info only, so error.log is silent at its usual level"
	c := pinpoint.Clue{ID: "ssl_verify_client", Weight: pinpoint.Certain, At: v.at, Quote: v.text(), Names: map[string]string{"directive": v.text()}}
	cert := w.a.Cert
	if names.server.setting("ssl_verify_client", "off") == "off" {
		cert = "none" // the server of the handshake did not ask for one
	}
	switch {
	case cert == "expired", cert == "untrusted" && v.arg(0) != "optional_no_ca":
		c.Cause = "mtls-client-cert-invalid"
		c.Says = fmt.Sprintf("`%s` in %s: the client certificate is %s. %s", v.text(), where(v.at), cert, quiet)
		c.Fix = []string{"Renew the certificate of the client, or complete its chain"}
		if ca := w.srv.last("ssl_client_certificate"); ca != nil && cert == "untrusted" {
			c.Fix = append(c.Fix, fmt.Sprintf("Its issuer must be in %s (%s)", ca.arg(0), where(ca.at)))
		}
		w.step(v.at, "the client certificate is %s", cert)
		w.refuse(400, c)
		return 495
	case v.arg(0) == "on" && cert != "valid":
		c.Cause = "mtls-client-cert-missing"
		c.Says = fmt.Sprintf("`%s` in %s wants a client certificate, and none was sent. %s", v.text(), where(v.at), quiet)
		c.Fix = []string{"Send a client certificate: `curl --cert client.pem --key client.key …`"}
		if cert == "" && w.a.Request.Via.Cert != "" {
			c.Weight = pinpoint.Fair
			c.Says = fmt.Sprintf("`%s` in %s wants a client certificate; whether the one of this request is valid is not known here. %s", v.text(), where(v.at), quiet)
			w.doubt(v.at, "a client certificate is wanted; whether the one that was sent is valid is not known")
			if w.a.Status == 400 {
				w.possible(400, c)
			}
			return 0
		}
		if cert == "" {
			c.Weight = pinpoint.Strong
			c.Says = fmt.Sprintf("`%s` in %s wants a client certificate, and the input holds none. %s", v.text(), where(v.at), quiet)
		}
		if cert == "none" && names.server != w.srv {
			w.step(names.server.d.at, "the handshake named %q, so the server in %s held it, which asks for no certificate", show(w.a.SNI), where(names.server.d.at))
			c.Says += fmt.Sprintf(". The handshake named %q, which leads to the server in %s, and that one asks for none", show(w.a.SNI), where(names.server.d.at))
			c.Fix = append([]string{fmt.Sprintf("Send the name %s in the TLS handshake as well", show(w.host))}, c.Fix...)
			if w.a.Cert != "none" && w.a.Cert != "" {
				c.Cause = "sni-host-mismatch"
			}
		}
		w.step(v.at, "no client certificate was sent")
		w.refuse(400, c)
		return 496
	}
	return 0
}

// head is what the request line and the fields decide.
func (w *walk) head() int {
	r := w.a.Request
	f := w.pick.fallback
	count, each := 4, int64(8<<10)
	d := f.last("large_client_header_buffers")
	c := pinpoint.Clue{ID: "large_client_header_buffers", Weight: pinpoint.Certain, At: f.d.at, Names: map[string]string{"directive": "large_client_header_buffers"}}
	if d != nil {
		c.At, c.Quote = d.at, d.text()
		if n, err := strconv.Atoi(d.arg(0)); err == nil && n > 0 {
			count = min(n, 1<<20)
		}
		if s := size(d.arg(1)); s > 0 {
			each = s
		}
	}
	if !strings.HasPrefix(w.proto(), "HTTP/1") {
		// The limits of HTTP/2 and 3 count otherwise; the same directive holds.
		c.Weight = pinpoint.Strong
	}
	each = max(each, size(f.setting("client_header_buffer_size", "1k")))
	line := int64(len(w.mainMethod) + 1 + plainLength(w.unparsed) + 1 + len("HTTP/1.1") + 2)
	fix := fmt.Sprintf("If such requests are wanted, set `large_client_header_buffers %d %dk;` in the default server of the address (%s); otherwise", count, each>>10*2+1, where(f.d.at))
	if line > each {
		w.srv, w.loc = f, f // the Host has not been read yet
		c.Cause = "uri-too-long"
		c.Says = fmt.Sprintf("the request line has %d bytes; one of the %d large_client_header_buffers holds %d", line, count, each)
		c.Fix = []string{fix + " send long values in a body"}
		w.step(c.At, "the request line is longer than a buffer")
		w.refuse(414, c)
		return 414
	}
	c.Cause = "header-too-large"
	total := line
	for _, h := range r.Header {
		n := int64(plainLength(h.Name) + 2 + plainLength(h.Value) + 2)
		total += n
		if n > each {
			c.Names["field"] = h.Name
			c.Says = fmt.Sprintf("the field %s has %d bytes; one of the %d large_client_header_buffers holds %d", show(h.Name), n, count, each)
			c.Fix = []string{fix + fmt.Sprintf(" shrink %s; cookies can be limited by path and removed when they are not needed", show(h.Name))}
			w.step(c.At, "the field %s is longer than a buffer", show(h.Name))
			w.refuse(400, c)
			return 494
		}
	}
	if total > int64(count+1)*each {
		c.Weight = pinpoint.Strong
		c.Says = fmt.Sprintf("the fields have %d bytes together; %d large_client_header_buffers of %d hold less", total, count, each)
		c.Fix = []string{fix + " send fewer and shorter fields"}
		w.step(c.At, "the fields are longer than all buffers")
		w.refuse(400, c)
		return 494
	}
	if uri, ok := normalise(strings.SplitN(w.unparsed, "?", 2)[0], f.setting("merge_slashes", "on") == "on"); ok {
		w.uri = uri
	} else if w.unparsed != "*" {
		w.srv, w.loc = f, f
		w.step(f.d.at, "the path of the URL is not valid")
		w.refuse(400, pinpoint.Clue{Cause: "path-encoding", ID: "uri", Weight: pinpoint.Strong, At: f.d.at,
			Says: "the path has an escape that cannot be read, a zero byte, a control character, or climbs above the root; nginx answers 400 (at the level info)",
			Fix:  []string{"Send the path with each part escaped once"}})
		return 400
	}
	hosts := r.Header.Values("Host")
	bad := len(hosts) > 1 || w.rawHost != "" && !goodHost(w.rawHost)
	if bad || w.rawHost == "" && w.proto() == "HTTP/1.1" {
		w.step(f.d.at, "the Host is missing or not valid")
		w.refuse(400, pinpoint.Clue{Cause: "host-not-allowed", ID: "host", Weight: pinpoint.Strong, At: f.d.at,
			Says: "the Host is missing, written twice, or holds characters that no host name has; nginx answers 400 (at the level info)",
			Fix:  []string{"Send one Host with the name of the site"}})
		return 400
	}
	if w.method == "TRACE" || w.method == "CONNECT" {
		w.step(f.d.at, "%s is not answered by nginx", w.method)
		w.refuse(405, pinpoint.Clue{Cause: "method-not-allowed", ID: "method", Weight: pinpoint.Certain, At: f.d.at,
			Says: fmt.Sprintf("nginx answers every %s with 405", w.method), Fix: []string{"Use another method"}, Names: map[string]string{"method": w.method}})
		return 405
	}
	return 0
}

func goodHost(h string) bool {
	if strings.Contains(h, "..") {
		return false
	}
	if strings.HasPrefix(h, "[") {
		return strings.Contains(h, "]")
	}
	if b := bareHost(h); b == "" {
		return false
	}
	for i := range len(h) {
		if c := h[i]; c <= ' ' || c == 0x7f || c == '/' {
			return false
		}
	}
	return true
}

// normalise decodes a path and takes . and .. and doubled slashes out, as ngx_http_parse_complex_uri
// does: an escaped slash or dot counts as one, an escaped %, ? or # stands for itself.
func normalise(raw string, merge bool) (string, bool) {
	if !strings.HasPrefix(raw, "/") {
		return raw, raw == "*"
	}
	out := make([]byte, 0, len(raw))
	segment := 0 // where the last part begins in out
	// end looks at the part that just ended; more says that a slash follows.
	end := func(more bool) bool {
		switch part := string(out[segment:]); {
		case part == ".":
			out = out[:segment]
			return true
		case part == "..":
			if segment < 2 {
				return false
			}
			out = out[:segment-1]
			for len(out) > 0 && out[len(out)-1] != '/' {
				out = out[:len(out)-1]
			}
			segment = len(out)
			return len(out) > 0
		case part == "" && merge && more && len(out) > 0:
			return true
		}
		if more {
			out = append(out, '/')
			segment = len(out)
		}
		return true
	}
	out = append(out, '/')
	segment = 1
	for i := 1; i < len(raw); i++ {
		c := raw[i]
		switch {
		case c < ' ' || c == 0x7f:
			return "", false
		case c == '%':
			if i+2 >= len(raw) {
				return "", false
			}
			n, err := strconv.ParseUint(raw[i+1:i+3], 16, 8)
			if err != nil || n == 0 {
				return "", false
			}
			i += 2
			if n == '/' {
				if !end(true) {
					return "", false
				}
				continue
			}
			out = append(out, byte(n))
		case c == '/':
			if !end(true) {
				return "", false
			}
		default:
			out = append(out, c)
		}
	}
	if !end(false) {
		return "", false
	}
	return string(out), true
}

// refuse keeps what refused. The first is what counts; later ones stand behind it.
func (w *walk) refuse(status int, clues ...pinpoint.Clue) {
	late := len(w.clues) > 0
	for _, c := range clues {
		c = w.fill(c, status)
		if late {
			c.Weight = min(c.Weight, pinpoint.Hint)
		}
		if w.unsure > 0 {
			c.Weight = min(c.Weight, pinpoint.Fair)
		}
		if len(w.clues) < 20 {
			w.clues = append(w.clues, c)
		}
	}
	if !late && !w.sub && len(clues) > 0 {
		w.wrongServer(status, clues[0])
	}
}

// possible keeps what may have refused, when the configuration alone does not tell.
func (w *walk) possible(status int, clues ...pinpoint.Clue) {
	for _, c := range clues {
		if c.Cause != "" && len(w.hints) < 20 {
			w.hints = append(w.hints, w.fill(c, status))
		}
	}
}

func (w *walk) fill(c pinpoint.Clue, status int) pinpoint.Clue {
	c.Source, c.Refuser = pinpoint.FromConfig, "nginx"
	c.ID = "nginx-" + c.ID
	names := map[string]string{}
	for k, v := range c.Names {
		names[k] = v
	}
	c.Names = names
	set := func(k, v string) {
		if _, ok := names[k]; !ok && v != "" {
			names[k] = v
		}
	}
	if status > 0 {
		set("status", strconv.Itoa(status))
	}
	set("path", show(w.uri))
	if w.loc != nil && w.loc.location().kind == "location" {
		set("location", w.loc.location().title())
	}
	if w.client.IsValid() {
		set("client", w.client.String())
	}
	set("user", w.c.user())
	c.Quote = show(c.Quote)
	return c
}

// wrongServer adds that no server has the name that was asked for, when the default server refuses.
func (w *walk) wrongServer(status int, first pinpoint.Clue) {
	if w.pick.by != "default" || w.pick.others < 2 || w.host == "" || w.nested > 0 {
		return
	}
	var others []string
	for _, p := range w.c.servers {
		for _, n := range p.names {
			if n.text != "" && n.text != "_" && p != w.srv && len(others) < 5 {
				others = append(others, n.text)
			}
		}
	}
	if len(others) == 0 {
		return
	}
	weight := pinpoint.Fair
	if first.ID == "return" && first.Cause == "nginx-return-403" && len(w.conds) == 0 {
		weight = pinpoint.Certain // a server made to refuse strangers
	}
	if w.unsure > 0 {
		weight = min(weight, pinpoint.Fair)
	}
	c := w.fill(pinpoint.Clue{
		Cause: "web-server-default-vhost", ID: "server_name", Weight: weight, At: w.srv.d.at,
		Says:  fmt.Sprintf("no server_name is %s, so the default server in %s answers; other names here are %s", show(w.host), where(w.srv.d.at), strings.Join(others, ", ")),
		Names: map[string]string{"host": show(w.host), "directive": "server_name"},
		Fix:   []string{fmt.Sprintf("Ask by one of the names, or add `%s` to the server_name of the server that it belongs to", show(w.host))},
	}, status)
	if weight == pinpoint.Certain {
		for i := range w.clues {
			w.clues[i].Weight = min(w.clues[i].Weight, pinpoint.Strong)
		}
		w.clues = slices.Insert(w.clues, 0, c)
		return
	}
	w.clues = append(w.clues, c)
}

// decision puts together what was found.
func (w *walk) decision(d pinpoint.Decision) pinpoint.Decision {
	d.Trail, d.Status, d.Next, d.Files = w.trail, w.status, w.next, w.files
	d.Clues = w.clues
	if len(w.clues) > 0 && w.status != 0 && w.status != 444 {
		if was, _ := strconv.Atoi(w.clues[0].Names["status"]); was != w.status && was != 0 {
			pages := w.loc.find("error_page")
			if pages == nil {
				pages = w.srv.find("error_page")
			}
			c := pinpoint.Clue{Cause: "refusal-masked", ID: "error_page", Weight: pinpoint.Fair,
				Says:  fmt.Sprintf("nginx refuses with %d, and error_page shows it as %d", was, w.status),
				Names: map[string]string{"status": strconv.Itoa(was), "shown": strconv.Itoa(w.status)},
				Fix:   []string{"Keep the page if it is meant to hide the refusal; error.log and the cause above tell the truth"}}
			for _, p := range pages {
				if slices.Contains(p.args, strconv.Itoa(was)) {
					c.At, c.Quote = p.at, p.text()
					break
				}
			}
			d.Clues = append(d.Clues, w.fill(c, was))
			for i := range d.Clues {
				d.Clues[i].Names["shown"] = strconv.Itoa(w.status)
			}
		}
	}
	d.Clues = append(d.Clues, w.hints...)
	// The configuration may have been changed since, or another hop answered.
	if seen := w.a.Status; seen != 0 && w.status != seen && len(w.clues) > 0 && w.status != 0 {
		for i := range d.Clues {
			d.Clues[i].Weight = min(d.Clues[i].Weight, pinpoint.Fair)
		}
		d.Trail = append(d.Trail, pinpoint.Step{Says: fmt.Sprintf("this configuration would answer %d, and the client saw %d: it was changed since, or another hop answered", w.status, seen)})
	}
	d.Logs = w.logs()
	d.Silent = silent(d.Logs)
	return d
}

var levels = []string{"debug", "info", "notice", "warn", "error", "crit", "alert", "emerg"}

// logs are the logs that hold lines of this request.
// https://nginx.org/en/docs/ngx_core_module.html#error_log
func (w *walk) logs() (out []pinpoint.LogFile) {
	s := w.loc
	list := s.find("error_log")
	if list == nil {
		out = append(out, pinpoint.LogFile{Path: w.c.Build.ErrorLog, Product: "nginx", Kind: "error", Level: "error"})
	}
	for _, d := range list {
		level := "error"
		if l := d.arg(1); slices.Contains(levels, l) {
			level = l
		} else if strings.HasPrefix(l, "debug") {
			level = "debug"
		}
		name := d.arg(0)
		if name != "stderr" && !strings.Contains(name, ":") {
			name = absolute(name, w.c.Prefix)
		}
		out = append(out, pinpoint.LogFile{Path: name, Product: "nginx", Kind: "error", Level: level, At: d.at})
	}
	list = s.find("access_log")
	if list == nil {
		out = append(out, pinpoint.LogFile{Path: w.c.Build.AccessLog, Product: "nginx", Kind: "access", Format: combined})
	}
	for _, d := range list {
		if d.arg(0) == "off" {
			continue
		}
		name := d.arg(0)
		if v := w.expand(name); v.known() {
			name = v.s
		}
		if !strings.Contains(name, ":") {
			name = absolute(name, w.c.Prefix)
		}
		format := combined
		if f := w.c.formats[d.arg(1)]; f != nil {
			var parts []string
			for _, a := range f.args[1:] {
				if !strings.HasPrefix(a, "escape=") {
					parts = append(parts, a)
				}
			}
			format = strings.Join(parts, "")
		}
		out = append(out, pinpoint.LogFile{Path: name, Product: "nginx", Kind: "access", Format: format, At: d.at})
	}
	return out
}

const combined = `$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"`

// silent are the causes that nginx refuses for without a line at the level of its error log.
func silent(logs []pinpoint.LogFile) []string {
	out := []string{
		"nginx-return-403", "user-agent-blocked", "hotlink-referer", "nginx-secure-link", "nginx-auth-request-denied", "nginx-internal-location",
		"web-server-default-vhost", "https-required", "host-not-allowed", "geo-blocked", "ip-denied", "method-not-allowed", "auth-missing", "app-maintenance", "refusal-masked",
	}
	level := len(levels)
	for _, l := range logs {
		if l.Kind == "error" && l.Path != "/dev/null" {
			level = min(level, slices.Index(levels, l.Level))
		}
	}
	if level > slices.Index(levels, "info") {
		out = append(out, "mtls-client-cert-missing", "mtls-client-cert-invalid", "header-too-large", "uri-too-long", "plain-http-on-tls-port", "path-encoding", "sni-host-mismatch")
	}
	if level > slices.Index(levels, "error") {
		out = append(out, "nginx-deny-rule", "nginx-satisfy-all", "ip-family-mismatch", "method-denied-by-rule", "nginx-location-precedence", "no-index-listing-off",
			"fs-file-unreadable", "fs-dir-no-search", "fs-symlink-denied", "body-too-large", "basic-credentials-wrong", "rate-limit", "rate-limit-as-403", "rate-limit-as-503", "concurrency-limit", "wrong-path")
	}
	return out
}

// remoteUser is the user of Basic credentials, whether right or not.
func (w *walk) remoteUser() value {
	v := value{deps: []string{"http_authorization"}}
	a := w.header.Value("Authorization")
	if a == "" {
		return v
	}
	v.why = "the user is not taken from the credentials here"
	return v
}
