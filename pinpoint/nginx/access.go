package nginx

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// resolveClient finds the address of the client behind trusted proxies, once.
// https://nginx.org/en/docs/http/ngx_http_realip_module.html
func (w *walk) resolveClient(s *scope) {
	if w.realip || w.sub || !w.client.IsValid() {
		return
	}
	froms := s.find("set_real_ip_from")
	if froms == nil {
		return
	}
	var trusted []netip.Prefix
	for _, d := range froms {
		if p, ok := prefix(d.arg(0)); ok {
			trusted = append(trusted, p)
		} else if d.arg(0) != "unix:" {
			w.step(d.at, "set_real_ip_from names a host, which is not looked up here")
		}
	}
	trust := func(a netip.Addr) bool {
		return slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	if !trust(w.client) {
		return
	}
	field := s.setting("real_ip_header", "X-Real-IP")
	if field == "proxy_protocol" {
		w.realip = true
		w.doubt(froms[0].at, "the address of the client comes by the PROXY protocol, which the input does not hold")
		return
	}
	recursive := s.setting("real_ip_recursive", "off") == "on"
	var list []string
	for _, v := range w.header.Values(field) {
		list = append(list, strings.Split(v, ",")...)
	}
	if len(list) == 0 {
		return
	}
	w.realip = true
	if !strings.EqualFold(field, "X-Forwarded-For") { // of other fields the first counts
		list = strings.Split(w.header.Value(field), ",")
	}
	got := w.client
	for i := len(list) - 1; i >= 0; i-- {
		a, ok := address(strings.TrimSpace(list[i]))
		if !ok {
			break
		}
		got = a
		if !recursive || !trust(a) {
			break
		}
	}
	if got != w.client {
		w.step(froms[0].at, "%s is trusted, so %s of %s is the client", w.client, got, field)
		w.client = got
	}
}

// address reads an address that may have a port.
func address(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return a.Unmap(), true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap(), true
	}
	return netip.Addr{}, false
}

// limited notes limits on requests and connections. Whether one is used up cannot be known here.
// https://nginx.org/en/docs/http/ngx_http_limit_req_module.html
func (w *walk) limited() {
	if w.sub || w.limits {
		return
	}
	for _, kind := range []string{"limit_req", "limit_conn"} {
		rules := w.loc.find(kind)
		if rules == nil || w.loc.setting(kind+"_dry_run", "off") == "on" {
			continue
		}
		w.limits = true
		status, err := strconv.Atoi(w.loc.setting(kind+"_status", "503"))
		if err != nil {
			status = 503
		}
		for _, d := range rules {
			zone := d.arg(0)
			if kind == "limit_req" {
				for _, a := range d.args {
					if z, ok := strings.CutPrefix(a, "zone="); ok {
						zone = z
					}
				}
			}
			w.step(d.at, "%s counts here; beyond it nginx answers %d", d.text(), status)
			cause := "concurrency-limit"
			if kind == "limit_req" {
				cause = map[int]string{429: "rate-limit", 403: "rate-limit-as-403"}[status]
				if cause == "" {
					cause = "rate-limit-as-503"
				}
			}
			if w.a.Status != status {
				continue
			}
			key, at := "", pinpoint.Place{}
			for _, z := range w.c.http.find(kind + "_zone") {
				if slices.ContainsFunc(z.args, func(a string) bool {
					return strings.HasPrefix(a, "zone="+zone+":") || a == "zone="+zone
				}) {
					key, at = z.arg(0), z.at
				}
			}
			c := pinpoint.Clue{
				Cause: cause, ID: kind, Weight: pinpoint.Fair, At: d.at, Quote: d.text(),
				Says:  fmt.Sprintf("%s is limited by %s, and beyond the limit nginx answers %d; whether it was used up is in error.log (\"limiting\")", w.loc.location().title(), kind, status),
				Names: map[string]string{"zone": zone, "key": key, "directive": kind},
			}
			if at.Line > 0 {
				c.Fix = append(c.Fix, fmt.Sprintf("The rate and the key %s stand in %s; the burst in %s. Raise the one that the callers need, after looking for the line \"limiting\" in error.log", key, where(at), where(d.at)))
			}
			if kind == "limit_req" && status != 429 {
				c.Fix = append(c.Fix, fmt.Sprintf("Set `limit_req_status 429;` in %s, so that clients know that waiting helps", where(w.srv.d.at)))
			}
			w.possible(status, c)
		}
	}
}

