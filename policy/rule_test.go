package policy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"cel.dev/cel-go/common/types"
	"pgregory.net/rapid"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
)

// content is a body that is there.
type content struct {
	b     []byte
	known bool
	reads int
}

func (c *content) Known() bool { return c.known }
func (c *content) Body(max int64) ([]byte, reason.Verdict) {
	c.reads++
	if int64(len(c.b)) > max {
		return nil, bodyTooLarge.Refuse(reason.Public("size", reason.Bytes(len(c.b))), reason.Public("over", reason.Bytes(1)), reason.Public("limit", reason.Bytes(max)))
	}
	return c.b, reason.Verdict{}
}

func (b *testbed) rule(when string) Check {
	b.t.Helper()
	return b.check("rule", fmt.Sprintf("rules: [{name: r, effect: allow, when: %s}]", strconvQuote(when)))
}

func strconvQuote(s string) string {
	q, _ := json.Marshal(s)
	return string(q)
}

func TestRuleVariables(t *testing.T) {
	b := newTestbed(t)
	b.route = Route{API: "orders", Version: "v2", Stage: "prod", Name: "one", Mount: "/prod/orders", Template: "/{id}/items/{rest...}"}
	acme := b.application("acme")
	acme.Owner.Team = "sales"
	b.now = b.now.In(time.FixedZone("here", 5*3600))
	x := b.from("203.0.113.7", "POST /prod/orders/a%20b/items/x/y?page=2&tag=a&tag=b&q=a%2Bb", "X-Dept: one", "X-Dept: two", "Cookie: a=1", "Cookie: b=2", "Content-Type: application/json; charset=utf-8")
	x.Application, x.Plan = acme, &consumer.Plan{Name: "gold"}
	x.Identity = &consumer.Identity{Method: "jwt", Subject: "alice", Issuer: "https://id.test", Scopes: []string{"read", "write"}, Roles: []string{"manager"}, Groups: []string{"staff"},
		Claims: map[string]any{"dept": "sales", "level": 3.0, "big": json.Number("12"), "address": map[string]any{"city": "Bonn"}, "list": []any{"a", 1.0}, "admin": true}}
	x.BodySize = 12
	for _, when := range []string{
		`request.method == "POST"`, `request.path == "/prod/orders/a%20b/items/x/y"`, `request.host == "shop.test"`, `request.scheme == "https"`, `request.size == 12`,
		`request.query.page == "2"`, `request.query["q"] == "a+b"`, `!has(request.query.none)`, `!("none" in request.query)`, `"page" in request.query`,
		`request.headers["x-dept"] == "one, two"`, `request.headers["X-DEPT"].startsWith("one")`, `request.headers.cookie == "a=1; b=2"`, `has(request.headers.cookie)`,
		`request.headers.exists(n, n == "x-dept")`, `size(request.headers) == 4`,
		`request.params.id == "a b"`, `request.params.rest == "x/y"`, `!has(request.params.other)`,
		`client.ip == "203.0.113.7"`, `client.hop == 0`, `client.ip.within("203.0.113.0/24")`, `client.ip.within(["10.0.0.0/8", "203.0.113.7"])`, `!client.ip.within("10.0.0.0/8")`,
		`identity.subject == "alice"`, `identity.issuer == "https://id.test"`, `identity.method == "jwt"`, `"read" in identity.scopes`, `identity.roles == ["manager"]`, `identity.groups.exists(g, g.startsWith("sta"))`,
		`claims.dept == "sales"`, `claims.level >= 3`, `claims.big == 12`, `claims.address.city == "Bonn"`, `"a" in claims.list`, `claims.admin`, `claims[?"none"].orValue("x") == "x"`, `!has(claims.none)`,
		`application.name == "acme"`, `application.team == "sales"`, `plan == "gold"`, `api == "orders" && version == "v2" && stage == "prod" && route == "one"`,
		`now == timestamp("2026-11-22T12:00:00Z")`, `now.getHours() == 12`, `now.getHours("Europe/Berlin") == 13`, `now.getDayOfWeek("Asia/Tokyo") == 0`, `now.getFullYear("Asia/Tokyo") == 2026 && now.getMonth("Asia/Tokyo") == 10 && now.getDate("Asia/Tokyo") == 22 && now.getDayOfMonth("Asia/Tokyo") == 21 && now.getDayOfYear("Asia/Tokyo") == 325 && now.getMinutes("Asia/Tokyo") == 0 && now.getSeconds("Asia/Tokyo") == 0 && now.getMilliseconds("Asia/Tokyo") == 0`,
		`body.amount == 12 && body.total < 1.6 && body.lines.all(l, l.n > 0) && body.note == null`,
		`request.path.matches("^/prod/.*/y$")`, `request.host.upperAscii() == "SHOP.TEST"`, `request.path.split("/")[1] == "prod"`,
	} {
		c := b.rule(when)
		x.Content = &content{b: []byte(`{"amount":12,"total":1.5,"lines":[{"n":1},{"n":2}],"note":null}`), known: true}
		if v := c.Check(x); v.Refused() {
			told := v.Tell(reason.ToOperator)
			t.Errorf("%s does not hold: %s", when, told.Says)
		}
		// The explanation evaluates on another way and must agree.
		x.Explaining = true
		if v := c.Check(x); v.Refused() || !strings.Contains(v.Facts[0].Text(), "✓") || strings.Contains(v.Facts[0].Text(), "✗") {
			t.Errorf("%s is explained as %v", when, v.Facts)
		}
		x.Explaining = false
	}
	// Without an identity all of it is empty.
	y := b.call("GET /prod/orders/1/items/2")
	for _, when := range []string{`identity.subject == "" && identity.issuer == "" && identity.method == ""`, `size(identity.scopes) + size(identity.roles) + size(identity.groups) == 0`, `size(claims) == 0`,
		`application.name == "" && application.team == "" && plan == ""`, `!has(body.amount)`, `size(request.query) == 0`} {
		if v := b.rule(when).Check(y); v.Refused() {
			t.Errorf("%s does not hold: %s", when, v.Tell(reason.ToOperator).Says)
		}
	}
}

