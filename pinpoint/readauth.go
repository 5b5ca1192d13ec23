package pinpoint

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// challenge is one challenge of WWW-Authenticate.
type challenge struct {
	scheme string // lower case
	params []pair // names in lower case
}

func (c challenge) param(name string) string {
	v, _ := findPair(c.params, name)
	return v
}

// challengesOf takes the value of WWW-Authenticate apart (RFC 9110 §11.6.1). Several challenges may share
// a field, and a comma separates both challenges and parameters.
func challengesOf(v string) (out []challenge) {
	if len(v) > maxReadValue {
		v = v[:maxReadValue]
	}
	for len(v) > 0 && len(out) < 16 {
		v = strings.TrimLeft(v, ", \t")
		word, rest := cutToken(v)
		if word == "" {
			if v == "" {
				break
			}
			v = v[1:]
			continue
		}
		after := strings.TrimLeft(rest, " \t")
		if strings.HasPrefix(after, "=") && len(out) > 0 {
			last := &out[len(out)-1]
			value, left := cutValue(strings.TrimLeft(after[1:], " \t"))
			if len(last.params) < 32 {
				last.params = append(last.params, pair{strings.ToLower(word), value})
			}
			v = left
			continue
		}
		out = append(out, challenge{scheme: strings.ToLower(word)})
		v = after
	}
	return out
}

// cutToken takes a token off (RFC 9110 §5.6.2), with the characters of token68.
func cutToken(s string) (token, rest string) {
	i := 0
	for i < len(s) && (s[i] >= 'a' && s[i] <= 'z' || s[i] >= 'A' && s[i] <= 'Z' || s[i] >= '0' && s[i] <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~/", s[i]) >= 0) {
		i++
	}
	return s[:i], s[i:]
}

// cutValue takes a token or a quoted string off.
func cutValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		if i := strings.IndexAny(s, ", \t"); i >= 0 {
			return s[:i], s[i:]
		}
		return s, ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case s[i] == '"':
			return b.String(), s[i+1:]
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}

// ask is the first challenge of a scheme.
func (r *reading) ask(scheme string) (challenge, bool) {
	for _, c := range r.asks {
		if c.scheme == scheme {
			return c, true
		}
	}
	return challenge{}, false
}

// tokenFaults are what error_description says about a token, across products.
var tokenFaults = []struct {
	pattern *regexp.Regexp
	cause   string
}{
	{regexp.MustCompile(`(?i)\bexpired\b|lifetime validation failed`), "jwt-expired"},
	{regexp.MustCompile(`(?i)not yet valid|used before|\bnbf\b|issued in the future`), "jwt-not-yet-valid"},
	{regexp.MustCompile(`(?i)\baudiences?\b|\baud\b`), "jwt-audience-mismatch"},
	{regexp.MustCompile(`(?i)\bissuer\b|\biss\b`), "jwt-issuer-mismatch"},
	{regexp.MustCompile(`(?i)signature key was not found|\bkid\b|no matching key|unable to find (a )?(signing )?key|another algorithm expected, or no matching`), "jwt-kid-unknown"},
	{regexp.MustCompile(`(?i)algorithm`), "jwt-alg-rejected"},
	{regexp.MustCompile(`(?i)signature`), "jwt-signature-invalid"},
	{regexp.MustCompile(`(?i)revoked|not active|inactive`), "token-revoked"},
	{regexp.MustCompile(`(?i)malformed|cannot be parsed|not a (valid )?jwt`), "jwt-malformed"},
}

