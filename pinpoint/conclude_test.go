package pinpoint

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func answer(status int, body string, fields ...string) *Answer {
	a := &Answer{Status: status, Body: []byte(body)}
	for i := 0; i+1 < len(fields); i += 2 {
		a.Header = append(a.Header, Field{fields[i], fields[i+1]})
	}
	return a
}

const (
	nginx403  = "<html>\r\n<head><title>403 Forbidden</title></head>\r\n<body>\r\n<center><h1>403 Forbidden</h1></center>\r\n<hr><center>nginx/1.22.1</center>\r\n</body>\r\n</html>\r\n"
	apache403 = "<h1>Forbidden</h1>\n<p>You don't have permission to access this resource.</p>"
	noIndex   = `2026/02/03 10:11:12 [error] 812#812: *5 directory index of "/srv/www/img/" is forbidden, client: 192.0.2.7, server: _, request: "GET /img/ HTTP/1.1", host: "a"`
	denyRule  = `2026/02/03 10:11:12 [error] 812#812: *4 access forbidden by rule, client: ::1, server: shop.example, request: "GET /admin/ HTTP/1.1", host: "shop.example"`
	modsec    = `[client 192.0.2.7] ModSecurity: Access denied with code 403 (phase 2). Operator GE matched 5 at TX:anomaly_score. [file "/usr/share/modsecurity-crs/rules/REQUEST-949-BLOCKING-EVALUATION.conf"] [line "94"] [id "949110"] [msg "Inbound Anomaly Score Exceeded (Total Score: 5)"] [uri "/c"] [unique_id "aAbB"]`
	warning   = `[client 192.0.2.7] ModSecurity: Warning. detected SQLi using libinjection with fingerprint 's&sos' [file "x.conf"] [line "65"] [id "942100"] [msg "SQL Injection Attack Detected via libinjection"] [data "Matched Data: s&sos found within ARGS:comment: 1' OR '1'='1"] [uri "/c"] [unique_id "aAbB"]`
	method    = `[client 192.0.2.7] ModSecurity: Warning. Match of "within %{tx.allowed_methods}" against "REQUEST_METHOD" required. [file "x.conf"] [line "27"] [id "911100"] [msg "Method is not allowed by policy"] [data "DELETE"] [uri "/c"] [unique_id "aAbB"]`
)

func flip(op string) Experiment {
	return Experiment{Operator: op, Class: S1, Says: "changed", Method: "GET", Status: 200, Shows: "passes", Flip: true}
}

func same(op string) Experiment {
	return Experiment{Operator: op, Class: S1, Says: "changed", Method: "GET", Status: 403, Shows: "same"}
}

func clue(source Source, cause string, weight float64) Clue {
	return Clue{Source: source, ID: string(source) + "-" + cause, Cause: cause, Weight: weight, Says: "Something says " + cause + "."}
}

func experiment(op, cause string, weight float64) Clue {
	return Clue{Source: FromExperiment, ID: op, Cause: cause, Weight: weight, Says: "With a change it shows."}
}

// A line of a log about a repetition of the request is no second piece of evidence.
func TestEqualLines(t *testing.T) {
	clues := MatchLog("nginx", noIndex)
	clues = append(clues, MatchLog("nginx", strings.NewReplacer("10:11:12", "10:11:13", "*5", "*9").Replace(noIndex))...)
	for i := range clues {
		clues[i].Quote = fmt.Sprint("line ", i)
	}
	v := Conclude(caseOf(answer(403, nginx403)), clues, nil, 403)
	if n := len(slices.DeleteFunc(slices.Clone(v.Evidence), func(c Clue) bool { return c.Source != FromLog })); n != 1 || v.Cause != "no-index-listing-off" {
		t.Errorf("%d lines for %s", n, v.Cause)
	}
}

