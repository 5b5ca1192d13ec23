package policy

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// Schema holds requests against what the API describes: an OpenAPI document (3.0 or 3.1), or a JSON Schema
// (2020-12) of the body.
//
// With openapi, the operation is found by the method and by the path below the mount of the API, or below the
// base path of one of the document's servers. Its parameters in path, query, header and cookies are
// checked, and its body by the schema of its media type: JSON and forms are looked into, other types pass by
// their name alone. With body, every JSON body is checked, and POST, PUT and PATCH have to have one.
//
// Every violation is told with its JSON pointer, what was wanted and what was seen, up to the bound of most.
// Values of names such as password or token are never shown. Files are read from the folder of the schema, and
// nothing over the network: what is referred to by a URL needs a copy, which references names, unless a schema in one of
// the files has that URL as its $id. Patterns are RE2, so that no text can make them slow.
//
// A body is decoded for its check, which costs memory and some microseconds. Compressed bodies are
// decoded first. Bodies with more than 100,000 values, nested deeper than 100, or so made that the schema
// would take millions of steps, are refused.
//
//	policies:
//	- schema: {openapi: openapi.yaml}
type Schema struct {
	// OpenAPI is a file with an OpenAPI document, relative to this one.
	OpenAPI string `json:"openapi" example:"openapi.yaml"`
	// Body is a file with a JSON Schema, relative to this one, or the schema itself.
	Body any `json:"body" example:"order.json"`
	// References says where copies lie of what is referred to by a URL or by its $id: the file for a URL, or the folder
	// for all URLs with a beginning, which ends with /. Paths are relative to this document.
	References map[string]string `json:"references" example:"{\"https://schemas.shop.test/\": schemas}"`
	// UnknownOperation says what becomes of calls that the OpenAPI document does not describe.
	UnknownOperation string `json:"unknownOperation" default:"refuse" enum:"refuse,allow"`
	// UnknownQuery says what becomes of parameters in the query that the operation does not describe.
	UnknownQuery string `json:"unknownQuery" default:"allow" enum:"refuse,allow"`
	// Status of a refusal for a body that does not fit: 422, or 400 for clients that know no other.
	Status int `json:"status" default:"422" enum:"400,422"`
	// Most is how many violations are told.
	Most int `json:"most" default:"20" min:"1" max:"100"`
	// Formats has formats such as date-time and email checked.
	Formats bool `json:"formats" default:"true"`
	// MaxBody is the largest body that is checked; larger ones are refused. It holds for the decoded
	// body, too. Of answers, larger ones are not checked.
	MaxBody resource.Size `json:"maxBody" default:"1MiB" min:"1"`
	// Responses has answers checked that the OpenAPI document describes, if it is "report": those that do not fit
	// leave a hint in the record of the call, and reach the client as they are.
	Responses string `json:"responses" default:"off" enum:"off,report"`
}

// Bounds of one check.
const (
	maxSchemaValues = 100_000
	maxSchemaWork   = 2_000_000 // applications of a schema to a value
	// maxExplained is up to how much work all violations are told. Beyond, it is those of one part.
	maxExplained = 500_000
)

var schemaBounds = jsonBounds{depth: maxSchemaDepth, keys: -1, elements: -1, values: maxSchemaValues, text: -1, numberText: 1000, exponent: 1000}

