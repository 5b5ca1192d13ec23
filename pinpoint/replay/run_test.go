package replay

import (
	"context"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// causes is a handful of the catalogue.
var causes = []*pinpoint.Cause{
	cause("user-agent-blocked", 403, "ua-browser passes"),
	cause("hotlink-referer", 403, "referer-same passes", "referer-drop passes"),
	cause("ip-family-mismatch", 403, "ip4 passes", "ip6 passes"),
	cause("rate-limit-as-403", 403, "wait passes"),
	cause("cdn-cached-refusal", 403, "cache-bust passes"),
	cause("method-denied-by-rule", 403, "method-get passes", "method-head passes"),
	cause("waf-crs-anomaly", 403, "body-benign passes", "path-nonexistent same"),
	cause("waf-body-limit", 403, "body-shrink passes", "path-nonexistent same"),
	cause("waf-content-type-policy", 403, "ctype-json passes", "path-nonexistent same"),
	cause("app-business-rule", 403, "path-nonexistent other"),
	cause("host-not-allowed", 403, "host-noport passes", "host-canonical passes"),
	cause("trailing-slash", 403, "slash-add passes", "slash-strip passes"),
	cause("auth-credentials-invalid", 403, "auth-drop other", "auth-corrupt same", "auth-swap passes"),
	cause("role-insufficient", 403, "auth-swap passes", "auth-drop other", "auth-corrupt other"),
	cause("ip-denied", 403, "from-elsewhere passes"),
	cause("gw-route-missing", 403, "path-nonexistent same"),
	cause("rate-limit", 429, "wait passes"),
	{ID: "refuser-only", Pseudo: true},
}

func cause(id string, status int, expect ...string) *pinpoint.Cause {
	c := &pinpoint.Cause{ID: id, Statuses: []int{status}}
	for _, e := range expect {
		op, shows, _ := strings.Cut(e, " ")
		c.Expect = append(c.Expect, pinpoint.Expect{Operator: op, Shows: shows})
	}
	return c
}

// counter is a server that counts what reaches it, by class.
type counter struct {
	*httptest.Server
	mu      sync.Mutex
	total   int
	refused int
	unsafe  int // unsafe methods on a real path
	decoy   int // unsafe methods on a decoy
	noted   int // requests that carry the id of the run
}

type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) { r.status = status; r.ResponseWriter.WriteHeader(status) }

func serve(t *testing.T, h http.HandlerFunc) *counter {
	t.Helper()
	c := &counter{}
	c.Server = httptest.NewServer(c.count(h))
	t.Cleanup(c.Close)
	return c
}

func (c *counter) count(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{w, 200}
		h(rec, r)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.total++
		if rec.status == 403 {
			c.refused++
		}
		if r.Method != "GET" && r.Method != "HEAD" && r.Method != "OPTIONS" {
			if strings.Contains(r.URL.Path, "whygate-probe-") {
				c.decoy++
			} else {
				c.unsafe++
			}
		}
		if r.Header.Get("X-Whygate-Probe") != "" {
			c.noted++
		}
	}
}

const page = "<html><h1>403 Forbidden</h1></html>"

func forbid(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(403)
	io.WriteString(w, page)
}

// recorded is the answer that forbid gives, as a recording has it.
func recorded() *pinpoint.Answer {
	return &pinpoint.Answer{Status: 403, Header: pinpoint.Header{{Name: "Content-Type", Value: "text/html"}}, Body: []byte(page)}
}

