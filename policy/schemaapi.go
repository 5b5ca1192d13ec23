package policy

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// apiPaths are the paths of an OpenAPI document, segment by segment.
type apiPaths struct {
	literal map[string]*apiPaths
	params  []apiSegment
	item    *apiItem // of the path that ends here
}

// apiSegment is a segment with a parameter, and perhaps text around it: "{id}.json".
type apiSegment struct {
	prefix, suffix string
	next           *apiPaths
}

// apiItem is one path.
type apiItem struct {
	template   string
	names      []string // of the parameters in the path, in order
	operations map[string]*apiOperation
	methods    []string
}

// apiOperation is one method of one path.
type apiOperation struct {
	name      string // operationId, else "GET /orders"
	params    []apiParam
	queries   []string // names of all parameters in the query; "filter[" for those with brackets behind them
	body      *apiBody // nil: none is described
	responses []apiResponse
}

// apiBody is what a request or an answer may contain.
type apiBody struct {
	required bool
	types    []apiMedia
	accept   string // the types, for fields of answers
	names    []string
}

// apiMedia is one media type and the schema of its content.
type apiMedia struct {
	media  string // may be a wildcard
	kind   mediaKind
	schema *jsonschema.Schema // nil: anything
	fast   *fastSchema
	work   *schemaWork
}

type mediaKind uint8

const (
	otherMedia mediaKind = iota // its content is not looked at
	jsonMedia
	formMedia // application/x-www-form-urlencoded
)

type apiResponse struct {
	status string // "200", "2XX", "default"
	body   *apiBody
}

// apiParam is a parameter in the path, the query, the header or a cookie.
type apiParam struct {
	name, in string
	required bool
	empty    bool // may be
	style    string
	explode  bool
	json     bool // its value is JSON
	index    int  // of one in the path
	schema   *jsonschema.Schema
	fast     *fastSchema
	types    []string
}

// maxSegments bounds the depth of paths.
const maxSegments = 64

// captured are the values of the parameters in a path.
type captured struct {
	values [maxSegments]string
	n      int
}

// add puts a path in.
func (p *apiPaths) add(template string) *apiItem {
	item := &apiItem{template: template, operations: map[string]*apiOperation{}}
	at := p
	for seg := range strings.SplitSeq(strings.TrimPrefix(template, "/"), "/") {
		open, end := strings.IndexByte(seg, '{'), strings.LastIndexByte(seg, '}')
		if open < 0 || end < open {
			if at.literal == nil {
				at.literal = map[string]*apiPaths{}
			}
			key := normalSegment(seg)
			if at.literal[key] == nil {
				at.literal[key] = &apiPaths{}
			}
			at = at.literal[key]
			continue
		}
		item.names = append(item.names, seg[open+1:end])
		prefix, suffix := normalSegment(seg[:open]), normalSegment(seg[end+1:])
		i := slices.IndexFunc(at.params, func(s apiSegment) bool { return s.prefix == prefix && s.suffix == suffix })
		if i < 0 {
			at.params = append(at.params, apiSegment{prefix, suffix, &apiPaths{}})
			// Those with more text around the parameter are tried first.
			slices.SortStableFunc(at.params, func(a, b apiSegment) int { return len(b.prefix) + len(b.suffix) - len(a.prefix) - len(a.suffix) })
			i = slices.IndexFunc(at.params, func(s apiSegment) bool { return s.prefix == prefix && s.suffix == suffix })
		}
		at = at.params[i].next
	}
	if at.item == nil {
		at.item = item
	}
	return at.item
}

// normalSegment writes a segment as the paths of requests are: bytes beyond ASCII escaped.
func normalSegment(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 || r == ' ' }) < 0 {
		return s
	}
	return url.PathEscape(s)
}

