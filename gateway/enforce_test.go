package gateway_test

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/whytest"
)

// shared10 is a policy that is to be enforced for a tenth of the callers, and a call that it refuses.
type shared10 struct {
	settings, code     string
	behind             string // policies that find out who calls
	docs               string
	method, path, body string
	header             []string
	first              bool // the first call of a caller passes
	held               bool // another call is under way meanwhile
}

// refusesNothing are policies for whom there is no share of callers: they change calls, or answer them.
var refusesNothing = []string{"anonymous", "headers", "path", "mask", "compress"}

// TestEnforceTenPercent: every policy that refuses can be enforced for a tenth of the callers. About that many are refused,
// always the same ones, and what the others were spared is in their records.
func TestEnforceTenPercent(t *testing.T) {
	t.Parallel()
	const callers = 100
	p := peers()
	var keys []string
	var people strings.Builder
	for i := range callers {
		key, docs := whytest.Consumer(fmt.Sprintf("app-%d", i), "")
		keys = append(keys, key)
		people.WriteString(docs)
	}
	_, owner := whytest.Consumer("owner", "")
	credential := func(how string) string {
		return owner + "---\napiVersion: whygate/v1\nkind: Credential\nmetadata: {name: own}\nspec: {application: owner, " + how + "}\n"
	}
	const key = "  - key-auth: {}\n"
	json := []string{"Content-Type: application/json"}
	all := map[string]shared10{
		"maintenance":   {settings: "until: 2099-01-01", code: "maintenance.active"},
		"ip-access":     {settings: "allow: [198.51.100.0/24]", code: "ip-access.not-allowed"},
		"geo":           {settings: "database: [" + countries() + "], allow: [DE]", code: "geo.not-allowed"},
		"bot":           {settings: "deny: [BadBot]", code: "bot.denied", header: []string{"User-Agent: BadBot/1"}},
		"cors":          {settings: `origins: ["https://shop.test"]`, code: "cors.origin", header: []string{"Origin: https://evil.test"}},
		"method":        {settings: "allow: [PUT]", code: "method.not-allowed"},
		"size":          {settings: "uri: 10B", code: "size.uri", path: "/0123456789"},
		"key-auth":      {code: "key.missing"},
		"basic":         {code: "basic.missing", docs: credential(fmt.Sprintf("basic: {username: u, hash: %q}", p.password))},
		"hmac":          {code: "hmac.missing", docs: credential(fmt.Sprintf("hmac: {keyId: k, secret: {file: %q}}", p.secret))},
		"mtls":          {settings: fmt.Sprintf("ca: %q, header: Client-Cert", p.ca), code: "mtls.missing"},
		"forward-auth":  {settings: fmt.Sprintf("url: %q, timeout: 20s", p.authorizer.URL), code: "forward-auth.refused"},
		"jwt":           {settings: `jwks: "http://127.0.0.1:1/keys"`, code: "jwt.missing"},
		"introspection": {settings: fmt.Sprintf(`endpoint: "http://127.0.0.1:1/", clientId: gateway, clientSecret: {file: %q}`, p.secret), code: "introspection.missing"},
		"subscription":  {behind: key, code: "subscription.missing"},
		"access":        {behind: key, settings: "allow: {applications: [nobody]}", code: "access.not-allowed"},
		"scopes":        {behind: key, settings: "all: [read]", code: "scopes.insufficient"},
		"roles":         {behind: key, settings: "any: [clerk]", code: "roles.insufficient"},
		"groups":        {behind: key, settings: "any: [board]", code: "groups.insufficient"},
		"rule":          {behind: key, settings: `rules: [{name: one, effect: allow, when: 'request.method == "PUT"'}]`, code: "rule.no-match"},
		"csrf":          {code: "csrf.missing-cookie", method: "POST"},
		"hotlink":       {settings: "hosts: [shop.test]", code: "hotlink.foreign", header: []string{"Referer: https://evil.test/"}},
		"rate-limit":    {settings: "requests: 1, period: 24h, per: address", code: "rate-limit.exceeded", first: true},
		"quota":         {settings: "requests: 1, period: year, per: address", code: "quota.exceeded", first: true},
		"concurrency":   {settings: "calls: 1, per: route", code: "concurrency.exceeded", held: true},
		"content-type":  {settings: "allow: [application/json]", code: "content-type.not-allowed", method: "POST", body: "a", header: []string{"Content-Type: text/plain"}},
		"json-limits":   {settings: "depth: 1", code: "json.too-deep", method: "POST", body: `[[1]]`, header: json},
		"schema":        {settings: "body: {type: object}", code: "schema.violated", method: "POST", body: "1", header: json},
		"waf":           {code: "waf.blocked", path: "/?q=1%27+OR+%271%27=%271", header: []string{"Host: shop.test"}},
		"mock":          {settings: "answers: [{body: hello}]", code: "mock.no-such-answer", header: []string{"Prefer: code=404"}},
		"transform":     {settings: "request: {body: {remove: [a]}}", code: "transform.not-json", method: "POST", body: "{", header: json},
		"cache":         {code: "cache.only-if-cached", header: []string{"Cache-Control: only-if-cached"}},
	}
	for _, name := range policy.Names() {
		if _, ok := all[name]; ok == slices.Contains(refusesNothing, name) {
			t.Errorf("a case for %s: %v", name, ok)
		}
	}
	for name, c := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began, end := make(chan bool), make(chan bool)
			up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/held" {
					began <- true
					<-end
				}
				io.WriteString(w, "ok")
			})
			docs := whytest.API(up.URL, "/", c.behind+"  - "+name+": {"+c.settings+"}\n    enforce: 10%") + c.docs
			if c.behind != "" {
				docs += people.String()
			}
			n := whytest.Start(t, "wire", whytest.GatewayDocument("wire", "  trustedProxies: [127.0.0.1]\n")+"---\n"+docs)
			if c.held {
				done := make(chan bool)
				go func() {
					defer close(done)
					if res, err := http.Get(n.URL("/held")); err == nil {
						res.Body.Close()
					}
				}()
				<-began
				defer func() { close(end); <-done }()
			}
			refused := 0
			for i := range callers {
				header := append(slices.Clone(c.header), fmt.Sprintf("X-Forwarded-For: 203.0.113.%d", i))
				if c.behind != "" {
					header = append(header, "X-Api-Key: "+keys[i])
				}
				call := func() whytest.Answer { return n.Call(cmp.Or(c.method, "GET"), cmp.Or(c.path, "/"), c.body, header...) }
				if c.first {
					if a := call(); a.StatusCode != 200 {
						t.Fatalf("the first call: %d %s", a.StatusCode, a.Body)
					}
				}
				first, again := call(), call()
				if first.StatusCode != again.StatusCode {
					t.Errorf("caller %d was answered %d and %d", i, first.StatusCode, again.StatusCode)
				}
				record := n.Record(again)
				d, err := gateway.DecodeDetail(record.Detail)
				if err != nil {
					t.Fatal(err)
				}
				switch code := again.Header.Get("Whygate-Reason"); {
				case code == c.code && record.Flags&calllog.Shadowed == 0 && len(d.Shadows) == 0:
					refused++
				case code != "" || again.StatusCode != 200:
					t.Fatalf("caller %d: %d %s %s", i, again.StatusCode, code, again.Body)
				case record.Flags&calllog.Shadowed == 0 || len(d.Shadows) != 1 || d.Shadows[0].Verdict.Reason.Code != c.code || d.Shadows[0].Check != name:
					t.Fatalf("caller %d passed, and the record does not say that %s would have refused: %+v", i, c.code, d.Shadows)
				}
			}
			// Who is among them follows from the names of policies and callers, so that the number is the same in each run.
			if refused < 3 || refused > 20 {
				t.Errorf("%d of %d callers were refused, 10%% should be", refused, callers)
			}
		})
	}
}

