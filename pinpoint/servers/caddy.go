package servers

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// Caddy is a configuration of Caddy 2 in its JSON form, as `caddy adapt` prints it, `caddy run --config`
// reads it and GET /config/ of the admin interface answers it. https://caddyserver.com/docs/json/
type Caddy struct {
	Problems []Problem
	env      Env
	servers  []*caddyServer
	at       pinpoint.Place
	logs     []pinpoint.LogFile
}

type caddyServer struct {
	name   string
	Listen []string        `json:"listen"`
	Routes []caddyRoute    `json:"routes"`
	TLS    json.RawMessage `json:"tls_connection_policies"`
	Strict *bool           `json:"strict_sni_host"`
	Errors struct {
		Routes []caddyRoute `json:"routes"`
	} `json:"errors"`
}

type caddyRoute struct {
	Group    string                       `json:"group"`
	Match    []map[string]json.RawMessage `json:"match"`
	Handle   []json.RawMessage            `json:"handle"`
	Terminal bool                         `json:"terminal"`
	at       pinpoint.Place               // in a Caddyfile
	nested   []caddyRoute                 // of a subroute of a Caddyfile
}

// caddyHandler has the fields of all handlers that are known here.
type caddyHandler struct {
	Handler   string          `json:"handler"`
	Routes    []caddyRoute    `json:"routes"`
	Status    json.RawMessage `json:"status_code"` // a number or a text
	Error     string          `json:"error"`
	Body      string          `json:"body"`
	Abort     bool            `json:"abort"`
	Root      string          `json:"root"`
	Hide      []string        `json:"hide"`
	Index     []string        `json:"index_names"`
	Browse    json.RawMessage `json:"browse"`
	PassThru  bool            `json:"pass_thru"`
	MaxSize   int64           `json:"max_size"`
	URI       string          `json:"uri"`
	Method    string          `json:"method"`
	Strip     string          `json:"strip_path_prefix"`
	StripEnd  string          `json:"strip_path_suffix"`
	Replace   json.RawMessage `json:"uri_substring"`
	Regexp    json.RawMessage `json:"path_regexp"`
	Upstreams []struct {
		Dial string `json:"dial"`
	} `json:"upstreams"`
	Rewrite *struct {
		Method string `json:"method"`
		URI    string `json:"uri"`
	} `json:"rewrite"`
	Respond   []json.RawMessage          `json:"handle_response"`
	Transport map[string]json.RawMessage `json:"transport"`
	Providers map[string]struct {
		Accounts []struct {
			Username string `json:"username"`
		} `json:"accounts"`
	} `json:"providers"`
}

// LoadCaddy reads a configuration in JSON from a file.
func LoadCaddy(files pinpoint.Files, conf string, env Env) (*Caddy, error) {
	s := &source{files: files}
	text, err := s.read(conf)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of Caddy %q: %w", conf, err)
	}
	return ParseCaddy([]byte(text), conf, env)
}

// ParseCaddy reads a configuration in JSON. name is where it comes from.
func ParseCaddy(data []byte, name string, env Env) (*Caddy, error) {
	var doc struct {
		Apps struct {
			HTTP struct {
				Servers map[string]*caddyServer `json:"servers"`
			} `json:"http"`
		} `json:"apps"`
		Logging struct {
			Logs map[string]struct {
				Writer struct {
					Output   string `json:"output"`
					Filename string `json:"filename"`
				} `json:"writer"`
			} `json:"logs"`
		} `json:"logging"`
	}
	if len(data) > maxFile {
		return nil, errBudget
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("reading the configuration of Caddy %q: not the JSON of Caddy: %w", name, shape(err))
	}
	c := &Caddy{env: env, at: pinpoint.Place{File: name, Line: 1 + bytes.Count(data[:max(0, bytes.Index(data, []byte(`"servers"`)))], []byte("\n"))}}
	for n, s := range doc.Apps.HTTP.Servers {
		if s != nil && len(c.servers) < 1000 {
			s.name = n
			c.servers = append(c.servers, s)
		}
	}
	slices.SortFunc(c.servers, func(a, b *caddyServer) int { return strings.Compare(a.name, b.name) })
	for n, l := range doc.Logging.Logs {
		if l.Writer.Output == "file" && l.Writer.Filename != "" && len(c.logs) < 16 {
			kind := "access"
			if n == "default" {
				kind = "error"
			}
			c.logs = append(c.logs, pinpoint.LogFile{Path: l.Writer.Filename, Product: "caddy", Kind: kind, Level: "error", Format: "json", At: c.at})
		}
	}
	slices.SortFunc(c.logs, func(a, b pinpoint.LogFile) int { return strings.Compare(a.Path, b.Path) })
	return c, nil
}

