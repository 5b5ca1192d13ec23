package gateway_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/snapshot"
	"github.com/whygate/whygate/whytest"
)

// refusal is a way to be refused by a running gateway.
type refusal struct {
	code     string
	policies string // of the API
	spec     string // further lines of its spec
	docs     string // further documents
	gateway  string // further lines of the Gateway's spec
	upstream string // settings
	target   func(*testing.T) string
	edit     func(*snapshot.Snapshot)
	base     string // of the API
	method   string
	path     string
	header   []string
	body     string
	send     string // instead of a proper request
	before   func(*testing.T, *whytest.Node)
	after    int // so many calls that pass
	tls      bool
	server   string // of a TLS connection that send goes through
}

// plan, subscribed and pending are documents of the tests below.
const (
	plan = "---\napiVersion: whygate/v1\nkind: Plan\nmetadata: {name: hidden-plan}\nspec: {}\n"
	auth = "  - key-auth: {}\n  - subscription"
)

func subscription(spec string) string {
	return plan + "---\napiVersion: whygate/v1\nkind: Subscription\nmetadata: {name: hidden-subscription}\nspec: {application: hidden-app, api: api, plan: hidden-plan, " + spec + "}\n"
}

// refusals provoke every reason that a caller can be told.
func refusals() []refusal {
	key, known := whytest.Consumer("hidden-app", "")
	revokedKey, revoked := whytest.Consumer("hidden-app", "  state: revoked")
	expiredKey, expired := whytest.Consumer("hidden-app", "  until: 2020-01-01")
	earlyKey, early := whytest.Consumer("hidden-app", "  from: 2099-01-01")
	otherKey, other := whytest.Consumer("other-app", "")
	suspended := strings.Replace(known, "spec: {owner", "spec: {state: suspended, owner", 1)
	k := []string{"X-Api-Key: " + key}
	wrong := key[:len(key)-1] + map[bool]string{true: "1", false: "2"}[!strings.HasSuffix(key, "1")] // with the prefix of a known one
	stages := "  stages: [{name: hidden-dev}, {name: prod}]"
	dead := func(t *testing.T) string { return closedPort(t) }
	origin := "  - cors: {origins: [\"https://hidden.test\"], headers: [X-Fine], methods: [PUT]}"
	return append([]refusal{
		{code: "request.malformed", send: "GET / HTTP/1.1\r\nHost: a\r\nBad Name: x\r\n\r\n"},
		{code: "call.unknown", path: "/.well-known/whygate/calls/01KAM3H5Q8Z9YV7C2T4XW6B0RD"},
		{code: "request.headers-too-large", header: []string{"X-Long: " + strings.Repeat("x", 40<<10)}},
		{code: "request.uri-too-long", path: "/" + strings.Repeat("x", 10<<10)},
		{code: "request.timeout", gateway: "  timeouts: {body: 200ms}", target: func(t *testing.T) string { return whytest.RawUpstream(t, waits) }, send: "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nx"},
		{code: "request.unsupported", send: "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"},
		{code: "request.expectation", header: []string{"Expect: a-miracle"}},
		{code: "request.version", send: "GET / HTTP/3.0\r\nHost: a\r\n\r\n"},
		{code: "request.plain-http-on-tls", tls: true, send: "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
		{code: "request.too-many-connections", gateway: "  limits: {connectionsPerAddress: 1}", before: func(t *testing.T, n *whytest.Node) {
			nc, err := net.Dial("tcp", n.Addr())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { nc.Close() })
			whytest.Eventually(t, "the connection is open", func() bool { return n.Server().Conns() == 1 })
		}, send: "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
		{code: "request.misdirected", tls: true, server: "shop.test", send: "GET / HTTP/1.1\r\nHost: other.test\r\n\r\n"},
		{code: "route.none", base: "/hidden-base", policies: auth, docs: known, path: "/hidden-bas/x"},
		{code: "route.method", spec: "  routes: [{path: /x, methods: [PUT]}]", path: "/x"},
		{code: "route.slash", spec: "  routes: [{path: /x}]", path: "/x/"},
		{code: "route.stage-missing", spec: stages, path: "/x", header: []string{"Host: shop.test", "Referer: http://shop.test/prod/"}},
		{code: "route.prefix-doubled", spec: stages + "\n  routes: [{path: /x}]", path: "/prod/prod/x"},
		{code: "route.case", spec: "  routes: [{path: /items}]", path: "/Items"},
		{code: "route.host", spec: "  hosts: [shop.test]"},
		{code: "route.version-unknown", spec: "  versions: [{name: v1}]", header: []string{"Api-Version: v7"}},
		{code: "route.version-retired", spec: "  versions: [{name: v1, state: retired}, {name: v2}]", header: []string{"Api-Version: v1"}},
		{code: "maintenance.active", policies: "  - maintenance: {until: 2099-01-01, message: moving}"},
		{code: "ip-access.denied", policies: "  - ip-access: {deny: [127.0.0.0/8]}"},
		{code: "ip-access.not-allowed", policies: "  - ip-access: {allow: [198.51.100.0/24]}"},
		{code: "cors.origin", policies: origin, header: []string{"Origin: https://evil.test"}},
		{code: "cors.method", policies: origin, method: "OPTIONS", header: []string{"Origin: https://hidden.test", "Access-Control-Request-Method: DELETE"}},
		{code: "cors.header", policies: origin, method: "OPTIONS", header: []string{"Origin: https://hidden.test", "Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: x-bad"}},
		{code: "method.not-allowed", policies: "  - method: {allow: [PUT]}"},
		{code: "size.body", policies: "  - size: {body: 10B}", method: "POST", body: "more than ten bytes"},
		{code: "size.header", policies: "  - size: {header: 100B}", header: []string{"X-Long: " + strings.Repeat("x", 200)}},
		{code: "size.uri", policies: "  - size: {uri: 10B}", path: "/0123456789"},
		{code: "waf.blocked", policies: "  - waf: {}", path: "/?q=1%27+OR+%271%27=%271", header: []string{"Host: shop.test"}},
		{code: "waf.body-unreadable", policies: "  - waf: {}", method: "POST", body: "{", header: []string{"Content-Type: application/json"}},
		{code: "waf.response", policies: "  - waf: {threshold: 100, responses: inspect}", header: []string{"Host: shop.test"}, target: func(t *testing.T) string {
			return whytest.Script(t, always("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 121\r\n\r\n"+leak)).URL()
		}},
		{code: "key.missing", policies: auth, docs: known},
		{code: "key.repeated", policies: "  - key-auth: {query: key}", docs: known + other, path: "/?key=" + otherKey, header: k},
		{code: "key.unknown", policies: auth, docs: known, header: []string{"X-Api-Key: " + wrong}},
		{code: "key.revoked", policies: auth, docs: revoked, header: []string{"X-Api-Key: " + revokedKey}},
		{code: "key.expired", policies: auth, docs: expired, header: []string{"X-Api-Key: " + expiredKey}},
		{code: "key.not-yet-valid", policies: auth, docs: early, header: []string{"X-Api-Key: " + earlyKey}},
		{code: "application.suspended", policies: auth, docs: suspended, header: k},
		{code: "subscription.missing", policies: auth, docs: known, header: k},
		{code: "subscription.pending", policies: auth, docs: known + subscription("state: pending, requested: 2026-11-22"), header: k},
		{code: "subscription.suspended", policies: auth, docs: known + subscription("state: suspended, note: unpaid"), header: k},
		{code: "subscription.rejected", policies: auth, docs: known + subscription("state: rejected"), header: k},
		{code: "subscription.expired", policies: auth, docs: known + subscription("state: active, until: 2020-01-01"), header: k},
		{code: "subscription.not-yet-valid", policies: auth, docs: known + subscription("state: active, from: 2099-01-01"), header: k},
		{code: "subscription.elsewhere", policies: auth, spec: stages, path: "/prod/", docs: known + subscription("state: active, stages: [hidden-dev]"), header: k},
		{code: "rate-limit.exceeded", policies: "  - rate-limit: {requests: 2, period: 1h}", after: 2},
		{code: "quota.exceeded", policies: "  - quota: {requests: 1, period: month}", after: 1},
		{code: "concurrency.exceeded", policies: "  - concurrency: {calls: 1}", target: func(t *testing.T) string { return whytest.RawUpstream(t, waits) }, before: func(t *testing.T, n *whytest.Node) {
			nc, err := net.Dial("tcp", n.Addr())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { nc.Close() })
			io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			whytest.Eventually(t, "the call is in flight", func() bool { return n.Snapshot().Upstreams["up"].Targets()[0].InFlight() == 1 })
		}},
		{code: "upstream.unresolved", target: func(*testing.T) string { return "no..name:80" }},
		{code: "upstream.unreachable", target: dead},
		{code: "upstream.timeout", target: func(t *testing.T) string { return whytest.RawUpstream(t, waits) }},
		{code: "upstream.broken", target: func(t *testing.T) string { return whytest.RawUpstream(t, says("")) }},
		{code: "upstream.tls", target: func(t *testing.T) string {
			return "https://" + whytest.RawUpstream(t, then("", func(nc net.Conn, _ *bufio.Reader) { io.WriteString(nc, "plain\r\n\r\n") }))
		}},
		{code: "upstream.ejected", upstream: "ejection: {failures: 1, most: 100}, ", target: dead, before: func(t *testing.T, n *whytest.Node) { n.Call("GET", "/", "") }},
		{code: "upstream.breaker-open", upstream: "breaker: {calls: 1}, ", target: dead, before: func(t *testing.T, n *whytest.Node) { n.Call("GET", "/", "") }},
		{code: "upstream.overloaded", upstream: "connections: {max: 1, queue: 0}, ", target: func(t *testing.T) string { return whytest.RawUpstream(t, waits) }, before: func(t *testing.T, n *whytest.Node) {
			nc, err := net.Dial("tcp", n.Addr())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { nc.Close() })
			io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			whytest.Eventually(t, "the call is in flight", func() bool { return n.Snapshot().Upstreams["up"].Targets()[0].InFlight() == 1 })
		}},
		{code: "answer.not-transformed", policies: "  - mask: {fields: [a]}", target: func(t *testing.T) string {
			return whytest.RawUpstream(t, says("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{"))
		}},
		{code: "cache.only-if-cached", policies: "  - cache: {}", header: []string{"Cache-Control: only-if-cached"}},
		{code: "mock.no-such-answer", policies: "  - mock: {answers: [{body: hello}]}", header: []string{"Prefer: code=404"}},
		{code: "transform.not-json", policies: "  - transform: {request: {body: {remove: [hidden]}}}", method: "POST", body: "{", header: []string{"Content-Type: application/json"}},
		{code: "transform.content-type", policies: "  - transform: {request: {body: {remove: [hidden]}}}", method: "POST", body: "a=b"},
		{code: "transform.path", policies: "  - transform: {request: {path: \"/{query.hidden}\"}}"},
		{code: "content.too-large", policies: "  - transform: {request: {body: {remove: [hidden]}}, maxBody: 1KiB}", method: "POST", body: strings.Repeat("x", 2000)},
		{code: "node.memory", before: func(_ *testing.T, n *whytest.Node) { n.Shed(&gateway.Strain{Used: 1 << 30, Limit: 1 << 30}) }},
		{code: "gateway.panic", edit: panicking("a hidden cause")},
		// cors.preflight is told where no policy cors stands before the key.
		{code: "cors.preflight", policies: auth, docs: known, method: "OPTIONS", header: []string{"Origin: https://shop.test", "Access-Control-Request-Method: PUT"}},
	}, methodRefusals()...)
}

