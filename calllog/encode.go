package calllog

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"net/netip"
	"sync/atomic"
	"time"
	"unsafe"
)

// What a record keeps of a text, in bytes. Longer ones are cut, between two
// characters of UTF-8 where there are any.
const (
	maxPath      = 1024
	maxUserAgent = 256
	maxRequestID = 128
	maxText      = 255
	maxDetail    = 64 << 10
)

// The layout of a record, version 1. Numbers are little-endian, except for the
// words marked with *, which are loaded and stored atomically and have the byte
// order of the machine; the header of the file tells which that was.
//
//	  0  commit*     mark of the file, length of the record << 32; stored last
//	  8  amendment*  duration, bytes out, then tag: flags, 16 zero bits, checksum
//	 32  checksum    CRC-32C of all that follows, without the trailer
//	 36  kind, outcome, status u16
//	 40  id
//	 56  start, duration, bytes out, bytes in, decide, wait, revision: 8 bytes each
//	112  remaining i32, flags u16, proto, tries, step, steps
//	122  lengths: path u16, detail u32, user agent u16, short texts u8 each
//	152  short texts in the order of the constants below, path, user agent, detail
//	     zeros up to a multiple of 8
//	 -4  trailer     length ^ mark, so that files can be read backwards
//
// Mark and the start value of the checksum are random for each file: bytes that a
// client sent can never be taken for a record when a reader looks for the next one
// behind damage.
const (
	offAmend     = 8
	offSum       = 32
	offKind      = 36
	offOutcome   = 37
	offStatus    = 38
	offID        = 40
	offStart     = 56
	offDuration  = 64
	offBytesOut  = 72
	offBytesIn   = 80
	offDecide    = 88
	offWait      = 96
	offRevision  = 104
	offRemaining = 112
	offFlags     = 116
	offProto     = 118
	offTries     = 119
	offStep      = 120
	offSteps     = 121
	offPathLen   = 122
	offDetailLen = 124
	offAgentLen  = 128
	offShortLens = 130
	fixedBytes   = 152

	minRecord = fixedBytes + 8
	maxRecord = (fixedBytes + numShort*maxText + maxPath + maxUserAgent + maxDetail + 4 + 7) &^ 7

	kindCall = 1
)

// The short texts. Addresses are texts of 0, 4 or 16 bytes, or 16 and an IPv6 zone.
const (
	textMethod = iota
	textHost
	textListener
	textAPI
	textVersion
	textStage
	textRoute
	textApplication
	textCredential
	textSubscription
	textPlan
	textUpstream
	textTarget
	textRequestID
	textTrace
	textReason
	textCheck
	numTexts

	textClient = iota - 1
	textPeer
	numShort
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// word is an aligned place of a mapped file, for atomic access.
func word(b []byte) *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&b[:8][0])) }

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for i := n; i > n-4; i-- {
		if s[i]&0xC0 != 0x80 { // not in the middle of a character
			return s[:i]
		}
	}
	return s[:n]
}

// encoder is a record with its texts cut, measured before there is room for it.
type encoder struct {
	r      *Record
	texts  [numTexts]string
	path   string
	agent  string
	zones  [2]string
	detail []byte
	size   uint64 // of the whole record, a multiple of 8
}

func (e *encoder) measure(r *Record) {
	e.r = r
	t := &e.texts
	t[textMethod] = clip(r.Method, maxText)
	t[textHost] = clip(r.Host, maxText)
	t[textListener] = clip(r.Listener, maxText)
	t[textAPI] = clip(r.API, maxText)
	t[textVersion] = clip(r.Version, maxText)
	t[textStage] = clip(r.Stage, maxText)
	t[textRoute] = clip(r.Route, maxText)
	t[textApplication] = clip(r.Application, maxText)
	t[textCredential] = clip(r.Credential, maxText)
	t[textSubscription] = clip(r.Subscription, maxText)
	t[textPlan] = clip(r.Plan, maxText)
	t[textUpstream] = clip(r.Upstream, maxText)
	t[textTarget] = clip(r.Target, maxText)
	t[textRequestID] = clip(r.RequestID, maxRequestID)
	t[textTrace] = clip(r.Trace, maxText)
	t[textReason] = clip(r.Reason, maxText)
	t[textCheck] = clip(r.Check, maxText)
	e.path = clip(r.Path, maxPath)
	e.agent = clip(r.UserAgent, maxUserAgent)
	e.detail = r.Detail[:min(len(r.Detail), maxDetail)]

	n := fixedBytes + len(e.path) + len(e.agent) + len(e.detail) + 4
	for i := range t {
		n += len(t[i])
	}
	n += e.measureAddr(0, r.Client) + e.measureAddr(1, r.Peer)
	e.size = uint64(n+7) &^ 7
}

