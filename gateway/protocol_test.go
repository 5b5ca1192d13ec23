package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/whytest"
)

// newUpstream2 serves a handler as HTTP/1.1 and, with prior knowledge, as HTTP/2.
func newUpstream2(t testing.TB, h http.Handler) (url string) {
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

// secured is a Gateway with a plain and a TLS listener; spec is further lines of it.
func secured(t testing.TB, ca *whytest.Authority, engine, spec string) string {
	cert, key, _ := ca.Issue(t, "127.0.0.1", "127.0.0.2", "shop.test")
	return fmt.Sprintf("apiVersion: whygate/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  listeners:\n  - {name: plain, address: \"127.0.0.1:0\", http1: %s}\n  - {name: tls, address: \"127.0.0.2:0\", http1: %s, tls: {certificates: [{cert: %s, key: %s}]}}\n%s---\n", engine, engine, cert, key, spec)
}

// --- WebSocket ---

func echoSocket(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"echo"}})
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(-1)
	for {
		kind, b, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if string(b) == "bye" {
			c.Close(websocket.StatusGoingAway, "as you wish")
			return
		}
		if c.Write(r.Context(), kind, b) != nil {
			return
		}
	}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	ca := whytest.NewAuthority(t)
	for _, scheme := range []string{"ws", "wss"} {
		t.Run(scheme, func(t *testing.T) {
			whytest.EachEngine(t, func(t *testing.T, engine string) {
				var gone atomic.Bool
				up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {
					echoSocket(w, r)
					gone.Store(true)
				})
				n := whytest.Start(t, engine, secured(t, ca, engine, "")+whytest.API(up.URL, "/chat", ""))
				client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool}}}
				defer client.CloseIdleConnections()
				at := n.Addresses()[0]
				if scheme == "wss" {
					at = n.Addresses()[1]
				}
				dial := func() *websocket.Conn {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					c, res, err := websocket.Dial(ctx, fmt.Sprintf("%s://%s/chat/room", scheme, at), &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{"echo"}})
					if err != nil {
						t.Fatal(err)
					}
					if c.Subprotocol() != "echo" || res.Header.Get("Whygate-Call") == "" {
						t.Errorf("protocol %q, header %v", c.Subprotocol(), res.Header)
					}
					c.SetReadLimit(-1)
					return c
				}
				upgraded := func() calllog.Record {
					return n.Last(func(r *calllog.Record) bool { return r.Flags&calllog.Upgraded != 0 })
				}
				ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
				defer cancel()
				c := dial()
				big := bytes.Repeat([]byte("whygate "), 1<<17)
				for _, m := range [][]byte{[]byte("hello"), {}, big} {
					if err := c.Write(ctx, websocket.MessageBinary, m); err != nil {
						t.Fatal(err)
					}
					if _, b, err := c.Read(ctx); err != nil || !bytes.Equal(b, m) {
						t.Fatalf("a message of %d bytes came back as %d: %v", len(m), len(b), err)
					}
				}
				if recs, _ := n.Journal.Last(10, calllog.Filter{}); len(recs) != 0 {
					t.Errorf("recorded before its end: %+v", recs)
				}
				if got := n.Snapshot().Upstreams["up"].Targets()[0].InFlight(); got != 1 {
					t.Errorf("%d calls in flight", got)
				}
				time.Sleep(50 * time.Millisecond)
				if err := c.Close(websocket.StatusNormalClosure, "done"); err != nil {
					t.Errorf("close handshake: %v", err)
				}
				rec := upgraded()
				if rec.Status != 101 || rec.Outcome != calllog.Allowed || rec.Duration < 50*time.Millisecond || rec.BytesIn < int64(len(big)) || rec.BytesOut < int64(len(big)) || rec.Path != "/chat/room" {
					t.Errorf("record: %d %v %v, %d in, %d out", rec.Status, rec.Outcome, rec.Duration, rec.BytesIn, rec.BytesOut)
				}
				// The upstream closes.
				c = dial()
				c.Write(ctx, websocket.MessageText, []byte("bye"))
				if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != websocket.StatusGoingAway {
					t.Errorf("the upstream's close arrived as %v", err)
				}
				c.CloseNow()
				// The client vanishes.
				gone.Store(false)
				c = dial()
				c.Write(ctx, websocket.MessageText, []byte("x"))
				c.Read(ctx)
				c.CloseNow()
				whytest.Eventually(t, "the upstream hears of it", gone.Load)
				target := n.Snapshot().Upstreams["up"].Targets()[0]
				whytest.Eventually(t, "no call is in flight", func() bool { return target.InFlight() == 0 && n.Server().Conns() == 0 })
			})
		})
	}
}

