package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"sync/atomic"
	"time"

	"github.com/whygate/whygate/wire"
)

// stream is a trip over HTTP/2, by net/http.
type stream struct {
	t           *Target
	ctx         context.Context
	cancel      context.CancelFunc
	body        *io.PipeWriter
	result      chan result
	informed    chan wire.Response // 1xx
	res         *http.Response
	head        wire.Response
	buf         []byte
	timeout     time.Duration
	interrupted atomic.Bool
	received    atomic.Bool
	late        atomic.Pointer[time.Timer]
	tooLate     atomic.Bool
	done        bool
}

type result struct {
	res *http.Response
	err error
}

func (t *Target) newTransport(host string) *http.Transport {
	p := new(http.Protocols)
	p.SetHTTP2(t.Secure)
	p.SetUnencryptedHTTP2(!t.Secure)
	tr := &http.Transport{
		Protocols:          p,
		DisableCompression: true,
		IdleConnTimeout:    time.Duration(t.up.Spec.Connections.IdleFor),
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return t.up.dialer().DialContext(ctx, network, t.Address)
		},
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
	}
	if t.Secure {
		tr.TLSClientConfig = t.tlsConfig()
		tr.TLSHandshakeTimeout = time.Duration(t.up.Spec.Timeouts.Connect)
	}
	return tr
}

func (t *Target) newStream() *stream {
	s := &stream{t: t, result: make(chan result, 1), informed: make(chan wire.Response, 16)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Send begins the request. Content that is to follow goes through a pipe.
func (s *stream) Send(o *wire.Outgoing, content []byte, timeout time.Duration) error {
	s.timeout = timeout
	scheme := "http"
	if s.t.Secure {
		scheme = "https"
	}
	target := o.Path
	if o.HasQuery {
		target += "?" + o.Query
	}
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		s.received.Store(true)
		r := wire.Response{Status: code, Fields: fieldsOf(http.Header(h))}
		select {
		case s.informed <- r:
			return nil
		default:
			return errors.New("too many informational answers")
		}
	}}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(s.ctx, trace), o.Method, scheme+"://"+s.t.Address+"/", nil)
	if err != nil {
		return err
	}
	req.URL.Opaque, req.URL.Path = "", ""
	if err := setTarget(req, target); err != nil {
		return err
	}
	req.Host = o.Host
	for _, f := range o.Fields {
		key := http.CanonicalHeaderKey(f.Name)
		req.Header[key] = append(req.Header[key], f.Value)
	}
	if o.Trailers {
		req.Header.Set("Te", "trailers")
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header["User-Agent"] = nil // net/http would name itself
	}
	if o.Length != 0 {
		pr, pw := io.Pipe()
		req.Body, s.body = pr, pw
		req.ContentLength = o.Length
	}
	go func() {
		res, err := s.t.http2.RoundTrip(req)
		if s.received.Store(err == nil || s.received.Load()); err != nil && s.body != nil {
			s.body.CloseWithError(err)
		}
		s.result <- result{res, err}
	}()
	if len(content) > 0 {
		return s.Write(content)
	}
	return nil
}

// setTarget makes net/http send the path as it is.
func setTarget(req *http.Request, target string) error {
	u, err := req.URL.Parse(target)
	if err != nil {
		return err
	}
	req.URL = u
	return nil
}

func (s *stream) Write(p []byte) error {
	if s.body == nil {
		return nil
	}
	_, err := s.body.Write(p)
	return s.cause(err)
}

func (s *stream) EndBody(trailer wire.Fields) error {
	if s.body == nil {
		return nil
	}
	return s.cause(s.body.Close())
}

func (s *stream) cause(err error) error {
	if err != nil && s.interrupted.Load() {
		return wire.ErrInterrupted
	}
	return err
}

// Await bounds the wait for the head from here on.
func (s *stream) Await(timeout time.Duration) {
	s.late.Store(time.AfterFunc(timeout, func() {
		if !s.received.Load() {
			s.tooLate.Store(true)
			s.cancel()
		}
	}))
}

// ReadHead waits for the next head: informational ones first.
func (s *stream) ReadHead(method string, timeout time.Duration) error {
	if timeout > 0 {
		s.Await(timeout)
	}
	defer func() {
		if t := s.late.Swap(nil); t != nil {
			t.Stop()
		}
	}()
	select { // in order: what was informed came before the result
	case s.head = <-s.informed:
		return nil
	default:
	}
	select {
	case s.head = <-s.informed:
		return nil
	case r := <-s.result:
		if r.err != nil {
			if s.tooLate.Load() {
				return wire.ErrTimeout
			}
			return s.cause(r.err)
		}
		s.result <- r // for a second call, after informed ones
		select {
		case s.head = <-s.informed:
			return nil
		default:
		}
		<-s.result
		s.res = r.res
		s.head = wire.Response{Status: r.res.StatusCode, Proto: 20, Fields: fieldsOf(r.res.Header), Length: r.res.ContentLength}
		if method == "HEAD" || r.res.StatusCode == 304 || r.res.StatusCode == 204 {
			s.done = true
		} else if r.res.Body == http.NoBody {
			s.head.Length, s.done = max(s.head.Length, 0), true
		}
		return nil
	}
}

// fieldsOf lists header fields in one order; HTTP/2 libraries do not keep the sender's.
func fieldsOf(h http.Header) wire.Fields {
	names := make([]string, 0, len(h))
	for n := range h {
		names = append(names, n)
	}
	slices.Sort(names)
	var fs wire.Fields
	for _, n := range names {
		for _, v := range h[n] {
			fs.Add(n, v)
		}
	}
	return fs
}

func (s *stream) Head() *wire.Response { return &s.head }

func (s *stream) SetTimeout(d time.Duration) { s.timeout = d }

func (s *stream) Buffered() bool { return s.done }

func (s *stream) Next() ([]byte, bool, error) {
	if s.done {
		return nil, true, nil
	}
	if s.buf == nil {
		s.buf = make([]byte, 32<<10)
	}
	timer := time.AfterFunc(s.timeout, s.cancel)
	n, err := s.res.Body.Read(s.buf)
	fired := !timer.Stop()
	switch {
	case err == io.EOF:
		s.done = true
		return s.buf[:n], true, nil
	case err != nil && s.interrupted.Load():
		return nil, false, wire.ErrInterrupted
	case err != nil && fired:
		return nil, false, wire.ErrTimeout
	case err != nil:
		return nil, false, err
	}
	return s.buf[:n], false, nil
}

func (s *stream) Trailer() wire.Fields {
	if s.res == nil {
		return nil
	}
	return fieldsOf(s.res.Trailer)
}

func (s *stream) Received() bool { return s.received.Load() }

func (s *stream) Interrupt() {
	s.interrupted.Store(true)
	s.cancel()
}

// Tunnel does not exist on a stream; the gateway asks for upgrades on HTTP/1.1 only.
func (s *stream) Tunnel() (net.Conn, []byte) { return nil, nil }

func (s *stream) close() {
	s.cancel()
	if s.body != nil {
		s.body.CloseWithError(wire.ErrInterrupted)
	}
	if s.res != nil {
		s.res.Body.Close()
		return
	}
	go func() { // the answer may still come
		if r := <-s.result; r.res != nil {
			r.res.Body.Close()
		}
	}()
}
