package input

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"net/http/httputil"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// RawOptions say what a raw message leaves open.
type RawOptions struct {
	Scheme string // "http" or "https"; "" guesses by the port
	Name   string // of the request in an .http file; "" is the first
	Files  Files  // permits files that < names
	Values map[string]string
}

var (
	requestLine = regexp.MustCompile(`^[A-Z][A-Z_-]{1,30} +\S+(?: +HTTP/[0-9.]+)?$`)
	statusLine  = regexp.MustCompile(`^HTTP/([0-9](?:\.[0-9])?) +([0-9]{3})(?: .*)?$`)
	traceLine   = regexp.MustCompile(`(?m)^> [A-Z]{2,30} \S+ HTTP/`)
	httpName    = regexp.MustCompile(`^(?:#|//)\s*@name[\s=]+(\S.*?)\s*$`)
	httpDefine  = regexp.MustCompile(`^@([A-Za-z0-9_.-]+)\s*=\s*(.*?)\s*$`)
)

func httpComment(text string) bool {
	for line := range strings.SplitSeq(text[:min(len(text), 4096)], "\n") {
		line = strings.TrimRight(line, "\r ")
		switch {
		case line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "//") || strings.HasPrefix(line, "* ") || httpDefine.MatchString(line):
		case requestLine.MatchString(line), strings.HasPrefix(line, "> ") && requestLine.MatchString(line[2:]):
			return true
		default:
			return false
		}
	}
	return false
}

// Raw reads HTTP/1 text as proxies show it, with the answer behind it if it was copied too, the trace of
// curl -v, or a file of .http requests.
func Raw(text string, o RawOptions) (*pinpoint.Case, error) {
	if len(text) > maxText {
		return nil, tooLong()
	}
	text = strings.TrimPrefix(text, "\ufeff")
	if traceLine.MatchString(text) {
		text = untrace(text)
	}
	if file := splitHTTP(text); file != nil {
		return file.build(text, o)
	}
	skipped := len(text) - len(strings.TrimLeft(text, "\r\n\t "))
	return rawMessage(text, skipped, o, &pinpoint.Case{Source: "raw"})
}

// untrace takes the messages of the last exchange out of the output of curl -v.
func untrace(text string) string {
	var request, answer, body []string
	reading, answered := false, false
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSuffix(line, "\r")
		switch {
		case strings.HasPrefix(line, "> "), line == ">":
			if answered || !reading {
				request, answer, body = nil, nil, nil
			}
			reading, answered = true, false
			request = append(request, strings.TrimPrefix(strings.TrimPrefix(line, ">"), " "))
		case strings.HasPrefix(line, "< "), line == "<":
			if statusLine.MatchString(strings.TrimSpace(strings.TrimPrefix(line, "< "))) {
				answer, body = nil, nil
			}
			answered = true
			answer = append(answer, strings.TrimPrefix(strings.TrimPrefix(line, "<"), " "))
		case strings.HasPrefix(line, "* "), line == "*", strings.HasPrefix(line, "{ [") && strings.HasSuffix(line, "data]"), strings.HasPrefix(line, "} [") && strings.HasSuffix(line, "data]"):
		case answered:
			body = append(body, line)
		}
	}
	// curl does not show the body of the request.
	lines := append(trimmed(request), "")
	if len(answer) > 0 {
		lines = append(append(append(lines, trimmed(answer)...), ""), body...)
	}
	return strings.Join(lines, "\n")
}

func trimmed(lines []string) []string {
	for len(lines) > 0 && strings.TrimSpace(lines[len(lines)-1]) == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}

// cutLine takes the next line off.
func cutLine(s string) (line, rest string) {
	line, rest, _ = strings.Cut(s, "\n")
	return strings.TrimSuffix(line, "\r"), rest
}

