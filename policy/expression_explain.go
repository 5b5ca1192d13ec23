package policy

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
)

// term is one of the parts of an expression that all have to hold: what stands between the && of
// the outermost level.
type term struct {
	expr   ast.Expr
	text   string
	leaves []leaf
}

// leaf is a value of the call that a term looks at: claims.dept, request.headers["x"].
type leaf struct {
	expr ast.Expr
	text string
	// secret values are not shown: credentials, whatever looks like one by its name, and what
	// cannot be told beforehand.
	secret bool
}

// split collects the terms.
func (x *expression) split(e ast.Expr, terms []*term) []*term {
	if e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.LogicalAnd {
		for _, a := range e.AsCall().Args() {
			terms = x.split(a, terms)
		}
		return terms
	}
	t := &term{expr: e, text: x.write(e)}
	x.look(e, nil, func(l leaf) {
		if !slices.ContainsFunc(t.leaves, func(o leaf) bool { return o.text == l.text }) {
			t.leaves = append(t.leaves, l)
		}
	})
	if slices.ContainsFunc(t.leaves, func(l leaf) bool { return l.secret }) {
		t.text = x.withoutConstants(e, t.text)
	}
	return append(terms, t)
}

// write is a part of the expression as text, on one line.
func (x *expression) write(e ast.Expr) string {
	s, err := cel.ExprToString(e, x.ast.SourceInfo())
	if err != nil {
		return x.text
	}
	return cut(strings.ReplaceAll(s, "\n", " "), 300)
}

// withoutConstants hides what a secret is compared with.
func (x *expression) withoutConstants(e ast.Expr, text string) string {
	keys := map[int64]bool{}
	ast.PreOrderVisit(e, ast.NewExprVisitor(func(n ast.Expr) {
		switch {
		case n.Kind() == ast.CallKind && n.AsCall().FunctionName() == operators.Index:
			keys[n.AsCall().Args()[1].ID()] = true
		case n.Kind() == ast.LiteralKind && !keys[n.ID()]:
			if s, ok := n.AsLiteral().(types.String); ok && s != "" {
				text = strings.ReplaceAll(text, x.write(n), `"…"`)
			}
		}
	}))
	return text
}

// look finds the leaves of a part. Names that loops declare are none.
func (x *expression) look(e ast.Expr, local []string, found func(leaf)) {
	if base := x.base(e); base != nil {
		if name := base.AsIdent(); !slices.Contains(local, name) {
			found(leaf{expr: e, text: x.write(e), secret: x.secret(e)})
		}
		return
	}
	switch e.Kind() {
	case ast.SelectKind:
		x.look(e.AsSelect().Operand(), local, found)
	case ast.CallKind:
		c := e.AsCall()
		if c.IsMemberFunction() {
			x.look(c.Target(), local, found)
		}
		for _, a := range c.Args() {
			x.look(a, local, found)
		}
	case ast.ListKind:
		for _, a := range e.AsList().Elements() {
			x.look(a, local, found)
		}
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			x.look(entry.AsMapEntry().Value(), local, found)
		}
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		x.look(c.IterRange(), local, found)
		inner := append(slices.Clone(local), c.IterVar(), c.IterVar2(), c.AccuVar())
		x.look(c.LoopStep(), inner, found)
	}
}

// base is the variable at the bottom of a chain of fields and indexes, or nil.
func (x *expression) base(e ast.Expr) ast.Expr {
	for {
		switch e.Kind() {
		case ast.IdentKind:
			return e
		case ast.SelectKind:
			e = e.AsSelect().Operand()
		case ast.CallKind:
			f := e.AsCall().FunctionName()
			if f != operators.Index && f != operators.OptIndex && f != operators.OptSelect {
				return nil
			}
			e = e.AsCall().Args()[0]
		default:
			return nil
		}
	}
}

