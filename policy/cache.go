package policy

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// Cache keeps answers in memory and gives them again, as a shared cache does (RFC 9111).
//
// It decides last: every call is checked by all other policies, also one that is answered from the
// cache. What may be kept and how long is said by the upstream in Cache-Control and Expires; TTL is for
// answers that say nothing. Never kept are answers that are private, set cookies, are partial, vary
// by everything or by credentials, are streams of events, or are larger than MaxAnswer. A call with credentials (an
// identified application or subject, Authorization, a cookie) is answered from the cache only with
// what the upstream declared for everybody: public, s-maxage or must-revalidate (§3.5).
//
// What has become stale is asked about (If-None-Match, If-Modified-Since), and calls for the same thing
// that come while it is fetched wait for it. A call with an unsafe method, such as POST, that succeeds
// removes what is kept for its URL. Cache-Status (RFC 9211) and the call's record say hit, miss, and
// why not. Clients' own Cache-Control is heeded; so are their conditions, which are answered from the
// cache with 304, and a single Range, which is cut out of what is kept.
//
// What is stale is given while the upstream fails (it cannot be reached, or answers 500, 502, 503 or 504), and to calls
// that come while another one asks for it anew: as long as the upstream allows that, by stale-if-error and
// stale-while-revalidate (RFC 5861), or else the settings of those names. It is never given where the answer says
// must-revalidate, proxy-revalidate or no-cache, nor by the settings where it says s-maxage.
//
// Each node has a cache of its own, which survives new revisions and not a restart. whygate cache purge takes answers
// out of it. Answers pass
// transform, mask and compress each time they are given.
//
//	policies:
//	- cache: {size: 64MiB, ttl: 30s}
type Cache struct {
	// Size is the memory for all answers of this policy.
	Size resource.Size `json:"size" default:"64MiB" min:"1"`
	// MaxAnswer is the largest answer that is kept.
	MaxAnswer resource.Size `json:"maxAnswer" default:"1MiB" min:"1"`
	// TTL is how long answers without a word about it are kept; 0 keeps none of them. It does not
	// hold for calls with credentials.
	TTL resource.Duration `json:"ttl" default:"0s" example:"30s"`
	// Statuses that TTL holds for.
	Statuses []int `json:"statuses" default:"[200, 203, 301, 308, 404, 410]" min:"200" max:"599"`
	// SortQuery makes ?b=1&a=2 the same as ?a=2&b=1.
	SortQuery bool `json:"sortQuery" default:"true"`
	// Ignore are query parameters that make no difference; a star at the end stands for anything.
	Ignore []string `json:"ignore" example:"[utm_*]"`
	// StaleIfError is how long after its end an answer is given while the upstream fails, where it says nothing itself.
	StaleIfError resource.Duration `json:"staleIfError" default:"0s" example:"1h"`
	// StaleWhileRevalidate is how long after its end an answer is given at once to calls that come while another one
	// asks for it anew, where it says nothing itself.
	StaleWhileRevalidate resource.Duration `json:"staleWhileRevalidate" default:"0s" example:"30s"`
	// Wait is how long calls wait for another one that fetches the same; 0 has each fetch for itself.
	Wait resource.Duration `json:"wait" default:"5s"`
}

// maxCacheWait bounds Wait.
const maxCacheWait = 30 * time.Second

var cacheOnly = reason.New(reason.Reason{
	Code: "cache.only-if-cached", Status: 504,
	Title:  "Nothing is kept that would answer the call",
	Says:   "the call wants an answer from the cache only, and {why}",
	Wanted: "an answer that is kept, by Cache-Control: only-if-cached",
	Seen:   "{why}",
	Fixes:  []reason.Fix{{By: reason.Caller, Text: "leave out Cache-Control: only-if-cached, and the upstream is asked"}},
	Hint:   "RFC 9111 §5.2.1.7 has a cache answer 504 here; Cache-Status of earlier answers says why none was kept",
})

type cacheCheck struct {
	answers   *answers
	maxAnswer int64
	ttl       time.Duration
	statuses  []int
	sortQuery bool
	ignore    []string
	ifError   time.Duration // StaleIfError
	whileNew  time.Duration // StaleWhileRevalidate
	wait      time.Duration
	prefix    string
	at        *reason.Source
}

