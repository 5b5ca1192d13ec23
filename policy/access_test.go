package policy

import (
	"strings"
	"testing"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
)

func TestAccess(t *testing.T) {
	b := newTestbed(t)
	b.kinds["key-auth"] = true
	for name, team := range map[string]string{"bistro": "food", "cafe": "food", "intern": "finance", "ledger": "finance", "lone": "", "legder": ""} {
		b.application(name).Owner.Team = team
	}
	call := func(app, subject string) *Exchange {
		x := b.call("GET /")
		x.Application = b.consumers.Application(app)
		if subject != "" {
			x.Identity = &consumer.Identity{Subject: subject}
		}
		return x
	}
	c := b.check("access", `{allow: {applications: [bistro], teams: [finance], subjects: [alice]}, deny: {applications: [intern], subjects: [mallory]}}`)
	for _, k := range []struct{ app, subject, code, says string }{
		{"bistro", "", "", ""}, {"ledger", "", "", ""}, {"", "alice", "", ""}, {"cafe", "alice", "", ""},
		{"intern", "", "access.denied", `application "intern" is denied`},
		{"bistro", "mallory", "access.denied", `subject "mallory" is denied`},
		{"cafe", "", "access.not-allowed", `one of application "bistro", team "finance" or subject "alice"`},
		{"lone", "", "access.not-allowed", `application "lone"`},
		{"", "alise", "access.not-allowed", `did the list mean subject "alise" by "alice"?`},
		{"", "bob", "access.not-allowed", `"bob" is not among`},
		{"", "", "access.not-allowed", "whom no policy has identified"},
	} {
		wants(t, c.Check(call(k.app, k.subject)), k.code, k.says)
	}
	v := c.Check(call("cafe", ""))
	if told := v.Tell(reason.ToCaller); strings.Contains(told.Says+told.Wanted, "bistro") {
		t.Errorf("a caller is told who else may call: %s", told.Says)
	}
	if told := v.Tell(reason.ToOwner); told.At == nil || told.At.Field != "allow" {
		t.Errorf("the allow list is at %v", told.At)
	}
	wants(t, b.check("access", `{deny: {teams: [food]}}`).Check(call("lone", "")), "")
	wants(t, b.check("access", `{deny: {teams: [food]}}`).Check(call("cafe", "")), "access.denied", `team "food" is denied`)
	wants(t, b.check("access", `{allow: {applications: [ledger]}}`).Check(call("legder", "")), "access.not-allowed", `did the list mean application "legder" by "ledger"?`)
	wants(t, b.check("access", `{allow: {subjects: [lone]}}`).Check(call("lone", "")), "access.not-allowed", `which it names as a subject`)
	b.consumers.Application("ledger").Tenant, b.consumers.Application("intern").Tenant, b.consumers.Application("cafe").Tenant = "acme", "acme", "amce"
	tenants := b.check("access", `{allow: {tenants: [acme]}, deny: {applications: [intern]}}`)
	wants(t, tenants.Check(call("ledger", "")), "")
	wants(t, tenants.Check(call("intern", "")), "access.denied", `application "intern" is denied`)
	wants(t, tenants.Check(call("bistro", "")), "access.not-allowed", `tenant "acme"`)
	wants(t, tenants.Check(call("cafe", "")), "access.not-allowed", `did the list mean tenant "amce" by "acme"?`)
	wants(t, b.check("access", `{deny: {tenants: [acme]}}`).Check(call("ledger", "")), "access.denied", `tenant "acme" is denied`)
	x := call("ledger", "")
	x.Explaining = true
	if v := c.Check(x); v.Refused() || v.Facts[0].Text() != `team "finance"` {
		t.Errorf("explained as %v", v)
	}
}

func TestAccessProblems(t *testing.T) {
	b := newTestbed(t)
	b.kinds["key-auth"] = true
	b.application("ledger").Owner.Team = "finance"
	for config, want := range map[string]string{
		`{}`: "decides nothing", `{allow: {applications: [leger]}}`: "access.unknown-application", `{allow: {teams: [finanz]}}`: "access.unknown-team", `{allow: {tenants: [acmee]}}`: "access.unknown-tenant",
		`{allow: {applications: [ledger]}, deny: {applications: [ledger]}}`: "deny wins", `{allow: {subjects: [""]}}`: "an entry is empty",
	} {
		if _, problems := b.compile("access", config); len(problems) == 0 || !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: %v, want %s", config, problems, want)
		}
	}
	if _, problems := b.compile("access", `{allow: {applications: [leger]}}`); problems[0].Hint != `did you mean "ledger"?` {
		t.Error(problems[0].Hint)
	}
	b.kinds = map[string]bool{}
	if _, problems := b.compile("access", `{allow: {subjects: [x]}}`); len(problems) != 1 || problems[0].Code != "access.no-identity" {
		t.Error(problems)
	}
}
