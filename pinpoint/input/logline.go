package input

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// maxLine bounds a line of a log.
const maxLine = 64 << 10

// Log reads the last request of some lines of an access log, or lines of an error log. A line has no header and no
// body, so the case selects what is read on the server; with the URL that was called it also says where.
func Log(text, called string) (*pinpoint.Case, error) {
	l, err := Line(text)
	if err != nil {
		if l = errorLine(text); l == nil {
			return nil, err
		}
	}
	c := &pinpoint.Case{Source: "log", Line: l, Gaps: []pinpoint.Gap{{Kind: "no-request", Blocks: true,
		Says: "A line of a log holds neither the header nor the body of the request, so a replay would be another request. Hand in the request too (HAR, curl) to compare, or run this on the server."}}}
	if called == "" && l.Host != "" && strings.HasPrefix(l.Path, "/") {
		if s := l.Fields["scheme"]; s == "http" || s == "https" {
			called = s + "://" + l.Host + l.Path
		}
	}
	if called == "" {
		c.Asked = -1
		return c, nil
	}
	if !strings.Contains(called, "://") {
		called = "https://" + called
	}
	target, _, _, bad := absolute(called)
	if bad != nil {
		return nil, bad
	}
	if u, err := url.Parse(target); err == nil && (u.Path == "/" || u.Path == "") && u.RawQuery == "" && strings.HasPrefix(l.Path, "/") {
		if whole, _, _, bad := absolute(u.Scheme + "://" + u.Host + l.Path); bad == nil {
			target = whole
		}
	}
	c.Gaps[0].Blocks = l.Method != "GET" && l.Method != "HEAD" // a plain GET can be tried
	r := &pinpoint.Request{Method: l.Method, URL: target, Proto: protocol(l.Fields["protocol"])}
	if !token(r.Method) {
		r.Method = "GET"
	}
	for _, f := range [][2]string{{"user-agent", "User-Agent"}, {"referer", "Referer"}, {"x-forwarded-for", "X-Forwarded-For"}} {
		if v := l.Fields[f[0]]; v != "" && v != "-" && f[0] != "x-forwarded-for" {
			r.Header = append(r.Header, pinpoint.Field{Name: f[1], Value: oneLine(v)})
		}
	}
	c.Exchanges = []pinpoint.Exchange{{Request: r, At: l.At}}
	if l.Status > 0 {
		c.Exchanges[0].Answer = &pinpoint.Answer{Status: l.Status, At: l.At, Cut: true}
	}
	return c, nil
}

// Line takes a line of an access log apart. The formats are told by their shape; of several lines the
// last one counts, and a #Fields line before it names the columns (IIS, CloudFront).
func Line(text string) (*pinpoint.LogLine, error) {
	text = strings.TrimPrefix(text, "\ufeff")
	if len(text) > maxText {
		return nil, tooLong()
	}
	if trimmed := strings.TrimSpace(text); strings.HasPrefix(trimmed, "{") && json.Valid([]byte(trimmed[:min(len(trimmed), maxLine)])) {
		text = strings.ReplaceAll(trimmed, "\n", " ") // JSON that was printed over several lines
	}
	var columns []string
	line := ""
	for l := range strings.SplitSeq(text, "\n") {
		l = strings.TrimSpace(l)
		if rest, ok := cutFold(l, "#fields:"); ok {
			columns = strings.Fields(rest)
		} else if l != "" && !strings.HasPrefix(l, "#") {
			line = l
		}
	}
	switch {
	case line == "":
		return nil, &Error{Says: "there is no line of a log", Do: "hand in the line of the refused request"}
	case len(line) > maxLine:
		return nil, &Error{Says: "the line is longer than 64 KiB", Do: "hand in one line of an access log"}
	}
	for _, read := range []func(string) *pinpoint.LogLine{jsonLine, albLine, envoyLine, haproxyLine, combinedLine} {
		if l := read(line); l != nil && plausible(l) {
			if a, err := netip.ParseAddrPort(l.Client); err == nil {
				l.Client = a.Addr().String()
			}
			return l, nil
		}
	}
	if l := columnLine(line, columns); l != nil && plausible(l) {
		return l, nil
	}
	return nil, &Error{Line: 1, Says: "the format of this line is not known", Do: "hand in a line of an access log in combined, JSON, HAProxy, Envoy, IIS, CloudFront or ALB format, for IIS with its #Fields line, or the line of an error log that names the refusal"}
}

