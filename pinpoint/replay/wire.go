package replay

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/whygate/whygate/pinpoint"
)

// head1 is the head of a request in HTTP/1: fields in their order and case, Host first unless it was
// recorded elsewhere, Content-Length as the body is.
func head1(p *prepared) []byte {
	var b bytes.Buffer
	path := p.url.path
	if p.method == "CONNECT" {
		path = p.url.authority
	} else if p.proxy != nil && p.tls == nil && !strings.HasPrefix(p.proxy.Scheme, "socks") {
		path = p.url.scheme + "://" + p.url.authority + p.url.path // RFC 9112, section 3.2.2
	}
	proto := "HTTP/1.1"
	if strings.EqualFold(p.proto, "HTTP/1.0") {
		proto = "HTTP/1.0"
	}
	fmt.Fprintf(&b, "%s %s %s\r\n", p.method, path, proto)
	if !p.header.Has("Host") {
		fmt.Fprintf(&b, "Host: %s\r\n", p.url.authority)
	}
	length := false
	for _, f := range p.header {
		switch strings.ToLower(f.Name) {
		case "content-length":
			if length || chunked(p.header) {
				continue
			}
			length = true
			f.Value = strconv.Itoa(len(p.body))
		case "transfer-encoding":
			f.Value = "chunked" // the body is written so
		}
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	if !length && !chunked(p.header) && len(p.body) > 0 {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(p.body))
	}
	if u := proxyUser(p); u != nil {
		pass, _ := u.Password()
		fmt.Fprintf(&b, "Proxy-Authorization: %s\r\n", basic(u.Username(), pass))
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

func chunked(h pinpoint.Header) bool { return h.Has("Transfer-Encoding") }

// proxyUser is set for what the proxy reads itself.
func proxyUser(p *prepared) *url.Userinfo {
	if p.proxy == nil || p.tls != nil || strings.HasPrefix(p.proxy.Scheme, "socks") {
		return nil
	}
	return p.proxy.User
}

// exchange1 is one exchange over HTTP/1. The body is written while the answer is read: a server that
// refuses early does not read it.
func exchange1(conn net.Conn, p *prepared, a *pinpoint.Answer) {
	wrote := make(chan time.Time, 1)
	go func() {
		defer func() { wrote <- time.Now() }()
		if _, err := conn.Write(head1(p)); err != nil {
			return
		}
		if !chunked(p.header) {
			conn.Write(p.body)
			return
		}
		if len(p.body) > 0 {
			fmt.Fprintf(conn, "%x\r\n", len(p.body))
			conn.Write(p.body)
			io.WriteString(conn, "\r\n")
		}
		io.WriteString(conn, "0\r\n\r\n")
	}()
	r := &headReader{r: conn}
	err := r.read(a)
	if err != nil {
		a.Err = words(err)
		return
	}
	select {
	case t := <-wrote:
		if r.first.After(t) {
			a.FirstByte = r.first.Sub(t)
		}
	default: // it answered before the request was complete
	}
	body := io.MultiReader(bytes.NewReader(r.rest), conn)
	te := strings.ToLower(a.Header.Value("Transfer-Encoding"))
	switch {
	case p.method == "HEAD" || a.Status == 204 || a.Status == 304 || a.Status == 101:
	case strings.HasSuffix(te, "chunked"):
		readBody(httputil.NewChunkedReader(body), a)
	case a.Header.Has("Content-Length"):
		n, err := strconv.ParseInt(strings.TrimSpace(a.Header.Value("Content-Length")), 10, 64)
		if err != nil || n < 0 {
			a.Cut = true
			return
		}
		have := &countingReader{r: io.LimitReader(body, n)}
		readBody(have, a)
		if have.n < n {
			a.Cut = true
		}
	default:
		readBody(body, a)
	}
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

var errMalformed = errors.New("malformed answer")

// headReader reads heads of answers up to a bound, and keeps what it read behind them.
type headReader struct {
	r     io.Reader
	rest  []byte
	first time.Time // when the first byte came
}

// read fills in status, protocol and fields of the final answer; interim ones are dropped (RFC 9110,
// section 15.2), except 101, which is final here.
func (h *headReader) read(a *pinpoint.Answer) error {
	used := 0
	for range maxInterim {
		head, err := h.head(maxHead - used)
		if err != nil {
			return err
		}
		used += len(head)
		if err := parseHead(head, a); err != nil {
			return err
		}
		if a.Status >= 200 || a.Status == 101 {
			return nil
		}
	}
	a.Status, a.Header = 0, nil
	return fmt.Errorf("%w: too many interim answers", errMalformed)
}

func (h *headReader) head(limit int) ([]byte, error) {
	buf := h.rest
	seen := 0 // nothing ends before it
	for {
		if i := endOfHead(buf, seen); i >= 0 {
			h.rest = buf[i:]
			return buf[:i], nil
		}
		seen = max(0, len(buf)-3)
		if len(buf) >= limit {
			return nil, fmt.Errorf("%w: its head is longer than %d bytes", errMalformed, maxHead)
		}
		if len(buf) >= 5 && !bytes.HasPrefix(buf, []byte("HTTP/")) {
			return nil, fmt.Errorf("%w: it does not begin with HTTP/", errMalformed)
		}
		chunk := make([]byte, min(4096, limit-len(buf)))
		n, err := h.r.Read(chunk)
		if n > 0 && h.first.IsZero() {
			h.first = time.Now()
		}
		buf = append(buf, chunk[:n]...)
		if err != nil && n == 0 {
			return nil, err
		}
	}
}

// endOfHead is the index behind the empty line. A lone line feed ends a line too (RFC 9112, section 2.2).
func endOfHead(b []byte, from int) int {
	for i := from; i < len(b); i++ {
		if b[i] != '\n' {
			continue
		}
		if rest := b[i+1:]; len(rest) > 0 && rest[0] == '\n' {
			return i + 2
		} else if len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n' {
			return i + 3
		}
	}
	return -1
}

func parseHead(head []byte, a *pinpoint.Answer) error {
	lines := strings.Split(strings.TrimRight(string(head), "\r\n"), "\n")
	proto, rest, _ := strings.Cut(strings.TrimRight(lines[0], "\r"), " ")
	code, _, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
	n, err := strconv.Atoi(code)
	if !strings.HasPrefix(proto, "HTTP/") || err != nil || len(code) != 3 || n < 100 {
		return fmt.Errorf("%w: no status line", errMalformed)
	}
	a.Status, a.Proto, a.Header = n, pinpoint.SafeText(proto, 10), nil
	for _, line := range lines[1:] {
		line = strings.TrimRight(line, "\r")
		if len(a.Header) > 0 && line != "" && (line[0] == ' ' || line[0] == '\t') { // obs-fold
			last := &a.Header[len(a.Header)-1]
			last.Value += " " + strings.TrimSpace(line)
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !token(name) {
			continue // evidence only in what can be read
		}
		if len(a.Header) >= maxFields {
			return fmt.Errorf("%w: more than %d fields", errMalformed, maxFields)
		}
		a.Header = append(a.Header, pinpoint.Field{Name: name, Value: strings.Trim(value, " \t")})
	}
	return nil
}

// readBody reads a body as far as it is wanted and decodes it under the same bound. What comes
// before an error is kept: Cut says that there is more.
func readBody(r io.Reader, a *pinpoint.Answer) {
	raw, err := io.ReadAll(io.LimitReader(r, pinpoint.MaxBody+1))
	if err != nil {
		a.Cut = true
	}
	if len(raw) > pinpoint.MaxBody {
		raw, a.Cut = raw[:pinpoint.MaxBody], true
	}
	a.Body = raw
	var coded []string
	for _, v := range a.Header.Values("Content-Encoding") {
		coded = append(coded, strings.Split(strings.ToLower(v), ",")...)
	}
	if len(coded) > 3 || len(raw) == 0 {
		return
	}
	for i := len(coded) - 1; i >= 0; i-- { // the last was applied last (RFC 9110, section 8.4)
		out, whole, ok := decode(strings.TrimSpace(coded[i]), a.Body)
		if !ok {
			return
		}
		a.Body = out
		if !whole {
			a.Cut = true
		}
	}
}

// decode undoes one content coding, MaxBody bytes at most. ok is false when nothing could be
// decoded, whole when all was.
func decode(coding string, raw []byte) (out []byte, whole, ok bool) {
	var r io.Reader
	var err error
	switch coding {
	case "", "identity":
		return raw, true, true
	case "gzip", "x-gzip":
		r, err = gzip.NewReader(bytes.NewReader(raw))
	case "br":
		r = brotli.NewReader(bytes.NewReader(raw))
	case "deflate": // zlib by RFC 9110, section 8.4.1.2; some servers send it bare
		if r, err = zlib.NewReader(bytes.NewReader(raw)); err != nil {
			r, err = flate.NewReader(bytes.NewReader(raw)), nil
		}
	case "zstd":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(bytes.NewReader(raw), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20)); err == nil {
			defer d.Close()
			r = d
		}
	default:
		return nil, false, false
	}
	if err != nil {
		return nil, false, false
	}
	out, err = io.ReadAll(io.LimitReader(r, pinpoint.MaxBody+1))
	if len(out) > pinpoint.MaxBody {
		return out[:pinpoint.MaxBody], false, true
	}
	return out, err == nil, len(out) > 0 || err == nil
}
