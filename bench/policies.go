//go:build linux

package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
	"golang.org/x/crypto/bcrypt"
)

// A policyRow is Whygate with one policy: how it is called, what that is compared
// with, and how it is seen that the policy decides. A new one needs a row here.
type policyRow struct {
	name     string
	beside   string   // the row without the policy that it is compared with; "" is such a row
	policies []string // entries of the list in YAML, each on one line
	call

	// wrong is what to change in the call so that the policy refuses it, and status
	// is what it refuses with; 0 where the policy refuses nothing that can be sent here.
	wrong  call
	status int
	// shows is a line that is in the head or in the body of the answer because of the policy.
	shows string
}

// A call is a small call of the case, by what it has beside the common headers.
type call struct {
	method  string // "" is GET, or POST where there is content
	path    string // "" is /
	content string // order, where wrk sends it
	headers []string
	as      func(callers) []string // headers that prove who calls
}

// order is the content of POST: 300 bytes.
const order = `{"customer":"acme","currency":"EUR","placed":"2026-11-22T09:40:00Z","items":[{"sku":"teapot-blue","quantity":2,"price":"24.95"},{"sku":"cup-white","quantity":6,"price":"7.50"}],"ship":{"name":"Ann Example","street":"Long Road 12","city":"Berlin","postcode":"10115","country":"DE"},"note":"ring once"}`

const orderSchema = `{type: object, required: [customer, currency, items, ship], additionalProperties: false, properties: {` +
	`customer: {type: string, pattern: '^[a-z0-9-]+$'}, currency: {enum: [EUR, USD]}, placed: {type: string, format: date-time}, note: {type: string, maxLength: 200}, ` +
	`items: {type: array, minItems: 1, maxItems: 50, items: {type: object, required: [sku, quantity], properties: {sku: {type: string}, quantity: {type: integer, minimum: 1}, price: {type: string, pattern: '^[0-9]+\.[0-9]{2}$'}}}}, ` +
	`ship: {type: object, required: [name, city, country], properties: {name: {type: string}, street: {type: string}, city: {type: string}, postcode: {type: string}, country: {type: string, minLength: 2, maxLength: 2}}}}}`

// commonHeaders are those of all rows, so that a row differs from what it is
// compared with by its policy alone.
var commonHeaders = []string{
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
	"Accept: application/json",
	"Accept-Encoding: gzip",
	"Origin: https://shop.test",
	"Referer: https://shop.test/cart",
}

// Rows without a policy.
const (
	bare       = "none"
	bareToken  = "none, with a token"
	barePost   = "none, POST"
	rowJWT     = "jwt"
	rowRule    = "rule"
	rowSchema  = "schema, POST"
	rowAnybody = "anonymous"
	rowKey     = "key-auth"
)

