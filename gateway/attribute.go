package gateway

import (
	"bytes"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"

	"github.com/whygate/whygate/pinpoint"
	"github.com/whygate/whygate/wire"
)

// Refuser is who seems to have written an upstream's refusal, why, and what says so. It is what package pinpoint makes
// of the answer alone; `whygate pinpoint` can find out more.
type Refuser struct {
	Product string `json:"product"` // "nginx", "django", "unknown"
	// Cause is an id of pinpoint's catalogue, "" where the answer does not say why.
	Cause string `json:"cause,omitempty"`
	// Weight is the logarithm of the odds that the cause is right, when only the answer is known.
	Weight   float64         `json:"weight,omitempty"`
	Evidence []pinpoint.Clue `json:"evidence,omitempty"`
}

// Bounds of the recognition, which runs once for each relayed refusal.
const (
	maxRefusalBody  = 16 << 10 // bytes of the body that are looked at, decoded
	maxRefusalValue = 2 << 10  // of one field
	maxRefusalClues = 3
	maxRefusalNames = 6
)

// attribute finds out who seems to have refused a call behind the gateway, and why.
func (c *call) attribute(res *wire.Response, body []byte) {
	a := &pinpoint.Answer{Status: res.Status, Header: make(pinpoint.Header, 0, len(res.Fields)), Body: decoded(res.Fields, body)}
	for _, f := range res.Fields {
		a.Header = append(a.Header, pinpoint.Field{Name: f.Name, Value: f.Value[:min(len(f.Value), maxRefusalValue)]})
	}
	clues := pinpoint.Match(a)
	clues = clues[:min(len(clues), maxRefusalClues)]
	if hop, ok := lastHop(a); ok {
		clues = append(clues, hop)
	}
	r := &Refuser{Product: "unknown"}
	if len(clues) > 0 {
		r.Evidence = c.withoutSecrets(clues)
		v := pinpoint.Conclude(nil, clues, nil, res.Status)
		if v.Refuser.Product != "" {
			r.Product = v.Refuser.Product
		}
		if v.Outcome == pinpoint.Likely || v.Outcome == pinpoint.Proved {
			r.Cause = v.Cause
		}
		for _, clue := range clues {
			if clue.Cause == r.Cause && r.Cause != "" && !clue.Against {
				r.Weight = max(r.Weight, clue.Weight)
			}
		}
	}
	c.detail.Refuser = r
	c.rec.Reason = "upstream:" + r.Product
}

// lastHop is what the fields of an answer say of the server that is nearest to the application.
func lastHop(a *pinpoint.Answer) (clue pinpoint.Clue, ok bool) {
	hops := pinpoint.Hops(&pinpoint.Case{Exchanges: []pinpoint.Exchange{{Answer: a}}})
	for _, h := range hops {
		if h.Product != "" {
			clue, ok = pinpoint.Clue{Source: pinpoint.FromAnswer, ID: "hop", Refuser: strings.Clone(h.Product), Weight: pinpoint.Hint,
				Says: "A field of the answer names " + pinpoint.ProductName(h.Product) + ".", Quote: strings.Clone(h.Says)}, true
		}
	}
	return clue, ok
}

// withoutSecrets takes out of clues what the call carries as its secrets: servers echo.
func (c *call) withoutSecrets(clues []pinpoint.Clue) []pinpoint.Clue {
	q := &pinpoint.Request{Method: c.x.Method, URL: "http://" + c.x.Host + c.x.Target}
	for _, f := range c.x.Fields {
		q.Header = append(q.Header, pinpoint.Field{Name: f.Name, Value: f.Value})
	}
	sealed := &pinpoint.Case{Exchanges: []pinpoint.Exchange{{Request: q}}}
	pinpoint.Seal(sealed)
	for i := range clues {
		k := &clues[i]
		k.Says, k.Quote = sealed.Vault.Redact(k.Says), sealed.Vault.Redact(k.Quote)
		for n, name := range slices.Sorted(maps.Keys(k.Names)) {
			if n < maxRefusalNames {
				k.Names[name] = sealed.Vault.Redact(k.Names[name])
			} else {
				delete(k.Names, name)
			}
		}
	}
	return clues
}

// decoded is the first part of a body without its content coding, or as it is where that is not known.
func decoded(fields wire.Fields, body []byte) []byte {
	v, ok := fields.Lookup("Content-Encoding")
	if !ok || len(body) == 0 {
		return body[:min(len(body), maxRefusalBody)]
	}
	var r io.Reader
	var err error
	switch in := bytes.NewReader(body); strings.ToLower(strings.TrimSpace(v)) {
	case "gzip", "x-gzip":
		r, err = gzip.NewReader(in)
	case "deflate":
		r, err = zlib.NewReader(in)
	case "br":
		r = brotli.NewReader(in)
	case "zstd":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(1<<20), zstd.WithDecoderLowmem(true)); err == nil {
			defer d.Close()
			r = d
		}
	}
	if r == nil || err != nil {
		return body[:min(len(body), maxRefusalBody)]
	}
	text, _ := io.ReadAll(io.LimitReader(r, maxRefusalBody)) // a part of it is enough
	return text
}
