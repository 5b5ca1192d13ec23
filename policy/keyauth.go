package policy

import (
	"cmp"
	"strconv"
	"strings"
	"unsafe"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// KeyAuth identifies the calling application by an API key.
//
// The key is looked for in a header, and where the policy names them in a query parameter, a
// cookie or as a bearer token. It is compared by its SHA-256, never forwarded to the upstream unless asked
// for, and never shown: explanations name its public prefix. Keys are made by
// `whygate key new`.
//
//	policies:
//	- key-auth: {header: X-Api-Key}
type KeyAuth struct {
	// Header that carries the key; "" looks in none.
	Header string `json:"header" default:"X-Api-Key"`
	// Query is the parameter that carries the key. Parameters end up in logs and
	// histories; a header is better.
	Query string `json:"query" example:"api_key"`
	// Cookie that carries the key.
	Cookie string `json:"cookie"`
	// Bearer accepts the key as "Authorization: Bearer KEY" too.
	Bearer bool `json:"bearer"`
	// Forward lets the upstream see the key.
	Forward bool `json:"forward"`
}

var (
	keyMissing = reason.New(reason.Reason{
		Code: "key.missing", Status: 401,
		Title:  "No API key was sent",
		Says:   "this API wants an API key in {places}, and none was there[; {slip}]",
		Wanted: "an API key in {places}",
		Seen:   "none[; {slip}]",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "send your key in {places}"},
			{By: reason.Application, Text: "ask {owner|the owner of this API} for access if you have no key"},
		},
		Hint: "policy key-auth says where the key is looked for; a proxy in front may have taken the header away",
	})
	keyRepeated = reason.New(reason.Reason{
		Code: "key.repeated", Status: 401,
		Title:  "More than one API key was sent",
		Says:   "two different API keys were sent[, {keys}]; only one may be",
		Wanted: "one API key",
		Seen:   "{keys}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "send one key, in one place"}},
		Hint:   "clients that set a default key and a key of their own send two",
	})
	keyUnknown = reason.New(reason.Reason{
		Code: "key.unknown", Status: 401,
		Title:  "The API key is not known",
		Says:   "the key in {places} is not known here[; {slip}]",
		Wanted: "a key made by this gateway",
		Seen:   "key {key}[; {slip}][; {known}]",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "check that the key is whole and belongs to this environment"},
			{By: reason.Application, Text: "ask {owner|the owner of this API} for a new key if this one was replaced"},
		},
		Hint: "whygate calls --credential {key} lists the calls made with it; a Credential document with the sha256 of another key is the usual cause",
	})
)

var keyLapses = newLapses("key.", "API key", "key", "key")

type keyCheck struct {
	KeyAuth
	consumers *consumer.Directory
	places    string
	challenge string
	at        *reason.Source
}

// Compile checks that the key is looked for somewhere.
func (p *KeyAuth) Compile(env *Env) any {
	c := &keyCheck{KeyAuth: *p, consumers: env.Consumers, at: env.Source("")}
	var places []string
	if p.Header != "" {
		env.headerName("header", p.Header)
		places = append(places, "header "+p.Header)
	}
	if p.Bearer {
		places = append(places, "Authorization: Bearer")
	}
	if p.Query != "" {
		places = append(places, "query parameter "+p.Query)
	}
	if p.Cookie != "" {
		env.cookieName("cookie", p.Cookie)
		places = append(places, "cookie "+p.Cookie)
	}
	if len(places) == 0 {
		env.Problem("", "name a header, query parameter or cookie", "key-auth looks for the key nowhere")
	}
	c.places = reason.List(places)
	c.challenge = "ApiKey realm=" + quote(env.Route.API)
	if p.Header != "" {
		c.challenge += ", header=" + quote(p.Header)
	}
	if p.Bearer {
		c.challenge = "Bearer realm=" + quote(env.Route.API)
	}
	return c
}

