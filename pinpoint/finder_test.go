package pinpoint

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// The finder finds the longest secret that stands at a place, as looking for each would.
func TestFinder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	word := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "ab1"[r.IntN(3)]
		}
		return string(b)
	}
	found := 0
	for range 200 {
		v := NewVault()
		for range 1 + r.IntN(60) {
			v.Hide(word(6 + r.IntN(6)))
		}
		f := v.finder()
		text := word(400)
		for i := range text {
			want := ""
			for _, form := range f.forms {
				if len(form) > len(want) && strings.HasPrefix(text[i:], form) {
					want = form
				}
			}
			if got := f.at(text[i:]); got != want {
				t.Fatalf("at %q: %q, want %q of %q", text[i:], got, want, f.forms)
			}
			if want != "" {
				found++
			}
		}
	}
	if found < 500 {
		t.Errorf("only %d places held a secret", found)
	}
}
