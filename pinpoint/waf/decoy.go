package waf

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// What the remote oracles stop for.
var (
	// ErrAccepted says that something answered with success where nothing should be: the search must not go on.
	ErrAccepted = errors.New("the decoy was accepted: something answers there with success, so nothing more is sent")
	// ErrCreates says that the method creates what it names, so that a decoy path is none.
	ErrCreates = errors.New("the method could create something at the decoy path, so nothing is sent")
	// ErrNoCredential says that there is no credential whose removal would make the request fail.
	ErrNoCredential = errors.New("the request carries no credential, so that it may take effect without one; nothing is sent")
)

// judge compares answers with the refusal of the original.
type judge struct {
	send      pinpoint.Sender
	signature func(*pinpoint.Answer) string
	refusal   string
	wait      time.Duration
	real      bool // the path is the real one
}

// Wait is how long the server asked to wait in its last unclear answer.
func (j *judge) Wait() time.Duration { return j.wait }

// ask sends a request. A later hop says that there is nothing here (404, 405), that it cannot be read (400, 415,
// 422), or asks for a login; success must not be.
func (j *judge) ask(ctx context.Context, r *pinpoint.Request) (Outcome, error) {
	a, err := j.send.Send(ctx, r)
	if err != nil {
		return UNCLEAR, err
	}
	j.wait = 0
	if a == nil {
		return UNCLEAR, nil
	}
	if s := a.Header.Value("Retry-After"); s != "" {
		if n, err := strconv.Atoi(strings.TrimSpace(s)); err == nil && n >= 0 {
			j.wait = time.Duration(min(n, 86400)) * time.Second
		} else if t, err := http.ParseTime(s); err == nil && !a.At.IsZero() {
			j.wait = max(0, t.Sub(a.At))
		}
	}
	safe := r.Method == "" || r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
	switch {
	case a.Status == 0 || a.Err != "":
		return UNCLEAR, nil
	case j.signature(a) == j.refusal && (a.Status != 429 && a.Status != 503 || j.wait == 0):
		return BLOCK, nil
	case !safe && a.Status >= 200 && a.Status < 400 && !j.turnedAway(a):
		return UNCLEAR, ErrAccepted
	case a.Status < 400, a.Status == 400, a.Status == 401, a.Status == 404, a.Status == 405, a.Status == 410, a.Status == 415, a.Status == 422:
		return PASS, nil
	}
	return UNCLEAR, nil
}

// turnedAway says that a redirect shows that nothing happened: to a login, and at a decoy to another spelling of the
// path. One to See Other (RFC 9110 section 15.4.4) may follow a success.
func (j *judge) turnedAway(a *pinpoint.Answer) bool {
	to := strings.ToLower(a.Header.Value("Location"))
	for _, word := range []string{"login", "signin", "sign-in", "sign_in", "logon", "auth", "sso", "saml"} {
		if a.Status >= 300 && strings.Contains(to, word) {
			return true
		}
	}
	return !j.real && a.Status >= 300 && a.Status != 303
}

// Decoy asks the firewall at a path beside the real one that does not exist: a firewall judges before anything is
// routed. The real path is never called.
type Decoy struct {
	judge
	prefix string // of the URL: all but the query
	n      int
}

// NewDecoy is for the request that was refused with an answer. signature makes equal texts of equal refusals.
func NewDecoy(send pinpoint.Sender, original *pinpoint.Request, refusal *pinpoint.Answer, signature func(*pinpoint.Answer) string) (*Decoy, error) {
	switch strings.ToUpper(original.Method) {
	case "PUT", "MKCOL", "COPY", "MOVE", "LINK":
		return nil, ErrCreates
	case "CONNECT", "TRACE":
		return nil, fmt.Errorf("there is no decoy for %s", original.Method)
	}
	if refusal == nil || refusal.Status == 0 {
		return nil, errors.New("the refusal is not known, so answers cannot be compared with it")
	}
	at := strings.Index(original.URL, "://")
	if at < 0 {
		return nil, errors.New("the URL is not absolute")
	}
	prefix, _, _ := strings.Cut(original.URL, "#")
	prefix, _, _ = strings.Cut(prefix, "?")
	if i := strings.LastIndexByte(prefix, '/'); i >= at+3 {
		prefix = prefix[:i]
	}
	var random [6]byte
	rand.Read(random[:])
	return &Decoy{judge: judge{send: send, signature: signature, refusal: signature(refusal)}, prefix: prefix + "/whygate-probe-" + hex.EncodeToString(random[:])}, nil
}

// Prefix is what all URLs that are called begin with.
func (d *Decoy) Prefix() string { return d.prefix }

