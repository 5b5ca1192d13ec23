package policy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// authorityOf is a certificate with its key, which can issue others.
type authorityOf struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue makes a certificate, signed by itself where a is nil.
func (a *authorityOf) issue(t *testing.T, edit func(c *x509.Certificate)) *authorityOf {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
		BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	edit(c)
	parent, by := c, key
	if a != nil {
		parent, by = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authorityOf{made, key}
}

func named(cn string, more ...func(*x509.Certificate)) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: cn}
		for _, m := range more {
			m(c)
		}
	}
}

func isAuthority(c *x509.Certificate) {
	c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
}

func pemOf(certs ...*x509.Certificate) string {
	var b strings.Builder
	for _, c := range certs {
		pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return b.String()
}

func fingerprintOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

func showing(x *Exchange, chain ...*x509.Certificate) *Exchange {
	x.TLS = &tls.ConnectionState{PeerCertificates: chain}
	return x
}

func TestMTLS(t *testing.T) {
	b := newTestbed(t)
	acme := b.application("acme")
	banned := &consumer.Application{Name: "banned", Suspended: true}
	b.consumers.AddApplication(banned)
	root := (*authorityOf)(nil).issue(t, named("Clients CA", isAuthority))
	middle := root.issue(t, named("Middle CA", isAuthority))
	stranger := (*authorityOf)(nil).issue(t, named("Other CA", isAuthority))
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte(pemOf(root.cert)), 0o600); err != nil {
		t.Fatal(err)
	}
	leaf := func(by *authorityOf, cn string, more ...func(*x509.Certificate)) *x509.Certificate {
		return by.issue(t, named(cn, more...)).cert
	}
	credential := func(app *consumer.Application, kind, value string, edit func(*consumer.Credential)) {
		c := &consumer.Credential{Name: "c-" + value, Application: app, Prefix: value}
		if edit != nil {
			edit(c)
		}
		b.consumers.AddNamed("certificate "+kind, value, c)
	}
	byPrint := leaf(root, "by print")
	credential(acme, "fingerprint", fingerprintOf(byPrint), nil)
	credential(acme, "subject", "CN=by subject", nil)
	credential(acme, "san", "spiffe://shop/orders", nil)
	credential(acme, "subject", "CN=revoked", func(c *consumer.Credential) { c.Revoked = true })
	credential(acme, "subject", "CN=over", func(c *consumer.Credential) { c.Until = b.now })
	credential(acme, "subject", "CN=soon", func(c *consumer.Credential) { c.From = b.now.Add(time.Hour) })
	credential(banned, "subject", "CN=banned", nil)
	dns := func(n string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.DNSNames = []string{n} }
	}
	uri := func(c *x509.Certificate) {
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "shop", Path: "/orders"}}
	}
	c := b.method("mtls", `{ca: "`+file+`", allow: [{san: "*.partner.test"}, {subject: CN=exact, issuer: CN=Clients CA}]}`)

	for name, chain := range map[string][]*x509.Certificate{
		"fingerprint": {byPrint}, "subject": {leaf(root, "by subject")}, "san": {leaf(root, "x", uri)}, "chain": {leaf(middle, "by subject"), middle.cert},
	} {
		for range 2 { // the second time it is remembered
			x := showing(b.call("GET /"), chain...)
			wants(t, c.Check(x), "")
			if x.Application != acme {
				t.Errorf("%s: application %v", name, x.Application)
			}
		}
	}
	for _, chain := range [][]*x509.Certificate{{leaf(root, "shop", dns("web.partner.test"))}, {leaf(root, "exact")}} {
		x := showing(b.call("GET /"), chain...)
		wants(t, c.Check(x), "")
		if x.Identity == nil || x.Application != nil || x.Identity.Issuer != "CN=Clients CA" || x.Identity.Method != "mtls" {
			t.Errorf("identity %+v", x.Identity)
		}
	}
	between := func(from, to time.Time) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = from, to }
	}
	old, later := between(b.now.Add(-48*time.Hour), b.now.Add(-time.Hour)), between(b.now.Add(time.Hour), b.now.Add(48*time.Hour))
	for _, r := range []struct {
		code, text string
		chain      []*x509.Certificate
	}{
		{"mtls.missing", "without TLS", nil},
		{"mtls.expired", "CN=by subject expired 1h ago", []*x509.Certificate{leaf(root, "by subject", old)}},
		{"mtls.expired", "CN=ancient expired 365d", []*x509.Certificate{leaf(root, "ancient", between(b.now.AddDate(-2, 0, 0), b.now.AddDate(-1, 0, 0)))}}, // before its authority was renewed
		{"mtls.not-yet-valid", "in 1h", []*x509.Certificate{leaf(root, "by subject", later)}},
		{"mtls.untrusted", "its issuer is not known here", []*x509.Certificate{leaf(stranger, "by subject")}},
		{"mtls.untrusted", "its issuer is not known here", []*x509.Certificate{leaf(stranger, "by subject", old)}},
		{"mtls.untrusted", "a certificate in between was not sent", []*x509.Certificate{leaf(middle, "by subject")}},
		{"mtls.untrusted", "signed by itself", []*x509.Certificate{leaf(nil, "by subject")}},
		{"mtls.untrusted", "not issued for clients", []*x509.Certificate{leaf(root, "by subject", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })}},
		{"mtls.untrusted", "trusted here: CN=Clients CA", []*x509.Certificate{leaf(stranger, "by subject"), stranger.cert}},
		{"mtls.untrusted", "more than 10 certificates", append([]*x509.Certificate{byPrint}, make([]*x509.Certificate, 10)...)},
		{"mtls.not-allowed", "allow the certificate with the fingerprint", []*x509.Certificate{leaf(root, "nobody")}},
		{"mtls.not-allowed", "san *.partner.test; subject CN=exact, issuer CN=Clients CA", []*x509.Certificate{leaf(root, "nobody", dns("a.b.partner.test"))}},
		{"mtls.not-allowed", "names partner.test", []*x509.Certificate{leaf(root, "nobody", dns("partner.test"))}},
		{"mtls.not-allowed", "", []*x509.Certificate{leaf(middle, "exact"), middle.cert}},
		{"mtls.credential-revoked", "CN=revoked", []*x509.Certificate{leaf(root, "revoked")}},
		{"mtls.credential-expired", "CN=over", []*x509.Certificate{leaf(root, "over")}},
		{"mtls.credential-not-yet-valid", "in 1h", []*x509.Certificate{leaf(root, "soon")}},
		{"application.suspended", "banned", []*x509.Certificate{leaf(root, "banned")}},
	} {
		x := b.call("GET /")
		if r.chain != nil {
			if r.chain[len(r.chain)-1] == nil {
				for i := range r.chain {
					r.chain[i] = byPrint
				}
			}
			showing(x, r.chain...)
		}
		v := c.Check(x)
		wants(t, v, r.code, r.text)
		if challenge := x.Extra.Get(wire.WWWAuthenticate); v.Refused() && (v.Reason.Status == 401) != (challenge == `ClientCertificate realm="orders"`) {
			t.Errorf("%s: challenge %q", r.code, challenge)
		}
	}

	// What was accepted is remembered no longer than it holds.
	short := leaf(root, "by subject", between(b.now.Add(-time.Hour), b.now.Add(time.Minute)))
	wants(t, c.Check(showing(b.call("GET /"), short)), "")
	x := showing(b.call("GET /"), short)
	x.Now = b.now.Add(61 * time.Second)
	wants(t, c.Check(x), "mtls.expired")

	// An explanation may be about another time, and one that cannot show a certificate leaves the answer open.
	x = showing(b.call("GET /"), byPrint)
	x.Explaining, x.Now = true, b.now.AddDate(1, 0, 0)
	wants(t, c.Check(x), "mtls.expired")
	x = b.call("GET /")
	if x.Explaining = true; c.Check(x).Refused() || !x.Unknown {
		t.Error("an explanation is not left open")
	}
	x = b.call("OPTIONS /", "Origin: https://shop.test", "Access-Control-Request-Method: GET")
	x.Preflight = true
	wants(t, c.Check(x), "cors.preflight")

	open := b.method("mtls", `{ca: "`+file+`", accept: any}`)
	wants(t, open.Check(showing(b.call("GET /"), leaf(root, "nobody"))), "")
	wants(t, open.Check(showing(b.call("GET /"), leaf(stranger, "nobody"))), "mtls.untrusted")
}

