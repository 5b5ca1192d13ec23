package snapshot

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net/url"
	"strings"
	"time"

	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/policy"
)

// counters connects the shared counters, if the Gateway has them. The connection stays from one
// revision to the next as long as nothing about it changes.
func (c *compiler) counters() {
	spec := &c.Gateway.Counters
	d := c.Set.Gateway
	if spec.Store != "redis" {
		if d != nil && spec.URL != "" {
			c.lint(d.Problem("spec.counters.url", "each node counts for itself, so the URL is not used", "add store: redis"), "counters.unused")
		}
		return
	}
	before := len(c.problems)
	c.checkStore(spec.URL)
	o := counter.StoreOptions{URL: spec.URL, Timeout: time.Duration(spec.Timeout), Prefix: spec.Prefix, Log: c.Log}
	if spec.Password != nil {
		o.Password = string(c.secret(d, "spec.counters.password", *spec.Password))
	}
	ca := ""
	if spec.CA != "" {
		b := c.read(d, "spec.counters.ca", spec.CA)
		pool := x509.NewCertPool()
		switch {
		case b == nil:
		case !pool.AppendCertsFromPEM(b):
			c.problem(d.Problem("spec.counters.ca", "the file holds no certificate in PEM form", ""))
		case !strings.HasPrefix(spec.URL, "rediss:"):
			c.problem(d.Problem("spec.counters.ca", "authorities are for TLS, and the URL has none", "write rediss:// in the URL"))
		}
		o.TLS = &tls.Config{RootCAs: pool}
		sum := sha256.Sum256(b)
		ca = hex.EncodeToString(sum[:])
	}
	if c.problems[before:].HasErrors() {
		return
	}
	var err error
	store := c.keep("counters "+o.Fingerprint()+ca, func() policy.Kept {
		var s *counter.Store
		if s, err = counter.NewStore(o); err != nil {
			return nothing{}
		}
		return s
	})
	if err != nil {
		c.problem(d.Problem("spec.counters.url", err.Error(), storeHint))
		return
	}
	c.Shared = &policy.Shared{Store: store.(*counter.Store), WhenAway: spec.WhenAway, Share: spec.LocalShare, At: source(d, "spec.counters.whenAway")}
}

const storeHint = "such as redis://10.0.0.9:6379/0, or rediss:// for TLS"

// checkStore says what is wrong with the URL of a store.
func (c *compiler) checkStore(text string) {
	problem := func(message, hint string) {
		c.problem(c.Set.Gateway.Problem("spec.counters.url", message, hint))
	}
	u, err := url.Parse(text)
	switch {
	case text == "":
		problem("store: redis needs the URL of the store", storeHint)
	case err != nil:
		problem("this is no URL", storeHint) // not err, which repeats a password
	case u.Scheme != "redis" && u.Scheme != "rediss" || u.Host == "":
		problem("a store is at redis:// or rediss://, a host and a port", storeHint)
	case u.User != nil && hasPassword(u):
		problem("the URL holds a password", "take it out and say where it is with password: {env: …} or {file: …}")
	case u.RawQuery != "" || u.Fragment != "":
		problem("the URL has parameters, which are fields of their own here", "take away all from the question mark on")
	default:
		if err := counter.CheckStoreURL(text); err != nil {
			problem("this is not the URL of a store: "+strings.TrimPrefix(err.Error(), "redis: "), storeHint)
		}
	}
}

func hasPassword(u *url.URL) bool {
	_, has := u.User.Password()
	return has
}

// nothing stands for what could not be made.
type nothing struct{}

func (nothing) Start() {}
func (nothing) Close() {}
