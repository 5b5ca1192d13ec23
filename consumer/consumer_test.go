package consumer

import (
	"crypto/sha256"
	"strings"
	"testing"
	"time"
)

func TestKeys(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		key, prefix, hash := NewKey()
		if len(key) != KeyLength || !LooksLikeKey(key) || !strings.HasPrefix(key, prefix+"_") || len(prefix) != PrefixLength || hash != HashKey(key) || seen[key] {
			t.Fatalf("key %q, prefix %q", key, prefix)
		}
		seen[key] = true
		if f := Fingerprint(key); f != prefix {
			t.Fatalf("fingerprint %q", f)
		}
	}
	for _, k := range []string{"", "wg_", "secret", strings.Repeat("x", KeyLength), "wg_12345678-" + strings.Repeat("a", 32)} {
		if LooksLikeKey(k) {
			t.Errorf("%q looks like a key", k)
		}
		if f := Fingerprint(k); !strings.HasPrefix(f, "sha256:") || len(f) != 15 {
			t.Errorf("the fingerprint of %q is %q", k, f)
		}
	}
}

func TestDirectory(t *testing.T) {
	d := NewDirectory()
	a := &Application{Name: "a"}
	d.AddApplication(a)
	plan := &Plan{Name: "p"}
	d.AddPlan(plan)
	c := &Credential{Application: a, Prefix: "wg_12345678"}
	if !d.AddCredential(sha256.Sum256([]byte("k")), c) || d.AddCredential(sha256.Sum256([]byte("k")), c) {
		t.Error("one key, one credential")
	}
	if d.Credential([]byte("k")) != c || d.Credential([]byte("l")) != nil || len(d.WithPrefix("wg_12345678")) != 1 {
		t.Error("looking up")
	}
	if !d.AddNamed("basic", "somebody", &Credential{Application: a}) {
		t.Error("a user name is taken")
	}
	for _, s := range []State{Rejected, Pending, Active, Expired} {
		d.AddSubscription(&Subscription{Application: a, API: "x", State: s, Plan: plan})
	}
	if subs := d.Subscriptions(a, "x"); len(subs) != 4 || subs[0].State != Active || subs[3].State != Rejected || d.Subscriptions(a, "y") != nil {
		t.Errorf("%v", subs)
	}
	if x, y, z := d.Counts(); x != 1 || y != 2 || z != 4 {
		t.Error(x, y, z)
	}
	now := time.Now()
	s := &Subscription{State: Active, Until: now, Plan: plan}
	if s.StateAt(now.Add(-1)) != Active || s.StateAt(now) != Expired {
		t.Error("until is outside")
	}
}

// BenchmarkCredential is what key-auth costs: one hash and one look-up, among a million keys.
func BenchmarkCredential(b *testing.B) {
	d := NewDirectory()
	a := &Application{Name: "a"}
	var key []byte
	for range 1_000_000 {
		k, prefix, _ := NewKey()
		key = []byte(k)
		d.AddCredential(sha256.Sum256(key), &Credential{Application: a, Prefix: prefix})
	}
	for b.Loop() {
		if d.Credential(key) == nil {
			b.Fatal("not found")
		}
	}
}
