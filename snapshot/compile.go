package snapshot

import (
	"cmp"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/metric"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/upstream"
	"github.com/whygate/whygate/wire"
)

// Env is what outlives revisions and is built into each of them.
type Env struct {
	Memory  *counter.Memory
	Quotas  *counter.Quotas
	Metrics *metric.Registry
	Watch   *wire.Watch
	Log     *slog.Logger
	// Before is the snapshot in use, whose upstreams are kept where nothing changed; nil for none.
	Before *Snapshot
	// Listen is an address to listen on where the documents name none, or besides those
	// that they name if AlsoListen is set.
	Listen     string
	AlsoListen bool
	// CanListen says why nothing can listen on an address, "" if something can. It is asked about addresses that Before
	// does not have.
	CanListen func(address string) (problem, hint string)
}

// Compile makes a snapshot of documents, or says everything that is wrong with them. The
// problems include warnings, which do not keep a snapshot from being made.
func Compile(set *resource.Set, env Env) (*Snapshot, resource.Problems) {
	c := &compiler{
		Snapshot: &Snapshot{Set: set, Loaded: time.Now(), Digest: set.Digest(), Upstreams: map[string]*upstream.Upstream{}, router: newRouter(), kept: map[string]policy.Kept{}},
		Env:      env,
		configs:  map[string]decoded{},
		compiled: map[string]any{},
		apis:     map[string]bool{},
		told:     map[string]bool{},
	}
	c.gateway()
	c.consumers()
	c.upstreams()
	c.listeners()
	c.counters()
	c.planSteps = policy.NewPlanSteps(c.Consumers.Plans(), env.Memory, env.Quotas, c.Shared)
	for _, d := range set.APIs {
		c.api(d)
	}
	c.lintSubscriptions()
	c.finish()
	if c.problems.HasErrors() {
		for _, u := range c.fresh {
			u.Close()
		}
		for _, k := range c.freshKept {
			k.Close()
		}
		return nil, c.problems
	}
	c.Warnings = c.problems
	return c.Snapshot, c.problems
}

type compiler struct {
	*Snapshot
	Env
	problems  resource.Problems
	configs   map[string]decoded // by where they are written
	compiled  map[string]any     // by where they are written and what they were compiled for
	planSteps []policy.Step
	apis      map[string]bool // with a subscription policy
	told      map[string]bool // problems of policies that several routes share
	local     netip.Addr      // of policy.Env
	// authorities of the listeners, for policy.Env
	authorities []*x509.Certificate
}

func (c *compiler) problem(p resource.Problem) { c.problems = append(c.problems, p) }

func (c *compiler) lint(p resource.Problem, code string) {
	p.Severity, p.Code = resource.Warning, code
	c.problem(p)
}

// source says where a field of a document is written.
func source[T any](d *resource.Document[T], field string) *reason.Source {
	return policy.SourceOf(d.Node(), field)
}

func (c *compiler) gateway() {
	if d := c.Set.Gateway; d != nil {
		c.Gateway = d.Spec
	} else {
		c.Gateway = defaults[resource.Gateway]()
	}
	c.Operator = consumer.Owner(c.Gateway.Operator)
	c.Trust = policy.NewTrust(c.Gateway.TrustedProxies)
	if d := c.Gateway.Drain; d.Stop < d.Delay+d.Deadline {
		c.lint(c.Set.Gateway.Problem("spec.drain.stop", fmt.Sprintf("the process ends %v after the signal, before calls in flight had their %v", d.Stop, d.Deadline), fmt.Sprintf("at least %v: delay and deadline together", d.Delay+d.Deadline)), "gateway.stop-before-deadline")
	}
	for _, p := range c.Gateway.TrustedProxies {
		if p.Bits() == 0 {
			c.lint(c.Set.Gateway.Problem("spec.trustedProxies", fmt.Sprintf("%v trusts everybody: any caller can choose the address that policies see", p), "name the networks of your proxies"), "gateway.trusts-everybody")
		}
	}
}

// defaults is what a kind is without a document that says otherwise.
func defaults[T any]() (v T) {
	var ps resource.Problems // required fields, which the caller fills in
	resource.Decode(resource.Node{}, &v, &ps)
	return v
}

