package gateway

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/snapshot"
	"github.com/whygate/whygate/wire"
)

// Way is a set of changes after which the call passes. It was tried out with each of them
// made; what a document has to say is taken as done, and so is what only the caller can know, such as a
// valid credential.
type Way struct {
	// By are the parties that have to act, the caller first.
	By      []reason.Party `json:"by"`
	Changes []reason.Fix   `json:"changes"`
	// Complete says that nothing else stands in the way. Where the caller or the content is not known,
	// checks that depend on it could not be asked.
	Complete bool `json:"complete"`
	// Open are the names of those checks.
	Open []string `json:"open,omitempty"`

	edits []edit
}

// edit is one change: to the call, or to the verdict of a check when somebody else makes it.
type edit struct {
	fix    reason.Fix
	slot   string // of the call that it changes; a later edit of the same slot replaces an earlier one
	apply  func(q *Question)
	pardon string // the refusal that would not happen then
}

// goesOn marks the pardon of a refusal that an owner or operator would make not happen: the check then goes on with
// what else it looks at. Where the caller would come with another credential or content, nothing more is known of it.
const goesOn = "\x00goes on"

// pardonOf names a refusal by a check in all its routes. The check's name alone would not do: with another
// method or path the call meets other checks of that name, and one check may have several things to refuse.
func pardonOf(refused reason.Entry) string {
	return pardonBy(refused.Check, refused.Reason, refused.From)
}

func pardonBy(check string, r *reason.Reason, from *reason.Source) string {
	name := check + "\x00" + r.Code
	if from != nil {
		name += "\x00" + from.Document + "\x00" + from.Field
	}
	return name
}

// maxChanges is how many changes a way has at most.
const maxChanges = 48

// patience is for one search: evaluations, and the time of them together where single checks are slow, as comparing
// passwords is.
type patience struct {
	trials int
	time   time.Duration
}

var searchPatience = patience{1500, 3 * time.Second}

// attempt is a call with some changes made.
type attempt struct {
	q        Question
	pardoned []string
	edits    []edit
	e        *Explanation
}

// by is the set of parties that make the changes.
func (a *attempt) by() (set uint) {
	for _, ed := range a.edits {
		set |= 1 << ed.fix.By
	}
	return set
}

// others is how many of the changes the caller has to ask for.
func (a *attempt) others() int { return others(a.edits) }

func others(edits []edit) (n int) {
	for _, ed := range edits {
		if ed.fix.By != reason.Caller {
			n++
		}
	}
	return n
}

// spares says that a set of parties does without some of another one. The caller, who wants to know, is
// spared nothing.
func spares(by, other uint) bool {
	return by&^other == 0 && by != other && by|1<<reason.Caller != other
}

// cost is how many changes are made, and of them those that the caller has to ask for.
func (a *attempt) cost() (changes, asked int) { return len(a.edits), a.others() }

// dearer says that another attempt comes to the same with less: by no other parties, with fewer changes, or with as
// many of which the caller has to ask for fewer.
func (a *attempt) dearer(than *attempt) bool {
	n, asked := a.cost()
	m, asked2 := than.cost()
	return than.by()&^a.by() == 0 && asked2 <= asked && m <= n || than.by() == a.by() && (m < n || m == n && asked2 <= asked)
}

// rest is what still stands in the way, and what is known of the checks behind it. Which changes help from there on
// depends on nothing else.
func (a *attempt) rest() string {
	var b strings.Builder
	if a.e.Route != nil {
		b.WriteString(a.e.Route.API + "\x00" + a.e.Route.Version + "\x00" + a.e.Route.Stage + "\x00" + a.e.Route.Name)
	}
	i := slices.IndexFunc(a.e.Trail, func(t reason.Entry) bool { return t.Outcome == reason.Denied })
	for _, t := range a.e.Trail[max(i, 0):] {
		b.WriteString("\x00" + t.Check + "\x00" + string(t.Outcome))
		if !t.Refused() {
			continue
		}
		b.WriteString("\x00" + t.Reason.Code)
		for _, f := range t.Facts {
			b.WriteString("\x00" + f.Name + "\x00" + f.Text())
		}
	}
	return b.String()
}

// with is the call with one more change. It begins with the call that was asked about, so that nothing is
// left of a change that another one replaces.
func (a *attempt) with(asked Question, ed edit) *attempt {
	next := &attempt{q: asked}
	for _, c := range a.edits {
		if c.slot == "" || c.slot != ed.slot {
			next.edits = append(next.edits, c)
		}
	}
	next.edits = append(next.edits, ed)
	next.q.Header = slices.Clone(asked.Header)
	for _, c := range next.edits {
		if c.apply != nil {
			c.apply(&next.q)
		} else {
			next.pardoned = append(next.pardoned, c.pardon)
		}
	}
	return next
}

