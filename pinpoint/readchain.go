package pinpoint

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// turn is one redirect that led to the request.
type turn struct {
	ex       *Exchange
	from, to *url.URL
}

// turns are the redirects that led to the request, the first one first.
func (r *reading) turns() (out []turn) {
	if r.url == nil {
		return nil
	}
	target := r.url
	before := r.siblings(true)
	for i := len(before) - 1; i >= 0 && len(out) < 30; i-- {
		s := before[i]
		if s.Answer.Status < 300 || s.Answer.Status > 399 {
			continue
		}
		to := r.location(s.Answer, s.url)
		if to == nil || !sameTarget(to, target) || to.Scheme != target.Scheme {
			continue
		}
		out = append(out, turn{s.Exchange, s.url, to})
		target = s.url
	}
	slices.Reverse(out)
	return out
}

// location is where an answer redirects to.
func (r *reading) location(a *Answer, base *url.URL) *url.URL {
	text := r.c.Vault.Reveal(a.Header.Value("Location"))
	if text == "" || len(text) > maxReadURL {
		return nil
	}
	u, err := base.Parse(text)
	if err != nil {
		return nil
	}
	u.Fragment = ""
	return u
}

var (
	loginPath = regexp.MustCompile(`(?i)/(?:log-?in|sign-?in|sso|saml2?|oauth2?/(?:auth|authorize|start)|authorize|accounts/login|users/sign_in|session/new|connect/authorize|adfs/ls)(?:[/.?;]|$)`)
	stageName = regexp.MustCompile(`^(?:prod|production|dev|develop|development|stage|staging|test|testing|qa|uat|beta|alpha|live|default|api|app|v\d{1,3})$`)
)

// redirects reads the chain that led to the request, and an answer that is a redirect itself.
func (r *reading) redirects() {
	if r.url == nil {
		return
	}
	if r.known && r.status >= 300 && r.status < 400 {
		if to := r.location(r.ans, r.url); to != nil {
			r.login(r.ans, r.url, to, r.req, FromAnswer)
		}
		return
	}
	chain := r.turns()
	if len(chain) == 0 || r.known && r.status < 400 {
		return
	}
	seen := map[string]int{}
	for _, t := range chain {
		seen[t.from.String()]++
		status := t.ex.Answer.Status
		r.login(t.ex.Answer, t.from, t.to, t.ex.Request, FromChain)
		got := mayChange(t.ex.Request.Method) && !mayChange(r.req.Method)
		r.turned = r.turned || got
		a, b := t.from.EscapedPath(), t.to.EscapedPath()
		slash := strings.EqualFold(t.from.Host, t.to.Host) && a != b && strings.TrimSuffix(a, "/") == strings.TrimSuffix(b, "/")
		switch {
		case slash && got && r.in(400, 403, 404, 405) && status != 307 && status != 308:
			r.say(FromChain, "trailing-slash", Certain, fmt.Sprintf("%s %s was redirected with %d to the form that differs by the slash, and became %s (RFC 9110 §15.4): its body was lost.",
				shown(t.ex.Request.Method), pathShown(t.ex.Request.URL), status, shown(r.req.Method)), "path", pathShown(r.req.URL), "method", t.ex.Request.Method)
		case slash && r.in(403, 404, 405):
			r.say(FromChain, "trailing-slash", Fair, "A redirect added or took away the slash at the end before the refusal.", "path", pathShown(r.req.URL))
		case got && (status == 301 || status == 302) && t.from.Scheme == "http" && t.to.Scheme == "https" && r.in(400, 403, 404, 405):
			r.say(FromChain, "https-required", Strong, fmt.Sprintf("The %s went to http, was redirected to https and became %s (RFC 9110 §15.4): its body was lost.", shown(t.ex.Request.Method), shown(r.req.Method)), "method", t.ex.Request.Method)
		case got && (status == 301 || status == 302) && r.in(405):
			r.say(FromChain, "method-not-allowed", Strong, fmt.Sprintf("A %d turned the %s into %s, which the target does not know.", status, shown(t.ex.Request.Method), shown(r.req.Method)), "method", r.req.Method)
		}
		if t.from.Scheme == "https" && t.to.Scheme == "http" && r.in(400, 401, 403, 404) {
			r.say(FromChain, "https-required", Fair, "A redirect led from https to http; the server builds its links with the wrong scheme (X-Forwarded-Proto).", "host", t.to.Host)
			if r.jar && t.ex.Request.Header.Has("Cookie") && len(r.sent) == 0 && r.whole && r.in(401, 403) {
				r.say(FromChain, "session-cookie-not-sent", Strong, "Cookies were sent over https and not any more after the redirect to http: they are marked Secure.", "host", t.to.Host)
			}
		}
		other := !strings.EqualFold(t.from.Host, t.to.Host) || t.from.Scheme != t.to.Scheme
		if other && t.ex.Request.Header.Has("Authorization") && r.auth == "" && r.whole && r.in(401, 403) {
			r.say(FromChain, "auth-header-stripped", Certain, fmt.Sprintf("Authorization was sent to %s and, as clients do when a redirect leads to another host, no more to %s.", shown(t.from.Host), shown(t.to.Host)),
				"host", t.to.Host, "header", "Authorization")
		}
		if d, err := http.ParseTime(t.ex.Answer.Header.Value("Date")); err == nil && (status == 301 || status == 308) && !t.ex.At.IsZero() && r.in(403, 404, 410) &&
			t.ex.At.Sub(d) > time.Hour && !t.ex.Answer.Header.Has("Age") && !t.ex.Answer.Remote.IsValid() {
			r.say(FromChain, "client-cached-redirect", Strong, fmt.Sprintf("The %d has a Date %s before the request and no peer address: the browser took it from its own cache.", status, spanOf(t.ex.At.Sub(d))), "path", pathShown(t.ex.Request.URL))
		}
	}
	for u, n := range seen {
		if n < 2 {
			continue
		}
		if strings.HasPrefix(u, "http:") {
			r.say(FromChain, "https-required", Fair, "The redirects run in a circle between http and https: a proxy in front does not tell that the client used https.", "path", r.path)
		} else {
			r.say(FromChain, "session-cookie-not-sent", Fair, "The redirects run in a circle: what the page sets on the way does not come back.", "path", r.path)
		}
		break
	}
}

