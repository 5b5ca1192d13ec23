package policy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// body is content that is at hand.
type body struct {
	bytes []byte
	known bool
	asked int
}

func (b *body) Known() bool { return b.known }

func (b *body) Body(max int64) ([]byte, reason.Verdict) {
	b.asked++
	if int64(len(b.bytes)) > max {
		return nil, testTooLarge
	}
	return b.bytes, reason.Verdict{}
}

var testTooLarge = reason.New(reason.Reason{Code: "test.too-large", Status: 413, Title: "t", Says: "s", Fixes: []reason.Fix{{Text: "f"}}, Hint: "h"}).Refuse()

func (b *testbed) signer(a *consumer.Application, keyID string, secret []byte, edit func(*consumer.Credential)) {
	b.t.Helper()
	c := &consumer.Credential{Name: a.Name + "-" + keyID, Application: a, Prefix: keyID, Secret: secret}
	public, err := ParsePublicKey(secret)
	if err != nil {
		b.t.Fatal(err)
	}
	if public != nil {
		c.Public, c.Secret = public, nil
	}
	if edit != nil {
		edit(c)
	}
	b.consumers.AddNamed("hmac", keyID, c)
}

// The request of RFC 9421, appendix B.2.
var rfcLines = []string{"POST /foo?param=Value&Pet=dog", "Host: example.com", "Date: Tue, 20 Apr 2021 02:07:55 GMT", "Content-Type: application/json",
	"Content-Digest: sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:", "Content-Length: 18"}

const rfcSecret = "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ=="

const rfcEd25519 = `-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
-----END PUBLIC KEY-----
`

const rfcRSA = `-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAr4tmm3r20Wd/PbqvP1s2
+QEtvpuRaV8Yq40gjUR8y2Rjxa6dpG2GXHbPfvMs8ct+Lh1GH45x28Rw3Ry53mm+
oAXjyQ86OnDkZ5N8lYbggD4O3w6M6pAvLkhk95AndTrifbIFPNU8PPMO7OyrFAHq
gDsznjPFmTOtCEcN2Z1FpWgchwuYLPL+Wokqltd11nqqzi+bJ9cvSKADYdUAAN5W
Utzdpiy6LbTgSxP7ociU4Tn0g5I6aDZJ7A8Lzo0KSyZYoA485mqcO0GVAdVw9lq4
aOT9v6d+nb4bnNkQVklLQ3fVAvJm+xdDOp9LCNCN48V2pnDOkFV6+U9nV5oyc6XI
2wIDAQAB
-----END PUBLIC KEY-----
`

