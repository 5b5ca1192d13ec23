package rig

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/whygate/whygate/pinpoint"
	"github.com/whygate/whygate/pinpoint/diagnose"
	"github.com/whygate/whygate/pinpoint/input"
)

// BenchmarkRequests reports how many requests the diagnoses of the scenarios send, at the median and at most.
func BenchmarkRequests(b *testing.B) {
	for range b.N {
		sent := map[string][]int{}
		for i := range scenarios {
			k := &scenarios[i]
			if k.control {
				continue
			}
			file := k.file
			if file == "" {
				file = k.name
			}
			var s *stage
			for _, mode := range []string{"R", "L"} {
				if s == nil || k.fresh {
					if s != nil {
						s.stop()
					}
					s = newStage(b, file)
				}
				sent[mode] = append(sent[mode], len(s.diagnose(b, k, mode).sent))
			}
			s.stop()
		}
		most := 0
		for _, list := range sent {
			for _, n := range list {
				most = max(most, n)
			}
		}
		b.ReportMetric(float64(median(sent["R"])), "median-requests-remote")
		b.ReportMetric(float64(median(sent["L"])), "median-requests-on-server")
		b.ReportMetric(float64(most), "most-requests")
	}
}

// recording is a session of a browser with a page of a firewall in it.
func recording(tb testing.TB) []byte {
	tb.Helper()
	var b bytes.Buffer
	b.WriteString(`{"log":{"version":"1.2","creator":{"name":"Firefox","version":"128"},"entries":[`)
	entry := func(url, status, kind, text string) {
		b.WriteString(`{"startedDateTime":"2026-02-03T10:11:12Z","time":5,"request":{"method":"GET","url":"` + url + `","httpVersion":"HTTP/2","headers":[{"name":"User-Agent","value":"Mozilla/5.0 (X11; Linux x86_64; rv:128.0)"},{"name":"Accept","value":"*/*"},{"name":"Accept-Language","value":"en"},{"name":"Accept-Encoding","value":"gzip"},{"name":"Connection","value":"keep-alive"},{"name":"Cookie","value":"sid=kJ2bq0s1t3u4v5w6x7y8z9"}],"queryString":[]},"response":{"status":` + status + `,"httpVersion":"HTTP/2","headers":[{"name":"Server","value":"cloudflare"},{"name":"CF-RAY","value":"8c1f0a2b3c4d5e6f-FRA"},{"name":"Content-Type","value":"` + kind + `"}],"content":{"mimeType":"` + kind + `","text":"` + text + `"}},"timings":{"wait":5}}`)
	}
	for range 200 {
		entry("https://shop.test/assets/app.js", "200", "text/javascript", string(bytes.Repeat([]byte("var a = 1; "), 500)))
		b.WriteByte(',')
	}
	entry("https://shop.test/orders", "403", "text/html", `<title>Attention Required! | Cloudflare</title><h1>Sorry, you have been blocked</h1><p>You are unable to access shop.test</p>`)
	b.WriteString(`]}}`)
	return b.Bytes()
}

// BenchmarkOffline is a verdict without a request: of a recording of two hundred entries, and of a token that has expired.
// The goal is at most 50 ms.
func BenchmarkOffline(b *testing.B) {
	har := recording(b)
	cases := map[string]func() (*pinpoint.Case, error){
		"har": func() (*pinpoint.Case, error) {
			h, err := input.HAR(bytes.NewReader(har))
			if err != nil {
				return nil, err
			}
			return h.Only()
		},
		"jwt": func() (*pinpoint.Case, error) {
			return input.Raw("GET /orders HTTP/1.1\r\nHost: shop.test\r\nAuthorization: Bearer "+expiredToken+"\r\n\r\nHTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\n\r\n{\"error\":\"unauthorized\"}", input.RawOptions{})
		},
	}
	for _, name := range []string{"har", "jwt"} {
		b.Run(name, func(b *testing.B) {
			var most time.Duration
			for b.Loop() {
				began := time.Now()
				c, err := cases[name]()
				if err != nil {
					b.Fatal(err)
				}
				r, err := diagnose.Run(context.Background(), c, diagnose.Options{Offline: true})
				if err != nil {
					b.Fatal(err)
				}
				if r.Verdict.Cause == "" || r.Verdict.Sent != 0 {
					b.Fatalf("cause %q, %d requests", r.Verdict.Cause, r.Verdict.Sent)
				}
				most = max(most, time.Since(began))
			}
			b.ReportMetric(float64(most.Microseconds())/1000, "most-ms")
		})
	}
}