func TestWebSocketIdle(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Upstream(t, echoSocket)
		n := whytest.Start(t, engine, whytest.GatewayDocument(engine, "  timeouts: {tunnel: 2s, write: 400ms, body: 400ms, header: 400ms}\n")+"---\n"+upstreamSpec(whytest.API(up.URL, "/", ""), "timeouts: {idle: 400ms, firstByte: 400ms}"))
		ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
		defer cancel()
		c, _, err := websocket.Dial(ctx, "ws://"+n.Addr()+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		for range 2 { // pauses longer than any other timeout
			time.Sleep(700 * time.Millisecond)
			c.Write(ctx, websocket.MessageText, []byte("x"))
			if _, _, err := c.Read(ctx); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()
		if _, _, err := c.Read(ctx); err == nil || time.Since(start) < 1500*time.Millisecond || ctx.Err() != nil {
			t.Errorf("a silent tunnel ended after %v with %v", time.Since(start), err)
		}
		if rec := n.Last(func(r *calllog.Record) bool { return true }); rec.Flags&calllog.Upgraded == 0 || rec.Duration < 3*time.Second {
			t.Errorf("record: %v, flags %b", rec.Duration, rec.Flags)
		}
	})
}

// A refused upgrade is an ordinary refusal, and an upstream that does not upgrade an ordinary answer.
func TestWebSocketRefused(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always(ok))
		n := whytest.Start(t, engine, whytest.API(up.URL(), "/", "  - key-auth: {query: key}\n  - cors: {origins: [\"https://shop.test\"]}"))
		const ask = "GET /%s HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
		if raw := n.Raw(fmt.Sprintf(ask, ""), 300*time.Millisecond); !strings.HasPrefix(raw, "HTTP/1.1 401") || !strings.Contains(raw, "key.missing") {
			t.Errorf("%q", raw)
		}
		n.Apply(whytest.API(up.URL(), "/", ""))
		if raw := n.Raw(fmt.Sprintf(ask, ""), 300*time.Millisecond); !strings.HasPrefix(raw, "HTTP/1.1 200") || !strings.HasSuffix(raw, "ok") {
			t.Errorf("%q", raw)
		}
		if seen := up.Last(t); seen.Get("Upgrade") != "websocket" || seen.Get("Connection") != "Upgrade" || seen.Get("Sec-WebSocket-Key") != "x" {
			t.Errorf("the upstream saw %q", seen.Fields)
		}
	})
}

// Bytes that come with either head are not lost.
func TestTunnelBytesWithHeads(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nfirst ")
			io.Copy(nc, r)
		})
		n := whytest.Start(t, engine, whytest.API("http://"+up, "/", ""))
		nc, err := net.Dial("tcp", n.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nearly ")
		io.WriteString(nc, "late")
		nc.SetReadDeadline(time.Now().Add(patience))
		r := bufio.NewReader(nc)
		begin, _ := r.Peek(1)
		if begin != nil { // net/http takes a client that half-closes before its answer for gone
			nc.(*net.TCPConn).CloseWrite()
		}
		b, _ := io.ReadAll(r)
		if head, content, _ := strings.Cut(string(b), "\r\n\r\n"); content != "first early late" || !strings.HasPrefix(head, "HTTP/1.1 101") || !strings.Contains(head, "Upgrade: x") {
			t.Errorf("%q", b)
		}
		if rec := n.Last(func(*calllog.Record) bool { return true }); rec.BytesIn != 10 || rec.BytesOut != 16 {
			t.Errorf("record: %d in, %d out", rec.BytesIn, rec.BytesOut)
		}
	})
}

// --- streams ---

