package pinpoint_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	_ "github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/pinpoint"
	"github.com/whygate/whygate/reason"
)

// without are the reasons of Whygate that say something is broken, or that the catalogue has no cause for.
var without = []string{"answer.not-transformed", "basic.busy", "cache.only-if-cached", "client.gone", "counter.unavailable", "gateway.panic", "introspection.malformed",
	"introspection.unavailable", "jwt.keys-unavailable", "mock.no-such-answer", "node.memory", "waf.busy"}

var withoutGroups = []string{"call.", "rate-limit.cost", "request.", "rule.", "subscription.", "transform.", "upstream.", "test."}

// TestReasonsHaveCauses walks every reason that the gateway can give: reading its answer names a cause.
func TestReasonsHaveCauses(t *testing.T) {
	all := reason.All()
	if len(all) < 80 {
		t.Fatalf("only %d reasons", len(all))
	}
	for _, r := range all {
		c := &pinpoint.Case{Source: "raw", Exchanges: []pinpoint.Exchange{{
			Request: &pinpoint.Request{Method: "GET", URL: "https://a.test/x", Header: pinpoint.Header{{Name: "Accept", Value: "*/*"}}},
			Answer:  &pinpoint.Answer{Status: 403, Header: pinpoint.Header{{Name: "Whygate-Reason", Value: r.Code}, {Name: "Whygate-Refused-By", Value: "gateway"}, {Name: "Whygate-Call", Value: "01J"}}},
		}}}
		clues := pinpoint.Read(c, time.Now())
		i := slices.IndexFunc(clues, func(k pinpoint.Clue) bool { return strings.Contains(k.Says, r.Code) })
		if i < 0 || clues[i].Refuser != "whygate" || clues[i].Weight != pinpoint.Certain {
			t.Errorf("%s: no clue", r.Code)
			continue
		}
		exempt := slices.Contains(without, r.Code) || slices.ContainsFunc(withoutGroups, func(g string) bool { return strings.HasPrefix(r.Code, g) })
		if (clues[i].Cause == "") && !exempt {
			t.Errorf("%s has no cause", r.Code)
		}
	}
}
