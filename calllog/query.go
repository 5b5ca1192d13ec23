package calllog

import (
	"context"
	"errors"
	"slices"
)

// ErrNoRecord says that the record which a query shall go on behind is not there, or not any more.
var ErrNoRecord = errors.New("no record of that call")

// Query calls fn with the records that match, newest first (by the end of the call),
// until fn returns false, the limit is reached or ctx is done. Records that are
// appended after it began may be missing. The records are fn's to keep. ErrNoRecord is about
// Filter.Before.
func (r *Reader) Query(ctx context.Context, f Filter, fn func(*Record) bool) error {
	files, err := r.list()
	if err != nil {
		return r.reading(err)
	}
	m := f.compile()
	left := f.Limit
	done := false
	match := m.match
	ahead := f.Before != (ID{}) // of the record to go on behind
	if ahead {
		match = func(v view) bool {
			if ahead {
				ahead = v.id() != f.Before
				return false
			}
			return m.match(v)
		}
	}
	for _, file := range slices.Backward(files) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if ahead {
			if found, sure := findIndexed(file, f.Before, new(Record)); sure && !found {
				continue
			}
		} else if x, err := openIndex(file); err == nil {
			skip := !m.mayMatch(x)
			x.close()
			if skip {
				continue
			}
		}
		before := func(s *segment) error { m.seed = s.seed; return ctx.Err() }
		err := r.walkFile(file, before, match, func(s *segment, v view) bool {
			rec := new(Record)
			v.decode(s.seed, rec)
			left--
			done = !fn(rec) || left == 0
			return !done
		})
		if err != nil || done {
			return err
		}
	}
	if ahead {
		return ErrNoRecord
	}
	return nil
}

// Last returns up to n records that match, newest first.
func (r *Reader) Last(n int, f Filter) ([]Record, error) {
	if n <= 0 {
		return nil, nil
	}
	f.Limit = n
	var out []Record
	err := r.Query(context.Background(), f, func(rec *Record) bool {
		out = append(out, *rec)
		return true
	})
	return out, err
}
