package gateway

import (
	"time"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// What the parser refuses. Every rule of the grammar is a fact of request.malformed; sizes, times
// and what the gateway does not do have reasons of their own, since their cures differ.
var (
	requestMalformed = reason.New(reason.Reason{
		Code: "request.malformed", Status: 400,
		Title:  "The request is not well-formed HTTP",
		Says:   "{found}; wanted: {wanted}",
		Wanted: "{wanted}",
		Seen:   "{found}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "send {wanted}"}},
		Hint:   "the rule that it breaks is {rule}; what servers could read in two ways is refused, since attackers use the difference",
	})
	requestTooLarge = reason.New(reason.Reason{
		Code: "request.headers-too-large", Status: 431,
		Title:  "The request header is too large",
		Says:   "{found}",
		Wanted: "{wanted}[, at most {limit}]",
		Seen:   "{found}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "send {wanted}; cookies are the usual cause"}, {By: reason.Operator, Text: "raise limits.headerBytes or limits.headerCount of the Gateway"}},
		Hint:   "the rule that it breaks is {rule}",
	})
	requestTargetTooLong = reason.New(reason.Reason{
		Code: "request.uri-too-long", Status: 414,
		Title:  "The request target is too long",
		Says:   "{found}",
		Wanted: "{wanted}[, at most {limit} bytes]",
		Seen:   "{found}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "shorten the query, or send it as the body of a POST"}, {By: reason.Operator, Text: "raise limits.uriBytes of the Gateway"}},
		Hint:   "the rule that it breaks is {rule}",
	})
	requestTimeout = reason.New(reason.Reason{
		Code: "request.timeout", Status: 408,
		Title:  "The request did not arrive in time",
		Says:   "{found}",
		Wanted: "{wanted}",
		Seen:   "{found}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "send the request without long pauses"}, {By: reason.Operator, Text: "raise timeouts.header or timeouts.body of the Gateway"}},
		Hint:   "the rule that it breaks is {rule}; many of these at once are an attack of slow requests",
	})
	requestUnsupported = reason.New(reason.Reason{
		Code: "request.unsupported", Status: 501,
		Title:  "The gateway does not support what the request asks for",
		Says:   "{found}; wanted: {wanted}",
		Wanted: "{wanted}",
		Seen:   "{found}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "send {wanted}"}},
		Hint:   "the rule that it breaks is {rule}",
	})
	requestExpectation = reason.New(reason.Reason{
		Code: "request.expectation", Status: 417,
		Title:  "The expectation cannot be met",
		Says:   "{found}; wanted: {wanted}",
		Wanted: "{wanted}",
		Seen:   "{found}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "send {wanted}, or no Expect at all"}},
		Hint:   "the rule that it breaks is {rule}",
	})
	requestVersion = reason.New(reason.Reason{
		Code: "request.version", Status: 505,
		Title:  "This version of HTTP is not spoken here",
		Says:   "{found}; wanted: {wanted}",
		Wanted: "{wanted}",
		Seen:   "{found}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "speak {wanted}"}},
		Hint:   "the rule that it breaks is {rule}",
	})
	plainOnTLS = reason.New(reason.Reason{
		Code: "request.plain-http-on-tls", Status: 400,
		Title:  "Plain HTTP was spoken on an HTTPS port",
		Says:   "{found}",
		Wanted: "{wanted}",
		Seen:   "{found}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "use https:// instead of http://"}},
		Hint:   "a proxy in front that forwards to this port without TLS looks the same",
	})
	tooManyConnections = reason.New(reason.Reason{
		Code: "request.too-many-connections", Status: 503,
		Title:  "Too many connections are open",
		Says:   "{found}",
		Wanted: "{wanted}",
		Seen:   "{found}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "keep connections open and use them again[; {limit} may be open at once]"}, {By: reason.Operator, Text: "raise limits.connections or limits.connectionsPerAddress of the Gateway, or add the proxy in front to trustedProxies"}},
		Hint:   "the rule that it breaks is {rule}; a proxy that is not in trustedProxies counts as one client",
	})
)

func malformed(f *wire.Fault) reason.Verdict {
	r := requestMalformed
	switch f.Rule {
	case wire.HeadersTooLarge, wire.TooManyHeaders, wire.TrailersTooLarge:
		r = requestTooLarge
	case wire.TargetTooLong:
		r = requestTargetTooLong
	case wire.HeaderTimeout, wire.BodyTimeout:
		r = requestTimeout
	case wire.UnknownCoding, wire.ConnectMethod:
		r = requestUnsupported
	case wire.UnknownExpectation:
		r = requestExpectation
	case wire.UnsupportedVersion:
		r = requestVersion
	case wire.PlainOnTLS:
		r = plainOnTLS
	case wire.TooManyConns, wire.TooManyFromAddr:
		r = tooManyConnections
	case wire.EngineRefused: // net/http answers some of these by itself
		for _, known := range []*reason.Reason{requestTooLarge, requestUnsupported, requestExpectation, requestVersion, requestTimeout} {
			if known.Status == f.Status {
				r = known
			}
		}
	}
	facts := []reason.Fact{
		reason.Public("rule", string(f.Rule)),
		reason.Public("found", f.Text),
		reason.Public("wanted", f.Wanted),
	}
	if f.Limit > 0 {
		switch r {
		case requestTimeout:
			facts = append(facts, reason.Public("limit", time.Duration(f.Limit)), reason.Public("seen", reason.Bytes(f.Seen)))
		case requestTooLarge:
			facts = append(facts, reason.Public("limit", f.Limit), reason.Public("seen", f.Seen))
		default:
			facts = append(facts, reason.Public("limit", f.Limit), reason.Public("seen", f.Seen))
		}
	}
	return r.Refuse(facts...)
}