// panicking puts a check that panics before all others of every route.
func panicking(text string) func(*snapshot.Snapshot) {
	return func(s *snapshot.Snapshot) {
		for _, r := range s.Routes {
			r.Steps = slices.Insert(r.Steps, 0, policy.Step{Check: panics(text), Name: "test", Kind: "test"})
		}
	}
}

type panics string

func (p panics) Check(*policy.Exchange) reason.Verdict { panic(string(p)) }

// provoke starts a gateway that refuses, and gets the answer. disclosure is for everybody.
func (c *refusal) provoke(t *testing.T, engine, disclosure, extra string, header ...string) (*whytest.Node, whytest.Answer) {
	t.Helper()
	target := "http://" + closedPort(t)
	if c.target != nil {
		if target = c.target(t); !strings.Contains(target, "://") {
			target = "http://" + target
		}
	} else if c.after > 0 {
		target = whytest.Script(t, always(ok)).URL()
	}
	base := "/"
	if c.base != "" {
		base = c.base
	}
	spec := fmt.Sprintf("  disclosure: {anonymous: %s, caller: %s, owner: %s}\n%s\n%s\n", disclosure, disclosure, disclosure, c.gateway, extra)
	docs := whytest.GatewayDocument(engine, spec)
	if c.tls {
		docs = strings.TrimSuffix(secured(t, whytest.NewAuthority(t), engine, spec), "---\n")
	}
	settings := c.upstream + quick
	if strings.Contains(c.upstream, "breaker:") {
		settings = strings.Replace(settings, ", breaker: {rate: 0}", "", 1)
	}
	docs += "---\n" + upstreamSpec(whytest.API(target, base, c.policies), settings) + c.spec + "\n" + c.docs
	n := whytest.Start(t, engine, "")
	n.Edit = c.edit
	if ps := n.Apply(docs); ps.HasErrors() {
		t.Fatalf("%s: %v", c.code, ps)
	}
	if c.before != nil {
		c.before(t, n)
	}
	for range c.after {
		if a := n.Call("GET", "/", ""); a.StatusCode != 200 {
			t.Fatalf("%s came too early: %d", c.code, a.StatusCode)
		}
	}
	if c.send != "" {
		addr := n.Addresses()[0]
		if c.tls {
			addr = n.Addresses()[1]
		}
		nc, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(patience))
		if c.server != "" {
			nc = tls.Client(nc, &tls.Config{ServerName: c.server, InsecureSkipVerify: true})
		}
		io.WriteString(nc, c.send)
		res, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil {
			t.Fatalf("%s: %v", c.code, err)
		}
		b, _ := io.ReadAll(res.Body)
		return n, whytest.Answer{Response: res, Body: string(b)}
	}
	method, path := c.method, c.path
	if method == "" {
		method = "GET"
	}
	if path == "" {
		path = "/"
	}
	return n, n.Call(method, path, c.body, append(slices.Clone(header), c.header...)...)
}

