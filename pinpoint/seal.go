package pinpoint

import (
	"encoding/base64"
	"html"
	"maps"
	"mime"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Seal takes the secrets out of a case, on entry, before anything is printed, stored or concluded. Each
// becomes a placeholder of the case's Vault; Vault.Reveal gives back what was written, byte for byte.
//
// Hidden are credentials in header fields (the scheme of Authorization and the names of cookies stay),
// query parameters, fields of forms and JSON whose names say that they are secrets, JSON Web Tokens and
// keys of well-known shapes anywhere, and every such value where it comes back in other texts: servers
// echo. JSON numbers stay, because a placeholder there would make the text something else than JSON.
// A case that was sealed before stays as it is.
func Seal(c *Case) {
	if c == nil {
		return
	}
	s := &sealer{fresh: c.Vault == nil}
	if c.Vault == nil {
		c.Vault = NewVault()
	}
	s.vault = c.Vault
	// Names and shapes first, so that all secrets are known when the texts are searched for them.
	for i := range c.Exchanges {
		x := &c.Exchanges[i]
		if x.Request != nil {
			r := x.Request.Clone()
			s.request(r)
			x.Request = r
		}
		if x.Answer != nil {
			a := *x.Answer
			a.Header = slices.Clone(a.Header)
			s.answer(&a)
			x.Answer = &a
		}
	}
	c.Swap = slices.Clone(c.Swap)
	s.header(c.Swap, false)
	if c.Line != nil {
		l := *c.Line
		s.line(&l)
		c.Line = &l
	}
	gaps := slices.Clone(c.Gaps)
	for i := range gaps {
		gaps[i].Says = s.exact(gaps[i].Says, s.shapes(s.escape(gaps[i].Says)))
	}
	c.Gaps = gaps

	s.again(c)
}

// again looks for the secrets that are known now where their names do not give them away.
func (s *sealer) again(c *Case) {
	forms := s.vault.finder()
	text := func(p *string) { *p = s.redact(*p, forms) }
	header := func(h Header) {
		for i := range h {
			text(&h[i].Value)
		}
	}
	body := func(p *[]byte) {
		if len(*p) > 0 {
			*p = []byte(s.redact(string(*p), forms))
		}
	}
	for _, x := range c.Exchanges {
		if r := x.Request; r != nil {
			host := hostEnd(r.URL) // the host stays: it is where the request goes
			r.URL = r.URL[:host] + s.redact(r.URL[host:], forms)
			header(r.Header)
			body(&r.Body)
		}
		if a := x.Answer; a != nil {
			header(a.Header)
			body(&a.Body)
			text(&a.Err)
		}
	}
	header(c.Swap)
	if l := c.Line; l != nil {
		text(&l.Path)
		for k, v := range l.Fields {
			l.Fields[k] = s.redact(v, forms)
		}
	}
	for i := range c.Gaps {
		text(&c.Gaps[i].Says)
	}
}

// hostEnd is where the path of a URL begins.
func hostEnd(u string) int {
	i := strings.Index(u, "://")
	if i < 0 {
		return 0
	}
	i += 3
	if n := strings.IndexAny(u[i:], "/?#"); n >= 0 {
		return i + n
	}
	return len(u)
}

// Redact replaces what is secret in a text that comes from elsewhere: an answer, a log, an error. Secrets
// of the vault are found as they are and in the escapes of URLs, JSON and HTML; tokens by their shape.
// Short values and plain words are not searched for: they would hit what is no secret.
func (v *Vault) Redact(text string) string {
	if v == nil || text == "" {
		return text
	}
	s := &sealer{vault: v}
	return s.redact(s.shapes(text), v.finder())
}

// finder finds the secrets of a vault in texts, in one pass: a recording may hold tens of thousands of them.
type finder struct {
	forms  []string // the ways in which secrets may come back, sorted
	parent []int32  // the longest other form that a form begins with, -1 for none
	starts [1 << 16]bool
	of     int // how many secrets the vault had
}

// finder is made anew when the vault has more secrets.
func (v *Vault) finder() *finder {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.find != nil && v.find.of == len(v.values) {
		return v.find
	}
	f := &finder{of: len(v.values)}
	set := map[string]bool{}
	for _, secret := range v.values {
		if !tellingName(secret) {
			continue
		}
		set[secret] = true
		set[url.QueryEscape(secret)] = true
		set[url.PathEscape(secret)] = true
		set[html.EscapeString(secret)] = true
		set[strings.ReplaceAll(secret, "/", `\/`)] = true
		set[jsonEscapes.Replace(secret)] = true
	}
	f.forms = slices.Sorted(maps.Keys(set))
	f.parent = make([]int32, len(f.forms))
	for i, form := range f.forms {
		f.starts[int(form[0])<<8|int(form[1])] = true
		p := int32(i - 1)
		for p >= 0 && !strings.HasPrefix(form, f.forms[p]) {
			p = f.parent[p]
		}
		f.parent[i] = p
	}
	v.find = f
	return f
}

// at is the longest form that a text begins with, "" for none.
func (f *finder) at(text string) string {
	if len(text) < 2 || !f.starts[int(text[0])<<8|int(text[1])] {
		return ""
	}
	// What the text begins with is not behind it in the order, and is, or begins, the last one that is not.
	i, same := slices.BinarySearch(f.forms, text)
	if same {
		return f.forms[i]
	}
	p := int32(i - 1)
	for p >= 0 && !strings.HasPrefix(text, f.forms[p]) {
		p = f.parent[p]
	}
	if p < 0 {
		return ""
	}
	return f.forms[p]
}

var jsonEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (s *sealer) redact(text string, f *finder) string {
	found := false
	out := outside(text, func(part string) string {
		var b strings.Builder
		last := 0
		for i := 0; i < len(part); {
			form := f.at(part[i:])
			if form == "" {
				i++
				continue
			}
			b.WriteString(part[last:i])
			b.WriteString(s.vault.Hide(form))
			i += len(form)
			last, found = i, true
		}
		if last == 0 {
			return part
		}
		b.WriteString(part[last:])
		return b.String()
	})
	if found && s.vault.Reveal(out) != s.vault.Reveal(text) { // it imitates placeholders
		return text
	}
	return out
}

// tellingName says that a value is hardly ever found by chance: paths, hosts and words are.
func tellingName(s string) bool {
	if len(s) < 6 || strings.Contains(s, opening) || strings.HasPrefix(s, "http") {
		return false
	}
	letter, digit := lettersDigits(s)
	switch {
	case len(s) < 24 && strings.ContainsAny(s, "/."):
		return len(s) >= 16 && letter && digit && strings.ContainsAny(s, "+=ABCDEFGHIJKLMNOPQRSTUVWXYZ")
	case letter && digit:
		return true
	}
	return letter && len(s) >= 12 || digit && len(s) >= 12
}

// opaque says that a value of an answer is one for machines: words such as invalid_token are evidence.
func opaque(s string) bool {
	letter, digit := lettersDigits(s)
	return len(s) >= 8 && letter && digit && !strings.ContainsAny(s, " \t\r\n")
}

func lettersDigits(s string) (letter, digit bool) {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			digit = true
		case c|0x20 >= 'a' && c|0x20 <= 'z':
			letter = true
		}
	}
	return letter, digit
}