// shape is an error of json without a piece of the document.
func shape(err error) error {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("a value of another kind at %s", show(e.Field))
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("a mistake at byte %d", e.Offset)
	}
	return errors.New("it could not be read")
}

// RunningCaddy asks the admin interface on localhost:2019 for the configuration that runs now, within two
// seconds and 4 MiB. It reads only. https://caddyserver.com/docs/api#get-configpath
func RunningCaddy(ctx context.Context, address string, env Env) (*Caddy, error) {
	address = cmp.Or(address, "localhost:2019")
	if h, _, err := net.SplitHostPort(address); err != nil || h != "localhost" && h != "127.0.0.1" && h != "::1" {
		return nil, errors.New("the admin interface is asked on this machine only")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/config/", nil)
	if err != nil {
		return nil, errors.New("the address of the admin interface could not be read")
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		return nil, errors.New("the admin interface of Caddy does not answer on " + address)
	}
	defer res.Body.Close()
	if res.StatusCode != 200 {
		return nil, fmt.Errorf("the admin interface of Caddy answers %d", res.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxFile+1))
	if err != nil || len(data) > maxFile {
		return nil, errBudget
	}
	return ParseCaddy(data, "http://"+address+"/config/", env)
}

// visit is a request on its way through Caddy.
type visit struct {
	*walk
	c     *Caddy
	spot  pinpoint.Place
	place string // in the document: servers.srv0.routes.0
	root  string
	steps int
	inner int      // nested not
	conds []string // matchers around, for people
	kinds map[string]bool
}

// Decide walks the routes of the server that listens on the port of the request.
func (c *Caddy) Decide(a pinpoint.Arrival) pinpoint.Decision {
	v := &visit{walk: begin("caddy", a, c.env.Vault), c: c, spot: c.at}
	if a.Request != nil {
		v.serve()
	}
	d := v.decision()
	d.Logs = c.logs
	d.Silent = []string{"caddy-respond-403", "ip-denied", "ip-allowlist-miss", "user-agent-blocked", "method-denied-by-rule", "host-not-allowed", "auth-missing", "web-server-default-vhost", "client-ip-lost-behind-proxy", "wrong-path"}
	return d
}

func (v *visit) serve() {
	for _, s := range v.c.servers {
		if !slices.ContainsFunc(s.Listen, func(l string) bool { return caddyListens(l, v.a) }) {
			continue
		}
		v.place = "servers." + s.name
		v.step(v.spot, "the server %s takes what comes to %s", show(s.name), v.a.Local)
		if v.a.TLS && s.Strict != nil && *s.Strict && v.a.SNI != "" && hostname(v.host) != strings.ToLower(v.a.SNI) {
			v.refuse(421, pinpoint.Clue{Cause: "sni-host-mismatch", ID: "strict_sni_host", Weight: pinpoint.Certain, At: v.spot, Says: fmt.Sprintf("strict_sni_host of %s: the TLS handshake named %s and the request names %s", v.place, show(v.a.SNI), show(v.host))})
			return
		}
		if v.routes(s.Routes, v.place+".routes", 0) {
			return
		}
		if v.unsure == 0 {
			v.step(v.spot, "no route answers, so Caddy sends an empty 200")
			v.status = 200
		}
		return
	}
	v.step(v.spot, "no server listens on %s", v.a.Local)
}

func caddyListens(l string, a pinpoint.Arrival) bool {
	network, addr, ok := strings.Cut(l, "/")
	if !ok {
		network, addr = "tcp", l
	}
	if network == "unix" {
		return a.Socket != "" && "/"+strings.TrimPrefix(addr, "/") == a.Socket
	}
	host, ports, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	low, high, ranged := strings.Cut(ports, "-")
	lo, _ := strconv.Atoi(low)
	hi := lo
	if ranged {
		hi, _ = strconv.Atoi(high)
	}
	p := int(a.Local.Port())
	return p >= lo && p <= hi && p > 0 && (host == "" || host == "0.0.0.0" || host == "::" || host == "localhost" && a.Local.Addr().IsLoopback() || host == a.Local.Addr().Unmap().String())
}

// routes walks a list; it says that the request was answered.
func (v *visit) routes(list []caddyRoute, place string, depth int) bool {
	if depth > maxDepth {
		return false
	}
	groups := map[string]bool{}
	for i, r := range list {
		if v.steps++; v.steps > 20_000 {
			return false
		}
		if r.Group != "" && groups[r.Group] {
			continue
		}
		here := place + "." + strconv.Itoa(i)
		if r.at.Line > 0 {
			v.spot = r.at
		}
		kinds, text := map[string]bool{}, ""
		t := v.matches(r.Match, kinds, &text)
		if t == no {
			continue
		}
		if t == maybe {
			v.unsure++
			v.step(v.spot, "whether the matcher of %s holds is not known here: %s", here, text)
		} else if r.Group != "" {
			groups[r.Group] = true
		}
		outer, outerKinds := v.conds, v.kinds
		if text != "" {
			v.conds = append(slices.Clone(v.conds), text)
		}
		v.kinds = map[string]bool{}
		for k := range outerKinds {
			v.kinds[k] = true
		}
		for k := range kinds {
			v.kinds[k] = true
		}
		for j, raw := range r.Handle {
			var h caddyHandler
			if err := json.Unmarshal(raw, &h); err != nil {
				v.unsure++
				continue
			}
			if v.handle(h, here+".handle."+strconv.Itoa(j), depth) {
				return true
			}
		}
		if r.nested != nil && v.routes(r.nested, here+".routes", depth+1) {
			return true
		}
		v.conds, v.kinds = outer, outerKinds
		if r.Terminal && t == yes {
			return false
		}
	}
	return false
}

// caddyStatus is a status that is written as a number or as a text.
func caddyStatus(raw json.RawMessage, otherwise int) (int, bool) {
	s := strings.Trim(string(raw), `"`)
	if s == "" || s == "null" {
		return otherwise, true
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}

// handle is one handler.
func (v *visit) handle(h caddyHandler, place string, depth int) bool {
	switch h.Handler {
	case "subroute":
		return v.routes(h.Routes, place+".routes", depth+1)
	case "vars":
		if h.Root != "" {
			v.root = h.Root
		}
	case "rewrite":
		v.rewrite(h)
	case "static_response", "error":
		otherwise := 200
		if h.Handler == "error" {
			otherwise = 500
		}
		n, known := caddyStatus(h.Status, otherwise)
		if !known {
			v.unsure++
			return true
		}
		if h.Abort {
			v.closed, n = true, 0
		}
		if n < 400 && !h.Abort {
			v.status = n
			v.step(v.spot, "%s answers %d", place, n)
			return true
		}
		v.refused(h, place, n)
		return true
	case "authentication":
		return v.authenticate(h, place)
	case "request_body":
		if h.MaxSize > 0 && v.a.Request != nil && int64(len(v.a.Request.Body)) > h.MaxSize {
			v.refuse(413, pinpoint.Clue{Cause: "body-too-large", ID: "request_body", Weight: pinpoint.Strong, At: v.spot, Quote: place, Says: fmt.Sprintf("the body has %d bytes; request_body at %s admits %d", len(v.a.Request.Body), place, h.MaxSize), Names: map[string]string{"directive": "request_body max_size"}})
			return true
		}
	case "reverse_proxy":
		return v.proxy(h, place)
	case "file_server":
		return v.fileServer(h, place)
	case "headers", "encode", "templates", "map", "push", "tracing", "log_append", "copy_response", "copy_response_headers", "invoke", "metrics", "":
	default:
		v.unsure++
		v.step(v.spot, "the handler %s at %s is not known here", show(h.Handler), place)
		if strings.Contains(h.Handler, "rate_limit") {
			v.possible(429, pinpoint.Clue{Cause: "rate-limit", ID: "rate_limit", Weight: pinpoint.Fair, At: v.spot, Says: "a rate limit stands at " + place})
		}
		if h.Handler == "waf" {
			v.possible(403, pinpoint.Clue{Cause: "waf-crs-anomaly", ID: "waf", Weight: pinpoint.Fair, At: v.spot, Says: "a firewall (Coraza) stands at " + place})
		}
	}
	return false
}

func (v *visit) rewrite(h caddyHandler) {
	target := v.target
	switch {
	case strings.Contains(h.URI, "{http.request.uri}"), h.URI == "{http.request.uri.path}":
	case strings.Contains(h.URI, "{"), len(h.Replace) > 0, len(h.Regexp) > 0:
		v.unsure++
		v.step(v.spot, "what a rewrite makes of the path is not known here")
	case h.URI != "":
		target = h.URI
		if !strings.Contains(target, "?") && strings.Contains(v.target, "?") {
			target += "?" + queryOf(v.target)
		}
	}
	if h.Strip != "" {
		target = "/" + strings.TrimPrefix(strings.TrimPrefix(target, "/"+strings.Trim(h.Strip, "/")), "/")
	}
	if h.Method != "" {
		v.method = h.Method
	}
	if target != v.target {
		v.target = target
		v.shown = v.vault.Redact(pathOf(target))
		v.step(v.spot, "a rewrite makes %s of it", show(v.shown))
	}
}

// refused explains static_response and error by their matchers.
func (v *visit) refused(h caddyHandler, place string, status int) {
	directive := map[string]string{"static_response": "respond", "error": "error"}[h.Handler]
	cond := strings.Join(v.conds, " and ")
	c := pinpoint.Clue{Cause: "caddy-respond-403", ID: h.Handler, Weight: pinpoint.Certain, At: v.spot, Quote: place, Names: map[string]string{"directive": " " + directive, "rule": place, "matcher": cond}}
	c.Says = fmt.Sprintf("%s (`%s %d`) answers what matches %s", place, directive, status, cmp.Or(cond, "anything"))
	if h.Abort {
		c.Says = fmt.Sprintf("%s (`abort`) closes the connection of what matches %s", place, cmp.Or(cond, "anything"))
	}
	c.Fix = []string{fmt.Sprintf("Correct the matcher of the %s directive (%s in the JSON) so that it does not take this request in", directive, place)}
	if status == 404 {
		c.Cause = "wrong-path"
	}
	clues := []pinpoint.Clue{c}
	var kinds []string
	for k := range v.kinds {
		if k != "path" && k != "host" {
			kinds = append(kinds, k)
		}
	}
	if len(kinds) == 1 {
		more := c
		more.Names = map[string]string{"rule": place, "mechanism": "caddy-respond-403", "matcher": cond}
		switch kinds[0] {
		case "method":
			more.Cause = "method-denied-by-rule"
		case "header:user-agent":
			more.Cause = "user-agent-blocked"
		case "header:referer":
			more.Cause = "hotlink-referer"
		case "protocol":
			more.Cause = "https-required"
		case "ip", "not ip":
			more.Cause = map[string]string{"ip": "ip-denied", "not ip": "ip-allowlist-miss"}[kinds[0]]
			if real, ok := v.forwardedFor(); ok && private(v.client) && real != v.client {
				more.Cause = "client-ip-lost-behind-proxy"
				more.Says = fmt.Sprintf("the matcher judges %s, which is a proxy in front, and X-Forwarded-For names %s: %s", v.client, real, c.Says)
				more.Fix = []string{"Use the matcher client_ip instead of remote_ip, and name your own proxies in `servers { trusted_proxies static … }`"}
			}
		default:
			if f, ok := strings.CutPrefix(strings.TrimPrefix(kinds[0], "not "), "header:"); ok && secretive(f) {
				more.Cause = "api-key-missing"
				if v.header.Has(f) {
					more.Cause = "api-key-invalid"
				}
				if f == "authorization" {
					more.Cause = "auth-missing"
				}
			}
		}
		if more.Cause != c.Cause {
			clues[0].Weight = pinpoint.Strong
			clues = append([]pinpoint.Clue{more}, clues...)
		}
	}
	v.step(v.spot, "%s", c.Says)
	v.refuse(status, clues...)
}

func (v *visit) authenticate(h caddyHandler, place string) bool {
	p, basic := h.Providers["http_basic"]
	if !basic {
		v.unsure++
		v.step(v.spot, "the authentication at %s is not known here", place)
		return false
	}
	given := v.header.Value("Authorization")
	scheme, _, _ := strings.Cut(given, " ")
	cause, says := "", ""
	switch {
	case given == "":
		cause, says = "auth-missing", "the request has no credentials"
	case !strings.EqualFold(scheme, "basic"):
		cause, says = "auth-scheme-wrong", "Authorization has another scheme than Basic"
	default:
		user, _, ok := basicCredentials(given)
		known := slices.ContainsFunc(p.Accounts, func(a struct {
			Username string `json:"username"`
		}) bool {
			return a.Username == user
		})
		if ok && !known && !strings.Contains(given, "‹secret:") {
			cause, says = "basic-credentials-wrong", "no account has this name"
		}
	}
	if cause == "" {
		v.unsure++
		v.possible(401, pinpoint.Clue{Cause: "basic-credentials-wrong", ID: "http_basic", Weight: pinpoint.Hint, At: v.spot, Quote: place, Says: "the password is compared at " + place + ", which was not done here"})
		return false
	}
	v.refuse(401, pinpoint.Clue{Cause: cause, ID: "http_basic", Weight: pinpoint.Certain, At: v.spot, Quote: place, Says: fmt.Sprintf("basic_auth at %s asks for a password: %s", place, says), Names: map[string]string{"directive": "basic_auth"}})
	return true
}

func (v *visit) proxy(h caddyHandler, place string) bool {
	asks := h.Rewrite != nil && h.Rewrite.Method == "GET" && len(h.Respond) > 0 // forward_auth
	if len(h.Upstreams) == 0 {
		v.step(v.spot, "the servers of reverse_proxy at %s are found while it runs", place)
		return !asks
	}
	dial := h.Upstreams[0].Dial
	if p, ok := strings.CutPrefix(dial, "unix/"); ok {
		dial = "/" + strings.TrimPrefix(p, "/")
	}
	_, tls := h.Transport["tls"]
	scheme := map[bool]string{true: "https", false: "http"}[tls]
	target := v.target
	if asks && h.Rewrite.URI != "" {
		target = h.Rewrite.URI
	}
	r := v.outgoing(scheme, target)
	r.Method = v.method
	if v.client.IsValid() {
		r.Header = r.Header.Without("X-Forwarded-For")
		r.Header = append(r.Header, pinpoint.Field{Name: "X-Forwarded-For", Value: v.client.String()})
	}
	n := len(v.next)
	if asks {
		r.Method, r.Body = "GET", nil
		v.step(v.spot, "forward_auth at %s asks %s first", place, show(dial))
		v.unsure++
		v.possible(v.a.Status, pinpoint.Clue{Cause: "gw-authorizer-denied", ID: "forward_auth", Weight: pinpoint.Fair, At: v.spot, Quote: place, Says: fmt.Sprintf("forward_auth at %s lets %s decide; Caddy passes its refusal on", place, show(dial)), Names: map[string]string{"url": show(dial)}})
	}
	if strings.Contains(dial, "{") {
		return !asks
	}
	v.forward(v.spot, dial, tls, r)
	for i := n; i < len(v.next); i++ {
		if asks {
			v.next[i].Why = "auth_request"
		}
		if _, ok := h.Transport["root"]; ok || strings.Contains(string(h.Transport["protocol"]), "fastcgi") {
			v.next[i].Script = path.Join(v.root, pathOf(v.target))
		}
	}
	return !asks
}

func (v *visit) fileServer(h caddyHandler, place string) bool {
	root := cmp.Or(h.Root, v.root, ".")
	if strings.Contains(root, "{") {
		v.unsure++
		return true
	}
	uri := unescape(pathOf(v.target))
	if strings.IndexByte(uri, 0) >= 0 {
		return true
	}
	name := path.Join(root, path.Clean("/"+uri))
	for _, pat := range h.Hide {
		hit := false
		if strings.ContainsAny(pat, "/") {
			p := pat
			if !path.IsAbs(p) {
				p = path.Join("/", p)
			}
			ok, _ := path.Match(p, name)
			hit = ok || strings.HasPrefix(name, strings.TrimSuffix(p, "/")+"/")
		} else {
			for part := range strings.SplitSeq(name, "/") {
				ok, _ := path.Match(pat, part)
				hit = hit || ok
			}
		}
		if hit {
			v.refuse(404, pinpoint.Clue{Cause: "wrong-path", ID: "hide", Weight: pinpoint.Certain, At: v.spot, Quote: place, Says: fmt.Sprintf("file_server at %s hides %s (hide %s) and answers 404", place, show(name), show(pat)),
				Names: map[string]string{"directive": "hide " + pat}, Fix: []string{"Publish the file under a path that hide does not name; the list keeps sources and configurations from leaking"}})
			return true
		}
	}
	if path.IsAbs(name) {
		v.files = append(v.files, pinpoint.Access{Path: name, Want: "read", Says: "file_server", At: v.spot})
	}
	if v.method != "GET" && v.method != "HEAD" && !h.PassThru {
		v.possible(405, pinpoint.Clue{Cause: "method-not-allowed", ID: "file_server", Weight: pinpoint.Strong, At: v.spot, Quote: place, Says: fmt.Sprintf("file_server at %s serves GET and HEAD only, in newer versions of Caddy", place)})
	}
	return !h.PassThru
}

// matches says whether one of the sets of a route holds; no set holds always.
func (v *visit) matches(sets []map[string]json.RawMessage, kinds map[string]bool, text *string) truth {
	if len(sets) == 0 {
		return yes
	}
	result := no
	var all []string
	for _, set := range sets[:min(len(sets), 500)] {
		t := yes
		var parts []string
		local := map[string]bool{}
		names := make([]string, 0, len(set))
		for n := range set {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			m := v.matcher(n, set[n], local)
			t = min(t, m)
			shown := string(set[n])
			if n == "header" && secretiveHeader(set[n]) {
				shown = "…"
			}
			parts = append(parts, n+" "+show(shown))
		}
		if t > no {
			all = append(all, strings.Join(parts, " and "))
			for k := range local {
				kinds[k] = true
			}
		}
		result = max(result, t)
		if result == yes {
			break
		}
	}
	*text = show(strings.Join(all, " or "))
	return result
}

func secretiveHeader(raw json.RawMessage) bool {
	var m map[string]json.RawMessage
	json.Unmarshal(raw, &m)
	for k := range m {
		if secretive(k) {
			return true
		}
	}
	return false
}

// matcher is one request matcher. https://caddyserver.com/docs/json/apps/http/servers/routes/match/
func (v *visit) matcher(name string, raw json.RawMessage, kinds map[string]bool) truth {
	var list []string
	switch name {
	case "host":
		kinds["host"] = true
		if json.Unmarshal(raw, &list) != nil {
			return maybe
		}
		h, result := hostname(v.host), no
		for _, w := range list {
			if strings.Contains(w, "{") {
				result = max(result, maybe)
				continue
			}
			result = max(result, sure(hostFits(strings.ToLower(w), h)))
		}
		return result
	case "path":
		kinds["path"] = true
		if json.Unmarshal(raw, &list) != nil {
			return maybe
		}
		p := strings.ToLower(cleanPath(unescape(pathOf(v.target))))
		result := no
		for _, w := range list {
			if strings.Contains(w, "{") || strings.Contains(w, "%") {
				result = max(result, maybe)
				continue
			}
			result = max(result, sure(pathFits(strings.ToLower(w), p)))
		}
		return result
	case "path_regexp":
		kinds["path"] = true
		var m struct{ Pattern string }
		if json.Unmarshal(raw, &m) != nil {
			return maybe
		}
		return compile(m.Pattern, false).holds(cleanPath(unescape(pathOf(v.target))))
	case "method":
		kinds["method"] = true
		if json.Unmarshal(raw, &list) != nil {
			return maybe
		}
		return sure(slices.Contains(list, v.method))
	case "protocol":
		kinds["protocol"] = true
		var s string
		json.Unmarshal(raw, &s)
		switch s {
		case "https":
			return sure(v.a.TLS)
		case "http":
			return sure(!v.a.TLS)
		}
		return maybe
	case "remote_ip", "client_ip":
		kinds["ip"] = true
		var m struct {
			Ranges    []string
			Forwarded bool
		}
		if json.Unmarshal(raw, &m) != nil || !v.client.IsValid() {
			return maybe
		}
		a := v.client
		if real, ok := v.forwardedFor(); ok && m.Forwarded {
			a = real
		} else if ok && name == "client_ip" && private(v.client) {
			return maybe // it depends on trusted_proxies
		}
		result := no
		for _, r := range m.Ranges {
			result = max(result, inside(a, r))
		}
		return result
	case "header":
		var m map[string][]string
		if json.Unmarshal(raw, &m) != nil {
			return maybe
		}
		result := yes
		for f, want := range m {
			kinds["header:"+strings.ToLower(f)] = true
			have := v.header.Values(f)
			if strings.EqualFold(f, "host") {
				have = []string{v.host}
			}
			if want == nil {
				result = min(result, sure(len(have) == 0))
				continue
			}
			t := sure(len(want) == 0 && len(have) > 0)
			for _, w := range want {
				if strings.Contains(w, "{") {
					t = max(t, maybe)
				}
				for _, h := range have {
					t = max(t, sure(valueFits(w, h)))
				}
			}
			result = min(result, t)
		}
		return result
	case "header_regexp":
		var m map[string]struct{ Pattern string }
		if json.Unmarshal(raw, &m) != nil {
			return maybe
		}
		result := yes
		for f, want := range m {
			kinds["header:"+strings.ToLower(f)] = true
			t := no
			for _, h := range v.header.Values(f) {
				t = max(t, compile(want.Pattern, false).holds(h))
			}
			result = min(result, t)
		}
		return result
	case "not":
		var sets []map[string]json.RawMessage
		if json.Unmarshal(raw, &sets) != nil {
			return maybe
		}
		local := map[string]bool{}
		result := no
		if v.inner++; v.inner > maxDepth {
			return maybe
		}
		defer func() { v.inner-- }()
		for _, set := range sets[:min(len(sets), 100)] {
			t := yes
			for n, r := range set {
				if v.steps++; v.steps > 20_000 {
					return maybe
				}
				t = min(t, v.matcher(n, r, local))
			}
			result = max(result, t)
		}
		for k := range local {
			if k == "ip" {
				k = "not ip"
			}
			kinds[k] = true
		}
		return result.not()
	}
	kinds[name] = true
	return maybe
}

func cleanPath(p string) string {
	c := path.Clean("/" + p)
	if strings.HasSuffix(p, "/") && c != "/" {
		c += "/"
	}
	return c
}

func hostFits(want, host string) bool {
	if want == host {
		return true
	}
	a, b := strings.Split(want, "."), strings.Split(host, ".")
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != "*" && a[i] != b[i] {
			return false
		}
	}
	return true
}

func pathFits(want, p string) bool {
	switch n := len(want); {
	case want == "*":
		return true
	case n > 1 && want[0] == '*' && want[n-1] == '*' && strings.Count(want, "*") == 2:
		return strings.Contains(p, want[1:n-1])
	case n > 0 && strings.Count(want, "*") == 1 && want[0] == '*':
		return strings.HasSuffix(p, want[1:])
	case n > 0 && strings.Count(want, "*") == 1 && want[n-1] == '*':
		return strings.HasPrefix(p, want[:n-1])
	}
	ok, _ := path.Match(want, p)
	return ok
}

func valueFits(want, have string) bool {
	start, end := strings.HasPrefix(want, "*"), strings.HasSuffix(want, "*")
	core := strings.TrimSuffix(strings.TrimPrefix(want, "*"), "*")
	switch {
	case want == "*":
		return true
	case start && end:
		return strings.Contains(have, core)
	case start:
		return strings.HasSuffix(have, core)
	case end:
		return strings.HasPrefix(have, core)
	}
	return want == have
}
