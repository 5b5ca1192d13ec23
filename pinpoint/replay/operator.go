package replay

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// Operator changes one thing of a request. Operators remove, normalise, use what the user holds, or
// replace content by harmless content; none of them speaks for somebody else, hides something from a
// filter or asks another hop to look away.
type Operator struct {
	Name string
	Says string // what is changed
	// Safe is the class when the changed request is a GET, HEAD or OPTIONS without side effects,
	// Unsafe for every other. Never marks operators that do not exist for such a request.
	Safe, Unsafe pinpoint.Class
	// Changes are the parts that it may touch: "method", "path", "query", "body", "proto", "scheme",
	// "via", or the name of a field. "credentials" and "forwarding" stand for the fields of those.
	Changes []string
	// Size orders operators by how much they change: of several that flip the answer the smallest wins.
	Size int
	// Moves says that another resource or another action is asked for, so that an answer that
	// differs is no wonder.
	Moves bool

	apply func(m *material, r *pinpoint.Request) []variant
}

// Never as a class: the operator does not exist for such a request.
const Never pinpoint.Class = -1

// variant is what an operator made of a request.
type variant struct {
	request *pinpoint.Request
	says    string // of what exactly; "" when Says is enough
}

// material is what operators may use beside the request: what the case knows, and what the user gave.
type material struct {
	c        *pinpoint.Case
	o        *Options
	random   string // of decoys and cache busters
	siblings []string
	prefixes []string
	cased    []string // paths of the case that differ from the asked one in case only
}

// maxVariants bounds operators that exist once per cookie or parameter.
const maxVariants = 6

// Apply is what the operator makes of a request; nil when it does not apply.
func (op *Operator) Apply(c *pinpoint.Case, o Options, r *pinpoint.Request) []*pinpoint.Request {
	var all []*pinpoint.Request
	for _, v := range op.apply(newMaterial(c, &o, "0"), r) {
		all = append(all, v.request)
	}
	return all
}

