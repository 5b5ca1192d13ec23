package pinpoint

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"mime"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// mediaType is the type without its parameters, in lower case.
func mediaType(v string) string {
	kind, _, _ := strings.Cut(v, ";")
	return strings.ToLower(strings.TrimSpace(kind))
}

// body is the revealed body of the request; nil when it is too long or still holds a placeholder.
func (r *reading) body() []byte {
	if len(r.req.Body) == 0 || len(r.req.Body) > maxReadBody {
		return nil
	}
	if !bytes.Contains(r.req.Body, []byte(opening)) {
		return r.req.Body
	}
	full := r.c.Vault.Reveal(string(r.req.Body))
	if stillSealed(full) || len(full) > maxReadBody {
		return nil
	}
	return []byte(full)
}

// content checks the body against its type, and the type against what the server takes.
func (r *reading) content() {
	if r.near[r.asked].Request == nil || !r.in(400, 403, 406, 415, 422, 500) {
		return
	}
	for _, g := range r.c.Gaps {
		if g.Kind == "body-cut" || g.Kind == "file-not-read" || g.Kind == "variable" || g.Kind == "script" {
			return
		}
	}
	if r.status == 406 {
		r.notAcceptable()
		return
	}
	declared := r.req.Header.Value("Content-Type")
	kind := mediaType(declared)
	body := r.body()
	r.unsupported(kind, body)
	if !r.in(400, 403, 422) || len(body) == 0 || r.req.Header.Has("Content-Encoding") || len(declared) > 1000 {
		if r.in(400, 422) && bytes.HasPrefix(body, []byte{0x1f, 0x8b}) && !r.req.Header.Has("Content-Encoding") {
			r.say(FromRequest, "body-malformed", Strong, "The body is gzip and the request does not say so (Content-Encoding).", "header", "Content-Encoding")
		}
		return
	}
	weight := Strong
	if r.status == 403 {
		weight = Fair
	}
	bad := func(what string, names ...string) {
		r.say(FromRequest, "body-malformed", weight, what, append([]string{"field", "body"}, names...)...)
		if r.status == 403 {
			r.say(FromRequest, "waf-body-parse-error", Hint, what+" A WAF that cannot read a body refuses it.")
		}
	}
	_, params, _ := mime.ParseMediaType(declared)
	if charset := strings.ToLower(params["charset"]); (charset == "utf-8" || charset == "utf8" || charset == "" && strings.Contains(kind, "json")) && !utf8.Valid(body) && !strings.HasPrefix(kind, "multipart/") {
		bad(fmt.Sprintf("The body is not UTF-8, which it says it is; the first wrong byte is at offset %d.", badByte(body)))
		return
	}
	switch {
	case kind == "application/json" || strings.HasSuffix(kind, "+json"):
		if at, why := jsonFault(body); why != "" {
			line, column := position(body, at)
			switch {
			case looksForm(body):
				r.say(FromRequest, "content-type-unsupported", Fair, "The body is a form, and Content-Type says JSON.", "header", "Content-Type")
			case bytes.HasPrefix(body, []byte{0xEF, 0xBB, 0xBF}):
				why = "it begins with a byte order mark (RFC 8259 §8.1)"
			}
			bad(fmt.Sprintf("The JSON of the body breaks at line %d, column %d (offset %d): %s.", line, column, at, why), "line", strconv.Itoa(line), "column", strconv.Itoa(column))
		}
	case kind == "application/xml" || kind == "text/xml" || strings.HasSuffix(kind, "+xml"):
		if line, why := xmlFault(body); why != "" {
			bad(fmt.Sprintf("The XML of the body breaks at line %d: %s.", line, why), "line", strconv.Itoa(line))
		}
	case kind == "multipart/form-data":
		if why := multipartFault(body, params["boundary"]); why != "" {
			bad("The multipart body is broken: " + why + ".")
		}
	case kind == "application/x-www-form-urlencoded":
		if at := badEscape(body); at >= 0 && !looksJSON(body) {
			bad(fmt.Sprintf("The form has a percent sign at offset %d that begins no escape.", at))
		}
	}
	if n, err := strconv.Atoi(strings.TrimSpace(r.req.Header.Value("Content-Length"))); err == nil && (r.c.Source == "curl" || r.c.Source == "raw" || r.c.Source == "url") && n != len(body) && r.in(400) {
		r.say(FromRequest, "body-malformed", Strong, fmt.Sprintf("Content-Length says %d bytes, the body has %d.", n, len(body)), "header", "Content-Length")
	}
}

