package policy

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/corazawaf/coraza/v3/types"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// WAF looks for attacks in what a call carries, with the rules of the OWASP Core Rule Set 4.
//
// Each rule that matches adds to the score of the call: 5 where it is critical, 4 for an error, 3 for a
// warning, 2 for a notice. A call whose score reaches the threshold is refused, and the refusal lists
// the rules with their scores and the places where they matched. Paranoia says how many rules take part: the
// higher, the more attacks are found, and the more calls that are none. Begin with shadow: true, look at
// the calls that would have been refused (whygate calls --flag shadowed), let whygate waf suggest print an exclusion
// for each that is legitimate, and then let the rules refuse.
//
// Forms, multipart, JSON and XML are parsed; a body of another type is looked at as text. A body in gzip or deflate
// is unpacked up to maxBody, unless the rules refuse it for its coding (920450), as they do if nothing
// is excluded. Files in a multipart body are written into the directory for temporary files while the call is
// decided. A small call costs a quarter of a millisecond and 80 kB of memory while it is decided; each short parameter
// adds 20 microseconds and 15 kB, and each kilobyte of prose a quarter of a millisecond. Calls that look like attacks, and
// higher paranoia, cost several times as much. Those of more than 2 kB take turns, one per
// processor, and wait at most five seconds for theirs; calls with more than 1,000 parameters are refused. All routes without
// directives share one set of compiled rules of 20 MB; tables that are made as calls come take some 6 MB more, and never more than 50.
//
//	policies:
//	- waf:
//	    paranoia: 2
//	    exclusions:
//	    - {rules: [942100], parameter: q}
type WAF struct {
	// Paranoia is how many rules take part: 1 finds attacks with few mistakes, 4 suspects nearly everything.
	Paranoia int `json:"paranoia" default:"1" min:"1" max:"4"`
	// Threshold is the score from which calls are refused. One critical rule has 5.
	Threshold int `json:"threshold" default:"5" min:"1" max:"10000"`
	// MaxBody is the largest body that is looked at, unpacked.
	MaxBody resource.Size `json:"maxBody" default:"128KiB" min:"1KiB" max:"64MiB"`
	// Larger says what becomes of larger bodies: refuse the call, or look at its head only. A body that does
	// not announce its size is refused in both cases when it grows too large.
	Larger string `json:"larger" default:"refuse" enum:"refuse,head"`
	// Bodies are looked at or skipped. Skip them where requests are streamed, or where people write freely to a
	// model, whose prompts read like attacks.
	Bodies string `json:"bodies" default:"inspect" enum:"inspect,skip"`
	// Methods that the rules take as usual. Empty: those of the route.
	Methods []string `json:"methods" example:"[GET, POST]"`
	// ContentTypes of bodies that the rules take as usual. Empty: forms, JSON and XML in their common types.
	ContentTypes []string `json:"contentTypes" example:"[application/json]"`
	// Exclusions are what rules must not look at.
	Exclusions []WAFExclusion `json:"exclusions"`
	// Directives is a file with rules and exceptions of your own in the language of ModSecurity. SecRule and
	// SecAction come before the rule set, SecRuleRemoveById and SecRuleUpdateTargetById behind it.
	Directives string `json:"directives" example:"waf/extra.conf"`
	// Responses are looked at for leaks, such as error messages of databases, or skipped. An answer of text, HTML, JSON
	// or XML is held until it is complete or maxResponse of it are there. The upstream is not offered to compress it.
	Responses string `json:"responses" default:"skip" enum:"inspect,skip"`
	// ResponseThreshold is the score from which answers are withheld.
	ResponseThreshold int `json:"responseThreshold" default:"4" min:"1" max:"10000"`
	// MaxResponse is how much of an answer is looked at; what follows passes.
	MaxResponse resource.Size `json:"maxResponse" default:"512KiB" min:"1KiB" max:"64MiB"`
}

