package counter

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Quotas count calls per calendar period. They outlive the process: Save writes them
// to a file and OpenQuotas reads them back. What was counted between the last Save and a crash is
// counted again, which favours the caller by at most a second's calls.
//
// Cells are spread over shards, so that Save, which has to see them all, holds up no call for longer than it
// takes to copy one of them.
type Quotas struct {
	shards [shards]quotaShard
	file   string
	dirty  atomic.Bool // something changed since Save last began to copy
	saving sync.Mutex  // one Save at a time
}

type quotaShard struct {
	mu    sync.Mutex // guards what follows
	cells map[string]*quotaCell
}

type quotaCell struct {
	Start int64 `json:"start"` // of the period, Unix seconds
	End   int64 `json:"end"`
	Used  int64 `json:"used"`
}

const quotaBound = 1 << 12 // cells per shard: a million in all

func newQuotas(file string) *Quotas {
	q := &Quotas{file: file}
	for i := range q.shards {
		q.shards[i].cells = map[string]*quotaCell{}
	}
	return q
}

func (q *Quotas) shard(name string) *quotaShard {
	return &q.shards[maphash.String(seedLo, name)%shards]
}

// OpenQuotas reads the file if there is one; "" keeps quotas in memory only. A file that
// cannot be read is set aside and named in the error; the quotas are usable all the same.
func OpenQuotas(file string) (*Quotas, error) {
	q := newQuotas(file)
	if file == "" {
		return q, nil
	}
	left, _ := filepath.Glob(file + newSuffix + "*") // by a process that was killed while it wrote
	for _, name := range left {
		os.Remove(name)
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return q, nil
	}
	var cells map[string]*quotaCell
	if err == nil {
		err = json.Unmarshal(b, &cells)
	}
	if err != nil {
		aside := file + ".unreadable"
		if os.Rename(file, aside) == nil {
			return q, fmt.Errorf("reading quotas, starting at zero; the file is kept as %s: %w", aside, err)
		}
		return q, fmt.Errorf("reading quotas, starting at zero: %w", err)
	}
	now := time.Now().Unix()
	for name, c := range cells {
		if c != nil {
			q.shard(name).put(name, *c, now)
		}
	}
	return q, nil
}

// Period is a stretch of the calendar.
type Period struct{ Start, End time.Time }

// PeriodOf finds the hour, day, week, month or year that t lies in. Weeks begin on Monday.
func PeriodOf(kind string, t time.Time, zone *time.Location) Period {
	t = t.In(zone)
	y, m, d := t.Date()
	switch kind {
	case "hour":
		// Whole hours of the zone's own clock, also where that is half an hour off.
		_, offset := t.Zone()
		unix := t.Unix() + int64(offset)
		start := time.Unix(unix-unix%3600-int64(offset), 0).In(zone)
		return Period{start, start.Add(time.Hour)}
	case "day":
		return Period{dayOf(y, m, d, zone), dayOf(y, m, d+1, zone)}
	case "week":
		d -= (int(t.Weekday()) + 6) % 7
		return Period{dayOf(y, m, d, zone), dayOf(y, m, d+7, zone)}
	case "year":
		return Period{dayOf(y, 1, 1, zone), dayOf(y+1, 1, 1, zone)}
	}
	return Period{dayOf(y, m, 1, zone), dayOf(y, m+1, 1, zone)}
}

// dayOf is the first moment of a day. Where clocks are changed at midnight there may be no 00:00,
// or two, and time.Date may choose a moment of the day before, or the second.
func dayOf(y int, m time.Month, d int, zone *time.Location) time.Time {
	t := time.Date(y, m, d, 0, 0, 0, 0, zone)
	want := time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	date := func(t time.Time) int64 { // of its own clock, in days
		_, offset := t.Zone()
		return (t.Unix() + int64(offset)) / 86400
	}
	if date(t) < want.Unix()/86400 {
		_, offset := t.Zone()
		return want.Add(-time.Duration(offset) * time.Second).In(zone)
	}
	if earlier := t.Add(-time.Hour); date(earlier) == want.Unix()/86400 {
		return earlier
	}
	return t
}

