// Package waf says what in a request a web application firewall dislikes: by running rules here (Replica), and by
// asking the firewall with harmless variations of the request (Bisect), which never reach the application.
package waf

import (
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/whygate/whygate/pinpoint"
)

// Component is a part of a request that rules look at separately.
type Component string

// The components, in the order in which a server reads them.
const (
	Path        Component = "path"
	Query       Component = "query"
	Cookie      Component = "cookie"
	Header      Component = "header"
	ContentType Component = "content-type"
	Body        Component = "body"
)

// Leaf is a place of a request that holds text which can be replaced by harmless text of the same length without
// changing the structure around it.
type Leaf struct {
	Component Component
	Kind      string // "value", "name", "number", "segment", "file name", "part header", "content", "text", "attribute", "variable"
	// Name says where: a JSON pointer (RFC 6901), the name of a parameter, cookie, header or part, a path of
	// XML elements, the number of a path segment.
	Name string
	// Targets is what rules call the place.
	Targets Targets
	// Plain says that it is a name like any other, which stays unless names are what is suspected.
	Plain bool

	raw   string
	units []unit
	mode  mode
	order int    // among names, so that their twins differ
	whole string // twin of the whole leaf where letters would not do: */* for Accept; "" for letters
}

// Targets are the names of one place in rules. ModSecurity 2 and 3 and Coraza spell those of JSON bodies
// differently (apache2/msc_json.c, src/request_body_processor/json.cc, internal/bodyprocessors/json.go).
type Targets struct {
	ModSecurity2, ModSecurity3, Coraza string
}

func sameTargets(t string) Targets { return Targets{t, t, t} }

// Units is how many characters the leaf has. An escape sequence and a placeholder of the vault are one each.
func (l *Leaf) Units() int { return len(l.units) }

// Text is the decoded text of some units. Placeholders stay as they are.
func (l *Leaf) Text(from, to int) string {
	var b strings.Builder
	for i := max(from, 0); i < min(to, len(l.units)); i++ {
		b.WriteString(decode(l.unit(i), l.mode))
	}
	return b.String()
}

// String names the leaf for people.
func (l *Leaf) String() string {
	switch {
	case l.Component == Path:
		return "path segment " + l.Name
	case l.Component == Body && l.Kind == "text" && l.Name == "":
		return "body"
	case l.Component == Body && strings.HasPrefix(l.Name, "/") && l.Kind == "name":
		return "body, name of JSON pointer " + l.Name
	case l.Component == Body && strings.HasPrefix(l.Name, "/") && l.Targets.Coraza != xmlText && l.Targets.Coraza != xmlAttribute:
		return "body, JSON pointer " + l.Name
	case l.Component == Body:
		return "body, " + l.Kind + " of " + strconv.Quote(l.Name)
	case l.Component == Query && l.Kind == "name":
		return "name of query parameter " + strconv.Quote(l.Name)
	case l.Component == Query:
		return "query parameter " + strconv.Quote(l.Name)
	case l.Kind == "name":
		return "name of " + string(l.Component) + " " + strconv.Quote(l.Name)
	}
	return string(l.Component) + " " + l.Name
}

func (l *Leaf) unit(i int) string {
	start := int32(0)
	if i > 0 {
		start = l.units[i-1].end
	}
	return l.raw[start:l.units[i].end]
}

// harmless says that a unit is what its twin is.
func (l *Leaf) harmless(i int) bool {
	u := l.unit(i)
	return u == "a" && !l.units[i].fixed || u == "1" && l.units[i].digit
}

// unit is one character as it is written.
type unit struct {
	end   int32 // in raw
	size  int32 // bytes when decoded
	digit bool
	fixed bool // stays in a twin: the point of a number
}

type mode uint8

const (
	asText    mode = iota
	asJSON         // escapes with backslashes (RFC 8259 section 7)
	asPercent      // percent-encoding (RFC 3986 section 2.1), and + in forms
	asXML          // entity and character references
	asNumber       // digits change, the rest stays
)

var placeholder = regexp.MustCompile(`‹secret:[0-9a-f]{8} len=(\d{1,9})›`)

