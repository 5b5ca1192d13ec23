package pinpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"
)

// webToken is a JSON Web Token of the request, decoded without any check (RFC 7519).
type webToken struct {
	where  string // "Authorization", "the cookie sid", "the parameter token", "X-Auth"
	main   bool   // it stands where a server looks first
	header map[string]any
	claims map[string]any // nil when encrypted
}

// looksJWT says that text begins as a compact JWS or JWE does: base64url of {".
func looksJWT(s string) bool {
	return len(s) > 16 && len(s) <= maxReadValue && strings.HasPrefix(s, "ey") && strings.Count(s, ".") >= 1
}

// decodeJWT takes a compact token apart. The reason tells what is wrong with its form.
func decodeJWT(s string) (t webToken, reason string) {
	parts := strings.Split(s, ".")
	switch {
	case len(parts) == 2:
		return t, "it has two parts instead of three: the signature was cut off"
	case len(parts) != 3 && len(parts) != 5:
		return t, fmt.Sprintf("it has %d parts instead of three", min(len(parts), 99))
	}
	names := []string{"header", "payload"}
	for i, part := range parts {
		if len(parts) == 5 && i > 0 {
			break // encrypted (RFC 7516)
		}
		raw, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			switch {
			case strings.HasSuffix(part, "="):
				return t, "a part of it ends with = padding, which the compact form does not have"
			case strings.ContainsAny(part, "+/"):
				return t, "it is written in plain base64; the compact form uses base64url"
			case i == 2:
				return t, "its signature is not base64url: it was cut or something was added"
			}
			return t, "its " + names[i] + " is not base64url"
		}
		if i == 2 {
			if part == "" {
				t.header[""] = true // unsigned
			}
			break
		}
		var m map[string]any
		d := json.NewDecoder(bytes.NewReader(raw))
		if d.Decode(&m) != nil || m == nil {
			return t, "its " + names[i] + " is not a JSON object: it was cut or altered"
		}
		if i == 0 {
			t.header = m
		} else {
			t.claims = m
		}
	}
	return t, ""
}

// webTokens are the tokens of the request.
func (r *reading) webTokens() (out []webToken) {
	try := func(where, text string, main bool) {
		text = strings.TrimSpace(text)
		if len(out) < 12 && looksJWT(text) && !stillSealed(text) {
			if t, reason := decodeJWT(text); reason == "" && (t.header["alg"] != nil || t.header["typ"] != nil) {
				t.where, t.main = where, main
				out = append(out, t)
			}
		}
	}
	if len(r.auth) <= maxReadValue {
		scheme, rest, ok := strings.Cut(strings.TrimSpace(r.auth), " ")
		if ok {
			try("Authorization", strings.Trim(rest, `"' `), true)
		} else {
			try("Authorization", scheme, true)
		}
	}
	for i, f := range r.req.Header {
		if i == maxReadItems {
			break
		}
		switch strings.ToLower(f.Name) {
		case "authorization", "cookie", "dpop", "referer":
			continue
		}
		if len(f.Value) > maxReadValue {
			continue
		}
		v := r.c.Vault.Reveal(f.Value)
		if len(v) > 7 && strings.EqualFold(v[:7], "bearer ") {
			v = v[7:]
		}
		try(f.Name, v, r.auth == "")
	}
	for _, p := range r.query {
		try("the parameter "+shown(p.name), p.value, r.auth == "" && keyName(p.name))
	}
	for _, p := range r.sent {
		try("the cookie "+shown(p.name), p.value, r.auth == "" && sessionName(p.name))
	}
	return out
}

// number is a claim that is a time.
func (t webToken) number(claim string) (time.Time, bool) {
	switch v := t.claims[claim].(type) {
	case float64:
		return epochOf(v), v > 0 && v < 1e14
	case string:
		return epochTime(v)
	}
	return time.Time{}, false
}

func (t webToken) text(claim string) string {
	s, _ := t.claims[claim].(string)
	return s
}

