package wire

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// testCertificate is made once per run.
var testCertificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a"}, DNSNames: []string{"a"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// tlsListener serves TLS with the protocols named.
func tlsListener(protocols ...string) *Listener {
	cfg := &tls.Config{Certificates: []tls.Certificate{testCertificate()}, NextProtos: protocols}
	return &Listener{Name: "tls", HTTP2: true, TLS: func(*tls.ClientHelloInfo) (*tls.Config, error) { return cfg, nil }}
}

// overTLS makes the connection one of TLS.
func (c *client) overTLS() *client {
	c.t.Helper()
	t := tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true, ServerName: "a", NextProtos: []string{"http/1.1"}})
	if err := t.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	return &client{t, c.t, bufio.NewReader(t)}
}

func TestTLS(t *testing.T) {
	s := start(t, tlsListener("h2", "http/1.1"), func(c *Call) {
		if c.TLS == nil || c.TLS.Version < tls.VersionTLS12 {
			t.Error("the call does not know of TLS")
		}
		switch c.Request.Path {
		case "/large":
			c.Respond(&Head{Status: 200, Length: -1})
			for range 100 {
				c.Write(bytes.Repeat([]byte("x"), 10_000))
			}
			c.End(nil)
		case "/refuse":
			answer(c, 403, "no")
		default:
			echo(c)
		}
	}, nil)
	c := s.dial().overTLS()
	all := ""
	for _, m := range mixed {
		all += m.send
	}
	go c.send(all + all)
	for i := range 2 * len(mixed) {
		m := mixed[i%len(mixed)]
		g := c.read(m.method)
		if g.StatusCode == 100 {
			g = c.read(m.method)
		}
		if g.text != m.want {
			t.Fatalf("request %d: %.80q, want %.80q", i, g.text, m.want)
		}
	}
	c.send(get("/large"))
	if g := c.read("GET"); len(g.text) != 1_000_000 {
		t.Errorf("%d bytes", len(g.text))
	}
	// A large body that nobody wants: the answer arrives all the same.
	io.WriteString(c, "POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n"+strings.Repeat("x", 5_000_000))
	c.expect(403, "no")
	c.closed(5 * time.Second)
	// A client that closes within the head.
	c = s.dial().overTLS()
	c.send("GET / HT")
	c.Conn.(*tls.Conn).CloseWrite()
	c.closed(5 * time.Second)
}

func TestTLSHandshakeFailures(t *testing.T) {
	s := start(t, tlsListener("h2", "http/1.1"), echo, func(c *Config) { c.HandshakeTimeout = 300 * time.Millisecond })
	for name, f := range map[string]func(c *client){
		"garbage":     func(c *client) { c.send("\x16\x03\x01garbage that is no hello") },
		"closed":      func(c *client) { c.Close() },
		"cut short":   func(c *client) { c.send("\x16\x03\x01\x02\x00\x01"); c.Close() },
		"too slow":    func(c *client) { c.send("\x16\x03\x01\x02\x00\x01") },
		"nothing":     func(c *client) {},
		"other bytes": func(c *client) { c.send("\x00\x00\x00\x00\x00\x00\x00\x00") },
		"old version": func(c *client) {
			tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS10}).Handshake()
		},
		"no common protocol": func(c *client) {
			if tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"gopher"}}).Handshake() == nil {
				t.Error("an unknown protocol was accepted")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := s.HandshakesFailed.Load()
			c := s.dial()
			f(c)
			eventually(t, "the failure is counted, the connection closed", func() bool { return s.HandshakesFailed.Load() == before+1 && s.Conns() == 0 })
		})
	}
	if f := s.lastFault(); f != "" {
		t.Errorf("a handshake that failed was answered in plain text: %s", f)
	}
	c := s.dial().overTLS()
	c.send(get("/"))
	c.expect(200, "GET a /")
}

func TestPlainHTTPOnTLS(t *testing.T) {
	s := start(t, tlsListener("http/1.1"), echo, nil)
	for _, send := range []string{get("/"), "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"} {
		c := s.dial()
		c.send(send)
		c.expect(400, string(PlainOnTLS))
		c.closed(5 * time.Second)
	}
}

// proxy1 and proxy2 are PROXY headers for a client at 203.0.113.7:1234.
const proxy1 = "PROXY TCP4 203.0.113.7 192.0.2.1 1234 443\r\n"

