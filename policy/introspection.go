package policy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// Introspection identifies callers by a token that its issuer is asked about (RFC 7662).
//
// It is for tokens that say nothing by themselves, and for those that have to end at once when they are revoked: an answer is
// remembered for cacheFor, and never longer than the token lasts. That a token is not active is remembered for
// inactiveFor. Calls wait for the issuer, for at most `timeout`, and share one question about the same token. At most
// `concurrency` questions are under way; calls beyond wait for their turn within the same time.
//
// While the issuer is away, tokens that were active when it was asked last are let in for staleFor after that answer ran
// out, which is off unless set, and everything else is answered with 503, or let pass
// unidentified (failOpen). Answers are checked like the claims of a JWT.
// Explanations ask nobody: without a remembered answer they say that it cannot be told.
//
//	policies:
//	- introspection: {endpoint: "https://login.example/introspect", clientId: gateway, clientSecret: {env: INTROSPECTION_SECRET}}
type Introspection struct {
	// Endpoint that is asked.
	Endpoint string `json:"endpoint" required:"true" example:"https://login.example/introspect"`
	// ClientID is the gateway's name at the issuer.
	ClientID string `json:"clientId" required:"true" example:"gateway"`
	// ClientSecret is the gateway's secret there.
	ClientSecret resource.SecretRef `json:"clientSecret" required:"true" example:"{env: INTROSPECTION_SECRET}"`
	// ClientAuth: basic sends the two in Authorization, post in the form.
	ClientAuth string `json:"clientAuth" enum:"basic,post" default:"basic"`
	// Issuer that answers must name in iss. Empty: any.
	Issuer string `json:"issuer" example:"https://login.example"`
	TokenPlace
	TokenClaims
	// Timeout is how long a call waits for an answer.
	Timeout resource.Duration `json:"timeout" default:"2s" min:"10ms" max:"30s"`
	// CacheFor is how long an answer about an active token is remembered.
	CacheFor resource.Duration `json:"cacheFor" default:"1m" min:"0s" max:"1h"`
	// InactiveFor is how long it is remembered that a token is not active.
	InactiveFor resource.Duration `json:"inactiveFor" default:"10s" min:"0s" max:"10m"`
	// StaleFor is how long beyond that an answer about an active token is used while the issuer is away; the records of these
	// calls say so (hint introspection.stale).
	StaleFor resource.Duration `json:"staleFor" default:"0s" max:"1d"`
	// FailOpen lets calls pass while the issuer cannot be asked, whatever their token; their records say so. Nobody is
	// identified then, so that what needs scopes or an application refuses all the same. A token that was called not
	// active before, or has expired, is refused.
	FailOpen bool `json:"failOpen"`
	// Concurrency is how many questions are under way at once.
	Concurrency int `json:"concurrency" default:"50" min:"1" max:"1000"`
}

var (
	introspectionReasons = newTokenReasons("introspection", "a token")

	introspectionMalformed = reason.New(reason.Reason{
		Code: "introspection.malformed", Status: 401,
		Title:  "The token cannot be read",
		Says:   "what was sent in {places} is no token: {slip}",
		Wanted: "a token as the issuer gave it: letters, digits and -._~+/=",
		Seen:   "{size}: {slip}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "send the token just as the issuer gave it, after the word Bearer"}},
		Hint:   "the client may quote or encode the token; the issuer was not asked",
	})
	introspectionInactive = reason.New(reason.Reason{
		Code: "introspection.inactive", Status: 401,
		Title:  "The token is not active",
		Says:   "{issuer} says that the token is not active[; {slip}]",
		Wanted: "a token that {issuer} calls active",
		Seen:   "a token that is not, as of {asked}[; {slip}]",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "get a new token: this one is unknown, expired or revoked there"},
			{By: reason.Operator, Text: "see that client {client|of this gateway} may introspect tokens of that client and environment"},
		},
		Hint: "asked at {endpoint}; issuers do not say why, and some call tokens inactive that the asking client may not see (RFC 7662 §2.2)",
	})
	introspectionUnavailable = reason.New(reason.Reason{
		Code: "introspection.unavailable", Status: 503,
		Title:  "Tokens cannot be checked at the moment",
		Says:   "{issuer} could not be asked about the token, so it can be called neither active nor not",
		Wanted: "an answer of {issuer} within {timeout}",
		Seen:   "{why|none}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "try again in {retry_after}; the token itself may be good"},
			{By: reason.Operator, Text: "see that this node reaches {issuer}[ at {endpoint}] and that its credentials[ of client {client}] are right there[: {why}]"},
		},
		Hint: "asking {issuer}: {why|no answer}; failOpen would let calls pass meanwhile",
	})
)