// list is a claim that is a string, a string with blanks, or an array.
func (t webToken) list(claim string) (out []string) {
	switch v := t.claims[claim].(type) {
	case string:
		return strings.Fields(v)
	case []any:
		for _, e := range v {
			if s, ok := e.(string); ok && len(out) < 200 {
				out = append(out, s)
			}
		}
	}
	return out
}

// scopes are what a token may do: scope (RFC 8693 §4.2), scp (Entra, Okta), permissions (Auth0).
func (t webToken) scopes() []string {
	return slices.Concat(t.list("scope"), t.list("scp"), t.list("scopes"), t.list("permissions"))
}

// stillValid says that the token of the request has an exp ahead of the server's clock.
func (r *reading) stillValid() bool {
	for _, t := range r.webTokens() {
		if exp, ok := t.number("exp"); ok && t.main && r.dated {
			return exp.After(r.when.Add(5 * time.Second))
		}
	}
	return false
}

// tokens reads every token of the request (RFC 7519 §4.1, RFC 8725).
func (r *reading) tokens() {
	if !r.maybe(400, 401, 403) {
		return
	}
	r.malformedToken()
	all := r.webTokens()
	for _, t := range all {
		if t.claims == nil {
			continue
		}
		weight := Strong
		switch {
		case !t.main:
			weight = Hint
		case r.in(400):
			weight = Fair
		case strings.HasPrefix(t.where, "the cookie"):
			weight = 2.2
		}
		r.tokenTimes(t, weight)
		if t.main {
			r.tokenKind(t)
			r.tokenScope(t)
			r.tokenParties(t)
		}
	}
}

// malformedToken looks at what stands where a token belongs and means to be one.
func (r *reading) malformedToken() {
	if len(r.auth) > maxReadValue || stillSealed(r.auth) {
		return
	}
	scheme, rest, ok := strings.Cut(strings.TrimSpace(r.auth), " ")
	if !ok || !strings.EqualFold(scheme, "bearer") && !strings.EqualFold(scheme, "dpop") && !strings.EqualFold(scheme, "jwt") {
		return
	}
	rest = strings.TrimSpace(rest)
	bad := func(reason string) {
		r.say(FromRequest, "jwt-malformed", Strong, "The token in Authorization is malformed: "+reason+".", "header", "Authorization")
	}
	inner := strings.Trim(rest, `"'`)
	switch {
	case inner != rest && looksJWT(inner):
		bad("it is wrapped in quotation marks")
	case !looksJWT(rest):
		if strings.HasPrefix(rest, "eyJ") && len(rest) > 16 && !strings.Contains(rest, ".") {
			if raw, err := base64.RawURLEncoding.DecodeString(rest); err == nil && json.Valid(raw) && bytes.Contains(raw, []byte(`"alg"`)) {
				bad("only its header was sent")
			}
		}
	case strings.HasPrefix(rest, "eyJ"):
		if fields := strings.Fields(rest); len(fields) > 1 {
			bad("there is white space inside, as from a copied line break")
		} else if strings.ContainsAny(rest, ",;") {
			bad("something follows it behind a comma or semicolon")
		} else if strings.Contains(rest, "%") {
			bad("it holds percent escapes")
		} else if _, reason := decodeJWT(rest); reason != "" {
			bad(reason)
		}
	}
}

