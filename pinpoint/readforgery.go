package pinpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// forgeryScheme is how a framework names its protection against forged requests. The names are those of
// the frameworks' documentation.
type forgeryScheme struct {
	product string
	cookies []string // names that show this framework
	fields  []string
	headers []string
}

var forgerySchemes = []forgeryScheme{
	{"django", []string{"csrftoken"}, []string{"csrfmiddlewaretoken"}, []string{"X-CSRFToken"}},
	{"laravel", []string{"laravel_session"}, []string{"_token"}, []string{"X-CSRF-TOKEN", "X-XSRF-TOKEN"}},
	{"rails", nil, []string{"authenticity_token"}, []string{"X-CSRF-Token"}},
	{"flask-wtf", nil, []string{"csrf_token"}, []string{"X-CSRFToken", "X-CSRF-Token"}},
	{"aspnet-core", []string{".AspNetCore.Antiforgery."}, []string{"__RequestVerificationToken"}, []string{"RequestVerificationToken"}},
	{"spring-security", []string{"XSRF-TOKEN"}, []string{"_csrf"}, []string{"X-CSRF-TOKEN", "X-XSRF-TOKEN"}},
	{"express", []string{"_csrf"}, []string{"_csrf"}, []string{"CSRF-Token", "XSRF-Token", "X-CSRF-Token", "X-XSRF-Token"}},
	{"gorilla-csrf", []string{"_gorilla_csrf"}, []string{"gorilla.csrf.Token"}, []string{"X-CSRF-Token"}},
	{"phoenix", nil, []string{"_csrf_token"}, []string{"X-CSRF-Token"}},
	{"wordpress", nil, []string{"_wpnonce"}, []string{"X-WP-Nonce"}},
	{"jenkins", nil, []string{"Jenkins-Crumb"}, []string{"Jenkins-Crumb"}},
	{"", nil, []string{"csrf", "csrfToken", "_csrfToken", "form_token", "form[_token]"}, []string{"X-CSRF-Token", "X-XSRF-TOKEN"}},
}

var (
	inputTag  = regexp.MustCompile(`(?i)<(?:input|meta)\b[^>]*>`)
	attribute = regexp.MustCompile(`(?is)\b(name|value|content)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))`)
)

// forgeryField says that a form field carries a token against forged requests.
func forgeryField(name string) (forgeryScheme, bool) {
	for _, s := range forgerySchemes {
		for _, f := range s.fields {
			if strings.EqualFold(f, name) {
				return s, true
			}
		}
	}
	return forgeryScheme{}, false
}

// tokenOnPage finds the token that a page hands out, in a hidden input or a meta element.
func tokenOnPage(body []byte) (field, value string) {
	body = body[:min(len(body), MaxBody)]
	for _, tag := range inputTag.FindAll(body, 500) {
		var name, v string
		for _, m := range attribute.FindAllSubmatch(tag, 12) {
			text := html.UnescapeString(string(m[2]) + string(m[3]) + string(m[4]))
			if strings.EqualFold(string(m[1]), "name") {
				name = text
			} else {
				v = text
			}
		}
		if _, ok := forgeryField(name); ok && v != "" {
			return name, v
		}
		if strings.EqualFold(name, "csrf-token") && v != "" {
			field, value = name, v
		}
	}
	return field, value
}

// form is the fields of the request's body: urlencoded, multipart or the top of a JSON object.
func (r *reading) form() []pair {
	if r.formRead {
		return r.formSent
	}
	r.formRead = true
	body := r.body()
	kind := mediaType(r.req.Header.Value("Content-Type"))
	switch {
	case len(body) == 0:
	case kind == "application/json" || strings.HasSuffix(kind, "+json"):
		var m map[string]json.RawMessage
		if json.Unmarshal(body, &m) == nil {
			for k, v := range m {
				var s string
				if json.Unmarshal(v, &s) == nil && len(r.formSent) < maxReadItems {
					r.formSent = append(r.formSent, pair{k, s})
				}
			}
		}
	case kind == "multipart/form-data":
		for _, part := range bytes.Split(body, []byte("name=\""))[1:] {
			if len(r.formSent) == maxReadItems {
				break
			}
			name, rest, ok := bytes.Cut(part, []byte{'"'})
			_, value, sep := bytes.Cut(rest, []byte("\r\n\r\n"))
			if i := bytes.Index(value, []byte("\r\n--")); ok && sep && i >= 0 && len(name) < 200 {
				r.formSent = append(r.formSent, pair{string(name), string(value[:min(i, 4096)])})
			}
		}
	case kind == "application/x-www-form-urlencoded" || kind == "":
		r.formSent = pairsOfQuery(string(body[:min(len(body), maxReadURL)]))
	}
	return r.formSent
}

