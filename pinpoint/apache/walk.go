package apache

import (
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// handle runs one request to its end. nil means that it is served or forwarded.
func (r *request) handle() *refusal {
	if ref := r.lookup(); ref != nil {
		return ref
	}
	return r.respond()
}

// lookup is all of a request but its answer: translation, sections, access, fix-ups. httpd does the
// same for a sub-request.
func (r *request) lookup() *refusal {
	if *r.walks++; *r.walks > maxWalks {
		r.step(pinpoint.Place{}, "too many internal redirects; the walk was ended")
		return r.refuse(500)
	}
	r.merged, r.kind, r.pathInfo, r.pending = nil, "", "", nil
	r.prefix, r.prefixRoot, r.proxied, r.script, r.handler, r.forced, r.filename, r.current = "", "", "", false, "", "", "", ""
	r.scope = r.srv.scope
	if !r.sub {
		r.environment(r.scope)
	}
	quiet := r.quiet
	r.quiet = true
	r.pre = r.locations(r.srv.scope)
	r.quiet = quiet
	r.merged = nil
	r.scope = r.pre
	if ref := r.translate(); ref != nil {
		return ref
	}
	if r.method == "TRACE" && !r.sub {
		if d := r.srv.set["traceenable"]; d != nil && strings.EqualFold(d.arg(0), "off") {
			c := r.clue("method-not-allowed", pinpoint.Certain, d.at)
			c.Quote, c.Names["directive"] = d.String(), d.String()
			c.Says = "“" + d.String() + "” at " + placeText(d.at) + " refuses TRACE."
			c.Fix = []string{"Use another method; TRACE is off for good reason."}
			return r.refuse(405, c)
		}
		r.handler = "trace"
		return nil
	}
	if r.proxied != "" {
		s := r.srv.scope
		for _, p := range r.srv.proxies {
			if p.holdsProxy(r.proxied) {
				s = r.take(s, p)
			}
		}
		r.scope = s
	} else {
		if ref := r.directories(); ref != nil {
			return ref
		}
		r.fileSections()
	}
	r.scope = r.locations(r.scope)
	if !r.sub {
		r.environment(r.scope)
	}
	// httpd asks only once for one and the same configuration. Sections of URLs and If make a new one
	// for each sub-request and internal redirect, also where they are the same.
	anew := slices.ContainsFunc(r.merged, func(s *section) bool { return s.kind == "location" || s.kind == "if" })
	if p := r.passed; p == nil || anew || r.proxied != "" || p.dir != r.walked.dir || !slices.Equal(p.merged, r.merged) {
		if ref := r.access(); ref != nil {
			return ref
		}
		r.passed = &walked{dir: r.walked.dir, merged: slices.Clone(r.merged)}
	}
	return r.fixups()
}

// take merges a section and notes it.
func (r *request) take(s *scope, sec *section) *scope {
	r.merged = append(r.merged, sec)
	r.step(sec.d.at, sec.d.String()+" applies")
	return s.merge(sec.scope)
}

func (p *section) holdsProxy(target string) bool {
	if p.regex != nil {
		g, _ := p.regex.match(target)
		return g != nil
	}
	if p.pattern == "*" {
		return true
	}
	if p.wild {
		return wildcard(p.pattern, target)
	}
	return strings.HasPrefix(target, p.pattern)
}

// locations merges Location and then If.
func (r *request) locations(s *scope) *scope {
	for _, l := range r.srv.urls {
		hit := false
		switch {
		case l.nothing:
			hit = r.doubt("whether "+l.d.String()+" matches", l.d.at)
		case l.regex != nil:
			g, err := l.regex.match(r.uri)
			hit = g != nil
			if err != nil {
				hit = r.doubt("whether "+l.d.String()+" matches", l.d.at)
			}
		case l.wild:
			hit = matches(l.pattern, r.uri)
		default:
			rest, ok := strings.CutPrefix(r.uri, l.pattern)
			hit = ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(l.pattern, "/"))
		}
		if hit {
			s = r.take(s, l)
		}
	}
	return r.ifSections(s, 0)
}

