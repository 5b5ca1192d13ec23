package pinpoint

import (
	"slices"
	"strings"
	"testing"
)

func TestHops(t *testing.T) {
	for _, row := range []struct {
		name, fields, chain, refused string
		status                       string
	}{
		{"nothing", "Content-Type: text/html", "client", "", "403"},
		{"nginx alone", "Server: nginx/1.22.1", "client nginx", "", "403"},
		{"cloudflare in front", "Server: cloudflare\nCF-Ray: 1-FRA\nX-Powered-By: Express", "client cloudflare express", "", "403"},
		{"cloudflare by itself", "Server: cloudflare\nCF-Ray: 1-FRA\nCF-Mitigated: challenge", "client cloudflare", "cloudflare", "403"},
		{"kong by itself", "Server: kong/3.4\nX-Kong-Response-Latency: 1", "client kong", "kong", "403"},
		{"kong hands on", "Via: kong/3.4\nX-Kong-Upstream-Latency: 3\nX-Kong-Proxy-Latency: 1\nServer: gunicorn", "client kong gunicorn", "", "403"},
		{"kong hands on from nowhere", "Via: kong/3.4\nX-Kong-Upstream-Latency: 3", "client kong ?", "", "403"},
		{"envoy hands on", "Server: envoy\nX-Envoy-Upstream-Service-Time: 4\nX-Powered-By: PHP/8.2", "client envoy php", "", "403"},
		{"envoy by itself", "Server: istio-envoy", "client envoy", "envoy", "403"},
		{"fastly in front of varnish words", "Via: 1.1 varnish\nX-Served-By: cache-fra-1\nX-Cache: MISS\nServer: Apache", "client fastly apache-httpd", "", "403"},
		{"two in Via", "Via: 1.1 varnish (Varnish/7.1), 1.1 abc.cloudfront.net (CloudFront)\nX-Amz-Cf-Id: a\nX-Varnish: 5\nServer: nginx", "client cloudfront varnish nginx", "", "403"},
		{"whygate", "Whygate-Call: 01J\nWhygate-Reason: ip-access.denied\nWhygate-Refused-By: gateway", "client whygate", "whygate", "403"},
		{"whygate hands on", "Whygate-Call: 01J\nWhygate-Refused-By: upstream\nServer: Werkzeug/2.2", "client whygate flask", "", "403"},
		{"store behind a CDN", "X-Cache: Error from cloudfront\nX-Amz-Cf-Id: a\nServer: AmazonS3", "client cloudfront s3-compatible-store", "s3-compatible-store", "403"},
		{"egress", "Server: squid/5\nX-Squid-Error: ERR_ACCESS_DENIED 0", "client squid", "squid", "403"},
		{"nobody refuses a 200", "Server: istio-envoy", "client envoy", "", "200"},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := readCase(t, "GET https://a.test/\nAccept: */*\n\n>>> "+row.status+"\n"+row.fields)
			var chain []string
			refused := ""
			for _, h := range Hops(c) {
				name := h.Product
				if h.Kind == "client" {
					name = "client"
				} else if name == "" {
					name = "?"
				}
				chain = append(chain, name)
				if h.Refused {
					refused = h.Product
				}
			}
			if got := strings.Join(chain, " "); got != row.chain || refused != row.refused {
				t.Errorf("got %q, refused by %q", got, refused)
			}
			for _, k := range Read(c, readNow) {
				if k.Cause == "" && k.Refuser != "" && k.Hop > 0 {
					if hops := Hops(c); k.Hop >= len(hops) || hops[k.Hop].Product != k.Refuser {
						t.Errorf("clue of %s at hop %d: %v", k.Refuser, k.Hop, hops)
					}
				}
			}
		})
	}
}

func TestHandsOnBlamesTheNext(t *testing.T) {
	c := readCase(t, "GET https://a.test/\nAccept: */*\n\n>>> 403\nVia: kong/3.4\nX-Kong-Upstream-Latency: 3\nServer: gunicorn")
	clues := Read(c, readNow)
	if !slices.ContainsFunc(clues, func(k Clue) bool { return k.Refuser == "gunicorn" && k.Hop == 2 && k.Cause == "" }) {
		t.Errorf("%s", readText(clues))
	}
	if slices.ContainsFunc(clues, func(k Clue) bool { return k.Refuser == "kong" && !k.Against }) || !slices.ContainsFunc(clues, func(k Clue) bool { return k.Refuser == "kong" && k.Cause == "" }) {
		t.Errorf("kong only handed it on:\n%s", readText(clues))
	}
}

// TestWhygateCauses holds the causes against the reasons of the gateway: every group has one where the
// catalogue has one.
func TestWhygateCauses(t *testing.T) {
	for code, want := range map[string]string{"csrf.expired": "csrf-session-expired", "schema.violated": "schema-violation", "mtls.untrusted": "mtls-client-cert-invalid", "geo.unknown": "geo-blocked", "gateway.panic": "", "hmac.digest": "auth-signature-invalid"} {
		c := readCase(t, "GET https://a.test/\nAccept: */*\n\n>>> 403\nWhygate-Reason: "+code+"\nWhygate-Call: 01J")
		clues := Read(c, readNow)
		if len(clues) == 0 || clues[0].Cause != want && want != "" || clues[0].Refuser != "whygate" || want == "" && len(readCauses(clues, Strong)) > 0 {
			t.Errorf("%s: %s", code, readText(clues))
		}
	}
}

func TestTimeToFirstByte(t *testing.T) {
	slow := "GET https://a.test/x\nAccept: */*\n\n>>> 200\n@ms: 300"
	with := readCase(t, slow, slow, slow, "GET https://a.test/y\nAccept: */*\n\n>>> 403\n@ms: 4")
	without := readCase(t, slow, slow, slow, "GET https://a.test/y\nAccept: */*\n\n>>> 403\n@ms: 280")
	early := func(c *Case) bool {
		return slices.ContainsFunc(Read(c, readNow), func(k Clue) bool { return strings.Contains(k.Says, "a hop in front") })
	}
	if !early(with) || early(without) {
		t.Errorf("early answer: %v, usual answer: %v", early(with), early(without))
	}
}
