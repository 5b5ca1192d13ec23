package policy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
)

// Bounds of what is read at compile time.
const (
	maxSchemaFiles = 500
	maxSchemaFile  = 16 << 20
)

// schemaFiles are the files that a schema consists of: the one that the policy names, and those of its
// folder that it refers to. Nothing else is read, and nothing over the network.
type schemaFiles struct {
	folder string // real path
	main   string // URL of the first file
	files  map[string]*schemaFile
	order  []string
	inline string // URL of a schema written in the policy, "" if it has a file
	faults []schemaFault
}

type schemaFile struct {
	name string // as the policy names it, for messages
	node resource.Node
	doc  any // as decoded; nobody changes it
	data []byte
}

// schemaFault is something wrong with a file.
type schemaFault struct {
	url, pointer string // where
	text, hint   string
}

func fileURL(path string) string {
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(path)}).String()
}

func pathOfURL(u string) (string, bool) {
	p, err := url.Parse(u)
	if err != nil || p.Scheme != "file" || p.Host != "" {
		return "", false
	}
	return filepath.FromSlash(p.Path), true
}

// readSchemaFiles reads a file and all that it refers to.
func readSchemaFiles(path string) (*schemaFiles, error) {
	abs, err := filepath.Abs(path)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return nil, err
	}
	s := &schemaFiles{folder: filepath.Dir(abs), main: fileURL(abs), files: map[string]*schemaFile{}}
	if err := s.read(abs); err != nil {
		return nil, err
	}
	s.follow()
	return s, nil
}

// inlineSchema takes a schema that is written in the policy. What it refers to lies beside the document.
func inlineSchema(folder string, doc any, node resource.Node) *schemaFiles {
	if real, err := filepath.EvalSymlinks(folder); err == nil {
		folder = real
	}
	if abs, err := filepath.Abs(folder); err == nil {
		folder = abs
	}
	s := &schemaFiles{folder: folder, files: map[string]*schemaFile{}}
	s.main = fileURL(filepath.Join(folder, "policy.inline.json"))
	s.inline = s.main
	s.files[s.main] = &schemaFile{name: "body", node: node, doc: doc}
	s.order = []string{s.main}
	s.follow()
	return s
}

// read parses one file. Faults of its syntax are noted; only a file that cannot be read is an error.
func (s *schemaFiles) read(path string) error {
	u := fileURL(path)
	if s.files[u] != nil {
		return nil
	}
	if len(s.files) == maxSchemaFiles {
		return fmt.Errorf("the schema consists of more than %d files", maxSchemaFiles)
	}
	if info, err := os.Stat(path); err == nil && (!info.Mode().IsRegular() || info.Size() > maxSchemaFile) {
		return fmt.Errorf("%s is no file, or larger than %v", path, reason.Bytes(maxSchemaFile))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	name, err := filepath.Rel(s.folder, path)
	if err != nil {
		name = path
	}
	f := &schemaFile{name: filepath.ToSlash(name), data: data}
	s.files[u] = f
	s.order = append(s.order, u)
	var ps resource.Problems
	f.node, ps = resource.ParseNode(resource.File{Name: f.name, Data: data})
	for _, p := range ps {
		if p.Severity == resource.Error {
			s.faults = append(s.faults, schemaFault{url: u, text: p.String(), hint: p.Hint})
		}
	}
	if ps.HasErrors() {
		return nil
	}
	text := bytes.TrimPrefix(data, []byte("\ufeff"))
	if filepath.Ext(path) != ".json" || !json.Valid(text) {
		if text, err = f.node.MarshalJSON(); err != nil {
			return err
		}
	}
	var fault jsonFault
	if f.doc, fault = decodeJSON(text, &jsonBounds{depth: 200, keys: -1, elements: -1, values: -1, text: -1, numberText: 1000, exponent: 1000}); fault.kind != jsonFine {
		s.faults = append(s.faults, schemaFault{url: u, pointer: fault.pointer(text), text: "this cannot be read: it is nested too deep, or a number is too long"})
	}
	return nil
}

// follow reads the files that are referred to, and refuses references that lead out of the folder.
func (s *schemaFiles) follow() {
	for i := 0; i < len(s.order); i++ {
		u := s.order[i]
		own := map[string]bool{}
		walkSchema(s.files[u].doc, "", func(pointer string, m map[string]any) {
			if id, ok := m["$id"].(string); ok {
				own[id] = true
			}
		})
		walkSchema(s.files[u].doc, "", func(pointer string, m map[string]any) {
			for _, key := range []string{"$ref", "$dynamicRef"} {
				ref, ok := m[key].(string)
				if !ok {
					continue
				}
				if f := s.followRef(u, ref, len(own) > 0); f != nil {
					f.url, f.pointer = u, pointer+"/"+key
					s.faults = append(s.faults, *f)
				}
			}
		})
	}
}

// followRef reads what one reference names. Where a file gives its schemas names of their own ($id), what is
// no file may be one of them: the compiler knows.
func (s *schemaFiles) followRef(from, ref string, named bool) *schemaFault {
	file, _, _ := strings.Cut(ref, "#")
	if file == "" || strings.HasPrefix(file, "http://json-schema.org/") || strings.HasPrefix(file, "https://json-schema.org/") {
		return nil
	}
	r, err := url.Parse(file)
	if err != nil {
		return &schemaFault{text: fmt.Sprintf("%q is no reference", ref)}
	}
	if named {
		if path, ok := pathOfURL(from); ok && r.Scheme == "" && r.Host == "" {
			if path = filepath.Join(filepath.Dir(path), filepath.FromSlash(r.Path)); s.inside(path) {
				if err := s.read(path); err != nil && !errors.Is(err, os.ErrNotExist) {
					return &schemaFault{text: fmt.Sprintf("reading %q: %v", file, err)}
				}
			}
		}
		return nil
	}
	if r.Scheme != "" && r.Scheme != "file" || r.Host != "" {
		return &schemaFault{text: fmt.Sprintf("the reference %q leads to another place of the network, and nothing is fetched", ref), hint: "put a copy of the file beside this one and refer to that"}
	}
	base, err := url.Parse(from)
	if err != nil {
		return &schemaFault{text: fmt.Sprintf("%q is no reference", ref)}
	}
	path, ok := pathOfURL(base.ResolveReference(r).String())
	if !ok {
		return &schemaFault{text: fmt.Sprintf("%q is no reference to a file", ref)}
	}
	if !s.inside(path) {
		return &schemaFault{text: fmt.Sprintf("the reference %q leads out of the folder of the schema", ref), hint: "put the file into the folder, or below it"}
	}
	if err := s.read(path); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return &schemaFault{text: fmt.Sprintf("there is no file %q", file), hint: "the path is relative to the file that refers to it"}
		}
		return &schemaFault{text: fmt.Sprintf("reading %q: %v", file, err)}
	}
	return nil
}