// split finds the units of raw text.
func split(raw string, m mode) []unit {
	units := make([]unit, 0, len(raw))
	secrets := placeholder.FindAllStringSubmatchIndex(raw, -1)
	for i := 0; i < len(raw); {
		n, u := 1, unit{size: 1}
		for len(secrets) > 0 && secrets[0][0] < i {
			secrets = secrets[1:]
		}
		switch c := raw[i]; {
		case len(secrets) > 0 && secrets[0][0] == i:
			size, _ := strconv.Atoi(raw[secrets[0][2]:secrets[0][3]])
			n, u.size = secrets[0][1]-i, int32(min(size, 4096))
			secrets = secrets[1:]
		case m == asNumber:
			u.digit = c >= '0' && c <= '9'
			u.fixed = !u.digit
		case m == asJSON && c == '\\' && i+1 < len(raw):
			n = 2
			if raw[i+1] == 'u' && i+6 <= len(raw) {
				n = 6
				if hexOf(raw[i+2:i+6]) >= 0xd800 && hexOf(raw[i+2:i+6]) < 0xdc00 && i+12 <= len(raw) && raw[i+6] == '\\' && raw[i+7] == 'u' &&
					hexOf(raw[i+8:i+12]) >= 0xdc00 && hexOf(raw[i+8:i+12]) < 0xe000 {
					n = 12
				}
			}
			u.size = int32(len(decode(raw[i:i+n], m)))
		case m == asPercent && c == '%' && i+3 <= len(raw) && hexOf(raw[i+1:i+3]) >= 0:
			n = 3
			u.digit = raw[i+1] == '3' && raw[i+2] >= '0' && raw[i+2] <= '9'
		case m == asXML && c == '&':
			if j := strings.IndexByte(raw[i:min(len(raw), i+12)], ';'); j > 0 {
				n = j + 1
				u.size = int32(max(1, len(decode(raw[i:i+n], m))))
			}
		case c >= utf8.RuneSelf:
			_, n = utf8.DecodeRuneInString(raw[i:])
			u.size = int32(n)
		default:
			u.digit = c >= '0' && c <= '9'
		}
		i += n
		u.end = int32(i)
		units = append(units, u)
	}
	return units
}

func hexOf(s string) int64 {
	n, err := strconv.ParseUint(s, 16, 32)
	if err != nil {
		return -1
	}
	return int64(n)
}

// decode is what one unit stands for.
func decode(u string, m mode) string {
	switch {
	case m == asPercent && len(u) == 3 && u[0] == '%':
		return string([]byte{byte(hexOf(u[1:]))})
	case m == asPercent && u == "+":
		return " "
	case m == asJSON && len(u) > 1 && u[0] == '\\':
		if s, err := strconv.Unquote(`"` + strings.ReplaceAll(u, `\/`, "/") + `"`); err == nil {
			return s
		}
		if len(u) == 12 {
			return string((rune(hexOf(u[2:6]))-0xd800)<<10 + rune(hexOf(u[8:12])) - 0xdc00 + 0x10000)
		}
		return string(utf8.RuneError)
	case m == asXML && len(u) > 2 && u[0] == '&':
		switch name := u[1 : len(u)-1]; name {
		case "lt":
			return "<"
		case "gt":
			return ">"
		case "amp":
			return "&"
		case "quot":
			return `"`
		case "apos":
			return "'"
		default:
			if h, ok := strings.CutPrefix(name, "#x"); ok {
				return string(rune(hexOf(h)))
			}
			n, _ := strconv.ParseInt(strings.TrimPrefix(name, "#"), 10, 32)
			return string(rune(n))
		}
	}
	return u
}

// Span is some units of a leaf, the last one excluded.
type Span struct{ From, To int }

// Kept says which units of which leaves stay as they were; all others become harmless.
type Kept map[int][]Span

// Message is a request taken apart into leaves.
type Message struct {
	Leaves []Leaf
	// Notes say what could not be taken apart: "the JSON does not parse".
	Notes []string

	request *pinpoint.Request
	url     []piece
	headers [][]piece
	body    []piece
	// opaque says that the body has no leaves although it has content.
	opaque bool
}

// piece is fixed text, or a leaf where leaf > 0 (its index plus one).
type piece struct {
	fixed string
	leaf  int
}

