package diagnose

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/whygate/whygate/pinpoint"
)

// The station that refused is one of those shown, and the only one that is marked.
func TestShowRefuser(t *testing.T) {
	client := pinpoint.Hop{Kind: "client", Says: "you"}
	cdn, server := pinpoint.Hop{Kind: "cdn", Product: "cloudflare"}, pinpoint.Hop{Kind: "web-server", Product: "nginx"}
	refused := func(h pinpoint.Hop) pinpoint.Hop { h.Refused = true; return h }
	app := pinpoint.Hop{Kind: "application", Says: "not reached"}
	for name, c := range map[string]struct {
		hops, want []pinpoint.Hop
		v          pinpoint.Verdict
	}{
		"a server that is shown": {[]pinpoint.Hop{client, cdn, server}, []pinpoint.Hop{client, cdn, refused(server)}, pinpoint.Verdict{Refuser: pinpoint.Refuser{Product: "nginx"}, Layer: "web-server"}},
		"a framework behind it":  {[]pinpoint.Hop{client, server}, []pinpoint.Hop{client, server, {Kind: "application", Product: "django", Refused: true}}, pinpoint.Verdict{Refuser: pinpoint.Refuser{Product: "django"}, Layer: "framework"}},
		"the nameless one":       {[]pinpoint.Hop{client, server, {Kind: "application", Says: "behind nginx"}}, []pinpoint.Hop{client, server, {Kind: "application", Product: "flask", Refused: true}}, pinpoint.Verdict{Refuser: pinpoint.Refuser{Product: "flask"}, Layer: "application"}},
		"a firewall in between":  {[]pinpoint.Hop{client, cdn, server}, []pinpoint.Hop{client, cdn, {Kind: "waf", Product: "modsecurity", Refused: true}, server}, pinpoint.Verdict{Refuser: pinpoint.Refuser{Product: "modsecurity"}, Layer: "waf"}},
		"the edge":               {[]pinpoint.Hop{client, cdn}, []pinpoint.Hop{client, refused(cdn), app}, pinpoint.Verdict{Refuser: pinpoint.Refuser{Product: "cloudflare"}, Layer: "cdn"}},
		"another than it seemed": {[]pinpoint.Hop{client, refused(cdn), server}, []pinpoint.Hop{client, cdn, refused(server)}, pinpoint.Verdict{Refuser: pinpoint.Refuser{Product: "nginx"}}},
		"nobody known":           {[]pinpoint.Hop{client, server}, []pinpoint.Hop{client, server}, pinpoint.Verdict{}},
	} {
		if d := cmp.Diff(c.want, showRefuser(c.hops, &c.v)); d != "" {
			t.Errorf("%s (-want +got)\n%s", name, d)
		}
	}
}