// credential adds what a credential is recognised by.
func (c *compiler) credential(d *resource.Document[resource.Credential], cred *consumer.Credential) {
	spec := &d.Spec
	id := &consumer.Identity{Subject: d.Spec.Application, Scopes: spec.Scopes, Roles: spec.Roles, Groups: spec.Groups}
	cred.Identity = id
	var ways []string
	name := func(field, kind, name string) {
		ways = append(ways, kind)
		cred.Prefix = name
		if !c.Consumers.AddNamed(kind, name, cred) {
			c.problem(d.Problem("spec."+field, fmt.Sprintf("another Credential has the same %s %q", field[strings.IndexByte(field, '.')+1:], name), "a call must identify one application"))
		}
	}
	if k := spec.Key; k != nil {
		ways, id.Method, cred.Prefix = append(ways, "key"), "key-auth", k.Prefix
		var hash [32]byte
		hex.Decode(hash[:], []byte(k.SHA256)) // the pattern of the field saw to the form
		if !c.Consumers.AddCredential(hash, cred) {
			c.problem(d.Problem("spec.key.sha256", "another Credential has the same key", "keys must differ; make one with: whygate key new"))
		}
	}
	if b := spec.Basic; b != nil {
		id.Method, id.Subject, cred.Hash = "basic", b.Username, b.Hash
		if p, err := consumer.ParsePassword(b.Hash); err != nil {
			c.problem(d.Problem("spec.basic.hash", err.Error(), "make one with: whygate key new --basic USER"))
		} else {
			cred.Password = &p
		}
		name("basic.username", "basic", b.Username)
	}
	if h := spec.HMAC; h != nil {
		id.Method = "hmac"
		cred.Secret = c.secret(d, "spec.hmac.secret", h.Secret)
		switch public, err := policy.ParsePublicKey(cred.Secret); {
		case err != nil:
			c.problem(d.Problem("spec.hmac.secret", err.Error(), "a PEM file holds a PUBLIC KEY: Ed25519, RSA of 2048 bits or more, or ECDSA on P-256 or P-384"))
		case public != nil:
			cred.Public, cred.Secret = public, nil
		}
		name("hmac.keyId", "hmac", h.KeyID)
	}
	if t := spec.Certificate; t != nil {
		id.Method = "mtls"
		set := 0
		for _, by := range [][2]string{{"fingerprint", t.Fingerprint}, {"subject", t.Subject}, {"san", t.SAN}} {
			if by[1] != "" {
				set++
				name("certificate."+by[0], "certificate "+by[0], by[1])
			}
		}
		if set != 1 {
			c.problem(d.Problem("spec.certificate", "a certificate is recognised by one of fingerprint, subject and san", "set one of them"))
		}
		ways = append(ways[:len(ways)-set], "certificate")
	}
	if t := spec.Token; t != nil {
		id.Method = "jwt"
		name("token.client", "token", t.Issuer+" "+t.Client)
		cred.Prefix = t.Client
	}
	if len(ways) != 1 {
		c.problem(d.Problem("spec", fmt.Sprintf("a Credential has one of key, basic, hmac, certificate and token; this one has %d", len(ways)), "write a document for each; whygate key new makes one with a key"))
	}
}

// secret reads what a document says where to find.
func (c *compiler) secret(d documentOf, field string, ref resource.SecretRef) []byte {
	secret, fault := ref.Read(func(file string) string { return c.find(d, file) })
	if fault != nil {
		if fault.Field != "" {
			field += "." + fault.Field
		}
		c.problem(d.Problem(field, fault.Message, fault.Hint))
	}
	return secret
}

// documentOf is a document of any kind.
type documentOf interface {
	Problem(field, message, hint string) resource.Problem
	Resolve(path string) string
}

// read reads a file that a document names; nil if it cannot be read.
func (c *compiler) read(d documentOf, field, file string) []byte {
	b, err := resource.ReadFile(c.find(d, file), maxAuthorities)
	if err != nil {
		c.problem(d.Problem(field, fmt.Sprintf("the file cannot be read: %v", err), "the path is relative to the document"))
	}
	return b
}

// maxAuthorities is the largest file of authorities, in bytes.
const maxAuthorities = 16 << 20

// find is where a file is that a document names. A change of it is one of the documents.
func (c *compiler) find(d documentOf, file string) string {
	path := d.Resolve(file)
	c.watch(path)
	return path
}

// regular says that nothing but a file has this name: reading a pipe might never end. What is not there is for the
// reader to tell.
func (c *compiler) regular(d documentOf, field, path string) bool {
	info, err := os.Stat(path)
	if err != nil || info.Mode().IsRegular() {
		return true
	}
	c.problem(d.Problem(field, fmt.Sprintf("the file cannot be read: %s is no regular file", path), "name the file itself, not a folder, pipe or device"))
	return false
}

