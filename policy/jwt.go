package policy

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// JWT identifies callers by a signed token (RFC 7519, RFC 9068) that an issuer made.
//
// The keys of the issuer come from one place: its OpenID Connect discovery document (the setting issuer
// alone), a JWK set at a URL, a file, or a shared secret. Fetched keys are refreshed in the background. A
// token that names a key which is not there has them fetched again, at most every `refetch`, and waits up to
// two seconds for it; so does the first call before any key is there. While the issuer is away, the keys that are there are
// used for `staleFor`; explanations and the records of these calls say so (hint `jwt.keys-stale`). After that calls are answered with 503: a token that cannot be
// checked is never called wrong.
//
// Only asymmetric algorithms are accepted unless others are set; `none` never is. Base64 must be exact, a key's use, key_ops and
// alg are respected, and headers with crit are refused. A token that passed once is remembered by its SHA-256 until it
// expires, for as long as the issuer has its keys; times are compared on every call.
//
// A route with a jwt of its own takes that instead of its API's, so that audiences can differ by route. The upstream is told
// who calls in Whygate-Subject, and what else the token claims by the policy transform: `X-Tenant: "{claim.tenant}"`.
//
// A Credential with token.client says which application a token belongs to. Without one the caller has an
// identity and no application, which is enough for rules, not for subscriptions.
//
// Files and secrets are read when documents are applied, and again when they change; environment variables are not watched.
//
//	policies:
//	- jwt: {issuer: "https://login.example", audience: [https://api.example]}
type JWT struct {
	// Issuer of the tokens, letter by letter as their claim iss. Without jwks, keyFile and secret its discovery
	// document says where the keys are.
	Issuer string `json:"issuer" example:"https://login.example"`
	// JWKS is the URL of the issuer's JWK set.
	JWKS string `json:"jwks" example:"https://login.example/keys"`
	// KeyFile holds public keys or certificates in PEM, or a JWK set.
	KeyFile string `json:"keyFile" example:"/etc/whygate/issuer.pem"`
	// Secret that is shared with the issuer, for the algorithms HS256, HS384 and HS512, which then must be set.
	Secret *resource.SecretRef `json:"secret"`
	// Algorithms that are accepted. Empty: all asymmetric ones.
	Algorithms []string `json:"algorithms" enum:"RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,ES512,EdDSA,Ed25519,HS256,HS384,HS512" example:"[RS256]"`
	TokenPlace
	TokenClaims
	// Accept: access refuses tokens that show that they are ID tokens; any lets them in.
	Accept string `json:"accept" enum:"access,any" default:"access"`
	// NoExpiry lets in tokens that never expire.
	NoExpiry bool `json:"noExpiry"`
	// Leeway is by how much the clocks of issuer and gateway may differ.
	Leeway resource.Duration `json:"leeway" default:"60s" min:"0s" max:"10m"`
	// Refresh is how often keys are fetched.
	Refresh resource.Duration `json:"refresh" default:"15m" min:"10s"`
	// Refetch is the time after a fetch in which unknown keys do not cause another one.
	Refetch resource.Duration `json:"refetch" default:"10s" min:"1s"`
	// StaleFor is how long keys are used after they were fetched, while the issuer is away. Records of calls that
	// pass so carry the hint jwt.keys-stale.
	StaleFor resource.Duration `json:"staleFor" default:"1d" min:"1m"`
}