// TestVectors holds the policy to the test vectors of RFC 9421 for requests (B.2.1, B.2.2, B.2.3, B.2.5, B.2.6) and their
// signature bases. B.2.4 signs a response.
func TestVectors(t *testing.T) {
	b := newTestbed(t)
	acme := b.application("acme")
	secret, _ := base64.StdEncoding.DecodeString(rfcSecret)
	b.signer(acme, "test-shared-secret", secret, nil)
	b.signer(acme, "test-key-ed25519", []byte(rfcEd25519), nil)
	b.signer(acme, "test-key-rsa-pss", []byte(rfcRSA), nil)
	b.now = time.Unix(1618884475, 0)
	for _, v := range []struct{ input, signature, base, components string }{
		{`sig-b25=("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"`,
			`sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:`,
			`"date": Tue, 20 Apr 2021 02:07:55 GMT
"@authority": example.com
"content-type": application/json
"@signature-params": ("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"`, `["@authority", date]`},
		{`sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519"`,
			`sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:`,
			`"date": Tue, 20 Apr 2021 02:07:55 GMT
"@method": POST
"@path": /foo
"@authority": example.com
"content-type": application/json
"content-length": 18
"@signature-params": ("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519"`, `["@method", "@path"]`},
		{`sig-b21=();created=1618884473;keyid="test-key-rsa-pss";nonce="b3k2pp5k7z-50gnwp.yemd"`,
			`sig-b21=:d2pmTvmbncD3xQm8E9ZV2828BjQWGgiwAaw5bAkgibUopemLJcWDy/lkbbHAve4cRAtx31Iq786U7it++wgGxbtRxf8Udx7zFZsckzXaJMkA7ChG52eSkFxykJeNqsrWH5S+oxNFlD4dzVuwe8DhTSja8xxbR/Z2cOGdCbzR72rgFWhzx2VjBqJzsPLMIQKhO4DGezXehhWwE56YCE+O6c0mKZsfxVrogUvA4HELjVKWmAvtl6UnCh8jYzuVG5WSb/QEVPnP5TmcAnLH1g+s++v6d4s8m0gCw1fV5/SITLq9mhho8K3+7EPYTU8IU1bLhdxO5Nyt8C8ssinQ98Xw9Q==:`,
			`"@signature-params": ();created=1618884473;keyid="test-key-rsa-pss";nonce="b3k2pp5k7z-50gnwp.yemd"`, `[]`},
		{`sig-b22=("@authority" "content-digest" "@query-param";name="Pet");created=1618884473;keyid="test-key-rsa-pss";tag="header-example"`,
			`sig-b22=:LjbtqUbfmvjj5C5kr1Ugj4PmLYvx9wVjZvD9GsTT4F7GrcQEdJzgI9qHxICagShLRiLMlAJjtq6N4CDfKtjvuJyE5qH7KT8UCMkSowOB4+ECxCmT8rtAmj/0PIXxi0A0nxKyB09RNrCQibbUjsLS/2YyFYXEu4TRJQzRw1rLEuEfY17SARYhpTlaqwZVtR8NV7+4UKkjqpcAoFqWFQh62s7Cl+H2fjBSpqfZUJcsIk4N6wiKYd4je2U/lankenQ99PZfB4jY3I5rSV2DSBVkSFsURIjYErOs0tFTQosMTAoxk//0RoKUqiYY8Bh0aaUEb0rQl3/XaVe4bXTugEjHSw==:`,
			`"@authority": example.com
"content-digest": sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:
"@query-param";name="Pet": dog
"@signature-params": ("@authority" "content-digest" "@query-param";name="Pet");created=1618884473;keyid="test-key-rsa-pss";tag="header-example"`, `["@authority"]`},
		{`sig-b23=("date" "@method" "@path" "@query" "@authority" "content-type" "content-digest" "content-length");created=1618884473;keyid="test-key-rsa-pss"`,
			`sig-b23=:bbN8oArOxYoyylQQUU6QYwrTuaxLwjAC9fbY2F6SVWvh0yBiMIRGOnMYwZ/5MR6fb0Kh1rIRASVxFkeGt683+qRpRRU5p2voTp768ZrCUb38K0fUxN0O0iC59DzYx8DFll5GmydPxSmme9v6ULbMFkl+V5B1TP/yPViV7KsLNmvKiLJH1pFkh/aYA2HXXZzNBXmIkoQoLd7YfW91kE9o/CCoC1xMy7JA1ipwvKvfrs65ldmlu9bpG6A9BmzhuzF8Eim5f8ui9eH8LZH896+QIF61ka39VBrohr9iyMUJpvRX2Zbhl5ZJzSRxpJyoEZAFL2FUo5fTIztsDZKEgM4cUA==:`,
			`"date": Tue, 20 Apr 2021 02:07:55 GMT
"@method": POST
"@path": /foo
"@query": ?param=Value&Pet=dog
"@authority": example.com
"content-type": application/json
"content-digest": sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:
"content-length": 18
"@signature-params": ("date" "@method" "@path" "@query" "@authority" "content-type" "content-digest" "content-length");created=1618884473;keyid="test-key-rsa-pss"`, `["@method", "@authority", "@path", "@query", content-digest]`},
	} {
		c := b.method("hmac", "{digest: optional, components: "+v.components+"}").(*hmacCheck)
		x := b.call(append(rfcLines, "Signature-Input: "+v.input, "Signature: "+v.signature)...)
		x.Content = &body{bytes: []byte(`{"hello": "world"}`)}
		wants(t, c.Check(x), "")
		if x.Application != acme {
			t.Errorf("%s: application %v", v.input, x.Application)
		}
		s, _, err := c.signature(x)
		if err != nil {
			t.Fatal(err)
		}
		if base, err := s.base(x); string(base) != v.base || err != nil {
			t.Errorf("base\n%s\nwant\n%s\n%v", base, v.base, err)
		}
		wants(t, c.Check(b.call(append(rfcLines, "Signature-Input: "+v.input, "Signature: "+strings.Replace(v.signature, "=:", "=:AAAA", 1))...)), "hmac.signature")
		other := append([]string{}, append(rfcLines, "Signature-Input: "+v.input, "Signature: "+v.signature)...)
		if strings.Contains(v.input, `"date"`) {
			other[2] = strings.Replace(other[2], "02:07:55", "02:07:56", 1)
			wants(t, c.Check(b.call(other...)), "hmac.signature")
		}
	}
}