// placeholder is the shape of what Vault.Hide returns.
var placeholder = regexp.MustCompile(opening + `[0-9a-f]{8} len=[0-9]{1,10}` + closing)

// outside applies fn to the parts of a text between placeholders.
func outside(text string, fn func(string) string) string {
	if !strings.Contains(text, opening) {
		return fn(text)
	}
	var b strings.Builder
	last := 0
	for _, m := range placeholder.FindAllStringIndex(text, -1) {
		b.WriteString(fn(text[last:m[0]]))
		b.WriteString(text[m[0]:m[1]])
		last = m[1]
	}
	b.WriteString(fn(text[last:]))
	return b.String()
}

// sealer hides what belongs to one case.
type sealer struct {
	vault *Vault
	fresh bool // no placeholder of this vault can be in the texts yet
}

// hide replaces a value, unless placeholders are all there is to it.
func (s *sealer) hide(value string) string {
	return outside(value, s.vault.Hide)
}

// exact checks that a sealed text gives back what was written. Texts that imitate placeholders may not:
// they are hidden whole. A text that was sealed before stays as it is then.
func (s *sealer) exact(original, sealed string) string {
	if !s.fresh {
		if s.vault.Reveal(sealed) != s.vault.Reveal(original) {
			return original
		}
		return sealed
	}
	if s.vault.Reveal(sealed) == original {
		return sealed
	}
	if whole := s.vault.Hide(original); whole != original {
		return whole
	}
	return s.vault.Hide(opening) + s.vault.Hide(original[len(opening):]) // Hide takes it for a placeholder
}