// tokenTimes holds exp, nbf and iat against the server's clock.
func (r *reading) tokenTimes(t webToken, weight float64) {
	clock := "the answer's Date"
	if !r.dated {
		clock = "the time of the request"
	}
	say := func(cause string, w float64, says string, names ...string) {
		r.say(FromRequest, cause, w, says, append([]string{"header", t.where}, names...)...)
	}
	if exp, ok := t.number("exp"); ok {
		late := r.when.Sub(exp)
		local := r.timeOf(&r.near[r.asked])
		expired := fmt.Sprintf("The token in %s expired at %s, %s before %s.", t.where, clockTime(exp), spanOf(late), clock)
		switch {
		case late > 5*time.Minute:
			say("jwt-expired", weight, expired, "exp", clockTime(exp))
		case late >= 0 && r.dated && local.Before(exp.Add(-10*time.Second)):
			say("jwt-clock-skew", weight, fmt.Sprintf("By the client's clock the token in %s was still valid, by %s it had expired %s before.", t.where, clock, spanOf(late)), "expired", clockTime(exp))
			say("jwt-expired", min(weight, Fair), expired, "exp", clockTime(exp))
		case late > time.Minute:
			say("jwt-expired", min(weight, 2.5), expired, "exp", clockTime(exp))
			say("jwt-clock-skew", min(weight, Fair), expired+" A clock that is off would explain that too.")
		case late >= 0:
			// Seconds: the catalogue counts this as a matter of clocks and leeway.
			say("jwt-clock-skew", min(weight, 2.5), expired+" Seconds are what a leeway or a clock in step would cover.")
			say("jwt-expired", min(weight, 2.2), expired, "exp", clockTime(exp))
		case t.main && r.in(401) && late < -5*time.Minute:
			r.speakAgainst(FromRequest, "jwt-expired", Fair, fmt.Sprintf("The token in %s is valid until %s.", t.where, clockTime(exp)))
		}
	}
	ahead, which := time.Duration(0), ""
	for _, claim := range []string{"nbf", "iat"} {
		if at, ok := t.number(claim); ok && at.Sub(r.when) > max(ahead, 2*time.Second) {
			ahead, which = at.Sub(r.when), claim
		}
	}
	switch {
	case which == "":
	case ahead > 24*time.Hour*3650:
		say("jwt-not-yet-valid", min(weight, Fair), fmt.Sprintf("%s of the token in %s lies years ahead; it may be written in milliseconds.", which, t.where))
	case ahead > 5*time.Minute && which == "nbf":
		say("jwt-not-yet-valid", weight, fmt.Sprintf("The token in %s is valid only %s after %s (nbf).", t.where, spanOf(ahead), clock))
	default:
		say("jwt-clock-skew", weight, fmt.Sprintf("%s of the token in %s lies %s ahead of %s: the clock of the issuer or of the server is off.", which, t.where, spanOf(ahead), clock))
		say("jwt-not-yet-valid", min(weight, Fair), fmt.Sprintf("By %s the token in %s is not valid yet (%s).", clock, t.where, which))
	}
}

// tokenKind finds tokens that were not made for calling: unsigned ones, ID and refresh tokens.
func (r *reading) tokenKind(t webToken) {
	alg, _ := t.header["alg"].(string)
	switch {
	case strings.EqualFold(alg, "none"), alg != "" && t.header[""] == true:
		r.say(FromRequest, "jwt-alg-rejected", Strong, "The token in "+t.where+" is not signed (alg none); servers refuse that (RFC 8725 §3.2).", "alg", "none")
	case strings.HasPrefix(alg, "HS") && strings.HasPrefix(t.text("iss"), "https://"):
		r.say(FromRequest, "jwt-alg-rejected", Hint, "The token is signed with a shared key ("+shown(alg)+"), though its issuer looks like one that signs with a key pair.", "alg", alg)
	}
	kind := strings.ToLower(t.text("token_use") + t.text("typ") + t.text("token_type"))
	headerType, _ := t.header["typ"].(string)
	switch {
	case strings.Contains(kind, "refresh") || strings.EqualFold(kind, "offline"):
		r.say(FromRequest, "token-type-wrong", Strong, "A refresh token was sent in "+t.where+" where an access token belongs.", "header", t.where)
	case t.text("token_use") == "id" || strings.EqualFold(t.text("typ"), "ID"):
		r.say(FromRequest, "token-type-wrong", 2.2, "The token says of itself that it is an ID token; an API wants the access token.", "header", t.where)
	case strings.EqualFold(headerType, "at+jwt") || strings.EqualFold(headerType, "application/at+jwt"):
	case (t.claims["at_hash"] != nil || t.claims["nonce"] != nil || t.claims["c_hash"] != nil) && len(t.scopes()) == 0 && t.claims["roles"] == nil &&
		!strings.Contains(t.text("iss"), "accounts.google.com"):
		// Google's front ends and Cloud Run ask for ID tokens by design.
		r.say(FromRequest, "token-type-wrong", Fair, "The token has the claims of an ID token (nonce, at_hash) and no scope; an API wants the access token (OpenID Connect Core §2).", "header", t.where)
	}
}

