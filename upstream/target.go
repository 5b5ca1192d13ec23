package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// Target is one instance of an upstream, at one address.
type Target struct {
	Address string // host:port to connect to
	Host    string // as in the document, for Host and for TLS
	Path    string // put before the path of each call
	Weight  int
	Secure  bool

	up       *Upstream
	entry    int                      // of the document's targets
	name     string                   // host as in the document, without port
	detour   atomic.Pointer[[]string] // host:port of the same name in the other address family
	http2    *http.Transport          // for h2 only
	inFlight atomic.Int64

	mu      sync.Mutex // guards idle, queue and retired
	retired bool       // out of use: connections are closed when their call ends
	idle    []*wire.Conn
	queue   []chan struct{}
	waiting atomic.Int32 // len(queue), to be read without the lock

	// Health: see health.go.
	down         atomic.Bool // by active checks
	failures     atomic.Int32
	failing      atomic.Bool
	firstFailure atomic.Int64
	ejectedUntil atomic.Int64
	ejections    atomic.Int32
	lastError    atomic.Pointer[string]

	Calls, Failed, Ejected atomic.Int64 // counts, for metrics and status
}

// newTarget makes the target at one address of an entry of the document.
func (u *Upstream) newTarget(entry int, scheme, host, port, path, addr string) *Target {
	t := &Target{up: u, entry: entry, name: host, Address: net.JoinHostPort(addr, port), Host: host, Path: path, Weight: u.Spec.Targets[entry].Weight, Secure: scheme == "https"}
	if scheme == "http" && port != "80" || scheme == "https" && port != "443" {
		t.Host = net.JoinHostPort(host, port)
	}
	if u.Speaks2() {
		t.http2 = t.newTransport()
	}
	return t
}

// Trip is one try of one call at one target: an HTTP/1.1 connection or an HTTP/2
// stream.
type Trip interface {
	Exchange(o *wire.Outgoing, content []byte, sendTimeout, timeout time.Duration) (sent bool, err error)
	Send(o *wire.Outgoing, content []byte, timeout time.Duration) error
	Write(p []byte) error
	EndBody(trailer wire.Fields) error
	Await(timeout time.Duration)
	ReadHead(method string, timeout time.Duration) error
	Head() *wire.Response
	SetTimeout(d time.Duration)
	Buffered() bool
	Next() (piece []byte, last bool, err error)
	Trailer() wire.Fields
	Received() bool
	Interrupt()
	Tunnel() (net.Conn, []byte)
}

// Acquire takes a place at the target and a way to it. fresh demands a new connection,
// after an old one turned out to be closed. reused tells that the connection has carried
// calls before.
func (t *Target) Acquire(now time.Time, fresh bool) (trip Trip, reused bool, v reason.Verdict) {
	if v := t.enter(); v.Refused() {
		t.Unreport() // it was not asked
		return nil, false, v
	}
	t.Calls.Add(1)
	if t.http2 != nil {
		return t.newStream(), false, reason.Verdict{}
	}
	if !fresh {
		if c := t.pop(now); c != nil {
			c.Begin()
			return c, true, reason.Verdict{}
		}
	}
	nc, err := t.dial()
	if err != nil {
		t.leave()
		t.Report(now, false)
		return nil, false, t.unreachable(err)
	}
	c := wire.NewConn(nc, t.up.watch, &t.up.limits)
	c.Begin()
	return c, false, reason.Verdict{}
}

// Release ends a trip. A connection that can carry another call is kept.
func (t *Target) Release(trip Trip, interrupted bool) {
	switch c := trip.(type) {
	case *wire.Conn:
		if interrupted || !c.Reusable() {
			c.Close()
		} else {
			c.Release()
			t.push(c)
		}
	case *stream:
		c.close()
		if t.isRetired() {
			t.http2.CloseIdleConnections()
		}
	}
	t.leave()
}

// ReleaseTunnel ends a trip whose connection was handed over.
func (t *Target) ReleaseTunnel() { t.leave() }

func (t *Target) pop(now time.Time) *wire.Conn {
	oldest := now.Add(-time.Duration(t.up.Spec.Connections.IdleFor))
	t.mu.Lock()
	n := len(t.idle)
	if n == 0 {
		t.mu.Unlock()
		return nil
	}
	c := t.idle[n-1] // the last one used: its caches are warm, and the others may grow old
	t.idle[n-1] = nil
	t.idle = t.idle[:n-1]
	t.mu.Unlock()
	if c.Idle.Before(oldest) {
		c.Close() // the ones below are older still; closeOld takes them
		return nil
	}
	return c
}

func (t *Target) push(c *wire.Conn) {
	t.mu.Lock()
	if !t.retired && len(t.idle) < t.up.Spec.Connections.Idle {
		t.idle = append(t.idle, c)
		t.mu.Unlock()
		return
	}
	t.mu.Unlock()
	c.Close()
}

