package pinpoint

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// kept is a cookie that an earlier answer of the recording set.
type kept struct {
	name, value  string
	domain, path string
	hostOnly     bool
	secure       bool
	sameSite     string // lower case
	expires      time.Time
	gone         bool // it was set to be deleted
	from         *url.URL
	refused      string // why browsers do not keep it
}

// sessionName says that a cookie of this name keeps a session.
func sessionName(name string) bool {
	n := strings.ToLower(name)
	if csrfName(n) {
		return false
	}
	for _, w := range []string{"sess", "sid", "auth", "token", "jwt", "login", "remember", "identity", ".aspnetcore.cookies", ".aspxauth", "jsessionid"} {
		if strings.Contains(n, w) {
			return true
		}
	}
	return false
}

// csrfName says that a cookie of this name belongs to a protection against forged requests.
func csrfName(name string) bool {
	n := strings.ToLower(name)
	return strings.Contains(n, "csrf") || strings.Contains(n, "xsrf") || strings.Contains(n, "antiforgery") || strings.HasPrefix(n, "__requestverificationtoken")
}

// setCookie reads a Set-Cookie field (RFC 6265bis §5.6).
func setCookie(text string, from *url.URL, at time.Time) (k kept, ok bool) {
	if len(text) > maxReadValue {
		return k, false
	}
	parts := strings.Split(text, ";")
	name, value, eq := strings.Cut(strings.TrimSpace(parts[0]), "=")
	if !eq || name == "" || from == nil {
		return k, false
	}
	k = kept{name: name, value: strings.Trim(value, `"`), from: from, hostOnly: true, domain: strings.ToLower(from.Hostname()), path: "/"}
	if i := strings.LastIndexByte(from.Path, '/'); i > 0 {
		k.path = from.Path[:i]
	}
	aged := false
	for _, part := range parts[1:min(len(parts), 24)] {
		attr, v, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch strings.ToLower(attr) {
		case "domain":
			if v = strings.ToLower(strings.TrimPrefix(strings.TrimSpace(v), ".")); v != "" {
				k.domain, k.hostOnly = v, false
			}
		case "path":
			if strings.HasPrefix(v, "/") {
				k.path = v
			}
		case "secure":
			k.secure = true
		case "samesite":
			k.sameSite = strings.ToLower(strings.TrimSpace(v))
		case "max-age":
			if n, err := strconv.Atoi(strings.TrimSpace(v)); err == nil {
				aged, k.gone = true, n <= 0
				k.expires = at.Add(time.Duration(min(max(n, 0), 1<<30)) * time.Second)
			}
		case "expires":
			if t, err := http.ParseTime(strings.ReplaceAll(strings.TrimSpace(v), "-", " ")); err == nil && !aged {
				k.expires, k.gone = t, t.Before(at.Add(-time.Minute)) || t.Year() <= 1971
			}
		}
	}
	local := from.Hostname() == "localhost" || strings.HasSuffix(from.Hostname(), ".localhost") || strings.HasPrefix(from.Hostname(), "127.")
	switch {
	case k.secure && from.Scheme == "http" && !local:
		k.refused = "it is marked Secure and was set over http"
	case k.sameSite == "none" && !k.secure:
		k.refused = "it says SameSite=None without Secure"
	case !k.hostOnly && !underDomain(strings.ToLower(from.Hostname()), k.domain):
		k.refused = "its Domain is not that of the host that set it"
	case strings.HasPrefix(name, "__Secure-") && !k.secure, strings.HasPrefix(name, "__Host-") && (!k.secure || !k.hostOnly || k.path != "/"):
		k.refused = "it lacks what its name prefix demands"
	}
	return k, true
}

// underDomain is the domain match of RFC 6265 §5.1.3.
func underDomain(host, domain string) bool {
	return host == domain || strings.HasSuffix(host, "."+domain) && !isAddress(host)
}

// pathMatches is the path match of RFC 6265 §5.1.4.
func pathMatches(request, cookie string) bool {
	if request == "" {
		request = "/"
	}
	return request == cookie || strings.HasPrefix(request, cookie) && (strings.HasSuffix(cookie, "/") || request[len(cookie)] == '/')
}

// crossSite says that the request comes from a page of another site, as far as its fields tell.
func (r *reading) crossSite() bool {
	switch strings.ToLower(r.req.Header.Value("Sec-Fetch-Site")) {
	case "cross-site":
		return true
	case "same-origin", "same-site", "none":
		return false
	}
	o, err := url.Parse(r.req.Header.Value("Origin"))
	return err == nil && o.Host != "" && site(o.Hostname()) != site(r.host)
}

