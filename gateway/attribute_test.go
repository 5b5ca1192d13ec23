package gateway_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/whytest"
)

// What an upstream refuses reaches the client as it was written, whatever the policies, and says who
// refused. No reason of the gateway's own stands there, also where the upstream claims one.
func TestRefusalsOfUpstreamsAreRelayed(t *testing.T) {
	t.Parallel()
	const body = "{\n  \"why\": \"because\", \"status\": 1 }\r\n\x00\xff"
	status := 0
	up := whytest.Script(t, func(*whytest.Received) string {
		return fmt.Sprintf("HTTP/1.1 %d As It Pleases\r\nContent-Length: %d\r\nContent-Type: text/strange; charset=x\r\nServer: one/1.0\r\nWWW-Authenticate: Basic realm=\"a\"\r\nWWW-Authenticate: Digest realm=\"b\"\r\n"+
			"Retry-After: 7\r\nAllow: BREW\r\nCache-Control: max-age=9\r\nX-Odd:  as is \r\nWhygate-Refused-By: gateway\r\nWhygate-Reason: key.missing\r\n\r\n%s", status, len(body), body)
	})
	for _, client := range []string{"wire", "std", "h2"} {
		engine, c := client, http.DefaultClient
		if client == "h2" {
			engine, c = "wire", client2(t)
		}
		n := whytest.Start(t, engine, upstreamSpec(whytest.GatewayDocument(engine, "  legacyStatus: true\n")+"---\n"+whytest.API(up.URL(), "/", "  - rate-limit: {requests: 1000, period: 1h}"), "retries: {attempts: 0}, breaker: {rate: 0}, ejection: {failures: 0}"))
		for _, status = range []int{400, 401, 402, 403, 404, 405, 407, 409, 410, 413, 415, 418, 422, 425, 429, 431, 451, 499, 500, 501, 502, 503, 504, 511, 599} {
			res, err := c.Get(n.URL("/"))
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.StatusCode != status || string(b) != body || client != "h2" && res.Status != fmt.Sprint(status, " As It Pleases") && client != "std" {
				t.Errorf("%s: %s %q %v", client, res.Status, b, err)
			}
			for name, want := range map[string][]string{"Content-Type": {"text/strange; charset=x"}, "Server": {"one/1.0"}, "Www-Authenticate": {`Basic realm="a"`, `Digest realm="b"`}, "Retry-After": {"7"},
				"Allow": {"BREW"}, "Cache-Control": {"max-age=9"}, "X-Odd": {"as is"}, "Whygate-Refused-By": {"upstream"}, "Whygate-Reason": nil} {
				if got := res.Header[name]; !slices.Equal(got, want) {
					t.Errorf("%s %d: %s: %q, want %q", client, status, name, got, want)
				}
			}
			rec := n.Record(whytest.Answer{Response: res})
			d, err := gateway.DecodeDetail(rec.Detail)
			if err != nil || rec.Outcome != calllog.Relayed || int(rec.Status) != status || !strings.HasPrefix(rec.Reason, "upstream:") || d.Refuser == nil || d.Verdict != nil {
				t.Errorf("%s %d: record %v %d %q, %+v, %v", client, status, rec.Outcome, rec.Status, rec.Reason, d, err)
			}
		}
		c.CloseIdleConnections()
	}
}