func TestRuleOrder(t *testing.T) {
	b := newTestbed(t)
	const config = `
rules:
- {name: no-delete, effect: deny, when: 'request.method == "DELETE" && !client.ip.within("10.0.0.0/8")', message: nothing is deleted from outside}
- {name: office, effect: allow, when: 'client.ip.within("10.0.0.0/8")'}
- {name: sales, effect: allow, when: 'claims.dept == "sales" && request.method == "GET"'}
- {name: reports, effect: allow, when: '"auditor" in identity.roles && request.path.startsWith("/reports")'}
`
	c := b.check("rule", config)
	wants(t, c.Check(b.from("10.1.2.3", "DELETE /")), "")
	v := c.Check(b.call("DELETE /"))
	wants(t, v, "rule.denied", `rule "no-delete"`, "nothing is deleted from outside", `request.method is "DELETE"`, `client.ip is "203.0.113.7"`)
	if told := v.Tell(reason.ToAnyone); told.Says != "nothing is deleted from outside" || told.Wanted != "" || told.Facts["when"] != nil {
		t.Errorf("a stranger is told %+v", told)
	}
	claims := func(x *Exchange, claims map[string]any) *Exchange {
		x.Identity = &consumer.Identity{Method: "jwt", Subject: "a", Claims: claims}
		return x
	}
	wants(t, c.Check(claims(b.call("GET /"), map[string]any{"dept": "sales"})), "")
	// The sales rule lacks one term only, the others more.
	v = c.Check(claims(b.call("GET /"), map[string]any{"dept": "hr"}))
	wants(t, v, "rule.no-match", `claims.dept == "sales"`, `claims.dept is "hr"`, `use a token whose claim dept is "sales"`, `✓ request.method == "GET"`)
	if f, _ := v.Facts.Find("closest", reason.ToOwner); f.Text() != "office" && f.Text() != "sales" {
		t.Errorf("closest is %s", f.Text())
	}
	// A missing claim makes the rule that comes closest undecidable, and says what was near.
	x := claims(b.call("GET /other"), map[string]any{"department": "sales", "dep": "x"})
	b2 := b.check("rule", `rules: [{name: sales, effect: allow, when: 'claims.dept == "sales" && request.method == "GET"'}]`)
	v = b2.Check(x)
	wants(t, v, "rule.failed", `claims has no "dept", but "dep"`, `has(claims.dept)`, `use a token whose claim dept is "sales"`)
	if f, ok := v.Facts.Find("missing", reason.ToCaller); !ok || f.Text() != "claims.dept" {
		t.Errorf("missing is %v", f)
	}
	// What cannot be decided does not stop a rule behind it that allows, and one that denies refuses.
	wants(t, b.check("rule", `rules: [{name: a, effect: allow, when: 'claims.dept == "x"'}, {name: b, effect: allow, when: 'request.method == "GET"'}]`).Check(b.call("GET /")), "")
	wants(t, b.check("rule", `rules: [{name: a, effect: deny, when: 'claims.dept == "x"'}, {name: b, effect: allow, when: 'request.method == "GET"'}]`).Check(b.call("GET /")), "rule.failed", "claims has no")
	// A false term decides a conjunction whatever the other one is.
	wants(t, b.check("rule", `rules: [{name: a, effect: deny, when: 'claims.dept == "x" && request.method == "POST"'}]`).Check(b.call("GET /")), "")
	// Another type than the rule expects.
	wants(t, b.check("rule", `rules: [{name: a, effect: allow, when: 'claims.level > 3'}]`).Check(claims(b.call("GET /"), map[string]any{"level": "high"})), "rule.failed", `claims.level is "high"`)
	wants(t, b.check("rule", `rules: [{name: a, effect: deny, when: 'claims.admin'}]`).Check(claims(b.call("GET /"), map[string]any{"admin": "no"})), "rule.failed")
	// Defaults.
	wants(t, b.check("rule", `{default: allow, rules: [{name: a, effect: deny, when: 'request.method == "PUT"'}]}`).Check(b.call("GET /")), "")
	wants(t, b.check("rule", `rules: [{name: a, effect: deny, when: 'request.method == "PUT"'}]`).Check(b.call("GET /")), "")
	wants(t, b.check("rule", `{default: deny, rules: [{name: a, effect: deny, when: 'request.method == "PUT"'}]}`).Check(b.call("GET /")), "rule.no-match")
	// A parameter with two values is none that a rule can judge.
	wants(t, b.rule(`request.query.role == "user"`).Check(b.call("GET /?role=user&role=user")), "")
	wants(t, b.rule(`request.query.role == "user"`).Check(b.call("GET /?role=user&role=admin")), "rule.failed", `query parameter "role" is there with several values`)
	wants(t, b.rule(`request.query.role == "user"`).Check(b.call("GET /?role=admin&%72ole=user")), "rule.failed", "several values")
	for _, when := range []string{`request.query == {"role": "user"}`, `{"role": "user"} == request.query`, `request.query != {"role": "admin"}`, `{"role": "admin"} != request.query`, `request.query in [{"role": "user"}]`} {
		wants(t, b.rule(when).Check(b.call("GET /?role=user")), "")
		wants(t, b.rule(when).Check(b.call("GET /?role=user&role=user")), "")
		wants(t, b.rule(when).Check(b.call("GET /?role=user&role=admin")), "rule.failed", `query parameter "role" is there with several values`)
		wants(t, b.rule(when).Check(b.call("GET /?role=user&%72ole=admin")), "rule.failed", "several values")
	}
	wants(t, b.rule(`request.query.all(k, k == "tag") && size(request.query) == 1`).Check(b.call("GET /?tag=a&tag=b")), "")

	for when, code := range map[string]string{`request.cookies.consent == "yes"`: "", `request.cookies["b.c"] == "d=e"`: "", `"theme" in request.cookies`: "", `has(request.cookies.nothing)`: "rule.no-match",
		`request.cookies.nothing == ""`: "rule.failed", `request.cookies.consent == "no"`: "rule.no-match", `size(request.cookies) == 4`: "", `request.cookies.exists(c, c == "theme")`: "",
		`request.cookies.same == "1"`: "", `request.cookies.twice == "1"`: "rule.failed"} {
		v := b.rule(when).Check(b.call("GET /", `Cookie: consent="yes"; b.c=d=e; same=1`, "Cookie: theme=dark; same=1"))
		if when == `request.cookies.twice == "1"` {
			v = b.rule(when).Check(b.call("GET /", "Cookie: twice=1; twice=2"))
			wants(t, v, code, `cookie "twice" is there with several values`)
		}
		wants(t, v, code)
	}
	if _, problems := b.compile("rule", `rules: [{name: r, effect: allow, when: 'request.cookies == {"a": "b"}'}]`); !problems.HasErrors() || !strings.Contains(problems[0].Message, "request.cookies cannot be used as a whole") {
		t.Errorf("%v", problems)
	}
}