// Each piece reaches the client before the next is sent, whatever carries it.
func TestStreamsAreNotHeldBack(t *testing.T) {
	t.Parallel()
	const pieces = 5
	for _, kind := range []string{"text/event-stream", "application/x-ndjson"} {
		for _, upstream := range []string{"http1", "h2", "close"} {
			for _, client := range []string{"wire", "std", "h2"} {
				t.Run(kind+"/"+upstream+"/"+client, func(t *testing.T) {
					t.Parallel()
					next := make(chan bool)
					url, protocol := "", "http1"
					if upstream == "close" {
						url = "http://" + whytest.RawUpstream(t, func(nc net.Conn, r *bufio.Reader) {
							if _, _, err := whytest.ReadRequest(r); err != nil {
								return
							}
							io.WriteString(nc, "HTTP/1.0 200 OK\r\nContent-Type: "+kind+"\r\n\r\n")
							for i := range pieces {
								select {
								case <-next:
								case <-t.Context().Done():
									return
								}
								fmt.Fprintf(nc, "data: %d\n\n", i)
							}
						})
					} else {
						protocol = upstream
						url = newUpstream2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
							w.Header().Set("Content-Type", kind)
							w.(http.Flusher).Flush()
							for i := range pieces {
								select {
								case <-next:
								case <-r.Context().Done():
									return
								}
								fmt.Fprintf(w, "data: %d\n\n", i)
								w.(http.Flusher).Flush()
							}
						}))
					}
					engine := client
					if client == "h2" {
						engine = "wire"
					}
					n := whytest.Start(t, engine, whytest.GatewayDocument(engine, "  timeouts: {write: 500ms}\n")+"---\n"+upstreamSpec(whytest.API(url, "/", ""), "protocol: "+protocol))
					c := http.DefaultClient
					if client == "h2" {
						c = client2(t)
					}
					ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
					defer cancel()
					req, _ := http.NewRequestWithContext(ctx, "GET", n.URL("/"), nil)
					res, err := c.Do(req) // returns with the head, before any piece was sent
					if err != nil {
						t.Fatal(err)
					}
					defer res.Body.Close()
					r := bufio.NewReader(res.Body)
					for i := range pieces {
						if i == 2 {
							time.Sleep(time.Second) // a pause longer than a client may take nothing
						}
						select {
						case next <- true:
						case <-ctx.Done():
							t.Fatal("the upstream is gone")
						}
						line, err := r.ReadString('\n')
						if err != nil || line != fmt.Sprintf("data: %d\n", i) {
							t.Fatalf("%q %v", line, err)
						}
						r.ReadString('\n')
					}
					if rest, err := io.ReadAll(r); err != nil || len(rest) != 0 {
						t.Errorf("at the end: %q %v", rest, err)
					}
					rec := n.Record(whytest.Answer{Response: res})
					if rec.Flags&calllog.Streamed == 0 || rec.BytesOut != pieces*9 || rec.Duration < time.Second || rec.Outcome != calllog.Allowed {
						t.Errorf("record: flags %b, %d bytes, %v, %v", rec.Flags, rec.BytesOut, rec.Duration, rec.Outcome)
					}
					http.DefaultClient.CloseIdleConnections()
				})
			}
		}
	}
}

// An answer may begin while the request goes on, and both go on side by side.
func TestBothWaysAtOnce(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"http1", "h2"} {
		for _, client := range []string{"wire", "std", "h2"} {
			t.Run(protocol+"/"+client, func(t *testing.T) {
				url := newUpstream2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					rc := http.NewResponseController(w)
					rc.EnableFullDuplex()
					rc.Flush()
					b := make([]byte, 100)
					for {
						m, err := r.Body.Read(b)
						w.Write(bytes.ToUpper(b[:m]))
						rc.Flush()
						if err != nil {
							return
						}
					}
				}))
				engine, c := client, http.DefaultClient
				if client == "h2" {
					engine, c = "wire", client2(t)
				}
				n := whytest.Start(t, engine, upstreamSpec(whytest.API(url, "/", ""), "protocol: "+protocol+", timeouts: {firstByte: 300ms}"))
				pr, pw := io.Pipe()
				ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
				defer cancel()
				req, _ := http.NewRequestWithContext(ctx, "POST", n.URL("/"), pr)
				res, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				b := make([]byte, 3)
				for range 5 {
					time.Sleep(100 * time.Millisecond)
					io.WriteString(pw, "abc")
					if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != "ABC" {
						t.Fatalf("%q %v", b, err)
					}
				}
				pw.Close()
				if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
					t.Errorf("%q %v", rest, err)
				}
				if rec := n.Record(whytest.Answer{Response: res}); rec.BytesIn != 15 || rec.BytesOut != 15 || rec.Outcome != calllog.Allowed || rec.Flags&calllog.ClientGone != 0 {
					t.Errorf("record: %d in, %d out, %v %b", rec.BytesIn, rec.BytesOut, rec.Outcome, rec.Flags)
				}
				c.CloseIdleConnections()
			})
		}
	}
}

