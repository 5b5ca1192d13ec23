package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/whygate/whygate/reason"
)

const mockedAPI = `openapi: %s
info: {title: shop, version: "1"}
servers: [{url: "https://shop.test/v2"}]
paths:
  /orders/{id}:
    parameters: [{name: id, in: path, required: true, schema: {type: integer}}]
    get:
      responses:
        default: {description: wrong, content: {text/plain: {example: went wrong}}}
        4XX: {description: not here, content: {application/problem+json: {schema: {$ref: "#/components/schemas/Problem"}}}}
        "200": {description: one, content: {application/xml: {example: "<a/>"}, application/json: {examples: {small: {value: {id: 1}}, large: {$ref: "#/components/examples/large"}}}}}
    delete: {responses: {"204": {description: gone}}}
    post:
      requestBody: {content: {application/json: {schema: {$ref: "#/components/schemas/Order"}}}}
      responses: {"201": {description: made, content: {application/json: {schema: {$ref: "#/components/schemas/Order"}}}}}
  /empty: {get: {responses: {"200": {description: nothing}}}}
  /file: {get: {responses: {default: {description: a file, content: {text/csv: {schema: {type: string, minLength: 6}}}}}}}
  /loop: {get: {responses: {"200": {description: a loop, content: {application/json: {schema: {$ref: "#/components/schemas/Node"}}}}}}}
components:
  examples: {large: {value: {id: 1000000}}}
  schemas:
    Problem: {type: object, properties: {title: {type: string, default: none}, status: {type: integer, enum: [404]}}}
    Node: {type: object, properties: {a: {$ref: "#/components/schemas/Node"}, b: {$ref: "#/components/schemas/Node"}, c: {$ref: "#/components/schemas/Node"}, d: {$ref: "#/components/schemas/Node"}}}
    Base: {type: object, required: [id], properties: {id: {type: string, format: uuid}}}
    Order:
      allOf: [{$ref: "#/components/schemas/Base"}]
      type: object
      required: [id, lines, when, price, note, kind, paid]
      properties:
        lines: {type: array, minItems: 2, items: {type: object, required: [sku], properties: {sku: {type: string, minLength: 9, maxLength: 12}, count: {type: integer, minimum: 5, maximum: 6}}}}
        when: {type: string, format: date-time}
        price: {type: number, minimum: 10}
        note: {type: string, maxLength: 2}
        kind: {oneOf: [{type: string, enum: [new, old]}, {type: integer}]}
        paid: {type: boolean}
        secret: {type: string, writeOnly: true}
`

// TestMockAPI: answers of an OpenAPI document are its examples, or fit its schemas.
func TestMockAPI(t *testing.T) {
	for _, version := range []string{"3.0.3", "3.1.0"} {
		t.Run(version, func(t *testing.T) {
			b := newTestbed(t)
			dir := t.TempDir()
			api := file(t, dir, "openapi.yaml", fmt.Sprintf(mockedAPI, version))
			c := b.check("mock", fmt.Sprintf("{openapi: %q}", api))
			ask := func(lines ...string) (*Answer, reason.Verdict) {
				x := b.call(lines...)
				v := c.Check(x)
				return x.Answer, v
			}
			for _, test := range []struct {
				call, prefer string
				status       int
				kind, body   string
			}{
				{"GET /orders/7", "", 200, "application/json", `{"id":1000000}`},
				{"GET /v2/orders/7", "", 200, "application/json", `{"id":1000000}`},
				{"HEAD /orders/7", "", 200, "application/json", `{"id":1000000}`},
				{"GET /orders/7", "example=small", 200, "application/json", `{"id":1}`},
				{"GET /orders/7", "code=400", 400, "application/problem+json", `{"status":404,"title":"none"}`},
				{"GET /orders/7", "code=500", 500, "text/plain", "went wrong"},
				{"DELETE /orders/7", "", 204, "", ""},
				{"GET /empty", "", 200, "", ""},
				{"GET /file", "", 200, "text/csv", "text.."},
			} {
				a, v := ask(test.call, "Prefer: "+test.prefer)
				if v.Refused() {
					t.Errorf("%s: %s", test.call, told(v))
					continue
				}
				if kind, _ := a.Fields.Lookup("Content-Type"); a.Status != test.status || kind != test.kind || string(a.Body) != test.body {
					t.Errorf("%s, %s: %d %s %s", test.call, test.prefer, a.Status, kind, a.Body)
				}
			}
			_, v := ask("GET /orders/7", "Prefer: example=none")
			wants(t, v, "mock.no-such-answer", "example=large, example=small, code=400 or code=500")
			_, v = ask("GET /emty")
			wants(t, v, "schema.unknown-operation", "/empty is near")
			_, v = ask("PUT /orders/7")
			wants(t, v, "schema.unknown-method", "GET, POST, DELETE or HEAD")
			if a, _ := ask("GET /loop"); len(a.Body) > 64<<10 {
				t.Errorf("a schema that contains itself makes %d bytes", len(a.Body))
			}
			// What is made of a schema fits it.
			made, v := ask("POST /orders/7")
			if v.Refused() || made.Status != 201 || strings.Contains(string(made.Body), "secret") {
				t.Fatalf("%v %s", v, made.Body)
			}
			b.kinds = map[string]bool{}
			schema := b.check("schema", fmt.Sprintf("{openapi: %q}", api))
			wants(t, schema.Check(b.with(string(made.Body), "POST /orders/7", "Content-Type: application/json")), "")
		})
	}
	for config, want := range map[string]string{
		`{}`: "mock has no answers",
		`{openapi: none.yaml, answers: [{body: x}]}`: "mock answers from a list or from an OpenAPI document",
		`{openapi: none.yaml}`:                       `there is no file "none.yaml"`,
		`{openapi: mock.go}`:                         "mock.go",
	} {
		if _, problems := newTestbed(t).compile("mock", config); !strings.Contains(fmt.Sprint(problems), want) {
			t.Errorf("%s: %v", config, problems)
		}
	}
}