// problem is the body of RFC 9457, with what else stands in it.
type problem struct {
	Type, Title, Detail, Instance, Reason, Call, Wanted, Seen, Hint string
	Status                                                          int
	Fix                                                             []reason.Fix
	Facts                                                           map[string]any
	At                                                              map[string]any
}

// Every reason is told to every tier in the right form, with the fields that its status demands, and
// no tier reads what is above it.
func TestEveryReasonAtEveryTier(t *testing.T) {
	t.Parallel()
	covered := map[string]bool{
		"client.gone":  true, // nobody is left to be told; TestClientLeavesWhileWaiting
		"basic.busy":   true, // of no certain number of calls; policy/basic_test.go
		"waf.busy":     true, // likewise; policy/waf_test.go
		"call.lookups": true, // so is this; TestLookupsAreBounded
	}
	for _, c := range slices.Concat(refusals(), networkRefusals(t), contentRefusals(), authorizationRefusals(t), tokenRefusals(t)) {
		covered[c.code] = true
		if reason.ByCode(c.code) == nil {
			t.Errorf("there is no reason %s", c.code)
			continue
		}
		for _, engine := range whytest.Engines {
			if engine == "std" && strings.HasPrefix(c.code, "request.") {
				continue // compared where the parsers are
			}
			t.Run(engine+"/"+c.code, func(t *testing.T) {
				t.Parallel()
				for _, tier := range []reason.Tier{reason.ToAnyone, reason.ToCaller, reason.ToOwner, reason.ToOperator} {
					n, a := c.provoke(t, engine, tier.String(), "")
					r := reason.ByCode(c.code)
					if a.Header.Get("Whygate-Reason") != c.code {
						t.Fatalf("%d %s instead of %s: %s", a.StatusCode, a.Header.Get("Whygate-Reason"), c.code, a.Body)
					}
					checkProblem(t, n, a, r)
					rec := n.Record(a)
					if rec.Reason != c.code || int(rec.Status) != r.Status || rec.BytesOut != int64(len(a.Body)) {
						t.Errorf("record: %d %q, %d bytes", rec.Status, rec.Reason, rec.BytesOut)
					}
					d, err := gateway.DecodeDetail(rec.Detail)
					if err != nil || d.Verdict == nil {
						t.Fatalf("the record explains nothing: %v", err)
					}
					checkDisclosure(t, *d.Verdict, tier, a)
					checkRequired(t, a)
				}
			})
		}
	}
	for _, r := range reason.All() {
		if !covered[r.Code] {
			t.Errorf("no call provokes %s", r.Code)
		}
	}
}

