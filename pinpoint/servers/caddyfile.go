package servers

import (
	"encoding/json"
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// DiscoverCaddy finds the configuration of a process from its arguments.
func DiscoverCaddy(args []string) string {
	for i := 1; i < len(args); i++ {
		if (args[i] == "--config" || args[i] == "-config" || args[i] == "-c") && i+1 < len(args) {
			return args[i+1]
		}
		if v, ok := strings.CutPrefix(args[i], "--config="); ok {
			return v
		}
	}
	return "/etc/caddy/Caddyfile"
}

// caddyLine is a line of a Caddyfile, with the block behind it.
type caddyLine struct {
	words []string
	block []*caddyLine
	at    pinpoint.Place
	open  bool // it has a block
}

func (l *caddyLine) word(i int) string {
	if i < len(l.words) {
		return l.words[i]
	}
	return ""
}

// caddyOrder is the order in which directives stand after `caddy adapt`.
// https://caddyserver.com/docs/caddyfile/directives#directive-order
var caddyOrder = []string{"tracing", "map", "vars", "root", "log", "header", "copy_response_headers", "request_body", "redir", "method", "rewrite", "uri", "try_files", "basicauth", "basic_auth", "forward_auth", "request_header",
	"encode", "push", "templates", "invoke", "handle", "handle_path", "route", "abort", "error", "respond", "metrics", "reverse_proxy", "php_fastcgi", "file_server", "acme_server"}

// LoadCaddyfile reads the common part of a Caddyfile. Directives that are not known here are in Problems.
// https://caddyserver.com/docs/caddyfile
func LoadCaddyfile(files pinpoint.Files, conf string, env Env) (*Caddy, error) {
	r := &caddyReader{src: &source{files: files}, env: env, snippets: map[string][]*caddyLine{}}
	text, err := r.src.read(conf)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of Caddy %q: %w", conf, err)
	}
	c := &Caddy{env: env, at: pinpoint.Place{File: conf, Line: 1}}
	lines := r.parse(conf, text)
	// A file without braces around it is one site.
	if len(lines) > 0 && !slices.ContainsFunc(lines, func(l *caddyLine) bool {
		return l.open && !slices.Contains(caddyOrder, l.word(0)) && !strings.HasPrefix(l.word(0), "@")
	}) {
		lines = []*caddyLine{{words: lines[0].words, block: lines[1:], at: lines[0].at, open: true}}
	}
	byListen := map[string]*caddyServer{}
	for i, l := range lines {
		switch {
		case i == 0 && len(l.words) == 0:
			continue // global options
		case strings.HasPrefix(l.word(0), "(") && strings.HasSuffix(l.word(0), ")"):
			r.snippets[strings.Trim(l.word(0), "()")] = l.block
			continue
		case l.word(0) == "import":
			continue
		}
		if len(c.servers) > 1000 {
			break
		}
		routes := r.site(r.imports(l.block, 0), 0)
		for _, addr := range l.words {
			addr = strings.TrimSuffix(r.vars(addr), ",")
			if addr == "" {
				continue
			}
			host, ports := caddyAddress(addr)
			for _, port := range ports {
				s := byListen[port]
				if s == nil {
					s = &caddyServer{name: "port" + port, Listen: []string{":" + port}}
					byListen[port] = s
					c.servers = append(c.servers, s)
				}
				site := caddyRoute{nested: routes, Terminal: true, at: l.at}
				if host != "" {
					raw, _ := json.Marshal([]string{host})
					site.Match = []map[string]json.RawMessage{{"host": raw}}
				}
				s.Routes = append(s.Routes, site)
			}
		}
	}
	// The most specific host goes first.
	for _, s := range c.servers {
		slices.SortStableFunc(s.Routes, func(a, b caddyRoute) int { return specific(b, "host") - specific(a, "host") })
	}
	c.logs = r.logs
	c.Problems = r.src.problems
	return c, nil
}

// specific is how far a matcher narrows: the length of its only pattern.
func specific(r caddyRoute, name string) int {
	if len(r.Match) == 0 {
		return 0
	}
	var list []string
	json.Unmarshal(r.Match[0][name], &list)
	if len(list) != 1 {
		return 1
	}
	if strings.Contains(list[0], "*") {
		return 2 + len(strings.ReplaceAll(list[0], "*", ""))
	}
	return 3 + len(list[0])
}