// sign adds a signature with a secret to the lines of a call.
func (b *testbed) sign(secret []byte, components, params string, lines ...string) []string {
	b.t.Helper()
	return b.signed(func(base []byte) []byte { return macOf(secret, base) }, components, params, lines...)
}

func (b *testbed) signed(with func(base []byte) []byte, components, params string, lines ...string) []string {
	b.t.Helper()
	with2 := append(append([]string{}, lines...), "Signature-Input: s=("+components+")"+params, "Signature: s=:AAAA:")
	x := b.call(with2...)
	c := &hmacCheck{consumers: b.consumers}
	s, _, err := c.signature(x)
	if err != nil {
		b.t.Fatal(err)
	}
	base, err := s.base(x)
	if err != nil {
		b.t.Fatal(err)
	}
	with2[len(with2)-1] = "Signature: s=:" + base64.StdEncoding.EncodeToString(with(base)) + ":"
	return with2
}

func TestHMAC(t *testing.T) {
	b := newTestbed(t)
	acme := b.application("acme")
	banned := &consumer.Application{Name: "banned", Suspended: true}
	b.consumers.AddApplication(banned)
	secret := []byte("a secret of the test")
	b.signer(acme, "k", secret, nil)
	b.signer(acme, "old", secret, func(c *consumer.Credential) { c.Revoked = true })
	b.signer(acme, "late", secret, func(c *consumer.Credential) { c.Until = b.now })
	b.signer(acme, "soon", secret, func(c *consumer.Credential) { c.From = b.now.Add(time.Hour) })
	b.signer(banned, "ban", secret, nil)
	c := b.method("hmac", `{}`)
	const all = `"@method" "@authority" "@path" "@query"`
	at := func(d time.Duration) string { return fmt.Sprintf(";created=%d", b.now.Add(d).Unix()) }
	now := at(0)
	sum := sha256.Sum256([]byte("hello"))
	digest := "Content-Digest: sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
	sum5 := sha512.Sum512([]byte("hello"))
	digest5 := "Content-Digest: sha-512=:" + base64.StdEncoding.EncodeToString(sum5[:]) + ":, unknown=:AAAA:"
	ask := func(content string, lines ...string) (*Exchange, reason.Verdict) {
		x := b.call(lines...)
		x.Content = &body{bytes: []byte(content)}
		return x, c.Check(x)
	}

	for _, pass := range [][]string{
		b.sign(secret, all, now+`;keyid="k"`, "GET /a/../b?x=1"),
		b.sign(secret, all, now+`;keyid="k";alg="hmac-sha256"`, "GET /"),
		b.sign(secret, `"@method" "@target-uri"`, at(-5*time.Minute)+`;keyid="k"`, "GET /?"),
		b.sign(secret, `"@method" "host" "@request-target"`, at(30*time.Second)+`;keyid="k"`, "GET /a?b", "Host: SHOP.test:8443"),
		b.sign(secret, all+` "x-a" "cookie" "x-b";bs "x-c";key="q"`, now+`;keyid="k"`, "GET /", "X-A:  1 ", "X-A: 2", "Cookie: a=b", "X-B: c, d", "X-C: p=1, q=(a b);r"),
		b.sign(secret, all+` "@query-param";name="a%20b" "@scheme"`, now+`;keyid="k"`, "GET /?a+b=c%2Fd+e&f=1"),
		b.sign(secret, all, now+`;keyid="k";expires=`+fmt.Sprint(b.now.Unix()), "GET /"),
		b.sign(secret, all+` "content-digest"`, now+`;keyid="k"`, "POST /", "Content-Length: 5", digest),
		b.sign(secret, all+` "content-digest"`, now+`;keyid="k"`, "POST /", "Transfer-Encoding: chunked", digest5),
	} {
		x, v := ask("hello", pass...)
		wants(t, v, "")
		if !v.Refused() && x.Application != acme {
			t.Errorf("%q: application %v", pass, x.Application)
		}
	}

	signed := func(components, params string, lines ...string) []string {
		return b.sign(secret, components, params, lines...)
	}
	change := func(lines []string, from, to string) []string {
		out := append([]string{}, lines...)
		for i := range out {
			out[i] = strings.Replace(out[i], from, to, 1)
		}
		return out
	}
	good := signed(all, now+`;keyid="k"`, "GET /a?b=c", "X-A: 1")
	for _, r := range []struct {
		code, text string
		lines      []string
	}{
		{"hmac.missing", "none", []string{"GET /"}},
		{"hmac.missing", "older draft", []string{"GET /", `Authorization: Signature keyId="k"`}},
		{"hmac.missing", "another form", []string{"GET /", `Authorization: HMAC abc`}},
		{"hmac.malformed", "without Signature-Input", []string{"GET /", "Signature: s=:AAAA:"}},
		{"hmac.malformed", "not in Signature", []string{"GET /", `Signature-Input: s=();created=1;keyid="k"`}},
		{"hmac.malformed", "no dictionary", []string{"GET /", `Signature-Input: S=(`, "Signature: s=:AAAA:"}},
		{"hmac.malformed", "no dictionary", []string{"GET /", `Signature-Input: s=()`, "Signature: s=:A"}},
		{"hmac.malformed", "no list of components", []string{"GET /", `Signature-Input: s="x"`, "Signature: s=:AAAA:"}},
		{"hmac.malformed", "no byte sequence", []string{"GET /", `Signature-Input: s=();keyid="k"`, `Signature: s="AAAA"`}},
		{"hmac.malformed", "no parameter keyid", []string{"GET /", `Signature-Input: s=();created=1`, "Signature: s=:AAAA:"}},
		{"hmac.malformed", "no time in seconds", []string{"GET /", `Signature-Input: s=();created="now";keyid="k"`, "Signature: s=:AAAA:"}},
		{"hmac.malformed", "the parameter keyid", []string{"GET /", `Signature-Input: s=();created=1;keyid=7`, "Signature: s=:AAAA:"}},
		{"hmac.malformed", "small letters", []string{"GET /", `Signature-Input: s=("X-A");created=1;keyid="k"`, "Signature: s=:AAAA:"}},
		{"hmac.malformed", "x-a twice", []string{"GET /", `Signature-Input: s=("x-a" "x-a");created=1;keyid="k"`, "Signature: s=:AAAA:"}},
		{"hmac.malformed", "more than 64 components", []string{"GET /", `Signature-Input: s=(` + strings.Repeat(`"a" `, 65) + `);created=1;keyid="k"`, "Signature: s=:AAAA:"}},
		{"hmac.malformed", "more than 8 signatures", []string{"GET /", `Signature-Input: a=(),b=(),c=(),d=(),e=(),f=(),g=(),h=(),i=()`, "Signature: s=:AAAA:"}},
		{"hmac.malformed", "the header x-gone is signed and not there", []string{"GET /", `Signature-Input: s=(` + all + ` "x-gone")` + now + `;keyid="k"`, "Signature: s=:AAAA:"}},
		{"hmac.malformed", "the parameter sf, which is not supported", []string{"GET /", "X-A: 1", `Signature-Input: s=(` + all + ` "x-a";sf)` + now + `;keyid="k"`, "Signature: s=:AAAA:"}},
		{"hmac.malformed", "no component @status", []string{"GET /", `Signature-Input: s=(` + all + ` "@status")` + now + `;keyid="k"`, "Signature: s=:AAAA:"}},
		{"hmac.malformed", "is there 2 times", []string{"GET /?a=1&a=2", `Signature-Input: s=(` + all + ` "@query-param";name="a")` + now + `;keyid="k"`, "Signature: s=:AAAA:"}},
		{"hmac.unknown-key", `keyid nobody`, change(good, `keyid="k"`, `keyid="nobody"`)},
		{"hmac.algorithm", "alg=ed25519", change(good, `keyid="k"`, `keyid="k";alg="ed25519"`)},
		{"hmac.component-missing", "does not cover @query", signed(`"@method" "@authority" "@path"`, now+`;keyid="k"`, "GET /")},
		{"hmac.component-missing", "does not cover @path", signed(`"@method" "@authority" "@query"`, now+`;keyid="k"`, "GET /")},
		{"hmac.component-missing", "the parameter created", signed(all, `;keyid="k"`, "GET /")},
		{"hmac.component-missing", "does not cover content-digest", signed(all, now+`;keyid="k"`, "POST /", "Content-Length: 5")},
		{"hmac.component-missing", "does not cover content-digest", signed(all, now+`;keyid="k"`, "POST /", "Transfer-Encoding: chunked", digest)},
		{"hmac.component-missing", "does not cover content-digest", signed(all+` "content-digest";bs`, now+`;keyid="k"`, "POST /", "Content-Length: 5", digest)},
		{"hmac.signature", "another one", change(good, "GET /a", "GET /b")},
		{"hmac.signature", "another one", change(good, "GET ", "POST ")},
		{"hmac.signature", "another one", change(good, "b=c", "b=d")},
		{"hmac.signature", "another one", append(change(good, "X-A", "X-B"), "Host: evil.test")},
		{"hmac.signature", "it has 3 bytes", change(good, good[len(good)-1], "Signature: s=:AAAA:")},
		{"hmac.signature", "another one", b.sign([]byte("another secret"), all, now+`;keyid="k"`, "GET /")},
		{"hmac.signature", "another one", change(good, fmt.Sprint(b.now.Unix()), fmt.Sprint(b.now.Unix()+1))},
		{"hmac.signature-expired", "6m ago", signed(all, at(-6*time.Minute)+`;keyid="k"`, "GET /")},
		{"hmac.signature-expired", "it counts for 10 s", signed(all, at(-time.Minute)+fmt.Sprintf(`;expires=%d;keyid="k"`, b.now.Unix()-50), "GET /")},
		{"hmac.skew", "it is 45 s ahead", signed(all, at(45*time.Second)+`;keyid="k"`, "GET /")},
		{"hmac.digest", "the 5 bytes of content have sha-256=:", signed(all+` "content-digest"`, now+`;keyid="k"`, "POST /", "Content-Length: 5", strings.Replace(digest, "=:", "=:AAAA", 1))},
		{"hmac.digest", "neither sha-256 nor sha-512", signed(all+` "content-digest"`, now+`;keyid="k"`, "POST /", "Content-Length: 5", "Content-Digest: md5=:AAAA:")},
		{"hmac.digest", "no dictionary", signed(all+` "content-digest"`, now+`;keyid="k"`, "POST /", "Content-Length: 5", "Content-Digest: (")},
		{"hmac.digest", "the 5 bytes", signed(all+` "content-digest"`, now+`;keyid="k"`, "POST /", "Content-Length: 5", digest+", sha-512=:AAAA:")},
		{"hmac.revoked", "old", signed(all, now+`;keyid="old"`, "GET /")},
		{"hmac.expired", "0 s ago", signed(all, now+`;keyid="late"`, "GET /")},
		{"hmac.not-yet-valid", "in 1h", signed(all, now+`;keyid="soon"`, "GET /")},
		{"hmac.signature", "", b.sign([]byte("another secret"), all, now+`;keyid="old"`, "GET /")}, // strangers are not told that it was revoked
		{"application.suspended", "banned", signed(all, now+`;keyid="ban"`, "GET /")},
	} {
		x, v := ask("hello", r.lines...)
		wants(t, v, r.code, r.text)
		if v.Refused() && v.Reason.Status == 401 && !strings.HasPrefix(x.Extra.Get(wire.WWWAuthenticate), "Signature ") {
			t.Errorf("%s is a 401 without a challenge", r.code)
		}
		if v.Refused() && v.Reason.Status == 401 && x.Application != nil {
			t.Errorf("%s has identified %v", r.code, x.Application.Name)
		}
	}

	x := b.call("OPTIONS /", "Origin: https://shop.test", "Access-Control-Request-Method: GET")
	x.Preflight = true
	wants(t, c.Check(x), "cors.preflight", "HTTP message signature")

	// Content is read of those only whose signature is right, and no more than is allowed.
	content := &body{bytes: []byte("hello")}
	x = b.call(b.sign([]byte("another"), all+` "content-digest"`, now+`;keyid="k"`, "POST /", "Content-Length: 5", digest)...)
	x.Content = content
	wants(t, c.Check(x), "hmac.signature")
	if content.asked != 0 {
		t.Error("a stranger had content read")
	}
	_, v := ask(strings.Repeat("x", 1<<20+1), signed(all+` "content-digest"`, now+`;keyid="k"`, "POST /", "Content-Length: 1048577", digest)...)
	wants(t, v, "test.too-large")
}

