package waf

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"mime"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// What rules call the text and the attributes of an XML body.
const xmlText, xmlAttribute = "XML:/*", "XML://@*"

// mediaType is the type without parameters, in lower case, and the boundary.
func mediaType(value string) (media, boundary string) {
	media, params, err := mime.ParseMediaType(value)
	if err != nil {
		media, _, _ = strings.Cut(value, ";")
		return strings.ToLower(strings.TrimSpace(media)), ""
	}
	return media, params["boundary"]
}

func quoteBoundary(b string) string {
	if plainName(b) {
		return b
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(b) + `"`
}

// content takes the body apart as its type says.
func (m *Message) content(r *pinpoint.Request) {
	if len(r.Body) == 0 {
		return
	}
	body := string(r.Body)
	coding := strings.ToLower(strings.TrimSpace(r.Header.Value("Content-Encoding")))
	switch {
	case coding != "" && coding != "identity":
		m.body, m.opaque = []piece{{fixed: body}}, true
		m.note("the body is compressed and stays as it is")
		return
	case len(body) > maxLeafBody:
		m.body, m.opaque = []piece{{fixed: body}}, true
		m.note("the body is too large to be taken apart")
		return
	}
	media, boundary := mediaType(r.Header.Value("Content-Type"))
	begin := strings.TrimLeft(body, " \t\r\n")
	switch {
	case media == "application/x-www-form-urlencoded":
		m.body = m.form(body, Body)
		return
	case strings.HasPrefix(media, "multipart/") && boundary != "":
		if m.multipart(body, boundary) {
			return
		}
		m.note("the multipart body does not parse")
	case strings.Contains(media, "json") || media == "" && (strings.HasPrefix(begin, "{") || strings.HasPrefix(begin, "[")):
		if m.json(body) {
			return
		}
		m.note("the JSON does not parse")
	case strings.HasSuffix(media, "/xml") || strings.HasSuffix(media, "+xml"):
		if m.xml(body) {
			return
		}
		m.note("the XML does not parse")
	}
	m.body = []piece{m.leaf(Leaf{Component: Body, Kind: "text", Targets: sameTargets("REQUEST_BODY")}, body, asText)}
}

// json takes a JSON text apart. Placeholders may stand where a number or a literal was.
func (m *Message) json(body string) bool {
	same := placeholder.ReplaceAllStringFunc(body, func(p string) string { return strings.Repeat("1", len(p)) })
	if !json.Valid([]byte(same)) {
		return false
	}
	s := jsonScan{m: m, raw: body, text: same}
	s.graphQL = strings.Contains(body, `"query"`) && strings.Contains(body, `"variables"`)
	mark := len(m.Leaves)
	s.value("", jsonName{coraza: "json", v3: "json."}, 0)
	if s.deep {
		m.Leaves = m.Leaves[:mark]
		return false
	}
	s.fixed(len(body))
	m.body = s.out
	return true
}

// jsonScan walks a text that is known to be valid.
type jsonScan struct {
	m         *Message
	raw, text string // text has digits for placeholders
	at, done  int
	out       []piece
	deep      bool
	graphQL   bool
}

// jsonName is how engines name a value. ModSecurity 2 joins the keys by points and repeats the key of a list for what
// is in it; ModSecurity 3 and Coraza begin with json and number the elements.
type jsonName struct {
	v2     []string // prefix
	key    string   // current key
	v3     string
	coraza string
}

func (n jsonName) targets(collection string) Targets {
	v2 := n.key
	if len(n.v2) > 0 {
		v2 = strings.Join(n.v2, ".") + "." + n.key
	}
	return Targets{collection + v2, collection + n.v3, collection + n.coraza}
}

// inside is the name of the object or list that stands under n.
func (n jsonName) inside(list bool) jsonName {
	switch {
	case n.key != "":
		n.v2 = append(n.v2[:len(n.v2):len(n.v2)], n.key)
	case list && len(n.v2) == 0:
		n.v2, n.key = []string{"array"}, "array"
	}
	return n
}

func (s *jsonScan) space() {
	for s.at < len(s.text) && strings.IndexByte(" \t\r\n:,", s.text[s.at]) >= 0 {
		s.at++
	}
}

// fixed copies what lies before to.
func (s *jsonScan) fixed(to int) {
	if to > s.done {
		s.out = append(s.out, piece{fixed: s.raw[s.done:to]})
	}
	s.done = to
}

// quoted returns where the content of a string begins and ends, and goes behind it.
func (s *jsonScan) quoted() (from, to int) {
	from = s.at + 1
	for i := from; i < len(s.text); i++ {
		switch s.text[i] {
		case '\\':
			i++
		case '"':
			s.at = i + 1
			return from, i
		}
	}
	s.at = len(s.text)
	return from, max(from, len(s.text))
}

func (s *jsonScan) take(from, to int, l Leaf, how mode) {
	s.fixed(from)
	s.out = append(s.out, s.m.leaf(l, s.raw[from:to], how))
	s.done = to
}

var pointerEscape = strings.NewReplacer("~", "~0", "/", "~1")

func (s *jsonScan) value(pointer string, name jsonName, depth int) {
	if depth > maxDepth {
		s.deep = true
	}
	s.space()
	if s.deep || s.at >= len(s.text) {
		return
	}
	kind := "value"
	if s.graphQL && strings.HasPrefix(pointer, "/variables/") {
		kind = "variable"
	}
	if pointer == "" {
		pointer = "/"
	}
	leaf := Leaf{Component: Body, Kind: kind, Name: pointer, Targets: name.targets("ARGS:")}
	if pointer == "/" {
		pointer = ""
	}
	switch c := s.text[s.at]; {
	case c == '"':
		from, to := s.quoted()
		s.take(from, to, leaf, asJSON)
	case c == '{':
		s.at++
		in := name.inside(false)
		for {
			if s.space(); s.deep || s.at >= len(s.text) || s.text[s.at] == '}' {
				s.at++
				return
			}
			from, to := s.quoted()
			var key string
			if json.Unmarshal([]byte(s.raw[from-1:to+1]), &key) != nil {
				key = s.raw[from:to]
			}
			at := pointer + "/" + pointerEscape.Replace(key)
			child := in
			child.key = key
			child.coraza += "." + key
			child.v3 += key
			names := child.targets("ARGS_NAMES:")
			s.take(from, to, Leaf{Component: Body, Kind: "name", Name: at, Targets: names}, asJSON)
			if next := s.peek(); next == '{' || next == '[' {
				if child.v3 += "."; next == '[' {
					child.v3 = strings.TrimSuffix(child.v3, ".")
				}
			}
			s.value(at, child, depth+1)
		}
	case c == '[':
		s.at++
		in := name.inside(true)
		for i := 0; ; i++ {
			if s.space(); s.deep || s.at >= len(s.text) || s.text[s.at] == ']' {
				s.at++
				return
			}
			child := in
			n := strconv.Itoa(i)
			child.coraza += "." + n
			child.v3 = strings.TrimSuffix(child.v3, ".") + ".array_" + n
			if s.peek() == '{' {
				child.v3 += "."
			}
			s.value(pointer+"/"+n, child, depth+1)
		}
	default:
		from := s.at
		for s.at < len(s.text) && strings.IndexByte(" \t\r\n,]}", s.text[s.at]) < 0 {
			s.at++
		}
		if c == '-' || c >= '0' && c <= '9' {
			leaf.Kind = "number"
			s.take(from, s.at, leaf, asNumber)
		}
	}
}

// peek is the first character of the next value.
func (s *jsonScan) peek() byte {
	s.space()
	if s.at >= len(s.text) {
		return 0
	}
	return s.text[s.at]
}

// xml takes text and attributes of a document apart. Nothing outside of it is ever read.
func (m *Message) xml(body string) bool {
	d := xml.NewDecoder(strings.NewReader(body))
	d.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil }
	mark, done := len(m.Leaves), 0
	var out []piece
	var path []string
	elements := false
	take := func(from, to int, l Leaf) {
		out = append(out, piece{fixed: body[done:from]}, m.leaf(l, body[from:to], asXML))
		done = to
	}
	for {
		from := int(d.InputOffset())
		t, err := d.RawToken()
		if err == io.EOF && elements && len(path) == 0 {
			break
		}
		if err != nil || len(path) > maxDepth {
			m.Leaves = m.Leaves[:mark]
			return false
		}
		to := int(d.InputOffset())
		switch t := t.(type) {
		case xml.StartElement:
			elements = true
			path = append(path, t.Name.Local)
			for _, a := range attributes(body[from:to]) {
				if strings.HasPrefix(a.name, "xmlns") {
					continue
				}
				take(from+a.from, from+a.to, Leaf{Component: Body, Kind: "attribute", Name: "/" + strings.Join(path, "/") + "/@" + a.name, Targets: sameTargets(xmlAttribute)})
			}
		case xml.EndElement:
			if len(path) == 0 || path[len(path)-1] != t.Name.Local {
				m.Leaves = m.Leaves[:mark]
				return false
			}
			path = path[:len(path)-1]
		case xml.CharData:
			text := body[from:to]
			if strings.TrimSpace(text) == "" || len(path) == 0 {
				continue
			}
			if in, ok := strings.CutPrefix(text, "<![CDATA["); ok {
				in = strings.TrimSuffix(in, "]]>")
				from += len("<![CDATA[")
				to = from + len(in)
			}
			take(from, to, Leaf{Component: Body, Kind: "text", Name: "/" + strings.Join(path, "/"), Targets: sameTargets(xmlText)})
		}
	}
	m.body = append(out, piece{fixed: body[done:]})
	return true
}