var (
	wafBlocked = reason.New(reason.Reason{
		Code: "waf.blocked", Status: 403,
		Title:  "The call looks like an attack",
		Says:   "what was sent in {places} looks like an attack[: score {score}, from {threshold} on calls are refused]",
		Wanted: "a call that scores less than {threshold}[, and that rule {denied_by} does not refuse]",
		Seen:   "score {score}: {why}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "change what you send in {places|the call}: leave out what reads like code, commands or markup"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} for an exclusion, if such calls are legitimate[: {exclusion}]"},
		},
		Hint: "whygate waf suggest with the id of the call prints the narrowest exclusion and which other recorded calls it would let pass[; rules: {rules}]",
	})
	wafUnreadable = reason.New(reason.Reason{
		Code: "waf.body-unreadable", Status: 400,
		Title:  "The body cannot be read",
		Says:   "the body cannot be read as its header says: {fault}",
		Wanted: "a body that can be parsed[, as {type}]",
		Seen:   "{fault}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "send a body that is what Content-Type and Content-Encoding say[; here: {fault}]"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to skip bodies in the policy waf of this route"},
		},
		Hint: "what cannot be parsed cannot be judged; bodies: skip of the policy waf lets it pass",
	})
	wafBusy = reason.New(reason.Reason{
		Code: "waf.busy", Status: 503,
		Title:  "Too many large calls are being looked at",
		Says:   "large calls take turns[, {turns} at a time], and this call waited {waited} for its own",
		Wanted: "a turn within {waited}",
		Seen:   "none",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "try again in a few seconds, or send less at once"},
			{By: reason.Operator, Text: "ask {operator|the operator} to find out who sends so many large calls"},
		},
		Hint: "queries and bodies of more than 2 kB take turns, one per processor; bodies: skip of the policy waf spares routes whose bodies need not be looked at",
	})
	wafResponse = reason.New(reason.Reason{
		Code: "waf.response", Status: 502,
		Title:  "The answer was withheld",
		Says:   "the answer of the upstream was withheld, since it seems to tell what it should not[: score {score}, from {threshold} on answers are withheld]",
		Wanted: "an answer that scores less than {threshold}",
		Seen:   "score {score}: {why}",
		Fixes: []reason.Fix{
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to see why the upstream answers so, or for an exclusion[: {exclusion}]"},
		},
		Hint: "error messages of databases, source code or listings of directories in an answer; the rules are {rules|among the facts}",
	})
)

type wafCheck struct {
	engine                      *wafEngine
	inbound                     [][2]string // variables of the rule set
	maxBody, maxResponse        int64
	head, skip                  bool // larger: head, bodies: skip
	responses                   bool
	reduces                     bool // bodies may be looked at without repetitions first
	threshold, outbound         int
	exclusions                  []*exclusion
	thresholdAt, at, outboundAt *reason.Source
	turns                       turns
	patience                    time.Duration // of a call that waits for its turn
}

// Compile takes the rules from the engine of all routes, or makes one with the directives.
func (p *WAF) Compile(env *Env) any {
	c := &wafCheck{maxBody: int64(p.MaxBody), maxResponse: int64(p.MaxResponse), head: p.Larger == "head", skip: p.Bodies == "skip", responses: p.Responses == "inspect",
		threshold: p.Threshold, outbound: p.ResponseThreshold, at: env.Source(""), thresholdAt: env.Source("threshold"), outboundAt: env.Source("responseThreshold"), turns: wafTurns, patience: wafPatience}
	list := p.directives(env)
	c.engine = engineFor(env, list)
	if c.engine.err != nil {
		p.blame(env, c.engine, list)
		return c
	}
	methods := p.Methods
	if len(methods) == 0 {
		if methods = slices.Clone(env.Route.Methods); len(methods) == 0 {
			methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
		}
		methods = append(methods, "HEAD", "OPTIONS")
	}
	contentTypes := p.ContentTypes
	if len(contentTypes) == 0 {
		contentTypes = wafContentTypes
	}
	c.inbound = [][2]string{
		{"blocking_paranoia_level", strconv.Itoa(p.Paranoia)}, {"detection_paranoia_level", strconv.Itoa(p.Paranoia)},
		{"inbound_anomaly_score_threshold", strconv.Itoa(p.Threshold)}, {"outbound_anomaly_score_threshold", strconv.Itoa(p.ResponseThreshold)},
		{"allowed_methods", strings.Join(methods, " ")}, {"allowed_request_content_type", "|" + strings.ToLower(strings.Join(contentTypes, "| |")) + "|"},
	}
	for i, m := range p.Methods {
		env.methodName(index("methods", i), m)
	}
	for i, t := range p.ContentTypes {
		if kind, sub, ok := strings.Cut(t, "/"); !ok || !wire.IsToken(kind) || !wire.IsToken(sub) {
			env.Problem(index("contentTypes", i), "a type and a subtype, such as application/json", "%q is no content type", t)
		}
	}
	for i := range p.Exclusions {
		c.exclusions = append(c.exclusions, p.Exclusions[i].compile(env, index("exclusions", i), c.engine))
	}
	c.reduces = len(list) == 0 && !slices.ContainsFunc(c.exclusions, (*exclusion).positional)
	if c.responses && env.Shadow {
		env.Lint("waf.shadow-responses", "responses", "", "answers are not looked at while the policy only watches")
	}
	if c.responses {
		return &wafBoth{wafCheck: c}
	}
	return c
}

