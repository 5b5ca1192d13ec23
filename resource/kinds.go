// Package resource holds the documents that people write: their kinds, defaults
// and rules, and the strict reading that tells every problem with its place.
//
// The flow is bytes → values and where they are written (syntax.go) → Node →
// Decode (rules of the struct tags, see rules.go) → Set. References between
// documents are checked by whoever compiles a Set, with Document.Problem.
package resource

// This file is what a person may write. Field comments are the reference that
// `whygate schema` and docs/reference/documents.md print; tags hold the rules, see
// rules.go.

// Version is the apiVersion of every document.
const Version = "whygate/v1"

// The kinds of documents.
const (
	KindGateway      = "Gateway"
	KindUpstream     = "Upstream"
	KindAPI          = "API"
	KindPlan         = "Plan"
	KindApplication  = "Application"
	KindCredential   = "Credential"
	KindSubscription = "Subscription"
)

// Meta names a document.
type Meta struct {
	// Name is unique among the documents of its kind: letters, digits, "-", "_" and ".".
	Name string `json:"name" required:"true" pattern:"^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$" form:"at most 128 letters, digits, -, _ and ., a letter or digit at both ends" example:"orders"`
	// Tenant the document belongs to.
	Tenant string `json:"tenant" default:"default" pattern:"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" form:"at most 63 small letters, digits and -, a letter or digit at both ends"`
	// Labels are free words for people and searches; Whygate gives them no meaning.
	Labels map[string]string `json:"labels"`
}

// Owner is who answers for something.
type Owner struct {
	// Team that owns it. Callers whose application belongs to the same team see
	// refusals as owners do.
	Team string `json:"team" example:"orders"`
	// Contact is where to ask: an e-mail address, a URL, a channel.
	Contact string `json:"contact" example:"orders@shop.test"`
}

// Gateway says how nodes listen, whom they trust and what they tell. A set of
// documents has at most one; without it the defaults hold.
type Gateway struct {
	// Listeners are the addresses that serve calls. Empty: one on the address
	// of the flag --listen.
	Listeners []Listener `json:"listeners"`
	// TrustedProxies are the networks whose X-Forwarded-For and PROXY headers
	// are believed. With none, those headers are shown in explanations and never used. Headers by which proxies name the caller
	// to an application (Remote-User, X-Forwarded-User, SSL-Client-Verify and their like) are passed on from here only.
	TrustedProxies []Prefix `json:"trustedProxies" example:"[10.0.0.0/8]"`
	// Limits bound what one client may send or hold.
	Limits Limits `json:"limits"`
	// Timeouts bound how long a client may take.
	Timeouts ClientTimeouts `json:"timeouts"`
	// Disclosure says how much of a refusal is told to whom, in answers and at
	// /.well-known/whygate/calls/ID, which is off where all three tiers are anonymous.
	Disclosure Disclosure `json:"disclosure"`
	// LegacyStatus answers every policy refusal with 403, as estates built on older
	// gateways expect. The reason, its facts and the call record stay the same.
	LegacyStatus bool `json:"legacyStatus"`
	// RequestID says what becomes of an X-Request-Id that the client sent: keep it
	// (when it is 1 to 128 letters, digits or "-_.~:/+=@") or replace it by the call id.
	RequestID string `json:"requestId" enum:"keep,replace" default:"keep"`
	// Operator is whom to ask when only the operator can help.
	Operator Owner `json:"operator"`
	// Policies apply to every route of every API. An API or a route replaces one
	// by naming the same policy.
	Policies []PolicyEntry `json:"policies"`
	// Records says how long call records are kept.
	Records Records `json:"records"`
	// Metrics bounds what is measured.
	Metrics Metrics `json:"metrics"`
	// Drain says how a node leaves.
	Drain Drain `json:"drain"`
	// Counters says where limits are counted.
	Counters Counters `json:"counters"`
}

