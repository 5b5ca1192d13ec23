package policy

import (
	"regexp"
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
//	policies:
//	- cors: {origins: [https://shop.test], credentials: true}
type CrossOrigin struct {
	// Origins that may call: "https://shop.test", "https://*.shop.test" for every
	// name below, or "*" for all.
	Origins []string `json:"origins" required:"true" example:"[https://shop.test]"`
	// Methods that pages may use besides GET, HEAD and POST. Empty: those of the route.
	Methods []string `json:"methods" example:"[PUT, DELETE]"`
	// Headers that pages may send besides the simple ones. Empty: any. The header of
	// the API key is always allowed.
	Headers []string `json:"headers" example:"[X-Trace]"`
	// Expose lists answer headers that pages may read. Those that explain a refusal or
	// a limit are always among them.
	Expose []string `json:"expose"`
	// Credentials allows cookies and TLS certificates. It cannot go with "*".
	Credentials bool `json:"credentials"`
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
)

type corsCheck struct {
	any         bool
	exact       []string
	below       []originBelow
	origins     []string
	methods     []string // upper case; empty: any
	headers     []string // lower case; empty: any
	methodField string
	expose      string
	maxAge      string
	credentials bool
	at          *reason.Source
}

// originBelow is "https://*.shop.test:8443", cut at the star.
type originBelow struct{ before, after string }

var originForm = regexp.MustCompile(`^[a-z][a-z0-9+.-]*://(\*\.)?[a-z0-9\[\]:._-]+$`)

// always exposed: what explains an answer.
const corsExposed = "Whygate-Call, Whygate-Reason, Whygate-Refused-By, Retry-After, RateLimit, RateLimit-Policy"

// Compile reads the origins.
func (p *CrossOrigin) Compile(env *Env) any {
	c := &corsCheck{credentials: p.Credentials, at: env.Source("origins"), expose: corsExposed, origins: p.Origins}
	c.maxAge = strconv.FormatInt(int64(time.Duration(p.MaxAge)/time.Second), 10)
	for i, o := range p.Origins {
		at := index("origins", i)
		switch {
		case o == "*":
			if c.any = true; p.Credentials {
				env.Problem(at, "name the origins", `"*" cannot go with credentials: browsers refuse it`)
			}
		case o == "null":
			env.Problem(at, "", `"null" is the origin of every sandboxed page and local file: allowing it allows anybody`)
		case !originForm.MatchString(strings.ToLower(o)):
			env.Problem(at, `scheme://host or scheme://host:port, such as "https://shop.test"`, "%q is no origin", o)
		default:
			o = strings.ToLower(o)
			if before, after, ok := strings.Cut(o, "*"); ok {
				c.below = append(c.below, originBelow{before, after})
			} else {
				c.exact = append(c.exact, o)
			}
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
	if len(p.Expose) > 0 {
		c.expose += ", " + strings.Join(p.Expose, ", ")
	}
	return c
}

// AllowHeader lets pages send a header that another policy of the route needs.
func (c *corsCheck) AllowHeader(name string) {
	if len(c.headers) > 0 && !slices.Contains(c.headers, strings.ToLower(name)) {
		c.headers = append(c.headers, strings.ToLower(name))
	}
}

func (c *corsCheck) allows(origin string) bool {
	if c.any {
		return true
	}
	for _, o := range c.exact {
		if wire.EqualFold(o, origin) {
			return true
		}
	}
	for _, b := range c.below {
		if n := len(origin) - len(b.after); n > len(b.before) && wire.EqualFold(origin[n:], b.after) && wire.EqualFold(origin[:len(b.before)], b.before) {
			return true
		}
	}
	return false
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
	if !c.allows(origin) && !sameOrigin(origin, x.Scheme, x.Authority) {
		facts := []reason.Fact{reason.Public("origin", strings.Clone(origin)), reason.Rule("allowed", c.origins).At(c.at), x.OwnerFact()}
		if slip := c.slip(origin); slip != "" {
			facts = append(facts, reason.Rule("slip", slip))
		}
		return corsOrigin.Refuse(facts...)
	}
	if !x.Preflight {
		if x.Explaining {
			return reason.Pass(reason.Public("origin", strings.Clone(origin)))
		}
		return reason.Verdict{}
	}
	if m := x.Fields.Get(wire.AccessControlRequestMethod); len(c.methods) > 0 && !slices.Contains(c.methods, m) {
		return corsMethod.Refuse(reason.Public("method", strings.Clone(m)), reason.Public("allowed", c.methods).At(c.at), reason.Public("origin", strings.Clone(origin)), x.OwnerFact())
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
		return reason.Pass(reason.Public("origin", strings.Clone(origin)), reason.Public("answer", "204, the preflight ends here"))
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
	a.Fields.Add("Access-Control-Max-Age", c.maxAge)
	x.Answer = a
	return reason.Verdict{}
}

// EditResponse tells the browser that its page may read the answer.
func (c *corsCheck) EditResponse(x *Exchange, h *wire.Head) {
	// What the upstream says of CORS is replaced: two opinions are an error to browsers.
	kept := h.Fields[:0]
	for _, f := range h.Fields {
		if len(f.Name) < 15 || !wire.EqualFold(f.Name[:15], "Access-Control-") || x.Answer != nil {
			kept = append(kept, f)
		}
	}
	h.Fields = kept
	origin, ok := x.Fields.Find(wire.Origin)
	if !c.any || c.credentials {
		h.Fields.Put(wire.Vary, "Origin")
	}
	if !ok || !c.allows(origin) {
		return
	}
	if c.any && !c.credentials {
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

// slip names the usual mistakes in an origin that is nearly right.
func (c *corsCheck) slip(origin string) string {
	scheme, host, _ := strings.Cut(strings.ToLower(origin), "://")
	for _, o := range c.origins {
		s, h, _ := strings.Cut(strings.ToLower(o), "://")
		bare, _, _ := strings.Cut(host, ":")
		want, _, _ := strings.Cut(h, ":")
		switch {
		case h == host && s != scheme:
			return "has the scheme " + scheme + " instead of " + s
		case want == bare && h != host:
			return "has another port than " + o
		case "www."+h == host || "www."+host == h:
			return "differs from " + o + " by www."
		}
	}
	return ""
}

// sameOrigin: browsers send Origin with same-origin POSTs too.
func sameOrigin(origin, scheme, authority string) bool {
	return len(origin) == len(scheme)+3+len(authority) && wire.EqualFold(origin[:len(scheme)], scheme) &&
		origin[len(scheme):len(scheme)+3] == "://" && wire.EqualFold(origin[len(scheme)+3:], authority)
}

// simpleHeader is one that pages may send without asking, as far as its value is simple.
func simpleHeader(h string) bool {
	switch h {
	case "accept", "accept-language", "content-language", "content-type":
		return true
	}
	return false
}