// match finds the item of a path; literal segments go before parameters.
func (p *apiPaths) match(path string, c *captured) *apiItem {
	seg, rest, more := strings.Cut(path, "/")
	if next := p.literal[seg]; next != nil {
		if item := next.end(rest, more, c); item != nil {
			return item
		}
	}
	if c.n == maxSegments {
		return nil
	}
	for i := range p.params {
		s := &p.params[i]
		if len(seg) <= len(s.prefix)+len(s.suffix) || !strings.HasPrefix(seg, s.prefix) || !strings.HasSuffix(seg, s.suffix) {
			continue
		}
		c.values[c.n] = seg[len(s.prefix) : len(seg)-len(s.suffix)]
		c.n++
		if item := s.next.end(rest, more, c); item != nil {
			return item
		}
		c.n--
	}
	return nil
}

func (p *apiPaths) end(rest string, more bool, c *captured) *apiItem {
	if more {
		return p.match(rest, c)
	}
	return p.item
}

// apiDocument is a compiled OpenAPI document.
type apiDocument struct {
	paths     *apiPaths
	templates []string
	bases     []string // of the servers, without a slash at the end
}

// find finds the path of a call below its mount, or below the base path of a server of the document.
func (a *apiDocument) find(path string, c *captured) *apiItem {
	c.n = 0
	if item := a.paths.match(strings.TrimPrefix(path, "/"), c); item != nil {
		return item
	}
	for _, b := range a.bases {
		if rest, ok := strings.CutPrefix(path, b); ok && strings.HasPrefix(rest, "/") {
			c.n = 0
			if item := a.paths.match(rest[1:], c); item != nil {
				return item
			}
		}
	}
	return nil
}

// apiCompiler compiles an OpenAPI document.
type apiCompiler struct {
	files   *schemaFiles
	in, out *jsonschema.Compiler
	works   map[*jsonschema.Schema]*schemaWork
	fasts   map[*jsonschema.Schema]*fastSchema
	schemas map[string]*jsonschema.Schema
	lints   []schemaFault
}

var apiMethods = []string{"get", "put", "post", "delete", "options", "head", "patch", "trace"}

// compile compiles all operations; answers too, where they are reported.
func (c *apiCompiler) compile(answers bool) *apiDocument {
	a := &apiDocument{paths: &apiPaths{}}
	root, _ := c.files.files[c.files.main].doc.(map[string]any)
	a.bases = serverBases(root)
	paths, _ := root["paths"].(map[string]any)
	for _, template := range namesInOrder(paths) {
		if !strings.HasPrefix(template, "/") {
			continue
		}
		u, ptr, v := c.files.resolve(c.files.main, "/paths/"+pointerToken(template), paths[template])
		m, _ := v.(map[string]any)
		item := a.paths.add(template)
		a.templates = append(a.templates, template)
		for _, method := range apiMethods {
			op, ok := m[method].(map[string]any)
			if !ok {
				continue
			}
			up := strings.ToUpper(method)
			item.operations[up] = c.operation(u, ptr, ptr+"/"+method, m, op, up+" "+template, item, answers)
			item.methods = append(item.methods, up)
		}
		if item.operations["HEAD"] == nil && item.operations["GET"] != nil {
			item.operations["HEAD"] = item.operations["GET"]
			item.methods = append(item.methods, "HEAD")
		}
	}
	return a
}

// serverBases are the paths of the servers of a document.
func serverBases(root map[string]any) (bases []string) {
	servers, _ := root["servers"].([]any)
	for _, s := range servers {
		m, _ := s.(map[string]any)
		text, _ := m["url"].(string)
		u, err := url.Parse(text)
		if err != nil || strings.Contains(u.Path, "{") {
			continue
		}
		if b := strings.TrimSuffix(u.Path, "/"); b != "" && !slices.Contains(bases, b) {
			bases = append(bases, b)
		}
	}
	return bases
}