// without leaves out changes that a later one has made needless.
func (a *attempt) without(s *snapshot.Snapshot, asked Question) *attempt {
	for i := 0; i < len(a.edits) && len(a.edits) > 1; i++ {
		less := &attempt{q: asked}
		for j, ed := range a.edits {
			if j != i {
				less = less.with(asked, ed)
			}
		}
		if e, err := evaluate(s, less.q, less.pardoned); err == nil && e.Passes {
			less.e = e
			return less.without(s, asked)
		}
	}
	return a
}

func (a *attempt) way() Way {
	w := Way{edits: a.edits}
	for _, t := range a.e.Trail {
		if t.Outcome == reason.Unknown {
			w.Open = append(w.Open, t.Check)
		}
	}
	w.Complete = w.Open == nil
	for _, ed := range a.edits {
		w.Changes = append(w.Changes, ed.fix)
		if !slices.Contains(w.By, ed.fix.By) {
			w.By = append(w.By, ed.fix.By)
		}
	}
	slices.Sort(w.By)
	return w
}

// findWays searches the smallest sets of changes after which the call passes, one for each set of parties
// that can make them. A way that needs a party is not told where the others of it can do without, but that
// the caller may take part to ask others for less.
//
// It goes from the refused call to those with one more change, always of the first check that refuses, and
// looks at attempts with few changes first. Of several attempts after which the same stands in the way it goes on with
// the cheapest, so that the work grows with the obstacles and not with their combinations. If it takes too long all the
// same, one way is told that may not be the smallest, but has no change that could be left out.
func findWays(s *snapshot.Snapshot, q Question, e *Explanation, most patience) []Way {
	var found []*attempt
	superfluous := func(by uint, changes int) bool {
		return slices.ContainsFunc(found, func(f *attempt) bool {
			return f.by() == by && len(f.edits) <= changes || spares(f.by(), by)
		})
	}
	open := []*attempt{{q: q, e: e}}
	seen := map[string][]*attempt{}
	began, trials := time.Now(), 0
	spent := func() bool { return trials >= most.trials || time.Since(began) > most.time }
	for len(open) > 0 && !spent() {
		i := cheapest(open)
		a := open[i]
		open = slices.Delete(open, i, i+1)
		if superfluous(a.by(), len(a.edits)) {
			continue
		}
		if a.e.Verdict == nil {
			if a = a.without(s, q); !superfluous(a.by(), len(a.edits)) {
				found = append(found, a)
			}
			continue
		}
		for _, ed := range edits(a.e, q.At) {
			next := a.with(q, ed)
			if len(next.edits) > maxChanges || superfluous(next.by(), len(next.edits)) || spent() {
				continue
			}
			trials++
			var err error
			if next.e, err = evaluate(s, next.q, next.pardoned); err != nil {
				continue
			}
			rest := next.rest()
			if !slices.ContainsFunc(seen[rest], next.dearer) {
				seen[rest] = append(seen[rest], next)
				open = append(open, next)
			}
		}
	}
	if len(found) == 0 && len(open) > 0 {
		if a := open[furthest(open)].finish(s, q); a != nil {
			found = append(found, a)
		}
	}
	var ways []Way
	for _, a := range found {
		if !slices.ContainsFunc(found, func(f *attempt) bool {
			return f.by() == a.by() && len(f.edits) < len(a.edits) || spares(f.by(), a.by()) ||
				f.by()|1<<reason.Caller == a.by() && f.by() != a.by() && f.others() <= a.others()
		}) {
			ways = append(ways, a.way())
		}
	}
	slices.SortStableFunc(ways, func(a, b Way) int {
		return cmp.Or(cmp.Compare(len(a.Changes), len(b.Changes)), cmp.Compare(others(a.edits), others(b.edits)), slices.Compare(a.By, b.By))
	})
	return ways
}

// cheapest is the place of the first attempt with the fewest changes.
func cheapest(open []*attempt) (best int) {
	for i, a := range open {
		n, asked := a.cost()
		if m, asked2 := open[best].cost(); n < m || n == m && asked < asked2 {
			best = i
		}
	}
	return best
}

// furthest is the place of the first attempt with the fewest obstacles left.
func furthest(open []*attempt) (best int) {
	for i, a := range open {
		if a.e.Obstacles < open[best].e.Obstacles {
			best = i
		}
	}
	return best
}

// finish removes one obstacle after the other by the first change that does, without looking for better ones; nil if
// that does not lead to a call that passes.
func (a *attempt) finish(s *snapshot.Snapshot, asked Question) *attempt {
	for a.e.Verdict != nil {
		list := edits(a.e, asked.At)
		if len(list) == 0 || len(a.edits) == maxChanges {
			return nil
		}
		next := a.with(asked, list[0])
		for _, ed := range list[1:] {
			if len(next.edits) <= len(a.edits) { // it replaces a change, and might go round for ever
				next = a.with(asked, ed)
			}
		}
		if len(next.edits) <= len(a.edits) {
			return nil
		}
		var err error
		if next.e, err = evaluate(s, next.q, next.pardoned); err != nil {
			return nil
		}
		a = next
	}
	return a.without(s, asked)
}

