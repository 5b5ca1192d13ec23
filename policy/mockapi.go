package policy

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// mockAPI are the answers that an OpenAPI document describes.
type mockAPI struct {
	doc     apiDocument
	answers map[*apiItem]map[string]*mockOperation // by method
}

// mockOperation is what one method of one path answers; the first is the usual one.
type mockOperation struct {
	answers []mockAnswer
	names   []string
}

// add puts an answer in.
func (o *mockOperation) add(m mockAnswer) {
	label := "code=" + strconv.Itoa(m.Status)
	if m.name != "" {
		label = "example=" + m.name
	}
	if !slices.Contains(o.names, label) {
		o.names = append(o.names, label)
	}
	o.answers = append(o.answers, m)
}

// compileMockAPI reads the document and makes all answers that it describes.
func (p *Mock) compileMockAPI(env *Env) *mockAPI {
	files := (&Schema{OpenAPI: p.OpenAPI}).files(env, "openapi")
	if files == nil {
		return nil
	}
	for _, u := range files.order {
		if path := files.files[u].path; env.Watch != nil && path != "" {
			env.Watch(path)
		}
	}
	root, _ := files.doc(files.main).(map[string]any)
	if len(files.faults) == 0 && files.isOpenAPI(root) {
		files.checkOpenAPI()
	}
	if len(files.faults) > 0 {
		files.report(env, "openapi")
		return nil
	}
	a := &mockAPI{doc: apiDocument{paths: &apiPaths{}, bases: serverBases(root)}, answers: map[*apiItem]map[string]*mockOperation{}}
	paths, _ := root["paths"].(map[string]any)
	for _, template := range namesInOrder(paths) {
		if !strings.HasPrefix(template, "/") {
			continue
		}
		u, ptr, v := files.resolve(files.main, "/paths/"+pointerToken(template), paths[template])
		m, _ := v.(map[string]any)
		item := a.doc.paths.add(template)
		a.doc.templates = append(a.doc.templates, template)
		if a.answers[item] == nil {
			a.answers[item] = map[string]*mockOperation{}
		}
		for _, method := range apiMethods {
			if op, ok := m[method].(map[string]any); ok {
				up := strings.ToUpper(method)
				a.answers[item][up] = p.operation(files, u, ptr+"/"+method, op)
				item.methods = append(item.methods, up)
			}
		}
		if get := a.answers[item]["GET"]; get != nil && a.answers[item]["HEAD"] == nil {
			a.answers[item]["HEAD"] = get
			item.methods = append(item.methods, "HEAD")
		}
	}
	return a
}

// operation makes the answers of one operation: those of success first, each range of statuses by its lowest.
func (p *Mock) operation(files *schemaFiles, u, ptr string, op map[string]any) *mockOperation {
	o := &mockOperation{}
	responses, _ := op["responses"].(map[string]any)
	statusOf := func(key string) int {
		n, err := strconv.Atoi(strings.ReplaceAll(strings.ToUpper(key), "X", "0"))
		switch {
		case err == nil && n >= 200 && n <= 599:
			return n
		case key == "default" && len(responses) > 1: // it describes what goes wrong, as a rule
			return 500
		case key == "default":
			return 200
		}
		return 0
	}
	keys := slices.DeleteFunc(namesInOrder(responses), func(k string) bool { return statusOf(k) == 0 })
	slices.SortStableFunc(keys, func(a, b string) int { return cmp.Compare(statusOf(a), statusOf(b)) })
	for _, k := range keys {
		ru, rp, v := files.resolve(u, ptr+"/responses/"+pointerToken(k), responses[k])
		m, _ := v.(map[string]any)
		p.response(o, files, ru, rp, m, statusOf(k))
	}
	if len(o.answers) == 0 {
		o.add(p.answer(200, "", "", nil))
	}
	return o
}

// answer is one with a body. What is no text has a form in JSON only.
func (p *Mock) answer(status int, name, media string, body any) mockAnswer {
	m := mockAnswer{Answer: Answer{Status: status, By: "mock", Delay: p.Delay.D()}, name: name}
	if media == "" || status == 204 || status == 205 || status == 304 {
		return m
	}
	m.Fields.Put(wire.ContentType, media)
	text, isText := body.(string)
	switch isJSON := mediaKindOf(mediaType(strings.ToLower(media))) == jsonMedia; {
	case isJSON:
		m.Body, _ = marshal(body) // it was JSON or YAML before
	case isText:
		m.Body = []byte(text)
	}
	return m
}

// response adds the answers with one status: those of its examples by name, or one of its example or schema.
func (p *Mock) response(o *mockOperation, files *schemaFiles, u, ptr string, m map[string]any, status int) {
	content, _ := m["content"].(map[string]any)
	medias := namesInOrder(content)
	slices.SortStableFunc(medias, func(a, b string) int { return mockRank(a) - mockRank(b) })
	if len(medias) == 0 {
		o.add(p.answer(status, "", "", nil))
		return
	}
	media := medias[0]
	mu, mp, v := files.resolve(u, ptr+"/content/"+pointerToken(media), content[media])
	spec, _ := v.(map[string]any)
	if strings.Contains(media, "*") {
		media = "application/json"
	}
	examples, _ := spec["examples"].(map[string]any)
	for _, name := range namesInOrder(examples) {
		_, _, e := files.resolve(mu, mp+"/examples/"+pointerToken(name), examples[name])
		if ex, ok := e.(map[string]any); ok && ex["externalValue"] == nil {
			o.add(p.answer(status, name, media, ex["value"]))
		}
	}
	body, has := spec["example"]
	switch {
	case has:
	case len(examples) > 0:
		return
	default:
		left := maxSample
		body = files.sample(mu, mp+"/schema", spec["schema"], 0, &left)
	}
	o.add(p.answer(status, "", media, body))
}

