package wire

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// stdListener sends HTTP/1.1 through net/http.
var stdListener = &Listener{Name: "std", Std: true}

// TestStd runs what both engines must do alike over net/http.
func TestStd(t *testing.T) {
	s := start(t, stdListener, echo, nil)
	for _, size := range []int{1 << 20, 333, 50} {
		c := s.dial()
		all := ""
		for range 2 {
			for _, m := range mixed {
				all += m.send
			}
		}
		go func() {
			for rest := all; rest != ""; {
				n := min(size, len(rest))
				c.send(rest[:n])
				rest = rest[n:]
			}
		}()
		for i := range 2 * len(mixed) {
			m := mixed[i%len(mixed)]
			g := c.read(m.method)
			if g.StatusCode == 100 {
				g = c.read(m.method)
			}
			if g.StatusCode != 200 || g.text != m.want {
				t.Fatalf("request %d: %d %.80q, want %.80q", i, g.StatusCode, g.text, m.want)
			}
		}
	}
}

// TestStdRefusals: over net/http the same requests are refused as by the own engine, for the same reasons, also
// behind a good request.
func TestStdRefusals(t *testing.T) {
	var sends []string
	for _, a := range requestFaults {
		if a.lim == nil && a.rule != BodyCutShort { // which would be waited for
			sends = append(sends, a.bad, get("/")+a.bad)
		}
	}
	agree(t, sends, 1<<20)
}

// TestStdBodies: so it is with what follows a head, however it arrives.
func TestStdBodies(t *testing.T) {
	var sends []string
	for _, body := range []string{
		"0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "1\r\nh\r\n4;x=y\r\nello\r\n0\r\nX-Sum: 1\r\n\r\n", "00005\r\nhello\r\n0\r\n\r\n",
		"5 \r\nhello\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n", "5\nhello\n0\n\n", "5\r\nhelloX0\r\n\r\n", "5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
		"5\r\nhello\r\n0\r\nX : y\r\n\r\n", "-1\r\n\r\n", "5\r\nhello\r\n0\r\n folded: y\r\n\r\n",
	} {
		sends = append(sends, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"+body)
	}
	agree(t, sends, 1<<20)
	agree(t, sends, 1)
}

// agree sends the same to both engines, in pieces of size bytes, and compares all that they answer.
func agree(t *testing.T, sends []string, size int) {
	t.Helper()
	answers := map[*Listener][]string{}
	for _, l := range []*Listener{nil, stdListener} {
		t.Run(fmt.Sprintf("std %v, pieces of %d", l != nil, size), func(t *testing.T) {
			s := start(t, l, echo, nil)
			for _, send := range sends {
				c := s.dial()
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					for rest := send; rest != ""; {
						n := min(size, len(rest))
						if _, err := io.WriteString(c, rest[:n]); err != nil {
							return
						}
						rest = rest[n:]
					}
				}()
				text := ""
				if strings.HasPrefix(send, get("/")) { // the good one before it
					text = c.read("GET").text
				}
				g := c.read("POST")
				answers[l] = append(answers[l], fmt.Sprintf("%s%d, close %v: %s", text, g.StatusCode, g.Close, g.text))
				<-sent
			}
		})
	}
	for i, send := range sends {
		if own, std := answers[nil][i], answers[stdListener][i]; own != std {
			t.Errorf("%q: %q, on std %q", send, own, std)
		}
	}
}

