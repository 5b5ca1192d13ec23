package policy

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// MTLS identifies the caller by the certificate that its client shows in the TLS handshake.
//
// The listener asks for it (clientCertificates and clientCA of its tls), and this policy judges it, so that a
// certificate that is missing, has expired, was issued by a stranger or is not welcome is refused with its own
// reason instead of a broken handshake. Who calls is what a Credential document says of the certificate's
// fingerprint, subject or name; besides, certificates may be allowed by rules of the policy. Behind a
// proxy that ends TLS, the certificate is read from a header, if that proxy is one of the gateway's
// trustedProxies. A certificate that was accepted is remembered, so that later calls cost a hash.
//
// Rules and transforms see the certificate: its subject is the subject of the identity, and claims holds subject, issuer,
// fingerprint and names.
//
//	policies:
//	- mtls: {ca: clients-ca.pem, allow: [{san: "*.partner.example"}]}
type MTLS struct {
	// CA is a PEM file of the authorities to believe. Empty: clientCA of the listeners. A certificate that
	// stands there itself is believed too.
	CA string `json:"ca" example:"clients-ca.pem"`
	// CRL is a file of certificate revocation lists (RFC 5280 §5), in PEM one after the other or one in DER. It is read
	// again when it changes. All certificates of a chain are looked up, those of authorities in between too.
	CRL string `json:"crl" example:"clients-ca.crl"`
	// CRLFailOpen lets certificates pass for which the file has no list, or none that is up to date; the records of
	// these calls say so.
	CRLFailOpen bool `json:"crlFailOpen"`
	// Allow lists certificates that may call without a Credential. All that a rule says must be so.
	Allow []CertificateRule `json:"allow"`
	// Accept says who may call: those listed by a Credential or under allow, or any certificate of an
	// authority that is believed.
	Accept string `json:"accept" enum:"listed,any" default:"listed"`
	// Header in which trusted proxies pass the certificate on: as Client-Cert does (RFC 9440), as PEM with URL
	// escapes (ssl_client_escaped_cert of nginx), in base64 alone (ssl_c_der,base64 of HAProxy, X-Forwarded-Tls-Client-Cert of
	// Traefik), or as X-Forwarded-Client-Cert with Cert (Envoy). From others it is not believed, and the upstream never sees it.
	Header string `json:"header" example:"Client-Cert"`
}

// CertificateRule describes certificates.
type CertificateRule struct {
	// Fingerprint is the SHA-256 of the certificate in hexadecimal.
	Fingerprint string `json:"fingerprint" pattern:"^([0-9a-f]{64})?$" form:"64 hexadecimal digits in small letters"`
	// Subject is the whole distinguished name, as refusals show it.
	Subject string `json:"subject" example:"CN=acme,O=Acme"`
	// Issuer is the whole distinguished name of the authority.
	Issuer string `json:"issuer" example:"CN=Clients CA"`
	// SAN is a name: DNS name, e-mail address, IP address or URI. "*." at the beginning stands for one label,
	// "/*" at the end for everything below.
	SAN string `json:"san" example:"*.partner.example"`
}

