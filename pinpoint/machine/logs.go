package machine

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/whygate/whygate/pinpoint"
)

// Query says which lines of a log belong to a request.
type Query struct {
	At      time.Time      // of the refusal, on the clock of this machine; zero: not known
	Slack   time.Duration  // how far a line may be from At; 0: two seconds
	Recent  time.Duration  // how far back to look when At is not known; 0: ten minutes
	Now     time.Time      // zero: the clock
	Zone    *time.Location // of times without one; nil: of the machine
	Method  string
	Path    string // as it was sent, with its query
	Host    string
	Client  netip.Addr
	Port    uint16 // of the client
	Status  int
	IDs     []string // of the request or the transaction, at least 8 characters
	Objects []string // files that the worker opened for it
}

// Reading is how lines are understood. All may be nil.
type Reading struct {
	Match func(product, line string) []pinpoint.Clue                // the pattern table
	Parse func(line string) (*pinpoint.LogLine, error)              // access logs
	Clean func(text string) string                                  // takes more secrets out of what is quoted
	Run   func(ctx context.Context, args ...string) ([]byte, error) // journalctl; nil: not asked
}

// Line is a line that belongs to the request.
type Line struct {
	At    time.Time
	Text  string // without secrets, cut
	By    string // what ties it to the request: "id", "connection", "request", "client", "object"; "like": another client, see Search
	Clues []pinpoint.Clue
	Entry *pinpoint.LogLine // of an access log

	raw string
}

// Log is what one log says of the request.
type Log struct {
	pinpoint.LogFile
	// State is "lines", "silent" (it covers the time and has none), "uncovered" (it does not reach
	// back, or was not written by then), "unreadable", or "elsewhere" (syslog, a pipe, switched off).
	State string
	Says  string
	Lines []Line
	Read  []string // files, the rotated ones too
}

// Bounds of a search.
const (
	maxScan     = 64 << 20 // bytes of one log, its rotated files included
	maxChunk    = 64 << 10
	maxLine     = 16 << 10
	maxLines    = 200
	maxUntimed  = 32 // chunks in a row without a time: it is no log that can be searched by time
	maxRotated  = 3
	maxLogs     = 64
	journalTime = 5 * time.Second
)

// Search looks for the request in logs. The correlation rule: a line is of the request when it has its
// id or its connection number; when it has its request line, or its client, or a file that was opened
// for it, within Slack of the time. A line of the same request by another client counts little, and only
// when there is no better one: the server may know the client by another address. Lines of other
// requests are never taken.
func (m *Machine) Search(ctx context.Context, logs []pinpoint.LogFile, q Query, how Reading) []Log {
	q = q.filled()
	var found []Log
	seen := map[string]bool{}
	for _, f := range logs {
		if seen[f.Path+"\x00"+f.Kind] || len(found) == maxLogs {
			continue
		}
		seen[f.Path+"\x00"+f.Kind] = true
		s := search{Machine: m, ctx: ctx, q: q, how: how, log: Log{LogFile: f}}
		s.run(ctx)
		found = append(found, s.log)
	}
	return found
}

func (q Query) filled() Query {
	if q.Slack == 0 {
		q.Slack = 2 * time.Second
	}
	if q.Recent == 0 {
		q.Recent = 10 * time.Minute
	}
	if q.Now.IsZero() {
		q.Now = time.Now()
	}
	if q.Zone == nil {
		q.Zone = time.Local
	}
	q.IDs = slices.DeleteFunc(slices.Clone(q.IDs), func(id string) bool { return len(id) < 8 || len(id) > 256 })
	q.Client = q.Client.Unmap()
	return q
}

// window is the time in which lines count. Many logs cut their times to the second.
func (q *Query) window() (from, to time.Time) {
	if q.At.IsZero() {
		return q.Now.Add(-q.Recent), q.Now.Add(time.Minute)
	}
	return q.At.Add(-q.Slack).Truncate(time.Second), q.At.Add(q.Slack)
}

