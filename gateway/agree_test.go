package gateway_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/whytest"
)

// world makes random documents and random calls to what they say. Values come from small sets, so
// that calls hit something often.
type world struct {
	*rand.Rand
	keys   []string // of applications, and some that nobody knows
	people string   // the documents of those
}

func newWorld(seed uint64) *world {
	w := &world{Rand: rand.New(rand.NewPCG(seed, 7))}
	for _, c := range []struct{ name, fields string }{{"alpha", ""}, {"beta", ""}, {"gamma", "  state: revoked"}, {"delta", "  until: 2020-01-01"}, {"omega", "  from: 2099-01-01"}} {
		key, docs := whytest.Consumer(c.name, c.fields)
		w.keys = append(w.keys, key)
		w.people += docs
	}
	w.people = strings.Replace(w.people, "metadata: {name: beta}\nspec: {owner", "metadata: {name: beta}\nspec: {state: "+pickOf(w, "active", "suspended")+", owner", 1)
	w.keys = append(w.keys, "", "nonsense", w.keys[0]+"x", "  "+w.keys[1])
	return w
}

func pickOf[T any](w *world, list ...T) T { return list[w.IntN(len(list))] }

func (w *world) maybe(percent int) bool { return w.IntN(100) < percent }

// policies is a random list, each policy with random settings.
func (w *world) policies(indent string) string {
	all := []string{
		"maintenance: {until: " + pickOf(w, "2020-01-01", "2099-01-01") + ", allow: [" + pickOf(w, "127.0.0.0/8", "10.0.0.0/8") + "]}",
		"ip-access: {allow: [" + pickOf(w, "127.0.0.0/8", "198.51.100.0/24", "0.0.0.0/0") + "]}",
		"ip-access: {deny: [" + pickOf(w, "127.0.0.1", "198.51.100.7") + "]}",
		"cors: {origins: [\"https://shop.test\"], headers: [X-Fine], methods: [" + pickOf(w, "PUT", "DELETE") + "]}",
		"cors: {origins: [\"*\"]}",
		"method: {allow: [" + pickOf(w, "GET", "GET, POST", "PUT") + "]}",
		"method: {deny: [DELETE]}",
		"size: {body: " + pickOf(w, "5B", "1KiB") + ", uri: " + pickOf(w, "12B", "100B") + "}",
		"size: {header: 200B}",
		"key-auth: {query: key}",
		"key-auth: {cookie: key, bearer: true}",
		"rate-limit: {requests: " + strconv.Itoa(1+w.IntN(6)) + ", period: 24h, per: " + pickOf(w, "application", "address", "route", "credential") + "}",
		"quota: {requests: " + strconv.Itoa(1+w.IntN(6)) + ", period: " + pickOf(w, "month", "year") + ", per: " + pickOf(w, "application", "address", "route") + "}",
		"concurrency: {calls: 1, per: " + pickOf(w, "address", "route") + "}",
		"headers: {request: {set: {X-Env: prod}}, response: {remove: [Server]}}",
		"path: {add: /api}",
	}
	out, keyed := "", false
	for n := range 1 + w.IntN(5) {
		p := pickOf(w, all...)
		keyed = keyed || strings.HasPrefix(p, "key-auth")
		out += fmt.Sprintf("%s- %s\n%s  name: p%d\n", indent, p, indent, n)
		if w.maybe(15) && !strings.HasPrefix(p, "headers") && !strings.HasPrefix(p, "path") { // these decide nothing
			out += indent + "  shadow: true\n"
		}
	}
	if w.maybe(40) {
		if !keyed {
			out += indent + "- key-auth\n"
		}
		out += indent + "- subscription\n"
	}
	return out
}

