package policy

import (
	"errors"
	"net/url"
	"strconv"
	"strings"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// TransformPolicy changes requests and answers with values of the call: fields, query, path, status and
// bodies of JSON.
//
// Texts may hold placeholders: {path.NAME} is a parameter of the route's path, {query.NAME},
// {header.NAME} and {claim.NAME} are of the request, and {subject}, {application}, {plan}, {client}, {method}, {host} and
// {path} say who calls what. {body.PATH} is a part of the body, in templates of bodies. {query.page|1} is
// 1 without that parameter; what has neither is not set. {{ and }} are braces. In paths and queries values
// are escaped.
//
// What is fixed is the business of other policies: headers sets, renames and removes fields without
// looking at the call, and path rewrites paths by prefix or pattern. Both come first. Bodies are changed in
// this order: remove, rename, set, template. Those of answers are changed where they are JSON; a request
// whose body should be changed and is none is refused. Refusals of the gateway stay as they are. With shadow: true, calls that
// would be refused for their path or body are recorded, and nothing is changed.
//
//	policies:
//	- transform:
//	    request:
//	      query: {set: {customer: "{claim.customer_id}"}}
//	      body: {remove: [debug], set: {source: "{application}"}}
//	    response:
//	      status: {"404": 410}
//	      body: {template: {items: "{body}", of: "{subject}"}}
type TransformPolicy struct {
	// Request changes what the upstream gets.
	Request TransformRequest `json:"request"`
	// Response changes what the client gets of the upstream's answer.
	Response TransformResponse `json:"response"`
	// MaxBody is the largest body that is changed; larger ones are refused.
	MaxBody resource.Size `json:"maxBody" default:"1MiB" min:"1KiB" max:"16MiB"`
}

// TransformRequest changes a request.
type TransformRequest struct {
	// Headers with values of the call.
	Headers TransformHeaders `json:"headers"`
	// Query changes parameters.
	Query TransformQuery `json:"query"`
	// Path that the upstream is asked for, below that of its target.
	Path string `json:"path" pattern:"^/" example:"/v2/orders/{path.id}"`
	// Body changes JSON.
	Body TransformBody `json:"body"`
}

// TransformResponse changes an answer.
type TransformResponse struct {
	// Headers with values of the call.
	Headers TransformHeaders `json:"headers"`
	// Status gives another status instead of one of the upstream.
	Status map[string]int `json:"status" example:"{\"404\": 410}"`
	// Body changes JSON.
	Body TransformBody `json:"body"`
}

// TransformHeaders sets header fields.
type TransformHeaders struct {
	// Set puts fields in, instead of any with the same name.
	Set map[string]string `json:"set" example:"{X-Customer: \"{claim.customer_id}\"}"`
	// Add puts fields beside those that are there.
	Add map[string]string `json:"add" example:"{X-Tag: \"{plan}\"}"`
}

// TransformQuery changes the parameters of the query.
type TransformQuery struct {
	// Remove takes parameters out.
	Remove []string `json:"remove" example:"[debug]"`
	// Rename gives parameters another name.
	Rename map[string]string `json:"rename" example:"{q: search}"`
	// Set puts parameters in, instead of any with the same name.
	Set map[string]string `json:"set" example:"{customer: \"{claim.customer_id}\"}"`
}

// TransformBody changes a body of JSON.
type TransformBody struct {
	// Remove takes out what paths lead to: "debug", "items[*].cost".
	Remove []string `json:"remove" example:"[\"items[*].cost\"]"`
	// Rename gives what a path leads to another name.
	Rename map[string]string `json:"rename" example:"{\"items[*].qty\": quantity}"`
	// Set puts values in, and the objects on the way there.
	Set map[string]any `json:"set" example:"{source: \"{application}\"}"`
	// Template is the whole body anew. A text that is one placeholder becomes what that holds, objects too.
	Template any `json:"template" example:"{items: \"{body.data}\", page: \"{query.page}\"}"`
}

var (
	transformNoJSON = reason.New(reason.Reason{
		Code: "transform.not-json", Status: 400,
		Title:  "The body is not valid JSON",
		Says:   "this API takes a JSON body, and this one is not valid JSON: {error}",
		Wanted: "a body of valid JSON",
		Seen:   "{error}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "send valid JSON"}},
		Hint:   "policy transform changes the body on its way (request.body), for which it has to be JSON",
	})
	transformType = reason.New(reason.Reason{
		Code: "transform.content-type", Status: 415,
		Title:  "The body must be JSON",
		Says:   "this API takes a JSON body, and this one is {seen}",
		Wanted: "Content-Type: application/json",
		Seen:   "{seen}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "send JSON with Content-Type: application/json, without Content-Encoding"},
		},
		Hint: "policy transform changes the body on its way (request.body), for which it has to be JSON",
	})
	transformPath = reason.New(reason.Reason{
		Code: "transform.path", Status: 400,
		Title:  "The call holds no usable value for the path",
		Says:   "this call needs {wanted}, and {seen}",
		Wanted: "{wanted}",
		Seen:   "{seen}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "send {wanted}"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to let calls without it pass"},
		},
		Hint: "policy transform, field request.path: [{template}, ]where a | gives a value for calls without one",
	})
)

