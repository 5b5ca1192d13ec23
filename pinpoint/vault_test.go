package pinpoint

import (
	"fmt"
	"testing"
)

// TestVaultKeepsSecretsApart: placeholders are short, and yet no two secrets share one.
func TestVaultKeepsSecretsApart(t *testing.T) {
	v := NewVault()
	const n = 200_000 // some five pairs of 32 bits are equal among so many
	placeholders := make(map[string]int, n)
	for i := range n {
		p := v.Hide(fmt.Sprintf("secret%06d", i))
		if other, ok := placeholders[p]; ok {
			t.Fatalf("%d and %d share %s", i, other, p)
		}
		placeholders[p] = i
	}
	for p, i := range placeholders {
		want := fmt.Sprintf("secret%06d", i)
		if got := v.Reveal("a " + p + " b"); got != "a "+want+" b" {
			t.Fatalf("%s became %q", p, got)
		}
		if i%1000 == 0 && v.Hide(want) != p {
			t.Fatalf("%s has two placeholders", want)
		}
	}
	if got := v.Reveal("‹secret:00000000 len=1› ‹secret:"); got != "‹secret:00000000 len=1› ‹secret:" {
		t.Errorf("%q", got)
	}
}
