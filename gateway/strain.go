package gateway

import (
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// Strain is how much memory a node uses of what it may, in bytes.
type Strain struct{ Used, Limit int64 }

var shortOfMemory = reason.New(reason.Reason{
	Code: "node.memory", Status: 503,
	Title:  "The gateway is short of memory",
	Says:   "this node takes no calls until it needs less memory",
	Wanted: "a node with memory to spare[, less than {limit} bytes in use]",
	Seen:   "a node that has none[: {used} bytes in use]",
	Fixes: []reason.Fix{
		{By: reason.Caller, Text: "try again in a moment"},
		{By: reason.Operator, Text: "give the control group of the node more memory, or the API more nodes; limits.bodyBytes and connections bound what one call and all of them take"},
	},
	Hint: "calls in flight go on; beyond the limit the kernel would end the node, and them with it",
})

// Shed has new calls refused because memory is short; nil ends that. Calls in flight go on.
func (g *Gateway) Shed(s *Strain) { g.strain.Store(s) }

// shed refuses the call if memory is short.
func (c *call) shed() bool {
	s := c.g.strain.Load()
	if s == nil {
		return false
	}
	c.count(c.g.unknown)
	c.x.Extra.Put(wire.RetryAfter, "1")
	c.refuse(shortOfMemory.Refuse(reason.Inner("used", s.Used), reason.Inner("limit", s.Limit)))
	return true
}