// login judges a redirect to a login page.
func (r *reading) login(a *Answer, from, to *url.URL, req *Request, src Source) {
	host, path := strings.ToLower(to.Hostname()), to.Path
	gate := ""
	switch {
	case strings.HasSuffix(host, ".cloudflareaccess.com") || strings.HasPrefix(path, "/cdn-cgi/access/"):
		gate = "Cloudflare Access"
	case strings.EqualFold(a.Header.Value("X-Goog-IAP-Generated-Response"), "true"):
		gate = "Google's Identity-Aware Proxy"
	case strings.HasPrefix(path, "/oauth2/start") || strings.HasPrefix(path, "/oauth2/sign_in"):
		gate = "oauth2-proxy"
	case strings.HasPrefix(path, "/.auth/login"):
		gate = "the authentication of Azure App Service"
	case strings.HasPrefix(path, "/outpost.goauthentik.io/"):
		gate = "authentik"
	}
	if gate != "" {
		r.say(src, "zero-trust-access-denied", Strong, fmt.Sprintf("The request was sent to the login of %s: the application was not asked.", gate), "host", to.Host)
		return
	}
	if !loginPath.MatchString(path) && !strings.HasPrefix(host, "login.") && !strings.HasPrefix(host, "accounts.") && !strings.HasPrefix(host, "sso.") || loginPath.MatchString(from.Path) {
		return
	}
	cookies := pairsOfCookie(r.c.Vault.Reveal(req.Header.Value("Cookie")), maxReadItems)
	had := ""
	for _, p := range cookies {
		if sessionName(p.name) {
			had = p.name
		}
	}
	switch {
	case had != "":
		r.say(src, "session-expired", Strong, fmt.Sprintf("The session cookie %s was sent, and the server redirects to a login: it does not know that session any more.", shown(had)), "cookie", had)
	case r.whole && r.jar && len(cookies) == 0 && !req.Header.Has("Authorization"):
		r.say(src, "auth-missing", 2.2, "Nothing that tells who is calling was sent, and the server redirects to a login.", "host", to.Host)
	default:
		r.say(src, "session-expired", Hint, "The server redirects to a login.", "host", to.Host)
	}
}

// fromGateway says that an answer has the marks of Amazon API Gateway.
func fromGateway(a *Answer, host string) bool {
	text := string(a.Body[:min(len(a.Body), 512)])
	return strings.Contains(host, ".execute-api.") || a.Header.Has("x-amzn-ErrorType") || a.Header.Has("x-amz-apigw-id") || a.Header.Has("apigw-requestid") ||
		strings.Contains(text, "Missing Authentication Token")
}

// prefix finds the first segment of the path that the caller's other URLs have and this one lost.
func (r *reading) prefix() {
	if r.url == nil || !r.in(403, 404) {
		return
	}
	first := func(p string) string {
		s, _, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
		return s
	}
	mine := first(r.url.Path)
	passing := map[string]int{}
	matched := false
	for _, s := range r.siblings(false) {
		if r.sameHost(s) && s.passed {
			passing[first(s.url.Path)]++
			if seg := first(s.url.Path); seg != "" && s.url.Path == "/"+seg+r.url.Path && r.url.Path != "/" {
				matched = true
			}
		}
	}
	segment := ""
	for s := range passing {
		if segment != "" {
			return // several places pass: the first segment is no stage
		}
		segment = s
	}
	if segment == "" || segment == mine || strings.HasPrefix(r.url.Path, "/"+segment) || len(segment) > 64 || strings.Contains(segment, ".") {
		return
	}
	gateway := fromGateway(r.ans, r.host)
	stage := stageName.MatchString(strings.ToLower(segment))
	via := "all URLs that pass begin with it"
	redirected := false
	for _, t := range r.turns() {
		if first(t.from.Path) == segment && strings.EqualFold(t.from.Host, t.to.Host) && first(t.to.Path) != segment {
			redirected, via = true, fmt.Sprintf("the redirect of %s %s lost it", shown(t.ex.Request.Method), pathShown(t.ex.Request.URL))
		}
	}
	weight := 0.0
	switch {
	case (redirected || matched) && gateway:
		weight = 4.5
	case (redirected || matched) && stage:
		weight = Strong
	case strings.Contains(r.host, ".execute-api.") && !stageName.MatchString(strings.ToLower(mine)):
		weight = Fair
	case matched, redirected && passing[segment] >= 3:
		weight = Fair
	default:
		return
	}
	r.add(Clue{Source: FromChain, Cause: "stage-prefix-lost", Weight: weight, Fix: []string{
		"Build the link or the redirect with the application's root (url_for, SCRIPT_NAME, root_path), so that it begins with /" + segment + ".",
		"Or bind a custom domain whose base path mapping hides /" + segment + "."},
		Says: fmt.Sprintf("%s lacks the first segment /%s with which URLs of this host pass: %s.", r.path, shown(segment), via)},
		"segment", "/"+segment, "path", r.path)
}