var wafContentTypes = []string{"application/x-www-form-urlencoded", "multipart/form-data", "text/xml", "application/xml", "application/soap+xml", "application/json",
	"application/merge-patch+json", "application/json-patch+json", "application/cloudevents+json", "application/problem+json"}

// directives reads the file.
func (p *WAF) directives(env *Env) []directive {
	if p.Directives == "" {
		return nil
	}
	data := env.fileFrom("directives", p.Directives, maxDirectivesFile)
	if data == nil {
		return nil
	}
	list, bad := splitDirectives(data)
	if bad != nil {
		env.Problem("directives", bad.hint, "%s:%d: %s", p.Directives, bad.line, bad.text)
		return nil
	}
	return list
}

// maxDirectivesFile is the largest file of directives, in bytes.
const maxDirectivesFile = 1 << 20

// blame says at which directive the rules could not be compiled.
func (p *WAF) blame(env *Env, e *wafEngine, list []directive) {
	for _, d := range list {
		if d.line == e.line {
			env.Problem("directives", "the directive begins: "+clipBytes(d.text, 60), "%s:%d: %s", p.Directives, e.line, wafFault(e.err))
			return
		}
	}
	env.Problem("", "", "the rules cannot be compiled: %s", wafFault(e.err))
}

// Impersonal is true: the rules know nothing of who calls.
func (c *wafCheck) Impersonal() bool { return true }

// ReadsBody says whether requests are looked at beyond their head.
func (c *wafCheck) ReadsBody() bool { return !c.skip }

// Check runs the rules of the request. Unlike other checks it allocates, and takes time that grows with
// the call; both are bounded by maxBody and the limits on heads.
func (c *wafCheck) Check(x *Exchange) reason.Verdict {
	if c.engine.err != nil {
		return reason.Verdict{} // only in a candidate that is refused
	}
	body, v := c.body(x)
	if v.Refused() {
		return v
	}
	f, v := c.run(x, body)
	switch {
	case v.Refused() || x.Unknown:
		return v
	case f.refused != nil:
		return c.refuse(x, f)
	case x.Explaining:
		facts := []reason.Fact{reason.Rule("score", f.score), reason.Rule("threshold", c.threshold).At(c.thresholdAt)}
		if len(f.matches) > 0 {
			facts = append(facts, reason.Rule("why", f.why()))
		}
		return reason.Pass(facts...)
	}
	return reason.Verdict{}
}

// body is the content, as far as it is looked at.
func (c *wafCheck) body(x *Exchange) ([]byte, reason.Verdict) {
	if c.skip || x.Upgrade != "" || c.head && x.BodySize > c.maxBody {
		return nil, reason.Verdict{}
	}
	return x.Body(c.maxBody)
}

// run takes a call through the rules.
func (c *wafCheck) run(x *Exchange, body []byte) (*findings, reason.Verdict) {
	plain, fault := unpack(body, x.Fields, c.maxBody)
	if len(x.Query)+len(plain) > wafHeavy {
		patience := c.patience
		if x.Cheap {
			patience = 0
		}
		if !c.turns.take(patience) {
			return nil, c.busy(x)
		}
		defer c.turns.give()
	}
	if fault == "" && c.reduces && !x.Explaining && wafReadsJSON(x.Fields.Get(wire.ContentType)) {
		if short, ok := reduceJSON(string(plain)); ok {
			tx := c.begin(x)
			c.inspect(x, tx, []byte(short), "")
			again := spoke(tx)
			finishWAF(tx)
			if !again {
				return &findings{}, reason.Verdict{}
			}
		}
	}
	tx := c.begin(x)
	f, unreadable := c.inspect(x, tx, plain, fault)
	finishWAF(tx)
	return f, unreadable
}

