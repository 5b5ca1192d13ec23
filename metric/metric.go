// Package metric counts calls per route: how many, how they ended, how long they took.
//
// Counting is a few atomic additions in stripes, so that cores do not fight over one
// cache line. Routes keep their counts from one revision to the next. What costs a monitoring system is the number
// of time series, so that is bounded: routes that find none left share those of one that says so.
package metric

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

const (
	stripes = 8
	classes = 6  // 1xx to 5xx, and 0 for calls without an answer
	buckets = 20 // of durations, each twice the one before
)

// Bounds are the upper ends of the duration buckets in seconds, the last one is open.
var Bounds = func() (b [buckets - 1]float64) {
	for i := range b {
		b[i] = float64(int64(64)<<i) / 1e6 // 64 µs, 128 µs … 16.8 s
	}
	return b
}()

// Route is one route, or what stands for all that found no series.
type Route struct {
	API, Version, Stage, Name string

	registry *Registry
	counts   atomic.Pointer[counts] // its own or those of the overflow; nil before the first call
}

// counts are what the series of a route are made of.
type counts struct {
	cells [stripes]cell
	mu    sync.Mutex // guards refusals
	refus map[string]*atomic.Int64
}

type cell struct {
	class    [classes]atomic.Int64
	bucket   [buckets]atomic.Int64
	nanos    atomic.Int64
	in, out  atomic.Int64
	inFlight atomic.Int64
	_        [64]byte
}

// of are the counts of a route, which it claims with its first call.
func (r *Route) of() *counts {
	if c := r.counts.Load(); c != nil {
		return c
	}
	return r.registry.claim(r)
}

// Begin counts a call in. stripe is any number that stays with a connection.
func (r *Route) Begin(stripe uint32) { r.of().cells[stripe%stripes].inFlight.Add(1) }

// End counts it out.
func (r *Route) End(stripe uint32, status int, took time.Duration, in, out int64) {
	c := &r.of().cells[stripe%stripes]
	c.inFlight.Add(-1)
	k := status / 100
	if k >= classes {
		k = 0
	}
	c.class[k].Add(1)
	c.bucket[bucketOf(took)].Add(1)
	c.nanos.Add(int64(took))
	if in > 0 {
		c.in.Add(in)
	}
	if out > 0 {
		c.out.Add(out)
	}
}

func bucketOf(d time.Duration) int {
	units := uint64(max(d, 0)/time.Microsecond) >> 6 // of 64 µs
	return min(bits.Len64(units), buckets-1)
}

// Refused counts a refusal by its reason. It is off the fast path.
func (r *Route) Refused(code string) {
	if n := r.refused(code); n != nil {
		n.Add(1)
		return
	}
	r.registry.other.refused(code).Add(1)
}

// refused is the count of a reason, nil if there is no series left for it.
func (r *Route) refused(code string) *atomic.Int64 {
	c := r.of()
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.refus[code]
	if n == nil {
		if c != r.registry.other.counts.Load() && !r.registry.take(1) {
			return nil
		}
		if c.refus == nil {
			c.refus = map[string]*atomic.Int64{}
		}
		n = new(atomic.Int64)
		c.refus[code] = n
	}
	return n
}

// Snapshot is what a route has counted up to one moment.
type Snapshot struct {
	Calls    [classes]int64
	Buckets  [buckets]int64
	Seconds  float64
	In, Out  int64
	InFlight int64
	Refused  map[string]int64
}

// Read adds the stripes up.
func (r *Route) Read() (s Snapshot) {
	counts := r.counts.Load()
	if counts == nil {
		return s
	}
	for i := range counts.cells {
		c := &counts.cells[i]
		for k := range s.Calls {
			s.Calls[k] += c.class[k].Load()
		}
		for k := range s.Buckets {
			s.Buckets[k] += c.bucket[k].Load()
		}
		s.Seconds += float64(c.nanos.Load()) / 1e9
		s.In += c.in.Load()
		s.Out += c.out.Load()
		s.InFlight += c.inFlight.Load()
	}
	counts.mu.Lock()
	defer counts.mu.Unlock()
	s.Refused = make(map[string]int64, len(counts.refus))
	for code, n := range counts.refus {
		s.Refused[code] = n.Load()
	}
	return s
}

