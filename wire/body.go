package wire

import (
	"bytes"
	"errors"
	"io"
)

// source is where a feed gets its bytes: a connection that minds its deadlines.
type source interface {
	read(p []byte) (int, error)
}

// feed is buffered input. buf[r:w] has been read from the source and not been
// used yet; what lies before base belongs to somebody else (the message head).
type feed struct {
	src  source
	buf  []byte
	base int
	r, w int
	own  bool // buf was taken from a pool for this feed alone
}

var errFull = errors.New("buffer is full")

// fill reads more, at most max bytes, after making room.
func (f *feed) fill(max int64) error {
	if f.r == f.w {
		f.r, f.w = f.base, f.base
	} else if f.w == len(f.buf) {
		if f.r == f.base {
			return errFull
		}
		f.w = f.base + copy(f.buf[f.base:], f.buf[f.r:f.w])
		f.r = f.base
	}
	p := f.buf[f.w:]
	if int64(len(p)) > max {
		p = p[:max]
	}
	n, err := f.src.read(p)
	f.w += n
	if n > 0 {
		return nil
	}
	return err
}

// enlarge moves to a large buffer of its own, so that a long body is not
// carried in the few bytes behind a message head.
func (f *feed) enlarge() {
	if f.own {
		return
	}
	b := take(largeBuffer)
	f.w = copy(b, f.buf[f.r:f.w])
	f.buf, f.base, f.r, f.own = b, 0, 0, true
}

func (f *feed) release() {
	if f.own {
		give(f.buf)
	}
	*f = feed{}
}

// framing is how the end of a body is known (RFC 9112 §6.3).
type framing uint8

const (
	noBody framing = iota
	byLength
	byChunks
	byClose
)

const (
	maxChunkLine = 512      // size and extensions; longer ones are an attack on memory
	maxChunk     = 1 << 60  // of one chunk
	maxExcess    = 16 << 10 // of framing that carries nothing
	anyAmount    = 1 << 62  // for fill: as much as there is room
	pieceRoom    = 16 << 10 // for a trailer section
)

// body decodes one message body.
type body struct {
	feed
	framing framing
	left    int64 // of the length, or of the current chunk
	inChunk bool  // data of the current chunk has not all been read
	crlf    bool  // the CRLF after the chunk's data is due
	done    bool
	count   int64 // bytes of content so far
	failed  error // what ended it early: where the next message begins is not known any more
	excess  int64 // bytes of framing beyond what content of its size needs
	lim     *Limits
	Trailer Fields
}

func (b *body) begin(f feed, how framing, length int64, lim *Limits) {
	*b = body{feed: f, framing: how, left: length, lim: lim, Trailer: b.Trailer[:0]}
	b.done = how == noBody || how == byLength && length == 0
}

// next returns the next piece of content, which holds until the following call,
// and whether it was the last. A last piece may be empty.
func (b *body) next() (piece []byte, last bool, err error) {
	if b.done || b.failed != nil {
		return nil, b.done, b.failed
	}
	switch b.framing {
	case byLength:
		piece, err = b.nextOfLength()
	case byChunks:
		piece, err = b.nextChunk()
	default:
		piece, err = b.nextUntilClose()
	}
	b.count += int64(len(piece))
	b.failed = err
	return piece, b.done, err
}

func (b *body) nextOfLength() ([]byte, error) {
	if b.r == b.w {
		if b.left > int64(len(b.buf)-b.base) {
			b.enlarge()
		}
		if err := b.fill(b.left); err != nil {
			return nil, cutShort(err)
		}
	}
	n := min(int64(b.w-b.r), b.left)
	piece := b.buf[b.r : b.r+int(n)]
	b.r += int(n)
	b.left -= n
	b.done = b.left == 0
	return piece, nil
}

func (b *body) nextUntilClose() ([]byte, error) {
	if b.r == b.w {
		b.enlarge()
		if err := b.fill(anyAmount); err == io.EOF {
			b.done = true
			return nil, nil
		} else if err != nil {
			return nil, err
		}
	}
	piece := b.buf[b.r:b.w]
	b.r = b.w
	return piece, nil
}

// nextChunk returns data of the current chunk. When the end of the body is already in
// the buffer behind it, the piece is the last one and no further call is needed.
func (b *body) nextChunk() ([]byte, error) {
	for {
		if b.inChunk {
			if b.r == b.w {
				if b.left > int64(len(b.buf)-b.base) {
					b.enlarge()
				}
				if err := b.fill(anyAmount); err != nil {
					return nil, cutShort(err)
				}
			}
			n := min(int64(b.w-b.r), b.left)
			piece := b.buf[b.r : b.r+int(n)]
			b.r += int(n)
			if b.left -= n; b.left == 0 {
				b.inChunk, b.crlf = false, true
				b.peekEnd()
			}
			return piece, nil
		}
		if err := b.chunkLine(); err != nil || b.done {
			return nil, err
		}
	}
}

// peekEnd finishes the body if its usual end is in the buffer already. It never reads
// and never moves what the caller still holds.
func (b *body) peekEnd() {
	const end = "\r\n0\r\n\r\n"
	if rest := b.buf[b.r:b.w]; len(rest) >= len(end) && string(rest[:len(end)]) == end {
		b.r += len(end)
		b.crlf, b.done = false, true
	}
}

