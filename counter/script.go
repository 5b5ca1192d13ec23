package counter

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"
)

// Scripts run as one step of the server each, and take the time from there: clocks of nodes do
// not matter. Times are kept as seconds and nanoseconds apart, since numbers of Lua are exact up to 2^53 only;
// so is the arithmetic for limits that flow back within 104 days.

// askScript asks for all limits of one call. If one of them refuses that does not only watch,
// nothing is spent. ARGV is: t to spend or p to peek; seconds and nanoseconds to add to the time; and for
// each key its kind, 1 if it only watches, and
//
//	r  interval, full (both in nanoseconds), cost: a rate, by GCRA; the same as Rate.gcra
//	q  limit, cost, and four ends of periods in Unix seconds: a quota; its key gets the beginning
//	   of the period that now lies in appended, or that of the middle one if it lies in none
//	c  limit, member, seconds: a place among the calls in flight, taken for so long
//	n  seconds, -, -: something that may be used once in so long
//
// The answer has five numbers for each key: 1 if it passes, what is left, when it would pass, when all is
// free again (both in nanoseconds), and the beginning of the period of a quota.
const askScript = `
local spend = ARGV[1] == 't'
local t = redis.call('TIME')
local s, n = tonumber(t[1]) + tonumber(ARGV[2]), tonumber(t[2]) * 1000 + tonumber(ARGV[3])
if n >= 1e9 then s, n = s + 1, n - 1e9 end
local out, todo, refused, a = {}, {}, false, 4
for i = 1, #KEYS do
  local key, kind, o = KEYS[i], ARGV[a], i * 5 - 4
  local ok, left, retry, reset, start = 0, 0, 0, 0, 0
  if kind == 'r' then
    local each, full, used = tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), 0
    local v = redis.call('GET', key)
    if v then
      local vs, vn = string.match(v, '^(%d+) (%d+)$')
      if vs then used = math.max((tonumber(vs) - s) * 1e9 + tonumber(vn) - n, 0) end
    end
    local off = used + each * tonumber(ARGV[a + 4])
    local rest = full - off
    if rest < 0 then
      retry = -rest
      rest = math.max(full - used, 0)
      reset = used
    else
      ok, reset = 1, off
      todo[i] = off
    end
    left = math.floor(rest / each)
    if left * each > rest then left = left - 1 end
    a = a + 5
  elseif kind == 'q' then
    local limit, cost, b = tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), a + 4
    local j = 1
    for k = 0, 2 do
      if s >= tonumber(ARGV[b + k]) and s < tonumber(ARGV[b + k + 1]) then j = k end
    end
    start = tonumber(ARGV[b + j])
    reset = math.max((tonumber(ARGV[b + j + 1]) - s) * 1e9 - n, 0)
    key = key .. ':' .. ARGV[b + j]
    local used = tonumber(redis.call('GET', key) or '0') or 0
    if used + cost <= limit then
      ok, left = 1, limit - used - cost
      todo[i] = {key, ARGV[a + 3], string.format('%.0f', reset / 1e9 + 3600)}
    else
      left, retry = math.max(limit - used, 0), reset
    end
    a = a + 8
  elseif kind == 'n' then
    local rest = redis.call('PTTL', key)
    if rest == -2 then
      ok = 1
      todo[i] = ARGV[a + 2]
    else
      retry = math.max(rest, 0) * 1e6
    end
    a = a + 5
  else
    local now = s * 1e6 + math.floor(n / 1000)
    local held = redis.call('ZCOUNT', key, string.format('(%.0f', now), '+inf')
    left = math.max(tonumber(ARGV[a + 2]) - held, 0)
    if left > 0 then
      ok = 1
      todo[i] = {now, ARGV[a + 3], ARGV[a + 4]}
    end
    a = a + 5
  end
  if ok == 0 and ARGV[a - (kind == 'q' and 7 or 4)] ~= '1' then refused = true end
  out[o], out[o + 1], out[o + 2], out[o + 3], out[o + 4] = ok, left, retry, reset, start
end
if spend and not refused then
  a = 4
  for i = 1, #KEYS do
    local key, kind, w = KEYS[i], ARGV[a], todo[i]
    if w then
      if kind == 'r' then
        local ns = n + w
        local up = math.floor(ns / 1e9)
        redis.call('SET', key, string.format('%.0f %.0f', s + up, ns - up * 1e9), 'PX', string.format('%.0f', math.ceil(w / 1e6) + 1000))
      elseif kind == 'q' then
        redis.call('INCRBY', w[1], w[2])
        redis.call('EXPIRE', w[1], w[3])
      elseif kind == 'n' then
        redis.call('SET', key, '1', 'EX', w)
      else
        redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', w[1]))
        redis.call('ZADD', key, string.format('%.0f', w[1] + tonumber(w[3]) * 1e6), w[2])
        redis.call('EXPIRE', key, w[3] + 1)
      end
    end
    a = a + (kind == 'q' and 8 or 5)
  end
end
return out
`