// diagnose runs the experiments and checks what must hold for every run.
func diagnose(t *testing.T, srv *counter, c *pinpoint.Case, o Options) Result {
	t.Helper()
	o.Send.Pace = -1
	var last Event
	o.Events = func(e Event) { last = e }
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	res, err := Run(ctx, c, nil, causes, o)
	if err != nil {
		t.Fatal(err)
	}
	limit, strikes := max(o.Requests, 0), max(o.Strikes, 0)
	if limit == 0 {
		limit = Requests
	}
	if strikes == 0 {
		strikes = Strikes
	}
	if res.Sent > limit || res.Strikes > strikes {
		t.Errorf("above budget: %d requests, %d strikes", res.Sent, res.Strikes)
	}
	if len(res.Answers) != len(res.Experiments) {
		t.Errorf("%d answers of %d experiments", len(res.Answers), len(res.Experiments))
	}
	if last.Kind == "" {
		t.Error("no event")
	}
	if srv != nil {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		answered := 0
		for _, a := range res.Answers {
			if a != nil && a.Status != 0 {
				answered++
			}
		}
		if srv.total > limit || srv.refused > strikes || srv.total != answered || srv.total > res.Sent {
			t.Errorf("the server counts %d requests, %d refused; the result says %d", srv.total, srv.refused, res.Sent)
		}
		if !o.SideEffects && srv.unsafe > 0 {
			t.Errorf("%d unsafe requests without consent", srv.unsafe)
		}
		if !o.Probe && !o.SideEffects && srv.decoy > 0 {
			t.Errorf("%d decoys without consent", srv.decoy)
		}
		if srv.noted != srv.unsafe+srv.decoy {
			t.Errorf("%d requests carry the id of the run, %d should", srv.noted, srv.unsafe+srv.decoy)
		}
	}
	for _, c := range res.Clues {
		if c.Source != pinpoint.FromExperiment || c.Says == "" || strings.ContainsAny(c.Says, "\x1b\n") {
			t.Errorf("clue %+v", c)
		}
	}
	return res
}

// weightOf is the sum of what clues say of a cause.
func weightOf(res Result, id string) (w float64) {
	for _, c := range res.Clues {
		if c.Cause == id && c.Against {
			w -= c.Weight
		} else if c.Cause == id {
			w += c.Weight
		}
	}
	return w
}

// proved are the causes that a clue proves.
func proved(res Result) (ids []string) {
	for _, c := range res.Clues {
		if c.Weight >= pinpoint.Certain && !c.Against && !slices.Contains(ids, c.Cause) {
			ids = append(ids, c.Cause)
		}
	}
	return ids
}

func trail(res Result) string {
	var b strings.Builder
	for _, e := range res.Experiments {
		fmt.Fprintf(&b, "%s %s: %d %s flip=%t %s\n", e.Operator, e.Method, e.Status, e.Shows, e.Flip, e.Skipped)
	}
	fmt.Fprintf(&b, "%s, stopped: %q, sent %d\n", res.Baseline, res.Stopped, res.Sent)
	for _, c := range res.Clues {
		fmt.Fprintf(&b, "  %s %s %.1f against=%t\n", c.ID, c.Cause, c.Weight, c.Against)
	}
	return b.String()
}

func wantProved(t *testing.T, res Result, id string) {
	t.Helper()
	if p := proved(res); !slices.Equal(p, []string{id}) {
		t.Errorf("proved %v, want %s\n%s", p, id, trail(res))
	}
}

func curl(u string, fields ...string) *pinpoint.Request {
	return get(u, append([]string{"User-Agent", "curl/8.5.0", "Accept", "*/*"}, fields...)...)
}

func TestSingleChanges(t *testing.T) {
	for _, c := range []struct {
		name    string
		refuses func(r *http.Request) bool
		path    string
		fields  []string
		edit    func(c *pinpoint.Case)
		proves  string
	}{
		{name: "user agent", proves: "user-agent-blocked", path: "/a.html",
			refuses: func(r *http.Request) bool { return strings.HasPrefix(r.UserAgent(), "curl") }},
		{name: "referer", proves: "hotlink-referer", path: "/a.jpg", fields: []string{"Referer", "https://other.example/"},
			refuses: func(r *http.Request) bool { return strings.Contains(r.Referer(), "other.example") }},
		{name: "host", proves: "host-not-allowed", path: "/", fields: []string{"Host", "shop.test:8080"},
			refuses: func(r *http.Request) bool { return r.Host == "shop.test:8080" }},
		{name: "slash", proves: "trailing-slash", path: "/docs",
			refuses: func(r *http.Request) bool { return r.URL.Path == "/docs" }},
		{name: "other identity", proves: "role-insufficient", path: "/admin", fields: []string{"Authorization", "Bearer aaaa"},
			refuses: func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer aaaa" },
			edit:    func(c *pinpoint.Case) { c.Swap = pinpoint.Header{{Name: "Authorization", Value: "Bearer bbbb"}} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
				switch a := r.Header.Get("Authorization"); {
				case c.refuses(r):
					forbid(w)
				case c.name == "slash" && r.URL.Path != "/docs/":
					w.WriteHeader(404)
				case c.edit != nil && a != "Bearer bbbb":
					w.WriteHeader(401)
				}
			})
			k := caseOf(curl(srv.URL+c.path, c.fields...))
			if c.edit != nil {
				c.edit(k)
			}
			wantIn := func(res Result) {
				if !slices.Contains(proved(res), c.proves) {
					t.Errorf("not proved\n%s", trail(res))
				}
				for _, id := range proved(res) {
					if id != c.proves && weightOf(res, id) >= weightOf(res, c.proves) {
						t.Errorf("%s is as likely\n%s", id, trail(res))
					}
				}
				if res.Baseline != Reproduced {
					t.Error(res.Baseline)
				}
			}
			wantIn(diagnose(t, srv, k, Options{}))
			k.Exchanges[0].Answer = recorded() // with a recording it is the same
			srv.total, srv.refused = 0, 0
			wantIn(diagnose(t, srv, k, Options{}))
		})
	}
}

func TestAddressFamily(t *testing.T) {
	l6, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("this machine has no IPv6 on loopback: ", err)
	}
	port := l6.Addr().(*net.TCPAddr).Port
	l4, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Skip("the port is taken on IPv4: ", err)
	}
	srv := &counter{}
	h := srv.count(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.RemoteAddr, "[") {
			forbid(w)
		}
	})
	s6, s4 := &http.Server{Handler: h}, &http.Server{Handler: h}
	go s6.Serve(l6)
	go s4.Serve(l4)
	defer s6.Close()
	defer s4.Close()
	wantProved(t, diagnose(t, srv, caseOf(curl(fmt.Sprintf("http://[::1]:%d/", port))), Options{}), "ip-family-mismatch")
}

func TestCachedRefusal(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery == "" && r.URL.Path == "/a" && r.Method == "GET" {
			w.Header().Set("X-Cache-Status", "HIT")
			w.Header().Set("Age", "12")
			forbid(w)
		}
	})
	res := diagnose(t, srv, caseOf(curl(srv.URL+"/a")), Options{})
	wantProved(t, res, "cdn-cached-refusal")
	if weightOf(res, "trailing-slash") >= pinpoint.Strong {
		t.Errorf("another URL passes for the same reason\n%s", trail(res))
	}
}

func TestMethodRuleSendsNoPOST(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			forbid(w)
		}
	})
	r := curl(srv.URL+"/api/items", "Content-Type", "application/json")
	r.Method, r.Body = "POST", []byte(`{"a":1}`)
	c := caseOf(r)
	c.Exchanges[0].Answer = recorded()
	res := diagnose(t, srv, c, Options{})
	if res.Baseline != Assumed || weightOf(res, "method-denied-by-rule") < pinpoint.Fair {
		t.Errorf("%s", trail(res))
	}
	if !slices.ContainsFunc(res.Experiments, func(e pinpoint.Experiment) bool { return strings.Contains(e.Skipped, "--probe") }) {
		t.Errorf("nothing says what --probe would allow\n%s", trail(res))
	}
	c.Exchanges[0].Answer = nil // without a recording there is nothing to hold an answer against
	srv.total, srv.refused = 0, 0
	if res := diagnose(t, srv, c, Options{}); res.Baseline != NotSent || res.Sent != 0 {
		t.Errorf("%s", trail(res))
	}
	if res := diagnose(t, srv, c, Options{SideEffects: true}); res.Baseline != Reproduced || srv.unsafe == 0 {
		t.Errorf("%s", trail(res))
	}
}

func TestBodyRuleByDecoy(t *testing.T) {
	rule := func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		switch {
		case strings.Contains(string(b), "' OR '"):
			forbid(w)
		case r.URL.Path != "/tickets":
			w.WriteHeader(404)
		}
	}
	srv := serve(t, rule)
	r := curl(srv.URL+"/tickets", "Content-Type", "application/json")
	r.Method, r.Body = "POST", []byte(`{"title":"help","comment":"it says 1' OR '1'='1 when I save","n":42}`)
	c := caseOf(r)
	c.Exchanges[0].Answer = recorded()
	res := diagnose(t, srv, c, Options{})
	if len(proved(res)) > 0 || srv.decoy > 0 {
		t.Errorf("%s", trail(res))
	}
	srv = serve(t, rule)
	r.URL = srv.URL + "/tickets"
	res = diagnose(t, srv, c, Options{Probe: true})
	wantProved(t, res, "waf-crs-anomaly")
	if srv.unsafe != 0 || srv.decoy < 4 {
		t.Errorf("%d posts, %d decoys\n%s", srv.unsafe, srv.decoy, trail(res))
	}
	// An application that refuses knows no decoy.
	srv = serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/tickets" && r.Method == "POST" {
			forbid(w)
		} else {
			w.WriteHeader(404)
		}
	})
	r.URL = srv.URL + "/tickets"
	res = diagnose(t, srv, c, Options{Probe: true})
	if weightOf(res, "waf-crs-anomaly") >= 0 || weightOf(res, "app-business-rule") <= 0 || len(proved(res)) > 0 {
		t.Errorf("%s", trail(res))
	}
}

func TestSizeIsNotContent(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch b, _ := io.ReadAll(r.Body); {
		case len(b) > 1000:
			forbid(w)
		case r.URL.Path != "/tickets":
			w.WriteHeader(404)
		}
	})
	r := curl(srv.URL+"/tickets", "Content-Type", "application/json")
	r.Method, r.Body = "POST", []byte(`{"comment":"`+strings.Repeat("it's long ", 300)+`"}`)
	c := caseOf(r)
	c.Exchanges[0].Answer = recorded()
	wantProved(t, diagnose(t, srv, c, Options{Probe: true}), "waf-body-limit")
}

func TestAnyPathPasses(t *testing.T) { // one page for all paths, and a rule for one of them
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/docs" {
			forbid(w)
		}
	})
	if res := diagnose(t, srv, caseOf(curl(srv.URL+"/docs")), Options{}); len(proved(res)) > 0 {
		t.Errorf("%s", trail(res))
	}
}

func TestRateLimitAs403(t *testing.T) {
	n := 0
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n++; n > 5 {
			forbid(w)
		}
	})
	c := caseOf(curl(srv.URL + "/"))
	c.Exchanges[0].Answer = recorded()
	res := diagnose(t, srv, c, Options{})
	if w := weightOf(res, "rate-limit-as-403"); w < pinpoint.Strong || res.Sent > 8 || res.Baseline != Reproduced {
		t.Errorf("%.1f after %d\n%s", w, res.Sent, trail(res))
	}
}

func TestFlakyIsNotProved(t *testing.T) {
	for _, percent := range []int{10, 50, 90} {
		wrong := 0
		for seed := range int64(40) {
			random := rand.New(rand.NewSource(seed*97 + int64(percent)))
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if random.Intn(100) < percent {
					forbid(w)
				}
			})
			c := caseOf(curl(srv.URL+"/a.jpg", "Referer", "https://other.example/", "Accept-Language", "de"))
			c.Exchanges[0].Answer = recorded()
			res := diagnose(t, srv, c, Options{})
			if res.Baseline != Reproduced && slices.ContainsFunc(res.Experiments, func(e pinpoint.Experiment) bool { return e.Flip }) {
				t.Errorf("chance is marked as proof\n%s", trail(res))
			}
			if len(proved(res)) > 0 {
				wrong++
				t.Logf("%d %%, seed %d:\n%s", percent, seed, trail(res))
			}
			srv.Close()
		}
		// Chance can imitate seven turns in a row; it must stay the exception, and never at 10 %.
		if wrong > 1 || percent == 10 && wrong > 0 {
			t.Errorf("%d %% refused by chance: proved %d of 40 times", percent, wrong)
		}
	}
}

func TestVanishes(t *testing.T) {
	n := 0
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n++; n <= 3 { // repaired while we look
			forbid(w)
		}
	})
	res := diagnose(t, srv, caseOf(curl(srv.URL+"/docs")), Options{})
	if res.Baseline != NotReproduced || len(proved(res)) > 0 {
		t.Errorf("%s", trail(res))
	}
	// It was repaired before, or it never was refused.
	srv = serve(t, func(w http.ResponseWriter, r *http.Request) {})
	c := caseOf(curl(srv.URL + "/docs"))
	if res := diagnose(t, srv, c, Options{}); res.Baseline != NotReproduced || res.Baseline.Outcome() != pinpoint.NotReproduced {
		t.Errorf("%s", trail(res))
	}
	c.Exchanges[0].Answer = &pinpoint.Answer{Status: 200}
	srv.total = 0
	if res, _ := Run(context.Background(), c, nil, causes, Options{}); res.Baseline != NotReproduced || res.Sent != 0 {
		t.Errorf("%s", trail(res))
	}
}

func TestRateUsedUpAtOnce(t *testing.T) {
	for _, answer := range []func(w http.ResponseWriter){forbid, func(w http.ResponseWriter) { w.WriteHeader(403) }} {
		n := 0
		srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if n++; n > 1 {
				answer(w)
			}
		})
		c := caseOf(curl(srv.URL + "/"))
		c.Line = &pinpoint.LogLine{Status: 403}
		if res := diagnose(t, srv, c, Options{}); weightOf(res, "rate-limit-as-403") < pinpoint.Strong || res.Sent > 8 {
			t.Errorf("%s", trail(res))
		}
	}
}

// TestOneEffectAtMost: consent to side effects is no leave to create ten orders.
func TestOneEffectAtMost(t *testing.T) {
	orders := 0
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/orders":
			w.WriteHeader(404)
		case r.Method == "POST" && strings.HasPrefix(r.UserAgent(), "curl"):
			forbid(w)
		case r.Method == "POST":
			orders++
		}
	})
	r := curl(srv.URL+"/orders", "Content-Type", "application/json", "Referer", "https://other.example/")
	r.Method, r.Body = "POST", []byte(`{"a":"b"}`)
	res := diagnose(t, srv, caseOf(r), Options{SideEffects: true})
	if orders != 1 || weightOf(res, "user-agent-blocked") <= 0 || len(proved(res)) > 0 {
		t.Errorf("%d orders\n%s", orders, trail(res))
	}
}

// TestLogLine has nothing but a line of a log: the status alone is the reference.
func TestLogLine(t *testing.T) {
	n := 0
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n++; n > 5 {
			forbid(w)
		}
	})
	c := caseOf(curl(srv.URL + "/"))
	c.Line = &pinpoint.LogLine{Status: 403}
	res := diagnose(t, srv, c, Options{})
	if weightOf(res, "rate-limit-as-403") < pinpoint.Strong || res.Sent > 8 {
		t.Errorf("%s", trail(res))
	}
}

func TestRedirectToProperForm(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/old":
			http.Redirect(w, r, "/admin", http.StatusFound)
		case r.URL.Path == "/admin/" && strings.HasPrefix(r.UserAgent(), "curl"):
			forbid(w)
		case r.URL.Path == "/admin":
			http.Redirect(w, r, "/admin/", http.StatusMovedPermanently)
		case r.URL.Path != "/admin/":
			w.WriteHeader(404)
		}
	})
	res := diagnose(t, srv, caseOf(curl(srv.URL+"/old")), Options{})
	if res.Request == nil || res.Request.URL != srv.URL+"/admin/" || len(res.Redirects) != 2 || res.Baseline != Reproduced {
		t.Errorf("%+v\n%s", res.Request, trail(res))
	}
	wantProved(t, res, "user-agent-blocked")
}

func TestUserOfURLStaysOutOfReports(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) { forbid(w) })
	res := diagnose(t, srv, caseOf(curl(strings.Replace(srv.URL, "://", "://bob:right@", 1)+"/docs")), Options{})
	if text := fmt.Sprintf("%+v %+v", res.Experiments, res.Clues); strings.Contains(text, "right") || res.Sent < 5 {
		t.Error(text)
	}
}

func TestBaselineDiffers(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(403)
		io.WriteString(w, "Please solve the captcha")
	})
	c := caseOf(curl(srv.URL + "/"))
	c.Exchanges[0].Answer = recorded()
	res := diagnose(t, srv, c, Options{})
	if res.Baseline != Differs || weightOf(res, "tool-fingerprint-blocked") <= 0 || len(proved(res)) > 0 {
		t.Errorf("%s", trail(res))
	}
}

