package resource

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// NodeDecoder is a type that decodes itself. It reports every problem and leaves
// in itself what could be read. It is not called for what is absent or null.
type NodeDecoder interface {
	DecodeNode(n Node, ps *Problems)
}

// maxProblems bounds the problems of one file or one Decode; nobody reads more.
const maxProblems = 1000

// Decode reads a node into the struct (or any other type of documents) that into
// points to, by the rules of its tags. It adds every problem to ps, applies the
// defaults and leaves in into what could be read. An absent field and one that is
// null or empty are the same. The zero Node gives all defaults. What is written wrong counts as
// not written.
//
// It returns the paths below n at which something is wrong or missing, nil for none.
func Decode(n Node, into any, ps *Problems) (faulty map[string]bool) {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		panic(fmt.Sprintf("BUG: Decode into a %T", into))
	}
	d := decoder{faulty: map[string]bool{}}
	d.value(n, v.Elem(), infoOf(v.Elem().Type()), &field{name: lastName(n.path)})
	*ps = append(*ps, d.problems...)
	for path := range d.faulty {
		if faulty == nil {
			faulty = map[string]bool{}
		}
		faulty[strings.TrimPrefix(strings.TrimPrefix(path, n.path), ".")] = true
	}
	return faulty
}

// lastName is the last field name of a path.
func lastName(path string) (name string) {
	for path != "" {
		var key string
		if key, _, path = step(path); key != "" {
			name = key
		}
	}
	return name
}

type decoder struct {
	problems Problems
	faults   int             // found, noted or not
	faulty   map[string]bool // where; nil if nobody asks
}

// problem notes a fault at a part of the source.
func (d *decoder) problem(n Node, s span, hint, format string, args ...any) {
	d.fault(n.path)
	if len(d.problems) >= maxProblems {
		return
	}
	p := Problem{Message: fmt.Sprintf(format, args...), Hint: hint}
	if n.doc != nil {
		p = n.doc.src.problem(s, p.Message, hint)
	}
	d.problems = append(d.problems, p)
}

// fault counts a fault at a path.
func (d *decoder) fault(path string) {
	d.faults++
	if d.faulty != nil {
		d.faulty[path] = true
	}
}

func (d *decoder) add(n Node, ps Problems) {
	if len(ps) > 0 {
		d.fault(n.path)
	}
	d.problems = append(d.problems, ps[:min(len(ps), maxProblems-len(d.problems))]...)
}

// wrong notes a fault of the value of a field.
func (d *decoder) wrong(n Node, f *field, hint, format string, args ...any) {
	if f.name != "" {
		format, args = "%s: "+format, append([]any{shorten(f.name)}, args...)
	}
	before := len(d.problems)
	d.problem(n, n.mark(), hint, format, args...)
	if len(d.problems) > before {
		d.problems[before].Hidden = f.secret && n.value.kind != isMap
	}
}

func (d *decoder) wrongType(n Node, f *field, ti *typeInfo, hint string) {
	seen := found(n.value)
	if f.secret && n.value.kind != isMap && n.value.kind != isList {
		seen = notShown
	}
	d.wrong(n, f, hint, "wanted %s, found %s", ti.words(f.name), seen)
}

// notShown stands for a value that may be a secret: problems go to logs, and to whoever asks a node for its status.
const notShown = "something else, which is not shown"

// found names what is written, for messages.
func found(v *value) string {
	switch v.kind {
	case isBool:
		return v.text
	case isInt, isFloat:
		return "the number " + shorten(v.text)
	case isText:
		return "text " + clip(v.text)
	case isList:
		return "a list"
	case isMap:
		return "fields"
	}
	return "nothing"
}