var (
	mtlsMissing = reason.New(reason.Reason{
		Code: "mtls.missing", Status: 401,
		Title:  "No client certificate was shown",
		Says:   "this API wants {wanted}, and the client showed none[; {slip}]",
		Wanted: "{wanted}",
		Seen:   "none[; {slip}]",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "connect with your client certificate: curl --cert CERT --key KEY, for instance"},
			{By: reason.Application, Text: "ask {owner|the owner of this API} for a certificate if you have none"},
		},
		Hint: "the listener asks for certificates if its tls has clientCA or clientCertificates; a proxy in front that ends TLS has to pass them on in a header",
	})
	mtlsMalformed = reason.New(reason.Reason{
		Code: "mtls.malformed", Status: 401,
		Title:  "The client certificate cannot be read",
		Says:   "the certificate in header {header} cannot be read: {fault}",
		Wanted: "a certificate as Client-Cert (RFC 9440), PEM with URL escapes, base64 or X-Forwarded-Client-Cert has it",
		Seen:   "{fault}",
		Fixes:  []reason.Fix{{By: reason.Operator, Text: "ask {operator|the operator} to look at what the proxy in front writes into {header}"}},
		Hint:   "the header came from the trusted proxy {proxy}",
	})
	mtlsExpired = reason.New(reason.Reason{
		Code: "mtls.expired", Status: 401,
		Title:  "The client certificate has expired",
		Says:   "the certificate {subject} expired {ago} ago, at {until}",
		Wanted: "a certificate that is still valid",
		Seen:   "{subject}, valid until {until}",
		Fixes:  []reason.Fix{{By: reason.Application, Text: "renew the certificate {subject}"}},
		Hint:   "a clock of this node that is wrong looks the same",
	})
	mtlsEarly = reason.New(reason.Reason{
		Code: "mtls.not-yet-valid", Status: 401,
		Title:  "The client certificate is not valid yet",
		Says:   "the certificate {subject} is valid from {from}, in {wait}",
		Wanted: "a call at or after {from}",
		Seen:   "a call at {now}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "wait {wait}"}},
		Hint:   "a clock of this node or of the authority that is wrong looks the same",
	})
	mtlsUntrusted = reason.New(reason.Reason{
		Code: "mtls.untrusted", Status: 401,
		Title:  "The client certificate comes from an authority that is not trusted here",
		Says:   "the certificate {subject} is not trusted: {fault}",
		Wanted: "a certificate for clients of an authority that is trusted here[: {authorities}]",
		Seen:   "{subject}, issued by {issuer}: {fault}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "use a certificate of an authority that is trusted here, and send the intermediate certificates along"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to trust {issuer}"},
		},
		Hint: "ca of policy mtls, or clientCA of the listener, lists the authorities that are trusted: {authorities}",
	})
	mtlsRevoked = reason.New(reason.Reason{
		Code: "mtls.revoked", Status: 401,
		Title:  "The client certificate has been revoked",
		Says:   "the certificate {revoked} was revoked by its authority {ago} ago, at {at}[: {why}]",
		Wanted: "a certificate that is not revoked",
		Seen:   "{revoked}, issued by {issuer}, on its revocation list as number {serial}",
		Fixes:  []reason.Fix{{By: reason.Application, Text: "ask {issuer} for a new certificate"}},
		Hint:   "{written} is read again when it changes",
	})
	mtlsUnchecked = reason.New(reason.Reason{
		Code: "mtls.revocation-unknown", Status: 503,
		Title:  "Client certificates cannot be checked at the moment",
		Says:   "whether the certificate {subject} has been revoked cannot be told",
		Wanted: "an up to date revocation list of {issuer}",
		Seen:   "{fault|none}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "try again in {retry_after}; the certificate itself may be good"},
			{By: reason.Operator, Text: "put the newest list of {issuer} into {written}, for one each hour by a timer"},
		},
		Hint: "{fault}; crlFailOpen of policy mtls would let calls pass meanwhile",
	})
	mtlsNotAllowed = reason.New(reason.Reason{
		Code: "mtls.not-allowed", Status: 403,
		Title:  "This client certificate may not call this API",
		Says:   "the certificate {subject} is valid, and neither a Credential nor this API allows it to call",
		Wanted: "a certificate that a Credential or policy mtls names[: {allowed}]",
		Seen:   "{subject}, issued by {issuer}[, names {names}], fingerprint {fingerprint}",
		Fixes:  []reason.Fix{{By: reason.Owner, Text: "ask {owner|the owner of this API} to allow the certificate with the fingerprint {fingerprint}"}},
		Hint:   "name it in a Credential (certificate: fingerprint, subject or san), or under allow of policy mtls",
	})
	mtlsLapses = newLapses("mtls.credential-", "certificate", "certificate", "certificate")
)

const (
	maxCertHeader = 16 << 10
	maxNames      = 100 // of a certificate that are looked at
	maxChain      = 10
)

