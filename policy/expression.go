package policy

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/ext"
	"cel.dev/cel-go/interpreter"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/resource"
)

// expression is a CEL expression over a call. It never changes.
type expression struct {
	text    string
	program cel.Program // stops as soon as the result is certain
	tracked cel.Program // evaluates everything and remembers each value
	ast     *ast.AST
	terms   []*term
	body    bool // reads the content
	caller  bool // asks who calls
	plan    bool // asks what was agreed with them
	costly  bool // its cost depends on more than its own size and that of the head; it is limited
	// wholeQuery says that the query is used as a whole, such as compared with a map.
	wholeQuery bool
	params     []string // of the route's path that it takes for granted
	compared   []comparison
}

// comparison is one of a variable, or a header of the request, with a constant.
type comparison struct{ name, with string }

// never says why the comparison cannot hold, and what would; "" if it can, as far as documents tell.
func (c comparison) never(consumers *consumer.Directory) (why, hint string) {
	missing := func(what string, list []string) (string, string) {
		if _, ok := slices.BinarySearch(list, c.with); ok || len(list) == 0 || c.with == "" {
			return "", ""
		}
		if near := resource.Nearest(c.with, list); near != "" {
			hint = "did you mean " + strconv.Quote(near) + "?"
		}
		return "there is no " + what + " " + strconv.Quote(c.with), hint
	}
	switch up := strings.ToUpper(c.with); {
	case c.name == "request.method" && up != c.with:
		return "methods are in capital letters", "write " + strconv.Quote(up)
	case c.name == "request.headers" && strings.ToLower(c.with) != c.with:
		return "names of headers are in small letters here", "write request.headers[" + strconv.Quote(strings.ToLower(c.with)) + "]"
	case c.name == "application.name":
		known, _, _ := consumers.Names()
		return missing("application", known)
	case c.name == "application.team":
		_, teams, _ := consumers.Names()
		return missing("application of team", teams)
	}
	return "", ""
}

// Bounds of an expression. What is not bounded by the size of the expression and of the request
// is bounded by its cost.
const (
	maxExpression     = 4096    // characters
	maxExpressionCost = 100_000 // steps of an expression with loops
	maxRegexProgram   = 1000    // instructions
	maxErrors         = 5       // problems of one expression
)

// celEnv declares what expressions may name.
var celEnv = sync.OnceValue(func() *cel.Env {
	text, list := cel.StringType, cel.ListType(cel.StringType)
	texts := cel.MapType(text, text)
	opts := []cel.EnvOption{
		cel.OptionalTypes(), cel.EnableMacroCallTracking(), cel.CrossTypeNumericComparisons(true), cel.DefaultUTCTimeZone(true),
		cel.ParserExpressionSizeLimit(maxExpression), cel.ExpressionNestingDepthLimit(100), cel.RegexProgramSizeLimit(maxRegexProgram),
		ext.Strings(ext.StringsVersion(0)),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateComprehensionNestingLimit(2)),
		cel.Function("within",
			cel.MemberOverload("string_within_string", []*cel.Type{text, text}, cel.BoolType, cel.BinaryBinding(within)),
			cel.MemberOverload("string_within_list", []*cel.Type{text, list}, cel.BoolType, cel.BinaryBinding(within))),
	}
	for name, t := range map[string]*cel.Type{
		"request.method": text, "request.path": text, "request.host": text, "request.scheme": text, "request.size": cel.IntType,
		"request.query": texts, "request.headers": texts, "request.params": texts, "request.cookies": texts,
		"client.ip": text, "client.hop": cel.IntType,
		"identity.subject": text, "identity.issuer": text, "identity.method": text, "identity.scopes": list, "identity.roles": list, "identity.groups": list,
		"claims": cel.MapType(text, cel.DynType), "application.name": text, "application.team": text, "application.tenant": text,
		"plan": text, "api": text, "version": text, "stage": text, "route": text, "now": cel.TimestampType, "body": cel.DynType,
	} {
		opts = append(opts, cel.Variable(name, t))
	}
	env, err := cel.NewEnv(opts...)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return env
})

