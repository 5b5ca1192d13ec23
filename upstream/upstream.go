// Package upstream chooses a target for each call and keeps the connections to it.
//
// An Upstream outlives revisions as long as its document does not change: its
// connections, health and counts stay. For one call:
//
//	Pick a Target ─ Acquire a Trip ─ the gateway sends and reads ─ Release ─ Report
//
// What goes wrong here is a verdict with a reason of its own, and names the target and
// the last error.
package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// Upstream is a service behind the gateway.
type Upstream struct {
	Name   string
	Spec   resource.Upstream
	Source *reason.Source
	// Key is all that the upstream was made of, to tell whether a new revision changes it.
	Key string

	watch   *wire.Watch
	log     *slog.Logger
	tls     *tls.Config // nil when no target speaks TLS
	limits  wire.Limits // of answers
	targets atomic.Pointer[set]
	turn    atomic.Uint64
	window  window
	breaker breaker

	names    bool // some targets are host names
	turns    chan turn
	ctx      context.Context // of what goes on in the background
	stop     context.CancelFunc
	resolved chan struct{} // closed once every name was looked up for the first time
	closed   atomic.Bool
	running  sync.WaitGroup
}

// answerLimits bound the head of an upstream's answer.
var answerLimits = wire.Limits{HeaderBytes: 64 << 10, HeaderCount: 256, URIBytes: 1, Underscores: wire.UnderscoreAllow}

// New prepares an upstream; Start brings it to life. The error, if any, is about a file of
// the document.
func New(name string, spec resource.Upstream, source *reason.Source, resolvePath func(string) string, w *wire.Watch, log *slog.Logger) (*Upstream, error) {
	u := &Upstream{Name: name, Spec: spec, Source: source, watch: w, log: log, limits: answerLimits,
		turns: make(chan turn, 1), resolved: make(chan struct{})}
	u.ctx, u.stop = context.WithCancel(context.Background())
	u.breaker.spec, u.window.span = spec.Breaker, time.Duration(spec.Breaker.Window)
	for _, t := range spec.Targets {
		if strings.HasPrefix(t.URL, "https:") && u.tls == nil {
			var err error
			if u.tls, err = tlsConfig(spec.TLS, resolvePath); err != nil {
				u.stop()
				return nil, err
			}
		}
	}
	u.prepare()
	return u, nil
}

