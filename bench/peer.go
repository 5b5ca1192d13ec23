//go:build linux

package main

import (
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// reverseProxy is the peer "Go httputil.ReverseProxy": the standard library, tuned
// as far as its settings go.
func reverseProxy(args []string) error {
	f := flag.NewFlagSet("reverse-proxy", flag.ContinueOnError)
	listen := f.String("listen", "", "host:port")
	origin := f.String("origin", "", "host:port")
	if err := f.Parse(args); err != nil {
		return err
	}
	to := &url.URL{Scheme: "http", Host: *origin}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
			MaxIdleConns:        0, // no bound
			MaxIdleConnsPerHost: 1024,
			IdleConnTimeout:     15 * time.Minute,
			DisableCompression:  true,
		},
		BufferPool: &buffers{},
	}
	return serve(*listen, proxy)
}

// buffers keeps the 32 KiB that ReverseProxy copies through.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[]byte); ok {
		return *buf
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(buf []byte) { b.pool.Put(&buf) }

// sink is the origin of large requests: it takes the body and then answers.
func sink(args []string) error {
	f := flag.NewFlagSet("sink", flag.ContinueOnError)
	listen := f.String("listen", "", "host:port")
	if err := f.Parse(args); err != nil {
		return err
	}
	pool := sync.Pool{New: func() any { return new([256 << 10]byte) }}
	return serve(*listen, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		buf := pool.Get().(*[256 << 10]byte)
		defer pool.Put(buf)
		for {
			if _, err := r.Body.Read(buf[:]); err == io.EOF {
				break
			} else if err != nil {
				return // the sender is gone
			}
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, body)
	}))
}

func serve(listen string, h http.Handler) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	return (&http.Server{Handler: h, IdleTimeout: 15 * time.Minute}).Serve(l)
}
