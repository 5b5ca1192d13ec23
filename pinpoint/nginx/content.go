package nginx

import (
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// root is the directory that a URI is looked for in, and how many bytes of the URI its name replaces.
func (w *walk) root() (dir string, cut int, v value) {
	s := w.loc
	for ; s != nil; s = s.parent {
		d := s.own("root", "alias")
		if d == nil {
			continue
		}
		v = w.expand(d.arg(0))
		dir = absolute(v.s, w.c.Prefix)
		if strings.HasSuffix(v.s, "/") && !strings.HasSuffix(dir, "/") {
			dir += "/"
		}
		if d.name == "root" {
			return strings.TrimSuffix(dir, "/"), 0, v
		}
		if s.location().re != nil {
			return dir, -1, v
		}
		return dir, len(s.location().name), v
	}
	return path.Join(w.c.Prefix, "html"), 0, value{deps: []string{}}
}

// file is where a URI lies. It is not known where an alias meets a URI that was rewritten: nginx
// answers 500.
func (w *walk) file(uri string) (string, value) {
	dir, cut, v := w.root()
	switch {
	case !v.known():
	case cut != 0 && !w.valid:
		v.why = "alias cannot be used where the URI was rewritten"
	case cut < 0:
		if w.addURI {
			dir += uri
		}
		return dir, v
	case cut > len(uri):
		return dir, v
	default:
		return dir + uri[cut:], v
	}
	return "", v
}

// tryFiles runs try_files; it belongs to its own level only.
// https://nginx.org/en/docs/http/ngx_http_core_module.html#try_files
func (w *walk) tryFiles() (rc, phase int) {
	d := w.loc.own("try_files")
	if d == nil || len(d.args) < 2 || w.loc.kind == "if" || w.loc.kind == "limit_except" {
		return goOn, -1
	}
	dir, cut, v := w.root()
	if !v.known() {
		w.doubt(d.at, "the directory of try_files cannot be evaluated: %s", cmp.Or(v.why, "it holds a secret"))
		return goOn, -1
	}
	if cut != 0 && !w.valid {
		return w.broken(d.at, "alias meets a rewritten URI"), -1
	}
	for _, a := range d.args[:len(d.args)-1] {
		name := w.expand(strings.TrimSuffix(a, "/"))
		if !name.known() {
			w.doubt(d.at, "%s of try_files cannot be evaluated: %s", a, cmp.Or(name.why, "it holds a secret"))
			continue
		}
		tail := name.s
		if cut > 0 && len(tail) >= cut && len(w.uri) >= cut && tail[:cut] == w.uri[:cut] {
			tail = tail[cut:]
		}
		if dir == "" || cut == 0 && !strings.HasPrefix(tail, "/") {
			// nginx glues the two together as they are
			w.step(d.at, "try_files %s has no slash in front and is glued to the root", a)
		}
		full := dir + tail
		wantDir := strings.HasSuffix(a, "/") // as it is written, not as it is expanded
		want := "read"
		if wantDir {
			want = "search"
		}
		w.files = append(w.files, pinpoint.Access{Path: path.Clean("/" + full), Want: want, Says: "try_files " + a, At: d.at, Optional: true})
		there, isDir := w.exists(full)
		if !there || isDir != wantDir {
			w.tried = append(w.tried, path.Clean("/"+full))
			continue
		}
		w.step(d.at, "try_files finds %s", show(full))
		switch {
		case cut > 0:
			w.uri = w.uri[:min(cut, len(w.uri))] + tail
		case cut < 0:
			w.uri, w.addURI = tail, true
		default:
			w.uri = tail
		}
		return goOn, -1
	}
	last := d.args[len(d.args)-1]
	to := w.expand(last)
	w.step(d.at, "try_files finds nothing and goes to %s", last)
	if to.why != "" {
		w.doubt(d.at, "%s of try_files cannot be evaluated: %s", last, to.why)
		return finished, -1
	}
	switch {
	case strings.HasPrefix(to.s, "="):
		code, err := strconv.Atoi(to.s[1:])
		if err != nil || code < 0 || code > 999 {
			return 500, -1
		}
		if code >= 400 {
			w.missing(code, d)
		}
		if code == 0 {
			return finished, -1
		}
		if code == 444 || code >= 300 || code == 201 || code == 204 {
			return code, -1
		}
		w.finish(code)
		return finished, -1
	case strings.HasPrefix(to.s, "@"):
		phase = w.toNamed(d.at, to.s)
		if w.ended {
			return finished, -1
		}
		return goOn, phase
	}
	uri, args, _ := strings.Cut(to.s, "?")
	phase = w.redirect(d.at, uri, args)
	if w.ended {
		return finished, -1
	}
	return goOn, phase
}

// content serves or hands on. It returns the phase of an internal redirect, else -1.
func (w *walk) content() (rc, phase int) {
	if h := w.handler; h != nil {
		switch h.name {
		case "proxy_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass", "grpc_pass", "memcached_pass":
			// The handler stays from an if that held before, but the level that holds last says where to.
			s := w.loc
			for s.own(h.name) == nil && (s.kind == "if" || s.kind == "limit_except") {
				s = s.parent
			}
			if h = s.own(h.name); h == nil {
				return w.broken(w.loc.d.at, "the if that holds last does not say where to hand the request on"), -1
			}
			w.from = s
			return w.forward(h), -1
		case "empty_gif", "stub_status":
			if w.method != "GET" && w.method != "HEAD" {
				w.methodRefused(h.at, h.name)
				return 405, -1
			}
			w.finish(200)
		case "flv", "mp4":
			return w.static()
		default:
			w.doubt(h.at, "%s answers here; it is not evaluated", h.name)
		}
		return finished, -1
	}
	return w.static()
}

func (w *walk) static() (rc, phase int) {
	slash := strings.HasSuffix(w.uri, "/")
	reads := w.method == "GET" || w.method == "HEAD"
	if !reads && w.method != "POST" && !w.davTakes() {
		w.methodRefused(w.loc.d.at, "files")
		return 405, -1
	}
	name, v := w.file(w.uri)
	if !v.known() {
		if v.why == "alias cannot be used where the URI was rewritten" {
			return w.broken(w.loc.d.at, v.why), -1
		}
		w.doubt(w.loc.d.at, "which file is served cannot be evaluated: %s", cmp.Or(v.why, "it holds a secret"))
		return finished, -1
	}
	if slash {
		if d := w.loc.last("random_index"); d != nil && d.arg(0) == "on" && reads {
			w.files = append(w.files, pinpoint.Access{Path: path.Clean("/" + name), Want: "list", Says: "random_index", At: d.at})
			w.doubt(d.at, "random_index picks a file")
			return finished, -1
		}
		if reads || w.method == "POST" {
			if rc, phase, done := w.index(name); done {
				return rc, phase
			}
		}
		if d := w.loc.last("autoindex"); d != nil && d.arg(0) == "on" && reads {
			listed := name[:max(len(name)-1, 1)] // the last byte goes, slash or not
			w.files = append(w.files, pinpoint.Access{Path: path.Clean("/" + listed), Want: "list", Says: "autoindex", At: d.at})
			if _, dir := w.exists(listed); !dir {
				w.missing(404, nil)
				return 404, -1
			}
			w.step(d.at, "autoindex lists %s", show(name))
			w.serve()
			return finished, -1
		}
	}
	if rc, done := w.dav(name); done {
		return rc, -1
	}
	if slash {
		return w.noIndex(name), -1
	}
	w.files = append(w.files, pinpoint.Access{Path: path.Clean("/" + name), Want: "read", Says: "file of the URI", At: w.loc.d.at})
	if rc := w.symlinks(name); rc != 0 {
		return rc, -1
	}
	there, dir := w.exists(name)
	switch {
	case !there:
		w.missing(404, nil)
		return 404, -1
	case dir:
		w.target = w.uri + "/"
		if w.args != "" {
			w.target += "?" + w.args
		}
		w.step(w.loc.d.at, "%s is a directory, so nginx redirects to %s", show(name), show(w.target))
		return 301, -1
	case w.method == "POST":
		w.methodRefused(w.loc.d.at, "files")
		return 405, -1
	}
	w.step(w.loc.d.at, "the file %s is served", show(name))
	w.serve()
	return finished, -1
}

// index looks for an index file. https://nginx.org/en/docs/http/ngx_http_index_module.html
func (w *walk) index(dir string) (rc, phase int, done bool) {
	names := []string{"index.html"}
	at := w.loc.d.at
	if list := w.loc.find("index"); list != nil {
		names, at = nil, list[0].at
		for _, d := range list {
			names = append(names, d.args...)
		}
	}
	tested := false
	for _, n := range names {
		v := w.expand(n)
		if !v.known() {
			w.doubt(at, "the index %s cannot be evaluated", n)
			continue
		}
		if strings.HasPrefix(v.s, "/") {
			phase = w.redirect(at, v.s, w.args)
			if w.ended {
				return finished, -1, true
			}
			return goOn, phase, true
		}
		full := dir + v.s
		w.files = append(w.files, pinpoint.Access{Path: path.Clean("/" + full), Want: "read", Says: "index", At: at, Optional: true})
		if there, _ := w.exists(full); there {
			w.step(at, "the index %s is there", show(full))
			phase = w.redirect(at, w.uri+v.s, w.args)
			if w.ended {
				return finished, -1, true
			}
			return goOn, phase, true
		}
		if !tested {
			tested = true
			there, isDir := w.exists(dir)
			if !there {
				w.missing(404, nil)
				return 404, -1, true
			}
			if !isDir { // an alias without a slash at the end
				return w.broken(at, dir+" is not a directory"), -1, true
			}
		}
	}
	return goOn, -1, false
}

func (w *walk) noIndex(dir string) int {
	at := w.loc.d.at
	names := "index.html"
	d := w.loc.last("index")
	c := pinpoint.Clue{
		Cause: "no-index-listing-off", ID: "index", Weight: pinpoint.Certain, At: at,
		Names: map[string]string{"path": show(dir), "uri": show(w.uri), "directive": "index"},
	}
	if d != nil {
		names, c.At, c.Quote = strings.Join(d.args, " "), d.at, d.text()
	}
	w.files = append(w.files, pinpoint.Access{Path: path.Clean("/" + dir), Want: "search", Says: "directory of the URI", At: at})
	c.Says = fmt.Sprintf("%s leads to the directory %s, which holds none of the index files (%s), and autoindex is off: nginx does not list it", show(w.uri), show(dir), names)
	c.Fix = []string{
		fmt.Sprintf("Put an index file (%s) into %s, or hand %s to the application (`try_files $uri $uri/ …` or proxy_pass in %s, %s)", names, show(dir), show(w.uri), w.loc.location().title(), where(at)),
		"`autoindex on;` only where everybody may see the names of the files",
	}
	w.step(at, "no index in %s, and listing is off", show(dir))
	w.refuse(403, c)
	return 403
}

// missing explains a file that is not there.
func (w *walk) missing(code int, by *directive) {
	at := w.loc.d.at
	name, v := w.file(w.uri)
	if !v.known() {
		return
	}
	if by != nil {
		at = by.at
	}
	if w.a.Status == 403 && !w.errorPage {
		w.doubt(at, "%s is not to be seen from here, but the client saw 403 and not 404: the rights along the path decide", show(name))
		return
	}
	w.step(at, "there is no file %s", show(name))
	names := map[string]string{"path": show(name), "location": w.loc.location().title()}
	var clues []pinpoint.Clue
	if other, d, says := w.alias(name); other != "" {
		weight := pinpoint.Fair
		if there, _ := w.exists(other); there {
			weight = pinpoint.Certain
		}
		clues = append(clues, pinpoint.Clue{
			Cause: "nginx-alias-trap", ID: d.name, Weight: weight, At: d.at, Quote: d.text(), Names: names,
			Says: fmt.Sprintf("%s looks for %s: %s", w.loc.location().title(), show(name), says),
			Fix:  []string{fmt.Sprintf("In %s, %s. The file would then be %s", where(d.at), w.aliasRemedy(d), show(other))},
		})
	}
	if found := w.otherCase(name); found != "" {
		clues = append(clues, pinpoint.Clue{
			Cause: "fs-case-or-name", ID: "file", Weight: pinpoint.Strong, At: at, Names: names,
			Says: fmt.Sprintf("there is no %s, but there is %s: names differ by case here", show(name), show(found)),
			Fix:  []string{fmt.Sprintf("Ask for %s as the file is written, or rename the file", path.Base(found))},
		})
	}
	if len(clues) == 0 || clues[0].Weight < pinpoint.Strong {
		clues = append(clues, pinpoint.Clue{
			Cause: "wrong-path", ID: "file", Weight: pinpoint.Fair, At: at, Names: names,
			Says: fmt.Sprintf("%s leads to %s, and that file is not there for nginx", show(w.uri), show(name)),
			Fix:  []string{fmt.Sprintf("Correct the URL, put the file at %s, or correct root in %s", show(name), where(at))},
		})
	}
	w.refuse(code, clues...)
}

// alias looks for a slash that alias and location do not share, and for a root that repeats the name
// of its location. It returns the path that was meant.
func (w *walk) alias(name string) (meant string, d *directive, says string) {
	for s := w.loc; s != nil; s = s.parent {
		d = s.own("root", "alias")
		if d == nil {
			continue
		}
		l := s.location()
		if l.kind != "location" || l.re != nil || l.mod == "@" || len(l.name) > len(w.uri) || len(variablesIn(d.arg(0))) > 0 {
			return "", nil, ""
		}
		dir, tail := absolute(d.arg(0), w.c.Prefix), w.uri[len(l.name):]
		switch {
		case d.name == "alias" && strings.HasSuffix(l.name, "/") && !strings.HasSuffix(d.arg(0), "/"):
			return dir + "/" + tail, d, "the name of the location ends with a slash and the alias does not, so the two are glued together"
		case d.name == "root" && len(l.name) > 1 && strings.HasSuffix(strings.TrimSuffix(dir, "/"), strings.TrimSuffix(l.name, "/")):
			return dir + "/" + strings.TrimPrefix(tail, "/"), d, "root adds the whole URI, so the name of the location stands twice in the path"
		}
		return "", nil, ""
	}
	return "", nil, ""
}

func (w *walk) aliasRemedy(d *directive) string {
	if d.name == "alias" {
		return fmt.Sprintf("write `alias %s/;`", d.arg(0))
	}
	l := w.loc.location()
	if strings.HasSuffix(l.name, "/") {
		return fmt.Sprintf("write `alias %s/;` in place of root", strings.TrimSuffix(d.arg(0), "/"))
	}
	return fmt.Sprintf("write `root %s;`", strings.TrimSuffix(strings.TrimSuffix(d.arg(0), "/"), l.name))
}

func (w *walk) otherCase(name string) string {
	if len(name) > 4096 {
		return ""
	}
	found, err := w.c.files.Glob(globQuote.Replace(path.Dir(name)) + "/*")
	if err != nil || len(found) > 10_000 {
		return ""
	}
	for _, f := range found {
		if f != name && strings.EqualFold(path.Base(f), path.Base(name)) {
			return f
		}
	}
	return ""
}

// davTakes says that dav_methods names the method.
func (w *walk) davTakes() bool {
	if !slices.Contains([]string{"PUT", "DELETE", "MKCOL", "COPY", "MOVE"}, w.method) {
		return false
	}
	d := w.loc.last("dav_methods")
	return d != nil && slices.Contains(d.args, w.method)
}

// dav serves the methods of the DAV module. https://nginx.org/en/docs/http/ngx_http_dav_module.html
func (w *walk) dav(name string) (rc int, done bool) {
	if !w.davTakes() {
		return 0, false
	}
	d := w.loc.last("dav_methods")
	if w.method == "PUT" && strings.HasSuffix(w.uri, "/") {
		w.step(d.at, "PUT cannot write to a collection")
		w.refuse(409, pinpoint.Clue{Cause: "nginx-dav-denied", ID: "dav_methods", Weight: pinpoint.Certain, At: d.at, Quote: d.text(),
			Says: "PUT names a collection (a slash at the end); nginx writes files only", Fix: []string{"Name the file in the URL"}})
		return 409, true
	}
	target := path.Dir(path.Clean("/" + name))
	w.files = append(w.files, pinpoint.Access{Path: target, Want: "write", Says: w.method + " by dav_methods", At: d.at})
	w.step(d.at, "%s is done by the DAV module in %s", w.method, show(target))
	if w.a.Status >= 400 {
		w.possible(w.a.Status, pinpoint.Clue{Cause: "nginx-dav-denied", ID: "dav_methods", Weight: pinpoint.Hint, At: d.at, Quote: d.text(),
			Says:  fmt.Sprintf("%s writes to %s as the worker; rights there, dav_access and create_full_put_path decide", w.method, show(target)),
			Names: map[string]string{"path": show(target)}})
	}
	w.serve()
	return finished, true
}

func (w *walk) methodRefused(at pinpoint.Place, what string) {
	c := pinpoint.Clue{
		Cause: "method-not-allowed", ID: "static", Weight: pinpoint.Certain, At: at,
		Says:  fmt.Sprintf("%s in %s serves %s, which nginx does for GET and HEAD only; %s gets 405 without a line in error.log", w.loc.location().title(), where(at), what, w.method),
		Names: map[string]string{"method": w.method, "location": w.loc.location().title()},
		Fix:   []string{fmt.Sprintf("Send %s to the application: name its route in a location with proxy_pass or fastcgi_pass, as %s does not. Or use GET", w.method, where(at))},
	}
	if slices.Contains([]string{"PUT", "DELETE", "MKCOL", "COPY", "MOVE"}, w.method) {
		if d := w.loc.last("dav_methods"); d != nil {
			c.Cause, c.ID, c.At, c.Quote = "nginx-dav-denied", "dav_methods", d.at, d.text()
			c.Says = fmt.Sprintf("%s in %s does not list %s", d.text(), where(d.at), w.method)
			c.Fix = []string{fmt.Sprintf("Add %s to dav_methods in %s, for this location only and behind authentication", w.method, where(d.at))}
		}
	}
	w.step(at, "%s is no method for %s", w.method, what)
	w.refuse(405, c)
}

// symlinks is disable_symlinks, as far as links can be seen here.
func (w *walk) symlinks(name string) int {
	d := w.loc.last("disable_symlinks")
	if d == nil || d.arg(0) == "off" {
		return 0
	}
	reader, ok := w.c.files.(interface{ Readlink(string) (string, error) })
	from := ""
	for _, a := range d.args {
		if f, found := strings.CutPrefix(a, "from="); found {
			from = absolute(w.expand(f).s, "/")
		}
	}
	c := pinpoint.Clue{Cause: "fs-symlink-denied", ID: "disable_symlinks", At: d.at, Quote: d.text(), Names: map[string]string{"path": show(name), "directive": "disable_symlinks"},
		Fix: []string{fmt.Sprintf("Serve the real path, or start the check behind the link: `disable_symlinks %s from=…;` in %s", d.arg(0), where(d.at))}}
	if !ok {
		w.doubt(d.at, "disable_symlinks refuses links in the path; links are not read here")
		if w.a.Status == 403 {
			c.Weight, c.Says = pinpoint.Hint, fmt.Sprintf("`%s` in %s refuses paths with symbolic links", d.text(), where(d.at))
			w.possible(403, c)
		}
		return 0
	}
	at := ""
	for i, part := range strings.Split(path.Clean("/"+name), "/") {
		if i == 0 || i > 256 {
			continue
		}
		at += "/" + part
		if from != "" && (at == from || strings.HasPrefix(strings.TrimSuffix(from, "/")+"/", at+"/")) {
			continue
		}
		to, err := reader.Readlink(at)
		if err != nil {
			continue
		}
		c.Names["path"] = show(at)
		c.Says = fmt.Sprintf("%s is a symbolic link to %s, and `%s` in %s refuses links", show(at), show(to), d.text(), where(d.at))
		if d.arg(0) == "if_not_owner" {
			w.doubt(d.at, "%s is a symbolic link; disable_symlinks if_not_owner compares the owners", show(at))
			c.Weight = pinpoint.Fair
			w.possible(403, c)
			return 0
		}
		c.Weight = pinpoint.Certain
		w.step(d.at, "%s is a symbolic link", show(at))
		w.refuse(403, c)
		return 403
	}
	return 0
}

// scriptName is $fastcgi_script_name and $fastcgi_path_info.
func (w *walk) scriptName() (script, info string) {
	script = w.uri
	if strings.HasSuffix(script, "/") {
		if d := w.loc.last("fastcgi_index"); d != nil {
			script += d.arg(0)
		}
	}
	if d := w.loc.last("fastcgi_split_path_info"); d != nil {
		if g, _ := w.match(w.re(d.arg(0), false), w.uri); len(g) > 2 {
			return g[1], g[2]
		}
	}
	return script, ""
}

// scriptFile is the file that a FastCGI server is asked to run, "" when that is not known.
// https://nginx.org/en/docs/http/ngx_http_fastcgi_module.html#fastcgi_param
func (w *walk) scriptFile() string {
	name := ""
	for _, d := range w.loc.find("fastcgi_param") {
		if d.arg(0) != "SCRIPT_FILENAME" {
			continue
		}
		name = ""
		if v := w.expand(d.arg(1)); v.known() && strings.HasPrefix(v.s, "/") && len(v.s) <= 4096 {
			name = v.s
		}
	}
	return name
}

// escape writes a URI as nginx sends it on (NGX_ESCAPE_URI).
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '#' || c == '%' || c == '?' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// forward hands the request to the next hop, as that will see it.
// https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_pass
func (w *walk) forward(d *directive) int {
	target := w.expand(d.arg(0))
	if !target.known() {
		w.doubt(d.at, "where %s leads cannot be evaluated: %s", d.name, cmp.Or(target.why, "it holds a secret"))
		return finished
	}
	variable := len(variablesIn(d.arg(0))) > 0
	scheme, rest, ok := strings.Cut(target.s, "://")
	kind := strings.TrimSuffix(d.name, "_pass")
	if !ok {
		scheme, rest = kind, target.s
	}
	host, uri := rest, ""
	if strings.HasPrefix(rest, "unix:") {
		if i := strings.IndexByte(rest[5:], ':'); i >= 0 {
			host, uri = rest[:5+i], rest[6+i:]
		}
	} else if i := strings.IndexAny(rest, "/?"); i >= 0 {
		host, uri = rest[:i], rest[i:]
		if uri[0] == '?' {
			uri = "/" + uri
		}
	}
	w.proxyHost = host
	if strings.HasPrefix(host, "unix:") {
		w.proxyHost = "localhost"
	}
	sent := escape(w.uri)
	query := w.args
	switch {
	case kind != "proxy":
		if kind == "fastcgi" || kind == "scgi" || kind == "uwsgi" {
			sent, _ = w.scriptName()
			sent = escape(sent)
		}
	case variable && uri != "":
		sent, query, _ = strings.Cut(uri, "?")
	case uri == "" && w.rawURI:
		sent, query = w.unparsed, ""
	case uri != "":
		if w.valid {
			base, _, _ := strings.Cut(uri, "?")
			name := w.from.location().name
			sent = base + escape(w.uri[min(len(name), len(w.uri)):])
		}
	}
	full := sent
	if query != "" {
		full += "?" + query
	}
	w.step(d.at, "%s hands on to %s as %s", d.name, show(target.s), show(full))
	to, others := w.upstream(host)
	if len(others) > 0 {
		w.step(d.at, "the group %s has other servers too: %s", host, show(strings.Join(others, ", ")))
	}
	next := pinpoint.Arrival{At: w.a.At, Status: w.a.Status, TLS: scheme == "https" || scheme == "grpcs"}
	r := w.a.Request.Clone()
	r.Via = pinpoint.Via{To: to}
	if h := w.loc.setting(kind+"_method", ""); h != "" && kind == "proxy" {
		if v := w.expand(h); v.known() {
			r.Method = v.s
		}
	} else {
		r.Method = w.method
	}
	if w.sub {
		r.Body = nil
	}
	r.URL = scheme + "://" + w.proxyHost + full
	r.Header = w.passed(kind)
	r.Proto = "HTTP/1.0"
	if v := w.loc.setting("proxy_http_version", "1.0"); v != "1.0" && kind == "proxy" {
		r.Proto = "HTTP/" + v
	}
	if kind == "grpc" {
		r.Proto = "HTTP/2"
	}
	next.Request = r
	next.Local, next.Client = w.reach(to, scheme)
	if socket, ok := strings.CutPrefix(to, "unix:"); ok {
		next.Socket, _, _ = strings.Cut(socket, ":")
	}
	if kind == "fastcgi" {
		next.Script = w.scriptFile()
	}
	if next.TLS {
		if w.loc.setting("proxy_ssl_server_name", "off") == "on" {
			next.SNI = w.proxyHost
			if n := w.loc.last("proxy_ssl_name"); n != nil {
				next.SNI = w.expand(n.arg(0)).s
			}
		} else {
			w.step(d.at, "proxy_ssl_server_name is off, so the next hop gets no server name in the TLS handshake")
		}
		next.Cert = "none"
		if w.loc.last("proxy_ssl_certificate") != nil {
			next.Cert = ""
		}
	}
	w.next = append(w.next, next)
	w.cached(kind)
	if w.loc.setting(kind+"_intercept_errors", "off") == "on" {
		w.intercepted(kind)
	}
	w.status = 0
	if w.errorStatus > 0 {
		w.status = w.errorStatus
	}
	w.ended = true
	return finished
}

// upstream is the first server of a group, or the host itself, with the others.
func (w *walk) upstream(host string) (to string, others []string) {
	u := w.c.upstreams[host]
	if u == nil {
		return host, nil
	}
	for _, s := range u.block {
		if s.name != "server" || slices.Contains(s.args, "down") || slices.Contains(s.args, "backup") {
			continue
		}
		if to == "" {
			to = s.arg(0)
		} else if len(others) < 8 {
			others = append(others, s.arg(0))
		}
	}
	return cmp.Or(to, host), others
}

// reach is the address of the next hop and the one that it sees.
func (w *walk) reach(to, scheme string) (local netip.AddrPort, client netip.Addr) {
	if strings.HasPrefix(to, "unix:") {
		return local, client
	}
	port := uint16(80)
	if scheme == "https" || scheme == "grpcs" {
		port = 443
	}
	host := to
	if i := strings.LastIndexByte(to, ':'); i >= 0 && !strings.HasSuffix(to, "]") {
		if n, err := strconv.ParseUint(to[i+1:], 10, 16); err == nil {
			host, port = to[:i], uint16(n)
		}
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" {
		host = "127.0.0.1"
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return local, client
	}
	local = netip.AddrPortFrom(a, port)
	if own := w.a.Local.Addr().Unmap(); own.IsValid() && own == a {
		client = a
	} else if a.IsLoopback() {
		client = netip.MustParseAddr("127.0.0.1")
		if a.Is6() {
			client = netip.IPv6Loopback()
		}
	} else if own.IsValid() && own.Is4() == a.Is4() && !own.IsLoopback() && !own.IsUnspecified() {
		client = own
	}
	if d := w.loc.last("proxy_bind"); d != nil {
		if b, ok := address(w.expand(d.arg(0)).s); ok {
			client = b
		}
	}
	return local, client
}

// passed are the fields that the next hop sees.
func (w *walk) passed(kind string) pinpoint.Header {
	h := w.header
	if w.loc.setting(kind+"_pass_request_headers", "on") == "off" {
		h = nil
		w.stripped(w.loc.last(kind+"_pass_request_headers"), "all fields of the request")
	}
	if kind != "proxy" && kind != "grpc" {
		for _, d := range w.loc.find(kind + "_param") {
			if d.arg(0) == "HTTP_AUTHORIZATION" && d.arg(1) == "" && w.header.Has("Authorization") {
				h = h.Without("Authorization")
				w.stripped(d, "Authorization")
			}
		}
		return append(pinpoint.Header(nil), h.With("Host", w.rawHost)...)
	}
	set := w.loc.find(kind + "_set_header")
	h = h.Without("Host", "Connection", "Keep-Alive", "Expect", "Upgrade", "TE")
	h = append(pinpoint.Header(nil), h...)
	h = h.With("Host", w.proxyHost)
	if kind == "proxy" {
		h = h.With("Connection", "close")
	}
	lost := w.header.Has("Authorization")
	written := map[string]bool{}
	for _, d := range set {
		name := d.arg(0)
		v := w.expand(d.arg(1))
		if v.why != "" {
			w.step(d.at, "%s is sent on, but its value is not known here: %s", name, v.why)
			h = h.Without(name)
			continue
		}
		key := strings.ToLower(name)
		if !written[key] {
			h = h.Without(name)
			written[key] = true
		}
		if v.s != "" && credential(name) && len(variablesIn(d.arg(1))) == 0 {
			// A credential that stands in the configuration does not leave it.
			h = append(h, pinpoint.Field{Name: name, Value: fmt.Sprintf("%s00000000 len=%d›", sealedMark, len(v.s))})
		} else if v.s != "" {
			h = append(h, pinpoint.Field{Name: name, Value: v.s})
		} else if strings.EqualFold(name, "Authorization") && lost {
			w.stripped(d, "Authorization")
		}
	}
	if !h.Has("X-Forwarded-For") && !h.Has("X-Real-IP") && w.client.IsValid() {
		w.step(w.loc.d.at, "the next hop is not told the address of the client: it sees nginx, and no X-Forwarded-For")
	}
	return h
}

// stripped notes a credential that does not reach the next hop.
func (w *walk) stripped(d *directive, what string) {
	w.step(d.at, "`%s` takes %s away before the next hop", d.text(), what)
	if w.a.Status != 401 && w.a.Status != 403 || !w.header.Has("Authorization") && !w.header.Has("Cookie") {
		return
	}
	weight := pinpoint.Fair
	if w.a.Status == 401 {
		weight = pinpoint.Strong
	}
	w.possible(w.a.Status, pinpoint.Clue{
		Cause: "auth-header-stripped", ID: d.name, Weight: weight, At: d.at, Quote: d.text(),
		Says:  fmt.Sprintf("`%s` in %s takes %s away, so the next hop never sees the credential", d.text(), where(d.at), what),
		Names: map[string]string{"directive": d.text(), "field": "Authorization"},
		Fix:   []string{fmt.Sprintf("Take `%s` out of %s, or write `proxy_set_header Authorization $http_authorization;` there, if the next hop is to check the credential", d.text(), where(d.at))},
	})
}

// cached notes that a refusal of the next hop may come from the cache.
// https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_cache_valid
func (w *walk) cached(kind string) {
	cache := w.loc.last(kind + "_cache")
	if cache == nil || cache.arg(0) == "off" || w.a.Status < 400 {
		return
	}
	if w.method != "GET" && w.method != "HEAD" {
		if m := w.loc.last(kind + "_cache_methods"); m == nil || !slices.Contains(m.args, w.method) {
			return
		}
	}
	for _, d := range w.loc.find(kind + "_cache_valid") {
		if len(d.args) < 2 { // a time alone is for 200, 301 and 302
			continue
		}
		codes, long := d.args[:len(d.args)-1], d.args[len(d.args)-1]
		if !slices.Contains(codes, "any") && !slices.Contains(codes, strconv.Itoa(w.a.Status)) {
			continue
		}
		key := w.loc.setting(kind+"_cache_key", "$scheme$proxy_host$request_uri")
		w.step(d.at, "answers of status %d are kept for %s", w.a.Status, long)
		w.possible(w.a.Status, pinpoint.Clue{
			Cause: "cdn-cached-refusal", ID: d.name, Weight: pinpoint.Fair, At: d.at, Quote: d.text(),
			Says:  fmt.Sprintf("`%s` in %s keeps a %d of the next hop for %s in the cache %s: it may be shown after its cause is gone ($upstream_cache_status HIT says so)", d.text(), where(d.at), w.a.Status, long, cache.arg(0)),
			Names: map[string]string{"directive": d.text(), "zone": cache.arg(0), "key": key},
			Fix:   []string{fmt.Sprintf("Name the statuses to keep in %s, for example `%s 200 301 302 404 %s;`, so that refusals are not kept; remove the entry of the key %s from the directory of the cache", where(d.at), d.name, long, key)},
		})
		return
	}
}

// intercepted tells which refusals of the next hop are shown as something else.
func (w *walk) intercepted(kind string) {
	for _, d := range w.loc.find("error_page") {
		var codes []string
		over := ""
		for _, a := range d.args[:max(len(d.args)-1, 0)] {
			if o, ok := strings.CutPrefix(a, "="); ok {
				over = o
			} else {
				codes = append(codes, a)
			}
		}
		w.step(d.at, "%s_intercept_errors is on: a %s of the next hop is replaced by %s", kind, strings.Join(codes, ", "), d.arg(len(d.args)-1))
		if over != "" && over == strconv.Itoa(w.a.Status) || over == "" && slices.Contains(codes, strconv.Itoa(w.a.Status)) {
			w.possible(w.a.Status, pinpoint.Clue{
				Cause: "refusal-masked", ID: "error_page", Weight: pinpoint.Hint, At: d.at, Quote: d.text(),
				Says:  fmt.Sprintf("`%s` in %s replaces the page of the next hop's refusal, which may have been another status", d.text(), where(d.at)),
				Names: map[string]string{"directive": d.text()},
				Fix:   []string{"Log $upstream_status beside $status to see what the next hop answered"},
			})
		}
	}
}