// escape makes sure that what looks like the beginning of a placeholder comes from the vault.
func (s *sealer) escape(text string) string {
	if !s.fresh || !strings.Contains(text, opening) {
		return text
	}
	return strings.ReplaceAll(text, opening, s.vault.Hide(opening))
}

// The shapes of secrets: JSON Web Tokens (RFC 7519), private keys, and keys of vendors that document
// their prefixes.
var tokenShapes = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*){0,2}` +
	`|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[A-Za-z0-9+/=\s\\]*-----END [A-Z ]{0,30}PRIVATE KEY-----` +
	`|\b(?:gh[opsur]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{40,}|glpat-[A-Za-z0-9_-]{20,}|xox[abeprs]-[A-Za-z0-9-]{10,}|[sr]k_(?:live|test)_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{20,}|AIza[A-Za-z0-9_-]{35})`)

// marks stand in every such secret; looking for them is quick.
var marks = []string{"eyJ", "PRIVATE KEY", "gho_", "ghp_", "ghs_", "ghu_", "ghr_", "github_pat_", "glpat-", "xox", "k_live_", "k_test_", "sk-", "AIza"}

func (s *sealer) shapes(text string) string {
	if !slices.ContainsFunc(marks, func(m string) bool { return strings.Contains(text, m) }) {
		return text
	}
	return outside(text, func(part string) string {
		return tokenShapes.ReplaceAllStringFunc(part, s.vault.Hide)
	})
}

// secretWords make a name secret wherever they occur in it, secretNames when they are a word of it.
var (
	secretWords = []string{"token", "secret", "passw", "session", "signature", "assertion", "apikey", "api_key", "api-key", "csrf", "xsrf", "credential", "accesskey", "privatekey"}
	secretNames = []string{"pwd", "pass", "passphrase", "sid", "sig", "jwt", "otp", "totp", "pin", "auth", "authorization", "bearer", "cookie", "saml", "samlresponse", "samlrequest", "ticket", "nonce", "hmac"}
	// Only of requests: an answer names its errors so.
	requestNames = []string{"key", "code"}
	// Names that hold such a word and tell no secret.
	openNames = []string{"sec-websocket-key", "idempotency-key", "x-idempotency-key", "surrogate-key", "x-cache-key", "public-key", "publickey", "key-pair-id",
		"x-amz-signedheaders", "signature-input", "access-control-allow-credentials", "token_type", "tokentype", "token-type", "session_state", "error_code", "status_code",
		"country_code", "countrycode", "zip_code", "zipcode", "postal_code", "postalcode", "currency_code", "language_code", "x-amz-algorithm", "oauth_signature_method", "tokenexpiry", "sessiontimeout",
		"client_assertion_type", "requested_token_use", "requested_token_type", "subject_token_type", "actor_token_type", "signature_method", "signature_version", "signatureversion", "signaturemethod"}
)

// secretName judges the name of a field, a parameter or a member.
func secretName(name string, answer bool) bool {
	if len(name) > 200 {
		name = name[:200]
	}
	lower := strings.ToLower(name)
	if slices.Contains(openNames, lower) {
		return false
	}
	for _, w := range secretWords {
		if strings.Contains(lower, w) {
			return true
		}
	}
	for _, w := range nameWords(name) {
		if slices.Contains(secretNames, w) || !answer && slices.Contains(requestNames, w) {
			return true
		}
	}
	return false
}

// nameWords splits api_key, api-key, apiKey and user[password].
func nameWords(name string) (words []string) {
	var b strings.Builder
	end := func() {
		if b.Len() > 0 {
			words = append(words, strings.ToLower(b.String()))
			b.Reset()
		}
	}
	var before rune
	for _, r := range name {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			end()
		} else {
			if unicode.IsUpper(r) && unicode.IsLower(before) {
				end()
			}
			b.WriteRune(r)
		}
		before = r
	}
	end()
	return words
}

func (s *sealer) request(r *Request) {
	r.URL = s.exact(r.URL, s.url(s.escape(r.URL)))
	s.header(r.Header, false)
	if r.Body != nil {
		r.Body = []byte(s.exact(string(r.Body), s.body(s.escape(string(r.Body)), r.Header.Value("Content-Type"), false)))
	}
	r.Via.Proxy = s.exact(r.Via.Proxy, s.url(s.escape(r.Via.Proxy)))
}

func (s *sealer) answer(a *Answer) {
	s.header(a.Header, true)
	if a.Body != nil {
		a.Body = []byte(s.exact(string(a.Body), s.body(s.escape(string(a.Body)), a.Header.Value("Content-Type"), true)))
	}
	a.Err = s.exact(a.Err, s.shapes(s.escape(a.Err)))
}

func (s *sealer) line(l *LogLine) {
	l.Path = s.exact(l.Path, s.url(s.escape(l.Path)))
	fields := make(map[string]string, len(l.Fields))
	for k, original := range l.Fields {
		v := s.escape(original)
		last := k[strings.LastIndexByte(k, '.')+1:]
		if i := strings.IndexByte(last, '('); i >= 0 && strings.HasSuffix(last, ")") { // cs(Cookie)
			last = last[i+1 : len(last)-1]
		}
		switch lower := strings.ToLower(last); {
		case k == ErrorText: // masked as it was read
		case lower == "cookie" || lower == "http_cookie":
			v = s.cookies(v)
		case lower == "authorization" || lower == "http_authorization":
			v = s.authorization(v)
		case strings.Contains(lower, "cs-uri-query") || lower == "args" || lower == "query_string" || lower == "query":
			v = s.query(v)
		case strings.HasPrefix(lower, "request-cookie") || strings.HasPrefix(lower, "response-cookie") || lower == "captures":
			if v != "-" {
				v = s.hide(v)
			}
		case v != "-" && secretName(last, true) && !strings.HasPrefix(lower, "ssl"):
			v = s.hide(v)
		default:
			v = s.url(v)
		}
		fields[k] = s.exact(original, s.shapes(v))
	}
	l.Fields = fields
}

func (s *sealer) header(h Header, answer bool) {
	for i, f := range h {
		h[i].Value = s.exact(f.Value, s.shapes(s.field(f.Name, s.escape(f.Value), answer)))
	}
}

// field hides what is secret in one header field.
func (s *sealer) field(name, value string, answer bool) string {
	switch lower := strings.ToLower(name); lower {
	case "authorization", "proxy-authorization", "x-authorization", "x-forwarded-authorization", "x-original-authorization":
		return s.authorization(value)
	case "cookie":
		return s.cookies(value)
	case "set-cookie":
		return s.setCookie(value)
	case "location", "referer", "content-location", "x-original-url", "x-original-uri", "x-forwarded-uri", "link", "refresh", "origin", "destination":
		return s.shapes(s.url(value))
	case "www-authenticate", "proxy-authenticate", "authentication-info", "content-security-policy", "access-control-allow-headers",
		"access-control-request-headers", "access-control-expose-headers", "permissions-policy", "vary", "x-amz-signedheaders", "sec-websocket-key":
		return s.shapes(value) // they speak about credentials and hold none
	default:
		if secretName(name, answer) && (!answer || opaque(value)) {
			return s.hide(value)
		}
		return s.shapes(s.url(value))
	}
}

var (
	authScheme = regexp.MustCompile(`^(\s*)([A-Za-z][A-Za-z-]{1,20}(?:-HMAC-SHA(?:256|512))?|[A-Z]+[0-9]?-HMAC-SHA256)([ \t]+)(\S[\s\S]*)$`)
	authParam  = regexp.MustCompile(`([A-Za-z_]+)=("[^"]*"|[^\s,]+)`)
)