// tokenScope holds what a token may do against what is asked for.
func (r *reading) tokenScope(t webToken) {
	have := t.scopes()
	for _, c := range r.asks {
		wanted := strings.Fields(c.param("scope"))
		if c.scheme != "bearer" && c.scheme != "dpop" || len(wanted) == 0 || len(wanted) > 50 || !r.in(401, 403) {
			continue
		}
		var lacks []string
		for _, w := range wanted {
			if !slices.Contains(have, w) {
				lacks = append(lacks, w)
			}
		}
		if len(lacks) == 0 || c.param("error") == "invalid_token" || r.status == 401 && c.param("error") == "" {
			continue
		}
		r.say(FromRequest, "scope-insufficient", Strong, fmt.Sprintf("The token has the scope %q; the server demands %q.", shown(strings.Join(have, " ")), shown(strings.Join(lacks, " "))),
			"scope", strings.Join(lacks, " "))
		return
	}
	if !r.in(403) || !mayChange(r.req.Method) || len(have) == 0 {
		return
	}
	for _, s := range have {
		low := strings.ToLower(s)
		if low == "openid" || low == "profile" || low == "email" || low == "offline_access" {
			continue
		}
		if !strings.HasSuffix(low, "read") && !strings.HasSuffix(low, "readonly") && !strings.HasPrefix(low, "read") && !strings.HasSuffix(low, "list") {
			return
		}
	}
	if slices.ContainsFunc(have, func(s string) bool { return strings.Contains(strings.ToLower(s), "read") }) {
		r.say(FromRequest, "scope-insufficient", Fair, fmt.Sprintf("The token may only read (%q), and the method is %s.", shown(strings.Join(have, " ")), shown(r.req.Method)), "scope", strings.Join(have, " "))
	}
}

// tokenParties compares issuer, audience and tenant with what the case shows of the server.
func (r *reading) tokenParties(t webToken) {
	if !r.in(401, 403) {
		return
	}
	if iss, err := url.Parse(t.text("iss")); err == nil && iss.Host != "" {
		for _, c := range r.asks {
			for _, name := range []string{"authorization_uri", "realm", "issuer"} {
				want, err := url.Parse(c.param(name))
				if err != nil || want.Host == "" || want.Scheme != "https" && want.Scheme != "http" || strings.EqualFold(want.Host, r.host) {
					continue
				}
				a, b := tenantOf(iss.Path), tenantOf(want.Path)
				if strings.EqualFold(want.Host, iss.Host) && a != "" && b != "" && a != b && b != "common" && b != "organizations" {
					r.say(FromAnswer, "jwt-issuer-mismatch", Strong, fmt.Sprintf("The token's issuer is %s; the challenge sends callers to %s.", shown(iss.Host+iss.Path), shown(want.Host+want.Path)),
						"issuer", iss.Scheme+"://"+iss.Host+iss.Path)
				}
			}
		}
	}
	for _, aud := range t.list("aud") {
		u, err := url.Parse(aud)
		if err != nil || u.Host == "" || r.host == "" || len(t.list("aud")) != 1 {
			continue
		}
		if h := hostOnly(u.Host); !strings.EqualFold(h, r.host) && site(h) != site(r.host) {
			r.say(FromRequest, "jwt-audience-mismatch", Hint, fmt.Sprintf("The token is made for %s; the request goes to %s.", shown(u.Host), shown(r.host)), "audience", aud)
		}
	}
	if r.url == nil || !r.in(403) {
		return
	}
	for _, claim := range []string{"tenant", "tenant_id", "tenantId", "tid", "org_id", "orgId", "organization_id"} {
		mine := t.text(claim)
		if mine == "" {
			continue
		}
		parts := strings.Split(r.url.Path, "/")
		for i := 0; i+1 < len(parts) && i < 12; i++ {
			switch strings.ToLower(parts[i]) {
			case "tenants", "tenant", "orgs", "organizations", "organisations":
				if parts[i+1] != "" && !strings.EqualFold(parts[i+1], mine) && (len(mine) == len(parts[i+1]) || !strings.ContainsRune(mine, '-')) {
					r.say(FromRequest, "tenant-mismatch", Fair, fmt.Sprintf("The path names a tenant that differs from the claim %s of the token.", claim), "claim", claim)
				}
			}
		}
	}
}

