package policy

import (
	"crypto/rand"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// CSRF keeps pages of other sites from calling this API with the cookies of their visitors (cross-site
// request forgery).
//
// Calls that change something, which are all but GET, HEAD, OPTIONS and TRACE, have to come from a page of the
// API's own origin, as far as the browser says (Sec-Fetch-Site, Origin, Referer), and have to bring a token
// twice: in a cookie, which browsers send by themselves, and in a header or a form field, which only a page that can
// read the cookie or an earlier answer can fill in. The token is signed (HMAC-SHA256) and expires. Opening a WebSocket is a
// GET, and has to come from the own origin too.
//
// Any GET of the route brings the token: answers carry it in the header of that name, and in a cookie
// when the client has none that is good, or one that nears its end. The cookie is SameSite=Lax, Secure over https, and can be
// read by scripts. An answer that sets it is not to be stored (Cache-Control: no-store). Scripts send the token in
// the header X-CSRF-Token, forms in a hidden field csrf_token.
//
// Pages of other origins that may call need the policy cors as well: with X-CSRF-Token under expose they can
// read the token from an answer, and the header is among those that they may send.
//
// While the policy only watches (shadow, or enforce for other callers), answers bring tokens all the same, so that pages
// have theirs from the moment it is enforced.
//
// Bound to the session cookie of the application or to the identity, a token of somebody else is worth
// nothing, even to those who can set cookies for this host from a neighbouring one. Without a secret of its own the
// gateway makes one at its start: then tokens end with the process, and hold on one node only.
//
// Calls that were let in by a credential that no browser sends by itself, an API key in a header, a bearer token
// (jwt, introspection) or a signature (hmac), cannot be forged that way and are let pass (exemptTokens). Passwords (Basic), client
// certificates and keys in cookies are sent by browsers themselves, so they are not; nor is what an authorizer
// (forward-auth) let in, since only that knows by what.
//
// A call that passes by its header costs one HMAC and no memory. One by a form field reads the body.
//
//	policies:
//	- csrf: {session: sid, secret: {file: csrf.secret}}
type CSRF struct {
	// Cookie that holds the token. A name that begins with __Host- is kept from other hosts by browsers, over
	// https.
	Cookie string `json:"cookie" default:"csrf_token"`
	// Header that carries it, in calls and in answers.
	Header string `json:"header" default:"X-CSRF-Token"`
	// Field of a form that may carry it instead; "" reads no forms.
	Field string `json:"field" default:"csrf_token"`
	// MaxBody is the largest form that is read. A larger one has to bring the token in the header.
	MaxBody resource.Size `json:"maxBody" default:"1MiB" min:"1KiB" max:"16MiB"`
	// Lifetime of a token.
	Lifetime resource.Duration `json:"lifetime" default:"12h" min:"1m"`
	// Secret that tokens are signed with: at least 16 bytes, the same on all nodes. Without it each node makes its own
	// at its start.
	Secret *resource.SecretRef `json:"secret"`
	// Session is the cookie of the application's session, which tokens are bound to.
	Session string `json:"session" example:"sid"`
	// Identity binds tokens to who calls, as the authentication found out.
	Identity bool `json:"identity"`
	// Origins whose pages may call besides the API's own; forms are as for cors.
	Origins []string `json:"origins" example:"[https://shop.test]"`
	// SameSite lets pages of the same site call, such as those of other hosts below its name, where
	// browsers tell (Sec-Fetch-Site).
	SameSite bool `json:"sameSite"`
	// ExemptTokens lets calls pass that were let in by a credential in a header.
	ExemptTokens bool `json:"exemptTokens" default:"true"`
	// Path of the cookie. Policies with secrets of their own on one host need paths or names of their own too.
	Path string `json:"path" default:"/" pattern:"^/[!-:<-~]*$" form:"a path"`
	// Domain of the cookie, for pages on other hosts below it; "" is this host alone.
	Domain string `json:"domain" example:"shop.test"`
}

var (
	csrfOrigin = reason.New(reason.Reason{
		Code: "csrf.foreign-origin", Status: 403,
		Title:  "Pages of other origins may not make this call",
		Says:   "the call was made by a page of {origin}, and only pages of {wanted} may[; that origin {slip}]",
		Wanted: "a page of {wanted}",
		Seen:   "{field}: {origin}[, which {slip}]",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "make the call from a page of {wanted}"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to add {origin} to the origins of the policy csrf"},
		},
		Hint: "if the scheme or the host differ, a proxy in front changes them: add it to trustedProxies of the Gateway and let it send X-Forwarded-Proto and keep Host",
	})
	csrfNoCookie = reason.New(reason.Reason{
		Code: "csrf.missing-cookie", Status: 403,
		Title:  "The CSRF cookie is missing",
		Says:   "the call brings no cookie {cookie}[; {slip}]",
		Wanted: "the cookie {cookie}, and the same token in {places}",
		Seen:   "no cookie {cookie}[; {slip}]",
		Fixes:  csrfFixes("let the client keep cookies, make a GET call to this API first, which sets it, and send its token in {places}"),
		Hint:   "browsers keep no cookie of another site in frames, and no __Host- or Secure cookie over http",
	})
	csrfNoToken = reason.New(reason.Reason{
		Code: "csrf.missing-token", Status: 403,
		Title:  "The CSRF token is missing",
		Says:   "the cookie {cookie} is there, and its token is not in {places}[; {slip}]",
		Wanted: "the token of the cookie {cookie} in {places}",
		Seen:   "no token in {places}[; {slip}]",
		Fixes:  csrfFixes("send the token of the cookie {cookie} in {places}"),
		Hint:   "policy csrf, fields header and field",
	})
	csrfMismatch = reason.New(reason.Reason{
		Code: "csrf.mismatch", Status: 403,
		Title:  "The CSRF token is not that of the cookie",
		Says:   "the token in {place} is another one than that of the cookie {cookie}[; {slip}]",
		Wanted: "the token of the cookie {cookie} in {place}",
		Seen:   "another one[; {slip}]",
		Fixes:  csrfFixes("load the page again, and send the token that the cookie has now"),
		Hint:   "pages that were stored, and several tabs with logins of their own, send old tokens",
	})
	csrfSignature = reason.New(reason.Reason{
		Code: "csrf.bad-signature", Status: 403,
		Title:  "The CSRF token was not made by this gateway",
		Says:   "the token in {place} was not signed with the secret of this API[; {slip}]",
		Wanted: "a token that an answer of this API has brought",
		Seen:   "a token with another signature[; {slip}]",
		Fixes:  csrfFixes("load the page again, which brings a new token"),
		Hint:   "{secret}",
	})
	csrfSession = reason.New(reason.Reason{
		Code: "csrf.other-session", Status: 403,
		Title:  "The CSRF token belongs to another session",
		Says:   "the token in {place}, made {age} ago, is bound to another {bound} than this call has",
		Wanted: "a token that was made for this {bound}",
		Seen:   "one of another {bound}, {age} old",
		Fixes:  csrfFixes("load the page again after logging in or out, which brings a new token"),
		Hint:   "policy csrf, fields session and identity",
	})
	csrfExpired = reason.New(reason.Reason{
		Code: "csrf.expired", Status: 403,
		Title:  "The CSRF token has expired",
		Says:   "the token in {place} was made {age} ago and held for {lifetime}",
		Wanted: "a token of the last {lifetime}",
		Seen:   "one that is {age} old",
		Fixes:  csrfFixes("load the page again, which brings a new token"),
		Hint:   "policy csrf, field lifetime",
	})
)

