package pinpoint

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cacheHit says which field tells that an answer came from a cache.
func cacheHit(h Header) string {
	for _, name := range []string{"X-Cache", "CF-Cache-Status", "X-Cache-Status", "X-Proxy-Cache", "X-Cache-Lookup", "X-Drupal-Cache", "X-Varnish-Cache", "X-Nginx-Cache", "X-Litespeed-Cache", "CDN-Cache", "X-Vercel-Cache", "Cache-Status"} {
		for _, v := range h.Values(name) {
			low := strings.ToLower(v)
			if len(low) > 512 {
				continue
			}
			words := strings.FieldsFunc(low, func(c rune) bool { return !(c >= 'a' && c <= 'z' || c == '_' || c == '-') })
			// RFC 9211 writes hit as a parameter; vendors as a word of its own.
			if slices.ContainsFunc(words, func(w string) bool {
				return w == "hit" || w == "tcp_hit" || w == "tcp_mem_hit" || w == "refreshhit" || w == "stale"
			}) {
				return name + ": " + shown(v)
			}
		}
	}
	return ""
}

// cached finds refusals that were made for an earlier request (RFC 9111 §5.1, RFC 9211).
func (r *reading) cached() {
	if !r.in(400, 401, 403, 404, 405, 410, 429, 451, 503) || mayChange(r.req.Method) {
		return
	}
	age, err := strconv.Atoi(strings.TrimSpace(r.ans.Header.Value("Age")))
	if err != nil || age < 0 {
		age = 0
	}
	hit := cacheHit(r.ans.Header)
	if hit == "" && len(strings.Fields(r.ans.Header.Value("X-Varnish"))) == 2 {
		hit = "X-Varnish with two ids"
	}
	if hit == "" && age == 0 {
		return
	}
	if r.req.Header.Has("If-None-Match") && hit == "" {
		return
	}
	weight, says := Fair, "The refusal came out of a cache"
	if hit != "" {
		says += " (" + hit + ")"
	}
	if age > 0 {
		says += fmt.Sprintf("; it was made %s before, perhaps for somebody else", spanOf(time.Duration(min(age, 1<<30))*time.Second))
		if age >= 2 && hit != "" {
			weight = Strong
		} else if age >= 5 {
			weight = 2.2
		}
	} else {
		weight = 2.2
	}
	says += "."
	if r.in(404, 405, 410) { // most caches keep those, and most are true
		weight = Hint
	}
	vary := strings.ToLower(strings.Join(r.ans.Header.Values("Vary"), ","))
	if (r.auth != "" && !strings.Contains(vary, "authorization") || len(r.sent) > 0 && !strings.Contains(vary, "cookie")) && !strings.Contains(vary, "*") && len(vary) < 1000 {
		says += " It does not vary by the caller's credentials."
	}
	r.say(FromAnswer, "cdn-cached-refusal", weight, says, "path", r.path, "age", strconv.Itoa(age))
}

var rateItem = regexp.MustCompile(`(?i)\b(remaining|r)\s*=\s*(\d{1,9})`)

// remaining is what a rate limit leaves, -1 when no field tells. The field is named, too.
func remaining(h Header) (n int, field string) {
	for i, f := range h {
		if i == maxReadItems {
			break
		}
		name := strings.ToLower(f.Name)
		if strings.Contains(name, "ratelimit") || strings.Contains(name, "rate-limit") {
			if strings.HasSuffix(name, "remaining") || strings.Contains(name, "remaining-") {
				word, _, _ := strings.Cut(f.Value, ",")
				word, _, _ = strings.Cut(word, ";")
				if v, err := strconv.Atoi(strings.TrimSpace(word)); err == nil {
					if v <= 0 {
						return 0, f.Name
					}
					n, field = v, f.Name
				}
			} else if name == "ratelimit" && len(f.Value) < 1000 {
				for _, m := range rateItem.FindAllStringSubmatch(f.Value, 10) {
					if v, _ := strconv.Atoi(m[2]); v == 0 {
						return 0, f.Name
					} else {
						n, field = v, f.Name
					}
				}
			}
		}
	}
	if field == "" {
		return -1, ""
	}
	return n, field
}

// retryAfter is how long the server asks to wait (RFC 9110 §10.2.3).
func (r *reading) retryAfter() (time.Duration, bool) {
	v := strings.TrimSpace(r.ans.Header.Value("Retry-After"))
	if n, err := strconv.Atoi(v); err == nil && n >= 0 {
		return time.Duration(min(n, 1<<30)) * time.Second, true
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(t.Sub(r.when), 0), true
	}
	return 0, false
}

