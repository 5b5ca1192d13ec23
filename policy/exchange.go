package policy

import (
	"crypto/tls"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// Exchange is one call as policies see it. It holds until the call has ended; its strings
// must be cloned by whoever keeps one.
type Exchange struct {
	*wire.Request
	// Now is when the call began. Whoever compares times uses it, so that one call has one
	// time and `explain --at` can set it.
	Now    time.Time
	Scheme string // http or https, as the client spoke it to the first trusted proxy
	TLS    *tls.ConnectionState
	Client Client
	Route  *Route

	// Explaining is set when nothing must be spent, counted or changed. Checks add facts to what
	// they let pass.
	Explaining bool
	// Lifted says of an explanation that a refusal for this reason is taken not to happen, since an owner or operator
	// would change what causes it. A check that has more to look at goes on. Nil: nothing is lifted.
	Lifted func(r *reason.Reason) bool
	// Cheap is set while Explaining, when a stranger's call that was refused is explained on the side:
	// checks leave open what is costly to find out.
	Cheap bool
	// Unknown is set by a check while Explaining, when what it says cannot be told without making the
	// call. It lets pass then.
	Unknown bool
	// Preflight says that this is a CORS preflight, matched by the method it asks for.
	Preflight bool
	// BodySize is the announced size of the content, -1 unknown. explain sets it too.
	BodySize int64

	// Identity, filled by the checks of the phase Authentication and Subscribed.
	Identity     *consumer.Identity
	Application  *consumer.Application
	Credential   *consumer.Credential
	Subscription *consumer.Subscription
	Plan         *consumer.Plan

	// Lapsed is a credential that was refused since it does not count now, of a caller who has proven that it is theirs.
	Lapsed *consumer.Credential

	// Content gives access to the request's content; nil where it cannot be had.
	Content RequestContent

	// Answer is set by a check that answers by itself without refusing.
	Answer *Answer
	// Store is set by a check that wants to see what the upstream answers.
	Store Store
	// Waiting is for checks that wait for something; nil where nothing may be waited for.
	Waiting Waiting
	// Notes are hints for the call's record.
	Notes []Note
	// Extra are fields for the answer, whoever gives it.
	Extra wire.Fields
	// Onward are fields for the upstream, which the check that found them adds as a RequestEditor.
	Onward wire.Fields
	// Tightest is the limit with the least left, for the record and the answer's fields. It means something where Limited
	// says that a limit was asked.
	Tightest counter.Result
	Limited  bool

	shared   []*counter.Call // what the shared counters were asked, at most once per limit
	away     bool            // the shared counters could not be asked
	held     []hold          // one for each limit that was passed
	methods  *group          // of authentication, none of which an anonymous caller has used
	spared   []string        // policies that would have refused the call, and are enforced for other callers
	scratch  []byte
	content  []byte // instead of the request's own
	replaced bool

	// plain is the request's content without its content coding, once decoded is set.
	plain   []byte
	decoded bool
}

// Answer is an answer of the gateway itself that is no refusal.
type Answer struct {
	Status int
	Fields wire.Fields
	Body   []byte
	// By names who refused, where Status is 400 or more: "upstream" for an answer that was kept.
	By string
	// Ranges has the gateway cut out what Range asks for.
	Ranges bool
	// Delay comes before the answer.
	Delay time.Duration
}

// Store sees what the upstream answers to a call, before anything has changed it.
type Store interface {
	// NotModified is asked about an answer of 304. If the store had the upstream asked whether what it
	// keeps still holds, it returns that; otherwise the answer is passed on.
	NotModified(x *Exchange, h *wire.Head) *Answer
	// Failed is asked for something else where the upstream gave no answer, or one of 500, 502, 503 or 504: status is
	// that, or 0. why says what was wrong.
	Failed(x *Exchange, status int, why string) *Answer
	// Head sees the head of the answer, and may add fields to it.
	Head(x *Exchange, h *wire.Head)
	// Piece sees the content. The answer is whole with the last piece.
	Piece(piece []byte, last bool)
}

// Waiting waits for what a call needs, as long as its client does.
type Waiting interface {
	// Wait returns when done is closed, the time is over or the client has left, and whether the
	// client is still there.
	Wait(done <-chan struct{}, atMost time.Duration) bool
}

// TakeLapsed has the application of a lapsed credential be the one that calls, if nobody else does, while checks behind
// the authentication are explained: what the application would do about it is to bring another credential. forget ends it.
func (x *Exchange) TakeLapsed() (forget func()) {
	before := x.caller()
	if l := x.Lapsed; l != nil && x.Application == nil && x.Identity == nil {
		x.Credential, x.Application, x.Identity = l, l.Application, l.Identity
	}
	return func() { x.setCaller(before) }
}

// lifted is Lifted.
func (x *Exchange) lifted(r *reason.Reason) bool { return x.Lifted != nil && x.Lifted(r) }

// Note is a hint for the call's record.
type Note struct{ Code, Text string }

// maxNotes bounds the hints of one call.
const maxNotes = 16

// Note leaves a hint in the call's record. Text must hold as long as the call.
func (x *Exchange) Note(code, text string) {
	if !x.Explaining && len(x.Notes) < maxNotes {
		x.Notes = append(x.Notes, Note{code, text})
	}
}

// ReplaceBody gives the upstream other content than the client sent. It comes after Body, which has
// read all of that.
func (x *Exchange) ReplaceBody(b []byte) { x.content, x.replaced = b, true }

// Replaced is the content that replaces the client's, if any does.
func (x *Exchange) Replaced() ([]byte, bool) { return x.content, x.replaced }

// Restore takes a ReplaceBody back: b and replaced are what Replaced said before it.
func (x *Exchange) Restore(b []byte, replaced bool) { x.content, x.replaced = b, replaced }

// RequestContent is the request's content, which the gateway keeps for the upstream once it was read.
type RequestContent interface {
	// Body returns all of it, if that is at most max bytes. Otherwise, or if it cannot be read, the
	// verdict refuses the call. It waits for the client.
	Body(max int64) ([]byte, reason.Verdict)
	// Known says that Body has nothing to wait for. Explanations of a call that was refused must
	// not read what the client has not sent yet.
	Known() bool
}

// Body is the request's content, if that is at most max bytes.
func (x *Exchange) Body(max int64) ([]byte, reason.Verdict) {
	if x.Content == nil {
		return nil, reason.Verdict{}
	}
	return x.Content.Body(max)
}

// Route is what policies may know of the route a call was matched to.
type Route struct {
	API, Version, Stage, Name string
	// Mount is what lies before the route's path: stage, base path and version path.
	Mount string
	// Template is the route's path below the mount, Methods what it serves (empty: all).
	Template string
	Methods  []string
	Owner    consumer.Owner
	Operator consumer.Owner
	// OpenPlan is the plan that every application has on this stage, or nil.
	OpenPlan *consumer.Plan
	// OpenStages are other stages of the API with an open plan, as fixes for those without a subscription.
	OpenStages []OpenStage
	// Versions of the API that are in service.
	Versions []string
	Source   *reason.Source
	// NoUpstream says that nothing stands behind the policies: mock answers what they let pass.
	NoUpstream bool
	// Scope is what the policy scopes wants at least, for challenges; "" for nothing.
	Scope string
	// Masks hide parts of what is recorded.
	Masks []RecordMasker

	shared []sharedStep // limits that are counted in the shared counters
}

// OpenStage is a stage that an application can call without a subscription.
type OpenStage struct{ Stage, Path, Plan string }

// hold is something to give back: at the end of the call, or when the call is refused by a
// later check.
type hold struct {
	onEnd    releaser
	onRefuse releaser
	key      counter.Key
	name     string // of a quota
	cost     int64  // taken of a rate
	shared   *counter.Call
	share    bool // it was taken of this node's share
}

type releaser interface{ release(h *hold) }

func (x *Exchange) hold(h hold) { x.held = append(x.held, h) }

// Undo gives back what limits took, since a later check refused the call.
func (x *Exchange) Undo() {
	for i := range x.held {
		if r := x.held[i].onRefuse; r != nil {
			x.held[i].onRefuse = nil // once, also if what follows panics
			r.release(&x.held[i])
		}
	}
}

// Finish ends what lasts as long as the call.
func (x *Exchange) Finish() {
	for i := range x.held {
		if r := x.held[i].onEnd; r != nil {
			r.release(&x.held[i])
		}
		x.held[i] = hold{}
	}
	x.held = x.held[:0]
	clear(x.shared)
	x.shared = x.shared[:0]
}

// Reset readies the exchange for its next call, keeping its memory.
func (x *Exchange) Reset(r *wire.Request, now time.Time) {
	*x = Exchange{Request: r, Now: now, Extra: x.Extra[:0], Onward: x.Onward[:0], Notes: x.Notes[:0], held: x.held[:0], shared: x.shared[:0], spared: x.spared[:0], scratch: x.scratch[:0], BodySize: r.Length}
}

// Spare notes that a policy which is enforced for other callers would have refused the call.
func (x *Exchange) Spare(s *Step) {
	if s.Share > 0 {
		x.spared = append(x.spared, s.Name)
	}
}

// Spared says that the policy of this name has spared the call.
func (x *Exchange) Spared(name string) bool { return slices.Contains(x.spared, name) }

// limit notes how a limit stands, for the record and the answer's fields.
func (x *Exchange) limit(res counter.Result) {
	if !x.Explaining && (!x.Limited || res.Left < x.Tightest.Left) {
		x.Tightest, x.Limited = res, true
	}
}

// Text joins parts in memory that lasts as long as the call.
func (x *Exchange) Text(parts ...string) string {
	start := len(x.scratch)
	for _, p := range parts {
		x.scratch = append(x.scratch, p...)
	}
	return wire.View(x.scratch[start:])
}

// AddrText writes an address in memory that lasts as long as the call.
func (x *Exchange) AddrText(a netip.Addr) string {
	start := len(x.scratch)
	x.scratch = a.AppendTo(x.scratch)
	return wire.View(x.scratch[start:])
}

// appendText is for texts made of numbers.
func (x *Exchange) appendText(f func(b []byte) []byte) string {
	start := len(x.scratch)
	x.scratch = f(x.scratch)
	return wire.View(x.scratch[start:])
}

// seconds rounds up, since a client that comes back a moment too early is refused again.
func seconds(d time.Duration) int64 {
	return int64((d + time.Second - 1) / time.Second)
}

func secondsText(d time.Duration) string { return strconv.FormatInt(seconds(d), 10) }

// roughly rounds a span as people tell it: nobody wants the seconds of a year. What is to be waited
// for exactly stands beside it as a time.
func roughly(d time.Duration) time.Duration {
	for _, unit := range []time.Duration{24 * time.Hour, time.Hour, time.Minute} {
		if d >= 10*unit {
			return d.Round(unit)
		}
	}
	return d.Round(time.Second)
}

// Caller names who calls, for sentences: the application, the subject, or the address.
func (x *Exchange) Caller() string {
	if x.Application != nil {
		return "application " + strconv.Quote(x.Application.Name)
	}
	if x.Identity != nil {
		return strconv.Quote(x.Identity.Subject)
	}
	return x.Client.Addr.String()
}

// OwnerFact names whom to ask about the API.
func (x *Exchange) OwnerFact() reason.Fact {
	o := x.Route.Owner
	name := "the owner of API " + strconv.Quote(x.Route.API)
	if o.Team != "" {
		name = "team " + strconv.Quote(o.Team)
	}
	if o.Contact != "" {
		name += " (" + o.Contact + ")"
	}
	return reason.Own("owner", name)
}

// Hides says that the value at a place is not for records.
func (r *Route) Hides(place []string) bool {
	return slices.ContainsFunc(r.Masks, func(m RecordMasker) bool { return m.Hides(place) })
}

// MaskText hides parts of a text that is recorded.
func (r *Route) MaskText(text string) string {
	for _, m := range r.Masks {
		text = m.MaskText(text)
	}
	return text
}