// ifSections merges If, ElseIf and Else.
func (r *request) ifSections(s *scope, depth int) *scope {
	chains := s.ifs
	if len(chains) == 0 || depth > 4 {
		return s
	}
	saved := r.scope
	r.scope = s
	defer func() { r.scope = saved }()
	s0 := *s
	s0.ifs = nil
	s = &s0
	for _, chain := range chains {
		for _, sec := range chain {
			hit := sec.d.name == "else"
			if !hit {
				var err error
				if hit, err = r.evaluate(sec.pattern, sec.d.at); err != nil {
					hit = r.doubt("whether "+sec.d.String()+" holds ("+err.Error()+")", sec.d.at)
				}
			}
			if hit {
				s = r.take(s, sec)
				if len(sec.scope.ifs) > 0 {
					s = r.ifSections(s, depth+1)
				}
				break
			}
		}
	}
	return s
}

// kindOf says what is at a path: "dir", "file" or "none".
func (r *request) kindOf(name string) string {
	if len(name) > 4096 || strings.IndexByte(name, 0) >= 0 {
		return "none"
	}
	if isDir(r.c.files, name) {
		return "dir"
	}
	if exists(r.c.files, name) {
		return "file"
	}
	return "none"
}

// directories walks from / to the file: sections of each directory, its .htaccess, links.
func (r *request) directories() *refusal {
	slash := strings.HasSuffix(r.filename, "/")
	clean := path.Clean(r.filename)
	var names []string
	if clean != "/" {
		names = strings.Split(clean[1:], "/")
	}
	if len(names) > 500 {
		return r.refuse(403)
	}
	s := r.srv.scope
	dir := "/"
	whole := r.kindOf(clean)
	entry := clean + "/"
	if whole == "file" {
		entry = strings.TrimSuffix(path.Dir(clean), "/") + "/"
	}
	if clean == "/" {
		entry = "/"
	}
	if whole != "none" && r.walked.dir == entry && !(whole == "file" && slash) {
		r.kind, r.scope, r.merged = whole, r.walked.scope, slices.Clone(r.walked.merged)
		if whole == "dir" && slash && clean != "/" {
			clean += "/"
		}
		r.filename = clean
		return nil
	}
	defer func() { r.walked = walked{entry, r.scope, slices.Clone(r.merged)} }()
	r.kind = "dir"
	for i := 0; ; i++ {
		r.scope = s
		for _, sec := range r.srv.dirs {
			if sec.regex != nil || sec.nothing || sec.names != i {
				continue
			}
			if sec.pattern == dir || sec.wild && matches(sec.pattern, dir) {
				s = r.take(s, sec)
			}
		}
		r.scope = s
		var ref *refusal
		if s, ref = r.accessFile(s, dir); ref != nil {
			return ref
		}
		r.scope = s
		if i == len(names) {
			break
		}
		next := path.Join(dir, names[i])
		if ref := r.link(s, next); ref != nil {
			r.filename = next
			return ref
		}
		kind := r.kindOf(next)
		if kind != "dir" {
			r.kind = kind
			rest := strings.Join(names[i+1:], "/")
			if i+1 < len(names) {
				r.pathInfo = "/" + rest
			}
			if slash {
				r.pathInfo += "/"
			}
			r.filename = next
			if kind == "file" && i+1 == len(names) && s.opts&optFollow != 0 {
				for _, sec := range r.srv.dirs {
					if sec.wild && sec.regex == nil && !sec.nothing && sec.names == i+1 && matches(sec.pattern, next) {
						s = r.take(s, sec) // a wildcard is held against the file too
					}
				}
			}
			break
		}
		dir = next
	}
	if r.kind == "dir" {
		r.filename = clean
		if slash && clean != "/" {
			r.filename += "/"
		}
	}
	object := r.filename
	for _, sec := range r.srv.dirs {
		if sec.nothing {
			if r.doubt("whether "+sec.d.String()+" matches", sec.d.at) {
				s = r.take(s, sec)
			}
			continue
		}
		if sec.regex == nil {
			continue
		}
		g, err := sec.regex.match(object)
		if g != nil || err != nil && r.doubt("whether "+sec.d.String()+" matches", sec.d.at) {
			s = r.take(s, sec)
		}
	}
	r.scope = s
	r.open(pinpoint.Access{Path: dir, Want: "search", Says: "directory walk"})
	if r.kind == "file" {
		r.open(pinpoint.Access{Path: r.filename, Says: "directory walk"}) // stat alone: refusals are logged with this name
	}
	return nil
}

