package policy

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// HMAC identifies the calling application by a signature over the request (RFC 9421, HTTP Message Signatures).
//
// The client signs parts of its request with a secret that it shares with the gateway, or with the private half
// of a key pair, and sends the fields Signature-Input and Signature. Nobody on the way can change what is
// signed, nor use the signature for another call, nor for long. Secrets and public keys are those of Credential
// documents: a file with a PEM PUBLIC KEY makes it a key pair (ed25519, rsa-pss-sha512, rsa-v1_5-sha256,
// ecdsa-p256-sha256, ecdsa-p384-sha384), anything else is a secret for hmac-sha256.
//
// A refusal for a wrong signature shows owner and operator the signature base that the gateway computed, so
// that it can be compared with that of the client. Content is signed by its digest, the field Content-Digest (RFC
// 9530): the gateway reads the content and compares it. A call costs some 10 µs of a processor and some 4 KiB of memory.
//
//	policies:
//	- hmac: {components: ["@method", "@target-uri"], maxAge: 2m}
type HMAC struct {
	// Components that a signature has to cover: header fields, and @method, @target-uri, @authority, @scheme,
	// @request-target, @path and @query. @target-uri covers @scheme, @authority, @path and @query as well,
	// @request-target the last two.
	Components []string `json:"components" default:"[\"@method\", \"@authority\", \"@path\", \"@query\"]" example:"[\"@method\", \"@target-uri\", date]"`
	// Digest says whether content must be signed by its digest: required, or checked where it is signed.
	Digest string `json:"digest" enum:"required,optional" default:"required"`
	// MaxBody is the largest content that is read to check its digest.
	MaxBody resource.Size `json:"maxBody" default:"1MiB" min:"1KiB" max:"64MiB"`
	// MaxAge is how long ago a signature may have been made, by its parameter created.
	MaxAge resource.Duration `json:"maxAge" default:"5m" min:"1s" max:"24h"`
	// Leeway is how far the clock of a client may differ.
	Leeway resource.Duration `json:"leeway" default:"30s" max:"1h"`
	// Nonce required refuses signatures without a nonce and those whose nonce was seen before. This node remembers some
	// 100,000. Where the Gateway has shared counters, all nodes remember together, which takes a round trip; while these are
	// away each node does alone, or refuses, as whenAway of the counters says.
	Nonce string `json:"nonce" enum:"ignored,required" default:"ignored"`
	// Label of the signature, where clients send several. Empty: the first whose key is known.
	Label string `json:"label" pattern:"^([a-z*][a-z0-9_.*-]*)?$" form:"small letters, digits, _, -, . and *" example:"sig1"`
}

