package policy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// What jwt and introspection have in common: where a token is looked for, what it has to claim, and whom it
// identifies.

// tokenReasons are the reasons that both have, each under its own name.
type tokenReasons struct{ missing, repeated, issuer, audience, claimMissing, claimMismatch, client *reason.Reason }

func newTokenReasons(kind, token string) tokenReasons {
	return tokenReasons{
		missing: reason.New(reason.Reason{
			Code: kind + ".missing", Status: 401,
			Title:  "No token was sent",
			Says:   "this API wants " + token + " in {places}, and none was there[; {slip}]",
			Wanted: token + " in {places}",
			Seen:   "none[; {slip}]",
			Fixes: []reason.Fix{
				{By: reason.Caller, Text: "send " + token + " in {places}[, from {issuer}]"},
				{By: reason.Application, Text: "ask {owner|the owner of this API} where to get a token if you have none"},
			},
			Hint: "policy " + kind + " says where the token is looked for; a proxy in front may have taken the header away",
		}),
		repeated: reason.New(reason.Reason{
			Code: kind + ".repeated", Status: 400,
			Title:  "More than one token was sent",
			Says:   "two different tokens were sent in {places}; only one may be",
			Wanted: "one token",
			Seen:   "two that differ",
			Fixes:  []reason.Fix{{By: reason.Caller, Text: "send one token, in one place"}},
			Hint:   "clients that set a default header and one of their own send two; a cookie may be left from another login",
		}),
		issuer: reason.New(reason.Reason{
			Code: kind + ".issuer", Status: 401,
			Title:  "The token comes from another issuer",
			Says:   "the token comes from {seen}, and this API trusts {wanted}[; {slip}]",
			Wanted: "a token from {wanted}",
			Seen:   "a token from {seen}[; {slip}]",
			Fixes: []reason.Fix{
				{By: reason.Caller, Text: "get a token from {wanted}"},
				{By: reason.Owner, Text: "ask {owner|the owner of this API} to trust {seen} too, if the API is for its tokens"},
			},
			Hint: "the setting issuer is compared letter by letter with the claim iss",
		}),
		audience: reason.New(reason.Reason{
			Code: kind + ".audience", Status: 401,
			Title:  "The token is for somebody else",
			Says:   "the token is for {seen}, and this API wants one for {wanted}[; {slip}]",
			Wanted: "a token whose audience (aud) is {wanted}",
			Seen:   "a token for {seen}[; {slip}]",
			Fixes: []reason.Fix{
				{By: reason.Caller, Text: "ask the issuer for a token for {wanted}"},
				{By: reason.Owner, Text: "ask {owner|the owner of this API} to accept {seen}, if tokens for it are meant for this API"},
			},
			Hint: "the setting audience is compared letter by letter with the claim aud",
		}),
		claimMissing: reason.New(reason.Reason{
			Code: kind + ".claim-missing", Status: 401,
			Title:  "The token lacks a claim",
			Says:   "the token has no claim {claim}, which this API wants[; {slip}]",
			Wanted: "a token with the claim {claim}[, {values}]",
			Seen:   "claims {claims}[; {slip}]",
			Fixes: []reason.Fix{
				{By: reason.Caller, Text: "ask the issuer for a token with the claim {claim}; some claims come with a scope of their own"},
				{By: reason.Operator, Text: "have the issuer put {claim} into its tokens for this API"},
			},
			Hint: "the claims that {who|the issuer} writes depend on its settings for the client",
		}),
		claimMismatch: reason.New(reason.Reason{
			Code: kind + ".claim-mismatch", Status: 403,
			Title:  "A claim of the token has a value that this API does not accept",
			Says:   "the claim {claim} of the token is {seen|another value}, and this API accepts {values|other values}",
			Wanted: "{claim} {values|of another value}",
			Seen:   "{claim} {seen|of another value}",
			Fixes: []reason.Fix{
				{By: reason.Owner, Text: "ask {owner|the owner of this API} to accept tokens with {claim} {seen|as it is}"},
				{By: reason.Caller, Text: "use a token with another {claim}[, {values}]"},
			},
			Hint: "field claims of the policy lists the values that are accepted",
		}),
		client: reason.New(reason.Reason{
			Code: kind + ".client-not-accepted", Status: 401,
			Title:  "The client that the token was made for is not accepted now",
			Says:   "the token was made for client {client}, which is not accepted now: {state}",
			Wanted: "a client that is accepted",
			Seen:   "client {client}[ of application \"{application}\"], {state}",
			Fixes:  []reason.Fix{{By: reason.Application, Text: "ask {owner|the owner of this API} to accept client {client} again"}},
			Hint:   "state, from and until of Credential \"{credential}\", {written}",
		}),
	}
}