// Listener is one address that serves calls.
type Listener struct {
	// Name of the listener, for records and metrics.
	Name string `json:"name" default:"main"`
	// Address is host:port. An empty host listens on all addresses.
	Address string `json:"address" required:"true" example:"0.0.0.0:8443"`
	// TLS makes this an HTTPS listener.
	TLS *ListenerTLS `json:"tls"`
	// HTTP1 is the engine for HTTP/1.1: Whygate's own, or Go's standard library. Both refuse the same requests: what reaches the library has
	// passed the grammar of the other.
	HTTP1 string `json:"http1" enum:"wire,std" default:"wire"`
	// HTTP2 accepts HTTP/2: by ALPN on TLS, with prior knowledge (h2c) without it.
	HTTP2 bool `json:"http2" default:"true"`
	// ProxyProtocol expects a PROXY protocol header (version 1 or 2) on connections from
	// trusted proxies. Other peers are served by their socket address. Behind the header the
	// client speaks for itself: X-Forwarded-* and certificates in headers are believed only
	// where the announced address is a trusted proxy, too.
	ProxyProtocol bool `json:"proxyProtocol"`
}

// ListenerTLS is how a listener speaks TLS.
type ListenerTLS struct {
	// Certificates are chosen by the server name that the client asks for (SNI). The
	// first one serves clients that name none or an unknown one.
	Certificates []Certificate `json:"certificates" required:"true"`
	// MinVersion is the oldest TLS version accepted.
	MinVersion string `json:"minVersion" enum:"1.2,1.3" default:"1.2"`
	// ClientCA is a PEM file of the authorities whose certificates the policy mtls believes, where it names
	// none itself. Its path is relative to the document.
	ClientCA string `json:"clientCA" example:"tls/clients-ca.pem"`
	// ClientCertificates says whether clients are asked for a certificate. request: all are asked, and any
	// certificate may be shown. optional: they are told the authorities of clientCA, so that clients with a
	// certificate of none of them show nothing, and browsers do not ask people to choose one. No
	// client is turned away in the handshake: the policy mtls judges what was shown. Empty: request where
	// there is a clientCA, otherwise off.
	ClientCertificates string `json:"clientCertificates" enum:",off,request,optional"`
}

// Certificate is a certificate chain and its key, in PEM files. Paths are relative to
// the document; changed files are picked up like changed documents.
type Certificate struct {
	// Cert is the file with the certificate chain.
	Cert string `json:"cert" required:"true" example:"tls/shop.crt"`
	// Key is the file with the private key.
	Key string `json:"key" required:"true" example:"tls/shop.key"`
}

// Limits bound what one client may send or hold.
type Limits struct {
	// HeaderBytes bounds the request line and all header fields together.
	HeaderBytes Size `json:"headerBytes" default:"32KiB" min:"1KiB" max:"1MiB"`
	// HeaderCount bounds the number of header fields.
	HeaderCount int `json:"headerCount" default:"100" min:"8" max:"1000"`
	// URIBytes bounds the request target.
	URIBytes Size `json:"uriBytes" default:"8KiB" min:"64B" max:"64KiB"`
	// BodyBytes bounds request bodies where no size policy says otherwise; "unlimited" lifts it.
	BodyBytes Size `json:"bodyBytes" default:"10MiB" unlimited:"true"`
	// Connections is how many client connections a node holds at once. 0 derives it from what the node may use: two
	// thirds of the files that it may open, and one for each 32 KiB of half the memory of its control group.
	Connections int `json:"connections" min:"0"`
	// ConnectionsPerAddress is how many connections one address may hold at once, of IPv6 one network
	// of 64 bits; trusted proxies are exempt. 0 lifts the bound.
	ConnectionsPerAddress int `json:"connectionsPerAddress" default:"200" min:"0"`
	// Streams is how many calls one HTTP/2 connection may have in flight.
	Streams int `json:"streams" default:"100" min:"1" max:"10000"`
	// Resets is how many calls of one HTTP/2 connection a client may give up, or have the gateway give up, before they are
	// answered: so many at once, and so many in 30 s. Beyond it the connection ends with ENHANCE_YOUR_CALM. Trusted
	// proxies are exempt. 0 lifts the bound.
	Resets int `json:"resets" default:"200" min:"0"`
	// Underscores says what becomes of header names with "_", which some servers
	// read as "-" so that a client could forge a trusted header.
	Underscores string `json:"underscores" enum:"reject,drop,allow" default:"reject"`
}

