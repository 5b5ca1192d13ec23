package wire

import (
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// stdServer carries HTTP/2, and HTTP/1.1 where a listener asks for it, through net/http.
type stdServer struct {
	srv   *Server
	http  *http.Server
	next  chan net.Conn
	done  chan struct{}
	ended sync.Once
	of    sync.Map // net.Conn given to net/http → *conn
	conns int      // how many that are; guarded by Server.mu
}

// stdForm is what a server of net/http cannot change while it serves.
type stdForm struct {
	http2                bool
	streams, headerBytes int
	header, idle, write  time.Duration
}

func newStdServer(s *Server, f stdForm) *stdServer {
	d := &stdServer{srv: s, next: make(chan net.Conn), done: make(chan struct{})}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!f.http2)
	protocols.SetUnencryptedHTTP2(f.http2) // TLS ends before
	headerBytes := f.headerBytes
	if f.http2 {
		headerBytes *= 2 // what is somewhat larger is refused with a reason; beyond that net/http answers by itself
	}
	d.http = &http.Server{
		Handler:   http.HandlerFunc(d.serveHTTP),
		Protocols: protocols,
		// OPTIONS * is a call like others.
		DisableGeneralOptionsHandler: true,
		HTTP2:                        &http.HTTP2Config{MaxConcurrentStreams: f.streams, MaxReadFrameSize: 16 << 10, MaxReceiveBufferPerConnection: 1 << 20, MaxReceiveBufferPerStream: 256 << 10, SendPingTimeout: 30 * time.Second, WriteByteTimeout: f.write},
		ReadHeaderTimeout:            f.header,
		IdleTimeout:                  f.idle,
		MaxHeaderBytes:               headerBytes,
		ConnState:                    d.connState,
		ConnContext:                  func(ctx context.Context, nc net.Conn) context.Context { return context.WithValue(ctx, connKey{}, nc) },
		ErrorLog:                     log.New(logWriter{s.Log}, "", 0),
	}
	go d.http.Serve(d)
	return d
}

type connKey struct{}

// logWriter takes what net/http has to say about broken clients.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Debug("net/http", "says", strings.TrimSpace(string(p)))
	return len(p), nil
}