// authorization keeps the scheme; of schemes with parameters (AWS, Digest, OAuth, Hawk, HTTP signatures)
// it keeps the parameters that are no secret.
func (s *sealer) authorization(value string) string {
	m := authScheme.FindStringSubmatch(value)
	if m == nil {
		return s.hide(value)
	}
	head, rest := m[1]+m[2]+m[3], m[4]
	switch scheme := strings.ToLower(m[2]); {
	case strings.HasPrefix(scheme, "aws4-"), scheme == "digest", scheme == "hawk", scheme == "oauth", scheme == "signature", scheme == "mac",
		strings.HasSuffix(scheme, "-hmac-sha256"), scheme == "sharedaccesssignature":
		if !authParam.MatchString(rest) {
			return head + s.hide(rest)
		}
		return head + outside(rest, func(part string) string {
			return authParam.ReplaceAllStringFunc(part, func(p string) string {
				k, v, _ := strings.Cut(p, "=")
				open, end := "", ""
				if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
					open, v, end = `"`, v[1:len(v)-1], `"`
				}
				switch strings.ToLower(k) {
				case "credential":
					return k + "=" + open + s.scope(v) + end
				case "realm", "uri", "qop", "algorithm", "nc", "opaque", "signedheaders", "headers", "created", "expires", "ts", "oauth_timestamp",
					"oauth_version", "oauth_signature_method", "keyid", "id", "stale", "se", "skn", "sr", "domain":
					return p
				}
				return k + "=" + open + s.hide(v) + end
			})
		})
	case scheme == "basic":
		if plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest)); err == nil && s.vault != nil {
			if _, pass, ok := strings.Cut(string(plain), ":"); ok { // what an echo would show
				s.vault.Hide(s.escape(pass))
				s.vault.Hide(s.escape(string(plain)))
			}
		}
	case scheme == "bearer" || scheme == "token":
		if again := authScheme.FindStringSubmatch(rest); again != nil && strings.EqualFold(again[2], m[2]) { // a scheme that was written twice is evidence
			return head + again[1] + again[2] + again[3] + s.hide(again[4])
		}
	}
	return head + s.hide(rest)
}

