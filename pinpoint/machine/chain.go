package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// Decider evaluates the configuration of one server.
type Decider interface {
	Decide(pinpoint.Arrival) pinpoint.Decision
}

// Reader reads the configuration of the server that a process runs.
type Reader func(m *Machine, p *Process) (Decider, error)

// Readers is what a walk is done with.
type Readers struct {
	Servers map[string]Reader // product → reader; php-fpm is known here
	Reading
	Now  time.Time      // zero: the clock
	Zone *time.Location // of logs; nil: of the machine
}

// Hop is one server that the request came to.
type Hop struct {
	N        int // from the client: 1 is the first server
	Why      string
	At       string // address or socket
	Product  string
	Process  *Process // main process; nil when it is not known
	Worker   Identity
	Arrival  pinpoint.Arrival
	Decision pinpoint.Decision
	Denied   *pinpoint.Access // the first access that failed
	Logs     []Log
}

// Report is what the machine shows.
type Report struct {
	Clues []pinpoint.Clue
	Hops  []Hop
	Trail []pinpoint.Step
	Gaps  []pinpoint.Gap
	Files []string // that were read
}

// Bounds of a walk.
const (
	maxHops     = 8
	maxArrivals = 16
	maxAccesses = 256
	maxNext     = 8
)

// ErrElsewhere says that the target of a case is not on this machine.
var ErrElsewhere = errors.New("the target is not served by this machine")

// Walk follows the request of a case from the port that it reaches on this machine, through the
// configuration of each server, to the hop that refuses. At every hop the files are permitted or not in
// the order in which the server opens them, and the logs are searched.
func Walk(ctx context.Context, m *Machine, c *pinpoint.Case, readers Readers) (Report, error) {
	w := &walker{Machine: m, ctx: ctx, c: c, readers: readers, seen: map[string]bool{}}
	x := c.Exchange()
	if x == nil || x.Request == nil {
		return Report{}, errors.New("the case has no request")
	}
	err := w.start(x)
	w.report.Files = m.Files()
	return w.report, cmp.Or(err, ctx.Err())
}

type walker struct {
	*Machine
	ctx      context.Context
	c        *pinpoint.Case
	readers  Readers
	report   Report
	seen     map[string]bool
	arrivals int
	status   int
	query    Query
}

func (w *walker) say(n int, format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	if n > 0 {
		s = fmt.Sprintf("hop %d: %s", n, s)
	}
	w.report.Trail = append(w.report.Trail, pinpoint.Step{Says: s})
}

func (w *walker) gap(kind, format string, args ...any) {
	w.report.Gaps = append(w.report.Gaps, pinpoint.Gap{Kind: kind, Says: fmt.Sprintf(format, args...)})
}

