package gateway

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/pinpoint"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/snapshot"
)

// finder is a Recorder that can be asked. *calllog.Journal is one.
type finder interface {
	Find(id calllog.ID) (calllog.Record, bool, error)
}

// Lookup is what /.well-known/whygate/calls/{id} tells of a recorded call. Who knows the id alone reads what a manual
// would say; who shows the credential of the application that made the call, what that caller may know.
type Lookup struct {
	Call    string    `json:"call"`
	At      time.Time `json:"at"`
	Status  int       `json:"status"`
	Outcome string    `json:"outcome"` // as in the admin API: allowed, relayed, refused, failed or answered
	Tier    string    `json:"tier"`    // how much is told
	// RefusedBy is "gateway" or "upstream" where Status is 400 or more.
	RefusedBy string       `json:"refusedBy,omitempty"`
	Told      *reason.Told `json:"told,omitempty"`

	// For the caller alone.
	Method      string `json:"method,omitempty"`
	Path        string `json:"path,omitempty"`
	Application string `json:"application,omitempty"`
	// Upstream is who seems to have refused behind the gateway, and why.
	Upstream *Attribution `json:"upstream,omitempty"`
}

// Attribution is a Refuser in words, without what it was made of.
type Attribution struct {
	Product string `json:"product"`
	Cause   string `json:"cause,omitempty"`
	Title   string `json:"title,omitempty"`
}

// outcomes are the names of outcomes in JSON and on the command line.
var outcomes = [...]string{calllog.Allowed: "allowed", calllog.Relayed: "relayed", calllog.Refused: "refused", calllog.Failed: "failed", calllog.Answered: "answered"}

// Outcomes are the names of all outcomes.
func Outcomes() []string { return outcomes[:] }

// OutcomeName is the name of one.
func OutcomeName(o calllog.Outcome) string {
	if int(o) < len(outcomes) {
		return outcomes[o]
	}
	return "unknown"
}

var (
	lookupUnknown = reason.New(reason.Reason{
		Code: "call.unknown", Status: 404,
		Title:  "No record of this call is told here",
		Says:   "this node tells nothing of a call with this id",
		Wanted: "the id of a recorded call, from the field Whygate-Call of its answer",
		Seen:   "[{why}]",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "send the whole id, to the node that answered the call; records are kept for some time only"},
			{By: reason.Operator, Text: "ask the operator, who finds it with whygate why"},
		},
		Hint: "records.keepFor of the Gateway bounds how long records are kept, disclosure whether they are told",
	})
	lookupBusy = reason.New(reason.Reason{
		Code: "call.lookups", Status: 429,
		Title:  "Too many records are being looked up",
		Says:   "this node looks up {limit} records a second, and others were faster",
		Wanted: "at most {limit} lookups a second",
		Seen:   "more",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "wait {retry_after}"}},
		Hint:   "the bound is that of the node, so that nobody makes it read its records all day",
	})
)

// lookups is a token bucket for the whole node: reading records costs more than serving calls.
type lookups struct {
	mu     sync.Mutex // guards what follows
	tokens float64
	last   time.Time
}

const (
	lookupsPerSecond = 10
	lookupsAtOnce    = 20
)