func (c *compiler) consumers() {
	dir := consumer.NewDirectory()
	c.Consumers = dir
	for _, d := range c.Set.Plans {
		p := &consumer.Plan{Name: d.Meta.Name, Automatic: d.Spec.Approval == "automatic", Source: source(d, "")}
		if r := d.Spec.RateLimit; r != nil {
			p.Rate = &consumer.Rate{Requests: r.Requests, Burst: cmp.Or(r.Burst, r.Requests), Period: time.Duration(r.Period), Source: source(d, "spec.rateLimit.requests")}
		}
		if q := d.Spec.Quota; q != nil {
			zone, err := time.LoadLocation(q.TimeZone)
			if err != nil {
				c.problem(d.Problem("spec.quota.timeZone", fmt.Sprintf("time zone %q is not known", q.TimeZone), "an IANA name such as Europe/Berlin"))
				zone = time.UTC
			}
			p.Quota = &consumer.Quota{Requests: q.Requests, Period: q.Period, Zone: zone, Source: source(d, "spec.quota.requests")}
		}
		dir.AddPlan(p)
	}
	for _, d := range c.Set.Applications {
		dir.AddApplication(&consumer.Application{Name: d.Meta.Name, Owner: consumer.Owner(d.Spec.Owner), Tenant: d.Spec.Tenant, Suspended: d.Spec.State == "suspended", Source: source(d, "spec.state")})
	}
	for _, d := range c.Set.Credentials {
		app := dir.Application(d.Spec.Application)
		if app == nil {
			c.missingApplication(d.Problem, d.Spec.Application)
			continue
		}
		cred := &consumer.Credential{Name: d.Meta.Name, Application: app, Revoked: d.Spec.State == "revoked",
			From: d.Spec.From.Time, Until: d.Spec.Until.Time, Source: source(d, "spec")}
		c.credential(d, cred)
		if ends(cred.From, cred.Until) {
			c.problem(d.Problem("spec.until", "the credential ends before it begins", "until is later than from"))
		} else if c.past(cred.Until) {
			c.lint(d.Problem("spec.until", "the credential has expired already", ""), "credential.expired")
		}
	}
	for _, d := range c.Set.Subscriptions {
		app, plan := dir.Application(d.Spec.Application), dir.Plan(d.Spec.Plan)
		if app == nil {
			c.missingApplication(d.Problem, d.Spec.Application)
		}
		if plan == nil {
			c.missing(d.Problem, "spec.plan", "plan", d.Spec.Plan, names(c.Set.Plans))
		}
		api := c.Set.API(d.Spec.API)
		if api == nil {
			// The issue of a subscription that outlived its API is no reason to refuse all documents.
			hint := ""
			if n := resource.Nearest(d.Spec.API, names(c.Set.APIs)); n != "" {
				hint = fmt.Sprintf("did you mean %q?", n)
			}
			c.lint(d.Problem("spec.api", fmt.Sprintf("there is no API %q, so this subscription allows nothing", d.Spec.API), hint), "subscription.no-api")
		} else {
			c.checkCover(d, api)
		}
		if from, until := d.Spec.From.Time, d.Spec.Until.Time; ends(from, until) {
			c.problem(d.Problem("spec.until", "the subscription ends before it begins", "until is later than from"))
		} else if c.past(until) && d.Spec.State == "active" {
			c.lint(d.Problem("spec.until", "the subscription has expired already", "state: expired says so"), "subscription.expired")
		}
		if app == nil || plan == nil {
			continue
		}
		dir.AddSubscription(&consumer.Subscription{Name: d.Meta.Name, Application: app, API: d.Spec.API, Version: d.Spec.Version, Stages: d.Spec.Stages,
			Plan: plan, State: consumer.State(d.Spec.State), Requested: d.Spec.Requested.Time, From: d.Spec.From.Time, Until: d.Spec.Until.Time,
			Note: d.Spec.Note, Source: source(d, "spec.state")})
	}
}

// ends says that a time of validity is empty.
func ends(from, until time.Time) bool { return !from.IsZero() && !until.IsZero() && !until.After(from) }

// isAuthority says that h can stand in a Host field (RFC 9110, section 7.2).
func isAuthority(h string) bool {
	u, err := url.Parse("//" + h)
	return err == nil && u.Host == h && u.Hostname() != "" && !strings.ContainsAny(h, `"<>\^{|}`)
}

func (c *compiler) past(t time.Time) bool { return !t.IsZero() && t.Before(c.Loaded) }

