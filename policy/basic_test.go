package policy

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

func (b *testbed) password(a *consumer.Application, user, password string, edit func(*consumer.Credential)) {
	b.t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		b.t.Fatal(err)
	}
	b.hashed(a, user, string(hash), edit)
}

func (b *testbed) hashed(a *consumer.Application, user, hash string, edit func(*consumer.Credential)) {
	b.t.Helper()
	p, err := consumer.ParsePassword(hash)
	if err != nil {
		b.t.Fatal(err)
	}
	c := &consumer.Credential{Name: a.Name + "-" + user, Application: a, Prefix: user, Hash: hash, Password: &p}
	if edit != nil {
		edit(c)
	}
	if !b.consumers.AddNamed("basic", user, c) {
		b.t.Fatal("two users of one name")
	}
}

func basicLine(user, password string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestBasic(t *testing.T) {
	b := newTestbed(t)
	acme := b.application("acme")
	banned := &consumer.Application{Name: "banned", Suspended: true}
	b.consumers.AddApplication(banned)
	b.password(acme, "ann", "correct: horse", nil)
	b.password(acme, "jörg", "Grüße", nil)
	b.hashed(acme, "argo", "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21l$2gV6CrRvE4WYo8f5kK1Bm7NRvDvWX4kQL1F1XnFCrZc", nil)
	b.password(acme, "old", "password", func(c *consumer.Credential) { c.Revoked = true })
	b.password(acme, "late", "password", func(c *consumer.Credential) { c.Until = b.now.Add(-time.Hour) })
	b.password(acme, "soon", "password", func(c *consumer.Credential) { c.From = b.now.Add(time.Hour) })
	b.password(banned, "ban", "password", nil)
	c := b.method("basic", `{}`)

	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, line := range []string{basicLine("ann", "correct: horse"), basicLine("jörg", "Grüße"), "Authorization: basic   " + encode("ann:correct: horse"),
		"Authorization: Basic " + strings.TrimRight(encode("ann:correct: horse"), "=")} {
		x := b.call("GET /", line)
		wants(t, c.Check(x), "")
		if x.Application != acme || x.Credential == nil || !c.(Authenticator).Presents(x) {
			t.Errorf("%s: application %v", line, x.Application)
		}
	}
	for _, r := range []struct{ code, text, line string }{
		{"basic.missing", "the call carries none", "X-Other: 1"},
		{"basic.missing", "carries Bearer, which is not looked at", "Authorization: Bearer x"},
		{"basic.missing", "the word Basic is missing", "Authorization: " + encode("ann:x")},
		{"basic.missing", "is there and empty", "Authorization:"},
		{"basic.missing", "carries something, which is not looked at", "Authorization: s3cret more"},
		{"basic.malformed", "nothing stands behind Basic", "Authorization: Basic"},
		{"basic.malformed", "no base64", "Authorization: Basic ann:password"},
		{"basic.malformed", "no colon", "Authorization: Basic " + encode("ann")},
		{"basic.malformed", "user name is empty", "Authorization: Basic " + encode(":x")},
		{"basic.malformed", "not in UTF-8", "Authorization: Basic " + encode("j\xf6rg:x")},
		{"basic.malformed", "such as a line break at the end", "Authorization: Basic " + encode("ann:x\n")},
		{"basic.malformed", "longer than 1024 bytes", "Authorization: Basic " + encode("ann:"+strings.Repeat("x", 1000))},
		{"basic.malformed", "more than once", "Authorization: Basic " + encode("a:b") + "\r\nAuthorization: Basic " + encode("c:d")},
		{"basic.unknown-user-or-password", "the user is known, the password is wrong", basicLine("ann", "wrong")},
		{"basic.unknown-user-or-password", "there is no Credential with this user name", basicLine("nobody", "wrong")},
		{"basic.unknown-user-or-password", "the password is empty", basicLine("ann", "")},
		{"basic.unknown-user-or-password", "wrapped in quotes", basicLine("ann", `"correct: horse"`)},
		{"basic.unknown-user-or-password", "not filled in", basicLine("ann", `$PASSWORD`)},
		{"basic.unknown-user-or-password", "a space at one end", basicLine("ann", "correct: horse ")},
		{"basic.unknown-user-or-password", "", basicLine("argo", "wrong")},
		{"basic.unknown-user-or-password", "", basicLine("old", "wrong")}, // strangers are not told that it was revoked
		{"basic.revoked", `user old of application "acme"`, basicLine("old", "password")},
		{"basic.expired", "1h ago", basicLine("late", "password")},
		{"basic.not-yet-valid", "in 1h", basicLine("soon", "password")},
		{"application.suspended", "banned", basicLine("ban", "password")},
	} {
		x := b.call("GET /", r.line)
		v := c.Check(x)
		wants(t, v, r.code, r.text)
		if v.Refused() && v.Reason.Status == 401 && x.Extra.Get(wire.WWWAuthenticate) != `Basic realm="orders", charset="UTF-8"` {
			t.Errorf("%s: challenge %q", r.code, x.Extra.Get(wire.WWWAuthenticate))
		}
		for _, f := range v.Facts {
			if strings.Contains(f.Text(), "horse") || f.Name == "cause" && f.Tier < reason.ToOperator {
				t.Errorf("%s tells %s: %s", r.code, f.Name, f.Text())
			}
		}
	}
	x := b.call("OPTIONS /", "Origin: https://shop.test", "Access-Control-Request-Method: GET")
	x.Preflight = true
	wants(t, c.Check(x), "cors.preflight", "Authorization: Basic")

	o := &wire.Outgoing{}
	o.Fields.Add("Authorization", "basic "+encode("ann:x"))
	o.Fields.Add("Authorization", "Bearer stays")
	c.(RequestEditor).EditRequest(nil, o)
	if len(o.Fields) != 1 || o.Fields[0].Value != "Bearer stays" {
		t.Errorf("the upstream gets %v", o.Fields)
	}
}

// TestBasicIsRemembered: a pair that was right costs nothing for a time; a change of the document counts
// at once, and nothing is remembered while explaining.
func TestBasicIsRemembered(t *testing.T) {
	b := newTestbed(t)
	acme := b.application("acme")
	b.password(acme, "ann", "one password", nil)
	kept := map[string]Kept{}
	made, _ := b.keeping(kept, "basic", `{cacheFor: 1m}`, nil)
	c := made.(*basicCheck)
	ask := func(after time.Duration, explaining bool) bool {
		x := b.call("GET /", basicLine("ann", "one password"))
		x.Now, x.Explaining = b.now.Add(after), explaining
		return !c.Check(x).Refused()
	}
	remembered := func(after time.Duration) bool { // with as many comparisons under way as there may be
		c.passwords.patience = time.Millisecond
		for range cap(c.passwords.turns) {
			c.passwords.turns <- struct{}{}
		}
		defer func() {
			for range cap(c.passwords.turns) {
				<-c.passwords.turns
			}
		}()
		return ask(after, false)
	}
	if !ask(0, true) || remembered(0) {
		t.Error("explaining is remembered")
	}
	if !ask(0, false) || !remembered(59*time.Second) || remembered(time.Minute) {
		t.Error("a pair is remembered for a minute")
	}
	// What is explained on the side compares nothing, and knows what is remembered.
	for _, after := range []time.Duration{0, time.Hour} {
		x := b.call("GET /", basicLine("ann", "one password"))
		x.Explaining, x.Cheap, x.Now = true, true, b.now.Add(after)
		if c.Check(x).Refused() || x.Unknown != (after > 0) || (x.Application == nil) != x.Unknown {
			t.Errorf("after %v: unknown %v, application %v", after, x.Unknown, x.Application)
		}
	}
	// A new revision with another hash: what was remembered is of no use.
	b.consumers = consumer.NewDirectory()
	b.consumers.AddApplication(acme)
	b.password(acme, "ann", "another password", nil)
	made, _ = b.keeping(kept, "basic", `{cacheFor: 1m}`, nil)
	if c = made.(*basicCheck); ask(0, false) {
		t.Error("the old password is still accepted")
	}
	made, _ = b.keeping(map[string]Kept{}, "basic", `{cacheFor: 0s}`, nil)
	if c = made.(*basicCheck); remembered(0) {
		t.Error("cacheFor 0 remembers")
	}
}

// TestBasicBusy: no more passwords are compared at once than there are turns.
func TestBasicBusy(t *testing.T) {
	b := newTestbed(t)
	b.password(b.application("acme"), "ann", "password", nil)
	c := b.method("basic", `{}`).(*basicCheck)
	c.passwords.patience = time.Millisecond
	for range cap(c.passwords.turns) {
		c.passwords.turns <- struct{}{}
	}
	x := b.call("GET /", basicLine("ann", "password"))
	wants(t, c.Check(x), "basic.busy")
	if x.Extra.Get(wire.RetryAfter) == "" || x.Application != nil {
		t.Errorf("fields %v, application %v", x.Extra, x.Application)
	}
	for range cap(c.passwords.turns) {
		<-c.passwords.turns
	}
	wants(t, c.Check(b.call("GET /", basicLine("ann", "password"))), "")
}

func TestBasicProblems(t *testing.T) {
	b := newTestbed(t)
	if _, problems := b.keeping(map[string]Kept{}, "basic", `{}`, nil); len(problems) != 1 || problems[0].Code != "basic.nobody" {
		t.Errorf("problems %v", problems)
	}
	acme := b.application("acme")
	b.password(acme, "ann", "password", nil)
	b.hashed(acme, "argo", "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21l$2gV6CrRvE4WYo8f5kK1Bm7NRvDvWX4kQL1F1XnFCrZc", nil)
	if _, problems := b.keeping(map[string]Kept{}, "basic", `{}`, nil); len(problems) != 1 || problems[0].Code != "basic.costs-differ" {
		t.Errorf("problems %v", problems)
	}
	if _, problems := b.keeping(map[string]Kept{}, "basic", `{realm: "a\nb"}`, nil); !problems.HasErrors() {
		t.Error("a realm with a line break compiles")
	}
}

func FuzzDecodePair(f *testing.F) {
	for _, s := range []string{"", "YTpi", "YTpi=", "Og==", "YQ", strings.Repeat("A", maxPair), "ÿ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > maxPair {
			return
		}
		var room [maxPair]byte
		pair, fault := decodePair(room[:], s)
		if fault == "" && (strings.IndexByte(string(pair), ':') < 1 || strings.ContainsAny(string(pair), "\r\n\x00") || !utf8.Valid(pair)) {
			t.Fatalf("%q is read as %q", s, pair)
		}
	})
}
