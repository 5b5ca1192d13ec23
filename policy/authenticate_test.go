package policy

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// keeping compiles a policy that keeps something beyond a revision, and reads files below dir.
func (b *testbed) keeping(kept map[string]Kept, kind, config string, edit func(*Env)) (any, resource.Problems) {
	b.t.Helper()
	p, env, problems := b.decode(kind, config)
	if p == nil {
		return nil, *problems
	}
	env.Resolve = func(p string) string { return p }
	env.Keep = func(name string, create func() Kept) Kept {
		if kept[name] == nil {
			kept[name] = create()
			kept[name].Start()
			b.t.Cleanup(kept[name].Close)
		}
		return kept[name]
	}
	if edit != nil {
		edit(env)
	}
	made := p.Compile(env)
	return made, *problems
}

func (b *testbed) method(kind, config string) Check {
	b.t.Helper()
	made, problems := b.keeping(map[string]Kept{}, kind, config, nil)
	if problems.HasErrors() {
		b.t.Fatalf("%s: %v", kind, problems)
	}
	return made.(Check)
}

// said is a method that says what a test has it say.
type said struct {
	presents bool
	says     func(x *Exchange) reason.Verdict
	asked    *int
	body     bool
}

func (s said) Presents(*Exchange) bool { return s.presents }
func (s said) Wants() string           { return "something" }
func (s said) ReadsBody() bool         { return s.body }
func (s said) Check(x *Exchange) reason.Verdict {
	if s.asked != nil {
		*s.asked++
	}
	return s.says(x)
}

func refusing(r *reason.Reason, challenge string) func(x *Exchange) reason.Verdict {
	return func(x *Exchange) reason.Verdict {
		if challenge != "" {
			x.Extra.Add("WWW-Authenticate", challenge)
		}
		return r.Refuse(reason.Public("key", r.Code), reason.Public("fault", "broken"), reason.Public("until", x.Now), reason.Public("ago", x.Now.Sub(x.Now)))
	}
}

func accepting(id *consumer.Identity, app *consumer.Application) func(x *Exchange) reason.Verdict {
	return func(x *Exchange) reason.Verdict {
		if id != nil {
			x.Identity = id
		}
		if app != nil {
			x.Application, x.Credential = app, &consumer.Credential{Application: app, Prefix: "of " + app.Name}
		}
		return reason.Verdict{}
	}
}

func steps(checks ...Check) []Step {
	list := make([]Step, len(checks))
	for i, c := range checks {
		list[i] = Step{Check: c, Name: string(rune('a' + i)), Phase: Authentication, Source: &reason.Source{Document: "API/orders"}}
	}
	return list
}

func challenges(x *Exchange) (list []string) {
	for _, f := range x.Extra {
		if f.ID == wire.WWWAuthenticate {
			list = append(list, f.Value)
		}
	}
	return list
}