// Compile opens the cache, or takes the one that the revision before had.
func (p *Cache) Compile(env *Env) any {
	c := &cacheCheck{maxAnswer: int64(p.MaxAnswer), ttl: time.Duration(p.TTL), statuses: p.Statuses, sortQuery: p.SortQuery, wait: time.Duration(p.Wait),
		ifError: time.Duration(p.StaleIfError), whileNew: time.Duration(p.StaleWhileRevalidate), at: env.Source("")}
	if p.MaxAnswer > p.Size {
		env.Problem("maxAnswer", "a part of size", "an answer of %s does not fit into a cache of %s", reason.Bytes(p.MaxAnswer), reason.Bytes(p.Size))
	}
	if c.wait > maxCacheWait {
		env.Problem("wait", "at most "+resource.Duration(maxCacheWait).String(), "calls cannot wait %s for another one", p.Wait)
	}
	if c.ttl > 0 && env.Identifies(false) {
		env.Lint("cache.credentials", "ttl", "have the upstream answer with Cache-Control: public, or s-maxage, where all callers get the same", "ttl does not hold here: callers identify themselves on this route, and an answer may be for one of them alone")
	}
	for i, s := range p.Statuses {
		if s == 204 || s == 206 || s == 304 {
			env.Problem(index("statuses", i), "", "answers with status %d are not kept", s)
		}
	}
	for i, n := range p.Ignore {
		if n == "" || strings.Contains(strings.TrimSuffix(n, "*"), "*") {
			env.Problem(index("ignore", i), `a name, or its beginning and a star: "utm_*"`, "%q is no name of a parameter", n)
		}
		c.ignore = append(c.ignore, n)
	}
	r := env.Route
	c.prefix = strings.Join([]string{r.API, r.Version, r.Stage}, "\x00") + "\x00"
	if env.Shadow {
		c.wait = 0 // it only watches
	}
	name := fmt.Sprintf("cache %s %d %d", env.LimitName, p.Size, p.MaxAnswer)
	c.answers = env.Keep(name, func() Kept { return newAnswers(int64(p.Size), c.maxAnswer) }).(*answers)
	return c
}

// key is what an answer is kept under: which API, scheme, host, path and query.
func (c *cacheCheck) key(x *Exchange) string { return c.keyOf(x, x.Path, x.Query) }

func (c *cacheCheck) keyOf(x *Exchange, path, query string) string {
	if query != "" && (c.sortQuery && strings.IndexByte(query, '&') >= 0 || len(c.ignore) > 0) {
		parts := strings.Split(query, "&")
		parts = slices.DeleteFunc(parts, c.ignores)
		if c.sortQuery {
			slices.SortStableFunc(parts, func(a, b string) int { // the order of equal names has a meaning
				a, _, _ = strings.Cut(a, "=")
				b, _, _ = strings.Cut(b, "=")
				return cmp.Compare(a, b)
			})
		}
		query = strings.Join(parts, "&")
	}
	mark := "\x00"
	if query != "" {
		mark = "\x00?"
	}
	return x.Text(c.prefix, x.Scheme, "\x00", x.Host, ":", x.Port, "\x00", path, mark, query)
}

// ignores says that a parameter makes no difference. Some servers end parameters at a semicolon too: one
// that might hide another is not ignored.
func (c *cacheCheck) ignores(part string) bool {
	if strings.IndexByte(part, ';') >= 0 {
		return false
	}
	name, _, _ := strings.Cut(part, "=")
	for _, n := range c.ignore {
		if before, ok := strings.CutSuffix(n, "*"); ok && strings.HasPrefix(name, before) || n == name {
			return true
		}
	}
	return false
}

// directives are what Cache-Control says, as far as a shared cache has to know.
type directives struct {
	noStore, noCache, private, public, mustRevalidate, mustUnderstand, proxyRevalidate, onlyIfCached, maxStaleAny bool
	maxAge, sMaxAge, minFresh, maxStale, staleIfError, staleWhileRevalidate                                       time.Duration // -1: not said
	said                                                                                                          bool
}

// maxFresh is what longer times are cut to (RFC 9111 §1.2.2).
const maxFresh = (1 << 31) * time.Second

func control(fs wire.Fields) directives {
	d := directives{maxAge: -1, sMaxAge: -1, minFresh: -1, maxStale: -1, staleIfError: -1, staleWhileRevalidate: -1}
	for i := range fs {
		if f := &fs[i]; f.ID == wire.OtherField && wire.EqualFold(f.Name, "Cache-Control") {
			d.read(f.Value)
		}
	}
	return d
}

