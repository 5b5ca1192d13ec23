package policy

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whygate/whygate/wire"
)

// kept is an answer in a cache. It never changes; a newer one takes its place.
type kept struct {
	key    string
	status int
	fields wire.Fields // without Age
	body   []byte
	era    uint64       // of the cache, when the call began
	vary   []wire.Field // what the request had in the fields that Vary names
	size   int64

	etag     string
	modified string // Last-Modified

	at         time.Time     // when its age was initial
	initial    time.Duration // corrected_initial_age (RFC 9111 §4.2.3)
	lifetime   time.Duration
	shared     bool          // calls with credentials may have it (§3.5)
	noStale    bool          // must-revalidate, proxy-revalidate, s-maxage
	revalidate bool          // no-cache
	ifError    time.Duration // how long after its end it may be given while the upstream fails
	whileNew   time.Duration // and while another call asks for it anew

	before, after *kept // in the shard's list, newest first
}

func (k *kept) age(now time.Time) time.Duration { return k.initial + max(now.Sub(k.at), 0) }

// maxVariants bounds how many answers of one URL differ by Vary.
const maxVariants = 16

// answers is the memory of a cache, bounded in bytes. It is cut into shards, each with a lock and a list
// of its own.
type answers struct {
	shards  []answerShard
	seed    maphash.Seed
	filling atomic.Int64 // bytes of answers that are on their way in
	bound   int64
	era     atomic.Uint64 // goes on with every Purge: what was asked for before is not kept after
	// alone are hashes of keys whose answer could not be kept: nobody waits for those.
	alone [256]atomic.Uint64
}

type answerShard struct {
	mu      sync.Mutex // guards all below
	byKey   map[string][]*kept
	list    kept // a ring: after is the newest, before the oldest
	bytes   int64
	bound   int64
	flights map[string]*flight
}

// flight is a call that is on its way to fill a place in the cache.
type flight struct {
	done    chan struct{}
	waiting int
	failed  atomic.Bool // the upstream has failed that call
}

// maxShards bounds them; each must hold several of the largest answers.
const maxShards = 16

func newAnswers(bound, largest int64) *answers {
	n := 1
	for n < maxShards && bound/int64(n*2) >= 4*(largest+4096) {
		n *= 2
	}
	a := &answers{shards: make([]answerShard, n), seed: maphash.MakeSeed(), bound: bound}
	for i := range a.shards {
		s := &a.shards[i]
		s.bound = bound / int64(n)
		s.drop()
	}
	return a
}

// Start does nothing: a cache fills by itself.
func (a *answers) Start() {}

// Close lets go of everything.
func (a *answers) Close() {
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		s.drop()
		s.mu.Unlock()
	}
}

func (s *answerShard) drop() {
	s.byKey, s.flights, s.bytes = map[string][]*kept{}, map[string]*flight{}, 0
	s.list.before, s.list.after = &s.list, &s.list
}

func (a *answers) shard(key string) (*answerShard, uint64) {
	h := maphash.String(a.seed, key)
	return &a.shards[h%uint64(len(a.shards))], h | 1
}

// find is the newest answer that is for this request, or nil; other says that there are some for
// others.
func (a *answers) find(key string, fs wire.Fields) (found *kept, other bool) {
	s, _ := a.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.byKey[key]
	for i := len(list) - 1; i >= 0; i-- {
		if k := list[i]; k.suits(fs) {
			s.unlink(k)
			s.link(k)
			return k, false
		}
	}
	return nil, len(list) > 0
}

// suits says that a request has in the fields that Vary names what the one had that was answered
// (RFC 9111 §4.1).
func (k *kept) suits(fs wire.Fields) bool {
	for _, v := range k.vary {
		if combined(fs, v.Name) != v.Value {
			return false
		}
	}
	return true
}

// combined is the value of all fields of a name, without the white space that means nothing.
func combined(fs wire.Fields, name string) string {
	first, several := "", false
	for i := range fs {
		if wire.EqualFold(fs[i].Name, name) {
			if first != "" {
				several = true
				break
			}
			first = fs[i].Value
		}
	}
	if !several {
		return first
	}
	var all []string
	for i := range fs {
		if wire.EqualFold(fs[i].Name, name) {
			all = append(all, fs[i].Value)
		}
	}
	return strings.Join(all, ",")
}

