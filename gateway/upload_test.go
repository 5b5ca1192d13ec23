package gateway_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/whytest"
	"github.com/whygate/whygate/wire"
)

// A panic while content is on its way to the upstream, beside the call's own goroutine, does not take the node
// with it: the call is answered, or its answer broken off, and recorded, counted and logged.
func TestUploadPanics(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, answer string // of the upstream, before it has the content
	}{
		{"before the answer", ""},
		{"within the answer", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			begun := make(chan struct{})
			up := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				if io.WriteString(nc, c.answer); c.answer == "" {
					close(begun)
				}
				io.Copy(io.Discard, req.Body)
			})
			n := whytest.Start(t, "wire", whytest.API("http://"+up, "/", ""))
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go n.Server().Serve(panicListener{ln, begun}, &wire.Listener{Name: "test", Address: ln.Addr().String()})
			nc, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			io.WriteString(nc, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
			res, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			var body []byte
			if c.answer != "" {
				body = make([]byte, 4)
				if _, err := io.ReadFull(res.Body, body); err != nil || res.StatusCode != 200 {
					t.Fatal(res.StatusCode, err)
				}
				close(begun)
			}
			rest, err := io.ReadAll(res.Body)
			body = append(body, rest...)
			if c.answer == "" {
				if res.StatusCode != 500 || res.Header.Get("Whygate-Reason") != "gateway.panic" || !res.Close || err != nil {
					t.Errorf("%d %v %s %v", res.StatusCode, res.Header, body, err)
				}
			} else if err == nil {
				t.Errorf("the answer is taken for whole: %q", body)
			}
			rec := n.Last(func(r *calllog.Record) bool { return r.Reason != "" })
			if rec.Reason != "gateway.panic" || rec.Flags&calllog.Panicked == 0 {
				t.Errorf("recorded as %d %q, flags %b", rec.Status, rec.Reason, rec.Flags)
			}
			if got := n.Panics.Load(); got != 1 {
				t.Errorf("%d panics are counted", got)
			}
			if log := n.Log.String(); !strings.Contains(log, "in the upload") || !strings.Contains(log, "upload_test.go") {
				t.Errorf("the log has no stack: %s", log)
			}
		})
	}
}

// panicListener accepts connections that panic once when content is read from them.
type panicListener struct {
	net.Listener
	when <-chan struct{}
}

func (l panicListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &panicConn{Conn: nc, when: l.when}, nil
}

type panicConn struct {
	net.Conn
	when <-chan struct{}
	head bool
	once sync.Once
}

func (c *panicConn) Read(p []byte) (int, error) {
	if c.head {
		<-c.when
		c.once.Do(func() { panic("in the upload") })
		return 0, io.EOF
	}
	n, err := c.Conn.Read(p)
	c.head = strings.Contains(string(p[:n]), "\r\n\r\n")
	return n, err
}
