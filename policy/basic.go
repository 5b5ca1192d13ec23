package policy

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/wire"
)

// Basic identifies the calling application by user name and password (RFC 7617).
//
// The passwords are those of Credential documents, as bcrypt or argon2id hashes, which
// `whygate key new --basic USER` makes. Comparing one takes a node some 100 ms of a processor by design, so
// as many are compared at once as there are processors, and a call waits at most two seconds for its turn. A
// pair that was right is remembered for a short time, by a keyed hash in memory: those calls neither wait nor
// allocate. A change of the document counts at once all the same.
//
// A user that is not known costs as much time as a wrong password, and callers are told one reason for both.
// This needs hashes of one cost; a warning tells where they differ.
//
//	policies:
//	- basic: {realm: orders}
type Basic struct {
	// Realm that browsers show. Empty: the name of the API.
	Realm string `json:"realm" pattern:"^[ -~]*$" form:"printable ASCII characters" example:"orders"`
	// CacheFor is how long a pair that was right is remembered; 0 compares the hash on every call.
	CacheFor resource.Duration `json:"cacheFor" default:"1m" max:"1h"`
	// Forward lets the upstream see user name and password.
	Forward bool `json:"forward"`
}

var (
	basicMissing = reason.New(reason.Reason{
		Code: "basic.missing", Status: 401,
		Title:  "No user name and password were sent",
		Says:   "this API wants {wanted}, and the call carries none[; {slip}]",
		Wanted: "{wanted}",
		Seen:   "none[; {slip}]",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "send {wanted}: curl -u USER:PASSWORD, for instance"},
			{By: reason.Application, Text: "ask {owner|the owner of this API} for access if you have none"},
		},
		Hint: "a proxy in front may have taken the header Authorization away",
	})
	basicMalformed = reason.New(reason.Reason{
		Code: "basic.malformed", Status: 401,
		Title:  "User name and password cannot be read",
		Says:   "Authorization: Basic cannot be read: {fault}",
		Wanted: "Authorization: Basic and the base64 of USER:PASSWORD in UTF-8, once",
		Seen:   "{fault}",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "send base64 of USER:PASSWORD behind Basic[; {fault}]"}},
		Hint:   "RFC 7617 has the form",
	})
	basicWrong = reason.New(reason.Reason{
		Code: "basic.unknown-user-or-password", Status: 401,
		Title:  "User name or password is wrong",
		Says:   "no user has this name and this password[; {slip}]",
		Wanted: "a user name and the password that belongs to it",
		Seen:   "a pair that is not known[: user {user}][; {cause}][; {slip}]",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "check user name and password, and that they belong to this environment"},
			{By: reason.Application, Text: "ask {owner|the owner of this API} for a new password"},
		},
		Hint: "{cause}[; see Credential \"{credential}\", {written}]",
	})
	basicBusy = reason.New(reason.Reason{
		Code: "basic.busy", Status: 503,
		Title:  "Too many passwords are being checked",
		Says:   "{turns} passwords are checked at once, and this call waited {waited} for its turn",
		Wanted: "a turn within {waited}",
		Seen:   "none",
		Fixes:  []reason.Fix{{By: reason.Caller, Text: "try again in a few seconds"}, {By: reason.Operator, Text: "ask {operator|the operator} to find out who tries passwords"}},
		Hint:   "each check takes a processor for as long as the hash was made to; many at once are an attack, or a client that tries again and again with a wrong password",
	})
	basicLapses = newLapses("basic.", "password", "password", "the password of user")
)

// maxPair bounds user name and password in base64.
const maxPair = 1024

// passwords compares them, for all routes of a node and beyond revisions.
type passwords struct {
	turns    turns
	patience time.Duration // of a call that waits for its turn
	right    *recent[struct{}]
	key      [32]byte // of the hashes of pairs that are remembered
}

func newPasswords() Kept {
	p := &passwords{turns: make(turns, runtime.GOMAXPROCS(0)), patience: 2 * time.Second, right: newRecent[struct{}](16 << 10)}
	rand.Read(p.key[:])
	return p
}

// Start and Close make passwords something to keep.
func (*passwords) Start() {}
func (*passwords) Close() {}

type basicCheck struct {
	Basic
	consumers *consumer.Directory
	passwords *passwords
	dummy     *consumer.Password // compared where the user is not known
	challenge string
	at        *reason.Source
}