type search struct {
	*Machine
	ctx  context.Context
	q    Query
	how  Reading
	log  Log
	left int64  // bytes that may still be read
	near []Line // lines of the window that nothing ties to the request yet

	objects []string // of the query, when lines are taken whatever they say
	client  netip.Addr
}

func (s *search) run(ctx context.Context) {
	name := s.log.Path
	switch {
	case name == "" || name == "off" || name == "none" || name == "/dev/null":
		s.log.State, s.log.Says = "elsewhere", "this log is switched off"
		return
	case strings.HasPrefix(name, "syslog:"), name == "syslog", strings.HasPrefix(name, "journal"), name == "stderr", name == "stdout", name == "/dev/stderr", name == "/dev/stdout", name == "/dev/log":
		s.journal(ctx)
		return
	case !path.IsAbs(name):
		s.log.State, s.log.Says = "elsewhere", fmt.Sprintf("%s is no file: a program takes these lines", show(name))
		return
	}
	s.left = maxScan
	from, _ := s.q.window()
	covered := false
	names := append([]string{name}, s.rotated(name)...)
	for i, n := range names {
		if ctx.Err() != nil || s.left <= 0 {
			break
		}
		begins, err := s.file(n)
		if err != nil {
			if i == 0 {
				s.log.State, s.log.Says = "unreadable", fmt.Sprintf("%s: %s", show(name), reasonOf(err))
				return
			}
			break
		}
		s.log.Read = append(s.log.Read, n)
		if !begins.IsZero() && !begins.After(from) || i == 0 && s.covers(n, from) {
			covered = true
			break
		}
	}
	s.connect()
	s.end(covered)
}

// end says what the log shows.
func (s *search) end(covered bool) {
	l := &s.log
	if like := func(l Line) bool { return l.By == "like" }; slices.ContainsFunc(l.Lines, func(l Line) bool { return !like(l) }) {
		l.Lines = slices.DeleteFunc(l.Lines, like)
	}
	slices.SortStableFunc(l.Lines, func(a, b Line) int { return a.At.Compare(b.At) })
	from, to := s.q.window()
	span := fmt.Sprintf("between %s and %s", from.In(s.q.Zone).Format("15:04:05"), to.In(s.q.Zone).Format("15:04:05 -0700"))
	switch {
	case len(l.Lines) > 0:
		l.State, l.Says = "lines", fmt.Sprintf("%d lines of %s belong to the request", len(l.Lines), show(l.Path))
		if len(l.Lines) == 1 {
			l.Says = fmt.Sprintf("one line of %s belongs to the request", show(l.Path))
		}
	case covered:
		l.State, l.Says = "silent", fmt.Sprintf("%s covers the time %s and has no line of the request", show(l.Path), span)
		if l.Kind == "error" && l.Level != "" {
			l.Says += fmt.Sprintf("; its threshold is %s", show(l.Level))
		}
	default:
		l.State, l.Says = "uncovered", fmt.Sprintf("%s does not reach back to the time %s", show(l.Path), span)
	}
}

// rotated are the older files of a log, the youngest first: access.log.1, access.log.2.gz, or
// access.log-20260203.
func (s *search) rotated(name string) (older []string) {
	left := maxEntries
	names, err := s.list(path.Dir(name), &left)
	if err != nil {
		return nil
	}
	base := path.Base(name)
	for i := 1; i <= maxRotated; i++ {
		for _, end := range []string{"", ".gz"} {
			if n := fmt.Sprintf("%s.%d%s", base, i, end); slices.Contains(names, n) {
				older = append(older, path.Join(path.Dir(name), n))
			}
		}
	}
	if older != nil {
		return older
	}
	for _, n := range slices.Backward(names) {
		if rest, ok := strings.CutPrefix(n, base+"-20"); ok && len(older) < maxRotated && strings.Trim(strings.TrimSuffix(rest, ".gz"), "0123456789") == "" {
			older = append(older, path.Join(path.Dir(name), n))
		}
	}
	return older
}