// compileExpression compiles the text of a field to an expression of one of some types. What is wrong is
// reported where it stands.
func (e *Env) compileExpression(field, text string, want ...*cel.Type) *expression {
	env := celEnv()
	text = strings.TrimRight(text, " \t\n") // so that an end too early is where one looks for it
	checked, iss := env.Compile(text)
	if errs := iss.Errors(); len(errs) > 0 {
		for i, err := range errs {
			if i == maxErrors {
				break
			}
			if i > 0 && err.Location.Line() == errs[i-1].Location.Line() && strings.HasPrefix(err.Message, "Syntax error") {
				continue // what follows from the one before
			}
			if strings.Contains(err.Message, "!error!") {
				continue // so does this, from one that comes later
			}
			e.expressionProblem(field, text, err.Location.Line(), err.Location.Column(), err.Message)
		}
		return nil
	}
	x := &expression{text: text, ast: checked.NativeRep()}
	if t := checked.OutputType(); !t.IsExactType(cel.DynType) && !slices.ContainsFunc(want, t.IsExactType) {
		hint := "give it the value that is meant, such as 1 + int(request.size) / 1000"
		if want[0] == cel.BoolType {
			hint = "compare it with something"
		}
		e.Problem(field, hint, "the expression is a %s, wanted %s", typeName(t.String()), typeName(want[0].String()))
		return nil
	}
	before := len(*e.Problems)
	if usesWhole(x.ast.Expr(), "request.cookies") {
		e.Problem(field, `ask for one by its name: request.cookies["consent"] or "consent" in request.cookies`, "request.cookies cannot be used as a whole")
	}
	x.inspect(e, field)
	if (*e.Problems)[before:].HasErrors() {
		return nil
	}
	opts := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize), cel.CustomDecoratorV2(decorate)}
	trackedOpts := []cel.ProgramOption{cel.EvalOptions(cel.OptExhaustiveEval), cel.CustomDecoratorV2(decorate)}
	if x.costly {
		opts = append(opts, cel.CostLimit(maxExpressionCost))
		trackedOpts = append(trackedOpts, cel.CostLimit(maxExpressionCost))
	}
	var err error
	if x.program, err = env.Program(checked, opts...); err == nil {
		x.tracked, err = env.Program(checked, trackedOpts...)
	}
	if err != nil {
		e.Problem(field, "", "%v", err)
		return nil
	}
	x.terms = x.split(x.ast.Expr(), nil)
	x.wholeQuery = usesWhole(x.ast.Expr(), "request.query")
	return x
}

// eval is the value of the expression for a call.
func (x *expression) eval(v *vars) (ref.Val, *cel.EvalDetails, error) {
	v.wholeQuery = x.wholeQuery
	return x.program.Eval(v)
}

// usesWhole says that an expression does more with a map than look keys up, count them and walk them.
func usesWhole(e ast.Expr, name string) (whole bool) {
	parts := map[int64]bool{} // maps of which only keys are used
	ast.PreOrderVisit(e, ast.NewExprVisitor(func(n ast.Expr) {
		switch n.Kind() {
		case ast.SelectKind:
			parts[n.AsSelect().Operand().ID()] = true
		case ast.ComprehensionKind:
			parts[n.AsComprehension().IterRange().ID()] = true
		case ast.CallKind:
			call := n.AsCall()
			switch args := call.Args(); {
			case call.FunctionName() == operators.In:
				parts[args[1].ID()] = true
			case call.FunctionName() == "size" && call.IsMemberFunction():
				parts[call.Target().ID()] = true
			case call.FunctionName() == "size", call.FunctionName() == operators.Index, call.FunctionName() == operators.OptIndex, call.FunctionName() == operators.OptSelect:
				parts[args[0].ID()] = true
			}
		case ast.IdentKind:
			whole = whole || n.AsIdent() == name && !parts[n.ID()]
		}
	}))
	return whole
}

var quotedName = regexp.MustCompile(`'([^']*)'`)

