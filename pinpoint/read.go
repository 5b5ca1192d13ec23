package pinpoint

import (
	"bytes"
	"encoding/base64"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// decodeLocal is the operator that reading uses: what is at hand is decoded, nothing is sent.
const decodeLocal = "decode-local"

// Bounds of reading. What is longer is not decoded, only measured.
const (
	maxReadBefore = 200      // exchanges before the one asked about
	maxReadAfter  = 50       // and behind it
	maxReadValue  = 32 << 10 // bytes of a field, a token, a cookie
	maxReadBody   = 1 << 20  // bytes of a request's body that are parsed
	maxReadText   = 64 << 10 // bytes of an answer's body that are parsed
	maxReadItems  = 400      // fields, cookies, parameters of one message
	maxReadURL    = 64 << 10 // bytes of a URL that are taken apart
	maxClues      = 64       // clues of one case
)

// Read says what a sealed case tells by itself, without a request: tokens, signed links and cookies are
// decoded, the exchange is held against what preceded it and what the answer's fields mean. The clues come
// with the heaviest first. Secrets are decoded in place and appear in no clue. Zero for now is the present.
func Read(c *Case, now time.Time) []Clue {
	r := newReading(c, now)
	if r == nil {
		return nil
	}
	for _, part := range []func(*reading){
		(*reading).whygate, (*reading).challenge, (*reading).tokens, (*reading).authorization, (*reading).proof, (*reading).keys,
		(*reading).signature, (*reading).sharedAccess, (*reading).signedURL, (*reading).cookies, (*reading).forgery, (*reading).crossOrigin,
		(*reading).redirects, (*reading).prefix, (*reading).cached, (*reading).limits, (*reading).sizes, (*reading).content, (*reading).errors,
		(*reading).methods, (*reading).paths, (*reading).hosts, (*reading).handshake, (*reading).client, (*reading).clock, (*reading).early, (*reading).chain,
	} {
		part(r)
	}
	slices.SortStableFunc(r.clues, func(a, b Clue) int {
		switch {
		case a.Weight > b.Weight:
			return -1
		case a.Weight < b.Weight:
			return 1
		}
		return 0
	})
	if len(r.clues) > maxClues {
		r.clues = r.clues[:maxClues]
	}
	return r.clues
}

// reading is a case while it is read. Text that was revealed stays in here.
type reading struct {
	c      *Case
	now    time.Time
	near   []Exchange // the exchanges around the one asked about
	asked  int        // its index in near
	req    *Request   // never nil
	ans    *Answer    // never nil; empty when none is known
	status int        // 0: not known, or no answer came
	known  bool       // the status is known
	whole  bool       // the fields of the request are what was sent: what lacks was not sent
	jar    bool       // cookies and credentials are in the recording
	url    *url.URL   // revealed; nil when it cannot be taken apart
	path   string     // as it may be shown
	host   string     // without port, lower case
	when   time.Time  // of the refusal by the server's clock, as far as known
	dated  bool       // when is the server's own Date
	query  []pair     // revealed, unescaped
	sent   []pair     // cookies of the request, revealed
	auth   string     // Authorization, revealed
	asks   []challenge
	page   []byte // the body of the answer, revealed
	turned bool   // a redirect made another method of it
	clues  []Clue

	formRead bool
	formSent []pair
}

// pair is a name with its value.
type pair struct{ name, value string }

func newReading(c *Case, now time.Time) *reading {
	if c == nil || c.Exchange() == nil && c.Line == nil {
		return nil
	}
	if c.Exchange() == nil { // a line of a log without a URL
		whole := *c
		whole.Exchanges, whole.Asked = []Exchange{{}}, 0
		c = &whole
	}
	if now.IsZero() {
		now = time.Now()
	}
	r := &reading{c: c, now: now, req: &Request{}, ans: &Answer{}}
	from := max(c.Asked-maxReadBefore, 0)
	r.near = c.Exchanges[from:min(c.Asked+maxReadAfter+1, len(c.Exchanges))]
	r.asked = c.Asked - from
	ex := &r.near[r.asked]
	if ex.Request != nil {
		r.req = ex.Request
	}
	if ex.Answer != nil {
		r.ans = ex.Answer
		r.status, r.known = r.ans.Status, r.ans.Status > 0
	} else if c.Line != nil && c.Line.Status > 0 {
		r.status, r.known = c.Line.Status, true
	}
	r.page = r.ans.Body[:min(len(r.ans.Body), MaxBody)]
	if bytes.Contains(r.page, []byte(opening)) {
		r.page = []byte(c.Vault.Reveal(string(r.page)))
	}
	r.whole = ex.Request != nil && c.Source != "log" && len(r.req.Header) > 0
	r.jar = ex.Request != nil && c.Source != "log"
	for _, g := range c.Gaps {
		switch g.Kind {
		case "sanitized", "no-request", "variable", "provisional-headers":
			r.whole, r.jar = false, false
		case "script":
			if g.Blocks {
				r.whole, r.jar = false, false
			}
		}
	}
	if full := c.Vault.Reveal(r.req.URL); len(full) <= maxReadURL {
		r.url, _ = url.Parse(full)
	}
	if r.url != nil {
		r.query = pairsOfQuery(r.url.RawQuery)
		r.path = pathShown(r.req.URL)
	}
	r.host = strings.ToLower(hostOnly(c.Vault.Reveal(r.req.Host())))
	for _, v := range r.req.Header.Values("Cookie") {
		r.sent = append(r.sent, pairsOfCookie(c.Vault.Reveal(v), maxReadItems-len(r.sent))...)
	}
	r.auth = c.Vault.Reveal(r.req.Header.Value("Authorization"))
	if r.auth == "" && r.url != nil && r.url.User != nil {
		password, _ := r.url.User.Password()
		r.auth = "Basic " + base64.StdEncoding.EncodeToString([]byte(r.url.User.Username()+":"+password))
	}
	for _, v := range r.ans.Header.Values("WWW-Authenticate") {
		if len(v) <= maxReadValue && len(r.asks) < 16 {
			r.asks = append(r.asks, challengesOf(c.Vault.Reveal(v))...)
		}
	}
	r.when = r.timeOf(ex)
	if d, err := http.ParseTime(r.ans.Header.Value("Date")); err == nil {
		// A cached answer keeps the Date of its origin; Age tells how long ago that was (RFC 9111 §5.1).
		age, _ := strconv.Atoi(strings.TrimSpace(r.ans.Header.Value("Age")))
		r.when, r.dated = d.Add(time.Duration(min(max(age, 0), 1<<30))*time.Second), true
	}
	return r
}

// timeOf is when an exchange ended, by the clock of whoever recorded it.
func (r *reading) timeOf(ex *Exchange) time.Time {
	switch {
	case ex.Answer != nil && !ex.Answer.At.IsZero():
		return ex.Answer.At
	case !ex.At.IsZero():
		return ex.At
	case r.c.Line != nil && !r.c.Line.At.IsZero():
		return r.c.Line.At
	}
	return r.now
}

// in says that the status is known and one of these.
func (r *reading) in(statuses ...int) bool { return r.known && slices.Contains(statuses, r.status) }

// maybe says that the status is one of these, or that there is no answer yet.
func (r *reading) maybe(statuses ...int) bool {
	return slices.Contains(statuses, r.status) || !r.known && r.ans.Err == ""
}

// refused says that the answer is known and a refusal.
func (r *reading) refused() bool { return r.known && r.status >= 400 && r.status <= 599 }

// mayChange says that the method may change something (RFC 9110 §9.2.1).
func mayChange(method string) bool {
	switch strings.ToUpper(method) {
	case "", "GET", "HEAD", "OPTIONS", "TRACE":
		return false
	}
	return true
}

// say adds a clue. Names are pairs for the fix.
func (r *reading) say(from Source, cause string, weight float64, says string, names ...string) {
	r.add(Clue{Source: from, Cause: cause, Weight: weight, Says: says}, names...)
}

// speakAgainst adds a clue that makes a cause less likely.
func (r *reading) speakAgainst(from Source, cause string, weight float64, says string) {
	r.add(Clue{Source: from, Cause: cause, Weight: weight, Says: says, Against: true})
}

func (r *reading) add(c Clue, names ...string) {
	c.ID = decodeLocal
	c.Says, c.Quote = r.scrub(c.Says, 480), r.scrub(c.Quote, 160)
	for i := range c.Fix {
		c.Fix[i] = r.scrub(c.Fix[i], 480)
	}
	for i := 0; i+1 < len(names); i += 2 {
		if v := r.scrub(names[i+1], 120); v != "" {
			if c.Names == nil {
				c.Names = map[string]string{}
			}
			c.Names[names[i]] = v
		}
	}
	for i := range r.clues {
		if k := &r.clues[i]; k.Cause == c.Cause && k.Says == c.Says && k.Against == c.Against {
			k.Weight = max(k.Weight, c.Weight)
			return
		}
	}
	r.clues = append(r.clues, c)
}

// scrub makes text fit for a clue: plain, short, and without any secret of the case even if a server
// echoed it. Short secrets are left to those who write the text: they quote none.
func (r *reading) scrub(s string, most int) string {
	if s == "" {
		return ""
	}
	if v := r.c.Vault; v != nil {
		v.mu.Lock()
		for p, secret := range v.values {
			if (len(secret) >= 8 || len(secret) >= 6 && strings.ContainsAny(secret, "0123456789")) && len(secret) <= len(s) {
				s = strings.ReplaceAll(s, secret, p)
			}
		}
		v.mu.Unlock()
	}
	return plainText(s, most)
}

// plainText is text without control and format characters, cut to a number of bytes.
func plainText(s string, most int) string {
	cut := len(s) > most
	if cut {
		for most > 0 && !utf8.RuneStart(s[most]) {
			most--
		}
		s = s[:most]
	}
	s = strings.Map(func(c rune) rune {
		switch {
		case c == '\n', c == '\t', c == '\r':
			return ' '
		case unicode.IsControl(c), unicode.Is(unicode.Cf, c), c == utf8.RuneError, c == '\u2028', c == '\u2029':
			return -1
		}
		return c
	}, s)
	if cut {
		s += "…"
	}
	return s
}

// shown is what a stranger wrote, as a part of a sentence.
func shown(s string) string { return plainText(strings.TrimSpace(s), 80) }

// spanOf is a duration for people.
func spanOf(d time.Duration) string {
	d = max(d, -d)
	switch {
	case d < 2*time.Minute:
		return strconv.Itoa(int(d.Seconds())) + " s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + " minutes"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + " hours"
	}
	return strconv.Itoa(int(d.Hours()/24)) + " days"
}

// clockTime is a time for people.
func clockTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

// epochTime reads seconds since 1970. Milliseconds, a common mistake, are read too.
func epochTime(s string) (time.Time, bool) {
	f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	return epochOf(f), err == nil && f > 1e8 && f < 1e14
}

func epochOf(f float64) time.Time {
	if f > 1e11 {
		f /= 1000
	}
	if !(f > -1e11 && f < 1e12) {
		return time.Time{}
	}
	return time.Unix(int64(f), 0).UTC()
}

// stillSealed says that text still has a secret that nobody here can reveal.
func stillSealed(s string) bool { return strings.Contains(s, opening) }

// value is the revealed value of a field of the request.
func (r *reading) value(name string) string { return r.c.Vault.Reveal(r.req.Header.Value(name)) }

// param is the unescaped value of a parameter of the query. Names compare without regard to case.
func (r *reading) param(name string) (string, bool) { return findPair(r.query, name) }

// cookie is a cookie that was sent.
func (r *reading) cookie(name string) (string, bool) { return findPair(r.sent, name) }

func findPair(pairs []pair, name string) (string, bool) {
	for _, p := range pairs {
		if strings.EqualFold(p.name, name) {
			return p.value, true
		}
	}
	return "", false
}

// credentialed says that something in the request could tell who is calling.
func (r *reading) credentialed() bool {
	if r.auth != "" || len(r.sent) > 0 || r.req.Via.Cert != "" || r.url != nil && r.url.User != nil {
		return true
	}
	for i, f := range r.req.Header {
		if i == maxReadItems {
			break
		}
		if keyName(f.Name) {
			return true
		}
	}
	for _, p := range r.query {
		if keyName(p.name) {
			return true
		}
	}
	return false
}

// keyName says that a field or parameter of this name carries a credential.
func keyName(name string) bool {
	n := strings.NewReplacer("-", "", "_", "", ".", "").Replace(strings.ToLower(name))
	switch n {
	case "authorization", "key", "auth", "sig", "signature", "token", "jwt", "code":
		return true
	}
	if csrfName(n) || strings.Contains(n, "idempotency") || strings.Contains(n, "websocket") {
		return false
	}
	for _, w := range []string{"apikey", "accesstoken", "authtoken", "xauth", "subscriptionkey", "accesskey", "amzcredential", "amzsecurity", "sessionid", "appkey", "idtoken"} {
		if strings.Contains(n, w) {
			return true
		}
	}
	return strings.HasPrefix(n, "x") && (strings.HasSuffix(n, "token") || strings.HasSuffix(n, "key"))
}

// apiKeyName says that a field or parameter of this name carries an API key.
func apiKeyName(name string) bool {
	n := strings.NewReplacer("-", "", "_", "", ".", "").Replace(strings.ToLower(name))
	for _, w := range []string{"apikey", "subscriptionkey", "accesskey", "appkey", "apitoken"} {
		if strings.Contains(n, w) {
			return !strings.Contains(n, "keyid")
		}
	}
	return n == "key" || n == "xkey"
}

// pairsOfQuery takes a query apart. Broken escapes stay as they are.
func pairsOfQuery(raw string) (out []pair) {
	if len(raw) > maxReadURL {
		return nil
	}
	for part := range strings.SplitSeq(raw, "&") {
		if part == "" {
			continue
		}
		if len(out) == maxReadItems {
			break
		}
		name, value, _ := strings.Cut(part, "=")
		out = append(out, pair{unescaped(name), unescaped(value)})
	}
	return out
}

func unescaped(s string) string {
	if u, err := url.QueryUnescape(s); err == nil {
		return u
	}
	return s
}

// pairsOfCookie takes a Cookie field apart (RFC 6265 §4.2).
func pairsOfCookie(v string, most int) (out []pair) {
	if len(v) > maxReadValue*4 {
		return nil
	}
	for part := range strings.SplitSeq(v, ";") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if len(out) >= most {
			break
		}
		if ok && name != "" {
			out = append(out, pair{name, strings.Trim(value, `"`)})
		}
	}
	return out
}