// introspector asks one endpoint. It outlives revisions, with its answers.
type introspector struct {
	endpoint, id, secret string
	post                 bool
	timeout              time.Duration
	active, inactive     time.Duration // how long answers are remembered
	client               *http.Client
	turns                chan struct{}
	// answers are those about tokens that were active once, strange those about others: whoever makes up
	// tokens does not drive out what is known of good ones.
	answers, strange slots[*introspected]
	ctx              context.Context
	cancel           context.CancelFunc

	mu      sync.Mutex // guards flights
	flights map[[sha256.Size]byte]*inFlight
}

// introspected is an answer of the issuer.
type introspected struct {
	active bool
	claims map[string]any
	asked  time.Time
	until  time.Time // it is remembered
	exp    time.Time // of the token; zero if the answer does not say
	nbf    time.Time
}

// inFlight is one question under way. answer and err are there when done is closed.
type inFlight struct {
	done   chan struct{}
	answer *introspected
	err    error
}

func newIntrospector(p *Introspection, secret string) *introspector {
	s := &introspector{endpoint: p.Endpoint, id: p.ClientID, secret: secret, post: p.ClientAuth == "post", timeout: time.Duration(p.Timeout),
		active: time.Duration(p.CacheFor), inactive: time.Duration(p.InactiveFor), turns: make(chan struct{}, p.Concurrency), flights: map[[sha256.Size]byte]*inFlight{}}
	s.client = fetchClient(s.timeout)
	s.client.Transport = &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: min(p.Concurrency, 32), IdleConnTimeout: 30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10, TLSHandshakeTimeout: s.timeout}
	// A redirect would send the token and the credentials elsewhere.
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.answers.init()
	s.strange.init()
	return s
}

// Start has nothing to begin: calls ask.
func (s *introspector) Start() {}

// Close ends questions under way.
func (s *introspector) Close() {
	s.cancel()
	s.client.CloseIdleConnections()
}

// remembered is the last answer about a token, or nil. It may have run out.
func (s *introspector) remembered(sum *[sha256.Size]byte) *introspected {
	a, ok := s.answers.get(sum)
	if !ok {
		a, _ = s.strange.get(sum)
	}
	return a
}

// remember keeps an answer in place of the one before.
func (s *introspector) remember(sum *[sha256.Size]byte, a *introspected) {
	if _, ok := s.answers.get(sum); ok || a.active {
		s.answers.put(sum, a)
	} else {
		s.strange.put(sum, a)
	}
}

// ask finds the answer about a token, remembered or new. With an error, the answer is one that has run out, or nil.
func (s *introspector) ask(token string, sum [sha256.Size]byte, now time.Time) (*introspected, error) {
	old := s.remembered(&sum)
	if old != nil && now.Before(old.until) {
		return old, nil
	}
	s.mu.Lock()
	f := s.flights[sum]
	if f != nil {
		s.mu.Unlock()
		t := time.NewTimer(s.timeout)
		defer t.Stop()
		select {
		case <-f.done:
			if f.err != nil {
				return old, f.err
			}
			return f.answer, nil
		case <-t.C:
			return old, errors.New("no answer in time")
		}
	}
	f = &inFlight{done: make(chan struct{}), err: errors.New("the question was given up")}
	s.flights[sum] = f
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.flights, sum)
		s.mu.Unlock()
		close(f.done)
	}()
	if f.answer, f.err = s.question(token, now); f.err != nil {
		return old, f.err
	}
	s.remember(&sum, f.answer)
	return f.answer, nil
}

