package pinpoint

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Attribute says which hop refused, from the fields of one line of an access log. Serious proxies record
// whether a status was their own or came from the server behind them:
//
//	nginx        upstream_status "-": its own (variable of ngx_http_upstream_module)
//	HAProxy      termination state PR or LR with <NOSRV>: its own; "--" with a server: passed on (log format, section 8.5)
//	Envoy        response code details other than via_upstream: its own
//	Traefik      OriginStatus 0 or absent: its own
//	Kong, APISIX upstream status absent: their own
//	AWS ALB      target_status_code "-" with actions_executed
//	CloudFront   x-edge-detailed-result-type
//	Azure        status of the backend empty
//	IIS          substatus names the cause
//	Caddy        no upstream in the line
//
// A clue with Against and without a cause says that its Refuser only handed the answer on.
func Attribute(line *LogLine) []Clue {
	if line == nil || line.Status == 0 {
		return nil
	}
	f := lineFields{}
	for name, value := range line.Fields {
		if len(f) == searchedFields {
			break
		}
		f[fieldName(name)] = value[:min(len(value), searchedValue)]
	}
	a := attribution{line: line, f: f, status: strconv.Itoa(line.Status)}
	format := strings.ToLower(line.Format)
	switch {
	case strings.Contains(format, "haproxy") || f.has("termination_state", "termination", "tsc", "term"):
		a.haproxy()
	case strings.Contains(format, "envoy") || f.has("response_code_details") || f.has("response_flags"):
		a.envoy()
	case f.has("originstatus") || f.has("downstreamstatus") || strings.Contains(format, "traefik"):
		a.traefik()
	case strings.Contains(format, "cloudfront") || f.has("x_edge_detailed_result_type", "x_edge_result_type"):
		a.cloudfront()
	case strings.Contains(format, "alb") || f.has("target_status_code") || f.has("actions_executed"):
		a.alb()
	case strings.Contains(format, "iis") || strings.Contains(format, "w3c") || f.has("sc_substatus"):
		a.iis()
	case f.has("x_kong_upstream_status", "kong_request_id") || strings.Contains(format, "kong"):
		a.upstream("kong", f.first("x_kong_upstream_status", "upstream_status"))
	case f.has("x_apisix_upstream_status") || strings.Contains(format, "apisix"):
		a.upstream("apisix", f.first("x_apisix_upstream_status", "upstream_status"))
	case f.has("backend_status", "backendstatuscode", "httpstatusdetails", "serverstatus", "backendresponsecode"):
		a.azure()
	case strings.Contains(format, "caddy") || strings.HasPrefix(f.first("logger"), "http.log.access"):
		a.caddy()
	case line.Upstream != "" || f.has("upstream_status"):
		up := line.Upstream
		if up == "" {
			up = f.first("upstream_status")
		}
		a.upstream("nginx", up)
	}
	return a.clues
}

type lineFields map[string]string

// fieldName brings the spellings of the products together: $upstream_status, %TSC, cs(User-Agent),
// x-edge-result-type.
func fieldName(s string) string {
	s = strings.ToLower(s[:min(len(s), 128)])
	s = strings.Trim(s, "$%{}()")
	return strings.NewReplacer("-", "_", "(", "_", ")", "", ".", "_", " ", "_").Replace(s)
}

func (f lineFields) has(names ...string) bool {
	return slices.ContainsFunc(names, func(n string) bool { _, ok := f[n]; return ok })
}

func (f lineFields) first(names ...string) string {
	for _, n := range names {
		if v, ok := f[n]; ok && v != "" {
			return v
		}
	}
	return ""
}

type attribution struct {
	line   *LogLine
	f      lineFields
	status string
	clues  []Clue
}

// own says that a product refused by itself, for a cause if that is known.
func (a *attribution) own(product, id, cause, says, quote string, weight float64) {
	c := Clue{Source: FromLog, ID: id, Refuser: product, Weight: weight, Says: says, Quote: excerpt(quote), Names: a.names()}
	if cause != refuserOnly {
		c.Cause = cause
	}
	a.clues = append(a.clues, c)
}