func checkProblem(t *testing.T, n *whytest.Node, a whytest.Answer, r *reason.Reason) {
	t.Helper()
	if a.StatusCode != r.Status || a.Header.Get("Content-Type") != "application/problem+json" || a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("Whygate-Refused-By") != "gateway" ||
		a.Header.Get("X-Content-Type-Options") != "nosniff" || a.Header.Get("Date") == "" || a.ContentLength != int64(len(a.Body)) {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
	var p problem
	dec := json.NewDecoder(strings.NewReader(a.Body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		t.Fatalf("%v in %s", err, a.Body)
	}
	if p.Type != "/.well-known/whygate/reasons/"+r.Code || p.Title != r.Title || p.Status != r.Status || p.Reason != r.Code || p.Call != a.Header.Get("Whygate-Call") || p.Detail == "" {
		t.Errorf("problem %+v", p)
	}
	texts := []string{p.Detail, p.Wanted, p.Seen, p.Hint}
	for _, f := range p.Fix {
		texts = append(texts, f.Text)
	}
	if len(p.Fix) == 0 {
		t.Errorf("no remedy is told: %s", a.Body)
	}
	exclusion, _ := p.Facts["exclusion"].(string) // YAML has braces, too
	for _, text := range texts {
		if exclusion != "" {
			text = strings.ReplaceAll(text, exclusion, "")
		}
		if strings.ContainsAny(text, "{}") || strings.Contains(text, "[;") || strings.Contains(text, "%!") {
			t.Errorf("a template shows: %q", text)
		}
	}
}

// checkDisclosure searches the answer for what the tier must not read.
func checkDisclosure(t *testing.T, v reason.Verdict, tier reason.Tier, a whytest.Answer) {
	t.Helper()
	var head bytes.Buffer
	a.Header.Write(&head)
	visible := a.Header.Get("Whygate-Call") + v.Reason.Title + v.Reason.Says + v.Reason.Wanted + v.Reason.Seen + fmt.Sprint(v.Reason.Fixes)
	for _, f := range v.Facts.For(tier) {
		visible += " " + f.Text() + fmt.Sprint(v.Facts.For(tier).Values()[f.Name])
	}
	var p problem
	json.Unmarshal([]byte(a.Body), &p)
	visible += p.Instance
	hidden := 0
	for _, f := range v.Facts {
		if f.Tier <= tier {
			if _, ok := p.Facts[f.Name]; !ok {
				t.Errorf("tier %v does not see the fact %s", tier, f.Name)
			}
			continue
		}
		if _, ok := p.Facts[f.Name]; ok {
			t.Errorf("tier %v sees the fact %s", tier, f.Name)
		}
		texts := []string{f.Text()}
		if list, ok := f.Value.([]string); ok {
			texts = append(list, strings.Join(list, ", "))
		}
		for _, text := range texts {
			if len(text) < 4 || strings.Contains(visible, text) {
				continue
			}
			hidden++
			if strings.Contains(a.Body, text) || strings.Contains(head.String(), text) {
				t.Errorf("tier %v reads %s = %q, which is for %v:\n%s%s", tier, f.Name, text, f.Tier, &head, a.Body)
			}
		}
	}
	if tier < reason.ToOwner && (p.Hint != "" || p.At != nil) {
		t.Errorf("tier %v reads the hint %q and the place %v", tier, p.Hint, p.At)
	}
	if tier == reason.ToOperator && hidden != 0 {
		t.Errorf("%d facts are hidden from the operator", hidden)
	}
}

// checkRequired demands the fields that a status must have.
func checkRequired(t *testing.T, a whytest.Answer) {
	t.Helper()
	need := map[int]string{401: "Www-Authenticate", 405: "Allow", 429: "Retry-After"}[a.StatusCode]
	if need != "" && a.Header.Get(need) == "" {
		t.Errorf("%d without %s: %v", a.StatusCode, need, a.Header)
	}
	for name, values := range a.Header {
		if len(values) > 1 && name != "Vary" && name != "Www-Authenticate" { // each method has a challenge of its own
			t.Errorf("%s stands there %d times: %q", name, len(values), values)
		}
	}
}

// Both engines refuse in the same words, and the connection goes on where it can.
func TestEnginesAgreeOnRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range refusals() {
		if strings.HasPrefix(c.code, "request.") {
			continue // compared where the parsers are
		}
		t.Run(c.code, func(t *testing.T) {
			t.Parallel()
			var first problem
			for _, engine := range whytest.Engines {
				n, a := c.provoke(t, engine, "operator", "")
				var p problem
				if err := json.Unmarshal([]byte(a.Body), &p); err != nil {
					t.Fatal(err)
				}
				for _, name := range []string{"target", "hops", "now", "targets", "retry_after", "reset", "host", "error", "key", "keys", "nearest_host",
					"age", "cookie_age", "ago", "ahead", "wait", "skew", "ends_in", "expires_in"} { // the engines are asked one after the other
					delete(p.Facts, name)
				}
				p.Call, p.Detail, p.Seen, p.Wanted, p.Hint, p.Fix = "", "", "", "", "", nil
				if first.Reason == "" {
					first = p
				} else if fmt.Sprint(first) != fmt.Sprint(p) {
					t.Errorf("wire: %+v\nstd:  %+v", first, p)
				}
				if a.Close {
					t.Errorf("%s closes the connection", engine)
				}
				if n.Panics.Load() > 0 != (c.code == "gateway.panic") {
					t.Errorf("%s: %d panics", engine, n.Panics.Load())
				}
			}
		})
	}
}

// A person in a browser gets a page, in which nothing of the request is taken for markup.
func TestPage(t *testing.T) {
	const attack = `"><script>alert(1)</script>`
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		c := refusal{policies: "  - cors: {origins: [\"https://shop.test\"]}"}
		_, a := c.provoke(t, engine, "operator", "", "Accept: text/html,application/xhtml+xml,*/*;q=0.8", "Origin: https://"+attack)
		if a.StatusCode != 403 || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") || !strings.Contains(a.Header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%d %v", a.StatusCode, a.Header)
		}
		if strings.Contains(a.Body, "<script") || !strings.Contains(a.Body, "&lt;script&gt;") || !strings.Contains(a.Body, "cors.origin") || !strings.Contains(a.Body, a.Header.Get("Whygate-Call")) {
			t.Errorf("the page: %s", a.Body)
		}
		// In JSON it is a string and nothing else, whatever is made of it.
		_, a = c.provoke(t, engine, "operator", "", "Origin: https://"+attack)
		var p problem
		if err := json.Unmarshal([]byte(a.Body), &p); err != nil || p.Facts["origin"] != "https://"+attack {
			t.Errorf("%v: %s", err, a.Body)
		}
		c = refusal{policies: "  - method: {allow: [PUT]}", path: "/<script>alert(1)</script>?<script>"}
		_, a = c.provoke(t, engine, "operator", "", "Accept: text/html")
		if strings.Contains(a.Body, "<script") {
			t.Errorf("the page: %s", a.Body)
		}
		// Whoever prefers JSON gets it.
		for _, accept := range []string{"application/json", "application/json, text/html", "*/*", "", "application/problem+json;q=1, text/html;q=0.5"} {
			if _, a = c.provoke(t, engine, "anonymous", "", "Accept: "+accept); a.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("Accept: %s got %s", accept, a.Header.Get("Content-Type"))
			}
		}
	})
}