// question asks the endpoint (RFC 7662 §2.1).
func (s *introspector) question(token string, now time.Time) (*introspected, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	select {
	case s.turns <- struct{}{}:
		defer func() { <-s.turns }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%d questions are under way, and none ended in time", cap(s.turns))
	}
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	if s.post {
		form.Set("client_id", s.id)
		form.Set("client_secret", s.secret)
	}
	req, err := http.NewRequestWithContext(ctx, "POST", s.endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if !s.post {
		req.SetBasicAuth(url.QueryEscape(s.id), url.QueryEscape(s.secret)) // RFC 6749 §2.3.1
	}
	res, err := s.client.Do(req)
	if err != nil {
		return nil, plainURLError(s.endpoint, err)
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == 401 || res.StatusCode == 403:
		return nil, fmt.Errorf("%s answers %s: it does not accept the credentials of this gateway", s.endpoint, clipped(res.Status, 60))
	case res.StatusCode != 200:
		return nil, fmt.Errorf("%s answers %s", s.endpoint, clipped(res.Status, 60))
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, plainURLError(s.endpoint, err)
	case len(b) > maxAnswer:
		return nil, fmt.Errorf("%s answers more than %d bytes", s.endpoint, maxAnswer)
	}
	claims, err := parseObject(b)
	if err != nil {
		return nil, fmt.Errorf("the answer of %s %w", s.endpoint, err)
	}
	a := &introspected{claims: claims, asked: now}
	var is bool
	if a.active, is = claims["active"].(bool); !is {
		return nil, fmt.Errorf("the answer of %s does not say whether the token is active", s.endpoint)
	}
	if !a.active {
		a.claims, a.until = nil, now.Add(s.inactive)
		return a, nil
	}
	delete(claims, "active")
	if a.exp, err = timeOf(claims, "exp"); err == nil {
		a.nbf, err = timeOf(claims, "nbf")
	}
	if err == nil {
		err = boundedClaims(claims)
	}
	if err != nil {
		return nil, fmt.Errorf("the answer of %s cannot be used: %w", s.endpoint, err)
	}
	a.until = now.Add(s.active)
	if !a.exp.IsZero() && a.exp.Before(a.until) {
		a.until = a.exp
	}
	return a, nil
}

const maxAnswer = 256 << 10

type introspectionCheck struct {
	places
	claimCheck
	asks     *introspector
	stale    time.Duration
	failOpen bool
	at       *reason.Source
	accepted slots[*introspectedCaller]
}

// introspectedCaller is whom an answer identifies here.
type introspectedCaller struct {
	answer *introspected
	caller tokenCaller
}

// Compile checks the settings.
func (p *Introspection) Compile(env *Env) any {
	c := &introspectionCheck{places: p.TokenPlace.compile(env, &p.TokenClaims), claimCheck: p.TokenClaims.compile(env, p.Issuer, &introspectionReasons),
		stale: time.Duration(p.StaleFor), failOpen: p.FailOpen, at: env.Source("endpoint")}
	c.accepted.init()
	u, err := url.Parse(p.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.Fragment != "" {
		env.Problem("endpoint", "such as https://login.example/introspect", "%q is no URL that can be asked", p.Endpoint)
		return c
	}
	if h := u.Hostname(); u.Scheme == "http" && h != "localhost" && !strings.HasPrefix(h, "127.") && h != "::1" {
		env.Lint("introspection.plain-http", "endpoint", "use https", "tokens and the gateway's secret go over plain http: whoever sits between can read them")
	}
	secret := string(env.secretFrom("clientSecret", p.ClientSecret))
	sum := sumOf(secret)
	name := fmt.Sprintf("introspection %q %q %x %s %v %v %v %d", p.Endpoint, p.ClientID, sum, p.ClientAuth, p.Timeout, p.CacheFor, p.InactiveFor, p.Concurrency)
	c.asks = env.Keep(name, func() Kept { return newIntrospector(p, secret) }).(*introspector)
	return c
}

// Presents is whether a token is there.
func (c *introspectionCheck) Presents(x *Exchange) bool {
	token, _ := c.find(x)
	return token != ""
}

// Wants names the places of the token.
func (c *introspectionCheck) Wants() string { return "a token in " + c.text }

// unsendable says why a text cannot be a token (RFC 6750 §2.1), or "".
func unsendable(token string) string {
	if len(token) > maxToken {
		return fmt.Sprintf("it has %d bytes, and at most %d are read", len(token), maxToken)
	}
	for i := range len(token) {
		switch c := token[i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', strings.IndexByte("-._~+/=", c) >= 0:
		default:
			if s := mangled(token); s != "" {
				return s
			}
			return fmt.Sprintf("it holds the character %q", c)
		}
	}
	return ""
}

// Check identifies the caller.
func (c *introspectionCheck) Check(x *Exchange) reason.Verdict {
	token, other := c.find(x)
	if token == "" || other {
		return c.absent(x, other)
	}
	if s := unsendable(token); s != "" {
		return c.places.refuse(x, introspectionMalformed.Refuse(reason.Public("places", c.text).At(c.at), reason.Public("slip", s), reason.Public("size", reason.Bytes(len(token))), x.OwnerFact()))
	}
	sum := sumOf(token)
	var a *introspected
	var err error
	if x.Explaining {
		if a = c.asks.remembered(&sum); a == nil || !x.Now.Before(a.until) {
			x.Unknown = true
			return reason.Pass(reason.Public("issuer", c.where()+" is asked about the token").At(c.at))
		}
	} else if a, err = c.asks.ask(token, sum, x.Now); err != nil && (a == nil || !c.lasts(x, a)) {
		if !c.failOpen {
			return c.unavailable(x, err)
		}
		if a == nil || !c.activity(x, token, a).Refused() {
			x.Note("introspection.unavailable", "let pass without asking "+c.where()+" about the token: "+err.Error())
			return reason.Verdict{}
		}
	}
	if v := c.activity(x, token, a); v.Refused() {
		return c.places.refuse(x, v)
	}
	if err != nil {
		until := a.until.Add(c.stale)
		if !a.exp.IsZero() && a.exp.Before(until) {
			until = a.exp
		}
		x.Note("introspection.stale", fmt.Sprintf("%s could not be asked about the token; its answer of %s is used until %s: %v", c.where(), reason.Stamp(a.asked), reason.Stamp(until), err))
	}
	who, ok := c.accepted.get(&sum)
	if !ok || who.answer != a {
		if v := c.judge(x, a.claims); v.Refused() {
			return c.places.refuse(x, v)
		}
		who = &introspectedCaller{answer: a, caller: c.caller("introspection", a.claims)}
		if !x.Explaining {
			c.accepted.put(&sum, who)
		}
	}
	if v := c.enter(x, &who.caller); v.Refused() {
		return c.places.refuse(x, v)
	}
	if x.Explaining {
		facts := append(who.caller.told(), reason.Public("asked", a.asked).At(c.at))
		if !a.exp.IsZero() {
			facts = append(facts, reason.Public("expires_in", roughly(a.exp.Sub(x.Now))))
		}
		return reason.Pass(facts...)
	}
	return reason.Verdict{}
}

// absent says that there is no token, or more than one.
func (c *introspectionCheck) absent(x *Exchange, other bool) reason.Verdict {
	places := reason.Public("places", c.text).At(c.at)
	if other {
		return c.places.refuse(x, c.reasons.repeated.Refuse(places))
	}
	if x.Preflight {
		return x.refusePreflight(c.Wants(), c.at)
	}
	facts := []reason.Fact{places, x.OwnerFact()}
	if s := c.slip(x); s != "" {
		facts = append(facts, reason.Public("slip", s))
	}
	return c.places.refuse(x, c.reasons.missing.Refuse(facts...))
}

// lasts says that an answer which has run out is still used while the issuer is away.
func (c *introspectionCheck) lasts(x *Exchange, a *introspected) bool {
	return a.active && x.Now.Before(a.until.Add(c.stale)) && (a.exp.IsZero() || x.Now.Before(a.exp))
}

// activity refuses a token that is not active now.
func (c *introspectionCheck) activity(x *Exchange, token string, a *introspected) reason.Verdict {
	slip := ""
	switch {
	case !a.active:
		slip = mangled(token)
		if slip == "" && strings.Count(token, ".") == 2 && strings.HasPrefix(token, "eyJ") {
			slip = "it is a JWT; was it made by another issuer?"
		}
	case !a.exp.IsZero() && !x.Now.Before(a.exp):
		slip = "it is called active, and expired at " + reason.Stamp(a.exp)
	case x.Now.Before(a.nbf):
		slip = "it is called active, and is valid from " + reason.Stamp(a.nbf)
	default:
		return reason.Verdict{}
	}
	facts := []reason.Fact{reason.Public("issuer", c.where()).At(c.at), reason.Public("asked", a.asked), reason.Rule("endpoint", c.asks.endpoint), reason.Inner("client", c.asks.id), x.OwnerFact()}
	if slip != "" {
		facts = append(facts, reason.Public("slip", slip))
	}
	return introspectionInactive.Refuse(facts...)
}

// where names the issuer. The address that is asked may be one inside, which strangers are not told.
func (c *introspectionCheck) where() string {
	if c.issuer != "" {
		return c.issuer
	}
	return "the issuer"
}

func (c *introspectionCheck) unavailable(x *Exchange, err error) reason.Verdict {
	x.Extra.Put(wire.RetryAfter, "5")
	return introspectionUnavailable.Refuse(reason.Public("issuer", c.where()).At(c.at), reason.Public("timeout", c.asks.timeout), reason.Public("retry_after", 5*time.Second),
		reason.Rule("why", err.Error()), reason.Rule("endpoint", c.asks.endpoint).At(c.at), reason.Inner("client", c.asks.id), x.OwnerFact())
}