// expressionProblem puts a problem of the CEL compiler into our words and at its place.
func (e *Env) expressionProblem(field, text string, line, column int, message string) {
	hint, length := "", 1
	message, suggestion, _ := strings.Cut(message, " (did you mean ")
	if names := quotedName.FindStringSubmatch(suggestion); names != nil {
		hint = "did you mean " + strconv.Quote(names[1]) + "?"
	}
	name := ""
	if names := quotedName.FindStringSubmatch(message); names != nil {
		name = names[1]
	}
	switch {
	case strings.HasPrefix(message, "undeclared reference to "):
		message = "there is no variable or function " + name
		last := name[strings.LastIndexByte(name, '.')+1:]
		at := runeAt(text, line, column)
		length = len(last)
		switch {
		case strings.HasPrefix(at, "."+last):
			column++
		case strings.HasPrefix(at, "("):
			column -= length
		}
		if last := runeAt(text, line, column-1); strings.HasPrefix(last, "-") && strings.Contains(text, "request.headers") {
			hint = `names with "-" stand in brackets and quotes: request.headers["x-name"]`
		} else if hint == "" {
			hint = knownNames(name)
		}
	case strings.HasPrefix(message, "found no matching overload for "):
		args, operator := "", name
		if names := quotedName.FindAllStringSubmatch(message, 2); len(names) == 2 {
			args = names[1][1]
		}
		if symbol, ok := operators.FindReverse(operator); ok && symbol != "" {
			operator = symbol
			length = utf8.RuneCountInString(symbol)
		} else if strings.HasPrefix(runeAt(text, line, column), "(") {
			column, length = column-len(operator), len(operator)
		}
		switch operator {
		case operators.Index:
			operator = "[…]"
		case operators.Conditional:
			operator = "… ? … : …"
		case "within":
			hint = `for example client.ip.within("10.0.0.0/8")`
		case "in":
			hint = `in looks into lists and maps; into networks client.ip.within("10.0.0.0/8"), into texts text.contains("part")`
		default:
			hint = "both sides are of one type; string(…), int(…) and double(…) turn one into another"
		}
		message = operator + " does not go with " + typeName(args)
	case strings.HasPrefix(message, "Syntax error: "):
		message = "syntax: " + strings.Join(strings.Fields(strings.TrimPrefix(message, "Syntax error: ")), " ")
		at := runeAt(text, line, column)
		if strings.Contains(message, "<EOF>' expecting") {
			message, hint = "syntax: the expression ends too early", "something is missing at its end: a value, or a bracket that closes"
		} else if strings.Contains(message, "token recognition error at: '= ") || strings.Contains(message, "token recognition error at: '='") {
			message, hint = "syntax: = compares nothing", "write == to compare"
		} else if strings.Contains(message, "token recognition error at: ''") || strings.Contains(message, "token recognition error at: '\"") {
			message = "syntax: the text in quotes does not end"
		} else if strings.HasPrefix(at, "and ") || strings.HasPrefix(at, "or ") {
			message, hint = "syntax: words do not join terms", "write && for and, || for or, ! for not"
			length = strings.IndexByte(at, ' ')
		} else if i := strings.Index(message, " expecting {"); i > 0 {
			message = message[:i]
		}
		if hint == "" {
			hint = `an expression is such as request.method == "GET" && "orders.read" in identity.scopes`
		}
	case strings.HasSuffix(message, " does not support field selection"):
		message, length = "a "+typeName(name)+" has no fields", 1
	case strings.HasPrefix(message, "invalid matches argument"):
		message, hint = "the pattern is no regular expression of the RE2 syntax", ""
	}
	e.problemIn(field, text, line, column, length, hint, message)
}

// problemIn reports a problem within the text of a field.
func (e *Env) problemIn(field, text string, line, column, length int, hint, message string) {
	if !e.sure(field) {
		return
	}
	p, exact := e.Node.ProblemIn(field, line, max(column, 0), length, message, hint)
	if !exact {
		where := "column " + strconv.Itoa(column+1)
		if strings.Contains(text, "\n") {
			where = "line " + strconv.Itoa(line) + ", " + where
		}
		p.Message += " (" + where + " of the expression)"
	}
	*e.Problems = append(*e.Problems, p)
}

// runeAt is the text from a place on.
func runeAt(text string, line, column int) string {
	for ; line > 1; line-- {
		_, text, _ = strings.Cut(text, "\n")
	}
	for ; column > 0 && text != ""; column-- {
		_, size := utf8.DecodeRuneInString(text)
		text = text[size:]
	}
	return text
}

// knownNames lists the variables of the same family, or all.
func knownNames(name string) string {
	family, _, dotted := strings.Cut(name, ".")
	var same []string
	for _, v := range celEnv().Variables() {
		if f, _, _ := strings.Cut(v.Name(), "."); f == family && (dotted || v.Name() != name) {
			same = append(same, v.Name())
		}
	}
	if len(same) == 0 {
		return "known: request, client, identity, claims, application, plan, api, version, stage, route, now, body"
	}
	slices.Sort(same)
	return "known: " + strings.Join(same, ", ")
}

