package policy

import (
	"crypto/sha256"
	"strings"
	"sync"
	"time"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// This file is what all policies that identify callers by Credential documents have in common.

// lapses are the reasons why a credential that is known does not count now.
type lapses struct{ revoked, expired, early *reason.Reason }

// newLapses declares them under codes that begin with prefix. title and noun name the credential, "API key" and "key"; of
// names one of them by what it shows: "key" of wg_Rw4DuHzg.
func newLapses(prefix, title, noun, of string) lapses {
	return lapses{
		revoked: reason.New(reason.Reason{
			Code: prefix + "revoked", Status: 401,
			Title:  "The " + title + " has been revoked",
			Says:   of + " {key} has been revoked",
			Wanted: "a " + noun + " that is not revoked",
			Seen:   of + " {key}[ of application \"{application}\"][{owned_by}], revoked",
			Fixes:  []reason.Fix{{By: reason.Application, Text: "use a newer " + noun + ", or ask {owner|the owner of this API} for one"}},
			Hint:   "Credential \"{credential}\" says state: revoked, {written}; a new Credential lets the application in again",
		}),
		expired: reason.New(reason.Reason{
			Code: prefix + "expired", Status: 401,
			Title:  "The " + title + " has expired",
			Says:   of + " {key} expired {ago} ago, at {until}",
			Wanted: "a " + noun + " that is still valid",
			Seen:   of + " {key}[ of application \"{application}\"][{owned_by}], valid until {until}",
			Fixes:  []reason.Fix{{By: reason.Application, Text: "ask {owner|the owner of this API} for a new " + noun}},
			Hint:   "Credential \"{credential}\" says until: {until}, {written}; a later time or a new Credential lets the application in again",
		}),
		early: reason.New(reason.Reason{
			Code: prefix + "not-yet-valid", Status: 401,
			Title:  "The " + title + " is not valid yet",
			Says:   of + " {key} is valid from {from}, in {wait}",
			Wanted: "a call at or after {from}",
			Seen:   "a call at {now}",
			Fixes:  []reason.Fix{{By: reason.Caller, Text: "wait {wait}"}},
			Hint:   "Credential \"{credential}\" says from: {from}, {written}; a clock of this node that is wrong looks the same",
		}),
	}
}

var applicationSuspended = reason.New(reason.Reason{
	Code: "application.suspended", Status: 403,
	Title:  "The application is suspended",
	Says:   "application \"{application}\" is suspended",
	Wanted: "an active application",
	Seen:   "application \"{application}\", suspended",
	Fixes:  []reason.Fix{{By: reason.Operator, Text: "ask {operator|the operator} to lift the suspension"}},
	Hint:   "set state: active in Application \"{application}\", {written}",
})

// lapsed refuses a credential that does not count now; otherwise its verdict lets pass. The caller
// has proven that the credential is theirs.
func (l *lapses) lapsed(x *Exchange, cred *consumer.Credential) reason.Verdict {
	if cred.CountsAt(x.Now) {
		return reason.Verdict{}
	}
	x.Lapsed = cred
	name := reason.Public("key", cred.Prefix)
	app := reason.Own("application", cred.Application.Name)
	by := reason.Rule("owned_by", ownedBy(cred.Application))
	doc, written := reason.Rule("credential", cred.Name).At(cred.Source), reason.Rule("written", cred.Source.String())
	switch {
	case cred.Revoked:
		return l.revoked.Refuse(name, app, by, doc, written, x.OwnerFact())
	case x.Now.Before(cred.From):
		return l.early.Refuse(name, app, doc, written, reason.Public("from", cred.From), reason.Public("now", x.Now), reason.Public("wait", roughly(cred.From.Sub(x.Now))))
	}
	return l.expired.Refuse(name, app, by, doc, written, x.OwnerFact(), reason.Public("until", cred.Until), reason.Public("ago", roughly(x.Now.Sub(cred.Until))))
}

// identify notes who calls. It refuses applications that are suspended.
func (x *Exchange) identify(cred *consumer.Credential) reason.Verdict {
	x.Credential, x.Application, x.Identity = cred, cred.Application, cred.Identity
	if !cred.Application.Suspended {
		return reason.Verdict{}
	}
	facts := []reason.Fact{reason.Own("application", cred.Application.Name).At(cred.Application.Source), reason.Rule("written", cred.Application.Source.String())}
	if o := x.Route.Operator; o.Contact != "" {
		facts = append(facts, reason.Own("operator", o.Contact))
	}
	return applicationSuspended.Refuse(facts...)
}

var preflightRefused = reason.New(reason.Reason{
	Code: "cors.preflight", Status: 403,
	Title:  "Pages of other origins cannot call this API",
	Says:   "no policy cors answers this CORS preflight[; browsers always send it without credentials, and this API wants {places}]",
	Wanted: "the policy cors, which answers preflights before credentials are asked for",
	Seen:   "a preflight from {origin} for {method}, and no policy cors",
	Fixes:  []reason.Fix{{By: reason.Owner, Text: "ask {owner|the owner of this API} to add the policy cors with the origin {origin}"}},
	Hint:   "cors decides before authentication wherever it stands in a list of policies",
})

// refusePreflight says that browsers cannot send what a method wants.
func (x *Exchange) refusePreflight(wants string, at *reason.Source) reason.Verdict {
	return preflightRefused.Refuse(reason.Public("places", wants).At(at), reason.Public("origin", strings.Clone(x.Fields.Get(wire.Origin))),
		reason.Public("method", strings.Clone(x.Fields.Get(wire.AccessControlRequestMethod))), x.OwnerFact())
}

// withdraw takes a credential out of a request, from the places that it may come in: a header, Authorization, a cookie, a query
// parameter; "" for those it does not.
func withdraw(o *wire.Outgoing, header string, authorization bool, cookie, query string) {
	kept := o.Fields[:0]
	for _, f := range o.Fields {
		switch {
		case header != "" && wire.EqualFold(f.Name, header), authorization && f.ID == wire.Authorization:
			continue
		case cookie != "" && f.ID == wire.Cookie && Cookie(f.Value, cookie) != "":
			if f.Value = withoutCookie(f.Value, cookie); f.Value == "" {
				continue
			}
		}
		kept = append(kept, f)
	}
	o.Fields = kept
	if query != "" && queryParameter(o.Query, query) != "" {
		o.Query = withoutParameter(o.Query, query)
		o.HasQuery = o.Query != ""
	}
}

// schemes of authentication: those of IANA's registry that are in use, and others that clients are known to send.
var schemes = []string{"Bearer", "Basic", "Digest", "DPoP", "GNAP", "Hawk", "HMAC", "HOBA", "JWT", "Key", "Mutual", "Negotiate", "NTLM", "OAuth", "PrivateToken",
	"SCRAM-SHA-1", "SCRAM-SHA-256", "Signature", "Token", "vapid", "ApiKey", "Api-Key", "AWS4-HMAC-SHA256", "SharedKey", "GoogleLogin"}

// schemeOf is the scheme of an Authorization field, "" if that names none that is known: then its first word may be a
// secret, and is not repeated.
func schemeOf(v string) string {
	for _, s := range schemes {
		if hasPrefixFold(v, s) && len(v) > len(s) && v[len(s)] == ' ' {
			return s
		}
	}
	return ""
}

// carries begins what is said of an Authorization field that is for somebody else.
const carries = "Authorization carries "

func carriesOther(what string) string { return carries + what + ", which is not looked at" }

// quote makes a quoted-string (RFC 9110 §5.6.4).
func quote(s string) string {
	if strings.ContainsAny(s, `"\`) {
		s = strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\\`), `"`, `\"`)
	}
	return `"` + s + `"`
}