// tenantOf is the part of an issuer's path that names the realm or tenant.
func tenantOf(path string) string {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for i, p := range parts {
		if (p == "realms" || p == "oauth2") && i+1 < len(parts) {
			if p == "oauth2" && i > 0 {
				break
			}
			return parts[i+1]
		}
	}
	return parts[0]
}

// site is the registrable domain of a host, or the host where there is none.
func site(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if d, err := publicsuffix.EffectiveTLDPlusOne(host); err == nil && !isAddress(host) {
		return d
	}
	return host
}

// proof checks a DPoP proof (RFC 9449 §4.3) as far as that needs no key.
func (r *reading) proof() {
	if !r.maybe(400, 401) {
		return
	}
	bad := func(weight float64, says string) {
		r.say(FromRequest, "dpop-proof-invalid", weight, says, "header", "DPoP")
	}
	scheme, access, _ := strings.Cut(r.auth, " ")
	if !r.req.Header.Has("DPoP") {
		if strings.EqualFold(scheme, "dpop") && r.whole {
			bad(Strong, "Authorization uses the scheme DPoP and the request has no DPoP proof.")
		} else if len(r.asks) > 0 && r.asks[0].scheme == "dpop" && strings.EqualFold(scheme, "bearer") {
			bad(Strong, "The server asks for DPoP; the token was sent as Bearer without a proof.")
		}
		return
	}
	text := strings.TrimSpace(r.value("DPoP"))
	if stillSealed(text) || len(text) > maxReadValue {
		return
	}
	t, reason := decodeJWT(text)
	if reason != "" || t.claims == nil {
		bad(Strong, "The DPoP proof is no JSON Web Token.")
		return
	}
	if m := t.text("htm"); m != "" && m != r.req.Method && r.req.Method != "" {
		bad(Strong, fmt.Sprintf("The DPoP proof was made for the method %s; the request is %s.", shown(m), shown(r.req.Method)))
	}
	if want, err := url.Parse(t.text("htu")); err == nil && r.url != nil && want.Host != "" {
		if !strings.EqualFold(want.Host, r.url.Host) || want.EscapedPath() != r.url.EscapedPath() || want.Scheme != r.url.Scheme {
			bad(Strong, "The DPoP proof was made for another URL than the request's (htu).")
		}
	}
	if iat, ok := t.number("iat"); ok && max(r.when.Sub(iat), iat.Sub(r.when)) > 5*time.Minute {
		bad(Strong, fmt.Sprintf("The DPoP proof is %s away from the server's clock (iat).", spanOf(r.when.Sub(iat))))
	}
	if ath := t.text("ath"); access != "" && !stillSealed(access) {
		sum := sha256.Sum256([]byte(strings.TrimSpace(access)))
		if ath != base64.RawURLEncoding.EncodeToString(sum[:]) {
			bad(Strong, "The DPoP proof lacks the hash of this access token, or has that of another (ath).")
		}
	}
	if want := r.ans.Header.Value("DPoP-Nonce"); want != "" && t.text("nonce") != r.c.Vault.Reveal(want) {
		bad(Strong, "The server hands out a DPoP nonce that the proof does not have (RFC 9449 §9).")
	}
}
