package policy

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/whytest/suite"
)

// sent is content that a test gives an exchange.
type sent []byte

func (s sent) Known() bool { return true }

func (s sent) Body(most int64) ([]byte, reason.Verdict) {
	if int64(len(s)) > most {
		return nil, tooLargeInTest.Refuse()
	}
	return s, reason.Verdict{}
}

var tooLargeInTest = reason.New(reason.Reason{Code: "test.body-too-large", Status: 413, Title: "too large", Says: "the body is too large", Hint: "in tests only", Fixes: []reason.Fix{{Text: "send less"}}})

// with makes a call with content.
func (b *testbed) with(body string, lines ...string) *Exchange {
	x := b.call(lines...)
	x.BodySize = int64(len(body))
	x.Content = sent(body)
	return x
}

// file writes a file of a test and returns its path.
func file(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

const orderSchema = `{
  "type": "object",
  "required": ["item", "quantity"],
  "additionalProperties": false,
  "properties": {
    "item": {"type": "string", "minLength": 2, "maxLength": 20},
    "quantity": {"type": "integer", "minimum": 1, "maximum": 100},
    "email": {"type": "string", "format": "email"},
    "size": {"enum": ["small", "large"]},
    "password": {"type": "string", "minLength": 12},
    "tags": {"type": "array", "uniqueItems": true, "maxItems": 3, "items": {"type": "string", "pattern": "^[a-z]+$"}},
    "pay": {"oneOf": [
      {"type": "object", "required": ["card"], "properties": {"card": {"type": "string"}}},
      {"type": "object", "required": ["account", "bank"], "properties": {"account": {"type": "string"}}}
    ]},
    "note": {"anyOf": [{"type": "string"}, {"type": "null"}]}
  }
}`

func TestSchemaBody(t *testing.T) {
	b := newTestbed(t)
	c := b.check("schema", `{body: "`+file(t, t.TempDir(), "order.json", orderSchema)+`"}`)
	post := func(body string) reason.Verdict {
		return c.Check(b.with(body, "POST /orders", "Content-Type: application/json"))
	}
	wants(t, post(`{"item":"tea","quantity":2,"email":"a@b.test","size":"small","tags":["a","b"],"note":null}`), "")
	for _, c := range []struct {
		body  string
		texts []string
	}{
		{`{"item":"tea","quantity":"2"}`, []string{"wanted an integer", `/quantity`, `"2"`, "set /quantity to an integer"}},
		{`{"item":"tea"}`, []string{`a property "quantity", an integer`, "add /quantity", "nothing"}},
		{`{"item":"tea","qantity":1}`, []string{`rename "qantity" to "quantity"`, "1 more"}},
		{`{"item":"tea","quantity":1,"colour":"red"}`, []string{"one of the properties", "remove /colour"}},
		{`{"item":"tea","quantity":0}`, []string{"at least 1", "set /quantity to 1 or more", "0"}},
		{`{"item":"tea","quantity":1000}`, []string{"at most 100"}},
		{`{"item":"t","quantity":1}`, []string{"at least 2 characters", `"t" (1 character)`, "make /item 1 character longer"}},
		{`{"item":"tea","quantity":1,"size":"lrge"}`, []string{`one of "small" or "large"`, `set /size to "large"`}},
		{`{"item":"tea","quantity":1,"email":"me"}`, []string{"email, such as name@example.com"}},
		{`{"item":"tea","quantity":1,"tags":["a","a"]}`, []string{"values 0 and 1 are the same"}},
		{`{"item":"tea","quantity":1,"tags":["a","b","c","d"]}`, []string{"at most 3 values", "4 values", "remove 1 value"}},
		{`{"item":"tea","quantity":1,"tags":["A"]}`, []string{"/tags/0", "a text that matches ^[a-z]+$"}},
		{`{"item":"tea","quantity":1,"pay":{"card":1}}`, []string{"/pay/card", "a string (by the nearest of 2 alternatives)"}},
		{`{"item":"tea","quantity":1,"note":1}`, []string{"/note", "a string or null", "set /note to a string or null"}},
		{`[]`, []string{"the body", "an object", "a list of 0 values"}},
	} {
		wants(t, post(c.body), "schema.violated", c.texts...)
	}

	// Secrets stay secrets, long values are cut, and many violations are told up to a bound.
	v := post(`{"item":"tea","quantity":1,"password":"hunter2"}`)
	wants(t, v, "schema.violated", "/password", maskedValue)
	if text := told(v); strings.Contains(text, "hunter2") {
		t.Errorf("a password is told: %s", text)
	}
	v = post(`{"item":"tea","quantity":"` + strings.Repeat("9", 5000) + `"}`)
	if text := told(v); len(text) > 2000 {
		t.Errorf("%d bytes are told", len(text))
	}
	v = post(`{"item":1,"quantity":1,"tags":[` + strings.Repeat(`7,`, 3000) + `7]}`)
	list, _ := v.Facts.Find("violations", reason.ToCaller)
	if n, _ := v.Facts.Find("violated", reason.ToAnyone); len(list.Value.([]string)) != 20 || n.Value.(int64) != 3004 {
		t.Errorf("%d violations are told of %v", len(list.Value.([]string)), n.Value)
	}
	if _, ok := v.Facts.Find("seen", reason.ToAnyone); ok {
		t.Error("strangers are told what was seen")
	}
	if told := v.Tell(reason.ToAnyone); told.Says == v.Reason.Title || !strings.Contains(told.Says, "/item: wanted a string") {
		t.Errorf("strangers are told %q", told.Says)
	}
	if told := v.Tell(reason.ToOwner); told.At == nil || told.At.Line != 6 || told.At.File != "order.json" {
		t.Errorf("the schema is at %v", told.At)
	}

	wants(t, post(`{"item":"tea","quantity":1`), "schema.malformed", "line 1, column 27", "a comma or }", "the end of the body")
	wants(t, post(`{"item":"tea","quantity":1,"quantity":2}`), "schema.malformed", "each name once", "/quantity")
	wants(t, post("{\"item\":\"t\xffa\",\"quantity\":1}"), "schema.malformed", "UTF-8", "0xFF")
	wants(t, post(`{"item":"tea","quantity":1e1000000000}`), "schema.malformed", "a number that a computer can hold")
	wants(t, post(strings.Repeat("[", 200)), "schema.too-large", "200 deep")
	wants(t, post("["+strings.Repeat("1,", maxSchemaValues)+"1]"), "schema.too-large", "100000 values")
	wants(t, c.Check(b.with(`<a/>`, "POST /orders", "Content-Type: application/xml")), "schema.media-type", "application/xml", "application/json")
	wants(t, c.Check(b.with(`{"item":"tea","quantity":2}`, "POST /orders", "Content-Type: application/vnd.shop+json; charset=utf-8")), "")
	wants(t, c.Check(b.with(`{"item":"tea","quantity":2}`, "POST /orders")), "")
	wants(t, c.Check(b.with("", "POST /orders")), "schema.violated", "send a body of type application/json")
	wants(t, c.Check(b.with("", "GET /orders")), "")

	b.kinds = map[string]bool{}
	old := b.check("schema", `{body: {type: object, required: [a]}, status: 400}`)
	if v := old.Check(b.with(`{}`, "POST /", "Content-Type: application/json")); v.Reason.Status != 400 || v.Reason.Code != "schema.violated" {
		t.Errorf("%s with status %d", v.Reason.Code, v.Reason.Status)
	}
}

// FuzzSchema holds the fast way against the library: both decide the same.
func FuzzSchema(f *testing.F) {
	b := newTestbed(&testing.T{})
	dir := f.TempDir()
	var media []apiMedia
	for name, text := range map[string]string{"order.json": orderSchema, "numbers.json": `{"type": "array", "items": {"anyOf": [{"type": "integer", "minimum": -5, "maximum": 9007199254740993}, {"type": "number", "maximum": 0}, {"enum": ["a", "b"]}, {"$ref": "#"}]}}`,
		"rest.json": `{"patternProperties": {"^a": {"type": ["integer", "null"], "minimum": 1}}, "additionalProperties": {"oneOf": [{"type": "string", "maxLength": 3}, {"minLength": 3}, {"prefixItems": [{"type": "boolean"}], "items": {"type": "null"}, "minItems": 1}]}, "not": {"required": ["x"]}, "minProperties": 1}`} {
		b.kinds = map[string]bool{}
		media = append(media, b.check("schema", `{body: "`+file(f, dir, name, text)+`"}`).(*schemaCheck).set.body.body.types[0])
	}
	for _, s := range []string{`{"item":"tea","quantity":2,"pay":{"card":"1"},"tags":["a"]}`, `[1,-6,9007199254740993,9007199254740994.0,-0.5,"a",[1e2]]`, `{"a":1,"b":"abc","c":[true,null]}`, `{"x":1}`, `[0.1e1, 1.0, -5.0000000000000000001]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, fault := decodeJSON(data, &schemaBounds)
		if fault.kind != jsonFine {
			return
		}
		for _, m := range media {
			if err := m.schema.Validate(v); m.fast.fits(v) != (err == nil) {
				t.Fatalf("%s: the fast way says %v, the library %v", m.schema.Location, m.fast.fits(v), err)
			} else if err != nil {
				if _, schema, part := m.fast.narrow(v); schema.Validate(part) == nil {
					t.Fatalf("%s: the part that does not fit fits", schema.Location)
				}
				l := violations{root: v, schemas: map[string]*jsonschema.Schema{}, most: 20}
				l.ofError(err)
				if len(l.sorted()) == 0 {
					t.Fatalf("nothing is told of %v", err)
				}
			}
		}
	})
}

// told is all that an operator reads.
func told(v reason.Verdict) string {
	j, _ := json.Marshal(v.Tell(reason.ToOperator))
	return string(j)
}

// TestSchemaWork meets schemas whose alternatives lead to themselves: each level of the body doubles the work.
func TestSchemaWork(t *testing.T) {
	b := newTestbed(t)
	c := b.check("schema", `{body: {$ref: "#/$defs/a", $defs: {a: {anyOf: [{properties: {x: {$ref: "#/$defs/a"}}, required: [y]}, {properties: {x: {$ref: "#/$defs/a"}}, required: [z]}]}}}}`)
	nested := func(n int) string { return strings.Repeat(`{"x":`, n) + "1" + strings.Repeat("}", n) }
	wants(t, c.Check(b.with(nested(60), "POST /", "Content-Type: application/json")), "schema.too-large", "steps")
	if v := c.Check(b.with(nested(8), "POST /", "Content-Type: application/json")); v.Refused() && v.Reason != schemaViolated {
		t.Errorf("8 levels are refused for %s", v.Reason.Code)
	}
	// One that leads to itself by different names does not multiply.
	c = b.check("schema", `{body: {$ref: "#/$defs/a", $defs: {a: {anyOf: [{properties: {x: {$ref: "#/$defs/a"}}}, {properties: {y: {$ref: "#/$defs/a"}}}]}}}}`)
	wants(t, c.Check(b.with(nested(60), "POST /", "Content-Type: application/json")), "")
}

// TestSchemaHostile meets bodies of which nothing fits: what is found is counted, and not all put into words.
func TestSchemaHostile(t *testing.T) {
	b := newTestbed(t)
	c := b.check("schema", `{body: {type: array, items: {type: object, required: [a, b], properties: {a: {oneOf: [{type: string}, {type: "null"}]}, b: {oneOf: [{type: integer}, {type: "null"}, {maxLength: 3, type: string}]}}, additionalProperties: false}}}`)
	for body, least := range map[string]int64{
		"[" + strings.Repeat(`1,`, 9_000) + "1]":                                  9_001,
		"[" + strings.Repeat(`1,`, 99_000) + "1]":                                 1,
		"[" + strings.Repeat(`{"a":1},`, 40_000) + "{}]":                          1,
		`[{"passwrd":1,"a":"` + strings.Repeat("x", 900_000) + `"}]`:              2,
		"[" + strings.Repeat(`{"a":"","b":1},`, 30_000) + `{"a":"","b":1,"c":1}]`: 1,
	} {
		x := b.with(body, "POST /", "Content-Type: application/json")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		v := c.Check(x)
		runtime.ReadMemStats(&after)
		if strings.Contains(body, `"c"`) {
			wants(t, v, "schema.violated", "/30000/c", "remove /30000/c")
		} else {
			wants(t, v, "schema.violated")
		}
		if n, _ := v.Facts.Find("violated", reason.ToAnyone); n.Value.(int64) < least {
			t.Errorf("%v violations, want %d or more", n.Value, least)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 150<<20 {
			t.Errorf("a body of %d bytes allocates %d MiB", len(body), n>>20)
		}
	}
}

// TestJSONSchemaSuite runs the required cases of the JSON Schema Test Suite for 2020-12.
func TestJSONSchemaSuite(t *testing.T) {
	b := newTestbed(t)
	suite.JSONSchema(t, func(schema, remotes string) suite.Judge {
		b.kinds = map[string]bool{}
		made, problems := b.compile("schema", fmt.Sprintf(`{body: %q, formats: false, references: {"http://localhost:1234/": %q}}`, schema, remotes))
		if problems.HasErrors() {
			t.Log(problems)
			return nil
		}
		return func(body string) (bool, string) {
			v := made.(Check).Check(b.with(body, "POST /", "Content-Type: application/json"))
			// The way without explanations decides the same.
			media := made.(*schemaCheck).set.body.body.types[0]
			if value, f := decodeJSON([]byte(body), &schemaBounds); f.kind == jsonFine && media.fast.fits(value) != (media.schema.Validate(value) == nil) {
				t.Errorf("%s: %s: the fast way says %v", schema, body, media.fast.fits(value))
			}
			if !v.Refused() {
				return true, ""
			}
			return false, told(v)
		}
	})
}

// TestSchemaBundle: schemas that are bundled in one file refer to each other by their names ($id, $anchor), in OpenAPI documents
// too, and other files to them (JSON Schema core §9.3).
func TestSchemaBundle(t *testing.T) {
	dir := t.TempDir()
	bundle := file(t, dir, "bundle.json", `{"$id": "https://shop.test/schemas/order", "properties": {
		"customer": {"$ref": "/schemas/customer"}, "street": {"$ref": "address#/$defs/street"}, "pay": {"$ref": "https://pay.test/card#kind"}, "more": {"$ref": "#"}},
		"$defs": {
			"a": {"$id": "customer", "properties": {"address": {"$ref": "address"}, "number": {"$ref": "#/$defs/number"}}, "$defs": {"number": {"type": "integer"}}},
			"b": {"$id": "https://shop.test/schemas/address", "required": ["street"], "properties": {"street": {"$ref": "#/$defs/street"}}, "$defs": {"street": {"minLength": 2}}},
			"c/d": {"$id": "https://pay.test/card", "$defs": {"x": {"$anchor": "kind", "enum": ["debit"]}}}}}`)
	other := file(t, dir, "other.json", `{"allOf": [{"$ref": "bundle.json"}, {"properties": {"to": {"$ref": "https://shop.test/schemas/address"}, "by": {"$ref": "https://pay.test/card#kind"}}}]}`)
	// One reference in each way of writing texts in YAML, two on one line.
	api := file(t, dir, "openapi.yaml", `openapi: 3.1.0
info: {title: shop, version: "1"}
paths:
  /:
    post:
      requestBody: {content: {application/json: {schema: {$ref: 'https://shop.test/schemas/order'}}}}
      responses: {"200": {description: "größe", content: {application/json: {schema: {$ref: https://shop.test/schemas/address}}, text/json: {schema: {$ref: "https://pay.test/card#kind"}}}}}
components:
  schemas:
    Order:
      $id: https://shop.test/schemas/order
      properties:
        customer: {$ref: customer}
        street: {$ref: address#/$defs/street}
        pay: {$ref: "https://pay.test/card#kind"}
        more:
          $ref: '#'
    Customer:
      $id: https://shop.test/schemas/customer
      properties: {address: {$ref: "address"}, number: {$ref: "#/$defs/number"}}
      $defs: {number: {type: integer}}
    Address:
      $id: https://shop.test/schemas/address
      required: [street]
      properties: {street: {$ref: "#/$defs/street"}}
      $defs: {street: {type: string, minLength: 2}}
    Card:
      $id: https://pay.test/card
      $defs: {x: {$anchor: kind, enum: [debit]}}
`)
	for name, config := range map[string]string{"bundle": "body: " + bundle, "other": "body: " + other, "openapi": "openapi: " + api + ", responses: report"} {
		t.Run(name, func(t *testing.T) {
			b := newTestbed(t)
			c := b.check("schema", "{"+config+"}")
			for _, test := range []struct{ body, at string }{
				{`{"customer": {"address": {"street": "Main"}, "number": 3}, "street": "Main", "pay": "debit", "more": {"pay": "debit"}}`, ""},
				{`{"customer": {"address": {}}}`, "/customer/address/street"},
				{`{"customer": {"number": "x"}}`, "/customer/number"},
				{`{"street": "x"}`, "/street"},
				{`{"pay": "cash"}`, "/pay"},
				{`{"more": {"more": {"street": "x"}}}`, "/more/more/street"},
				{`{"to": {}}`, "/to/street"},
				{`{"by": "cash"}`, "/by"},
			} {
				v := c.Check(b.with(test.body, "POST /", "Content-Type: application/json"))
				if known := name == "other" || !strings.HasPrefix(test.at, "/to") && test.at != "/by"; test.at == "" || !known {
					wants(t, v, "")
				} else {
					wants(t, v, "schema.violated", test.at)
				}
			}
		})
	}
	// What nobody is called is still said, by its name.
	_, problems := newTestbed(t).compile("schema", "{body: "+file(t, dir, "wrong.json", `{"allOf": [{"$ref": "bundle.json"}, {"$ref": "https://shop.test/schemas/adress"}]}`)+"}")
	if !strings.Contains(fmt.Sprint(problems), `"https://shop.test/schemas/adress" leads to another place of the network`) {
		t.Errorf("a name that nothing has: %v", problems)
	}
}

// TestSchemaReferences: what is referred to by a URL or a name is read from the copies that the policy names, and what is
// wrong with them is said.
func TestSchemaReferences(t *testing.T) {
	b := newTestbed(t)
	dir := t.TempDir()
	file(t, dir, "order.json", `{"$id": "https://schemas.shop.test/v2/order.json", "properties": {"to": {"$ref": "address.json"}, "price": {"$ref": "https://prices.test/money.json#/$defs/amount"}, "of": {"$ref": "urn:shop:customer"}}}`)
	file(t, dir, "shared/v2/address.json", `{"$id": "https://schemas.shop.test/v2/address.json", "required": ["street"], "properties": {"country": {"$ref": "parts/country.json"}}}`)
	file(t, dir, "shared/v2/parts/country.json", `{"minLength": 2}`)
	file(t, dir, "money.json", `{"$defs": {"amount": {"type": "integer"}}}`)
	file(t, dir, "customer.yaml", `{$id: "urn:shop:customer", type: string}`)
	with := func(references string) (Check, string) {
		t.Helper()
		b.kinds = map[string]bool{}
		made, problems := b.compile("schema", fmt.Sprintf("{body: %q, references: {%s}}", dir+"/order.json", references))
		var said []string
		for _, p := range problems {
			said = append(said, p.Message+" | "+p.Hint)
		}
		check, _ := made.(Check)
		return check, strings.Join(said, "\n")
	}
	all := fmt.Sprintf(`"https://schemas.shop.test/": %q, "https://prices.test/money.json": %q, "urn:shop:customer": %q`, dir+"/shared", dir+"/money.json", dir+"/customer.yaml")
	c, problems := with(all)
	if problems != "" {
		t.Fatal(problems)
	}
	post := func(body string) reason.Verdict {
		return c.Check(b.with(body, "POST /", "Content-Type: application/json"))
	}
	wants(t, post(`{"to": {"street": "Main", "country": "FR"}, "price": 3, "of": "ada"}`), "")
	v := post(`{"to": {"street": "Main", "country": "F"}}`)
	wants(t, v, "schema.violated", "/to/country", "at least 2 characters")
	if at := v.Tell(reason.ToOwner).At; at == nil || at.File != "shared/v2/parts/country.json" {
		t.Errorf("the schema is at %v", at)
	}
	wants(t, post(`{"to": {}}`), "schema.violated", `a property "street"`)
	wants(t, post(`{"price": "3"}`), "schema.violated", "/price", "an integer")
	wants(t, post(`{"of": 3}`), "schema.violated", "/of", "a string")

	for _, c := range []struct{ references, want string }{
		{"", `"address.json" means https://schemas.shop.test/v2/address.json by the $id around it`},
		{"", `references: {"https://prices.test/money.json": money.json}`},
		{"", `references: {"urn:shop:customer": customer}`},
		{all + fmt.Sprintf(`, "https://old.shop.test/": %q`, dir), "nothing in the schema refers to https://old.shop.test/"},
		{fmt.Sprintf(`"https://schemas.shop.test/": %q`, dir+"/money.json"), "so a folder has to stand for it"},
		{fmt.Sprintf(`"https://schemas.shop.test": %q`, dir), "is a folder"},
		{`"https://schemas.shop.test/": nowhere`, `there is no file or folder "nowhere"`},
		{fmt.Sprintf(`"order.json": %q`, dir), "is no URL that a reference leads to"},
		{fmt.Sprintf(`"https://schemas.shop.test/": %q`, dir+"/shared/v2"), `leads to "shared/v2/v2/address.json", and there is no such file`},
	} {
		if _, problems := with(c.references); !strings.Contains(problems, c.want) {
			t.Errorf("references {%s}: %s\nwant %s", c.references, problems, c.want)
		}
	}

	// Files that lie beside each other have names beside each other: nothing need be said.
	file(t, dir, "own/line.json", `{"$id": "https://lines.test/line.json", "properties": {"unit": {"$ref": "unit.json"}}}`)
	file(t, dir, "own/unit.json", `{"$id": "https://lines.test/unit.json", "enum": ["kg", "piece"]}`)
	b.kinds = map[string]bool{}
	c = b.check("schema", fmt.Sprintf("{body: %q}", dir+"/own/line.json"))
	wants(t, post(`{"unit": "kg"}`), "")
	wants(t, post(`{"unit": "lb"}`), "schema.violated", `"kg" or "piece"`)

	// Nothing outside of the folders is read, whatever a reference says.
	for _, ref := range []string{"https://schemas.shop.test/%2e%2e/money.json", "https://schemas.shop.test/..%2fmoney.json", "https://schemas.shop.test/link.json"} {
		os.Symlink(dir+"/money.json", dir+"/shared/link.json")
		file(t, dir, "bad.json", fmt.Sprintf(`{"$ref": %q}`, ref))
		b.kinds = map[string]bool{}
		_, problems := b.compile("schema", fmt.Sprintf(`{body: %q, references: {"https://schemas.shop.test/": %q}}`, dir+"/bad.json", dir+"/shared"))
		if !strings.Contains(fmt.Sprint(problems), "leads out of the folder") {
			t.Errorf("%s: %v", ref, problems)
		}
	}

	// An OpenAPI document, too.
	file(t, dir, "openapi.yaml", `{openapi: 3.1.0, info: {title: shop, version: "1"}, paths: {/: {post: {requestBody: {content: {application/json: {schema: {$ref: "https://prices.test/money.json#/$defs/amount"}}}}, responses: {"200": {description: ok}}}}}}`)
	b.kinds = map[string]bool{}
	c = b.check("schema", fmt.Sprintf(`{openapi: %q, references: {"https://prices.test/money.json": %q}}`, dir+"/openapi.yaml", dir+"/money.json"))
	wants(t, post(`3`), "")
	wants(t, post(`"3"`), "schema.violated", "an integer")
}