func TestRuleSecrets(t *testing.T) {
	b := newTestbed(t)
	acme := b.application("acme")
	key := b.key(acme, nil)
	x := b.call("GET /?access_token=tok-1&shopkey=sk-1", "Authorization: Bearer abc-secret", "Cookie: session=cookie-secret; odd=cookie-secret", "X-Api-Key: key-secret", "X-Shop: shop-secret", "X-Odd: "+key)
	x.Identity = &consumer.Identity{Claims: map[string]any{"client_secret": "claim-secret", "odd": key}}
	for _, when := range []string{
		`request.headers.authorization == "Bearer wanted-secret"`, `request.headers["cookie"].startsWith("wanted-secret")`, `request.cookies.odd == "wanted-secret"`, `request.cookies.session.startsWith("wanted-secret")`, `request.headers["x-api-key"] == "wanted-secret"`, `request.headers["x-shop"] == "wanted-secret"`,
		`request.headers["x-odd"] == "n"`, `claims.client_secret == "wanted-secret"`, `claims.odd == "n"`, `request.query.access_token == "wanted-secret"`, `request.query.shopkey.startsWith("wanted-secret")`,
		`request.headers[claims.odd == "" ? "x" : "authorization"] == "n"`, `request.headers.exists(h, request.headers[h] == "wanted-secret")`, `request.headers.authorization.split(" ")[1] == "wanted-secret"`,
		`request.headers == {}`, `claims == {}`, `[request.headers.authorization] == []`, `request.headers.map(k, request.headers[k]) == []`,
	} {
		for _, effect := range []string{"allow", "deny"} {
			w := when
			if effect == "deny" {
				w = "!(" + when + ")"
			}
			c := b.check("rule", fmt.Sprintf("rules: [{name: r, effect: %s, when: %s}]", effect, strconvQuote(w)))
			c.(*ruleCheck).Hide("X-Shop")
			c.(*ruleCheck).Hide("shopkey")
			v := c.Check(x)
			if !v.Refused() {
				t.Errorf("%s passes", w)
			}
			told, _ := json.Marshal(v.Tell(reason.ToOperator))
			stored, _ := json.Marshal(v.Facts)
			for _, s := range []string{"abc-secret", "cookie-secret", "key-secret", "shop-secret", "claim-secret", "tok-1", "sk-1", key, "wanted-secret"} {
				if strings.Contains(string(told)+string(stored), s) {
					t.Errorf("%s %s tells %s: %s", effect, when, s, told)
				}
			}
		}
	}
}

