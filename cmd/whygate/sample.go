package main

import (
	"compress/gzip"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/whygate/whygate/gateway"
)

func (a *app) sampleCommand() *cobra.Command {
	var listen string
	c := &cobra.Command{
		Use:   "sample",
		Short: "Run a small shop to put the gateway in front of",
		Long: `Runs a small web service, a shop, that knows nothing of a gateway: orders as JSON, a
form that redirects, server-sent events, slow, failing and broken answers, an echo of
what it was sent, a WebSocket.`,
		Example: "  whygate sample --listen 127.0.0.1:9000",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ln, err := net.Listen("tcp", listen)
			if err != nil {
				return environment(gateway.ListenError(listen, err))
			}
			fmt.Fprintf(a.out, "the sample shop is at http://%s/orders\n", ln.Addr())
			return serveSample(cmd.Context(), ln)
		},
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:9000", "address to serve on")
	return c
}

// serveSample serves the shop until ctx ends.
func serveSample(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{Handler: newShop(), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(ln); err != http.ErrServerClosed {
		return err
	}
	return nil
}

type order struct {
	ID     int       `json:"id"`
	Item   string    `json:"item"`
	Count  int       `json:"count"`
	Placed time.Time `json:"placed"`
}

// shop is the sample service.
type shop struct {
	mu     sync.Mutex // guards orders
	orders []order
}

func newShop() http.Handler {
	s := &shop{}
	for i, item := range []string{"lamp", "chair", "teapot"} {
		s.orders = append(s.orders, order{i + 1, item, i + 1, time.Date(2026, 11, 20+i, 9, 30, 0, 0, time.UTC)})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /orders", s.list)
	mux.HandleFunc("POST /orders", s.create)
	mux.HandleFunc("GET /orders/{id}", s.get)
	mux.HandleFunc("GET /form", s.form)
	mux.HandleFunc("POST /form", s.submit)
	mux.HandleFunc("GET /form/thanks", s.thanks)
	mux.HandleFunc("GET /events", s.events)
	mux.HandleFunc("GET /slow", s.slow)
	mux.HandleFunc("GET /large", s.large)
	mux.HandleFunc("/echo", s.echo)
	mux.HandleFunc("/status/{code}", s.status)
	mux.HandleFunc("/broken/{how}", s.broken)
	mux.HandleFunc("GET /ws", s.socket)
	return mux
}

func sendJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), 500)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}

func (s *shop) list(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sendJSON(w, 200, s.orders)
}

func (s *shop) create(w http.ResponseWriter, r *http.Request) {
	o := order{Item: "something", Count: 1}
	b, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil || len(b) > 0 && json.Unmarshal(b, &o) != nil {
		sendJSON(w, 400, map[string]string{"error": "an order is JSON with item and count"})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o.ID, o.Placed = len(s.orders)+1, time.Now().UTC().Truncate(time.Second)
	if len(s.orders) < 10_000 {
		s.orders = append(s.orders, o)
	}
	w.Header().Set("Location", "/orders/"+strconv.Itoa(o.ID))
	sendJSON(w, 201, o)
}

func (s *shop) get(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil || id < 1 || id > len(s.orders) {
		sendJSON(w, 404, map[string]string{"error": "no such order"})
		return
	}
	sendJSON(w, 200, s.orders[id-1])
}

// form, submit and thanks are the GET, POST, redirect of every web application.
func (s *shop) form(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, &http.Cookie{Name: "visit", Value: "1", Path: "/"})
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	io.WriteString(w, `<!doctype html><title>Order</title><form method="post"><input name="item"><button>Order</button></form>`)
}

func (s *shop) submit(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, "/form/thanks", http.StatusSeeOther)
}

func (s *shop) thanks(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintf(w, "<!doctype html><title>Thanks</title><p>Thanks. Cookies: %d</p>", len(r.Cookies()))
}

