package pinpoint

import (
	"context"
	"time"
)

// Cause is one entry of the catalogue: a reason for which requests are refused.
type Cause struct {
	ID       string   `json:"id"`
	Layer    string   `json:"layer"` // "client", "network", "cdn", "waf", "gateway", "auth", "files", "web-server", "framework", "application", "storage"
	Title    string   `json:"title"`
	Statuses []int    `json:"statuses"` // it shows up as, the usual one first
	Symptoms string   `json:"symptoms"`
	Evidence string   `json:"evidence"` // what decides
	Expect   []Expect `json:"expect"`   // what experiments show if this is the cause
	Fix      Fix      `json:"fix"`
	// Prior is how common the cause is for its usual status, in natural logarithms; 0 is ordinary.
	Prior float64 `json:"prior,omitempty"`
	// Pseudo marks answers such as refuser-only, which say that no cause is known.
	Pseudo bool `json:"pseudo,omitempty"`
	// Parent is the cause that this one refines; a clue for the parent does not speak against it.
	Parent string `json:"parent,omitempty"`
	// Silent are products whose error log says nothing of it at the usual level.
	Silent []string `json:"silent,omitempty"`
}

// Ways is how many operators may make the request pass if the cause holds, of which one does: a rule looks at one thing
// of the request, and which one the catalogue does not know. It is 1 where the catalogue names up to three: those are known.
func (c *Cause) Ways() int {
	n := 0
	for _, e := range c.Expect {
		if e.Shows == "passes" {
			n++
		}
	}
	if n <= 3 {
		return 1
	}
	return n
}

// Expect is what an operator shows if a cause holds.
type Expect struct {
	Operator string `json:"operator"`
	// Shows is "passes" (not refused any more), "same" (the same refusal) or "other" (refused or
	// answered otherwise). An operator that a cause does not name shows "same" for it.
	Shows string `json:"shows"`
}

// Fix is what to change.
type Fix struct {
	Owner string   `json:"owner"` // "caller", "app-dev", "server-admin", "cdn-admin", "waf-admin", "api-owner", "identity-admin", "storage-owner", "network-admin"
	Steps []string `json:"steps"` // sentences; {names} of the clues are filled in
	Risk  string   `json:"risk"`
}

// Class is how safe it is to send something.
type Class int

// The classes: nothing is sent; only GET, HEAD or OPTIONS; an unsafe method that cannot succeed;
// something that may have an effect.
const (
	S0 Class = iota
	S1
	S2
	S3
)

func (c Class) String() string { return [...]string{"S0", "S1", "S2", "S3"}[c] }

// Experiment is one change of the request and what it showed.
type Experiment struct {
	Operator string        `json:"operator"`
	Class    Class         `json:"class"`
	Says     string        `json:"says"`            // what is changed: "User-Agent of a browser"
	Method   string        `json:"method"`          //
	URL      string        `json:"url"`             // without secrets
	Status   int           `json:"status"`          // 0: not sent, or no answer
	Shows    string        `json:"shows,omitempty"` // "passes", "same", "other", "unclear"; as Expect
	Flip     bool          `json:"flip,omitempty"`  // refused before, not with the change, and refused again
	Took     time.Duration `json:"took,omitempty"`
	Skipped  string        `json:"skipped,omitempty"` // why it was not sent, and which flag would allow it
	Learns   string        `json:"learns,omitempty"`  // which causes it tells apart
}

// Outcome is how a diagnosis ends; commands turn it into their exit code.
type Outcome string

// The outcomes.
const (
	Proved          Outcome = "proved"           // grade A or B
	Likely          Outcome = "likely"           // grade C or D
	Unknown         Outcome = "unknown"          // at most the refuser is known
	NotReproduced   Outcome = "not-reproduced"   // the same request passes now, or another refusal comes
	InputIncomplete Outcome = "input-incomplete" // what was handed in lacks what matters
	Unsafe          Outcome = "unsafe"           // the rules of safety forbid what would be needed
)

// Refuser is who refused.
type Refuser struct {
	Product string `json:"product,omitempty"` // "nginx", "cloudflare", "" when not known
	Hop     int    `json:"hop,omitempty"`     // from the client; 0 not known
	Host    string `json:"host,omitempty"`
	// Decider is who decided, where the one that wrote the answer only asked: the verifier of an
	// auth_request, an authorizer.
	Decider string `json:"decider,omitempty"`
}

// Hop is one station between the client and the application.
type Hop struct {
	Kind    string `json:"kind"` // "client", "cdn", "waf", "gateway", "balancer", "web-server", "application", "storage"
	Product string `json:"product,omitempty"`
	Says    string `json:"says,omitempty"` // how it is known
	Refused bool   `json:"refused,omitempty"`
}

// Alternative is a cause that is still possible.
type Alternative struct {
	Cause      string  `json:"cause"`
	Title      string  `json:"title"`
	Confidence float64 `json:"confidence"`
	Separate   string  `json:"separate,omitempty"` // what would tell it from the verdict, with the flag it needs
}

// Verdict is the answer of a diagnosis.
type Verdict struct {
	Outcome      Outcome       `json:"outcome"`
	Cause        string        `json:"cause"`
	Title        string        `json:"title"`
	Sentence     string        `json:"sentence"` // the verdict in one sentence
	Refuser      Refuser       `json:"refuser"`
	Layer        string        `json:"layer,omitempty"`
	Confidence   float64       `json:"confidence"`
	Grade        string        `json:"grade,omitempty"` // A to D
	Evidence     []Clue        `json:"evidence"`
	Experiments  []Experiment  `json:"experiments,omitempty"`
	Alternatives []Alternative `json:"alternatives,omitempty"`
	Fix          Fix           `json:"fix"`
	Next         string        `json:"next,omitempty"` // the one step that would settle it
	Gaps         []Gap         `json:"gaps,omitempty"`
	Hops         []Hop         `json:"hops,omitempty"`
	Trail        []Step        `json:"trail,omitempty"`   // through the configurations, on the server
	Sent         int           `json:"sent"`              // requests
	Strikes      int           `json:"strikes"`           // answers that were refusals
	Run          string        `json:"run,omitempty"`     // value of X-Whygate-Probe
	Stopped      string        `json:"stopped,omitempty"` // why no more was sent
	Resume       time.Time     `json:"resume,omitzero"`   // when the server may be asked again, if it said so
}

// Sender sends one request to the target of a case, and to no other, and reads the answer. An
// error is a refusal to send; a network that fails is an Answer with Err.
type Sender interface {
	Send(ctx context.Context, r *Request) (*Answer, error)
}