// ruleSetTypes are the types that the Core Rule Set allows by default (crs-setup.conf, 900220).
var ruleSetTypes = []string{"application/x-www-form-urlencoded", "multipart/form-data", "multipart/related", "text/xml", "application/xml", "application/soap+xml", "application/json", "application/cloudevents+json", "application/cloudevents-batch+json", "text/plain"}

// unsupported judges 415, and bodies whose type is not what they are.
func (r *reading) unsupported(kind string, body []byte) {
	says := ""
	if r.in(403, 415) && kind != "" && r.whole && mayChange(r.req.Method) && !slices.Contains(ruleSetTypes, kind) {
		r.say(FromRequest, "waf-content-type-policy", Hint, fmt.Sprintf("The Core Rule Set does not list the type %s by default (920420).", shown(kind)), "type", kind)
	}
	switch {
	case len(body) > 0 && kind == "":
		says = "The request has a body and no Content-Type."
	case looksJSON(body) && (kind == "application/x-www-form-urlencoded" || kind == "text/plain" || kind == "application/octet-stream"):
		says = fmt.Sprintf("The body is JSON, and Content-Type says %s.", shown(kind))
	}
	names := []string{"header", "Content-Type", "type", kind}
	if r.status == 415 {
		accepts := ""
		for _, name := range []string{"Accept-Post", "Accept-Patch", "Accept"} {
			if v := r.ans.Header.Value(name); v != "" && len(v) < 1000 {
				accepts = v
				if !strings.Contains(strings.ToLower(v), kind) || kind == "" {
					r.add(Clue{Source: FromAnswer, Cause: "content-type-unsupported", Weight: Certain, Quote: name + ": " + v,
						Says: fmt.Sprintf("The server takes %s, not %s (RFC 9110 §15.5.16).", shown(v), shown(orNothing(kind)))}, append(names, "wanted", v)...)
					return
				}
			}
		}
		if enc := r.req.Header.Value("Content-Encoding"); enc != "" {
			says = fmt.Sprintf("The body is coded (%s), which the server may not take.", shown(enc))
			names = []string{"header", "Content-Encoding"}
		}
		weight := Strong
		if says != "" && accepts == "" {
			weight = 4.5
		}
		r.say(FromAnswer, "content-type-unsupported", weight, strings.TrimSpace("415 says that the type of the content is not supported (RFC 9110 §15.5.16). "+says), names...)
		return
	}
	if says == "" || !r.whole {
		return
	}
	weight := Hint
	switch {
	case r.in(400, 422):
		weight = 2.5
	case r.in(500):
		weight = Fair
	}
	r.say(FromRequest, "content-type-unsupported", weight, says+" Servers read it as something else then.", names...)
}