// link refuses symbolic links that Options do not allow.
func (r *request) link(s *scope, name string) *refusal {
	if s.opts&optFollow != 0 {
		return nil
	}
	l, ok := r.c.files.(Lister)
	if !ok {
		return nil
	}
	fi, err := l.Lstat(name)
	if err != nil || fi.Mode()&fs.ModeSymlink == 0 {
		return nil
	}
	at := pinpoint.Place{}
	text := "Options"
	if s.optsAt != nil {
		at, text = s.optsAt.at, s.optsAt.String()
	}
	if s.opts&optOwner != 0 {
		target, err := l.Stat(name)
		if err != nil {
			return nil
		}
		if same, known := sameOwner(fi, target); !known {
			if r.doubt("whether the link "+name+" and its target have the same owner", at) {
				return nil
			}
		} else if same {
			return nil
		}
	}
	c := r.clue("fs-symlink-denied", pinpoint.Certain, at)
	c.Quote = text
	c.Names["path"], c.Names["directive"] = name, text
	c.Says = name + " is a symbolic link, and “" + text + "” at " + placeText(at) + " does not let httpd follow it (AH00037)."
	c.Fix = []string{"In the <Directory> section of " + path.Dir(name) + " add “Options +SymLinksIfOwnerMatch” and let the link and its target have one owner; or “Options +FollowSymLinks” for that directory only."}
	return r.refuse(403, c)
}

// accessFile reads the .htaccess of a directory, if AllowOverride lets httpd.
func (r *request) accessFile(s *scope, dir string) (*scope, *refusal) {
	names := []string{".htaccess"}
	if d := r.srv.set["accessfilename"]; d != nil && len(d.args) > 0 && len(d.args) < 20 {
		names = d.args
	}
	for _, n := range names {
		file := path.Join(dir, n)
		over := s.override
		if over.none() {
			if r.quiet || !exists(r.c.files, file) {
				continue
			}
			over.classes, over.options, over.nonfatal = overAll, optAnything, "all"
			ds, err := r.c.htaccess(file)
			if err != nil {
				continue
			}
			sc, _ := where{c: r.c, dir: strings.TrimSuffix(dir, "/") + "/", over: &over, htaccess: file}.build(ds)
			r.ignored = append(r.ignored, ignored{file: file, dir: dir, over: s.override, before: s, scope: sc})
			at := pinpoint.Place{File: file}
			r.step(at, file+" exists, and AllowOverride None keeps httpd from reading it")
			continue
		}
		want := pinpoint.Access{Path: file, Want: "read", Says: ".htaccess", Optional: true}
		if over.at != nil {
			want.At = over.at.at
		}
		r.open(want)
		ds, err := r.c.htaccess(file)
		if err == nil && r.c.env.May != nil && !r.c.env.May(r.c.user, want) {
			err = fs.ErrPermission
		}
		if err != nil {
			if errors.Is(err, fs.ErrPermission) {
				return s, r.unreadable(file, dir)
			}
			continue
		}
		sc, off := where{c: r.c, dir: strings.TrimSuffix(dir, "/") + "/", over: &over, htaccess: file}.build(ds)
		if len(off) > 0 {
			return s, r.badHtaccess(file, off[0], over)
		}
		r.step(pinpoint.Place{File: file, Line: 1}, file+" applies")
		return s.merge(sc), nil
	}
	return s, nil
}

