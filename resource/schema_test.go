package resource

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/whygate/whygate/resource/doc"
)

// limit is a policy as package policy would bring it.
type limit struct {
	// Requests of each caller.
	Requests int `json:"requests" required:"true" min:"1"`
	// Period in which.
	Period Duration `json:"period" default:"1m" min:"1s" unlimited:"true"`
	// Except these methods.
	Except []string `json:"except" enum:"GET,POST"`
	// Weights by name.
	Weights map[string]float64 `json:"weights" min:"0" max:"1"`
	// Or is another limit, a type that contains itself.
	Or *limit `json:"or"`
	// Body of the refusal.
	Body any `json:"body"`
}

var somePolicies = []PolicyType{
	{"limit", reflect.TypeFor[limit](), "limit bounds calls."},
	{"cors", reflect.TypeFor[optional](), "cors answers preflights."},
}

func schemaOf(t testing.TB) map[string]any {
	comments, err := doc.Comments(".")
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(Schema(somePolicies, comments))
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestSchemaGolden leaves comments out, which change often and harmlessly.
func TestSchemaGolden(t *testing.T) {
	b, err := json.MarshalIndent(Schema(somePolicies, nil), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/schema.golden.json", string(b)+"\n")
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: run with -update and look at the change:\n%s", file, diff)
	}
}

// TestSchemaAgrees holds schema and decoder against each other: documents that
// Parse accepts are valid, and these faults are found by both.
func TestSchemaAgrees(t *testing.T) {
	schema := schemaOf(t)
	head := "apiVersion: whygate/v1\nkind: %s\nmetadata: {name: x}\nspec: %s\n"
	d := func(kind, spec string) string { return fmt.Sprintf(head, kind, spec) }
	target := "targets: [{url: http://a}]"
	hash := strings.Repeat("0a", 32)
	for _, c := range []struct {
		text string
		good bool
	}{
		{d("Plan", "{}"), true},
		{"apiVersion: whygate/v1\nkind: Plan\nmetadata: {name: x, labels: {a: b}}\nstatus: {a: [1]}\n", true},
		{"apiVersion: whygate/v1\nkind: Upstream\nmetadata: {name: x}\n", false},
		{"apiVersion: whygate/v1\nkind: Gateway\nmetadata: {name: x}\n", true},
		{"apiVersion: whygate/v2\nkind: Plan\nmetadata: {name: x}\n", false},
		{"kind: Plan\nmetadata: {name: x}\n", false},
		{"apiVersion: whygate/v1\nmetadata: {name: x}\n", false},
		{"apiVersion: whygate/v1\nkind: Plan\n", false},
		{"apiVersion: whygate/v1\nkind: Plan\nmetadata: {}\n", false},
		{"apiVersion: whygate/v1\nkind: Plan\nmetadata: {name: ''}\n", false},
		{"apiVersion: whygate/v1\nkind: Plan\nmetadata: {name: a b}\n", false},
		{"apiVersion: whygate/v1\nkind: Wombat\nmetadata: {name: x}\n", false},
		{"[]", false},
		{d("Plan", "{titel: x}"), false},
		{d("Plan", "{title: 5}"), false},
		{d("Plan", "{rateLimit: {requests: 5}}"), true},
		{d("Plan", "{rateLimit: {}}"), false},
		{d("Plan", "{rateLimit: {requests: 0}}"), false},
		{d("Plan", "{rateLimit: {requests: 1000000001}}"), false},
		{d("Plan", "{rateLimit: {requests: 1, period: 1h30m}}"), true},
		{d("Plan", "{rateLimit: {requests: 1, period: soon}}"), false},
		{d("Plan", "{rateLimit: {requests: 1, period: 5}}"), false},
		{d("Plan", "{rateLimit: {requests: 1, period: unlimited}}"), false},
		{d("Plan", "{approval: automatic}"), true},
		{d("Plan", "{approval: auto}"), false},
		{d("Plan", "{quota: {requests: 5, period: week}}"), true},
		{d("Gateway", "{timeouts: {age: 0}, trustedProxies: [10.0.0.0/8, '::1'], limits: {headerBytes: 4096, uriBytes: 1.5KiB, bodyBytes: unlimited}}"), true},
		{d("Gateway", "{trustedProxies: [x]}"), false},
		{d("Gateway", "{trustedProxies: [0]}"), false},
		{d("Gateway", "{trustedProxies: 10.0.0.0/8}"), false},
		{d("Gateway", "{limits: {headerBytes: 4k}}"), false},
		{d("Gateway", "{limits: {headerBytes: unlimited}}"), false},
		{d("Gateway", "{limits: {headerCount: 5}}"), false},
		{d("Gateway", "{legacyStatus: yes}"), false},
		{d("Gateway", "{listeners: [{address: ':80', tls: {certificates: [{cert: a, key: b}]}}]}"), true},
		{d("Gateway", "{listeners: [{address: ':80', tls: {certificates: []}}]}"), false},
		{d("Gateway", "{listeners: [{address: ''}]}"), false},
		{d("Gateway", "{listeners: [{}]}"), false},
		{d("Upstream", "{"+target+", health: {path: /up}, retries: {statuses: [502]}}"), true},
		{d("Upstream", "{"+target+", health: {path: up}}"), false},
		{d("Upstream", "{"+target+", retries: {statuses: [x]}}"), false},
		{d("Upstream", "{"+target+", balance: {by: hash, hashOn: 'header:X-A'}}"), true},
		{d("Upstream", "{"+target+", balance: {hashOn: headers}}"), false},
		{d("Upstream", "{targets: []}"), false},
		{d("Credential", "{application: a, key: {prefix: b, sha256: "+hash+"}, from: 2026-11-22, until: '2026-11-22T09:40:00Z'}"), true},
		{d("Credential", "{application: a, key: {prefix: b, sha256: "+hash+"}, from: tomorrow}"), false},
		{d("Credential", "{application: a, key: {prefix: b, sha256: abc}}"), false},
		{d("Credential", "{application: a}"), true}, // which of its ways it takes is seen when it is compiled
		{d("Subscription", "{application: a, api: b, plan: c, stages: [prod], state: active}"), true},
		{d("Subscription", "{application: a, api: b, stages: [prod]}"), false},
		{d("Application", "{owner: {team: a, contact: b}, state: suspended}"), true},
		{d("API", "{routes: [{path: /a, legacyStatus: false, timeout: unlimited}]}"), true},
		{d("API", "{routes: [{methods: [GET]}]}"), false},
		{d("API", "{policies: [cors, {cors: }, {cors: {}}, {cors: {wait: 5s}, name: a, shadow: true, off: true}, {name: a, off: true}]}"), true},
		{d("API", "{policies: [{limit: {requests: 5, period: unlimited, except: [GET], weights: {a: 0.5}, or: {requests: 1}, body: {a: [b]}}}]}"), true},
		{d("API", "{policies: [{name: a}]}"), false},
		{d("API", "{policies: [{off: true}]}"), false},
		{d("API", "{policies: [{cors: {}, limit: {requests: 5}}]}"), false},
		{d("API", "{policies: [5]}"), false},
		{d("API", "{policies: [{cors: {}, shadow: 1}]}"), false},
	} {
		set, ps := Parse(File{"a.yaml", []byte(c.text)})
		for _, api := range set.APIs {
			for _, e := range api.Spec.Policies { // as package policy does
				for _, p := range somePolicies {
					if p.Kind == e.Kind {
						Decode(e.Config, reflect.New(p.Config).Interface(), &ps)
					}
				}
			}
		}
		n, _ := ParseNode(File{"a.yaml", []byte(c.text)})
		b, err := json.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		var value any
		if err := json.Unmarshal(b, &value); err != nil {
			t.Fatal(err)
		}
		faults := validate(schema, schema, value, "")
		if ps.HasErrors() == c.good {
			t.Errorf("decoder, want good=%v:\n%s%v", c.good, c.text, ps)
		}
		if (len(faults) > 0) == c.good {
			t.Errorf("schema, want good=%v:\n%s%s", c.good, c.text, strings.Join(faults, "\n"))
		}
	}
}

// TestTranscriptsAndSchema: what the transcripts show without a problem is valid, too.
func TestTranscriptsAndSchema(t *testing.T) {
	schema := schemaOf(t)
	defs := schema["$defs"].(map[string]any)
	defs["PolicyEntry"] = true // the transcripts name policies that the schema does not know
	paths, _ := filepath.Glob("testdata/problems/*.txtar")
	checked := 0
	for _, path := range paths {
		_, files, _ := readTranscript(t, path)
		for _, f := range files {
			set, ps := Parse(f)
			for _, n := range set.Documents() {
				b, _ := json.Marshal(n)
				if len(ps) > 0 || bytes.Contains(b, []byte("null")) {
					continue
				}
				var value any
				json.Unmarshal(b, &value)
				if faults := validate(schema, schema, value, ""); len(faults) > 0 {
					t.Errorf("%s: %s: %s", path, n.Document(), strings.Join(faults, "\n"))
				}
				checked++
			}
		}
	}
	if checked < 3 {
		t.Errorf("only %d documents were checked", checked)
	}
}

// validate is the part of a JSON Schema validator that JSONSchema can ask for.
// An unknown keyword is a fault of the test.
func validate(root map[string]any, schema, value any, path string) (faults []string) {
	if schema == true {
		return nil
	}
	if schema == false {
		return []string{path + ": not allowed"}
	}
	wrong := func(format string, args ...any) {
		faults = append(faults, path+": "+fmt.Sprintf(format, args...))
	}
	passing := func(list any) (n int) {
		for _, s := range list.([]any) {
			if len(validate(root, s, value, path)) == 0 {
				n++
			}
		}
		return n
	}
	m := schema.(map[string]any)
	object, isObject := value.(map[string]any)
	array, isArray := value.([]any)
	text, isText := value.(string)
	number, isNumber := value.(float64)
	for keyword, arg := range m {
		switch keyword {
		case "$schema", "$defs", "title", "description", "default", "examples":
		case "$ref":
			def := root["$defs"].(map[string]any)[strings.TrimPrefix(arg.(string), "#/$defs/")]
			if def == nil {
				panic("no definition " + arg.(string))
			}
			faults = append(faults, validate(root, def, value, path)...)
		case "type":
			kinds, ok := arg.([]any)
			if !ok {
				kinds = []any{arg}
			}
			is := map[any]bool{"object": isObject, "array": isArray, "string": isText, "number": isNumber, "null": value == nil,
				"integer": isNumber && number == math.Trunc(number), "boolean": value == true || value == false}
			if !slices.ContainsFunc(kinds, func(k any) bool { return is[k] }) {
				wrong("is no %v", arg)
			}
		case "const":
			if !reflect.DeepEqual(arg, value) {
				wrong("is not %v", arg)
			}
		case "enum":
			if !slices.Contains(arg.([]any), value) {
				wrong("is none of %v", arg)
			}
		case "pattern":
			if isText && !regexp.MustCompile(arg.(string)).MatchString(text) {
				wrong("does not match %s", arg)
			}
		case "minLength":
			if isText && float64(utf8.RuneCountInString(text)) < arg.(float64) {
				wrong("is too short")
			}
		case "minimum":
			if isNumber && number < arg.(float64) {
				wrong("is below %v", arg)
			}
		case "maximum":
			if isNumber && number > arg.(float64) {
				wrong("is above %v", arg)
			}
		case "items":
			for i, item := range array {
				faults = append(faults, validate(root, arg, item, fmt.Sprintf("%s[%d]", path, i))...)
			}
		case "minItems":
			if isArray && float64(len(array)) < arg.(float64) {
				wrong("has too few items")
			}
		case "properties":
			for name, s := range arg.(map[string]any) {
				if v, ok := object[name]; ok {
					faults = append(faults, validate(root, s, v, path+"."+name)...)
				}
			}
		case "additionalProperties":
			known, _ := m["properties"].(map[string]any)
			for name, v := range object {
				if _, ok := known[name]; !ok {
					faults = append(faults, validate(root, arg, v, path+"."+name)...)
				}
			}
		case "required":
			for _, name := range arg.([]any) {
				if _, ok := object[name.(string)]; isObject && !ok {
					wrong("misses %s", name)
				}
			}
		case "anyOf":
			if passing(arg) == 0 {
				wrong("fits none")
			}
		case "oneOf":
			if n := passing(arg); n != 1 {
				wrong("fits %d of them", n)
			}
		case "not":
			if len(validate(root, arg, value, path)) == 0 {
				wrong("is what it must not be")
			}
		default:
			panic("unknown keyword " + keyword)
		}
	}
	return faults
}

func TestDescribe(t *testing.T) {
	got := Describe(reflect.TypeFor[limit]())
	want := []FieldInfo{
		{Name: "requests", Key: "limit.Requests", Type: "whole number", Required: true, Rules: []string{"at least 1"}},
		{Name: "period", Key: "limit.Period", Type: "duration", Default: "1m", Rules: []string{"at least 1s", `or "unlimited"`}},
		{Name: "except", Key: "limit.Except", Type: "list of text", Rules: []string{"one of GET, POST"}},
		{Name: "weights", Key: "limit.Weights", Type: "names with number", Rules: []string{"at least 0 and at most 1"}},
		{Name: "or", Key: "limit.Or", Type: "fields", Struct: "limit"},
		{Name: "body", Key: "limit.Body", Type: "value"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