// The next step names the flag and the request that it would send.
func TestOffer(t *testing.T) {
	e := Experiment{Operator: "path-nonexistent", Class: S2, Says: "a path that does not exist", Method: "POST", URL: "http://shop.test/a/whygate-probe-x?token=1", Skipped: "needs --probe: an unsafe method, built so that it cannot succeed"}
	v := Conclude(caseOf(answer(403, nginx403)), Match(answer(403, nginx403)), []Experiment{e}, 403)
	for _, want := range []string{"--probe", "POST /a/whygate-probe-x", "a path that does not exist", "--on-server"} {
		if !strings.Contains(v.Next, want) {
			t.Errorf("%q does not say %q", v.Next, want)
		}
	}
	if strings.Contains(v.Next, "token") {
		t.Errorf("%q", v.Next)
	}
}

func TestConclude(t *testing.T) {
	for _, tt := range []struct {
		name        string
		answer      *Answer
		gaps        []Gap
		logs        []string // product: line
		clues       []Clue
		experiments []Experiment

		outcome Outcome
		cause   string
		product string
		grade   string
		least   float64 // confidence
		fix     string  // part of the fix
	}{
		{name: "a stock page says who, not why", answer: answer(403, nginx403),
			outcome: Unknown, cause: "refuser-only", product: "nginx"},
		{name: "a log names it", answer: answer(403, nginx403), logs: []string{"nginx", noIndex},
			outcome: Proved, cause: "no-index-listing-off", product: "nginx", grade: "A", least: 0.9, fix: "/srv/www/img/"},
		{name: "a log alone, no answer", logs: []string{"apache-httpd", "[x] [client 192.0.2.7:4000] AH01630: client denied by server configuration: /srv/www/private"},
			outcome: Proved, cause: "apache-require-denied", product: "apache-httpd", grade: "A", least: 0.9},
		{name: "a flip with the User-Agent", answer: answer(403, apache403), experiments: []Experiment{flip("ua-browser"), same("referer-same")},
			outcome: Proved, cause: "user-agent-blocked", product: "apache-httpd", grade: "B", least: 0.75},
		{name: "a pass without the repeated refusal is no proof", answer: answer(403, apache403), experiments: []Experiment{{Operator: "ua-browser", Status: 200, Shows: "passes"}},
			outcome: Unknown, cause: "refuser-only", product: "apache-httpd"},
		{name: "the walk of permissions names the component, the log the file", answer: answer(403, nginx403), logs: []string{"nginx", `[error] 8#8: *6 open() "/srv/t1/private/a.html" failed (13: Permission denied), client: 192.0.2.7`},
			clues:   []Clue{{Source: FromFiles, ID: "walk", Cause: "fs-dir-no-search", Refuser: "nginx", Hop: 1, Weight: Certain, Says: "No x.", Names: map[string]string{"path": "/srv/t1/private", "user": "www-data"}}},
			outcome: Proved, cause: "fs-dir-no-search", product: "nginx", grade: "A", least: 0.9, fix: "chmod o+x /srv/t1/private,"},
		{name: "a flip with the method", answer: answer(403, nginx403), experiments: []Experiment{flip("method-get")},
			outcome: Likely, cause: "method-denied-by-rule", product: "nginx", grade: "C", least: 0.5},
		{name: "a sibling that passes is no cause", answer: answer(403, apache403), experiments: []Experiment{flip("path-sibling")},
			outcome: Unknown, cause: "refuser-only", product: "apache-httpd"},
		{name: "and it supports what the page names", answer: answer(403, "<html><body><h1>403 Forbidden</h1>\nRequest forbidden by administrative rules.\n</body></html>\n"), experiments: []Experiment{flip("path-sibling")},
			outcome: Likely, cause: "haproxy-acl-deny", product: "haproxy", grade: "C", least: 0.8},
		{name: "the family refines the rule", answer: answer(403, nginx403), logs: []string{"nginx", denyRule}, experiments: []Experiment{flip("ip4")},
			outcome: Proved, cause: "ip-family-mismatch", product: "nginx", grade: "B", least: 0.9},
		{name: "configuration and log agree on a refinement", answer: answer(403, nginx403), logs: []string{"nginx", denyRule},
			clues:   []Clue{{Source: FromConfig, ID: "nginx-location", Cause: "nginx-location-precedence", Refuser: "nginx", Hop: 1, Weight: Certain, Says: "location ~ /\\. wins.", At: Place{"/etc/nginx/a.conf", 12}}},
			outcome: Proved, cause: "nginx-location-precedence", product: "nginx", grade: "A", least: 0.9},
		{name: "configuration alone", answer: answer(403, nginx403), clues: []Clue{{Source: FromConfig, ID: "return", Cause: "nginx-return-403", Refuser: "nginx", Weight: Certain, Says: "return 403."}},
			outcome: Proved, cause: "nginx-return-403", product: "nginx", grade: "B", least: 0.9},
		{name: "configuration, and a log that is silent as it must", answer: answer(403, nginx403),
			clues: []Clue{{Source: FromConfig, ID: "return", Cause: "nginx-return-403", Refuser: "nginx", Weight: Certain, Says: "return 403."},
				{Source: FromLog, ID: SilentLog, Refuser: "nginx", Weight: Strong, Says: "The log is silent."}},
			outcome: Proved, cause: "nginx-return-403", product: "nginx", grade: "A", least: 0.9},
		{name: "silence where a line was due lowers the grade", answer: answer(403, nginx403),
			clues: []Clue{{Source: FromConfig, ID: "deny", Cause: "nginx-deny-rule", Refuser: "nginx", Weight: Certain, Says: "deny all."},
				{Source: FromLog, ID: SilentLog, Refuser: "nginx", Weight: Strong, Says: "The log is silent."}},
			outcome: Likely, cause: "nginx-deny-rule", product: "nginx", grade: "C", least: 0.8},
		{name: "a mechanism and what it is for", answer: answer(403, apache403),
			clues:       []Clue{{Source: FromConfig, ID: "RewriteRule", Cause: "apache-rewrite-forbidden", Refuser: "apache-httpd", Weight: Certain, Says: "RewriteRule [F]."}},
			experiments: []Experiment{flip("ua-browser")},
			outcome:     Proved, cause: "user-agent-blocked", product: "apache-httpd", grade: "B", least: 0.9},
		{name: "the earliest refusal wins", answer: answer(403, nginx403),
			clues: []Clue{{Source: FromConfig, ID: "a", Cause: "apache-require-denied", Refuser: "apache-httpd", Hop: 2, Weight: Certain, Says: "Require ip."},
				{Source: FromConfig, ID: "n", Cause: "nginx-deny-rule", Refuser: "nginx", Hop: 1, Weight: Certain, Says: "deny all."}},
			outcome: Proved, cause: "nginx-deny-rule", product: "nginx", grade: "B", least: 0.9},
		{name: "the log of a later hop shows that the earlier one let it pass", answer: answer(403, apache403),
			clues: []Clue{{Source: FromLog, ID: "apache-ah01630", Cause: "apache-require-denied", Refuser: "apache-httpd", Hop: 2, Weight: Certain, Says: "AH01630."},
				{Source: FromConfig, ID: "n", Cause: "nginx-deny-rule", Refuser: "nginx", Hop: 1, Weight: Certain, Says: "deny all."}},
			outcome: Proved, cause: "apache-require-denied", product: "apache-httpd", grade: "A", least: 0.9},
		{name: "a page never outranks a log line", answer: answer(403, "RBAC: access denied", "Server", "envoy"), logs: []string{"apache-httpd", "AH01630: client denied by server configuration: /srv/a"},
			outcome: Proved, cause: "apache-require-denied", product: "apache-httpd", grade: "A", least: 0.9},
		{name: "a page never outranks a flip", answer: answer(403, "", "Retry-After", "30", "X-RateLimit-Remaining", "0"),
			clues:   []Clue{{Source: FromExperiment, ID: "ua-browser", Cause: "user-agent-blocked", Weight: 4, Says: "It flips."}},
			outcome: Proved, cause: "user-agent-blocked", grade: "B", least: 0.8},
		{name: "two logs, two causes", answer: answer(403, nginx403), logs: []string{"nginx", noIndex, "nginx", denyRule},
			outcome: Unknown, cause: "refuser-only", product: "nginx"},
		{name: "a log and a flip that exclude each other", answer: answer(403, nginx403), logs: []string{"nginx", noIndex}, experiments: []Experiment{flip("referer-same")},
			outcome: Unknown, cause: "refuser-only", product: "nginx"},
		{name: "a clue against it lowers the grade", answer: answer(403, nginx403), logs: []string{"nginx", noIndex}, clues: []Clue{{Source: FromFiles, ID: "index", Cause: "no-index-listing-off", Against: true, Weight: Fair, Says: "There is an index file."}},
			outcome: Proved, cause: "no-index-listing-off", product: "nginx", grade: "B", least: 0.9},
		{name: "a warning is no block", answer: answer(403, apache403), logs: []string{"apache-httpd", warning},
			outcome: Unknown, cause: "refuser-only", product: "apache-httpd"},
		{name: "the denial names the WAF, the warning the rule", answer: answer(403, apache403), logs: []string{"apache-httpd", modsec, "apache-httpd", warning},
			outcome: Proved, cause: "waf-crs-anomaly", product: "modsecurity", grade: "A", least: 0.9, fix: "ctl:ruleRemoveTargetById=942100;ARGS:comment"},
		{name: "a rule with a cause of its own refines the denial", answer: answer(403, apache403), logs: []string{"apache-httpd", modsec, "apache-httpd", method},
			outcome: Proved, cause: "waf-method-policy", product: "modsecurity", least: 0.6},
		{name: "DetectionOnly speaks against the WAF", answer: answer(403, apache403), logs: []string{"apache-httpd", warning, "modsecurity", `Engine-Mode: "DETECTION_ONLY"`, "apache-httpd", "AH01630: client denied by server configuration: /srv/a"},
			outcome: Proved, cause: "apache-require-denied", product: "apache-httpd", grade: "A", least: 0.9},
		{name: "a token that has expired, decoded", answer: answer(403, `{"error":"forbidden"}`), clues: []Clue{{Source: FromRequest, ID: "jwt-exp", Cause: "jwt-expired", Weight: Certain, Says: "exp was two hours ago.", Names: map[string]string{"exp": "08:11 UTC"}}},
			outcome: Likely, cause: "jwt-expired", grade: "C", least: 0.9, fix: "08:11 UTC"},
		{name: "and with a fresh token", answer: answer(403, `{"error":"forbidden"}`), clues: []Clue{clue(FromRequest, "jwt-expired", Certain)}, experiments: []Experiment{flip("auth-swap")},
			outcome: Proved, cause: "jwt-expired", grade: "B", least: 0.9},
		{name: "a hint alone is no verdict", answer: answer(403, "no"), clues: []Clue{clue(FromRequest, "user-agent-blocked", Hint)},
			outcome: Unknown},
		{name: "weak clues of one source do not add up", answer: answer(403, "no"), clues: slices.Repeat([]Clue{clue(FromRequest, "user-agent-blocked", Hint)}, 50),
			outcome: Unknown},
		{name: "a sanitized export proves no missing credential", answer: answer(403, "no"), gaps: []Gap{{Kind: "sanitized", Says: "Cookies were removed.", Blocks: true}}, clues: []Clue{clue(FromRequest, "auth-missing", Strong)},
			outcome: InputIncomplete, cause: "input-incomplete"},
		{name: "a telling answer settles it all the same", answer: answer(403, `{"detail":"You do not have permission to perform this action."}`), gaps: []Gap{{Kind: "sanitized", Says: "Cookies were removed.", Blocks: true}},
			outcome: Likely, cause: "role-insufficient", product: "django-rest-framework", grade: "C", least: 0.8},
		{name: "the refusal does not come back", answer: answer(403, "RBAC: access denied", "Server", "envoy"), clues: []Clue{clue(FromExperiment, "not-reproduced", Strong)},
			outcome: NotReproduced, cause: "not-reproduced", product: "envoy"},
		{name: "the same, told by the experiment", answer: answer(403, nginx403), experiments: []Experiment{{Operator: "repeat", Status: 200, Shows: "passes"}},
			outcome: NotReproduced, cause: "not-reproduced", product: "nginx"},
		{name: "a limiter lets pass again", answer: answer(403, "", "X-RateLimit-Remaining", "0", "Retry-After", "9"), clues: []Clue{clue(FromExperiment, "not-reproduced", Strong)},
			outcome: Likely, cause: "rate-limit-as-403", grade: "C", least: 0.7},
		{name: "a log stands although the request passes now", answer: answer(403, nginx403), logs: []string{"nginx", noIndex}, clues: []Clue{clue(FromExperiment, "not-reproduced", Strong)},
			outcome: Proved, cause: "no-index-listing-off", product: "nginx", grade: "A", least: 0.9},
		{name: "another refusal than the recorded one", answer: answer(403, nginx403), clues: []Clue{clue(FromExperiment, "baseline-differs", Strong)},
			outcome: NotReproduced, cause: "baseline-differs", product: "nginx"},
		{name: "what would be needed is not allowed", answer: answer(403, "no"), experiments: []Experiment{{Operator: "body-benign", Class: S3, Skipped: "it may have an effect; --yes-side-effects allows it"}},
			outcome: Unsafe},
		{name: "a limiter by its log, the status names it", answer: answer(429, "slow"), logs: []string{"nginx", `2026/02/03 10:11:12 [error] 8#8: *11 limiting requests, excess: 0.992 by zone "perip", client: 192.0.2.7`},
			outcome: Proved, cause: "rate-limit", product: "nginx", grade: "A", least: 0.9},
		{name: "a look-alike: Akamai's page has Apache's sentence", answer: answer(403, "You don't have permission to access \"http&#58;&#47;&#47;a&#47;\" on this server.<P>\nReference&#32;&#35;18&#46;6f64", "Server", "AkamaiGHost"),
			outcome: Likely, cause: "waf-managed-rule", product: "akamai", grade: "C", least: 0.8},
		{name: "a look-alike: nginx's page from a load balancer", answer: answer(403, strings.Replace(nginx403, "<hr><center>nginx/1.22.1</center>\r\n", "", 1), "Server", "awselb/2.0"),
			outcome: Likely, cause: "waf-managed-rule", product: "aws-waf", grade: "C", least: 0.7},
		{name: "a proxy that only handed it on", answer: answer(403, "RBAC: access denied", "Server", "envoy", "X-Kong-Upstream-Latency", "3", "X-Kong-Proxy-Latency", "1"),
			outcome: Likely, cause: "envoy-rbac-denied", product: "envoy", grade: "C", least: 0.8},
		{name: "a cause that nobody knows is no cause", answer: answer(403, "no"), clues: []Clue{clue(FromLog, "of-no-catalogue", Certain)},
			outcome: Unknown},
		{name: "that the refusal stays makes nothing possible", answer: answer(403, nginx403), clues: []Clue{experiment("path-nonexistent", "wrong-path", Fair), experiment("wait", "quota-exceeded", Hint)},
			experiments: []Experiment{same("path-nonexistent"), same("wait")}, outcome: Unknown, cause: "refuser-only", product: "nginx"},
		{name: "another way to change what is the cause is not odd", answer: answer(403, apache403, "Server", "Apache/2.4.71"),
			experiments: []Experiment{flip("ua-browser"), flip("ua-drop"), flip("method-options")}, outcome: Proved, cause: "user-agent-blocked", product: "apache-httpd", grade: "B", least: 0.75},
		{name: "what the parent expects too makes nothing finer", answer: answer(403, apache403), logs: []string{"apache-httpd", modsec}, clues: []Clue{experiment("body-benign", "waf-crs-anomaly", Certain), experiment("body-benign", "waf-args-limit", Strong)},
			outcome: Proved, cause: "waf-crs-anomaly", product: "modsecurity", grade: "A", least: 0.9},
		{name: "nothing at all", outcome: Unknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &Case{Gaps: tt.gaps}
			status := 403
			var clues []Clue
			if tt.answer != nil {
				c = caseOf(tt.answer)
				c.Gaps = tt.gaps
				status = tt.answer.Status
				clues = Match(tt.answer)
			}
			for i := 0; i+1 < len(tt.logs); i += 2 {
				clues = append(clues, MatchLog(tt.logs[i], tt.logs[i+1])...)
			}
			clues = append(clues, tt.clues...)
			v := Conclude(c, clues, tt.experiments, status)
			if v.Outcome != tt.outcome || v.Cause != tt.cause || v.Refuser.Product != tt.product || tt.grade != "" && v.Grade != tt.grade || v.Confidence < tt.least {
				t.Errorf("%s %q by %q, %s %.2f, want %s %q by %q, %s %.2f\n%s\nalternatives %+v", v.Outcome, v.Cause, v.Refuser.Product, v.Grade, v.Confidence,
					tt.outcome, tt.cause, tt.product, tt.grade, tt.least, v.Sentence, v.Alternatives)
			}
			if steps := strings.Join(v.Fix.Steps, " "); !strings.Contains(steps, tt.fix) || strings.ContainsAny(steps, "{}|") && !strings.Contains(steps, "{ … }") {
				t.Errorf("fix %q, want %q", steps, tt.fix)
			}
			if v.Sentence == "" || !strings.HasSuffix(v.Sentence, ".") {
				t.Errorf("sentence %q", v.Sentence)
			}
			if (v.Outcome == Unknown || v.Outcome == Unsafe) && v.Next == "" {
				t.Error("an unknown cause needs the step that would tell")
			}
			if v.Outcome == Proved && v.Grade > "B" || v.Outcome == Likely && v.Grade < "C" {
				t.Errorf("%s with grade %s", v.Outcome, v.Grade)
			}
			again := Conclude(c, clues, tt.experiments, status)
			if !reflect.DeepEqual(v, again) {
				t.Error("the same input gives another verdict")
			}
		})
	}
}

