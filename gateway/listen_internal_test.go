package gateway

import "testing"

// TestConnectionsFor: a node in a small control group takes no more connections than its memory can hold.
func TestConnectionsFor(t *testing.T) {
	for _, c := range []struct {
		files, memory int64
		want          int
	}{
		{1024, 0, 682},                 // no limit on memory
		{1 << 20, 0, 699_050},          //
		{1 << 20, 512 << 20, 8192},     // half of it, 32 KiB each
		{1024, 512 << 20, 682},         // the least of both
		{1 << 20, 1 << 20, 100},        // some in any case
		{1 << 20, 64 << 30, 699_050},   //
		{60, 512 << 20, 40},            //
		{1 << 20, 3200 << 10 * 2, 100}, //
	} {
		if got := connectionsFor(c.files, c.memory); got != c.want {
			t.Errorf("%d files, %d bytes: %d connections, want %d", c.files, c.memory, got, c.want)
		}
	}
}
