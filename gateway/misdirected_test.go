package gateway_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/whygate/whygate/whytest"
)

// A connection made for one host carries requests for the names of its certificate, and for no others.
func TestMisdirected(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always(ok))
		ca := whytest.NewAuthority(t)
		shop, shopKey, _ := ca.Issue(t, "shop.test", "*.pets.test")
		bank, bankKey, _ := ca.Issue(t, "bank.test")
		gateway := func(spec string) string {
			return fmt.Sprintf("apiVersion: whygate/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  disclosure: {anonymous: operator}\n%s  listeners:\n  - {name: edge, address: \"127.0.0.1:0\", http1: %s, tls: {certificates: [{cert: %s, key: %s}, {cert: %s, key: %s}]}}\n---\n", spec, engine, shop, shopKey, bank, bankKey) + whytest.API(up.URL(), "/", "")
		}
		n := whytest.Start(t, engine, gateway(""))
		trusting := whytest.Start(t, engine, gateway("  trustedProxies: [127.0.0.0/8]\n"))
		for _, c := range []struct {
			n            *whytest.Node
			server, host string
			refused      bool
		}{
			{n, "shop.test", "shop.test", false},
			{n, "shop.test", "SHOP.test:8443", false},
			{n, "shop.test", "a.pets.test", false}, // one certificate
			{n, "a.pets.test", "shop.test", false},
			{n, "bank.test", "bank.test", false},
			{n, "shop.test", "bank.test", true},
			{n, "bank.test", "shop.test", true},
			{n, "shop.test", "a.b.pets.test", true},
			{n, "shop.test", "other.test", true},
			{n, "shop.test", "127.0.0.1", true},
			{n, "other.test", "other.test", false}, // served with the first certificate, as it was asked for
			{n, "other.test", "shop.test", false},
			{n, "", "bank.test", false}, // no server name
			{trusting, "shop.test", "bank.test", false},
		} {
			for _, http2 := range []bool{false, true} {
				protocols := new(http.Protocols)
				protocols.SetHTTP1(!http2)
				protocols.SetHTTP2(http2)
				client := &http.Transport{TLSClientConfig: &tls.Config{ServerName: c.server, InsecureSkipVerify: true}, Protocols: protocols}
				if c.server == "" {
					client.TLSClientConfig.ServerName = "127.0.0.1" // an address, which no client sends
				}
				req, err := http.NewRequest("GET", "https://"+c.n.Addr()+"/", nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Host = c.host
				res, err := client.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				b, _ := io.ReadAll(res.Body)
				res.Body.Close()
				client.CloseIdleConnections()
				switch {
				case !c.refused && res.StatusCode != 200:
					t.Errorf("%s on a connection for %s, HTTP/2 %v: %d %s", c.host, c.server, http2, res.StatusCode, b)
				case c.refused && (res.StatusCode != 421 || res.Header.Get("Whygate-Reason") != "request.misdirected" || !strings.Contains(string(b), "the connection was made for "+c.server)):
					t.Errorf("%s on a connection for %s, HTTP/2 %v: %d %v %s", c.host, c.server, http2, res.StatusCode, res.Header, b)
				}
			}
		}
	})
}