// PerRoute is how many series a route has besides those of its refusals: calls by class of status, the histogram of their
// times with its sum and count, calls in flight, and bytes in both directions.
const PerRoute = classes + (buckets + 2) + 1 + 2

// DefaultSeries is how many series there are unless SetSeries says otherwise.
const DefaultSeries = 10_000

// Registry holds routes: those in use, and those of before while there is room. Get one from NewRegistry.
type Registry struct {
	bound atomic.Int64 // series of all routes but the overflow
	used  atomic.Int64
	other *Route // the overflow: routes that found no series, and those that were forgotten

	mu     sync.Mutex // guards what follows, and claims
	routes map[key]*Route
	list   []*Route // with counts of their own, in the order of their first calls
}

type key struct{ api, version, stage, name string }

// Overflow is what routes are counted under that find no series, and routes that were forgotten.
const Overflow = "other"

// NewRegistry returns one without routes.
func NewRegistry() *Registry {
	g := &Registry{routes: map[key]*Route{}}
	g.other = &Route{API: Overflow, Name: Overflow, registry: g}
	g.other.counts.Store(&counts{})
	g.SetSeries(DefaultSeries)
	return g
}

// SetSeries bounds the series of all routes. What has been counted already stays. The overflow has some of its own.
func (g *Registry) SetSeries(n int) { g.bound.Store(int64(n)) }

// take takes series if there are as many left.
func (g *Registry) take(n int64) bool {
	for {
		used := g.used.Load()
		if used+n > g.bound.Load() {
			return false
		}
		if g.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

// Route finds or makes a route. It takes no series before its first call.
func (g *Registry) Route(api, version, stage, name string) *Route {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := key{api, version, stage, name}
	if r := g.routes[k]; r != nil && (r.counts.Load() != g.other.counts.Load() || g.used.Load()+PerRoute > g.bound.Load()) {
		return r
	}
	r := &Route{API: api, Version: version, Stage: stage, Name: name, registry: g}
	g.routes[k] = r
	return r
}

// claim gives a route counts of its own, or those of the overflow.
func (g *Registry) claim(r *Route) *counts {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := r.counts.Load(); c != nil {
		return c
	}
	c := g.other.counts.Load()
	if g.take(PerRoute) {
		c = &counts{}
		g.list = append(g.list, r)
	}
	r.counts.Store(c)
	return c
}

// Forget drops routes that are not live. Their counts stay until half of the series are taken; then those at which no call
// is are added to the overflow, so that no count is lost.
func (g *Registry) Forget(live map[*Route]bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for k, r := range g.routes {
		if c := r.counts.Load(); !live[r] && (c == nil || c == g.other.counts.Load()) {
			delete(g.routes, k)
		}
	}
	if g.used.Load() <= g.bound.Load()/2 {
		return
	}
	kept := make([]*Route, 0, len(g.list))
	for _, r := range g.list {
		var s Snapshot
		if !live[r] {
			s = r.Read()
		}
		if live[r] || s.InFlight > 0 {
			kept = append(kept, r)
			continue
		}
		if k := (key{r.API, r.Version, r.Stage, r.Name}); g.routes[k] == r {
			delete(g.routes, k)
		}
		g.other.add(s)
		g.used.Add(-PerRoute - int64(len(s.Refused)))
	}
	g.list = kept
}

// add counts what another route has counted.
func (r *Route) add(s Snapshot) {
	c := &r.counts.Load().cells[0]
	for k, n := range s.Calls {
		c.class[k].Add(n)
	}
	for k, n := range s.Buckets {
		c.bucket[k].Add(n)
	}
	c.nanos.Add(int64(s.Seconds * 1e9))
	c.in.Add(s.In)
	c.out.Add(s.Out)
	for code, n := range s.Refused {
		r.refused(code).Add(n)
	}
}

// All are the routes that have counted something, in the order of their first calls, and the overflow behind them if that has.
func (g *Registry) All() []*Route {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := append([]*Route(nil), g.list...)
	if s := g.other.Read(); len(s.Refused) > 0 || s.InFlight > 0 || s.Calls != [classes]int64{} {
		list = append(list, g.other)
	}
	return list
}
