package wire

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// tunnel is the state that both directions of a Relay share.
type tunnel struct {
	idle time.Duration
	last atomic.Int64 // Unix nanoseconds of the last byte in either direction
}

// Relay copies both ways between a and b until both directions have ended, one fails, or
// neither has carried a byte for idle. Each connection is half-closed as its source
// ends. pre is sent to b first. It returns the bytes carried and what ended it, nil for a
// regular end.
func Relay(a, b net.Conn, pre []byte, idle time.Duration) (aToB, bToA int64, err error) {
	t := &tunnel{idle: idle}
	t.last.Store(time.Now().UnixNano())
	errs := make(chan error, 1)
	go func() {
		if len(pre) > 0 {
			if _, err := b.Write(pre); err != nil {
				errs <- err
				return
			}
		}
		n, err := t.copy(b, a)
		aToB = n + int64(len(pre))
		if err != nil { // wake the other direction
			a.Close()
			b.Close()
		}
		errs <- err
	}()
	bToA, err = t.copy(a, b)
	if err != nil {
		a.Close()
		b.Close()
	}
	if other := <-errs; err == nil || errors.Is(err, net.ErrClosed) { // whoever failed first closed both
		err = other
	}
	return aToB, bToA, err
}

// copy carries src to dst. A silent src is no reason to end while the other direction talks.
func (t *tunnel) copy(dst, src net.Conn) (n int64, err error) {
	buf := take(largeBuffer)
	defer give(buf)
	for {
		src.SetReadDeadline(time.Now().Add(t.idle))
		m, err := src.Read(buf)
		if m > 0 {
			t.last.Store(time.Now().UnixNano())
			dst.SetWriteDeadline(time.Now().Add(t.idle))
			if _, err := dst.Write(buf[:m]); err != nil {
				return n, err
			}
			n += int64(m)
		}
		switch {
		case err == nil:
		case err == io.EOF:
			if half, ok := dst.(interface{ CloseWrite() error }); ok {
				half.CloseWrite()
			} else {
				dst.Close()
			}
			return n, nil
		case isTimeout(err) && time.Since(time.Unix(0, t.last.Load())) < t.idle:
		default:
			return n, err
		}
	}
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
