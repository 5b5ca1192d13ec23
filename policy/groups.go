package policy

import (
	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
)

// Groups lets those pass who belong to the groups that a route wants.
//
// Groups come with the identity of the caller: from the claim of a token, from the Credential that
// was used, or from anonymous. A refusal says which are wanted, held and missing.
//
//	policies:
//	- key-auth
//	- groups: {any: [finance, board]}
type Groups struct {
	// All lists groups that the caller must belong to, each of them.
	All []string `json:"all"`
	// Any lists groups of which the caller must belong to at least one.
	Any []string `json:"any" example:"[finance, board]"`
}

var groupsInsufficient = reason.New(reason.Reason{
	Code: "groups.insufficient", Status: 403,
	Title:  "The caller is not in a wanted group",
	Says:   "this call wants {wants}[; {caller} lacks {lacks}][; {slip}]",
	Wanted: "{wants}",
	Seen:   "{has}[; {slip}]",
	Fixes: []reason.Fix{
		{By: reason.Caller, Text: "call as a member of {lacks|the wanted groups}"},
		{By: reason.Owner, Text: "ask {owner|the owner of this API} to be taken into {lacks|the wanted groups}"},
	},
	Hint: "groups come from a claim of the token, or from the Credential[ \"{credential}\", {written}]",
})

// Compile checks the names.
func (p *Groups) Compile(env *Env) any {
	e := &entitlement{word: "group", reason: groupsInsufficient, held: func(id *consumer.Identity) []string { return id.Groups }, fact: reason.Own}
	e.compile(env, p.All, p.Any)
	return e
}
