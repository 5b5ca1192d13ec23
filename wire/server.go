package wire

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"
)

// Listener is one address that a Server serves. It does not change while it does; TLS is asked
// anew for each connection.
type Listener struct {
	Name    string
	Address string // as written, for records
	// TLS chooses the configuration for a connection; nil for plain HTTP.
	TLS func(*tls.ClientHelloInfo) (*tls.Config, error)
	// HTTP2 accepts it: by ALPN with TLS, by prior knowledge without.
	HTTP2 bool
	// Std sends HTTP/1.1 through net/http.
	Std bool
	// ProxyProtocol expects a PROXY header from peers that Server.Trusted accepts.
	ProxyProtocol bool

	tickets ticketKeys
}

// Server accepts connections and has their calls served. The zero value with a Handler,
// a Watch and a Log is ready once SetConfig was called.
type Server struct {
	Handler Handler
	Watch   *Watch
	Log     *slog.Logger
	// Trusted tells which peers may announce a client by the PROXY protocol.
	Trusted func(netip.Addr) bool

	config   atomic.Pointer[Config]
	draining atomic.Bool
	linger   time.Duration // an idle connection stays open so long while draining
	once     sync.Once

	mu      sync.Mutex // guards what follows
	conns   map[*conn]struct{}
	perAddr map[netip.Addr]int
	active  int
	std     map[stdForm]*stdServer

	refusing atomic.Int64 // connections beyond a bound that are being told so

	// Counts since the start, for metrics.
	Accepted, TurnedAway, HandshakesFailed, RapidResets, Panics atomic.Int64

	turnedAwayTold, handshakesTold, resetsTold rarely
}

// maxRefusing bounds how many connections beyond a bound are told so at once: telling takes time, and
// a flood must not be held up by it. The others are closed.
const maxRefusing = 32

// SetConfig replaces the configuration; connections take it with their next call.
func (s *Server) SetConfig(c Config) { s.config.Store(&c) }

// Conns is the number of open client connections.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active
}

func (s *Server) prepare() {
	s.once.Do(func() {
		s.mu.Lock()
		s.conns, s.perAddr, s.std = map[*conn]struct{}{}, map[netip.Addr]int{}, map[stdForm]*stdServer{}
		s.mu.Unlock()
		if s.linger == 0 {
			s.linger = time.Second
		}
	})
}

// Serve accepts connections of ln until that is closed or Stop has come.
func (s *Server) Serve(ln net.Listener, l *Listener) error {
	s.prepare()
	pause := time.Duration(0)
	for {
		nc, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || isTimeout(err) {
				acceptQueued(ln, func(nc net.Conn) {
					s.Accepted.Add(1)
					s.start(nc, l)
				})
				return nil
			}
			// Out of descriptors, or the peer was faster: wait, do not spin.
			if pause = min(max(2*pause, 5*time.Millisecond), time.Second); pause >= 40*time.Millisecond {
				s.Log.Warn("accepting connections fails; trying again", "listener", l.Name, "error", err, "pause", pause)
			}
			time.Sleep(pause)
			continue
		}
		pause = 0
		s.Accepted.Add(1)
		s.start(nc, l)
	}
}

// Stop has Serve accept what waits in the queue of ln, and then end. Who closes ln before resets those connections, which their
// clients take for open and may have sent a request on.
func Stop(ln net.Listener) {
	if d, ok := ln.(interface{ SetDeadline(time.Time) error }); !ok || d.SetDeadline(longAgo) != nil {
		ln.Close()
	}
}

func (s *Server) start(nc net.Conn, l *Listener) {
	cfg := s.config.Load()
	c := &conn{srv: s, listener: l, cfg: cfg, nc: nc, sock: nc, born: time.Now()}
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		c.call.Peer = netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), uint16(a.Port))
	}
	if c.tcp = newSock(nc); c.tcp != nil {
		c.nc, c.sock, c.raw = c.tcp, c.tcp, c.tcp.raw
	} else if sc, ok := nc.(syscall.Conn); ok {
		c.raw, _ = sc.SyscallConn()
	}
	c.readIdle = c.readWhenReady
	c.call.Listener, c.call.engine = l, c
	if cfg.MaxAge > 0 {
		c.maxAge = cfg.MaxAge - cfg.MaxAge/10 + time.Duration(rand.Int64N(int64(cfg.MaxAge)/5+1))
	}
	over := s.remember(c)
	s.Watch.add(&c.watched, c)
	go c.run(over)
}

