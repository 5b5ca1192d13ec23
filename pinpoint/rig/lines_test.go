package rig

import (
	"testing"

	"github.com/whygate/whygate/pinpoint"
	"github.com/whygate/whygate/pinpoint/input"
)

// The lines that package input takes apart are those that package pinpoint attributes: the names of their fields must agree.
func TestLinesAreAttributed(t *testing.T) {
	for _, tt := range []struct {
		name, line, refuser, cause string
		passed                     bool // handed on only
	}{
		{"haproxy", `haproxy[77]: 192.0.2.7:40112 [03/Feb/2026:10:11:12.123] fe_main fe_main/<NOSRV> 0/-1/-1/-1/0 403 192 - - PR-- 1/1/0/0/0 0/0 "GET /admin HTTP/1.1"`, "haproxy", "haproxy-acl-deny", false},
		{"haproxy passes it on", `haproxy[77]: 192.0.2.7:40112 [03/Feb/2026:10:11:12.123] fe be_app/app1 0/0/1/5/6 403 310 - - ---- 1/1/0/0/0 0/0 "POST /o HTTP/1.1"`, "haproxy", "", true},
		{"envoy", `[2026-02-03T10:11:12.000Z] "GET /x HTTP/1.1" 403 - rbac_access_denied_matched_policy[none] - "-" 0 19 0 - "-" "curl/8" "id" "shop.test" "-" - - 10.0.0.1:80 192.0.2.7:1 - -`, "envoy", "envoy-rbac-denied", false},
		{"envoy passes it on", `[2026-02-03T10:11:12.000Z] "GET /x HTTP/1.1" 403 - via_upstream - "-" 0 19 5 4 "-" "curl/8" "id" "shop.test" "10.0.0.2:80" out - 10.0.0.1:80 192.0.2.7:1 - -`, "envoy", "", true},
		{"alb", `https 2026-02-03T10:11:12.123456Z app/lb/1 192.0.2.7:1 - -1 -1 -1 403 - 34 366 "GET https://shop.test:443/x HTTP/2.0" "curl/8" TLS TLSv1.2 - "Root=1-2" "shop.test" "arn" 0 2026-02-03T10:11:12.000000Z "waf" "-" "-" "-" "-" "-" "-"`, "aws-waf", "", false},
		{"alb passes it on", `https 2026-02-03T10:11:12.123456Z app/lb/1 192.0.2.7:1 10.0.0.2:80 0.001 0.001 0.000 403 403 34 366 "GET https://shop.test:443/x HTTP/2.0" "curl/8" TLS TLSv1.2 arn "Root=1-2" "shop.test" "arn" 0 2026-02-03T10:11:12.000000Z "forward" "-" "-" "10.0.0.2:80" "403" "-" "-"`, "aws-alb", "", true},
		{"traefik", `{"ClientHost":"192.0.2.7","DownstreamStatus":403,"OriginStatus":0,"RequestHost":"shop.test","RequestMethod":"GET","RequestPath":"/x","RouterName":"r@file","time":"2026-02-03T10:11:12Z"}`, "traefik", "", false},
		{"traefik passes it on", `{"ClientHost":"192.0.2.7","DownstreamStatus":403,"OriginStatus":403,"RequestHost":"shop.test","RequestMethod":"GET","RequestPath":"/x","RouterName":"r@file","time":"2026-02-03T10:11:12Z"}`, "traefik", "", true},
		{"nginx", `{"time_iso8601":"2026-02-03T10:11:12+00:00","remote_addr":"192.0.2.7","request":"GET /x HTTP/1.1","status":"403","upstream_status":"-","http_host":"shop.test"}`, "", "", false},
		{"iis", "#Fields: date time s-ip cs-method cs-uri-stem cs-uri-query s-port cs-username c-ip cs(User-Agent) cs(Referer) sc-status sc-substatus sc-win32-status time-taken\n2026-02-03 10:11:12 10.0.0.1 GET /img/ - 443 - 192.0.2.7 curl/8 - 403 14 0 3", "iis", "no-index-listing-off", false},
	} {
		l, err := input.Line(tt.line)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		found := false
		clues := pinpoint.Attribute(l)
		for _, c := range clues {
			found = found || (tt.refuser == "" || c.Refuser == tt.refuser) && (tt.cause == "" || c.Cause == tt.cause) && c.Against == tt.passed
		}
		if !found {
			t.Errorf("%s: %s is not attributed to %q: %+v", tt.name, l.Format, tt.refuser, clues)
		}
	}
}