// rules evaluates allow and deny: the first that matches decides.
// https://nginx.org/en/docs/http/ngx_http_access_module.html
func rules(list []*directive, a netip.Addr) (verdict string, by *directive, sure bool) {
	sure = true
	for _, d := range list {
		switch arg := d.arg(0); {
		case arg == "all":
			return d.name, d, sure
		case arg == "unix:":
		default:
			p, ok := prefix(arg)
			if !ok {
				sure = false // a name of a host
			} else if !a.IsValid() {
				sure = false
			} else if p.Contains(a) {
				return d.name, d, sure
			}
		}
	}
	return "", nil, sure
}

// access runs the three checks of nginx under satisfy.
// https://nginx.org/en/docs/http/ngx_http_core_module.html#satisfy
func (w *walk) access() int {
	any := w.loc.setting("satisfy", "all") == "any"
	var code int
	var held []pinpoint.Clue
	note := func(rc int, clues []pinpoint.Clue) (stop bool) {
		if rc == 403 || rc == 401 {
			if !any {
				w.refuse(rc, clues...)
				code = rc
				return true
			}
			if code != 401 {
				code = rc
			}
			if rc == 401 {
				held = append(clues, held...)
			} else {
				held = append(held, clues...)
			}
		}
		return false
	}
	list := w.loc.find("allow", "deny")
	if list != nil {
		verdict, by, sure := rules(list, w.client)
		switch {
		case !sure:
			w.doubt(list[0].at, "the rules of allow and deny cannot be decided: the address of the client or of a rule is not known")
			if verdict == "deny" && !any {
				c := w.denied(list, by)
				for i := range c {
					c[i].Weight = min(c[i].Weight, pinpoint.Hint)
				}
				w.possible(403, c...)
			}
		case verdict == "allow":
			w.step(by.at, "%s lets %s in", by.text(), w.client)
			if any {
				return goOn
			}
		case verdict == "deny":
			w.step(by.at, "%s refuses %s", by.text(), w.who())
			if note(403, w.denied(list, by)) {
				return code
			}
		}
	}
	rc, clues := w.basic()
	if rc == goOn && w.realm() != nil && len(clues) == 0 && any {
		return goOn
	}
	if rc == 500 {
		return 500
	}
	if rc == unsureCode {
		if any {
			code, held = 0, nil
		}
		w.possible(401, clues...)
	} else if note(rc, clues) {
		return code
	}
	undecided := rc == unsureCode
	rc, clues = w.authRequest()
	switch {
	case rc == unsureCode:
		w.possible(w.a.Status, clues...)
		if any {
			return goOn
		}
	case rc == 500, rc == 444:
		return rc
	case rc == 200:
		if any {
			return goOn
		}
	default:
		if note(rc, clues) {
			return code
		}
	}
	if code == 401 { // the address would have been enough too, but the password is what is asked for
		for i := range held {
			if held[i].Cause != "" && i > 0 {
				held[i].Weight = min(held[i].Weight, pinpoint.Fair)
			}
		}
	}
	if code != 0 && !undecided {
		w.refuse(code, held...)
		return code
	}
	for _, s := range []string{"access_by_lua_block", "access_by_lua", "access_by_lua_file", "auth_jwt", "auth_digest", "auth_ldap", "auth_pam", "modsecurity", "oauth2", "auth_oidc", "js_access"} {
		if d := w.loc.last(s); d != nil && d.arg(0) != "off" {
			w.doubt(d.at, "%s may refuse here; it is not evaluated", d.name)
		}
	}
	if d := w.loc.last("SecRulesEnabled"); d != nil {
		w.doubt(d.at, "the NAXSI firewall may refuse here; it is not evaluated")
	}
	return goOn
}

func (w *walk) who() string {
	if w.client.IsValid() {
		return w.client.String()
	}
	return "everybody"
}

