package admin

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/whygate/whygate/metric"
)

// collector reads the gateway's own counts when it is asked; the path of a call knows nothing
// of Prometheus.
type collector struct{ s *Server }

var (
	routeLabels = []string{"api", "version", "stage", "route"}

	callsDesc       = prometheus.NewDesc("whygate_calls_total", "Calls that have ended, by class of status.", append(routeLabels, "class"), nil)
	durationDesc    = prometheus.NewDesc("whygate_call_duration_seconds", "Time from the first byte of a request to just before the last of its answer.", routeLabels, nil)
	refusalsDesc    = prometheus.NewDesc("whygate_refusals_total", "Answers of the gateway from 400 up, by reason.", append(routeLabels, "reason"), nil)
	inFlightDesc    = prometheus.NewDesc("whygate_calls_in_flight", "Calls that are being served.", routeLabels, nil)
	bytesDesc       = prometheus.NewDesc("whygate_content_bytes_total", "Content received from and sent to clients.", append(routeLabels, "direction"), nil)
	connsDesc       = prometheus.NewDesc("whygate_connections", "Open client connections.", nil, nil)
	acceptedDesc    = prometheus.NewDesc("whygate_connections_total", "Client connections accepted.", nil, nil)
	turnedAwayDesc  = prometheus.NewDesc("whygate_connections_refused_total", "Client connections above a limit.", nil, nil)
	handshakesDesc  = prometheus.NewDesc("whygate_tls_handshakes_failed_total", "TLS handshakes that failed.", nil, nil)
	resetsDesc      = prometheus.NewDesc("whygate_http2_rapid_resets_total", "HTTP/2 connections ended because their clients reset too many streams.", nil, nil)
	panicsDesc      = prometheus.NewDesc("whygate_panics_total", "Panics that were caught.", nil, nil)
	revisionDesc    = prometheus.NewDesc("whygate_revision", "The revision in use.", nil, nil)
	loadedDesc      = prometheus.NewDesc("whygate_revision_loaded_timestamp_seconds", "When the revision in use was loaded.", nil, nil)
	reloadOKDesc    = prometheus.NewDesc("whygate_reload_ok", "1 when the last attempt to load documents succeeded.", nil, nil)
	targetUpDesc    = prometheus.NewDesc("whygate_target_up", "1 for targets in rotation.", []string{"upstream", "target"}, nil)
	targetCallsDesc = prometheus.NewDesc("whygate_target_tries_total", "Tries at a target.", []string{"upstream", "target"}, nil)
	targetFailDesc  = prometheus.NewDesc("whygate_target_failures_total", "Tries that failed.", []string{"upstream", "target"}, nil)
	targetBusyDesc  = prometheus.NewDesc("whygate_target_calls_in_flight", "Calls at a target.", []string{"upstream", "target"}, nil)
	breakerDesc     = prometheus.NewDesc("whygate_upstream_breaker_open", "1 while the breaker lets no call through.", []string{"upstream"}, nil)
	recordsDesc     = prometheus.NewDesc("whygate_records_total", "Call records written.", nil, nil)
	droppedDesc     = prometheus.NewDesc("whygate_records_dropped_total", "Call records lost, by cause.", []string{"cause"}, nil)
	unreadableDesc  = prometheus.NewDesc("whygate_journal_unreadable_files", "Journal files that cannot be read.", nil, nil)
	journalDesc     = prometheus.NewDesc("whygate_journal_bytes", "Size of the journal on disk.", nil, nil)
	countersDesc    = prometheus.NewDesc("whygate_rate_limit_counters", "Rates being counted in memory.", nil, nil)
	storeUpDesc     = prometheus.NewDesc("whygate_counter_store_up", "1 while the shared counters answer.", nil, nil)
	storeAskedDesc  = prometheus.NewDesc("whygate_counter_store_calls_total", "Calls whose limits the shared counters counted.", nil, nil)
	storeFailedDesc = prometheus.NewDesc("whygate_counter_store_failures_total", "Times that the shared counters went away.", nil, nil)
	storeAloneDesc  = prometheus.NewDesc("whygate_counter_store_missed_calls_total", "Calls that were decided without the shared counters, as counters.whenAway says.", nil, nil)
)

// Describe sends nothing: the metrics are checked by their golden list.
func (c collector) Describe(chan<- *prometheus.Desc) {}