// limits reads rate limits and quotas: Retry-After, the RateLimit fields (draft-ietf-httpapi-ratelimit-headers)
// and their older vendor forms, and refusals that begin after passing requests.
func (r *reading) limits() {
	if !r.in(403, 429, 503) {
		return
	}
	left, field := remaining(r.ans.Header)
	wait, asked := r.retryAfter()
	cause := map[int]string{403: "rate-limit-as-403", 429: "rate-limit", 503: "rate-limit-as-503"}[r.status]
	names := []string{"field", field}
	says := ""
	if asked {
		names, says = append(names, "wait", spanOf(wait)), fmt.Sprintf(" The server asks to wait %s.", spanOf(wait))
	}
	switch {
	case r.status == 429 && (left == 0 || asked):
		r.say(FromAnswer, cause, Certain, "429 says that too many requests were sent (RFC 6585 §4)."+says, names...)
	case r.status == 429:
		r.say(FromAnswer, cause, 2.5, "429 says that too many requests were sent (RFC 6585 §4).", names...) // a page that names something else counts more
	case left == 0 && field != "":
		r.say(FromAnswer, cause, 4.5, fmt.Sprintf("%s is 0: the limit is used up.", shown(field))+says, names...)
	case left > 0:
		r.speakAgainst(FromAnswer, cause, Fair, fmt.Sprintf("%s says that %d requests are left.", shown(field), left))
	case asked && r.status == 403 && wait >= 2*time.Hour:
		r.say(FromAnswer, cause, Fair, "A 403 with Retry-After is a limit."+says, names...)
	case asked && r.status == 403:
		r.say(FromAnswer, cause, Strong, "A 403 with Retry-After is a limit: other refusals do not end by waiting."+says, names...)
	case asked && wait > 5*time.Minute:
		r.say(FromAnswer, "app-maintenance", Hint, "503 with a long Retry-After is what maintenance answers."+says, names...)
	case asked:
		r.say(FromAnswer, cause, Hint, "503 with Retry-After may be a limit or an overload."+says, names...)
	}
	if asked && wait >= 2*time.Hour && r.status != 503 {
		r.say(FromAnswer, "quota-exceeded", Strong, "The wait is so long that a quota of a day or a month is used up, not a rate."+says, names...)
	}
	r.series(cause)
}

// series finds requests that passed before the same ones were refused.
func (r *reading) series(cause string) {
	if r.url == nil || r.status == 429 {
		return
	}
	passed, refused := 0, 1
	ids := func(h Header) string { return h.Value("Authorization") + "\x00" + h.Value("Cookie") }
	same := ids(r.req.Header)
	for _, s := range r.siblings(true) {
		if !strings.EqualFold(s.Request.Method, r.req.Method) || !sameTarget(s.url, r.url) || ids(s.Request.Header) != same {
			continue
		}
		if at := r.timeOf(&r.near[r.asked]).Sub(r.timeOf(s.Exchange)); at < 0 || at > 10*time.Minute {
			continue
		}
		switch {
		case s.passed && refused > 1:
			passed, refused = 1, 1 // it passes again: by turns, not a series
		case s.passed:
			passed++
		case s.Answer.Status == r.status:
			refused++
		}
	}
	switch {
	case passed >= 5 && refused >= 2:
		r.say(FromChain, cause, 2.2, fmt.Sprintf("The same request passed %d times and was then refused %d times within minutes.", passed, refused))
	case passed >= 3 && refused >= 2:
		r.say(FromChain, cause, Fair, fmt.Sprintf("The same request passed %d times and was then refused %d times within minutes.", passed, refused))
	}
}

// lengthOf is the length of revealed text. Of a secret that is not at hand, its placeholder tells it.
func (r *reading) lengthOf(text string) int {
	if len(text) > maxReadValue*8 {
		return len(text)
	}
	text = r.c.Vault.Reveal(text)
	n := len(text)
	for i := 0; i < 64; i++ {
		at := strings.Index(text, opening)
		if at < 0 {
			break
		}
		end := strings.Index(text[at:], closing)
		if end < 0 {
			break
		}
		p := text[at : at+end+len(closing)]
		if _, l, ok := strings.Cut(p, " len="); ok {
			if v, err := strconv.Atoi(strings.TrimSuffix(l, closing)); err == nil && v >= 0 && v < 1<<24 {
				n += v - len(p)
			}
		}
		text = text[at+len(p):]
	}
	return n
}