var (
	jwtReasons = newTokenReasons("jwt", "a JWT")

	jwtMalformed = reason.New(reason.Reason{
		Code: "jwt.malformed", Status: 401,
		Title:  "The token cannot be read",
		Says:   "what was sent in {places} cannot be read as a JWT: {slip}",
		Wanted: "a signed JWT: three parts of base64url with dots between them",
		Seen:   "a token of {size}: {slip}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "send the token just as the issuer gave it, after the word Bearer; it begins with eyJ"}},
		Hint:   "the client may cut, quote or encode the token, or send a token of another kind",
	})
	jwtAlgorithm = reason.New(reason.Reason{
		Code: "jwt.algorithm", Status: 401,
		Title:  "The token is signed in a way that is not accepted",
		Says:   "the token is signed with {alg}, and this API accepts {wanted}[; {slip}]",
		Wanted: "a signature with {wanted}",
		Seen:   "alg {alg}[, kid {kid}][; {slip}]",
		Fixes: []reason.Fix{
			{By: reason.Operator, Text: "have the issuer sign with {wanted}"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to accept {alg}, if the issuer means to sign so"},
		},
		Hint: "the setting algorithms of policy jwt, and alg of the issuer's key",
	})
	jwtUnknownKey = reason.New(reason.Reason{
		Code: "jwt.unknown-key", Status: 401,
		Title:  "The token is signed with a key that the issuer does not publish",
		Says:   "the token names the key {kid}, which is not among the keys of {source}[; {slip}]",
		Wanted: "a token signed with one of the keys {keys}",
		Seen:   "kid {kid}[; {slip}][; {refused}]",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "get a new token from {signer}"},
			{By: reason.Operator, Text: "if the key is new, publish it before it signs; keys are fetched again at most every {refetch}"},
		},
		Hint: "keys fetched {age} ago from {source}[, at {jwks}]",
	})
	jwtSignature = reason.New(reason.Reason{
		Code: "jwt.signature", Status: 401,
		Title:  "The signature of the token is wrong",
		Says:   "the signature of the token does not fit its content and the keys of {source}[; {slip}]",
		Wanted: "a token signed with a key of {source}",
		Seen:   "alg {alg}[, kid {kid}], a signature that fits none of {tried}[; {slip}]",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "get a new token from {signer}, and send it unchanged"},
			{By: reason.Operator, Text: "if all tokens are refused, compare the keys of {source}[ at {jwks}] with those that the issuer signs with"},
		},
		Hint: "a token that was edited, one of another environment with the same kid, or a key that was exchanged under its old kid",
	})
	jwtExpired = reason.New(reason.Reason{
		Code: "jwt.expired", Status: 401,
		Title:  "The token has expired",
		Says:   "the token expired {ago} ago, at {until}",
		Wanted: "a token whose exp is after {now}, give or take {leeway}",
		Seen:   "exp {until}, {ago} ago",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "get a new token, and renew the next one before its time (exp) is over"}},
		Hint:   "if all tokens are refused, compare the clock of the issuer with {now}, that of this node",
	})
	jwtEarly = reason.New(reason.Reason{
		Code: "jwt.not-yet-valid", Status: 401,
		Title:  "The token is not valid yet",
		Says:   "the token is valid from {from} ({claim}), and it is {now} here: {skew} too early",
		Wanted: "a token whose {claim} is before {now}, give or take {leeway}",
		Seen:   "{claim} {from}, {skew} ahead",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "wait {skew}"},
			{By: reason.Operator, Text: "set the clocks of issuer and gateway right: they may differ by {leeway}"},
		},
		Hint: "the clock of this node says {now}; if the token is fresh, the issuer's is ahead by about {skew}",
	})
	jwtType = reason.New(reason.Reason{
		Code: "jwt.token-type", Status: 401,
		Title:  "The token is of another kind",
		Says:   "this API takes access tokens, and this is {seen}",
		Wanted: "an access token (typ JWT or at+jwt)",
		Seen:   "{seen}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "send the access_token of the token response, not its id_token"}},
		Hint:   "the setting accept: any lets ID tokens in",
	})
	jwtUnavailable = reason.New(reason.Reason{
		Code: "jwt.keys-unavailable", Status: 503,
		Title:  "Tokens cannot be checked at the moment",
		Says:   "the keys of {source} are not there, so this token can be called neither right nor wrong[; {slip}]",
		Wanted: "keys of {source}",
		Seen:   "{state}[: {why}]",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "try again in {retry_after}; the token itself may be good"},
			{By: reason.Operator, Text: "see that this node reaches {source}[ at {jwks}][: {why}]"},
		},
		Hint: "keys are fetched in the background: {state}[; {why}]",
	})
)