// challenge reads the error codes of RFC 6750 §3.1, RFC 9449 §7.1 and RFC 9470 §3.
func (r *reading) challenge() {
	if !r.refused() {
		return
	}
	for _, c := range r.asks {
		if c.scheme != "bearer" && c.scheme != "dpop" && c.scheme != "token" {
			continue
		}
		code, text := strings.ToLower(c.param("error")), c.param("error_description")
		quote := "WWW-Authenticate error=" + shown(code)
		if text != "" {
			quote += ", error_description=" + shown(text)
		}
		add := func(cause string, weight float64, says string, names ...string) {
			r.add(Clue{Source: FromAnswer, Cause: cause, Weight: weight, Says: says, Quote: quote}, names...)
		}
		switch code {
		case "insufficient_scope":
			if scope := c.param("scope"); scope != "" {
				add("scope-insufficient", Certain, fmt.Sprintf("The server demands the scope %q (RFC 6750 §3.1).", shown(scope)), "scope", scope)
			} else {
				add("scope-insufficient", Certain, "The server says that the token's scope does not suffice, and names none (RFC 6750 §3.1).")
			}
		case "invalid_token":
			if cause := faultNamed(text); cause != "" {
				if cause == "jwt-expired" && r.stillValid() {
					add("jwt-clock-skew", Strong, "The server calls the token expired, but its exp lies ahead of the server's own Date.")
					add(cause, Fair, "The challenge says that the token has expired.")
					break
				}
				add(cause, Certain, "The challenge names the fault of the token.")
			} else if r.credentialed() {
				add("auth-credentials-invalid", Fair, "The server read the token and does not accept it; it does not say why (RFC 6750 §3.1).")
			}
		case "invalid_request":
			add("auth-scheme-wrong", Fair, "The server finds the form of the authentication wrong: a parameter lacks, is doubled, or the token came in two places (RFC 6750 §3.1).")
		case "insufficient_user_authentication":
			add("mfa-required", Certain, "The server demands a stronger or more recent login (RFC 9470 §3).", "scope", c.param("acr_values"))
		case "use_dpop_nonce", "invalid_dpop_proof":
			add("dpop-proof-invalid", Certain, "The server does not accept the DPoP proof, or wants one with its nonce (RFC 9449 §7, §9).")
		}
	}
}

// faultNamed is the cause that a description of a token's fault names, "" if it names none.
func faultNamed(text string) string {
	text = plainText(text, 1000)
	for _, f := range tokenFaults {
		if f.pattern.MatchString(text) {
			return f.cause
		}
	}
	return ""
}

// unset are values that programs write where a variable had none.
var unset = []string{"null", "undefined", "none", "nil", "nan", "[object object]", "[object promise]", "token", "your_token", "your-token", "access_token", "<token>"}

// authorization looks at the form of Authorization, and at whether anything was sent at all.
func (r *reading) authorization() {
	if !r.maybe(400, 401, 403) {
		return
	}
	if r.auth == "" {
		r.nothingSent()
		return
	}
	if stillSealed(r.auth) || len(r.auth) > maxReadValue {
		return
	}
	if n := len(r.req.Header.Values("Authorization")); n > 1 {
		r.say(FromRequest, "auth-scheme-wrong", Strong, fmt.Sprintf("Authorization was sent %d times; it may stand once (RFC 9110 §5.3).", n), "header", "Authorization")
	}
	scheme, rest, _ := strings.Cut(strings.TrimSpace(r.auth), " ")
	rest = strings.TrimSpace(rest)
	low := strings.ToLower(scheme)
	_, wantsBearer := r.ask("bearer")
	_, wantsBasic := r.ask("basic")
	wrong := func(weight float64, says string) {
		r.say(FromRequest, "auth-scheme-wrong", weight, says, "header", "Authorization")
	}
	bare := strings.Trim(rest, `"'<>{}$ `)
	switch {
	case rest == "" && (low == "bearer" || low == "basic" || low == "token"):
		r.say(FromRequest, "auth-credentials-invalid", Strong, "Authorization holds the scheme "+low+" and nothing behind it: the program had no token.", "header", "Authorization")
	case low == "bearer" && (slices.Contains(unset, strings.ToLower(rest)) || rest != bare && (strings.HasPrefix(rest, "{{") || strings.HasPrefix(rest, "${") || strings.HasPrefix(rest, "<"))),
		low == "bearer" && strings.HasPrefix(rest, "$"):
		if r.valuesUnknown() {
			break
		}
		r.say(FromRequest, "auth-credentials-invalid", Strong, "What stands behind Bearer is the text of a variable without a value, not a token.", "header", "Authorization")
	case strings.HasSuffix(low, ":") && (low == "bearer:" || low == "basic:" || low == "token:"):
		wrong(Strong, "A colon stands behind the scheme of Authorization; there must be one blank.")
	case low == "bearer" && strings.HasPrefix(strings.ToLower(rest), "bearer"):
		wrong(Strong, "Authorization says Bearer twice.")
	case low == "authorization:":
		wrong(Strong, "The value of Authorization repeats the name of the field.")
	case rest == "" && strings.HasPrefix(low, "bearer") && len(low) > 12:
		wrong(Strong, "The blank between Bearer and the token lacks.")
	case rest == "" && looksJWT(scheme):
		if wantsBearer {
			wrong(Strong, "Authorization holds a bare token; the server asks for the scheme Bearer in front of it.")
		} else {
			wrong(Fair, "Authorization holds a bare token without a scheme; most servers want Bearer in front of it.")
		}
	case low == "token" && wantsBearer:
		wrong(Strong, "Authorization uses the scheme Token; the server asks for Bearer.")
	case low == "basic":
		r.basic(rest, wantsBasic, wantsBearer)
	case low == "bearer" && r.in(401) && wantsBasic && !wantsBearer && len(r.asks) == 1:
		wrong(Strong, "A Bearer token was sent; the server asks for Basic only.")
	case low == "bearer" && strings.ContainsAny(rest, " \t\r\n"):
		wrong(Fair, "There is white space inside of the token.")
	}
	if _, ok := r.param("access_token"); ok && low == "bearer" && r.in(400, 401) {
		wrong(Fair, "The token is sent both in Authorization and in the query; one place is allowed (RFC 6750 §2).")
	}
	if r.in(401, 403) && notSeen.Match(r.page[:min(len(r.page), 4096)]) {
		r.add(Clue{Source: FromAnswer, Cause: "auth-header-stripped", Weight: Strong, Quote: string(notSeen.Find(r.page[:min(len(r.page), 4096)])),
			Says: "The server says that no credential arrived, yet the request carried Authorization: something on the way took it out."}, "header", "Authorization")
	}
}