func (d *directives) read(v string) {
	for v != "" {
		var part string
		part, v = nextDirective(v)
		name, value, hasValue := strings.Cut(part, "=")
		name, value = strings.Trim(name, " \t"), strings.Trim(strings.Trim(value, " \t"), `"`)
		if name == "" {
			continue
		}
		d.said = true
		switch strings.ToLower(name) {
		case "no-store":
			d.noStore = true
		case "no-cache": // with field names too: a cache may take those for the whole
			d.noCache = true
		case "private":
			d.private = true
		case "public":
			d.public = true
		case "must-revalidate":
			d.mustRevalidate = true
		case "must-understand":
			d.mustUnderstand = true
		case "proxy-revalidate":
			d.proxyRevalidate = true
		case "only-if-cached":
			d.onlyIfCached = true
		case "max-age":
			d.maxAge = shorter(d.maxAge, value)
		case "s-maxage":
			d.sMaxAge = shorter(d.sMaxAge, value)
		case "stale-if-error": // RFC 5861
			d.staleIfError = shorter(d.staleIfError, value)
		case "stale-while-revalidate":
			d.staleWhileRevalidate = shorter(d.staleWhileRevalidate, value)
		case "min-fresh":
			d.minFresh = deltaSeconds(value)
		case "max-stale":
			if d.maxStale = deltaSeconds(value); !hasValue {
				d.maxStaleAny = true
			}
		}
	}
}

// nextDirective cuts at a comma that is in no quotes.
func nextDirective(v string) (part, rest string) {
	quoted := false
	for i := 0; i < len(v); i++ {
		switch {
		case quoted && v[i] == '\\':
			i++
		case v[i] == '"':
			quoted = !quoted
		case v[i] == ',' && !quoted:
			return v[:i], v[i+1:]
		}
	}
	return v, ""
}

// shorter is the shorter of two times, where a field says it twice (RFC 9111 §4.2.1).
func shorter(before time.Duration, v string) time.Duration {
	d := deltaSeconds(v)
	if before >= 0 {
		return min(before, d)
	}
	return d
}

// deltaSeconds reads a time; what is none makes an answer stale.
func deltaSeconds(v string) time.Duration {
	n, err := strconv.ParseUint(v, 10, 64)
	switch {
	case err == nil && n < 1<<31:
		return time.Duration(n) * time.Second
	case err == nil, v != "" && strings.Trim(v, "0123456789") == "":
		return maxFresh
	}
	return 0
}

// credentials says that an answer may be for this caller alone.
func credentials(x *Exchange) bool {
	if x.Application != nil || x.Identity != nil && x.Identity.Method != "anonymous" {
		return true
	}
	for i := range x.Fields {
		if id := x.Fields[i].ID; id == wire.Authorization || id == wire.Cookie {
			return true
		}
	}
	return x.TLS != nil && len(x.TLS.PeerCertificates) > 0
}

// filling is a call whose answer the cache looks at.
type filling struct {
	c      *cacheCheck
	x      *Exchange
	key    string
	status string // of Cache-Status so far: "fwd=uri-miss"
	stale  *kept  // what the upstream is asked about
	old    *kept  // what may be given if the upstream fails
	drop   bool   // the call changes what its URL stands for
	flight *flight
	next   *kept // what will be kept
	room   int64 // reserved for it
	stored bool
	failed bool // the upstream has
	era    uint64
	wants  bool // to keep the answer, if that may be
	creds  bool
}