func csrfFixes(first string) []reason.Fix {
	return []reason.Fix{
		{By: reason.Caller, Text: first},
		{By: reason.Owner, Text: "ask {owner|the owner of this API} {exempt|about credentials for programs, which need no CSRF token}"},
	}
}

type csrfCheck struct {
	CSRF
	key        func() *csrfKey
	made       bool // the secret is made at the start
	origins    originSet
	keyHeaders []string // of policies that take a credential from a header
	consumers  *consumer.Directory
	places     string
	inHeader   string // "header X-CSRF-Token"
	inField    string
	bound      string
	attributes string // of the cookie
	at         *reason.Source
	originsAt  *reason.Source
	lifeAt     *reason.Source
	secretAt   *reason.Source
}

// Compile finds the secret and checks the names.
func (p *CSRF) Compile(env *Env) any {
	c := &csrfCheck{CSRF: *p, consumers: env.Consumers, at: env.Source(""), originsAt: env.Source("origins"), lifeAt: env.Source("lifetime"), secretAt: env.Source("secret")}
	env.cookieName("cookie", p.Cookie)
	if env.headerName("header", p.Header) && (wire.FieldIDOf(p.Header) != wire.OtherField || slices.Contains([]string{"accept", "accept-language", "content-language", "range"}, strings.ToLower(p.Header))) {
		env.Problem("header", "such as X-CSRF-Token", "%s has a meaning of its own", p.Header)
	}
	if p.Session != "" {
		env.cookieName("session", p.Session)
	}
	if p.Session != "" && p.Session == p.Cookie {
		env.Problem("session", "name the cookie of the application's session", "the token cannot be bound to its own cookie")
	}
	for _, prefix := range []string{"__Host-", "__Secure-"} {
		if hasPrefixFold(p.Cookie, prefix) && prefix == "__Host-" && (p.Path != "/" || p.Domain != "") {
			env.Problem("cookie", "take path and domain out", "browsers refuse a cookie __Host- with a path or a domain")
		}
	}
	if p.Domain != "" && !isHostName(strings.ToLower(p.Domain)) {
		env.Problem("domain", "such as shop.test", "%q is no domain", p.Domain)
	}
	if p.Identity && !env.Identifies(false) && !env.Kinds["anonymous"] {
		env.Problem("identity", "add an authentication, such as key-auth", "tokens are to be bound to who calls, and no policy on this route finds out who that is")
	}
	for i, o := range p.Origins {
		at := index("origins", i)
		switch o {
		case "*", "null":
			env.Problem(at, "name the origins", "%q lets every page call, which this policy is there to prevent", o)
		default:
			c.origins.add(env, at, o)
		}
	}
	c.inHeader, c.inField = "header "+p.Header, "form field "+p.Field
	c.places = c.inHeader
	if p.Field != "" {
		c.places += " or " + c.inField
	}
	switch {
	case p.Session != "" && p.Identity:
		c.bound = "session or identity"
	case p.Identity:
		c.bound = "identity"
	default:
		c.bound = "session"
	}
	c.attributes = "; Path=" + p.Path + "; Max-Age=" + strconv.FormatInt(int64(p.Lifetime.D()/time.Second), 10) + "; SameSite=Lax"
	if p.Domain != "" {
		c.attributes += "; Domain=" + p.Domain
	}
	c.findSecret(env)
	return c
}

