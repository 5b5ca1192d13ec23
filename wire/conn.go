package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// conn is one client connection. All of it belongs to the goroutine in serve, but for
// what is marked as shared with the Watch.
type conn struct {
	watched
	srv      *Server
	cfg      *Config // as of the current call
	listener *Listener
	nc       net.Conn // raw, or the TLS connection on top of it
	sock     net.Conn // the socket below
	tcp      *sock    // the same, where it is TCP
	raw      syscall.RawConn
	secure   bool // nc is TLS
	born     time.Time
	maxAge   time.Duration // with jitter; 0 for ever

	call Call
	// in holds the head of the current request and whatever came with it. in[r:w] is not used yet.
	in    []byte
	r, w  int
	arena []byte // for what the parser cannot leave where it stands; never reused
	body  body
	out   []byte // the answer, until it is sent
	vec   [3][]byte
	bufs  net.Buffers

	chunked    bool // the answer is sent in chunks
	muted      bool // the answer has no content (HEAD, 304)
	closing    bool // this is the connection's last call
	hijacked   bool
	std        *stdServer   // that the connection was handed over to
	broken     bool         // writing failed, or the head was cut short; nothing more can be done
	unread     atomic.Bool  // the body cannot be read to its end
	rest       atomic.Int64 // of the body: bytes not read yet, unknownRest, or 0; another goroutine may be reading it
	sent100    bool
	state      atomic.Int32         // shared: connIdle or connBusy
	left       atomic.Bool          // shared: the client has gone
	peer       atomic.Pointer[bond] // shared: what the call waits for
	bondCell   bond
	halfClosed int64 // of the Watch: when FIN was first seen
	ctx        context.Context
	cancel     context.CancelFunc

	readIdle func(fd uintptr) bool // readWhenReady, bound once
	readN    int                   // its results
	readErr  error
}

const unknownRest = -1 // of a chunked body

// bond is the interrupter of a call in a cell, for an atomic pointer.
type bond struct{ i Interrupter }

const (
	connIdle = iota
	connBusy
)

var errLeft = errors.New("the client has gone")

// serve runs the connection to its end.
func (c *conn) serve() {
	for first := true; ; first = false {
		c.cfg = c.srv.config.Load()
		if c.r == c.w && !c.awaitRequest(first) {
			return
		}
		// Old clients send an empty line after a body (RFC 9112 §2.2). One is passed over.
		if bytes.HasPrefix(c.in[c.r:c.w], crlf) {
			if c.r += 2; c.r == c.w && !c.awaitRequest(first) {
				return
			}
		}
		if !c.serveCall() {
			return
		}
	}
}

// awaitRequest waits for the first bytes of a request. A plain connection holds no
// buffer meanwhile: ten thousand idle clients cost their goroutines and little else.
func (c *conn) awaitRequest(first bool) bool {
	idle := c.cfg.IdleTimeout
	if first {
		idle = c.cfg.HeaderTimeout // who connects wants something
	}
	c.state.Store(connIdle)
	if !c.reads.arm(c.watch, idle) {
		return false
	}
	// Asked after arming: either Drain sees this deadline and shortens it, or it began before.
	if c.srv.draining.Load() && !c.reads.arm(c.watch, min(idle, c.srv.linger)) {
		return false
	}
	c.call.Request.forget()
	c.freeInput()
	var err error
	if !c.secure && c.raw != nil {
		err = c.raw.Read(c.readIdle)
		if err == nil {
			err = c.readErr
		}
		c.r, c.w = 0, c.readN
	} else {
		c.in = take(smallBuffer)
		c.r = 0
		c.w, err = c.nc.Read(c.in)
	}
	c.state.Store(connBusy)
	return c.reads.disarm() && c.w > 0 && (err == nil || err == io.EOF)
}

// readWhenReady is called by the runtime's poller, through RawConn.Read, whenever the socket
// may be readable. Only then is a buffer taken.
func (c *conn) readWhenReady(fd uintptr) bool {
	b := take(smallBuffer)
	n, err := readNow(fd, b)
	if err != nil {
		give(b)
		b = nil
	}
	c.in, c.readN, c.readErr = b, n, err
	return err != syscall.EAGAIN
}

func (c *conn) freeInput() {
	if c.in != nil {
		give(c.in)
		c.in = nil
	}
	c.r, c.w = 0, 0
}

// read implements source for the body: it minds the body's deadline.
func (c *conn) read(p []byte) (int, error) {
	if !c.reads.arm(c.watch, c.cfg.BodyTimeout) {
		return 0, errBodyTimeout()
	}
	n, err := c.nc.Read(p)
	if n > 0 {
		err = nil
	}
	if !c.reads.disarm() {
		return 0, errBodyTimeout()
	}
	if err != nil {
		c.unread.Store(true)
	}
	return n, err
}