// accepted is who a certificate belongs to. credential is nil where a rule of the policy lets it in.
type accepted struct {
	credential *consumer.Credential
	identity   *consumer.Identity
	subject    string
	by         string // what allowed it
	// lists are those in which it was looked up, and unchecked is what they could not tell.
	lists     *revocations
	unchecked string
}

type mtlsCheck struct {
	MTLS
	consumers   *consumer.Directory
	trust       *Trust
	roots       *x509.CertPool
	authorities string
	allowed     string
	known       *recent[*accepted]
	challenge   string
	lists       *followed[revocations] // nil without
	at, allowAt *reason.Source
	crlAt       *reason.Source
}

// Compile reads the authorities.
func (p *MTLS) Compile(env *Env) any {
	c := &mtlsCheck{MTLS: *p, consumers: env.Consumers, trust: env.Trust, roots: x509.NewCertPool(), known: newRecent[*accepted](4096),
		challenge: "ClientCertificate realm=" + quote(env.Route.API), at: env.Source("ca"), allowAt: env.Source("allow"), crlAt: env.Source("crl")}
	roots := env.Authorities
	if p.CA != "" {
		var err error
		path := env.Resolve(p.CA)
		if env.Watch != nil {
			env.Watch(path)
		}
		if roots, err = ReadAuthorities(path); err != nil {
			env.Problem("ca", "a PEM file with certificates; its path is relative to the document", "%v", err)
			return c
		}
	}
	if len(roots) == 0 {
		env.Problem("ca", "name a PEM file under ca, or under clientCA of a listener", "mtls believes no authority, so it can accept no certificate")
	}
	var names []string
	for _, a := range roots {
		c.roots.AddCert(a)
		if len(names) < 20 {
			names = append(names, a.Subject.String())
		}
		if a.NotAfter.Before(time.Now()) {
			env.Lint("mtls.authority-expired", "ca", "", "the authority %s expired at %v", a.Subject, a.NotAfter.UTC())
		}
	}
	c.authorities = reason.List(names)
	var rules []string
	for i, r := range p.Allow {
		if r == (CertificateRule{}) {
			env.Problem(index("allow", i), "accept: any lets every certificate of the authorities in", "a rule that says nothing would allow every certificate")
		}
		rules = append(rules, r.String())
	}
	if c.allowed = strings.Join(rules, "; "); p.Accept == "any" && len(p.Allow) > 0 {
		env.Lint("mtls.allow-unused", "allow", "take accept: any out if only these may call", "accept: any lets certificates in that no rule allows")
	}
	if p.CRL != "" {
		c.lists = follow(env, "mtls", "crl", p.CRL, crlFileBytes, readRevocations)
		c.lintLists(env, roots)
	} else if p.CRLFailOpen {
		env.Problem("crlFailOpen", "name a file under crl, or take it out", "there are no revocation lists that could be away")
	}
	if p.Header != "" {
		env.headerName("header", p.Header)
		if len(env.Trust.Networks()) == 0 {
			env.Problem("header", "name the proxies under trustedProxies of the Gateway", "nobody is believed to write certificates into headers, since the gateway has no trustedProxies")
		}
	} else if !slices.ContainsFunc(env.Gateway.Listeners, asksForCertificate) {
		env.Lint("mtls.nobody-asks", "", "write clientCA: FILE under tls of a listener, or name a header here", "no listener asks clients for certificates, so every call is refused")
	}
	return c
}

func asksForCertificate(l resource.Listener) bool {
	return l.TLS != nil && l.TLS.ClientCertificates != "off" && (l.TLS.ClientCertificates != "" || l.TLS.ClientCA != "")
}

// maxAuthorities bounds a file of authorities: all that browsers believe take a quarter of a megabyte.
const maxAuthorities = 16 << 20

// ReadAuthorities reads the certificates of a PEM file.
func ReadAuthorities(path string) (list []*x509.Certificate, err error) {
	text, err := resource.ReadFile(path, maxAuthorities)
	if err != nil {
		return nil, fmt.Errorf("reading the authorities: %s: %w", path, err)
	}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("the file of authorities holds a %s", excerpt(block.Type, 40))
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the file cannot be read: %v", len(list)+1, err)
		}
		list = append(list, cert)
	}
	if len(list) == 0 {
		return nil, errors.New("the file holds no certificates in PEM")
	}
	return list, nil
}

