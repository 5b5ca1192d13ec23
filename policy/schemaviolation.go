package policy

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
)

// violation is one thing in a value that does not fit its schema.
type violation struct {
	pointer string // in the value
	wanted  string
	seen    string
	fix     string
	schema  string // URL of the schema that says so
}

// violations collects what a validation has found.
type violations struct {
	root    any      // the value
	below   []string // where it lies in the body
	schemas map[string]*jsonschema.Schema
	most    int
	route   *Route // says what is hidden; nil where nothing is
	list    []violation
	total   int
	// wrongType says that a wrong type is all there is.
	wrongType bool
}

// maxCollected bounds how many violations are looked at before they are sorted.
const maxCollected = 1000

// shownValue is how much of a value is shown.
const shownValue = 80

// collect goes through an error of the library down to what is wrong itself.
func (l *violations) collect(e *jsonschema.ValidationError) {
	if len(l.list) >= maxCollected && len(e.Causes) == 0 { // it is counted, and put into words no more
		l.total += violationsOf(e)
		return
	}
	switch k := e.ErrorKind.(type) {
	case nil:
	case *kind.AnyOf:
		l.alternatives(e)
	case *kind.OneOf:
		if k.Subschemas == nil {
			l.alternatives(e)
			return
		}
		l.add(e, "a value that fits one of the alternatives", fmt.Sprintf("one that fits alternatives %d and %d", k.Subschemas[0]+1, k.Subschemas[1]+1), "")
	case *kind.Required:
		l.required(e, k.Missing, "")
	case *kind.DependentRequired:
		l.required(e, k.Missing, k.Prop)
	case *kind.Dependency:
		l.required(e, k.Missing, k.Prop)
	case *kind.AdditionalProperties:
		l.additional(e, k.Properties)
	case *kind.FalseSchema:
		l.add(e, "nothing here", "", "remove {}")
	case *kind.PropertyNames:
		l.add(e, "names that the schema allows", "the name "+showText(k.Property), "rename the property "+showText(k.Property))
	case *kind.Contains, *kind.MinContains:
		l.leaf(e)
	default:
		if len(e.Causes) > 0 {
			// The library goes through objects in no order; what is told must not change from call to call.
			slices.SortStableFunc(e.Causes, func(a, b *jsonschema.ValidationError) int {
				return slices.CompareFunc(a.InstanceLocation, b.InstanceLocation, compareTokens)
			})
			for _, c := range e.Causes {
				l.collect(c)
			}
			return
		}
		l.leaf(e)
	}
}

// violationsOf is how many violations an error without causes stands for.
func violationsOf(e *jsonschema.ValidationError) int {
	switch k := e.ErrorKind.(type) {
	case nil:
		return 0
	case *kind.Required:
		return len(k.Missing)
	case *kind.DependentRequired:
		return len(k.Missing)
	case *kind.Dependency:
		return len(k.Missing)
	case *kind.AdditionalProperties:
		return len(k.Properties)
	}
	return 1
}

// alternatives tells of a value that fits none of several schemas: the types that would have been right, or
// else what is wrong by the one that it is nearest to.
func (l *violations) alternatives(e *jsonschema.ValidationError) {
	if len(l.list) >= maxCollected {
		l.total++
		return
	}
	var types []string
	var best *violations
	byType := true
	for _, c := range e.Causes {
		one := &violations{root: l.root, below: l.below, schemas: l.schemas, most: l.most, route: l.route}
		one.collect(c)
		k, ok := soleType(c)
		if ok = ok && slices.Equal(placeOf(c), e.InstanceLocation); ok {
			for _, t := range k.Want {
				if !slices.Contains(types, t) {
					types = append(types, t)
				}
			}
		} else {
			byType = false
		}
		// What has the right type is nearer than what has not, whatever else is wrong with it.
		if best == nil || !ok && best.wrongType || one.total < best.total && ok == best.wrongType {
			best = one
			best.wrongType = ok
		}
	}
	switch {
	case byType && len(types) > 0:
		l.add(e, typeWords(types), "", "set {} to "+typeWords(types))
	case best == nil || best.total == 0:
		l.add(e, "a value that fits one of the alternatives", "", "")
	default:
		note := ""
		if n := len(e.Causes); n > 1 {
			note = fmt.Sprintf(" (by the nearest of %d alternatives)", n)
		}
		for _, v := range best.list {
			v.wanted += note
			l.push(v)
		}
		l.total += best.total - len(best.list)
	}
}

