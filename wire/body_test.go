package wire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// script is a source that gives its bytes in pieces of the sizes in splits, over and over; then the end.
type script struct {
	data   []byte
	splits []byte
	reads  int
}

func (s *script) read(p []byte) (int, error) {
	if len(p) == 0 {
		panic("a read of nothing")
	}
	if len(s.data) == 0 {
		return 0, io.EOF
	}
	n := len(s.data)
	if len(s.splits) > 0 {
		n = min(n, int(s.splits[s.reads%len(s.splits)])+1)
	}
	s.reads++
	n = copy(p, s.data[:n])
	s.data = s.data[n:]
	return n, nil
}

// decode reads a whole body that begins behind a head of head bytes in a buffer of size bytes. The
// first first bytes of data are in the buffer already. It returns the content, what is left
// unread of all that had been sent, and the trailer.
func decode(data []byte, how framing, length int64, size, head, first int, splits []byte, lim *Limits) (content, rest []byte, trailer Fields, err error) {
	buf := make([]byte, size)
	for i := range buf {
		buf[i] = 'H' // the head: whoever writes over it is found out
	}
	first = min(first, len(data), size-head)
	if how == byLength {
		first = min(first, int(length))
	}
	src := &script{data: data[first:], splits: splits}
	w := head + copy(buf[head:], data[:first])
	var b body
	b.begin(feed{src: src, buf: buf, base: head, r: head, w: w}, how, length, lim)
	defer b.release()
	for {
		piece, last, err := b.next()
		content = append(content, piece...)
		if err == nil && b.count != int64(len(content)) {
			panic("the count is wrong")
		}
		if bytes.Count(buf[:head], []byte{'H'}) != head {
			panic("the head was written over")
		}
		if err != nil {
			if _, _, again := b.next(); again != err {
				panic("an error was forgotten")
			}
			return content, nil, nil, err
		}
		if last {
			return content, append(append([]byte(nil), b.buf[b.r:b.w]...), src.data...), append(Fields(nil), b.Trailer...), nil
		}
	}
}

