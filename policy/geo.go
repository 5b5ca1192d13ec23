package policy

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whygate/whygate/reason"
)

// Geo lets calls in by the country of the client's address, and by the network operator (autonomous
// system) that it belongs to.
//
// Both are looked up in a database in the MaxMind format (.mmdb), such as GeoLite2, DB-IP or iptoasn; the
// gateway brings none along. A country database, one of autonomous systems and one that holds both
// will do: a later file is asked for what those before it do not know. Files are read into memory, and again
// within seconds of their change, without a new revision; a new file that is no database leaves the old one in
// use.
//
// What is denied wins. With an allow list, whoever is on none of the allow lists is refused; an allowed
// autonomous system may call from any country that is not denied. Addresses that no database can
// know (private, loopback and link-local ones), and those that it does not know, are unknown: whether they may
// call is a setting. A denied entry decides before that, an allowed one too.
//
// The address is the one found through the gateway's trustedProxies, as for ip-access. Countries are an
// estimate, and whoever rents a machine elsewhere comes from elsewhere: this policy keeps calls away, it
// identifies nobody.
//
//	policies:
//	- geo: {database: [country.mmdb], allow: [DE, AT, CH], unknown: deny}
type Geo struct {
	// Database names up to four files, relative to the document.
	Database []string `json:"database" required:"true" example:"[country.mmdb, asn.mmdb]"`
	// Allow lists countries that may call, as ISO 3166-1 codes of two letters.
	Allow []string `json:"allow" pattern:"^[A-Za-z]{2}$" form:"a country code of two letters" example:"[DE, AT]"`
	// Deny lists countries that may not.
	Deny []string `json:"deny" pattern:"^[A-Za-z]{2}$" form:"a country code of two letters" example:"[XK]"`
	// AllowASN lists autonomous systems that may call, by number.
	AllowASN []uint32 `json:"allowASN" min:"1" example:"[64496]"`
	// DenyASN lists autonomous systems that may not.
	DenyASN []uint32 `json:"denyASN" min:"1" example:"[64511]"`
	// Unknown says whether those may call whose country, or autonomous system where one is listed, is not known.
	Unknown string `json:"unknown" enum:"allow,deny" default:"deny"`
}

var (
	geoDenied = reason.New(reason.Reason{
		Code: "geo.denied", Status: 403,
		Title:  "This API may not be called from your country or network",
		Says:   "{address} is in {place}, and calls from {match|there} are denied",
		Wanted: "an address outside {denied}",
		Seen:   "{address} in {place}[, by {database}]",
		Fixes: []reason.Fix{
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to take {match|your country} off the deny list"},
			{By: reason.Operator, Text: "if {place} is wrong for {address}, tell the maker of the database, and allow the address meanwhile"},
		},
		Hint: "if {address} is not the client but a proxy, add that proxy to trustedProxies of the Gateway",
	})
	geoNotAllowed = reason.New(reason.Reason{
		Code: "geo.not-allowed", Status: 403,
		Title:  "Your country or network is not on the allow list of this API",
		Says:   "{address} is in {place}, which is not allowed[; allowed are {allowed}]",
		Wanted: "an address in {allowed}",
		Seen:   "{address} in {place}[, by {database}]",
		Fixes: []reason.Fix{
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to allow {place}"},
			{By: reason.Operator, Text: "if {place} is wrong for {address}, tell the maker of the database, and allow its network meanwhile"},
		},
		Hint: "if {address} is not the client but a proxy, add that proxy to trustedProxies of the Gateway",
	})
	geoUnknown = reason.New(reason.Reason{
		Code: "geo.unknown", Status: 403,
		Title:  "It is not known where your address is",
		Says:   "the {what} of {address} is not known[: {why}], and such calls are not let in",
		Wanted: "an address whose {what} is known[, in {allowed}]",
		Seen:   "{address}, {why}",
		Fixes: []reason.Fix{
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to set unknown: allow, or to allow your address by ip-access on a route of its own"},
			{By: reason.Operator, Text: "bring the database up to date[; in use is {database}]"},
		},
		Hint: "if {address} is not the client but a proxy, add that proxy to trustedProxies of the Gateway",
	})
)

