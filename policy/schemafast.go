package policy

import (
	"encoding/json"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// fastSchema decides whether a value fits a schema, and no more: the library, which explains what does not fit,
// writes down where it is for every value and computes with fractions. Where a schema uses what is rare, the
// library decides here, too. Both always agree; a test holds them against each other.
type fastSchema struct {
	source  *jsonschema.Schema
	library *jsonschema.Schema // decides, if it is set
	never   bool
	types   typeSet // 0: all
	self    []*fastSchema
	anyOf   []*fastSchema
	oneOf   []*fastSchema
	not     *fastSchema
	enum    []string // nil: all texts

	required             []string
	properties           map[string]*fastSchema
	patterns             []fastPattern
	additional           *fastSchema // nil: anything
	closed               bool        // nothing additional
	minProps, maxProps   int         // -1: none
	prefix               []*fastSchema
	items                *fastSchema
	minItems, maxItems   int
	minLength, maxLength int
	pattern              jsonschema.Regexp
	format               *jsonschema.Format

	bounded  bool // a number has bounds
	min, max *int64
}

type fastPattern struct {
	regexp jsonschema.Regexp
	schema *fastSchema
}

type typeSet uint8

const (
	typeNull typeSet = 1 << iota
	typeBoolean
	typeNumber
	typeInteger
	typeString
	typeArray
	typeObject
)

var typeNames = map[string]typeSet{"null": typeNull, "boolean": typeBoolean, "number": typeNumber, "integer": typeInteger, "string": typeString, "array": typeArray, "object": typeObject}

// newFastSchema prepares a schema. Where its meaning depends on how a value was reached, or where it leads to itself
// without going into the value, the library decides about all of it.
func newFastSchema(s *jsonschema.Schema) *fastSchema {
	all := map[string]*jsonschema.Schema{}
	collectSchemas(s, all)
	made := make(map[*jsonschema.Schema]*fastSchema, len(all))
	for _, t := range all {
		if t.DynamicRef != nil || t.RecursiveRef != nil || leadsToItself(t, nil) {
			return &fastSchema{source: s, library: s}
		}
		made[t] = &fastSchema{source: t}
	}
	for t, f := range made {
		f.take(t, made)
	}
	return made[s]
}

func leadsToItself(s *jsonschema.Schema, open []*jsonschema.Schema) bool {
	if slices.Contains(open, s) || len(open) > 50 {
		return true
	}
	open = append(open, s)
	return slices.ContainsFunc(appliedToSelf(s), func(t *jsonschema.Schema) bool { return leadsToItself(t, open) })
}

// take translates one schema.
func (f *fastSchema) take(s *jsonschema.Schema, made map[*jsonschema.Schema]*fastSchema) {
	if s.Bool != nil {
		f.never = !*s.Bool
		f.minProps, f.maxProps, f.minItems, f.maxItems, f.minLength, f.maxLength = -1, -1, -1, -1, -1, -1
		return
	}
	if s.DraftVersion < 2020 || s.Const != nil || s.PropertyNames != nil || len(s.Dependencies) > 0 || len(s.DependentRequired) > 0 || len(s.DependentSchemas) > 0 ||
		s.UnevaluatedProperties != nil || s.UnevaluatedItems != nil || s.UniqueItems || s.Contains != nil || s.If != nil || s.ContentEncoding != nil ||
		s.ContentMediaType != nil || s.ContentSchema != nil || s.MultipleOf != nil || len(s.Extensions) > 0 || s.ExclusiveMinimum != nil || s.ExclusiveMaximum != nil {
		f.library = s
		return
	}
	if s.Types != nil {
		for _, t := range s.Types.ToStrings() {
			f.types |= typeNames[t]
		}
	}
	if s.Enum != nil {
		f.enum = []string{}
		for _, v := range s.Enum.Values {
			text, ok := v.(string)
			if !ok {
				f.library = s
				return
			}
			f.enum = append(f.enum, text)
		}
	}
	for _, b := range []struct {
		from *big.Rat
		to   **int64
	}{{s.Minimum, &f.min}, {s.Maximum, &f.max}} {
		if b.from == nil {
			continue
		}
		if !b.from.IsInt() || !b.from.Num().IsInt64() {
			f.library = s
			return
		}
		n := b.from.Num().Int64()
		*b.to, f.bounded = &n, true
	}
	list := func(from []*jsonschema.Schema) (to []*fastSchema) {
		for _, t := range from {
			to = append(to, made[t])
		}
		return to
	}
	f.self, f.anyOf, f.oneOf, f.prefix = list(s.AllOf), list(s.AnyOf), list(s.OneOf), list(s.PrefixItems)
	if s.Ref != nil {
		f.self = append(f.self, made[s.Ref])
	}
	if s.Not != nil {
		f.not = made[s.Not]
	}
	f.required, f.pattern, f.format = s.Required, s.Pattern, s.Format
	if len(s.Properties) > 0 {
		f.properties = make(map[string]*fastSchema, len(s.Properties))
		for k, t := range s.Properties {
			f.properties[k] = made[t]
		}
	}
	for re, t := range s.PatternProperties {
		f.patterns = append(f.patterns, fastPattern{re, made[t]})
	}
	switch a := s.AdditionalProperties.(type) {
	case bool:
		f.closed = !a
	case *jsonschema.Schema:
		f.additional = made[a]
	}
	if s.Items2020 != nil {
		f.items = made[s.Items2020]
	}
	limit := func(n *int) int {
		if n == nil {
			return -1
		}
		return *n
	}
	f.minProps, f.maxProps, f.minItems, f.maxItems = limit(s.MinProperties), limit(s.MaxProperties), limit(s.MinItems), limit(s.MaxItems)
	f.minLength, f.maxLength = limit(s.MinLength), limit(s.MaxLength)
}

// inRange says that n lies between two limits, of which -1 is none.
func inRange(n, least, most int) bool { return n >= least && (most < 0 || n <= most) }

// fits says that a value fits. v is as decodeJSON makes it.
func (f *fastSchema) fits(v any) bool {
	if f.library != nil {
		return f.library.Validate(v) == nil
	}
	if f.never {
		return false
	}
	switch v := v.(type) {
	case map[string]any:
		if !f.may(typeObject) || f.enum != nil || !f.fitsObject(v) {
			return false
		}
	case []any:
		if !f.may(typeArray) || f.enum != nil || !f.fitsList(v) {
			return false
		}
	case string:
		if !f.may(typeString) || f.enum != nil && !slices.Contains(f.enum, v) || f.pattern != nil && !f.pattern.MatchString(v) {
			return false
		}
		if (f.minLength >= 0 || f.maxLength >= 0) && !inRange(utf8.RuneCountInString(v), f.minLength, f.maxLength) {
			return false
		}
	case int64:
		if !f.may(typeNumber|typeInteger) || f.enum != nil || f.min != nil && v < *f.min || f.max != nil && v > *f.max {
			return false
		}
	case json.Number:
		if f.enum != nil || !f.fitsNumber(v) {
			return false
		}
	case bool:
		if !f.may(typeBoolean) || f.enum != nil {
			return false
		}
	case nil:
		if !f.may(typeNull) || f.enum != nil {
			return false
		}
	}
	if f.format != nil && f.format.Validate(v) != nil {
		return false
	}
	return f.fitsOthers(v)
}

func (f *fastSchema) may(t typeSet) bool { return f.types == 0 || f.types&t != 0 }

// fitsOthers asks the schemas that are applied to the same value.
func (f *fastSchema) fitsOthers(v any) bool {
	for _, t := range f.self {
		if !t.fits(v) {
			return false
		}
	}
	if f.anyOf != nil && !slices.ContainsFunc(f.anyOf, func(t *fastSchema) bool { return t.fits(v) }) {
		return false
	}
	if f.oneOf != nil {
		n := 0
		for _, t := range f.oneOf {
			if t.fits(v) {
				n++
			}
		}
		if n != 1 {
			return false
		}
	}
	return f.not == nil || !f.not.fits(v)
}

func (f *fastSchema) fitsObject(m map[string]any) bool {
	if !inRange(len(m), f.minProps, f.maxProps) {
		return false
	}
	for _, name := range f.required {
		if _, ok := m[name]; !ok {
			return false
		}
	}
	if f.properties == nil && f.patterns == nil && f.additional == nil && !f.closed {
		return true
	}
	for name, v := range m {
		t := f.properties[name]
		known := t != nil
		if known && !t.fits(v) {
			return false
		}
		for _, p := range f.patterns {
			if p.regexp.MatchString(name) {
				if known = true; !p.schema.fits(v) {
					return false
				}
			}
		}
		if !known && (f.closed || f.additional != nil && !f.additional.fits(v)) {
			return false
		}
	}
	return true
}

func (f *fastSchema) fitsList(list []any) bool {
	if !inRange(len(list), f.minItems, f.maxItems) {
		return false
	}
	for i, v := range list {
		switch {
		case i < len(f.prefix):
			if !f.prefix[i].fits(v) {
				return false
			}
		case f.items == nil:
			return true
		case !f.items.fits(v):
			return false
		}
	}
	return true
}

// fitsNumber decides about numbers that are not whole, or too long for an int64. Next to a bound it computes as
// the library does.
func (f *fastSchema) fitsNumber(n json.Number) bool {
	if f.types != 0 && f.types&typeNumber == 0 {
		if f.types&typeInteger == 0 {
			return false
		}
		if strings.ContainsAny(string(n), ".eE") {
			if r, ok := new(big.Rat).SetString(string(n)); !ok || !r.IsInt() {
				return false
			}
		}
	}
	if !f.bounded {
		return true
	}
	x, err := strconv.ParseFloat(string(n), 64)
	for _, b := range []struct {
		bound *int64
		sign  float64
	}{{f.min, 1}, {f.max, -1}} {
		if b.bound == nil {
			continue
		}
		over := (x - float64(*b.bound)) * b.sign // how far it lies inside
		if near := 1e-9 * max(1, x*b.sign, -x*b.sign, float64(*b.bound), -float64(*b.bound)); err != nil || over < near && over > -near {
			r, ok := new(big.Rat).SetString(string(n))
			if !ok || float64(r.Cmp(new(big.Rat).SetInt64(*b.bound)))*b.sign < 0 {
				return false
			}
		} else if over < 0 {
			return false
		}
	}
	return true
}

// narrow finds a part of a value that does not fit its own schema, as deep inside as it is plain to see. Of a large
// value only that part is explained: what is wrong with all of it would fill the memory.
func (f *fastSchema) narrow(v any) (tokens []string, schema *jsonschema.Schema, part any) {
	for range 2 * maxSchemaDepth {
		next, token, inside := f.firstWrong(v)
		if next == nil {
			break
		}
		f = next
		if token != "" {
			tokens, v = append(tokens, token), inside
		}
	}
	return tokens, f.source, v
}

// firstWrong is a schema that a value, or something in it, does not fit; nil if the value itself is wrong.
func (f *fastSchema) firstWrong(v any) (next *fastSchema, token string, inside any) {
	if f.library != nil {
		return nil, "", nil
	}
	for _, t := range f.self {
		if !t.fits(v) {
			return t, "", v
		}
	}
	switch v := v.(type) {
	case []any:
		for i, e := range v {
			if t := f.items; i >= len(f.prefix) && t != nil && !t.fits(e) {
				return t, strconv.Itoa(i), e
			}
		}
	case map[string]any:
		for _, name := range namesInOrder(f.properties) {
			if e, ok := v[name]; ok && name != "" && !f.properties[name].fits(e) {
				return f.properties[name], name, e
			}
		}
	}
	return nil, "", nil
}
