package servers

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// IIS is what applicationHost.config and web.config files say of one site.
// https://learn.microsoft.com/en-us/iis/configuration/
type IIS struct {
	Problems []Problem
	env      Env
	layers   []layer // from the outside in
	first    pinpoint.Place
}

// layer is a piece of configuration and the path that it is for.
type layer struct {
	path string // "/" and below, without a slash at the end; "" is the whole site
	node *node
}

// node is an XML element.
type node struct {
	name  string
	attrs map[string]string
	nodes []*node
	at    pinpoint.Place
}

// find is the first element on a path of names, without regard to case.
func (n *node) find(names ...string) *node {
next:
	for _, name := range names {
		if n == nil {
			return nil
		}
		for _, c := range n.nodes {
			if strings.EqualFold(c.name, name) {
				n = c
				continue next
			}
		}
		return nil
	}
	return n
}

func (n *node) attr(name string) string {
	if n != nil {
		for k, v := range n.attrs {
			if strings.EqualFold(k, name) {
				return v
			}
		}
	}
	return ""
}

// LoadIIS reads configuration files. A web.config in the uppermost directory is that of the site; those
// below it are for their directories. applicationHost.config and its location tags come first.
func LoadIIS(files pinpoint.Files, names []string, env Env) (*IIS, error) {
	c := &IIS{env: env}
	s := &source{files: files}
	sorted := slices.Clone(names)
	slices.SortFunc(sorted, func(a, b string) int {
		host := func(n string) int {
			if strings.EqualFold(path.Base(n), "applicationHost.config") {
				return 0
			}
			return 1 + strings.Count(n, "/")
		}
		return cmp.Or(host(a)-host(b), strings.Compare(a, b))
	})
	top := ""
	for _, name := range sorted {
		text, err := s.read(name)
		if err != nil {
			return nil, fmt.Errorf("reading the configuration of IIS %q: %w", name, err)
		}
		root, err := parseXML(name, text)
		if err != nil {
			s.problem(pinpoint.Place{File: name}, "%s", err)
		}
		if root == nil {
			continue
		}
		if c.first.File == "" {
			c.first = root.at
		}
		at := ""
		if !strings.EqualFold(path.Base(name), "applicationHost.config") {
			if top == "" {
				top = path.Dir(name)
			}
			at = strings.TrimSuffix(strings.TrimPrefix(path.Dir(name), top), "/")
		}
		c.add(at, root, strings.EqualFold(path.Base(name), "applicationHost.config"))
	}
	c.Problems = s.problems
	if len(c.layers) == 0 {
		return nil, errors.New("reading the configuration of IIS: no file has a <configuration>")
	}
	return c, nil
}

// add keeps an element and its location tags.
func (c *IIS) add(at string, root *node, host bool) {
	c.layers = append(c.layers, layer{at, root})
	for _, n := range root.nodes {
		if strings.EqualFold(n.name, "location") && len(c.layers) < 10_000 {
			p := strings.Trim(n.attr("path"), "/")
			if host {
				// The first part is the name of the site.
				_, p, _ = strings.Cut(p, "/")
			}
			if p != "" && p != "." {
				p = at + "/" + p
			} else {
				p = at
			}
			c.layers = append(c.layers, layer{p, n})
		}
	}
}

func parseXML(name, text string) (*node, error) {
	d := xml.NewDecoder(strings.NewReader(text))
	d.Strict = true
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	var stack []*node
	var root *node
	count := 0
	for {
		line, _ := d.InputPos()
		t, err := d.Token()
		if err == io.EOF {
			return root, nil
		}
		if err != nil {
			return root, errors.New("the XML is broken near line " + strconv.Itoa(line))
		}
		switch t := t.(type) {
		case xml.StartElement:
			if count++; count > maxLines || len(stack) > 100 {
				return root, errBudget
			}
			line, _ = d.InputPos()
			n := &node{name: t.Name.Local, attrs: map[string]string{}, at: pinpoint.Place{File: name, Line: line}}
			for _, a := range t.Attr {
				n.attrs[a.Name.Local] = a.Value
			}
			if len(stack) > 0 {
				up := stack[len(stack)-1]
				up.nodes = append(up.nodes, n)
			} else if root == nil {
				root = n
			}
			stack = append(stack, n)
		case xml.EndElement:
			stack = stack[:max(0, len(stack)-1)]
		}
	}
}

