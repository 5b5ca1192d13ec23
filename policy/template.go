package policy

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/wire"
)

// template is a text with placeholders for what a call holds.
type template struct{ parts []part }

type part struct {
	name      string // as it is written
	text      string // where value is nil
	value     func(t *templated) (string, bool)
	body      jsonPath // instead of value
	isBody    bool
	otherwise string // without a value
	has       bool   // otherwise holds
	raw       bool   // the value is a part of a path already
}

// templated is the call that a template is filled from.
type templated struct {
	x    *Exchange
	body *jsonNode // nil where there is none
}

// placeholders lists what a template may name, for hints.
const placeholders = "{path.NAME}, {query.NAME}, {header.NAME}, {claim.NAME}, {subject}, {application}, {plan}, {client}, {method}, {host}, {path}"

// parseTemplate reads a text with {placeholders}; {{ and }} are braces. bodies says that {body.PATH} may
// be used.
func parseTemplate(env *Env, field, text string, bodies bool) *template {
	t := &template{}
	literal := func(s string) {
		if n := len(t.parts); n > 0 && t.parts[n-1].value == nil && !t.parts[n-1].isBody {
			t.parts[n-1].text += s
		} else {
			t.parts = append(t.parts, part{text: s})
		}
	}
	for rest := text; rest != ""; {
		i := strings.IndexAny(rest, "{}")
		if i < 0 {
			literal(rest)
			break
		}
		if i > 0 {
			literal(rest[:i])
		}
		switch {
		case i+1 < len(rest) && rest[i+1] == rest[i]:
			literal(rest[i : i+1])
			rest = rest[i+2:]
			continue
		case rest[i] == '}':
			env.Problem(field, "write }} for a brace", "%q holds a } without its {", text)
			return t
		}
		end := strings.IndexByte(rest[i:], '}')
		if end < 0 {
			env.Problem(field, "write {{ for a brace", "%q holds a { without its }", text)
			return t
		}
		name, otherwise, has := strings.Cut(rest[i+1:i+end], "|")
		p, err := placeholder(env.Route, name, bodies)
		if err != "" {
			known := placeholders
			if bodies {
				known += ", {body.PATH}"
			}
			env.Problem(field, "known: "+known, "{%s}: %s", name, err)
			return t
		}
		p.name, p.otherwise, p.has = name, otherwise, has
		t.parts = append(t.parts, p)
		rest = rest[i+end+1:]
	}
	return t
}

func placeholder(r *Route, name string, bodies bool) (p part, err string) {
	family, member, dotted := strings.Cut(name, ".")
	if dotted && member == "" {
		return p, "a name is missing behind the dot"
	}
	some := func(s string) (string, bool) { return s, s != "" }
	switch {
	case family == "body" && bodies:
		p.isBody = true
		if dotted {
			path, e := parseJSONPath(member)
			if e != nil {
				return p, e.Error()
			}
			p.body = path
		}
	case family == "path" && dotted:
		segment, rest := -1, false
		for i, s := range strings.Split(r.Template, "/") {
			if s == "{"+member+"}" || s == "{"+member+"...}" {
				segment, rest = i, strings.HasSuffix(s, "...}")
			}
		}
		if segment < 0 {
			return p, fmt.Sprintf("the path %s of the route %q has no parameter of that name", r.Template, r.Name)
		}
		mount := len(r.Mount)
		p.raw = true
		p.value = func(t *templated) (string, bool) {
			return some(pathSegment(t.x.Path[min(mount, len(t.x.Path)):], segment, rest))
		}
	case family == "query" && dotted:
		p.value = func(t *templated) (string, bool) { return some(queryParameter(t.x.Query, member)) }
	case family == "header" && dotted:
		if !wire.IsToken(member) {
			return p, "that is no header name"
		}
		if wire.FieldIDOf(member) == wire.Authorization || wire.FieldIDOf(member) == wire.ProxyAuthorization || wire.FieldIDOf(member) == wire.Cookie {
			return p, "credentials are not copied to other places"
		}
		p.value = func(t *templated) (string, bool) { return t.x.Fields.Lookup(member) }
	case family == "claim" && dotted:
		steps := strings.Split(member, ".")
		p.value = func(t *templated) (string, bool) { return claim(t.x, member, steps) }
	case dotted:
		return p, "there is no such value"
	default:
		switch name {
		case "subject":
			p.value = func(t *templated) (string, bool) {
				if t.x.Identity == nil {
					return "", false
				}
				return some(t.x.Identity.Subject)
			}
		case "application":
			p.value = func(t *templated) (string, bool) {
				if t.x.Application == nil {
					return "", false
				}
				return t.x.Application.Name, true
			}
		case "plan":
			p.value = func(t *templated) (string, bool) {
				if t.x.Plan == nil {
					return "", false
				}
				return t.x.Plan.Name, true
			}
		case "client":
			p.value = func(t *templated) (string, bool) { return t.x.Client.Addr.String(), true }
		case "method":
			p.value = func(t *templated) (string, bool) { return t.x.Method, true }
		case "host":
			p.value = func(t *templated) (string, bool) { return some(t.x.Host) }
		case "path":
			p.raw = true
			p.value = func(t *templated) (string, bool) { return t.x.Path, true }
		default:
			return p, "there is no such value"
		}
	}
	return p, ""
}

// pathSegment is a segment of a path as the request has it, or all from there on.
func pathSegment(path string, n int, rest bool) string {
	for ; n > 0; n-- {
		i := strings.IndexByte(path, '/')
		if i < 0 {
			return ""
		}
		path = path[i+1:]
	}
	if i := strings.IndexByte(path, '/'); i >= 0 && !rest {
		path = path[:i]
	}
	return path
}

