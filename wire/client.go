package wire

import (
	"errors"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// Conn is a connection to an upstream, used by one call at a time and by the goroutine
// that serves it. Between calls it may lie in a pool.
//
//	Begin, Send [Write … EndBody], ReadHead (again after 1xx), Next …, Release or Close
//
// Long content may be written by one goroutine while another reads the answer.
type Conn struct {
	watched
	Response Response
	// Born is when the connection was opened, Idle when its last call ended.
	Born, Idle time.Time
	// Calls is how many calls it has carried.
	Calls int

	nc   net.Conn // the socket, or the TLS connection on top of it
	sock *sock    // nc, where that is plain TCP
	ask  asker
	lim  *Limits
	in   []byte
	r, w int
	body body
	out  []byte
	vec  [3][]byte
	bufs net.Buffers

	timeout     time.Duration // of the next read of content
	sendTimeout time.Duration // of the next write
	interrupted atomic.Bool
	answered    atomic.Bool // the head of the final answer has been read
	received    bool
	chunked     bool // the request's content is sent in chunks
	surplus     bool // bytes came behind the answer
	broken      atomic.Bool
}

// Causes why a connection failed that are not the network's own errors.
var (
	ErrTimeout     = errors.New("no answer in time")
	ErrInterrupted = errors.New("the client left")
	// ErrNotQuiet comes before anything was sent: the connection was closed, or had something to say
	// that nobody asked for and that would have been taken for the answer to this call.
	ErrNotQuiet = errors.New("the connection was not quiet between two calls")
)

// NewConn wraps an open connection to an upstream.
func NewConn(nc net.Conn, w *Watch, lim *Limits) *Conn {
	c := &Conn{nc: nc, lim: lim, Born: time.Now()}
	sock := nc
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok { // TLS
		sock = t.NetConn()
	}
	if sc, ok := sock.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			c.ask.bind(raw)
		}
	}
	if s := newSock(nc); s != nil {
		c.sock, c.nc = s, s
	}
	w.add(&c.watched, c)
	return c
}

// Received says that at least one byte of an answer has come.
func (c *Conn) Received() bool { return c.received }

// Head is the last head that was read.
func (c *Conn) Head() *Response { return &c.Response }

// Addr is the address of the upstream.
func (c *Conn) Addr() net.Addr { return c.nc.RemoteAddr() }

// Begin readies the connection for a call.
func (c *Conn) Begin() {
	c.received, c.chunked = false, false
	c.answered.Store(false)
	c.Calls++
}

// expireRead and expireWrite are called by the Watch.
func (c *Conn) expireRead()  { c.nc.SetReadDeadline(longAgo) }
func (c *Conn) expireWrite() { c.nc.SetWriteDeadline(longAgo) }

func (c *Conn) probe(int64) {}

// Interrupt makes a wait of the call end with ErrInterrupted. It may be called from
// any goroutine while the call is bound to it.
func (c *Conn) Interrupt() {
	c.interrupted.Store(true)
	c.nc.SetDeadline(longAgo)
}

// Outgoing is a request on its way to an upstream.
type Outgoing struct {
	Method   string
	Path     string // and query
	Query    string
	HasQuery bool
	Host     string
	Fields   Fields // without framing and hop-by-hop fields
	// Length of the content: 0 none, -1 in chunks.
	Length int64
	// Upgrade is the protocol asked for, "" for none.
	Upgrade string
	// Trailers says that the sender understands trailers (TE: trailers).
	Trailers bool
}

// bodyless methods do not announce an empty body.
func bodyless(method string) bool {
	switch method {
	case "GET", "HEAD", "DELETE", "OPTIONS", "TRACE":
		return true
	}
	return false
}

func (o *Outgoing) append(b []byte) []byte {
	b = append(b, o.Method...)
	b = append(b, ' ')
	b = append(b, o.Path...)
	if o.HasQuery {
		b = append(b, '?')
		b = append(b, o.Query...)
	}
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, o.Host...)
	b = append(b, "\r\n"...)
	b = appendFields(b, o.Fields)
	switch {
	case o.Length > 0 || o.Length == 0 && !bodyless(o.Method):
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, o.Length, 10)
		b = append(b, "\r\n"...)
	case o.Length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	if o.Upgrade != "" {
		b = append(b, "Connection: Upgrade\r\nUpgrade: "...)
		b = append(b, o.Upgrade...)
		b = append(b, "\r\n"...)
	} else if o.Trailers {
		b = append(b, "TE: trailers\r\nConnection: TE\r\n"...)
	}
	return append(b, "\r\n"...)
}

// Send writes the head of a request, and content with it when that is at hand. timeout
// bounds each wait for the upstream to take something.
func (c *Conn) Send(o *Outgoing, content []byte, timeout time.Duration) error {
	if c.Calls > 1 && !c.ask.quiet() {
		return c.failed(ErrNotQuiet)
	}
	c.sendTimeout = timeout
	c.chunked = o.Length < 0
	c.writeHead(o)
	if len(content) > 0 {
		if c.chunked {
			return c.Write(content)
		}
		if len(content) <= cap(c.out)-len(c.out) {
			c.out = append(c.out, content...)
		} else {
			return c.Write(content)
		}
	}
	return c.flush()
}

