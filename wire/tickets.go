package wire

import (
	"crypto/rand"
	"sync"
	"time"
)

// ticketsFor is how long TLS session tickets (RFC 8446, section 4.6.1) are sealed with one key. They are accepted as long
// again, so that what a stolen key lets somebody read is a day old at most.
const ticketsFor = 12 * time.Hour

// ticketKeys seal the session tickets of a listener, for which a client that comes again saves most of a handshake. They
// never leave the memory of this node.
type ticketKeys struct {
	mu   sync.Mutex // guards what follows
	keys [][32]byte // the one in use first
	made time.Time
}

// at are the keys as of now.
func (k *ticketKeys) at(now time.Time) [][32]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	age := now.Sub(k.made)
	if k.keys != nil && age < ticketsFor {
		return k.keys
	}
	var fresh [32]byte
	rand.Read(fresh[:]) // never fails
	list := [][32]byte{fresh}
	if k.keys != nil && age < 2*ticketsFor {
		list = append(list, k.keys[0])
	}
	k.keys, k.made = list, now
	return list
}