// iisVisit is a request on its way through IIS.
type iisVisit struct {
	*walk
	c    *IIS
	path string
}

// sections are the elements of a name that hold for the path, from the outside in.
func (v *iisVisit) sections(names ...string) (list []*node) {
	type hit struct {
		depth int
		n     *node
	}
	var hits []hit
	p := strings.ToLower(v.path)
	for _, l := range v.c.layers {
		at := strings.ToLower(l.path)
		if at != "" && p != at && !strings.HasPrefix(p, at+"/") {
			continue
		}
		if n := l.node.find(names...); n != nil {
			hits = append(hits, hit{len(at), n})
		}
	}
	slices.SortStableFunc(hits, func(a, b hit) int { return a.depth - b.depth })
	for _, h := range hits {
		list = append(list, h.n)
	}
	return list
}

// setting is an attribute; the innermost section that has it wins.
func (v *iisVisit) setting(attr, otherwise string, names ...string) (string, pinpoint.Place) {
	value, at := otherwise, v.c.first
	for _, n := range v.sections(names...) {
		for k, s := range n.attrs {
			if strings.EqualFold(k, attr) {
				value, at = s, n.at
			}
		}
	}
	return value, at
}

// collection applies add, remove and clear over all sections.
func (v *iisVisit) collection(key string, names ...string) (list []*node) {
	for _, s := range v.sections(names...) {
		for _, n := range s.nodes {
			switch strings.ToLower(n.name) {
			case "clear":
				list = nil
			case "remove":
				list = slices.DeleteFunc(list, func(o *node) bool { return key != "" && strings.EqualFold(o.attr(key), n.attr(key)) })
			case "add", "allow", "deny":
				if len(list) < maxLines {
					list = append(list, n)
				}
			}
		}
	}
	return list
}

// Decide checks a request as IIS does before a handler runs: request filtering, addresses, TLS,
// authorization.
func (c *IIS) Decide(a pinpoint.Arrival) pinpoint.Decision {
	v := &iisVisit{walk: begin("iis", a, c.env.Vault), c: c}
	if a.Request != nil {
		v.path = "/" + strings.Trim(unescape(pathOf(v.target)), "/")
		for _, check := range []func() bool{v.addresses, v.filtering, v.transport, v.authorization, v.aspnet, v.listing} {
			if check() {
				break
			}
		}
	}
	return v.decision()
}

func (v *iisVisit) deny(status int, sub, cause string, at pinpoint.Place, says, directive string, fix ...string) bool {
	v.step(at, "%s", says)
	full := strconv.Itoa(status)
	if sub != "" {
		full += "." + sub
	}
	v.refuse(status, pinpoint.Clue{Cause: cause, ID: directive, Weight: pinpoint.Certain, At: at, Quote: directive, Says: fmt.Sprintf("%s (%s); IIS logs %s", says, where(at), full),
		Names: map[string]string{"directive": directive, "substatus": full, "element": directive}, Fix: fix})
	return true
}

var filterPath = []string{"system.webServer", "security", "requestFiltering"}