func TestAnyOf(t *testing.T) {
	b := newTestbed(t)
	acme := b.application("acme")
	banned := &consumer.Application{Name: "banned", Suspended: true}
	b.consumers.AddApplication(banned)
	key, bannedKey := b.key(acme, nil), b.key(banned, nil)
	b.password(acme, "ann", "correct horse", nil)
	any := NewMethods(steps(b.check("key-auth", `{}`), b.method("basic", `{}`)), "any").(*AnyOf)

	for _, lines := range [][]string{{"X-Api-Key: " + key}, {basicLine("ann", "correct horse")}, {"X-Api-Key: wrong", basicLine("ann", "correct horse")}, {"X-Api-Key: " + bannedKey, basicLine("ann", "correct horse")}} {
		x := b.call(append([]string{"GET /"}, lines...)...)
		wants(t, any.Check(x), "")
		if x.Application != acme || len(x.Extra) != 0 {
			t.Errorf("%q: application %v, fields for the answer %v", lines, x.Application, x.Extra)
		}
	}

	// Nothing sent: both are named and asked for, with the slip of each.
	x := b.call("GET /", "Authorization: Bearer abc")
	v := any.Check(x)
	wants(t, v, "authentication.missing", "an API key in header X-Api-Key or a user name and password in Authorization: Basic", "Authorization carries Bearer, which is not looked at")
	if got := challenges(x); len(got) != 2 || !strings.HasPrefix(got[0], "ApiKey ") || !strings.HasPrefix(got[1], "Basic ") {
		t.Errorf("challenges %q", got)
	}

	// Two that are wrong: the one that got further is told, the other is a fact.
	x = b.call("GET /", "X-Api-Key: wrong", basicLine("ann", "wrong"))
	v = any.Check(x)
	wants(t, v, "key.unknown")
	tried, _ := v.Facts.Find("tried", reason.ToAnyone)
	if want := []string{"a: key.unknown", "b: basic.unknown-user-or-password"}; !slices.Equal(tried.Value.([]string), want) {
		t.Errorf("tried %q", tried.Value)
	}
	saw, _ := v.Facts.Find("saw", reason.ToCaller)
	if list, _ := saw.Value.([]string); len(list) != 2 || !strings.HasPrefix(list[0], "a: key sha256:") {
		t.Errorf("saw %q", saw.Value)
	}

	// One that is wrong: the others can still be asked for.
	x = b.call("GET /", "X-Api-Key: wrong")
	v = any.Check(x)
	wants(t, v, "key.unknown")
	if tried, _ := v.Facts.Find("tried", reason.ToAnyone); !slices.Contains(tried.Value.([]string), "b: nothing sent") || len(challenges(x)) != 2 {
		t.Errorf("tried %q, challenges %q", tried.Value, challenges(x))
	}

	// A 403 knows who calls: it asks for nothing else, and says so to the caller that it knows.
	x = b.call("GET /", "X-Api-Key: "+bannedKey, basicLine("ann", "wrong"))
	wants(t, any.Check(x), "application.suspended")
	if len(challenges(x)) != 0 || x.Application != banned {
		t.Errorf("challenges %q, application %v", challenges(x), x.Application)
	}

	x = b.call("OPTIONS /", "Origin: https://shop.test", "Access-Control-Request-Method: GET")
	x.Preflight = true
	wants(t, any.Check(x), "cors.preflight", "one of: an API key", "user name and password")
}

// TestAnyOfTells: which of several refusals is told does not depend on their order.
func TestAnyOfTells(t *testing.T) {
	b := newTestbed(t)
	made := func(r *reason.Reason) Check { return said{presents: true, says: refusing(r, r.Code)} }
	order := []*reason.Reason{keyMissing, basicMalformed, keyLapses.expired, applicationSuspended, basicBusy} // each beats those before it
	for i, less := range order {
		for _, more := range order[i+1:] {
			for _, list := range [][]Step{steps(made(less), made(more)), steps(made(more), made(less))} {
				x := b.call("GET /")
				v := NewMethods(list, "any").Check(x)
				if v.Reason != more {
					t.Errorf("%s and %s: %s is told", less.Code, more.Code, v.Reason.Code)
				}
				if more.Status == 401 && len(challenges(x)) != 2 || more.Status != 401 && !slices.Equal(challenges(x), []string{more.Code}) {
					t.Errorf("%s: challenges %q", more.Code, challenges(x))
				}
			}
		}
	}
}

// TestAnyOfAsksOnce: two methods that read the same token say in one challenge what is wrong with it, that of the refusal
// which is told.
func TestAnyOfAsksOnce(t *testing.T) {
	b := newTestbed(t)
	list := steps(said{presents: true, says: refusing(jwtMalformed, `Bearer realm="orders", error="invalid_token", error_description="one"`)},
		said{presents: true, says: refusing(jwtExpired, `Bearer realm="orders", error="invalid_token", error_description="two"`)},
		said{presents: true, says: refusing(keyUnknown, `ApiKey realm="orders"`)},
		said{presents: true, says: refusing(keyUnknown, `Bearer realm="theirs"`)})
	x := b.call("GET /")
	wants(t, NewMethods(list, "any").Check(x), "jwt.expired")
	if got := challenges(x); !slices.Equal(got, []string{`Bearer realm="orders", error="invalid_token", error_description="two"`, `ApiKey realm="orders"`, `Bearer realm="theirs"`}) {
		t.Errorf("challenges %q", got)
	}
}