// The one that refused behind the gateway is told by its page, then by its fields; and why, where the answer says so.
func TestRefuser(t *testing.T) {
	const django = "<!DOCTYPE html>\n<html lang=\"en\">\n<head><title>403 Forbidden</title></head>\n<body><div id=\"summary\"><h1>Forbidden <span>(403)</span></h1>\n<p>CSRF verification failed. Request aborted.</p>\n<p>You are seeing this message because this site requires a CSRF cookie when submitting forms.</p></div></body></html>"
	for _, c := range []struct{ head, body, product, cause string }{
		{"Server: nginx/1.22.1", "<html>\r\n<head><title>403 Forbidden</title></head>\r\n<body>\r\n<center><h1>403 Forbidden</h1></center>\r\n<hr><center>nginx/1.22.1</center>\r\n</body>\r\n</html>\r\n", "nginx", ""},
		{"Server: cloudflare\r\nCF-Ray: 1-FRA", "<div class=\"cf-error-details\">", "cloudflare", ""},
		{"Server: openresty", "<hr><center>openresty</center>", "nginx", ""},
		{"Server: something", "<html><body><h1>403 Forbidden</h1>\nRequest forbidden by administrative rules.\n</body></html>\n", "haproxy", "haproxy-acl-deny"},
		{"Server: envoy", "RBAC: access denied", "envoy", "envoy-rbac-denied"},
		{"Server: istio-envoy", "", "envoy", ""},
		{"Server: kong/3.4", `{"message":"no Route matched with those values"}`, "kong", ""},
		{"Server: Werkzeug/2.2.2 Python/3.11.2", "<!doctype html>\n<html lang=en>\n<title>403 Forbidden</title>\n<h1>Forbidden</h1>\n", "flask", ""},
		{"Server: WSGIServer/0.2 CPython/3.11.2\r\nContent-Type: text/html", django, "django", "csrf-cookie-missing"},
		{"Server: gunicorn", "", "gunicorn", ""},
		{"X-Powered-By: Express", "<pre>Cannot GET /x</pre>", "express", ""},
		{"X-Powered-By: PHP/8.2", "", "php", ""},
		{"Server: uvicorn", `{"detail":"Not authenticated"}`, "fastapi", "auth-missing"}, // the body weighs more
		{"Server: uvicorn", "", "uvicorn", ""},
		{"x-amzn-ErrorType: ForbiddenException", `{"message":"Forbidden"}`, "aws-api-gateway", "gw-forbidden-ambiguous"},
		{"X-Kong-Response-Latency: 1", "", "kong", ""},
		{"Whygate-Refused-By: gateway", "{}", "whygate", ""}, // another gateway of this kind behind this one
		{"Server: homemade", "no", "unknown", ""},
		{"X-A: b", "no", "unknown", ""},
	} {
		t.Run(c.product+" "+c.head, func(t *testing.T) {
			t.Parallel()
			for _, coding := range []string{"", "gzip", "br"} {
				head, body := c.head, c.body
				if coding != "" {
					head, body = head+"\r\nContent-Encoding: "+coding, compressed(t, coding, c.body)
				}
				up := whytest.Script(t, always(fmt.Sprintf("HTTP/1.1 403 Forbidden\r\n%s\r\nContent-Length: %d\r\n\r\n%s", head, len(body), body)))
				n := whytest.Start(t, "wire", whytest.API(up.URL(), "/", ""))
				req, err := http.NewRequest("GET", n.URL("/"), nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Accept-Encoding", "gzip, br") // so that the client leaves the content as it is
				a := n.Do(req)
				rec := n.Record(a)
				d, err := gateway.DecodeDetail(rec.Detail)
				if err != nil || d.Refuser == nil {
					t.Fatalf("no refuser in %s, %v", rec.Detail, err)
				}
				r := d.Refuser
				if a.Body != body || r.Product != c.product || r.Cause != c.cause || rec.Reason != "upstream:"+c.product || (len(r.Evidence) == 0) != (c.product == "unknown") || (r.Cause != "") != (r.Weight > 0) {
					t.Errorf("%s %q, record %q, %+v", coding, a.Body, rec.Reason, *r)
				}
			}
		})
	}
}

func compressed(t *testing.T, coding, text string) string {
	var b bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&b)
	if coding == "br" {
		w = brotli.NewWriter(&b)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return b.String()
}

// What a call carries as its secrets is not recorded where an upstream echoes it, and what is recorded stays small whatever the
// upstream writes.
func TestRefuserIsBoundedAndWithoutSecrets(t *testing.T) {
	t.Parallel()
	const secret = "Zq7-not-for-logs-0417"
	for name, answer := range map[string]string{
		"echo":       "<Error><Code>SignatureDoesNotMatch</Code><Message>The request signature we calculated does not match " + secret + "</Message><StringToSign>" + secret + "</StringToSign></Error>",
		"in a field": "x",
		"long":       strings.Repeat("<center>nginx</center>", 20_000),
		"bomb":       compressed(t, "gzip", strings.Repeat("CSRF verification failed. Request aborted. ", 200_000)),
	} {
		head := "Server: AmazonS3"
		switch name {
		case "in a field":
			head = "Server: nginx " + secret + strings.Repeat("x", 3000) + "\r\nVia: 1.1 varnish " + secret
		case "bomb":
			head = "Content-Encoding: gzip"
		}
		up := whytest.Script(t, always(fmt.Sprintf("HTTP/1.1 403 Forbidden\r\n%s\r\nContent-Length: %d\r\n\r\n%s", head, len(answer), answer)))
		n := whytest.Start(t, "wire", whytest.API(up.URL(), "/", ""))
		rec := n.Record(n.Call("GET", "/?api_key="+secret, "", "Authorization: Bearer "+secret, "X-Api-Key: "+secret))
		if rec.Outcome != calllog.Relayed || strings.Contains(string(rec.Detail), secret) || len(rec.Detail) == 0 || len(rec.Detail) > 8<<10 {
			t.Errorf("%s: %v, %d bytes: %.3000s", name, rec.Outcome, len(rec.Detail), rec.Detail)
		}
	}
}

// BenchmarkRefuser is a refusal that is relayed, with an ordinary page, beside an answer that is let through.
func BenchmarkRefuser(b *testing.B) {
	page := "<html>\r\n<head><title>403 Forbidden</title></head>\r\n<body>\r\n<center><h1>403 Forbidden</h1></center>\r\n<hr><center>nginx</center>\r\n" + strings.Repeat("<p>An ordinary line of an ordinary page.</p>\r\n", 60) + "</body>\r\n</html>\r\n"
	for _, c := range []struct{ name, status string }{{"allowed", "200 OK"}, {"relayed", "403 Forbidden"}} {
		b.Run(c.name, func(b *testing.B) {
			up := whytest.Script(b, always(fmt.Sprintf("HTTP/1.1 %s\r\nServer: nginx\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s", c.status, len(page), page)))
			n := whytest.Start(b, "wire", upstreamSpec(whytest.API(up.URL(), "/", ""), "breaker: {rate: 0}, ejection: {failures: 0}"))
			n.Call("GET", "/", "") // the catalogue is read once
			for b.Loop() {
				n.Call("GET", "/", "")
			}
		})
	}
}

// A body that nobody wanted keeps its connection when it is small, and never becomes a request:
// whether the gateway refused the call, or the upstream failed within it.
func TestUnwantedBodies(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		n := whytest.Start(t, engine, whytest.API("http://"+closedPort(t), "/", "  - method: {deny: [POST]}"))
		nc := dialTo(t, n)
		r := bufio.NewReader(nc)
		for i, size := range []int{0, 1, 5000, 60000, 3} {
			fmt.Fprintf(nc, "POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", i, size)
			io.WriteString(nc, strings.Repeat("x", size/2))
			res, err := http.ReadResponse(r, nil) // before the rest was sent
			if err != nil {
				t.Fatalf("call %d: %v", i, err)
			}
			io.Copy(io.Discard, res.Body)
			if res.StatusCode != 405 || res.Close {
				t.Errorf("call %d: %d, closes: %v", i, res.StatusCode, res.Close)
			}
			io.WriteString(nc, strings.Repeat("x", size-size/2))
		}
		nc.Close()

		broken := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
			if _, err := http.ReadRequest(r); err == nil {
				io.WriteString(nc, "nonsense\r\n\r\n")
				waits(nc, r)
			}
		})
		for _, c := range []struct {
			name, policies, head, body string
			status                     int
		}{
			{"refused, too long to be read", "  - method: {deny: [POST]}", "Content-Length: 1000000\r\n", "", 405},
			{"refused before 100 Continue", "  - method: {deny: [POST]}", "Content-Length: 40\r\nExpect: 100-continue\r\n", "", 405},
			{"the upstream broke", "", "Content-Length: 50\r\n", "x", 502},
			{"the upstream broke, chunked", "", "Transfer-Encoding: chunked\r\n", "1\r\nx\r\n", 502},
		} {
			if ps := n.Apply(upstreamSpec(whytest.API("http://"+broken, "/", c.policies), "retries: {attempts: 0}, breaker: {rate: 0}, ejection: {failures: 0}")); ps.HasErrors() {
				t.Fatal(ps)
			}
			before, _ := n.Journal.Last(100, calllog.Filter{})
			nc := dialTo(t, n)
			fmt.Fprintf(nc, "POST / HTTP/1.1\r\nHost: a\r\n%s\r\n%s", c.head, c.body)
			r := bufio.NewReader(nc)
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			io.Copy(io.Discard, res.Body)
			if res.StatusCode != c.status || !res.Close {
				t.Errorf("%s: %d, closes: %v", c.name, res.StatusCode, res.Close)
			}
			io.WriteString(nc, "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n")
			if rest, _ := io.ReadAll(r); len(rest) != 0 {
				t.Errorf("%s: what followed was answered: %q", c.name, rest)
			}
			nc.Close()
			if after, _ := n.Journal.Last(100, calllog.Filter{}); len(after) != len(before)+1 {
				t.Errorf("%s: %d calls were recorded", c.name, len(after)-len(before))
			}
		}
	})
}

// dialTo opens a connection to the gateway on which nothing hangs.
func dialTo(t *testing.T, n *whytest.Node) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(2 * patience))
	return nc
}