// TokenPlace says where a token is looked for.
type TokenPlace struct {
	// Header that carries the token: after the word Bearer in Authorization (RFC 6750), with or without that
	// word in any other; "" looks in none.
	Header string `json:"header" default:"Authorization"`
	// Cookie that carries the token.
	Cookie string `json:"cookie" example:"access_token"`
	// Query is the parameter that carries the token. Parameters end up in logs and histories; a header is
	// better.
	Query string `json:"query" example:"access_token"`
	// Forward lets the upstream see the token.
	Forward bool `json:"forward" default:"true"`
}

// places is a TokenPlace, compiled.
type places struct {
	TokenPlace
	id        wire.FieldID
	text      string
	challenge string // without error
}

func (p TokenPlace) compile(env *Env, claims *TokenClaims) places {
	scopes := claims.ChallengeScopes
	c := places{TokenPlace: p, id: wire.FieldIDOf(p.Header)}
	var list []string
	if p.Header != "" {
		env.headerName("header", p.Header)
		if c.id == wire.Authorization {
			list = append(list, "Authorization: Bearer")
		} else {
			list = append(list, "header "+p.Header)
		}
	}
	if p.Cookie != "" {
		env.cookieName("cookie", p.Cookie)
		list = append(list, "cookie "+p.Cookie)
	}
	if p.Query != "" {
		list = append(list, "query parameter "+p.Query)
	}
	if len(list) == 0 {
		env.Problem("", "name a header, cookie or query parameter", "the token is looked for nowhere")
	}
	env.scopeNames("challengeScopes", scopes)
	c.text = reason.List(list)
	c.challenge = "Bearer realm=" + quote(env.Route.API)
	if len(scopes) > 0 {
		c.challenge += ", scope=" + quote(strings.Join(scopes, " "))
	}
	if m := claims.ResourceMetadata; m != "" {
		if u, err := url.Parse(m); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.Fragment != "" {
			env.Problem("resourceMetadata", "such as https://api.example/.well-known/oauth-protected-resource", "%q is no URL", m)
		}
		c.challenge += ", resource_metadata=" + quote(m)
	}
	return c
}

// find looks in every place and returns the token, and whether another one was there too.
func (p *places) find(x *Exchange) (token string, other bool) {
	take := func(v string) {
		if v != "" && token == "" {
			token = v
		} else if v != "" && v != token {
			other = true
		}
	}
	for i := range x.Fields {
		f := &x.Fields[i]
		switch {
		case len(f.Name) == len(p.Header) && (f.ID == p.id && p.id != wire.OtherField || p.id == wire.OtherField && wire.EqualFold(f.Name, p.Header)):
			if v, ok := bearer(f.Value); ok {
				take(v)
			} else if p.id != wire.Authorization {
				take(f.Value)
			}
		case p.Cookie != "" && f.ID == wire.Cookie:
			take(Cookie(f.Value, p.Cookie))
		}
	}
	if p.Query != "" {
		take(queryParameter(x.Query, p.Query))
	}
	return token, other
}