// findSecret says where the key comes from.
func (c *csrfCheck) findSecret(env *Env) {
	s := c.Secret
	switch {
	case s == nil:
		c.made = true
		k := env.Keep("csrf\x00", func() Kept {
			secret := make([]byte, 32)
			rand.Read(secret)
			return &csrfMade{newCSRFKey(secret)}
		}).(*csrfMade).key
		c.key = func() *csrfKey { return k }
	default:
		secret := env.secretFrom("secret", *s)
		if n := len(secret); n > 0 && n < leastCSRFSecret {
			env.Problem("secret."+s.Field(), "openssl rand -hex 32 makes one", "a secret has at least %d bytes, this one has %d", leastCSRFSecret, n)
		}
		k := newCSRFKey(secret)
		c.key = func() *csrfKey { return k }
	}
}

// csrfMade is a secret that lasts as long as the process.
type csrfMade struct{ key *csrfKey }

// Start has nothing to start.
func (*csrfMade) Start() {}

// Close has nothing to end.
func (*csrfMade) Close() {}

// HeaderName is the header that pages must be allowed to send (cors).
func (c *csrfCheck) HeaderName() string { return c.Header }

// AllowHeader tells of a header that carries a credential on this route.
func (c *csrfCheck) AllowHeader(name string) {
	if name != c.Header && !slices.Contains(c.keyHeaders, name) {
		c.keyHeaders = append(c.keyHeaders, name)
	}
}

// Prepares is true: answers bring the token that later calls have to carry.
func (c *csrfCheck) Prepares() bool { return true }

// Impersonal says that neither the credential nor the identity makes a difference.
func (c *csrfCheck) Impersonal() bool { return !c.ExemptTokens && !c.Identity }

// ReadsBody is whether the token may be in a form.
func (c *csrfCheck) ReadsBody() bool { return c.Field != "" }