// String is a rule in words.
func (r CertificateRule) String() string {
	var parts []string
	for _, p := range [][2]string{{"fingerprint", r.Fingerprint}, {"subject", r.Subject}, {"issuer", r.Issuer}, {"san", r.SAN}} {
		if p[1] != "" {
			parts = append(parts, p[0]+" "+p[1])
		}
	}
	return strings.Join(parts, ", ")
}

// matches says that all of a rule is so.
func (r *CertificateRule) matches(leaf *x509.Certificate, fingerprint string, names []string) bool {
	return (r.Fingerprint == "" || r.Fingerprint == fingerprint) && (r.Subject == "" || r.Subject == leaf.Subject.String()) &&
		(r.Issuer == "" || r.Issuer == leaf.Issuer.String()) && (r.SAN == "" || slices.ContainsFunc(names, func(n string) bool { return nameMatches(r.SAN, n) }))
}

func nameMatches(rule, name string) bool {
	if below, ok := strings.CutSuffix(rule, "/*"); ok {
		return strings.HasPrefix(name, below+"/") && len(name) > len(below)+1 && !strings.Contains(name, "/../")
	}
	if rest, ok := strings.CutPrefix(rule, "*."); ok {
		label, domain, found := strings.Cut(name, ".")
		return found && label != "" && label != "*" && wire.EqualFold(domain, rest)
	}
	return rule == name || !strings.Contains(rule, "/") && wire.EqualFold(rule, name)
}

// Presents is whether there is a certificate.
func (c *mtlsCheck) Presents(x *Exchange) bool {
	if c.behindProxy(x) {
		v, ok := x.Fields.Lookup(c.Header)
		return ok && v != ""
	}
	return x.TLS != nil && len(x.TLS.PeerCertificates) > 0
}

// Wants names the certificate.
func (c *mtlsCheck) Wants() string { return "a client certificate" }

// Challenge is what a 401 asks for. No scheme is registered for certificates.
func (c *mtlsCheck) Challenge(*Exchange) string { return c.challenge }

// behindProxy says that the call comes from a trusted proxy, which writes the certificate of its client into a
// header. The certificate of the connection would be that of the proxy. Who is announced by PROXY protocol
// writes headers without anybody looking at them, so it is the announced that has to be trusted.
func (c *mtlsCheck) behindProxy(x *Exchange) bool {
	return c.Header != "" && c.trust.Has(x.Client.Nearest())
}