// chunkFaults are chunked bodies that break a rule, and the nearest that does not.
var chunkFaults = []struct {
	name string
	rule Rule
	bad  string
	fine string
	want string // content of fine
}{
	{"not hexadecimal", BadChunkSize, "g\r\nhello\r\n0\r\n\r\n", "a\r\nhellohello\r\n0\r\n\r\n", "hellohello"},
	{"empty", BadChunkSize, "\r\nhello\r\n0\r\n\r\n", "", ""},
	{"signed", BadChunkSize, "+5\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "hello"},
	{"negative", BadChunkSize, "-5\r\nhello\r\n0\r\n\r\n", "", ""},
	{"0x", BadChunkSize, "0x5\r\nhello\r\n0\r\n\r\n", "05\r\nhello\r\n0\r\n\r\n", "hello"},
	{"underscore", BadChunkSize, "5_0\r\nhello\r\n0\r\n\r\n", "", ""},
	{"space before", BadChunkSize, " 5\r\nhello\r\n0\r\n\r\n", "", ""},
	{"space behind", BadChunkSize, "5 \r\nhello\r\n0\r\n\r\n", "5; \r\nhello\r\n0\r\n\r\n", "hello"},
	{"space before an extension", BadChunkSize, "5 ;\r\nhello\r\n0\r\n\r\n", "", ""},
	{"vertical tab behind", BadChunkSize, "5\x0b\r\nhello\r\n0\r\n\r\n", "", ""},
	{"a comma", BadChunkSize, "5,x\r\nhello\r\n0\r\n\r\n", "5;x\r\nhello\r\n0\r\n\r\n", "hello"},
	{"17 digits", BadChunkSize, "00000000000000005\r\nhello\r\n0\r\n\r\n", "0000000000000005\r\nhello\r\n0\r\n\r\n", "hello"},
	{"2^64", BadChunkSize, "10000000000000000\r\n\r\n", "", ""},
	{"2^63", BadChunkSize, "8000000000000000\r\n\r\n", "", ""},
	{"2^64-1", BadChunkSize, "ffffffffffffffff\r\n\r\n", "", ""},
	{"2^61", BadChunkSize, "2000000000000000\r\n\r\n", "", ""},
	{"2^32+5", BadChunkEnd, "5\r\nhello\r\n0000000000000001\r\nxy\r\n0\r\n\r\n", "5\r\nhello\r\n0000000000000001\r\nx\r\n0\r\n\r\n", "hellox"},
	{"a line without end", BadChunkSize, strings.Repeat("0", 600), "", ""},
	{"an extension too long", BadChunkSize, "5;" + strings.Repeat("x", maxChunkLine-1) + "\r\nhello\r\n0\r\n\r\n", "5;" + strings.Repeat("x", maxChunkLine-2) + "\r\nhello\r\n0\r\n\r\n", "hello"},
	{"CR in an extension", BadChunkExtension, "5;a\rb\r\nhello\r\n0\r\n\r\n", "5;a=b;c=\"d\"\r\nhello\r\n0;last\r\n\r\n", "hello"},
	{"extensions without end", BadChunkExtension, strings.Repeat("1;"+strings.Repeat("x", 500)+"\r\ny\r\n", 40) + "0\r\n\r\n", strings.Repeat("1;"+strings.Repeat("x", 500)+"\r\ny\r\n", 30) + "0\r\n\r\n", strings.Repeat("y", 30)},
	{"NUL in an extension", BadChunkExtension, "5;\x00\r\nhello\r\n0\r\n\r\n", "", ""},
	{"LF behind the size", BareLF, "5\nhello\r\n0\r\n\r\n", "", ""},
	{"LF in an extension", BareLF, "5;a\nhello\r\n0\r\n\r\n", "", ""},
	{"LF behind the data", BareLF, "5\r\nhello\n0\r\n\r\n", "", ""},
	{"LF at the end", BareLF, "5\r\nhello\r\n0\r\n\n", "", ""},
	{"LF in the trailer", BareLF, "0\r\nX: y\n\r\n", "", ""},
	{"longer than said", BadChunkEnd, "5\r\nhello!\r\n0\r\n\r\n", "6\r\nhello!\r\n0\r\n\r\n", "hello!"},
	{"shorter than said", BadChunkEnd, "7\r\nhello\r\n0\r\n\r\n", "", ""},
	{"no CRLF behind the data", BadChunkEnd, "5\r\nhello0\r\n\r\n", "", ""},
	{"data without end", BadChunkEnd, "1\r\nx" + strings.Repeat("x", 600), "", ""},
	{"no colon", BadTrailer, "0\r\nX\r\n\r\n", "0\r\nX: y\r\n\r\n", ""},
	{"a fold", BadTrailer, "0\r\nX: y\r\n z\r\n\r\n", "", ""},
	{"space before the colon", BadTrailer, "0\r\nX : y\r\n\r\n", "", ""},
	{"NUL", BadTrailer, "0\r\nX: \x00\r\n\r\n", "", ""},
	{"underscore", BadTrailer, "0\r\nX_Y: z\r\n\r\n", "", ""},
	{"length", ForbiddenTrailer, "0\r\nContent-Length: 5\r\n\r\n", "0\r\nX-Content-Length: 5\r\n\r\n", ""},
	{"coding", ForbiddenTrailer, "0\r\ntransfer-encoding: chunked\r\n\r\n", "", ""},
	{"host", ForbiddenTrailer, "0\r\nHost: b\r\n\r\n", "", ""},
	{"identity", ForbiddenTrailer, "0\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n", "", ""},
	{"authorization", ForbiddenTrailer, "0\r\nAuthorization: x\r\n\r\n", "", ""},
	{"a line too long", TrailersTooLarge, "0\r\nX: " + strings.Repeat("y", 17<<10) + "\r\n\r\n", "0\r\nX: " + strings.Repeat("y", 15<<10) + "\r\n\r\n", ""},
	{"too many bytes", TrailersTooLarge, "0\r\n" + strings.Repeat("X: "+strings.Repeat("y", 995)+"\r\n", 17) + "\r\n", "0\r\n" + strings.Repeat("X: "+strings.Repeat("y", 995)+"\r\n", 16) + "\r\n", ""},
	{"too many fields", TrailersTooLarge, "0\r\n" + strings.Repeat("X: y\r\n", 101) + "\r\n", "0\r\n" + strings.Repeat("X: y\r\n", 100) + "\r\n", ""},
}

// arrivals are ways in which a body can come: so much of it with the head, then pieces.
var arrivals = []struct {
	name              string
	size, head, first int
	splits            []byte
}{
	{"at once", smallBuffer, 100, 1 << 20, nil},
	{"behind the head", smallBuffer, 100, 0, nil},
	{"byte by byte", smallBuffer, 100, 0, []byte{0}},
	{"no room behind the head", 256, 256, 0, []byte{6, 2, 0}},
	{"little room behind the head", 256, 250, 3, []byte{200}},
}

func TestChunkFaults(t *testing.T) {
	for _, c := range chunkFaults {
		t.Run(string(c.rule)+"/"+c.name, func(t *testing.T) {
			for _, a := range arrivals {
				content, rest, _, err := decode([]byte(c.bad), byChunks, 0, a.size, a.head, a.first, a.splits, &testLimits)
				var f *Fault
				if !errors.As(err, &f) {
					t.Fatalf("%s: %.100q was accepted: content %q, rest %q, error %v", a.name, c.bad, content, rest, err)
				}
				if f.Rule != c.rule || f.Text == "" || f.Wanted == "" || len(f.Text) > 300 {
					t.Errorf("%s: %.100q: %v; want %s", a.name, c.bad, f, c.rule)
				}
				if c.fine == "" {
					continue
				}
				const next = "GET /next"
				content, rest, _, err = decode([]byte(c.fine+next), byChunks, 0, a.size, a.head, a.first, a.splits, &testLimits)
				if err != nil || string(content) != c.want || string(rest) != next {
					t.Errorf("%s: %.100q: content %q, rest %q, error %v", a.name, c.fine, content, rest, err)
				}
			}
		})
	}
}

func TestChunkedTrailer(t *testing.T) {
	lim := testLimits
	lim.Underscores = UnderscoreDrop
	for _, a := range arrivals {
		_, _, trailer, err := decode([]byte("3;x\r\nabc\r\n0\r\nGrpc-Status: 0\r\nX_Y: gone\r\nx-Sum:  1\t\r\n\r\n"), byChunks, 0, a.size, a.head, a.first, a.splits, &lim)
		if err != nil {
			t.Fatal(err)
		}
		want := Fields{{"Grpc-Status", "0", GRPCStatus}, {"x-Sum", "1", OtherField}}
		if d := cmp.Diff(want, trailer); d != "" {
			t.Errorf("%s: (-want +got)\n%s", a.name, d)
		}
	}
}

// TestBodiesCutShort: a body that ends before its end is never taken for whole.
func TestBodiesCutShort(t *testing.T) {
	const chunked = "5;x=y\r\nhello\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n"
	for i := range len(chunked) {
		for _, a := range arrivals {
			if content, _, _, err := decode([]byte(chunked[:i]), byChunks, 0, a.size, a.head, a.first, a.splits, &testLimits); err != io.ErrUnexpectedEOF {
				t.Errorf("%s: %q: content %q, error %v", a.name, chunked[:i], content, err)
			}
		}
	}
	for i := range 20 {
		for _, a := range arrivals {
			if content, _, _, err := decode(make([]byte, i), byLength, 20, a.size, a.head, a.first, a.splits, &testLimits); err != io.ErrUnexpectedEOF {
				t.Errorf("%s: %d of 20 bytes: content %q, error %v", a.name, i, content, err)
			}
		}
	}
}

// TestBodies carries bodies of many sizes through buffers, in all ways to arrive.
func TestBodies(t *testing.T) {
	for _, size := range []int{0, 1, 2, 5, 155, 156, 157, 3995, 3996, 3997, 4095, 4096, 4097, 32 << 10, 100_000} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(i * 7 >> 3)
		}
		var chunked []byte
		for rest, n := data, 1; len(rest) > 0; n = n*3 + 1 {
			n = min(n, len(rest))
			chunked = append(chunked, strings.ToUpper(hex(n))+"\r\n"...)
			chunked = append(append(chunked, rest[:n]...), "\r\n"...)
			rest = rest[n:]
		}
		chunked = append(chunked, "0\r\n\r\n"...)
		for _, a := range arrivals {
			if content, rest, _, err := decode(append(append([]byte(nil), data...), "GET /next"...), byLength, int64(size), a.size, a.head, a.first, a.splits, &testLimits); err != nil || !bytes.Equal(content, data) || string(rest) != "GET /next" {
				t.Errorf("%s: %d bytes by length: got %d, rest %q, error %v", a.name, size, len(content), rest, err)
			}
			if content, _, _, err := decode(data, byClose, -1, a.size, a.head, a.first, a.splits, &testLimits); err != nil || !bytes.Equal(content, data) {
				t.Errorf("%s: %d bytes until close: got %d, error %v", a.name, size, len(content), err)
			}
			if content, rest, _, err := decode(append(append([]byte(nil), chunked...), "GET /next"...), byChunks, 0, a.size, a.head, a.first, a.splits, &testLimits); err != nil || !bytes.Equal(content, data) || string(rest) != "GET /next" {
				t.Errorf("%s: %d bytes in chunks: got %d, rest %q, error %v", a.name, size, len(content), rest, err)
			}
		}
	}
}

func hex(n int) string {
	const digits = "0123456789abcdef"
	if n < 16 {
		return digits[n : n+1]
	}
	return hex(n/16) + digits[n%16:n%16+1]
}