// value reads a node into v. The rules of f hold for it.
func (d *decoder) value(n Node, v reflect.Value, ti *typeInfo, f *field) {
	if n.IsZero() {
		d.absent(n, v, ti)
		return
	}
	val := n.value
	switch ti.class {
	case asNode:
		v.Set(reflect.ValueOf(n))
	case asSelf:
		var ps Problems
		v.Addr().Interface().(NodeDecoder).DecodeNode(n, &ps)
		d.add(n, ps)
	case asPointer:
		p := reflect.New(ti.t.Elem())
		d.value(n, p.Elem(), ti.load().elem, f)
		v.Set(p)
	case asAny:
		d.any(n, v, f)
	case asFields:
		if val.kind != isMap {
			d.wrongType(n, f, ti, fieldsHint(val))
			n.value = nil
			d.defaults(n, v, ti)
			return
		}
		d.fields(n, v, ti)
	case asList:
		if val.kind != isList {
			d.wrongType(n, f, ti, listHint(val, ti.load().elem))
			return
		}
		before := d.faults
		list := reflect.MakeSlice(ti.t, len(val.items), len(val.items))
		for i := range val.items {
			item := n.item(i)
			if item.IsZero() && ti.load().elem.class != asNode {
				d.wrong(item, f, "remove the dash or comma, or write a value", "an item of the list is empty")
				continue
			}
			d.value(item, list.Index(i), ti.load().elem, f)
		}
		if d.faulty != nil && d.faults > before && ti.load().elem.class != asFields {
			return // whoever compiles it would trip over the items that could not be read
		}
		v.Set(list)
	case asMapping:
		if val.kind != isMap {
			d.wrongType(n, f, ti, fieldsHint(val))
			return
		}
		m := reflect.MakeMapWithSize(ti.t, len(val.keys))
		for i, k := range val.keys {
			e := reflect.New(ti.t.Elem()).Elem()
			named := *f
			named.name = joinPath(f.name, k.text)
			d.value(n.fieldAt(i), e, ti.load().elem, &named)
			m.SetMapIndex(reflect.ValueOf(k.text).Convert(ti.t.Key()), e)
		}
		v.Set(m)
	default:
		if val.kind >= isList {
			d.wrongType(n, f, ti, "")
		} else {
			before := d.faults
			if d.scalar(n, v, ti, f); d.faults == before {
				return
			}
		}
		v.SetZero()
		if f.hasDef && f.info == ti && n.value != f.defNode {
			d.value(Node{value: f.defNode}, v, ti, f)
		}
	}
}

func listHint(v *value, elem *typeInfo) string {
	switch {
	case v.kind == isMap && !v.flow:
		return `write "- " before each entry`
	case v.kind < isList && elem.class <= asScalar:
		if v.quote != 0 {
			return "write [" + strconv.Quote(shorten(v.text)) + "]"
		}
		return "write [" + shorten(v.text) + "]"
	}
	return ""
}

func fieldsHint(v *value) string {
	if v.kind == isText && v.quote == 0 && strings.Contains(v.text, ":") {
		return "put a space after the colon"
	}
	return ""
}

// absent is for a value that is not written.
func (d *decoder) absent(n Node, v reflect.Value, ti *typeInfo) {
	switch ti.class {
	case asFields:
		n.value = nil
		d.fields(n, v, ti)
	case asNode:
		v.Set(reflect.ValueOf(n))
	}
}

// fields reads a struct. A node without value gives the defaults, and what is
// required is missing.
func (d *decoder) fields(n Node, v reflect.Value, ti *typeInfo) {
	ti.load()
	var keys []key
	if n.value != nil {
		keys = n.value.keys
	}
	for i := range keys {
		f := ti.byName[keys[i].text]
		if f == nil {
			d.unknown(n, keys[i], ti.names)
			continue
		}
		child := n.fieldAt(i)
		switch {
		case child.IsZero():
		case f.required && f.info.class != asFields && emptyValue(child.value):
			d.wrong(child, f, exampleHint(f), "must not be empty")
		default:
			d.value(child, v.FieldByIndex(f.index), f.info, f)
		}
	}
	for _, f := range ti.fields {
		if n.value != nil {
			if i := n.value.field(f.name); i >= 0 && n.value.items[i].kind != isNull {
				continue
			}
		}
		d.absentField(n, v.FieldByIndex(f.index), f)
	}
}

// emptyValue holds for "", [] and {}.
func emptyValue(v *value) bool {
	return v.kind == isText && v.text == "" || v.kind >= isList && len(v.items) == 0
}

