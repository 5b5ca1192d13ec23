package counter

import (
	"sync"
	"time"
)

// Memory keeps counters of this process.
type Memory struct {
	start  time.Time // of the monotonic clock below
	shards [shards]shard
}

const (
	shards      = 256
	shardBound  = 1 << 13 // cells of a kind per shard: two million in all
	sweepPerAdd = 32      // stale cells looked for when a shard is full
)

type shard struct {
	mu     sync.Mutex // guards what follows
	rates  map[Key]int64
	inside map[Key]int64
	_      [64 - 24]byte // a cache line of its own
}

// NewMemory returns empty counters.
func NewMemory() *Memory {
	m := &Memory{start: time.Now()}
	for i := range m.shards {
		m.shards[i].rates = map[Key]int64{}
		m.shards[i].inside = map[Key]int64{}
	}
	return m
}

func (m *Memory) shard(k Key) *shard { return &m.shards[k.Lo%shards] }

// now is the monotonic time of t; limits on speed do not care about the wall clock being set.
func (m *Memory) now(t time.Time) int64 { return int64(t.Sub(m.start)) }

// Take spends cost of a rate if it is there.
func (m *Memory) Take(k Key, r Rate, cost int64, at time.Time) Result {
	now, s := m.now(at), m.shard(k)
	s.mu.Lock()
	tat, known := s.rates[k]
	if !known {
		tat = now
	}
	next, res := r.gcra(tat, now, cost)
	if res.OK {
		if !known && len(s.rates) >= shardBound {
			s.makeRoom(now)
		}
		s.rates[k] = next
	}
	s.mu.Unlock()
	return res
}

// Peek says what Take would, and spends nothing.
func (m *Memory) Peek(k Key, r Rate, cost int64, at time.Time) Result {
	s := m.shard(k)
	s.mu.Lock()
	tat, known := s.rates[k]
	s.mu.Unlock()
	now := m.now(at)
	if !known {
		tat = now // which may lie before the start of this process
	}
	_, res := r.gcra(tat, now, cost)
	return res
}

// Return gives back what Take spent, for a call that a later limit refused.
func (m *Memory) Return(k Key, r Rate, cost int64) {
	s := m.shard(k)
	s.mu.Lock()
	if tat, ok := s.rates[k]; ok {
		s.rates[k] = tat - r.price(cost)
	}
	s.mu.Unlock()
}

// makeRoom drops cells that are full again, which are the same as none; failing that, any
// cell: somebody gets a fresh allowance, and memory stays bounded.
func (s *shard) makeRoom(now int64) {
	var victim Key
	n := 0
	for k, tat := range s.rates {
		if tat <= now {
			delete(s.rates, k)
			return
		}
		if victim = k; n == sweepPerAdd {
			break
		}
		n++
	}
	delete(s.rates, victim)
}

// Sweep drops all cells that mean nothing any more. Call it once in a while.
func (m *Memory) Sweep() {
	now := m.now(time.Now())
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		for k, tat := range s.rates {
			if tat <= now {
				delete(s.rates, k)
			}
		}
		s.mu.Unlock()
	}
}

// Cells is how many rates are being counted.
func (m *Memory) Cells() (n int) {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		n += len(s.rates)
		s.mu.Unlock()
	}
	return n
}

// Enter counts one more call inside, if there is room for it. Leave must follow.
func (m *Memory) Enter(k Key, limit int64) Result {
	s := m.shard(k)
	s.mu.Lock()
	n := s.inside[k]
	res := Result{OK: n < limit, Limit: limit, Left: max(limit-n, 0)}
	if res.OK {
		s.inside[k] = n + 1
		res.Left--
	}
	s.mu.Unlock()
	return res
}

// Inside says what Enter would, and counts nothing.
func (m *Memory) Inside(k Key, limit int64) Result {
	s := m.shard(k)
	s.mu.Lock()
	n := s.inside[k]
	s.mu.Unlock()
	return Result{OK: n < limit, Limit: limit, Left: max(limit-n, 0)}
}

// Leave ends what Enter began.
func (m *Memory) Leave(k Key) {
	s := m.shard(k)
	s.mu.Lock()
	if n := s.inside[k]; n > 1 {
		s.inside[k] = n - 1
	} else {
		delete(s.inside, k)
	}
	s.mu.Unlock()
}