// Compile chooses what unknown users are compared with, and warns of hashes that differ in cost.
func (p *Basic) Compile(env *Env) any {
	c := &basicCheck{Basic: *p, consumers: env.Consumers, at: env.Source("")}
	c.passwords = env.Keep("basic", newPasswords).(*passwords)
	realm := p.Realm
	if realm == "" {
		realm = env.Route.API
	}
	c.challenge = "Basic realm=" + quote(realm) + `, charset="UTF-8"`
	all := env.Consumers.Passwords()
	switch {
	case len(all) == 0:
		env.Lint("basic.nobody", "", "make one with: whygate key new --basic USER", "no Credential has basic, so every call is refused")
		return c
	case len(all) > 1:
		costs := make([]string, len(all))
		for i, p := range all {
			costs[i] = p.Cost()
		}
		env.Lint("basic.costs-differ", "", "make them anew with one: whygate key new --basic USER", "the hashes of passwords differ in cost (%s): how long a refusal takes tells which users exist", strings.Join(costs, ", "))
	}
	c.dummy = all[0]
	return c
}

// Presents is whether the call carries a user name and password.
func (c *basicCheck) Presents(x *Exchange) bool {
	v, _ := basicField(x)
	return v != ""
}

// Wants names the header.
func (c *basicCheck) Wants() string { return "a user name and password in Authorization: Basic" }

// HeaderName is the header that pages must be allowed to send.
func (c *basicCheck) HeaderName() string { return "Authorization" }

// Challenge is what a 401 asks for.
func (c *basicCheck) Challenge(*Exchange) string { return c.challenge }

// basicField is the first Authorization field of the scheme, and how many there are.
func basicField(x *Exchange) (v string, n int) {
	for i := range x.Fields {
		if f := &x.Fields[i]; f.ID == wire.Authorization && isBasic(f.Value) {
			if n++; n == 1 {
				v = f.Value
			}
		}
	}
	return v, n
}

func isBasic(v string) bool {
	return hasPrefixFold(v, "basic") && (len(v) == 5 || v[5] == ' ' || v[5] == '\t')
}

// Check identifies the application.
func (c *basicCheck) Check(x *Exchange) reason.Verdict {
	v, n := basicField(x)
	switch {
	case n == 0 && x.Preflight:
		return x.refusePreflight(c.Wants(), c.at)
	case n == 0:
		return c.refused(x, c.missing(x))
	case n > 1:
		return c.malformed(x, "it was sent more than once")
	}
	encoded := strings.Trim(v[5:], " \t")
	if len(encoded) > maxPair {
		return c.malformed(x, "it is longer than "+plural(maxPair, "byte"))
	}
	var room [maxPair]byte
	pair, fault := decodePair(room[:], encoded)
	if fault != "" {
		return c.malformed(x, fault)
	}
	colon := slices.Index(pair, ':')
	user, password := wire.View(pair[:colon]), pair[colon+1:]
	cred := c.consumers.Named("basic", user)
	if x.Cheap && !c.remembered(x, cred, pair) {
		x.Unknown = true
		return reason.Pass(reason.Public("wanted", c.Wants()).At(c.at))
	}
	right, waited := c.compare(x, cred, pair, password)
	if !waited {
		x.Extra.Put(wire.RetryAfter, "2")
		facts := []reason.Fact{reason.Rule("turns", cap(c.passwords.turns)), reason.Public("waited", c.passwords.patience)}
		if o := x.Route.Operator; o.Contact != "" {
			facts = append(facts, reason.Own("operator", o.Contact))
		}
		return basicBusy.Refuse(facts...)
	}
	if !right {
		return c.refused(x, c.wrong(x, strings.Clone(user), password, cred))
	}
	if v := basicLapses.lapsed(x, cred); v.Refused() {
		return c.refused(x, v)
	}
	if v := x.identify(cred); v.Refused() {
		return v
	}
	if x.Explaining {
		return reason.Pass(reason.Own("user", cred.Prefix), reason.Own("application", cred.Application.Name))
	}
	return reason.Verdict{}
}

// decodePair reads user:password in base64, or says what is wrong with it.
func decodePair(room []byte, encoded string) (pair []byte, fault string) {
	if encoded == "" {
		return nil, "nothing stands behind Basic"
	}
	src := append(make([]byte, 0, maxPair), encoded...)
	n, err := base64.StdEncoding.Decode(room, src)
	if err != nil {
		// Some clients leave the padding out.
		if n, err = base64.RawStdEncoding.Decode(room, src); err != nil {
			return nil, "what stands behind Basic is no base64"
		}
	}
	pair = room[:n]
	colon := slices.Index(pair, ':')
	switch {
	case colon < 0:
		return nil, "there is no colon between user name and password"
	case colon == 0:
		return nil, "the user name is empty"
	case !utf8.Valid(pair):
		return nil, "user name and password are not in UTF-8"
	}
	for _, b := range pair {
		if b < ' ' || b == 0x7f {
			return nil, "there is a control character in it, such as a line break at the end"
		}
	}
	return pair, ""
}

