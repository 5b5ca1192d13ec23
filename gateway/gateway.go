// Package gateway is the data plane: every call is decided, answered or forwarded, and
// recorded. serve.go tells the path of a call from top to bottom; the other files are its steps.
//
// The gateway knows documents only as a compiled snapshot, and stores only as the journal.
package gateway

import (
	"context"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/metric"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/snapshot"
	"github.com/whygate/whygate/wire"
)

// Recorder takes the record of each call. *calllog.Journal is one.
type Recorder interface {
	Append(r *calllog.Record) calllog.Ref
	Amend(ref calllog.Ref, add calllog.Flags, bytesOut int64, duration time.Duration) bool
}

// Gateway serves calls by the snapshot in use.
type Gateway struct {
	Node    string
	Log     *slog.Logger
	Journal Recorder // nil keeps no records
	Metrics *metric.Registry
	Memory  *counter.Memory
	Quotas  *counter.Quotas
	Watch   *wire.Watch
	// MemoryLimit is how much the process may use, in bytes; 0 for no limit.
	MemoryLimit int64

	server  wire.Server
	current atomic.Pointer[snapshot.Snapshot]
	swap    sync.Mutex // one Apply at a time

	nodeID  uint16
	stripes atomic.Uint32
	calls   sync.Pool
	misses  missBudget
	lookups lookups
	unknown *metric.Route // calls that no route serves
	strain  atomic.Pointer[Strain]

	listening sync.Mutex // guards open
	open      map[string]*opened

	// Panics counts checks and handlers that panicked.
	Panics atomic.Int64
	// Unrecorded counts calls that were served without a Journal.
	Unrecorded atomic.Int64
}

// New makes a gateway without documents: it serves nothing before Apply.
func New(node string, log *slog.Logger, journal Recorder, quotas *counter.Quotas) *Gateway {
	h := fnv.New32a()
	h.Write([]byte(node))
	g := &Gateway{
		Node: node, Log: log, Journal: journal, Quotas: quotas,
		Metrics: metric.NewRegistry(), Memory: counter.NewMemory(), Watch: wire.NewWatch(),
		nodeID: uint16(h.Sum32()), open: map[string]*opened{},
	}
	g.unknown = g.Metrics.Route("", "", "", "none")
	g.server = wire.Server{Handler: g, Watch: g.Watch, Log: log, Trusted: g.trusted}
	g.calls.New = func() any { return &call{g: g, stripe: g.stripes.Add(1)} }
	return g
}

// Server is the HTTP server below, for its counts.
func (g *Gateway) Server() *wire.Server { return &g.server }

// Snapshot is the one in use, nil before the first Apply.
func (g *Gateway) Snapshot() *snapshot.Snapshot { return g.current.Load() }

// Purge takes answers out of the caches, of an API, a host and a path as policy.Purge has them, and counts them.
func (g *Gateway) Purge(api, host, path string) int {
	s := g.current.Load()
	if s == nil {
		return 0
	}
	return s.Purge(policy.Purge{API: api, Host: host, Path: path})
}

// Env is what snapshots for this gateway are compiled with.
func (g *Gateway) Env() snapshot.Env {
	return snapshot.Env{Memory: g.Memory, Quotas: g.Quotas, Metrics: g.Metrics, Watch: g.Watch, Log: g.Log, Before: g.current.Load(), CanListen: CanListen}
}

// Apply swaps a snapshot in. Calls in flight go on with the one before.
func (g *Gateway) Apply(s *snapshot.Snapshot) {
	g.swap.Lock()
	defer g.swap.Unlock()
	s.Activate()
	g.server.SetConfig(g.serverConfig(s))
	before := g.current.Swap(s)
	if before != nil {
		before.Retire(s)
	}
	g.Metrics.SetSeries(s.Gateway.Metrics.Series - s.Gateway.Metrics.Series/4) // the rest is for targets
	live := map[*metric.Route]bool{g.unknown: true}
	for _, r := range s.Routes {
		live[r.Stats] = true
	}
	g.Metrics.Forget(live)
}

func (g *Gateway) trusted(a netip.Addr) bool {
	s := g.current.Load()
	return s != nil && s.Trust.Has(a)
}

// Close ends what goes on in the background. The listeners should have been drained.
func (g *Gateway) Close() {
	if s := g.current.Load(); s != nil {
		s.Retire(nil)
	}
	g.Watch.Close()
}

// newID makes the id of a call. Its last half comes from a generator that cannot be predicted (ChaCha8), and repeats itself
// within a millisecond once in ages: whoever knows the ids of some calls neither finds those of others, which they could ask
// the gateway about, nor how many calls there are.
func (g *Gateway) newID(now time.Time) calllog.ID {
	return calllog.NewID(now, g.nodeID, rand.Uint64())
}

// missBudget bounds how many near misses are looked for per second: looking costs more than
// serving, and whoever scans for paths must not make a node slow.
type missBudget struct{ state atomic.Uint64 } // second in the upper half, count in the lower

const missesPerSecond = 2000

func (m *missBudget) take(now time.Time) bool {
	second := uint64(uint32(now.Unix()))
	for {
		old := m.state.Load()
		next := second<<32 | 1
		if old>>32 == second {
			if uint32(old) >= missesPerSecond {
				return false
			}
			next = old + 1
		}
		if m.state.CompareAndSwap(old, next) {
			return true
		}
	}
}

// Drain stops listening and lets calls in flight end. It returns how many connections had to be broken.
func (g *Gateway) Drain(ctx context.Context) int {
	g.closeListeners()
	return g.server.Drain(ctx)
}