func errBodyTimeout() error {
	return fault(BodyTimeout, "the body without long pauses", "the body stalled").status(408)
}

// readHead reads until the request head is complete and returns its length.
func (c *conn) readHead() (int, *Fault) {
	if f := firstBytes(c.in[c.r:c.w]); f != nil {
		return 0, f
	}
	armed := false
	for scanned := 0; ; {
		n, f := headEnd(c.in[c.r:c.w], &scanned)
		if n > c.cfg.HeaderBytes || n == 0 && f == nil && c.w-c.r >= c.cfg.HeaderBytes {
			return 0, headTooLarge(c.in[c.r:c.w], c.cfg)
		}
		if n > 0 || f != nil {
			if armed && !c.reads.disarm() {
				return 0, headTimeout(c.w-c.r, c.cfg)
			}
			return n, f
		}
		if !armed {
			if armed = c.reads.arm(c.watch, c.cfg.HeaderTimeout); !armed {
				return 0, headTimeout(c.w-c.r, c.cfg)
			}
		}
		if c.w == len(c.in) {
			c.growInput()
		}
		m, err := c.nc.Read(c.in[c.w:])
		c.w += m
		if c.reads.expired() {
			return 0, headTimeout(c.w-c.r, c.cfg)
		}
		if m == 0 && err != nil {
			c.broken = true
			return 0, fault(BodyCutShort, "a whole request", "the client closed within the request head")
		}
	}
}

// firstBytes tells what is no HTTP before a line of it is whole.
func firstBytes(b []byte) *Fault {
	if bytes.HasPrefix(b, []byte(proxyTwo[2:])) { // what stood before it was taken for an empty line
		return unwantedProxyHeader()
	}
	if first := b[0]; !is(first, tokenByte) && first != '\r' {
		if first == 0x16 {
			return fault(BadRequestLine, "plain HTTP on this port", "a TLS handshake on a listener without TLS")
		}
		return fault(BadRequestLine, "METHOD target HTTP/1.1", "the first byte is 0x%02X", first)
	}
	return nil
}

// headTimeout is the fault of a head of which n bytes came in time.
func headTimeout(n int, cfg *Config) *Fault {
	f := fault(HeaderTimeout, "the whole head in time", "%d bytes of the request head came within %v", n, cfg.HeaderTimeout)
	f.Status, f.Limit, f.Seen = 408, int64(cfg.HeaderTimeout), int64(n)
	return f
}

// headTooLarge tells the largest part of a head that does not fit.
func headTooLarge(head []byte, cfg *Config) *Fault {
	if i := bytes.IndexByte(head, '\n'); i < 0 || i > cfg.URIBytes+64 {
		return tooLarge(TargetTooLong, 414, int64(cfg.URIBytes), int64(len(head)), "a shorter request target", "a request line of more than %d bytes", len(head))
	}
	name, size := largestField(head)
	return headersTooLarge(cfg.HeaderBytes, len(head), name, size)
}

// headersTooLarge names the largest field, since its sender can do something about that.
func headersTooLarge(most, seen int, name string, size int) *Fault {
	return tooLarge(HeadersTooLarge, 431, int64(most), int64(seen), "smaller header fields", "a request head of more than %d bytes; the largest field is %s with %d bytes", most, excerpt(name, 60), size)
}

// largestField looks behind the first line.
func largestField(head []byte) (name string, size int) {
	rest := head[bytes.IndexByte(head, '\n')+1:]
	for {
		i := bytes.IndexByte(rest, '\n')
		line := rest
		if i >= 0 {
			line = rest[:i]
		}
		if colon := bytes.IndexByte(line, ':'); colon >= 0 && len(line) > size {
			name, size = string(line[:colon]), len(line)
		}
		if i < 0 {
			return name, size
		}
		rest = rest[i+1:]
	}
}

// growInput makes room for more of the head: first by moving it to the front, then in
// a larger buffer.
func (c *conn) growInput() {
	if c.r > 0 {
		c.w = copy(c.in, c.in[c.r:c.w])
		c.r = 0
		return
	}
	n := len(c.in) * 4
	if len(c.in) < largeBuffer {
		n = largeBuffer
	}
	b := take(min(n, max(c.cfg.HeaderBytes+1, largeBuffer)))
	c.w = copy(b, c.in[:c.w])
	give(c.in)
	c.in = b
}

