package calllog

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	segmentSuffix = ".journal"
	indexSuffix   = ".index"
	newSuffix     = ".new" // a file that is not complete yet
	lockName      = "lock"

	segmentMagic   = "WHYGJRNL"
	segmentVersion = 1
	byteOrder      = 0x01020304

	// The header has a page of its own; its two counters have a cache line each.
	headerBytes  = 4096
	offHeaderSum = 304
	offTail      = 512
	offEnd       = 576

	// Tail and end are one word: the number of records above the number of bytes.
	// One atomic add reserves the room and counts the record.
	countShift = 40
	bytesMask  = 1<<countShift - 1
)

// segment is one mapped file of the journal.
//
//	page 0      header: magic, byte order, version, number, size, time, mark, seed, node
//	      512   tail: what is reserved by writers
//	      576   end: the tail that counts, stored when nothing more fits; 0 until then
//	page 1...   records
//
// A writer reserves room by adding to tail, fills it, and stores the commit word of
// the record last. A process that dies in between leaves a hole, which readers skip.
// The first writer whose record does not fit stores end.
//
// A segment that is written stays mapped as long as anybody can reach it, which is
// what makes it safe to append, amend and flush without a count of users: the
// garbage collector knows. One that is read is unmapped by its reader.
type segment struct {
	seq   uint64
	path  string
	mem   []byte
	mark  uint32 // never 0
	seed  uint32
	limit uint64 // size of the file when it was made
	tail  *atomic.Uint64
	end   *atomic.Uint64

	// Of a writer only.
	file    *os.File // closes itself when nobody can reach the segment any more
	born    time.Time
	broken  error         // why nothing more can be stored; guarded by Journal.mu
	seen    atomic.Uint64 // records when last counted
	amended atomic.Uint64 // lowest offset amended since the last flush; 0 for none
	sealed  atomic.Bool   // sealing has begun: the flusher no longer comes by
	warmed  uint64        // pages up to here were populated; owned by the preparer
	begun   uint64        // up to here they are on their way to the disk
	cooled  uint64        // and up to here released again
	flushed [2]uint64     // tails at the flush before the last, and at the last
}

type header struct {
	seq, limit uint64
	created    time.Time
	mark, seed uint32
	node       string
}

func (h header) put(b []byte) {
	copy(b, segmentMagic)
	binary.NativeEndian.PutUint32(b[8:], byteOrder)
	le.PutUint32(b[12:], segmentVersion)
	le.PutUint64(b[16:], h.seq)
	le.PutUint64(b[24:], h.limit)
	le.PutUint64(b[32:], uint64(nanos(h.created)))
	le.PutUint32(b[40:], h.mark)
	le.PutUint32(b[44:], h.seed)
	b[48] = byte(copy(b[49:49+maxText], clip(h.node, maxText)))
	le.PutUint32(b[offHeaderSum:], crc32.Checksum(b[:offHeaderSum], castagnoli))
}

func parseHeader(b []byte) (h header, err error) {
	switch {
	case len(b) < headerBytes:
		return h, fmt.Errorf("%d bytes are too few for a journal file", len(b))
	case string(b[:8]) != segmentMagic:
		return h, errors.New("not a journal file")
	case binary.NativeEndian.Uint32(b[8:]) != byteOrder:
		return h, errors.New("written on a machine of the other byte order")
	case le.Uint32(b[12:]) != segmentVersion:
		return h, fmt.Errorf("format version %d; this build reads version %d", le.Uint32(b[12:]), segmentVersion)
	case le.Uint32(b[offHeaderSum:]) != crc32.Checksum(b[:offHeaderSum], castagnoli):
		return h, errors.New("damaged header")
	}
	h = header{
		seq:     le.Uint64(b[16:]),
		limit:   le.Uint64(b[24:]),
		created: fromNanos(int64(le.Uint64(b[32:]))),
		mark:    le.Uint32(b[40:]),
		seed:    le.Uint32(b[44:]),
		node:    string(b[49 : 49+int(b[48])]),
	}
	if h.limit < headerBytes {
		return h, errors.New("damaged header")
	}
	return h, nil
}

