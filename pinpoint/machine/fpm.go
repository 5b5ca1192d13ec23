package machine

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// Bounds of a configuration of php-fpm.
const (
	maxPools    = 1024
	maxIncludes = 256
)

// pool is one pool of php-fpm (https://www.php.net/manual/en/install.fpm.configuration.php).
type pool struct {
	name   string
	values map[string]setting
}

type setting struct {
	value string
	at    pinpoint.Place
}

func (p *pool) is(key string) string { return p.values[key].value }

// phpFPM is the configuration of one master process.
type phpFPM struct {
	m       *Machine
	prefix  string
	global  *pool
	pools   []*pool
	basedir setting // of php.ini
}

// FPM reads the pools of a php-fpm master.
func FPM(m *Machine, p *Process) (Decider, error) {
	file, prefix := "", ""
	for i, a := range p.Args {
		next := ""
		if i+1 < len(p.Args) {
			next = p.Args[i+1]
		}
		switch a {
		case "-y", "--fpm-config":
			file = next
		case "-p", "--prefix":
			prefix = next
		}
		if v, ok := strings.CutPrefix(a, "--fpm-config="); ok {
			file = v
		}
		if v, ok := strings.CutPrefix(a, "--prefix="); ok {
			prefix = v
		}
	}
	if file == "" {
		return nil, errors.New("the command line of php-fpm names no configuration")
	}
	if !path.IsAbs(file) {
		file = path.Join(cmp.Or(p.Dir, "/"), file)
	}
	f := &phpFPM{m: m, prefix: cmp.Or(prefix, "/usr"), global: &pool{name: "global", values: map[string]setting{}}}
	left := maxIncludes
	if err := f.read(file, f.global, &left, 0); err != nil {
		return nil, err
	}
	if text, err := m.ReadFile(path.Join(path.Dir(file), "php.ini")); err == nil {
		n := 0
		for line := range strings.Lines(string(text)) {
			n++
			if k, v, ok := ini(line); ok && k == "open_basedir" {
				f.basedir = setting{v, pinpoint.Place{File: path.Join(path.Dir(file), "php.ini"), Line: n}}
			}
		}
	}
	return f, nil
}

// ini reads one line: key = value, with or without quotes.
func ini(line string) (key, value string, ok bool) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == ';' || line[0] == '#' || line[0] == '[' {
		return "", "", false
	}
	key, value, ok = strings.Cut(line, "=")
	value = strings.TrimSpace(value)
	if len(value) > 1 && (value[0] == '"' || value[0] == '\'') {
		if end := strings.IndexByte(value[1:], value[0]); end >= 0 {
			return strings.TrimSpace(key), value[1 : 1+end], ok
		}
	}
	if i := strings.Index(value, ";"); i >= 0 {
		value = strings.TrimSpace(value[:i])
	}
	return strings.TrimSpace(key), value, ok
}

func (f *phpFPM) read(file string, in *pool, left *int, depth int) error {
	if *left--; *left < 0 || depth > 8 {
		return fmt.Errorf("%s: %w", show(file), errTooMany)
	}
	text, err := f.m.ReadFile(file)
	if err != nil {
		return err
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		if t := strings.TrimSpace(line); strings.HasPrefix(t, "[") {
			name, _, ok := strings.Cut(t[1:], "]")
			if !ok {
				continue
			}
			if in = f.global; strings.TrimSpace(name) != "global" {
				in = f.pool(strings.TrimSpace(name))
			}
			if in == nil {
				return fmt.Errorf("%s: %w", show(file), errTooMany)
			}
			continue
		}
		key, value, ok := ini(line)
		if !ok {
			continue
		}
		if key == "include" {
			if !path.IsAbs(value) {
				value = path.Join(f.prefix, value)
			}
			files, err := f.m.Glob(value)
			if err != nil {
				return err
			}
			for _, name := range files {
				if err := f.read(name, in, left, depth+1); err != nil {
					return err
				}
			}
			continue
		}
		if len(in.values) < 1024 {
			in.values[key] = setting{strings.ReplaceAll(value, "$pool", in.name), pinpoint.Place{File: file, Line: n}}
		}
	}
	return nil
}