// forgery looks for faults of tokens against forged requests, and of Origin and Referer.
func (r *reading) forgery() {
	if r.url == nil || !mayChange(r.req.Method) || !r.in(400, 403, 419, 422) {
		return
	}
	if low := strings.ToLower(r.auth); strings.HasPrefix(low, "bearer ") || strings.HasPrefix(low, "aws4-") || strings.HasPrefix(low, "dpop ") {
		return // such requests are not sent by browsers on their own
	}
	field, handed, page := "", "", (*Exchange)(nil)
	before := r.siblings(true)
	for _, s := range slices.Backward(before) {
		if r.sameHost(s) && s.passed && s.Answer.Status == 200 && strings.Contains(strings.ToLower(s.Answer.Header.Value("Content-Type")), "html") {
			if field, handed = tokenOnPage(s.Answer.Body); field != "" {
				page = s.Exchange
				break
			}
		}
	}
	token, where := r.forgeryToken()
	r.forgeryOrigin(token != "" || page != nil)
	cut := false
	for _, g := range r.c.Gaps {
		cut = cut || g.Kind == "body-cut" || g.Kind == "file-not-read" || g.Kind == "sanitized"
	}
	switch {
	case page != nil && token == "":
		if cut || !r.whole {
			return
		}
		r.say(FromChain, "csrf-token-missing", Strong, fmt.Sprintf("The page before hands out a token in %s; this %s sends none, neither in the body nor in a header.", shown(field), shown(r.req.Method)), "field", field)
	case page != nil && token != "":
		revealed := r.c.Vault.Reveal(handed)
		if stillSealed(token) == stillSealed(revealed) && revealed != token && field != "csrf-token" && !strings.HasPrefix(where, "the header") && !sameDjango(revealed, token) {
			r.say(FromChain, "csrf-token-invalid", Strong, fmt.Sprintf("The token in %s is not the one that the page before handed out.", shown(where)), "field", field)
		}
	case token == "" && r.whole && !cut && r.jar:
		r.forgeryNone()
	}
	r.forgeryPair(token, where)
}

// forgeryToken is the token that was sent, and where.
func (r *reading) forgeryToken() (token, where string) {
	for _, p := range r.form() {
		if s, ok := forgeryField(p.name); ok && (s.product != "" || p.value != "") {
			return p.value, p.name
		}
	}
	for _, s := range forgerySchemes {
		for _, h := range s.headers {
			if v := r.value(h); v != "" {
				return v, "the header " + h
			}
		}
	}
	for _, p := range r.query {
		if _, ok := forgeryField(p.name); ok {
			return p.value, "the parameter " + p.name
		}
	}
	return "", ""
}

// forgeryNone says that a framework known by its cookie got no token.
func (r *reading) forgeryNone() {
	for _, s := range forgerySchemes {
		for _, c := range s.cookies {
			has := slices.ContainsFunc(r.sent, func(p pair) bool {
				return strings.EqualFold(p.name, c) || strings.HasSuffix(c, ".") && strings.HasPrefix(p.name, c)
			})
			if !has {
				continue
			}
			weight := 2.2
			if r.status == 419 || r.status == 403 && s.product == "django" {
				weight = Strong
			}
			r.say(FromRequest, "csrf-token-missing", weight, fmt.Sprintf("The cookie %s shows a protection against forged requests (%s); the request sends no token, neither as %s nor in %s.",
				strings.TrimSuffix(c, "."), s.product, s.fields[0], s.headers[0]), "field", s.fields[0], "header", s.headers[0])
			return
		}
	}
	if r.status == 419 {
		r.say(FromRequest, "csrf-token-missing", 2.2, "419 is Laravel's answer to a token fault, and the request sends no token.", "field", "_token", "header", "X-CSRF-TOKEN")
	}
}