// covers says that a log was there before the window and is complete since: it is empty, or its first
// line is younger, and the file is older. It is asked of the current file only.
func (s *search) covers(name string, from time.Time) bool {
	real, err := s.real(name)
	if err != nil {
		return false
	}
	b := born(real)
	return !b.IsZero() && b.Before(from)
}

// file looks through one file and returns the time of its first line.
func (s *search) file(name string) (begins time.Time, err error) {
	f, err := s.open(name)
	if err != nil {
		return begins, err
	}
	defer f.Close()
	if strings.HasSuffix(name, ".gz") {
		z, err := gzip.NewReader(bufio.NewReader(io.LimitReader(f, maxScan)))
		if err != nil {
			return begins, err
		}
		limited := &io.LimitedReader{R: z, N: s.left}
		begins = s.lines(limited, true)
		s.left = limited.N
		return begins, nil
	}
	st, err := f.Stat()
	if err != nil {
		return begins, err
	}
	from, _ := s.q.window()
	from = from.Add(-time.Minute) // lines of an access log are in the order of their ends
	size := st.Size()
	at := size
	for untimed := 0; at > 0 && size-at < s.left && untimed < maxUntimed && s.ctx.Err() == nil; untimed++ {
		at = max(0, at-maxChunk)
		head := make([]byte, min(maxChunk, size-at))
		n, err := f.ReadAt(head, at)
		if err != nil && err != io.EOF {
			return begins, err
		}
		if t, ok := s.firstTime(head[:n], at == 0); ok {
			begins, untimed = t, 0
			if t.Before(from) {
				break
			}
		}
	}
	s.left -= size - at
	// What is appended meanwhile is of no interest.
	s.lines(io.NewSectionReader(f, at, size-at), at == 0)
	return begins, nil
}

// firstTime is the time of the first whole line of a chunk that has one.
func (s *search) firstTime(chunk []byte, whole bool) (time.Time, bool) {
	for i := 0; i < 64; i++ {
		line, rest, more := bytes.Cut(chunk, []byte("\n"))
		if whole {
			if t, ok := s.time(string(line)); ok {
				return t, true
			}
		}
		if !more {
			break
		}
		chunk, whole = rest, true
	}
	return time.Time{}, false
}

func (s *search) time(line string) (time.Time, bool) {
	return stamp(line, s.log.Product, s.q.Zone, s.q.Now)
}

// lines reads lines forward, and keeps those of the request. A line without a time has that of the line
// above it.
func (s *search) lines(r io.Reader, whole bool) (begins time.Time) {
	in := bufio.NewReaderSize(r, maxLine)
	_, to := s.q.window()
	var at time.Time
	for n := 0; n%1024 != 0 || s.ctx.Err() == nil; n++ {
		raw, err := in.ReadSlice('\n')
		line := strings.TrimRight(string(raw), "\r\n")
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a line that is too long
			_, err = in.ReadSlice('\n')
		}
		if line != "" && whole {
			if t, ok := s.time(line); ok {
				if at = t; begins.IsZero() {
					begins = t
				}
			}
			if at.After(to.Add(time.Minute)) {
				return begins
			}
			s.take(line, at)
		}
		whole = true
		if err != nil {
			return begins
		}
	}
	return begins
}

var (
	quotedRequest = regexp.MustCompile(`"([A-Z]{3,16}) (\S+?)(?: HTTP/[\d.]+)?"`)
	connection    = regexp.MustCompile(`^\S+ \S+ \[\w+\] (\d+#\d+: \*\d+) `)
	apacheClient  = regexp.MustCompile(`\[(?:client|remote) ([^\]\s]+)\]`)
	nginxClient   = regexp.MustCompile(`, client: ([^,\s]+)`)
	auditedURI    = regexp.MustCompile(`\[uri "([^"]{1,1000})"\]`)
	apacheFile    = regexp.MustCompile(`AH\d{5}: (?:[^/]{0,200}: )?(/[^,\s]+)(?:, referer: \S+| pcfg_openfile.*)?$`)
	uniqueID      = regexp.MustCompile(`\[unique_id "([\w@.:+/=-]{8,128})"\]`)
)

