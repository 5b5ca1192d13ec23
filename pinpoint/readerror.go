package pinpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// wording is what applications say in the bodies of refusals.
type wording struct {
	pattern *regexp.Regexp
	cause   string
	weight  float64
	says    string
}

// wordings apply to the texts of JSON bodies and to short plain text, the first that fits. Pages of
// products have fingerprints of their own.
var wordings = []wording{
	{regexp.MustCompile(`(?i)insufficient[ _-]?scopes?|(?:missing|required?s?|lacks?) (?:the )?(?:required )?(?:oauth )?scopes?\b|scope .{1,60} (?:is )?required`), "scope-insufficient", 4.5, "The answer says that the token lacks a scope."},
	{regexp.MustCompile(`(?i)\b(?:mfa|2fa|two[- ]factor|multi[- ]factor|step[- ]?up)\b.{0,60}(?:requir|need|enabl|must)|(?:requir|need|must).{0,40}\b(?:mfa|2fa|two[- ]factor|multi[- ]factor|step[- ]?up)|\bmfa_required\b`), "mfa-required", 4.5, "The answer demands a second factor."},
	{regexp.MustCompile(`(?i)(?:account|user|member)[ _](?:has been |was |is )?(?:suspended|disabled|deactivated|blocked|banned|inactive|locked|closed)\b`), "account-disabled", 4.5, "The answer says that the account is not active."},
	{regexp.MustCompile(`(?i)\bcross[- ]tenant|tenant (?:mismatch|not allowed)|(?:wrong|another|different|other) (?:tenant|organi[sz]ation|workspace)\b|tenant[_-]mismatch`), "tenant-mismatch", 4.5, "The answer says that the resource is another tenant's."},
	{regexp.MustCompile(`(?i)(?:not|n't) (?:the |an? )?(?:owner|author|creator)\b|does(?: not|n't) belong to (?:you|this|the)|belongs to (?:another|a different)|only (?:the )?owner`), "app-object-ownership", 4.5, "The answer says that the object is somebody else's."},
	{regexp.MustCompile(`(?i)\bcsrf\b.{0,40}(?:missing|required|not (?:found|provided|present))|missing.{0,12}\bcsrf\b`), "csrf-token-missing", 4.5, "The answer says that the token against forged requests lacks."},
	{regexp.MustCompile(`(?i)\b(?:csrf|xsrf|authenticity)\b.{0,40}(?:invalid|mismatch|incorrect|failed|expired|verif)|(?:invalid|bad).{0,12}\b(?:csrf|xsrf|authenticity)\b`), "csrf-token-invalid", 4.5, "The answer says that the token against forged requests does not hold."},
	{regexp.MustCompile(`(?i)\b(?:invalid|unknown|unrecogni[sz]ed|incorrect|bad|wrong)[ _-](?:api|subscription|access)[ _-]?key\b|\bapi[ _-]?key\b.{0,20}\b(?:invalid|not valid|unknown|incorrect|not recogni[sz]ed|not found|does not exist)\b`), "api-key-invalid", 4.5, "The answer says that the key is not known."},
	{regexp.MustCompile(`(?i)\bapi[ _-]?key\b.{0,20}\bexpired\b|\bexpired[ _-]api[ _-]?key\b`), "api-key-expired", 4.5, "The answer says that the key has expired."},
	{regexp.MustCompile(`(?i)\bapi[ _-]?key\b.{0,20}\b(?:revoked|disabled|deactivated|suspended)\b`), "api-key-revoked", 4.5, "The answer says that the key was taken back."},
	{regexp.MustCompile(`(?i)\b(?:token|jwt|credentials?|session)\b.{0,24}\bexpired\b|\bexpired[ _-]?(?:token|jwt)\b`), "", 0, ""}, // told apart below
	{regexp.MustCompile(`(?i)\brate[ _-]?limit|too many (?:requests|attempts)|throttl`), "rate-limit-as-403", 4.5, "The answer speaks of a rate limit."},
	{regexp.MustCompile(`(?i)(?:\b|_)quota(?:\b|_).{0,40}(?:exceed|reach|used|exhaust)|(?:exceed|reach|exhaust|used (?:up )?(?:all|your|its|the)\b).{0,40}\bquota\b`), "quota-exceeded", 4.5, "The answer says that a quota is used up."},
	{regexp.MustCompile(`(?i)\b(?:upgrade|not (?:included|available) (?:in|on|for) your|current|higher) (?:your )?(?:plan|tier|subscription)\b|\bplan[_ ](?:required|not[_ ]entitled|upgrade)|requires? (?:a |the )?(?:pro|premium|business|enterprise|paid) (?:plan|tier|subscription|account)`), "plan-not-entitled", 4.5, "The answer says that the plan does not include this."},
	{regexp.MustCompile(`(?i)\b(?:under|scheduled|in|for|undergoing|planned) (?:\w+ )?maintenance\b|maintenance[ _]mode`), "app-maintenance", Strong, "The answer speaks of maintenance."},
	{regexp.MustCompile(`(?i)feature.{0,40}(?:disabled|not enabled|turned off|unavailable)|(?:disabled|not enabled) feature|feature[_-]disabled`), "app-feature-disabled", 4.5, "The answer says that the feature is off."},
	{regexp.MustCompile(`(?i)\b(?:resource|record|document|object|order|invoice|period|entry|issue|file|project|repository|conversation|thread|topic|ticket|page|item|case|contract|ledger)s?[ _](?:(?:is|are|was|has been|have been|already|currently) ){0,3}(?:locked|archived|frozen|finali[sz]ed|closed|read[- ]?only|immutable)\b`), "app-state-locked", Strong, "The answer says that the object's state forbids it."},
	{regexp.MustCompile(`(?i)(?:daily|weekly|monthly|maximum|max) (?:number|limit|allowance)|limit (?:of \d+ )?(?:reached|exceeded)`), "app-account-limit", Strong, "The answer says that a limit of the account is reached."},
	{regexp.MustCompile(`(?i)(?:accept|agree to|consent to).{0,30}(?:terms|policy|conditions)|age (?:verification|restricted)|terms[_ ]not[_ ]accepted`), "app-age-or-consent", 4.5, "The answer wants a consent first."},
	{regexp.MustCompile(`(?i)row[- ]level security`), "db-row-level-security", Certain, "The answer names row-level security."},
	{regexp.MustCompile(`(?i)\b(?:requires?|missing|need|lacks?|without|insufficient|must have)\b.{0,40}\b(?:roles?|permissions?|privileges?|authority|rights)\b|\b(?:roles?|permissions?|privileges?)\b.{0,40}\b(?:required|missing|needed)\b|insufficient[ _-]?(?:permissions?|privileges?|rights)|permission[ _-]?denied|not authorized to perform|do(?:es)? not have (?:the )?(?:necessary |required )?(?:permissions?|privileges?|roles?|rights)`), "role-insufficient", Strong, "The answer says that a role or permission lacks."},
}

