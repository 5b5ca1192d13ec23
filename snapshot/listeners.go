package snapshot

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/resource"
)

// listeners reads certificates and finds addresses that cannot be.
func (c *compiler) listeners() {
	d := c.Set.Gateway
	seen := map[string]bool{}
	if named := slices.ContainsFunc(c.Gateway.Listeners, func(l resource.Listener) bool { return l.Address == c.Listen }); c.Listen != "" && !named && (c.AlsoListen || len(c.Gateway.Listeners) == 0) {
		l := defaults[resource.Listener]()
		l.Name, l.Address = "flag", c.Listen
		if len(c.Gateway.Listeners) == 0 {
			l.Name = "main"
		}
		c.Listeners = append(c.Listeners, &Listener{Listener: l})
	}
	for i, l := range c.Gateway.Listeners {
		field := fmt.Sprintf("spec.listeners[%d]", i)
		host, port, err := net.SplitHostPort(l.Address)
		if err == nil {
			_, err = net.LookupPort("tcp", port)
		}
		if err != nil {
			c.problem(d.Problem(field+".address", fmt.Sprintf("%q is no address to listen on", l.Address), "host:port, such as 127.0.0.1:8080 or :8443"))
			continue
		}
		if seen[net.JoinHostPort(host, port)] {
			c.problem(d.Problem(field+".address", fmt.Sprintf("two listeners want %s", l.Address), ""))
		}
		seen[net.JoinHostPort(host, port)] = true
		if seen["name "+l.Name] {
			c.problem(d.Problem(field+".name", fmt.Sprintf("two listeners are named %q", l.Name), ""))
		}
		seen["name "+l.Name] = true
		if l.ProxyProtocol && len(c.Gateway.TrustedProxies) == 0 {
			c.lint(d.Problem(field+".proxyProtocol", "no PROXY header is believed, since the gateway has no trustedProxies: everybody is counted and judged by the address of the balancer", "add the balancer's network to trustedProxies"), "gateway.proxy-protocol-untrusted")
		}
		out := &Listener{Listener: l}
		if l.TLS != nil {
			out.TLS = c.tls(d, field+".tls", l)
		}
		c.Listeners = append(c.Listeners, out)
	}
	c.local = c.localPeer()
}

// localPeer is the address of the proxy that must be there: all listeners are on loopback addresses, none of them is a
// trusted proxy. Without listeners in the documents nothing is known.
func (c *compiler) localPeer() (local netip.Addr) {
	if len(c.Gateway.Listeners) == 0 {
		return local
	}
	for _, l := range c.Listeners {
		host, _, _ := net.SplitHostPort(l.Address)
		if host == "localhost" {
			host = "127.0.0.1"
		}
		a, err := netip.ParseAddr(host)
		if err != nil || !a.IsLoopback() || c.Trust.Has(a) || l.ProxyProtocol {
			return netip.Addr{}
		}
		local = a
	}
	return local
}

func (c *compiler) tls(d *resource.Document[resource.Gateway], field string, l resource.Listener) *tls.Config {
	byName := map[string]int{} // index of the certificate
	var certs []tls.Certificate
	for i, f := range l.TLS.Certificates {
		at := fmt.Sprintf("%s.certificates[%d]", field, i)
		cert, key := d.Resolve(f.Cert), d.Resolve(f.Key)
		c.Watched = append(c.Watched, cert, key)
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			where := at + ".cert"
			if strings.Contains(err.Error(), key) {
				where = at + ".key"
			}
			c.problem(d.Problem(where, fmt.Sprintf("reading the certificate: %v", err), "paths are relative to the document; both files are PEM, the key belongs to the first certificate"))
			continue
		}
		leaf := pair.Leaf
		if leaf == nil {
			leaf, _ = x509.ParseCertificate(pair.Certificate[0])
		}
		if leaf.NotAfter.Before(c.Loaded) {
			c.lint(d.Problem(at+".cert", fmt.Sprintf("the certificate expired at %v", leaf.NotAfter.UTC()), "renew it: clients refuse it"), "tls.expired")
		} else if leaf.NotBefore.After(c.Loaded) {
			c.lint(d.Problem(at+".cert", fmt.Sprintf("the certificate is valid from %v only", leaf.NotBefore.UTC()), ""), "tls.not-yet-valid")
		}
		certs = append(certs, pair)
		for _, n := range leaf.DNSNames {
			if _, taken := byName[strings.ToLower(n)]; !taken {
				byName[strings.ToLower(n)] = len(certs) - 1
			}
		}
	}
	if len(certs) == 0 {
		return nil
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			name := strings.ToLower(strings.TrimSuffix(h.ServerName, "."))
			i, ok := byName[name]
			if !ok {
				_, rest, _ := strings.Cut(name, ".")
				i = byName["*."+rest] // or else the first
			}
			return &certs[i], nil
		},
	}
	if l.TLS.MinVersion == "1.3" {
		cfg.MinVersion = tls.VersionTLS13
	}
	c.clientCertificates(d, field, l.TLS, cfg)
	if l.HTTP2 {
		cfg.NextProtos = []string{"h2", "http/1.1"}
	}
	return cfg
}

// clientCertificates has a listener ask for certificates. They are verified by the policy mtls, which can say
// what is wrong with one.
func (c *compiler) clientCertificates(d *resource.Document[resource.Gateway], field string, t *resource.ListenerTLS, cfg *tls.Config) {
	ask := t.ClientCertificates
	if t.ClientCA != "" {
		path := d.Resolve(t.ClientCA)
		c.watch(path)
		list, err := policy.ReadAuthorities(path)
		if err != nil {
			c.problem(d.Problem(field+".clientCA", err.Error(), "a PEM file with certificates; its path is relative to the document"))
			return
		}
		c.authorities = append(c.authorities, list...)
		if ask == "optional" {
			cfg.ClientCAs = x509.NewCertPool()
			for _, a := range list {
				cfg.ClientCAs.AddCert(a)
			}
		}
	} else if ask == "optional" {
		c.problem(d.Problem(field+".clientCertificates", "optional tells clients the authorities of clientCA, and there is none", "add clientCA, or write request"))
	}
	if ask != "off" && (ask != "" || t.ClientCA != "") {
		cfg.ClientAuth = tls.RequestClientCert
	}
}
