package policy

import (
	"bytes"
	"strings"
	"testing"

	"github.com/whygate/whygate/wire"
)

const benchOrder = `{"id": 4711, "item": "lamp", "count": 2, "customer": {"name": "Ann Smith", "mail": "ann@shop.test", "card": "4111 1111 1111 1111"}, "lines": [{"sku": "L-1", "price": 12.5}, {"sku": "L-2", "price": 7}], "note": "please leave it at the door, thanks", "placed": "2026-11-22T09:30:00Z"}`

func BenchmarkMask(b *testing.B) {
	m := benchMask(b)
	x := &Exchange{Request: &wire.Request{Method: "GET"}}
	for b.Loop() {
		h := &wire.Head{Status: 200, Length: int64(len(benchOrder)), Fields: wire.Fields{{Name: "Content-Type", Value: "application/json", ID: wire.ContentType}}}
		t, err := m.Filter(x, h)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := t.Write([]byte(benchOrder), true); err != nil {
			b.Fatal(err)
		}
		x.Notes = x.Notes[:0]
	}
}

func benchMask(b *testing.B) *mask {
	path, err := parseJSONPath("customer.mail")
	if err != nil {
		b.Fatal(err)
	}
	return &mask{fields: map[string]bool{"password": true}, paths: []jsonPath{path}, texts: texts{email: true, card: true, iban: true, phone: true}, with: "full", replacement: "***", max: 1 << 20, refuse: true}
}

func BenchmarkCompress(b *testing.B) {
	body := bytes.Repeat([]byte(benchOrder), 30)
	for _, name := range []string{"gzip", "br", "zstd"} {
		b.Run(name, func(b *testing.B) {
			c := (&Compress{Codings: []string{name}, Level: "fast", MinSize: 1, Types: []string{"application/json"}}).Compile(&Env{}).(*compress)
			x := &Exchange{Request: &wire.Request{Method: "GET", Fields: wire.Fields{{Name: "Accept-Encoding", Value: name, ID: wire.AcceptEncoding}}}}
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				h := &wire.Head{Status: 200, Length: int64(len(body)), Fields: wire.Fields{{Name: "Content-Type", Value: "application/json", ID: wire.ContentType}}}
				t, _ := c.Filter(x, h)
				if _, err := t.Write(body, true); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCacheHit(b *testing.B) {
	a := newAnswers(1<<20, 1<<16)
	c := &cacheCheck{answers: a, sortQuery: true, prefix: "orders\x00v1\x00prod\x00"}
	x := &Exchange{Request: &wire.Request{Method: "GET", Host: "shop.test", Path: "/orders", Query: "b=1&a=2", HasQuery: true}}
	fields := wire.Fields{{Name: "Content-Type", Value: "application/json", ID: wire.ContentType}, {Name: "ETag", Value: `"a"`}}
	a.put(&kept{key: strings.Clone(c.key(x)), status: 200, fields: fields, body: []byte(benchOrder), size: 1000, lifetime: maxFresh}, nil)
	req := x.Request
	for b.Loop() {
		x.Reset(req, x.Now)
		if c.Check(x); x.Answer == nil {
			b.Fatal("no hit")
		}
	}
}
