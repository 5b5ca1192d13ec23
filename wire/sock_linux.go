//go:build linux && (amd64 || arm64) && !race

package wire

import (
	"io"
	"os"
	"syscall"
	"unsafe"
)

// readNow reads without waiting; EAGAIN says that there is nothing.
func readNow(fd uintptr, p []byte) (int, error) {
	for {
		n, _, e := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), syscall.MSG_DONTWAIT, 0, 0)
		switch {
		case e == 0 && n > 0:
			return int(n), nil
		case e == 0:
			return 0, io.EOF
		case e == syscall.EAGAIN:
			return 0, syscall.EAGAIN
		case e != syscall.EINTR:
			return 0, os.NewSyscallError("read", e)
		}
	}
}

// writeNow writes as much as the socket takes without waiting.
func writeNow(fd uintptr, p []byte) (n int, err error) {
	for n < len(p) {
		m, _, e := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p[n:]))), uintptr(len(p)-n), syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
		switch e {
		case 0:
			n += int(m)
		case syscall.EAGAIN:
			return n, nil
		case syscall.EINTR:
		default:
			return n, os.NewSyscallError("write", e)
		}
	}
	return n, nil
}