// placeOf is the place that an error with a single cause is about.
func placeOf(e *jsonschema.ValidationError) []string {
	for len(e.Causes) == 1 {
		e = e.Causes[0]
	}
	return e.InstanceLocation
}

// soleType is the wrong type, where that is all that an error is about.
func soleType(e *jsonschema.ValidationError) (*kind.Type, bool) {
	for len(e.Causes) == 1 {
		e = e.Causes[0]
	}
	k, ok := e.ErrorKind.(*kind.Type)
	return k, ok && len(e.Causes) == 0
}

func (l *violations) push(v violation) {
	if l.total++; len(l.list) < maxCollected {
		l.list = append(l.list, v)
	}
}

// add notes a violation of the value that an error is about. In fix, {} stands for its pointer.
func (l *violations) add(e *jsonschema.ValidationError, wanted, seen, fix string) {
	if len(l.list) >= maxCollected {
		l.total++
		return
	}
	p := l.pointer(e)
	if seen == "" {
		seen = l.value(e.InstanceLocation)
	}
	if fix == "" {
		fix = "change {}: wanted is " + wanted
	}
	place := p
	if place == "" {
		place = "the body"
	}
	l.push(violation{pointer: p, wanted: cutText(wanted, 300), seen: seen, fix: strings.ReplaceAll(fix, "{}", cutText(place, 200)), schema: e.SchemaURL})
}

// required tells each name that is missing. Where a name that the schema does not know is near to it, that
// was meant.
func (l *violations) required(e *jsonschema.ValidationError, missing []string, beside string) {
	have, _ := l.at(e.InstanceLocation).(map[string]any)
	known := l.properties(e.SchemaURL)
	var strangers []string // names that the schema does not know
	if len(have) <= 200 {
		for k := range have {
			if !slices.Contains(known, k) {
				strangers = append(strangers, k)
			}
		}
		slices.Sort(strangers)
	}
	for i, name := range missing {
		if len(l.list) >= maxCollected {
			l.total += len(missing) - i
			return
		}
		p := l.pointer(e) + "/" + pointerToken(name)
		v := violation{pointer: cutText(p, 200), wanted: l.wantedOf(e.SchemaURL, name), seen: "nothing", fix: "add " + cutText(p, 200), schema: e.SchemaURL}
		if beside != "" {
			v.wanted += " beside " + showText(beside)
		}
		if n := resource.Nearest(name, strangers); n != "" {
			v.fix = fmt.Sprintf("rename %s to %s", showText(n), showText(name))
			v.seen = "nothing; there is " + showText(n)
		}
		l.push(v)
	}
}

// wantedOf names a property and its type, if the schema says that.
func (l *violations) wantedOf(u, name string) string {
	if s := l.schemas[u]; s != nil {
		if t := typesOf(s.Properties[name], 0); len(t) > 0 {
			return fmt.Sprintf("a property %s, %s", showText(name), typeWords(t))
		}
	}
	return "a property " + showText(name)
}

func (l *violations) additional(e *jsonschema.ValidationError, names []string) {
	known := l.properties(e.SchemaURL)
	slices.Sort(names)
	all := "one of the properties " + cutText(reason.List(known), 200)
	for i, name := range names {
		if len(l.list) >= maxCollected {
			l.total += len(names) - i
			return
		}
		p := cutText(l.pointer(e)+"/"+pointerToken(name), 200)
		v := violation{pointer: p, wanted: "no property of this name", seen: showText(name), fix: "remove " + p, schema: e.SchemaURL}
		if len(known) > 0 {
			v.wanted = all
		}
		if n := resource.Nearest(name, known); n != "" {
			v.fix = fmt.Sprintf("rename %s to %s", showText(name), showText(n))
		}
		l.push(v)
	}
}

