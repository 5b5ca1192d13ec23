package apache

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

type authOp int

const (
	opAny authOp = iota
	opAll
	opNone
)

// authSection is a Require directive, or a container of them.
// https://httpd.apache.org/docs/2.4/mod/mod_authz_core.html
type authSection struct {
	op      authOp
	top     bool
	not     bool
	methods *methods
	kind    string // of a Require: "all", "ip", …
	args    string // what follows the kind, raw
	d       *directive
	inside  []*authSection
}

func newAuth(d *directive, m *methods, depth int) *authSection {
	if depth > maxNested {
		return nil
	}
	a := &authSection{methods: m, d: d}
	switch d.name {
	case "require":
		k, rest, _ := word(d.raw)
		if strings.EqualFold(k, "not") {
			a.not = true
			k, rest, _ = word(rest)
		}
		a.kind, a.args = lower(k), strings.TrimSpace(rest)
		return a
	case "requireall":
		a.op = opAll
	case "requireany":
		a.op = opAny
	case "requirenone":
		a.op, a.not = opAny, true
	default:
		return nil
	}
	for _, x := range d.inside {
		switch x.name {
		case "limit", "limitexcept":
			for _, y := range x.inside {
				if s := newAuth(y, limit(x), depth+1); s != nil {
					a.inside = append(a.inside, s)
				}
			}
		default:
			if s := newAuth(x, m, depth+1); s != nil {
				a.inside = append(a.inside, s)
			}
		}
	}
	return a
}

type authResult int

const (
	neutral authResult = iota
	granted
	denied
	deniedNoUser
	authError
)

// verdictOf is a requirement with what it said.
type verdictOf struct {
	a *authSection
	r authResult
}

// authorize evaluates a tree. Leaves are noted in r.leaves.
func (r *request) authorize(a *authSection) authResult { return r.decideAuth(a, opAll) }

// concerns says that a requirement is for a method: that of its Limit, or of one inside for the
// section that httpd makes by itself.
func (a *authSection) concerns(method string) bool {
	if !a.top {
		return a.methods.holds(method)
	}
	return slices.ContainsFunc(a.inside, func(x *authSection) bool { return x.concerns(method) })
}

func (r *request) decideAuth(a *authSection, parent authOp) authResult {
	if !a.concerns(r.method) {
		if parent == opAll {
			return granted
		}
		return neutral
	}
	result := neutral
	if len(a.inside) == 0 && a.kind != "" {
		result = r.require(a)
		r.leaves = append(r.leaves, verdictOf{a, result})
	}
	for _, x := range a.inside {
		one := r.decideAuth(x, a.op)
		if one == authError {
			return authError
		}
		if one == neutral {
			continue
		}
		if a.op == opAll {
			if one == denied {
				result = denied
				break
			}
			if one == deniedNoUser && result != denied || result == neutral {
				result = one
			}
		} else {
			if one == granted {
				result = granted
				break
			}
			if one == deniedNoUser && result == denied || result == neutral {
				result = one
			}
		}
	}
	if a.not {
		switch result {
		case granted:
			result = denied
		case denied, deniedNoUser:
			result = neutral
		}
	}
	return result
}

func is(ok bool) authResult {
	if ok {
		return granted
	}
	return denied
}

