// Package admin is the API for operators: is the node well, what did it do with a call, what
// would it do. It listens on its own address, which is loopback unless somebody chooses otherwise,
// and wants a token for all that tells anything about calls or documents.
package admin

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/resource"
)

// Server answers the admin API of one node.
type Server struct {
	Gateway *gateway.Gateway
	Calls   *calllog.Reader  // nil without records
	Journal *calllog.Journal // nil without records
	// NoJournal is why there is none.
	NoJournal error
	Token     string
	Log       *slog.Logger
	Started   time.Time
	Version   string
	// Reload loads the documents again and says what is wrong with them. An error is why it does not.
	Reload func() (resource.Problems, error)
	// LastReload tells the last attempt to load documents.
	LastReload func() ReloadStatus
	// Draining says that the node is leaving.
	Draining func() bool

	asked          atomic.Int64 // when readyz was asked for last, in seconds since 1970
	metricsOnce    sync.Once
	metricsHandler http.Handler
}

// ReloadStatus is how the last attempt to load documents ended.
type ReloadStatus struct {
	At time.Time `json:"at,omitzero"`
	// OK says that what was loaded is in use. Otherwise Problems says why not, and the revision
	// before stays.
	OK       bool              `json:"ok"`
	Problems resource.Problems `json:"problems,omitempty"`
}

// route is one line of the API. The list is golden.
type route struct {
	Pattern string
	Open    bool // needs no token
	About   string
	handle  func(*Server, http.ResponseWriter, *http.Request)
}

// routes is the whole admin API.
var routes = []route{
	{"GET /healthz", true, "the process is alive", (*Server).healthz},
	{"GET /readyz", true, "the node takes calls; 503 before the first revision and while draining", (*Server).readyz},
	{"GET /metrics", true, "Prometheus metrics", (*Server).metrics},
	{"GET /v1/status", false, "revision, listeners, upstreams, records, counts", (*Server).status},
	{"GET /v1/calls", false, "call records, newest first; parameters as the flags of whygate calls", (*Server).calls},
	{"GET /v1/calls/follow", false, "call records as they come, one JSON document a line", (*Server).follow},
	{"GET /v1/calls/{id}", false, "one call with its explanation; last for the newest that was refused or failed", (*Server).call},
	{"POST /v1/explain", false, "what would become of a call: gateway.Question in, gateway.Explanation out", (*Server).explain},
	{"POST /v1/reload", false, "load the documents again", (*Server).reload},
	{"POST /v1/cache/purge", false, "take answers out of the caches; parameters api, host and path, which may end with a star", (*Server).purge},
}

// Routes lists the API for the reference and the golden test.
func Routes() (list [][2]string) {
	for _, r := range routes {
		list = append(list, [2]string{r.Pattern, r.About})
	}
	return list
}

// Handler serves the API.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range routes {
		mux.HandleFunc(r.Pattern, func(w http.ResponseWriter, req *http.Request) {
			switch {
			case s.authorized(req):
			case !r.Open:
				w.Header().Set("WWW-Authenticate", `Bearer realm="whygate admin"`)
				problem(w, 401, "the admin API wants a token", `send "Authorization: Bearer TOKEN"; the token is in the file admin.token of the node's data directory`)
				return
			case rebound(req):
				problem(w, 421, fmt.Sprintf("on loopback the admin API answers to an address or localhost, not to the host %q", short(req.Host)),
					"call it by http://127.0.0.1; a proxy in front writes that into Host, or sends the token")
				return
			}
			r.handle(s, w, req)
		})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 10<<20)
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if _, pattern := mux.Handler(r); pattern == "" {
			problem(w, 404, fmt.Sprintf("the admin API has no %s %s", r.Method, r.URL.Path), "whygate status --help names what there is; docs/reference/admin.md lists all")
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (s *Server) authorized(r *http.Request) bool {
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && s.Token != "" && subtle.ConstantTimeCompare([]byte(given), []byte(s.Token)) == 1
}

// rebound says that a request which came over loopback calls for a name that somebody else may have pointed here: the page of
// a foreign site, in a browser on this machine, reads what needs no token so (DNS rebinding).
func rebound(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if !ok || !local.IP.IsLoopback() {
		return false
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err != nil && host != "" && host != "localhost" && !strings.HasSuffix(host, ".localhost")
}

// Problem is how the admin API says what went wrong (RFC 9457).
type Problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}

func problem(w http.ResponseWriter, status int, detail, fix string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	write(w, Problem{Title: http.StatusText(status), Status: status, Detail: detail, Fix: fix})
}

func write(w io.Writer, v any) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.Encode(v) // the client has gone if this fails
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	write(w, v)
}

func (s *Server) healthz(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok\n") }

// Watched says whether somebody asks from time to time if the node is ready, and did within the last minute.
func (s *Server) Watched() bool { return time.Since(time.Unix(s.asked.Load(), 0)) < time.Minute }

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	s.asked.Store(time.Now().Unix())
	switch {
	case s.Draining != nil && s.Draining():
		problem(w, 503, "the node is draining", "")
	case s.Gateway.Snapshot() == nil:
		problem(w, 503, "no documents are in use yet", "")
	default:
		io.WriteString(w, "ready\n")
	}
}

func (s *Server) noRecords(w http.ResponseWriter) bool {
	if s.Calls == nil {
		problem(w, 503, "this node keeps no call records", "whygate status says why")
		return true
	}
	return false
}

func (s *Server) calls(w http.ResponseWriter, r *http.Request) {
	if s.noRecords(w) {
		return
	}
	f, err := ParseFilter(r.URL.Query(), time.Now())
	if err != nil {
		problem(w, 400, err.Error(), "")
		return
	}
	list := []Call{}
	err = s.Calls.Query(r.Context(), f, func(rec *calllog.Record) bool {
		list = append(list, s.callOf(rec))
		return true
	})
	switch {
	case errors.Is(err, calllog.ErrNoRecord):
		problem(w, 404, NoRecord(f.Before).Error(), "")
	case err != nil && r.Context().Err() == nil:
		problem(w, 500, err.Error(), "")
	default:
		answer(w, list)
	}
}

func (s *Server) follow(w http.ResponseWriter, r *http.Request) {
	if s.noRecords(w) {
		return
	}
	q := r.URL.Query()
	q.Del("limit")
	q.Del("before")
	f, err := ParseFilter(q, time.Now())
	if err != nil {
		problem(w, 400, err.Error(), "")
		return
	}
	f.Limit = 0
	w.Header().Set("Content-Type", "application/x-ndjson")
	rc := http.NewResponseController(w)
	rc.Flush()
	s.Calls.Follow(r.Context(), f, func(rec *calllog.Record) bool {
		write(w, s.callOf(rec))
		return rc.Flush() == nil
	})
}

// ErrNoCall is what errors of FindCall are where there is no such record.
var ErrNoCall = errors.New("no such call")

type noCall struct{ error }

func (noCall) Is(target error) bool { return target == ErrNoCall }

// FindCall looks a call up by its id, or "last" for the newest that was refused or failed, and
// failing that the newest of all. An error that is ErrNoCall says that there is no such record, any other that the
// records cannot be read.
func FindCall(calls *calllog.Reader, id string) (*calllog.Record, error) {
	if id == "last" {
		for _, f := range []calllog.Filter{{Refused: true, Failed: true, Relayed: true}, {}} {
			recs, err := calls.Last(1, f)
			if err != nil {
				return nil, err
			}
			if len(recs) > 0 {
				return &recs[0], nil
			}
		}
		return nil, noCall{errors.New("no call has been recorded yet")}
	}
	parsed, err := calllog.ParseID(id)
	if err != nil {
		return nil, noCall{fmt.Errorf("%q is no call id: %w", short(id), err)}
	}
	rec, ok, err := calls.Find(parsed)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, NoRecord(parsed)
	}
	return &rec, nil
}

