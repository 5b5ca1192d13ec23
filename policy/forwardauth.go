package policy

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// ForwardAuth has an HTTP service of yours decide about each call.
//
// The authorizer is asked with the headers that are listed, and with X-Forwarded-Method, -Proto, -Host, -Uri
// and -For, which describe the call; it does not get the content. An answer of 2xx lets the call pass, and headers of
// it can be copied to the request that the upstream gets. Any other answer up to 499 refuses the call, and
// the refusal is attributed to the authorizer: its status, and for owners the beginning of what it
// wrote. An answer from 500 up, or none in time, is no refusal: then the authorizer is unavailable.
//
// Each call waits for the answer, at most timeout, unless cacheFor is set and the same was asked before. Explaining
// a call does not ask the authorizer, so its outcome stays unknown there.
//
//	policies:
//	- forward-auth: {url: "http://auth.internal:9001/check", subject: X-Auth-User, copy: [X-Auth-User]}
type ForwardAuth struct {
	// URL of the authorizer.
	URL string `json:"url" required:"true" example:"http://auth.internal:9001/check"`
	// Method of the question.
	Method string `json:"method" enum:"GET,HEAD,POST" default:"GET"`
	// Headers of the call that the authorizer gets. Beside other methods of authentication it is asked
	// first for calls that have one of them.
	Headers []string `json:"headers" default:"[Authorization, Cookie]" example:"[Authorization, X-Tenant]"`
	// Timeout of one question, waiting for a turn included.
	Timeout resource.Duration `json:"timeout" default:"2s" min:"10ms" max:"30s"`
	// Copy lists headers of a 2xx answer that the upstream gets. It never gets those of the client with these names.
	Copy []string `json:"copy" example:"[X-Auth-User]"`
	// CopyBack lists headers of a 2xx answer that the caller gets, such as Set-Cookie of a session that was renewed. They come
	// when the authorizer was asked, not with what cacheFor remembers.
	CopyBack []string `json:"copyBack" example:"[Set-Cookie]"`
	// Subject is the header of a 2xx answer that names who calls. Without it nobody is identified.
	Subject string `json:"subject" example:"X-Auth-User"`
	// Scopes is the header with the scopes of who calls, with spaces or commas between them.
	Scopes string `json:"scopes" example:"X-Auth-Scopes"`
	// Roles is the header with the roles of who calls.
	Roles string `json:"roles"`
	// Groups is the header with the groups of who calls.
	Groups string `json:"groups"`
	// Pass lists statuses of the authorizer that the caller gets as they are: 401 with WWW-Authenticate,
	// redirects with Location, all of them with Set-Cookie and Retry-After. Other refusals are a 403.
	Pass []int `json:"pass" default:"[401, 403, 302, 303, 307, 429]" min:"300" max:"499"`
	// FailOpen lets calls pass while the authorizer is unavailable; their records say so. Nobody is identified then.
	FailOpen bool `json:"failOpen"`
	// CacheFor is how long a 2xx answer counts for calls that look the same to the authorizer; 0 asks every time.
	CacheFor resource.Duration `json:"cacheFor" default:"0s" max:"1h"`
	// Concurrency bounds how many questions are under way at once.
	Concurrency int `json:"concurrency" default:"100" min:"1" max:"10000"`
	// CA is a PEM file of the authorities to believe for an https URL. Empty: those of the system.
	CA string `json:"ca"`
}

var (
	forwardRefused = reason.New(reason.Reason{
		Code: "forward-auth.refused", Status: 403,
		Title:  "The authorizer of this API has refused the call",
		Says:   "the authorizer of this API refused the call with the status {auth_status}",
		Wanted: "an answer of 2xx by the authorizer[ {authorizer}]",
		Seen:   "{auth_status}[, which says: {excerpt}]",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "check your credentials: the authorizer got {sent}"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} what its authorizer wants"},
		},
		Hint: "the decision is that of {authorizer}, not of the gateway[; it says: {excerpt}]",
	})
	forwardUnavailable = reason.New(reason.Reason{
		Code: "forward-auth.unavailable", Status: 503,
		Title:  "The authorizer of this API does not answer",
		Says:   "the authorizer of this API did not decide about the call[: {fault}]",
		Wanted: "an answer of the authorizer[ {authorizer}] below 500 within {timeout}",
		Seen:   "{fault|none}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "try again later"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to look after its authorizer"},
		},
		Hint: "{authorizer}: {fault}; failOpen would let calls pass meanwhile",
	})
)