// ClientTimeouts bound how long a client may take.
type ClientTimeouts struct {
	// Header is the time from the first byte of a request to the end of its header.
	Header Duration `json:"header" default:"10s" min:"100ms"`
	// Body is the longest pause between two pieces of a request body.
	Body Duration `json:"body" default:"30s" min:"100ms"`
	// Write is the longest pause in which a client takes nothing of an answer.
	Write Duration `json:"write" default:"60s" min:"100ms"`
	// Idle is how long a connection is kept open between two calls.
	Idle Duration `json:"idle" default:"2m" min:"100ms"`
	// Age is when a connection is closed after its current call, so that clients find
	// new nodes; spread by a tenth. 0 never closes.
	Age Duration `json:"age" default:"1h"`
	// Handshake bounds the TLS handshake and the PROXY header.
	Handshake Duration `json:"handshake" default:"10s" min:"100ms"`
	// HalfClosed is how long a call goes on after its client closed its sending side,
	// which looks the same as a client that is gone.
	HalfClosed Duration `json:"halfClosed" default:"1s"`
	// Tunnel is the longest silence on an upgraded connection (WebSocket).
	Tunnel Duration `json:"tunnel" default:"5m" min:"1s"`
}

// Disclosure is how much of a refusal the answer tells. Tiers, each more than the
// one before: anonymous (code, call id, generic remedy), caller (their own
// values), owner (rules, wanted values, near misses), operator (everything).
//
// A recorded call can be asked for later, at /.well-known/whygate/calls/ID of the node
// that answered it: who knows the id is told what strangers are, and the application
// that made the call, by its credential, what callers are. With anonymous for all three
// tiers nothing is told there.
type Disclosure struct {
	// Anonymous is the tier of callers who are not identified.
	Anonymous string `json:"anonymous" enum:"anonymous,caller,owner,operator" default:"anonymous"`
	// Caller is the tier of identified callers.
	Caller string `json:"caller" enum:"anonymous,caller,owner,operator" default:"caller"`
	// Owner is the tier of identified callers of the team that owns the API.
	Owner string `json:"owner" enum:"anonymous,caller,owner,operator" default:"owner"`
}

// Records bound the call records on disk.
type Records struct {
	// FileBytes is the size at which a journal file is closed and the next begun.
	FileBytes Size `json:"fileBytes" default:"64MiB" min:"1MiB" max:"1GiB"`
	// FileAge is the age at which a journal file is closed. Files are deleted as a whole, so records are kept so much longer at most.
	FileAge Duration `json:"fileAge" default:"1h" min:"1m"`
	// KeepBytes bounds all journal files together; the oldest go first.
	KeepBytes Size `json:"keepBytes" default:"1GiB" min:"4MiB"`
	// KeepFor is how long records are kept: a day, since they hold addresses of people. Whoever needs more says so here.
	KeepFor Duration `json:"keepFor" default:"24h" min:"1m"`
}

// Metrics bounds what is measured.
type Metrics struct {
	// Series is how many time series /metrics shows at most, for routes and targets together. A route takes 31 of them
	// with its first call, and one for each reason for which its calls are refused; routes that find none left are counted
	// together as "other", and so are targets beyond a quarter of all.
	Series int `json:"series" default:"10000" min:"1000" max:"1000000"`
}

// Drain says how a node leaves.
type Drain struct {
	// Delay is how long the node still takes calls after it has reported not ready, so that
	// balancers see it in time. There is none where nobody asked for /readyz within the last minute: nobody would see it.
	Delay Duration `json:"delay" default:"5s"`
	// Deadline is how long calls in flight may take to end; then they are broken off.
	Deadline Duration `json:"deadline" default:"30s"`
	// Stop is when the process ends at the latest, counted from the signal, whatever it still waits for, such as a disk that
	// does not answer.
	Stop Duration `json:"stop" default:"60s" min:"1s"`
}