// TestHMACLabels: of several signatures that counts whose key is known, or the one that is asked for.
func TestHMACLabels(t *testing.T) {
	b := newTestbed(t)
	secret := []byte("secret")
	b.signer(b.application("acme"), "k", secret, nil)
	mine := b.sign(secret, `"@path"`, fmt.Sprintf(`;created=%d;keyid="k"`, b.now.Unix()), "GET /")
	proxys := append(mine, `Signature-Input: ttrp=("@path");created=1;keyid="proxy"`, "Signature: ttrp=:AAAA:")
	swapped := []string{"GET /", proxys[3], proxys[4], proxys[1], proxys[2]}
	for _, lines := range [][]string{proxys, swapped} {
		wants(t, b.method("hmac", `{components: ["@path"]}`).Check(b.call(lines...)), "")
	}
	wants(t, b.method("hmac", `{components: ["@path"], label: s}`).Check(b.call(proxys...)), "")
	wants(t, b.method("hmac", `{components: ["@path"], label: ttrp}`).Check(b.call(proxys...)), "hmac.unknown-key")
	wants(t, b.method("hmac", `{components: ["@path"], label: other}`).Check(b.call(proxys...)), "hmac.malformed", "no signature with the label other")
}

func TestHMACNonce(t *testing.T) {
	b := newTestbed(t)
	secret := []byte("secret")
	b.signer(b.application("acme"), "k", secret, nil)
	kept := map[string]Kept{}
	made := func() Check {
		c, problems := b.keeping(kept, "hmac", `{components: ["@path"], nonce: required, maxAge: 1m, leeway: 10s}`, nil)
		if problems.HasErrors() {
			t.Fatal(problems)
		}
		return c.(Check)
	}
	c := made()
	lines := b.sign(secret, `"@path"`, fmt.Sprintf(`;created=%d;keyid="k";nonce="n1"`, b.now.Unix()), "GET /")
	x := b.call(lines...)
	x.Explaining = true
	wants(t, c.Check(x), "") // asking spends nothing
	wants(t, c.Check(b.call(lines...)), "")
	wants(t, c.Check(b.call(lines...)), "hmac.replayed", "the nonce n1 again")
	x.Extra = x.Extra[:0]
	wants(t, c.Check(x), "hmac.replayed")
	c = made() // the next revision remembers
	wants(t, c.Check(b.call(lines...)), "hmac.replayed")
	wants(t, c.Check(b.call(b.sign(secret, `"@path"`, fmt.Sprintf(`;created=%d;keyid="k"`, b.now.Unix()), "GET /")...)), "hmac.component-missing", "the parameter nonce")
	b.now = b.now.Add(70 * time.Second)
	wants(t, c.Check(b.call(lines...)), "hmac.replayed") // for as long as it counts
	b.now = b.now.Add(time.Second)
	wants(t, c.Check(b.call(lines...)), "hmac.signature-expired")
}

