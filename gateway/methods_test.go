package gateway_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/whygate/whygate/whytest"
)

// methodPeers is what the methods of authentication need besides documents.
type methodPeers struct {
	authorizer *httptest.Server // refuses everybody
	dir, ca    string
	secret     string // its file
	password   string // hash of "password"
	shown      map[string]string
}

// peers are made once, for all tests.
var peers = sync.OnceValue(func() *methodPeers {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	p := &methodPeers{shown: map[string]string{}, authorizer: httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(403)
		fmt.Fprint(w, "not with these hidden papers")
	}))}
	var err error
	p.dir, err = os.MkdirTemp("", "whygate-test")
	must(err)
	p.secret, p.ca = filepath.Join(p.dir, "secret"), filepath.Join(p.dir, "ca.pem")
	must(os.WriteFile(p.secret, []byte("a secret of the tests"), 0o600))
	hash, err := bcrypt.GenerateFromPassword([]byte("password"), bcrypt.MinCost)
	must(err)
	p.password = string(hash)

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	now := time.Now()
	issue := func(name string, serial int64, from, to time.Time, parent *x509.Certificate) *x509.Certificate {
		form := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to}
		if parent == nil {
			form.IsCA, form.BasicConstraintsValid, form.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
			parent = form
		}
		der, err := x509.CreateCertificate(rand.Reader, form, parent, &key.PublicKey, key)
		must(err)
		cert, err := x509.ParseCertificate(der)
		must(err)
		p.shown[name] = "Client-Cert: :" + base64.StdEncoding.EncodeToString(der) + ":"
		return cert
	}
	day := 24 * time.Hour
	authority := issue("hidden-authority", 1, now.Add(-365*day), now.Add(365*day), nil)
	must(os.WriteFile(p.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Raw}), 0o600))
	issue("stranger", 2, now.Add(-day), now.Add(day), nil)
	issue("known", 3, now.Add(-day), now.Add(day), authority)
	issue("nobody", 4, now.Add(-day), now.Add(day), authority)
	issue("old", 5, now.Add(-2*day), now.Add(-day), authority)
	issue("next", 6, now.Add(day), now.Add(2*day), authority)
	for name, next := range map[string]time.Time{"revoked.crl": now.Add(day), "hidden-old.crl": now.Add(-time.Hour)} {
		list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.Add(-day), NextUpdate: next}
		if name == "revoked.crl" {
			list.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: big.NewInt(3), RevocationTime: now.Add(-time.Hour), ReasonCode: 4}}
		}
		der, err := x509.CreateRevocationList(rand.Reader, list, authority, key)
		must(err)
		must(os.WriteFile(filepath.Join(p.dir, name), der, 0o600))
	}
	return p
})

func (p *methodPeers) close() {
	p.authorizer.Close()
	os.RemoveAll(p.dir)
}

// signed are the fields of a signature over the path / and the components that follow.
func (p *methodPeers) signed(key string, created time.Time, params, extra, extraBase string) []string {
	input := fmt.Sprintf(`("@path"%s);created=%d;keyid=%q%s`, extra, created.Unix(), key, params)
	mac := hmac.New(sha256.New, []byte("a secret of the tests"))
	mac.Write([]byte("\"@path\": /\n" + extraBase + "\"@signature-params\": " + input))
	return []string{"Signature-Input: s=" + input, "Signature: s=:" + base64.StdEncoding.EncodeToString(mac.Sum(nil)) + ":"}
}