func (b *lookups) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last.IsZero() {
		b.tokens, b.last = lookupsAtOnce, now
	}
	if d := now.Sub(b.last); d > 0 {
		b.tokens, b.last = min(lookupsAtOnce, b.tokens+d.Seconds()*lookupsPerSecond), now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// lookup finds a recorded call and says how much of it this caller may read; a verdict that refuses says why nothing is told.
func (c *call) lookup(text string) (*Lookup, reason.Verdict) {
	id, err := calllog.ParseID(text)
	journal, ok := c.g.Journal.(finder)
	switch {
	case c.silent() || !ok:
		return nil, lookupUnknown.Refuse(reason.Inner("why", "disclosure tells nobody anything, or no records are kept"))
	case err != nil:
		return nil, lookupUnknown.Refuse(reason.Public("why", "what stands there is no call id"))
	case id.Node() != c.g.nodeID || id.Time().After(c.w.Start.Add(time.Minute)): // no file need be read to know that
		return nil, lookupUnknown.Refuse(reason.Public("why", "an id that this node has not made"))
	case !c.g.lookups.take(c.w.Start):
		return nil, lookupBusy.Refuse(reason.Public("limit", lookupsPerSecond), reason.Public("retry_after", time.Second))
	}
	rec, found, err := journal.Find(id)
	if err != nil {
		c.g.Log.Error("looking up a call failed", "call", id, "error", err)
	}
	if err != nil || !found {
		return nil, lookupUnknown.Refuse(reason.Public("why", "no record with this id"))
	}
	return c.tell(&rec), reason.Verdict{}
}

// silent says that the documents tell nobody more than strangers are told: then records are told to nobody.
func (c *call) silent() bool {
	d := &c.snap.Gateway.Disclosure
	least := reason.ToAnyone.String()
	return d.Anonymous == least && d.Caller == least && d.Owner == least
}

// tell puts a record into words for this caller.
func (c *call) tell(rec *calllog.Record) *Lookup {
	tier := reason.ToAnyone
	if rec.Application != "" && c.applicationFor(rec) == rec.Application {
		var t reason.Tier
		if t.UnmarshalText([]byte(c.snap.Gateway.Disclosure.Caller)) == nil {
			tier = min(t, reason.ToCaller)
		}
	}
	l := &Lookup{Call: rec.ID.String(), At: rec.Start.UTC(), Status: int(rec.Status), Outcome: OutcomeName(rec.Outcome), Tier: tier.String()}
	d, err := DecodeDetail(rec.Detail)
	if err != nil {
		d = Detail{}
	}
	if rec.Status >= 400 {
		l.RefusedBy = "gateway"
		if rec.Outcome == calllog.Relayed {
			l.RefusedBy = "upstream"
		}
	}
	if d.Verdict != nil && d.Verdict.Reason != nil {
		v := *d.Verdict
		if tier < reason.ToCaller && c.x.Client.Addr != rec.Client {
			v.Facts = withoutAddress(v.Facts, rec.Client)
		}
		told := v.Tell(tier)
		l.Told = &told
	}
	if tier < reason.ToCaller {
		return l
	}
	l.Method, l.Path, l.Application = rec.Method, rec.Path, rec.Application
	if r := d.Refuser; r != nil {
		l.Upstream = &Attribution{Product: r.Product, Cause: r.Cause}
		if k, ok := pinpoint.CauseByID(r.Cause); ok {
			l.Upstream.Title = k.Title
		}
	}
	return l
}

// withoutAddress leaves what holds the address of who made a call to those who may know who that was: whoever is
// refused may read their own address, but an id of a call is handed around.
func withoutAddress(facts reason.Facts, a netip.Addr) reason.Facts {
	text := a.String()
	facts = slices.Clone(facts)
	for i := range facts {
		if f := &facts[i]; f.Tier < reason.ToCaller && strings.Contains(f.Text(), text) {
			f.Tier = reason.ToCaller
		}
	}
	return facts
}

// applicationFor is the application whose credential this call shows, by the authentication of the route that the
// recorded call had; "" for none. What is costly to check, or wants to ask others, identifies nobody here.
func (c *call) applicationFor(rec *calllog.Record) string {
	for _, r := range c.snap.Routes {
		if r.API == rec.API && r.Version == rec.Version && r.Stage == rec.Stage && r.Name == rec.Route {
			return c.identifiedBy(r)
		}
	}
	return ""
}

func (c *call) identifiedBy(r *snapshot.Route) string {
	y := policy.Exchange{Request: c.x.Request, Now: c.x.Now, Scheme: c.x.Scheme, TLS: c.x.TLS, Client: c.x.Client, Route: &r.Route, Explaining: true, Cheap: true, BodySize: c.x.BodySize}
	for i := range r.Steps {
		s := &r.Steps[i]
		if s.Phase != policy.Authentication || s.Watches(&y) {
			continue
		}
		if v := s.Check.Check(&y); v.Refused() && y.Application == nil || y.Unknown {
			return ""
		}
	}
	if y.Application == nil {
		return ""
	}
	return y.Application.Name
}

// cutCall is the id in a path below the well-known one.
func cutCall(rest string) (id string, ok bool) {
	id, ok = strings.CutPrefix(rest, "calls/")
	return id, ok && id != "" && !strings.Contains(id, "/")
}
