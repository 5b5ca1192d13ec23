package machine

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// doubt looks at what the bits do not say: labels of SELinux, profiles of AppArmor. Policies are read in
// part only, so most of it is a clue that a line of the audit log would settle. True means that a
// profile, read in full, has no rule for the file.
func (d *door) doubt() bool {
	p := d.who.Process
	if p == nil || p.Label == "" || p.Label == "unconfined" || p.Container {
		return false
	}
	if strings.Count(p.Label, ":") >= 3 {
		d.selinux(p)
		return false
	}
	return d.apparmor(p)
}

// contentTypes are types that the policy lets httpd_t read (httpd_selinux(8)).
var contentTypes = []string{"httpd_sys_content_t", "httpd_sys_rw_content_t", "httpd_sys_ra_content_t", "httpd_sys_script_exec_t", "httpd_user_content_t", "httpd_user_rw_content_t",
	"public_content_t", "public_content_rw_t", "httpd_config_t", "httpd_log_t", "httpd_cache_t", "httpd_var_lib_t", "httpd_var_run_t", "usr_t", "etc_t", "cert_t", "lib_t", "bin_t", "httpd_exec_t",
	"root_t", "httpd_modules_t", "httpd_htaccess_t", "httpd_sys_htaccess_t", "httpd_user_htaccess_t", "fonts_t", "locale_t"}

// foreignTypes are types that it does not let it read, with the boolean that would.
var foreignTypes = map[string]string{"user_home_t": "httpd_read_user_content", "user_home_dir_t": "httpd_enable_homedirs", "home_root_t": "", "admin_home_t": "", "default_t": "", "unlabeled_t": "",
	"user_tmp_t": "", "mnt_t": "", "nfs_t": "httpd_use_nfs", "cifs_t": "httpd_use_cifs", "fusefs_t": "httpd_use_fusefs", "var_lib_t": "", "container_file_t": "", "samba_share_t": "", "ssh_home_t": "", "shadow_t": ""}

// selinux compares the labels along the path with what a confined web server may read.
func (d *door) selinux(p *Process) {
	if strings.TrimSpace(string(d.readProc("/sys/fs/selinux/enforce", 16))) != "1" {
		return
	}
	domain := field(p.Label, 2)
	if domain != "httpd_t" && domain != "haproxy_t" && domain != "nginx_t" && domain != "phpfpm_t" {
		return
	}
	for _, c := range d.walk {
		label := field(c.Label, 2)
		boolean, foreign := foreignTypes[label]
		if !foreign || c.Path == "/" || c.dir() && label != "user_home_dir_t" && label != "admin_home_t" && label != "unlabeled_t" && label != "nfs_t" && label != "cifs_t" && label != "fusefs_t" && label != "default_t" {
			continue
		}
		clue := pinpoint.Clue{Cause: "fs-selinux-denied", ID: "selinux-label", Weight: pinpoint.Fair, Quote: c.Label,
			Names: map[string]string{"path": show(c.Path), "label": label, "domain": domain},
			Says:  fmt.Sprintf("SELinux enforces, and %s has the type %s, which %s usually may not read; the audit log (ausearch -m avc) would settle it", show(c.Path), label, domain)}
		expected := field(d.expected(c.Path, c.dir()), 2)
		switch {
		case slices.Contains(contentTypes, expected):
			clue.Weight = pinpoint.Strong
			clue.Names["expected"] = expected
			clue.Says = fmt.Sprintf("SELinux enforces, and %s has the type %s; the policy wants %s there, so the file was moved or copied with an old label", show(c.Path), label, expected)
			clue.Fix = []string{"restorecon -v " + shell(c.Path)}
		case boolean != "":
			clue.Names["directive"] = boolean
			clue.Fix = []string{fmt.Sprintf("setsebool -P %s on", boolean), "Or move the content to /srv/www or /var/www and run restorecon -v on it; keep SELinux enforcing."}
		default:
			clue.Fix = []string{fmt.Sprintf("semanage fcontext -a -t httpd_sys_content_t %s, then restorecon -v %s; keep SELinux enforcing.", shell(regexp.QuoteMeta(c.Path)), shell(c.Path))}
		}
		d.add(clue)
		return
	}
}

func field(label string, n int) string {
	f := strings.SplitN(label, ":", 4)
	if n >= len(f) {
		return ""
	}
	return f[n]
}

// fileContexts are the labels that the policy wants (file_contexts(5)).
type fileContexts struct {
	lines []contextLine
}

type contextLine struct {
	stem, pattern, kind, context string
}

const maxContexts = 1 << 15