// typeName says types in our words.
func typeName(t string) string {
	return strings.NewReplacer("string", "text", "dyn", "anything", "bool", "yes or no (bool)", "int", "number", "double", "number", "google.protobuf.Timestamp", "time", "timestamp", "time").Replace(t)
}

// inspect looks at what the types leave open.
func (x *expression) inspect(e *Env, field string) {
	searches := false
	var tested []string // parameters that has(…) asks for
	info := x.ast.SourceInfo()
	problem := func(at ast.Expr, length int, hint, message string) {
		l := info.GetStartLocation(at.ID())
		e.problemIn(field, x.text, l.Line(), l.Column(), length, hint, message)
	}
	constant := func(a ast.Expr) (string, bool) {
		if a.Kind() != ast.LiteralKind {
			return "", false
		}
		s, ok := a.AsLiteral().(types.String)
		return string(s), ok
	}
	network := func(a ast.Expr) {
		s, ok := constant(a)
		if !ok {
			problem(a, 1, "", "the networks of within are written out: \"10.0.0.0/8\", or a list of such")
			return
		}
		if _, err := parseNetwork(s); err != nil {
			problem(a, len(s)+2, "for example \"10.0.0.0/8\"", strconv.Quote(s)+" is no network or address")
		}
	}
	ast.PostOrderVisit(x.ast.Expr(), ast.NewExprVisitor(func(n ast.Expr) {
		switch n.Kind() {
		case ast.ComprehensionKind:
			x.costly = true
		case ast.IdentKind:
			switch name := n.AsIdent(); {
			case name == "body":
				x.body = true
			case name == "claims" || strings.HasPrefix(name, "identity.") || strings.HasPrefix(name, "application."):
				x.caller = true
			case name == "plan":
				x.plan = true
			}
		case ast.SelectKind:
			if s := n.AsSelect(); s.Operand().Kind() == ast.IdentKind && s.Operand().AsIdent() == "request.params" {
				if s.IsTestOnly() {
					tested = append(tested, s.FieldName())
				} else {
					x.params = append(x.params, s.FieldName())
				}
			}
		case ast.CallKind:
			call := n.AsCall()
			args := call.Args()
			switch f := call.FunctionName(); {
			case len(args) == 2 && (f == "_==_" || f == "@in" || f == "_[_]"):
				x.compare(args[0], args[1], constant)
				if f == "_==_" {
					x.compare(args[1], args[0], constant)
				}
			case f == "within":
				if args[0].Kind() == ast.ListKind {
					for _, el := range args[0].AsList().Elements() {
						network(el)
					}
				} else {
					network(args[0])
				}
			case f == "replace":
				problem(n, 1, "compare with contains, startsWith, endsWith or matches", "replace is not available: it can make large texts of small ones")
			case slices.Contains([]string{"matches", "split", "indexOf", "lastIndexOf"}, f):
				searches = true
				if _, ok := constant(args[len(args)-1]); !ok && (len(args) == 1 || !call.IsMemberFunction()) {
					problem(args[len(args)-1], 1, "write it out in quotes", "what "+f+" looks for must be a constant")
				} else if _, ok := constant(args[0]); !ok && call.IsMemberFunction() {
					problem(args[0], 1, "write it out in quotes", "what "+f+" looks for must be a constant")
				}
			case slices.Contains(timeParts, f) && len(args) == 1:
				zone, ok := constant(args[0])
				if !ok {
					problem(args[0], 1, "write it out in quotes", "the time zone must be a constant")
				} else if _, err := time.LoadLocation(zone); err != nil {
					problem(args[0], len(zone)+2, "for example \"Europe/Berlin\"", strconv.Quote(zone)+" is no time zone")
				}
			}
		}
	}))
	x.params = slices.DeleteFunc(x.params, func(name string) bool { return slices.Contains(tested, name) })
	x.costly = x.costly || searches && x.body
}

// compare notes what a variable is compared with.
func (x *expression) compare(variable, with ast.Expr, constant func(ast.Expr) (string, bool)) {
	if variable.Kind() != ast.IdentKind {
		return
	}
	list := []ast.Expr{with}
	if with.Kind() == ast.ListKind {
		list = with.AsList().Elements()
	}
	for _, el := range list {
		if s, ok := constant(el); ok {
			x.compared = append(x.compared, comparison{variable.AsIdent(), s})
		}
	}
}

