package main

import (
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/andybalholm/brotli"

	"github.com/whygate/whygate/pinpoint"
	"github.com/whygate/whygate/pinpoint/waf"
)

// hostileServer answers each request with bytes of its choice, and counts.
func hostileServer(t *testing.T, answer func(w io.Writer, r *http.Request)) (address string, asked *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	asked = &atomic.Int64{}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(30 * time.Second))
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				asked.Add(1)
				answer(c, r)
			}()
		}
	}()
	return l.Addr().String(), asked
}

// forever writes until the other side hangs up.
func forever(w io.Writer, text string) {
	for {
		if _, err := io.WriteString(w, text); err != nil {
			return
		}
	}
}

const (
	evilMarkup = `<script>alert(1)</script><img src=x onerror=alert(2)><a href="javascript:alert(3)">x</a>`
	evilEscape = "\x1b[2J\x1b]0;owned\x07\x1b]8;;http://evil.test\x1b\\click\x1b]8;;\x1b\\\u202egnp.exe\u2066\u009b31m\r\x00"
	ownSecret  = "tok-of-the-caller-93b1c7d5e2"
)

func whole(status, fields, body string) string {
	return "HTTP/1.1 " + status + "\r\n" + fields + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body)) + body
}

// unzipped is what a bundle holds.
func unzipped(t *testing.T, name string) string {
	t.Helper()
	z, err := zip.OpenReader(name)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var b strings.Builder
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(&b, io.LimitReader(r, 4<<20)); err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
	return b.String()
}

// bomb is a small text that becomes 64 MiB.
func bomb(pack func(io.Writer) io.WriteCloser) string {
	var b bytes.Buffer
	w := pack(&b)
	zeros := bytes.Repeat([]byte("<p>0</p>"), 1<<17)
	for range 64 {
		w.Write(zeros)
	}
	w.Close()
	return b.String()
}