type attribute struct {
	name     string
	from, to int
}

// attributes finds the values in a start tag that is known to be well-formed.
func attributes(tag string) (list []attribute) {
	i := strings.IndexAny(tag, " \t\r\n")
	for i >= 0 && i < len(tag) {
		eq := strings.IndexByte(tag[i:], '=')
		if eq < 0 {
			break
		}
		name := strings.TrimSpace(tag[i : i+eq])
		q := strings.IndexAny(tag[i+eq:], `"'`)
		if q < 0 {
			break
		}
		from := i + eq + q + 1
		n := strings.IndexByte(tag[from:], tag[from-1])
		if n < 0 {
			break
		}
		list = append(list, attribute{name, from, from + n})
		i = from + n + 1
	}
	return list
}

// multipart takes a multipart body apart (RFC 2046 section 5.1): names, file names, other header fields, contents.
func (m *Message) multipart(body, boundary string) bool {
	delimiter := "--" + boundary
	if !strings.HasPrefix(body, delimiter) && !strings.Contains(body, "\r\n"+delimiter) {
		return false
	}
	mark := len(m.Leaves)
	var out []piece
	rest := body
	begin := 0
	if !strings.HasPrefix(rest, delimiter) {
		begin = strings.Index(rest, "\r\n"+delimiter) + 2
	}
	out = append(out, piece{fixed: rest[:begin]})
	rest = rest[begin:]
	for n := 0; ; n++ {
		after := rest[len(delimiter):]
		if strings.HasPrefix(after, "--") {
			m.body = append(out, piece{fixed: rest})
			return true
		}
		head := strings.Index(rest, "\r\n\r\n")
		end := strings.Index(after, "\r\n"+delimiter)
		if !strings.HasPrefix(after, "\r\n") || head < 0 || end < 0 || n > maxLeaves {
			m.Leaves = m.Leaves[:mark]
			return false
		}
		end += len(delimiter)
		if head > end { // a part without a blank line
			m.Leaves = m.Leaves[:mark]
			return false
		}
		name, pieces := m.partHead(rest[:head])
		out = append(out, pieces...)
		out = append(out, piece{fixed: "\r\n\r\n"})
		content := ""
		if head+4 <= end {
			content = rest[head+4 : end]
		} else {
			end = head + 2 // an empty part whose blank line ends at the delimiter
			out[len(out)-1].fixed = "\r\n"
		}
		target := sameTargets("ARGS:" + name)
		if len(pieces) > 0 && strings.Contains(strings.ToLower(rest[:head]), "filename") {
			target = sameTargets("REQUEST_BODY")
		}
		out = append(out, m.leaf(Leaf{Component: Body, Kind: "content", Name: name, Targets: target}, content, asText), piece{fixed: "\r\n"})
		rest = rest[end+2:]
	}
}

