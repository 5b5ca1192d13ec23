package apache

import (
	"path"
	"regexp"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// DefaultVersion is assumed where the version of the server is not known.
const DefaultVersion = "2.4.62"

// Env is what the process knows beside its configuration.
type Env struct {
	Root    string            // ServerRoot when the configuration names none
	Vars    map[string]string // environment of the process: APACHE_RUN_USER, APACHE_LOG_DIR
	Defines []string          // -D NAME
	Modules []string          // compiled in, beside the usual: "mod_so.c", "core.c"
	Version string            // "2.4.62"
	// Vault puts the secrets of a sealed request back for comparisons. They are never quoted.
	Vault *pinpoint.Vault
	// May says whether the user of the workers can do it. nil: permissions are judged elsewhere.
	May func(user string, a pinpoint.Access) bool
}

// Discover finds the configuration of a process from its arguments and environment: -f, -d, -D, and
// the layouts of Debian (apache2, with envvars), Red Hat (httpd) and a plain build.
func Discover(files pinpoint.Files, args, environ []string) (conf string, env Env) {
	env.Vars = map[string]string{}
	for _, e := range environ {
		if k, v, ok := strings.Cut(e, "="); ok && k != "" {
			env.Vars[k] = v
		}
	}
	for i := 1; i < len(args); i++ {
		a := args[i]
		if len(a) < 2 || a[0] != '-' {
			continue
		}
		value := a[2:]
		if value == "" && i+1 < len(args) && strings.ContainsRune("fdDcCkeE", rune(a[1])) {
			i++
			value = args[i]
		}
		switch a[1] {
		case 'f':
			conf = value
		case 'd':
			env.Root = value
		case 'D':
			env.Defines = append(env.Defines, value)
		}
	}
	layouts := []struct{ root, conf string }{
		{"/etc/apache2", "apache2.conf"},
		{"/etc/httpd", "conf/httpd.conf"},
		{"/usr/local/apache2", "conf/httpd.conf"},
		{"/etc/apache2", "httpd.conf"},
		{"/usr/local/etc/apache24", "httpd.conf"},
	}
	if dir := env.Vars["APACHE_CONFDIR"]; dir != "" {
		layouts[0].root = dir
	}
	if len(args) > 0 && path.Base(args[0]) == "httpd" {
		layouts[0], layouts[1] = layouts[1], layouts[0]
	}
	if env.Root != "" {
		layouts = append([]struct{ root, conf string }{{env.Root, "apache2.conf"}, {env.Root, "conf/httpd.conf"}}, layouts...)
	}
	for _, l := range layouts {
		if conf == "" && exists(files, path.Join(l.root, l.conf)) {
			conf = path.Join(l.root, l.conf)
		}
		if env.Root == "" && conf == path.Join(l.root, l.conf) {
			env.Root = l.root
		}
	}
	if env.Root == "" {
		env.Root = layouts[0].root
	}
	if conf != "" && !path.IsAbs(conf) {
		conf = path.Join(env.Root, conf)
	}
	if data, err := files.ReadFile(path.Join(env.Root, "envvars")); err == nil && len(data) <= maxFile {
		for k, v := range envvars(string(data), env.Vars) {
			if _, set := env.Vars[k]; !set {
				env.Vars[k] = v
			}
		}
	}
	return conf, env
}

var (
	assignment = regexp.MustCompile(`^(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)$`)
	shellVar   = regexp.MustCompile(`\$(?:\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}|([A-Za-z_][A-Za-z0-9_]*))`)
)

// envvars reads the assignments of Debian's envvars, a shell script. Nothing is executed: lines that
// are not plain assignments are passed over, and the branch of a second instance is not taken.
func envvars(text string, outer map[string]string) map[string]string {
	vars := map[string]string{}
	depth := 0
	for l := range strings.Lines(text) {
		l = strings.TrimSpace(l)
		switch {
		case strings.HasPrefix(l, "if "):
			depth++
			continue
		case l == "fi":
			depth--
			continue
		case depth > 0:
			continue
		}
		m := assignment.FindStringSubmatch(l)
		if m == nil || len(vars) > 1000 {
			continue
		}
		value := m[2]
		if i := strings.Index(value, " #"); i >= 0 {
			value = value[:i]
		}
		value = strings.Trim(strings.TrimSpace(value), `"'`)
		value = shellVar.ReplaceAllStringFunc(value, func(v string) string {
			m := shellVar.FindStringSubmatch(v)
			name := m[1] + m[4]
			if s, ok := vars[name]; ok {
				return s
			}
			if s, ok := outer[name]; ok {
				return s
			}
			return m[3]
		})
		if len(value) <= 4096 {
			vars[m[1]] = value
		}
	}
	return vars
}