// serveCall reads one request, has it answered and cleans up. It reports whether the
// connection can go on.
func (c *conn) serveCall() bool {
	c.cfg = c.srv.config.Load()
	call := &c.call
	call.Start = time.Now()
	call.BytesOut, call.Begun = 0, false
	c.chunked, c.muted, c.sent100, c.closing = false, false, false, false
	c.unread.Store(false)
	call.Request.reset()
	n, f := c.readHead()
	if f == nil {
		if c.preface(c.in[c.r : c.r+n]) {
			return c.handToHTTP2()
		}
		head := c.in[c.r : c.r+n]
		c.r += n
		f = call.Request.parse(head, &c.cfg.Limits, &c.arena)
	}
	if f != nil {
		if !c.broken { // somebody is there to read an answer
			c.closing = true
			c.beginBody(0)
			c.srv.Handler.Malformed(call, f)
			c.lingerClose()
		}
		return false
	}
	req := &call.Request
	c.closing = !req.KeepAlive || c.tooOld(call.Start) || c.srv.draining.Load()
	c.beginBody(req.Length)
	c.srv.Handler.Serve(call)
	return c.finish()
}

func (c *conn) tooOld(now time.Time) bool {
	return c.maxAge > 0 && now.Sub(c.born) > c.maxAge
}

func (c *conn) beginBody(length int64) {
	how := byLength
	if length < 0 {
		how, length = byChunks, 0
	}
	f := feed{src: c, buf: c.in, base: c.r, r: c.r, w: c.w}
	c.rest.Store(unknownRest)
	if how == byLength {
		c.rest.Store(length)
		// Bytes beyond this body belong to the next request. The body must leave nothing else
		// behind: it reads on into the same buffer, over bytes of its own that were used up.
		f.w = c.r + int(min(int64(c.w-c.r), length))
		if c.r = f.w; c.r == c.w {
			c.r, c.w = 0, 0
		}
	}
	c.body.begin(f, how, length, &c.cfg.Limits)
}

// finish leaves the connection ready for its next request, or reports that it cannot be used again.
func (c *conn) finish() bool {
	if c.hijacked {
		return false
	}
	if !c.call.Begun && !c.broken {
		c.srv.Log.Error("a call was left without an answer", "path", c.call.Request.Path)
		return false
	}
	if c.cancel != nil {
		c.cancel()
		c.ctx, c.cancel = nil, nil
	}
	if c.broken || c.left.Load() {
		return false
	}
	if !c.body.done && !c.drainBody() {
		c.lingerClose()
		return false
	}
	c.takeRest()
	if Poison {
		used := c.in[:c.r]
		if c.r == c.w {
			used = c.in
		}
		for i := range used {
			used[i] = 0xDB
		}
	}
	if c.closing {
		if c.r < c.w || c.call.Request.KeepAlive || !quiet(c.raw) { // the client may be sending on
			c.lingerClose()
		}
		return false
	}
	return true
}

// takeRest moves what was read beyond this call's body to the input for the next call.
func (c *conn) takeRest() {
	b := &c.body
	switch {
	case b.framing == byLength: // settled by beginBody
	case b.own: // the body had a buffer of its own; what is left in it is the next request
		if b.r < b.w {
			give(c.in)
			c.in, c.r, c.w = b.buf, b.r, b.w
			b.own = false
		} else {
			c.r, c.w = 0, 0
		}
	default:
		c.r, c.w = b.r, b.w
	}
	b.release()
}

const (
	maxDrain   = 64 << 10         // of an unwanted body, to keep a connection
	lingerIdle = 2 * time.Second  // how long to wait for more before closing one
	lingerFor  = 30 * time.Second // and how long altogether, for clients that read nothing before all is sent
)

// drainBody reads a small rest of a body that nobody wanted.
func (c *conn) drainBody() bool {
	if c.closing || !c.willDrain() {
		return false
	}
	for n := 0; n <= maxDrain; {
		piece, last, err := c.body.next()
		if err != nil {
			return false
		}
		if n += len(piece); last {
			return true
		}
	}
	return false
}

// lingerClose closes the sending side and reads on for a moment, since a closed socket with
// unread bytes resets the connection and may take the answer with it.
func (c *conn) lingerClose() {
	if c.broken {
		return
	}
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	b := take(smallBuffer)
	defer func() { give(b) }()
	for end := time.Now().Add(lingerFor); ; {
		next := time.Now().Add(lingerIdle)
		if next.After(end) {
			next = end
		}
		c.sock.SetReadDeadline(next) // stop may have set one
		n, err := c.sock.Read(b)
		if err != nil {
			return
		}
		if n == smallBuffer { // a long body is on its way
			give(b)
			b = take(largeBuffer)
		}
	}
}