// Check judges the certificate.
func (c *mtlsCheck) Check(x *Exchange) reason.Verdict {
	if !c.Presents(x) {
		switch {
		case x.Preflight:
			return x.refusePreflight(c.Wants()+", which browsers do not show then", c.at)
		case x.Explaining && x.TLS == nil && x.Scheme == "https" && !c.trust.Has(x.Client.Nearest()):
			x.Unknown = true // who asks cannot show a certificate
			return reason.Pass(reason.Public("wanted", c.Wants()).At(c.at))
		}
		return c.missing(x)
	}
	var key [sha256.Size]byte
	var header string
	if c.behindProxy(x) {
		if header, _ = x.Fields.Lookup(c.Header); x.Fields.Count(c.Header) > 1 {
			return c.malformed(x, "it is there more than once")
		}
		if len(header) > maxCertHeader {
			return c.malformed(x, "it is longer than "+reason.Bytes(maxCertHeader).String())
		}
		key = sha256.Sum256(unsafe.Slice(unsafe.StringData(header), len(header)))
	} else {
		for _, cert := range x.TLS.PeerCertificates {
			var both [2 * sha256.Size]byte
			copy(both[:], key[:])
			one := sha256.Sum256(cert.Raw)
			copy(both[sha256.Size:], one[:])
			key = sha256.Sum256(both[:])
		}
	}
	a, ok := c.known.find(&key, x.Now)
	if !ok || x.Explaining || a.lists != c.listsNow() { // which may be about another time
		chain, err := c.chain(x, header)
		if err != nil {
			return c.malformed(x, err.Error())
		}
		var v reason.Verdict
		var until time.Time
		if a, until, v = c.judge(x, chain); v.Refused() {
			if v.Reason.Status == 401 {
				x.Extra.Put(wire.WWWAuthenticate, c.challenge)
			}
			return v
		}
		if !x.Explaining {
			c.known.put(&key, a, x.Now, until)
		}
	}
	if a.unchecked != "" {
		x.Note("mtls.revocation-unknown", "let pass although nobody knows whether the certificate was revoked: "+a.unchecked)
	}
	if a.credential == nil {
		x.Identity = a.identity
	} else {
		if v := mtlsLapses.lapsed(x, a.credential); v.Refused() {
			x.Extra.Put(wire.WWWAuthenticate, c.challenge)
			return v
		}
		if v := x.identify(a.credential); v.Refused() {
			return v
		}
		x.Identity = a.identity
	}
	if x.Explaining {
		facts := []reason.Fact{reason.Own("subject", a.subject), reason.Rule("allowed_by", a.by).At(c.allowAt)}
		if a.credential != nil {
			facts = append(facts, reason.Own("application", a.credential.Application.Name))
		}
		return reason.Pass(facts...)
	}
	return reason.Verdict{}
}

// missing says why there may be no certificate.
func (c *mtlsCheck) missing(x *Exchange) reason.Verdict {
	x.Extra.Put(wire.WWWAuthenticate, c.challenge)
	facts := []reason.Fact{reason.Public("wanted", c.Wants()).At(c.at), x.OwnerFact()}
	slip := ""
	switch _, has := x.Fields.Lookup(c.Header); {
	case c.behindProxy(x):
		slip = "the proxy in front passed none on in header " + c.Header
	case c.Header != "" && has:
		slip = "the header " + c.Header + " is there, but did not come from a trusted proxy"
	case x.TLS == nil:
		slip = "the call came without TLS"
		if x.Scheme == "https" {
			slip += " from a proxy"
		}
	}
	if slip != "" {
		facts = append(facts, reason.Public("slip", slip))
	}
	return mtlsMissing.Refuse(facts...)
}

func (c *mtlsCheck) malformed(x *Exchange, fault string) reason.Verdict {
	x.Extra.Put(wire.WWWAuthenticate, c.challenge)
	facts := []reason.Fact{reason.Public("header", c.Header), reason.Public("fault", fault), reason.Inner("proxy", x.Client.Nearest())}
	if o := x.Route.Operator; o.Contact != "" {
		facts = append(facts, reason.Own("operator", o.Contact))
	}
	return mtlsMalformed.Refuse(facts...)
}

// chain is the certificate of the client and those it sent along.
func (c *mtlsCheck) chain(x *Exchange, header string) ([]*x509.Certificate, error) {
	if header == "" {
		return x.TLS.PeerCertificates, nil
	}
	return certificateIn(header)
}