func (s *shop) events(w http.ResponseWriter, r *http.Request) {
	n, _ := strconv.Atoi(r.URL.Query().Get("n"))
	if n <= 0 || n > 1000 {
		n = 5
	}
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	for i := range n {
		fmt.Fprintf(w, "data: tick %d\n\n", i+1)
		if rc.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (s *shop) slow(w http.ResponseWriter, r *http.Request) {
	d, err := time.ParseDuration(r.URL.Query().Get("for"))
	if err != nil || d < 0 || d > 10*time.Minute {
		d = 2 * time.Second
	}
	select {
	case <-r.Context().Done():
	case <-time.After(d):
		sendJSON(w, 200, map[string]string{"waited": d.String()})
	}
}

func (s *shop) large(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.URL.Query().Get("bytes"), 10, 64)
	if err != nil || n < 0 || n > 1<<30 {
		n = 1 << 20
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	io.CopyN(w, zeros{}, n)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func (s *shop) echo(w http.ResponseWriter, r *http.Request) {
	h := sha1.New()
	n, _ := io.Copy(h, r.Body)
	sendJSON(w, 200, map[string]any{"method": r.Method, "target": r.RequestURI, "host": r.Host, "header": r.Header, "bytes": n, "sha1": fmt.Sprintf("%x", h.Sum(nil))})
}

func (s *shop) status(w http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(r.PathValue("code"))
	if err != nil || code < 200 || code > 599 {
		code = 400
	}
	title := fmt.Sprintf("%d %s", code, http.StatusText(code))
	switch r.URL.Query().Get("by") { // as if one of these stood before the shop, or the shop were made with it
	case "nginx":
		w.Header().Set("Server", "nginx/1.27.2")
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(code)
		fmt.Fprintf(w, "<html>\r\n<head><title>%s</title></head>\r\n<body>\r\n<center><h1>%s</h1></center>\r\n<hr><center>nginx/1.27.2</center>\r\n</body>\r\n</html>\r\n", title, title)
		return
	case "django":
		w.Header().Set("Content-Type", "text/html")
		var out io.Writer = w
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			defer z.Close()
			out = z
		}
		w.WriteHeader(code)
		fmt.Fprintf(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n  <title>%s</title>\n</head>\n<body>\n<div id=\"summary\">\n  <h1>Forbidden <span>(%d)</span></h1>\n  <p>CSRF verification failed. Request aborted.</p>\n  <p>You are seeing this message because this site requires a CSRF cookie when submitting forms.</p>\n</div>\n<!-- %s -->\n</body>\n</html>\n",
			title, code, html.EscapeString(r.Header.Get("Authorization")))
		return
	case "aws":
		w.Header().Set("X-Amzn-ErrorType", "ForbiddenException")
		w.Header().Set("X-Amzn-RequestId", "6a1f2c3d-0000-4000-8000-0123456789ab")
		sendJSON(w, code, map[string]string{"message": "Forbidden"})
		return
	}
	sendJSON(w, code, map[string]any{"status": code, "text": http.StatusText(code)})
}

// broken answers as no service should: it closes at once, cuts its answer short, or speaks no HTTP.
func (s *shop) broken(w http.ResponseWriter, r *http.Request) {
	nc, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), 500)
		return
	}
	defer nc.Close()
	switch r.PathValue("how") {
	case "cut":
		io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nthis is not")
	case "garbage":
		io.WriteString(nc, "220 mail.shop.test ESMTP\r\n\r\n")
	}
}

// socket echoes WebSocket messages: as much of RFC 6455 as that takes.
func (s *shop) socket(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("Sec-WebSocket-Key")
	if key == "" || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		http.Error(w, "this is a WebSocket", http.StatusUpgradeRequired)
		return
	}
	nc, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), 500)
		return
	}
	defer nc.Close()
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	if rw.Flush() != nil {
		return
	}
	for {
		var head [2]byte
		if _, err := io.ReadFull(rw, head[:]); err != nil {
			return
		}
		size := int(head[1] & 0x7f)
		if size == 126 {
			var ext [2]byte
			if _, err := io.ReadFull(rw, ext[:]); err != nil {
				return
			}
			size = int(ext[0])<<8 | int(ext[1])
		} else if size == 127 {
			return // longer than a sample needs
		}
		var mask [4]byte
		if _, err := io.ReadFull(rw, mask[:]); err != nil {
			return
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(rw, body); err != nil {
			return
		}
		for i := range body {
			body[i] ^= mask[i%4]
		}
		rw.WriteByte(head[0])
		if size < 126 {
			rw.WriteByte(byte(size))
		} else {
			rw.Write([]byte{126, byte(size >> 8), byte(size)})
		}
		rw.Write(body)
		if rw.Flush() != nil || head[0]&0x0f == 8 {
			return
		}
	}
}