// step is the last field or index of a chain; ok is false where it is computed.
func step(e ast.Expr) (of ast.Expr, key string, ok bool) {
	if e.Kind() == ast.SelectKind {
		return e.AsSelect().Operand(), e.AsSelect().FieldName(), true
	}
	args := e.AsCall().Args()
	if args[1].Kind() != ast.LiteralKind {
		return args[0], "", false
	}
	s, ok := args[1].AsLiteral().(types.String)
	if !ok {
		return args[0], "", true // the position in a list
	}
	return args[0], string(s), true
}

// secret says that the value of a chain must not be shown.
func (x *expression) secret(e ast.Expr) bool {
	for e.Kind() != ast.IdentKind {
		of, key, ok := step(e)
		if !ok || isSecret(key) {
			return true
		}
		e = of
	}
	return e.AsIdent() == "request.cookies" // whatever their names: most are sessions
}

// hide keeps values out of explanations, and what they are compared with: those of the places, below a variable, that are
// not to be told.
func (x *expression) hide(hides func(place []string) bool) {
	for _, t := range x.terms {
		found := false
		for i := range t.leaves {
			var place []string
			for e := t.leaves[i].expr; e.Kind() != ast.IdentKind; {
				of, key, _ := step(e)
				place = append(place, key)
				e = of
			}
			slices.Reverse(place)
			if len(place) > 0 && hides(place) {
				t.leaves[i].secret, found = true, true
			}
		}
		if found {
			t.text = x.withoutConstants(t.expr, t.text)
		}
	}
}

// outcome is what became of a term.
type outcome struct {
	*term
	value   ref.Val // nil where it was not evaluated
	seen    []string
	missing string // the field that is not there: claims.dept
	near    string // what was probably meant
	problem string // why it cannot be decided
}

func (o *outcome) holds() bool { return o.value == types.True }

// failed says that there is no value but an error.
func (o *outcome) failed() bool { return o.value != nil && types.IsError(o.value) }

// mark is the term with its result and what it saw.
func (o *outcome) mark() string {
	switch {
	case o.holds() && len(o.seen) > 0:
		return "✓ " + o.text + " (" + strings.Join(o.seen, ", ") + ")"
	case o.holds():
		return "✓ " + o.text
	case o.value == nil:
		return "? " + o.text
	case o.problem != "":
		return "✗ " + o.text + " (" + o.problem + ")"
	case len(o.seen) > 0:
		return "✗ " + o.text + " (" + strings.Join(o.seen, ", ") + ")"
	}
	return "✗ " + o.text
}

// Bounds of what is shown of a rule.
const (
	maxTermsTold = 20
	maxSeen      = 8    // values of one term
	maxTold      = 4000 // bytes in all
)

// judge evaluates all of an expression and says what became of its terms.
func (x *expression) judge(v *vars, hidden *secrets) []outcome {
	v.explains = true
	defer func() { v.explains, v.refused = false, reason.Verdict{} }()
	v.wholeQuery = x.wholeQuery
	_, details, err := x.tracked.Eval(v)
	state := details.State()
	value := func(id int64) (ref.Val, bool) {
		if state == nil {
			return nil, false
		}
		return state.Value(id)
	}
	list := make([]outcome, 0, len(x.terms))
	for _, t := range x.terms {
		o := outcome{term: t}
		if got, ok := value(t.expr.ID()); ok {
			o.value = got
		} else if err != nil { // the evaluation ended before
			o.value = types.WrapErr(err)
		}
		x.tell(v, value, &o, hidden)
		list = append(list, o)
	}
	return list
}