// Presents is whether a key is there.
func (c *keyCheck) Presents(x *Exchange) bool {
	key, _ := c.find(x)
	return key != ""
}

// Wants names the places of the key.
func (c *keyCheck) Wants() string { return "an API key in " + c.places }

// HeaderName is the header that pages must be allowed to send.
func (c *keyCheck) HeaderName() string { return c.Header }

// Carriers are the names of all that may hold the key.
func (c *keyCheck) Carriers() []string { return []string{c.Header, c.Query, c.Cookie} }

// find looks in every place and returns the key, and whether another one was there too.
func (c *keyCheck) find(x *Exchange) (key string, other string) {
	take := func(v string) {
		switch {
		case v == "" || v == key:
		case key == "":
			key = v
		default:
			other = v
		}
	}
	for i := range x.Fields {
		f := &x.Fields[i]
		switch {
		case len(f.Name) == len(c.Header) && wire.EqualFold(f.Name, c.Header):
			take(f.Value)
		case c.Bearer && f.ID == wire.Authorization:
			if v, ok := bearer(f.Value); ok {
				take(v)
			}
		case c.Cookie != "" && f.ID == wire.Cookie:
			take(Cookie(f.Value, c.Cookie))
		}
	}
	if c.Query != "" {
		take(queryParameter(x.Query, c.Query))
	}
	return key, other
}

// Check identifies the application.
func (c *keyCheck) Check(x *Exchange) reason.Verdict {
	key, other := c.find(x)
	if key == "" && x.Preflight {
		return x.refusePreflight(c.Wants(), c.at)
	}
	if key == "" {
		return c.challenged(x, c.missing(x))
	}
	if other != "" {
		return c.challenged(x, keyRepeated.Refuse(reason.Public("places", c.places).At(c.at),
			reason.Own("keys", consumer.Fingerprint(key)+" and "+consumer.Fingerprint(other))))
	}
	cred := c.consumers.Credential(unsafe.Slice(unsafe.StringData(key), len(key)))
	if cred == nil {
		return c.challenged(x, c.unknown(x, key))
	}
	if v := keyLapses.lapsed(x, cred); v.Refused() {
		return c.challenged(x, v)
	}
	if v := x.identify(cred); v.Refused() {
		return v
	}
	if x.Explaining {
		return reason.Pass(reason.Public("key", cred.Prefix), reason.Own("application", cred.Application.Name))
	}
	return reason.Verdict{}
}

