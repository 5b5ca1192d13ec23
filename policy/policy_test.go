package policy

import (
	"crypto/sha256"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// testbed compiles policies and asks them about calls.
type testbed struct {
	t         *testing.T
	consumers *consumer.Directory
	trust     *Trust
	memory    *counter.Memory
	quotas    *counter.Quotas
	shared    *Shared
	gateway   resource.Gateway
	route     Route
	kinds     map[string]bool
	now       time.Time
}

func newTestbed(t *testing.T) *testbed {
	quotas, _ := counter.OpenQuotas("")
	b := &testbed{t: t, consumers: consumer.NewDirectory(), trust: NewTrust(nil), memory: counter.NewMemory(), quotas: quotas,
		route: Route{API: "orders", Stage: "prod", Name: "list", Owner: consumer.Owner{Team: "orders", Contact: "orders@shop.test"}},
		kinds: map[string]bool{}, now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
	var ps resource.Problems
	resource.Decode(resource.Node{}, &b.gateway, &ps)
	return b
}

// decode reads the configuration of a policy, and readies what it is compiled with. The policy is nil if there are problems.
func (b *testbed) decode(kind, config string) (Policy, *Env, *resource.Problems) {
	b.t.Helper()
	k, _, ok := KindNamed(kind)
	if !ok {
		b.t.Fatalf("there is no policy %s", kind)
	}
	node, problems := resource.ParseNode(resource.File{Name: "test.yaml", Data: []byte(config)})
	p := k.New()
	if resource.Decode(node, p, &problems); problems.HasErrors() {
		return nil, nil, &problems
	}
	return p, &Env{Node: node, Name: kind, Problems: &problems, Route: &b.route, Consumers: b.consumers, Trust: b.trust, Memory: b.memory,
		Quotas: b.quotas, Shared: b.shared, Gateway: &b.gateway, LimitName: "test/" + kind, Kinds: b.kinds}, &problems
}

// compile decodes and compiles the policy of that kind with a configuration in YAML.
func (b *testbed) compile(kind, config string) (any, resource.Problems) {
	b.t.Helper()
	p, env, problems := b.decode(kind, config)
	if p == nil {
		return nil, *problems
	}
	b.kinds[kind] = true
	env.Keep = func(_ string, create func() Kept) Kept { return create() }
	made := p.Compile(env)
	return made, *problems
}

func (b *testbed) check(kind, config string) Check {
	b.t.Helper()
	made, problems := b.compile(kind, config)
	if problems.HasErrors() {
		b.t.Fatalf("%s: %v", kind, problems)
	}
	return made.(Check)
}

// call makes an exchange of a request head, "GET /path" and header lines.
func (b *testbed) call(lines ...string) *Exchange {
	b.t.Helper()
	head := lines[0] + " HTTP/1.1\r\n"
	if !strings.Contains(strings.Join(lines, "\n"), "Host:") {
		head += "Host: shop.test\r\n"
	}
	for _, l := range lines[1:] {
		head += l + "\r\n"
	}
	req, f := wire.ParseRequest([]byte(head+"\r\n"), &wire.Limits{HeaderBytes: 32 << 10, HeaderCount: 100, URIBytes: 8 << 10})
	if f != nil {
		b.t.Fatal(f)
	}
	x := &Exchange{}
	x.Reset(req, b.now)
	x.Scheme, x.Route = "https", &b.route
	x.Client = b.trust.Client(netip.MustParseAddr("203.0.113.7"), netip.Addr{}, req.Fields)
	return x
}

// from is call with another socket address.
func (b *testbed) from(addr string, lines ...string) *Exchange {
	x := b.call(lines...)
	x.Client = b.trust.Client(netip.MustParseAddr(addr), netip.Addr{}, x.Fields)
	return x
}

func (b *testbed) application(name string) *consumer.Application {
	a := &consumer.Application{Name: name}
	b.consumers.AddApplication(a)
	return a
}

func (b *testbed) key(a *consumer.Application, edit func(*consumer.Credential)) string {
	key, prefix, _ := consumer.NewKey()
	c := &consumer.Credential{Name: a.Name + "-key", Application: a, Prefix: prefix}
	if edit != nil {
		edit(c)
	}
	b.consumers.AddCredential(sum(key), c)
	return key
}

// wants asserts the code of a verdict ("" for a pass) and that its sentence contains texts.
func wants(t *testing.T, v reason.Verdict, code string, texts ...string) {
	t.Helper()
	if !v.Refused() {
		if code != "" {
			t.Errorf("passes, want %s", code)
		}
		return
	}
	if v.Reason.Code != code {
		t.Errorf("refused for %s, want %q", v.Reason.Code, code)
		return
	}
	told := v.Tell(reason.ToOperator)
	all := told.Says + "|" + told.Wanted + "|" + told.Seen
	for _, f := range told.Fixes {
		all += "|" + f.Text
	}
	if told.Says == v.Reason.Title {
		t.Errorf("%s: the sentence cannot be said with the facts %v", code, v.Facts)
	}
	for _, text := range texts {
		if !strings.Contains(all, text) {
			t.Errorf("%s does not say %q: %s", code, text, all)
		}
	}
}

func TestIPAccess(t *testing.T) {
	b := newTestbed(t)
	c := b.check("ip-access", `{allow: [203.0.113.0/24, "2001:db8::/32"], deny: [203.0.113.66]}`)
	wants(t, c.Check(b.from("203.0.113.7", "GET /")), "")
	wants(t, c.Check(b.from("2001:db8::1", "GET /")), "")
	wants(t, c.Check(b.from("203.0.113.66", "GET /")), "ip-access.denied", "203.0.113.66/32")
	wants(t, c.Check(b.from("203.0.114.1", "GET /")), "ip-access.not-allowed", "nearest allowed network 203.0.113.0/24", `team "orders" (orders@shop.test)`)
	// A header that nobody vouches for does not help, and the table says so.
	v := c.Check(b.from("10.0.0.2", "GET /", "X-Forwarded-For: 203.0.113.7"))
	wants(t, v, "ip-access.not-allowed", "10.0.0.2")
	hops, _ := v.Facts.Find("hops", reason.ToOperator)
	if table := hops.Value.([]reason.Hop); len(table) != 2 || table[1].Why != "ignored: the gateway has no trustedProxies" || !table[0].Chosen {
		t.Errorf("hops %+v", table)
	}

	b.trust = NewTrust([]resource.Prefix{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}})
	c = b.check("ip-access", `{allow: [203.0.113.0/24]}`)
	wants(t, c.Check(b.from("10.0.0.2", "GET /", "X-Forwarded-For: 203.0.113.7")), "")
	wants(t, c.Check(b.from("10.0.0.2", "GET /", "X-Forwarded-For: 203.0.113.7, 198.51.100.9")), "ip-access.not-allowed", "198.51.100.9")
	wants(t, c.Check(b.from("198.51.100.9", "GET /", "X-Forwarded-For: 203.0.113.7")), "ip-access.not-allowed", "198.51.100.9")

	// An unexpected allow can be explained, and the lint warns before.
	x := b.from("10.5.37.1", "GET /")
	x.Explaining = true
	open := b.check("ip-access", `{allow: [10.0.0.0/8]}`)
	v = open.Check(x)
	if f, ok := v.Facts.Find("allowed_by", reason.ToOwner); !ok || f.Text() != "10.0.0.0/8" {
		t.Errorf("facts %v", v.Facts)
	}
	_, problems := b.compile("ip-access", `{allow: [10.0.0.0/8]}`)
	if len(problems) != 1 || problems[0].Code != "ip-access.allows-proxy" {
		t.Errorf("problems %v", problems)
	}
}

func TestClientAddress(t *testing.T) {
	b := newTestbed(t)
	b.trust = NewTrust([]resource.Prefix{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}, {Prefix: netip.MustParsePrefix("fd00::/8")}})
	for _, c := range []struct {
		peer, xff, want string
		hop             int
	}{
		{"203.0.113.7", "", "203.0.113.7", 0},
		{"203.0.113.7", "1.2.3.4", "203.0.113.7", 0},
		{"10.0.0.1", "", "10.0.0.1", 0},
		{"10.0.0.1", "1.2.3.4", "1.2.3.4", 1},
		{"10.0.0.1", "6.6.6.6, 1.2.3.4", "1.2.3.4", 2},
		{"10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.9", "1.2.3.4", 2},
		{"10.0.0.1", "10.0.0.8, 10.0.0.9", "10.0.0.8", 1},
		{"10.0.0.1", "6.6.6.6, unknown, 10.0.0.9", "10.0.0.9", 3},
		{"10.0.0.1", "unknown", "10.0.0.1", 0},
		{"10.0.0.1", "1.2.3.4:5678", "1.2.3.4", 1},
		{"10.0.0.1", "[2001:db8::1]:80", "2001:db8::1", 1},
		{"10.0.0.1", "[2001:db8::1]", "2001:db8::1", 1},
		{"10.0.0.1", "::ffff:1.2.3.4", "1.2.3.4", 1},
		{"10.0.0.1", "fe80::1%eth0", "fe80::1", 1},
		{"fd00::1", "2001:db8::2", "2001:db8::2", 1},
		{"10.0.0.1", ",", "10.0.0.1", 0},
		{"10.0.0.1", strings.Repeat("10.0.0.1, ", 100) + "10.0.0.2", "10.0.0.1", 70}, // bounded
	} {
		x := b.from(c.peer, "GET /", "X-Forwarded-For: "+c.xff)
		if got := x.Client; got.Addr.String() != c.want || got.Hop != c.hop {
			t.Errorf("%s behind %q: %v at hop %d, want %s at %d", c.peer, c.xff, got.Addr, got.Hop, c.want, c.hop)
		}
		chosen := ""
		for _, h := range x.Hops(b.trust) {
			if h.Chosen {
				chosen += h.Address
			}
		}
		if chosen != c.want {
			t.Errorf("%s behind %q: the table chooses %s", c.peer, c.xff, chosen)
		}
	}
	x := b.from("10.0.0.1", "GET /", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 1.2.3.4, 10.0.0.3")
	if x.Client.Addr.String() != "1.2.3.4" || x.Client.Hop != 2 {
		t.Errorf("two fields: %+v", x.Client)
	}
}

func FuzzForwardedFor(f *testing.F) {
	for _, s := range []string{"1.2.3.4", "1.2.3.4, 10.0.0.1", "::1, [::1]:8", ",,,", "a, b", strings.Repeat("10.0.0.1,", 500)} {
		f.Add(s, "10.0.0.2")
	}
	trust := NewTrust([]resource.Prefix{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}})
	f.Fuzz(func(t *testing.T, xff, second string) {
		fields := wire.Fields{{Name: "X-Forwarded-For", Value: xff, ID: wire.XForwardedFor}, {Name: "X-Forwarded-For", Value: second, ID: wire.XForwardedFor}}
		for _, peer := range []string{"10.0.0.9", "203.0.113.1"} {
			p := netip.MustParseAddr(peer)
			c := trust.Client(p, netip.Addr{}, fields)
			if !c.Addr.IsValid() || c.Addr.Zone() != "" || c.Addr.Is4In6() {
				t.Fatalf("address %v", c.Addr)
			}
			if !trust.Has(p) && c.Addr != p {
				t.Fatalf("an untrusted peer was believed: %v", c.Addr)
			}
			// Whoever was passed on the way to the address is trusted.
			if c.Hop > 0 && !trust.Has(p) {
				t.Fatal("a hop without a trusted peer")
			}
			x := &Exchange{Request: &wire.Request{Fields: fields}, Client: c}
			chosen := 0
			for _, h := range x.Hops(trust) {
				if h.Chosen {
					chosen++
					if h.Address != c.Addr.String() {
						t.Fatalf("the table chooses %s, the verdict %v", h.Address, c.Addr)
					}
				}
			}
			if chosen != 1 {
				t.Fatalf("%d rows are chosen", chosen)
			}
		}
	})
}

