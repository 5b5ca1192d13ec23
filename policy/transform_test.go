package policy

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/wire"
)

func TestTransformBody(t *testing.T) {
	b := newTestbed(t)
	b.route.Mount, b.route.Template = "/prod", "/orders/{id}/{rest...}"
	for _, c := range []struct{ config, in, want string }{
		{`{remove: [a, "b[*].c", "x.*.y"]}`, `{"a":1,"b":[{"c":1,"d":2},{"c":3}],"x":{"p":{"y":1},"q":[{"y":2}]},"a":2}`, `{"b":[{"d":2},{}],"x":{"p":{},"q":[{"y":2}]}}`},
		{`{remove: ["l[0]", "l[1]"]}`, `{"l": [1, 2, 3]}`, `{"l":[2]}`},
		{`{rename: {"a.b": "c d\""}}`, `{ "a" : { "b" : 1.50 , "x" : 1e5 } }`, `{"a":{"c d\"":1.50,"x":1e5}}`},
		{`{set: {a.b: 1, "l[*].n": "{subject}", "m.x.y": true, "n": null}}`, `{"l":[{},{"n":2}],"m":3}`, `{"l":[{"n":"ann"},{"n":"ann"}],"m":3,"a":{"b":1},"n":null}`},
		{`{set: {copy: "{body}", again: "{body.copy}"}}`, `{"x":1}`, `{"x":1,"again":null,"copy":{"x":1,"again":null}}`},
		{`{template: {id: "{path.id}", rest: "{path.rest}", q: "{query.q|none}", items: "{body.data}", text: "{body.data[0]}/{body.n}/{claim.org.id}", braces: "{{x}}", none: "{body.none}", app: "{application|nobody}", list: [1, "{method}"], scopes: "{claim.scopes}"}}`,
			`{"data":["a\"b",2],"n":1.50}`, `{"app":"nobody","braces":"{x}","id":"a b","items":["a\"b",2],"list":[1,"GET"],"none":null,"q":"none","rest":"x/y","scopes":"r,w","text":"a\"b/1.50/7"}`},
		{`{template: "{body}"}`, `[1, 2]`, `[1,2]`},
		{`{template: "{body.a}{body.b}"}`, `{"a":1,"b":"x"}`, `"1x"`},
	} {
		made, problems := b.compile("transform", `{response: {body: `+c.config+`}}`)
		if problems.HasErrors() {
			t.Errorf("%s: %v", c.config, problems)
			continue
		}
		x := b.call("GET /prod/orders/a%20b/x/y")
		x.Identity = &consumer.Identity{Subject: "ann", Claims: map[string]any{"org": map[string]any{"id": float64(7)}, "scopes": []any{"r", "w"}}}
		h := &wire.Head{Status: 200, Length: int64(len(c.in))}
		h.Fields.Put(wire.ContentType, "application/json; charset=utf-8")
		tr, err := made.(ContentFilter).Filter(x, h)
		if err != nil || h.Length != -1 {
			t.Fatal(err)
		}
		if got, err := tr.Write([]byte(c.in), true); err != nil || string(got) != c.want {
			t.Errorf("%s: %s, want %s: %v", c.config, got, c.want, err)
		}
	}
}

// What grows without end is refused.
func TestTransformGrowth(t *testing.T) {
	b := newTestbed(t)
	made, problems := b.compile("transform", `{maxBody: 1KiB, response: {body: {set: {a: "{body}", b: "{body}", c: "{body}", d: "{body}", e: "{body}", f: "{body}", g: "{body}"}}}}`)
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	h := &wire.Head{Status: 200, Length: -1}
	h.Fields.Put(wire.ContentType, "application/json")
	tr, _ := made.(ContentFilter).Filter(b.call("GET /"), h)
	if _, err := tr.Write([]byte(`{"x": "`+strings.Repeat("x", 900)+`"}`), true); err == nil || !strings.Contains(err.Error(), "more than four times") {
		t.Errorf("%v", err)
	}
	if _, err := parseTree([]byte("[" + strings.Repeat("0,", maxJSONNodes) + "0]")); err == nil {
		t.Error("a tree of any size is made")
	}
}