// Check answers from the cache, or has the upstream's answer kept. It waits where another call is
// fetching the same: at most Wait, and as long as the client does.
func (c *cacheCheck) Check(x *Exchange) reason.Verdict {
	if x.Preflight || x.Upgrade != "" || strings.HasPrefix(x.Fields.Get(wire.ContentType), "application/grpc") {
		return reason.Verdict{}
	}
	key := c.key(x)
	safe := x.Method == "GET" || x.Method == "HEAD"
	if !safe {
		if !x.Explaining && x.Method != "OPTIONS" && x.Method != "TRACE" {
			c.follow(x, &filling{c: c, key: key, status: "fwd=method", drop: true})
		}
		if x.Explaining {
			return reason.Pass(reason.Public("answer", "not asked: "+x.Method).At(c.at))
		}
		return reason.Verdict{}
	}
	want := control(x.Fields)
	if v, ok := x.Fields.Lookup("Pragma"); ok && !want.said && wire.HasToken(v, "no-cache") {
		want.noCache = true
	}
	if why := bypass(x, &want); why != "" {
		if x.Explaining {
			return reason.Pass(reason.Public("answer", "not asked: "+why).At(c.at))
		}
		if want.onlyIfCached {
			return cacheOnly.Refuse(reason.Public("why", "it cannot be answered from there: "+why))
		}
		c.follow(x, &filling{c: c, key: key, status: `fwd=bypass; detail="` + why + `"`})
		return reason.Verdict{}
	}
	creds := credentials(x)
	f := &filling{c: c, key: key, creds: creds, era: c.answers.era.Load()}
	part := x.Method == "GET" && hasField(x.Fields, "Range")
	failed := false // the upstream, before the eyes of another call
	for waited := false; ; waited = true {
		k, other := c.answers.find(key, x.Fields)
		miss := ""
		switch {
		case k == nil && other:
			miss = "vary-miss"
		case k == nil:
			miss = "uri-miss"
		case creds && !k.shared:
			k, miss = nil, "bypass"
		default:
			miss = k.usable(x.Now, &want)
		}
		if part && (miss != "" || !k.cuts(x.Fields)) { // the upstream knows more ways to cut
			const why = "a part is asked for"
			switch {
			case x.Explaining:
				return reason.Pass(reason.Public("answer", "not asked: "+why).At(c.at))
			case want.onlyIfCached:
				return cacheOnly.Refuse(reason.Public("why", "it cannot be answered from there: "+why))
			}
			f.status = `fwd=bypass; detail="` + why + `"`
			break
		}
		if miss == "" {
			return c.hit(x, k, f.status, waited, "")
		}
		if miss == "stale" && waited && failed && k.staleFor(x.Now, k.ifError, &want) {
			x.Note("cache.stale", "the upstream has failed another call for this, so what is kept was given, though it is stale")
			return c.hit(x, k, f.status, waited, "")
		}
		if miss == "stale" && k.staleFor(x.Now, k.whileNew, nil) && !x.Explaining && c.answers.awaited(key) {
			x.Note("cache.stale", "what is kept was given, though it is stale, since another call asks the upstream for it")
			return c.hit(x, k, "", false, `; detail="stale-while-revalidate"`)
		}
		if x.Explaining {
			return reason.Pass(reason.Public("answer", missText[miss]).At(c.at))
		}
		if want.onlyIfCached {
			return cacheOnly.Refuse(reason.Public("why", missText[miss]))
		}
		f.status = "fwd=" + miss
		if miss == "bypass" {
			f.status += `; detail="` + missText[miss] + `"`
		}
		if f.old = nil; miss == "stale" && k.staleFor(x.Now, k.ifError, &want) {
			f.old = k
		}
		if x.Method == "HEAD" { // its answer has no content to keep
			break
		}
		f.wants, f.stale = true, nil
		if k != nil && (k.etag != "" || k.modified != "") {
			f.stale = k
		}
		if waited {
			f.status += "; collapsed=?0"
			break
		}
		if x.Waiting == nil || c.wait <= 0 && (k == nil || k.whileNew <= 0) {
			break
		}
		begun, wait := c.answers.join(key)
		if f.flight = begun; wait == nil || c.wait <= 0 {
			break
		}
		if !x.Waiting.Wait(wait.done, c.wait) {
			break // the client has left
		}
		failed = wait.failed.Load()
	}
	c.follow(x, f)
	return reason.Verdict{}
}

var missText = map[string]string{
	"uri-miss":  "nothing is kept for this URL",
	"vary-miss": "what is kept for this URL is for other request headers",
	"stale":     "what is kept has become stale",
	"request":   "the call wants a fresher answer than what is kept",
	"bypass":    "what is kept is not declared for calls with credentials",
}

// bypass says why a call has nothing to do with the cache, "" if it has.
func bypass(x *Exchange, want *directives) string {
	switch {
	case want.noStore:
		return "Cache-Control: no-store of the call"
	case x.Length != 0 || x.BodySize > 0:
		return "a call with content"
	}
	for i := range x.Fields {
		if f := &x.Fields[i]; f.ID == wire.OtherField {
			if wire.EqualFold(f.Name, "If-Match") || wire.EqualFold(f.Name, "If-Unmodified-Since") {
				return "a condition that the upstream decides"
			}
		}
	}
	return ""
}

