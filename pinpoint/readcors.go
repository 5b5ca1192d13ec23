package pinpoint

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// crossOrigin reads what the Fetch standard (§3.2, CORS protocol) makes of preflights and answers.
func (r *reading) crossOrigin() {
	if r.url == nil {
		return
	}
	if isPreflight(r.req) {
		if r.known {
			r.preflight(r.req, r.ans, FromAnswer, "")
		}
		return
	}
	r.fetchSite()
	origin := r.req.Header.Value("Origin")
	failed := !r.known && r.ans.Err != "" || !r.known && r.near[r.asked].Answer != nil
	if origin == "" && !failed {
		return
	}
	if failed {
		for _, s := range slices.Backward(r.siblings(false)) {
			if isPreflight(s.Request) && sameTarget(s.url, r.url) && strings.EqualFold(s.Request.Header.Value("Access-Control-Request-Method"), r.req.Method) {
				if s.Answer.Status > 0 {
					r.preflight(s.Request, s.Answer, FromChain, r.req.Method)
				}
				return
			}
		}
	}
	o, err := url.Parse(origin)
	if err != nil || o.Host == "" || strings.EqualFold(o.Host, r.url.Host) && o.Scheme == r.url.Scheme || !r.known {
		return
	}
	r.exposed(origin, failed)
}

func isPreflight(req *Request) bool {
	return req != nil && strings.EqualFold(req.Method, "OPTIONS") && req.Header.Has("Access-Control-Request-Method")
}

// sameTarget compares URLs without their fragments.
func sameTarget(a, b *url.URL) bool {
	return strings.EqualFold(a.Host, b.Host) && a.EscapedPath() == b.EscapedPath() && a.RawQuery == b.RawQuery
}

// preflight judges a preflight. Next is the method that waited for it, "" when it is asked about itself.
func (r *reading) preflight(req *Request, ans *Answer, from Source, next string) {
	origin, method := req.Header.Value("Origin"), req.Header.Value("Access-Control-Request-Method")
	names := []string{"origin", origin, "method", method}
	never := ""
	if next != "" {
		never = fmt.Sprintf(" The %s never left the browser.", shown(next))
	}
	say := func(cause string, weight float64, says string) { r.say(from, cause, weight, says+never, names...) }
	allowed := ans.Header.Value("Access-Control-Allow-Origin")
	switch {
	case ans.Status == 401 || ans.Status == 403 && ans.Header.Has("WWW-Authenticate"):
		say("cors-preflight-refused", Certain, fmt.Sprintf("The preflight was answered %d: it stands behind authentication, and browsers send no credentials with it.", ans.Status))
		return
	case ans.Status >= 300 && ans.Status < 400:
		say("cors-preflight-refused", Certain, fmt.Sprintf("The preflight was redirected (%d); browsers do not follow that.", ans.Status))
		return
	case ans.Status >= 400:
		weight := Strong
		if next != "" {
			weight = Certain
		}
		says := fmt.Sprintf("The preflight for %s was refused with %d.", shown(method), ans.Status)
		if ans.Status == 403 {
			for _, s := range r.siblings(false) {
				if r.sameHost(s) && s.passed && s.Request.Header.Has("Authorization") {
					says += " Requests with Authorization pass: the preflight seems to stand behind authentication."
					break
				}
			}
		}
		say("cors-preflight-refused", weight, says)
		return
	case ans.Status < 200:
		return
	}
	credentials := strings.EqualFold(ans.Header.Value("Access-Control-Allow-Credentials"), "true")
	switch {
	case allowed == "":
		say("cors-origin-not-allowed", Strong, fmt.Sprintf("The preflight was answered %d without Access-Control-Allow-Origin.", ans.Status))
		return
	case allowed != "*" && origin != "" && allowed != origin:
		say("cors-origin-not-allowed", Certain, fmt.Sprintf("The server allows the origin %s; the page is of %s.", shown(allowed), shown(origin)))
		return
	}
	methods := ans.Header.Values("Access-Control-Allow-Methods")
	// The safelisted methods need no entry (Fetch §2.2.1).
	if simple := slices.Contains([]string{"GET", "HEAD", "POST"}, method); !simple && !listHas(methods, method, false) && !(listHas(methods, "*", false) && !credentials) {
		says := fmt.Sprintf("The server allows the methods %q across origins, not %s.", shown(strings.Join(methods, ", ")), shown(method))
		say("cors-preflight-refused", Certain, says)
		return
	}
	headers := ans.Header.Values("Access-Control-Allow-Headers")
	for want := range strings.SplitSeq(req.Header.Value("Access-Control-Request-Headers"), ",") {
		want = strings.ToLower(strings.TrimSpace(want))
		if want == "" || len(want) > 100 || listHas(headers, want, true) {
			continue
		}
		// The wildcard never covers Authorization (Fetch §3.2.4).
		if listHas(headers, "*", true) && !credentials && want != "authorization" {
			continue
		}
		names = append(names, "header", want)
		say("cors-preflight-refused", Certain, fmt.Sprintf("The server does not allow the field %s across origins (Access-Control-Allow-Headers).", shown(want)))
		return
	}
	if allowed == "*" && credentials {
		say("cors-origin-not-allowed", 2.2, "The server allows every origin (*) together with credentials; browsers refuse that pair.")
	}
}

