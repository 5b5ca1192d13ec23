package gateway

import (
	"errors"
	"sync"
	"time"

	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// content is the request's content where a check has asked for it.
type content struct {
	read    bool           // all of it
	bytes   []byte         // what was read so far
	refused reason.Verdict // why it could not be read
}

var contentTooLarge = reason.New(reason.Reason{
	Code: "content.too-large", Status: 413,
	Title:  "The body is too large to be checked",
	Says:   "the body[ of {seen}] is larger than the {limit} that can be checked here",
	Wanted: "a body of at most {limit}",
	Seen:   "{seen|more}",
	Fixes: []reason.Fix{
		{By: reason.Caller, Text: "send a body of at most {limit}"},
		{By: reason.Owner, Text: "ask {owner|the owner of this API} to raise the limit for bodies"},
	},
	Hint: "maxBody of the policy that refused, which reads the body to check it; size of the API bounds bodies that nobody reads",
})

// Known says that the content is here: Body will not wait.
func (c *call) Known() bool { return c.content.read || c.content.refused.Refused() || c.w.Whole() }

// Body reads the content and keeps it for the upstream.
func (c *call) Body(max int64) ([]byte, reason.Verdict) {
	k := &c.content
	switch {
	case k.refused.Refused():
		return nil, k.refused
	case k.read && int64(len(k.bytes)) > max:
		return nil, tooLargeToCheck(&c.x, int64(len(k.bytes)), max)
	case k.read:
		return k.bytes, reason.Verdict{}
	case c.x.Length > max:
		return nil, tooLargeToCheck(&c.x, c.x.Length, max)
	}
	if b, _ := c.bound(); b != nil && !c.x.Explaining { // else the refusal by its size is already told
		max = min(max, b.Body)
	}
	if int64(len(k.bytes)) > max { // a check that only watches has read as much
		return nil, tooLargeToCheck(&c.x, 0, max)
	}
	if c.x.Length > 0 && k.bytes == nil {
		k.bytes = make([]byte, 0, min(c.x.Length, roomAhead)) // an announcement alone takes no more memory
	}
	if !c.w.Whole() {
		c.w.Continue()
	}
	for {
		piece, last, err := c.w.Next()
		if err != nil {
			k.refused = c.unreadable(err)
			return nil, k.refused
		}
		// What was read is kept, also if it is too much: where the check only watches, the upstream gets it.
		k.bytes = append(k.bytes, piece...)
		k.read = last
		if c.pieceIn += int64(len(piece)); c.pieceIn > max {
			c.head.Close = !last
			return nil, tooLargeToCheck(&c.x, 0, max)
		}
		if last {
			return k.bytes, reason.Verdict{}
		}
	}
}

// roomAhead is the most that is taken for content before it comes.
const roomAhead = 64 << 10

func tooLargeToCheck(x *policy.Exchange, seen, max int64) reason.Verdict {
	facts := []reason.Fact{reason.Public("limit", reason.Bytes(max)), x.OwnerFact()}
	if seen > 0 {
		facts = append(facts, reason.Public("seen", reason.Bytes(seen)))
	}
	return contentTooLarge.Refuse(facts...)
}

// unreadable is the verdict on content that does not come as it should.
func (c *call) unreadable(err error) reason.Verdict {
	c.head.Close = true
	u := upload{}
	u.blame(err)
	var f *wire.Fault
	if u.verdict.Refused() && (errors.As(err, &f) || !c.w.Gone()) {
		return u.verdict
	}
	return clientLeft.Refuse(reason.Own("waited", time.Since(c.w.Start).Round(time.Millisecond)))
}

// unread is content that a check cannot have while a call is being explained: it is not there yet, or the question
// says its size only. A check that refuses by the head does so all the same.
type unread struct{ x *policy.Exchange }

var contentUnread = &reason.Reason{Code: "content.unread"}

func (u unread) Known() bool { return false }

func (u unread) Body(max int64) ([]byte, reason.Verdict) {
	if u.x.BodySize > max {
		return nil, tooLargeToCheck(u.x, u.x.BodySize, max)
	}
	return nil, contentUnread.Refuse()
}

// asked is the content of a call that is only asked about.
type asked struct {
	x     *policy.Exchange
	body  []byte
	known bool
}

func (a *asked) Known() bool { return a.known }

func (a *asked) Body(max int64) ([]byte, reason.Verdict) {
	if int64(len(a.body)) > max {
		return nil, tooLargeToCheck(a.x, int64(len(a.body)), max)
	}
	return a.body, reason.Verdict{}
}

var answerUnchanged = reason.New(reason.Reason{
	Code: "answer.not-transformed", Status: 502,
	Title:  "The answer could not be changed as it has to be",
	Says:   "a policy has to change the answer of the upstream and cannot: {error}",
	Wanted: "an answer that the policies of this route can change",
	Seen:   "{error}",
	Fixes:  []reason.Fix{{By: reason.Owner, Text: "ask {owner|the owner of this API} to have the upstream answer as the policy needs it, or the policy let such answers pass[: {error}]"}},
	Hint:   "policies that change content read answers whole, up to their maxBody",
})

// errFilter wraps an error of a ContentFilter.
type errFilter struct{ error }

func (e errFilter) Unwrap() error { return e.error }

// notTransformed is the verdict on an answer that a filter could not change, or would not let out.
func (c *call) notTransformed(err error) reason.Verdict {
	var w policy.Withheld
	if errors.As(err, &w) {
		return w.Verdict
	}
	return answerUnchanged.Refuse(reason.Rule("error", err.Error()), c.x.OwnerFact())
}

// contentless says that an answer has no content, whatever its length says (RFC 9110 §6.4.1).
func (c *call) contentless(h *wire.Head) bool {
	return c.x.Method == "HEAD" || h.Status == 204 || h.Status == 304 || h.Status < 200
}

// filter readies the filters of the route for an answer. They see the heads of answers without
// content too, but then there is nothing for them to change. What gRPC answers is not theirs: its
// messages have a framing of their own.
func (c *call) filter(h *wire.Head) error {
	c.filters = c.filters[:0]
	if len(c.route.Filters) == 0 || isGRPCType(h.Fields.Get(wire.ContentType)) {
		return nil
	}
	for _, f := range c.route.Filters {
		t, err := f.Filter(&c.x, h)
		if err != nil {
			c.filters = c.filters[:0]
			return errFilter{err}
		}
		if t != nil {
			c.filters = append(c.filters, t)
		}
	}
	if c.contentless(h) {
		c.filters = c.filters[:0]
	}
	return nil
}

// transform runs a piece of the answer through the filters, each of which sees what the one before
// it made. With flush they give out what they hold back, as far as they can.
func (c *call) transform(piece []byte, last, flush bool) ([]byte, error) {
	for _, t := range c.filters {
		out, err := t.Write(piece, last)
		if err != nil {
			return nil, errFilter{err}
		}
		piece = out
		if f, ok := t.(policy.Flusher); ok && flush && !last {
			rest, err := f.Flush()
			if err != nil {
				return nil, errFilter{err}
			}
			if len(piece) == 0 {
				piece = rest
			} else if len(rest) > 0 {
				piece = append(piece[:len(piece):len(piece)], rest...)
			}
		}
	}
	return piece, nil
}

// nap is a wait that ends when the client leaves.
type nap struct {
	once sync.Once
	left chan struct{}
}

func (n *nap) Interrupt() { n.once.Do(func() { close(n.left) }) }

// Wait is policy.Waiting.
func (c *call) Wait(done <-chan struct{}, atMost time.Duration) bool {
	n := &nap{left: make(chan struct{})}
	c.w.Bind(n)
	t := time.NewTimer(atMost)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	case <-n.left:
	}
	return !c.w.Unbind()
}
