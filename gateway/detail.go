package gateway

import (
	"encoding/json"
	"strings"

	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
)

// Detail is the part of a record that explains it, kept as JSON. Plain allowed calls have none.
type Detail struct {
	// Verdict that ended the call, with all facts; readers filter by tier.
	Verdict *reason.Verdict `json:"verdict,omitempty"`
	// Next are the checks behind the one that refused, as far as they could be asked.
	Next reason.Trail `json:"next,omitempty"`
	// Shadows are refusals of policies that only watch.
	Shadows reason.Trail `json:"shadows,omitempty"`
	Hints   []Hint       `json:"hints,omitempty"`
	// Hops show how the client's address was found, when a header had a say in it.
	Hops []reason.Hop `json:"hops,omitempty"`
	// Refuser is who seems to have written an upstream's refusal.
	Refuser *Refuser `json:"refuser,omitempty"`
	// From is where the policy that refused is written.
	From *reason.Source `json:"from,omitempty"`
	// Identity is who called, where the application does not say it.
	Identity *Identity `json:"identity,omitempty"`
}

// Identity is whom a method of authentication has found.
type Identity struct {
	Subject string `json:"subject"`
	Method  string `json:"method"` // "jwt"
	Issuer  string `json:"issuer,omitempty"`
}

// identityOf is the caller of a call, or nil where the application says it all.
func identityOf(x *policy.Exchange) *Identity {
	id := x.Identity
	if id == nil || id.Subject == "" || x.Application != nil && id.Subject == x.Application.Name {
		return nil
	}
	const most = 200
	cut := func(s string) string { return strings.Clone(strings.ToValidUTF8(s[:min(len(s), most)], "")) }
	return &Identity{Subject: cut(id.Subject), Method: id.Method, Issuer: cut(id.Issuer)}
}

// Hint is something odd that did not stop the call.
type Hint struct {
	Code string `json:"code"` // "stage.left", "identity.dropped"
	Text string `json:"text"`
}

func (d *Detail) empty() bool {
	return d.Verdict == nil && d.Shadows == nil && d.Hints == nil && d.Refuser == nil
}

// maxDetail bounds the JSON; what is over it loses its least important parts.
const maxDetail = 48 << 10

func (d *Detail) encode() []byte {
	if d.empty() {
		return nil
	}
	b, err := json.Marshal(d)
	if err != nil {
		panic("BUG: a detail cannot be written: " + err.Error())
	}
	if len(b) > maxDetail {
		short := Detail{Verdict: d.Verdict, Refuser: d.Refuser, From: d.From, Identity: d.Identity}
		if b, err = json.Marshal(&short); err != nil || len(b) > maxDetail {
			return nil
		}
	}
	return b
}

// DecodeDetail reads what a record holds.
func DecodeDetail(b []byte) (d Detail, err error) {
	if len(b) > 0 {
		err = json.Unmarshal(b, &d)
	}
	return d, err
}

func entryOf(s *policy.Step, o reason.Outcome, v reason.Verdict) reason.Entry {
	return reason.Entry{Check: s.Name, Kind: s.Kind, Outcome: o, Verdict: v, From: s.Source}
}
