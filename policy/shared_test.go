package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/whytest/redisserver"
)

// shares gives the testbed a store in this process, whose clock stands still.
func (b *testbed) shares(whenAway string) *miniredis.Miniredis {
	m := miniredis.RunT(b.t)
	b.now = time.Now()
	m.SetTime(b.now)
	b.shareAt("redis://"+m.Addr(), whenAway)
	return m
}

func (b *testbed) shareAt(url, whenAway string) {
	s, err := counter.NewStore(counter.StoreOptions{URL: url, Timeout: 5 * time.Second, Prefix: "test"})
	if err != nil {
		b.t.Fatal(err)
	}
	s.Start()
	b.t.Cleanup(s.Close)
	b.shared = &Shared{Store: s, WhenAway: whenAway, Share: 0.5, At: &reason.Source{Document: "Gateway/gateway", File: "gateway.yaml", Line: 7}}
}

// serves has a call decided by checks, as a gateway does.
func serves(x *Exchange, checks ...Check) reason.Verdict {
	for _, c := range checks {
		if v := c.Check(x); v.Refused() {
			x.Undo()
			return v
		}
	}
	return reason.Verdict{}
}

func stepsOf(checks ...Check) (steps []Step) {
	for _, c := range checks {
		steps = append(steps, Step{Check: c, Phase: Limits})
	}
	return steps
}

// All limits of a call take one round trip; the first that refuses is named, and nothing is spent then.
func TestSharedLimits(t *testing.T) {
	b := newTestbed(t)
	clock := b.shares("local")
	plan := &consumer.Plan{Name: "standard", Rate: &consumer.Rate{Requests: 4, Burst: 4, Period: time.Hour}, Quota: &consumer.Quota{Requests: 100, Period: "year", Zone: time.UTC}}
	b.consumers.AddPlan(plan)
	acme := b.application("acme")
	b.kinds["key-auth"] = true
	rate, quota, places := b.check("rate-limit", `{requests: 5, period: 1h}`), b.check("quota", `{requests: 3, period: year, per: route}`), b.check("concurrency", `{calls: 2}`)
	checks := []Check{rate, quota, places}
	for _, s := range NewPlanSteps(b.consumers.Plans(), b.memory, b.quotas, b.shared) {
		checks = append(checks, s.Check)
	}
	b.route.ShareLimits(stepsOf(checks...))
	call := func() *Exchange {
		x := b.call("GET /")
		x.Application, x.Plan = acme, plan
		return x
	}
	for range 3 {
		x := call()
		wants(t, serves(x, checks...), "")
		x.Finish()
	}
	if asked := b.shared.Store.Stats().Asked; asked != 3 {
		t.Errorf("three calls took %d round trips", asked)
	}
	x := call()
	wants(t, serves(x, checks...), "quota.exceeded", "used all 3 calls of this year", "counted by all calls of this route")
	// What the others would say is known already, and as before the call.
	x.Explaining = true
	v := checks[3].Check(x)
	if used, _ := v.Facts.Find("used", reason.ToOperator); used.Text() != "3" {
		t.Errorf("facts %v", v.Facts)
	}
	x.Finish()
	if asked := b.shared.Store.Stats().Asked; asked != 4 {
		t.Errorf("a refusal took %d round trips", asked-3)
	}
	// Explaining spends nothing, however often.
	for range 5 {
		x := call()
		x.Explaining, x.Now = true, time.Now()
		v := rate.Check(x)
		used, _ := v.Facts.Find("used", reason.ToOperator)
		held, _ := places.Check(x).Facts.Find("in_flight", reason.ToOperator)
		if used.Text() != "3" || held.Text() != "0" {
			t.Errorf("%s used, %s in flight", used.Text(), held.Text())
		}
		wants(t, quota.Check(x), "quota.exceeded")
	}
	// A question about a later time.
	x = call()
	x.Explaining, x.Now = true, time.Now().Add(24*time.Minute+time.Second) // two calls have flown back
	v = rate.Check(x)
	if used, _ := v.Facts.Find("used", reason.ToOperator); used.Text() != "1" {
		t.Errorf("later: %v", v.Facts)
	}
	clock.SetTime(b.now.Add(12 * time.Minute))
	x = call()
	x.Explaining, x.Now = true, time.Now()
	if used, _ := rate.Check(x).Facts.Find("used", reason.ToOperator); used.Text() != "2" {
		t.Errorf("12 minutes later: %s used", used.Text())
	}
}

// What a later check refuses is given back, whatever limits there are.
func TestSharedUndo(t *testing.T) {
	b := newTestbed(t)
	b.shares("local")
	rate, quota, places := b.check("rate-limit", `{requests: 2, period: 1h, per: route}`), b.check("quota", `{requests: 2, period: year, per: route}`), b.check("concurrency", `{calls: 1, per: route}`)
	b.route.ShareLimits(stepsOf(rate, quota, places))
	for range 5 {
		x := b.call("GET /")
		wants(t, serves(x, rate, quota, places), "")
		x.Undo()
		x.Undo() // once is enough
		x.Finish()
	}
	first, second := b.call("GET /"), b.call("GET /")
	wants(t, serves(first, rate, quota, places), "")
	wants(t, serves(second, rate, quota, places), "concurrency.exceeded", "1 call in flight")
	second.Finish()
	first.Finish()
	first.Finish()
	last := b.call("GET /")
	wants(t, serves(last, rate, quota, places), "")
	last.Finish()
	wants(t, serves(b.call("GET /"), rate, quota, places), "rate-limit.exceeded", "wait 30m")
}