type namedTemplate struct {
	name string
	*template
}

type headerTemplates struct{ set, add []namedTemplate }

type bodyTransform struct {
	remove   []jsonPath
	rename   []renamed
	set      []setTo
	template *jsonTemplate
}

type renamed struct {
	path jsonPath
	name []byte
}

type setTo struct {
	path  jsonPath
	value *jsonTemplate
}

type transform struct {
	requestHeaders, responseHeaders headerTemplates
	query                           TransformQuery
	querySet                        []namedTemplate
	path                            *template
	pathText                        string
	status                          map[int]int
	responseBody                    *bodyTransform
	max                             int64
	at                              *reason.Source
}

// transformCheck is a transform that has to look at requests before they are forwarded.
type transformCheck struct {
	*transform
	body *bodyTransform
}

// PerRoute says that placeholders name parameters of the route's path.
func (p *TransformPolicy) PerRoute() bool { return true }

// Compile reads the templates and paths.
func (p *TransformPolicy) Compile(env *Env) any {
	t := &transform{query: p.Request.Query, max: int64(p.MaxBody), status: map[int]int{}, at: env.Source("")}
	before := len(*env.Problems)
	t.requestHeaders = p.Request.Headers.compile(env, "request.headers")
	t.responseHeaders = p.Response.Headers.compile(env, "response.headers")
	env.filled("request.query.remove", p.Request.Query.Remove)
	for _, n := range sortedNames(p.Request.Query.Rename) {
		if p.Request.Query.Rename[n] == "" {
			env.Problem("request.query.rename."+n, "remove takes it out", "%q is to get an empty name", n)
		}
	}
	for _, n := range sortedNames(p.Request.Query.Set) {
		t.querySet = append(t.querySet, namedTemplate{n, parseTemplate(env, "request.query.set."+n, p.Request.Query.Set[n], false)})
	}
	for _, n := range sortedNames(p.Response.Status) {
		from, err := strconv.Atoi(n)
		to := p.Response.Status[n]
		switch at := "response.status." + n; {
		case err != nil || !plainStatus(from):
			env.Problem(at, "a status from 200 to 599 that may have content: not 204, 205, 206 and 304", "%q cannot be changed", n)
		case !plainStatus(to):
			env.Problem(at, "a status from 200 to 599 that may have content: not 204, 205, 206 and 304", "an answer cannot become %d", to)
		}
		t.status[from] = to
	}
	body := p.Request.Body.compile(env, "request.body")
	t.responseBody = p.Response.Body.compile(env, "response.body")
	if p.Request.Path != "" {
		t.path, t.pathText = parseTemplate(env, "request.path", p.Request.Path, false), p.Request.Path
	}
	empty := body == nil && t.responseBody == nil && t.path == nil && len(t.status) == 0 && len(t.querySet)+len(t.query.Remove)+len(t.query.Rename) == 0 &&
		len(t.requestHeaders.set)+len(t.requestHeaders.add)+len(t.responseHeaders.set)+len(t.responseHeaders.add) == 0
	if empty && len(*env.Problems) == before {
		env.Problem("", "say what changes, under request or response", "transform without settings changes nothing")
	}
	if body != nil || t.path != nil {
		return &transformCheck{t, body}
	}
	return t
}

// plainStatus says that an answer with this status may have content, and means itself alone.
func plainStatus(n int) bool {
	return n >= 200 && n <= 599 && n != 204 && n != 205 && n != 206 && n != 304
}

func (p *TransformHeaders) compile(env *Env, field string) (h headerTemplates) {
	list := func(m map[string]string, field string) (list []namedTemplate) {
		for _, n := range sortedNames(m) {
			(&HeaderEdit{Set: map[string]string{n: m[n]}}).compileAs(env, field)
			list = append(list, namedTemplate{n, parseTemplate(env, field+"."+n, m[n], false)})
		}
		return list
	}
	return headerTemplates{list(p.Set, field+".set"), list(p.Add, field+".add")}
}

