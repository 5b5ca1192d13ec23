package policy

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// cached drives a cache as the gateway does.
type cached struct {
	*testbed
	check *cacheCheck
}

func newCached(t *testing.T, config string) *cached {
	b := newTestbed(t)
	return &cached{b, b.check("cache", config).(*cacheCheck)}
}

// ask makes a call at a time after the beginning; without a hit the upstream answers with these fields. It
// returns Cache-Status and what the client got.
func (c *cached) ask(after time.Duration, edit func(x *Exchange), request []string, status int, answer ...string) (says string, a *Answer) {
	c.t.Helper()
	x := c.call(request...)
	x.Now = c.now.Add(after)
	if edit != nil {
		edit(x)
	}
	if v := c.check.Check(x); v.Refused() {
		return v.Reason.Code, nil
	}
	defer x.Finish()
	if x.Answer == nil {
		h := &wire.Head{Status: status, Length: -1}
		for _, l := range answer {
			name, value, _ := strings.Cut(l, ": ")
			h.Fields.Add(name, value)
		}
		if x.Store == nil {
			return "", nil
		}
		if a = nil; status == 304 {
			a = x.Store.NotModified(x, h)
		}
		if a == nil {
			x.Store.Head(x, h)
			x.Store.Piece([]byte("bo"), false)
			x.Store.Piece([]byte("dy"), true)
			a = &Answer{Status: status, Fields: h.Fields, Body: []byte("body")}
		}
	} else {
		a = x.Answer
	}
	says, _ = a.Fields.Lookup("Cache-Status")
	return strings.TrimPrefix(says, "whygate; "), a
}

func httpTime(t time.Time) string { return t.UTC().Format(http.TimeFormat) }