var policyRows = []policyRow{
	{name: bare},
	{name: bareToken, call: call{as: callers.token}},
	{name: barePost, call: call{content: order}},
	{name: "maintenance", beside: bare, policies: []string{`maintenance: {from: 2100-01-01, message: later}`}},
	{name: "geo", beside: bare, policies: []string{`geo: {database: [../places.mmdb], deny: [XK], denyASN: [64511], unknown: allow}`}},
	{name: "ip-access", beside: bare, policies: []string{`ip-access: {allow: [127.0.0.0/8, "2001:db8::/32"], deny: [127.0.0.66, 203.0.113.0/24]}`}},
	{name: "bot", beside: bare, policies: []string{`bot: {denyGroups: [ai-crawlers, scrapers, http-libraries], deny: [BadBot]}`},
		wrong: call{headers: []string{"User-Agent: BadBot/1"}}, status: 403},
	{name: "cors", beside: bare, policies: []string{`cors: {origins: ["https://shop.test"], credentials: true}`},
		shows: "Access-Control-Allow-Origin: https://shop.test"},
	{name: "method", beside: bare, policies: []string{`method: {allow: [GET]}`}, wrong: call{method: "DELETE"}, status: 405},
	{name: "size", beside: bare, policies: []string{`size: {body: 1MiB, header: 8KiB, uri: 1KiB}`},
		wrong: call{path: "/?" + strings.Repeat("x", 1024)}, status: 414},
	{name: rowKey, beside: bare, policies: []string{withKey}, wrong: call{headers: []string{"X-Api-Key:"}}, status: 401},
	{name: "basic, remembered", beside: bare, policies: []string{`basic: {}`}, call: call{as: callers.password},
		wrong: call{headers: []string{"Authorization:"}}, status: 401},
	{name: "hmac", beside: bare, policies: []string{`hmac: {components: ["@method", "@path"], maxAge: 24h}`}, call: call{as: callers.signature},
		wrong: call{path: "/other"}, status: 401},
	{name: rowJWT, beside: bareToken, policies: []string{`jwt: {issuer: "` + tokenIssuer + `", audience: [bench], keyFile: ../issuer.pem}`}, call: call{as: callers.token},
		wrong: call{headers: []string{"Authorization:"}}, status: 401},
	{name: "mtls, in a header", beside: bare, policies: []string{`mtls: {ca: ../ca.pem, header: Client-Cert, allow: [{san: client.bench.test}]}`}, call: call{as: callers.certificate},
		wrong: call{headers: []string{"Client-Cert:"}}, status: 401},
	{name: "forward-auth, asked", beside: bareToken, policies: []string{`forward-auth: {url: "http://ORIGIN/authorize", subject: X-Auth-User, concurrency: 1000}`}, call: call{as: callers.token},
		wrong: call{headers: []string{"Authorization:"}}, status: 403},
	{name: "forward-auth, remembered", beside: bareToken, policies: []string{`forward-auth: {url: "http://ORIGIN/authorize", subject: X-Auth-User, cacheFor: 1h}`}, call: call{as: callers.token},
		wrong: call{headers: []string{"Authorization:"}}, status: 403},
	{name: "introspection, remembered", beside: bareToken, policies: []string{`introspection: {endpoint: "http://ORIGIN/introspect", clientId: bench, clientSecret: {file: ../hmac.secret}, cacheFor: 1h}`}, call: call{as: callers.token},
		wrong: call{headers: []string{"Authorization:"}}, status: 401},
	{name: rowAnybody, beside: bare, policies: []string{anybody}},
	{name: "subscription", beside: rowKey, policies: []string{withKey, `subscription: {}`}, wrong: call{headers: []string{"X-Api-Key:"}}, status: 401},
	{name: "access", beside: rowKey, policies: []string{withKey, `access: {allow: {applications: [bench]}}`}, wrong: call{headers: []string{"X-Api-Key:"}}, status: 401},
	{name: "roles", beside: rowAnybody, policies: []string{anybody, `roles: {any: [writer, reader]}`}},
	{name: "groups", beside: rowAnybody, policies: []string{anybody, `groups: {any: [board, staff]}`}},
	{name: "scopes", beside: rowAnybody, policies: []string{anybody, `scopes: {all: [read]}`}},
	{name: rowRule, beside: rowAnybody, policies: []string{anybody, `rule: {rules: [` +
		`{name: office, effect: deny, when: 'client.ip.within("192.0.2.0/24")'}, ` +
		`{name: readers, effect: allow, when: 'request.method == "GET" && "reader" in identity.roles'}]}`},
		wrong: call{method: "DELETE"}, status: 403},
	{name: "csrf, safe method", beside: bare, policies: []string{`csrf: {}`}, wrong: call{method: "DELETE"}, status: 403},
	{name: "hotlink", beside: bare, policies: []string{`hotlink: {hosts: [shop.test, "*.shop.test"]}`},
		wrong: call{headers: []string{"Origin:", "Referer: https://other.test/"}}, status: 403},
	{name: "rate-limit", beside: bare, policies: []string{`rate-limit: {requests: 1000000000, period: 1s}`}, shows: "Ratelimit-Policy: "},
	{name: "quota", beside: bare, policies: []string{`quota: {requests: 1000000000000, period: month}`}},
	{name: "concurrency", beside: bare, policies: []string{`concurrency: {calls: 1000000}`}},
	{name: "content-type, POST", beside: barePost, policies: []string{`content-type: {allow: [application/json]}`}, call: call{content: order},
		wrong: call{headers: []string{"Content-Type: text/plain"}}, status: 415},
	{name: "json-limits, POST", beside: barePost, policies: []string{`json-limits: {depth: 16, keys: 200, elements: 1000}`}, call: call{content: order},
		wrong: call{content: `{"a":1,"a":2}`}, status: 400},
	{name: rowSchema, beside: barePost, policies: []string{`schema: {body: ` + orderSchema + `}`}, call: call{content: order},
		wrong: call{content: `{"customer":"acme"}`}, status: 422},
	{name: "waf", beside: bare, policies: []string{`waf: {}`}, wrong: call{path: attack}, status: 403},
	{name: "waf, POST", beside: barePost, policies: []string{`waf: {}`}, call: call{content: order}, wrong: call{path: attack}, status: 403},
	{name: "headers", beside: bare, policies: []string{`headers: {request: {set: {X-Env: prod}, remove: [Referer]}, response: {set: {X-Bench: yes}, remove: [Server]}}`},
		shows: "X-Bench: yes"},
	{name: "path", beside: bare, policies: []string{`path: {match: "^/(.*)$", replace: "/$1"}`}},
	{name: "mock", beside: bare, policies: []string{`mock: {answers: [{body: {mocked: true}}]}`}, shows: `"mocked":true`},
	{name: "transform, JSON answer", beside: bare, policies: []string{`transform: {request: {query: {set: {from: bench}}}, response: {body: {remove: [carrier], set: {source: bench}}}}`},
		shows: `"source":"bench"`},
	{name: "mask, JSON answer", beside: bare, policies: []string{`mask: {fields: [customer], patterns: [card, iban]}`}, shows: `"customer":"***"`},
	{name: "compress, 176 bytes", beside: bare, policies: []string{`compress: {codings: [gzip], minSize: 1B}`}, shows: "Content-Encoding: gzip"},
	{name: "cache, hit", beside: bare, policies: []string{`cache: {size: 1MiB}`}, call: call{path: "/cached"}, shows: "; hit"},
}

