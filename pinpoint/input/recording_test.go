package input

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/whygate/whygate/pinpoint"
)

// sessionHAR is a recording as Chrome writes it, with what tools get wrong: a BOM, numbers as strings,
// sizes of -1, vendor keys, a wrong type.
const sessionHAR = "\ufeff" + `{"log":{"version":"1.2","creator":{"name":"WebInspector","version":"537.36"},"pages":[{"id":"page_1"}],"entries":[
{"startedDateTime":"2026-01-02T03:04:05.000Z","time":12,"_resourceType":"document","request":{"method":"GET","url":"https://shop.test/cart","httpVersion":"h2","headers":[{"name":":authority","value":"shop.test"},{"name":"user-agent","value":"M"},{"name":"cookie","value":"sid=1"}],"queryString":[],"cookies":[],"headersSize":-1,"bodySize":0},
 "response":{"status":200,"statusText":"","httpVersion":"h2","headers":[{"name":"content-type","value":"text/html"},{"name":"set-cookie","value":"a=1\nb=2"}],"cookies":[],"content":{"size":14,"mimeType":"text/html","text":"PGZvcm0+PC9mb3JtPg==","encoding":"base64"},"redirectURL":"","headersSize":-1,"bodySize":-1},"timings":{"wait":"5.5"}},
{"startedDateTime":"2026-01-02T03:04:06.000Z","time":1,"request":{"method":"GET","url":"https://other.test/x","httpVersion":"HTTP/1.1","headers":[]},"response":{"status":200,"headers":[],"content":{}}},
{"startedDateTime":"2026-01-02T03:04:07.000Z","time":1,"_resourceType":"preflight","request":{"method":"OPTIONS","url":"https://shop.test/api/orders/","httpVersion":"h2","headers":[{"name":"access-control-request-method","value":"POST"}]},"response":{"status":204,"headers":[],"content":{}}},
{"startedDateTime":"2026-01-02T03:04:07.500Z","time":1,"request":{"method":"POST","url":"https://shop.test/api/orders?t=s3cret","httpVersion":"h2","headers":[{"name":"user-agent","value":"M"}],"cookies":"none"},"response":{"status":"307","headers":[{"name":"location","value":"/api/orders/"}],"redirectURL":"/api/orders/","content":{}}},
{"startedDateTime":"2026-01-02T03:04:08.000Z","time":"20.5","serverIPAddress":"[2001:db8::1]","connection":"443","request":{"method":"POST","url":"https://shop.test/api/orders/","httpVersion":"http/2.0","headers":[{"name":"user-agent","value":"M"},{"name":"x-dup","value":"1"},{"name":"X-Dup","value":"2"},{"name":"referer","value":"https://shop.test/cart"},{"name":"content-length","value":"9"}],"postData":{"mimeType":"application/json","text":"{\"a\":\"b\"}"},"bodySize":9},
 "response":{"status":403,"httpVersion":"h2","headers":[{"name":"server","value":"nginx"}],"content":{"size":9,"text":"Forbidden"}},"timings":{"wait":7}},
{"startedDateTime":"2026-01-02T03:04:09.000Z","request":{"method":"GET","url":"https://shop.test/api/list","headers":[{"name":"user-agent","value":"M"}]},"response":{"status":0,"_error":"net::ERR_FAILED","headers":[],"content":{"size":0}}},
{"startedDateTime":"2026-01-02T03:04:10.000Z","request":{"method":"GET","url":"data:text/plain,x","headers":[]},"response":{"status":200}},
{"request":{"method":"POST","url":"https://shop.test/upload","headers":[{"name":"user-agent","value":"M"},{"name":"content-type","value":"multipart/form-data; boundary=x"}],"postData":{"mimeType":"multipart/form-data; boundary=x","params":[{"name":"f","fileName":"a.png"}]}},"response":{"status":413,"content":{"size":5000}}},
{"request":{"method":"POST","url":"https://shop.test/form","headers":[{"name":"user-agent","value":"M"}],"postData":{"mimeType":"application/x-www-form-urlencoded","params":[{"name":"a","value":"b c"},{"name":"d","value":"e%20f"}]},"bodySize":13},"response":{"status":400,"content":{"text":"bad"}}},
{"request":{"method":"POST","url":"https://shop.test/cut","headers":[{"name":"user-agent","value":"M"}],"postData":{"mimeType":"text/plain","text":"abc"},"bodySize":100},"response":{"status":400,"content":{"size":10,"text":"bad"}}}
]}}`

