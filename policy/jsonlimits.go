package policy

import (
	"strconv"
	"strings"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// JSONLimits bounds the shape of JSON in requests, and refuses what is no JSON.
//
// Deeply nested lists and objects with a million names cost a parser far more than their size
// tells. And where two parsers read one text in different ways, such as a name that is written
// twice, a check can be talked past: those texts are refused unless a setting lets them pass.
//
// Requests with a JSON content type are checked (application/json and all that end in +json), and those
// without any content type. A body that is compressed is decoded first; only gzip,
// deflate and zstd can be.
//
//	policies:
//	- json-limits: {depth: 16, keys: 200, elements: 1000}
type JSONLimits struct {
	// Depth is how many lists and objects may lie inside of each other.
	Depth int `json:"depth" default:"64" min:"1" max:"1000"`
	// Keys is how many names one object may have.
	Keys int `json:"keys" default:"10000" min:"1" unlimited:"true"`
	// Elements is how many values one list may have.
	Elements int `json:"elements" default:"10000" min:"1" unlimited:"true"`
	// Text is the longest text or name, in bytes of UTF-8, escapes resolved.
	Text resource.Size `json:"text" default:"64KiB" min:"1" unlimited:"true"`
	// Number is how many characters a number may have.
	Number int `json:"number" default:"64" min:"1" unlimited:"true"`
	// DuplicateKeys says what becomes of objects with a name written twice: one parser takes the first
	// value, another one the last (RFC 8259 §4).
	DuplicateKeys string `json:"duplicateKeys" default:"refuse" enum:"refuse,allow"`
	// InvalidUTF8 says what becomes of bytes that are not UTF-8, and of escapes that are half a character.
	InvalidUTF8 string `json:"invalidUTF8" default:"refuse" enum:"refuse,allow"`
	// All checks every request with content as JSON, whatever its content type.
	All bool `json:"all"`
	// MaxBody is the largest body that is checked; larger ones are refused. It holds for the decoded
	// body, too.
	MaxBody resource.Size `json:"maxBody" default:"1MiB" min:"1"`
}

func jsonReason(code string, title, says, wanted, seen, fix, remedy, hint string) *reason.Reason {
	return reason.New(reason.Reason{
		Code: "json." + code, Status: 400,
		Title: title, Says: says, Wanted: wanted, Seen: seen,
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: fix},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to " + remedy + " of the policy json-limits"},
		},
		Hint: hint,
	})
}

var (
	jsonMalformedReason = reason.New(reason.Reason{
		Code: "json.malformed", Status: 400,
		Title:  "The body is not JSON",
		Says:   "the body is not JSON: line {line}, column {column} wants {wanted}, and has {seen}",
		Wanted: "{wanted} in line {line}, column {column}[ (at {pointer})]",
		Seen:   "{seen}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "correct line {line}, column {column} of the body: write {wanted}"}},
		Hint:   "RFC 8259 knows no comments, no trailing commas and no single quotes",
	})
	jsonTooDeepReason = jsonReason("too-deep", "The JSON is nested too deep",
		"lists and objects lie {seen} deep inside of each other, and {limit} are allowed[; the first beyond is {pointer}]",
		"at most {limit} lists and objects inside of each other", "{seen}[, at {pointer}]",
		"nest at most {limit} deep", "raise depth", "policy json-limits, field depth")
	jsonManyKeysReason = jsonReason("too-many-keys", "An object has too many names",
		"the object[ {pointer}] has {seen} names, and {limit} are allowed",
		"at most {limit} names in an object", "{seen}[ in {pointer}]",
		"send objects with at most {limit} names", "raise keys", "policy json-limits, field keys")
	jsonManyElementsReason = jsonReason("too-many-elements", "A list has too many values",
		"the list[ {pointer}] has {seen} values, and {limit} are allowed",
		"at most {limit} values in a list", "{seen}[ in {pointer}]",
		"send lists of at most {limit} values, in several calls", "raise elements", "policy json-limits, field elements")
	jsonLongTextReason = jsonReason("text-too-long", "A text is too long",
		"a text or name[ at {pointer}] has {seen}, and {limit} are allowed",
		"texts of at most {limit}", "{seen}[ at {pointer}]",
		"shorten the text[ at {pointer}] to {limit}", "raise text", "policy json-limits, field text; names of objects count as texts")
	jsonLongNumberReason = jsonReason("number-too-long", "A number is too long",
		"a number[ at {pointer}] has {seen} characters, and {limit} are allowed",
		"numbers of at most {limit} characters", "{seen}[ at {pointer}]",
		"send the number[ at {pointer}] with fewer digits", "raise number", "policy json-limits, field number")
	jsonTwiceReason = jsonReason("duplicate-key", "A name is written twice in an object",
		"the name {pointer} is written twice, in line {first_line} and in line {line}; which of the values counts depends on who reads it",
		"each name once", "{pointer} in line {first_line}, column {first_column} and in line {line}, column {column}",
		"keep one of the two {pointer}", "set duplicateKeys: allow", "policy json-limits, field duplicateKeys; clients that build JSON by hand do this")
	jsonNotUTF8Reason = jsonReason("invalid-utf8", "The JSON is not UTF-8",
		"line {line}, column {column} has {seen}, which is no character",
		"UTF-8 (RFC 8259 §8.1)", "{seen} in line {line}, column {column}[ (at {pointer})]",
		"encode the body as UTF-8", "set invalidUTF8: allow", "policy json-limits, field invalidUTF8; Latin-1 is the usual cause")
)