var (
	schemaViolated = reason.New(reason.Reason{
		Code: "schema.violated", Status: 422,
		Title:  "The body does not fit the schema of this API",
		Says:   "{place}: wanted {wanted}[, seen {seen}][; {more} more]",
		Wanted: "{wanted} at {place}",
		Seen:   "{seen|something else}[; also {others}]",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "{fix}[, and correct {more} more]"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to correct the schema, if the body is right"},
		},
		Hint: "{operation|the schema} says so[, at {schema}]; with shadow: true the policy would only watch",
	})
	// The same, for those who set status: 400.
	schemaViolated400 = func() *reason.Reason { r := *schemaViolated; r.Status = 400; return &r }()

	schemaParameter = reason.New(reason.Reason{
		Code: "schema.parameter", Status: 400,
		Title:  "A parameter does not fit the description of this API",
		Says:   "{place}: wanted {wanted}[, seen {seen}][; {more} more]",
		Wanted: "{wanted} at {place}",
		Seen:   "{seen|something else}[; also {others}]",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "{fix}[, and correct {more} more]"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to correct the description, if the call is right"},
		},
		Hint: "{operation|the schema} says so[, at {schema}]; with shadow: true the policy would only watch",
	})
	schemaMalformed = reason.New(reason.Reason{
		Code: "schema.malformed", Status: 400,
		Title:  "The body cannot be read",
		Says:   "the body is no JSON that is read in one way only: line {line}, column {column} wants {wanted}, and has {seen}",
		Wanted: "{wanted} in line {line}, column {column}[ (at {pointer})]",
		Seen:   "{seen}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "correct line {line}, column {column} of the body: write {wanted}"}},
		Hint:   "JSON is RFC 8259; names written twice and bytes that are not UTF-8 are refused, since parsers read them differently",
	})
	schemaMediaType = reason.New(reason.Reason{
		Code: "schema.media-type", Status: 415,
		Title:  "Content of this type is not described here",
		Says:   "the body is {seen}, and {operation|this API} takes {wanted}",
		Wanted: "a body of type {wanted}",
		Seen:   "{seen}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "send the body as {wanted}, and say so in Content-Type"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to describe {seen}"},
		},
		Hint: "the media types under requestBody of the operation; a schema of the body alone takes JSON",
	})
	schemaUnknownOperation = reason.New(reason.Reason{
		Code: "schema.unknown-operation", Status: 404,
		Title:  "The description of this API has no such path",
		Says:   "the API describes no path {path}[; {nearest} is near]",
		Wanted: "a path that the API describes",
		Seen:   "{path}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "call a path that the API describes[, such as {nearest}]"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to describe {path}"},
		},
		Hint: "the paths of the OpenAPI document, below the mount of the API or the base path of a server; with unknownOperation: allow the policy schema lets such calls pass",
	})
	schemaUnknownMethod = reason.New(reason.Reason{
		Code: "schema.unknown-method", Status: 405,
		Title:  "The description of this API has no such method here",
		Says:   "the API describes no {method} of {path}, but {allowed}",
		Wanted: "one of {allowed}",
		Seen:   "{method}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "use {allowed}"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to describe {method} {path}"},
		},
		Hint: "the operations of this path in the OpenAPI document; with unknownOperation: allow the policy schema lets such calls pass",
	})
	schemaTooLarge = reason.New(reason.Reason{
		Code: "schema.too-large", Status: 413,
		Title:  "The body is too much to be checked",
		Says:   "the body {seen}, and at most {limit} can be checked",
		Wanted: "a body with at most {limit}",
		Seen:   "one that {seen}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "send less in one call, or nest it less"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} for a schema with fewer alternatives, or none on this route"},
		},
		Hint: "alternatives of a schema that lead to the schema itself multiply with every level of a body",
	})
)

// schemaCheck is shared by all routes that the policy holds for.
type schemaCheck struct {
	set             *schemaSet
	refuseOperation bool
	refuseQuery     bool
	most            int
	max             int64
	violated        *reason.Reason
	document        string
	at              *reason.Source
	operationAt     *reason.Source
	queryAt         *reason.Source
	maxAt           *reason.Source
}

// schemaReport is a schemaCheck that looks at answers, too.
type schemaReport struct{ *schemaCheck }

// schemaSet is what files were compiled to. It outlives the revision as long as the files stay the same.
type schemaSet struct {
	files   *schemaFiles
	schemas map[string]*jsonschema.Schema
	api     *apiDocument  // of an OpenAPI document
	body    *apiOperation // of a JSON Schema
	lints   []schemaFault
}

// Start and Close have nothing to do.
func (s *schemaSet) Start() {}

// Close ends nothing.
func (s *schemaSet) Close() {}

