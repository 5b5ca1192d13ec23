package rig

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whygate/whygate/pinpoint"
	"github.com/whygate/whygate/pinpoint/diagnose"
	"github.com/whygate/whygate/pinpoint/input"
	"github.com/whygate/whygate/pinpoint/machine"
	"github.com/whygate/whygate/pinpoint/replay"
)

// scenario is a refusal, and what must come out of it.
type scenario struct {
	name    string
	file    string // of testdata; "" for the one of the name
	curl    string // what is asked; {port1} is the first server
	har     []call // recorded beforehand, instead of curl; the last one is asked about unless one has the mark
	line    string // text in the last line of HAProxy's log, instead of curl; curl names the URL
	before  []string
	swap    string
	probe   bool
	bisect  bool
	origin  string
	fresh   bool // the servers remember: each diagnosis has its own
	local   want
	remote  want
	control bool
}

// call is an exchange of a recording. Without lost it is really made.
type call struct {
	curl  string
	asked bool
	lost  bool // the browser did not send it: status 0
}

// want is what a verdict must say.
type want struct {
	cause     string
	or        []string // as right, where less can be known
	secondary []string // half right
	who       string   // product; "" any
	grade     string   // the least; "" any
	names     []string // that the report must contain
	never     []string // that sentence and fix must not
	most      int      // requests; 0: 24
}

var fullyOpen = regexp.MustCompile(`\b0777\b`)

// unsafeFix are words of fixes that lower security.
var unsafeFix = []string{"chmod 777", "0777", "a+rwx", "SecRuleEngine Off", "SecRuleEngine DetectionOnly", "setenforce 0", "csrf().disable", "csrf_exempt", "Allow-Origin: *", "verify=False", "ssl_verify_client off"}

// result is one diagnosis.
type result struct {
	scenario string
	mode     string
	want     *want
	verdict  pinpoint.Verdict
	text     string
	took     time.Duration
	sent     []*pinpoint.Request
	problems []string
	points   float64
	skipped  string
}

// counting hands requests on and remembers them.
type counting struct {
	pinpoint.Sender
	sent []*pinpoint.Request
}

func (c *counting) Send(ctx context.Context, r *pinpoint.Request) (*pinpoint.Answer, error) {
	a, err := c.Sender.Send(ctx, r)
	if err == nil {
		c.sent = append(c.sent, r)
	}
	return a, err
}

func (s *stage) send(t testing.TB, text string) pinpoint.Exchange {
	t.Helper()
	c, err := input.Curl(s.fill.Replace(text), input.Allow(s.glob()...))
	if err != nil {
		t.Fatal(err)
	}
	sender, err := replay.NewSender(c, replay.SenderOptions{Pace: -1, ReadFile: os.ReadFile})
	if err != nil {
		t.Fatal(err)
	}
	x := *c.Exchange()
	x.At = time.Now()
	a, err := sender.Send(context.Background(), x.Request)
	if err != nil {
		t.Fatal(err)
	}
	x.Answer = a
	return x
}

// glob are the files that inputs may read.
func (s *stage) glob() []string {
	names, _ := filepath.Glob(s.dir + "/*")
	return names
}

type pair struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func pairs(h pinpoint.Header) []pair {
	list := []pair{}
	for _, f := range h {
		list = append(list, pair{f.Name, f.Value})
	}
	return list
}