// busy refuses a call that has waited for its turn in vain. One that is only explained leaves open what the rules would say.
func (c *wafCheck) busy(x *Exchange) reason.Verdict {
	if x.Explaining {
		x.Unknown = true
		return reason.Verdict{}
	}
	x.Extra.Put(wire.RetryAfter, "5")
	facts := []reason.Fact{reason.Rule("turns", cap(c.turns)), reason.Public("waited", c.patience), reason.Inner("policy", "waf").At(c.at)}
	if o := x.Route.Operator; o.Contact != "" {
		facts = append(facts, reason.Own("operator", o.Contact))
	}
	return wafBusy.Refuse(facts...)
}

// wafReadsJSON says that the rules take a body for JSON.
func wafReadsJSON(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	return strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "json")
}

// Calls with many parameters need up to 90 MB while they are looked at, and a second of a processor. They take
// turns: more of them at once would take more memory and be no faster.
const (
	wafHeavy    = 2 << 10
	wafPatience = 5 * time.Second
)

var wafTurns = make(turns, max(2, runtime.GOMAXPROCS(0)))

// finishWAF gives a transaction back. One that was heavy is left to the garbage collector, for its memory does
// not shrink; but files have to be removed.
func finishWAF(tx wafTransaction) {
	v := tx.Variables()
	if len(v.ArgsPost().FindAll())+len(v.ArgsGet().FindAll()) > wafManyArgs && len(v.FilesTmpNames().FindAll()) == 0 {
		return
	}
	tx.Close() // what it may fail at, removing files, is no concern of the call
}

const wafManyArgs = 50

// begin readies a transaction and runs the rules about the head. A panic in the rules loses the
// transaction, so that none is used again in an unknown state.
func (c *wafCheck) begin(x *Exchange) wafTransaction {
	tx := c.engine.waf.NewTransactionWithID("whygate").(wafTransaction)
	vars := tx.Variables().TX()
	for _, v := range c.inbound {
		vars.Set(v[0], []string{v[1]})
	}
	for _, e := range c.exclusions {
		if e.holds(x) {
			e.apply(tx)
		}
	}
	tx.ProcessConnection(x.Client.Addr.String(), 0, "", 0)
	// What the transaction keeps must outlive the call: its memory is used again before it is cleared.
	tx.ProcessURI(strings.Clone(x.Target), strings.Clone(x.Method), protocol(x.Proto))
	host := false
	for _, f := range x.Fields {
		if f.ID == wire.Expect { // 100-continue, which the gateway answers itself; the rules suspect it (920450)
			continue
		}
		host = host || f.ID == wire.Host
		tx.AddRequestHeader(strings.Clone(f.Name), strings.Clone(f.Value))
	}
	if !host && x.Authority != "" {
		tx.AddRequestHeader("Host", strings.Clone(x.Authority))
	}
	tx.SetServerName(strings.Clone(x.Host))
	tx.ProcessRequestHeaders()
	return tx
}

func protocol(proto uint8) string {
	switch proto {
	case 10:
		return "HTTP/1.0"
	case 20:
		return "HTTP/2.0"
	}
	return "HTTP/1.1"
}

// inspect runs the rules about the body and says what all of them found. fault is why the body could not be unpacked.
func (c *wafCheck) inspect(x *Exchange, tx wafTransaction, plain []byte, fault string) (*findings, reason.Verdict) {
	if tx.Interruption() == nil {
		if len(plain) > 0 && fault == "" {
			if _, _, err := tx.WriteRequestBody(plain); err != nil {
				fault = err.Error()
			}
		}
		if _, err := tx.ProcessRequestBody(); err != nil && fault == "" {
			fault = err.Error()
		}
	}
	in := tx.Interruption()
	if in != nil {
		switch in.RuleID {
		case wafBodyError:
			fault = tx.Variables().RequestBodyErrorMsg().Get()
		case wafMultipart:
			fault = "MULTIPART: a part header that parsers read differently"
		case wafTooMany:
			fault = "more than 1000 parameters"
		}
	}
	if fault != "" && (in == nil || in.RuleID == wafBodyError || in.RuleID == wafMultipart || in.RuleID == wafTooMany) {
		facts := []reason.Fact{reason.Own("fault", clipBytes(strings.Map(printable, fault), 200)), x.OwnerFact(), reason.Inner("policy", "waf").At(c.at)}
		if t := x.Fields.Get(wire.ContentType); t != "" {
			facts = append(facts, reason.Own("type", clipBytes(strings.Clone(t), 100)))
		}
		return nil, wafUnreadable.Refuse(facts...)
	}
	if in == nil && !x.Explaining {
		return &findings{}, reason.Verdict{}
	}
	json := ""
	if strings.EqualFold(tx.Variables().RequestBodyProcessor().Get(), "JSON") {
		json = string(plain)
	}
	return c.engine.find(tx, types.PhaseRequestHeaders, types.PhaseRequestBody, json), reason.Verdict{}
}

