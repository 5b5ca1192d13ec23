package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/whytest"
)

// A subscriber whom access leaves out is told, whichever list leaves them out, and also where all policies stand on one line.
func TestLintBarred(t *testing.T) {
	const consumers = "---\napiVersion: whygate/v1\nkind: Application\nmetadata: {name: shop}\nspec: {tenant: acme}\n---\napiVersion: whygate/v1\nkind: Plan\nmetadata: {name: p}\nspec: {}\n" +
		"---\napiVersion: whygate/v1\nkind: Subscription\nmetadata: {name: s}\nspec: {application: shop, api: api, plan: p, state: active}\n"
	for policies, barred := range map[string]bool{
		"    [key-auth, subscription, {access: {allow: {tenants: [other]}}}]":      true,
		"    [key-auth, subscription, {access: {allow: {tenants: [acme]}}}]":       false,
		"    [key-auth, subscription, {access: {allow: {applications: [other]}}}]": true,
		"    [key-auth, subscription, {access: {deny: {tenants: [acme]}}}]":        true,
		// Two in one line: the one that holds on the route counts.
		"    [key-auth, subscription, {access: {allow: {applications: [other]}}}]\n  routes: [{path: /a, policies: [{access: {allow: {tenants: [acme]}}}]}]":                                                                                             false,
		"    [key-auth, subscription]\n  routes: [{path: /a, policies: [{access: {allow: {tenants: [other]}}}]}, {path: /b, policies: [{access: {allow: {tenants: [nobody]}}}]}]":                                                                        true,
		"    [key-auth, subscription]\n  routes: [{path: /a, policies: [{access: {allow: {tenants: [acme]}}}]}, {path: /b, policies: [{access: {allow: {tenants: [other]}}}]}]":                                                                          false,
		"    [key-auth, subscription]\n  routes: [{path: /a, policies: [{access: {allow: {tenants: [other]}}}]}, {path: /b, policies: [{access: {allow: {tenants: [other]}}}, {access: {allow: {tenants: [acme]}}, name: watched, shadow: true}]}]":      true,
		"    [key-auth, subscription]\n  routes: [{path: /a, policies: [{access: {allow: {tenants: [other]}}}]}, {path: /b, policies: [{access: {allow: {tenants: [other]}}}, {access: {allow: {subjects: [somebody]}}, name: watched, shadow: true}]}]": true,
	} {
		file := filepath.Join(t.TempDir(), "docs.yaml")
		if err := os.WriteFile(file, []byte(whytest.API("http://127.0.0.1:1", "/", policies)+consumers), 0o600); err != nil {
			t.Fatal(err)
		}
		snap, _, problems := compileOffline([]string{file})
		if snap == nil {
			t.Fatalf("%s\n%v", policies, problems)
		}
		found := false
		for _, p := range lint(snap, problems) {
			found = found || p.Code == "subscription.barred"
		}
		if found != barred {
			t.Errorf("%s: barred %v", strings.TrimSpace(policies), found)
		}
	}
}

// lintStories are lost days whose cause stands in documents: the policies and further documents that held it, and what lint
// says of it, by its code or, of an error, in its words.
var lintStories = []struct{ what, policies, more, says string }{
	{"a list of groups that holds names of consumers", "key-auth, {groups: {any: [shop]}}", "", "groups.held-by-nobody"},
	{"a subscription of what is no application", "key-auth, subscription", "---\napiVersion: whygate/v1\nkind: Subscription\nmetadata: {name: s}\nspec: {application: shop-key, api: api, plan: p, state: active}\n", `there is no application "shop-key"`},
	{"granted at one gate, blocked at another", "key-auth, subscription, {access: {allow: {applications: [other]}}}", subscribed, "subscription.barred"},
	{"allowed by one list, without a subscription", "key-auth, subscription, {access: {allow: {applications: [shop]}}}", "", "access.not-subscribed"},
	{"a wildcard that is literal", "], routes: [{path: /services/*}", "", `the segment "*" is literal here`},
	{"one limit for everybody behind an ingress", "{rate-limit: {requests: 3, per: address}}", "", "rate-limit.proxies-unsaid"},
	{"the own address is on the list, and refused", "{ip-access: {allow: [203.0.113.0/24]}}", "", "ip-access.proxies-unsaid"},
	{"a list that let the internet in", "{ip-access: {allow: [10.0.0.0/8]}}", "---\napiVersion: whygate/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {trustedProxies: [10.0.0.0/8]}\n", "ip-access.allows-proxy"},
	{"a preflight that was refused for want of a key", "key-auth", "", "cors.preflight-refused"},
	{"no leeway for clocks", "{jwt: {issuer: 'https://login.shop.test', audience: [a], leeway: 0s}}", "", "jwt.no-leeway"},
	{"one limit for everybody behind an ingress, without a word of addresses", "{rate-limit: {requests: 3}}", "", "rate-limit.proxies-unsaid"},
	{"a list that names everybody", "{ip-access: {allow: [10.0.0.0/8, 0.0.0.0/0]}}", "", "ip-access.allows-everybody"},
	{"a subscription that nobody has", "key-auth, subscription", "", "subscription.nobody"},
	{"a parameter as other gateways write it", "key-auth], routes: [{path: \"/services/:id\"}", "", "route.colon"},
	{"a path with a slash at its end, meant for all below", "key-auth], routes: [{path: /services/}", "", "route.slash-only"},
	{"the base path in each route", "key-auth], basePath: /shop, routes: [{path: /shop/orders}", "", "route.base-twice"},
	{"the stage in each route", "key-auth], stages: [{name: prod}], routes: [{path: /prod/orders}", "", "route.stage-twice"},
	{"the stage in the base path", "key-auth], stages: [{name: prod}], basePath: /prod/shop, owner: {team: \"x\"}, versions: [{name: v}", "", "api.stage-twice"},
	{"a policy that closes a route", "{method: {allow: [PUT]}}], routes: [{path: /, methods: [GET, POST]}", "", "method.refuses-route"},
	{"a rule about an application that is not there", "key-auth, {rule: {rules: [{name: r, effect: allow, when: 'application.name in [\"shopp\"]'}]}}", "", "rule.never-holds"},
	{"a rule about a team that is not there", "key-auth, {rule: {rules: [{name: r, effect: allow, when: 'application.team == \"shop\"'}]}}", "---\napiVersion: whygate/v1\nkind: Application\nmetadata: {name: a}\nspec: {owner: {team: shops}}\n", "rule.never-holds"},
	{"a rule about a method in small letters", "{rule: {rules: [{name: r, effect: deny, when: '\"get\" == request.method'}]}}", "", "rule.never-holds"},
	{"a rule about a header in capital letters", "{rule: {rules: [{name: r, effect: deny, when: 'request.headers[\"X-Debug\"] == \"1\"'}]}}", "", "rule.never-holds"},
	{"a firewall whose false alarms nobody has watched", "{waf: {paranoia: 3}}", "", "waf.unwatched"},
}

