package wire

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// askSocket asks the kernel, without waiting, whether the peer is still there.
func askSocket(raw syscall.RawConn) socketState {
	if raw == nil {
		return socketOpen
	}
	state := socketClosed // when the descriptor is closed, so is the socket
	raw.Control(func(fd uintptr) {
		p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		unix.Poll(p[:], 0)
		switch ev := p[0].Revents; {
		case ev&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0:
			state = socketClosed
		case ev&unix.POLLRDHUP != 0:
			state = socketHalfClosed
		default:
			state = socketOpen
		}
	})
	return state
}

// asker asks one socket again and again whether it is quiet, without allocating.
type asker struct {
	raw syscall.RawConn
	ask func(fd uintptr) // poll, bound once
	fds [1]unix.PollFd
	ok  bool
}

func (a *asker) bind(raw syscall.RawConn) { a.raw, a.ask = raw, a.poll }

func (a *asker) poll(fd uintptr) {
	a.fds[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}
	n, err := unix.Poll(a.fds[:], 0)
	a.ok = err == nil && n == 0
}

// quiet reports whether a connection is open with nothing to read.
func (a *asker) quiet() bool {
	if a.raw == nil {
		return true
	}
	a.ok = false
	a.raw.Control(a.ask)
	return a.ok
}

func quiet(raw syscall.RawConn) bool {
	var a asker
	a.bind(raw)
	return a.quiet()
}

// acceptQueued takes the connections that wait in the queue of a listener, and waits for none.
func acceptQueued(ln net.Listener, take func(net.Conn)) {
	sc, ok := ln.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		for {
			n, _, err := unix.Accept4(int(fd), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if err == unix.EINTR || err == unix.ECONNABORTED {
				continue
			}
			if err != nil {
				return
			}
			f := os.NewFile(uintptr(n), "")
			nc, err := net.FileConn(f)
			f.Close()
			if err == nil {
				take(nc)
			}
		}
	})
}