// createSegment makes the file of number seq under a preliminary name, gives it
// its disk space, and only then its name: no reader meets half a file.
func createSegment(dir string, seq uint64, size int64, node string, now time.Time) (_ *segment, err error) {
	path := segmentPath(dir, seq)
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("creating %s: %w", path, os.ErrExist)
	}
	f, err := os.OpenFile(path+newSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	var mem []byte
	defer func() {
		if err != nil {
			_ = f.Close()
			unmap(mem)
			_ = os.Remove(path + newSuffix)
		}
	}()
	if err := allocate(f, size); err != nil {
		return nil, fmt.Errorf("reserving %d bytes for %s: %w", size, path, err)
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	h := header{
		seq: seq, limit: uint64(size), created: now, node: node,
		mark: le.Uint32(random[:]) | 1, seed: le.Uint32(random[4:]),
	}
	first := make([]byte, headerBytes)
	h.put(first)
	binary.NativeEndian.PutUint64(first[offTail:], headerBytes)
	if _, err := f.WriteAt(first, 0); err != nil {
		return nil, err
	}
	if mem, err = mapFile(f, size, true); err != nil {
		return nil, err
	}
	inOrder(mem)
	if err := f.Sync(); err != nil {
		return nil, err
	}
	if err := os.Rename(path+newSuffix, path); err != nil {
		return nil, err
	}
	syncDir(dir)
	s := newSegment(seq, path, mem, h)
	s.file, s.born = f, now
	s.flushed = [2]uint64{headerBytes, headerBytes}
	s.cooled = fileBytesUnit
	runtime.AddCleanup(s, unmap, mem)
	return s, nil
}

// openSegment maps a file for reading; close it after use.
func openSegment(f file) (*segment, error) {
	o, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	info, err := o.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	first := make([]byte, headerBytes)
	if n, err := o.ReadAt(first, 0); err != nil && err != io.EOF {
		return nil, err
	} else if n < headerBytes {
		first = first[:n]
	}
	h, err := parseHeader(first)
	if err != nil {
		return nil, err
	}
	if info.Size() < headerBytes {
		return nil, errors.New("the file grew while it was opened")
	}
	mem, err := mapFile(o, info.Size(), false)
	if err != nil {
		return nil, err
	}
	return newSegment(f.seq, f.path, mem, h), nil
}

func newSegment(seq uint64, path string, mem []byte, h header) *segment {
	return &segment{
		seq: seq, path: path, mem: mem,
		mark: h.mark, seed: h.seed, limit: min(h.limit, uint64(len(mem))) &^ 7,
		tail: word(mem[offTail:]), end: word(mem[offEnd:]),
	}
}

// close unmaps a segment that was opened for reading.
func (s *segment) close() {
	unmap(s.mem)
	s.mem = nil
}

type stored int

const (
	storedWell   stored = iota
	storedNoRoom        // the segment is full
	storedFault         // the segment is broken
)

// store appends a measured record.
func (s *segment) store(e *encoder) (off uint64, result stored) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			if !s.faulted(p) {
				panic(p)
			}
			result = storedFault
		}
	}()
	step := 1<<countShift | e.size
	before := s.tail.Add(step) - step
	off = before & bytesMask
	switch {
	case off < headerBytes || off&7 != 0:
		return 0, storedFault // somebody overwrote the header
	case off > s.limit:
		return 0, storedNoRoom
	case off+e.size > s.limit:
		s.end.Store(before) // exactly one writer gets here
		return 0, storedNoRoom
	}
	b := s.mem[off : off+e.size : off+e.size]
	e.put(b, s.mark, s.seed)
	word(b).Store(uint64(s.mark) | e.size<<32)
	return off, storedWell
}

// finish lets nothing more in.
func (s *segment) finish() (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer s.caught(&err)
	before := s.tail.Add(s.limit+1) - (s.limit + 1)
	if before&bytesMask <= s.limit {
		s.end.Store(before)
	}
	return nil
}