// sizes holds the size of the URL, the fields and the body against the limits of common servers:
// nginx 8 KiB for a line and 1 MiB for a body, Apache httpd 8190 bytes for a field, Node.js 16 KiB for all fields,
// Tomcat 8 KiB for all, IIS 2048 bytes for a query and 16 KiB for all, ModSecurity 128 KiB without files and 12.5 MiB
// with, Express 100 KiB.
func (r *reading) sizes() {
	if !r.in(400, 403, 404, 411, 413, 414, 417, 431, 494, 502, 505, 426) || r.near[r.asked].Request == nil {
		return
	}
	server := strings.ToLower(r.ans.Header.Value("Server"))
	total, largest, field := 0, 0, ""
	for _, f := range r.req.Header {
		n := len(f.Name) + 4 + r.lengthOf(f.Value)
		if total += n; n > largest {
			largest, field = n, f.Name
		}
	}
	what := shown(field)
	if strings.EqualFold(field, "Cookie") {
		name, n := "", 0
		for _, p := range r.sent {
			if r.lengthOf(p.value) > n {
				name, n = p.name, r.lengthOf(p.value)
			}
		}
		if name != "" {
			what = fmt.Sprintf("Cookie, and in it %s with %d bytes", shown(name), n)
		}
	}
	big := fmt.Sprintf("The fields of the request have %d bytes; the largest is %s (%d bytes).", total, what, largest)
	switch {
	case r.status == 431 || r.status == 494:
		weight := Strong
		if total > 8000 {
			weight = Certain
		}
		r.say(FromAnswer, "header-too-large", weight, fmt.Sprintf("%d says that the fields are too large. ", r.status)+big, "field", field, "size", strconv.Itoa(total))
	case (total > 16000 || largest > 8150) && r.in(400, 413, 502):
		r.say(FromRequest, "header-too-large", Strong, big+" Many servers allow 8 or 16 KiB.", "field", field, "size", strconv.Itoa(total))
	case (total > 16000 || largest > 8150) && r.in(403):
		r.say(FromRequest, "header-too-large", Fair, big+" Many servers allow 8 or 16 KiB.", "field", field, "size", strconv.Itoa(total))
	case total > 7500 && r.in(400) && strings.Contains(server, "tomcat"):
		r.say(FromRequest, "header-too-large", Fair, big+" Tomcat allows 8 KiB.", "field", field, "size", strconv.Itoa(total))
	}
	length := r.lengthOf(r.req.URL)
	query := 0
	if r.url != nil {
		query = len(r.url.RawQuery)
	}
	says := fmt.Sprintf("The URL has %d bytes.", length)
	r.small(total, length)
	switch {
	case r.status == 414 && length > 2000:
		r.say(FromAnswer, "uri-too-long", Certain, "414 says that the URL is too long. "+says, "size", strconv.Itoa(length))
	case r.status == 414:
		r.say(FromAnswer, "uri-too-long", Strong, "414 says that the URL is too long. "+says, "size", strconv.Itoa(length))
	case length > 8000 && r.in(400, 403, 404):
		r.say(FromRequest, "uri-too-long", Strong, says+" Many servers allow 8 KiB.", "size", strconv.Itoa(length))
	case query > 2048 && r.in(404) && (strings.Contains(server, "iis") || strings.Contains(server, "httpapi")):
		r.say(FromRequest, "uri-too-long", Strong, fmt.Sprintf("The query has %d bytes; IIS answers 404 to more than 2048 (404.15).", query), "size", strconv.Itoa(query))
	}
	if r.status == 411 {
		weight := Strong
		if r.whole && !r.req.Header.Has("Content-Length") {
			weight = Certain
		}
		r.say(FromAnswer, "missing-content-length", weight, "411 asks for Content-Length (RFC 9110 §15.5.12).", "header", "Content-Length")
	}
	if expect := r.req.Header.Value("Expect"); expect != "" {
		switch r.status {
		case 417:
			r.say(FromAnswer, "expect-continue-rejected", Certain, "417 refuses the field Expect, which the request carries (RFC 9110 §15.5.18).", "header", "Expect")
		case 403:
			r.say(FromRequest, "expect-continue-rejected", Hint, "The request carries Expect, which some rules refuse.", "header", "Expect")
		}
	}
	switch {
	case r.status == 505, r.status == 426 && strings.Contains(strings.ToLower(r.ans.Header.Value("Upgrade")), "http/"):
		r.say(FromAnswer, "http-version-refused", Strong, fmt.Sprintf("%d refuses the version of HTTP.", r.status), "version", r.req.Proto)
	case r.status == 426 && (r.url != nil && r.url.Scheme == "http" || strings.Contains(strings.ToUpper(r.ans.Header.Value("Upgrade")), "TLS")):
		r.say(FromAnswer, "https-required", Strong, "426 asks for an upgrade, and the URL is http.")
	case r.status == 426 && r.req.Proto == "HTTP/1.0":
		r.say(FromAnswer, "http-version-refused", Strong, "426 answers a request of HTTP/1.0.", "version", r.req.Proto)
	}
	r.bodySize(server)
}