func TestMTLSHeader(t *testing.T) {
	b := newTestbed(t)
	acme := b.application("acme")
	b.trust = NewTrust([]resource.Prefix{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}})
	root := (*authorityOf)(nil).issue(t, named("Clients CA", isAuthority))
	middle := root.issue(t, named("Middle CA", isAuthority))
	mine, proxys := middle.issue(t, named("acme")).cert, root.issue(t, named("proxy")).cert
	for _, cn := range []string{"acme", "proxy"} {
		b.consumers.AddNamed("certificate subject", "CN="+cn, &consumer.Credential{Application: acme, Prefix: cn, Identity: &consumer.Identity{Subject: "acme", Scopes: []string{"read"}}})
	}
	c, problems := b.keeping(nil, "mtls", `{header: Client-Cert}`, func(e *Env) { e.Authorities = []*x509.Certificate{root.cert, middle.cert} })
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	check := c.(Check)
	escaped := url.PathEscape(pemOf(mine))
	client := "Client-Cert: "
	b64 := client + ":" + base64.StdEncoding.EncodeToString(mine.Raw) + ":"
	bare := base64.StdEncoding.EncodeToString(mine.Raw)
	for _, line := range []string{b64, client + bare, client + url.QueryEscape(bare), client + bare + "," + base64.StdEncoding.EncodeToString(middle.cert.Raw), client + escaped, client + `Hash=00;Cert="` + escaped + `";Subject="CN=\"x\";,y"`, client + `By=a;Cert="x",by=b;cert="` + escaped + `"`,
		client + `Cert="` + escaped + `";Chain="` + url.PathEscape(pemOf(mine, middle.cert)) + `"`} {
		for range 2 {
			x := b.from("10.0.0.2", "GET /", line)
			wants(t, check.Check(x), "")
			if x.Credential == nil || x.Credential.Prefix != "acme" {
				t.Errorf("%.40s: credential %v", line, x.Credential)
			}
			if id := x.Identity; id.Subject != "CN=acme" || id.Claims["issuer"] != "CN=Middle CA" || len(id.Claims["fingerprint"].(string)) != 64 || !slices.Equal(id.Scopes, []string{"read"}) {
				t.Errorf("%.40s: identity %+v", line, id)
			}
		}
	}
	for _, r := range []struct{ code, text, from, line string }{
		{"mtls.missing", "is there, but did not come from a trusted proxy", "203.0.113.7", b64},
		{"mtls.missing", "passed none on in header Client-Cert", "10.0.0.2", "X-Other: 1"},
		{"mtls.malformed", "two colons", "10.0.0.2", client + ":AAAA"},
		{"mtls.malformed", "no certificate between", "10.0.0.2", client + ":AAAA:"},
		{"mtls.malformed", "no KEY=VALUE", "10.0.0.2", client + "x"},
		{"mtls.malformed", "no Cert with the certificate", "10.0.0.2", client + "Hash=00"},
		{"mtls.malformed", "not closed", "10.0.0.2", client + `Cert="x`},
		{"mtls.malformed", "stands behind a quote", "10.0.0.2", client + `Cert="x"y`},
		{"mtls.malformed", "an escape that is none", "10.0.0.2", client + `%2D%2`},
		{"mtls.malformed", "no certificate in PEM", "10.0.0.2", client + `-----BEGIN`},
		{"mtls.malformed", "no certificate that can be read", "10.0.0.2", client + url.PathEscape("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")},
		{"mtls.malformed", "no base64", "10.0.0.2", client + "MI!"},
		{"mtls.malformed", "base64 of something that is no certificate", "10.0.0.2", client + bare + ","},
		{"mtls.malformed", "base64 of something that is no certificate", "10.0.0.2", client + "MIIB"},
		{"mtls.malformed", "an escape that is none", "10.0.0.2", client + "MI%2"},
		{"mtls.malformed", "more than once", "10.0.0.2", b64 + "\r\n" + b64},
		{"mtls.malformed", "longer than 16 KiB", "10.0.0.2", client + strings.Repeat("x", 17<<10)},
	} {
		x := b.from(r.from, "GET /", r.line)
		if r.from == "10.0.0.2" { // the certificate of the proxy is not that of its client
			showing(x, proxys)
		}
		wants(t, check.Check(x), r.code, r.text)
		if x.Application != nil {
			t.Errorf("%s: application %v", r.text, x.Application)
		}
	}
	// A balancer that announces its clients by PROXY protocol passes on what they write: it is they who
	// have to be trusted then.
	announced := b.call("GET /", b64)
	announced.Client = b.trust.Client(netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("203.0.113.7"), announced.Fields)
	wants(t, check.Check(announced), "mtls.missing", "is there, but did not come from a trusted proxy")
	announced.Client = b.trust.Client(netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3"), announced.Fields)
	wants(t, check.Check(announced), "")
	// A client that is no proxy shows its own.
	x := showing(b.from("203.0.113.7", "GET /", b64), proxys)
	wants(t, check.Check(x), "")
	if x.Credential.Prefix != "proxy" {
		t.Errorf("credential %v", x.Credential.Prefix)
	}
	o := &wire.Outgoing{}
	o.Fields.Add("client-cert", "forged")
	c.(RequestEditor).EditRequest(nil, o)
	if len(o.Fields) != 0 {
		t.Errorf("the upstream gets %v", o.Fields)
	}
}