// record makes calls as a browser would, and writes what the recording of one looks like (HAR 1.2).
func (s *stage) record(t testing.TB, calls []call) (har []byte, asked int) {
	t.Helper()
	var entries []any
	asked = len(calls) - 1
	for i, k := range calls {
		var x pinpoint.Exchange
		if k.lost {
			c, err := input.Curl(s.fill.Replace(k.curl), input.Allow())
			if err != nil {
				t.Fatal(err)
			}
			x = *c.Exchange()
			x.At, x.Answer = time.Now(), &pinpoint.Answer{Err: "net::ERR_FAILED"}
		} else {
			x = s.send(t, k.curl)
		}
		if k.asked {
			asked = i
		}
		request := map[string]any{"method": x.Request.Method, "url": x.Request.URL, "httpVersion": "HTTP/1.1", "headers": pairs(x.Request.Header), "cookies": []any{}, "queryString": []any{}, "headersSize": -1, "bodySize": len(x.Request.Body)}
		if len(x.Request.Body) > 0 {
			request["postData"] = map[string]any{"mimeType": x.Request.Header.Value("Content-Type"), "text": string(x.Request.Body)}
		}
		response := map[string]any{"status": x.Answer.Status, "statusText": "", "httpVersion": "HTTP/1.1", "headers": pairs(x.Answer.Header), "cookies": []any{}, "redirectURL": x.Answer.Header.Value("Location"), "headersSize": -1, "bodySize": len(x.Answer.Body),
			"content": map[string]any{"size": len(x.Answer.Body), "mimeType": x.Answer.Header.Value("Content-Type"), "text": string(x.Answer.Body)}}
		if x.Answer.Err != "" {
			response["_error"] = x.Answer.Err
		}
		entries = append(entries, map[string]any{"startedDateTime": x.At.UTC().Format(time.RFC3339Nano), "time": 5, "request": request, "response": response, "cache": map[string]any{}, "timings": map[string]any{"send": 0, "wait": 5, "receive": 0}, "serverIPAddress": "127.0.0.1"})
	}
	har, err := json.Marshal(map[string]any{"log": map[string]any{"version": "1.2", "creator": map[string]any{"name": "Insomnia", "version": "1"}, "entries": entries}})
	if err != nil {
		t.Fatal(err)
	}
	return har, asked
}

