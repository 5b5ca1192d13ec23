package policy

import (
	"bytes"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// Compress compresses answers that the upstream sends as they are.
//
// The coding is the one that the client likes best by Accept-Encoding (RFC 9110 §12.5.3); among
// equals, the first of the list. Answers that are encoded already, partial, smaller than MinSize or
// marked no-transform stay as they are. What an upstream streams goes on at once: whenever nothing more
// is at hand, the client gets all that there is. A strong ETag becomes a weak one, so an upstream that
// wants If-Match has to accept those or mark its answers no-transform.
//
// Compressed size tells about content: where pages mix secrets with what a stranger can choose
// (BREACH), leave those routes out.
//
//	policies:
//	- compress: {codings: [zstd, br, gzip]}
type Compress struct {
	// Codings that may be used, the best first.
	Codings []string `json:"codings" enum:"zstd,br,gzip" default:"[zstd, br, gzip]"`
	// Level trades time for size.
	Level string `json:"level" enum:"fast,normal,best" default:"fast"`
	// MinSize leaves smaller answers alone.
	MinSize resource.Size `json:"minSize" default:"1KiB" min:"1"`
	// Types of content to compress; "text/*" is all of them, "*+json" all that end so.
	Types []string `json:"types" default:"[text/*, application/json, \"*+json\", application/xml, \"*+xml\", application/javascript, application/x-ndjson, application/yaml, application/wasm, image/svg+xml]"`
}

// encoder is what the three libraries have in common.
type encoder interface {
	io.WriteCloser
	Flush() error
	Reset(io.Writer)
}

// coding is one way to compress, with encoders that wait for their next answer. Each holds less than
// a megabyte.
type coding struct {
	name string
	pool sync.Pool
}

type compress struct {
	codings []*coding
	minSize int64
	types   []string
}

// zstdWindow bounds the memory of encoders, and that of clients (RFC 8878 §3.1.1.1.2 has them take 8 MiB).
const zstdWindow = 256 << 10

// brotliWindow is the same as a power of two.
const brotliWindow = 18

var gzipLevels = map[string]int{"fast": 2, "normal": 5, "best": 9}
var brotliLevels = map[string]int{"fast": 2, "normal": 4, "best": 7}
var zstdLevels = map[string]zstd.EncoderLevel{"fast": zstd.SpeedFastest, "normal": zstd.SpeedDefault, "best": zstd.SpeedBetterCompression}

// Compile readies the encoders.
func (p *Compress) Compile(env *Env) any {
	c := &compress{minSize: int64(p.MinSize)}
	seen := map[string]bool{}
	for i, name := range p.Codings {
		if seen[name] {
			env.Problem(index("codings", i), "", "%s stands here twice", name)
			continue
		}
		seen[name] = true
		k := &coding{name: name}
		switch name {
		case "gzip":
			k.pool.New = func() any { w, _ := gzip.NewWriterLevel(nil, gzipLevels[p.Level]); return encoder(w) }
		case "br":
			k.pool.New = func() any {
				return encoder(brotli.NewWriterOptions(nil, brotli.WriterOptions{Quality: brotliLevels[p.Level], LGWin: brotliWindow}))
			}
		case "zstd":
			k.pool.New = func() any {
				w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstdLevels[p.Level]), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true))
				if err != nil {
					panic("BUG: options of zstd: " + err.Error())
				}
				return encoder(w)
			}
		}
		c.codings = append(c.codings, k)
	}
	for i, t := range p.Types {
		if !goodMediaRange(t) {
			env.Problem(index("types", i), `such as "text/*", "application/json" or "*+json"`, "%q is no type of content", t)
		}
		c.types = append(c.types, strings.ToLower(t))
	}
	return c
}

// goodMediaRange holds for type/subtype, type/* and *+suffix.
func goodMediaRange(t string) bool {
	if s, ok := strings.CutPrefix(t, "*+"); ok {
		return wire.IsToken(s)
	}
	kind, sub, ok := strings.Cut(t, "/")
	return ok && wire.IsToken(kind) && kind != "*" && wire.IsToken(sub)
}

// mediaType is the type of content without its parameters.
func mediaType(v string) string {
	if i := strings.IndexByte(v, ';'); i >= 0 {
		v = v[:i]
	}
	return strings.Trim(v, " \t")
}

// ofType says whether a type is one of a list of media ranges in lower case.
func ofType(kind string, ranges []string) bool {
	for _, r := range ranges {
		switch {
		case r[0] == '*':
			if n := len(kind) - len(r) + 1; n > 0 && wire.EqualFold(kind[n:], r[1:]) {
				return true
			}
		case strings.HasSuffix(r, "/*"):
			if n := len(r) - 1; len(kind) > n && wire.EqualFold(kind[:n], r[:n]) {
				return true
			}
		case wire.EqualFold(kind, r):
			return true
		}
	}
	return false
}

// hasField says whether a head has a field, and one that is not empty.
func hasField(fs wire.Fields, name string) bool {
	v, ok := fs.Lookup(name)
	return ok && v != ""
}

