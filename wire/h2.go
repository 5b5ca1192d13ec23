package wire

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// framedConn is a connection of HTTP/2 on its way to net/http. It reads along the heads of frames (RFC 9113, section 4.1), for
// what net/http does not bound: how often a client has streams reset (CVE-2023-44487; CVE-2025-8671, where it makes the server
// reset them), and how long it may take to send a header block. Who resets more than its budget is sent a GOAWAY and closed.
type framedConn struct {
	net.Conn
	c     *conn
	in    frameScanner // of the goroutine that reads
	timed int          // of the same: the header block that has a deadline, 0 for none
	over  atomic.Bool  // the budget is spent
	ended sync.Once

	mu    sync.Mutex // guards what follows
	open  map[uint32]struct{}
	last  uint32 // the highest stream that the client opened
	spent float64
	as    time.Time // when spent was brought up to date

	wmu  sync.Mutex // guards what follows and the writing itself; taken before mu
	out  frameScanner
	told bool // why the connection ends
}

// resetWindow is the time over which Config.MaxResets flow back.
const resetWindow = 30 * time.Second

func newFramedConn(nc net.Conn, c *conn) *framedConn {
	h := &framedConn{Conn: nc, c: c, open: map[uint32]struct{}{}}
	h.in.preface = Preface
	return h
}

// Read reads for net/http and looks at what the client sends.
func (h *framedConn) Read(p []byte) (int, error) {
	if h.over.Load() {
		return 0, io.EOF
	}
	if block := h.in.block(); block != h.timed {
		if h.timed = block; block == 0 && !h.c.reads.disarm() || block > 0 && !h.c.reads.arm(h.c.watch, h.c.cfg.HeaderTimeout) {
			return 0, io.EOF
		}
	}
	n, err := h.Conn.Read(p)
	if !h.in.scan(p[:n], h.asked) {
		return 0, io.EOF // whoever negotiated HTTP/2 speaks something else
	}
	if h.over.Load() {
		h.calm()
		return 0, io.EOF
	}
	return n, err
}

// asked sees a frame of the client.
func (h *framedConn) asked(f frame) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch f.kind {
	case frameHeaders:
		if f.stream > h.last {
			h.last = f.stream
			h.open[f.stream] = struct{}{}
		}
	case frameReset:
		h.reset(f)
	}
}

// Write writes for net/http and looks at what it answers.
func (h *framedConn) Write(p []byte) (int, error) {
	h.wmu.Lock()
	if h.over.Load() {
		h.wmu.Unlock()
		return 0, net.ErrClosed
	}
	n, err := h.Conn.Write(p)
	h.out.scan(p[:n], h.answered)
	h.wmu.Unlock()
	if h.over.Load() {
		h.calm()
		h.Conn.SetReadDeadline(longAgo) // net/http ends the connection when it cannot read
	}
	return n, err
}

// answered sees a frame of net/http.
func (h *framedConn) answered(f frame) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case f.kind == frameReset && blames[f.code]:
		h.reset(f)
	case f.kind == frameReset, (f.kind == frameData || f.kind == frameHeaders) && f.flags&flagEndStream != 0:
		delete(h.open, f.stream)
	}
}

// blames are the codes of resets that a client brings about (RFC 9113, section 7): PROTOCOL_ERROR, FLOW_CONTROL_ERROR,
// STREAM_CLOSED, FRAME_SIZE_ERROR and REFUSED_STREAM.
var blames = map[uint32]bool{1: true, 3: true, 5: true, 6: true, 7: true}

// reset counts a stream that was reset before it was answered. h.mu is held.
func (h *framedConn) reset(f frame) {
	if _, open := h.open[f.stream]; !open {
		return
	}
	delete(h.open, f.stream)
	most := float64(h.c.cfg.MaxResets)
	if most == 0 || h.c.srv.trusted(h.c.call.Peer.Addr()) {
		return
	}
	now := time.Now()
	if h.spent > 0 {
		h.spent = max(h.spent-now.Sub(h.as).Seconds()*most/resetWindow.Seconds(), 0)
	}
	h.as = now
	if h.spent++; h.spent > most && h.over.CompareAndSwap(false, true) {
		h.c.srv.RapidResets.Add(1)
		h.c.srv.resetsTold.warn(h.c.srv.Log, "an HTTP/2 client reset too many streams: its connection is closed",
			"listener", h.c.listener.Name, "peer", h.c.call.Peer, "limit", h.c.cfg.MaxResets, "within", resetWindow.String(), "streams", (h.last+1)/2)
	}
}

// Codes of GOAWAY (RFC 9113, section 7).
const (
	enhanceYourCalm    = 0xb
	inadequateSecurity = 0xc
)

func (h *framedConn) calm() {
	h.goAway(enhanceYourCalm, fmt.Sprintf("more than %d streams were reset within %v", h.c.cfg.MaxResets, resetWindow))
}

