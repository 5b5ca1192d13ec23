package policy

import (
	"math"
	"strconv"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/reason"
)

// cost is how much of a limit a call takes: a number, or an expression.
type cost struct {
	fixed int64
	of    *expression
	most  int64 // what a call takes at most: all that may come at once
	at    *reason.Source
}

var costUnknown = reason.New(reason.Reason{
	Code: "rate-limit.cost-unknown", Status: 400,
	Title:  "The cost of this call cannot be worked out",
	Says:   "this API counts calls by their cost, and that of this one cannot be worked out[: {problem}]",
	Wanted: "a call whose cost can be worked out[: {when}]",
	Seen:   "{problem|values that give no number}",
	Fixes: []reason.Fix{
		{By: reason.Caller, Text: "send a call whose cost can be worked out[: {problem}]"},
		{By: reason.Owner, Text: "ask {owner|the owner of this API} to let the cost of its limit say what holds then"},
	},
	Hint: "cost of this policy ({written}); for what may be absent: has(request.query.size) ? int(request.query.size) : 1",
})

// compileCost reads a number or an expression; nothing is 1.
func (e *Env) compileCost(field string, v any, r counter.Rate) cost {
	c := cost{fixed: 1, most: r.Burst, at: e.Source(field)}
	if longest := int64(1) << 61; r.Requests > 0 { // sums of times must not overflow
		c.most = max(1, min(c.most, longest/max(int64(r.Period)/r.Requests, 1)))
	}
	switch v := v.(type) {
	case nil:
	case int64:
		if c.fixed = v; v < 0 || v > c.most && !e.Faulty["requests"] && !e.Faulty["burst"] && !e.Faulty["period"] {
			e.Problem(field, "between 0 and "+strconv.FormatInt(c.most, 10)+", what may come at once", "a call that costs %d can never pass", v)
		}
	case string:
		c.of = e.compileExpression(field, v, cel.IntType, cel.DoubleType, cel.UintType)
		if c.of != nil && c.of.body {
			e.Problem(field, "use request.size, or a header", "the cost cannot look into the body: limits come before it is read")
		}
	default:
		e.Problem(field, "for example cost: 5", "cost is a whole number or an expression in quotes")
	}
	return c
}

// call is what this call costs. An expression gives at least 0 and at most all that may come at once;
// parts of one count as one.
func (c *cost) call(x *Exchange) (int64, reason.Verdict) {
	if c.of == nil {
		return c.fixed, reason.Verdict{}
	}
	v := newVars(x, 0)
	defer v.free()
	out, _, err := c.of.eval(v)
	n := math.NaN()
	if err == nil {
		switch out := out.(type) {
		case types.Int:
			n = float64(out)
		case types.Uint:
			n = float64(out)
		case types.Double:
			n = math.Ceil(float64(out))
		}
	}
	switch {
	case math.IsNaN(n):
		return 0, c.unknown(v)
	case n >= float64(c.most):
		return c.most, reason.Verdict{}
	}
	return max(0, int64(n)), reason.Verdict{}
}

// unknown says why there is no cost.
func (c *cost) unknown(v *vars) reason.Verdict {
	facts := []reason.Fact{reason.Rule("when", whenText(c.of)).At(c.at), reason.Rule("written", c.at.String()), v.x.OwnerFact()}
	outcomes := c.of.judge(v, &secrets{})
	for i := range outcomes {
		o := &outcomes[i]
		if o.problem == "" {
			o.problem = seenIn(outcomes, false)
		}
		if o.problem != "" {
			facts = append(facts, reason.Own("problem", o.problem))
			break
		}
	}
	return costUnknown.Refuse(facts...)
}