// How long an answer is kept (RFC 9111 §4.2) and for whom.
func TestCacheFreshness(t *testing.T) {
	now := newTestbed(t).now
	for _, c := range []struct {
		config  string
		answer  []string
		request string // of the second call
		after   time.Duration
		want    string // of the second call, as it begins
	}{
		{`{}`, []string{"Cache-Control: max-age=60"}, "", 59 * time.Second, "hit; ttl=1"},
		{`{}`, []string{"Cache-Control: max-age=60"}, "", 60 * time.Second, "fwd=uri-miss"}, // without a validator a stale one is as good as none, see below
		{`{}`, []string{"Cache-Control: max-age=60", "ETag: \"a\""}, "", 60 * time.Second, "fwd=stale"},
		{`{}`, []string{"Cache-Control: max-age=60", "Age: 50"}, "", 9 * time.Second, "hit; ttl=1"},
		{`{}`, []string{"Cache-Control: max-age=60", "Age: 50"}, "", 11 * time.Second, "fwd=stale"},
		{`{}`, []string{"Cache-Control: max-age=60", "Age: 5, 5"}, "", 0, "fwd=uri-miss"},
		{`{}`, []string{"Cache-Control: max-age=60", "Age: 5", "Age: 5"}, "", 0, "fwd=uri-miss"},
		{`{}`, []string{"Cache-Control: max-age=60", "Age: -5"}, "", 0, "fwd=uri-miss"},
		{`{}`, []string{"Cache-Control: max-age=60", "Date: " + httpTime(now.Add(-50*time.Second))}, "", 11 * time.Second, "fwd=stale"},
		{`{}`, []string{"Cache-Control: max-age=1, s-maxage=60"}, "", 30 * time.Second, "hit; ttl=30"},
		{`{}`, []string{"Cache-Control: max-age=60, s-maxage=1"}, "", 30 * time.Second, "fwd=stale"},
		{`{}`, []string{"Cache-Control: max-age=60", "Expires: 0"}, "", 30 * time.Second, "hit"},
		{`{}`, []string{"Expires: " + httpTime(now.Add(time.Minute)), "Date: " + httpTime(now)}, "", 30 * time.Second, "hit; ttl=30"},
		{`{}`, []string{"Expires: 0"}, "", time.Second, "fwd=uri-miss"},
		{`{}`, []string{"Cache-Control: max-age=60, max-age=10"}, "", 30 * time.Second, "fwd=stale"},
		{`{}`, []string{"Cache-Control: max-age=99999999999999999999"}, "", 1000 * time.Hour, "hit"},
		{`{}`, []string{"Cache-Control: max-age=1.5"}, "", 0, "fwd=uri-miss"},
		{`{}`, []string{"Cache-Control: max-age=\"60\""}, "", 30 * time.Second, "hit"},
		{`{}`, []string{"Cache-Control: ext=\"a, no-store\", max-age=60"}, "", 30 * time.Second, "hit"},
		{`{}`, []string{"Cache-Control: MAX-AGE=60"}, "", 30 * time.Second, "hit"},
		{`{}`, []string{"Cache-Control: max-age=60, no-store"}, "", 0, "fwd=uri-miss"},
		{`{}`, []string{"Cache-Control: max-age=60", "Cache-Control: private"}, "", 0, "fwd=uri-miss"},
		{`{}`, []string{"Cache-Control: max-age=60, no-cache=\"a\"", "ETag: \"a\""}, "", 0, "fwd=stale"},
		{`{}`, nil, "", 0, "fwd=uri-miss"},
		{`{ttl: 1m}`, nil, "", 59 * time.Second, "hit; ttl=1"},
		{`{ttl: 1m}`, []string{"Cache-Control: no-store"}, "", 0, "fwd=uri-miss"},
		{`{ttl: 1m}`, []string{"Content-Type: text/event-stream; charset=utf-8"}, "", 0, "fwd=uri-miss"},
		{`{ttl: 1m}`, []string{"Cache-Control: max-age=1"}, "", 2 * time.Second, "fwd=stale"},
		{`{}`, []string{"Cache-Control: max-age=60"}, "Cache-Control: max-age=10", 20 * time.Second, "fwd=request"},
		{`{}`, []string{"Cache-Control: max-age=60"}, "Cache-Control: min-fresh=50", 20 * time.Second, "fwd=request"},
		{`{}`, []string{"Cache-Control: max-age=60"}, "Cache-Control: max-stale=30", 80 * time.Second, "hit; ttl=-20"},
		{`{}`, []string{"Cache-Control: max-age=60"}, "Cache-Control: max-stale", 800 * time.Second, "hit"},
		{`{}`, []string{"Cache-Control: max-age=60, must-revalidate"}, "Cache-Control: max-stale", 80 * time.Second, "fwd=stale"},
		{`{}`, []string{"Cache-Control: s-maxage=60"}, "Cache-Control: max-stale", 80 * time.Second, "fwd=stale"},
		{`{}`, []string{"Cache-Control: max-age=60"}, "Cache-Control: only-if-cached", 80 * time.Second, "cache.only-if-cached"},
		{`{}`, []string{"Cache-Control: max-age=60"}, "Authorization: x", 0, "fwd=bypass"},
		{`{}`, []string{"Cache-Control: public, max-age=60"}, "Authorization: x", 0, "hit"},
		{`{}`, []string{"Cache-Control: s-maxage=60"}, "Cookie: x", 0, "hit"},
		{`{}`, []string{"Cache-Control: max-age=60, must-revalidate"}, "Cookie: x", 0, "hit"},
		{`{}`, []string{"Cache-Control: max-age=60", "Vary: X-A, Accept"}, "Accept: x", 0, "fwd=vary-miss"},
		{`{}`, []string{"Cache-Control: max-age=60", "Vary: X-A, X-B"}, "Accept: x", 0, "hit"},
		{`{}`, []string{"Cache-Control: max-age=60", "Vary: authorization"}, "", 0, "fwd=uri-miss"},
		{`{maxAnswer: 3B}`, []string{"Cache-Control: max-age=60"}, "", 0, "fwd=uri-miss"},
	} {
		b := newCached(t, c.config)
		b.ask(0, nil, []string{"GET /a"}, 200, c.answer...)
		request := []string{"GET /a"}
		if c.request != "" {
			request = append(request, c.request)
		}
		got, _ := b.ask(c.after, nil, request, 500)
		if c.want == "fwd=uri-miss" && strings.HasPrefix(got, "fwd=stale") {
			c.want = "fwd=stale" // it lies there until it is replaced
		}
		if !strings.HasPrefix(got, c.want) {
			t.Errorf("%v, then %q after %v: %q, want %q", c.answer, c.request, c.after, got, c.want)
		}
	}
}

// What one caller was answered is for nobody else, unless the upstream says so.
func TestCacheCredentials(t *testing.T) {
	app := &consumer.Application{Name: "acme"}
	for _, c := range []struct {
		name   string
		first  func(*Exchange)
		second func(*Exchange)
		answer string
		hit    bool
	}{
		{"application", func(x *Exchange) { x.Application = app }, nil, "max-age=60", false},
		{"subject", func(x *Exchange) { x.Identity = &consumer.Identity{Method: "jwt", Subject: "ann"} }, nil, "max-age=60", false},
		{"nobody, then an application", nil, func(x *Exchange) { x.Application = app }, "max-age=60", false},
		{"the same application", func(x *Exchange) { x.Application = app }, func(x *Exchange) { x.Application = app }, "max-age=60", false},
		{"anonymous", func(x *Exchange) { x.Identity = &consumer.Identity{Method: "anonymous"} }, nil, "max-age=60", true},
		{"public", func(x *Exchange) { x.Application = app }, nil, "public, max-age=60", true},
	} {
		b := newCached(t, `{ttl: 1m}`)
		b.ask(0, c.first, []string{"GET /a"}, 200, "Cache-Control: "+c.answer)
		got, _ := b.ask(0, c.second, []string{"GET /a"}, 500)
		if strings.HasPrefix(got, "hit") != c.hit {
			t.Errorf("%s: %s", c.name, got)
		}
	}
}

func TestCacheKeys(t *testing.T) {
	b := newCached(t, `{ignore: [utm_*, session]}`)
	keep := []string{"Cache-Control: max-age=60"}
	b.ask(0, nil, []string{"GET /a?x=1&y=2&x=0"}, 200, keep...)
	for request, hit := range map[string]bool{
		"GET /a?x=1&x=0&y=2": true, "GET /a?y=2&utm_source=z&x=1&x=0&session=9": true, "GET /a?x=0&x=1&y=2": false, "GET /a": false, "GET /a?x=1&y=3&x=0": false, "HEAD /a?x=1&y=2&x=0": true, "GET /A?x=1&y=2&x=0": false,
		"GET /a?x=1&y=2&x=0&utm_x=1;y=9": false, "GET /a?x=1&y=2&x=0&utm": false, "GET /a?x=1&y=2&x=0&utm_=%26": true,
	} {
		if got, _ := b.ask(0, nil, []string{request, "Cache-Control: only-if-cached"}, 500); strings.HasPrefix(got, "hit") != hit {
			t.Errorf("%s: %s", request, got)
		}
	}
	b.ask(0, nil, []string{"GET /e"}, 200, keep...)
	for _, request := range [][]string{{"GET /e", "Host: other.test"}, {"GET /e?"}, {"GET /e?a"}} {
		if got, _ := b.ask(0, nil, append(request, "Cache-Control: only-if-cached"), 500); strings.HasPrefix(got, "hit") != (request[0] == "GET /e?") {
			t.Errorf("%v: %s", request, got)
		}
	}
	if got, _ := b.ask(0, func(x *Exchange) { x.Scheme = "http" }, []string{"GET /e"}, 500); !strings.HasPrefix(got, "fwd") {
		t.Errorf("another scheme: %s", got)
	}
}

func TestCacheRevalidation(t *testing.T) {
	b := newCached(t, `{}`)
	first := []string{"Cache-Control: max-age=10", "ETag: \"v1\"", "Last-Modified: Sun, 22 Nov 2026 10:00:00 GMT", "X-A: old", "Content-Type: text/plain"}
	b.ask(0, nil, []string{"GET /a"}, 200, first...)

	x := b.call("GET /a", `If-None-Match: "mine"`)
	x.Now = b.now.Add(20 * time.Second)
	b.check.Check(x)
	o := &wire.Outgoing{}
	o.Fields.Add("If-None-Match", `"mine"`)
	b.check.EditRequest(x, o)
	if v, _ := o.Fields.Lookup("If-None-Match"); v != `"v1"` || o.Fields.Count("If-None-Match") != 1 || o.Fields.Count("If-Modified-Since") != 1 {
		t.Errorf("%v", o.Fields)
	}
	x.Finish()

	// 304: what is kept holds on, with what is new about it.
	says, a := b.ask(20*time.Second, nil, []string{"GET /a"}, 304, "Cache-Control: max-age=100", "X-A: new", "Content-Encoding: x", "Set-Cookie2: x")
	if says != "fwd=stale; fwd-status=304; stored" || a.Status != 200 || string(a.Body) != "body" {
		t.Errorf("%s %+v", says, a)
	}
	if v, _ := a.Fields.Lookup("X-A"); v != "new" || a.Fields.Get(wire.ContentType) != "text/plain" || a.Fields.Count("ETag") != 1 || a.Fields.Count("Content-Encoding") != 0 {
		t.Errorf("%v", a.Fields)
	}
	if says, a := b.ask(110*time.Second, nil, []string{"GET /a", "If-Modified-Since: Sun, 22 Nov 2026 10:00:00 GMT"}, 500); !strings.HasPrefix(says, "hit; ttl=10") || a.Status != 304 || a.Body != nil {
		t.Errorf("%s %+v", says, a)
	}
	if _, a := b.ask(110*time.Second, nil, []string{"GET /a", "If-Modified-Since: Sun, 22 Nov 2026 09:00:00 GMT"}, 500); a.Status != 200 {
		t.Errorf("%+v", a)
	}
	// It may no longer be kept: this call has it, and nobody after it.
	if says, a := b.ask(200*time.Second, nil, []string{"GET /a"}, 304, "Cache-Control: no-store"); says != "fwd=stale; fwd-status=304" || string(a.Body) != "body" {
		t.Errorf("%s %+v", says, a)
	}
	if says, _ := b.ask(200*time.Second, nil, []string{"GET /a"}, 500); !strings.HasPrefix(says, "fwd=uri-miss") {
		t.Errorf("%s", says)
	}
	// Something else in its place, which is not to be kept.
	b.ask(0, nil, []string{"GET /b"}, 200, first...)
	b.ask(20*time.Second, nil, []string{"GET /b"}, 404)
	if says, _ := b.ask(20*time.Second, nil, []string{"GET /b"}, 500); !strings.HasPrefix(says, "fwd=uri-miss") {
		t.Errorf("%s", says)
	}
	// A failure of the upstream takes nothing away.
	b.ask(0, nil, []string{"GET /c"}, 200, first...)
	b.ask(20*time.Second, nil, []string{"GET /c"}, 503)
	if says, _ := b.ask(20*time.Second, nil, []string{"GET /c"}, 500); !strings.HasPrefix(says, "fwd=stale") {
		t.Errorf("%s", says)
	}
	// A change of the same URL does, and one that failed does not.
	b.ask(0, nil, []string{"GET /d"}, 200, first...)
	b.ask(0, nil, []string{"DELETE /d"}, 403)
	if says, _ := b.ask(0, nil, []string{"GET /d"}, 500); !strings.HasPrefix(says, "hit") {
		t.Errorf("%s", says)
	}
	b.ask(0, nil, []string{"POST /other"}, 201, "Location: https://evil.test/d", "Content-Location: http://shop.test/d", "Location: ://")
	if says, _ := b.ask(0, nil, []string{"GET /d"}, 500); !strings.HasPrefix(says, "hit") {
		t.Errorf("%s", says)
	}
	b.ask(0, nil, []string{"GET /sub/x?a=b"}, 200, first...)
	b.ask(0, nil, []string{"POST /sub/y"}, 201, "Location: ../d", "Content-Location: https://shop.test/sub/x?a=b")
	for _, path := range []string{"GET /d", "GET /sub/x?a=b"} {
		if says, _ := b.ask(0, nil, []string{path}, 500); !strings.HasPrefix(says, "fwd=uri-miss") {
			t.Errorf("%s: %s", path, says)
		}
	}
	b.ask(0, nil, []string{"GET /d"}, 200, first...)
	b.ask(0, nil, []string{"DELETE /d"}, 204)
	if says, _ := b.ask(0, nil, []string{"GET /d"}, 500); !strings.HasPrefix(says, "fwd=uri-miss") {
		t.Errorf("%s", says)
	}
}

// What is stale, and the upstream fails (RFC 5861).
func TestCacheStale(t *testing.T) {
	validated := []string{"ETag: \"v1\""}
	for _, c := range []struct {
		config, control string
		request         string // of the second call
		after           time.Duration
		given           bool
	}{
		{`{}`, "max-age=10, stale-if-error=30", "", 39 * time.Second, true},
		{`{}`, "max-age=10, stale-if-error=30", "", 41 * time.Second, false},
		{`{}`, "max-age=10", "", 11 * time.Second, false},
		{`{staleIfError: 30s}`, "max-age=10", "", 39 * time.Second, true},
		{`{staleIfError: 30s}`, "max-age=10, stale-if-error=0", "", 11 * time.Second, false},
		{`{staleIfError: 30s}`, "s-maxage=10", "", 11 * time.Second, false},
		{`{staleIfError: 30s}`, "max-age=10, must-revalidate", "", 11 * time.Second, false},
		{`{staleIfError: 30s}`, "max-age=10, proxy-revalidate", "", 11 * time.Second, false},
		{`{staleIfError: 30s}`, "max-age=10, no-cache", "", 11 * time.Second, false},
		{`{}`, "s-maxage=10, stale-if-error=30", "", 11 * time.Second, true},
		{`{}`, "max-age=10, stale-if-error=30, must-revalidate", "", 11 * time.Second, false},
		{`{}`, "max-age=10", "Cache-Control: stale-if-error=30", 39 * time.Second, true},
		{`{}`, "max-age=10, must-revalidate", "Cache-Control: stale-if-error=30", 11 * time.Second, false},
		{`{}`, "max-age=10, stale-if-error=30", "Cache-Control: no-cache", 5 * time.Second, false},
		{`{}`, "max-age=10, stale-if-error=30", "Authorization: x", 11 * time.Second, false},
		{`{}`, "public, max-age=10, stale-if-error=30", "Authorization: x", 11 * time.Second, true},
	} {
		for _, fields := range [][]string{nil, validated} {
			if fields == nil && strings.Contains(c.control, "no-cache") {
				continue // is not kept at all
			}
			b := newCached(t, c.config)
			b.ask(0, nil, []string{"GET /a"}, 200, append([]string{"Cache-Control: " + c.control}, fields...)...)
			lines := []string{"GET /a"}
			if c.request != "" {
				lines = append(lines, c.request)
			}
			x := b.call(lines...)
			x.Now = b.now.Add(c.after)
			if v := b.check.Check(x); v.Refused() || x.Answer != nil || x.Store == nil {
				t.Fatalf("%+v: %v %v", c, v, x.Answer)
			}
			if a := x.Store.Failed(x, 503, "it answered 503"); (a != nil) != c.given {
				t.Errorf("%+v: %+v", c, a)
			} else if a != nil {
				if says, _ := a.Fields.Lookup("Cache-Status"); a.Status != 200 || string(a.Body) != "body" || !strings.HasPrefix(says, "whygate; fwd=stale; fwd-status=503; ttl=-") || a.Fields.Count("Age") != 1 {
					t.Errorf("%+v: %+v", c, a)
				}
			}
			x.Finish()
		}
	}

	// While a call asks for it anew, others have what is stale.
	for _, c := range []struct {
		control string
		given   bool
	}{{"max-age=10, stale-while-revalidate=30", true}, {"max-age=10", false}, {"max-age=10, stale-while-revalidate=5", false}, {"s-maxage=10, stale-while-revalidate=30", true}, {"max-age=10, must-revalidate, stale-while-revalidate=30", false}} {
		b := newCached(t, `{wait: 0s}`)
		b.ask(0, nil, []string{"GET /a"}, 200, "Cache-Control: "+c.control)
		ask := func() *Exchange {
			x := b.call("GET /a")
			x.Now, x.Waiting = b.now.Add(20*time.Second), patient{}
			b.check.Check(x)
			return x
		}
		first, second := ask(), ask()
		if first.Answer != nil || (second.Answer != nil) != c.given {
			t.Errorf("%s: the first has %v, the second %v", c.control, first.Answer, second.Answer)
		}
		first.Finish()
		second.Finish()
		if third := ask(); third.Answer != nil {
			t.Errorf("%s: nobody asks for it, and the third has %v", c.control, third.Answer)
		}
	}
}

// patient waits as long as it takes.
type patient struct{}

func (patient) Wait(done <-chan struct{}, _ time.Duration) bool { <-done; return true }