// whygate reads the answers of Whygate itself: its fields say who refused and why.
func (r *reading) whygate() {
	code, call := r.ans.Header.Value("Whygate-Reason"), r.ans.Header.Value("Whygate-Call")
	if code == "" {
		if call == "" || !r.refused() {
			return
		}
		if strings.EqualFold(r.ans.Header.Value("Whygate-Refused-By"), "upstream") {
			r.add(Clue{Source: FromAnswer, Weight: Hint, Says: fmt.Sprintf("Whygate handed the refusal of its upstream on; whygate why %s tells more.", shown(call))}, "call", call)
		}
		return
	}
	cause := ReasonCause(code)
	says := fmt.Sprintf("Whygate refused with the reason %s.", shown(code))
	var told struct {
		Detail string `json:"detail"`
	}
	if len(r.ans.Body) <= maxReadText && json.Unmarshal(r.ans.Body, &told) == nil && told.Detail != "" {
		says = fmt.Sprintf("Whygate refused with the reason %s: %s.", shown(code), strings.TrimSuffix(plainText(told.Detail, 240), "."))
	}
	c := Clue{Source: FromAnswer, Cause: cause, Refuser: "whygate", Weight: Certain, Quote: "Whygate-Reason: " + code, Says: says}
	if call != "" {
		c.Fix = []string{"Read the recorded explanation: whygate why " + plainText(call, 60) + "."}
	}
	r.add(c, "call", call, "reason", code)
}

// ReasonCause is the cause of the catalogue that a reason of Whygate stands for, "" for none.
func ReasonCause(code string) string {
	if cause, known := whygateCauses[code]; known {
		return cause
	}
	group, _, _ := strings.Cut(code, ".")
	return whygateCauses[group+"."]
}

// Recorded is the ID of a clue that the server itself gave for this very call: nothing need be tried then.
const Recorded = "recorded"