func (r *request) require(a *authSection) authResult {
	args := words(a.args)
	switch a.kind {
	case "all":
		return is(len(args) == 1 && strings.EqualFold(args[0], "granted"))
	case "ip":
		for _, n := range args {
			if within(n, r.client) {
				return granted
			}
		}
		return denied
	case "local":
		return is(r.client.IsLoopback() || r.in.Local.Addr().IsValid() && r.client == r.in.Local.Addr().Unmap())
	case "method":
		return is(slices.Contains(args, r.getMethod()))
	case "env":
		for _, n := range args {
			if _, ok := r.env[n]; ok {
				return granted
			}
		}
		return denied
	case "expr":
		text := a.args
		if len(text) > 1 && text[0] == '"' && text[len(text)-1] == '"' {
			text = text[1 : len(text)-1]
		}
		ok, err := r.evaluate(text, a.d.at)
		if err != nil {
			return is(r.doubt("whether “Require expr "+cut(a.args, 80)+"” holds ("+err.Error()+")", a.d.at))
		}
		return is(ok)
	case "user":
		if r.user == "" {
			return deniedNoUser
		}
		return is(slices.Contains(args, r.user))
	case "valid-user":
		if r.user == "" {
			return deniedNoUser
		}
		return granted
	case "group":
		if r.user == "" {
			return deniedNoUser
		}
		return r.inGroup(args, a.d)
	case "ssl":
		return is(r.in.TLS)
	case "ssl-verify-client":
		if r.in.Cert == "" && r.in.TLS {
			return is(r.doubt("whether the client showed a valid certificate", a.d.at))
		}
		return is(r.in.Cert == "valid")
	case "host", "forward-dns":
		if a.kind == "host" {
			return is(r.doubt("whether the name of the address "+r.client.String()+" in DNS ends in one of “"+cut(a.args, 80)+"”", a.d.at))
		}
		for _, n := range args {
			if n == "localhost" && r.client.IsLoopback() {
				return granted
			}
		}
		return is(r.doubt("whether one of “"+cut(a.args, 80)+"” has the address "+r.client.String()+" in DNS", a.d.at))
	case "ldap-user", "ldap-group", "ldap-dn", "ldap-attribute", "ldap-filter", "dbm-group", "dbd-group", "file-owner", "file-group", "unix-group", "claim", "oauth2_claim":
		if r.user == "" {
			return deniedNoUser
		}
	}
	return is(r.doubt("whether “Require "+cut(a.kind+" "+a.args, 100)+"” holds", a.d.at))
}

// within says that an address lies in a network as Require ip and Allow from write it: an address,
// a part of one (10.1), a CIDR, a network with a mask.
func within(network string, addr netip.Addr) bool {
	addr = addr.Unmap()
	if p, ok := networkOf(network); ok {
		return p.Contains(addr)
	}
	return false
}

