package policy

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// CrossOrigin lets web pages of other origins call this API (CORS).
//
// Preflights are answered here, before authentication: browsers never send credentials
// with them. Refused calls carry the CORS fields as well, so that the page can read why. A call
// from an origin that is not allowed is refused, which a bare missing header would leave the
// browser to report as an opaque failure; calls without an Origin are not from a page and pass.
//
// Pages of a public site that call an address in the local network ask for that besides (Private Network
// Access); only privateNetwork lets them.
//
//	policies:
//	- cors: {origins: [https://shop.test], credentials: true}
type CrossOrigin struct {
	// Origins that may call: "https://shop.test", "https://*.shop.test" for every
	// name below, "http://localhost:*" for every port, or "*" for all.
	Origins []string `json:"origins" example:"[https://shop.test]"`
	// OriginRegexps lists regular expressions (RE2) for more of them, in any case. Each has to match the whole
	// origin: ^ and $ are added.
	OriginRegexps []string `json:"originRegexps" example:"['https://pr-\\d+\\.shop\\.test']"`
	// NullOrigin lets pages call that have no origin of their own: sandboxed frames, and files
	// on somebody's disk. Anybody can make such a page, so it cannot go with credentials.
	NullOrigin bool `json:"nullOrigin"`
	// Methods that pages may use besides GET, HEAD and POST. Empty: those of the route.
	Methods []string `json:"methods" example:"[PUT, DELETE]"`
	// Headers that pages may send besides the simple ones. Empty: any. The header of
	// the API key is always allowed.
	Headers []string `json:"headers" example:"[X-Trace]"`
	// Expose lists answer headers that pages may read, "*" for all. Those that explain a refusal or
	// a limit are always among them.
	Expose []string `json:"expose" example:"[X-Total-Count]"`
	// Credentials allows cookies and TLS certificates. It cannot go with "*".
	Credentials bool `json:"credentials"`
	// PrivateNetwork lets pages of public sites call this API where it has an address in a private network.
	PrivateNetwork bool `json:"privateNetwork"`
	// MaxAge is how long browsers keep the answer to a preflight; they cap it at two hours or less.
	MaxAge resource.Duration `json:"maxAge" default:"10m"`
}

var (
	corsOrigin = reason.New(reason.Reason{
		Code: "cors.origin", Status: 403,
		Title:  "Pages of this origin may not call this API",
		Says:   "the origin {origin} is not allowed[; allowed are {allowed}]",
		Wanted: "an origin among {allowed}",
		Seen:   "Origin: {origin}[, which {slip}]",
		Fixes: []reason.Fix{
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to add {origin} to the allowed origins"},
		},
		Hint: "scheme, host and port must all agree; origins in the policy cors have no path",
	})
	corsMethod = reason.New(reason.Reason{
		Code: "cors.method", Status: 403,
		Title:  "Pages may not use this method here",
		Says:   "the preflight asks for {method}; pages may use {allowed}",
		Wanted: "a method among {allowed}",
		Seen:   "Access-Control-Request-Method: {method}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "use {allowed}"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to add {method} to methods of the policy cors"},
		},
		Hint: "policy cors, field methods",
	})
	corsHeader = reason.New(reason.Reason{
		Code: "cors.header", Status: 403,
		Title:  "Pages may not send this header here",
		Says:   "the preflight asks to send {header}; pages may send {allowed}",
		Wanted: "headers among {allowed}",
		Seen:   "Access-Control-Request-Headers: {headers}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "do not send {header}"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to add {header} to headers of the policy cors"},
		},
		Hint: "policy cors, field headers",
	})
	corsPrivate = reason.New(reason.Reason{
		Code: "cors.private-network", Status: 403,
		Title:  "Pages of public sites may not call this API in a private network",
		Says:   "the preflight from {origin} asks to call an address in a private network, which is not allowed here",
		Wanted: "a page that was loaded from the private network itself, or privateNetwork: true",
		Seen:   "Access-Control-Request-Private-Network: true",
		Fixes: []reason.Fix{
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to set privateNetwork: true of the policy cors"},
			{By: reason.Caller, Text: "open the page from an address in the same network"},
		},
		Hint: "browsers ask this where the page is of a public address and the API is not; it keeps sites of strangers from devices at home",
	})
)