// TestHMACNonceShared: a signature that one node has accepted is refused by the others. While the store is away each
// node remembers alone, or refuses, as is set; a call that was refused for that can be made again.
func TestHMACNonceShared(t *testing.T) {
	b := newTestbed(t)
	secret := []byte("secret")
	b.signer(b.application("acme"), "k", secret, nil)
	const config = `{components: ["@path"], nonce: required, maxAge: 1m, leeway: 10s}`
	m := b.shares("local")
	first, second := b.method("hmac", config), b.method("hmac", config) // each with nonces of its own
	signed := func(nonce string) []string {
		return b.sign(secret, `"@path"`, fmt.Sprintf(`;created=%d;keyid="k";nonce=%q`, b.now.Unix(), nonce), "GET /")
	}
	x := b.call(signed("n1")...)
	x.Explaining = true
	wants(t, first.Check(x), "")
	wants(t, first.Check(b.call(signed("n1")...)), "")
	wants(t, second.Check(b.call(signed("n1")...)), "hmac.replayed", "the nonce n1 again")
	x.Extra = x.Extra[:0]
	wants(t, second.Check(x), "hmac.replayed")
	wants(t, second.Check(b.call(signed("n2")...)), "")
	m.FastForward(82 * time.Second) // nothing is kept for longer than it counts
	if keys := m.Keys(); slices.ContainsFunc(keys, func(k string) bool { return strings.HasPrefix(k, "test:n:") }) {
		t.Errorf("the store keeps %q", keys)
	}

	m.SetError("LOADING")
	x = b.call(signed("n3")...)
	wants(t, first.Check(x), "")
	if len(x.Notes) != 1 || !strings.Contains(x.Notes[0].Text, "nonces were remembered by this node alone") {
		t.Errorf("the record says %v", x.Notes)
	}
	wants(t, first.Check(b.call(signed("n3")...)), "hmac.replayed")
	wants(t, second.Check(b.call(signed("n3")...)), "") // nobody could know
	b.shared.WhenAway = "closed"
	wants(t, first.Check(b.call(signed("n4")...)), "counter.unavailable")
	m.SetError("")
	away := time.Now()
	for b.shared.Store.Why() != "" && time.Since(away) < 20*time.Second {
		time.Sleep(5 * time.Millisecond)
	}
	wants(t, first.Check(b.call(signed("n4")...)), "")
}