// cookies holds cookies that earlier answers set against those that were sent.
func (r *reading) cookies() {
	if r.url == nil || !r.maybe(302, 303, 307, 400, 401, 403, 419, 422) || !r.jar {
		return
	}
	jar := map[string]kept{}
	for _, s := range r.siblings(true) {
		for i, v := range s.Answer.Header.Values("Set-Cookie") {
			if i == 50 || len(jar) > maxReadItems {
				break
			}
			if k, ok := setCookie(r.c.Vault.Reveal(v), s.url, r.timeOf(s.Exchange)); ok {
				if old, has := jar[k.name]; !has || old.domain == k.domain || k.refused == "" && old.refused != "" {
					jar[k.name] = k
				}
			}
		}
	}
	for _, name := range sortedKeys(jar) {
		r.notSent(jar[name])
	}
	r.cookiesEnded()
	if !r.whole || len(r.sent) > 0 {
		return
	}
	origin := r.req.Header.Value("Origin")
	if o, err := url.Parse(origin); err == nil && o.Host != "" && !strings.EqualFold(o.Host, r.url.Host) && r.auth == "" && r.in(401, 403) {
		for _, s := range r.siblings(false) {
			if r.sameHost(s) && s.passed && s.Request.Header.Has("Cookie") && s.Request.Method != "OPTIONS" {
				r.say(FromChain, "session-cookie-not-sent", Strong, "Other requests of the recording to this host carry cookies and pass; this one, from a page of "+shown(o.Host)+", carries none: fetch needs credentials: 'include'.", "origin", origin)
				return
			}
		}
	}
}

func sortedKeys(m map[string]kept) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	// Few; the order only has to be the same each time.
	for i := 1; i < len(keys); i++ {
		for j := i; j > 0 && keys[j] < keys[j-1]; j-- {
			keys[j], keys[j-1] = keys[j-1], keys[j]
		}
	}
	return keys
}

// notSent says why a cookie of a session did not come along.
func (r *reading) notSent(k kept) {
	cause := "session-cookie-not-sent"
	switch {
	case csrfName(k.name):
		if cause = "csrf-cookie-missing"; !mayChange(r.req.Method) {
			return
		}
	case !sessionName(k.name):
		return
	}
	if _, sent := r.cookie(k.name); sent || !r.whole {
		return
	}
	host, related := r.url.Hostname(), site(k.from.Hostname()) == site(r.host)
	if !related || r.auth != "" && r.in(400, 422) {
		return
	}
	say := func(cause string, weight float64, why string) {
		r.say(FromChain, cause, weight, fmt.Sprintf("The cookie %s, set before, was not sent: %s.", shown(k.name), why), "cookie", k.name)
	}
	switch {
	case k.refused != "":
		say(cause, Strong, "browsers do not keep it, for "+k.refused)
	case k.gone && cause != "csrf-cookie-missing":
		say("session-expired", Strong, "an earlier answer deleted it")
	case !k.expires.IsZero() && k.expires.Before(r.when) && cause != "csrf-cookie-missing":
		say("session-expired", Strong, "it ended at "+clockTime(k.expires))
	case k.secure && r.url.Scheme == "http" && host != "localhost":
		say(cause, Strong, "it is marked Secure and the URL is http")
	case k.hostOnly && !strings.EqualFold(host, k.domain):
		say(cause, Strong, fmt.Sprintf("it belongs to the host %s alone, and %s was asked", shown(k.domain), shown(host)))
	case !k.hostOnly && !underDomain(strings.ToLower(host), k.domain):
		say(cause, Strong, fmt.Sprintf("its Domain is %s, and %s was asked", shown(k.domain), shown(host)))
	case !pathMatches(r.url.Path, k.path):
		say(cause, Strong, fmt.Sprintf("its Path is %s", shown(k.path)))
	case r.crossSite() && k.sameSite == "strict":
		say(cause, Strong, "it is SameSite=Strict and the request comes from another site")
	case r.crossSite() && k.sameSite == "lax" && (mayChange(r.req.Method) || notNavigation(r.req)):
		say(cause, Strong, "it is SameSite=Lax and the request from another site is no plain navigation")
	case r.crossSite() && k.sameSite == "" && (mayChange(r.req.Method) || notNavigation(r.req)):
		say(cause, 2.2, "it has no SameSite, which browsers take as Lax, and the request comes from another site")
	case r.c.Source == "har" && len(r.sent) > 0:
		say(cause, Fair, "the recording does not show why")
	}
}

func notNavigation(req *Request) bool {
	mode := req.Header.Value("Sec-Fetch-Mode")
	return mode != "" && mode != "navigate" || strings.EqualFold(req.Header.Value("Sec-Fetch-Dest"), "iframe")
}

// cookiesEnded finds the answer that deletes the session it was sent.
func (r *reading) cookiesEnded() {
	if !r.in(401, 403, 419) {
		return
	}
	for i, v := range r.ans.Header.Values("Set-Cookie") {
		if i == 50 {
			return
		}
		k, ok := setCookie(r.c.Vault.Reveal(v), r.url, r.when)
		if !ok || !k.gone || !sessionName(k.name) {
			continue
		}
		if _, sent := r.cookie(k.name); sent {
			r.say(FromAnswer, "session-expired", Strong, fmt.Sprintf("The answer deletes the session cookie %s that was sent: the server does not know that session any more.", shown(k.name)), "cookie", k.name)
			return
		}
	}
}
