package gateway

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/snapshot"
	"github.com/whygate/whygate/wire"
)

// Question is a call to be explained. It is never made.
type Question struct {
	Method string      `json:"method"`
	URL    string      `json:"url"` // absolute, or a path; then Host comes from the header or is localhost
	Header [][2]string `json:"header,omitempty"`
	Body   int64       `json:"body,omitempty"` // size of the content
	// Content itself, where it is given; then Body is its size.
	Content []byte     `json:"content,omitempty"`
	From    netip.Addr `json:"from,omitzero"` // of the socket; the zero Addr is the loopback address
	At      time.Time  `json:"at,omitzero"`   // zero: now
	// As names an application that is taken to call, with a credential of its own that need not be shown.
	As string `json:"as,omitempty"`
}

// Explanation is what would become of a call, check by check.
type Explanation struct {
	Method string `json:"method"`
	URL    string `json:"url"`
	Path   string `json:"path,omitempty"` // as policies and the upstream see it
	// Passes says that the call would be forwarded; Status is what it would be answered otherwise.
	Passes bool         `json:"passes"`
	Status int          `json:"status,omitempty"`
	Route  *RouteInfo   `json:"route,omitempty"`
	Client string       `json:"client"`
	Hops   []reason.Hop `json:"hops"`
	// Caller is the application that the credentials belong to.
	Caller string       `json:"caller,omitempty"`
	Plan   string       `json:"plan,omitempty"`
	Trail  reason.Trail `json:"trail,omitempty"`
	// Verdict is the first refusal: what the caller would be told.
	Verdict *reason.Verdict `json:"verdict,omitempty"`
	// Obstacles is how many checks would refuse.
	Obstacles int `json:"obstacles"`
	// Ways are sets of changes that make the call pass, the smallest first: one for each set of
	// parties that have to act, where none of them is dispensable.
	Ways []Way `json:"ways,omitempty"`
	// Also are less specific routes that would serve the path.
	Also     []string  `json:"also,omitempty"`
	Forward  string    `json:"forward,omitempty"` // what the upstream would be asked
	Revision uint64    `json:"revision"`
	At       time.Time `json:"at"`

	origin    string // of the API itself, as pages of the web name it
	preflight bool
}

// RouteInfo names the route that serves a call.
type RouteInfo struct {
	API     string         `json:"api"`
	Version string         `json:"version,omitempty"`
	Stage   string         `json:"stage,omitempty"`
	Name    string         `json:"name"`
	Mount   string         `json:"mount,omitempty"`
	Path    string         `json:"path"` // template, mount included
	Source  *reason.Source `json:"source,omitempty"`
}

// Explain says what would become of a call. Counters are peeked at and the upstream is not
// called.
func Explain(s *snapshot.Snapshot, q Question) (*Explanation, error) {
	if q.At.IsZero() {
		q.At = time.Now()
	}
	if q.Method == "" {
		q.Method = "GET"
	}
	if !q.From.IsValid() {
		q.From = netip.MustParseAddr("127.0.0.1")
	}
	if q.As != "" && s.Consumers.Application(q.As) == nil {
		known, _, _ := s.Consumers.Names()
		if near := resource.Nearest(q.As, known); near != "" {
			return nil, fmt.Errorf("there is no application %q; did you mean %q?", q.As, near)
		}
		return nil, fmt.Errorf("there is no application %q", q.As)
	}
	e, err := evaluate(s, q, nil)
	if err != nil {
		return nil, err
	}
	if !e.Passes {
		e.Ways = findWays(s, q, e, searchPatience)
	}
	return e, nil
}

// evaluate runs all checks on a call that is only asked about. pardoned refusals, named by pardonOf, are
// taken not to have happened.
func evaluate(s *snapshot.Snapshot, q Question, pardoned []string) (*Explanation, error) {
	e := &Explanation{Method: q.Method, URL: q.URL, Revision: s.Revision, At: q.At}
	head, tls, err := q.head()
	if err != nil {
		return nil, err
	}
	limits := messageLimits(s)
	req, f := wire.ParseRequest(head, &limits)
	x := &policy.Exchange{Explaining: true}
	if req == nil {
		req = &wire.Request{}
	}
	x.Reset(req, q.At)
	size := q.Body
	if size == 0 {
		size = max(req.Length, 0) // as a Content-Length in the question says
	}
	x.Explaining, x.BodySize = true, size
	x.Content = &asked{x: x, body: q.Content, known: size == int64(len(q.Content))}
	x.Client = s.Trust.Client(q.From, netip.Addr{}, req.Fields)
	x.Route = &noRoute
	x.Scheme = "http"
	if tls {
		x.Scheme = "https"
	}
	e.origin = x.Scheme + "://" + req.Authority
	e.Path, e.Client, e.Hops = strings.Clone(req.Path), x.Client.Addr.String(), x.Hops(s.Trust)
	if f != nil {
		v := malformed(f)
		e.refusedBy(reason.Entry{Check: "request", Kind: "request", Outcome: reason.Denied, Verdict: v}, v.Reason.Status)
		return e, nil
	}
	e.Trail = append(e.Trail, reason.Entry{Check: "request", Kind: "request", Outcome: reason.Passed, Verdict: reason.Pass(reason.Public("path", e.Path))})
	r := s.Match(x)
	if r == nil {
		v := s.Miss(x, func(r *snapshot.Route) bool { return Usable(x, r) }) // what this caller is told; the rest is among the facts
		e.refusedBy(reason.Entry{Check: "route", Kind: "route", Outcome: reason.Denied, Verdict: v}, v.Reason.Status)
		return e, nil
	}
	x.Route = &r.Route
	x.Preflight = isPreflight(x)
	e.preflight = x.Preflight
	e.Route = &RouteInfo{API: r.API, Version: r.Version, Stage: r.Stage, Name: r.Name, Mount: r.Mount, Path: templateOf(r), Source: r.Source}
	e.Trail = append(e.Trail, reason.Entry{Check: "route", Kind: "route", Outcome: reason.Passed, From: r.Source,
		Verdict: reason.Pass(reason.Public("route", r.Name), reason.Public("template", templateOf(r)))})
	e.Also = s.Also(x, r)
	answered := e.checks(asker{x: x, as: s.Consumers.Application(q.As), consumers: s.Consumers}, r, pardoned)
	if x.Application != nil {
		e.Caller = x.Application.Name
	}
	if x.Plan != nil {
		e.Plan = x.Plan.Name
	}
	if e.Passes = e.Verdict == nil; e.Passes && !answered && r.Upstream != nil {
		e.Forward = forwardText(x, r)
	}
	return e, nil
}

