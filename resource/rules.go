package resource

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The rules of a type are what its struct tags say, read once. Decoder, schema
// and reference all work from them. Wrong tags are bugs and panic.
//
//	json       the name of the field
//	default    what holds when the field is absent, as it would be written
//	required   "true": the field must be there, and not be empty
//	min, max   bounds of numbers, durations and sizes, as they would be written
//	enum       the possible texts, separated by commas
//	pattern    a regular expression that the text must match
//	form       the pattern in words: letters and digits
//	unlimited  "true": the text "unlimited" is allowed and becomes -1
//	example    a value for the reference and for hints, as it would be written
//
// On lists and mappings min, max, enum, pattern and form hold for each item.

// class is how values of a type are written.
type class uint8

const (
	asText    class = iota // string
	asBool                 // bool
	asInt                  // int kinds
	asUint                 // uint kinds
	asFloat                // float kinds
	asScalar               // encoding.TextUnmarshaler
	asList                 // slice
	asMapping              // map with text keys
	asFields               // struct
	asPointer              // pointer: absent is nil
	asNode                 // Node: kept for later
	asSelf                 // NodeDecoder
	asAny                  // interface{}
)

// typeInfo is what decoder and schema know of a type.
type typeInfo struct {
	t     reflect.Type
	class class
	form  Form // of scalars

	once   sync.Once
	elem   *typeInfo // of lists, mappings and pointers
	fields []*field  // of structs, embedded ones flattened
	byName map[string]*field
	names  []string
}

// field is one field of a struct with its rules.
type field struct {
	name      string // in documents
	goName    string // "Limits.BodyBytes", the key of its comment
	index     []int
	info      *typeInfo
	required  bool
	unlimited bool
	hasDef    bool
	def       string
	defNode   *value
	example   string
	enum      []string
	pattern   *regexp.Regexp
	form      string
	min, max  string // as written, "" without
	lo, hi    reflect.Value
	secret    bool // whoever misunderstands the field writes a secret there
}

