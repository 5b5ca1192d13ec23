package input

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/whygate/whygate/pinpoint"
)

// jsReader reads literals of JavaScript: strings, numbers, objects, arrays. Anything that would have to
// be computed is refused.
type jsReader struct {
	text  string
	i     int
	depth int
	count int
}

// jsObject is an object literal with its order.
type jsObject struct {
	keys   []string
	values []any
}

func (o *jsObject) value(key string) any {
	if o != nil {
		for i := len(o.keys) - 1; i >= 0; i-- { // the last one counts
			if o.keys[i] == key {
				return o.values[i]
			}
		}
	}
	return nil
}

func (o *jsObject) text(key string) string {
	s, _ := o.value(key).(string)
	return s
}

// MarshalJSON keeps the order, as JSON.stringify does.
func (o *jsObject) MarshalJSON() ([]byte, error) {
	out := []byte{'{'}
	for i, k := range o.keys {
		if i > 0 {
			out = append(out, ',')
		}
		name, err := plainJSON(k)
		if err != nil {
			return nil, err
		}
		v, err := plainJSON(o.values[i])
		if err != nil {
			return nil, err
		}
		out = append(append(append(out, name...), ':'), v...)
	}
	return append(out, '}'), nil
}

// plainJSON writes JSON as JavaScript does: without escapes for HTML.
func plainJSON(v any) ([]byte, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return []byte(strings.TrimSuffix(b.String(), "\n")), err
}

func (j *jsReader) fail(says, do string) error { return at(j.text, j.i, says, do) }

func (j *jsReader) blanks() {
	for j.i < len(j.text) {
		switch c := j.text[j.i]; {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			j.i++
		case strings.HasPrefix(j.text[j.i:], "//"):
			n := strings.IndexByte(j.text[j.i:], '\n')
			if n < 0 {
				n = len(j.text) - j.i
			}
			j.i += n
		default:
			return
		}
	}
}

func (j *jsReader) take(s string) bool {
	if strings.HasPrefix(j.text[j.i:], s) {
		j.i += len(s)
		return true
	}
	return false
}

func (j *jsReader) value() (any, error) {
	if j.depth++; j.depth > maxDepth {
		return nil, j.fail("this is nested too deeply", "hand in one request")
	}
	defer func() { j.depth-- }()
	if j.count++; j.count > 200_000 {
		return nil, j.fail("there are too many values", "hand in one request")
	}
	j.blanks()
	if j.i >= len(j.text) {
		return nil, j.fail("a value is missing here", "copy the call to its end")
	}
	switch c := j.text[j.i]; {
	case c == '"' || c == '\'' || c == '`':
		return j.str()
	case c == '{':
		j.i++
		return j.object()
	case c == '[':
		j.i++
		list := []any{}
		for {
			j.blanks()
			if j.take("]") {
				return list, nil
			}
			v, err := j.value()
			if err != nil {
				return nil, err
			}
			list = append(list, v)
			j.blanks()
			if !j.take(",") && !strings.HasPrefix(j.text[j.i:], "]") {
				return nil, j.fail("a ] is missing here", "copy the call to its end")
			}
		}
	case j.take("true"):
		return true, nil
	case j.take("false"):
		return false, nil
	case j.take("null"), j.take("undefined"):
		return nil, nil
	case j.take("JSON.stringify"):
		j.blanks()
		if !j.take("(") {
			return nil, j.fail("a ( is missing here", "copy the call to its end")
		}
		v, err := j.value()
		if err != nil {
			return nil, err
		}
		if j.blanks(); !j.take(")") {
			return nil, j.fail("JSON.stringify with more than a literal would have to be computed", "put its result there as a string")
		}
		out, err := plainJSON(v)
		if err != nil {
			return nil, j.fail("this value has no JSON", "put a string there")
		}
		return string(out), nil
	case c == '-' || c >= '0' && c <= '9':
		n := j.i + 1
		for n < len(j.text) && strings.IndexByte("0123456789.eE+-", j.text[n]) >= 0 {
			n++
		}
		lit := j.text[j.i:n]
		if !json.Valid([]byte(lit)) {
			return nil, j.fail("this is no number", "put its value there")
		}
		j.i = n
		return json.Number(lit), nil
	}
	return nil, j.fail("this expression would have to be computed", "put its result there as a literal")
}