func tlsConfig(spec resource.UpstreamTLS, resolve func(string) string) (*tls.Config, error) {
	c := &tls.Config{ServerName: spec.ServerName, InsecureSkipVerify: spec.SkipVerify, MinVersion: tls.VersionTLS12}
	if spec.CA != "" {
		pem, err := os.ReadFile(resolve(spec.CA))
		if err != nil {
			return nil, fmt.Errorf("reading the authorities: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form", spec.CA)
		}
	}
	if spec.Cert != "" || spec.Key != "" {
		pair, err := tls.LoadX509KeyPair(resolve(spec.Cert), resolve(spec.Key))
		if err != nil {
			return nil, fmt.Errorf("reading the client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// ParseTarget reads a target's URL: scheme, host, port and an optional path.
func ParseTarget(raw string) (scheme, host, port, path string, err error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", "", "", "", err
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		err = fmt.Errorf("the scheme is %q; http and https are spoken", u.Scheme)
	case u.Hostname() == "":
		err = fmt.Errorf("the URL has no host")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		err = fmt.Errorf("only scheme, host, port and path belong here")
	}
	port = u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme, u.Hostname(), port, strings.TrimSuffix(u.EscapedPath(), "/"), err
}

// prepare fills the set with the targets that need no look-up.
func (u *Upstream) prepare() {
	s := &set{}
	names := false
	for i, spec := range u.Spec.Targets {
		scheme, host, port, path, err := ParseTarget(spec.URL)
		if err != nil {
			panic("BUG: target " + spec.URL + " was not checked before")
		}
		if _, err := netip.ParseAddr(host); err == nil {
			s.targets = append(s.targets, u.newTarget(i, scheme, host, port, path, host))
		} else {
			names = true
		}
	}
	s.build(u.Spec.Balance.By)
	u.targets.Store(s)
	if u.names = names; !names {
		close(u.resolved)
	}
}

// Start begins what goes on in the background: names, health, old connections.
func (u *Upstream) Start() {
	if u.names {
		u.background(u.resolve)
	}
	if u.Spec.Health != nil {
		u.background(u.checkHealth)
	}
	u.background(u.closeOld)
}

func (u *Upstream) background(f func()) {
	u.running.Add(1)
	go func() {
		defer u.running.Done()
		f()
	}()
}

// Close ends what goes on in the background and closes idle connections. Calls in flight go on.
func (u *Upstream) Close() {
	if u.closed.Swap(true) {
		return
	}
	u.stop()
	u.running.Wait()
	for _, t := range u.targets.Load().targets {
		t.retire()
	}
}

// Targets are the targets as of now.
func (u *Upstream) Targets() []*Target { return u.targets.Load().targets }

// closeOld closes connections that have been idle for too long, or that the target has closed.
func (u *Upstream) closeOld() {
	t := time.NewTicker(5 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-u.ctx.Done():
			return
		case <-t.C:
			for _, target := range u.targets.Load().targets {
				target.closeIdle(time.Now().Add(-time.Duration(u.Spec.Connections.IdleFor)))
			}
		}
	}
}

// set is the targets of one moment, with what balancing needs. It does not change.
type set struct {
	targets []*Target
	order   []int32 // round robin: indexes, each as often as its weight, evenly spread
	ring    []point // consistent hashing
	problem error   // of the last look-up of names, if any
}

type point struct {
	hash  uint64
	index int32
}

// pickable says that a target may get calls now.
func (t *Target) pickable(now int64) bool {
	return t.Weight > 0 && !t.down.Load() && t.ejectedUntil.Load() <= now
}

// Pick chooses a target. hash is what the balancing by hash goes by; tried are
// targets that failed this call already.
func (u *Upstream) Pick(now time.Time, hash uint64, tried []*Target) (*Target, reason.Verdict) {
	s := u.targets.Load()
	if len(s.targets) == 0 {
		if s = u.awaitNames(); len(s.targets) == 0 {
			return nil, u.nowhere(s)
		}
	}
	if wait, open := u.breaker.blocks(now); open {
		return nil, u.breakerOpen(wait)
	}
	at := mono(now)
	ok := func(i int32) bool {
		t := s.targets[i]
		if !t.pickable(at) {
			return false
		}
		for _, x := range tried {
			if x == t {
				return false
			}
		}
		return true
	}
	for pass := 0; pass < 2; pass++ {
		if t := s.pick(u, hash, ok); t != nil {
			return t, reason.Verdict{}
		}
		if len(tried) == 0 {
			break
		}
		tried = nil // every other target is out: one that failed is better than none
	}
	u.breaker.giveBack()
	return nil, u.allOut(s, now)
}

func (s *set) pick(u *Upstream, hash uint64, ok func(int32) bool) *Target {
	n := len(s.targets)
	if n == 1 {
		if ok(0) {
			return s.targets[0]
		}
		return nil
	}
	switch u.Spec.Balance.By {
	case "hash":
		return s.byHash(hash, ok)
	case "least-requests":
		// Two random choices, the less loaded for its weight wins.
		a, b := int32(rand.IntN(n)), int32(rand.IntN(n))
		if okA, okB := ok(a), ok(b); okA && okB {
			x, y := s.targets[a], s.targets[b]
			if x.inFlight.Load()*int64(y.Weight) <= y.inFlight.Load()*int64(x.Weight) {
				return x
			}
			return y
		} else if okA {
			return s.targets[a]
		} else if okB {
			return s.targets[b]
		}
	}
	if len(s.order) == 0 {
		return nil
	}
	start := u.turn.Add(1)
	for i := range uint64(len(s.order)) {
		if j := s.order[(start+i)%uint64(len(s.order))]; ok(j) {
			return s.targets[j]
		}
	}
	return nil
}

// Speaks2 says whether calls go out as HTTP/2.
func (u *Upstream) Speaks2() bool { return u.Spec.Protocol == "h2" }

var processStart = time.Now()

// mono is the monotonic time in nanoseconds, for comparisons that setting the clock must not disturb.
func mono(t time.Time) int64 { return int64(t.Sub(processStart)) }

// dialer opens connections; keep-alive probes find peers that vanished.
func (u *Upstream) dialer() *net.Dialer {
	return &net.Dialer{Timeout: time.Duration(u.Spec.Timeouts.Connect)}
}

// Upstream is the one that the target belongs to.
func (t *Target) Upstream() *Upstream { return t.up }