// Check wants the token where a call changes something, and brings it along where not.
func (c *csrfCheck) Check(x *Exchange) reason.Verdict {
	switch x.Method {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		if v := c.upgrade(x); v.Refused() {
			return v
		}
		return c.bring(x)
	}
	if c.ExemptTokens {
		if by := c.header(x); by != "" {
			if x.Explaining {
				return reason.Pass(reason.Own("exempt", "the call was let in by "+by+", which no page of another site can send").At(c.at))
			}
			return reason.Verdict{}
		}
	}
	field, v := c.origin(x)
	if v.Refused() && !x.lifted(csrfOrigin) {
		return v
	}
	cookie := ""
	sent, place, v := c.sent(x)
	if v.Refused() {
		for value := range cookies(x.Fields, c.Cookie) {
			cookie = value
		}
		if x.Explaining && cookie == "" { // whatever the form holds
			return c.noCookie(x, "")
		}
		return v
	}
	for value := range cookies(x.Fields, c.Cookie) {
		if cookie == "" || sent != "" && sameToken(sent, value) {
			cookie = value
		}
	}
	switch {
	case cookie == "":
		return c.noCookie(x, sent)
	case sent == "":
		return c.noToken(x)
	case !sameToken(sent, cookie):
		return c.mismatch(x, cookie, sent, place)
	}
	age, state := c.judge(x, sent)
	switch state {
	case tokenForged:
		facts := c.facts(x, place)
		if c.made {
			facts = append(facts, reason.Rule("secret", "the secret is made at each start of a node, so tokens end with it and hold on one node: set secret, the same on all nodes").At(c.secretAt))
		} else {
			facts = append(facts, reason.Rule("secret", "policy csrf, field secret: the same on all nodes? has it changed?").At(c.secretAt))
		}
		if slip := tokenSlip(sent); slip != "" {
			facts = append(facts, reason.Public("slip", slip))
		}
		return csrfSignature.Refuse(facts...)
	case tokenExpired:
		return csrfExpired.Refuse(append(c.facts(x, place), reason.Public("age", roughly(age)), reason.Public("lifetime", c.Lifetime.D()).At(c.lifeAt))...)
	case tokenOfOther:
		return csrfSession.Refuse(append(c.facts(x, place), reason.Public("age", roughly(age)), reason.Public("bound", c.bound))...)
	}
	if x.Explaining {
		return reason.Pass(reason.Public("origin", field), reason.Public("place", place), reason.Public("age", roughly(age)), reason.Public("lifetime", c.Lifetime.D()).At(c.lifeAt))
	}
	return reason.Verdict{}
}

// upgrade: a page may open WebSockets to anywhere, cookies included (RFC 6455 §10.2).
func (c *csrfCheck) upgrade(x *Exchange) reason.Verdict {
	if x.Method != "GET" || !x.Fields.HasToken(wire.Upgrade, "websocket") || c.ExemptTokens && c.header(x) != "" {
		return reason.Verdict{}
	}
	_, v := c.origin(x)
	if x.lifted(csrfOrigin) {
		return reason.Verdict{}
	}
	return v
}

// bring puts the token into the answer.
func (c *csrfCheck) bring(x *Exchange) reason.Verdict {
	token, cookie := "", ""
	var left time.Duration
	for value := range cookies(x.Fields, c.Cookie) {
		cookie = value
		if age, state := c.judge(x, value); state == tokenGood {
			token, left = value, c.Lifetime.D()-age
			break
		}
	}
	renew := token == "" || left < c.Lifetime.D()/4
	switch {
	case x.Explaining && renew:
		why := "the call brings none"
		if token != "" {
			why = "that of the call ends in " + reason.Span(roughly(left))
		} else if cookie != "" {
			why = "that of the call is not good"
		}
		return reason.Pass(reason.Public("token", "a new one comes with the answer: "+why).At(c.at))
	case x.Explaining:
		return reason.Pass(reason.Public("token", "the answer repeats that of the call, which ends in "+reason.Span(roughly(left))).At(c.at))
	case x.Preflight:
		return reason.Verdict{}
	case renew:
		token = c.key().make(x.Now, c.binding(x))
		secure := ""
		if x.Scheme == "https" {
			secure = "; Secure"
		}
		x.Extra.Put(wire.SetCookie, c.Cookie+"="+token+c.attributes+secure)
	}
	x.Extra.Add(c.Header, token)
	return reason.Verdict{}
}

// EditResponse keeps caches from giving one client's token to another.
func (c *csrfCheck) EditResponse(x *Exchange, h *wire.Head) {
	set := false
	for i := range x.Extra {
		f := &x.Extra[i]
		set = set || f.ID == wire.SetCookie && strings.HasPrefix(f.Value, c.Cookie+"=")
	}
	if set {
		h.Fields.Set("Cache-Control", "no-store")
	}
	if _, ok := x.Extra.Lookup(c.Header); ok && !h.Fields.HasToken(wire.Vary, "Cookie") {
		h.Fields.Put(wire.Vary, "Cookie")
	}
}