// NoRecord is the error about a call without a record; it is ErrNoCall.
func NoRecord(id calllog.ID) error {
	return noCall{fmt.Errorf("there is no record of call %s, which began at %s: it was made on another node, or its record has been deleted by age or size", id, id.Time().UTC().Format(time.RFC3339))}
}

// short bounds what is repeated of a text that was sent.
func short(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}

func (s *Server) call(w http.ResponseWriter, r *http.Request) {
	if s.noRecords(w) {
		return
	}
	rec, err := FindCall(s.Calls, r.PathValue("id"))
	switch {
	case errors.Is(err, ErrNoCall):
		problem(w, 404, err.Error(), "whygate calls lists what there is")
		return
	case err != nil:
		problem(w, 500, err.Error(), "see that the directory is there, and that the user of this node may read it")
		return
	}
	answer(w, s.callOf(rec))
}

// callOf is a record of this node as it is told.
func (s *Server) callOf(rec *calllog.Record) Call {
	c := CallOf(rec, true)
	c.Node = s.Gateway.Node
	return c
}

func (s *Server) explain(w http.ResponseWriter, r *http.Request) {
	var q gateway.Question
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&q); err != nil {
		problem(w, 400, "reading the question: "+err.Error(), "")
		return
	}
	snap := s.Gateway.Snapshot()
	if snap == nil {
		problem(w, 503, "no documents are in use yet", "")
		return
	}
	e, err := gateway.Explain(snap, q)
	if err != nil {
		problem(w, 400, err.Error(), "")
		return
	}
	answer(w, e)
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	problems, err := s.Reload()
	if err != nil {
		problem(w, 503, err.Error(), "")
		return
	}
	if problems.HasErrors() {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(422)
		write(w, ReloadStatus{At: time.Now(), Problems: problems})
		return
	}
	answer(w, ReloadStatus{At: time.Now(), OK: true, Problems: problems})
}

// Purged says how many answers were taken out of the caches of this node.
type Purged struct {
	Answers int `json:"answers"`
}

func (s *Server) purge(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	for name, values := range q {
		if name != "api" && name != "host" && name != "path" || len(values) != 1 {
			problem(w, 400, fmt.Sprintf("the parameter %q is not known here, or stands twice", name), "parameters are api, host and path")
			return
		}
	}
	if path := q.Get("path"); path != "" && path[0] != '/' {
		problem(w, 400, fmt.Sprintf("%q is no path", path), "a path begins with /")
		return
	}
	n := s.Gateway.Purge(q.Get("api"), q.Get("host"), q.Get("path"))
	if s.Log != nil {
		s.Log.Info("answers were taken out of the caches", "answers", n, "api", q.Get("api"), "host", q.Get("host"), "path", q.Get("path"))
	}
	answer(w, Purged{Answers: n})
}

// TokenFile is where a node keeps its admin token, below its data directory.
const TokenFile = "admin.token"

// LoadToken reads the token of a data directory, or makes one that only its owner can read.
func LoadToken(dir string) (string, error) {
	name := filepath.Join(dir, TokenFile)
	b, err := os.ReadFile(name)
	if err == nil {
		if t := string(bytes.TrimSpace(b)); len(t) >= 20 {
			return t, nil
		}
		err = fs.ErrNotExist
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading the admin token: %w", err)
	}
	buf := make([]byte, 32)
	rand.Read(buf)
	t := base64.RawURLEncoding.EncodeToString(buf)
	if err := os.WriteFile(name, []byte(t+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("writing the admin token: %w", err)
	}
	return t, nil
}

// HTTPServer is an http.Server for the admin API with bounds on its clients.
func (s *Server) HTTPServer() *http.Server {
	return &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug)}
}