// Compile reads and compiles the files.
func (p *Schema) Compile(env *Env) any {
	c := &schemaCheck{refuseOperation: p.UnknownOperation == "refuse", refuseQuery: p.UnknownQuery == "refuse", most: p.Most, max: int64(p.MaxBody),
		violated: schemaViolated, document: env.Node.Document(), at: env.Source(""), operationAt: env.Source("unknownOperation"), queryAt: env.Source("unknownQuery"), maxAt: env.Source("maxBody")}
	if p.Status == 400 {
		c.violated = schemaViolated400
	}
	field := "openapi"
	switch {
	case p.OpenAPI == "" && p.Body == nil:
		env.Problem("", "write openapi: FILE, or body: FILE", "schema without openapi and body checks nothing")
		return c
	case p.OpenAPI != "" && p.Body != nil:
		env.Problem("body", "put the schema of the body into the OpenAPI document, or use two policies", "schema has openapi or body, not both")
		return c
	case p.OpenAPI == "":
		field = "body"
		for _, f := range []string{"unknownOperation", "unknownQuery", "responses"} {
			if env.Node.At(f) != env.Node.At("") {
				env.Problem(f, "describe the API with openapi: FILE", "%s needs an OpenAPI document", f)
			}
		}
	}
	files := p.files(env, field)
	if files == nil {
		return c
	}
	if env.Watch != nil {
		for _, u := range files.order {
			if path := files.files[u].path; path != "" {
				env.Watch(path)
			}
		}
	}
	made := func() Kept { return compileSchemas(files, field == "openapi", p.Formats, p.Responses == "report") }
	if env.Keep != nil && files.inline == "" {
		c.set = env.Keep(fmt.Sprintf("schema %s %v %v %s", files.main, p.Formats, p.Responses, files.digest()), made).(*schemaSet)
	} else {
		c.set = made().(*schemaSet)
	}
	c.set.files.report(env, field)
	for _, copied := range files.copies {
		if !copied.used && len(c.set.files.faults) == 0 {
			env.Lint("schema.reference-unused", referenceField(copied.url), "a reference with this URL, or with one that begins so if it ends with /", "nothing in the schema refers to %s", copied.url)
		}
	}
	for _, l := range c.set.lints {
		env.Lint("schema.not-checked", field, "", "%s: %s", c.set.files.position(l.url, l.pointer), l.text)
	}
	if p.Responses == "report" {
		return &schemaReport{c}
	}
	return c
}

// files reads what the policy names, or nothing after a problem.
func (p *Schema) files(env *Env, field string) *schemaFiles {
	resolve := env.Resolve
	if resolve == nil {
		resolve = func(path string) string { return path }
	}
	copies, ok := p.copies(env, resolve)
	if !ok {
		return nil
	}
	name := p.OpenAPI
	if field == "body" {
		switch body := p.Body.(type) {
		case string:
			name = body
		case map[string]any, bool:
			return inlineSchema(filepath.Dir(resolve("x")), body, env.Node, copies)
		default:
			env.Problem("body", "name a file, or write the schema here", "a schema is a mapping, true or false")
			return nil
		}
	}
	if strings.Contains(name, "://") {
		env.Problem(field, "put a copy of it beside this document", "%q is no file, and nothing is fetched", name)
		return nil
	}
	files, err := readSchemaFiles(resolve(name), copies)
	switch {
	case errors.Is(err, os.ErrNotExist):
		env.Problem(field, "the path is relative to this document", "there is no file %q", name)
		return nil
	case err != nil:
		env.Problem(field, "", "reading %q: %v", name, err)
		return nil
	}
	return files
}

