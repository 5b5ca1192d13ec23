package calllog

import (
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var sameAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func drawAddr(t *rapid.T, label string) netip.Addr {
	b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label)
	switch rapid.IntRange(0, 4).Draw(t, label+" kind") {
	case 0:
		return netip.Addr{}
	case 1:
		return netip.AddrFrom4([4]byte(b))
	case 2:
		return netip.AddrFrom16([16]byte(b)).WithZone(rapid.StringN(0, 20, 60).Draw(t, label+" zone"))
	case 3:
		return netip.AddrFrom16(netip.AddrFrom4([4]byte(b)).As16())
	}
	return netip.AddrFrom16([16]byte(b))
}

// drawRecord makes any record within the bounds that are kept unchanged.
func drawRecord(t *rapid.T) *Record {
	duration := rapid.Map(rapid.Int64(), func(n int64) time.Duration { return time.Duration(n) })
	r := &Record{
		ID:       ID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id")),
		Duration: duration.Draw(t, "duration"), Decide: duration.Draw(t, "decide"), Wait: duration.Draw(t, "wait"),
		Status: rapid.Uint16().Draw(t, "status"), Outcome: Outcome(rapid.Byte().Draw(t, "outcome")), Flags: Flags(rapid.Uint16().Draw(t, "flags")),
		Proto: rapid.Byte().Draw(t, "proto"), Tries: rapid.Byte().Draw(t, "tries"),
		Step: rapid.Byte().Draw(t, "step"), Steps: rapid.Byte().Draw(t, "steps"),
		BytesIn: rapid.Int64().Draw(t, "in"), BytesOut: rapid.Int64().Draw(t, "out"),
		Revision: rapid.Uint64().Draw(t, "revision"), Remaining: rapid.Int32().Draw(t, "remaining"),
		Client: drawAddr(t, "client"), Peer: drawAddr(t, "peer"),
	}
	if rapid.Bool().Draw(t, "has start") {
		r.Start = time.Unix(0, rapid.Int64Range(noTime+1, 1<<63-1).Draw(t, "start")).UTC()
	}
	text := rapid.StringN(0, 60, maxRequestID)
	for i := range numTexts {
		*r.text(i) = text.Draw(t, "text")
	}
	r.Path = rapid.StringN(0, 300, maxPath).Draw(t, "path")
	r.UserAgent = rapid.StringN(0, 100, maxUserAgent).Draw(t, "agent")
	if detail := rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "detail"); len(detail) > 0 {
		r.Detail = detail
	}
	return r
}

func encode(r *Record, mark, seed uint32) []byte {
	var e encoder
	e.measure(r)
	b := make([]byte, e.size)
	e.put(b, mark, seed)
	word(b).Store(uint64(mark) | e.size<<32)
	return b
}

func TestRecordComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRecord(t)
		seed := rapid.Uint32().Draw(t, "seed")
		v := view(encode(r, 77, seed))
		if !v.sound(seed) {
			t.Fatal("the record is not sound")
		}
		var got Record
		v.decode(seed, &got)
		if diff := cmp.Diff(*r, got, sameAddr); diff != "" {
			t.Fatalf("(-written +read)\n%s", diff)
		}
		// And as it was corrected.
		amend(v, seed, r.Flags|ClientGone, 5, time.Second)
		want := *r
		want.Flags, want.BytesOut, want.Duration = r.Flags|ClientGone, 5, time.Second
		if !v.sound(seed) {
			t.Fatal("the amended record is not sound")
		}
		v.decode(seed, &got)
		if diff := cmp.Diff(want, got, sameAddr); diff != "" {
			t.Fatalf("amended (-written +read)\n%s", diff)
		}
	})
}

// A half-written correction leaves what the record said before.
func TestTornAmendmentIsIgnored(t *testing.T) {
	r := call(1)
	whole := encode(r, 77, 5)
	amend(whole, 5, ClientGone, 12, time.Hour)
	before := encode(r, 77, 5)
	for n := offAmend + 1; n < offSum; n++ {
		v := view(append(append(append([]byte(nil), before[:offAmend]...), whole[offAmend:n]...), before[n:]...))
		var got Record
		v.decode(5, &got)
		if n < offSum-3 && (got.Flags != 0 || got.BytesOut != r.BytesOut || got.Duration != r.Duration) {
			t.Fatalf("with %d bytes of the correction: flags %v, %d bytes, %v", n-offAmend, got.Flags, got.BytesOut, got.Duration)
		}
	}
}

func TestLongTextsAreCut(t *testing.T) {
	long := strings.Repeat("ä€x", 40000)
	r := &Record{Detail: []byte(long), Path: long, UserAgent: long, Client: netip.MustParseAddr("fe80::1").WithZone(long)}
	for i := range numTexts {
		*r.text(i) = long
	}
	b := encode(r, 1, 2)
	if len(b) > maxRecord {
		t.Fatalf("the largest record has %d bytes, more than maxRecord, %d", len(b), maxRecord)
	}
	var got Record
	view(b).decode(2, &got)
	check := func(what, s string, limit int) {
		t.Helper()
		if !strings.HasPrefix(long, s) || len(s) > limit || len(s) < limit-3 || !utf8.ValidString(s) {
			t.Errorf("%s: %d bytes for a limit of %d, valid %v", what, len(s), limit, utf8.ValidString(s))
		}
	}
	check("path", got.Path, 1024)
	check("user agent", got.UserAgent, 256)
	check("zone", got.Client.Zone(), 239)
	for i := range numTexts {
		limit := 255
		if i == textRequestID {
			limit = 128
		}
		check("text", *got.text(i), limit)
	}
	if len(got.Detail) != 64<<10 {
		t.Errorf("detail has %d bytes, want 64 KiB", len(got.Detail))
	}
	// Bytes that are no UTF-8 are cut where the room ends.
	if s := clip(strings.Repeat("\x80", 300), 255); len(s) != 255 {
		t.Errorf("cut to %d bytes, want 255", len(s))
	}
}
