package wire

import (
	"bytes"
	"strconv"
)

// Response is the head of an upstream's answer. Its strings hold until the connection
// is released or reads its next head.
type Response struct {
	Status int
	Phrase string
	Proto  uint8
	Fields Fields
	// Length of the content: 0 for none, -1 when only its end will tell. For HEAD and 304
	// it is what the upstream promised, -1 without.
	Length int64
	// Upgrade is the protocol of a 101 answer.
	Upgrade string

	framing   framing
	keepAlive bool
}

// parse reads a whole answer head, empty line included. method is that of the request.
func (r *Response) parse(b []byte, method string, lim *Limits) *Fault {
	*r = Response{Fields: r.Fields[:0]}
	i := bytes.IndexByte(b, '\n')
	line := view(b[:i-1])
	// HTTP/1.1 200 OK
	if len(line) < 12 || line[:7] != "HTTP/1." || line[8] != ' ' || (line[7] != '0' && line[7] != '1') || len(line) > 12 && line[12] != ' ' {
		return fault(BadStatusLine, "HTTP/1.1 and a status", "the status line %s", excerpt(line, 80))
	}
	r.Proto = 10 + line[7] - '0'
	n, err := strconv.ParseUint(line[9:12], 10, 16)
	if err != nil || n < 100 || n > 599 {
		return fault(BadStatusLine, "a status from 100 to 599", "the status line %s", excerpt(line, 80))
	}
	r.Status = int(n)
	if len(line) > 13 {
		r.Phrase = line[13:]
		if !all(r.Phrase, valueByte) {
			return fault(BadStatusLine, "a phrase without control bytes", "the status line %s", excerpt(line, 80))
		}
	}
	if f := parseFields(b[i+1:], &r.Fields, lim); f != nil {
		return f
	}
	return r.examine(method)
}

// notHTTP looks at the first bytes of an answer, before the whole head is there: a server of another protocol
// may well wait for more and never end its line.
func notHTTP(b []byte) *Fault {
	const begin = "HTTP/1."
	if n := min(len(b), len(begin)); string(b[:n]) == begin[:n] {
		return nil
	}
	switch {
	case len(b) >= 2 && (b[0] == 0x15 || b[0] == 0x16) && b[1] == 3: // an alert or a handshake, RFC 8446 §5.1
		return fault(NotHTTP, "https:// in the url of the target", "the answer is in TLS")
	case len(b) >= 9 && b[0] == 0 && b[1] == 0 && b[3] == 4 && string(b[5:9]) == "\x00\x00\x00\x00": // SETTINGS, RFC 9113 §6.5
		return fault(NotHTTP, "protocol: h2 in the Upstream", "the answer is in HTTP/2")
	}
	return fault(NotHTTP, "an HTTP server at this port", "the answer begins with %s", excerpt(string(b), 40))
}

// examine settles how the content ends (RFC 9112 §6.3).
func (r *Response) examine(method string) *Fault {
	length := int64(-1)
	var coding, close, alive, upgrade bool
	for i := range r.Fields {
		f := &r.Fields[i]
		switch f.ID {
		case ContentLength:
			n, ok := parseLength(f.Value)
			if !ok {
				return badLength(f.Value)
			}
			if length >= 0 {
				return fault(RepeatedLength, "one Content-Length", "a second Content-Length: %s", excerpt(f.Value, 40))
			}
			length = n
		case TransferEncoding:
			if coding || !equalFold(f.Value, "chunked") {
				return fault(UnknownCoding, "chunked, once", "Transfer-Encoding: %s", excerpt(f.Value, 40))
			}
			coding = true
		case Connection:
			close = close || HasToken(f.Value, "close")
			alive = alive || HasToken(f.Value, "keep-alive")
			upgrade = upgrade || HasToken(f.Value, "upgrade")
		case TrailerField:
			if f := announced(f.Value); f != nil {
				return f
			}
		case Upgrade:
			if isTunnel(f.Value) {
				r.Upgrade = f.Value
			}
		}
	}
	if coding && length >= 0 {
		return fault(LengthAndCoding, "either Content-Length or Transfer-Encoding", "both Content-Length: %d and Transfer-Encoding: chunked", length)
	}
	if coding && r.Proto == 10 {
		return fault(CodingIn10, "Content-Length", "Transfer-Encoding in an HTTP/1.0 answer")
	}
	if r.Status != 101 || !upgrade {
		r.Upgrade = ""
	}
	r.keepAlive = !close && (r.Proto == 11 || alive)
	switch {
	case r.Status < 200 || r.Status == 204:
		r.framing, r.Length = noBody, 0
	case method == "HEAD" || r.Status == 304:
		r.framing, r.Length = noBody, length
	case coding:
		r.framing, r.Length = byChunks, -1
	case length >= 0:
		r.framing, r.Length = byLength, length
	default:
		r.framing, r.Length = byClose, -1
		r.keepAlive = false
	}
	return nil
}