func listHas(lists []string, item string, fold bool) bool {
	for _, list := range lists {
		if len(list) > maxReadValue {
			continue
		}
		for e := range strings.SplitSeq(list, ",") {
			if e = strings.TrimSpace(e); e == item || fold && strings.EqualFold(e, item) {
				return true
			}
		}
	}
	return false
}

// exposed judges whether the page could read the answer to its request.
func (r *reading) exposed(origin string, failed bool) {
	values := r.ans.Header.Values("Access-Control-Allow-Origin")
	names := []string{"origin", origin}
	corsErr := strings.Contains(strings.ToLower(r.ans.Err), "cors")
	switch {
	case len(values) == 0 && r.status >= 400:
		for _, s := range r.siblings(false) {
			if r.sameHost(s) && s.passed && s.Answer.Status < 300 && !isPreflight(s.Request) && s.Answer.Header.Has("Access-Control-Allow-Origin") {
				weight := Fair
				if corsErr {
					weight = Strong
				}
				r.say(FromChain, "cors-headers-on-error-missing", weight, fmt.Sprintf("This %d lacks Access-Control-Allow-Origin, which passing answers of the host have: the page sees a CORS error in place of the true refusal.", r.status), names...)
				return
			}
		}
		if corsErr {
			r.say(FromAnswer, "cors-origin-not-allowed", Fair, "The browser reports CORS, and the answer has no Access-Control-Allow-Origin.", names...)
		}
	case len(values) > 1 || len(values) == 1 && strings.Contains(values[0], ","):
		if r.status >= 400 || failed || corsErr {
			r.say(FromAnswer, "cors-origin-not-allowed", 2.2, "Access-Control-Allow-Origin holds more than one value; two hops set it, and browsers take none.", names...)
		}
	case len(values) == 1 && (r.status >= 400 || corsErr):
		credentials := len(r.sent) > 0
		if values[0] == "*" && credentials {
			weight := Hint // the page cannot read the answer; the refusal itself has another cause
			if corsErr {
				weight = Strong
			}
			r.say(FromAnswer, "cors-origin-not-allowed", weight, "The answer allows every origin (*), which browsers do not accept for a request with credentials.", names...)
		} else if values[0] != "*" && values[0] != origin {
			weight := Fair
			if corsErr {
				weight = Strong
			}
			r.say(FromAnswer, "cors-origin-not-allowed", weight, fmt.Sprintf("The answer allows the origin %s; the page is of %s.", shown(values[0]), shown(origin)), names...)
		}
	}
}

// fetchSite looks at fetch metadata (W3C Fetch Metadata Request Headers): policies refuse cross-site
// requests by them.
func (r *reading) fetchSite() {
	if !r.in(403) || !strings.EqualFold(r.req.Header.Value("Sec-Fetch-Site"), "cross-site") || r.ans.Header.Has("Access-Control-Allow-Origin") {
		return
	}
	if strings.EqualFold(r.req.Header.Value("Sec-Fetch-Mode"), "navigate") && !mayChange(r.req.Method) {
		return
	}
	for _, s := range r.siblings(false) {
		if r.sameHost(s) && s.passed && s.Request.Method == r.req.Method && s.url.Path == r.url.Path && strings.HasPrefix(s.Request.Header.Value("Sec-Fetch-Site"), "same-") {
			r.say(FromChain, "fetch-metadata-blocked", Strong, "The same request from the site itself passes; with Sec-Fetch-Site: cross-site it is refused.", "header", "Sec-Fetch-Site")
			return
		}
	}
	r.say(FromRequest, "fetch-metadata-blocked", Hint, "The request says Sec-Fetch-Site: cross-site, which resource isolation policies refuse.", "header", "Sec-Fetch-Site")
}