// absentField gives a field of n that is not written its default, or misses it.
func (d *decoder) absentField(n Node, v reflect.Value, f *field) {
	at := n
	at.value = nil
	if n.value != nil {
		at.key = n.mark()
		if i := n.value.field(f.name); i >= 0 {
			at.key = n.value.keys[i].span
		}
	}
	switch {
	case f.required:
		hint := exampleHint(f)
		if hint == "" {
			hint = f.form
		}
		at.path = joinPath(n.path, f.name)
		d.problem(at, at.key, hint, "%q is missing", f.name)
		d.defaults(at, v, f.info)
	case f.hasDef:
		d.value(Node{value: f.defNode}, v, f.info, f)
	case f.info.class == asFields || f.info.class == asNode:
		at.path = joinPath(n.path, f.name)
		d.absent(at, v, f.info)
	}
}

// defaults fills a struct whose absence was already reported.
func (d *decoder) defaults(n Node, v reflect.Value, ti *typeInfo) {
	if ti.class == asFields {
		var silent decoder
		silent.fields(n, v, ti)
	}
}

func exampleHint(f *field) string {
	ex := f.example
	switch {
	case ex != "":
	case len(f.enum) > 0:
		ex = f.enum[0]
	case f.info.class == asScalar && f.info.form.Example != "":
		ex = f.info.form.Example
	case f.info.class == asList:
		return "write at least one of the " + spaced(f.name)
	default:
		return ""
	}
	return "for example " + f.name + ": " + ex
}

func (d *decoder) unknown(n Node, k key, names []string) {
	hint := "known here: " + strings.Join(names, ", ")
	if len(names) == 0 {
		hint = "no fields are known here"
	}
	if near := Nearest(k.text, names); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	} else if name, _, ok := strings.Cut(k.text, ":"); ok && slices.Contains(names, name) {
		hint = "put a space after the colon"
	}
	n.path = joinPath(n.path, k.text)
	d.problem(n, k.span, hint, "unknown field %s", clip(k.text))
}

// scalar reads one word or number and checks it against the rules of its field.
func (d *decoder) scalar(n Node, v reflect.Value, ti *typeInfo, f *field) {
	val := n.value
	if val.text == unlimited && (ti.class == asScalar || ti.class == asInt) && ordered(v) == 'i' {
		if !f.unlimited {
			d.wrong(n, f, boundHint(f), "cannot be unlimited")
			return
		}
		v.SetInt(Unlimited)
		return
	}
	switch ti.class {
	case asText:
		if val.kind != isText {
			d.wrongType(n, f, ti, "put it in quotes: "+strconv.Quote(shorten(val.text)))
			return
		}
		v.SetString(val.text)
	case asBool:
		if val.kind != isBool {
			d.wrongType(n, f, ti, boolHint(val.text))
			return
		}
		v.SetBool(val.text[0]|0x20 == 't')
	case asScalar:
		if !d.text(n, v, ti, f) {
			return
		}
	default:
		if val.kind != isInt && (val.kind != isFloat || ti.class != asFloat) {
			hint := ""
			if val.quote != 0 && setText(ti, v, val.text) == nil {
				hint = "remove the quotes"
			}
			d.wrongType(n, f, ti, hint)
			return
		}
		if !d.text(n, v, ti, f) {
			return
		}
		if ti.class == asFloat && (math.IsInf(v.Float(), 0) || math.IsNaN(v.Float())) {
			d.wrongType(n, f, ti, "")
			return
		}
	}
	d.check(n, v, f)
}

// text sets v by its UnmarshalText or as a number, and reports what that says.
func (d *decoder) text(n Node, v reflect.Value, ti *typeInfo, f *field) bool {
	err := setText(ti, v, n.value.text)
	if err == nil {
		return true
	}
	v.SetZero()
	hint := ""
	if te := (*TextError)(nil); errors.As(err, &te) {
		err, hint = errors.New(te.Message), te.Hint
	}
	d.wrong(n, f, hint, "%s", err)
	return false
}

func boolHint(s string) string {
	switch strings.ToLower(s) {
	case "yes", "on", "y", "1", "true":
		return "write true"
	case "no", "off", "n", "0", "false":
		return "write false"
	}
	return ""
}