// passed says that a product handed on the answer of the hop behind it.
func (a *attribution) passed(product, id, behind, quote string) {
	says := fmt.Sprintf("%s handed on the answer of the server behind it", ProductName(product))
	if behind != "" && behind != "-" {
		says += " (" + excerpt(behind) + ")"
	}
	names := a.names()
	if behind != "-" {
		names["behind"] = excerpt(behind)
	}
	a.clues = append(a.clues, Clue{Source: FromLog, ID: id, Refuser: product, Against: true, Weight: Certain, Says: says + ".", Quote: excerpt(quote), Names: names})
}

func (a *attribution) names() map[string]string {
	names := map[string]string{}
	for name, value := range map[string]string{"client": a.line.Client, "method": a.line.Method, "host": a.line.Host, "status": a.status} {
		if value != "" {
			names[name] = excerpt(value)
		}
	}
	if path, _, _ := strings.Cut(a.line.Path, "?"); path != "" {
		names["path"] = excerpt(path)
	}
	return names
}

func (a *attribution) upstream(product, status string) {
	// Several upstreams were tried: "502, 403" or "502 : 403"; the last one counts.
	list := strings.FieldsFunc(status, func(r rune) bool { return r == ',' || r == ':' || r == ' ' })
	last := "-"
	if len(list) > 0 {
		last = list[len(list)-1]
	}
	quote := "status=" + a.status + " upstream_status=" + status
	switch {
	case last == "-" || last == "0" || last == "000":
		a.own(product, product+"-upstream-status", refuserOnly,
			fmt.Sprintf("%s answered %s itself: it asked no server behind it.", ProductName(product), a.status), quote, Certain)
	case last == a.status:
		a.passed(product, product+"-upstream-status", a.f.first("upstream_addr"), quote)
	default:
		a.own(product, product+"-upstream-status", "refusal-masked",
			fmt.Sprintf("%s answered %s where the server behind it had answered %s.", ProductName(product), a.status, excerpt(last)), quote, Strong)
	}
}

func (a *attribution) haproxy() {
	state := a.f.first("termination_state", "termination", "term", "tsc", "ts")
	server := a.f.first("server", "server_name", "srv", "s")
	quote := strings.TrimSpace(server + " " + a.status + " " + state)
	if len(state) < 2 {
		return
	}
	local := server == "" || strings.Contains(server, "<NOSRV>")
	if i := strings.IndexByte(server, '/'); i >= 0 {
		local = strings.Contains(server[i:], "<NOSRV>")
	}
	switch {
	case state[1] == 'T':
		a.own("haproxy", "haproxy-state", "haproxy-tarpit", "HAProxy held the request in its tarpit (termination state "+excerpt(state)+").", quote, Certain)
	case state[0] == 'P' && state[1] == 'H':
		a.own("haproxy", "haproxy-state", refuserOnly, "HAProxy blocked the answer of the server (termination state "+excerpt(state)+").", quote, Certain)
	case (state[0] == 'P' || state[0] == 'L') && state[1] == 'R' && local:
		cause := "haproxy-acl-deny"
		switch {
		case a.line.Status == 400 || strings.Contains(a.line.Method+a.line.Path, "<BADREQ>") || a.f.first("request") == "<BADREQ>":
			cause = "haproxy-bad-request"
		case a.line.Status == 429:
			cause = "rate-limit"
		case a.line.Status == 401:
			cause = "auth-missing"
		}
		a.own("haproxy", "haproxy-state", cause, fmt.Sprintf("HAProxy refused by a rule of its own: termination state %s, and no server was asked.", excerpt(state)), quote, Certain)
	case state[0] == '-' && state[1] == '-' && !local:
		a.passed("haproxy", "haproxy-state", server, quote)
	case strings.ContainsRune("sScC", rune(state[0])) && strings.ContainsRune("QCH", rune(state[1])):
		a.own("haproxy", "haproxy-state", "upstream-unavailable", "HAProxy got no answer of a server (termination state "+excerpt(state)+").", quote, Strong)
	}
}

