package gateway_test

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/bcrypt"

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
	tokens []string // that answers brought against CSRF
	places []string // host and path of what the documents serve
}

func newWorld(seed uint64) *world { return newWorldOf(rand.New(rand.NewPCG(seed, 7))) }

func newWorldOf(numbers *rand.Rand) *world {
	w := &world{Rand: numbers}
	for _, c := range []struct{ name, fields string }{{"alpha", "  scopes: [read]\n  roles: [staff]"}, {"beta", "  scopes: [write]\n  groups: [board]"}, {"gamma", "  state: revoked"}, {"delta", "  until: 2020-01-01"}, {"omega", "  from: 2099-01-01"}} {
		key, docs := whytest.Consumer(c.name, c.fields)
		w.keys = append(w.keys, key)
		w.people += docs
	}
	w.people = strings.Replace(w.people, "metadata: {name: beta}\nspec: {owner", "metadata: {name: beta}\nspec: {state: "+pickOf(w, "active", "suspended")+", owner", 1)
	for _, c := range [][2]string{{"alpha", "anna"}, {"beta", "bert"}} {
		w.people += fmt.Sprintf("---\napiVersion: whygate/v1\nkind: Credential\nmetadata: {name: %s}\nspec: {application: %s, scopes: [read, admin], basic: {username: %s, hash: %q}}\n", c[1], c[0], c[1], passwordHash())
	}
	w.keys = append(w.keys, "", "nonsense", w.keys[0]+"x", "  "+w.keys[1])
	return w
}

// passwordHash is that of "password".
var passwordHash = sync.OnceValue(func() string {
	hash, err := bcrypt.GenerateFromPassword([]byte("password"), bcrypt.MinCost)
	if err != nil {
		panic(err)
	}
	return string(hash)
})

func pickOf[T any](w *world, list ...T) T { return list[w.IntN(len(list))] }

func (w *world) maybe(percent int) bool { return w.IntN(100) < percent }

