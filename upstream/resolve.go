package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"
)

// lookup finds the addresses of a name. Tests replace it.
var lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// resolve looks all names up again and again. Targets at addresses that stay keep their
// connections and their health; while a name does not resolve its last addresses stay in use.
func (u *Upstream) resolve() {
	known := map[string][]netip.Addr{} // by host
	first := true
	for {
		s := &set{}
		type place struct {
			entry   int
			address string
		}
		old := map[place]*Target{}
		for _, t := range u.targets.Load().targets {
			old[place{t.entry, t.Address}] = t
		}
		var errs []error
		for i, spec := range u.Spec.Targets {
			scheme, host, port, path, _ := ParseTarget(spec.URL)
			addrs := known[host]
			if a, err := netip.ParseAddr(host); err == nil {
				addrs = []netip.Addr{a}
			} else if found, err := u.lookup(host); err == nil {
				addrs, known[host] = found, found
			} else {
				errs = append(errs, err)
			}
			for _, a := range addrs {
				t := u.newTarget(i, scheme, host, port, path, a.String())
				at := place{i, t.Address}
				if o := old[at]; o != nil {
					delete(old, at)
					t = o
				}
				s.targets = append(s.targets, t)
			}
		}
		s.problem = errors.Join(errs...)
		s.build(u.Spec.Balance.By)
		u.targets.Store(s)
		for _, t := range old {
			t.retire()
		}
		if s.problem != nil {
			u.log.Warn("looking up targets", "upstream", u.Name, "error", Plain(s.problem))
		}
		if first {
			close(u.resolved)
			first = false
		}
		pause := time.Duration(u.Spec.Resolve)
		if s.problem != nil {
			pause = min(pause, 2*time.Second)
		}
		select {
		case <-u.ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (u *Upstream) lookup(host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(u.ctx, 5*time.Second)
	defer cancel()
	addrs, err := lookup(ctx, host)
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	// In one order, whatever order the server gave: the hash ring depends on addresses
	// alone, and round robin should not jump with each look-up.
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs), err
}

// awaitNames waits for the first look-up, as long as a connection may take.
func (u *Upstream) awaitNames() *set {
	select {
	case <-u.resolved:
	case <-u.ctx.Done():
	case <-time.After(time.Duration(u.Spec.Timeouts.Connect)):
	}
	return u.targets.Load()
}