// expected is the context that the policy wants for a path, "" when it names none: the last line that
// matches wins, as selabel_file(5) says.
func (d *door) expected(name string, dir bool) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.spent {
		d.spent = true
		d.labels = &fileContexts{}
		policy := "targeted"
		for line := range strings.Lines(string(d.readProc("/etc/selinux/config", 1<<16))) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "SELINUXTYPE="); ok && !strings.ContainsAny(v, "/.") {
				policy = v
			}
		}
		for _, n := range []string{"", ".homedirs", ".local"} {
			d.labels.add(string(d.readProc("/etc/selinux/"+policy+"/contexts/files/file_contexts"+n, MaxFile)))
		}
	}
	return d.labels.match(name, dir)
}

func (f *fileContexts) add(text string) {
	for line := range strings.Lines(text) {
		w := strings.Fields(line)
		if len(w) < 2 || strings.HasPrefix(w[0], "#") || len(f.lines) == maxContexts {
			continue
		}
		l := contextLine{pattern: w[0], context: w[len(w)-1]}
		if len(w) == 3 {
			l.kind = w[1]
		}
		l.stem = w[0]
		if i := strings.IndexAny(l.stem, `.*+?[](){}|\^$`); i >= 0 {
			l.stem = l.stem[:i]
			if i < len(w[0]) && strings.IndexByte("*?{", w[0][i]) >= 0 && l.stem != "" {
				l.stem = l.stem[:len(l.stem)-1]
			}
		}
		f.lines = append(f.lines, l)
	}
}

func (f *fileContexts) match(name string, dir bool) string {
	tried := 0
	for _, l := range slices.Backward(f.lines) {
		if l.kind == "-d" && !dir || l.kind == "--" && dir || len(l.kind) == 2 && l.kind != "-d" && l.kind != "--" || !strings.HasPrefix(name, l.stem) {
			continue
		}
		if tried++; tried > 4096 || len(l.pattern) > 1024 {
			return ""
		}
		if re, err := regexp.Compile("^(?:" + l.pattern + ")$"); err == nil && re.MatchString(name) {
			if l.context == "<<none>>" {
				return ""
			}
			return l.context
		}
	}
	return ""
}