func TestRuleBody(t *testing.T) {
	b := newTestbed(t)
	const config = `{maxBody: 64, rules: [{name: small, effect: allow, when: 'request.method == "GET" || body.amount < 1000'}]}`
	c := b.check("rule", config)
	if !c.(BodyReader).ReadsBody() || b.rule(`request.method == "GET"`).(BodyReader).ReadsBody() {
		t.Error("the body is read where a rule names it, and nowhere else")
	}
	post := func(body, contentType string) *Exchange {
		x := b.call("POST /", "Content-Type: "+contentType)
		x.Content = &content{b: []byte(body)}
		return x
	}
	wants(t, c.Check(post(`{"amount":5}`, "application/json")), "")
	wants(t, c.Check(post(`{"amount":5}`, "application/vnd.shop+json; charset=utf-8")), "")
	wants(t, c.Check(post(`{"amount":5000}`, "application/json")), "rule.no-match", "body.amount is 5000", "body.amount < 1000")
	wants(t, c.Check(post(`{"amont":5}`, "application/json")), "rule.failed", `body has no "amount", but "amont"`)
	wants(t, c.Check(post(``, "application/json")), "rule.failed", `body has no "amount"`)
	for body, says := range map[string]string{`{"amount":5`: "ends too early", `{"amount":5}x`: "no valid JSON", `{"amount":5,"amount":5000}`: "there twice", `{"amount":5} {}`: "something follows",
		strings.Repeat("[", 20) + strings.Repeat("]", 20): "", `nonsense`: "no valid JSON", `{"amount":1e999}`: "too large"} {
		code := "rule.body-unreadable"
		if says == "" {
			code = "rule.failed"
		}
		wants(t, c.Check(post(body, "application/json")), code, says)
	}
	wants(t, c.Check(post(`{"amount":5}`, "text/plain")), "rule.body-unreadable", "announced as text/plain")
	wants(t, c.Check(post(strings.Repeat(" ", 65), "application/json")), "size.body")
	// What is decided without the body does not wait for it, and an explanation never does.
	x := b.call("GET /")
	k := &content{b: []byte(`{}`)}
	x.Content = k
	wants(t, c.Check(x), "")
	if k.reads > 0 {
		t.Error("the body was read for nothing")
	}
	d := b.check("rule", `{rules: [{name: a, effect: deny, when: 'request.method == "PUT" || body.x == 1'}]}`)
	x = b.call("PUT /")
	x.Content = k
	wants(t, d.Check(x), "rule.denied", `request.method is "PUT"`)
	if k.reads > 0 {
		t.Error("the body was read for an explanation")
	}
}