// mockRank orders media types: JSON first, what is like it next.
func mockRank(media string) int {
	switch {
	case mediaType(strings.ToLower(media)) == "application/json":
		return 0
	case mediaKindOf(mediaType(strings.ToLower(media))) == jsonMedia:
		return 1
	case strings.Contains(media, "*"):
		return 3
	}
	return 2
}

// Bounds of a value that is made of a schema.
const (
	maxSample      = 2000 // values
	maxSampleDepth = 8
	maxSampleText  = 1000
)

// sample makes a value that fits a schema, as far as its types, bounds, formats and listed values say: patterns are not
// looked at. left is how many values may still be made.
func (s *schemaFiles) sample(u, ptr string, schema any, depth int, left *int) any {
	u, ptr, schema = s.resolve(u, ptr, schema)
	m, ok := schema.(map[string]any)
	if *left--; !ok || *left < 0 || depth > maxSampleDepth {
		return nil
	}
	for _, k := range [...]string{"example", "default", "const"} {
		if v, ok := m[k]; ok {
			return v
		}
	}
	for _, k := range [...]string{"examples", "enum"} {
		if list, ok := m[k].([]any); ok && len(list) > 0 {
			return list[0]
		}
	}
	for _, k := range [...]string{"oneOf", "anyOf"} {
		if list, ok := m[k].([]any); ok && len(list) > 0 {
			return s.sample(u, ptr+"/"+k+"/0", list[0], depth+1, left)
		}
	}
	kind, _ := m["type"].(string)
	if list, ok := m["type"].([]any); ok {
		for _, t := range list {
			if text, ok := t.(string); ok && (kind == "" || kind == "null") {
				kind = text
			}
		}
	}
	all, _ := m["allOf"].([]any)
	props, _ := m["properties"].(map[string]any)
	switch {
	case kind == "object" || kind == "" && (len(props) > 0 || len(all) > 0):
		object := map[string]any{}
		for i, part := range all {
			v := s.sample(u, ptr+"/allOf/"+strconv.Itoa(i), part, depth+1, left)
			if o, ok := v.(map[string]any); ok {
				for k, e := range o {
					object[k] = e
				}
			} else if v != nil && len(props) == 0 && len(all) == 1 {
				return v
			}
		}
		for _, k := range namesInOrder(props) {
			at := ptr + "/properties/" + pointerToken(k)
			_, _, prop := s.resolve(u, at, props[k])
			o, _ := prop.(map[string]any)
			if hidden, _ := o["writeOnly"].(bool); hidden || *left <= 0 {
				continue
			}
			if v := s.sample(u, at, props[k], depth+1, left); v != nil || o["default"] != nil {
				object[k] = v
			}
		}
		return object
	case kind == "array":
		list := []any{}
		for range min(max(int(sampleNumber(m["minItems"], 1)), 1), 10) {
			if v := s.sample(u, ptr+"/items", m["items"], depth+1, left); v != nil {
				list = append(list, v)
			}
		}
		return list
	case kind == "integer", kind == "number":
		least := sampleNumber(m["minimum"], sampleNumber(m["exclusiveMinimum"], 0))
		most := sampleNumber(m["maximum"], sampleNumber(m["exclusiveMaximum"], least+1))
		if v := least + 1; v < most || m["maximum"] == nil && m["exclusiveMaximum"] == nil {
			return json.Number(strconv.FormatFloat(v, 'f', -1, 64))
		}
		return json.Number(strconv.FormatFloat(least, 'f', -1, 64))
	case kind == "boolean":
		return true
	case kind == "string":
		format, _ := m["format"].(string)
		text := formatExamples[format]
		if text == "" {
			text = "text"
		}
		for least := min(int(sampleNumber(m["minLength"], 0)), maxSampleText); len(text) < least; {
			text += "."
		}
		if most := int(sampleNumber(m["maxLength"], maxSampleText)); most >= 0 && len(text) > most {
			text = text[:most]
		}
		return text
	}
	return nil
}

// sampleNumber is a number of a schema, within reason.
func sampleNumber(v any, otherwise float64) float64 {
	var f float64
	switch n := v.(type) {
	case int64:
		f = float64(n)
	case float64:
		f = n
	case json.Number:
		f, _ = n.Float64()
	default:
		return otherwise
	}
	return max(min(f, 1<<53), -(1 << 53))
}

// find is what the document describes for a call, or a refusal.
func (a *mockAPI) find(x *Exchange, at *reason.Source) (*mockOperation, reason.Verdict) {
	var path captured
	below := belowMount(x)
	item := a.doc.find(below, &path)
	if item == nil {
		facts := []reason.Fact{reason.Public("path", cutText(strings.Clone(below), 200)), reason.Rule("setting", "openapi").At(at), x.OwnerFact()}
		if n := resource.Nearest(below, a.doc.templates); n != "" {
			facts = append(facts, reason.Public("nearest", n))
		}
		return nil, schemaUnknownOperation.Refuse(facts...)
	}
	o := a.answers[item][x.Method]
	if o == nil {
		x.Extra.Add("Allow", strings.Join(item.methods, ", "))
		return nil, schemaUnknownMethod.Refuse(reason.Public("method", strings.Clone(x.Method)), reason.Public("path", item.template), reason.Public("allowed", item.methods).At(at), x.OwnerFact())
	}
	return o, reason.Verdict{}
}