type geoCheck struct {
	files               []*followed[geoDB]
	allow, deny         []country
	allowASN, denyASN   []uint32
	unknown             bool // may call
	byCountry, byASN    bool
	allowText, denyText []string
	allowAt, denyAt     *reason.Source
	unknownAt           *reason.Source
	trust               *Trust
}

// Compile opens the databases.
func (p *Geo) Compile(env *Env) any {
	c := &geoCheck{trust: env.Trust, unknown: p.Unknown == "allow", unknownAt: env.Source("unknown"), allowASN: p.AllowASN, denyASN: p.DenyASN}
	c.allow, c.deny = countries(env, "allow", p.Allow), countries(env, "deny", p.Deny)
	c.byCountry, c.byASN = len(p.Allow)+len(p.Deny) > 0, len(p.AllowASN)+len(p.DenyASN) > 0
	if !c.byCountry && !c.byASN {
		env.Problem("", "list countries under allow or deny, or autonomous systems under allowASN or denyASN", "geo without a list decides nothing")
	}
	for i, a := range p.Allow {
		if slices.ContainsFunc(p.Deny, func(d string) bool { return strings.EqualFold(a, d) }) {
			env.Problem(index("allow", i), "take it off one of the lists", "%s is allowed and denied", strings.ToUpper(a))
		}
	}
	for i, a := range p.AllowASN {
		if slices.Contains(p.DenyASN, a) {
			env.Problem(index("allowASN", i), "take it off one of the lists", "AS%d is allowed and denied", a)
		}
	}
	c.allowText, c.denyText = placesText(c.allow, p.AllowASN), placesText(c.deny, p.DenyASN)
	if c.allowAt = env.Source("allow"); len(p.Allow) == 0 {
		c.allowAt = env.Source("allowASN")
	}
	if c.denyAt = env.Source("deny"); len(p.Deny) == 0 {
		c.denyAt = env.Source("denyASN")
	}
	if len(p.Database) > geoFiles {
		env.Problem("database", "one for countries and one for autonomous systems will do", "geo asks at most %d databases, these are %d", geoFiles, len(p.Database))
	}
	knowsCountry, knowsASN, readable := false, false, true
	for i, name := range p.Database {
		at := index("database", i)
		f := follow(env, "geo", at, name, geoFileBytes, openGeoDB)
		db := f.now.Load()
		if db == nil {
			readable = false
			continue
		}
		c.files = append(c.files, f)
		knowsCountry, knowsASN = knowsCountry || db.countries, knowsASN || db.asns
		if age := time.Since(db.built); age > geoOld {
			env.Lint("geo.old-database", at, "networks move between countries and operators: bring it up to date", "%s is %d days old", db.name, int(age/(24*time.Hour)))
		}
	}
	if readable && c.byCountry && !knowsCountry {
		env.Problem("database", "name a country database", "countries are listed, and no database knows any")
	}
	if readable && c.byASN && !knowsASN {
		env.Problem("database", "add a database of autonomous systems (ASN)", "autonomous systems are listed, and no database knows any")
	}
	if env.Local.IsValid() {
		env.Lint("geo.judges-proxy", "", behindProxy, "the listeners take connections of this machine only, so all calls are judged by one address, that of the proxy in front")
	}
	return c
}

// geoFiles is how many databases are asked: countries and operators, each for IPv4 and IPv6.
const geoFiles = 4

// geoOld is when a database is worth a warning: about one network in thirty has moved by then.
const geoOld = 180 * 24 * time.Hour

// countries are the codes in upper case. What no country has, though it looks like a code, is told.
func countries(env *Env, field string, codes []string) (list []country) {
	for i, code := range codes {
		code = strings.ToUpper(code)
		if right, ok := wrongCodes[code]; ok {
			env.Problem(index(field, i), "write "+right, "%s is no country code of ISO 3166-1", code)
		}
		list = append(list, country{code[0], code[1]})
	}
	return list
}

// wrongCodes are what people write for country codes, and the codes.
var wrongCodes = map[string]string{"UK": "GB", "EN": "GB", "EU": "the countries one by one", "EL": "GR", "SU": "RU", "AN": "CW, SX or BQ", "YU": "RS"}

func placesText(codes []country, asns []uint32) (list []string) {
	for _, c := range codes {
		list = append(list, c.String())
	}
	for _, n := range asns {
		list = append(list, asnText(n))
	}
	return list
}