// denied explains a rule of allow and deny: the address alone is seldom the whole story.
func (w *walk) denied(list []*directive, by *directive) []pinpoint.Clue {
	holder := w.loc
	for holder.parent != nil && !slices.Contains(holder.body, by) {
		holder = holder.parent
	}
	names := map[string]string{"client": w.who(), "rule": by.text(), "directive": by.text()}
	base := pinpoint.Clue{
		Cause: "nginx-deny-rule", ID: "deny", Weight: pinpoint.Certain, At: by.at, Quote: by.text(), Names: names,
		Says: fmt.Sprintf("`%s` in %s refuses %s in %s", by.text(), where(by.at), w.who(), w.loc.location().title()),
	}
	switch {
	case by.arg(0) != "all":
		base.Fix = []string{fmt.Sprintf("Take `%s` out of %s, or narrow it, if %s is to be let in. Then `nginx -t && nginx -s reload`", by.text(), where(by.at), w.who())}
	case slices.ContainsFunc(list, func(d *directive) bool { return d.name == "allow" }):
		base.Fix = []string{fmt.Sprintf("Add `allow %s;` before `%s` in %s if this client belongs there. The first rule that matches decides. Then `nginx -t && nginx -s reload`", w.who(), by.text(), where(by.at))}
	default:
		base.Fix = []string{fmt.Sprintf("`%s` in %s closes %s for everybody. If only some are meant, put their `allow` lines before it", by.text(), where(by.at), holder.title())}
	}
	var first []pinpoint.Clue
	add := func(c pinpoint.Clue) {
		c.At, c.Quote = by.at, by.text()
		if c.Names == nil {
			c.Names = names
		}
		if c.Weight == pinpoint.Certain {
			base.Weight = pinpoint.Strong
		}
		first = append(first, c)
	}

	if holder.kind == "limit_except" {
		base.Weight = pinpoint.Fair
		m := map[string]string{"method": w.method, "rule": by.text(), "client": w.who(), "directive": holder.d.text()}
		add(pinpoint.Clue{
			Cause: "method-denied-by-rule", ID: "limit_except", Weight: pinpoint.Certain, Names: m,
			Says: fmt.Sprintf("%s in %s holds `%s` for every method but its own, and %s is not one of them", holder.d.text(), where(holder.d.at), by.text(), w.method),
			Fix:  []string{fmt.Sprintf("In %s write `%s %s` if %s is to be allowed at %s", where(holder.d.at), holder.d.text(), w.method, w.method, w.loc.location().title())},
		})
		base.Weight = pinpoint.Fair
	}

	if c, ok := w.otherFamily(list, by); ok {
		add(c)
	}
	if c, ok := w.lostClient(list); ok {
		add(c)
	}
	if c, ok := w.shadowed(by); ok {
		add(c)
	}
	if realm := w.realm(); realm != nil && holder.kind != "limit_except" && w.loc.setting("satisfy", "all") != "any" {
		weight := pinpoint.Fair
		if w.header.Has("Authorization") {
			weight = pinpoint.Certain
		}
		add(pinpoint.Clue{
			Cause: "nginx-satisfy-all", ID: "satisfy", Weight: weight,
			Says: fmt.Sprintf("satisfy all (the default) asks for the right address and for a password; %s fails by the address, before the password is looked at", w.who()),
			Fix: []string{fmt.Sprintf("If the network or the password is to be enough, set `satisfy any;` in %s (%s). If both are wanted, add `allow %s;` before `%s` in %s",
				w.loc.location().title(), where(w.loc.location().d.at), w.who(), by.text(), where(by.at))},
		})
	}
	return append(first, base)
}

