package wire

import (
	"bytes"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// stdConn stands between net/http and a client that speaks HTTP/1, in both directions.
//
// What the client sends is judged by the grammar of the own engine before net/http sees it. net/http is more
// generous: it takes LF for CRLF, unfolds fields, and drops a length beside a coding. Both engines are to refuse
// the same requests for the same reasons. net/http gets each head as it came; a chunked body is written anew from
// what it says. Heads are judged one at a time, when net/http asks for the next.
//
// What net/http writes while no call is served is an answer of its own to a request that it refused. It is
// replaced by one with a reason.
type stdConn struct {
	net.Conn
	c    *conn
	busy atomic.Bool // a call is being served

	// What follows belongs to whoever reads; net/http has one reader at a time.
	in     []byte // read, and not used
	given  int    // bytes of in that net/http has already
	out    []byte // for net/http
	req    Request
	arena  []byte
	body   body
	inBody bool
	anew   []byte      // chunks, as they are written for net/http
	raw    atomic.Bool // what comes is not HTTP/1: a tunnel, or HTTP/2
	over   error       // why there is nothing more to read
}

// Read gives net/http what has been judged.
func (sc *stdConn) Read(p []byte) (int, error) {
	for {
		if len(sc.out) > 0 {
			n := copy(p, sc.out)
			sc.out = sc.out[n:]
			return n, nil
		}
		var err error
		switch {
		case sc.over != nil:
			err = sc.over
		case sc.raw.Load():
			if sc.given == len(sc.in) {
				return sc.Conn.Read(p)
			}
			sc.out, sc.in, sc.given = sc.in[sc.given:], nil, 0
		case sc.inBody:
			err = sc.nextPiece()
		case len(p) == 1:
			err = sc.peek()
		default:
			err = sc.nextHead()
		}
		if err != nil {
			return 0, err
		}
	}
}

// peek is what net/http reads while it serves a call: one byte, to learn whether the client is still there.
// It belongs to the next head, which is judged when it is asked for.
func (sc *stdConn) peek() error {
	for !sc.begun() {
		if err := sc.more(smallBuffer); err != nil {
			return err
		}
	}
	sc.out, sc.given = sc.in[:1], 1
	return nil
}

// begun says that the next head has begun. An empty line before it is passed over, as conn.serve does.
func (sc *stdConn) begun() bool {
	if sc.given > 0 {
		return true
	}
	if bytes.HasPrefix(sc.in, crlf) {
		sc.in = sc.in[2:]
	}
	return len(sc.in) > 1 || len(sc.in) == 1 && sc.in[0] != '\r'
}

// more reads up to n bytes.
func (sc *stdConn) more(n int) error {
	b := take(n)
	defer give(b)
	got, err := sc.Conn.Read(b[:n])
	sc.in = append(sc.in, b[:got]...)
	if got > 0 {
		return nil
	}
	return err
}

// nextHead has the next request judged.
func (sc *stdConn) nextHead() error {
	cfg := sc.c.srv.config.Load()
	var late time.Time
	for scanned := 0; ; {
		if sc.begun() {
			n, f := 0, firstBytes(sc.in)
			if f == nil {
				n, f = headEnd(sc.in, &scanned)
			}
			switch {
			case n > cfg.HeaderBytes || n == 0 && f == nil && len(sc.in) >= cfg.HeaderBytes:
				f = headTooLarge(sc.in, cfg)
			case f != nil || n == 0:
			case sc.c.preface(sc.in[:n]):
				sc.raw.Store(true)
				sc.Conn.SetReadDeadline(time.Time{})
				return nil
			default:
				f = sc.req.parse(sc.in[:n], &cfg.Limits, &sc.arena)
			}
			if f != nil {
				return sc.refuse(f)
			}
			if n > 0 {
				sc.accept(n, cfg)
				return nil
			}
			if late.IsZero() { // until now it was the time between two requests
				late = time.Now().Add(cfg.HeaderTimeout)
				sc.Conn.SetReadDeadline(late)
			}
		}
		if err := sc.more(smallBuffer); err != nil {
			if isTimeout(err) && !late.IsZero() && !time.Now().Before(late) {
				return sc.refuse(headTimeout(len(sc.in), cfg))
			}
			return err
		}
	}
}

// accept gives a head of n bytes to net/http and readies the body behind it.
func (sc *stdConn) accept(n int, cfg *Config) {
	sc.out = sc.in[sc.given:n:n]
	rest := sc.in[n:]
	sc.in, sc.given = nil, 0
	length, how := sc.req.Length, byLength
	sc.inBody = length != 0
	sc.req.forget() // net/http has its own
	if length < 0 {
		length, how = 0, byChunks
	} else { // what lies behind the body is the next head
		end := min(length, int64(len(rest)))
		sc.in, rest = rest[end:], rest[:end]
	}
	if sc.inBody {
		b := take(max(largeBuffer, len(rest)))
		sc.body.begin(feed{src: sc, buf: b, w: copy(b, rest), own: true}, how, length, &cfg.Limits)
	}
}

// read implements source for the body. net/http and the call set the deadlines.
func (sc *stdConn) read(p []byte) (int, error) { return sc.Conn.Read(p) }

// nextPiece reads on in the body.
func (sc *stdConn) nextPiece() error {
	b := &sc.body
	piece, last, err := b.next()
	if err != nil {
		sc.over = err
		return err
	}
	if sc.out = piece; b.framing == byChunks {
		sc.anew = sc.anew[:0]
		if len(piece) > 0 {
			sc.anew = strconv.AppendInt(sc.anew, int64(len(piece)), 16)
			sc.anew = append(sc.anew, "\r\n"...)
			sc.anew = append(sc.anew, piece...)
			sc.anew = append(sc.anew, "\r\n"...)
		}
		if last {
			sc.anew = append(sc.anew, "0\r\n"...)
			sc.anew = appendFields(sc.anew, b.Trailer)
			sc.anew = append(sc.anew, "\r\n"...)
		}
		sc.out = sc.anew
	} else if last {
		sc.out = append([]byte(nil), piece...) // the buffer goes back
	}
	if last {
		sc.inBody = false
		if b.framing == byChunks {
			sc.in = append([]byte(nil), b.buf[b.r:b.w]...)
		}
		b.release()
	}
	return nil
}

// refuse answers a request that broke a rule, and ends the connection for net/http.
func (sc *stdConn) refuse(f *Fault) error {
	sc.over = io.EOF
	if c := sc.answer(&sc.req, f); !c.broken {
		c.lingerClose()
	}
	return sc.over
}

// answer has the handler answer what never became a call.
func (sc *stdConn) answer(req *Request, f *Fault) *conn {
	c := &conn{srv: sc.c.srv, cfg: sc.c.srv.config.Load(), listener: sc.c.listener, nc: sc.Conn, sock: sc.c.sock, closing: true}
	c.call = Call{Listener: sc.c.listener, Start: time.Now(), Peer: sc.c.call.Peer, Announced: sc.c.call.Announced, TLS: sc.c.call.TLS, engine: c}
	if c.call.Request = *req; c.call.Request.Proto == 0 {
		c.call.Request.Proto = 11
	}
	c.beginBody(0)
	c.watch = c.srv.Watch
	c.srv.Handler.Malformed(&c.call, f)
	return c
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
	if sc.answer(new(Request), fault(EngineRefused, "a well-formed request", "%s", excerpt(strings.TrimSpace(text), 120)).status(status)).broken {
		return 0, errLeft
	}
	return len(p), nil
}

// CloseWrite lets net/http end its side before it closes.
func (sc *stdConn) CloseWrite() error {
	if half, ok := sc.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