// put keeps an answer instead of those that would have suited the same request.
func (a *answers) put(k *kept, fs wire.Fields) {
	s, h := a.shard(k.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if k.size > s.bound || k.era != a.era.Load() {
		return
	}
	a.alone[h%uint64(len(a.alone))].CompareAndSwap(h, 0)
	for _, old := range s.byKey[k.key] {
		if old.suits(fs) {
			s.remove(old)
		}
	}
	if list := s.byKey[k.key]; len(list) >= maxVariants {
		s.remove(list[0])
	}
	s.byKey[k.key] = append(s.byKey[k.key], k)
	s.link(k)
	s.bytes += k.size
	for s.bytes > s.bound {
		s.remove(s.list.before)
	}
}

// forget takes out all answers of a key.
func (a *answers) forget(key string) (had bool) {
	s, _ := a.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.byKey[key]) > 0 {
		s.remove(s.byKey[key][0])
		had = true
	}
	return had
}

// Purge names answers that are to be taken out of caches. What is empty stands for all.
type Purge struct {
	// API is the name of an API.
	API string
	// Host as clients write it, without the port.
	Host string
	// Path as clients write it, with the mount of the stage and without the query; with a star at its end all paths that
	// begin so.
	Path string
}

func (p *Purge) covers(key string) bool {
	parts := strings.SplitN(key, "\x00", 7) // as prefix and keyOf write them
	if len(parts) < 6 || p.API != "" && parts[0] != p.API {
		return false
	}
	if host := parts[4]; p.Host != "" && !strings.EqualFold(host[:max(strings.LastIndexByte(host, ':'), 0)], p.Host) {
		return false
	}
	if before, ok := strings.CutSuffix(p.Path, "*"); ok {
		return strings.HasPrefix(parts[5], before)
	}
	return p.Path == "" || p.Path == parts[5]
}

// Purge takes answers out, those too that are on their way in, and counts those that were there.
func (a *answers) Purge(p Purge) (n int) {
	a.era.Add(1)
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		for key, list := range s.byKey {
			if p.covers(key) {
				n += len(list)
				for _, k := range list {
					s.remove(k)
				}
			}
		}
		s.mu.Unlock()
	}
	return n
}

func (s *answerShard) link(k *kept) {
	k.before, k.after = &s.list, s.list.after
	k.before.after, k.after.before = k, k
}

func (s *answerShard) unlink(k *kept) {
	k.before.after, k.after.before = k.after, k.before
}

func (s *answerShard) remove(k *kept) {
	s.unlink(k)
	s.bytes -= k.size
	list := s.byKey[k.key]
	var left []*kept
	for _, o := range list {
		if o != k {
			left = append(left, o)
		}
	}
	if left == nil {
		delete(s.byKey, k.key)
	} else {
		s.byKey[k.key] = left
	}
}

// maxWaiting bounds how many calls wait for the answer to another one.
const maxWaiting = 1000

// join begins a flight, or returns the one to wait for; wait is nil too where nobody should wait.
func (a *answers) join(key string) (begun, wait *flight) {
	s, h := a.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flights[key]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		s.flights[key] = f
		return f, nil
	}
	if f.waiting >= maxWaiting || a.alone[h%uint64(len(a.alone))].Load() == h {
		return nil, nil
	}
	f.waiting++
	return nil, f
}

// awaited says that a call is on its way to fill a place.
func (a *answers) awaited(key string) bool {
	s, _ := a.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flights[key] != nil
}

// land ends a flight. Where nothing was kept of an answer, nobody need wait the next time.
func (a *answers) land(key string, f *flight, stored, failed bool) {
	s, h := a.shard(key)
	s.mu.Lock()
	if s.flights[key] == f {
		delete(s.flights, key)
	}
	s.mu.Unlock()
	f.failed.Store(failed)
	if !stored && !failed {
		a.alone[h%uint64(len(a.alone))].Store(h)
	}
	close(f.done)
}

// reserve takes room for content that is on its way in, and says whether there is some.
func (a *answers) reserve(n int64) bool {
	if a.filling.Add(n) > a.bound {
		a.filling.Add(-n)
		return false
	}
	return true
}

func (a *answers) release(n int64) { a.filling.Add(-n) }