// properties are the names that a schema knows.
func (l *violations) properties(u string) []string {
	if s := l.schemas[u]; s != nil {
		return namesInOrder(s.Properties)
	}
	return nil
}

// leaf puts one kind of violation into words.
func (l *violations) leaf(e *jsonschema.ValidationError) {
	count := func(n int, what string) string {
		if n == 1 {
			return "1 " + what
		}
		return strconv.Itoa(n) + " " + strings.Replace(what, "property", "propertie", 1) + "s"
	}
	value := l.value(e.InstanceLocation)
	hidden := value == maskedValue
	with := func(note string) string {
		if hidden {
			return maskedValue
		}
		return value + " (" + note + ")"
	}
	switch k := e.ErrorKind.(type) {
	case *kind.Type:
		l.add(e, typeWords(k.Want), "", "set {} to "+typeWords(k.Want))
	case *kind.Enum:
		l.enum(e, k.Want)
	case *kind.Const:
		l.add(e, show(k.Want), "", "set {} to "+show(k.Want))
	case *kind.Format:
		w := formatWords(k.Want)
		l.add(e, w, "", "set {} to "+w)
	case *kind.Minimum:
		l.add(e, "at least "+numberText(k.Want), "", "set {} to "+numberText(k.Want)+" or more")
	case *kind.Maximum:
		l.add(e, "at most "+numberText(k.Want), "", "set {} to "+numberText(k.Want)+" or less")
	case *kind.ExclusiveMinimum:
		l.add(e, "more than "+numberText(k.Want), "", "set {} to more than "+numberText(k.Want))
	case *kind.ExclusiveMaximum:
		l.add(e, "less than "+numberText(k.Want), "", "set {} to less than "+numberText(k.Want))
	case *kind.MultipleOf:
		l.add(e, "a multiple of "+numberText(k.Want), "", "set {} to a multiple of "+numberText(k.Want))
	case *kind.MinLength:
		l.add(e, "at least "+count(k.Want, "character"), with(count(k.Got, "character")), "make {} "+count(k.Want-k.Got, "character")+" longer")
	case *kind.MaxLength:
		l.add(e, "at most "+count(k.Want, "character"), with(count(k.Got, "character")), "make {} "+count(k.Got-k.Want, "character")+" shorter")
	case *kind.Pattern:
		l.add(e, "a text that matches "+cutText(k.Want, 120), "", "set {} to a text that matches "+cutText(k.Want, 120))
	case *kind.MinItems:
		l.add(e, "at least "+count(k.Want, "value"), count(k.Got, "value"), "add "+count(k.Want-k.Got, "value")+" to {}")
	case *kind.MaxItems:
		l.add(e, "at most "+count(k.Want, "value"), count(k.Got, "value"), "remove "+count(k.Got-k.Want, "value")+" from {}")
	case *kind.MinProperties:
		l.add(e, "at least "+count(k.Want, "property"), count(k.Got, "property"), "add "+count(k.Want-k.Got, "property")+" to {}")
	case *kind.MaxProperties:
		l.add(e, "at most "+count(k.Want, "property"), count(k.Got, "property"), "remove "+count(k.Got-k.Want, "property")+" from {}")
	case *kind.UniqueItems:
		l.add(e, "values that differ from each other", fmt.Sprintf("values %d and %d are the same", k.Duplicates[0], k.Duplicates[1]), fmt.Sprintf("remove one of the values %d and %d of {}", k.Duplicates[0], k.Duplicates[1]))
	case *kind.Contains:
		l.add(e, "a value among them that fits what the list has to contain", "", "add such a value to {}")
	case *kind.MinContains:
		l.add(e, "at least "+count(k.Want, "value")+" that fit what the list has to contain", count(len(k.Got), "value"), "add such values to {}")
	case *kind.MaxContains:
		l.add(e, "at most "+count(k.Want, "value")+" that fit what the list may contain", count(len(k.Got), "value"), "remove such values from {}")
	case *kind.Not:
		l.add(e, "a value that the schema does not exclude", "", "change {}: this value is excluded")
	default:
		l.add(e, "a value that fits the schema", "", "")
	}
}