// --- HTTP/2 clients ---

func TestHTTP2Client(t *testing.T) {
	t.Parallel()
	ca := whytest.NewAuthority(t)
	long := bytes.Repeat([]byte("0123456789abcdef"), 5<<20/16)
	up := newUpstream2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		w.Header().Set("X-Seen", fmt.Sprintf("%s %s %d %v %s %q", r.Method, r.URL, len(b), err, r.Host, r.Header.Get("Cookie")))
		w.Header().Set("X-Via", r.Header.Get("Via"))
		w.Header().Add("Trailer", "X-Sum")
		if r.Method != "HEAD" {
			w.Write(long)
		}
		w.Header().Set("X-Sum", strings.TrimSpace(fmt.Sprint(len(b), " ", r.Trailer.Get("X-Digest"))))
	}))
	for _, protocol := range []string{"http1", "h2"} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/tls %v", protocol, secure), func(t *testing.T) {
				n := whytest.Start(t, "wire", secured(t, ca, "wire", "")+upstreamSpec(whytest.API(up, "/", ""), "protocol: "+protocol))
				client, base := client2(t), "http://"+n.Addresses()[0].String()
				if secure {
					tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool}, ForceAttemptHTTP2: true}
					t.Cleanup(tr.CloseIdleConnections)
					client, base = &http.Client{Transport: tr, Timeout: 4 * patience}, "https://"+n.Addresses()[1].String()
				}
				for _, c := range []struct {
					method string
					body   io.Reader
					size   int
					digest string
				}{
					{"GET", nil, 0, ""}, {"HEAD", nil, 0, ""}, {"POST", bytes.NewReader(long), len(long), ""}, {"PUT", io.MultiReader(bytes.NewReader(long[:100000])), 100000, "yes"},
				} {
					req, _ := http.NewRequest(c.method, base+"/a?b=c", c.body)
					req.Host = "shop.test"
					req.Header["Cookie"] = []string{"a=1", "b=2"}
					if c.digest != "" {
						req.Trailer = http.Header{"X-Digest": {c.digest}}
					}
					res, err := client.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					b, err := io.ReadAll(res.Body)
					res.Body.Close()
					if want := fmt.Sprintf("%s /a?b=c %d <nil> shop.test %q", c.method, c.size, "a=1; b=2"); res.Header.Get("X-Seen") != want {
						t.Errorf("the upstream saw %s, want %s", res.Header.Get("X-Seen"), want)
					}
					wantLen := len(long)
					if c.method == "HEAD" {
						wantLen = 0
					}
					if err != nil || len(b) != wantLen || res.ProtoMajor != 2 || res.Header.Get("X-Via") != "2.0 whygate" {
						t.Errorf("%s: %d bytes, %v, %s, via %q", c.method, len(b), err, res.Proto, res.Header.Get("X-Via"))
					}
					if want := strings.TrimSpace(fmt.Sprint(c.size, " ", c.digest)); c.method != "HEAD" && res.Trailer.Get("X-Sum") != want {
						t.Errorf("%s: trailer %v, want %q", c.method, res.Trailer, want)
					}
					rec := n.Record(whytest.Answer{Response: res})
					if rec.Proto != 20 || rec.BytesIn != int64(c.size) || rec.BytesOut != int64(wantLen) || (rec.Flags&calllog.TLS != 0) != secure || rec.Host != "shop.test" {
						t.Errorf("record: proto %d, %d in, %d out, flags %b, host %q", rec.Proto, rec.BytesIn, rec.BytesOut, rec.Flags, rec.Host)
					}
				}
			})
		}
	}
}