// A limit that only watches keeps no other from being spent.
func TestSharedShadow(t *testing.T) {
	b := newTestbed(t)
	b.shares("local")
	rate, quota := b.check("rate-limit", `{requests: 5, period: 1h, per: route}`), b.check("quota", `{requests: 1, period: year, per: route}`)
	steps := stepsOf(rate, quota)
	steps[1].Shadow = true
	b.route.ShareLimits(steps)
	for n := range 6 {
		x := b.call("GET /")
		v := rate.Check(x)
		if v.Refused() != (n == 5) {
			t.Errorf("call %d: refused %v", n, v.Refused())
		}
		if watched := quota.Check(x); watched.Refused() != (n > 0) {
			t.Errorf("call %d: the quota refuses: %v", n, watched.Refused())
		}
		x.Finish()
	}
}

// While the store is away calls are decided as the Gateway says, and their records tell.
func TestSharedAway(t *testing.T) {
	for _, away := range []struct {
		when, code, text, note string
		pass                   int
	}{
		{"local", "rate-limit.exceeded", "all 2 calls that this node lets pass while the shared counters are away (50 % of the limit)", "each limit was counted by this node alone, 50 % of it", 2},
		{"open", "", "", "limits were not counted", 9},
		{"closed", "counter.unavailable", "the counters that the limits of this API rest on cannot be reached", "", 0},
	} {
		t.Run(away.when, func(t *testing.T) {
			b := newTestbed(t)
			b.shares(away.when).Close()
			rate, quota, places := b.check("rate-limit", `{requests: 5, period: 1h, per: route}`), b.check("quota", `{requests: 100, period: year, per: route}`), b.check("concurrency", `{calls: 8, per: route}`)
			b.route.ShareLimits(stepsOf(rate, quota, places))
			for n := range 9 {
				x := b.call("GET /")
				if v := serves(x, rate, quota, places); n < away.pass {
					wants(t, v, "")
				} else {
					wants(t, v, away.code, away.text)
					if got, _ := x.Extra.Lookup("Retry-After"); got == "" {
						t.Error("a refusal without Retry-After")
					}
				}
				if away.note == "" {
					if len(x.Notes) != 0 {
						t.Errorf("notes %q", x.Notes)
					}
				} else if len(x.Notes) != 1 || x.Notes[0].Code != "counters.away" || !strings.Contains(x.Notes[0].Text, away.note) {
					t.Errorf("notes %q", x.Notes)
				}
				x.Explaining = true
				if v := rate.Check(x); away.when == "open" && (v.Refused() || len(v.Facts) == 0) {
					t.Errorf("explained as %v", v.Facts)
				}
				x.Explaining = false
				x.Finish()
			}
			if st := b.shared.Store.Stats(); st.Without < 9 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// A number of its own cannot be shared out below one call.
func TestShareOfSmallLimits(t *testing.T) {
	s := &Shared{Share: 0.1}
	if s.number(1) != 1 || s.number(100) != 10 {
		t.Errorf("%d, %d", s.number(1), s.number(100))
	}
	if r := s.rate(counter.Rate{Requests: 1, Burst: 1, Period: time.Hour}); r.Burst != 1 || r.Period != 10*time.Hour {
		t.Errorf("%+v", r)
	}
}

// BenchmarkLimits compares what a call costs whose limits are counted in memory and in a store.
func BenchmarkLimits(b *testing.B) {
	for _, where := range []string{"memory", "store"} {
		b.Run(where, func(b *testing.B) {
			bed := newTestbed(&testing.T{})
			if where == "store" {
				r, err := redisserver.Start(b.TempDir())
				if err != nil {
					b.Skip(err)
				}
				b.Cleanup(r.Kill)
				s, err := counter.NewStore(counter.StoreOptions{URL: "redis://" + r.Addr, Timeout: 5 * time.Second, Prefix: "test"})
				if err != nil {
					b.Fatal(err)
				}
				s.Start()
				b.Cleanup(s.Close)
				bed.shared = &Shared{Store: s, WhenAway: "closed", Share: 1}
			}
			rate := bed.check("rate-limit", `{requests: 1000000000, period: 1s, per: route}`)
			quota := bed.check("quota", `{requests: 1000000000, period: year, per: route}`)
			bed.route.ShareLimits(stepsOf(rate, quota))
			req := bed.call("GET /").Request
			b.ReportAllocs()
			b.SetParallelism(32)
			before := cpu(b)
			b.RunParallel(func(pb *testing.PB) {
				x := &Exchange{}
				for pb.Next() {
					x.Reset(req, bed.now)
					x.Route = &bed.route
					if v := serves(x, rate, quota); v.Refused() {
						b.Error(v.Reason.Code)
					}
					x.Finish()
				}
			})
			b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}