// Counters says where rate limits, quotas and calls in flight are counted: by each node for
// itself, or by all nodes together in Redis (5 or later) or Valkey. There all limits of a call are asked for in one
// round trip, by the clock of the server, and a call waits no longer than Timeout.
//
// While the store is away, calls are decided as WhenAway says, without waiting for it; their records carry
// the hint counters.away, and calls that passed meanwhile are not counted later. A call on its way to the
// store when that fails may be counted there as well. The node finds out by itself when the store is back.
type Counters struct {
	// Store is where to count. redis stands for Valkey too; it is one server, with or without replicas, and
	// no Redis Cluster.
	Store string `json:"store" enum:"memory,redis" default:"memory"`
	// URL of the store: redis://[user@]host:port/database, or rediss:// for TLS.
	URL string `json:"url" example:"redis://10.0.0.9:6379/0"`
	// Password says where the password of the store is.
	Password *SecretRef `json:"password"`
	// CA is a PEM file of the authorities to believe, for rediss. Empty: those of the system.
	CA string `json:"ca" example:"tls/store-ca.crt"`
	// Timeout bounds how long a call waits for the store.
	Timeout Duration `json:"timeout" default:"50ms" min:"1ms" max:"5s"`
	// WhenAway decides calls while the store is away: local counts LocalShare of each limit in this
	// node, open lets all pass uncounted, closed refuses them with counter.unavailable.
	WhenAway string `json:"whenAway" enum:"local,open,closed" default:"local"`
	// LocalShare is the part of each limit that one node lets pass while the store is away. With
	// three nodes a third keeps the limit, while more lets callers pass who are not spread evenly.
	LocalShare float64 `json:"localShare" default:"0.5" min:"0.01" max:"1"`
	// Prefix of all keys in the store. Nodes that count together have the same.
	Prefix string `json:"prefix" default:"whygate" pattern:"^[A-Za-z0-9._-]{1,64}$" form:"1 to 64 letters, digits, . _ or -"`
}

// Upstream is a service behind the gateway: its targets and how to reach them.
type Upstream struct {
	// Targets are the instances.
	Targets []Target `json:"targets" required:"true"`
	// Protocol towards the targets. h2 speaks HTTP/2 (over TLS, or with prior
	// knowledge on http targets), which gRPC needs.
	Protocol string `json:"protocol" enum:"http1,h2" default:"http1"`
	// HostHeader is the Host that targets see: "client" passes on the client's, "target"
	// sends the target's own, anything else is sent as written. Empty means client for
	// http targets and target for https ones.
	HostHeader string `json:"hostHeader" example:"target"`
	// Balance says how a target is chosen.
	Balance Balance `json:"balance"`
	// Timeouts bound how long a target may take.
	Timeouts UpstreamTimeouts `json:"timeouts"`
	// Retries say when a call is tried again.
	Retries Retries `json:"retries"`
	// Connections bound the connections to each target.
	Connections Connections `json:"connections"`
	// Ejection takes a target out of rotation when calls to it keep failing.
	Ejection Ejection `json:"ejection"`
	// Health asks targets regularly how they are. Absent: no active checks.
	Health *Health `json:"health"`
	// Breaker stops calling an upstream that mostly fails.
	Breaker Breaker `json:"breaker"`
	// TLS is how https targets are verified.
	TLS UpstreamTLS `json:"tls"`
	// Resolve is how often host names are looked up again. Each address is a target; of a
	// name with IPv4 and IPv6 addresses those of one family are, whichever can be reached.
	Resolve Duration `json:"resolve" default:"30s" min:"1s"`
}

// Target is one instance of an upstream. A host name stands for all its addresses.
type Target struct {
	// URL is scheme, host and port. A path is put before the path of each call.
	URL string `json:"url" required:"true" example:"http://10.0.0.5:8080"`
	// Weight is its share of the calls.
	Weight int `json:"weight" default:"1" min:"0" max:"1000"`
}

// Balance says how a target is chosen for a call.
type Balance struct {
	// By is the method: round-robin (weighted), least-requests (of two random choices), hash (consistent).
	By string `json:"by" enum:"round-robin,least-requests,hash" default:"round-robin"`
	// HashOn is what the hash is taken of: address, path, application, "header:NAME" or "cookie:NAME".
	HashOn string `json:"hashOn" default:"address" pattern:"^(address|path|application|header:.+|cookie:.+)$" form:"address, path, application, header:NAME or cookie:NAME"`
}

// UpstreamTimeouts bound how long a target may take.
type UpstreamTimeouts struct {
	// Connect is the time to open a connection, TLS included.
	Connect Duration `json:"connect" default:"3s" min:"10ms"`
	// FirstByte is the time from the end of the request to the head of the answer.
	FirstByte Duration `json:"firstByte" default:"30s" min:"10ms"`
	// Idle is the longest pause within an answer, and within taking a request body.
	Idle Duration `json:"idle" default:"60s" min:"10ms"`
	// Stream replaces Idle on server-sent events and gRPC streams.
	Stream Duration `json:"stream" default:"5m" min:"10ms"`
}

