package calllog

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/bits"
	"os"
	"slices"
)

// An index stands beside each sealed segment, in a file of the same number. It is
// derived: without it, or when it is damaged, the segment is walked.
//
//	  0  header, 512 bytes: summary of the segment, with its own checksum
//	512  a fence and a checksum for each block: the first hash in it, CRC-32C
//	     names: a Bloom filter of the texts that a filter can ask for
//	     blocks of 512 entries, sorted: hash of the id << 32 | offset of the record
//
// A lookup reads the header, the fences and one block, whatever the size. Two ids
// with one hash are told apart by their records.
const (
	indexMagic   = "WHYGINDX"
	indexVersion = 1
	indexHeader  = 512
	blockEntries = 512

	// Corrections may set these flags after a segment was indexed.
	amendable = ClientGone | Truncated
)

type index struct {
	seq       uint64
	used      uint64 // end of the last record
	count     uint64
	lost      uint64 // bytes in which no record was found
	unsettled bool   // a writer may yet fill what is lost: after a miss, walk
	mark      uint32 // of the segment
	outcomes  [8]uint64
	minStart  int64
	maxStart  int64
	maxEnd    int64 // the latest start + duration
	minID     ID
	maxID     ID
	flags     Flags // of any record
	minStatus uint16
	maxStatus uint16
	blocks    uint32
	nameBytes uint32
	tableSum  uint32
	nameSum   uint32

	file *os.File
}

// indexBuilder collects what an index says, in any order of records.
type indexBuilder struct {
	index
	entries []uint64
	bloom   bloom
	last    [numShort][]byte // the text noted last, since most follow their like
}

func newIndexBuilder(s *segment, expect uint64) *indexBuilder {
	expect = min(expect, s.limit/minRecord)
	b := &indexBuilder{entries: make([]uint64, 0, expect), bloom: newBloom(expect)}
	b.seq, b.mark, b.used = s.seq, s.mark, headerBytes
	b.minStart, b.maxStart, b.maxEnd = math.MaxInt64, math.MinInt64, math.MinInt64
	b.minStatus = math.MaxUint16
	for i := range b.minID {
		b.minID[i] = 0xFF
	}
	return b
}

func (b *indexBuilder) add(v view, off uint64, seed uint32) {
	id := v.id()
	b.entries = append(b.entries, uint64(idHash(id))<<32|off)
	b.count++
	b.used = off + uint64(len(v))
	b.outcomes[v.outcome()&7]++
	flags, _, d := v.end(seed)
	b.flags |= flags
	b.minStatus, b.maxStatus = min(b.minStatus, v.status()), max(b.maxStatus, v.status())
	start := v.start()
	b.minStart, b.maxStart = min(b.minStart, start), max(b.maxStart, start)
	if start != noTime {
		b.maxEnd = max(b.maxEnd, start, start+int64(d))
	}
	if id.less(b.minID) {
		b.minID = id
	}
	if b.maxID.less(id) {
		b.maxID = id
	}
	at := fixedBytes
	for i, n := range v[offShortLens : offShortLens+numShort] {
		text := v[at : at+int(n)]
		at += int(n)
		if string(text) == string(b.last[i]) {
			continue
		}
		b.last[i] = append(b.last[i][:0], text...)
		switch i {
		case textMethod, textAPI, textVersion, textStage, textRoute, textApplication, textCredential:
			b.bloom.add(i, text)
		case textReason:
			b.bloom.add(i, text)
			for j, c := range text {
				if c == '.' {
					b.bloom.add(nameGroup, text[:j])
				}
			}
		case textClient:
			if len(text) > 4 {
				text = clientName(addr(text))
			}
			b.bloom.add(i, text)
		}
	}
}

func (id ID) less(other ID) bool { return string(id[:]) < string(other[:]) }

// idHash spreads ids, which resemble each other, over 32 bits. It is part of the
// file format.
func idHash(id ID) uint32 {
	x := le.Uint64(id[:8])*0x9E3779B97F4A7C15 ^ le.Uint64(id[8:])
	x = (x ^ x>>32) * 0xD6E8FEB86659FD93
	return uint32(x>>32) ^ uint32(x)
}

