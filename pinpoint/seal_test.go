package pinpoint_test

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/whygate/whygate/pinpoint"
	"pgregory.net/rapid"
)

const webToken = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6MTcwMDAwMDAwMH0.c2lnbmF0dXJlLW9mLWl0"

// texts are all texts of a case in one order.
func texts(c *pinpoint.Case, each func(p *string)) {
	header := func(h pinpoint.Header) {
		for i := range h {
			each(&h[i].Value)
		}
	}
	body := func(b *[]byte) {
		s := string(*b)
		each(&s)
		if *b != nil {
			*b = []byte(s)
		}
	}
	for _, x := range c.Exchanges {
		if x.Request != nil {
			each(&x.Request.URL)
			header(x.Request.Header)
			body(&x.Request.Body)
			each(&x.Request.Via.Proxy)
		}
		if x.Answer != nil {
			header(x.Answer.Header)
			body(&x.Answer.Body)
			each(&x.Answer.Err)
		}
	}
	header(c.Swap)
	if c.Line != nil {
		each(&c.Line.Path)
		for _, k := range slices.Sorted(maps.Keys(c.Line.Fields)) {
			v := c.Line.Fields[k]
			each(&v)
			c.Line.Fields[k] = v
		}
	}
	for i := range c.Gaps {
		each(&c.Gaps[i].Says)
	}
}

func all(c *pinpoint.Case) (list []string) {
	texts(c, func(p *string) { list = append(list, *p) })
	return list
}

func revealed(c *pinpoint.Case) (list []string) {
	for _, s := range all(c) {
		list = append(list, c.Vault.Reveal(s))
	}
	return list
}

func request(target string, header pinpoint.Header, body string) *pinpoint.Case {
	return &pinpoint.Case{Source: "curl", Exchanges: []pinpoint.Exchange{{Request: &pinpoint.Request{Method: "POST", URL: target, Header: header, Body: []byte(body)}}}}
}