// amend corrects the end of a record that was stored here.
func (s *segment) amend(off uint64, add Flags, bytesOut int64, d time.Duration) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer s.caught(&err)
	n := s.frame(off, s.limit)
	if n == 0 {
		return errFault
	}
	b := s.mem[off : off+n]
	amend(b, s.seed, Flags(le.Uint16(b[offFlags:]))|add, bytesOut, d)
	for {
		low := s.amended.Load()
		if low != 0 && low <= off || s.amended.CompareAndSwap(low, off) {
			return nil
		}
	}
}

// used is where the records end and how many were reserved. ended says that no
// more will come.
func (s *segment) used() (end, count uint64, ended bool, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer s.caught(&err)
	w := s.end.Load()
	ended = w != 0
	if !ended {
		w = s.tail.Load()
	}
	return s.clamp(w), w >> countShift, ended, nil
}

func (s *segment) clamp(w uint64) uint64 {
	return max(headerBytes, min(w&bytesMask, s.limit)&^7)
}

// count is the number of records for statistics, the last known one on a fault.
func (s *segment) count() uint64 {
	if _, n, _, err := s.used(); err == nil && n < 1<<(64-countShift)-1 {
		s.seen.Store(n)
	}
	return s.seen.Load()
}

// extent is where to begin reading backwards. It believes the counters of the header,
// which carry no checksum, only if nothing lies behind what they say.
func (s *segment) extent() (end uint64, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer s.caught(&err)
	end, _, _, err = s.used()
	if err != nil {
		return 0, err
	}
	if behind := s.mem[end:min(end+headerBytes, s.limit)]; zero(behind) {
		return end, nil
	}
	if again, _, _, err := s.used(); err != nil || again != end {
		return again, err // a writer moved it meanwhile: the counter lives
	}
	return s.limit, nil
}

// filled is the end of the last bytes that are not zero.
func (s *segment) filled() (end uint64, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer s.caught(&err)
	for end = s.limit; end > headerBytes; {
		from := max(headerBytes, end-min(end, headerBytes))
		if !zero(s.mem[from:end]) {
			for end > headerBytes && zero(s.mem[end-8:end]) {
				end -= 8
			}
			return end, nil
		}
		end = from
	}
	return headerBytes, nil
}

var zeros [headerBytes]byte

func zero(b []byte) bool { return bytes.Equal(b, zeros[:len(b)]) }

// frame is the length of the record committed at off, 0 if there is none that ends
// by end. It looks at what encloses the record, not at its checksum. Faults are the
// caller's.
func (s *segment) frame(off, end uint64) uint64 {
	if off+minRecord > end {
		return 0
	}
	w := word(s.mem[off:]).Load()
	n := w >> 32
	if uint32(w) != s.mark || n < minRecord || n > maxRecord || n&7 != 0 || n > end-off ||
		le.Uint32(s.mem[off+n-4:]) != s.mark^uint32(n) {
		return 0
	}
	return n
}

// flushFrom writes everything from an offset to the tail to the disk.
func (s *segment) flushFrom(from, to uint64) error {
	from = pageOf(from)
	to = min(pageOf(to+pageBytes-1), uint64(len(s.mem)))
	if from >= to {
		return nil
	}
	err := flush(s.mem[from:to])
	runtime.KeepAlive(s)
	return err
}

var pageBytes = uint64(os.Getpagesize())

func pageOf(off uint64) uint64 { return off &^ (pageBytes - 1) }

// file is a journal file as its name tells.
type file struct {
	seq  uint64
	path string
}

func (f file) indexPath() string { return strings.TrimSuffix(f.path, segmentSuffix) + indexSuffix }

func segmentPath(dir string, seq uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%010d%s", seq, segmentSuffix))
}

// sequence reads the number out of a file name with the given suffix.
func sequence(name, suffix string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok || len(digits) < 10 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 40)
	return n, err == nil && fmt.Sprintf("%010d", n) == digits
}

// writeZeros gives f its space where the file system cannot reserve it.
func writeZeros(f *os.File, size int64) error {
	block := make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(block)) {
		if _, err := f.WriteAt(block[:min(int64(len(block)), size-at)], at); err != nil {
			return err
		}
	}
	return nil
}

// syncDir makes a new name durable. Where a directory cannot be synced, it is not
// worth failing for.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}