func TestBlockedInputSendsNothing(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) { forbid(w) })
	c := caseOf(curl(srv.URL + "/"))
	c.Gaps = []pinpoint.Gap{{Kind: "sanitized", Says: "x", Blocks: true}}
	res, err := Run(context.Background(), c, nil, causes, Options{})
	if err != nil || res.Baseline != Incomplete || srv.total != 0 {
		t.Errorf("%v %s", err, trail(res))
	}
}

func TestBudgets(t *testing.T) {
	for _, o := range []Options{{Requests: 3}, {Strikes: 4}, {Requests: 1}, {Requests: 100, Strikes: 100}} {
		srv := serve(t, func(w http.ResponseWriter, r *http.Request) { forbid(w) })
		k := caseOf(curl(srv.URL+"/Docs/x?a=1&b=2", "Referer", "https://other.example/", "Cookie", "a=1; b=2; sid=3", "X-Forwarded-For", "1.1.1.1, 2.2.2.2"))
		diagnose(t, srv, k, o)
	}
}

func TestServerErrorsEndTheSeries(t *testing.T) {
	n := 0
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n++; n <= 2 {
			forbid(w)
		} else {
			w.WriteHeader(502)
		}
	})
	res := diagnose(t, srv, caseOf(curl(srv.URL+"/docs")), Options{})
	if srv.total != 3 || res.Stopped != "the server answered 502" {
		t.Errorf("%d\n%s", srv.total, trail(res))
	}
}

func TestPlanSendsNothing(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) { forbid(w) })
	r := curl(srv.URL+"/tickets", "Content-Type", "text/plain", "Authorization", "Bearer x")
	r.Method, r.Body = "POST", []byte(`{"a":"b"}`)
	c := caseOf(r)
	c.Exchanges[0].Answer = recorded()
	all := map[string]pinpoint.Experiment{}
	for _, e := range Plan(c, nil, causes, Options{}) {
		all[e.Operator] = e
		if e.Says == "" || (e.Class > pinpoint.S1) != (e.Skipped != "") {
			t.Errorf("%+v", e)
		}
	}
	if srv.total != 0 {
		t.Errorf("%d requests", srv.total)
	}
	if !strings.Contains(all["repeat"].Skipped, "--yes-side-effects") || !strings.Contains(all["path-nonexistent"].Skipped, "--probe") ||
		all["method-get"].Skipped != "" || !strings.Contains(all["body-benign"].Skipped, "--yes-side-effects") {
		t.Errorf("%+v", all)
	}
	if !strings.Contains(all["method-get"].Learns, "method-denied-by-rule") {
		t.Errorf("%+v", all["method-get"])
	}
}

func TestPlannerAsksWhatSeparates(t *testing.T) {
	clues := []pinpoint.Clue{{Cause: "hotlink-referer", Weight: 3}}
	c := caseOf(curl("http://shop.test/a.jpg", "Referer", "https://other.example/"))
	plan := Plan(c, clues, causes, Options{})
	if len(plan) < 3 || !strings.HasPrefix(plan[2].Operator, "referer-") {
		t.Errorf("%+v", plan)
	}
}

// scripted answers in memory, so that time can be false.
type scripted func(n int, r *pinpoint.Request) *pinpoint.Answer

type scriptedSender struct {
	n      int
	script scripted
	times  []time.Time
}

func (s *scriptedSender) Send(_ context.Context, r *pinpoint.Request) (*pinpoint.Answer, error) {
	s.n++
	s.times = append(s.times, time.Now())
	return s.script(s.n, r), nil
}