// usable says why an answer cannot be given again without asking the upstream, "" if it can
// (RFC 9111 §4.2.4, §5.2.1).
func (k *kept) usable(now time.Time, want *directives) string {
	age := k.age(now)
	left := k.lifetime - age
	switch {
	case want.noCache, want.maxAge >= 0 && age > want.maxAge, want.minFresh >= 0 && left < want.minFresh:
		return "request"
	case k.revalidate:
		return "stale"
	case left > 0:
		return ""
	case !k.noStale && (want.maxStaleAny || want.maxStale > 0 && -left <= want.maxStale):
		return ""
	}
	return "stale"
}

// staleFor says that a stale answer may still be given, for a time after its end. A call may ask for more than the
// upstream says (RFC 5861 §4), but not for what that forbids.
func (k *kept) staleFor(now time.Time, span time.Duration, want *directives) bool {
	if want != nil && !k.noStale && !k.revalidate {
		span = max(span, want.staleIfError)
	}
	return span > 0 && k.age(now)-k.lifetime <= span
}

// cuts says that the gateway can cut out of this answer what Range asks for.
func (k *kept) cuts(fs wire.Fields) bool {
	v, _ := fs.Lookup("Range")
	_, _, ok := ByteRange(v, int64(len(k.body)))
	return ok && k.status == 200
}

// ByteRange reads a Range of one part of so many bytes (RFC 9110 §14.1.2); end is behind its last one. Several parts,
// other units and what cannot be satisfied are not ok.
func ByteRange(v string, size int64) (start, end int64, ok bool) {
	if len(v) < 6 || !wire.EqualFold(v[:6], "bytes=") {
		return 0, 0, false
	}
	from, to, ok := strings.Cut(strings.Trim(v[6:], " \t"), "-")
	first, err := strconv.ParseUint(from, 10, 63)
	last, err2 := strconv.ParseUint(to, 10, 63)
	switch {
	case !ok || from != "" && err != nil || to != "" && err2 != nil || from == "" && to == "":
		return 0, 0, false
	case from == "": // the last bytes
		return size - min(int64(last), size), size, last > 0 && size > 0
	case to == "":
		return int64(first), size, int64(first) < size
	}
	return int64(first), min(int64(last), size-1) + 1, first <= last && int64(first) < size
}

// follow has the gateway show the upstream's answer to f.
func (c *cacheCheck) follow(x *Exchange, f *filling) {
	f.x = x
	x.Store = f
	x.hold(hold{onEnd: f})
}

// release ends what a call does for the cache, however it ended.
func (f *filling) release(*hold) {
	if f.room > 0 {
		f.c.answers.release(f.room)
		f.room = 0
	}
	f.next = nil
	f.land()
}

// land lets those go on that wait for the answer.
func (f *filling) land() {
	if f.flight != nil {
		f.c.answers.land(f.key, f.flight, f.stored, f.failed)
		f.flight = nil
	}
}

// hit answers with what is kept.
func (c *cacheCheck) hit(x *Exchange, k *kept, before string, waited bool, detail string) reason.Verdict {
	age, left := k.age(x.Now), k.lifetime-k.age(x.Now)
	if x.Explaining {
		x.Answer = k.answer(x, "hit")
		return reason.Pass(reason.Public("answer", "hit, "+reason.Span(age.Round(time.Second))+" old").At(c.at))
	}
	status := "hit; ttl=" + strconv.FormatInt(int64(left/time.Second), 10) + detail
	if waited { // RFC 9211 §2.2
		status = before + "; collapsed"
	}
	x.Answer = k.answer(x, status)
	x.Note("cache.hit", "answered from the cache, "+reason.Span(age.Truncate(time.Second))+" after the upstream")
	return reason.Verdict{}
}

// answer is what the client gets of an answer that is kept: all of it, or 304 if it has that.
func (k *kept) answer(x *Exchange, status string) *Answer {
	a := &Answer{Status: k.status, Body: k.body, By: "upstream", Ranges: true}
	has := k.status == 200 && k.held(x.Fields)
	if has {
		a.Status, a.Body = 304, nil
	}
	a.Fields = make(wire.Fields, 0, len(k.fields)+2)
	for _, f := range k.fields {
		if has && (f.ID == wire.ContentType || f.ID == wire.OtherField && (wire.EqualFold(f.Name, "Content-Encoding") || wire.EqualFold(f.Name, "Content-Language"))) {
			continue // RFC 9110 §15.4.5
		}
		a.Fields = append(a.Fields, f)
	}
	a.Fields.Add("Age", strconv.FormatInt(int64(min(k.age(x.Now), maxFresh)/time.Second), 10))
	a.Fields.Add("Cache-Status", "whygate; "+status)
	return a
}

