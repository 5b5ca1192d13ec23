package wire

import (
	"strings"
)

// setTarget reads the request target (RFC 9112 §3.2) into Path, Query and, in absolute
// form, the authority that then counts as Host. The path is brought to the one
// form that policies judge and the upstream gets:
//
//   - escapes of unreserved characters are decoded, all others kept in upper case
//   - bytes above 0x7F are escaped
//   - "." and ".." are resolved; a path that would climb above the root is refused
//   - "%2F", "//" and ";" stay, since their meaning is the application's
func (r *Request) setTarget(t string, arena *[]byte) *Fault {
	r.Target = t
	if t == "" {
		return fault(BadTarget, "a path that begins with /", "the request target is empty")
	}
	if t[0] != '/' {
		switch {
		case t == "*" && r.Method == "OPTIONS":
			r.Path = "*"
			return nil
		case hasScheme(t):
			rest := t[strings.Index(t, "://")+3:]
			end := strings.IndexAny(rest, "/?#")
			if end < 0 {
				end = len(rest)
			}
			r.absolute = rest[:end]
			r.AbsoluteScheme = "http"
			if t[4]|0x20 == 's' {
				r.AbsoluteScheme = "https"
			}
			if r.absolute == "" || strings.IndexByte(r.absolute, '@') >= 0 {
				return fault(BadTarget, "http://host/path without user information", "the absolute target %s", excerpt(Shown(t), 80))
			}
			if t = rest[end:]; t == "" && r.Method == "OPTIONS" { // RFC 9112 §3.2.4
				r.Path = "*"
				return nil
			}
			if t == "" || t[0] != '/' {
				*arena = append(append((*arena)[:0], '/'), t...)
				t = view(*arena)
				*arena = (*arena)[len(*arena):]
			}
		default:
			return fault(BadTarget, "a path that begins with /, or http://host/path", "the request target %s", excerpt(Shown(t), 80))
		}
	}
	path := t
	if i := strings.IndexByte(t, '?'); i >= 0 {
		path, r.Query, r.HasQuery = t[:i], t[i+1:], true
		if !all(r.Query, queryByte) {
			if f := r.cleanQuery(arena); f != nil {
				return f
			}
		}
	}
	return r.setPath(path, arena)
}

// hasScheme says whether t begins with http:// or https:// in any case.
func hasScheme(t string) bool {
	return len(t) > 7 && equalFold(t[:7], "http://") || len(t) > 8 && equalFold(t[:8], "https://")
}

// cleanQuery escapes bytes above 0x7F and refuses what no query may hold.
func (r *Request) cleanQuery(arena *[]byte) *Fault {
	out := (*arena)[:0]
	for i := 0; i < len(r.Query); i++ {
		switch c := r.Query[i]; {
		case is(c, queryByte):
			out = append(out, c)
		case c >= 0x80:
			out = appendEscaped(out, c)
		default:
			return fault(BadTargetByte, "%-escapes for control bytes, spaces and #", "byte 0x%02X at position %d of the query", c, i)
		}
	}
	r.Query = view(out)
	*arena = out[len(out):]
	return nil
}

const upperHex = "0123456789ABCDEF"

func appendEscaped(b []byte, c byte) []byte {
	return append(b, '%', upperHex[c>>4], upperHex[c&15])
}

// setPath brings a path to its one form. Most paths are in it already and cost one pass.
func (r *Request) setPath(p string, arena *[]byte) *Fault {
	clean := true
	for i := 0; i < len(p); i++ {
		c := p[i]
		if is(c, plainByte) {
			continue
		}
		if c == '/' {
			if i+1 < len(p) && p[i+1] == '.' { // may be a dot segment
				clean = false
				break
			}
			continue
		}
		if c == '.' {
			continue
		}
		clean = false
		break
	}
	if clean {
		if hidesDots(p) {
			return hiddenDots(p)
		}
		r.Path = p
		return nil
	}
	return r.normalise(p, arena)
}