type jsonCheck struct {
	bounds jsonBounds
	all    bool
	max    int64
	at     map[jsonFaultKind]*reason.Source
	source *reason.Source
}

// Compile takes the bounds over.
func (p *JSONLimits) Compile(env *Env) any {
	if body := env.Gateway.Limits.BodyBytes; body >= 0 && p.MaxBody > body && !env.Kinds["size"] {
		env.Lint("json-limits.beyond-gateway", "maxBody", "raise limits.bodyBytes of the Gateway, or add the policy size", "the Gateway refuses bodies above %v before this policy sees them", body)
	}
	return &jsonCheck{
		bounds: jsonBounds{depth: p.Depth, keys: p.Keys, elements: p.Elements, values: -1, text: int(p.Text), numberText: p.Number, exponent: -1,
			twice: p.DuplicateKeys == "allow", notUTF8: p.InvalidUTF8 == "allow"},
		all: p.All, max: int64(p.MaxBody), source: env.Source(""),
		at: map[jsonFaultKind]*reason.Source{jsonTooDeep: env.Source("depth"), jsonManyKeys: env.Source("keys"), jsonManyElements: env.Source("elements"),
			jsonLongText: env.Source("text"), jsonLongNumber: env.Source("number"), jsonTwice: env.Source("duplicateKeys"), jsonNotUTF8: env.Source("invalidUTF8")},
	}
}

// Impersonal is true: the bounds are the same for everybody.
func (c *jsonCheck) Impersonal() bool { return true }

// ReadsBody says that the content is read.
func (c *jsonCheck) ReadsBody() bool { return true }

// Check reads the body once. A body that is compressed costs the memory of the decoded one.
func (c *jsonCheck) Check(x *Exchange) reason.Verdict {
	if x.BodySize == 0 || !c.all && !mayBeJSON(x) {
		if x.Explaining {
			return reason.Pass(reason.Public("checked", "nothing: the request has no JSON"))
		}
		return reason.Verdict{}
	}
	body, v := x.plainBody(c.max, maxRatio, c.source)
	if v.Refused() {
		return v
	}
	if len(body) == 0 { // sent in chunks, and empty
		return reason.Verdict{}
	}
	if f := scanJSON(body, &c.bounds); f.kind != jsonFine {
		return c.refuse(x, body, f)
	}
	if x.Explaining {
		return reason.Pass(reason.Public("checked", reason.Bytes(len(body))), reason.Public("limit", c.bounds.depth).At(c.at[jsonTooDeep]))
	}
	return reason.Verdict{}
}

// mayBeJSON says that the content is JSON by its type, or that it has none.
func mayBeJSON(x *Exchange) bool {
	t, ok := x.Fields.Find(wire.ContentType)
	return !ok || isJSONType(t)
}

