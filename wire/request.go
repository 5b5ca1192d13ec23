package wire

import (
	"bytes"
	"strings"
)

// Request is the head of a request as everybody after the parser sees it. Its strings
// live as long as the call.
type Request struct {
	Method string
	Target string // as received
	// Path is what policies judge and the upstream gets: see setTarget.
	Path     string
	Query    string // without "?", as received
	HasQuery bool   // "/a?" and "/a" are two targets
	// Host is the authority in lower case without a port; IPv6 in brackets.
	Host string
	// Port of the authority as the client wrote it, "" without.
	Port string
	// Authority is Host or :authority as received.
	Authority string
	// AbsoluteScheme is the scheme of an absolute-form target, else "".
	AbsoluteScheme string
	Proto          uint8 // 10, 11 or 20

	Fields Fields

	// Length of the body: 0 for none, -1 when only its end will tell.
	Length int64
	// Upgrade is the protocol the client wants to change to, "" for none.
	Upgrade string
	// Expect100 says that the client waits for 100 Continue before it sends the body.
	Expect100 bool
	// KeepAlive says that the client wants to go on with this connection.
	KeepAlive bool

	absolute string // authority of an absolute-form target
}

func (r *Request) reset() {
	*r = Request{Fields: r.Fields[:0]}
}

// Preface is the beginning of an HTTP/2 connection (RFC 9113 §3.4).
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// headEnd looks for the end of a message head in b, continuing at *scanned. It
// returns the length of the head with its empty line, or 0 when there is more to
// come. Lines that do not end in CRLF are a Fault at once, so that a client which
// never sends CRLF is not waited for.
func headEnd(b []byte, scanned *int) (int, *Fault) {
	for i := *scanned; ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			*scanned = i
			return 0, nil
		}
		n += i
		if n == 0 || b[n-1] != '\r' {
			return 0, fault(BareLF, "lines that end in CRLF", "line %d ends in LF alone: %s", bytes.Count(b[:n], []byte{'\n'})+1, excerpt(string(b[lineStart(b, n):n]), 60))
		}
		if n == i+1 && i > 0 || n == 1 { // an empty line
			return n + 1, nil
		}
		i = n + 1
	}
}

func lineStart(b []byte, n int) int { return bytes.LastIndexByte(b[:n], '\n') + 1 }

// parse reads a whole request head, empty line included. arena takes what cannot point
// into b.
func (r *Request) parse(b []byte, lim *Limits, arena *[]byte) *Fault {
	r.reset()
	i := bytes.IndexByte(b, '\n')
	if f := r.requestLine(view(b[:i-1]), lim); f != nil {
		return f
	}
	if f := parseFields(b[i+1:], &r.Fields, lim); f != nil {
		return f
	}
	if f := r.setTarget(r.Target, arena); f != nil {
		return f
	}
	return r.examine(arena)
}

func (r *Request) requestLine(line string, lim *Limits) *Fault {
	sp := strings.IndexByte(line, ' ')
	end := strings.LastIndexByte(line, ' ')
	if sp <= 0 || end <= sp {
		return fault(BadRequestLine, "METHOD target HTTP/1.1", "the request line %s", excerpt(line, 80))
	}
	r.Method, r.Target = line[:sp], line[sp+1:end]
	if !all(r.Method, tokenByte) {
		return fault(BadMethod, "a method of letters", "the method %s", excerpt(r.Method, 40))
	}
	switch v := line[end+1:]; v {
	case "HTTP/1.1":
		r.Proto = 11
	case "HTTP/1.0":
		r.Proto = 10
	default:
		f := fault(BadVersion, "HTTP/1.1 or HTTP/1.0", "the version %s", excerpt(v, 20))
		if len(v) == 8 && v[:5] == "HTTP/" && v[6] == '.' && '0' <= v[5] && v[5] <= '9' && '0' <= v[7] && v[7] <= '9' {
			f.Rule = UnsupportedVersion
			f.Status = 505
		}
		return f
	}
	if max := lim.URIBytes; len(r.Target) > max {
		return tooLarge(TargetTooLong, 414, int64(max), int64(len(r.Target)), "a shorter request target", "a request target of %d bytes, %d are allowed", len(r.Target), max)
	}
	for i := 0; i < len(r.Target); i++ {
		if c := r.Target[i]; c <= ' ' || c == 0x7f || c == '#' {
			return fault(BadTargetByte, "%-escapes for control bytes, spaces and #", "byte 0x%02X at position %d of the request target", c, i)
		}
	}
	return nil
}

