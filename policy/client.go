package policy

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/gaissmai/bart"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// Client is where a call came from, after trusted proxies.
type Client struct {
	Addr netip.Addr
	Peer netip.Addr // of the socket
	// Hop is the position in X-Forwarded-For that Addr was taken from, counted from the
	// left and from 1; 0 for the socket or the PROXY header.
	Hop int
	// Announced is the address by the PROXY protocol, invalid without.
	Announced netip.Addr
}

// Nearest is the hop before this node: whom a trusted peer announced by PROXY protocol, else the
// peer. What the header says of the hops before it was written there.
func (c *Client) Nearest() netip.Addr {
	if c.Announced.IsValid() {
		return c.Announced
	}
	return c.Peer
}

// Trust knows the trusted proxies.
type Trust struct {
	nets  bart.Lite
	empty bool
	list  []netip.Prefix
}

// NewTrust builds the set of trusted networks.
func NewTrust(nets []resource.Prefix) *Trust {
	t := &Trust{empty: len(nets) == 0}
	for _, n := range nets {
		t.nets.Insert(n.Prefix)
		t.list = append(t.list, n.Prefix)
	}
	return t
}

// Has says that an address is a trusted proxy.
func (t *Trust) Has(a netip.Addr) bool { return !t.empty && t.nets.Contains(a) }

// Networks are the trusted networks, as written.
func (t *Trust) Networks() []netip.Prefix { return t.list }

// Client finds the client's address: the socket's peer, or whom a trusted peer announced by
// PROXY protocol, or, as long as the address at hand is a trusted proxy, the next
// entry of X-Forwarded-For from the right.
func (t *Trust) Client(peer, announced netip.Addr, fields wire.Fields) Client {
	c := Client{Addr: peer, Peer: peer, Announced: announced}
	if t.empty {
		return c
	}
	c.Addr = c.Nearest() // wire let only trusted peers announce
	if !t.nets.Contains(c.Addr) {
		return c
	}
	for chain := newChain(fields); chain.next() && chain.seen <= maxHops; {
		a, ok := forwardedAddr(chain.entry)
		if !ok {
			break // what stands left of garbage cannot be believed
		}
		c.Addr, c.Hop = a, chain.position
		if !t.nets.Contains(a) {
			break
		}
	}
	return c
}

// maxHops bounds what is read of X-Forwarded-For: more is an attack.
const maxHops = 32

// chain walks the entries of all X-Forwarded-For fields from the right.
type chain struct {
	fields   wire.Fields
	i        int    // index of the field that rest is of
	rest     string // left of the current entry
	more     bool   // rest holds an entry, perhaps an empty one
	entry    string
	position int // of entry, from the left and from 1
	seen     int
}

func newChain(fields wire.Fields) chain {
	c := chain{fields: fields, i: len(fields), position: 1}
	for i := range fields {
		if fields[i].ID == wire.XForwardedFor {
			c.position += 1 + strings.Count(fields[i].Value, ",")
		}
	}
	return c
}

func (c *chain) next() bool {
	for !c.more {
		if c.i--; c.i < 0 {
			return false
		}
		if c.fields[c.i].ID == wire.XForwardedFor {
			c.rest, c.more = c.fields[c.i].Value, true
		}
	}
	comma := strings.LastIndexByte(c.rest, ',')
	c.entry = strings.TrimSpace(c.rest[comma+1:])
	if c.more = comma >= 0; c.more {
		c.rest = c.rest[:comma]
	}
	c.position--
	c.seen++
	return true
}

// forwardedAddr reads an entry of X-Forwarded-For: an address, with a port or brackets
// as some proxies write.
func forwardedAddr(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap().WithZone(""), true
	}
	if n := len(s); n > 2 && s[0] == '[' && s[n-1] == ']' {
		if a, err := netip.ParseAddr(s[1 : n-1]); err == nil {
			return a.Unmap().WithZone(""), true
		}
	}
	return netip.Addr{}, false
}

// Hops is the table that shows how the client's address was found, nearest hop first.
func (x *Exchange) Hops(t *Trust) []reason.Hop {
	c := x.Client
	hops := []reason.Hop{{Address: c.Peer.String(), From: "socket", Trusted: t.Has(c.Peer)}}
	if c.Announced.IsValid() {
		hops[0].Why = "a trusted proxy that announced the client"
		hops = append(hops, reason.Hop{Address: c.Announced.String(), From: "PROXY protocol", Trusted: t.Has(c.Announced)})
	}
	reached := hops[len(hops)-1].Trusted
	chosen := len(hops) - 1
	for chain := newChain(x.Fields); chain.next() && chain.seen <= maxHops; {
		a, ok := forwardedAddr(chain.entry)
		h := reason.Hop{Address: chain.entry, From: "X-Forwarded-For[" + strconv.Itoa(chain.position) + "]"}
		if len(h.Address) > 64 {
			h.Address = h.Address[:64] + "…"
		}
		h.Address = strings.Clone(h.Address)
		if ok {
			h.Address, h.Trusted = a.String(), t.Has(a)
		}
		switch {
		case !reached && t.empty:
			h.Why = "ignored: the gateway has no trustedProxies"
		case !reached:
			h.Why = "ignored"
			if last := hops[len(hops)-1]; !strings.HasPrefix(last.Why, "ignored") && last.Why != noAddress {
				h.Why += ": " + last.Address + " is not in trustedProxies"
			}
		case !ok:
			h.Why = noAddress
			reached = false
		default:
			h.Why = "believed, because " + hops[len(hops)-1].Address + " is a trusted proxy"
			chosen = len(hops)
			reached = h.Trusted
		}
		hops = append(hops, h)
	}
	hops[chosen].Chosen = true
	if hops[0].Why == "" {
		if hops[0].Why = "the address of the connection"; chosen > 0 {
			hops[0].Why = "a trusted proxy"
		}
	}
	return hops
}

const noAddress = "no address; nothing left of it is believed"

// addressFacts are what every verdict on an address rests on.
func (x *Exchange) addressFacts(t *Trust) []reason.Fact {
	return []reason.Fact{
		reason.Public("address", x.Client.Addr),
		reason.Own("hops", x.Hops(t)),
	}
}
