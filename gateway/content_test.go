package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/snapshot"
	"github.com/whygate/whygate/whytest"
)

// reads is a check that reads the content, and refuses what contains "bad".
type reads struct{ max int64 }

var badContent = reason.New(reason.Reason{Code: "test.bad-content", Status: 422, Title: "Bad", Says: "the content is bad", Wanted: "good", Seen: "bad",
	Fixes: []reason.Fix{{By: reason.Caller, Text: "send better"}}, Hint: "a test"})

func (r reads) ReadsBody() bool { return true }

func (r reads) Check(x *policy.Exchange) reason.Verdict {
	b, v := x.Body(r.max)
	if v.Refused() {
		return v
	}
	if again, _ := x.Body(r.max); string(again) != string(b) {
		panic("the content changes")
	}
	if strings.Contains(string(b), "bad") {
		return badContent.Refuse(reason.Own("content", string(b)))
	}
	return reason.Verdict{}
}

func withReader(n *whytest.Node, max int64) {
	n.Edit = func(s *snapshot.Snapshot) {
		for _, r := range s.Routes {
			r.Steps = append(r.Steps, policy.Step{Check: reads{max}, Name: "reads", Kind: "reads", Phase: policy.Content})
		}
	}
}

// TestContentIsCheckedAndForwarded: what a check has read arrives at the upstream all the same, and
// again at the next target when the first fails.
func TestContentIsCheckedAndForwarded(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always(ok))
		broken := whytest.Script(t, always(""))
		n := whytest.Start(t, engine, "")
		withReader(n, 1000)
		if ps := n.Apply(whytest.API(up.URL(), "/", "") + "---\napiVersion: whygate/v1\nkind: Upstream\nmetadata: {name: two}\nspec: {targets: [{url: '" + broken.URL() + "'}, {url: '" + up.URL() + "'}]}\n" +
			"---\napiVersion: whygate/v1\nkind: API\nmetadata: {name: two}\nspec: {basePath: /two, upstream: two}\n"); ps.HasErrors() {
			t.Fatal(ps)
		}
		for _, c := range []struct {
			name, method, path, body string
			chunked                  bool
			status                   int
			code                     string
		}{
			{name: "none", method: "GET", path: "/", status: 200},
			{name: "short", method: "POST", path: "/", body: "hello", status: 200},
			{name: "chunked", method: "POST", path: "/", body: "hello", chunked: true, status: 200},
			{name: "just small enough", method: "POST", path: "/", body: strings.Repeat("x", 1000), chunked: true, status: 200},
			{name: "refused", method: "POST", path: "/", body: "a bad one", status: 422, code: "test.bad-content"},
			{name: "refused in chunks", method: "PUT", path: "/", body: "a bad one", chunked: true, status: 422, code: "test.bad-content"},
			{name: "too large", method: "POST", path: "/", body: strings.Repeat("x", 1001), status: 413, code: "content.too-large"},
			{name: "too large in chunks", method: "POST", path: "/", body: strings.Repeat("x", 100_000), chunked: true, status: 413, code: "content.too-large"},
			{name: "sent twice", method: "PUT", path: "/two", body: "hello", chunked: true, status: 200},
			{name: "sent twice", method: "PUT", path: "/two", body: "hello", status: 200},
		} {
			before := len(up.Seen())
			req, _ := http.NewRequest(c.method, n.URL(c.path), strings.NewReader(c.body))
			if c.body == "" {
				req.Body = nil
			} else if c.chunked {
				req.ContentLength = -1
			}
			req.Header.Set("Expect", "100-continue")
			a := n.Do(req)
			if a.StatusCode != c.status || a.Header.Get("Whygate-Reason") != c.code {
				t.Fatalf("%s: %d %s", c.name, a.StatusCode, a.Body)
			}
			seen := up.Seen()[before:]
			if c.status != 200 {
				if len(seen) != 0 {
					t.Errorf("%s: the upstream saw %+v", c.name, seen)
				}
				continue
			}
			if len(seen) != 1 || seen[0].Body != c.body {
				t.Fatalf("%s: the upstream saw %+v", c.name, seen)
			}
			if r := n.Record(a); r.BytesIn != int64(len(c.body)) {
				t.Errorf("%s: %d bytes in the record", c.name, r.BytesIn)
			}
		}
		if broken.Opened() == 0 {
			t.Error("the first target was never tried")
		}
	})
}