// rawHeader reads field lines up to the empty line (RFC 9112 section 5). A line that begins with a blank
// goes on the one before.
func rawHeader(text string, offset int) (h pinpoint.Header, rest int, err error) {
	size := 0
	for offset < len(text) {
		line, tail := cutLine(text[offset:])
		next := len(text) - len(tail)
		if strings.TrimSpace(line) == "" {
			return h, next, nil
		}
		if size += len(line); len(h) == maxFields || size > maxFieldBytes {
			return nil, 0, at(text, offset, "the header has more than 1,000 fields or 1 MiB", "hand in the one message alone")
		}
		if (line[0] == ' ' || line[0] == '\t') && len(h) > 0 {
			if size += len(h[len(h)-1].Value); size > maxFieldBytes {
				return nil, 0, at(text, offset, "the header is longer than 1 MiB", "hand in the one message alone")
			}
			h[len(h)-1].Value += " " + oneLine(line)
		} else {
			name, value, ok := strings.Cut(line, ":")
			if strings.HasPrefix(line, ":") { // pseudo header fields of HTTP/2
				offset = next
				continue
			}
			if !ok || !token(name) {
				return nil, 0, at(text, offset, "this line is no header field", "write name: value, and an empty line before the body")
			}
			h = append(h, pinpoint.Field{Name: name, Value: oneLine(value)})
		}
		offset = next
	}
	return h, offset, nil
}

// rawMessage reads a request at an offset, and an answer behind it.
func rawMessage(text string, offset int, o RawOptions, c *pinpoint.Case) (*pinpoint.Case, error) {
	line, rest := cutLine(text[offset:])
	words := strings.Fields(line)
	if len(words) == 1 && strings.Contains(words[0], "://") { // a URL alone is a GET
		words = []string{"GET", words[0]}
	}
	if len(words) < 2 || len(words) > 3 || !token(words[0]) || len(words) == 3 && !strings.HasPrefix(words[2], "HTTP/") {
		return nil, at(text, offset, "this is no request line", "begin with METHOD target HTTP/1.1")
	}
	r := &pinpoint.Request{Method: words[0]}
	if len(words) == 3 {
		r.Proto = protocol(words[2])
	}
	target := words[1]
	// A query that goes on below, as .http files write it.
	for {
		next, tail := cutLine(rest)
		trimmed := strings.TrimSpace(next)
		if trimmed == "" || trimmed == next || trimmed[0] != '?' && trimmed[0] != '&' {
			break
		}
		target, rest = target+trimmed, tail
	}
	header, behind, err := rawHeader(text, len(text)-len(rest))
	if err != nil {
		return nil, err
	}
	host := header.Value("Host")
	if !strings.Contains(target, "://") {
		if host == "" {
			return nil, at(text, offset, "the request names no host", "add the Host field, or write the URL in full in the first line")
		}
		scheme := o.Scheme
		if scheme == "" {
			name, port, _ := strings.Cut(host, ":")
			scheme = "https"
			if port == "80" || name == "localhost" || strings.HasPrefix(name, "127.") {
				scheme = "http"
			}
			c.Gaps = append(c.Gaps, pinpoint.Gap{Kind: "scheme", Says: "The text does not say whether the request went over TLS; " + scheme + " is assumed."})
		}
		if !strings.HasPrefix(target, "/") { // "*" and authorities
			target = "/" + strings.TrimPrefix(target, "*")
		}
		target = scheme + "://" + host + target
	}
	clean, user, hasUser, bad := absolute(target)
	if bad != nil {
		return nil, at(text, offset, bad.Says, bad.Do)
	}
	r.URL, r.Header = clean, header
	if u, err := r.Parsed(); err == nil && strings.EqualFold(host, u.Host) {
		r.Header = r.Header.Without("Host")
	}
	if hasUser && !r.Header.Has("Authorization") {
		name, pass, _ := strings.Cut(user, ":")
		r.Header = append(r.Header, pinpoint.Field{Name: "Authorization", Value: "Basic " + base64.StdEncoding.EncodeToString([]byte(unescape(name)+":"+unescape(pass)))})
	}

	body := text[min(behind, len(text)):]
	answerAt := -1
	from := 0
	if n, err := strconv.ParseUint(r.Header.Value("Content-Length"), 10, 31); err == nil {
		if uint64(len(body)) >= n && (len(body) == int(n) || statusAt(body[n:]) >= 0) { // the answer begins behind it
			from = int(n)
		}
	}
	if i := statusAt(body[from:]); i >= 0 {
		answerAt = from + i
	}
	own := body
	if answerAt >= 0 {
		own = body[:answerAt]
	}
	if n, err := strconv.ParseUint(r.Header.Value("Content-Length"), 10, 31); err == nil {
		switch trimmed := strings.TrimRight(own, "\r\n"); {
		case len(own) >= int(n):
			own = own[:n]
		case len(trimmed) < int(n):
			if unix := strings.Count(own, "\n"); len(own)+unix < int(n) {
				c.Gaps = append(c.Gaps, pinpoint.Gap{Kind: "body-cut", Blocks: true,
					Says: fmt.Sprintf("Content-Length says %d bytes, and the text holds %d of the body. Hand in the whole body.", n, len(own))})
			}
		}
	} else {
		own = strings.TrimRight(own, "\r\n")
		if chunked(r.Header) {
			if decoded, ok := unchunk(own); ok {
				own = decoded
			}
		}
	}
	if own != "" {
		r.Body = []byte(own)
	}
	x := pinpoint.Exchange{Request: r}
	if answerAt >= 0 {
		a, err := rawAnswer(text, behind+answerAt)
		if err != nil {
			return nil, err
		}
		x.Answer = a
	} else {
		c.Gaps = append(c.Gaps, noAnswer())
	}
	c.Exchanges = []pinpoint.Exchange{x}
	return c, nil
}

