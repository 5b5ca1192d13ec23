// Package servers reads the configurations of HAProxy, lighttpd, Caddy and IIS, and decides, as
// each of them would, what happens to one request.
//
// LoadHAProxy, LoadLighttpd, LoadCaddy, LoadCaddyfile and LoadIIS turn files to rules that know their file
// and line. Decide walks them for one Arrival in the order of that server. A condition is true, false,
// or not known from here: a rule whose condition is not known decides nothing and is kept as a
// possibility, and what comes after it weighs less.
package servers

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dlclark/regexp2"

	"github.com/whygate/whygate/pinpoint"
)

// Bounds of reading and deciding.
const (
	maxFile     = 4 << 20 // bytes of one file
	maxTotal    = 16 << 20
	maxFiles    = 1000
	maxLines    = 200_000
	maxDepth    = 32
	maxProblems = 200
	maxSteps    = 1000
	maxClues    = 20
	maxText     = 64 << 10 // bytes of a value that is computed
)

// Problem is something in a configuration that could not be read.
type Problem struct {
	Says string
	At   pinpoint.Place
}

// Env is what is known beside the files.
type Env struct {
	Vars map[string]string // environment of the process
	// Vault puts the secrets of a sealed request back for comparisons. They are never quoted.
	Vault *pinpoint.Vault
}

var errBudget = errors.New("more than this reads")

// source reads files within a budget and keeps what went wrong.
type source struct {
	files    pinpoint.Files
	total    int
	opened   int
	problems []Problem
}

func (s *source) problem(at pinpoint.Place, format string, args ...any) {
	if len(s.problems) < maxProblems {
		s.problems = append(s.problems, Problem{Says: fmt.Sprintf(format, args...), At: at})
	}
}

func (s *source) read(name string) (string, error) {
	if s.opened >= maxFiles || s.total >= maxTotal {
		return "", errBudget
	}
	s.opened++
	data, err := s.files.ReadFile(name)
	if err != nil {
		return "", err
	}
	if s.total += len(data); len(data) > maxFile || s.total > maxTotal {
		return "", errBudget
	}
	return strings.TrimPrefix(string(data), "\ufeff"), nil
}

// truth is what a condition is, as far as it is known.
type truth int8

const (
	no truth = iota
	maybe
	yes
)

func sure(b bool) truth {
	if b {
		return yes
	}
	return no
}

func (t truth) not() truth { return 2 - t }

func (t truth) String() string { return [...]string{"does not hold", "is not known", "holds"}[t] }

// walk is one request on its way through a configuration.
type walk struct {
	a       pinpoint.Arrival
	product string
	method  string
	target  string // path and query, as they are now
	sent    string // as they were sent
	host    string // as it was sent
	header  pinpoint.Header
	client  netip.Addr
	trail   []pinpoint.Step
	clues   []pinpoint.Clue
	hints   []pinpoint.Clue
	next    []pinpoint.Arrival
	files   []pinpoint.Access
	status  int
	closed  bool // the connection is closed without an answer
	unsure  int  // conditions before that are not known
	rates   int  // counters before that may have refused
	shown   string
	vault   *pinpoint.Vault
}

// begin takes the secrets out of their placeholders, for comparisons only.
func begin(product string, a pinpoint.Arrival, vault *pinpoint.Vault) *walk {
	w := &walk{a: a, product: product, vault: vault, client: a.Client.Unmap(), method: "GET", target: "/", shown: "/"}
	if a.Request == nil {
		return w
	}
	w.a.Request = a.Request.Clone()
	if a.Request.Method != "" {
		w.method = a.Request.Method
	}
	w.shown = pathOf(targetOf(a.Request.URL))
	w.target = vault.Reveal(targetOf(a.Request.URL))
	w.sent = w.target
	w.host = vault.Reveal(hostOf(a.Request))
	for _, f := range a.Request.Header {
		if !strings.EqualFold(f.Name, "Host") {
			w.header = append(w.header, pinpoint.Field{Name: f.Name, Value: vault.Reveal(f.Value)})
		}
	}
	return w
}

func hostOf(r *pinpoint.Request) string {
	if h := r.Header.Value("Host"); h != "" {
		return h
	}
	_, rest, ok := strings.Cut(r.URL, "://")
	if !ok {
		return ""
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		rest = rest[:i]
	}
	return rest[strings.LastIndexByte(rest, '@')+1:]
}

// targetOf is path and query of a URL, with their escapes as written.
func targetOf(raw string) string {
	if _, rest, ok := strings.Cut(raw, "://"); ok {
		i := strings.IndexAny(rest, "/?#")
		if i < 0 {
			return "/"
		}
		raw = rest[i:]
	}
	raw, _, _ = strings.Cut(raw, "#")
	if raw == "" || raw[0] == '?' {
		raw = "/" + raw
	}
	return raw
}

