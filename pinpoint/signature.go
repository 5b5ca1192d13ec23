package pinpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// signed is how much of a body enters a signature.
const signed = 64 << 10

// telling are the fields whose presence says which hop wrote an answer. Fields that come and go with
// the state of a cache or a quota (Age, X-Cache, RateLimit-*) are not among them.
var telling = map[string]bool{
	"allow": true, "cf-error-type": true, "cf-mitigated": true, "cf-ray": true, "www-authenticate": true,
	"proxy-authenticate": true, "via": true, "x-amz-cf-id": true, "x-amzn-errortype": true,
	"x-amzn-waf-action": true, "x-amz-request-id": true, "x-apisix-upstream-status": true,
	"x-azure-ref": true, "x-envoy-upstream-service-time": true, "x-goog-iap-generated-response": true,
	"x-iinfo": true, "x-kong-response-latency": true, "x-kong-upstream-latency": true,
	"x-kong-upstream-status": true, "x-ms-error-code": true, "x-powered-by": true, "x-served-by": true,
	"x-squid-error": true, "x-sucuri-block": true, "x-sucuri-id": true, "x-varnish": true,
	"x-whygate-call": true, "grpc-status": true, "x-aspnet-version": true, "x-github-sso": true,
}

const (
	dayNames   = `(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?`
	monthNames = `(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t(?:ember)?)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)`
)

var (
	scripts      = regexp.MustCompile(`(?is)<(script|style)\b[^>]*>.*?</(?:script|style)\s*>`)
	placeholders = regexp.MustCompile(`‹secret:[^›]{0,64}›`)
	// A number behind such a word is a code of the product and not a counter: it stays.
	codes = regexp.MustCompile(`(?i)(?:code|error|status|errno|rule)["']?[ :=#>]{1,3}["']?[0-9][0-9.]{0,6}`)
	// Identifiers that are letters only are known by their names.
	labelled = regexp.MustCompile(`(?i)((?:request|trace|ray|incident|support|event|reference|correlation|transaction|session|host|call|block)[ _-]?(?:id|number|code)(?:entifier)?["']?(?:</[a-z]{1,10}>)?[ ]?[:=>#]+[ ]?(?:<[a-z]{1,10}>)?["']?)[^\s"'<>,;}]{4,512}`)
	nonces   = regexp.MustCompile(`(?i)(nonce|csrf[a-z_-]{0,12}|authenticity_token|token)(["']?\s{0,4}[:=]\s{0,4}["'])[^"'<>]{6,512}`)
	rays     = regexp.MustCompile(`\b[0-9a-f]{16}-[A-Z]{3}\b`)
	uuids    = regexp.MustCompile(`(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`)
	// Addresses of IPv6 and times with colons; two colons at least.
	addr6    = regexp.MustCompile(`(?i)\b[0-9a-f]{1,4}(?::[0-9a-f]{0,4}){2,7}|::[0-9a-f]{1,4}\b`)
	isoTimes = regexp.MustCompile(`\b[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9:]{5,8}(?:[.,][0-9]+)?)?(?: ?(?:Z|UTC|GMT)\b|[+-][0-9]{2}:?[0-9]{2}\b)?`)
	// Long runs of one alphabet with a digit in them: hashes, base64, ULIDs. The digit is checked in code.
	runs    = regexp.MustCompile(`[0-9A-Za-z+/_=-]{12,}`)
	hexes   = regexp.MustCompile(`(?i)\b[0-9a-f]{6,}\b`)
	numbers = regexp.MustCompile(`[0-9]+(?:[.,:][0-9]+)*`)
	dates   = regexp.MustCompile(`(?i)(?:\b` + dayNames + `,? ?)?(?:\b` + monthNames + `,?[ -]?#|#[ -]?` + monthNames + `\b(?:[ ,-]{1,2}#)?)|\b` + dayNames + `,? ?#`)
	moments = regexp.MustCompile(`(?i)#(?:[ T:,.+/-]*#)+(?: ?(?:am|pm|utc|gmt|z)\b)?|# ?(?:am|pm|utc|gmt)\b|#Z\b`)
)