func asnText(n uint32) string { return "AS" + strconv.FormatUint(uint64(n), 10) }

// geoPlace is where an address is, as far as it is known.
type geoPlace struct {
	country country // zero: unknown
	asn     uint32  // 0: unknown
}

// find asks the databases.
func (c *geoCheck) find(a netip.Addr) (p geoPlace) {
	if noPlace(a) != "" {
		return geoPlace{}
	}
	for _, f := range c.files {
		db := f.now.Load()
		if p.country == (country{}) && db.countries && c.byCountry || p.asn == 0 && db.asns && c.byASN {
			q := db.find(a)
			if p.country == (country{}) {
				p.country = q.country
			}
			if p.asn == 0 {
				p.asn = q.asn
			}
		}
	}
	return p
}

// noPlace says why an address is nowhere, or "".
func noPlace(a netip.Addr) string {
	switch {
	case a.IsLoopback():
		return "it is this machine itself"
	case a.IsPrivate():
		return "it is an address of a private network"
	case a.IsLinkLocalUnicast(), a.IsUnspecified(), a.IsMulticast():
		return "it is no address of the internet"
	case sharedSpace.Contains(a):
		return "it is an address behind a provider's translation (RFC 6598)"
	}
	return ""
}

var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// Check decides by where the client's address is.
func (c *geoCheck) Check(x *Exchange) reason.Verdict {
	p := c.find(x.Client.Addr)
	known := p.country != country{}
	switch {
	case known && slices.Contains(c.deny, p.country) && !x.lifted(geoDenied):
		return c.refuse(x, geoDenied, p, p.country.String())
	case p.asn != 0 && slices.Contains(c.denyASN, p.asn) && !x.lifted(geoDenied):
		return c.refuse(x, geoDenied, p, asnText(p.asn))
	case known && slices.Contains(c.allow, p.country), p.asn != 0 && slices.Contains(c.allowASN, p.asn):
	case c.byCountry && !known && !c.unknown:
		return c.refuse(x, geoUnknown, p, "country")
	case c.byASN && p.asn == 0 && !c.unknown:
		return c.refuse(x, geoUnknown, p, "network operator")
	case c.byCountry && !known, c.byASN && p.asn == 0: // allowed all the same
	case len(c.allow)+len(c.allowASN) > 0:
		return c.refuse(x, geoNotAllowed, p, "")
	}
	if x.Explaining {
		return reason.Pass(append(x.addressFacts(c.trust), c.placeFacts(p)...)...)
	}
	return reason.Verdict{}
}

// refuse tells where the address is and what was wanted. word is the entry that matched, or what is not known.
func (c *geoCheck) refuse(x *Exchange, r *reason.Reason, p geoPlace, word string) reason.Verdict {
	facts := append(x.addressFacts(c.trust), x.OwnerFact())
	switch r {
	case geoDenied:
		facts = append(facts, reason.Rule("denied", c.denyText).At(c.denyAt), reason.Own("match", word))
	case geoNotAllowed:
		facts = append(facts, reason.Rule("allowed", c.allowText).At(c.allowAt))
	case geoUnknown:
		why := noPlace(x.Client.Addr)
		if why == "" {
			why = "no database knows it"
		}
		facts = append(facts, reason.Rule("unknown", "deny").At(c.unknownAt), reason.Public("what", word), reason.Public("why", why))
		if len(c.allowText) > 0 {
			facts = append(facts, reason.Rule("allowed", c.allowText).At(c.allowAt))
		}
	}
	return r.Refuse(append(facts, c.placeFacts(p)...)...)
}

// placeFacts say where an address is, and who says so.
func (c *geoCheck) placeFacts(p geoPlace) (facts []reason.Fact) {
	var words, names []string
	if p.country != (country{}) {
		words = append(words, p.country.String())
		facts = append(facts, reason.Public("country", p.country.String()))
	}
	if p.asn != 0 {
		words = append(words, asnText(p.asn))
		facts = append(facts, reason.Public("asn", int(p.asn)))
	}
	where := strings.Join(words, ", ")
	if where == "" {
		where = "an unknown place"
	}
	for _, f := range c.files {
		names = append(names, f.now.Load().name)
	}
	return append(facts, reason.Public("place", where), reason.Rule("database", strings.Join(names, " and ")))
}
