package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// http2Conn opens a connection of HTTP/2 to s, over TLS or not.
func http2Conn(t *testing.T, s *testServer, secure bool) *h2Conn {
	c := s.dial()
	if secure {
		tc := tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		c = newClient(t, tc)
	}
	return dialH2(c)
}

// TestRapidReset: who has more streams reset than the budget is told so and sent away, on every kind of
// listener; who stays within it is not.
func TestRapidReset(t *testing.T) {
	get := []string{":method: GET", ":scheme: http", ":authority: a", ":path: /"}
	for name, l := range map[string]*Listener{"h2c": {Name: "h2c", HTTP2: true}, "std": {Name: "std", HTTP2: true, Std: true}, "tls": tlsListener("h2", "http/1.1")} {
		t.Run(name, func(t *testing.T) {
			var log syncBuffer
			s := start(t, l, func(c *Call) {
				if c.Request.Path == "/" { // it is answered when its client has gone
					<-c.Context().Done()
				}
				echo(c)
			}, func(c *Config) { c.MaxResets, c.MaxStreams = 20, 1000 }, stranger(&log))
			h := http2Conn(t, s, name == "tls")
			stream := uint32(1)
			for range 20 {
				h.request(stream, true, get...)
				h.fr.WriteRSTStream(stream, http2.ErrCodeCancel)
				stream += 2
			}
			h.request(stream, true, ":method: GET", ":scheme: http", ":authority: a", ":path: /fine")
			if got := h.answer(stream); got != "200 GET a /fine \"\"\n" {
				t.Fatalf("within the budget: %q", got)
			}
			h.fr.WriteRSTStream(stream, http2.ErrCodeCancel) // of what was answered: it does not count
			for range 2 {
				stream += 2
				h.request(stream, true, get...)
				h.fr.WriteRSTStream(stream, http2.ErrCodeCancel)
			}
			for {
				f, err := h.fr.ReadFrame()
				if err != nil {
					t.Fatalf("closed without a word: %v", err)
				}
				if g, ok := f.(*http2.GoAwayFrame); ok {
					if g.ErrCode != http2.ErrCodeEnhanceYourCalm || g.LastStreamID < 41 || !strings.Contains(string(g.DebugData()), "more than 20 streams") {
						t.Errorf("%v, %q", g, g.DebugData())
					}
					break
				}
			}
			if _, err := h.fr.ReadFrame(); !errors.Is(err, io.EOF) {
				t.Errorf("after the GOAWAY: %v", err)
			}
			if n := s.RapidResets.Load(); n != 1 || !strings.Contains(log.String(), "reset too many streams") {
				t.Errorf("%d counted, log %s", n, &log)
			}
		})
	}
}

// TestMadeToReset: a client that has the server reset its streams spends the same budget (CVE-2025-8671).
func TestMadeToReset(t *testing.T) {
	s := start(t, &Listener{Name: "h2c", HTTP2: true}, func(c *Call) { <-c.Context().Done(); echo(c) }, func(c *Config) { c.MaxResets = 20 }, stranger(io.Discard))
	h := http2Conn(t, s, false)
	for stream := uint32(1); stream < 100; stream += 2 {
		h.request(stream, true, ":method: GET", ":scheme: http", ":authority: a", ":path: /")
		h.fr.WriteData(stream, false, []byte("behind the end"))
	}
	for {
		f, err := h.fr.ReadFrame()
		if err != nil {
			t.Fatalf("closed without a word: %v", err)
		}
		if g, ok := f.(*http2.GoAwayFrame); ok {
			if g.ErrCode != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("%v", g)
			}
			return
		}
	}
}