// take decides what a line has to do with the request.
func (s *search) take(line string, at time.Time) {
	q := &s.q
	by, entry := s.ties(line, at)
	if by == "" {
		return
	}
	l := Line{At: at, By: by, Entry: entry, raw: line}
	if by == "near" {
		if len(s.near) == 8*maxLines {
			s.near = append(s.near[:0], s.near[4*maxLines:]...) // the last ones count
		}
		s.near = append(s.near, l)
		return
	}
	if len(s.log.Lines) >= maxLines {
		if !q.At.IsZero() {
			return
		}
		s.log.Lines = s.log.Lines[1:] // without a time the last ones count
	}
	s.read(&l)
	s.log.Lines = append(s.log.Lines, l)
}

// ties says how a line belongs to the request; "near" when only the time fits.
func (s *search) ties(line string, at time.Time) (by string, entry *pinpoint.LogLine) {
	q := &s.q
	for _, id := range q.IDs {
		if strings.Contains(line, id) {
			if s.log.Kind == "access" {
				entry = s.parse(line)
			}
			return "id", entry
		}
	}
	from, to := q.window()
	if at.IsZero() || at.Before(from) || at.After(to) {
		return "", nil
	}
	if s.log.Kind == "access" {
		entry = s.parse(line)
		if entry == nil {
			method, uri, ok := requestOf(line)
			if !ok || !q.same(method, uri) {
				return "", nil
			}
			return "request", nil
		}
		if entry.Method == "" && entry.Path == "" && q.hasClient(entry.Client) && q.Status == entry.Status && q.Status != 0 {
			return "client", entry // a request that the server could not read: "-" or <BADREQ>
		}
		if !q.same(entry.Method, entry.Path) || q.Status != 0 && entry.Status != 0 && q.Client.IsValid() && !q.hasClient(entry.Client) && entry.Status != q.Status {
			return "", nil
		}
		if q.Client.IsValid() && entry.Client != "" && !q.hasClient(entry.Client) {
			return "like", entry
		}
		if entry.Host != "" && q.Host != "" && !strings.EqualFold(bare(entry.Host), bare(q.Host)) {
			return "", nil
		}
		return "request", entry
	}
	if method, uri, ok := requestOf(line); ok {
		if !q.same(method, uri) {
			return "", nil // of another request
		}
		if g := nginxClient.FindStringSubmatch(line); g != nil && q.Client.IsValid() && !q.hasClient(g[1]) {
			return "like", nil
		}
		return "request", nil
	}
	for _, o := range q.Objects {
		if len(o) > 1 && mentions(line, o) {
			return "object", nil
		}
	}
	if g := auditedURI.FindStringSubmatch(line); g != nil && q.Path != "" {
		// ModSecurity names the path that was asked for in every line.
		if !q.same("", g[1]) {
			return "", nil
		}
		if g := apacheClient.FindStringSubmatch(line); g != nil && q.Client.IsValid() && !q.hasClient(g[1]) {
			return "like", nil
		}
		return "request", nil
	}
	client := ""
	if g := nginxClient.FindStringSubmatch(line); g != nil {
		client = g[1]
	} else if g := apacheClient.FindStringSubmatch(line); g != nil {
		client = g[1]
	}
	if client != "" {
		a, port := hostPort(client)
		switch {
		case q.Client.IsValid() && a != q.Client:
			return "", nil
		case q.Client.IsValid() && (q.Port == 0 || port == 0 || port == q.Port):
			if q.otherFile(line) {
				return "", nil // the same client asked for something else
			}
			return "client", nil
		case q.Client.IsValid():
			return "", nil
		case q.Path != "" && mentions(line, pathOf(q.Path)) && len(pathOf(q.Path)) > 1:
			return "object", nil
		}
		return "near", nil
	}
	if len(pathOf(q.Path)) > 1 && mentions(line, pathOf(q.Path)) {
		return "object", nil
	}
	if q.Client.IsValid() && mentions(line, q.Client.String()) {
		return "client", nil
	}
	if q.Host != "" && strings.Contains(q.Host, ".") && mentions(line, bare(q.Host)) {
		return "client", nil
	}
	return "near", nil
}

