package calllog

import (
	"os"
	"slices"
	"strings"
	"time"
)

// Stats tell how the journal is.
type Stats struct {
	Dir string
	// Node writes here; empty for a reader.
	Node string
	// Recording says that records are being taken.
	Recording bool

	// Files, their size on disk with indexes, and how many records they hold, about.
	Files   int
	Bytes   int64
	Records uint64
	// Oldest is when the first call began that is still held, as far as indexes tell.
	Oldest time.Time

	// Since the start of the node: records taken, records lost by cause (the names
	// are no-space, no-file, slow, fault and closed; no-journal where a node runs without one), files that broke in use, files
	// that retention deleted.
	Appended uint64
	Dropped  map[string]uint64
	Broken   uint64
	Deleted  uint64

	// Unreadable are files that look like the journal's and are left alone.
	Unreadable []Unreadable

	// LastSync is when everything appended before was safe from a loss of power.
	LastSync time.Time
	// LastError is the last thing that went wrong in the background, and when.
	LastError   string
	LastErrorAt time.Time
}

// Unreadable is a file that the journal cannot read.
type Unreadable struct {
	Name string
	Why  string
}

func (st *Stats) add(h held) {
	st.Files++
	st.Bytes += h.bytes
	st.Records += h.records
	if h.oldest != noTime {
		if t := fromNanos(h.oldest); st.Oldest.IsZero() || t.Before(st.Oldest) {
			st.Oldest = t
		}
	}
}

// held is a file that nobody writes to, or that another process does.
type held struct {
	file
	bytes   int64 // with the index
	records uint64
	oldest  int64 // start of the first call; noTime without index
	newest  int64 // end of the last one; without index when the file was written last
	indexed bool
}

// inspect says what a file holds. The error says why it cannot be read.
func inspect(f file) (held, error) {
	h := held{file: f, oldest: noTime}
	info, err := os.Lstat(f.path)
	if err != nil {
		return h, err
	}
	h.bytes, h.newest = info.Size(), nanos(info.ModTime())
	s, err := openSegment(f)
	if err != nil {
		return h, err
	}
	defer s.close()
	if x, err := openIndex(f); err == nil {
		defer x.close()
		if x.mark == s.mark {
			h.bytes += x.blockAt(0) + 8*int64(x.count)
			h.records, h.oldest, h.newest, h.indexed = x.count, x.minStart, x.maxEnd, true
			return h, nil
		}
	}
	h.records = s.count()
	return h, nil
}

// cause is why a record was lost.
type cause int

const (
	causeNoSpace cause = iota // the disk is full
	causeNoFile               // the next file cannot be made for another reason
	causeSlow                 // the next file was not ready in time
	causeFault                // files broke under the record again and again
	causeClosed               // the journal was closed
	numCauses
)

var causeNames = [numCauses]string{"no-space", "no-file", "slow", "fault", "closed"}

// Stats tell how the journal is. They do not touch the disk.
func (j *Journal) Stats() Stats {
	st := Stats{Dir: j.dir, Node: j.options.Load().Node, Dropped: make(map[string]uint64, numCauses)}
	for c := range numCauses {
		st.Dropped[causeNames[c]] = j.dropped[c].Load()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, h := range j.held {
		st.add(h)
	}
	st.Appended = j.past
	inUse := j.queue
	if s := j.active.Load(); s != nil {
		st.Recording = true
		inUse = append(inUse[:len(inUse):len(inUse)], s)
	}
	for _, s := range inUse {
		n := s.count()
		st.Appended += n
		st.add(held{bytes: int64(s.limit), records: n, oldest: noTime})
	}
	if j.next != nil {
		st.Bytes += int64(j.next.limit)
	}
	st.Broken, st.Deleted = j.broken, j.deleted
	for name, why := range j.unreadable {
		st.Unreadable = append(st.Unreadable, Unreadable{name, why})
	}
	slices.SortFunc(st.Unreadable, func(a, b Unreadable) int { return strings.Compare(a.Name, b.Name) })
	st.LastSync, st.LastError, st.LastErrorAt = j.lastSync, j.lastError, j.lastErrorAt
	return st
}