// copies are the files and folders that stand for URLs, or false after a problem.
func (p *Schema) copies(env *Env, resolve func(string) string) (copies []schemaCopy, ok bool) {
	ok = true
	for _, u := range namesInOrder(p.References) {
		at, file := referenceField(u), p.References[u]
		parsed, err := url.Parse(u)
		if err != nil || parsed.Scheme == "" || parsed.Fragment != "" {
			env.Problem(at, `such as "https://schemas.shop.test/order.json", or with / at its end for a folder`, "%q is no URL that a reference leads to", u)
			ok = false
			continue
		}
		path, err := filepath.Abs(resolve(file))
		if err == nil {
			path, err = filepath.EvalSymlinks(path)
		}
		var info os.FileInfo
		if err == nil {
			info, err = os.Stat(path)
		}
		folder := strings.HasSuffix(u, "/")
		switch {
		case errors.Is(err, os.ErrNotExist):
			env.Problem(at, "the path is relative to this document", "there is no file or folder %q", file)
		case err != nil:
			env.Problem(at, "", "reading %q: %v", file, err)
		case folder && !info.IsDir():
			env.Problem(at, "name a folder, or the URL of one file", "%s ends with /, so a folder has to stand for it, and %q is a file", u, file)
		case !folder && info.IsDir():
			env.Problem(at, "name a file, or end the URL with /", "a file has to stand for %s, and %q is a folder", u, file)
		default:
			if !folder {
				copies = append(copies, schemaCopy{url: u, path: path, folder: filepath.Dir(path)})
			} else {
				copies = append(copies, schemaCopy{url: u, path: path, folder: path})
			}
			continue
		}
		ok = false
	}
	return copies, ok
}

// referenceField is the field of References that is about a URL.
func referenceField(u string) string { return "references[" + strconv.Quote(u) + "]" }

// compileSchemas compiles what the files hold. Faults are noted in files.
func compileSchemas(files *schemaFiles, api, formats, answers bool) *schemaSet {
	s := &schemaSet{files: files, schemas: map[string]*jsonschema.Schema{}}
	if len(files.faults) > 0 {
		return s
	}
	c := &apiCompiler{files: files, works: map[*jsonschema.Schema]*schemaWork{}, fasts: map[*jsonschema.Schema]*fastSchema{}, schemas: s.schemas}
	if !api {
		docs := map[string]any{}
		for u, f := range files.files {
			docs[u] = f.doc
		}
		c.in = files.compiler(docs, formats)
		sch, fast, work := c.schema(c.in, files.main, "")
		body := &apiBody{required: true, names: []string{"application/json"}, types: []apiMedia{{"application/json", jsonMedia, sch, fast, work}, {"text/json", jsonMedia, sch, fast, work}, {"+json", jsonMedia, sch, fast, work}}}
		body.accept = "application/json"
		s.body = &apiOperation{body: body}
		return s
	}
	root, _ := files.files[files.main].doc.(map[string]any)
	version, _ := root["openapi"].(string)
	if !files.isOpenAPI(root) {
		return s
	}
	if files.checkOpenAPI(); len(files.faults) > 0 {
		return s
	}
	old := strings.HasPrefix(version, "3.0")
	c.in = files.compiler(files.converted(dialect{openAPI30: old}), formats)
	if answers {
		c.out = files.compiler(files.converted(dialect{openAPI30: old, answers: true}), formats)
	}
	s.api = c.compile(answers)
	s.lints = c.lints
	return s
}

// Impersonal is true: the description is the same for everybody.
func (c *schemaCheck) Impersonal() bool { return true }

// isOpenAPI says that a document is one of OpenAPI 3, or notes a fault.
func (s *schemaFiles) isOpenAPI(root map[string]any) bool {
	version, _ := root["openapi"].(string)
	switch {
	case root["swagger"] != nil:
		s.faults = append(s.faults, schemaFault{url: s.main, pointer: "/swagger", text: "this is Swagger 2.0, and OpenAPI 3.0 or 3.1 is wanted", hint: "convert the document, for example with swagger2openapi"})
	case !strings.HasPrefix(version, "3."):
		s.faults = append(s.faults, schemaFault{url: s.main, pointer: "/openapi", text: "this is no OpenAPI document: openapi: 3.0.x or 3.1.x is wanted at its top"})
	default:
		return true
	}
	return false
}

// ReadsBody says that the content is read.
func (c *schemaCheck) ReadsBody() bool { return true }