type jwtCheck struct {
	places
	claimCheck
	algorithms []string
	keys       *keySource
	source     string // of the keys, for sentences that anybody reads
	signer     string // who makes tokens, for the same
	jwks       string // where the keys are, if that is set
	leeway     time.Duration
	refetch    time.Duration
	accept     string
	noExpiry   bool
	at, algAt  *reason.Source
	accepted   slots[*acceptedToken]
}

// acceptedToken is a token that has passed. It passes again from from until until, as long as the keys are the same.
type acceptedToken struct {
	set         *keySet
	from, until time.Time // zero for no bound; leeway included
	exp         time.Time
	alg, kid    string
	caller      tokenCaller
}

// Compile checks the settings and takes up the keys.
func (p *JWT) Compile(env *Env) any {
	c := &jwtCheck{places: p.TokenPlace.compile(env, &p.TokenClaims), claimCheck: p.TokenClaims.compile(env, p.Issuer, &jwtReasons),
		algorithms: p.Algorithms, leeway: time.Duration(p.Leeway), refetch: time.Duration(p.Refetch), accept: p.Accept, noExpiry: p.NoExpiry,
		at: env.Source(""), algAt: env.Source("algorithms")}
	if len(c.algorithms) == 0 {
		c.algorithms = asymmetric
	}
	c.accepted.init()
	isHMAC := func(alg string) bool { return strings.HasPrefix(alg, "HS") }
	sources := 0
	for _, set := range []bool{p.JWKS != "", p.KeyFile != "", p.Secret != nil} {
		if set {
			sources++
		}
	}
	switch {
	case sources > 1:
		env.Problem("", "keep one of them", "keys come from one of jwks, keyFile and secret; this policy has %d of them", sources)
	case p.Secret != nil:
		c.source, c.signer = "this API", cmp.Or(p.Issuer, "whoever issues tokens for this API")
		c.keys = p.secretKeys(env)
		for i, a := range p.Algorithms {
			if !isHMAC(a) {
				env.Problem(index("algorithms", i), "a shared secret is for HS256, HS384 and HS512", "%s wants a public key, and there is a secret", a)
			}
		}
	case p.KeyFile != "":
		c.source, c.signer = "this API", cmp.Or(p.Issuer, "whoever issues tokens for this API")
		c.keys = p.fileKeys(env)
	case p.JWKS == "" && p.Issuer == "":
		env.Problem("", "set issuer, or one of jwks, keyFile and secret", "there is nothing to check signatures with")
	default:
		field, at := "jwks", p.JWKS
		if at == "" {
			field, at = "issuer", p.Issuer
		}
		if c.source, c.jwks = p.Issuer, p.JWKS; c.source == "" {
			c.source = "the issuer"
		}
		c.signer = c.source
		for i, a := range p.Algorithms {
			if isHMAC(a) {
				env.Problem(index("algorithms", i), "with HMAC whoever can check a token can make one", "%s wants a shared secret, and %s publishes keys", a, at)
			}
		}
		u, err := url.Parse(at)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.Fragment != "" || field == "issuer" && u.RawQuery != "" {
			env.Problem(field, "such as https://login.example", "%q is no URL that keys can be fetched from", at)
			break
		}
		if h := u.Hostname(); u.Scheme == "http" && h != "localhost" && !strings.HasPrefix(h, "127.") && h != "::1" {
			env.Lint("jwt.plain-http", field, "use https", "keys are fetched over plain http: whoever sits between can exchange them and make tokens")
		}
		if p.StaleFor < p.Refresh {
			env.Problem("staleFor", "", "keys would be too old (%v) before they are refreshed (%v)", p.StaleFor, p.Refresh)
		}
		name := fmt.Sprintf("jwt keys %q %q %v %v %v", p.JWKS, p.Issuer, p.Refresh, p.Refetch, p.StaleFor)
		c.keys = env.Keep(name, func() Kept { return newKeySource(p) }).(*keySource)
	}
	if p.Issuer == "" && sources > 0 {
		env.Lint("jwt.any-issuer", "", "set issuer", "tokens of any issuer pass if they are signed with these keys")
	}
	if len(p.Audience) == 0 {
		env.Lint("jwt.any-audience", "", "set audience", "tokens that the issuer made for other APIs pass too")
	}
	return c
}