// TestHMACBaseHidesSecrets: the base is for owners, credentials are not.
func TestHMACBaseHidesSecrets(t *testing.T) {
	b := newTestbed(t)
	b.signer(b.application("acme"), "k", []byte("secret"), nil)
	lines := b.sign([]byte("another"), `"@method" "@authority" "@target-uri" "authorization" "cookie" "x-api-key" "x-a"`, fmt.Sprintf(`;created=%d;keyid="k"`, b.now.Unix()),
		"GET /a?api_key=hidden1&b", "Authorization: Bearer hidden2", "Cookie: s=hidden3", "X-Api-Key: hidden4", "X-A: shown")
	v := b.method("hmac", `{}`).Check(b.call(lines...))
	wants(t, v, "hmac.signature")
	f, ok := v.Facts.Find("base", reason.ToOwner)
	if _, told := v.Facts.Find("base", reason.ToCaller); told || !ok {
		t.Error("the base is for owners and operators")
	}
	for _, text := range []string{`"@target-uri": https://shop.test/a?api_key=(7 bytes)&b`, `"x-a": shown`, `"authorization": (14 bytes that are not shown)`, `"@signature-params": ("@method"`} {
		if !strings.Contains(f.Text(), text) {
			t.Errorf("the base does not show %s:\n%s", text, f.Text())
		}
	}
	if strings.Contains(fmt.Sprint(v.Facts), "hidden") {
		t.Errorf("secrets are facts: %v", v.Facts)
	}
}