// TestContentThatDoesNotCome: a client that sends a part of what it announced, or nonsense.
func TestContentThatDoesNotCome(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always(ok))
		n := whytest.Start(t, engine, "")
		withReader(n, 1000)
		if ps := n.Apply(whytest.API(up.URL(), "/", "")); ps.HasErrors() {
			t.Fatal(ps)
		}
		for name, c := range map[string]struct{ send, code string }{
			"half of it": {"POST /half HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello", "client.gone request.malformed"},
			"bad chunk":  {"POST /chunk HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n", "request.malformed"},
		} {
			nc, err := net.Dial("tcp", n.Addr())
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(nc, c.send)
			nc.(*net.TCPConn).CloseWrite()
			io.ReadAll(nc)
			nc.Close()
			path := strings.Fields(c.send)[1]
			r := n.Last(func(r *calllog.Record) bool { return r.Path == path })
			if r.Reason == "" || !strings.Contains(c.code, r.Reason) {
				t.Errorf("%s: %q", name, r.Reason)
			}
		}
		if len(up.Seen()) != 0 {
			t.Errorf("the upstream saw %+v", up.Seen())
		}
	})
}

// TestExplainContent: an explanation reads what it was given, and says that it does not know the rest.
func TestExplainContent(t *testing.T) {
	t.Parallel()
	n := whytest.Start(t, "wire", "")
	withReader(n, 1000)
	if ps := n.Apply(whytest.API("http://127.0.0.1:1", "/", "")); ps.HasErrors() {
		t.Fatal(ps)
	}
	for _, c := range []struct {
		content string
		size    int64
		want    reason.Outcome
	}{
		{"good", 4, reason.Passed},
		{"bad", 3, reason.Denied},
		{"", 5, reason.Unknown},
		{"", 0, reason.Passed},
	} {
		e, err := gateway.Explain(n.Snapshot(), gateway.Question{Method: "POST", URL: "/", Body: c.size, Content: []byte(c.content)})
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Trail[len(e.Trail)-1]; got.Check != "reads" || got.Outcome != c.want {
			t.Errorf("%q of %d bytes: %s %v", c.content, c.size, got.Check, got.Outcome)
		}
	}
}

// applications makes so many, with a key each.
func applications(n int) (keys []string, documents string) {
	for i := range n {
		key, d := whytest.Consumer(fmt.Sprintf("app-%d", i), "")
		keys = append(keys, key)
		documents += d
	}
	return keys, documents
}

// TestEnforceForSome: the policy refuses the same callers each time, and watches the others.
func TestEnforceForSome(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always(ok))
		keys, docs := applications(40)
		n := whytest.Start(t, engine, whytest.API(up.URL(), "/", "  - key-auth: {}\n  - subscription: {}\n    enforce: 30%")+docs)
		refused := 0
		for _, key := range keys {
			var codes []int
			for range 3 {
				a := n.Call("GET", "/", "", "X-Api-Key: "+key)
				codes = append(codes, a.StatusCode)
				if r := n.Record(a); a.StatusCode == 200 && r.Flags&calllog.Shadowed == 0 {
					t.Errorf("the record does not say that the policy would have refused: %+v", r)
				}
			}
			if codes[0] != codes[1] || codes[1] != codes[2] || codes[0] != 200 && codes[0] != 403 {
				t.Errorf("one caller was answered %v", codes)
			}
			if codes[0] == 403 {
				refused++
			}
		}
		if refused < 3 || refused > 25 { // 12 of 40 are to be expected
			t.Errorf("%d of 40 callers were refused, 30%% should be", refused)
		}
	})
}