// Bounds. What is beyond them stays fixed, and the note says so.
const (
	maxLeaves   = 4096
	maxLeafBody = 1 << 20
	maxDepth    = 256
)

// Take takes a request apart.
func Take(r *pinpoint.Request) *Message {
	m := &Message{request: r.Clone()}
	m.target(r.URL)
	for _, f := range r.Header {
		m.headers = append(m.headers, m.header(f))
	}
	m.content(r)
	return m
}

// All keeps everything, which gives the original byte for byte.
func (m *Message) All() Kept {
	k := Kept{}
	for i := range m.Leaves {
		k[i] = []Span{{0, len(m.Leaves[i].units)}}
	}
	return k
}

// Twin keeps nothing but ordinary names.
func (m *Message) Twin() Kept {
	k := Kept{}
	for i := range m.Leaves {
		if m.Leaves[i].Plain {
			k[i] = []Span{{0, len(m.Leaves[i].units)}}
		}
	}
	return k
}

// Render is the request with all that is not kept replaced: letters by a, digits by 1.
func (m *Message) Render(k Kept) *pinpoint.Request {
	r := m.request.Clone()
	r.URL = m.text(m.url, k)
	for i := range r.Header {
		r.Header[i].Value = m.text(m.headers[i], k)
	}
	if m.body != nil {
		r.Body = []byte(m.text(m.body, k))
	}
	if n := len(r.Body); n != len(m.request.Body) && r.Header.Has("Content-Length") {
		r.Header = r.Header.With("Content-Length", strconv.Itoa(n))
	}
	return r
}

func (m *Message) text(pieces []piece, k Kept) string {
	var b strings.Builder
	for _, p := range pieces {
		if p.leaf == 0 {
			b.WriteString(p.fixed)
		} else {
			m.Leaves[p.leaf-1].write(&b, k[p.leaf-1])
		}
	}
	return b.String()
}

// write renders one leaf. Spans are in order and do not overlap.
func (l *Leaf) write(b *strings.Builder, spans []Span) {
	if l.whole != "" && len(spans) == 0 {
		b.WriteString(l.whole)
		return
	}
	s := 0
	for i := range l.units {
		for s < len(spans) && spans[s].To <= i {
			s++
		}
		if s < len(spans) && spans[s].From <= i {
			b.WriteString(l.unit(i))
			continue
		}
		u := l.units[i]
		letter := byte('a')
		if l.Kind == "name" { // names stay different from each other
			switch len(l.units) - i {
			case 1:
				letter += byte(l.order % 26)
			case 2:
				letter += byte(l.order / 26 % 26)
			case 3:
				letter += byte(l.order / 676 % 26)
			}
		}
		switch {
		case u.fixed:
			b.WriteString(l.unit(i))
			continue
		case u.digit || l.mode == asNumber:
			letter = '1'
		}
		for range u.size {
			b.WriteByte(letter)
		}
	}
}

// leaf adds a leaf and returns the piece that stands for it.
func (m *Message) leaf(l Leaf, raw string, how mode) piece {
	if raw == "" || len(m.Leaves) >= maxLeaves {
		if raw != "" && len(m.Leaves) == maxLeaves {
			m.note("more than " + strconv.Itoa(maxLeaves) + " places; the rest is not looked at")
		}
		return piece{fixed: raw}
	}
	l.raw, l.mode, l.units = raw, how, split(raw, how)
	if l.Kind == "name" {
		l.Plain = plainName(raw)
		l.order = len(m.Leaves)
	}
	m.Leaves = append(m.Leaves, l)
	return piece{leaf: len(m.Leaves)}
}

func (m *Message) note(says string) {
	for _, n := range m.Notes {
		if n == says {
			return
		}
	}
	m.Notes = append(m.Notes, says)
}

// plainName says that a name looks as names do.
func plainName(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.' && i > 0 && s[i-1] != '.') {
			return false
		}
	}
	return len(s) <= 64
}

