package calllog

import (
	"encoding/binary"
	"errors"
	"time"
)

// ID names one call: 48 bits of Unix milliseconds, 16 bits of node, 64 bits that
// are unique on that node. It sorts by time. As text it has the form of a ULID,
// 26 characters of Crockford's base 32.
type ID [16]byte

const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// NewID makes an id from the time of a call, the node and a number that the node
// does not use again within the same millisecond.
func NewID(at time.Time, node uint16, n uint64) ID {
	var id ID
	binary.BigEndian.PutUint64(id[:8], uint64(at.UnixMilli())<<16|uint64(node))
	binary.BigEndian.PutUint64(id[8:], n)
	return id
}

// Time is when the call began, to the millisecond.
func (id ID) Time() time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(id[:8]) >> 16))
}

// Node is the number of the node that made it.
func (id ID) Node() uint16 { return binary.BigEndian.Uint16(id[6:8]) }

// IsZero says that this is no id.
func (id ID) IsZero() bool { return id == ID{} }

// AppendText writes the 26 characters of the id.
func (id ID) AppendText(b []byte) ([]byte, error) {
	hi, lo := binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:])
	var out [26]byte
	for i := 25; i >= 0; i-- {
		out[i] = crockford[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return append(b, out[:]...), nil
}

func (id ID) String() string {
	b, _ := id.AppendText(make([]byte, 0, 26))
	return string(b)
}

// MarshalText writes the 26 characters of the id.
func (id ID) MarshalText() ([]byte, error) { return id.AppendText(nil) }

var errID = errors.New("a call id has 26 characters of 0-9 and A-Z without I, L, O and U, and begins with 0 to 7")

// ParseID reads an id; lower case and the look-alikes I, L and O are understood.
func ParseID(s string) (ID, error) {
	if len(s) != 26 {
		return ID{}, errID
	}
	var hi, lo uint64
	for i := 0; i < 26; i++ {
		d := digit(s[i])
		if d < 0 || i == 0 && d > 7 {
			return ID{}, errID
		}
		hi = hi<<5 | lo>>59
		lo = lo<<5 | uint64(d)
	}
	var id ID
	binary.BigEndian.PutUint64(id[:8], hi)
	binary.BigEndian.PutUint64(id[8:], lo)
	return id, nil
}

func digit(c byte) int {
	if 'a' <= c && c <= 'z' {
		c -= 'a' - 'A'
	}
	switch c {
	case 'I', 'L':
		c = '1'
	case 'O':
		c = '0'
	}
	for i := range len(crockford) {
		if crockford[i] == c {
			return i
		}
	}
	return -1
}

// UnmarshalText reads an id.
func (id *ID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseID(string(b))
	return err
}
