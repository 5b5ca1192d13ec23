package wire

import "sync"

// Buffers come in two sizes: one that holds the head of nearly every message and
// one for carrying bodies. Pools hold arrays behind pointers, so that putting one back
// does not allocate.
const (
	smallBuffer = 4 << 10
	largeBuffer = 32 << 10
)

type (
	small [smallBuffer]byte
	large [largeBuffer]byte
)

var (
	smallPool = sync.Pool{New: func() any { return new(small) }}
	largePool = sync.Pool{New: func() any { return new(large) }}
)

// take returns a buffer of at least n bytes, from a pool where one fits.
func take(n int) []byte {
	switch {
	case n <= smallBuffer:
		return smallPool.Get().(*small)[:]
	case n <= largeBuffer:
		return largePool.Get().(*large)[:]
	}
	return make([]byte, n)
}

// give puts a buffer back. Nobody may hold a view into it any more.
func give(b []byte) {
	if Poison {
		for i := range b {
			b[i] = 0xDB
		}
	}
	switch cap(b) {
	case smallBuffer:
		smallPool.Put((*small)(b[:smallBuffer]))
	case largeBuffer:
		largePool.Put((*large)(b[:largeBuffer]))
	}
}