// notSeen are sentences that say that no credential arrived.
var notSeen = regexp.MustCompile(`(?i)\b(?:jwt is missing|no authorization (?:token|header) (?:was )?(?:found|provided)|missing authorization(?: header)?|authorization header (?:is )?(?:missing|required|not found)|authentication credentials were not provided|not authenticated|no (?:auth )?token (?:was )?provided|missing (?:bearer|access|auth) token)\b`)

// basic looks at credentials of RFC 7617.
func (r *reading) basic(rest string, wantsBasic, wantsBearer bool) {
	const name = "header"
	raw, err := base64.StdEncoding.DecodeString(rest)
	if err != nil {
		raw, err = base64.RawStdEncoding.DecodeString(rest)
		if err == nil {
			r.say(FromRequest, "auth-scheme-wrong", Fair, "The base64 of the Basic credentials lacks its padding.", name, "Authorization")
		}
	}
	switch {
	case err != nil && strings.Contains(rest, ":"):
		r.say(FromRequest, "auth-scheme-wrong", Strong, "The Basic credentials are written in plain text; they must be base64 of user:password (RFC 7617 §2).", name, "Authorization")
	case err != nil:
		r.say(FromRequest, "auth-scheme-wrong", Strong, "The Basic credentials are not base64 (RFC 7617 §2).", name, "Authorization")
	case !strings.Contains(string(raw), ":"):
		r.say(FromRequest, "auth-scheme-wrong", Strong, "The Basic credentials lack the colon between user and password (RFC 7617 §2).", name, "Authorization")
	case r.in(401) && wantsBearer && !wantsBasic:
		r.say(FromRequest, "auth-scheme-wrong", Strong, "Basic credentials were sent; the server asks for Bearer only.", name, "Authorization")
	case r.in(401) && wantsBasic:
		says := "Well-formed Basic credentials were sent, and the server asks for Basic again: it does not know the user or the password."
		switch {
		case strings.HasSuffix(string(raw), "\n") || strings.HasSuffix(string(raw), "\r"):
			says = "The Basic credentials end with a line break, which became part of the password (echo without -n)."
		case strings.HasSuffix(string(raw), ":"):
			says = "The password of the Basic credentials is empty, and the server asks again."
		case !utf8.Valid(raw):
			says += " They hold letters beyond ASCII that are not UTF-8 (RFC 7617 §2.1)."
		}
		c, _ := r.ask("basic")
		r.say(FromAnswer, "basic-credentials-wrong", Strong, says, "realm", c.param("realm"))
	}
}