// The sum of the shares of causes that exclude each other never exceeds 1, and a page alone never gives A or B.
func TestSharesAndGrades(t *testing.T) {
	for _, f := range fingerprintsWithSamples(t) {
		a := f.Sample.answer()
		v := Conclude(caseOf(a), Match(a), nil, a.Status)
		sum := v.Confidence
		for _, alt := range v.Alternatives {
			if v.Outcome == Likely && alt.Cause != v.Cause {
				sum += alt.Confidence
			}
		}
		if sum > 1.02 {
			t.Errorf("%s: shares add up to %.2f: %s %.2f %+v", f.ID, sum, v.Cause, v.Confidence, v.Alternatives)
		}
		if v.Outcome == Proved || v.Grade != "" && v.Grade < "C" {
			t.Errorf("%s: grade %s by a page alone", f.ID, v.Grade)
		}
		if f.Confidence >= 0.8 && f.Cause != refuserOnly && f.Cause != "refusal-masked" && v.Outcome != Likely {
			t.Errorf("%s: %s, %s %.2f", f.ID, v.Outcome, v.Cause, v.Confidence)
		}
	}
}

func TestEveryLogLineIsProofOfItsOwnCauseOnly(t *testing.T) {
	for _, p := range patternsWithSamples(t) {
		clues := MatchLog(p.Product, p.Sample)
		v := Conclude(&Case{}, clues, nil, 0)
		weight := weights[p.Weight]
		switch {
		case p.Against || p.Passes || p.Cause == refuserOnly && clues[0].Cause == "":
			if v.Outcome == Proved {
				t.Errorf("%s: %s", p.ID, v.Cause)
			}
		case weight >= Strong && (v.Outcome != Proved || v.Grade != "A"):
			t.Errorf("%s: %s, %s %s", p.ID, v.Outcome, v.Cause, v.Grade)
		case weight < Strong && v.Outcome == Proved:
			t.Errorf("%s: a line of weight %.1f proves %s", p.ID, weight, v.Cause)
		}
	}
}

