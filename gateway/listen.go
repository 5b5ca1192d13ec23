package gateway

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/whygate/whygate/snapshot"
	"github.com/whygate/whygate/wire"
)

// opened is a listener that accepts connections.
type opened struct {
	ln   net.Listener
	form form
	done chan struct{}
}

// close loses no connection that was made.
func (o *opened) close() {
	wire.Stop(o.ln)
	<-o.done
	o.ln.Close()
}

// form is what cannot be changed while a listener is open.
type form struct {
	name, address             string
	tls, http2, std, proxying bool
}

func formOf(l *snapshot.Listener) form {
	return form{l.Name, l.Address, l.Listener.TLS != nil, l.HTTP2, l.HTTP1 == "std", l.ProxyProtocol}
}

// Listen opens the listeners of the snapshot in use and closes those that it no longer has. On
// an error the others are open. Open connections are not touched.
func (g *Gateway) Listen() error {
	g.listening.Lock()
	defer g.listening.Unlock()
	s := g.current.Load()
	wanted := map[string]form{}
	for _, l := range s.Listeners {
		wanted[l.Address] = formOf(l)
	}
	for address, o := range g.open {
		if wanted[address] != o.form {
			o.close()
			delete(g.open, address)
			g.Log.Info("listener closed", "listener", o.form.name, "address", address)
		}
	}
	var errs []error
	for _, l := range s.Listeners {
		if g.open[l.Address] != nil {
			continue
		}
		if err := g.openListener(l); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (g *Gateway) openListener(l *snapshot.Listener) error {
	ln, err := net.Listen("tcp", l.Address)
	if err != nil {
		return ListenError(l.Address, err)
	}
	o := &opened{ln: ln, form: formOf(l), done: make(chan struct{})}
	g.open[l.Address] = o
	w := &wire.Listener{Name: l.Name, Address: l.Address, HTTP2: l.HTTP2, Std: l.HTTP1 == "std", ProxyProtocol: l.ProxyProtocol}
	if l.TLS != nil {
		address := l.Address
		w.TLS = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			for _, l := range g.current.Load().Listeners {
				if l.Address == address && l.TLS != nil {
					return l.TLS, nil
				}
			}
			return nil, errors.New("the listener is gone")
		}
	}
	go func() {
		defer close(o.done)
		g.server.Serve(ln, w)
	}()
	g.Log.Info("listening", "listener", l.Name, "address", ln.Addr().String(), "tls", l.TLS != nil)
	return nil
}

// CanListen says why an address cannot be listened on, and what to do about it, by trying.
func CanListen(address string) (problem, hint string) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		hint := listenHint(address, err)
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err // without the address once more
		}
		return fmt.Sprintf("listening on %s: %v", address, err), hint
	}
	ln.Close()
	return "", ""
}

// ListenError explains why an address cannot be listened on, with a next step.
func ListenError(address string, err error) error {
	if hint := listenHint(address, err); hint != "" {
		return fmt.Errorf("listening on %s: %w\n  %s", address, err, hint)
	}
	return fmt.Errorf("listening on %s: %w", address, err)
}

func listenHint(address string, err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		_, port, _ := net.SplitHostPort(address)
		return fmt.Sprintf("another program listens there already; `ss -ltnp 'sport = :%s'` shows which, or choose another address", port)
	case errors.Is(err, syscall.EACCES):
		return "ports below 1024 need root or CAP_NET_BIND_SERVICE; choose a higher port, or setcap cap_net_bind_service=+ep on the binary"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "this machine has no such address; `ip address` lists those it has"
	}
	return ""
}

// Addresses are what the gateway listens on, as the system knows them.
func (g *Gateway) Addresses() (list []net.Addr) {
	g.listening.Lock()
	defer g.listening.Unlock()
	for _, l := range g.current.Load().Listeners {
		if o := g.open[l.Address]; o != nil {
			list = append(list, o.ln.Addr())
		}
	}
	return list
}

func (g *Gateway) closeListeners() {
	g.listening.Lock()
	defer g.listening.Unlock()
	for address, o := range g.open {
		o.close()
		delete(g.open, address)
	}
}

// messageLimits bound what one request may hold.
func messageLimits(s *snapshot.Snapshot) wire.Limits {
	l := &s.Gateway.Limits
	limits := wire.Limits{HeaderBytes: int(l.HeaderBytes), HeaderCount: l.HeaderCount, URIBytes: int(l.URIBytes)}
	switch l.Underscores {
	case "drop":
		limits.Underscores = wire.UnderscoreDrop
	case "allow":
		limits.Underscores = wire.UnderscoreAllow
	}
	return limits
}

// serverConfig is what the HTTP server needs of the documents.
func (g *Gateway) serverConfig(s *snapshot.Snapshot) wire.Config {
	l, t := &s.Gateway.Limits, &s.Gateway.Timeouts
	c := wire.Config{
		Limits:        messageLimits(s),
		HeaderTimeout: time.Duration(t.Header), BodyTimeout: time.Duration(t.Body), WriteTimeout: time.Duration(t.Write),
		IdleTimeout: time.Duration(t.Idle), MaxAge: time.Duration(t.Age), HandshakeTimeout: time.Duration(t.Handshake),
		HalfClosedTimeout: time.Duration(t.HalfClosed), TunnelTimeout: time.Duration(t.Tunnel),
		MaxConns: l.Connections, MaxConnsPerAddr: l.ConnectionsPerAddress, MaxStreams: l.Streams, MaxResets: l.Resets,
	}
	if c.MaxConns == 0 {
		c.MaxConns = connectionsFor(descriptors(), g.MemoryLimit)
	}
	return c
}

// memoryPerConn is what a client connection takes with a call in flight, in bytes. One that is idle takes a third of it.
const memoryPerConn = 32 << 10

// connectionsFor is how many client connections a process can hold that may open so many files and use so much memory, 0
// for no limit: it leaves room for upstream connections, and for all else that needs memory.
func connectionsFor(files, memory int64) int {
	most := files * 2 / 3
	if memory > 0 {
		most = min(most, max(memory/2/memoryPerConn, 100))
	}
	return int(most)
}

// descriptors is how many files this process may have open.
func descriptors() int64 {
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) != nil {
		return 1024
	}
	return int64(min(r.Cur, 1<<20))
}
