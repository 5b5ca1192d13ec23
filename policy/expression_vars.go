package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"reflect"
	"strings"
	"sync"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// vars is a call as expressions see it. Values are made when an expression names them.
type vars struct {
	x       *Exchange
	maxBody int64
	headers textMap
	query   textMap
	params  textMap
	cookies textMap
	body    any
	hasBody bool
	// wholeQuery says that the expression uses the query as a whole.
	wholeQuery bool
	explains   bool           // nothing may be waited for
	refused    reason.Verdict // the content could not be had
}

var varsPool = sync.Pool{New: func() any {
	v := new(vars)
	v.headers, v.query, v.params, v.cookies = textMap{fieldMap{v}}, textMap{queryMap{v}}, textMap{paramMap{v}}, textMap{cookieMap{v}}
	return v
}}

func newVars(x *Exchange, maxBody int64) *vars {
	v := varsPool.Get().(*vars)
	v.x, v.maxBody = x, maxBody
	return v
}

func (v *vars) free() {
	v.x, v.body, v.hasBody, v.explains, v.wholeQuery, v.refused = nil, nil, false, false, false, reason.Verdict{}
	varsPool.Put(v)
}

// Parent is none.
func (v *vars) Parent() interpreter.Activation { return nil }

// Methods that are met all the time need no memory.
var methodValues = map[string]ref.Val{"GET": types.String("GET"), "HEAD": types.String("HEAD"), "POST": types.String("POST"), "PUT": types.String("PUT"),
	"PATCH": types.String("PATCH"), "DELETE": types.String("DELETE"), "OPTIONS": types.String("OPTIONS")}

var (
	emptyText   ref.Val = types.String("")
	emptyClaims         = map[string]any{}
)

func textValue(s string) any {
	if s == "" {
		return emptyText
	}
	return types.String(s)
}

// ResolveName is the value of a variable.
func (v *vars) ResolveName(name string) (any, bool) {
	x := v.x
	switch name {
	case "request.method":
		if m := methodValues[x.Method]; m != nil {
			return m, true
		}
		return textValue(x.Method), true
	case "request.path":
		return textValue(x.Path), true
	case "request.host":
		return textValue(x.Host), true
	case "request.scheme":
		return textValue(x.Scheme), true
	case "request.size":
		return types.Int(x.BodySize), true
	case "request.query":
		if v.wholeQuery {
			if err := (queryMap{v}).ambiguous(); err != nil {
				return types.WrapErr(err), true
			}
		}
		return &v.query, true
	case "request.headers":
		return &v.headers, true
	case "request.params":
		return &v.params, true
	case "request.cookies":
		return &v.cookies, true
	case "client.ip":
		return types.String(x.AddrText(x.Client.Addr)), true
	case "client.hop":
		return types.Int(x.Client.Hop), true
	case "plan":
		if x.Plan == nil {
			return emptyText, true
		}
		return textValue(x.Plan.Name), true
	case "api":
		return textValue(x.Route.API), true
	case "version":
		return textValue(x.Route.Version), true
	case "stage":
		return textValue(x.Route.Stage), true
	case "route":
		return textValue(x.Route.Name), true
	case "now":
		return types.Timestamp{Time: x.Now.UTC()}, true
	case "body":
		return v.content(), true
	case "application.name", "application.team", "application.tenant":
		switch {
		case x.Application == nil:
			return emptyText, true
		case name == "application.name":
			return textValue(x.Application.Name), true
		case name == "application.tenant":
			return textValue(x.Application.Tenant), true
		}
		return textValue(x.Application.Owner.Team), true
	}
	return v.identity(name)
}