// caddyAddress is host and ports of a site. A host without a port is served on 443 and redirected from 80.
func caddyAddress(addr string) (host string, ports []string) {
	scheme, rest, ok := strings.Cut(addr, "://")
	if !ok {
		scheme, rest = "", addr
	}
	rest, _, _ = strings.Cut(rest, "/")
	host, port := rest, ""
	if h, p, err := net.SplitHostPort(rest); err == nil {
		host, port = h, p
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	switch {
	case port != "":
		return host, []string{port}
	case scheme == "http":
		return host, []string{"80"}
	}
	return host, []string{"443"}
}

type caddyReader struct {
	src      *source
	env      Env
	snippets map[string][]*caddyLine
	logs     []pinpoint.LogFile
	matchers []map[string][]map[string]json.RawMessage // named, by scope
	count    int
}

// vars fills {$NAME} and {$NAME:default} in.
func (r *caddyReader) vars(s string) string {
	for range 16 {
		i := strings.Index(s, "{$")
		if i < 0 {
			break
		}
		j := strings.IndexByte(s[i:], '}')
		if j < 0 {
			break
		}
		name, otherwise, _ := strings.Cut(s[i+2:i+j], ":")
		v, ok := r.env.Vars[name]
		if !ok {
			v = otherwise
		}
		s = s[:i] + v + s[i+j+1:]
	}
	return s
}

// parse reads lines and blocks.
func (r *caddyReader) parse(name, text string) []*caddyLine {
	root := &caddyLine{}
	stack := []*caddyLine{root}
	n := 0
	var words []string
	at := pinpoint.Place{File: name}
	flush := func(open bool) {
		if len(words) == 0 && !open {
			return
		}
		l := &caddyLine{words: words, at: at, open: open}
		words = nil
		up := stack[len(stack)-1]
		up.block = append(up.block, l)
		if open && len(stack) < maxDepth {
			stack = append(stack, l)
		}
	}
	quoted := ""
	for raw := range strings.Lines(text) {
		n++
		if r.count++; r.count > maxLines {
			break
		}
		s := raw
		if quoted != "" { // a word in backquotes goes on
			i := strings.IndexByte(s, '`')
			if i < 0 {
				if len(quoted) < maxText {
					quoted += s
				}
				continue
			}
			words, quoted, s = append(words, quoted+s[:i]), "", s[i+1:]
		}
		joined := false
		for {
			s = strings.TrimLeft(s, " \t\r\n")
			if s == "" || s[0] == '#' {
				break
			}
			if len(words) == 0 {
				at.Line = n
			}
			if s == "\\" || strings.HasPrefix(s, "\\\n") || strings.HasPrefix(s, "\\\r\n") {
				joined = true
				break
			}
			switch s[0] {
			case '"':
				var b strings.Builder
				i := 1
				for i < len(s) && s[i] != '"' {
					if s[i] == '\\' && i+1 < len(s) && s[i+1] == '"' {
						i++
					}
					b.WriteByte(s[i])
					i++
				}
				words, s = append(words, b.String()), s[min(len(s), i+1):]
				continue
			case '`':
				i := strings.IndexByte(s[1:], '`')
				if i < 0 {
					quoted, s = s[1:], ""
					joined = true
				} else {
					words, s = append(words, s[1:i+1]), s[i+2:]
				}
				continue
			}
			i := strings.IndexAny(s, " \t\r\n")
			if i < 0 {
				i = len(s)
			}
			w := s[:i]
			s = s[i:]
			switch {
			case w == "{":
				flush(true)
			case w == "}":
				flush(false)
				if len(stack) > 1 {
					stack = stack[:len(stack)-1]
				}
			default:
				words = append(words, r.vars(w))
			}
		}
		// Addresses of a site may go on behind a comma.
		if !joined && !(len(stack) == 1 && len(words) > 0 && strings.HasSuffix(words[len(words)-1], ",")) {
			flush(false)
		}
	}
	flush(false)
	return root.block
}

// imports puts snippets and files in.
func (r *caddyReader) imports(list []*caddyLine, depth int) (out []*caddyLine) {
	for _, l := range list {
		if l.word(0) != "import" || depth > 8 {
			out = append(out, l)
			continue
		}
		if s, ok := r.snippets[l.word(1)]; ok {
			out = append(out, r.imports(s, depth+1)...)
			continue
		}
		name := l.word(1)
		if !path.IsAbs(name) {
			name = path.Join(path.Dir(l.at.File), name)
		}
		names, _ := r.src.files.Glob(name)
		slices.Sort(names)
		if len(names) == 0 {
			r.src.problem(l.at, "nothing to import as %s", show(l.word(1)))
		}
		for _, n := range names {
			if text, err := r.src.read(n); err == nil {
				out = append(out, r.imports(r.parse(n, text), depth+1)...)
			}
		}
		if len(out) > maxLines {
			return out
		}
	}
	return out
}

// site turns directives to routes, in Caddy's order.
func (r *caddyReader) site(list []*caddyLine, depth int) []caddyRoute {
	routes := r.routes(list, depth)
	slices.SortStableFunc(routes, func(a, b ordered) int {
		if a.rank != b.rank {
			return a.rank - b.rank
		}
		if a.name == "root" || a.name == "header" { // the least specific first, so that the others overwrite
			return specific(a.route, "path") - specific(b.route, "path")
		}
		return specific(b.route, "path") - specific(a.route, "path")
	})
	return plain(routes)
}

func plain(list []ordered) []caddyRoute {
	out := make([]caddyRoute, 0, len(list))
	for _, o := range list {
		out = append(out, o.route)
	}
	return out
}

type ordered struct {
	name  string
	rank  int
	route caddyRoute
}

// routes turns directives to routes, in the order of the file.
func (r *caddyReader) routes(list []*caddyLine, depth int) (out []ordered) {
	if depth > maxDepth {
		return nil
	}
	named := map[string][]map[string]json.RawMessage{}
	r.matchers = append(r.matchers, named)
	defer func() { r.matchers = r.matchers[:len(r.matchers)-1] }()
	for _, l := range list {
		if name, ok := strings.CutPrefix(l.word(0), "@"); ok {
			named[name] = r.matcherSet(l)
		}
	}
	group := fmt.Sprintf("%p", named)
	for _, l := range list {
		name := l.word(0)
		if strings.HasPrefix(name, "@") || name == "" {
			continue
		}
		args := l.words[1:]
		route := caddyRoute{at: l.at}
		if len(args) > 0 && (strings.HasPrefix(args[0], "/") || args[0] == "*" || strings.HasPrefix(args[0], "@")) {
			switch {
			case args[0] == "*":
			case args[0][0] == '@':
				for _, m := range slices.Backward(r.matchers) {
					if set, ok := m[args[0][1:]]; ok {
						route.Match = set
						break
					}
				}
				if route.Match == nil {
					route.Match = []map[string]json.RawMessage{{"unknown": nil}}
				}
			default:
				route.Match = matchOn("path", args[:1])
			}
			args = args[1:]
		}
		add := func(h map[string]any) {
			raw, err := json.Marshal(h)
			if err == nil {
				route.Handle = append(route.Handle, raw)
			}
		}
		first := ""
		if len(args) > 0 {
			first = args[0]
		}
		sub := func(name string) *caddyLine {
			for _, b := range l.block {
				if b.word(0) == name {
					return b
				}
			}
			return &caddyLine{}
		}
		switch name {
		case "respond", "error":
			h := map[string]any{"handler": map[string]string{"respond": "static_response", "error": "error"}[name]}
			for _, a := range args {
				if n, err := strconv.Atoi(a); err == nil && len(a) == 3 {
					h["status_code"] = n
				}
			}
			add(h)
		case "abort":
			add(map[string]any{"handler": "static_response", "abort": true})
		case "redir":
			code := "302"
			if len(args) > 1 {
				code = map[string]string{"permanent": "301", "temporary": "302", "html": "200"}[args[1]]
				if code == "" {
					code = args[1]
				}
			}
			add(map[string]any{"handler": "static_response", "status_code": code})
		case "basicauth", "basic_auth":
			var accounts []map[string]string
			for _, b := range l.block {
				accounts = append(accounts, map[string]string{"username": b.word(0)})
			}
			add(map[string]any{"handler": "authentication", "providers": map[string]any{"http_basic": map[string]any{"accounts": accounts}}})
		case "root":
			add(map[string]any{"handler": "vars", "root": first})
		case "rewrite":
			add(map[string]any{"handler": "rewrite", "uri": first})
			route.Group = group + "rewrite"
		case "method":
			add(map[string]any{"handler": "rewrite", "method": first})
		case "uri":
			switch {
			case first == "strip_prefix" && len(args) > 1:
				add(map[string]any{"handler": "rewrite", "strip_path_prefix": args[1]})
			default:
				add(map[string]any{"handler": "rewrite", "uri": "{unknown}"})
			}
		case "try_files":
			r.src.problem(l.at, "try_files is not evaluated")
			continue
		case "request_body":
			if n, ok := caddySize(sub("max_size").word(1)); ok {
				add(map[string]any{"handler": "request_body", "max_size": n})
			}
		case "reverse_proxy", "forward_auth", "php_fastcgi":
			h := map[string]any{"handler": "reverse_proxy"}
			dials := args
			for _, b := range l.block {
				if b.word(0) == "to" {
					dials = append(slices.Clone(dials), b.words[1:]...)
				}
			}
			var ups []map[string]string
			transport := map[string]any{}
			for _, d := range dials[:min(len(dials), 16)] {
				scheme, rest, ok := strings.Cut(d, "://")
				if !ok {
					scheme, rest = "http", d
				}
				rest, _, _ = strings.Cut(rest, "?")
				if !strings.HasPrefix(rest, "unix/") {
					rest, _, _ = strings.Cut(rest, "/")
					if !strings.Contains(rest, ":") {
						rest += map[string]string{"https": ":443"}[scheme]
						if scheme != "https" {
							rest += ":80"
						}
					} else if strings.HasPrefix(rest, ":") {
						rest = "localhost" + rest
					}
				}
				if scheme == "https" {
					transport["tls"] = map[string]any{}
				}
				ups = append(ups, map[string]string{"dial": rest})
			}
			h["upstreams"] = ups
			if name == "forward_auth" {
				h["rewrite"] = map[string]string{"method": "GET", "uri": sub("uri").word(1)}
				h["handle_response"] = []any{map[string]any{}}
			}
			if name == "php_fastcgi" {
				transport["protocol"] = "fastcgi"
			}
			if len(transport) > 0 {
				h["transport"] = transport
			}
			add(h)
			if name == "php_fastcgi" && route.Match == nil {
				route.Match = matchOn("path", []string{"*.php"})
			}
		case "handle", "handle_path", "route":
			inner := r.imports(l.block, 0)
			if name == "route" {
				route.nested = plain(r.routes(inner, depth+1))
			} else {
				route.nested = r.site(inner, depth+1)
				route.Group = group + "handle"
			}
			if name == "handle_path" {
				raw, _ := json.Marshal(map[string]any{"handler": "rewrite", "strip_path_prefix": strings.TrimRight(specificPath(route), "*/")})
				route.Handle = append(route.Handle, raw)
			}
			if route.nested == nil {
				route.nested = []caddyRoute{}
			}
		case "file_server":
			h := map[string]any{"handler": "file_server"}
			var hide []string
			for _, b := range l.block {
				switch b.word(0) {
				case "hide":
					hide = append(hide, b.words[1:]...)
				case "root":
					h["root"] = b.word(1)
				case "pass_thru":
					h["pass_thru"] = true
				}
			}
			h["hide"] = append(hide, l.at.File)
			add(h)
		case "log":
			if out := sub("output"); out.word(1) == "file" && len(r.logs) < 16 {
				r.logs = append(r.logs, pinpoint.LogFile{Path: out.word(2), Product: "caddy", Kind: "access", Format: "json", At: l.at})
			}
			continue
		case "tls", "bind", "handle_errors", "header", "request_header", "encode", "templates", "push", "map", "vars", "metrics", "tracing", "import", "acme_server", "copy_response", "copy_response_headers":
			continue
		default:
			r.src.problem(l.at, "the directive %s is not known here", show(name))
			add(map[string]any{"handler": name})
		}
		rank := slices.Index(caddyOrder, name)
		if name == "handle_path" {
			rank = slices.Index(caddyOrder, "handle")
		}
		if rank < 0 {
			rank = slices.Index(caddyOrder, "basicauth")
		}
		out = append(out, ordered{name, rank, route})
	}
	return out
}

func specificPath(r caddyRoute) string {
	var list []string
	if len(r.Match) > 0 {
		json.Unmarshal(r.Match[0]["path"], &list)
	}
	if len(list) > 0 {
		return list[0]
	}
	return ""
}

func matchOn(name string, v any) []map[string]json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return []map[string]json.RawMessage{{name: raw}}
}