// tell says what a term saw.
func (x *expression) tell(v *vars, value func(int64) (ref.Val, bool), o *outcome, hidden *secrets) {
	for _, l := range o.leaves {
		if len(o.seen) == maxSeen {
			break
		}
		got, ok := value(l.expr.ID())
		switch {
		case !ok && l.expr.Kind() != ast.IdentKind:
		case !ok:
			native, _ := v.ResolveName(l.expr.AsIdent())
			if got = types.DefaultTypeAdapter.NativeToValue(native); !types.IsError(got) {
				o.seen = append(o.seen, l.text+" is "+hidden.show(l, got))
			}
		case !types.IsUnknownOrError(got):
			o.seen = append(o.seen, l.text+" is "+hidden.show(l, got))
		case types.IsError(got) && o.missing == "":
			x.tellMissing(v, value, o, l)
		}
	}
	if o.failed() && o.problem == "" {
		o.problem = cut(strings.ToValidUTF8(o.value.(*types.Err).Error(), "�"), 200)
		if strings.Contains(o.problem, "no such overload") {
			o.problem = "these values cannot be compared"
		}
		if strings.Contains(o.problem, "cost limit") {
			o.problem = "it takes more than " + strconv.Itoa(maxExpressionCost) + " steps for this call"
		} else if len(o.seen) > 0 {
			o.problem += ": " + strings.Join(o.seen, ", ")
		}
	}
}

// tellMissing finds the field of a chain that is not there.
func (x *expression) tellMissing(v *vars, value func(int64) (ref.Val, bool), o *outcome, l leaf) {
	e := l.expr
	for e.Kind() != ast.IdentKind {
		of, key, constant := step(e)
		var held ref.Val
		if of.Kind() == ast.IdentKind {
			native, _ := v.ResolveName(of.AsIdent())
			held = types.DefaultTypeAdapter.NativeToValue(native)
		} else {
			held, _ = value(of.ID())
		}
		if held == nil || types.IsError(held) { // it begins further down
			if held == errNotRead {
				o.problem = "the body was not read"
				return
			}
			e = of
			continue
		}
		got, _ := value(e.ID())
		if got != nil && types.IsError(got) && !strings.Contains(got.(*types.Err).Error(), "no such key") {
			o.problem = cut(strings.ToValidUTF8(got.(*types.Err).Error(), "�"), 200)
			return
		}
		o.missing = x.write(e)
		what := x.write(of)
		if m, ok := held.(traits.Mapper); ok && constant {
			o.problem = what + " has no " + strconv.Quote(key)
			if near := resource.Nearest(key, keysOf(m)); near != "" {
				o.near = cut(near, 60)
				o.problem += ", but " + strconv.Quote(o.near)
			}
			return
		}
		o.problem = what + " has no such field"
		return
	}
}

// keysOf are keys of a map, of a large one the first.
func keysOf(m traits.Mapper) (keys []string) {
	for it := m.Iterator(); it.HasNext() == types.True && len(keys) < 100; {
		if s, ok := it.Next().(types.String); ok {
			keys = append(keys, string(s))
		}
	}
	slices.Sort(keys)
	return keys
}

// secrets knows what must not be shown.
type secrets struct {
	consumers *consumer.Directory
}

const notShown = "(not shown)"

// show writes the value of a leaf, bounded, unless it is a secret.
func (s *secrets) show(l leaf, v ref.Val) string {
	if l.secret {
		return notShown
	}
	return s.value(v, 0)
}

// maxShown bounds how many elements of a list are shown.
const maxShown = 10

func (s *secrets) value(v ref.Val, depth int) string {
	switch v := v.(type) {
	case types.String:
		if s.consumers != nil && s.consumers.Credential([]byte(v)) != nil {
			return notShown // a key in an unexpected place
		}
		return strconv.Quote(cut(strings.ToValidUTF8(string(v), "�"), 100))
	case types.Null:
		return "null"
	case types.Timestamp:
		return v.UTC().Format("2006-01-02T15:04:05Z")
	case traits.Mapper:
		keys := keysOf(v)
		shown := make([]string, 0, maxShown)
		for _, k := range keys[:min(len(keys), maxShown)] {
			shown = append(shown, cut(strings.ToValidUTF8(k, "�"), 40))
		}
		if len(keys) > maxShown {
			shown = append(shown, "…")
		}
		return "{" + strings.Join(shown, ", ") + "}"
	case traits.Lister:
		if depth == 2 {
			return "[…]"
		}
		var shown []string
		for it := v.Iterator(); it.HasNext() == types.True; {
			if len(shown) == maxShown {
				shown = append(shown, "…")
				break
			}
			shown = append(shown, s.value(it.Next(), depth+1))
		}
		return "[" + strings.Join(shown, ", ") + "]"
	case *types.Optional:
		if !v.HasValue() {
			return "absent"
		}
		return s.value(v.GetValue(), depth+1)
	}
	if t := v.ConvertToType(types.StringType); !types.IsError(t) {
		return cut(string(t.(types.String)), 100)
	}
	return "a " + v.Type().TypeName()
}