// nothingSent says auth-missing, and only where a whole recording shows that nothing was sent.
func (r *reading) nothingSent() {
	if !r.whole || !r.jar || !r.in(401, 403) || r.credentialed() {
		return
	}
	switch {
	case r.status == 401 && len(r.asks) > 0:
		for _, c := range r.asks {
			if c.param("error") != "" {
				return
			}
		}
		r.say(FromRequest, "auth-missing", Strong, fmt.Sprintf("The request carries no credential at all, and the server asks for %s.", shown(r.asks[0].scheme)), "scheme", r.asks[0].scheme)
	case r.status == 401:
		r.say(FromRequest, "auth-missing", Fair, "The request carries no credential at all, and 401 asks for one.")
	case len(r.asks) > 0:
		r.say(FromRequest, "auth-missing", Fair, "The request carries no credential, and the answer has a challenge.")
	}
	for _, s := range r.siblings(false) {
		if r.sameHost(s) && s.passed && s.Request.Header.Has("Authorization") {
			r.say(FromChain, "auth-missing", Strong, "Other requests of the recording to this host carry Authorization and pass; this one has none.", "header", "Authorization")
			break
		}
	}
}

var (
	noKeyFound  = regexp.MustCompile(`(?i)no api[ -]?key (?:was )?(?:found|provided|present)|api[ -]?key (?:is )?(?:missing|required)|missing api[ -]?key|missing (?:api )?subscription key|access denied due to missing subscription key`)
	keyField    = regexp.MustCompile(`(?i)\b(x-[a-z0-9-]{2,40}-?(?:key|token)|ocp-apim-subscription-key|api-key|apikey)\b (?:header|field)|(?:header|field)\s+['"]?(x-[a-z0-9-]{2,40}|ocp-apim-subscription-key|api-key|apikey)\b`)
	keyRepeated = regexp.MustCompile(`(?i)duplicate api key|multiple api keys|more than one api key`)
)