// scope keeps date, region and service of an AWS or Google credential: AKID/20240101/us-east-1/s3/aws4_request.
func (s *sealer) scope(v string) string {
	for _, mark := range []string{"/", "%2F", "%2f"} {
		if id, rest, ok := strings.Cut(v, mark); ok {
			return s.hide(id) + mark + rest
		}
	}
	return s.hide(v)
}

// cookies keeps the names of a Cookie field.
func (s *sealer) cookies(value string) string {
	if strings.Contains(value, opening) && !s.fresh { // sealed before: values hold no semicolon
		return value
	}
	parts := strings.Split(value, ";")
	for i, p := range parts {
		name, v, ok := strings.Cut(p, "=")
		if !ok {
			if t := strings.TrimSpace(p); t != "" && t != "-" {
				parts[i] = strings.Replace(p, t, s.hide(t), 1)
			}
			continue
		}
		lead := v[:len(v)-len(strings.TrimLeft(v, " \t"))]
		v = v[len(lead):]
		tail := v[len(strings.TrimRight(v, " \t")):]
		v = v[:len(v)-len(tail)]
		parts[i] = name + "=" + lead + s.hide(v) + tail
	}
	return strings.Join(parts, ";")
}

// setCookie keeps the name and the attributes.
func (s *sealer) setCookie(value string) string {
	first, attributes, more := strings.Cut(value, ";")
	name, v, ok := strings.Cut(first, "=")
	if !ok {
		name, v = "", first
	} else {
		name += "="
	}
	out := name + s.hide(v)
	if more {
		out += ";" + s.shapes(attributes)
	}
	return out
}

var userInfo = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]{0,20}://)([^/?#@\s"'<>]*:[^/?#\s"'<>]*)@`)

// url hides credentials, secret parameters and tokens in a text that is or holds a URL.
func (s *sealer) url(text string) string {
	if strings.Contains(text, "@") {
		text = outside(text, func(part string) string {
			return userInfo.ReplaceAllStringFunc(part, func(m string) string {
				i := strings.Index(m, "://") + 3
				return m[:i] + s.hide(m[i:len(m)-1]) + "@"
			})
		})
	}
	if i := strings.IndexByte(text, '?'); i >= 0 {
		query, fragment, has := strings.Cut(text[i+1:], "#")
		text = text[:i+1] + s.query(query)
		if has { // OAuth answers in the fragment (RFC 6749 section 4.2.2)
			text += "#" + s.query(fragment)
		}
	} else if before, fragment, ok := strings.Cut(text, "#"); ok && strings.Contains(fragment, "=") {
		text = before + "#" + s.query(fragment)
	}
	return s.shapes(text)
}