func plausible(l *pinpoint.LogLine) bool {
	return l.Status == 0 && l.Fields["problem"] != "" || l.Status >= 100 && l.Status <= 999
}

func cutFold(s, prefix string) (string, bool) {
	if len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix) {
		return s[len(prefix):], true
	}
	return s, false
}

// setRequest reads "METHOD target PROTO".
func setRequest(l *pinpoint.LogLine, s string) {
	method, rest, ok := strings.Cut(s, " ")
	if !ok || !token(method) {
		if s != "-" && s != "" {
			l.Fields["request"] = s
		}
		return
	}
	l.Method = method
	target := rest
	if i := strings.LastIndex(rest, " HTTP/"); i >= 0 {
		target = rest[:i]
		l.Fields["protocol"] = rest[i+1:]
	}
	setTarget(l, target)
}

// setTarget takes the host out of an absolute target.
func setTarget(l *pinpoint.LogLine, target string) {
	if i := strings.Index(target, "://"); i > 0 && i < 6 && !strings.HasPrefix(target, "/") {
		l.Fields["scheme"] = strings.ToLower(target[:i])
		host, _, _ := strings.Cut(target[i+3:], "/")
		host, _, _ = strings.Cut(host, "?")
		if l.Host == "" {
			l.Host = host[strings.LastIndexByte(host, '@')+1:]
		}
		target = target[i+3+len(host):]
		if !strings.HasPrefix(target, "/") {
			target = "/" + target
		}
	}
	l.Path = target
}

func status(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > 999 {
		return 0
	}
	return n
}

// words splits at blanks, keeping "…" and […] together without their marks. A backslash escapes.
func words(s string) (out []string) {
	for i := 0; i < len(s) && len(out) < 500; {
		switch s[i] {
		case ' ', '\t':
			i++
			continue
		case '"':
			var b strings.Builder
			i++
			for i < len(s) && s[i] != '"' {
				if s[i] == '\\' && i+1 < len(s) {
					if s[i+1] == 'x' && i+3 < len(s) {
						if v, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
							b.WriteByte(byte(v))
							i += 4
							continue
						}
					}
					i++
				}
				b.WriteByte(s[i])
				i++
			}
			i++
			out = append(out, b.String())
		case '[':
			n := strings.IndexByte(s[i:], ']')
			if n < 0 {
				n = len(s) - i
			}
			out = append(out, s[i+1:i+n])
			i += n + 1
		default:
			n := strings.IndexAny(s[i:], " \t")
			if n < 0 {
				n = len(s) - i
			}
			word := s[i : i+n]
			if eq := strings.Index(word, `="`); eq > 0 { // rt="…"
				rest := s[i+eq+2:]
				if end := strings.IndexByte(rest, '"'); end >= 0 {
					out = append(out, word[:eq+1]+rest[:end])
					i += eq + 2 + end + 1
					continue
				}
			}
			out = append(out, word)
			i += n
		}
	}
	return out
}

var combined = regexp.MustCompile(`^([^\["]*?) ?\[(\d{1,2}/[A-Za-z]{3}/\d{4}:\d\d:\d\d:\d\d(?:\.\d+)? [+-]\d{4})\] (".*)$`)