func (c *apiCompiler) operation(u, itemPtr, ptr string, item, op map[string]any, name string, path *apiItem, answers bool) *apiOperation {
	o := &apiOperation{name: name}
	if id, _ := op["operationId"].(string); id != "" {
		o.name = id
	}
	// Parameters of the operation replace those of the path by name and place.
	for _, from := range []struct {
		ptr string
		m   map[string]any
	}{{ptr, op}, {itemPtr, item}} {
		list, _ := from.m["parameters"].([]any)
		for i, v := range list {
			pu, pp, v := c.files.resolve(u, from.ptr+"/parameters/"+strconv.Itoa(i), v)
			m, _ := v.(map[string]any)
			p, ok := c.param(pu, pp, m, path)
			if ok && !slices.ContainsFunc(o.params, func(have apiParam) bool { return have.name == p.name && have.in == p.in }) {
				o.params = append(o.params, p)
			}
		}
	}
	for _, p := range o.params {
		if p.in == "query" {
			name := p.name
			if p.style == "deepObject" {
				name += "["
			}
			o.queries = append(o.queries, name)
			if p.style == "form" && p.explode && slices.Contains(p.types, "object") && p.schema != nil {
				o.queries = append(o.queries, propertyNames(p.schema)...)
			}
		}
	}
	if v, ok := op["requestBody"]; ok {
		bu, bp, v := c.files.resolve(u, ptr+"/requestBody", v)
		if m, ok := v.(map[string]any); ok {
			o.body = c.body(c.in, bu, bp, m)
		}
	}
	if !answers {
		return o
	}
	responses, _ := op["responses"].(map[string]any)
	for _, status := range namesInOrder(responses) {
		ru, rp, v := c.files.resolve(u, ptr+"/responses/"+pointerToken(status), responses[status])
		if m, ok := v.(map[string]any); ok {
			o.responses = append(o.responses, apiResponse{strings.ToUpper(status), c.body(c.out, ru, rp, m)})
		}
	}
	return o
}

// body compiles the media types of a request body or an answer.
func (c *apiCompiler) body(with *jsonschema.Compiler, u, ptr string, m map[string]any) *apiBody {
	b := &apiBody{}
	b.required, _ = m["required"].(bool)
	content, _ := m["content"].(map[string]any)
	for _, media := range namesInOrder(content) {
		low, _, _ := strings.Cut(strings.ToLower(media), ";")
		low = strings.TrimSpace(low)
		if low == "" {
			continue
		}
		t := apiMedia{media: low, kind: mediaKindOf(low)}
		mu, mp, v := c.files.resolve(u, ptr+"/content/"+pointerToken(media), content[media])
		if spec, ok := v.(map[string]any); ok && spec["schema"] != nil && t.kind != otherMedia {
			t.schema, t.fast, t.work = c.schema(with, mu, mp+"/schema")
		}
		b.types = append(b.types, t)
		b.names = append(b.names, low)
	}
	b.sort()
	return b
}

// sort brings exact types before wildcards.
func (b *apiBody) sort() {
	slices.SortStableFunc(b.types, func(x, y apiMedia) int { return strings.Count(x.media, "*") - strings.Count(y.media, "*") })
	b.accept = strings.Join(b.names, ", ")
}

func mediaKindOf(media string) mediaKind {
	switch {
	case isJSONType(media) || media == "*/*" || media == "application/*":
		return jsonMedia
	case media == "application/x-www-form-urlencoded":
		return formMedia
	}
	return otherMedia
}

// schema compiles a schema.
func (c *apiCompiler) schema(with *jsonschema.Compiler, u, ptr string) (*jsonschema.Schema, *fastSchema, *schemaWork) {
	s := c.files.compile(with, u, ptr)
	if s == nil {
		return nil, nil, nil
	}
	collectSchemas(s, c.schemas)
	if c.works[s] == nil {
		c.works[s], c.fasts[s] = newSchemaWork(s), newFastSchema(s)
	}
	return s, c.fasts[s], c.works[s]
}