// refuse ends a connection that net/http has not got yet.
func (h *framedConn) refuse(code uint32, text string) {
	h.over.Store(true)
	h.Conn.Write([]byte{0, 0, 0, frameSettings, 0, 0, 0, 0, 0}) // which comes first
	h.goAway(code, text)
	h.Close()
}

// goAway says why the connection ends, if a frame can be written now.
func (h *framedConn) goAway(code uint32, text string) {
	h.Conn.SetWriteDeadline(time.Now().Add(time.Second)) // for whoever is writing
	h.wmu.Lock()
	defer h.wmu.Unlock()
	if h.told || !h.out.idle() {
		return
	}
	h.told = true
	h.mu.Lock()
	last := h.last
	h.mu.Unlock()
	b := []byte{0, 0, byte(8 + len(text)), frameGoAway, 0, 0, 0, 0, 0}
	b = binary.BigEndian.AppendUint32(b, last)
	b = binary.BigEndian.AppendUint32(b, code)
	h.Conn.SetWriteDeadline(time.Now().Add(time.Second))
	h.Conn.Write(append(b, text...))
}

// Close closes the connection. One with an unread rest is reset, and the client may lose the GOAWAY: it gets a moment to
// read that.
func (h *framedConn) Close() (err error) {
	h.ended.Do(func() { err = h.close() })
	return err
}

func (h *framedConn) close() error {
	h.c.unwatch()
	if half, ok := h.Conn.(interface{ CloseWrite() error }); ok && h.over.Load() && half.CloseWrite() == nil {
		var r net.Conn = h.c.sock
		if h.c.tcp != nil {
			r = h.c.tcp.TCPConn // somebody may still be reading, which a sock does not allow
		}
		r.SetReadDeadline(time.Now().Add(time.Second))
		b := take(largeBuffer) // the deadline bounds how much it reads
		for err := error(nil); err == nil; {
			_, err = r.Read(b)
		}
		give(b)
	}
	return h.Conn.Close()
}

// adequate says that HTTP/2 may be spoken over such a connection (RFC 9113, section 9.2.2), of which net/http does not learn
// how it is encrypted.
func adequate(state *tls.ConnectionState) bool {
	if state.Version >= tls.VersionTLS13 {
		return true
	}
	switch state.CipherSuite {
	case tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256:
		return true
	}
	return false
}

// frame is the head of a frame, and the code of one that resets a stream.
type frame struct {
	length      int
	kind, flags byte
	stream      uint32
	code        uint32
}

const (
	frameHead = 9

	frameData         = 0x0
	frameHeaders      = 0x1
	frameReset        = 0x3
	frameSettings     = 0x4
	frameGoAway       = 0x7
	frameContinuation = 0x9

	flagEndStream  = 0x1
	flagEndHeaders = 0x4
)

// frameScanner finds the frames in a stream of bytes that comes in pieces of any size.
type frameScanner struct {
	preface    string // that is still to come
	head       [frameHead + 4]byte
	have       int  // bytes of head
	left       int  // bytes of the payload that are still to come
	blocks     int  // of header fields that have begun
	inBlock    bool // the last frame is of one
	unfinished bool // which goes on in another frame
}

// block is the number of the header block that is not complete, 0 for none.
func (s *frameScanner) block() int {
	if s.unfinished || s.inBlock && s.left > 0 {
		return s.blocks
	}
	return 0
}

// idle says that the last frame is complete.
func (s *frameScanner) idle() bool { return s.have == 0 && s.left == 0 && !s.unfinished }

// scan calls see for each frame whose head is complete. It reports false if b does not begin with what is left of the preface.
func (s *frameScanner) scan(b []byte, see func(frame)) bool {
	if n := min(len(s.preface), len(b)); n > 0 {
		if string(b[:n]) != s.preface[:n] {
			return false
		}
		s.preface, b = s.preface[n:], b[n:]
	}
	for len(b) > 0 {
		if s.left > 0 {
			n := min(s.left, len(b))
			s.left -= n
			b = b[n:]
			continue
		}
		want := frameHead
		if s.have >= frameHead { // of a reset
			want = len(s.head)
		}
		n := copy(s.head[s.have:want], b)
		s.have += n
		b = b[n:]
		if s.have < want {
			return true
		}
		f := frame{length: int(s.head[0])<<16 | int(s.head[1])<<8 | int(s.head[2]), kind: s.head[3], flags: s.head[4],
			stream: binary.BigEndian.Uint32(s.head[5:]) & (1<<31 - 1)}
		if f.kind == frameReset && f.length >= 4 {
			if want == frameHead {
				continue // with its code
			}
			f.code = binary.BigEndian.Uint32(s.head[frameHead:])
		}
		s.left = f.length - (want - frameHead)
		s.have = 0
		if s.inBlock = f.kind == frameHeaders || f.kind == frameContinuation; s.inBlock {
			if f.kind == frameHeaders {
				s.blocks++
			}
			s.unfinished = f.flags&flagEndHeaders == 0
		}
		see(f)
	}
	return true
}