// cut shortens a text at a character and copies it.
func cut(s string, most int) string {
	if len(s) <= most {
		return strings.Clone(s)
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + "…"
}

// remedy says how a call would make the term hold, "" where that cannot be told.
func (t *term) remedy(x *expression) string {
	e := t.expr
	if e.Kind() != ast.CallKind {
		return ""
	}
	c := e.AsCall()
	args := c.Args()
	if c.IsMemberFunction() {
		args = append([]ast.Expr{c.Target()}, args...)
	}
	if len(args) != 2 || len(t.leaves) != 1 || t.leaves[0].secret {
		return ""
	}
	f := c.FunctionName()
	subject, value := args[0], args[1]
	if f == operators.In || f == operators.Equals && x.base(subject) == nil {
		if x.base(value) != nil { // "x" in identity.roles, "GET" == request.method
			subject, value = value, subject
			if f == operators.In {
				f = "has"
			}
		}
	}
	if x.base(subject) == nil {
		return ""
	}
	text := x.write(value)
	switch f {
	case operators.Equals, "has":
	case operators.In:
		if value.Kind() != ast.ListKind || len(value.AsList().Elements()) == 0 {
			return ""
		}
		var names []string
		for _, el := range value.AsList().Elements() {
			names = append(names, x.write(el))
		}
		text = strings.Join(names, " or ")
		if len(names) == 1 {
			text = names[0]
		}
	case operators.Greater, operators.GreaterEquals, operators.Less, operators.LessEquals:
		symbol, _ := operators.FindReverse(f)
		text = "a value " + symbol + " " + text
	case "within":
		if value.Kind() == ast.ListKind {
			text = "one of " + strings.Trim(text, "[]")
		}
	case "startsWith":
		text = "a value that begins with " + text
	case "endsWith":
		text = "a value that ends with " + text
	case "matches":
		text = "a value that matches " + text
	default:
		return ""
	}
	bare := strings.Trim(text, `"`)
	if strings.Contains(bare, `"`) {
		bare = strings.ReplaceAll(text, `"`, "")
	}
	base := x.base(subject).AsIdent()
	key, path := "", x.write(subject)
	if subject.Kind() != ast.IdentKind {
		_, key, _ = step(subject)
		path = strings.TrimPrefix(path, base+".")
	}
	switch base {
	case "request.method":
		return "use " + bare
	case "request.host", "request.scheme", "request.path":
		return "call a " + strings.TrimPrefix(base, "request.") + " " + strings.TrimPrefix(text, "a value ")
	case "request.headers":
		return "send the header " + key + " with " + text
	case "request.query":
		return "send the query parameter " + key + " with " + text
	case "request.params":
		return "call a path where " + key + " is " + text
	case "client.ip":
		return "call from " + bare
	case "claims":
		if f == "has" {
			return "use a token whose claim " + path + " holds " + text
		}
		return "use a token whose claim " + path + " is " + text
	case "identity.scopes", "identity.roles", "identity.groups":
		return "call as somebody with " + strings.TrimSuffix(strings.TrimPrefix(base, "identity."), "s") + " " + text
	case "application.name":
		return "call as application " + text
	case "application.team":
		return "call as an application of team " + text
	case "application.tenant":
		return "call as an application of tenant " + text
	case "plan":
		return "use plan " + text
	case "stage", "version":
		return "call " + base + " " + text
	case "body":
		return "send a body whose " + path + " is " + text
	}
	return ""
}
