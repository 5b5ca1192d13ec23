package policy

import (
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// ContentType names the media types and content codings that requests may have.
//
// It asks requests with content only. An entry of Allow is a media type, "image/*" for all of a type,
// "+json" for all that end in +json, or "*/*". A refusal says what is taken in Accept, and in Accept-Post
// or Accept-Patch (RFC 9110 §15.5.16).
//
// Compressed content is refused unless its coding is among Encodings. Then it is decoded here, within
// bounds, so that no later check and no upstream meets a body that grows without end; the upstream gets it
// as it came.
//
//	policies:
//	- content-type: {allow: [application/json, "+json"], encodings: [gzip]}
type ContentType struct {
	// Allow lists the media types that pass. Parameters do not count, but for Charsets.
	Allow []string `json:"allow" required:"true" example:"[application/json]"`
	// Charsets that may be named, in any case. Whoever names none passes. An empty list lets every name pass.
	Charsets []string `json:"charsets" example:"[utf-8]"`
	// Missing says what becomes of content without a Content-Type.
	Missing string `json:"missing" default:"refuse" enum:"refuse,allow"`
	// Encodings are the content codings that pass besides none.
	Encodings []string `json:"encodings" enum:"gzip,deflate,zstd"`
	// Decode has compressed content decoded here. Without it that passes unread, and checks that read it
	// decode it by their own maxBody.
	Decode bool `json:"decode" default:"true"`
	// Decoded is how large compressed content may become.
	Decoded resource.Size `json:"decoded" default:"10MiB" min:"1"`
	// Ratio is how many times its size compressed content may become. Up to 64 KiB any ratio passes.
	Ratio int `json:"ratio" default:"100" min:"2" max:"2000"`
}

var (
	typeNotAllowed = reason.New(reason.Reason{
		Code: "content-type.not-allowed", Status: 415,
		Title:  "Content of this type is not taken here",
		Says:   "the body is {seen}, and this API takes {wanted}",
		Wanted: "a body of type {wanted}",
		Seen:   "{seen}[; {slip}]",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "send a body of type {wanted}[, with Content-Type: {example}]"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to take {seen}"},
		},
		Hint: "settings allow and charsets of the policy content-type",
	})
	typeMissing = reason.New(reason.Reason{
		Code: "content-type.missing", Status: 415,
		Title:  "The body does not say what type it is",
		Says:   "the request has content and no Content-Type; this API takes {wanted}",
		Wanted: "Content-Type {wanted}",
		Seen:   "no Content-Type",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "send the header Content-Type[: {example}]"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to take content without a type"},
		},
		Hint: "setting missing of the policy content-type",
	})
)

type typeCheck struct {
	allow     []string // in lower case
	charsets  []string
	missing   bool // may be
	encodings []string
	decode    bool
	decoded   int64
	ratio     int
	accept    string // for the fields of answers
	example   string
	at        *reason.Source
	charsetAt *reason.Source
	codingAt  *reason.Source
	boundAt   *reason.Source
}

// Compile checks the types.
func (p *ContentType) Compile(env *Env) any {
	c := &typeCheck{missing: p.Missing == "allow", encodings: p.Encodings, decode: p.Decode, decoded: int64(p.Decoded), ratio: p.Ratio,
		at: env.Source("allow"), charsetAt: env.Source("charsets"), codingAt: env.Source("encodings"), boundAt: env.Source("decoded")}
	var ranges []string
	for i, t := range p.Allow {
		low := strings.ToLower(t)
		if hint := wrongRange(low); hint != "" {
			env.Problem(index("allow", i), hint, "%q is no media type", t)
			continue
		}
		if slices.Contains(c.allow, low) {
			env.Problem(index("allow", i), "remove one of them", "%q is listed twice", t)
		}
		c.allow = append(c.allow, low)
		switch {
		case low[0] == '+':
			if low == "+json" && c.example == "" {
				c.example = "application/json"
			}
		case strings.HasSuffix(low, "/*"):
			ranges = append(ranges, low)
		default:
			ranges = append(ranges, low)
			if c.example == "" || c.example == "application/json" {
				c.example = low
			}
		}
	}
	for i, s := range p.Charsets {
		if !wire.IsToken(s) {
			env.Problem(index("charsets", i), "for example utf-8", "%q is no name of a charset", s)
		}
		c.charsets = append(c.charsets, strings.ToLower(s))
	}
	for _, f := range []string{"decoded", "ratio"} {
		if len(p.Encodings) == 0 && env.Node.At(f) != env.Node.At("") {
			env.Lint("content-type.bound-unused", f, "list the codings that may come under encodings", "compressed content is refused, so %s bounds nothing", f)
		}
	}
	c.accept = strings.Join(ranges, ", ")
	return c
}

// wrongRange says what is wrong with an entry of Allow, "" for nothing.
func wrongRange(t string) (hint string) {
	const forms = `write application/json, image/*, +json or */*`
	if s, ok := strings.CutPrefix(t, "+"); ok {
		if !wire.IsToken(s) {
			return forms
		}
		return ""
	}
	kind, sub, ok := strings.Cut(t, "/")
	switch {
	case strings.Contains(t, ";"):
		return "leave parameters out; charsets has a setting of its own"
	case strings.HasPrefix(sub, "*+"):
		return "write " + sub[1:] + " for all types that end so"
	case !ok:
		for _, known := range []string{"application/json", "application/xml", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"} {
			if strings.HasSuffix(known, "/"+t) {
				return "did you mean " + known + "?"
			}
		}
		return forms
	case !wire.IsToken(kind) || !wire.IsToken(sub) || kind == "*" && sub != "*" || sub != "*" && strings.Contains(sub, "*") || kind != "*" && strings.Contains(kind, "*"):
		return forms
	}
	return ""
}

