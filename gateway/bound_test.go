package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/whytest"
)

// boundDocument is an API with policies, in front of url.
func boundDocument(url, policies string) string {
	return "apiVersion: whygate/v1\nkind: Upstream\nmetadata: {name: up}\nspec: {targets: [{url: \"" + url + "\"}]}\n---\napiVersion: whygate/v1\nkind: API\nmetadata: {name: shop}\nspec:\n  upstream: up\n  basePath: /\n  policies:\n" + policies
}

// A body is counted by each size that refuses this call, whether its size is announced or not.
func TestBodyIsBoundByWhatRefuses(t *testing.T) {
	t.Parallel()
	up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {})
	for _, c := range []struct{ name, policies, want string }{
		{"enforced for others", "  - size: {body: 5B}\n    name: p2\n    enforce: 0.001%\n", ""}, // 127.0.0.1 is not among them
		{"enforced for all", "  - size: {body: 5B}\n    name: p2\n", "size.body"},
		{"watching", "  - size: {body: 5B}\n    name: p2\n    shadow: true\n", ""},
		{"the smaller one first", "  - size: {body: 5B}\n    name: small\n  - size: {body: 1KiB}\n    name: large\n", "size.body"},
		{"the smaller one last", "  - size: {body: 1KiB}\n    name: large\n  - size: {body: 5B}\n    name: small\n", "size.body"},
		{"the smaller one watches", "  - size: {body: 1KiB}\n    name: large\n  - size: {body: 5B}\n    name: small\n    shadow: true\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			whytest.EachEngine(t, func(t *testing.T, engine string) {
				n := whytest.Start(t, engine, boundDocument(up.URL, c.policies))
				if got := n.Call("POST", "/", "0123456789").Header.Get("Whygate-Reason"); got != c.want {
					t.Errorf("announced: %q, want %q", got, c.want)
				}
				req, err := http.NewRequest("POST", n.URL("/"), struct{ *strings.Reader }{strings.NewReader("0123456789")})
				if err != nil {
					t.Fatal(err)
				}
				if got := n.Do(req).Header.Get("Whygate-Reason"); got != c.want {
					t.Errorf("not announced: %q, want %q", got, c.want)
				}
			})
		})
	}
}

// What answers by itself ends the decision, and so the explanation: checks behind it are not asked.
func TestExplanationEndsWithAnswer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, policies string
		passes         bool
	}{
		{"mock", "  - mock: {answers: [{status: 203}]}\n  - transform: {request: {body: {set: {seen: true}}}}\n", true},
		{"mock that watches", "  - mock: {answers: [{status: 203}]}\n    shadow: true\n  - transform: {request: {body: {set: {seen: true}}}}\n", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := whytest.Start(t, "wire", boundDocument("http://127.0.0.1:1", c.policies))
			e, err := gateway.Explain(n.Snapshot(), gateway.Question{Method: "POST", URL: "/", Body: 3, Content: []byte("xxx")})
			if err != nil {
				t.Fatal(err)
			}
			if e.Passes != c.passes || e.Passes && e.Forward != "" {
				t.Errorf("passes %v, forward %q", e.Passes, e.Forward)
			}
			if last := e.Trail[len(e.Trail)-1]; c.passes && last.Kind != "mock" {
				t.Errorf("the explanation goes on to %q", last.Kind)
			}
			a := n.Call("POST", "/", "xxx")
			if refused := a.Header.Get("Whygate-Reason") != ""; refused == c.passes {
				t.Errorf("served: %d %q", a.StatusCode, a.Header.Get("Whygate-Reason"))
			}
		})
	}
}

// A body that is too large is looked at on the side by the checks behind, if it is here: they say what
// they would say of it, and not once more that it is too large.
func TestTooLargeIsToldOnce(t *testing.T) {
	t.Parallel()
	n := whytest.Start(t, "wire", boundDocument("http://127.0.0.1:1", "  - size: {body: 5B}\n  - json-limits: {all: true}\n"))
	rec := n.Record(n.Call("POST", "/", "no JSON at all"))
	d, err := gateway.DecodeDetail(rec.Detail)
	if err != nil || rec.Reason != "size.body" || len(d.Next) != 1 {
		t.Fatalf("%v, %q, %s", err, rec.Reason, trailText(d.Next))
	}
	if e := d.Next[0]; e.Outcome != reason.Unknown && (!e.Refused() || e.Reason.Code != "json.malformed") {
		t.Errorf("behind it: %s", trailText(d.Next))
	}
}
