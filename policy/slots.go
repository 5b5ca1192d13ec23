package policy

import (
	"crypto/sha256"
	"sync/atomic"
)

// slots remembers values by SHA-256 in a table of fixed size: a hit is one load, and nothing is locked. Where all
// slots of a row are taken, one of them is overwritten.
type slots[T any] struct{ rows []row[T] }

type row[T any] [4]atomic.Pointer[slot[T]]

type slot[T any] struct {
	sum   [sha256.Size]byte
	value T
}

const slotRows = 512

func (s *slots[T]) init() { s.rows = make([]row[T], slotRows) }

func (s *slots[T]) row(sum *[sha256.Size]byte) *row[T] {
	return &s.rows[(int(sum[0])|int(sum[1])<<8)%slotRows]
}

// get finds the value of a sum.
func (s *slots[T]) get(sum *[sha256.Size]byte) (value T, ok bool) {
	r := s.row(sum)
	for i := range r {
		if e := r[i].Load(); e != nil && e.sum == *sum {
			return e.value, true
		}
	}
	return value, false
}

// put remembers a value.
func (s *slots[T]) put(sum *[sha256.Size]byte, value T) {
	r := s.row(sum)
	at := int(sum[2]) % len(r)
	for i := len(r) - 1; i >= 0; i-- {
		switch e := r[i].Load(); {
		case e == nil:
			at = i
		case e.sum == *sum:
			r[i].Store(&slot[T]{*sum, value})
			return
		}
	}
	r[at].Store(&slot[T]{*sum, value})
}