// checkCover finds subscriptions to versions and stages that do not exist.
func (c *compiler) checkCover(d *resource.Document[resource.Subscription], api *resource.Document[resource.API]) {
	if v := d.Spec.Version; v != "" && !slices.ContainsFunc(api.Spec.Versions, func(x resource.APIVersion) bool { return x.Name == v }) {
		c.lint(d.Problem("spec.version", fmt.Sprintf("API %q has no version %q, so this subscription allows nothing", api.Meta.Name, v), ""), "subscription.no-version")
	}
	for i, s := range d.Spec.Stages {
		if !slices.ContainsFunc(api.Spec.Stages, func(x resource.Stage) bool { return x.Name == s }) {
			c.lint(d.Problem(fmt.Sprintf("spec.stages[%d]", i), fmt.Sprintf("API %q has no stage %q", api.Meta.Name, s), ""), "subscription.no-stage")
		}
	}
}

func (c *compiler) lintSubscriptions() {
	for _, d := range c.Set.Subscriptions {
		if api := c.Set.API(d.Spec.API); api != nil && !c.apis[d.Spec.API] {
			c.lint(d.Problem("spec.api", fmt.Sprintf("no route of API %q has the policy subscription, so this one changes nothing", d.Spec.API), "add subscription to the policies of the API"), "subscription.unused")
		}
	}
}

// missing reports a name that no document has.
func (c *compiler) missing(at func(field, message, hint string) resource.Problem, field, kind, name string, known []string) {
	hint := ""
	if n := resource.Nearest(name, known); n != "" {
		hint = fmt.Sprintf("did you mean %q?", n)
	} else if len(known) > 0 && len(known) <= 10 {
		hint = "known: " + strings.Join(known, ", ")
	} else if len(known) == 0 {
		hint = fmt.Sprintf("write a document of kind %s%s with metadata {name: %s}", strings.ToUpper(kind[:1]), kind[1:], name)
	}
	c.problem(at(field, fmt.Sprintf("there is no %s %q", kind, name), hint))
}

// missingApplication knows what is written instead of the name of an application: that of a team or a key.
func (c *compiler) missingApplication(at func(field, message, hint string) resource.Problem, name string) {
	hint := func(what string, apps []string) {
		c.problem(at("spec.application", fmt.Sprintf("there is no application %q", name), fmt.Sprintf("%q is %s; applications are named here: %s", name, what, strings.Join(apps, ", "))))
	}
	var ofTeam []string
	for _, d := range c.Set.Applications {
		if d.Spec.Owner.Team == name {
			ofTeam = append(ofTeam, d.Meta.Name)
		}
	}
	if len(ofTeam) > 0 {
		hint("the team of applications", ofTeam)
		return
	}
	for _, d := range c.Set.Credentials {
		if d.Meta.Name == name || d.Spec.Key != nil && d.Spec.Key.Prefix == name {
			hint("a credential", []string{d.Spec.Application})
			return
		}
	}
	c.missing(at, "spec.application", "application", name, names(c.Set.Applications))
}

func names[T any](docs []*resource.Document[T]) []string {
	list := make([]string, len(docs))
	for i, d := range docs {
		list[i] = d.Meta.Name
	}
	return list
}

func (c *compiler) upstreams() {
	for _, d := range c.Set.Upstreams {
		ok := true
		for i, t := range d.Spec.Targets {
			if _, _, _, _, err := upstream.ParseTarget(t.URL); err != nil {
				message, hint := err.Error(), "such as http://10.0.0.5:8080"
				if !strings.Contains(t.URL, "://") {
					message, hint = fmt.Sprintf("the target %q has no scheme", t.URL), "write http://"+t.URL
				}
				c.problem(d.Problem(fmt.Sprintf("spec.targets[%d].url", i), message, hint))
				ok = false
			}
		}
		if !slices.ContainsFunc(d.Spec.Targets, func(t resource.Target) bool { return t.Weight > 0 }) {
			if len(d.Spec.Targets) > 0 { // else the documents say so themselves
				c.problem(d.Problem("spec.targets[0].weight", "no target of this upstream has a weight, so none gets a call", "give one of them a weight of at least 1"))
			}
			ok = false
		}
		if h := d.Spec.HostHeader; h != "" && h != "client" && h != "target" && !isAuthority(h) {
			c.problem(d.Problem("spec.hostHeader", fmt.Sprintf("%q is no Host", h), `"client", "target", or a name such as "shop.test" or "shop.test:8080"`))
		}
		if d.Spec.TLS.SkipVerify {
			c.lint(d.Problem("spec.tls.skipVerify", "certificates of this upstream are not verified: anybody on the way could answer", "set tls.ca to the authority that signed them"), "upstream.unverified")
		}
		if !ok {
			continue
		}
		for _, f := range [][2]string{{"ca", d.Spec.TLS.CA}, {"cert", d.Spec.TLS.Cert}, {"key", d.Spec.TLS.Key}} {
			if f[1] != "" {
				c.Watched = append(c.Watched, d.Resolve(f[1]))
				ok = c.regular(d, "spec.tls."+f[0], d.Resolve(f[1])) && ok
			}
		}
		if !ok {
			continue
		}
		key := upstreamKey(d)
		if c.Before != nil {
			if u := c.Before.Upstreams[d.Meta.Name]; u != nil && u.Key == key {
				c.Upstreams[d.Meta.Name] = u
				continue
			}
		}
		u, err := upstream.New(d.Meta.Name, d.Spec, source(d, "spec.targets"), d.Resolve, c.Watch, c.Log)
		if err != nil {
			c.problem(d.Problem("spec.tls", err.Error(), "the path is relative to the document"))
			continue
		}
		u.Key = key
		c.Upstreams[d.Meta.Name] = u
		c.fresh = append(c.fresh, u)
	}
}