// writeHead puts the head of a request into the buffer.
func (c *Conn) writeHead(o *Outgoing) {
	if c.out == nil {
		c.out = take(smallBuffer)
	}
	c.out = o.append(c.out[:0])
}

// Exchange is Send of a whole request and ReadHead of its answer, for less. sent tells whether
// all of the request went out.
func (c *Conn) Exchange(o *Outgoing, content []byte, sendTimeout, timeout time.Duration) (sent bool, err error) {
	if c.sock == nil || o.Length < 0 || len(content) > exchangeRoom {
		if err := c.Send(o, content, sendTimeout); err != nil {
			return false, err
		}
		return true, c.ReadHead(o.Method, timeout)
	}
	c.sendTimeout = sendTimeout
	c.writeHead(o)
	c.out = append(c.out, content...)
	if !c.reads.arm(c.watch, timeout) {
		return false, c.failed(ErrTimeout)
	}
	c.takeInput()
	n, rest, err := c.sock.exchange(c.out, c.in, c.Calls == 1)
	c.w, c.received = n, n > 0
	if err != nil {
		return len(rest) == 0, c.failed(err)
	}
	if len(rest) > 0 { // the upstream takes no more for now
		c.out = c.out[:copy(c.out, rest)]
		if err := c.flush(); err != nil {
			return false, err
		}
		c.reads.arm(c.watch, timeout)
	}
	c.out = c.out[:0]
	return true, c.readHead(o.Method, true)
}

// exchangeRoom is how much content Exchange sends in one piece with the head.
const exchangeRoom = smallBuffer / 2

// Write sends a piece of the request's content.
func (c *Conn) Write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	n := 2
	c.vec = [3][]byte{c.out, p, crlf}
	if c.chunked {
		c.out = strconv.AppendInt(c.out, int64(len(p)), 16)
		c.out = append(c.out, "\r\n"...)
		c.vec[0] = c.out
		n = 3
	}
	if c.sock == nil { // one TLS record rather than three
		for _, v := range c.vec[1:n] {
			c.out = append(c.out, v...)
		}
		return c.flush()
	}
	c.bufs = c.vec[:n]
	if !c.writes.arm(c.watch, c.sendTimeout) {
		return c.failed(ErrTimeout)
	}
	_, err := c.bufs.WriteTo(c.sock.TCPConn)
	c.vec = [3][]byte{}
	c.out = c.out[:0]
	c.writes.disarm()
	return c.failed(err)
}

// EndBody finishes content that was sent in chunks.
func (c *Conn) EndBody(trailer Fields) error {
	if !c.chunked {
		return nil
	}
	c.out = append(c.out, "0\r\n"...)
	c.out = appendFields(c.out, trailer)
	c.out = append(c.out, "\r\n"...)
	return c.flush()
}

func (c *Conn) flush() error {
	if !c.writes.arm(c.watch, c.sendTimeout) {
		return c.failed(ErrTimeout)
	}
	_, err := c.nc.Write(c.out)
	c.out = c.out[:0]
	c.writes.disarm()
	return c.failed(err)
}

// failed names the cause behind an error of the connection.
func (c *Conn) failed(err error) error {
	if err == nil {
		return nil
	}
	c.broken.Store(true)
	switch {
	case c.interrupted.Load():
		return ErrInterrupted
	case c.reads.expired() || c.writes.expired() || isTimeout(err):
		return ErrTimeout
	}
	return err
}

// Await bounds the wait for the head of the answer from here on. The goroutine that sends
// long content calls it at the end, while another one is in ReadHead already, or past it.
func (c *Conn) Await(timeout time.Duration) {
	if !c.answered.Load() {
		c.reads.arm(c.watch, timeout)
	}
}

// ReadHead reads the next head of an answer into Response. The deadline is for the whole
// head; with 0 it is the one that Await sets. A Fault is an answer that is no HTTP.
func (c *Conn) ReadHead(method string, timeout time.Duration) error {
	if timeout > 0 && !c.reads.arm(c.watch, timeout) {
		return c.failed(ErrTimeout)
	}
	c.takeInput()
	return c.readHead(method, timeout > 0)
}

func (c *Conn) takeInput() {
	if c.in == nil {
		c.in = take(smallBuffer)
		c.r, c.w = 0, 0
	}
}

