package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/whytest"
	"github.com/whygate/whygate/whytest/redisserver"
)

// cluster starts three nodes that count together in a store of their own.
func cluster(t *testing.T, engine, counters, policies string) ([]*whytest.Node, *redisserver.Server) {
	t.Helper()
	r, err := redisserver.Start(t.TempDir())
	if err == redisserver.ErrNone {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Kill)
	up := whytest.Upstream(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	spec := fmt.Sprintf("  counters: {store: redis, url: \"redis://%s/0\", timeout: 5s%s}\n", r.Addr, counters)
	var nodes []*whytest.Node
	for range 3 {
		nodes = append(nodes, whytest.Start(t, engine, whytest.GatewayDocument(engine, spec)+"---\n"+whytest.API(up.URL, "/", policies)))
	}
	return nodes, r
}

// loadNodes calls all nodes from several goroutines until more returns false, and counts the answers.
func loadNodes(t *testing.T, nodes []*whytest.Node, workers int, more func() bool, seen func(status int, began, ended time.Time)) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}, Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	var wait sync.WaitGroup
	for _, n := range nodes {
		for range workers {
			wait.Go(func() {
				for more() {
					began := time.Now()
					res, err := client.Get(n.URL("/"))
					if err != nil {
						t.Errorf("a call failed: %v", err)
						return
					}
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
					seen(res.StatusCode, began, time.Now())
				}
			})
		}
	}
	wait.Wait()
}

// TestThreeNodesKeepOneLimit: over several periods three nodes together let as many calls pass as one would. Bounds
// are those of the time that has passed, whatever the machine was busy with.
func TestThreeNodesKeepOneLimit(t *testing.T) {
	const requests = 400 // a second
	nodes, _ := cluster(t, "wire", "", fmt.Sprintf("    - rate-limit: {requests: %d, period: 1s, per: route}", requests))
	start := time.Now()
	var mu sync.Mutex
	passed := 0
	var ends []time.Time
	var first, last time.Time // the end of the first call that passed, the begin of the last that was refused
	loadNodes(t, nodes, 3, func() bool { return time.Since(start) < 3*time.Second }, func(status int, began, ended time.Time) {
		mu.Lock()
		defer mu.Unlock()
		ends = append(ends, ended)
		switch status {
		case 200:
			passed++
			if first.IsZero() || ended.Before(first) {
				first = ended
			}
		case 429:
			if began.After(last) {
				last = began
			}
		default:
			t.Errorf("a call was answered %d", status)
		}
	})
	end := time.Now()
	if last.IsZero() {
		t.Skip("this machine is too slow to reach the limit")
	}
	slices.SortFunc(ends, time.Time.Compare)
	for i := 1; i < len(ends); i++ {
		if ends[i].Sub(ends[i-1]) > 900*time.Millisecond {
			t.Skip("this machine stood still for so long that some of the limit flowed back unused")
		}
	}
	most := requests + requests*end.Sub(start).Seconds() + 1
	least := requests + requests*last.Sub(first).Seconds() - 1
	t.Logf("%d calls passed, the limit is between %.1f and %.1f", passed, least, most)
	if n := float64(passed); n > most*1.01 || n < least*0.99 {
		t.Errorf("%d calls passed, the limit is between %.1f and %.1f", passed, least, most)
	}
}

