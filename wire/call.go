package wire

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"time"
)

// Call is one request and its answer in the making, whichever engine carries it. It
// belongs to the goroutine that Handler.Serve runs in.
type Call struct {
	Request  Request
	Listener *Listener
	Start    time.Time      // when the first byte of the request was read
	Peer     netip.AddrPort // of the socket
	// Announced is the client's address by a PROXY protocol header of a trusted peer.
	Announced netip.AddrPort
	TLS       *tls.ConnectionState // nil without TLS

	// BytesOut counts content of the answer, without framing.
	BytesOut int64
	// Begun says that bytes of the final answer may have left for the client.
	Begun bool

	engine engine
}

// Head is the head of a final answer. Its fields hold neither framing nor hop-by-hop
// fields; the engine writes those.
type Head struct {
	Status int
	Phrase string // of the upstream; empty for the usual one
	Fields Fields
	// Length of the content, -1 when only its end will tell. Answers to HEAD and 304
	// carry it as a promise and have no content.
	Length int64
	// Close ends the connection after this answer.
	Close bool
}

// engine is what HTTP/1.1 and HTTP/2 do differently.
type engine interface {
	next() (piece []byte, last bool, err error)
	whole() bool
	goOn() error
	stop()
	trailer() Fields
	inform(status int, fields Fields) error
	respond(h *Head) error
	write(p []byte) error
	flush() error
	end(trailer Fields) error
	abort()
	bind(Interrupter)
	unbind() bool
	gone() bool
	context() context.Context
	tunnel() (net.Conn, []byte, error)
}

// Interrupter is what a call waits for, and can be told to give up.
type Interrupter interface{ Interrupt() }

// Next returns the next piece of the request's content and whether it was the last. A
// piece holds until the following call.
func (c *Call) Next() (piece []byte, last bool, err error) { return c.engine.next() }

// Continue lets a client that asked with Expect: 100-continue send its body. It comes before the
// first Next.
func (c *Call) Continue() error { return c.engine.goOn() }

// Whole says that the rest of the request's content has arrived, so that Next will return it
// as one last piece without waiting.
func (c *Call) Whole() bool { return c.engine.whole() }

// StopReading ends a Next that another goroutine waits in. The connection cannot be used for
// further requests then.
func (c *Call) StopReading() { c.engine.stop() }

// Trailer are the fields after the request's content, once that was read to its end.
func (c *Call) Trailer() Fields { return c.engine.trailer() }

// Inform sends an informational answer (1xx). Engines and clients that know none skip it.
func (c *Call) Inform(status int, fields Fields) error { return c.engine.inform(status, fields) }

// Respond begins the final answer. Nothing need leave before Flush or End.
func (c *Call) Respond(h *Head) error {
	if c.Begun {
		panic("BUG: a call is answered twice")
	}
	c.Begun = true
	return c.engine.respond(h)
}

// Write adds content to the answer.
func (c *Call) Write(p []byte) error {
	c.BytesOut += int64(len(p))
	return c.engine.write(p)
}

// Flush sends what has been written so far.
func (c *Call) Flush() error { return c.engine.flush() }

// End finishes the answer and sends what is left of it.
func (c *Call) End(trailer Fields) error { return c.engine.end(trailer) }

// Abort breaks the connection or stream, so that the client knows that the answer is
// not complete.
func (c *Call) Abort() { c.engine.abort() }

// Bind names what the call is about to wait for; it is interrupted when the client goes
// away. Unbind takes that back and reports whether it was interrupted.
func (c *Call) Bind(i Interrupter) { c.engine.bind(i) }

// Unbind ends Bind.
func (c *Call) Unbind() (interrupted bool) { return c.engine.unbind() }

// Gone says that the client is known to have left.
func (c *Call) Gone() bool { return c.engine.gone() }

// Context ends when the client leaves. It is for waits that cannot be bound otherwise.
func (c *Call) Context() context.Context { return c.engine.context() }

// Tunnel hands over the client's connection after a 101 answer, with the bytes that had
// already been read from it. The caller closes it.
func (c *Call) Tunnel() (net.Conn, []byte, error) { return c.engine.tunnel() }

// Handler serves calls.
type Handler interface {
	// Serve answers one call. What it leaves unread of the request is the engine's business.
	Serve(*Call)
	// Malformed answers a request that broke a rule of the grammar. The parts of
	// Call.Request that were read before the fault are filled in.
	Malformed(*Call, *Fault)
}
