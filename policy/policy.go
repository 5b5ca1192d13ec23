// Package policy holds every policy, one file each, and what they have in common.
//
// A policy is a configuration (a struct that documents decode into) which is compiled once
// per revision. What comes out takes part in a call at up to three points:
//
//	Check           decides, before anything is forwarded
//	RequestEditor   changes what the upstream gets
//	ResponseEditor  changes what the client gets, refusals included
//
// Policies see a call as an *Exchange and nothing else. The list of all policies is in
// policies.go; their order is that of the phases and cannot be configured.
package policy

import (
	"crypto/x509"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// Phase is when a policy decides. Phases run in this order for every call, so that no
// document can let a preflight fail on a missing key or count calls of strangers.
type Phase uint8

// The phases.
const (
	Service        Phase = iota // is the API in service at all?
	Network                     // where from
	CORS                        // which page of the web; preflights end here
	Form                        // method, sizes
	Authentication              // who
	Subscribed                  // is this application entitled
	Authorization               // may this identity do that
	Browser                     // did a page of ours send it
	Limits                      // how much
	Content                     // what it says
	Answering                   // can it be answered here
	Rewrite                     // changes what passes
)

var phases = [...]string{"service", "network", "cors", "form", "authentication", "subscription", "authorization", "browser", "limits", "content", "answering", "rewrite"}

func (p Phase) String() string { return phases[p] }

// Kind is one policy in the list of all.
type Kind struct {
	Name  string
	Phase Phase
	// New returns a pointer to an empty configuration.
	New func() Policy
}

// Policy is a decoded configuration.
type Policy interface {
	// Compile runs once per revision and route: everything that can fail, fails here, as a
	// problem of Env. The result takes part as a Check, RequestEditor or ResponseEditor.
	Compile(env *Env) any
}

// PerRoute is a Policy that depends on the path of its route: it is compiled for each one, also where
// several routes inherit it.
type PerRoute interface{ PerRoute() bool }

// Check decides about a call. Check runs on every call: it neither blocks nor allocates
// when the call passes.
type Check interface {
	Check(x *Exchange) reason.Verdict
}

// RequestEditor changes the request that is forwarded.
type RequestEditor interface {
	EditRequest(x *Exchange, o *wire.Outgoing)
}

// ResponseEditor changes the head of the answer.
type ResponseEditor interface {
	EditResponse(x *Exchange, h *wire.Head)
}

// ContentFilter changes the content of answers.
type ContentFilter interface {
	// Filter looks at the head of an answer, which it may change, and returns what changes its
	// content, or nil to leave that alone. It calls Changed on the head where it returns one. Answers to HEAD
	// come here too, so that their heads are those of GET; what is returned is not used then. An error
	// is why the answer cannot be passed on.
	Filter(x *Exchange, h *wire.Head) (Transform, error)
}

// RecordMasker hides in records what it hides in answers.
type RecordMasker interface {
	// MaskText hides parts of a text.
	MaskText(text string) string
	// Hides says that the value at a place is hidden: in JSON by names and positions, of a parameter by its name.
	Hides(place []string) bool
}

// Transform changes content piece by piece.
type Transform interface {
	// Write takes the next piece and returns what of the content is ready, which holds until the next
	// call. After an error nothing more can be sent.
	Write(piece []byte, last bool) ([]byte, error)
}

// Flusher is a Transform that can give out what it holds back, when nothing more is at hand and the
// client may be waiting for it. What it returns holds until the next call.
type Flusher interface {
	Flush() ([]byte, error)
}

// Changed takes out of a head what does not hold for content that is changed on its way: length,
// digests, ranges, and strong validators (RFC 9110 §8.8.1, RFC 9530).
func Changed(h *wire.Head) {
	h.Length = -1
	kept := h.Fields[:0]
	for _, f := range h.Fields {
		if f.ID == wire.OtherField {
			switch {
			case wire.EqualFold(f.Name, "Content-MD5"), wire.EqualFold(f.Name, "Digest"), wire.EqualFold(f.Name, "Content-Digest"), wire.EqualFold(f.Name, "Repr-Digest"), wire.EqualFold(f.Name, "Accept-Ranges"):
				continue
			case wire.EqualFold(f.Name, "ETag"):
				f.Value = weak(f.Value)
			}
		}
		kept = append(kept, f)
	}
	h.Fields = kept
}

// weak makes a validator say that what it stands for is the same in meaning, not byte for byte.
func weak(etag string) string {
	if strings.HasPrefix(etag, `"`) {
		return "W/" + etag
	}
	return etag
}

// describesContent names fields of a trailer that hold for the content as it was.
func describesContent(name string) bool {
	for _, n := range [...]string{"Content-MD5", "Digest", "Content-Digest", "Repr-Digest", "ETag", "Signature", "Signature-Input"} {
		if wire.EqualFold(name, n) {
			return true
		}
	}
	return false
}

// ChangedTrailer leaves out of a trailer what does not hold for content that was changed.
func ChangedTrailer(fs wire.Fields) wire.Fields {
	return slices.DeleteFunc(fs, func(f wire.Field) bool { return describesContent(f.Name) })
}

// Preparer is a check that gives callers what they need to pass it with its answers, such as a token. It does
// so while it only watches too: otherwise it would refuse everybody from the moment it is enforced.
type Preparer interface{ Prepares() bool }

// Guard is a RequestEditor with fields that it alone may write, and upstreams believe. Where its policy is enforced for some
// callers it keeps those of clients from the upstream for the others too, since the upstream cannot tell the calls apart.
type Guard interface{ GuardRequest(o *wire.Outgoing) }

// Impersonal is a check behind the authentication that may not depend on who calls: it can be explained for a call of
// which that is not known.
type Impersonal interface {
	// Impersonal says that it does not, as it is set here.
	Impersonal() bool
}

// BodyReader is a check that reads the request's content.
type BodyReader interface{ ReadsBody() bool }

// Step is a check on a route.
type Step struct {
	Check  Check
	Name   string // the policy's name on this route
	Kind   string
	Phase  Phase
	Shadow bool
	// Share is the part of callers that the policy is enforced for, of 1<<16; 0 for all of them.
	Share  uint32
	Source *reason.Source
}

// Watches says that the check only watches this call.
func (s *Step) Watches(x *Exchange) bool {
	return s.Shadow || s.Share > 0 && s.draw(x) >= s.Share
}

// Answers says that the call ends where the check answers it by itself. One that watches answers nothing, but for
// preflights: what a page may do is no refusal, and the same for all callers where the policy is enforced for some.
func (s *Step) Answers(x *Exchange) bool {
	return !s.Watches(x) || s.Phase == CORS && !s.Shadow
}

// Told adds to a refusal, or what would be one, whom a policy that is enforced for some callers is enforced for.
func (s *Step) Told(v reason.Verdict, watches bool) reason.Verdict {
	if s.Share == 0 || s.Shadow || !v.Refused() {
		return v
	}
	text := strconv.FormatFloat(float64(s.Share)*100/(1<<16), 'g', 3, 64) + "% of callers, "
	if watches {
		text += "not for this one"
	} else {
		text += "this one among them"
	}
	v.Facts = append(slices.Clip(v.Facts), reason.Rule("enforced", text).At(s.Source))
	return v
}

// draw is the same number for every call of a caller, so that each has one experience.
func (s *Step) draw(x *Exchange) uint32 {
	h := fnv.New32a()
	h.Write([]byte(s.Name))
	switch {
	case s.Phase <= Authentication: // whenever it is asked, that is all there is to go by
		a := x.Client.Addr.As16()
		h.Write(a[:])
	case x.Application != nil:
		h.Write([]byte(x.Application.Name))
	case x.Identity != nil:
		h.Write([]byte(x.Identity.Subject))
	default:
		a := x.Client.Addr.As16()
		h.Write(a[:])
	}
	return spread(h.Sum32()) >> 16
}

// spread has every bit of n count for every bit of the result (the finalizer of MurmurHash3, fmix32). FNV alone leaves
// addresses and names that differ in their last character side by side, and so a whole network on the same side of a share.
func spread(n uint32) uint32 {
	n ^= n >> 16
	n *= 0x85ebca6b
	n ^= n >> 13
	n *= 0xc2b2ae35
	return n ^ n>>16
}

// Filter is what the policy does with content of answers: one that withholds them lets those to callers pass whom it only
// watches. One that reports does so for all.
func (s *Step) Filter(f ContentFilter) ContentFilter {
	if _, withholds := f.(*wafBoth); withholds && s.Share > 0 {
		return &shareFilter{*s, f}
	}
	return f
}

// RequestEdit is what the policy does with requests. Where it is enforced for a share of callers, calls that it would have
// refused reach the upstream as they came, but for what a Guard holds back.
func (s *Step) RequestEdit(e RequestEditor) RequestEditor {
	if s.Share > 0 {
		return &shareEdit{s.Name, e}
	}
	return e
}

// ResponseEdit is what the policy does with answers, in the same way. One that prepares callers does so for all.
func (s *Step) ResponseEdit(e ResponseEditor) ResponseEditor {
	if p, ok := e.(Preparer); s.Share > 0 && !(ok && p.Prepares()) {
		return &shareResponse{s.Name, e}
	}
	return e
}

// shareEdit is a RequestEditor for calls that its policy does not spare.
type shareEdit struct {
	step   string
	editor RequestEditor
}

// EditRequest changes what the upstream gets.
func (e *shareEdit) EditRequest(x *Exchange, o *wire.Outgoing) {
	if !x.Spared(e.step) {
		e.editor.EditRequest(x, o)
	} else if g, ok := e.editor.(Guard); ok {
		g.GuardRequest(o)
	}
}

// shareResponse is a ResponseEditor for calls that its policy does not spare.
type shareResponse struct {
	step   string
	editor ResponseEditor
}

// EditResponse changes what the client gets.
func (e *shareResponse) EditResponse(x *Exchange, h *wire.Head) {
	if !x.Spared(e.step) {
		e.editor.EditResponse(x, h)
	}
}

// shareFilter is a filter for a share of callers.
type shareFilter struct {
	step   Step
	filter ContentFilter
}

func (f *shareFilter) Filter(x *Exchange, h *wire.Head) (Transform, error) {
	if f.step.Watches(x) {
		return nil, nil
	}
	return f.filter.Filter(x, h)
}

// Env is what a policy is compiled in.
type Env struct {
	Node     resource.Node // the policy's configuration
	Name     string        // of the policy on this route
	Problems *resource.Problems
	// Faulty are the paths below Node that could not be decoded, as resource.Decode names them; nil for none. What the
	// policy says of these, and of what they belong to, is not told then: it saw something else than what is written.
	Faulty map[string]bool

	Route     *Route
	Consumers *consumer.Directory
	Trust     *Trust
	Memory    *counter.Memory
	Quotas    *counter.Quotas
	Shared    *Shared // nil where each node counts for itself
	Gateway   *resource.Gateway

	// LimitName is the same for all routes that share this policy, and from one revision to
	// the next: counters are kept under it.
	LimitName string
	// Kinds of the policies on this route, this one included. Those that only watch stand there
	// with Watching behind their names: nobody may rely on them.
	Kinds map[string]bool
	// Shadow says that this policy only watches.
	Shadow bool
	// Keep returns what outlives a revision, under a name that contains all it depends on: key sets that
	// are fetched, files that are read, connections to stores. It is made if no revision in use has it.
	Keep func(name string, create func() Kept) Kept
	// Local is the address that all calls come from, where listeners take connections of this machine
	// only and no trusted proxy is among them. Otherwise it is invalid.
	Local   netip.Addr
	Resolve func(path string) string // of files named in the document
	// Log takes what happens to things that outlive a revision. It may be nil.
	Log *slog.Logger
	// Watch has the documents compiled again when a file changes that was read while compiling.
	Watch func(path string)
	// Authorities are those of the listeners' clientCA.
	Authorities []*x509.Certificate
}

// Kept outlives a revision. Start is called once, when the first revision with it comes into use,
// and Close when none has it any more.
type Kept interface {
	Start()
	Close()
}

// identifying are the kinds of policies that can tell which application calls.
var identifying = []string{"key-auth", "jwt", "introspection", "basic", "hmac", "mtls", "forward-auth"}

// Identifies says that a policy of the route tells which application calls; watching counts those
// that only watch too.
func (e *Env) Identifies(watching bool) bool {
	return slices.ContainsFunc(identifying, func(k string) bool { return e.Kinds[k] || watching && e.Kinds[k+Watching] })
}

// Watching marks policies in Env.Kinds that only watch.
const Watching = "~"

// Problem reports an error at a field of the configuration ("" for the whole of it).
func (e *Env) Problem(field, hint, format string, args ...any) {
	e.report(resource.Error, "", field, hint, format, args...)
}

// Lint reports a warning with a code.
func (e *Env) Lint(code, field, hint, format string, args ...any) {
	e.report(resource.Warning, code, field, hint, format, args...)
}

// sure says that what is found at a field stands there, whatever becomes of the fields that could not be decoded.
func (e *Env) sure(field string) bool {
	if e.Faulty == nil {
		return true
	}
	for f := range e.Faulty {
		if below(field, f) || below(f, field) {
			return false
		}
	}
	if i := strings.IndexAny(field, ".["); i >= 0 {
		field = field[:i]
	}
	return e.Node.Has(field)
}

// below says that a path is another one or leads further from there.
func below(path, from string) bool {
	rest, ok := strings.CutPrefix(path, from)
	return ok && (from == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
}

func (e *Env) report(severity resource.Severity, code, field, hint, format string, args ...any) {
	if !e.sure(field) {
		return
	}
	p := e.Node.Problem(field, fmt.Sprintf(format, args...), hint)
	p.Severity, p.Code = severity, code
	*e.Problems = append(*e.Problems, p)
}

// lintPer warns of limits whose callers share a counter that is nobody's.
func (e *Env) lintPer(kind, per string) {
	identified := e.Identifies(false) && (per == "application" || per == "credential")
	if per == "route" || identified {
		return
	}
	if per != "address" {
		e.Lint(kind+".no-identity", "per", "per: address says what happens, or add key-auth", "no policy on this route identifies who calls, so calls are counted by address")
	}
	if e.Local.IsValid() {
		e.Lint(kind+".counts-proxy", "per", behindProxy, "the listeners take connections of this machine only, so all calls are counted by one address, that of the proxy in front")
	}
}

const behindProxy = "add the address of the proxy to trustedProxies of the Gateway"

// Source says where a field of the configuration is written, for facts.
func (e *Env) Source(field string) *reason.Source { return SourceOf(e.Node, field) }

// SourceOf says where a field of a document is written.
func SourceOf(n resource.Node, field string) *reason.Source {
	p := n.At(field)
	path := n.Path()
	if path != "" && field != "" {
		path += "."
	}
	path += field
	return &reason.Source{Document: n.Document(), Field: path, File: p.File, Line: p.Line}
}

// index is the path of an element of a list, for positions.
func index(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }
