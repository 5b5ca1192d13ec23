package calllog

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// wants is what a filter means, told slowly.
func wants(f Filter, r *Record) bool {
	outcomes := map[Outcome]bool{Allowed: f.Allowed, Relayed: f.Relayed, Refused: f.Refused, Failed: f.Failed, Answered: f.Answered}
	some := f.Allowed || f.Relayed || f.Refused || f.Failed || f.Answered
	reason := f.Reason == "" || r.Reason == f.Reason
	if p, ok := strings.CutSuffix(f.Reason, "*"); ok {
		reason = r.Reason != "" && strings.HasPrefix(r.Reason, p)
	}
	is := func(want, have string) bool { return want == "" || want == have }
	return (f.Since.IsZero() || !r.Start.Before(f.Since)) && (f.Until.IsZero() || r.Start.Before(f.Until)) &&
		(!some || outcomes[r.Outcome]) && reason &&
		is(f.Method, r.Method) && is(f.API, r.API) && is(f.Version, r.Version) && is(f.Stage, r.Stage) && is(f.Route, r.Route) &&
		is(f.Application, r.Application) && is(f.Credential, r.Credential) &&
		r.Status >= f.MinStatus && (f.MaxStatus == 0 || r.Status <= f.MaxStatus) &&
		(!f.Client.IsValid() || r.Client.Unmap() == f.Client.Unmap()) &&
		strings.HasPrefix(r.Path, f.Path) && r.Flags&f.Flags == f.Flags
}

var reasons = []string{"", "rate-limit.exceeded", "rate-limit.burst", "quota.spent", "subscription.pending", "key"}

func drawCall(t *rapid.T, n int) *Record {
	pick := func(label string, from ...string) string { return rapid.SampledFrom(from).Draw(t, label) }
	r := call(n)
	r.Outcome = Outcome(rapid.IntRange(0, 4).Draw(t, "outcome"))
	r.Status = rapid.SampledFrom([]uint16{200, 204, 301, 403, 404, 429, 502}).Draw(t, "status")
	r.Method = pick("method", "GET", "POST", "")
	r.API = pick("api", "orders", "carts", "")
	r.Version = pick("version", "v1", "v2")
	r.Stage = pick("stage", "prod", "dev")
	r.Route = pick("route", "list", "get")
	r.Application = pick("application", "acme-shop", "acme", "")
	r.Credential = pick("credential", "wg_1", "wg_2")
	r.Reason = pick("reason", reasons...)
	r.Path = pick("path", "/", "/prod/orders", "/prod/orders/7", "/prodigy")
	r.Flags = Flags(rapid.IntRange(0, 7).Draw(t, "flags"))
	r.Client = netip.MustParseAddr(pick("client", "203.0.113.7", "::ffff:203.0.113.7", "2001:db8::1", "fe80::1%eth0"))
	r.Start = began.Add(time.Duration(rapid.IntRange(-20, 20).Draw(t, "start")) * time.Second)
	return r
}

func drawFilter(t *rapid.T) Filter {
	maybe := func(label string, from ...string) string {
		if rapid.IntRange(0, 4).Draw(t, "has "+label) > 0 {
			return ""
		}
		return rapid.SampledFrom(from).Draw(t, label)
	}
	rare := func(label string) bool { return rapid.IntRange(0, 3).Draw(t, label) == 0 }
	f := Filter{
		Allowed: rare("allowed"), Relayed: rare("relayed"), Refused: rare("refused"), Failed: rare("failed"), Answered: rare("answered"),
		Method: maybe("method", "GET", "PUT"), API: maybe("api", "orders", "order", "payments"), Version: maybe("version", "v1", "v3"),
		Stage: maybe("stage", "prod"), Route: maybe("route", "get"), Application: maybe("application", "acme", "acme-shop", "other"),
		Credential: maybe("credential", "wg_1", "wg_3"),
		Reason:     maybe("reason", "rate-limit.*", "rate-limit.exceeded", "rate-*", "rate-limit.ex*", "*", "key", "key.*", "none.*", "none"),
		Path:       maybe("path", "/", "/prod", "/prod/", "/dev"),
		Limit:      rapid.SampledFrom([]int{0, 0, 0, 1, 3}).Draw(t, "limit"),
	}
	if rare("since") {
		f.Since = began.Add(time.Duration(rapid.IntRange(-22, 22).Draw(t, "since at")) * time.Second)
	}
	if rare("until") {
		f.Until = began.Add(time.Duration(rapid.IntRange(-22, 22).Draw(t, "until at")) * time.Second)
	}
	if rare("min") {
		f.MinStatus = rapid.SampledFrom([]uint16{300, 403, 599}).Draw(t, "min at")
	}
	if rare("max") {
		f.MaxStatus = rapid.SampledFrom([]uint16{100, 299, 403}).Draw(t, "max at")
	}
	if rare("flags") {
		f.Flags = Flags(rapid.IntRange(0, 15).Draw(t, "flags at"))
	}
	if rare("client") {
		f.Client = netip.MustParseAddr(rapid.SampledFrom([]string{"203.0.113.7", "::ffff:203.0.113.7", "fe80::1%eth0", "fe80::1", "192.0.2.1"}).Draw(t, "client at"))
	}
	return f
}

// Query agrees with the slow filter, whether files are sealed or not.
func TestQueryAgreesWithTheFilter(t *testing.T) {
	base := memoryDir(t)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		dir := filepath.Join(base, fmt.Sprint(n))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		var recs []*Record
		for seq := range 3 {
			s, err := createSegment(dir, uint64(seq+1), 32<<10, "", began)
			if err != nil {
				t.Fatal(err)
			}
			for range rapid.IntRange(0, 5).Draw(t, "records") {
				r := drawCall(t, len(recs))
				var e encoder
				e.measure(r)
				if _, result := s.store(&e); result != storedWell {
					t.Fatal("no room")
				}
				recs = append(recs, r)
			}
			if seq < 2 {
				j := &Journal{Reader: &Reader{dir: dir}, stop: make(chan struct{})}
				close(j.stop)
				if err := j.seal(file{s.seq, s.path}, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		slices.Reverse(recs)
		r := &Reader{dir: dir}
		for range 10 {
			f := drawFilter(t)
			rest := recs
			if i := rapid.IntRange(0, 2*len(recs)).Draw(t, "before"); i < len(recs) {
				f.Before, rest = recs[i].ID, recs[i+1:]
			}
			var want []*Record
			for _, rec := range rest {
				if wants(f, rec) && (f.Limit == 0 || len(want) < f.Limit) {
					want = append(want, rec)
				}
			}
			var got []*Record
			if err := r.Query(context.Background(), f, func(rec *Record) bool { got = append(got, rec); return true }); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, sameAddr); diff != "" {
				t.Fatalf("filter %+v (-want +got)\n%s", f, diff)
			}
		}
	})
}

