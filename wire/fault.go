package wire

import (
	"fmt"
	"strings"
)

// Rule names the rule of the grammar that a message broke. Rules are facts of the
// reason request.malformed and part of the public surface.
type Rule string

// The rules. The comment says what an attacker gains where it is not kept.
const (
	BadRequestLine     Rule = "request-line"              // three parts, one space between
	BadStatusLine      Rule = "status-line"               // of an answer
	NotHTTP            Rule = "not-http"                  // an answer of another protocol
	BadMethod          Rule = "method"                    // a token
	BadVersion         Rule = "version"                   // HTTP/1.0 or HTTP/1.1
	BadTarget          Rule = "target"                    // origin, absolute or asterisk form
	BadTargetByte      Rule = "target-byte"               // no control bytes, spaces or fragments
	BadEscape          Rule = "percent-encoding"          // % and two hex digits
	NulInPath          Rule = "nul-in-path"               // %00 ends strings in C
	EscapesRoot        Rule = "path-escapes-root"         // more ".." than segments
	HiddenDots         Rule = "hidden-dot-segment"        // "..;" or "..%2F": dot segments to some servers
	AbsoluteConflict   Rule = "absolute-form-conflict"    // target and Host disagree
	BadHost            Rule = "host"                      // not a host name, address or port
	MissingHost        Rule = "host-missing"              // HTTP/1.1 demands one
	RepeatedHost       Rule = "host-repeated"             // routed by one, served by another
	BareLF             Rule = "bare-lf"                   // a line that ends in LF alone
	BareCR             Rule = "bare-cr"                   // CR without LF
	ObsFold            Rule = "obs-fold"                  // a header line that begins with white space
	SpaceBeforeColon   Rule = "space-before-colon"        // "Transfer-Encoding : chunked"
	BadFieldName       Rule = "field-name"                // not a token
	UnderscoreInName   Rule = "underscore-in-name"        // "_" reads as "-" to CGI and its heirs
	MissingColon       Rule = "colon-missing"             // a header line without a name
	BadFieldValue      Rule = "field-value"               // NUL or another control byte
	BadLength          Rule = "content-length"            // not a plain decimal number
	RepeatedLength     Rule = "content-length-repeated"   // even when the values agree
	LengthAndCoding    Rule = "content-length-and-coding" // Content-Length beside Transfer-Encoding
	UnknownCoding      Rule = "transfer-coding"           // anything but one "chunked"
	CodingIn10         Rule = "transfer-coding-in-1.0"    // HTTP/1.0 knows none
	BadChunkSize       Rule = "chunk-size"                // not hexadecimal, or too large
	BadChunkExtension  Rule = "chunk-extension"           // control bytes or too long
	BadChunkEnd        Rule = "chunk-end"                 // data not followed by CRLF
	BadTrailer         Rule = "trailer"                   // a trailer line that is no field
	ForbiddenTrailer   Rule = "trailer-forbidden"         // framing or routing fields after the body
	TrailersTooLarge   Rule = "trailers-too-large"        // more than the header may hold
	HeadersTooLarge    Rule = "headers-too-large"         // 431
	TooManyHeaders     Rule = "headers-too-many"          // 431
	TargetTooLong      Rule = "uri-too-long"              // 414
	UnknownExpectation Rule = "expect"                    // 417
	UnsupportedVersion Rule = "version-unsupported"       // 505
	UpgradeWithBody    Rule = "upgrade-with-body"         // a body before the tunnel hides a second request
	ConnectMethod      Rule = "connect"                   // this is no forward proxy
	HeaderTimeout      Rule = "header-timeout"            // 408
	BodyTimeout        Rule = "body-timeout"              // 408
	BodyCutShort       Rule = "body-cut-short"            // the client closed within the body
	BadProxyHeader     Rule = "proxy-protocol"            // a trusted peer sent no good PROXY header
	EngineRefused      Rule = "engine"                    // net/http refused it, in its own words
	PlainOnTLS         Rule = "plain-http-on-tls"         // http:// where https:// is spoken
	TooManyConns       Rule = "connections"               // of this node; 503
	TooManyFromAddr    Rule = "connections-per-address"   // 503
)

// Fault is a message that broke a rule. It carries the facts: what was there and
// where. As an error it reads well in a log. It never quotes what may be a secret: a header
// value, a query, user information, content. Whoever frames a message wrongly has any of them
// stand where a name or a number was due.
type Fault struct {
	Rule   Rule
	Status int    // of the answer: 400, 408, 413, 414, 417, 431, 501 or 505
	Text   string // what was found, with the offending part quoted
	Wanted string // what would have been right
	Limit  int64  // of the sizes: the bound, 0 without
	Seen   int64  // of the sizes: what came
}

func (f *Fault) Error() string { return string(f.Rule) + ": " + f.Text }

func fault(r Rule, wanted, format string, args ...any) *Fault {
	return &Fault{Rule: r, Status: 400, Wanted: wanted, Text: fmt.Sprintf(format, args...)}
}

func (f *Fault) status(n int) *Fault { f.Status = n; return f }

func tooLarge(r Rule, status int, limit, seen int64, wanted, format string, args ...any) *Fault {
	f := fault(r, wanted, format, args...)
	f.Status, f.Limit, f.Seen = status, limit, seen
	return f
}

// excerpt is at most n bytes of s, which is no secret, for quoting in a Fault. The copy outlives the call.
func excerpt(s string, n int) string {
	if len(s) > n {
		return fmt.Sprintf("%q…", s[:n])
	}
	return fmt.Sprintf("%q", s)
}

// begins says which name known to everybody a text begins with, or nothing: what is not known
// may be a secret that stands in the wrong place.
func begins(s string) string {
	n := 0
	for n < len(s) && is(s[n], tokenByte) {
		n++
	}
	if FieldIDOf(s[:n]) != OtherField {
		return ", which begins with " + strings.Clone(s[:n])
	}
	for _, m := range [...]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} {
		if strings.HasPrefix(s, m) {
			return ", which begins with " + m
		}
	}
	return ""
}

// Rules lists all rules, for the reference.
func Rules() []Rule {
	return []Rule{
		BadRequestLine, BadStatusLine, NotHTTP, BadMethod, BadVersion, BadTarget, BadTargetByte, BadEscape, NulInPath, EscapesRoot, HiddenDots, AbsoluteConflict, BadHost, MissingHost, RepeatedHost, BareLF, BareCR, ObsFold, SpaceBeforeColon, BadFieldName, UnderscoreInName, MissingColon, BadFieldValue, BadLength, RepeatedLength, LengthAndCoding, UnknownCoding, CodingIn10, BadChunkSize, BadChunkExtension, BadChunkEnd, BadTrailer, ForbiddenTrailer, TrailersTooLarge, HeadersTooLarge, TooManyHeaders, TargetTooLong, UnknownExpectation, UnsupportedVersion, UpgradeWithBody, ConnectMethod, HeaderTimeout, BodyTimeout, BodyCutShort, BadProxyHeader, EngineRefused, PlainOnTLS, TooManyConns, TooManyFromAddr,
	}
}