// partHead takes the delimiter line and the header fields of a part apart.
func (m *Message) partHead(head string) (name string, out []piece) {
	lines := strings.Split(head, "\r\n")
	for _, line := range lines[1:] {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(strings.TrimSpace(key), "Content-Disposition") {
			if _, params, err := mime.ParseMediaType(strings.TrimSpace(value)); err == nil {
				name = params["name"]
			}
		}
	}
	for i, line := range lines {
		if i > 0 {
			out = append(out, piece{fixed: "\r\n"})
		}
		key, value, ok := strings.Cut(line, ":")
		switch {
		case i == 0 || !ok:
			out = append(out, piece{fixed: line})
		case strings.EqualFold(strings.TrimSpace(key), "Content-Disposition"):
			out = append(out, m.disposition(line, name)...)
		default:
			key = strings.TrimSpace(key)
			trimmed := strings.TrimLeft(value, " \t")
			out = append(out, piece{fixed: line[:len(line)-len(trimmed)]})
			l := Leaf{Component: Body, Kind: "part header", Name: name + " " + key, Targets: sameTargets("MULTIPART_PART_HEADERS:" + name)}
			if strings.EqualFold(key, "Content-Type") {
				l.whole = "text/plain"
			}
			out = append(out, m.leaf(l, trimmed, asText))
		}
	}
	return name, out
}

// disposition takes name and filename of a part apart.
func (m *Message) disposition(line, name string) (out []piece) {
	done := 0
	for _, a := range attributes(line) {
		key := strings.ToLower(strings.Trim(a.name, "; \t"))
		if i := strings.LastIndexAny(key, "; \t"); i >= 0 {
			key = key[i+1:]
		}
		if line[a.from-1] != '"' || bytes.ContainsAny([]byte(line[a.from:a.to]), `\`) {
			continue
		}
		switch key {
		case "name":
			out = append(out, piece{fixed: line[done:a.from]}, m.leaf(Leaf{Component: Body, Kind: "name", Name: name, Targets: sameTargets("ARGS_NAMES:" + name)}, line[a.from:a.to], asText))
		case "filename":
			out = append(out, piece{fixed: line[done:a.from]}, m.leaf(Leaf{Component: Body, Kind: "file name", Name: name, Targets: sameTargets("FILES:" + name)}, line[a.from:a.to], asText))
		default:
			continue
		}
		done = a.to
	}
	return append(out, piece{fixed: line[done:]})
}
