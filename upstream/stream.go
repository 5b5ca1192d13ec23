package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/whygate/whygate/wire"
)

// stream is a trip over HTTP/2, by net/http.
type stream struct {
	t           *Target
	ctx         context.Context
	cancel      context.CancelFunc
	content     *io.PipeReader // of what follows the head,
	body        *io.PipeWriter // which is written here
	writes      bool           // there is such content
	trailer     http.Header    // announced ones, filled in at its end
	result      chan result
	pending     bool               // the result is still to come
	informed    chan wire.Response // 1xx
	res         *http.Response
	head        wire.Response
	buf         []byte
	sendTimeout time.Duration // of each wait for the target to take something
	timeout     time.Duration // of each pause within the content
	interrupted atomic.Bool
	received    atomic.Bool
	late        atomic.Pointer[time.Timer] // of the wait for the head
	tooLate     atomic.Bool                // a timer ended the stream
	done        bool
}

type result struct {
	res *http.Response
	err error
}

func (t *Target) newTransport() *http.Transport {
	p := new(http.Protocols)
	p.SetHTTP2(t.Secure)
	p.SetUnencryptedHTTP2(!t.Secure)
	dial := func(context.Context, string, string) (net.Conn, error) {
		nc, err := t.dial()
		if err != nil {
			return nil, &dialError{err}
		}
		return nc, nil
	}
	return &http.Transport{
		Protocols:          p,
		DisableCompression: true,
		IdleConnTimeout:    time.Duration(t.up.Spec.Connections.IdleFor),
		// Which net/http counts with 32 bytes for each field.
		MaxResponseHeaderBytes: int64(t.up.limits.HeaderBytes),
		DialContext:            dial,
		DialTLSContext:         dial,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
	}
}

func (t *Target) newStream() *stream {
	s := &stream{t: t, result: make(chan result, 1), informed: make(chan wire.Response, 16)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.content, s.body = io.Pipe()
	return s
}

// Exchange is Send and ReadHead.
func (s *stream) Exchange(o *wire.Outgoing, content []byte, sendTimeout, timeout time.Duration) (sent bool, err error) {
	if err := s.Send(o, content, sendTimeout); err != nil {
		return false, err
	}
	return true, s.ReadHead(o.Method, timeout)
}

// Send begins the request. Content that is to follow goes through a pipe.
func (s *stream) Send(o *wire.Outgoing, content []byte, timeout time.Duration) error {
	s.sendTimeout = timeout
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		s.received.Store(true)
		select {
		case s.informed <- wire.Response{Status: code, Fields: fieldsOf(http.Header(h))}:
			return nil
		default:
			return errors.New("too many informational answers")
		}
	}}
	req := (&http.Request{Method: o.Method, Host: strings.Clone(o.Host), Header: http.Header{}, ContentLength: o.Length}).
		WithContext(httptrace.WithClientTrace(s.ctx, trace))
	var err error
	if req.URL, err = s.t.url(o); err != nil {
		return err
	}
	// What net/http reads in the background may outlive the call, whose memory is used again.
	for _, f := range o.Fields {
		if f.ID == wire.TrailerField {
			s.announce(f.Value)
			continue
		}
		key := strings.Clone(http.CanonicalHeaderKey(f.Name))
		req.Header[key] = append(req.Header[key], strings.Clone(f.Value))
	}
	if o.Trailers {
		req.Header.Set("Te", "trailers")
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header["User-Agent"] = nil // net/http would name itself
	}
	switch {
	case len(content) > 0:
		req.Body = io.NopCloser(bytes.NewReader(bytes.Clone(content)))
	case o.Length != 0:
		req.Body, req.Trailer = s.content, s.trailer
		s.writes = true
	}
	s.pending = true
	go func() {
		res, err := s.t.http2.RoundTrip(req)
		if err == nil {
			s.received.Store(true)
		} else {
			s.content.CloseWithError(err)
		}
		s.result <- result{res, err}
	}()
	return nil
}

// url makes net/http send the path as it is: "//host/x" is a path too.
func (t *Target) url(o *wire.Outgoing) (*url.URL, error) {
	u := &url.URL{Scheme: "http", Host: t.Address, RawPath: strings.Clone(o.Path), RawQuery: strings.Clone(o.Query)}
	if t.Secure {
		u.Scheme = "https"
	}
	u.ForceQuery = o.HasQuery && o.Query == ""
	var err error
	u.Path, err = url.PathUnescape(u.RawPath)
	return u, err
}

// announce remembers which trailers the request will have; HTTP/2 libraries want to know.
func (s *stream) announce(names string) {
	if s.trailer == nil {
		s.trailer = http.Header{}
	}
	for name := range strings.SplitSeq(names, ",") {
		if name = strings.TrimSpace(name); wire.IsToken(name) {
			s.trailer[strings.Clone(http.CanonicalHeaderKey(name))] = nil
		}
	}
}