var (
	hmacMissing = reason.New(reason.Reason{
		Code: "hmac.missing", Status: 401,
		Title:  "The call is not signed",
		Says:   "this API wants {wanted}, and the call carries none[; {slip}]",
		Wanted: "{wanted} over {components}",
		Seen:   "none[; {slip}]",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "sign the call as RFC 9421 says, over {components}, and send Signature-Input and Signature"},
			{By: reason.Application, Text: "ask {owner|the owner of this API} for a secret if you have none"},
		},
		Hint: "a proxy in front may have taken the fields away",
	})
	hmacMalformed = reason.New(reason.Reason{
		Code: "hmac.malformed", Status: 401,
		Title:  "The signature cannot be read",
		Says:   "the signature cannot be read: {fault}",
		Wanted: "Signature-Input and Signature in the form of RFC 9421",
		Seen:   "{fault}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "repair the signature: {fault}"}},
		Hint:   "the fields are structured fields (RFC 8941): keys in small letters, texts in double quotes, bytes between colons",
	})
	hmacUnknown = reason.New(reason.Reason{
		Code: "hmac.unknown-key", Status: 401,
		Title:  "The key of the signature is not known",
		Says:   "no key is known here by the id {keyid}",
		Wanted: "the keyid of a Credential",
		Seen:   "keyid {keyid}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "check the parameter keyid, and that the key belongs to this environment"},
			{By: reason.Application, Text: "ask {owner|the owner of this API} for a key if this one was replaced"},
		},
		Hint: "Credential documents name it in hmac.keyId",
	})
	hmacAlgorithm = reason.New(reason.Reason{
		Code: "hmac.algorithm", Status: 401,
		Title:  "The signature is of another algorithm than its key",
		Says:   "the signature names the algorithm {algorithm}, and its key is for {wanted}",
		Wanted: "{wanted}",
		Seen:   "alg={algorithm}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "sign with {wanted}, or leave the parameter alg out"}},
		Hint:   "the key says which algorithm counts, never the caller",
	})
	hmacComponent = reason.New(reason.Reason{
		Code: "hmac.component-missing", Status: 401,
		Title:  "The signature leaves something out",
		Says:   "the signature does not cover {missing}",
		Wanted: "a signature over {components}",
		Seen:   "one over {covered}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "sign {missing} too"}},
		Hint:   "components of policy hmac says what has to be covered; content-digest is due where there is content, created and, if required, nonce always",
	})
	hmacSignature = reason.New(reason.Reason{
		Code: "hmac.signature", Status: 401,
		Title:  "The signature is wrong",
		Says:   "the signature does not belong to this call and key {key}",
		Wanted: "the {algorithm} signature of what is covered: {covered}",
		Seen:   "another one[; {slip}]",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "compare what you sign with the call that was sent, line by line; check that it is the secret of {key}"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} for the signature base of this call, which whygate why shows"},
		},
		Hint: "the fact base is what the gateway computed; a proxy in front that changes path, host or fields breaks signatures, and so does a scheme that it does not announce as a trusted proxy",
	})
	hmacStale = reason.New(reason.Reason{
		Code: "hmac.signature-expired", Status: 401,
		Title:  "The signature is too old",
		Says:   "the signature was made at {created}, {age} ago; it counts for {limit}",
		Wanted: "a signature that is at most {limit} old",
		Seen:   "one of {created}, at {now}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "sign each call anew; if you did, your clock is {age} behind"}},
		Hint:   "maxAge and leeway of policy hmac, and the parameter expires; a call that is sent again late looks the same",
	})
	hmacSkew = reason.New(reason.Reason{
		Code: "hmac.skew", Status: 401,
		Title:  "The signature is from the future",
		Says:   "the signature was made at {created}, {ahead} from now",
		Wanted: "a signature made at {now} at the latest, give or take {leeway}",
		Seen:   "one of {created}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "set your clock: it is {ahead} ahead"}},
		Hint:   "leeway of policy hmac; if all callers are ahead, the clock of this node is behind",
	})
	hmacDigest = reason.New(reason.Reason{
		Code: "hmac.digest", Status: 401,
		Title:  "The content is not what was signed",
		Says:   "the digest of the content is not what Content-Digest says: {fault}",
		Wanted: "{signed}",
		Seen:   "{fault}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "compute Content-Digest of the bytes that are sent, behind any content coding (RFC 9530)"}},
		Hint:   "a client that writes JSON twice, or a proxy that changes content, is the usual cause",
	})
	hmacReplayed = reason.New(reason.Reason{
		Code: "hmac.replayed", Status: 401,
		Title:  "The signature was used before",
		Says:   "a call with this nonce was accepted already",
		Wanted: "a nonce that is used once",
		Seen:   "the nonce {nonce} again",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "sign each call anew, with a nonce of its own; that goes for calls that are tried again too"}},
		Hint:   "nonces are remembered for as long as the signature counts, by all nodes together where the Gateway has shared counters",
	})
	hmacLapses = newLapses("hmac.", "signing key", "signing key", "signing key")
)

// hmacCovers lists what components stand for others.
var hmacCovers = map[string][]string{
	"@target-uri": {"@scheme", "@authority", "@path", "@query", "@request-target"}, "@request-target": {"@path", "@query"},
	"host": {"@authority"}, "@authority": {"host"},
}

const (
	maxSigned     = 64       // components of one signature
	maxSignatures = 8        // on one call
	maxBase       = 16 << 10 // bytes of the base in a fact
	maxNonces     = 100_000
	maxParameter  = 256 // bytes of keyid and nonce
)

// nonces are those seen, beyond revisions.
type nonces struct{ seen *recent[struct{}] }

func newNonces() Kept { return &nonces{newRecent[struct{}](maxNonces)} }

