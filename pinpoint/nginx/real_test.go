package nginx

import (
	"bufio"
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
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// certificate writes a certificate and its key, signed by a parent or by itself.
func certificate(t *testing.T, dir, name string, until time.Time, parent *tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: until,
		DNSNames: []string{name}, IsCA: parent == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	signer, by := c, any(key)
	if parent != nil {
		signer, by = parent.Leaf, parent.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, c, signer, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := x509.MarshalECPrivateKey(key)
	os.WriteFile(filepath.Join(dir, name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	os.WriteFile(filepath.Join(dir, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}), 0o600)
	leaf, _ := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// TestRealTLS compares what a handshake decides with the real nginx.
func TestRealTLS(t *testing.T) {
	r := newRig(t)
	ca := certificate(t, r.dir, "ca", time.Now().Add(time.Hour), nil)
	certificate(t, r.dir, "site", time.Now().Add(time.Hour), &ca)
	certs := map[string]*tls.Certificate{"none": nil}
	for name, until := range map[string]time.Duration{"valid": time.Hour, "expired": -time.Hour} {
		c := certificate(t, r.dir, name, time.Now().Add(until), &ca)
		certs[name] = &c
	}
	stranger := certificate(t, r.dir, "stranger", time.Now().Add(time.Hour), nil)
	certs["untrusted"] = &stranger
	conf := r.conf(r.replace(`ssl_certificate DIR/site.pem; ssl_certificate_key DIR/site.key; ssl_client_certificate DIR/ca.pem;
server { listen 127.0.0.1:PORT ssl; listen [::1]:PORT ssl; server_name first.test; return 200; }
server { listen 127.0.0.1:PORT ssl; server_name on.test; ssl_verify_client on; return 200; }
server { listen 127.0.0.1:PORT ssl; server_name opt.test; ssl_verify_client optional; return 200; }
server { listen 127.0.0.1:PORT ssl; server_name noca.test; ssl_verify_client optional_no_ca; return 200; }
server { listen 127.0.0.1:PORT ssl; server_name page.test; ssl_verify_client on; error_page 495 496 =403 /p; location = /p { return 200; } }
server { listen 127.0.0.1:PORT ssl; server_name reject.test; ssl_reject_handshake on; }
server { listen [::1]:PORT ssl; server_name six.test; allow 127.0.0.1; deny all; }`))
	r.start()
	c, err := Load(disk{}, conf, r.dir)
	if err != nil || len(c.Problems) > 0 {
		t.Fatal(err, c.Problems)
	}
	for _, addr := range []string{"127.0.0.1", "::1"} {
		local := netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(r.port))
		for _, sni := range []string{"first.test", "on.test", "opt.test", "noca.test", "page.test", "reject.test", "other.test", "six.test"} {
			for _, host := range []string{sni, "on.test", "first.test"} {
				for name, cert := range certs {
					want := handshake(local.String(), sni, host, cert)
					a := arrive("GET", "https://"+host+"/x", addr)
					a.Local, a.SNI, a.Cert = local, sni, name
					if got := c.follow(a).status; got != want {
						t.Errorf("to %s, sni %s, host %s, certificate %s: nginx %d, here %d", addr, sni, host, name, want, got)
					}
				}
			}
		}
	}
	plain := arrive("GET", "http://first.test/", "127.0.0.1")
	plain.Local = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(r.port))
	if got, want := c.follow(plain).status, ask(t, plain.Local.String(), "127.0.0.1", &pinpoint.Request{Method: "GET", URL: "http://first.test/", Header: pinpoint.Header{{Name: "Host", Value: "first.test"}}}).Status; got != want {
		t.Errorf("plain HTTP: nginx %d, here %d", want, got)
	}
}

func handshake(addr, sni, host string, cert *tls.Certificate) int {
	config := &tls.Config{ServerName: sni, InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if cert == nil {
			return &tls.Certificate{}, nil
		}
		return cert, nil
	}}
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addr, config)
	if err != nil {
		return 0
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintf(c, "GET /x HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0
	}
	io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

// TestRealSizes compares the limits of the header with the real nginx, around their edges.
func TestRealSizes(t *testing.T) {
	r := newRig(t)
	conf := r.conf(r.replace(`server { listen 127.0.0.1:PORT; server_name a.test; client_header_buffer_size 512; large_client_header_buffers 2 2k; return 200; }`))
	r.start()
	c, err := Load(disk{}, conf, r.dir)
	if err != nil {
		t.Fatal(err)
	}
	local := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(r.port))
	for _, n := range []int{100, 1000, 1900, 2010, 2020, 2026, 2030, 2034, 2040, 2047, 2048, 2049, 2100, 4000} {
		for _, q := range []*pinpoint.Request{
			{Method: "GET", URL: "http://a.test/" + strings.Repeat("u", n)},
			{Method: "GET", URL: "http://a.test/", Header: pinpoint.Header{{Name: "X-Long", Value: strings.Repeat("h", n)}}},
		} {
			q.Header = append(pinpoint.Header{{Name: "Host", Value: "a.test"}}, q.Header...)
			want := ask(t, local.String(), "127.0.0.1", q).Status
			if got, _ := predict(c, local, "127.0.0.1", q); got.Status != want {
				t.Errorf("%s bytes in %d fields: nginx %d, here %d", strconv.Itoa(n), len(q.Header), want, got.Status)
			}
		}
	}
}

// TestRealAuthBody asks whether the body limit of an auth_request location counts too.
func TestRealAuthBody(t *testing.T) {
	r := newRig(t)
	conf := r.conf(r.replace(`server { listen 127.0.0.1:PORT; server_name a.test; client_max_body_size 5;
location / { client_max_body_size 1k; auth_request /ok; proxy_pass http://UPSTREAM; }
location = /ok { internal; return 200; } }`))
	r.start()
	c, err := Load(disk{}, conf, r.dir)
	if err != nil {
		t.Fatal(err)
	}
	local := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(r.port))
	for _, n := range []int{0, 5, 6, 2000} {
		q := &pinpoint.Request{Method: "POST", URL: "http://a.test/x", Body: []byte(strings.Repeat("b", n)), Header: pinpoint.Header{{Name: "Host", Value: "a.test"}, {Name: "Content-Length", Value: strconv.Itoa(n)}}}
		want := ask(t, local.String(), "127.0.0.1", q).Status
		if got, w := predict(c, local, "127.0.0.1", q); got.Status != want {
			t.Errorf("%d bytes: nginx %d, here %d%s", n, want, got.Status, trailText(w.trail))
		}
	}
}