// forgeryPair compares a token with the cookie that it has to match.
func (r *reading) forgeryPair(token, where string) {
	if token == "" || !r.jar {
		return
	}
	if c, ok := r.cookie("csrftoken"); ok && (strings.EqualFold(where, "csrfmiddlewaretoken") || where == "the header X-CSRFToken") {
		if !stillSealed(c) && !stillSealed(token) && !sameDjango(c, token) {
			r.say(FromRequest, "csrf-token-invalid", Strong, "The token in "+where+" does not belong to the cookie csrftoken.", "field", where)
		}
	} else if !ok && strings.EqualFold(where, "csrfmiddlewaretoken") && r.whole {
		if s, has := r.cookie("sessionid"); !has || s == "" {
			r.say(FromRequest, "csrf-cookie-missing", Strong, "The form's token was sent; the cookie csrftoken that belongs to it was not.", "cookie", "csrftoken")
		} else {
			r.say(FromRequest, "csrf-cookie-missing", Fair, "The form's token was sent without the cookie csrftoken.", "cookie", "csrftoken")
		}
	}
	if strings.EqualFold(where, "the header X-XSRF-TOKEN") {
		c, ok := r.cookie("XSRF-TOKEN")
		switch {
		case ok && !stillSealed(c) && !stillSealed(token) && unescaped(c) != unescaped(token):
			r.say(FromRequest, "csrf-token-invalid", Strong, "X-XSRF-TOKEN differs from the cookie XSRF-TOKEN that it has to repeat.", "header", "X-XSRF-TOKEN")
		case !ok && r.whole:
			r.say(FromRequest, "csrf-cookie-missing", 2.2, "X-XSRF-TOKEN was sent without the cookie XSRF-TOKEN that it has to repeat.", "cookie", "XSRF-TOKEN")
		}
	}
	if strings.HasPrefix(where, "the header") || r.status != 403 && r.status != 400 || !r.whole {
		return
	}
	if r.url.Scheme == "https" && strings.EqualFold(where, "csrfmiddlewaretoken") && !r.req.Header.Has("Origin") && !r.req.Header.Has("Referer") {
		r.say(FromRequest, "csrf-referer-missing", Strong, "The form was sent over https with neither Origin nor Referer; Django then refuses it.", "header", "Referer")
	}
}

// sameDjango says that two tokens of Django stand for the same secret: a masked token is a mask of 32
// characters followed by the secret shifted by it (Django: csrf.py, facts of its documentation).
func sameDjango(a, b string) bool { return a == b || unmasked(a) == unmasked(b) && unmasked(a) != "" }

func unmasked(token string) string {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	if len(token) == 32 {
		return token
	}
	if len(token) != 64 {
		return ""
	}
	var b strings.Builder
	for i := range 32 {
		m, c := strings.IndexByte(letters, token[i]), strings.IndexByte(letters, token[32+i])
		if m < 0 || c < 0 {
			return ""
		}
		b.WriteByte(letters[(c-m+len(letters))%len(letters)])
	}
	return b.String()
}

// forgeryOrigin compares Origin and Referer with the host that was asked.
func (r *reading) forgeryOrigin(protected bool) {
	if r.ans.Header.Has("Access-Control-Allow-Origin") || r.status == 422 && !protected {
		return
	}
	weight := Hint
	if protected || slices.ContainsFunc(r.sent, func(p pair) bool { return csrfName(p.name) || sessionName(p.name) }) {
		weight = Fair
	}
	origin := r.req.Header.Value("Origin")
	switch o, err := url.Parse(origin); {
	case origin == "":
		ref, err := url.Parse(r.c.Vault.Reveal(r.req.Header.Value("Referer")))
		if err == nil && ref.Host != "" && r.url.Scheme == "https" && !strings.EqualFold(ref.Hostname(), r.host) && protected {
			r.say(FromRequest, "csrf-origin-untrusted", Fair, fmt.Sprintf("Referer names the host %s; %s was asked.", shown(ref.Host), shown(r.host)), "origin", ref.Scheme+"://"+ref.Host)
		}
	case origin == "null":
		r.say(FromRequest, "csrf-origin-untrusted", weight, "Origin is null: the form comes from a sandboxed frame, a file, or through a redirect to another host.", "origin", "null")
	case err == nil && o.Host != "" && !strings.EqualFold(o.Host, r.req.Host()) && !strings.EqualFold(o.Hostname(), r.host):
		r.say(FromRequest, "csrf-origin-untrusted", weight, fmt.Sprintf("The page is of %s and the request goes to %s.", shown(origin), shown(r.req.Host())), "origin", origin)
	case err == nil && o.Host != "" && (o.Scheme != r.url.Scheme || o.Port() != r.url.Port()) && strings.EqualFold(o.Hostname(), r.host):
		r.say(FromRequest, "csrf-origin-untrusted", weight, fmt.Sprintf("Origin is %s, the URL %s://%s: scheme or port differ.", shown(origin), r.url.Scheme, shown(r.url.Host)), "origin", origin)
	}
}
