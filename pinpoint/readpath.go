package pinpoint

import (
	"bytes"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// methods reads the field Allow and what the recording shows of other methods (RFC 9110 §10.2.1, §15.5.6).
func (r *reading) methods() {
	if !r.in(403, 404, 405, 501) || r.req.Method == "" || isPreflight(r.req) || r.turned && r.in(405) {
		return
	}
	method := r.req.Method
	names := []string{"method", method, "path", r.path}
	allow := r.ans.Header.Values("Allow")
	text := shown(strings.Join(allow, ", "))
	switch {
	case len(allow) > 0 && listHas(allow, method, false) && r.status == 405:
		r.speakAgainst(FromAnswer, "method-not-allowed", Fair, fmt.Sprintf("Allow lists %s, and yet 405 refuses it: a rule in front of the application answers.", shown(method)))
		r.say(FromAnswer, "method-denied-by-rule", Fair, fmt.Sprintf("405 for %s, which Allow lists (%s).", shown(method), text), names...)
	case len(allow) > 0 && text != "" && !listHas(allow, method, true) && r.status == 405:
		r.add(Clue{Source: FromAnswer, Cause: "method-not-allowed", Weight: Certain, Quote: "Allow: " + text, Says: fmt.Sprintf("The server allows %s here, not %s.", text, shown(method))}, append(names, "allow", text)...)
	case len(allow) > 0 && text != "" && !listHas(allow, method, true) && r.status == 403:
		r.say(FromAnswer, "method-not-allowed", Fair, fmt.Sprintf("The server allows %s here, not %s.", text, shown(method)), names...)
	case len(allow) > 0 && listHas(allow, strings.ToUpper(method), false) && !listHas(allow, method, false):
		r.say(FromRequest, "method-not-allowed", Strong, fmt.Sprintf("The method is written %s; methods are case-sensitive (RFC 9110 §9.1).", shown(method)), names...)
	case r.status == 405:
		r.say(FromAnswer, "method-not-allowed", 2.5, fmt.Sprintf("405 says that the resource does not know %s.", shown(method)), names...)
	case r.status == 501:
		r.say(FromAnswer, "method-not-allowed", Strong, fmt.Sprintf("501 says that the server does not know the method %s at all.", shown(method)), names...)
	}
	if !r.in(403) || r.url == nil || !slices.Contains([]string{"PUT", "PATCH", "DELETE"}, method) {
		return
	}
	r.say(FromRequest, "waf-method-policy", 0.5, fmt.Sprintf("The Core Rule Set allows GET, HEAD, POST and OPTIONS by default, not %s (911100).", method), names...)
	for _, s := range r.siblings(false) {
		if s.passed && sameTarget(s.url, r.url) && s.Request.Method == "GET" && s.Request.Header.Value("Authorization") == r.req.Header.Value("Authorization") {
			r.say(FromChain, "method-denied-by-rule", Hint, fmt.Sprintf("GET of the same URL passes; %s is refused.", shown(method)), names...)
			return
		}
	}
}

var (
	unfilled   = regexp.MustCompile(`/(?:undefined|null|NaN|\[object%20Object\]|%5Bobject%20Object%5D|\{[A-Za-z_]{1,40}\}|%7B[A-Za-z_]{1,40}%7D|:[a-z_]{2,40}|<[a-z_]{1,40}>|%3C[a-z_]{1,40}%3E)(?:/|$)`)
	doubled    = regexp.MustCompile(`(?i)%25[0-9a-f]{2}`)
	mediaFile  = regexp.MustCompile(`(?i)\.(?:jpe?g|png|gif|webp|avif|svg|mp4|webm|mp3|woff2?)$`)
	guardedEnd = regexp.MustCompile(`(?i)\.(?:bak|sql|log|config|key|old|backup|ini|env|pem|csr|mdb|swp)$`)
)

// valuesUnknown says that the input came without the values of its variables: what was sent had them, perhaps.
func (r *reading) valuesUnknown() bool {
	return slices.ContainsFunc(r.c.Gaps, func(g Gap) bool { return g.Kind == "variable" && g.Blocks })
}

// paths reads the form of the path, and holds it against paths of the recording that pass.
func (r *reading) paths() {
	if r.url == nil || !r.in(400, 403, 404, 405) {
		return
	}
	raw := r.url.EscapedPath()
	names := []string{"path", r.path}
	if len(raw) > 8192 {
		return
	}
	if unfilled.MatchString(raw) && r.in(400, 403, 404) && !r.valuesUnknown() {
		r.say(FromRequest, "wrong-path", Strong, "The path holds the text of a variable without a value.", names...)
	}
	for _, s := range r.siblings(false) {
		if !r.sameHost(s) || !s.passed || s.Answer.Status >= 300 || s.Request.Method != r.req.Method {
			continue
		}
		other := s.url.EscapedPath()
		switch {
		case other == raw:
		case strings.TrimSuffix(other, "/") == strings.TrimSuffix(raw, "/"):
			r.say(FromChain, "trailing-slash", Strong, fmt.Sprintf("%s passes; this request differs by the slash at the end.", pathShown(s.Request.URL)), append(names, "wanted", pathShown(s.Request.URL))...)
		case strings.EqualFold(other, raw):
			r.say(FromChain, "wrong-path", Strong, fmt.Sprintf("%s passes; this request differs in the case of letters.", pathShown(s.Request.URL)), append(names, "wanted", pathShown(s.Request.URL))...)
		case strings.Contains(raw, "//") && strings.ReplaceAll(raw, "//", "/") == other:
			r.say(FromChain, "path-encoding", Strong, fmt.Sprintf("%s passes; this request has a doubled slash.", pathShown(s.Request.URL)), names...)
		case s.url.Path == r.url.Path:
			r.say(FromChain, "path-encoding", Strong, fmt.Sprintf("%s passes; this request writes the same path with other escapes.", pathShown(s.Request.URL)), names...)
		}
	}
	low := strings.ToLower(raw)
	server := strings.ToLower(r.ans.Header.Value("Server"))
	apache := strings.Contains(server, "apache") || strings.Contains(server, "coyote") || strings.Contains(server, "tomcat")
	switch {
	case doubled.MatchString(raw):
		r.say(FromRequest, "path-encoding", Fair, "The path is encoded twice (%25 before two digits).", names...)
	case strings.Contains(low, "%2f") || strings.Contains(low, "%5c"):
		weight := Fair
		if apache && r.in(400, 404) {
			weight = Strong // AllowEncodedSlashes is off by default
		}
		r.say(FromRequest, "path-encoding", weight, "The path holds an encoded slash or backslash, which many servers refuse.", names...)
	case strings.Contains(low, "%00") || strings.Contains(low, "%0a") || strings.Contains(low, "%0d"):
		r.say(FromRequest, "path-encoding", Strong, "The path holds an encoded control character.", names...)
	case strings.HasSuffix(low, "%20"):
		r.say(FromRequest, "path-encoding", Fair, "The path ends with a blank, as from a copied line.", names...)
	case strings.Contains(low, "/../") || strings.Contains(low, "/%2e%2e"):
		r.say(FromRequest, "path-encoding", Fair, "The path holds dot segments.", names...)
	case strings.Contains(raw, ";") && r.in(400):
		r.say(FromRequest, "path-encoding", Hint, "The path holds a semicolon, which some firewalls of frameworks refuse.", names...)
	case strings.Contains(raw, "//") && r.in(400, 404):
		r.say(FromRequest, "path-encoding", Hint, "The path holds a doubled slash.", names...)
	}
	if r.in(403) {
		r.files(server)
	}
}

// files hints at rules on names of files and directories.
func (r *reading) files(server string) {
	path := r.url.Path
	names := []string{"path", r.path}
	get := r.req.Method == "GET" || r.req.Method == "HEAD"
	web := strings.Contains(server, "nginx") || strings.Contains(server, "apache") || strings.Contains(server, "lighttpd") || strings.Contains(server, "iis")
	html := strings.Contains(strings.ToLower(r.ans.Header.Value("Content-Type")), "html")
	if strings.HasSuffix(path, "/") && get && web && html && r.url.RawQuery == "" {
		for _, s := range r.siblings(false) {
			if r.sameHost(s) && s.passed && s.Answer.Status == 200 && strings.HasPrefix(s.url.Path, path) && len(s.url.Path) > len(path) && !strings.Contains(s.url.Path[len(path):], "/") {
				r.say(FromChain, "no-index-listing-off", Fair, fmt.Sprintf("A directory is refused, and a file in it (%s) passes.", pathShown(s.Request.URL)), names...)
				break
			}
		}
		if path != "/" && len(r.clues) == 0 {
			r.say(FromRequest, "no-index-listing-off", Hint, "The path ends in a slash, and a web server answers 403 to a directory without an index.", names...)
		}
	}
	if m := guardedEnd.FindString(path); m != "" {
		r.say(FromRequest, "waf-extension-policy", Hint, fmt.Sprintf("Rules often refuse the ending %s.", shown(m)), "path", r.path, "extension", m)
	}
	last := path[strings.LastIndexByte(path, '/')+1:]
	if e := strings.ToLower(last[strings.LastIndexByte(last, '.')+1:]); r.refused() && (e == "php" || e == "phar") && strings.TrimSpace(string(r.page[:min(len(r.page), 40)])) == "Access denied." {
		// php-src, sapi/fpm/fpm/fpm_main.c: the same words where the script may not be opened.
		r.add(Clue{Source: FromAnswer, Cause: "fs-file-unreadable", Refuser: "php-fpm", Weight: Fair, Says: "PHP says so of a script that it may not open; that it runs files of this ending is the default."}, names...)
		r.add(Clue{Source: FromAnswer, Cause: "php-fpm-limit-extensions", Against: true, Weight: Strong, Says: "The path ends in ." + e + ", which PHP-FPM runs by default."}, names...)
	}
	if strings.Contains(server, "apache") && (strings.HasPrefix(last, ".ht") || strings.Contains(path, "/.git/")) {
		r.say(FromRequest, "apache-files-protected", Fair, "Apache refuses names that begin with .ht by default, and repositories usually are refused too.", names...)
	}
	if !mediaFile.MatchString(path) || !get {
		return
	}
	ref, err := url.Parse(r.c.Vault.Reveal(r.req.Header.Value("Referer")))
	if err != nil || ref.Host == "" || site(ref.Hostname()) == site(r.host) {
		return
	}
	for _, s := range r.siblings(false) {
		own, err := url.Parse(s.Request.Header.Value("Referer"))
		if r.sameHost(s) && s.passed && s.url.Path == path && err == nil && site(own.Hostname()) == site(r.host) {
			r.say(FromChain, "hotlink-referer", Strong, fmt.Sprintf("The file passes with a Referer of its own site and is refused with %s.", shown(ref.Host)), "header", "Referer", "host", ref.Host)
			return
		}
	}
	r.say(FromRequest, "hotlink-referer", Fair, fmt.Sprintf("A media file is asked for from a page of another site (%s).", shown(ref.Host)), "header", "Referer", "host", ref.Host)
}

var plainOnTLS = []string{"plain HTTP request was sent to HTTPS port", "speaking plain HTTP to an SSL-enabled server port", "Client sent an HTTP request to an HTTPS server", "This combination of host and port requires TLS"}

// hosts reads the name, the scheme and the port that were asked.
func (r *reading) hosts() {
	if r.url == nil {
		return
	}
	if r.url.Scheme == "http" && r.in(400, 497) {
		for _, sentence := range plainOnTLS {
			if bytes.Contains(r.page[:min(len(r.page), 4096)], []byte(sentence)) {
				r.add(Clue{Source: FromAnswer, Cause: "plain-http-on-tls-port", Weight: Certain, Quote: sentence, Says: "The server says that plain HTTP came to a port for TLS."}, "port", r.url.Port())
				return
			}
		}
		if slices.Contains([]string{"443", "8443", "9443", "6443"}, r.url.Port()) {
			r.say(FromRequest, "plain-http-on-tls-port", Fair, "The URL says http, and its port is usually one for TLS.", "port", r.url.Port())
		}
	}
	r.socket()
	if !r.in(400, 403, 404, 421) {
		return
	}
	asked := r.req.Host()
	if r.status == 421 {
		weight, says := Strong, "421 says that this connection is not for that host (RFC 9110 §15.5.20)."
		if r.req.Via.SNI != "" && !strings.EqualFold(r.req.Via.SNI, r.host) {
			weight, says = Certain, says+fmt.Sprintf(" TLS named %s, the request %s.", shown(r.req.Via.SNI), shown(r.host))
		}
		r.say(FromAnswer, "sni-host-mismatch", weight, says, "host", asked)
	} else if r.req.Via.SNI != "" && !strings.EqualFold(r.req.Via.SNI, r.host) && r.url.Scheme == "https" {
		r.say(FromRequest, "sni-host-mismatch", Fair, fmt.Sprintf("TLS named %s, the request %s.", shown(r.req.Via.SNI), shown(r.host)), "host", asked)
	}
	for _, s := range r.siblings(false) {
		if s.Request.Method != r.req.Method || !s.passed || s.Answer.Status >= 300 || s.url.Path != r.url.Path || s.url.RawQuery != r.url.RawQuery {
			continue
		}
		switch {
		case !strings.EqualFold(s.url.Host, r.url.Host) && (isAddress(r.host) || isAddress(s.url.Hostname()) || r.host == "localhost" || s.url.Hostname() == "localhost" || site(s.url.Hostname()) == site(r.host)):
			r.say(FromChain, "host-not-allowed", Strong, fmt.Sprintf("The same path passes at %s and is refused at %s.", shown(s.url.Host), shown(asked)), "host", asked, "wanted", s.url.Host)
		case strings.EqualFold(s.url.Hostname(), r.url.Hostname()) && s.url.Scheme == "https" && r.url.Scheme == "http" && r.in(403):
			r.say(FromChain, "https-required", Strong, "The same path passes by https and is refused by http.", "host", asked)
		}
	}
	if h := r.req.Header.Value("Host"); h != "" && !strings.EqualFold(hostOnly(h), r.url.Hostname()) && !isAddress(r.url.Hostname()) && r.url.Hostname() != "localhost" {
		r.say(FromRequest, "host-not-allowed", Fair, fmt.Sprintf("The field Host says %s, the URL %s.", shown(h), shown(r.url.Host)), "host", h)
	}
	if isAddress(r.host) && r.in(403) {
		server := strings.ToLower(r.ans.Header.Value("Server"))
		if strings.Contains(server, "cloudflare") {
			r.say(FromRequest, "cdn-direct-ip-access", Strong, "The URL names an address of Cloudflare, not a host.", "host", asked)
		} else if strings.Contains(lowerText(r.page, 4096), "modsecurity") || strings.Contains(lowerText(r.page, 4096), "mod_security") {
			r.say(FromRequest, "waf-numeric-host", Fair, "The URL names an address, for which the Core Rule Set adds points (920350).", "host", asked)
		} else if !strings.HasPrefix(r.host, "127.") && r.host != "::1" {
			r.say(FromRequest, "host-not-allowed", Hint, "The URL names an address; the server may answer for names only.", "host", asked)
		}
	}
}

// socket judges a WebSocket handshake that got no 101 (RFC 6455 §4.2.2, §10.2).
func (r *reading) socket() {
	if !r.in(403) {
		return
	}
	if !strings.EqualFold(r.req.Header.Value("Upgrade"), "websocket") && r.url.Scheme != "wss" && r.url.Scheme != "ws" {
		if r.whole && r.req.Header.Has("Origin") { // what protects against forged requests and sockets does not look at a plain GET
			r.speakAgainst(FromRequest, "websocket-origin-refused", Certain, "The request opens no WebSocket.")
			if !mayChange(r.req.Method) {
				r.speakAgainst(FromRequest, "csrf-origin-untrusted", Strong, "Protections against forged requests let "+shown(r.req.Method)+" pass.")
				if !r.req.Header.Has("Sec-Fetch-Site") {
					r.speakAgainst(FromRequest, "fetch-metadata-blocked", Strong, "The request has no Sec-Fetch-Site.")
				}
			}
		}
		return
	}
	// Browsers ask no leave for sockets: the rules of CORS do not hold (Fetch Standard, WebSocket handshakes).
	for _, cause := range []string{"cors-origin-not-allowed", "cors-preflight-refused", "csrf-origin-untrusted"} {
		r.speakAgainst(FromRequest, cause, Strong, "The request opens a WebSocket, which CORS and form tokens do not concern.")
	}
	origin := r.req.Header.Value("Origin")
	switch o, err := url.Parse(origin); {
	case origin == "" && r.whole:
		r.say(FromRequest, "websocket-origin-refused", Fair, "The handshake has no Origin.", "header", "Origin")
	case err == nil && o.Host != "" && !strings.EqualFold(o.Host, r.req.Host()):
		r.say(FromRequest, "websocket-origin-refused", Strong, fmt.Sprintf("The handshake was refused; its page is of %s, the socket of %s.", shown(o.Host), shown(r.req.Host())), "origin", origin)
	}
}

var scanner = regexp.MustCompile(`(?i)\b(?:sqlmap|nikto|nmap|masscan|nuclei|gobuster|dirbuster|wpscan|acunetix|nessus|zgrab|ffuf|feroxbuster|openvas|w3af|havij)\b`)
var library = regexp.MustCompile(`(?i)^(?:curl|wget|python-requests|python-urllib|libwww-perl|go-http-client|java|okhttp|axios|node-fetch|scrapy|aiohttp|httpie|ruby|php)\b`)

// client reads how the client shows itself, and proxies on its side.
func (r *reading) client() {
	if v := r.ans.Header.Value("X-Squid-Error"); v != "" {
		weight := Fair
		if strings.Contains(v, "DENIED") || strings.Contains(v, "AUTH") {
			weight = Certain
		}
		r.add(Clue{Source: FromAnswer, Cause: "egress-proxy-denied", Refuser: "squid", Hop: 1, Weight: weight, Quote: "X-Squid-Error: " + v, Says: "The answer was written by a proxy (Squid), not by the server."}, "field", "X-Squid-Error")
	}
	errText := strings.ToLower(r.ans.Err)
	switch {
	case strings.Contains(errText, "from proxy after connect"), strings.Contains(errText, "err_tunnel_connection_failed"), strings.Contains(errText, "connect tunnel failed"):
		r.say(FromAnswer, "egress-proxy-denied", Certain, "The proxy on the client's side refused to connect to the server.", "proxy", hostOfProxy(r.req.Via.Proxy))
	case r.in(407):
		r.say(FromAnswer, "egress-proxy-denied", Certain, "407 comes from a proxy that wants credentials (RFC 9110 §15.5.8).", "header", "Proxy-Authorization")
	case r.in(511):
		r.say(FromAnswer, "egress-proxy-denied", Certain, "511 comes from a network that wants a login first (RFC 6585 §6).")
	}
	if !r.in(400, 403, 406) {
		return
	}
	agent := r.req.Header.Value("User-Agent")
	if len(agent) < 1000 && r.whole && r.in(403, 406) {
		switch {
		case scanner.MatchString(agent):
			r.say(FromRequest, "waf-scanner-ua", Fair, fmt.Sprintf("The User-Agent names a scanner (%s), which the Core Rule Set refuses (913100).", shown(scanner.FindString(agent))), "agent", agent)
		case library.MatchString(agent) && r.c.Source != "url":
			r.say(FromRequest, "user-agent-blocked", 0.5, fmt.Sprintf("The User-Agent is that of a program (%s), which some rules refuse.", shown(agent)), "agent", agent)
		case agent == "" && r.c.Source == "raw":
			r.say(FromRequest, "waf-missing-headers", Hint, "The request has no User-Agent, which some rules refuse.", "header", "User-Agent")
		}
		if r.url != nil {
			for _, s := range r.siblings(false) {
				ua := s.Request.Header.Value("User-Agent")
				if s.passed && s.Answer.Status < 300 && sameTarget(s.url, r.url) && s.Request.Method == r.req.Method && ua != "" && ua != agent &&
					s.Request.Header.Value("Authorization") == r.req.Header.Value("Authorization") && s.Request.Header.Value("Cookie") == r.req.Header.Value("Cookie") {
					r.say(FromChain, "user-agent-blocked", Fair, "The same request with another User-Agent passes.", "agent", agent)
					break
				}
			}
		}
	}
	if over := r.req.Header.Value("X-HTTP-Method-Override"); over != "" && r.in(403) {
		r.say(FromRequest, "waf-header-policy", Hint, "The request carries X-HTTP-Method-Override, which the Core Rule Set refuses by default (920450).", "header", "X-HTTP-Method-Override")
	}
	if (r.req.Method == "GET" || r.req.Method == "HEAD") && len(r.req.Body) > 0 && r.in(400, 403) {
		weight := Hint
		if strings.Contains(strings.ToLower(r.ans.Header.Value("Server")), "cloudfront") {
			weight = Fair // CloudFront refuses bodies of GET
		}
		r.say(FromRequest, "waf-protocol-violation", weight, fmt.Sprintf("A %s carries a body, which servers and rules may refuse (RFC 9110 §9.3.1).", r.req.Method), "method", r.req.Method)
	}
	if n := len(r.req.Header.Values("X-Forwarded-For")); n > 1 && r.in(400, 403) {
		r.say(FromRequest, "xff-untrusted-chain", Fair, fmt.Sprintf("The client sent X-Forwarded-For %d times; some edges refuse that.", n), "header", "X-Forwarded-For")
	} else if n == 1 && r.in(403) && r.c.Source != "log" {
		r.say(FromRequest, "xff-untrusted-chain", 0.5, "The client sent X-Forwarded-For itself.", "header", "X-Forwarded-For")
	}
}

func hostOfProxy(proxy string) string {
	if u, err := url.Parse(proxy); err == nil {
		return u.Host
	}
	return ""
}

// early compares the time to the first byte with that of passing requests: a hop in front answers sooner.
func (r *reading) early() {
	mine := r.ans.FirstByte
	if mine <= 0 || !r.refused() || r.url == nil {
		return
	}
	var passed []time.Duration
	for _, s := range r.siblings(false) {
		if r.sameHost(s) && s.passed && s.Answer.Status < 300 && s.Answer.FirstByte > 0 && cacheHit(s.Answer.Header) == "" && s.Request.Method != "OPTIONS" {
			passed = append(passed, s.Answer.FirstByte)
		}
	}
	if len(passed) < 3 {
		return
	}
	slices.Sort(passed)
	usual := passed[len(passed)/2]
	if mine*5 < usual && usual-mine > 50*time.Millisecond {
		r.say(FromChain, "", Hint, fmt.Sprintf("The refusal came after %s; passing requests of this host take %s: a hop in front of the application wrote it.", mine.Round(time.Millisecond), usual.Round(time.Millisecond)))
	}
}