// --- gRPC ---

// grpcServer is the test service of gRPC, with behaviours chosen by what a message says.
type grpcServer struct {
	pb.UnimplementedTestServiceServer
	waits    atomic.Int64 // unary calls that wait for their end
	canceled atomic.Int64
}

func (s *grpcServer) UnaryCall(ctx context.Context, in *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	grpc.SetHeader(ctx, metadata.Pairs("x-header", strings.Join(md["x-ask"], ","), "x-bin-bin", "\x00\xff"))
	grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", strings.Join(md["whygate-application"], ",")))
	switch {
	case in.ResponseStatus != nil:
		return nil, status.Error(codes.Code(in.ResponseStatus.Code), in.ResponseStatus.Message)
	case in.FillUsername: // hang
		s.waits.Add(1)
		<-ctx.Done()
		s.canceled.Add(1)
		return nil, ctx.Err()
	}
	return &pb.SimpleResponse{Payload: &pb.Payload{Body: bytes.Repeat([]byte("x"), int(in.ResponseSize))}, Username: fmt.Sprint(len(in.GetPayload().GetBody()))}, nil
}

func (s *grpcServer) StreamingOutputCall(in *pb.StreamingOutputCallRequest, out grpc.ServerStreamingServer[pb.StreamingOutputCallResponse]) error {
	for _, p := range in.ResponseParameters {
		time.Sleep(time.Duration(p.IntervalUs) * time.Microsecond)
		if err := out.Send(&pb.StreamingOutputCallResponse{Payload: &pb.Payload{Body: make([]byte, p.Size)}}); err != nil {
			return err
		}
	}
	if in.ResponseStatus != nil {
		return status.Error(codes.Code(in.ResponseStatus.Code), in.ResponseStatus.Message)
	}
	return nil
}

func (s *grpcServer) StreamingInputCall(in grpc.ClientStreamingServer[pb.StreamingInputCallRequest, pb.StreamingInputCallResponse]) error {
	var n int32
	for {
		m, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return in.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: n})
		}
		if err != nil {
			return err
		}
		n += int32(len(m.GetPayload().GetBody()))
	}
}

func (s *grpcServer) FullDuplexCall(io grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	for {
		m, err := io.Recv()
		if err != nil {
			if io.Context().Err() != nil {
				s.canceled.Add(1)
			}
			return nil
		}
		if err := io.Send(&pb.StreamingOutputCallResponse{Payload: m.Payload}); err != nil {
			return err
		}
	}
}

// startGRPC serves on loopback without TLS.
func startGRPC(t *testing.T) (*grpcServer, *grpc.Server, string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, service := grpc.NewServer(), &grpcServer{}
	pb.RegisterTestServiceServer(s, service)
	go s.Serve(ln)
	t.Cleanup(s.Stop)
	return service, s, "http://" + ln.Addr().String()
}