// statusAt finds a status line at the beginning of a line.
func statusAt(s string) int {
	for offset := 0; offset < len(s); {
		i := strings.Index(s[offset:], "HTTP/")
		if i < 0 {
			return -1
		}
		offset += i
		line, _ := cutLine(s[offset:min(len(s), offset+300)])
		if (offset == 0 || s[offset-1] == '\n') && statusLine.MatchString(strings.TrimSpace(line)) {
			return offset
		}
		offset += 5
	}
	return -1
}

func chunked(h pinpoint.Header) bool {
	return strings.Contains(strings.ToLower(h.Value("Transfer-Encoding")), "chunked")
}

func unchunk(s string) (string, bool) {
	out, err := io.ReadAll(io.LimitReader(httputil.NewChunkedReader(strings.NewReader(s+"\r\n\r\n")), maxText))
	return string(out), err == nil
}

func rawAnswer(text string, offset int) (*pinpoint.Answer, error) {
	line, rest := cutLine(text[offset:])
	m := statusLine.FindStringSubmatch(strings.TrimSpace(line))
	a := &pinpoint.Answer{Proto: protocol("HTTP/" + m[1])}
	a.Status, _ = strconv.Atoi(m[2]) // three digits
	header, behind, err := rawHeader(text, len(text)-len(rest))
	if err != nil {
		return nil, err
	}
	body := text[min(behind, len(text)):]
	if a.Status < 200 { // an interim answer: the final one follows (RFC 9110 section 15.2)
		if i := statusAt(body); i >= 0 && i < 4 {
			return rawAnswer(body[i:], 0)
		}
	}
	a.Header = header
	if n, err := strconv.ParseUint(header.Value("Content-Length"), 10, 31); err == nil {
		if len(body) > int(n) {
			body = body[:n]
		} else if len(body)+strings.Count(body, "\n") < int(n) {
			a.Cut = true
		}
	} else if chunked(header) {
		if decoded, ok := unchunk(body); ok {
			body = decoded
		}
	}
	if strings.HasPrefix(body, "\x1f\x8b") && strings.Contains(strings.ToLower(header.Value("Content-Encoding")), "gzip") {
		if z, err := gzip.NewReader(strings.NewReader(body)); err == nil {
			var b bytes.Buffer
			if _, err := io.Copy(&b, io.LimitReader(z, pinpoint.MaxBody+1)); err != nil {
				a.Cut = true
			}
			body = b.String()
		}
	}
	if len(body) > pinpoint.MaxBody {
		body, a.Cut = body[:pinpoint.MaxBody], true
	}
	if body != "" {
		a.Body = []byte(body)
	}
	return a, nil
}

// httpFile is a file of requests as editors send them (.http, .rest), split at ###.
type httpFile struct {
	blocks []httpBlock
	values map[string]string
}

type httpBlock struct {
	name   string
	offset int // of its request line
	lines  []string
}

// splitHTTP is nil when the text is no such file.
func splitHTTP(text string) *httpFile {
	f := &httpFile{values: map[string]string{}}
	block := httpBlock{}
	special, started := false, false
	end := func() {
		if started && len(f.blocks) < 1000 {
			f.blocks = append(f.blocks, block)
		}
		block, started = httpBlock{}, false
	}
	offset := 0
	for offset < len(text) {
		line, rest := cutLine(text[offset:])
		here := offset
		offset = len(text) - len(rest)
		switch {
		case strings.HasPrefix(line, "###"):
			end()
			special = true
			block.name = strings.TrimSpace(strings.TrimLeft(line, "#"))
		case !started:
			if m := httpName.FindStringSubmatch(line); m != nil {
				block.name, special = m[1], true
			} else if m := httpDefine.FindStringSubmatch(line); m != nil {
				if len(f.values) < 1000 {
					f.values[m[1]] = m[2]
				}
				special = true
			} else if t := strings.TrimSpace(line); t == "" || strings.HasPrefix(t, "#") || strings.HasPrefix(t, "//") {
				special = special || t != ""
			} else {
				started, block.offset = true, here
				block.lines = append(block.lines, line)
				words := strings.Fields(line)
				if len(words) == 1 && strings.Contains(line, "://") || len(words) > 1 && strings.Contains(words[1], "{{") {
					special = true
				}
			}
		default:
			block.lines = append(block.lines, line)
		}
	}
	end()
	if !special || len(f.blocks) == 0 {
		return nil
	}
	return f
}

