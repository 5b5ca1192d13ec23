//go:build linux

package main

import (
	"math"
	"math/bits"
	"time"
)

// A histogram counts durations in buckets that grow with the value: 128 to each
// power of two, so that a quantile is off by less than 0.8 %. The idea is that
// of HdrHistogram.
type histogram struct {
	buckets [58 * 128]int64
	count   int64
	longest time.Duration
}

const perPower = 128

// bucket maps a duration to its place: below 256 ns each value has its own.
func bucket(d time.Duration) int {
	v := uint64(max(d, 0))
	shift := max(bits.Len64(v)-8, 0)
	return shift*perPower + int(v>>shift)
}

// upper is the largest duration in a bucket.
func upper(i int) time.Duration {
	if i < 2*perPower {
		return time.Duration(i)
	}
	shift := i/perPower - 1
	return time.Duration(uint64(i-shift*perPower+1)<<shift - 1)
}

func (h *histogram) add(d time.Duration) {
	h.buckets[bucket(d)]++
	h.count++
	h.longest = max(h.longest, d)
}

// quantile is the duration that a share q of all values does not exceed, 0 when
// there are none.
func (h *histogram) quantile(q float64) time.Duration {
	rank := max(int64(math.Ceil(q*float64(h.count))), 1)
	var below int64
	for i, n := range h.buckets {
		if below += n; below >= rank {
			return min(upper(i), h.longest)
		}
	}
	return 0
}
