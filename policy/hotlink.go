package policy

import (
	"net/netip"
	"strings"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// Hotlink lets pages of some sites embed what this API serves, and refuses those of others.
//
// Browsers say in Referer which page asks, and in Origin which site; those that leave both out often
// still say in Sec-Fetch-Site whether it was another site. Pages of the API's own host may always embed. Calls that
// name no page come from programs, from bookmarks, and from people whose browser or network removes the
// header: refusing them refuses people too, so that is a setting.
//
// Whoever writes the header as they like passes. The policy keeps other sites from using up your traffic; it
// protects no secrets.
//
//	policies:
//	- hotlink: {hosts: [shop.test, "*.shop.test"]}
type Hotlink struct {
	// Hosts whose pages may embed, besides the API's own: "shop.test", or "*.shop.test" for every name below.
	Hosts []string `json:"hosts" example:"[shop.test, '*.shop.test']"`
	// Empty says whether calls that name no page may pass.
	Empty string `json:"empty" enum:"allow,deny" default:"allow"`
}

var (
	hotlinkForeign = reason.New(reason.Reason{
		Code: "hotlink.foreign", Status: 403,
		Title:  "Pages of this site may not embed this",
		Says:   "a page of {host} asks for this, and only pages of {own}[ and of {allowed}] may",
		Wanted: "a page of {own}[ or of {allowed}]",
		Seen:   "{field}: {seen}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "let the page link to a page of {own} instead, or bring a copy of its own"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to add {host} to the hosts of the policy hotlink"},
		},
		Hint: "policy hotlink, field hosts: a host alone, without scheme, port and path",
	})
	hotlinkEmpty = reason.New(reason.Reason{
		Code: "hotlink.empty", Status: 403,
		Title:  "The call does not say which page asks",
		Says:   "only pages of {own}[ and of {allowed}] may ask for this, and the call says of none",
		Wanted: "the header Referer with a page of {own}[ or of {allowed}]",
		Seen:   "neither Referer nor Origin[; Sec-Fetch-Site: {site}]",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "follow a link on a page of {own}; if you did, let your browser send the header Referer"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to set empty: allow of the policy hotlink"},
		},
		Hint: "pages with Referrer-Policy: no-referrer send none, and so do programs",
	})
)

type hotlinkCheck struct {
	exact, below []string // lower case; below begin with a point
	hosts        []string
	empty        bool // may call
	at, emptyAt  *reason.Source
}

// Compile reads the hosts.
func (p *Hotlink) Compile(env *Env) any {
	c := &hotlinkCheck{hosts: p.Hosts, empty: p.Empty == "allow", at: env.Source("hosts"), emptyAt: env.Source("empty")}
	for i, h := range p.Hosts {
		at := index("hosts", i)
		name, wild := strings.CutPrefix(strings.ToLower(h), "*.")
		switch {
		case h == "*":
			env.Problem(at, "leave the policy out", `"*" lets every page embed`)
		case strings.Contains(h, "://"):
			env.Problem(at, "write "+hostOf(h), "%q is a URL; hosts have no scheme", h)
		case !isHostName(name) && hostOf("http://"+h) != "" && hostOf("http://"+h) != strings.ToLower(h):
			env.Problem(at, "write "+hostOf("http://"+h), "%q is more than a host: port and path do not count", h)
		case !isHostName(name):
			env.Problem(at, `such as shop.test, or "*.shop.test" for every name below`, "%q is no host", h)
		case wild:
			if !strings.Contains(name, ".") {
				env.Lint("hotlink.wide-wildcard", at, "name the site", "%s is every site below %s", h, name)
			}
			c.below = append(c.below, "."+name)
		default:
			c.exact = append(c.exact, name)
		}
	}
	return c
}

