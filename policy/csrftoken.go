package policy

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"hash"
	"io"
	"iter"
	"mime"
	"mime/multipart"
	"net/url"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// A token is 48 bytes in base64url: when it was made (8 bytes, seconds), chance (8 bytes), a MAC of those two
// (16 bytes), and a MAC of those two and what it is bound to (16 bytes). The first MAC tells a forged token from
// one of another session.
const (
	csrfHead        = 16
	csrfMAC         = 16
	csrfBytes       = csrfHead + 2*csrfMAC
	csrfTokenLength = csrfBytes / 3 * 4
)

// tokenState is what became of a token.
type tokenState uint8

const (
	tokenForged tokenState = iota
	tokenOfOther
	tokenExpired
	tokenGood
)

// csrfKey signs tokens. The state of HMACs is used again, so that reading allocates nothing.
type csrfKey struct{ pool sync.Pool }

type csrfHash struct {
	mac    hash.Hash
	buf    [csrfBytes]byte
	sum    [sha256.Size]byte
	length [8]byte
}

func newCSRFKey(secret []byte) *csrfKey {
	secret = bytes.Clone(secret)
	return &csrfKey{pool: sync.Pool{New: func() any { return &csrfHash{mac: hmac.New(sha256.New, secret)} }}}
}

// leastCSRFSecret is the shortest secret, in bytes.
const leastCSRFSecret = 16

// sign computes a MAC over the head of the buffer and texts, each with its length before it.
func (h *csrfHash) sign(purpose byte, texts ...string) []byte {
	h.mac.Reset()
	h.length[0] = purpose
	h.mac.Write(h.length[:1])
	h.mac.Write(h.buf[:csrfHead])
	for _, t := range texts {
		binary.BigEndian.PutUint64(h.length[:], uint64(len(t)))
		h.mac.Write(h.length[:])
		h.mac.Write(bytesOf(t))
	}
	return h.mac.Sum(h.sum[:0])[:csrfMAC]
}

// tokenBinding is what a token holds for.
type tokenBinding struct{ session, subject, application string }

// bytesOf is a string for those who only read it.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// sameToken compares in a time that does not tell where they differ.
func sameToken(a, b string) bool { return subtle.ConstantTimeCompare(bytesOf(a), bytesOf(b)) == 1 }

// make makes a token.
func (k *csrfKey) make(now time.Time, to tokenBinding) string {
	h := k.pool.Get().(*csrfHash)
	defer k.pool.Put(h)
	binary.BigEndian.PutUint64(h.buf[:], uint64(now.Unix()))
	rand.Read(h.buf[8:csrfHead])
	copy(h.buf[csrfHead:], h.sign('t'))
	copy(h.buf[csrfHead+csrfMAC:], h.sign('b', to.session, to.subject, to.application))
	return base64.RawURLEncoding.EncodeToString(h.buf[:])
}

// read says when a token was made, and whether it was made here and for this session.
func (k *csrfKey) read(token string, to tokenBinding) (made time.Time, state tokenState) {
	if len(token) != csrfTokenLength {
		return made, tokenForged
	}
	h := k.pool.Get().(*csrfHash)
	defer k.pool.Put(h)
	if n, err := base64.RawURLEncoding.Decode(h.buf[:], bytesOf(token)); err != nil || n != csrfBytes {
		return made, tokenForged
	}
	made = time.Unix(int64(binary.BigEndian.Uint64(h.buf[:])), 0)
	switch {
	case hmac.Equal(h.sign('b', to.session, to.subject, to.application), h.buf[csrfHead+csrfMAC:]): // nobody else could have made that
		return made, tokenGood
	case hmac.Equal(h.sign('t'), h.buf[csrfHead:csrfHead+csrfMAC]):
		return made, tokenOfOther
	}
	return time.Time{}, tokenForged
}

// cookies are the values of all cookies of a name (RFC 6265 §5.4): one may have come from a neighbouring host.
func cookies(fields wire.Fields, name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range fields {
			if fields[i].ID != wire.Cookie {
				continue
			}
			for rest := fields[i].Value; rest != ""; {
				var part string
				part, rest, _ = strings.Cut(rest, ";")
				k, v, ok := strings.Cut(strings.TrimSpace(part), "=")
				if v = strings.Trim(v, `"`); ok && k == name && v != "" && !yield(v) {
					return
				}
			}
		}
	}
}

// sent is the token that the page sent, and where it was.
func (c *csrfCheck) sent(x *Exchange) (token, place string, v reason.Verdict) {
	if h, ok := x.Fields.Lookup(c.Header); ok && h != "" {
		return h, c.inHeader, v
	}
	if c.Field == "" {
		return "", "", v
	}
	kind, boundary := formKind(x.Fields.Get(wire.ContentType))
	if kind == "" || x.Fields.Count("Content-Encoding") > 0 {
		return "", "", v
	}
	body, v := x.Body(int64(c.MaxBody))
	if v.Refused() {
		return "", "", v
	}
	if kind == "urlencoded" {
		token = formValue(body, c.Field)
	} else {
		token = partValue(body, boundary, c.Field)
	}
	return token, c.inField, v
}

// formKind says whether a content type is that of a form: "urlencoded", "multipart" with its boundary, or "".
func formKind(contentType string) (kind, boundary string) {
	media, _, _ := strings.Cut(contentType, ";")
	switch media = strings.TrimSpace(media); {
	case wire.EqualFold(media, "application/x-www-form-urlencoded"):
		return "urlencoded", ""
	case wire.EqualFold(media, "multipart/form-data"):
		if _, p, err := mime.ParseMediaType(contentType); err == nil && p["boundary"] != "" {
			return "multipart", p["boundary"]
		}
	}
	return "", ""
}

// longestField is how much of a value is read: quotes and escapes included, no token is longer.
const longestField = 4 * csrfTokenLength

// formValue is the first value of a field in a form that is written as a query.
func formValue(body []byte, name string) string {
	for len(body) > 0 {
		var pair []byte
		pair, body, _ = bytes.Cut(body, []byte("&"))
		key, value, _ := bytes.Cut(pair, []byte("="))
		if !isEscaped(key, name) {
			continue
		}
		v, err := url.QueryUnescape(string(value[:min(len(value), longestField)]))
		if err != nil {
			return ""
		}
		return v
	}
	return ""
}

// isEscaped says that b is name, percent-encoded or not.
func isEscaped(b []byte, name string) bool {
	for i := range len(name) {
		if len(b) == 0 {
			return false
		}
		c := b[0]
		switch {
		case c == '%' && len(b) >= 3:
			high, low := unhex(b[1]), unhex(b[2])
			if high < 0 || low < 0 {
				return false
			}
			c, b = byte(high<<4|low), b[3:]
		case c == '+':
			c, b = ' ', b[1:]
		default:
			b = b[1:]
		}
		if c != name[i] {
			return false
		}
	}
	return len(b) == 0
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

// formParts bounds how many parts of a form are looked at.
const formParts = 1000

// partValue is the first value of a field in a form of parts (RFC 7578).
func partValue(body []byte, boundary, name string) string {
	r := multipart.NewReader(bytes.NewReader(body), boundary)
	for range formParts {
		part, err := r.NextPart()
		if err != nil {
			return ""
		}
		if part.FormName() != name || part.FileName() != "" {
			continue
		}
		v, err := io.ReadAll(io.LimitReader(part, longestField))
		if err != nil {
			return ""
		}
		return string(v)
	}
	return ""
}
