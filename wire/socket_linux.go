package wire

import (
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

// quiet reports whether an idle upstream connection is open with nothing to read, as it
// must be between two calls.
func quiet(raw syscall.RawConn) bool {
	if raw == nil {
		return true
	}
	ok := false
	raw.Control(func(fd uintptr) {
		p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}
		n, err := unix.Poll(p[:], 0)
		ok = err == nil && n == 0
	})
	return ok
}