// whygateCauses are the causes of Whygate's reasons; a name that ends in a dot stands for its group.
var whygateCauses = map[string]string{
	"access.": "role-insufficient", "application.suspended": "account-disabled", "authentication.missing": "auth-missing", "authentication.conflict": "auth-scheme-wrong",
	"basic.malformed": "auth-scheme-wrong", "basic.missing": "auth-missing", "basic.unknown-user-or-password": "basic-credentials-wrong", "bot.": "user-agent-blocked",
	"bot.no-user-agent": "waf-missing-headers", "concurrency.exceeded": "concurrency-limit", "content-type.": "content-type-unsupported", "content.too-large": "body-too-large",
	"cors.header": "cors-preflight-refused", "cors.method": "cors-preflight-refused", "cors.origin": "cors-origin-not-allowed", "cors.preflight": "cors-preflight-refused",
	"cors.private-network": "cors-preflight-refused", "csrf.bad-signature": "csrf-token-invalid", "csrf.expired": "csrf-session-expired", "csrf.foreign-origin": "csrf-origin-untrusted",
	"csrf.mismatch": "csrf-token-invalid", "csrf.missing-cookie": "csrf-cookie-missing", "csrf.missing-token": "csrf-token-missing", "csrf.other-session": "csrf-token-invalid",
	"forward-auth.refused": "gw-authorizer-denied", "forward-auth.unavailable": "upstream-unavailable", "geo.": "geo-blocked", "groups.insufficient": "role-insufficient",
	"hmac.": "auth-signature-invalid", "hmac.missing": "auth-missing", "hmac.replayed": "gw-replay-protection", "hmac.skew": "client-clock-skew", "hotlink.": "hotlink-referer",
	"introspection.inactive": "token-revoked", "ip-access.denied": "ip-denied", "ip-access.not-allowed": "ip-allowlist-miss", "json.": "body-malformed",
	"jwt.algorithm": "jwt-alg-rejected", "jwt.expired": "jwt-expired", "jwt.malformed": "jwt-malformed", "jwt.not-yet-valid": "jwt-not-yet-valid",
	"jwt.signature": "jwt-signature-invalid", "jwt.token-type": "token-type-wrong", "jwt.unknown-key": "jwt-kid-unknown", "jwt.issuer": "jwt-issuer-mismatch", "jwt.audience": "jwt-audience-mismatch",
	"jwt.claim-missing": "jwt-claim-missing", "jwt.claim-mismatch": "jwt-claim-missing", "jwt.client-not-accepted": "jwt-audience-mismatch", "jwt.missing": "auth-missing", "jwt.repeated": "auth-scheme-wrong",
	"introspection.audience": "jwt-audience-mismatch", "introspection.issuer": "jwt-issuer-mismatch", "introspection.claim-missing": "jwt-claim-missing", "introspection.claim-mismatch": "jwt-claim-missing",
	"introspection.client-not-accepted": "jwt-audience-mismatch", "introspection.missing": "auth-missing", "introspection.repeated": "auth-scheme-wrong",
	"basic.expired": "auth-credentials-invalid", "basic.not-yet-valid": "auth-credentials-invalid", "basic.revoked": "auth-credentials-invalid",
	"key.expired": "api-key-expired", "key.not-yet-valid": "api-key-invalid", "key.revoked": "api-key-revoked",
	"route.": "gw-route-missing", "route.case": "wrong-path", "route.host": "host-not-allowed", "route.method": "method-not-allowed", "route.prefix-doubled": "wrong-path", "route.slash": "trailing-slash", "route.stage-missing": "stage-prefix-lost",
	"key.missing": "api-key-missing", "key.repeated": "api-key-wrong-location", "key.unknown": "api-key-invalid",
	"maintenance.active": "app-maintenance", "method.not-allowed": "method-not-allowed", "mtls.missing": "mtls-client-cert-missing", "mtls.": "mtls-client-cert-invalid",
	"quota.exceeded": "quota-exceeded", "rate-limit.exceeded": "rate-limit", "request.expectation": "expect-continue-rejected", "request.headers-too-large": "header-too-large",
	"request.plain-http-on-tls": "plain-http-on-tls-port", "request.uri-too-long": "uri-too-long", "request.version": "http-version-refused", "roles.insufficient": "role-insufficient",
	"rule.denied": "abac-policy-denied", "schema.malformed": "body-malformed", "schema.media-type": "content-type-unsupported", "schema.": "schema-violation", "schema.too-large": "body-too-large",
	"scopes.insufficient": "scope-insufficient", "size.body": "body-too-large", "size.header": "header-too-large", "size.uri": "uri-too-long",
	"subscription.pending": "subscription-not-approved", "subscription.missing": "subscription-not-approved", "subscription.rejected": "subscription-not-approved", "subscription.expired": "subscription-not-approved",
	"subscription.suspended": "subscription-not-approved", "waf.blocked": "waf-crs-anomaly", "waf.body-unreadable": "waf-body-parse-error", "waf.response": "waf-response-blocked",
}