// otherFile says that a line of Apache httpd is about a file that this request has nothing to do with.
func (q *Query) otherFile(line string) bool {
	g := apacheFile.FindStringSubmatch(line)
	if g == nil || len(q.Objects) == 0 {
		return false
	}
	return !slices.ContainsFunc(q.Objects, func(o string) bool {
		o = strings.TrimRight(o, "/")
		return below(g[1], o) || below(o, strings.TrimRight(g[1], "/"))
	})
}

// connect takes the lines of the same connection or transaction as one that was found.
func (s *search) connect() {
	keys := map[string]bool{}
	for _, l := range s.log.Lines {
		if l.By != "id" && l.By != "request" {
			continue
		}
		if g := connection.FindStringSubmatch(l.raw); g != nil {
			keys[g[1]] = true
		}
		if g := uniqueID.FindStringSubmatch(l.raw); g != nil {
			keys[g[1]] = true
		}
	}
	for _, l := range s.near {
		for _, re := range []*regexp.Regexp{connection, uniqueID} {
			if g := re.FindStringSubmatch(l.raw); g != nil && keys[g[1]] && len(s.log.Lines) < maxLines {
				l.By = "connection"
				s.read(&l)
				s.log.Lines = append(s.log.Lines, l)
				break
			}
		}
	}
}

// trust is how much of a clue's weight a line keeps.
var trust = map[string]float64{"id": pinpoint.Certain, "connection": pinpoint.Certain, "request": pinpoint.Certain, "object": pinpoint.Certain, "client": pinpoint.Strong, "like": pinpoint.Fair}

// read finds the clues of a line, and makes what is quoted of it fit to be shown.
func (s *search) read(l *Line) {
	l.Text = s.clean(l.raw)
	if s.how.Match != nil {
		l.Clues = slices.Clone(s.how.Match(s.log.Product, l.raw))
	}
	limit := trust[l.By]
	if s.q.At.IsZero() && l.By == "client" {
		limit = pinpoint.Fair
	}
	for i := range l.Clues {
		c := &l.Clues[i]
		c.Source = pinpoint.FromLog
		c.Weight = min(c.Weight, limit)
		c.Quote = l.Text
		c.Says = s.clean(c.Says)
		c.At = pinpoint.Place{File: s.log.Path}
		names := make(map[string]string, len(c.Names))
		for k, v := range c.Names {
			names[k] = s.clean(v)
		}
		c.Names = names
	}
}

func (s *search) clean(text string) string {
	if s.how.Clean != nil {
		text = s.how.Clean(text)
	}
	return mask(text)
}

// mask makes a line of a log fit to be shown: without secrets and control characters, and cut.
func mask(line string) string {
	line = pinpoint.MaskLine(line[:min(len(line), 2000)])
	if len(line) > 600 {
		cut := 600
		for !utf8.RuneStart(line[cut]) {
			cut--
		}
		line = line[:cut] + "…"
	}
	return line
}

func (s *search) parse(line string) *pinpoint.LogLine {
	if s.how.Parse == nil {
		return nil
	}
	entry, err := s.how.Parse(line)
	if err != nil {
		return nil
	}
	return entry
}

// requestOf is the request line that a line quotes.
func requestOf(line string) (method, uri string, ok bool) {
	if i := strings.Index(line, `request: "`); i >= 0 {
		line = line[i+len(`request: `):]
	}
	g := quotedRequest.FindStringSubmatch(line)
	if g == nil {
		return "", "", false
	}
	return g[1], g[2], true
}

