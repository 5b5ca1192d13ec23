// Package metric counts calls per route: how many, how they ended, how long they took.
//
// Counting is a few atomic additions in stripes, so that cores do not fight over one
// cache line. Routes keep their cells from one revision to the next. The number of cells is
// bounded; routes beyond it share one that says so.
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

// Route is the cell of one route.
type Route struct {
	API, Version, Stage, Name string

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

// Begin counts a call in. stripe is any number that stays with a connection.
func (r *Route) Begin(stripe uint32) { r.cells[stripe%stripes].inFlight.Add(1) }

// End counts it out.
func (r *Route) End(stripe uint32, status int, took time.Duration, in, out int64) {
	c := &r.cells[stripe%stripes]
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
func (r *Route) Refused(code string) { r.refused(code).Add(1) }

func (r *Route) refused(code string) *atomic.Int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refus == nil {
		r.refus = map[string]*atomic.Int64{}
	}
	n := r.refus[code]
	if n == nil {
		n = new(atomic.Int64)
		r.refus[code] = n
	}
	return n
}

// Snapshot is a cell as of one moment.
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
	for i := range r.cells {
		c := &r.cells[i]
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
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Refused = make(map[string]int64, len(r.refus))
	for code, n := range r.refus {
		s.Refused[code] = n.Load()
	}
	return s
}

// Registry holds the cells of routes: those in use, and those of before while there is room.
type Registry struct {
	mu     sync.Mutex // guards what follows
	routes map[key]*Route
	list   []*Route
	// Bound is the largest number of cells.
	Bound int
}

type key struct{ api, version, stage, name string }

// Overflow is what routes beyond the bound are counted under, and routes that were forgotten.
const Overflow = "other"

// Route finds or makes the cell of a route.
func (g *Registry) Route(api, version, stage, name string) *Route {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.routes == nil {
		g.routes = map[key]*Route{}
		if g.Bound == 0 {
			g.Bound = 1000
		}
	}
	k := key{api, version, stage, name}
	if r := g.routes[k]; r != nil {
		return r
	}
	if len(g.list) >= g.Bound {
		k = key{api: Overflow, name: Overflow}
		if r := g.routes[k]; r != nil {
			return r
		}
	}
	r := &Route{API: k.api, Version: k.version, Stage: k.stage, Name: k.name}
	g.routes[k] = r
	g.list = append(g.list, r)
	return r
}

// Crowded says that more than half of the cells are taken.
func (g *Registry) Crowded() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.list) > g.Bound/2
}

// Forget makes room: cells that are not live, and at which no call is, are added to that of the overflow, so
// that no count is lost.
func (g *Registry) Forget(live map[*Route]bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := key{api: Overflow, name: Overflow}
	other := g.routes[k]
	kept := make([]*Route, 0, len(g.list))
	for _, r := range g.list {
		var s Snapshot
		if r != other && !live[r] {
			s = r.Read()
		}
		if r == other || live[r] || s.InFlight > 0 {
			kept = append(kept, r)
			continue
		}
		delete(g.routes, key{r.API, r.Version, r.Stage, r.Name})
		if other == nil {
			other = &Route{API: k.api, Name: k.name}
			g.routes[k] = other
			kept = append(kept, other)
		}
		other.add(s)
	}
	g.list = kept
}

// add counts what another cell has counted.
func (r *Route) add(s Snapshot) {
	c := &r.cells[0]
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

// All are the cells, in the order in which they were first seen.
func (g *Registry) All() []*Route {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]*Route(nil), g.list...)
}