func (p *JWT) secretKeys(env *Env) *keySource {
	secret := env.secretFrom("secret", *p.Secret)
	if len(p.Algorithms) == 0 {
		env.Problem("algorithms", "algorithms: [HS256]", "a shared secret works with HS256, HS384 and HS512, which are accepted only where they are set")
	}
	set := &keySet{sum: sumOf(string(secret)), keys: []key{{key: secret}}}
	for i, a := range p.Algorithms {
		if strings.HasPrefix(a, "HS") && len(secret) > 0 {
			if why := fits(a, secret); why != "" {
				env.Problem(index("algorithms", i), "RFC 7518 §3.2", "%s", why)
			}
		}
	}
	return fixedKeys(set)
}

func (p *JWT) fileKeys(env *Env) *keySource {
	doc := env.fileFrom("keyFile", p.KeyFile, maxKeySet)
	if doc == nil {
		return nil
	}
	set, err := parseKeyFile(doc)
	if err != nil {
		env.Problem("keyFile", "public keys in PEM, or a JWK set (RFC 7517)", "the file cannot be used: %v", err)
		return nil
	}
	for i, a := range p.Algorithms {
		if !slices.ContainsFunc(set.keys, func(k key) bool { return fits(a, k.key) == "" }) {
			env.Problem(index("algorithms", i), "", "no key of the file is for %s", a)
		}
	}
	return fixedKeys(set)
}

// Presents is whether a token is there.
func (c *jwtCheck) Presents(x *Exchange) bool {
	token, _ := c.find(x)
	return token != ""
}

// Wants names the places of the token.
func (c *jwtCheck) Wants() string { return "a JWT in " + c.text }

// Check identifies the caller.
func (c *jwtCheck) Check(x *Exchange) reason.Verdict {
	token, other := c.find(x)
	if token == "" || other {
		return c.absent(x, other)
	}
	if len(token) > maxToken {
		return c.places.refuse(x, c.malformed(x, token, fmt.Errorf("it has %d bytes, and at most %d are read", len(token), maxToken)))
	}
	sum := sumOf(token)
	st := c.keys.state.Load()
	if x.Explaining && st.set == nil && st.tried.IsZero() {
		x.Unknown = true // documents that are only tried out fetch no keys
		return reason.Pass(reason.Public("keys", "those of "+c.source+" are fetched by nodes that serve").At(c.at))
	}
	a, ok := c.accepted.get(&sum)
	if !ok || a.set != st.set || st.gone || !a.from.IsZero() && x.Now.Before(a.from) || !a.until.IsZero() && !x.Now.Before(a.until) {
		var v reason.Verdict
		if a, v = c.verify(x, token, sum); v.Refused() {
			return c.places.refuse(x, v)
		}
	}
	if v := c.enter(x, &a.caller); v.Refused() {
		return c.places.refuse(x, v)
	}
	if x.Explaining {
		return reason.Pass(c.told(x, a)...)
	}
	if st = c.keys.state.Load(); st.failed != "" {
		x.Note("jwt.keys-stale", c.staleKeys(st))
	}
	return reason.Verdict{}
}