// param compiles a parameter (OpenAPI 3.1 §4.8.12).
func (c *apiCompiler) param(u, ptr string, m map[string]any, path *apiItem) (p apiParam, ok bool) {
	p.name, _ = m["name"].(string)
	p.in, _ = m["in"].(string)
	p.required, _ = m["required"].(bool)
	p.empty, _ = m["allowEmptyValue"].(bool)
	switch p.in {
	case "path":
		if p.index = slices.Index(path.names, p.name); p.index < 0 {
			return p, false
		}
		p.style = "simple"
	case "header":
		if wire.EqualFold(p.name, "Accept") || wire.EqualFold(p.name, "Content-Type") || wire.EqualFold(p.name, "Authorization") {
			return p, false // not described this way
		}
		p.style = "simple"
	case "query", "cookie":
		p.style, p.explode = "form", true
	default:
		return p, false
	}
	if s, _ := m["style"].(string); s != "" {
		p.style, p.explode = s, s == "form"
	}
	if e, isSet := m["explode"].(bool); isSet {
		p.explode = e
	}
	if m["schema"] != nil {
		p.schema, p.fast, _ = c.schema(c.in, u, ptr+"/schema")
	} else if content, _ := m["content"].(map[string]any); len(content) == 1 {
		for media, v := range content {
			if spec, _ := v.(map[string]any); isJSONType(media) && spec["schema"] != nil {
				p.json = true
				p.schema, p.fast, _ = c.schema(c.in, u, ptr+"/content/"+pointerToken(media)+"/schema")
			}
		}
	}
	p.types = typesOf(p.schema, 0)
	if p.style == "label" || p.style == "matrix" {
		c.lints = append(c.lints, schemaFault{url: u, pointer: ptr, text: fmt.Sprintf("values of the parameter %q are not checked: style %s is not known here", p.name, p.style)})
		p.schema = nil
	}
	return p, true
}

// propertyNames are the properties that a schema knows at its top, references followed.
func propertyNames(s *jsonschema.Schema) []string {
	var names []string
	eachTop(s, 0, func(t *jsonschema.Schema) { names = append(names, namesInOrder(t.Properties)...) })
	return names
}

// eachTop visits a schema and those that it requires of the same value.
func eachTop(s *jsonschema.Schema, depth int, f func(*jsonschema.Schema)) {
	if s == nil || depth > 10 {
		return
	}
	f(s)
	eachTop(s.Ref, depth+1, f)
	for _, list := range [][]*jsonschema.Schema{s.AllOf, s.AnyOf, s.OneOf} {
		for _, t := range list {
			eachTop(t, depth+1, f)
		}
	}
}

// propertyTypes are the types of a property; itemTypes are those of the elements of a list.
func propertyTypes(s *jsonschema.Schema, name string) (types []string) {
	eachTop(s, 0, func(t *jsonschema.Schema) {
		if p := t.Properties[name]; p != nil && types == nil {
			if types = typesOf(p, 0); slices.Contains(types, "array") {
				types = itemTypes(p)
			}
		}
	})
	return types
}

func propertyIsList(s *jsonschema.Schema, name string) (list bool) {
	eachTop(s, 0, func(t *jsonschema.Schema) {
		list = list || slices.Contains(typesOf(t.Properties[name], 0), "array")
	})
	return list
}

func itemTypes(s *jsonschema.Schema) (types []string) {
	eachTop(s, 0, func(t *jsonschema.Schema) {
		if types == nil {
			types = typesOf(t.Items2020, 0)
		}
	})
	return types
}