// header is the credential that let the call in, if it is one that browsers do not send by themselves.
func (c *csrfCheck) header(x *Exchange) string {
	if x.Credential != nil {
		for _, name := range c.keyHeaders {
			if v, _ := x.Fields.Lookup(name); c.isKey(x, v) {
				return "the API key in header " + name
			}
		}
		if v, ok := bearer(x.Fields.Get(wire.Authorization)); ok && c.isKey(x, v) {
			return "the API key in header Authorization"
		}
	}
	if x.Identity == nil {
		return ""
	}
	switch x.Identity.Method {
	case "jwt", "introspection":
		if a := x.Fields.Get(wire.Authorization); hasPrefixFold(a, "bearer ") || hasPrefixFold(a, "dpop ") {
			return "the token in header Authorization"
		}
	case "hmac":
		return "the signature"
	}
	return ""
}

// isKey says that v is the API key that let the call in: another one may have stood in a cookie.
func (c *csrfCheck) isKey(x *Exchange, v string) bool {
	return v != "" && c.consumers.Credential(bytesOf(v)) == x.Credential
}

// origin refuses what was not sent by a page that may. field is what it went by.
func (c *csrfCheck) origin(x *Exchange) (field string, v reason.Verdict) {
	site, _ := x.Fields.Lookup("Sec-Fetch-Site")
	origin, named := x.Fields.Find(wire.Origin)
	field = "Origin"
	if !named {
		if origin = originOf(x.Fields.Get(wire.Referer)); origin != "" {
			field, named = "Referer", true
		}
	}
	known := true // the browser tells where from
	switch {
	case wire.EqualFold(site, "same-origin"), wire.EqualFold(site, "none"):
		return "Sec-Fetch-Site", v
	case wire.EqualFold(site, "same-site"):
		if c.SameSite {
			return "Sec-Fetch-Site", v
		}
	case wire.EqualFold(site, "cross-site"):
	default:
		known = false
	}
	switch {
	case named && c.origins.has(origin):
		return field, v
	case !known && named && ownOrigin(origin, x.Scheme, x.Authority):
		return field, v
	case !known && !named:
		return "none was named", v
	case !named:
		field, origin = "Sec-Fetch-Site", site
	}
	own := x.Scheme + "://" + strings.Clone(x.Authority)
	wanted := append([]string{own}, c.origins.written...)
	facts := []reason.Fact{reason.Public("origin", shownOrigin(origin)), reason.Public("field", field), reason.Public("wanted", wanted).At(c.originsAt), x.OwnerFact()}
	near := originSet{written: wanted}
	if slip := near.slip(origin); slip != "" {
		facts = append(facts, reason.Public("slip", slip))
	} else if origin == "null" {
		facts = append(facts, reason.Public("slip", "is that of a sandboxed frame, a file, or a call that was redirected from another site"))
	}
	return field, csrfOrigin.Refuse(facts...)
}

