// Package pinpoint finds who refused a request, and why, on any server.
//
// An input (package input) becomes a Case: the refused exchange, what led to it and what is missing.
// Seal takes its secrets out. Reading comes first and sends nothing: the answer is held against
// fingerprints, what was sent is decoded, and on the server itself the configuration, the logs and
// the permissions are read (packages machine, nginx, apache, …). Each finding is a Clue. Experiments
// (package replay) change one thing each, within a safety class and two budgets, as long as they
// separate what is still possible. Conclude weighs the clues to a Verdict, and package report tells it.
package pinpoint

import (
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Field is one header field as it was written: case and order are evidence.
type Field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Header is the fields of a message in their order.
type Header []Field

// Value is the first value of a field, "" if there is none. Names compare without regard to case.
func (h Header) Value(name string) string {
	for _, f := range h {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// Has says that there is such a field.
func (h Header) Has(name string) bool {
	for _, f := range h {
		if strings.EqualFold(f.Name, name) {
			return true
		}
	}
	return false
}

// Values are all values of a field.
func (h Header) Values(name string) (values []string) {
	for _, f := range h {
		if strings.EqualFold(f.Name, name) {
			values = append(values, f.Value)
		}
	}
	return values
}

// Without is a copy that lacks some fields.
func (h Header) Without(names ...string) Header {
	kept := make(Header, 0, len(h))
next:
	for _, f := range h {
		for _, n := range names {
			if strings.EqualFold(f.Name, n) {
				continue next
			}
		}
		kept = append(kept, f)
	}
	return kept
}

// With is a copy in which a field has one value, at its old place if it had one.
func (h Header) With(name, value string) Header {
	out := make(Header, 0, len(h)+1)
	done := false
	for _, f := range h {
		if !strings.EqualFold(f.Name, name) {
			out = append(out, f)
		} else if !done {
			out, done = append(out, Field{f.Name, value}), true
		}
	}
	if !done {
		out = append(out, Field{name, value})
	}
	return out
}

// Request is a request as it was sent, or would be.
type Request struct {
	Method string
	URL    string // absolute, with its escapes as written; no fragment
	Header Header // Host only where it differs from the URL's
	Body   []byte
	Proto  string // "HTTP/1.1", "HTTP/2"; "" when not known
	Via    Via
}

// Parsed is the URL taken apart.
func (r *Request) Parsed() (*url.URL, error) { return url.Parse(r.URL) }

// Host is the name that the server is asked for, with its port if one is written.
func (r *Request) Host() string {
	if h := r.Header.Value("Host"); h != "" {
		return h
	}
	if u, err := r.Parsed(); err == nil {
		return u.Host
	}
	return ""
}

// Clone is a copy that shares nothing that is ever changed.
func (r *Request) Clone() *Request {
	c := *r
	c.Header = append(Header(nil), r.Header...)
	return &c
}

// Via is how the client reached the server, beside what the URL says.
type Via struct {
	To       string // host:port to connect to instead (--connect-to, --resolve)
	From     string // own address to connect from (--interface)
	Family   int    // 4 or 6 when only that may be used
	SNI      string // server name of the TLS handshake where it differs from the host
	Insecure bool   // certificates are not verified (-k)
	CA       string // files of --cacert, --cert, --key
	Cert     string
	Key      string
	Proxy    string // URL of -x
}

// Answer is what came back.
type Answer struct {
	Status    int // 0: none came; see Err
	Proto     string
	Header    Header
	Body      []byte // decoded, at most MaxBody bytes
	Cut       bool   // there was more, or the recording lost it
	At        time.Time
	FirstByte time.Duration // from the last byte of the request; 0 when not known
	Remote    netip.AddrPort
	Err       string // why none came, in words without secrets: "connection refused", "net::ERR_FAILED"
	TLS       string // "TLS 1.3", or what the handshake said
}

// MaxBody is how much of an answer is read.
const MaxBody = 256 << 10

// Refused says that the status is one that refusals have.
func (a *Answer) Refused() bool { return a != nil && a.Status >= 400 && a.Status <= 599 }

// Exchange is a request and, if it is known, its answer.
type Exchange struct {
	Request *Request
	Answer  *Answer // nil: only the request was given
	At      time.Time
	Kind    string // "", "preflight", "redirect", "page", "fetch": what a recording says of its purpose
}

// Case is what somebody handed in.
type Case struct {
	Source    string // "url", "curl", "har", "postman", "raw", "log"
	Exchanges []Exchange
	Asked     int      // index of the refused exchange that is asked about
	Gaps      []Gap    // what the input lacks
	Line      *LogLine // of an access log, when that is what was given
	Swap      Header   // another identity, supplied on purpose: Authorization, Cookie, keys
	Vault     *Vault   // secrets, after Seal
}

// Exchange is the one that is asked about, or nil.
func (c *Case) Exchange() *Exchange {
	if c.Asked < 0 || c.Asked >= len(c.Exchanges) {
		return nil
	}
	return &c.Exchanges[c.Asked]
}

// Gap is something that the input lacks, so that a replay would differ from what happened.
type Gap struct {
	Kind string // "sanitized", "provisional-headers", "body-cut", "file-not-read", "variable", "script", "no-answer", "no-request"
	Says string // a sentence: what is missing, and how to hand it in
	// Blocks says that a replay would prove nothing: the verdict is input-incomplete unless
	// reading alone settles it.
	Blocks bool
}

// LogLine is one line of an access log, taken apart, or what was handed in of an error log.
type LogLine struct {
	Format   string // "combined", "json", "haproxy", "envoy", "iis", "cloudfront", "alb", "error" (see ErrorText), …
	At       time.Time
	Client   string
	Method   string
	Host     string
	Path     string // with its query
	Status   int
	Upstream string // status of the next hop: "-" when there was none, "" when the format has no such field
	Fields   map[string]string
}

// ErrorText is the field of a LogLine that holds what was handed in of an error log: its lines, without secrets.
const ErrorText = "error_text"

// Source says where a clue comes from.
type Source string

// The sources, weakest first. Grade looks at them.
const (
	FromRequest    Source = "request"    // what was sent, decoded here
	FromAnswer     Source = "answer"     // the text and the fields of the answer
	FromChain      Source = "chain"      // other exchanges of the case: redirects, preflights, siblings
	FromReplica    Source = "replica"    // a WAF or a configuration that was run here
	FromFiles      Source = "files"      // permissions along a path
	FromConfig     Source = "config"     // the server's configuration, evaluated for this request
	FromExperiment Source = "experiment" // one thing was changed and the answer too, or not
	FromLog        Source = "log"        // the server says so itself
)

// Clue is one piece of evidence. Texts never hold secrets.
type Clue struct {
	Source  Source            `json:"source"`
	ID      string            `json:"id"`                // fingerprint, log pattern, operator, directive: what found it
	Cause   string            `json:"cause,omitempty"`   // an id of the catalogue; "" speaks of WHO only
	Against bool              `json:"against,omitempty"` // it makes the cause less likely
	Refuser string            `json:"refuser,omitempty"` // product: "nginx", "apache-httpd", "django"
	Hop     int               `json:"hop,omitempty"`     // from the client: 1 is the first server; 0 not known
	Weight  float64           `json:"weight"`            // natural logarithm of how much likelier the cause is for it; see Certain
	Says    string            `json:"says"`              // a sentence for people
	Quote   string            `json:"quote,omitempty"`   // what was read, cut and without secrets
	At      Place             `json:"at,omitzero"`
	Names   map[string]string `json:"names,omitempty"` // what the fix quotes: {path}, {user}, {directive}, {field}
	Fix     []string          `json:"fix,omitempty"`   // exact steps when the finder knows them better than the catalogue
}

// Weights of clues in natural logarithms of the likelihood ratio.
const (
	Certain = 6.0 // the source names the cause for this very request (400 to 1)
	Strong  = 3.0 // hardly explained otherwise (20 to 1)
	Fair    = 1.5 // usually this
	Hint    = 0.7 // points there
)

// Place is where something is written.
type Place struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
}

// Arrival is a request as one server of the chain receives it.
type Arrival struct {
	Request *Request
	Client  netip.Addr     // who it seems to come from
	Local   netip.AddrPort // where it arrives
	TLS     bool
	SNI     string
	Cert    string // client certificate: "" not known, "none", "valid", "expired", "untrusted"
	At      time.Time
	Status  int    // what the client saw in the end; 0 not known
	Why     string // "", "auth_request": a question that another hop asks on the way
	Socket  string // path of the unix socket where it arrives, when it is no TCP port
	Script  string // file that a FastCGI server is asked to run (SCRIPT_FILENAME)
}

// Decision is what the configuration of one server does with an Arrival.
type Decision struct {
	Product string
	User    string // of the worker that opens files
	Trail   []Step // how the configuration was walked
	Clues   []Clue // refusals by this configuration, the one that happens first
	Status  int    // what it answers by itself; 0 when it forwards or serves
	Next    []Arrival
	Files   []Access
	Logs    []LogFile
	// Silent are causes that this server refuses for without a line in its error log.
	Silent []string
}

// Step is one turn on the way through a configuration.
type Step struct {
	Says string `json:"says"`
	At   Place  `json:"at,omitzero"`
}

// Access is something that a worker does with a file.
type Access struct {
	Path string
	Want string // "read", "list", "search", "write", "exec"
	Says string // why: "try_files", "index", ".htaccess"
	At   Place
	// Optional says that the server goes on when it is refused or missing.
	Optional bool
	// Links says which symbolic links the server follows: "" all, "none", "owner" (of the owner of
	// the target). LinksFrom is the directory above which all are followed (disable_symlinks from=).
	Links     string
	LinksFrom string
}

// LogFile is a log that a configuration names.
type LogFile struct {
	Path    string
	Product string
	Kind    string // "error", "access", "audit"
	Level   string // threshold of an error log
	Format  string // log_format, LogFormat as written
	At      Place
}

// Files reads files of the machine, within bounds. Names are absolute paths.
type Files interface {
	ReadFile(name string) ([]byte, error)
	// Glob expands a pattern as path/filepath does.
	Glob(pattern string) ([]string, error)
}