// combinedLine reads the common and the combined format of Apache and nginx, with a virtual host before
// it, and with fields that were appended (mod_log_config, ngx_http_log_module).
func combinedLine(line string) *pinpoint.LogLine {
	m := combined.FindStringSubmatch(line)
	if m == nil {
		return nil
	}
	who := strings.Fields(m[1]) // [host] client ident user…
	if len(who) < 2 {
		return nil
	}
	l := &pinpoint.LogLine{Format: "common", Fields: map[string]string{}}
	if len(who) > 3 && (address(who[1]) || who[1] != "-" && who[2] == "-") {
		l.Format = "vhost-common"
		l.Host = who[0]
		if i := strings.LastIndexByte(l.Host, ':'); i > 0 && number(l.Host[i+1:]) && !strings.HasSuffix(l.Host[:i], ":") {
			l.Host = l.Host[:i]
		}
		who = who[1:]
	}
	l.Client = who[0]
	if user := strings.Join(who[min(2, len(who)):], " "); user != "-" && user != "" {
		l.Fields["user"] = user
	}
	layout := "02/Jan/2006:15:04:05 -0700"
	if t, err := time.Parse(layout, m[2]); err == nil {
		l.At = t
	}
	w := words(m[3])
	if len(w) < 2 {
		return nil
	}
	setRequest(l, w[0])
	l.Status = status(w[1])
	if len(w) > 2 {
		l.Fields["bytes"] = w[2]
	}
	rest := w[min(3, len(w)):]
	if len(rest) >= 2 && !pair.MatchString(rest[0]) {
		l.Format = strings.Replace(l.Format, "common", "combined", 1)
		l.Fields["referer"], l.Fields["user-agent"] = rest[0], rest[1]
		rest = rest[2:]
	}
	for i, v := range rest {
		if k := pair.FindStringSubmatch(v); k != nil {
			l.Fields[strings.ToLower(k[1])] = k[2]
			continue
		}
		key := fmt.Sprintf("extra%d", i+1)
		if i == 0 && strings.HasPrefix(l.Format, "combined") && forwarded(v) {
			key = "x-forwarded-for"
		}
		l.Fields[key] = v
	}
	for _, k := range []string{"us", "ups", "upstream_status", "ustatus"} {
		if v, ok := l.Fields[k]; ok && upstreamStatus.MatchString(v) {
			l.Upstream = v
		}
	}
	for _, k := range []string{"host", "http_host", "vhost", "server_name"} {
		if v := l.Fields[k]; l.Host == "" && v != "-" {
			l.Host = v
		}
	}
	return l
}