// Where a policy is enforced for some callers, all that differs for the others is that nobody is refused: who would pass is
// served alike, and who would not reaches the upstream as if the policy were not there.
func TestEnforcedForOthers(t *testing.T) {
	key, consumer := whytest.Consumer("app", "")
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer ann" {
			w.WriteHeader(403)
			return
		}
		w.Header().Set("X-User", "ann")
		w.Header().Set("Set-Cookie", "session=renewed")
	}))
	defer auth.Close()
	up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "https://own.test")
		fmt.Fprintf(w, "%s key=%s auth=%s user=%s cert=%s", r.Method, r.Header.Get("X-Api-Key"), r.Header.Get("Authorization"), r.Header.Get("X-User"), r.Header.Get("Client-Cert"))
	})
	const preflight = "Access-Control-Request-Method: GET"
	for _, c := range []struct {
		name, policy string
		refused      []string // a call that the policy refuses
		reason       string
		passing      []string // one that it lets pass
		method       string
		spared, same string // what becomes of the one where it is spared, and of the other for everybody
	}{
		{"key-auth", "key-auth: {}", []string{"X-Api-Key: another"}, "key.unknown", []string{"X-Api-Key: " + key}, "GET",
			"200 GET key=another auth= user= cert= https://own.test", "200 GET key= auth= user= cert= https://own.test"},
		{"forward-auth", fmt.Sprintf("forward-auth: {url: %q, copy: [X-User], copyBack: [Set-Cookie], timeout: 20s}", auth.URL), []string{"Authorization: Bearer eve", "X-User: root"}, "forward-auth.refused",
			[]string{"Authorization: Bearer ann", "X-User: root"}, "GET",
			"200 GET key= auth=Bearer eve user= cert= https://own.test", "200 GET key= auth=Bearer ann user=ann cert= https://own.test session=renewed"},
		{"mtls", fmt.Sprintf("mtls: {ca: %q, accept: any, header: Client-Cert}", peers().ca), []string{peers().shown["stranger"]}, "mtls.untrusted", []string{peers().shown["known"]}, "GET",
			"200 GET key= auth= user= cert= https://own.test", "200 GET key= auth= user= cert= https://own.test"},
		{"cors", `cors: {origins: ["https://shop.test"]}`, []string{"Origin: https://evil.test"}, "cors.origin", []string{"Origin: https://shop.test"}, "GET",
			"200 GET key= auth= user= cert= https://own.test", "200 GET key= auth= user= cert= https://shop.test"},
		{"cors preflight", `cors: {origins: ["https://shop.test"]}`, []string{"Origin: https://evil.test", preflight}, "cors.origin", []string{"Origin: https://shop.test", preflight}, "OPTIONS",
			"200 OPTIONS key= auth= user= cert= https://own.test", "204  https://shop.test"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := whytest.Start(t, "wire", whytest.GatewayDocument("wire", "  trustedProxies: [127.0.0.1]\n")+"---\n"+whytest.API(up.URL, "/", "  - "+c.policy+"\n    enforce: 50%")+consumer)
			enforced, spared := 0, 0
			for i := range 40 {
				call := func(header []string) string {
					a := n.Call(c.method, "/", "", append(slices.Clone(header), fmt.Sprintf("X-Forwarded-For: 203.0.113.%d", i))...)
					if r := a.Header.Get("Whygate-Reason"); r != "" {
						return r
					}
					return strings.TrimRight(fmt.Sprintf("%d %s %s %s", a.StatusCode, a.Body, a.Header.Get("Access-Control-Allow-Origin"), a.Header.Get("Set-Cookie")), " ")
				}
				switch got := call(c.refused); got {
				case c.reason:
					enforced++
				case c.spared:
					spared++
				default:
					t.Fatalf("refused or spared: %s", got)
				}
				if got := call(c.passing); got != c.same {
					t.Fatalf("who would pass: %s, want %s", got, c.same)
				}
			}
			if enforced < 5 || spared < 5 {
				t.Errorf("%d enforced, %d spared", enforced, spared)
			}
		})
	}
}