// TestResetBudget: it flows back within the window; trusted proxies and a bound of 0 have none.
func TestResetBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		resets := func(limit int, trusted bool, pauses ...time.Duration) (n int) {
			srv := &Server{Log: slog.New(slog.DiscardHandler)}
			if trusted {
				srv.Trusted = func(netip.Addr) bool { return true }
			}
			h := &framedConn{c: &conn{srv: srv, cfg: &Config{MaxResets: limit}, listener: &Listener{}}, open: map[uint32]struct{}{}}
			for i := range 1000 {
				id := uint32(2*i + 1)
				h.asked(frame{kind: frameHeaders, stream: id})
				h.asked(frame{kind: frameReset, stream: id})
				h.asked(frame{kind: frameReset, stream: id}) // twice is once
				if h.over.Load() {
					return i
				}
				time.Sleep(pauses[i%len(pauses)])
			}
			return 1000
		}
		for _, c := range []struct {
			limit   int
			trusted bool
			pauses  []time.Duration
			want    int
		}{
			{200, false, []time.Duration{0}, 200},
			{200, false, []time.Duration{151 * time.Millisecond}, 1000}, // 200 in 30 s are one each 150 ms
			{200, false, []time.Duration{75 * time.Millisecond}, 399},
			{200, true, []time.Duration{0}, 1000},
			{0, false, []time.Duration{0}, 1000},
		} {
			if got := resets(c.limit, c.trusted, c.pauses...); got != c.want {
				t.Errorf("%+v: the connection ended after %d", c, got)
			}
		}
	})
}

// TestHeaderBlockTimeout: a header block that does not come to its end is waited for as long as a head of HTTP/1.
func TestHeaderBlockTimeout(t *testing.T) {
	for name, send := range map[string]func(h *h2Conn){
		"within a frame":    func(h *h2Conn) { h.send("\x00\x00\x20\x01\x05\x00\x00\x00\x03\x82") },
		"between frames":    func(h *h2Conn) { h.send("\x00\x00\x01\x01\x01\x00\x00\x00\x03\x82") },
		"in the next frame": func(h *h2Conn) { h.send("\x00\x00\x01\x01\x01\x00\x00\x00\x03\x82\x00\x00\x02\x09\x00\x00\x00") },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, &Listener{Name: "h2c", HTTP2: true}, echo, func(c *Config) { c.HeaderTimeout = 300 * time.Millisecond })
			h := http2Conn(t, s, false)
			h.request(1, true, ":method: GET", ":scheme: http", ":authority: a", ":path: /")
			if got := h.answer(1); !strings.HasPrefix(got, "200") {
				t.Fatal(got)
			}
			time.Sleep(600 * time.Millisecond) // an idle connection is not meant
			send(h)
			h.SetReadDeadline(time.Now().Add(15 * time.Second)) // below the 45 s after which net/http gives up
			for {
				if _, err := h.fr.ReadFrame(); isTimeout(err) {
					t.Fatal("the connection is still open")
				} else if err != nil {
					return
				}
			}
		})
	}
}

// TestConnectionAge: every engine has clients of an old connection come anew, after their call.
func TestConnectionAge(t *testing.T) {
	young := func(c *Config) { c.MaxAge = time.Nanosecond }
	for name, l := range map[string]*Listener{"wire": nil, "std": {Name: "std", Std: true}} {
		s := start(t, l, echo, young)
		c := s.dial()
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if g := c.read("GET"); g.StatusCode != 200 || !g.Close {
			t.Errorf("%s: %+v", name, g)
		}
	}
	for _, secure := range []bool{false, true} {
		l := &Listener{Name: "h2c", HTTP2: true}
		if secure {
			l = tlsListener("h2")
		}
		s := start(t, l, echo, young)
		h := http2Conn(t, s, secure)
		h.request(1, true, ":method: GET", ":scheme: http", ":authority: a", ":path: /")
		answered, away := false, false
		for !answered || !away {
			f, err := h.fr.ReadFrame()
			if err != nil {
				t.Fatalf("answered %v, told to go %v: %v", answered, away, err)
			}
			switch f := f.(type) {
			case *http2.GoAwayFrame:
				away = f.ErrCode == http2.ErrCodeNo
			case *http2.MetaHeadersFrame:
				answered = f.PseudoValue("status") == "200"
			}
		}
	}
}