// htaccess reads a file to directives, with the modules and definitions of the server.
func (c *Config) htaccess(file string) ([]*directive, error) {
	data, err := c.files.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, errors.New("too large")
	}
	vars := make(map[string]string, len(c.vars))
	for k, v := range c.vars {
		vars[k] = v
	}
	defined := make(map[string]bool, len(c.defined))
	for k, v := range c.defined {
		defined[k] = v
	}
	r := &reader{files: c.files, env: c.env, root: c.root, vars: vars, defined: defined, modules: c.modules, macros: map[string]*macro{}, htaccess: true}
	return r.all(r.lines(file, data), 0), nil
}

func (r *request) unreadable(file, dir string) *refusal {
	c := r.clue("apache-htaccess-unreadable", pinpoint.Certain, pinpoint.Place{File: file})
	c.Names["path"], c.Names["user"] = file, r.c.user
	c.Says = "httpd may not read " + file + ", so it refuses everything below " + dir + " to be safe (AH00529)."
	c.Fix = []string{"Let the user " + r.c.user + " read the file: chmod o+r " + file + " (or through its group), and search " + dir + "."}
	return r.refuse(403, c)
}

// badHtaccess is an error in a .htaccess: httpd answers 500 for everything below.
func (r *request) badHtaccess(file string, o offence, over override) *refusal {
	cause := "apache-htaccess-error"
	if o.kind == "override" {
		cause = "apache-allowoverride-none"
	}
	c := r.clue(cause, pinpoint.Certain, o.d.at)
	c.Quote = o.d.String()
	c.Names["path"], c.Names["htaccess"], c.Names["directive"] = file, file, o.d.written
	c.Says = "“" + o.d.String() + "” at " + placeText(o.d.at) + " makes httpd answer 500: " + o.says + "."
	c.Fix = []string{"Correct the line at " + placeText(o.d.at) + "."}
	if o.kind == "override" {
		c.Fix = []string{"Move “" + o.d.String() + "” from " + placeText(o.d.at) + " into a <Directory " + path.Dir(file) + "> section of the server's configuration."}
		if over.at != nil {
			c.Names["file"] = over.at.at.File
			c.Says += " “" + over.at.String() + "” at " + placeText(over.at.at) + " does not permit it."
			c.Fix = append(c.Fix, "Or add its class to “"+over.at.String()+"” at "+placeText(over.at.at)+", for this directory only.")
		}
	} else if o.kind == "unknown" {
		c.Fix = append(c.Fix, "If the spelling is right, load the module that has "+o.d.written+", or put the line into <IfModule>.")
	}
	return r.refuse(500, c)
}

// fileSections merges Files and FilesMatch by the last part of the name.
func (r *request) fileSections() {
	base := r.filename[strings.LastIndexByte(r.filename, '/')+1:]
	s := r.scope
	for i := 0; i < len(s.files) && i < 10_000; i++ {
		sec := s.files[i]
		hit := false
		switch {
		case sec.nothing:
			hit = r.doubt("whether "+sec.d.String()+" matches", sec.d.at)
		case sec.regex != nil:
			g, err := sec.regex.match(base)
			hit = g != nil || err != nil && r.doubt("whether "+sec.d.String()+" matches", sec.d.at)
		case sec.wild:
			hit = matches(sec.pattern, base)
		default:
			hit = sec.pattern == base
		}
		if hit {
			s = r.take(s, sec)
		}
	}
	r.scope = s
}