// Filter decides whether an answer is compressed.
func (c *compress) Filter(x *Exchange, h *wire.Head) (Transform, error) {
	switch {
	case h.Status < 200, h.Status == 204, h.Status == 205, h.Status == 206, hasField(h.Fields, "Content-Encoding"), hasField(h.Fields, "Content-Range"):
		return nil, nil
	case h.Status == 304: // it confirms what was sent before, and that may have been compressed
		if kind := h.Fields.Get(wire.ContentType); kind != "" && !ofType(mediaType(kind), c.types) || noTransform(h.Fields) {
			return nil, nil
		}
		c.vary(h) // RFC 9110 §15.4.5: as the 200 would have it
		if c.choose(x.Fields) != nil {
			for i := range h.Fields {
				if f := &h.Fields[i]; wire.EqualFold(f.Name, "ETag") {
					f.Value = weak(f.Value)
				}
			}
		}
		return nil, nil
	case !ofType(mediaType(h.Fields.Get(wire.ContentType)), c.types), noTransform(h.Fields):
		return nil, nil
	case h.Length >= 0 && h.Length < c.minSize:
		return nil, nil
	}
	c.vary(h)
	k := c.choose(x.Fields)
	if k == nil {
		return nil, nil
	}
	Changed(h)
	h.Fields.Add("Content-Encoding", k.name)
	if x.Method == "HEAD" {
		return nil, nil
	}
	t := &compressing{coding: k, enc: k.pool.Get().(encoder)}
	t.enc.Reset(&t.out)
	return t, nil
}

// vary says that the answer depends on Accept-Encoding.
func (c *compress) vary(h *wire.Head) {
	if !h.Fields.HasToken(wire.Vary, "Accept-Encoding") && !h.Fields.HasToken(wire.Vary, "*") {
		h.Fields.Put(wire.Vary, "Accept-Encoding")
	}
}

// noTransform is RFC 9111 §5.2.2.6.
func noTransform(fs wire.Fields) bool {
	for i := range fs {
		if fs[i].ID == wire.OtherField && wire.EqualFold(fs[i].Name, "Cache-Control") && wire.HasToken(fs[i].Value, "no-transform") {
			return true
		}
	}
	return false
}

// choose finds the coding that the client likes best, or nil: without the field, or where it likes
// the content as it is better (RFC 9110 §12.5.3).
func (c *compress) choose(fs wire.Fields) *coding {
	var best *coding
	bestQ, found := 0, false
	for i := range fs {
		found = found || fs[i].ID == wire.AcceptEncoding
	}
	if !found {
		return nil
	}
	for _, k := range c.codings {
		if q, _ := acceptance(fs, k.name); q > bestQ {
			best, bestQ = k, q
		}
	}
	if q, named := acceptance(fs, "identity"); named && q > bestQ {
		return nil
	}
	return best
}

// acceptance is the weight of a coding in thousandths, and whether the client names it.
func acceptance(fs wire.Fields, name string) (q int, named bool) {
	for i := range fs {
		if fs[i].ID != wire.AcceptEncoding {
			continue
		}
		for rest := fs[i].Value; rest != ""; {
			var part string
			part, rest, _ = strings.Cut(rest, ",")
			token, params, _ := strings.Cut(part, ";")
			token = strings.Trim(token, " \t")
			switch {
			case wire.EqualFold(token, name), name == "gzip" && wire.EqualFold(token, "x-gzip"):
				return weight(params), true
			case token == "*" && name != "identity":
				q = weight(params)
			}
		}
	}
	return q, false
}

// weight reads ";q=0.5" in thousandths (RFC 9110 §12.4.2). What is no weight counts as none at all: the
// client gets what it can read for sure.
func weight(params string) int {
	params = strings.Trim(params, " \t")
	if params == "" {
		return 1000
	}
	if len(params) < 3 || params[0]|0x20 != 'q' || params[1] != '=' || len(params) > 7 {
		return 0
	}
	f, err := strconv.ParseFloat(params[2:], 64)
	if err != nil || f < 0 || f > 1 {
		return 0
	}
	return int(f*1000 + 0.5)
}

// compressing is one answer on its way. Its encoder is given back when the answer is whole.
type compressing struct {
	coding *coding
	enc    encoder
	out    bytes.Buffer
	unsaid bool // the encoder has taken something that it has not given out
}

// Write compresses a piece.
func (t *compressing) Write(piece []byte, last bool) ([]byte, error) {
	t.out.Reset()
	if len(piece) > 0 {
		if _, err := t.enc.Write(piece); err != nil {
			return nil, err
		}
		t.unsaid = true
	}
	if last {
		err := t.enc.Close()
		t.enc.Reset(io.Discard)
		t.coding.pool.Put(t.enc)
		t.enc = nil
		return t.out.Bytes(), err
	}
	return t.out.Bytes(), nil
}

// Flush gives out what the encoder holds back.
func (t *compressing) Flush() ([]byte, error) {
	if !t.unsaid {
		return nil, nil
	}
	t.unsaid = false
	n := t.out.Len()
	err := t.enc.Flush()
	return t.out.Bytes()[n:], err
}