// filtering is <requestFiltering>.
// https://learn.microsoft.com/en-us/iis/configuration/system.webserver/security/requestfiltering/
func (v *iisVisit) filtering() bool {
	under := func(names ...string) []string { return append(slices.Clone(filterPath), names...) }
	raw := pathOf(v.target)
	limit := func(attr string, otherwise int) (int, pinpoint.Place) {
		s, at := v.setting(attr, strconv.Itoa(otherwise), under("requestLimits")...)
		n, err := strconv.Atoi(s)
		if err != nil {
			n = otherwise
		}
		return n, at
	}
	listed := func(kind, key, value, sub, what string) bool {
		names := under(kind)
		list := v.collection(key, names...)
		for _, n := range list {
			if strings.EqualFold(n.attr(key), value) && value != "" {
				if strings.EqualFold(n.attr("allowed"), "false") {
					return v.deny(404, sub, "iis-request-filtering", n.at, fmt.Sprintf("<%s> refuses the %s %s", kind, what, show(value)), kind,
						fmt.Sprintf("If this path needs it, set allowed=\"true\" for %s in a location of its own (%s)", show(value), where(n.at)))
				}
				return false
			}
		}
		s, at := v.setting("allowUnlisted", "true", names...)
		if strings.EqualFold(s, "false") && value != "" {
			return v.deny(404, sub, "iis-request-filtering", at, fmt.Sprintf("<%s allowUnlisted=\"false\"> lacks the %s %s", kind, what, show(value)), kind, fmt.Sprintf("Add %s to <%s> in %s, for the paths that need it", show(value), kind, where(at)))
		}
		return false
	}
	if n, at := limit("maxAllowedContentLength", 30_000_000); v.a.Request != nil && len(v.a.Request.Body) > n {
		return v.deny(404, "13", "body-too-large", at, fmt.Sprintf("the body has %d bytes, and maxAllowedContentLength is %d", len(v.a.Request.Body), n), "maxAllowedContentLength")
	}
	if n, at := limit("maxUrl", 4096); len(raw) > n {
		return v.deny(404, "14", "uri-too-long", at, fmt.Sprintf("the path has %d characters, and maxUrl is %d", len(raw), n), "maxUrl")
	}
	if n, at := limit("maxQueryString", 2048); len(queryOf(v.target)) > n {
		return v.deny(404, "15", "uri-too-long", at, fmt.Sprintf("the query has %d characters, and maxQueryString is %d", len(queryOf(v.target)), n), "maxQueryString")
	}
	if listed("verbs", "verb", v.method, "6", "method") {
		return true
	}
	once := unescape(raw)
	if s, at := v.setting("allowDoubleEscaping", "false", filterPath...); !strings.EqualFold(s, "true") && unescape(once) != once || !strings.EqualFold(s, "true") && strings.Contains(raw, "+") {
		return v.deny(404, "11", "iis-request-filtering", at, "the path is escaped twice, or holds a plus sign (allowDoubleEscaping is false)", "allowDoubleEscaping", "Escape the path once, and write a blank as %20")
	}
	if s, at := v.setting("allowHighBitCharacters", "true", filterPath...); strings.EqualFold(s, "false") && strings.ContainsFunc(once, func(r rune) bool { return r > 0x7f }) {
		return v.deny(404, "12", "iis-request-filtering", at, "the path holds characters that are not ASCII (allowHighBitCharacters is false)", "allowHighBitCharacters")
	}
	for _, n := range v.collection("sequence", under("denyUrlSequences")...) {
		if q := n.attr("sequence"); q != "" && strings.Contains(strings.ToLower(once), strings.ToLower(q)) {
			return v.deny(404, "5", "iis-request-filtering", n.at, fmt.Sprintf("<denyUrlSequences> refuses paths with %s", show(q)), "denyUrlSequences")
		}
	}
	for _, n := range v.collection("sequence", under("denyQueryStringSequences")...) {
		if q := n.attr("sequence"); q != "" && strings.Contains(strings.ToLower(unescape(queryOf(v.target))), strings.ToLower(q)) {
			return v.deny(404, "18", "iis-request-filtering", n.at, fmt.Sprintf("<denyQueryStringSequences> refuses queries with %s", show(q)), "denyQueryStringSequences")
		}
	}
	base := path.Base(once)
	ext := ""
	if i := strings.LastIndexByte(base, '.'); i >= 0 {
		ext = base[i:]
	}
	if listed("fileExtensions", "fileExtension", ext, "7", "extension") {
		return true
	}
	hidden := v.collection("segment", under("hiddenSegments")...)
	for segment := range strings.SplitSeq(once, "/") {
		for _, n := range hidden {
			if segment != "" && strings.EqualFold(n.attr("segment"), segment) {
				return v.deny(404, "8", "iis-request-filtering", n.at, fmt.Sprintf("<hiddenSegments> hides %s", show(segment)), "hiddenSegments", "Serve the file from another directory; the segments that are hidden keep code and data from leaking")
			}
		}
	}
	for _, n := range v.collection("header", under("requestLimits", "headerLimits")...) {
		if max, err := strconv.Atoi(n.attr("sizeLimit")); err == nil && len(v.header.Value(n.attr("header"))) > max {
			return v.deny(404, "10", "header-too-large", n.at, fmt.Sprintf("the field %s is longer than its sizeLimit of %d", show(n.attr("header")), max), "headerLimits")
		}
	}
	return false
}