// TestEnforceForFew: the smallest share is not everybody; and answers to callers whom the policy only watches are not
// withheld.
func TestEnforceForFew(t *testing.T) {
	t.Parallel()
	up := whytest.Upstream(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "You have an error in your SQL syntax; check the manual that corresponds to your MySQL server version")
	})
	for policies, want := range map[string][2]int{ // the least and the most of 40 callers that are refused
		"  - key-auth: {}\n  - subscription: {}\n    enforce: 0.001%":                {0, 0},
		"  - key-auth: {}\n  - waf: {responses: inspect}\n    enforce: 30%":          {3, 25},
		"  - key-auth: {}\n  - waf: {responses: inspect}\n    enforce: 0.001%":       {0, 0},
		"  - key-auth: {}\n  - waf: {responses: inspect}\n    enforce: 100%":         {40, 40},
		"  - key-auth: {}\n  - subscription: {}\n    enforce: 100%":                  {40, 40},
		"  - key-auth: {}\n  - subscription: {}\n    shadow: true":                   {0, 0},
		"  - key-auth: {}\n  - waf: {threshold: 100}\n    name: a\n    enforce: 99%": {0, 0},
	} {
		keys, docs := applications(40)
		n := whytest.Start(t, "wire", whytest.API(up.URL, "/", policies)+docs)
		refused := 0
		for _, key := range keys {
			if a := n.Call("GET", "/", "", "X-Api-Key: "+key); a.StatusCode != 200 {
				refused++
			}
		}
		if refused < want[0] || refused > want[1] {
			t.Errorf("%s: %d of 40 callers were refused, want %d to %d", policies, refused, want[0], want[1])
		}
	}
}

// TestAnswersToLargeRequestsArrive: a client that reads only when it has sent everything still gets
// the refusal that came before, whoever asked for the end of the connection.
func TestAnswersToLargeRequestsArrive(t *testing.T) {
	up := whytest.Upstream(t, func(http.ResponseWriter, *http.Request) {})
	content := strings.Repeat("x", 16<<20) // more than the socket buffers of both sides
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		n := whytest.Start(t, engine, whytest.API(up.URL, "/", "    - method: {allow: [GET]}"))
		for _, header := range []string{"", "Connection: close\r\n"} {
			for _, framed := range []string{fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(content), content), fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(content), content)} {
				nc, err := net.Dial("tcp", n.Addr())
				if err != nil {
					t.Fatal(err)
				}
				nc.SetDeadline(time.Now().Add(20 * time.Second))
				if _, err := io.WriteString(nc, "POST / HTTP/1.1\r\nHost: a\r\n"+header+framed); err != nil {
					t.Errorf("%q: sending: %v", header, err)
				}
				b, err := io.ReadAll(nc)
				if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 405") {
					t.Errorf("%q: %v %.200q", header, err, b)
				}
				nc.Close()
			}
		}
	})
}

// TestExplainQuestions: a question is judged as the call would be, down to its form.
func TestExplainQuestions(t *testing.T) {
	n := whytest.Start(t, "wire", whytest.API("http://127.0.0.1:1", "/", "  - size: {body: 1MiB}"))
	for _, c := range []struct {
		url    string
		header [][2]string
		body   int64
		status int
		says   string
	}{
		{"http://h/a", nil, 0, 0, ""},
		{"https://h?b", nil, 0, 0, ""},
		{"http://h/%zz", nil, 0, 400, "percent-encoding"},
		{"http://h h/", nil, 0, 400, `"host"`},
		{"/", [][2]string{{"Content-Length", "3145728"}}, 0, 413, "3145728"},
		{"/", [][2]string{{"Content-Length", "3145728"}}, 5, 0, ""}, // the content that is there counts
		{"/", [][2]string{{"Transfer-Encoding", "chunked"}}, 5, 0, ""},
		{"/", [][2]string{{"Content-Length", "5"}, {"Transfer-Encoding", "chunked"}}, 0, 400, "content-length-and-coding"},
	} {
		e, err := gateway.Explain(n.Snapshot(), gateway.Question{Method: "POST", URL: c.url, Header: c.header, Body: c.body})
		if err != nil {
			t.Errorf("%s %v: %v", c.url, c.header, err)
			continue
		}
		if text, _ := json.Marshal(e); e.Status != c.status || e.Passes != (c.status == 0) || !strings.Contains(string(text), c.says) {
			t.Errorf("%s %v: %s", c.url, c.header, text)
		}
	}
	for _, url := range []string{"http://me:secret@h/a", "ftp://h/a", "h/a", ""} {
		if _, err := gateway.Explain(n.Snapshot(), gateway.Question{Method: "GET", URL: url}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", url, err)
		}
	}
}