func TestAttribute(t *testing.T) {
	for _, tt := range []struct {
		line    LogLine
		refuser string
		cause   string
		passed  bool
	}{
		{LogLine{Format: "combined+", Status: 403, Upstream: "-"}, "nginx", "", false},
		{LogLine{Format: "json", Status: 403, Fields: map[string]string{"upstream_status": "502, 403", "upstream_addr": "10.0.0.2:80"}}, "nginx", "", true},
		{LogLine{Format: "json", Status: 403, Upstream: "404"}, "nginx", "refusal-masked", false},
		{LogLine{Format: "haproxy", Status: 403, Fields: map[string]string{"termination_state": "PR--", "backend": "fe", "server": "<NOSRV>"}}, "haproxy", "haproxy-acl-deny", false},
		{LogLine{Format: "haproxy", Status: 500, Fields: map[string]string{"termination_state": "PT--", "server": "<NOSRV>"}}, "haproxy", "haproxy-tarpit", false},
		{LogLine{Format: "haproxy", Status: 400, Path: "<BADREQ>", Fields: map[string]string{"termination_state": "PR--", "server": "<NOSRV>"}}, "haproxy", "haproxy-bad-request", false},
		{LogLine{Format: "haproxy", Status: 403, Fields: map[string]string{"termination_state": "----", "server": "app1"}}, "haproxy", "", true},
		{LogLine{Format: "envoy", Status: 403, Fields: map[string]string{"response_code_details": "rbac_access_denied_matched_policy[none]", "response_flags": "-"}}, "envoy", "envoy-rbac-denied", false},
		{LogLine{Format: "envoy", Status: 401, Fields: map[string]string{"response_code_details": "jwt_authn_access_denied{Jwt_is_expired}"}}, "envoy", "jwt-expired", false},
		{LogLine{Format: "envoy", Status: 403, Fields: map[string]string{"RESPONSE_FLAGS": "UAEX"}}, "envoy", "envoy-ext-authz-denied", false},
		{LogLine{Format: "envoy", Status: 403, Fields: map[string]string{"response_code_details": "via_upstream"}}, "envoy", "", true},
		{LogLine{Format: "json", Status: 403, Fields: map[string]string{"DownstreamStatus": "403", "OriginStatus": "0"}}, "traefik", "", false},
		{LogLine{Format: "json", Status: 403, Fields: map[string]string{"DownstreamStatus": "403", "OriginStatus": "403"}}, "traefik", "", true},
		{LogLine{Format: "cloudfront", Status: 403, Fields: map[string]string{"x-edge-detailed-result-type": "ClientGeoBlocked"}}, "cloudfront", "geo-blocked", false},
		{LogLine{Format: "alb", Status: 403, Fields: map[string]string{"target_status_code": "-", "actions_executed": "waf"}}, "aws-waf", "waf-managed-rule", false},
		{LogLine{Format: "alb", Status: 403, Fields: map[string]string{"target_status_code": "-", "actions_executed": "waf,fixed-response"}}, "aws-alb", "gw-termination", false},
		{LogLine{Format: "alb", Status: 403, Fields: map[string]string{"target_status_code": "403", "actions_executed": "waf,forward"}}, "aws-alb", "", true},
		{LogLine{Format: "iis", Status: 403, Fields: map[string]string{"sc-substatus": "14", "sc-win32-status": "0"}}, "iis", "no-index-listing-off", false},
		{LogLine{Format: "iis", Status: 403, Fields: map[string]string{"sc-substatus": "0"}}, "iis", "", true},
		{LogLine{Format: "json", Status: 403, Fields: map[string]string{"backendResponseCode": ""}}, "azure-api-management", "", false},
		{LogLine{Format: "kong", Status: 403, Fields: map[string]string{"upstream_status": "-"}}, "kong", "", false},
	} {
		clues := Attribute(&tt.line)
		name := fmt.Sprintf("%s %v", tt.line.Format, tt.line.Fields)
		if len(clues) != 1 {
			t.Errorf("%s: %d clues", name, len(clues))
			continue
		}
		c := clues[0]
		if c.Refuser != tt.refuser || c.Cause != tt.cause || c.Against != tt.passed || c.Says == "" || c.Source != FromLog {
			t.Errorf("%s: %+v", name, c)
		}
		v := Conclude(&Case{Line: &tt.line}, clues, nil, tt.line.Status)
		if tt.passed && v.Refuser.Product == tt.refuser {
			t.Errorf("%s: %s refused, although it handed on", name, v.Refuser.Product)
		}
		if !tt.passed && v.Refuser.Product != tt.refuser {
			t.Errorf("%s: %q refused", name, v.Refuser.Product)
		}
	}
	if Attribute(nil) != nil || Attribute(&LogLine{Format: "combined", Status: 403}) != nil {
		t.Error("a line without such fields says who refused")
	}
}

