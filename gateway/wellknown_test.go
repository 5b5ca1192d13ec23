package gateway_test

import (
	"fmt"
	"testing"

	"github.com/whygate/whygate/whytest"
)

// What the gateway serves itself has no content for HEAD, and its record says so.
func TestWellKnownHead(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		n := whytest.Start(t, engine, whytest.API("http://127.0.0.1:1", "/", ""))
		get, head := n.Call("GET", "/.well-known/whygate/reasons/route.none", ""), n.Call("HEAD", "/.well-known/whygate/reasons/route.none", "")
		if get.StatusCode != 200 || head.StatusCode != 200 || head.Body != "" || head.Header.Get("Content-Length") != fmt.Sprint(len(get.Body)) {
			t.Errorf("HEAD answers %d with %q and %q", head.StatusCode, head.Header.Get("Content-Length"), head.Body)
		}
		if got, want := n.Record(get).BytesOut, int64(len(get.Body)); got != want {
			t.Errorf("GET: %d bytes out, want %d", got, want)
		}
		if got := n.Record(head).BytesOut; got != 0 {
			t.Errorf("HEAD: %d bytes out", got)
		}
	})
}
