package admin_test

import (
	"errors"
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
