package gateway

import (
	"time"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/snapshot"
)

// How busy the machine is decides no test.
func init() { searchPatience.time = time.Hour }

// WaysWithin searches ways with that many evaluations at most.
func WaysWithin(s *snapshot.Snapshot, q Question, e *Explanation, trials int) []Way {
	return findWays(s, q, e, patience{trials, time.Hour})
}

// Edit is a change that findWays may try, for the test that searches by brute force.
type Edit struct {
	Fix    reason.Fix
	Slot   string
	Apply  func(q *Question) // nil: Pardon is the refusal that would not happen then
	Pardon string
}

func exported(list []edit) (all []Edit) {
	for _, e := range list {
		all = append(all, Edit{e.fix, e.slot, e.apply, e.pardon})
	}
	return all
}

// Evaluate is evaluate.
func Evaluate(s *snapshot.Snapshot, q Question, pardoned []string) (*Explanation, error) {
	return evaluate(s, q, pardoned)
}

// EditsOf are the changes that could lift the first refusal.
func EditsOf(e *Explanation, at time.Time) []Edit { return exported(edits(e, at)) }

// Edits are the changes of a way as they were tried.
func (w *Way) Edits() []Edit { return exported(w.edits) }