func (p *TransformBody) compile(env *Env, field string) *bodyTransform {
	if len(p.Remove)+len(p.Rename)+len(p.Set) == 0 && p.Template == nil {
		return nil
	}
	b := &bodyTransform{}
	path := func(at, text string) jsonPath {
		path, err := parseJSONPath(text)
		if err != nil {
			env.Problem(at, `such as "customer.email", "items[*].cost"`, "%q is no path: %v", text, err)
		}
		return path
	}
	for i, text := range p.Remove {
		b.remove = append(b.remove, path(index(field+".remove", i), text))
	}
	for _, text := range sortedNames(p.Rename) {
		at := field + ".rename." + text
		r := renamed{path(at, text), appendQuoted(nil, p.Rename[text])}
		if n := len(r.path); n > 0 && r.path[n-1].name == "" {
			env.Problem(at, "end the path with a name", "%q leads to no name that could change", text)
		}
		if p.Rename[text] == "" {
			env.Problem(at, "remove takes it out", "%q is to get an empty name", text)
		}
		b.rename = append(b.rename, r)
	}
	for _, text := range sortedNames(p.Set) {
		at := field + ".set." + text
		b.set = append(b.set, setTo{path(at, text), parseJSONTemplate(env, at, p.Set[text])})
	}
	if p.Template != nil {
		b.template = parseJSONTemplate(env, field+".template", p.Template)
	}
	return b
}

// ReadsBody says that requests are read as a whole.
func (t *transformCheck) ReadsBody() bool { return t.body != nil }

// Check changes the body, and makes sure that the path can be made.
func (t *transformCheck) Check(x *Exchange) reason.Verdict {
	if x.Preflight {
		return reason.Verdict{}
	}
	if t.path != nil {
		if _, bad := t.path.path(&templated{x: x}); bad != nil {
			wanted, seen := bad.says()+" with a value", "there is none"
			if _, ok := bad.fill(&templated{x: x}); ok {
				wanted, seen = bad.says()+" that stays in its place in the path", "it leads elsewhere"
			}
			return transformPath.Refuse(reason.Public("wanted", wanted), reason.Public("seen", seen), reason.Rule("template", reason.Readable(t.pathText)).At(t.at), x.OwnerFact())
		}
	}
	if t.body == nil {
		return reason.Verdict{}
	}
	if x.Explaining && x.BodySize < 0 {
		return reason.Verdict{}
	}
	b, v := x.Body(t.max)
	if v.Refused() || len(b) == 0 && (t.body.template == nil || x.Method != "POST" && x.Method != "PUT" && x.Method != "PATCH") {
		return v
	}
	if len(b) > 0 {
		kind := mediaType(x.Fields.Get(wire.ContentType))
		encoding, _ := x.Fields.Lookup("Content-Encoding")
		switch {
		case !ofType(kind, jsonTypes):
			if kind == "" {
				kind = "of no type"
			}
			return transformType.Refuse(reason.Own("seen", strings.Clone(kind)), x.OwnerFact())
		case encoding != "" && !wire.EqualFold(encoding, "identity"):
			return transformType.Refuse(reason.Own("seen", "encoded with "+strings.Clone(encoding)), x.OwnerFact())
		}
	}
	out, err := t.body.apply(x, b, int(t.max))
	switch {
	case err != nil:
		return transformNoJSON.Refuse(reason.Own("error", err.Error()).At(t.at))
	case x.Explaining:
		return reason.Pass(reason.Rule("body", "changed for the upstream").At(t.at))
	}
	x.ReplaceBody(out)
	return reason.Verdict{}
}

// growth bounds what a body may become, in multiples of maxBody.
const growth = 4

var errGrown = errors.New("what it becomes is more than four times maxBody")

// apply changes a body.
func (b *bodyTransform) apply(x *Exchange, body []byte, most int) ([]byte, error) {
	from := &templated{x: x}
	if len(body) > 0 {
		tree, err := parseTree(body)
		if err != nil {
			return nil, err
		}
		from.body = tree
		for _, path := range b.remove {
			tree.each(path, (*jsonNode).remove)
		}
		for _, r := range b.rename {
			tree.each(r.path, func(in *jsonNode, i int) {
				if in.open == '{' {
					in.keys[i] = r.name
				}
			})
		}
		for _, s := range b.set {
			v := s.value.fill(from)
			if v.size() > most*growth {
				return nil, errGrown
			}
			// A copy: it may be a part of the tree that it is put into.
			if tree.set(s.path, &jsonNode{raw: v.append(nil)}); tree.size() > most*growth {
				return nil, errGrown
			}
		}
	}
	root := from.body
	if b.template != nil {
		root = b.template.fill(from)
	}
	if root.size() > most*growth {
		return nil, errGrown
	}
	return root.append(make([]byte, 0, len(body)+256)), nil
}