// same compares a request line with that of the request. The query counts when both have one.
func (q *Query) same(method, uri string) bool {
	if q.Path == "" || method != "" && q.Method != "" && method != q.Method {
		return false
	}
	if u, err := url.Parse(uri); err == nil && u.IsAbs() {
		uri = u.RequestURI()
	}
	want, wantQuery, _ := strings.Cut(q.Path, "?")
	got, gotQuery, has := strings.Cut(uri, "?")
	if !samePath(want, got) {
		return false
	}
	return !has || wantQuery == "" || gotQuery == wantQuery || strings.Contains(wantQuery, "‹secret:")
}

// samePath compares paths as sent with paths as logged, where escapes may be undone.
func samePath(a, b string) bool {
	if a == b {
		return true
	}
	x, err := url.PathUnescape(a)
	y, err2 := url.PathUnescape(b)
	return err == nil && err2 == nil && x == y
}

func (q *Query) hasClient(s string) bool {
	a, _ := hostPort(s)
	return q.Client.IsValid() && a == q.Client
}

// hostPort reads "192.0.2.7", "192.0.2.7:4000", "[::1]:4000" and Apache's "::1:4000".
func hostPort(s string) (netip.Addr, uint16) {
	if a, err := netip.ParseAddr(s); err == nil {
		if i := strings.LastIndexByte(s, ':'); a.Is6() && i > 0 && strings.Count(s, ":") > 2 {
			// Apache writes no brackets: ::1:4000 is both an address, and an address with its port.
			if b, err := netip.ParseAddr(s[:i]); err == nil && b.IsLoopback() {
				var port uint16
				fmt.Sscan(s[i+1:], &port)
				return b, port
			}
		}
		return a.Unmap(), 0
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap(), ap.Port()
	}
	if i := strings.LastIndexByte(s, ':'); i > 0 {
		if a, err := netip.ParseAddr(s[:i]); err == nil {
			var port uint16
			fmt.Sscan(s[i+1:], &port)
			return a.Unmap(), port
		}
	}
	return netip.Addr{}, 0
}

// mentions says that a word stands in a line, and not as a part of a longer path or number.
func mentions(line, word string) bool {
	for from := 0; ; {
		i := strings.Index(line[from:], word)
		if i < 0 {
			return false
		}
		i += from
		end := i + len(word)
		if (i == 0 || !pathByte(line[i-1])) && (end == len(line) || !pathByte(line[end]) || line[end] == '.' && (end+1 == len(line) || !pathByte(line[end+1])) || line[end] == ':') {
			return true
		}
		from = i + 1
	}
}

func pathByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("_-./%~:", b) >= 0 || b >= 0x80
}

func pathOf(p string) string {
	p, _, _ = strings.Cut(p, "?")
	return p
}

// bare is a host without its port.
func bare(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > 0 && !strings.HasSuffix(host, "]") {
		host = host[:i]
	}
	return host
}

// denials are the logs in which the kernel tells what a security module denied, and where fail2ban tells whom
// it shut out.
func (m *Machine) denials() (logs []pinpoint.LogFile) {
	for _, f := range []pinpoint.LogFile{
		{Path: "/var/log/audit/audit.log", Product: "linux", Kind: "audit"},
		{Path: "/var/log/kern.log", Product: "linux", Kind: "audit"},
		{Path: "/var/log/messages", Product: "linux", Kind: "audit"},
		{Path: "/var/log/syslog", Product: "linux", Kind: "audit"},
		{Path: "/var/log/fail2ban.log", Product: "fail2ban", Kind: "ban"},
	} {
		if real, err := m.real(f.Path); err == nil {
			if _, err := examine(real); err == nil {
				logs = append(logs, f)
			}
		}
	}
	return logs
}