// A limit that only watches takes nothing of what an enforced one tells the client.
func TestWatchedLimitIsSilent(t *testing.T) {
	up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {})
	n := whytest.Start(t, "wire", whytest.API(up.URL, "/", "  - rate-limit: {requests: 2, period: 24h, per: address}\n    name: small\n    shadow: true\n  - rate-limit: {requests: 100, period: 24h, per: address}\n    name: large"))
	for i := range 4 {
		a := n.Call("GET", "/", "")
		if got, want := a.Header.Get("RateLimit"), fmt.Sprintf("r=%d", 99-i); a.StatusCode != 200 || !strings.Contains(got, want) || !strings.Contains(got, "large") {
			t.Errorf("call %d: %d, RateLimit %q, want %s of large", i, a.StatusCode, got, want)
		}
		if rec := n.Record(a); int(rec.Remaining) != 99-i {
			t.Errorf("call %d: the record says that %d are left", i, rec.Remaining)
		}
	}
}

// TestTransformThatWatches: what would be refused is recorded, and nothing is changed, of calls that would pass neither.
func TestTransformThatWatches(t *testing.T) {
	up := whytest.Script(t, always(ok))
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		n := whytest.Start(t, engine, whytest.GatewayDocument(engine, "")+"---\n"+whytest.API(up.URL(), "/", "  - transform: {request: {headers: {set: {X-New: a}}, body: {remove: [a]}}, response: {status: {\"200\": 410}}}\n    shadow: true"))
		for body, want := range map[string]string{`{"a": 1, "b": 2}`: "", `{`: "transform.not-json"} {
			before := len(up.Seen())
			a := n.Call("POST", "/", body, "Content-Type: application/json")
			seen := up.Seen()[before:]
			if a.StatusCode != 200 || len(seen) != 1 || string(seen[0].Body) != body || seen[0].Get("X-New") != "" {
				t.Errorf("%s: %d, the upstream got %+v", body, a.StatusCode, seen)
			}
			d, err := gateway.DecodeDetail(n.Record(a).Detail)
			if err != nil || (len(d.Shadows) == 1) != (want != "") || want != "" && d.Shadows[0].Reason.Code != want {
				t.Errorf("%s: %+v, %v", body, d.Shadows, err)
			}
		}
	})
}