// Collect reads all counts.
func (c collector) Collect(out chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, v int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	g := c.s.Gateway
	for _, r := range g.Metrics.All() {
		l := []string{r.API, r.Version, r.Stage, r.Name}
		m := r.Read()
		total := uint64(0)
		for k, n := range m.Calls {
			if n == 0 {
				continue
			}
			class := strconv.Itoa(k) + "xx"
			if k == 0 {
				class = "none"
			}
			count(callsDesc, n, append(l, class)...)
			total += uint64(n)
		}
		if total > 0 {
			buckets := map[float64]uint64{}
			sum := uint64(0)
			for i, b := range metric.Bounds {
				sum += uint64(m.Buckets[i])
				buckets[b] = sum
			}
			out <- prometheus.MustNewConstHistogram(durationDesc, total, m.Seconds, buckets, l...)
			count(bytesDesc, m.In, append(l, "in")...)
			count(bytesDesc, m.Out, append(l, "out")...)
		}
		gauge(inFlightDesc, float64(m.InFlight), l...)
		for code, n := range m.Refused {
			count(refusalsDesc, n, append(l, code)...)
		}
	}
	srv := g.Server()
	gauge(connsDesc, float64(srv.Conns()))
	count(acceptedDesc, srv.Accepted.Load())
	count(turnedAwayDesc, srv.TurnedAway.Load())
	count(handshakesDesc, srv.HandshakesFailed.Load())
	count(resetsDesc, srv.RapidResets.Load())
	count(panicsDesc, g.Panics.Load()+srv.Panics.Load())
	gauge(countersDesc, float64(g.Memory.Cells()))
	if snap := g.Snapshot(); snap != nil {
		gauge(revisionDesc, float64(snap.Revision))
		gauge(loadedDesc, float64(snap.Loaded.UnixNano())/1e9)
		if sh := snap.Shared; sh != nil {
			st := sh.Store.Stats()
			gauge(storeUpDesc, flag(st.Up))
			count(storeAskedDesc, st.Asked)
			count(storeFailedDesc, st.Failed)
			count(storeAloneDesc, st.Without)
		}
		now := time.Now()
		left := snap.Gateway.Metrics.Series/4 - len(snap.Upstreams) // for targets
		rest := target{up: true}                                    // of those that find none left
		var others, open bool
		for i, name := range slices.Sorted(maps.Keys(snap.Upstreams)) {
			u := snap.Upstreams[name]
			if i < snap.Gateway.Metrics.Series/4 {
				gauge(breakerDesc, flag(u.BreakerOpen()), name)
			} else {
				open, others = open || u.BreakerOpen(), true
			}
			// Several targets can have the same address, with another path or by another name: they are one
			// series, or Prometheus would get none at all.
			targets := make(map[string]target)
			for _, t := range u.Targets() {
				sum := targets[t.Address]
				sum.up = sum.up || t.State(now) == "up"
				sum.tries += t.Calls.Load()
				sum.failed += t.Failed.Load()
				sum.busy += t.InFlight()
				targets[t.Address] = sum
			}
			for _, address := range slices.Sorted(maps.Keys(targets)) {
				t := targets[address]
				if left -= targetSeries; left > 0 {
					t.tell(count, gauge, name, address)
					continue
				}
				others = true
				rest = target{rest.up && t.up, rest.tries + t.tries, rest.failed + t.failed, rest.busy + t.busy}
			}
		}
		if others {
			gauge(breakerDesc, flag(open), metric.Overflow)
			rest.tell(count, gauge, metric.Overflow, metric.Overflow)
		}
	}
	if c.s.LastReload != nil {
		gauge(reloadOKDesc, flag(c.s.LastReload().OK))
	}
	st := c.s.records()
	count(recordsDesc, int64(st.Appended))
	for cause, n := range st.Dropped {
		count(droppedDesc, int64(n), cause)
	}
	gauge(unreadableDesc, float64(len(st.Unreadable)))
	gauge(journalDesc, float64(st.Bytes))
}

// target is what is counted at one address, or at all that found no series.
type target struct {
	up                  bool
	tries, failed, busy int64
}

// targetSeries is how many series a target has.
const targetSeries = 4

func (t *target) tell(count func(*prometheus.Desc, int64, ...string), gauge func(*prometheus.Desc, float64, ...string), upstream, address string) {
	gauge(targetUpDesc, flag(t.up), upstream, address)
	count(targetCallsDesc, t.tries, upstream, address)
	count(targetFailDesc, t.failed, upstream, address)
	gauge(targetBusyDesc, float64(t.busy), upstream, address)
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	s.metricsOnce.Do(func() {
		reg := prometheus.NewRegistry()
		reg.MustRegister(collector{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		s.metricsHandler = promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	})
	s.metricsHandler.ServeHTTP(w, r)
}