// Names of a fix come from strangers: they are quoted, so that a command stays one command.
func TestFill(t *testing.T) {
	names := map[string]string{"path": "/srv/$(reboot)/it's; a", "user": "www-data", "directive": "deny all; at x:1", "t": "‹secret:3f9c1b2a len=8›"}
	for step, want := range map[string]string{
		"chmod o+x {path|DIR}":     `chmod o+x '/srv/$(reboot)/it'\''s; a'`,
		"setfacl -m u:{user|x}:x.": "setfacl -m u:www-data:x.",
		"Correct it{directive|}.":  "Correct it (deny all; at x:1).",
		"Correct it{other|}.":      "Correct it.",
		"Method {other|}.":         "Method.",
		"Look at {other|the log}.": "Look at the log.",
		"Token {t|}":               "Token ‹secret:3f9c1b2a len=8›",
	} {
		if got := fill(step, names); got != want {
			t.Errorf("%q: %q, want %q", step, got, want)
		}
	}
}

// An evaluated rule stands, although experiments on conditions that it does not have change nothing.
func TestMechanismKeepsItsRule(t *testing.T) {
	clues := []Clue{
		{Source: FromConfig, ID: "haproxy-rule", Cause: "haproxy-acl-deny", Refuser: "haproxy", Hop: 1, Weight: Certain, Says: "the rule holds"},
		{Source: FromExperiment, ID: "ua-browser", Cause: "haproxy-acl-deny", Against: true, Weight: 2, Says: "the refusal stays"},
		{Source: FromExperiment, ID: "host-noport", Cause: "haproxy-acl-deny", Against: true, Weight: 2, Says: "the refusal stays"},
	}
	v := Conclude(&Case{}, clues, nil, 403)
	if v.Cause != "haproxy-acl-deny" || v.Grade != "B" {
		t.Errorf("%s, grade %s", v.Cause, v.Grade)
	}
	clues[0].Weight = Strong // a rule that may hold is no proof
	if v := Conclude(&Case{}, clues, nil, 403); v.Grade == "B" {
		t.Error("experiments against a possible rule do not count")
	}
}