func pathOf(target string) string {
	p, _, _ := strings.Cut(target, "?")
	return p
}

func queryOf(target string) string {
	_, q, _ := strings.Cut(target, "?")
	return q
}

// hostname is a host without its port and without brackets, in lower case.
func hostname(h string) string {
	if i := strings.LastIndexByte(h, ':'); i >= 0 && !strings.Contains(h[i:], "]") && strings.Count(h[:i], ":") == 0 || strings.HasPrefix(h, "[") && i > strings.IndexByte(h, ']') {
		h = h[:i]
	}
	return strings.ToLower(strings.Trim(h, "[]"))
}

func (w *walk) scheme() string {
	if w.a.TLS {
		return "https"
	}
	return "http"
}

func (w *walk) step(at pinpoint.Place, format string, args ...any) {
	if len(w.trail) < maxSteps {
		w.trail = append(w.trail, pinpoint.Step{Says: fmt.Sprintf(format, args...), At: at})
	}
}

// refuse keeps what decides, the surest first.
func (w *walk) refuse(status int, clues ...pinpoint.Clue) {
	late := len(w.clues) > 0
	w.status = status
	for _, c := range clues {
		c = w.fill(c, status)
		switch {
		case late:
			c.Weight = min(c.Weight, pinpoint.Hint)
		case w.unsure > 0:
			c.Weight = min(c.Weight, pinpoint.Fair)
		case w.rates > 0:
			c.Weight = min(c.Weight, pinpoint.Strong)
		}
		if len(w.clues) < maxClues {
			w.clues = append(w.clues, c)
		}
	}
}

// possible keeps what may have refused. It weighs little when the client saw another status.
func (w *walk) possible(status int, c pinpoint.Clue) {
	if w.a.Status != 0 && status != 0 && w.a.Status != status {
		c.Weight = min(c.Weight, 0.3)
	}
	if len(w.hints) < maxClues {
		w.hints = append(w.hints, w.fill(c, status))
	}
}

func (w *walk) fill(c pinpoint.Clue, status int) pinpoint.Clue {
	c.Source = pinpoint.FromConfig
	if c.Cause != "" {
		c.Refuser = w.product
	}
	if !strings.HasPrefix(c.ID, w.product) {
		c.ID = w.product + "-" + c.ID
	}
	names := map[string]string{}
	for k, v := range c.Names {
		names[k] = show(v)
	}
	if status > 0 {
		names["status"] = strconv.Itoa(status)
	}
	if names["path"] == "" {
		names["path"] = show(w.shown)
	}
	if w.client.IsValid() {
		names["client"] = w.client.String()
	}
	c.Names, c.Quote = names, show(c.Quote)
	return c
}

// forward hands a request on. address is host:port, or the path of a unix socket.
func (w *walk) forward(at pinpoint.Place, address string, tls bool, r *pinpoint.Request) {
	next := pinpoint.Arrival{At: w.a.At, Status: w.a.Status, TLS: tls, Request: r}
	w.step(at, "%s hands the request on to %s", w.product, show(address))
	if strings.HasPrefix(address, "/") {
		next.Socket = address
		w.next = append(w.next, next)
		return
	}
	r.Via = pinpoint.Via{To: address}
	at2, err := netip.ParseAddrPort(address)
	if err != nil {
		h, p, ok := strings.Cut(address, ":")
		n, perr := strconv.ParseUint(p, 10, 16)
		if !ok || perr != nil || h != "localhost" && !strings.HasSuffix(h, ".localhost") {
			w.step(at, "the name %s is not resolved here: run the same on the machine that it stands for", show(address))
			return
		}
		at2 = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(n))
	}
	next.Local = at2
	if at2.Addr().IsLoopback() {
		next.Client = at2.Addr().Unmap()
		if at2.Addr().Is4() {
			next.Client = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
	} else if w.a.Local.IsValid() {
		next.Client = w.a.Local.Addr()
	}
	w.next = append(w.next, next)
}

// outgoing is the request for the next hop, from what the client sent (with its placeholders).
func (w *walk) outgoing(scheme, target string) *pinpoint.Request {
	r := &pinpoint.Request{Method: "GET", Proto: "HTTP/1.1"}
	host := ""
	if w.a.Request != nil {
		r = w.a.Request.Clone()
		host = hostOf(w.a.Request)
		if target == w.sent {
			target = targetOf(w.a.Request.URL)
		} else {
			target = w.vault.Redact(target)
		}
	}
	r.URL = scheme + "://" + host + target
	return r
}