func (c *conn) close() {
	if c.hijacked { // by who unwatches it
		return
	}
	c.unwatch()
	c.nc.Close()
	c.body.release()
	c.freeInput()
	c.freeOutput()
	c.srv.forget(c)
}

// expireRead and expireWrite are called by the Watch when a deadline has come.
func (c *conn) expireRead()  { c.sock.SetReadDeadline(longAgo) }
func (c *conn) expireWrite() { c.sock.SetWriteDeadline(longAgo) }

var longAgo = time.Unix(1, 0)

// probe is called by the Watch while the call waits for somebody else.
func (c *conn) probe(now int64) {
	switch askSocket(c.raw) {
	case socketOpen:
		return
	case socketHalfClosed:
		if c.halfClosed == 0 {
			c.halfClosed = now
		}
		if now-c.halfClosed < int64(c.srv.config.Load().HalfClosedTimeout) {
			return
		}
	}
	c.left.Store(true)
	if b := c.peer.Load(); b != nil && c.peer.CompareAndSwap(b, nil) {
		b.i.Interrupt()
	}
}

// --- engine ---

func (c *conn) next() ([]byte, bool, error) {
	piece, last, err := c.body.next()
	switch {
	case err != nil:
		c.unread.Store(true)
	case last:
		c.rest.Store(0)
	case c.body.framing == byLength:
		c.rest.Store(c.body.left)
	}
	return piece, last, err
}