// TestStoreKilledUnderLoad: no call is lost when the store dies, records say what was counted alone, and
// once it is back the count is exact again.
func TestStoreKilledUnderLoad(t *testing.T) {
	for _, when := range []string{"local", "open", "closed"} {
		t.Run(when, func(t *testing.T) {
			nodes, server := cluster(t, "wire", ", whenAway: "+when, "    - quota: {requests: 600, period: year, per: route}\n    - concurrency: {calls: 1000, per: route}")
			var answers [600]atomic.Int64
			var stop atomic.Bool
			killed := make(chan struct{})
			go func() {
				defer close(killed)
				for answers[200].Load() < 100 {
					time.Sleep(time.Millisecond)
				}
				server.Kill()
				for _, n := range nodes {
					for n.Snapshot().Shared.Store.Stats().Without < 50 {
						time.Sleep(time.Millisecond)
					}
				}
				stop.Store(true)
			}()
			loadNodes(t, nodes, 3, func() bool { return !stop.Load() }, func(status int, _, _ time.Time) { answers[status].Add(1) })
			<-killed
			for status := range answers {
				n := answers[status].Load()
				if n > 0 && status != 200 && status != 429 && !(when == "closed" && status == 503) {
					t.Errorf("%d calls were answered %d", n, status)
				}
			}
			if when == "closed" && answers[503].Load() == 0 {
				t.Error("nothing was refused")
			}
			for _, n := range nodes {
				if when == "closed" {
					rec := n.Last(func(r *calllog.Record) bool { return r.Reason == "counter.unavailable" })
					if rec.Status != 503 || rec.Check != "quota" {
						t.Errorf("%+v", rec)
					}
					continue
				}
				rec := n.Last(func(r *calllog.Record) bool { return r.Flags&calllog.Hinted != 0 })
				d, err := gateway.DecodeDetail(rec.Detail)
				if err != nil || len(d.Hints) != 1 || d.Hints[0].Code != "counters.away" || !strings.Contains(d.Hints[0].Text, server.Addr) {
					t.Errorf("hints %+v, %v", d.Hints, err)
				}
			}
			if err := server.Again(); err != nil {
				t.Fatal(err)
			}
			for _, n := range nodes {
				for !n.Snapshot().Shared.Store.Stats().Up {
					time.Sleep(time.Millisecond)
				}
			}
			var calls, passed atomic.Int64
			loadNodes(t, nodes, 3, func() bool { return calls.Add(1) <= 900 }, func(status int, _, _ time.Time) {
				if status == 200 {
					passed.Add(1)
				}
			})
			if passed.Load() != 600 {
				t.Errorf("%d of 600 passed after the store was back", passed.Load())
			}
		})
	}
}

// Explaining asks the store and spends nothing, on whichever node.
func TestExplainShared(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		nodes, _ := cluster(t, engine, "", "    - rate-limit: {requests: 2, period: 1h, per: route}")
		for i := range 2 {
			for _, n := range nodes {
				e, err := gateway.Explain(n.Snapshot(), gateway.Question{URL: "/"})
				if err != nil || !e.Passes {
					t.Fatalf("%+v, %v", e, err)
				}
			}
			if a := nodes[i].Call("GET", "/", ""); a.StatusCode != 200 || !strings.HasPrefix(a.Header.Get("RateLimit"), fmt.Sprintf(`"rate-limit";r=%d;t=`, 1-i)) {
				t.Errorf("call %d: %d %s", i, a.StatusCode, a.Header.Get("RateLimit"))
			}
		}
		e, err := gateway.Explain(nodes[2].Snapshot(), gateway.Question{URL: "/"})
		if err != nil || e.Passes || e.Verdict.Reason.Code != "rate-limit.exceeded" {
			t.Fatalf("%+v, %v", e, err)
		}
		if len(e.Ways) == 0 || !strings.HasPrefix(e.Ways[0].Changes[0].Text, "wait ") {
			t.Errorf("ways %+v", e.Ways)
		}
		if a := nodes[2].Call("GET", "/", ""); a.StatusCode != 429 || a.Header.Get("Retry-After") == "" {
			t.Errorf("%d", a.StatusCode)
		}
	})
}

// The connection outlives revisions that do not change it; one that changes it begins anew.
func TestSharedOverRevisions(t *testing.T) {
	nodes, server := cluster(t, "wire", "", "    - rate-limit: {requests: 2, period: 1h, per: route}")
	n := nodes[0]
	up := whytest.Upstream(t, func(http.ResponseWriter, *http.Request) {})
	store := n.Snapshot().Shared.Store
	for _, c := range []struct {
		prefix string
		same   bool
	}{{"whygate", true}, {"other", false}} {
		spec := fmt.Sprintf("  counters: {store: redis, url: \"redis://%s/0\", timeout: 5s, prefix: %s}\n", server.Addr, c.prefix)
		if ps := n.Apply(whytest.GatewayDocument("wire", spec) + "---\n" + whytest.API(up.URL, "/", "    - rate-limit: {requests: 1, period: 1h, per: route}")); ps.HasErrors() {
			t.Fatal(ps)
		}
		if same := n.Snapshot().Shared.Store == store; same != c.same {
			t.Errorf("prefix %s: the same connection: %v", c.prefix, same)
		}
		if a := n.Call("GET", "/", ""); a.StatusCode != 200 {
			t.Errorf("prefix %s: %d", c.prefix, a.StatusCode)
		}
	}
	if ps := n.Apply(whytest.API(up.URL, "/", "")); ps.HasErrors() || n.Snapshot().Shared != nil {
		t.Errorf("%v", ps)
	}
}
