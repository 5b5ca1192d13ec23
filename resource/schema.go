package resource

import (
	"bytes"
	"encoding/json"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// PolicyType describes one policy to Schema.
type PolicyType struct {
	Kind   string       // its key in an entry: "rate-limit"
	Config reflect.Type // the struct of its settings
	Doc    string       // what it does
}

// JSONSchema is a JSON Schema of draft 2020-12, as far as Schema needs it.
type JSONSchema struct {
	Schema      string `json:"$schema,omitempty"`
	Ref         string `json:"$ref,omitempty"`
	Title       string `json:"title,omitempty"`
	Description string `json:"description,omitempty"`

	Type     any             `json:"type,omitempty"` // string or []string
	Const    any             `json:"const,omitempty"`
	Enum     []string        `json:"enum,omitempty"`
	Default  json.RawMessage `json:"default,omitempty"`
	Examples []any           `json:"examples,omitempty"`

	Pattern   string          `json:"pattern,omitempty"`
	MinLength int             `json:"minLength,omitempty"`
	Minimum   json.RawMessage `json:"minimum,omitempty"`
	Maximum   json.RawMessage `json:"maximum,omitempty"`

	Items    *JSONSchema `json:"items,omitempty"`
	MinItems int         `json:"minItems,omitempty"`

	Properties           map[string]*JSONSchema `json:"properties,omitempty"`
	AdditionalProperties any                    `json:"additionalProperties,omitempty"` // false or *JSONSchema
	Required             []string               `json:"required,omitempty"`

	AnyOf []*JSONSchema          `json:"anyOf,omitempty"`
	OneOf []*JSONSchema          `json:"oneOf,omitempty"`
	Not   *JSONSchema            `json:"not,omitempty"`
	Defs  map[string]*JSONSchema `json:"$defs,omitempty"`
}

// Schema describes all kinds of documents and the given policies. comments are
// the comments of their Go types and fields, by "Type" and "Type.Field", as
// resource/doc reads them from the source; nil leaves the descriptions out.
//
// What Decode accepts is valid by the schema, but for two liberties of people's
// hands: null for an absent field, and keys merged with "<<".
func Schema(policies []PolicyType, comments map[string]string) *JSONSchema {
	w := &schemaWriter{comments: comments, root: &JSONSchema{
		Schema: "https://json-schema.org/draft/2020-12/schema",
		Title:  "Whygate documents",
		Defs:   map[string]*JSONSchema{},
	}}
	w.policies(policies)
	outside := infoOf(reflect.TypeFor[envelope]()).load()
	for _, k := range kinds {
		doc := w.object(outside)
		doc.Title, doc.Description = k.name, comments[k.name]
		doc.Properties["kind"].Enum, doc.Properties["kind"].Const = nil, k.name
		spec := infoOf(k.spec)
		doc.Properties["spec"] = w.of(spec)
		if needsFields(spec) {
			doc.Required = append(doc.Required, "spec")
		}
		w.root.OneOf = append(w.root.OneOf, doc)
	}
	return w.root
}

// kinds are the kinds of documents and the types of their specs.
var kinds = []struct {
	name string
	spec reflect.Type
}{
	{KindGateway, reflect.TypeFor[Gateway]()},
	{KindUpstream, reflect.TypeFor[Upstream]()},
	{KindAPI, reflect.TypeFor[API]()},
	{KindPlan, reflect.TypeFor[Plan]()},
	{KindApplication, reflect.TypeFor[Application]()},
	{KindCredential, reflect.TypeFor[Credential]()},
	{KindSubscription, reflect.TypeFor[Subscription]()},
}

type schemaWriter struct {
	root     *JSONSchema
	comments map[string]string
}

// of is the schema of a type; structs are references.
func (w *schemaWriter) of(ti *typeInfo) *JSONSchema {
	switch ti.class {
	case asText:
		return &JSONSchema{Type: "string"}
	case asBool:
		return &JSONSchema{Type: "boolean"}
	case asInt, asUint:
		return &JSONSchema{Type: "integer"}
	case asFloat:
		return &JSONSchema{Type: "number"}
	case asScalar:
		s := &JSONSchema{Type: "string", Pattern: ti.form.Pattern}
		if ti.form.Number {
			s.Type = []string{"string", "integer"}
		} else if s.Pattern != "" && regexp.MustCompile(s.Pattern).MatchString("0") {
			return &JSONSchema{AnyOf: []*JSONSchema{s, {Const: 0}}}
		}
		return s
	case asList:
		return &JSONSchema{Type: "array", Items: w.of(ti.load().elem)}
	case asMapping:
		return &JSONSchema{Type: "object", AdditionalProperties: w.of(ti.load().elem)}
	case asPointer:
		return w.of(ti.load().elem)
	case asFields, asSelf:
		name := strings.TrimPrefix(ti.t.String(), "resource.")
		if w.root.Defs[name] == nil && ti.class == asFields {
			w.root.Defs[name] = &JSONSchema{} // types may contain themselves
			*w.root.Defs[name] = *w.object(ti)
			w.root.Defs[name].Description = w.comments[ti.t.Name()]
		}
		return &JSONSchema{Ref: "#/$defs/" + name}
	}
	return &JSONSchema{}
}

// object is the schema of a struct with all its fields.
func (w *schemaWriter) object(ti *typeInfo) *JSONSchema {
	o := &JSONSchema{Type: "object", Properties: map[string]*JSONSchema{}, AdditionalProperties: false}
	for _, f := range ti.load().fields {
		o.Properties[f.name] = w.field(f)
		if f.required || f.info.class == asFields && needsFields(f.info) {
			o.Required = append(o.Required, f.name)
		}
	}
	return o
}

// needsFields says that a struct cannot be left out.
func needsFields(ti *typeInfo) bool {
	return slices.ContainsFunc(ti.load().fields, func(f *field) bool {
		return f.required || f.info.class == asFields && needsFields(f.info)
	})
}

func (w *schemaWriter) field(f *field) *JSONSchema {
	s := w.of(f.info)
	item := s // what the rules hold for
	for ti := f.info; ti.class == asList || ti.class == asMapping; ti = ti.load().elem {
		if item.Items != nil {
			item = item.Items
		} else {
			item = item.AdditionalProperties.(*JSONSchema)
		}
	}
	item.Enum = f.enum
	if f.pattern != nil {
		item.Pattern = f.pattern.String()
	}
	inner := f.inner()
	if inner.class != asScalar {
		item.Minimum, item.Maximum = bound(f.min), bound(f.max)
	}
	if f.unlimited {
		either := *item
		*item = JSONSchema{AnyOf: []*JSONSchema{&either, {Const: unlimited}}}
	}
	if f.required && f.info.class == asText {
		s.MinLength = 1
	}
	if f.required && f.info.class == asList {
		s.MinItems = 1
	}
	s.Description = w.comments[f.goName]
	if r := f.bounds(); r != "" && inner.class == asScalar && s.Description != "" {
		s.Description += " (" + r + ")"
	}
	if f.hasDef {
		s.Default = jsonOf(f.defNode)
	}
	if f.example != "" {
		s.Examples = []any{jsonOf(literal(f.info, f.example))}
	}
	return s
}

func bound(s string) json.RawMessage {
	if s == "" {
		return nil
	}
	return json.RawMessage(s)
}

func jsonOf(v *value) json.RawMessage {
	var b bytes.Buffer
	if err := writeJSON(&b, v); err != nil {
		panic("BUG: a tag that is not JSON: " + err.Error())
	}
	return b.Bytes()
}

// policies adds the schema of an entry in a list of policies.
func (w *schemaWriter) policies(list []PolicyType) {
	own := w.object(infoOf(reflect.TypeFor[PolicyEntry]()))
	entry := &JSONSchema{Description: w.comments["PolicyEntry"]}
	w.root.Defs["PolicyEntry"] = entry
	if len(list) == 0 { // nothing known of policies: anything goes
		own.AdditionalProperties = nil
		entry.AnyOf = []*JSONSchema{{Type: "string"}, own}
		return
	}
	bare := &JSONSchema{Type: "string"}
	none := &JSONSchema{}
	for _, p := range list {
		config := infoOf(p.Config)
		s := w.of(config)
		if !needsFields(config) {
			bare.Enum = append(bare.Enum, p.Kind)
			s = &JSONSchema{AnyOf: []*JSONSchema{s, {Type: "null"}}}
		}
		s.Description = p.Doc
		own.Properties[p.Kind] = s
		one := &JSONSchema{Required: []string{p.Kind}}
		own.OneOf = append(own.OneOf, one)
		none.AnyOf = append(none.AnyOf, one)
	}
	own.OneOf = append(own.OneOf, &JSONSchema{Required: []string{"name", "off"},
		Properties: map[string]*JSONSchema{"off": {Const: true}}, Not: none})
	entry.AnyOf = []*JSONSchema{own}
	if bare.Enum != nil {
		entry.AnyOf = append(entry.AnyOf, bare)
	}
}
