package admin

import (
	"net/http"
	"runtime"
	"time"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/resource"
)

// Status is how a node is.
type Status struct {
	Node      string           `json:"node"`
	Version   string           `json:"version"`
	Started   time.Time        `json:"started"`
	Draining  bool             `json:"draining,omitempty"`
	Revision  uint64           `json:"revision"`
	Digest    string           `json:"digest"`
	Loaded    time.Time        `json:"loaded"`
	Reload    ReloadStatus     `json:"reload"`
	Warnings  int              `json:"warnings"`
	Listeners []string         `json:"listeners"`
	Routes    int              `json:"routes"`
	Consumers Consumers        `json:"consumers"`
	Conns     int              `json:"connections"`
	Calls     int64            `json:"calls"`
	Refused   int64            `json:"refused"`
	Panics    int64            `json:"panics"`
	Upstreams []UpstreamStatus `json:"upstreams"`
	Records   calllog.Stats    `json:"records"`
	// KeepFor is how long records are kept, 0 where none are.
	KeepFor  resource.Duration `json:"keepFor,omitempty"`
	Counters *CounterStatus    `json:"counters,omitempty"`
	Memory   uint64            `json:"memory"` // bytes that Go has from the system
}

// records tells how the journal is, and what is lost where there is none.
func (s *Server) records() calllog.Stats {
	if s.Journal != nil {
		return s.Journal.Stats()
	}
	st := calllog.Stats{Node: s.Gateway.Node, Dropped: map[string]uint64{"no-journal": uint64(s.Gateway.Unrecorded.Load())}}
	if s.NoJournal != nil {
		st.LastError, st.LastErrorAt = s.NoJournal.Error(), s.Started
	}
	return st
}

// Consumers counts the directory.
type Consumers struct {
	Applications  int `json:"applications"`
	Credentials   int `json:"credentials"`
	Subscriptions int `json:"subscriptions"`
}

// CounterStatus is how the shared counters are.
type CounterStatus struct {
	counter.StoreStats
	// WhenAway is how calls are decided without them: local, open or closed.
	WhenAway string `json:"whenAway"`
}

// UpstreamStatus is how an upstream is.
type UpstreamStatus struct {
	Name        string         `json:"name"`
	BreakerOpen bool           `json:"breakerOpen,omitempty"`
	Targets     []TargetStatus `json:"targets"`
}

// TargetStatus is how a target is.
type TargetStatus struct {
	Address   string `json:"address"`
	State     string `json:"state"` // up, failing (in rotation, and the last try failed), down or ejected
	InFlight  int64  `json:"inFlight"`
	Idle      int    `json:"idle"`
	Calls     int64  `json:"calls"`
	Failed    int64  `json:"failed"`
	LastError string `json:"lastError,omitempty"`
}

// Status describes the node as of now.
func (s *Server) Status() Status {
	g := s.Gateway
	st := Status{Node: g.Node, Version: s.Version, Started: s.Started, Panics: g.Panics.Load(), Conns: g.Server().Conns()}
	if s.Draining != nil {
		st.Draining = s.Draining()
	}
	if s.LastReload != nil {
		st.Reload = s.LastReload()
	}
	if snap := g.Snapshot(); snap != nil {
		st.Revision, st.Digest, st.Loaded, st.Routes, st.Warnings = snap.Revision, snap.Digest, snap.Loaded, len(snap.Routes), len(snap.Warnings)
		st.Consumers.Applications, st.Consumers.Credentials, st.Consumers.Subscriptions = snap.Consumers.Counts()
		for _, a := range g.Addresses() {
			st.Listeners = append(st.Listeners, a.String())
		}
		if sh := snap.Shared; sh != nil {
			st.Counters = &CounterStatus{sh.Store.Stats(), sh.WhenAway}
		}
		now := time.Now()
		for _, d := range snap.Set.Upstreams {
			u := snap.Upstreams[d.Meta.Name]
			us := UpstreamStatus{Name: u.Name, BreakerOpen: u.BreakerOpen()}
			for _, t := range u.Targets() {
				state := t.State(now)
				if state == "up" && t.Failing() {
					state = "failing"
				}
				us.Targets = append(us.Targets, TargetStatus{Address: t.Address, State: state, InFlight: t.InFlight(), Idle: t.IdleConns(),
					Calls: t.Calls.Load(), Failed: t.Failed.Load(), LastError: t.LastError()})
			}
			st.Upstreams = append(st.Upstreams, us)
		}
	}
	for _, r := range g.Metrics.All() {
		m := r.Read()
		for _, n := range m.Calls {
			st.Calls += n
		}
		for _, n := range m.Refused {
			st.Refused += n
		}
	}
	st.Records = s.records()
	if snap := g.Snapshot(); snap != nil && s.Journal != nil {
		st.KeepFor = snap.Gateway.Records.KeepFor
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	st.Memory = m.Sys - m.HeapReleased
	return st
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) { answer(w, s.Status()) }