func TestMTLSProblems(t *testing.T) {
	b := newTestbed(t)
	root := (*authorityOf)(nil).issue(t, named("Clients CA", isAuthority))
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good.pem", pemOf(root.cert))
	for config, text := range map[string]string{
		`{}`: "believes no authority", `{ca: "` + dir + `/none.pem"}`: "no such file", `{ca: "` + write("empty.pem", "x") + `"}`: "holds no certificates",
		`{ca: "` + write("key.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n") + `"}`:    "holds a PRIVATE KEY",
		`{ca: "` + write("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n") + `"}`: "certificate 1 of the file",
		`{ca: "` + good + `", allow: [{}]}`: "would allow every certificate", `{ca: "` + good + `", header: Client-Cert}`: "no trustedProxies", `{ca: "` + good + `", header: "a b"}`: "no header name",
	} {
		if _, problems := b.keeping(nil, "mtls", config, nil); !problems.HasErrors() || !strings.Contains(problems[0].Message, text) {
			t.Errorf("%s: %v, want %s", config, problems, text)
		}
	}
	watched := ""
	_, problems := b.keeping(nil, "mtls", `{ca: "`+good+`"}`, func(e *Env) { e.Watch = func(p string) { watched = p } })
	if len(problems) != 1 || problems[0].Code != "mtls.nobody-asks" || watched != good {
		t.Errorf("problems %v, watched %q", problems, watched)
	}
	b.gateway.Listeners = []resource.Listener{{TLS: &resource.ListenerTLS{ClientCA: "x"}}}
	if _, problems := b.keeping(nil, "mtls", `{ca: "`+good+`"}`, nil); len(problems) != 0 {
		t.Errorf("problems %v", problems)
	}
}