// Accept, Close and Addr make stdServer the listener of its http.Server.
func (d *stdServer) Accept() (net.Conn, error) {
	select {
	case nc := <-d.next:
		return nc, nil
	case <-d.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept; http.Server.Shutdown calls it.
func (d *stdServer) Close() error {
	d.ended.Do(func() { close(d.done) })
	return nil
}

// Addr is of no meaning here.
func (d *stdServer) Addr() net.Addr { return &net.TCPAddr{} }

func (d *stdServer) serve(nc net.Conn, c *conn) {
	d.of.Store(nc, c)
	select {
	case d.next <- nc:
	case <-d.done:
		d.of.Delete(nc)
		nc.Close()
		d.srv.forget(c)
	}
}

func (d *stdServer) connState(nc net.Conn, s http.ConnState) {
	if s == http.StateClosed {
		if c, ok := d.of.LoadAndDelete(nc); ok {
			d.srv.forget(c.(*conn))
		}
	}
}

// drain lets idle connections live for a moment, as the other engine does: net/http would close
// them while a request is on its way. Answers say meanwhile that their connection ends.
func (d *stdServer) drain(ctx context.Context) {
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for end := time.Now().Add(d.srv.linger); ctx.Err() == nil && time.Now().Before(end) && d.open(); {
		<-t.C
	}
	if d.http.Shutdown(ctx) != nil {
		d.http.Close()
	}
}

// open says that there are connections.
func (d *stdServer) open() (some bool) {
	d.of.Range(func(_, _ any) bool { some = true; return false })
	return some
}

// serveHTTP turns what net/http parsed into a Call.
func (d *stdServer) serveHTTP(w http.ResponseWriter, r *http.Request) {
	nc, _ := r.Context().Value(connKey{}).(net.Conn)
	v, ok := d.of.Load(nc)
	if !ok {
		panic(http.ErrAbortHandler) // closed meanwhile
	}
	c := v.(*conn)
	if sc, ok := nc.(*stdConn); ok {
		sc.busy.Store(true)
		sc.came.Store(0)
		defer sc.busy.Store(false)
	}
	s := &stdStream{w: w, r: r, rc: http.NewResponseController(w), conn: c}
	call := &Call{Listener: c.listener, Start: time.Now(), Peer: c.call.Peer, Announced: c.call.Announced, TLS: c.call.TLS, engine: s}
	s.call = call
	cfg := d.srv.config.Load()
	s.cfg = cfg
	if r.ProtoMajor == 1 {
		s.rc.EnableFullDuplex() // the answer may begin before the body has been read
	}
	if f := call.Request.fromStd(r, &cfg.Limits); f != nil {
		s.closing = true
		d.srv.Handler.Malformed(call, f)
	} else {
		d.srv.Handler.Serve(call)
	}
	if r.ProtoMajor == 1 && !s.aborted {
		s.drain()
	}
	s.release()
	if s.aborted {
		panic(http.ErrAbortHandler)
	}
}

// fromStd fills a Request from one that net/http has parsed, under the rules that remain.
func (r *Request) fromStd(h *http.Request, lim *Limits) *Fault {
	r.Method, r.Proto = h.Method, 11
	switch {
	case h.Method == "PRI" && h.ProtoMajor == 2: // the preface where HTTP/2 is not spoken
		return unsupported(h.Proto)
	case h.ProtoMajor == 2:
		r.Proto = 20
	case h.ProtoMinor == 0:
		r.Proto = 10
	}
	if !IsToken(h.Method) { // net/http lets "GET /x HTTP/1.1" pass as a method of HTTP/2
		return badMethod(h.Method)
	}
	names := make([]string, 0, len(h.Header)+3)
	total := len(h.Method) + len(h.RequestURI) + len(h.Host) + 20
	for name, values := range h.Header {
		names = append(names, name)
		for _, v := range values {
			total += len(name) + len(v) + 4
		}
	}
	slices.Sort(names) // net/http does not keep the order
	if len(h.RequestURI) > lim.URIBytes {
		return tooLarge(TargetTooLong, 414, int64(lim.URIBytes), int64(len(h.RequestURI)), "a shorter request target", "a request target of %d bytes, %d are allowed", len(h.RequestURI), lim.URIBytes)
	}
	if total > lim.HeaderBytes {
		name, size := "", 0
		for _, n := range names {
			for _, v := range h.Header[n] {
				if l := len(n) + len(v) + 4; l > size {
					name, size = n, l
				}
			}
		}
		return headersTooLarge(lim.HeaderBytes, total, name, size)
	}
	r.Fields = r.Fields[:0]
	r.Fields.Put(Host, h.Host)
	// Beside :authority a Host must say the same (RFC 9113 §8.3.1).
	if hosts := h.Header["Host"]; len(hosts) > 1 || len(hosts) == 1 && !equalFold(hosts[0], h.Host) {
		return fault(RepeatedHost, "one Host", ":authority %s, Host: %s", excerpt(h.Host, 60), excerpt(hosts[0], 60))
	}
	if lengths := h.Header["Content-Length"]; len(lengths) > 1 {
		return fault(RepeatedLength, "one Content-Length", "a second Content-Length: %s", excerpt(lengths[1], 40))
	} else if len(lengths) == 1 {
		if _, ok := parseLength(lengths[0]); !ok { // of HTTP/2; net/http takes it for 0
			return badLength(lengths[0])
		}
	}
	for _, name := range names {
		if name == "Host" {
			continue
		}
		if strings.IndexByte(name, '_') >= 0 && lim.Underscores != UnderscoreAllow {
			if lim.Underscores == UnderscoreDrop {
				continue
			}
			return fault(UnderscoreInName, "a header name without _", "the header name %s", excerpt(name, 60))
		}
		for _, v := range h.Header[name] {
			if len(r.Fields) == lim.HeaderCount {
				return tooLarge(TooManyHeaders, 431, int64(lim.HeaderCount), int64(len(r.Fields)+1), "fewer header fields", "more than %d header fields", lim.HeaderCount)
			}
			r.Fields.Add(name, v)
		}
	}
	if len(h.Trailer) > 0 { // which net/http has taken out
		r.Fields.Put(TrailerField, strings.Join(slices.Sorted(maps.Keys(h.Trailer)), ", "))
	}
	r.Length = h.ContentLength
	if h.Body == nil || h.Body == http.NoBody {
		r.Length = 0
	}
	r.Expect100 = EqualFold(h.Header.Get("Expect"), "100-continue")
	r.KeepAlive = !h.Close
	if u := h.Header.Get("Upgrade"); r.Proto == 11 && r.Fields.HasToken(Connection, "upgrade") && isTunnel(u) {
		if r.Length != 0 {
			return fault(UpgradeWithBody, "an upgrade without a body", "Upgrade: %s with a body", excerpt(u, 40))
		}
		r.Upgrade = u
	}
	if r.Method == "CONNECT" {
		return connectFault(h.RequestURI)
	}
	target := h.RequestURI
	if r.Proto == 20 && h.URL != nil && target == "" {
		target = h.URL.RequestURI()
	}
	if r.Proto == 20 && target != "*" && !strings.HasPrefix(target, "/") {
		return fault(BadTarget, "a path that begins with /", "the request target %s", excerpt(target, 80))
	}
	var arena []byte
	for i := 0; i < len(target); i++ {
		if c := target[i]; c <= ' ' || c == 0x7f || c == '#' {
			return fault(BadTargetByte, "%-escapes for control bytes, spaces and #", "byte 0x%02X at position %d of the request target", c, i)
		}
	}
	if f := r.setTarget(target, &arena); f != nil {
		return f
	}
	r.absolute = "" // net/http let it win over Host already
	r.Authority = h.Host
	if r.Proto == 20 && h.Host == "" {
		return fault(MissingHost, "an :authority", "an HTTP/2 request without :authority")
	}
	return r.splitAuthority(&arena)
}

// stdStream is the engine of a call that came through net/http.
type stdStream struct {
	w       http.ResponseWriter
	r       *http.Request
	rc      *http.ResponseController
	conn    *conn
	cfg     *Config
	call    *Call
	buf     []byte
	read    int64
	eof     bool
	muted   bool
	aborted bool
	closing bool // the connection ends with this call
	spoiled bool // the body could not be read: where the next request begins is not known
	unwatch func() bool
	peer    atomic.Pointer[bond] // what the call waits for
	left    atomic.Bool          // the client has gone
	ended   chan struct{}        // closed when the call has ended

	stopped    atomic.Bool // by stop
	leftBefore bool        // whether the client had left by then
}

func (s *stdStream) release() {
	if s.buf != nil {
		give(s.buf)
		s.buf = nil
	}
	if s.ended != nil {
		close(s.ended)
	}
}

func (s *stdStream) next() ([]byte, bool, error) {
	if s.eof || s.call.Request.Length == 0 {
		s.eof = true
		return nil, true, nil
	}
	if s.buf == nil {
		s.buf = take(largeBuffer)
	}
	late := time.Now().Add(s.bodyTimeout())
	s.rc.SetReadDeadline(late)
	if s.stopped.Load() { // meanwhile
		s.rc.SetReadDeadline(longAgo)
	}
	n, err := s.r.Body.Read(s.buf)
	if s.call.Request.Proto == 20 && err == nil {
		s.rc.SetReadDeadline(time.Time{}) // it would spoil the stream while nobody reads
	}
	s.read += int64(n)
	if err == io.EOF || err == nil && s.read == s.call.Request.Length {
		if err == nil { // let net/http see the end, trailers included
			s.r.Body.Read(s.buf[n:])
		}
		s.eof = true
		return s.buf[:n], true, nil
	}
	if err != nil {
		s.spoiled = true
		var broken *net.OpError
		var errno syscall.Errno
		switch {
		case isTimeout(err):
			if !time.Now().Before(late) { // and not stopped
				err = errBodyTimeout()
			}
		case s.call.Request.Proto < 20 && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.As(err, &broken) && !errors.As(err, &errno): // a chunk, in net/http's words
			err = fault(EngineRefused, "a well-formed body", "%s", excerpt(err.Error(), 120))
		}
		return nil, false, err
	}
	return s.buf[:n], false, nil
}

// willDrain says whether drain will read the rest of the body to keep the connection.
func (s *stdStream) willDrain() bool {
	req := &s.call.Request
	return s.whole() || !s.spoiled && !s.stopped.Load() && !req.Expect100 && req.Length >= 0 && req.Length-s.read <= maxDrain
}

// drain reads a small rest of a body that nobody wanted, before the handler returns: whatever
// net/http reads of a body afterwards spoils the connection. After answers that may come before the
// body (EnableFullDuplex) it takes the end of one that it reads itself for a reader that it must not
// run into, and panics; and it takes a body that it could not read for one that has been read, and
// what is left of it for a request.
func (s *stdStream) drain() {
	if s.closing {
		s.linger()
		return
	}
	for !s.whole() {
		if _, _, err := s.next(); err != nil {
			s.aborted = true
			return
		}
	}
}

// linger reads on after the last answer of a connection, as lingerClose does: a socket that is closed
// with unread bytes resets the connection, and the client may lose an answer that it has not read.
// net/http waits half a second without reading, and not at all if the client asked for the close.
func (s *stdStream) linger() {
	if s.whole() || s.spoiled || s.stopped.Load() {
		return
	}
	if s.buf == nil {
		s.buf = take(largeBuffer)
	}
	for end := time.Now().Add(lingerFor); ; {
		next := time.Now().Add(lingerIdle)
		if next.After(end) {
			next = end
		}
		s.rc.SetReadDeadline(next)
		if _, err := s.r.Body.Read(s.buf); err != nil {
			return
		}
	}
}

// bodyTimeout bounds the pauses within a body. A stream of gRPC is rather like a tunnel.
func (s *stdStream) bodyTimeout() time.Duration {
	if s.call.Request.Proto == 20 && strings.HasPrefix(s.r.Header.Get("Content-Type"), "application/grpc") {
		return s.cfg.TunnelTimeout
	}
	return s.cfg.BodyTimeout
}

func (s *stdStream) whole() bool { return s.eof || s.call.Request.Length == 0 }

func (s *stdStream) stop() {
	// From here on net/http takes the connection for dead, since a read of it fails.
	s.leftBefore = s.gone()
	s.stopped.Store(true)
	s.rc.SetReadDeadline(longAgo)
}

func (s *stdStream) trailer() Fields {
	var fs Fields
	for name, values := range s.r.Trailer {
		if neverTrailer(FieldIDOf(name)) {
			continue
		}
		for _, v := range values {
			fs.Add(name, v)
		}
	}
	return fs
}

// goOn needs no answer here: net/http sends 100 Continue as the body is first read.
func (s *stdStream) goOn() error { return nil }

func (s *stdStream) inform(status int, fields Fields) error {
	if status < 102 || s.call.Request.Proto < 11 { // net/http sends 100 by itself
		return nil
	}
	h := s.w.Header()
	for _, f := range fields {
		h.Add(f.Name, f.Value)
	}
	s.w.WriteHeader(status)
	for _, f := range fields {
		h.Del(f.Name)
	}
	return nil
}

func (s *stdStream) respond(head *Head) error {
	h := s.w.Header()
	for _, f := range head.Fields {
		// Copies: net/http writes the head when the call has ended and its memory is used again.
		key := strings.Clone(http.CanonicalHeaderKey(f.Name))
		h[key] = append(h[key], strings.Clone(f.Value))
	}
	if _, ok := h["Date"]; !ok {
		h["Date"] = nil // the gateway's answer stands as it is on both engines
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil
	}
	if head.Length >= 0 && head.Status != 204 && head.Status >= 200 {
		h.Set("Content-Length", strconv.FormatInt(head.Length, 10))
	}
	last := s.conn.tooOld(s.call.Start) || s.conn.srv.draining.Load()
	if s.call.Request.Proto < 20 {
		s.closing = s.closing || last || head.Close || !s.willDrain()
		last = s.closing
	}
	if last { // in HTTP/2 it has net/http send a GOAWAY, after which calls in flight go on
		h.Set("Connection", "close")
	}
	if head.Status == 101 {
		h.Set("Connection", "Upgrade")
	}
	s.muted = s.call.Request.Method == "HEAD" || head.Status == 304 || head.Status == 204 || head.Status < 200
	s.w.WriteHeader(head.Status)
	return nil
}

func (s *stdStream) write(p []byte) error {
	if s.muted || len(p) == 0 {
		return nil
	}
	defer s.arm()()
	_, err := s.w.Write(p)
	return err
}

func (s *stdStream) flush() error {
	defer s.arm()()
	return s.rc.Flush()
}

// arm sets the deadline for writing and returns what ends it. HTTP/2 resets a stream whose
// deadline comes, also when nobody is writing.
func (s *stdStream) arm() (disarm func()) {
	s.rc.SetWriteDeadline(time.Now().Add(s.cfg.WriteTimeout))
	if s.call.Request.Proto < 20 {
		return func() {}
	}
	return func() { s.rc.SetWriteDeadline(time.Time{}) }
}

func (s *stdStream) end(trailer Fields) error {
	for _, f := range trailer {
		s.w.Header().Add(http.TrailerPrefix+f.Name, strings.Clone(f.Value))
	}
	if s.call.Request.Proto < 20 {
		// Before the handler returns: what net/http writes afterwards is its own, see stdConn.
		return s.flush()
	}
	if s.gone() {
		return errLeft
	}
	return nil
}

func (s *stdStream) abort() {
	s.call.Begun = true
	s.aborted = true
	if t, ok := s.conn.sock.(interface{ SetLinger(int) error }); ok && s.call.Request.Proto < 20 {
		t.SetLinger(0) // a reset, so that a body delimited by close is not taken for whole
	}
}

func (s *stdStream) bind(i Interrupter) {
	if s.ended == nil {
		s.ended = make(chan struct{})
	}
	b := &bond{i}
	s.peer.Store(b)
	s.unwatch = context.AfterFunc(s.r.Context(), func() {
		if s.halfClosed() {
			select {
			case <-time.After(s.cfg.HalfClosedTimeout):
			case <-s.ended:
				return
			}
		}
		s.left.Store(true)
		if s.peer.CompareAndSwap(b, nil) {
			i.Interrupt()
		}
	})
}

func (s *stdStream) unbind() bool {
	s.unwatch()
	return s.peer.Swap(nil) == nil
}

// halfClosed says that the client of a connection of HTTP/1 sends no more. To net/http it is gone then.
func (s *stdStream) halfClosed() bool {
	return s.call.Request.Proto < 20 && askSocket(s.conn.raw) == socketHalfClosed
}

func (s *stdStream) gone() bool {
	if s.stopped.Load() {
		return s.leftBefore
	}
	return s.left.Load() || s.r.Context().Err() != nil && !s.halfClosed()
}

func (s *stdStream) context() context.Context { return s.r.Context() }

func (s *stdStream) tunnel() (net.Conn, []byte, error) {
	nc, rw, err := s.rc.Hijack()
	if err != nil {
		return nil, nil, errors.Join(errors.New("this connection cannot become a tunnel"), err)
	}
	nc.SetDeadline(time.Time{})
	if err := rw.Flush(); err != nil {
		nc.Close()
		return nil, nil, err
	}
	s.conn.std.of.Delete(nc)
	pre, _ := rw.Peek(rw.Reader.Buffered())
	return &tunnelConn{Conn: nc, c: s.conn}, pre, nil
}

// stdConn watches what net/http writes while no call is being served: an answer of its own to
// a request that it refused to parse. That answer is replaced by one with a reason.
type stdConn struct {
	net.Conn
	c    *conn
	busy atomic.Bool
	came atomic.Int64 // bytes of a request whose head is not complete
}

// Read counts what comes between calls. net/http closes without a word when the rest of a head does not come.
func (sc *stdConn) Read(p []byte) (int, error) {
	n, err := sc.Conn.Read(p)
	if sc.busy.Load() {
		return n, err
	}
	if came := sc.came.Add(int64(n)); came > 0 && n == 0 && isTimeout(err) {
		sc.came.Store(0) // it may be asked to read again
		sc.refuse(headTimeout(came, sc.c.srv.config.Load().HeaderTimeout))
	}
	return n, err
}

func (sc *stdConn) Write(p []byte) (int, error) {
	status := 0
	if !sc.busy.Load() && len(p) > 12 && string(p[:9]) == "HTTP/1.1 " && p[9] >= '4' {
		status = int(p[9]-'0')*100 + int(p[10]-'0')*10 + int(p[11]-'0')
	}
	if status == 0 {
		return sc.Conn.Write(p)
	}
	text := string(p)
	if i := strings.LastIndex(text, "\r\n\r\n"); i >= 0 && i+4 < len(text) {
		text = text[i+4:]
	}
	if !sc.refuse(fault(EngineRefused, "a well-formed request", "%s", excerpt(strings.TrimSpace(text), 120)).status(status)) {
		return 0, errLeft
	}
	return len(p), nil
}

// refuse answers in the place of net/http, and reports whether the client took it.
func (sc *stdConn) refuse(f *Fault) bool {
	c := &conn{srv: sc.c.srv, cfg: sc.c.srv.config.Load(), listener: sc.c.listener, nc: sc.Conn, sock: sc.c.sock, closing: true}
	c.call = Call{Listener: sc.c.listener, Start: time.Now(), Peer: sc.c.call.Peer, Announced: sc.c.call.Announced, TLS: sc.c.call.TLS, engine: c}
	c.call.Request.Proto = 11
	c.beginBody(0)
	c.watch = c.srv.Watch
	c.srv.Handler.Malformed(&c.call, f)
	return !c.broken
}

// CloseWrite lets net/http end its side before it closes.
func (sc *stdConn) CloseWrite() error {
	if half, ok := sc.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
