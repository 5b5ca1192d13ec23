package gateway_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/whygate/whygate/whytest"
)

// hostile is a call that is made to cost.
type hostile struct {
	name, path string
	header     []string
	body       []byte
	reason     string // "": it is answered by the upstream
	most       uint64 // bytes that node and test together may allocate for it
}

const hostileSecret = "0123456789abcdef0123456789abcdef"

// hostileToken signs claims with the secret of the document.
func hostileToken(claims any) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(`{"alg":"HS256","typ":"at+jwt"}`)) + "." + encode(payload)
	mac := hmac.New(sha256.New, []byte(hostileSecret))
	mac.Write([]byte(signed))
	return "Authorization: Bearer " + signed + "." + encode(mac.Sum(nil))
}

// bombOf is so many bytes of nothing, packed.
func bombOf(size int, pack func(io.Writer) io.WriteCloser) []byte {
	var b bytes.Buffer
	w := pack(&b)
	piece := bytes.Repeat([]byte(" "), 1<<20)
	for range size >> 20 {
		w.Write(piece)
	}
	w.Close()
	return b.Bytes()
}

func hostileCalls() []hostile {
	const mega = 1 << 20
	audiences := make([]string, 1000)
	for i := range audiences {
		audiences[i] = fmt.Sprintf("aud-%d", i)
	}
	soon := time.Now().Add(time.Hour).Unix()
	nested := bytes.Repeat([]byte("["), 900_000)
	objects := bytes.Repeat([]byte(`{"a":`), 180_000)
	var keys bytes.Buffer
	keys.WriteByte('{')
	for i := range 80_000 {
		fmt.Fprintf(&keys, `"%d":0,`, i)
	}
	keys.WriteString(`"z":0}`)
	gzipped := bombOf(1<<30, func(w io.Writer) io.WriteCloser { z, _ := gzip.NewWriterLevel(w, 9); return z })
	deflated := bombOf(1<<30, func(w io.Writer) io.WriteCloser { z, _ := zlib.NewWriterLevel(w, 9); return z })
	packed := bombOf(1<<30, func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w); return z })
	typed := func(more ...string) []string { return append([]string{"Content-Type: application/json"}, more...) }
	backtracking := []byte(`{"name":"` + strings.Repeat("a", 900_000) + `!"}`)
	calls := []hostile{
		{"token of 10 MB in a header", "/jwt", []string{"Authorization: Bearer " + strings.Repeat("a", 10*mega)}, nil, "request.headers-too-large", 16 * mega},
		{"token of 10 MB in the query", "/jwt?token=" + strings.Repeat("a", 10*mega), nil, nil, "request.", 32 * mega},
		{"token of 28 KB of points", "/jwt", []string{"Authorization: Bearer " + strings.Repeat(".", 28000)}, nil, "jwt.malformed", 4 * mega},
		{"1,000 audiences", "/jwt", []string{hostileToken(map[string]any{"aud": audiences, "exp": soon})}, nil, "jwt.malformed", 4 * mega},
		{"claims 5,000 levels deep", "/jwt", []string{hostileToken(json.RawMessage(`{"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "}"))}, nil, "jwt.malformed", 4 * mega},
		{"5,000 scopes", "/scopes", []string{hostileToken(map[string]any{"exp": soon, "aud": "api", "scope": strings.Repeat("s ", 5000)})}, nil, "scopes.insufficient", 4 * mega},
		{"name of a program for a regular expression", "/bot", []string{"User-Agent: " + strings.Repeat("a", 20000) + "!"}, nil, "bot.denied", 4 * mega},
		{"address list of 2,000 hops", "/bot", []string{"X-Forwarded-For: " + strings.Repeat("203.0.113.7, ", 2000) + "203.0.113.7"}, nil, "", 4 * mega},
		{"text for a regular expression in a schema", "/schema", typed(), backtracking, "schema.violated", 16 * mega},
		{"text for a regular expression in a rule", "/rule", typed(), backtracking, "rule.failed", 24 * mega},
		{"number of 900,000 digits", "/schema", typed(), []byte(`{"count":1` + strings.Repeat("0", 900_000) + "}"), "schema.malformed", 16 * mega},
		{"number with a giant exponent", "/schema", typed(), []byte(`{"count":1e999999999}`), "schema.malformed", 4 * mega},
		{"cookies without end", "/csrf", []string{"Cookie: " + strings.Repeat("csrf_token=a; ", 2000)}, []byte("a"), "csrf.missing-token", 16 * mega},
		{"parts of a form without end", "/csrf", []string{"Cookie: csrf_token=a", "Content-Type: multipart/form-data; boundary=b"}, bytes.Repeat([]byte("--b\r\n\r\n\r\n"), 100_000), "csrf.missing-token", 16 * mega},
		{"signatures without end", "/hmac", []string{"Signature-Input: " + strings.Repeat(`a=("@method");keyid="k",`, 800) + `a=()`, "Signature: a=:AA==:"}, nil, "hmac.", 16 * mega},
	}
	for _, path := range []string{"/limits", "/schema", "/rule", "/waf"} {
		calls = append(calls, hostile{"lists 900,000 levels deep at " + path, path, typed(), nested, "~", 32 * mega},
			hostile{"objects 180,000 levels deep at " + path, path, typed(), objects, "~", 32 * mega})
		for coding, bomb := range map[string][]byte{"gzip": gzipped, "deflate": deflated, "zstd": packed} {
			calls = append(calls, hostile{"1 GiB in " + fmt.Sprint(len(bomb)>>10) + " KiB of " + coding + " at " + path, path, typed("Content-Encoding: " + coding), bomb, "~", 32 * mega})
		}
		calls = append(calls, hostile{"gzip within gzip at " + path, path, typed("Content-Encoding: gzip, gzip"), gzipped, "~", 24 * mega})
	}
	calls = append(calls, hostile{"80,000 keys", "/limits", typed(), keys.Bytes(), "json.too-many-keys", 16 * mega})
	return calls
}

func hostileDocument(t testing.TB, engine, upstream string) string {
	schema := filepath.Join(t.TempDir(), "order.json")
	if err := os.WriteFile(schema, []byte(`{"type": "object", "properties": {"name": {"type": "string", "pattern": "^(a+)+$"}, "count": {"type": "integer", "maximum": 100}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("WHYGATE_HOSTILE_SECRET", hostileSecret)
	u, err := url.Parse(upstream)
	if err != nil {
		t.Fatal(err)
	}
	jwt := "{jwt: {secret: {env: WHYGATE_HOSTILE_SECRET}, algorithms: [HS256], audience: [api], query: token}}"
	return whytest.GatewayDocument(engine, "  disclosure: {anonymous: operator}\n") + "---\n" + whytest.API("http://"+u.Host, "/", "  - size: {body: 2MiB}\n") + fmt.Sprintf(`  routes:
  - {path: /jwt, policies: [%s]}
  - {path: /scopes, policies: [%s, {scopes: {all: [orders]}}]}
  - {path: /bot, policies: [{bot: {denyRegexps: ["(a+)+$"]}}]}
  - {path: /limits, policies: [{json-limits: {}}]}
  - {path: /schema, policies: [{schema: {body: %s}}]}
  - {path: /rule, policies: [{rule: {default: deny, rules: [{name: r, effect: allow, when: 'body.name.matches("^(a+)+$")'}]}}]}
  - {path: /waf, policies: [{waf: {maxBody: 2MiB}}]}
  - {path: /csrf, policies: [csrf]}
  - {path: /hmac, policies: [hmac]}
`, jwt, jwt, schema)
}

// fling makes the call over a connection of its own, and reads the answer while it may still be sending.
func fling(t testing.TB, addr string, h *hostile) (status int, why string) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(2 * time.Minute))
	go func() { // what the node does not want any more fails to be sent
		method := "GET"
		if h.body != nil {
			method = "POST"
		}
		w := bufio.NewWriterSize(nc, 64<<10)
		fmt.Fprintf(w, "%s %s HTTP/1.1\r\nHost: shop.test\r\n", method, h.path)
		for _, line := range h.header {
			w.WriteString(line)
			w.WriteString("\r\n")
		}
		if h.body != nil {
			fmt.Fprintf(w, "Content-Length: %d\r\n", len(h.body))
		}
		w.WriteString("\r\n")
		w.Write(h.body)
		w.Flush()
	}()
	res, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatalf("%s: no answer: %v", h.name, err)
	}
	io.Copy(io.Discard, res.Body)
	return res.StatusCode, res.Header.Get("Whygate-Reason")
}

// Whatever is sent, it is refused with a reason of its own, in bounded memory, and the node goes on serving.
func TestHostileCalls(t *testing.T) {
	if testing.Short() {
		t.Skip("sends gibibytes in zip bombs")
	}
	calls := hostileCalls()
	for _, engine := range []string{"wire", "std"} {
		t.Run(engine, func(t *testing.T) {
			up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
			n := whytest.Start(t, engine, hostileDocument(t, engine, up.URL))
			for i := range calls {
				h := &calls[i]
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				status, why := fling(t, n.Addr(), h)
				runtime.ReadMemStats(&after)
				allocated := after.TotalAlloc - before.TotalAlloc
				t.Logf("%-60s %d %-30s %6d KiB", h.name, status, why, allocated>>10)
				switch {
				case h.reason == "~" && (why == "" || status < 400 || status > 499):
					t.Errorf("%s: answered %d %s", h.name, status, why)
				case h.reason != "~" && h.reason != why && !(strings.HasSuffix(h.reason, ".") && strings.HasPrefix(why, h.reason)):
					t.Errorf("%s: answered %d %s, want %s", h.name, status, why, h.reason)
				}
				if allocated > h.most {
					t.Errorf("%s: %d KiB were allocated, want at most %d", h.name, allocated>>10, h.most>>10)
				}
			}
			if a := n.Call("GET", "/bot", ""); a.StatusCode != 200 {
				t.Errorf("the node answers %d", a.StatusCode)
			}
		})
	}
}

// BenchmarkHostile measures what each of them costs, client included.
func BenchmarkHostile(b *testing.B) {
	up := whytest.Upstream(b, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	n := whytest.Start(b, "wire", hostileDocument(b, "wire", up.URL))
	for _, h := range hostileCalls() {
		b.Run(strings.ReplaceAll(h.name, " ", "-"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				fling(b, n.Addr(), &h)
			}
		})
	}
}