// A server that means harm does none: every report ends, is small, is text, and keeps the caller's secret.
func TestPinpointHostile(t *testing.T) {
	text := func(s string) func(io.Writer, *http.Request) {
		return func(w io.Writer, _ *http.Request) { io.WriteString(w, s) }
	}
	zipped := bomb(func(w io.Writer) io.WriteCloser { z, _ := gzip.NewWriterLevel(w, 9); return z })
	brotlied := bomb(func(w io.Writer) io.WriteCloser { return brotli.NewWriterLevel(w, 3) })
	servers := map[string]func(io.Writer, *http.Request){
		"endless body": func(w io.Writer, _ *http.Request) {
			io.WriteString(w, "HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\n\r\n")
			forever(w, strings.Repeat(evilMarkup, 500))
		},
		"endless chunks": func(w io.Writer, _ *http.Request) {
			io.WriteString(w, "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n")
			forever(w, strings.Repeat("1\r\n{\r\n", 1000))
		},
		"endless fields": func(w io.Writer, _ *http.Request) {
			io.WriteString(w, "HTTP/1.1 403 Forbidden\r\n")
			forever(w, "X-A: "+strings.Repeat("a", 4000)+"\r\n")
		},
		"one field of a megabyte": text("HTTP/1.1 403 Forbidden\r\nServer: " + strings.Repeat("nginx", 200<<10) + "\r\nContent-Length: 0\r\n\r\n"),
		"endless continue": func(w io.Writer, _ *http.Request) {
			forever(w, strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100))
		},
		"redirect to itself": func(w io.Writer, r *http.Request) {
			io.WriteString(w, whole("302 Found", "Location: "+r.URL.Path+"\r\n", ""))
		},
		"redirects in a circle": func(w io.Writer, r *http.Request) {
			to := "/a"
			if r.URL.Path == to {
				to = "/b"
			}
			io.WriteString(w, whole("302 Found", "Location: "+to+"\r\n", ""))
		},
		"redirects that grow": func(w io.Writer, r *http.Request) {
			io.WriteString(w, whole("302 Found", "Location: "+r.URL.Path+"/x"+strings.Repeat("y", 1000)+"\r\n", ""))
		},
		"redirect elsewhere":             text(whole("302 Found", "Location: http://169.254.169.254/latest/meta-data/\r\n", "")),
		"escape codes":                   text(whole("403 "+evilEscape, "Server: "+evilEscape+"\r\nWWW-Authenticate: Bearer realm=\""+evilEscape+"\", error=\"insufficient_scope\", scope=\""+evilEscape+"\"\r\nAllow: "+evilEscape+"\r\nContent-Type: application/json\r\n", `{"message":"`+evilEscape+` quota exceeded"}`)),
		"markup":                         text(whole("403 Forbidden", "Server: "+evilMarkup+"\r\nWWW-Authenticate: Bearer error=\"insufficient_scope\", scope=\""+strings.ReplaceAll(evilMarkup, `"`, `'`)+"\"\r\nX-Cache: HIT "+evilMarkup+"\r\nAge: 77\r\nContent-Type: text/html\r\n", "<html><center><h1>403 Forbidden</h1></center><hr><center>nginx"+evilMarkup+"</center>")),
		"markup in a page that is known": text(whole("403 Forbidden", "Content-Type: text/html\r\n", "<title>Web Page Blocked!</title>"+evilMarkup+"<p>Attack ID: "+evilMarkup+"</p>")),
		"a call of whygate":              text(whole("403 Forbidden", "Whygate-Call: "+evilEscape+evilMarkup+"$(reboot)\r\nWhygate-Reason: a.b\r\n", "")),
		"bomb of gzip":                   text(whole("403 Forbidden", "Content-Encoding: gzip\r\nContent-Type: text/html\r\n", zipped)),
		"bomb of brotli":                 text(whole("403 Forbidden", "Content-Encoding: br\r\nContent-Type: text/html\r\n", brotlied)),
		"deep JSON":                      text(whole("403 Forbidden", "Content-Type: application/json\r\n", strings.Repeat(`{"a":[`, 20_000))),
		"deep XML":                       text(whole("403 Forbidden", "Content-Type: application/xml\r\n", strings.Repeat(`<Code>`, 30_000))),
		"no HTTP":                        text("SSH-2.0-OpenSSH_9.7\r\n" + evilEscape),
		"nothing":                        func(io.Writer, *http.Request) {},
		"an echo": func(w io.Writer, r *http.Request) {
			auth := r.Header.Get("Authorization")
			io.WriteString(w, whole("403 Forbidden", "X-Echo: "+auth+"\r\nWWW-Authenticate: Bearer error=\"invalid_token\", error_description=\""+auth+"\"\r\nContent-Type: application/json\r\n", `{"error":"bad token `+auth+`","‹secret:00000000 len=9›":"`+auth+`"}`))
		},
		"an absurd pause": text(whole("403 Forbidden", "Retry-After: 99999999999999999999\r\nX-RateLimit-Remaining: -9e99\r\nRateLimit-Reset: NaN\r\n", "")),
		"absurd numbers":  text("HTTP/1.1 403 Forbidden\r\nAge: 99999999999999999999\r\nX-Cache: HIT\r\nDate: Mon, 01 Jan 0001 00:00:00 GMT\r\nContent-Length: 99999999999\r\n\r\nx"),
		"an odd status":   text(whole("999 "+evilMarkup, "", evilMarkup)),
	}
	for name, answer := range servers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, asked := hostileServer(t, answer)
			dir := t.TempDir()
			page, bundle := filepath.Join(dir, "r.html"), filepath.Join(dir, "r.zip")
			var out, errOut, raw bytes.Buffer
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			args := []string{"pinpoint", "http://" + address + "/orders/7?x=1", "-H", "Authorization: Bearer " + ownSecret, "--pace", "-1ns", "--wait", "0s"}
			code := run(ctx, append(args, "--html", page, "--share", bundle), strings.NewReader(""), &out, &errOut)
			if ctx.Err() != nil {
				t.Fatal("it did not end")
			}
			if code < 0 || code > 10 {
				t.Errorf("exit code %d", code)
			}
			if n := asked.Load(); n > 24 {
				t.Errorf("%d requests", n)
			}
			before := asked.Load()
			run(ctx, append(args, "--json", "-H", "Content-Type: application/json", "-d", `{"title":"a <script>alert(1)</script> b"}`, "--bisect"), strings.NewReader(""), &raw, io.Discard)
			if n := asked.Load() - before; n > waf.MaxRequests+24 {
				t.Errorf("%d requests of a bisection", n)
			}
			html, err := os.ReadFile(page)
			if err != nil {
				t.Fatalf("no report: %v\n%s", err, errOut.String())
			}
			shared := unzipped(t, bundle)
			for what, text := range map[string]string{"terminal": out.String(), "progress": errOut.String(), "page": string(html), "bundle": shared, "JSON": raw.String()} {
				if len(text) > 1<<20 {
					t.Errorf("%s: %d bytes", what, len(text))
				}
				if strings.Contains(text, ownSecret) {
					t.Errorf("%s tells the secret", what)
				}
				for _, r := range text {
					if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
						t.Errorf("%s holds the control character %U", what, r)
						break
					}
				}
			}
			for _, bad := range []string{"<script>alert", "<img src=x", `href="javascript:`, "href='javascript:"} {
				if strings.Contains(string(html), bad) {
					t.Errorf("the page holds %q", bad)
				}
			}
			if strings.Contains(shared, "/orders") {
				t.Error("the bundle names the path")
			}
		})
	}
}

