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
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/whygate/whygate/resource"
)

// Bounds of what is read at compile time.
const (
	maxSchemaFiles = 500
	maxSchemaFile  = 16 << 20
)

// schemaFiles are the files that a schema consists of: the one that the policy names, those of its folder that
// it refers to, and those that stand for URLs. Nothing else is read, and nothing over the network.
type schemaFiles struct {
	folder string // real path
	main   string // URL of the first file
	files  map[string]*schemaFile
	order  []string
	inline string // URL of a schema written in the policy, "" if it has a file
	copies []schemaCopy
	named  bool                   // $id gives schemas names: not so in OpenAPI 3.0
	names  map[string]schemaPlace // what $id and anchors name: "https://shop.test/order", "https://shop.test/order#line"
	faults []schemaFault
}

// schemaPlace is a part of a file.
type schemaPlace struct{ url, pointer string }

// schemaCopy says where what a URL leads to lies on this machine.
type schemaCopy struct {
	url    string // of a file, or what the URLs of a folder begin with: it ends with /
	path   string // real path of the file or folder
	folder string // out of which nothing is read
	used   bool
}

type schemaFile struct {
	name string // as the policy names it, for messages
	path string // "" of a schema written in the policy
	node resource.Node
	doc  any // as decoded, and references to names bound; nobody changes it then
	data []byte
	// bound are the references that lead to where a name stands, in order: what was written, and instead.
	bound []boundReference
}

// boundReference is a reference by a name ($id, $anchor), and the file and JSON pointer that it stands for.
type boundReference struct{ pointer, written, instead string }

// schemaFault is something wrong with a file.
type schemaFault struct {
	url, pointer string // where
	text, hint   string
	name         string // the URL that nothing was found for; a file that is read later may name it
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
func readSchemaFiles(path string, copies []schemaCopy) (*schemaFiles, error) {
	abs, err := filepath.Abs(path)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return nil, err
	}
	s := &schemaFiles{folder: filepath.Dir(abs), main: fileURL(abs), files: map[string]*schemaFile{}, copies: copies}
	if err := s.read(s.main, abs); err != nil {
		return nil, err
	}
	s.follow()
	return s, nil
}

// inlineSchema takes a schema that is written in the policy. What it refers to lies beside the document.
func inlineSchema(folder string, doc any, node resource.Node, copies []schemaCopy) *schemaFiles {
	if real, err := filepath.EvalSymlinks(folder); err == nil {
		folder = real
	}
	if abs, err := filepath.Abs(folder); err == nil {
		folder = abs
	}
	s := &schemaFiles{folder: folder, files: map[string]*schemaFile{}, copies: copies}
	s.main = fileURL(filepath.Join(folder, "policy.inline.json"))
	s.inline = s.main
	s.files[s.main] = &schemaFile{name: "body", node: node, doc: doc}
	s.order = []string{s.main}
	s.follow()
	return s
}