// edits are the changes that could lift the first refusal of an explanation, the caller's own
// first. at is when the call was to be made to begin with.
func edits(e *Explanation, at time.Time) []edit {
	v := e.Verdict
	var list []edit
	var needless uint // parties whose remedy is none
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
			own("body", "send at most "+n.String(), func(q *Question) { q.Body, q.Content = int64(n), nil })
		}
	case "content.too-large":
		if n, ok := value("limit").(reason.Bytes); ok {
			own("body", "send a body of at most "+n.String(), func(q *Question) { q.Body, q.Content = int64(n), nil })
		}
	case "json.malformed", "schema.malformed", "transform.not-json", "rule.body-unreadable": // one body is corrected for all checks that read it
		for _, f := range v.Tell(reason.ToOperator).Fixes {
			if f.By == reason.Caller {
				unreadable := v.Reason.Code == "rule.body-unreadable"
				own("content", f.Text, func(q *Question) {
					q.Content, q.Body = nil, max(q.Body, 1)
					if unreadable {
						q.setHeader("Content-Type", "application/json")
					}
				})
				break
			}
		}
	case "content-type.not-allowed", "content-type.missing", "transform.content-type", "schema.media-type":
		t := fact("example")
		switch v.Reason.Code {
		case "transform.content-type":
			t = "application/json"
		case "schema.media-type":
			t = fact("wanted")
		}
		if strings.Count(t, "/") == 1 && !strings.ContainsAny(t, " ,*") || strings.Contains(t, "; charset=") { // one type

			own("content-type", "send a body with Content-Type: "+t, func(q *Question) { q.setHeader("Content-Type", t) })
		}
	case "csrf.foreign-origin", "hotlink.foreign", "hotlink.empty", "cors.origin":
		if e.preflight { // the page that asks is the one that is there
			break
		}
		own("page", "make the call from a page of "+e.origin, func(q *Question) {
			q.dropHeader("Origin")
			q.dropHeader("Sec-Fetch-Site")
			q.setHeader("Referer", e.origin+"/")
		})
	case "csrf.missing-token":
		place, _, _ := strings.Cut(fact("places"), " or ")
		if h, ok := strings.CutPrefix(place, "header "); ok {
			cookie := fact("cookie")
			own("csrf", "send the token of the cookie "+cookie+" in header "+h, func(q *Question) { q.setHeader(h, q.cookie(cookie)) })
		}
	case "bot.no-user-agent":
		own("agent", "send the header User-Agent with a name, such as my-program/1.0", func(q *Question) { q.setHeader("User-Agent", "my-program/1.0") })
	case "mock.no-such-answer":
		own("prefer", "send no Prefer", func(q *Question) { q.dropHeader("Prefer") })
	case "quota.exceeded":
		if t, ok := value("reset").(time.Time); ok {
			own("time", "call after "+reason.Stamp(t), func(q *Question) { q.At = t.Add(time.Second) })
		}
	case "rate-limit.exceeded":
		if d, _ := value("retry_after").(time.Duration); d > 0 {
			then := e.At.Add(d)
			own("time", "wait "+reason.Span(then.Sub(at)), func(q *Question) { q.At = then.Add(time.Second) })
		}
	case "key.not-yet-valid", "basic.not-yet-valid", "hmac.not-yet-valid", "mtls.not-yet-valid", "mtls.credential-not-yet-valid", "subscription.not-yet-valid":
		if t, ok := value("from").(time.Time); ok {
			own("time", "call after "+reason.Stamp(t), func(q *Question) { q.At = t.Add(time.Second) })
		}
	case "maintenance.active": // to call again is no remedy where nobody says when
		needless = 1 << reason.Caller
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
	refused := e.refusing()
	if refused.Check == "request" || refused.Check == "route" {
		return list
	}
	pardon := pardonOf(refused)
	// What cannot be tried out is taken as done: the caller's own remedy where nothing better was
	// found, and the first one of each other party.
	asked := needless
	if len(list) > 0 {
		asked |= 1 << reason.Caller
	}
	for _, f := range v.Tell(reason.ToOperator).Fixes {
		if asked&(1<<f.By) == 0 {
			asked |= 1 << f.By
			ed := edit{fix: f, pardon: pardon}
			if f.By == reason.Owner || f.By == reason.Operator {
				ed.pardon += goesOn
			}
			list = append(list, ed)
		}
	}
	return list
}

// refusing is the first check that refused.
func (e *Explanation) refusing() (first reason.Entry) {
	if i := slices.IndexFunc(e.Trail, func(t reason.Entry) bool { return t.Outcome == reason.Denied }); i >= 0 {
		first = e.Trail[i]
	}
	return first
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

// cookie is the first value of a cookie.
func (q *Question) cookie(name string) string {
	for _, h := range q.Header {
		if !wire.EqualFold(h[0], "Cookie") {
			continue
		}
		for part := range strings.SplitSeq(h[1], ";") {
			if n, v, ok := strings.Cut(strings.TrimSpace(part), "="); ok && n == name {
				return v
			}
		}
	}
	return ""
}
