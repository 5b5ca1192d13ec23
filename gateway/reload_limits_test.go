package gateway_test

import (
	"net/http"
	"testing"

	"github.com/whygate/whygate/whytest"
)

// TestRaisedLimitsHoldAtOnce: what was used of a limit that is no longer does not refuse the next call, and
// what was used of one that stays still counts.
func TestRaisedLimitsHoldAtOnce(t *testing.T) {
	up := whytest.Upstream(t, func(http.ResponseWriter, *http.Request) {})
	limit := func(n string) string {
		return whytest.API(up.URL, "/", "    - rate-limit: {requests: "+n+", period: 1h, per: address}")
	}
	n := whytest.Start(t, "wire", limit("2"))
	calls := func(what string, want ...int) {
		t.Helper()
		for i, status := range want {
			if a := n.Call("GET", "/", ""); a.StatusCode != status {
				t.Errorf("%s, call %d: %d, want %d", what, i+1, a.StatusCode, status)
			}
		}
	}
	calls("two an hour", 200, 200, 429)
	n.Apply(limit("2") + "---\napiVersion: whygate/v1\nkind: Application\nmetadata: {name: other}\n")
	calls("another document changed", 429)
	n.Apply(limit("5"))
	calls("five an hour", 200, 200, 200, 200, 200, 429)
	n.Apply(limit("1"))
	calls("one an hour", 200, 429)
}
