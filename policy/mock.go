package policy

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// Mock answers instead of the upstream: before there is one, or where a test wants a certain answer. An API
// all of whose routes are mocked needs no upstream.
//
// All policies before it decide as they would, so what is refused with the service is refused without it.
// The first answer is given unless the call chooses another, where that is allowed: by
// "Prefer: example=NAME" or "Prefer: code=404" (RFC 7240). What was preferred and given is said in
// Preference-Applied.
//
// With openapi the answers are those that a document describes for the method and path of the call: its examples, each by
// its name, or else what its schema says an answer looks like. A call that it does not describe is refused.
//
//	policies:
//	- mock:
//	    answers:
//	    - body: {id: 1, item: lamp}
//	    - name: unknown
//	      status: 404
//	      body: {error: no such order}
//	- mock: {openapi: openapi.yaml}
type Mock struct {
	// Answers to choose from; the first is the usual one.
	Answers []MockAnswer `json:"answers"`
	// OpenAPI is a file with an OpenAPI document that describes the answers instead, relative to this one.
	OpenAPI string `json:"openapi" example:"openapi.yaml"`
	// Prefer lets calls choose an answer.
	Prefer bool `json:"prefer" default:"true"`
	// Delay comes before each answer, as a slow service has it; at most a minute.
	Delay resource.Duration `json:"delay" default:"0s" example:"300ms"`
}

// MockAnswer is one answer.
type MockAnswer struct {
	// Name that calls may ask for.
	Name string `json:"name" pattern:"^[A-Za-z0-9._-]+$" example:"unknown"`
	// Status of the answer.
	Status int `json:"status" default:"200" min:"200" max:"599"`
	// Headers of the answer.
	Headers map[string]string `json:"headers" example:"{X-Total: \"3\"}"`
	// Body of the answer: a text is sent as it is, anything else as JSON.
	Body any `json:"body" example:"{id: 1, item: lamp}"`
	// File holds the body instead. Its name is relative to the document, and says what the content is.
	File string `json:"file" example:"examples/order.json"`
}

// maxMockFile bounds the file of an answer: it is kept in memory.
const maxMockFile = 16 << 20

// maxMockDelay bounds Delay: longer ones are what the timeouts of clients are for.
const maxMockDelay = time.Minute

var mockNoSuch = reason.New(reason.Reason{
	Code: "mock.no-such-answer", Status: 404,
	Title:  "There is no such mock answer",
	Says:   "Prefer asks for {wanted}, and the answers here are {answers}",
	Wanted: "one of {answers}",
	Seen:   "Prefer: {wanted}",
	Fixes: []reason.Fix{
		{By: reason.Caller, Text: "ask for one of {answers}, or send no Prefer"},
		{By: reason.Owner, Text: "ask {owner|the owner of this API} to add this answer to the policy mock"},
	},
	Hint: "policy mock, field answers, or the responses of the OpenAPI document",
})

type mockAnswer struct {
	Answer
	name string
}

type mockCheck struct {
	listed mockOperation
	api    *mockAPI // nil: the listed answers
	prefer bool
	at     *reason.Source
}

// Compile reads the files.
func (p *Mock) Compile(env *Env) any {
	c := &mockCheck{prefer: p.Prefer, at: env.Source("answers")}
	if d := time.Duration(p.Delay); d > maxMockDelay {
		env.Problem("delay", "at most "+resource.Duration(maxMockDelay).String(), "a delay of %s keeps the call and its client for too long", p.Delay)
	}
	switch {
	case p.OpenAPI == "" && len(p.Answers) == 0:
		env.Problem("answers", "list one, or write openapi: FILE", "mock has no answers")
		return c
	case p.OpenAPI != "" && len(p.Answers) > 0:
		env.Problem("openapi", "keep answers or openapi", "mock answers from a list or from an OpenAPI document, not from both")
		return c
	case p.OpenAPI != "":
		c.at, c.api = env.Source("openapi"), p.compileMockAPI(env)
	}
	for i := range p.Answers {
		a, at := &p.Answers[i], index("answers", i)
		m := mockAnswer{Answer: Answer{Status: a.Status, By: "mock", Delay: time.Duration(p.Delay)}, name: a.Name}
		if a.Name != "" && slices.ContainsFunc(c.listed.answers, func(o mockAnswer) bool { return o.name == a.Name }) {
			env.Problem(at+".name", "", "two answers are named %q", a.Name)
		}
		for _, n := range sortedNames(a.Headers) {
			(&HeaderEdit{Set: map[string]string{n: a.Headers[n]}}).compileAs(env, at+".headers")
			m.Fields.Add(n, a.Headers[n])
		}
		kind := ""
		switch {
		case a.File != "" && a.Body != nil:
			env.Problem(at+".file", "keep one of them", "an answer has a body or a file, not both")
		case a.File != "":
			m.Body, kind = readMock(env, at+".file", a.File)
		case a.Body != nil:
			if text, ok := a.Body.(string); ok {
				m.Body, kind = []byte(text), "text/plain; charset=utf-8"
			} else {
				b, err := marshal(a.Body)
				if err != nil {
					env.Problem(at+".body", "", "the body cannot be written as JSON: %v", err)
				}
				m.Body, kind = b, "application/json"
			}
		}
		if (a.Status == 204 || a.Status == 205 || a.Status == 304) && len(m.Body) > 0 {
			env.Problem(at+".body", "take the body out, or use status 200", "an answer with status %d has no content", a.Status)
		}
		if _, ok := m.Fields.Find(wire.ContentType); !ok && kind != "" {
			m.Fields.Put(wire.ContentType, kind)
		}
		c.listed.add(m)
	}
	return c
}

