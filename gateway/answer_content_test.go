package gateway_test

import (
	"bytes"
	"compress/gzip"
	"strings"
)

// contentRefusals provoke the reasons of checks that look into the content.
func contentRefusals() []refusal {
	json := []string{"Content-Type: application/json"}
	gzip := append(json, "Content-Encoding: gzip")
	post := func(code, policies, body string, header ...string) refusal {
		return refusal{code: code, policies: "  - " + policies, method: "POST", body: body, header: header}
	}
	limits := func(code, setting, body string) refusal {
		return post(code, "json-limits: {"+setting+"}", body, json...)
	}
	const api = "schema: {openapi: testdata/shop.yaml}"
	get := func(code, path string) refusal { return refusal{code: code, policies: "  - " + api, path: path} }
	return []refusal{
		post("content-type.not-allowed", "content-type: {allow: [application/json]}", "x", "Content-Type: text/html"),
		post("content-type.missing", "content-type: {allow: [application/json]}", "x"),
		post("content-type.encoding", "content-type: {allow: [application/json]}", "x", gzip...),
		post("content-type.encoding-broken", "content-type: {allow: [application/json], encodings: [gzip]}", "x", gzip...),
		post("content-type.expands", "content-type: {allow: [application/json], encodings: [gzip], decoded: 100B}", gzipped(1000), gzip...),
		limits("json.malformed", "", "x"),
		limits("json.too-deep", "depth: 1", "[[]]"),
		limits("json.too-many-keys", "keys: 1", `{"a":1,"b":2}`),
		limits("json.too-many-elements", "elements: 1", `[1,2]`),
		limits("json.text-too-long", "text: 1B", `"ab"`),
		limits("json.number-too-long", "number: 1", `12`),
		limits("json.duplicate-key", "", `{"a":1,"a":2}`),
		limits("json.invalid-utf8", "", `"\ud800"`),
		limits("content.too-large", "maxBody: 5B", `"0123456789"`),
		post("schema.violated", "schema: {body: {type: object}}", "[]", json...),
		post("schema.malformed", "schema: {body: {type: object}}", "[", json...),
		post("schema.media-type", "schema: {body: {type: object}}", "[]", "Content-Type: text/plain"),
		post("schema.too-large", "schema: {body: {type: object}}", strings.Repeat("[", 200), json...),
		get("schema.parameter", "/orders?limit=x"),
		get("schema.unknown-operation", "/elsewhere"),
		{code: "schema.unknown-method", policies: "  - " + api, method: "DELETE", path: "/orders"},
	}
}

// gzipped is so many bytes, compressed.
func gzipped(n int) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(make([]byte, n))
	z.Close()
	return b.String()
}