const subscribed = "---\napiVersion: whygate/v1\nkind: Subscription\nmetadata: {name: s}\nspec: {application: shop, api: api, plan: p, state: active}\n"

// TestLintFindsStories: what can be seen in documents is said before they are published.
func TestLintFindsStories(t *testing.T) {
	const consumers = "---\napiVersion: whygate/v1\nkind: Application\nmetadata: {name: shop}\n---\napiVersion: whygate/v1\nkind: Application\nmetadata: {name: other}\n---\napiVersion: whygate/v1\nkind: Plan\nmetadata: {name: p}\nspec: {}\n" +
		"---\napiVersion: whygate/v1\nkind: Credential\nmetadata: {name: shop-key}\nspec: {application: shop, groups: [staff], key: {prefix: wg_8fK2mQ4z, sha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}}\n"
	for _, s := range lintStories {
		t.Run(s.what, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "docs.yaml")
			text := "apiVersion: whygate/v1\nkind: Upstream\nmetadata: {name: up}\nspec: {targets: [{url: \"http://127.0.0.1:1\"}]}\n---\napiVersion: whygate/v1\nkind: API\nmetadata: {name: api}\nspec: {upstream: up, policies: [" + s.policies + "]}\n"
			if err := os.WriteFile(file, []byte(text+consumers+s.more), 0o600); err != nil {
				t.Fatal(err)
			}
			snap, _, problems := compileOffline([]string{file})
			if snap != nil {
				problems = append(problems, lint(snap, problems)...)
			}
			found := false
			for _, p := range problems {
				isIt := p.Code == s.says || p.Severity != resource.Warning && strings.Contains(p.Message, s.says)
				if found = found || isIt; !isIt && p.Severity != resource.Warning {
					t.Error(p)
				}
			}
			if !found {
				t.Errorf("%s is not said: %v", s.says, problems)
			}
		})
	}
}

// What is written on purpose is not warned of.
func TestLintIsQuiet(t *testing.T) {
	for _, spec := range []string{
		"  basePath: /shop\n  routes: [{path: /shops}, {path: /a/}, {path: /a}, {path: /}]\n",
		"  basePath: /shop\n  routes: [{path: /a/}, {path: \"/{rest...}\"}, {path: \"/orders:batch\"}]\n",
		"  stages: [{name: prod, path: /}, {name: dev}]\n  basePath: /production\n  routes: [{path: /devices}, {path: /prod}]\n",
		"  policies: [{method: {deny: [DELETE]}}]\n  routes: [{path: /a, methods: [GET, DELETE]}]\n",
		"  policies: [{method: {allow: [GET]}}]\n  routes: [{path: /a, methods: [HEAD]}]\n",
		"  policies: [key-auth, {cors: {origins: [\"https://a.test\"]}}, {rule: {rules: [{name: r, effect: allow, when: 'request.method == \"PURGE\" || request.headers[\"x-a\"] == \"B\" || application.name == \"shop\" || claims.dept == \"Sales\"'}]}}]\n  routes: [{path: /a}]\n",
		"  stages: [{name: dev, openPlan: p}, {name: prod}]\n  policies: [key-auth, subscription, {cors: {origins: [\"https://a.test\"]}}]\n  routes: [{path: /a}]\n",
	} {
		file := filepath.Join(t.TempDir(), "docs.yaml")
		docs := "apiVersion: whygate/v1\nkind: Upstream\nmetadata: {name: up}\nspec: {targets: [{url: \"http://127.0.0.1:1\"}]}\n---\napiVersion: whygate/v1\nkind: API\nmetadata: {name: api}\nspec:\n  upstream: up\n" + spec +
			"---\napiVersion: whygate/v1\nkind: Application\nmetadata: {name: shop}\n---\napiVersion: whygate/v1\nkind: Plan\nmetadata: {name: p}\n" +
			"---\napiVersion: whygate/v1\nkind: Credential\nmetadata: {name: shop-key}\nspec: {application: shop, key: {prefix: wg_8fK2mQ4z, sha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}}\n"
		if err := os.WriteFile(file, []byte(docs), 0o600); err != nil {
			t.Fatal(err)
		}
		snap, _, problems := compileOffline([]string{file})
		if snap != nil {
			problems = append(problems, lint(snap, problems)...)
		}
		if len(problems) > 0 {
			t.Errorf("%s%v", spec, problems)
		}
	}
}