// documents is a random gateway in front of url.
func (w *world) documents(engine, url string) string {
	spec := "  legacyStatus: " + pickOf(w, "true", "false", "false") + "\n"
	if w.maybe(50) {
		spec += "  trustedProxies: [" + pickOf(w, "127.0.0.0/8", "10.0.0.0/8") + "]\n"
	}
	doc := whytest.GatewayDocument(engine, spec) + fmt.Sprintf("---\napiVersion: whygate/v1\nkind: Upstream\nmetadata: {name: up}\nspec: {targets: [{url: %q}]}\n", url)
	for _, api := range []string{"one", "two"} {
		doc += fmt.Sprintf("---\napiVersion: whygate/v1\nkind: API\nmetadata: {name: %s}\nspec:\n  upstream: up\n  basePath: %s\n  strip: %s\n", api, pickOf(w, "/", "/"+api), pickOf(w, "mount", "stage", "none"))
		if w.maybe(40) {
			doc += "  hosts: [" + pickOf(w, "shop.test", "\"*.shop.test\"", "other.test") + "]\n"
		}
		if w.maybe(50) {
			doc += "  stages: [{name: dev" + pickOf(w, "", ", openPlan: plan") + "}, {name: prod}]\n"
		}
		switch w.IntN(4) {
		case 0:
			doc += "  versions: [{name: v1, path: /v1, state: " + pickOf(w, "active", "deprecated", "retired") + "}, {name: v2, path: /v2}]\n"
		case 1:
			doc += "  versions: [{name: v1, state: " + pickOf(w, "active", "retired") + "}, {name: v2}]\n"
		}
		doc += "  policies:\n" + w.policies("  ")
		if w.maybe(70) {
			doc += "  routes:\n"
			paths := []string{"/items", "/items/{id}", "/files/{rest...}", "/{rest...}", "/", "/Items/new"}
			w.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
			for _, p := range paths[:1+w.IntN(3)] {
				doc += "  - path: \"" + p + "\"\n"
				if w.maybe(50) {
					doc += "    methods: [" + pickOf(w, "GET", "POST", "GET, PUT", "OPTIONS") + "]\n"
				}
				if w.maybe(30) {
					doc += "    legacyStatus: " + pickOf(w, "true", "false") + "\n"
				}
				if w.maybe(30) {
					doc += "    policies:\n" + w.policies("    ")
				}
			}
		}
	}
	doc += "---\napiVersion: whygate/v1\nkind: Plan\nmetadata: {name: plan}\nspec: {rateLimit: {requests: " + strconv.Itoa(2+w.IntN(5)) + ", period: 24h}, quota: {requests: " + strconv.Itoa(2+w.IntN(5)) + ", period: month}}\n"
	for _, app := range []string{"alpha", "beta"} {
		for _, api := range []string{"one", "two"} {
			if w.maybe(60) {
				doc += fmt.Sprintf("---\napiVersion: whygate/v1\nkind: Subscription\nmetadata: {name: %s-%s}\nspec: {application: %s, api: %s, plan: plan, state: %s%s}\n", app, api, app, api,
					pickOf(w, "active", "active", "pending", "suspended", "rejected", "expired"), pickOf(w, "", "", ", until: 2020-01-01", ", from: 2099-01-01", ", stages: [dev]", ", version: v1"))
			}
		}
	}
	return doc + w.people
}

// call is a random call, as a question too.
func (w *world) call() (gateway.Question, string) {
	path := pickOf(w, "", "", "/dev", "/prod") + pickOf(w, "", "/one", "/two") + pickOf(w, "", "", "", "/v1", "/v2") + pickOf(w, "/", "/items", "/items/7", "/files/a/b", "/Items/new")
	if w.maybe(25) { // what leads nowhere, as a rule
		path = pickOf(w, "", "/dev", "/prod", "/dev/dev", "/stage") + pickOf(w, "", "/one", "/two", "/three") + pickOf(w, "", "", "/v1", "/v2") + pickOf(w, "/", "/items", "/items/", "/items/7", "/files/a/b", "/Items", "/nothing", "/items/%2e%2e/items", "/a%2Fb", "")
	}
	q := gateway.Question{Method: pickOf(w, "GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"), From: netip.MustParseAddr("127.0.0.1")}
	host := pickOf(w, "shop.test", "www.shop.test", "other.test", "unknown.test:8080")
	if path == "" {
		path = "/"
	}
	body := ""
	if q.Method == "POST" || q.Method == "PUT" {
		body = strings.Repeat("x", pickOf(w, 0, 3, 100, 5000))
	}
	q.Body = int64(len(body))
	key := pickOf(w, w.keys...)
	switch w.IntN(6) {
	case 0:
	case 1:
		path += "?key=" + strings.TrimSpace(key)
	case 2:
		q.Header = append(q.Header, [2]string{"Cookie", "a=b; key=" + key})
	case 3:
		q.Header = append(q.Header, [2]string{"Authorization", "Bearer " + key})
	default:
		q.Header = append(q.Header, [2]string{"X-Api-Key", key})
	}
	for _, h := range [][2]string{
		{"Origin", pickOf(w, "https://shop.test", "https://evil.test", "http://shop.test")},
		{"Access-Control-Request-Method", pickOf(w, "PUT", "DELETE", "GET")},
		{"Access-Control-Request-Headers", pickOf(w, "x-fine", "x-bad", "x-api-key")},
		{"X-Forwarded-For", pickOf(w, "198.51.100.7", "10.0.0.1, 198.51.100.9", "garbage", "127.0.0.5")},
		{"Api-Version", pickOf(w, "v1", "v2", "v9")},
		{"Referer", "http://" + host + pickOf(w, "/dev/", "/prod/x")},
		{"X-Long", strings.Repeat("x", 300)},
	} {
		if w.maybe(25) {
			q.Header = append(q.Header, h)
		}
	}
	q.URL = "http://" + host + path
	return q, body
}

