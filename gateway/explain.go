package gateway

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
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
	// Ways are sets of changes that make the call pass, the smallest first.
	Ways []Way `json:"ways,omitempty"`
	// Also are less specific routes that would serve the path.
	Also     []string  `json:"also,omitempty"`
	Forward  string    `json:"forward,omitempty"` // what the upstream would be asked
	Revision uint64    `json:"revision"`
	At       time.Time `json:"at"`
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

// Way is a set of changes after which the call passes. It was tried out with each of them
// made; what a document has to say is taken as done.
type Way struct {
	Changes []reason.Fix `json:"changes"`
	// Complete says that nothing else stands in the way. Where the caller is not known, checks
	// behind the authentication could not be asked.
	Complete bool `json:"complete"`
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
	e, err := evaluate(s, q, nil)
	if err != nil {
		return nil, err
	}
	if !e.Passes {
		e.Ways = findWays(s, q, e)
	}
	return e, nil
}

// evaluate runs all checks on a call that is only asked about. pardoned checks are taken to
// have let it pass.
func evaluate(s *snapshot.Snapshot, q Question, pardoned []string) (*Explanation, error) {
	e := &Explanation{Method: q.Method, URL: q.URL, Revision: s.Revision, At: q.At}
	head, tls, err := q.head()
	if err != nil {
		return nil, err
	}
	cfg := serverConfig(s)
	req, f := wire.ParseRequest(head, &cfg.Limits)
	x := &policy.Exchange{Explaining: true}
	if req == nil {
		req = &wire.Request{}
	}
	x.Reset(req, q.At)
	x.Explaining, x.BodySize = true, q.Body
	x.Content = &asked{x: x, body: q.Content, known: q.Body == int64(len(q.Content))}
	x.Client = s.Trust.Client(q.From, netip.Addr{}, req.Fields)
	x.Route = &noRoute
	x.Scheme = "http"
	if tls {
		x.Scheme = "https"
	}
	e.Path, e.Client, e.Hops = strings.Clone(req.Path), x.Client.Addr.String(), x.Hops(s.Trust)
	if f != nil {
		v := malformed(f)
		e.refusedBy(reason.Entry{Check: "request", Kind: "request", Outcome: reason.Denied, Verdict: v}, v.Reason.Status)
		return e, nil
	}
	if !slices.Contains(pardoned, "request") {
		e.Trail = append(e.Trail, reason.Entry{Check: "request", Kind: "request", Outcome: reason.Passed, Verdict: reason.Pass(reason.Public("path", e.Path))})
	}
	r := s.Match(x)
	if r == nil {
		v := s.Miss(x, func(r *snapshot.Route) bool { return Usable(x, r) }) // what this caller is told; the rest is among the facts
		e.refusedBy(reason.Entry{Check: "route", Kind: "route", Outcome: reason.Denied, Verdict: v}, v.Reason.Status)
		return e, nil
	}
	x.Route = &r.Route
	_, origin := x.Fields.Find(wire.Origin)
	_, asks := x.Fields.Find(wire.AccessControlRequestMethod)
	x.Preflight = x.Method == "OPTIONS" && origin && asks
	e.Route = &RouteInfo{API: r.API, Version: r.Version, Stage: r.Stage, Name: r.Name, Mount: r.Mount, Path: templateOf(r), Source: r.Source}
	e.Trail = append(e.Trail, reason.Entry{Check: "route", Kind: "route", Outcome: reason.Passed, From: r.Source,
		Verdict: reason.Pass(reason.Public("route", r.Name), reason.Public("template", templateOf(r)))})
	e.Also = s.Also(x, r)
	e.checks(x, r, pardoned)
	if x.Application != nil {
		e.Caller = x.Application.Name
	}
	if x.Plan != nil {
		e.Plan = x.Plan.Name
	}
	if e.Passes = e.Verdict == nil; e.Passes && r.Upstream != nil {
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

// checks asks every check of the route.
func (e *Explanation) checks(x *policy.Exchange, r *snapshot.Route, pardoned []string) {
	a := asker{x: x}
	for i := range r.Steps {
		s := &r.Steps[i]
		if slices.Contains(pardoned, s.Name) {
			e.Trail = append(e.Trail, entryOf(s, reason.Skipped, reason.Verdict{}))
			a.refused(s)
		} else if entry := a.ask(s); entry.Outcome == reason.Denied {
			status := entry.StatusCode()
			if r.Legacy && status >= 400 && status < 500 {
				status = 403
			}
			e.refusedBy(entry, status)
		} else {
			e.Trail = append(e.Trail, entry)
		}
		if endsPreflight(x, s) {
			if e.Verdict == nil {
				e.Trail = append(e.Trail, reason.Entry{Check: "answer", Kind: "answer", Outcome: reason.Passed, Verdict: reason.Pass(reason.Public("answer", "the preflight is answered here; the checks behind it do not run"))})
			}
			return
		}
	}
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
	if u, err := url.Parse(q.URL); err == nil && u.Host != "" {
		host, tls = u.Host, u.Scheme == "https"
		i := strings.Index(q.URL, "://") + 3
		if target = q.URL[i+len(u.Host):]; strings.Contains(q.URL[i:], "@") && u.User != nil {
			return nil, false, fmt.Errorf("the URL %q: leave out user and password", q.URL)
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
	for _, h := range q.Header {
		if strings.ContainsAny(h[0]+h[1], "\r\n") {
			return nil, false, fmt.Errorf("the header %q holds a line break", h[0])
		}
		if !wire.EqualFold(h[0], "Host") && !wire.EqualFold(h[0], "Content-Length") {
			fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
		}
	}
	if q.Body > 0 || q.Method == "POST" || q.Method == "PUT" || q.Method == "PATCH" { // as clients do (RFC 9110 §8.6)
		fmt.Fprintf(&b, "Content-Length: %d\r\n", q.Body)
	}
	b.WriteString("\r\n")
	return []byte(b.String()), tls, nil
}

// --- ways out ---

// edit is one change: to the call, or to the verdict of a check when somebody else makes it.
type edit struct {
	fix    reason.Fix
	slot   string // of the call that it changes; a later edit of the same slot replaces an earlier one
	apply  func(q *Question)
	pardon string // the check that would pass then
}

const (
	maxChanges = 5
	maxTrials  = 400 // evaluations per question
)

// findWays searches the smallest sets of changes after which the call passes: the smallest that
// the caller can make alone, and the smallest with the help of others, if it takes no more changes.
func findWays(s *snapshot.Snapshot, q Question, e *Explanation) []Way {
	type state struct {
		q        Question
		pardoned []string
		changes  []edit
		e        *Explanation
	}
	queue := []state{{q: q, e: e}}
	var alone, helped *Way
	seen := map[string]bool{}
	for trials := 0; len(queue) > 0 && trials < maxTrials && (alone == nil || helped == nil); {
		st := queue[0]
		queue = queue[1:]
		if st.e.Verdict == nil {
			w := &Way{Complete: !slices.ContainsFunc(st.e.Trail, func(t reason.Entry) bool { return t.Outcome == reason.Unknown })}
			for _, c := range st.changes {
				w.Changes = append(w.Changes, c.fix)
			}
			own := 0
			for _, f := range w.Changes {
				if f.By == reason.Caller {
					own++
				}
			}
			switch {
			case own == len(w.Changes):
				if alone == nil {
					alone = w
				}
			case helped == nil && (alone == nil || own == 0): // half alone, half helped is worth telling only where nothing else is
				helped = w
			}
			continue
		}
		if len(st.changes) == maxChanges || alone != nil && len(st.changes) >= len(alone.Changes) {
			continue
		}
		for _, ed := range edits(st.e, q.At) {
			next := state{q: st.q, pardoned: st.pardoned}
			for _, c := range st.changes {
				if c.slot == "" || c.slot != ed.slot {
					next.changes = append(next.changes, c)
				}
			}
			next.changes = append(next.changes, ed)
			next.q.Header = slices.Clone(st.q.Header)
			if ed.apply != nil {
				ed.apply(&next.q)
			} else {
				next.pardoned = append(slices.Clone(st.pardoned), ed.pardon)
			}
			key := fmt.Sprint(next.q, next.pardoned, ed.fix.By == reason.Caller)
			if seen[key] {
				continue
			}
			seen[key] = true
			trials++
			var err error
			if next.e, err = evaluate(s, next.q, next.pardoned); err == nil {
				queue = append(queue, next)
			}
		}
	}
	var ways []Way
	for _, w := range []*Way{alone, helped} {
		if w != nil {
			ways = append(ways, *w)
		}
	}
	slices.SortStableFunc(ways, func(a, b Way) int { return cmp.Compare(len(a.Changes), len(b.Changes)) })
	return ways
}

// edits are the changes that could lift the first refusal of an explanation, the caller's own
// first. asked is when the call was to be made to begin with.
func edits(e *Explanation, asked time.Time) []edit {
	v := e.Verdict
	var list []edit
	own := func(slot, text string, apply func(q *Question)) {
		list = append(list, edit{fix: reason.Fix{By: reason.Caller, Text: text}, slot: slot, apply: apply})
	}
	fact := func(name string) string {
		f, ok := v.Facts.Find(name, reason.ToOperator)
		if !ok {
			return ""
		}
		return f.Text()
	}
	value := func(name string) any {
		f, _ := v.Facts.Find(name, reason.ToOperator)
		return f.Value
	}
	switch v.Reason.Code {
	case "route.slash", "route.stage-missing", "route.prefix-doubled", "route.case", "route.none":
		if p := fact("nearest"); strings.HasPrefix(p, "/") && !strings.Contains(p, "{") { // else it is a template
			own("path", "call "+p, func(q *Question) { q.setPath(p) })
		}
	case "route.host":
		if h := fact("nearest_host"); h != "" {
			h = strings.Replace(h, "*", "www", 1)
			own("host", "call "+h, func(q *Question) { q.setHeader("Host", h) })
		}
	case "route.method", "method.not-allowed":
		allowed, _ := value("allowed").([]string)
		likely := []string{"POST", "PUT", "PATCH", "GET", "DELETE"} // in place of one that changes something
		if e.Method == "GET" || e.Method == "HEAD" {
			likely = []string{"GET", "POST", "PUT", "PATCH", "DELETE"}
		}
		for _, m := range likely {
			if slices.Contains(allowed, m) {
				own("method", "use "+m, func(q *Question) { q.Method = m })
			}
		}
	case "route.version-retired", "route.version-unknown":
		if p := fact("nearest"); p != "" {
			own("path", "call "+p, func(q *Question) { q.setPath(p) })
		}
		h := fact("header")
		if vs, _ := value("versions").([]string); len(vs) > 0 && h != "" {
			newest := vs[len(vs)-1]
			own("version", "send "+h+": "+newest, func(q *Question) { q.setHeader(h, newest) })
		}
	case "size.body":
		if n, ok := value("limit").(reason.Bytes); ok {
			own("body", "send at most "+n.String(), func(q *Question) { q.Body = int64(n) })
		}
	case "quota.exceeded":
		if t, ok := value("reset").(time.Time); ok {
			own("time", "call after "+reason.Stamp(t), func(q *Question) { q.At = t.Add(time.Second) })
		}
	case "rate-limit.exceeded":
		if d, _ := value("retry_after").(time.Duration); d > 0 {
			at := e.At.Add(d)
			own("time", "wait "+reason.Span(at.Sub(asked)), func(q *Question) { q.At = at.Add(time.Second) })
		}
	case "key.not-yet-valid", "basic.not-yet-valid", "hmac.not-yet-valid", "mtls.not-yet-valid", "mtls.credential-not-yet-valid", "subscription.not-yet-valid":
		if t, ok := value("from").(time.Time); ok {
			own("time", "call after "+reason.Stamp(t), func(q *Question) { q.At = t.Add(time.Second) })
		}
	case "maintenance.active":
		if t, ok := value("until").(time.Time); ok {
			own("time", "call after "+reason.Stamp(t), func(q *Question) { q.At = t.Add(time.Second) })
		}
	case "ip-access.not-allowed":
		if nets, _ := value("allowed").([]string); len(nets) > 0 {
			if p, err := netip.ParsePrefix(nets[0]); err == nil {
				own("address", "call from "+nets[0], func(q *Question) {
					q.From = p.Addr()
					q.dropHeader("X-Forwarded-For")
				})
			}
		}
	case "cors.header":
		if h := fact("header"); h != "" {
			own("", "do not send the header "+h, func(q *Question) { q.dropToken("Access-Control-Request-Headers", h) })
		}
	}
	if p := fact("open_path"); p != "" && e.Route != nil {
		p += e.Path[min(len(e.Route.Mount), len(e.Path)):]
		own("path", fmt.Sprintf("call stage %q at %s, where the plan %q needs no approval", fact("open_stage"), p, fact("open_plan")), func(q *Question) { q.setPath(p) })
	}
	check := e.refusing()
	if check == "request" || check == "route" {
		return list
	}
	// What cannot be tried out is taken as done: the caller's own remedy where nothing better was
	// found, and the first one of somebody else.
	tried := len(list) > 0 || v.Reason.Code == "maintenance.active"
	lifted := v.Reason.Code == "maintenance.active" // asking when it ends does not end it
	for _, f := range v.Tell(reason.ToOperator).Fixes {
		switch {
		case f.By == reason.Caller && !tried:
			list, tried = append(list, edit{fix: f, pardon: check}), true
		case f.By != reason.Caller && !lifted:
			list, lifted = append(list, edit{fix: f, pardon: check}), true
		}
	}
	return list
}

// refusing is the name of the check that refused first.
func (e *Explanation) refusing() string {
	for _, t := range e.Trail {
		if t.Outcome == reason.Denied {
			return t.Check
		}
	}
	return ""
}

func (q *Question) setPath(p string) {
	_, query, has := strings.Cut(q.URL, "?")
	base := ""
	if i := strings.Index(q.URL, "://"); i > 0 {
		rest := q.URL[i+3:]
		if end := strings.IndexAny(rest, "/?#"); end >= 0 {
			rest = rest[:end]
		}
		base = q.URL[:i+3] + rest
	}
	q.URL = base + p
	if has {
		q.URL += "?" + query
	}
}

func (q *Question) setHeader(name, value string) {
	q.dropHeader(name)
	if wire.EqualFold(name, "Host") {
		if i := strings.Index(q.URL, "://"); i > 0 {
			rest := q.URL[i+3:]
			end := strings.IndexAny(rest, "/?#")
			if end < 0 {
				end = len(rest)
			}
			q.URL = q.URL[:i+3] + value + rest[end:]
			return
		}
	}
	q.Header = append(q.Header, [2]string{name, value})
}

func (q *Question) dropHeader(name string) {
	q.Header = slices.DeleteFunc(q.Header, func(h [2]string) bool { return wire.EqualFold(h[0], name) })
}

func (q *Question) dropToken(name, token string) {
	for i, h := range q.Header {
		if !wire.EqualFold(h[0], name) {
			continue
		}
		var kept []string
		for part := range strings.SplitSeq(h[1], ",") {
			if p := strings.TrimSpace(part); !wire.EqualFold(p, token) {
				kept = append(kept, p)
			}
		}
		q.Header[i][1] = strings.Join(kept, ", ")
	}
}