// upstreamKey is all that an upstream was made of, files included.
func upstreamKey(d *resource.Document[resource.Upstream]) string {
	b, err := json.Marshal(d.Spec)
	if err != nil {
		panic("BUG: an upstream cannot be written: " + err.Error())
	}
	for _, f := range []string{d.Spec.TLS.CA, d.Spec.TLS.Cert, d.Spec.TLS.Key} {
		if f != "" {
			content, _ := os.ReadFile(d.Resolve(f))
			b = append(b, content...)
		}
	}
	return string(b)
}

// api compiles all routes of an API: each stage times each version times each route.
func (c *compiler) api(d *resource.Document[resource.API]) {
	spec := &d.Spec
	for i, h := range spec.Hosts {
		c.checkHost(d, fmt.Sprintf("spec.hosts[%d]", i), h)
	}
	stages := spec.Stages
	if len(stages) == 0 {
		stages = []resource.Stage{{}}
	}
	versions := spec.Versions
	if len(versions) == 0 {
		versions = []resource.APIVersion{{State: "active"}}
	}
	byDefault := defaultVersion(versions)
	for i := byDefault + 1; byDefault >= 0 && i < len(versions); i++ {
		if versions[byDefault].Default && versions[i].Default {
			c.problem(d.Problem(fmt.Sprintf("spec.versions[%d].default", i), fmt.Sprintf("version %q is the default already", versions[byDefault].Name), "calls without a version get one of them"))
		}
	}
	seen := map[string]bool{}
	for si := range stages {
		st := &stages[si]
		if st.Name != "" {
			if seen["stage "+st.Name] {
				c.problem(d.Problem(fmt.Sprintf("spec.stages[%d].name", si), fmt.Sprintf("stage %q stands here twice", st.Name), ""))
				continue
			}
			seen["stage "+st.Name] = true
			if st.Path == "" {
				st.Path = "/" + st.Name
			}
		}
		for i, h := range st.Hosts {
			c.checkHost(d, fmt.Sprintf("spec.stages[%d].hosts[%d]", si, i), h)
		}
		for vi := range versions {
			v := &versions[vi]
			if v.Name != "" {
				if key := "version " + v.Name + " of " + st.Name; seen[key] {
					c.problem(d.Problem(fmt.Sprintf("spec.versions[%d].name", vi), fmt.Sprintf("version %q stands here twice", v.Name), ""))
					continue
				} else {
					seen[key] = true
				}
			}
			m := &mounted{d: d, stage: st, stageField: fmt.Sprintf("spec.stages[%d]", si), version: v, versionField: fmt.Sprintf("spec.versions[%d]", vi), isDefault: vi == byDefault}
			if len(spec.Stages) == 0 {
				m.stageField = "spec"
			}
			if len(spec.Versions) == 0 {
				m.versionField = "spec"
			}
			c.mount(m)
		}
	}
}

// defaultVersion serves calls that ask for none: the marked one, else the last one in service.
func defaultVersion(vs []resource.APIVersion) int {
	last := -1
	for i := range vs {
		if vs[i].Default {
			return i
		}
		if vs[i].State != "retired" {
			last = i
		}
	}
	return last
}

// mounted is one stage and version of an API.
type mounted struct {
	d                        *resource.Document[resource.API]
	stage                    *resource.Stage
	version                  *resource.APIVersion
	stageField, versionField string
	isDefault                bool
	path                     string
}