func TestKeyAuth(t *testing.T) {
	b := newTestbed(t)
	acme := b.application("acme")
	key := b.key(acme, nil)
	other := b.key(acme, nil)
	revoked := b.key(acme, func(c *consumer.Credential) { c.Revoked = true })
	expired := b.key(acme, func(c *consumer.Credential) { c.Until = b.now.Add(-time.Hour) })
	early := b.key(acme, func(c *consumer.Credential) { c.From = b.now.Add(time.Hour) })
	banned := b.application("banned")
	banned.Suspended = true
	bannedKey := b.key(banned, nil)

	c := b.check("key-auth", `{header: X-Api-Key, query: api_key, cookie: key, bearer: true}`)
	for _, pass := range [][]string{
		{"GET /", "X-Api-Key: " + key}, {"GET /", "x-api-key: " + key}, {"GET /?a=b&api_key=" + key}, {"GET /", "Cookie: a=b; key=" + key},
		{"GET /", "Authorization: Bearer " + key}, {"GET /", "authorization: bearer  " + key}, {"GET /?api_key=" + key, "X-Api-Key: " + key},
	} {
		x := b.call(pass...)
		wants(t, c.Check(x), "")
		if x.Application != acme || x.Credential == nil {
			t.Errorf("%q: identified %v", pass, x.Application)
		}
	}
	for _, r := range []struct {
		code  string
		text  string
		lines []string
	}{
		{"key.missing", "header X-Api-Key, Authorization: Bearer, query parameter api_key or cookie key", []string{"GET /"}},
		{"key.missing", "is there and empty", []string{"GET /", "X-Api-Key:"}},
		{"key.missing", "the header apikey is there", []string{"GET /", "apikey: x"}},
		{"key.repeated", "", []string{"GET /?api_key=" + other, "X-Api-Key: " + key}},
		{"key.unknown", "without the quotes", []string{"GET /", `X-Api-Key: "` + key + `"`}},
		{"key.unknown", `begins with "Bearer"`, []string{"GET /", "X-Api-Key: Bearer " + key}},
		{"key.unknown", "it has 40 characters, keys have 44", []string{"GET /", "X-Api-Key: " + key[:40]}},
		{"key.unknown", "but the rest differs", []string{"GET /", "X-Api-Key: " + key[:40]}},
		{"key.unknown", "a variable that was not filled in", []string{"GET /", "X-Api-Key: ${API_KEY}"}},
		{"key.unknown", "sha256:", []string{"GET /", "X-Api-Key: some-other-secret"}},
		{"key.revoked", "", []string{"GET /", "X-Api-Key: " + revoked}},
		{"key.expired", "1h ago", []string{"GET /", "X-Api-Key: " + expired}},
		{"key.not-yet-valid", "in 1h", []string{"GET /", "X-Api-Key: " + early}},
		{"application.suspended", "banned", []string{"GET /", "X-Api-Key: " + bannedKey}},
	} {
		x := b.call(r.lines...)
		v := c.Check(x)
		wants(t, v, r.code, r.text)
		if v.Refused() && v.Reason.Status == 401 && x.Extra.Get(wire.WWWAuthenticate) == "" {
			t.Errorf("%s is a 401 without a challenge", r.code)
		}
		// A key is never a fact.
		for _, f := range v.Facts {
			for _, k := range []string{key, other, revoked, expired, early, bannedKey, "some-other-secret"} {
				if strings.Contains(f.Text(), k) {
					t.Errorf("%s tells a key in the fact %s", r.code, f.Name)
				}
			}
		}
	}

	// Nor is what stands in Authorization without a scheme, which may well be one.
	inHeader := b.check("key-auth", `{}`)
	wants(t, inHeader.Check(b.call("GET /", "X-Api-Key: eyJhbGciOiJub25lIn0.e30.")), "key.unknown", "it is a token (JWT), and no API key")
	for line, text := range map[string]string{"Authorization: Bearer " + key: "a key of this gateway", "Authorization: " + key: "a key of this gateway",
		"Authorization: s3cret-of-mine": "something", "Authorization: s3cret=of more": "something", "Authorization: s3cret more": "something",
		"Authorization: token more": "Token", "Authorization: Basic eDp5": "Basic"} {
		v := inHeader.Check(b.call("GET /", line))
		wants(t, v, "key.missing", "Authorization carries "+text+", which is not looked at")
	}

	o := &wire.Outgoing{Path: "/", Query: "a=b&api_key=" + key + "&c=d", HasQuery: true}
	o.Fields.Add("X-Api-Key", key)
	o.Fields.Add("Cookie", "a=b; key="+key)
	o.Fields.Add("Authorization", "Bearer "+key)
	o.Fields.Add("X-Other", "stays")
	c.(RequestEditor).EditRequest(nil, o)
	if o.Query != "a=b&c=d" || len(o.Fields) != 2 || o.Fields.Get(wire.Cookie) != "a=b" {
		t.Errorf("the upstream gets %q %v", o.Query, o.Fields)
	}
}