const (
	anybody     = `anonymous: {scopes: [read], roles: [reader], groups: [staff]}`
	withKey     = `key-auth: {}`
	attack      = "/?q=%27%20OR%201%3D1%20--%20%3Cscript%3Ealert(1)%3C%2Fscript%3E"
	tokenIssuer = "https://login.bench.test"
)

// policyGoals bound what a policy adds to a call, in microseconds of CPU.
var policyGoals = []struct {
	row   string
	limit float64
}{{rowJWT, 2}, {rowRule, 2}, {rowSchema, 10}}

// callers are who calls in the case policies. They are made anew for each run.
type callers struct {
	PasswordHash string
	HMACFile     string
	basicValue   string
	bearerValue  string
	signedInput  string
	signedValue  string
	shownValue   string
}

func (c callers) password() []string { return []string{"Authorization: Basic " + c.basicValue} }
func (c callers) token() []string    { return []string{"Authorization: Bearer " + c.bearerValue} }
func (c callers) certificate() []string {
	return []string{"Client-Cert: :" + c.shownValue + ":"}
}
func (c callers) signature() []string {
	return []string{"Signature-Input: sig1=" + c.signedInput, "Signature: sig1=:" + c.signedValue + ":"}
}

// newCallers makes a password, a shared secret with a signature of GET /, an
// issuer's key with a token, and a certificate. What Whygate reads of them is in dir: issuer.pem,
// hmac.secret and ca.pem, and places.mmdb, which knows where networks are.
func newCallers(dir string, now time.Time) (callers, error) {
	c := callers{HMACFile: filepath.Join(dir, "hmac.secret")}
	password, secret := rand.Text(), rand.Text()
	c.basicValue = base64.StdEncoding.EncodeToString([]byte("bench:" + password))
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return c, err
	}
	c.PasswordHash = string(hash)

	// RFC 9421 §2.5 is what is signed.
	c.signedInput = fmt.Sprintf(`("@method" "@path");created=%d;keyid="bench"`, now.Unix())
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "\"@method\": GET\n\"@path\": /\n\"@signature-params\": %s", c.signedInput)
	c.signedValue = base64.StdEncoding.EncodeToString(mac.Sum(nil))
	if err := os.WriteFile(c.HMACFile, []byte(secret), 0o600); err != nil {
		return c, err
	}

	if err := writePlaces(filepath.Join(dir, "places.mmdb")); err != nil {
		return c, err
	}

	if c.shownValue, err = newCertificate(filepath.Join(dir, "ca.pem"), now); err != nil {
		return c, err
	}

	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return c, err
	}
	claims, err := json.Marshal(map[string]any{"iss": tokenIssuer, "aud": "bench", "sub": "ann", "scope": "orders.read orders.write",
		"client_id": "bench", "jti": rand.Text(), "iat": now.Unix(), "exp": now.Add(24 * time.Hour).Unix()})
	if err != nil {
		return c, err
	}
	encode := base64.RawURLEncoding.EncodeToString
	c.bearerValue = encode([]byte(`{"alg":"RS256","typ":"at+jwt"}`)) + "." + encode(claims)
	sum := sha256.Sum256([]byte(c.bearerValue))
	signed, err := rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, sum[:])
	if err != nil {
		return c, err
	}
	c.bearerValue += "." + encode(signed)
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		return c, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	return c, os.WriteFile(filepath.Join(dir, "issuer.pem"), text, 0o600)
}

