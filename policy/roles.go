package policy

import (
	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
)

// Roles lets those pass who have the roles that a route wants.
//
// Roles come with the identity of the caller: from the claim of a token, from the Credential that
// was used, or from anonymous. A refusal says which are wanted, held and missing.
//
//	policies:
//	- key-auth
//	- roles: {any: [manager, auditor]}
type Roles struct {
	// All lists roles that the caller must have, each of them.
	All []string `json:"all"`
	// Any lists roles of which the caller must have at least one.
	Any []string `json:"any" example:"[manager, auditor]"`
}

var rolesInsufficient = reason.New(reason.Reason{
	Code: "roles.insufficient", Status: 403,
	Title:  "The caller lacks a role",
	Says:   "this call wants {wants}[; {caller} lacks {lacks}][; {slip}]",
	Wanted: "{wants}",
	Seen:   "{has}[; {slip}]",
	Fixes: []reason.Fix{
		{By: reason.Caller, Text: "call as somebody who has {lacks|the wanted roles}"},
		{By: reason.Owner, Text: "ask {owner|the owner of this API} for {lacks|the wanted roles}"},
	},
	Hint: "roles come from a claim of the token, or from the Credential[ \"{credential}\", {written}]",
})

// Compile checks the names.
func (p *Roles) Compile(env *Env) any {
	e := &entitlement{word: "role", reason: rolesInsufficient, held: func(id *consumer.Identity) []string { return id.Roles }, fact: reason.Own}
	e.compile(env, p.All, p.Any)
	return e
}