// write makes the index file. rest is called every few hundred entries.
func (b *indexBuilder) write(path string, rest func()) (err error) {
	sortEntries(b.entries, rest)
	b.blocks = uint32((len(b.entries) + blockEntries - 1) / blockEntries)
	b.nameBytes = uint32(len(b.bloom))
	f, err := os.OpenFile(path+newSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
		if err == nil {
			err = os.Rename(path+newSuffix, path)
		}
		if err != nil {
			_ = os.Remove(path + newSuffix)
		}
	}()
	// The blocks first, which yields their checksums.
	table := make([]byte, 8*int(b.blocks))
	block := make([]byte, 0, 8*blockEntries)
	for i := range int(b.blocks) {
		entries := b.entries[i*blockEntries:]
		entries = entries[:min(blockEntries, len(entries))]
		block = block[:0]
		for _, e := range entries {
			block = le.AppendUint64(block, e)
		}
		le.PutUint32(table[8*i:], uint32(entries[0]>>32))
		le.PutUint32(table[8*i+4:], crc32.Checksum(block, castagnoli))
		if _, err := f.WriteAt(block, b.blockAt(i)); err != nil {
			return err
		}
		rest()
	}
	b.tableSum = crc32.Checksum(table, castagnoli)
	b.nameSum = crc32.Checksum(b.bloom, castagnoli)
	head := make([]byte, indexHeader, indexHeader+len(table)+len(b.bloom))
	b.putHeader(head)
	if _, err := f.WriteAt(append(append(head, table...), b.bloom...), 0); err != nil {
		return err
	}
	return f.Sync()
}

// sortEntries sorts in slices short enough to rest in between: hashes are spread
// evenly, so that their upper bits make even buckets. It needs no second copy.
func sortEntries(entries []uint64, rest func()) {
	shift := 64 - bits.Len(uint(len(entries)/256))
	ends := make([]int, 1<<(64-shift))
	for _, e := range entries {
		ends[e>>shift]++
	}
	at := 0
	next := make([]int, len(ends)) // where the next entry of a bucket goes
	for i, n := range ends {
		next[i] = at
		at += n
		ends[i] = at
	}
	rest()
	for i := range ends {
		from := next[i]
		if i > 0 {
			from = ends[i-1]
		}
		for next[i] < ends[i] {
			e := entries[next[i]]
			for to := e >> shift; to != uint64(i); to = e >> shift {
				entries[next[to]], e = e, entries[next[to]]
				next[to]++
			}
			entries[next[i]] = e
			next[i]++
		}
		slices.Sort(entries[from:ends[i]])
		rest()
	}
}

func (x *index) putHeader(b []byte) {
	copy(b, indexMagic)
	le.PutUint32(b[8:], indexVersion)
	le.PutUint32(b[12:], x.mark)
	le.PutUint64(b[16:], x.seq)
	le.PutUint64(b[24:], x.used)
	le.PutUint64(b[32:], x.count)
	le.PutUint64(b[40:], x.lost)
	for i, n := range x.outcomes {
		le.PutUint64(b[48+8*i:], n)
	}
	le.PutUint64(b[112:], uint64(x.minStart))
	le.PutUint64(b[120:], uint64(x.maxStart))
	le.PutUint64(b[128:], uint64(x.maxEnd))
	copy(b[136:], x.minID[:])
	copy(b[152:], x.maxID[:])
	le.PutUint16(b[168:], uint16(x.flags))
	le.PutUint16(b[170:], x.minStatus)
	le.PutUint16(b[172:], x.maxStatus)
	if x.unsettled {
		b[174] = 1
	}
	le.PutUint32(b[176:], x.blocks)
	le.PutUint32(b[180:], x.nameBytes)
	le.PutUint32(b[184:], x.tableSum)
	le.PutUint32(b[188:], x.nameSum)
	le.PutUint32(b[indexHeader-4:], crc32.Checksum(b[:indexHeader-4], castagnoli))
}

var errIndex = errors.New("the index is damaged")

// openIndex reads the summary of the index of f. Close it after use.
func openIndex(f file) (*index, error) {
	o, err := os.Open(f.indexPath())
	if err != nil {
		return nil, err
	}
	x, err := readIndex(o)
	if err == nil && x.seq != f.seq {
		err = errIndex
	}
	if err != nil {
		_ = o.Close()
		return nil, fmt.Errorf("reading %s: %w", f.indexPath(), err)
	}
	return x, nil
}