// newCertificate writes the certificate of an authority, and returns one of a client that it has signed, as the field
// Client-Cert has it (RFC 9440 §2.2), without the colons.
func newCertificate(ca string, now time.Time) (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, key.Public(), key)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return "", err
	}
	client := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "client"}, DNSNames: []string{"client.bench.test"}, NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if der, err = x509.CreateCertificate(rand.Reader, client, authority, key.Public(), key); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(der), nil
}

// writePlaces writes a database of 256 networks. That of the callers is not among them, since nobody can say where the
// loopback address is.
func writePlaces(name string) error {
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Country-ASN", IncludeReservedNetworks: true})
	if err != nil {
		return err
	}
	for i := range 256 {
		network := &net.IPNet{IP: net.IPv4(198, 18, byte(i), 0).To4(), Mask: net.CIDRMask(24, 32)}
		place := mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String("DE")}, "autonomous_system_number": mmdbtype.Uint32(64496 + i)}
		if err := tree.Insert(network, place); err != nil {
			return err
		}
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := tree.WriteTo(f); err != nil {
		return err
	}
	return f.Close()
}

// policies measures every row in each round, closed loop.
func (h *harness) policies(ctx context.Context, r *results) error {
	if h.programs["whygate"] == "" {
		fmt.Fprintln(os.Stderr, "the case policies is left out: Whygate is not among the entries")
		return nil
	}
	for round := 1; round <= h.set.Rounds; round++ {
		for _, row := range policyRows {
			l := load{origin: h.small, path: row.target(), headers: row.lines(h.callers), connections: h.set.Connections, duration: h.set.PolicyTime}
			if row.content != "" {
				l.script = "post.lua"
			}
			s := h.once(ctx, row.entry(), casePolicies, round, h.closedLoop(l))
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if !h.smallProc.running() {
				return errors.New("the origin ended")
			}
			r.Samples = append(r.Samples, s)
			fmt.Fprintf(os.Stderr, "%s round %d of %d: %-22s %s\n", casePolicies, round, h.set.Rounds, row.name, s)
		}
	}
	return nil
}

func (row policyRow) entry() entry {
	return entry{name: row.name, title: row.name, program: "whygate", config: "whygate-policy.yaml", command: whygateCommand, policy: &row}
}

func (c call) target() string {
	if c.path == "" {
		return "/"
	}
	return c.path
}

// lines are the headers that are sent besides the key.
func (c call) lines(who callers) []string {
	lines := slices.Clone(commonHeaders)
	if c.as != nil {
		lines = append(lines, c.as(who)...)
	}
	return append(lines, c.headers...)
}

