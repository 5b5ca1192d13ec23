package wire

import (
	"bytes"
	"fmt"
	"net/netip"
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

// forget lets go of the buffer that the strings point into, so that an idle connection does not hold it.
func (r *Request) forget() {
	clear(r.Fields)
	r.reset()
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
			return 0, bareLF(b[:n])
		}
		if n == i+1 && i > 0 || n == 1 { // an empty line
			return n + 1, nil
		}
		i = n + 1
	}
}

// bareLF tells of the last line of b, which no CR ends.
func bareLF(b []byte) *Fault {
	number, last := bytes.Count(b, []byte{'\n'})+1, string(b[bytes.LastIndexByte(b, '\n')+1:])
	what := ""
	if name, _, ok := strings.Cut(last, ":"); ok && number > 1 && IsToken(name) {
		what = ", the header field " + excerpt(name, 60)
	}
	return fault(BareLF, "lines that end in CRLF", "line %d ends in LF alone%s", number, what)
}

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
		return fault(BadRequestLine, "METHOD target HTTP/1.1", "a first line of %d bytes that is no request line%s", len(line), begins(line))
	}
	r.Method, r.Target = line[:sp], line[sp+1:end]
	if !all(r.Method, tokenByte) {
		return badMethod(r.Method)
	}
	switch v := line[end+1:]; v {
	case "HTTP/1.1":
		r.Proto = 11
	case "HTTP/1.0":
		r.Proto = 10
	default:
		if r.Method == "PROXY" {
			return unwantedProxyHeader()
		}
		if len(v) == 8 && v[:5] == "HTTP/" && v[6] == '.' && digits(v[5:6]) && digits(v[7:8]) {
			return unsupported(v)
		}
		if !strings.HasPrefix(v, "HTTP") {
			return fault(BadVersion, "HTTP/1.1 or HTTP/1.0", "a request line of %d bytes without a version at its end", len(line))
		}
		return fault(BadVersion, "HTTP/1.1 or HTTP/1.0", "the version %s", excerpt(v, 20))
	}
	if r.Method == "CONNECT" { // its target is of a form of its own
		return connectFault(r.Target)
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

// proxyTwo is how a PROXY protocol header of version 2 begins (its specification, §2.2).
const proxyTwo = "\r\n\r\n\x00\r\nQUIT\n"

func unwantedProxyHeader() *Fault {
	return fault(BadProxyHeader, "no PROXY header", "a PROXY protocol header where none is expected: from a peer that is not trusted, or on a listener without it")
}

func badMethod(method string) *Fault {
	i := 0
	for i < len(method) && is(method[i], tokenByte) {
		i++
	}
	if i == len(method) {
		return fault(BadMethod, "a method of letters", "no method")
	}
	return fault(BadMethod, "a method of letters", "byte 0x%02X at position %d of the method", method[i], i)
}

func unsupported(version string) *Fault {
	return fault(UnsupportedVersion, "HTTP/1.1 or HTTP/1.0", "the version %s", excerpt(version, 20)).status(505)
}

// parseFields reads header lines up to the empty line that ends b.
func parseFields(b []byte, into *Fields, lim *Limits) *Fault {
	fields := (*into)[:0]
	for number := 2; ; number++ {
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
			f.Text = fmt.Sprintf("line %d: %s", number, f.Text)
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
		return "", "", fault(ObsFold, "a header field on one line", "a header line of %d bytes begins with white space", len(line))
	}
	if colon < 0 {
		return "", "", fault(MissingColon, "Name: value", "a header line of %d bytes without a colon%s", len(line), begins(line))
	}
	name = line[:colon]
	every, some := uint8(tokenByte), uint8(0)
	for i := 0; i < len(name); i++ {
		every &= class[name[i]]
		some |= class[name[i]]
	}
	if every == 0 || name == "" {
		return "", "", badName(name)
	}
	value = trim(line[colon+1:])
	if !isValue(value) {
		return "", "", badValue(name, value)
	}
	if some&underscore != 0 && lim.Underscores != UnderscoreAllow {
		if lim.Underscores == UnderscoreDrop {
			return "", "", nil
		}
		return "", "", fault(UnderscoreInName, "a header name without _", "the header name %s", excerpt(name, 60))
	}
	return name, value, nil
}

func badName(name string) *Fault {
	for i := 0; i < len(name); i++ {
		if is(name[i], tokenByte) {
			continue
		}
		if trim(name[i:]) == "" {
			return fault(SpaceBeforeColon, "the colon right after the name", "white space between %s and its colon", excerpt(name[:i], 60))
		}
		return fault(BadFieldName, "a name of letters, digits and -", "byte 0x%02X at position %d of a header name%s", name[i], i, begins(name))
	}
	return fault(BadFieldName, "Name: value", "a header line without a name")
}

func badValue(name, value string) *Fault {
	i := 0
	for is(value[i], valueByte) {
		i++
	}
	rule := BadFieldValue
	if value[i] == '\r' {
		rule = BareCR
	}
	return fault(rule, "text without control bytes", "byte 0x%02X at position %d of the value of %s", value[i], i, excerpt(name, 60))
}

// examine draws the conclusions from the fields: host, framing, connection.
func (r *Request) examine(arena *[]byte) *Fault {
	var (
		host         string
		hosts        int
		length       int64 = -1
		coding       bool
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
				return badLength(f.Value)
			}
			length = n
		case TransferEncoding:
			if coding || !equalFold(f.Value, "chunked") {
				return fault(UnknownCoding, "chunked, once", "Transfer-Encoding: %s", excerpt(f.Value, 40)).status(501)
			}
			coding = true
		case Connection:
			close = close || HasToken(f.Value, "close")
			alive = alive || HasToken(f.Value, "keep-alive")
			upgradeToken = upgradeToken || HasToken(f.Value, "upgrade")
		case TrailerField:
			if f := announced(f.Value); f != nil {
				return f
			}
		case Upgrade:
			upgrade = f.Value
		case Expect:
			if !equalFold(f.Value, "100-continue") {
				return fault(UnknownExpectation, "100-continue", "Expect: %s", excerpt(f.Value, 40)).status(417)
			}
			r.Expect100 = r.Proto >= 11
		}
	}
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
	if upgradeToken && r.Proto >= 11 && isTunnel(upgrade) {
		if r.Length != 0 {
			return fault(UpgradeWithBody, "an upgrade without a body", "Upgrade: %s with a body", excerpt(upgrade, 40))
		}
		r.Upgrade = upgrade
	}
	return r.setHost(host, hosts, arena)
}