// TestKeyPairs verifies signatures of every algorithm with public keys.
func TestKeyPairs(t *testing.T) {
	b := newTestbed(t)
	acme := b.application("acme")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	file := func(key crypto.Signer) []byte {
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}
	raw := func(k *ecdsa.PrivateKey, digest []byte) []byte {
		r, s, err := ecdsa.Sign(rand.Reader, k, digest)
		if err != nil {
			t.Fatal(err)
		}
		size := (k.Params().BitSize + 7) / 8
		out := make([]byte, 2*size)
		r.FillBytes(out[:size])
		s.FillBytes(out[size:])
		return out
	}
	must := func(v []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	c := b.method("hmac", `{}`)
	for alg, k := range map[string]struct {
		key  crypto.Signer
		sign func(base []byte) []byte
	}{
		"ed25519": {edKey, func(base []byte) []byte { return ed25519.Sign(edKey, base) }},
		"rsa-pss-sha512": {rsaKey, func(base []byte) []byte {
			sum := sha512.Sum512(base)
			return must(rsa.SignPSS(rand.Reader, rsaKey, crypto.SHA512, sum[:], &rsa.PSSOptions{SaltLength: 64}))
		}},
		"rsa-v1_5-sha256": {rsaKey, func(base []byte) []byte {
			sum := sha256.Sum256(base)
			return must(rsa.SignPKCS1v15(nil, rsaKey, crypto.SHA256, sum[:]))
		}},
		"ecdsa-p256-sha256": {p256, func(base []byte) []byte { sum := sha256.Sum256(base); return raw(p256, sum[:]) }},
		"ecdsa-p384-sha384": {p384, func(base []byte) []byte { sum := sha512.Sum384(base); return raw(p384, sum[:]) }},
	} {
		b.signer(acme, alg, file(k.key), nil)
		params := fmt.Sprintf(`;created=%d;keyid="%s";alg="%s"`, b.now.Unix(), alg, alg)
		lines := b.signed(k.sign, `"@method" "@authority" "@path" "@query"`, params, "GET /a")
		wants(t, c.Check(b.call(lines...)), "")
		lines[0] = "GET /b"
		wants(t, c.Check(b.call(lines...)), "hmac.signature")
		lines[len(lines)-1] = "Signature: s=:AAAA:"
		wants(t, c.Check(b.call(lines...)), "hmac.signature")
		// The public key is no secret: a caller cannot make a MAC of it.
		forged := b.sign(file(k.key), `"@method" "@authority" "@path" "@query"`, fmt.Sprintf(`;created=%d;keyid="%s"`, b.now.Unix(), alg), "GET /a")
		wants(t, c.Check(b.call(forged...)), "hmac.signature")
		forged = b.sign(file(k.key), `"@method" "@authority" "@path" "@query"`, fmt.Sprintf(`;created=%d;keyid="%s";alg="hmac-sha256"`, b.now.Unix(), alg), "GET /a")
		wants(t, c.Check(b.call(forged...)), "hmac.algorithm")
	}
	small, _ := rsa.GenerateKey(rand.Reader, 1024)
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})
	bad := [][]byte{file(p521), private, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")})}
	if small != nil {
		bad = append(bad, file(small))
	}
	for _, text := range bad {
		if k, err := ParsePublicKey(text); err == nil {
			t.Errorf("%s is read as %T", text, k)
		}
	}
}

