package resource

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// FieldInfo is one field for the reference.
type FieldInfo struct {
	Name     string
	Key      string // of its comment: "Limits.BodyBytes"
	Type     string // in words: "size", "list of text", "fields"
	Required bool
	Default  string   // as it would be written, "" without
	Rules    []string // in words: "at least 1KiB", "one of keep, replace"
	Example  string
	Struct   string      // name of the Go struct that Fields are of
	Fields   []FieldInfo // of a struct, also in a list or mapping; nil where a type contains itself
}

// Describe lists the fields of a struct type of documents, in their order. It reads
// the same rules as Decode.
func Describe(t reflect.Type) []FieldInfo { return describe(infoOf(t), nil) }

func describe(ti *typeInfo, within []*typeInfo) (list []FieldInfo) {
	within = append(within, ti)
	for _, f := range ti.load().fields {
		info := FieldInfo{Name: f.name, Key: f.goName, Type: f.info.plainWords(), Required: f.required,
			Default: f.def, Rules: f.rules(), Example: f.example}
		if inner := f.inner(); inner.class == asFields {
			info.Struct = inner.t.Name()
			if !slices.Contains(within, inner) {
				info.Fields = describe(inner, within)
			}
		}
		list = append(list, info)
	}
	return list
}

// plainWords names a type in the reference, without an article.
func (ti *typeInfo) plainWords() string {
	switch ti.class {
	case asList:
		return "list of " + ti.load().elem.plainWords()
	case asMapping:
		return "names with " + ti.load().elem.plainWords()
	case asPointer:
		return ti.load().elem.plainWords()
	case asFields:
		return "fields"
	case asSelf:
		if ti.t == reflect.TypeFor[PolicyEntry]() {
			return "policies"
		}
		return "fields"
	case asScalar:
		return strings.TrimPrefix(strings.TrimPrefix(ti.form.Words, "a "), "an ")
	case asInt, asUint:
		return "whole number"
	}
	return strings.TrimPrefix(ti.words(""), "a ")
}

// rules says in words what holds for a field.
func (f *field) rules() (list []string) {
	if f.enum != nil {
		list = append(list, "one of "+strings.Join(f.enum, ", "))
	}
	if b := f.bounds(); b != "" {
		list = append(list, b)
	}
	switch {
	case f.form != "":
		list = append(list, f.form)
	case f.pattern != nil:
		list = append(list, fmt.Sprintf("matches `%s`", f.pattern))
	}
	if f.unlimited {
		list = append(list, `or "unlimited"`)
	}
	return list
}

// bounds is "at least 1KiB and at most 1MiB", or "".
func (f *field) bounds() string {
	var parts []string
	if f.min != "" {
		parts = append(parts, "at least "+f.min)
	}
	if f.max != "" {
		parts = append(parts, "at most "+f.max)
	}
	return strings.Join(parts, " and ")
}