// Check finds the operation and holds parameters and body against it.
func (c *schemaCheck) Check(x *Exchange) reason.Verdict {
	if x.Preflight || c.set == nil {
		return reason.Verdict{}
	}
	op := c.set.body
	var path captured
	if c.set.api != nil {
		below := belowMount(x)
		item := c.set.api.find(below, &path)
		if item != nil {
			op = item.operations[x.Method]
		}
		if op == nil {
			return c.unknown(x, below, item)
		}
	}
	if op == nil {
		return reason.Verdict{}
	}
	var found *violations
	if len(op.params) > 0 || c.refuseQuery {
		if l := c.parameters(x, op, &path); l.total > 0 {
			found = &l
		}
	}
	parameters := found != nil
	v, checked := c.content(x, op, &found)
	if parameters {
		return c.refuse(x, op, schemaParameter, found)
	}
	if v.Refused() {
		return v
	}
	if found != nil {
		return c.refuse(x, op, c.violated, found)
	}
	if x.Explaining {
		facts := []reason.Fact{reason.Public("checked", checked).At(c.at)}
		if op.name != "" {
			facts = append(facts, reason.Public("operation", op.name))
		}
		return reason.Pass(facts...)
	}
	return reason.Verdict{}
}

// belowMount is the path that the API's own description begins with.
func belowMount(x *Exchange) string {
	path := x.Path
	if m := x.Route.Mount; m != "" && strings.HasPrefix(path, m) {
		path = path[len(m):]
	}
	if path == "" {
		return "/"
	}
	return path
}

// unknown decides about a call that is not described.
func (c *schemaCheck) unknown(x *Exchange, path string, item *apiItem) reason.Verdict {
	switch {
	case !c.refuseOperation:
		if x.Explaining {
			return reason.Pass(reason.Public("checked", "nothing: the API does not describe this call").At(c.operationAt))
		}
		return reason.Verdict{}
	case item != nil:
		x.Extra.Add("Allow", strings.Join(item.methods, ", "))
		return schemaUnknownMethod.Refuse(reason.Public("method", strings.Clone(x.Method)), reason.Public("path", item.template), reason.Public("allowed", item.methods).At(c.operationAt), x.OwnerFact())
	}
	facts := []reason.Fact{reason.Public("path", cutText(strings.Clone(path), 200)), reason.Rule("setting", "refuse").At(c.operationAt), x.OwnerFact()}
	if n := resource.Nearest(path, c.set.api.templates); n != "" {
		facts = append(facts, reason.Public("nearest", n))
	}
	return schemaUnknownOperation.Refuse(facts...)
}

func (c *schemaCheck) list(x *Exchange) violations {
	return violations{schemas: c.set.schemas, most: c.most, route: x.Route}
}

// parameters holds the parameters of a call against those of its operation.
func (c *schemaCheck) parameters(x *Exchange, op *apiOperation, path *captured) violations {
	l := c.list(x)
	for i := range op.params {
		op.params[i].check(x, path, &l)
	}
	if c.refuseQuery {
		eachQuery(x.Query, func(name, _ string) bool {
			if open := strings.IndexByte(name, '['); slices.Contains(op.queries, name) || open >= 0 && slices.Contains(op.queries, name[:open+1]) {
				return true
			}
			place := "query parameter " + showText(name)
			v := violation{pointer: place, wanted: "no other parameters than are described", seen: showText(name), fix: "remove the " + place}
			if n := resource.Nearest(name, op.queries); n != "" {
				v.fix = fmt.Sprintf("rename the query parameter %s to %s", showText(name), showText(n))
			}
			l.push(v)
			return l.total < maxCollected
		})
	}
	return l
}