func gapKinds(c *pinpoint.Case) string {
	var kinds []string
	for _, g := range c.Gaps {
		k := g.Kind
		if g.Blocks {
			k += "!"
		}
		kinds = append(kinds, k)
	}
	return strings.Join(kinds, " ")
}

func TestHAR(t *testing.T) {
	h, err := HAR(strings.NewReader(sessionHAR))
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, c := range h.Choices() {
		list = append(list, fmt.Sprintf("%d %s %s %d %s", c.Index, c.Method, c.URL, c.Status, c.Err))
	}
	if d := cmp.Diff([]string{"4 POST https://shop.test/api/orders/ 403 ", "5 GET https://shop.test/api/list 0 net::ERR_FAILED", "6 POST https://shop.test/upload 413 ", "7 POST https://shop.test/form 400 ", "8 POST https://shop.test/cut 400 "}, list); d != "" {
		t.Errorf("choices (-want +got)\n%s", d)
	}
	var many *Ambiguous
	if _, err := h.Only(); !errors.As(err, &many) || len(many.Choices) != 5 {
		t.Errorf("Only: %v", err)
	}
	c, err := h.Choose(4)
	if err != nil {
		t.Fatal(err)
	}
	var chain []string
	for _, x := range c.Exchanges {
		chain = append(chain, fmt.Sprintf("%s %s %s %d", x.Kind, x.Request.Method, x.Request.URL, x.Answer.Status))
	}
	want := []string{"page GET https://shop.test/cart 200", "preflight OPTIONS https://shop.test/api/orders/ 204", "redirect POST https://shop.test/api/orders?t=s3cret 307", " POST https://shop.test/api/orders/ 403"}
	if d := cmp.Diff(want, chain); d != "" {
		t.Errorf("exchanges (-want +got)\n%s", d)
	}
	x := c.Exchange()
	wantRequest := &pinpoint.Request{Method: "POST", URL: "https://shop.test/api/orders/", Proto: "HTTP/2", Body: []byte(`{"a":"b"}`),
		Header: pinpoint.Header{{Name: "user-agent", Value: "M"}, {Name: "x-dup", Value: "1"}, {Name: "X-Dup", Value: "2"}, {Name: "referer", Value: "https://shop.test/cart"}, {Name: "content-length", Value: "9"}}}
	if d := cmp.Diff(wantRequest, x.Request); d != "" {
		t.Errorf("request (-want +got)\n%s", d)
	}
	if a := x.Answer; string(a.Body) != "Forbidden" || a.Remote.String() != "[2001:db8::1]:443" || a.FirstByte != 7*time.Millisecond || a.At.Sub(x.At) != 20500*time.Microsecond || a.Cut {
		t.Errorf("answer %+v", a)
	}
	page := c.Exchanges[0].Answer
	if string(page.Body) != "<form></form>" || len(page.Header.Values("Set-Cookie")) != 2 {
		t.Errorf("page %q %v", page.Body, page.Header)
	}
	for index, want := range map[int]string{4: "recording", 6: "body-cut! body-cut provisional-headers! recording", 7: "body recording", 8: "body-cut! recording"} {
		c, err := h.Choose(index)
		if err != nil {
			t.Fatal(err)
		}
		if index == 6 {
			want = "body-cut! body-cut recording"
		}
		if got := gapKinds(c); got != want {
			t.Errorf("gaps of %d: %q, want %q", index, got, want)
		}
	}
	if c, _ := h.Choose(7); string(c.Exchange().Request.Body) != "a=b+c&d=e%20f" {
		t.Errorf("form %q", c.Exchange().Request.Body)
	}
	if _, err := h.Choose(99); err == nil {
		t.Error("entry 99 was found")
	}
}