// isHostName says that s is a DNS name or an address, in lower case.
func isHostName(s string) bool {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return a.Zone() == "" && a.Is6() == strings.HasPrefix(s, "[")
	}
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// hostOf is the host of an absolute http URL as browsers write it: without user, port and path. "" stands for
// what is no such URL.
func hostOf(url string) string {
	i := strings.Index(url, "://")
	if i < 0 || !wire.EqualFold(url[:i], "http") && !wire.EqualFold(url[:i], "https") {
		return ""
	}
	authority := url[i+3:]
	if end := strings.IndexAny(authority, `/?#\`); end >= 0 {
		authority = authority[:end]
	}
	if strings.Contains(authority, "@") { // browsers take it out; with it the host is easily misread
		return ""
	}
	return bareHost(authority)
}

// bareHost is an authority without its port, and without the point at the end of a full name.
func bareHost(authority string) string {
	if strings.HasPrefix(authority, "[") {
		if end := strings.IndexByte(authority, ']'); end >= 0 {
			return authority[:end+1]
		}
		return ""
	}
	host, _, _ := strings.Cut(authority, ":")
	return strings.TrimSuffix(host, ".")
}

func (c *hotlinkCheck) allows(host, own string) bool {
	if host == "" {
		return false
	}
	if wire.EqualFold(host, own) {
		return true
	}
	for _, h := range c.exact {
		if wire.EqualFold(h, host) {
			return true
		}
	}
	for _, h := range c.below {
		if n := len(host) - len(h); n > 0 && wire.EqualFold(host[n:], h) {
			return true
		}
	}
	return false
}

// Impersonal is true: only the page counts.
func (c *hotlinkCheck) Impersonal() bool { return true }

// Check compares the hosts of the pages that the call names.
func (c *hotlinkCheck) Check(x *Exchange) reason.Verdict {
	own := bareHost(x.Authority)
	named := ""
	for i := range x.Fields {
		f := &x.Fields[i]
		if f.ID != wire.Referer && f.ID != wire.Origin || f.Value == "" || f.ID == wire.Origin && f.Value == "null" {
			continue
		}
		host := hostOf(f.Value)
		if !c.allows(host, own) {
			if host == "" {
				host = "an unknown site"
			}
			return c.foreign(x, own, f.ID.String(), host, strings.Clone(f.Value[:min(len(f.Value), 200)]))
		}
		named = host
	}
	site, _ := x.Fields.Lookup("Sec-Fetch-Site")
	switch {
	case named != "":
	case wire.EqualFold(site, "same-origin"):
		named = own
	case wire.EqualFold(site, "cross-site"):
		return c.foreign(x, own, "Sec-Fetch-Site", "another site, which hides its name", "cross-site")
	case !c.empty:
		facts := append(c.facts(own), x.OwnerFact(), reason.Rule("empty", "deny").At(c.emptyAt))
		if site != "" {
			facts = append(facts, reason.Public("site", strings.Clone(site[:min(len(site), 40)])))
		}
		return hotlinkEmpty.Refuse(facts...)
	}
	if x.Explaining {
		if named == "" {
			return reason.Pass(reason.Public("page", "none named"), reason.Rule("empty", "allow").At(c.emptyAt))
		}
		return reason.Pass(reason.Public("page", "of "+named))
	}
	return reason.Verdict{}
}

func (c *hotlinkCheck) foreign(x *Exchange, own, field, host, seen string) reason.Verdict {
	return hotlinkForeign.Refuse(append(c.facts(own), reason.Public("host", strings.Clone(host)), reason.Public("field", field), reason.Public("seen", withoutQuery(seen)), x.OwnerFact())...)
}

// withoutQuery leaves out what may be secret in the address of somebody's page.
func withoutQuery(url string) string {
	if i := strings.IndexAny(url, "?#"); i >= 0 {
		return url[:i] + "…"
	}
	return url
}

func (c *hotlinkCheck) facts(own string) []reason.Fact {
	facts := []reason.Fact{reason.Public("own", strings.Clone(own))}
	if len(c.hosts) > 0 {
		facts = append(facts, reason.Rule("allowed", c.hosts).At(c.at))
	}
	return facts
}