func (s *stream) Write(p []byte) error {
	if !s.writes || len(p) == 0 {
		return nil
	}
	timer := time.AfterFunc(s.sendTimeout, s.expire)
	_, err := s.body.Write(p)
	timer.Stop()
	return s.cause(err)
}

func (s *stream) EndBody(trailer wire.Fields) error {
	if !s.writes {
		return nil
	}
	for _, f := range trailer {
		key := http.CanonicalHeaderKey(f.Name)
		if _, ok := s.trailer[key]; ok {
			s.trailer[key] = append(s.trailer[key], strings.Clone(f.Value))
		}
	}
	return s.cause(s.body.Close())
}

// expire ends the stream when a time has run out.
func (s *stream) expire() {
	s.tooLate.Store(true)
	s.abort()
}

// abort ends the stream. net/http does not look at its context while it waits for content.
func (s *stream) abort() {
	s.cancel()
	s.body.CloseWithError(wire.ErrInterrupted)
}

// cause names the cause behind an error of the stream.
func (s *stream) cause(err error) error {
	switch {
	case err == nil:
		return nil
	case s.interrupted.Load():
		return wire.ErrInterrupted
	case s.tooLate.Load():
		return wire.ErrTimeout
	}
	return err
}

// Await bounds the wait for the head from here on.
func (s *stream) Await(timeout time.Duration) {
	if old := s.late.Swap(time.AfterFunc(timeout, s.expire)); old != nil {
		old.Stop()
	}
}

// ReadHead waits for the next head: informational ones first.
func (s *stream) ReadHead(method string, timeout time.Duration) error {
	if timeout > 0 {
		s.Await(timeout)
	}
	select { // in order: what was informed came before the result
	case s.head = <-s.informed:
		return nil
	default:
	}
	select {
	case s.head = <-s.informed:
		return nil
	case r := <-s.result:
		select {
		case s.head = <-s.informed:
			s.result <- r // for the next call
			return nil
		default:
		}
		if s.pending = false; r.err != nil {
			return s.cause(r.err)
		}
		s.res = r.res
		s.head = wire.Response{Status: r.res.StatusCode, Proto: 20, Fields: fieldsOf(r.res.Header), Length: r.res.ContentLength}
		if f := s.fault(); f != nil {
			return f
		}
		s.done = method == "HEAD" || r.res.StatusCode == 304 || r.res.StatusCode == 204
		return nil
	}
}

// fault says what net/http lets pass in the final head, and HTTP/1.1 would not.
func (s *stream) fault() *wire.Fault {
	switch lim := &s.t.up.limits; {
	case s.head.Status < 200 || s.head.Status > 599:
		return &wire.Fault{Rule: wire.BadRequestLine, Wanted: "a status from 200 to 599", Text: "the status " + strconv.Itoa(s.head.Status)}
	case len(s.head.Fields) > lim.HeaderCount:
		return &wire.Fault{Rule: wire.TooManyHeaders, Wanted: "fewer header fields", Text: strconv.Itoa(len(s.head.Fields)) + " header fields", Limit: int64(lim.HeaderCount), Seen: int64(len(s.head.Fields))}
	}
	return nil
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

// SetTimeout bounds each pause within the content from here on; the wait for the head is over.
func (s *stream) SetTimeout(d time.Duration) {
	s.timeout = d
	if t := s.late.Swap(nil); t != nil {
		t.Stop()
	}
}

func (s *stream) Buffered() bool { return s.done }

func (s *stream) Next() ([]byte, bool, error) {
	if s.done {
		return nil, true, nil
	}
	if s.buf == nil {
		s.buf = make([]byte, 32<<10)
	}
	timer := time.AfterFunc(s.timeout, s.expire)
	n, err := s.res.Body.Read(s.buf)
	timer.Stop()
	switch {
	case err == io.EOF:
		s.done = true
		return s.buf[:n], true, nil
	case err != nil:
		return nil, false, s.cause(err)
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
	s.abort()
}

// Tunnel does not exist on a stream; the gateway asks for upgrades on HTTP/1.1 only.
func (s *stream) Tunnel() (net.Conn, []byte) { panic("BUG: a stream of HTTP/2 cannot become a tunnel") }

func (s *stream) close() {
	s.SetTimeout(0)
	s.abort()
	switch {
	case s.res != nil:
		s.res.Body.Close()
	case s.pending:
		go func() { // the answer may still come
			if r := <-s.result; r.res != nil {
				r.res.Body.Close()
			}
		}()
	}
}