// fixups are mod_rewrite of a directory, Redirect of a directory, mod_security's look at the body,
// mod_env, and mod_dir.
func (r *request) fixups() *refusal {
	if ref := r.bodyOfFirewall(); ref != nil {
		return ref
	}
	var pending *rewritten
	if s := r.scope.rewrite; s.on() && r.c.has("rewrite") && !r.ended && s.dir != "" && r.proxied == "" && r.filename != "" {
		out, ref := r.perDirectory(s)
		if ref != nil {
			return ref
		}
		pending = out
	}
	if ref := r.redirects(r.scope.redirects); ref != nil {
		return ref
	}
	r.fixedVariables()
	if pending != nil {
		return r.follow(*pending)
	}
	if r.proxied == "" && r.c.has("dir") {
		return r.directoryIndex()
	}
	return nil
}

// perDirectory runs the rules of a directory.
func (r *request) perDirectory(s *rewriteScope) (*rewritten, *refusal) {
	name := r.filename
	if strings.TrimSuffix(s.dir, "/") == name && !strings.HasSuffix(name, "/") && s.dir != "/" {
		return nil, nil // mod_dir adds the slash first
	}
	if r.scope.opts&(optFollow|optOwner) == 0 {
		at := pinpoint.Place{}
		text := "Options"
		if r.scope.optsAt != nil {
			at, text = r.scope.optsAt.at, r.scope.optsAt.String()
		}
		c := r.clue("apache-options-rewrite", pinpoint.Certain, at)
		c.Quote, c.Names["directive"], c.Names["path"] = text, text, name
		c.Says = "“" + s.engine.String() + "” at " + placeText(s.engine.at) + " is on for " + s.dir + ", but “" + text + "” at " + placeText(at) + " switches FollowSymLinks and SymLinksIfOwnerMatch off, and then httpd refuses (AH00670)."
		c.Fix = []string{"Add “Options +SymLinksIfOwnerMatch” for " + s.dir + ", in the section that holds “" + text + "”."}
		return nil, r.refuse(403, c)
	}
	out := r.apply(s, name)
	if out.refused != nil {
		return nil, out.refused
	}
	if out.end {
		r.ended = true
	}
	r.pathAfter(&out)
	if !out.changed && out.redir == 0 && !out.proxy {
		return nil, nil
	}
	if out.to == name && out.query == r.query && out.redir == 0 && !out.proxy {
		return nil, nil
	}
	if out.redir == 0 && !out.proxy {
		to := out.to
		if s.base != "" && strings.HasPrefix(to, s.dir) {
			to = strings.TrimSuffix(s.base, "/") + "/" + strings.TrimPrefix(to, s.dir)
		} else if rest, ok := strings.CutPrefix(to, strings.TrimSuffix(r.srv.root, "/")+"/"); ok && r.srv.root != "" {
			to = "/" + rest
		} else if r.prefixRoot != "" {
			if rest, ok := strings.CutPrefix(to, strings.TrimSuffix(r.prefixRoot, "/")+"/"); ok {
				to = strings.TrimSuffix(r.prefix, "/") + "/" + rest
			}
		}
		out.to = to
	}
	return &out, nil
}

func (r *request) pathAfter(out *rewritten) {
	if !out.changed {
		out.to = r.filename
	}
}

// follow does what a set of rules of a directory asked for.
func (r *request) follow(out rewritten) *refusal {
	switch {
	case out.redir != 0:
		return r.redirected(out.redir, out.by.d)
	case out.proxy:
		r.toProxy(out.to, out.by.d)
		return nil
	}
	r.pending = &out
	return nil
}

// restart makes the internal redirect that rules asked for.
func (r *request) restart() *refusal {
	out := *r.pending
	if !strings.HasPrefix(out.to, "/") {
		return r.relative(out)
	}
	if out.by != nil {
		r.step(out.by.d.at, "“"+out.by.d.String()+"” sends the request to "+cut(out.to, 200)+" inside the server")
	}
	if ref := r.internally(out.to, out.query, out.by); ref != nil {
		return ref
	}
	return r.respond()
}