// bodySize hints at the limit that the size of the body passed.
func (r *reading) bodySize(server string) {
	if !r.in(400, 403, 413) || !mayChange(r.req.Method) {
		return
	}
	size := len(r.req.Body)
	if n, err := strconv.Atoi(strings.TrimSpace(r.req.Header.Value("Content-Length"))); err == nil && n > size {
		size = n
	}
	kind := mediaType(r.req.Header.Value("Content-Type"))
	files := kind == "multipart/form-data"
	express := strings.Contains(strings.ToLower(r.ans.Header.Value("X-Powered-By")), "express")
	names := []string{"size", strconv.Itoa(size)}
	is := fmt.Sprintf("The body has %d bytes", size)
	if r.status != 413 {
		if r.status == 403 && size > 131072 && !files && size < 1<<20 {
			r.say(FromRequest, "waf-body-limit", Hint, is+"; ModSecurity allows 131072 without files.", append(names, "limit", "131072")...)
		}
		return
	}
	switch {
	case express && size > 100<<10:
		r.say(FromRequest, "framework-body-limit", Strong, is+"; Express allows 100 KiB by default.", append(names, "limit", "102400")...)
		return
	case strings.Contains(server, "nginx") && size > 1<<20:
		r.say(FromRequest, "body-too-large", 4.5, is+"; nginx allows 1 MiB (client_max_body_size).", append(names, "limit", "1m", "directive", "client_max_body_size")...)
		return
	case strings.Contains(server, "apache") && size <= 1<<30 && (!files && size > 131072 || files && size > 13107200):
		// LimitRequestBody is 1 GiB since httpd 2.4.54 and was unlimited before; modsecurity.conf-recommended has its own limits.
		limit, directive := "131072", "SecRequestBodyNoFilesLimit"
		if files {
			limit, directive = "13107200", "SecRequestBodyLimit"
		}
		r.say(FromRequest, "waf-body-limit", 2.7, fmt.Sprintf("%s; ModSecurity allows %s of this kind (%s).", is, limit, directive), append(names, "limit", limit, "directive", directive)...)
		r.speakAgainst(FromRequest, "body-too-large", Fair, "Apache httpd itself takes 1 GiB, unless LimitRequestBody says otherwise.")
		r.say(FromAnswer, "body-too-large", Fair, "413 says that the content is too large (RFC 9110 §15.5.14). "+is+".", names...)
		return
	case size > 0 && size < 8<<10 && !r.req.Header.Has("Expect"):
		r.speakAgainst(FromRequest, "body-too-large", Hint, is+"; few servers refuse so little.")
		return
	}
	r.say(FromAnswer, "body-too-large", 2.5, "413 says that the content is too large (RFC 9110 §15.5.14). "+is+".", names...)
}

// small speaks against limits of size where what was sent is below every limit that servers have as a default; the
// smallest known are 4 KiB of fields, 1 KiB of a body held in memory is far below all.
func (r *reading) small(fields, target int) {
	if !r.whole || r.in(413, 414, 431, 494) {
		return
	}
	if fields < 3000 {
		r.speakAgainst(FromRequest, "header-too-large", Certain, fmt.Sprintf("The fields of the request have %d bytes only; servers take 4 KiB and more.", fields))
	}
	if target < 1000 {
		r.speakAgainst(FromRequest, "uri-too-long", Strong, fmt.Sprintf("The URL has %d bytes only.", target))
		if len(r.query) < 50 && !mayChange(r.req.Method) {
			r.speakAgainst(FromRequest, "waf-args-limit", Strong, fmt.Sprintf("There are %d parameters only, and none is long.", len(r.query)))
		}
	}
	if n := len(r.req.Body); n < 1000 && mayChange(r.req.Method) {
		for _, cause := range []string{"body-too-large", "framework-body-limit", "waf-body-limit"} {
			r.speakAgainst(FromRequest, cause, Strong, fmt.Sprintf("The body has %d bytes only.", n))
		}
	}
}