// content holds the body of a call against its schema. It adds to found, and says what was checked.
func (c *schemaCheck) content(x *Exchange, op *apiOperation, found **violations) (v reason.Verdict, checked string) {
	body := op.body
	if body == nil {
		return v, "the parameters; no body is described"
	}
	has := x.BodySize != 0
	var content []byte
	var media *apiMedia
	if has {
		t, _, _ := strings.Cut(x.Fields.Get(wire.ContentType), ";")
		t = strings.TrimRight(t, " \t")
		if n := x.Fields.Count("Content-Type"); n > 1 { // which of them counts depends on who reads them
			return c.wrongType(x, op, "declared "+strconv.Itoa(n)+" times"), ""
		}
		if media = body.media(t, c.set.body != nil); media == nil {
			return c.wrongType(x, op, t), ""
		}
		if media.kind == otherMedia || media.schema == nil && media.kind == formMedia {
			return v, "the parameters and the type of the body"
		}
		if content, v = x.plainBody(c.max, maxRatio, c.maxAt); v.Refused() {
			return v, ""
		}
		has = len(content) > 0 // sent in chunks, it may be empty
	}
	if !has {
		if body.required && (c.set.body == nil || x.Method == "POST" || x.Method == "PUT" || x.Method == "PATCH") {
			c.push(x, found, violation{wanted: "a body of type " + reason.List(body.names), seen: "none", fix: "send a body of type " + reason.List(body.names), schema: bodySchema(body)})
		}
		return v, "the parameters; there is no body"
	}
	var value any
	var work int64
	if media.kind == formMedia {
		var ok bool
		if value, ok = formObject(wire.View(content), media.schema); !ok {
			return c.tooLarge(x, "has more values", strconv.Itoa(maxSchemaValues)+" values"), ""
		}
	} else {
		var fault jsonFault
		value, fault, work = decodeJSONFor(media.work, content, &schemaBounds)
		switch {
		case fault.kind == jsonManyValues:
			return c.tooLarge(x, "has more values", strconv.Itoa(maxSchemaValues)+" values"), ""
		case fault.kind == jsonTooDeep:
			return c.tooLarge(x, "is nested "+strconv.Itoa(fault.count)+" deep", strconv.Itoa(maxSchemaDepth)+" lists and objects inside of each other"), ""
		case fault.kind != jsonFine:
			return c.malformed(x, content, fault), ""
		case work > maxSchemaWork:
			return c.tooLarge(x, "would take the schema more than "+strconv.Itoa(maxSchemaWork)+" steps", strconv.Itoa(maxSchemaWork)+" steps"), ""
		}
	}
	if media.schema == nil {
		return v, "the parameters, and that the body is JSON"
	}
	if media.fast.fits(value) {
		return v, "the parameters and the body"
	}
	var tokens []string
	schema := media.schema
	if work > maxExplained {
		tokens, schema, value = media.fast.narrow(value)
	}
	if err := schema.Validate(value); err != nil {
		l := c.list(x)
		l.root, l.below = value, tokens
		l.ofError(err)
		if *found == nil {
			*found = &l
		} else {
			(*found).list = append((*found).list, l.list...)
			(*found).total += l.total
		}
	}
	return v, "the parameters and the body"
}

// ofError collects what a validation says.
func (l *violations) ofError(err error) {
	var e *jsonschema.ValidationError
	if errors.As(err, &e) {
		l.collect(e)
	}
	if l.total == 0 {
		l.push(violation{pointer: pointerOf(l.below), wanted: "a value that fits the schema", seen: show(l.root), fix: "change the body"})
	}
}

func (c *schemaCheck) push(x *Exchange, found **violations, v violation) {
	if *found == nil {
		l := c.list(x)
		*found = &l
	}
	(*found).push(v)
}

func bodySchema(b *apiBody) string {
	for _, t := range b.types {
		if t.schema != nil {
			return t.schema.Location
		}
	}
	return ""
}

// media finds the media type that content has. Content without a type is taken for JSON where only a schema of
// the body is given.
func (b *apiBody) media(t string, plain bool) *apiMedia {
	if t == "" && plain {
		return &b.types[0]
	}
	for i := range b.types {
		if t != "" && typeMatches(t, b.types[i].media) {
			m := &b.types[i]
			if m.kind == jsonMedia && strings.HasSuffix(m.media, "*") && !isJSONType(t) {
				return &otherContent
			}
			return m
		}
	}
	return nil
}

