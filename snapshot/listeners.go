package snapshot

import (
	"cmp"
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
		for _, o := range c.Listeners {
			if o.Address != l.Address && collide(o.Address, l.Address) {
				c.problem(d.Problem(field+".address", fmt.Sprintf("two listeners want the same port: %s and %s", o.Address, l.Address), "an address for all interfaces takes the port on each of them; choose another port, or leave one listener out"))
				break
			}
		}
		if seen["name "+l.Name] {
			c.problem(d.Problem(field+".name", fmt.Sprintf("two listeners are named %q", l.Name), ""))
		}
		seen["name "+l.Name] = true
		if problem, hint := c.taken(l.Address); problem != "" {
			c.problem(d.Problem(field+".address", problem, hint))
		}
		if l.ProxyProtocol && len(c.Gateway.TrustedProxies) == 0 {
			c.lint(d.Problem(field+".proxyProtocol", "no PROXY header is believed, since the gateway has no trustedProxies: everybody is counted and judged by the address of the balancer", "add the balancer's network to trustedProxies"), "gateway.proxy-protocol-untrusted")
		}
		out := &Listener{Listener: l}
		if l.TLS != nil {
			out.TLS, out.certificates = c.tls(d, field+".tls", l)
		}
		c.Listeners = append(c.Listeners, out)
	}
	c.local = c.localPeer()
}

// taken says why a node that serves already cannot listen on one more address. What the snapshot before listens on is
// the node's own, and is closed before the address is opened again.
func (c *compiler) taken(address string) (problem, hint string) {
	if c.CanListen == nil || c.Before == nil {
		return "", ""
	}
	for _, o := range c.Before.Listeners {
		if o.Address == address || collide(o.Address, address) {
			return "", ""
		}
	}
	return c.CanListen(address)
}

// collide says that two addresses cannot be listened on at once: one of them takes the port on all interfaces, an empty host
// and :: for both families (ipv6(7) of Linux, IPV6_V6ONLY, which Go switches off). Of names nothing is known.
func collide(a, b string) bool {
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	numberA, _ := net.LookupPort("tcp", portA)
	numberB, _ := net.LookupPort("tcp", portB)
	if numberA != numberB || numberA == 0 {
		return false
	}
	ipA, errA := netip.ParseAddr(cmp.Or(hostA, "::"))
	ipB, errB := netip.ParseAddr(cmp.Or(hostB, "::"))
	ipA, ipB = ipA.Unmap(), ipB.Unmap()
	takes := func(all, one netip.Addr) bool {
		return all == netip.IPv6Unspecified() || all == netip.IPv4Unspecified() && (one.Is4() || one == netip.IPv6Unspecified())
	}
	return errA == nil && errB == nil && (ipA == ipB || takes(ipA, ipB) || takes(ipB, ipA))
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

func (c *compiler) tls(d *resource.Document[resource.Gateway], field string, l resource.Listener) (*tls.Config, certificates) {
	certs := certificates{byName: map[string]int{}}
	for i, f := range l.TLS.Certificates {
		at := fmt.Sprintf("%s.certificates[%d]", field, i)
		cert, key := d.Resolve(f.Cert), d.Resolve(f.Key)
		c.Watched = append(c.Watched, cert, key)
		if regular := c.regular(d, at+".cert", cert); !c.regular(d, at+".key", key) || !regular {
			continue
		}
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
		pair.Leaf = leaf
		certs.list = append(certs.list, pair)
		for _, n := range leaf.DNSNames {
			if _, taken := certs.byName[strings.ToLower(n)]; !taken {
				certs.byName[strings.ToLower(n)] = len(certs.list) - 1
			}
		}
	}
	if len(certs.list) == 0 {
		return nil, certs
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return certs.of(h.ServerName), nil
		},
	}
	if l.TLS.MinVersion == "1.3" {
		cfg.MinVersion = tls.VersionTLS13
	}
	c.clientCertificates(d, field, l.TLS, cfg)
	if l.HTTP2 {
		cfg.NextProtos = []string{"h2", "http/1.1"}
	}
	return cfg, certs
}

// certificates are those of a listener.
type certificates struct {
	list   []tls.Certificate
	byName map[string]int // index into list
}

// of is the certificate for a server name (RFC 6066, section 3): the first one where there is none for it.
func (c *certificates) of(server string) *tls.Certificate {
	name := strings.ToLower(strings.TrimSuffix(server, "."))
	i, ok := c.byName[name]
	if !ok {
		_, rest, _ := strings.Cut(name, ".")
		i = c.byName["*."+rest] // or else the first
	}
	return &c.list[i]
}

// Misdirected says that a connection for one server name carries a request for a host that neither that name nor
// the certificate of the connection stands for (RFC 9110, sections 7.4 and 15.5.20); names are those that the certificate has.
// HTTP/2 clients may use a connection for all names of its certificate (RFC 9113, section 9.1.1). A client that named no
// server has said nothing that the request could contradict.
func (l *Listener) Misdirected(server, host string) (names []string, misdirected bool) {
	if server == "" || host == "" || len(l.certificates.list) == 0 || strings.EqualFold(strings.TrimSuffix(server, "."), host) {
		return nil, false
	}
	leaf := l.certificates.of(server).Leaf
	if leaf.VerifyHostname(host) == nil {
		return nil, false
	}
	return leaf.DNSNames, true
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