const (
	maxExcerpt  = 1 << 10
	maxDrained  = 64 << 10
	maxCookies  = 20
	maxListed   = 200 // scopes, roles or groups
	maxAccepted = 10_000
)

// authorized is a 2xx answer.
type authorized struct {
	identity *consumer.Identity
	fields   wire.Fields // for the upstream
	back     wire.Fields // for the caller, of this call
}

// authorizer keeps the connections to one, and its answers, beyond revisions.
type authorizer struct {
	client *http.Client
	turns  turns
	recent *recent[*authorized]
}

// Start has nothing to do: connections are opened when they are needed.
func (*authorizer) Start() {}

// Close closes the connections that are idle; the others close after their call.
func (a *authorizer) Close() { a.client.CloseIdleConnections() }

type forwardCheck struct {
	ForwardAuth
	authorizer *authorizer
	shown      string // the URL, for owners
	sent       string
	at         *reason.Source
	challenge  string
}

// Compile checks URL and names.
func (p *ForwardAuth) Compile(env *Env) any {
	c := &forwardCheck{ForwardAuth: *p, at: env.Source("url"), challenge: "ForwardAuth realm=" + quote(env.Route.API)}
	for _, list := range []struct {
		field string
		names []string
	}{{"headers", p.Headers}, {"copy", p.Copy}, {"copyBack", p.CopyBack}} {
		for i, n := range list.names {
			at := index(list.field, i)
			switch {
			case !env.headerName(at, n):
			case framed(wire.FieldIDOf(n)):
				env.Problem(at, "X-Forwarded-Host and the others are sent anyway", "%s belongs to the connection", n)
			case list.field == "headers" && hasPrefixFold(n, "x-forwarded-"):
				env.Problem(at, "take it out: it is sent anyway", "%s describes the call to the authorizer, and the gateway writes it", n)
			}
		}
	}
	for _, h := range [][2]string{{"subject", p.Subject}, {"scopes", p.Scopes}, {"roles", p.Roles}, {"groups", p.Groups}} {
		if h[1] != "" {
			env.headerName(h[0], h[1])
		}
		if h[1] != "" && p.Subject == "" && !env.Faulty["subject"] {
			env.Problem(h[0], "name the header with the subject too", "%s of nobody: there is no subject", h[0])
		}
	}
	u, err := url.Parse(p.URL)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		env.Problem("url", "such as http://auth.internal:9001/check", "%q is no URL with http:// or https:// and a host", p.URL)
		return c
	case u.User != nil:
		env.Problem("url", "let the authorizer know the gateway by its address or a client certificate", "documents hold no secrets, and this URL has a user")
		return c
	}
	c.shown = u.Scheme + "://" + u.Host + u.Path
	name := fmt.Sprintf("forward-auth %+v", *p)
	var roots *x509.CertPool
	if p.CA != "" {
		path := env.Resolve(p.CA)
		if env.Watch != nil {
			env.Watch(path)
		}
		list, err := ReadAuthorities(path)
		if err != nil {
			env.Problem("ca", "a PEM file with certificates; its path is relative to the document", "%v", err)
			return c
		}
		roots = x509.NewCertPool()
		h := sha256.New()
		for _, a := range list {
			roots.AddCert(a)
			h.Write(a.Raw)
		}
		name += hex.EncodeToString(h.Sum(nil))
	}
	c.sent = "no headers of yours"
	if len(p.Headers) > 0 {
		c.sent = strings.Join(p.Headers, ", ")
	}
	c.authorizer = env.Keep(name, func() Kept { return newAuthorizer(p, roots) }).(*authorizer)
	return c
}