func caddySize(s string) (int64, bool) {
	s = strings.ToUpper(strings.TrimSpace(s))
	unit := int64(1)
	for _, u := range []struct {
		name string
		n    int64
	}{{"KIB", 1 << 10}, {"MIB", 1 << 20}, {"GIB", 1 << 30}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}} {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			s, unit = rest, u.n
			break
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 40)
	return n * unit, err == nil && n >= 0
}

// matcherSet reads @name, on one line or in a block. Lines of one name are alternatives in a list.
func (r *caddyReader) matcherSet(l *caddyLine) []map[string]json.RawMessage {
	lines := l.block
	if len(l.words) > 1 {
		lines = []*caddyLine{{words: l.words[1:], block: l.block, at: l.at, open: l.open}}
	}
	return []map[string]json.RawMessage{r.matcherLines(lines, 0)}
}

func (r *caddyReader) matcherLines(lines []*caddyLine, depth int) map[string]json.RawMessage {
	set := map[string]any{}
	var nots []any
	for _, l := range lines {
		name, args := l.word(0), l.words[min(1, len(l.words)):]
		switch name {
		case "path", "host", "method":
			old, _ := set[name].([]string)
			set[name] = append(old, args...)
		case "remote_ip", "client_ip":
			old, _ := set[name].(map[string]any)
			if old == nil {
				old = map[string]any{}
				set[name] = old
			}
			var ranges []string
			for _, a := range args {
				switch a {
				case "forwarded":
					old["forwarded"] = true
				case "private_ranges":
					ranges = append(ranges, "192.168.0.0/16", "172.16.0.0/12", "10.0.0.0/8", "127.0.0.1/8", "fd00::/8", "::1")
				default:
					ranges = append(ranges, a)
				}
			}
			had, _ := old["ranges"].([]string)
			old["ranges"] = append(had, ranges...)
		case "header":
			old, _ := set[name].(map[string]any)
			if old == nil {
				old = map[string]any{}
				set[name] = old
			}
			field := ""
			if len(args) > 0 {
				field = args[0]
			}
			switch {
			case strings.HasPrefix(field, "!"):
				old[field[1:]] = nil
			case len(args) == 1:
				old[field] = []string{}
			case len(args) > 1:
				had, _ := old[field].([]string)
				old[field] = append(had, strings.Join(args[1:], " "))
			}
		case "protocol":
			set[name] = first(args)
		case "path_regexp":
			if len(args) > 0 {
				set[name] = map[string]string{"pattern": args[len(args)-1]}
			}
		case "header_regexp":
			if len(args) > 1 {
				set[name] = map[string]any{args[len(args)-2]: map[string]string{"pattern": args[len(args)-1]}}
			}
		case "not":
			if depth < maxDepth {
				inner := l.block
				if len(args) > 0 {
					inner = []*caddyLine{{words: args, block: l.block, at: l.at}}
				}
				nots = append(nots, r.matcherLines(inner, depth+1))
				set["not"] = nots
			}
		default:
			set[name] = args
		}
	}
	out := map[string]json.RawMessage{}
	for k, v := range set {
		raw, err := json.Marshal(v)
		if err == nil {
			out[k] = raw
		}
	}
	return out
}