// query hides values of parameters; also that of a body of a form.
func (s *sealer) query(q string) string {
	if !strings.Contains(q, "=") {
		return q
	}
	var b strings.Builder
	b.Grow(len(q))
	for len(q) > 0 {
		end := strings.IndexAny(q, "&;")
		mark := ""
		pair := q
		if end >= 0 {
			pair, mark, q = q[:end], q[end:end+1], q[end+1:]
		} else {
			q = ""
		}
		name, value, ok := strings.Cut(pair, "=")
		plain := name
		if u, err := url.QueryUnescape(name); err == nil {
			plain = u
		}
		switch lower := strings.ToLower(plain); {
		case !ok || value == "":
			b.WriteString(pair)
		case lower == "x-amz-credential" || lower == "x-goog-credential":
			b.WriteString(name + "=" + s.scope(value))
		case secretName(plain, false):
			b.WriteString(name + "=" + s.hide(value))
			if u, err := url.QueryUnescape(value); err == nil && u != value && s.fresh { // what an echo would show
				s.vault.Hide(s.escape(u))
			}
		default:
			b.WriteString(pair)
		}
		b.WriteString(mark)
	}
	return b.String()
}

// body hides the fields of a body by its form: by media type, and by its first byte when that is silent.
func (s *sealer) body(text, contentType string, answer bool) string {
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		kind, _, _ = strings.Cut(strings.ToLower(contentType), ";")
	}
	first := strings.TrimLeft(text, " \t\r\n\ufeff")
	switch {
	case strings.HasPrefix(kind, "multipart/") && params["boundary"] != "":
		text = s.multipart(text, params["boundary"], answer)
	case strings.HasSuffix(kind, "json") || strings.HasPrefix(first, "{") || strings.HasPrefix(first, "["):
		text = s.json(text, answer)
	case strings.HasPrefix(first, "<"):
		text = s.markup(text, answer)
	case kind == "application/x-www-form-urlencoded" || kind == "" && !answer && strings.Contains(text, "="):
		text = s.query(text)
	}
	return s.shapes(text)
}

// json hides strings under secret names, with the text around them as it is. It reads tokens only, so
// that broken and cut JSON is sealed too.
func (s *sealer) json(text string, answer bool) string {
	var b strings.Builder
	b.Grow(len(text))
	type level struct{ array, secret bool }
	var stack []level
	key, keyed := "", false // the name that a value belongs to
	secretHere := func() bool {
		if len(stack) > 0 && stack[len(stack)-1].secret {
			return true
		}
		return keyed && secretName(key, answer)
	}
	for i := 0; i < len(text); {
		switch c := text[i]; c {
		case '"':
			end := i + 1
			for end < len(text) && text[end] != '"' {
				if text[end] == '\\' {
					end++
				}
				end++
			}
			end = min(end, len(text))
			inner := text[i+1 : end]
			after := strings.TrimLeft(text[min(end+1, len(text)):min(end+64, len(text))], " \t\r\n")
			isKey := !keyed && strings.HasPrefix(after, ":") && (len(stack) == 0 || !stack[len(stack)-1].array)
			b.WriteByte('"')
			if isKey {
				key = inner
				b.WriteString(inner)
			} else {
				if inner != "" && secretHere() && (!answer || opaque(inner)) {
					b.WriteString(s.hide(inner))
					if plain := unescapeJSON(inner); plain != inner && s.fresh {
						s.vault.Hide(s.escape(plain))
					}
				} else if strings.Contains(inner, "://") || strings.Contains(inner, "?") && strings.Contains(inner, "=") {
					b.WriteString(s.url(inner))
				} else {
					b.WriteString(inner)
				}
				keyed = false
			}
			if end < len(text) {
				b.WriteByte('"')
			}
			i = end + 1
			continue
		case ':':
			keyed = true
		case '{', '[':
			if len(stack) < 1000 {
				stack = append(stack, level{array: c == '[', secret: secretHere()})
			}
			keyed = false
		case '}', ']':
			if len(stack) > 0 {
				stack = stack[:len(stack)-1]
			}
			keyed = false
		case ',':
			keyed = false
		}
		b.WriteByte(text[i])
		i++
	}
	return b.String()
}

