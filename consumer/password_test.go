package consumer

import (
	"strings"
	"testing"
)

func TestPassword(t *testing.T) {
	made, err := HashPassword("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ hash, password, cost string }{
		{made, "correct horse", "bcrypt of cost 11"},
		{"$2a$04$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy", "", ""}, // a wrong password for it is enough
		// The reference implementation: echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1
		{"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "password", "argon2id with m=65536,t=2,p=1"},
	} {
		p, err := ParsePassword(c.hash)
		if err != nil {
			t.Errorf("%s: %v", c.hash, err)
			continue
		}
		if c.cost != "" && (p.Cost() != c.cost || !p.Is([]byte(c.password))) {
			t.Errorf("%s: cost %s, is %v", c.hash, p.Cost(), p.Is([]byte(c.password)))
		}
		if p.Is([]byte("another password")) {
			t.Errorf("%s is any password", c.hash)
		}
	}
	for _, bad := range []string{"", "$2b$", "$2b$31$" + strings.Repeat("a", 53), "$2b$10$tooshort", "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ", "$argon2id$v=16$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=4294967295,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "$argon2id$v=19$m=65536,t=0,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=65536,t=2,p=0$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "$argon2id$v=19$m=65536,t=2,p=1x$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=65536,t=2,p=1$c2$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFh"} {
		if _, err := ParsePassword(bad); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
	for _, bad := range []string{"short", strings.Repeat("x", 73)} {
		if _, err := HashPassword(bad); err == nil {
			t.Errorf("a password of %d bytes is hashed", len(bad))
		}
	}
	if a, b := NewPassword(), NewPassword(); len(a) != 24 || a == b {
		t.Errorf("%q and %q", a, b)
	}
}

func TestPasswordsOfDirectory(t *testing.T) {
	d := NewDirectory()
	for i, cost := range []string{"b", "a", "a", "c"} {
		d.AddNamed("basic", string(rune('k'+i)), &Credential{Password: &Password{cost: cost}})
	}
	var costs []string
	for _, p := range d.Passwords() {
		costs = append(costs, p.cost)
	}
	if got := strings.Join(costs, " "); got != "a b c" {
		t.Errorf("costs %s", got)
	}
}