// hostOnly is a host without its port.
func hostOnly(hostport string) string {
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		return h
	}
	return strings.Trim(hostport, "[]")
}

// isAddress says that a host is an address.
func isAddress(host string) bool {
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil
}

// pathShown is the path of a sealed URL.
func pathShown(sealedURL string) string {
	s := sealedURL
	if i := strings.Index(s, "://"); i >= 0 {
		s = s[i+3:]
		if i = strings.IndexAny(s, "/?#"); i < 0 {
			return "/"
		}
		s = s[i:]
	}
	if i := strings.IndexAny(s, "?#"); i >= 0 {
		s = s[:i]
	}
	if s == "" {
		s = "/"
	}
	return plainText(s, 120)
}

// sibling is another exchange of the recording.
type sibling struct {
	*Exchange
	url    *url.URL
	passed bool // answered below 400
}

// siblings are the other exchanges whose URL can be taken apart, in their order.
func (r *reading) siblings(before bool) (out []sibling) {
	for i := range r.near {
		if i == r.asked && before {
			break
		}
		ex := &r.near[i]
		if i == r.asked || ex.Request == nil || ex.Answer == nil || len(ex.Request.URL) > maxReadURL {
			continue
		}
		u, err := url.Parse(r.c.Vault.Reveal(ex.Request.URL))
		if err != nil || u.Host == "" {
			continue
		}
		out = append(out, sibling{ex, u, ex.Answer.Status >= 100 && ex.Answer.Status < 400})
	}
	return out
}

// sameHost says that a sibling asks the server that is asked about.
func (r *reading) sameHost(s sibling) bool {
	return r.url != nil && strings.EqualFold(s.url.Host, r.url.Host)
}

// lowerText is text for comparison, bounded.
func lowerText(b []byte, most int) string { return strings.ToLower(string(b[:min(len(b), most)])) }
