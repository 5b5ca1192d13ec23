package gateway_test

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/whytest"
)

// Policies of all sorts mixed, each with a call that several of them refuse: all obstacles are told, in the order of the
// checks, with the smallest change that makes the call pass; and the call, once made, is refused by the first, and its
// record has the others. "?" is a check that cannot be told without knowing more.
func TestMixtures(t *testing.T) {
	t.Parallel()
	up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {})
	keys, people := map[string]string{}, ""
	for _, c := range [][2]string{{"alpha", "  scopes: [read]\n  roles: [staff]"}, {"beta", "  scopes: [write]"}, {"revoked", "  state: revoked"}, {"late", "  until: 2020-01-01"}} {
		key, docs := whytest.Consumer(c[0], c[1])
		keys[c[0]], people = key, people+docs
	}
	people += "---\napiVersion: whygate/v1\nkind: Plan\nmetadata: {name: tiny}\nspec: {rateLimit: {requests: 9, period: 1d}}\n"
	for _, s := range [][2]string{{"alpha", "state: pending"}, {"beta", "state: active, until: 2020-01-01"}} {
		people += "---\napiVersion: whygate/v1\nkind: Subscription\nmetadata: {name: " + s[0] + "}\nspec: {application: " + s[0] + ", api: shop, plan: tiny, " + s[1] + "}\n"
	}
	head := func(pairs ...string) (list [][2]string) {
		for p := range slices.Chunk(pairs, 2) {
			list = append(list, [2]string{p[0], p[1]})
		}
		return list
	}
	json := "application/json"
	far := "192.0.2.9"
	for _, c := range []struct {
		name     string
		spec     string // of the API, before its policies
		policies []string
		method   string
		path     string // "" is /items
		header   [][2]string
		body     string
		want     string // codes
		way      string // the first, by the parties and words of each change
	}{
		{name: "address, key and scope", policies: []string{"ip-access: {allow: [10.0.0.0/8]}", "key-auth", "scopes: {all: [read]}"}, header: head("X-Forwarded-For", far),
			want: "ip-access.not-allowed key.missing ?", way: "caller: call from 10.0.0.0/8 + caller: send your key (…)"},
		{name: "denied address, known caller", policies: []string{"ip-access: {deny: [192.0.2.0/24]}", "key-auth", "scopes: {all: [read]}"}, header: head("X-Forwarded-For", far, "X-Api-Key", keys["beta"]),
			want: "ip-access.denied scopes.insufficient", way: `caller: another network + caller: scope "read"`},
		{name: "two lists of addresses", policies: []string{"ip-access: {allow: [10.0.0.0/8]}", "ip-access: {deny: [192.0.2.9]}\n    name: second"}, header: head("X-Forwarded-For", far),
			want: "ip-access.not-allowed ip-access.denied", way: "caller: call from 10.0.0.0/8"},
		{name: "all of two methods", spec: "  authentication: all\n", policies: []string{"key-auth", "basic: {}", "roles: {any: [chief]}"}, header: head("X-Api-Key", keys["alpha"]),
			want: "basic.missing roles.insufficient", way: `caller: user name and password + caller: role "chief"`},
		{name: "any of two methods", policies: []string{"hmac: {}", "key-auth", "hotlink: {}"}, header: head("X-Api-Key", "wrong", "Referer", "https://evil.test/"),
			want: "key.unknown hotlink.foreign", way: "caller: check that the key + caller: from a page of http://shop.test"},
		{name: "a revoked key of an application without subscription", policies: []string{"key-auth", "subscription"}, header: head("X-Api-Key", keys["revoked"]),
			want: "key.revoked subscription.missing", way: "application: newer key + application: subscribe"},
		{name: "an expired key, and a body", policies: []string{"key-auth", "subscription", "json-limits: {}"}, method: "POST", header: head("X-Api-Key", keys["late"], "Content-Type", json), body: "{",
			want: "key.expired subscription.missing json.malformed", way: "application: new key + application: subscribe + caller: correct line 1 (…)"},
		{name: "a subscription that waits, a scope, a maintenance", policies: []string{"maintenance: {until: 2099-01-01}", "key-auth", "subscription", "scopes: {all: [write]}"}, header: head("X-Api-Key", keys["alpha"]),
			want: "maintenance.active subscription.pending scopes.insufficient", way: `caller: call after 2099-01-01 + owner: approve + caller: scope "write"`},
		{name: "a subscription that has ended, a group", policies: []string{"key-auth", "subscription", "groups: {any: [board]}"}, header: head("X-Api-Key", keys["beta"]),
			want: "subscription.expired groups.insufficient", way: `application: renew + caller: group "board"`},
		{name: "rules and a schema", policies: []string{"anonymous: {}", `rule: {rules: [{name: nopost, effect: deny, when: 'request.method == "POST"'}]}`, "rule: {rules: [{name: vip, effect: allow, when: 'request.size > 900'}]}\n    name: second", "schema: {body: {type: object, properties: {id: {type: integer}}}}"},
			method: "POST", header: head("Content-Type", json), body: `{"id":"x"}`,
			want: "rule.denied rule.no-match schema.violated", way: `caller: request.method == "POST" + caller: request.size > 900 + caller: set /id to an integer`},
		{name: "attack and depth, of nobody", policies: []string{"key-auth", "json-limits: {depth: 1}", "waf: {}"}, method: "POST", path: "/items?q=1%27%20OR%20%271%27%3D%271%20--", header: head("Content-Type", json), body: `{"a":{"b":1}}`,
			want: "key.missing json.too-deep waf.blocked", way: "caller: send your key + caller: nest at most 1 + caller: query parameter q"},
		{name: "a type that two checks refuse", policies: []string{"content-type: {allow: [application/json]}", "schema: {body: {type: object, required: [id]}}"}, method: "POST", header: head("Content-Type", "text/plain"), body: "{}",
			want: "content-type.not-allowed schema.media-type", way: "caller: Content-Type: application/json + caller: add /id"},
		{name: "a page of somebody else", policies: []string{"csrf: {exemptTokens: false}", "hotlink: {}"}, method: "POST", header: head("Origin", "https://evil.test", "Referer", "https://evil.test/x"),
			want: "csrf.foreign-origin hotlink.foreign", way: "caller: from a page of http://shop.test + caller: cookies"},
		{name: "a body too long, and no cookie", policies: []string{"size: {body: 1B}", "csrf: {exemptTokens: false}"}, method: "POST", body: "{}",
			want: "size.body csrf.missing-cookie", way: "caller: at most 1 B + caller: cookies"},
		{name: "maintenance and method", policies: []string{"maintenance: {message: moving}", "method: {allow: [GET]}"}, method: "POST",
			want: "maintenance.active method.not-allowed", way: "owner: to let 127.0.0.1 in + caller: use GET"},
		{name: "a method that no route serves", policies: []string{"key-auth"}, method: "DELETE", want: "route.method", way: "caller: use POST + caller: send your key"},
		{name: "a slash, and no key", policies: []string{"key-auth"}, path: "/items/", want: "route.none", way: "caller: call /items + caller: send your key"},
		{name: "no stage, and a scope", spec: "  stages: [{name: prod}]\n", policies: []string{"key-auth", "scopes: {all: [write]}"}, header: head("X-Api-Key", keys["alpha"]),
			want: "route.stage-missing", way: `caller: call /prod/items + caller: scope "write"`},
		{name: "a retired version, and no key", spec: "  versions: [{name: v1, path: /v1, state: retired}, {name: v2, path: /v2}]\n", policies: []string{"key-auth"}, path: "/v1/items",
			want: "route.none", way: "caller: call /v2/items + caller: send your key"},
		{name: "another host", spec: "  hosts: [only.test]\n", policies: []string{"anonymous: {}", "scopes: {all: [x]}"}, want: "route.host", way: `caller: call only.test + caller: scope "x"`},
		{name: "a program, a path, no key", policies: []string{"bot: {deny: [BadBot]}", "size: {uri: 15B}", "key-auth"}, path: "/items?aaaaaaaaaaaaaaa", header: head("User-Agent", "BadBot/1.0"),
			want: "bot.denied size.uri key.missing", way: "application: a name of its own + caller: shorten + caller: send your key"},
		{name: "a preflight", policies: []string{"cors: {origins: [\"https://shop.test\"], headers: [X-A]}", "key-auth"}, method: "OPTIONS", header: head("Origin", "https://evil.test", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "x-b"),
			want: "cors.origin", way: "owner: allowed origins + caller: do not send the header x-b"},
		{name: "no such answer, and no key", policies: []string{"key-auth", "mock: {answers: [{status: 200}]}"}, header: head("Prefer", "code=404"),
			want: "key.missing mock.no-such-answer", way: "caller: send your key + caller: send no Prefer"},
		{name: "a check that watches", policies: []string{"key-auth: {}\n    shadow: true", "waf: {}"}, path: "/items?q=%3Cscript%3Ealert(1)%3C/script%3E",
			want: "~key.missing waf.blocked", way: "caller: query parameter q"},
		{name: "one body for two checks", policies: []string{"schema: {body: {type: object}}", "transform: {request: {body: {set: {x: 1}}}}"}, method: "POST", header: head("Content-Type", json), body: "[1",
			want: "schema.malformed transform.not-json", way: "caller: correct line 1 (…)"},
		{name: "a body that rules cannot read", policies: []string{"anonymous: {}", `rule: {rules: [{name: b, effect: allow, when: "body.id == 1"}]}`, "content-type: {allow: [application/json]}"}, method: "POST", header: head("Content-Type", "text/plain"), body: "hello",
			want: "rule.body-unreadable content-type.not-allowed", way: "caller: valid JSON with Content-Type (…)"},
		{name: "ten at once", policies: []string{"maintenance: {until: 2099-01-01}", "ip-access: {allow: [10.0.0.0/8]}", "bot: {deny: [curl]}", "size: {uri: 10B}", "anonymous: {}", "access: {allow: {applications: [alpha]}}", "scopes: {all: [read]}", `rule: {rules: [{name: nope, effect: deny, when: "true"}]}`, "hotlink: {}", "content-type: {allow: [application/json]}", "json-limits: {all: true}"},
			method: "POST", path: "/items?xxxxxxx", header: head("X-Forwarded-For", far, "User-Agent", "curl/8", "Referer", "https://evil.test/", "Content-Type", "text/plain"), body: "x",
			want: "maintenance.active ip-access.not-allowed bot.denied size.uri access.not-allowed scopes.insufficient rule.denied hotlink.foreign content-type.not-allowed json.malformed",
			way:  "caller: call after + caller: call from 10.0.0.0/8 + owner: allow your program + caller: shorten + caller: call as somebody who is allowed + caller: scope + owner: whether this call may be made + caller: from a page + caller: Content-Type + caller: correct line 1 (…)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			docs := whytest.GatewayDocument("wire", "  trustedProxies: [127.0.0.1]\n") + "---\n" + strings.Replace(boundDocument(up.URL, ""), "  policies:\n", c.spec+"  policies:\n", 1)
			for _, p := range c.policies {
				if !strings.Contains(p, ":") {
					p += ": {}"
				}
				docs += "  - " + p + "\n"
			}
			docs += "  routes: [{name: items, path: /items, methods: [GET, POST]}]\n" + people
			n := whytest.Start(t, "wire", docs)
			q := gateway.Question{Method: c.method, URL: "http://shop.test/items", Header: c.header, Content: []byte(c.body), Body: int64(len(c.body)), From: netip.MustParseAddr("127.0.0.1")}
			if c.path != "" {
				q.URL = "http://shop.test" + c.path
			}
			if c.method == "" {
				q.Method = "GET"
			}
			e, err := gateway.Explain(n.Snapshot(), q)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, x := range e.Trail {
				switch x.Outcome {
				case reason.Denied:
					got = append(got, x.Reason.Code)
				case reason.Shadow:
					got = append(got, "~"+x.Reason.Code)
				case reason.Unknown:
					got = append(got, "?")
				}
			}
			if diff := cmp.Diff(c.want, strings.Join(got, " ")); diff != "" {
				t.Error(diff)
			}
			if len(e.Ways) == 0 {
				t.Fatal("no way to pass")
			}
			way := ""
			for _, f := range e.Ways[0].Changes {
				way += " + " + f.By.String() + ": " + f.Text
			}
			if !e.Ways[0].Complete {
				way += " (…)"
			}
			wanted := strings.Split(strings.TrimSuffix(c.way, " (…)"), " + ")
			told := strings.Split(strings.TrimPrefix(way, " + "), " + ")
			ok := len(wanted) == len(told) && strings.HasSuffix(c.way, " (…)") == strings.HasSuffix(way, " (…)")
			for i := 0; ok && i < len(wanted); i++ {
				by, words, _ := strings.Cut(wanted[i], ": ")
				ok = strings.HasPrefix(told[i], by+": ") && strings.Contains(told[i], words)
			}
			if !ok {
				t.Errorf("the way is\n%s\nwanted\n%s", strings.Join(told, "\n"), strings.Join(wanted, "\n"))
			}
			agree(t, n, q, c.body, e)
		})
	}
}