var (
	pair           = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9_.-]{0,40})[=](.*)$`)
	upstreamStatus = regexp.MustCompile(`^(?:-|\d{3})(?:(?:, | : )(?:-|\d{3}))*$`)
)

func forwarded(v string) bool {
	first, _, _ := strings.Cut(v, ",")
	return address(strings.TrimSpace(first))
}

func address(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// jsonLine reads a line of JSON: nginx and Apache with the names of their variables, Caddy, Traefik, Envoy
// and whatever uses usual names.
func jsonLine(line string) *pinpoint.LogLine {
	if i := strings.IndexByte(line, '{'); i > 0 && i < 200 && strings.HasSuffix(line, "}") && strings.HasSuffix(strings.TrimSpace(line[:i]), ":") {
		line = line[i:] // a prefix of syslog or of docker compose
	}
	if !strings.HasPrefix(line, "{") {
		return nil
	}
	var root map[string]any
	d := json.NewDecoder(strings.NewReader(line))
	d.UseNumber()
	if d.Decode(&root) != nil {
		return nil
	}
	l := &pinpoint.LogLine{Format: "json", Fields: map[string]string{}}
	flatten(l.Fields, "", root, 0)
	first := func(keys ...string) string {
		for _, k := range keys {
			if v := l.Fields[k]; v != "" {
				return v
			}
		}
		return ""
	}
	switch {
	case l.Fields["logger"] != "" && strings.HasPrefix(l.Fields["logger"], "http.log.access"), l.Fields["request.uri"] != "" && l.Fields["status"] != "":
		l.Format = "caddy"
	case l.Fields["DownstreamStatus"] != "":
		l.Format = "traefik"
	case l.Fields["response_code"] != "" && (l.Fields["response_flags"] != "" || l.Fields["upstream_cluster"] != ""):
		l.Format = "envoy"
	}
	l.Status = status(first("status", "DownstreamStatus", "response_code", "status_code", "statusCode", "http_status", "response.status", "response.statusCode", "http.response.status_code", "http.status_code", "sc-status", "code"))
	l.Method = first("method", "request_method", "request.method", "RequestMethod", "verb", "http.request.method", "http.method", "req.method", "cs-method", "httpMethod", "requestMethod")
	l.Host = first("host", "http_host", "request.host", "RequestHost", "RequestAddr", "authority", ":authority", "vhost", "server_name", "http.host", "req.headers.host")
	target := first("request_uri", "uri", "request.uri", "RequestPath", "path", "url", "req.url", "x-envoy-original-path", "url.path", "http.target", "requestUri", "target")
	if q := first("args", "query_string", "query"); q != "" && q != "-" && target != "" && !strings.Contains(target, "?") {
		target += "?" + strings.TrimPrefix(q, "?")
	}
	if target != "" {
		setTarget(l, target)
	}
	if r := first("request", "request_line", "requestLine"); r != "" && (l.Method == "" || l.Path == "") {
		setRequest(l, r)
	}
	l.Client = first("remote_addr", "client_ip", "request.client_ip", "request.remote_ip", "ClientHost", "downstream_remote_address", "clientIp", "client", "remote_ip", "remote", "ip", "c-ip", "http.client_ip", "request.remote_addr", "sourceIp", "requestContext.identity.sourceIp")
	l.Upstream = first("upstream_status", "OriginStatus", "upstream_response_code")
	if l.Format == "traefik" && l.Upstream == "0" { // no server answered
		l.Upstream = "-"
	}
	if l.Format == "envoy" && l.Upstream == "" {
		l.Upstream = envoyUpstream(l)
	}
	for _, alias := range [][2]string{{"user-agent", "http_user_agent"}, {"user-agent", "user_agent"}, {"user-agent", "request.headers.User-Agent"}, {"user-agent", "userAgent"}, {"referer", "http_referer"}, {"protocol", "server_protocol"}, {"protocol", "request.proto"}, {"protocol", "RequestProtocol"}, {"scheme", "RequestScheme"}, {"x-forwarded-for", "http_x_forwarded_for"}, {"x-forwarded-for", "x_forwarded_for"}} {
		if v := l.Fields[alias[1]]; v != "" && l.Fields[alias[0]] == "" {
			l.Fields[alias[0]] = v
		}
	}
	for _, k := range []string{"StartUTC", "start_time", "ts", "time", "timestamp", "@timestamp", "time_iso8601", "time_local", "msec", "date", "requestTime"} {
		if t, ok := instant(l.Fields[k]); ok {
			l.At = t
			break
		}
	}
	if l.Method == "" && l.Path == "" {
		return nil
	}
	return l
}

// flatten makes one level of names with dots. Lists keep their first value.
func flatten(out map[string]string, prefix string, v any, depth int) {
	if depth > 6 || len(out) > 500 {
		return
	}
	switch v := v.(type) {
	case map[string]any:
		for k, w := range v {
			if prefix != "" {
				k = prefix + "." + k
			}
			flatten(out, k, w, depth+1)
		}
	case []any:
		if len(v) > 0 {
			flatten(out, prefix, v[0], depth+1)
		}
	case string:
		out[prefix] = v
	case json.Number:
		out[prefix] = v.String()
	case bool:
		out[prefix] = strconv.FormatBool(v)
	}
}

// instant reads a point in time: RFC 3339, the format of Apache, seconds or milliseconds since 1970.
func instant(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339Nano, "02/Jan/2006:15:04:05 -0700", "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006/01/02 15:04:05", "2006-01-02T15:04:05-0700"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f != f || f < 1e8 || f > 1e17 {
		return time.Time{}, false
	}
	for f > 1e11 { // milliseconds, microseconds
		f /= 1000
	}
	sec, frac := math.Modf(f)
	return time.Unix(int64(sec), int64(frac*1e9)).UTC(), true
}

var (
	haproxy = regexp.MustCompile(`(?:^|\s)(\S+:\d+) \[(\d{1,2}/[A-Za-z]{3}/\d{4}:\d\d:\d\d:\d\d\.\d{3})\] (\S+) (\S+)/(\S+) ([-\d/+]+) (-?\d{1,3}) (\+?\d+) (\S+) (\S+) (\S{4}) (\S+) (\S+)((?: \{[^}]*\})*) "(.*)"?\s*$`)
)

// haproxyLine reads "option httplog" (HAProxy configuration manual, 8.2.3). The backend server <NOSRV> and
// the first letter of the termination state say that HAProxy answered by itself.
func haproxyLine(line string) *pinpoint.LogLine {
	m := haproxy.FindStringSubmatch(line)
	if m == nil {
		return nil
	}
	l := &pinpoint.LogLine{Format: "haproxy", Fields: map[string]string{
		"frontend": m[3], "backend": m[4], "server": m[5], "timers": m[6], "bytes": m[8], "request-cookie": m[9],
		"response-cookie": m[10], "termination": m[11], "connections": m[12], "queues": m[13]}}
	l.Client = m[1][:strings.LastIndexByte(m[1], ':')]
	if t, err := time.ParseInLocation("02/Jan/2006:15:04:05.000", m[2], time.Local); err == nil {
		l.At = t
	}
	if l.Status = status(m[7]); l.Status == 0 { // -1: no answer
		l.Fields["problem"] = "no answer"
	}
	if c := strings.TrimSpace(m[14]); c != "" {
		l.Fields["captures"] = c
	}
	setRequest(l, strings.TrimSuffix(m[15], `"`))
	timers := strings.Split(m[6], "/")
	switch {
	case m[5] == "<NOSRV>" || len(timers) == 5 && timers[3] == "-1":
		l.Upstream = "-"
	case m[11][0] == '-':
		l.Upstream = m[7]
	}
	return l
}