// Start and Close make nonces something to keep.
func (*nonces) Start() {}
func (*nonces) Close() {}

type hmacCheck struct {
	HMAC
	consumers *consumer.Directory
	nonces    *nonces
	shared    *Shared
	limit     string // the name under which nonces are shared
	list      string // components, for sentences
	challenge string
	at        *reason.Source
}

// Compile checks the components.
func (p *HMAC) Compile(env *Env) any {
	c := &hmacCheck{HMAC: *p, consumers: env.Consumers, shared: env.Shared, limit: env.LimitName, at: env.Source("components")}
	c.Components = slices.Clone(p.Components)
	for i, name := range c.Components {
		at := index("components", i)
		switch {
		case name == "@query-param" || name == "@status":
			env.Problem(at, "@query covers all of them", "%s cannot be asked for", name)
		case strings.HasPrefix(name, "@"):
			if !slices.Contains(derived, name) {
				hint := "known: " + strings.Join(derived, ", ")
				if n := resource.Nearest(name, derived); n != "" {
					hint = "did you mean " + n + "?"
				}
				env.Problem(at, hint, "there is no component %q", name)
			}
		case !wire.IsToken(name):
			env.Problem(at, "header fields by name, or one of "+strings.Join(derived, ", "), "%q is no header name", name)
		}
		c.Components[i] = strings.ToLower(name)
		if slices.Contains(c.Components[:i], c.Components[i]) {
			env.Problem(at, "", "%s is listed twice", name)
		}
	}
	if !env.Problems.HasErrors() && !slices.ContainsFunc(c.Components, func(n string) bool { return n == "@target-uri" || n == "@request-target" || n == "@path" }) {
		env.Lint("hmac.path-unsigned", "components", "add @path or @target-uri", "signatures need not cover the path, so that one can be used for another call")
	}
	if p.Nonce == "required" {
		c.nonces = env.Keep("hmac nonces "+env.LimitName, newNonces).(*nonces)
	}
	c.list = strings.Join(c.Components, ", ")
	c.challenge = "Signature realm=" + quote(env.Route.API) + ", components=" + quote(strings.Join(c.Components, " "))
	return c
}

// Presents is whether the call is signed.
func (c *hmacCheck) Presents(x *Exchange) bool {
	_, input := x.Fields.Lookup("Signature-Input")
	_, signature := x.Fields.Lookup("Signature")
	return input || signature
}

// Wants names the signature.
func (c *hmacCheck) Wants() string { return "an HTTP message signature (RFC 9421)" }

// HeaderNames are the headers that pages must be allowed to send.
func (c *hmacCheck) HeaderNames() []string {
	return []string{"Signature-Input", "Signature", "Content-Digest"}
}

// Challenge is what a 401 asks for.
func (c *hmacCheck) Challenge(*Exchange) string { return c.challenge }

// ReadsBody is true: the content is read to check its digest.
func (c *hmacCheck) ReadsBody() bool { return true }

// Check identifies the application.
func (c *hmacCheck) Check(x *Exchange) reason.Verdict {
	if !c.Presents(x) {
		if x.Preflight {
			return x.refusePreflight(c.Wants(), c.at)
		}
		return c.missing(x)
	}
	v := c.verify(x)
	if v.Refused() && v.StatusCode() == 401 {
		x.Extra.Put(wire.WWWAuthenticate, c.challenge)
	}
	return v
}