// staleKeys says since when keys are used that cannot be refreshed, and why; "" where they can.
func (c *jwtCheck) staleKeys(st *keyState) string {
	if st.failed == "" {
		return ""
	}
	return fmt.Sprintf("the issuer is away since %s; its keys of %s are used until %s: %s",
		reason.Stamp(st.since), reason.Stamp(st.fetched), reason.Stamp(st.fetched.Add(c.keys.stale)), st.failed)
}

// told says what was seen of a token that passes.
func (c *jwtCheck) told(x *Exchange, a *acceptedToken) []reason.Fact {
	facts := append(a.caller.told(), reason.Public("alg", a.alg).At(c.at))
	if a.kid != "" {
		facts = append(facts, reason.Public("kid", clipped(a.kid, 100)))
	}
	if !a.exp.IsZero() {
		facts = append(facts, reason.Public("expires_in", roughly(a.exp.Sub(x.Now))))
	}
	if s := c.staleKeys(c.keys.state.Load()); s != "" {
		facts = append(facts, reason.Rule("stale_keys", s))
	}
	return facts
}

// absent says that there is no token, or more than one.
func (c *jwtCheck) absent(x *Exchange, other bool) reason.Verdict {
	places := reason.Public("places", c.text).At(c.at)
	if x.Preflight && !other {
		return x.refusePreflight(c.Wants(), c.at)
	}
	if other {
		return c.places.refuse(x, jwtReasons.repeated.Refuse(places))
	}
	facts := []reason.Fact{places, x.OwnerFact()}
	if c.issuer != "" {
		facts = append(facts, reason.Public("issuer", c.issuer).At(c.issuerAt))
	}
	if s := c.slip(x); s != "" {
		facts = append(facts, reason.Public("slip", s))
	}
	return c.places.refuse(x, jwtReasons.missing.Refuse(facts...))
}

func (c *jwtCheck) malformed(x *Exchange, token string, err error) reason.Verdict {
	slip := err.Error()
	if s := mangled(token); s != "" {
		slip = s
	}
	return jwtMalformed.Refuse(reason.Public("places", c.text).At(c.at), reason.Public("slip", slip), reason.Public("size", reason.Bytes(len(token))), x.OwnerFact())
}

// verify judges a token that is not known, or not good any more.
func (c *jwtCheck) verify(x *Exchange, token string, sum [32]byte) (*acceptedToken, reason.Verdict) {
	t, err := parseSigned(token)
	if err != nil {
		return nil, c.malformed(x, token, err)
	}
	if !slices.Contains(c.algorithms, t.alg) {
		return nil, c.wrongAlgorithm(x, t, "")
	}
	st := c.keys.state.Load()
	if !x.Explaining {
		st = c.keys.first()
	}
	v, refused := c.signature(x, t, token, sum, st)
	if refused.Refused() {
		return nil, refused
	}
	if err := boundedClaims(v.claims); err != nil {
		return nil, c.malformed(x, token, err)
	}
	a := &acceptedToken{set: v.set, alg: v.alg, kid: v.kid}
	if refused, err = c.times(x, v.claims, a); err != nil {
		return nil, c.malformed(x, token, err)
	} else if refused.Refused() {
		return nil, refused
	}
	if refused = c.kind(x, v); refused.Refused() && !x.lifted(refused.Reason) {
		return nil, refused
	}
	if refused = c.judge(x, v.claims); refused.Refused() {
		return nil, refused
	}
	a.caller = c.caller("jwt", v.claims)
	if !x.Explaining && len(token) <= maxRemembered {
		c.accepted.put(&sum, a)
	}
	return a, reason.Verdict{}
}