// TestAnyOfLeavesNothing: what a method that refused has found does not count.
func TestAnyOfLeavesNothing(t *testing.T) {
	b := newTestbed(t)
	banned := &consumer.Application{Name: "banned"}
	user := &consumer.Identity{Subject: "ann"}
	half := said{presents: true, says: func(x *Exchange) reason.Verdict {
		accepting(&consumer.Identity{Subject: "banned"}, banned)(x)
		x.Extra.Add("Location", "/login")
		return applicationSuspended.Refuse()
	}}
	x := b.call("GET /")
	x.Extra.Add("X-Before", "stays")
	wants(t, NewMethods(steps(half, said{presents: true, says: accepting(user, nil)}), "any").Check(x), "")
	if x.Identity != user || x.Application != nil || x.Credential != nil || len(x.Extra) != 1 {
		t.Errorf("identity %v, application %v, fields %v", x.Identity, x.Application, x.Extra)
	}
}

func TestAnyOfWithAnonymous(t *testing.T) {
	b := newTestbed(t)
	acme := b.application("acme")
	key := b.key(acme, nil)
	// Wherever it stands in the list, anonymous comes last.
	any := NewMethods(steps(b.check("anonymous", `{subject: visitor, scopes: [read]}`), b.check("key-auth", `{}`)), "any")
	x := b.call("GET /")
	wants(t, any.Check(x), "")
	if x.Identity == nil || x.Identity.Subject != "visitor" || x.Identity.Scopes[0] != "read" || x.Application != nil {
		t.Errorf("identity %+v", x.Identity)
	}
	x = b.call("GET /", "X-Api-Key: "+key)
	wants(t, any.Check(x), "")
	if x.Application != acme || x.Identity != nil && x.Identity.Subject == "visitor" {
		t.Errorf("application %v, identity %v", x.Application, x.Identity)
	}
	x = b.call("GET /", "X-Api-Key: wrong")
	v := any.Check(x)
	wants(t, v, "key.unknown")
	if tried, _ := v.Facts.Find("tried", reason.ToAnyone); len(tried.Value.([]string)) != 1 {
		t.Errorf("tried %q", tried.Value)
	}
	if w := any.(*AnyOf).Wants(); w != "an API key in header X-Api-Key" {
		t.Errorf("wants %q", w)
	}
	// What a visitor may not do is answered by asking for credentials, if the route takes any.
	for _, c := range []struct{ kind, config, code string }{
		{"scopes", `{all: [write]}`, "scopes.insufficient"}, {"roles", `{all: [clerk]}`, "roles.insufficient"}, {"groups", `{any: [board]}`, "groups.insufficient"},
		{"access", `{allow: {subjects: [ann]}}`, "access.not-allowed"}, {"access", `{deny: {subjects: [visitor]}}`, "access.denied"}, {"subscription", `{}`, "subscription.no-application"},
		{"rule", `{rules: [{name: a, effect: allow, when: 'identity.subject == "ann"'}]}`, "rule.no-match"},
		{"rule", `{rules: [{name: a, effect: deny, when: 'identity.method == "anonymous"'}]}`, "rule.denied"},
		{"rule", `{rules: [{name: a, effect: allow, when: 'claims.dept == "sales"'}]}`, "rule.failed"},
		{"rule", `{rules: [{name: a, effect: deny, when: 'claims.dept == "sales"'}]}`, "rule.failed"},
	} {
		b.kinds = map[string]bool{"key-auth": true}
		behind := b.check(c.kind, c.config)
		x = b.call("GET /")
		wants(t, any.Check(x), "")
		v := behind.Check(x)
		wants(t, v, c.code, "say who calls: send an API key in header X-Api-Key")
		if got := challenges(x); v.StatusCode() != 401 || len(got) != 1 || !strings.HasPrefix(got[0], "ApiKey ") {
			t.Errorf("%s to a visitor: %d %q", c.code, v.StatusCode(), got)
		}
		alone := b.call("GET /")
		wants(t, b.check("anonymous", `{subject: visitor}`).Check(alone), "")
		if v := behind.Check(alone); v.StatusCode() != 403 || challenges(alone) != nil {
			t.Errorf("%s where there is no other method: %d %q", c.code, v.StatusCode(), challenges(alone))
		}
	}
	for config, status := range map[string]int{`{rules: [{name: a, effect: deny, when: 'request.method == "GET"'}]}`: 403, `{rules: [{name: a, effect: allow, when: 'request.method == "PUT"'}]}`: 403} {
		x = b.call("GET /")
		wants(t, any.Check(x), "")
		if v := b.check("rule", config).Check(x); v.StatusCode() != status || challenges(x) != nil {
			t.Errorf("a rule that would refuse everybody: %d %q", v.StatusCode(), challenges(x))
		}
	}
	// The challenge for tokens names the scope.
	tokens := NewMethods(steps(b.check("jwt", `{jwks: "http://127.0.0.1:1/keys"}`), b.check("anonymous", `{}`)), "any")
	b.route.Scope = "a b c"
	x = b.call("GET /")
	wants(t, tokens.Check(x), "")
	wants(t, b.check("scopes", `{all: [a, b], any: [c, d]}`).Check(x), "scopes.insufficient")
	if got := challenges(x); len(got) != 1 || got[0] != `Bearer realm="orders", scope="a b c"` {
		t.Errorf("challenges %q", got)
	}
	// On a preflight without cors it lets pass as it lets all calls pass.
	x = b.call("OPTIONS /", "Origin: https://shop.test", "Access-Control-Request-Method: GET")
	x.Preflight = true
	wants(t, any.Check(x), "")
}

// TestAnyOfWithoutSomethingSent: a method may accept, refuse or send elsewhere a call that carries
// nothing for it.
// TestAnyOfSlips: what one method does not look at is not told where another one knows what it is.
func TestAnyOfSlips(t *testing.T) {
	b := newTokenBed(t)
	methods := NewMethods(steps(b.check("key-auth", `{}`), b.check("basic", `{}`), b.check("jwt", jwtConfig)), "any")
	for header, want := range map[string]string{
		b.issuer.Token(nil): `seen nothing of that kind; a token is there without the word "Bearer" before it`,
		"Digest username=x": "seen nothing of that kind; Authorization carries Digest, which is not looked at",
	} {
		v := methods.Check(b.with("Authorization", header))
		wants(t, v, "authentication.missing")
		if got := "seen " + v.Tell(reason.ToOperator).Seen; !strings.HasPrefix(got, want) || strings.Contains(got, "Basic") {
			t.Errorf("%.20s: %s", header, got)
		}
	}
}

func TestAnyOfWithoutSomethingSent(t *testing.T) {
	b := newTestbed(t)
	by := &consumer.Identity{Subject: "by address"}
	x := b.call("GET /")
	wants(t, NewMethods(steps(b.check("key-auth", `{}`), said{says: accepting(by, nil)}), "any").Check(x), "")
	if x.Identity != by || len(challenges(x)) != 0 {
		t.Errorf("identity %v, challenges %q", x.Identity, challenges(x))
	}
	x = b.call("GET /")
	login := said{says: func(x *Exchange) reason.Verdict {
		x.Extra.Add("Location", "/login")
		v := applicationSuspended.Refuse(reason.Own("application", "x"))
		v.Status = 302
		return v
	}}
	if v := NewMethods(steps(b.check("key-auth", `{}`), login), "any").Check(x); !v.Refused() || v.StatusCode() != 302 || x.Extra.Get(wire.Location) != "/login" || len(challenges(x)) != 0 {
		t.Errorf("%v, fields %v", v, x.Extra)
	}
}

// TestUnknown: a method that cannot be asked while explaining leaves the answer open, unless another one
// settles it.
func TestUnknown(t *testing.T) {
	b := newTestbed(t)
	open := said{presents: true, says: func(x *Exchange) reason.Verdict { x.Unknown = true; return reason.Verdict{} }}
	no := said{presents: true, says: refusing(keyUnknown, "")}
	id := &consumer.Identity{Subject: "ann"}
	yes := said{presents: true, says: accepting(id, nil)}
	for _, c := range []struct {
		how     string
		list    []Step
		refused bool
		unknown bool
	}{
		{"any", steps(open, no), false, true}, {"any", steps(no, open), false, true}, {"any", steps(open, yes), false, false}, {"any", steps(yes, open), false, false},
		{"all", steps(open, no), true, false}, {"all", steps(no, open), true, false}, {"all", steps(open, yes), false, true}, {"all", steps(yes, open), false, true},
	} {
		x := b.call("GET /")
		x.Explaining = true
		v := NewMethods(c.list, c.how).Check(x)
		if v.Refused() != c.refused || x.Unknown != c.unknown {
			t.Errorf("%s of %v: refused %v, unknown %v", c.how, c.list, v.Refused(), x.Unknown)
		}
		if c.unknown && len(v.Facts) == 0 {
			t.Error("nothing is said of what is open")
		}
	}
}