var policyOf = regexp.MustCompile(`matched_policy\[([^\]]{1,200})\]`)

func (a *attribution) envoy() {
	details, flags := a.f.first("response_code_details", "details"), a.f.first("response_flags", "flags")
	quote := strings.TrimSpace(a.status + " " + flags + " " + details)
	if details == "via_upstream" {
		a.passed("envoy", "envoy-details", a.f.first("upstream_host", "upstream_cluster"), quote)
		return
	}
	k := logs()
	if strings.HasPrefix(details, "jwt_authn_access_denied") {
		for _, c := range MatchLog("envoy", details) {
			c.Names = a.names()
			a.clues = append(a.clues, c)
		}
		return
	}
	best := ""
	for prefix := range k.Envoy {
		if strings.HasPrefix(details, prefix) && len(prefix) > len(best) {
			best = prefix
		}
	}
	if best != "" {
		a.own("envoy", "envoy-details", k.Envoy[best], "Envoy refused by itself: its response code details are "+excerpt(details)+".", quote, Certain)
		if m := policyOf.FindStringSubmatch(details); m != nil {
			a.clues[len(a.clues)-1].Names["policy"] = excerpt(m[1])
		}
		return
	}
	for _, flag := range strings.Split(flags, ",") {
		if cause, ok := k.Flags[flag]; ok {
			a.own("envoy", "envoy-flags", cause, "Envoy refused by itself: its response flag is "+flag+".", quote, Certain)
			return
		}
		if slices.Contains([]string{"UH", "UF", "UC", "UT", "UR", "URX", "LR"}, flag) {
			a.own("envoy", "envoy-flags", "upstream-unavailable", "Envoy got no good answer of the server behind it: its response flag is "+flag+".", quote, Certain)
			return
		}
	}
	if details != "" && details != "-" {
		a.own("envoy", "envoy-details", refuserOnly, "Envoy answered by itself: its response code details are "+excerpt(details)+".", quote, Strong)
	}
}

func (a *attribution) traefik() {
	origin, down := a.f.first("originstatus"), a.f.first("downstreamstatus")
	quote := "DownstreamStatus=" + down + " OriginStatus=" + origin
	switch {
	case origin == "" || origin == "0":
		a.own("traefik", "traefik-origin-status", refuserOnly, "Traefik answered "+a.status+" itself: a middleware refused, or no router matched.", quote, Certain)
	case origin == a.status:
		a.passed("traefik", "traefik-origin-status", a.f.first("serviceaddr", "servicename"), quote)
	default:
		a.own("traefik", "traefik-origin-status", "refusal-masked", "Traefik answered "+a.status+" where the server behind it had answered "+excerpt(origin)+".", quote, Strong)
	}
}

func (a *attribution) cloudfront() {
	detail := a.f.first("x_edge_detailed_result_type")
	if detail == "" {
		detail = a.f.first("x_edge_result_type", "x_edge_response_result_type")
	}
	quote := "status=" + a.status + " x-edge-detailed-result-type=" + detail
	switch {
	case detail == "ClientGeoBlocked":
		a.own("cloudfront", "cloudfront-detail", "geo-blocked", "CloudFront refused by its geographic restriction (ClientGeoBlocked).", quote, Certain)
	case strings.HasPrefix(detail, "ClientHungUp"):
	case detail == "Hit" || detail == "RefreshHit" || detail == "OriginShieldHit":
		if a.line.Status >= 400 {
			a.own("cloudfront", "cloudfront-detail", "cdn-cached-refusal", "CloudFront answered from its cache.", quote, Strong)
		}
	case detail == "LimitExceeded":
		a.own("cloudfront", "cloudfront-detail", "quota-exceeded", "CloudFront refused because a limit of the distribution was exceeded.", quote, Certain)
	case strings.HasPrefix(detail, "Origin") && detail != "OriginShieldHit":
		a.own("cloudfront", "cloudfront-detail", "upstream-unavailable", "CloudFront could not reach the origin ("+excerpt(detail)+").", quote, Certain)
	case detail == "Error" || detail == "Miss":
		if t := a.f.first("origin_fbl", "origin_lbl"); t != "" && t != "-" {
			a.passed("cloudfront", "cloudfront-detail", "the origin", quote)
		} else if t == "-" {
			a.own("cloudfront", "cloudfront-detail", refuserOnly, "CloudFront answered by itself: no origin was asked.", quote, Strong)
		}
	}
}