// errors reads the bodies of refusals: problem details (RFC 9457), GraphQL, gRPC, validation reports, and
// the sentences that applications write.
func (r *reading) errors() {
	r.grpc()
	if r.ans.Header.Has("Whygate-Reason") || !r.known {
		return
	}
	switch r.status {
	case 423:
		r.say(FromAnswer, "app-state-locked", Strong, "423 says that the resource is locked (RFC 4918 §11.3).", "path", r.path)
	case 451:
		weight := Strong
		if strings.Contains(strings.ToLower(strings.Join(r.ans.Header.Values("Link"), ",")), "blocked-by") {
			weight = Certain
		}
		r.say(FromAnswer, "app-legal-block", weight, "451 says that access is denied for legal reasons (RFC 7725).")
	}
	if len(r.page) == 0 {
		return
	}
	kind := mediaType(r.ans.Header.Value("Content-Type"))
	head := bytes.TrimSpace(r.page[:min(len(r.page), maxReadText)])
	var texts []string
	if len(head) > 0 && (head[0] == '{' || head[0] == '[') {
		var v any
		if json.Unmarshal(head, &v) != nil {
			return
		}
		m, _ := v.(map[string]any)
		if r.graphQL(m) || !r.refused() {
			return
		}
		r.validation(m)
		texts = textsOf(v, nil, 0)
	} else if r.refused() && (kind == "text/plain" || kind == "") && len(head) < 400 && !bytes.HasPrefix(head, []byte("<")) {
		texts = []string{string(head)}
	}
	if !r.in(400, 401, 402, 403, 404, 409, 419, 422, 429, 503) {
		return
	}
	for _, text := range texts {
		if text = plainText(text, 300); r.worded(text) {
			return
		}
	}
}

// worded takes the first wording that fits.
func (r *reading) worded(text string) bool {
	for _, w := range wordings {
		m := w.pattern.FindStringIndex(text)
		if m == nil {
			continue
		}
		cause, weight, says := w.cause, w.weight, w.says
		switch {
		case cause == "" && len(r.webTokens()) > 0:
			cause, weight, says = "jwt-expired", 4.5, "The answer says that the token has expired."
		case cause == "":
			cause, weight, says = "session-expired", Strong, "The answer says that the session or token has expired."
		case cause == "rate-limit-as-403" && r.status == 429:
			cause = "rate-limit"
		case cause == "rate-limit-as-403" && r.status == 503:
			cause = "rate-limit-as-503"
		case r.status == 404 || r.status == 400 || r.status == 422:
			weight = min(weight, Strong)
		}
		quote := text[m[0]:m[1]]
		if len(r.page) == len(r.ans.Body) { // no secret was revealed in it
			quote = text[max(m[0]-40, 0):min(m[1]+60, len(text))]
		}
		r.add(Clue{Source: FromAnswer, Cause: cause, Weight: weight, Says: says, Quote: quote}, "path", r.path)
		return true
	}
	return false
}

// textsOf are the sentences and codes of an error body, in the order of their usual names.
func textsOf(v any, out []string, depth int) []string {
	if depth > 4 || len(out) >= 24 {
		return out
	}
	switch v := v.(type) {
	case map[string]any:
		for _, k := range []string{"code", "error_code", "errorCode", "reason", "type", "error", "error_description", "message", "msg", "detail", "title", "description", "errors", "details"} {
			e, ok := v[k]
			if !ok {
				continue
			}
			if s, ok := e.(string); ok {
				if len(out) < 24 && len(s) < 2000 && !(k == "type" && strings.Contains(s, "://")) {
					out = append(out, s)
				}
				continue
			}
			out = textsOf(e, out, depth+1)
		}
	case []any:
		for _, e := range v[:min(len(v), 8)] {
			if s, ok := e.(string); ok && len(s) < 2000 {
				out = append(out, s)
				continue
			}
			out = textsOf(e, out, depth+1)
		}
	}
	return out
}