// keys looks for API keys in the wrong place. The answer or a passing sibling must name the right one.
func (r *reading) keys() {
	if !r.maybe(401, 403) || !r.whole {
		return
	}
	var names []string // where something like a key is
	padded := ""
	if low := strings.ToLower(r.auth); strings.HasPrefix(low, "apikey ") || strings.HasPrefix(low, "api-key ") || strings.HasPrefix(low, "key ") {
		names = append(names, "Authorization")
	}
	for i, f := range r.req.Header {
		if i == maxReadItems {
			break
		}
		if apiKeyName(f.Name) {
			names = append(names, f.Name)
			if v := r.c.Vault.Reveal(f.Value); !stillSealed(v) && len(v) < 512 && v != strings.Trim(v, " \t\r\n\"'") {
				padded = f.Name
			}
		}
	}
	for _, p := range r.query {
		if apiKeyName(p.name) {
			names = append(names, "query parameter "+p.name)
		}
	}
	if padded != "" {
		r.say(FromRequest, "api-key-invalid", Fair, "The value of "+shown(padded)+" begins or ends with white space or a quotation mark.", "header", padded)
	}
	if !r.refused() || len(r.page) == 0 && len(names) == 0 {
		return
	}
	text := string(r.page[:min(len(r.page), 4096)])
	switch {
	case keyRepeated.MatchString(text) && len(names) > 0:
		r.add(Clue{Source: FromAnswer, Cause: "api-key-wrong-location", Weight: Certain, Quote: keyRepeated.FindString(text), Says: "The server found more than one API key; one may be sent."}, "header", names[0])
	case noKeyFound.MatchString(text):
		quote := noKeyFound.FindString(text)
		if len(names) > 0 {
			says := fmt.Sprintf("The server found no API key, yet the request carries one in %s: it looks elsewhere.", shown(names[0]))
			wanted := ""
			if m := keyField.FindStringSubmatch(text); m != nil {
				wanted = m[1] + m[2]
				if slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, wanted) }) {
					r.add(Clue{Source: FromAnswer, Cause: "auth-header-stripped", Weight: Strong, Quote: quote,
						Says: "The server found no API key in " + shown(wanted) + ", and the request carries it there: something on the way takes it off."}, "field", wanted)
					break
				}
				says += " It names " + shown(wanted) + "."
			}
			weight := Strong
			if strings.Contains(names[0], "_") && !strings.Contains(names[0], " ") && wanted == "" {
				// https://nginx.org/en/docs/http/ngx_http_core_module.html#underscores_in_headers
				weight = Fair
				r.add(Clue{Source: FromAnswer, Cause: "auth-header-stripped", Weight: Strong, Quote: quote,
					Says: "The server found no API key, and the request carries one in " + shown(names[0]) + ": nginx and others drop fields with an underscore in their name.",
					Fix:  []string{"Send the key in a field with hyphens in its name, or let the proxy take underscores: underscores_in_headers on; in the default server of nginx."}}, "field", names[0])
			}
			r.add(Clue{Source: FromAnswer, Cause: "api-key-wrong-location", Weight: weight, Quote: quote, Says: says}, "header", names[0], "wanted", wanted)
		} else if r.jar {
			r.add(Clue{Source: FromAnswer, Cause: "api-key-missing", Weight: Certain, Quote: quote, Says: "The server found no API key, and the request carries none."})
		}
	}
	for _, s := range r.siblings(false) {
		if !r.sameHost(s) || !s.passed {
			continue
		}
		for i, f := range s.Request.Header {
			if i == maxReadItems {
				return
			}
			if apiKeyName(f.Name) && !r.req.Header.Has(f.Name) {
				cause := "api-key-missing"
				if len(names) > 0 {
					cause = "api-key-wrong-location"
				}
				r.say(FromChain, cause, Strong, "A request of the recording that passes carries "+shown(f.Name)+"; this one does not.", "header", f.Name)
				return
			}
		}
	}
}

// certificateAlert are the words in which clients tell that the server wanted a certificate: TLS's alert 116 (RFC 8446 §6.2),
// Chrome's and Firefox's error.
var certificateAlert = regexp.MustCompile(`(?i)certificate[ _]required|ERR_BAD_SSL_CLIENT_AUTH_CERT|ERR_SSL_CLIENT_AUTH_CERT_NEEDED|RX_CERTIFICATE_REQUIRED_ALERT|tlsv13 alert certificate required`)

// certificateRefused are those for a certificate that was sent and not liked.
var certificateRefused = regexp.MustCompile(`(?i)(?:alert:? |tls: )(?:revoked certificate|expired certificate|bad certificate|unknown certificate|unsupported certificate|certificate (?:revoked|expired|unknown))`)

// handshake reads how the handshake ended, where no answer came. Before TLS 1.3 a missing certificate ends it with
// handshake_failure or bad_certificate, as other faults do.
func (r *reading) handshake() {
	if r.known || r.ans.Err == "" || r.req.Via.Cert == "" && r.c.Source == "log" {
		return
	}
	sent := r.req.Via.Cert != ""
	text := r.ans.Err[:min(len(r.ans.Err), 300)]
	switch {
	case certificateAlert.MatchString(text) && !sent:
		r.say(FromAnswer, "mtls-client-cert-missing", Certain, "The server ended the handshake because the client sent no certificate (RFC 8446 §6.2, certificate_required).")
	case certificateAlert.MatchString(text):
		r.say(FromAnswer, "mtls-client-cert-invalid", Strong, "The server asks for a certificate although one was named: the client did not send it, because it fits none of the authorities that the server accepts.")
	case certificateRefused.MatchString(text) && sent:
		r.say(FromAnswer, "mtls-client-cert-invalid", 4.5, "The server ended the handshake because of the client's certificate: "+shown(text)+".")
	case certificateRefused.MatchString(text):
		r.say(FromAnswer, "mtls-client-cert-missing", 2.2, "The server ended the handshake because of the client's certificate, and none was sent: "+shown(text)+".")
	}
}