// Impersonal is true: what the content is does not depend on who sends it.
func (c *typeCheck) Impersonal() bool { return true }

// ReadsBody says that compressed content is decoded here.
func (c *typeCheck) ReadsBody() bool { return c.decode && len(c.encodings) > 0 }

// Check compares the type. Where content is compressed it reads and decodes it, which costs the memory of
// the decoded content.
func (c *typeCheck) Check(x *Exchange) reason.Verdict {
	if x.BodySize == 0 {
		if x.Explaining {
			return reason.Pass(reason.Public("content", "none"))
		}
		return reason.Verdict{}
	}
	t, has := x.Fields.Find(wire.ContentType)
	if !has || strings.TrimSpace(t) == "" {
		if !c.missing && !x.lifted(typeMissing) {
			c.tell(x)
			return typeMissing.Refuse(append(c.wanted(), x.OwnerFact())...)
		}
	} else if v := c.judge(x, t); v.Refused() && !x.lifted(v.Reason) {
		return v
	}
	if name := contentCoding(x); name != "" {
		if !slices.Contains(c.encodings, name) {
			return x.wrongCoding(name, c.encodings, c.codingAt)
		}
		if c.decode {
			if _, v := x.plainBody(c.decoded, c.ratio, c.boundAt); v.Refused() {
				return v
			}
		}
	}
	if x.Explaining {
		return reason.Pass(reason.Public("type", cutText(strings.Clone(t), 80)), reason.Public("allowed", c.allow).At(c.at))
	}
	return reason.Verdict{}
}

// judge decides about a Content-Type.
func (c *typeCheck) judge(x *Exchange, t string) reason.Verdict {
	media, params, _ := strings.Cut(t, ";")
	media = strings.Trim(media, " \t")
	if n := x.Fields.Count("Content-Type"); n > 1 {
		return c.refuse(x, "declared "+strconv.Itoa(n)+" times", "send one Content-Type: which of several counts depends on who reads them", c.at)
	}
	if !c.takes(media) {
		seen := cutText(strings.Clone(media), 80)
		slip := ""
		switch {
		case strings.Contains(media, ",") || !strings.Contains(media, "/"):
			slip = "that is no media type"
		case wire.EqualFold(media, "application/x-www-form-urlencoded"):
			slip = "curl -d says so unless it is told otherwise"
		case wire.EqualFold(media, "text/plain"):
			slip = "fetch says so for texts unless it is told otherwise"
		}
		return c.refuse(x, seen, slip, c.at)
	}
	if len(c.charsets) > 0 && params != "" {
		if cs := charsetOf(params); cs != "" && !slices.ContainsFunc(c.charsets, func(have string) bool { return wire.EqualFold(have, cs) }) {
			return c.refuse(x, cutText(media+" in charset "+cs, 80), "write charset="+c.charsets[0], c.charsetAt)
		}
	}
	return reason.Verdict{}
}

func (c *typeCheck) refuse(x *Exchange, seen, slip string, at *reason.Source) reason.Verdict {
	c.tell(x)
	facts := c.wanted()
	facts[0].From = at
	if at == c.charsetAt {
		facts[0].Value = reason.List(c.allow) + " in charset " + reason.List(c.charsets)
		if c.example != "" {
			facts[1].Value = c.example + "; charset=" + c.charsets[0]
		}
	}
	facts = append(facts, reason.Public("seen", seen), x.OwnerFact())
	if slip != "" {
		facts = append(facts, reason.Public("slip", slip))
	}
	return typeNotAllowed.Refuse(facts...)
}

// wanted are the facts of what would pass.
func (c *typeCheck) wanted() []reason.Fact {
	facts := []reason.Fact{reason.Public("wanted", reason.List(c.allow)).At(c.at)}
	if c.example != "" {
		facts = append(facts, reason.Public("example", c.example))
	}
	return facts
}

// tell says in the answer's fields what is taken: Accept (RFC 9110 §12.5.1), Accept-Post (Linked Data
// Platform §7.1) and Accept-Patch (RFC 5789 §3.1).
func (c *typeCheck) tell(x *Exchange) {
	if c.accept == "" {
		return
	}
	x.Extra.Add("Accept", c.accept)
	switch x.Method {
	case "POST":
		x.Extra.Add("Accept-Post", c.accept)
	case "PATCH":
		x.Extra.Add("Accept-Patch", c.accept)
	}
}

// takes compares a media type with the list.
func (c *typeCheck) takes(media string) bool {
	for _, a := range c.allow {
		if typeMatches(media, a) {
			return true
		}
	}
	return false
}

// typeMatches compares a media type with one that may be a wildcard or a suffix.
func typeMatches(media, a string) bool {
	switch {
	case a[0] == '+':
		return len(media) > len(a) && wire.EqualFold(media[len(media)-len(a):], a)
	case a == "*/*":
		return strings.IndexByte(media, '/') > 0
	case a[len(a)-1] == '*':
		return len(media) >= len(a) && wire.EqualFold(media[:len(a)-1], a[:len(a)-1])
	}
	return wire.EqualFold(media, a)
}

// charsetOf finds the charset among the parameters of a media type, without quotes.
func charsetOf(params string) string {
	for params != "" {
		var p string
		p, params, _ = strings.Cut(params, ";")
		name, value, ok := strings.Cut(p, "=")
		if ok && wire.EqualFold(strings.Trim(name, " \t"), "charset") {
			return strings.Trim(value, " \t\"")
		}
	}
	return ""
}