// Whatever documents say and whatever is called: explaining a call and making it come to the same
// verdict, before and after a restart of the node, on both engines. Explaining comes first and
// must not change what happens then.
func TestExplainAgreesWithServe(t *testing.T) {
	t.Parallel()
	worlds, calls := 40, 60
	if testing.Short() {
		worlds = 8
	}
	seed := uint64(20261122)
	if s := os.Getenv("WHYGATE_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
		worlds = 1
	}
	up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {})
	seen := map[string]int{}
	for i := range worlds {
		w := newWorld(seed + uint64(i))
		docs := w.documents("{engine}", up.URL)
		engine := pickOf(w, whytest.Engines...)
		for _, restarted := range []bool{false, true} {
			n := whytest.Start(t, engine, "")
			if ps := n.Apply(docs); ps.HasErrors() {
				if i == 0 && !restarted {
					t.Logf("%v", ps)
				}
				seen["documents with errors"]++
				break
			}
			for range calls {
				q, body := w.call()
				e, err := gateway.Explain(n.Snapshot(), q)
				if err != nil {
					t.Fatalf("%+v: %v", q, err)
				}
				code := agree(t, n, q, body, e)
				if seen[code]++; t.Failed() {
					t.Fatalf("WHYGATE_SEED=%d, %s, restarted %v:\n%s", seed+uint64(i), engine, restarted, docs)
				}
			}
		}
	}
	t.Logf("%v", seen)
	if os.Getenv("WHYGATE_SEED") == "" && !testing.Short() && (len(seen) < 25 || seen[""] < worlds*calls/10 || seen["documents with errors"] > worlds/2) {
		t.Errorf("the worlds are too much alike: %v", seen)
	}
}

// agree makes a call that was explained, and returns the reason of its refusal.
func agree(t *testing.T, n *whytest.Node, q gateway.Question, body string, e *gateway.Explanation) string {
	t.Helper()
	host, path, _ := strings.Cut(strings.TrimPrefix(q.URL, "http://"), "/")
	header := []string{"Host: " + host, "User-Agent: "}
	for _, h := range q.Header {
		header = append(header, h[0]+": "+h[1])
	}
	a := n.Call(q.Method, "/"+path, body, header...)
	rec := n.Record(a)
	want, wantStatus := "", 200
	if e.Verdict != nil {
		want, wantStatus = e.Verdict.Reason.Code, e.Status
	}
	if a.Header.Get("Whygate-Reason") == "" && rec.Outcome == calllog.Answered {
		wantStatus = cmp.Or(map[bool]int{true: 204}[e.Passes], wantStatus)
	}
	if got := a.Header.Get("Whygate-Reason"); got != want || a.StatusCode != wantStatus || rec.Reason != want || e.Passes != (want == "") {
		t.Errorf("%+v\nexplained: passes %v, %d %q\nserved:    %d %q, record %q by %q: %s", q, e.Passes, wantStatus, want, a.StatusCode, got, rec.Reason, rec.Check, a.Body)
	}
	if e.Route != nil && (rec.API != e.Route.API || rec.Route != e.Route.Name || rec.Stage != e.Route.Stage || rec.Version != e.Route.Version) {
		t.Errorf("%+v\nexplained: route %+v\nserved:    %s %s %s %s", q, *e.Route, rec.API, rec.Version, rec.Stage, rec.Route)
	}
	if rec.Client.String() != e.Client {
		t.Errorf("%+v\nexplained: client %s, served: %v", q, e.Client, rec.Client)
	}
	// The checks behind the one that refused say the same in both.
	d, err := gateway.DecodeDetail(rec.Detail)
	if err != nil {
		t.Error(err)
	}
	if want != "" && rec.Step > 0 {
		at := slices.IndexFunc(e.Trail, func(x reason.Entry) bool { return x.Check == rec.Check })
		if at < 0 {
			t.Errorf("%+v: the explanation does not know check %q", q, rec.Check)
		} else {
			if behind := e.Trail[at+1:]; trailText(behind) != trailText(d.Next) {
				t.Errorf("%+v\nbehind %q the explanation has %s\nthe record has %s", q, rec.Check, trailText(behind), trailText(d.Next))
			}
		}
	}
	return want
}

// trailText is what the checks of a trail say, in one line.
func trailText(trail reason.Trail) string {
	s := ""
	for _, e := range trail {
		s += fmt.Sprintf(" %s %v", e.Check, e.Outcome)
		if e.Refused() {
			s += " " + e.Reason.Code
		}
	}
	return s
}