var (
	avc      = regexp.MustCompile(`avc:\s+denied\s+\{ ([^}]{1,80}) \}.*?\bpid=(\d+).*?\bcomm="([^"]{1,64})"(?:.*?\b(?:path|name)="([^"]+)")?.*?\btcontext=(\S{1,256})`)
	permiss  = regexp.MustCompile(`\bpermissive=1\b`)
	armorLog = regexp.MustCompile(`apparmor="DENIED" operation="([^"]{1,64})".*?\bprofile="([^"]{1,256})"(?: name="([^"]+)")?.*?\bcomm="([^"]{1,64})"`)
	ban      = regexp.MustCompile(`\[([\w.-]{1,64})\] (?:Restore )?Ban (\S{1,64})`)
	unban    = regexp.MustCompile(`\[([\w.-]{1,64})\] Unban (\S{1,64})`)
)

// Denied looks for denials of SELinux and AppArmor of the worker's program at the time, and for a ban of
// the client that stood then.
func (m *Machine) Denied(ctx context.Context, q Query, p *Process, how Reading) []pinpoint.Clue {
	q = q.filled()
	var clues []pinpoint.Clue
	for _, f := range m.denials() {
		s := search{Machine: m, ctx: ctx, q: q, how: how, log: Log{LogFile: f}, left: maxScan}
		if f.Kind == "ban" {
			s.q.At, s.q.Recent = time.Time{}, 24*time.Hour
			if !q.At.IsZero() {
				s.q.Now = q.At.Add(q.Slack)
			}
		}
		if _, err := s.plain().file(f.Path); err == nil {
			s.denied(p, &clues)
		}
	}
	if len(clues) == 0 && how.Run != nil && p != nil {
		s := search{Machine: m, ctx: ctx, q: q, how: how, log: Log{LogFile: pinpoint.LogFile{Path: "journal", Product: "linux", Kind: "audit"}}}
		s.plain().kernel(ctx)
		s.denied(p, &clues)
	}
	return clues
}

// plain makes a search take each line of the window.
func (s *search) plain() *search {
	s.objects, s.client = s.q.Objects, s.q.Client
	s.how.Match, s.q.Path, s.q.IDs, s.q.Objects, s.q.Client = nil, "", nil, nil, netip.Addr{}
	return s
}

// kernel asks the journal for messages of the kernel.
func (s *search) kernel(ctx context.Context) {
	from, to := s.q.window()
	ctx, cancel := context.WithTimeout(ctx, journalTime)
	defer cancel()
	out, err := s.how.Run(ctx, "--output=json", "--no-pager", "--quiet", "--lines=2000", "--dmesg",
		"--since=@"+fmt.Sprint(from.Unix()), "--until=@"+fmt.Sprint(to.Add(time.Second).Unix()))
	if err != nil {
		return
	}
	for line := range bytes.Lines(out) {
		if at, text, ok := journalLine(line); ok {
			s.take(text, at)
		}
	}
}