// settleScript ends what askScript began. ARGV has for each key a kind and two arguments:
//
//	r  nanoseconds to give back, -
//	q  calls to give back, -
//	c  the member whose place is free again, -
//	l  the member whose place is held on, for how many seconds more
const settleScript = `
local t = redis.call('TIME')
local s, n = tonumber(t[1]), tonumber(t[2]) * 1000
for i = 1, #KEYS do
  local key, kind, x = KEYS[i], ARGV[i * 3 - 2], ARGV[i * 3 - 1]
  if kind == 'r' then
    local vs, vn = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
    if vs then
      local off = (tonumber(vs) - s) * 1e9 + tonumber(vn) - n - tonumber(x)
      if off > 0 then
        local ns = n + off
        local up = math.floor(ns / 1e9)
        redis.call('SET', key, string.format('%.0f %.0f', s + up, ns - up * 1e9), 'PX', string.format('%.0f', math.ceil(off / 1e6) + 1000))
      else
        redis.call('DEL', key)
      end
    end
  elseif kind == 'q' then
    if (tonumber(redis.call('GET', key) or '0') or 0) >= tonumber(x) then redis.call('DECRBY', key, x) end
  elseif kind == 'c' then
    redis.call('ZREM', key, x)
  else
    local seconds = ARGV[i * 3]
    redis.call('ZADD', key, string.format('%.0f', s * 1e6 + math.floor(n / 1000) + tonumber(seconds) * 1e6), x)
    redis.call('EXPIRE', key, seconds + 1)
  end
end
return {}
`

// script is one with the name that servers give it.
type script struct{ text, sha string }

func newScript(text string) script {
	sum := sha1.Sum([]byte(text))
	return script{text, hex.EncodeToString(sum[:])}
}

// The kinds of keys.
const (
	rateKind  = "r"
	quotaKind = "q"
	placeKind = "c"
	renewKind = "l"
	onceKind  = "n"
)

// SharedRate is a rate as the shared counters are asked for it.
type SharedRate struct {
	name       string
	interval   int64
	each, full any // text
}

// NewSharedRate names a rate. The name is the same on all nodes that have the same limit.
func NewSharedRate(name string, r Rate) *SharedRate {
	t := r.interval()
	full := int64(longest)
	if r.Burst < longest/t {
		full = t * r.Burst
	}
	return &SharedRate{name: r.Named(name), interval: t, each: strconv.FormatInt(t, 10), full: strconv.FormatInt(full, 10)}
}

// SharedQuota is a quota as the shared counters are asked for it.
type SharedQuota struct {
	name  string
	limit any // text
}

// NewSharedQuota names a quota. The name is the same on all nodes. Nobody makes more than 2^53 calls,
// up to which the server is exact.
func NewSharedQuota(name string, limit int64) *SharedQuota {
	return &SharedQuota{name: name, limit: strconv.FormatInt(min(limit, 1<<53), 10)}
}

// Spans are a period of the calendar with those before and behind it: the clock of the server may
// be in another one than that of the node.
type Spans struct {
	periods [3]Period
	ends    [4]any // text, in Unix seconds
}

// SpansOf are the spans around a period of that kind.
func SpansOf(kind string, p Period, zone *time.Location) *Spans {
	s := &Spans{periods: [3]Period{PeriodOf(kind, p.Start.Add(-time.Second), zone), p, PeriodOf(kind, p.End, zone)}}
	for i, t := range []time.Time{s.periods[0].Start, p.Start, p.End, s.periods[2].End} {
		s.ends[i] = strconv.FormatInt(t.Unix(), 10)
	}
	return s
}

// Around says that p is the period in the middle.
func (s *Spans) Around(p Period) bool {
	return s.periods[1].Start.Equal(p.Start) && s.periods[1].End.Equal(p.End)
}

// from is the period that begins then.
func (s *Spans) from(start int64) Period {
	for _, p := range s.periods {
		if p.Start.Unix() == start {
			return p
		}
	}
	return s.periods[1]
}

// SharedPlaces are places for calls in flight as the shared counters are asked for them.
type SharedPlaces struct {
	name  string
	limit any // text
}

// NewSharedPlaces names a limit of calls at once. The name is the same on all nodes.
func NewSharedPlaces(name string, limit int64) *SharedPlaces {
	return &SharedPlaces{name: name, limit: strconv.FormatInt(limit, 10)}
}

// readAnswer checks the form of an answer of askScript.
func readAnswer(v []int64, keys int) error {
	if len(v) != 5*keys {
		return fmt.Errorf("the store answers %d numbers for %d limits", len(v), keys)
	}
	for i := 0; i < len(v); i += 5 {
		if v[i] != 0 && v[i] != 1 || v[i+1] < 0 || v[i+2] < 0 || v[i+3] < 0 {
			return fmt.Errorf("the store answers %d for a limit", v[i:i+5])
		}
	}
	return nil
}