// compare says whether a pair is right. ok is false when too many are being compared.
func (c *basicCheck) compare(x *Exchange, cred *consumer.Credential, pair, password []byte) (right, ok bool) {
	stored := c.dummy
	if cred != nil && cred.Password != nil {
		stored = cred.Password
	}
	if stored == nil {
		return false, true
	}
	if c.remembered(x, cred, pair) {
		return true, true
	}
	p := c.passwords
	if !p.turns.take(p.patience) {
		return false, false
	}
	right = stored.Is(slices.Clone(password)) // which lets the original stay on the stack
	p.turns.give()
	right = right && cred != nil && cred.Password == stored
	if right && c.CacheFor > 0 && !x.Explaining {
		key := c.key(cred, pair)
		p.right.add(&key, struct{}{}, x.Now, x.Now.Add(time.Duration(c.CacheFor)))
	}
	return right, true
}

// remembered says that a pair was right a short time ago.
func (c *basicCheck) remembered(x *Exchange, cred *consumer.Credential, pair []byte) bool {
	if cred == nil || cred.Password == nil || c.CacheFor == 0 {
		return false
	}
	key := c.key(cred, pair)
	_, ok := c.passwords.right.find(&key, x.Now)
	return ok
}

// key is what a pair is remembered by. The stored hash is part of it, so that a new password counts at once.
func (c *basicCheck) key(cred *consumer.Credential, pair []byte) [sha256.Size]byte {
	var room [32 + maxPair + 256]byte
	return sha256.Sum256(append(append(append(append(room[:0], c.passwords.key[:]...), cred.Hash...), 0), pair...))
}

// refused adds the field that every 401 must have.
func (c *basicCheck) refused(x *Exchange, v reason.Verdict) reason.Verdict {
	x.Extra.Put(wire.WWWAuthenticate, c.challenge)
	return v
}

func (c *basicCheck) malformed(x *Exchange, fault string) reason.Verdict {
	return c.refused(x, basicMalformed.Refuse(reason.Public("fault", fault).At(c.at), x.OwnerFact()))
}

// missing tells what Authorization carries instead.
func (c *basicCheck) missing(x *Exchange) reason.Verdict {
	facts := []reason.Fact{reason.Public("wanted", c.Wants()).At(c.at), x.OwnerFact()}
	if v, ok := x.Fields.Find(wire.Authorization); ok {
		slip := "the header Authorization is there and empty"
		if strings.HasPrefix(v, "eyJ") && strings.Count(v, ".") == 2 { // a JWT
			slip = carriesOther("a token")
		} else if !strings.Contains(v, " ") && v != "" {
			slip = "the header Authorization names no scheme: the word Basic is missing"
		} else if v != "" {
			slip = carriesOther(cmp.Or(schemeOf(v), "something"))
		}
		facts = append(facts, reason.Public("slip", slip))
	}
	return basicMissing.Refuse(facts...)
}

// wrong tells callers one thing and the operator which of the two it was.
func (c *basicCheck) wrong(x *Exchange, user string, password []byte, cred *consumer.Credential) reason.Verdict {
	facts := []reason.Fact{reason.Inner("user", excerpt(user, 64)), x.OwnerFact()}
	if cred == nil {
		facts = append(facts, reason.Inner("cause", "there is no Credential with this user name").At(c.at))
	} else {
		facts = append(facts, reason.Inner("cause", "the user is known, the password is wrong").At(c.at),
			reason.Inner("credential", cred.Name), reason.Inner("written", cred.Source.String()))
	}
	slip := ""
	trim := func(s string) bool { return s != strings.TrimSpace(s) }
	switch p := string(password); {
	case trim(user) || trim(p):
		slip = "there is a space at one end of the user name or password"
	case len(p) > 1 && (p[0] == '"' || p[0] == '\'') && p[len(p)-1] == p[0]:
		slip = "the password is wrapped in quotes"
	case strings.HasPrefix(p, "$") || strings.HasPrefix(p, "{{") || strings.HasPrefix(p, "<"):
		slip = "the password looks like a variable that was not filled in"
	case p == "":
		slip = "the password is empty"
	}
	if slip != "" {
		facts = append(facts, reason.Public("slip", slip))
	}
	return basicWrong.Refuse(facts...)
}

// EditRequest keeps user name and password from the upstream.
func (c *basicCheck) EditRequest(x *Exchange, o *wire.Outgoing) {
	if c.Forward {
		return
	}
	o.Fields = slices.DeleteFunc(o.Fields, func(f wire.Field) bool { return f.ID == wire.Authorization && isBasic(f.Value) })
}