func (e *encoder) measureAddr(i int, a netip.Addr) int {
	switch {
	case a.Is4():
		return 4
	case a.IsValid():
		e.zones[i] = clip(a.Zone(), maxText-16)
		return 16 + len(e.zones[i])
	}
	return 0
}

// put writes everything but the commit word to b, which has e.size bytes, all zero.
func (e *encoder) put(b []byte, mark, seed uint32) {
	r := e.r
	_ = b[fixedBytes]
	b[offKind] = kindCall
	b[offOutcome] = byte(r.Outcome)
	le.PutUint16(b[offStatus:], r.Status)
	copy(b[offID:], r.ID[:])
	le.PutUint64(b[offStart:], uint64(nanos(r.Start)))
	le.PutUint64(b[offDuration:], uint64(r.Duration))
	le.PutUint64(b[offBytesOut:], uint64(r.BytesOut))
	le.PutUint64(b[offBytesIn:], uint64(r.BytesIn))
	le.PutUint64(b[offDecide:], uint64(r.Decide))
	le.PutUint64(b[offWait:], uint64(r.Wait))
	le.PutUint64(b[offRevision:], r.Revision)
	le.PutUint32(b[offRemaining:], uint32(r.Remaining))
	le.PutUint16(b[offFlags:], uint16(r.Flags))
	b[offProto] = r.Proto
	b[offTries] = r.Tries
	b[offStep] = r.Step
	b[offSteps] = r.Steps
	le.PutUint16(b[offPathLen:], uint16(len(e.path)))
	le.PutUint32(b[offDetailLen:], uint32(len(e.detail)))
	le.PutUint16(b[offAgentLen:], uint16(len(e.agent)))

	at := fixedBytes
	for i := range e.texts {
		if s := e.texts[i]; len(s) > 0 {
			b[offShortLens+i] = byte(len(s))
			at += copy(b[at:], s)
		}
	}
	n := putAddr(b[at:], r.Client, e.zones[0])
	b[offShortLens+textClient] = byte(n)
	at += n
	n = putAddr(b[at:], r.Peer, e.zones[1])
	b[offShortLens+textPeer] = byte(n)
	at += n
	at += copy(b[at:], e.path)
	at += copy(b[at:], e.agent)
	copy(b[at:], e.detail)

	le.PutUint32(b[len(b)-4:], uint32(len(b))^mark)
	le.PutUint32(b[offSum:], crc32.Update(seed, castagnoli, b[offKind:len(b)-4]))
}

func putAddr(b []byte, a netip.Addr, zone string) int {
	switch {
	case a.Is4():
		v := a.As4()
		return copy(b, v[:])
	case a.IsValid():
		v := a.As16()
		n := copy(b, v[:])
		return n + copy(b[n:], zone)
	}
	return 0
}

