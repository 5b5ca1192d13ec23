//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// idleSettle is the pause between the last call and the look at memory.
const idleSettle = 2 * time.Second

// idle measures what a connection costs in memory while nothing happens on it: each
// makes one call and then waits. What the kernel holds for a socket is not part of
// resident memory, and is much the same for everyone.
func (h *harness) idle() measurement {
	return measurement{h.small, h.set.Idle, func(ctx context.Context, t target, s *sample) error {
		var err error
		if s.AtStart, err = memoryOf(t.proc.pid); err != nil {
			return err
		}
		conns := make([]net.Conn, h.set.Idle)
		defer func() {
			for _, c := range conns {
				if c == nil {
					continue
				}
				// A reset leaves no port in TIME_WAIT for the next entry to trip over.
				c.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
		}()
		if err := h.connectAll(ctx, t.address, conns); err != nil {
			return err
		}
		select {
		case <-time.After(idleSettle):
		case <-ctx.Done():
			return ctx.Err()
		}
		if s.Memory, err = memoryOf(t.proc.pid); err != nil {
			return err
		}
		// Were they kept? Every hundredth is asked again.
		for i := 0; i < len(conns); i += 100 {
			if err := h.callOn(conns[i], t.address); err != nil {
				return fmt.Errorf("connection %d was not kept: %w", i, err)
			}
		}
		return nil
	}}
}

// connectAll opens all connections, 32 at a time, and makes one call on each.
func (h *harness) connectAll(ctx context.Context, address string, conns []net.Conn) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var workers sync.WaitGroup
	for range 32 {
		workers.Go(func() {
			for i := range next {
				var err error
				if conns[i], err = dialFrom(ctx, i, address); err == nil {
					err = h.callOn(conns[i], address)
				}
				if err != nil {
					cancel(fmt.Errorf("connection %d: %w", i, err))
					return
				}
			}
		})
	}
	for i := range conns {
		select {
		case next <- i:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	workers.Wait()
	return context.Cause(ctx)
}

// dialFrom connects from one of eight loopback addresses, so that ports do not run
// short.
func dialFrom(ctx context.Context, i int, address string) (net.Conn, error) {
	d := net.Dialer{
		Timeout:   5 * time.Second,
		KeepAlive: -1,
		LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i%8))},
		Control: func(_, _ string, raw syscall.RawConn) error {
			// The port is chosen at connect, when the whole four-tuple is known.
			var err error
			if e := raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
			}); e != nil {
				return e
			}
			return err
		},
	}
	c, err := d.DialContext(ctx, "tcp4", address)
	if err != nil {
		return nil, err // not a typed nil in conns
	}
	return c, nil
}

// callOn makes one call on an open connection.
func (h *harness) callOn(c net.Conn, address string) error {
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nX-Api-Key: %s\r\n\r\n", address, h.key.Key); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != 200 {
		return fmt.Errorf("answered %s", answer.Status)
	}
	return nil
}
