package wire

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func with(l Limits, change func(*Limits)) *Limits {
	change(&l)
	return &l
}

func allow(l *Limits) { l.Underscores = UnderscoreAllow }
func drop(l *Limits)  { l.Underscores = UnderscoreDrop }
func few(l *Limits)   { l.HeaderCount = 8 }

// numbered are n header lines, Host among them.
func numbered(n int) string {
	s := "Host: a\r\n"
	for i := 1; i < n; i++ {
		s += fmt.Sprintf("X-%d: y\r\n", i)
	}
	return "GET / HTTP/1.1\r\n" + s + "\r\n"
}

// requestFaults: what breaks a rule, and the nearest request that does not. Where fine is empty, it
// is another row's.
var requestFaults = []struct {
	name   string
	rule   Rule
	status int
	bad    string
	fine   string
	lim    *Limits
}{
	{name: "nothing before the spaces", rule: BadRequestLine, bad: lines(" / HTTP/1.1", "Host: a"), fine: lines("GET / HTTP/1.1", "Host: a")},
	{name: "HTTP/0.9", rule: BadRequestLine, bad: lines("GET /", "Host: a")},
	{name: "one word", rule: BadRequestLine, bad: lines("GET", "Host: a")},
	{name: "an empty line", rule: BadRequestLine, bad: "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"},
	{name: "only spaces", rule: BadRequestLine, bad: lines("   ", "Host: a")},
	{name: "a PROXY header of version 2", rule: BadRequestLine, bad: "\r\n\r\n\x00\r\nQUIT\n"},

	{name: "a tab behind the method", rule: BadMethod, bad: lines("GET\t / HTTP/1.1", "Host: a"), fine: lines("get / HTTP/1.1", "Host: a")},
	{name: "a colon in the method", rule: BadMethod, bad: lines("GE:T / HTTP/1.1", "Host: a"), fine: lines("M-SEARCH / HTTP/1.1", "Host: a")},
	{name: "NUL in the method", rule: BadMethod, bad: lines("G\x00T / HTTP/1.1", "Host: a")},
	{name: "a method above 0x7F", rule: BadMethod, bad: lines("GÉT / HTTP/1.1", "Host: a")},

	{name: "lower case", rule: BadVersion, bad: lines("GET / http/1.1", "Host: a")},
	{name: "two digits", rule: BadVersion, bad: lines("GET / HTTP/1.10", "Host: a")},
	{name: "space behind", rule: BadVersion, bad: lines("GET / HTTP/1.1 ", "Host: a")},
	{name: "a tab for a space", rule: BadVersion, bad: lines("GET /\tHTTP/1.1 HTTPS/1.1", "Host: a")},
	{name: "a CR behind", rule: BadVersion, bad: "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"},
	{name: "no number", rule: BadVersion, bad: lines("GET / HTTP/x.1", "Host: a")},
	{name: "HTTP/1.2", rule: UnsupportedVersion, status: 505, bad: lines("GET / HTTP/1.2", "Host: a")},
	{name: "HTTP/2.0", rule: UnsupportedVersion, status: 505, bad: lines("GET / HTTP/2.0", "Host: a")},
	{name: "HTTP/0.9 by name", rule: UnsupportedVersion, status: 505, bad: lines("GET / HTTP/0.9", "Host: a"), fine: lines("GET / HTTP/1.0")},
	{name: "the preface of HTTP/2", rule: UnsupportedVersion, status: 505, bad: Preface[:18]},

	{name: "empty", rule: BadTarget, bad: lines("GET  HTTP/1.1", "Host: a")},
	{name: "no slash", rule: BadTarget, bad: lines("GET a HTTP/1.1", "Host: a"), fine: lines("GET /a HTTP/1.1", "Host: a")},
	{name: "asterisk", rule: BadTarget, bad: lines("GET * HTTP/1.1", "Host: a"), fine: lines("OPTIONS * HTTP/1.1", "Host: a")},
	{name: "asterisk and more", rule: BadTarget, bad: lines("OPTIONS *x HTTP/1.1", "Host: a")},
	{name: "another scheme", rule: BadTarget, bad: lines("GET ftp://a/ HTTP/1.1", "Host: a"), fine: lines("GET http://a/ HTTP/1.1", "Host: a")},
	{name: "authority form", rule: BadTarget, bad: lines("GET a:80 HTTP/1.1", "Host: a")},
	{name: "a backslash first", rule: BadTarget, bad: lines(`GET \a HTTP/1.1`, "Host: a")},
	{name: "user information", rule: BadTarget, bad: lines("GET http://u:p@a/ HTTP/1.1", "Host: a")},
	{name: "no authority", rule: BadTarget, bad: lines("GET http:///x HTTP/1.1", "Host: a")},
	{name: "one slash behind the scheme", rule: BadTarget, bad: lines("GET http:/a/ HTTP/1.1", "Host: a")},

	{name: "two spaces", rule: BadTargetByte, bad: lines("GET  / HTTP/1.1", "Host: a")},
	{name: "a space", rule: BadTargetByte, bad: lines("GET /a b HTTP/1.1", "Host: a"), fine: lines("GET /a%20b HTTP/1.1", "Host: a")},
	{name: "a tab", rule: BadTargetByte, bad: lines("GET /a\tb HTTP/1.1", "Host: a"), fine: lines("GET /a%09b HTTP/1.1", "Host: a")},
	{name: "a fragment", rule: BadTargetByte, bad: lines("GET /a#b HTTP/1.1", "Host: a"), fine: lines("GET /a%23b HTTP/1.1", "Host: a")},
	{name: "a fragment behind the query", rule: BadTargetByte, bad: lines("GET /a?b#c HTTP/1.1", "Host: a")},
	{name: "DEL", rule: BadTargetByte, bad: lines("GET /a\x7f HTTP/1.1", "Host: a")},
	{name: "NUL", rule: BadTargetByte, bad: lines("GET /a\x00 HTTP/1.1", "Host: a")},
	{name: "CR in the target", rule: BadTargetByte, bad: lines("GET /a\rb HTTP/1.1", "Host: a")},
	{name: "a backslash", rule: BadTargetByte, bad: lines(`GET /a\b HTTP/1.1`, "Host: a"), fine: lines(`GET /a%5Cb HTTP/1.1`, "Host: a")},
	{name: "NUL in the query", rule: BadTargetByte, bad: lines("GET /?a=\x00 HTTP/1.1", "Host: a"), fine: lines("GET /?a=%00 HTTP/1.1", "Host: a")},

	{name: "% alone", rule: BadEscape, bad: lines("GET /100% HTTP/1.1", "Host: a"), fine: lines("GET /100%25 HTTP/1.1", "Host: a")},
	{name: "% and one digit", rule: BadEscape, bad: lines("GET /a%4 HTTP/1.1", "Host: a"), fine: lines("GET /?a%4 HTTP/1.1", "Host: a")},
	{name: "% and no digits", rule: BadEscape, bad: lines("GET /a%zz HTTP/1.1", "Host: a")},
	{name: "%u", rule: BadEscape, bad: lines("GET /%u002e HTTP/1.1", "Host: a")},
	{name: "% before a slash", rule: BadEscape, bad: lines("GET /%/2e HTTP/1.1", "Host: a")},
	{name: "escaped NUL", rule: NulInPath, bad: lines("GET /a%00.jpg HTTP/1.1", "Host: a"), fine: lines("GET /a%01.jpg HTTP/1.1", "Host: a")},
	{name: "above the root", rule: EscapesRoot, bad: lines("GET /a/../../b HTTP/1.1", "Host: a"), fine: lines("GET /a/../b HTTP/1.1", "Host: a")},
	{name: "above the root, escaped", rule: EscapesRoot, bad: lines("GET /%2e%2E HTTP/1.1", "Host: a"), fine: lines("GET /%2e HTTP/1.1", "Host: a")},
	{name: "dots before a parameter", rule: HiddenDots, bad: lines("GET /a/..;/b HTTP/1.1", "Host: a"), fine: lines("GET /a/...;/b HTTP/1.1", "Host: a")},
	{name: "dots before an escaped parameter", rule: HiddenDots, bad: lines("GET /a/..%3bx/b HTTP/1.1", "Host: a"), fine: lines("GET /a/x%3b../b HTTP/1.1", "Host: a")},
	{name: "dots before an escaped slash", rule: HiddenDots, bad: lines("GET /a/..%2fb HTTP/1.1", "Host: a"), fine: lines("GET /a/.b%2fb HTTP/1.1", "Host: a")},
	{name: "dots behind an escaped slash", rule: HiddenDots, bad: lines("GET /a%2f.. HTTP/1.1", "Host: a"), fine: lines("GET /a%2f...b HTTP/1.1", "Host: a")},
	{name: "dots between escaped backslashes", rule: HiddenDots, bad: lines("GET /a%5c%2e%2e%5cb HTTP/1.1", "Host: a"), fine: lines("GET /a%5cb HTTP/1.1", "Host: a")},
	{name: "one dot before a parameter", rule: HiddenDots, bad: lines("GET /a/.;x=1/b HTTP/1.1", "Host: a"), fine: lines("GET /a/x;.=1/b HTTP/1.1", "Host: a")},

	{name: "another host", rule: AbsoluteConflict, bad: lines("GET http://a/ HTTP/1.1", "Host: b"), fine: lines("GET http://A/ HTTP/1.1", "Host: a")},
	{name: "another port", rule: AbsoluteConflict, bad: lines("GET http://a:1/ HTTP/1.1", "Host: a"), fine: lines("GET http://a:1/ HTTP/1.1", "Host: a:1")},
	{name: "Host empty beside a target", rule: AbsoluteConflict, bad: lines("GET http://a/ HTTP/1.1", "Host:")},

	{name: "empty", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: "), fine: lines("GET / HTTP/1.0", "Host: ")},
	{name: "user information", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: u@a")},
	{name: "a list", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: a,b")},
	{name: "a list with space", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: a, b")},
	{name: "a path", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: a/b")},
	{name: "a scheme", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: http://a")},
	{name: "a port of letters", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: a:b"), fine: lines("GET / HTTP/1.1", "Host: a:80")},
	{name: "two ports", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: a:80:80")},
	{name: "a port above 65535", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: a:65536"), fine: lines("GET / HTTP/1.1", "Host: a:65535")},
	{name: "a signed port", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: a:+80")},
	{name: "a port alone", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: :80"), fine: lines("GET / HTTP/1.1", "Host: a:")},
	{name: "an open bracket", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: [::1"), fine: lines("GET / HTTP/1.1", "Host: [::1]")},
	{name: "text behind the bracket", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: [::1]a"), fine: lines("GET / HTTP/1.1", "Host: [::1]:8080")},
	{name: "no address in brackets", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: [a]")},
	{name: "IPv4 in brackets", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: [127.0.0.1]"), fine: lines("GET / HTTP/1.1", "Host: [::ffff:127.0.0.1]")},
	{name: "a zone", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: [fe80::1%25eth0]")},
	{name: "IPv6 without brackets", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: ::1")},
	{name: "a dot alone", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: ."), fine: lines("GET / HTTP/1.1", "Host: a.")},
	{name: "an empty part", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: a..b"), fine: lines("GET / HTTP/1.1", "Host: a.b")},
	{name: "two dots behind", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: a..")},
	{name: "an escape", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: a%2eb")},
	{name: "above 0x7F", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: bücher.example"), fine: lines("GET / HTTP/1.1", "Host: xn--bcher-kva.example")},
	{name: "a quote", rule: BadHost, bad: lines("GET / HTTP/1.1", `Host: "a"`)},
	{name: "too long", rule: BadHost, bad: lines("GET / HTTP/1.1", "Host: "+strings.Repeat("a.", 127)+"aa"), fine: lines("GET / HTTP/1.1", "Host: "+strings.Repeat("a.", 127)+"a")},
	{name: "bad in the target", rule: BadHost, bad: lines("GET http://a,b/ HTTP/1.1", "Host: a,b")},
	{name: "a backslash in the target's authority", rule: BadHost, bad: lines(`GET http://a\b/ HTTP/1.1`, `Host: a\b`)},
	{name: "no Host", rule: MissingHost, bad: lines("GET / HTTP/1.1"), fine: lines("GET / HTTP/1.0")},
	{name: "no Host beside a target", rule: MissingHost, bad: lines("GET http://a/ HTTP/1.1"), fine: lines("GET http://a/ HTTP/1.0")},
	{name: "two Hosts", rule: RepeatedHost, bad: lines("GET / HTTP/1.1", "Host: a", "Host: b")},
	{name: "the same Host twice", rule: RepeatedHost, bad: lines("GET / HTTP/1.1", "Host: a", "hOsT: a")},
	{name: "two Hosts in 1.0", rule: RepeatedHost, bad: lines("GET / HTTP/1.0", "Host: a", "Host: a")},

	{name: "request line", rule: BareLF, bad: "GET / HTTP/1.1\nHost: a\r\n\r\n"},
	{name: "field", rule: BareLF, bad: "GET / HTTP/1.1\r\nHost: a\n\r\n"},
	{name: "end", rule: BareLF, bad: "GET / HTTP/1.1\r\nHost: a\r\n\n"},
	{name: "within a value", rule: BareLF, bad: lines("GET / HTTP/1.1", "Host: a", "X: y\nTransfer-Encoding: chunked")},
	{name: "within a value", rule: BareCR, bad: lines("GET / HTTP/1.1", "Host: a", "X: y\rTransfer-Encoding: chunked"), fine: lines("GET / HTTP/1.1", "Host: a", "X: y Transfer-Encoding: chunked")},
	{name: "at the end of a value", rule: BareCR, bad: lines("GET / HTTP/1.1", "Host: a", "X: y\r")},
	{name: "space first", rule: ObsFold, bad: lines("GET / HTTP/1.1", "Host: a", "X: y", " z")},
	{name: "a tab first", rule: ObsFold, bad: lines("GET / HTTP/1.1", "Host: a", "Transfer-Encoding:", "\tchunked")},
	{name: "white space before the first field", rule: ObsFold, bad: lines("GET / HTTP/1.1", " Host: a")},
	{name: "a line of a space", rule: ObsFold, bad: lines("GET / HTTP/1.1", "Host: a", " ")},
	{name: "space", rule: SpaceBeforeColon, bad: lines("GET / HTTP/1.1", "Host: a", "Transfer-Encoding : chunked"), fine: lines("GET / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")},
	{name: "a tab", rule: SpaceBeforeColon, bad: lines("GET / HTTP/1.1", "Host\t: a")},
	{name: "space within", rule: BadFieldName, bad: lines("GET / HTTP/1.1", "Host: a", "X Y: z"), fine: lines("GET / HTTP/1.1", "Host: a", "X-Y: z")},
	{name: "empty", rule: BadFieldName, bad: lines("GET / HTTP/1.1", "Host: a", ": z")},
	{name: "NUL", rule: BadFieldName, bad: lines("GET / HTTP/1.1", "Host: a", "X\x00: z")},
	{name: "CR", rule: BadFieldName, bad: lines("GET / HTTP/1.1", "Host: a", "\rX: z")},
	{name: "vertical tab", rule: BadFieldName, bad: lines("GET / HTTP/1.1", "Host: a", "Transfer-Encoding\x0b: chunked")},
	{name: "a slash", rule: BadFieldName, bad: lines("GET / HTTP/1.1", "Host: a", "X/Y: z")},
	{name: "above 0x7F", rule: BadFieldName, bad: lines("GET / HTTP/1.1", "Host: a", "Ä: z")},
	{name: "refused", rule: UnderscoreInName, bad: lines("GET / HTTP/1.1", "Host: a", "X_Real_IP: 1"), fine: lines("GET / HTTP/1.1", "Host: a", "X-Real-IP: 1")},
	{name: "no colon", rule: MissingColon, bad: lines("GET / HTTP/1.1", "Host: a", "Content-Length 5")},
	{name: "a second request line", rule: MissingColon, bad: lines("GET / HTTP/1.1", "GET / HTTP/1.1", "Host: a")},
	{name: "NUL", rule: BadFieldValue, bad: lines("GET / HTTP/1.1", "Host: a", "X: y\x00")},
	{name: "vertical tab", rule: BadFieldValue, bad: lines("GET / HTTP/1.1", "Host: a", "Transfer-Encoding: \x0bchunked")},
	{name: "form feed behind", rule: BadFieldValue, bad: lines("GET / HTTP/1.1", "Host: a", "Content-Length: 5\x0c")},
	{name: "DEL", rule: BadFieldValue, bad: lines("GET / HTTP/1.1", "Host: a", "X: \x7f"), fine: lines("GET / HTTP/1.1", "Host: a", "X: a\tb \x80\xff")},

	{name: "signed", rule: BadLength, bad: lines("POST / HTTP/1.1", "Host: a", "Content-Length: +5"), fine: lines("POST / HTTP/1.1", "Host: a", "Content-Length: 5")},
	{name: "negative", rule: BadLength, bad: lines("POST / HTTP/1.1", "Host: a", "Content-Length: -5")},
	{name: "hexadecimal", rule: BadLength, bad: lines("POST / HTTP/1.1", "Host: a", "Content-Length: 0x5")},
	{name: "empty", rule: BadLength, bad: lines("POST / HTTP/1.1", "Host: a", "Content-Length:")},
	{name: "a list", rule: BadLength, bad: lines("POST / HTTP/1.1", "Host: a", "Content-Length: 5, 5")},
	{name: "space within", rule: BadLength, bad: lines("POST / HTTP/1.1", "Host: a", "Content-Length: 5 5")},
	{name: "a fraction", rule: BadLength, bad: lines("POST / HTTP/1.1", "Host: a", "Content-Length: 5.0")},
	{name: "too many digits", rule: BadLength, bad: lines("POST / HTTP/1.1", "Host: a", "Content-Length: 9999999999999999999"), fine: lines("POST / HTTP/1.1", "Host: a", "Content-Length: 000000000000000005")},
	{name: "twice", rule: RepeatedLength, bad: lines("POST / HTTP/1.1", "Host: a", "Content-Length: 5", "Content-Length: 5")},
	{name: "two values", rule: RepeatedLength, bad: lines("POST / HTTP/1.1", "Host: a", "Content-Length: 5", "content-length: 6")},
	{name: "length first", rule: LengthAndCoding, bad: lines("POST / HTTP/1.1", "Host: a", "Content-Length: 5", "Transfer-Encoding: chunked")},
	{name: "coding first", rule: LengthAndCoding, bad: lines("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", "Content-Length: 0"), fine: lines("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: Chunked")},
	{name: "unknown", rule: UnknownCoding, status: 501, bad: lines("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: xchunked")},
	{name: "identity", rule: UnknownCoding, status: 501, bad: lines("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: identity")},
	{name: "two", rule: UnknownCoding, status: 501, bad: lines("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: gzip, chunked")},
	{name: "behind", rule: UnknownCoding, status: 501, bad: lines("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked, identity")},
	{name: "repeated", rule: UnknownCoding, status: 501, bad: lines("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked")},
	{name: "empty", rule: UnknownCoding, status: 501, bad: lines("POST / HTTP/1.1", "Host: a", "Transfer-Encoding:")},
	{name: "quoted", rule: UnknownCoding, status: 501, bad: lines("POST / HTTP/1.1", "Host: a", `Transfer-Encoding: "chunked"`)},
	{name: "a parameter", rule: UnknownCoding, status: 501, bad: lines("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked;q=1")},
	{name: "a comma behind", rule: UnknownCoding, status: 501, bad: lines("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked,")},
	{name: "announced", rule: ForbiddenTrailer, bad: lines("POST / HTTP/1.1", "Host: a", "Trailer: X-Sum, content-length", "Transfer-Encoding: chunked"), fine: lines("POST / HTTP/1.1", "Host: a", "Trailer: X-Sum, x-content-length", "Transfer-Encoding: chunked")},
	{name: "in 1.0", rule: CodingIn10, bad: lines("POST / HTTP/1.0", "Host: a", "Transfer-Encoding: chunked"), fine: lines("POST / HTTP/1.0", "Host: a", "Content-Length: 5")},

	{name: "too many", rule: TooManyHeaders, status: 431, bad: numbered(9), fine: numbered(8), lim: with(testLimits, few)},
	{name: "too long", rule: TargetTooLong, status: 414, bad: lines("GET /"+strings.Repeat("a", 8192)+" HTTP/1.1", "Host: a"), fine: lines("GET /"+strings.Repeat("a", 8191)+" HTTP/1.1", "Host: a")},
	{name: "unknown", rule: UnknownExpectation, status: 417, bad: lines("POST / HTTP/1.1", "Host: a", "Expect: 200-ok", "Content-Length: 5"), fine: lines("POST / HTTP/1.1", "Host: a", "Expect: 100-Continue", "Content-Length: 5")},
	{name: "a list", rule: UnknownExpectation, status: 417, bad: lines("POST / HTTP/1.1", "Host: a", "Expect: 100-continue, x", "Content-Length: 5")},
	{name: "a body of known length", rule: UpgradeWithBody, bad: lines("GET / HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: websocket", "Content-Length: 5"), fine: lines("GET / HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: websocket", "Content-Length: 0")},
	{name: "a chunked body", rule: UpgradeWithBody, bad: lines("GET / HTTP/1.1", "Host: a", "Connection: x, upgrade", "Upgrade: websocket", "Transfer-Encoding: chunked"), fine: lines("GET / HTTP/1.1", "Host: a", "Upgrade: websocket", "Transfer-Encoding: chunked")},
	{name: "authority form", rule: ConnectMethod, status: 501, bad: lines("CONNECT a:443 HTTP/1.1", "Host: a:443")},
	{name: "origin form", rule: ConnectMethod, status: 501, bad: lines("CONNECT / HTTP/1.1", "Host: a")},
	{name: "cut short", rule: BodyCutShort, bad: "GET / HTTP/1.1\r\nHost: a\r\n"},
	{name: "where none is expected", rule: BadProxyHeader, bad: lines("PROXY TCP4 1.1.1.1 2.2.2.2 1 2", "GET / HTTP/1.1", "Host: a")},
}

func TestRequestFaults(t *testing.T) {
	for _, c := range requestFaults {
		t.Run(string(c.rule)+"/"+c.name, func(t *testing.T) {
			lim := c.lim
			if lim == nil {
				lim = &testLimits
			}
			want := c.status
			if want == 0 {
				want = 400
			}
			_, f := ParseRequest([]byte(c.bad), lim)
			if f == nil {
				t.Fatalf("%q was accepted", c.bad)
			}
			if f.Rule != c.rule || f.Status != want {
				t.Errorf("%q: %v, status %d; want %s, status %d", c.bad, f, f.Status, c.rule, want)
			}
			if f.Text == "" || f.Wanted == "" {
				t.Errorf("%q: the fault %+v does not say what was found and what was wanted", c.bad, f)
			}
			if (f.Status == 431 || f.Status == 414) && (f.Limit <= 0 || f.Seen <= f.Limit) {
				t.Errorf("%q: limit %d, seen %d", c.bad, f.Limit, f.Seen)
			}
			if c.fine == "" {
				return
			}
			if _, f := ParseRequest([]byte(c.fine), lim); f != nil {
				t.Errorf("%q was refused: %v", c.fine, f)
			}
		})
	}
}

// TestRequest looks at everything that the parser concludes.
func TestRequest(t *testing.T) {
	type want struct {
		Method, Path, Query string
		HasQuery            bool
		Host, Port, Scheme  string
		Proto               uint8
		Length              int64
		Upgrade             string
		Expect, KeepAlive   bool
		Fields              string // "Name=value" joined by |
	}
	for _, c := range []struct {
		name string
		head string
		lim  *Limits
		want want
	}{
		{name: "plain", head: lines("GET /a?b=c HTTP/1.1", "Host: a.test"),
			want: want{Method: "GET", Path: "/a", Query: "b=c", HasQuery: true, Host: "a.test", Proto: 11, KeepAlive: true, Fields: "Host=a.test"}},
		{name: "an empty query", head: lines("GET /a? HTTP/1.1", "Host: a"),
			want: want{Method: "GET", Path: "/a", HasQuery: true, Host: "a", Proto: 11, KeepAlive: true, Fields: "Host=a"}},
		{name: "a query with questions", head: lines("GET /a?b?c HTTP/1.1", "Host: a"),
			want: want{Method: "GET", Path: "/a", Query: "b?c", HasQuery: true, Host: "a", Proto: 11, KeepAlive: true, Fields: "Host=a"}},
		{name: "a query above 0x7F", head: lines("GET /?q=é HTTP/1.1", "Host: a"),
			want: want{Method: "GET", Path: "/", Query: "q=%C3%A9", HasQuery: true, Host: "a", Proto: 11, KeepAlive: true, Fields: "Host=a"}},
		{name: "case and port and dot", head: lines("GET / HTTP/1.1", "hOST:\t A.Test.:8080 \t"),
			want: want{Method: "GET", Path: "/", Host: "a.test", Port: "8080", Proto: 11, KeepAlive: true, Fields: "hOST=A.Test.:8080"}},
		{name: "IPv6", head: lines("GET / HTTP/1.1", "Host: [2001:DB8::1]:443"),
			want: want{Method: "GET", Path: "/", Host: "[2001:db8::1]", Port: "443", Proto: 11, KeepAlive: true, Fields: "Host=[2001:DB8::1]:443"}},
		{name: "an empty port", head: lines("GET / HTTP/1.1", "Host: a:"),
			want: want{Method: "GET", Path: "/", Host: "a", Proto: 11, KeepAlive: true, Fields: "Host=a:"}},
		{name: "underscore in a host", head: lines("GET / HTTP/1.1", "Host: my_service"),
			want: want{Method: "GET", Path: "/", Host: "my_service", Proto: 11, KeepAlive: true, Fields: "Host=my_service"}},
		{name: "absolute form", head: lines("GET HTTP://A:80/b?c HTTP/1.1", "Host: a:80"),
			want: want{Method: "GET", Path: "/b", Query: "c", HasQuery: true, Host: "a", Port: "80", Scheme: "http", Proto: 11, KeepAlive: true, Fields: "Host=a:80"}},
		{name: "absolute form without a path", head: lines("GET https://a HTTP/1.1", "Host: a"),
			want: want{Method: "GET", Path: "/", Host: "a", Scheme: "https", Proto: 11, KeepAlive: true, Fields: "Host=a"}},
		{name: "absolute form, query only", head: lines("GET http://a?b HTTP/1.1", "Host: a"),
			want: want{Method: "GET", Path: "/", Query: "b", HasQuery: true, Host: "a", Scheme: "http", Proto: 11, KeepAlive: true, Fields: "Host=a"}},
		{name: "absolute form in 1.0", head: lines("GET http://a/ HTTP/1.0"),
			want: want{Method: "GET", Path: "/", Host: "a", Scheme: "http", Proto: 10}},
		{name: "OPTIONS *", head: lines("OPTIONS * HTTP/1.1", "Host: a"),
			want: want{Method: "OPTIONS", Path: "*", Host: "a", Proto: 11, KeepAlive: true, Fields: "Host=a"}},
		{name: "OPTIONS of a server in absolute form", head: lines("OPTIONS http://a:1 HTTP/1.1", "Host: a:1"),
			want: want{Method: "OPTIONS", Path: "*", Host: "a", Port: "1", Scheme: "http", Proto: 11, KeepAlive: true, Fields: "Host=a:1"}},
		{name: "1.0", head: lines("GET / HTTP/1.0"), want: want{Method: "GET", Path: "/", Proto: 10}},
		{name: "1.0 keep-alive", head: lines("GET / HTTP/1.0", "Connection: Keep-Alive"),
			want: want{Method: "GET", Path: "/", Proto: 10, KeepAlive: true, Fields: "Connection=Keep-Alive"}},
		{name: "1.0 keep-alive and close", head: lines("GET / HTTP/1.0", "Connection: keep-alive", "Connection: x, close"),
			want: want{Method: "GET", Path: "/", Proto: 10, Fields: "Connection=keep-alive|Connection=x, close"}},
		{name: "close", head: lines("GET / HTTP/1.1", "Host: a", "Connection: foo,CLOSE ,bar"),
			want: want{Method: "GET", Path: "/", Host: "a", Proto: 11, Fields: "Host=a|Connection=foo,CLOSE ,bar"}},
		{name: "closed is not close", head: lines("GET / HTTP/1.1", "Host: a", "Connection: closed"),
			want: want{Method: "GET", Path: "/", Host: "a", Proto: 11, KeepAlive: true, Fields: "Host=a|Connection=closed"}},
		{name: "length", head: lines("POST / HTTP/1.1", "Host: a", "Content-Length: 0012"),
			want: want{Method: "POST", Path: "/", Host: "a", Proto: 11, KeepAlive: true, Length: 12, Fields: "Host=a|Content-Length=0012"}},
		{name: "a length of 18 digits", head: lines("PUT / HTTP/1.1", "Host: a", "Content-Length: 999999999999999999"),
			want: want{Method: "PUT", Path: "/", Host: "a", Proto: 11, KeepAlive: true, Length: 999999999999999999, Fields: "Host=a|Content-Length=999999999999999999"}},
		{name: "chunked", head: lines("GET / HTTP/1.1", "Host: a", "transfer-encoding: CHUNKED"),
			want: want{Method: "GET", Path: "/", Host: "a", Proto: 11, KeepAlive: true, Length: -1, Fields: "Host=a|transfer-encoding=CHUNKED"}},
		{name: "expect", head: lines("POST / HTTP/1.1", "Host: a", "Expect: 100-continue", "Content-Length: 1"),
			want: want{Method: "POST", Path: "/", Host: "a", Proto: 11, KeepAlive: true, Length: 1, Expect: true, Fields: "Host=a|Expect=100-continue|Content-Length=1"}},
		{name: "expect in 1.0 means nothing", head: lines("POST / HTTP/1.0", "Expect: 100-continue", "Content-Length: 1"),
			want: want{Method: "POST", Path: "/", Proto: 10, Length: 1, Fields: "Expect=100-continue|Content-Length=1"}},
		{name: "upgrade", head: lines("GET / HTTP/1.1", "Host: a", "Connection: keep-alive, Upgrade", "Upgrade: websocket"),
			want: want{Method: "GET", Path: "/", Host: "a", Proto: 11, KeepAlive: true, Upgrade: "websocket", Fields: "Host=a|Connection=keep-alive, Upgrade|Upgrade=websocket"}},
		{name: "upgrade without Connection", head: lines("GET / HTTP/1.1", "Host: a", "Upgrade: websocket"),
			want: want{Method: "GET", Path: "/", Host: "a", Proto: 11, KeepAlive: true, Fields: "Host=a|Upgrade=websocket"}},
		{name: "upgrade in 1.0", head: lines("GET / HTTP/1.0", "Connection: Upgrade", "Upgrade: websocket"),
			want: want{Method: "GET", Path: "/", Proto: 10, Fields: "Connection=Upgrade|Upgrade=websocket"}},
		{name: "no tunnel to another HTTP", head: lines("GET / HTTP/1.1", "Host: a", "Connection: Upgrade, HTTP2-Settings", "Upgrade: websocket, H2C"),
			want: want{Method: "GET", Path: "/", Host: "a", Proto: 11, KeepAlive: true, Fields: "Host=a|Connection=Upgrade, HTTP2-Settings|Upgrade=websocket, H2C"}},
		{name: "no tunnel to HTTP/2.0", head: lines("GET / HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: HTTP/2.0"),
			want: want{Method: "GET", Path: "/", Host: "a", Proto: 11, KeepAlive: true, Fields: "Host=a|Connection=Upgrade|Upgrade=HTTP/2.0"}},
		{name: "underscores allowed", lim: with(testLimits, allow), head: lines("GET / HTTP/1.1", "Host: a", "X_Y: 1"),
			want: want{Method: "GET", Path: "/", Host: "a", Proto: 11, KeepAlive: true, Fields: "Host=a|X_Y=1"}},
		{name: "underscores dropped", lim: with(testLimits, drop), head: lines("GET / HTTP/1.1", "Content_Length: 5", "Host: a", "Transfer_Encoding: chunked"),
			want: want{Method: "GET", Path: "/", Host: "a", Proto: 11, KeepAlive: true, Fields: "Host=a"}},
		{name: "order, repetition and empty values", head: lines("GET / HTTP/1.1", "b: 1", "Host: a", "A:", "b:2", "B:  "),
			want: want{Method: "GET", Path: "/", Host: "a", Proto: 11, KeepAlive: true, Fields: "b=1|Host=a|A=|b=2|B="}},
		{name: "values keep their inside", head: lines("GET / HTTP/1.1", "Host: a", "X:  a \t b : c \t"),
			want: want{Method: "GET", Path: "/", Host: "a", Proto: 11, KeepAlive: true, Fields: "Host=a|X=a \t b : c"}},
		{name: "a method of one's own", head: lines("x!#$%&'*+-.^_`|~9 / HTTP/1.1", "Host: a"),
			want: want{Method: "x!#$%&'*+-.^_`|~9", Path: "/", Host: "a", Proto: 11, KeepAlive: true, Fields: "Host=a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			lim := c.lim
			if lim == nil {
				lim = &testLimits
			}
			r, f := ParseRequest([]byte(c.head), lim)
			if f != nil {
				t.Fatal(f)
			}
			var fields []string
			for _, f := range r.Fields {
				fields = append(fields, f.Name+"="+f.Value)
				if f.ID != FieldIDOf(f.Name) {
					t.Errorf("the id of %s is %d", f.Name, f.ID)
				}
			}
			got := want{r.Method, r.Path, r.Query, r.HasQuery, r.Host, r.Port, r.AbsoluteScheme, r.Proto, r.Length, r.Upgrade, r.Expect100, r.KeepAlive, strings.Join(fields, "|")}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("%q (-want +got):\n%s", c.head, d)
			}
		})
	}
}

// TestFaultsQuoteLittle: a fault is shown to people and kept in records, so that it holds an
// excerpt of what was sent and not all of it.
func TestFaultsQuoteLittle(t *testing.T) {
	long := strings.Repeat("\x01", 20000)
	for _, head := range []string{
		lines(long), lines("GET "+long+" HTTP/1.1", "Host: a"), lines("GET / HTTP/1.1", "Host: "+strings.Repeat("!", 20000)),
		lines("GET / HTTP/1.1", "Host: a", strings.Repeat("x", 20000)), lines("GET / HTTP/1.1", "Host: a", strings.Repeat("x", 20000)+"\x01: y"),
		lines("GET /%"+strings.Repeat("x", 5000)+" HTTP/1.1", "Host: a"), lines("GET / HTTP/1.1", "Host: a", "Content-Length: "+strings.Repeat("1", 20000)),
		strings.Repeat("x", 20000) + "\n",
	} {
		_, f := ParseRequest([]byte(head), &testLimits)
		if f == nil {
			t.Fatalf("%.60q was accepted", head)
		}
		if len(f.Text) > 600 {
			t.Errorf("%.60q: a text of %d bytes", head, len(f.Text))
		}
	}
}

// TestFaultsQuoteNoSecrets: what frames a message wrongly has values, queries and content stand where a name or a
// number was due, and faults are recorded.
func TestFaultsQuoteNoSecrets(t *testing.T) {
	for _, head := range []string{
		"GET /?key=s3cret HTTP/1.1\nHost: a\n\n",
		"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer s3cret\n\r\n",
		lines("GET / HTTP/1.1", "Host: a", "Cookie: a=b;", " session=s3cret"),
		lines("GET / HTTP/1.1", "Host: a", "Authorization Bearer s3cret"),
		lines("GET / HTTP/1.1", "Host: a", "s3cret"),
		lines("GET / HTTP/1.1", "Host: a", ": s3cret"),
		lines("GET / HTTP/1.1", "Host: a", "Cookie session=s3cret; at=10:20"),
		lines("GET / HTTP/1.1", "Host: a", "X-Key: s3cret\x01"),
		lines("GET / HTTP/1.1", "Host: ann:s3cret@a"),
		lines("GET http://ann:s3cret@a/ HTTP/1.1", "Host: a"),
		lines("GET http://b/?key=s3cret HTTP/1.1", "Host: a"),
		lines("GET x?key=s3cret HTTP/1.1", "Host: a"),
		lines("GET ann:s3cret@a:80 HTTP/1.1", "Host: a"),
		lines("GET /..?key=s3cret HTTP/1.1", "Host: a"),
		lines("GET /?key=a s3cret", "Host: a"),
		lines("CONNECT ann:s3cret@a:443 HTTP/1.1", "Host: a"),
		lines(`{"password":"s3cret"}GET / HTTP/1.1`, "Host: a"),
		lines("password=s3cret&user=ann"),
		lines("a=s3cret b"),
	} {
		_, f := ParseRequest([]byte(head), &testLimits)
		if f == nil {
			t.Errorf("%q was accepted", head)
		} else if strings.Contains(f.Text+f.Wanted, "s3cret") {
			t.Errorf("%q: %s", head, f.Text)
		}
	}
	for _, body := range []string{"password=s3cret\r\n", "s3cret\r\n", "1\r\nas3cret\r\n", "1;\x01s3cret\r\n", "0\r\nX-Key s3cret\r\n\r\n", "0\r\ns3cret\r\n\r\n"} {
		if _, _, _, err := decode([]byte(body), byChunks, 0, 4096, 10, 4096, nil, &testLimits); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", body, err)
		}
	}
}

func TestShown(t *testing.T) {
	for target, want := range map[string]string{
		"": "", "*": "*", "/": "/", "/a/b": "/a/b", "/a?b=c": "/a", "/a@b?c": "/a@b", "/a://b:c@d": "/a://b:c@d", "a?b": "a", "a:80": "a:80", "ann:pw@a:80": "a:80",
		"http://a/b?c": "http://a/b", "http://a?b=c@d": "http://", "http://ann:pw@a/b@c?d": "http://a/b@c", "http://ann:p?w@a/": "http://", "http://ann:p@w@a": "http://a",
		"?://a@b": "", "?a@b/": "",
	} {
		if got := Shown(target); got != want {
			t.Errorf("Shown(%q) = %q, want %q", target, got, want)
		}
	}
}
