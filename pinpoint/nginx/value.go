package nginx

import (
	"crypto/md5"
	"encoding/base64"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// value is what a variable holds. Where it cannot be evaluated, why says so; a sealed one holds a
// secret that is not known here, so that only its presence can be judged.
type value struct {
	s      string
	why    string // not known, because …
	sealed bool
	deps   []string       // the variables of the request that it was made of
	at     pinpoint.Place // the line of a map or geo that chose it
	quote  string
}

func (v value) known() bool { return v.why == "" && !v.sealed }

// depend adds where another value came from.
func (v *value) depend(o value) {
	for _, d := range o.deps {
		if !slices.Contains(v.deps, d) && len(v.deps) < 32 {
			v.deps = append(v.deps, d)
		}
	}
	if o.why != "" && v.why == "" {
		v.why = o.why
	}
	v.sealed = v.sealed || o.sealed
	if o.at.Line > 0 {
		v.at, v.quote = o.at, o.quote
	}
}

const maxValue = 1 << 20

// sealedMark is how placeholders of pinpoint's vault begin.
const sealedMark = "‹secret:"

// plainLength is the length of a text with the secrets at their places.
func plainLength(s string) int {
	n := len(s)
	for {
		i := strings.Index(s, sealedMark)
		if i < 0 {
			return n
		}
		j := strings.Index(s[i:], "›")
		if j < 0 {
			return n
		}
		p := s[i : i+j+len("›")]
		if _, after, ok := strings.Cut(p, " len="); ok {
			if real, err := strconv.Atoi(strings.TrimSuffix(after, "›")); err == nil && real >= 0 && real < 1<<24 {
				n += real - len(p)
			}
		}
		s = s[i+len(p):]
	}
}

// variablesIn are the names in a text with variables.
func variablesIn(text string) (names []string) {
	split(text, func(_, name string) {
		if name != "" {
			names = append(names, name)
		}
	})
	return names
}

// split calls back with each literal piece or variable name of a text.
func split(text string, yield func(literal, name string)) {
	for text != "" {
		i := strings.IndexByte(text, '$')
		if i < 0 {
			yield(text, "")
			return
		}
		if i > 0 {
			yield(text[:i], "")
		}
		text = text[i+1:]
		if text == "" {
			yield("$", "")
			return
		}
		if text[0] == '{' {
			j := strings.IndexByte(text, '}')
			if j < 0 {
				yield("${", "")
				text = text[1:]
				continue
			}
			yield("", text[1:j])
			text = text[j+1:]
			continue
		}
		if text[0] >= '1' && text[0] <= '9' { // a group has one digit
			yield("", text[:1])
			text = text[1:]
			continue
		}
		n := 0
		for n < len(text) && (text[n] == '_' || text[n] >= '0' && text[n] <= '9' || text[n]|0x20 >= 'a' && text[n]|0x20 <= 'z') {
			n++
		}
		if n == 0 {
			yield("$", "")
			continue
		}
		yield("", text[:n])
		text = text[n:]
	}
}

// expand puts the values of variables into a text.
func (w *walk) expand(text string) value {
	var v value
	var b strings.Builder
	split(text, func(literal, name string) {
		if b.Len() > maxValue {
			v.why = "the value grows too long"
			return
		}
		if name == "" {
			b.WriteString(literal)
			return
		}
		o := w.variable(name)
		v.depend(o)
		b.WriteString(o.s)
	})
	v.s = b.String()
	if w.budget -= len(v.s) + 1; w.budget < 0 {
		v.s, v.why = "", "the values grow too large to be evaluated"
	}
	return v
}

// variable evaluates one variable. Their meaning: https://nginx.org/en/docs/varindex.html
func (w *walk) variable(name string) value {
	if w.deep > 30 {
		return value{why: "variables are nested too deep"}
	}
	w.deep++
	defer func() { w.deep-- }()
	if len(name) == 1 && name[0] >= '0' && name[0] <= '9' {
		v := value{deps: w.groupDeps, why: w.groupWhy}
		if n := int(name[0] - '0'); n < len(w.groups) {
			v.s = w.groups[n]
			v.sealed = strings.Contains(v.s, sealedMark)
		}
		return v
	}
	if v, ok := w.vars[name]; ok {
		return v
	}
	if d := w.c.computed[name]; d != nil {
		v := w.compute(d)
		w.vars[name] = v
		return v
	}
	v := w.builtin(name)
	v.sealed = v.sealed || strings.Contains(v.s, sealedMark)
	if v.deps == nil {
		v.deps = []string{name}
	}
	return v
}

func (w *walk) builtin(name string) value {
	known := func(s string) value { return value{s: s} }
	unknown := func(why string) value { return value{why: why} }
	if rest, ok := strings.CutPrefix(name, "arg_"); ok {
		return known(argument(w.args, rest))
	}
	if rest, ok := strings.CutPrefix(name, "cookie_"); ok {
		return known(cookie(w.header.Values("Cookie"), rest))
	}
	switch name {
	case "http_host":
		return known(w.rawHost)
	case "http_cookie":
		return known(strings.Join(w.header.Values("Cookie"), "; "))
	case "http_x_forwarded_for":
		return known(strings.Join(w.header.Values("X-Forwarded-For"), ", "))
	}
	if rest, ok := strings.CutPrefix(name, "http_"); ok {
		for _, f := range w.header {
			if strings.ReplaceAll(strings.ToLower(f.Name), "-", "_") == rest {
				return known(f.Value)
			}
		}
		return known("")
	}
	for _, p := range []string{"upstream_", "sent_http_", "sent_trailer_"} {
		if strings.HasPrefix(name, p) {
			return unknown("$" + name + " is only known from the answer")
		}
	}
	switch name {
	case "uri", "document_uri":
		return known(w.uri)
	case "request_uri":
		return known(w.unparsed)
	case "args", "query_string":
		return known(w.args)
	case "is_args":
		if w.args != "" {
			return known("?")
		}
		return known("")
	case "request_method":
		return known(w.mainMethod)
	case "request":
		return known(w.mainMethod + " " + w.unparsed + " " + w.proto())
	case "server_protocol":
		return known(w.proto())
	case "http2":
		if w.proto() == "HTTP/2.0" {
			return known("h2")
		}
		return known("")
	case "scheme":
		if w.a.TLS {
			return known("https")
		}
		return known("http")
	case "https":
		if w.a.TLS {
			return known("on")
		}
		return known("")
	case "host":
		if w.host != "" {
			return known(w.host)
		}
		return known(strings.TrimPrefix(w.srv.names[0].text, "."))
	case "server_name":
		return known(w.srv.names[0].text)
	case "server_port":
		if w.a.Local.Port() != 0 {
			return known(strconv.Itoa(int(w.a.Local.Port())))
		}
	case "server_addr":
		if a := w.a.Local.Addr(); a.IsValid() && !a.IsUnspecified() {
			return known(w.a.Local.Addr().Unmap().String())
		}
	case "remote_addr":
		if w.client.IsValid() {
			return known(w.client.String())
		}
		return unknown("the address of the client is not known")
	case "binary_remote_addr":
		if w.client.IsValid() {
			return known(string(w.client.AsSlice()))
		}
		return unknown("the address of the client is not known")
	case "realip_remote_addr":
		if w.a.Client.IsValid() {
			return known(w.a.Client.Unmap().String())
		}
	case "remote_user":
		return w.remoteUser()
	case "content_length":
		if h := w.header.Value("Content-Length"); h != "" {
			return known(h)
		}
		if n := plainLength(string(w.a.Request.Body)); n > 0 && !w.sub {
			return known(strconv.Itoa(n))
		}
		return known("")
	case "content_type":
		return known(w.header.Value("Content-Type"))
	case "document_root", "realpath_root":
		root, _, ok := w.root()
		if ok.known() {
			return value{s: root, deps: ok.deps}
		}
		return ok
	case "request_filename":
		p, v := w.file(w.uri)
		if v.known() {
			return value{s: p, deps: v.deps}
		}
		return v
	case "fastcgi_script_name":
		s, _ := w.scriptName()
		return known(s)
	case "fastcgi_path_info":
		_, info := w.scriptName()
		return known(info)
	case "proxy_host":
		return known(w.proxyHost)
	case "proxy_add_x_forwarded_for":
		v := value{deps: []string{"remote_addr", "http_x_forwarded_for"}}
		prior := strings.Join(w.header.Values("X-Forwarded-For"), ", ")
		if !w.client.IsValid() {
			v.why = "the address of the client is not known"
			return v
		}
		if prior != "" {
			prior += ", "
		}
		v.s = prior + w.client.String()
		return v
	case "invalid_referer":
		return w.invalidReferer()
	case "ssl_client_verify":
		if !w.a.TLS {
			return known("")
		}
		if w.srv.setting("ssl_verify_client", "off") == "off" {
			return known("NONE")
		}
		switch w.a.Cert {
		case "none":
			return known("NONE")
		case "valid":
			return known("SUCCESS")
		case "expired":
			return known("FAILED:certificate has expired")
		case "untrusted":
			return known("FAILED:unable to verify the first certificate")
		}
		return unknown("it is not known whether a client certificate was sent")
	case "ssl_server_name":
		return known(w.a.SNI)
	case "secure_link", "secure_link_expires":
		return w.secureLink(name)
	case "request_completion", "limit_req_status", "limit_conn_status", "proxy_internal_body_length":
		return known("")
	case "limit_rate":
		return known("0")
	case "time_iso8601":
		if !w.a.At.IsZero() {
			return known(w.a.At.Format("2006-01-02T15:04:05-07:00"))
		}
	case "status":
		return unknown("$status is only known from the answer")
	}
	if strings.HasPrefix(name, "geoip") {
		return unknown("$" + name + " comes from a database of countries that is not read here")
	}
	if w.c.sets[name] { // made by a set or a group that did not run
		return value{deps: []string{}}
	}
	return unknown("$" + name + " cannot be evaluated here")
}

func (w *walk) proto() string {
	switch p := strings.ToUpper(w.a.Request.Proto); p {
	case "", "HTTP/1.1":
		return "HTTP/1.1"
	case "H2", "HTTP/2", "HTTP/2.0":
		return "HTTP/2.0"
	case "H3", "HTTP/3", "HTTP/3.0":
		return "HTTP/3.0"
	default:
		return p
	}
}

// argument finds name= in a query, without regard to case.
func argument(args, name string) string {
	for p := range strings.SplitSeq(args, "&") {
		if k, v, ok := strings.Cut(p, "="); ok && strings.EqualFold(k, name) {
			return v
		}
	}
	return ""
}

func cookie(fields []string, name string) string {
	for _, f := range fields {
		for p := range strings.SplitSeq(f, ";") {
			if k, v, ok := strings.Cut(strings.TrimSpace(p), "="); ok && strings.EqualFold(k, name) {
				return v
			}
		}
	}
	return ""
}

// table is a compiled map or geo.
type table struct {
	kind     string
	source   string
	entries  []entry
	exact    map[string]int
	fallback *entry
	trusted  []netip.Prefix
	odd      string // why it cannot be evaluated
}

type entry struct {
	key, value string
	re         *pattern
	net        netip.Prefix
	low, high  netip.Addr
	at         pinpoint.Place
}

// table compiles a map or geo block. Entries may stand in files of their own.
func (c *Config) table(r *reader, d *directive) {
	t := &table{kind: d.name, exact: map[string]int{}}
	c.maps[d] = t
	switch d.name {
	case "map":
		t.source = d.arg(0)
	case "geo":
		t.source = "$remote_addr"
		if len(d.args) > 1 {
			t.source = d.arg(0)
		}
	default:
		t.odd = "$" + strings.TrimPrefix(d.arg(1), "$") + " is chosen by " + d.name + ", which is not evaluated here"
		return
	}
	hostnames, ranges := false, false
	nets := map[netip.Prefix]int{} // of geo: where a network stands in entries
	for _, e := range d.block {
		key, val := e.name, e.arg(0)
		n := entry{key: key, value: val, at: e.at}
		switch {
		case key == "hostnames" && len(e.args) == 0:
			hostnames = true
			continue
		case key == "volatile" && len(e.args) == 0:
			continue
		case key == "ranges" && len(e.args) == 0:
			ranges = true
			continue
		case key == "default":
			t.fallback = &n
			continue
		case t.kind == "geo" && (key == "proxy" || key == "delete"):
			if p, ok := prefix(val); ok && key == "proxy" {
				t.trusted = append(t.trusted, p)
			} else if key == "delete" {
				if i, known := nets[p]; known && ok {
					t.entries[i].net = netip.Prefix{}
					delete(nets, p)
				}
			}
			continue
		case t.kind == "geo" && key == "proxy_recursive":
			continue
		case t.kind == "geo" && ranges:
			low, high, ok := strings.Cut(key, "-")
			var err, err2 error
			n.low, err = netip.ParseAddr(low)
			n.high, err2 = netip.ParseAddr(high)
			if !ok || err != nil || err2 != nil {
				r.problem(e.at, "the range of geo cannot be read")
				continue
			}
		case t.kind == "geo":
			p, ok := prefix(key)
			if !ok {
				r.problem(e.at, "the network of geo cannot be read")
				continue
			}
			n.net = p
			if i, known := nets[p]; known { // the later one counts
				t.entries[i] = n
				continue
			}
			nets[p] = len(t.entries)
		case strings.HasPrefix(key, "~"):
			source, fold := key[1:], false
			if strings.HasPrefix(source, "*") {
				source, fold = source[1:], true
			}
			if n.re = c.pattern(source, fold); n.re == nil {
				r.problem(e.at, "the regular expression of this map cannot be read")
				t.odd = "a regular expression of the map cannot be read"
				continue
			}
		default:
			key = strings.ToLower(strings.TrimPrefix(key, `\`))
			n.key = key
			if !hostnames || !strings.Contains(key, "*") && !strings.HasPrefix(key, ".") {
				if _, ok := t.exact[key]; !ok {
					t.exact[key] = len(t.entries)
				}
			}
			if hostnames && strings.HasPrefix(key, ".") {
				t.exact[key[1:]] = len(t.entries)
			}
		}
		t.entries = append(t.entries, n)
	}
	if t.odd == "" && t.kind == "geo" && len(t.trusted) > 0 {
		t.odd = "the geo takes addresses from X-Forwarded-For, which is not evaluated here"
	}
}

// prefix reads a network or an address; "all" is not one.
func prefix(s string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), true
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	return netip.Prefix{}, false
}

// compute evaluates a map or geo: https://nginx.org/en/docs/http/ngx_http_map_module.html
func (w *walk) compute(d *directive) value {
	t := w.c.maps[d]
	if t == nil {
		return value{why: "the block cannot be read"}
	}
	if t.odd != "" {
		return value{why: t.odd, deps: variablesIn(t.source)}
	}
	in := w.expand(t.source)
	out := value{deps: in.deps}
	if in.why != "" {
		out.why = in.why
		return out
	}
	if in.sealed {
		out.why = "it depends on a secret that is not known here"
		return out
	}
	hit := t.fallback
	if t.kind == "geo" {
		a, err := netip.ParseAddr(in.s)
		a = a.Unmap()
		bits := -1
		for i := range t.entries {
			e := &t.entries[i]
			switch {
			case err != nil:
			case e.net.IsValid() && e.net.Contains(a) && e.net.Bits() > bits:
				hit, bits = e, e.net.Bits()
			case e.low.IsValid() && e.low.Is4() == a.Is4() && e.low.Compare(a) <= 0 && a.Compare(e.high) <= 0:
				hit = e
			}
		}
	} else {
		key := strings.ToLower(in.s)
		if i, ok := t.exact[key]; ok {
			hit = &t.entries[i]
		} else if e, sure := w.wild(t, key, in.s); !sure {
			out.why = "a regular expression of the map takes too long"
			return out
		} else if e != nil {
			hit = e
		}
	}
	if hit == nil {
		out.at, out.quote = d.at, d.text()
		return out
	}
	v := w.expand(hit.value)
	v.depend(out)
	v.at, v.quote = hit.at, hit.key+" "+hit.value
	if secretVariable(t.source) && hit.key != "default" {
		v.quote = "… " + hit.value
	}
	return v
}

func (w *walk) wild(t *table, key, raw string) (hit *entry, sure bool) {
	best := 0
	for i := range t.entries {
		e := &t.entries[i]
		if e.re != nil {
			continue
		}
		k := e.key
		switch {
		case strings.HasPrefix(k, "*.") && strings.HasSuffix(key, k[1:]), strings.HasPrefix(k, ".") && strings.HasSuffix(key, k):
			if n := 1000 + len(k); n > best {
				hit, best = e, n
			}
		case strings.HasSuffix(k, ".*") && strings.HasPrefix(key, k[:len(k)-1]):
			if len(k) > best {
				hit, best = e, len(k)
			}
		}
	}
	if hit != nil {
		return hit, true
	}
	for i := range t.entries {
		e := &t.entries[i]
		if e.re == nil {
			continue
		}
		groups, ok := w.match(e.re, raw)
		if !ok {
			return nil, false
		}
		if groups != nil {
			w.capture(e.re, groups, value{})
			return e, true
		}
	}
	return nil, true
}

// capture keeps the groups of a match for $1 and the named ones.
func (w *walk) capture(p *pattern, groups []string, from value) {
	w.groups, w.groupDeps, w.groupWhy = groups, from.deps, from.why
	for i, n := range p.names {
		if n != "" && i < len(groups) {
			w.vars[n] = value{s: groups[i], deps: from.deps}
		}
	}
}

// invalidReferer is "1" unless the Referer is one that valid_referers names.
// https://nginx.org/en/docs/http/ngx_http_referer_module.html
func (w *walk) invalidReferer() value {
	bad, good := value{s: "1", deps: []string{"invalid_referer"}}, value{deps: []string{"invalid_referer"}}
	rules := w.loc.find("valid_referers")
	if rules == nil {
		return good
	}
	bad.at, bad.quote = rules[0].at, rules[0].text()
	var words []string
	for _, d := range rules {
		words = append(words, d.args...)
	}
	if !w.header.Has("Referer") {
		if slices.Contains(words, "none") {
			return good
		}
		return bad
	}
	ref := w.header.Value("Referer")
	if strings.Contains(ref, sealedMark) {
		return value{why: "the Referer holds a secret that is not known here", deps: good.deps}
	}
	rest, ok := "", false
	if len(ref) >= len("http://i.ru") {
		for _, scheme := range []string{"http://", "https://"} {
			if len(ref) >= len(scheme) && strings.EqualFold(ref[:len(scheme)], scheme) {
				rest, ok = ref[len(scheme):], true
			}
		}
	}
	if !ok {
		if slices.Contains(words, "blocked") {
			return good
		}
		return bad
	}
	host := strings.ToLower(rest)
	tail := ""
	if i := strings.IndexAny(rest, "/:"); i >= 0 {
		host, tail = host[:i], rest[i:]
		if j := strings.IndexByte(tail, '/'); j >= 0 {
			tail = tail[j:]
		} else {
			tail = ""
		}
	}
	if tail == "" {
		tail = "/"
	}
	try := func(name string) bool {
		name, part, _ := strings.Cut(strings.ToLower(name), "/")
		if part != "" && !strings.HasPrefix(tail, "/"+part) {
			return false
		}
		switch {
		case name == host:
			return true
		case strings.HasPrefix(name, "*."):
			return strings.HasSuffix(host, name[1:])
		case strings.HasPrefix(name, "."):
			return host == name[1:] || strings.HasSuffix(host, name)
		case strings.HasSuffix(name, ".*"):
			return strings.HasPrefix(host, name[:len(name)-1])
		}
		return false
	}
	for _, word := range words {
		switch {
		case word == "none" || word == "blocked":
		case word == "server_names":
			for _, n := range w.srv.names {
				if n.re != nil {
					if g, _ := n.re.match(host); g != nil {
						return good
					}
				} else if n.text != "" && try(n.text) {
					return good
				}
			}
		case strings.HasPrefix(word, "~"):
			p := w.c.patterns[patternKey{word[1:], true}]
			if p == nil {
				p = compile(word[1:], true)
			}
			g, sure := w.match(p, rest)
			if !sure {
				return value{why: "a regular expression of valid_referers cannot be evaluated", deps: good.deps}
			}
			if g != nil {
				return good
			}
		case try(word):
			return good
		}
	}
	return bad
}

// secureLink evaluates secure_link and secure_link_md5.
// https://nginx.org/en/docs/http/ngx_http_secure_link_module.html
func (w *walk) secureLink(name string) value {
	out := value{deps: []string{"secure_link"}}
	link, sum := w.loc.last("secure_link"), w.loc.last("secure_link_md5")
	if link == nil || sum == nil {
		if w.loc.last("secure_link_secret") != nil {
			out.why = "secure_link_secret is not evaluated here"
		}
		return out
	}
	given := w.expand(link.arg(0))
	if !given.known() {
		out.why = "the signature of the link is not known here"
		return out
	}
	hash, expires, timed := strings.Cut(given.s, ",")
	if name == "secure_link_expires" {
		out.s = expires
		return out
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(hash, "="))
	if err != nil || len(raw) != md5.Size {
		return out
	}
	until := int64(0)
	if timed {
		if until, err = strconv.ParseInt(expires, 10, 64); err != nil || until <= 0 {
			return out
		}
	}
	w.vars["secure_link_expires"] = value{s: expires, deps: out.deps}
	want := w.expand(sum.arg(0))
	if !want.known() {
		out.why = "what secure_link_md5 signs cannot be evaluated"
		return out
	}
	if md5.Sum([]byte(want.s)) != [md5.Size]byte(raw) {
		return out
	}
	now := w.a.At
	if now.IsZero() {
		now = time.Now()
	}
	out.s = "1"
	if timed && until < now.Unix() {
		out.s = "0"
	}
	return out
}

// exists says whether there is a file, and whether it is a directory.
func (w *walk) exists(name string) (there, dir bool) {
	if len(name) > 1 && strings.HasSuffix(name, "/") { // with a slash behind it, only a directory is there
		_, dir = w.exists(path.Clean("/" + name))
		return dir, dir
	}
	name = path.Clean("/" + name)
	if strings.IndexByte(name, 0) >= 0 || len(name) > 4096 {
		return false, false
	}
	if found, ok := w.seen[name]; ok {
		return found[0], found[1]
	}
	if len(w.seen) < 1000 {
		quoted := name
		if strings.ContainsAny(name, `*?[\`) {
			quoted = globQuote.Replace(name)
		}
		if found, err := w.c.files.Glob(quoted); err == nil && len(found) > 0 {
			there = true
		}
		for _, in := range []string{"/.", "/*"} {
			if found, err := w.c.files.Glob(quoted + in); err == nil && len(found) > 0 {
				there, dir = true, true
				break
			}
		}
	}
	w.seen[name] = [2]bool{there, dir}
	return there, dir
}

var globQuote = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)