// parseNetwork reads a network or an address.
func parseNetwork(s string) (netip.Prefix, error) {
	var p resource.Prefix
	err := p.UnmarshalText([]byte(s))
	return p.Prefix, err
}

// within says whether an address lies in one of the networks.
func within(addr, nets ref.Val) ref.Val {
	var parsed []netip.Prefix
	one := func(v ref.Val) bool {
		s, ok := v.(types.String)
		if !ok {
			return false
		}
		p, err := parseNetwork(string(s))
		parsed = append(parsed, p)
		return err == nil
	}
	if l, ok := nets.(traits.Lister); ok {
		for it := l.Iterator(); it.HasNext() == types.True; {
			if !one(it.Next()) {
				return types.NewErrFromString("within wants networks")
			}
		}
	} else if !one(nets) {
		return types.NewErrFromString("within wants networks")
	}
	return inNetworks(addr, parsed)
}

func inNetworks(v ref.Val, nets []netip.Prefix) ref.Val {
	s, ok := v.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(v)
	}
	a, err := netip.ParseAddr(string(s))
	if err != nil {
		return types.NewErr("%q is no address", clip(string(s), 60))
	}
	a = a.Unmap()
	for _, p := range nets {
		if p.Contains(a) {
			return types.True
		}
	}
	return types.False
}

// decorate replaces calls whose constants can be read once: networks and time zones. Each would cost
// more than all the rest of a rule, and zones are files.
func decorate(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	call, ok := i.(interpreter.InterpretableCall)
	if !ok || len(call.Args()) != 2 {
		return i, nil
	}
	c, ok := call.Args()[1].(interpreter.InterpretableConst)
	if !ok {
		return i, nil
	}
	of := call.Args()[0]
	if call.Function() == "within" {
		var nets []netip.Prefix
		add := func(v ref.Val) error {
			p, err := parseNetwork(string(v.(types.String)))
			nets = append(nets, p)
			return err
		}
		if l, ok := c.Value().(traits.Lister); ok {
			for it := l.Iterator(); it.HasNext() == types.True; {
				if err := add(it.Next()); err != nil {
					return nil, err
				}
			}
		} else if err := add(c.Value()); err != nil {
			return nil, err
		}
		return &prepared{InterpretableCall: call, of: of, f: func(v ref.Val) ref.Val { return inNetworks(v, nets) }}, nil
	}
	zone, ok := c.Value().(types.String)
	if !ok || !slices.Contains(timeParts, call.Function()) {
		return i, nil
	}
	at, err := time.LoadLocation(string(zone))
	if err != nil {
		return i, nil // not of a time
	}
	function := call.Function()
	return &prepared{InterpretableCall: call, of: of, f: func(v ref.Val) ref.Val {
		t, ok := v.(types.Timestamp)
		if !ok {
			return types.MaybeNoSuchOverloadErr(v)
		}
		return timePart(function, t.In(at))
	}}, nil
}

// prepared is a call with a constant that was read beforehand.
type prepared struct {
	interpreter.InterpretableCall
	of interpreter.InterpretableV2
	f  func(ref.Val) ref.Val
}

// Exec evaluates the call.
func (p *prepared) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	v := p.of.Exec(frame)
	if types.IsUnknownOrError(v) {
		return v
	}
	return p.f(v)
}

// Eval evaluates the call.
func (p *prepared) Eval(vars interpreter.Activation) ref.Val {
	return interpreter.EvalActivation(vars, p.Exec)
}

// timeParts are the functions of CEL that take a time zone.
var timeParts = []string{"getFullYear", "getMonth", "getDayOfYear", "getDayOfMonth", "getDate", "getDayOfWeek", "getHours", "getMinutes", "getSeconds", "getMilliseconds"}

// timePart is one of timeParts, counted as the CEL specification does.
func timePart(function string, t time.Time) ref.Val {
	switch function {
	case "getFullYear":
		return types.Int(t.Year())
	case "getMonth":
		return types.Int(t.Month() - 1)
	case "getDayOfYear":
		return types.Int(t.YearDay() - 1)
	case "getDayOfMonth":
		return types.Int(t.Day() - 1)
	case "getDate":
		return types.Int(t.Day())
	case "getDayOfWeek":
		return types.Int(t.Weekday())
	case "getHours":
		return types.Int(t.Hour())
	case "getMinutes":
		return types.Int(t.Minute())
	case "getSeconds":
		return types.Int(t.Second())
	}
	return types.Int(t.Nanosecond() / 1e6)
}