func (j *jsReader) object() (any, error) {
	o := &jsObject{}
	for {
		j.blanks()
		if j.take("}") {
			return o, nil
		}
		if j.i >= len(j.text) {
			return nil, j.fail("a } is missing here", "copy the call to its end")
		}
		var key string
		if c := j.text[j.i]; c == '"' || c == '\'' {
			var err error
			if key, err = j.str(); err != nil {
				return nil, err
			}
		} else {
			key = psName.FindString(j.text[j.i:min(len(j.text), j.i+200)])
			if key == "" {
				return nil, j.fail("the name of a property is missing here", "write a literal; ... and methods would have to be computed")
			}
			j.i += len(key)
		}
		if j.blanks(); !j.take(":") {
			return nil, j.fail("a : is missing here", "copy the call to its end")
		}
		v, err := j.value()
		if err != nil {
			return nil, err
		}
		o.keys, o.values = append(o.keys, key), append(o.values, v)
		j.blanks()
		if !j.take(",") && !strings.HasPrefix(j.text[j.i:], "}") {
			return nil, j.fail("a } is missing here", "copy the call to its end")
		}
	}
}

// str reads a string or a template without ${…} (ECMA-262, 12.9.4).
func (j *jsReader) str() (string, error) {
	open := j.i
	quote := j.text[j.i]
	j.i++
	var b strings.Builder
	for j.i < len(j.text) {
		c := j.text[j.i]
		switch {
		case c == quote:
			j.i++
			return b.String(), nil
		case c == '\n' && quote != '`':
			return "", j.fail("this string is not closed", "copy the call to its end")
		case quote == '`' && strings.HasPrefix(j.text[j.i:], "${"):
			return "", j.fail("${…} would have to be computed", "put its value there")
		case c != '\\' || j.i+1 == len(j.text):
			b.WriteByte(c)
			j.i++
		default:
			j.i++
			r, n := utf8.DecodeRuneInString(j.text[j.i:])
			s := j.text[j.i : j.i+n]
			j.i += n
			switch r {
			case 'n':
				s = "\n"
			case 'r':
				s = "\r"
			case 't':
				s = "\t"
			case 'b':
				s = "\b"
			case 'f':
				s = "\f"
			case 'v':
				s = "\v"
			case '0':
				s = "\x00"
			case '\n':
				s = ""
			case 'x', 'u':
				v, err := j.hex(r == 'x')
				if err != nil {
					return "", err
				}
				if v >= 0xd800 && v < 0xdc00 && j.take(`\u`) {
					low, err := j.hex(false)
					if err != nil {
						return "", err
					}
					v = utf16.DecodeRune(v, low)
				}
				s = string(v)
			}
			b.WriteString(s)
		}
	}
	j.i = open
	return "", j.fail("this string is not closed", "copy the call to its end")
}

func (j *jsReader) hex(two bool) (rune, error) {
	digits, skip := 4, 0
	if two {
		digits = 2
	} else if strings.HasPrefix(j.text[j.i:], "{") {
		if digits = strings.IndexByte(j.text[j.i:min(len(j.text), j.i+9)], '}') - 1; digits > 0 {
			j.i, skip = j.i+1, 1
		}
	}
	if digits <= 0 || j.i+digits > len(j.text) {
		return 0, j.fail("this escape names no character", "check the copy")
	}
	v, err := strconv.ParseUint(j.text[j.i:j.i+digits], 16, 21)
	if err != nil {
		return 0, j.fail("this escape names no character", "check the copy")
	}
	j.i += digits + skip
	return rune(v), nil
}