// TestReconfiguredHTTP2: new connections get what a reload has changed; those that are open stay.
func TestReconfiguredHTTP2(t *testing.T) {
	s := start(t, &Listener{Name: "h2c", HTTP2: true}, echo, func(c *Config) { c.MaxStreams = 7 })
	streams := func(h *h2Conn) (n uint32) {
		for {
			f, err := h.fr.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if f, ok := f.(*http2.SettingsFrame); ok && !f.IsAck() {
				n, _ = f.Value(http2.SettingMaxConcurrentStreams)
				return n
			}
		}
	}
	before := http2Conn(t, s, false)
	if n := streams(before); n != 7 {
		t.Errorf("%d streams", n)
	}
	for i := range 5 {
		cfg := testConfig()
		cfg.MaxStreams = 10 + i
		s.SetConfig(cfg)
		h := http2Conn(t, s, false)
		if n := streams(h); n != uint32(10+i) {
			t.Errorf("%d streams", n)
		}
		h.Close()
	}
	before.request(1, true, ":method: GET", ":scheme: http", ":authority: a", ":path: /")
	if got := before.answer(1); !strings.HasPrefix(got, "200") {
		t.Error(got)
	}
	for s.Conns() > 1 {
		time.Sleep(time.Millisecond)
	}
	cfg := testConfig()
	cfg.MaxStreams = 20
	s.SetConfig(cfg)
	after := http2Conn(t, s, false)
	after.request(1, true, ":method: GET", ":scheme: http", ":authority: a", ":path: /")
	if got := after.answer(1); !strings.HasPrefix(got, "200") {
		t.Error(got)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.std) != 2 { // others went with their last connection
		t.Errorf("%d servers are kept", len(s.std))
	}
}

// TestLargeHeadersHTTP2: what is larger than allowed is refused by a rule, as on HTTP/1.
func TestLargeHeadersHTTP2(t *testing.T) {
	s := start(t, &Listener{Name: "h2c", HTTP2: true}, echo, nil)
	h := http2Conn(t, s, false)
	fields := []string{":method: GET", ":scheme: http", ":authority: a", ":path: /"}
	for i := range 2 {
		fields = append(fields, fmt.Sprintf("x-%d: %s", i, strings.Repeat("~", testLimits.HeaderBytes*(2*i+3)/8)))
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		h.enc.WriteField(hpack.HeaderField{Name: name, Value: value})
	}
	h.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.buf.Next(16 << 10), EndStream: true})
	for h.buf.Len() > 0 {
		piece := h.buf.Next(16 << 10)
		h.fr.WriteContinuation(1, h.buf.Len() == 0, piece)
	}
	if got := h.answer(1); !strings.HasPrefix(got, "431 "+string(HeadersTooLarge)) || !strings.Contains(got, `"X-1"`) {
		t.Errorf("%q", got)
	}
}

// FuzzFrames: the scanner sees the frames that a framer sees, in pieces of any size.
func FuzzFrames(f *testing.F) {
	var b bytes.Buffer
	fr := http2.NewFramer(&b, nil)
	fr.WriteSettings()
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("abc")})
	fr.WriteContinuation(1, true, []byte("def"))
	fr.WriteData(1, true, []byte("hello"))
	fr.WriteRSTStream(3, http2.ErrCodeCancel)
	fr.WriteGoAway(1, http2.ErrCodeEnhanceYourCalm, []byte("calm"))
	for _, piece := range []byte{1, 2, 9, 13, 255} {
		f.Add(b.Bytes(), piece)
	}
	f.Add([]byte{0, 0, 3, frameReset, 0, 0, 0, 0, 1, 1, 2, 3}, byte(4)) // too short for a code
	f.Fuzz(func(t *testing.T, stream []byte, piece byte) {
		var got, want []frame
		s := frameScanner{preface: Preface}
		for rest := append([]byte(Preface), stream...); len(rest) > 0; {
			n := min(int(piece)+1, len(rest))
			if !s.scan(rest[:n], func(f frame) { got = append(got, f) }) {
				t.Fatal("the preface is refused")
			}
			rest = rest[n:]
		}
		r := bytes.NewReader(stream)
		for {
			head, err := http2.ReadFrameHeader(r)
			if err != nil {
				break
			}
			f := frame{length: int(head.Length), kind: byte(head.Type), flags: byte(head.Flags), stream: head.StreamID}
			if head.Type == http2.FrameRSTStream && head.Length >= 4 {
				if r.Len() < 4 {
					break
				}
				var code [4]byte
				r.Read(code[:])
				f.code = uint32(code[0])<<24 | uint32(code[1])<<16 | uint32(code[2])<<8 | uint32(code[3])
				r.Seek(int64(head.Length)-4, io.SeekCurrent)
			} else {
				r.Seek(int64(head.Length), io.SeekCurrent)
			}
			want = append(want, f)
		}
		if len(got) != len(want) {
			t.Fatalf("%+v, want %+v", got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("frame %d: %+v, want %+v", i, got[i], want[i])
			}
		}
	})
}

