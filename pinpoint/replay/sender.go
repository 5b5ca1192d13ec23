package replay

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/proxy"

	"github.com/whygate/whygate/pinpoint"
)

// NoSNI as Via.SNI leaves the server name out of the TLS handshake.
const NoSNI = "-"

// Limits of one exchange. They hold against any server.
const (
	maxHead     = 64 << 10 // of an answer, interim ones included
	maxFields   = 1000
	maxInterim  = 8        // 1xx answers
	maxWire     = 1 << 20  // bytes read of a connection, TLS included
	maxURL      = 64 << 10 // of what is sent
	maxSend     = 64 << 20
	sendTimeout = 10 * time.Second
	maxFollow   = 5
)

// A RefusedError says why a request was not sent. It holds no part of the request.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return "not sent: " + e.Why }

func refuse(format string, args ...any) error { return &RefusedError{fmt.Sprintf(format, args...)} }

// SenderOptions shape a Sender.
type SenderOptions struct {
	// Pace is the least time between the starts of two requests; a quarter of it is added at random.
	// 0 stands for a second, a negative value for no pause.
	Pace time.Duration
	// Timeout holds for one exchange as a whole. 0 stands for ten seconds.
	Timeout time.Duration
	// ReadFile reads the files of Via.CA, Via.Cert and Via.Key. Without it they are not read, and a
	// request that needs one is not sent.
	ReadFile func(name string) ([]byte, error)
	// Origin is a host:port to which the same request may go too (direct-origin).
	Origin string
}

// Sender sends requests to one target, one at a time, as they were recorded: order and case of the
// fields, escapes of the path, duplicates. Placeholders become secrets here and nowhere else. It is
// safe for concurrent use.
type Sender struct {
	options SenderOptions
	vault   *pinpoint.Vault
	targets map[target]bool
	secure  bool            // the target is named with https
	dials   map[string]bool // values of Via.To that the case named

	mu   sync.Mutex // one exchange at a time; guards last
	last time.Time
}

// target is where secrets may go.
type target struct{ scheme, host, port string }

// NewSender is a Sender for the host that the case asks about, by http and https.
func NewSender(c *pinpoint.Case, o SenderOptions) (*Sender, error) {
	x := c.Exchange()
	if x == nil || x.Request == nil {
		return nil, refuse("the case has no request")
	}
	s := &Sender{options: o, vault: c.Vault, targets: map[target]bool{}, dials: map[string]bool{"": true}}
	if s.options.Pace == 0 {
		s.options.Pace = time.Second
	}
	if s.options.Timeout <= 0 {
		s.options.Timeout = sendTimeout
	}
	u, err := splitURL(s.vault.Reveal(x.Request.URL))
	if err != nil {
		return nil, err
	}
	t := u.target()
	s.targets[t] = true
	s.secure = t.scheme == "https" || t.scheme == "wss"
	other := map[string]string{"http": "https", "https": "http", "ws": "wss", "wss": "ws"}[t.scheme]
	s.targets[target{other, t.host, t.port}] = true
	if t.port == defaultPort(t.scheme) {
		s.targets[target{other, t.host, defaultPort(other)}] = true
	}
	s.dials[x.Request.Via.To] = true
	if o.Origin != "" {
		s.dials[o.Origin] = true
	}
	if to, ok := otherLoopback(t.host, t.port); ok {
		s.dials[to] = true
	}
	return s, nil
}