// slip looks for the token where callers put it by mistake.
func (p *places) slip(x *Exchange) (slip string) {
	for i := range x.Fields {
		f := &x.Fields[i]
		lower := strings.ToLower(f.Name)
		switch {
		case f.ID == wire.Authorization && p.id == wire.Authorization:
			scheme := schemeOf(f.Value)
			bare := strings.TrimLeft(f.Value, `"'`)
			switch {
			case f.Value == "":
				slip = "the header Authorization is there and empty"
			case scheme == "Bearer" || wire.EqualFold(f.Value, "bearer"):
				slip = "the word Bearer is there, and no token behind it"
			case strings.HasPrefix(bare, "eyJ"):
				slip = `a token is there without the word "Bearer" before it`
			case bare != f.Value && hasPrefixFold(bare, "bearer"):
				slip = "all of Authorization is wrapped in quotes, the word Bearer too"
			case hasPrefixFold(f.Value, "bearer:") || hasPrefixFold(f.Value, "bearer="):
				slip = "the word Bearer is there, and " + strconv.Quote(f.Value[6:7]) + " behind it where a space is due"
			case hasPrefixFold(f.Value, "bearer"):
				slip = `the word Bearer is there, and no space between it and the token`
			case (scheme == "JWT" || scheme == "Token") && strings.HasPrefix(f.Value[len(scheme)+1:], "eyJ"):
				slip = "a token is there behind the word " + scheme + ", which has to be Bearer"
			case scheme == "":
				slip = `something is there without the word "Bearer" before it`
			default:
				slip = carriesOther(scheme)
			}
		case f.ID == wire.Authorization:
			slip = "the header Authorization is there, which is not looked at"
		case p.id == wire.OtherField && wire.EqualFold(f.Name, p.Header):
			slip = "the header " + p.Header + " is there and empty"
		case lower == "token" || lower == "x-access-token" || lower == "x-auth-token" || lower == "access-token" || lower == "x-token" || lower == "x-authorization":
			slip = "the header " + strings.Clone(f.Name) + " is there, which is not looked at"
		case lower == "proxy-authorization":
			slip = "Proxy-Authorization is there, which is for proxies"
		}
	}
	if slip == "" && p.Query == "" {
		for _, name := range []string{"access_token", "token", "jwt", "id_token"} {
			if queryParameter(x.Query, name) != "" {
				slip = "the query parameter " + name + " is there, which is not looked at"
			}
		}
	}
	return slip
}

// mangled names what clients do to a token on the way, or is "".
func mangled(t string) string {
	switch {
	case hasPrefixFold(t, "bearer ") || hasPrefixFold(t, "bearer:"):
		return `it begins with the word "Bearer" once more; one is enough`
	case strings.Trim(t, "\"'`") != t:
		return "it is wrapped in quotes"
	case strings.Contains(t, ",") && strings.Contains(t, ".eyJ"):
		return "it is several tokens with commas between them, as proxies join headers that are sent twice"
	case strings.ContainsAny(t, " \t"):
		return "there are spaces in it"
	case strings.HasPrefix(t, "$") || strings.HasPrefix(t, "{{") || strings.HasPrefix(t, "<"):
		return "it looks like a variable that was not filled in"
	case t == "null" || t == "undefined" || t == "None" || t == "nil":
		return "it is the word " + strings.Clone(t) + ", which programs send when they have no token"
	case strings.Contains(t, "%"):
		return "it is percent-encoded"
	case consumer.LooksLikeKey(t):
		return "it is an API key of this gateway, and no token"
	}
	return ""
}

// refuse adds the field WWW-Authenticate to a 401, and to the 400 of RFC 6750 §3.1.
func (p *places) refuse(x *Exchange, v reason.Verdict) reason.Verdict {
	switch c := p.Challenge(x); {
	case v.Reason.Status == 400:
		x.Extra.Put(wire.WWWAuthenticate, c+`, error="invalid_request", error_description=`+quote(v.Reason.Title))
	case v.Reason.Status == 401 && strings.HasSuffix(v.Reason.Code, ".missing"):
		x.Extra.Put(wire.WWWAuthenticate, c)
	case v.Reason.Status == 401:
		x.Extra.Put(wire.WWWAuthenticate, c+`, error="invalid_token", error_description=`+quote(v.Reason.Title))
	}
	return v
}

// Challenge is the WWW-Authenticate field of a call that carries no token, with the scopes that the route wants.
func (p *places) Challenge(x *Exchange) string {
	if x.Route.Scope == "" || strings.Contains(p.challenge, ", scope=") {
		return p.challenge
	}
	return p.challenge + ", scope=" + quote(x.Route.Scope)
}

// EditRequest keeps the token from the upstream.
func (p *places) EditRequest(x *Exchange, o *wire.Outgoing) {
	if p.Forward {
		return
	}
	withdraw(o, p.Header, false, p.Cookie, p.Query)
}

// HeaderName is the header that pages must be allowed to send.
func (p *places) HeaderName() string { return p.Header }

// ClaimRule is a claim that a token must have.
type ClaimRule struct {
	// Name of the claim. Dots lead into objects: realm_access.roles.
	Name string `json:"name" required:"true" example:"tenant"`
	// Values that are let in. Of a list, one value has to be among them. Empty: any value.
	Values []string `json:"values" example:"[acme]"`
}