// fetchCall reads fetch("URL", {…}), as "Copy as fetch" writes it (Fetch Standard, section 5.4). What the
// browser adds by itself is not in it.
func fetchCall(text string) (*pinpoint.Case, error) {
	j := &jsReader{text: text}
	j.blanks()
	j.i += len(fetchHead.FindString(text[j.i:]))
	first, err := j.value()
	if err != nil {
		return nil, err
	}
	raw, ok := first.(string)
	if !ok {
		return nil, j.fail("fetch begins with the URL as a string", "put the URL there")
	}
	target, _, hasUser, bad := absolute(raw)
	if bad != nil {
		return nil, bad
	}
	if hasUser {
		return nil, &Error{Says: "fetch refuses URLs with a user name", Do: "hand in the call that was really made"}
	}
	options := &jsObject{}
	if j.blanks(); j.take(",") {
		if j.blanks(); !j.take(")") {
			v, err := j.value()
			if err != nil {
				return nil, err
			}
			if options, ok = v.(*jsObject); !ok {
				return nil, j.fail("the second argument of fetch is an object", "copy the call to its end")
			}
			j.blanks()
			j.take(",")
			if j.blanks(); !j.take(")") {
				return nil, j.fail("a ) is missing here", "copy the call to its end")
			}
		}
	} else if !j.take(")") {
		return nil, j.fail("a ) is missing here", "copy the call to its end")
	}
	if strings.Contains(j.text[j.i:], "fetch(") {
		return nil, j.fail("there is more than one call", "hand in the one that was refused")
	}

	c := &command{source: "curl"}
	r := &pinpoint.Request{URL: withoutDots(target), Method: options.text("method")}
	switch up := strings.ToUpper(r.Method); up { // only these are changed to upper case
	case "":
		r.Method = "GET"
	case "DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT":
		r.Method = up
	}
	if !token(r.Method) {
		return nil, &Error{Says: "the method is not a token", Do: "check the option method"}
	}
	if h, ok := options.value("headers").(*jsObject); ok {
		for i, k := range h.keys {
			v := h.values[i]
			if strings.HasPrefix(k, ":") {
				continue
			}
			s, ok := v.(string)
			if !ok {
				s = strings.Trim(fmt.Sprint(v), "[]")
			}
			if !token(k) || strings.ContainsAny(s, "\r\n\x00") {
				return nil, &Error{Says: "a header field has a name or a value that cannot be sent", Do: "check the option headers"}
			}
			r.Header = append(r.Header, pinpoint.Field{Name: k, Value: strings.TrimSpace(s)})
		}
	} else if options.value("headers") != nil {
		return nil, &Error{Says: "the headers of the call are not an object literal", Do: "write them as {\"name\": \"value\"}"}
	}
	if ref := options.text("referrer"); strings.HasPrefix(ref, "http") && !r.Header.Has("Referer") {
		ref, _, _ = strings.Cut(ref, "#")
		r.Header = append(r.Header, pinpoint.Field{Name: "Referer", Value: ref})
	}
	switch b := options.value("body").(type) {
	case nil:
	case string:
		r.Body = []byte(b)
		if !r.Header.Has("Content-Type") {
			r.Header = append(r.Header, pinpoint.Field{Name: "Content-Type", Value: "text/plain;charset=UTF-8"})
		}
	default:
		return nil, &Error{Says: "the body of the call is not a string", Do: "put a string or JSON.stringify of a literal there"}
	}
	if options.text("credentials") == "include" && !r.Header.Has("Cookie") && !r.Header.Has("Authorization") {
		c.gap("sanitized", "The call sends the browser's credentials (credentials: include), and a copy as fetch does not hold them. Copy the request as cURL, or as Node.js fetch.", true)
	}
	if !r.Header.Has("User-Agent") {
		c.gap("provisional-headers", "A copy as fetch lacks what the browser adds: User-Agent, Origin, Accept-Encoding. Copy the request as cURL to have them.", false)
	}
	if strings.ContainsAny(r.URL, " \t\r\n") {
		return nil, &Error{Says: "the URL is malformed", Do: "write blanks and control characters as % escapes"}
	}
	return sendable(&pinpoint.Case{Source: "curl", Exchanges: []pinpoint.Exchange{{Request: r}}, Gaps: append(c.gaps, noAnswer())})
}