func networkOf(s string) (netip.Prefix, bool) {
	host, mask, slash := strings.Cut(s, "/")
	if strings.Contains(host, ":") {
		p, err := netip.ParsePrefix(s)
		if err == nil {
			return p.Masked(), true
		}
		a, err := netip.ParseAddr(host)
		if err != nil || slash {
			return netip.Prefix{}, false
		}
		if a.Is4In6() {
			a = a.Unmap()
		}
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	host = strings.TrimSuffix(host, ".")
	parts := strings.Split(host, ".")
	if len(parts) > 4 || host == "" {
		return netip.Prefix{}, false
	}
	bits := 8 * len(parts)
	for len(parts) < 4 {
		parts = append(parts, "0")
	}
	a, err := netip.ParseAddr(strings.Join(parts, "."))
	if err != nil {
		return netip.Prefix{}, false
	}
	if slash {
		if m, err := netip.ParseAddr(mask); err == nil && m.Is4() {
			b := m.As4()
			bits = 0
			for _, x := range b {
				for x&0x80 != 0 {
					bits, x = bits+1, x<<1
				}
			}
		} else if n, err := netip.ParsePrefix(a.String() + "/" + mask); err == nil {
			bits = n.Bits()
		} else {
			return netip.Prefix{}, false
		}
	}
	return netip.PrefixFrom(a, bits).Masked(), true
}

// access runs the checks of access in httpd's order: mod_access_compat, AllowMethods, SSL, then the
// requirements, the password and the requirements again, under Satisfy.
func (r *request) access() *refusal {
	s := r.scope
	satisfy := s.legacy.satisfy(r.method)
	first := r.allowMethods()
	if first == nil {
		first = r.legacyAccess()
	}
	if first == nil {
		first = r.sslAccess()
	}
	switch satisfy {
	case "any":
		if first == nil {
			if s.auth != nil {
				r.step(s.auth.place(), "Satisfy Any: the address suffices")
			}
			return nil
		}
		if s.auth == nil && !r.authConfigured() {
			return first
		}
		refusal, done := r.requirements(false)
		if done {
			return refusal
		}
		return r.identify(first)
	default:
		if first != nil {
			return first
		}
		refusal, done := r.requirements(false)
		if refusal != nil {
			return refusal
		}
		if done {
			return nil
		}
		return r.identify(nil)
	}
}

func (a *authSection) place() pinpoint.Place {
	if a.d != nil {
		return a.d.at
	}
	if len(a.inside) > 0 {
		return a.inside[len(a.inside)-1].place()
	}
	return pinpoint.Place{}
}

func (r *request) authConfigured() bool {
	t := r.scope.setting("authtype")
	return t != "" && !strings.EqualFold(t, "none")
}

// requirements evaluates the Require tree. done says that nothing else has to be asked.
func (r *request) requirements(after bool) (ref *refusal, done bool) {
	s := r.scope
	if s.auth == nil {
		if r.authConfigured() {
			at := s.place("authtype")
			c := r.clue("apache-require-denied", pinpoint.Strong, at)
			c.Says = "AuthType at " + placeText(at) + " is set, but no Require holds for this path, so httpd answers 500 (AH01627)."
			c.Fix = []string{"Add the Require that is meant next to AuthType at " + placeText(at) + "."}
			return r.refuse(500, c), true
		}
		return nil, true
	}
	r.leaves = nil
	switch r.authorize(s.auth) {
	case granted:
		r.step(s.auth.place(), "the requirements are met")
		return nil, true
	case deniedNoUser:
		if !after {
			return nil, false
		}
		return r.refuse(401, r.authzClue("auth-missing", "No user was identified, and the requirements need one.")), true
	case authError:
		return r.refuse(500), true
	}
	if !after || !r.authConfigured() {
		return r.refuse(403, r.deniedClues()...), true
	}
	status := 401
	if r.scope.on("authzsendforbiddenonfailure") {
		status = 403
	}
	return r.refuse(status, r.authzClue("apache-authz-user", "The user is known, but not among those that the requirements name.")), true
}

// identify asks for a user, and then evaluates the requirements again.
func (r *request) identify(otherwise *refusal) *refusal {
	if !r.authConfigured() {
		c := r.clue("apache-require-denied", pinpoint.Strong, r.scope.auth.placeOrNone())
		c.Says = "The requirements need a user, but no AuthType is set for this path, so nobody can be one: httpd answers 500 (AH00027)."
		c.Fix = []string{"Add AuthType, AuthName and AuthUserFile next to the Require at " + placeText(c.At) + "."}
		ref := r.refuse(500, c)
		return ref
	}
	if ref := r.basic(); ref != nil {
		return ref
	}
	ref, _ := r.requirements(true)
	return ref
}

func (a *authSection) placeOrNone() pinpoint.Place {
	if a == nil {
		return pinpoint.Place{}
	}
	return a.place()
}

// decisive is the requirement that a refusal is told with: the first that said no.
func (r *request) decisive() *authSection {
	var last *authSection
	for _, l := range r.leaves {
		if l.r == denied && !l.a.not || l.r == granted && l.a.not || l.r == deniedNoUser {
			if last == nil || l.a.kind != "all" && last.kind == "all" {
				last = l.a
			}
		}
	}
	return last
}

// deniedClues explains AH01630.
func (r *request) deniedClues() []pinpoint.Clue {
	a := r.decisive()
	if a == nil || a.d == nil {
		a = r.scope.auth
	}
	at := a.place()
	text := "the requirements"
	if a.d != nil {
		text = a.d.String()
	}
	where, file := r.origin(at)
	main := r.clue("apache-require-denied", pinpoint.Certain, at)
	main.Says = "“" + text + "” at " + placeText(at) + " refuses " + r.who() + where + "; the error log says AH01630."
	main.Quote = text
	main.Names["directive"] = text
	main.Names["section"] = file
	path := r.objectName()
	main.Names["path"] = path
	switch a.kind {
	case "ip":
		main.Fix = []string{"At " + placeText(at) + ", add the address of the client to “" + text + "”, for example: Require ip " + r.client.String() + "."}
	case "all":
		main.Fix = []string{"If " + path + " is meant to be public, replace “" + text + "” at " + placeText(at) + " by the narrowest Require that fits, in the section of this directory only."}
	default:
		main.Fix = []string{"Correct “" + text + "” at " + placeText(at) + " for this path, or meet what it asks for."}
	}
	clues := []pinpoint.Clue{main}
	if a.not && a.kind == "ip" || a.kind == "ip" && a.not {
		clues = append([]pinpoint.Clue{r.derived(main, "ip-denied", pinpoint.Strong)}, clues...)
	}
	if a.kind == "ip" && !a.not {
		clues = append(clues, r.derived(main, "ip-allowlist-miss", pinpoint.Fair))
	}
	if v6 := r.familyMiss(a); v6 != nil {
		v6.At, v6.Names = main.At, main.Names
		clues = append([]pinpoint.Clue{*v6}, clues...)
	}
	if a.kind == "method" || a.methods != nil && len(a.methods.names) > 0 {
		m := r.derived(main, "method-denied-by-rule", pinpoint.Certain)
		m.Says = "The method " + r.methodName() + " falls under " + text + " at " + placeText(at) + "; other methods are not refused by it."
		if r.sub {
			m.Says = "httpd looks for " + r.uri + " with GET on behalf of this " + r.methodName() + ", and “" + text + "” at " + placeText(at) + " refuses that."
			m.Fix = []string{"Let “" + text + "” at " + placeText(at) + " hold GET too, or send the request to the file itself instead of its directory."}
		}
		if a.methods != nil && a.methods.at != nil {
			m.At = a.methods.at.at
			m.Says = "The method " + r.methodName() + " falls under " + a.methods.at.String() + " at " + placeText(m.At) + ", and “" + text + "” refuses it."
			m.Fix = []string{"Add " + r.methodName() + " to the methods that " + a.methods.at.String() + " at " + placeText(m.At) + " lets in, for this path only, if callers may use it."}
			clues = append(clues, r.derived(m, "apache-limit-except", pinpoint.Strong))
		}
		clues = append([]pinpoint.Clue{m}, clues...)
	}
	if sec := r.filesSection(at); sec != nil {
		f := r.derived(main, "apache-files-protected", pinpoint.Certain)
		f.Says = "The name of the file falls under " + sec.d.String() + " at " + placeText(sec.d.at) + ", which refuses it for good reason: such files are not for the public."
		f.Names["section"] = sec.d.String()
		f.Fix = []string{"Keep " + sec.d.String() + ". If this file is public, give it another name."}
		clues = append([]pinpoint.Clue{f}, clues...)
	}
	if a.kind == "env" || a.kind == "expr" {
		if c := r.mechanism(a.args, at, main); c != nil {
			clues = append([]pinpoint.Clue{*c}, clues...)
		}
	}
	if r.proxied != "" {
		p := r.derived(main, "apache-forward-proxy-denied", pinpoint.Fair)
		clues = append(clues, p)
	}
	if r.rewritten != nil && !strings.HasPrefix(r.in.Why, "error") {
		t := r.derived(main, "apache-rewrite-target-denied", pinpoint.Certain)
		t.Says = "The request was rewritten by “" + r.rewritten.d.String() + "” at " + placeText(r.rewritten.d.at) + ", and the new target " + path + " is refused by “" + text + "” at " + placeText(at) + "."
		t.Names["rule"] = r.rewritten.d.String()
		clues = append([]pinpoint.Clue{t}, clues...)
	}
	if lost := r.lost(func(o *request) bool { return o.authorize(o.scope.auth) == granted }, main); lost != nil {
		clues = append([]pinpoint.Clue{*lost}, clues...)
		for i := range clues[1:] {
			clues[i+1].Weight = min(clues[i+1].Weight, pinpoint.Strong)
		}
	} else if ignored := r.ignoredHtaccess(main); ignored != nil {
		clues = append([]pinpoint.Clue{*ignored}, clues...)
		for i := range clues[1:] {
			clues[i+1].Weight = min(clues[i+1].Weight, pinpoint.Strong)
		}
	}
	return clues
}

// familyMiss says that a list of addresses holds only the other family.
func (r *request) familyMiss(a *authSection) *pinpoint.Clue {
	if a.kind != "ip" || a.not {
		return nil
	}
	nets := words(a.args)
	if len(nets) == 0 || r.client.IsLoopback() && r.client.Is4() {
		return nil
	}
	for _, n := range nets {
		if p, ok := networkOf(n); !ok || p.Addr().Is4() == r.client.Is4() {
			return nil
		}
	}
	c := r.clue("ip-family-mismatch", pinpoint.Fair, a.d.at)
	c.Says = "The client came from " + r.client.String() + ", and “" + cut(a.d.String(), 100) + "” holds addresses of the other family only."
	c.Fix = []string{"At " + placeText(a.d.at) + ", list the client's network of both families, or let the name resolve to one family."}
	return &c
}

// authzClue explains refusals of an identified user.
func (r *request) authzClue(cause, says string) pinpoint.Clue {
	at := r.scope.auth.place()
	if a := r.decisive(); a != nil && a.d != nil {
		at = a.d.at
	}
	c := r.clue(cause, pinpoint.Certain, at)
	c.Says = says
	if a := r.decisive(); a != nil && a.d != nil {
		c.Quote = a.d.String()
		c.Names["directive"] = a.d.String()
		c.Says += " “" + a.d.String() + "” at " + placeText(at) + " decides."
		if cause == "apache-authz-user" {
			who := "the user"
			if r.user != "" && r.user != unknownUser {
				who = "the user " + cut(r.user, 60)
				c.Names["user"] = cut(r.user, 60)
			}
			c.Fix = []string{"Add " + who + " to “" + a.d.String() + "” at " + placeText(at) + ", or to the group that it names."}
		}
	}
	return c
}

// lost says that a check of the address judged a proxy: the address that X-Forwarded-For holds
// would have passed.
func (r *request) lost(passes func(*request) bool, main pinpoint.Clue) *pinpoint.Clue {
	given := r.header.Values("X-Forwarded-For")
	if direct := r.in.Client.Unmap(); r.remoteUsed && direct.IsValid() && direct != r.client {
		o := *r
		o.client, o.leaves, o.env = direct, nil, nil
		o.environment(r.scope)
		if !passes(&o) {
			return nil
		}
		c := r.derived(main, "xff-untrusted-chain", pinpoint.Certain)
		c.Says = "mod_remoteip took " + r.client.String() + " from the field of the request, and “" + main.Quote + "” at " + placeText(main.At) + " refuses it; the connection comes from " + direct.String() + ", which it would let in."
		c.Names["client"], c.Names["proxy"], c.Names["field"] = r.client.String(), direct.String(), "X-Forwarded-For"
		c.Fix = []string{"Send no X-Forwarded-For where no proxy stands between.",
			"If " + direct.String() + " is no proxy of yours, take it out of RemoteIPInternalProxy: otherwise callers choose their address."}
		return &c
	}
	if len(given) == 0 || r.srv.set["remoteipheader"] != nil && r.remoteUsed {
		return nil
	}
	parts := strings.Split(strings.Join(given, ","), ",")
	if len(parts) > 100 {
		return nil
	}
	for i := len(parts) - 1; i >= 0; i-- {
		addr, err := netip.ParseAddr(strings.Trim(strings.TrimSpace(parts[i]), "[]"))
		if err != nil || addr.Unmap() == r.client {
			continue
		}
		o := *r
		o.client, o.leaves, o.env = addr.Unmap(), nil, nil
		o.environment(r.scope)
		if !passes(&o) {
			continue
		}
		c := r.derived(main, "client-ip-lost-behind-proxy", pinpoint.Certain)
		c.Says = "“" + main.Quote + "” at " + placeText(main.At) + " judged " + r.client.String() + ", the address of a proxy; X-Forwarded-For names " + addr.String() + ", which it would let in. mod_remoteip is not set up to use it."
		c.Names["client"], c.Names["proxy"], c.Names["field"] = addr.String(), r.client.String(), "X-Forwarded-For"
		c.Fix = []string{"Load mod_remoteip (a2enmod remoteip) and add to " + r.srv.title() + ": RemoteIPHeader X-Forwarded-For and RemoteIPInternalProxy " + r.client.String() + ".",
			"List only the addresses of your own proxies there, and let the first of them overwrite X-Forwarded-For: otherwise callers choose their address."}
		return &c
	}
	return nil
}

// ignoredHtaccess says that a .htaccess would have let the request in, if AllowOverride let it be read.
func (r *request) ignoredHtaccess(main pinpoint.Clue) *pinpoint.Clue {
	for i := len(r.ignored) - 1; i >= 0; i-- {
		h := r.ignored[i]
		if h.scope == nil || h.scope.auth == nil && h.scope.legacy == nil {
			continue
		}
		o := *r
		o.leaves = nil
		o.scope = h.before.merge(h.scope)
		o.doubts = &doubts{}
		if !o.wouldPass() {
			continue
		}
		c := r.derived(main, "apache-allowoverride-none", pinpoint.Certain)
		over := "AllowOverride None, the default, holds for this directory"
		at := h.over.at
		from := main.At
		if at != nil {
			over = "“" + at.String() + "” at " + placeText(at.at) + " keeps httpd from reading it"
			from = at.at
		}
		c.At = from
		c.Says = h.file + " would let this request in, but " + over + "; so “" + main.Quote + "” at " + placeText(main.At) + " decides."
		c.Names["htaccess"], c.Names["path"], c.Names["file"] = h.file, h.file, main.At.File
		c.Fix = []string{"Move the Require lines of " + h.file + " into the <Directory " + h.dir + "> section in " + main.At.File + " and reload httpd.",
			"Or, for that directory only: <Directory " + h.dir + "> AllowOverride AuthConfig </Directory>."}
		return &c
	}
	return nil
}

func (r *request) wouldPass() bool {
	if f := r.legacyAccess(); f != nil && r.scope.legacy.satisfy(r.method) != "any" {
		return false
	}
	if r.scope.auth == nil {
		return true
	}
	res := r.authorize(r.scope.auth)
	return res == granted || res == deniedNoUser
}

// mechanism names the cause behind an environment variable or an expression: the field of the
// request that it looks at.
func (r *request) mechanism(text string, at pinpoint.Place, main pinpoint.Clue) *pinpoint.Clue {
	var fields []string
	t := lower(text)
	for _, n := range words(text) {
		if d := r.envFrom[strings.TrimPrefix(n, "!")]; d != nil {
			attr := lower(d.arg(0))
			if strings.HasPrefix(d.name, "browsermatch") {
				attr = "user-agent"
			}
			fields = append(fields, attr)
			at = d.at
			text = d.String()
		}
	}
	if strings.Contains(t, "user-agent") || strings.Contains(t, "http_user_agent") {
		fields = append(fields, "user-agent")
	}
	if strings.Contains(t, "referer") {
		fields = append(fields, "referer")
	}
	for _, f := range fields {
		cause := ""
		switch f {
		case "user-agent":
			cause = "user-agent-blocked"
		case "referer":
			cause = "hotlink-referer"
		}
		if cause != "" {
			c := r.derived(main, cause, pinpoint.Certain)
			c.At = at
			c.Names["field"] = f
			c.Names["rule"] = text
			c.Says = "“" + cut(text, 160) + "” at " + placeText(at) + " looks at " + f + ", and “" + main.Quote + "” at " + placeText(main.At) + " refuses for it."
			c.Fix = []string{"Narrow “" + cut(text, 160) + "” at " + placeText(at) + " so that it no longer matches this caller, or let the caller send an honest value of its own."}
			return &c
		}
	}
	return nil
}

// allowMethods is mod_allowmethods.
func (r *request) allowMethods() *refusal {
	d := r.scope.set["allowmethods"]
	if d == nil || !r.c.has("allowmethods") {
		return nil
	}
	var allowed []string
	for _, a := range d.args {
		if strings.EqualFold(a, "reset") {
			allowed = nil
			continue
		}
		allowed = append(allowed, a)
	}
	if len(allowed) == 0 || slices.Contains(allowed, r.getMethod()) {
		return nil
	}
	c := r.clue("method-not-allowed", pinpoint.Certain, d.at)
	c.Quote = d.String()
	c.Names["directive"], c.Names["method"] = d.String(), r.methodName()
	c.Says = "“" + d.String() + "” at " + placeText(d.at) + " does not list " + r.methodName() + " (AH01623)."
	c.Fix = []string{"Use one of " + strings.Join(allowed, ", ") + ", or add " + r.methodName() + " to “" + d.String() + "” at " + placeText(d.at) + " for this path."}
	return r.refuse(405, c)
}

// sslAccess is the part of mod_ssl that refuses with 403 after the handshake.
func (r *request) sslAccess() *refusal {
	s := r.scope
	if !r.c.has("ssl") {
		return nil
	}
	if d := s.set["sslrequiressl"]; d != nil && !r.in.TLS {
		c := r.clue("https-required", pinpoint.Certain, d.at)
		c.Quote, c.Says = d.String(), "SSLRequireSSL at "+placeText(d.at)+" refuses requests without TLS, and this one came without (AH02219)."
		c.Names["directive"] = d.String()
		c.Fix = []string{"Call the https URL; in the virtual host of plain http add a permanent Redirect to it."}
		ssl := r.derived(c, "apache-ssl-require", pinpoint.Strong)
		return r.refuse(403, c, ssl)
	}
	if d := s.set["sslverifyclient"]; d != nil && r.in.TLS && strings.EqualFold(d.arg(0), "require") {
		cause := ""
		switch r.in.Cert {
		case "none":
			cause = "mtls-client-cert-missing"
		case "expired", "untrusted":
			cause = "mtls-client-cert-invalid"
		case "":
			if r.doubt("whether the client showed the certificate that SSLVerifyClient requires", d.at) {
				return nil
			}
			cause = "mtls-client-cert-missing"
		}
		if cause != "" {
			c := r.clue(cause, pinpoint.Certain, d.at)
			c.Quote, c.Names["directive"] = d.String(), d.String()
			c.Says = "“" + d.String() + "” at " + placeText(d.at) + " asks for a client certificate that verifies, and none did."
			c.Fix = []string{"Let the client show a certificate that an authority of SSLCACertificateFile has issued and that has not expired."}
			return r.refuse(403, c)
		}
	}
	for _, d := range s.sslRequire {
		if !r.in.TLS {
			continue
		}
		ok, err := r.evaluate(d.raw, d.at)
		if err != nil {
			ok = r.doubt("whether “"+d.String()+"” holds", d.at)
		}
		if !ok {
			c := r.clue("apache-ssl-require", pinpoint.Certain, d.at)
			c.Quote, c.Names["directive"] = d.String(), d.String()
			c.Says = "“" + d.String() + "” at " + placeText(d.at) + " does not hold for this connection (AH02266, at level info)."
			c.Fix = []string{"Meet the condition, or correct it at " + placeText(d.at) + "."}
			return r.refuse(403, c)
		}
	}
	return nil
}