func TestRuleBounds(t *testing.T) {
	b := newTestbed(t)
	list := make([]any, 20000)
	for i := range list {
		list[i] = strings.Repeat("x", 10)
	}
	x := b.call("GET /", "X-Long: "+strings.Repeat("a", 20000))
	x.Identity = &consumer.Identity{Method: "jwt", Claims: map[string]any{"list": list, "text": strings.Repeat("ä", 20000)}}
	start := time.Now()
	v := b.rule(`claims.list.exists(a, claims.list.exists(b, a + b == "no"))`).Check(x)
	wants(t, v, "rule.failed", "it takes more than")
	t.Logf("refused after %v", time.Since(start))
	x.Content = &content{b: []byte(`{"text":"` + strings.Repeat("ab", 400_000) + `"}`), known: true}
	x.Fields.Set("Content-Type", "application/json")
	v = b.rule(`body.text.matches("(ab)*c$")`).Check(x)
	wants(t, v, "rule.failed", "it takes more than")
	var many strings.Builder
	for i := range 21 {
		fmt.Fprintf(&many, "{name: r%d, effect: allow, when: 'claims.list.exists(x, x == 1)'},", i)
	}
	if _, problems := b.compile("rule", "rules: ["+many.String()+"]"); !strings.Contains(problems.Error(), "more than 20 rules have loops") {
		t.Error(problems)
	}
	for _, when := range []string{`claims.list == []`, `claims.text == "b"`, `request.headers["x-long"] == "b"`, `claims == {}`, "!(" + strings.Repeat(`claims.list != [] || `, 150) + `claims.text == "")`, strings.Repeat(`claims.text == "a" && `, 150) + `false`, `request.headers["x-long"].matches("^(a+)+$b")`} {
		v := b.rule(when).Check(x)
		text, _ := json.Marshal(v.Tell(reason.ToOperator))
		if !v.Refused() || len(text) > 20000 {
			t.Errorf("%s: %d bytes are told", when, len(text))
		}
	}
}

