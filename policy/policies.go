package policy

// All lists every policy, in the order of phases and within a phase in the order in which
// they decide. A new policy is one file and one line here.
var All = []Kind{
	{"maintenance", Service, func() Policy { return new(Maintenance) }},
	{"ip-access", Network, func() Policy { return new(IPAccess) }},
	{"geo", Network, func() Policy { return new(Geo) }},
	{"bot", Network, func() Policy { return new(Bot) }},
	{"cors", CORS, func() Policy { return new(CrossOrigin) }},
	{"method", Form, func() Policy { return new(Method) }},
	{"size", Form, func() Policy { return new(Size) }},
	{"key-auth", Authentication, func() Policy { return new(KeyAuth) }},
	{"basic", Authentication, func() Policy { return new(Basic) }},
	{"hmac", Authentication, func() Policy { return new(HMAC) }},
	{"mtls", Authentication, func() Policy { return new(MTLS) }},
	{"forward-auth", Authentication, func() Policy { return new(ForwardAuth) }},
	{"jwt", Authentication, func() Policy { return new(JWT) }},
	{"introspection", Authentication, func() Policy { return new(Introspection) }},
	{"anonymous", Authentication, func() Policy { return new(Anonymous) }},
	{"subscription", Subscribed, func() Policy { return new(Subscribe) }},
	{"access", Authorization, func() Policy { return new(Access) }},
	{"scopes", Authorization, func() Policy { return new(Scopes) }},
	{"roles", Authorization, func() Policy { return new(Roles) }},
	{"groups", Authorization, func() Policy { return new(Groups) }},
	{"rule", Authorization, func() Policy { return new(Rule) }},
	{"csrf", Browser, func() Policy { return new(CSRF) }},
	{"hotlink", Browser, func() Policy { return new(Hotlink) }},
	{"rate-limit", Limits, func() Policy { return new(RateLimit) }},
	{"quota", Limits, func() Policy { return new(Quota) }},
	{"concurrency", Limits, func() Policy { return new(Concurrency) }},
	{"content-type", Content, func() Policy { return new(ContentType) }},
	{"json-limits", Content, func() Policy { return new(JSONLimits) }},
	{"schema", Content, func() Policy { return new(Schema) }},
	{"waf", Content, func() Policy { return new(WAF) }},
	{"mock", Answering, func() Policy { return new(Mock) }},
	{"cache", Answering, func() Policy { return new(Cache) }},
	{"headers", Rewrite, func() Policy { return new(Headers) }},
	{"path", Rewrite, func() Policy { return new(Path) }},
	{"transform", Rewrite, func() Policy { return new(TransformPolicy) }},
	{"mask", Rewrite, func() Policy { return new(Mask) }},
	{"compress", Rewrite, func() Policy { return new(Compress) }},
}

// Names are the names of all policies.
func Names() []string {
	names := make([]string, len(All))
	for i, k := range All {
		names[i] = k.Name
	}
	return names
}

// KindNamed finds a kind and its position in All.
func KindNamed(name string) (Kind, int, bool) {
	for i, k := range All {
		if k.Name == name {
			return k, i, true
		}
	}
	return Kind{}, 0, false
}