// line returns the next line without its CRLF, reading as needed. What it accepts does not depend
// on how the bytes happen to arrive.
func (b *body) line(max int, rule Rule) ([]byte, error) {
	for scanned := b.r; ; {
		have := min(b.w-b.r, max+2) // with CRLF
		if i := bytes.IndexByte(b.buf[scanned:b.r+have], '\n'); i >= 0 {
			i += scanned
			if i == b.r || b.buf[i-1] != '\r' {
				return nil, fault(BareLF, "lines that end in CRLF", "a line of the chunked body ends in LF alone")
			}
			line := b.buf[b.r : i-1]
			b.r = i + 1
			return line, nil
		}
		if have == max+2 {
			return nil, fault(rule, "a shorter line", "a line of more than %d bytes in the chunked body", max)
		}
		if len(b.buf)-b.base < max+2 {
			b.enlarge()
		}
		if err := b.fill(anyAmount); err != nil {
			return nil, cutShort(err)
		}
		scanned = b.r + have
	}
}

func (b *body) chunkLine() error {
	if b.crlf {
		line, err := b.line(maxChunkLine, BadChunkEnd)
		if err != nil {
			return err
		}
		if len(line) != 0 {
			return fault(BadChunkEnd, "CRLF after the data of a chunk", "a line of %d bytes right after the data of a chunk", len(line))
		}
		b.crlf = false
	}
	line, err := b.line(maxChunkLine, BadChunkSize)
	if err != nil {
		return err
	}
	n := 0
	var size int64
	for ; n < len(line) && is(line[n], hexByte); n++ {
		if size > maxChunk>>4 { // before the shift: what overflows could pass for 0, the end of the body
			return fault(BadChunkSize, "a smaller chunk", "a chunk of 2^60 bytes or more")
		}
		size = size<<4 | int64(unhex[line[n]])
	}
	if n == 0 || n > 16 {
		return badChunkSize(line, n)
	}
	ext := line[n:]
	if len(ext) > 0 && ext[0] != ';' { // nor white space, which RFC 9112 §7.1.1 calls bad
		return badChunkSize(line, n)
	}
	for _, c := range ext {
		if !is(c, valueByte) {
			return fault(BadChunkExtension, "text without control bytes", "byte 0x%02X in a chunk extension", c)
		}
	}
	// Tiny chunks are fine for as long as they last, with long extensions they are an attack.
	b.excess = max(0, b.excess+int64(len(line))-14-2*size)
	if b.excess > maxExcess {
		return fault(BadChunkExtension, "more content than framing", "%d bytes of chunk extensions and little content", b.excess)
	}
	if size > 0 {
		b.left, b.inChunk = size, true
		return nil
	}
	return b.trailer()
}

// badChunkSize tells of a line whose first n bytes are hexadecimal digits. Others are content, where a chunk was longer than
// it said.
func badChunkSize(line []byte, n int) *Fault {
	const wanted = "a hexadecimal number of at most 16 digits"
	switch {
	case n > 16:
		return fault(BadChunkSize, wanted, "a chunk size of %d digits", n)
	case n < len(line):
		return fault(BadChunkSize, wanted, "byte 0x%02X at position %d of a chunk size", line[n], n)
	}
	return fault(BadChunkSize, wanted, "an empty line where the size of a chunk was due")
}

// neverTrailer are fields that must not come after the body, since they steer framing,
// routing or authentication (RFC 9110 §6.5.1).
func neverTrailer(id FieldID) bool {
	switch id {
	case ContentLength, TransferEncoding, Host, Connection, Upgrade, TE, TrailerField, Expect,
		Authorization, Cookie, SetCookie, Forwarded, XForwardedFor, XForwardedHost, XForwardedProto,
		XForwardedPort, XForwardedPrefix, XRealIP, ProxyAuthorization, ContentType, Location, WWWAuthenticate:
		return true
	}
	return false
}

func (b *body) trailer() error {
	b.Trailer = b.Trailer[:0]
	limit := min(b.lim.HeaderBytes, pieceRoom)
	for total := 0; ; {
		line, err := b.line(limit, TrailersTooLarge)
		if err != nil {
			return err
		}
		if len(line) == 0 {
			b.done = true
			return nil
		}
		if total += len(line) + 2; total > limit || len(b.Trailer) == b.lim.HeaderCount {
			return tooLarge(TrailersTooLarge, 431, int64(limit), int64(total), "smaller trailers", "trailers of more than %d bytes or %d fields", limit, b.lim.HeaderCount)
		}
		name, value, f := splitField(string(line), b.lim) // a copy: lines move when the buffer is filled
		if f != nil {
			f.Rule, f.Text = BadTrailer, string(f.Rule)+": "+f.Text
			return f
		}
		id := FieldIDOf(name)
		if neverTrailer(id) {
			return fault(ForbiddenTrailer, "that field before the body", "%s in the trailer", name)
		}
		if name != "" {
			b.Trailer = append(b.Trailer, Field{Name: name, Value: value, ID: id})
		}
	}
}

// ready says that next will not have to wait for more than the end of a trailer. Between two
// chunks that takes more than a byte in the buffer: their line ends come with the chunk before.
func (b *body) ready() bool {
	if b.done || b.failed != nil || b.framing != byChunks || b.inChunk {
		return b.done || b.failed != nil || b.r < b.w
	}
	rest := b.buf[b.r:b.w]
	if b.crlf {
		rest = rest[min(2, len(rest)):]
	}
	i := bytes.IndexByte(rest, '\n')
	return i >= 0 && (i+1 < len(rest) || !is(rest[0], hexByte))
}

// cutShort turns the end of a connection into the error that it is within a body.
func cutShort(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