// internally starts over with another URL, as an internal redirect does.
func (r *request) internally(uri, query string, by *rule) *refusal {
	if r.depth++; r.depth > maxRedirects {
		c := r.clue("", pinpoint.Strong, pinpoint.Place{})
		c.Says = "The rules send the request in circles: more than 10 internal redirects (AH00124)."
		return r.refuse(500, c)
	}
	if q := strings.IndexByte(uri, '?'); q >= 0 {
		uri = uri[:q]
	}
	r.uri, r.query = uri, query
	env := map[string]string{}
	for n, v := range r.env {
		if len(n) < 500 {
			env["REDIRECT_"+n] = v
		}
	}
	r.env = env
	if by != nil {
		r.rewritten = by
	}
	return r.lookup()
}

// directoryIndex is mod_dir. https://httpd.apache.org/docs/2.4/mod/mod_dir.html
func (r *request) directoryIndex() *refusal {
	if r.kind != "dir" {
		return r.fallback()
	}
	if r.scope.rawSetting("directorycheckhandler") != "" && r.scope.on("directorycheckhandler") && r.handlerName() != "" {
		return nil
	}
	if !strings.HasSuffix(r.uri, "/") {
		if strings.EqualFold(r.scope.setting("directoryslash"), "off") {
			return nil
		}
		return r.redirected(301, nil)
	}
	names := r.scope.index
	if r.scope.indexAt == nil {
		names = []string{"index.html"}
	}
	failed := 0
	var first *refusal
	at := pinpoint.Place{}
	if r.scope.indexAt != nil {
		at = r.scope.indexAt.at
	}
	for i, n := range names {
		if i > 50 || n == "" {
			break
		}
		target := r.uri + n
		if strings.HasPrefix(n, "/") {
			target = n
		}
		r.open(pinpoint.Access{Path: path.Join(r.filename, n), Want: "read", Says: "index", At: at, Optional: true})
		o := *r
		o.uri, o.sub, o.method, o.env = path.Clean(target), true, "GET", maps.Clone(r.env)
		o.depth++
		if o.depth > maxRedirects {
			return r.refuse(500)
		}
		ref := o.lookup()
		if ref == nil && o.kind == "file" && o.proxied == "" {
			r.step(at, "the index "+target+" is served")
			method, sub := r.method, r.sub
			*r = o
			r.method, r.sub = method, sub
			r.in.Request = o.in.Request
			return nil
		}
		if ref == nil && o.proxied != "" {
			method, sub := r.method, r.sub
			*r = o
			r.method, r.sub = method, sub
			return nil
		}
		if ref != nil {
			ref.scope = r.scope // the request itself answers: its ErrorDocument and limits count
		}
		if ref != nil && (ref.status >= 300 && ref.status < 400 || len(names) == 1 && (ref.status == 401 || ref.status == 406)) {
			return ref
		}
		if ref != nil && ref.status != 404 {
			failed, first = ref.status, ref
		}
	}
	if failed != 0 {
		return first
	}
	if ref, done := r.fallbackTo(); done {
		return ref
	}
	return nil
}

func (r *request) fallback() *refusal {
	if r.kind != "none" {
		return nil
	}
	ref, _ := r.fallbackTo()
	return ref
}

// fallbackTo is FallbackResource.
func (r *request) fallbackTo() (*refusal, bool) {
	d := r.scope.fallback
	if d == nil || strings.EqualFold(d.arg(0), "disabled") || !strings.HasPrefix(d.arg(0), "/") {
		return nil, false
	}
	target := path.Clean(d.arg(0))
	if target == r.uri {
		return nil, false
	}
	o := *r
	o.uri, o.query, o.sub, o.method, o.env = target, "", true, "GET", maps.Clone(r.env)
	if o.depth++; o.depth > maxRedirects {
		return r.refuse(500), true
	}
	if ref := o.lookup(); ref != nil {
		if ref.status == 404 {
			return nil, false
		}
		ref.scope = r.scope
		return ref, true
	}
	if o.kind != "file" && o.proxied == "" {
		return nil, false
	}
	r.step(d.at, "“"+d.String()+"” serves it")
	method, sub := r.method, r.sub
	*r = o
	r.method, r.sub = method, sub
	return nil, true
}