func (l *violations) enum(e *jsonschema.ValidationError, want []any) {
	var words, plain []string
	for i, v := range want {
		if i == 20 {
			words = append(words, fmt.Sprintf("… (%d in all)", len(want)))
			break
		}
		words = append(words, show(v))
	}
	for _, v := range want {
		if s, ok := v.(string); ok {
			plain = append(plain, s)
		}
	}
	wanted := reason.List(words)
	if len(words) > 1 {
		wanted = "one of " + wanted
	}
	fix := "set {} to " + reason.List(words)
	if s, ok := l.at(e.InstanceLocation).(string); ok {
		if n := resource.Nearest(s, plain); n != "" {
			fix = "set {} to " + showText(n)
		}
	}
	l.add(e, wanted, "", cutText(fix, 300))
}

// sorted are the first violations in the order of their pointers.
func (l *violations) sorted() []violation {
	slices.SortStableFunc(l.list, func(a, b violation) int {
		if c := comparePointers(a.pointer, b.pointer); c != 0 {
			return c
		}
		return strings.Compare(a.wanted, b.wanted)
	})
	// Two schemas that want the same, such as alternatives of a reference, count once.
	n := len(l.list)
	l.list = slices.CompactFunc(l.list, func(a, b violation) bool { return a.pointer == b.pointer && a.wanted == b.wanted })
	l.total -= n - len(l.list)
	return l.list[:min(len(l.list), l.most)]
}

// comparePointers sorts indexes as numbers.
func comparePointers(a, b string) int {
	return slices.CompareFunc(strings.Split(a, "/"), strings.Split(b, "/"), compareTokens)
}

