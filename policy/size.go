package policy

import (
	"strings"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
)

// Size bounds how large a request may be.
//
// Without this policy the limits of the Gateway hold: 10 MiB for the body. A body whose size is not
// announced is counted while it is forwarded, and the call is refused when it grows too
// large. Header and target bounds here can only be narrower than those of the Gateway,
// which hold before any route is known.
//
//	policies:
//	- size: {body: 1MiB}
type Size struct {
	// Body is the largest request body; "unlimited" lifts the bound.
	Body resource.Size `json:"body" default:"10MiB" unlimited:"true"`
	// Header bounds the names and values of all header fields together; 0 leaves it to the Gateway.
	Header resource.Size `json:"header"`
	// URI bounds the request target; 0 leaves it to the Gateway.
	URI resource.Size `json:"uri"`
}

var (
	bodyTooLarge = reason.New(reason.Reason{
		Code: "size.body", Status: 413,
		Title:  "The request body is too large",
		Says:   "the body has {size}, {over} more than the allowed {limit}",
		Wanted: "a body of at most {limit}",
		Seen:   "{size}, {over} too many",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "send at most {limit}[, for instance in several calls]"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to raise the limit"},
		},
		Hint: "policy size of the route or API, else limits.bodyBytes of the Gateway",
	})
	headerTooLarge = reason.New(reason.Reason{
		Code: "size.header", Status: 431,
		Title:  "The request header is too large",
		Says:   "the header fields have {size}, {over} more than the allowed {limit}; the largest is {field}",
		Wanted: "header fields of at most {limit}",
		Seen:   "{size}, of it {field} with {field_size}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "make {field} smaller; cookies are the usual cause"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to raise the limit"},
		},
		Hint: "policy size of the route or API",
	})
	uriTooLong = reason.New(reason.Reason{
		Code: "size.uri", Status: 414,
		Title:  "The request target is too long",
		Says:   "the request target has {size}, {over} more than the allowed {limit}",
		Wanted: "a target of at most {limit}",
		Seen:   "{size}, {over} too many",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "shorten the query, or send it as the body of a POST"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to raise the limit"},
		},
		Hint: "policy size of the route or API",
	})
)

// SizeCheck is exported since the gateway goes on counting a body that did not announce its size.
type SizeCheck struct {
	Body        int64 // -1 for no bound
	header, uri int
	at          *reason.Source
}

// Compile takes the bounds over.
func (p *Size) Compile(env *Env) any {
	if p.Header > 0 && p.Header > env.Gateway.Limits.HeaderBytes {
		env.Lint("size.header-beyond-gateway", "header", "raise limits.headerBytes of the Gateway", "the Gateway refuses headers above %v before this policy sees them", env.Gateway.Limits.HeaderBytes)
	}
	if p.URI > 0 && p.URI > env.Gateway.Limits.URIBytes {
		env.Lint("size.uri-beyond-gateway", "uri", "raise limits.uriBytes of the Gateway", "the Gateway refuses targets above %v before this policy sees them", env.Gateway.Limits.URIBytes)
	}
	return &SizeCheck{Body: int64(p.Body), header: int(p.Header), uri: int(p.URI), at: env.Source("body")}
}

// Check compares what is known before the body is read.
func (c *SizeCheck) Check(x *Exchange) reason.Verdict {
	if c.Body >= 0 && x.BodySize > c.Body && !x.lifted(bodyTooLarge) {
		return c.TooLarge(x, x.BodySize)
	}
	if c.uri > 0 && len(x.Target) > c.uri && !x.lifted(uriTooLong) {
		return uriTooLong.Refuse(reason.Public("size", reason.Bytes(len(x.Target))), reason.Public("over", reason.Bytes(len(x.Target)-c.uri)), reason.Public("limit", reason.Bytes(c.uri)).At(c.at), x.OwnerFact())
	}
	if c.header > 0 {
		total, largest := 0, 0
		for i, f := range x.Fields {
			total += len(f.Name) + len(f.Value) + 4
			if len(f.Value) > len(x.Fields[largest].Value) {
				largest = i
			}
		}
		if total > c.header {
			f := x.Fields[largest]
			return headerTooLarge.Refuse(reason.Public("size", reason.Bytes(total)), reason.Public("over", reason.Bytes(total-c.header)), reason.Public("limit", reason.Bytes(c.header)).At(c.at),
				reason.Public("field", strings.Clone(f.Name)), reason.Public("field_size", reason.Bytes(len(f.Value))), x.OwnerFact())
		}
	}
	if x.Explaining && c.Body >= 0 {
		return reason.Pass(reason.Public("size", reason.Bytes(max(x.BodySize, 0))), reason.Public("limit", reason.Bytes(c.Body)).At(c.at))
	}
	return reason.Verdict{}
}

// TooLarge is the refusal of a body of at least n bytes.
func (c *SizeCheck) TooLarge(x *Exchange, n int64) reason.Verdict {
	return bodyTooLarge.Refuse(reason.Public("size", reason.Bytes(n)), reason.Public("over", reason.Bytes(n-c.Body)), reason.Public("limit", reason.Bytes(c.Body)).At(c.at), x.OwnerFact())
}

// DefaultSize is the check of routes without a policy size: the gateway's bound on bodies.
func DefaultSize(body int64, at *reason.Source) *SizeCheck { return &SizeCheck{Body: body, at: at} }
