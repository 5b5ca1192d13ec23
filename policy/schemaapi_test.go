package policy

import (
	"strings"
	"testing"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

const shopAPI = `openapi: 3.0.3
info: {title: Shop, version: "1"}
servers: [{url: "https://shop.test/v1"}]
paths:
  /orders:
    parameters:
      - {name: X-Request-Class, in: header, schema: {type: string, enum: [gold, silver]}}
    get:
      operationId: listOrders
      parameters:
        - {name: limit, in: query, schema: {type: integer, minimum: 1, maximum: 100}}
        - {name: since, in: query, required: true, schema: {type: string, format: date}}
        - {name: state, in: query, schema: {type: array, items: {type: string, enum: [open, closed]}}}
        - {name: ids, in: query, explode: false, schema: {type: array, items: {type: integer}}}
        - {name: filter, in: query, style: deepObject, schema: {type: object, properties: {total: {type: number}}, additionalProperties: false}}
        - {name: page, in: query, content: {application/json: {schema: {type: object, required: [n]}}}}
        - {name: session, in: cookie, schema: {type: string, minLength: 8}}
      responses: {"200": {description: ok, content: {application/json: {schema: {type: array, items: {$ref: "#/components/schemas/Order"}}}}}}
    post:
      operationId: placeOrder
      requestBody:
        required: true
        content:
          application/json: {schema: {$ref: "#/components/schemas/Order"}}
          application/x-www-form-urlencoded: {schema: {type: object, required: [item], properties: {item: {type: string}, quantity: {type: integer}, tag: {type: array, items: {type: integer}}}}}
          image/*: {}
      responses:
        "201": {description: placed, content: {application/json: {schema: {$ref: "#/components/schemas/Order"}}}}
        4XX: {description: wrong}
  /orders/{id}:
    parameters: [{$ref: "#/components/parameters/ID"}]
    get: {responses: {"200": {description: ok}}}
  /orders/{id}.csv:
    parameters: [{$ref: "#/components/parameters/ID"}]
    get: {operationId: csv, responses: {"200": {description: ok}}}
  /orders/latest:
    get: {operationId: latest, responses: {"200": {description: ok}}}
components:
  parameters:
    ID: {name: id, in: path, required: true, schema: {type: integer}}
  schemas:
    Order:
      type: object
      required: [id, item]
      properties:
        id: {type: integer, readOnly: true}
        item: {type: string}
        quantity: {type: integer, minimum: 0, exclusiveMinimum: true}
        note: {type: string, nullable: true}
        parent: {$ref: "#/components/schemas/Order"}
        example: {type: integer}
`

func TestSchemaOpenAPI(t *testing.T) {
	b := newTestbed(t)
	path := file(t, t.TempDir(), "shop.yaml", shopAPI)
	c := b.check("schema", `{openapi: "`+path+`", responses: report}`)
	get := func(target string, lines ...string) reason.Verdict {
		return c.Check(b.call(append([]string{"GET " + target}, lines...)...))
	}
	post := func(body, media string) reason.Verdict {
		return c.Check(b.with(body, "POST /orders", "Content-Type: "+media))
	}
	wants(t, get("/orders?since=2026-11-22&limit=5&state=open&state=closed&ids=1,2&filter[total]=2.5&page=%7B%22n%22:1%7D"), "")
	wants(t, get("/v1/orders?since=2026-11-22"), "") // below the base path of the server
	wants(t, get("/orders"), "schema.parameter", `a string at query parameter "since"`, "nothing", "add the query parameter")
	wants(t, get("/orders?sinse=2026-11-22"), "schema.parameter", `rename the query parameter "sinse" to "since"`)
	wants(t, get("/orders?since=yesterday"), "schema.parameter", "date, such as 2026-11-22", `"yesterday"`)
	wants(t, get("/orders?since=2026-11-22&limit=many"), "schema.parameter", `query parameter "limit"`, "an integer", `"many"`)
	wants(t, get("/orders?since=2026-11-22&limit=0"), "schema.parameter", "at least 1", "set query parameter \"limit\" to 1 or more")
	wants(t, get("/orders?since=2026-11-22&limit=1&limit=2"), "schema.parameter", "an integer", "a list of 2 values")
	wants(t, get("/orders?since=2026-11-22&state=opne"), "schema.parameter", `"state" /0`, `"open"`)
	wants(t, get("/orders?since=2026-11-22&ids=1,x"), "schema.parameter", `"ids" /1`)
	wants(t, get("/orders?since=2026-11-22&filter[totl]=1"), "schema.parameter", `rename "totl" to "total"`)
	wants(t, get("/orders?since=2026-11-22&page={}"), "schema.parameter", `"page" /n`)
	wants(t, get("/orders?since=2026-11-22", "X-Request-Class: bronze"), "schema.parameter", `header parameter "X-Request-Class"`, `"gold"`)
	v := get("/orders?since=2026-11-22", "Cookie: a=b; session=short")
	wants(t, v, "schema.parameter", `cookie parameter "session"`, maskedValue)
	if strings.Contains(told(v), "short") && !strings.Contains(told(v), "shorter") {
		t.Errorf("a session is told: %s", told(v))
	}
	wants(t, get("/orders?limit=x"), "schema.parameter", "1 more")

	wants(t, get("/orders/17"), "")
	wants(t, get("/orders/17.csv"), "")
	wants(t, get("/orders/latest"), "")
	latest := b.call("GET /orders/latest")
	if n := testing.AllocsPerRun(100, func() { c.Check(latest) }); n > 0 {
		t.Errorf("%v allocations where nothing is described but the path", n)
	}
	wants(t, get("/orders/last"), "schema.parameter", `path parameter "id"`, "an integer", `"last"`)
	wants(t, get("/order"), "schema.unknown-operation", "/order", "/orders")
	x := b.call("DELETE /orders")
	wants(t, c.Check(x), "schema.unknown-method", "DELETE", "GET, POST")
	if allow, _ := x.Extra.Lookup("Allow"); allow != "POST, GET, HEAD" && allow != "GET, POST, HEAD" {
		t.Errorf("Allow: %s", allow)
	}
	wants(t, c.Check(b.call("HEAD /orders?since=2026-11-22")), "")

	wants(t, post(`{"item":"tea","note":null,"parent":{"item":"pot"}}`, "application/json"), "")
	wants(t, post(`{"item":"tea","quantity":0}`, "application/json"), "schema.violated", "more than 0")
	wants(t, post(`{"item":null}`, "application/json"), "schema.violated", "a string", "null")
	wants(t, post(`{"item":"tea","parent":{"item":1}}`, "application/json"), "schema.violated", "/parent/item")
	wants(t, post(`{"item":"tea","example":"x"}`, "application/json"), "schema.violated", "/example")
	wants(t, post(`item=tea&quantity=2&tag=1&tag=2`, "application/x-www-form-urlencoded"), "")
	wants(t, post(`item=tea&quantity=two`, "application/x-www-form-urlencoded"), "schema.violated", "/quantity", "an integer")
	wants(t, post(`item=tea&item=pot`, "application/x-www-form-urlencoded"), "schema.violated", "/item", "a list of 2 values")
	wants(t, post(`PNG`, "image/png"), "")
	wants(t, post(`<a/>`, "text/xml"), "schema.media-type", "text/xml", "application/json", "placeOrder")
	wants(t, c.Check(b.with(`{}`, "POST /orders")), "schema.media-type", "of no type")
	wants(t, c.Check(b.with(`{}`, "POST /orders", "Content-Type: image/png", "Content-Type: application/json")), "schema.media-type", "declared 2 times")
	wants(t, c.Check(b.with("", "POST /orders")), "schema.violated", "a body of type")

	b.kinds = map[string]bool{}
	loose := b.check("schema", `{openapi: "`+path+`", unknownOperation: allow, unknownQuery: refuse}`)
	wants(t, loose.Check(b.call("GET /elsewhere")), "")
	wants(t, loose.Check(b.call("GET /orders?since=2026-11-22&filter[total]=1")), "")
	wants(t, loose.Check(b.call("GET /orders?since=2026-11-22&lmit=1")), "schema.parameter", `rename the query parameter "lmit" to "limit"`)

	// Below a mount.
	b.route.Mount = "/prod"
	defer func() { b.route.Mount = "" }()
	wants(t, c.Check(b.call("GET /prod/orders/17")), "")
	wants(t, c.Check(b.call("GET /prod/v1/orders/17")), "")
}

// TestSchemaResponses watches answers, which reach the client as they are.
func TestSchemaResponses(t *testing.T) {
	b := newTestbed(t)
	path := file(t, t.TempDir(), "shop.yaml", shopAPI)
	f := b.check("schema", `{openapi: "`+path+`", responses: report, maxBody: 1KiB}`).(ContentFilter)
	answer := func(status int, media, body string) []Note {
		x := b.call("POST /orders")
		h := &wire.Head{Status: status, Length: -1}
		h.Fields.Add("Content-Type", media)
		tr, err := f.Filter(x, h)
		if err != nil {
			t.Fatal(err)
		}
		if tr == nil {
			return x.Notes
		}
		got := ""
		for i := range len(body) {
			p, err := tr.Write([]byte(body[i:i+1]), false)
			if err != nil {
				t.Fatal(err)
			}
			got += string(p)
		}
		if p, err := tr.Write(nil, true); err != nil || got+string(p) != body {
			t.Errorf("the answer became %q: %v", got, err)
		}
		return x.Notes
	}
	for _, c := range []struct {
		status      int
		media, body string
		want        string
	}{
		{201, "application/json; charset=utf-8", `{"id":1,"item":"tea"}`, ""},
		{201, "application/json", `{"item":"tea"}`, "placeOrder answered 201, and /id does not fit"},
		{201, "application/json", `{"id":1`, "no JSON"},
		{201, "text/html", `<p>`, `answered with "text/html"`},
		{200, "application/json", `{}`, "describes no answer with status 200"},
		{404, "text/plain", `no`, ""},
		{201, "application/json", `{"item":"` + strings.Repeat("x", 2000) + `"}`, ""}, // too large to be watched
	} {
		hints := answer(c.status, c.media, c.body)
		if c.want == "" && len(hints) > 0 || c.want != "" && (len(hints) == 0 || !strings.Contains(hints[0].Text, c.want) || hints[0].Code != "schema.response") {
			t.Errorf("%d %s %.30s: hints %v", c.status, c.media, c.body, hints)
		}
	}
}

// TestSchemaFiles meets files that cannot be used.
func TestSchemaFiles(t *testing.T) {
	dir := t.TempDir()
	file(t, dir, "outside.json", `{"type":"string"}`)
	file(t, dir, "api/parts.yaml", "Order: {type: object, required: [item]}\n")
	api := func(rest string) string {
		return "openapi: 3.1.0\ninfo: {title: a, version: '1'}\npaths:\n  /a:\n    post:\n      requestBody:\n        content:\n          application/json:\n            schema: " + rest + "\n      responses: {'200': {description: ok}}\n"
	}
	for _, c := range []struct {
		name, config, text string
		want               []string
	}{
		{"", `{}`, "", []string{"without openapi and body"}},
		{"", `{openapi: a.yaml, body: b.json}`, "", []string{"openapi or body, not both"}},
		{"", `{openapi: nowhere.yaml}`, "", []string{`there is no file "nowhere.yaml"`}},
		{"", `{openapi: "https://shop.test/openapi.yaml"}`, "", []string{"is no file, and nothing is fetched"}},
		{"", `{body: [1]}`, "", []string{"a schema is a mapping"}},
		{"", `{body: {type: strin}}`, "", []string{"test.yaml:1:", "wanted one of", `"strin"`}},
		{"", `{body: {properties: {a: {pattern: "(?=x)"}}}}`, "", []string{"pattern", "lookahead"}},
		{"", `{body: {type: object}, responses: report}`, "", []string{"responses needs an OpenAPI document"}},
		{"a.json", `{body: FILE}`, "{\n  \"type\": 3\n}", []string{"a.json:2:", "this is no schema"}},
		{"a.json", `{body: FILE}`, `{"$ref": "http://shop.test/b.json"}`, []string{"a.json:1:", "leads to another place of the network"}},
		{"a.json", `{body: FILE}`, `{"$ref": "file:///etc/hosts"}`, []string{"leads out of the folder"}},
		{"a.json", `{body: FILE}`, `{"$ref": "../outside.json"}`, []string{"leads out of the folder"}},
		{"a.json", `{body: FILE}`, `{"$ref": "b.json"}`, []string{`there is no file "b.json"`}},
		{"a.json", `{body: FILE}`, "{\"properties\": {\n\"a\": {\"$ref\": \"#/$defs/b\"}}}", []string{"a.json:2:", "which is not there"}},
		{"a.json", `{body: FILE}`, `{"type": `, []string{"a.json:1:"}},
		{"a.yaml", `{openapi: FILE}`, "swagger: '2.0'\n", []string{"a.yaml:1:", "Swagger 2.0"}},
		{"a.yaml", `{openapi: FILE}`, "type: object\n", []string{"no OpenAPI document"}},
		{"a.yaml", `{openapi: FILE}`, "openapi: 3.1.0\npaths: {}\n", []string{"info"}},
		{"a.yaml", `{openapi: FILE}`, api(`{type: objekt}`), []string{"a.yaml:", "objekt"}},
		{"a.yaml", `{openapi: FILE}`, api(`{type: string, pattern: "(?=x)"}`), []string{"a.yaml:9:", "lookahead"}},
		{"a.yaml", `{openapi: FILE}`, api(`{$ref: "#/components/schemas/None"}`), []string{"a.yaml"}},
		{"a.yaml", `{openapi: FILE}`, api(`{$ref: "parts.yaml#/Order"}`), nil},
		{"a.json", `{body: FILE}`, `{"$ref": "parts.yaml#/Order"}`, nil},
	} {
		b := newTestbed(t)
		config := c.config
		if c.name != "" {
			config = strings.Replace(config, "FILE", `"`+file(t, dir, "api/"+c.name, c.text)+`"`, 1)
		}
		made, problems := b.compile("schema", config)
		text := ""
		for _, p := range problems {
			text += p.String() + " | " + p.Hint + "\n"
		}
		if len(c.want) == 0 {
			if problems.HasErrors() {
				t.Errorf("%s %s: %s", config, c.text, text)
				continue
			}
			x := b.with(`{}`, "POST /a", "Content-Type: application/json")
			wants(t, made.(Check).Check(x), "schema.violated", "/item")
			continue
		}
		if !problems.HasErrors() {
			t.Errorf("%s %s: no errors", config, c.text)
		}
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s %s: does not say %q:\n%s", config, c.text, want, text)
			}
		}
		if strings.Contains(text, dir) {
			t.Errorf("%s %s: names the folder of the machine:\n%s", config, c.text, text)
		}
	}
}