// Covers says which components reach the firewall: the path does not.
func (d *Decoy) Covers(c Component) bool { return c != Path }

// Test sends the request to the decoy.
func (d *Decoy) Test(ctx context.Context, r *pinpoint.Request) (Outcome, error) {
	return d.ask(ctx, d.move(r))
}

func (d *Decoy) move(r *pinpoint.Request) *pinpoint.Request {
	q := r.Clone()
	q.URL = d.prefix
	if r.Method == "GET" || r.Method == "HEAD" || r.Method == "" { // of which caches keep answers
		d.n++
		q.URL += "-" + strconv.Itoa(d.n)
		if !q.Header.Has("Cache-Control") {
			q.Header = append(q.Header, pinpoint.Field{Name: "Cache-Control", Value: "no-cache"})
		}
	}
	if _, query, ok := strings.Cut(r.URL, "?"); ok {
		q.URL += "?" + query
	}
	return q
}

// NoCredential asks at the real path without credentials, where the application asks for them before it does
// anything. A success ends it at once: then the endpoint takes requests from anybody.
type NoCredential struct{ judge }

// credentials are header fields that carry them.
var credentials = []string{"Authorization", "Proxy-Authorization", "Cookie", "X-Api-Key", "Api-Key", "X-Auth-Token", "X-Access-Token", "X-Amz-Security-Token"}

// NewNoCredential is for the request that was refused with an answer.
func NewNoCredential(send pinpoint.Sender, original *pinpoint.Request, refusal *pinpoint.Answer, signature func(*pinpoint.Answer) string) (*NoCredential, error) {
	if len(original.Header.Without(credentials...)) == len(original.Header) {
		return nil, ErrNoCredential
	}
	if refusal == nil || refusal.Status == 0 {
		return nil, errors.New("the refusal is not known, so answers cannot be compared with it")
	}
	return &NoCredential{judge{send: send, signature: signature, refusal: signature(refusal), real: true}}, nil
}

// Covers says which components reach the firewall: cookies do not.
func (o *NoCredential) Covers(c Component) bool { return c != Cookie }

// Test sends the request without credentials.
func (o *NoCredential) Test(ctx context.Context, r *pinpoint.Request) (Outcome, error) {
	q := r.Clone()
	q.Header = q.Header.Without(credentials...)
	return o.ask(ctx, q)
}

// Transposed asks with GET at a decoy path, with the values of the body as query parameters of the same names.
// Rules for queries and bodies differ: it is worth something only where the full request is refused this way, too.
type Transposed struct{ Decoy }

// NewTransposed is for the request that was refused with an answer.
func NewTransposed(send pinpoint.Sender, original *pinpoint.Request, refusal *pinpoint.Answer, signature func(*pinpoint.Answer) string) (*Transposed, error) {
	get := original.Clone()
	get.Method = "GET"
	d, err := NewDecoy(send, get, refusal, signature)
	if err != nil {
		return nil, err
	}
	return &Transposed{*d}, nil
}

const maxQuery = 7 << 10

// Test sends the values in the query.
func (o *Transposed) Test(ctx context.Context, r *pinpoint.Request) (Outcome, error) {
	m := Take(r)
	var query []string
	size := 0
	for i := range m.Leaves {
		l := &m.Leaves[i]
		if l.Component != Body || l.Kind == "name" {
			continue
		}
		name := l.Name[strings.LastIndexByte(l.Name, '/')+1:]
		if name == "" {
			name = "body"
		}
		pair := url.QueryEscape(name) + "=" + escapeValue(l.Text(0, len(l.units)))
		if size += len(pair) + 1; size > maxQuery {
			return UNCLEAR, errors.New("the values are too long for a query")
		}
		query = append(query, pair)
	}
	q := r.Clone()
	q.Method, q.Body = "GET", nil
	q.Header = q.Header.Without("Content-Type", "Content-Length", "Content-Encoding", "Transfer-Encoding", "Expect")
	if len(query) > 0 {
		if strings.Contains(q.URL, "?") {
			q.URL += "&" + strings.Join(query, "&")
		} else {
			q.URL += "?" + strings.Join(query, "&")
		}
	}
	return o.Decoy.Test(ctx, q)
}

// escapeValue escapes all but placeholders, which become secrets when they are sent.
func escapeValue(s string) string {
	var b strings.Builder
	at := 0
	for _, p := range placeholder.FindAllStringIndex(s, -1) {
		b.WriteString(url.QueryEscape(s[at:p[0]]) + s[p[0]:p[1]])
		at = p[1]
	}
	return b.String() + url.QueryEscape(s[at:])
}