const unknownCoding = " is not one of gzip and deflate"

// errTooLarge says that unpacking was stopped.
var errTooLarge = errors.New("too large")

// unpack takes the coding off a body; its result is at most max bytes, whatever a bomb holds. With a
// fault it is what came before that.
func unpack(body []byte, fields wire.Fields, max int64) (plain []byte, fault string) {
	coding, ok := fields.Lookup("Content-Encoding")
	if !ok || len(body) == 0 {
		return body, ""
	}
	return unpackCoding(body, coding, max)
}

func unpackCoding(body []byte, coding string, max int64) (plain []byte, fault string) {
	var r io.Reader
	var err error
	switch coding = strings.ToLower(strings.TrimSpace(coding)); coding {
	case "identity", "":
		return body, ""
	case "gzip", "x-gzip":
		r, err = gzip.NewReader(bytes.NewReader(body))
	case "deflate": // zlib by the standard, bare in practice
		if r, err = zlib.NewReader(bytes.NewReader(body)); err != nil {
			r, err = flate.NewReader(bytes.NewReader(body)), nil
		}
	default:
		return nil, "Content-Encoding: " + clipBytes(coding, 60) + unknownCoding
	}
	if err == nil {
		if plain, err = io.ReadAll(io.LimitReader(r, max+1)); err == nil && int64(len(plain)) > max {
			err = errTooLarge
		}
	}
	switch {
	case err == errTooLarge:
		return plain[:max], fmt.Sprintf("unpacked, the body is larger than %v", reason.Bytes(max))
	case err != nil:
		return plain, fmt.Sprintf("Content-Encoding: %s does not hold: %v", coding, err)
	}
	return plain, ""
}

// refuse puts what was found into a verdict.
func (c *wafCheck) refuse(x *Exchange, f *findings) reason.Verdict {
	facts := f.facts(x, reason.Rule("threshold", c.threshold).At(c.thresholdAt))
	if id := f.refused.RuleID; id != wafInbound && id != wafInboundToo {
		facts = append(facts, reason.Rule("denied_by", id))
	}
	return f.withStatus(wafBlocked.Refuse(facts...))
}

// facts are those of both phases.
func (f *findings) facts(x *Exchange, threshold reason.Fact) []reason.Fact {
	for i := range f.matches {
		f.matches[i].hidden = x.Route.Hides(f.matches[i].place())
	}
	facts := []reason.Fact{threshold, reason.Own("places", f.placesText()), reason.Rule("score", f.score), reason.Rule("why", f.why()), x.OwnerFact()}
	var lines, ids []string
	for i := range f.matches {
		m := &f.matches[i]
		lines = append(lines, m.String())
		if id := strconv.Itoa(m.Rule); !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	facts = append(facts, reason.Rule("matches", lines), reason.Rule("rules", strings.Join(ids, ", ")))
	if f.more > 0 {
		facts = append(facts, reason.Rule("more", f.more))
	}
	if set := SuggestWAF(f.matches, f.score, threshold.Value.(int64), strings.Clone(x.Route.Name)); set != nil && f.more == 0 {
		facts = append(facts, reason.Rule("exclusion", yamlOf(set)))
	}
	return facts
}

// maxRulesTold is how many places a sentence names.
const maxRulesTold = 4

// placesText names the places for the caller.
func (f *findings) placesText() string {
	var names []string
	for i := range f.matches {
		if p := f.matches[i].Place(); f.matches[i].Variable != "TX" && !slices.Contains(names, p) {
			names = append(names, p)
		}
	}
	switch n := len(names); {
	case n == 0:
		return "the request"
	case n > maxRulesTold:
		return strings.Join(names[:maxRulesTold], ", ") + fmt.Sprintf(" and %d more places", n-maxRulesTold+f.more)
	case n == 1:
		return names[0]
	default:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
}

// why lists the rules for the owner.
func (f *findings) why() string {
	var told []string
	for i := range f.matches {
		if i == maxRulesTold {
			told = append(told, fmt.Sprintf("and %d more", len(f.matches)-maxRulesTold+f.more))
			break
		}
		told = append(told, f.matches[i].story())
	}
	return strings.Join(told, "; ")
}