// held says that the client has this answer, by the condition that it sends (RFC 9110 §13.2.2).
func (k *kept) held(fs wire.Fields) bool {
	if v := combined(fs, "If-None-Match"); v != "" {
		return k.etag != "" && matchesETag(v, k.etag) || v == "*"
	}
	if v, ok := fs.Lookup("If-Modified-Since"); ok && k.modified != "" {
		since, err := http.ParseTime(v)
		modified, err2 := http.ParseTime(k.modified)
		return err == nil && err2 == nil && !modified.After(since)
	}
	return false
}

// matchesETag compares weakly (RFC 9110 §8.8.3.2). A comma within an ETag is no end of it.
func matchesETag(list, etag string) bool {
	etag = strings.TrimPrefix(etag, "W/")
	for list != "" {
		list = strings.TrimLeft(list, " \t,")
		tag := strings.TrimPrefix(list, "W/")
		if !strings.HasPrefix(tag, `"`) {
			return false
		}
		end := strings.IndexByte(tag[1:], '"')
		if end < 0 {
			return false
		}
		if tag[:end+2] == etag {
			return true
		}
		list = tag[end+2:]
	}
	return false
}

// EditRequest asks the upstream whether what is kept still holds, instead of what the client would
// ask.
func (c *cacheCheck) EditRequest(x *Exchange, o *wire.Outgoing) {
	f, ok := x.Store.(*filling)
	if !ok || f.c != c || f.stale == nil {
		return
	}
	for _, n := range [...]string{"If-None-Match", "If-Modified-Since", "If-Range"} {
		o.Fields.Remove(n)
	}
	if f.stale.etag != "" {
		o.Fields.Add("If-None-Match", f.stale.etag)
	}
	if f.stale.modified != "" {
		o.Fields.Add("If-Modified-Since", f.stale.modified)
	}
}

// NotModified gives what is kept again, with what the upstream says anew about it (RFC 9111 §4.3.4).
func (f *filling) NotModified(x *Exchange, h *wire.Head) *Answer {
	old := f.stale
	if old == nil {
		return nil
	}
	fresh := make(wire.Fields, 0, len(h.Fields))
	for _, n := range h.Fields {
		if !notStored(n) && !describesKept(n) {
			fresh = append(fresh, wire.Field{Name: strings.Clone(n.Name), Value: strings.Clone(n.Value), ID: n.ID})
		}
	}
	fields := slices.DeleteFunc(slices.Clone(old.fields), func(o wire.Field) bool {
		return o.ID == wire.Date || slices.ContainsFunc(fresh, func(n wire.Field) bool { return wire.EqualFold(n.Name, o.Name) })
	})
	head := wire.Head{Status: old.status, Fields: append(fields, fresh...), Length: int64(len(old.body))}
	status := "fwd=stale; fwd-status=304"
	if strings.HasPrefix(f.status, "fwd=request") {
		status = "fwd=request; fwd-status=304"
	}
	next, why := f.assess(x, &head, statedAge(h.Fields))
	if next == nil { // no longer to be kept, but this call may have it
		f.c.answers.forget(f.key)
		x.Note("cache.not-stored", "no longer kept: "+why)
		next = &kept{status: old.status, fields: head.Fields, body: old.body, etag: old.etag, modified: old.modified, at: x.Now}
	} else {
		next.body, next.vary = old.body, old.vary
		next.size += int64(len(old.body))
		f.c.answers.put(next, x.Fields)
		f.stored = true
		status += "; stored"
		x.Note("cache.revalidated", "the upstream says that what is kept still holds")
	}
	return next.answer(x, status)
}

// Failed gives what is kept though it is stale, if that is allowed.
func (f *filling) Failed(x *Exchange, status int, why string) *Answer {
	f.failed = true
	k := f.old
	if k == nil {
		return nil
	}
	f.land()
	said := f.status
	if status > 0 {
		said += "; fwd-status=" + strconv.Itoa(status)
	}
	late := k.age(x.Now) - k.lifetime
	x.Note("cache.stale", "answered with what is kept, "+reason.Span(late.Truncate(time.Second))+" after its end, since the upstream failed: "+why)
	return k.answer(x, said+"; ttl="+strconv.FormatInt(-int64(late/time.Second), 10)+`; detail="stale-if-error"`)
}

// describesKept are fields of a 304 that say nothing of the content that is kept (RFC 9111 §3.2).
func describesKept(f wire.Field) bool {
	for _, n := range [...]string{"Content-Encoding", "Content-Range", "Content-MD5", "Content-Digest", "ETag"} {
		if wire.EqualFold(f.Name, n) {
			return true
		}
	}
	return false
}