// signature finds the key of a token and checks it. What was checked once with the same keys is not checked
// again.
func (c *jwtCheck) signature(x *Exchange, t *jwsToken, token string, sum [32]byte, st *keyState) (*verified, reason.Verdict) {
	if st.set == nil || st.gone {
		return nil, c.unavailable(x, st, "")
	}
	if v, ok := c.keys.verified.get(&sum); ok && v.set == st.set && v.alg == t.alg {
		return v, reason.Verdict{}
	}
	found, fit, known, why := st.set.candidates(t)
	if len(found) == 0 && !known && t.hasKid && !x.Explaining {
		st = c.keys.fresher(st)
		if st.set == nil || st.gone {
			return nil, c.unavailable(x, st, "")
		}
		found, fit, known, why = st.set.candidates(t)
	}
	switch {
	case len(found) == 0 && !known && t.hasKid && st.failed != "":
		return nil, c.unavailable(x, st, fmt.Sprintf("the token names the key %q, which is not among those fetched before", clipped(t.kid, 64)))
	case len(found) == 0 && !known && t.hasKid:
		return nil, c.unknownKey(x, t, st)
	case len(found) == 0:
		return nil, c.wrongAlgorithm(x, t, why)
	}
	for _, k := range found {
		if !k.verify(t) {
			continue
		}
		claims, err := parseObject(t.payload)
		if err != nil {
			return nil, c.malformed(x, token, fmt.Errorf("its signature is right, and its payload %w", err))
		}
		v := &verified{set: st.set, alg: t.alg, kid: t.kid, typ: t.typ, claims: claims}
		if !x.Explaining && len(token) <= maxRemembered {
			c.keys.verified.put(&sum, v)
		}
		return v, reason.Verdict{}
	}
	tried := plural(len(found), "key")
	if fit > len(found) {
		tried = fmt.Sprintf("the first %d of %d keys that fit", len(found), fit)
	}
	facts := append(c.sourceFacts(x), c.headerFacts(t)...)
	facts = append(facts, reason.Public("tried", tried))
	slips := c.otherIssuer(t)
	if len(slips) == 0 && !t.hasKid && fit > 1 {
		slips = []reason.Fact{reason.Public("slip", "it names no key (kid)")}
	}
	return nil, jwtSignature.Refuse(append(facts, slips...)...)
}

// sourceFacts say whose keys are used. The address of a key set may be one inside, which strangers are not told.
func (c *jwtCheck) sourceFacts(x *Exchange) []reason.Fact {
	facts := []reason.Fact{reason.Public("source", c.source).At(c.at), reason.Public("signer", c.signer), x.OwnerFact()}
	if c.jwks != "" {
		facts = append(facts, reason.Rule("jwks", c.jwks).At(c.at))
	}
	return facts
}

func (c *jwtCheck) headerFacts(t *jwsToken) []reason.Fact {
	facts := []reason.Fact{reason.Public("alg", clipped(t.alg, 40))}
	if t.hasKid {
		facts = append(facts, reason.Public("kid", strings.Clone(clipped(t.kid, 100))))
	}
	return facts
}

// otherIssuer notices that a token whose signature is not ours to check says that it comes from elsewhere.
func (c *jwtCheck) otherIssuer(t *jwsToken) []reason.Fact {
	claims, err := parseObject(t.payload)
	if err != nil {
		return nil
	}
	if iss, ok := claims["iss"].(string); ok && c.issuer != "" && iss != c.issuer {
		return []reason.Fact{reason.Public("slip", "it says that it comes from "+clipped(iss, 200))}
	}
	return nil
}

func (c *jwtCheck) wrongAlgorithm(x *Exchange, t *jwsToken, why string) reason.Verdict {
	facts := append(c.headerFacts(t), reason.Public("wanted", reason.List(c.algorithms)).At(c.algAt), x.OwnerFact())
	switch {
	case strings.EqualFold(t.alg, "none"):
		why = "that is no signature at all"
	case why == "" && slices.ContainsFunc(c.algorithms, func(a string) bool { return strings.EqualFold(a, t.alg) }):
		why = "the names of algorithms are told apart by capital letters"
	}
	if why != "" {
		facts = append(facts, reason.Public("slip", why))
	}
	return jwtAlgorithm.Refuse(facts...)
}