// A pasted command reads no file without permission, whichever way it is handed in: a certificate would say who the
// reader is to a server that the command names.
func TestPinpointPastedCertificate(t *testing.T) {
	shown := &atomic.Int64{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) > 0 {
			shown.Add(1)
		}
		w.WriteHeader(403)
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	defer s.Close()
	pair := filepath.Join(t.TempDir(), "me.pem")
	key, err := x509.MarshalPKCS8PrivateKey(s.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.TLS.Certificates[0].Certificate[0]}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	if err := os.WriteFile(pair, text, 0o600); err != nil {
		t.Fatal(err)
	}
	command := []string{"-k", "--cert", pair, s.URL + "/"}
	for _, c := range []struct {
		args  []string
		input string
		shows bool
	}{
		{[]string{"-"}, "curl " + strings.Join(command, " "), false},
		{[]string{"-", "--allow-file", pair}, "curl " + strings.Join(command, " "), true},
		{[]string{"--curl", "curl " + strings.Join(command, " ")}, "", false},
		{command, "", true}, // the reader names it
	} {
		shown.Store(0)
		args := append([]string{"pinpoint", "--quiet", "--requests", "1", "--pace", "1ms"}, c.args...)
		run(context.Background(), args, strings.NewReader(c.input), io.Discard, io.Discard)
		if (shown.Load() > 0) != c.shows {
			t.Errorf("%.20q: the certificate was shown %d times", c.args, shown.Load())
		}
	}
}

// The record of another call is none of this one: caches and pages carry ids on.
func TestRecordOfAnotherCall(t *testing.T) {
	for _, tt := range []struct {
		asked, url, method, path string
		same                     bool
	}{
		{"GET", "https://shop.test/v1/orders?id=7", "GET", "/v1/orders", true},
		{"GET", "https://shop.test/shop/v1/orders", "GET", "/v1/orders", true}, // a proxy before it takes a prefix off
		{"GET", "https://shop.test/a%20b", "GET", "/a b", true},
		{"GET", "https://shop.test/", "GET", "/", true},
		{"GET", "https://shop.test/keys/‹secret:1›", "GET", "/keys/k-1", true},
		{"GET", "https://shop.test/v1/orders", "", "", true}, // what this caller is not told says nothing
		{"POST", "https://shop.test/v1/orders", "GET", "/v1/orders", false},
		{"GET", "https://shop.test/v1/orders", "GET", "/v1/invoices", false},
	} {
		if got := sameCall(&pinpoint.Request{Method: tt.asked, URL: tt.url}, tt.method, tt.path); got != tt.same {
			t.Errorf("%s %s and the record of %s %s: same %v", tt.asked, tt.url, tt.method, tt.path, got)
		}
	}
}