// retire closes idle connections and sees to it that there will be no more.
func (t *Target) retire() {
	t.mu.Lock()
	t.retired = true
	t.mu.Unlock()
	t.closeIdle(time.Time{})
	if t.http2 != nil {
		t.http2.CloseIdleConnections()
	}
}

func (t *Target) isRetired() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.retired
}

// closeIdle closes connections that have been idle since before, or are dead.
func (t *Target) closeIdle(before time.Time) {
	t.mu.Lock()
	old := t.idle
	t.idle = nil
	t.mu.Unlock()
	var keep []*wire.Conn
	for _, c := range old {
		if before.IsZero() || c.Idle.Before(before) || !c.Quiet() {
			c.Close()
		} else {
			keep = append(keep, c)
		}
	}
	if len(keep) == 0 {
		return
	}
	t.mu.Lock()
	if !t.retired {
		t.idle, keep = append(keep, t.idle...), nil
	}
	t.mu.Unlock()
	for _, c := range keep {
		c.Close()
	}
}

// IdleConns is how many connections wait for a call.
func (t *Target) IdleConns() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.idle)
}

// InFlight is how many calls are at the target.
func (t *Target) InFlight() int64 { return t.inFlight.Load() }

// Queued is how many calls wait for a place at the target.
func (t *Target) Queued() int { return int(t.waiting.Load()) }

// enter takes one of the target's places, or waits for one in a bounded queue.
func (t *Target) enter() reason.Verdict {
	spec := &t.up.Spec.Connections
	if t.inFlight.Add(1) <= int64(spec.Max) {
		return reason.Verdict{}
	}
	t.inFlight.Add(-1)
	t.mu.Lock()
	if len(t.queue) >= spec.Queue {
		n := len(t.queue)
		t.mu.Unlock()
		t.wake() // our own coming and going may have hidden a free place from those who wait
		return t.overloaded(n, 0)
	}
	turn := make(chan struct{})
	t.queue = append(t.queue, turn)
	t.waiting.Add(1)
	t.mu.Unlock()
	// A place may have become free before we stood in the queue.
	t.wake()
	timer := time.NewTimer(time.Duration(spec.QueueFor))
	defer timer.Stop()
	select {
	case <-turn:
		return reason.Verdict{}
	case <-timer.C:
	}
	t.mu.Lock()
	for i, q := range t.queue {
		if q == turn {
			t.queue = append(t.queue[:i], t.queue[i+1:]...)
			t.waiting.Add(-1)
			n := len(t.queue)
			t.mu.Unlock()
			return t.overloaded(n+1, time.Duration(spec.QueueFor))
		}
	}
	t.mu.Unlock()
	<-turn // our turn came at the last moment
	return reason.Verdict{}
}

func (t *Target) leave() {
	t.inFlight.Add(-1)
	if t.waiting.Load() > 0 {
		t.wake()
	}
}

// wake gives free places to those who wait.
func (t *Target) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.queue) > 0 {
		if t.inFlight.Add(1) > int64(t.up.Spec.Connections.Max) {
			t.inFlight.Add(-1)
			return
		}
		close(t.queue[0])
		t.queue = t.queue[1:]
		t.waiting.Add(-1)
	}
}

// dial opens a connection, TLS included, within the connect timeout.
func (t *Target) dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(t.up.Spec.Timeouts.Connect))
	defer cancel()
	nc, err := t.connect(ctx)
	if err != nil || !t.Secure {
		return nc, err
	}
	config := t.tlsConfig()
	if t.http2 != nil {
		config.NextProtos = []string{"h2"}
	}
	c := tls.Client(nc, config)
	if err = c.HandshakeContext(ctx); err == nil && t.http2 != nil && c.ConnectionState().NegotiatedProtocol != "h2" {
		err = errors.New("the target does not speak HTTP/2")
	}
	if err != nil {
		nc.Close()
		return nil, &tlsError{err}
	}
	return c, nil
}

func (t *Target) tlsConfig() *tls.Config {
	c := t.up.tls.Clone()
	if c.ServerName == "" {
		host, _, err := net.SplitHostPort(t.Host)
		if err != nil {
			host = t.Host
		}
		c.ServerName = host
	}
	return c
}

// tlsError marks a failure of the handshake, which has other cures than one of the network.
type tlsError struct{ err error }

func (e *tlsError) Error() string { return e.err.Error() }
func (e *tlsError) Unwrap() error { return e.err }

// dialError marks a failure to connect where that happens behind the scenes: nothing of the
// call has been sent then.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// NotSent says that a try failed before anything was sent.
func NotSent(err error) bool {
	var d *dialError
	return errors.As(err, &d)
}

func isTLS(err error) bool {
	var t *tlsError
	return errors.As(err, &t)
}
