package resource

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkLoad reads 10,000 small documents of one file.
func BenchmarkLoad(b *testing.B) {
	var text strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&text, `---
apiVersion: whygate/v1
kind: Credential
metadata:
  name: acme-%d
spec:
  application: acme
  key:
    prefix: wg_8fK2mQ4z
    sha256: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  state: active
  until: 2027-06-30
`, i)
	}
	data := []byte(text.String())
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		set, ps := Parse(File{"a.yaml", data})
		if len(ps) > 0 || len(set.Credentials) != 10_000 {
			b.Fatal(ps)
		}
	}
}

// BenchmarkAPI reads one API of 10,000 routes, in JSON on one line.
func BenchmarkAPI(b *testing.B) {
	var text strings.Builder
	text.WriteString(`{"apiVersion": "whygate/v1", "kind": "API", "metadata": {"name": "big"}, "spec": {"routes": [`)
	for i := range 10_000 {
		if i > 0 {
			text.WriteString(", ")
		}
		fmt.Fprintf(&text, `{"path": "/orders/%d/{id}", "methods": ["GET", "POST"], "timeout": "10s", "policies": [{"rate-limit": {"requests": 100}}]}`, i)
	}
	text.WriteString("]}}")
	data := []byte(text.String())
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		set, ps := Parse(File{"a.json", data})
		if len(ps) > 0 || len(set.APIs[0].Spec.Routes) != 10_000 {
			b.Fatal(ps)
		}
	}
}
