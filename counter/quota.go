package counter

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Quotas count calls per calendar period. They outlive the process: Save writes them
// to a file and OpenQuotas reads them back. What was counted between the last Save and a crash is
// counted again, which favours the caller by at most a second's calls.
type Quotas struct {
	mu    sync.Mutex // guards what follows
	cells map[string]*quotaCell
	file  string
	dirty bool
}

type quotaCell struct {
	Start int64 `json:"start"` // of the period, Unix seconds
	End   int64 `json:"end"`
	Used  int64 `json:"used"`
}

const quotaBound = 1 << 20 // cells

// OpenQuotas reads the file if there is one; "" keeps quotas in memory only. A file that
// cannot be read is set aside and named in the error; the quotas are usable all the same.
func OpenQuotas(file string) (*Quotas, error) {
	q := &Quotas{cells: map[string]*quotaCell{}, file: file}
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
	if err == nil {
		err = json.Unmarshal(b, &q.cells)
	}
	if err != nil {
		q.cells = map[string]*quotaCell{}
		aside := file + ".unreadable"
		if os.Rename(file, aside) == nil {
			return q, fmt.Errorf("reading quotas, starting at zero; the file is kept as %s: %w", aside, err)
		}
		return q, fmt.Errorf("reading quotas, starting at zero: %w", err)
	}
	for name, c := range q.cells {
		if c == nil {
			delete(q.cells, name)
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
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.cells[name]
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
	if c == nil {
		if len(q.cells) >= quotaBound {
			q.makeRoom(now.Unix())
		}
		c = &quotaCell{}
		q.cells[strings.Clone(name)] = c // callers keep name only as long as the call
	}
	*c = quotaCell{Start: start, End: end, Used: used + 1}
	q.dirty = true
	return res
}

// Return gives one call back.
func (q *Quotas) Return(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if c := q.cells[name]; c != nil && c.Used > 0 {
		c.Used--
		q.dirty = true
	}
}

// makeRoom drops a cell that has ended; failing that, any: somebody gets a fresh quota, and
// memory stays bounded.
func (q *Quotas) makeRoom(now int64) {
	victim, n := "", 0
	for name, c := range q.cells {
		if victim = name; c.End <= now || n == sweepPerAdd {
			break
		}
		n++
	}
	delete(q.cells, victim)
}

// sweep drops all cells that ended before a moment.
func (q *Quotas) sweep(before int64) {
	for name, c := range q.cells {
		if c.End <= before {
			delete(q.cells, name)
		}
	}
}

// Save writes the quotas to their file if anything changed since the last time. The file
// is replaced as a whole, so a crash leaves the old one.
func (q *Quotas) Save() error {
	if q.file == "" {
		return nil
	}
	q.mu.Lock()
	if !q.dirty {
		q.mu.Unlock()
		return nil
	}
	q.sweep(time.Now().Add(-24 * time.Hour).Unix())
	cells := make(map[string]quotaCell, len(q.cells)) // writing them as JSON takes longer, and calls wait for mu
	for name, c := range q.cells {
		cells[name] = *c
	}
	q.dirty = false
	q.mu.Unlock()
	b, err := json.Marshal(cells)
	if err == nil {
		err = replaceFile(q.file, b)
	}
	if err != nil {
		q.mu.Lock()
		q.dirty = true
		q.mu.Unlock()
		return fmt.Errorf("writing quotas: %w", err)
	}
	return nil
}

const newSuffix = ".new" // of a file that is not complete yet

func replaceFile(name string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+newSuffix+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
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