// Retries say when a call is tried again on another target. Only failures before the
// first byte of an answer count, and only where nothing was sent to the client.
type Retries struct {
	// Attempts is how many further tries one call gets. A target that was too slow is not
	// asked again where it is the only one.
	Attempts int `json:"attempts" default:"1" min:"0" max:"10"`
	// NonIdempotent allows to try POST, PATCH and other unsafe methods again even where
	// the target may already have seen the request.
	NonIdempotent bool `json:"nonIdempotent"`
	// Statuses of answers that are tried again as well, such as 503.
	Statuses []int `json:"statuses" example:"[502, 503]"`
	// Budget bounds tries to this share (percent) of recent calls, so that an
	// upstream in trouble is not flooded.
	Budget int `json:"budget" default:"20" min:"0" max:"100"`
}

// Connections bound the connections to each target.
type Connections struct {
	// Max is how many calls may be at one target at once.
	Max int `json:"max" default:"1024" min:"1"`
	// Queue is how many calls may wait for a free connection.
	Queue int `json:"queue" default:"512" min:"0"`
	// QueueFor is how long a call waits.
	QueueFor Duration `json:"queueFor" default:"250ms"`
	// Idle is how many connections are kept open without a call.
	Idle int `json:"idle" default:"256" min:"0"`
	// IdleFor is how long such a connection is kept; below the 60 s after which many
	// servers close theirs.
	IdleFor Duration `json:"idleFor" default:"55s" min:"1s"`
}

// Ejection takes a target out of rotation when calls to it keep failing
// (connection refused or reset, timed out, 502, 503 or 504 answered).
type Ejection struct {
	// Failures in a row that eject a target. 0 never ejects.
	Failures int `json:"failures" default:"5" min:"0"`
	// Within is the time in which these failures must fall.
	Within Duration `json:"within" default:"10s" min:"100ms"`
	// For is the first time out; it doubles with each ejection that follows, up to ten times.
	For Duration `json:"for" default:"30s" min:"100ms"`
	// Most is the largest share (percent) of targets that may be out at once.
	Most int `json:"most" default:"50" min:"0" max:"100"`
}

// Health asks every target regularly how it is.
type Health struct {
	// Path of the question, a GET.
	Path string `json:"path" default:"/" pattern:"^/" form:"a path that begins with /"`
	// Host header of the question. Empty: the target's own.
	Host string `json:"host"`
	// Every is the interval.
	Every Duration `json:"every" default:"5s" min:"100ms"`
	// Timeout of one question.
	Timeout Duration `json:"timeout" default:"2s" min:"10ms"`
	// Statuses that mean healthy. Empty: 200 to 399.
	Statuses []int `json:"statuses"`
	// Up is how many good answers in a row bring a target back.
	Up int `json:"up" default:"2" min:"1"`
	// Down is how many bad answers in a row take it out.
	Down int `json:"down" default:"3" min:"1"`
}

// Breaker stops calling an upstream that mostly fails, and lets a few calls through
// after a while to see whether it has recovered.
type Breaker struct {
	// Rate of failures (percent) that opens the breaker. 0 never opens it.
	Rate int `json:"rate" default:"50" min:"0" max:"100"`
	// Calls is the least number of calls within Window that the rate is taken of.
	Calls int `json:"calls" default:"20" min:"1"`
	// Window is the time over which failures are counted.
	Window Duration `json:"window" default:"10s" min:"1s"`
	// Open is how long no call is let through.
	Open Duration `json:"open" default:"5s" min:"100ms"`
	// Probes is how many calls are let through then; all must succeed.
	Probes int `json:"probes" default:"5" min:"1"`
}

// UpstreamTLS is how https targets are verified, and how the gateway identifies itself.
type UpstreamTLS struct {
	// CA is a PEM file of the authorities to believe. Empty: those of the system.
	CA string `json:"ca"`
	// ServerName to ask for and to verify. Empty: the target's host.
	ServerName string `json:"serverName"`
	// Cert is a PEM file with the client certificate of the gateway.
	Cert string `json:"cert"`
	// Key is a PEM file with the key of that certificate.
	Key string `json:"key"`
	// SkipVerify accepts any certificate. For experiments only: anybody on the way could answer.
	SkipVerify bool `json:"skipVerify"`
}