// originOf is the origin of a page's URL, or "".
func originOf(url string) string {
	if hostOf(url) == "" {
		return ""
	}
	i := strings.Index(url, "://") + 3
	if end := strings.IndexAny(url[i:], `/?#\`); end >= 0 {
		return url[:i+end]
	}
	return url
}

// facts are those of every verdict on a token.
func (c *csrfCheck) facts(x *Exchange, place string) []reason.Fact {
	facts := []reason.Fact{reason.Public("cookie", c.Cookie).At(c.at), reason.Public("places", c.places), reason.Public("place", place), x.OwnerFact()}
	if !c.ExemptTokens {
		facts = append(facts, reason.Public("exempt", "to set exemptTokens: true of the policy csrf, which lets programs with credentials of their own call without a token"))
	}
	return facts
}

func (c *csrfCheck) noCookie(x *Exchange, sent string) reason.Verdict {
	facts := c.facts(x, c.places)
	_, any := x.Fields.Find(wire.Cookie)
	switch {
	case !any && sent != "":
		facts = append(facts, reason.Public("slip", "the token is there, but the client sends no cookies at all"))
	case !any:
		facts = append(facts, reason.Public("slip", "the client sends no cookies at all"))
	case x.Scheme == "http" && (hasPrefixFold(c.Cookie, "__Host-") || hasPrefixFold(c.Cookie, "__Secure-")):
		facts = append(facts, reason.Public("slip", "the call came over http, where browsers keep no cookie of that name"))
	}
	return csrfNoCookie.Refuse(facts...)
}

func (c *csrfCheck) noToken(x *Exchange) reason.Verdict {
	facts := c.facts(x, c.places)
	slip := ""
	for i := range x.Fields {
		f := &x.Fields[i]
		if f.ID == wire.OtherField && !wire.EqualFold(f.Name, c.Header) {
			switch strings.ToLower(f.Name) {
			case "x-csrf-token", "x-xsrf-token", "x-csrftoken", "csrf-token", "xsrf-token", "requestverificationtoken":
				slip = "the header " + strings.Clone(f.Name) + " is there, which is not looked at"
			}
		}
	}
	kind, _ := formKind(x.Fields.Get(wire.ContentType))
	switch {
	case slip != "":
	case c.Field != "" && queryParameter(x.Query, c.Field) != "":
		slip = "the query parameter " + c.Field + " is there, which is not looked at"
	case c.Field != "" && kind != "" && x.Fields.Count("Content-Encoding") > 0:
		slip = "the form is compressed, so it was not read"
	case c.Field != "" && kind == "" && x.BodySize != 0:
		slip = "the body is no form, so only the header was looked at"
	}
	if slip != "" {
		facts = append(facts, reason.Public("slip", slip))
	}
	return csrfNoToken.Refuse(facts...)
}

func (c *csrfCheck) mismatch(x *Exchange, cookie, sent, place string) reason.Verdict {
	facts := c.facts(x, place)
	sentAge, state := c.judge(x, sent)
	cookieAge, cookieState := c.judge(x, cookie)
	slip := tokenSlip(sent)
	switch {
	case slip != "" || state == tokenForged && cookieState == tokenForged:
	case cookieState == tokenForged:
		slip = "the cookie is not from this gateway, the token is"
	case state == tokenForged:
		slip = "the token is not from this gateway, the cookie is"
	case sentAge > cookieAge:
		slip = "the token is older than the cookie: the page was loaded before the cookie changed"
		facts = append(facts, reason.Public("age", roughly(sentAge)), reason.Public("cookie_age", roughly(cookieAge)))
	default:
		slip = "both are from this gateway, of different answers"
		facts = append(facts, reason.Public("age", roughly(sentAge)), reason.Public("cookie_age", roughly(cookieAge)))
	}
	if slip != "" {
		facts = append(facts, reason.Public("slip", slip))
	}
	return csrfMismatch.Refuse(facts...)
}

// tokenSlip says what is odd about the form of a token.
func tokenSlip(token string) string {
	switch {
	case strings.Trim(token, "\"'` ") != token:
		return "the token is wrapped in quotes or spaces"
	case strings.Contains(token, "%"):
		return "the token is percent-encoded"
	case strings.HasPrefix(token, "$") || strings.HasPrefix(token, "{{") || strings.HasPrefix(token, "<"):
		return "the token looks like a variable that was not filled in"
	case token == "undefined" || token == "null":
		return "the script sends " + token + ": it did not find the cookie"
	case len(token) != csrfTokenLength:
		return "the token has " + plural(len(token), "character") + ", tokens have " + plural(csrfTokenLength, "character")
	}
	return ""
}

// binding is what a token holds for.
func (c *csrfCheck) binding(x *Exchange) (b tokenBinding) {
	if c.Session != "" {
		for value := range cookies(x.Fields, c.Session) {
			b.session = value
			break
		}
	}
	if c.Identity {
		if x.Identity != nil {
			b.subject = x.Identity.Subject
		}
		if x.Application != nil {
			b.application = x.Application.Name
		}
	}
	return b
}

// judge reads a token.
func (c *csrfCheck) judge(x *Exchange, token string) (age time.Duration, state tokenState) {
	made, state := c.key().read(token, c.binding(x))
	if state == tokenOfOther && c.Session == "" && !c.Identity { // there are no others: its second half was changed
		state = tokenForged
	}
	if state == tokenForged {
		return 0, state
	}
	if age = max(x.Now.Sub(made), 0); age >= c.Lifetime.D() {
		state = tokenExpired
	}
	return age, state
}