// TestInadequateSecurity: what HTTP/2 prohibits of TLS 1.2 is said, as net/http would.
func TestInadequateSecurity(t *testing.T) {
	s := start(t, tlsListener("h2", "http/1.1"), echo, nil)
	tc := tls.Client(s.dial().Conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}})
	h := dialH2(newClient(t, tc))
	for {
		f, err := h.fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if g, ok := f.(*http2.GoAwayFrame); ok {
			if g.ErrCode != http2.ErrCodeInadequateSecurity || !strings.Contains(string(g.DebugData()), "CBC") {
				t.Errorf("%v %q", g, g.DebugData())
			}
			return
		}
	}
}

// TestWrongPreface: whoever negotiated HTTP/2 does not get to speak HTTP/1.
func TestWrongPreface(t *testing.T) {
	s := start(t, tlsListener("h2", "http/1.1"), echo, nil)
	tc := tls.Client(s.dial().Conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	defer tc.Close()
	io.WriteString(tc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if b, _ := io.ReadAll(tc); bytes.Contains(b, []byte("200")) {
		t.Errorf("%q", b)
	}
}

// TestRarely: a flood of events is a line each ten seconds, which tells how many there were.
func TestRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		log := slog.New(slog.NewTextHandler(&b, nil))
		var r rarely
		for range 100 {
			r.warn(log, "flood")
		}
		time.Sleep(tellEvery)
		r.info(log, "flood")
		if got := b.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, `"more like this"=99`) {
			t.Error(got)
		}
	})
}

// TestResumption: a client that comes again saves a handshake, for a time.
func TestResumption(t *testing.T) {
	for name, version := range map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			s := start(t, tlsListener("http/1.1"), echo, nil)
			cfg := &tls.Config{InsecureSkipVerify: true, ServerName: "a.test", MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(4)}
			for i := range 3 {
				tc := tls.Client(s.dial().Conn, cfg)
				io.WriteString(tc, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
				if b, err := io.ReadAll(tc); !bytes.Contains(b, []byte("200")) {
					t.Fatalf("%q, %v", b, err)
				}
				if did := tc.ConnectionState().DidResume; did != (i > 0) {
					t.Errorf("connection %d: resumed %v", i, did)
				}
				tc.Close()
			}
		})
	}
}

// TestTicketKeys: they change every 12 hours, and the ones before are accepted as long again.
func TestTicketKeys(t *testing.T) {
	var k ticketKeys
	now := time.Now()
	first := k.at(now)
	if len(first) != 1 || first[0] == [32]byte{} {
		t.Fatalf("%d keys", len(first))
	}
	if again := k.at(now.Add(ticketsFor - time.Second)); again[0] != first[0] {
		t.Error("a new key too early")
	}
	second := k.at(now.Add(ticketsFor))
	if len(second) != 2 || second[0] == first[0] || second[1] != first[0] {
		t.Errorf("%d keys after %v", len(second), ticketsFor)
	}
	if third := k.at(now.Add(5 * ticketsFor)); len(third) != 1 || third[0] == second[0] {
		t.Errorf("%d keys after a long pause", len(third))
	}
}

// TestHandshakeEvents: the log tells which name was asked for, and why it came to nothing.
func TestHandshakeEvents(t *testing.T) {
	var log syncBuffer
	s := start(t, tlsListener("http/1.1"), echo, nil, stranger(&log))
	tc := tls.Client(s.dial().Conn, &tls.Config{ServerName: "shop.test"}) // which does not know the authority
	if tc.HandshakeContext(context.Background()) == nil {
		t.Fatal("the certificate was believed")
	}
	tc.Close()
	for s.HandshakesFailed.Load() == 0 || !strings.Contains(log.String(), "handshake") {
		time.Sleep(time.Millisecond)
	}
	if got := log.String(); !strings.Contains(got, "server=shop.test") || !strings.Contains(got, "bad certificate") && !strings.Contains(got, "unknown certificate") {
		t.Error(got)
	}
}

// stranger has no client be trusted, and takes the log.
func stranger(log io.Writer) func(*Server) {
	return func(s *Server) { s.Trusted, s.Log = nil, slog.New(slog.NewTextHandler(log, nil)) }
}

// syncBuffer takes the log of several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