func (c *hmacCheck) verify(x *Exchange) reason.Verdict {
	malformed := func(fault string) reason.Verdict {
		return hmacMalformed.Refuse(reason.Public("fault", fault).At(c.at), x.OwnerFact())
	}
	s, cred, err := c.signature(x)
	switch {
	case err != nil:
		return malformed(err.Error())
	case cred == nil:
		return hmacUnknown.Refuse(reason.Public("keyid", excerpt(s.keyID, 64)).At(c.at), x.OwnerFact())
	}
	algorithm := algorithmOf(cred, s.algorithm)
	if s.algorithm != "" && s.algorithm != algorithm {
		return hmacAlgorithm.Refuse(reason.Public("algorithm", excerpt(s.algorithm, 40)), reason.Public("wanted", algorithm).At(c.at))
	}
	if v := c.covered(x, s); v.Refused() {
		return v
	}
	base, err := s.base(x)
	if err != nil {
		return malformed(err.Error())
	}
	covered := strings.Join(s.names(), ", ")
	if !verifies(cred, algorithm, base, s.value) {
		facts := []reason.Fact{reason.Public("key", excerpt(s.keyID, 64)).At(cred.Source), reason.Public("algorithm", algorithm), reason.Public("covered", covered),
			x.OwnerFact(), reason.Rule("base", s.shownBase(x))}
		if algorithm == "hmac-sha256" && len(s.value) != sha256.Size {
			facts = append(facts, reason.Public("slip", "it has "+plural(len(s.value), "byte")+", those of hmac-sha256 have 32"))
		}
		return hmacSignature.Refuse(facts...)
	}
	if v := c.timely(x, s); v.Refused() {
		return v
	}
	if v := hmacLapses.lapsed(x, cred); v.Refused() {
		return v
	}
	if v := c.digest(x, s); v.Refused() {
		return v
	}
	if v := c.fresh(x, s, cred); v.Refused() {
		return v
	}
	if v := x.identify(cred); v.Refused() {
		return v
	}
	if x.Explaining {
		return reason.Pass(reason.Public("key", cred.Prefix), reason.Own("application", cred.Application.Name), reason.Public("algorithm", algorithm), reason.Public("covered", covered).At(c.at),
			reason.Own("created", s.created))
	}
	return reason.Verdict{}
}

// missing looks for signatures of other forms.
func (c *hmacCheck) missing(x *Exchange) reason.Verdict {
	x.Extra.Put(wire.WWWAuthenticate, c.challenge)
	facts := []reason.Fact{reason.Public("wanted", c.Wants()), reason.Public("components", c.list).At(c.at), x.OwnerFact()}
	if v := x.Fields.Get(wire.Authorization); hasPrefixFold(v, "signature ") {
		facts = append(facts, reason.Public("slip", "Authorization carries a signature of the older draft (cavage), which is not looked at"))
	} else if hasPrefixFold(v, "hmac ") || hasPrefixFold(v, "aws4-hmac-sha256 ") {
		facts = append(facts, reason.Public("slip", "Authorization carries a signature of another form, which is not looked at"))
	}
	return hmacMissing.Refuse(facts...)
}

// signed is one signature of a call.
type signed struct {
	label      string
	components []httpsfv.Item
	ids        []string // the components as the base has them
	params     string   // the value of @signature-params
	value      []byte
	keyID      string
	algorithm  string
	nonce      string
	created    time.Time
	expires    time.Time // zero without
}

func fieldValues(x *Exchange, name string) (values []string) {
	id := wire.FieldIDOf(name)
	for i := range x.Fields {
		if f := &x.Fields[i]; f.ID == id && (id != wire.OtherField || wire.EqualFold(f.Name, name)) {
			values = append(values, f.Value)
		}
	}
	return values
}

// signature finds the signature that counts and whom its key belongs to.
func (c *hmacCheck) signature(x *Exchange) (s *signed, cred *consumer.Credential, err error) {
	inputs, err := httpsfv.UnmarshalDictionary(fieldValues(x, "Signature-Input"))
	if err != nil {
		return nil, nil, errors.New("the field Signature-Input is no dictionary of structured fields")
	}
	values, err := httpsfv.UnmarshalDictionary(fieldValues(x, "Signature"))
	if err != nil {
		return nil, nil, errors.New("the field Signature is no dictionary of structured fields")
	}
	labels := inputs.Names()
	switch {
	case len(labels) == 0:
		return nil, nil, errors.New("the field Signature is there without Signature-Input, or that is empty")
	case len(labels) > maxSignatures:
		return nil, nil, errors.New("there are more than " + plural(maxSignatures, "signature"))
	case c.Label != "" && !slices.Contains(labels, c.Label):
		return nil, nil, errors.New("there is no signature with the label " + c.Label)
	case c.Label != "":
		labels = []string{c.Label}
	}
	for _, label := range labels {
		one, err := readSigned(label, inputs, values)
		if err != nil {
			return nil, nil, err
		}
		if s == nil {
			s = one
		}
		if cred = c.consumers.Named("hmac", one.keyID); cred != nil {
			return one, cred, nil
		}
	}
	return s, nil, nil
}