// compileAs checks the fields that Set names, at a field of the document that lists them.
func (e *HeaderEdit) compileAs(env *Env, field string) {
	for _, n := range sortedNames(e.Set) {
		switch v := e.Set[n]; {
		case !env.headerName(field+"."+n, n):
		case framed(wire.FieldIDOf(n)):
			env.Problem(field+"."+n, "the gateway writes it", "%s belongs to the connection and cannot be set", n)
		case !plainValue(v):
			env.Problem(field+"."+n, "write it on one line", "a header value cannot hold line breaks and other control bytes")
		}
	}
}

// plainValue says that a text may stand in a field (RFC 9110 §5.5).
func plainValue(v string) bool {
	for i := 0; i < len(v); i++ {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// marshal writes JSON as people wrote it in the document: < stays <.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// fileKinds are the types that names of files end with. Go's own table depends on the machine.
var fileKinds = map[string]string{".json": "application/json", ".txt": "text/plain; charset=utf-8", ".html": "text/html; charset=utf-8", ".xml": "application/xml", ".csv": "text/csv; charset=utf-8",
	".yaml": "application/yaml", ".yml": "application/yaml", ".pdf": "application/pdf", ".png": "image/png", ".jpg": "image/jpeg", ".svg": "image/svg+xml"}

func readMock(env *Env, field, name string) ([]byte, string) {
	b := env.fileFrom(field, name, maxMockFile)
	if b == nil {
		return nil, ""
	}
	kind := fileKinds[strings.ToLower(filepath.Ext(name))]
	if kind == "application/json" && !json.Valid(b) {
		env.Problem(field, "", "%s is not valid JSON", name)
	}
	return b, kind
}

// Impersonal is true: everybody may choose among the answers.
func (c *mockCheck) Impersonal() bool { return true }

// Check answers.
func (c *mockCheck) Check(x *Exchange) reason.Verdict {
	if x.Preflight {
		if x.Route.NoUpstream {
			return preflightRefused.Refuse(reason.Public("origin", strings.Clone(x.Fields.Get(wire.Origin))),
				reason.Public("method", strings.Clone(x.Fields.Get(wire.AccessControlRequestMethod))), x.OwnerFact())
		}
		return reason.Verdict{}
	}
	o := &c.listed
	if c.api != nil {
		var v reason.Verdict
		if o, v = c.api.find(x, c.at); v.Refused() {
			return v
		}
	}
	a := &o.answers[0]
	if c.prefer {
		if asked := preference(x.Fields); asked != "" {
			i := slices.IndexFunc(o.answers, func(m mockAnswer) bool { return m.is(asked) })
			if i < 0 {
				return mockNoSuch.Refuse(reason.Public("wanted", strings.Clone(asked)), reason.Public("answers", o.names).At(c.at), x.OwnerFact())
			}
			a = &o.answers[i]
			x.Extra.Add("Preference-Applied", x.Text(asked))
		}
	}
	x.Answer = &a.Answer
	if x.Explaining {
		return reason.Pass(reason.Public("answer", strconv.Itoa(a.Status)+" instead of the upstream").At(c.at))
	}
	return reason.Verdict{}
}

func (m *mockAnswer) is(asked string) bool {
	name, value, _ := strings.Cut(asked, "=")
	if name == "code" {
		return value == strconv.Itoa(m.Status)
	}
	return value == m.name
}

// preference is "code=404" or "example=NAME" as Prefer asks for it, "" for neither. What else Prefer
// holds is for others (RFC 7240 §2).
func preference(fs wire.Fields) string {
	for i := range fs {
		f := &fs[i]
		if f.ID != wire.OtherField || !wire.EqualFold(f.Name, "Prefer") {
			continue
		}
		for rest := f.Value; rest != ""; {
			var part string
			part, rest, _ = strings.Cut(rest, ",")
			part, _, _ = strings.Cut(part, ";")
			name, value, ok := strings.Cut(strings.Trim(part, " \t"), "=")
			value = strings.Trim(value, `"`)
			if !ok || value == "" || len(value) > 64 || !wire.IsToken(value) {
				continue
			}
			switch {
			case wire.EqualFold(name, "code"):
				return "code=" + value
			case wire.EqualFold(name, "example"):
				return "example=" + value
			}
		}
	}
	return ""
}