func TestHMACProblems(t *testing.T) {
	b := newTestbed(t)
	for config, text := range map[string]string{
		`{components: ["@pat"]}`: "no component", `{components: ["x y"]}`: "no header name", `{components: ["@query-param"]}`: "cannot be asked for",
		`{components: [date, Date]}`: "listed twice", `{digest: maybe}`: "", `{label: "S 1"}`: "",
	} {
		if _, problems := b.keeping(map[string]Kept{}, "hmac", config, nil); !problems.HasErrors() || !strings.Contains(problems[0].Message, text) {
			t.Errorf("%s: %v", config, problems)
		}
	}
	if _, problems := b.keeping(map[string]Kept{}, "hmac", `{components: ["@method"]}`, nil); len(problems) != 1 || problems[0].Code != "hmac.path-unsigned" {
		t.Errorf("problems %v", problems)
	}
}

// FuzzSignature feeds fields of strangers to what reads them: no panic, and no signature that was not made
// with the secret.
func FuzzSignature(f *testing.F) {
	for _, s := range []string{`s=("@method" "@path");created=1;keyid="k"`, `s=("x-a";key="b" "x-a";bs "@query-param";name="a");created=1;keyid="k"`, `s=();keyid="k",t=()`, `s=(`, `s=("@status";req);keyid="k"`} {
		f.Add(s, "s=:AAAA:", "a=1, b=?0", "a=b&c=%zz%C3")
	}
	f.Fuzz(func(t *testing.T, input, signature, field, query string) {
		if len(input)+len(signature)+len(field)+len(query) > 8<<10 {
			return
		}
		b := newTestbed(t)
		b.signer(b.application("acme"), "k", []byte("a secret that no fuzzer finds"), nil)
		x := &Exchange{}
		req := &wire.Request{Method: "GET", Target: "/?" + query, Path: "/", Query: query, HasQuery: true, Host: "shop.test"}
		for name, v := range map[string]string{"Signature-Input": input, "Signature": signature, "X-A": field} {
			req.Fields.Add(name, v)
		}
		x.Reset(req, b.now)
		x.Scheme, x.Route = "https", &b.route
		c := b.method("hmac", `{components: []}`)
		if v := c.Check(x); !v.Refused() || v.Tell(reason.ToOperator).Says == v.Reason.Title {
			t.Fatalf("%+v", v)
		}
	})
}
