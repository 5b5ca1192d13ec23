package consumer

// Identity is who calls, as far as the method that accepted the call could tell. It is shared by
// calls and never changes.
type Identity struct {
	Method  string // the kind of the policy: jwt, key-auth, …
	Subject string
	Issuer  string
	// Scopes, Roles and Groups that the caller has.
	Scopes, Roles, Groups []string
	// Claims as the issuer wrote them; nil where there are none.
	Claims map[string]any
}
