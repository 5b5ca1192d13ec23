package whytest

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whygate/whygate/consumer"
)

// Received is a request as it came off the wire.
type Received struct {
	Line    string   // "GET /a HTTP/1.1"
	Fields  []string // "Name: value", in order and as spelt
	Body    string
	Trailer http.Header
	Conn    int // number of the connection, from 1
}

// All are the values of every field of that name, in any case.
func (r *Received) All(name string) (values []string) {
	for _, f := range r.Fields {
		if n, v, _ := strings.Cut(f, ":"); strings.EqualFold(n, name) {
			values = append(values, strings.TrimSpace(v))
		}
	}
	return values
}

// Get is the only value of a field, "" without one and "?" when there are several.
func (r *Received) Get(name string) string {
	switch v := r.All(name); len(v) {
	case 0:
		return ""
	case 1:
		return v[0]
	}
	return "?"
}

// Scripted is an upstream that answers with bytes.
type Scripted struct {
	Address string
	opened  atomic.Int64
	open    atomic.Int64
	mu      sync.Mutex // guards seen
	seen    []*Received
}

// Script starts an upstream that sends what answer returns to each request, byte for byte, and
// closes when that is "". Answers that end in "Connection: close" or in no length do not close
// by themselves: answer "" to the next request, or use RawUpstream.
func Script(t testing.TB, answer func(*Received) string) *Scripted {
	s := &Scripted{}
	s.Address = RawUpstream(t, func(nc net.Conn, br *bufio.Reader) {
		n := int(s.opened.Add(1))
		s.open.Add(1)
		defer s.open.Add(-1)
		for {
			r, err := Receive(br)
			if err != nil {
				return
			}
			r.Conn = n
			s.mu.Lock()
			s.seen = append(s.seen, r)
			s.mu.Unlock()
			out := answer(r)
			if out == "" {
				return
			}
			if _, err := io.WriteString(nc, out); err != nil {
				return
			}
		}
	})
	return s
}

// Receive reads one request as it is.
func Receive(br *bufio.Reader) (*Received, error) {
	var head bytes.Buffer
	r := &Received{}
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return nil, err
		}
		head.WriteString(line)
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			break
		}
		if r.Line == "" {
			r.Line = line
		} else {
			r.Fields = append(r.Fields, line)
		}
	}
	req, err := http.ReadRequest(bufio.NewReader(&head)) // the head alone: this reader is thrown away
	if err != nil {
		return nil, fmt.Errorf("what came is no request: %w", err)
	}
	switch {
	case len(req.TransferEncoding) > 0:
		r.Body, r.Trailer, err = receiveChunks(br)
	case req.ContentLength > 0:
		b := make([]byte, req.ContentLength)
		_, err = io.ReadFull(br, b)
		r.Body = string(b)
	}
	return r, err
}

func receiveChunks(br *bufio.Reader) (string, http.Header, error) {
	var body bytes.Buffer
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return "", nil, err
		}
		var n int64
		if _, err := fmt.Sscanf(strings.TrimSpace(line), "%x", &n); err != nil {
			return "", nil, err
		}
		if n == 0 {
			h, err := textproto.NewReader(br).ReadMIMEHeader()
			return body.String(), http.Header(h), err
		}
		if _, err := io.CopyN(&body, br, n); err != nil {
			return "", nil, err
		}
		br.ReadString('\n')
	}
}

// URL is where it listens.
func (s *Scripted) URL() string { return "http://" + s.Address }

// Opened is how many connections it has accepted, Open how many of them are open.
func (s *Scripted) Opened() int { return int(s.opened.Load()) }

// Open is how many connections are open.
func (s *Scripted) Open() int { return int(s.open.Load()) }

// Seen are the requests so far.
func (s *Scripted) Seen() []*Received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

// Last is the newest request.
func (s *Scripted) Last(t testing.TB) *Received {
	t.Helper()
	seen := s.Seen()
	if len(seen) == 0 {
		t.Fatal("the upstream was not called")
	}
	return seen[len(seen)-1]
}

// Authority signs certificates for tests.
type Authority struct {
	Pool *x509.CertPool
	File string // the authority itself, in PEM
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
	next int64
}

// NewAuthority makes an authority whose files live as long as the test.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{Pool: x509.NewCertPool(), dir: t.TempDir(), next: 2}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "whytest"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.Pool.AddCert(a.cert)
	a.File = filepath.Join(a.dir, "ca.pem")
	writePEM(t, a.File, "CERTIFICATE", der)
	return a
}

// Issue makes a certificate for names and addresses, and writes it and its key into files.
func (a *Authority) Issue(t testing.TB, names ...string) (certFile, keyFile string, pair tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(a.next), Subject: pkix.Name{CommonName: names[0]}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	a.next++
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			form.IPAddresses = append(form.IPAddresses, ip)
		} else {
			form.DNSNames = append(form.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, form, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile = filepath.Join(a.dir, fmt.Sprintf("%d.crt", form.SerialNumber))
	keyFile = filepath.Join(a.dir, fmt.Sprintf("%d.key", form.SerialNumber))
	writePEM(t, certFile, "CERTIFICATE", der)
	writePEM(t, keyFile, "EC PRIVATE KEY", keyDER)
	if pair, err = tls.LoadX509KeyPair(certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile, pair
}

func writePEM(t testing.TB, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Consumer makes an application with a key; fields are further lines of the spec of its Credential.
func Consumer(name, fields string) (key, documents string) {
	key, prefix, hash := consumer.NewKey()
	return key, fmt.Sprintf("---\napiVersion: whygate/v1\nkind: Application\nmetadata: {name: %s}\nspec: {owner: {team: %s-team}}\n---\napiVersion: whygate/v1\nkind: Credential\nmetadata: {name: %s-key}\nspec:\n  application: %s\n  key: {prefix: %s, sha256: %q}\n%s\n", name, name, name, name, prefix, hash, fields)
}

// Eventually waits until ok holds.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("%s: still not so after %v", what, patience)
}