func TestSubscription(t *testing.T) {
	b := newTestbed(t)
	acme := b.application("acme")
	plan := &consumer.Plan{Name: "standard"}
	auto := &consumer.Plan{Name: "auto", Automatic: true}
	b.kinds["key-auth"] = true
	b.route.Version = "v2"
	c := b.check("subscription", "")
	ask := func(s *consumer.Subscription) reason.Verdict {
		b.consumers = consumer.NewDirectory()
		c.(*subscriptionCheck).consumers = b.consumers
		if s != nil {
			s.Application, s.API = acme, "orders"
			if s.Plan == nil {
				s.Plan = plan
			}
			b.consumers.AddSubscription(s)
		}
		x := b.call("GET /")
		x.Application = acme
		v := c.Check(x)
		if !v.Refused() && x.Plan == nil {
			t.Error("passes without a plan")
		}
		return v
	}
	wants(t, ask(nil), "subscription.missing", `application "acme" has no subscription to API "orders"`)
	wants(t, ask(&consumer.Subscription{State: consumer.Active}), "")
	wants(t, ask(&consumer.Subscription{State: consumer.Pending, Requested: b.now}), "subscription.pending", "waiting for approval by team")
	wants(t, ask(&consumer.Subscription{State: consumer.Pending, Plan: auto}), "")
	wants(t, ask(&consumer.Subscription{State: consumer.Suspended, Note: "unpaid"}), "subscription.suspended", "unpaid")
	wants(t, ask(&consumer.Subscription{State: consumer.Rejected, Note: "no"}), "subscription.rejected", "no")
	wants(t, ask(&consumer.Subscription{State: consumer.Expired}), "subscription.expired")
	wants(t, ask(&consumer.Subscription{State: consumer.Active, Until: b.now}), "subscription.expired", "0 s ago")
	wants(t, ask(&consumer.Subscription{State: consumer.Active, Until: b.now.Add(1)}), "")
	wants(t, ask(&consumer.Subscription{State: consumer.Active, From: b.now.Add(time.Minute)}), "subscription.not-yet-valid", "in 1m")
	wants(t, ask(&consumer.Subscription{State: consumer.Active, Version: "v1"}), "subscription.elsewhere", "version v1", "version v2 on stage prod")
	wants(t, ask(&consumer.Subscription{State: consumer.Active, Stages: []string{"dev"}}), "subscription.elsewhere", "stage dev")
	b.route.OpenStages = []OpenStage{{Stage: "sandbox", Path: "/sandbox/orders", Plan: "trial"}}
	wants(t, ask(nil), "subscription.missing", `call stage "sandbox" at /sandbox/orders, where the plan "trial" needs no approval`)
	b.route.OpenPlan = auto
	wants(t, ask(nil), "")

	b.kinds = map[string]bool{}
	if _, problems := b.compile("subscription", ""); !problems.HasErrors() {
		t.Error("a subscription without an identity compiles")
	}
}

func TestRateLimit(t *testing.T) {
	b := newTestbed(t)
	b.kinds["key-auth"] = true
	acme, bistro := b.application("acme"), b.application("bistro")
	c := b.check("rate-limit", `{requests: 3, period: 1m}`)
	call := func(a *consumer.Application, at time.Duration) (*Exchange, reason.Verdict) {
		x := b.call("GET /")
		x.Application, x.Now = a, b.now.Add(at)
		return x, c.Check(x)
	}
	for i := range 3 {
		x, v := call(acme, 0)
		wants(t, v, "")
		if left := x.Tightest.Left; left != int64(2-i) {
			t.Errorf("after call %d: %d left", i+1, left)
		}
		if h, _ := x.Extra.Lookup("RateLimit-Policy"); h != `"rate-limit";q=3;w=60` {
			t.Errorf("RateLimit-Policy %q", h)
		}
	}
	x, v := call(acme, 0)
	wants(t, v, "rate-limit.exceeded", `application "acme" used all 3 calls per 1m`, "wait 20 s")
	if got, _ := x.Extra.Lookup("Retry-After"); got != "20" {
		t.Errorf("Retry-After %q", got)
	}
	_, v = call(bistro, 0)
	wants(t, v, "")
	_, v = call(acme, 20*time.Second-time.Millisecond)
	wants(t, v, "rate-limit.exceeded")
	_, v = call(acme, 20*time.Second)
	wants(t, v, "")

	// Explaining spends nothing.
	for range 5 {
		x := b.call("GET /")
		x.Application, x.Explaining = bistro, true
		wants(t, c.Check(x), "")
	}
	// A call that a later check refuses is given back.
	x, v = call(bistro, 0)
	wants(t, v, "")
	x.Undo()
	for range 2 {
		_, v = call(bistro, 0)
		wants(t, v, "")
	}
	_, v = call(bistro, 0)
	wants(t, v, "rate-limit.exceeded")

	// By address, a caller has one /64; the key says where the address is from.
	b.kinds = map[string]bool{}
	c = b.check("rate-limit", `{requests: 1, period: 1m, per: address}`)
	wants(t, c.Check(b.from("2001:db8::1", "GET /")), "")
	wants(t, c.Check(b.from("2001:db8::2", "GET /")), "rate-limit.exceeded", "counted by address 2001:db8:: (the address of the connection)")
	wants(t, c.Check(b.from("2001:db8:0:1::2", "GET /")), "")
	if _, problems := b.compile("rate-limit", `{requests: 1}`); len(problems) != 1 || problems[0].Code != "rate-limit.no-identity" {
		t.Errorf("problems %v", problems)
	}
}