func TestQueryEndsWhenAsked(t *testing.T) {
	j := tested(t, memoryDir(t), Options{})
	for i := range 2000 {
		j.Append(call(i))
	}
	n := 0
	if err := j.Query(t.Context(), Filter{}, func(*Record) bool { n++; return n < 5 }); err != nil || n != 5 {
		t.Errorf("%d records, %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n = 0
	err := j.Query(ctx, Filter{}, func(*Record) bool {
		if n++; n == 3 {
			cancel()
		}
		return true
	})
	if !errors.Is(err, context.Canceled) || n >= 2000 {
		t.Errorf("%d records, %v", n, err)
	}
	last, err := j.Last(2, Filter{Path: "/prod/orders/19"})
	if err != nil || len(last) != 2 || last[0].ID != call(1999).ID || last[1].ID != call(1998).ID {
		t.Errorf("%d last records, %v", len(last), err)
	}
	if rest, err := j.Last(10, Filter{Before: call(2).ID}); err != nil || len(rest) != 2 || rest[0].ID != call(1).ID {
		t.Errorf("%d records before the third, %v", len(rest), err)
	}
	if rest, err := j.Last(10, Filter{Before: call(2000).ID}); !errors.Is(err, ErrNoRecord) || len(rest) != 0 {
		t.Errorf("%d records before one that is not there, %v", len(rest), err)
	}
	if last, err := j.Last(0, Filter{}); err != nil || len(last) != 0 {
		t.Errorf("%d last records, %v", len(last), err)
	}
}

// The summary of a sealed file answers for it: its records are not looked at.
func TestQuerySkipsFiles(t *testing.T) {
	j := tested(t, memoryDir(t), Options{})
	for i := range 5 {
		for k := range 100 {
			r := call(100*i + k)
			r.API = fmt.Sprintf("api-%d", i)
			r.Client = netip.AddrFrom4([4]byte{192, 0, byte(i), byte(k)})
			if i == 2 && k == 50 {
				r = refused(100*i+k, "rate-limit.exceeded")
				r.Flags = Panicked
				r.Path = "/only"
			}
			j.Append(r)
		}
		rotate(t, j)
	}
	settled(t, j)
	for want, filters := range map[uint64][]Filter{
		0: {
			{API: "api-9"}, {Application: "nobody"}, {Reason: "quota.*"}, {Reason: "quota.spent"}, {Failed: true}, {MinStatus: 500},
			{Client: netip.MustParseAddr("198.51.100.1")}, {Since: began.Add(time.Hour)}, {Until: began}, {Flags: Shadowed}, {Method: "PATCH"},
		},
		100: {
			{API: "api-3"}, {Reason: "rate-limit.*"}, {Reason: "rate-limit.exceeded"}, {Refused: true}, {MinStatus: 403, MaxStatus: 403},
			{Client: netip.MustParseAddr("192.0.4.50")}, {Since: began.Add(401 * time.Millisecond)}, {Until: began.Add(99 * time.Millisecond)}, {Flags: Panicked},
		},
		500: {{Path: "/only"}, {}},
	} {
		for _, f := range filters {
			before := j.looked.Load()
			if _, err := j.Last(1000, f); err != nil {
				t.Fatal(err)
			}
			if got := j.looked.Load() - before; got != want {
				t.Errorf("%+v: looked at %d records, want %d", f, got, want)
			}
		}
	}
}

// A new field of Filter must be compared in match.
func TestFilterFields(t *testing.T) {
	if got := reflect.TypeFor[Filter]().NumField(); got != 22 {
		t.Errorf("Filter has %d fields: teach wants and drawFilter the new one, then change this number", got)
	}
}

func TestFollow(t *testing.T) {
	dir := memoryDir(t)
	j := tested(t, dir, Options{})
	j.Append(call(0)) // before: not followed
	got := make(chan *Record)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	follow := func(f Filter) {
		go func() {
			r, err := OpenReader(dir)
			if err == nil {
				err = r.Follow(ctx, f, func(rec *Record) bool { got <- rec; return true })
			}
			done <- err
		}()
		time.Sleep(50 * time.Millisecond)
	}
	next := func(want *Record) {
		t.Helper()
		select {
		case rec := <-got:
			if diff := cmp.Diff(want, rec, sameAddr); diff != "" {
				t.Fatalf("(-want +got)\n%s", diff)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("nothing came")
		}
	}
	follow(Filter{Refused: true, Limit: 4})
	j.Append(call(1))
	j.Append(refused(2, "a"))
	next(refused(2, "a"))
	rotate(t, j)
	rotate(t, j)
	j.Append(refused(3, "a"))
	next(refused(3, "a"))

	// Its file is deleted, and the node ends and starts again.
	names, _ := filepath.Glob(filepath.Join(dir, "*.journal"))
	for _, name := range names {
		_ = os.Remove(name)
	}

	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = tested(t, dir, Options{Now: time.Now})
	j.Append(refused(4, "a"))
	next(refused(4, "a"))
	j.Append(refused(5, "a"))
	next(refused(5, "a"))
	if err := <-done; err != nil {
		t.Errorf("at the limit: %v", err)
	}

	follow(Filter{})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A follower waits at reserved room, passes it when nobody fills it, and goes to the
// next file when the node died without ending this one.
func TestFollowPassesWhatTheDeadLeft(t *testing.T) {
	dir := memoryDir(t)
	s, _ := writtenSegment(t, dir, 1)
	got := make(chan uint64, 100)
	done := make(chan error)
	go func() {
		r := &Reader{dir: dir, holeWait: 100 * time.Millisecond}
		done <- r.Follow(t.Context(), Filter{Limit: 3}, func(rec *Record) bool {
			_, n := split(rec.ID)
			got <- uint64(n)
			return true
		})
	}()
	time.Sleep(50 * time.Millisecond)
	hole(t, s, call(90), false)
	mustStore(t, s, call(10))
	if n := <-got; n != 10 {
		t.Errorf("record %d, want 10", n)
	}
	next, err := createSegment(dir, 2, minFileBytes, "", began)
	if err != nil {
		t.Fatal(err)
	}
	mustStore(t, next, call(11))
	if n := <-got; n != 11 {
		t.Errorf("record %d, want 11", n)
	}
	mustStore(t, next, call(12))
	if n := <-got; n != 12 {
		t.Errorf("record %d, want 12", n)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A follower loses no record of a node that lives and is slow: it waits for reserved room to be filled, in
// the file in use and in one that is full. Where another node writes behind, it does not.
func TestFollowWaitsForTheSlow(t *testing.T) {
	for _, c := range []struct {
		name  string
		ended bool // the file is full
		dead  bool // and if not, another node writes the next one
		want  []uint64
	}{
		{"in use", false, false, []uint64{90, 10}},
		{"full", true, false, []uint64{90, 10}},
		{"of a dead node", false, true, []uint64{10, 11}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := memoryDir(t)
			s, _ := writtenSegment(t, dir, 1)
			ctx, cancel := context.WithCancel(t.Context())
			got := make(chan uint64, 100)
			done := make(chan error)
			go func() {
				done <- (&Reader{dir: dir, holeWait: time.Hour}).Follow(ctx, Filter{}, func(rec *Record) bool {
					_, n := split(rec.ID)
					got <- uint64(n)
					return true
				})
			}()
			time.Sleep(50 * time.Millisecond)
			fill := reserve(t, s, call(90))
			mustStore(t, s, call(10))
			if c.ended {
				if err := s.finish(); err != nil {
					t.Fatal(err)
				}
			}
			if c.dead || c.ended {
				next, err := createSegment(dir, 2, minFileBytes, "", began)
				if err != nil {
					t.Fatal(err)
				}
				mustStore(t, next, call(11))
			}
			if !c.dead {
				time.Sleep(holeWaitDead + holeWaitDead/2)
				fill()
			}
			for _, want := range c.want {
				if n := <-got; n != want {
					t.Errorf("record %d, want %d", n, want)
				}
			}
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
}