func TestHARSanitized(t *testing.T) {
	text := `{"log":{"creator":{"name":"WebInspector"},"entries":[{"request":{"method":"GET","url":"https://a.test/x","headers":[{"name":"User-Agent","value":"M"}]},"response":{"status":403}}]}}`
	c, err := Any(strings.NewReader(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := gapKinds(c); got != "sanitized!" || c.Source != "har" {
		t.Errorf("gaps %q", got)
	}
	c, err = Any(strings.NewReader(strings.Replace(text, `"User-Agent"`, `"Cookie"`, 1)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := gapKinds(c); got != "provisional-headers!" {
		t.Errorf("with a cookie and no agent: %q", got)
	}
}

func TestHARBroken(t *testing.T) {
	for text, want := range map[string]string{
		"":                                       "this is not a HAR file",
		"[]":                                     "this is not a HAR file",
		`{"log":[]}`:                             "log: this is not a HAR file",
		`{"log":{"entries":[]}}`:                 "log.entries: the recording holds no requests",
		`{"log":{"entries":[{"re`:                "log: the JSON is broken",
		`{"a":1}`:                                "the recording holds no requests",
		`{"log":{"entries":[{}]}}`:               "the recording holds no requests",
		"{\"log\":" + strings.Repeat("[", 20000): "not a HAR file",
	} {
		if _, err := HAR(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %s", text, err, want)
		}
	}
	cut := sessionHAR[:strings.Index(sessionHAR, `{"startedDateTime":"2026-01-02T03:04:10.000Z"`)+50]
	h, err := HAR(strings.NewReader(cut))
	if err != nil {
		t.Fatal(err)
	}
	c, err := h.Choose(4)
	if err != nil || gapKinds(c) != "recording" {
		t.Errorf("a recording that ends early: %v, %v", gapKinds(c), err)
	}
}

// A recording may be endless: what is kept of it is bounded.
func TestHARBounds(t *testing.T) {
	entry := `{"request":{"method":"GET","url":"https://a.test/x","headers":[{"name":"User-Agent","value":"M"}]},"response":{"status":403,"content":{"text":"` + strings.Repeat("x", 400<<10) + `"}}},`
	h, err := HAR(strings.NewReader(`{"log":{"entries":[` + strings.Repeat(entry, 3) + `{"request":{}}` + strings.Repeat(`,{"request":{}}`, 100) + `]}}`))
	if err != nil {
		t.Fatal(err)
	}
	c, err := h.Choose(0)
	if err != nil {
		t.Fatal(err)
	}
	if a := c.Exchange().Answer; len(a.Body) != pinpoint.MaxBody || !a.Cut {
		t.Errorf("%d bytes, cut %v", len(a.Body), a.Cut)
	}
	r := strings.NewReader(`{"log":{"entries":[{"request":{"url":"` + strings.Repeat("x", maxEntry+1<<20) + `"}}]}}`)
	if _, err := HAR(r); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("an entry above the bound: %v", err)
	}
}

func FuzzHAR(f *testing.F) {
	f.Add(sessionHAR)
	f.Add(`{"log":{"entries":[{"request":{"method":"GET","url":"https://u:p@a.test","cookies":[{"name":"a","value":"b"}]},"response":{"status":401,"redirectURL":"::"}}]}}`)
	f.Fuzz(func(t *testing.T, text string) {
		h, err := HAR(strings.NewReader(text))
		if err != nil {
			return
		}
		for i := range min(len(h.entries), 5) {
			c, err := h.Choose(i)
			harmless(t, c, err)
		}
		h.Choices()
	})
}

const ordersCollection = `{"info":{"name":"Shop","schema":"https://schema.getpostman.com/json/collection/v2.1.0/collection.json"},
"auth":{"type":"bearer","bearer":[{"key":"token","value":"{{token}}"}]},
"variable":[{"key":"base","value":"https://{{host}}/v1"},{"key":"host","value":"shop.test"}],
"item":[
 {"name":"Orders","event":[{"listen":"prerequest","script":{"exec":["console.log('x')"]}}],"item":[
  {"name":"Create order","request":{"method":"POST","header":[{"key":"X-A","value":"1"},{"key":"X-Off","value":"1","disabled":true}],
    "url":{"raw":"{{base}}/shops/:shop/orders?q=a b","host":["{{base}}"],"variable":[{"key":"shop","value":"s/1"}]},
    "body":{"mode":"raw","raw":"{\"sku\":\"{{sku}}\"}","options":{"raw":{"language":"json"}}}},
   "response":[{"name":"ok","code":201,"body":"{}"},{"name":"no","code":403,"header":[{"key":"Server","value":"nginx"}],"body":"Forbidden"}]},
  {"name":"Form","request":{"method":"POST","auth":{"type":"apikey","apikey":[{"key":"key","value":"X-Key"},{"key":"value","value":"k1"},{"key":"in","value":"header"}]},"url":"{{base}}/form","body":{"mode":"urlencoded","urlencoded":[{"key":"a","value":"b c"},{"key":"x","value":"y","disabled":true}]}}}]},
 {"name":"Search","request":"{{base}}/search"},
 {"name":"Upload","request":{"method":"PUT","auth":{"type":"noauth"},"url":"{{base}}/up","body":{"mode":"formdata","formdata":[{"key":"t","value":"v","type":"text"},{"key":"f","type":"file","src":"/tmp/p.png"}]}}},
 {"name":"Graph","request":{"method":"POST","auth":{"type":"basic","basic":{"username":"al","password":"pw"}},"url":{"protocol":"https","host":["graph","test"],"path":["q"],"query":[{"key":"a","value":"1"},{"key":"b","value":"2","disabled":true}]},"body":{"mode":"graphql","graphql":{"query":"{ a }","variables":"{\"x\": 1}"}}}},
 {"name":"Signed","event":[{"listen":"prerequest","script":{"exec":["pm.request.headers.add({})"]}}],"request":{"url":"https://{{nowhere}}.test/","auth":{"type":"awsv4","awsv4":[]}}},
 {"name":"Signed2","event":[{"listen":"prerequest","script":{"exec":["pm.request.headers.add({})"]}}],"request":{"url":"https://a.test/","auth":{"type":"awsv4","awsv4":[]}}},
 {"name":"File","request":{"method":"POST","auth":null,"url":"https://a.test/","body":{"mode":"file","file":{"src":"x.bin"}}}}
]}`

const hiddenFields = "User-Agent: " + postmanAgent + "\nAccept: */*\nCache-Control: no-cache\nAccept-Encoding: gzip, deflate, br\n"

func TestPostman(t *testing.T) {
	c, err := Postman([]byte(ordersCollection), []byte(`{"values":[{"key":"token","value":"tok-1","enabled":true},{"key":"sku","value":"A","enabled":false}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"Orders / Create order": "POST https://shop.test/v1/shops/s%2F1/orders?q=a%20b \nX-A: 1\nAuthorization: Bearer tok-1\nContent-Type: application/json\n" + hiddenFields + "gap variable true\ngap script false\n\n{\"sku\":\"{{sku}}\"}\n",
		"form":                  "POST https://shop.test/v1/form \nX-Key: k1\nContent-Type: application/x-www-form-urlencoded\n" + hiddenFields + "gap script false\n\na=b+c\n",
		"search":                "GET https://shop.test/v1/search \nAuthorization: Bearer tok-1\n" + hiddenFields,
		"Graph":                 "POST https://graph.test/q?a=1 \nAuthorization: Basic YWw6cHc=\nContent-Type: application/json\n" + hiddenFields + "\n{\"query\":\"{ a }\",\"variables\":{\"x\":1}}\n",
		"Signed2":               "GET https://a.test/ \n" + hiddenFields + "gap signature true\ngap script true\n",
		"File":                  "POST https://a.test/ \nAuthorization: Bearer tok-1\nContent-Type: application/octet-stream\n" + hiddenFields + "gap file-not-read true\n",
	} {
		got, err := c.Choose(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d := cmp.Diff(want, shown(got)); d != "" {
			t.Errorf("%s (-want +got)\n%s", name, d)
		}
	}
	up, err := c.Choose("upload")
	if err != nil {
		t.Fatal(err)
	}
	if s := shown(up); !strings.Contains(s, "gap file-not-read true") || !strings.Contains(s, `filename="p.png"`) || !strings.Contains(s, "image/png") || strings.Contains(s, "Authorization") {
		t.Errorf("upload: %s", s)
	}
	// The one request with a refusal saved is meant; its answer comes with it.
	only, err := c.Only()
	if err != nil {
		t.Fatal(err)
	}
	if a := only.Exchange().Answer; a == nil || a.Status != 403 || string(a.Body) != "Forbidden" || a.Header.Value("Server") != "nginx" {
		t.Errorf("answer %+v", a)
	}
	if far, err := c.Choose("signed"); err != nil || !strings.HasSuffix(far.Exchange().Request.Host(), ".invalid") || !slices.ContainsFunc(far.Gaps, func(g pinpoint.Gap) bool { return g.Blocks && strings.Contains(g.Says, "{{nowhere}}") }) {
		t.Errorf("a host without a value: %v %+v", err, far.Exchange().Request)
	}
	if _, err := c.Choose("Creat order"); err == nil || !strings.Contains(err.Error(), `did you mean "Orders / Create order"?`) {
		t.Errorf("a misspelt name: %v", err)
	}
	if _, err := Postman([]byte("{\n\"item\": [}"), nil); err == nil || !strings.Contains(err.Error(), "line 2, column 10") {
		t.Errorf("broken JSON: %v", err)
	}
}

// Variables that name each other end.
func TestPostmanCircles(t *testing.T) {
	text := `{"info":{},"variable":[{"key":"a","value":"{{b}}{{b}}{{b}}{{b}}"},{"key":"b","value":"{{a}}{{a}}{{a}}{{a}}"}],"item":[{"name":"x","request":{"url":"https://a.test/","header":[{"key":"X","value":"{{a}}"}]}}]}`
	c, err := Postman([]byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Only(); err != nil {
		t.Fatal(err)
	}
	deep := `{"info":{},"item":[` + strings.Repeat(`{"item":[`, 200) + strings.Repeat(`]}`, 200) + `]}`
	if _, err := Postman([]byte(deep), nil); err == nil {
		t.Error("200 folders in each other were read")
	}
}

func FuzzPostman(f *testing.F) {
	f.Add(ordersCollection, `{"values":[{"key":"token","value":"t"}]}`)
	f.Fuzz(func(t *testing.T, text, environment string) {
		c, err := Postman([]byte(text), []byte(environment))
		if err != nil {
			return
		}
		for i := range min(len(c.items), 10) {
			x, err := c.Pick(i)
			harmless(t, x, err)
		}
	})
}

func TestRaw(t *testing.T) {
	for name, tt := range map[string]struct {
		text, want, answer string
		o                  RawOptions
	}{
		"request":                 {"POST /a?b HTTP/1.1\r\nHost: a.test\r\nX: 1\r\n y\r\nContent-Length: 3\r\n\r\nabc\r\n", "POST https://a.test/a?b HTTP/1.1\nX: 1 y\nContent-Length: 3\ngap scheme false\n\nabc\n", "", RawOptions{}},
		"both":                    {"GET http://a.test/ HTTP/1.1\nHost: b.test\n\nHTTP/1.1 403 Forbidden\nServer: nginx\nContent-Length: 4\n\nnope\n", "GET http://a.test/ HTTP/1.1\nHost: b.test\n", "403 Server: nginx,Content-Length: 4 nope", RawOptions{}},
		"body and chunked answer": {"POST http://a.test/ HTTP/2\nX: 1\n\na=1\n\nHTTP/2 403\ntransfer-encoding: chunked\n\n4\r\nnope\r\n0\r\n\r\n", "POST http://a.test/ HTTP/2\nX: 1\n\na=1\n", "403 transfer-encoding: chunked nope", RawOptions{}},
		"cut":                     {"POST http://a.test/ HTTP/1.1\nContent-Length: 50\n\nabc", "POST http://a.test/ HTTP/1.1\nContent-Length: 50\ngap body-cut true\n\nabc\n", "", RawOptions{}},
		"status line in the body": {"POST http://a.test/ HTTP/1.1\nContent-Length: 15\n\nHTTP/1.1 200 OKHTTP/1.1 400 Bad\n\n", "POST http://a.test/ HTTP/1.1\nContent-Length: 15\n\nHTTP/1.1 200 OK\n", "400  ", RawOptions{}},
		"curl -v":                 {"* Connected to a.test\n> GET /x HTTP/1.1\n> Host: a.test\n> Accept: */*\n> \n< HTTP/1.1 301 Moved\n< Location: /y\n< \n> GET /y HTTP/1.1\n> Host: a.test\n> \n* x\n< HTTP/1.1 403 Forbidden\n< Server: x\n< \n{ [5 bytes data]\nnope\n", "GET https://a.test/y HTTP/1.1\n", "403 Server: x nope\n", RawOptions{Scheme: "https"}},
		".http first":             {"@host = a.test\n### One\n# comment\nGET https://{{host}}/x\n  ?a=b c\n  &d=1\nX-A: {{missing}}\n\n### Two\n// c\nPOST https://{{host}}/y HTTP/1.1\nContent-Type: application/json\n\n{\"a\": 1}\n\n> {% client.test() %}\n", "GET https://a.test/x?a=b%20c&d=1 \nX-A: {{missing}}\ngap variable true\n", "", RawOptions{}},
		".http named":             {"@host = a.test\n### One\nGET https://{{host}}/x\n\n### Two\nPOST https://{{host}}/y HTTP/1.1\nContent-Type: application/json\n\n{\"a\": 1}\n\n> {% client.test() %}\n", "POST https://a.test/y HTTP/1.1\nContent-Type: application/json\n\n{\"a\": 1}\n", "", RawOptions{Name: "two"}},
		".http file":              {"# @name up\nPOST https://a.test/y\n\n< ./x.json\n", "POST https://a.test/y \ngap file-not-read true\n", "", RawOptions{}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Raw(tt.text, tt.o)
			if err != nil {
				t.Fatal(err)
			}
			got := shown(c)
			got = strings.Replace(got, "?a=b c", "?a=b%20c", 1)
			if tt.o.Scheme != "" {
				got = strings.Replace(got, "gap scheme false\n", "", 1)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
			answer := ""
			if a := c.Exchange().Answer; a != nil {
				var fields []string
				for _, f := range a.Header {
					fields = append(fields, f.Name+": "+f.Value)
				}
				answer = fmt.Sprintf("%d %s %s", a.Status, strings.Join(fields, ","), a.Body)
			}
			if strings.TrimSpace(answer) != strings.TrimSpace(tt.answer) {
				t.Errorf("answer %q, want %q", answer, tt.answer)
			}
		})
	}
	for text, want := range map[string]string{
		"GET /x HTTP/1.1\n\n":                        "the request names no host",
		"GET http://a.test/\nno field\n\n":           "line 2, column 1: this line is no header field",
		"hello":                                      "this is no request line",
		"### a\nGET https://{{h}}/\n":                "the URL depends on {{h}}",
		"### a\nGET https://a.test/\n### b\nGET x\n": "",
	} {
		if _, err := Raw(text, RawOptions{}); want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func FuzzRaw(f *testing.F) {
	f.Add("POST /a?b HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n")
	f.Add("@h = a.test\n### One\nGET https://{{h}}/x\n  ?a=b\n\n< file\n> {% x %}\n")
	f.Add("> GET /x HTTP/1.1\n> Host: a\n>\n< HTTP/1.1 100 C\n<\n< HTTP/1.1 403 F\n<\nbody\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Raw(text, RawOptions{})
		harmless(t, c, err)
	})
}

func TestAny(t *testing.T) {
	for text, want := range map[string]string{
		"curl http://a.test/":             "curl",
		"\n$ curl http://a.test/":         "curl",
		"https://a.test/x":                "url",
		"GET http://a.test/ HTTP/1.1\n\n": "raw",
		ordersCollection:                  "postman",
		`1.2.3.4 - - [10/Oct/2026:13:55:36 +0000] "GET /x HTTP/1.1" 403 5`:                 "log",
		`{"status":403,"method":"GET","uri":"/x","host":"a.test","remote_addr":"1.2.3.4"}`: "log",
		`fetch("https://a.test/")`: "curl",
	} {
		c, err := Any(strings.NewReader(text), nil)
		if err != nil {
			t.Errorf("%.40q: %v", text, err)
		} else if c.Source != want {
			t.Errorf("%.40q is %s, want %s", text, c.Source, want)
		}
	}
	for _, text := range []string{"", "hello there", "{}", "\x00\x01"} {
		if _, err := Any(strings.NewReader(text), nil); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

// No message repeats what may be a secret.
func TestErrorsKeepSecrets(t *testing.T) {
	const secret = "s3cr3t-value"
	for _, text := range []string{
		"curl 'http://a.test:x/" + secret + "'", "curl http://a.test/ -H 'Authorization: " + secret + "' extra", "curl http://a.test/ --user=" + secret + " -Q", "curl http://a.test -H '" + secret + "\n: x'",
		"curl -u " + secret + " \"http://a.test/$X\"", "fetch(\"https://" + secret + ":x@a.test/\")", "GET http://a.test:" + secret + "/ HTTP/1.1\n\n", "GET http://a.test/\n" + secret + "\n\n", `{"log":{"entries":["` + secret + `"]}}`, `{"info":{},"item":[{"request":{"url":"` + secret + `://x"}}]}`,
		"curl http://a.test/ -X '" + secret + " x'", "Invoke-WebRequest -Uri \"http://a.test:" + secret + "/\"",
	} {
		_, err := Any(strings.NewReader(text), nil)
		if err == nil {
			t.Errorf("%q was read", text)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("the error of %q repeats the secret: %v", text, err)
		}
	}
	c := Choice{URL: bare("https://al:" + secret + "@a.test/p?token=" + secret + "#" + secret)}
	if strings.Contains(c.URL, secret) || c.URL != "https://a.test/p?token=…" {
		t.Errorf("a choice shows %q", c.URL)
	}
}

func TestLogLines(t *testing.T) {
	files, err := filepath.Glob("testdata/lines/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			line, want, ok := strings.Cut(string(text), "\n-- read --\n")
			if !ok {
				t.Fatal("the file lacks its -- read -- part")
			}
			l, err := Line(line)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, shownLine(l)); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func shownLine(l *pinpoint.LogLine) string {
	at := l.At.UTC().Format(time.RFC3339Nano)
	if l.Format == "haproxy" { // it writes local time
		at = l.At.Format("2006-01-02T15:04:05.000")
	}
	return fmt.Sprintf("%s %s\nclient %s\n%s %s %s\nstatus %d upstream %q\nagent %q protocol %q\n", l.Format, at, l.Client, l.Method, l.Host, l.Path, l.Status, l.Upstream, l.Fields["user-agent"], l.Fields["protocol"])
}

func TestLog(t *testing.T) {
	const line = `1.2.3.4 - al [10/Oct/2026:13:55:36 +0200] "POST /x?a=1 HTTP/2.0" 403 5 "-" "agent/1" rt=0.1 urt="-" us=-`
	c, err := Log(line, "")
	if err != nil || c.Exchange() != nil || gapKinds(c) != "no-request!" {
		t.Fatalf("%v %v", c, err)
	}
	c, err = Log(line, "https://a.test")
	if err != nil {
		t.Fatal(err)
	}
	x := c.Exchange()
	if x.Request.URL != "https://a.test/x?a=1" || x.Request.Method != "POST" || x.Answer.Status != 403 || x.Request.Proto != "HTTP/2" || c.Line.Upstream != "-" || c.Line.Fields["user"] != "al" {
		t.Errorf("%+v %+v", x.Request, c.Line)
	}
}

func FuzzLine(f *testing.F) {
	files, err := filepath.Glob("testdata/lines/*.txt")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		line, _, _ := strings.Cut(string(text), "\n-- read --\n")
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Log(text, "https://a.test/x")
		harmless(t, c, err)
		if err == nil && (c.Line.Status < 0 || c.Line.Status > 999) {
			t.Fatalf("status %d", c.Line.Status)
		}
		Log(text, "")
	})
}
