package waf

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"mime/multipart"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/whygate/whygate/pinpoint"
)

const parts = "--b0undary\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nhello 5\r\n--b0undary\r\nContent-Disposition: form-data; name=\"up\"; filename=\"x.php\"\r\nContent-Type: image/x-odd\r\n\r\n<?php\r\n--b0undary--\r\n"

func TestTakeNamesPlaces(t *testing.T) {
	for _, c := range []struct {
		name string
		r    *pinpoint.Request
		want []string // place | coraza | v2 | v3
		twin string   // of the body, or of the URL where there is none
	}{
		{"JSON", ordinary("POST", "http://h.test/p", "application/json", `{"a":["x1",{"b":"\u0041'"}],"n":-12.5,"t":true,"o":{"k":"é"}}`), []string{
			"path segment 1|REQUEST_URI|REQUEST_URI|REQUEST_URI",
			"header User-Agent|REQUEST_HEADERS:User-Agent|REQUEST_HEADERS:User-Agent|REQUEST_HEADERS:User-Agent",
			"header Accept|REQUEST_HEADERS:Accept|REQUEST_HEADERS:Accept|REQUEST_HEADERS:Accept",
			"body, JSON pointer /a/0|ARGS:json.a.0|ARGS:a.a|ARGS:json.a.array_0",
			"body, JSON pointer /a/1/b|ARGS:json.a.1.b|ARGS:a.a.b|ARGS:json.a.array_1.b",
			"body, JSON pointer /n|ARGS:json.n|ARGS:n|ARGS:json.n",
			"body, JSON pointer /o/k|ARGS:json.o.k|ARGS:o.k|ARGS:json.o.k",
		}, `{"a":["a1",{"b":"aa"}],"n":-11.1,"t":true,"o":{"k":"aa"}}`},
		{"JSON list", ordinary("POST", "http://h.test/", "application/json", `["x",{"b":"y"}]`), []string{
			"header User-Agent|REQUEST_HEADERS:User-Agent|REQUEST_HEADERS:User-Agent|REQUEST_HEADERS:User-Agent",
			"header Accept|REQUEST_HEADERS:Accept|REQUEST_HEADERS:Accept|REQUEST_HEADERS:Accept",
			"body, JSON pointer /0|ARGS:json.0|ARGS:array.array|ARGS:json.array_0",
			"body, JSON pointer /1/b|ARGS:json.1.b|ARGS:array.array.b|ARGS:json.array_1.b",
		}, `["a",{"b":"a"}]`},
		{"query and cookies", &pinpoint.Request{Method: "GET", URL: "http://h.test/a%20b?q=%27x&%3Cb=1", Header: pinpoint.Header{{Name: "Cookie", Value: "sid=‹secret:0123abcd len=5›; p=<b>"}}}, []string{
			"path segment 1|REQUEST_URI|REQUEST_URI|REQUEST_URI",
			`query parameter "q"|ARGS:q|ARGS:q|ARGS:q`,
			`name of query parameter "<b"|ARGS_NAMES:<b|ARGS_NAMES:<b|ARGS_NAMES:<b`,
			`query parameter "<b"|ARGS:<b|ARGS:<b|ARGS:<b`,
			"cookie sid|REQUEST_COOKIES:sid|REQUEST_COOKIES:sid|REQUEST_COOKIES:sid",
			"cookie p|REQUEST_COOKIES:p|REQUEST_COOKIES:p|REQUEST_COOKIES:p",
		}, "http://h.test/aaa?q=aa&ad=1"},
		{"XML", ordinary("POST", "http://h.test/", "text/xml", `<?xml version="1.0"?><a x="1 &lt;"><b>t&amp;1</b><![CDATA[<q>]]><c/></a>`), []string{
			"header User-Agent|REQUEST_HEADERS:User-Agent|REQUEST_HEADERS:User-Agent|REQUEST_HEADERS:User-Agent",
			"header Accept|REQUEST_HEADERS:Accept|REQUEST_HEADERS:Accept|REQUEST_HEADERS:Accept",
			`body, attribute of "/a/@x"|XML://@*|XML://@*|XML://@*`,
			`body, text of "/a/b"|XML:/*|XML:/*|XML:/*`,
			`body, text of "/a"|XML:/*|XML:/*|XML:/*`,
		}, `<?xml version="1.0"?><a x="1aa"><b>aa1</b><![CDATA[aaa]]><c/></a>`},
		{"multipart", ordinary("POST", "http://h.test/", `multipart/form-data; boundary=b0undary`, parts), []string{
			"header User-Agent|REQUEST_HEADERS:User-Agent|REQUEST_HEADERS:User-Agent|REQUEST_HEADERS:User-Agent",
			"header Accept|REQUEST_HEADERS:Accept|REQUEST_HEADERS:Accept|REQUEST_HEADERS:Accept",
			`body, content of "note"|ARGS:note|ARGS:note|ARGS:note`,
			`body, file name of "up"|FILES:up|FILES:up|FILES:up`,
			`body, part header of "up Content-Type"|MULTIPART_PART_HEADERS:up|MULTIPART_PART_HEADERS:up|MULTIPART_PART_HEADERS:up`,
			`body, content of "up"|REQUEST_BODY|REQUEST_BODY|REQUEST_BODY`,
		}, strings.NewReplacer("hello 5", "aaaaaa1", "x.php", "aaaaa", "image/x-odd", "text/plain", "<?php", "aaaaa").Replace(parts)},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := Take(c.r)
			var got []string
			for i := range m.Leaves {
				if l := &m.Leaves[i]; !l.Plain {
					got = append(got, l.String()+"|"+l.Targets.Coraza+"|"+l.Targets.ModSecurity2+"|"+l.Targets.ModSecurity3)
				}
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
			twin := m.Render(m.Twin())
			text := string(twin.Body)
			if len(c.r.Body) == 0 {
				text = twin.URL
			}
			if text != c.twin {
				t.Errorf("twin %s\nwant %s", text, c.twin)
			}
			same(t, c.r, m)
		})
	}
}

