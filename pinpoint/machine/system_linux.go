package machine

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// supported says that permissions can be computed.
const supported = true

// examine reads what the kernel looks at when it decides on one object. Links are not followed.
func examine(real string) (c Component, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(real, &st); err != nil {
		return c, &fs.PathError{Op: "lstat", Path: real, Err: err}
	}
	c.perm, c.UID, c.GID = uint32(st.Mode)&0o7777, st.Uid, st.Gid
	c.Mode = fs.FileMode(st.Mode & 0o777)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		c.Mode |= fs.ModeDir
	case unix.S_IFLNK:
		c.Mode |= fs.ModeSymlink
		c.Target, err = os.Readlink(real)
		return c, err
	case unix.S_IFREG:
		c.regular = true
	case unix.S_IFSOCK:
		c.Mode |= fs.ModeSocket
	default:
		c.Mode |= fs.ModeIrregular
	}
	if st.Mode&unix.S_ISVTX != 0 {
		c.Mode |= fs.ModeSticky
	}
	if raw := attribute(real, "system.posix_acl_access"); raw != nil {
		c.ACL = parseACL(raw)
	}
	if raw := attribute(real, "security.selinux"); raw != nil {
		c.Label = trimNull(raw)
	}
	return c, nil
}

// attribute is an extended attribute of at most 64 KiB, which is what Linux allows.
func attribute(real, name string) []byte {
	buf := make([]byte, 512)
	for {
		n, err := unix.Lgetxattr(real, name, buf)
		if errors.Is(err, unix.ERANGE) && len(buf) < 1<<16 {
			buf = make([]byte, 1<<16)
			continue
		}
		if err != nil || n <= 0 {
			return nil
		}
		return buf[:n]
	}
}

// born is when a file came to be, zero when the file system does not say.
func born(real string) time.Time {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, real, 0, unix.STATX_BTIME, &st) != nil || st.Mask&unix.STATX_BTIME == 0 {
		return time.Time{}
	}
	return time.Unix(st.Btime.Sec, int64(st.Btime.Nsec))
}

// interfaceAddrs are the addresses of this machine, never nil.
func interfaceAddrs() []netip.Addr {
	addrs := []netip.Addr{}
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			addrs = append(addrs, p.Addr().Unmap())
		}
	}
	return addrs
}
