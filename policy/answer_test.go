package policy

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/whygate/whygate/wire"
)

func TestMockAnswers(t *testing.T) {
	b := newTestbed(t)
	c := b.check("mock", `{delay: 20ms, answers: [{body: {a: "<b>"}}, {name: e, status: 404, body: text}, {status: 503, headers: {Retry-After: "5", Content-Type: text/html}, body: "<h1>"}]}`)
	for prefer, want := range map[string]string{"": `200 application/json {"a":"<b>"}`, "code=503": "503 text/html <h1>", "example=e": "404 text/plain; charset=utf-8 text", "respond-async, CODE=404;x=y": "404 text/plain; charset=utf-8 text"} {
		x := b.call("GET /", "Prefer: "+prefer)
		wants(t, c.Check(x), "")
		a := x.Answer
		if got := strings.Join([]string{strconv.Itoa(a.Status), a.Fields.Get(wire.ContentType), string(a.Body)}, " "); got != want || a.By != "mock" || a.Delay != 20e6 {
			t.Errorf("%q: %s", prefer, got)
		}
	}
	wants(t, c.Check(b.call("GET /", "Prefer: example=none")), "mock.no-such-answer", "example=none", "code=200, example=e or code=503")
	x := b.call("GET /")
	x.Explaining = true
	if v := c.Check(x); x.Answer == nil || len(v.Facts) == 0 || len(x.Extra) > 0 {
		t.Errorf("explaining does not say that the mock answers: %v", v)
	}
	dir := t.TempDir()
	file, bad := filepath.Join(dir, "a.json"), filepath.Join(dir, "b.json")
	if os.WriteFile(file, []byte(`{"from": "file"}`), 0o600) != nil || os.WriteFile(bad, []byte(`{`), 0o600) != nil {
		t.Fatal("cannot write")
	}
	x = b.call("GET /")
	b.check("mock", `{answers: [{file: `+file+`}]}`).Check(x)
	if string(x.Answer.Body) != `{"from": "file"}` || x.Answer.Fields.Get(wire.ContentType) != "application/json" {
		t.Errorf("%+v", x.Answer)
	}
	for config, want := range map[string]string{
		`{}`: "answers", `{answers: [{file: /none}]}`: "cannot be read", `{answers: [{file: ` + dir + `}]}`: "is no regular file", `{answers: [{file: ` + bad + `}]}`: "not valid JSON", `{answers: [{file: ` + file + `, body: x}]}`: "not both",
		`{answers: [{status: 204, body: x}]}`: "no content", `{answers: [{name: a}, {name: a}]}`: "two answers", `{delay: 2m, answers: [{body: x}]}`: "too long", `{answers: [{headers: {Content-Length: "1"}}]}`: "belongs to the connection",
		`{answers: [{headers: {"a b": "1"}}]}`: "no header name", `{answers: [{headers: {A: "1\n2"}}]}`: "line breaks", `{answers: [{status: 101}]}`: "200",
	} {
		if _, problems := b.compile("mock", config); !problems.HasErrors() || !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: %v, want %s", config, problems, want)
		}
	}
}

// The coding that a client likes best (RFC 9110 §12.5.3).
func TestCompressChoice(t *testing.T) {
	b := newTestbed(t)
	made, problems := b.compile("compress", `{codings: [br, gzip]}`)
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	c := made.(*compress)
	for accept, want := range map[string]string{
		"gzip": "gzip", "gzip, br": "br", "br;q=0.5, gzip": "gzip", "br;q=0.5,gzip;q=0.501": "gzip", "*": "br", "*;q=0": "", "br;q=0, *": "gzip", "gzip;q=0": "", "x-gzip": "gzip", "GZIP; Q=0.3": "gzip",
		"identity": "", "deflate": "", "gzip;q=2": "", "gzip;q=x": "", "gzip;q=-1": "", "gzip;level=1": "", "gzip;q=0.3, identity;q=0.5": "", "gzip;q=0.5, identity;q=0.5": "gzip", "": "", ",;,": "", "gzip;q=NaN": "",
	} {
		got := ""
		if k := c.choose(b.call("GET /", "Accept-Encoding: "+accept).Fields); k != nil {
			got = k.name
		}
		if got != want {
			t.Errorf("%q: %q, want %q", accept, got, want)
		}
	}
	if k := c.choose(b.call("GET /", "Accept-Encoding: gzip;q=0.5", "Accept-Encoding: br;q=0.4").Fields); k == nil || k.name != "gzip" {
		t.Errorf("two fields: %v", k)
	}
	for kind, want := range map[string]bool{"text/html": true, "TEXT/X": true, "application/json": true, "application/problem+json": true, "image/png": false, "application/jsonx": false, "": false, "text": false, "text/": false, "+json": false, "image/svg+xml": true} {
		if got := ofType(kind, c.types); got != want {
			t.Errorf("%q: %v", kind, got)
		}
	}
	for config, want := range map[string]string{`{codings: [deflate]}`: "deflate", `{codings: [gzip, gzip]}`: "twice", `{types: ["*/*"]}`: "no type of content", `{types: [json]}`: "no type", `{level: good}`: "fast", `{minSize: 0}`: "1"} {
		if _, problems := b.compile("compress", config); !problems.HasErrors() || !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: %v, want %s", config, problems, want)
		}
	}
}