// CountedAddr is what an address counts as in limits: whoever has one IPv6 address has 2^64 of them (RFC 6177).
func CountedAddr(a netip.Addr) netip.Addr {
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// remember counts a connection in and says which bound it breaks.
func (s *Server) remember(c *conn) *Fault {
	addr := c.call.Peer.Addr()
	counted := CountedAddr(addr)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
	s.active++
	s.perAddr[counted]++
	if max := c.cfg.MaxConns; max > 0 && s.active > max {
		return tooLarge(TooManyConns, 503, int64(max), int64(s.active), "fewer connections at once", "this node holds %d connections already", max)
	}
	if max := c.cfg.MaxConnsPerAddr; max > 0 && s.perAddr[counted] > max && !s.trusted(addr) {
		return tooLarge(TooManyFromAddr, 503, int64(max), int64(s.perAddr[counted]), "fewer connections at once", "%s holds %d connections already", holder(addr), max)
	}
	return nil
}

// holder is who holds the connections of an address.
func holder(a netip.Addr) string {
	if counted := CountedAddr(a); counted != a {
		return counted.String() + "/64"
	}
	return a.String()
}

func (s *Server) trusted(a netip.Addr) bool { return s.Trusted != nil && s.Trusted(a) }

func (s *Server) forget(c *conn) {
	addr := CountedAddr(c.call.Peer.Addr())
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.conns[c]; !ok {
		return
	}
	delete(s.conns, c)
	s.active--
	if c.std != nil {
		c.std.conns--
	}
	if s.perAddr[addr]--; s.perAddr[addr] == 0 {
		delete(s.perAddr, addr)
	}
}

// run takes a new connection through PROXY header and handshake to its engine.
func (c *conn) run(over *Fault) {
	s := c.srv
	defer func() {
		if p := recover(); p != nil { // a panic of a handler never gets here: this is our own
			s.Panics.Add(1)
			s.Log.Error("a connection panicked and was closed", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
		c.close()
	}()
	if over != nil {
		s.TurnedAway.Add(1)
		s.turnedAwayTold.warn(s.Log, "connections above a limit are turned away", "listener", c.listener.Name, "peer", c.call.Peer, "rule", over.Rule, "limit", over.Limit)
		if s.refusing.Add(1) <= maxRefusing && c.listener.TLS == nil {
			c.hear()
			c.refuse(over)
		}
		s.refusing.Add(-1)
		return
	}
	if c.listener.ProxyProtocol && s.trusted(c.call.Peer.Addr()) {
		if f := c.readProxyHeader(); f != nil {
			c.refuse(f)
			return
		}
	}
	if c.listener.TLS != nil && !c.handshake() {
		return
	}
	switch {
	case c.call.TLS != nil && c.call.TLS.NegotiatedProtocol == "h2":
		c.handOver(true)
	case c.listener.Std:
		if http2, ok := c.sniff(); ok {
			c.handOver(http2)
		}
	default:
		c.serve()
	}
}

// hearFor bounds the wait for a request that is refused whatever it says.
const hearFor = time.Second

// hear reads the head of a request that will be refused: clients take an answer that comes before they
// have asked for a fault, and not for an answer.
func (c *conn) hear() {
	cfg := *c.cfg
	cfg.HeaderTimeout = min(cfg.HeaderTimeout, hearFor)
	c.cfg = &cfg
	if !c.awaitRequest(true) {
		return
	}
	if n, f := c.readHead(); f == nil {
		head := c.in[c.r : c.r+n]
		c.r += n
		c.call.Request.parse(head, &c.cfg.Limits, &c.arena)
	}
}

// refuse answers before any request was read.
func (c *conn) refuse(f *Fault) {
	c.closing = true
	c.beginBody(0)
	c.call.Start = time.Now()
	c.srv.Handler.Malformed(&c.call, f)
	c.lingerClose()
}

// readProxyHeader reads the PROXY protocol header that a trusted peer sends first.
func (c *conn) readProxyHeader() *Fault {
	c.sock.SetDeadline(time.Now().Add(c.cfg.HandshakeTimeout))
	defer c.sock.SetDeadline(time.Time{})
	br := bufio.NewReaderSize(c.nc, 1024)
	h, err := readProxyHeader(br)
	if isTimeout(err) {
		return fault(BadProxyHeader, "a PROXY protocol header in time", "no whole one came within %v", c.cfg.HandshakeTimeout).status(408)
	}
	if err != nil {
		return fault(BadProxyHeader, "a PROXY protocol header, version 1 or 2", "from trusted peer %v: %v", c.call.Peer, err)
	}
	if src, ok := h.SourceAddr.(*net.TCPAddr); ok && h.Command.IsProxy() {
		c.call.Announced = netip.AddrPortFrom(src.AddrPort().Addr().Unmap(), uint16(src.Port))
	}
	if n := br.Buffered(); n > 0 {
		pre, _ := br.Peek(n)
		if c.listener.TLS != nil || c.listener.Std {
			c.nc = &prefixConn{Conn: c.nc, pre: append([]byte(nil), pre...)}
		} else {
			c.in = take(smallBuffer)
			c.w = copy(c.in, pre)
		}
	}
	return nil
}

// readProxyHeader waits for the whole line of a version 1 header before it has it parsed: the library
// takes one that comes in parts for an attack, but HandshakeTimeout bounds it already.
func readProxyHeader(br *bufio.Reader) (*proxyproto.Header, error) {
	const longest = 107
	for n := 6; n <= longest; n++ {
		b, err := br.Peek(n)
		if err != nil {
			return nil, err
		}
		if string(b[:5]) != "PROXY" || b[n-1] == '\n' {
			break
		}
	}
	return proxyproto.Read(br)
}

func (c *conn) handshake() bool {
	server := ""
	cfg := &tls.Config{NextProtos: []string{"h2", "http/1.1"}, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		server = h.ServerName
		return c.listener.TLS(h)
	}}
	cfg.SetSessionTicketKeys(c.listener.tickets.at(time.Now()))
	t := tls.Server(c.nc, cfg)
	c.sock.SetDeadline(time.Now().Add(c.cfg.HandshakeTimeout))
	err := t.Handshake()
	c.sock.SetDeadline(time.Time{})
	if err != nil {
		c.srv.HandshakesFailed.Add(1)
		var notTLS tls.RecordHeaderError
		if errors.As(err, &notTLS) && notTLS.Conn != nil && looksLikeHTTP(notTLS.RecordHeader) {
			c.refuse(fault(PlainOnTLS, "https:// on this port", "plain HTTP on a TLS listener"))
		} else if err != io.EOF {
			c.srv.handshakesTold.info(c.srv.Log, "TLS handshake failed", "listener", c.listener.Name, "peer", c.call.Peer, "server", server, "error", err)
		}
		return false
	}
	state := t.ConnectionState()
	c.nc, c.secure, c.call.TLS = t, true, &state
	return true
}

func looksLikeHTTP(h [5]byte) bool {
	switch string(h[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH":
		return true
	}
	return false
}

// sniff waits for as much of a connection as tells whether it begins with the preface of HTTP/2, where that
// may be; it is false if nothing came in time.
func (c *conn) sniff() (http2, ok bool) {
	if !c.listener.HTTP2 || c.secure {
		return false, true
	}
	if !c.reads.arm(c.watch, c.cfg.HeaderTimeout) {
		return false, false
	}
	// All that has come is read: net/http closes after a first line that it refuses, and what it left would reset the connection.
	pre := make([]byte, 0, smallBuffer)
	for http2 = true; http2 && len(pre) < len(Preface); {
		n, err := c.nc.Read(pre[len(pre):cap(pre)])
		if pre = pre[:len(pre)+n]; err != nil {
			return false, false
		}
		head := min(len(pre), len(Preface))
		http2 = string(pre[:head]) == Preface[:head]
	}
	c.nc = &prefixConn{Conn: c.nc, pre: pre}
	return http2, c.reads.disarm()
}

// handOver gives the connection to net/http, which closes it.
func (c *conn) handOver(http2 bool) {
	var nc net.Conn
	if http2 { // still watched, until it is closed
		h := newFramedConn(c.nc, c)
		if c.call.TLS != nil && !adequate(c.call.TLS) {
			h.refuse(inadequateSecurity, "HTTP/2 needs another cipher suite than "+tls.CipherSuiteName(c.call.TLS.CipherSuite))
			return
		}
		nc = h
	} else {
		c.unwatch()
		nc = &stdConn{Conn: c.nc, c: c}
	}
	c.hijacked = true
	c.srv.stdFor(c, http2).serve(nc, c)
}

// stdFor is the server of net/http for a connection.
func (s *Server) stdFor(c *conn, http2 bool) *stdServer {
	f := stdForm{http2: http2, streams: c.cfg.MaxStreams, headerBytes: c.cfg.HeaderBytes, header: c.cfg.HeaderTimeout, idle: c.cfg.IdleTimeout, write: c.cfg.WriteTimeout}
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.std[f]
	if d == nil {
		for g, old := range s.std { // of earlier configurations
			if old.conns == 0 {
				old.Close()
				delete(s.std, g)
			}
		}
		d = newStdServer(s, f)
		s.std[f] = d
	}
	d.conns++
	c.std = d
	return d
}

// Drain lets calls in flight end and closes connections: answers carry
// "Connection: close", idle connections get a moment for a request that is already on its way.
// The listeners should have been closed. It returns when no connection is left or ctx ends;
// then it breaks what is left and reports how many there were.
func (s *Server) Drain(ctx context.Context) (broken int) {
	s.prepare()
	s.draining.Store(true)
	var std sync.WaitGroup
	s.mu.Lock()
	for _, d := range s.std {
		std.Go(func() { d.drain(ctx) })
	}
	soon := s.Watch.clock.Load() + int64(s.linger+tick)
	for c := range s.conns {
		if d := c.reads.at.Load(); c.state.Load() == connIdle && d > soon {
			c.reads.at.CompareAndSwap(d, soon)
		}
	}
	s.mu.Unlock()
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for s.Conns() > 0 {
		select {
		case <-t.C:
			continue
		case <-ctx.Done():
		}
		s.mu.Lock()
		broken = len(s.conns)
		for c := range s.conns {
			c.sock.Close()
		}
		s.mu.Unlock()
		break
	}
	std.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.std { // those that came meanwhile, too
		d.Close()
	}
	return broken
}
