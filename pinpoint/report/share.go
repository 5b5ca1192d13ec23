package report

import (
	"archive/zip"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/netip"
	"reflect"
	"regexp"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// Share writes a bundle that can be handed to others: the verdict as JSON and as a page, in which
// names of hosts, addresses, paths of files and of URLs are replaced by keyed hashes, so that what
// was equal still looks equal. The key is random and is not kept.
func Share(w io.Writer, p Page) error {
	h := &hider{names: map[string]string{}}
	rand.Read(h.key[:])
	q := h.hide(p)
	z := zip.NewWriter(w)
	f, err := z.Create("verdict.json")
	if err != nil {
		return err
	}
	enc := json.NewEncoder(f)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(q.Verdict); err != nil {
		return err
	}
	if f, err = z.Create("report.html"); err != nil {
		return err
	}
	if err := HTML(f, q); err != nil {
		return err
	}
	return z.Close()
}

// hider replaces names by hashes.
type hider struct {
	key   [32]byte
	names map[string]string
	local *regexp.Regexp // the name of the host, where it has no dot and looks like a word; nil for none
}

var (
	urls      = regexp.MustCompile(`(?i)\b(https?|wss?)://([^\s/"'<>?#]+)([^\s"'<>]*)`)
	hosts     = regexp.MustCompile(`(?i)\b(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,24}(?::\d{1,5})?\b`)
	addresses = regexp.MustCompile(`\b\d{1,3}(?:\.\d{1,3}){3}\b|\b[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}\b`)
	paths     = regexp.MustCompile(`(^|[\s"'(=:,\[])((?:/[\w.@%~+=,;:!*()$&'-]+)+/?)`)
	mails     = regexp.MustCompile(`\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b`)
)

// kept are words with a dot that are no host, and paths that say nothing of anybody.
var (
	keptHost = regexp.MustCompile(`(?i)\.(?:conf|html?|php|log|ya?ml|json|txt|js|css|png|jpe?g|gif|svg|htaccess|pem|crt|key|sock|service|so|inc|xml|config)(?::\d+)?$|^(?:e\.g|i\.e)$`)
	keptPath = regexp.MustCompile(`^/(?:etc|usr|var|srv|proc|sys|tmp|home|run|opt|www|nginx|apache2|httpd|haproxy|lighttpd|log|sites-enabled|sites-available|conf\.d|conf-enabled|mods-enabled|conf)?/?$`)
)

func (h *hider) name(kind, s string) string {
	if n, ok := h.names[kind+s]; ok {
		return n
	}
	mac := hmac.New(sha256.New, h.key[:])
	mac.Write([]byte(kind + s))
	n := "‹" + kind + ":" + hex.EncodeToString(mac.Sum(nil)[:4]) + "›"
	h.names[kind+s] = n
	return n
}

func (h *hider) text(s string) string {
	if h.local != nil {
		s = h.local.ReplaceAllStringFunc(s, func(m string) string { return h.name("host", strings.ToLower(m)) })
	}
	s = mails.ReplaceAllStringFunc(s, func(m string) string { return h.name("mail", m) })
	s = urls.ReplaceAllStringFunc(s, func(m string) string {
		g := urls.FindStringSubmatch(m)
		path, query, found := strings.Cut(g[3], "?")
		out := g[1] + "://" + h.name("host", strings.ToLower(g[2])) + h.path(path)
		if found {
			out += "?" + h.name("query", query)
		}
		return out
	})
	s = addresses.ReplaceAllStringFunc(s, func(m string) string {
		if a, err := netip.ParseAddr(m); err != nil || a.IsLoopback() || a.IsUnspecified() {
			return m // a clock, a version, or nobody's
		}
		return h.name("address", m)
	})
	s = paths.ReplaceAllStringFunc(s, func(m string) string {
		g := paths.FindStringSubmatch(m)
		return g[1] + h.path(g[2])
	})
	return hosts.ReplaceAllStringFunc(s, func(m string) string {
		if keptHost.MatchString(m) {
			return m
		}
		return h.name("host", strings.ToLower(m))
	})
}

// path hides each name of a path and keeps its depth and its ending.
func (h *hider) path(p string) string {
	parts := strings.Split(p, "/")
	for i, s := range parts {
		if s == "" || strings.HasPrefix(s, "‹") || keptPath.MatchString("/"+s) {
			continue
		}
		ending := ""
		if j := strings.LastIndexByte(s, '.'); j > 0 && len(s)-j <= 6 {
			ending = s[j:]
		}
		parts[i] = h.name("path", strings.TrimSuffix(s, ending)) + ending
	}
	return strings.Join(parts, "/")
}

// bareHost is a name of a host without a dot, as internal networks have them.
var bareHost = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{2,62}$`)

// exempt are fields that hold words of ours.
var exempt = map[string]bool{"Cause": true, "Grade": true, "Outcome": true, "Layer": true, "Source": true, "ID": true, "Operator": true, "Product": true, "Kind": true, "Owner": true,
	"Method": true, "Shows": true, "Run": true, "Title": true, "Risk": true}

func (h *hider) hide(p Page) Page {
	b, _ := json.Marshal(p.Verdict) // a copy that shares nothing
	var v pinpoint.Verdict
	if json.Unmarshal(b, &v) != nil {
		v = pinpoint.Verdict{Outcome: p.Outcome, Cause: p.Cause}
	}
	host, _, _ := strings.Cut(v.Refuser.Host, ":")
	if bareHost.MatchString(host) && !strings.EqualFold(host, "localhost") {
		h.local = regexp.MustCompile(`(?i)\b` + regexp.QuoteMeta(host) + `\b`)
	}
	h.walk(reflect.ValueOf(&v).Elem())
	return Page{Verdict: v, Method: p.Method, URL: h.text(p.URL), Status: p.Status, At: p.At}
}

func (h *hider) walk(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if !exempt[v.Type().Field(i).Name] {
				h.walk(v.Field(i))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			h.walk(v.Index(i))
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			if e := v.MapIndex(k); e.Kind() == reflect.String {
				v.SetMapIndex(k, reflect.ValueOf(h.text(e.String())))
			}
		}
	case reflect.String:
		v.SetString(h.text(v.String()))
	}
}
