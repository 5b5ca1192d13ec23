package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whygate/whygate/whytest"
)

// TestHealthChecksEndToEnd: a target that says it is not well gets no calls, without one of them failing first, and
// gets them again when it is. Where none is well the refusal says so.
func TestHealthChecksEndToEnd(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		var well [2]atomic.Bool
		var urls [2]string
		for i := range urls {
			well[i].Store(true)
			urls[i] = whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/up" && !well[i].Load() {
					w.WriteHeader(500)
					return
				}
				fmt.Fprint(w, i)
			}).URL
		}
		docs := strings.Replace(whytest.API(urls[0], "/", ""), fmt.Sprintf("targets: [{url: %q}]", urls[0]),
			fmt.Sprintf("targets: [{url: %q}, {url: %q}], health: {path: /up, every: 100ms, up: 1, down: 1}", urls[0], urls[1]), 1)
		n := whytest.Start(t, engine, docs)
		// settle waits until ten calls in a row are answered as wanted.
		settle := func(what, want string) {
			t.Helper()
			seen := ""
			for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
				kinds := map[string]bool{}
				for range 10 {
					a := n.Call("GET", "/x", "")
					if a.StatusCode == 200 {
						kinds[a.Body] = true
					} else {
						kinds[a.Header.Get("Whygate-Reason")] = true
					}
				}
				seen = ""
				for _, k := range []string{"0", "1", "upstream.ejected"} {
					if kinds[k] {
						seen += k + " "
						delete(kinds, k)
					}
				}
				if len(kinds) > 0 {
					t.Fatalf("%s: %v", what, kinds)
				}
				if strings.TrimSpace(seen) == want {
					return
				}
			}
			t.Fatalf("%s: answered by %q, want %q", what, seen, want)
		}
		settle("both are well", "0 1")
		well[0].Store(false)
		settle("one is not", "1")
		well[1].Store(false)
		well[0].Store(true)
		settle("the other is not", "0")
		well[0].Store(false)
		settle("neither is", "upstream.ejected")
		well[0].Store(true)
		well[1].Store(true)
		settle("both again", "0 1")
	})
}