// parseFields reads header lines up to the empty line that ends b.
func parseFields(b []byte, into *Fields, lim *Limits) *Fault {
	fields := (*into)[:0]
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			panic("BUG: a head without an end reached the parser")
		}
		line := view(b[:i-1]) // headEnd saw that CR stands before LF
		b = b[i+1:]
		if line == "" {
			*into = fields
			return nil
		}
		if len(fields) == lim.HeaderCount {
			return tooLarge(TooManyHeaders, 431, int64(lim.HeaderCount), int64(len(fields)+1), "fewer header fields", "more than %d header fields", lim.HeaderCount)
		}
		name, value, f := splitField(line, lim)
		if f != nil {
			return f
		}
		if name == "" {
			continue // dropped for an underscore
		}
		fields = append(fields, Field{Name: name, Value: value, ID: FieldIDOf(name)})
	}
}

// splitField splits one header line and judges both sides. It returns "" for a
// line that Limits.Underscores drops.
func splitField(line string, lim *Limits) (name, value string, f *Fault) {
	colon := strings.IndexByte(line, ':')
	if line[0] == ' ' || line[0] == '\t' {
		return "", "", fault(ObsFold, "a header field on one line", "a header line begins with white space: %s", excerpt(line, 60))
	}
	if colon < 0 {
		return "", "", fault(MissingColon, "Name: value", "a header line without a colon: %s", excerpt(line, 60))
	}
	name = line[:colon]
	underscore := false
	for i := 0; i < len(name); i++ {
		if !is(name[i], tokenByte) {
			if rest := trim(name[i:]); rest == "" {
				return "", "", fault(SpaceBeforeColon, "the colon right after the name", "white space between %s and its colon", excerpt(name[:i], 60))
			}
			return "", "", fault(BadFieldName, "a name of letters, digits and -", "byte 0x%02X in the header name %s", name[i], excerpt(name, 60))
		}
		underscore = underscore || name[i] == '_'
	}
	if name == "" {
		return "", "", fault(BadFieldName, "Name: value", "a header line without a name: %s", excerpt(line, 60))
	}
	value = trim(line[colon+1:])
	for i := 0; i < len(value); i++ {
		if c := value[i]; !is(c, valueByte) {
			rule := BadFieldValue
			if c == '\r' {
				rule = BareCR
			}
			return "", "", fault(rule, "text without control bytes", "byte 0x%02X at position %d of the value of %s", c, i, excerpt(name, 60))
		}
	}
	if underscore && lim.Underscores != UnderscoreAllow {
		if lim.Underscores == UnderscoreDrop {
			return "", "", nil
		}
		return "", "", fault(UnderscoreInName, "a header name without _", "the header name %s", excerpt(name, 60))
	}
	return name, value, nil
}

// examine draws the conclusions from the fields: host, framing, connection.
func (r *Request) examine(arena *[]byte) *Fault {
	var (
		host         string
		hosts        int
		length       int64 = -1
		coding       bool
		connection   bool
		close, alive bool
		upgradeToken bool
		upgrade      string
	)
	for i := range r.Fields {
		f := &r.Fields[i]
		switch f.ID {
		case OtherField:
		case Host:
			hosts++
			host = f.Value
		case ContentLength:
			if length >= 0 {
				return fault(RepeatedLength, "one Content-Length", "a second Content-Length: %s", excerpt(f.Value, 40))
			}
			n, ok := parseLength(f.Value)
			if !ok {
				return fault(BadLength, "a decimal number", "Content-Length: %s", excerpt(f.Value, 40))
			}
			length = n
		case TransferEncoding:
			if coding || !equalFold(f.Value, "chunked") {
				return fault(UnknownCoding, "chunked, once", "Transfer-Encoding: %s", excerpt(f.Value, 40)).status(501)
			}
			coding = true
		case Connection:
			connection = true
			close = close || HasToken(f.Value, "close")
			alive = alive || HasToken(f.Value, "keep-alive")
			upgradeToken = upgradeToken || HasToken(f.Value, "upgrade")
		case Upgrade:
			upgrade = f.Value
		case Expect:
			if !equalFold(f.Value, "100-continue") {
				return fault(UnknownExpectation, "100-continue", "Expect: %s", excerpt(f.Value, 40)).status(417)
			}
			r.Expect100 = r.Proto >= 11
		}
	}
	_ = connection
	if coding {
		if length >= 0 {
			return fault(LengthAndCoding, "either Content-Length or Transfer-Encoding", "both Content-Length: %d and Transfer-Encoding: chunked", length)
		}
		if r.Proto == 10 {
			return fault(CodingIn10, "Content-Length", "Transfer-Encoding in an HTTP/1.0 request")
		}
		r.Length = -1
	} else {
		r.Length = max(length, 0)
	}
	r.KeepAlive = !close && (r.Proto >= 11 || alive)
	if upgradeToken && upgrade != "" && r.Proto >= 11 {
		if r.Length != 0 {
			return fault(UpgradeWithBody, "an upgrade without a body", "Upgrade: %s with a body", excerpt(upgrade, 40))
		}
		r.Upgrade = upgrade
	}
	if r.Method == "CONNECT" {
		return fault(ConnectMethod, "a method other than CONNECT", "CONNECT %s", excerpt(r.Target, 80)).status(501)
	}
	return r.setHost(host, hosts, arena)
}