// denied reads one such log. Lines are told from each other by their own fields.
func (s *search) denied(p *Process, clues *[]pinpoint.Clue) {
	add := func(c pinpoint.Clue, line string) {
		c.Source, c.Quote, c.At = pinpoint.FromLog, s.clean(line), pinpoint.Place{File: s.log.Path}
		if len(*clues) < 16 && !slices.ContainsFunc(*clues, func(o pinpoint.Clue) bool { return o.Cause == c.Cause && o.Names["path"] == c.Names["path"] }) {
			*clues = append(*clues, c)
		}
	}
	banned := map[string]Line{}
	for _, l := range s.near {
		switch g := avc.FindStringSubmatch(l.raw); {
		case g != nil && p != nil && g[3] == p.Comm && !permiss.MatchString(l.raw):
			add(pinpoint.Clue{Cause: "fs-selinux-denied", ID: "audit-avc", Weight: named(s.objects, g[4]), Names: map[string]string{"path": show(g[4]), "label": show(g[5]), "user": p.Name},
				Says: fmt.Sprintf("SELinux denied %s on %s (%s) to %s at that time", show(g[1]), show(g[4]), show(g[5]), show(g[3]))}, l.raw)
		case g == nil:
			if a := armorLog.FindStringSubmatch(l.raw); a != nil && p != nil && a[4] == p.Comm {
				add(pinpoint.Clue{Cause: "fs-apparmor-denied", ID: "kernel-apparmor", Weight: named(s.objects, a[3]), Names: map[string]string{"path": show(a[3]), "profile": show(a[2]), "user": p.Name},
					Says: fmt.Sprintf("AppArmor denied %s of %s under the profile %s at that time", show(a[1]), show(a[3]), show(a[2]))}, l.raw)
			}
		}
		if g := ban.FindStringSubmatch(l.raw); g != nil && s.log.Kind == "ban" {
			banned[g[2]] = l
		} else if g := unban.FindStringSubmatch(l.raw); g != nil && s.log.Kind == "ban" {
			delete(banned, g[2])
		}
	}
	if l, ok := banned[s.client.String()]; ok && s.client.IsValid() {
		jail := ban.FindStringSubmatch(l.raw)[1]
		add(pinpoint.Clue{Cause: "ip-temporarily-banned", ID: "fail2ban-log", Weight: pinpoint.Strong, Refuser: "fail2ban", Names: map[string]string{"client": s.client.String(), "jail": jail},
			Says: fmt.Sprintf("fail2ban shut %s out (jail %s) before the refusal, and has not let it in again", s.client, jail),
			Fix:  []string{fmt.Sprintf("fail2ban-client set %s unbanip %s, after what made it count was repaired.", jail, s.client)}}, l.raw)
	}
}

// named is how sure a denial is of this request: it names a file that was opened for it, or its last
// part, as SELinux does, or another one.
func named(objects []string, name string) float64 {
	for _, o := range objects {
		if o == name {
			return pinpoint.Certain
		}
	}
	for _, o := range objects {
		if path.Base(o) == name {
			return pinpoint.Strong
		}
	}
	return pinpoint.Hint
}

// journal asks the journal of systemd for the lines of the unit.
func (s *search) journal(ctx context.Context) {
	l := &s.log
	l.State, l.Says = "elsewhere", fmt.Sprintf("%s goes to another program than a file", show(l.Path))
	if s.how.Run == nil {
		return
	}
	_, unit, _ := strings.Cut(l.Path, "unit=")
	args := []string{"--output=json", "--no-pager", "--quiet", "--lines=2000"}
	from, to := s.q.window()
	args = append(args, "--since=@"+fmt.Sprint(from.Add(-time.Minute).Unix()), "--until=@"+fmt.Sprint(to.Add(time.Second).Unix()))
	if unitName.MatchString(unit) {
		args = append(args, "--unit="+unit)
	} else if tag := cmp.Or(syslogTag(l.Path), map[string]string{"nginx": "nginx", "haproxy": "haproxy"}[l.Product]); tag != "" {
		args = append(args, "--identifier="+tag)
	} else {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, journalTime)
	defer cancel()
	out, err := s.how.Run(ctx, args...)
	if err != nil {
		l.State, l.Says = "unreadable", "the journal could not be read: "+mask(reasonOf(err))
		return
	}
	any := false
	for line := range bytes.Lines(out) {
		at, text, ok := journalLine(line)
		if !ok {
			continue
		}
		any = true
		s.take(text, at)
	}
	s.connect()
	l.Read = []string{"journal"}
	if len(l.Lines) > 0 {
		s.end(true)
	} else if any {
		l.State, l.Says = "silent", "the journal has lines of that minute and none of the request"
	} else {
		l.State, l.Says = "uncovered", "the journal has no line of that minute"
	}
}

var unitName = regexp.MustCompile(`^[A-Za-z0-9:_.@-]{1,200}\.service$`)

var syslogTagRE = regexp.MustCompile(`[:,]tag=(\w{1,32})`)

// syslogTag is the tag of nginx's "syslog:server=…,tag=…", which is nginx without one.
func syslogTag(name string) string {
	if g := syslogTagRE.FindStringSubmatch(name); g != nil {
		return g[1]
	}
	return ""
}