// TestRuleProblems: everything that can be wrong is found when it is compiled, at its place.
func TestRuleProblems(t *testing.T) {
	b := newTestbed(t)
	b.kinds["key-auth"] = true
	b.route.Template = "/orders/{id}"
	for _, c := range []struct{ config, want string }{
		{`rules: [{name: a, effect: allow, when: 'request.methd == "GET"'}]`, `test.yaml:1:49: error: there is no variable or function request.methd`},
		{`rules: [{name: a, effect: allow, when: clims.dept == "GET"}]`, `test.yaml:1:40: error: there is no variable or function clims`},
		{`rules: [{name: a, effect: allow, when: 'request.method == 3'}]`, `test.yaml:1:56: error: == does not go with (text, number)`},
		{`rules: [{name: a, effect: allow, when: 'claims.dept = "x"'}]`, `test.yaml:1:53: error: syntax: = compares nothing`},
		{`rules: [{name: a, effect: allow, when: 'claims.dept =='}]`, `the expression ends too early`},
		{`rules: [{name: a, effect: allow, when: request.method}]`, `the expression is a text, wanted yes or no`},
		{`rules: [{name: a, effect: allow, when: 'request.path.matches("(")'}]`, `test.yaml:1:62: error: the pattern is no regular expression`},
		{`rules: [{name: a, effect: allow, when: 'request.path.matches(request.host)'}]`, `what matches looks for must be a constant`},
		{`rules: [{name: a, effect: allow, when: 'request.path.startWith("/")'}]`, `test.yaml:1:54: error: there is no variable or function startWith`},
		{`rules: [{name: a, effect: allow, when: 'client.ip.within("10.0.0.0/33")'}]`, `test.yaml:1:58: error: "10.0.0.0/33" is no network`},
		{`rules: [{name: a, effect: allow, when: 'client.ip.within(["10.0.0.0/8", "x"])'}]`, `test.yaml:1:73: error: "x" is no network`},
		{`rules: [{name: a, effect: allow, when: 'client.ip.within(request.host)'}]`, `the networks of within are written out`},
		{`rules: [{name: a, effect: allow, when: 'now.getHours("Mars") > 3'}]`, `"Mars" is no time zone`},
		{`rules: [{name: a, effect: allow, when: 'now.getHours(request.host) > 3'}]`, `the time zone must be a constant`},
		{`rules: [{name: a, effect: allow, when: 'now > timestamp("soon")'}]`, `invalid timestamp`},
		{`rules: [{name: a, effect: allow, when: 'request.path.replace("a", "b") == ""'}]`, `replace is not available`},
		{`rules: [{name: a, effect: allow, when: 'request.path.indexOf(request.host) == 1'}]`, `must be a constant`},
		{`rules: [{name: a, effect: allow, when: 'claims.a.all(a, claims.b.all(b, claims.c.all(c, a == b)))'}]`, `nesting`},
		{`rules: [{name: a, effect: alow, when: 'true'}]`, `did you mean "allow"?`},
		{`rules: [{name: a, effect: allow, when: true}]`, `put it in quotes`},
		{`rules: [{name: a, effect: allow, when: 'true'}, {name: a, effect: allow, when: 'true'}]`, `two rules are named "a"`},
		{`rules: [{name: a, effect: allow, when: 'true'}, {name: b, effect: allow, when: 'true'}]`, `always holds`},
		{`{default: allow, rules: [{name: a, effect: allow, when: 'true'}]}`, `refuses nothing`},
		{`{default: deny, rules: [{name: a, effect: deny, when: 'true'}]}`, `refuses every call`},
		{`rules: [{name: a, effect: allow, when: 'request.params.idd == "1"'}]`, `did you mean request.params.id?`},
		{`rules: [{name: a, effect: allow, when: 'request.headers.x-dept == "a"'}]`, `names with "-" stand in brackets and quotes`},
		{`rules: [{name: a, effect: allow, when: 'client.ip in "10.0.0.0/8"'}]`, `test.yaml:1:51: error: in does not go with (text, text) in looks into lists`},
		{`rules: [{name: a, effect: allow, when: 'request.path[0] == "a"'}]`, `[…] does not go with (text, number)`},
		{`rules: [{name: a, effect: allow, when: 'request.size ? true : false'}]`, `… ? … : … does not go with`},
		{`rules: [{name: a, effect: allow, when: 'request.method.name == "a"'}]`, `a text has no fields`},
		{`rules: [{name: a, effect: allow, when: 'request.method == "GET" and stage == "a"'}]`, `test.yaml:1:65: error: syntax: words do not join terms`},
		{`rules: [{name: a, effect: allow, when: 'request.method == "GET'}]`, `the text in quotes does not end`},
		{`rules: []`, `must not be empty`},
		{`rules: [{name: a, effect: allow, when: ` + strconvQuote(strings.Repeat("true && ", 600)+"true") + `}]`, `size exceeds limit`},
		{`rules: [{name: a, effect: allow, when: ` + strconvQuote("request.path.matches(\""+"(x{1,100}y){10}"+"\")") + `}]`, `regex program size`},
		{"rules:\n- name: a\n  effect: allow\n  when: |\n    request.method == \"GET\" &&\n      claims.dept = 1", `test.yaml:6:19: error: syntax: = compares nothing`},
		{"rules:\n- name: a\n  effect: allow\n  when: >\n    request.method == \"GET\" &&\n    clims.dept == 1", `test.yaml:4:9: error: there is no variable or function clims (column 28 of the expression)`},
		{"rules:\n- name: a\n  effect: allow\n  when: \"clims.dept == \\\"x\\\"\"", `test.yaml:4:10: error: there is no variable or function clims did`},
		{"rules:\n- {name: ä, effect: allow, when: '\"ä\" == clims.ö'}", `test.yaml:2:48: error: `},
	} {
		_, problems := b.compile("rule", c.config)
		var all strings.Builder
		for _, p := range problems {
			all.WriteString(p.String() + " " + p.Hint + "\n")
		}
		if !strings.Contains(all.String(), c.want) {
			t.Errorf("%s\n wants %q\n says  %s", c.config, c.want, all.String())
		}
		if strings.Contains(all.String(), "warning") != (strings.Contains(c.want, "always") || strings.Contains(c.want, "refuses") || strings.Contains(c.want, "request.params.id?")) && !strings.Contains(all.String(), "error") {
			t.Errorf("%s: severity: %s", c.config, all.String())
		}
	}
	if _, problems := b.compile("rule", `rules: [{name: a, effect: allow, when: 'has(request.params.x) && request.params.x == "1"'}]`); len(problems) > 0 {
		t.Error(problems)
	}
	b.kinds = map[string]bool{}
	_, problems := b.compile("rule", `rules: [{name: a, effect: allow, when: 'claims.dept == "x"'}]`)
	if len(problems) != 1 || problems[0].Code != "rule.no-identity" {
		t.Error(problems)
	}
}

