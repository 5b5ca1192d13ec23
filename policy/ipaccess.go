package policy

import (
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
)

// IPAccess lets calls in by the address of the client.
//
// A denied network wins over an allowed one. With an allow list, whoever is on neither list is
// refused; with a deny list alone, whoever is not on it may pass. The address is the one
// found through the gateway's trustedProxies; every verdict shows the table of hops
// that it was found by, and a caller sees their own at /.well-known/whygate/whoami.
//
//	policies:
//	- ip-access: {allow: [203.0.113.0/24, "2001:db8::/32"], deny: [203.0.113.66]}
type IPAccess struct {
	// Allow lists networks and addresses that may call.
	Allow []resource.Prefix `json:"allow" example:"[203.0.113.0/24]"`
	// Deny lists networks and addresses that may not, whatever Allow says.
	Deny []resource.Prefix `json:"deny" example:"[203.0.113.66]"`
}

var (
	ipDenied = reason.New(reason.Reason{
		Code: "ip-access.denied", Status: 403,
		Title:  "Your address may not call this API",
		Says:   "{address} may not call this API[: it lies in {network}, which is denied]",
		Wanted: "an address outside the denied networks {denied}",
		Seen:   "{address}[ of network {network}]",
		Fixes: []reason.Fix{
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to take your address off the deny list"},
			{By: reason.Caller, Text: "call from another network[; this call came from {address}]"},
		},
		Hint: "if {address} is not the client but a proxy, add that proxy to trustedProxies of the Gateway",
	})
	ipNotAllowed = reason.New(reason.Reason{
		Code: "ip-access.not-allowed", Status: 403,
		Title:  "Your address is not on the allow list of this API",
		Says:   "{address} lies in none of the allowed networks[ {allowed}]",
		Wanted: "an address in {allowed}",
		Seen:   "{address}[; nearest allowed network {nearest}]",
		Fixes: []reason.Fix{
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to allow your address[ {address}]"},
			{By: reason.Caller, Text: "call from an allowed network[; this call came from {address}]"},
		},
		Hint: "if {address} is not the client but a proxy, add that proxy to trustedProxies of the Gateway",
	})
)

type ipCheck struct {
	allow, deny bart.Lite
	allowed     []netip.Prefix
	denied      []netip.Prefix
	trust       *Trust
	at, denyAt  *reason.Source
}

// Compile builds the tables.
func (p *IPAccess) Compile(env *Env) any {
	c := &ipCheck{trust: env.Trust, at: env.Source("allow"), denyAt: env.Source("deny")}
	if len(p.Allow)+len(p.Deny) == 0 {
		env.Problem("", "list networks under allow or deny", "ip-access without networks decides nothing")
	}
	for _, n := range p.Allow {
		c.allow.Insert(n.Prefix)
		c.allowed = append(c.allowed, n.Prefix)
	}
	for i, n := range p.Deny {
		c.deny.Insert(n.Prefix)
		c.denied = append(c.denied, n.Prefix)
		for _, t := range env.Trust.Networks() {
			switch {
			case holds(p.Allow, t): // only what was allowed too wide is taken back
			case t.Overlaps(n.Prefix) && t.Bits() >= n.Bits():
				env.Lint("ip-access.denies-proxy", index("deny", i), "", "%v denies the trusted proxy %v: calls that come through it without X-Forwarded-For are refused", n, t)
			case t.Overlaps(n.Prefix) && t.Bits() > 0:
				env.Lint("ip-access.names-proxy", index("deny", i), namesProxy, "%v lies in the trusted proxies %v: whoever calls from there passes by writing X-Forwarded-For", n, t)
			}
		}
	}
	for i, n := range p.Allow {
		for _, t := range env.Trust.Networks() {
			switch {
			case holds(p.Deny, t):
			case t.Overlaps(n.Prefix) && t.Bits() >= n.Bits():
				env.Lint("ip-access.allows-proxy", index("allow", i), "allow the networks of clients only", "%v allows the trusted proxy %v: every call that reaches it without X-Forwarded-For is let in", n, t)
			case t.Overlaps(n.Prefix) && t.Bits() > 0:
				env.Lint("ip-access.names-proxy", index("allow", i), namesProxy, "%v lies in the trusted proxies %v: whoever calls from there is judged by what they write into X-Forwarded-For", n, t)
			}
		}
	}
	if env.Local.IsValid() {
		env.Lint("ip-access.judges-proxy", "", behindProxy, "the listeners take connections of this machine only, so all calls are judged by one address, that of the proxy in front")
	}
	return c
}

// holds says that the networks of a list hold all of n.
func holds(list []resource.Prefix, n netip.Prefix) bool {
	return slices.ContainsFunc(list, func(p resource.Prefix) bool { return p.Bits() <= n.Bits() && p.Overlaps(n) })
}

const namesProxy = "take clients out of trustedProxies of the Gateway"

// Check decides by the client's address.
func (c *ipCheck) Check(x *Exchange) reason.Verdict {
	a := x.Client.Addr
	if len(c.denied) > 0 && c.deny.Contains(a) {
		n, _ := c.deny.LookupPrefixLPM(netip.PrefixFrom(a, a.BitLen()))
		return ipDenied.Refuse(append(x.addressFacts(c.trust), x.OwnerFact(),
			reason.Rule("network", n).At(c.denyAt), reason.Rule("denied", c.denied))...)
	}
	if len(c.allowed) > 0 && !c.allow.Contains(a) {
		facts := append(x.addressFacts(c.trust), x.OwnerFact(), reason.Rule("allowed", c.allowed).At(c.at))
		if n, ok := nearest(a, c.allowed); ok {
			facts = append(facts, reason.Rule("nearest", n))
		}
		return ipNotAllowed.Refuse(facts...)
	}
	if x.Explaining {
		facts := x.addressFacts(c.trust)
		if n, ok := c.allow.LookupPrefixLPM(netip.PrefixFrom(a, a.BitLen())); ok {
			facts = append(facts, reason.Rule("allowed_by", n).At(c.at))
		} else {
			facts = append(facts, reason.Rule("not_in", c.denied).At(c.denyAt))
		}
		return reason.Pass(facts...)
	}
	return reason.Verdict{}
}

// nearest is the network that shares the most leading bits with a.
func nearest(a netip.Addr, nets []netip.Prefix) (best netip.Prefix, ok bool) {
	most := -1
	for _, n := range nets {
		if n.Addr().BitLen() != a.BitLen() {
			continue
		}
		x, y := a.AsSlice(), n.Addr().AsSlice()
		same := 0
		for same < n.Bits() && x[same/8]>>(7-same%8)&1 == y[same/8]>>(7-same%8)&1 {
			same++
		}
		if same > most {
			best, most = n, same
		}
	}
	return best, most >= 0
}