func (c *conn) goOn() error {
	if !c.call.Request.Expect100 || c.sent100 || c.body.done {
		return nil
	}
	c.sent100 = true
	if c.body.r < c.body.w {
		return nil // it sent the body anyway
	}
	return c.send([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
}

func (c *conn) whole() bool {
	b := &c.body
	return b.done || b.framing == byLength && int64(b.w-b.r) >= b.left
}

// stop ends a read of the body that another goroutine waits in.
func (c *conn) stop() {
	c.unread.Store(true)
	c.sock.SetReadDeadline(longAgo)
}

func (c *conn) trailer() Fields { return c.body.Trailer }

func (c *conn) inform(status int, fields Fields) error {
	if c.call.Request.Proto < 11 {
		return nil
	}
	b := appendStatus(make([]byte, 0, 256), status, "")
	b = appendFields(b, fields)
	b = append(b, "\r\n"...)
	return c.send(b)
}

func (c *conn) respond(h *Head) error {
	if c.out == nil {
		c.out = take(smallBuffer)[:0]
	}
	req := &c.call.Request
	c.closing = c.closing || h.Close || c.srv.draining.Load() || c.rest.Load() != 0 && !c.willDrain()
	b := appendStatus(c.out, h.Status, h.Phrase)
	b = appendFields(b, h.Fields)
	c.chunked = false
	c.muted = req.Method == "HEAD" || h.Status == 304 || h.Status == 204 || h.Status < 200
	switch {
	case h.Status == 204 || h.Status < 200:
	case h.Length >= 0:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, h.Length, 10)
		b = append(b, "\r\n"...)
	case c.muted:
	case req.Proto >= 11:
		c.chunked = true
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	default:
		c.closing = true
	}
	switch {
	case h.Status == 101:
		b = append(b, "Connection: Upgrade\r\n"...)
	case c.closing:
		b = append(b, "Connection: close\r\n"...)
	case req.Proto == 10:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	c.out = append(b, "\r\n"...)
	return nil
}

// willDrain says whether finish will read the rest of the body to keep the connection. It may be
// asked while another goroutine is reading.
func (c *conn) willDrain() bool {
	return !c.unread.Load() && !(c.call.Request.Expect100 && !c.sent100) && c.rest.Load() <= maxDrain
}

func (c *conn) write(p []byte) error {
	if len(p) == 0 || c.muted {
		return nil
	}
	if c.chunked {
		c.out = strconv.AppendInt(c.out, int64(len(p)), 16)
		c.out = append(c.out, "\r\n"...)
	}
	// What fits goes into the buffer; TLS wants few large records, so there all of it does.
	if room := cap(c.out) - len(c.out); len(p)+2 <= room || c.secure && len(p) < largeBuffer {
		c.out = append(c.out, p...)
		if c.chunked {
			c.out = append(c.out, "\r\n"...)
		}
		if c.secure && len(c.out) >= largeBuffer/2 {
			return c.flush()
		}
		return nil
	}
	c.vec = [3][]byte{c.out, p, nil}
	n := 2
	if c.chunked {
		c.vec[2] = crlf
		n = 3
	}
	c.bufs = c.vec[:n]
	err := c.sendVec()
	c.out = c.out[:0]
	return err
}

var crlf = []byte("\r\n")

func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	err := c.send(c.out)
	c.out = c.out[:0]
	return err
}

func (c *conn) end(trailer Fields) error {
	if c.chunked && !c.muted {
		c.out = append(c.out, "0\r\n"...)
		c.out = appendFields(c.out, trailer)
		c.out = append(c.out, "\r\n"...)
	}
	err := c.flush()
	c.freeOutput()
	return err
}

func (c *conn) freeOutput() {
	if c.out != nil {
		give(c.out[:0])
		c.out = nil
	}
}

// send writes all of b before the deadline for writing.
func (c *conn) send(b []byte) error {
	if !c.writes.arm(c.watch, c.cfg.WriteTimeout) {
		return c.writeFailed(errWriteTimeout)
	}
	_, err := c.nc.Write(b)
	return c.sent(err)
}

func (c *conn) sendVec() error {
	if !c.writes.arm(c.watch, c.cfg.WriteTimeout) {
		return c.writeFailed(errWriteTimeout)
	}
	var w io.Writer = c.nc
	if c.tcp != nil && !c.secure {
		w = c.tcp.TCPConn // which writes all of it with one system call
	}
	_, err := c.bufs.WriteTo(w)
	c.vec = [3][]byte{}
	return c.sent(err)
}

func (c *conn) sent(err error) error {
	if !c.writes.disarm() && err == nil {
		err = errWriteTimeout
	}
	if err != nil {
		return c.writeFailed(err)
	}
	return nil
}

var errWriteTimeout = errors.New("the client took nothing of the answer in time")

func (c *conn) writeFailed(err error) error {
	c.broken = true
	c.left.Store(true)
	return err
}

func (c *conn) abort() {
	c.call.Begun = true
	c.broken = true
	if t, ok := c.sock.(interface{ SetLinger(int) error }); ok {
		t.SetLinger(0) // a reset, so that a body delimited by close is not taken for whole
	}
	c.sock.Close()
}

func (c *conn) bind(i Interrupter) {
	if c.left.Load() { // the Watch may still be reading the cell
		i.Interrupt()
		return
	}
	c.bondCell.i = i
	c.peer.Store(&c.bondCell)
	c.waiting.Store(c.watch.clock.Load())
	if c.left.Load() && c.peer.CompareAndSwap(&c.bondCell, nil) {
		i.Interrupt()
	}
}

func (c *conn) unbind() bool {
	c.waiting.Store(0)
	return c.peer.Swap(nil) == nil
}

func (c *conn) gone() bool { return c.left.Load() }

func (c *conn) context() context.Context {
	if c.ctx == nil {
		c.ctx, c.cancel = context.WithCancel(context.Background())
	}
	return c.ctx
}

func (c *conn) tunnel() (net.Conn, []byte, error) {
	if err := c.flush(); err != nil {
		return nil, nil, err
	}
	c.freeOutput()
	c.hijacked = true
	c.reads.disarm()
	c.unwatch()
	return &tunnelConn{Conn: c.nc, c: c}, c.in[c.r:c.w], nil
}

// tunnelConn counts the connection out of the server when the tunnel ends.
type tunnelConn struct {
	net.Conn
	c    *conn
	once atomic.Bool
}

func (t *tunnelConn) Close() error {
	err := t.Conn.Close()
	if t.once.CompareAndSwap(false, true) {
		t.c.srv.forget(t.c)
	}
	return err
}

func (t *tunnelConn) CloseWrite() error {
	if half, ok := t.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return t.Conn.Close()
}

// --- HTTP/2 and TLS ---

func (c *conn) preface(head []byte) bool {
	return c.listener.HTTP2 && !c.secure && len(head) == 18 && string(head) == Preface[:18]
}

// handToHTTP2 gives a connection that begins with the HTTP/2 preface to net/http.
func (c *conn) handToHTTP2() bool {
	pre := append([]byte(nil), c.in[c.r:c.w]...)
	c.freeInput()
	c.nc = &prefixConn{Conn: c.nc, pre: pre}
	c.handOver(true)
	return false
}

// prefixConn gives back bytes that had been read already.
type prefixConn struct {
	net.Conn
	pre []byte
}

func (p *prefixConn) CloseWrite() error {
	if half, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

func (p *prefixConn) Read(b []byte) (int, error) {
	if len(p.pre) > 0 {
		n := copy(b, p.pre)
		if p.pre = p.pre[n:]; len(p.pre) == 0 {
			p.pre = nil
		}
		return n, nil
	}
	return p.Conn.Read(b)
}
