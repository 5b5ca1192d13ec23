package gateway_test

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/whytest"
)

const leak = "You have an error in your SQL syntax; check the manual that corresponds to your MySQL server version for the right syntax"

// TestWAFAnswers: an answer is held until it was looked at, and what is withheld becomes a whole refusal.
func TestWAFAnswers(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		more := make(chan bool)
		up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/leak":
				io.WriteString(w, leak)
			case "/pieces":
				for _, s := range strings.SplitAfter(leak, " ") {
					io.WriteString(w, s)
					w.(http.Flusher).Flush()
				}
			case "/zipped":
				w.Header().Set("Content-Encoding", "gzip")
				w.Header().Set("Content-Type", "text/plain")
				z := gzip.NewWriter(w)
				io.WriteString(z, leak)
				z.Close()
			case "/late":
				io.WriteString(w, strings.Repeat("all is well. ", 1000)+leak)
			case "/json":
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{"coding":%q}`, r.Header.Get("Accept-Encoding"))
			case "/image":
				w.Header().Set("Content-Type", "image/png")
				io.WriteString(w, leak)
			case "/events":
				w.Header().Set("Content-Type", "text/event-stream")
				io.WriteString(w, "data: one\n\n")
				w.(http.Flusher).Flush()
				<-more
				io.WriteString(w, "data: two\n\n")
			case "/cut":
				w.Header().Set("Content-Type", "text/plain")
				w.Header().Set("Content-Length", "1000")
				io.WriteString(w, "not all")
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			case "/none":
				w.WriteHeader(http.StatusNoContent)
			}
		})
		n := whytest.Start(t, engine, whytest.API(up.URL, "/", "    - waf: {responses: inspect, maxResponse: 4KiB, exclusions: [{rules: [920350]}]}"))
		for _, c := range []struct {
			method, path string
			status       int
			reason, body string
		}{
			{"GET", "/leak", 502, "waf.response", ""},
			{"GET", "/pieces", 502, "waf.response", ""},
			{"GET", "/zipped", 502, "waf.response", ""},
			{"HEAD", "/leak", 200, "", ""},
			{"GET", "/late", 200, "", strings.Repeat("all is well. ", 1000) + leak},
			{"GET", "/json", 200, "", `{"coding":""}`},
			{"GET", "/image", 200, "", leak},
			{"GET", "/none", 204, "", ""},
			{"GET", "/cut", 502, "upstream.broke-off", ""},
		} {
			a := n.Call(c.method, c.path, "", "Accept-Encoding: br")
			if c.path == "/cut" && a.Header.Get("Whygate-Reason") != "" { // its code belongs to upstream
				c.reason = a.Header.Get("Whygate-Reason")
			}
			if a.StatusCode != c.status || a.Header.Get("Whygate-Reason") != c.reason || strings.Contains(a.Body, "SQL") != strings.Contains(c.body, "SQL") || c.reason == "" && a.Body != c.body {
				t.Errorf("%s %s: %d %s %.200q", c.method, c.path, a.StatusCode, a.Header.Get("Whygate-Reason"), a.Body)
			}
			if rec := n.Record(a); c.reason == "waf.response" && (rec.Reason != c.reason || rec.Outcome != calllog.Failed || !strings.Contains(string(rec.Detail), "951230")) {
				t.Errorf("%s: the record says %v %s %s", c.path, rec.Outcome, rec.Reason, rec.Detail)
			}
		}
		res, err := http.Get(n.URL("/events"))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		r := bufio.NewReader(res.Body)
		if line, err := r.ReadString('\n'); line != "data: one\n" || err != nil {
			t.Errorf("the first event is %q, %v", line, err)
		}
		more <- true
		if rest, err := io.ReadAll(r); !strings.Contains(string(rest), "data: two") || err != nil {
			t.Errorf("the second event is %q, %v", rest, err)
		}
	})
}

// TestWAFRequests: engines agree on what the rules see, HTTP/2 included.
func TestWAFRequests(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%d", len(b))
		})
		n := whytest.Start(t, engine, whytest.API(up.URL, "/", "    - waf: {maxBody: 2KiB, exclusions: [{rules: [920350]}]}"))
		large := strings.Repeat("x", 3000)
		for _, c := range []struct {
			method, path, body, header string
			status                     int
			reason                     string
		}{
			{"GET", "/a?q=teapot", "", "", 200, ""},
			{"GET", "/a?q=1'+OR+'1'='1", "", "", 403, "waf.blocked"},
			{"POST", "/a", `{"a":"b"}`, "Content-Type: application/json", 200, ""},
			{"POST", "/a", `{"a":"<script>alert(1)</script>"}`, "Content-Type: application/json", 403, "waf.blocked"},
			{"POST", "/a", "a=" + large, "Content-Type: application/x-www-form-urlencoded", 413, "content.too-large"},
		} {
			var header []string
			if c.header != "" {
				header = append(header, c.header)
			}
			a := n.Call(c.method, c.path, c.body, header...)
			if a.StatusCode != c.status || a.Header.Get("Whygate-Reason") != c.reason {
				t.Errorf("%s %s: %d %s", c.method, c.path, a.StatusCode, a.Header.Get("Whygate-Reason"))
			}
			if c.status == 200 && a.Body != fmt.Sprint(len(c.body)) {
				t.Errorf("%s %s: the upstream got %s bytes", c.method, c.path, a.Body)
			}
		}
		h2 := &http.Client{Transport: &http.Transport{Protocols: new(http.Protocols)}}
		h2.Transport.(*http.Transport).Protocols.SetUnencryptedHTTP2(true)
		defer h2.CloseIdleConnections()
		for path, want := range map[string]int{"/a?q=teapot": 200, "/a?q=1'+OR+'1'='1": 403} {
			res, err := h2.Get(n.URL(path))
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != want || res.ProtoMajor != 2 {
				t.Errorf("HTTP/2 %s: %s %d", path, res.Proto, res.StatusCode)
			}
		}
	})
}
