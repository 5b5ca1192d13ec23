package wire

import "testing"

// browserHead is what a browser sends.
const browserHead = "GET /assets/app/main.4f2c1b.js?v=20261122&lang=en HTTP/1.1\r\n" +
	"Host: shop.example.com\r\n" +
	"Connection: keep-alive\r\n" +
	"sec-ch-ua: \"Chromium\";v=\"142\", \"Not_A Brand\";v=\"99\"\r\n" +
	"sec-ch-ua-mobile: ?0\r\n" +
	"sec-ch-ua-platform: \"Linux\"\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\n" +
	"Accept: */*\r\n" +
	"Sec-Fetch-Site: same-origin\r\n" +
	"Sec-Fetch-Mode: no-cors\r\n" +
	"Sec-Fetch-Dest: script\r\n" +
	"Referer: https://shop.example.com/orders/2026/11?page=2\r\n" +
	"Accept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n" +
	"Cookie: session=8f14e45fceea167a5a36dedd4bea2543; theme=dark; consent=2026-01-05T10%3A11%3A12Z; _id=GS1.1.1731326000.12.1.1731326500.60.0.0\r\n" +
	"\r\n"

// smallHead is what a benchmark or a service sends.
const smallHead = "GET /orders/5 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nX-Api-Key: wg_live_0123456789abcdef\r\n\r\n"

func BenchmarkParse(b *testing.B) {
	for _, c := range []struct{ name, head string }{
		{"small", smallHead},
		{"browser", browserHead},
		{"odd path", lines("GET /a/./%7Euser/../b%2fc?x=1 HTTP/1.1", "Host: Shop.Example.com")},
	} {
		b.Run(c.name, func(b *testing.B) {
			head := []byte(c.head)
			var r Request
			var arena []byte
			b.SetBytes(int64(len(head)))
			b.ReportAllocs()
			for b.Loop() {
				scanned := 0
				n, _ := headEnd(head, &scanned)
				if f := r.parse(head[:n], &testLimits, &arena); f != nil {
					b.Fatal(f)
				}
			}
		})
	}
}

func BenchmarkParseResponse(b *testing.B) {
	head := []byte(lines("HTTP/1.1 200 OK", "Server: nginx/1.22.1", "Date: Sun, 22 Nov 2026 09:40:00 GMT", "Content-Type: application/json", "Content-Length: 176", "Connection: keep-alive", "Cache-Control: no-store", "ETag: \"6560\""))
	var r Response
	b.SetBytes(int64(len(head)))
	b.ReportAllocs()
	for b.Loop() {
		scanned := 0
		n, _ := headEnd(head, &scanned)
		if f := r.parse(head[:n], "GET", &answerLimits); f != nil {
			b.Fatal(f)
		}
	}
}