func unescapeJSON(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	return strings.NewReplacer(`\"`, `"`, `\\`, `\`, `\/`, `/`).Replace(s)
}

// multipart hides parts with secret names. A part with a file name is kept: it is content.
func (s *sealer) multipart(text, boundary string, answer bool) string {
	parts := strings.Split(text, "--"+boundary)
	for i, p := range parts {
		head, content, ok := strings.Cut(p, "\r\n\r\n")
		gap := "\r\n\r\n"
		if !ok {
			if head, content, ok = strings.Cut(p, "\n\n"); !ok {
				continue
			}
			gap = "\n\n"
		}
		m := partName.FindStringSubmatch(head)
		if m == nil || strings.Contains(strings.ToLower(head), "filename") {
			continue
		}
		value := strings.TrimRight(content, "\r\n")
		if tail := content[len(value):]; secretName(m[1]+m[2], answer) {
			parts[i] = head + gap + s.hide(value) + tail
		} else if strings.HasPrefix(strings.TrimSpace(value), "{") {
			parts[i] = head + gap + s.json(value, answer) + tail
		}
	}
	return strings.Join(parts, "--"+boundary)
}

var (
	partName = regexp.MustCompile(`(?i)[;\s]name=(?:"([^"]*)"|([^\s;"]+))`)
	element  = regexp.MustCompile(`<((?:[A-Za-z0-9_.-]{1,60}:)?([A-Za-z0-9_.-]{1,60}))(?:\s[^<>]*)?>([^<>]+)<`)
	formTag  = regexp.MustCompile(`(?i)<(?:input|meta)\b[^<>]*>`)
	attrName = regexp.MustCompile(`(?i)\sname\s*=\s*(?:"([^"]*)"|'([^']*)')`)
	attrText = regexp.MustCompile(`(?i)(\s(?:value|content)\s*=\s*)("[^"]*"|'[^']*')`)
)

// markup hides the text of XML elements and the values of HTML form fields with secret names.
func (s *sealer) markup(text string, answer bool) string {
	text = replaceGroup(text, element, 3, func(m []string) (string, bool) {
		// What is hidden is known to the vault from then on and found wherever it stands: only secrets are.
		if !secretName(m[2], answer) || strings.TrimSpace(m[3]) == "" || answer && !opaque(m[3]) {
			return "", false
		}
		return s.hide(m[3]), true
	})
	return outside(text, func(part string) string {
		return formTag.ReplaceAllStringFunc(part, func(tag string) string {
			n := attrName.FindStringSubmatch(tag)
			if n == nil || !secretName(n[1]+n[2], answer) {
				return tag
			}
			return attrText.ReplaceAllStringFunc(tag, func(a string) string {
				q := strings.IndexAny(a, `"'`)
				if v := a[q+1 : len(a)-1]; v != "" {
					return a[:q+1] + s.hide(v) + a[len(a)-1:]
				}
				return a
			})
		})
	})
}

// replaceGroup replaces one group of each match of a pattern whose matches may share their last byte.
func replaceGroup(text string, re *regexp.Regexp, group int, fn func(m []string) (string, bool)) string {
	var b strings.Builder
	for last := 0; ; {
		m := re.FindStringSubmatchIndex(text[last:])
		if m == nil {
			b.WriteString(text[last:])
			return b.String()
		}
		var groups []string
		for i := 0; i < len(m); i += 2 {
			if m[i] < 0 {
				groups = append(groups, "")
			} else {
				groups = append(groups, text[last+m[i]:last+m[i+1]])
			}
		}
		from, to := last+m[2*group], last+m[2*group+1]
		b.WriteString(text[last:from])
		if value, ok := fn(groups); ok {
			b.WriteString(value)
		} else {
			b.WriteString(text[from:to])
		}
		last = to
	}
}