// otherContent is content of a type that a wildcard lets pass and that nobody can look into.
var otherContent = apiMedia{kind: otherMedia}

func (c *schemaCheck) wrongType(x *Exchange, op *apiOperation, t string) reason.Verdict {
	x.Extra.Add("Accept", op.body.accept)
	if x.Method == "POST" {
		x.Extra.Add("Accept-Post", op.body.accept)
	}
	seen := "of no type"
	if t != "" {
		seen = cutText(strings.Clone(t), 80)
	}
	facts := []reason.Fact{reason.Public("seen", seen), reason.Public("wanted", reason.List(op.body.names)).At(c.at), x.OwnerFact()}
	if op.name != "" {
		facts = append(facts, reason.Public("operation", op.name))
	}
	return schemaMediaType.Refuse(facts...)
}

func (c *schemaCheck) tooLarge(x *Exchange, seen, limit string) reason.Verdict {
	return schemaTooLarge.Refuse(reason.Public("seen", seen), reason.Public("limit", limit).At(c.at), x.OwnerFact())
}

// malformed tells of a body that is no JSON, or of such that parsers read in different ways.
func (c *schemaCheck) malformed(x *Exchange, body []byte, f jsonFault) reason.Verdict {
	facts := append(f.facts(body), x.OwnerFact())
	set := func(name, value string) {
		if _, ok := reason.Facts(facts).Find(name, reason.ToOperator); !ok {
			facts = append(facts, reason.Public(name, value))
		}
	}
	switch f.kind {
	case jsonTwice:
		first, _ := lineAndColumn(body, f.count)
		set("wanted", "each name once")
		set("seen", fmt.Sprintf("the name %s for the second time, after line %d", f.pointer(body), first))
	case jsonNotUTF8:
		set("wanted", "UTF-8")
	case jsonLongNumber, jsonExponent:
		set("wanted", "a number that a computer can hold")
		set("seen", fmt.Sprintf("one of %d characters", f.count))
	}
	return schemaMalformed.Refuse(facts...)
}

// refuse tells the violations.
func (c *schemaCheck) refuse(x *Exchange, op *apiOperation, r *reason.Reason, found *violations) reason.Verdict {
	list := found.list
	if r == schemaParameter { // they keep their order, parameters first
		list = list[:min(len(list), found.most)]
	} else {
		list = found.sorted()
	}
	first := list[0]
	place := first.pointer
	if place == "" {
		place = "the body"
	}
	texts, unmet := make([]string, len(list)), make([]string, len(list))
	for i, v := range list {
		p := v.pointer
		if p == "" {
			p = "the body"
		}
		unmet[i] = p + ": wanted " + v.wanted
		texts[i] = unmet[i] + ", seen " + v.seen
	}
	facts := []reason.Fact{
		reason.Public("wanted", first.wanted).At(c.source(first.schema)), reason.Public("place", place), reason.Own("seen", first.seen),
		reason.Public("fix", first.fix), reason.Own("violations", texts), reason.Public("unmet", unmet), reason.Public("violated", found.total), x.OwnerFact()}
	if found.total > 1 {
		facts = append(facts, reason.Public("more", found.total-1))
	}
	if len(texts) > 1 {
		facts = append(facts, reason.Own("others", cutText(strings.Join(texts[1:], "; "), 600)))
	}
	if first.schema != "" {
		_, p := splitURL(first.schema)
		facts = append(facts, reason.Rule("schema", c.name(first.schema)+"#"+p))
	}
	if op.name != "" {
		facts = append(facts, reason.Public("operation", op.name))
	}
	return r.Refuse(facts...)
}

// name is the file of a schema.
func (c *schemaCheck) name(u string) string {
	u, _ = splitURL(u)
	if f := c.set.files.files[u]; f != nil {
		return f.name
	}
	return ""
}