func TestWaits(t *testing.T) {
	limited := func(fields ...string) *pinpoint.Answer {
		a := recorded()
		a.Status = 429
		for i := 0; i < len(fields); i += 2 {
			a.Header = append(a.Header, pinpoint.Field{Name: fields[i], Value: fields[i+1]})
		}
		return a
	}
	fine := &pinpoint.Answer{Status: 200}
	for _, c := range []struct {
		name    string
		wait    time.Duration
		answer  *pinpoint.Answer
		sent    int
		resumes time.Duration
	}{
		{"no wait permitted", 0, limited("Retry-After", "30"), 1, 30 * time.Second},
		{"longer than a minute", time.Hour, limited("Retry-After", "120"), 1, 2 * time.Minute},
		{"reset of a quota", 0, limited("RateLimit-Reset", "45"), 1, 45 * time.Second},
		{"reset in seconds since 1970", 0, limited("X-RateLimit-Reset", "946684890"), 1, 90 * time.Second},
		{"a date", 0, limited("Retry-After", "Sat, 01 Jan 2000 00:10:00 GMT"), 1, 10 * time.Minute},
		{"no number", 0, limited("Retry-After", "NaN"), 2, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &scriptedSender{script: func(n int, r *pinpoint.Request) *pinpoint.Answer { return c.answer }}
				began := time.Now()
				res, err := Run(context.Background(), caseOf(curl("http://shop.test/")), nil, causes, Options{Sender: s, MaxWait: c.wait, Requests: 6})
				if err != nil || s.n != c.sent {
					t.Errorf("%v, %d requests\n%s", err, s.n, trail(res))
				}
				if resumes := res.Resume.Sub(began); c.resumes != 0 && resumes != c.resumes {
					t.Errorf("resumes after %s", resumes)
				}
			})
		})
	}
	t.Run("waits as asked and sees the limit", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			open := time.Now()
			used := 3
			s := &scriptedSender{script: func(n int, r *pinpoint.Request) *pinpoint.Answer {
				if time.Since(open) > 20*time.Second {
					open, used = time.Now(), 0
				}
				if used++; used > 3 {
					return recorded()
				}
				return fine
			}}
			res, err := Run(context.Background(), caseOf(curl("http://shop.test/docs")), []pinpoint.Clue{{Cause: "rate-limit-as-403", Weight: 3}}, causes, Options{Sender: s, MaxWait: 30 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			wantProved(t, res, "rate-limit-as-403")
			if s.n > 10 {
				t.Errorf("%d requests\n%s", s.n, trail(res))
			}
		})
	})
	t.Run("two timeouts end it", func(t *testing.T) {
		s := &scriptedSender{script: func(n int, r *pinpoint.Request) *pinpoint.Answer { return &pinpoint.Answer{Err: "timeout"} }}
		res, err := Run(context.Background(), caseOf(curl("http://shop.test/")), nil, causes, Options{Sender: s})
		if err != nil || s.n != 2 || res.Baseline != Unreachable {
			t.Errorf("%v %d %s", err, s.n, trail(res))
		}
	})
	t.Run("an unsafe request is not repeated after a timeout", func(t *testing.T) {
		s := &scriptedSender{script: func(n int, r *pinpoint.Request) *pinpoint.Answer { return &pinpoint.Answer{Err: "timeout"} }}
		c := caseOf(curl("http://shop.test/"))
		c.Exchanges[0].Request.Method = "POST"
		c.Exchanges[0].Answer = recorded()
		res, err := Run(context.Background(), c, nil, causes, Options{Sender: s, SideEffects: true})
		if err != nil || s.n != 1 {
			t.Errorf("%v %d %s", err, s.n, trail(res))
		}
	})
}

func TestTerminalEscapesStayOut(t *testing.T) {
	s := &scriptedSender{script: func(n int, r *pinpoint.Request) *pinpoint.Answer {
		return &pinpoint.Answer{Status: 403, Header: pinpoint.Header{{Name: "Server", Value: "\x1b]0;evil\a"}}, Body: []byte("\x1b[2Jgone")}
	}}
	c := caseOf(curl("http://shop.test/a\x1b[31mb"))
	res, err := Run(context.Background(), c, nil, causes, Options{Sender: s, Events: func(e Event) {
		if strings.ContainsAny(e.Says+e.Experiment.URL+e.Experiment.Says, "\x1b\a") {
			t.Errorf("%+v", e)
		}
	}})
	if err != nil || strings.ContainsAny(fmt.Sprintf("%+v%+v", res.Experiments, res.Clues), "\x1b\a") {
		t.Errorf("%v %+v", err, res.Experiments)
	}
}