// templateOf is what a route serves, mount included. The path / of a mount is the mount itself.
func templateOf(r *snapshot.Route) string {
	if r.Template == "/" && r.Mount != "" {
		return r.Mount
	}
	return r.Mount + r.Template
}

// checks asks every check of the route, up to one that would answer the call by itself.
func (e *Explanation) checks(a asker, r *snapshot.Route, pardoned []string) (answered bool) {
	x := a.x
	defer a.forget()
	for i := range r.Steps {
		s := &r.Steps[i]
		if len(pardoned) > 0 {
			x.Lifted = func(r *reason.Reason) bool { return slices.Contains(pardoned, pardonBy(s.Name, r, s.Source)+goesOn) }
		}
		if entry := a.ask(s); entry.Outcome == reason.Denied && isPardoned(pardoned, pardonOf(entry)) {
			e.Trail = append(e.Trail, entryOf(s, reason.Skipped, reason.Verdict{}))
		} else if entry.Outcome == reason.Denied {
			e.refusedBy(entry, statusOf(r, entry.Verdict))
		} else {
			e.Trail = append(e.Trail, entry)
		}
		if endsPreflight(x, s) {
			if e.Verdict == nil {
				e.Trail = append(e.Trail, reason.Entry{Check: "answer", Kind: "answer", Outcome: reason.Passed, Verdict: reason.Pass(reason.Public("answer", "the preflight is answered here; the checks behind it do not run"))})
			}
			return true
		}
		if a.answered {
			return true
		}
	}
	return false
}

func isPardoned(pardoned []string, name string) bool {
	return slices.ContainsFunc(pardoned, func(p string) bool { return strings.TrimSuffix(p, goesOn) == name })
}

func (e *Explanation) refusedBy(entry reason.Entry, status int) {
	e.Trail = append(e.Trail, entry)
	e.Obstacles++
	if e.Verdict == nil {
		v := entry.Verdict
		e.Verdict, e.Status = &v, status
	}
}

func forwardText(x *policy.Exchange, r *snapshot.Route) string {
	path := x.Path[min(r.Strip, len(x.Path)):]
	if path == "" {
		path = "/"
	}
	o := wire.Outgoing{Method: x.Method, Path: path, Query: x.Query, HasQuery: x.HasQuery}
	for _, e := range r.RequestEdits {
		e.EditRequest(x, &o)
	}
	return fmt.Sprintf("%s %s to upstream %q", o.Method, o.Path, r.Upstream.Name)
}

// head writes the request that the question stands for.
func (q *Question) head() (head []byte, tls bool, err error) {
	target, host := q.URL, "localhost"
	if scheme, rest, ok := strings.Cut(q.URL, "://"); ok && (scheme == "http" || scheme == "https") {
		// Not net/url: what it refuses, such as a bad escape, the gateway has a verdict on.
		tls = scheme == "https"
		end := strings.IndexAny(rest+"/", "/?#")
		if host, target = rest[:end], rest[end:]; strings.Contains(host, "@") {
			return nil, false, fmt.Errorf("the URL %q: leave out user and password", scheme+"://…"+host[strings.LastIndexByte(host, '@'):]+target)
		}
		if target == "" || target[0] != '/' {
			target = "/" + target
		}
	}
	if target == "" || target[0] != '/' && target != "*" {
		return nil, false, fmt.Errorf("the URL %q begins neither with http:// nor with /", q.URL)
	}
	target, _, _ = strings.Cut(target, "#")
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", q.Method, target)
	for _, h := range q.Header {
		if wire.EqualFold(h[0], "Host") {
			host = h[1]
		}
	}
	fmt.Fprintf(&b, "Host: %s\r\n", host)
	framed := false
	for _, h := range q.Header {
		if strings.ContainsAny(h[0]+h[1], "\r\n") {
			return nil, false, fmt.Errorf("the header %q holds a line break", h[0])
		}
		// A length that is written without content stands for content of that length.
		length := wire.EqualFold(h[0], "Content-Length")
		if length && q.Body == 0 || wire.EqualFold(h[0], "Transfer-Encoding") {
			framed = true
		}
		if !wire.EqualFold(h[0], "Host") && (!length || q.Body == 0) {
			fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
		}
	}
	if !framed && (q.Body > 0 || q.Method == "POST" || q.Method == "PUT" || q.Method == "PATCH") { // as clients do (RFC 9110 §8.6)
		fmt.Fprintf(&b, "Content-Length: %d\r\n", q.Body)
	}
	b.WriteString("\r\n")
	return []byte(b.String()), tls, nil
}