func (f *httpFile) build(text string, o RawOptions) (*pinpoint.Case, error) {
	var block *httpBlock
	var found []string
	for i := range f.blocks {
		b := &f.blocks[i]
		found = append(found, clip(printable(b.name), 80))
		if block == nil && (o.Name == "" || strings.EqualFold(b.name, o.Name)) {
			block = b
		}
	}
	if block == nil {
		return nil, &Error{Says: "the file has no request of that name", Do: "did you mean " + strconv.Quote(nearest(clip(o.Name, 80), found)) + "?"}
	}
	values := map[string]string{}
	for _, m := range []map[string]string{f.values, o.Values} {
		for k, v := range m {
			values[k] = v
		}
	}
	fill := newFiller(values)
	c := &pinpoint.Case{Source: "raw"}
	var out []string
	inBody := false
	for i, line := range block.lines {
		trimmed := strings.TrimSpace(line)
		switch {
		case i > 0 && !inBody && trimmed == "":
			inBody = true
			out = append(out, "")
		case !inBody && i > 0 && (strings.HasPrefix(trimmed, "#") || strings.HasPrefix(trimmed, "//")):
		case inBody && strings.HasPrefix(line, "> ") || inBody && strings.HasPrefix(line, "<> "): // what happens with the answer
			if strings.Contains(line, "{%") && !strings.Contains(line, "%}") { // the script goes on to the end
				c.Gaps = append(c.Gaps, pinpoint.Gap{Kind: "script", Says: "A script reads the answer; it is not run."})
				goto done
			}
		case strings.HasPrefix(line, "< {%"):
			c.Gaps = append(c.Gaps, pinpoint.Gap{Kind: "script", Blocks: true, Says: "A script runs before the request, and scripts are not run. Hand in the request as it was sent."})
		case inBody && strings.HasPrefix(line, "< "), inBody && strings.HasPrefix(line, "<@ "):
			_, name, _ := strings.Cut(line, " ")
			body, err := o.Files.read(strings.TrimSpace(name))
			if err != nil {
				c.Gaps = append(c.Gaps, fileGap("The body", strings.TrimSpace(name), err))
				continue
			}
			out = append(out, string(body))
		default:
			line = fill.fill(line)
			if i == 0 {
				line = spaced(line)
			}
			out = append(out, line)
		}
	}
done:
	message := strings.Join(out, "\n")
	if len(message) > 2*maxText {
		return nil, tooLong()
	}
	first, _ := cutLine(message)
	if strings.Contains(first, "{{") && len(fill.missing) > 0 {
		return nil, at(text, block.offset, "the URL depends on "+names(fill.missing)+", which has no value", "define it with @name = value")
	}
	c, err := rawMessage(message, 0, o, c)
	if err != nil {
		if e, ok := asError(err); ok && e.Line > 0 {
			e.Line += strings.Count(text[:block.offset], "\n")
		}
		return nil, err
	}
	if c.Exchanges[0].Answer == nil {
		r := c.Exchanges[0].Request
		r.Header = slices.Clip(r.Header)
	}
	c.Gaps = append(c.Gaps, fill.gaps("Define it in the file with @name = value.")...)
	return c, nil
}

// spaced escapes blanks in the URL of a request line, which editors allow.
func spaced(line string) string {
	method, rest, ok := strings.Cut(line, " ")
	if !ok || !token(method) {
		return line
	}
	version := ""
	if i := strings.LastIndex(rest, " HTTP/"); i >= 0 {
		rest, version = rest[:i], rest[i:]
	}
	return method + " " + strings.ReplaceAll(strings.TrimSpace(rest), " ", "%20") + version
}

// names lists variables in order.
func names(set map[string]bool) string {
	var list []string
	for n := range set {
		list = append(list, "{{"+n+"}}")
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}