func TestSeal(t *testing.T) {
	type header = pinpoint.Header
	for name, tt := range map[string]struct {
		c       *pinpoint.Case
		secrets []string
		stays   []string
	}{
		"bearer":     {request("https://a.test/", header{{"Authorization", "Bearer " + webToken}}, ""), []string{webToken, "eyJzdWIi"}, []string{"Bearer ‹secret:"}},
		"twice":      {request("https://a.test/", header{{"Authorization", "Bearer Bearer abc123def"}}, ""), []string{"abc123def"}, []string{"Bearer Bearer ‹secret:"}},
		"no scheme":  {request("https://a.test/", header{{"Authorization", "abc123def456"}}, ""), []string{"abc123def456"}, nil},
		"basic echo": {request("https://a.test/", header{{"Authorization", "Basic YWxpY2U6aHVudGVyMjI="}, {"X-Debug", "alice:hunter22"}}, ""), []string{"hunter22", "YWxpY2U6"}, []string{"Basic ‹"}},
		"cookies":    {request("https://a.test/", header{{"Cookie", "sid=s3cr3tvalue; theme=dark1"}}, ""), []string{"s3cr3tvalue", "dark1"}, []string{"sid=‹", "; theme=‹"}},
		"api key":    {request("https://a.test/", header{{"X-Api-Key", "k-1234567"}, {"Ocp-Apim-Subscription-Key", "0123456789abcdef"}}, ""), []string{"k-1234567", "0123456789abcdef"}, nil},
		"aws header": {request("https://a.test/", header{{"Authorization", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20240101/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=fe5f80f77d5fa3beca038a248ff027d0445342fe2855ddc963176630326f1024"}}, ""),
			[]string{"AKIDEXAMPLE", "fe5f80f7"}, []string{"/20240101/us-east-1/s3/aws4_request", "SignedHeaders=host;x-amz-date", "AWS4-HMAC-SHA256"}},
		"presigned": {request("https://b.s3.amazonaws.com/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20240101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20240101T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=abcdef0123456789", nil, ""),
			[]string{"AKIDEXAMPLE", "abcdef0123456789"}, []string{"%2F20240101%2Fus-east-1", "X-Amz-Date=20240101T000000Z", "X-Amz-Expires=60", "X-Amz-SignedHeaders=host"}},
		"sas":       {request("https://x.blob.core.windows.net/c/b?sv=2022-11-02&se=2024-01-01&sp=r&sig=aBc%2BdEf123%3D", nil, ""), []string{"aBc%2BdEf123"}, []string{"se=2024-01-01", "sp=r"}},
		"json":      {request("https://a.test/", header{{"Content-Type", "application/json"}}, `{"user":"al","password":"p\"w1","nested":{"apiKey" : "zzz999","n":1},"tokens":["t0k1","t0k2"],"max_tokens":100}`), []string{`p\"w1`, "zzz999", "t0k1", "t0k2"}, []string{`"user":"al"`, `"max_tokens":100`, `"n":1`}},
		"form":      {request("https://a.test/", header{{"Content-Type", "application/x-www-form-urlencoded"}}, "user=al&password=h%26nter1&code=xyz987"), []string{"h%26nter1", "xyz987"}, []string{"user=al&password=‹"}},
		"multipart": {request("https://a.test/", header{{"Content-Type", "multipart/form-data; boundary=b"}}, "--b\r\nContent-Disposition: form-data; name=\"csrf_token\"\r\n\r\nabc987\r\n--b\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nHello\r\n--b--\r\n"), []string{"abc987"}, []string{"Hello", "csrf_token"}},
		"xml":       {request("https://a.test/", header{{"Content-Type", "text/xml"}}, "<e><wsse:Password Type=\"x\">pw12345</wsse:Password><a>b</a></e>"), []string{"pw12345"}, []string{"<a>b</a>"}},
		"userinfo":  {request("https://al:pa55word@a.test/x", nil, ""), []string{"pa55word"}, []string{"@a.test/x"}},
		"redirect": {&pinpoint.Case{Exchanges: []pinpoint.Exchange{{Request: &pinpoint.Request{Method: "GET", URL: "https://a.test/"},
			Answer: &pinpoint.Answer{Status: 302, Header: header{{"Location", "https://b.test/cb#access_token=abc123xyz&state=1"}, {"Set-Cookie", "sid=qwe123rty; Path=/; HttpOnly"}}}}}}, []string{"abc123xyz", "qwe123rty"}, []string{"; Path=/; HttpOnly", "state=1"}},
		"echo": {&pinpoint.Case{Exchanges: []pinpoint.Exchange{{Request: &pinpoint.Request{Method: "GET", URL: "https://a.test/", Header: header{{"X-Api-Key", "a1b2/c3d4+e5f6 g7h8i9=="}}},
			Answer: &pinpoint.Answer{Status: 403, Header: header{{"X-Seen", url.QueryEscape("a1b2/c3d4+e5f6 g7h8i9==")}}, Body: []byte(`{"headers":{"x":"a1b2\/c3d4+e5f6 g7h8i9=="}}`)}}}}, []string{"c3d4"}, []string{`{"headers":`}},
		"error words": {&pinpoint.Case{Exchanges: []pinpoint.Exchange{{Request: &pinpoint.Request{Method: "GET", URL: "https://a.test/"},
			Answer: &pinpoint.Answer{Status: 403, Header: header{{"WWW-Authenticate", `Bearer error="invalid_token"`}, {"X-Auth-Error", "token expired"}}, Body: []byte(`{"code":"AUTH_17","token":"expired","session":"none"}`)}}}},
			nil, []string{`Bearer error="invalid_token"`, "token expired", `{"code":"AUTH_17","token":"expired","session":"none"}`}},
		"log line": {&pinpoint.Case{Line: &pinpoint.LogLine{Path: "/x?token=abc123def", Fields: map[string]string{"cs(Cookie)": "sid=abcd1234", "http_authorization": "Bearer qqq111www", "referer": "https://a.test/?key=r4nd0mkey"}}}, []string{"abc123def", "abcd1234", "qqq111www", "r4nd0mkey"}, []string{"/x?token=‹"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := all(tt.c)
			pinpoint.Seal(tt.c)
			sealed := strings.Join(all(tt.c), "\n")
			for _, s := range tt.secrets {
				if strings.Contains(sealed, s) {
					t.Errorf("the secret %q is still in\n%s", s, sealed)
				}
			}
			for _, s := range tt.stays {
				if !strings.Contains(sealed, s) {
					t.Errorf("%q is gone from\n%s", s, sealed)
				}
			}
			if d := cmp.Diff(before, revealed(tt.c)); d != "" {
				t.Errorf("revealed (-want +got)\n%s", d)
			}
			once := all(tt.c)
			pinpoint.Seal(tt.c)
			if d := cmp.Diff(once, all(tt.c)); d != "" {
				t.Errorf("sealed again (-once +twice)\n%s", d)
			}
		})
	}
}

// A sealed URL is still one that net/url reads, and its placeholders are equal where the secrets were.
func TestSealKeepsShape(t *testing.T) {
	c := request("https://a.test/p?access_token=abc123&x=1", pinpoint.Header{{Name: "Cookie", Value: "csrftoken=tok12345"}, {Name: "X-CSRFToken", Value: "tok12345"}}, "")
	pinpoint.Seal(c)
	r := c.Exchange().Request
	u, err := r.Parsed()
	if err != nil || u.Host != "a.test" || u.Query().Get("x") != "1" {
		t.Fatalf("the sealed URL %q: %v", r.URL, err)
	}
	if _, v, _ := strings.Cut(r.Header[0].Value, "="); v != r.Header[1].Value {
		t.Errorf("equal secrets differ: %q and %q", v, r.Header[1].Value)
	}
}

func TestSealLeavesTheOriginal(t *testing.T) {
	r := &pinpoint.Request{Method: "GET", URL: "https://a.test/?token=abc123", Header: pinpoint.Header{{Name: "Authorization", Value: "Bearer abc123"}}}
	c := &pinpoint.Case{Exchanges: []pinpoint.Exchange{{Request: r}}}
	pinpoint.Seal(c)
	if r.URL != "https://a.test/?token=abc123" || r.Header[0].Value != "Bearer abc123" {
		t.Error("Seal changed a request that somebody else may hold")
	}
}

func TestRedact(t *testing.T) {
	v := pinpoint.NewVault()
	p := v.Hide("s3cr3t-&-value")
	for _, s := range []string{"s3cr3t-&-value", "s3cr3t-%26-value", "s3cr3t-&amp;-value"} {
		if got := v.Redact("seen: " + s + "."); strings.Contains(got, "s3cr3t") || v.Reveal(got) != "seen: "+s+"." {
			t.Errorf("Redact of %q is %q", s, got)
		}
	}
	if got := v.Redact(p); got != p {
		t.Errorf("a placeholder became %q", got)
	}
	v.Hide("nginx")
	v.Hide("/api/v1/x")
	if got := v.Redact("Server: nginx at /api/v1/x"); got != "Server: nginx at /api/v1/x" {
		t.Errorf("words were taken for secrets: %q", got)
	}
	if got := (*pinpoint.Vault)(nil).Redact("x"); got != "x" {
		t.Errorf("without a vault: %q", got)
	}
}

func TestSealProperty(t *testing.T) {
	piece := rapid.SampledFrom([]string{"a", "token=", "abc123def456", "&", ";", "=", ":", "?", "#", "/", "://", "@", `"`, `\`, `\"`, "{", "}", "[", "]", ",", " ", "\r\n", "‹", "‹secret:", "‹secret:0123abcd len=3›", "›", "len=",
		webToken, "password", `"password":`, "<token>", "</token>", "Bearer ", "Basic ", "Digest ", "AWS4-HMAC-SHA256 ", "Credential=", "%2F", "%", "\xff", "é", "--b", "\r\n\r\n", `name="csrf"`, "<input name=token value='", "'>"})
	word := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(piece, 0, 14).Draw(t, "pieces"), "")
	})
	name := rapid.SampledFrom([]string{"Authorization", "Cookie", "Set-Cookie", "Location", "X-Api-Key", "X-Plain", "Content-Type", "WWW-Authenticate", "Referer"})
	kind := rapid.SampledFrom([]string{"", "application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "text/html", "text/xml"})
	header := func(t *rapid.T) (h pinpoint.Header) {
		for range rapid.IntRange(0, 4).Draw(t, "fields") {
			h = append(h, pinpoint.Field{Name: name.Draw(t, "name"), Value: word.Draw(t, "value")})
		}
		return append(h, pinpoint.Field{Name: "Content-Type", Value: kind.Draw(t, "kind")})
	}
	rapid.Check(t, func(t *rapid.T) {
		c := &pinpoint.Case{Gaps: []pinpoint.Gap{{Says: word.Draw(t, "gap")}}, Swap: header(t), Line: &pinpoint.LogLine{Path: word.Draw(t, "path"), Fields: map[string]string{"cookie": word.Draw(t, "f"), "x": word.Draw(t, "g")}}}
		for range rapid.IntRange(1, 2).Draw(t, "exchanges") {
			c.Exchanges = append(c.Exchanges, pinpoint.Exchange{
				Request: &pinpoint.Request{URL: "https://a.test/" + word.Draw(t, "url"), Header: header(t), Body: []byte(word.Draw(t, "body")), Via: pinpoint.Via{Proxy: word.Draw(t, "proxy")}},
				Answer:  &pinpoint.Answer{Header: header(t), Body: []byte(word.Draw(t, "answer")), Err: word.Draw(t, "err")}})
		}
		before := all(c)
		pinpoint.Seal(c)
		if d := cmp.Diff(before, revealed(c)); d != "" {
			t.Fatalf("revealed (-want +got)\n%s", d)
		}
		if strings.Contains(strings.Join(all(c), "\n"), webToken[:40]) {
			t.Fatalf("a web token is still in %q", all(c))
		}
		pinpoint.Seal(c)
		if d := cmp.Diff(before, revealed(c)); d != "" {
			t.Fatalf("revealed after sealing twice (-want +got)\n%s", d)
		}
	})
}

// Tokens are known by their shape wherever they stand.
func TestRedactShapes(t *testing.T) {
	v := pinpoint.NewVault()
	for _, token := range []string{webToken, "ghp_" + strings.Repeat("a1", 18), "github_pat_" + strings.Repeat("a1", 30), "glpat-" + strings.Repeat("a1", 10), "xoxb-123456789012-abc",
		"sk_live_" + strings.Repeat("a1", 12), "rk_test_" + strings.Repeat("a1", 12), "sk-" + strings.Repeat("a1", 12), "AIza" + strings.Repeat("a", 35), "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----"} {
		text := "before " + token + " behind"
		got := v.Redact(text)
		if strings.Contains(got, token) || v.Reveal(got) != text {
			t.Errorf("Redact of %q is %q", text, got)
		}
	}
}

func FuzzSeal(f *testing.F) {
	f.Add("https://u:p@a.test/?sig=1&x=2#t=3", "Bearer "+webToken, `{"password":"x"}`, "application/json")
	f.Add("https://a.test/", "Digest username=\"u\", response=\"abc\"", "--b\r\nContent-Disposition: form-data; name=\"token\"\r\n\r\n1\r\n--b--", "multipart/form-data; boundary=b")
	f.Add("https://a.test/‹secret:", "‹secret:0 len=1›", "<password>‹secret:</password>", "text/xml")
	f.Fuzz(func(t *testing.T, target, value, body, kind string) {
		c := request(target, pinpoint.Header{{Name: "Content-Type", Value: kind}, {Name: "Authorization", Value: value}, {Name: "Cookie", Value: value}, {Name: "X", Value: value}}, body)
		c.Exchanges[0].Answer = &pinpoint.Answer{Header: pinpoint.Header{{Name: "Set-Cookie", Value: value}, {Name: "Content-Type", Value: kind}}, Body: []byte(body + value)}
		before := all(c)
		pinpoint.Seal(c)
		if d := cmp.Diff(before, revealed(c)); d != "" {
			t.Fatal(d)
		}
	})
}

func ExampleSeal() {
	c := &pinpoint.Case{Exchanges: []pinpoint.Exchange{{Request: &pinpoint.Request{Method: "GET", URL: "https://a.test/",
		Header: pinpoint.Header{{Name: "Authorization", Value: "Bearer abc"}}}}}}
	pinpoint.Seal(c)
	v := c.Exchange().Request.Header.Value("Authorization")
	fmt.Println(strings.HasPrefix(v, "Bearer ‹secret:"), c.Vault.Reveal(v))
	// Output: true Bearer abc
}

// The texts of a page are no secrets because some element's name is one.
func TestSealKeepsPages(t *testing.T) {
	page := `<?xml version="1.0"?><Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message><RequestId>4442587FB7D0A2F9</RequestId><SessionToken>abcdef0123456789</SessionToken></Error>`
	c := &pinpoint.Case{Exchanges: []pinpoint.Exchange{{Request: &pinpoint.Request{Method: "GET", URL: "https://a.test/x"}, Answer: &pinpoint.Answer{Status: 400, Body: []byte(page), Header: pinpoint.Header{{Name: "Content-Type", Value: "application/xml"}}}}}}
	pinpoint.Seal(c)
	got := string(c.Exchanges[0].Answer.Body)
	for _, text := range []string{"<Code>ExpiredToken</Code>", "The provided token has expired.", "4442587FB7D0A2F9"} {
		if !strings.Contains(got, text) {
			t.Errorf("%q is hidden: %s", text, got)
		}
	}
	if strings.Contains(got, "abcdef0123456789") {
		t.Errorf("a token is shown: %s", got)
	}
}

// A page without secrets stays as it is: its title is what a refusal is known by.
func TestSealLeavesPages(t *testing.T) {
	page := "<html>\r\n<head><title>403 Forbidden</title></head>\r\n<body>\r\n<center><h1>403 Forbidden</h1></center>\r\n<hr><center>nginx/1.22.1</center>\r\n</body>\r\n</html>\r\n"
	c := &pinpoint.Case{Exchanges: []pinpoint.Exchange{{Request: &pinpoint.Request{Method: "GET", URL: "http://shop.test/img/"}, Answer: &pinpoint.Answer{Status: 403, Header: pinpoint.Header{{Name: "Content-Type", Value: "text/html"}}, Body: []byte(page)}}}}
	pinpoint.Seal(c)
	if got := string(c.Exchanges[0].Answer.Body); got != page {
		t.Errorf("the page became %q", got)
	}
}
