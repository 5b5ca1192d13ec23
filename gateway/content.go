package gateway

import (
	"errors"
	"time"

	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// content is the request's content where a check has asked for it.
type content struct {
	read    bool // all of it
	bytes   []byte
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
		{By: reason.Owner, Text: "ask {owner|the owner of this API} to let larger bodies be checked, or pass"},
	},
	Hint: "the check that refused has a setting maxBody",
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
	if b := c.route.Body; b != nil && b.Body >= 0 {
		max = min(max, b.Body)
	}
	if c.x.Length > 0 {
		k.bytes = make([]byte, 0, c.x.Length)
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
		if c.pieceIn += int64(len(piece)); c.pieceIn > max {
			k.refused = tooLargeToCheck(&c.x, 0, max)
			c.head.Close = true
			return nil, k.refused
		}
		k.bytes = append(k.bytes, piece...)
		if last {
			k.read = true
			return k.bytes, reason.Verdict{}
		}
	}
}

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
	Fixes:  []reason.Fix{{By: reason.Owner, Text: "ask {owner|the owner of this API} about it: {error}"}},
	Hint:   "policies that change content read answers whole, up to their maxBody",
})

// errFilter wraps an error of a ContentFilter.
type errFilter struct{ error }

// filter readies the filters of the route for an answer.
func (c *call) filter(h *wire.Head) {
	c.filters = c.filters[:0]
	for _, f := range c.route.Filters {
		if t := f.Filter(&c.x, h); t != nil {
			c.filters = append(c.filters, t)
		}
	}
}

// transform runs a piece of the answer through the filters.
func (c *call) transform(piece []byte, last bool) ([]byte, error) {
	for _, t := range c.filters {
		var err error
		if piece, err = t.Write(piece, last); err != nil {
			return nil, errFilter{err}
		}
	}
	return piece, nil
}