// readHead is ReadHead behind its deadline; armed says that there is one.
func (c *Conn) readHead(method string, armed bool) error {
	for scanned := 0; ; {
		if c.r < c.w {
			n, f := 0, notHTTP(c.in[c.r:c.w])
			if f == nil {
				n, f = headEnd(c.in[c.r:c.w], &scanned)
			}
			if f == nil && n > 0 && n <= c.lim.HeaderBytes {
				f = c.Response.parse(c.in[c.r:c.r+n], method, c.lim)
			}
			if f != nil {
				c.broken.Store(true)
				return f
			}
			if n > 0 && n <= c.lim.HeaderBytes {
				c.r += n
				c.beginBody()
				final := c.Response.Status >= 200 || c.Response.Status == 101
				c.answered.Store(final)
				// While the answer waits for a slow client, the upstream is not late.
				if (armed || final) && !c.reads.disarm() {
					return c.failed(ErrTimeout)
				}
				return nil
			}
			if c.w-c.r >= c.lim.HeaderBytes {
				c.broken.Store(true)
				name, size := largestField(c.in[c.r:c.w])
				return tooLarge(HeadersTooLarge, 502, int64(c.lim.HeaderBytes), int64(c.w-c.r), "a smaller answer head", "an answer head of more than %d bytes; the largest field is %s with %d bytes", c.lim.HeaderBytes, excerpt(name, 60), size)
			}
			if c.w == len(c.in) {
				c.growInput()
			}
		} else {
			c.r, c.w = 0, 0
		}
		n, err := c.nc.Read(c.in[c.w:])
		c.w += n
		if n > 0 {
			c.received = true
			continue
		}
		if err == nil {
			continue
		}
		if err == io.EOF && c.w > c.r {
			err = io.ErrUnexpectedEOF
		}
		return c.failed(err)
	}
}

func (c *Conn) growInput() {
	if c.r > 0 {
		c.w = copy(c.in, c.in[c.r:c.w])
		c.r = 0
		return
	}
	b := take(max(len(c.in)*4, largeBuffer))
	c.w = copy(b, c.in[:c.w])
	give(c.in)
	c.in = b
}

func (c *Conn) beginBody() {
	f := feed{src: c, buf: c.in, base: c.r, r: c.r, w: c.w}
	how, length := c.Response.framing, c.Response.Length
	c.surplus = false
	if how == byLength {
		f.w = c.r + int(min(int64(c.w-c.r), length))
		c.surplus = f.w < c.w
	}
	c.body.begin(f, how, length, c.lim)
}

// read implements source for the body.
func (c *Conn) read(p []byte) (int, error) {
	if !c.reads.arm(c.watch, c.timeout) {
		return 0, ErrTimeout
	}
	n, err := c.nc.Read(p)
	if n > 0 {
		if !c.reads.disarm() { // not to fire while a slow client is written to
			return 0, c.failed(ErrTimeout)
		}
		return n, nil
	}
	if err == io.EOF {
		return 0, err
	}
	return 0, c.failed(err)
}

// SetTimeout bounds each pause within the content from here on.
func (c *Conn) SetTimeout(d time.Duration) { c.timeout = d }

// Next returns the next piece of the answer's content and whether it was the last. A
// piece holds until the following call.
func (c *Conn) Next() (piece []byte, last bool, err error) {
	piece, last, err = c.body.next()
	if err != nil {
		c.broken.Store(true)
	}
	return piece, last, err
}

// Buffered says that Next will not have to wait.
func (c *Conn) Buffered() bool { return c.body.ready() }

// Trailer are the fields after the content, once that was read to its end.
func (c *Conn) Trailer() Fields { return c.body.Trailer }

// Reusable says that the call has left the connection ready for another one.
func (c *Conn) Reusable() bool {
	if c.broken.Load() || !c.body.done || !c.Response.keepAlive || c.Response.Status < 200 || c.interrupted.Load() {
		return false
	}
	if !c.reads.disarm() || c.writes.expired() { // the Watch may be about to spoil its deadlines
		return false
	}
	return !c.surplus && c.body.r == c.body.w // nothing may follow: nobody asked for it
}

// Release frees the memory of the call that has ended. The connection stays open.
func (c *Conn) Release() {
	c.body.release()
	if c.in != nil {
		give(c.in)
		c.in = nil
	}
	if c.out != nil {
		give(c.out[:0])
		c.out = nil
	}
	c.r, c.w = 0, 0
	clear(c.Response.Fields) // they point into the buffer
	c.Response = Response{Fields: c.Response.Fields[:0]}
	c.Idle = time.Now()
}

// Quiet says that an idle connection is still open and has nothing to say, which it
// must not have. It costs a system call.
func (c *Conn) Quiet() bool { return c.ask.quiet() }

// Close ends the connection.
func (c *Conn) Close() {
	c.unwatch()
	c.nc.Close()
	c.Release()
}

// Tunnel hands over the connection after a 101 answer, with what had been read of it.
func (c *Conn) Tunnel() (net.Conn, []byte) {
	c.reads.disarm()
	c.unwatch()
	pre := append([]byte(nil), c.in[c.r:c.w]...)
	c.nc.SetDeadline(time.Time{})
	if c.sock != nil {
		return c.sock.TCPConn, pre
	}
	return c.nc, pre
}
