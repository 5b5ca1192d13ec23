package policy

import (
	"fmt"
	"time"

	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/reason"
)

// Shared are the counters that several nodes share. A nil *Shared stands for none: limits are counted in
// the memory of this node.
type Shared struct {
	Store *counter.Store
	// WhenAway is local, open or closed.
	WhenAway string
	// Share is this node's part of each limit while the store is away.
	Share float64
	At    *reason.Source
}

var counterUnavailable = reason.New(reason.Reason{
	Code: "counter.unavailable", Status: 503,
	Title:  "The limits of this API cannot be counted at the moment",
	Says:   "the counters that the limits of this API rest on cannot be reached",
	Wanted: "an answer of the shared counters[ at {store}]",
	Seen:   "none[: {error}]",
	Fixes: []reason.Fix{
		{By: reason.Caller, Text: "try again in {retry_after}"},
		{By: reason.Operator, Text: "bring the store back[ at {store}], which whygate status tells more about"},
	},
	Hint: "counters.whenAway of the Gateway is closed[, {written}]; local lets each node count a share of every limit meanwhile",
})

// sharer is a check that counts in the shared counters. ask adds its limit to what is asked about a
// call, if it limits that call.
type sharer interface {
	ask(x *Exchange, c *counter.Call, watch bool)
}

type sharedStep struct {
	step  Step
	check sharer
}

// ShareLimits tells the limits of a route of each other, so that the first one asks for all of
// them: a call takes one round trip, and none of them is spent if one refuses.
func (r *Route) ShareLimits(steps []Step) {
	r.shared = nil
	for _, s := range steps {
		if c, ok := s.Check.(sharer); ok {
			r.shared = append(r.shared, sharedStep{s, c})
		}
	}
}

// counted says who counts a call.
type counted uint8

const (
	byNode   counted = iota // the memory of this node counts, as there is no store
	byStore                 // the store has counted
	byShare                 // the store is away: the memory of this node counts a share
	byNobody                // the store is away: the call passes
	refused                 // the store is away: the call is refused
)

// count asks the store about a limit. The first limit of a call asks for all of its route.
func (s *Shared) count(x *Exchange, check sharer, limit any) (counted, *counter.Asked) {
	if s == nil || !s.Store.Started() {
		return byNode, nil
	}
	for _, c := range x.shared {
		if a := c.Of(limit); a != nil {
			return byStore, a
		}
	}
	if x.away {
		return s.fallback(), nil
	}
	c := s.Store.Call()
	if len(x.shared) == 0 {
		for i := range x.Route.shared {
			r := &x.Route.shared[i]
			r.check.ask(x, c, r.step.Watches(x))
		}
	}
	a := c.Of(limit)
	if a == nil {
		check.ask(x, c, false)
	}
	var err error
	if x.Explaining {
		ahead := time.Until(x.Now)
		if ahead.Abs() < time.Second { // a question about now
			ahead = 0
		}
		err = c.Peek(ahead)
	} else {
		err = c.Take()
	}
	if err != nil {
		x.away = true
		c.Give()
		if !x.Explaining && s.WhenAway != "closed" { // the reason says it then
			x.Note("counters.away", s.note())
		}
		return s.fallback(), nil
	}
	x.shared = append(x.shared, c)
	if !x.Explaining {
		x.hold(hold{onEnd: sharedEnd{}, onRefuse: sharedUndo{}, shared: c})
	}
	return byStore, c.Of(limit)
}

// first says whether nobody has used something yet on any node, such as a nonce, and remembers for so long that it is
// used now. What is to be done while the store is away says by.
func (s *Shared) first(x *Exchange, name, who string, long time.Duration) (first bool, by counted) {
	if s == nil || !s.Store.Started() {
		return true, byNode
	}
	if x.away {
		return true, s.fallback()
	}
	c := s.Store.Call()
	defer c.Give()
	c.Once(s, name, who, long)
	var err error
	if x.Explaining {
		err = c.Peek(0)
	} else {
		err = c.Take()
	}
	if err != nil {
		x.away = true
		return true, s.fallback()
	}
	return c.Of(s).OK, byStore
}

type (
	sharedEnd  struct{}
	sharedUndo struct{}
)

func (sharedEnd) release(h *hold)  { h.shared.Give() }
func (sharedUndo) release(h *hold) { h.shared.Undo() }

func (s *Shared) fallback() counted {
	switch s.WhenAway {
	case "open":
		return byNobody
	case "closed":
		return refused
	}
	return byShare
}

// note is the hint in the record of a call that was decided without the store.
func (s *Shared) note() string {
	what := "each limit was counted by this node alone, " + s.part() + " of it"
	if s.WhenAway == "open" {
		what = "limits were not counted"
	}
	return "the shared counters at " + s.Store.Address() + " are away: " + s.Store.Why() + "; " + what
}

func (s *Shared) part() string { return fmt.Sprintf("%.4g %%", s.Share*100) }

// open lets a call pass that nobody counts.
func (s *Shared) open(x *Exchange) reason.Verdict {
	if x.Explaining {
		return reason.Pass(reason.Own("counter", "nobody, as the shared counters are away"))
	}
	return reason.Verdict{}
}

// refuse refuses a call that nobody can count.
func (s *Shared) refuse(x *Exchange) reason.Verdict {
	x.Extra.Add("Retry-After", "1")
	return counterUnavailable.Refuse(reason.Public("retry_after", time.Second), reason.Rule("store", s.Store.Address()).At(s.At),
		reason.Inner("error", s.Store.Why()), reason.Rule("written", s.At.String()))
}

// rate is this node's share of a rate: the same allowance flows back more slowly.
func (s *Shared) rate(r counter.Rate) counter.Rate {
	if s == nil {
		return r
	}
	r.Period = time.Duration(float64(r.Period) / s.Share)
	r.Burst = s.number(r.Burst)
	return r
}

// number is this node's share of a number, at least 1.
func (s *Shared) number(n int64) int64 {
	if s == nil {
		return n
	}
	return max(int64(float64(n)*s.Share), 1)
}

// counterText names the counter that lets a call pass, and who keeps it.
func (by counted) counterText(x *Exchange, per string) string {
	if by == byShare {
		return x.counterText(per) + ", on this node alone"
	}
	return x.counterText(per)
}

// kept says where a counter is kept. A limit that several nodes count each for itself lets more
// calls pass than it says, and more or fewer from one moment to the next.
func (by counted) kept() reason.Fact {
	if by == byStore {
		return reason.Rule("kept", "which all nodes share")
	}
	return reason.Rule("kept", "in this node: each node counts for itself")
}

// shareText tells that an allowance was only this node's share.
func (s *Shared) shareText(by counted) string {
	if by != byShare {
		return ""
	}
	return " that this node lets pass while the shared counters are away (" + s.part() + " of the limit)"
}
