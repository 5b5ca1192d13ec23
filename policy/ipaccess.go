package policy

import (
	"net/netip"
	"slices"

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
// Long lists stand in files: one network or address on each line, comments behind #, up to 100,000
// networks in a file. A file is read again within seconds of its change, without a new revision; as long as
// the new content has a mistake the old one stays in use, and the log says which line it is. A verdict
// names the file and the line of the entry that decided. Write a new file and rename it over the old
// one: then nobody ever reads half of it.
//
//	policies:
//	- ip-access: {allow: [203.0.113.0/24, "2001:db8::/32"], deny: [203.0.113.66]}
//	- ip-access: {denyFiles: [blocked.txt]}
type IPAccess struct {
	// Allow lists networks and addresses that may call.
	Allow []resource.Prefix `json:"allow" example:"[203.0.113.0/24]"`
	// Deny lists networks and addresses that may not, whatever Allow says.
	Deny []resource.Prefix `json:"deny" example:"[203.0.113.66]"`
	// AllowFiles are files with more networks that may call, relative to the document. An empty file allows
	// nobody.
	AllowFiles []string `json:"allowFiles" example:"[offices.txt]"`
	// DenyFiles are files with more networks that may not.
	DenyFiles []string `json:"denyFiles" example:"[blocked.txt]"`
}

var (
	ipDenied = reason.New(reason.Reason{
		Code: "ip-access.denied", Status: 403,
		Title:  "Your address may not call this API",
		Says:   "{address} may not call this API[: it lies in {network}, which is denied][ in {entry}]",
		Wanted: "an address outside the denied networks: {denied}",
		Seen:   "{address}[ of network {network}][, {entry}]",
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
	allow, deny []networkSource
	trust       *Trust
}

// Compile builds the tables.
func (p *IPAccess) Compile(env *Env) any {
	c := &ipCheck{trust: env.Trust}
	if len(p.Allow)+len(p.Deny)+len(p.AllowFiles)+len(p.DenyFiles) == 0 {
		env.Problem("", "list networks under allow or deny", "ip-access without networks decides nothing")
	}
	c.allow = networkSources(env, "allow", p.Allow, p.AllowFiles)
	c.deny = networkSources(env, "deny", p.Deny, p.DenyFiles)
	for _, t := range env.Trust.Networks() {
		if !holds(c.allow, t) { // only what was allowed too wide is taken back
			lintTrusted(env, c.deny, t, "ip-access.denies-proxy", "", "%v denies the trusted proxy %v: calls that come through it without X-Forwarded-For are refused",
				"%v lies in the trusted proxies %v: whoever calls from there passes by writing X-Forwarded-For")
		}
		if !holds(c.deny, t) {
			lintTrusted(env, c.allow, t, "ip-access.allows-proxy", "allow the networks of clients only", "%v allows the trusted proxy %v: every call that reaches it without X-Forwarded-For is let in",
				"%v lies in the trusted proxies %v: whoever calls from there is judged by what they write into X-Forwarded-For")
		}
	}
	if env.Local.IsValid() {
		env.Lint("ip-access.judges-proxy", "", behindProxy, "the listeners take connections of this machine only, so all calls are judged by one address, that of the proxy in front")
	}
	return c
}

// networkSources are the list and the files of one side.
func networkSources(env *Env, field string, list []resource.Prefix, files []string) (sources []networkSource) {
	if len(list) > 0 {
		s := networkSource{field: field, at: env.Source(field), fixed: &networkTable{}}
		for i, n := range list {
			s.fixed.add(n.Prefix, i)
			s.each = append(s.each, env.Source(index(field, i)))
			s.written = append(s.written, n.String())
		}
		s.fixed.done()
		sources = append(sources, s)
	}
	for i, name := range files {
		at := index(field+"Files", i)
		if name == "" {
			env.Problem(at, "such as offices.txt, relative to the document", "a file needs a name")
			continue
		}
		path := name
		if env.Resolve != nil {
			path = env.Resolve(name)
		}
		s := networkSource{field: at, at: env.Source(at), file: follow(env, "ip-access", at, name, networkFileBytes, networkFile(path))}
		if s.networks() != nil { // else it has been reported
			sources = append(sources, s)
		}
	}
	return sources
}

// lintTrusted warns of networks that are, or lie in, those of a trusted proxy.
func lintTrusted(env *Env, sources []networkSource, trusted netip.Prefix, code, hint, holdsProxy, liesInProxy string) {
	for i := range sources {
		s := &sources[i]
		for n, place := range s.networks().table.All() {
			if !n.Overlaps(trusted) {
				continue
			}
			field := s.field
			if s.file == nil {
				field = index(s.field, int(place))
			}
			switch {
			case trusted.Bits() >= n.Bits():
				env.Lint(code, field, hint, holdsProxy, n, trusted)
			case trusted.Bits() > 0:
				env.Lint("ip-access.names-proxy", field, namesProxy, liesInProxy, n, trusted)
			}
			if s.file != nil { // one of a file is enough
				break
			}
		}
	}
}

// holds says that a network of the sources holds all of n.
func holds(sources []networkSource, n netip.Prefix) bool {
	return slices.ContainsFunc(sources, func(s networkSource) bool {
		_, _, ok := s.networks().table.LookupPrefixLPM(n)
		return ok
	})
}

const namesProxy = "take clients out of trustedProxies of the Gateway"

// Check decides by the client's address.
func (c *ipCheck) Check(x *Exchange) reason.Verdict {
	a := x.Client.Addr
	for i := range c.deny {
		s := &c.deny[i]
		if t := s.networks(); t.table.Contains(a) && !x.lifted(ipDenied) {
			return c.refuseDenied(x, s, t)
		}
	}
	allowed := len(c.allow) == 0
	for i := range c.allow {
		allowed = allowed || c.allow[i].networks().table.Contains(a)
	}
	switch {
	case !allowed:
		return c.refuseOthers(x)
	case x.Explaining:
		return c.explain(x)
	}
	return reason.Verdict{}
}

func (c *ipCheck) refuseDenied(x *Exchange, s *networkSource, t *networkTable) reason.Verdict {
	n, i, _ := t.find(x.Client.Addr)
	at := s.place(i)
	facts := append(x.addressFacts(c.trust), x.OwnerFact(), reason.Rule("network", n).At(at), reason.Rule("denied", lists(c.deny)))
	if s.file != nil {
		facts = append(facts, reason.Rule("entry", at.String()))
	}
	return ipDenied.Refuse(facts...)
}

func (c *ipCheck) refuseOthers(x *Exchange) reason.Verdict {
	facts := append(x.addressFacts(c.trust), x.OwnerFact(), reason.Rule("allowed", lists(c.allow)).At(c.allow[0].at))
	var nearest netip.Prefix
	most := -1
	for i := range c.allow {
		if n, bits := c.allow[i].networks().nearest(x.Client.Addr); bits > most {
			nearest, most = n, bits
		}
	}
	if most >= 0 {
		facts = append(facts, reason.Rule("nearest", nearest))
	}
	return ipNotAllowed.Refuse(facts...)
}

// explain says what let an address pass.
func (c *ipCheck) explain(x *Exchange) reason.Verdict {
	facts := x.addressFacts(c.trust)
	for i := range c.allow {
		if n, place, ok := c.allow[i].networks().find(x.Client.Addr); ok {
			return reason.Pass(append(facts, reason.Rule("allowed_by", n).At(c.allow[i].place(place)))...)
		}
	}
	if len(c.deny) > 0 {
		facts = append(facts, reason.Rule("not_in", lists(c.deny)).At(c.deny[0].at))
	}
	return reason.Pass(facts...)
}
