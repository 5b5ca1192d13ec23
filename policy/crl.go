package policy

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/whygate/whygate/reason"
)

// revocations are the lists of one file (RFC 5280 §5). They never change: a file that changes makes others.
type revocations struct {
	lists  []*revocationList
	issued map[string][]*revocationList // by the subject of the authority, in DER
}

// revocationList is what one authority has revoked.
type revocationList struct {
	list    *x509.RevocationList // what is needed to check its signature
	from    time.Time
	next    time.Time                     // zero without
	revoked map[string]revokedCertificate // by serial number
	scope   issuingDistributionPoint
	signed  sync.Map // [32]byte of an authority's certificate → whether it signed the list
}

type revokedCertificate struct {
	at  time.Time
	why int // RFC 5280 §5.3.1
}

// issuingDistributionPoint says which certificates a list is about (RFC 5280 §5.2.5).
type issuingDistributionPoint struct {
	Point           asn1.RawValue  `asn1:"optional,tag:0"`
	OnlyUsers       bool           `asn1:"optional,tag:1"`
	OnlyAuthorities bool           `asn1:"optional,tag:2"`
	SomeReasons     asn1.BitString `asn1:"optional,tag:3"`
	Indirect        bool           `asn1:"optional,tag:4"`
	OnlyAttributes  bool           `asn1:"optional,tag:5"`
}

// Bounds of files with lists: a million certificates take some 40 MiB.
const (
	crlFileBytes = 64 << 20
	crlFileLists = 100
)

var (
	oidDelta = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidScope = asn1.ObjectIdentifier{2, 5, 29, 28}
)

// readRevocations reads lists in PEM, or one in DER.
func readRevocations(content []byte) (*revocations, error) {
	r := &revocations{issued: map[string][]*revocationList{}}
	add := func(der []byte) error {
		number := len(r.lists) + 1
		if number > crlFileLists {
			return fmt.Errorf("it holds more than %d lists", crlFileLists)
		}
		l, err := x509.ParseRevocationList(der)
		if err != nil {
			return fmt.Errorf("list %d cannot be read: it is no certificate revocation list (RFC 5280 §5)", number)
		}
		one := &revocationList{list: &x509.RevocationList{RawTBSRevocationList: l.RawTBSRevocationList, Signature: l.Signature, SignatureAlgorithm: l.SignatureAlgorithm},
			from: l.ThisUpdate, next: l.NextUpdate, revoked: make(map[string]revokedCertificate, len(l.RevokedCertificateEntries))}
		for _, e := range l.Extensions {
			switch {
			case e.Id.Equal(oidDelta):
				return fmt.Errorf("list %d is a delta, which says nothing without the whole list; name that", number)
			case e.Id.Equal(oidScope):
				rest, err := asn1.Unmarshal(e.Value, &one.scope)
				if s := &one.scope; err != nil || len(rest) > 0 || s.Indirect || s.OnlyAttributes || s.SomeReasons.BitLength > 0 {
					return fmt.Errorf("list %d is for some reasons or other authorities only, which is not understood", number)
				}
			case e.Critical:
				return fmt.Errorf("list %d has a critical extension that is not understood, %v", number, e.Id)
			}
		}
		for _, c := range l.RevokedCertificateEntries {
			for _, e := range c.Extensions {
				if e.Critical {
					return fmt.Errorf("list %d has an entry with a critical extension that is not understood, %v", number, e.Id)
				}
			}
			one.revoked[string(c.SerialNumber.Bytes())] = revokedCertificate{c.RevocationTime, c.ReasonCode}
		}
		r.lists = append(r.lists, one)
		issuer := string(l.RawIssuer)
		r.issued[issuer] = append(r.issued[issuer], one)
		return nil
	}
	if block, _ := pem.Decode(content); block == nil && len(content) > 0 && content[0] == 0x30 { // a sequence in DER
		if err := add(bytes.Clone(content)); err != nil {
			return nil, err
		}
		return r, nil
	}
	for rest := content; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "X509 CRL" {
			return nil, fmt.Errorf("it holds a %s beside lists", excerpt(block.Type, 40))
		}
		if err := add(block.Bytes); err != nil {
			return nil, err
		}
	}
	if len(r.lists) == 0 {
		return nil, errors.New("it holds no certificate revocation list, neither in PEM (X509 CRL) nor in DER")
	}
	return r, nil
}

// signedBy says that an authority signed the list. What it says is remembered: lists are long.
func (l *revocationList) signedBy(authority *x509.Certificate) bool {
	key := sha256.Sum256(authority.Raw)
	if known, ok := l.signed.Load(key); ok {
		return known.(bool)
	}
	is := l.list.CheckSignatureFrom(authority) == nil
	l.signed.Store(key, is) // authorities that are believed, or those below them: few
	return is
}

// of finds the newest list that an authority signed and that is about such a certificate.
func (r *revocations) of(cert, authority *x509.Certificate) (newest *revocationList) {
	for _, l := range r.issued[string(cert.RawIssuer)] {
		if cert.IsCA && l.scope.OnlyUsers || !cert.IsCA && l.scope.OnlyAuthorities || !l.signedBy(authority) {
			continue
		}
		if newest == nil || l.from.After(newest.from) {
			newest = l
		}
	}
	return newest
}

// revocation is what the lists say of a chain.
type revocation struct {
	cert    *x509.Certificate // that was revoked, or of which nothing is known
	revoked *revokedCertificate
	unknown string    // why nothing is known
	until   time.Time // when one of the lists has to be renewed; zero without such a time
}

// judge looks up each certificate of a chain but its anchor.
func (r *revocations) judge(chain []*x509.Certificate, now time.Time) (v revocation) {
	for i, cert := range chain[:len(chain)-1] {
		l := r.of(cert, chain[i+1])
		if l != nil {
			if e, ok := l.revoked[string(cert.SerialNumber.Bytes())]; ok && e.why != 8 { // removeFromCRL
				return revocation{cert: cert, revoked: &e}
			}
		}
		next := time.Time{}
		if l != nil {
			next = l.next
		}
		switch {
		case v.unknown != "":
		case l == nil:
			v.cert, v.unknown = cert, "there is no list of "+excerpt(cert.Issuer.String(), 300)
		case !next.IsZero() && now.After(next):
			v.cert, v.unknown = cert, "the list of "+excerpt(cert.Issuer.String(), 300)+" was to be renewed "+reason.Span(roughly(now.Sub(next)))+" ago"
		}
		if !next.IsZero() && (v.until.IsZero() || next.Before(v.until)) {
			v.until = next
		}
	}
	return v
}

// judgeAny is what the lists say of a certificate with several chains: one that is in order is enough.
func (r *revocations) judgeAny(chains [][]*x509.Certificate, now time.Time) (v revocation) {
	for i, chain := range chains {
		next := r.judge(chain, now)
		if i == 0 || next.rank() < v.rank() {
			v = next
		}
	}
	return v
}

// rank orders what is said of chains: in order, not known, revoked.
func (v *revocation) rank() int {
	switch {
	case v.revoked != nil:
		return 2
	case v.unknown != "":
		return 1
	}
	return 0
}

// revokedFor are the reasons in words (RFC 5280 §5.3.1).
var revokedFor = map[int]string{1: "its key was compromised", 2: "the key of its authority was compromised", 3: "its owner belongs elsewhere now", 4: "another one took its place",
	5: "it is not used any more", 6: "it is on hold", 9: "its owner may no longer have it", 10: "the key of its attribute authority was compromised"}