// judge finds out whom a certificate belongs to, and until when that may be remembered.
func (c *mtlsCheck) judge(x *Exchange, chain []*x509.Certificate) (a *accepted, until time.Time, v reason.Verdict) {
	leaf := chain[0]
	sum := sha256.Sum256(leaf.Raw)
	fingerprint := hex.EncodeToString(sum[:])
	subject, names := excerpt(leaf.Subject.String(), 300), namesOf(leaf)
	if leaf.Subject.String() == "" {
		subject = "without a subject, fingerprint " + fingerprint
	}
	about := func(more ...reason.Fact) []reason.Fact {
		facts := append(more, reason.Public("subject", subject), reason.Public("issuer", excerpt(leaf.Issuer.String(), 300)), reason.Public("fingerprint", fingerprint), x.OwnerFact())
		if len(names) > 0 {
			facts = append(facts, reason.Public("names", excerpt(strings.Join(names, ", "), 500)))
		}
		return facts
	}
	untrusted := func(fault string) reason.Verdict {
		return mtlsUntrusted.Refuse(about(reason.Rule("authorities", c.authorities).At(c.at), reason.Public("fault", fault))...)
	}
	if len(chain) > maxChain {
		return nil, until, untrusted("it comes with more than " + plural(maxChain, "certificate"))
	}
	// Who issued it is judged first, at a time when it was valid: of strangers' certificates nothing
	// else matters.
	moment := x.Now
	if moment.After(leaf.NotAfter) {
		moment = leaf.NotAfter
	}
	if moment.Before(leaf.NotBefore) {
		moment = leaf.NotBefore
	}
	options := x509.VerifyOptions{Roots: c.roots, Intermediates: x509.NewCertPool(), CurrentTime: moment, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, cert := range chain[1:] {
		options.Intermediates.AddCert(cert)
	}
	chains, err := leaf.Verify(options)
	var invalid x509.CertificateInvalidError
	if renewed := errors.As(err, &invalid) && invalid.Reason == x509.Expired && !moment.Equal(x.Now); renewed {
		err = nil // its issuer was not valid then, but it is not valid now: that is what matters
	}
	if err != nil && !x.lifted(mtlsUntrusted) {
		return nil, until, untrusted(whyUntrusted(err, leaf))
	}
	switch {
	case x.Now.After(leaf.NotAfter):
		return nil, until, mtlsExpired.Refuse(about(reason.Public("until", leaf.NotAfter), reason.Public("ago", roughly(x.Now.Sub(leaf.NotAfter))))...)
	case x.Now.Before(leaf.NotBefore):
		return nil, until, mtlsEarly.Refuse(about(reason.Public("from", leaf.NotBefore), reason.Public("now", x.Now), reason.Public("wait", roughly(leaf.NotBefore.Sub(x.Now))))...)
	}
	until = x.Now.Add(time.Hour)
	for _, cert := range slices.Concat(chains[:min(len(chains), 1)]...) {
		if cert.NotAfter.Before(until) {
			until = cert.NotAfter
		}
	}
	a = &accepted{subject: subject, lists: c.listsNow()}
	if a.lists != nil {
		r := a.lists.judgeAny(chains, x.Now)
		switch issuer := reason.Public("issuer", issuerOf(r.cert)); {
		case r.revoked != nil:
			facts := []reason.Fact{reason.Public("revoked", excerpt(r.cert.Subject.String(), 300)), issuer, reason.Public("at", r.revoked.at), reason.Public("ago", roughly(x.Now.Sub(r.revoked.at))),
				reason.Public("serial", r.cert.SerialNumber.Text(16)), reason.Rule("written", c.CRL).At(c.crlAt), x.OwnerFact()}
			if why, ok := revokedFor[r.revoked.why]; ok {
				facts = append(facts, reason.Public("why", why))
			}
			return nil, until, mtlsRevoked.Refuse(facts...)
		case r.unknown != "" && !c.CRLFailOpen && !x.lifted(mtlsUnchecked):
			x.Extra.Put(wire.RetryAfter, "60")
			return nil, until, mtlsUnchecked.Refuse(reason.Public("subject", subject), issuer, reason.Rule("fault", r.unknown), reason.Rule("written", c.CRL).At(c.crlAt),
				reason.Public("retry_after", time.Minute), x.OwnerFact())
		}
		if a.unchecked = r.unknown; !r.until.IsZero() && r.until.Before(until) && r.until.After(x.Now) {
			until = r.until
		}
	}
	var sans []any
	for _, n := range names {
		sans = append(sans, n)
	}
	a.identity = &consumer.Identity{Method: "mtls", Subject: subject, Issuer: leaf.Issuer.String(),
		Claims: map[string]any{"subject": leaf.Subject.String(), "issuer": leaf.Issuer.String(), "fingerprint": fingerprint, "names": sans}}
	if a.credential, a.by = c.credential(leaf, fingerprint, names); a.credential != nil {
		if id := a.credential.Identity; id != nil {
			a.identity.Scopes, a.identity.Roles, a.identity.Groups = id.Scopes, id.Roles, id.Groups
		}
		return a, until, v
	}
	i := slices.IndexFunc(c.Allow, func(r CertificateRule) bool { return r.matches(leaf, fingerprint, names) })
	switch {
	case i >= 0:
		a.by = c.Allow[i].String()
	case c.Accept == "any":
		a.by = "accept: any"
	default:
		facts := about()
		if c.allowed != "" {
			facts = append(facts, reason.Rule("allowed", excerpt(c.allowed, 1000)).At(c.allowAt))
		}
		return nil, until, mtlsNotAllowed.Refuse(facts...)
	}
	return a, until, v
}

// listsNow are the revocation lists as of now, nil without.
func (c *mtlsCheck) listsNow() *revocations {
	if c.lists == nil {
		return nil
	}
	return c.lists.now.Load()
}

// lintLists warns of authorities without a list, and of lists that are over.
func (c *mtlsCheck) lintLists(env *Env, roots []*x509.Certificate) {
	lists := c.listsNow()
	if lists == nil { // that is a problem already
		return
	}
	for _, a := range roots {
		if !a.IsCA {
			continue
		}
		l := lists.of(&x509.Certificate{RawIssuer: a.RawSubject}, a)
		switch hint := "certificates of that authority are refused; crlFailOpen lets them pass"; {
		case l == nil:
			env.Lint("mtls.no-list", "crl", hint, "the file holds no list that %s has signed for certificates of clients", a.Subject)
		case !l.next.IsZero() && time.Now().After(l.next):
			env.Lint("mtls.list-expired", "crl", hint, "the list of %s was to be renewed at %v", a.Subject, l.next.UTC())
		}
	}
}

func issuerOf(cert *x509.Certificate) string {
	if cert == nil {
		return ""
	}
	return excerpt(cert.Issuer.String(), 300)
}

// credential is what a document says of a certificate.
func (c *mtlsCheck) credential(leaf *x509.Certificate, fingerprint string, names []string) (*consumer.Credential, string) {
	if cred := c.consumers.Named("certificate fingerprint", fingerprint); cred != nil {
		return cred, "Credential " + cred.Name
	}
	if cred := c.consumers.Named("certificate subject", leaf.Subject.String()); cred != nil {
		return cred, "Credential " + cred.Name
	}
	for _, n := range names {
		if cred := c.consumers.Named("certificate san", n); cred != nil {
			return cred, "Credential " + cred.Name
		}
	}
	return nil, ""
}

// namesOf are the names of a certificate besides its subject.
func namesOf(leaf *x509.Certificate) (names []string) {
	names = append(append(names, leaf.DNSNames...), leaf.EmailAddresses...)
	for _, u := range leaf.URIs {
		names = append(names, u.String())
	}
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names[:min(len(names), maxNames)]
}

// whyUntrusted puts an error of the verification into words.
func whyUntrusted(err error, leaf *x509.Certificate) string {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return "it was not issued for clients (extended key usage)"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != leaf:
		return "the certificate of its issuer is not valid at this time"
	case errors.As(err, &invalid):
		return "its chain is not in order"
	case errors.As(err, &unknown) && leaf.Subject.String() == leaf.Issuer.String():
		return "it is signed by itself"
	case errors.As(err, &unknown):
		return "its issuer is not known here, or a certificate in between was not sent"
	}
	return "it cannot be verified"
}