// source is where a schema is written, or the policy if that is not known.
func (c *schemaCheck) source(u string) *reason.Source {
	file, pointer := splitURL(u)
	f := c.set.files.files[file]
	if f == nil {
		return c.at
	}
	pos := c.set.files.position(file, pointer)
	if file == c.set.files.inline {
		pos = f.node.At("body" + nodePath(f.doc, pointer))
	}
	return &reason.Source{Document: c.document, Field: pointer, File: pos.File, Line: pos.Line}
}

// Filter watches an answer that the API describes. It changes nothing.
func (c *schemaReport) Filter(x *Exchange, h *wire.Head) (Transform, error) {
	if c.set == nil || c.set.api == nil || h.Length == 0 || h.Length > c.max || x.Method == "HEAD" {
		return nil, nil
	}
	var path captured
	item := c.set.api.find(belowMount(x), &path)
	if item == nil || item.operations[x.Method] == nil {
		return nil, nil
	}
	op := item.operations[x.Method]
	if len(op.responses) == 0 {
		return nil, nil
	}
	status := strconv.Itoa(h.Status)
	body := op.response(status)
	if body == nil {
		x.Note("schema.response", op.name+" describes no answer with status "+status)
		return nil, nil
	}
	t, _, _ := strings.Cut(h.Fields.Get(wire.ContentType), ";")
	t = strings.TrimRight(t, " \t")
	if len(body.types) == 0 {
		return nil, nil
	}
	media := body.media(t, false)
	if media == nil {
		x.Note("schema.response", op.name+" answered with "+cutText(showText(t), 80)+", and describes "+reason.List(body.names))
		return nil, nil
	}
	if contentCoding, ok := h.Fields.Lookup("Content-Encoding"); media.kind != jsonMedia || media.schema == nil || ok && !wire.EqualFold(contentCoding, "identity") {
		return nil, nil
	}
	return &schemaWatch{c: c.schemaCheck, x: x, op: op, media: media, status: status}, nil
}

// response is what an operation describes for a status, or nil.
func (o *apiOperation) response(status string) *apiBody {
	for _, want := range []string{status, status[:1] + "XX", "DEFAULT"} {
		for _, r := range o.responses {
			if r.status == want {
				return r.body
			}
		}
	}
	return nil
}

// schemaWatch reads an answer along as it passes by, up to the bound.
type schemaWatch struct {
	c      *schemaCheck
	x      *Exchange
	op     *apiOperation
	media  *apiMedia
	status string
	held   []byte
	over   bool
}

// Write takes a copy and returns the piece as it is.
func (w *schemaWatch) Write(piece []byte, last bool) ([]byte, error) {
	if w.over = w.over || int64(len(w.held)+len(piece)) > w.c.max; w.over {
		w.held = nil
		return piece, nil
	}
	w.held = append(w.held, piece...)
	if last {
		w.judge()
	}
	return piece, nil
}

// judge notes what does not fit.
func (w *schemaWatch) judge() {
	value, fault, work := decodeJSONFor(w.media.work, w.held, &schemaBounds)
	about := w.op.name + " answered " + w.status
	switch {
	case fault.kind == jsonManyValues || fault.kind == jsonTooDeep || work > maxSchemaWork:
		return // more than can be checked
	case fault.kind != jsonFine:
		line, column := lineAndColumn(w.held, fault.at)
		w.x.Note("schema.response", fmt.Sprintf("%s with what is no JSON, in line %d, column %d", about, line, column))
		return
	}
	if w.media.fast.fits(value) {
		return
	}
	var tokens []string
	schema := w.media.schema
	if work > maxExplained {
		tokens, schema, value = w.media.fast.narrow(value)
	}
	err := schema.Validate(value)
	if err == nil {
		return
	}
	l := w.c.list(w.x)
	l.root, l.below = value, tokens
	l.ofError(err)
	list := l.sorted()
	for _, v := range list[:min(len(list), 5)] {
		place := v.pointer
		if place == "" {
			place = "its body"
		}
		w.x.Note("schema.response", about+", and "+place+" does not fit: wanted "+v.wanted+", seen "+v.seen)
	}
}
