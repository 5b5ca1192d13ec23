package wire

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// answerLimits are those of upstream answers.
var answerLimits = Limits{HeaderBytes: 64 << 10, HeaderCount: 256, URIBytes: 1, Underscores: UnderscoreAllow}

func TestResponse(t *testing.T) {
	type want struct {
		Status    int
		Phrase    string
		Proto     uint8
		Length    int64
		Framing   framing
		KeepAlive bool
		Upgrade   string
	}
	for _, c := range []struct {
		name, method, head string
		want               want
	}{
		{"length", "GET", lines("HTTP/1.1 200 OK", "Content-Length: 5"), want{200, "OK", 11, 5, byLength, true, ""}},
		{"no phrase", "GET", lines("HTTP/1.1 200", "Content-Length: 0"), want{200, "", 11, 0, byLength, true, ""}},
		{"an empty phrase", "GET", lines("HTTP/1.1 200 ", "Content-Length: 0"), want{200, "", 11, 0, byLength, true, ""}},
		{"a long phrase", "GET", lines("HTTP/1.1 404 Not  Found, alas é", "Content-Length: 0"), want{404, "Not  Found, alas é", 11, 0, byLength, true, ""}},
		{"chunked", "GET", lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), want{200, "OK", 11, -1, byChunks, true, ""}},
		{"until close", "GET", lines("HTTP/1.1 200 OK"), want{200, "OK", 11, -1, byClose, false, ""}},
		{"1.0", "GET", lines("HTTP/1.0 200 OK", "Content-Length: 1"), want{200, "OK", 10, 1, byLength, false, ""}},
		{"1.0 keep-alive", "GET", lines("HTTP/1.0 200 OK", "Content-Length: 1", "Connection: keep-alive"), want{200, "OK", 10, 1, byLength, true, ""}},
		{"close", "GET", lines("HTTP/1.1 200 OK", "Content-Length: 1", "Connection: close"), want{200, "OK", 11, 1, byLength, false, ""}},
		{"HEAD with a promise", "HEAD", lines("HTTP/1.1 200 OK", "Content-Length: 5"), want{200, "OK", 11, 5, noBody, true, ""}},
		{"HEAD chunked", "HEAD", lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), want{200, "OK", 11, -1, noBody, true, ""}},
		{"HEAD without", "HEAD", lines("HTTP/1.1 200 OK"), want{200, "OK", 11, -1, noBody, true, ""}},
		{"204 with a length", "GET", lines("HTTP/1.1 204 No Content", "Content-Length: 5"), want{204, "No Content", 11, 0, noBody, true, ""}},
		{"304 with a promise", "GET", lines("HTTP/1.1 304 Not Modified", "Content-Length: 5"), want{304, "Not Modified", 11, 5, noBody, true, ""}},
		{"100", "POST", lines("HTTP/1.1 100 Continue"), want{100, "Continue", 11, 0, noBody, true, ""}},
		{"103", "GET", lines("HTTP/1.1 103 Early Hints", "Link: </a>"), want{103, "Early Hints", 11, 0, noBody, true, ""}},
		{"101", "GET", lines("HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: websocket"), want{101, "Switching Protocols", 11, 0, noBody, true, "websocket"}},
		{"101 without Connection", "GET", lines("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket"), want{101, "Switching Protocols", 11, 0, noBody, true, ""}},
		{"101 to another HTTP", "GET", lines("HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: h2c"), want{101, "Switching Protocols", 11, 0, noBody, true, ""}},
		{"200 with Upgrade", "GET", lines("HTTP/1.1 200 OK", "Connection: upgrade", "Upgrade: websocket", "Content-Length: 0"), want{200, "OK", 11, 0, byLength, true, ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r Response
			if f := r.parse([]byte(c.head), c.method, &answerLimits); f != nil {
				t.Fatal(f)
			}
			if d := cmp.Diff(c.want, want{r.Status, r.Phrase, r.Proto, r.Length, r.framing, r.keepAlive, r.Upgrade}); d != "" {
				t.Errorf("%q (-want +got):\n%s", c.head, d)
			}
		})
	}
}

func TestResponseFaults(t *testing.T) {
	for _, c := range []struct {
		name string
		rule Rule
		head string
	}{
		{"another protocol", BadStatusLine, lines("ICY 200 OK")},
		{"lower case", BadStatusLine, lines("http/1.1 200 OK")},
		{"HTTP/2", BadStatusLine, lines("HTTP/2 200")},
		{"HTTP/1.2", BadStatusLine, lines("HTTP/1.2 200 OK")},
		{"two spaces", BadStatusLine, lines("HTTP/1.1  200 OK")},
		{"no status", BadStatusLine, lines("HTTP/1.1 ")},
		{"two digits", BadStatusLine, lines("HTTP/1.1 20 OK")},
		{"four digits", BadStatusLine, lines("HTTP/1.1 2000 OK")},
		{"signed", BadStatusLine, lines("HTTP/1.1 +20 OK")},
		{"below 100", BadStatusLine, lines("HTTP/1.1 099 OK")},
		{"above 599", BadStatusLine, lines("HTTP/1.1 600 OK")},
		{"a tab behind the status", BadStatusLine, lines("HTTP/1.1 200\tOK")},
		{"NUL in the phrase", BadStatusLine, lines("HTTP/1.1 200 O\x00K")},
		{"CR in the phrase", BadStatusLine, lines("HTTP/1.1 200 O\rX: y")},
		{"empty", BadStatusLine, "\r\n"},
		{"LF", BareLF, "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n"},
		{"LF in a field", BareLF, "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n"},
		{"a fold", ObsFold, lines("HTTP/1.1 200 OK", "X: y", " z")},
		{"space before colon", SpaceBeforeColon, lines("HTTP/1.1 200 OK", "Content-Length : 0")},
		{"no colon", MissingColon, lines("HTTP/1.1 200 OK", "Content-Length")},
		{"NUL in a value", BadFieldValue, lines("HTTP/1.1 200 OK", "X: \x00")},
		{"CR in a value", BareCR, lines("HTTP/1.1 200 OK", "X: y\rSet-Cookie: a=b")},
		{"length signed", BadLength, lines("HTTP/1.1 200 OK", "Content-Length: +1")},
		{"length list", BadLength, lines("HTTP/1.1 200 OK", "Content-Length: 1, 1")},
		{"length twice", RepeatedLength, lines("HTTP/1.1 200 OK", "Content-Length: 1", "Content-Length: 1")},
		{"length and coding", LengthAndCoding, lines("HTTP/1.1 200 OK", "Content-Length: 1", "Transfer-Encoding: chunked")},
		{"coding unknown", UnknownCoding, lines("HTTP/1.1 200 OK", "Transfer-Encoding: gzip, chunked")},
		{"coding in 1.0", CodingIn10, lines("HTTP/1.0 200 OK", "Transfer-Encoding: chunked")},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := []byte(c.head)
			scanned := 0
			n, f := headEnd(b, &scanned)
			if f == nil {
				var r Response
				f = r.parse(b[:n], "GET", &answerLimits)
			}
			if f == nil {
				t.Fatalf("%q was accepted", c.head)
			}
			if f.Rule != c.rule || f.Text == "" || f.Wanted == "" {
				t.Errorf("%q: %v, want %s", c.head, f, c.rule)
			}
		})
	}
}
