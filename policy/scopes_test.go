package policy

import (
	"strings"
	"testing"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// with gives a call an identity.
func with(x *Exchange, id consumer.Identity) *Exchange {
	x.Identity = &id
	return x
}

func TestScopes(t *testing.T) {
	b := newTestbed(t)
	b.kinds["jwt"] = true
	c := b.check("scopes", `{all: [orders.read, orders.list], any: [staff, admin]}`)
	jwt := func(scopes ...string) *Exchange {
		return with(b.call("GET /"), consumer.Identity{Method: "jwt", Subject: "alice", Scopes: scopes})
	}
	x := jwt("x", "admin", "orders.list", "orders.read", "y")
	wants(t, c.Check(x), "")
	if x.Extra.Get(wire.WWWAuthenticate) != "" {
		t.Error("a call that passes is challenged")
	}
	x = jwt("orders.read", "staff")
	v := c.Check(x)
	wants(t, v, "scopes.insufficient", `scopes "orders.read" and "orders.list", and one of the scopes "staff" or "admin"`, `"alice" lacks scope "orders.list"`, `scopes "orders.read" and "staff"`)
	if got, want := x.Extra.Get(wire.WWWAuthenticate), `Bearer realm="orders", error="insufficient_scope", scope="orders.read orders.list staff"`; got != want {
		t.Errorf("challenge %s, want %s", got, want)
	}
	for name, want := range map[string]string{"missing": "orders.list", "held": "orders.read or staff"} {
		if f, ok := v.Facts.Find(name, reason.ToCaller); !ok || f.Text() != want {
			t.Errorf("%s is %q, want %q", name, f.Text(), want)
		}
	}
	wants(t, c.Check(jwt("orders.read", "orders.list")), "scopes.insufficient", `lacks one of the scopes "staff" or "admin"`)
	wants(t, c.Check(jwt()), "scopes.insufficient", `lacks scopes "orders.read" and "orders.list", and one of the scopes "staff" or "admin"`, "no scope")
	wants(t, c.Check(jwt("order.read", "orders.list", "staff")), "scopes.insufficient", `it has scope "order.read", which is not "orders.read"`)
	wants(t, c.Check(jwt("orders.read orders.list", "staff")), "scopes.insufficient", `is one scope here, and was probably meant as several`)
	wants(t, c.Check(b.call("GET /")), "scopes.insufficient", "no policy has identified the caller")

	// Without a bearer token there is nothing that a challenge could ask for.
	acme := b.application("acme")
	cred := &consumer.Credential{Name: "acme-key", Application: acme, Identity: &consumer.Identity{Method: "key-auth", Subject: "acme"}}
	x = b.call("GET /")
	x.Application, x.Credential, x.Identity = acme, cred, cred.Identity
	wants(t, c.Check(x), "scopes.insufficient", `application "acme" lacks`)
	if x.Extra.Get(wire.WWWAuthenticate) != "" {
		t.Error("a key is challenged as a token")
	}
	x = b.call("GET /", "Authorization: Bearer wg_key")
	x.Application, x.Credential, x.Identity = acme, cred, cred.Identity
	c.Check(x)
	if !strings.HasPrefix(x.Extra.Get(wire.WWWAuthenticate), "Bearer ") {
		t.Error("a key that came as a bearer token is not challenged")
	}
	x = jwt("x", "orders.read", "orders.list", "staff")
	x.Explaining = true
	if v := c.Check(x); v.Refused() || v.Facts[1].Text() != `scopes "orders.read", "orders.list" and "staff"` {
		t.Errorf("explained as %v", v)
	}
	// A token may hold any number of scopes of any length.
	many := make([]string, 5000)
	for i := range many {
		many[i] = strings.Repeat("s", 1000)
	}
	v = c.Check(jwt(many...))
	if f, _ := v.Facts.Find("held", reason.ToCaller); len(f.Text()) > 10000 {
		t.Errorf("%d bytes are shown", len(f.Text()))
	}
}

func TestRolesAndGroups(t *testing.T) {
	b := newTestbed(t)
	b.kinds["key-auth"] = true
	roles, groups := b.check("roles", `{any: [manager, auditor]}`), b.check("groups", `{all: [finance]}`)
	x := with(b.call("GET /"), consumer.Identity{Method: "jwt", Subject: "alice", Scopes: []string{"manager", "finance"}, Roles: []string{"auditor"}, Groups: []string{"finance"}})
	wants(t, roles.Check(x), "")
	wants(t, groups.Check(x), "")
	x.Identity.Roles, x.Identity.Groups = x.Identity.Groups, x.Identity.Roles
	wants(t, roles.Check(x), "roles.insufficient", `one of the roles "manager" or "auditor"`, `role "finance"`)
	wants(t, groups.Check(x), "groups.insufficient", `wants group "finance"`, `group "auditor"`)
	if told := groups.Check(x).Tell(reason.ToAnyone); strings.Contains(told.Says, "finance") {
		t.Error("a stranger is told which groups may call")
	}
	if x.Extra.Get(wire.WWWAuthenticate) != "" {
		t.Error("RFC 6750 knows scopes only")
	}
}

func TestEntitlementProblems(t *testing.T) {
	b := newTestbed(t)
	b.kinds["key-auth"] = true
	for config, want := range map[string]string{
		`{}`: "decides nothing", `{all: [""]}`: "nothing in it", `{all: [a, a]}`: `scope "a" is there twice`, `{all: [" a"]}`: "spaces around it",
		`{all: ["a b"]}`: "is no scope", `{any: ["ä"]}`: "is no scope", `{all: [a], any: [a, b]}`: "so any adds nothing",
	} {
		if _, problems := b.compile("scopes", config); len(problems) == 0 || !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: %v, want %s", config, problems, want)
		}
	}
	for _, c := range []struct {
		kind, code string
		shadow     bool
	}{{"", "scopes.no-identity", false}, {"jwt" + Watching, "scopes.no-identity", false}, {"anonymous", "", false}, {"jwt", "", false}} {
		b.kinds = map[string]bool{c.kind: true}
		_, problems := b.compile("scopes", `{all: [a]}`)
		if c.code == "" && len(problems) > 0 || c.code != "" && (len(problems) != 1 || problems[0].Code != c.code || problems.HasErrors()) {
			t.Errorf("beside %s: %v", c.kind, problems)
		}
	}
}

// TestAuthorizationDoesNotAllocate: whoever holds enough passes without costs.
func TestAuthorizationDoesNotAllocate(t *testing.T) {
	b := newTestbed(t)
	b.kinds["key-auth"] = true
	acme := b.application("acme")
	acme.Owner.Team = "sales"
	checks := []Check{b.check("scopes", `{all: [a, b], any: [c, d]}`), b.check("roles", `{any: [r]}`), b.check("groups", `{all: [g]}`),
		b.check("access", `{allow: {applications: [acme], teams: [sales], subjects: [x]}, deny: {subjects: [y]}}`), b.rule(`request.method == "GET"`)}
	x := with(b.call("GET /"), consumer.Identity{Method: "jwt", Subject: "alice", Scopes: []string{"x", "y", "d", "b", "a"}, Roles: []string{"q", "r"}, Groups: []string{"g"}})
	x.Application = acme
	run := func() {
		for i, c := range checks {
			if c.Check(x).Refused() {
				t.Fatal("refused by", i)
			}
		}
	}
	run()
	if n := testing.AllocsPerRun(200, run); n > 0 {
		t.Errorf("a call that passes allocates %v times", n)
	}
}