// Signature is a short text that is equal for two answers when they are the same refusal: the same
// status, the same page apart from times, identifiers, counters and addresses, from a server that
// gives itself the same name. It holds nothing of the body but a hash. An answer that never came
// has the signature of its error.
func Signature(a *Answer) string {
	if a == nil {
		return ""
	}
	if a.Status == 0 {
		return "0 " + cutText(numbers.ReplaceAllString(plain(a.Err), "#"), 80)
	}
	var b strings.Builder
	b.WriteString(strconv.Itoa(a.Status))
	fmt.Fprintf(&b, " %s", cutText(numbers.ReplaceAllString(plain(a.Header.Value("Server")), "#"), 60))
	media, _, _ := strings.Cut(a.Header.Value("Content-Type"), ";")
	fmt.Fprintf(&b, " %s", cutText(strings.ToLower(plain(media)), 60))
	var names []string
	for i, f := range a.Header {
		n := strings.ToLower(f.Name)
		if i < 1000 && telling[n] && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	fmt.Fprintf(&b, " [%s]", strings.Join(names, " "))
	if a.Status/100 == 3 {
		// The query of a redirect carries the way back and is another one each time.
		where, _, _ := strings.Cut(a.Header.Value("Location"), "?")
		fmt.Fprintf(&b, " → %s", cutText(template(where), 120))
	}
	body := a.Body[:min(len(a.Body), signed)]
	sum := sha256.Sum256([]byte(template(string(body))))
	return b.String() + " " + hex.EncodeToString(sum[:8])
}

// SignatureFor is the Signature of an answer in which what the server repeats of the request (path,
// host, query, user agent) is masked first, so that the same page about another path stays the same.
func SignatureFor(r *Request, a *Answer) string {
	if r == nil || a == nil || len(a.Body) == 0 {
		return Signature(a)
	}
	parts := []string{r.URL, r.Host(), r.Header.Value("User-Agent"), r.Header.Value("Referer")}
	if u, err := r.Parsed(); err == nil {
		// A page shows a path as it was sent, decoded, or with & < > escaped.
		for _, p := range []string{u.RequestURI(), u.EscapedPath(), u.Path, u.RawQuery, u.Hostname()} {
			parts = append(parts, p, strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(p))
			if q, err := url.QueryUnescape(p); err == nil {
				parts = append(parts, q)
			}
		}
	}
	slices.SortFunc(parts, func(a, b string) int { return len(b) - len(a) })
	c := *a
	c.Body = c.Body[:min(len(c.Body), signed)]
	for _, p := range slices.Compact(parts) {
		if len(p) >= 4 && len(p) <= 8<<10 {
			c.Body = bytes.ReplaceAll(c.Body, []byte(p), []byte("~"))
		}
	}
	return Signature(&c)
}

// template is a text with everything masked that changes from answer to answer.
func template(text string) string {
	text = plain(text)
	text = scripts.ReplaceAllString(text, "<$1>")
	text = placeholders.ReplaceAllString(text, "*")
	text = labelled.ReplaceAllString(text, "$1*")
	text = nonces.ReplaceAllString(text, "$1$2*")
	text = codes.ReplaceAllStringFunc(text, func(s string) string { // digits that no later mask knows
		return strings.Map(func(r rune) rune {
			if r >= '0' && r <= '9' {
				return '₀' + r - '0'
			}
			return r
		}, s)
	})
	text = rays.ReplaceAllString(text, "*")
	text = uuids.ReplaceAllString(text, "*")
	text = isoTimes.ReplaceAllString(text, "#")
	text = addr6.ReplaceAllString(text, "#")
	text = runs.ReplaceAllStringFunc(text, func(s string) string {
		if strings.ContainsAny(s, "0123456789") && strings.IndexFunc(s, letter) >= 0 {
			return "*"
		}
		return s
	})
	text = hexes.ReplaceAllStringFunc(text, func(s string) string {
		if strings.ContainsAny(s, "0123456789") {
			return "*"
		}
		return s
	})
	text = numbers.ReplaceAllString(text, "#")
	text = dates.ReplaceAllString(text, "#")
	text = moments.ReplaceAllString(text, "#")
	return strings.Join(strings.Fields(text), " ")
}

func letter(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }

// plain takes control characters out, so that a hostile answer cannot speak to a terminal.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

func cutText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

// SafeText is a text of others for a sentence: no control characters, at most n bytes.
func SafeText(s string, n int) string {
	s = cutText(s, 4*n)
	return cutText(strings.Map(func(r rune) rune {
		if r == '\u202e' || r == '\u2066' || r == '\u2067' || r == '\u2068' || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, plain(s)), n)
}
