package snapshot

import "testing"

// Addresses that cannot be listened on at once are found before anybody listens.
func TestCollide(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{":8080", "0.0.0.0:8080", true},
		{":8080", "[::]:8080", true},
		{"[::]:8080", "0.0.0.0:8080", true},
		{":8080", "127.0.0.1:8080", true},
		{"0.0.0.0:8080", "127.0.0.1:8080", true},
		{":8080", "[::1]:8080", true},
		{":80", ":http", true},
		{"127.0.0.1:8080", "[::ffff:127.0.0.1]:8080", true},
		{"0.0.0.0:8080", "[::1]:8080", false},
		{"127.0.0.1:8080", "127.0.0.2:8080", false},
		{"127.0.0.1:8080", "[::1]:8080", false},
		{":8080", "0.0.0.0:8081", false},
		{":0", "0.0.0.0:0", false},
		{"localhost:8080", "127.0.0.2:8080", false},
	} {
		if collide(c.a, c.b) != c.want || collide(c.b, c.a) != c.want {
			t.Errorf("%s and %s: want %v", c.a, c.b, c.want)
		}
	}
}