type corsCheck struct {
	origins     originSet
	methods     []string // upper case; empty: any
	headers     []string // lower case; empty: any
	methodField string
	expose      string
	maxAge      string
	credentials bool
	private     bool
	at          *reason.Source
	privateAt   *reason.Source
}

// always exposed: what explains an answer.
const corsExposed = "Whygate-Call, Whygate-Reason, Whygate-Refused-By, Retry-After, RateLimit, RateLimit-Policy"

// Compile reads the origins.
func (p *CrossOrigin) Compile(env *Env) any {
	c := &corsCheck{credentials: p.Credentials, private: p.PrivateNetwork, at: env.Source("origins"), privateAt: env.Source("privateNetwork"), expose: corsExposed}
	if len(p.Origins)+len(p.OriginRegexps) == 0 && !p.NullOrigin {
		env.Problem("", "list them under origins or originRegexps", "cors without origins lets no page call")
	}
	if len(p.Origins) == 0 {
		c.at = env.Source("originRegexps")
	}
	c.maxAge = strconv.FormatInt(int64(time.Duration(p.MaxAge)/time.Second), 10)
	for i, o := range p.Origins {
		at := index("origins", i)
		switch {
		case o == "*":
			c.origins.any, c.origins.written = true, append(c.origins.written, o)
			if p.Credentials {
				env.Problem(at, "name the origins", `"*" cannot go with credentials: browsers refuse it`)
			}
		case o == "null":
			env.Problem(at, "write nullOrigin: true if that is meant", `"null" is the origin of every sandboxed page and local file: allowing it allows anybody`)
		default:
			c.origins.add(env, at, o)
		}
	}
	for i, o := range p.OriginRegexps {
		before := len(c.origins.regexps)
		c.origins.addRegexp(env, index("originRegexps", i), o)
		if p.Credentials && len(c.origins.regexps) > before && c.origins.regexps[before].MatchString("https://anybody.invalid") {
			env.Problem(index("originRegexps", i), "name the hosts", "%q matches the origin of any page, which cannot go with credentials", o)
		}
	}
	if p.NullOrigin {
		if c.origins.null, c.origins.written = true, append(c.origins.written, "null"); p.Credentials {
			env.Problem("nullOrigin", "take one of them out", "nullOrigin cannot go with credentials: any page can give itself the origin null, and would call with the cookies of its visitors")
		}
	}
	for i, m := range p.Methods {
		if m == "*" {
			env.Problem(index("methods", i), "name the methods; without the field they are those of the route", `"*" is a method of that name to browsers that send credentials`)
		} else {
			env.methodName(index("methods", i), m)
		}
	}
	for i, h := range p.Headers {
		if h == "*" {
			env.Problem(index("headers", i), "leave the field out: then any header may be sent", `"*" is a header of that name to browsers that send credentials`)
		} else {
			env.headerName(index("headers", i), h)
		}
	}
	if p.Methods != nil {
		c.methods = []string{"GET", "HEAD", "POST"}
		for _, m := range p.Methods {
			c.methods = append(c.methods, strings.ToUpper(m))
		}
	} else {
		c.methods = env.Route.Methods
	}
	c.methodField = strings.Join(c.methods, ", ")
	for _, h := range p.Headers {
		c.headers = append(c.headers, strings.ToLower(h))
	}
	for i, h := range p.Expose {
		switch {
		case h == "*" && p.Credentials:
			env.Problem(index("expose", i), "name the headers", `"*" cannot go with credentials: browsers take it for the name of a header`)
		case h == "*":
			c.expose = "*"
		case !env.headerName(index("expose", i), h):
		case c.expose != "*":
			c.expose += ", " + h
		}
	}
	return c
}

// AllowHeader lets pages send a header that another policy of the route needs.
func (c *corsCheck) AllowHeader(name string) {
	if len(c.headers) > 0 && !slices.Contains(c.headers, strings.ToLower(name)) {
		c.headers = append(c.headers, strings.ToLower(name))
	}
}