// API is a set of routes with one owner. Its routes lie below
// stage path + base path + version path of each host.
type API struct {
	// Title for people.
	Title string `json:"title"`
	// Owner answers for the API; refusals name the contact.
	Owner Owner `json:"owner"`
	// Hosts that serve the API: "shop.test", or "*.shop.test" for every name below. Empty: any host.
	Hosts []string `json:"hosts" example:"[shop.test]"`
	// BasePath that all routes lie below.
	BasePath string `json:"basePath" default:"/" pattern:"^/" form:"a path that begins with /" example:"/orders"`
	// Strip says what of a call's path the upstream does not get to see: the whole
	// mount (stage, base path and version), the stage only, or nothing. What is stripped is
	// announced as X-Forwarded-Prefix and put back into Location, Link and cookie paths of answers.
	Strip string `json:"strip" enum:"mount,stage,none" default:"mount"`
	// Upstream that calls are forwarded to, by name. What the policy mock answers needs none.
	Upstream string `json:"upstream" example:"orders"`
	// Stages mount the API several times: /dev, /prod. Empty: one mount without a stage.
	Stages []Stage `json:"stages"`
	// Versions of the API. Empty: one version without a name.
	Versions []APIVersion `json:"versions"`
	// VersionHeader is the request header that chooses among versions without a path.
	VersionHeader string `json:"versionHeader" default:"Api-Version"`
	// Authentication says whether a call must be accepted by any or by all of the policies that identify
	// callers, where a route has several.
	Authentication string `json:"authentication" enum:"any,all" default:"any"`
	// Policies of every route. A route replaces one by naming the same policy.
	Policies []PolicyEntry `json:"policies"`
	// Routes of every version. Empty, and without routes in versions: one route for all methods and paths.
	Routes []Route `json:"routes"`
}

// Stage is one mount of an API.
type Stage struct {
	// Name of the stage.
	Name string `json:"name" required:"true" example:"prod"`
	// Path that the stage lies below. Empty: "/" and the name.
	Path string `json:"path" pattern:"^/" form:"a path that begins with /" example:"/prod"`
	// Hosts that serve this stage. Empty: those of the API.
	Hosts []string `json:"hosts"`
	// Upstream of this stage. Empty: that of the version or the API.
	Upstream string `json:"upstream"`
	// OpenPlan is a plan that every application has on this stage without a subscription.
	OpenPlan string `json:"openPlan"`
	// Policies of this stage; they replace policies of the API with the same name.
	Policies []PolicyEntry `json:"policies"`
}

// APIVersion is one version of an API.
type APIVersion struct {
	// Name of the version.
	Name string `json:"name" required:"true" example:"v2"`
	// Path that the version lies below, after the base path. Empty: the version is
	// chosen by the API's versionHeader.
	Path string `json:"path" pattern:"^/" form:"a path that begins with /" example:"/v2"`
	// Default serves calls without a version header. Without any default it is the last
	// active version listed.
	Default bool `json:"default"`
	// State: active, deprecated (serves, and says so in a Deprecation header) or retired
	// (refuses, and names the versions that serve).
	State string `json:"state" enum:"active,deprecated,retired" default:"active"`
	// Upstream of this version. Empty: that of the API.
	Upstream string `json:"upstream"`
	// Routes of this version, besides those of the API.
	Routes []Route `json:"routes"`
	// Policies of this version; they replace policies of the API with the same name.
	Policies []PolicyEntry `json:"policies"`
}