// with is the call with what another one has changed. A header without a value is
// not sent.
func (c call) with(change call) call {
	c.headers = append(slices.Clone(c.headers), change.headers...)
	if change.method != "" {
		c.method = change.method
	}
	if change.path != "" {
		c.path = change.path
	}
	if change.content != "" {
		c.content = change.content
	}
	return c
}

// send makes the call and returns the status and the whole answer as text.
func (c call) send(ctx context.Context, client *http.Client, base string, k key, who callers) (int, string, error) {
	method := c.method
	if method == "" && c.content != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, base+c.target(), strings.NewReader(c.content))
	if err != nil {
		return 0, "", err
	}
	if c.content != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("X-Api-Key", k.Key)
	for _, line := range c.lines(who) {
		name, value, _ := strings.Cut(line, ":")
		if value = strings.TrimSpace(value); value == "" {
			req.Header.Del(name)
		} else {
			req.Header.Set(name, value)
		}
	}
	answer, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	var text strings.Builder
	if err := answer.Header.Write(&text); err != nil {
		return 0, "", err
	}
	text.WriteString("\n")
	_, err = io.Copy(&text, answer.Body)
	return answer.StatusCode, text.String(), err
}

// verify checks that the row's call passes and that its policy is at work.
func (row policyRow) verify(ctx context.Context, client *http.Client, base string, k key, who callers) error {
	var text string
	for range 2 { // the second may come from the cache
		var status int
		var err error
		if status, text, err = row.send(ctx, client, base, k, who); err != nil {
			return err
		}
		if status != 200 {
			return fmt.Errorf("it answers %d %.300q, not 200", status, text)
		}
	}
	if row.shows == "" && !strings.HasSuffix(text, body) {
		return fmt.Errorf("it answers %.500q, not what the origin does", text)
	}
	text = strings.ReplaceAll(text, "\r", "")
	if !strings.Contains(text, row.shows) {
		return fmt.Errorf("its answer has no %q: %.500q", row.shows, text)
	}
	if row.status == 0 {
		return nil
	}
	status, text, err := row.with(row.wrong).send(ctx, client, base, k, who)
	if err != nil {
		return err
	}
	if status != row.status {
		return fmt.Errorf("it answers %d to what it must refuse with %d: %.500q", status, row.status, text)
	}
	return nil
}

// added is what a row's policy adds to a call, in microseconds of CPU, round by
// round. Rounds in which either row is invalid are left out.
func added(samples []sample, name string) []float64 {
	at := slices.IndexFunc(policyRows, func(row policyRow) bool { return row.name == name })
	base := map[int]float64{}
	for _, s := range samples {
		if s.Entry == policyRows[at].beside && s.Invalid == "" {
			base[s.Round] = s.cpuCall()
		}
	}
	var list []float64
	for _, s := range samples {
		if b, ok := base[s.Round]; ok && s.Entry == name && s.Invalid == "" {
			list = append(list, s.cpuCall()-b)
		}
	}
	return list
}

// policyTable makes rows of cells, the first row being the titles.
func policyTable(samples []sample) [][]string {
	cells := [][]string{{"", "µs CPU/call", "added µs", "least", "most", "rounds", "compared with"}}
	for _, row := range policyRows {
		measured := 0
		for _, s := range samples {
			if s.Entry == row.name {
				measured++
			}
		}
		if measured == 0 {
			continue
		}
		spent := values(samples, row.name, sample.cpuCall)
		line := []string{row.name, "–", "–", "–", "–", fmt.Sprintf("%d of %d", len(spent), measured), row.beside}
		if len(spent) > 0 {
			line[1] = fmt.Sprintf("%.1f", median(spent))
		}
		if more := added(samples, row.name); len(more) > 0 {
			line[2] = fmt.Sprintf("%+.1f", median(more))
			line[3] = fmt.Sprintf("%+.1f", slices.Min(more))
			line[4] = fmt.Sprintf("%+.1f", slices.Max(more))
		}
		cells = append(cells, line)
	}
	return cells
}