func readSigned(label string, inputs, values *httpsfv.Dictionary) (*signed, error) {
	in, _ := inputs.Get(label)
	list, ok := in.(httpsfv.InnerList)
	name := "signature " + excerpt(label, 32)
	if !ok {
		return nil, errors.New(name + " has no list of components")
	}
	member, ok := values.Get(label)
	item, is := member.(httpsfv.Item)
	value, isBytes := item.Value.([]byte)
	switch {
	case !ok:
		return nil, errors.New(name + " is in Signature-Input and not in Signature")
	case !is || !isBytes:
		return nil, errors.New(name + " is no byte sequence between colons")
	case len(list.Items) > maxSigned:
		return nil, errors.New(name + " covers more than " + plural(maxSigned, "component"))
	}
	s := &signed{label: label, components: list.Items, value: value}
	var err error
	if s.params, err = httpsfv.Marshal(list); err != nil {
		return nil, errors.New(name + " has parameters that cannot be written")
	}
	for _, it := range list.Items {
		id, ok := it.Value.(string)
		if !ok || id == "" || id != strings.ToLower(id) {
			return nil, errors.New(name + " covers something that is no name in small letters and double quotes")
		}
		text, err := httpsfv.Marshal(it)
		if err != nil {
			return nil, errors.New(name + " covers something that cannot be written")
		}
		if slices.Contains(s.ids, text) {
			return nil, errors.New(name + " covers " + excerpt(id, 64) + " twice")
		}
		s.ids = append(s.ids, text)
	}
	text := func(param string) (string, error) {
		v, ok := list.Params.Get(param)
		t, is := v.(string)
		if ok && (!is || len(t) > maxParameter) {
			return "", errors.New("the parameter " + param + " of " + name + " is no text of at most " + plural(maxParameter, "byte"))
		}
		return t, nil
	}
	moment := func(param string) (time.Time, error) {
		v, ok := list.Params.Get(param)
		n, is := v.(int64)
		switch {
		case !ok:
			return time.Time{}, nil
		case !is || n < 0 || n > 1<<38:
			return time.Time{}, errors.New("the parameter " + param + " of " + name + " is no time in seconds since 1970")
		}
		return time.Unix(n, 0).UTC(), nil
	}
	var errs [5]error
	s.keyID, errs[0] = text("keyid")
	s.algorithm, errs[1] = text("alg")
	s.nonce, errs[2] = text("nonce")
	s.created, errs[3] = moment("created")
	s.expires, errs[4] = moment("expires")
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	if s.keyID == "" {
		return nil, errors.New(name + " has no parameter keyid")
	}
	return s, nil
}

// names are the components as they are written, without quotes.
func (s *signed) names() []string {
	names := make([]string, len(s.components))
	for i, it := range s.components {
		names[i] = excerpt(it.Value.(string), 64)
	}
	return names
}

// covers says that a component is signed as a whole.
func (s *signed) covers(name string) bool {
	for _, it := range s.components {
		have := it.Value.(string)
		if len(it.Params.Names()) == 0 && (have == name || slices.Contains(hmacCovers[have], name)) {
			return true
		}
	}
	return false
}

// covered checks that a signature leaves nothing out.
func (c *hmacCheck) covered(x *Exchange, s *signed) reason.Verdict {
	var missing []string
	for _, name := range c.Components {
		if !s.covers(name) {
			missing = append(missing, name)
		}
	}
	wanted := c.Components
	if c.Digest == "required" && hasContent(x) {
		if wanted = append(slices.Clip(wanted), "content-digest"); !s.covers("content-digest") {
			missing = append(missing, "content-digest")
		}
	}
	if s.created.IsZero() {
		missing = append(missing, "the parameter created")
	}
	if c.nonces != nil && s.nonce == "" {
		missing = append(missing, "the parameter nonce")
	}
	if missing == nil {
		return reason.Verdict{}
	}
	return hmacComponent.Refuse(reason.Public("missing", strings.Join(missing, ", ")), reason.Public("components", strings.Join(wanted, ", ")).At(c.at),
		reason.Public("covered", "("+strings.Join(s.names(), ", ")+")"), x.OwnerFact())
}