// Estates that expect 403 for everything get it, for what policies refuse; the record keeps the reason.
func TestLegacyStatus(t *testing.T) {
	t.Parallel()
	for _, c := range refusals() {
		if c.send != "" || strings.HasPrefix(c.code, "subscription.") || strings.HasPrefix(c.code, "key.") && c.code != "key.missing" {
			continue // one of a kind is enough
		}
		t.Run(c.code, func(t *testing.T) {
			t.Parallel()
			r := reason.ByCode(c.code)
			want := 403
			family, _, _ := strings.Cut(c.code, ".")
			if slices.Contains([]string{"request", "route", "upstream", "gateway", "call"}, family) || r.Status >= 500 {
				want = r.Status
			}
			n, a := c.provoke(t, "wire", "anonymous", "  legacyStatus: true")
			rec := n.Record(a)
			if a.StatusCode != want || int(rec.Status) != want || rec.Reason != c.code || !strings.Contains(a.Body, fmt.Sprintf(`"status": %d`, want)) {
				t.Errorf("%d, record: %d %q: %s", a.StatusCode, rec.Status, rec.Reason, a.Body)
			}
			if r.Status == 429 && a.Header.Get("Retry-After") == "" {
				t.Error("Retry-After is missing")
			}
		})
	}
	// A route decides for itself.
	c := refusal{policies: "  - key-auth: {}", spec: "  routes: [{path: /old}, {path: /new, legacyStatus: false}]"}
	for path, want := range map[string]int{"/old": 403, "/new": 401} {
		c.path = path
		if _, a := c.provoke(t, "wire", "anonymous", "  legacyStatus: true"); a.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, a.StatusCode, want)
		}
	}
}