// token is a JWT that nobody has to verify.
func token(exp time.Time, scope string) string {
	part := func(v any) string {
		b, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	return part(map[string]any{"alg": "HS256", "typ": "JWT"}) + "." + part(map[string]any{"iss": "https://id.test/", "sub": "till-7", "aud": "orders", "iat": exp.Add(-time.Hour).Unix(), "exp": exp.Unix(), "scope": scope}) + ".c2lnbmF0dXJlLW9mLXRoZS1yaWc"
}

// caseOf is what the user hands in.
func (s *stage) caseOf(t testing.TB, k *scenario) *pinpoint.Case {
	t.Helper()
	for _, text := range k.before {
		s.send(t, text)
	}
	var c *pinpoint.Case
	var err error
	switch {
	case k.har != nil:
		har, asked := s.record(t, k.har)
		h, err := input.HAR(bytes.NewReader(har))
		if err != nil {
			t.Fatal(err)
		}
		if c, err = h.Choose(asked); err != nil {
			t.Fatal(err)
		}
		// What a recording does not say: where the name leads.
		first, err := input.Curl(s.fill.Replace(k.har[asked].curl), input.Allow(s.glob()...))
		if err != nil {
			t.Fatal(err)
		}
		for i := range c.Exchanges {
			c.Exchanges[i].Request.Via = first.Exchange().Request.Via
		}
	case k.line != "":
		u, err := input.Curl(s.fill.Replace(k.curl), input.Allow())
		if err != nil {
			t.Fatal(err)
		}
		if c, err = input.Log(s.logged(k.line), u.Exchange().Request.URL); err != nil {
			t.Fatal(err)
		}
		c.Exchange().Request.Via = u.Exchange().Request.Via
	default:
		if c, err = input.Curl(s.fill.Replace(k.curl), input.Allow(s.glob()...)); err != nil {
			t.Fatal(err)
		}
	}
	if k.swap != "" {
		c.Swap = pinpoint.Header{{Name: "Authorization", Value: k.swap}}
	}
	return c
}

// diagnose runs one diagnosis.
func (s *stage) diagnose(t testing.TB, k *scenario, mode string) result {
	t.Helper()
	r := result{scenario: k.name, mode: mode, want: &k.remote}
	c := s.caseOf(t, k)
	o := diagnose.Options{Bisect: k.bisect, Replay: replay.Options{Send: replay.SenderOptions{Pace: -1, ReadFile: os.ReadFile, Origin: s.fill.Replace(k.origin)}, Probe: k.probe, MaxWait: 10 * time.Second, Origin: s.fill.Replace(k.origin)}}
	if mode == "L" {
		r.want = &k.local
		o.Machine = machine.New()
	}
	pinpoint.Seal(c)
	sender, err := replay.NewSender(c, o.Replay.Send)
	if err != nil {
		t.Fatal(err)
	}
	count := &counting{Sender: sender}
	o.Replay.Sender = count
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	began := time.Now()
	out, err := diagnose.Run(ctx, c, o)
	if err != nil {
		t.Fatal(err)
	}
	r.took, r.verdict, r.sent = time.Since(began), out.Verdict, count.sent
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	e.Encode(out.Verdict)
	if out.Bisection != nil {
		e.Encode(out.Bisection)
	}
	r.text = b.String()
	r.judge(k)
	if dir := os.Getenv("RIG_REPORTS"); dir != "" {
		os.WriteFile(filepath.Join(dir, k.name+"."+mode+".json"), b.Bytes(), 0o600)
		os.WriteFile(filepath.Join(dir, k.name+"."+mode+".error.log"), []byte(s.read("error-apache.log")+s.read("error.log")), 0o600)
	}
	return r
}

func (r *result) wrong(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

// judge scores a verdict: 1 for the cause, half for an accepted other one, minus 1 for what is unsafe, minus half for the wrong hop.
func (r *result) judge(k *scenario) {
	v, w := &r.verdict, r.want
	if k.control {
		if v.Cause != "" && v.Cause != "not-reproduced" || v.Outcome == pinpoint.Proved || v.Outcome == pinpoint.Likely {
			r.wrong("a control has the cause %s", v.Cause)
		} else {
			r.points = 1
		}
	} else {
		switch {
		case v.Cause == w.cause, slices.Contains(w.or, v.Cause):
			r.points = 1
		case slices.Contains(w.secondary, v.Cause):
			r.points = 0.5
		default:
			r.wrong("cause %q, not %s", v.Cause, w.cause)
		}
		if w.who != "" && v.Refuser.Product != w.who {
			r.points -= 0.5
			r.wrong("refuser %q, not %s", v.Refuser.Product, w.who)
		}
	}
	if w.grade != "" && v.Cause == w.cause && (v.Grade == "" || v.Grade > w.grade) {
		r.wrong("grade %q, not %s", v.Grade, w.grade)
	}
	if v.Cause == w.cause {
		for _, n := range w.names {
			quoted, _ := json.Marshal(n)
			if !strings.Contains(r.text, n) && !strings.Contains(r.text, string(quoted[1:len(quoted)-1])) {
				r.wrong("does not name %q", n)
			}
		}
	}
	fix := v.Sentence + "\n" + strings.Join(v.Fix.Steps, "\n")
	for _, n := range slices.Concat(w.never, unsafeFix) {
		// "0777" may be in the number of a temporary folder.
		if strings.Contains(fix, n) && (n != "0777" || fullyOpen.MatchString(fix)) {
			r.points--
			r.wrong("says %q", n)
		}
	}
	requests, strikes := 24, 20
	if k.bisect { // a search has budgets of its own
		requests, strikes = 24+120, 20+40
	}
	if w.most > 0 {
		requests = w.most
	}
	if len(r.sent) > requests || v.Strikes > strikes {
		r.wrong("%d requests and %d refusals", len(r.sent), v.Strikes)
	}
	if len(r.sent) != v.Sent {
		r.wrong("%d requests left, the verdict says %d", len(r.sent), v.Sent)
	}
	for _, q := range r.sent {
		if slices.Contains([]string{"GET", "HEAD", "OPTIONS"}, q.Method) {
			continue
		}
		decoy := strings.Contains(q.URL, "whygate-probe")
		if !k.probe && !k.bisect || !decoy {
			r.points--
			r.wrong("%s %s left", q.Method, q.URL)
		}
	}
}

func (r *result) row() string {
	v := &r.verdict
	if r.skipped != "" {
		return fmt.Sprintf("%-5s %s  skipped: %s", r.scenario, r.mode, r.skipped)
	}
	cause := v.Cause
	if cause == "" {
		cause = "-"
	}
	return fmt.Sprintf("%-5s %s  %4.1f  %-30s %-1s %3.0f %%  %-14s %3d sent %3d refused  %5.1f s  %s", r.scenario, r.mode, r.points, cause, v.Grade, 100*v.Confidence, v.Refuser.Product, len(r.sent), v.Strikes, r.took.Seconds(), strings.Join(r.problems, "; "))
}

// results are filled by the scenarios, and scored behind them.
type results struct {
	sync.Mutex
	list []result
}

func (all *results) add(r result) {
	all.Lock()
	defer all.Unlock()
	all.list = append(all.list, r)
}

// run is one scenario with nothing but the request, then on the server.
func (k *scenario) run(t *testing.T, all *results) {
	t.Helper()
	name := k.file
	if name == "" {
		name = k.name
	}
	var s *stage
	var got []result
	own := 0
	check := func() {
		s.stop()
		s.audit(t, k, got, own)
	}
	for _, mode := range []string{"R", "L"} {
		if s == nil || k.fresh {
			if s != nil {
				check()
			}
			s, got, own = newStage(t, name), nil, 0
		}
		own += len(k.before) + len(k.har)
		if k.line != "" {
			own += len(k.before)
		}
		r := s.diagnose(t, k, mode)
		got = append(got, r)
		all.add(r)
	}
	check()
}

// audit holds what the servers saw against what was sent: no request with an unsafe method may reach the asked path but the
// user's own.
func (s *stage) audit(t *testing.T, k *scenario, got []result, own int) {
	t.Helper()
	sent, ownUnsafe := 0, 0
	for _, r := range got {
		sent += len(r.sent)
		for _, c := range k.har {
			if x, err := input.Curl(s.fill.Replace(c.curl), input.Allow(s.glob()...)); err == nil && !c.lost && !slices.Contains([]string{"GET", "HEAD", "OPTIONS"}, x.Exchange().Request.Method) {
				ownUnsafe++
			}
		}
	}
	unsafe := 0
	lines := s.arrived()
	for _, l := range lines {
		method, rest, _ := strings.Cut(l, " ")
		if slices.Contains([]string{"POST", "PUT", "PATCH", "DELETE"}, method) && !strings.Contains(rest, "whygate-probe") {
			unsafe++
		}
	}
	if unsafe > ownUnsafe {
		t.Errorf("%d requests with unsafe methods came to paths that exist, %d are the user's own", unsafe, ownUnsafe)
	}
	if len(lines) > sent+own {
		t.Errorf("%d requests came, %d were sent", len(lines), sent+own)
	}
	if k.probe && strings.Contains(s.read("app.log"), "POST /tickets") {
		t.Error("a POST came to the application")
	}
}

func TestScenarios(t *testing.T) {
	all := &results{}
	t.Run("all", func(t *testing.T) {
		for i := range scenarios {
			k := &scenarios[i]
			t.Run(k.name, func(t *testing.T) {
				t.Parallel()
				k.run(t, all)
			})
		}
	})
	all.score(t)
}

// score prints the table and applies the rules of the catalogue.
func (all *results) score(t *testing.T) {
	slices.SortFunc(all.list, func(a, b result) int {
		if n := strings.Compare(a.scenario, b.scenario); n != 0 {
			return n
		}
		return strings.Compare(a.mode, b.mode)
	})
	var sent []int
	remote, remoteRight, points := 0, 0, 0.0
	var table strings.Builder
	for i := range all.list {
		r := &all.list[i]
		fmt.Fprintln(&table, r.row())
		points += r.points
		control := strings.HasPrefix(r.scenario, "C")
		if !control {
			sent = append(sent, len(r.sent))
		}
		switch {
		case control && len(r.problems) > 0:
			t.Errorf("%s %s: %s", r.scenario, r.mode, strings.Join(r.problems, "; "))
		case control:
		case r.mode == "L" && len(r.problems) > 0:
			t.Errorf("%s L: %s", r.scenario, strings.Join(r.problems, "; "))
		case r.mode == "R":
			remote++
			if len(r.problems) == 0 {
				remoteRight++
			}
			if r.points <= 0 && (r.verdict.Grade == "A" || r.verdict.Grade == "B") {
				t.Errorf("%s R: a wrong verdict of grade %s: %s", r.scenario, r.verdict.Grade, r.verdict.Cause)
			}
		}
	}
	t.Logf("\n%s%.1f points; %d of %d right with the request alone; median of %d requests, of diagnoses on the server and away from it\n", table.String(), points, remoteRight, remote, median(sent))
	if missed := remote - remoteRight; missed > 3 {
		t.Errorf("%d scenarios are wrong with the request alone", missed)
	}
}

func median(list []int) int {
	if len(list) == 0 {
		return 0
	}
	list = slices.Clone(list)
	slices.Sort(list)
	return list[len(list)/2]
}