func (c *compiler) mount(m *mounted) {
	spec := &m.d.Spec
	m.path = cleanMount(m.stage.Path) + cleanMount(spec.BasePath) + cleanMount(m.version.Path)
	if err := checkTemplate(m.path, false); err != "" {
		if strings.HasPrefix(m.path, "/") { // otherwise the decoder has told already
			c.problem(m.d.Problem("spec.basePath", err, ""))
		}
		m.path = "" // go on, to find what else is wrong
	}
	type located struct {
		*resource.Route
		field string
	}
	var routes []located
	for i := range spec.Routes {
		routes = append(routes, located{&spec.Routes[i], fmt.Sprintf("spec.routes[%d]", i)})
	}
	for i := range m.version.Routes {
		routes = append(routes, located{&m.version.Routes[i], fmt.Sprintf("%s.routes[%d]", m.versionField, i)})
	}
	if len(routes) == 0 {
		all := defaults[resource.Route]()
		all.Name, all.Path = "all", "/{rest...}"
		routes = append(routes, located{&all, "spec"})
	}
	var first *Route
	for _, r := range routes {
		if route := c.route(m, r.Route, r.field); route != nil && first == nil {
			first = route
		}
	}
	if first != nil {
		c.mounts = append(c.mounts, mount{path: m.path, stage: m.stage.Name, api: m.d.Meta.Name, route: first})
	}
}

// cleanMount makes "/" and "/a/" what can be joined: "" and "/a".
func cleanMount(p string) string { return strings.TrimRight(p, "/") }

// registeredMethods are those of the IANA registry that clients send, the usual ones first.
var registeredMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE",
	"ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "LABEL", "LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL",
	"MKREDIRECTREF", "MKWORKSPACE", "MOVE", "ORDERPATCH", "PROPFIND", "PROPPATCH", "QUERY", "REBIND", "REPORT", "SEARCH", "UNBIND", "UNCHECKOUT",
	"UNLINK", "UNLOCK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL"}

func (c *compiler) route(m *mounted, r *resource.Route, field string) *Route {
	spec := &m.d.Spec
	template, broken := r.Path, false
	if err := checkTemplate(template, true); err != "" {
		if strings.HasPrefix(template, "/") {
			hint := `such as "/orders/{id}" or "/files/{rest...}"`
			if strings.Contains(err, "%") {
				hint = "" // about escapes all has been said
			}
			c.problem(m.d.Problem(field+".path", err, hint))
		}
		template, broken = "/", true // go on, to find what else is wrong
	}
	route := &Route{
		Route: policy.Route{
			API: m.d.Meta.Name, Version: m.version.Name, Stage: m.stage.Name, Name: r.Name,
			Mount: m.path, Template: template,
			Owner: consumer.Owner(spec.Owner), Operator: c.Operator, Source: source(m.d, field),
			OpenPlan: c.openPlan(m), OpenStages: c.openStages(m), Versions: servingVersions(spec.Versions),
		},
		Timeout:    max(time.Duration(r.Timeout), 0),
		Legacy:     c.Gateway.LegacyStatus,
		Deprecated: m.version.State == "deprecated",
		broken:     broken,
		Hosts:      spec.Hosts,
	}
	if len(m.stage.Hosts) > 0 {
		route.Hosts = m.stage.Hosts
	}
	for i, method := range r.Methods {
		up := strings.ToUpper(method)
		if !wire.IsToken(method) || up == "CONNECT" {
			c.problem(m.d.Problem(fmt.Sprintf("%s.methods[%d]", field, i), fmt.Sprintf("%q is no method that can be routed", method), ""))
			route.broken = true
			continue
		}
		if near := resource.Nearest(up, registeredMethods); near != "" && !slices.Contains(registeredMethods, up) {
			c.lint(m.d.Problem(fmt.Sprintf("%s.methods[%d]", field, i), fmt.Sprintf("%q is no registered method, so hardly a call matches", up), "did you mean "+near+"?"), "route.method-misspelt")
		}
		route.Methods = append(route.Methods, up)
		if up == "GET" {
			route.Methods = append(route.Methods, "HEAD")
		}
	}
	route.Route.Methods = route.Methods
	if route.Name == "" {
		route.Name = strings.TrimSpace(strings.Join(r.Methods, ",") + " " + template)
	}
	if r.LegacyStatus != nil {
		route.Legacy = *r.LegacyStatus
	}
	switch spec.Strip {
	case "mount":
		route.Prefix = m.path
	case "stage":
		route.Prefix = cleanMount(m.stage.Path)
	}
	route.Strip = len(route.Prefix)
	mocked := c.policies(m, r, field, route)
	c.upstreamOf(m, r, field, route, mocked)
	if own := m.path + template; !broken && slices.Contains(route.Methods, "GET") && (own == wellKnown+"whoami" || strings.HasPrefix(own, wellKnown+"reasons/")) {
		c.lint(m.d.Problem(field+".path", "GET of this path is never matched: the gateway answers it itself", ""), "route.reserved")
	}
	if c.Metrics != nil {
		route.Stats = c.Metrics.Route(route.API, route.Version, route.Stage, route.Name)
	}
	c.Routes = append(c.Routes, route)
	c.addToRouter(m, route, field)
	return route
}

