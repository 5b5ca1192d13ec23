// Package reason says what a refusal is: a reason with a stable code, a verdict
// that carries the facts it was decided on, and the trail of a whole decision.
//
// A policy declares its reasons beside the code that decides, and returns a
// Verdict. The data path, `whygate explain`, `whygate why` and the answer to the
// caller all render the same verdict; what differs is the Tier of the reader.
package reason

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Party is who can make a change that lets a call pass.
type Party uint8

// The parties, from the one who sent the call to the one who runs the node.
const (
	Caller      Party = iota // whoever sends the call
	Application              // the owner of the calling application
	Owner                    // the owner of the API
	Operator                 // whoever runs this gateway
)

var parties = [...]string{"caller", "application", "owner", "operator"}

func (p Party) String() string { return parties[p] }

// MarshalText writes the party's name.
func (p Party) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads the party's name.
func (p *Party) UnmarshalText(b []byte) error {
	i := slices.Index(parties[:], string(b))
	if i < 0 {
		return fmt.Errorf("party %q is none of %s", b, strings.Join(parties[:], ", "))
	}
	*p = Party(i)
	return nil
}

// Fix is one way out of a refusal and who can take it.
type Fix struct {
	By   Party  `json:"by"`
	Text string `json:"text"` // a template, see Facts.Render
}

// Reason is one cause of a refusal. Its code is a contract: scripts match it,
// metrics count it, the golden list in testdata guards it.
type Reason struct {
	// Code is stable, lower case, family first: "rate-limit.exceeded".
	Code string
	// Status is the HTTP status of the answer.
	Status int
	// Title is a few words without facts. Everybody may read it.
	Title string
	// Says is the sentence that explains the refusal, a template over facts.
	Says string
	// Wanted and Seen are what the check demanded and what it met, templates.
	Wanted, Seen string
	// Fixes are the ways out that always exist; a verdict may add more.
	Fixes []Fix
	// Hint tells the operator where to look when the refusal looks wrong.
	Hint string
}

// StatusClientGone stands in records for a call whose client left before any answer.
const StatusClientGone = 499

var (
	mu       sync.Mutex
	all      = map[string]*Reason{}
	codeForm = regexp.MustCompile(`^[a-z][a-z0-9-]*(\.[a-z0-9-]+)+$`)
)

// New declares a reason. It is called from package variables beside the code
// that decides, and panics on a code that is taken or misspelt, so a wrong
// declaration never reaches a user.
func New(r Reason) *Reason {
	mu.Lock()
	defer mu.Unlock()
	switch {
	case !codeForm.MatchString(r.Code):
		panic("BUG: reason code " + r.Code + " is not of the form family.cause")
	case all[r.Code] != nil:
		panic("BUG: reason " + r.Code + " is declared twice")
	case (http.StatusText(r.Status) == "" || r.Status < 400) && r.Status != StatusClientGone:
		panic(fmt.Sprintf("BUG: reason %s has status %d", r.Code, r.Status))
	case r.Title == "" || r.Says == "" || len(r.Fixes) == 0 || r.Hint == "":
		panic("BUG: reason " + r.Code + " needs a title, a sentence, a fix and a hint")
	}
	for _, t := range r.templates() {
		if err := checkTemplate(t); err != nil {
			panic(fmt.Sprintf("BUG: reason %s: %v in %q", r.Code, err, t))
		}
	}
	all[r.Code] = &r
	return &r
}

func (r *Reason) templates() []string {
	ts := []string{r.Says, r.Wanted, r.Seen, r.Hint}
	for _, f := range r.Fixes {
		ts = append(ts, f.Text)
	}
	return ts
}

// All lists every reason linked into this program, sorted by code.
func All() []*Reason {
	mu.Lock()
	defer mu.Unlock()
	list := make([]*Reason, 0, len(all))
	for _, r := range all {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b *Reason) int { return strings.Compare(a.Code, b.Code) })
	return list
}

// ByCode finds a reason, or nil.
func ByCode(code string) *Reason {
	mu.Lock()
	defer mu.Unlock()
	return all[code]
}

// Path is where a gateway serves the page about this reason, relative to any
// of its listeners. It is the "type" of the problem document (RFC 9457).
func (r *Reason) Path() string { return "/.well-known/whygate/reasons/" + r.Code }

// MarshalText writes the code.
func (r *Reason) MarshalText() ([]byte, error) { return []byte(r.Code), nil }

// UnmarshalText reads a code. A code that this program does not know, from a record of another
// version, keeps its name and little else.
func (r *Reason) UnmarshalText(b []byte) error {
	if known := ByCode(string(b)); known != nil {
		*r = *known
	} else {
		*r = Reason{Code: string(b), Title: "a reason of another version of Whygate"}
	}
	return nil
}