// Check refuses foreign origins and answers preflights.
func (c *corsCheck) Check(x *Exchange) reason.Verdict {
	origin, ok := x.Fields.Find(wire.Origin)
	if !ok {
		if x.Explaining {
			return reason.Pass(reason.Public("origin", "none, so this is no web page of another origin"))
		}
		return reason.Verdict{}
	}
	if !c.origins.has(origin) && !ownOrigin(origin, x.Scheme, x.Authority) && !x.lifted(corsOrigin) {
		facts := []reason.Fact{reason.Public("origin", shownOrigin(origin)), reason.Rule("allowed", c.origins.written).At(c.at), x.OwnerFact()}
		if slip := c.origins.slip(origin); slip != "" {
			facts = append(facts, reason.Rule("slip", slip))
		}
		return corsOrigin.Refuse(facts...)
	}
	if !x.Preflight {
		if x.Explaining {
			return reason.Pass(reason.Public("origin", shownOrigin(origin)))
		}
		return reason.Verdict{}
	}
	private := false
	if v, _ := x.Fields.Lookup("Access-Control-Request-Private-Network"); wire.EqualFold(v, "true") {
		if private = true; !c.private && !x.lifted(corsPrivate) {
			return corsPrivate.Refuse(reason.Public("origin", shownOrigin(origin)), reason.Rule("privateNetwork", "false").At(c.privateAt), x.OwnerFact())
		}
	}
	if m := x.Fields.Get(wire.AccessControlRequestMethod); len(c.methods) > 0 && !slices.Contains(c.methods, m) && !x.lifted(corsMethod) {
		return corsMethod.Refuse(reason.Public("method", strings.Clone(m)), reason.Public("allowed", c.methods).At(c.at), reason.Public("origin", shownOrigin(origin)), x.OwnerFact())
	}
	asked := x.Fields.Get(wire.AccessControlRequestHeaders)
	if len(c.headers) > 0 {
		for h := range strings.SplitSeq(asked, ",") {
			h = strings.ToLower(strings.TrimSpace(h))
			if h != "" && !slices.Contains(c.headers, h) && !simpleHeader(h) {
				return corsHeader.Refuse(reason.Public("header", strings.Clone(h)), reason.Public("headers", strings.Clone(asked)), reason.Public("allowed", c.headers).At(c.at), x.OwnerFact())
			}
		}
	}
	if x.Explaining {
		return reason.Pass(reason.Public("origin", shownOrigin(origin)), reason.Public("answer", "204, the preflight ends here"))
	}
	a := &Answer{Status: 204}
	m := c.methodField
	if m == "" {
		m = x.Fields.Get(wire.AccessControlRequestMethod)
	}
	a.Fields.Add("Access-Control-Allow-Methods", m)
	if asked != "" {
		a.Fields.Add("Access-Control-Allow-Headers", asked)
	}
	if private {
		a.Fields.Add("Access-Control-Allow-Private-Network", "true")
	}
	a.Fields.Add("Access-Control-Max-Age", c.maxAge)
	// What was asked is in the answer, so caches have to tell the questions apart.
	a.Fields.Put(wire.Vary, "Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network")
	x.Answer = a
	return reason.Verdict{}
}

// EditResponse tells the browser that its page may read the answer.
func (c *corsCheck) EditResponse(x *Exchange, h *wire.Head) {
	// What the upstream says of CORS is replaced: two opinions are an error to browsers.
	kept := h.Fields[:0]
	for _, f := range h.Fields {
		if len(f.Name) < 15 || !wire.EqualFold(f.Name[:15], "Access-Control-") || x.Preflight && x.Answer != nil {
			kept = append(kept, f)
		}
	}
	h.Fields = kept
	origin, ok := x.Fields.Find(wire.Origin)
	if !c.origins.any && !h.Fields.HasToken(wire.Vary, "Origin") {
		h.Fields.Put(wire.Vary, "Origin")
	}
	if !ok || !c.origins.has(origin) {
		return
	}
	if c.origins.any {
		origin = "*"
	}
	h.Fields.Add("Access-Control-Allow-Origin", origin)
	if c.credentials {
		h.Fields.Add("Access-Control-Allow-Credentials", "true")
	}
	if !x.Preflight {
		h.Fields.Add("Access-Control-Expose-Headers", c.expose)
	}
}

// shownOrigin is an origin as explanations show it: browsers send none that is longer.
func shownOrigin(origin string) string {
	if len(origin) > longestOrigin {
		return strings.ToValidUTF8(origin[:longestOrigin], "") + "…"
	}
	return strings.Clone(origin)
}

// simpleHeader is one that pages may send without asking, as far as its value is simple.
func simpleHeader(h string) bool {
	switch h {
	case "accept", "accept-language", "content-language", "content-type":
		return true
	}
	return false
}