// handlerName is what answers: of a rule, SetHandler, AddHandler or ScriptAlias.
func (r *request) handlerName() string {
	if r.forced != "" {
		return r.forced
	}
	if r.script {
		return "cgi-script"
	}
	if d := r.scope.set["sethandler"]; d != nil && d.arg(0) != "" && !strings.EqualFold(d.arg(0), "none") {
		if h := d.arg(0); !strings.Contains(h, "%{") {
			return h
		}
		return r.substitute(d.arg(0), nil, nil, d.at)
	}
	if r.kind != "file" {
		return ""
	}
	base := path.Base(r.filename)
	exts := strings.Split(base, ".")
	found := ""
	for _, e := range exts[1:] {
		for _, d := range r.scope.handlers {
			for _, a := range d.args[min(1, len(d.args)):] {
				if strings.EqualFold(strings.TrimPrefix(a, "."), e) {
					found = d.arg(0)
				}
			}
		}
	}
	return found
}

var knownMethods = []string{"GET", "HEAD", "PUT", "POST", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK",
	"VERSION-CONTROL", "CHECKOUT", "UNCHECKOUT", "CHECKIN", "UPDATE", "LABEL", "REPORT", "MKWORKSPACE", "MKACTIVITY", "BASELINE-CONTROL", "MERGE"}

// respond is the handler's part.
func (r *request) respond() *refusal {
	if r.handler == "trace" {
		r.step(pinpoint.Place{}, "TRACE is answered by httpd itself")
		return nil
	}
	if r.pending != nil {
		return r.restart()
	}
	if ref := r.bodyLimit(); ref != nil {
		return ref
	}
	if r.proxied != "" {
		return r.forward()
	}
	h := r.handlerName()
	at := r.scope.place("sethandler")
	if strings.HasPrefix(h, "proxy:") && r.c.has("proxy") {
		r.stripped(at)
		r.toProxy(strings.TrimPrefix(h, "proxy:"), r.scope.set["sethandler"])
		return r.forward()
	}
	switch {
	case h == "cgi-script" && (r.c.has("cgi") || r.c.has("cgid")):
		return r.cgi()
	case strings.HasPrefix(h, "application/x-httpd-php"):
		r.open(pinpoint.Access{Path: r.filename, Want: "read", Says: "PHP", At: at})
		return nil
	case h == "server-status" || h == "server-info" || h == "balancer-manager" || h == "ldap-status":
		r.step(at, "the handler "+h+" answers")
		return nil
	case h != "" && h != "default-handler" && h != "httpd/unix-directory" && h != "type-map" && h != "cgi-script" && h != "send-as-is" && h != "server-parsed":
		r.step(at, "the handler "+cut(h, 60)+" answers, if its module knows it")
	}
	if r.method != "GET" && r.method != "HEAD" && r.method != "POST" {
		if r.method == "OPTIONS" {
			return nil
		}
		c := r.clue("method-not-allowed", pinpoint.Certain, pinpoint.Place{})
		c.Says = "Nothing handles " + r.methodName() + " for this path: httpd serves files with GET, HEAD and POST only."
		c.Fix = []string{"Use a method that the resource has, or map the path to the application that handles " + r.methodName() + "."}
		if !slices.Contains(knownMethods, r.method) {
			return r.refuse(501, c)
		}
		return r.refuse(405, c)
	}
	if r.kind == "dir" {
		return r.listing()
	}
	if r.kind == "none" || r.pathInfo != "" && !r.scope.on("acceptpathinfo") {
		c := r.clue("wrong-path", pinpoint.Fair, r.srv.rootAt)
		c.Names["path"] = r.filename + r.pathInfo
		c.Says = "The URL maps to " + r.filename + r.pathInfo + ", which does not exist (AH00128)."
		c.Fix = []string{"Call a path that exists, or put the file at " + r.filename + r.pathInfo + "."}
		return r.refuse(404, c)
	}
	r.open(pinpoint.Access{Path: r.filename, Want: "read", Says: "file"})
	return nil
}