// FuzzByteRange: what is cut out lies within.
func FuzzByteRange(f *testing.F) {
	for _, v := range []string{"bytes=0-3", "bytes=95-", "bytes=-5", "bytes=0-0,5-6", "bytes=5-2", "items=1-2", "bytes=-0", "bytes=-", "bytes=9223372036854775807-", "bytes=-18446744073709551615", "bytes=0-18446744073709551615", "Bytes= 1-1 "} {
		f.Add(v, int64(100))
	}
	f.Fuzz(func(t *testing.T, v string, size int64) {
		size &= 1<<40 - 1
		start, end, ok := ByteRange(v, size)
		if ok && (start < 0 || start >= end || end > size) {
			t.Errorf("%q of %d bytes is %d to %d", v, size, start, end)
		}
	})
}

// Ranges of one part, and what is none.
func TestByteRange(t *testing.T) {
	for v, want := range map[string]string{
		"bytes=0-3": "0 4 true", "bytes=95-": "95 100 true", "bytes=-5": "95 100 true", "bytes=-500": "0 100 true", "bytes=0-500": "0 100 true", "bytes=99-99": "99 100 true",
		"bytes=0-0,5-6": "", "bytes=100-": "", "bytes=5-2": "", "bytes=-0": "", "bytes=-": "", "bytes=": "", "items=0-1": "", "bytes=a-b": "", "bytes=+1-2": "", "": "",
	} {
		start, end, ok := ByteRange(v, 100)
		if got := fmt.Sprint(start, end, ok); ok != (want != "") || ok && got != want {
			t.Errorf("%q: %s, want %s", v, got, want)
		}
	}
}

// What is taken out is gone, also what was on its way in.
func TestCachePurge(t *testing.T) {
	fill := func(b *cached) {
		for _, call := range []string{"GET /a", "GET /a?x=1", "GET /a/b", "GET /b"} {
			b.ask(0, nil, []string{call}, 200, "Cache-Control: max-age=60")
		}
	}
	for _, c := range []struct {
		purge Purge
		want  int
	}{
		{Purge{}, 4}, {Purge{Path: "/a"}, 2}, {Purge{Path: "/a*"}, 3}, {Purge{Path: "/a/*"}, 1}, {Purge{Path: "/*"}, 4}, {Purge{Path: "/c"}, 0},
		{Purge{Host: "SHOP.test"}, 4}, {Purge{Host: "other.test"}, 0}, {Purge{API: "other"}, 0}, {Purge{API: "orders", Path: "/b"}, 1},
	} {
		b := newCached(t, `{}`)
		fill(b)
		if n := b.check.answers.Purge(c.purge); n != c.want {
			t.Errorf("%+v: %d, want %d", c.purge, n, c.want)
		}
	}
	b := newCached(t, `{}`)
	x := b.call("GET /a")
	b.check.Check(x)
	h := &wire.Head{Status: 200, Length: -1}
	h.Fields.Add("Cache-Control", "max-age=60")
	x.Store.Head(x, h)
	b.check.answers.Purge(Purge{})
	x.Store.Piece([]byte("body"), true)
	x.Finish()
	if says, _ := b.ask(0, nil, []string{"GET /a"}, 200, "Cache-Control: max-age=60"); says != "fwd=uri-miss; stored" {
		t.Errorf("after a purge: %s", says)
	}
	if says, _ := b.ask(0, nil, []string{"GET /a"}, 500); !strings.HasPrefix(says, "hit") {
		t.Errorf("later: %s", says)
	}
}

// Explaining changes nothing.
func TestCacheExplains(t *testing.T) {
	b := newCached(t, `{}`)
	b.ask(0, nil, []string{"GET /a"}, 200, "Cache-Control: max-age=60")
	for request, want := range map[string]string{"GET /a": "hit, 0 s old", "GET /b": "nothing is kept for this URL", "POST /a": "not asked: POST"} {
		x := b.call(request)
		x.Explaining = true
		v := b.check.Check(x)
		if f, ok := v.Facts.Find("answer", reason.ToAnyone); !ok || f.Text() != want || (x.Answer != nil) != strings.HasPrefix(want, "hit") || x.Store != nil || len(x.Notes) > 0 {
			t.Errorf("%s: %v", request, v.Facts)
		}
	}
}