// Route is a set of calls, by method and path.
type Route struct {
	// Name of the route, for records and metrics. Empty: made of methods and path.
	Name string `json:"name" example:"get-order"`
	// Methods it serves. Empty: all. HEAD goes with GET.
	Methods []string `json:"methods" example:"[GET]"`
	// Path is a template: "/orders/{id}" for one segment, "/files/{rest...}" for everything
	// below. The most specific route wins, whatever the order.
	Path string `json:"path" required:"true" pattern:"^/" form:"a path that begins with /" example:"/orders/{id}"`
	// Upstream of this route. Empty: that of the stage, version or API.
	Upstream string `json:"upstream"`
	// Timeout bounds the whole call, answers that stream excepted. "unlimited" lifts it.
	Timeout Duration `json:"timeout" default:"60s" min:"10ms" unlimited:"true"`
	// LegacyStatus overrides the switch of the gateway for this route.
	LegacyStatus *bool `json:"legacyStatus"`
	// Authentication of this route: any or all of several methods. Empty: as the API says.
	Authentication string `json:"authentication" enum:",any,all"`
	// Policies of this route.
	Policies []PolicyEntry `json:"policies"`
}

// Plan is what a subscription allows.
type Plan struct {
	// Title for people.
	Title string `json:"title"`
	// RateLimit of each subscription to this plan.
	RateLimit *PlanRate `json:"rateLimit"`
	// Quota of each subscription to this plan.
	Quota *PlanQuota `json:"quota"`
	// Approval says whether the owner of the API must approve a subscription.
	Approval string `json:"approval" enum:"manual,automatic" default:"manual"`
}

// PlanRate bounds how fast one subscription may call.
type PlanRate struct {
	// Requests that may be made in each period.
	Requests int `json:"requests" required:"true" min:"1" max:"1000000000"`
	// Period is the time over which requests are spread.
	Period Duration `json:"period" default:"1m" min:"1ms" max:"366d"`
	// Burst is how many requests may come at once. 0 means as many as Requests.
	Burst int `json:"burst" min:"0" max:"1000000000"`
}

// PlanQuota bounds how many calls one subscription may make in a calendar period.
type PlanQuota struct {
	// Requests in each period.
	Requests int64 `json:"requests" required:"true" min:"1"`
	// Period of the calendar; weeks begin on Monday.
	Period string `json:"period" enum:"hour,day,week,month,year" default:"month"`
	// TimeZone in which periods begin, an IANA name.
	TimeZone string `json:"timeZone" default:"UTC" example:"Europe/Berlin"`
}

// Application is a consumer of APIs.
type Application struct {
	// Title for people.
	Title string `json:"title"`
	// Owner answers for the application.
	Owner Owner `json:"owner"`
	// Tenant is the organisation that the application belongs to, where an installation serves several.
	Tenant string `json:"tenant" example:"acme"`
	// State: active, or suspended (none of its credentials is accepted).
	State string `json:"state" enum:"active,suspended" default:"active"`
}

// Credential lets an application identify itself, in one of several ways. An API key is shown
// once, by `whygate key new`, and stored nowhere.
type Credential struct {
	// Application that it identifies, by name.
	Application string `json:"application" required:"true" example:"acme-shop"`
	// Key is how an API key is recognised.
	Key *KeyHash `json:"key" secret:"a key"`
	// Basic is a user name with the hash of a password, for the policy basic.
	Basic *BasicLogin `json:"basic" secret:"user:password"`
	// HMAC is a secret that requests are signed with, for the policy hmac.
	HMAC *HMACSecret `json:"hmac"`
	// Certificate of the client, for the policy mtls.
	Certificate *ClientCertificate `json:"certificate"`
	// Token says which tokens of an issuer are this application's, for the policies jwt and introspection.
	Token *TokenClaim `json:"token"`
	// Scopes, roles and groups that the application has when it identifies itself with this.
	Scopes []string `json:"scopes" example:"[orders.read]"`
	// Roles that come with it.
	Roles []string `json:"roles"`
	// Groups that come with it.
	Groups []string `json:"groups"`
	// State: active or revoked.
	State string `json:"state" enum:"active,revoked" default:"active"`
	// From is when it begins to be accepted.
	From Time `json:"from"`
	// Until is when it ceases to be accepted.
	Until Time `json:"until" example:"2027-06-30"`
}

// KeyHash recognises an API key without containing it.
type KeyHash struct {
	// Prefix is the first characters of the key, which may be shown.
	Prefix string `json:"prefix" required:"true" example:"wg_8fK2mQ4z"`
	// SHA256 is the SHA-256 of the whole key in hexadecimal.
	SHA256 string `json:"sha256" secret:"the key" required:"true" pattern:"^[0-9a-f]{64}$" form:"64 hexadecimal digits in small letters"`
}