// same says that neutralising nothing is the original byte for byte.
func same(t *testing.T, r *pinpoint.Request, m *Message) {
	t.Helper()
	if d := cmp.Diff(r, m.Render(m.All())); d != "" {
		t.Error(d)
	}
}

func TestContentLengthFollows(t *testing.T) {
	r := ordinary("POST", "http://h.test/", "application/json", `{"a":"\u0041"}`)
	r.Header = append(r.Header, pinpoint.Field{Name: "Content-Length", Value: "14"})
	m := Take(r)
	if n := m.Render(m.Twin()).Header.Value("Content-Length"); n != "9" {
		t.Errorf("Content-Length %s", n)
	}
	same(t, r, m)
}

// FuzzTake takes anything apart: nothing neutralised is the original, and any subset stays well-formed.
func FuzzTake(f *testing.F) {
	f.Add("application/json", `{"a":["x",{"b":"\u0041\ud83d\ude00"}],"n":-1e5,"‹secret:0123abcd len=5›":‹secret:0123abcd len=9›}`, "http://h.test/a/b?x=%27&y", "a=b; c", uint64(0x5a5a))
	f.Add("application/x-www-form-urlencoded", `a=b+c&%3c=%zz&&=&q`, "http://h.test", "", uint64(3))
	f.Add("multipart/form-data; boundary=b0undary", parts, "/x", "=;", uint64(77))
	f.Add("text/xml", `<a x="1" y='&lt;'><b>t&amp;</b><![CDATA[x]]><!-- c --></a>`, "x://y?z#w", ";", uint64(1))
	f.Add("text/plain; charset=latin1", "\xff\xfe", "::", "‹secret:", uint64(9))
	f.Fuzz(func(t *testing.T, contentType, body, url, cookie string, mask uint64) {
		if len(body) > 1<<14 || len(url) > 1<<12 {
			return
		}
		r := ordinary("POST", url, contentType, body)
		r.Header = append(r.Header, pinpoint.Field{Name: "Cookie", Value: cookie})
		m := Take(r)
		same(t, r, m)
		k := Kept{}
		for i := range m.Leaves {
			n := len(m.Leaves[i].units)
			switch mask >> (2 * (i % 32)) & 3 {
			case 1:
				k[i] = []Span{{0, n}}
			case 2:
				k[i] = []Span{{n / 3, n / 2}}
			case 3:
				k[i] = []Span{{0, n / 4}, {n / 2, n}}
			}
		}
		part := m.Render(k)
		for _, rr := range []*pinpoint.Request{m.Render(m.Twin()), part} {
			media, boundary := mediaType(contentType)
			plain := !strings.Contains(body, "‹secret:")
			if strings.Contains(media, "json") && plain && json.Valid([]byte(body)) && !json.Valid(rr.Body) {
				t.Errorf("%q is no JSON any more", rr.Body)
			}
			if (media == "text/xml" || media == "application/xml") && m.Notes == nil && parseXML([]byte(body)) == nil {
				if err := parseXML(rr.Body); err != nil {
					t.Errorf("%q: %v", rr.Body, err)
				}
			}
			if media == "multipart/form-data" && m.Notes == nil && plainName(boundary) && boundary != "" {
				if a, b := countParts([]byte(body), boundary), countParts(rr.Body, boundary); a >= 0 && a != b && rr != part {
					t.Errorf("%d parts became %d: %q", a, b, rr.Body)
				}
			}
		}
		for i := range m.Leaves {
			l := &m.Leaves[i]
			_ = l.String()
			if l.Text(0, len(l.units)) == "" {
				t.Errorf("leaf %v of %q is empty", l, l.raw)
			}
		}
	})
}

func parseXML(body []byte) error {
	d := xml.NewDecoder(bytes.NewReader(body))
	d.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil }
	for {
		if _, err := d.Token(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func countParts(body []byte, boundary string) (n int) {
	r := multipart.NewReader(bytes.NewReader(body), boundary)
	for {
		if _, err := r.NextRawPart(); err == io.EOF {
			return n
		} else if err != nil {
			return -1
		}
		n++
	}
}