// claim is a claim as text: one of that whole name, or one within others.
func claim(x *Exchange, whole string, steps []string) (string, bool) {
	if x.Identity == nil {
		return "", false
	}
	v, ok := x.Identity.Claims[whole]
	if !ok {
		at := x.Identity.Claims
		for i, s := range steps {
			if v, ok = at[s]; !ok {
				return "", false
			}
			if i < len(steps)-1 {
				if at, ok = v.(map[string]any); !ok {
					return "", false
				}
			}
		}
	}
	return plainText(v)
}

func plainText(v any) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "", false
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), true
	case json.Number:
		return v.String(), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case []string:
		return strings.Join(v, ","), true
	case []any:
		var all []string
		for _, e := range v {
			if s, ok := plainText(e); ok {
				all = append(all, s)
			}
		}
		return strings.Join(all, ","), true
	}
	return "", false
}

// value of one part.
func (p *part) fill(t *templated) (string, bool) {
	v, ok := "", false
	switch {
	case p.isBody:
		if t.body != nil {
			if n := t.body.find(p.body); n != nil && string(n.raw) != "null" {
				if ok = true; n.open == 0 && n.raw[0] == '"' {
					v = unquote(n.raw)
				} else {
					v = string(n.append(nil))
				}
			}
		}
	case p.value == nil:
		return p.text, true
	default:
		v, ok = p.value(t)
		if ok && p.raw { // as it is written in the request
			if d, err := url.PathUnescape(v); err == nil {
				v = d
			}
		}
	}
	if !ok && p.has {
		return p.otherwise, true
	}
	return v, ok
}

// text fills the template. ok is false where a placeholder has neither a value nor one to take otherwise.
func (t *template) text(from *templated) (s string, ok bool) {
	if len(t.parts) == 1 && t.parts[0].value == nil && !t.parts[0].isBody {
		return t.parts[0].text, true
	}
	var b strings.Builder
	for i := range t.parts {
		v, ok := t.parts[i].fill(from)
		if !ok {
			return "", false
		}
		b.WriteString(v)
	}
	return b.String(), true
}

// path fills a template for a path. A value stays within its segment, unless it is a part of the request's
// own path. bad is the placeholder whose value is missing or would lead elsewhere.
func (t *template) path(from *templated) (path string, bad *part) {
	var b strings.Builder
	for i := range t.parts {
		p := &t.parts[i]
		v, ok := p.fill(from)
		switch {
		case !ok:
			return "", p
		case p.value == nil && !p.isBody:
		case p.raw:
			if w, found := p.value(from); found { // escaped as it was
				v = w
			}
			bad = p
		default:
			v = url.PathEscape(v)
			bad = p
		}
		b.WriteString(v)
	}
	path = b.String()
	if bad != nil && slices.ContainsFunc(strings.Split(path, "/"), leadsElsewhere) {
		return "", bad
	}
	return wire.SafePath(path), nil
}

// says names what a placeholder stands for.
func (p *part) says() string {
	family, name, _ := strings.Cut(p.name, ".")
	switch family {
	case "query":
		return "the query parameter " + name
	case "header":
		return "the header " + name
	case "claim":
		return "the claim " + name
	case "path":
		return "the part " + name + " of the path"
	}
	return "the " + p.name + " of the caller"
}

// leadsElsewhere holds for the segments . and .., however they are escaped and whatever parameters
// follow them (RFC 3986 §6.2.2.3).
func leadsElsewhere(segment string) bool {
	if d, err := url.PathUnescape(segment); err == nil {
		segment = d
	}
	segment = strings.ReplaceAll(segment, `\`, "/")
	for s := range strings.SplitSeq(segment, "/") {
		s, _, _ = strings.Cut(s, ";")
		if s == "." || s == ".." {
			return true
		}
	}
	return false
}

// jsonTemplate is a value of JSON with templates for texts.
type jsonTemplate struct {
	text  *template
	raw   []byte
	open  byte
	keys  []string
	items []*jsonTemplate
}

// parseJSONTemplate reads what a document has for a value.
func parseJSONTemplate(env *Env, field string, v any) *jsonTemplate {
	switch v := v.(type) {
	case string:
		return &jsonTemplate{text: parseTemplate(env, field, v, true)}
	case []any:
		t := &jsonTemplate{open: '['}
		for i, e := range v {
			t.items = append(t.items, parseJSONTemplate(env, index(field, i), e))
		}
		return t
	case map[string]any:
		t := &jsonTemplate{open: '{', keys: sortedNames(v)}
		for _, k := range t.keys {
			t.items = append(t.items, parseJSONTemplate(env, field+"."+k, v[k]))
		}
		return t
	}
	b, err := marshal(v)
	if err != nil {
		env.Problem(field, "", "this cannot be written as JSON: %v", err)
	}
	return &jsonTemplate{raw: b}
}

// fill makes the value. A text that is one placeholder and nothing else becomes what that holds, be it an
// object; without a value it is null.
func (t *jsonTemplate) fill(from *templated) *jsonNode {
	switch {
	case t.open != 0:
		n := &jsonNode{open: t.open}
		for i, item := range t.items {
			if t.open == '{' {
				n.keys = append(n.keys, appendQuoted(nil, t.keys[i]))
			}
			n.items = append(n.items, item.fill(from))
		}
		return n
	case t.text == nil:
		return &jsonNode{raw: t.raw}
	}
	if parts := t.text.parts; len(parts) == 1 && parts[0].isBody && from.body != nil {
		if n := from.body.find(parts[0].body); n != nil {
			return n
		}
	}
	if s, ok := t.text.text(from); ok {
		return &jsonNode{raw: appendQuoted(nil, s)}
	}
	return &jsonNode{raw: []byte("null")}
}
