package calllog

import (
	"net/netip"
	"strings"
	"time"
)

// Filter selects records. Empty fields select everything; all that are set must hold.
type Filter struct {
	// Since and Until bound the start of the call; Until itself is outside.
	Since, Until time.Time
	// Before is the last record of a page: only those behind it, in the order of Query.
	Before ID
	// Outcomes: any of those that are set; none means all.
	Allowed, Relayed, Refused, Failed, Answered bool
	// Exact names.
	Method, API, Version, Stage, Route, Application, Credential string
	// Reason is a code, or the begin of codes with a star behind: "rate-limit.*".
	Reason string
	// MinStatus and MaxStatus bound the status, both inclusive.
	MinStatus, MaxStatus uint16
	// Client is the address after trusted proxies; an IPv4 address and the same one
	// mapped into IPv6 are one.
	Client netip.Addr
	// Path is how the path begins.
	Path string
	// Flags must all be set.
	Flags Flags
	// Limit ends the query after so many records; 0 means no limit.
	Limit int
}

// matcher is a filter in the form that is compared with bytes.
type matcher struct {
	seed         uint32 // of the segment at hand
	since, until int64  // nanoseconds; until is exclusive
	outcomes     uint8  // a bit each
	minStatus    uint16
	maxStatus    uint16
	texts        []wantText
	reason       string // what the code begins with
	prefix       bool   // reason is a prefix and not the whole
	client       netip.Addr
	path         string
	flags        Flags
}

type wantText struct {
	i    int
	want string
}

func (f Filter) compile() *matcher {
	const first, last = -1 << 63, 1<<63 - 1
	m := &matcher{since: first, until: last, maxStatus: f.MaxStatus, minStatus: f.MinStatus, path: f.Path, flags: f.Flags}
	if !f.Since.IsZero() {
		m.since = f.Since.UnixNano()
	}
	if !f.Until.IsZero() {
		m.until = f.Until.UnixNano()
	}
	if m.maxStatus == 0 {
		m.maxStatus = 1<<16 - 1
	}
	for o, want := range []bool{Allowed: f.Allowed, Relayed: f.Relayed, Refused: f.Refused, Failed: f.Failed, Answered: f.Answered} {
		if want {
			m.outcomes |= 1 << o
		}
	}
	for _, t := range []wantText{
		{textMethod, f.Method}, {textAPI, f.API}, {textVersion, f.Version}, {textStage, f.Stage}, {textRoute, f.Route},
		{textApplication, f.Application}, {textCredential, f.Credential},
	} {
		if t.want != "" {
			m.texts = append(m.texts, t)
		}
	}
	m.reason, m.prefix = strings.CutSuffix(f.Reason, "*")
	m.client = f.Client.Unmap()
	return m
}

// match looks at the bytes of one record. They may be damaged: match reads within
// their bounds and answers something.
func (m *matcher) match(v view) bool {
	if start := v.start(); start < m.since || start >= m.until {
		return false
	}
	if m.outcomes != 0 && (v.outcome() > 7 || m.outcomes>>v.outcome()&1 == 0) {
		return false
	}
	if s := v.status(); s < m.minStatus || s > m.maxStatus {
		return false
	}
	for i := range m.texts {
		t := &m.texts[i]
		if int(v[offShortLens+t.i]) != len(t.want) || string(v.text(t.i)) != t.want {
			return false
		}
	}
	if m.reason != "" || m.prefix {
		code := v.text(textReason)
		if len(code) < max(len(m.reason), 1) || string(code[:len(m.reason)]) != m.reason || !m.prefix && len(code) != len(m.reason) {
			return false
		}
	}
	if m.client.IsValid() && addr(v.text(textClient)).Unmap() != m.client {
		return false
	}
	if m.path != "" {
		if p := v.path(); len(p) < len(m.path) || string(p[:len(m.path)]) != m.path {
			return false
		}
	}
	if m.flags != 0 {
		if have, _, _ := v.end(m.seed); have&m.flags != m.flags {
			return false
		}
	}
	return true
}

// mayMatch says whether a sealed segment can hold a record that matches.
func (m *matcher) mayMatch(x *index) bool {
	if x.count == 0 {
		return false
	}
	if x.maxStart < m.since || x.minStart >= m.until || x.maxStatus < m.minStatus || x.minStatus > m.maxStatus ||
		(x.flags|amendable)&m.flags != m.flags {
		return false
	}
	if m.outcomes != 0 {
		any := false
		for o, n := range x.outcomes {
			any = any || n > 0 && m.outcomes>>o&1 == 1
		}
		if !any {
			return false
		}
	}
	if len(m.texts) == 0 && m.reason == "" && !m.client.IsValid() {
		return true
	}
	names := x.names()
	if names == nil {
		return true
	}
	for _, t := range m.texts {
		if !names.has(t.i, t.want) {
			return false
		}
	}
	if m.client.IsValid() && !names.has(textClient, string(clientName(m.client))) {
		return false
	}
	if !m.prefix {
		return m.reason == "" || names.has(textReason, m.reason)
	}
	// Groups are noted up to each dot, so that "rate-limit.*" can be asked for.
	group, _, dotted := cutLast(m.reason, '.')
	return !dotted || names.has(nameGroup, group)
}

func cutLast(s string, sep byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// clientName is the form of an address under which segments note it.
func clientName(a netip.Addr) []byte {
	b := make([]byte, 0, 64)
	if a = a.Unmap(); a.Is4() {
		v := a.As4()
		return append(b, v[:]...)
	}
	v := a.As16()
	return append(append(b, v[:]...), a.Zone()...)
}