func dialGRPC(t *testing.T, addr net.Addr, ca *whytest.Authority) pb.TestServiceClient {
	creds := insecure.NewCredentials()
	if ca != nil {
		creds = credentials.NewTLS(&tls.Config{RootCAs: ca.Pool})
	}
	cc, err := grpc.NewClient(addr.String(), grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return pb.NewTestServiceClient(cc)
}

func TestGRPC(t *testing.T) {
	t.Parallel()
	ca := whytest.NewAuthority(t)
	key, consumer := whytest.Consumer("shop", "")
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "h2c", true: "tls"}[secure], func(t *testing.T) {
			service, _, url := startGRPC(t)
			docs := secured(t, ca, "wire", "  timeouts: {body: 1s, write: 1s, tunnel: 10s}\n") + upstreamSpec(whytest.API(url, "/", "  - key-auth: {}"), "protocol: h2, timeouts: {firstByte: 1s, idle: 1s, stream: 10s}") + consumer
			n := whytest.Start(t, "wire", docs)
			addr, authority := n.Addresses()[0], (*whytest.Authority)(nil)
			if secure {
				addr, authority = n.Addresses()[1], ca
			}
			client := dialGRPC(t, addr, authority)
			ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "x-api-key", key, "x-ask", "me"), 6*patience)
			defer cancel()
			last := func() calllog.Record {
				return n.Last(func(r *calllog.Record) bool { return strings.HasPrefix(r.Path, "/grpc.testing.TestService/") })
			}

			t.Run("unary", func(t *testing.T) {
				var header, trailer metadata.MD
				res, err := client.UnaryCall(ctx, &pb.SimpleRequest{ResponseSize: 1 << 20, Payload: &pb.Payload{Body: make([]byte, 1<<20)}}, grpc.Header(&header), grpc.Trailer(&trailer))
				if err != nil {
					t.Fatal(err)
				}
				if len(res.Payload.Body) != 1<<20 || res.Username != "1048576" || header["x-header"][0] != "me" || header["x-bin-bin"][0] != "\x00\xff" || trailer["x-trailer"][0] != "shop" {
					t.Errorf("%d bytes for %s, header %v, trailer %v", len(res.Payload.Body), res.Username, header, trailer)
				}
				if rec := last(); rec.Status != 200 || rec.Proto != 20 || rec.Application != "shop" || rec.BytesIn < 1<<20 || rec.BytesOut < 1<<20 {
					t.Errorf("record %+v", rec)
				}
			})
			t.Run("error", func(t *testing.T) {
				_, err := client.UnaryCall(ctx, &pb.SimpleRequest{ResponseStatus: &pb.EchoStatus{Code: int32(codes.FailedPrecondition), Message: "not now: 50 % done, ä"}})
				if s := status.Convert(err); s.Code() != codes.FailedPrecondition || s.Message() != "not now: 50 % done, ä" {
					t.Errorf("%v", err)
				}
			})
			t.Run("server stream", func(t *testing.T) {
				var ps []*pb.ResponseParameters
				for i := range 20 {
					p := &pb.ResponseParameters{Size: int32(i * 1000)}
					if i == 0 || i == 10 {
						p.IntervalUs = 1_500_000 // longer than firstByte, idle, write and body
					}
					ps = append(ps, p)
				}
				stream, err := client.StreamingOutputCall(ctx, &pb.StreamingOutputCallRequest{ResponseParameters: ps, ResponseStatus: &pb.EchoStatus{Code: int32(codes.Aborted), Message: "enough"}})
				if err != nil {
					t.Fatal(err)
				}
				for i := range 20 {
					m, err := stream.Recv()
					if err != nil || len(m.Payload.Body) != i*1000 {
						t.Fatalf("message %d: %v", i, err)
					}
				}
				if _, err := stream.Recv(); status.Code(err) != codes.Aborted {
					t.Errorf("%v", err)
				}
			})
			t.Run("client stream", func(t *testing.T) {
				stream, err := client.StreamingInputCall(ctx)
				if err != nil {
					t.Fatal(err)
				}
				for i := range 10 {
					if i == 5 {
						time.Sleep(1500 * time.Millisecond)
					}
					if err := stream.Send(&pb.StreamingInputCallRequest{Payload: &pb.Payload{Body: make([]byte, 10000)}}); err != nil {
						t.Fatal(err)
					}
				}
				if res, err := stream.CloseAndRecv(); err != nil || res.AggregatedPayloadSize != 100000 {
					t.Errorf("%v %v", res, err)
				}
			})
			t.Run("both ways", func(t *testing.T) {
				stream, err := client.FullDuplexCall(ctx)
				if err != nil {
					t.Fatal(err)
				}
				for i := range 10 {
					if i == 5 {
						time.Sleep(1500 * time.Millisecond)
					}
					want := fmt.Sprint("message ", i)
					if err := stream.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: []byte(want)}}); err != nil {
						t.Fatal(err)
					}
					if m, err := stream.Recv(); err != nil || string(m.Payload.Body) != want {
						t.Fatalf("message %d: %v %v", i, m, err)
					}
				}
				stream.CloseSend()
				if _, err := stream.Recv(); err != io.EOF {
					t.Errorf("at the end: %v", err)
				}
			})
			t.Run("deadline", func(t *testing.T) {
				recorded := func() int {
					recs, err := n.Journal.Last(100, calllog.Filter{})
					if err != nil {
						t.Fatal(err)
					}
					return len(recs)
				}
				before := 0
				// A machine may be so busy that the deadline comes before the call has reached the service.
				for wait := 200 * time.Millisecond; service.waits.Load() == 0 && wait < patience; wait *= 2 {
					ctx, cancel := context.WithTimeout(ctx, wait)
					before = recorded()
					if _, err := client.UnaryCall(ctx, &pb.SimpleRequest{FillUsername: true}); status.Code(err) != codes.DeadlineExceeded {
						t.Errorf("%v", err)
					}
					cancel()
				}
				whytest.Eventually(t, "the service hears of it", func() bool { return service.waits.Load() > 0 && service.canceled.Load() == service.waits.Load() })
				whytest.Eventually(t, "it is recorded", func() bool { return recorded() > before })
				// The service and the client count down together; whichever comes first, nobody is blamed.
				if rec := last(); rec.Outcome == calllog.Failed && rec.Reason != "client.gone" {
					t.Errorf("record: %v %q", rec.Outcome, rec.Reason)
				}
			})
			t.Run("canceled", func(t *testing.T) {
				ctx, cancel := context.WithCancel(ctx)
				stream, err := client.FullDuplexCall(ctx)
				if err != nil {
					t.Fatal(err)
				}
				stream.Send(&pb.StreamingOutputCallRequest{})
				stream.Recv()
				cancel()
				whytest.Eventually(t, "the service hears of it", func() bool { return service.canceled.Load() == service.waits.Load()+1 })
				whytest.Eventually(t, "it is recorded", func() bool { return last().Flags&calllog.ClientGone != 0 })
			})
			t.Run("unknown method", func(t *testing.T) {
				if _, err := client.EmptyCall(ctx, &pb.Empty{}); status.Code(err) != codes.Unimplemented {
					t.Errorf("%v", err)
				}
			})
			target := n.Snapshot().Upstreams["up"].Targets()[0]
			whytest.Eventually(t, "no call is in flight", func() bool { return target.InFlight() == 0 })
			if target.Failed.Load() != 0 {
				t.Errorf("%d failures were counted: %s", target.Failed.Load(), target.LastError())
			}
		})
	}
}

