//go:build !linux

package machine

import (
	"io/fs"
	"net"
	"net/netip"
	"os"
	"time"
)

// supported says that permissions can be computed.
const supported = false

// examine reads the kind of an object. Owners and lists of this system are not evaluated.
func examine(real string) (c Component, err error) {
	st, err := os.Lstat(real)
	if err != nil {
		return c, err
	}
	c.Mode, c.perm, c.regular = st.Mode(), uint32(st.Mode().Perm()), st.Mode().IsRegular()
	if st.Mode()&fs.ModeSymlink != 0 {
		c.Target, err = os.Readlink(real)
	}
	return c, err
}

// born is not known here.
func born(string) time.Time { return time.Time{} }

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