// TestStdOwnAnswer: should net/http ever refuse a request by itself, its answer gets a reason, too.
func TestStdOwnAnswer(t *testing.T) {
	s := start(t, stdListener, echo, nil)
	near, far := net.Pipe()
	defer near.Close()
	sc := &stdConn{Conn: far, c: &conn{srv: s.Server, listener: stdListener, sock: far}}
	go func() {
		sc.Write([]byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 Bad Request: odd"))
		far.Close()
	}()
	answer, _ := io.ReadAll(near)
	if text := string(answer); !strings.HasPrefix(text, "HTTP/1.1 400 ") || !strings.Contains(text, string(EngineRefused)) || !strings.Contains(text, "400 Bad Request: odd") {
		t.Errorf("%q", text)
	}
}

// TestStdRequests looks at what the bridge makes of requests.
func TestStdRequests(t *testing.T) {
	s := start(t, stdListener, func(c *Call) {
		readAll(c)
		r := &c.Request
		text := fmt.Sprintf("%s|%s|%s|%s|%v|%s|%s|%d|%d|%s|%v|%v", r.Method, r.Target, r.Path, r.Query, r.HasQuery, r.Host, r.Port, r.Proto, r.Length, r.Upgrade, r.Expect100, r.KeepAlive)
		for _, f := range r.Fields {
			text += "|" + f.Name + "=" + f.Value
			if f.ID != FieldIDOf(f.Name) {
				t.Errorf("the id of %s is %d", f.Name, f.ID)
			}
		}
		answer(c, 200, text)
	}, nil)
	for _, a := range []struct{ send, want string }{
		{get("/a/../%62?c", "B: 2", "A: 1"), "GET|/a/../%62?c|/b|c|true|a||11|0||false|true|Host=a|A=1|B=2"},
		{"POST / HTTP/1.1\r\nHost: A.:80\r\nContent-Length: 2\r\n\r\nhi", "POST|/|/||false|a|80|11|2||false|true|Host=A.:80|Content-Length=2"},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "POST|/|/||false|a||11|-1||false|true|Host=a"},
		{"GET http://b/x HTTP/1.1\r\nHost: b\r\n\r\n", "GET|http://b/x|/x||false|b||11|0||false|true|Host=b"},
		{"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS|*|*||false|a||11|0||false|true|Host=a"},
		{"GET / HTTP/1.0\r\n\r\n", "GET|/|/||false|||10|0||false|false|Host="},
		{get("/", "Connection: Upgrade", "Upgrade: h2c"), "GET|/|/||false|a||11|0||false|true|Host=a|Connection=Upgrade|Upgrade=h2c"},
		{get("/", "Connection: close"), "GET|/|/||false|a||11|0||false|false|Host=a|Connection=close"},
	} {
		c := s.dial()
		c.send(a.send)
		if g := c.read("GET"); g.StatusCode != 200 || g.text != a.want {
			t.Errorf("%q: %d\n%q, want\n%q", a.send, g.StatusCode, g.text, a.want)
		}
	}
}

