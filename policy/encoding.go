package policy

import (
	"bytes"
	"io"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// codings are what compressed content can be decoded of (RFC 9110 §8.4.1, RFC 8878).
var codings = []string{"gzip", "deflate", "zstd"}

const (
	// maxRatio is how many times its size compressed content may decode to, where no policy content-type
	// says otherwise.
	maxRatio = 100
	// freeRatio is how large content may become whatever its ratio.
	freeRatio = 64 << 10
)

var (
	encodingNotAllowed = reason.New(reason.Reason{
		Code: "content-type.encoding", Status: 415,
		Title:  "The body is compressed in a way that is not taken here",
		Says:   "the body has the content coding {seen}, and this API takes {wanted}",
		Wanted: "Content-Encoding {wanted}",
		Seen:   "{seen}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "send the body as {wanted}"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to take {seen}"},
		},
		Hint: "setting encodings of the policy content-type; a check that reads the body can decode gzip, deflate and zstd",
	})
	encodingBroken = reason.New(reason.Reason{
		Code: "content-type.encoding-broken", Status: 400,
		Title:  "The compressed body cannot be decoded",
		Says:   "the body says that it is {coding}, and cannot be decoded: {error}",
		Wanted: "a body that is {coding}, as Content-Encoding says",
		Seen:   "{error}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "compress the body with {coding}, or leave Content-Encoding out if it is not compressed"}},
		Hint:   "deflate is the zlib format (RFC 1950); some clients send raw deflate data under that name",
	})
	encodingExpands = reason.New(reason.Reason{
		Code: "content-type.expands", Status: 413,
		Title:  "The compressed body becomes too large",
		Says:   "the body of {size} decodes to more than {limit}[, {ratio} times its size]",
		Wanted: "a body that decodes to at most {limit}",
		Seen:   "more, of {size} compressed",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "send less in one call: at most {limit} before it is compressed"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to raise the limit"},
		},
		Hint: "settings decoded and ratio of the policy content-type, maxBody of the other policies that read the body",
	})
)

// contentCoding is the content coding of the request: "" without one. Several are not taken apart.
func contentCoding(x *Exchange) string {
	name, several := "", false
	for i := range x.Fields {
		if f := &x.Fields[i]; f.ID == wire.OtherField && len(f.Name) == len("Content-Encoding") && wire.EqualFold(f.Name, "Content-Encoding") {
			several = several || name != ""
			name = f.Value
		}
	}
	if several {
		var all []string
		for i := range x.Fields {
			if wire.EqualFold(x.Fields[i].Name, "Content-Encoding") {
				all = append(all, x.Fields[i].Value)
			}
		}
		name = strings.Join(all, ", ")
	}
	switch {
	case name == "" || wire.EqualFold(name, "identity"):
		return ""
	case wire.EqualFold(name, "x-gzip") || wire.EqualFold(name, "gzip"): // RFC 9110 §8.4.1.3
		return "gzip"
	case wire.EqualFold(name, "deflate"):
		return "deflate"
	case wire.EqualFold(name, "zstd"):
		return "zstd"
	}
	return name
}

// plainBody is the request's content without its content coding. It may decode to most bytes and, from
// 64 KiB on, to at most ratio times its size. at is where the bound is written.
func (x *Exchange) plainBody(most int64, ratio int, at *reason.Source) ([]byte, reason.Verdict) {
	name := contentCoding(x)
	body, v := x.Body(most)
	if name == "" || v.Refused() || len(body) == 0 {
		return body, v
	}
	if x.decoded && int64(len(x.plain)) <= most {
		return x.plain, reason.Verdict{}
	}
	plain, v := x.decode(name, body, most, ratio, at)
	if !v.Refused() {
		x.plain, x.decoded = plain, true
	}
	return plain, v
}

// decode takes a content coding off.
func (x *Exchange) decode(name string, body []byte, most int64, ratio int, at *reason.Source) ([]byte, reason.Verdict) {
	src := bytes.NewReader(body)
	var r io.Reader
	var err error
	switch name {
	case "gzip":
		z := gzips.Get().(*gzip.Reader)
		defer gzips.Put(z)
		r, err = z, z.Reset(src)
	case "deflate":
		z := zlibs.Get()
		if z == nil {
			z, err = zlib.NewReader(src)
		} else {
			err = z.(zlib.Resetter).Reset(src, nil)
		}
		if z != nil && err == nil {
			defer zlibs.Put(z)
			r = z.(io.Reader)
		}
	case "zstd":
		z := zstds.Get().(*zstd.Decoder)
		defer func() {
			z.Reset(nil)
			zstds.Put(z)
		}()
		r, err = z, z.Reset(src)
	default:
		return nil, x.wrongCoding(name, codings, at)
	}
	limit := min(most, max(int64(len(body))*int64(ratio), freeRatio))
	var plain []byte
	if err == nil {
		plain, err = io.ReadAll(io.LimitReader(r, limit+1))
	}
	switch {
	case int64(len(plain)) > limit:
		facts := []reason.Fact{reason.Public("size", reason.Bytes(len(body))), reason.Public("limit", reason.Bytes(limit)).At(at), x.OwnerFact()}
		if limit < most {
			facts = append(facts, reason.Public("ratio", ratio))
		}
		return nil, encodingExpands.Refuse(facts...)
	case err == nil && src.Len() > 0:
		return nil, encodingBroken.Refuse(reason.Public("coding", name), reason.Public("error", "something follows the compressed content"))
	case err != nil:
		return nil, encodingBroken.Refuse(reason.Public("coding", name), reason.Public("error", cutText(err.Error(), 100)))
	}
	return plain, reason.Verdict{}
}

// Decoders are kept: each has tables of tens of kilobytes.
var (
	gzips = sync.Pool{New: func() any { return new(gzip.Reader) }}
	zlibs sync.Pool
	zstds = sync.Pool{New: func() any {
		// RFC 9659 bounds the window of zstd in HTTP to 8 MiB.
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			panic("BUG: a decoder cannot be made: " + err.Error())
		}
		return d
	}}
)

// wrongCoding refuses content for its coding and says in Accept-Encoding what is taken (RFC 9110 §12.5.3).
func (x *Exchange) wrongCoding(seen string, taken []string, at *reason.Source) reason.Verdict {
	field := "identity"
	if len(taken) > 0 {
		field = strings.Join(taken, ", ")
	}
	x.Extra.Add("Accept-Encoding", field)
	return encodingNotAllowed.Refuse(reason.Public("seen", cutText(strings.Clone(seen), 80)), reason.Public("wanted", codingsText(taken)).At(at), x.OwnerFact())
}

func codingsText(taken []string) string {
	if len(taken) == 0 {
		return "no content coding"
	}
	return reason.List(taken) + ", or none"
}