// certificateIn reads the certificate of a header, in one of four forms.
func certificateIn(v string) ([]*x509.Certificate, error) {
	v = strings.TrimSpace(v)
	var der []byte
	switch {
	case strings.HasPrefix(v, ":"): // RFC 9440 §2.2
		b64, ok := strings.CutSuffix(v[1:], ":")
		var err error
		if der, err = base64.StdEncoding.DecodeString(b64); err != nil || !ok {
			return nil, errors.New("no base64 between two colons")
		}
	case strings.HasPrefix(v, "-----BEGIN"), strings.HasPrefix(v, "%2D"):
		return pemChain(v)
	case strings.HasPrefix(v, "MI"): // a SEQUENCE of more than 255 bytes in DER
		return bareChain(v)
	default:
		element, err := lastElement(v)
		if err != nil {
			return nil, err
		}
		if element["cert"] == "" {
			return nil, errors.New("it has no Cert with the certificate itself")
		}
		chain, err := pemChain(element["cert"])
		if err != nil || element["chain"] == "" {
			return chain, err
		}
		more, err := pemChain(element["chain"])
		if err != nil {
			return nil, err
		}
		return append(chain[:1], more...), nil
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errors.New("no certificate between the colons")
	}
	return []*x509.Certificate{cert}, nil
}