// What the server says itself ends the experiments: nothing but the request is sent.
func TestReadingEndsExperiments(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) { forbid(w) })
	c := &pinpoint.Case{Exchanges: []pinpoint.Exchange{{Request: &pinpoint.Request{Method: "GET", URL: srv.URL + "/a"}, Answer: recorded()}}}
	for _, tt := range []struct {
		source pinpoint.Source
		weight float64
		most   int
	}{{pinpoint.FromConfig, pinpoint.Certain, 2}, {pinpoint.FromLog, pinpoint.Certain, 2}, {pinpoint.FromAnswer, pinpoint.Certain, 24}, {pinpoint.FromConfig, pinpoint.Fair, 24}} {
		clues := []pinpoint.Clue{{Source: tt.source, Cause: "ip-denied", Weight: tt.weight}}
		res, err := Run(context.Background(), c, clues, causes, Options{Send: SenderOptions{Pace: -1}})
		if err != nil {
			t.Fatal(err)
		}
		if res.Sent > tt.most || tt.most > 2 && res.Sent <= 2 {
			t.Errorf("%s of %.1f: %d requests", tt.source, tt.weight, res.Sent)
		}
	}
}

// A pause is made only where something speaks for a rate, and asked for only there.
func TestWaitsForRatesOnly(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) { forbid(w) })
	c := &pinpoint.Case{Exchanges: []pinpoint.Exchange{{Request: &pinpoint.Request{Method: "GET", URL: srv.URL + "/a"}, Answer: recorded()}}}
	rate := []pinpoint.Clue{{Source: pinpoint.FromAnswer, Cause: "rate-limit-as-403", Weight: pinpoint.Fair}}
	has := func(list []pinpoint.Experiment, name string) bool {
		return slices.ContainsFunc(list, func(e pinpoint.Experiment) bool { return e.Operator == name })
	}
	for _, wait := range []time.Duration{0, time.Second} {
		if has(Plan(c, nil, causes, Options{MaxWait: wait}), "wait") {
			t.Errorf("a pause of %s for nothing", wait)
		}
		if !has(Plan(c, rate, causes, Options{MaxWait: wait}), "wait") {
			t.Errorf("no pause of %s for a rate", wait)
		}
	}
	if has(Plan(c, nil, causes, Options{}), "auth-swap") {
		t.Error("another identity for a request without one")
	}
}

// Answers that are no refusals are no strikes, whatever was expected.
func TestPassingIsNoStrike(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "fine") })
	c := &pinpoint.Case{Exchanges: []pinpoint.Exchange{{Request: &pinpoint.Request{Method: "GET", URL: srv.URL + "/a"}}}}
	res := diagnose(t, srv, c, Options{})
	if res.Strikes != 0 || res.Sent == 0 || res.Baseline != NotReproduced {
		t.Errorf("%d strikes of %d requests, %s", res.Strikes, res.Sent, res.Baseline)
	}
}

// A rule looks at one of several things: that one of them changes nothing says little against it.
func TestSeveralWays(t *testing.T) {
	x := &run{asked: &pinpoint.Request{Method: "GET"}}
	s := shown{op: operator("ua-browser"), shows: "same", says: "a change"}
	one, _ := x.weigh(&hypothesis{cause: cause("a", 403, "ua-browser passes")}, s, nil, 9, false)
	four, _ := x.weigh(&hypothesis{cause: cause("a", 403, "ua-browser passes", "host-noport passes", "path-sibling passes", "method-get passes")}, s, nil, 9, false)
	if !one.Against || !four.Against || four.Weight >= one.Weight {
		t.Errorf("%+v, %+v", one, four)
	}
}

// A run that is continued after a question sends what was shown: its decoy has the same path.
func TestContinuedRun(t *testing.T) {
	k := caseOf(curl("http://h.test/orders", "Content-Type", "text/plain", "Authorization", "Bearer x"))
	k.Exchanges[0].Request.Method = "POST"
	k.Exchanges[0].Answer = &pinpoint.Answer{Status: 403, Cut: true}
	var all []*pinpoint.Cause
	for i, c := 0, pinpoint.Causes(); i < len(c); i++ {
		all = append(all, &c[i])
	}
	for _, e := range Plan(k, nil, all, Options{Probe: true, Run: "continued1"}) {
		if e.Operator == "path-nonexistent" {
			if !strings.Contains(e.URL, "continued1") {
				t.Errorf("the decoy is %s", e.URL)
			}
			return
		}
	}
	t.Error("no decoy is planned")
}