// TestRuleTerms: for conjunctions of comparisons the explanation names exactly the terms that a naive
// evaluator finds false, in their order.
func TestRuleTerms(t *testing.T) {
	b := newTestbed(t)
	type comparison struct {
		text  string
		holds func(claims map[string]any) bool
	}
	names := []string{"a", "b", "c"}
	rapid.Check(t, func(rt *rapid.T) {
		claims := map[string]any{}
		for _, n := range names {
			claims[n] = float64(rapid.IntRange(0, 3).Draw(rt, n))
		}
		one := rapid.Custom(func(rt *rapid.T) comparison {
			n, k := rapid.SampledFrom(names).Draw(rt, "name"), float64(rapid.IntRange(0, 3).Draw(rt, "k"))
			op := rapid.SampledFrom([]string{"==", "!=", "<", "<=", ">", ">=", "in", "not"}).Draw(rt, "op")
			of := func(c map[string]any) float64 { return c[n].(float64) }
			c := comparison{text: fmt.Sprintf("claims.%s %s %v", n, op, k)}
			switch op {
			case "==":
				c.holds = func(m map[string]any) bool { return of(m) == k }
			case "!=":
				c.holds = func(m map[string]any) bool { return of(m) != k }
			case "<":
				c.holds = func(m map[string]any) bool { return of(m) < k }
			case "<=":
				c.holds = func(m map[string]any) bool { return of(m) <= k }
			case ">":
				c.holds = func(m map[string]any) bool { return of(m) > k }
			case ">=":
				c.holds = func(m map[string]any) bool { return of(m) >= k }
			case "in":
				c.text = fmt.Sprintf("claims.%s in [%v, 3]", n, k)
				c.holds = func(m map[string]any) bool { return of(m) == k || of(m) == 3 }
			case "not":
				c.text = fmt.Sprintf("!(claims.%s == %v)", n, k)
				c.holds = func(m map[string]any) bool { return of(m) != k }
			}
			return c
		})
		terms := rapid.SliceOfN(one, 1, 6).Draw(rt, "terms")
		var texts, failing []string
		for i, c := range terms {
			text := c.text
			if i > 0 && rapid.Bool().Draw(rt, "brackets") { // the shape of the tree is all the same
				text = "(" + text + ")"
			}
			texts = append(texts, text)
			if !c.holds(claims) {
				failing = append(failing, c.text)
			}
		}
		x := b.call("GET /")
		x.Identity = &consumer.Identity{Method: "jwt", Claims: claims}
		v := b.rule(strings.Join(texts, " && ")).Check(x)
		if v.Refused() != (len(failing) > 0) {
			rt.Fatalf("%v with %v: refused %v, failing %v", texts, claims, v.Refused(), failing)
		}
		if !v.Refused() {
			return
		}
		f, _ := v.Facts.Find("failed_terms", reason.ToOwner)
		plainer := strings.NewReplacer(".0", "")
		got := plainer.Replace(strings.Join(f.Value.([]string), " && "))
		if want := strings.Join(failing, " && "); got != want || v.Reason.Code != "rule.no-match" {
			rt.Fatalf("%v with %v: %s tells %q, naive %q", texts, claims, v.Reason.Code, got, want)
		}
	})
}

