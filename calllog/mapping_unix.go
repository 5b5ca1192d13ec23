//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package calllog

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// mapFile maps the first size bytes of f, shared with everybody who maps them.
func mapFile(f *os.File, size int64, write bool) ([]byte, error) {
	prot := unix.PROT_READ
	if write {
		prot |= unix.PROT_WRITE
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(size), prot, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return mem, nil
}

func unmap(mem []byte) { _ = unix.Munmap(mem) }

// flush writes changed pages to the disk and waits for it. mem begins at a page.
func flush(mem []byte) error { return os.NewSyscallError("msync", unix.Msync(mem, unix.MS_SYNC)) }

// lock takes the exclusive lock of f, which ends with the process at the latest.
// taken says that somebody else has it.
func lock(f *os.File) (taken bool, err error) {
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	return err == unix.EWOULDBLOCK, os.NewSyscallError("flock", err)
}

// noSpace says that the disk or the quota is full.
func noSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