// isJSONType is application/json, text/json and every type that ends in +json (RFC 6839 §3.1).
func isJSONType(t string) bool {
	t, _, _ = strings.Cut(t, ";")
	t = strings.TrimRight(t, " \t")
	return wire.EqualFold(t, "application/json") || wire.EqualFold(t, "text/json") || len(t) > 5 && wire.EqualFold(t[len(t)-5:], "+json")
}

// refuse tells a fault.
func (c *jsonCheck) refuse(x *Exchange, body []byte, f jsonFault) reason.Verdict {
	facts := f.facts(body)
	limit := func(v any) { facts = append(facts, reason.Public("limit", v).At(c.at[f.kind]), x.OwnerFact()) }
	seen := func(v any) { facts = append(facts, reason.Public("seen", v)) }
	switch f.kind {
	case jsonTooDeep:
		limit(f.limit)
		seen(f.count)
		return jsonTooDeepReason.Refuse(facts...)
	case jsonManyKeys, jsonManyElements:
		limit(f.limit)
		seen(f.count)
		// The list or object is at fault, and not what lies in it.
		for i := range facts {
			if p := &facts[i]; p.Name == "pointer" && f.kind == jsonManyElements {
				p.Value = strings.TrimSuffix(p.Text(), "/"+strconv.Itoa(f.limit))
			}
		}
		if facts[0].Text() == "" {
			facts = facts[1:]
		}
		if f.kind == jsonManyKeys {
			return jsonManyKeysReason.Refuse(facts...)
		}
		return jsonManyElementsReason.Refuse(facts...)
	case jsonLongText:
		limit(reason.Bytes(f.limit))
		seen(reason.Bytes(f.count))
		return jsonLongTextReason.Refuse(facts...)
	case jsonLongNumber:
		limit(f.limit)
		seen(f.count)
		return jsonLongNumberReason.Refuse(facts...)
	case jsonTwice:
		facts = append(facts, reason.Rule("setting", "refuse").At(c.at[f.kind]), x.OwnerFact())
		return jsonTwiceReason.Refuse(facts...)
	case jsonNotUTF8:
		facts = append(facts, reason.Rule("setting", "refuse").At(c.at[f.kind]), x.OwnerFact())
		return jsonNotUTF8Reason.Refuse(facts...)
	}
	return jsonMalformedReason.Refuse(append(facts, x.OwnerFact())...)
}

// facts are where a fault is and what was met there, the pointer first.
func (f jsonFault) facts(body []byte) []reason.Fact {
	line, column := lineAndColumn(body, f.at)
	facts := []reason.Fact{reason.Public("pointer", f.pointer(body)), reason.Public("line", line), reason.Public("column", column)}
	if facts[0].Text() == "" && f.kind == jsonMalformed {
		facts = facts[1:]
	}
	switch f.kind {
	case jsonTwice:
		line, column := lineAndColumn(body, f.count)
		facts = append(facts, reason.Public("first_line", line), reason.Public("first_column", column))
	case jsonNotUTF8:
		facts = append(facts, reason.Public("seen", f.notUTF8(body)))
	case jsonMalformed:
		facts = append(facts, reason.Public("wanted", f.wanted), reason.Public("seen", f.met(body)))
	}
	return facts
}

// notUTF8 is the byte or escape that is no character.
func (f jsonFault) notUTF8(body []byte) string {
	if body[f.at] == '\\' {
		return "the escape " + string(body[f.at:min(f.at+6, len(body))]) + " without its other half"
	}
	return "the byte 0x" + strings.ToUpper(strconv.FormatUint(uint64(body[f.at])|0x100, 16)[1:])
}

// met is the character at a fault.
func (f jsonFault) met(body []byte) string {
	if f.at >= len(body) {
		return "the end of the body"
	}
	r := []rune(strings.ToValidUTF8(string(body[f.at:min(f.at+4, len(body))]), "\ufffd"))[0]
	switch {
	case r == '\n' || r == '\r':
		return "the end of the line"
	case r < ' ' || r == 0x7f:
		return "the byte 0x" + strings.ToUpper(strconv.FormatUint(uint64(r)|0x100, 16)[1:])
	}
	return strconv.Quote(string(r))
}