// read parses the file that a URL leads to. Faults of its syntax are noted; only a file that cannot be read is an error.
func (s *schemaFiles) read(u, path string) error {
	if s.files[u] != nil {
		return nil
	}
	if len(s.files) == maxSchemaFiles {
		return fmt.Errorf("the schema consists of more than %d files", maxSchemaFiles)
	}
	data, err := resource.ReadFile(path, maxSchemaFile)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	name, err := filepath.Rel(s.folder, path)
	if err != nil {
		name = path
	}
	f := &schemaFile{name: filepath.ToSlash(name), path: path, data: data}
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

// follow reads the files that are referred to, and refuses references that lead elsewhere. References by names that
// schemas have in some of the files are then bound to where those stand.
func (s *schemaFiles) follow() {
	main, _ := s.doc(s.main).(map[string]any)
	version, _ := main["openapi"].(string)
	s.named = !strings.HasPrefix(version, "3.0")
	s.names = map[string]schemaPlace{}
	for i := 0; i < len(s.order); i++ {
		s.nameParts(s.order[i])
		s.followFrom(s.order[i])
	}
	s.faults = slices.DeleteFunc(s.faults, func(f schemaFault) bool {
		_, found := s.names[f.name]
		return found && f.name != ""
	})
	for _, u := range s.order {
		s.bind(u)
	}
}

// schemaBases are the parts of a file with an $id around a place, the file itself first. References are relative to
// the innermost (JSON Schema core §8.2.1). Places come in the order of a walk.
type schemaBases []schemaBase

type schemaBase struct {
	pointer string // of the part
	url     *url.URL
}

// at is what references in a mapping are relative to, and whether that has the $id.
func (b *schemaBases) at(pointer string, m map[string]any, named bool) (base *url.URL, names bool) {
	list := *b
	for len(list) > 1 && !strings.HasPrefix(pointer, list[len(list)-1].pointer+"/") {
		list = list[:len(list)-1]
	}
	base = list[len(list)-1].url
	if id, ok := m["$id"].(string); ok && named && !strings.HasPrefix(id, "#") {
		if r, err := url.Parse(id); err == nil {
			base, names = base.ResolveReference(r), true
			base.Fragment = ""
			if pointer == "" {
				list[0].url = base
			} else {
				list = append(list, schemaBase{pointer, base})
			}
		}
	}
	*b = list
	return base, names
}

// nameParts notes the names that the schemas of a file have. The first of two equal ones holds; the compiler refuses
// them within one file.
func (s *schemaFiles) nameParts(u string) {
	at, err := url.Parse(u)
	if err != nil || !s.named {
		return
	}
	name := func(n, pointer string) {
		if _, taken := s.names[n]; !taken {
			s.names[n] = schemaPlace{u, pointer}
		}
	}
	bases := schemaBases{{"", at}}
	eachSchemaOf(s.files[u].doc, func(pointer string, m map[string]any) {
		base, names := bases.at(pointer, m, true)
		if names {
			name(base.String(), pointer)
		}
		for _, key := range [...]string{"$anchor", "$dynamicAnchor"} {
			if a, ok := m[key].(string); ok && a != "" {
				name(base.String()+"#"+a, pointer)
			}
		}
	})
}

// bind has references by names lead to where those stand, by file and JSON pointer: what reads OpenAPI documents
// knows nothing of $id, and the compiler finds names only in what it has come through.
func (s *schemaFiles) bind(u string) {
	at, err := url.Parse(u)
	if err != nil || len(s.names) == 0 {
		return
	}
	f := s.files[u]
	bases := schemaBases{{"", at}}
	done := map[string]bool{} // a walk may come to one place twice
	eachSchemaOf(f.doc, func(pointer string, m map[string]any) {
		base, _ := bases.at(pointer, m, true)
		ref, ok := m["$ref"].(string)
		r, err := url.Parse(ref)
		if !ok || err != nil || done[pointer] {
			return
		}
		done[pointer] = true
		target := base.ResolveReference(r)
		fragment := target.Fragment
		target.Fragment, target.RawFragment = "", ""
		to, found := s.names[target.String()]
		switch {
		case found:
		case s.files[target.String()] != nil && base != at: // a file beside what $id says
			to = schemaPlace{url: target.String()}
		case base == at && r.Path == "" && r.Host == "" && fragment != "" && fragment[0] != '/': // an anchor of this file
			to = schemaPlace{url: u}
		default:
			return
		}
		switch {
		case strings.HasPrefix(fragment, "/"):
			to.pointer += fragment
		case fragment != "":
			if to, found = s.names[target.String()+"#"+fragment]; !found {
				return // the compiler says so
			}
		}
		if instead := to.url + "#" + escapePointer(to.pointer); instead != target.String()+"#"+escapePointer(fragment) {
			m["$ref"] = instead
			f.bound = append(f.bound, boundReference{pointer + "/$ref", ref, instead})
		}
	})
}

// followFrom reads what the references of one file lead to.
func (s *schemaFiles) followFrom(u string) {
	at, err := url.Parse(u)
	if err != nil {
		return
	}
	own := map[string]bool{} // the names that this file gives to parts of it
	bases := schemaBases{{"", at}}
	type reference struct {
		pointer, ref string
		base         *url.URL
	}
	var references []reference
	walkSchema(s.files[u].doc, "", func(pointer string, m map[string]any) {
		base, names := bases.at(pointer, m, s.named)
		if names {
			own[base.String()] = true
		}
		for _, key := range []string{"$ref", "$dynamicRef"} {
			if ref, ok := m[key].(string); ok {
				references = append(references, reference{pointer + "/" + key, ref, base})
			}
		}
	})
	var beside *schemaCopy // where the file has a name, those beside it have one, too
	if path := s.files[u].path; path != "" && bases[0].url != at {
		beside = &schemaCopy{url: bases[0].url.ResolveReference(&url.URL{Path: "."}).String(), path: filepath.Dir(path), folder: s.folder}
	}
	for _, r := range references {
		if f := s.followRef(r.base, r.ref, own, beside); f != nil {
			f.url, f.pointer = u, r.pointer
			s.faults = append(s.faults, *f)
		}
	}
}

// followRef reads what one reference leads to. Where a file gives its schemas names of their own ($id), a file that
// is not found may be one of them: the compiler knows.
func (s *schemaFiles) followRef(base *url.URL, ref string, own map[string]bool, beside *schemaCopy) *schemaFault {
	file, _, _ := strings.Cut(ref, "#")
	if file == "" {
		return nil
	}
	r, err := url.Parse(file)
	if err != nil {
		return &schemaFault{text: fmt.Sprintf("%q is no reference", ref)}
	}
	target := base.ResolveReference(r)
	target.Fragment = ""
	u := target.String()
	if own[u] || strings.HasPrefix(u, "http://json-schema.org/") || strings.HasPrefix(u, "https://json-schema.org/") {
		return nil
	}
	if c := s.copyOf(u); c != nil {
		c.used = true
		path, ok := c.at(u)
		if !ok {
			return &schemaFault{text: fmt.Sprintf("the reference %q leads out of the folder that stands for %s", ref, c.url)}
		}
		return s.readReferred(u, path, ref)
	}
	if beside != nil {
		if path, ok := beside.at(u); ok {
			if _, err := os.Stat(path); err == nil {
				return s.readReferred(u, path, ref)
			}
		}
	}
	path, isFile := pathOfURL(u)
	switch {
	case isFile && insideFolder(s.folder, path):
		if _, err := os.Stat(path); err != nil && len(own) > 0 {
			return nil
		}
		return s.readReferred(u, path, ref)
	case isFile && len(own) > 0:
		return nil
	case isFile:
		return &schemaFault{text: fmt.Sprintf("the reference %q leads out of the folder of the schema", ref), hint: "put the file into the folder, or below it"}
	case target.Scheme == "file":
		return &schemaFault{text: fmt.Sprintf("%q is no reference to a file", ref)}
	}
	f := &schemaFault{text: fmt.Sprintf("the reference %q leads to another place of the network, and nothing is fetched", ref), hint: copyHint(u), name: u}
	switch {
	case target.Host == "":
		f.text = fmt.Sprintf("the reference %q names a schema that is not here", ref)
	case r.Host == "":
		f.text = fmt.Sprintf("the reference %q means %s by the $id around it, and nothing is fetched", ref, u)
	}
	return f
}

// copyHint says how a file is made to stand for a URL.
func copyHint(u string) string {
	name := u
	if parsed, err := url.Parse(u); err == nil && parsed.Opaque == "" && parsed.Path != "" {
		name = path.Base(parsed.Path)
	} else if i := strings.LastIndexAny(u, ":/"); i >= 0 {
		name = u[i+1:]
	}
	return fmt.Sprintf("put a copy of it beside this document, and add to the policy references: {%q: %s}", u, name)
}

// readReferred reads the file that a reference leads to.
func (s *schemaFiles) readReferred(u, path, ref string) *schemaFault {
	err := s.read(u, path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		file, _, _ := strings.Cut(ref, "#")
		name := path
		if rel, err := filepath.Rel(s.folder, path); err == nil {
			name = filepath.ToSlash(rel)
		}
		if name != file {
			return &schemaFault{text: fmt.Sprintf("the reference %q leads to %q, and there is no such file", ref, name)}
		}
		return &schemaFault{text: fmt.Sprintf("there is no file %q", file), hint: "the path is relative to the file that refers to it"}
	case err != nil:
		return &schemaFault{text: fmt.Sprintf("reading %q: %v", ref, err)}
	}
	return nil
}

// copyOf is the longest of the copies that stands for a URL, or nil.
func (s *schemaFiles) copyOf(u string) *schemaCopy {
	var longest *schemaCopy
	for i := range s.copies {
		c := &s.copies[i]
		if (c.url == u || strings.HasSuffix(c.url, "/") && strings.HasPrefix(u, c.url)) && (longest == nil || len(c.url) > len(longest.url)) {
			longest = c
		}
	}
	return longest
}

// at is the file that stands for a URL.
func (c *schemaCopy) at(u string) (string, bool) {
	rest, ok := strings.CutPrefix(u, c.url)
	if !ok || rest == "" {
		return c.path, ok && !strings.HasSuffix(c.url, "/")
	}
	if rest, err := url.PathUnescape(rest); err == nil && !strings.ContainsAny(rest, "?\x00") {
		path := filepath.Join(c.path, filepath.FromSlash(rest))
		return path, insideFolder(c.folder, path)
	}
	return "", false
}

// insideFolder says that a path lies in a folder, symbolic links followed.
func insideFolder(folder, path string) bool {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	rel, err := filepath.Rel(folder, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

var errNotReferred = errors.New("nothing is read but files of the folder of the schema, and those that references names")

// Load gives the compiler a file that was read before, and no other.
func (s *schemaFiles) Load(u string) (any, error) {
	if f := s.files[u]; f != nil {
		return f.doc, nil
	}
	return nil, errNotReferred
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
		docs[u] = copyJSON(s.files[u].doc)
		eachSchemaOf(docs[u], d.schema)
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

// eachSchemaOf calls f for the schemas of a document and those in them, the outer ones first. Those of an OpenAPI
// document stand under "schema" and "schemas"; any other document is one itself. f may change what it gets.
func eachSchemaOf(doc any, f func(pointer string, m map[string]any)) {
	m, _ := doc.(map[string]any)
	if _, isAPI := m["paths"]; !isAPI && m["components"] == nil {
		eachSchema(doc, "", f)
	}
	eachSchemaBelow(doc, "", f)
}

func eachSchemaBelow(v any, pointer string, f func(pointer string, m map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range namesInOrder(v) {
			e, at := v[k], pointer+"/"+pointerToken(k)
			switch {
			case k == "example" || k == "examples" || strings.HasPrefix(k, "x-"):
			case k == "schema":
				eachSchema(e, at, f)
			case k == "schemas":
				eachSchemaIn(e, at, f)
			default:
				eachSchemaBelow(e, at, f)
			}
		}
	case []any:
		for i, e := range v {
			eachSchemaBelow(e, pointer+"/"+strconv.Itoa(i), f)
		}
	}
}

// eachSchema is for a schema and those in it.
func eachSchema(v any, pointer string, f func(pointer string, m map[string]any)) {
	m, ok := v.(map[string]any)
	if !ok {
		return
	}
	f(pointer, m)
	for _, k := range [...]string{"items", "additionalItems", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames", "unevaluatedItems", "unevaluatedProperties", "contentSchema"} {
		eachSchema(m[k], pointer+"/"+k, f)
	}
	for _, k := range [...]string{"allOf", "anyOf", "oneOf", "prefixItems", "items"} {
		if _, ok := m[k].([]any); ok {
			eachSchemaIn(m[k], pointer+"/"+k, f)
		}
	}
	for _, k := range [...]string{"properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions"} {
		if _, ok := m[k].(map[string]any); ok {
			eachSchemaIn(m[k], pointer+"/"+k, f)
		}
	}
}

// eachSchemaIn is for a list of schemas, or those under names.
func eachSchemaIn(v any, pointer string, f func(pointer string, m map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range namesInOrder(v) {
			eachSchema(v[k], pointer+"/"+pointerToken(k), f)
		}
	case []any:
		for i, e := range v {
			eachSchema(e, pointer+"/"+strconv.Itoa(i), f)
		}
	}
}

// schema converts one schema.
func (d dialect) schema(_ string, m map[string]any) {
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
		f.text, f.hint = fmt.Sprintf("a reference leads to %q, which is not there", ref), "write it as a JSON pointer from the top, such as #/components/schemas/Order, or name a file beside this one"
		if load != nil && s.files[ref] == nil && !strings.HasPrefix(ref, "file:") {
			f.hint = copyHint(ref)
		}
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
		if at := fileURL(path); s.files[at] != nil && (u.Scheme == "" || u.Scheme == "file") && u.Host == "" {
			return s.boundData(at), nil
		}
		if s.files[u.String()] != nil {
			return s.boundData(u.String()), nil
		}
		return nil, errNotReferred
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

// boundData is a file in which references by names say what they stand for, on the lines that they have.
func (s *schemaFiles) boundData(u string) []byte {
	f := s.files[u]
	if len(f.bound) == 0 {
		return f.data
	}
	lines := strings.SplitAfter(strings.TrimPrefix(string(f.data), "\ufeff"), "\n")
	bound := slices.Clone(f.bound)
	place := func(b boundReference) resource.Pos { return f.node.At(nodePath(f.doc, b.pointer)) }
	slices.SortFunc(bound, func(a, b boundReference) int { return place(b).Col - place(a).Col }) // of one line the last first
	for _, b := range bound {
		at := place(b)
		if at.Line < 1 || at.Line > len(lines) {
			continue
		}
		runes := []rune(lines[at.Line-1])
		if at.Col < 1 || at.Col > len(runes) {
			continue
		}
		before, rest := string(runes[:at.Col-1]), string(runes[at.Col-1:])
		if rest[0] == '"' || rest[0] == '\'' {
			before, rest = before+rest[:1], rest[1:]
		}
		instead := b.instead
		if file, fragment, _ := strings.Cut(instead, "#"); file == u {
			instead = "#" + fragment
		}
		if after, ok := strings.CutPrefix(rest, b.written); ok {
			if before == "" || before[len(before)-1] != '"' && before[len(before)-1] != '\'' {
				instead = `"` + instead + `"`
			}
			lines[at.Line-1] = before + instead + after
		}
	}
	return []byte(strings.Join(lines, ""))
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