// TokenClaims is what a token has to claim, and what its claims mean.
type TokenClaims struct {
	// Audience lists for whom a token must be meant (claim aud). Empty: it is not looked at, and tokens that
	// the issuer made for other APIs pass too.
	Audience []string `json:"audience" example:"[https://api.example]"`
	// AudienceMatch: any of the audiences, or all of them.
	AudienceMatch string `json:"audienceMatch" enum:"any,all" default:"any"`
	// Claims that a token must have.
	Claims []ClaimRule `json:"claims" example:"[{name: tenant, values: [acme]}]"`
	// SubjectClaim says who calls.
	SubjectClaim string `json:"subjectClaim" default:"sub"`
	// ScopeClaim lists scopes, as a list or a text with spaces. Empty: scope, or else scp.
	ScopeClaim string `json:"scopeClaim"`
	// RolesClaim lists roles.
	RolesClaim string `json:"rolesClaim" default:"roles" example:"realm_access.roles"`
	// GroupsClaim lists groups.
	GroupsClaim string `json:"groupsClaim" default:"groups"`
	// ClientClaim names the client that the token was made for; a Credential with that token.client tells
	// which application it is. Empty: azp, or else client_id.
	ClientClaim string `json:"clientClaim"`
	// ChallengeScopes are scopes that a 401 names as needed (scope in WWW-Authenticate). Empty: those of the policy scopes.
	ChallengeScopes []string `json:"challengeScopes" example:"[orders.read]"`
	// ResourceMetadata is the URL of a document by which clients find the issuer for this API (RFC 9728), for
	// resource_metadata in WWW-Authenticate.
	ResourceMetadata string `json:"resourceMetadata" example:"https://api.example/.well-known/oauth-protected-resource"`
}

// claimCheck judges what a token claims.
type claimCheck struct {
	TokenClaims
	reasons    *tokenReasons
	issuer     string // "" for any
	consumers  *consumer.Directory
	audienceAt *reason.Source
	issuerAt   *reason.Source
	claimsAt   []*reason.Source
}

func (p *TokenClaims) compile(env *Env, issuer string, reasons *tokenReasons) claimCheck {
	c := claimCheck{TokenClaims: *p, reasons: reasons, issuer: issuer, consumers: env.Consumers, audienceAt: env.Source("audience"), issuerAt: env.Source("issuer")}
	for i, r := range p.Claims {
		c.claimsAt = append(c.claimsAt, env.Source(index("claims", i)))
		if r.Name == "aud" && len(p.Audience) > 0 || r.Name == "iss" && issuer != "" {
			env.Problem(index("claims", i), "one of the two is enough", "the claim %s has a setting of its own, which is set too", r.Name)
		}
	}
	env.filled("audience", p.Audience)
	return c
}

// judge refuses a token for what it claims, or not.
func (c *claimCheck) judge(x *Exchange, claims map[string]any) reason.Verdict {
	if c.issuer != "" {
		iss, ok := claims["iss"].(string)
		if !ok && !x.lifted(c.reasons.claimMissing) {
			return c.lacks(x, claims, "iss", c.issuer, c.issuerAt)
		}
		if ok && iss != c.issuer && !x.lifted(c.reasons.issuer) {
			facts := []reason.Fact{reason.Public("wanted", c.issuer).At(c.issuerAt), reason.Public("seen", clipped(iss, 200)), x.OwnerFact()}
			if s := difference(c.issuer, iss); s != "" {
				facts = append(facts, reason.Public("slip", s))
			}
			return c.reasons.issuer.Refuse(facts...)
		}
	}
	if len(c.Audience) > 0 {
		_, has := claims["aud"]
		if !has && !x.lifted(c.reasons.claimMissing) {
			return c.lacks(x, claims, "aud", reason.List(c.Audience), c.audienceAt)
		}
		seen := listOf(claims["aud"], false)
		in := func(a string) bool { return slices.Contains(seen, a) }
		meant := slices.ContainsFunc(c.Audience, in)
		if c.AudienceMatch == "all" {
			meant = allOf(c.Audience, in)
		}
		if has && !meant && !x.lifted(c.reasons.audience) {
			return c.wrongAudience(x, claims, seen)
		}
	}
	for i := range c.Claims {
		r := &c.Claims[i]
		v, ok := claimAt(claims, r.Name)
		if !ok || v == nil {
			if x.lifted(c.reasons.claimMissing) {
				continue
			}
			return c.lacks(x, claims, r.Name, reason.List(r.Values), c.claimsAt[i])
		}
		if seen := listOf(v, false); len(r.Values) > 0 && !slices.ContainsFunc(r.Values, func(w string) bool { return slices.Contains(seen, w) }) && !x.lifted(c.reasons.claimMismatch) {
			return c.reasons.claimMismatch.Refuse(reason.Rule("values", r.Values).At(c.claimsAt[i]), reason.Public("claim", r.Name),
				reason.Own("seen", few(seen)), x.OwnerFact())
		}
	}
	return reason.Verdict{}
}