// listing is a directory without an index file.
func (r *request) listing() *refusal {
	r.open(pinpoint.Access{Path: r.filename, Want: "list", Says: "index of the directory"})
	if !r.c.has("autoindex") {
		c := r.clue("no-index-listing-off", pinpoint.Certain, pinpoint.Place{})
		c.Names["path"] = r.filename
		c.Says = r.filename + " has no index file, and mod_autoindex is not loaded, so httpd answers 404 (AH00129)."
		c.Fix = []string{"Put an index file into " + r.filename + "."}
		return r.refuse(404, c)
	}
	if r.method == "POST" {
		c := r.clue("method-not-allowed", pinpoint.Certain, pinpoint.Place{})
		c.Names["path"] = r.filename
		c.Says = r.filename + " is a directory without an index file, and nothing takes a POST there: httpd answers 404 (AH00129)."
		c.Fix = []string{"Send the POST to the program that takes it."}
		return r.refuse(404, c)
	}
	if r.scope.opts&optIndexes != 0 {
		return nil
	}
	at, text := pinpoint.Place{}, "Options without Indexes, the default"
	if r.scope.optsAt != nil {
		at, text = r.scope.optsAt.at, "“"+r.scope.optsAt.String()+"”"
	}
	names := strings.Join(r.scope.index, " ")
	if r.scope.indexAt == nil {
		names = "index.html"
	}
	c := r.clue("no-index-listing-off", pinpoint.Certain, at)
	c.Names["path"], c.Names["directive"], c.Names["names"] = r.filename, strings.Trim(text, "“”"), names
	c.Says = r.filename + " has none of the index files (" + cut(names, 120) + "), and " + text + " forbids a listing (AH01276)."
	if at.File != "" {
		c.Says = r.filename + " has none of the index files (" + cut(names, 120) + "), and " + text + " at " + placeText(at) + " forbids a listing (AH01276)."
	}
	c.Fix = []string{"Put " + strings.Split(names+" index.html", " ")[0] + " into " + r.filename + ", or name the right file with DirectoryIndex.",
		"Only if everybody may see all names of this directory: Options +Indexes in its <Directory> section."}
	return r.refuse(403, c)
}

// cgi is mod_cgi and mod_cgid.
func (r *request) cgi() *refusal {
	r.stripped(r.scope.place("sethandler"))
	at := pinpoint.Place{}
	if r.scope.optsAt != nil {
		at = r.scope.optsAt.at
	}
	if r.scope.opts&optExec == 0 && !r.script {
		c := r.clue("apache-cgi-denied", pinpoint.Certain, at)
		c.Names["path"] = r.filename
		c.Says = "A handler for scripts is set for " + r.filename + ", but ExecCGI is off there (AH02809)."
		c.Fix = []string{"Add “Options +ExecCGI” in the <Directory> section of " + path.Dir(r.filename) + ", or move the script to a ScriptAlias directory."}
		return r.refuse(403, c)
	}
	if r.kind == "none" {
		return r.refuse(404)
	}
	if r.kind == "dir" {
		c := r.clue("apache-cgi-denied", pinpoint.Certain, at)
		c.Names["path"] = r.filename
		c.Says = r.filename + " is a directory, and only scripts run here (AH01263)."
		return r.refuse(403, c)
	}
	r.open(pinpoint.Access{Path: r.filename, Want: "exec", Says: "CGI"})
	if ok, err := r.fileTest('x', r.filename); err == nil && !ok {
		c := r.clue("apache-cgi-denied", pinpoint.Certain, at)
		c.Names["path"] = r.filename
		c.Says = r.filename + " is not executable, so it cannot run as a script."
		c.Fix = []string{"chmod a+x " + r.filename + "."}
		return r.refuse(403, c)
	}
	return nil
}
