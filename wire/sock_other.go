//go:build !linux || !(amd64 || arm64) || race

package wire

import (
	"io"
	"os"
	"syscall"
)

// readNow reads without waiting; EAGAIN says that there is nothing. The race detector takes the
// calls of package syscall for the order between two ends of a connection.
func readNow(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), p)
		switch {
		case err == nil && n > 0:
			return n, nil
		case err == nil:
			return 0, io.EOF
		case err == syscall.EAGAIN:
			return 0, err
		case err != syscall.EINTR:
			return 0, os.NewSyscallError("read", err)
		}
	}
}

// writeNow writes as much as the socket takes without waiting.
func writeNow(fd uintptr, p []byte) (n int, err error) {
	for n < len(p) {
		m, err := syscall.Write(int(fd), p[n:])
		switch err {
		case nil:
			n += m
		case syscall.EAGAIN:
			return n, nil
		case syscall.EINTR:
		default:
			return n, os.NewSyscallError("write", err)
		}
	}
	return n, nil
}
