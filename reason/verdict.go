package reason

import "slices"

// Verdict is what a check says of a call. The zero Verdict means "go on" and
// costs nothing; with a Reason the call is refused.
type Verdict struct {
	Reason *Reason `json:"reason,omitempty"`
	// Facts this verdict rests on. A verdict that lets pass carries facts only
	// while a call is being explained.
	Facts Facts `json:"facts,omitempty"`
	// Fixes that this case adds to those of the reason, likeliest first.
	Fixes []Fix `json:"fixes,omitempty"`
	// Status of the answer where it is not that of the reason, but of somebody else who decided; 0 for the
	// reason's.
	Status int `json:"status,omitempty"`
}

// StatusCode is the HTTP status of the answer to a refusal.
func (v Verdict) StatusCode() int {
	if v.Status != 0 {
		return v.Status
	}
	return v.Reason.Status
}

// Refused says that the call may not go on.
func (v Verdict) Refused() bool { return v.Reason != nil }

// Refuse is the verdict that r applies, and why.
func (r *Reason) Refuse(facts ...Fact) Verdict { return Verdict{Reason: r, Facts: facts} }

// Pass is a verdict that lets the call go on and says why, for explanations.
func Pass(facts ...Fact) Verdict { return Verdict{Facts: facts} }

// Fix adds a way out that only this case has. The text is a template; what
// varies in it goes into facts.
func (v Verdict) Fix(by Party, text string, facts ...Fact) Verdict {
	v.Fixes = append(v.Fixes, Fix{By: by, Text: text})
	v.Facts = append(v.Facts, facts...)
	return v
}

// Outcome is what became of one check.
type Outcome string

// The outcomes.
const (
	Passed  Outcome = "pass"
	Denied  Outcome = "refuse"
	Shadow  Outcome = "shadow"  // would have refused; the policy only watches
	Skipped Outcome = "skip"    // does not apply to this call
	Unknown Outcome = "unknown" // cannot be told without running the call
)

// Entry is one line of a trail: a check and what it said.
type Entry struct {
	Check   string  `json:"check"` // the policy's name on this route
	Kind    string  `json:"kind"`
	Outcome Outcome `json:"outcome"`
	Verdict
	From *Source `json:"from,omitempty"` // where the policy is written
}

// Trail is a decision, check by check, in order.
type Trail []Entry

// Told is a verdict in words, as one tier may read it.
type Told struct {
	Code   string         `json:"reason"`
	Status int            `json:"status"`
	Title  string         `json:"title"`
	Says   string         `json:"detail"`
	Wanted string         `json:"wanted,omitempty"`
	Seen   string         `json:"seen,omitempty"`
	At     *Source        `json:"at,omitempty"` // where the wanted value is written
	Fixes  []Fix          `json:"fix"`
	Hint   string         `json:"hint,omitempty"`
	Facts  map[string]any `json:"facts,omitempty"`
}

// Tell puts a refusal into words for a reader of tier t. Sentences that rest on
// facts above the tier fall back to the reason's title.
func (v Verdict) Tell(t Tier) Told {
	r, told := v.Reason, Told{}
	told.Code, told.Status, told.Title = r.Code, v.StatusCode(), r.Title
	if told.Says = v.Facts.Render(r.Says, t); told.Says == "" {
		told.Says = r.Title
	}
	told.Wanted = v.Facts.Render(r.Wanted, t)
	told.Seen = v.Facts.Render(r.Seen, t)
	for _, list := range [][]Fix{v.Fixes, r.Fixes} {
		for _, f := range list {
			f.Text = v.Facts.Render(f.Text, t)
			if f.Text != "" && !slices.Contains(told.Fixes, f) {
				told.Fixes = append(told.Fixes, f)
			}
		}
	}
	if t >= ToOwner {
		told.Hint = v.Facts.Render(r.Hint, t)
		for _, f := range v.Facts {
			if f.From != nil && f.Tier <= t {
				told.At = f.From
				break
			}
		}
	}
	if visible := v.Facts.For(t); len(visible) > 0 {
		told.Facts = visible.Values()
	}
	return told
}