// bareChain reads certificates in base64 alone, with commas between them, with or without URL escapes.
func bareChain(v string) (chain []*x509.Certificate, err error) {
	text, err := url.PathUnescape(v)
	if err != nil {
		return nil, errors.New("an escape that is none")
	}
	for one := range strings.SplitSeq(text, ",") {
		if len(chain) > maxChain {
			break
		}
		der, err := base64.StdEncoding.DecodeString(one)
		if err != nil {
			return nil, errors.New("something that is no base64")
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, errors.New("base64 of something that is no certificate")
		}
		chain = append(chain, cert)
	}
	return chain, nil
}

// pemChain reads certificates in PEM with URL escapes.
func pemChain(v string) (chain []*x509.Certificate, err error) {
	text, err := url.PathUnescape(v) // "+" stands for itself in base64
	if err != nil {
		return nil, errors.New("an escape that is none")
	}
	for rest := []byte(text); len(chain) <= maxChain; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("the PEM holds no certificate that can be read")
		}
		chain = append(chain, cert)
	}
	if len(chain) == 0 {
		return nil, errors.New("no certificate in PEM with URL escapes")
	}
	return chain, nil
}

// lastElement reads X-Forwarded-Client-Cert: elements with commas between them, each of pairs KEY=VALUE with
// semicolons between them, where values may be in double quotes. The last element was written by the nearest
// proxy. Keys are in small letters; of those that repeat, the first counts.
func lastElement(v string) (element map[string]string, err error) {
	for i := 0; ; {
		pairs := 0
		element = map[string]string{}
		for {
			start := i
			for i < len(v) && v[i] != '=' && v[i] != ';' && v[i] != ',' {
				i++
			}
			if i == len(v) || v[i] != '=' {
				return nil, errors.New("it is neither PEM nor base64, and as X-Forwarded-Client-Cert a part of it is no KEY=VALUE")
			}
			key := strings.ToLower(strings.TrimSpace(v[start:i]))
			i++
			var value strings.Builder
			if i < len(v) && v[i] == '"' {
				for i++; ; i++ {
					if i == len(v) {
						return nil, errors.New("a quote of X-Forwarded-Client-Cert is not closed")
					}
					if v[i] == '"' {
						break
					}
					if v[i] == '\\' && i+1 < len(v) {
						i++
					}
					value.WriteByte(v[i])
				}
				i++
			} else {
				for i < len(v) && v[i] != ';' && v[i] != ',' {
					value.WriteByte(v[i])
					i++
				}
			}
			if _, ok := element[key]; !ok {
				element[key] = value.String()
			}
			if pairs++; pairs > 100 {
				return nil, errors.New("X-Forwarded-Client-Cert has too many parts")
			}
			if i == len(v) {
				return element, nil
			}
			if v[i] == ',' {
				i++
				break
			}
			if v[i] != ';' {
				return nil, errors.New("something stands behind a quote of X-Forwarded-Client-Cert")
			}
			i++
		}
	}
}

// EditRequest keeps the header from the upstream, which might believe it.
func (c *mtlsCheck) EditRequest(_ *Exchange, o *wire.Outgoing) { c.GuardRequest(o) }

// GuardRequest is the same for calls that are only watched.
func (c *mtlsCheck) GuardRequest(o *wire.Outgoing) {
	if c.Header != "" {
		o.Fields.Remove(c.Header)
	}
}