func hasContent(x *Exchange) bool {
	if x.Explaining {
		return x.BodySize != 0
	}
	return x.Length != 0
}

// timely checks when the signature was made.
func (c *hmacCheck) timely(x *Exchange, s *signed) reason.Verdict {
	leeway, most := time.Duration(c.Leeway), time.Duration(c.MaxAge)
	age := x.Now.Sub(s.created)
	facts := func(more ...reason.Fact) []reason.Fact {
		return append(more, reason.Public("created", s.created), reason.Public("now", x.Now), x.OwnerFact())
	}
	if age < -leeway {
		return hmacSkew.Refuse(facts(reason.Public("ahead", roughly(-age)), reason.Public("leeway", leeway).At(c.at))...)
	}
	if !s.expires.IsZero() {
		most = min(most, s.expires.Sub(s.created))
	}
	if age > most+leeway {
		return hmacStale.Refuse(facts(reason.Public("age", roughly(age)), reason.Public("limit", most).At(c.at))...)
	}
	return reason.Verdict{}
}

// digest checks the content where it is signed.
func (c *hmacCheck) digest(x *Exchange, s *signed) reason.Verdict {
	if !s.covers("content-digest") {
		return reason.Verdict{}
	}
	field := strings.Join(fieldValues(x, "Content-Digest"), ", ")
	refuse := func(fault string) reason.Verdict {
		return hmacDigest.Refuse(reason.Public("fault", fault), reason.Public("signed", excerpt("Content-Digest: "+field, 300)), x.OwnerFact())
	}
	d, err := httpsfv.UnmarshalDictionary([]string{field})
	if err != nil {
		return refuse("Content-Digest is no dictionary of structured fields")
	}
	body, v := x.Body(int64(c.MaxBody))
	if v.Refused() {
		return v
	}
	known := 0
	for _, algorithm := range []string{"sha-256", "sha-512"} {
		member, ok := d.Get(algorithm)
		if !ok {
			continue
		}
		known++
		item, _ := member.(httpsfv.Item)
		want, _ := item.Value.([]byte)
		var have []byte
		if algorithm == "sha-256" {
			sum := sha256.Sum256(body)
			have = sum[:]
		} else {
			sum := sha512.Sum512(body)
			have = sum[:]
		}
		if subtle.ConstantTimeCompare(want, have) != 1 {
			return refuse("the " + plural(len(body), "byte") + " of content have " + algorithm + "=:" + base64.StdEncoding.EncodeToString(have) + ":")
		}
	}
	if known == 0 {
		return refuse("it holds neither sha-256 nor sha-512")
	}
	return reason.Verdict{}
}

// fresh checks that the nonce was not seen, and remembers it for as long as the signature counts.
func (c *hmacCheck) fresh(x *Exchange, s *signed, cred *consumer.Credential) reason.Verdict {
	if c.nonces == nil {
		return reason.Verdict{}
	}
	who := cred.Name + "\x00" + s.keyID + "\x00" + s.nonce
	until := s.created.Add(time.Duration(c.MaxAge+c.Leeway) + time.Second)
	// Clocks of other nodes may be behind this one.
	first, by := c.shared.first(x, c.limit, who, until.Sub(x.Now)+time.Duration(c.Leeway))
	switch by {
	case refused:
		return c.shared.refuse(x)
	case byShare, byNobody:
		x.Note("counters.away", "the shared counters at "+c.shared.Store.Address()+" are away: "+c.shared.Store.Why()+"; nonces were remembered by this node alone")
	}
	key, seen := sha256.Sum256([]byte(who)), false
	if x.Explaining {
		_, seen = c.nonces.seen.find(&key, x.Now)
	} else {
		seen = !c.nonces.seen.add(&key, struct{}{}, x.Now, until)
	}
	if seen || !first {
		return hmacReplayed.Refuse(reason.Own("nonce", excerpt(s.nonce, 64)).At(c.at), x.OwnerFact())
	}
	return reason.Verdict{}
}

// macOf is the hmac-sha256 of a text.
func macOf(secret, text []byte) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write(text)
	return h.Sum(nil)
}