func TestMTLSDoesNotAllocate(t *testing.T) {
	b := newTestbed(t)
	b.trust = NewTrust([]resource.Prefix{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}})
	root := (*authorityOf)(nil).issue(t, named("Clients CA", isAuthority))
	leaf := root.issue(t, named("acme")).cert
	made, problems := b.keeping(nil, "mtls", `{header: Client-Cert, accept: any}`, func(e *Env) { e.Authorities = []*x509.Certificate{root.cert} })
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	c := made.(Check)
	for _, x := range []*Exchange{showing(b.call("GET /"), leaf), b.from("10.0.0.2", "GET /", "Client-Cert: :"+base64.StdEncoding.EncodeToString(leaf.Raw)+":")} {
		ask := func() {
			if v := c.Check(x); v.Refused() {
				t.Fatal(v.Tell(reason.ToOperator))
			}
		}
		ask()
		if n := testing.AllocsPerRun(100, ask); n > 0 {
			t.Errorf("a call that passes allocates %v times", n)
		}
	}
}

func FuzzCertificateIn(f *testing.F) {
	for _, s := range []string{":AAAA:", "%2D%2D%2D%2D%2DBEGIN", `Hash=00;Cert="a\"b";Subject="x",By=y;Cert=z`, `a="`, `=,;`, "-----BEGIN CERTIFICATE-----%0AAAAA%0A-----END CERTIFICATE-----"} {
		f.Add(s)
	}
	f.Add("MIIB,MIIB%2B")
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > maxCertHeader {
			return
		}
		chain, err := certificateIn(s)
		if (err == nil) != (len(chain) > 0) {
			t.Fatalf("%q: %v and %v", s, chain, err)
		}
		for _, c := range chain {
			if c == nil {
				t.Fatalf("%q: a nil certificate", s)
			}
		}
		if element, err := lastElement(s); err == nil {
			for k := range element {
				if strings.ContainsAny(k, "=;,") {
					t.Fatalf("%q: the key %q", s, k)
				}
			}
		}
	})
}