// graphQL reads the errors of a GraphQL answer (GraphQL specification §7.1.2; the codes are Apollo's).
func (r *reading) graphQL(m map[string]any) bool {
	list, ok := m["errors"].([]any)
	if !ok || len(list) == 0 {
		return false
	}
	_, data := m["data"]
	if !data && !strings.Contains(strings.ToLower(r.path), "graphql") {
		return false
	}
	for _, e := range list[:min(len(list), 20)] {
		e, _ := e.(map[string]any)
		ext, _ := e["extensions"].(map[string]any)
		code, _ := ext["code"].(string)
		var path []string
		steps, _ := e["path"].([]any)
		for _, s := range steps[:min(len(steps), 12)] {
			switch s := s.(type) {
			case string:
				path = append(path, s)
			case float64:
				path = append(path, strconv.Itoa(int(s)))
			}
		}
		at := ""
		if len(path) > 0 {
			at = " at " + shown(strings.Join(path, "."))
		}
		switch strings.ToUpper(code) {
		case "FORBIDDEN", "ACCESS_DENIED", "PERMISSION_DENIED", "NOT_AUTHORIZED":
			r.say(FromAnswer, "graphql-forbidden", Certain, fmt.Sprintf("GraphQL answers %s%s.", shown(code), at), "field", strings.Join(path, "."))
			return true
		case "UNAUTHENTICATED", "UNAUTHORIZED":
			cause := "auth-credentials-invalid"
			if r.whole && r.jar && !r.credentialed() {
				cause = "auth-missing"
			}
			r.say(FromAnswer, cause, Strong, fmt.Sprintf("GraphQL answers %s%s.", shown(code), at), "field", strings.Join(path, "."))
			return true
		}
	}
	return data
}

// grpc reads the status of a gRPC answer (gRPC over HTTP/2, status codes).
func (r *reading) grpc() {
	if !r.known || r.ans.Header.Has("Whygate-Reason") {
		return
	}
	text := strings.TrimSpace(r.ans.Header.Value("Grpc-Status"))
	if text == "" && strings.HasPrefix(mediaType(r.ans.Header.Value("Content-Type")), "application/grpc-web") {
		// gRPC-Web writes its trailers into the last frame, flagged with 0x80.
		if i := bytes.LastIndex(r.page, []byte("grpc-status:")); i >= 0 {
			text, _, _ = strings.Cut(string(r.page[i+12:min(len(r.page), i+20)]), "\r")
			text = strings.TrimSpace(text)
		}
	}
	message := shown(unescaped(strings.ReplaceAll(r.ans.Header.Value("Grpc-Message"), "+", "%2B")))
	quote := "grpc-status: " + shown(text)
	if message != "" {
		quote += ", grpc-message: " + message
	}
	switch text {
	case "7":
		r.add(Clue{Source: FromAnswer, Cause: "grpc-permission-denied", Weight: Certain, Quote: quote, Says: "gRPC answers PERMISSION_DENIED (7)."})
	case "16":
		r.add(Clue{Source: FromAnswer, Cause: "grpc-permission-denied", Weight: Strong, Quote: quote, Says: "gRPC answers UNAUTHENTICATED (16): the call carries no credential that the service accepts."})
	case "8":
		r.add(Clue{Source: FromAnswer, Cause: "quota-exceeded", Weight: Fair, Quote: quote, Says: "gRPC answers RESOURCE_EXHAUSTED (8)."})
	}
}

// validation reads reports on fields: FastAPI, JSON:API, ASP.NET Core, Laravel, express-validator.
func (r *reading) validation(m map[string]any) {
	if !r.in(400, 403, 409, 422) {
		return
	}
	var fields []string
	add := func(s string) {
		if s != "" && len(fields) < 8 && !slices.Contains(fields, s) {
			fields = append(fields, s)
		}
	}
	lists := []any{m["detail"], m["errors"], m["violations"], m["invalid-params"], m["invalidParams"]}
	for _, l := range lists {
		switch l := l.(type) {
		case []any:
			for _, e := range l[:min(len(l), 20)] {
				e, _ := e.(map[string]any)
				if loc, ok := e["loc"].([]any); ok {
					var steps []string
					for _, s := range loc[:min(len(loc), 8)] {
						steps = append(steps, fmt.Sprint(s))
					}
					add(strings.Join(steps, "."))
				}
				if src, ok := e["source"].(map[string]any); ok {
					for _, k := range []string{"pointer", "parameter"} {
						s, _ := src[k].(string)
						add(s)
					}
				}
				for _, k := range []string{"pointer", "param", "field", "propertyPath", "name"} {
					if s, ok := e[k].(string); ok && (e["msg"] != nil || e["message"] != nil || e["detail"] != nil || e["reason"] != nil) {
						add(s)
					}
				}
			}
		case map[string]any:
			for k, v := range l {
				if items, ok := v.([]any); ok && len(items) > 0 {
					if _, ok := items[0].(string); ok {
						add(k)
					}
				}
			}
			slices.Sort(fields)
		}
	}
	if len(fields) == 0 {
		return
	}
	weight := 4.5
	if r.status == 403 || r.status == 409 {
		weight = Fair
	}
	r.say(FromAnswer, "schema-violation", weight, "The answer lists fields that do not hold: "+shown(strings.Join(fields, ", "))+".", "field", fields[0])
}