// excerpt is at most n bytes of what a stranger sent, in characters that can be shown.
func excerpt(s string, n int) string {
	cut := len(s) > n
	if cut {
		s = s[:n]
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '·'
		}
		return r
	}, strings.ToValidUTF8(s, "·"))
	if cut {
		s += "…"
	}
	return s
}

// recent remembers values for a time, in a bounded number. Its keys are hashes, so that they are spread
// evenly and tell nothing.
type recent[V any] struct {
	most   int // values in each part
	shards [16]struct {
		mu sync.Mutex // guards m
		m  map[[sha256.Size]byte]remembered[V]
	}
}

type remembered[V any] struct {
	value V
	until time.Time
}

// newRecent makes room for about so many values.
func newRecent[V any](most int) *recent[V] {
	return &recent[V]{most: max(most/16, 1)}
}

// find returns what is remembered at that time.
func (r *recent[V]) find(key *[sha256.Size]byte, now time.Time) (v V, ok bool) {
	s := &r.shards[key[0]&15]
	s.mu.Lock()
	e, ok := s.m[*key]
	s.mu.Unlock()
	if !ok || !now.Before(e.until) {
		return v, false
	}
	return e.value, true
}

// put remembers a value until a time, in place of the one before.
func (r *recent[V]) put(key *[sha256.Size]byte, v V, now, until time.Time) {
	s := &r.shards[key[0]&15]
	s.mu.Lock()
	delete(s.m, *key)
	s.mu.Unlock()
	r.add(key, v, now, until)
}

// add remembers a value until a time. Where there is no room, what has expired goes first, and then
// anything. It reports false when the key was remembered already: then nothing changes.
func (r *recent[V]) add(key *[sha256.Size]byte, v V, now, until time.Time) bool {
	s := &r.shards[key[0]&15]
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.m[*key]; ok && now.Before(e.until) {
		return false
	}
	if s.m == nil {
		s.m = map[[sha256.Size]byte]remembered[V]{}
	}
	if len(s.m) >= r.most {
		looked := 0
		var last [sha256.Size]byte
		for k, e := range s.m {
			if last = k; !now.Before(e.until) {
				delete(s.m, k)
			}
			if looked++; looked == 64 { // no call pays for all of them
				break
			}
		}
		if len(s.m) >= r.most {
			delete(s.m, last)
		}
	}
	s.m[*key] = remembered[V]{v, until}
	return true
}

// turns bounds how many calls do something costly at once.
type turns chan struct{}

// take waits for a turn, at most so long.
func (t turns) take(patience time.Duration) bool {
	select {
	case t <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case t <- struct{}{}:
		return true
	case <-timer.C:
		return false
	}
}

func (t turns) give() { <-t }
