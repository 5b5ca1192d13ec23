package policy

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/whygate/whygate/reason"
)

// packed compresses a text.
func packed(t testing.TB, contentCoding, text string) string {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch contentCoding {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "deflate":
		w = zlib.NewWriter(&b)
	case "zstd":
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestContentType(t *testing.T) {
	b := newTestbed(t)
	c := b.check("content-type", `{allow: [application/json, +json, image/*], charsets: [utf-8]}`)
	post := func(lines ...string) reason.Verdict {
		return c.Check(b.with("x", append([]string{"POST /"}, lines...)...))
	}
	for _, media := range []string{"application/json", "Application/JSON ; charset=UTF-8", `application/json;a=b; charset="utf-8"`, "application/vnd.shop+json", "image/png"} {
		wants(t, post("Content-Type: "+media), "")
	}
	for media, texts := range map[string][]string{
		"text/html":                            {"text/html", "application/json, +json or image/*", "Content-Type: application/json"},
		"application/x-www-form-urlencoded":    {"curl -d says so"},
		"application/json, text/html":          {"no media type"},
		"application/jsonx":                    {"application/jsonx"},
		"+json":                                {"no media type"},
		"images/png":                           {"images/png"},
		"application/json; charset=iso-8859-1": {"in charset iso-8859-1", "in charset utf-8", "charset=utf-8"},
	} {
		wants(t, post("Content-Type: "+media), "content-type.not-allowed", texts...)
	}
	wants(t, post(), "content-type.missing", "Content-Type", "application/json")
	wants(t, post("Content-Type: "), "content-type.missing")
	wants(t, post("Content-Type: application/json", "Content-Type: text/html"), "content-type.not-allowed", "declared 2 times")
	wants(t, c.Check(b.with("", "GET /")), "")
	x := b.with("x", "POST /", "Content-Type: text/html")
	c.Check(x)
	if v, _ := x.Extra.Lookup("Accept-Post"); v != "application/json, image/*" {
		t.Errorf("Accept-Post: %s", v)
	}
	x = b.with("x", "PATCH /", "Content-Type: text/html")
	c.Check(x)
	if v, _ := x.Extra.Lookup("Accept-Patch"); v != "application/json, image/*" {
		t.Errorf("Accept-Patch: %s", v)
	}
	if c.(BodyReader).ReadsBody() {
		t.Error("it reads bodies though it has nothing to decode")
	}
	x = b.with("x", "POST /", "Content-Type: application/json")
	if n := testing.AllocsPerRun(100, func() { c.Check(x) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	b.kinds = map[string]bool{}
	open := b.check("content-type", `{allow: ["*/*"], missing: allow}`)
	wants(t, open.Check(b.with("x", "POST /")), "")
	wants(t, open.Check(b.with("x", "POST /", "Content-Type: a/b")), "")
	wants(t, open.Check(b.with("x", "POST /", "Content-Type: ab")), "content-type.not-allowed")
}

func TestContentCoding(t *testing.T) {
	b := newTestbed(t)
	c := b.check("content-type", `{allow: [application/json], encodings: [gzip, deflate, zstd], decoded: 1MiB}`)
	post := func(contentCoding, body string) (*Exchange, reason.Verdict) {
		x := b.with(body, "POST /", "Content-Type: application/json", "Content-Encoding: "+contentCoding)
		return x, c.Check(x)
	}
	for _, contentCoding := range []string{"gzip", "deflate", "zstd"} {
		for range 3 { // decoders are used again
			x, v := post(contentCoding, packed(t, contentCoding, `{"a":1}`))
			wants(t, v, "")
			if got, v := x.plainBody(100, 10, nil); v.Refused() || string(got) != `{"a":1}` {
				t.Errorf("%s: decoded %q, %v", contentCoding, got, v)
			}
			_, v = post(contentCoding, packed(t, contentCoding, strings.Repeat("\x00", 8<<20)))
			wants(t, v, "content-type.expands", "decodes to more than")
			noise := packed(t, contentCoding, strings.Repeat("no zeros here, but still much the same ", 200))
			_, v = post(contentCoding, noise[:len(noise)-3])
			wants(t, v, "content-type.encoding-broken", contentCoding)
			_, v = post(contentCoding, "not compressed at all")
			wants(t, v, "content-type.encoding-broken", contentCoding)
		}
		_, v := post(contentCoding, packed(t, contentCoding, `{"a":1}`)+"tail")
		wants(t, v, "content-type.encoding-broken", contentCoding)
	}
	// Many small members are one content (RFC 1952 §2.2), and bounded as such.
	_, v := post("gzip", strings.Repeat(packed(t, "gzip", strings.Repeat("a", 30000)), 100))
	wants(t, v, "content-type.expands")
	_, v = post("br", "x")
	wants(t, v, "content-type.encoding", "br", "gzip, deflate or zstd")
	x, v := post("gzip, gzip", packed(t, "gzip", packed(t, "gzip", `{}`)))
	wants(t, v, "content-type.encoding", "gzip, gzip")
	if a, _ := x.Extra.Lookup("Accept-Encoding"); a != "gzip, deflate, zstd" {
		t.Errorf("Accept-Encoding: %s", a)
	}
	wants(t, c.Check(b.with("x", "POST /", "Content-Type: application/json", "Content-Encoding: identity")), "")
	wants(t, c.Check(b.with("x", "POST /", "Content-Type: application/json", "Content-Encoding: gzip", "Content-Encoding: deflate")), "content-type.encoding", "gzip, deflate")

	b.kinds = map[string]bool{}
	plain := b.check("content-type", `{allow: [application/json]}`)
	wants(t, plain.Check(b.with("x", "POST /", "Content-Type: application/json", "Content-Encoding: gzip")), "content-type.encoding", "no content coding")
	b.kinds = map[string]bool{}
	unread := b.check("content-type", `{allow: [application/json], encodings: [gzip], decode: false}`)
	wants(t, unread.Check(b.with("x", "POST /", "Content-Type: application/json", "Content-Encoding: x-gzip")), "")
}

func TestContentTypeProblems(t *testing.T) {
	b := newTestbed(t)
	for config, want := range map[string]string{
		`{}`:                                          `"allow" is missing`,
		`{allow: [json]}`:                             "did you mean application/json?",
		`{allow: ["text/html; charset=utf-8"]}`:       "charsets has a setting of its own",
		`{allow: ["application/*+json"]}`:             "write +json",
		`{allow: ["*/json"]}`:                         "write application/json",
		`{allow: [a/b, A/B]}`:                         "listed twice",
		`{allow: [a/b], charsets: ["a b"]}`:           "no name of a charset",
		`{allow: [a/b], encodings: [br]}`:             "gzip, deflate or zstd",
		`{allow: [a/b], encodings: [gzip], ratio: 1}`: "at least 2",
		`{allow: [a/b], ratio: 50}`:                   "so ratio bounds nothing",
	} {
		_, problems := b.compile("content-type", config)
		text := ""
		for _, p := range problems {
			text += p.String() + " " + p.Hint + "\n"
		}
		if !strings.Contains(text, want) {
			t.Errorf("%s: does not say %q: %s", config, want, text)
		}
	}
}

func TestJSONLimits(t *testing.T) {
	b := newTestbed(t)
	c := b.check("json-limits", `{depth: 4, keys: 3, elements: 5, text: 10, number: 8, maxBody: 1KiB}`)
	post := func(body string) reason.Verdict {
		return c.Check(b.with(body, "POST /", "Content-Type: application/json"))
	}
	wants(t, post(`{"a":[1,2,{"b":null}],"c":"0123456789"}`), "")
	wants(t, post("{\n  \"a\": 1,\n}"), "json.malformed", "line 3, column 1", "a name in double quotes", `"}"`)
	wants(t, post(`{"a":{"b":tru}}`), "json.malformed", "/a/b")
	wants(t, post(`[[[[[1]]]]]`), "json.too-deep", "lie 5 deep", "4 are allowed", "/0/0/0/0")
	wants(t, post(`{"o":{"a":1,"b":2,"c":3,"d":4,"e":5}}`), "json.too-many-keys", "the object /o has 5 names", "at most 3")
	wants(t, post(`{"a":1,"b":2,"c":3,"d":4}`), "json.too-many-keys", "the object has 4 names")
	wants(t, post(`{"l":[1,2,3,4,5,6,7]}`), "json.too-many-elements", "the list /l has 7 values", "at most 5")
	wants(t, post(`[1,2,3,4,5,6]`), "json.too-many-elements", "the list has 6 values")
	wants(t, post(`{"t":"0123456789a"}`), "json.text-too-long", "11 B", "10 B", "/t")
	wants(t, post(`{"n":123456789}`), "json.number-too-long", "9 characters", "8 are allowed", "/n")
	wants(t, post("{\"x\":{\"role\":1,\n\"role\":2}}"), "json.duplicate-key", "/x/role", "line 1", "line 2, column 1")
	wants(t, post("[\"\xe4\"]"), "json.invalid-utf8", "the byte 0xE4", "line 1, column 3")
	wants(t, post(`["\ud800"]`), "json.invalid-utf8", `the escape \ud800 without its other half`)
	wants(t, post(`"`+strings.Repeat("x", 2000)+`"`), "test.body-too-large")
	wants(t, c.Check(b.with(`<a/>`, "POST /", "Content-Type: text/xml")), "")
	wants(t, c.Check(b.with(`<a/>`, "POST /")), "json.malformed")
	wants(t, c.Check(b.with(`{`, "POST /", "Content-Type: application/problem+json;a=b")), "json.malformed")
	wants(t, c.Check(b.with(``, "GET /")), "")
	gz := b.with(packed(t, "gzip", `[[[[[1]]]]]`), "POST /", "Content-Type: application/json", "Content-Encoding: gzip")
	wants(t, c.Check(gz), "json.too-deep")
	wants(t, c.Check(b.with("x", "POST /", "Content-Type: application/json", "Content-Encoding: br")), "content-type.encoding", "br")

	x := b.with(`{"a":[1,2,{"b":null}],"c":"012\n6789"}`, "POST /", "Content-Type: application/json")
	c.Check(x)
	if n := testing.AllocsPerRun(100, func() { c.Check(x) }); n > 0 && !poolsForget {
		t.Errorf("%v allocations", n)
	}
	b.kinds = map[string]bool{}
	loose := b.check("json-limits", `{duplicateKeys: allow, invalidUTF8: allow, elements: unlimited}`)
	wants(t, loose.Check(b.with("{\"a\":\"\xff\",\"a\":\"\\ud800\"}", "POST /")), "")
	b.kinds = map[string]bool{}
	all := b.check("json-limits", `{all: true}`)
	wants(t, all.Check(b.with("<a/>", "POST /", "Content-Type: text/xml")), "json.malformed")
}

func BenchmarkJSONLimits(b *testing.B) {
	t := newTestbed(&testing.T{})
	c := t.check("json-limits", `{}`)
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