// A body that turns out to be too large on its way is refused like one that said so.
func TestLegacyStatusOfStreamedBody(t *testing.T) {
	up := whytest.RawUpstream(t, waits)
	n := whytest.Start(t, "wire", whytest.GatewayDocument("wire", "  legacyStatus: true\n")+"---\n"+whytest.API("http://"+up, "/", "  - size: {body: 10B}"))
	req, _ := http.NewRequest("POST", n.URL("/"), io.MultiReader(strings.NewReader("more than ten bytes")))
	a := n.Do(req)
	rec := n.Record(a)
	if a.StatusCode != 403 || rec.Status != 403 || rec.Check != "size" || rec.Step == 0 || a.Header.Get("Whygate-Reason") != "size.body" {
		t.Errorf("%d, record: %d by %q, step %d", a.StatusCode, rec.Status, rec.Check, rec.Step)
	}
}

// A refused HEAD has the head of a refusal and no body, and the connection goes on.
func TestRefusedHead(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		n := whytest.Start(t, engine, whytest.API("http://"+closedPort(t), "/", "  - key-auth: {}"))
		raw := n.Raw("HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 2*time.Second)
		r := bufio.NewReader(strings.NewReader(raw))
		head, err := http.ReadResponse(r, &http.Request{Method: "HEAD"})
		if err != nil {
			t.Fatal(err)
		}
		get, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%v in %q", err, raw)
		}
		b, _ := io.ReadAll(get.Body)
		if head.StatusCode != 401 || get.StatusCode != 401 || head.ContentLength != get.ContentLength || int64(len(b)) != get.ContentLength {
			t.Errorf("HEAD: %d, %d bytes; GET: %d, %d bytes of %d", head.StatusCode, head.ContentLength, get.StatusCode, get.ContentLength, len(b))
		}
		if rec := n.Record(whytest.Answer{Response: head}); rec.BytesOut != 0 {
			t.Errorf("record: %d bytes", rec.BytesOut)
		}
	})
}

// Pages of the web can read why their call was refused, failed or limited.
func TestCORSOnRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range refusals() {
		family, _, _ := strings.Cut(c.code, ".")
		if family == "request" || family == "route" || family == "cors" || family == "maintenance" || family == "ip-access" || family == "call" || family == "node" {
			continue // before any policy cors
		}
		t.Run(c.code, func(t *testing.T) {
			t.Parallel()
			c.policies += "\n  - cors: {origins: [\"https://shop.test\"], credentials: true}"
			_, a := c.provoke(t, "wire", "anonymous", "", "Origin: https://shop.test")
			if a.Header.Get("Whygate-Reason") != c.code {
				t.Fatalf("%s instead of %s", a.Header.Get("Whygate-Reason"), c.code)
			}
			expose := a.Header.Get("Access-Control-Expose-Headers")
			if a.Header.Get("Access-Control-Allow-Origin") != "https://shop.test" || a.Header.Get("Access-Control-Allow-Credentials") != "true" || a.Header.Get("Vary") != "Origin" ||
				!strings.Contains(expose, "Whygate-Reason") || !strings.Contains(expose, "Retry-After") {
				t.Errorf("%v", a.Header)
			}
		})
	}
}

// A preflight is answered by the route that the page wants to call, whatever less specific route serves OPTIONS.
func TestPreflightFindsItsRoute(t *testing.T) {
	t.Parallel()
	up := whytest.Script(t, always(ok))
	docs := whytest.API(up.URL(), "/", "") + `  routes:
  - {path: "/orders/{id}", methods: [GET, PUT], policies: [cors: {origins: ["https://shop.test"], methods: [PUT]}]}
  - {path: "/orders/{id}", methods: [OPTIONS, DELETE]}
  - {path: "/items/{id}", methods: [GET, PUT], policies: [cors: {origins: ["https://shop.test"], methods: [PUT]}]}
  - {path: "/plain/{id}", methods: [PUT]}
  - {path: "/{rest...}"}
`
	n := whytest.Start(t, "wire", docs)
	for _, c := range []struct {
		path, method string
		status       int // 204 is of the policy, 200 of the upstream
	}{{"/items/7", "PUT", 204}, {"/orders/7", "PUT", 200}, {"/items/7", "DELETE", 200}, {"/plain/7", "PUT", 200}, {"/other", "PUT", 200}} {
		a := n.Call("OPTIONS", c.path, "", "Origin: https://shop.test", "Access-Control-Request-Method: "+c.method)
		if a.StatusCode != c.status || (a.Header.Get("Access-Control-Allow-Methods") != "") != (c.status == 204) {
			t.Errorf("%s %s: %d %v", c.method, c.path, a.StatusCode, a.Header)
		}
	}
	if a := n.Call("OPTIONS", "/items/7", "", "Origin: https://shop.test"); a.StatusCode != 200 {
		t.Errorf("OPTIONS that is no preflight: %d", a.StatusCode)
	}
}