func readIndex(o *os.File) (*index, error) {
	b := make([]byte, indexHeader)
	if _, err := o.ReadAt(b, 0); err != nil {
		return nil, err
	}
	if string(b[:8]) != indexMagic || le.Uint32(b[8:]) != indexVersion ||
		le.Uint32(b[indexHeader-4:]) != crc32.Checksum(b[:indexHeader-4], castagnoli) {
		return nil, errIndex
	}
	x := &index{
		file:      o,
		mark:      le.Uint32(b[12:]),
		seq:       le.Uint64(b[16:]),
		used:      le.Uint64(b[24:]),
		count:     le.Uint64(b[32:]),
		lost:      le.Uint64(b[40:]),
		minStart:  int64(le.Uint64(b[112:])),
		maxStart:  int64(le.Uint64(b[120:])),
		maxEnd:    int64(le.Uint64(b[128:])),
		minID:     ID(b[136:152]),
		maxID:     ID(b[152:168]),
		flags:     Flags(le.Uint16(b[168:])),
		minStatus: le.Uint16(b[170:]),
		maxStatus: le.Uint16(b[172:]),
		unsettled: b[174] != 0,
		blocks:    le.Uint32(b[176:]),
		nameBytes: le.Uint32(b[180:]),
		tableSum:  le.Uint32(b[184:]),
		nameSum:   le.Uint32(b[188:]),
	}
	for i := range x.outcomes {
		x.outcomes[i] = le.Uint64(b[48+8*i:])
	}
	info, err := o.Stat()
	if err != nil {
		return nil, err
	}
	if x.count > maxFileBytes/minRecord {
		return nil, errIndex
	}
	if want := x.blockAt(0) + 8*int64(x.count); x.blocks != uint32((x.count+blockEntries-1)/blockEntries) || info.Size() != want {
		return nil, errIndex
	}
	return x, nil
}

func (x *index) close() { _ = x.file.Close() }

func (x *index) blockAt(i int) int64 {
	return indexHeader + 8*int64(x.blocks) + int64(x.nameBytes) + 8*blockEntries*int64(i)
}

// lookup calls try with the offsets of the records whose id may be id, until it
// returns true.
func (x *index) lookup(id ID, try func(off uint64) bool) error {
	if x.count == 0 || id.less(x.minID) || x.maxID.less(id) {
		return nil
	}
	table := make([]byte, 8*int(x.blocks))
	if _, err := x.file.ReadAt(table, indexHeader); err != nil {
		return err
	}
	if crc32.Checksum(table, castagnoli) != x.tableSum {
		return errIndex
	}
	hash := idHash(id)
	// The first block that begins with this hash or a later one; entries with this
	// hash may begin in the block before.
	lo, hi := 0, int(x.blocks)
	for lo < hi {
		if mid := (lo + hi) / 2; le.Uint32(table[8*mid:]) < hash {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	block := make([]byte, 8*blockEntries)
	for i := max(lo-1, 0); i < int(x.blocks) && le.Uint32(table[8*i:]) <= hash; i++ {
		b := block[:8*min(blockEntries, int(x.count)-i*blockEntries)]
		if _, err := x.file.ReadAt(b, x.blockAt(i)); err != nil {
			return err
		}
		if crc32.Checksum(b, castagnoli) != le.Uint32(table[8*i+4:]) {
			return errIndex
		}
		for ; len(b) > 0; b = b[8:] {
			if e := le.Uint64(b); uint32(e>>32) == hash && try(e&(1<<32-1)) {
				return nil
			}
		}
	}
	return nil
}

// names reads the Bloom filter, nil if it is damaged.
func (x *index) names() bloom {
	b := make(bloom, x.nameBytes)
	if _, err := x.file.ReadAt(b, indexHeader+8*int64(x.blocks)); err != nil || crc32.Checksum(b, castagnoli) != x.nameSum ||
		len(b) < 8 || len(b)&(len(b)-1) != 0 {
		return nil
	}
	return b
}

// bloom is a set of (kind of text, text) that may say yes wrongly, never no. Its
// length is a power of two.
type bloom []byte

// nameGroup is the kind for the beginnings of reason codes, up to a dot.
const nameGroup = numShort

// newBloom has two bits for each record: most texts repeat.
func newBloom(records uint64) bloom {
	size := uint64(512)
	for size < records/4 && size < 1<<20 {
		size *= 2
	}
	return make(bloom, size)
}

func nameHash(kind int, text []byte) (uint64, uint64) {
	x := uint64(crc32.Update(uint32(kind+1)*0x9E3779B1, castagnoli, text)) * 0x9E3779B97F4A7C15
	x ^= x >> 29
	return x, x>>32 | 1
}

func (b bloom) add(kind int, text []byte) {
	if len(text) == 0 {
		return
	}
	mask := uint64(len(b))*8 - 1
	x, step := nameHash(kind, text)
	for range 4 {
		b[x&mask>>3] |= 1 << (x & 7)
		x += step
	}
}

func (b bloom) has(kind int, text string) bool {
	mask := uint64(len(b))*8 - 1
	x, step := nameHash(kind, []byte(text))
	for range 4 {
		if b[x&mask>>3]&(1<<(x&7)) == 0 {
			return false
		}
		x += step
	}
	return true
}