// wellKnown is where the gateway serves itself, before any route.
const wellKnown = "/.well-known/whygate/"

func servingVersions(vs []resource.APIVersion) []string {
	var list []string
	for _, v := range vs {
		if v.State != "retired" {
			list = append(list, v.Name)
		}
	}
	return list
}

func (c *compiler) openPlan(m *mounted) *consumer.Plan {
	name := m.stage.OpenPlan
	if name == "" {
		return nil
	}
	p := c.Consumers.Plan(name)
	if p == nil {
		c.missing(m.d.Problem, m.stageField+".openPlan", "plan", name, names(c.Set.Plans))
	}
	return p
}

func (c *compiler) openStages(m *mounted) []policy.OpenStage {
	var list []policy.OpenStage
	for _, s := range m.d.Spec.Stages {
		if s.Name != m.stage.Name && s.OpenPlan != "" {
			list = append(list, policy.OpenStage{Stage: s.Name, Path: cleanMount(cmp.Or(s.Path, "/"+s.Name)) + cleanMount(m.d.Spec.BasePath) + cleanMount(m.version.Path), Plan: s.OpenPlan})
		}
	}
	return list
}

// upstreamOf finds where calls of a route go. One that is mocked needs no upstream.
func (c *compiler) upstreamOf(m *mounted, r *resource.Route, field string, route *Route, mocked bool) {
	name, at := m.d.Spec.Upstream, "spec.upstream"
	for _, o := range []struct{ name, at string }{
		{m.version.Upstream, m.versionField + ".upstream"}, {m.stage.Upstream, m.stageField + ".upstream"}, {r.Upstream, field + ".upstream"},
	} {
		if o.name != "" {
			name, at = o.name, o.at
		}
	}
	switch {
	case name == "" && mocked:
		route.NoUpstream = true
	case name == "":
		at := field
		if len(m.d.Spec.Routes) > 1 && !slices.ContainsFunc(m.d.Spec.Routes, func(r resource.Route) bool { return r.Upstream != "" }) {
			at = "spec" // said once, not for every route
		}
		c.problem(m.d.Problem(at, "no upstream: neither the API nor its stage, version or route names one", "add upstream: NAME, or the policy mock, which answers without one"))
	case c.Set.Upstream(name) == nil:
		c.missing(m.d.Problem, at, "upstream", name, names(c.Set.Upstreams))
	default:
		route.Upstream = c.Upstreams[name]
	}
}

func (c *compiler) addToRouter(m *mounted, route *Route, field string) {
	if route.broken {
		return // what it would serve is not known
	}
	e := entry{route: route, methods: route.Methods, retired: m.version.State == "retired"}
	if m.version.Name != "" && m.version.Path == "" {
		e.header, e.version, e.isDefault = m.d.Spec.VersionHeader, m.version.Name, m.isDefault
	}
	route.segments = segmentsOf(m.path, route.Template)
	hosts := route.Hosts
	if len(hosts) == 0 {
		hosts = []string{""}
	}
	for _, h := range hosts {
		h = strings.ToLower(h)
		if other := c.router.add(h, route.segments, e); other != nil {
			text := "this route is never matched"
			if both := inBoth(e.methods, other.methods); len(both) < len(e.methods) {
				text = "this route is never matched for " + strings.Join(both, ", ")
			}
			p := m.d.Problem(field, fmt.Sprintf("%s: route %q of API %q serves the same calls", text, other.route.Name, other.route.API), "")
			if s := other.route.Source; s != nil {
				p.Hint = "the other one is at " + s.String()
			}
			c.problem(p)
			return
		}
		if m.path != "" && (isMountRest(route.Template) || route.Template == "/") {
			c.router.add(h, segmentsOf(m.path, ""), e) // the mount is a path too, with and without the slash
		}
		if h != "" {
			if c.router.all == nil {
				c.router.all = new(tree)
			}
			c.router.all.add(route.segments, e)
		}
	}
}

func inBoth(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(m string) bool { return !slices.Contains(b, m) })
}

// isMountRest says that a template serves everything below its mount.
func isMountRest(t string) bool { return len(t) > 1 && isRest(t[1:]) }