func TestQuota(t *testing.T) {
	b := newTestbed(t)
	c := b.check("quota", `{requests: 2, period: day, timeZone: Europe/Berlin, per: route}`)
	at := func(s string) reason.Verdict {
		now, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		x := b.call("GET /")
		x.Now = now
		return c.Check(x)
	}
	wants(t, at("2026-11-22T21:00:00Z"), "")
	wants(t, at("2026-11-22T22:00:00Z"), "")
	wants(t, at("2026-11-22T22:30:00Z"), "quota.exceeded", "it ends in 30m")
	wants(t, at("2026-11-22T23:00:00Z"), "") // midnight in Berlin

	// Of several limits the one that has least left is told, and the one that refuses.
	b = newTestbed(t)
	rate, few := b.check("rate-limit", `{requests: 3, period: 1h, per: route}`), b.check("quota", `{requests: 2, period: day, per: route}`)
	for i, want := range []string{`"quota";r=1;t=7200`, `"quota";r=0;t=7200`, `"quota";r=0;t=7200`} {
		x := b.call("GET /")
		x.Now = time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)
		v := rate.Check(x)
		if !v.Refused() {
			v = few.Check(x)
		}
		told, _ := x.Extra.Lookup("RateLimit")
		of, _ := x.Extra.Lookup("RateLimit-Policy")
		if v.Refused() != (i == 2) || told != want || of != `"quota";q=2;w=86400` || x.Extra.Count("RateLimit") != 1 {
			t.Errorf("call %d: %v, %q of %q", i+1, v, told, of)
		}
	}
	if _, problems := b.compile("quota", `{requests: 1, timeZone: Berlin}`); !problems.HasErrors() {
		t.Error("an unknown time zone compiles")
	}
}