// TestStdFaults: rules that net/http does not have hold there too.
func TestStdFaults(t *testing.T) {
	s := start(t, stdListener, echo, nil)
	for _, a := range []struct {
		send   string
		status int
		rule   Rule
	}{
		{get("/a/..;/b"), 400, HiddenDots},
		{get("/../a"), 400, EscapesRoot},
		{get("/%00"), 400, NulInPath},
		{get("/", "X_Y: z"), 400, UnderscoreInName},
		{"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400, BadHost},
		{get("/" + strings.Repeat("x", 9000)), 414, TargetTooLong},
		{get("/", strings.Split(strings.TrimSuffix(strings.Repeat("X: y,", 101), ","), ",")...), 431, TooManyHeaders},
		{"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 501, ConnectMethod},
		{get("/", "Connection: Upgrade", "Upgrade: websocket", "Content-Length: 1") + "x", 400, UpgradeWithBody},
	} {
		c := s.dial()
		c.send(a.send)
		c.expect(a.status, string(a.rule)+"\n")
	}
}

// TestStdHalfClosed: net/http tells when the client closes its side; a half-closed client gets as
// much time as on the other engine.
func TestStdHalfClosed(t *testing.T) {
	gone := make(chan bool, 1)
	s := start(t, stdListener, func(c *Call) {
		w := &waiting{make(chan struct{})}
		c.Bind(w)
		limit := 300 * time.Millisecond
		if c.Request.Path == "/long" {
			limit = 5 * time.Second
		}
		select {
		case <-w.interrupted:
		case <-time.After(limit):
		}
		if c.Unbind() {
			gone <- c.Gone()
			c.Abort()
			return
		}
		echo(c)
	}, nil)
	c := s.dial()
	c.send(get("/"))
	c.Conn.(*net.TCPConn).CloseWrite()
	c.expect(200, "GET a /")
	c = s.dial()
	c.send(get("/long"))
	c.Conn.(*net.TCPConn).CloseWrite()
	select {
	case g := <-gone:
		if !g {
			t.Error("interrupted, and not gone")
		}
	case <-time.After(4 * time.Second):
		t.Error("the call was not interrupted")
	}
}

// h2Conn speaks HTTP/2 frame by frame.
type h2Conn struct {
	*client
	fr  *http2.Framer
	enc *hpack.Encoder
	buf bytes.Buffer
}

func dialH2(c *client) *h2Conn {
	h := &h2Conn{client: c}
	c.send(http2.ClientPreface)
	h.fr = http2.NewFramer(c, c.r)
	h.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	h.enc = hpack.NewEncoder(&h.buf)
	h.fr.WriteSettings()
	return h
}

// request sends a header block of "name: value" lines as they are, then data.
func (h *h2Conn) request(stream uint32, end bool, fields ...string) {
	h.buf.Reset()
	for _, f := range fields {
		i := strings.Index(f[1:], ":") + 1 // pseudo fields begin with a colon
		h.enc.WriteField(hpack.HeaderField{Name: f[:i], Value: strings.TrimPrefix(f[i+1:], " ")})
	}
	const most = 16 << 10 // of a frame
	rest := h.buf.Bytes()
	n := min(len(rest), most)
	h.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: rest[:n], EndHeaders: n == len(rest), EndStream: end})
	for rest = rest[n:]; len(rest) > 0; rest = rest[n:] {
		n = min(len(rest), most)
		h.fr.WriteContinuation(stream, n == len(rest), rest[:n])
	}
}

// answer reads until a stream has been answered or reset: "200 text" or "reset CODE".
func (h *h2Conn) answer(stream uint32) string {
	text := ""
	for {
		f, err := h.fr.ReadFrame()
		if err != nil {
			return "closed"
		}
		if f.Header().StreamID != stream {
			if g, ok := f.(*http2.GoAwayFrame); ok {
				return "goaway " + g.ErrCode.String()
			}
			continue
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			text += f.PseudoValue("status") + " "
		case *http2.DataFrame:
			text += string(f.Data())
		case *http2.RSTStreamFrame:
			if text != "" && f.ErrCode == http2.ErrCodeNo {
				return text
			}
			return text + "reset " + f.ErrCode.String()
		}
		if f.Header().Flags.Has(http2.FlagDataEndStream) {
			return text
		}
	}
}