func TestAllOf(t *testing.T) {
	b := newTestbed(t)
	acme, bistro := b.application("acme"), b.application("bistro")
	key := b.key(acme, nil)
	b.password(acme, "ann", "correct horse", nil)
	b.password(bistro, "bob", "battery staple", nil)
	all := NewMethods(steps(b.check("anonymous", ``), b.check("key-auth", `{}`), b.method("basic", `{}`)), "all").(*AllOf)

	x := b.call("GET /", "X-Api-Key: "+key, basicLine("ann", "correct horse"))
	wants(t, all.Check(x), "")
	if x.Application != acme || x.Credential.Name != "acme-key" || x.Identity != nil && x.Identity.Subject == "anonymous" || len(x.Extra) != 0 {
		t.Errorf("application %v, credential %v, identity %v, fields %v", x.Application, x.Credential, x.Identity, x.Extra)
	}
	tried := func(v reason.Verdict, want ...string) {
		t.Helper()
		f, _ := v.Facts.Find("tried", reason.ToAnyone)
		if got, _ := f.Value.([]string); !slices.Equal(got, want) {
			t.Errorf("tried %q, want %q", got, want)
		}
	}
	// steps names them in the order in which they were written: a is anonymous.
	x = b.call("GET /", "X-Api-Key: "+key)
	v := all.Check(x)
	wants(t, v, "basic.missing")
	tried(v, "b: accepted", "c: basic.missing")
	if got := challenges(x); len(got) != 1 || !strings.HasPrefix(got[0], "Basic ") {
		t.Errorf("challenges %q", got)
	}
	x = b.call("GET /", basicLine("ann", "wrong"))
	v = all.Check(x)
	wants(t, v, "key.missing")
	tried(v, "b: key.missing", "c: basic.unknown-user-or-password")
	if x.Application != nil || x.Explaining || len(challenges(x)) != 1 {
		t.Errorf("application %v, explaining %v, challenges %q", x.Application, x.Explaining, challenges(x))
	}
	v = all.Check(b.call("GET /", basicLine("ann", "correct horse")))
	tried(v, "b: key.missing", "c: would accept")
	tried(all.Check(b.call("GET /")), "b: key.missing", "c: nothing sent")

	// The two must be of one application.
	x = b.call("GET /", "X-Api-Key: "+key, basicLine("bob", "battery staple"))
	wants(t, all.Check(x), "authentication.conflict", `"acme" and "bistro"`, "bob of application")
	if x.Application != nil || x.Identity != nil || len(challenges(x)) != 2 {
		t.Errorf("application %v, identity %v, challenges %q", x.Application, x.Identity, challenges(x))
	}
	if w := all.Wants(); w != "an API key in header X-Api-Key and a user name and password in Authorization: Basic" {
		t.Errorf("wants %q", w)
	}
}