func TestTransformRequest(t *testing.T) {
	b := newTestbed(t)
	b.route.Template = "/orders/{id}"
	made, problems := b.compile("transform", `{request: {headers: {set: {X-Id: "{path.id}", X-None: "{query.none}"}, add: {X-Tag: "{host}"}}, query: {remove: [a], rename: {"b c": "d&e"}, set: {who: "{query.who}", fix: "1 2"}}, path: "/v2/{query.q}/{path.id}"}}`)
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	edit := func(x *Exchange) *wire.Outgoing {
		o := &wire.Outgoing{Path: x.Path, Query: x.Query, HasQuery: x.HasQuery}
		o.Fields.Add("X-None", "spoofed")
		o.Fields.Add("X-Tag", "own")
		made.(RequestEditor).EditRequest(x, o)
		return o
	}
	o := edit(b.call("GET /orders/7%2F8?a=1&b+c=%20&who=x%26y&z&q=1%2F2"))
	if o.Path != "/v2/1%2F2/7%2F8" || o.Query != "d%26e=%20&z&q=1%2F2&fix=1+2&who=x%26y" {
		t.Errorf("%s?%s", o.Path, o.Query)
	}
	if v, _ := o.Fields.Lookup("X-Id"); v != "7/8" || o.Fields.Count("X-None") != 0 || o.Fields.Count("X-Tag") != 2 {
		t.Errorf("%v", o.Fields)
	}
	c := made.(Check)
	wants(t, c.Check(b.call("GET /orders/7?q=x")), "")
	wants(t, c.Check(b.call("GET /orders/7")), "transform.path", "the query parameter q with a value", "there is none")
	for _, q := range []string{"..", ".", "%2E%2e", "..%2Fx", "x%2F..%2F..", "..%5Cx", "..;a", "%252e%252e"} {
		v := c.Check(b.call("GET /orders/7?q=" + q))
		if q == "%252e%252e" { // the upstream decodes once
			continue
		}
		wants(t, v, "transform.path", "it leads elsewhere")
	}
	x := b.call("GET /orders/7?q=x%0d%0aEvil:%201")
	x.Identity = &consumer.Identity{Subject: "a\r\nb"}
	if o := edit(x); strings.ContainsAny(o.Path+o.Query, "\r\n ") {
		t.Errorf("%q %q", o.Path, o.Query)
	}
	set := headerTemplates{set: []namedTemplate{{"X-Who", parseTemplate(&Env{Route: &b.route}, "", "{subject}", false)}}}
	fs := wire.Fields{{Name: "x-who", Value: "spoofed"}}
	if set.edit(&templated{x: x}, &fs); len(fs) != 0 {
		t.Errorf("a line break reaches a field: %v", fs)
	}
}

func TestTransformConfiguration(t *testing.T) {
	b := newTestbed(t)
	b.route.Template = "/orders/{id}"
	for config, want := range map[string]string{
		`{}`: "changes nothing", `{request: {path: "/{path.nr}"}}`: "has no parameter of that name", `{request: {query: {set: {a: "{quer.x}"}}}}`: "there is no such value",
		`{request: {headers: {set: {A: "{x"}}}}`: "without its }", `{request: {headers: {set: {A: "x}"}}}}`: "without its {", `{request: {headers: {set: {Host: x}}}}`: "belongs to the connection",
		`{request: {headers: {set: {A: "{header.Authorization}"}}}}`: "credentials are not copied", `{request: {headers: {add: {A: "{body.x}"}}}}`: "there is no such value",
		`{response: {status: {"204": 200}}}`: "cannot be changed", `{response: {status: {"404": 304}}}`: "cannot become 304", `{response: {status: {"x": 200}}}`: "cannot be changed",
		`{response: {body: {remove: ["a["]}}}`: "a [ without its ]", `{response: {body: {rename: {"a[*]": b}}}}`: "no name that could change", `{response: {body: {template: {a: "{body.}"}}}}`: "a name is missing",
		`{response: {headers: {set: {A: "{query.}"}}}}`: "a name is missing",
	} {
		if _, problems := b.compile("transform", config); !problems.HasErrors() || !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: %v, want %s", config, problems, want)
		}
	}
}

// The scanner agrees with the standard library on what JSON is and on what texts stand for.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a": [1, -2.5e+3, "x\u00e9\ud83d\ude00\\", true, null]}`, `[01]`, `"\ud800\u0041"`, `{"a":1,}`, ` [ ] `, `-`, `1.`, `1e`, "\"\x01\"", `[[],{}]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		tree, err := parseTree(in)
		if (err == nil) != json.Valid(in) {
			if err != nil && (strings.Contains(err.Error(), "deeper") || strings.Contains(err.Error(), "values")) {
				return
			}
			t.Fatalf("%q: %v", in, err)
		}
		if err != nil {
			return
		}
		out := tree.append(nil)
		if tree.size() < len(out) {
			t.Fatalf("%q: a size of %d for %d bytes", in, tree.size(), len(out))
		}
		var a, b any
		if json.Unmarshal(in, &a) == nil && json.Unmarshal(out, &b) == nil {
			x, _ := json.Marshal(a)
			y, _ := json.Marshal(b)
			if string(x) != string(y) {
				t.Fatalf("%q becomes %q", in, out)
			}
		}
		if s, ok := a.(string); ok && strings.ToValidUTF8(string(in), "") == string(in) {
			if got := unquote(tree.raw); got != s {
				t.Fatalf("%q stands for %q, not %q", in, s, got)
			}
			var again string
			if json.Unmarshal(appendQuoted(nil, s), &again) != nil || again != s {
				t.Fatalf("%q is written %s", s, appendQuoted(nil, s))
			}
		}
	})
}

func FuzzJSONPath(f *testing.F) {
	for _, s := range []string{"a.b[0].*", `["x.y"].z`, "$.a", "[*]", `["`, "a..b", "[99999999999]"} {
		f.Add(s)
	}
	tree, _ := parseTree([]byte(`{"a":[{"b":1}],"x.y":{"z":2}}`))
	f.Fuzz(func(t *testing.T, s string) {
		path, err := parseJSONPath(s)
		if err != nil {
			return
		}
		if len(path) == 0 || len(path) > maxPathSteps {
			t.Fatalf("%q has %d steps", s, len(path))
		}
		tree.find(path)
	})
}