func TestConcurrency(t *testing.T) {
	b := newTestbed(t)
	c := b.check("concurrency", `{calls: 2, per: route}`)
	first, second, third := b.call("GET /"), b.call("GET /"), b.call("GET /")
	wants(t, c.Check(first), "")
	wants(t, c.Check(second), "")
	wants(t, c.Check(third), "concurrency.exceeded", "2 calls in flight")
	third.Finish()
	first.Finish()
	first.Finish() // once is enough
	wants(t, c.Check(b.call("GET /")), "")
	wants(t, c.Check(b.call("GET /")), "concurrency.exceeded")
}

func TestCORS(t *testing.T) {
	b := newTestbed(t)
	b.route.Methods = []string{"GET", "HEAD", "PUT"}
	c := b.check("cors", `{origins: ["https://shop.test", "https://*.example.test:8443"], headers: [X-Trace], credentials: true}`)
	preflight := func(origin, method, headers string) (*Exchange, reason.Verdict) {
		x := b.call("OPTIONS /", "Origin: "+origin, "Access-Control-Request-Method: "+method, "Access-Control-Request-Headers: "+headers, "Host: api.test")
		x.Preflight = true
		return x, c.Check(x)
	}
	x, v := preflight("https://shop.test", "PUT", "x-trace, content-type")
	wants(t, v, "")
	if x.Answer == nil || x.Answer.Status != 204 {
		t.Errorf("answer %+v", x.Answer)
	}
	_, v = preflight("https://evil.test", "PUT", "")
	wants(t, v, "cors.origin", "https://evil.test")
	_, v = preflight("http://shop.test", "PUT", "")
	wants(t, v, "cors.origin", "has the scheme http instead of https")
	_, v = preflight("https://www.shop.test", "PUT", "")
	wants(t, v, "cors.origin", "by www.")
	_, v = preflight("https://shop.test", "DELETE", "")
	wants(t, v, "cors.method", "DELETE", "GET, HEAD or PUT")
	_, v = preflight("https://shop.test", "PUT", "x-trace, x-secret")
	wants(t, v, "cors.header", "x-secret")
	_, v = preflight("https://a.b.example.test:8443", "GET", "")
	wants(t, v, "")
	_, v = preflight("https://example.test:8443", "GET", "")
	wants(t, v, "cors.origin")
	wants(t, c.Check(b.call("GET /")), "")
	wants(t, c.Check(b.call("GET /", "Origin: https://evil.test")), "cors.origin")
	wants(t, c.Check(b.call("POST /", "Origin: https://shop.test", "Host: shop.test")), "")

	h := &wire.Head{Status: 403}
	h.Fields.Add("Access-Control-Allow-Origin", "*")
	c.(ResponseEditor).EditResponse(b.call("GET /", "Origin: https://shop.test"), h)
	if got, _ := h.Fields.Lookup("Access-Control-Allow-Origin"); got != "https://shop.test" || h.Fields.Count("Access-Control-Allow-Origin") != 1 {
		t.Errorf("fields %v", h.Fields)
	}
	for _, bad := range []string{`{origins: ["shop.test"]}`, `{origins: ["*"], credentials: true}`, `{origins: ["null"]}`, `{origins: ["https://shop.test/"]}`, `{}`} {
		if _, problems := b.compile("cors", bad); !problems.HasErrors() {
			t.Errorf("%s compiles", bad)
		}
	}
}