func allOf(list []string, is func(string) bool) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return !is(s) })
}

func (c *claimCheck) wrongAudience(x *Exchange, claims map[string]any, seen []string) reason.Verdict {
	wanted := reason.List(c.Audience)
	if c.AudienceMatch == "all" {
		wanted = strings.Join(c.Audience, " and ")
	}
	facts := []reason.Fact{reason.Public("wanted", wanted).At(c.audienceAt), reason.Public("seen", few(seen)), x.OwnerFact()}
	var slip string
	switch id := idToken(claims); {
	case id != "":
		slip = "it is an ID token (" + id + "), which tells a client who logged in; APIs take access tokens"
	case c.AudienceMatch == "all" && slices.ContainsFunc(c.Audience, func(a string) bool { return slices.Contains(seen, a) }):
		slip = "all of them are wanted"
	case len(seen) == 1 && seen[0] == clientOf(claims, c.ClientClaim):
		slip = "that is the client itself: name the API when the token is asked for (audience, resource or a scope of the API)"
	default:
		for _, w := range c.Audience {
			for _, s := range seen {
				if slip == "" {
					slip = difference(w, s)
				}
			}
		}
		if _, ok := claims["nonce"]; ok && slip == "" { // some access tokens have one too
			slip = "it has a nonce: is it an ID token, which tells a client who logged in? APIs take access tokens"
		}
	}
	if slip != "" {
		facts = append(facts, reason.Public("slip", slip))
	}
	return c.reasons.audience.Refuse(facts...)
}

func (c *claimCheck) lacks(x *Exchange, claims map[string]any, name, values string, at *reason.Source) reason.Verdict {
	facts := []reason.Fact{reason.Public("claim", name).At(at), reason.Own("claims", few(slices.Sorted(maps.Keys(claims)))), x.OwnerFact()}
	if values != "" && values != "none" {
		facts = append(facts, reason.Rule("values", values))
	}
	if who, ok := claims["iss"].(string); ok {
		facts = append(facts, reason.Public("who", clipped(who, 200)))
	}
	near := resource.Nearest(name, slices.Sorted(maps.Keys(claims)))
	switch id := idToken(claims); {
	case id != "":
		facts = append(facts, reason.Public("slip", "it is an ID token ("+id+"), and APIs take access tokens"))
	case near != "" && len(near) <= 64:
		facts = append(facts, reason.Own("slip", "it has "+near))
	}
	return c.reasons.claimMissing.Refuse(facts...)
}

// few lists what a stranger wrote, at most five of it.
func few(list []string) string {
	if len(list) == 0 {
		return "nothing"
	}
	var short []string
	for _, s := range list[:min(5, len(list))] {
		short = append(short, clipped(s, 100))
	}
	text := strings.Join(short, ", ")
	if n := len(list) - len(short); n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text
}