// typed reads a text as one of the types that are wanted. What is none of them stays a text.
func typed(raw string, types []string) any {
	for _, t := range types {
		switch t {
		case "integer", "number":
			if raw != "" && (raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9') && len(raw) <= 100 {
				if v, f := decodeJSON([]byte(raw), &numberBounds); f.kind == jsonFine {
					switch v.(type) {
					case int64, json.Number:
						return v
					}
				}
			}
		case "boolean":
			if raw == "true" || raw == "false" {
				return raw == "true"
			}
		case "null":
			if raw == "" || raw == "null" {
				return nil
			}
		case "string":
			return raw
		}
	}
	return raw
}

var numberBounds = jsonBounds{depth: 1, keys: 1, elements: 1, values: 1, text: 100, numberText: 100, exponent: 300}

// eachQuery tells the parameters of a query, escapes resolved.
func eachQuery(query string, f func(name, value string) bool) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		if !f(plainQuery(name), plainQuery(value)) {
			return
		}
	}
}

// plainQuery resolves escapes. What is none stays as it is.
func plainQuery(s string) string {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s
	}
	if p, err := url.QueryUnescape(s); err == nil {
		return p
	}
	return s
}

// value reads the parameter out of a call.
func (p *apiParam) value(x *Exchange, c *captured) (v any, has bool) {
	list, object := slices.Contains(p.types, "array"), slices.Contains(p.types, "object")
	switch p.in {
	case "path":
		if p.index >= c.n {
			return nil, false
		}
		raw, err := url.PathUnescape(c.values[p.index])
		if err != nil {
			raw = c.values[p.index]
		}
		return p.of(raw, list, object), true
	case "header":
		raw, has := x.Fields.Lookup(p.name)
		if !has {
			return nil, false
		}
		if x.Fields.Count(p.name) > 1 { // RFC 9110 §5.3
			var all []string
			for _, f := range x.Fields {
				if wire.EqualFold(f.Name, p.name) {
					all = append(all, f.Value)
				}
			}
			raw = strings.Join(all, ", ")
		}
		return p.of(raw, list, object), true
	case "cookie":
		for _, f := range x.Fields {
			if f.ID != wire.Cookie {
				continue
			}
			for part := range strings.SplitSeq(f.Value, ";") {
				if name, value, ok := strings.Cut(strings.TrimSpace(part), "="); ok && name == p.name {
					return p.of(strings.Trim(value, `"`), list, object), true
				}
			}
		}
		return nil, false
	}
	switch {
	case p.json:
	case p.style == "deepObject":
		m := map[string]any{}
		eachQuery(x.Query, func(name, value string) bool {
			if rest, ok := strings.CutPrefix(name, p.name+"["); ok && strings.HasSuffix(rest, "]") {
				key := strings.TrimSuffix(rest, "]")
				m[key] = typed(value, propertyTypes(p.schema, key))
				has = true
			}
			return true
		})
		return m, has
	case object && !list && p.style == "form" && p.explode:
		m := map[string]any{}
		known := propertyNames(p.schema)
		eachQuery(x.Query, func(name, value string) bool {
			if slices.Contains(known, name) {
				m[name] = typed(value, propertyTypes(p.schema, name))
				has = true
			}
			return true
		})
		return m, has
	case list && p.explode:
		var all []any
		types := itemTypes(p.schema)
		eachQuery(x.Query, func(name, value string) bool {
			if name == p.name {
				all = append(all, typed(value, types))
			}
			return true
		})
		return all, all != nil
	}
	eachQuery(x.Query, func(name, value string) bool {
		switch {
		case name != p.name:
		case !has:
			v, has = p.of(value, list, object), true
		default: // which of them counts depends on who reads them
			all, ok := v.([]any)
			if !ok {
				all = []any{v}
			}
			v = append(all, value)
		}
		return true
	})
	return v, has
}