// TestHTTP2Requests: what a request of HTTP/2 can smuggle into one of HTTP/1.1 is refused, by net/http
// or by the bridge.
func TestHTTP2Requests(t *testing.T) {
	s := start(t, &Listener{Name: "h2c", HTTP2: true}, echo, nil)
	ok := []string{":method: POST", ":scheme: http", ":authority: a", ":path: /"}
	with := func(more ...string) []string { return append(append([]string(nil), ok...), more...) }
	for _, a := range []struct {
		name   string
		fields []string
		data   string
		want   string // prefix
	}{
		{"fine", with("content-length: 5"), "hello", `200 POST a / "hello"`},
		{"no length", with(), "hello", `200 POST a / "hello"`},
		{"a path to normalise", []string{":method: GET", ":scheme: http", ":authority: A.test", ":path: /a/../b?c"}, "", `200 GET a.test /b?c ""`},
		{"an asterisk", []string{":method: OPTIONS", ":scheme: http", ":authority: a", ":path: *"}, "", `200 OPTIONS a * ""`},
		{"the same Host", with("host: a"), "", `200 POST a / ""`},
		{"Host for authority", []string{":method: GET", ":scheme: http", ":path: /", "host: b"}, "", `200 GET b / ""`},
		{"length too short", with("content-length: 1"), "hello", "reset PROTOCOL_ERROR"},
		{"length too long", with("content-length: 9"), "hello", "400 body:"},
		{"two lengths", with("content-length: 5", "content-length: 6"), "hello", "400 content-length-repeated"},
		{"a signed length", with("content-length: +5"), "", "400 content-length"},
		{"coding", with("transfer-encoding: chunked"), "0\r\n\r\n", "400"},
		{"connection", with("connection: transfer-encoding"), "", "400"},
		{"upgrade", with("upgrade: websocket"), "", "400"},
		{"another Host", with("host: b"), "", "400 host-repeated"},
		{"two more Hosts", with("host: a", "host: a"), "", "400 host-repeated"},
		{"a list as authority", []string{":method: GET", ":scheme: http", ":authority: a,b", ":path: /"}, "", "400"},
		{"user information", []string{":method: GET", ":scheme: http", ":authority: u@a", ":path: /"}, "", "reset PROTOCOL_ERROR"},
		{"no authority", []string{":method: GET", ":scheme: http", ":path: /"}, "", "400 host-missing"},
		{"an absolute path", []string{":method: GET", ":scheme: http", ":authority: a", ":path: http://b/"}, "", "400 target"},
		{"a path without a slash", []string{":method: GET", ":scheme: http", ":authority: a", ":path: x"}, "", "reset PROTOCOL_ERROR"},
		{"a space in the path", []string{":method: GET", ":scheme: http", ":authority: a", ":path: / HTTP/1.1"}, "", "400"},
		{"a line in the path", []string{":method: GET", ":scheme: http", ":authority: a", ":path: /\r\nX: y"}, "", "reset PROTOCOL_ERROR"},
		{"a fragment in the path", []string{":method: GET", ":scheme: http", ":authority: a", ":path: /#x"}, "", "400"},
		{"a request line as method", []string{":method: GET /admin HTTP/1.1", ":scheme: http", ":authority: a", ":path: /"}, "", "400 method"},
		{"a line in a value", with("x: y\r\ntransfer-encoding: chunked"), "", "reset PROTOCOL_ERROR"},
		{"LF in a value", with("x: y\nz"), "", "reset PROTOCOL_ERROR"},
		{"NUL in a value", with("x: y\x00"), "", "reset PROTOCOL_ERROR"},
		{"an upper-case name", with("X: y"), "", "reset PROTOCOL_ERROR"},
		{"a space in a name", with("x y: z"), "", "reset PROTOCOL_ERROR"},
		{"underscore", with("x_y: z"), "", "400 underscore-in-name"},
		{"a pseudo field behind", with("x: y", ":path: /other"), "", "reset PROTOCOL_ERROR"},
		{"two paths", with(":path: /other"), "", "reset PROTOCOL_ERROR"},
		{"an unknown pseudo field", with(":x: y"), "", "reset PROTOCOL_ERROR"},
		{"above the root", []string{":method: GET", ":scheme: http", ":authority: a", ":path: /../x"}, "", "400 path-escapes-root"},
		{"CONNECT", []string{":method: CONNECT", ":authority: a:443"}, "", "501 connect"},
	} {
		t.Run(a.name, func(t *testing.T) {
			h := dialH2(s.dial())
			h.request(1, a.data == "", a.fields...)
			if a.data != "" {
				h.fr.WriteData(1, true, []byte(a.data))
			}
			got := h.answer(1)
			if !strings.HasPrefix(got, a.want) {
				t.Errorf("%q, want %q", got, a.want)
			}
			// The connection, or another one, serves the next call as ever.
			if strings.HasPrefix(got, "goaway") || got == "closed" {
				h = dialH2(s.dial())
			}
			h.request(3, true, ":method: GET", ":scheme: http", ":authority: next", ":path: /next")
			if got := h.answer(3); got != "200 GET next /next \"\"\n" {
				t.Errorf("the next call: %q", got)
			}
			h.Close()
		})
	}
}