// ownedBy names who answers for an application, in brackets behind its name.
func ownedBy(a *consumer.Application) string {
	var parts []string
	if a.Owner.Team != "" {
		parts = append(parts, "team "+strconv.Quote(a.Owner.Team))
	}
	if a.Owner.Contact != "" {
		parts = append(parts, a.Owner.Contact)
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

// Challenge is what a 401 asks for.
func (c *keyCheck) Challenge(*Exchange) string { return c.challenge }

// challenged adds the field that every 401 must have (RFC 9110 §11.6.1).
func (c *keyCheck) challenged(x *Exchange, v reason.Verdict) reason.Verdict {
	x.Extra.Put(wire.WWWAuthenticate, c.challenge)
	return v
}

// missing looks for the key where callers put it by mistake.
func (c *keyCheck) missing(x *Exchange) reason.Verdict {
	facts := []reason.Fact{reason.Public("places", c.places).At(c.at), x.OwnerFact()}
	slip := ""
	for i := range x.Fields {
		f := &x.Fields[i]
		switch {
		case c.Header != "" && wire.EqualFold(f.Name, c.Header):
			slip = "the header " + c.Header + " is there and empty"
		case f.ID == wire.Authorization && !c.Bearer:
			what := cmp.Or(schemeOf(f.Value), "something")
			if _, rest, _ := strings.Cut(f.Value, " "); consumer.LooksLikeKey(f.Value) || consumer.LooksLikeKey(rest) {
				what = "a key of this gateway"
			}
			slip = carriesOther(what)
		case f.ID == wire.OtherField && looksLikeKeyHeader(f.Name):
			slip = "the header " + strings.Clone(f.Name) + " is there, which is not looked at"
		}
	}
	if slip == "" && c.Query == "" {
		for _, p := range []string{"api_key", "apikey", "key", "token", "access_token"} {
			if queryParameter(x.Query, p) != "" {
				slip = "the query parameter " + p + " is there, which is not looked at"
			}
		}
	}
	if slip != "" {
		facts = append(facts, reason.Public("slip", slip))
	}
	return keyMissing.Refuse(facts...)
}

func looksLikeKeyHeader(name string) bool {
	n := strings.ToLower(name)
	return n == "apikey" || n == "api-key" || n == "x-api-key" || n == "x-apikey" || n == "key" || n == "x-key" || n == "token" || n == "x-token" || n == "x-auth-token" || n == "ocp-apim-subscription-key"
}

// unknown says what is odd about a key that nobody knows.
func (c *keyCheck) unknown(x *Exchange, key string) reason.Verdict {
	facts := []reason.Fact{reason.Public("places", c.places).At(c.at), reason.Public("key", consumer.Fingerprint(key)), x.OwnerFact()}
	slip := ""
	trimmed := strings.Trim(key, "\"'` \t")
	switch {
	case trimmed != key && c.consumers.Credential([]byte(trimmed)) != nil:
		slip = "without the quotes or spaces around it, it would be"
	case hasPrefixFold(key, "bearer "):
		slip = `it begins with "Bearer", which does not belong in this place`
	case trimmed != key:
		slip = "it is wrapped in quotes or spaces"
	case strings.HasPrefix(key, "eyJ") && strings.Count(key, ".") == 2:
		slip = "it is a token (JWT), and no API key"
	case strings.Contains(key, "%"):
		slip = "it is percent-encoded"
	case strings.HasPrefix(key, "$") || strings.HasPrefix(key, "{{") || strings.HasPrefix(key, "<"):
		slip = "it looks like a variable that was not filled in"
	case strings.HasPrefix(key, "wg_") && len(key) != consumer.KeyLength:
		slip = "it has " + plural(len(key), "character") + ", keys have " + plural(consumer.KeyLength, "character")
	}
	if slip != "" {
		facts = append(facts, reason.Public("slip", slip))
	}
	if len(key) > consumer.PrefixLength {
		if same := c.consumers.WithPrefix(key[:consumer.PrefixLength]); len(same) > 0 {
			facts = append(facts, reason.Rule("known", "a key with this prefix is known, of application "+same[0].Application.Name+ownedBy(same[0].Application)+", but the rest differs").At(same[0].Source))
		}
	}
	return keyUnknown.Refuse(facts...)
}

// EditRequest keeps the key from the upstream.
func (c *keyCheck) EditRequest(x *Exchange, o *wire.Outgoing) {
	if c.Forward {
		return
	}
	withdraw(o, c.Header, c.Bearer, c.Cookie, c.Query)
}

// bearer reads the token of an Authorization field.
func bearer(v string) (string, bool) {
	if !hasPrefixFold(v, "bearer ") {
		return "", false
	}
	return strings.TrimLeft(v[7:], " "), true
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && wire.EqualFold(s[:len(prefix)], prefix)
}

// Cookie finds the value of a cookie (RFC 6265 §5.4).
func Cookie(field, name string) string {
	for field != "" {
		var part string
		part, field, _ = strings.Cut(field, ";")
		if k, v, ok := strings.Cut(strings.TrimSpace(part), "="); ok && k == name {
			return strings.Trim(v, `"`)
		}
	}
	return ""
}

func withoutCookie(field, name string) string {
	var kept []string
	for part := range strings.SplitSeq(field, ";") {
		part = strings.TrimSpace(part)
		if k, _, _ := strings.Cut(part, "="); k != name && part != "" {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, "; ")
}