// of reads the text of a value.
func (p *apiParam) of(raw string, list, object bool) any {
	switch {
	case p.json:
		v, f := decodeJSON([]byte(raw), &paramBounds)
		if f.kind != jsonFine {
			return raw
		}
		return v
	case list:
		sep := ","
		switch p.style {
		case "spaceDelimited":
			sep = " "
		case "pipeDelimited":
			sep = "|"
		}
		types := itemTypes(p.schema)
		all := []any{}
		if raw != "" {
			for part := range strings.SplitSeq(raw, sep) {
				all = append(all, typed(strings.TrimSpace(part), types))
			}
		}
		return all
	case object:
		m := map[string]any{}
		key, hasKey := "", false
		for part := range strings.SplitSeq(raw, ",") {
			part = strings.TrimSpace(part)
			if p.explode {
				name, value, _ := strings.Cut(part, "=")
				m[name] = typed(value, propertyTypes(p.schema, name))
			} else if hasKey {
				m[key] = typed(part, propertyTypes(p.schema, key))
				hasKey = false
			} else {
				key, hasKey = part, true
			}
		}
		return m
	}
	return typed(raw, p.types)
}

var paramBounds = jsonBounds{depth: 20, keys: 1000, elements: 1000, values: 10000, text: -1, numberText: 1000, exponent: 1000}

// check holds a parameter against its schema.
func (p *apiParam) check(x *Exchange, c *captured, l *violations) {
	v, has := p.value(x, c)
	place := p.in + " parameter " + showText(p.name)
	if !has || p.in == "query" && p.empty && v == "" {
		if p.required && !has {
			l.push(p.missing(x, place, l))
		}
		return
	}
	if p.schema == nil {
		return
	}
	if p.fast.fits(v) {
		return
	}
	err := p.schema.Validate(v)
	if err == nil {
		return
	}
	e, ok := err.(*jsonschema.ValidationError)
	if !ok {
		return
	}
	one := &violations{root: v, schemas: l.schemas, most: l.most, route: l.route}
	hidden := isSecret(p.name) || l.route != nil && l.route.Hides([]string{p.name})
	if hidden {
		one.root = nil
	}
	one.collect(e)
	for _, found := range one.list {
		if hidden {
			found.seen = maskedValue
		}
		found.fix = strings.ReplaceAll(found.fix, "the body", place)
		if found.pointer != "" {
			found.fix += " (in " + place + ")"
		}
		found.pointer = place + strings.TrimSuffix(" "+found.pointer, " ")
		l.push(found)
	}
	l.total += one.total - len(one.list)
}

// missing tells of a parameter that is not there, and of one with nearly its name that is.
func (p *apiParam) missing(x *Exchange, place string, l *violations) violation {
	v := violation{pointer: place, wanted: "a value", seen: "nothing", fix: "add the " + place}
	if len(p.types) > 0 {
		v.wanted = typeWords(p.types)
	}
	if p.schema != nil {
		v.schema = p.schema.Location
	}
	var names []string
	switch p.in {
	case "query":
		eachQuery(x.Query, func(name, _ string) bool { names = append(names, name); return len(names) < 50 })
	case "header":
		for _, f := range x.Fields {
			names = append(names, strings.Clone(f.Name))
		}
	}
	if n := resource.Nearest(p.name, names); n != "" {
		v.seen = "nothing; there is " + showText(n)
		v.fix = fmt.Sprintf("rename the %s parameter %s to %s", p.in, showText(n), showText(p.name))
	}
	return v
}

// formObject reads a form (application/x-www-form-urlencoded) as an object, unless it has too many values.
func formObject(body string, s *jsonschema.Schema) (m map[string]any, ok bool) {
	m = map[string]any{}
	if strings.Count(body, "&") >= maxSchemaValues {
		return nil, false
	}
	eachQuery(body, func(name, value string) bool {
		v := typed(value, propertyTypes(s, name))
		before, again := m[name]
		list, isList := before.([]any)
		switch {
		case isList || !again && propertyIsList(s, name):
			m[name] = append(list, v)
		case again: // which of them counts depends on who reads them
			m[name] = []any{before, v}
		default:
			m[name] = v
		}
		return true
	})
	return m, true
}