// check holds a value against enum, pattern and bounds.
func (d *decoder) check(n Node, v reflect.Value, f *field) {
	text := n.value.text
	switch {
	case f.enum != nil && !slices.Contains(f.enum, text):
		hint := ""
		if near := Nearest(text, f.enum); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		d.wrong(n, f, hint, "wanted %s, found %s", oneOf(f.enum), clip(text))
	case f.pattern != nil && !f.pattern.MatchString(text):
		want := f.form
		if want == "" {
			want = "text that matches " + f.pattern.String()
		}
		seen := clip(text)
		if f.secret {
			seen = notShown
		}
		d.wrong(n, f, exampleHint(f), "wanted %s, found %s", want, seen)
	case f.lo.IsValid() && f.lo.Type() == v.Type() && less(v, f.lo):
		d.wrong(n, f, boundHint(f), "wanted at least %s, found %s", f.min, shorten(text))
	case f.hi.IsValid() && f.hi.Type() == v.Type() && less(f.hi, v):
		d.wrong(n, f, boundHint(f), "wanted at most %s, found %s", f.max, shorten(text))
	}
}

func boundHint(f *field) string {
	switch {
	case f.min != "" && f.max != "":
		return fmt.Sprintf("between %s and %s", f.min, f.max)
	case f.unlimited:
		return `"unlimited" is possible, too`
	}
	return ""
}

// oneOf writes "a", "a or b", "a, b or c".
func oneOf(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// any reads a value of no fixed type: string, bool, int64, float64, []any or
// map[string]any.
func (d *decoder) any(n Node, v reflect.Value, f *field) {
	if x := d.free(n, f); x != nil {
		v.Set(reflect.ValueOf(x))
	}
}

func (d *decoder) free(n Node, f *field) any {
	val := n.value
	switch val.kind {
	case isNull:
		return nil
	case isText:
		return val.text
	case isBool:
		return val.text[0]|0x20 == 't'
	case isList:
		list := make([]any, len(val.items))
		for i := range list {
			list[i] = d.free(n.item(i), f)
		}
		return list
	case isMap:
		m := make(map[string]any, len(val.keys))
		for i, k := range val.keys {
			m[k.text] = d.free(n.fieldAt(i), f)
		}
		return m
	}
	x, err := number(val.text, val.kind)
	if err != nil {
		d.wrong(n, f, "put it in quotes if it is text", "%s", err)
	}
	return x
}

// entryFields are the keys of a PolicyEntry besides its kind.
var entryFields = []string{"name", "shadow", "off", "enforce"}

// Node is the whole entry.
func (e PolicyEntry) Node() Node { return e.node }

// DecodeNode reads an entry of a list of policies: a mapping with the kind as a
// key, the kind alone, or a name that is switched off.
func (e *PolicyEntry) DecodeNode(n Node, ps *Problems) {
	*e = PolicyEntry{node: n}
	d := decoder{}
	defer func() { *ps = append(*ps, d.problems...) }()
	const form = `write "- kind: {settings}", or "- kind" alone`
	v := n.value
	if v.kind != isMap && v.kind != isText {
		d.problem(n, n.mark(), form, "wanted a policy, found %s", found(v))
		return
	}
	if v.kind == isText {
		if e.Kind = v.text; !isWord(e.Kind) {
			d.problem(n, n.mark(), form, "wanted the kind of a policy, found text %s", clip(v.text))
		}
		e.Config = Node{n.doc, nil, v.span, joinPath(n.path, v.text)}
		return
	}
	own := infoOf(reflect.TypeFor[PolicyEntry]()).load()
	var kinds []int
	for i, k := range v.keys {
		if f := own.byName[k.text]; f != nil {
			if child := n.fieldAt(i); !child.IsZero() {
				d.value(child, reflect.ValueOf(e).Elem().FieldByIndex(f.index), f.info, f)
			}
		} else {
			kinds = append(kinds, i)
		}
	}
	switch {
	case len(kinds) == 0 && e.Off && e.Name != "":
	case len(kinds) == 0:
		d.problem(n, n.mark(), form+`; or "- {name: x, off: true}" to switch one off`, "this entry names no policy")
	default:
		k := v.keys[kinds[0]]
		e.Kind, e.Config = k.text, n.fieldAt(kinds[0])
		for _, i := range kinds[1:] {
			more := v.keys[i]
			hint := fmt.Sprintf(`indent %s further if it is a setting of %s; another policy begins with a "- " of its own`, shorten(more.text), shorten(k.text))
			if near := Nearest(more.text, entryFields); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			d.problem(n, more.span, hint, "an entry holds one policy, found %s beside %s", clip(more.text), clip(k.text))
		}
	}
}

func isWord(s string) bool {
	return s != "" && utf8.RuneCountInString(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
}
