package admin_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/admin"
	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/whytest"
)

const token = "test-token-of-some-length"

func start(t *testing.T, documents string) (*whytest.Node, *admin.Server, func(method, path, body string, into any) int) {
	n := whytest.Start(t, "wire", documents)
	s := &admin.Server{Gateway: n.Gateway, Calls: n.Journal.Reader, Journal: n.Journal, Token: token, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Started: time.Now(),
		Reload:     func() (resource.Problems, error) { return nil, nil },
		LastReload: func() admin.ReloadStatus { return admin.ReloadStatus{OK: true} }}
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(srv.Close)
	return n, s, func(method, path, body string, into any) int {
		t.Helper()
		req, err := http.NewRequest(method, srv.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		if into != nil {
			if err := json.Unmarshal(b, into); err != nil {
				t.Fatalf("%s %s answered %d %s: %v", method, path, res.StatusCode, b, err)
			}
		}
		return res.StatusCode
	}
}

// settled waits until so many calls are over: a call is counted a moment after its answer.
func settled(t *testing.T, ask func(method, path, body string, into any) int, calls int64) (st admin.Status) {
	t.Helper()
	for range 500 {
		st = admin.Status{}
		if ask("GET", "/v1/status", "", &st); st.Calls == calls {
			return st
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%d calls are over, not %d", st.Calls, calls)
	return st
}

func TestToken(t *testing.T) {
	_, s, _ := start(t, whytest.API("http://127.0.0.1:1", "/", ""))
	for _, r := range admin.Routes() {
		method, path, _ := strings.Cut(r[0], " ")
		path = strings.Replace(path, "{id}", "last", 1)
		for _, given := range []string{"", "Bearer wrong", "Bearer ", token, "bearer " + token} {
			req := httptest.NewRequest(method, path, nil)
			req.Header.Set("Authorization", given)
			w := httptest.NewRecorder()
			if strings.HasSuffix(path, "/follow") && given != "" {
				continue
			}
			s.Handler().ServeHTTP(w, req)
			open := path == "/healthz" || path == "/readyz" || path == "/metrics"
			if open == (w.Code == 401) {
				t.Errorf("%s with %q answers %d", r[0], given, w.Code)
			}
			if w.Code == 401 && w.Header().Get("WWW-Authenticate") == "" {
				t.Errorf("%s: a 401 without a challenge", r[0])
			}
		}
	}
}

// A page of a foreign site can have its name lead to this machine, and then reads what needs no token.
func TestRebinding(t *testing.T) {
	_, s, _ := start(t, whytest.GatewayDocument("wire", ""))
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	for host, want := range map[string]int{"127.0.0.1:9080": 200, "127.0.0.1": 200, "[::1]:9080": 200, "localhost:9080": 200, "LocalHost.": 200, "node.localhost": 200,
		"evil.example:9080": 421, "evil.example": 421, "127.0.0.1.evil.example": 421, "localhost.evil.example:9080": 421} {
		for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
			for _, key := range []string{"", token} {
				req, err := http.NewRequest("GET", srv.URL+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				wanted := want
				if req.Host = host; key != "" {
					req.Header.Set("Authorization", "Bearer "+key)
					wanted = 200
				}
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				res.Body.Close()
				if res.StatusCode != wanted {
					t.Errorf("%s for %s, token %q, answers %d, want %d", path, host, key, res.StatusCode, wanted)
				}
			}
		}
	}
}

func TestCalls(t *testing.T) {
	up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	n, _, ask := start(t, whytest.API(up.URL, "/", "    - ip-access: {deny: [10.0.0.0/8]}\n    - method: {allow: [GET]}"))
	good := n.Call("GET", "/a", "")
	bad := n.Call("DELETE", "/b", "")
	n.Record(bad)

	var list []admin.Call
	if code := ask("GET", "/v1/calls?refused=true", "", &list); code != 200 || len(list) != 1 || list[0].Reason != "method.not-allowed" || list[0].Told == nil {
		t.Errorf("refused: %d %+v", code, list)
	}
	if ask("GET", "/v1/calls?limit=10&method=get", "", &list); len(list) != 1 || list[0].Path != "/a" || list[0].Outcome != "allowed" {
		t.Errorf("GETs: %+v", list)
	}
	var call admin.Call
	if code := ask("GET", "/v1/calls/"+good.Header.Get("Whygate-Call"), "", &call); code != 200 || call.Status != 200 || call.Target == "" {
		t.Errorf("by id: %d %+v", code, call)
	}
	if ask("GET", "/v1/calls/last", "", &call); call.Reason != "method.not-allowed" || call.Check != "method" {
		t.Errorf("last: %+v", call)
	}
	var p admin.Problem
	for path, want := range map[string]int{"/v1/calls?refusd=true": 400, "/v1/calls?since=yesterday": 400, "/v1/calls?limit=0": 400, "/v1/calls/nonsense": 404,
		"/v1/calls/" + calllog.NewID(time.Now(), 1, 2).String(): 404, "/v1/nothing": 404} {
		if code := ask("GET", path, "", &p); code != want || p.Detail == "" {
			t.Errorf("%s: %d %+v", path, code, p)
		}
	}
	if ask("GET", "/v1/calls?refusd=true", "", &p); !strings.Contains(p.Detail, "did you mean refused") {
		t.Errorf("%+v", p)
	}
}

func TestExplainAndStatus(t *testing.T) {
	up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	n, _, ask := start(t, whytest.API(up.URL, "/", "    - rate-limit: {requests: 2, period: 1m, per: route}"))
	var e gateway.Explanation
	for range 5 {
		if code := ask("POST", "/v1/explain", `{"method":"GET","url":"/a"}`, &e); code != 200 || !e.Passes {
			t.Fatalf("%d %+v", code, e)
		}
	}
	n.Call("GET", "/a", "")
	n.Call("GET", "/a", "")
	e = gateway.Explanation{}
	if ask("POST", "/v1/explain", `{"method":"GET","url":"/a"}`, &e); e.Passes || e.Verdict.Reason.Code != "rate-limit.exceeded" || len(e.Ways) == 0 {
		t.Errorf("%+v", e)
	}
	var p admin.Problem
	if code := ask("POST", "/v1/explain", `{"methd":"GET"}`, &p); code != 400 {
		t.Errorf("an unknown field: %d", code)
	}
	n.Record(n.Call("GET", "/a", ""))
	st := settled(t, ask, 3)
	if st.Calls != 3 || st.Refused != 1 || st.Revision != 1 || len(st.Upstreams) != 1 || st.Upstreams[0].Targets[0].Calls != 2 || st.Records.Appended != 3 {
		t.Errorf("%+v", st)
	}
	if code := ask("GET", "/readyz", "", nil); code != 200 {
		t.Errorf("ready: %d", code)
	}
}

// Targets at one address, by another path or weight, are one series: Prometheus gets nothing of a node that sends one twice.
func TestMetricsOfTargetsAtOneAddress(t *testing.T) {
	up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	docs := strings.Replace(whytest.API(up.URL, "/", ""), `{url: "`+up.URL+`"}`, `{url: "`+up.URL+`/a"}, {url: "`+up.URL+`/b"}`, 1)
	n, s, ask := start(t, docs)
	for range 4 {
		n.Record(n.Call("GET", "/", ""))
	}
	settled(t, ask, 4)
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	want := `whygate_target_tries_total{target="` + up.Listener.Addr().String() + `",upstream="up"} 4`
	if w.Code != 200 || !strings.Contains(w.Body.String(), want) {
		t.Errorf("%d, no %s in\n%.2000s", w.Code, want, w.Body)
	}
}

// However many routes there are and have been, the number of series is bounded. Routes that are gone make room for
// others, and their counts stay under another name.
func TestMetricsAreBounded(t *testing.T) {
	up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	const targets = 200
	routes := func(round int) string {
		var b strings.Builder
		b.WriteString(whytest.GatewayDocument("wire", "  metrics: {series: 1000}\n") + "---\n" + whytest.API(up.URL, "/", "") + "  routes:\n")
		for i := range 100 {
			fmt.Fprintf(&b, "    - {name: r-%d-%d, path: /%d}\n", round, i, i)
		}
		b.WriteString("---\napiVersion: whygate/v1\nkind: Upstream\nmetadata: {name: many}\nspec:\n  targets:\n")
		for i := range targets {
			fmt.Fprintf(&b, "  - {url: \"http://127.0.0.1:%d\"}\n", 10_000+i)
		}
		return b.String()
	}
	n, s, ask := start(t, routes(0))
	calls := 0
	for round := range 12 {
		if round > 0 {
			settled(t, ask, int64(calls))
			if ps := n.Apply(routes(round)); ps.HasErrors() {
				t.Fatal(ps)
			}
		}
		for i := range 5 {
			n.Record(n.Call("GET", fmt.Sprintf("/%d", i), ""))
			n.Record(n.Call("GET", fmt.Sprintf("/nowhere-%d-%d", round, i), ""))
			calls += 2
		}
	}
	scrape := func() (body string, series int) {
		settled(t, ask, int64(calls))
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		body = w.Body.String()
		return body, len(regexp.MustCompile(`(?m)^whygate_[a-z_]+\{.*(api|target)=`).FindAllString(body, -1))
	}
	body, before := scrape()
	for _, want := range []string{
		`whygate_calls_total{api="api",class="2xx",route="r-11-0",stage="",version=""} 1`,
		`whygate_calls_total{api="api",class="2xx",route="r-11-4",stage="",version=""} 1`,
		`whygate_refusals_total{api="",reason="route.none",route="none",stage="",version=""} 60`, // paths make no series
		`whygate_target_up{target="127.0.0.1:10000",upstream="many"} 1`,
		`whygate_target_up{target="other",upstream="other"} 1`,
		`whygate_upstream_breaker_open{upstream="up"} 0`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in\n%s", want, strings.Join(regexp.MustCompile(`(?m)^whygate_(calls|refusals|target_up)_total.*$`).FindAllString(body, -1), "\n"))
		}
	}
	if strings.Contains(body, "r-0-0") || !strings.Contains(body, `whygate_calls_total{api="other",class="2xx",route="other"`) {
		t.Error("the routes of the first revision were not forgotten")
	}
	for i := range 100 {
		n.Record(n.Call("GET", fmt.Sprintf("/%d", i), ""))
		calls++
	}
	body, after := scrape()
	total := 0
	for _, m := range regexp.MustCompile(`(?m)^whygate_calls_total\{.* (\d+)$`).FindAllStringSubmatch(body, -1) {
		n, _ := strconv.Atoi(m[1])
		total += n
	}
	if total != calls {
		t.Errorf("%d calls are shown, %d were made", total, calls)
	}
	if before > 1000 || after > 1000 || after < 700 {
		t.Errorf("%d series, and %d with all routes called; the bound is 1000", before, after)
	}
}

func TestMetrics(t *testing.T) {
	up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(418); io.WriteString(w, "ok") })
	n, s, ask := start(t, whytest.API(up.URL, "/", "    - method: {allow: [GET]}"))
	n.Record(n.Call("GET", "/a", ""))
	n.Record(n.Call("PUT", "/a", "12345"))
	settled(t, ask, 2)
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`whygate_calls_total{api="api",class="4xx",route="all",stage="",version=""} 2`,
		`whygate_refusals_total{api="api",reason="method.not-allowed",route="all",stage="",version=""} 1`,
		`whygate_call_duration_seconds_count{api="api",route="all",stage="",version=""} 2`,
		`whygate_content_bytes_total{api="api",direction="in",route="all",stage="",version=""}`,
		`whygate_records_total 2`, `whygate_revision 1`, `whygate_target_up{target="` + up.Listener.Addr().String() + `",upstream="up"} 1`,
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s in\n%s", want, w.Body)
		}
	}
}