// target takes path and query apart. The origin of the URL is fixed.
func (m *Message) target(u string) {
	rest := 0
	if i := strings.Index(u, "://"); i >= 0 {
		rest = i + 3
	}
	if i := strings.IndexAny(u[rest:], "/?#"); i >= 0 {
		rest += i
	} else {
		rest = len(u)
	}
	m.url = append(m.url, piece{fixed: u[:rest]})
	path, query, asked := strings.Cut(u[rest:], "?")
	for i, s := range strings.Split(path, "/") {
		if i > 0 {
			m.url = append(m.url, piece{fixed: "/"})
		}
		m.url = append(m.url, m.leaf(Leaf{Component: Path, Kind: "segment", Name: strconv.Itoa(i), Targets: sameTargets("REQUEST_URI")}, s, asPercent))
	}
	if asked {
		m.url = append(m.url, piece{fixed: "?"})
		m.url = append(m.url, m.form(query, Query)...)
	}
}

// form takes name=value&name=value apart.
func (m *Message) form(s string, c Component) (out []piece) {
	for i, pair := range strings.Split(s, "&") {
		if i > 0 {
			out = append(out, piece{fixed: "&"})
		}
		name, value, eq := strings.Cut(pair, "=")
		plain := unescape(name)
		out = append(out, m.leaf(Leaf{Component: c, Kind: "name", Name: plain, Targets: sameTargets("ARGS_NAMES:" + plain)}, name, asPercent))
		if eq {
			out = append(out, piece{fixed: "="})
			out = append(out, m.leaf(Leaf{Component: c, Kind: "value", Name: plain, Targets: sameTargets("ARGS:" + plain)}, value, asPercent))
		}
	}
	return out
}

func unescape(s string) string {
	if d, err := url.QueryUnescape(s); err == nil {
		return d
	}
	return s
}

// header takes one header field apart.
func (m *Message) header(f pinpoint.Field) []piece {
	name := strings.ToLower(f.Name)
	l := Leaf{Component: Header, Kind: "value", Name: f.Name, Targets: sameTargets("REQUEST_HEADERS:" + f.Name)}
	switch name {
	case "host", "content-length", "transfer-encoding", "connection", "content-encoding", "expect", "upgrade", "te", "trailer":
		return []piece{{fixed: f.Value}} // framing: a twin of these would be another message
	case "cookie":
		return m.cookies(f.Value)
	case "content-type":
		media, boundary := mediaType(f.Value)
		if l.whole = media; boundary != "" {
			l.whole += "; boundary=" + quoteBoundary(boundary)
		}
		if l.whole == strings.TrimSpace(f.Value) || media == "" {
			return []piece{{fixed: f.Value}}
		}
		l.Component = ContentType
		return []piece{m.leaf(l, f.Value, asText)}
	case "authorization", "proxy-authorization":
		if scheme, rest, ok := strings.Cut(f.Value, " "); ok && plainName(scheme) {
			return []piece{{fixed: scheme + " "}, m.leaf(l, rest, asText)}
		}
	case "accept":
		l.whole = "*/*"
	case "accept-language":
		l.whole = "en"
	case "accept-encoding":
		l.whole = "gzip"
	case "user-agent":
		l.whole = "Mozilla/5.0"
	case "referer", "origin":
		if i := strings.Index(m.request.URL, "://"); i > 0 {
			l.whole = m.request.URL[:i+3] + m.request.Host()
			if name == "referer" {
				l.whole += "/"
			}
		}
	case "range":
		l.whole = "bytes=0-"
	}
	return []piece{m.leaf(l, f.Value, asText)}
}

// cookies takes a Cookie field apart (RFC 6265 section 4.2.1).
func (m *Message) cookies(s string) (out []piece) {
	for i, pair := range strings.Split(s, ";") {
		if i > 0 {
			out = append(out, piece{fixed: ";"})
		}
		trimmed := strings.TrimLeft(pair, " \t")
		out = append(out, piece{fixed: pair[:len(pair)-len(trimmed)]})
		name, value, eq := strings.Cut(trimmed, "=")
		out = append(out, m.leaf(Leaf{Component: Cookie, Kind: "name", Name: name, Targets: sameTargets("REQUEST_COOKIES_NAMES:" + name)}, name, asPercent))
		if eq {
			out = append(out, piece{fixed: "="})
			out = append(out, m.leaf(Leaf{Component: Cookie, Kind: "value", Name: name, Targets: sameTargets("REQUEST_COOKIES:" + name)}, value, asPercent))
		}
	}
	return out
}