func (c *jwtCheck) unknownKey(x *Exchange, t *jwsToken, st *keyState) reason.Verdict {
	facts := append(c.sourceFacts(x), reason.Public("kid", strings.Clone(clipped(t.kid, 100))), reason.Public("keys", st.set.kids()), reason.Public("refetch", c.refetch))
	if !st.fetched.IsZero() {
		facts = append(facts, reason.Public("age", roughly(time.Since(st.fetched))))
	}
	for _, r := range st.set.refused {
		if strings.HasPrefix(r, fmt.Sprintf("%q: ", clipped(t.kid, 64))) {
			facts = append(facts, reason.Rule("refused", "that key is published and cannot be used: "+r))
		}
	}
	return jwtUnknownKey.Refuse(append(facts, c.otherIssuer(t)...)...)
}

func (c *jwtCheck) unavailable(x *Exchange, st *keyState, slip string) reason.Verdict {
	facts := append(c.sourceFacts(x), reason.Public("retry_after", 5*time.Second))
	state := "no keys have been fetched yet"
	switch {
	case st.gone:
		state = fmt.Sprintf("the keys were fetched at %s and may be used for %s", reason.Stamp(st.fetched), reason.Span(c.keys.stale))
	case st.set != nil:
		state = fmt.Sprintf("the keys were fetched at %s, and the issuer is away since", reason.Stamp(st.fetched))
	case st.failed != "":
		state = "no keys could be fetched since " + reason.Stamp(st.since)
	}
	facts = append(facts, reason.Public("state", state))
	if st.failed != "" {
		facts = append(facts, reason.Rule("why", st.failed))
	}
	if slip != "" {
		facts = append(facts, reason.Public("slip", slip))
	}
	x.Extra.Put(wire.RetryAfter, "5")
	return jwtUnavailable.Refuse(facts...)
}

// times compares exp, nbf and iat with now, and notes them for the next call.
func (c *jwtCheck) times(x *Exchange, claims map[string]any, a *acceptedToken) (reason.Verdict, error) {
	exp, err := timeOf(claims, "exp")
	if err != nil {
		return reason.Verdict{}, err
	}
	a.exp = exp
	now, leeway := reason.Public("now", x.Now), reason.Public("leeway", c.leeway).At(c.at)
	switch {
	case exp.IsZero() && !c.noExpiry:
		return c.lacks(x, claims, "exp", "", c.at), nil
	case !exp.IsZero():
		if a.until = exp.Add(c.leeway); !x.Now.Before(a.until) {
			return jwtExpired.Refuse(reason.Public("until", exp), reason.Public("ago", roughly(x.Now.Sub(exp))), now, leeway), nil
		}
	}
	for _, name := range []string{"nbf", "iat"} {
		from, err := timeOf(claims, name)
		if err != nil {
			return reason.Verdict{}, err
		}
		if from.IsZero() {
			continue
		}
		from = from.Add(-c.leeway)
		if x.Now.Before(from) {
			from = from.Add(c.leeway)
			return jwtEarly.Refuse(reason.Public("claim", name), reason.Public("from", from), reason.Public("skew", roughly(from.Sub(x.Now))), now, leeway), nil
		}
		if from.After(a.from) {
			a.from = from
		}
	}
	return reason.Verdict{}, nil
}

// kind refuses tokens that are made for something else (RFC 8725 §3.11).
func (c *jwtCheck) kind(x *Exchange, v *verified) reason.Verdict {
	seen := ""
	typ := strings.ToLower(strings.TrimPrefix(strings.ToLower(v.typ), "application/"))
	id := idToken(v.claims)
	switch {
	case typ != "" && typ != "jwt" && typ != "at+jwt":
		seen = fmt.Sprintf("a token of type %q", clipped(v.typ, 40))
	case c.accept == "access" && id != "":
		seen = "an ID token (" + id + ")"
	default:
		return reason.Verdict{}
	}
	return jwtType.Refuse(reason.Public("seen", seen).At(c.at), x.OwnerFact())
}