func proxy2(command byte, tlvs int) string {
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x20|command, 0x11)
	b = binary.BigEndian.AppendUint16(b, uint16(12+tlvs))
	b = append(b, 203, 0, 113, 7, 192, 0, 2, 1)
	b = binary.BigEndian.AppendUint16(b, 1234)
	b = binary.BigEndian.AppendUint16(b, 443)
	if tlvs > 0 {
		b = append(b, 0xE0)
		b = binary.BigEndian.AppendUint16(b, uint16(tlvs-3))
		b = append(b, make([]byte, tlvs-3)...)
	}
	return string(b)
}

func TestProxyProtocol(t *testing.T) {
	handler := func(c *Call) {
		body, _ := readAll(c)
		answer(c, 200, fmt.Sprintf("%v|%v|%s", c.Announced, c.Peer.Addr(), body))
	}
	s := start(t, &Listener{Name: "p", ProxyProtocol: true}, handler, nil)
	const announced, local = "203.0.113.7:1234|127.0.0.1|hi", "invalid AddrPort|127.0.0.1|hi"
	post := "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
	for _, a := range []struct{ name, header, want string }{
		{"version 1", proxy1, announced},
		{"version 1, IPv6", "PROXY TCP6 2001:db8::7 2001:db8::1 1234 443\r\n", "[2001:db8::7]:1234|127.0.0.1|hi"},
		{"version 1, unknown", "PROXY UNKNOWN\r\n", local},
		{"version 2", proxy2(1, 0), announced},
		{"version 2 with more", proxy2(1, 300), announced},
		{"version 2, local", proxy2(0, 0), local},
	} {
		t.Run(a.name, func(t *testing.T) {
			c := s.dial()
			c.send(a.header + post + post)
			c.expect(200, a.want)
			c.expect(200, a.want) // for all calls of the connection
			c = s.dial()
			for _, b := range []byte(a.header) {
				c.Write([]byte{b})
				time.Sleep(time.Millisecond)
			}
			c.send(post)
			c.expect(200, a.want)
		})
	}
	s = start(t, &Listener{Name: "p", ProxyProtocol: true}, handler, func(c *Config) { c.HandshakeTimeout = 500 * time.Millisecond })
	for _, a := range []struct{ name, header string }{
		{"none", post},
		{"a port too large", "PROXY TCP4 203.0.113.7 192.0.2.1 123456 443\r\n" + post},
		{"no address", "PROXY TCP4 nobody 192.0.2.1 1234 443\r\n" + post},
		{"lower case", "proxy TCP4 203.0.113.7 192.0.2.1 1234 443\r\n" + post},
		{"LF alone", "PROXY TCP4 203.0.113.7 192.0.2.1 1234 443\n" + post},
		{"without end", "PROXY TCP4 " + strings.Repeat("x", 200)},
		{"version 3", "\r\n\r\n\x00\r\nQUIT\n\x31\x11\x00\x0c" + post},
		{"version 2, shorter than it needs", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x04abcd" + post},
	} {
		t.Run(a.name, func(t *testing.T) {
			c := s.dial()
			c.send(a.header)
			c.expect(400, string(BadProxyHeader))
			c.closed(5 * time.Second)
		})
	}
	for name, header := range map[string]string{"stalled": "PROXY TCP4 203.", "nothing": "", "stalled in version 2": proxy2(1, 0)[:14]} {
		t.Run(name, func(t *testing.T) {
			c := s.dial()
			c.send(header)
			c.expect(408, string(BadProxyHeader))
			c.closed(5 * time.Second)
		})
	}
	t.Run("gone", func(t *testing.T) {
		before := s.Conns()
		c := s.dial()
		c.send("PROXY TCP4 203.")
		eventually(t, "accepted", func() bool { return s.Conns() == before+1 })
		c.Close()
		eventually(t, "closed", func() bool { return s.Conns() == before })
	})
	t.Run("a large body behind it", func(t *testing.T) {
		c := s.dial()
		c.send(proxy1 + "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100_000))
		if g := c.read("POST"); len(g.text) != len(announced)-2+100_000 {
			t.Errorf("%d bytes", len(g.text))
		}
	})
}

// TestProxyProtocolTrust: peers that are not trusted cannot announce anybody.
func TestProxyProtocolTrust(t *testing.T) {
	s := start(t, &Listener{Name: "p", ProxyProtocol: true}, echo, nil, func(s *Server) { s.Trusted = nil })
	c := s.dial()
	c.send(proxy1 + get("/"))
	c.expect(400, string(BadProxyHeader))
	c = s.dial()
	c.send(get("/"))
	c.expect(200, "GET a /")
}

func TestProxyProtocolBeforeTLS(t *testing.T) {
	l := tlsListener("h2", "http/1.1")
	l.ProxyProtocol = true
	s := start(t, l, func(c *Call) { answer(c, 200, c.Announced.String()) }, nil)
	// In one write with the hello, and apart from it.
	for _, apart := range []bool{false, true} {
		c := s.dial()
		nc := net.Conn(&joinWrites{Conn: c.Conn, first: []byte(proxy1)})
		if apart {
			c.send(proxy1)
			time.Sleep(20 * time.Millisecond)
			nc = c.Conn
		}
		tc := tls.Client(nc, &tls.Config{InsecureSkipVerify: true, ServerName: "a"})
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		h := newClient(t, tc)
		for range 2 {
			h.send(get("/"))
			h.expect(200, "203.0.113.7:1234")
		}
	}
	c := s.dial()
	c.send(proxy1 + get("/")) // plain HTTP behind it
	c.expect(400, string(PlainOnTLS))
	c.closed(5 * time.Second)
}

// joinWrites sends first in one write with what comes first.
type joinWrites struct {
	net.Conn
	first []byte
}

func (j *joinWrites) Write(p []byte) (int, error) {
	if j.first != nil {
		_, err := j.Conn.Write(append(j.first, p...))
		j.first = nil
		return len(p), err
	}
	return j.Conn.Write(p)
}

// h2Client makes calls over HTTP/2, with TLS or with prior knowledge.
func h2Client(t *testing.T, secure bool) *http.Client {
	p := new(http.Protocols)
	p.SetHTTP2(secure)
	p.SetUnencryptedHTTP2(!secure)
	tr := &http.Transport{Protocols: p, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

// TestHTTP2 hands connections over to net/http: by ALPN, and by the preface on a plain listener, which
// serves HTTP/1.1 as well.
func TestHTTP2(t *testing.T) {
	for _, secure := range []bool{true, false} {
		for _, std := range []bool{false, true} {
			t.Run(fmt.Sprintf("secure=%v/std=%v", secure, std), func(t *testing.T) {
				l := &Listener{Name: "h2c", HTTP2: true, Std: std}
				scheme := "http"
				if secure {
					l, scheme = tlsListener("h2", "http/1.1"), "https"
					l.Std = std
				}
				s := start(t, l, func(c *Call) {
					if c.Request.Proto != 20 && c.Request.Path != "/1" {
						t.Errorf("protocol %d", c.Request.Proto)
					}
					echo(c)
				}, nil)
				h := h2Client(t, secure)
				for range 3 {
					res, err := h.Post(scheme+"://"+s.addr+"/2?x", "text/plain", strings.NewReader("hello"))
					if err != nil {
						t.Fatal(err)
					}
					b, _ := io.ReadAll(res.Body)
					res.Body.Close()
					if res.ProtoMajor != 2 || !strings.HasSuffix(string(b), " /2?x \"hello\"\n") {
						t.Errorf("%s %q", res.Proto, b)
					}
				}
				c := s.dial()
				if secure {
					c = c.overTLS()
				}
				c.send(get("/1"))
				c.expect(200, "GET a /1")
				h.CloseIdleConnections()
			})
		}
	}
}

// TestHTTP2Off: a listener without HTTP/2 does not speak it, whatever the client begins with.
func TestHTTP2Off(t *testing.T) {
	for _, std := range []bool{false, true} {
		s := start(t, &Listener{Name: "h1", Std: std}, echo, nil)
		c := s.dial()
		c.send(Preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		g := c.read("GET")
		if g.ProtoMajor != 1 || g.StatusCode != 505 {
			t.Errorf("std=%v: %s %d %q", std, g.Proto, g.StatusCode, g.text)
		}
	}
}

// TestHTTP2Drain: a drain tells HTTP/2 clients and waits for their calls.
func TestHTTP2Drain(t *testing.T) {
	begun := make(chan struct{})
	s := start(t, &Listener{Name: "h2c", HTTP2: true}, func(c *Call) {
		close(begun)
		time.Sleep(300 * time.Millisecond)
		echo(c)
	}, nil)
	h := h2Client(t, false)
	result := make(chan error, 1)
	go func() {
		res, err := h.Get("http://" + s.addr + "/")
		if err == nil {
			_, err = io.ReadAll(res.Body)
			res.Body.Close()
		}
		result <- err
	}()
	<-begun
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	if n := s.Drain(ctx); n > 0 {
		t.Errorf("%d connections were broken", n)
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
}
