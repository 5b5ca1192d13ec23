package calllog

import (
	"os"
	"testing"
)

// The mark and seed of fuzzed segments, so that the corpus holds records that pass.
const (
	fuzzMark = 0x4B52414D
	fuzzSeed = 0x64656573
)

// FuzzSegment reads arbitrary bytes as the records of a segment, in both directions.
// It must end, stay within bounds, and return only records whose checksum holds.
func FuzzSegment(f *testing.F) {
	f.Add([]byte{})
	f.Add(encode(call(1), fuzzMark, fuzzSeed))
	long := refused(2, "subscription.pending")
	two := append(encode(&Record{}, fuzzMark, fuzzSeed), encode(long, fuzzMark, fuzzSeed)...)
	amend(two[minRecord:], fuzzSeed, ClientGone, 7, 8)
	f.Add(two)
	f.Add(append(make([]byte, 64), two[8:]...))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<20 {
			return
		}
		mem := make([]byte, headerBytes+len(data)&^7)
		header{seq: 1, limit: uint64(len(mem)), created: began, mark: fuzzMark, seed: fuzzSeed}.put(mem)
		copy(mem[headerBytes:], data)
		h, err := parseHeader(mem)
		if err != nil {
			t.Fatal(err)
		}
		s := newSegment(1, "", mem, h)
		s.tail.Store(s.limit)
		end, err := s.extent()
		if err != nil || end != s.limit {
			t.Fatalf("extent %d, %v", end, err)
		}
		back := 0
		for w := newWalk(s, end, 0); ; {
			v, more, err := w.back(func(v view) bool {
				everyFilter.match(v)
				return true
			})
			if err != nil {
				t.Fatal(err)
			}
			if v == nil && !more {
				break
			}
			if v != nil {
				back++
				var rec Record
				v.decode(s.seed, &rec)
			}
		}
		forward := 0
		for w := newWalk(s, headerBytes, end); ; {
			v, more, err := w.forward(1 << 16)
			if err != nil {
				t.Fatal(err)
			}
			if v == nil && !more {
				break
			}
			if v != nil {
				forward++
			}
		}
		if limit := len(data) / minRecord; back > limit || forward > limit {
			t.Fatalf("%d and %d records in %d bytes", back, forward, len(data))
		}
		if _, err := s.filled(); err != nil {
			t.Fatal(err)
		}
	})
}

var everyFilter = Filter{
	Since: began.AddDate(-500, 0, 0), Until: began.AddDate(200, 0, 0), Allowed: true, Refused: true, Method: "GET", API: "orders",
	Reason: "a*", MaxStatus: 999, Client: call(1).Client, Path: "/prod", Flags: ClientGone,
}.compile()

// FuzzHeader reads arbitrary bytes, and zeros behind them, as the header of a file.
func FuzzHeader(f *testing.F) {
	good := make([]byte, headerBytes)
	header{seq: 1, limit: 1 << 20, created: began, mark: 1, seed: 2, node: "gw-1"}.put(good)
	f.Add(good[:offHeaderSum+4])
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := parseHeader(data); len(data) < headerBytes && err == nil {
			t.Fatal("a header that is too short was read")
		}
		h, err := parseHeader(append(data, make([]byte, headerBytes)...))
		if err == nil && len(h.node) > maxText {
			t.Fatalf("%+v", h)
		}
	})
}

// FuzzIndex reads arbitrary bytes as an index.
func FuzzIndex(f *testing.F) {
	s, err := createSegment(f.TempDir(), 1, minFileBytes, "", began)
	if err != nil {
		f.Fatal(err)
	}
	b := newIndexBuilder(s, 8)
	for i := range 8 {
		b.add(encode(refused(i, "a.b"), fuzzMark, fuzzSeed), uint64(headerBytes+1000*i), fuzzSeed)
	}
	file := file{1, s.path}
	if err := b.write(file.indexPath(), func() {}); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(file.indexPath())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:indexHeader])
	path := f.TempDir() + "/index"
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		o, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		x, err := readIndex(o)
		if err != nil {
			return
		}
		everyFilter.mayMatch(x)
		for i := range 8 {
			_ = x.lookup(call(i).ID, func(uint64) bool { return false })
		}
	})
}