func BenchmarkSchema(b *testing.B) {
	t := newTestbed(&testing.T{})
	dir := b.TempDir()
	c := t.check("schema", `{body: "`+file(b, dir, "order.json", `{"type":"object","required":["id","customer","lines"],"additionalProperties":false,"properties":{
		"id":{"type":"string","minLength":3},"customer":{"type":"object","required":["name","email"],"properties":{"name":{"type":"string"},"email":{"type":"string","format":"email"}}},
		"lines":{"type":"array","minItems":1,"items":{"type":"object","required":["sku","quantity","price"],"properties":{"sku":{"type":"string","pattern":"^[A-Z]{2}-[0-9]+$"},"quantity":{"type":"integer","minimum":1},"price":{"type":"number"}}}},
		"note":{"type":["string","null"]},"express":{"type":"boolean"}}}`)+`"}`)
	body := `{"id":"order-2026-11-22-0017","customer":{"name":"Ada Lovelace","email":"ada@example.com"},"lines":[{"sku":"TE-1001","quantity":2,"price":4.5},{"sku":"PO-2002","quantity":1,"price":19.95},{"sku":"CU-3003","quantity":6,"price":3.25}],"note":"please ring twice, the dog does not hear well","express":true}`
	x := t.with(body, "POST /orders", "Content-Type: application/json")
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if v := c.Check(x); v.Refused() {
			b.Fatal(told(v))
		}
	}
}