// otherFamily looks whether the same host would pass with its other kind of address.
func (w *walk) otherFamily(list []*directive, by *directive) (c pinpoint.Clue, ok bool) {
	a := w.client
	if !a.IsValid() || by.arg(0) != "all" {
		return c, false
	}
	own, other := "IPv4", "IPv6"
	if a.Is6() {
		own, other = other, own
	}
	mine, theirs := 0, ""
	for _, d := range list {
		if p, ok := prefix(d.arg(0)); ok && d.name == "allow" {
			if p.Addr().Is4() == a.Is4() {
				mine++
			} else if theirs == "" {
				theirs = d.arg(0)
			}
		}
	}
	c = pinpoint.Clue{Cause: "ip-family-mismatch", ID: "allow", Names: map[string]string{"client": a.String(), "rule": by.text(), "directive": "allow"}}
	if a.IsLoopback() {
		twin := netip.MustParseAddr("127.0.0.1")
		if a.Is4() {
			twin = netip.IPv6Loopback()
		}
		if verdict, _, sure := rules(list, twin); !sure || verdict == "deny" || a.Is4() && a != netip.MustParseAddr("127.0.0.1") {
			return c, false
		}
		c.Weight = pinpoint.Certain
		c.Says = fmt.Sprintf("the same host would be let in as %s, but it came by %s as %s, and the rules list no such address", twin, own, a)
		c.Fix = []string{fmt.Sprintf("Add `allow %s;` before `%s` in %s, beside %s", a, by.text(), where(by.at), twin)}
		return c, true
	}
	if mine > 0 || theirs == "" {
		return c, false
	}
	c.Weight = pinpoint.Strong
	c.Says = fmt.Sprintf("the client came by %s as %s, and the rules allow %s addresses only (such as %s)", own, a, other, theirs)
	c.Fix = []string{fmt.Sprintf("List the %s network of these clients as well: `allow …;` before `%s` in %s. Until then they pass with %s", own, by.text(), where(by.at), map[string]string{"IPv6": "`curl -6`", "IPv4": "`curl -4`"}[other])}
	return c, true
}

// lostClient looks whether the address judged is that of a proxy, and the one behind it would pass.
func (w *walk) lostClient(list []*directive) (c pinpoint.Clue, ok bool) {
	if w.realip || !w.client.IsValid() {
		return c, false
	}
	for _, field := range []string{"X-Forwarded-For", "X-Real-IP"} {
		values := w.header.Values(field)
		if len(values) == 0 {
			continue
		}
		list2 := strings.Split(values[len(values)-1], ",")
		a, okay := address(strings.TrimSpace(list2[len(list2)-1]))
		if !okay || a == w.client {
			continue
		}
		if verdict, _, sure := rules(list, a); !sure || verdict == "deny" {
			continue
		}
		c = pinpoint.Clue{
			Cause: "client-ip-lost-behind-proxy", ID: "set_real_ip_from", Weight: pinpoint.Fair,
			Names: map[string]string{"client": a.String(), "proxy": w.client.String(), "directive": "set_real_ip_from", "field": field},
			Says:  fmt.Sprintf("nginx judges %s, which is the proxy; %s in %s would pass, but no set_real_ip_from trusts the proxy", w.client, a, field),
			Fix:   []string{fmt.Sprintf("In %s set `set_real_ip_from %s;` and `real_ip_header %s;`, for the addresses of your own proxies only, and let the proxy overwrite %s", where(w.srv.d.at), w.client, field, field)},
		}
		if w.client.IsLoopback() || w.client.IsPrivate() {
			c.Weight = pinpoint.Certain
		}
		return c, true
	}
	return c, false
}

