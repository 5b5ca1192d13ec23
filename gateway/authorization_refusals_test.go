package gateway_test

import (
	"testing"

	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/snapshot"
	"github.com/whygate/whygate/whytest"
	"github.com/whygate/whygate/whytest/issuer"
)

// authorizationRefusals provoke the reasons of policies that ask what a known caller may do.
func authorizationRefusals(t *testing.T) []refusal {
	key, known := whytest.Consumer("hidden-app", "  scopes: [held.scope]\n  roles: [held-role]\n  groups: [held-group]")
	shown := []string{"X-Api-Key: " + key}
	is := issuer.Start(t)
	token := []string{"Authorization: Bearer " + is.Token(lasting(nil))}
	with := func(code, policy string) refusal {
		return refusal{code: code, policies: "  - key-auth: {}\n  - " + policy, docs: known, header: shown}
	}
	anybody := func(code, policy string, header ...string) refusal {
		return refusal{code: code, policies: "  - " + policy, header: header}
	}
	posts := func(c refusal, content, body string) refusal {
		c.method, c.body = "POST", body
		c.header = append(c.header[:len(c.header):len(c.header)], "Content-Type: "+content)
		return c
	}
	rule := func(effect, when string) string {
		return "rule: {rules: [{name: hidden-rule, effect: " + effect + ", when: '" + when + "'}]}"
	}
	const told = "rule: {rules: [{name: hidden-rule, effect: deny, when: 'request.method == \"GET\"', message: closed for all}]}"
	const amount = `body.amount < 1234567`
	body := with("rule.body-unreadable", rule("allow", amount))
	byToken := func(code, policy string) refusal {
		c := with(code, policy)
		c.policies, c.docs, c.header = "  - jwt: {issuer: \""+is.URL+"\"}\n  - "+policy, "", token
		c.before = keysArrive
		return c
	}
	return []refusal{
		with("access.denied", "access: {deny: {applications: [hidden-app, hidden-other]}}"),
		with("access.denied", "access: {deny: {teams: [hidden-app-team]}}"),
		byToken("access.denied", "access: {deny: {subjects: [ann, hidden-other]}}"),
		with("access.not-allowed", "access: {allow: {applications: [hidden-apps], teams: [hidden-team]}}"),
		byToken("access.not-allowed", "access: {allow: {subjects: [anne, hidden-other]}}"),
		anybody("access.not-allowed", "access: {allow: {teams: [hidden-team]}}"),
		with("scopes.insufficient", "scopes: {all: [orders.read], any: [held.scop, wanted.scope]}"),
		byToken("scopes.insufficient", "scopes: {all: [wanted.scope]}"),
		anybody("scopes.insufficient", "scopes: {any: [wanted.scope]}"),
		with("roles.insufficient", "roles: {all: [hidden-role], any: [held-rol, hidden-other]}"),
		byToken("roles.insufficient", "roles: {all: [hidden-role]}"),
		anybody("roles.insufficient", "roles: {all: [hidden-role]}"),
		with("groups.insufficient", "groups: {all: [hidden-group], any: [held-grou, hidden-other]}"),
		byToken("groups.insufficient", "groups: {any: [hidden-group]}"),
		anybody("groups.insufficient", "groups: {all: [hidden-group]}"),
		with("rule.denied", rule("deny", `application.name.startsWith("hidden")`)),
		anybody("rule.denied", told),
		anybody("rule.denied", rule("deny", `request.headers["x-colour"] == "hidden-red"`), "X-Colour: hidden-red"),
		with("rule.no-match", rule("allow", `client.ip.within("198.51.100.0/24") && "hidden-role" in identity.roles`)),
		anybody("rule.no-match", rule("allow", `request.headers["x-colour"] == "hidden-red"`), "X-Colour: blue"),
		anybody("rule.no-match", "rule: {default: deny, rules: [{name: hidden-rule, effect: deny, when: 'request.method == \"PUT\"'}]}"),
		byToken("rule.failed", rule("allow", `claims.hidden_claim == "hidden-value"`)),
		byToken("rule.failed", rule("deny", `claims.hidden_claim == "hidden-value"`)),
		posts(with("rule.failed", rule("allow", amount)), "application/json", `{"ammount": 1}`),
		posts(body, "text/plain", "amount=1"),
		posts(body, "application/json", `{"amount": 1, "amount": 2}`),
		posts(with("content.too-large", "rule: {maxBody: 5B, rules: [{name: hidden-rule, effect: allow, when: '"+amount+"'}]}"), "application/json", `{"amount": 1}`),
		with("rate-limit.cost-unknown", "rate-limit: {requests: 12, period: 1h, cost: int(request.query.hidden_months)}"),
		{code: "counter.unavailable", gateway: "  counters: {store: redis, url: \"redis://127.0.0.1:1\", whenAway: closed}", policies: "  - rate-limit: {requests: 5}"},
		{code: "test.bad-content", method: "POST", body: "a bad one", edit: func(s *snapshot.Snapshot) {
			for _, r := range s.Routes {
				r.Steps = append(r.Steps, policy.Step{Check: reads{1000}, Name: "reads", Kind: "reads", Phase: policy.Content})
			}
		}},
	}
}