func TestFollow(t *testing.T) {
	up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {})
	n, s, _ := start(t, whytest.API(up.URL, "/", ""))
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	req, _ := http.NewRequest("GET", srv.URL+"/v1/calls/follow?path=/wanted", nil)
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	// Following begins a moment after the head of the answer: call until one is told.
	got := make(chan admin.Call, 1)
	go func() {
		var c admin.Call
		json.NewDecoder(res.Body).Decode(&c)
		got <- c
	}()
	made := map[string]bool{}
	for range 200 {
		n.Call("GET", "/other", "")
		made[n.Call("GET", "/wanted/1", "").Header.Get("Whygate-Call")] = true
		select {
		case c := <-got:
			if !made[c.ID.String()] || c.Path != "/wanted/1" {
				t.Errorf("%+v", c)
			}
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Error("nothing was told")
}

func TestLoadToken(t *testing.T) {
	dir := t.TempDir()
	a, err := admin.LoadToken(dir)
	if err != nil || len(a) < 40 {
		t.Fatal(a, err)
	}
	if b, _ := admin.LoadToken(dir); b != a {
		t.Error("the token changes")
	}
	info, _ := os.Stat(filepath.Join(dir, admin.TokenFile))
	if info.Mode().Perm() != 0o600 {
		t.Errorf("others can read the token: %v", info.Mode())
	}
}

func TestParseFilter(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	f, err := admin.ParseFilter(url.Values{"since": {"1h30m"}, "until": {"2026-11-22"}, "status": {"4xx"}, "client": {"::1"}, "outcome": {"failed", "refused"}, "flag": {"shadowed"}}, now)
	if err != nil || !f.Since.Equal(now.Add(-90*time.Minute)) || f.Until.Hour() != 0 || f.MinStatus != 400 || f.MaxStatus != 499 || !f.Failed || !f.Refused || f.Allowed || f.Flags != calllog.Shadowed {
		t.Errorf("%+v %v", f, err)
	}
	for _, bad := range []url.Values{{"status": {"4x"}}, {"status": {"x"}}, {"client": {"home"}}, {"outcome": {"ok"}}, {"flag": {"x"}}, {"limit": {"x"}}, {"until": {"x"}}, {"before": {"last"}}} {
		if _, err := admin.ParseFilter(bad, now); err == nil {
			t.Errorf("%v is understood", bad)
		}
	}
}