// compareTokens compares two parts of pointers: of two indexes, the one with fewer digits is the smaller.
func compareTokens(a, b string) int {
	if len(a) != len(b) && isIndex(a) && isIndex(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

func isIndex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// pointer is the place in the body that an error is about.
func (l *violations) pointer(e *jsonschema.ValidationError) string {
	return cutText(pointerOf(l.below)+pointerOf(e.InstanceLocation), 200)
}

func pointerOf(tokens []string) string {
	var b strings.Builder
	for _, t := range tokens {
		b.WriteString("/" + pointerToken(t))
		if b.Len() > 200 {
			break
		}
	}
	return cutText(b.String(), 200)
}

// at is the value at a place.
func (l *violations) at(tokens []string) any {
	v := l.root
	for _, t := range tokens {
		switch in := v.(type) {
		case map[string]any:
			v = in[t]
		case []any:
			i, err := strconv.Atoi(t)
			if err != nil || i < 0 || i >= len(in) {
				return nil
			}
			v = in[i]
		}
	}
	return v
}

const maskedValue = "a value that is not shown"

// value shows the value at a place, unless its name says that it is a secret.
func (l *violations) value(tokens []string) string {
	if slices.ContainsFunc(l.below, isSecret) || slices.ContainsFunc(tokens, isSecret) || l.route != nil && l.route.Hides(append(slices.Clip(l.below), tokens...)) {
		return maskedValue
	}
	return show(l.at(tokens))
}

// show is a value in a few words: texts and numbers as they are, lists and objects by their size.
func show(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return showText(v)
	case bool:
		return strconv.FormatBool(v)
	case []any:
		if len(v) == 1 {
			return "a list of 1 value"
		}
		return fmt.Sprintf("a list of %d values", len(v))
	case map[string]any:
		if len(v) == 0 {
			return "an empty object"
		}
		names := namesInOrder(v)
		if len(names) > 5 {
			names = append(names[:5], "…")
		}
		for i := range names {
			names[i] = cutText(names[i], 30)
		}
		return "an object with " + cutText(strings.Join(names, ", "), shownValue)
	}
	return cutText(strings.Clone(fmt.Sprint(v)), shownValue)
}

// shown quotes a text and bounds it.
func showText(s string) string { return strconv.Quote(cutText(s, shownValue)) }

// numberText writes a bound as people do.
func numberText(r *big.Rat) string {
	if r.IsInt() {
		return cutText(r.Num().String(), 40)
	}
	if f, exact := r.Float64(); exact || math.Abs(f) < 1e15 {
		return strconv.FormatFloat(f, 'g', -1, 64)
	}
	return cutText(r.FloatString(10), 40)
}

// typeWords names JSON types with their articles: "a string or null".
func typeWords(types []string) string {
	words := make([]string, 0, len(types))
	for _, t := range types {
		switch t {
		case "null":
			words = append(words, "null")
		case "integer":
			words = append(words, "an integer")
		case "object":
			words = append(words, "an object")
		case "array":
			words = append(words, "a list")
		case "boolean":
			words = append(words, "true or false")
		default:
			words = append(words, "a "+t)
		}
	}
	return reason.List(words)
}

// formatWords names a format with an example.
func formatWords(name string) string {
	if ex := formatExamples[name]; ex != "" {
		return name + ", such as " + ex
	}
	return "the format " + name
}

var formatExamples = map[string]string{
	"date": "2026-11-22", "date-time": "2026-11-22T09:40:00Z", "time": "09:40:00Z", "duration": "P3D", "email": "name@example.com", "hostname": "shop.example.com",
	"ipv4": "192.0.2.1", "ipv6": "2001:db8::1", "uri": "https://example.com/a", "uri-reference": "/a?b=c", "uuid": "3e4666bf-d5e5-4aa7-b8ce-cefe41c7568a",
	"json-pointer": "/a/0", "int32": "2147483647", "int64": "9007199254740991",
}

// typesOf are the types that a schema lets pass, as far as it says so at its top.
func typesOf(s *jsonschema.Schema, depth int) []string {
	if s == nil || depth > 10 {
		return nil
	}
	if s.Types != nil && !s.Types.IsEmpty() {
		return s.Types.ToStrings()
	}
	if t := typesOf(s.Ref, depth+1); t != nil {
		return t
	}
	for _, a := range s.AllOf {
		if t := typesOf(a, depth+1); t != nil {
			return t
		}
	}
	var all []string
	for _, list := range [][]*jsonschema.Schema{s.AnyOf, s.OneOf} {
		for _, a := range list {
			for _, t := range typesOf(a, depth+1) {
				if !slices.Contains(all, t) {
					all = append(all, t)
				}
			}
		}
	}
	return all
}

// collectSchemas notes a schema and all that it consists of by their URLs.
func collectSchemas(s *jsonschema.Schema, m map[string]*jsonschema.Schema) {
	if s == nil || m[s.Location] != nil {
		return
	}
	m[s.Location] = s
	for _, t := range appliedToSelf(s) {
		collectSchemas(t, m)
	}
	collectSchemas(s.PropertyNames, m)
	forChildren(s, func(_ string, t *jsonschema.Schema) { collectSchemas(t, m) })
}

// appliedToSelf are the schemas that a schema applies to the same value.
func appliedToSelf(s *jsonschema.Schema) []*jsonschema.Schema {
	list := []*jsonschema.Schema{s.Ref, s.RecursiveRef, s.Not, s.If, s.Then, s.Else}
	if s.DynamicRef != nil {
		list = append(list, s.DynamicRef.Ref)
	}
	list = append(append(append(list, s.AllOf...), s.AnyOf...), s.OneOf...)
	for _, t := range s.DependentSchemas {
		list = append(list, t)
	}
	for _, t := range s.Dependencies {
		if t, ok := t.(*jsonschema.Schema); ok {
			list = append(list, t)
		}
	}
	return slices.DeleteFunc(list, func(t *jsonschema.Schema) bool { return t == nil })
}

// forChildren tells the schemas that are applied to values inside, by the name of the property; "" stands for
// any property, "[]" for any element and "[0]" for the first one.
func forChildren(s *jsonschema.Schema, f func(slot string, t *jsonschema.Schema)) {
	some := func(slot string, t *jsonschema.Schema) {
		if t != nil {
			f(slot, t)
		}
	}
	for name, t := range s.Properties {
		some("."+name, t)
	}
	for _, t := range s.PatternProperties {
		some("", t)
	}
	if t, ok := s.AdditionalProperties.(*jsonschema.Schema); ok {
		some("", t)
	}
	some("", s.UnevaluatedProperties)
	some("[]", s.Items2020)
	some("[]", s.Contains)
	some("[]", s.UnevaluatedItems)
	if t, ok := s.AdditionalItems.(*jsonschema.Schema); ok {
		some("[]", t)
	}
	switch items := s.Items.(type) {
	case *jsonschema.Schema:
		some("[]", items)
	case []*jsonschema.Schema:
		for i, t := range items {
			some("["+strconv.Itoa(i)+"]", t)
		}
	}
	for i, t := range s.PrefixItems {
		some("["+strconv.Itoa(i)+"]", t)
	}
}

// maxSchemaDepth is how deep bodies may be nested that are held against a schema.
const maxSchemaDepth = 100

// schemaWork is how many schemas are applied at most to one value at each depth. Alternatives that lead to
// themselves by the same name multiply with every level, and a body of a few hundred bytes could keep a
// gateway busy for years.
type schemaWork [maxSchemaDepth + 1]int64

// costMost is where costs stop to be told apart.
const costMost = 1 << 40

func newSchemaWork(root *jsonschema.Schema) *schemaWork {
	w := &schemaWork{}
	all := map[string]*jsonschema.Schema{}
	collectSchemas(root, all)
	type node struct {
		self  int64 // schemas applied to the same value
		slots map[string][]*node
	}
	nodes := make(map[*jsonschema.Schema]*node, len(all))
	for _, s := range all {
		nodes[s] = &node{slots: map[string][]*node{}}
	}
	const mostSelf = 1 << 16
	for s, n := range nodes {
		var walk func(t *jsonschema.Schema, open []*jsonschema.Schema)
		walk = func(t *jsonschema.Schema, open []*jsonschema.Schema) {
			if slices.Contains(open, t) || n.self >= mostSelf {
				return
			}
			n.self++
			open = append(open, t)
			forChildren(t, func(slot string, c *jsonschema.Schema) {
				if child := nodes[c]; child != nil {
					n.slots[slot] = append(n.slots[slot], child)
				}
			})
			for _, u := range appliedToSelf(t) {
				walk(u, open)
			}
		}
		walk(s, nil)
		// What holds for any property or element holds for the named ones, too.
		for slot := range n.slots {
			switch {
			case strings.HasPrefix(slot, "."):
				n.slots[slot] = append(n.slots[slot], n.slots[""]...)
			case slot != "" && slot != "[]":
				n.slots[slot] = append(n.slots[slot], n.slots["[]"]...)
			}
		}
	}
	before := make(map[*node]int64, len(nodes))
	for _, n := range nodes {
		before[n] = n.self
	}
	w[0] = before[nodes[root]]
	for d := 1; d <= maxSchemaDepth; d++ {
		now := make(map[*node]int64, len(nodes))
		deeper := false
		for _, n := range nodes {
			for _, list := range n.slots {
				sum := int64(0)
				for _, c := range list {
					sum = min(sum+before[c], costMost)
				}
				now[n] = max(now[n], sum)
				deeper = deeper || sum > 0
			}
		}
		if !deeper { // it does not lead to itself
			break
		}
		before = now
		w[d] = before[nodes[root]]
	}
	return w
}

// of is how many applications of schemas values at these depths take at most.
func (w *schemaWork) of(perDepth []int32) (total int64) {
	for d, n := range perDepth {
		if d <= maxSchemaDepth && n > 0 {
			total += min(int64(n)*max(w[d], 1), costMost)
		}
	}
	return total
}