// decision puts together what was found.
func (w *walk) decision() pinpoint.Decision {
	d := pinpoint.Decision{Product: w.product, Status: w.status, Next: w.next, Files: w.files}
	d.Clues = append(w.clues, w.hints...)
	if seen := w.a.Status; seen != 0 && len(w.clues) > 0 && (w.closed || w.status != 0 && w.status != seen) {
		for i := range d.Clues {
			d.Clues[i].Weight = min(d.Clues[i].Weight, pinpoint.Fair)
		}
		would := "answer " + strconv.Itoa(w.status)
		if w.closed {
			would = "close the connection"
		}
		w.step(pinpoint.Place{}, "this configuration would %s, and the client saw %d: it was changed since, or another hop answered", would, seen)
	}
	d.Trail = w.trail
	return d
}

// show shortens a text for a sentence and takes control characters out.
func show(s string) string {
	if len(s) > 160 {
		s = s[:160] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

func where(at pinpoint.Place) string {
	if at.Line == 0 {
		return at.File
	}
	return at.File + ":" + strconv.Itoa(at.Line)
}

// private says that an address is likely one of a proxy of one's own.
func private(a netip.Addr) bool { return a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() }

// forwardedFor is the last address of X-Forwarded-For.
func (w *walk) forwardedFor() (netip.Addr, bool) {
	list := w.header.Values("X-Forwarded-For")
	if len(list) == 0 {
		return netip.Addr{}, false
	}
	parts := strings.Split(list[len(list)-1], ",")
	a, err := netip.ParseAddr(strings.TrimSpace(parts[len(parts)-1]))
	return a.Unmap(), err == nil
}

// secretive says that values of a field are credentials, so that what they are compared with is not quoted.
func secretive(name string) bool {
	n := strings.ToLower(name)
	for _, part := range []string{"auth", "cookie", "key", "token", "secret", "passw", "session", "signature", "credential"} {
		if strings.Contains(n, part) {
			return true
		}
	}
	return false
}

// inside says that an address lies in a network: "10.0.0.0/8", "10.0.0.0/255.0.0.0" or one address.
func inside(a netip.Addr, text string) truth {
	p, ok := network(text)
	if !ok || !a.IsValid() {
		return maybe
	}
	return sure(p.Contains(a.Unmap().WithZone("")))
}

func network(text string) (netip.Prefix, bool) {
	text = strings.TrimSpace(text)
	head, mask, has := strings.Cut(text, "/")
	a, err := netip.ParseAddr(strings.Trim(head, "[]"))
	if err != nil {
		return netip.Prefix{}, false
	}
	if !has {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), true
	}
	if m, err := netip.ParseAddr(mask); err == nil && m.Is4() && a.Is4() {
		bits, zero := 0, false
		for _, b := range m.As4() {
			for i := 7; i >= 0; i-- {
				on := b>>i&1 == 1
				if on && zero {
					return netip.Prefix{}, false
				}
				zero = zero || !on
				if on {
					bits++
				}
			}
		}
		return netip.PrefixFrom(a, bits).Masked(), true
	}
	n, err := strconv.Atoi(mask)
	if err != nil || n < 0 || n > a.BitLen() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, n).Masked(), true
}

// pattern is a regular expression of a configuration. Most are those of Go's regexp too, which runs in
// linear time; look-around and back-references go to an engine that backtracks, with a limit.
type pattern struct {
	fast *regexp.Regexp
	slow *regexp2.Regexp
}

func compile(text string, fold bool) *pattern {
	if len(text) > 4096 {
		return nil
	}
	flags, opts := "", regexp2.RegexOptions(regexp2.None)
	if fold {
		flags, opts = "(?i)", regexp2.IgnoreCase
	}
	if re, err := regexp.Compile(flags + text); err == nil {
		return &pattern{fast: re}
	}
	re, err := regexp2.Compile(text, opts)
	if err != nil {
		return nil
	}
	re.MatchTimeout = 100 * time.Millisecond
	return &pattern{slow: re}
}

// match returns the groups; known is false when the expression or its answer is not.
func (p *pattern) match(s string) (groups []string, known bool) {
	if p == nil || len(s) > maxText {
		return nil, false
	}
	if p.fast != nil {
		return p.fast.FindStringSubmatch(s), true
	}
	m, err := p.slow.FindStringMatch(s)
	if err != nil {
		return nil, false
	}
	if m == nil {
		return nil, true
	}
	for _, g := range m.Groups() {
		groups = append(groups, g.String())
	}
	return groups, true
}

func (p *pattern) holds(s string) truth {
	g, known := p.match(s)
	if !known {
		return maybe
	}
	return sure(g != nil)
}

// unescape decodes percent escapes, and leaves what is none.
func unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	if u, err := url.PathUnescape(s); err == nil {
		return u
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// anyOf says whether one of a list is equal, without regard to case.
func anyOf(list []string, s string) bool {
	return slices.ContainsFunc(list, func(x string) bool { return strings.EqualFold(x, s) })
}
