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

// turn says that a name is to be reached by its addresses of the other family from now on.
type turn struct {
	host string
	six  bool
}

// resolve looks all names up again and again. Targets at addresses that stay keep their
// connections and their health; while a name does not resolve its last addresses stay in use.
//
// Where a name has IPv4 and IPv6 addresses, they are two ways to the same machines (RFC 8305,
// section 2), of which often one leads nowhere: localhost is 127.0.0.1 and ::1, and few programs
// listen at both. The targets are the addresses of one family, IPv4 until a connection
// succeeded by the other one only.
func (u *Upstream) resolve() {
	known := map[string][]netip.Addr{} // by host
	six, turned := map[string]bool{}, map[string]time.Time{}
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
			addrs, others := ofFamily(addrs, six[host])
			for _, a := range addrs {
				t := u.newTarget(i, scheme, host, port, path, a.String())
				at := place{i, t.Address}
				if o := old[at]; o != nil {
					delete(old, at)
					t = o
				}
				t.detour.Store(detour(others, port))
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
		timer := time.NewTimer(pause)
		for waiting := true; waiting; {
			select {
			case <-u.ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
				waiting = false
			case t := <-u.turns:
				// Where both families work by turns, one change in this time is enough.
				if now := time.Now(); six[t.host] != t.six && now.Sub(turned[t.host]) >= time.Duration(u.Spec.Resolve) {
					six[t.host], turned[t.host], waiting = t.six, now, false
				}
			}
		}
		timer.Stop()
	}
}

// ofFamily parts the addresses of a name into those to use and the others. A name with addresses
// of one family has no others.
func ofFamily(addrs []netip.Addr, six bool) (use, others []netip.Addr) {
	for _, a := range addrs {
		if a.Is6() == six {
			use = append(use, a)
		} else {
			others = append(others, a)
		}
	}
	if len(use) == 0 {
		return others, nil
	}
	return use, others
}

// maxDetours is how many addresses of the other family one connection is tried at.
const maxDetours = 2

func detour(others []netip.Addr, port string) *[]string {
	if len(others) == 0 {
		return nil
	}
	var list []string
	for _, a := range others[:min(len(others), maxDetours)] {
		list = append(list, net.JoinHostPort(a.String(), port))
	}
	return &list
}

// headStart is how long a connection is tried at the target's own address alone: the
// Connection Attempt Delay of RFC 8305, section 5.
const headStart = 250 * time.Millisecond

// connect opens a connection to the target's address or, where that fails or takes long, to one of
// the other family that its name has.
func (t *Target) connect(ctx context.Context) (net.Conn, error) {
	dialer := t.up.dialer()
	others := t.detour.Load()
	if others == nil {
		return dialer.DialContext(ctx, "tcp", t.Address)
	}
	type attempt struct {
		nc     net.Conn
		err    error
		direct bool
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan attempt)
	try := func(address string, direct bool) {
		nc, err := dialer.DialContext(ctx, "tcp", address)
		select {
		case ended <- attempt{nc, err, direct}:
		case <-ctx.Done():
			if err == nil {
				nc.Close()
			}
		}
	}
	rest, pending := *others, 1
	next := func() {
		if len(rest) > 0 {
			go try(rest[0], false)
			rest = rest[1:]
			pending++
		}
	}
	go try(t.Address, true)
	timer := time.NewTimer(headStart)
	defer timer.Stop()
	var own error // of the target's own address
	for {
		select {
		case a := <-ended:
			if a.err == nil {
				if !a.direct {
					t.turn()
				}
				return a.nc, nil
			}
			if a.direct {
				own = a.err
			}
			pending--
			if next(); pending == 0 {
				return nil, own
			}
		case <-timer.C:
			next()
		case <-ctx.Done():
			if own == nil {
				own = ctx.Err()
			}
			return nil, own
		}
	}
}

// turn has the name of the target reached by the other family from now on.
func (t *Target) turn() {
	a, err := netip.ParseAddrPort(t.Address)
	if err != nil {
		return
	}
	select {
	case t.up.turns <- turn{t.name, !a.Addr().Is6()}:
	default: // there is news enough
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