func (v *vars) identity(name string) (any, bool) {
	id := v.x.Identity
	switch name {
	case "claims":
		if id == nil || id.Claims == nil {
			return emptyClaims, true
		}
		return id.Claims, true
	case "identity.scopes", "identity.roles", "identity.groups":
		var list []string
		switch {
		case id == nil:
		case name == "identity.scopes":
			list = id.Scopes
		case name == "identity.roles":
			list = id.Roles
		default:
			list = id.Groups
		}
		return list, true
	case "identity.subject", "identity.issuer", "identity.method":
		switch {
		case id == nil:
			return emptyText, true
		case name == "identity.subject":
			return textValue(id.Subject), true
		case name == "identity.issuer":
			return textValue(id.Issuer), true
		}
		return textValue(id.Method), true
	}
	return nil, false
}

// --- content ---

var ruleBody = reason.New(reason.Reason{
	Code: "rule.body-unreadable", Status: 400,
	Title:  "The body cannot be read by the rules of this API",
	Says:   "a rule of this API looks into the body, and {problem}",
	Wanted: "a body in JSON, with a Content-Type that says so",
	Seen:   "{problem}",
	Fixes: []reason.Fix{
		{By: reason.Caller, Text: "send a body of valid JSON with Content-Type: application/json"},
		{By: reason.Owner, Text: "ask {owner|the owner of this API} to look into the body only where it is JSON"},
	},
	Hint: "the policy rule reads JSON only; a rule can ask for request.method or request.headers first",
})

var errNotRead = types.NewErrFromString("the body was not read")

// content is the request's content as a value. Without content it is an empty object.
func (v *vars) content() any {
	if v.hasBody {
		return v.body
	}
	x := v.x
	if x.Content == nil {
		v.body, v.hasBody = emptyClaims, true
		return v.body
	}
	if v.explains && !x.Content.Known() {
		return errNotRead
	}
	b, refused := x.Body(v.maxBody)
	if refused.Refused() {
		v.refused = refused
		return errNotRead
	}
	v.hasBody, v.body = true, emptyClaims
	if len(b) == 0 {
		return v.body
	}
	var err error
	if t := x.Fields.Get(wire.ContentType); !isJSON(t) {
		err = fmt.Errorf("the body is announced as %s", clip(orNothing(t), 60))
	} else if v.body, err = readJSON(b); err != nil {
		err = fmt.Errorf("the body is no valid JSON: %w", err)
	}
	if err != nil {
		v.refused = ruleBody.Refuse(reason.Public("problem", err.Error()), x.OwnerFact())
		v.body = errNotRead
	}
	return v.body
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// isJSON says that a media type is JSON (RFC 8259, RFC 6839 §3.1).
func isJSON(contentType string) bool {
	t, _, _ := strings.Cut(contentType, ";")
	t = strings.ToLower(strings.TrimSpace(t))
	return t == "application/json" || t == "text/json" || strings.HasSuffix(t, "+json")
}

// maxValueDepth bounds how deep arrays and objects may lie in each other.
const maxValueDepth = 64

// readJSON reads one JSON value. Two members of one name are refused: the service behind might believe
// the other one (RFC 8259 §4).
func readJSON(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := readValue(d, 0)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("it ends too early")
		}
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the first value")
	}
	return v, nil
}

func readValue(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Number:
		return number(t)
	case json.Delim:
		if depth == maxValueDepth {
			return nil, fmt.Errorf("it is deeper than %d levels", maxValueDepth)
		}
		if t == '[' {
			list := []any{}
			for d.More() {
				v, err := readValue(d, depth+1)
				if err != nil {
					return nil, err
				}
				list = append(list, v)
			}
			_, err := d.Token()
			return list, err
		}
		m := map[string]any{}
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return nil, err
			}
			name, ok := k.(string)
			if !ok {
				return nil, errors.New("a name is no text")
			}
			if _, twice := m[name]; twice {
				return nil, fmt.Errorf("%q is there twice", clip(name, 60))
			}
			if m[name], err = readValue(d, depth+1); err != nil {
				return nil, err
			}
		}
		_, err := d.Token()
		return m, err
	}
	return t, nil
}

// number is an integer where that is exact.
func number(n json.Number) (any, error) {
	if i, err := n.Int64(); err == nil {
		return i, nil
	}
	f, err := n.Float64()
	if err != nil {
		return nil, fmt.Errorf("the number %s is too large", clip(n.String(), 40))
	}
	return f, nil
}