// addresses is <ipSecurity>.
func (v *iisVisit) addresses() bool {
	names := []string{"system.webServer", "security", "ipSecurity"}
	list := v.collection("ipAddress", names...)
	unlisted, at := v.setting("allowUnlisted", "true", names...)
	if len(list) == 0 && !strings.EqualFold(unlisted, "false") {
		return false
	}
	if !v.client.IsValid() {
		v.unsure++
		v.possible(403, pinpoint.Clue{Cause: "ip-denied", ID: "ipSecurity", Weight: pinpoint.Fair, At: at, Says: "<ipSecurity> judges the address of the client, which is not known here"})
		return false
	}
	seen := v.client
	proxy, _ := v.setting("enableProxyMode", "false", names...)
	real, behind := v.forwardedFor()
	if strings.EqualFold(proxy, "true") && behind {
		v.client = real
	}
	action, _ := v.setting("denyAction", "Forbidden", names...)
	status, sub := 403, "6"
	switch strings.ToLower(action) {
	case "unauthorized":
		status, sub = 401, "503"
	case "notfound":
		status, sub = 404, "503"
	case "abortrequest":
		status, sub, v.closed = 0, "", true
	}
	allowed := func() (bool, *node) {
		for _, n := range list {
			text := n.attr("ipAddress")
			if mask := n.attr("subnetMask"); mask != "" {
				text += "/" + mask
			}
			if inside(v.client, text) == yes {
				return strings.EqualFold(n.attr("allowed"), "true"), n
			}
		}
		return !strings.EqualFold(unlisted, "false"), nil
	}
	ok, by := allowed()
	if ok {
		v.client, v.closed = seen, false
		return false
	}
	cause, says := "ip-allowlist-miss", fmt.Sprintf("<ipSecurity allowUnlisted=\"false\"> lacks the address %s", v.client)
	if by != nil {
		cause, says, at = "ip-denied", fmt.Sprintf("<ipSecurity> refuses the address %s", v.client), by.at
	}
	var fix []string
	if behind && private(v.client) {
		if v.client = real; func() bool { ok, _ := allowed(); return ok }() {
			cause = "client-ip-lost-behind-proxy"
			says += fmt.Sprintf(", which is a proxy in front; %s, which X-Forwarded-For names, would pass", real)
			fix = []string{fmt.Sprintf("Set enableProxyMode=\"true\" of <ipSecurity> in %s, and let only your own proxies reach this server", where(at))}
		}
		v.client = seen
	}
	return v.deny(status, sub, cause, at, says, "ipSecurity", fix...)
}

// transport is <access sslFlags>.
func (v *iisVisit) transport() bool {
	flags, at := v.setting("sslFlags", "None", "system.webServer", "security", "access")
	set := strings.FieldsFunc(flags, func(r rune) bool { return r == ',' || r == ' ' })
	has := func(f string) bool { return anyOf(set, f) }
	switch {
	case has("Ssl") && !v.a.TLS:
		return v.deny(403, "4", "https-required", at, "<access sslFlags> demands TLS, and the request is plain HTTP", "access sslFlags", "Use https://")
	case has("SslRequireCert") && v.a.TLS && v.a.Cert == "none":
		return v.deny(403, "7", "mtls-client-cert-missing", at, "<access sslFlags> demands a client certificate, and none was sent", "access sslFlags")
	case has("SslRequireCert") && v.a.Cert == "expired":
		return v.deny(403, "17", "mtls-client-cert-invalid", at, "the client certificate is out of date", "access sslFlags")
	case has("SslRequireCert") && v.a.Cert == "untrusted":
		return v.deny(403, "16", "mtls-client-cert-invalid", at, "the client certificate is not trusted", "access sslFlags")
	}
	return false
}

