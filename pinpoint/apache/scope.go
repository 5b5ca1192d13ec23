package apache

import (
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// options are those of the Options directive.
type options uint16

const (
	optIndexes options = 1 << iota
	optIncludes
	optFollow
	optOwner
	optExec
	optMultiViews
	optIncludesNoExec
	optUnset
	optAll      = optIndexes | optIncludes | optFollow | optExec | optIncludesNoExec // “All”: not SymLinksIfOwnerMatch, nor MultiViews
	optAnything = optAll | optOwner | optMultiViews
)

var optionNames = map[string]options{
	"indexes": optIndexes, "includes": optIncludes, "includesnoexec": optIncludesNoExec,
	"followsymlinks": optFollow, "symlinksifownermatch": optOwner, "execcgi": optExec,
	"multiviews": optMultiViews, "all": optAll, "none": 0,
}

// override is what .htaccess files may hold.
type override struct {
	classes  uint8
	options  options
	list     map[string]bool
	nonfatal string // "", "override", "unknown", "all"
	at       *directive
	set      bool
	listSet  bool
}

const (
	overAuth uint8 = 1 << iota
	overFileInfo
	overIndexes
	overLimit
	overOptions
	overAll = overAuth | overFileInfo | overIndexes | overLimit | overOptions
)

func (o override) none() bool { return o.classes == 0 && len(o.list) == 0 }

// scope is the configuration that holds for a directory, a file or a URL. Scopes are merged in
// httpd's order; what a module does when two meet is done as that module does.
type scope struct {
	opts, add, remove options
	optsAt            *directive
	override          override
	set               map[string]*directive // plain settings: the last one holds
	errorDocs         map[int]*directive
	setEnvIf          []*directive
	setEnv            []*directive
	handlers          []*directive // AddHandler
	headers           []*directive // RequestHeader
	redirects         []*directive
	index             []string
	indexAt           *directive
	fallback          *directive
	auth              *authSection
	merging           string // AuthMerging: "", "off", "and", "or"
	mergingSet        bool
	legacy            *legacy
	rewrite           *rewriteScope
	files             []*section
	ifs               [][]*section // chains of If, ElseIf, Else
	sslRequire        []*directive
	wafFiles          []*directive // SecRule, SecAction and what removes them
	proxyPass         *directive   // inside Location
	alias             *directive   // inside Location
}

// section is a container such as <Directory>, with its scope.
type section struct {
	kind    string // "directory", "files", "location", "if", "proxy"
	pattern string
	regex   *regex
	wild    bool
	names   int // components of a directory
	d       *directive
	scope   *scope
	nothing bool // the pattern cannot be evaluated
}

// methods is a set of methods; nil stands for all.
type methods struct {
	names  []string
	except bool
	at     *directive
}

// holds says that the set has the method. HEAD goes as GET.
func (m *methods) holds(method string) bool {
	if m == nil {
		return true
	}
	if method == "HEAD" {
		method = "GET"
	}
	return slices.Contains(m.names, method) != m.except
}

func limit(d *directive) *methods {
	m := &methods{except: d.name == "limitexcept", at: d}
	for _, a := range d.args {
		if a == "HEAD" {
			a = "GET"
		}
		m.names = append(m.names, a)
	}
	return m
}

// where says what a scope is built from.
type where struct {
	c        *Config
	dir      string // directory of rewrite rules; "" without one
	over     *override
	htaccess string // file
	location bool
	depth    int
}

// offence is a directive that a .htaccess may not hold, or that nobody knows.
type offence struct {
	d    *directive
	says string
	kind string // "override", "unknown", "syntax"
}

// classOf says which AllowOverride permits a directive; 0 is any.
func classOf(name string) (class uint8, known bool) {
	switch name {
	case "files", "filesmatch", "if", "elseif", "else", "ifmodule", "ifdefine", "limit", "limitexcept", "limitrequestbody", "limitxmlrequestbody",
		"setoutputfilter", "setinputfilter", "secruleengine", "secrule", "secaction", "secruleremovebyid", "secruleremovebytag",
		"secruleupdatetargetbyid", "secrulescript", "php_value", "php_flag", "fileetag", "enablemmap", "enablesendfile", "define", "undefine", "iffile", "ifversion",
		"addoutputfilterbytype", "error":
		return overAll, true
	case "authtype", "authname", "authuserfile", "authgroupfile", "require", "requireall", "requireany", "requirenone", "authmerging", "satisfy",
		"authbasicprovider", "authbasicauthoritative", "authbasicfake", "authbasicusedigestalgorithm", "authdigestprovider", "authdigestqop", "authdigestalgorithm", "authdigestdomain",
		"authzsendforbiddenonfail", "authzsendforbiddenonfailure", "sslrequire", "sslrequiressl", "sslverifyclient", "sslverifydepth", "sslciphersuite", "sslusername", "cgipassauth", "authformprovider", "authldapurl", "authldapbinddn", "anonymous", "anonymous_mustgiveemail", "session":
		return overAuth, true
	case "errordocument", "sethandler", "forcetype", "defaulttype", "rewriteengine", "rewriterule", "rewritecond", "rewritebase", "rewriteoptions", "redirect", "redirectmatch", "redirecttemp",
		"redirectpermanent", "setenvif", "setenvifnocase", "setenvifexpr", "browsermatch", "browsermatchnocase", "setenv", "unsetenv", "passenv", "addhandler", "addtype", "addcharset",
		"adddefaultcharset", "addencoding", "addlanguage", "addinputfilter", "addoutputfilter", "removehandler", "removetype", "removeencoding", "removecharset", "removelanguage", "header", "requestheader", "action",
		"acceptpathinfo", "script", "headername", "languagepriority", "forcelanguagepriority", "cookietracking", "defaultlanguage", "modmimeusepathinfo", "multiviewsmatch", "qualifyredirecturl", "cgivar", "luahookaccesschecker", "substitute", "h2pushresource", "setifempty":
		return overFileInfo, true
	case "directoryindex", "directoryslash", "directoryindexredirect", "directorycheckhandler", "fallbackresource", "indexoptions", "indexignore", "indexignorereset", "indexorderdefault", "indexstylesheet", "adddescription", "addicon",
		"addalt", "addaltbytype", "addaltbyencoding", "addiconbytype", "addiconbyencoding", "defaulticon", "readmename", "expiresactive", "expiresbytype", "expiresdefault", "imapmenu", "imapdefault", "imapbase", "indexheadinsert", "cachedisable":
		return overIndexes, true
	case "order", "allow", "deny":
		return overLimit, true
	case "options", "xbithack", "checkspelling", "checkcaseonly", "ssloptions", "contentdigest", "sslrenegbuffersize":
		return overOptions, true
	}
	return 0, false
}

// build makes a scope from directives.
func (w where) build(ds []*directive) (*scope, []offence) {
	s := &scope{opts: optUnset}
	b := &builder{where: w, s: s}
	b.walk(ds, nil)
	return s, b.offences
}

type builder struct {
	where
	s        *scope
	offences []offence
	conds    []*condition
	limits   int
}

func (b *builder) offend(d *directive, kind, says string) {
	b.offences = append(b.offences, offence{d, says, kind})
}

// permitted checks a directive of a .htaccess against AllowOverride and AllowOverrideList.
func (b *builder) permitted(d *directive) bool {
	if b.over == nil {
		return true
	}
	class, known := classOf(d.name)
	if !known && !serverOnly(d.name) {
		if b.over.nonfatal != "unknown" && b.over.nonfatal != "all" {
			b.offend(d, "unknown", "Invalid command '"+cut(d.written, 60)+"'")
		}
		return false
	}
	if known && b.over.classes&class != 0 || b.over.list[d.name] {
		return true
	}
	if b.over.nonfatal != "override" && b.over.nonfatal != "all" {
		b.offend(d, "override", d.written+" not allowed here")
	}
	return false
}

// serverOnly are directives that exist, though never in a .htaccess.
func serverOnly(name string) bool {
	switch name {
	case "directory", "directorymatch", "location", "locationmatch", "virtualhost", "proxy", "proxymatch", "proxypass", "proxypassmatch", "proxypreservehost", "alias", "aliasmatch", "scriptalias", "scriptaliasmatch",
		"documentroot", "servername", "serveralias", "serveradmin", "listen", "allowoverride", "allowoverridelist", "errorlog", "customlog", "loglevel", "logformat", "user", "group", "rewritemap", "rewritelog",
		"sslengine", "include", "includeoptional", "loadmodule", "traceenable", "allowmethods", "timeout", "keepalive", "remoteipheader", "accessfilename", "allowencodedslashes", "secrequestbodylimit", "secrequestbodynofileslimit", "secrequestbodyaccess", "secauditlog":
		return true
	}
	return false
}

func (b *builder) walk(ds []*directive, m *methods) {
	if b.depth > maxNested {
		return
	}
	for _, d := range ds {
		if !b.permitted(d) {
			continue
		}
		b.one(d, m)
		if len(b.offences) > 0 && b.over != nil {
			return // httpd stops reading there
		}
	}
}

func (b *builder) one(d *directive, m *methods) {
	s := b.s
	switch d.name {
	case "limit", "limitexcept":
		if b.limits++; b.limits < maxNested {
			b.walk(d.inside, limit(d))
		}
		b.limits--
	case "require", "requireall", "requireany", "requirenone":
		if s.auth == nil {
			s.auth = &authSection{op: opAny, top: true}
		}
		if a := newAuth(d, m, 0); a != nil {
			s.auth.inside = append(s.auth.inside, a)
			if b.over != nil {
				if d.name == "require" && a.not {
					b.offend(d, "syntax", "negative Require directive has no effect in <RequireAny> directive")
				}
				if d.name == "requirenone" {
					b.offend(d, "syntax", "<RequireNone> directive has no effect in <RequireAny> directive")
				}
			}
		}
	case "authmerging":
		s.merging, s.mergingSet = strings.ToLower(d.arg(0)), true
	case "order", "allow", "deny", "satisfy":
		if s.legacy == nil {
			s.legacy = &legacy{}
		}
		s.legacy.add(d, m)
	case "options":
		b.options(d)
	case "allowoverride":
		s.override.set, s.override.at = true, d
		s.override.classes, s.override.options, s.override.nonfatal = 0, optAnything, ""
		for _, a := range d.args {
			name, value, _ := strings.Cut(strings.ToLower(a), "=")
			switch name {
			case "all":
				s.override.classes = overAll
			case "authconfig":
				s.override.classes |= overAuth
			case "fileinfo":
				s.override.classes |= overFileInfo
			case "indexes":
				s.override.classes |= overIndexes
			case "limit":
				s.override.classes |= overLimit
			case "options":
				s.override.classes |= overOptions
				s.override.options = optAll // what “Options” without a list allows, unlike “All”
				if value != "" {
					s.override.options = 0
					for _, o := range strings.Split(value, ",") {
						s.override.options |= optionNames[o]
					}
				}
			case "nonfatal":
				s.override.nonfatal = value
			}
		}
	case "allowoverridelist":
		s.override.listSet, s.override.list = true, map[string]bool{}
		for _, a := range d.args {
			if !strings.EqualFold(a, "none") {
				s.override.list[strings.ToLower(a)] = true
			}
		}
	case "errordocument":
		if n, err := strconv.Atoi(d.arg(0)); err == nil {
			if s.errorDocs == nil {
				s.errorDocs = map[int]*directive{}
			}
			s.errorDocs[n] = d
		}
	case "setenvif", "setenvifnocase", "setenvifexpr", "browsermatch", "browsermatchnocase":
		s.setEnvIf = append(s.setEnvIf, d)
	case "setenv", "unsetenv", "passenv":
		s.setEnv = append(s.setEnv, d)
	case "addhandler":
		s.handlers = append(s.handlers, d)
	case "requestheader":
		s.headers = append(s.headers, d)
	case "redirect", "redirectmatch", "redirecttemp", "redirectpermanent":
		s.redirects = append(s.redirects, d)
	case "directoryindex":
		if s.indexAt == nil {
			s.index = nil
		}
		s.indexAt = d
		s.index = append(s.index, d.args...)
		if len(d.args) == 1 && strings.EqualFold(d.args[0], "disabled") {
			s.index = nil
		}
	case "fallbackresource":
		s.fallback = d
	case "rewriteengine", "rewritebase", "rewriteoptions", "rewritecond", "rewriterule", "rewritemap":
		if s.rewrite == nil {
			s.rewrite = &rewriteScope{dir: b.dir, base: ""}
		}
		b.conds = s.rewrite.add(d, b.conds, b.c)
		if s.rewrite.broken != nil && b.over != nil {
			b.offend(d, "syntax", s.rewrite.broken.Error())
		}
	case "files", "filesmatch":
		sec := b.section(d, "files")
		s.files = append(s.files, sec)
	case "if", "elseif", "else":
		sec := b.section(d, "if")
		if d.name == "if" || len(s.ifs) == 0 {
			s.ifs = append(s.ifs, nil)
		}
		last := len(s.ifs) - 1
		s.ifs[last] = append(slices.Clip(s.ifs[last]), sec)
	case "sslrequire":
		s.sslRequire = append(s.sslRequire, d)
	case "secrule", "secaction", "secruleremovebyid", "secruleremovebytag", "secruleremovebymsg", "secruleupdatetargetbyid", "secruleupdatetargetbytag", "secruleupdateactionbyid", "secrulescript", "secmarker", "secdefaultaction":
		s.wafFiles = append(s.wafFiles, d)
	case "proxypass", "proxypassmatch":
		if b.location {
			s.proxyPass = d
		}
	case "alias", "scriptalias":
		if b.location {
			s.alias = d
		}
	case "proxy", "proxymatch", "directory", "directorymatch", "location", "locationmatch", "virtualhost":
	default:
		if d.section {
			return
		}
		if s.set == nil {
			s.set = map[string]*directive{}
		}
		if old := s.set[d.name]; old != nil && d.name == "allowmethods" && len(old.args) < 1000 { // they add up inside one section
			both := *d
			both.args = slices.Concat(old.args, d.args)
			both.raw = strings.Join(both.args, " ")
			d = &both
		}
		s.set[d.name] = d
	}
}

// options reads Options: either all words have a sign or none.
func (b *builder) options(d *directive) {
	s := b.s
	signed, plain := false, false
	for _, a := range d.args {
		action := byte(0)
		if a != "" && (a[0] == '+' || a[0] == '-') {
			action, a = a[0], a[1:]
		}
		signed, plain = signed || action != 0, plain || action == 0
		o, ok := optionNames[strings.ToLower(a)]
		if !ok {
			b.offend(d, "syntax", "Illegal option "+cut(a, 40))
			return
		}
		if b.over != nil && o&^b.over.options != 0 {
			b.offend(d, "override", "Option "+cut(a, 40)+" not allowed here")
			return
		}
		switch action {
		case '-':
			s.remove |= o
			s.add &^= o
			s.opts &^= o
		case '+':
			s.add |= o
			s.remove &^= o
			s.opts |= o
		default:
			if s.opts&optUnset != 0 || !signed && a == d.args[0] {
				s.opts, s.add, s.remove = 0, 0, 0
			}
			if o == 0 {
				s.opts = 0
			}
			s.opts |= o
		}
	}
	s.optsAt = d
	if signed && plain {
		b.offend(d, "syntax", "Either all Options must start with + or -, or no Option may.")
	}
}

// section builds a container.
func (b *builder) section(d *directive, kind string) *section {
	sec, off := b.where.inner(d, kind)
	b.offences = append(b.offences, off...)
	return sec
}

// container builds a section of the server's configuration; what is wrong in it is a problem.
func (w where) container(d *directive, kind string) *section {
	sec, off := w.inner(d, kind)
	for _, o := range off {
		w.c.problem(o.d.at, "%s", o.says)
	}
	if sec.nothing {
		w.c.problem(d.at, "the expression of <%s> cannot be evaluated here", d.written)
	}
	return sec
}

func (w where) inner(d *directive, kind string) (*section, []offence) {
	sec := &section{kind: kind, d: d}
	pattern := d.arg(0)
	isRegex := strings.HasSuffix(d.name, "match")
	if pattern == "~" && kind != "if" {
		isRegex, pattern = true, d.arg(1)
	}
	inner := w
	inner.depth++
	switch kind {
	case "if":
		sec.pattern = pattern
		if len(d.args) > 1 {
			sec.pattern = d.raw
		}
	case "directory":
		if !isRegex {
			wild := strings.ContainsAny(pattern, "*?[")
			pattern = path.Clean("/" + strings.TrimPrefix(pattern, "/"))
			sec.wild = wild
			sec.names = strings.Count(pattern, "/")
			if pattern == "/" {
				sec.names = 0
			}
			inner.dir = strings.TrimSuffix(pattern, "/") + "/"
		} else {
			inner.dir = pattern
			sec.names = strings.Count(pattern, "/")
		}
		sec.pattern = pattern
	case "location":
		sec.pattern, sec.wild = pattern, strings.ContainsAny(pattern, "*?[")
		inner.dir, inner.location = pattern, true
	default:
		sec.pattern, sec.wild = pattern, strings.ContainsAny(pattern, "*?[")
	}
	if isRegex {
		re, err := compile(pattern, false)
		if err != nil {
			sec.nothing = true
		}
		sec.regex = re
	}
	var off []offence
	sec.scope, off = inner.build(d.inside)
	return sec, off
}

// merge is what holds where a scope with s meets a narrower one.
func (s *scope) merge(n *scope) *scope {
	if n == nil {
		return s
	}
	m := *s
	if n.opts&optUnset != 0 {
		m.add = s.add&^n.remove | n.add
		m.remove = s.remove&^n.add | n.remove
		m.opts = s.opts&^m.remove | m.add
	} else {
		m.opts, m.add, m.remove = n.opts, n.add, n.remove
	}
	if n.optsAt != nil {
		m.optsAt = n.optsAt
	}
	if n.override.set {
		list, set := m.override.list, m.override.listSet
		m.override = n.override
		if !n.override.listSet {
			m.override.list, m.override.listSet = list, set
		}
	} else if n.override.listSet {
		m.override.list, m.override.listSet = n.override.list, true
	}
	if len(n.set) > 0 {
		m.set = maps.Clone(s.set)
		if m.set == nil {
			m.set = map[string]*directive{}
		}
		maps.Copy(m.set, n.set)
	}
	if len(n.errorDocs) > 0 {
		m.errorDocs = maps.Clone(s.errorDocs)
		if m.errorDocs == nil {
			m.errorDocs = map[int]*directive{}
		}
		maps.Copy(m.errorDocs, n.errorDocs)
	}
	m.setEnvIf = slices.Concat(s.setEnvIf, n.setEnvIf)
	m.setEnv = slices.Concat(without(s.setEnv, n.setEnv), n.setEnv)
	m.handlers = slices.Concat(s.handlers, n.handlers)
	m.headers = slices.Concat(s.headers, n.headers)
	m.redirects = slices.Concat(n.redirects, s.redirects)
	m.files = slices.Concat(s.files, n.files)
	m.ifs = slices.Concat(s.ifs, n.ifs)
	m.sslRequire = slices.Concat(s.sslRequire, n.sslRequire)
	m.wafFiles = slices.Concat(s.wafFiles, n.wafFiles)
	if n.indexAt != nil {
		m.index, m.indexAt = n.index, n.indexAt
	}
	if n.fallback != nil {
		m.fallback = n.fallback
	}
	if n.proxyPass != nil {
		m.proxyPass = n.proxyPass
	}
	if n.alias != nil {
		m.alias = n.alias
	}
	if n.legacy != nil {
		m.legacy = n.legacy // mod_access_compat has no merger: the narrower one replaces the wider one
	}
	m.mergeAuth(s, n)
	m.rewrite = s.rewrite.merge(n.rewrite)
	return &m
}

// mergeAuth follows AuthMerging: the narrower requirements replace the wider ones, or both count.
func (m *scope) mergeAuth(s, n *scope) {
	onlySettings := n.auth == nil && !n.mergingSet && n.set["authzsendforbiddenonfailure"] == nil
	if onlySettings {
		return
	}
	m.merging, m.mergingSet = n.merging, n.mergingSet
	switch {
	case !n.mergingSet && n.auth == nil:
	case n.merging == "" || n.merging == "off" || s.auth == nil && n.auth == nil:
		m.auth = n.auth
	case s.auth != nil && n.auth != nil:
		both := &authSection{op: opAll, top: true, inside: []*authSection{s.auth, n.auth}}
		if n.merging == "or" {
			both.op = opAny
		}
		m.auth = both
	case n.auth != nil:
		m.auth = n.auth
	}
}

// setting is the first argument of a plain directive, "" if it is not set.
func (s *scope) setting(name string) string {
	if d := s.set[name]; d != nil {
		return d.arg(0)
	}
	return ""
}

// on says that a plain directive is On.
func (s *scope) on(name string) bool { return strings.EqualFold(s.setting(name), "on") }

// place is where a plain directive is written.
func (s *scope) place(name string) pinpoint.Place {
	if d := s.set[name]; d != nil {
		return d.at
	}
	return pinpoint.Place{}
}