// notStored are fields that belong to one answer.
func notStored(f wire.Field) bool {
	for _, n := range [...]string{"Age", "Cache-Status", "Set-Cookie", "Trailer", "Proxy-Authenticate", "Proxy-Authentication-Info", "Content-Length", "Connection", "Whygate-Call"} {
		if wire.EqualFold(f.Name, n) {
			return true
		}
	}
	return false
}

// Head decides whether the answer is kept.
func (f *filling) Head(x *Exchange, h *wire.Head) {
	status := f.status
	if f.stale != nil {
		status += "; fwd-status=" + strconv.Itoa(h.Status)
	}
	switch {
	case f.drop:
		if h.Status < 400 && f.forget(x, h) {
			x.Note("cache.invalidated", "what was kept for this URL has been removed, since this call may have changed it")
		}
	case f.wants:
		next, why := f.assess(x, h, statedAge(h.Fields))
		if next != nil && h.Length > f.c.maxAnswer {
			next, why = nil, "larger than "+reason.Bytes(f.c.maxAnswer).String()
		}
		if next == nil {
			if !strings.Contains(status, "; detail=") {
				status += `; detail="` + why + `"`
			}
			x.Note("cache.miss", why)
			f.land()
			if f.stale != nil && h.Status < 500 { // it was replaced by something else
				f.c.answers.forget(f.key)
			}
			break
		}
		f.next = next
		status += "; stored"
		x.Note("cache.miss", "kept for "+reason.Span(next.lifetime-next.initial))
	default:
		x.Note("cache.bypass", strings.TrimPrefix(f.status, "fwd="))
	}
	h.Fields.Add("Cache-Status", "whygate; "+status)
}

// forget removes what is kept for the URL of a call that may have changed it, and for those of this host
// that its answer names (RFC 9111 §4.4).
func (f *filling) forget(x *Exchange, h *wire.Head) bool {
	had := f.c.answers.forget(f.key)
	for i := range h.Fields {
		n := &h.Fields[i]
		if n.ID != wire.Location && n.ID != wire.ContentLocation {
			continue
		}
		u, err := url.Parse(n.Value)
		if err != nil {
			continue
		}
		u = (&url.URL{Scheme: x.Scheme, Host: x.Authority, Path: x.Path}).ResolveReference(u)
		if wire.EqualFold(u.Host, x.Authority) && u.Scheme == x.Scheme {
			had = f.c.answers.forget(f.c.keyOf(x, u.EscapedPath(), u.RawQuery)) || had
		}
	}
	return had
}

// statedAge is what Age fields say: a single number of seconds, or as old as can be.
func statedAge(fs wire.Fields) time.Duration {
	said, n := time.Duration(0), 0
	for i := range fs {
		if f := &fs[i]; f.ID == wire.OtherField && wire.EqualFold(f.Name, "Age") {
			if n++; n > 1 || f.Value == "" || strings.Trim(f.Value, "0123456789") != "" {
				return maxFresh
			}
			said = deltaSeconds(f.Value)
		}
	}
	return said
}