// shadowed looks whether a regular expression took the request from the location that was meant.
func (w *walk) shadowed(by *directive) (c pinpoint.Clue, ok bool) {
	l := w.loc.location()
	top := l
	for top.parent != nil && top.parent.kind != "server" {
		top = top.parent
	}
	if l.re == nil && top.re == nil || top.kind != "location" || w.nested > 0 || w.errorPage {
		return c, false
	}
	winner := l
	if l.re == nil {
		winner = top
	}
	names := map[string]string{"location": winner.title(), "directive": by.text(), "path": show(w.uri), "rule": by.text()}
	c = pinpoint.Clue{Cause: "nginx-location-precedence", ID: "location", Names: names}
	if rest, ok := strings.CutPrefix(w.uri, "/.well-known/"); ok && w.matchesDot(winner) {
		remedy := "/.well-known/"
		if strings.HasPrefix(rest, "acme-challenge/") {
			remedy += "acme-challenge/"
		}
		c.Weight = pinpoint.Certain
		c.Says = fmt.Sprintf("%s in %s is meant for hidden files and takes %s as well: a regular expression wins over every prefix without ^~", winner.title(), where(winner.d.at), remedy)
		c.Fix = []string{fmt.Sprintf("Add `location ^~ %s { … }` beside it (before %s), with the root of the challenge files; ^~ keeps regular expressions out. Leave the rule for the other hidden files", remedy, where(winner.d.at))}
		return c, true
	}
	probe := w.again()
	probe.noRegex = true
	probe.run(serverRewrite)
	if len(probe.clues) > 0 || probe.status >= 400 || probe.loc.location().kind != "location" {
		return c, false
	}
	meant := probe.loc.location()
	if meant.name == "/" || winner == meant {
		return c, false
	}
	names["location"] = winner.title()
	c.Weight = pinpoint.Fair
	c.Says = fmt.Sprintf("%s in %s wins over %s in %s, which would let the request through: a regular expression wins over a prefix without ^~", winner.title(), where(winner.d.at), meant.title(), where(meant.d.at))
	c.Fix = []string{fmt.Sprintf("If %s was meant to decide, write `location ^~ %s` in %s", meant.title(), meant.name, where(meant.d.at))}
	return c, true
}

// matchesDot says that a regular expression looks for names with a dot in front.
func (w *walk) matchesDot(l *scope) bool {
	hidden, _ := l.re.match("/.hidden")
	plain, _ := l.re.match("/hidden")
	return hidden != nil && plain == nil
}

// again is a walk of the same request from its start.
func (w *walk) again() *walk {
	p := newWalk(w.c, w.a)
	p.nested = w.nested + 1
	p.start()
	return p
}

const unsureCode = -2

// realm is the auth_basic that holds here, nil if there is none.
func (w *walk) realm() *directive {
	d := w.loc.last("auth_basic")
	if d == nil || d.arg(0) == "off" || w.loc.last("auth_basic_user_file") == nil {
		return nil
	}
	return d
}

// basic checks the password. https://nginx.org/en/docs/http/ngx_http_auth_basic_module.html
func (w *walk) basic() (int, []pinpoint.Clue) {
	d := w.realm()
	if d == nil {
		return goOn, nil
	}
	file := w.loc.last("auth_basic_user_file")
	given := w.header.Value("Authorization")
	c := pinpoint.Clue{ID: "auth_basic", Weight: pinpoint.Certain, At: d.at, Quote: d.text(), Names: map[string]string{"directive": "auth_basic", "realm": d.arg(0)}}
	word, text, _ := strings.Cut(given, " ")
	switch {
	case given == "":
		c.Cause = "auth-missing"
		c.Says = fmt.Sprintf("auth_basic in %s wants a user and a password, and the request has no Authorization", where(d.at))
		c.Fix = []string{"Send the credentials: `curl -u USER …`"}
		w.step(d.at, "auth_basic finds no credentials")
		return 401, []pinpoint.Clue{c}
	case strings.HasPrefix(given, sealedMark), strings.EqualFold(word, "Basic") && strings.Contains(text, sealedMark):
		if name := w.expand(file.arg(0)); name.known() && w.withoutFile(file, absolute(name.s, path.Dir(w.c.Conf)), &c) {
			return 403, []pinpoint.Clue{c}
		}
		return w.sealedBasic(d, c)
	case !strings.EqualFold(word, "Basic"):
		c.Cause = "auth-scheme-wrong"
		c.Says = fmt.Sprintf("auth_basic in %s wants the Basic scheme, and the request has another", where(d.at))
		c.Fix = []string{"Send `Authorization: Basic …` (`curl -u USER …`)"}
		w.step(d.at, "auth_basic finds another scheme than Basic")
		return 401, []pinpoint.Clue{c}
	case strings.Contains(text, sealedMark):
		return w.sealedBasic(d, c)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		raw, err = base64.RawStdEncoding.DecodeString(strings.TrimSpace(text))
	}
	user, password, ok := strings.Cut(string(raw), ":")
	c.Cause = "basic-credentials-wrong"
	if err != nil || !ok || user == "" {
		c.Says = "the credentials behind Basic are not user:password in base64"
		c.Fix = []string{"Send user and password in the Basic form: `curl -u USER …`"}
		return 401, []pinpoint.Clue{c}
	}
	if strings.Contains(string(raw), sealedMark) {
		return w.sealedBasic(d, c)
	}
	c.Names["user"] = show(user)
	name := w.expand(file.arg(0))
	if !name.known() {
		w.doubt(file.at, "the password file cannot be named: %s", name.why)
		return w.sealedBasic(d, c)
	}
	list := absolute(name.s, path.Dir(w.c.Conf))
	c.Names["file"] = list
	w.files = append(w.files, pinpoint.Access{Path: list, Want: "read", Says: "auth_basic_user_file", At: file.at})
	data, err := w.c.files.ReadFile(list)
	if err != nil {
		if w.withoutFile(file, list, &c) {
			return 403, []pinpoint.Clue{c}
		}
		return w.sealedBasic(d, c)
	}
	for line := range strings.SplitSeq(string(data[:min(len(data), 4<<20)]), "\n") {
		line = strings.TrimSuffix(line, "\r")
		name, rest, ok := strings.Cut(line, ":")
		if !ok || name != user || strings.HasPrefix(line, "#") {
			continue
		}
		hash, _, _ := strings.Cut(rest, ":")
		right, sure := verify(hash, password)
		if !sure {
			return w.sealedBasic(d, c)
		}
		if right {
			w.step(d.at, "auth_basic accepts the user %s", show(user))
			return goOn, nil
		}
		c.Says = fmt.Sprintf("the password of %s does not match the entry in %s", show(user), list)
		c.Fix = []string{fmt.Sprintf("Use the right password, or set a new one: `htpasswd %s %s`", list, show(user))}
		w.step(d.at, "auth_basic refuses the password of %s", show(user))
		return 401, []pinpoint.Clue{c}
	}
	c.Says = fmt.Sprintf("the user %s is not in %s", show(user), list)
	c.Fix = []string{fmt.Sprintf("Use another user, or add this one: `htpasswd %s %s`", list, show(user))}
	w.step(d.at, "auth_basic does not find the user %s", show(user))
	return 401, []pinpoint.Clue{c}
}

