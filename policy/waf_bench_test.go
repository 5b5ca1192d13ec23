package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/whygate/whygate/reason"
)

// content is a request's content that is there.
type wafContent string

func (c wafContent) Known() bool { return true }

func (c wafContent) Body(max int64) ([]byte, reason.Verdict) { return []byte(c), reason.Verdict{} }

// jsonOrder is a JSON body of about so many bytes, as an order of a shop is.
func jsonOrder(size int) string {
	var b strings.Builder
	b.WriteString(`{"customer":"bistro","address":{"street":"Rue de la Paix 12","city":"Paris"},"items":[`)
	for i := 0; b.Len() < size-60; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"sku":"TP-%04d","name":"teapot, blue","quantity":%d,"gift":false}`, i, i%7+1)
	}
	b.WriteString(`]}`)
	return b.String()
}

// jsonNotes is a JSON body of about so many bytes, with prose that does not repeat itself.
func jsonNotes(size int) string {
	words := strings.Fields("the teapot that we ordered in May came with a chip on its lid, so please send another one; we would like to keep the cups, which are fine. Could you tell us when it is likely to arrive? Ann, from the bistro in Paris (not the one in Lyon)")
	var b strings.Builder
	b.WriteString(`{"customer":"bistro"`)
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, `,"note%d":"`, i)
		for k := range 60 {
			b.WriteString(words[(i*7+k*(i%5+1))%len(words)])
			b.WriteByte(' ')
		}
		b.WriteString(`"`)
	}
	b.WriteString(`}`)
	return b.String()
}

func BenchmarkWAF(b *testing.B) {
	t := newTestbed(&testing.T{})
	check := t.waf("{}")
	browser := []string{"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Accept: */*", "Accept-Language: en-US,en;q=0.5"}
	for _, c := range []struct{ name, line, body string }{
		{"get", "GET /orders?status=open&page=2", ""},
		{"json-150", "POST /orders", jsonOrder(150)},
		{"json-9k", "POST /orders", jsonOrder(9 << 10)},
		{"json-9k-prose", "POST /orders", jsonNotes(9 << 10)},
	} {
		head := append([]string{c.line}, browser...)
		if c.body != "" {
			head = append(head, "Content-Type: application/json", fmt.Sprint("Content-Length: ", len(c.body)))
		}
		x := t.call(head...)
		x.Content = wafContent(c.body)
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if v := check.Check(x); v.Refused() {
					b.Fatal(v.Tell(reason.ToOperator).Seen)
				}
			}
		})
	}
}