// TestAllOfIdentity: the first identity counts, and that of a token beats others.
func TestAllOfIdentity(t *testing.T) {
	b := newTestbed(t)
	acme := b.application("acme")
	plain, other := &consumer.Identity{Subject: "acme"}, &consumer.Identity{Subject: "other"}
	token := &consumer.Identity{Subject: "ann", Method: "jwt", Claims: map[string]any{"sub": "ann"}}
	certificate := &consumer.Identity{Subject: "CN=acme", Method: "mtls", Claims: map[string]any{"subject": "CN=acme"}}
	for _, c := range []struct {
		list []Step
		want *consumer.Identity
	}{
		{steps(said{says: accepting(plain, acme)}, said{says: accepting(other, nil)}), plain},
		{steps(said{says: accepting(plain, acme)}, said{says: accepting(token, nil)}), token},
		{steps(said{says: accepting(token, nil)}, said{says: accepting(plain, acme)}), token},
		{steps(said{says: accepting(certificate, acme)}, said{says: accepting(token, nil)}), token},
		{steps(said{says: accepting(token, nil)}, said{says: accepting(certificate, acme)}), token},
		{steps(said{says: accepting(nil, nil)}, said{says: accepting(plain, acme)}), plain},
		{steps(said{says: accepting(plain, acme)}, said{says: accepting(nil, nil)}), plain},
	} {
		x := b.call("GET /")
		wants(t, NewMethods(c.list, "all").Check(x), "")
		if x.Identity != c.want || x.Application != nil && x.Credential.Prefix != "of acme" {
			t.Errorf("identity %v, want %v", x.Identity, c.want)
		}
	}
}

// TestAllOfDoesNotWait: after a refusal no method reads content that has not come.
func TestAllOfDoesNotWait(t *testing.T) {
	b := newTestbed(t)
	asked := 0
	x := b.call("POST /")
	all := NewMethods(steps(b.check("key-auth", `{}`), said{presents: true, body: true, asked: &asked, says: refusing(keyUnknown, "")}), "all")
	wants(t, all.Check(x), "key.missing")
	if asked != 0 {
		t.Error("a method that reads content was asked")
	}
	if r, ok := all.(BodyReader); !ok || !r.ReadsBody() {
		t.Error("the group does not say that it reads content")
	}
}

func TestMethodsDoNotAllocate(t *testing.T) {
	b := newTestbed(t)
	acme := b.application("acme")
	key := b.key(acme, nil)
	b.password(acme, "ann", "correct horse", nil)
	anonymous := b.check("anonymous", ``)
	for name, c := range map[string]struct {
		check Check
		lines []string
	}{
		"any":   {NewMethods(steps(b.check("key-auth", `{}`), b.method("basic", `{}`)), "any"), []string{"GET /", basicLine("ann", "correct horse")}},
		"all":   {NewMethods(steps(b.check("key-auth", `{}`), b.method("basic", `{}`)), "all"), []string{"GET /", "X-Api-Key: " + key, basicLine("ann", "correct horse")}},
		"none":  {NewMethods(steps(anonymous, b.check("key-auth", `{}`)), "any"), []string{"GET /"}},
		"alone": {anonymous, []string{"GET /"}},
	} {
		x := b.call(c.lines...)
		req := x.Request
		run := func() {
			x.Reset(req, b.now)
			x.Route = &b.route
			if v := c.check.Check(x); v.Refused() {
				t.Fatal(v.Reason.Code)
			}
		}
		run()
		if n := testing.AllocsPerRun(100, run); n > 0 {
			t.Errorf("%s: a call that passes allocates %v times", name, n)
		}
	}
}

// BenchmarkMethods is what a call pays for each method that accepts it.
func BenchmarkMethods(b *testing.B) {
	t := &testing.T{}
	bed := newTestbed(t)
	acme := bed.application("acme")
	bed.password(acme, "ann", "correct horse", nil)
	bed.signer(acme, "k", []byte("secret"), nil)
	root := (*authorityOf)(nil).issue(t, named("Clients CA", isAuthority))
	leaf := root.issue(t, named("acme")).cert
	certificates, _ := bed.keeping(nil, "mtls", `{accept: any}`, func(e *Env) { e.Authorities = []*x509.Certificate{root.cert} })
	for _, m := range []struct {
		name  string
		check Check
		x     *Exchange
	}{
		{"basic", bed.method("basic", `{cacheFor: 1h}`), bed.call("GET /", basicLine("ann", "correct horse"))},
		{"hmac", bed.method("hmac", `{}`), bed.call(bed.sign([]byte("secret"), `"@method" "@authority" "@path" "@query"`, fmt.Sprintf(`;created=%d;keyid="k"`, bed.now.Unix()), "GET /orders?page=2")...)},
		{"mtls", certificates.(Check), showing(bed.call("GET /"), leaf)},
	} {
		b.Run(m.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if v := m.check.Check(m.x); v.Refused() {
					b.Fatal(v.Reason.Code)
				}
			}
		})
	}
}