// start finds where the request arrives here.
func (w *walker) start(x *pinpoint.Exchange) error {
	u, err := x.Request.Parsed()
	if err != nil || u.Host == "" {
		return errors.New("the URL of the request could not be read")
	}
	if x.Answer != nil {
		w.status = x.Answer.Status
	} else if w.c.Line != nil {
		w.status = w.c.Line.Status
	}
	w.query = w.ask(x, u)
	at, err := w.target(x, u)
	if err != nil {
		return err
	}
	arrival := pinpoint.Arrival{Request: x.Request, Client: w.query.Client, Local: at, TLS: u.Scheme == "https", At: w.query.At, Status: w.status}
	if arrival.TLS {
		arrival.SNI = cmp.Or(x.Request.Via.SNI, u.Hostname())
		if x.Request.Via.Cert == "" {
			arrival.Cert = "none"
		}
	}
	if arrival.At.IsZero() {
		arrival.At = cmp.Or(w.readers.Now, time.Now())
	}
	if !arrival.Client.IsValid() && at.Addr().IsLoopback() {
		// Only this machine itself can call a loopback address; the route to 127.0.0.0/8 has the source 127.0.0.1.
		arrival.Client = at.Addr()
		if at.Addr().Is4() {
			arrival.Client = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		w.query.Client = arrival.Client
	}
	if !arrival.Client.IsValid() {
		arrival.Client = w.clientOf(arrival)
		w.query.Client = arrival.Client
	}
	w.hop(arrival, 1, 1)
	return nil
}

// ask is what to look for in logs.
func (w *walker) ask(x *pinpoint.Exchange, u *url.URL) Query {
	reveal := func(s string) string { return w.c.Vault.Reveal(s) }
	q := Query{Method: cmp.Or(x.Request.Method, "GET"), Host: reveal(x.Request.Host()), Status: w.status, Now: w.readers.Now, Zone: w.readers.Zone}
	q.Path = reveal(u.EscapedPath())
	if q.Path == "" {
		q.Path = "/"
	}
	if u.RawQuery != "" {
		q.Path += "?" + reveal(u.RawQuery)
	}
	if l := w.c.Line; l != nil {
		q.At = l.At
		q.Client, _ = hostPort(l.Client)
	}
	if a, err := netip.ParseAddr(x.Request.Via.From); err == nil {
		q.Client = a.Unmap()
	}
	if q.At.IsZero() && x.Answer != nil {
		q.At = x.Answer.At
	}
	if q.At.IsZero() {
		q.At = x.At
	}
	headers := []pinpoint.Header{x.Request.Header}
	if x.Answer != nil {
		headers = append(headers, x.Answer.Header)
		// The clock of the server is the one that its logs are written by (RFC 9110, section 6.6.1).
		if date, err := http.ParseTime(x.Answer.Header.Value("Date")); err == nil && !x.Answer.Header.Has("Age") {
			if d := date.Sub(q.At); q.At.IsZero() || d > time.Second || d < -2*time.Second {
				q.At = date
			}
		}
	}
	for _, h := range headers {
		for _, name := range []string{"X-Request-Id", "X-Correlation-Id", "X-Unique-Id", "X-Whygate-Call", "X-Trace-Id", "Cf-Ray", "X-Whygate-Probe"} {
			if v := reveal(h.Value(name)); v != "" {
				q.IDs = append(q.IDs, v)
			}
		}
		if tp := strings.Split(h.Value("Traceparent"), "-"); len(tp) == 4 {
			q.IDs = append(q.IDs, tp[1])
		}
	}
	return q
}

// target is the address and port on this machine that the request reaches.
func (w *walker) target(x *pinpoint.Exchange, u *url.URL) (netip.AddrPort, error) {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	host := u.Hostname()
	if to := x.Request.Via.To; to != "" {
		if a, err := netip.ParseAddrPort(to); err == nil {
			host, port = a.Addr().String(), strconv.Itoa(int(a.Port()))
		} else if h, p, ok := strings.Cut(to, ":"); ok && !strings.Contains(p, ":") {
			host, port = h, p
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return netip.AddrPort{}, fmt.Errorf("the port of the target could not be read")
	}
	addr, err := netip.ParseAddr(host)
	loopback := host == "localhost" || strings.HasSuffix(host, ".localhost")
	switch {
	case err == nil:
	case x.Answer != nil && x.Answer.Remote.IsValid() && x.Answer.Remote.Port() == uint16(n):
		addr = x.Answer.Remote.Addr()
	case loopback && x.Request.Via.Family == 6:
		addr = netip.IPv6Loopback()
	case loopback:
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	at := netip.AddrPortFrom(addr.Unmap(), uint16(n))
	var ports []string
	var any netip.AddrPort
	for _, l := range w.Listeners() {
		if l.Path != "" {
			continue
		}
		if s := strconv.Itoa(int(l.Addr.Port())); !slices.Contains(ports, s) && len(ports) < 16 {
			ports = append(ports, s)
		}
		if l.Addr.Port() == uint16(n) && (!any.IsValid() || any.Addr().IsLoopback()) {
			any = l.Addr
		}
	}
	if addr.IsValid() && w.local(addr) {
		if any.IsValid() {
			return at, nil
		}
	} else if any.IsValid() {
		// A name, or an address that a router in front translates: whoever has the port here takes it.
		if addr.IsValid() && !addr.IsPrivate() {
			w.gap("address", "The address %v is not one of this machine. What follows holds if it leads here; a machine or network in front may have refused instead.", addr)
		} else if addr.IsValid() {
			return at, fmt.Errorf("%w: %v is none of its addresses", ErrElsewhere, addr)
		}
		return any, nil
	}
	slices.Sort(ports)
	if len(ports) == 0 {
		return at, fmt.Errorf("%w: nothing listens on port %d, and no listener could be seen", ErrElsewhere, n)
	}
	return at, fmt.Errorf("%w: nothing listens on port %d here, only on %s", ErrElsewhere, n, strings.Join(ports, ", "))
}

// clientOf finds the client in an access log of the first server.
func (w *walker) clientOf(a pinpoint.Arrival) netip.Addr {
	p, product := w.who(a)
	d, err := w.decider(p, product)
	if d == nil || err != nil {
		return netip.Addr{}
	}
	for _, l := range w.Search(w.ctx, only(d.Decide(a).Logs, "access"), w.query, w.readers.Reading) {
		var found netip.Addr
		for _, line := range l.Lines {
			if line.Entry == nil {
				continue
			}
			addr, _ := hostPort(line.Entry.Client)
			if found.IsValid() && addr != found {
				return netip.Addr{} // several clients asked for it
			}
			found = addr
		}
		if found.IsValid() {
			return found
		}
	}
	return netip.Addr{}
}

func only(logs []pinpoint.LogFile, kind string) (some []pinpoint.LogFile) {
	for _, l := range logs {
		if l.Kind == kind {
			some = append(some, l)
		}
	}
	return some
}

func (w *walker) who(a pinpoint.Arrival) (*Process, string) {
	if a.Socket != "" {
		return w.ListeningUnix(a.Socket)
	}
	return w.Listening(a.Local)
}

// decider is the evaluated configuration of a process; nil without an error when no reader is for it.
func (w *walker) decider(p *Process, product string) (Decider, error) {
	if p == nil {
		return nil, nil
	}
	read := w.readers.Servers[product]
	if read == nil && product == "php-fpm" {
		read = FPM
	}
	if read == nil {
		return nil, nil
	}
	return read(w.Machine, p)
}

// hop walks one server and those behind it. depth counts servers from the client, side branches too.
func (w *walker) hop(a pinpoint.Arrival, n, depth int) {
	where := a.Local.String()
	if a.Socket != "" {
		where = show(a.Socket)
	}
	key := where + "\x00" + a.Why + "\x00" + a.Script
	if a.Request != nil {
		key += "\x00" + a.Request.Method + "\x00" + a.Request.Host() + "\x00" + a.Request.URL
	}
	w.arrivals++
	switch {
	case w.ctx.Err() != nil:
		return
	case w.seen[key]:
		w.say(n, "the request comes to %s a second time: it runs in a circle", where)
		return
	case depth > maxHops || w.arrivals > maxArrivals:
		w.gap("hops", "The chain is longer than %d servers; the rest was not walked.", maxHops)
		return
	}
	w.seen[key] = true
	if a.Socket == "" && a.Local.IsValid() && !w.local(a.Local.Addr()) && n > 1 {
		w.say(n, "the request goes on to %s, which is another machine", where)
		w.gap("machine", "Run the same on %v, where the request goes on.", a.Local.Addr())
		return
	}
	h := Hop{N: n, Why: a.Why, At: where, Arrival: a}
	h.Process, h.Product = w.who(a)
	if h.Process == nil {
		w.nobody(&h)
		return
	}
	worker := w.Worker(h.Process)
	h.Worker = worker.Identity
	name := cmp.Or(h.Product, h.Process.Comm)
	if a.Why == "auth_request" {
		w.say(n, "to decide, the server before asks %s at %s", name, where)
	}
	w.say(n, "%s (pid %d) listens on %s; its worker runs as %s", name, h.Process.PID, where, worker.Name)
	w.renamed(&h)
	if h.Process.Product == "docker-proxy" || h.Process.Container {
		w.gap("container", "%s serves a container. Run the same inside it, where its configuration and its files are.", name)
	}
	d, err := w.decider(h.Process, h.Product)
	switch {
	case err != nil:
		w.say(n, "its configuration could not be read: %s", mask(reasonOf(err)))
		w.gap("configuration", "The configuration of %s (pid %d) could not be read: %s", name, h.Process.PID, mask(reasonOf(err)))
	case d == nil:
		w.say(n, "%s decides by its own program; its logs would tell more", name)
		w.application(&h)
		if read := slices.ContainsFunc(h.Logs, func(l Log) bool { return l.State == "lines" }); !read && (n > 1 || h.Product != "") {
			w.gap("application", "No configuration of %s is read. Its log at the time of the request is the next place to look.", name)
		}
	}
	if d == nil || err != nil {
		w.report.Hops = append(w.report.Hops, h)
		return
	}
	h.Decision = d.Decide(a)
	w.decided(&h)
	w.report.Hops = append(w.report.Hops, h)
	for i, next := range h.Decision.Next {
		if i == maxNext {
			break
		}
		if next.Why == "" && (h.Denied != nil || h.Decision.Status >= 400 && len(h.Decision.Clues) > 0) {
			continue // it was not passed on
		}
		if next.Status == 0 {
			next.Status = w.status
		}
		if next.Socket != "" {
			w.socket(&h, next.Socket)
		}
		w.hop(next, n+1, depth+1)
	}
}

// renamed notes that a server before asks by another name than the client did: what the client may not be refused for,
// this server may. It counts when something else says that a name was refused.
func (w *walker) renamed(h *Hop) {
	x := w.c.Exchange()
	if h.N < 2 || h.Arrival.Why != "" || h.Arrival.Request == nil || h.Arrival.Script != "" || x == nil || x.Request == nil {
		return
	}
	bare := func(host string) string {
		if u, err := url.Parse("http://" + host); err == nil && u.Hostname() != "" {
			return strings.ToLower(u.Hostname())
		}
		return strings.ToLower(host)
	}
	was, is := x.Request.Host(), h.Arrival.Request.Host()
	if was == "" || is == "" || bare(was) == bare(is) {
		return
	}
	fix := fmt.Sprintf("Let the server before pass the name on: %s is asked for %s, the client asked for %s.", cmp.Or(h.Product, h.Process.Comm), show(is), show(was))
	for _, o := range slices.Backward(w.report.Hops) {
		if o.N != h.N-1 || o.Why != "" {
			continue
		}
		switch o.Decision.Product {
		case "nginx":
			fix = "Add `proxy_set_header Host $host;` to the location of nginx that hands the request on, and reload nginx. " + fix
		case "apache-httpd":
			fix = "Add `ProxyPreserveHost On` to the VirtualHost that hands the request on, and reload Apache httpd. " + fix
		}
		break
	}
	w.say(h.N, "it is asked for %s, and the client asked for %s", show(is), show(was))
	w.report.Clues = append(w.report.Clues, pinpoint.Clue{Source: pinpoint.FromConfig, ID: "forwarded-host", Cause: "host-not-allowed", Hop: h.N, Weight: pinpoint.Hint / 2,
		Says: fmt.Sprintf("the server before asks for %s, and the client asked for %s", show(is), show(was)), Names: map[string]string{"host": is}, Fix: []string{fix}})
}

// opens is who opens files: the child of the user that the configuration names, if one runs; else, where
// workers come and go, that user; else the worker that runs, whatever is configured.
func (w *walker) opens(p *Process, worker Identity, user string) Identity {
	if user == "" || user == worker.Name || p == nil {
		return worker
	}
	for _, c := range w.Processes() {
		if c.Parent == p.PID && c.Product == p.Product && c.Name == user {
			return c.Identity
		}
	}
	if worker.Process == p && p.UID == 0 && p.Product == "php-fpm" {
		if who, err := w.Identity(user); err == nil {
			who.Process = p
			return who
		}
	}
	return worker
}

// socket asks whether a worker may connect to a unix socket (unix(7): that takes write permission).
func (w *walker) socket(h *Hop, name string) {
	_, _, walk := w.Permit(pinpoint.Access{Path: name, Says: "socket"}, h.Worker)
	last := walk[len(walk)-1]
	if last.Missing || last.Unknown != "" {
		return
	}
	ok, clues, _ := w.Permit(pinpoint.Access{Path: name, Want: "write", Says: "socket"}, h.Worker)
	if ok || len(clues) == 0 {
		return
	}
	c := clues[0]
	c.Cause, c.Hop, c.Weight = "upstream-unavailable", h.N, pinpoint.Strong
	c.Says = fmt.Sprintf("%s may not connect to the socket %s: %s", h.Worker.Name, show(name), c.Says)
	c.Fix = []string{fmt.Sprintf("Set listen.owner, listen.group and listen.mode = 0660 of the pool so that %s may connect.", h.Worker.Name)}
	w.report.Clues = append(w.report.Clues, c)
	w.say(h.N, "%s may not connect to %s", h.Worker.Name, show(name))
}

// nobody says what it means that no process can be named.
func (w *walker) nobody(h *Hop) {
	for _, l := range w.Listeners() {
		if h.Arrival.Socket != "" && l.Path == h.Arrival.Socket || h.Arrival.Socket == "" && l.Path == "" && l.Addr.Port() == h.Arrival.Local.Port() {
			w.say(h.N, "a process of %s listens on %s; which one may not be seen", w.users.name(l.UID), h.At)
			w.gap("permission", "Which process listens on %s can be seen by root only: run with sudo.", h.At)
			w.report.Hops = append(w.report.Hops, *h)
			return
		}
	}
	w.say(h.N, "nobody listens on %s", h.At)
	w.report.Clues = append(w.report.Clues, pinpoint.Clue{Source: pinpoint.FromFiles, ID: "listeners", Cause: "upstream-unavailable", Hop: h.N, Weight: pinpoint.Hint,
		Says: fmt.Sprintf("nobody listens on %s now, where the server before sends the request", h.At), Names: map[string]string{"address": h.At}})
	w.report.Hops = append(w.report.Hops, *h)
}

// decided adds what one server's configuration, files and logs say.
func (w *walker) decided(h *Hop) {
	d := &h.Decision
	d.Product = cmp.Or(d.Product, h.Product)
	for _, s := range d.Trail {
		s.Says = fmt.Sprintf("hop %d: %s", h.N, s.Says)
		w.report.Trail = append(w.report.Trail, s)
	}
	h.Worker = w.opens(h.Process, h.Worker, d.User)
	refused := d.Status >= 400 && len(d.Clues) > 0
	clues := slices.Clone(d.Clues)
	objects := w.files(h, refused, &clues)
	if h.Process != nil {
		q := w.query
		q.Objects = objects
		if h.Arrival.Request != nil && h.N > 1 {
			q = w.behind(q, h.Arrival)
		}
		h.Logs = w.Search(w.ctx, d.Logs, q, w.readers.Reading)
		clues = append(clues, w.heard(h, clues)...)
		w.refine(h, clues)
		clues = append(clues, w.Denied(w.ctx, q, w.Worker(h.Process), w.readers.Reading)...)
	}
	for i := range clues {
		c := &clues[i]
		c.Hop = h.N
		if c.Refuser == "" && c.Cause != "" && !c.Against && c.Source != pinpoint.FromLog {
			c.Refuser = d.Product
		}
	}
	w.report.Clues = append(w.report.Clues, clues...)
}

// behind is the query for a server that another one asks.
func (w *walker) behind(q Query, a pinpoint.Arrival) Query {
	if u, err := a.Request.Parsed(); err == nil {
		q.Path = w.c.Vault.Reveal(cmp.Or(u.EscapedPath(), "/"))
		if u.RawQuery != "" {
			q.Path += "?" + w.c.Vault.Reveal(u.RawQuery)
		}
	}
	q.Method, q.Host, q.Port = cmp.Or(a.Request.Method, q.Method), "", 0
	if a.Why != "" {
		q.Status = 0
	}
	if a.Client.IsValid() {
		q.Client = a.Client.Unmap()
	}
	return q
}

// files asks whether the worker may open what the server opens, in order. It returns their names.
func (w *walker) files(h *Hop, refused bool, clues *[]pinpoint.Clue) (objects []string) {
	for i, a := range h.Decision.Files {
		if i == maxAccesses {
			w.gap("files", "The server may open more than %d files for this request; the rest was not looked at.", maxAccesses)
			break
		}
		if a.Path != "" && len(objects) < 64 {
			objects = append(objects, a.Path)
		}
		ok, found, walk := w.Permit(a, h.Worker)
		last := walk[len(walk)-1]
		what := fmt.Sprintf("%s %s (%s)", h.Worker.Name, show(a.Path), cmp.Or(a.Says, a.Want))
		override := path.Base(a.Path) == ".htaccess" || strings.Contains(a.Says, ".htaccess")
		step := ""
		switch {
		case ok && len(found) > 0:
			step = what + ": the permissions allow it, a security module may not"
		case ok:
			step = what + ": allowed"
		case last.Unknown != "":
			step = what + ": cannot be seen from here: " + last.Unknown
			w.gap("permission", "%s may not be looked at by this program: run as root, or look at its permissions.", show(last.Path))
		case last.Missing && !last.Denied:
			step = what + ": does not exist; " + show(nearest(walk)) + " does"
		default:
			step = what + ": denied at " + show(last.Path)
		}
		w.report.Trail = append(w.report.Trail, pinpoint.Step{Says: fmt.Sprintf("hop %d: %s", h.N, step), At: a.At})
		denied := !ok && last.Denied
		override = override && h.Decision.Product == "apache-httpd"
		for _, c := range found {
			if override && denied && last.dir() {
				a.Optional = false // Apache does not go on (AH00529)
			}
			*clues = append(*clues, w.weigh(c, h, a, denied, refused && !override))
		}
		if denied && override && !last.dir() {
			*clues = append(*clues, pinpoint.Clue{Source: pinpoint.FromFiles, ID: "stat-path", Cause: "apache-htaccess-unreadable", Weight: pinpoint.Certain, At: a.At,
				Says:  fmt.Sprintf("%s may not read %s; then Apache refuses everything below its directory (AH00529)", h.Worker.Name, show(a.Path)),
				Names: map[string]string{"path": show(a.Path), "user": h.Worker.Name}, Fix: found[0].Fix})
		}
		if ok && a.Optional || last.Missing && !last.Denied && a.Optional {
			continue
		}
		if denied && (!a.Optional || override) && h.Denied == nil {
			denial := a
			h.Denied = &denial
			break
		}
		if !ok && !a.Optional {
			break // missing, or not to be seen: what comes after it is not opened
		}
	}
	return objects
}

// weigh fits a clue of a file to what the client saw.
func (w *walker) weigh(c pinpoint.Clue, h *Hop, a pinpoint.Access, denied, refused bool) pinpoint.Clue {
	switch {
	case refused:
		// The configuration refuses before a file is opened.
		c.Weight = min(c.Weight, pinpoint.Hint)
	case w.status != 0 && !slices.Contains([]int{400, 403, 404, 405, 409, 410, 500, 502, 503}, w.status):
		c.Weight = min(c.Weight, pinpoint.Hint)
	case a.Optional && denied:
		// The server goes on: the denial shows as a 404, or as whatever comes last.
		masked := w.status == 404 && h.Decision.Product == "nginx" && strings.Contains(a.Says, "try_files")
		if masked {
			c.Names["detail"] = c.Cause
			c.Cause = "nginx-try-files-masks-permission"
			c.Says += "; try_files goes on with its next candidate, so that the denial shows as a 404"
			c.Weight = min(c.Weight, pinpoint.Strong)
		} else {
			c.Weight = min(c.Weight, pinpoint.Fair)
		}
	case c.Cause == "fs-case-or-name" && (a.Optional || w.status != 404 && w.status != 0):
		c.Weight = min(c.Weight, pinpoint.Hint)
	case denied && h.Decision.Product == "php-fpm" && (c.Cause == "fs-dir-no-search") != (w.status == 404) && w.status != 0:
		// PHP says "File not found." when it may not search the directory, "Access denied." of the file itself.
		c.Weight = min(c.Weight, pinpoint.Fair)
	case denied && w.status == 404 && h.Decision.Product == "nginx":
		// nginx answers 403 to EACCES; a 404 needs an error_page, or somebody else.
		c.Weight = min(c.Weight, pinpoint.Fair)
	}
	return c
}

// nearest is the deepest directory that exists.
func nearest(walk []Component) string {
	for _, c := range slices.Backward(walk) {
		if !c.Missing && c.Unknown == "" {
			return c.Path
		}
	}
	return "/"
}

// heard turns the logs of a hop into clues: what lines say, and what silence says of the causes that the
// configuration or the files gave.
func (w *walker) heard(h *Hop, before []pinpoint.Clue) (clues []pinpoint.Clue) {
	errorLogs, silent := 0, 0
	arrived, cleared := false, false
	var threshold string
	for _, l := range h.Logs {
		w.report.Trail = append(w.report.Trail, pinpoint.Step{Says: fmt.Sprintf("hop %d: %s", h.N, l.Says), At: l.At})
		for _, line := range l.Lines {
			arrived = arrived || line.By != "client"
			clues = append(clues, line.Clues...)
			if c, ok := passed(h, line); ok {
				clues = append(clues, c)
			}
			if l.Kind == "access" && !cleared && h.N > 1 && h.Arrival.Why == "" && line.Entry != nil && line.Entry.Status == w.status && w.status >= 400 && line.By != "like" && line.By != "client" {
				cleared = true
				clues = append(clues, w.handedOn(h)...)
			}
		}
		switch {
		case l.Kind == "access" && l.State == "silent" && !w.query.At.IsZero() && w.query.Path != "" && h.Arrival.Why == "":
			clues = append(clues, pinpoint.Clue{Source: pinpoint.FromLog, ID: "access-log-silent", Against: true, Refuser: h.Decision.Product, Weight: pinpoint.Fair, At: pinpoint.Place{File: l.Path},
				Says: fmt.Sprintf("%s: the request did not come to %s, or under another name or time", l.Says, h.Decision.Product)})
		case l.Kind == "error":
			errorLogs++
			if l.State == "silent" {
				silent++
				threshold = l.Level
			}
		}
		if l.State == "unreadable" {
			w.gap("log", "%s. Run as root, or hand its lines in.", l.Says)
		}
	}
	if len(clues) > 64 {
		clues = clues[:64]
	}
	// Silence counts only when every error log was read, and its clock is known.
	if errorLogs == 0 || silent != errorLogs || w.query.At.IsZero() {
		return clues
	}
	if slices.Contains([]string{"crit", "alert", "emerg"}, threshold) {
		return clues // refusals are logged at error: nothing was due
	}
	done := map[string]bool{}
	for _, c := range before {
		if c.Cause == "" || c.Against || done[c.Cause] {
			continue
		}
		done[c.Cause] = true
		quiet := slices.Contains(h.Decision.Silent, c.Cause)
		s := pinpoint.Clue{Source: pinpoint.FromLog, ID: "log-silence", Cause: c.Cause, Weight: pinpoint.Hint,
			Says: fmt.Sprintf("the error log of %s is silent at that time, as it is for this cause", h.Decision.Product)}
		switch {
		case quiet && arrived:
			s.Weight = pinpoint.Fair
		case quiet:
		case c.Source == pinpoint.FromConfig || c.Source == pinpoint.FromFiles:
			s.Against, s.Weight = true, pinpoint.Fair
			s.Says = fmt.Sprintf("the error log of %s is silent at that time, but this cause leaves a line", h.Decision.Product)
		default:
			continue
		}
		clues = append(clues, s)
	}
	return clues
}

// refine gives a line of a log that says "permission denied" the cause that the walk along the path finds: an
// error number names no component, and the logs of all servers say the same of a file, of its directory
// and of a security module.
func (w *walker) refine(h *Hop, clues []pinpoint.Clue) {
	for i := range clues {
		c := &clues[i]
		if c.Source != pinpoint.FromLog || c.Against || !slices.Contains([]string{"fs-file-unreadable", "fs-dir-no-search", "apache-htaccess-unreadable", "nginx-try-files-masks-permission", "fs-symlink-denied"}, c.Cause) {
			continue
		}
		name := cmp.Or(c.Names["path"], c.Names["file"])
		if !path.IsAbs(name) {
			if h.Denied == nil || !strings.Contains(c.Quote, h.Denied.Path) {
				continue
			}
			name = h.Denied.Path
		}
		ok, found, walk := w.Permit(pinpoint.Access{Path: name, Want: "read"}, h.Worker)
		last := walk[len(walk)-1]
		if ok || !last.Denied || len(found) == 0 {
			continue
		}
		f := found[len(found)-1]
		if c.Cause == "fs-symlink-denied" && f.Cause == c.Cause {
			continue
		}
		if c.Cause == "apache-htaccess-unreadable" && !last.dir() {
			c.Fix = f.Fix
			continue
		}
		if c.Cause != "nginx-try-files-masks-permission" {
			c.Cause = f.Cause
		}
		c.Says = strings.TrimSuffix(c.Says, ".") + "; along its path, " + f.Says
		c.Names, c.Fix = f.Names, f.Fix
		c.Names["file"] = show(name)
	}
}

// passed reads from a line of an access log who made the status: this server, or the one behind it.
func passed(h *Hop, line Line) (c pinpoint.Clue, ok bool) {
	e := line.Entry
	if e == nil || e.Status < 400 || e.Upstream == "" || line.By == "client" {
		return c, false
	}
	c = pinpoint.Clue{Source: pinpoint.FromLog, ID: "access-log-upstream", Weight: pinpoint.Strong, Refuser: h.Decision.Product, Quote: line.Text}
	if e.Upstream == "-" {
		c.Says = fmt.Sprintf("%s answered %d by itself: its access log names no status of a server behind it", h.Decision.Product, e.Status)
		return c, true
	}
	last := e.Upstream[strings.LastIndexAny(e.Upstream, ", :")+1:]
	if last != strconv.Itoa(e.Status) {
		return c, false
	}
	c.Against = true
	c.Says = fmt.Sprintf("%s only passed the %d on: its access log names the same status of the server behind it", h.Decision.Product, e.Status)
	return c, true
}