// difference says in what two names differ, where they are otherwise the same: a stage, a slash, a scheme.
func difference(wanted, seen string) string {
	const most = 300
	if len(wanted) > most || len(seen) > most || wanted == seen {
		return ""
	}
	if strings.EqualFold(wanted, seen) {
		return "they differ in capital letters"
	}
	if strings.TrimSuffix(wanted, "/") == strings.TrimSuffix(seen, "/") {
		return "they differ in the slash at the end"
	}
	// Words keep together: orders-prod and orders-preprod differ in prod and preprod.
	word := func(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
	a := 0
	for a < min(len(wanted), len(seen)) && wanted[a] == seen[a] {
		a++
	}
	inWord := func(s string, i int) bool { return i > 0 && i < len(s) && word(s[i-1]) && word(s[i]) }
	for a > 0 && (inWord(wanted, a) || inWord(seen, a)) {
		a--
	}
	z := 0
	for z < min(len(wanted), len(seen))-a && wanted[len(wanted)-1-z] == seen[len(seen)-1-z] {
		z++
	}
	for z > 0 && (inWord(wanted, len(wanted)-z) || inWord(seen, len(seen)-z)) {
		z--
	}
	w, s := wanted[a:len(wanted)-z], seen[a:len(seen)-z]
	if a+z == 0 || a+z < max(len(w), len(s)) || strings.ContainsAny(w+s, "/ ") {
		return ""
	}
	switch {
	case (w == "https" || s == "https") && (w == "http" || s == "http"):
		return "they differ in http and https"
	case w == "" || s == "":
		return fmt.Sprintf("they differ in %q alone; is the token for another stage or API?", w+s)
	}
	return fmt.Sprintf("they differ in %q and %q alone; is the token for another stage or API?", w, s)
}

// idToken says by what a token shows that it is an ID token (OpenID Connect Core 1.0 §2), or "".
func idToken(claims map[string]any) string {
	if u, _ := claims["token_use"].(string); u == "id" {
		return `token_use "id"`
	}
	if t, _ := claims["typ"].(string); t == "ID" {
		return `typ "ID"`
	}
	for _, name := range []string{"at_hash", "c_hash"} {
		if _, ok := claims[name]; ok {
			return "it has " + name
		}
	}
	return ""
}

// claimAt finds a claim. Names may hold dots themselves, so the whole name is tried before its parts.
func claimAt(claims map[string]any, path string) (any, bool) {
	if v, ok := claims[path]; ok {
		return v, true
	}
	for i := range len(path) {
		if path[i] != '.' {
			continue
		}
		if inner, ok := claims[path[:i]].(map[string]any); ok {
			if v, ok := claimAt(inner, path[i+1:]); ok {
				return v, true
			}
		}
	}
	return nil, false
}

// listOf reads a claim as a list of texts; words splits a single text at its spaces.
func listOf(v any, words bool) []string {
	switch v := v.(type) {
	case string:
		if words {
			return strings.Fields(v)
		}
		return []string{v}
	case []any:
		list := make([]string, 0, len(v))
		for _, e := range v {
			switch e.(type) {
			case map[string]any, []any, nil:
			default:
				list = append(list, listOf(e, false)...)
			}
		}
		return list
	case bool:
		return []string{strconv.FormatBool(v)}
	case int64:
		return []string{strconv.FormatInt(v, 10)}
	case float64:
		return []string{strconv.FormatFloat(v, 'g', -1, 64)}
	}
	return nil
}

func clientOf(claims map[string]any, name string) string {
	if name != "" {
		v, _ := claimAt(claims, name)
		s, _ := v.(string)
		return s
	}
	for _, n := range []string{"azp", "client_id"} {
		if s, ok := claims[n].(string); ok && s != "" {
			return s
		}
	}
	return ""
}

// timeOf reads a time of a token (RFC 7519 §2, NumericDate).
func timeOf(claims map[string]any, name string) (t time.Time, err error) {
	const most = 1 << 38 // some 8,700 years
	switch v := claims[name].(type) {
	case nil:
		return time.Time{}, nil
	case int64:
		if v >= 0 && v < most {
			return time.Unix(v, 0), nil
		}
	case float64:
		if v >= 0 && v < most {
			whole, part := math.Modf(v)
			return time.Unix(int64(whole), int64(part*1e9)), nil
		}
	}
	return time.Time{}, fmt.Errorf("its claim %s is no time in seconds since 1970", name)
}

// boundedClaims refuses tokens that are made to cost: lists of audiences that nobody has.
func boundedClaims(claims map[string]any) error {
	switch aud := claims["aud"].(type) {
	case nil, string:
	case []any:
		if len(aud) > maxAudiences {
			return fmt.Errorf("its claim aud lists %d audiences, and at most %d are read", len(aud), maxAudiences)
		}
	default:
		return errors.New("its claim aud is neither a text nor a list")
	}
	if iss, ok := claims["iss"]; ok {
		if _, ok := iss.(string); !ok {
			return errors.New("its claim iss is no text")
		}
	}
	return nil
}

// tokenCaller is whom a token identifies. It is shared by calls and never changes.
type tokenCaller struct {
	identity   consumer.Identity
	credential *consumer.Credential
	client     string
}

// caller reads the identity from claims.
func (c *claimCheck) caller(kind string, claims map[string]any) tokenCaller {
	who := tokenCaller{client: clientOf(claims, c.ClientClaim)}
	id := consumer.Identity{Method: kind, Claims: claims}
	id.Issuer, _ = claims["iss"].(string)
	if v, ok := claimAt(claims, c.SubjectClaim); ok {
		id.Subject = strings.Join(listOf(v, false), " ")
	}
	if id.Subject == "" { // a token of the client itself
		id.Subject = who.client
	}
	list := func(name string, words bool) []string {
		v, _ := claimAt(claims, name)
		return listOf(v, words)
	}
	if c.ScopeClaim != "" {
		id.Scopes = list(c.ScopeClaim, true)
	} else if id.Scopes = list("scope", true); id.Scopes == nil {
		id.Scopes = list("scp", true)
	}
	id.Roles, id.Groups = list(c.RolesClaim, false), list(c.GroupsClaim, false)
	if who.client != "" {
		cred := c.consumers.Named("token", id.Issuer+" "+who.client)
		if cred == nil {
			cred = c.consumers.Named("token", " "+who.client)
		}
		if who.credential = cred; cred != nil && cred.Identity != nil {
			id.Scopes = union(id.Scopes, cred.Identity.Scopes)
			id.Roles = union(id.Roles, cred.Identity.Roles)
			id.Groups = union(id.Groups, cred.Identity.Groups)
		}
	}
	who.identity = id
	return who
}

func union(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a[:len(a):len(a)], s)
		}
	}
	return a
}