var (
	types           sync.Map // reflect.Type → *typeInfo
	nodeType        = reflect.TypeFor[Node]()
	secretType      = reflect.TypeFor[SecretRef]()
	selfType        = reflect.TypeFor[NodeDecoder]()
	unmarshalerType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func infoOf(t reflect.Type) *typeInfo {
	if ti, ok := types.Load(t); ok {
		return ti.(*typeInfo)
	}
	ti := &typeInfo{t: t, class: classify(t)}
	if ti.class == asScalar {
		ti.form = Form{Words: "text"}
		if f, ok := reflect.New(t).Interface().(former); ok {
			ti.form = f.Form()
		}
	}
	kept, _ := types.LoadOrStore(t, ti)
	return kept.(*typeInfo)
}

func classify(t reflect.Type) class {
	switch {
	case t == nodeType:
		return asNode
	case reflect.PointerTo(t).Implements(selfType):
		return asSelf
	case t.Kind() != reflect.Pointer && reflect.PointerTo(t).Implements(unmarshalerType):
		return asScalar
	case t == reflect.TypeFor[time.Duration]():
		panic("BUG: a document holds a time.Duration; use resource.Duration")
	}
	switch t.Kind() {
	case reflect.String:
		return asText
	case reflect.Bool:
		return asBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return asInt
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return asUint
	case reflect.Float32, reflect.Float64:
		return asFloat
	case reflect.Slice:
		return asList
	case reflect.Map:
		if t.Key().Kind() == reflect.String {
			return asMapping
		}
	case reflect.Struct:
		return asFields
	case reflect.Pointer:
		return asPointer
	case reflect.Interface:
		if t.NumMethod() == 0 {
			return asAny
		}
	}
	panic(fmt.Sprintf("BUG: documents cannot hold a %s", t))
}

// load reads what lies below a type. It is not done by infoOf because types may
// contain themselves.
func (ti *typeInfo) load() *typeInfo {
	ti.once.Do(func() {
		switch ti.class {
		case asList, asMapping, asPointer:
			ti.elem = infoOf(ti.t.Elem())
		case asFields, asSelf:
			if ti.t.Kind() == reflect.Struct {
				ti.byName = map[string]*field{}
				ti.addFields(ti.t, nil)
			}
		}
	})
	return ti
}

func (ti *typeInfo) addFields(t reflect.Type, index []int) {
	for i := range t.NumField() {
		f := t.Field(i)
		at := append(append([]int{}, index...), i)
		name := f.Tag.Get("json")
		switch {
		case name == "-" || !f.IsExported() && !f.Anonymous:
			continue
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct && classify(f.Type) == asFields:
			ti.addFields(f.Type, at)
			continue
		case name == "" || strings.Contains(name, ","):
			panic(fmt.Sprintf("BUG: field %s of %s needs a plain json name", f.Name, t))
		}
		fd := newField(t, f, name, at)
		if ti.byName[name] != nil {
			panic(fmt.Sprintf("BUG: %s has two fields %q", ti.t, name))
		}
		ti.fields = append(ti.fields, fd)
		ti.byName[name] = fd
		ti.names = append(ti.names, name)
	}
}

func newField(t reflect.Type, f reflect.StructField, name string, index []int) *field {
	fd := &field{name: name, goName: t.Name() + "." + f.Name, index: index, info: infoOf(f.Type),
		required: f.Tag.Get("required") == "true", unlimited: f.Tag.Get("unlimited") == "true",
		form: f.Tag.Get("form"), example: f.Tag.Get("example"), min: f.Tag.Get("min"), max: f.Tag.Get("max"),
		secret: f.Tag.Get("secret") != "" || f.Type == secretType || f.Type == reflect.PointerTo(secretType)}
	bug := func(tag string, err any) {
		panic(fmt.Sprintf("BUG: tag %s of %s: %v", tag, fd.goName, err))
	}
	if e := f.Tag.Get("enum"); e != "" {
		fd.enum = strings.Split(e, ",")
	}
	if p := f.Tag.Get("pattern"); p != "" {
		var err error
		if fd.pattern, err = regexp.Compile(p); err != nil {
			bug("pattern", err)
		}
	}
	inner := fd.inner()
	for _, b := range []struct {
		tag, text string
		to        *reflect.Value
	}{{"min", fd.min, &fd.lo}, {"max", fd.max, &fd.hi}} {
		if b.text == "" {
			continue
		}
		v := reflect.New(inner.t).Elem()
		if c := ordered(v); c == 0 {
			bug(b.tag, "only numbers, durations and sizes have bounds")
		}
		if err := setText(inner, v, b.text); err != nil {
			bug(b.tag, err)
		}
		*b.to = v
	}
	fd.def, fd.hasDef = f.Tag.Lookup("default")
	if fd.hasDef {
		fd.defNode = literal(fd.info, fd.def)
		v := reflect.New(f.Type).Elem()
		var d decoder
		if d.value(Node{doc: &docRef{src: &source{}}, value: fd.defNode}, v, fd.info, fd); len(d.problems) > 0 {
			bug("default", d.problems[0].Message)
		}
	}
	return fd
}

// inner is the type of the items that rules of a list or mapping hold for.
func (f *field) inner() *typeInfo {
	ti := f.info
	for ti.class == asList || ti.class == asMapping || ti.class == asPointer {
		ti = ti.load().elem
	}
	return ti
}

// ordered says how bounds of a value are compared: 'i', 'u', 'f', or 0.
func ordered(v reflect.Value) byte {
	switch {
	case v.CanInt():
		return 'i'
	case v.CanUint():
		return 'u'
	case v.CanFloat():
		return 'f'
	}
	return 0
}

// less compares two values of one type that has bounds.
func less(a, b reflect.Value) bool {
	switch ordered(a) {
	case 'i':
		return a.Int() < b.Int()
	case 'u':
		return a.Uint() < b.Uint()
	}
	return a.Float() < b.Float()
}

// literal is the value that a tag writes: as in a document, but text needs no quotes.
func literal(ti *typeInfo, s string) *value {
	switch ti.class {
	case asText, asScalar:
		return &value{kind: isText, text: s}
	case asPointer:
		return literal(ti.load().elem, s)
	}
	for v, ps := range newSource("", []byte(s)).documents() {
		if len(ps) > 0 {
			panic(fmt.Sprintf("BUG: tag %q: %s", s, ps[0].Message))
		}
		return v
	}
	return nil
}

// setText reads a number or a scalar type from text.
func setText(ti *typeInfo, v reflect.Value, s string) error {
	if ti.class == asScalar {
		return v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s))
	}
	digits := strings.TrimLeft(s, "+-")
	if len(digits) > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9' && ti.class != asFloat {
		return &TextError{fmt.Sprintf("wanted %s, found %s", ti.words(""), shorten(s)), "remove the zero in front; some programs would read the number as octal"}
	}
	s = strings.TrimPrefix(s, "+")
	var err error
	switch ti.class {
	case asInt:
		var i int64
		if i, err = strconv.ParseInt(s, 0, ti.t.Bits()); err == nil {
			v.SetInt(i)
		}
	case asUint:
		var u uint64
		if u, err = strconv.ParseUint(s, 0, ti.t.Bits()); err == nil {
			v.SetUint(u)
		}
	case asFloat:
		var f float64
		if f, err = strconv.ParseFloat(s, ti.t.Bits()); err == nil {
			v.SetFloat(f)
		}
	}
	switch {
	case errors.Is(err, strconv.ErrRange):
		return &TextError{Message: fmt.Sprintf("wanted %s, found %s, which is out of range", ti.words(""), shorten(s))}
	case err != nil:
		return &TextError{Message: fmt.Sprintf("wanted %s, found %s", ti.words(""), shorten(s))}
	}
	return nil
}

// words says what is wanted of a value of this type, for the field of that name.
func (ti *typeInfo) words(name string) string {
	switch ti.class {
	case asText:
		return "text"
	case asBool:
		return "true or false"
	case asInt, asUint:
		if ti.t.Bits() < 32 {
			return fmt.Sprintf("a whole number of at most %d bits", ti.t.Bits())
		}
		return "a whole number"
	case asFloat:
		return "a number"
	case asScalar:
		if ti.form.Example != "" {
			return ti.form.Words + " such as " + ti.form.Example
		}
		return ti.form.Words
	case asList:
		if name == "" {
			return "a list"
		}
		return "a list of " + spaced(name)
	case asMapping:
		return `names and values ("name: value")`
	case asFields:
		if fs := ti.load().fields; len(fs) > 0 {
			return fmt.Sprintf(`fields such as "%s: …"`, fs[0].name)
		}
		return "nothing"
	case asPointer:
		return ti.load().elem.words(name)
	}
	return "a value"
}

// spaced writes trustedProxies as "trusted proxies", and allowASN as "allow ASN".
func spaced(name string) string {
	capital := func(i int) bool { return i >= 0 && i < len(name) && name[i] >= 'A' && name[i] <= 'Z' }
	var b strings.Builder
	for i := range len(name) {
		switch {
		case !capital(i):
			b.WriteByte(name[i])
		case capital(i - 1):
			b.WriteByte(name[i]) // goes on
		case capital(i+1) || i == len(name)-1:
			b.WriteString(" " + name[i:i+1])
		default:
			b.WriteString(" " + strings.ToLower(name[i:i+1]))
		}
	}
	return strings.TrimSpace(b.String())
}