// apparmor holds the file against the profile of the worker (apparmor.d(5)).
func (d *door) apparmor(p *Process) bool {
	name, mode, _ := strings.Cut(p.Label, " (")
	if mode = strings.TrimSuffix(mode, ")"); mode != "enforce" && mode != "kill" {
		return false
	}
	perm := map[string]string{"read": "r", "list": "r", "write": "w"}[d.access.Want]
	if perm == "" || d.final == "" {
		return false
	}
	last := &d.walk[len(d.walk)-1]
	target := d.final
	if last.dir() && target != "/" {
		target += "/"
	}
	pf := d.profile(name)
	allowed, denied := pf.decide(target, perm, last.UID == d.who.UID)
	if allowed && !denied {
		return false
	}
	rule := target
	if strings.ContainsAny(rule, "*?[]{}\" \\^") {
		rule = `"` + strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`, `{`, `\{`, `}`, `\}`, `"`, `\"`, `^`, `\^`).Replace(rule) + `"`
	}
	clue := pinpoint.Clue{Cause: "fs-apparmor-denied", ID: "apparmor-profile", Weight: pinpoint.Hint, Names: map[string]string{"path": show(d.final), "profile": show(name)},
		Says: fmt.Sprintf("the worker runs under the AppArmor profile %s; whether it allows %s could not be read in full, and the kernel log would settle it", show(name), show(d.final))}
	if pf.file != "" {
		clue.Names["profile-file"] = pf.file
		clue.Fix = []string{fmt.Sprintf("Add the line “%s %s,” to /etc/apparmor.d/local/%s, then apparmor_parser -r %s", show(rule), perm, path.Base(pf.file), shell(pf.file))}
	}
	sure := pf.file != "" && pf.whole || denied
	if sure {
		clue.Weight = pinpoint.Strong
		clue.Says = fmt.Sprintf("the AppArmor profile %s has no rule that lets the worker %s %s", show(name), d.access.Want, show(d.final))
		if denied {
			clue.Says = fmt.Sprintf("a deny rule of the AppArmor profile %s keeps the worker from %s", show(name), show(d.final))
			clue.Fix = []string{fmt.Sprintf("Correct the deny rule in %s, then apparmor_parser -r %s", show(pf.file), shell(pf.file))}
		}
	}
	last.Denied = sure
	d.add(clue)
	return sure
}

// armor is a profile as far as it was understood.
type armor struct {
	file  string
	rules []armorRule
	whole bool // every rule was understood
}

type armorRule struct {
	re    *regexp.Regexp
	perms string
	deny  bool
	owner bool
}

func (a *armor) decide(name, perm string, owner bool) (allowed, denied bool) {
	for _, r := range a.rules {
		if !strings.Contains(r.perms, perm) && !(perm == "w" && strings.Contains(r.perms, "a") && !r.deny) || r.owner && !owner || !r.re.MatchString(name) {
			continue
		}
		if r.deny {
			denied = true
		} else {
			allowed = true
		}
	}
	return allowed, denied
}

const armorDir = "/etc/apparmor.d"

// profile finds and reads the profile of a name.
func (m *Machine) profile(name string) *armor {
	a := &armor{}
	if strings.Contains(name, "//") { // a hat or a child: its rules lie in another block
		return a
	}
	left := 2048
	names, _ := m.list(armorDir, &left)
	r := armorReader{m: m, left: 256}
	for _, n := range names {
		text, err := m.ReadFile(armorDir + "/" + n)
		if err != nil {
			continue
		}
		body, ok := armorBlock(string(text), name)
		if !ok {
			continue
		}
		a.file = armorDir + "/" + n
		r.variables(string(text), 0)
		a.whole = true
		r.read(body, a, 0)
		return a
	}
	return a
}

var armorHead = regexp.MustCompile(`(?m)^[ \t]*(?:profile[ \t]+)?("[^"\n]+"|[^\s"{]+)(?:[ \t]+("[^"\n]+"|/[^\s{]*(?:\{[^}\n]*\}[^\s{]*)*|@\{[^\s]*))?(?:[ \t]+(?:flags=|xattrs=)?\([^)\n]*\))*[ \t]*\{[ \t]*(?:#.*)?$`)

// armorBlock is what stands between the braces of a profile.
func armorBlock(text, name string) (string, bool) {
	for _, h := range armorHead.FindAllStringSubmatchIndex(text, 64) {
		head := strings.Trim(text[h[2]:h[3]], `"`)
		if head != name && !(h[4] >= 0 && strings.Trim(text[h[4]:h[5]], `"`) == name) {
			continue
		}
		var b strings.Builder
		depth := 1
		for line := range strings.Lines(text[h[1]:]) {
			trimmed := strings.TrimSpace(line)
			opens := strings.HasSuffix(trimmed, "{")
			if trimmed == "}" {
				if depth--; depth == 0 {
					return b.String(), true
				}
				continue
			}
			if opens {
				depth++
				continue
			}
			if depth == 1 {
				b.WriteString(line)
			}
		}
		return b.String(), true
	}
	return "", false
}

// armorReader reads rules, with a bound on the files that they include.
type armorReader struct {
	m    *Machine
	left int
	vars map[string][]string
}

var (
	armorVar     = regexp.MustCompile(`^[ \t]*@\{(\w+)\}[ \t]*\+?=[ \t]*(.*)$`)
	armorInclude = regexp.MustCompile(`^#?include[ \t]+(if exists[ \t]+)?(?:<([^>]+)>|"([^"]+)"|(\S+))[ \t]*,?$`)
	armorFile    = regexp.MustCompile(`^((?:(?:audit|allow|deny|owner|quiet|priority=-?\d+)[ \t]+)*)(?:file[ \t]+)?(?:("[^"]+"|[/@{]\S*)[ \t]+([a-zA-Z]+)|([a-zA-Z]+)[ \t]+("[^"]+"|[/@{]\S*))(?:[ \t]*->.*)?$`)
	armorOther   = regexp.MustCompile(`^(?:(?:audit|allow|deny|owner|quiet)[ \t]+)*(?:capability|network|signal|ptrace|unix|dbus|mount|remount|umount|pivot_root|change_profile|change_hat|link|set|userns|mqueue|io_uring|abi|hat)\b`)
)

// variables collects @{NAME} definitions of the text and of the tunables that it includes.
func (r *armorReader) variables(text string, depth int) {
	if r.vars == nil {
		r.vars = map[string][]string{}
		r.include("tunables/global", func(t string) { r.variables(t, 1) })
	}
	if depth > 8 {
		return
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if v := armorVar.FindStringSubmatch(line); v != nil {
			for _, w := range strings.Fields(v[2]) {
				if len(r.vars[v[1]]) < 64 {
					r.vars[v[1]] = append(r.vars[v[1]], strings.Trim(w, `"`))
				}
			}
		} else if in := armorInclude.FindStringSubmatch(line); in != nil && strings.Contains(line, "tunables/") {
			r.include(in[2]+in[3]+in[4], func(t string) { r.variables(t, depth+1) })
		}
	}
}

// include reads a file, or the files of a directory, of the profiles; false when it could not.
func (r *armorReader) include(name string, use func(string)) bool {
	if !path.IsAbs(name) {
		name = path.Join(armorDir, name)
	}
	if !below(path.Clean(name), armorDir) {
		return false
	}
	left := 1024
	names := []string{name}
	if list, err := r.m.list(name, &left); err == nil {
		names = nil
		for _, n := range list {
			names = append(names, path.Join(name, n))
		}
	}
	ok := true
	for _, n := range names {
		if r.left--; r.left < 0 {
			return false
		}
		text, err := r.m.ReadFile(n)
		if err != nil {
			ok = false
			continue
		}
		use(string(text))
	}
	return ok
}

// read adds the rules of a block. What it does not understand makes the profile less than whole.
func (r *armorReader) read(text string, a *armor, depth int) {
	if depth > 8 || len(a.rules) > 1<<14 {
		a.whole = false
		return
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if in := armorInclude.FindStringSubmatch(line); in != nil {
			if !r.include(in[2]+in[3]+in[4], func(t string) { r.read(t, a, depth+1) }) && in[1] == "" {
				a.whole = false
			}
			continue
		}
		if line == "" || line[0] == '#' || armorVar.MatchString(line) {
			continue
		}
		if i := strings.LastIndex(line, ",#"); i > 0 {
			line = line[:i+1]
		}
		if i := strings.LastIndex(line, ", #"); i > 0 {
			line = line[:i+1]
		}
		line = strings.TrimSuffix(strings.TrimSpace(line), ",")
		switch f := armorFile.FindStringSubmatch(line); {
		case line == "file" || line == "allow file" || line == "all" || line == "allow all":
			a.rules = append(a.rules, armorRule{re: regexp.MustCompile(``), perms: "rwa"})
		case armorOther.MatchString(line):
		case f != nil:
			glob := strings.Trim(f[2]+f[5], `"`)
			re, err := r.compile(glob)
			if err != nil {
				a.whole = false
				continue
			}
			a.rules = append(a.rules, armorRule{re: re, perms: f[3] + f[4], deny: strings.Contains(f[1], "deny"), owner: strings.Contains(f[1], "owner")})
		default:
			a.whole = false
		}
	}
}

// compile turns a glob of AppArmor into an expression.
func (r *armorReader) compile(glob string) (*regexp.Regexp, error) {
	var b strings.Builder
	if err := r.write(&b, glob, 0); err != nil {
		return nil, err
	}
	return regexp.Compile(`\A(?:` + b.String() + `)\z`)
}

func (r *armorReader) write(b *strings.Builder, glob string, depth int) error {
	if depth > 8 || b.Len() > 1<<14 {
		return errTooMany
	}
	open := 0
	for i := 0; i < len(glob); i++ {
		switch c := glob[i]; {
		case c == '@' && strings.HasPrefix(glob[i:], "@{"):
			end := strings.IndexByte(glob[i:], '}')
			if end < 0 {
				return errTooMany
			}
			values, ok := r.vars[glob[i+2:i+end]]
			if !ok {
				return fmt.Errorf("variable %q: %w", glob[i:i+end+1], errTooMany)
			}
			b.WriteString("(?:")
			for n, v := range values {
				if n > 0 {
					b.WriteByte('|')
				}
				// "@{HOME}/x" with a value that ends in a slash has one slash.
				if err := r.write(b, strings.TrimSuffix(v, "/"), depth+1); err != nil {
					return err
				}
				if strings.HasSuffix(v, "/") && !strings.HasPrefix(glob[i+end+1:], "/") {
					b.WriteByte('/')
				}
			}
			b.WriteByte(')')
			i += end
		case c == '*' && strings.HasPrefix(glob[i:], "**"):
			b.WriteString(`[^\x00]`)
			if i > 0 && glob[i-1] == '/' {
				b.WriteByte('+')
			} else {
				b.WriteByte('*')
			}
			i++
		case c == '*':
			b.WriteString(`[^/\x00]`)
			if i > 0 && glob[i-1] == '/' && (i+1 == len(glob) || glob[i+1] == '/') {
				b.WriteByte('+')
			} else {
				b.WriteByte('*')
			}
		case c == '?':
			b.WriteString(`[^/\x00]`)
		case c == '{':
			open++
			b.WriteString("(?:")
		case c == '}' && open > 0:
			open--
			b.WriteByte(')')
		case c == ',' && open > 0:
			b.WriteByte('|')
		case c == '[':
			end := strings.IndexByte(glob[i:], ']')
			if end < 2 {
				return errTooMany
			}
			b.WriteString("[" + strings.ReplaceAll(strings.ReplaceAll(glob[i+1:i+end], `\`, `\\`), "[", `\[`) + "]")
			i += end
		case c == '\\' && i+1 < len(glob):
			i++
			b.WriteString(regexp.QuoteMeta(glob[i : i+1]))
		default:
			b.WriteString(regexp.QuoteMeta(glob[i : i+1]))
		}
	}
	if open > 0 {
		return errTooMany
	}
	return nil
}