var envoy = regexp.MustCompile(`^\[(\d{4}-\d\d-\d\dT[^\]]+)\] "([^"]*)" (\d{1,3}) (.*)$`)

// envoyLine reads Envoy's default format (Access logging, "Default format string") and Istio's, which has
// the response code details behind the flags.
func envoyLine(line string) *pinpoint.LogLine {
	m := envoy.FindStringSubmatch(line)
	if m == nil {
		return nil
	}
	l := &pinpoint.LogLine{Format: "envoy", Status: status(m[3]), Fields: map[string]string{}}
	if t, err := time.Parse(time.RFC3339Nano, m[1]); err == nil {
		l.At = t
	}
	setRequest(l, m[2])
	w := words(m[4])
	if len(w) == 0 {
		return nil
	}
	keys := []string{"response_flags", "bytes_received", "bytes_sent", "duration", "upstream_service_time", "x-forwarded-for", "user-agent", "x-request-id", "authority", "upstream_host"}
	if len(w) > 3 && !number(w[1]) { // Istio
		keys = []string{"response_flags", "response_code_details", "connection_termination_details", "upstream_transport_failure_reason", "bytes_received", "bytes_sent", "duration", "upstream_service_time", "x-forwarded-for", "user-agent", "x-request-id", "authority", "upstream_host", "upstream_cluster", "upstream_local_address", "downstream_local_address", "downstream_remote_address", "requested_server_name", "route_name"}
	}
	for i, k := range keys {
		if i < len(w) {
			l.Fields[k] = w[i]
		}
	}
	l.Host = strings.TrimPrefix(l.Fields["authority"], "-")
	l.Client, _, _ = strings.Cut(strings.TrimPrefix(l.Fields["x-forwarded-for"], "-"), ",")
	if l.Client == "" {
		l.Client = l.Fields["downstream_remote_address"]
	}
	l.Upstream = envoyUpstream(l)
	return l
}

// envoyUpstream: without an upstream host Envoy answered by itself.
func envoyUpstream(l *pinpoint.LogLine) string {
	details := l.Fields["response_code_details"]
	switch {
	case details == "via_upstream":
		return strconv.Itoa(l.Status)
	case details != "" && details != "-", l.Fields["upstream_host"] == "-":
		return "-"
	case details == "" && l.Fields["upstream_host"] != "" && l.Fields["upstream_service_time"] != "-" && l.Fields["upstream_service_time"] != "":
		return strconv.Itoa(l.Status)
	}
	return ""
}

func number(s string) bool {
	_, err := strconv.ParseFloat(s, 64)
	return err == nil
}

var albType = regexp.MustCompile(`^(https?|h2|grpcs|wss?) (\d{4}-\d\d-\d\dT\S+) app/\S+ `)

// albLine reads the access log of an Application Load Balancer ("Access logs for your Application Load
// Balancer", AWS).
func albLine(line string) *pinpoint.LogLine {
	if !albType.MatchString(line) {
		return nil
	}
	w := words(line)
	keys := []string{"type", "time", "elb", "client:port", "target:port", "request_processing_time", "target_processing_time", "response_processing_time", "elb_status_code", "target_status_code", "received_bytes", "sent_bytes", "request", "user-agent", "ssl_cipher", "ssl_protocol", "target_group_arn", "trace_id", "domain_name", "chosen_cert_arn", "matched_rule_priority", "request_creation_time", "actions_executed", "redirect_url", "error_reason", "target:port_list", "target_status_code_list", "classification", "classification_reason", "conn_trace_id"}
	if len(w) < 13 {
		return nil
	}
	l := &pinpoint.LogLine{Format: "alb", Fields: map[string]string{}}
	for i, k := range keys {
		if i < len(w) {
			l.Fields[k] = w[i]
		}
	}
	l.At, _ = instant(w[1])
	l.Client = w[3]
	if i := strings.LastIndexByte(w[3], ':'); i > 0 {
		l.Client = w[3][:i]
	}
	l.Status, l.Upstream = status(w[8]), w[9]
	setRequest(l, w[12])
	return l
}