// --- maps that look into the request ---

// lookup is what the maps differ in.
type lookup interface {
	// find is the value of a key; the error is for the person who reads the refusal.
	find(key string) (value string, ok bool, err error)
	all() map[string]string
}

// The maps find a key without making a map, and make one only for loops.
type (
	fieldMap struct{ v *vars }
	queryMap struct{ v *vars }
	// cookieMap is the cookies of all Cookie fields.
	cookieMap struct{ v *vars }
	paramMap  struct{ v *vars }
)

// find joins fields of one name (RFC 9110 §5.3); cookies are joined by their own rule.
func (m fieldMap) find(name string) (string, bool, error) {
	fields := m.v.x.Fields
	first, ok := fields.Lookup(name)
	if !ok || fields.Count(name) == 1 {
		return first, ok, nil
	}
	var parts []string
	for i := range fields {
		if wire.EqualFold(fields[i].Name, name) {
			parts = append(parts, fields[i].Value)
		}
	}
	separator := ", "
	if wire.EqualFold(name, "Cookie") {
		separator = "; "
	}
	return strings.Join(parts, separator), true, nil
}

func (m fieldMap) all() map[string]string {
	all := map[string]string{}
	for i := range m.v.x.Fields {
		name := strings.ToLower(m.v.x.Fields[i].Name)
		if _, ok := all[name]; !ok {
			all[name], _, _ = m.find(name)
		}
	}
	return all
}

// find refuses parameters with several values: the service behind might take another one than the rule.
func (m queryMap) find(name string) (value string, ok bool, err error) {
	for part := range strings.SplitSeq(m.v.x.Query, "&") {
		if part == "" {
			continue
		}
		k, w, _ := strings.Cut(part, "=")
		if unescaped(k) != name {
			continue
		}
		w = unescaped(w)
		if ok && w != value {
			return "", false, severalValues(name)
		}
		value, ok = w, true
	}
	return value, ok, nil
}

// find refuses cookies with several values, as browsers send them for several paths: the service behind might take another one.
func (m cookieMap) find(name string) (value string, ok bool, err error) {
	m.each(func(k, w string) bool {
		switch {
		case k != name:
		case ok && w != value:
			err = fmt.Errorf("cookie %q is there with several values", clip(name, 60))
		default:
			value, ok = w, true
		}
		return err == nil
	})
	if err != nil {
		return "", false, err
	}
	return value, ok, nil
}

func (m cookieMap) all() map[string]string {
	all := map[string]string{}
	m.each(func(k, w string) bool {
		if _, ok := all[k]; !ok {
			all[k] = w
		}
		return true
	})
	return all
}

// each walks the cookies (RFC 6265 §4.2.1) until f is content.
func (m cookieMap) each(f func(name, value string) bool) {
	for i := range m.v.x.Fields {
		if m.v.x.Fields[i].ID != wire.Cookie {
			continue
		}
		for part := range strings.SplitSeq(m.v.x.Fields[i].Value, ";") {
			if k, w, ok := strings.Cut(strings.TrimSpace(part), "="); ok && k != "" && !f(k, strings.Trim(w, `"`)) {
				return
			}
		}
	}
}

func unescaped(s string) string {
	if strings.IndexByte(s, '%') >= 0 || strings.IndexByte(s, '+') >= 0 {
		if d, err := url.QueryUnescape(s); err == nil {
			return d
		}
	}
	return s
}

func severalValues(name string) error {
	return fmt.Errorf("query parameter %q is there with several values", clip(name, 60))
}

// ambiguous says that a parameter has several values.
func (m queryMap) ambiguous() error {
	all := m.all()
	for part := range strings.SplitSeq(m.v.x.Query, "&") {
		if k, w, _ := strings.Cut(part, "="); k != "" {
			if k = unescaped(k); all[k] != unescaped(w) {
				return severalValues(k)
			}
		}
	}
	return nil
}