// policies is a random list, each policy with random settings.
func (w *world) policies(indent string) string {
	all := []string{
		"maintenance: {until: " + pickOf(w, "2020-01-01", "2099-01-01") + ", allow: [" + pickOf(w, "127.0.0.0/8", "10.0.0.0/8") + "]}",
		"ip-access: {allow: [" + pickOf(w, "127.0.0.0/8", "198.51.100.0/24", "0.0.0.0/0") + "]}",
		"ip-access: {deny: [" + pickOf(w, "127.0.0.1", "198.51.100.7") + "]}",
		"geo: {database: [" + countries() + "], " + pickOf(w, "allow: [FR]", "deny: [FR]", "allow: [DE, FR]") + ", unknown: " + pickOf(w, "allow", "deny") + "}",
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
		"basic: {}",
		"anonymous: {scopes: [" + pickOf(w, "read", "write") + "], groups: [public]}",
		"access: {allow: {" + pickOf(w, "applications: [alpha]", "teams: [beta-team]", "subjects: [anonymous, anna]") + "}}",
		"access: {deny: {" + pickOf(w, "applications: [beta]", "teams: [alpha-team]", "subjects: [anonymous]") + "}}",
		"scopes: {" + pickOf(w, "all: [read]", "any: [read, write]", "all: [read, admin]") + "}",
		"roles: {any: [" + pickOf(w, "staff", "staff, chief") + "]}",
		"groups: {any: [" + pickOf(w, "public", "board") + "]}",
		"rule: {rules: [{name: one, effect: " + pickOf(w, "deny", "allow") + ", when: '" + pickOf(w, `request.method == "POST"`, `request.query["key"] != ""`, `identity.subject == "anonymous"`, `application.name == "alpha"`,
			"body.id < 5", `request.headers["api-version"] == "v1"`, "client.ip.within(\"127.0.0.0/8\")", "request.size > 50") + "'}]}",
		"csrf: {" + pickOf(w, "", "session: a", "field: \"\"", "origins: [https://shop.test]", "exemptTokens: false") + "}",
		"hotlink: {hosts: [shop.test], empty: " + pickOf(w, "allow", "deny") + "}",
		"bot: {deny: [BadBot], missing: " + pickOf(w, "allow", "deny") + "}",
		"bot: {deny: [\"*\"], allow: [Fine/*]}",
		"content-type: {allow: [application/json" + pickOf(w, "", ", application/x-www-form-urlencoded", ", text/*") + "], missing: " + pickOf(w, "refuse", "allow") + pickOf(w, "", ", charsets: [utf-8]", ", encodings: [gzip]") + "}",
		"json-limits: {depth: " + pickOf(w, "1", "2", "9") + ", keys: 3, elements: 2, text: 10B, maxBody: " + pickOf(w, "20B", "1MiB") + ", all: " + pickOf(w, "true", "false") + "}",
		"schema: {body: {type: object, required: [id], properties: {id: {type: integer, maximum: 9}}}, status: " + pickOf(w, "400", "422") + "}",
		"mock: {answers: [{body: {id: 1}}, {name: gone, status: 410}, {status: 203}]}",
		"transform: {request: {headers: {set: {X-Who: \"{subject}\"}}, query: {set: {by: \"{application}\"}}}}",
		"transform: {request: {body: {set: {seen: true}, remove: [tags]}}, maxBody: " + pickOf(w, "1KiB", "1MiB") + "}",
	}
	out, keyed := "", false
	for n := range 1 + w.IntN(4) {
		p := pickOf(w, all...)
		kind, _, _ := strings.Cut(p, ":")
		keyed = keyed || kind == "key-auth" || kind == "basic"
		out += fmt.Sprintf("%s- %s\n%s  name: p%d\n", indent, p, indent, n)
		switch { // not of what decides nothing
		case slices.Contains([]string{"headers", "path", "transform", "mock", "anonymous"}, kind):
		case w.maybe(15):
			out += indent + "  shadow: true\n"
		case w.maybe(10) && kind != "key-auth" && kind != "basic":
			out += indent + "  enforce: " + pickOf(w, "10%", "50%", "90%") + "\n"
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
		host, base, stage, version := pickOf(w, "", "", "shop.test", "\"*.shop.test\"", "other.test"), pickOf(w, "/", "/"+api), "", ""
		doc += fmt.Sprintf("---\napiVersion: whygate/v1\nkind: API\nmetadata: {name: %s}\nspec:\n  upstream: up\n  basePath: %s\n  strip: %s\n", api, base, pickOf(w, "mount", "stage", "none"))
		if host != "" {
			doc += "  hosts: [" + host + "]\n"
		}
		if w.maybe(50) {
			doc += "  stages: [{name: dev" + pickOf(w, "", ", openPlan: plan") + "}, {name: prod}]\n"
			stage = pickOf(w, "/dev", "/prod")
		}
		switch w.IntN(4) {
		case 0:
			doc += "  versions: [{name: v1, path: /v1, state: " + pickOf(w, "active", "deprecated", "retired") + "}, {name: v2, path: /v2}]\n"
			version = "/v2"
		case 1:
			doc += "  versions: [{name: v1, state: " + pickOf(w, "active", "retired") + "}, {name: v2}]\n"
		}
		place := cmp.Or(strings.Replace(strings.Trim(host, `"`), "*", "www", 1), "shop.test") + stage + strings.TrimSuffix(base, "/") + version
		doc += "  authentication: " + pickOf(w, "any", "all") + "\n  policies:\n" + w.policies("  ")
		if w.maybe(30) {
			w.places = append(w.places, place+"/items")
		} else {
			doc += "  routes:\n"
			paths := []string{"/items", "/items/{id}", "/files/{rest...}", "/{rest...}", "/", "/Items/new"}
			w.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
			for _, p := range paths[:1+w.IntN(3)] {
				doc += "  - path: \"" + p + "\"\n"
				w.places = append(w.places, place+strings.NewReplacer("{id}", "7", "{rest...}", "a/b").Replace(p))
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
	if w.maybe(60) { // what does lead somewhere
		host, path, _ = strings.Cut(pickOf(w, w.places...), "/")
		path = "/" + path
	}
	path = cmp.Or(path, "/")
	token := pickOf(w, append([]string{"nonsense"}, w.tokens...)...)
	body := ""
	if q.Method == "POST" || q.Method == "PUT" || q.Method == "DELETE" && w.maybe(20) {
		body = pickOf(w, "", "xxx", strings.Repeat("x", 100), strings.Repeat("x", 5000), "{}", `{"id": 1}`, `{"id": 7, "tags": [1, 2, 3]}`, `{"id": "x", "a": {"b": {}}}`, `{"id": 1, "id": 2}`, `[{"id": 1}]`, `{"id"`, "null", "csrf_token="+token, "id=1")
	}
	q.Body, q.Content = int64(len(body)), []byte(body)
	key := pickOf(w, w.keys...)
	if w.maybe(50) {
		key = pickOf(w, w.keys[:2]...)
	}
	switch w.IntN(7) {
	case 0:
	case 1:
		path += "?key=" + strings.TrimSpace(key)
	case 2:
		q.Header = append(q.Header, [2]string{"Cookie", "a=b; key=" + key})
	case 3:
		q.Header = append(q.Header, [2]string{"Authorization", "Bearer " + key})
	case 4:
		q.Header = append(q.Header, [2]string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(pickOf(w, "anna:password", "bert:password", "anna:wrong", "who:password", "anna")))})
		if w.maybe(40) {
			q.Header = append(q.Header, [2]string{"X-Api-Key", key})
		}
	default:
		q.Header = append(q.Header, [2]string{"X-Api-Key", key})
	}
	if w.maybe(50) && body != "" {
		q.Header = append(q.Header, [2]string{"Content-Type", pickOf(w, "application/json", "application/json", "application/json; charset=utf-8", "application/json; charset=latin1", "application/x-www-form-urlencoded", "text/plain", "nonsense", "application/vnd.x+json")})
	}
	if w.maybe(50) {
		q.Header = append(q.Header, [2]string{"User-Agent", pickOf(w, "Fine/1.0", "BadBot/2", "curl/8.0")})
	}
	for _, h := range [][2]string{
		{"Origin", pickOf(w, "https://shop.test", "https://evil.test", "http://shop.test")},
		{"Access-Control-Request-Method", pickOf(w, "PUT", "DELETE", "GET")},
		{"Access-Control-Request-Headers", pickOf(w, "x-fine", "x-bad", "x-api-key")},
		{"X-Forwarded-For", pickOf(w, "198.51.100.7", "10.0.0.1, 198.51.100.9", "garbage", "127.0.0.5")},
		{"Api-Version", pickOf(w, "v1", "v2", "v9")},
		{"Referer", "http://" + host + pickOf(w, "/dev/", "/prod/x")},
		{"X-Long", strings.Repeat("x", 300)},
		{"X-CSRF-Token", token},
		{"Cookie", "csrf_token=" + pickOf(w, token, token, "other")},
		{"Sec-Fetch-Site", pickOf(w, "same-origin", "same-site", "cross-site")},
		{"Prefer", pickOf(w, "code=410", "example=gone", "example=none", "return=minimal")},
		{"Content-Encoding", pickOf(w, "gzip", "identity", "br")},
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
	worlds, calls := 60, 60
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
				code, token := agree(t, n, q, body, e)
				if token != "" && !slices.Contains(w.tokens, token) {
					w.tokens = append(w.tokens, token)
				}
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

// agree makes a call that was explained, and returns the reason of its refusal, and the token against CSRF
// that the answer brought.
func agree(t *testing.T, n *whytest.Node, q gateway.Question, body string, e *gateway.Explanation) (code, token string) {
	t.Helper()
	host, path, _ := strings.Cut(strings.TrimPrefix(q.URL, "http://"), "/")
	header := []string{"Host: " + host}
	if !slices.ContainsFunc(q.Header, func(h [2]string) bool { return h[0] == "User-Agent" }) {
		header = append(header, "User-Agent: ") // or Go's client sends its own
	}
	password := false
	for _, h := range q.Header {
		header = append(header, h[0]+": "+h[1])
		password = password || strings.HasPrefix(h[1], "Basic ")
	}
	a := n.Call(q.Method, "/"+path, body, header...)
	rec := n.Record(a)
	want, wantStatus := "", 200
	if e.Verdict != nil {
		want, wantStatus = e.Verdict.Reason.Code, e.Status
	}
	if a.Header.Get("Whygate-Reason") == "" && rec.Outcome == calllog.Answered {
		wantStatus = answeredAs(e)
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
			// On the side of a refusal nobody waits for content or compares passwords, and for strangers nobody counts.
			behind, open := slices.Clone(e.Trail[at+1:]), false
			for i := range min(len(behind), len(d.Next)) {
				password := password && (behind[i].Kind == "basic" || behind[i].Kind == "authentication")
				if d.Next[i].Outcome == reason.Unknown && (open || password || q.Body > 0 && readers[behind[i].Kind] || rec.Application == "" && (readers[behind[i].Kind] || limits[behind[i].Kind])) {
					open = open || password // and who calls is not known then
					behind[i] = d.Next[i]
				}
			}
			if trailText(behind) != trailText(d.Next) {
				t.Errorf("%+v\nbehind %q the explanation has %s\nthe record has %s", q, rec.Check, trailText(behind), trailText(d.Next))
			}
		}
	}
	return want, a.Header.Get("X-CSRF-Token")
}

// readers are the kinds of policies that may read the request's content.
var readers = map[string]bool{"csrf": true, "rule": true, "content-type": true, "json-limits": true, "schema": true, "waf": true, "transform": true}

// limits are the kinds of policies that count.
var limits = map[string]bool{"rate-limit": true, "quota": true, "concurrency": true}

// answeredAs is the status of an answer that the gateway itself is to give, as an explanation has it.
func answeredAs(e *gateway.Explanation) int {
	for _, x := range e.Trail {
		if f, ok := x.Facts.Find("answer", reason.ToOperator); ok && x.Kind == "mock" && x.Outcome == reason.Passed {
			n, _, _ := strings.Cut(f.Text(), " ")
			status, _ := strconv.Atoi(n)
			return status
		}
	}
	return 204 // to a preflight
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