// methodRefusals are the refusals of the methods of authentication.
func methodRefusals() []refusal {
	p := peers()
	_, app := whytest.Consumer("hidden-app", "")
	otherKey, other := whytest.Consumer("other-app", "")
	credential := func(fields, how string) string {
		return app + "---\napiVersion: whygate/v1\nkind: Credential\nmetadata: {name: hidden-credential}\nspec: {application: hidden-app, " + fields + how + "}\n"
	}
	const revoked, late, soon = "state: revoked, ", "until: 2020-01-01, ", "from: 2099-01-01, "
	login := fmt.Sprintf("basic: {username: hidden-user, hash: %q}", p.password)
	shared := fmt.Sprintf("hmac: {keyId: k, secret: {file: %q}}", p.secret)
	cert := "certificate: {subject: CN=known}"
	right := []string{"Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("hidden-user:password"))}
	wrong := []string{"Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("hidden-user:wrong"))}
	const basic, signing = "  - basic: {}", "  - hmac: {components: [\"@path\"], maxAge: 1h}"
	mtls := fmt.Sprintf("  - mtls: {ca: %q, header: Client-Cert, allow: [{san: hidden.test}]}", p.ca)
	withList := func(name string) string {
		return strings.Replace(mtls, "{ca", fmt.Sprintf("{crl: %q, ca", filepath.Join(p.dir, name)), 1)
	}
	const proxied = "  trustedProxies: [127.0.0.0/8]"
	now := time.Now()
	good := p.signed("k", now, "", "", "")
	const empty = "Content-Digest: sha-256=:AAAA:"
	return []refusal{
		{code: "authentication.missing", policies: "  - key-auth: {}\n" + basic, docs: credential("", login)},
		{code: "authentication.conflict", policies: "  - key-auth: {}\n" + basic, spec: "  authentication: all", docs: credential("", login) + other, header: append([]string{"X-Api-Key: " + otherKey}, right...)},
		{code: "basic.missing", policies: basic, docs: credential("", login)},
		{code: "basic.malformed", policies: basic, docs: credential("", login), header: []string{"Authorization: Basic x"}},
		{code: "basic.unknown-user-or-password", policies: basic, docs: credential("", login), header: wrong},
		{code: "basic.revoked", policies: basic, docs: credential(revoked, login), header: right},
		{code: "basic.expired", policies: basic, docs: credential(late, login), header: right},
		{code: "basic.not-yet-valid", policies: basic, docs: credential(soon, login), header: right},
		{code: "hmac.missing", policies: signing, docs: credential("", shared)},
		{code: "hmac.malformed", policies: signing, docs: credential("", shared), header: []string{"Signature: x"}},
		{code: "hmac.unknown-key", policies: signing, docs: credential("", shared), header: p.signed("other", now, "", "", "")},
		{code: "hmac.algorithm", policies: signing, docs: credential("", shared), header: p.signed("k", now, `;alg="ed25519"`, "", "")},
		{code: "hmac.component-missing", policies: "  - hmac: {}", docs: credential("", shared), header: good},
		{code: "hmac.signature", policies: signing, docs: credential("", shared), header: good, path: "/other"},
		{code: "hmac.signature-expired", policies: signing, docs: credential("", shared), header: p.signed("k", now.Add(-3*time.Hour), "", "", "")},
		{code: "hmac.skew", policies: signing, docs: credential("", shared), header: p.signed("k", now.Add(3*time.Hour), "", "", "")},
		{code: "hmac.digest", policies: signing, docs: credential("", shared), method: "POST", body: "x", header: append(p.signed("k", now, "", ` "content-digest"`, "\"content-digest\": sha-256=:AAAA:\n"), empty)},
		{code: "hmac.replayed", policies: "  - hmac: {components: [\"@path\"], maxAge: 1h, nonce: required}", docs: credential("", shared), header: p.signed("k", now, `;nonce="hidden-nonce"`, "", ""), before: func(t *testing.T, n *whytest.Node) {
			n.Call("GET", "/", "", p.signed("k", now, `;nonce="hidden-nonce"`, "", "")...)
		}},
		{code: "content.too-large", policies: "  - hmac: {components: [\"@path\"], maxAge: 1h, maxBody: 1KiB}", docs: credential("", shared), method: "POST", body: string(make([]byte, 2000)),
			header: append(p.signed("k", now, "", ` "content-digest"`, "\"content-digest\": sha-256=:AAAA:\n"), empty)},
		{code: "hmac.revoked", policies: signing, docs: credential(revoked, shared), header: good},
		{code: "hmac.expired", policies: signing, docs: credential(late, shared), header: good},
		{code: "hmac.not-yet-valid", policies: signing, docs: credential(soon, shared), header: good},
		{code: "mtls.missing", policies: mtls, gateway: proxied},
		{code: "mtls.malformed", policies: mtls, gateway: proxied, header: []string{"Client-Cert: x"}},
		{code: "mtls.expired", policies: mtls, gateway: proxied, header: []string{p.shown["old"]}},
		{code: "mtls.not-yet-valid", policies: mtls, gateway: proxied, header: []string{p.shown["next"]}},
		{code: "mtls.untrusted", policies: mtls, gateway: proxied, header: []string{p.shown["stranger"]}},
		{code: "mtls.revoked", policies: withList("revoked.crl"), gateway: proxied, header: []string{p.shown["known"]}},
		{code: "mtls.revocation-unknown", policies: withList("hidden-old.crl"), gateway: proxied, header: []string{p.shown["known"]}},
		{code: "mtls.not-allowed", policies: mtls, gateway: proxied, header: []string{p.shown["nobody"]}},
		{code: "mtls.credential-revoked", policies: mtls, gateway: proxied, docs: credential(revoked, cert), header: []string{p.shown["known"]}},
		{code: "mtls.credential-expired", policies: mtls, gateway: proxied, docs: credential(late, cert), header: []string{p.shown["known"]}},
		{code: "mtls.credential-not-yet-valid", policies: mtls, gateway: proxied, docs: credential(soon, cert), header: []string{p.shown["known"]}},
		{code: "forward-auth.refused", policies: fmt.Sprintf("  - forward-auth: {url: %q, timeout: 20s}", p.authorizer.URL)},
		{code: "forward-auth.unavailable", policies: "  - forward-auth: {url: \"http://127.0.0.1:1/\"}"},
	}
}