func (a *attribution) alb() {
	target, actions := a.f.first("target_status_code"), a.f.first("actions_executed")
	quote := "elb_status_code=" + a.status + " target_status_code=" + target + " actions_executed=" + actions
	list := strings.Split(actions, ",")
	switch {
	case target != "" && target != "-":
		if target == a.status {
			a.passed("aws-alb", "alb-target-status", a.f.first("target", "target_port"), quote)
		}
	case slices.Contains(list, "waf-failed"):
		a.own("aws-waf", "alb-actions", refuserOnly, "AWS WAF could not be asked (waf-failed).", quote, Strong)
	case slices.Contains(list, "fixed-response"):
		a.own("aws-alb", "alb-actions", "gw-termination", "A rule of the load balancer answered with a fixed response.", quote, Certain)
	case slices.ContainsFunc(list, func(s string) bool { return strings.HasPrefix(s, "authenticate") }):
		a.own("aws-alb", "alb-actions", "zero-trust-access-denied", "The load balancer's own login refused ("+excerpt(actions)+").", quote, Strong)
	case slices.Contains(list, "waf") && a.line.Status == 403:
		a.own("aws-waf", "alb-actions", "waf-managed-rule", "AWS WAF refused at the load balancer: the action waf was executed and no target was asked.", quote, Certain)
	case target == "-":
		a.own("aws-alb", "alb-target-status", refuserOnly, "The load balancer answered itself: no target was asked.", quote, Strong)
	}
}

func (a *attribution) iis() {
	sub := a.f.first("sc_substatus", "substatus")
	if _, err := strconv.Atoi(sub); err != nil {
		return
	}
	code := a.status + "." + sub
	quote := code + " win32 " + a.f.first("sc_win32_status", "win32")
	if cause, ok := logs().IIS[code]; ok {
		a.own("iis", "iis-substatus", cause, "IIS logged the substatus "+code+".", quote, Certain)
		a.clues[len(a.clues)-1].Names["substatus"] = code
		return
	}
	// Substatus 0 is what an application or a proxied server answers.
	if sub == "0" && a.line.Status >= 400 {
		c := Clue{Source: FromLog, ID: "iis-substatus", Refuser: "iis", Against: true, Weight: Fair, Quote: quote, Names: a.names(),
			Says: "IIS logged the substatus " + code + ": the application behind it answered so."}
		a.clues = append(a.clues, c)
	}
}

func (a *attribution) azure() {
	back := a.f.first("backend_status", "backendstatuscode", "serverstatus", "backendresponsecode", "httpstatusdetails")
	quote := "status=" + a.status + " backend=" + back
	product := "azure-api-management"
	if strings.Contains(strings.ToLower(a.line.Format), "gateway") || a.f.has("serverstatus") {
		product = "azure-waf"
	}
	if strings.Contains(strings.ToLower(a.line.Format), "front") || a.f.has("httpstatusdetails") {
		product = "azure-front-door"
	}
	switch {
	case back == "" || back == "-" || back == "0":
		a.own(product, "azure-backend-status", refuserOnly, ProductName(product)+" answered itself: no backend was asked.", quote, Strong)
	case back == a.status:
		a.passed(product, "azure-backend-status", "", quote)
	}
}

func (a *attribution) caddy() {
	via := a.f.first("resp_headers_via", "resp_headers_server", "via")
	if via == "" {
		return
	}
	quote := "status=" + a.status + " Via=" + via
	if strings.Contains(via, "Caddy") && a.f.has("resp_headers_via") {
		a.passed("caddy", "caddy-via", "", quote)
	}
}