// 429 says exactly when to come back, and how the limit stands.
func TestRetryAfterHolds(t *testing.T) {
	t.Parallel()
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always(ok))
		n := whytest.Start(t, engine, whytest.API(up.URL(), "/", "  - rate-limit: {requests: 2, period: 4s}\n    name: per-address"))
		for left := 1; left >= 0; left-- {
			a := n.Call("GET", "/", "")
			if a.StatusCode != 200 || a.Header.Get("RateLimit-Policy") != `"per-address";q=2;w=4` || !strings.HasPrefix(a.Header.Get("RateLimit"), fmt.Sprintf(`"per-address";r=%d;t=`, left)) {
				t.Errorf("%d, %q, %q", a.StatusCode, a.Header.Get("RateLimit-Policy"), a.Header.Get("RateLimit"))
			}
		}
		a := n.Call("GET", "/", "")
		var p problem
		json.Unmarshal([]byte(a.Body), &p)
		wait, _ := p.Facts["retry_after"].(float64)
		if a.StatusCode != 429 || a.Header.Get("Retry-After") != "2" || wait < 1.5 || wait > 2 || !strings.HasPrefix(a.Header.Get("RateLimit"), `"per-address";r=0;t=`) {
			t.Fatalf("%d, Retry-After %q, %v s, %q", a.StatusCode, a.Header.Get("Retry-After"), wait, a.Header.Get("RateLimit"))
		}
		told := time.Now()
		time.Sleep(time.Until(told.Add(time.Duration(wait*1e9) - 200*time.Millisecond)))
		if a := n.Call("GET", "/", ""); a.StatusCode != 429 {
			t.Errorf("200 ms too early: %d", a.StatusCode)
		}
		time.Sleep(time.Until(told.Add(time.Duration(wait * 1e9))))
		if a := n.Call("GET", "/", ""); a.StatusCode != 200 {
			t.Errorf("at the time that was told: %d", a.StatusCode)
		}
	})
}

// What a policy takes is given back when a later one refuses; explaining what the rest would have
// said changes nothing of the answer.
func TestRefusalsSpendNothing(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Script(t, always(ok))
		policies := "  - rate-limit: {requests: 5, period: 1h}\n    name: first\n  - quota: {requests: 5}\n    name: second\n  - rate-limit: {requests: 1, period: 1h, per: route}\n    name: third\n  - rate-limit: {requests: 1, period: 1h, per: route}\n    name: fourth"
		n := whytest.Start(t, engine, whytest.API(up.URL(), "/", policies))
		if a := n.Call("GET", "/", ""); a.StatusCode != 200 {
			t.Fatal(a.StatusCode)
		}
		for range 10 {
			a := n.Call("GET", "/", "")
			if a.StatusCode != 429 || a.Header.Get("RateLimit-Policy") != `"third";q=1;w=3600` || len(a.Header["Retry-After"]) != 1 || len(a.Header["Ratelimit"]) != 1 {
				t.Fatalf("%d %v", a.StatusCode, a.Header)
			}
			if rec := n.Record(a); rec.Check != "third" {
				t.Fatalf("refused by %q", rec.Check)
			}
		}
	})
}

// A Retry-After accompanies failures that tell when to come back.
func TestRetryAfterOfFailures(t *testing.T) {
	for _, c := range refusals() {
		if c.code == "upstream.ejected" || c.code == "upstream.breaker-open" {
			if _, a := c.provoke(t, "wire", "anonymous", ""); a.Header.Get("Retry-After") == "" {
				t.Errorf("%s without Retry-After", c.code)
			}
		}
	}
}

// --- no answer from 400 up without a reason ---

// function is a function of a package and what it calls.
type function struct {
	file  string
	calls map[string]bool // names behind the last dot
}

func functions(t *testing.T, dir string) (map[string]*function, []*ast.File, *token.FileSet) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no Go files in %s: %v", dir, err)
	}
	fset, all := token.NewFileSet(), map[string]*function{}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
		for _, d := range f.Decls {
			fd, ok := d.(*ast.FuncDecl)
			if !ok || fd.Body == nil {
				continue
			}
			fn := &function{file: filepath.Base(name), calls: map[string]bool{}}
			ast.Inspect(fd.Body, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr: // called, or kept to be called
					fn.calls[n.Sel.Name] = true
				case *ast.CallExpr:
					if id, ok := n.Fun.(*ast.Ident); ok {
						fn.calls[id.Name] = true
					}
				}
				return true
			})
			name := fd.Name.Name
			if fd.Recv != nil {
				star := fd.Recv.List[0].Type
				if s, ok := star.(*ast.StarExpr); ok {
					star = s.X
				}
				if g, ok := star.(*ast.IndexExpr); ok { // of a generic type
					star = g.X
				}
				name = star.(*ast.Ident).Name + "." + name
			}
			all[name] = fn
		}
	}
	return all, files, fset
}