// ruleApplies says that a rule speaks of everyone (*) or of callers without a name (?), with this method.
// Which name a caller has is not known here.
func ruleApplies(n *node, method string) bool {
	split := func(s string) []string {
		return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
	}
	if verbs := n.attr("verbs"); verbs != "" && !anyOf(split(verbs), method) {
		return false
	}
	users := split(n.attr("users"))
	return slices.Contains(users, "*") || slices.Contains(users, "?")
}

// authorization is <security><authorization>: a deny that fits wins, else an allow is needed.
func (v *iisVisit) authorization() bool {
	names := []string{"system.webServer", "security", "authorization"}
	if len(v.sections(names...)) == 0 {
		return false
	}
	anonymous := !v.header.Has("Authorization") && !v.header.Has("Cookie")
	allowed, named := false, false
	list := v.collection("users", names...)
	for _, n := range list {
		everyone := strings.Contains(n.attr("users"), "*")
		fits := ruleApplies(n, v.method) && (everyone || anonymous)
		deny := strings.EqualFold(n.attr("accessType"), "Deny")
		if fits && deny {
			return v.deny(401, "2", "iis-url-authorization", n.at, "<authorization> denies "+show(n.attr("users")), "authorization", fmt.Sprintf("Log in with an account that %s admits, or correct the rule there", where(n.at)))
		}
		allowed = allowed || fits && !deny
		named = named || !fits && !deny && (n.attr("roles") != "" || n.attr("users") != "")
	}
	if !allowed && len(list) > 0 {
		if anonymous {
			return v.deny(401, "2", "iis-url-authorization", list[0].at, "no rule of <authorization> admits a caller without a name", "authorization", fmt.Sprintf("Log in with an account that %s admits", where(list[0].at)))
		}
		if named {
			v.unsure++
			v.possible(401, pinpoint.Clue{Cause: "iis-url-authorization", ID: "authorization", Weight: pinpoint.Fair, At: list[0].at, Says: fmt.Sprintf("<authorization> (%s) admits some users or roles; which one this caller has is not known here", where(list[0].at))})
		}
	}
	return false
}

// aspnet is <system.web><authorization>: the innermost rules first, and the first that fits decides.
func (v *iisVisit) aspnet() bool {
	sections := v.sections("system.web", "authorization")
	anonymous := !v.header.Has("Authorization") && !v.header.Has("Cookie")
	for _, s := range slices.Backward(sections) {
		for _, n := range s.nodes {
			deny := strings.EqualFold(n.name, "deny")
			if !deny && !strings.EqualFold(n.name, "allow") {
				continue
			}
			everyone := strings.Contains(n.attr("users"), "*")
			if ruleApplies(n, v.method) && (everyone || anonymous) {
				if deny {
					return v.deny(401, "2", "iis-url-authorization", n.at, fmt.Sprintf("<deny users=\"%s\"> of ASP.NET is the first rule that fits", show(n.attr("users"))), "authorization",
						fmt.Sprintf("Log in, or put an <allow> for this caller before the rule in %s", where(n.at)))
				}
				return false
			}
			if !anonymous && (n.attr("users") != "" || n.attr("roles") != "") && !everyone {
				v.unsure++
				v.step(n.at, "whether <%s> fits this caller is not known here", n.name)
			}
		}
	}
	return false
}

// listing keeps in mind that a directory without a default document is refused.
func (v *iisVisit) listing() bool {
	on, at := v.setting("enabled", "false", "system.webServer", "directoryBrowse")
	if strings.HasSuffix(pathOf(v.target), "/") && !strings.EqualFold(on, "true") {
		v.possible(403, pinpoint.Clue{Cause: "no-index-listing-off", ID: "directoryBrowse", Weight: pinpoint.Hint, At: at, Says: "directoryBrowse is off: a directory without a default document is refused with 403.14"})
	}
	return false
}