// TestRuleExplanationAgrees: the explanation evaluates everything, the decision no more than it must. For any
// expression, claims that are missing included, both come to the same.
func TestRuleExplanationAgrees(t *testing.T) {
	b := newTestbed(t)
	rapid.Check(t, func(rt *rapid.T) {
		claims := map[string]any{}
		for _, n := range []string{"a", "b", "c"} {
			switch rapid.IntRange(0, 3).Draw(rt, n) {
			case 0:
				claims[n] = "x"
			case 1:
				claims[n] = true
			case 2:
				claims[n] = 1.0
			}
		}
		leaf := rapid.Custom(func(rt *rapid.T) string {
			n := rapid.SampledFrom([]string{"claims.a", "claims.b", "claims.c", "claims.a.d"}).Draw(rt, "name")
			return fmt.Sprintf(rapid.SampledFrom([]string{`%s == "x"`, `%s == true`, `%s > 0`, `has(%s)`, `%s`, `"x" in [%s]`, `[%s].exists(v, v == 1)`}).Draw(rt, "form"), n)
		})
		var tree func(rt *rapid.T, depth int) string
		tree = func(rt *rapid.T, depth int) string {
			if depth == 0 || rapid.IntRange(0, 2).Draw(rt, "leaf") == 0 {
				return leaf.Draw(rt, "leaf")
			}
			switch x := tree(rt, depth-1); rapid.IntRange(0, 3).Draw(rt, "op") {
			case 0:
				return "!(" + x + ")"
			case 1:
				return "(" + x + " || " + tree(rt, depth-1) + ")"
			case 2:
				return "(" + x + " ? " + tree(rt, depth-1) + " : " + tree(rt, depth-1) + ")"
			default:
				return "(" + x + " && " + tree(rt, depth-1) + ")"
			}
		}
		when := tree(rt, 3)
		made, problems := b.compile("rule", "rules: [{name: r, effect: allow, when: "+strconvQuote(when)+"}]")
		if problems.HasErrors() {
			rt.Skip(problems.Error()) // a mixture of types that CEL refuses
		}
		c := made.(*ruleCheck)
		x := b.call("GET /")
		x.Identity = &consumer.Identity{Claims: claims}
		v := newVars(x, 0)
		defer v.free()
		out, _, err := c.rules[0].when.program.Eval(v)
		holds, hold, failed := err == nil && out == types.True, true, false
		outcomes := c.rules[0].when.judge(v, &c.hidden)
		for i := range outcomes {
			hold = hold && outcomes[i].holds()
			failed = failed || outcomes[i].failed()
		}
		if holds != hold || holds != !c.Check(x).Refused() || err != nil && !failed && len(outcomes) == 1 {
			rt.Fatalf("%s with %v gives %v, %v, and is explained as %s", when, claims, out, err, trail(outcomes))
		}
	})
}

func FuzzRuleJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5,null,true,"x"]}`, `[`, `{"a":1,"a":2}`, `1 2`, `{"a" 1}`, `[1,]`, strings.Repeat("[", 100), `"\ud800"`, `1e999`, "\xef\xbb\xbf{}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := readJSON(b)
		if err == nil && !json.Valid(b) {
			t.Fatalf("%q is read as %v", b, v)
		}
	})
}

func FuzzRuleExpression(f *testing.F) {
	for _, s := range []string{`request.method == "GET"`, `claims.a[0].b in [1, 2]`, `a &&`, `"ä" == clims`, "a\n&& b", `request.headers["x"].matches("(")`, `has(claims.a) ? claims.a : body.b`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, when string) {
		b := newTestbed(t)
		made, problems := b.compile("rule", "rules: [{name: r, effect: allow, when: "+strconvQuote(when)+"}]")
		if problems.HasErrors() {
			return
		}
		x := b.call("GET /?a=1", "X-A: b")
		x.Identity = &consumer.Identity{Claims: map[string]any{"a": []any{"b"}}}
		made.(Check).Check(x) // whatever it says, it says it
	})
}

func BenchmarkRule(b *testing.B) {
	for name, when := range map[string]string{"method": `request.method == "GET"`, "claim": `claims.dept == "sales" && request.method == "GET"`,
		"network": `client.ip.within("203.0.113.0/24")`, "header": `request.headers["x-dept"] == "sales"`, "role": `"manager" in identity.roles`, "hours": `now.getHours("Europe/Berlin") < 20`,
		"loop": `identity.roles.exists(r, r.startsWith("man"))`, "four": `claims.dept == "sales" && request.method in ["GET", "HEAD"] && "manager" in identity.roles && request.path.startsWith("/orders")`} {
		b.Run(name, func(b *testing.B) {
			t := newTestbed(&testing.T{})
			c := t.rule(when)
			x := t.call("GET /orders/1", "X-Dept: sales")
			x.Identity = &consumer.Identity{Claims: map[string]any{"dept": "sales"}, Roles: []string{"clerk", "manager"}}
			b.ReportAllocs()
			for b.Loop() {
				x.scratch = x.scratch[:0]
				if c.Check(x).Refused() {
					b.Fatal("refused")
				}
			}
		})
	}
}

// BenchmarkRuleRefused is what the explanation costs.
func BenchmarkRuleRefused(b *testing.B) {
	t := newTestbed(&testing.T{})
	c := t.rule(`claims.dept == "sales" && request.method in ["GET", "HEAD"] && "manager" in identity.roles && request.path.startsWith("/orders")`)
	x := t.call("GET /orders/1")
	x.Identity = &consumer.Identity{Claims: map[string]any{"dept": "hr"}, Roles: []string{"clerk"}}
	b.ReportAllocs()
	for b.Loop() {
		if !c.Check(x).Refused() {
			b.Fatal("passes")
		}
	}
}
