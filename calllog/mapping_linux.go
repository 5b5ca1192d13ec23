package calllog

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// allocate gives f size bytes of disk, so that a write to its mapping cannot meet a
// full disk, which would be a fault and not an error.
func allocate(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return writeZeros(f, size)
	}
	return os.NewSyscallError("fallocate", err)
}

// populate makes pages writable before anybody needs them. It is advice: where the
// kernel is older than 5.14, the first write to a page costs a fault.
func populate(mem []byte) { _ = unix.Madvise(mem, unix.MADV_POPULATE_WRITE) }

// inOrder tells the kernel not to read ahead in a file that is written from its beginning. It would
// fill as much as the disk's read-ahead, often megabytes, with zeros at a single fault: some 20 ms of
// a core.
func inOrder(mem []byte) { _ = unix.Madvise(mem, unix.MADV_RANDOM) }

// beginWrite hands pages of a file to the disk without waiting for them to arrive.
func beginWrite(f *os.File, off, n uint64) {
	_ = unix.SyncFileRange(int(f.Fd()), int64(off), int64(n), unix.SYNC_FILE_RANGE_WRITE)
}

// release takes pages out of the process, not out of the page cache: what was
// written to them stays.
func release(mem []byte) { _ = unix.Madvise(mem, unix.MADV_DONTNEED) }