// Take counts one call of name in the period if the limit allows it; peek only looks.
func (q *Quotas) Take(name string, limit int64, p Period, now time.Time, peek bool) Result {
	s := q.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cells[name]
	var used int64
	start, end := p.Start.Unix(), p.End.Unix()
	switch {
	case c == nil || c.End <= start: // an earlier period
	case c.Start > end: // a clock that was far ahead; what it counted says nothing of now
	case c.Start == end: // a clock that was set back over the end of a period: that count goes on
		used, start, end = c.Used, c.Start, c.End
	default: // this period, or another kind of period that overlaps it
		used = c.Used
	}
	res := Result{OK: used < limit, Limit: limit, Left: max(limit-used, 0), Reset: p.End.Sub(now)}
	if !res.OK {
		res.Retry = res.Reset
		return res
	}
	res.Left--
	if peek {
		return res
	}
	counted := quotaCell{Start: start, End: end, Used: used + 1}
	if c != nil {
		*c = counted
	} else {
		s.put(strings.Clone(name), counted, now.Unix()) // callers keep name only as long as the call
	}
	q.dirty.Store(true)
	return res
}

// Return gives one call back.
func (q *Quotas) Return(name string) {
	s := q.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.cells[name]; c != nil && c.Used > 0 {
		c.Used--
		q.dirty.Store(true)
	}
}

// put adds a cell that is not there yet.
func (s *quotaShard) put(name string, c quotaCell, now int64) {
	if len(s.cells) >= quotaBound {
		s.makeRoom(now)
	}
	s.cells[name] = &c
}

// makeRoom drops a cell that has ended; failing that, any: somebody gets a fresh quota, and
// memory stays bounded.
func (s *quotaShard) makeRoom(now int64) {
	victim, n := "", 0
	for name, c := range s.cells {
		if victim = name; c.End <= now || n == sweepPerAdd {
			break
		}
		n++
	}
	delete(s.cells, victim)
}

// named is a cell with its name.
type named struct {
	name string
	cell quotaCell
}

// copyTo appends all cells to list, but for those that ended before a moment, which it drops. Calls wait
// meanwhile, so nothing else is done here.
func (s *quotaShard) copyTo(list []named, before int64) []named {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, c := range s.cells {
		if c.End <= before {
			delete(s.cells, name)
			continue
		}
		list = append(list, named{name, *c})
	}
	return list
}

// Save writes the quotas to their file if anything changed since the last time. The file
// is replaced as a whole, so a crash leaves the old one. What is counted meanwhile is in it or in the next.
func (q *Quotas) Save() error {
	q.saving.Lock()
	defer q.saving.Unlock()
	if q.file == "" || !q.dirty.Swap(false) {
		return nil
	}
	if err := replaceFile(q.file, q.write); err != nil {
		q.dirty.Store(true)
		return fmt.Errorf("writing quotas: %w", err)
	}
	return nil
}

// write writes all cells as one JSON object, shard by shard.
func (q *Quotas) write(w io.Writer) error {
	before := time.Now().Add(-24 * time.Hour).Unix()
	b := []byte{'{'}
	list := make([]named, 0, quotaBound/8)
	for i := range q.shards {
		list = q.shards[i].copyTo(list[:0], before)
		for _, c := range list {
			name, err := json.Marshal(c.name)
			if err != nil {
				return err
			}
			cell, err := json.Marshal(c.cell)
			if err != nil {
				return err
			}
			b = append(append(append(append(b, name...), ':'), cell...), ',')
		}
		if i == shards-1 {
			b = append(bytes.TrimSuffix(b, []byte{','}), '}')
		}
		// A comma waits for what follows it.
		n := len(bytes.TrimSuffix(b, []byte{','}))
		if _, err := w.Write(b[:n]); err != nil {
			return err
		}
		b = append(b[:0], b[n:]...)
	}
	return nil
}

const newSuffix = ".new" // of a file that is not complete yet

// replaceFile writes a file as a whole: whoever reads it, also after a crash, sees the old or the new content.
func replaceFile(name string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+newSuffix+"*")
	if err != nil {
		return err
	}
	b := bufio.NewWriterSize(f, 64<<10)
	if err = write(b); err == nil {
		err = b.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