// The memory is bounded whatever comes, and the books agree with what is there.
func TestCacheBound(t *testing.T) {
	for _, bound := range []int64{4 << 10, 64 << 10, 8 << 20} {
		a := newAnswers(bound, 2<<10)
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(w), uint64(bound)))
				for range 3000 {
					key := fmt.Sprint("key ", r.IntN(500))
					fs := wire.Fields{{Name: "A", Value: fmt.Sprint(r.IntN(30))}}
					switch r.IntN(5) {
					case 0:
						a.forget(key)
					case 1, 2:
						a.find(key, fs)
					default:
						a.put(&kept{key: key, size: int64(300 + r.IntN(2000)), vary: []wire.Field{fs[0]}}, fs)
					}
				}
			})
		}
		wg.Wait()
		total := int64(0)
		for i := range a.shards {
			s := &a.shards[i]
			listed, keyed, bytes := 0, 0, int64(0)
			for k := s.list.after; k != &s.list; k = k.after {
				listed++
				bytes += k.size
			}
			for key, list := range s.byKey {
				keyed += len(list)
				if len(list) == 0 || len(list) > maxVariants {
					t.Errorf("%s has %d answers", key, len(list))
				}
			}
			if listed != keyed || bytes != s.bytes || bytes > s.bound {
				t.Errorf("bound %d: %d listed, %d by key, %d bytes, %d in the books", bound, listed, keyed, bytes, s.bytes)
			}
			total += bytes
		}
		if total > bound || total == 0 {
			t.Errorf("%d bytes in a cache of %d", total, bound)
		}
		if a.Close(); a.shards[0].bytes != 0 {
			t.Error("a closed cache keeps its answers")
		}
	}
	a := newAnswers(100, 10)
	if !a.reserve(60) || a.reserve(60) || !a.reserve(40) {
		t.Error("more is let in than there is room for")
	}
}

// Nobody waits twice for what cannot be kept.
func TestCacheFlights(t *testing.T) {
	a := newAnswers(1<<20, 1<<10)
	first, wait := a.join("k")
	if first == nil || wait != nil {
		t.Fatal("the first call does not begin")
	}
	if begun, wait := a.join("k"); begun != nil || wait != first {
		t.Error("the second call does not wait for it")
	}
	a.land("k", first, false, false)
	<-first.done
	second, _ := a.join("k")
	if begun, wait := a.join("k"); begun != nil || wait != nil {
		t.Error("calls wait for what was not kept the last time")
	}
	a.put(&kept{key: "k", size: 10}, nil)
	a.land("k", second, true, false)
	a.join("k")
	_, third := a.join("k")
	if third == nil {
		t.Fatal("calls do not wait for what was kept the last time")
	}
	a.land("k", third, false, true)
	if begun, _ := a.join("k"); !third.failed.Load() || begun == nil {
		t.Error("those who wait do not hear that the upstream failed")
	}
	if _, wait := a.join("k"); wait == nil {
		t.Error("calls do not wait since the upstream failed")
	}
}

func TestCacheConfiguration(t *testing.T) {
	b := newTestbed(t)
	for config, want := range map[string]string{
		`{size: 1KiB}`: "does not fit", `{wait: 1h}`: "cannot wait", `{ttl: unlimited}`: "unlimited", `{statuses: [206]}`: "not kept", `{ignore: ["a*b"]}`: "no name of a parameter", `{size: 0}`: "1",
	} {
		if _, problems := b.compile("cache", config); !problems.HasErrors() || !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: %v, want %s", config, problems, want)
		}
	}
	b.kinds["key-auth"] = true
	if _, problems := b.compile("cache", `{ttl: 1m}`); len(problems) != 1 || problems[0].Code != "cache.credentials" {
		t.Errorf("%v", problems)
	}
}

func FuzzCacheControl(f *testing.F) {
	for _, s := range []string{`max-age=60, private="a, b"`, `no-cache`, `,,=,"`, `s-maxage="1`, `a="\",no-store"`} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, v, etags string) {
		d := control(wire.Fields{{Name: "Cache-Control", Value: v}})
		for _, n := range []time.Duration{d.maxAge, d.sMaxAge, d.minFresh, d.maxStale} {
			if n < -1 || n > maxFresh {
				t.Fatalf("%q: %v", v, n)
			}
		}
		matchesETag(etags, `"a"`)
		preference(wire.Fields{{Name: "Prefer", Value: v}})
		if q, _ := acceptance(wire.Fields{{Name: "Accept-Encoding", Value: v, ID: wire.AcceptEncoding}}, "gzip"); q < 0 || q > 1000 {
			t.Fatalf("%q weighs %d", v, q)
		}
	})
}
