package policy

import (
	"slices"
	"strings"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
)

// Scopes lets those pass who were granted the scopes that a route wants.
//
// Scopes come with the identity of the caller: from the claim of a token, or from the Credential
// that was used. A refusal says which are wanted, held and missing, and callers with a bearer token are
// told in WWW-Authenticate too (RFC 6750 §3.1). More scopes than are wanted do no harm.
//
//	policies:
//	- key-auth
//	- scopes: {all: [orders.read]}
type Scopes struct {
	// All lists scopes that the caller must have, each of them.
	All []string `json:"all" example:"[orders.read]"`
	// Any lists scopes of which the caller must have at least one.
	Any []string `json:"any" example:"[orders.write, orders.admin]"`
}

var scopesInsufficient = reason.New(reason.Reason{
	Code: "scopes.insufficient", Status: 403,
	Title:  "The caller lacks a scope",
	Says:   "this call wants {wants}[; {caller} lacks {lacks}][; {slip}]",
	Wanted: "{wants}",
	Seen:   "{has}[; {slip}]",
	Fixes: []reason.Fix{
		{By: reason.Caller, Text: "call with a token or key that has {lacks|the wanted scopes}"},
		{By: reason.Owner, Text: "ask {owner|the owner of this API} to grant {lacks|the wanted scopes}"},
	},
	Hint: "scopes come from a claim of the token, or from the Credential[ \"{credential}\", {written}]",
})

// Compile checks the names.
func (p *Scopes) Compile(env *Env) any {
	e := &entitlement{word: "scope", reason: scopesInsufficient, held: func(id *consumer.Identity) []string { return id.Scopes }, fact: reason.Public}
	e.compile(env, p.All, p.Any)
	for field, names := range map[string][]string{"all": p.All, "any": p.Any} {
		env.scopeNames(field, slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "" })) // that is told already
	}
	wanted := p.All
	if len(p.Any) > 0 { // what is enough: all of the one and the first of the other
		wanted = append(append([]string{}, p.All...), p.Any[0])
	}
	e.scope = strings.Join(wanted, " ")
	return e
}