// A service that gives up by the deadline of its caller may be faster than the caller. That one is told of
// the deadline then, and the service is not blamed.
func TestGRPCDeadlineOfService(t *testing.T) {
	t.Parallel()
	up := newUpstream2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/within" {
			w.Header().Set("Content-Type", "application/grpc")
			w.Write(make([]byte, 5))
			w.(http.Flusher).Flush()
		}
		time.Sleep(50 * time.Millisecond)
		panic(http.ErrAbortHandler)
	}))
	n := whytest.Start(t, "wire", upstreamSpec(whytest.API(up, "/", ""), "protocol: h2"))
	for _, path := range []string{"/before", "/within"} {
		req, _ := http.NewRequest("POST", n.URL(path), strings.NewReader("\x00\x00\x00\x00\x00"))
		req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "Grpc-Timeout": {"20m"}}
		res, err := client2(t).Do(req)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		_, err = io.ReadAll(res.Body)
		res.Body.Close()
		if got := res.Header.Get("Grpc-Status") + res.Trailer.Get("Grpc-Status"); err != nil || res.StatusCode != 200 || got != "4" {
			t.Errorf("%s: %d, grpc-status %q, %v", path, res.StatusCode, got, err)
		}
		rec := n.Record(whytest.Answer{Response: res})
		if rec.Flags&calllog.ClientGone == 0 || path == "/before" && (rec.Reason != "client.gone" || rec.Outcome != calllog.Failed) {
			t.Errorf("%s: record %v %q, flags %b", path, rec.Outcome, rec.Reason, rec.Flags)
		}
	}
	if target := n.Snapshot().Upstreams["up"].Targets()[0]; target.Failed.Load() != 0 {
		t.Errorf("the target was blamed: %s", target.LastError())
	}
}