func (r *Request) normalise(p string, arena *[]byte) *Fault {
	out := (*arena)[:0]
	for i := 0; i < len(p); i++ {
		c := p[i]
		switch {
		case c == '%':
			if i+2 >= len(p) || !is(p[i+1], hexByte) || !is(p[i+2], hexByte) {
				return fault(BadEscape, "% and two hexadecimal digits", "%s in the path", excerpt(p[i:], 3))
			}
			d := unhex[p[i+1]]<<4 | unhex[p[i+2]]
			i += 2
			switch {
			case d == 0:
				return fault(NulInPath, "a path without %00", "%%00 at position %d of the path", i-2)
			case is(d, unreserved):
				out = append(out, d)
			default:
				out = appendEscaped(out, d)
			}
		case is(c, plainByte) || c == '/' || c == '.':
			out = append(out, c)
		case c >= 0x80 || c == '"' || c == '<' || c == '>' || c == '[' || c == ']' || c == '^' || c == '`' || c == '{' || c == '|' || c == '}':
			out = appendEscaped(out, c)
		default: // control bytes, space, # and \
			return fault(BadTargetByte, "%-escapes for control bytes, spaces, # and \\", "byte 0x%02X at position %d of the path", c, i)
		}
	}
	kept, ok := resolveDots(out)
	if !ok {
		return fault(EscapesRoot, "no more .. segments than there are segments before them", "the path %s", excerpt(p, 120))
	}
	r.Path = view(kept)
	*arena = out[len(out):]
	if hidesDots(r.Path) {
		return hiddenDots(p)
	}
	return nil
}

// resolveDots removes "." and ".." segments in place (RFC 3986 §5.2.4) and reports
// false when the path would leave the root.
func resolveDots(p []byte) ([]byte, bool) {
	w := 0
	for i := 0; i < len(p); { // p[i] is '/'
		j := i + 1
		for j < len(p) && p[j] != '/' {
			j++
		}
		last := j == len(p)
		switch seg := string(p[i+1 : j]); seg {
		case ".":
			if last {
				p[w] = '/'
				w++
			}
		case "..":
			if w == 0 {
				return nil, false
			}
			for w--; p[w] != '/'; w-- {
			}
			if last {
				p[w] = '/'
				w++
			}
		default:
			w += copy(p[w:], p[i:j])
		}
		i = j
	}
	return p[:w], true
}

// hidesDots says whether a segment of a normal path is a dot segment to servers that cut
// path parameters off ("..;x") or decode "%2F", "%5C" and "%3B" before they look ("..%2Fadmin").
func hidesDots(p string) bool {
	for i := 0; ; i++ {
		n := strings.IndexByte(p[i:], '.')
		if n < 0 {
			return false
		}
		i += n
		if !segmentStart(p, i) {
			continue
		}
		if i+1 < len(p) && p[i+1] == '.' {
			i++
		}
		if segmentEnd(p, i+1) {
			return true
		}
	}
}

// segmentStart says that a segment begins at i, to one server or another.
func segmentStart(p string, i int) bool {
	return p[i-1] == '/' || i >= 3 && (p[i-3:i] == "%2F" || p[i-3:i] == "%5C")
}

// segmentEnd says that a segment, or what counts of it, ends at i.
func segmentEnd(p string, i int) bool {
	if i == len(p) || p[i] == '/' || p[i] == ';' {
		return true
	}
	return i+3 <= len(p) && (p[i:i+3] == "%2F" || p[i:i+3] == "%5C" || p[i:i+3] == "%3B")
}

func hiddenDots(p string) *Fault {
	return fault(HiddenDots, "no segment that some servers read as . or ..", "the path %s", excerpt(p, 120))
}

// Shown is a target or an authority as it may be shown and recorded: without query and user
// information, which hold secrets.
func Shown(target string) string {
	path := target
	if i := strings.IndexByte(target, '?'); i >= 0 {
		path = target[:i]
	}
	if path != "" && path[0] == '/' {
		return path
	}
	from := 0
	if i := strings.Index(target, "://"); i >= 0 {
		from = i + 3
	}
	authority, _, _ := strings.Cut(target[from:], "/")
	at := strings.LastIndexByte(authority, '@')
	switch {
	case at < 0:
		return path
	case from+at > len(path): // a query or a password: nobody can tell
		return target[:min(from, len(path))]
	}
	return path[:from] + path[from+at+1:]
}

// SafePath escapes what would end the path or the request line early. Policies that
// rewrite paths pass their results through it.
func SafePath(p string) string {
	for i := 0; i < len(p); i++ {
		if c := p[i]; !is(c, plainByte) && c != '/' && c != '.' && c != '%' {
			out := append([]byte(nil), p[:i]...)
			for ; i < len(p); i++ {
				if c := p[i]; is(c, plainByte) || c == '/' || c == '.' || c == '%' {
					out = append(out, c)
				} else {
					out = appendEscaped(out, c)
				}
			}
			return string(out)
		}
	}
	return p
}