// EditRequest changes what the upstream gets.
func (t *transform) EditRequest(x *Exchange, o *wire.Outgoing) {
	from := &templated{x: x}
	t.requestHeaders.edit(from, &o.Fields)
	if t.responseBody != nil { // an answer that can be changed: whole, and not encoded
		if _, ok := o.Fields.Find(wire.AcceptEncoding); ok {
			o.Fields.Set("Accept-Encoding", "identity")
		}
		o.Fields.Remove("Range")
		o.Fields.Remove("If-Range")
	}
	if _, replaced := x.Replaced(); replaced {
		kept := o.Fields[:0]
		for _, f := range o.Fields {
			if f.ID == wire.OtherField && describesContent(f.Name) {
				continue
			}
			kept = append(kept, f)
		}
		o.Fields = kept
		if _, ok := o.Fields.Find(wire.ContentType); !ok {
			o.Fields.Put(wire.ContentType, "application/json")
		}
	}
	if t.path != nil {
		if path, bad := t.path.path(from); bad == nil {
			o.Path = path
		}
	}
	t.editQuery(from, o)
}

func (t *transform) editQuery(from *templated, o *wire.Outgoing) {
	if len(t.querySet)+len(t.query.Remove)+len(t.query.Rename) == 0 {
		return
	}
	var parts []string
	if o.Query != "" {
		for part := range strings.SplitSeq(o.Query, "&") {
			raw, value, has := strings.Cut(part, "=")
			name, err := url.QueryUnescape(raw)
			if err != nil {
				name = raw
			}
			if t.removes(name) {
				continue
			}
			if to, ok := t.query.Rename[name]; ok {
				part = url.QueryEscape(to)
				if has {
					part += "=" + value
				}
			}
			parts = append(parts, part)
		}
	}
	for _, s := range t.querySet {
		if v, ok := s.text(from); ok {
			parts = append(parts, url.QueryEscape(s.name)+"="+url.QueryEscape(v))
		}
	}
	o.Query = strings.Join(parts, "&")
	o.HasQuery = o.Query != ""
}

// removes says that a parameter of the client does not reach the upstream: also one that is set here and
// has no value for this call, or clients could set it themselves.
func (t *transform) removes(name string) bool {
	for _, n := range t.query.Remove {
		if n == name {
			return true
		}
	}
	for _, s := range t.querySet {
		if s.name == name {
			return true
		}
	}
	return false
}

func (h *headerTemplates) edit(from *templated, fs *wire.Fields) {
	for _, s := range h.set {
		fs.Remove(s.name) // also where there is no value: clients must not set it themselves
		if v, ok := s.text(from); ok && plainValue(v) {
			fs.Add(s.name, v)
		}
	}
	for _, s := range h.add {
		if v, ok := s.text(from); ok && plainValue(v) {
			fs.Add(s.name, v)
		}
	}
}

// Filter changes answers.
func (t *transform) Filter(x *Exchange, h *wire.Head) (Transform, error) {
	if h.Status < 200 || x.Preflight {
		return nil, nil
	}
	if to, ok := t.status[h.Status]; ok {
		x.Note("transform.status", strconv.Itoa(to)+" instead of the upstream's "+strconv.Itoa(h.Status))
		h.Status, h.Phrase = to, ""
	}
	t.responseHeaders.edit(&templated{x: x}, &h.Fields)
	encoding, _ := h.Fields.Lookup("Content-Encoding")
	switch {
	case t.responseBody == nil || !ofType(mediaType(h.Fields.Get(wire.ContentType)), jsonTypes):
		return nil, nil
	case encoding != "" && !wire.EqualFold(encoding, "identity"):
		return nil, errors.New("transform: the answer is encoded, although it was asked for without encoding")
	case h.Status == 206 || hasField(h.Fields, "Content-Range"):
		return nil, errors.New("transform: the answer is a part of a whole, although the whole was asked for")
	case h.Length > t.max:
		return nil, t.tooLarge()
	}
	if h.Status != 204 && h.Status != 304 {
		Changed(h)
	}
	return &transforming{t: t, x: x}, nil
}

func (t *transform) tooLarge() error {
	return errors.New("transform: the answer is larger than the " + reason.Bytes(t.max).String() + " of maxBody")
}

// transforming is one answer on its way.
type transforming struct {
	t    *transform
	x    *Exchange
	held []byte
}

// Write takes a piece.
func (t *transforming) Write(piece []byte, last bool) ([]byte, error) {
	if int64(len(t.held)+len(piece)) > t.t.max {
		return nil, t.t.tooLarge()
	}
	t.held = append(t.held, piece...)
	if !last || len(t.held) == 0 {
		return nil, nil
	}
	out, err := t.t.responseBody.apply(t.x, t.held, int(t.t.max))
	if err != nil {
		return nil, errors.New("transform: the answer is not valid JSON: " + err.Error())
	}
	return out, nil
}
