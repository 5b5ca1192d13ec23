package own

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/pinpoint"
	"github.com/whygate/whygate/pinpoint/diagnose"
	"github.com/whygate/whygate/pinpoint/input"
	"github.com/whygate/whygate/pinpoint/replay"
)

// offline diagnoses a raw exchange without a request.
func offline(t *testing.T, text string) diagnose.Result {
	t.Helper()
	c, err := input.Raw(text, input.RawOptions{Scheme: "https"})
	if err != nil {
		t.Fatalf("reading: %v", err)
	}
	r, err := diagnose.Run(t.Context(), c, diagnose.Options{Offline: true, Now: func() time.Time { return readNow }})
	if err != nil {
		t.Fatalf("diagnosing: %v", err)
	}
	return r
}

const asked = "GET /orders HTTP/1.1\nHost: shop.example\nUser-Agent: Mozilla/5.0\nAccept: */*\n\n"

// Answers of products that cannot run here get their verdict from the input to the end: sealed, read, weighed.
func TestRecordedAnswersToTheEnd(t *testing.T) {
	table, err := os.ReadFile("../testdata/answers/verdicts.txt")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		seen++
		t.Run(f[0], func(t *testing.T) {
			text, err := os.ReadFile("../testdata/answers/" + f[0] + ".http")
			if err != nil {
				t.Fatal(err)
			}
			r := offline(t, asked+string(text))
			v := &r.Verdict
			if v.Refuser.Product != f[1] || v.Cause != f[2] {
				t.Errorf("%s %s (%s %.2f %q), want %s %s\n%s", v.Refuser.Product, v.Cause, v.Outcome, v.Confidence, v.Grade, f[1], f[2], clues(v))
			}
			if v.Outcome == pinpoint.Proved || v.Sent != 0 {
				t.Errorf("a text proves nothing, and nothing may be sent: %s, %d", v.Outcome, v.Sent)
			}
		})
	}
	if seen < 50 {
		t.Errorf("%d answers, want at least 50", seen)
	}
}

// mutate changes an ordinary answer as servers differ, and leaves it ordinary.
func mutate(rnd *rand.Rand, text string) string {
	head, body, _ := strings.Cut(strings.ReplaceAll(text, "\r\n", "\n"), "\n\n")
	lines := strings.Split(head, "\n")
	status := strings.Fields(lines[0])[1]
	fields := lines[1:]
	extra := []string{"Server: nginx/1.27.3", "Server: Apache/2.4.62 (Debian)", "Server: cloudflare", "Server: Microsoft-IIS/10.0", "Server: envoy", "Server: LiteSpeed", "Via: 1.1 varnish, 1.1 abc.cloudfront.net (CloudFront)",
		"X-Cache: Hit from cloudfront", "CF-RAY: 8a1b2c3d4e5f6789-FRA", "Age: 4012", "X-Powered-By: PHP/8.3.1", "Set-Cookie: sid=0a1b2c3d4e5f; Path=/; HttpOnly", "Set-Cookie: XSRF-TOKEN=zzzz11112222; Path=/", "X-RateLimit-Remaining: 12",
		"X-Kong-Upstream-Latency: 12", "X-Envoy-Upstream-Service-Time: 4", "Strict-Transport-Security: max-age=63072000", "Access-Control-Allow-Origin: *", "X-Frame-Options: DENY", "Vary: Cookie", "Content-Security-Policy: default-src 'self'",
		"X-Request-Id: 4d0c2f4e-9f0b-4a55-8a51-a8bb1f0f7d11", "WWW-Authenticate: Basic realm=\"later\"", "Retry-After: 120", "X-Azure-Ref: 0abc", "X-Sucuri-ID: 11005", "X-Varnish: 11 12"}
	for range rnd.IntN(5) {
		fields = append(fields, extra[rnd.IntN(len(extra))])
	}
	rnd.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	if status == "304" {
		return strings.Join(append([]string{lines[0]}, fields...), "\n") + "\n\n"
	}
	words := []string{"forbidden fruit", "access to the garden", "403 pieces", "our firewall guide", "blocked drains", "rate of exchange", "denied boarding explained", "quota of the week", "captcha history", "the policy of our shop",
		"support id cards", "request a quote", "session musicians", "token of thanks", "origin of the name", "expired parrots", "<!-- build 1020 -->", "<script>var x=403;</script>", "Cloudflare Ray-Ban", "Attack on Titan"}
	if strings.HasPrefix(strings.TrimSpace(body), "{") || strings.HasPrefix(strings.TrimSpace(body), "[") {
		if strings.HasPrefix(strings.TrimSpace(body), "{") && status != "404" {
			body = `{"note":"` + words[rnd.IntN(len(words)-3)] + `",` + strings.TrimPrefix(strings.TrimSpace(body), "{")
		}
	} else {
		for range 1 + rnd.IntN(6) {
			i := strings.LastIndex(body, "</body>")
			p := "<p>" + words[rnd.IntN(len(words))] + "</p>"
			if i < 0 {
				body += p
			} else {
				body = body[:i] + p + body[i:]
			}
		}
	}
	return strings.Join(append([]string{lines[0]}, fields...), "\n") + "\n\n" + body
}

// Ordinary pages, however they are dressed, get no cause.
func TestOrdinaryPages(t *testing.T) {
	files, err := filepath.Glob("../testdata/pages/*.http")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d pages, %v", len(files), err)
	}
	for n := range 200 {
		file := files[n%len(files)]
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := mutate(rand.New(rand.NewPCG(7, uint64(n))), string(b))
		r := offline(t, asked+text)
		v := &r.Verdict
		if v.Outcome == pinpoint.Proved || v.Outcome == pinpoint.Likely || v.Cause != "" && v.Cause != "refuser-only" {
			t.Errorf("%s: %s (%s %.2f %q)\n%s\n%s", filepath.Base(file), v.Cause, v.Outcome, v.Confidence, v.Grade, text, clues(v))
		}
	}
}

// Where nothing is refused, a live diagnosis says so.
func TestControls(t *testing.T) {
	for _, status := range []int{200, 204, 206, 301, 302, 304} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if status/100 == 3 && status != 304 && r.URL.Path != "/there" {
				http.Redirect(w, r, "/there", status)
				return
			}
			if status/100 == 3 && status != 304 {
				io.WriteString(w, "<h1>Here</h1>")
				return
			}
			w.WriteHeader(status)
		}))
		c, err := input.Args([]string{server.URL + "/a"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		r, err := diagnose.Run(ctx, c, diagnose.Options{Replay: replay.Options{Send: replay.SenderOptions{Pace: -1}}})
		cancel()
		server.Close()
		if err != nil {
			t.Fatal(err)
		}
		if v := r.Verdict; v.Outcome != pinpoint.NotReproduced && v.Outcome != pinpoint.Unknown || v.Cause != "not-reproduced" && v.Cause != "" {
			t.Errorf("%d: %s %s\n%s", status, v.Outcome, v.Cause, clues(&v))
		}
	}
}
