package admin_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/whygate/whygate/admin"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/whytest"
)

// A reload that cannot be made says so.
func TestReloadRefused(t *testing.T) {
	_, s, ask := start(t, whytest.API("http://127.0.0.1:1", "/", ""))
	s.Reload = func() (resource.Problems, error) { return nil, errors.New("the node is draining") }
	var p admin.Problem
	if code := ask("POST", "/v1/reload", "", &p); code != 503 || p.Detail != "the node is draining" {
		t.Errorf("%d %+v", code, p)
	}
}

// Answers are taken out of caches, and none by a parameter that is not understood.
func TestCachePurge(t *testing.T) {
	up := whytest.Upstream(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Cache-Control", "max-age=60") })
	n, _, ask := start(t, whytest.API(up.URL, "/", "  - cache: {}"))
	for _, path := range []string{"/a", "/a?b=c", "/b"} {
		n.Call("GET", path, "")
	}
	for _, c := range []struct {
		query   string
		code    int
		answers int
	}{{"?paths=/a", 400, 0}, {"?path=a", 400, 0}, {"?path=/a&path=/b", 400, 0}, {"?api=other", 200, 0}, {"?path=/a&api=api", 200, 2}, {"?path=/a", 200, 0}, {"", 200, 1}} {
		var done admin.Purged
		if code := ask("POST", "/v1/cache/purge"+c.query, "", &done); code != c.code || done.Answers != c.answers {
			t.Errorf("%q: %d %+v", c.query, code, done)
		}
	}
}