// enter makes a caller that of the call, unless the application is kept out now.
func (c *claimCheck) enter(x *Exchange, who *tokenCaller) reason.Verdict {
	if cred := who.credential; cred != nil {
		if cred.Revoked || !cred.Until.IsZero() && !x.Now.Before(cred.Until) || x.Now.Before(cred.From) {
			return c.notAccepted(x, who)
		}
		v := x.identify(cred)
		x.Identity = &who.identity
		return v
	}
	x.Identity = &who.identity
	return reason.Verdict{}
}

func (c *claimCheck) notAccepted(x *Exchange, who *tokenCaller) reason.Verdict {
	cred := who.credential
	state := "it has been revoked"
	switch {
	case cred.Revoked:
	case x.Now.Before(cred.From):
		state = "it is accepted from " + reason.Stamp(cred.From)
	default:
		state = "it was accepted until " + reason.Stamp(cred.Until)
	}
	return c.reasons.client.Refuse(reason.Public("client", clipped(who.client, 100)), reason.Public("state", state), reason.Own("application", cred.Application.Name),
		reason.Rule("credential", cred.Name).At(cred.Source), reason.Rule("written", cred.Source.String()), x.OwnerFact())
}

// told are the facts about a caller that passes, for explanations.
func (who *tokenCaller) told() []reason.Fact {
	facts := []reason.Fact{reason.Own("subject", clipped(who.identity.Subject, 200))}
	if who.client != "" {
		facts = append(facts, reason.Own("client", clipped(who.client, 200)))
	}
	switch {
	case who.credential != nil:
		facts = append(facts, reason.Own("application", who.credential.Application.Name).At(who.credential.Source))
	case who.client != "":
		facts = append(facts, reason.Own("application", "none: no Credential has this token.client"))
	}
	if len(who.identity.Scopes) > 0 {
		facts = append(facts, reason.Own("scopes", few(who.identity.Scopes)))
	}
	return facts
}

// sumOf is the SHA-256 of a token, that what is known of it is kept by.
func sumOf(token string) [sha256.Size]byte {
	return sha256.Sum256(unsafe.Slice(unsafe.StringData(token), len(token)))
}

// secretFrom reads a secret that a document says where to find, or is nil and a problem.
func (e *Env) secretFrom(field string, ref resource.SecretRef) []byte {
	secret, fault := ref.Read(e.find)
	if fault != nil {
		if fault.Field != "" {
			field += "." + fault.Field
		}
		e.Problem(field, fault.Hint, "%s", fault.Message)
	}
	return secret
}

// fileFrom reads a file that a document names, or is nil and a problem.
func (e *Env) fileFrom(field, name string, max int64) []byte {
	b, err := resource.ReadFile(e.find(name), max)
	if err != nil {
		e.Problem(field, "the path is relative to the document", "the file cannot be read: %v", err)
	}
	return b
}

// find is where a file is that a document names. A change of it is one of the documents.
func (e *Env) find(name string) string {
	if e.Resolve != nil {
		name = e.Resolve(name)
	}
	if e.Watch != nil {
		e.Watch(name)
	}
	return name
}