func TestFormPolicies(t *testing.T) {
	b := newTestbed(t)
	size := b.check("size", `{body: 1KiB, uri: 20, header: 200}`)
	body := func(n string) *Exchange { return b.call("POST /", "Content-Length: "+n) }
	wants(t, size.Check(body("1024")), "")
	wants(t, size.Check(body("1025")), "size.body", "1 B more than the allowed 1 KiB")
	wants(t, size.Check(b.call("GET /123456789012345678901")), "size.uri")
	wants(t, size.Check(b.call("GET /", "Cookie: "+strings.Repeat("x", 300))), "size.header", "Cookie with 300 B")

	m := b.check("method", `{allow: [GET], deny: [HEAD]}`)
	wants(t, m.Check(b.call("GET /")), "")
	wants(t, m.Check(b.call("HEAD /")), "method.not-allowed")
	x := b.call("DELETE /")
	wants(t, m.Check(x), "method.not-allowed", "GET may be used")
	if allow, _ := x.Extra.Lookup("Allow"); allow != "GET" {
		t.Errorf("Allow: %q", allow)
	}
}

func TestMaintenance(t *testing.T) {
	b := newTestbed(t)
	c := b.check("maintenance", `{until: 2026-11-22T13:00:00Z, message: moving, allow: [10.0.0.0/8]}`)
	x := b.call("GET /")
	wants(t, c.Check(x), "maintenance.active", "moving", "2026-11-22 13:00:00 UTC")
	if got, _ := x.Extra.Lookup("Retry-After"); got != "3600" {
		t.Errorf("Retry-After %q", got)
	}
	wants(t, c.Check(b.from("10.1.2.3", "GET /")), "")
	x = b.call("GET /")
	x.Now = b.now.Add(time.Hour)
	wants(t, c.Check(x), "")
}