// A refusal that comes at times is not one that is gone, and one that never came is not one that does not come back.
func TestConcludeWithoutTheRefusal(t *testing.T) {
	repeat := func(shows string, status int) Experiment {
		return Experiment{Operator: "repeat", Class: S1, Method: "GET", URL: "https://a.test/x", Shows: shows, Status: status}
	}
	gone := []Clue{{Source: FromExperiment, ID: "repeat", Cause: notReproduced, Weight: Strong}}
	asked := func(a *Answer) *Case {
		return &Case{Source: "url", Exchanges: []Exchange{{Request: &Request{Method: "GET", URL: "https://a.test/x"}, Answer: a}}}
	}
	for want, v := range map[string]Verdict{
		"The same request, GET /x, was refused with 403 in 1 of 2 tries: it depends on something else than the request.": Conclude(asked(nil), gone, []Experiment{repeat("same", 403), repeat("other", 500)}, 403),
		"Nothing refuses GET /x: the answer has status 200.":                                                             Conclude(asked(nil), gone, []Experiment{repeat("passes", 200)}, 0),
		"The refusal of GET /x with 403 does not come back: the same request passes now.":                                Conclude(asked(&Answer{Status: 403}), gone, []Experiment{repeat("passes", 200)}, 403),
	} {
		if v.Sentence != want || v.Outcome != NotReproduced {
			t.Errorf("%s %q, want %q", v.Outcome, v.Sentence, want)
		}
	}
}

// A text that many programs send names nobody, unless a field of the answer does.
func TestConcludeNamesNobodyByACommonText(t *testing.T) {
	for server, want := range map[string]string{"": "", "BaseHTTP/0.6 Python/3.11": "", "traefik": "traefik"} {
		a := &Answer{Status: 403, Body: []byte("Forbidden")}
		if server != "" {
			a.Header = Header{{"Server", server}}
		}
		c := &Case{Source: "url", Exchanges: []Exchange{{Request: &Request{Method: "GET", URL: "https://a.test/x"}, Answer: a}}}
		if v := Conclude(c, Match(a), nil, 403); v.Refuser.Product != want || v.Outcome != Unknown {
			t.Errorf("Server %q: %s by %q: %s", server, v.Outcome, v.Refuser.Product, v.Sentence)
		}
	}
}