// The columns when no #Fields line was handed in: IIS's default since 7.0 and CloudFront's standard log.
var (
	iisColumns        = strings.Fields("date time s-ip cs-method cs-uri-stem cs-uri-query s-port cs-username c-ip cs(User-Agent) cs(Referer) sc-status sc-substatus sc-win32-status time-taken")
	cloudFrontColumns = strings.Fields("date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) cs(User-Agent) cs-uri-query cs(Cookie) x-edge-result-type x-edge-request-id x-host-header cs-protocol cs-bytes time-taken x-forwarded-for ssl-protocol ssl-cipher x-edge-response-result-type cs-protocol-version fle-status fle-encrypted-fields c-port time-to-first-byte x-edge-detailed-result-type sc-content-type sc-content-len sc-range-start sc-range-end")
	isoDate           = regexp.MustCompile(`^\d{4}-\d\d-\d\d$`)
)

// columnLine reads W3C extended logs (IIS) and CloudFront's, whose columns are named by #Fields.
func columnLine(line string, columns []string) *pinpoint.LogLine {
	w := strings.Fields(line)
	if strings.Contains(line, "\t") {
		w = strings.Split(line, "\t")
	}
	if columns == nil {
		switch {
		case len(w) > 2 && !isoDate.MatchString(w[0]):
			return nil
		case len(w) >= 24 && strings.Contains(line, "\t"):
			columns = cloudFrontColumns
		case len(w) == len(iisColumns), len(w) == len(iisColumns)-1: // 7.0 lacks the referrer
			columns = iisColumns
			if len(w) < len(columns) {
				columns = append(append([]string(nil), iisColumns[:10]...), iisColumns[11:]...)
			}
		default:
			return nil
		}
	}
	if len(w) < min(len(columns), 5) || len(columns) < 5 {
		return nil
	}
	l := &pinpoint.LogLine{Format: "iis", Fields: map[string]string{}}
	for i, k := range columns[:min(len(columns), 200)] {
		if i < len(w) {
			l.Fields[k] = strings.TrimSpace(w[i])
		}
	}
	if _, ok := l.Fields["x-edge-location"]; ok {
		l.Format = "cloudfront"
	}
	value := func(k string) string {
		if v := l.Fields[k]; v != "-" {
			return v
		}
		return ""
	}
	l.Status = status(value("sc-status"))
	l.Method, l.Client = value("cs-method"), value("c-ip")
	l.Host = value("x-host-header")
	for _, k := range []string{"cs-host", "cs(Host)", "s-computername"} {
		if l.Host == "" && k != "s-computername" {
			l.Host = value(k)
		}
	}
	l.Path = value("cs-uri-stem")
	if q := value("cs-uri-query"); q != "" {
		l.Path += "?" + q
	}
	// Both write blanks of the agent so that the columns stay apart.
	agent := value("cs(User-Agent)")
	if l.Format == "iis" {
		agent = strings.ReplaceAll(agent, "+", " ")
	} else if u, err := url.PathUnescape(agent); err == nil {
		agent = u
	}
	if agent != "" {
		l.Fields["user-agent"] = agent
	}
	if v := value("cs(Referer)"); v != "" {
		l.Fields["referer"] = v
	}
	switch {
	case value("cs-protocol") != "":
		l.Fields["scheme"] = value("cs-protocol")
	case value("s-port") == "443":
		l.Fields["scheme"] = "https"
	}
	if v := value("cs-protocol-version"); v != "" {
		l.Fields["protocol"] = v
	}
	l.At, _ = instant(l.Fields["date"] + " " + l.Fields["time"]) // UTC in both
	return l
}