// TestHTTP2Heads: a head that is too large is refused with its reason, and other calls of the connection go on. What is
// allowed is what the configuration says now.
func TestHTTP2Heads(t *testing.T) {
	s := start(t, &Listener{Name: "h2c", HTTP2: true}, echo, func(c *Config) { c.HeaderBytes = 4 << 10 })
	ask := func(h *h2Conn, stream uint32, fields, size int, want string) {
		t.Helper()
		head := []string{":method: GET", ":scheme: http", ":authority: a", ":path: /"}
		for i := range fields {
			head = append(head, fmt.Sprintf("x-%d: %s", i, strings.Repeat("x", size)))
		}
		h.request(stream, true, head...)
		if got := h.answer(stream); !strings.HasPrefix(got, want) {
			t.Errorf("%d fields of %d bytes: %.100q, want %q", fields, size, got, want)
		}
	}
	h := dialH2(s.dial())
	ask(h, 1, 1, 6000, "431 headers-too-large")
	ask(h, 3, 10, 1000, "431 headers-too-large")
	ask(h, 5, 1, 200<<10, "431 headers-too-large")
	ask(h, 7, 3, 1000, "200 GET")
	cfg := testConfig()
	cfg.HeaderBytes = 400 << 10
	s.SetConfig(cfg)
	ask(h, 9, 1, 100<<10, "200 GET")
	h2 := dialH2(s.dial())
	ask(h2, 1, 1, 300<<10, "200 GET")
	ask(h2, 3, 2, 300<<10, "431 headers-too-large")
	h.Close()
	eventually(t, "the first connection is counted out", func() bool { return s.Conns() == 1 })
	cfg.HeaderBytes = 2 << 10
	s.SetConfig(cfg)
	h3 := dialH2(s.dial())
	ask(h3, 1, 1, 3000, "431 headers-too-large")
	s.mu.Lock()
	if n := len(s.std); n != 2 { // the first went with its last connection
		t.Errorf("%d servers are left", n)
	}
	s.mu.Unlock()
}

// TestHTTP2Trailers: those that steer anything are not handed on.
func TestHTTP2Trailers(t *testing.T) {
	s := start(t, &Listener{Name: "h2c", HTTP2: true}, func(c *Call) {
		_, err := readAll(c)
		text := fmt.Sprint(err)
		for _, f := range c.Trailer() {
			text += " " + f.Name + "=" + f.Value
		}
		answer(c, 200, text)
	}, nil)
	h := dialH2(s.dial())
	post := []string{":method: POST", ":scheme: http", ":authority: a", ":path: /", "trailer: x-sum, x-forwarded-for"}
	h.request(1, false, post...)
	h.fr.WriteData(1, false, []byte("hello"))
	h.request(1, true, "x-sum: 5", "x-forwarded-for: 127.0.0.1", "x-other: y")
	if got := h.answer(1); got != "200 <nil> X-Sum=5" {
		t.Errorf("%q", got)
	}
	h.request(3, false, post...)
	h.fr.WriteData(3, false, []byte("hello"))
	h.request(3, true, "content-length: 5")
	if got := h.answer(3); !strings.HasPrefix(got, "reset") {
		t.Errorf("%q", got)
	}
}

// TestStdStream answers while the request still comes.
func TestStdStream(t *testing.T) {
	s := start(t, stdListener, func(c *Call) {
		c.Respond(&Head{Status: 200, Length: -1})
		c.Flush()
		for {
			p, last, err := c.Next()
			if err != nil {
				c.Abort()
				return
			}
			c.Write(bytes.ToUpper(p))
			c.Flush()
			if last {
				c.End(Fields{{Name: "X-Sum", Value: "1"}})
				return
			}
		}
	}, nil)
	c := s.dial()
	c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
	c.send("3\r\nabc\r\n")
	time.Sleep(20 * time.Millisecond)
	c.send("3\r\ndef\r\n0\r\n\r\n")
	g := c.read("POST")
	if g.text != "ABCDEF" || g.Trailer.Get("X-Sum") != "1" {
		t.Errorf("%q, trailer %v", g.text, g.Trailer)
	}
	if _, err := io.WriteString(c, get("/")); err != nil {
		t.Error(err)
	}
}