// Send sends one request and reads the answer; it follows no redirect. An error says that nothing
// was sent; a network that fails is an Answer with Err.
func (s *Sender) Send(ctx context.Context, r *pinpoint.Request) (*pinpoint.Answer, error) {
	p, err := s.prepare(r)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.pause(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	a := s.exchange(ctx, p)
	s.hide(r, a)
	return a, nil
}

// Trace is Send that follows redirects of a GET on the same host, from http to https too, five at
// most and to no URL twice. It returns every exchange, the redirect that it did not follow last.
func (s *Sender) Trace(ctx context.Context, r *pinpoint.Request) ([]pinpoint.Exchange, error) {
	var all []pinpoint.Exchange
	seen := map[string]bool{}
	for {
		a, err := s.Send(ctx, r)
		if err != nil {
			return all, err
		}
		all = append(all, pinpoint.Exchange{Request: r, Answer: a, At: a.At})
		seen[r.URL] = true
		next := redirected(r, a)
		if next == nil || len(all) > maxFollow || seen[next.URL] {
			return all, nil
		}
		if u, err := splitURL(s.vault.Reveal(next.URL)); err != nil || !s.targets[u.target()] {
			return all, nil
		}
		r = next
	}
}

// redirected is the request that follows a redirect, nil if it must not be followed: another host,
// another method than GET, https to http, or no redirect at all.
func redirected(r *pinpoint.Request, a *pinpoint.Answer) *pinpoint.Request {
	where := a.Header.Value("Location")
	if r.Method != http.MethodGet || a.Status/100 != 3 || where == "" || len(where) > maxURL {
		return nil
	}
	from, err := r.Parsed()
	if err != nil {
		return nil
	}
	to, err := from.Parse(where)
	if err != nil || to.Host == "" || to.User != nil {
		return nil
	}
	a1, err1 := splitURL(from.String())
	b1, err2 := splitURL(to.String())
	if err1 != nil || err2 != nil || a1.host != b1.host {
		return nil
	}
	sameTarget := a1.scheme == b1.scheme && a1.port == b1.port
	upgraded := a1.scheme == "http" && b1.scheme == "https" && (a1.port == b1.port || b1.port == "443")
	if !sameTarget && !upgraded {
		return nil
	}
	to.Fragment, to.RawFragment = "", ""
	next := r.Clone()
	next.URL = to.String()
	return next
}

func (s *Sender) pause(ctx context.Context) error {
	defer func() { s.last = time.Now() }()
	if s.options.Pace < 0 || s.last.IsZero() {
		return ctx.Err()
	}
	jitter := time.Duration(rand.Int64N(int64(s.options.Pace)/4 + 1))
	return sleep(ctx, time.Until(s.last.Add(s.options.Pace+jitter)))
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// parts of an absolute URL. target is the request target with its escapes as they were written.
type parts struct{ scheme, user, host, port, authority, path string }

func (p parts) target() target { return target{p.scheme, p.host, p.port} }

// splitURL takes a URL apart without touching its escapes.
func splitURL(raw string) (p parts, err error) {
	if len(raw) > maxURL {
		return p, refuse("the URL is longer than %d bytes", maxURL)
	}
	scheme, rest, ok := strings.Cut(raw, "://")
	p.scheme = strings.ToLower(scheme)
	if !ok || defaultPort(p.scheme) == "" {
		return p, refuse("the URL is not one of http or https")
	}
	rest, _, _ = strings.Cut(rest, "#")
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	p.authority, p.path = rest[:end], rest[end:]
	if i := strings.LastIndexByte(p.authority, '@'); i >= 0 {
		p.user, p.authority = p.authority[:i], p.authority[i+1:]
	}
	p.host, p.port = p.authority, defaultPort(p.scheme)
	if i := strings.LastIndexByte(p.host, ':'); i > strings.LastIndexByte(p.host, ']') {
		if p.host[i+1:] != "" {
			p.port = p.host[i+1:]
		}
		p.host = p.host[:i]
	}
	p.host = strings.ToLower(strings.Trim(p.host, "[]"))
	if n, err := strconv.ParseUint(p.port, 10, 16); err != nil || n == 0 {
		return p, refuse("the port of the URL is not a number")
	}
	if p.host == "" || strings.ContainsFunc(p.host, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`<>"'\^{}|‹›`, r) }) {
		return p, refuse("the host of the URL cannot be one")
	}
	if !strings.HasPrefix(p.path, "/") {
		p.path = "/" + p.path
	}
	if strings.ContainsAny(p.path, "\r\n\x00") {
		return p, refuse("the URL holds a line end or a zero byte")
	}
	return p, nil
}

