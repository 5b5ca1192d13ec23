// Package counter counts calls against limits: how fast, how many in a calendar
// period, how many at once.
//
// The arithmetic is open on purpose: every answer carries what is left and when it will
// be enough, since a refusal must say so exactly. Explaining a call peeks and spends
// nothing.
package counter

import (
	"hash/maphash"
	"strconv"
	"time"
)

// Key names one counter: the limit and whom it counts. It is a 128-bit hash, so
// that counting neither allocates nor keeps what callers send.
type Key struct{ Hi, Lo uint64 }

// Two seeds make two independent halves. They last as long as the process: memory
// counters do too. Quotas that outlive it are keyed by stable names, see Quotas.
var seedHi, seedLo = maphash.MakeSeed(), maphash.MakeSeed()

// KeyOf makes the key of a limit and the caller that it counts.
func KeyOf(limit uint64, who string) Key {
	return Key{maphash.String(seedHi, who) ^ limit*0x9E3779B97F4A7C15, maphash.String(seedLo, who) + limit}
}

// LimitID makes the number of a limit from its name.
func LimitID(name string) uint64 { return maphash.String(seedHi, name) }

// Rate is a limit on speed: Requests in each Period, at most Burst at once. It is
// kept by the generic cell rate algorithm (GCRA): allowance flows back evenly, one request every
// Period/Requests, so callers are never locked out until some window ends.
type Rate struct {
	Requests int64
	Burst    int64
	Period   time.Duration
}

// Named is the name under which a rate counts for a limit. A rate that is changed begins anew: what was
// used of the old one, as a share of it, says nothing of the new one, and whoever raises a limit
// wants the next call to pass.
func (r Rate) Named(limit string) string {
	return limit + " " + strconv.FormatInt(r.interval(), 10) + "/" + strconv.FormatInt(r.Burst, 10)
}

// longest is how far into the future a limit may count, in nanoseconds: 146 years, so that sums
// of two do not overflow. A burst that would take longer to flow back is cut there.
const longest = 1 << 62

// interval is the time after which one request flows back, at least a nanosecond. Documents with mistakes have rates of no requests.
func (r Rate) interval() int64 { return max(int64(r.Period)/max(r.Requests, 1), 1) }

// Result says how a limit stands.
type Result struct {
	OK bool
	// Limit is what may be used at once or in the period, Left what is left of it now.
	Limit, Left int64
	// Retry is when the same call would pass, 0 when it does.
	Retry time.Duration
	// Reset is when all of the limit is free again.
	Reset time.Duration
}

// price is the time after which a cost flows back. It ends at longest: such a cost is more than any burst that is not cut
// there.
func (r Rate) price(cost int64) int64 {
	if t := r.interval(); cost <= longest/t {
		return t * cost
	}
	return longest
}

// gcra is the algorithm on the theoretical arrival time, both in nanoseconds on the
// same clock. It returns the new arrival time, which is the old one for a refusal.
func (r Rate) gcra(tat, now, cost int64) (int64, Result) {
	t := r.interval()
	full := int64(longest)
	if r.Burst < longest/t {
		full = t * r.Burst
	}
	next := max(tat, now) + r.price(cost)
	res := Result{Limit: r.Burst}
	if over := next - now - full; over > 0 {
		used := max(tat-now, 0)
		res.Left = max(full-used, 0) / t
		res.Retry = time.Duration(over)
		res.Reset = time.Duration(used)
		return tat, res
	}
	res.OK = true
	res.Left = (full - (next - now)) / t
	res.Reset = time.Duration(next - now)
	return next, res
}