func TestRewriting(t *testing.T) {
	b := newTestbed(t)
	made, problems := b.compile("headers", `{request: {set: {X-Env: prod}, remove: [X-Debug], rename: {X-Old: X-New}}, response: {remove: [Server]}}`)
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	o := &wire.Outgoing{}
	o.Fields.Add("X-Debug", "1")
	o.Fields.Add("x-old", "v")
	o.Fields.Add("X-Env", "spoofed")
	made.(RequestEditor).EditRequest(nil, o)
	if v, _ := o.Fields.Lookup("X-Env"); v != "prod" || len(o.Fields) != 2 {
		t.Errorf("%v", o.Fields)
	}
	// Each field is renamed once, whatever else is renamed, and what is set comes in one order.
	made, problems = b.compile("headers", `{request: {rename: {A: B, B: C, C: A, D: E}, set: {Z: "1", Y: "2", X: "3"}}}`)
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	for range 50 {
		o := &wire.Outgoing{}
		for _, n := range []string{"a", "B", "c", "D"} {
			o.Fields.Add(n, "was "+n)
		}
		made.(RequestEditor).EditRequest(nil, o)
		got := ""
		for _, f := range o.Fields {
			got += f.Name + "=" + f.Value + ";"
		}
		if want := "B=was a;C=was B;A=was c;E=was D;X=3;Y=2;Z=1;"; got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
	for _, bad := range []string{`{request: {set: {Host: x}}}`, `{request: {set: {"X Y": x}}}`, `{response: {set: {X-A: "a\r\nb: c"}}}`, `{request: {remove: [Content-Length]}}`} {
		if _, problems := b.compile("headers", bad); !problems.HasErrors() {
			t.Errorf("%s compiles", bad)
		}
	}
	for _, c := range []struct{ config, path, want string }{
		{`{strip: /public}`, "/public/a", "/a"}, {`{strip: /public}`, "/publicity", "/publicity"}, {`{strip: /public/}`, "/public", "/"},
		{`{add: /api}`, "/a", "/api/a"}, {`{match: "^/v1/(.*)$", replace: "/api/$1"}`, "/v1/x", "/api/x"},
		{`{match: "^/(.*)$", replace: "$1 x\r\nEvil: 1"}`, "/a", "/a%20x%0D%0AEvil:%201"},
	} {
		made, problems := b.compile("path", c.config)
		if problems.HasErrors() {
			t.Fatal(problems)
		}
		o := &wire.Outgoing{Path: c.path}
		made.(RequestEditor).EditRequest(nil, o)
		if o.Path != c.want {
			t.Errorf("%s on %s: %s, want %s", c.config, c.path, o.Path, c.want)
		}
	}
}

// TestKinds asks of every policy what a reader of its page expects.
func TestKinds(t *testing.T) {
	last, configs := Phase(0), map[reflect.Type]string{}
	for i, k := range All {
		if k.Phase < last {
			t.Errorf("%s stands behind a later phase", k.Name)
		}
		last = k.Phase
		if _, order, ok := KindNamed(k.Name); !ok || order != i {
			t.Errorf("%s is not found by its name", k.Name)
		}
		config := reflect.TypeOf(k.New())
		if config.Kind() != reflect.Pointer || configs[config] != "" {
			t.Errorf("%s: documents cannot decode into %v, or it is that of %q", k.Name, config, configs[config])
		}
		configs[config] = k.Name
	}
}

// TestPassingDoesNotAllocate: these checks run on every call.
func TestPassingDoesNotAllocate(t *testing.T) {
	b := newTestbed(t)
	acme := b.application("acme")
	key := b.key(acme, nil)
	plan := &consumer.Plan{Name: "p", Rate: &consumer.Rate{Requests: 1e9, Burst: 1e9, Period: time.Second}}
	b.consumers.AddPlan(plan)
	b.consumers.AddSubscription(&consumer.Subscription{Name: "s", Application: acme, API: "orders", Plan: plan, State: consumer.Active})
	checks := []Check{b.check("ip-access", `{allow: [203.0.113.0/24]}`), b.check("size", `{}`), b.check("key-auth", `{}`), b.check("subscription", ``),
		b.check("rate-limit", `{requests: 1000000000, period: 1s}`), b.check("concurrency", `{calls: 10}`)}
	for _, s := range NewPlanSteps(b.consumers.Plans(), b.memory, b.quotas, nil) {
		checks = append(checks, s.Check)
	}
	x := b.call("GET /", "X-Api-Key: "+key)
	req := x.Request
	run := func() {
		x.Reset(req, b.now)
		x.Scheme, x.Route = "https", &b.route
		x.Client = b.trust.Client(netip.AddrFrom4([4]byte{203, 0, 113, 7}), netip.Addr{}, req.Fields)
		for i, c := range checks {
			if v := c.Check(x); v.Refused() {
				t.Fatalf("check %d: %s", i, v.Reason.Code)
			}
		}
		x.Finish()
	}
	run()
	if n := testing.AllocsPerRun(200, run); n > 0 {
		t.Errorf("a call that passes allocates %v times", n)
	}
}

func sum(key string) [32]byte { return sha256.Sum256([]byte(key)) }