// setHost settles which host the call is for (RFC 9112 §3.2).
func (r *Request) setHost(host string, hosts int, arena *[]byte) *Fault {
	switch {
	case hosts > 1:
		return fault(RepeatedHost, "one Host", "%d Host fields", hosts)
	case hosts == 0 && r.Proto >= 11:
		return fault(MissingHost, "a Host field", "an HTTP/1.1 request without Host")
	}
	r.Authority = host
	if r.absolute != "" {
		if hosts == 1 && !equalFold(host, r.absolute) {
			return fault(AbsoluteConflict, "a Host that repeats the authority of the target", "target for %s, Host: %s", excerpt(r.absolute, 60), excerpt(host, 60))
		}
		r.Authority = r.absolute
	}
	return r.splitAuthority(arena)
}

// splitAuthority fills Host and Port from Authority.
func (r *Request) splitAuthority(arena *[]byte) *Fault {
	a := r.Authority
	if a == "" {
		if r.Proto >= 11 {
			return fault(BadHost, "a host name", "an empty Host")
		}
		return nil
	}
	h := a
	if a[0] == '[' {
		end := strings.IndexByte(a, ']')
		if end < 0 {
			return fault(BadHost, "[address] or name, then :port", "Host: %s", excerpt(a, 80))
		}
		h = a[:end+1]
	} else if i := strings.IndexByte(a, ':'); i >= 0 {
		h = a[:i]
	}
	if rest := a[len(h):]; rest != "" {
		r.Port = rest[1:]
		if rest[0] != ':' || len(r.Port) > 5 || !digits(r.Port) {
			return fault(BadHost, "[address] or name, then :port", "Host: %s", excerpt(a, 80))
		}
	}
	if h == "" || len(h) > 255 {
		return fault(BadHost, "a host name of 1 to 255 bytes", "Host: %s", excerpt(a, 80))
	}
	upper := false
	for i := 0; i < len(h); i++ {
		c := h[i]
		if !is(c, hostByte) || (c == ':' || c == '[' || c == ']') && h[0] != '[' || c == '%' && h[0] != '[' {
			return fault(BadHost, "letters, digits, - and .", "byte 0x%02X in Host: %s", c, excerpt(a, 80))
		}
		upper = upper || lower[c] != c
	}
	if upper {
		b := (*arena)[:0]
		for i := 0; i < len(h); i++ {
			b = append(b, lower[h[i]])
		}
		h = view(b)
		*arena = b[len(b):]
	}
	if len(h) > 1 && h[len(h)-1] == '.' { // a fully qualified name is the same name
		h = h[:len(h)-1]
	}
	r.Host = h
	return nil
}

func digits(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// parseLength reads a Content-Length: digits only, no sign, no list, below 2^63.
func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 || !digits(s) {
		return 0, false
	}
	var n int64
	for i := 0; i < len(s); i++ {
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// ParseRequest reads one request head, as the server would from a connection. The Request
// owns its memory.
func ParseRequest(head []byte, lim *Limits) (*Request, *Fault) {
	b := append([]byte(nil), head...)
	scanned := 0
	n, f := headEnd(b, &scanned)
	if f != nil {
		return nil, f
	}
	if n == 0 {
		return nil, fault(BodyCutShort, "a whole request head", "the request head does not end")
	}
	r := new(Request)
	var arena []byte
	if f := r.parse(b[:n], lim, &arena); f != nil {
		return r, f
	}
	return r, nil
}
