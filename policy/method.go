package policy

import (
	"slices"
	"strings"

	"github.com/whygate/whygate/reason"
)

// Method narrows the methods that may be used, whatever routes there are.
//
// Routes already choose by method. This policy is for a rule over many of them: a whole API that
// is read only for a while, or an upstream that must never see DELETE.
//
//	policies:
//	- method: {allow: [GET, HEAD]}
type Method struct {
	// Allow lists the methods that pass; GET covers HEAD.
	Allow []string `json:"allow" example:"[GET]"`
	// Deny lists methods that do not, whatever Allow says.
	Deny []string `json:"deny" example:"[DELETE]"`
}

var methodNotAllowed = reason.New(reason.Reason{
	Code: "method.not-allowed", Status: 405,
	Title:  "This method is not allowed here",
	Says:   "{method} is not allowed on this API; {allowed} may be used",
	Wanted: "one of {allowed}",
	Seen:   "{method}",
	Fixes: []reason.Fix{
		{By: reason.Caller, Text: "use {allowed}"},
		{By: reason.Owner, Text: "ask {owner|the owner of this API} to allow {method}"},
	},
	Hint: "the policy method narrows what the route itself would serve",
})

type methodCheck struct {
	allow, deny []string
	allowField  string
	at          *reason.Source
}

// Compile checks the names.
func (p *Method) Compile(env *Env) any {
	c := &methodCheck{at: env.Source("")}
	c.allow = methods(env, "allow", p.Allow)
	c.deny = methods(env, "deny", p.Deny)
	if len(c.allow)+len(c.deny) == 0 {
		env.Problem("", "list methods under allow or deny", "method without methods decides nothing")
	}
	may := c.allow
	if len(may) == 0 {
		may = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
	}
	may = slices.DeleteFunc(slices.Clone(may), func(m string) bool { return slices.Contains(c.deny, m) })
	if len(may) == 0 {
		env.Problem("deny", "", "every allowed method is denied too")
	}
	c.allow, c.allowField = may, strings.Join(may, ", ")
	return c
}

func methods(env *Env, field string, list []string) []string {
	var out []string
	for i, m := range list {
		up := strings.ToUpper(m)
		if !env.methodName(index(field, i), m) {
			continue
		}
		out = append(out, up)
		if up == "GET" && field == "allow" {
			out = append(out, "HEAD")
		}
	}
	return out
}

// Check compares the method.
func (c *methodCheck) Check(x *Exchange) reason.Verdict {
	if slices.Contains(c.allow, x.Method) || x.Preflight {
		if x.Explaining {
			return reason.Pass(reason.Public("allowed", c.allow).At(c.at))
		}
		return reason.Verdict{}
	}
	x.Extra.Add("Allow", c.allowField)
	return methodNotAllowed.Refuse(reason.Public("method", strings.Clone(x.Method)), reason.Public("allowed", c.allow).At(c.at), x.OwnerFact())
}
