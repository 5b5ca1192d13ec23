package metric

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// series are what All would be shown as.
func series(g *Registry) (n, calls, refused int) {
	for _, r := range g.All() {
		s := r.Read()
		if r != g.other {
			n += PerRoute + len(s.Refused)
		}
		for _, k := range s.Calls {
			calls += int(k)
		}
		for _, k := range s.Refused {
			refused += int(k)
		}
	}
	return n, calls, refused
}

func TestSeriesAreBounded(t *testing.T) {
	g := NewRegistry()
	g.SetSeries(1000)
	const routes, reasons = 200, 20
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range routes {
				r := g.Route("api", "", "", fmt.Sprint(i))
				for k := range reasons {
					r.Begin(uint32(w))
					r.Refused(fmt.Sprint("reason.", k))
					r.End(uint32(w), 403, time.Millisecond, 1, 1)
				}
			}
		})
	}
	all.Wait()
	n, calls, refused := series(g)
	if n > 1000 || n < 1000-PerRoute || int64(n) != g.used.Load() {
		t.Errorf("%d series, %d by its own count", n, g.used.Load())
	}
	if want := 4 * routes * reasons; calls != want || refused != want {
		t.Errorf("%d calls, %d refusals, want %d", calls, refused, want)
	}
	if last := g.All()[len(g.All())-1]; last.API != Overflow || last.Read().InFlight != 0 {
		t.Errorf("%+v", last)
	}
	// When all are gone there is room again, also for one that was counted as other before.
	late := g.Route("api", "", "", fmt.Sprint(routes-1))
	g.Forget(nil)
	if n, calls, refused = series(g); n != 0 || g.used.Load() != 0 || calls != 4*routes*reasons || refused != calls {
		t.Errorf("%d series, %d calls, %d refusals after all was forgotten", n, calls, refused)
	}
	if again := g.Route("api", "", "", fmt.Sprint(routes-1)); again == late {
		t.Error("the same route is counted as other for ever")
	} else if again.Begin(1); g.used.Load() != PerRoute {
		t.Errorf("%d series", g.used.Load())
	}
}

// A route that is not called costs nothing, and is gone when no revision has it.
func TestUncalledRoutes(t *testing.T) {
	g := NewRegistry()
	live := map[*Route]bool{}
	for i := range 1000 {
		r := g.Route("api", "", "", fmt.Sprint(i))
		live[r] = i%2 == 0
	}
	if n, _, _ := series(g); n != 0 || len(g.All()) != 0 {
		t.Errorf("%d series", n)
	}
	for r, on := range live {
		if !on {
			delete(live, r)
		}
	}
	g.Forget(live)
	if len(g.routes) != 500 {
		t.Errorf("%d routes are kept", len(g.routes))
	}
}