// BasicLogin is a user name with a password (RFC 7617).
type BasicLogin struct {
	// Username that is sent.
	Username string `json:"username" required:"true" pattern:"^[^:]+$" form:"a name without a colon"`
	// Hash of the password: bcrypt, or argon2id in its encoded form.
	Hash string `json:"hash" secret:"the password" required:"true" pattern:"^\\$(2[aby]|argon2id)\\$" form:"a bcrypt or argon2id hash"`
}

// HMACSecret is a secret shared with the application.
type HMACSecret struct {
	// KeyID that the application names the secret by.
	KeyID string `json:"keyId" required:"true" example:"acme-1"`
	// Secret, where it is.
	Secret SecretRef `json:"secret" required:"true"`
}

// SecretRef says where a secret is: documents hold none.
type SecretRef struct {
	// File that holds it; a line break at its end does not count.
	File string `json:"file" example:"/etc/whygate/acme.secret"`
	// Env is the environment variable that holds it.
	Env string `json:"env" example:"ACME_SECRET"`
}

// ClientCertificate recognises a certificate, by one of its properties.
type ClientCertificate struct {
	// Fingerprint is the SHA-256 of the certificate in hexadecimal.
	Fingerprint string `json:"fingerprint" pattern:"^([0-9a-f]{64})?$" form:"64 hexadecimal digits in small letters"`
	// Subject is the whole distinguished name, as the policy mtls shows it.
	Subject string `json:"subject" example:"CN=acme,O=Acme"`
	// SAN is a name of the certificate: DNS name, e-mail address or URI.
	SAN string `json:"san" example:"acme.example"`
}

// TokenClaim recognises tokens by a claim.
type TokenClaim struct {
	// Issuer of the tokens. Empty: any that the policy accepts.
	Issuer string `json:"issuer" example:"https://login.example"`
	// Client is what the claim that the policy names for it (azp, client_id) has to be.
	Client string `json:"client" required:"true" example:"acme-web"`
}

// Subscription lets an application use an API under a plan.
type Subscription struct {
	// Application that subscribes, by name.
	Application string `json:"application" required:"true" example:"acme-shop"`
	// API subscribed to, by name.
	API string `json:"api" required:"true" example:"orders"`
	// Version of the API. Empty: all versions.
	Version string `json:"version" example:"v2"`
	// Stages of the API. Empty: all stages.
	Stages []string `json:"stages"`
	// Plan, by name.
	Plan string `json:"plan" required:"true" example:"standard"`
	// State: pending (waits for approval), active, suspended, rejected or expired. A pending
	// subscription to a plan with automatic approval counts as active.
	State string `json:"state" enum:"pending,active,suspended,rejected,expired" default:"pending"`
	// Requested is when it was asked for.
	Requested Time `json:"requested" example:"2026-11-22T09:40:00Z"`
	// Note of whoever decided, such as why it was rejected.
	Note string `json:"note"`
	// From is when it begins to hold.
	From Time `json:"from"`
	// Until is when it ceases to hold.
	Until Time `json:"until"`
}

// PolicyEntry is one policy in a list: its kind as the key, its settings as the value,
// and beside it how it is applied.
//
//   - rate-limit: {requests: 100, period: 1m}
//     name: per-minute
//     shadow: true
type PolicyEntry struct {
	// Kind of the policy: the key of the entry.
	Kind string `json:"-"`
	// Config is the value below that key, decoded by the policy.
	Config Node `json:"-"`
	// Name by which a route replaces or switches off a policy of its API. Empty: the kind.
	Name string `json:"name"`
	// Shadow records what the policy would have refused, and refuses and changes nothing. A policy that fails meanwhile costs
	// no call: the record has the hint shadow.panicked.
	Shadow bool `json:"shadow"`
	// Enforce is the share of callers that the policy refuses; for the others it only watches.
	// Which callers these are does not change from call to call: policies up to authentication go by the address of the
	// client, those behind it by the application or subject. What the policy does with calls that pass, such as taking the key
	// out, it does for all callers; a call that it would have refused reaches the upstream as it came. Empty: for all.
	Enforce Percent `json:"enforce" example:"10%"`
	// Off switches off an inherited policy of this name.
	Off bool `json:"off"`

	node Node // the whole entry
}