func (m queryMap) all() map[string]string {
	all := map[string]string{}
	for part := range strings.SplitSeq(m.v.x.Query, "&") {
		if k, w, _ := strings.Cut(part, "="); k != "" {
			k = unescaped(k)
			if _, ok := all[k]; !ok {
				all[k] = unescaped(w)
			}
		}
	}
	return all
}

// find walks the path beside the template of the route.
func (m paramMap) find(name string) (value string, ok bool, err error) {
	m.each(func(k, w string) bool {
		if k == name {
			value, ok = w, true
		}
		return !ok
	})
	if strings.IndexByte(value, '%') >= 0 {
		if d, err := url.PathUnescape(value); err == nil {
			value = d
		}
	}
	return value, ok, nil
}

func (m paramMap) each(f func(name, value string) bool) {
	r := m.v.x.Route
	path := strings.TrimPrefix(m.v.x.Path[min(len(r.Mount), len(m.v.x.Path)):], "/")
	template := strings.TrimPrefix(r.Template, "/")
	for template != "" {
		var t, segment string
		t, template, _ = strings.Cut(template, "/")
		if strings.HasPrefix(t, "{") && strings.HasSuffix(t, "...}") {
			f(t[1:len(t)-4], path)
			return
		}
		segment, path, _ = strings.Cut(path, "/")
		if strings.HasPrefix(t, "{") && strings.HasSuffix(t, "}") && !f(t[1:len(t)-1], segment) {
			return
		}
	}
}

func (m paramMap) all() map[string]string {
	all := map[string]string{}
	m.each(func(k, _ string) bool {
		all[k], _, _ = m.find(k)
		return true
	})
	return all
}

// templateParams are the parameters of a path template.
func templateParams(template string) (names []string) {
	for t := range strings.SplitSeq(template, "/") {
		if strings.HasPrefix(t, "{") && strings.HasSuffix(t, "}") {
			names = append(names, strings.TrimSuffix(t[1:len(t)-1], "..."))
		}
	}
	return names
}

// textMap is a traits.Mapper over a lookup.
type textMap struct{ lookup }

// made is the map itself, for loops and comparisons.
func (m *textMap) made() traits.Mapper {
	return types.NewStringStringMap(types.DefaultTypeAdapter, m.all())
}

// FindStringKey finds a constant key.
func (m *textMap) FindStringKey(key string) (any, bool) {
	s, ok, err := m.find(key)
	if err != nil || !ok {
		return nil, false // Find says what is wrong
	}
	return textValue(s), true
}

// Find finds a key.
func (m *textMap) Find(key ref.Val) (ref.Val, bool) {
	k, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key), false
	}
	s, ok, err := m.find(string(k))
	switch {
	case err != nil:
		return types.WrapErr(err), false
	case !ok:
		return nil, false
	}
	return types.String(s), true
}

// Get is the value of a key, or an error.
func (m *textMap) Get(key ref.Val) ref.Val {
	v, ok := m.Find(key)
	if !ok && v == nil {
		return types.NewErr("no such key: %v", key)
	}
	return v
}

// Contains says whether there is such a key.
func (m *textMap) Contains(key ref.Val) ref.Val {
	v, ok := m.Find(key)
	if !ok && v != nil {
		return v
	}
	return types.Bool(ok)
}

// Size counts the keys.
func (m *textMap) Size() ref.Val { return m.made().Size() }

// Iterator walks the keys.
func (m *textMap) Iterator() traits.Iterator { return m.made().Iterator() }

// Equal compares with another map.
func (m *textMap) Equal(o ref.Val) ref.Val { return m.made().Equal(o) }

// Type is a map.
func (m *textMap) Type() ref.Type { return types.MapType }

// Value is the map itself.
func (m *textMap) Value() any { return m.all() }

// ConvertToType is for type() and the like.
func (m *textMap) ConvertToType(t ref.Type) ref.Val { return m.made().ConvertToType(t) }

// ConvertToNative gives the map to Go.
func (m *textMap) ConvertToNative(t reflect.Type) (any, error) { return m.made().ConvertToNative(t) }