// pool is the pool of a name; nil when there are too many.
func (f *phpFPM) pool(name string) *pool {
	for _, p := range f.pools {
		if p.name == name {
			return p
		}
	}
	if len(f.pools) == maxPools {
		return nil
	}
	p := &pool{name: name, values: map[string]setting{}}
	f.pools = append(f.pools, p)
	return p
}

// abs is a path of the configuration as the master resolves it.
func (f *phpFPM) abs(p *pool, name string) string {
	if name == "" || path.IsAbs(name) {
		return name
	}
	return path.Join(cmp.Or(p.is("prefix"), f.prefix), name)
}

// listens says that a request arrives at this pool.
func (f *phpFPM) listens(p *pool, a pinpoint.Arrival) bool {
	at := p.is("listen")
	if a.Socket != "" {
		return f.abs(p, at) == a.Socket
	}
	if n, err := strconv.ParseUint(at, 10, 16); err == nil {
		return uint16(n) == a.Local.Port()
	}
	host, port, ok := cutLast(at, ':')
	if n, err := strconv.ParseUint(port, 10, 16); !ok || err != nil || uint16(n) != a.Local.Port() {
		return false
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err != nil || addr.IsUnspecified() || addr.Unmap() == a.Local.Addr().Unmap()
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// Decide is what the pool does with the script that it is asked to run.
func (f *phpFPM) Decide(a pinpoint.Arrival) pinpoint.Decision {
	d := pinpoint.Decision{Product: "php-fpm", Silent: []string{"php-fpm-limit-extensions", "php-open-basedir", "fs-file-unreadable", "fs-dir-no-search", "fs-posix-acl-denied"}}
	if log := f.global.values["error_log"]; log.value != "" {
		name := log.value
		if name != "syslog" {
			name = f.abs(f.global, name)
		}
		d.Logs = append(d.Logs, pinpoint.LogFile{Path: name, Product: "php-fpm", Kind: "error", Level: cmp.Or(f.global.is("log_level"), "notice"), At: log.at})
	}
	i := slices.IndexFunc(f.pools, func(p *pool) bool { return f.listens(p, a) })
	if i < 0 {
		d.Trail = append(d.Trail, pinpoint.Step{Says: "no pool of php-fpm listens there"})
		return d
	}
	p := f.pools[i]
	d.User = p.is("user")
	d.Trail = append(d.Trail, pinpoint.Step{Says: fmt.Sprintf("pool [%s] of php-fpm takes it", show(p.name)), At: p.values["listen"].at})
	if log := p.values["access.log"]; log.value != "" {
		d.Logs = append(d.Logs, pinpoint.LogFile{Path: f.abs(p, log.value), Product: "php-fpm", Kind: "access", Format: p.is("access.format"), At: log.at})
	}
	if f.stranger(p, a, &d) {
		return d
	}
	if a.Script == "" {
		d.Trail = append(d.Trail, pinpoint.Step{Says: "which script it is asked to run is not known"})
		return d
	}
	limit, set := p.values["security.limit_extensions"]
	allowed := []string{".php", ".phar"}
	if set {
		allowed = strings.Fields(limit.value)
	}
	end := ""
	if dot := strings.LastIndexByte(a.Script, '.'); dot >= 0 {
		end = a.Script[dot:]
	}
	if len(allowed) > 0 && !slices.Contains(allowed, end) {
		at := limit.at
		if !set {
			at = p.values["listen"].at
		}
		d.Status = 403
		d.Clues = append(d.Clues, pinpoint.Clue{Source: pinpoint.FromConfig, ID: "security.limit_extensions", Cause: "php-fpm-limit-extensions", Refuser: "php-fpm", Weight: pinpoint.Certain, At: at,
			Says:  fmt.Sprintf("the web server hands %s to PHP, and pool [%s] runs only %s (security.limit_extensions)", show(a.Script), show(p.name), strings.Join(allowed, " ")),
			Names: map[string]string{"path": show(a.Script), "directive": "security.limit_extensions", "pool": show(p.name), "extension": show(end)},
			Fix:   []string{fmt.Sprintf("Let the web server hand only %s to php-fpm, and serve %s as a file; leave security.limit_extensions as it is.", strings.Join(allowed, " and "), show(path.Base(a.Script)))}})
		return d
	}
	root := p.is("chroot")
	d.Files = append(d.Files, pinpoint.Access{Path: path.Join(cmp.Or(root, "/"), a.Script), Want: "read", Says: "script", At: p.values["user"].at})
	f.basedirs(p, a, &d)
	return d
}

// stranger says that listen.allowed_clients leaves the web server out. It counts for TCP only.
func (f *phpFPM) stranger(p *pool, a pinpoint.Arrival, d *pinpoint.Decision) bool {
	list, ok := p.values["listen.allowed_clients"]
	if !ok || list.value == "" || list.value == "any" || a.Socket != "" || !a.Client.IsValid() {
		return false
	}
	for s := range strings.SplitSeq(list.value, ",") {
		if addr, err := netip.ParseAddr(strings.TrimSpace(s)); err == nil && addr.Unmap() == a.Client.Unmap() {
			return false
		}
	}
	d.Status = 502
	d.Clues = append(d.Clues, pinpoint.Clue{Source: pinpoint.FromConfig, ID: "listen.allowed_clients", Cause: "upstream-unavailable", Refuser: "php-fpm", Weight: pinpoint.Strong, At: list.at,
		Says:  fmt.Sprintf("pool [%s] takes connections of %s only (listen.allowed_clients), and this one comes from %v: it is closed, and the web server answers 502", show(p.name), show(list.value), a.Client),
		Names: map[string]string{"directive": "listen.allowed_clients", "client": a.Client.String()},
		Fix:   []string{fmt.Sprintf("Add %v, the address of the web server, to listen.allowed_clients of pool [%s] and reload php-fpm.", a.Client, show(p.name))}})
	return true
}

// basedirs adds a clue when the script lies outside of open_basedir. A directory of the list holds what is below it.
func (f *phpFPM) basedirs(p *pool, a pinpoint.Arrival, d *pinpoint.Decision) {
	list := f.basedir
	for _, key := range []string{"php_value[open_basedir]", "php_admin_value[open_basedir]"} {
		if s, ok := p.values[key]; ok {
			list = s
		}
	}
	if list.value == "" || list.value == "none" {
		return
	}
	t := f.m.trace(f.m.Root, path.Join(cmp.Or(p.is("chroot"), "/"), a.Script), nil)
	if t.err != nil {
		return // it is missing, which is said elsewhere
	}
	real := t.parts[len(t.parts)-1].Path
	for dir := range strings.SplitSeq(list.value, ":") {
		if !path.IsAbs(dir) {
			return // relative to what the script says: not known
		}
		b := f.m.trace(f.m.Root, path.Join(cmp.Or(p.is("chroot"), "/"), dir), nil)
		if below(real, path.Clean(dir)) || b.err == nil && below(real, b.parts[len(b.parts)-1].Path) {
			return
		}
	}
	d.Status = 404
	d.Clues = append(d.Clues, pinpoint.Clue{Source: pinpoint.FromConfig, ID: "open_basedir", Cause: "php-open-basedir", Refuser: "php-fpm", Weight: pinpoint.Strong, At: list.at,
		Says:  fmt.Sprintf("%s lies in none of the directories of open_basedir (%s)", show(real), show(list.value)),
		Names: map[string]string{"path": show(real), "directive": "open_basedir", "pool": show(p.name)},
		Fix:   []string{fmt.Sprintf("Add %s to open_basedir in %s, line %d, and reload php-fpm.", show(path.Dir(real)), list.at.File, list.at.Line)}})
}