// segmentsOf splits a mount and a template: "/prod" and "/a/{id}" are prod, a, {id}.
func segmentsOf(mount, template string) []string {
	if mount+template == "" {
		return []string{""}
	}
	return strings.Split((mount + template)[1:], "/")
}

// checkTemplate says what is wrong with a path template, "" for nothing.
func checkTemplate(t string, parameters bool) string {
	if t == "" && !parameters {
		return ""
	}
	if t == "" || t[0] != '/' {
		return fmt.Sprintf("the path %q does not begin with /", t)
	}
	parts := strings.Split(t[1:], "/")
	seen := map[string]bool{}
	for i, s := range parts {
		switch {
		case isRest(s):
			if i < len(parts)-1 {
				return fmt.Sprintf("%s can only be the last segment", s)
			}
			fallthrough
		case isParam(s):
			if !parameters {
				return fmt.Sprintf("%s: parameters belong into the paths of routes", s)
			}
			name := strings.TrimSuffix(s[1:len(s)-1], "...")
			if !wire.IsToken(name) || seen[name] {
				return fmt.Sprintf("%s: parameters have different names of letters, digits and -", s)
			}
			seen[name] = true
		case strings.ContainsAny(s, "{}"):
			return fmt.Sprintf("the segment %q: a parameter is a whole segment, such as {id}", s)
		case s == "." || s == "..":
			return fmt.Sprintf("the segment %q never reaches a route: it is resolved before", s)
		case s == "*" || s == "**":
			return fmt.Sprintf("the segment %q is literal here; write {name} for one segment and {rest...} for all that follow", s)
		case wire.SafePath(s) != s:
			return fmt.Sprintf("the segment %q is written %q in requests", s, wire.SafePath(s))
		case strings.Contains(s, "%"):
			if err := checkEscapes(s); err != "" {
				return err
			}
		}
	}
	return ""
}

func (c *compiler) checkHost(d *resource.Document[resource.API], field, h string) {
	name := strings.ToLower(strings.TrimPrefix(h, "*."))
	if name == "" || strings.ContainsAny(name, "*/:@ ") {
		c.problem(d.Problem(field, fmt.Sprintf("%q is no host", h), `a name such as "shop.test" or "*.shop.test", without scheme and port`))
		return
	}
	r, fault := wire.ParseRequest([]byte("GET / HTTP/1.1\r\nHost: "+name+"\r\n\r\n"), &readable)
	switch {
	case fault != nil:
		c.problem(d.Problem(field, fmt.Sprintf("no call can have the host %q: %s", h, fault.Text), "names with other letters have a form of their own in DNS, which begins with xn--"))
	case r.Host != name:
		c.problem(d.Problem(field, fmt.Sprintf("no call has the host %q: it is read as %q", h, r.Host), "write "+r.Host))
	}
}

// readable bounds the requests that compiling makes up to see how they would be read.
var readable = wire.Limits{HeaderBytes: 64 << 10, HeaderCount: 10, URIBytes: 32 << 10}

// checkEscapes says why no request has a segment with these escapes: paths are brought to one form before
// they are compared.
func checkEscapes(s string) string {
	r, fault := wire.ParseRequest([]byte("GET /"+s+" HTTP/1.1\r\nHost: a\r\n\r\n"), &readable)
	switch {
	case fault != nil:
		return fmt.Sprintf("requests with the segment %q are refused: %s", s, fault.Text)
	case r.Path != "/"+s:
		return fmt.Sprintf("the segment %q never reaches a route: it is read as %q", s, r.Path[1:])
	}
	return ""
}

// mostStages bounds how many mounts of stages a refusal lists.
const mostStages = 12

// finish sorts what is searched in order and looks at the routes as a whole.
func (c *compiler) finish() {
	c.written = slices.Clone(c.mounts)
	slices.SortStableFunc(c.mounts, func(a, b mount) int { return cmp.Compare(len(b.path), len(a.path)) })
	for _, m := range c.mounts {
		if m.stage != "" {
			c.stages = append(c.stages, m.path)
		}
	}
	slices.Sort(c.stages)
	c.stages = slices.Compact(c.stages)
	if len(c.stages) > mostStages {
		c.stages = append(c.stages[:mostStages:mostStages], "…")
	}
	c.problems = unique(c.problems)
	c.problems.Sort(c.Set.Files())
}

// unique drops problems that several routes with the same policy report.
func unique(ps resource.Problems) resource.Problems {
	seen := map[resource.Problem]bool{}
	out := ps[:0]
	for _, p := range ps {
		if !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	return out
}