// callers are the functions that mention a name.
func callers(all map[string]*function, name string) (list []string) {
	for f, fn := range all {
		if fn.calls[name] {
			list = append(list, f)
		}
	}
	slices.Sort(list)
	return list
}

// This test proves that the data plane cannot answer 400 or more without a reason. It follows the
// only way to an answer backwards: Respond is called in three places; two relay what an upstream
// said, the third is send; and whoever calls send with a status of its own gets that from a reason.
func TestNoRefusalWithoutReason(t *testing.T) {
	all, files, fset := functions(t, ".")
	for _, c := range []struct {
		callee  string
		callers []string
		why     string
	}{
		{"Respond", []string{"call.relay", "call.send", "call.tunnel"}, "the only ways to begin an answer: relay and tunnel pass on an upstream's status"},
		{"send", []string{"call.answerItself", "call.wellKnown", "call.write"}, "write takes a verdict, wellKnown answers below 400, and answerItself what a policy gives"},
		{"write", []string{"call.failed", "call.refuseAt"}, "both record the reason of their verdict"},
	} {
		if got := callers(all, c.callee); !slices.Equal(got, c.callers) {
			t.Errorf("%s is called by %v, and not by %v alone: %s", c.callee, got, c.callers, c.why)
		}
	}
	for _, name := range []string{"call.write", "call.failed", "call.refuseAt"} {
		if all[name] == nil || all[name].file != "answer.go" {
			t.Errorf("%s does not stand in answer.go", name)
		}
	}
	// The status of every head that is made in this package.
	statuses := map[string]string{}
	for _, f := range files {
		for _, d := range f.Decls {
			fd, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(fd, func(n ast.Node) bool {
				if kv, ok := n.(*ast.KeyValueExpr); ok {
					if id, ok := kv.Key.(*ast.Ident); ok && id.Name == "Status" {
						if _, isReason := kv.Value.(*ast.BasicLit); !isReason || fd.Name.Name == "wellKnown" {
							statuses[fd.Name.Name] = text(fset, kv.Value)
						}
					}
				}
				if as, ok := n.(*ast.AssignStmt); ok {
					for i, l := range as.Lhs {
						if s, ok := l.(*ast.SelectorExpr); ok && s.Sel.Name == "Status" && text(fset, s.X) == "h" {
							statuses[fd.Name.Name+" again"] = text(fset, as.Rhs[i])
						}
					}
				}
				return true
			})
		}
	}
	delete(statuses, "malformed")
	want := map[string]string{
		"write":        "status", // of the verdict's reason, or 403 where legacyStatus says so: see statusOf
		"write again":  "200",    // gRPC carries it in grpc-status
		"answerItself": "a.Status",
		"cut again":    "206", // a part of an answer that was 200
		"wellKnown":    "200",
		"passOn":       "res.Status",
		"tell":         "int(rec.Status)", // of a recorded call, in the body of an answer
		"attribute":    "res.Status",      // of the upstream's answer, for the doctor
	}
	for name, value := range want {
		if statuses[name] != value {
			t.Errorf("%s answers with status %q, want %q", name, statuses[name], value)
		}
	}
	for name, value := range statuses {
		if want[name] == "" && name != "About" {
			t.Errorf("%s makes an answer with status %s: is there a reason?", name, value)
		}
	}
	// What policies answer by themselves is no refusal.
	_, files, fset = functions(t, "../policy")
	answers := 0
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			lit, ok := n.(*ast.CompositeLit)
			if !ok || text(fset, lit.Type) != "Answer" {
				return true
			}
			answers++
			if strings.Contains(text(fset, lit), "By:") { // it stands for the upstream, whose refusals have no reason of ours
				return true
			}
			for _, e := range lit.Elts {
				if kv, ok := e.(*ast.KeyValueExpr); ok && text(fset, kv.Key) == "Status" {
					if s := text(fset, kv.Value); len(s) != 3 || s[0] != '2' {
						t.Errorf("%s: a policy answers %s by itself; a refusal is a verdict", fset.Position(n.Pos()), s)
					}
				}
			}
			return true
		})
	}
	if answers == 0 {
		t.Error("no policy answers by itself any more: this part of the test shows nothing")
	}
	// Below, wire writes the status that it is given, and has none of its own.
	all, files, fset = functions(t, "../wire")
	if got := callers(all, "appendStatus"); !slices.Equal(got, []string{"conn.inform", "conn.respond"}) {
		t.Errorf("status lines are written by %v", got)
	}
	if got := callers(all, "WriteHeader"); !slices.Equal(got, []string{"stdStream.inform", "stdStream.respond"}) {
		t.Errorf("net/http is given a status by %v", got)
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && (strings.Contains(lit.Value, "HTTP/1.1 4") || strings.Contains(lit.Value, "HTTP/1.1 5")) {
				t.Errorf("%s: a refusal is written without a reason: %s", fset.Position(n.Pos()), lit.Value)
			}
			return true
		})
	}
}

// text is an expression as it is written.
func text(fset *token.FileSet, e ast.Node) string {
	if e == nil {
		return ""
	}
	from, to := fset.Position(e.Pos()), fset.Position(e.End())
	b, err := os.ReadFile(from.Filename)
	if err != nil {
		return err.Error()
	}
	return string(b[from.Offset:to.Offset])
}