// escaped is a request target in which only that is escaped which cannot stand in a request line.
func escaped(target string) string {
	var b strings.Builder
	for i := 0; i < len(target); i++ {
		if c := target[i]; c <= ' ' || c >= 0x7f {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func defaultPort(scheme string) string {
	return map[string]string{"http": "80", "ws": "80", "https": "443", "wss": "443"}[scheme]
}

// otherLoopback is the loopback address of the other family for a literal one.
func otherLoopback(host, port string) (string, bool) {
	switch host {
	case "::1":
		return net.JoinHostPort("127.0.0.1", port), true
	case "127.0.0.1":
		return net.JoinHostPort("::1", port), true
	}
	return "", false
}

// prepared is a request with its secrets, ready to be sent. It never leaves the Sender.
type prepared struct {
	method, proto string
	url           parts
	header        pinpoint.Header
	body          []byte
	via           pinpoint.Via
	proxy         *url.URL
	tls           *tls.Config
	network       string
	local         net.Addr
}

func (s *Sender) prepare(r *pinpoint.Request) (p *prepared, err error) {
	p = &prepared{method: r.Method, proto: r.Proto, via: r.Via}
	if p.url, err = splitURL(s.vault.Reveal(r.URL)); err != nil {
		return nil, err
	}
	if !s.targets[p.url.target()] {
		return nil, refuse("%s is not the target of this case", pinpoint.SafeText(p.url.host, 80))
	}
	p.url.path = escaped(p.url.path)
	switch p.url.scheme {
	case "ws":
		p.url.scheme = "http"
	case "wss":
		p.url.scheme = "https"
	}
	if s.secure && p.url.scheme == "http" && (carriesSecrets(r) || p.url.user != "") {
		return nil, refuse("credentials given for https do not travel over http")
	}
	if !s.dials[r.Via.To] {
		return nil, refuse("the address to connect to was not named by the case")
	}
	if !token(p.method) || len(p.method) > 40 {
		return nil, refuse("the method is not a token (RFC 9110, section 9.1)")
	}
	if len(r.Body) > maxSend || len(r.Header) > maxFields {
		return nil, refuse("the request is too large")
	}
	for i, f := range r.Header {
		f.Value = s.vault.Reveal(f.Value)
		if strings.HasPrefix(f.Name, ":") { // a pseudo-field of a recording of HTTP/2
			continue
		}
		if !token(f.Name) || strings.ContainsAny(f.Value, "\r\n\x00") {
			return nil, refuse("field %d of the request cannot stand in a header (RFC 9110, section 5)", i+1)
		}
		p.header = append(p.header, f)
	}
	if user, pass, _ := strings.Cut(p.url.user, ":"); p.url.user != "" && !p.header.Has("Authorization") {
		p.header = append(p.header, pinpoint.Field{Name: "Authorization", Value: basic(unescape(user), unescape(pass))})
	}
	p.body = []byte(s.vault.Reveal(string(r.Body)))
	p.network = map[int]string{0: "tcp", 4: "tcp4", 6: "tcp6"}[r.Via.Family]
	if p.network == "" {
		return nil, refuse("there is no address family %d", r.Via.Family)
	}
	if p.local, err = localAddr(r.Via.From, r.Via.Family); err != nil {
		return nil, err
	}
	if r.Via.Proxy != "" {
		if p.proxy, err = url.Parse(s.vault.Reveal(r.Via.Proxy)); err != nil || p.proxy.Host == "" {
			return nil, refuse("the proxy is not a URL")
		}
		if !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, p.proxy.Scheme) {
			return nil, refuse("there is no support for this kind of proxy")
		}
	}
	if p.url.scheme == "https" {
		if p.tls, err = s.handshake(p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// basic is the value of an Authorization field (RFC 7617).
func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func unescape(s string) string {
	if u, err := url.PathUnescape(s); err == nil {
		return u
	}
	return s
}

func token(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`()<>@,;:\"/[]?={}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// localAddr is the own address to connect from: an address, or one of a named interface.
func localAddr(from string, family int) (net.Addr, error) {
	if from == "" {
		return nil, nil
	}
	if ip, err := netip.ParseAddr(from); err == nil {
		return &net.TCPAddr{IP: ip.AsSlice(), Zone: ip.Zone()}, nil
	}
	if i, err := net.InterfaceByName(from); err == nil {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && (family == 0 || family == 4 == (n.IP.To4() != nil)) {
				return &net.TCPAddr{IP: n.IP}, nil
			}
		}
	}
	return nil, refuse("the own address to connect from is not one of this machine")
}

// handshake is the TLS configuration. Certificates are held against the host of the URL, as curl
// does, whatever server name is sent.
func (s *Sender) handshake(p *prepared) (*tls.Config, error) {
	c := &tls.Config{ServerName: p.url.host, NextProtos: []string{"http/1.1"}}
	if wantsHTTP2(p.proto) {
		c.NextProtos = []string{"h2", "http/1.1"}
	}
	switch p.via.SNI {
	case "":
	case NoSNI:
		c.ServerName = "0.0.0.0" // an address is never sent (RFC 6066, section 3)
	default:
		c.ServerName = p.via.SNI
	}
	read := func(option, name string) ([]byte, error) {
		if s.options.ReadFile == nil {
			return nil, refuse("the file of %s was not permitted to be read", option)
		}
		b, err := s.options.ReadFile(name)
		if err != nil {
			return nil, refuse("the file of %s cannot be read", option)
		}
		return b, nil
	}
	if p.via.CA != "" {
		b, err := read("--cacert", p.via.CA)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(b) {
			return nil, refuse("the file of --cacert holds no certificate")
		}
	}
	if p.via.Cert != "" {
		cert, err := read("--cert", p.via.Cert)
		if err != nil {
			return nil, err
		}
		key := cert
		if p.via.Key != "" {
			if key, err = read("--key", p.via.Key); err != nil {
				return nil, err
			}
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, refuse("the files of --cert and --key are no pair in PEM")
		}
		c.Certificates = []tls.Certificate{pair}
	}
	c.InsecureSkipVerify = true // VerifyConnection does it
	if !p.via.Insecure {
		host, roots := p.url.host, c.RootCAs
		c.VerifyConnection = func(cs tls.ConnectionState) error {
			o := x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: x509.NewCertPool()}
			for _, i := range cs.PeerCertificates[1:] {
				o.Intermediates.AddCert(i)
			}
			_, err := cs.PeerCertificates[0].Verify(o)
			return err
		}
	}
	return c, nil
}

func wantsHTTP2(proto string) bool {
	return strings.HasPrefix(strings.ToLower(proto), "http/2") || strings.EqualFold(proto, "h2") ||
		strings.HasPrefix(strings.ToLower(proto), "http/3") || strings.EqualFold(proto, "h3")
}

// exchange connects, writes and reads. Whatever goes wrong becomes Err.
func (s *Sender) exchange(ctx context.Context, p *prepared) *pinpoint.Answer {
	a := &pinpoint.Answer{At: time.Now()}
	conn, err := s.connect(ctx, p)
	if err != nil {
		a.Err = words(err)
		return a
	}
	raw := conn
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	if d, ok := ctx.Deadline(); ok {
		conn.SetDeadline(d)
	}
	if t, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		a.Remote = t.AddrPort()
	}
	bounded := &boundedConn{Conn: conn, left: maxWire}
	conn = bounded
	if p.tls != nil {
		t := tls.Client(conn, p.tls)
		if err := t.HandshakeContext(ctx); err != nil {
			a.Err = words(err)
			return a
		}
		state := t.ConnectionState()
		a.TLS = tls.VersionName(state.Version)
		conn = t
		if state.NegotiatedProtocol == "h2" {
			exchange2(ctx, conn, p, a)
			return a
		}
	}
	exchange1(conn, p, a)
	if ctx.Err() != nil && a.Err != "" {
		a.Err = words(ctx.Err())
	}
	return a
}

// connect is a connection to the server, through the proxy if there is one.
func (s *Sender) connect(ctx context.Context, p *prepared) (net.Conn, error) {
	d := &net.Dialer{LocalAddr: p.local}
	where := net.JoinHostPort(p.url.host, p.url.port)
	if p.via.To != "" {
		where = p.via.To
	}
	if p.proxy == nil {
		return d.DialContext(ctx, p.network, where)
	}
	port := p.proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[p.proxy.Scheme]
		if port == "" {
			port = "1080"
		}
	}
	hop := net.JoinHostPort(p.proxy.Hostname(), port)
	if strings.HasPrefix(p.proxy.Scheme, "socks5") {
		var auth *proxy.Auth
		if u := p.proxy.User; u != nil {
			pass, _ := u.Password()
			auth = &proxy.Auth{User: u.Username(), Password: pass}
		}
		socks, err := proxy.SOCKS5(p.network, hop, auth, d)
		if err != nil {
			return nil, err
		}
		return socks.(proxy.ContextDialer).DialContext(ctx, "tcp", where)
	}
	conn, err := d.DialContext(ctx, p.network, hop)
	if err != nil {
		return nil, err
	}
	if t, ok := ctx.Deadline(); ok {
		conn.SetDeadline(t)
	}
	if p.proxy.Scheme == "https" {
		t := tls.Client(conn, &tls.Config{ServerName: p.proxy.Hostname()})
		if err := t.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		conn = t
	}
	if p.tls == nil {
		return conn, nil // the request is written in absolute form
	}
	tunnel := &prepared{method: "CONNECT", url: parts{authority: where}, proxy: p.proxy}
	answer := &pinpoint.Answer{}
	r := &headReader{r: &boundedConn{Conn: conn, left: maxHead}}
	_, err = conn.Write(head1(tunnel))
	if err == nil {
		err = r.read(answer)
	}
	if err == nil && answer.Status/100 != 2 {
		err = fmt.Errorf("proxy: Received HTTP code %d from proxy after CONNECT", answer.Status)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &readAhead{conn, r.rest}, nil
}

// readAhead gives back what was read behind the answer of a proxy.
type readAhead struct {
	net.Conn
	rest []byte
}

func (c *readAhead) Read(b []byte) (int, error) {
	if len(c.rest) > 0 {
		n := copy(b, c.rest)
		c.rest = c.rest[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

var errTooMuch = errors.New("the server sent more than is read")

// boundedConn ends after a number of bytes.
type boundedConn struct {
	net.Conn
	left int
}

func (c *boundedConn) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, errTooMuch
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

// exchange2 is one exchange over HTTP/2. Names are lower case there and their order is not kept.
func exchange2(ctx context.Context, conn net.Conn, p *prepared, a *pinpoint.Answer) {
	unused := conn
	t := &http.Transport{DisableCompression: true, MaxResponseHeaderBytes: maxHead, Protocols: new(http.Protocols),
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			c := unused
			if unused = nil; c == nil {
				return nil, net.ErrClosed // one connection, and no second attempt
			}
			return c, nil
		}}
	t.Protocols.SetHTTP2(true)
	defer t.CloseIdleConnections()
	r := (&http.Request{Method: p.method, Header: http.Header{}, Host: p.url.authority}).WithContext(ctx)
	for _, f := range p.header {
		switch strings.ToLower(f.Name) {
		case "host":
			r.Host = f.Value
		case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "content-length":
			// They do not exist in HTTP/2 (RFC 9113, section 8.2.2); the length follows from the body.
		default:
			r.Header.Add(f.Name, f.Value)
		}
	}
	// Opaque keeps the escapes as they were written.
	r.URL = &url.URL{Scheme: "https", Host: r.Host, Opaque: "//" + r.Host + p.url.path}
	if !p.header.Has("User-Agent") {
		r.Header["User-Agent"] = nil
	}
	if len(p.body) > 0 || p.header.Has("Content-Length") {
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(p.body)), int64(len(p.body))
	}
	wrote := time.Now()
	res, err := t.RoundTrip(r)
	if err != nil {
		a.Err = words(err)
		return
	}
	defer res.Body.Close()
	a.FirstByte = time.Since(wrote)
	a.Status, a.Proto = res.StatusCode, "HTTP/2"
	for _, n := range slices.Sorted(maps.Keys(res.Header)) {
		for _, v := range res.Header[n] {
			a.Header = append(a.Header, pinpoint.Field{Name: strings.ToLower(n), Value: v})
		}
	}
	readBody(res.Body, a)
	for n, vs := range res.Trailer { // grpc-status
		for _, v := range vs {
			a.Header = append(a.Header, pinpoint.Field{Name: strings.ToLower(n), Value: v})
		}
	}
}

// hide puts placeholders for the secrets that an answer repeats, and for new cookies.
func (s *Sender) hide(r *pinpoint.Request, a *pinpoint.Answer) {
	if s.vault == nil {
		return
	}
	known := map[string]string{} // secret → placeholder
	note := func(text string) {
		for len(known) < 200 {
			i := strings.Index(text, "‹secret:")
			if i < 0 {
				return
			}
			n := strings.Index(text[i:], "›")
			if n < 0 {
				return
			}
			mark := text[i : i+n+len("›")]
			if secret := s.vault.Reveal(mark); secret != mark && len(secret) >= 4 {
				known[secret] = mark
			}
			text = text[i+len(mark):]
		}
	}
	note(r.URL)
	for _, f := range r.Header {
		note(f.Value)
	}
	note(string(r.Body))
	note(r.Via.Proxy)
	cover := func(text string) string {
		for _, secret := range slices.SortedFunc(maps.Keys(known), func(a, b string) int { return len(b) - len(a) }) {
			text = strings.ReplaceAll(text, secret, known[secret])
		}
		return text
	}
	for i, f := range a.Header {
		f.Value = cover(f.Value)
		if strings.EqualFold(f.Name, "Set-Cookie") {
			pair, rest, more := strings.Cut(f.Value, ";")
			name, value, _ := strings.Cut(pair, "=")
			f.Value = name + "=" + s.vault.Hide(value)
			if more {
				f.Value += ";" + rest
			}
		}
		a.Header[i] = f
	}
	if len(known) > 0 {
		body := cover(string(a.Body))
		if len(body) > pinpoint.MaxBody {
			body, a.Cut = body[:pinpoint.MaxBody], true
		}
		a.Body = []byte(body)
	}
}

// words names what went wrong, without an address or a name in it.
func words(err error) string {
	var timeout net.Error
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var alert tls.AlertError
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, errTooMuch):
		return errTooMuch.Error()
	case errors.As(err, &dns):
		if dns.IsNotFound {
			return "name not found"
		}
		return "name lookup failed"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return "no route to the address"
	case errors.As(err, &name):
		return "the certificate is for another name"
	case errors.As(err, &unknown):
		return "the certificate is from an unknown authority"
	case errors.As(err, &invalid), errors.As(err, &cert):
		return "the certificate is not valid"
	case errors.As(err, &record):
		return "the server does not speak TLS"
	case errors.As(err, &alert):
		return "TLS alert: " + strings.TrimPrefix(alert.Error(), "tls: ")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return "connection closed without an answer"
	case errors.Is(err, errMalformed):
		return err.Error()
	}
	text := err.Error()
	if after, ok := strings.CutPrefix(text, "proxy: "); ok {
		return after
	}
	if i := strings.Index(text, "remote error: tls: "); i >= 0 {
		return "TLS alert: " + pinpoint.SafeText(text[i+len("remote error: tls: "):], 60)
	}
	if strings.HasPrefix(text, "tls: ") {
		return "TLS: " + pinpoint.SafeText(text[5:], 60)
	}
	return "the exchange failed"
}