// Operators are the operators that send something, the plainest first.
var Operators = []*Operator{
	{Name: "repeat", Says: "nothing", Safe: s1, Unsafe: s3,
		apply: func(_ *material, r *pinpoint.Request) []variant { return one(r.Clone()) }},
	{Name: "wait", Says: "nothing, after a pause", Safe: s1, Unsafe: s3, Size: 1,
		apply: func(_ *material, r *pinpoint.Request) []variant { return one(r.Clone()) }},
	{Name: "method-get", Says: "GET without a body", Safe: s1, Unsafe: s3, Changes: []string{"method", "body", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Expect"}, Size: 6, Moves: true,
		apply: withMethod("GET")},
	{Name: "method-head", Says: "HEAD without a body", Safe: s1, Unsafe: s3, Changes: []string{"method", "body", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Expect"}, Size: 6, Moves: true,
		apply: withMethod("HEAD")},
	{Name: "method-options", Says: "OPTIONS without a body", Safe: s1, Unsafe: s3, Changes: []string{"method", "body", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Expect", "Access-Control-Request-Method"}, Size: 6, Moves: true,
		apply: func(_ *material, r *pinpoint.Request) []variant {
			if r.Method == "OPTIONS" {
				return nil
			}
			n := bodyless(r, "OPTIONS")
			if r.Header.Has("Origin") { // the question that a browser asks first (Fetch, section 4.8)
				n.Header = n.Header.With("Access-Control-Request-Method", r.Method)
			}
			return one(n)
		}},
	{Name: "auth-drop", Says: "no credentials", Safe: s1, Unsafe: s2, Changes: []string{"credentials", "query", "via"}, Size: 5,
		apply: authDrop},
	{Name: "auth-corrupt", Says: "credentials with one letter changed", Safe: s1, Unsafe: s2, Changes: []string{"credentials"}, Size: 2,
		apply: authCorrupt},
	{Name: "auth-swap", Says: "the other identity that was given", Safe: s1, Unsafe: s3, Changes: []string{"credentials", "Cookie"}, Size: 4,
		apply: func(m *material, r *pinpoint.Request) []variant {
			if len(m.c.Swap) == 0 {
				return nil
			}
			n := r.Clone()
			for _, f := range m.c.Swap {
				if !credential(f.Name) && !strings.EqualFold(f.Name, "Cookie") {
					return nil // not an identity
				}
				n.Header = n.Header.With(f.Name, f.Value)
			}
			return one(n)
		}},
	{Name: "cookie-drop", Says: "no cookies", Safe: s1, Unsafe: s2, Changes: []string{"Cookie"}, Size: 4,
		apply: func(_ *material, r *pinpoint.Request) []variant { return dropField(r, "Cookie") }},
	{Name: "cookie-one", Says: "one cookie less", Safe: s1, Unsafe: s2, Changes: []string{"Cookie"}, Size: 3,
		apply: cookieOne},
	{Name: "ua-browser", Says: "User-Agent of a browser", Safe: s1, Unsafe: s3, Changes: []string{"User-Agent"}, Size: 2,
		apply: func(_ *material, r *pinpoint.Request) []variant {
			if strings.HasPrefix(r.Header.Value("User-Agent"), "Mozilla/5.0 (") {
				return nil
			}
			return setField(r, "User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0")
		}},
	{Name: "ua-plain", Says: "User-Agent of a plain tool", Safe: s1, Unsafe: s3, Changes: []string{"User-Agent"}, Size: 2,
		apply: func(_ *material, r *pinpoint.Request) []variant {
			return setField(r, "User-Agent", "whygate-pinpoint/1")
		}},
	{Name: "ua-drop", Says: "no User-Agent", Safe: s1, Unsafe: s3, Changes: []string{"User-Agent"}, Size: 3,
		apply: func(_ *material, r *pinpoint.Request) []variant { return dropField(r, "User-Agent") }},
	{Name: "referer-same", Says: "Referer of the site itself", Safe: s1, Unsafe: s3, Changes: []string{"Referer"}, Size: 2,
		apply: func(_ *material, r *pinpoint.Request) []variant { return setField(r, "Referer", origin(r)+"/") }},
	{Name: "referer-drop", Says: "no Referer", Safe: s1, Unsafe: s3, Changes: []string{"Referer"}, Size: 3,
		apply: func(_ *material, r *pinpoint.Request) []variant { return dropField(r, "Referer") }},
	{Name: "origin-same", Says: "Origin of the site itself", Safe: s1, Unsafe: s3, Changes: []string{"Origin"}, Size: 2,
		apply: func(_ *material, r *pinpoint.Request) []variant {
			if !r.Header.Has("Origin") && !r.Header.Has("Upgrade") {
				return nil
			}
			return setField(r, "Origin", origin(r))
		}},
	{Name: "origin-drop", Says: "no Origin", Safe: s1, Unsafe: s3, Changes: []string{"Origin"}, Size: 3,
		apply: func(_ *material, r *pinpoint.Request) []variant { return dropField(r, "Origin") }},
	{Name: "accept-any", Says: "Accept: */*", Safe: s1, Unsafe: s3, Changes: []string{"Accept"}, Size: 2,
		apply: func(_ *material, r *pinpoint.Request) []variant { return setField(r, "Accept", "*/*") }},
	{Name: "lang-any", Says: "Accept-Language: *", Safe: s1, Unsafe: s3, Changes: []string{"Accept-Language"}, Size: 2,
		apply: func(_ *material, r *pinpoint.Request) []variant {
			if !r.Header.Has("Accept-Language") {
				return nil
			}
			return setField(r, "Accept-Language", "*")
		}},
	{Name: "ctype-json", Says: "Content-Type: application/json", Safe: Never, Unsafe: s3, Changes: []string{"Content-Type"}, Size: 2,
		apply: contentType("application/json")},
	{Name: "ctype-form", Says: "Content-Type of a form", Safe: Never, Unsafe: s3, Changes: []string{"Content-Type"}, Size: 2,
		apply: contentType("application/x-www-form-urlencoded")},
	{Name: "ctype-drop", Says: "no Content-Type", Safe: Never, Unsafe: s3, Changes: []string{"Content-Type"}, Size: 3,
		apply: func(_ *material, r *pinpoint.Request) []variant { return dropField(r, "Content-Type") }},
	{Name: "host-noport", Says: "Host without its port", Safe: s1, Unsafe: s3, Changes: []string{"Host"}, Size: 2,
		apply: func(_ *material, r *pinpoint.Request) []variant {
			h := r.Host()
			if i := strings.LastIndexByte(h, ':'); i > strings.LastIndexByte(h, ']') {
				return setField(r, "Host", h[:i])
			}
			return nil
		}},
	{Name: "host-canonical", Says: "the name of the site as Host", Safe: s1, Unsafe: s3, Changes: []string{"Host"}, Size: 2,
		apply: hostCanonical},
	{Name: "host-other", Says: "a Host that no site has", Safe: s1, Unsafe: s3, Changes: []string{"Host"}, Size: 7, Moves: true,
		apply: func(m *material, r *pinpoint.Request) []variant {
			return setField(r, "Host", "whygate-probe-"+m.random+".invalid") // RFC 6761, section 6.4
		}},
	{Name: "sni-match", Says: "TLS server name as the Host says", Safe: s1, Unsafe: s3, Changes: []string{"via"}, Size: 2,
		apply: func(_ *material, r *pinpoint.Request) []variant {
			u, err := splitURL(r.URL)
			h := hostname(r.Host())
			if err != nil || u.scheme != "https" || h == r.Via.SNI || r.Via.SNI == "" && h == u.host {
				return nil
			}
			n := r.Clone()
			n.Via.SNI = h
			return one(n)
		}},
	{Name: "sni-drop", Says: "no TLS server name", Safe: s1, Unsafe: s3, Changes: []string{"via"}, Size: 3,
		apply: func(_ *material, r *pinpoint.Request) []variant {
			if !strings.HasPrefix(r.URL, "https:") || r.Via.SNI == NoSNI {
				return nil
			}
			n := r.Clone()
			n.Via.SNI = NoSNI
			return one(n)
		}},
	{Name: "ip4", Says: "over IPv4", Safe: s1, Unsafe: s3, Changes: []string{"via"}, Size: 2, apply: family(4)},
	{Name: "ip6", Says: "over IPv6", Safe: s1, Unsafe: s3, Changes: []string{"via"}, Size: 2, apply: family(6)},
	{Name: "from-elsewhere", Says: "from the other own address that was given", Safe: s1, Unsafe: s3, Changes: []string{"via"}, Size: 3,
		apply: func(m *material, r *pinpoint.Request) []variant {
			if m.o.From == "" || m.o.From == r.Via.From {
				return nil
			}
			n := r.Clone()
			n.Via.From = m.o.From
			return one(n)
		}},
	{Name: "xff-drop", Says: "no forwarding fields", Safe: s1, Unsafe: s3, Changes: []string{"forwarding"}, Size: 3,
		apply: func(_ *material, r *pinpoint.Request) []variant { return dropField(r, forwarding...) }},
	{Name: "xff-one", Says: "only the last value of X-Forwarded-For", Safe: s1, Unsafe: s3, Changes: []string{"X-Forwarded-For"}, Size: 2,
		apply: func(_ *material, r *pinpoint.Request) []variant {
			all := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
			if len(all) < 2 {
				return nil
			}
			return setField(r, "X-Forwarded-For", strings.TrimSpace(all[len(all)-1]))
		}},
	{Name: "scheme-swap", Says: "the other of http and https", Safe: s1, Unsafe: s3, Changes: []string{"scheme"}, Size: 4,
		apply: schemeSwap},
	{Name: "http1", Says: "HTTP/1.1", Safe: s1, Unsafe: s3, Changes: []string{"proto"}, Size: 2, apply: protocol("HTTP/1.1")},
	{Name: "http2", Says: "HTTP/2", Safe: s1, Unsafe: s3, Changes: []string{"proto"}, Size: 2, apply: protocol("HTTP/2")},
	{Name: "slash-add", Says: "a slash at the end of the path", Safe: s1, Unsafe: s3, Changes: []string{"path"}, Size: 2, Moves: true,
		apply: func(_ *material, r *pinpoint.Request) []variant {
			return onPath(r, func(p string) string {
				if strings.HasSuffix(p, "/") || strings.Contains(path.Base(p), ".") { // a file is no directory
					return ""
				}
				return p + "/"
			})
		}},
	{Name: "slash-strip", Says: "no slash at the end of the path", Safe: s1, Unsafe: s3, Changes: []string{"path"}, Size: 2, Moves: true,
		apply: func(_ *material, r *pinpoint.Request) []variant {
			return onPath(r, func(p string) string {
				if p == "/" || !strings.HasSuffix(p, "/") {
					return ""
				}
				return strings.TrimRight(p, "/")
			})
		}},
	{Name: "path-decode", Says: "the path in its plain form", Safe: s1, Unsafe: s3, Changes: []string{"path"}, Size: 3, Moves: true,
		apply: func(_ *material, r *pinpoint.Request) []variant { return onPath(r, plainPath) }},
	{Name: "path-case", Says: "the path in other case", Safe: s1, Unsafe: s3, Changes: []string{"path"}, Size: 3, Moves: true,
		apply: func(m *material, r *pinpoint.Request) []variant {
			for _, known := range m.cased {
				return onPath(r, func(string) string { return known })
			}
			return onPath(r, strings.ToLower)
		}},
	{Name: "path-prefix", Says: "the path behind the prefix that other URLs of the case have", Safe: s1, Unsafe: s3, Changes: []string{"path"}, Size: 4, Moves: true,
		apply: func(m *material, r *pinpoint.Request) (all []variant) {
			for _, prefix := range m.prefixes[:min(len(m.prefixes), 2)] {
				all = append(all, onPath(r, func(p string) string {
					if p == prefix || strings.HasPrefix(p, prefix+"/") {
						return ""
					}
					return prefix + p
				})...)
			}
			return all
		}},
	{Name: "path-nonexistent", Says: "a path that does not exist", Safe: s1, Unsafe: s2, Changes: []string{"path"}, Size: 8, Moves: true,
		apply: func(m *material, r *pinpoint.Request) []variant {
			return onPath(r, func(p string) string {
				return p[:strings.LastIndexByte(strings.TrimRight(p, "/"), '/')+1] + "whygate-probe-" + m.random
			})
		}},
	{Name: "path-sibling", Says: "another path of the case that answers", Safe: s1, Unsafe: Never, Changes: []string{"path", "query"}, Size: 8, Moves: true,
		apply: func(m *material, r *pinpoint.Request) []variant {
			if len(m.siblings) == 0 || r.Method != "GET" && r.Method != "HEAD" {
				return nil
			}
			return withTarget(r, m.siblings[0])
		}},
	{Name: "query-drop", Says: "no query", Safe: s1, Unsafe: s3, Changes: []string{"query"}, Size: 5,
		apply: func(_ *material, r *pinpoint.Request) []variant {
			return onQuery(r, func(string) (string, bool) { return "", true })
		}},
	{Name: "query-one", Says: "one query parameter less", Safe: s1, Unsafe: s3, Changes: []string{"query"}, Size: 3,
		apply: queryOne},
	{Name: "body-benign", Says: "a body of the same shape with harmless content", Safe: Never, Unsafe: s3, Changes: []string{"body", "Content-Length"}, Size: 3,
		apply: onBody(twin)},
	{Name: "body-empty", Says: "an empty body", Safe: Never, Unsafe: s3, Changes: []string{"body", "Content-Length"}, Size: 6,
		apply: onBody(func(string, []byte) []byte { return []byte{} })},
	{Name: "body-shrink", Says: "a harmless body of an eighth of the size", Safe: Never, Unsafe: s3, Changes: []string{"body", "Content-Length"}, Size: 5,
		apply: onBody(func(ctype string, body []byte) []byte { return resized(ctype, body, len(body)/8) })},
	{Name: "body-grow", Says: "a harmless body of twice the size", Safe: Never, Unsafe: s3, Changes: []string{"body", "Content-Length"}, Size: 5,
		apply: onBody(func(ctype string, body []byte) []byte {
			if len(body) > 512<<10 {
				return nil
			}
			return resized(ctype, body, 2*len(body))
		})},
	{Name: "cache-bust", Says: "a query parameter that no cache has seen", Safe: s1, Unsafe: Never, Changes: []string{"query", "Cache-Control"}, Size: 2,
		apply: func(m *material, r *pinpoint.Request) []variant {
			if r.Method != "GET" && r.Method != "HEAD" {
				return nil
			}
			v := onQuery(r, func(q string) (string, bool) {
				if q != "" {
					q += "&"
				}
				return q + "whygate-probe=" + m.random, true
			})
			for _, n := range v {
				n.request.Header = n.request.Header.With("Cache-Control", "no-cache")
			}
			return v
		}},
	{Name: "direct-origin", Says: "straight to the next hop", Safe: s1, Unsafe: s3, Changes: []string{"via"}, Size: 4,
		apply: func(m *material, r *pinpoint.Request) []variant {
			if m.o.Origin == "" || m.o.Origin == r.Via.To {
				return nil
			}
			n := r.Clone()
			n.Via.To, n.Via.Proxy = m.o.Origin, ""
			return one(n)
		}},
}

// far says that the operator asks for something so different that its passing proves little.
func (op *Operator) far() bool { return op.Moves && op.Size >= 6 }

const s1, s2, s3 = pinpoint.S1, pinpoint.S2, pinpoint.S3

// operator is the one of a name.
func operator(name string) *Operator {
	i := slices.IndexFunc(Operators, func(op *Operator) bool { return op.Name == name })
	if i < 0 {
		return nil
	}
	return Operators[i]
}

// class is how safe it is to send what the operator made. It looks at the result: a GET whose path
// says that it deletes is as unsafe as a DELETE.
func (op *Operator) class(o *Options, from, r *pinpoint.Request) pinpoint.Class {
	if safe(o, r) {
		return op.Safe
	}
	switch {
	case op.Name == "path-nonexistent":
		return decoyClass(r)
	case paid(from) && op.Unsafe != Never:
		return s3
	case (op.Name == "auth-drop" || op.Name == "auth-corrupt") && o.AnonymousPosts:
		return s3
	case op.Name == "cookie-drop" || op.Name == "cookie-one":
		for _, name := range lost(from, r) {
			if sessionCookie(name) && !o.AnonymousPosts {
				return s2
			}
		}
		return s3
	case strings.HasPrefix(op.Name, "method-"):
		return s3
	}
	return op.Unsafe
}

// decoyClass is the class of an unsafe method on a path that does not exist. Methods that create what
// is not there (RFC 9110, section 9.3.4; RFC 4918) may succeed even so.
func decoyClass(r *pinpoint.Request) pinpoint.Class {
	switch strings.ToUpper(r.Method) {
	case "PUT", "MKCOL", "COPY", "MOVE", "LOCK", "PROPPATCH", "LINK":
		return s3
	}
	return s2
}

var (
	effects = regexp.MustCompile(`(?i)(?:^|[^a-z])(?:log[-_]?out|log[-_]?off|sign[-_]?out|delete|remove|destroy|erase|unsubscribe|subscribe|confirm|activate|deactivate|approve|reject|cancel|purge|flush|reset|revoke|disable|enable|restart|reboot|shutdown|stop|start|execute|trigger|send|pay|buy|checkout|transfer|vote|run|drop|truncate)(?:$|[^a-z])`)
	actions = regexp.MustCompile(`(?i)(?:^|&)(?:action|do|cmd|command|op|operation|task|_method|delete|remove)=|mutation`)
)

// safe says that a request has no effect by the definition of its method (RFC 9110, section 9.2.1),
// and that neither its URL nor the user says otherwise.
func safe(o *Options, r *pinpoint.Request) bool {
	switch r.Method {
	case "OPTIONS":
		return true
	case "GET", "HEAD":
	default:
		return false
	}
	for _, f := range r.Header {
		switch strings.ToLower(f.Name) {
		case "x-http-method-override", "x-http-method", "x-method-override":
			return false
		}
	}
	u, err := splitURL(r.URL)
	if err != nil {
		return false
	}
	p, q, _ := strings.Cut(u.path, "?")
	for _, listed := range o.UnsafeGET {
		if ok, _ := path.Match(listed, p); ok || listed == p || strings.HasSuffix(listed, "/") && strings.HasPrefix(p, listed) {
			return false
		}
	}
	return !effects.MatchString(unescape(p)) && !actions.MatchString(unescape(q))
}

var paidPaths = regexp.MustCompile(`(?i)/(?:chat/)?completions$|/v1/(?:messages|responses|embeddings|images/|audio/|moderations|rerank)|:(?:stream)?generate(?:content|answer)|/model/[^/]+/(?:invoke|converse)|/api/(?:generate|chat|embed)`)

// paid says that a call costs money where it succeeds: models, gRPC included in what cannot be told.
func paid(r *pinpoint.Request) bool {
	u, err := splitURL(r.URL)
	if err != nil {
		return true
	}
	p, _, _ := strings.Cut(u.path, "?")
	return paidPaths.MatchString(p) || strings.HasPrefix(r.Header.Value("Content-Type"), "application/grpc")
}

func one(r *pinpoint.Request) []variant { return []variant{{request: r}} }

func bodyless(r *pinpoint.Request, method string) *pinpoint.Request {
	n := r.Clone()
	n.Method, n.Body = method, nil
	n.Header = n.Header.Without("Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Expect")
	return n
}

func withMethod(method string) func(*material, *pinpoint.Request) []variant {
	return func(_ *material, r *pinpoint.Request) []variant {
		if r.Method == method {
			return nil
		}
		return one(bodyless(r, method))
	}
}

func setField(r *pinpoint.Request, name, value string) []variant {
	if r.Header.Value(name) == value && len(r.Header.Values(name)) == 1 || strings.EqualFold(name, "Host") && r.Host() == value {
		return nil
	}
	n := r.Clone()
	n.Header = n.Header.With(name, value)
	return one(n)
}

func dropField(r *pinpoint.Request, names ...string) []variant {
	n := r.Clone()
	n.Header = n.Header.Without(names...)
	if len(n.Header) == len(r.Header) {
		return nil
	}
	return one(n)
}

// forwarding are the fields in which proxies tell of the client.
var forwarding = []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Server", "Forwarded", "X-Real-IP", "X-Client-IP", "True-Client-IP", "CF-Connecting-IP", "X-Cluster-Client-IP"}

var keyName = regexp.MustCompile(`(?i)^(?:(?:x-|ocp-)?(?:[a-z0-9]+-)*(?:api-?key|apikey|subscription-key|access-token|auth-token|auth|token)|authorization|x-amz-security-token|x-goog-api-key|dpop)$`)

// credential says that a field carries one.
func credential(name string) bool {
	return keyName.MatchString(name) && !strings.EqualFold(name, "X-CSRF-Token") && !strings.EqualFold(name, "X-XSRF-Token")
}

func carriesSecrets(r *pinpoint.Request) bool {
	for _, f := range r.Header {
		if credential(f.Name) || strings.EqualFold(f.Name, "Cookie") || strings.Contains(f.Value, "‹secret:") {
			return true
		}
	}
	return strings.Contains(r.URL, "‹secret:") || strings.Contains(string(r.Body), "‹secret:")
}

var keyParam = regexp.MustCompile(`(?i)^(?:api[-_]?key|apikey|key|access[-_]token|token|auth|subscription-key)$`)

func authDrop(_ *material, r *pinpoint.Request) []variant {
	n := r.Clone()
	dropped := false
	for _, f := range r.Header {
		if credential(f.Name) {
			n.Header, dropped = n.Header.Without(f.Name), true
		}
	}
	for _, v := range onQuery(n, func(q string) (string, bool) {
		kept := slices.DeleteFunc(strings.Split(q, "&"), func(p string) bool {
			name, _, _ := strings.Cut(p, "=")
			return keyParam.MatchString(name)
		})
		return strings.Join(kept, "&"), true
	}) {
		n, dropped = v.request, true
	}
	if n.Via.Cert != "" {
		n.Via.Cert, n.Via.Key, dropped = "", "", true
	}
	if u, err := splitURL(n.URL); err == nil && u.user != "" {
		n.URL, dropped = strings.Replace(n.URL, u.user+"@", "", 1), true
	}
	if !dropped {
		return nil
	}
	return one(n)
}

// authCorrupt changes one letter near the end of a credential; in the vault when it is sealed.
func authCorrupt(m *material, r *pinpoint.Request) []variant {
	for i, f := range r.Header {
		if !credential(f.Name) {
			continue
		}
		scheme, value, two := strings.Cut(f.Value, " ")
		if !two || strings.Contains(scheme, "‹") {
			scheme, value = "", f.Value
		}
		secret := m.c.Vault.Reveal(value)
		bad := corrupt(secret)
		if strings.EqualFold(scheme, "basic") { // the password, not the base64 around it
			if plain, err := base64.StdEncoding.DecodeString(secret); err == nil {
				bad = base64.StdEncoding.EncodeToString([]byte(corrupt(string(plain))))
			}
		}
		if bad == secret {
			continue
		}
		if secret != value { // it was sealed: it stays so
			bad = m.c.Vault.Hide(bad)
		}
		if scheme != "" {
			bad = scheme + " " + bad
		}
		n := r.Clone()
		n.Header[i].Value = bad
		return one(n)
	}
	return nil
}

// corrupt changes a letter or digit to its neighbour. Not the last one: in base64 its low bits may
// mean nothing.
func corrupt(s string) string {
	b := []byte(s)
	for i := max(len(b)-2, 0); i >= 0 && len(b) > 0; i-- {
		switch c := b[i]; {
		case c >= 'a' && c < 'z', c >= 'A' && c < 'Z', c >= '0' && c < '9':
			b[i]++
			return string(b)
		case c == 'z', c == 'Z', c == '9':
			b[i]--
			return string(b)
		}
	}
	return s
}

var sessionName = regexp.MustCompile(`(?i)sess|sid$|^sid|auth|token|jwt|login|identity|remember|\.aspx|connect\.sid`)

func sessionCookie(name string) bool {
	return sessionName.MatchString(name) && !strings.Contains(strings.ToLower(name), "csrf") && !strings.Contains(strings.ToLower(name), "xsrf")
}

func cookies(r *pinpoint.Request) (pairs []string) {
	for _, v := range r.Header.Values("Cookie") {
		for p := range strings.SplitSeq(v, ";") {
			if p = strings.TrimSpace(p); p != "" && len(pairs) < 200 {
				pairs = append(pairs, p)
			}
		}
	}
	return pairs
}

// lost are the names of cookies that a variant lacks.
func lost(from, to *pinpoint.Request) (names []string) {
	have := cookies(to)
	for _, p := range cookies(from) {
		if !slices.Contains(have, p) {
			name, _, _ := strings.Cut(p, "=")
			names = append(names, name)
		}
	}
	return names
}

// cookieOne leaves out one cookie each, the largest first.
func cookieOne(_ *material, r *pinpoint.Request) (all []variant) {
	pairs := cookies(r)
	if len(pairs) < 2 {
		return nil
	}
	order := slices.Clone(pairs)
	slices.SortStableFunc(order, func(a, b string) int { return weight(b) - weight(a) })
	for _, p := range order[:min(len(order), maxVariants)] {
		n := r.Clone()
		i := slices.Index(pairs, p)
		n.Header = n.Header.With("Cookie", strings.Join(slices.Concat(pairs[:i], pairs[i+1:]), "; "))
		name, _, _ := strings.Cut(p, "=")
		all = append(all, variant{n, "no cookie " + pinpoint.SafeText(name, 40)})
	}
	return all
}

var sealedLength = regexp.MustCompile(`‹secret:[0-9a-f]+ len=([0-9]{1,7})›`)

// weight is the size of a text with its secrets.
func weight(s string) int {
	n := len(s)
	for _, m := range sealedLength.FindAllStringSubmatch(s, 100) {
		var secret int
		fmt.Sscan(m[1], &secret)
		n += secret - len(m[0])
	}
	return n
}

func contentType(value string) func(*material, *pinpoint.Request) []variant {
	return func(_ *material, r *pinpoint.Request) []variant {
		if len(r.Body) == 0 {
			return nil
		}
		have, _, _ := strings.Cut(r.Header.Value("Content-Type"), ";")
		if strings.EqualFold(strings.TrimSpace(have), value) {
			return nil
		}
		return setField(r, "Content-Type", value)
	}
}

func origin(r *pinpoint.Request) string {
	scheme, _, _ := strings.Cut(r.URL, "://")
	scheme = strings.Replace(strings.ToLower(scheme), "ws", "http", 1)
	return scheme + "://" + r.Host()
}

func hostname(hostport string) string {
	if i := strings.LastIndexByte(hostport, ':'); i > strings.LastIndexByte(hostport, ']') {
		hostport = hostport[:i]
	}
	return strings.ToLower(strings.Trim(hostport, "[]"))
}

func hostCanonical(m *material, r *pinpoint.Request) []variant {
	u, err := splitURL(r.URL)
	if err != nil {
		return nil
	}
	name := m.o.Name
	if name == "" {
		name = u.host
		if strings.Contains(name, ":") {
			name = "[" + name + "]"
		}
	}
	name = strings.TrimSuffix(name, ".")
	if u.port != defaultPort(u.scheme) {
		name += ":" + u.port
	}
	return setField(r, "Host", name)
}

func family(want int) func(*material, *pinpoint.Request) []variant {
	return func(_ *material, r *pinpoint.Request) []variant {
		u, err := splitURL(r.URL)
		if err != nil || r.Via.Family == want || r.Via.To != "" || r.Via.From != "" || r.Via.Proxy != "" {
			return nil
		}
		n := r.Clone()
		n.Via.Family = want
		if strings.Contains(u.host, ":") || strings.Trim(u.host, "0123456789.") == "" { // an address
			to, ok := otherLoopback(u.host, u.port)
			if !ok || want == 6 != strings.HasPrefix(to, "[") {
				return nil
			}
			n.Via.To = to
		}
		return one(n)
	}
}

func schemeSwap(_ *material, r *pinpoint.Request) []variant {
	u, err := splitURL(r.URL)
	if err != nil || u.scheme != "http" && u.scheme != "https" {
		return nil
	}
	if u.scheme == "https" && (carriesSecrets(r) || u.user != "") {
		return nil // they would travel in the clear
	}
	n := r.Clone()
	other := map[string]string{"http": "https", "https": "http"}[u.scheme]
	authority := u.authority
	if u.port == defaultPort(u.scheme) {
		authority = strings.TrimSuffix(authority, ":"+u.port)
	}
	if u.user != "" {
		authority = u.user + "@" + authority
	}
	n.URL = other + "://" + authority + u.path
	return one(n)
}

func protocol(proto string) func(*material, *pinpoint.Request) []variant {
	return func(_ *material, r *pinpoint.Request) []variant {
		if wantsHTTP2(r.Proto) == wantsHTTP2(proto) || !strings.HasPrefix(r.URL, "https:") {
			return nil
		}
		n := r.Clone()
		n.Proto = proto
		return one(n)
	}
}

// onPath changes the path of the URL and nothing else; nil when it stays as it is.
func onPath(r *pinpoint.Request, change func(p string) string) []variant {
	u, err := splitURL(r.URL)
	if err != nil {
		return nil
	}
	p, q, has := strings.Cut(u.path, "?")
	n := change(p)
	if n == "" || n == p || !strings.HasPrefix(n, "/") {
		return nil
	}
	if has {
		n += "?" + q
	}
	return withTarget(r, n)
}

// withTarget is the request for another path and query of the same server.
func withTarget(r *pinpoint.Request, target string) []variant {
	u, err := splitURL(r.URL)
	if err != nil {
		return nil
	}
	scheme, rest, _ := strings.Cut(r.URL, "://")
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	if u.path == target {
		return nil
	}
	n := r.Clone()
	n.URL = scheme + "://" + rest[:end] + target
	return one(n)
}

func onQuery(r *pinpoint.Request, change func(q string) (string, bool)) []variant {
	u, err := splitURL(r.URL)
	if err != nil {
		return nil
	}
	p, q, has := strings.Cut(u.path, "?")
	n, ok := change(q)
	if !ok || has == (n != "") && n == q {
		return nil
	}
	if n != "" {
		p += "?" + n
	}
	return withTarget(r, p)
}

func queryOne(_ *material, r *pinpoint.Request) (all []variant) {
	u, err := splitURL(r.URL)
	if err != nil {
		return nil
	}
	_, q, _ := strings.Cut(u.path, "?")
	pairs := strings.Split(q, "&")
	if len(pairs) < 2 {
		return nil
	}
	order := slices.Clone(pairs)
	slices.SortStableFunc(order, func(a, b string) int { return len(b) - len(a) })
	for _, p := range order[:min(len(order), maxVariants)] {
		i := slices.Index(pairs, p)
		for _, v := range onQuery(r, func(string) (string, bool) {
			return strings.Join(slices.Concat(pairs[:i], pairs[i+1:]), "&"), true
		}) {
			name, _, _ := strings.Cut(p, "=")
			all = append(all, variant{v.request, "no parameter " + pinpoint.SafeText(name, 40)})
		}
	}
	return all
}

// plainPath is a path in normal form: escapes of printable letters undone, twice if they were
// escaped twice, no empty and no dot segments, no path parameters (RFC 3986, section 6.2.2).
func plainPath(p string) string {
	for range 2 {
		var b strings.Builder
		for i := 0; i < len(p); i++ {
			if c, ok := escape(p[i:]); ok && c > ' ' && c < 0x7f && !strings.ContainsRune(`?#\"<>^{}|`+"`", rune(c)) {
				b.WriteByte(c)
				i += 2
				continue
			}
			b.WriteByte(p[i])
		}
		p = b.String()
	}
	var kept []string
	slash := strings.HasSuffix(p, "/")
	for segment := range strings.SplitSeq(p, "/") {
		segment, _, _ = strings.Cut(segment, ";")
		switch segment {
		case "", ".":
		case "..":
			kept = kept[:max(0, len(kept)-1)]
		default:
			// A % that is no escape is one itself.
			kept = append(kept, bareness.ReplaceAllString(segment, "%25$1"))
		}
	}
	p = "/" + strings.Join(kept, "/")
	if slash && p != "/" {
		p += "/"
	}
	return p
}

var bareness = regexp.MustCompile(`%($|.$|[^0-9A-Fa-f]|[0-9A-Fa-f][^0-9A-Fa-f])`)

func escape(s string) (byte, bool) {
	if len(s) < 3 || s[0] != '%' {
		return 0, false
	}
	u, err := url.PathUnescape(s[:3])
	if err != nil || len(u) != 1 {
		return 0, false
	}
	return u[0], true
}

func onBody(change func(ctype string, body []byte) []byte) func(*material, *pinpoint.Request) []variant {
	return func(_ *material, r *pinpoint.Request) []variant {
		if len(r.Body) == 0 || r.Header.Has("Content-Encoding") {
			return nil
		}
		body := change(r.Header.Value("Content-Type"), r.Body)
		if body == nil || string(body) == string(r.Body) {
			return nil
		}
		n := r.Clone()
		n.Body = body
		return one(n)
	}
}

// newMaterial collects what the other exchanges of a case tell of the same server.
func newMaterial(c *pinpoint.Case, o *Options, random string) *material {
	m := &material{c: c, o: o, random: random}
	x := c.Exchange()
	if x == nil || x.Request == nil {
		return m
	}
	asked, err := splitURL(x.Request.URL)
	if err != nil {
		return m
	}
	p, _, _ := strings.Cut(asked.path, "?")
	for i, e := range c.Exchanges {
		if i == c.Asked || e.Request == nil || e.Answer == nil || i > 5000 {
			continue
		}
		u, err := splitURL(e.Request.URL)
		if err != nil || u.host != asked.host || e.Answer.Status == 0 || e.Answer.Status >= 400 {
			continue
		}
		known, _, _ := strings.Cut(u.path, "?")
		first, _, deep := strings.Cut(strings.TrimPrefix(known, "/"), "/")
		if prefix := "/" + first; deep && first != "" && !strings.HasPrefix(p+"/", prefix+"/") && !slices.Contains(m.prefixes, prefix) {
			m.prefixes = append(m.prefixes, prefix)
		}
		if known != p && strings.EqualFold(known, p) {
			m.cased = append(m.cased, known)
		}
		if u.target() == asked.target() && known != p && e.Request.Method == "GET" && e.Answer.Status/100 == 2 &&
			safe(o, e.Request) && !strings.Contains(u.path, "‹") && len(m.siblings) < 20 {
			m.siblings = append(m.siblings, u.path)
		}
	}
	// One of the same directory tells most.
	slices.SortStableFunc(m.siblings, func(a, b string) int {
		return near(b, p) - near(a, p)
	})
	return m
}

// near says how much of its directory a path shares with another.
func near(a, b string) int {
	a, _, _ = strings.Cut(a, "?")
	if path.Dir(a) == path.Dir(b) {
		return 1000
	}
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}