// Refusals and failures reach a client of gRPC as what they are.
func TestGRPCRefusals(t *testing.T) {
	t.Parallel()
	key, consumer := whytest.Consumer("shop", "")
	_, _, url := startGRPC(t)
	docs := func(url, policies string) string {
		return upstreamSpec(whytest.API(url, "/", policies), "protocol: h2, "+quick) + consumer
	}
	n := whytest.Start(t, "wire", docs(url, "  - key-auth: {}\n  - rate-limit: {requests: 2, period: 1h}"))
	client := dialGRPC(t, n.Addresses()[0], nil)
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	call := func(ctx context.Context, code codes.Code, code2 string, httpStatus uint16, text string) {
		t.Helper()
		var trailer metadata.MD
		_, err := client.UnaryCall(ctx, &pb.SimpleRequest{}, grpc.Trailer(&trailer))
		s := status.Convert(err)
		if s.Code() != code || !strings.Contains(s.Message(), text) || strings.Contains(s.Message(), "127.0.0.1") {
			t.Errorf("%v, want %v with %q", err, code, text)
		}
		if code == codes.OK {
			return
		}
		if got := strings.Join(trailer["whygate-reason"], ","); got != code2 {
			t.Errorf("whygate-reason %q, want %q in %v", got, code2, trailer)
		}
		rec := n.Last(func(*calllog.Record) bool { return true })
		if rec.Reason != code2 || rec.Status != httpStatus {
			t.Errorf("record: %d %q", rec.Status, rec.Reason)
		}
	}
	call(ctx, codes.Unauthenticated, "key.missing", 401, "wants an API key in header X-Api-Key")
	known := metadata.AppendToOutgoingContext(ctx, "x-api-key", key)
	call(known, codes.OK, "", 0, "")
	call(known, codes.OK, "", 0, "")
	call(known, codes.ResourceExhausted, "rate-limit.exceeded", 429, "wait")
	// A client stream is refused while it sends.
	stream, err := client.StreamingInputCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if stream.Send(&pb.StreamingInputCallRequest{Payload: &pb.Payload{Body: make([]byte, 10000)}}) != nil {
			break
		}
	}
	if _, err := stream.CloseAndRecv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a client stream: %v", err)
	}
	n.Apply(docs(url, "  - maintenance: {message: moving}"))
	call(ctx, codes.Unavailable, "maintenance.active", 503, "moving")
	n.Apply(docs(url, "") + "  routes: [{path: /other}]\n")
	n.Apply(docs("http://"+closedPort(t), ""))
	call(ctx, codes.Unavailable, "upstream.unreachable", 502, "cannot be reached")
	silent := whytest.RawUpstream(t, waits)
	n.Apply(docs("http://"+silent, ""))
	call(ctx, codes.DeadlineExceeded, "upstream.timeout", 504, "in time")
}

// An upstream that dies within a stream: the client is told so by grpc-status.
func TestBrokenGRPCStream(t *testing.T) {
	_, server, url := startGRPC(t)
	n := whytest.Start(t, "wire", upstreamSpec(whytest.API(url, "/", ""), "protocol: h2"))
	client := dialGRPC(t, n.Addresses()[0], nil)
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	stream, err := client.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	stream.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: []byte("x")}})
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	server.Stop()
	_, err = stream.Recv()
	if s := status.Convert(err); s.Code() != codes.Unavailable || strings.Contains(s.Message(), "127.0.0.1") || !strings.Contains(s.Message(), "broke off") {
		t.Errorf("%v", err)
	}
	rec := n.Last(func(*calllog.Record) bool { return true })
	if rec.Outcome != calllog.Failed || rec.Reason != "upstream.broken" || rec.Flags&calllog.Truncated == 0 {
		t.Errorf("record: %v %q %b", rec.Outcome, rec.Reason, rec.Flags)
	}
	d, _ := gateway.DecodeDetail(rec.Detail)
	if f, ok := d.Verdict.Facts.Find("target", reason.ToOperator); !ok || "http://"+f.Text() != url {
		t.Errorf("facts %+v", d.Verdict.Facts)
	}
}