// announced looks at a Trailer field: fields that frame a message cannot come behind it.
func announced(trailer string) *Fault {
	for list := trailer; list != ""; {
		var name string
		name, list, _ = strings.Cut(list, ",")
		switch name = trim(name); FieldIDOf(name) {
		case ContentLength, TransferEncoding, TrailerField:
			return fault(ForbiddenTrailer, "that field before the body", "Trailer announces %s", name)
		}
	}
	return nil
}

// isTunnel says that an Upgrade field asks for a tunnel. Another version of HTTP is none: it would
// carry requests past every check ("h2c smuggling"). Such an upgrade is passed over, as RFC 9110
// §7.8 allows.
func isTunnel(upgrade string) bool {
	for list := upgrade; list != ""; {
		var p string
		p, list, _ = strings.Cut(list, ",")
		p, _, _ = strings.Cut(trim(p), "/")
		if equalFold(p, "h2c") || equalFold(p, "h2") || equalFold(p, "http") || equalFold(p, "tls") {
			return false
		}
	}
	return upgrade != ""
}

func badLength(value string) *Fault {
	return fault(BadLength, "a decimal number", "Content-Length: %s", excerpt(value, 40))
}

func connectFault(target string) *Fault {
	return fault(ConnectMethod, "a method other than CONNECT", "CONNECT %s", excerpt(Shown(target), 80)).status(501)
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
			return fault(AbsoluteConflict, "a Host that repeats the authority of the target", "target for %s, Host: %s", excerpt(r.absolute, 60), excerpt(Shown(host), 60))
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
	h, literal := a, a[0] == '['
	if literal {
		end := strings.IndexByte(a, ']')
		if end < 0 || !isIPv6(a[1:end]) {
			return fault(BadHost, "[IPv6 address] or name, then :port", "Host: %s", excerpt(Shown(a), 80))
		}
		h = a[:end+1]
	} else if i := strings.IndexByte(a, ':'); i >= 0 {
		h = a[:i]
	}
	if rest := a[len(h):]; rest != "" {
		r.Port = rest[1:]
		n, ok := parseLength(r.Port)
		if rest[0] != ':' || len(r.Port) > 5 || r.Port != "" && !ok || n > 65535 {
			return fault(BadHost, "[IPv6 address] or name, then :port", "Host: %s", excerpt(Shown(a), 80))
		}
	}
	if h == "" || len(h) > 255 {
		return fault(BadHost, "a host name of 1 to 255 bytes", "Host: %s", excerpt(Shown(a), 80))
	}
	upper, label := false, 0
	for i := 0; i < len(h); i++ {
		c := h[i]
		upper = upper || lower[c] != c
		if label++; literal || c != '.' && is(c, hostByte) {
			continue
		}
		if c != '.' {
			return fault(BadHost, "letters, digits, - and .", "byte 0x%02X in Host: %s", c, excerpt(Shown(a), 80))
		}
		if label == 1 {
			return fault(BadHost, "a name without empty parts", "Host: %s", excerpt(Shown(a), 80))
		}
		label = 0
	}
	if upper {
		b := (*arena)[:0]
		for i := 0; i < len(h); i++ {
			b = append(b, lower[h[i]])
		}
		h = view(b)
		*arena = b[len(b):]
	}
	if h[len(h)-1] == '.' { // a fully qualified name is the same name
		h = h[:len(h)-1]
	}
	r.Host = h
	return nil
}

// isIPv6 says that s is an address without a zone, which means nothing to another machine.
func isIPv6(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is6() && a.Zone() == ""
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
