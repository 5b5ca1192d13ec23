// Package snapshot turns documents into one immutable Snapshot: routes with the
// checks that run on them, the upstreams behind them, the consumers that may call.
//
//	documents ─ Compile ─ Snapshot ─ Activate ─ swapped in by the gateway
//
// Everything that can fail fails in Compile, with all problems at once; a Snapshot
// that exists works. Calls in flight keep the one they began with. Upstreams pass from
// one Snapshot to the next as long as their documents stay the same.
package snapshot

import (
	"crypto/tls"
	"time"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/metric"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/upstream"
)

// Snapshot is a compiled set of documents. It does not change.
type Snapshot struct {
	Revision  uint64
	Digest    string
	Loaded    time.Time
	Set       *resource.Set
	Gateway   resource.Gateway
	Operator  consumer.Owner
	Trust     *policy.Trust
	Consumers *consumer.Directory
	// Shared are the counters that several nodes share, nil if there are none.
	Shared    *policy.Shared
	Routes    []*Route
	Upstreams map[string]*upstream.Upstream
	Listeners []*Listener
	// Watched are files besides the documents that the snapshot was made of: certificates.
	Watched []string
	// Warnings are the lints.
	Warnings resource.Problems

	router  *router
	mounts  []mount  // longest first
	written []mount  // as the documents have them
	stages  []string // where stages are mounted, the first of them in order
	fresh   []*upstream.Upstream
	// kept is what policies keep beyond a revision, freshKept what of it began with this one.
	kept      map[string]policy.Kept
	freshKept []policy.Kept
}

// Route is a route with everything a call needs.
type Route struct {
	policy.Route
	Methods       []string
	Steps         []policy.Step
	RequestEdits  []policy.RequestEditor
	ResponseEdits []policy.ResponseEditor
	Filters       []policy.ContentFilter
	Upstream      *upstream.Upstream
	// Timeout of the whole call, 0 for none.
	Timeout time.Duration
	Legacy  bool
	// Strip is how many bytes of the path the upstream does not get, Prefix what they are.
	Strip      int
	Prefix     string
	Hosts      []string
	Deprecated bool
	Stats      *metric.Route

	segments []string // of the whole path, mount included
	broken   bool     // its document has an error that leaves open what it serves
}

// Listener is a listener of the documents, with its certificates read.
type Listener struct {
	resource.Listener
	TLS *tls.Config // nil for plain HTTP

	certificates certificates
}

// mount is a path that routes of an API lie below.
type mount struct {
	path  string
	stage string
	api   string
	route *Route // any route of it
}

// Activate begins what the snapshot needs in the background. It is called once, when the
// snapshot is swapped in; then Retire is called on the one before.
func (s *Snapshot) Activate() {
	for _, u := range s.fresh {
		u.Start()
	}
	for _, k := range s.freshKept {
		k.Start()
	}
	s.fresh, s.freshKept = nil, nil
}

// Retire ends what next does not use of upstreams and of what policies keep.
func (s *Snapshot) Retire(next *Snapshot) {
	for name, u := range s.Upstreams {
		if next == nil || next.Upstreams[name] != u {
			u.Close()
		}
	}
	for name, k := range s.kept {
		if next == nil || next.kept[name] != k {
			k.Close()
		}
	}
}

// Purge takes answers out of the caches of all policies, and counts them.
func (s *Snapshot) Purge(p policy.Purge) (n int) {
	for _, k := range s.kept {
		if cache, ok := k.(interface{ Purge(policy.Purge) int }); ok {
			n += cache.Purge(p)
		}
	}
	return n
}

// keep is policy.Env.Keep.
func (c *compiler) keep(name string, create func() policy.Kept) policy.Kept {
	k := c.kept[name]
	if k == nil && c.Before != nil {
		k = c.Before.kept[name]
	}
	if k == nil {
		k = create()
		c.freshKept = append(c.freshKept, k)
	}
	c.kept[name] = k
	return k
}

// Match finds the route of a call, or nil; then Miss says why not.
func (s *Snapshot) Match(x *policy.Exchange) *Route {
	q := search{method: x.Method, fields: x.Fields, path: x.Path}
	r := s.router.match(x.Host, &q)
	if x.Method == "OPTIONS" {
		// A route that lists no methods is no answer to what a page asks about another one.
		if asked := s.preflight(x); r == nil || asked != nil && asked.answersPreflights() && (asked.Mount != r.Mount || asked.Template != r.Template) {
			r = asked
		}
	}
	return r
}
