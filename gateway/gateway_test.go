package gateway_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/whygate/whygate/whytest"
)

func TestForward(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			w.Header().Set("X-Seen", r.Method+" "+r.RequestURI+" "+string(b)+" "+r.Header.Get("X-Forwarded-For"))
			io.WriteString(w, "hello")
		})
		n := whytest.Start(t, engine, whytest.API(up.URL, "/", ""))
		for _, c := range []struct{ method, path, body, seen string }{
			{"GET", "/a/b?c=d", "", "GET /a/b?c=d  127.0.0.1"},
			{"POST", "/a", "body", "POST /a body 127.0.0.1"},
			{"PUT", "/%7Euser/./x/../y", strings.Repeat("z", 10), "PUT /~user/y zzzzzzzzzz 127.0.0.1"},
		} {
			a := n.Call(c.method, c.path, c.body)
			if a.StatusCode != 200 || a.Body != "hello" || a.Header.Get("X-Seen") != c.seen {
				t.Errorf("%s %s: %d %q, upstream saw %q, want %q", c.method, c.path, a.StatusCode, a.Body, a.Header.Get("X-Seen"), c.seen)
			}
			rec := n.Record(a)
			if rec.Status != 200 || rec.API != "api" || rec.BytesOut != 5 || rec.BytesIn != int64(len(c.body)) {
				t.Errorf("record %+v", rec)
			}
		}
	})
}
