package wire

import (
	"sync"
	"sync/atomic"
	"time"
)

// Watch keeps the deadlines of connections. Arming one is a single atomic store, since
// a call would otherwise pay for half a dozen runtime timers; in exchange a deadline may
// come up to two ticks late. On a machine so busy that ticks themselves are late it comes
// later still: its clock stands still meanwhile, so that nobody is cut off for our own slowness.
//
// It also asks the sockets of clients whose calls wait for an upstream whether the
// client is still there, which nobody else would notice: the goroutine of the
// connection is busy waiting.
type Watch struct {
	clock  atomic.Int64 // nanoseconds, as of the last tick; it may fall behind that on the wall
	shards [watchShards]watchShard
	next   atomic.Uint32
	stop   chan struct{}
	done   sync.WaitGroup
}

const (
	tick        = 100 * time.Millisecond
	watchShards = 16
	firstProbe  = 2 * tick        // ask after a client only when its call is slow
	maxProbe    = 2 * time.Second // between two questions
)

type watchShard struct {
	mu   sync.Mutex // guards the list, not the entries
	head watched    // a ring
}

// watched is what a connection embeds to have its deadlines kept. Reading and writing
// have one each, since a long upload and its answer go on at the same time.
type watched struct {
	reads, writes deadline
	waiting       atomic.Int64 // since when the call waits for an upstream; 0 when it does not
	nextProbe     int64        // of the Watch's goroutine alone
	watch         *Watch
	shard         *watchShard
	owner         watchedOwner
	prev, next    *watched
}

// watchedOwner is the connection. All methods are called from the Watch's goroutine.
type watchedOwner interface {
	expireRead()
	expireWrite()
	probe(now int64)
}

// deadline is a moment on the Watch's clock, 0 for none, or fired when it has come: then
// the connection is of no more use, and arming reports so.
type deadline struct{ at atomic.Int64 }

const fired = -1

// arm sets the deadline to d after the last tick; 0 takes it away. It reports false when
// it had come.
func (d *deadline) arm(w *Watch, after time.Duration) bool {
	when := int64(0)
	if after > 0 {
		when = w.clock.Load() + int64(after) + int64(tick)
	}
	for {
		old := d.at.Load()
		if old == fired {
			return false
		}
		if d.at.CompareAndSwap(old, when) {
			return true
		}
	}
}

// disarm takes the deadline away; false when it has come.
func (d *deadline) disarm() bool { return d.arm(nil, 0) }

// expired says that the deadline has come.
func (d *deadline) expired() bool { return d.at.Load() == fired }

// due fires the deadline if its time has come.
func (d *deadline) due(now int64) bool {
	at := d.at.Load()
	return at > 0 && now >= at && d.at.CompareAndSwap(at, fired)
}

// NewWatch starts a watch. Close ends it.
func NewWatch() *Watch {
	w := &Watch{stop: make(chan struct{})}
	w.clock.Store(1) // 0 stands for "no deadline"
	for i := range w.shards {
		h := &w.shards[i].head
		h.prev, h.next = h, h
	}
	w.done.Add(1)
	go w.run()
	return w
}

// Close stops keeping deadlines. Connections that are still open have none then.
func (w *Watch) Close() {
	close(w.stop)
	w.done.Wait()
}

func (w *Watch) run() {
	defer w.done.Done()
	t := time.NewTicker(tick)
	defer t.Stop()
	var late, ask []*watched
	for last := time.Now(); ; {
		select {
		case <-w.stop:
			return
		case <-t.C:
		}
		passed := time.Since(last)
		last = last.Add(passed)
		now := w.clock.Add(int64(min(passed, 2*tick)))
		for i := range w.shards {
			late, ask = w.shards[i].collect(now, late[:0], ask[:0])
			for j, e := range late {
				if e.reads.expired() {
					e.owner.expireRead()
				}
				if e.writes.expired() {
					e.owner.expireWrite()
				}
				late[j] = nil
			}
			for j, e := range ask {
				e.owner.probe(now)
				ask[j] = nil
			}
		}
	}
}

func (s *watchShard) collect(now int64, late, ask []*watched) (_, _ []*watched) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.head.next; e != &s.head; e = e.next {
		if r, w := e.reads.due(now), e.writes.due(now); r || w {
			late = append(late, e)
			continue
		}
		if since := e.waiting.Load(); since != 0 && now-since >= int64(firstProbe) && now >= e.nextProbe {
			e.nextProbe = now + min(max(now-since, int64(tick)), int64(maxProbe))
			ask = append(ask, e)
		}
	}
	return late, ask
}

func (w *Watch) add(e *watched, owner watchedOwner) {
	e.watch, e.owner = w, owner
	e.shard = &w.shards[w.next.Add(1)%watchShards]
	s := e.shard
	s.mu.Lock()
	e.prev, e.next = s.head.prev, &s.head
	e.prev.next, s.head.prev = e, e
	s.mu.Unlock()
}

func (e *watched) unwatch() {
	if e.shard == nil {
		return
	}
	e.shard.mu.Lock()
	e.prev.next, e.next.prev = e.next, e.prev
	e.shard.mu.Unlock()
	e.shard = nil
}