func orNothing(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// notAcceptable judges 406.
func (r *reading) notAcceptable() {
	accept := r.req.Header.Value("Accept")
	if !r.whole {
		return
	}
	if accept == "" || strings.Contains(accept, "*/*") {
		r.speakAgainst(FromRequest, "accept-unacceptable", Fair, "The request accepts every type; 406 then comes from something else, often a WAF.")
		return
	}
	r.say(FromRequest, "accept-unacceptable", Strong, fmt.Sprintf("The request accepts only %s, and 406 says that there is no such form (RFC 9110 §15.5.7).", shown(accept)), "header", "Accept", "type", accept)
}

func looksJSON(body []byte) bool {
	t := bytes.TrimSpace(body)
	return len(t) > 1 && (t[0] == '{' && (t[len(t)-1] == '}') || t[0] == '[' && t[len(t)-1] == ']') && json.Valid(t)
}

func looksForm(body []byte) bool {
	name, _, ok := bytes.Cut(body, []byte("="))
	return ok && len(name) > 0 && len(name) < 64 && !bytes.ContainsAny(name, "{[\"< \n")
}

// jsonFault is where JSON breaks (RFC 8259).
func jsonFault(body []byte) (at int, why string) {
	if json.Valid(body) {
		return 0, ""
	}
	var raw json.RawMessage
	var syntax *json.SyntaxError
	if err := json.Unmarshal(body, &raw); errors.As(err, &syntax) {
		at = min(max(int(syntax.Offset)-1, 0), len(body))
		switch {
		case strings.Contains(syntax.Error(), "unexpected end"):
			return len(body), "it ends too early"
		case at < len(body) && body[at] == '\'':
			return at, "a single quotation mark where JSON wants a double one"
		case at < len(body) && (body[at] == '}' || body[at] == ']') && endsInComma(body[:at]):
			return at, "a comma stands before the closing bracket"
		case at < len(body) && body[at] < ' ':
			return at, "a control character stands unescaped in a string"
		case strings.Contains(syntax.Error(), "after top-level value"):
			return at, "something follows the end of the value"
		case at < len(body) && body[at] == '/':
			return at, "there is a comment, which JSON does not have"
		}
		return at, "a character stands where none may"
	}
	return 0, "it cannot be read"
}

func endsInComma(b []byte) bool {
	t := bytes.TrimRight(b, " \t\r\n")
	return len(t) > 0 && t[len(t)-1] == ','
}

// xmlFault is where XML breaks. Entities are not resolved.
func xmlFault(body []byte) (line int, why string) {
	d := xml.NewDecoder(bytes.NewReader(body))
	d.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil }
	depth, roots := 0, 0
	for range maxReadBody {
		t, err := d.RawToken()
		if err == io.EOF {
			break
		}
		if err != nil {
			line, _ = d.InputPos()
			var syntax *xml.SyntaxError
			if errors.As(err, &syntax) {
				if strings.Contains(syntax.Msg, "entity") && bytes.Contains(body, []byte("<!DOCTYPE")) {
					return 0, ""
				}
				switch {
				case strings.Contains(syntax.Msg, "entity"):
					return line, "an ampersand begins no entity"
				case strings.Contains(syntax.Msg, "unexpected EOF"):
					return line, "it ends inside of an element or a tag"
				}
			}
			return line, "the markup is not well-formed"
		}
		switch t.(type) {
		case xml.StartElement:
			if depth == 0 {
				roots++
			}
			depth++
		case xml.EndElement:
			if depth--; depth < 0 {
				line, _ = d.InputPos()
				return line, "an element ends that did not begin"
			}
		}
	}
	line, _ = d.InputPos()
	switch {
	case depth > 0:
		return line, "an element is not closed"
	case roots == 0:
		return line, "it has no element"
	case roots > 1:
		return line, "it has more than one root element"
	}
	return 0, ""
}

// multipartFault says what is wrong with the framing of RFC 2046 §5.1.1.
func multipartFault(body []byte, boundary string) string {
	if boundary == "" {
		if first, _, ok := bytes.Cut(body, []byte("\r\n")); ok && bytes.HasPrefix(first, []byte("--")) && len(first) < 80 {
			return "Content-Type names no boundary, though the body has one (set by hand; let the client write it)"
		}
		return "Content-Type names no boundary"
	}
	open := []byte("--" + boundary)
	switch {
	case !bytes.HasPrefix(body, open) && !bytes.Contains(body, append([]byte("\r\n"), open...)):
		if bytes.HasPrefix(body, append([]byte{}, open...)) || bytes.Contains(body, append([]byte("\n"), open...)) {
			return "its lines end with LF in place of CRLF"
		}
		return "the boundary of Content-Type does not occur in the body"
	case !bytes.Contains(body, append(slices.Clone(open), '-', '-')):
		return "the closing boundary lacks: the body was cut"
	case !bytes.Contains(body, []byte("\r\n")):
		return "its lines end with LF in place of CRLF"
	}
	return ""
}

// badEscape is the offset of a percent sign that begins no escape, -1 when there is none.
func badEscape(body []byte) int {
	for i := 0; i < len(body); i++ {
		if body[i] == '%' && (i+2 >= len(body) || !hexDigit(body[i+1]) || !hexDigit(body[i+2])) {
			return i
		}
	}
	return -1
}

func hexDigit(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func badByte(b []byte) int {
	for i := 0; i < len(b); {
		c, n := utf8.DecodeRune(b[i:])
		if c == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(b)
}

// position is the line and column of an offset, both from 1.
func position(b []byte, at int) (line, column int) {
	at = min(at, len(b))
	return 1 + bytes.Count(b[:at], []byte("\n")), at - bytes.LastIndexByte(b[:at], '\n')
}