// noTime is how a zero time.Time is written.
const noTime = math.MinInt64

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return noTime
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == noTime {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// amend overwrites how the record at b ended. The tag is stored last and carries a
// checksum: a reader sees either the new end or the one that the record had before,
// also when the process dies in between.
func amend(b []byte, seed uint32, flags Flags, bytesOut int64, d time.Duration) {
	slot := b[offAmend:offSum]
	word(slot).Store(uint64(d))
	word(slot[8:]).Store(uint64(bytesOut))
	word(slot[16:]).Store(uint64(flags) | uint64(amendSum(seed, uint64(d), uint64(bytesOut), flags))<<32)
}

func amendSum(seed uint32, d, bytesOut uint64, flags Flags) uint32 {
	const k1, k2 = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
	x := (uint64(seed)<<16 | uint64(flags)) * k1
	x = (x ^ x>>32 ^ d) * k2
	x = (x ^ x>>32 ^ bytesOut) * k1
	return uint32(x>>32) | 1 // so that a tag is never zero
}

// view is one record as it lies in a file, or a copy of it. Its bytes may change at
// any time in a mapped file that somebody else writes to, so that every access
// checks its bounds.
type view []byte

func (v view) id() ID          { return ID(v[offID : offID+16]) }
func (v view) start() int64    { return int64(le.Uint64(v[offStart:])) }
func (v view) status() uint16  { return le.Uint16(v[offStatus:]) }
func (v view) outcome() uint8  { return v[offOutcome] }
func (v view) pathLen() int    { return int(le.Uint16(v[offPathLen:])) }
func (v view) agentLen() int   { return int(le.Uint16(v[offAgentLen:])) }
func (v view) detailLen() int  { return int(le.Uint32(v[offDetailLen:])) }
func (v view) text(i int) view { return v.cut(v.textAt(i), int(v[offShortLens+i])) }
func (v view) path() view      { return v.cut(v.textAt(numShort), v.pathLen()) }

func (v view) textAt(i int) int {
	at := fixedBytes
	for _, n := range v[offShortLens : offShortLens+i] {
		at += int(n)
	}
	return at
}

func (v view) cut(at, n int) view {
	if at+n > len(v) {
		return nil
	}
	return v[at : at+n]
}

// end is how the call ended, after a correction if there was one.
func (v view) end(seed uint32) (flags Flags, bytesOut int64, d time.Duration) {
	slot := v[offAmend:offSum]
	if tag := binary.NativeEndian.Uint64(slot[16:]); tag != 0 {
		d, n := binary.NativeEndian.Uint64(slot), binary.NativeEndian.Uint64(slot[8:])
		if f := Flags(tag); tag == uint64(f)|uint64(amendSum(seed, d, n, f))<<32 {
			return f, int64(n), time.Duration(d)
		}
	}
	return Flags(le.Uint16(v[offFlags:])), int64(le.Uint64(v[offBytesOut:])), time.Duration(le.Uint64(v[offDuration:]))
}

// sound says that v is a whole call record and undamaged. v is a copy.
func (v view) sound(seed uint32) bool {
	if len(v) < minRecord || v[offKind] != kindCall ||
		le.Uint32(v[offSum:]) != crc32.Update(seed, castagnoli, v[offKind:len(v)-4]) {
		return false
	}
	n := v.textAt(numShort) + v.pathLen() + v.agentLen() + v.detailLen() + 4
	return (n+7)&^7 == len(v)
}

// decode reads a sound view. All texts share one allocation.
func (v view) decode(seed uint32, r *Record) {
	flags, bytesOut, d := v.end(seed)
	*r = Record{
		ID:        v.id(),
		Start:     fromNanos(v.start()),
		Duration:  d,
		Decide:    time.Duration(le.Uint64(v[offDecide:])),
		Wait:      time.Duration(le.Uint64(v[offWait:])),
		Status:    v.status(),
		Outcome:   Outcome(v.outcome()),
		Flags:     flags,
		Proto:     v[offProto],
		Tries:     v[offTries],
		BytesIn:   int64(le.Uint64(v[offBytesIn:])),
		BytesOut:  bytesOut,
		Revision:  le.Uint64(v[offRevision:]),
		Remaining: int32(le.Uint32(v[offRemaining:])),
		Step:      v[offStep],
		Steps:     v[offSteps],
	}
	var (
		paths = v.textAt(numShort)
		agent = paths + v.pathLen()
		rest  = agent + v.agentLen()
		all   = string(v[fixedBytes:rest])
		at    = 0
	)
	for i := range numTexts {
		n := int(v[offShortLens+i])
		*r.text(i) = all[at : at+n]
		at += n
	}
	r.Client = addr(v.text(textClient))
	r.Peer = addr(v.text(textPeer))
	r.Path = all[paths-fixedBytes : agent-fixedBytes]
	r.UserAgent = all[agent-fixedBytes:]
	if n := v.detailLen(); n > 0 {
		r.Detail = append([]byte(nil), v[rest:rest+n]...)
	}
}

func (r *Record) text(i int) *string {
	switch i {
	case textMethod:
		return &r.Method
	case textHost:
		return &r.Host
	case textListener:
		return &r.Listener
	case textAPI:
		return &r.API
	case textVersion:
		return &r.Version
	case textStage:
		return &r.Stage
	case textRoute:
		return &r.Route
	case textApplication:
		return &r.Application
	case textCredential:
		return &r.Credential
	case textSubscription:
		return &r.Subscription
	case textPlan:
		return &r.Plan
	case textUpstream:
		return &r.Upstream
	case textTarget:
		return &r.Target
	case textRequestID:
		return &r.RequestID
	case textTrace:
		return &r.Trace
	case textReason:
		return &r.Reason
	case textCheck:
		return &r.Check
	}
	panic("BUG: no such text of a record")
}

func addr(b []byte) netip.Addr {
	switch {
	case len(b) == 4:
		return netip.AddrFrom4([4]byte(b))
	case len(b) >= 16:
		a := netip.AddrFrom16([16]byte(b[:16]))
		if len(b) > 16 {
			a = a.WithZone(string(b[16:]))
		}
		return a
	}
	return netip.Addr{}
}