func newAuthorizer(p *ForwardAuth, roots *x509.CertPool) *authorizer {
	t := &http.Transport{MaxIdleConns: p.Concurrency, MaxIdleConnsPerHost: p.Concurrency, MaxConnsPerHost: p.Concurrency, IdleConnTimeout: 50 * time.Second,
		MaxResponseHeaderBytes: 64 << 10, DisableCompression: true, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	return &authorizer{turns: make(turns, p.Concurrency), recent: newRecent[*authorized](maxAccepted),
		client: &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// Presents is whether the call has one of the headers that the authorizer gets.
func (c *forwardCheck) Presents(x *Exchange) bool {
	for _, n := range c.Headers {
		if v, ok := x.Fields.Lookup(n); ok && v != "" {
			return true
		}
	}
	return false
}

// Wants names the headers.
func (c *forwardCheck) Wants() string {
	if len(c.Headers) == 0 {
		return "the consent of its authorizer"
	}
	return "what its authorizer accepts in " + reason.List(c.Headers)
}

// HeaderNames are the headers that pages must be allowed to send; the browser adds cookies itself.
func (c *forwardCheck) HeaderNames() []string {
	return slices.DeleteFunc(slices.Clone(c.Headers), func(n string) bool { return wire.EqualFold(n, "Cookie") })
}

// Challenge is what a 401 asks for, where the authorizer asks for nothing.
func (c *forwardCheck) Challenge(*Exchange) string { return c.challenge }

// Check asks the authorizer.
func (c *forwardCheck) Check(x *Exchange) reason.Verdict {
	if x.Preflight && !c.Presents(x) {
		return x.refusePreflight(c.Wants(), c.at)
	}
	var key [sha256.Size]byte
	if c.CacheFor > 0 {
		key = c.key(x)
		if a, ok := c.authorizer.recent.find(&key, x.Now); ok {
			return c.accept(x, a, "remembered")
		}
	}
	if x.Explaining {
		x.Unknown = true
		return reason.Pass(reason.Rule("authorizer", c.shown).At(c.at))
	}
	a, v, fault := c.ask(x)
	switch {
	case fault != "" && c.FailOpen:
		x.Note("forward-auth.unavailable", "let pass without the authorizer "+c.shown+": "+fault)
		return reason.Verdict{}
	case fault != "":
		return forwardUnavailable.Refuse(reason.Rule("fault", fault).At(c.at), reason.Rule("authorizer", c.shown), reason.Public("timeout", time.Duration(c.Timeout)), x.OwnerFact())
	case v.Refused():
		return v
	}
	x.Extra = append(x.Extra, a.back...)
	if c.CacheFor > 0 {
		c.authorizer.recent.add(&key, &authorized{identity: a.identity, fields: a.fields}, x.Now, x.Now.Add(time.Duration(c.CacheFor)))
	}
	return c.accept(x, a, "asked")
}

func (c *forwardCheck) accept(x *Exchange, a *authorized, how string) reason.Verdict {
	if a.identity != nil {
		x.Identity = a.identity
	}
	x.Onward = append(x.Onward, a.fields...)
	if x.Explaining {
		facts := []reason.Fact{reason.Rule("authorizer", c.shown).At(c.at), reason.Rule("answer", "2xx, "+how)}
		if a.identity != nil {
			facts = append(facts, reason.Own("subject", a.identity.Subject))
		}
		return reason.Pass(facts...)
	}
	return reason.Verdict{}
}

// key is the hash of all that the authorizer gets.
func (c *forwardCheck) key(x *Exchange) [sha256.Size]byte {
	start := len(x.scratch)
	b := x.scratch
	for _, part := range []string{x.Method, x.Scheme, x.Authority, x.Path, x.Query} {
		b = append(append(strconv.AppendInt(b, int64(len(part)), 10), ':'), part...)
	}
	b = x.Client.Addr.AppendTo(b)
	for i, n := range c.Headers {
		for j := range x.Fields {
			if f := &x.Fields[j]; wire.EqualFold(f.Name, n) {
				b = append(append(strconv.AppendInt(append(strconv.AppendInt(b, int64(i), 10), '='), int64(len(f.Value)), 10), ':'), f.Value...)
			}
		}
	}
	sum := sha256.Sum256(b[start:])
	x.scratch = b[:start]
	return sum
}

// ask sends the question. Either somebody is authorized, or the call is refused, or fault says why there is
// no decision.
func (c *forwardCheck) ask(x *Exchange) (a *authorized, v reason.Verdict, fault string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.Timeout))
	defer cancel()
	select {
	case c.authorizer.turns <- struct{}{}:
		defer c.authorizer.turns.give()
	case <-ctx.Done():
		return nil, v, "as many questions as allowed are under way, " + strconv.Itoa(c.Concurrency)
	}
	req, err := http.NewRequestWithContext(ctx, c.Method, c.URL, nil)
	if err != nil {
		return nil, v, "the question cannot be written"
	}
	for _, n := range c.Headers {
		for i := range x.Fields {
			if f := &x.Fields[i]; wire.EqualFold(f.Name, n) {
				req.Header.Add(n, strings.Clone(f.Value)) // a connection may hold on to it after the timeout
			}
		}
	}
	target := x.Path
	if x.HasQuery {
		target += "?" + x.Query
	}
	for _, h := range [][2]string{{"X-Forwarded-Method", x.Method}, {"X-Forwarded-Proto", x.Scheme}, {"X-Forwarded-Host", x.Authority}, {"X-Forwarded-Uri", target}, {"X-Forwarded-For", x.Client.Addr.String()}} {
		req.Header.Set(h[0], strings.Clone(h[1]))
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", "whygate")
	}
	res, err := c.authorizer.client.Do(req)
	if err != nil {
		return nil, v, c.faultOf(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, maxExcerpt+1)) // what came is enough
	io.CopyN(io.Discard, res.Body, maxDrained)                    // so that the connection can be used again
	switch {
	case res.StatusCode >= 500:
		return nil, v, "it answered with the status " + strconv.Itoa(res.StatusCode)
	case res.StatusCode < 200 || res.StatusCode > 299:
		return nil, c.refuse(x, res, text), ""
	}
	return c.authorized(res.Header), v, ""
}

// faultOf puts an error into words.
func (c *forwardCheck) faultOf(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer within " + reason.Span(time.Duration(c.Timeout))
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return excerpt(err.Error(), 300)
}

// authorized reads a 2xx answer.
func (c *forwardCheck) authorized(h http.Header) *authorized {
	a := &authorized{}
	for _, n := range c.Copy {
		for _, v := range h.Values(n) {
			a.fields.Add(n, v)
		}
	}
	for _, n := range c.CopyBack {
		values := h.Values(n)
		for _, v := range values[:min(len(values), maxCookies)] {
			a.back.Add(n, v)
		}
	}
	if c.Subject != "" && h.Get(c.Subject) != "" {
		a.identity = &consumer.Identity{Method: "forward-auth", Subject: excerpt(h.Get(c.Subject), 256), Issuer: c.shown,
			Scopes: listIn(h, c.Scopes), Roles: listIn(h, c.Roles), Groups: listIn(h, c.Groups)}
	}
	return a
}

// listIn reads words with spaces or commas between them.
func listIn(h http.Header, name string) []string {
	if name == "" {
		return nil
	}
	list := strings.FieldsFunc(strings.Join(h.Values(name), ","), func(r rune) bool { return r == ' ' || r == ',' || r == '\t' })
	return list[:min(len(list), maxListed)]
}

// refuse passes on what the authorizer answered, as far as that is set.
func (c *forwardCheck) refuse(x *Exchange, res *http.Response, text []byte) reason.Verdict {
	facts := []reason.Fact{reason.Public("auth_status", res.StatusCode).At(c.at), reason.Rule("authorizer", c.shown), reason.Public("sent", c.sent), x.OwnerFact()}
	if said := strings.TrimSpace(excerpt(string(text), maxExcerpt)); said != "" {
		facts = append(facts, reason.Rule("excerpt", said))
	}
	v := forwardRefused.Refuse(facts...)
	location := res.Header.Get("Location")
	if !slices.Contains(c.Pass, res.StatusCode) || res.StatusCode < 400 && location == "" {
		return v
	}
	v.Status = res.StatusCode
	for i, cookie := range res.Header.Values("Set-Cookie") {
		if i < maxCookies {
			x.Extra.Add("Set-Cookie", cookie)
		}
	}
	if res.StatusCode < 400 {
		x.Extra.Add("Location", location)
	}
	if after := res.Header.Get("Retry-After"); after != "" {
		x.Extra.Put(wire.RetryAfter, after)
	}
	if res.StatusCode == 401 {
		asked := res.Header.Values("WWW-Authenticate")
		if len(asked) == 0 {
			asked = []string{c.challenge}
		}
		x.challenge(asked)
	}
	return v
}

// EditRequest gives the upstream what the authorizer said, and nothing that clients write into its place.
func (c *forwardCheck) EditRequest(x *Exchange, o *wire.Outgoing) {
	c.GuardRequest(o)
	for _, n := range c.Copy {
		for _, f := range x.Onward {
			if wire.EqualFold(f.Name, n) {
				o.Fields = append(o.Fields, f)
			}
		}
	}
}

// GuardRequest keeps what clients write into the place of the authorizer from the upstream.
func (c *forwardCheck) GuardRequest(o *wire.Outgoing) {
	for _, n := range c.Copy {
		o.Fields.Remove(n)
	}
}