// withoutFile makes the clue of a password file that does not exist.
func (w *walk) withoutFile(file *directive, list string, c *pinpoint.Clue) bool {
	if there, _ := w.exists(list); there {
		return false
	}
	c.Cause, c.At, c.Quote = "fs-file-unreadable", file.at, file.text()
	c.Says = fmt.Sprintf("the password file %s does not exist; nginx answers 403 then, whatever the password is", list)
	c.Fix = []string{fmt.Sprintf("Put the file at its place, or correct the path of auth_basic_user_file in %s", where(file.at))}
	c.Names["path"] = list
	w.step(file.at, "the password file does not exist")
	return true
}

// sealedBasic is a password that cannot be checked here.
func (w *walk) sealedBasic(d *directive, c pinpoint.Clue) (int, []pinpoint.Clue) {
	w.doubt(d.at, "auth_basic checks the password; whether it is right is not known here")
	if w.a.Status != 401 {
		return unsureCode, nil
	}
	c.Cause, c.Weight = "basic-credentials-wrong", pinpoint.Fair
	c.Says = fmt.Sprintf("auth_basic in %s checks the password; error.log tells \"password mismatch\" from \"was not found\"", where(d.at))
	return unsureCode, []pinpoint.Clue{c}
}

// authRequest asks another location. https://nginx.org/en/docs/http/ngx_http_auth_request_module.html
func (w *walk) authRequest() (int, []pinpoint.Clue) {
	d := w.loc.last("auth_request")
	if d == nil || d.arg(0) == "off" {
		return goOn, nil
	}
	if w.nested > 2 {
		w.doubt(d.at, "auth_request is nested too deep")
		return goOn, nil
	}
	uri, args, _ := strings.Cut(d.arg(0), "?")
	s := newWalk(w.c, w.a)
	s.nested = w.nested + 1
	s.start()
	s.client, s.realip, s.vars = w.client, true, w.vars
	s.sub, s.internal, s.rawURI = true, true, false
	s.uri, s.args, s.method = uri, args, "GET"
	s.unparsed, s.discarded = w.unparsed, w.discarded
	s.budget = w.budget / 2
	s.trail = nil
	s.run(serverRewrite)
	w.budget = min(w.budget, s.budget)
	w.step(d.at, "auth_request asks %s", show(uri))
	for _, t := range s.trail {
		w.step(t.At, "auth_request: %s", t.Says)
	}
	w.unsure += s.unsure
	c := pinpoint.Clue{
		Cause: "nginx-auth-request-denied", ID: "auth_request", At: d.at, Quote: d.text(),
		Names: map[string]string{"uri": uri, "directive": "auth_request", "location": w.loc.location().title()},
	}
	if len(s.next) > 0 && s.status == 0 {
		n := s.next[0]
		n.Why = "auth_request"
		w.next = append(w.next, n)
		decider := n.Request.Host()
		if n.Request.Via.To != "" {
			decider = n.Request.Via.To
		}
		c.Names["decider"] = decider
		if w.a.Status != 401 && w.a.Status != 403 && w.a.Status != 500 {
			return unsureCode, nil
		}
		c.Weight = pinpoint.Fair
		if w.a.Status == 500 {
			c.Weight = pinpoint.Hint
		}
		c.Says = fmt.Sprintf("auth_request in %s asks %s, which goes to the verifier at %s. If the verifier says 401 or 403, nginx answers that with a page of its own: the verifier decides, not nginx, and error.log stays silent for 403", where(d.at), uri, decider)
		c.Fix = []string{fmt.Sprintf("Ask the verifier at %s directly, with the same Cookie and Authorization, and read its log. Look that %s hands on what it needs: the cookie, X-Original-URI, X-Original-Method, `proxy_pass_request_body off`", decider, s.loc.location().title())}
		return unsureCode, []pinpoint.Clue{c}
	}
	if s.status == 0 && s.unsure > 0 {
		w.doubt(d.at, "what %s answers cannot be evaluated", uri)
		return goOn, nil
	}
	switch status := s.status; {
	case status == 0, status >= 200 && status < 300:
		w.step(d.at, "auth_request is answered with success")
		return 200, nil
	case status == 401 || status == 403:
		c.Weight = pinpoint.Certain
		c.At = s.loc.location().d.at
		c.Names["decider"] = s.loc.location().title()
		c.Says = fmt.Sprintf("auth_request in %s asks %s, and %s in %s answers %d by itself", where(d.at), uri, s.loc.location().title(), where(c.At), status)
		if len(s.clues) > 0 {
			c.At, c.Quote = s.clues[0].At, s.clues[0].Quote
			c.Says += ": " + s.clues[0].Says
			c.Fix = s.clues[0].Fix
		}
		return status, []pinpoint.Clue{c}
	case status == 444:
		c.Weight = pinpoint.Certain
		c.Says = fmt.Sprintf("auth_request in %s asks %s, and there nginx closes the connection without an answer (444)", where(d.at), uri)
		c.Fix = []string{fmt.Sprintf("Let %s answer 401 or 403, so that callers see a refusal", uri)}
		if len(s.clues) > 0 {
			c.At, c.Quote = s.clues[0].At, s.clues[0].Quote
			c.Says += ": " + s.clues[0].Says
		}
		w.refuse(444, c)
		return 444, nil
	default:
		w.step(d.at, "auth_request is answered with %d, which nginx turns into 500", status)
		c.Weight = pinpoint.Certain
		c.Says = fmt.Sprintf("auth_request in %s asks %s, which answers %d; only 2xx, 401 and 403 are understood, so nginx answers 500 and logs \"auth request unexpected status: %d\"", where(d.at), uri, status, status)
		if len(s.clues) > 0 {
			c.Says += ". " + s.clues[0].Says
			c.Fix = s.clues[0].Fix
		}
		if status == 413 {
			l := s.loc.location()
			c.Fix = []string{fmt.Sprintf("The limit of the body counts for the question too, though it has no body: set `client_max_body_size 0;` and `proxy_pass_request_body off;` in %s (%s), that location only", l.title(), where(l.d.at))}
		}
		w.refuse(500, c)
		return 500, nil
	}
}