// inside says that a path lies in the folder, symbolic links followed.
func (s *schemaFiles) inside(path string) bool {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	rel, err := filepath.Rel(s.folder, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// Load gives the compiler a file that was read before, and no other.
func (s *schemaFiles) Load(u string) (any, error) {
	if f := s.files[u]; f != nil {
		return f.doc, nil
	}
	return nil, errors.New("nothing is read but files of the folder of the schema that a reference names")
}

// digest tells one state of all files from another.
func (s *schemaFiles) digest() string {
	h := sha256.New()
	for _, u := range s.order {
		fmt.Fprintf(h, "%s %d\n", u, len(s.files[u].data))
		h.Write(s.files[u].data)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// position is where the value at a JSON pointer is written: "openapi.yaml:12:3".
func (s *schemaFiles) position(u, pointer string) resource.Pos {
	f := s.files[u]
	if f == nil {
		return resource.Pos{}
	}
	return f.node.At(nodePath(f.doc, pointer))
}

// nodePath writes a JSON pointer as the path of a Node, as far as it leads.
func nodePath(doc any, pointer string) string {
	var b strings.Builder
	for _, tok := range pointerTokens(pointer) {
		switch v := doc.(type) {
		case map[string]any:
			next, ok := v[tok]
			if !ok {
				return b.String()
			}
			b.WriteString("[" + strconv.Quote(tok) + "]")
			doc = next
		case []any:
			i, err := strconv.Atoi(tok)
			if err != nil || i < 0 || i >= len(v) {
				return b.String()
			}
			b.WriteString("[" + strconv.Itoa(i) + "]")
			doc = v[i]
		default:
			return b.String()
		}
	}
	return b.String()
}

func pointerTokens(pointer string) []string {
	if pointer == "" || pointer[0] != '/' {
		return nil
	}
	tokens := strings.Split(pointer[1:], "/")
	for i := range tokens {
		tokens[i] = strings.ReplaceAll(strings.ReplaceAll(tokens[i], "~1", "/"), "~0", "~")
	}
	return tokens
}

// pointedAt finds the value at a JSON pointer.
func pointedAt(doc any, pointer string) (any, bool) {
	for _, tok := range pointerTokens(pointer) {
		switch v := doc.(type) {
		case map[string]any:
			next, ok := v[tok]
			if !ok {
				return nil, false
			}
			doc = next
		case []any:
			i, err := strconv.Atoi(tok)
			if err != nil || i < 0 || i >= len(v) {
				return nil, false
			}
			doc = v[i]
		default:
			return nil, false
		}
	}
	return doc, true
}

// resolve follows references from a value of a document to what is meant.
func (s *schemaFiles) resolve(u, pointer string, v any) (string, string, any) {
	for range 20 {
		m, ok := v.(map[string]any)
		if !ok {
			break
		}
		ref, ok := m["$ref"].(string)
		if !ok {
			break
		}
		file, fragment, _ := strings.Cut(ref, "#")
		if file != "" {
			base, err := url.Parse(u)
			if err != nil {
				break
			}
			r, err := url.Parse(file)
			if err != nil {
				break
			}
			u = base.ResolveReference(r).String()
		}
		f := s.files[u]
		if f == nil {
			break
		}
		if fragment, err := url.PathUnescape(fragment); err == nil {
			pointer = fragment
		}
		next, ok := pointedAt(f.doc, pointer)
		if !ok {
			break
		}
		v = next
	}
	return u, pointer, v
}

// walkSchema calls f for every mapping of a document but those that are values of somebody: examples, defaults
// and what is listed under const and enum.
func walkSchema(v any, pointer string, f func(pointer string, m map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		f(pointer, v)
		for _, k := range namesInOrder(v) {
			if k == "example" || k == "examples" || k == "default" || k == "const" || k == "enum" || strings.HasPrefix(k, "x-") {
				if !strings.HasSuffix(pointer, "/properties") {
					continue
				}
			}
			walkSchema(v[k], pointer+"/"+pointerToken(k), f)
		}
	case []any:
		for i, e := range v {
			walkSchema(e, pointer+"/"+strconv.Itoa(i), f)
		}
	}
}

func namesInOrder[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for k := range m {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

// dialect is how the schemas of an OpenAPI document have to be changed to be JSON Schema 2020-12.
type dialect struct {
	openAPI30 bool
	answers   bool // else they are for requests
}

// converted are the files as JSON Schema.
func (s *schemaFiles) converted(d dialect) map[string]any {
	docs := make(map[string]any, len(s.files))
	for _, u := range s.order {
		doc := copyJSON(s.files[u].doc)
		m, _ := doc.(map[string]any)
		if _, isAPI := m["paths"]; !isAPI && m["components"] == nil {
			d.schema(doc)
		}
		d.document(doc)
		docs[u] = doc
	}
	return docs
}

func copyJSON(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[k] = copyJSON(e)
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = copyJSON(e)
		}
		return l
	}
	return v
}

// document converts the schemas of an OpenAPI document, which stand under "schema" and "schemas".
func (d dialect) document(v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			switch {
			case k == "example" || k == "examples" || strings.HasPrefix(k, "x-"):
			case k == "schema":
				d.schema(e)
			case k == "schemas":
				if m, ok := e.(map[string]any); ok {
					for _, s := range m {
						d.schema(s)
					}
				}
			default:
				d.document(e)
			}
		}
	case []any:
		for _, e := range v {
			d.document(e)
		}
	}
}

// schema converts a schema and those in it.
func (d dialect) schema(v any) {
	m, ok := v.(map[string]any)
	if !ok {
		return
	}
	if d.openAPI30 {
		if ref, ok := m["$ref"]; ok { // nothing beside it counts (OpenAPI 3.0, Reference Object)
			clear(m)
			m["$ref"] = ref
			return
		}
		for _, k := range []string{"Minimum", "Maximum"} {
			exclusive, ok := m["exclusive"+k].(bool)
			if !ok {
				continue
			}
			delete(m, "exclusive"+k)
			if bound, has := m[strings.ToLower(k)]; exclusive && has {
				m["exclusive"+k] = bound
				delete(m, strings.ToLower(k))
			}
		}
		if null, _ := m["nullable"].(bool); null {
			if t, ok := m["type"].(string); ok {
				m["type"] = []any{t, "null"}
			}
			if list, ok := m["enum"].([]any); ok && !slices.Contains(list, nil) {
				m["enum"] = append(slices.Clip(list), nil)
			}
		}
		delete(m, "nullable")
		delete(m, "example")
		for _, later := range []string{"id", "$id", "$schema", "$anchor", "$dynamicRef", "const", "if", "then", "else", "contains", "prefixItems"} {
			delete(m, later) // mean nothing in OpenAPI 3.0
		}
	}
	d.required(m)
	for _, k := range []string{"items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames", "unevaluatedItems", "unevaluatedProperties"} {
		d.schema(m[k])
	}
	for _, k := range []string{"allOf", "anyOf", "oneOf", "prefixItems"} {
		if list, ok := m[k].([]any); ok {
			for _, e := range list {
				d.schema(e)
			}
		}
	}
	for _, k := range []string{"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"} {
		if list, ok := m[k].(map[string]any); ok {
			for _, e := range list {
				d.schema(e)
			}
		}
	}
}

// required takes out names that need not be there in this direction: what only the server writes need not be
// sent, and what only the client writes need not come back.
func (d dialect) required(m map[string]any) {
	list, _ := m["required"].([]any)
	props, _ := m["properties"].(map[string]any)
	flag := "readOnly"
	if d.answers {
		flag = "writeOnly"
	}
	kept := slices.DeleteFunc(slices.Clone(list), func(name any) bool {
		n, _ := name.(string)
		p, _ := props[n].(map[string]any)
		on, _ := p[flag].(bool)
		return on
	})
	if len(kept) < len(list) {
		m["required"] = kept
	}
}

// compiler compiles schemas of these files.
func (s *schemaFiles) compiler(docs map[string]any, formats bool) *jsonschema.Compiler {
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(s)
	if formats {
		c.AssertFormat()
	}
	for _, f := range numberFormats {
		c.RegisterFormat(f)
	}
	for u, doc := range docs {
		if err := c.AddResource(u, doc); err != nil {
			panic("BUG: a schema file was added twice: " + err.Error())
		}
	}
	return c
}

// numberFormats are those of OpenAPI that say something about values.
var numberFormats = []*jsonschema.Format{intFormat("int32", 32), intFormat("int64", 64)}

func intFormat(name string, bits int) *jsonschema.Format {
	return &jsonschema.Format{Name: name, Validate: func(v any) error {
		switch v.(type) {
		case int64, json.Number:
		default:
			return nil
		}
		if _, err := strconv.ParseInt(fmt.Sprint(v), 10, bits); errors.Is(err, strconv.ErrRange) {
			return fmt.Errorf("does not fit in %d bits", bits)
		}
		return nil
	}}
}

// compile compiles the schema at a place and notes what is wrong with it.
func (s *schemaFiles) compile(c *jsonschema.Compiler, u, pointer string) *jsonschema.Schema {
	sch, err := c.Compile(u + "#" + escapePointer(pointer))
	if err == nil {
		return sch
	}
	s.fault(u, pointer, err)
	return nil
}

// escapePointer writes a JSON pointer as a fragment of a URL.
func escapePointer(pointer string) string {
	parts := strings.Split(pointer, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

// splitURL takes a URL with a JSON pointer apart.
func splitURL(u string) (file, pointer string) {
	file, pointer, _ = strings.Cut(u, "#")
	if p, err := url.PathUnescape(pointer); err == nil {
		pointer = p
	}
	return file, pointer
}

// fault notes what the compiler of schemas says.
func (s *schemaFiles) fault(u, pointer string, err error) {
	f := schemaFault{url: u, pointer: pointer, text: err.Error()}
	var invalid *jsonschema.SchemaValidationError
	var regex *jsonschema.InvalidRegexError
	var load *jsonschema.LoadURLError
	var missing *jsonschema.JSONPointerNotFoundError
	switch {
	case errors.As(err, &invalid):
		f.url, f.pointer = splitURL(invalid.URL)
		var v *jsonschema.ValidationError
		if errors.As(invalid.Err, &v) {
			whole, _ := pointedAt(s.doc(f.url), f.pointer)
			list := violations{root: whole, most: 1}
			list.collect(v)
			if first := list.sorted(); len(first) > 0 {
				f.pointer += first[0].pointer
				f.text = fmt.Sprintf("this is no schema: wanted %s, found %s", first[0].wanted, first[0].seen)
				if first[0].wanted == formatWords("regex") {
					f.text, f.hint = fmt.Sprintf("the pattern %s cannot be used here", first[0].seen), noRegexp
				}
			}
		}
	case errors.As(err, &regex):
		f.url, f.pointer = splitURL(regex.URL)
		f.text, f.hint = fmt.Sprintf("the pattern %q cannot be used: %v", cutText(regex.Regex, 80), regexCause(regex.Err)), noRegexp
	case errors.As(err, &load), errors.As(err, &missing):
		ref := ""
		if load != nil {
			ref = load.URL
		} else {
			file, p := splitURL(missing.URL)
			ref = p
			f.url = file
		}
		f.text = fmt.Sprintf("a reference leads to %q, which is not there", ref)
		f.pointer = s.referenceTo(&f.url, ref, pointer)
	}
	for _, have := range s.faults {
		if have == f {
			return
		}
	}
	s.faults = append(s.faults, f)
}

const noRegexp = "patterns are RE2, which knows no lookahead and no backreferences"

func regexCause(err error) string { return strings.TrimPrefix(err.Error(), "error parsing regexp: ") }

func (s *schemaFiles) doc(u string) any {
	if f := s.files[u]; f != nil {
		return f.doc
	}
	return nil
}

// referenceTo finds a reference that ends like what it leads to.
func (s *schemaFiles) referenceTo(u *string, target, otherwise string) string {
	found := ""
	for _, file := range s.order {
		walkSchema(s.files[file].doc, "", func(pointer string, m map[string]any) {
			ref, ok := m["$ref"].(string)
			if _, fragment := splitURL(ref); ok && found == "" && (strings.HasSuffix(target, ref) || fragment != "" && fragment == target) {
				found, *u = pointer+"/$ref", file
			}
		})
	}
	if found == "" {
		return otherwise
	}
	return found
}

// report tells the faults of the files as problems of the policy: the caret is where the policy names the file,
// the text says where in the file.
func (s *schemaFiles) report(env *Env, field string) {
	const most = 20
	for i, f := range s.faults {
		if i == most {
			env.Problem(field, "", "and %d more problems of this schema", len(s.faults)-most)
			return
		}
		if f.url == s.inline && s.inline != "" {
			p := nodePath(s.files[f.url].doc, f.pointer)
			if !strings.HasPrefix(p, "[") {
				p = "." + p
			}
			env.Problem(field+strings.TrimSuffix(p, "."), f.hint, "%s", f.text)
			continue
		}
		if pos := s.position(f.url, f.pointer); f.pointer != "" && pos.Line > 0 {
			f.text = pos.String() + ": " + f.text
		} else if file := s.files[f.url]; file != nil && !strings.HasPrefix(f.text, file.name+":") {
			f.text = file.name + ": " + f.text
		}
		env.Problem(field, f.hint, "%s", f.text)
	}
}

// checkOpenAPI has the document judged by the rules of OpenAPI.
func (s *schemaFiles) checkOpenAPI() *openapi3.T {
	l := openapi3.NewLoader()
	l.IncludeOrigin = true
	l.ReadFromURIFunc = func(_ *openapi3.Loader, u *url.URL) ([]byte, error) {
		path := filepath.FromSlash(u.Path)
		if f := s.files[fileURL(path)]; f != nil && (u.Scheme == "" || u.Scheme == "file") && u.Host == "" {
			return f.data, nil
		}
		return nil, fmt.Errorf("nothing is read but files of the folder of the schema that a reference names")
	}
	path, _ := pathOfURL(s.main)
	doc, err := l.LoadFromURI(&url.URL{Path: filepath.ToSlash(path)})
	if err != nil {
		s.openAPIFault(err)
		return nil
	}
	err = doc.Validate(context.Background(), openapi3.DisableExamplesValidation(), openapi3.DisableSchemaDefaultsValidation(), openapi3.DisableSchemaPatternValidation(), openapi3.EnableMultiError())
	var several openapi3.MultiError
	if errors.As(err, &several) {
		for _, err := range several {
			s.openAPIFault(err)
		}
	} else if err != nil {
		s.openAPIFault(err)
	}
	return doc
}

// openAPIFault notes what the library says, with the line if it knows one.
func (s *schemaFiles) openAPIFault(err error) {
	text := strings.ReplaceAll(firstLine(err.Error()), s.folder+string(filepath.Separator), "")
	f := schemaFault{url: s.main, text: cutText(text, 300)}
	if file, line := fileOf(err); line > 0 {
		name := s.files[s.main].name
		if file := s.files[fileURL(file)]; file != nil {
			name = file.name
		}
		f.text = name + ":" + strconv.Itoa(line) + ": " + f.text
	}
	s.faults = append(s.faults, f)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return strings.TrimSpace(line)
}

// fileOf finds the innermost place that an error of the library knows.
func fileOf(err error) (file string, line int) {
	for ; err != nil; err = errors.Unwrap(err) {
		v := reflect.Indirect(reflect.ValueOf(err))
		if v.Kind() != reflect.Struct {
			continue
		}
		if o, ok := v.FieldByName("Origin"), true; ok && o.IsValid() {
			if origin, ok := o.Interface().(*openapi3.Origin); ok && origin != nil && origin.Key != nil {
				file, line = origin.Key.File, origin.Key.Line
			}
		}
	}
	return file, line
}