// assess makes of a head what would be kept, without content, or says why nothing is (RFC 9111 §3).
func (f *filling) assess(x *Exchange, h *wire.Head, said time.Duration) (*kept, string) {
	c := f.c
	d := control(h.Fields)
	var vary, expires, date, etag, modified string
	hasExpires := false
	for i := range h.Fields {
		switch n := &h.Fields[i]; {
		case n.ID == wire.SetCookie:
			return nil, "the answer sets a cookie"
		case n.ID == wire.Vary:
			vary += n.Value + ","
		case n.ID == wire.Date:
			date = n.Value
		case n.ID == wire.ContentType && len(n.Value) >= 17 && wire.EqualFold(n.Value[:17], "text/event-stream"):
			return nil, "a stream of events"
		case n.ID != wire.OtherField:
		case wire.EqualFold(n.Name, "Expires"):
			expires, hasExpires = n.Value, true
		case wire.EqualFold(n.Name, "ETag"):
			etag = n.Value
		case wire.EqualFold(n.Name, "Last-Modified"):
			modified = n.Value
		case wire.EqualFold(n.Name, "Content-Range"):
			return nil, "a part of an answer"
		}
	}
	shared := d.public || d.mustRevalidate || d.sMaxAge >= 0
	var lifetime time.Duration
	sent, err := http.ParseTime(date)
	if err != nil {
		sent = x.Now
	}
	switch {
	case h.Status < 200 || h.Status == 204 || h.Status == 206 || h.Status == 304:
		return nil, "status " + strconv.Itoa(h.Status)
	case d.mustUnderstand && http.StatusText(h.Status) == "":
		return nil, "a status that only the upstream understands"
	case d.noStore && !d.mustUnderstand: // else no-store is for caches that do not know the status (RFC 9111 §5.2.2.3)
		return nil, "Cache-Control: no-store"
	case d.private:
		return nil, "Cache-Control: private"
	case f.creds && !shared:
		return nil, "a call with credentials, and an answer without public, s-maxage or must-revalidate"
	case d.sMaxAge >= 0:
		lifetime = d.sMaxAge
	case d.maxAge >= 0:
		lifetime = d.maxAge
	case hasExpires:
		if at, err := http.ParseTime(expires); err == nil {
			lifetime = min(max(at.Sub(sent), 0), maxFresh)
		}
	case d.noCache:
	case !slices.Contains(c.statuses, h.Status):
		return nil, "status " + strconv.Itoa(h.Status) + " without a word about caching"
	case c.ttl > 0:
		lifetime = c.ttl
	default:
		return nil, "the upstream says nothing about caching, and ttl is 0"
	}
	k := &kept{key: strings.Clone(f.key), era: f.era, status: h.Status, lifetime: lifetime, at: x.Now, shared: shared, revalidate: d.noCache,
		noStale: d.mustRevalidate || d.proxyRevalidate || d.sMaxAge >= 0, etag: strings.Clone(etag), modified: strings.Clone(modified)}
	// What the upstream says of this itself goes before s-maxage, which forbids it otherwise (RFC 9111 §4.2.4).
	if !d.noCache && !d.mustRevalidate && !d.proxyRevalidate {
		if k.ifError, k.whileNew = d.staleIfError, d.staleWhileRevalidate; d.sMaxAge < 0 {
			if k.ifError < 0 {
				k.ifError = c.ifError
			}
			if k.whileNew < 0 {
				k.whileNew = c.whileNew
			}
		}
	}
	// RFC 9111 §4.2.3. The age counts from when the call began, so the way of the answer is in it.
	k.initial = max(x.Now.Sub(sent).Truncate(time.Second), said, 0)
	if (k.revalidate || k.lifetime <= k.initial) && k.etag == "" && k.modified == "" {
		return nil, "stale at once, and without ETag or Last-Modified"
	}
	for part := range strings.SplitSeq(vary, ",") {
		name := strings.Trim(part, " \t")
		switch {
		case name == "":
			continue
		case name == "*":
			return nil, "Vary: *"
		case wire.EqualFold(name, "Cookie"), wire.EqualFold(name, "Authorization"):
			return nil, "Vary: " + name
		}
		if len(k.vary) >= maxVariants {
			return nil, "Vary names too many fields"
		}
		k.vary = append(k.vary, wire.Field{Name: strings.Clone(name), Value: strings.Clone(combined(x.Fields, name))})
	}
	k.size = int64(len(k.key)) + 256
	for _, n := range h.Fields {
		if !notStored(n) {
			k.fields = append(k.fields, wire.Field{Name: strings.Clone(n.Name), Value: strings.Clone(n.Value), ID: n.ID})
		}
	}
	if date == "" {
		k.fields.Put(wire.Date, x.Now.UTC().Format(http.TimeFormat))
	}
	for _, list := range [][]wire.Field{k.fields, k.vary} {
		for _, n := range list {
			k.size += int64(len(n.Name)+len(n.Value)) + 48
		}
	}
	return k, ""
}

// Piece takes a piece of the content.
func (f *filling) Piece(piece []byte, last bool) {
	k := f.next
	if k == nil {
		return
	}
	n := int64(len(piece))
	if int64(len(k.body))+n > f.c.maxAnswer || !f.c.answers.reserve(n) {
		f.next = nil
		f.land()
		f.x.Note("cache.not-stored", "the answer is larger than "+reason.Bytes(f.c.maxAnswer).String()+", or the cache has no room for it now")
		return
	}
	f.room += n
	k.body = append(k.body, piece...)
	if last {
		k.body = slices.Clip(k.body)
		k.size += int64(len(k.body))
		f.c.answers.put(k, f.x.Fields)
		f.next, f.stored = nil, true
	}
}
