package upstream

import (
	"hash/fnv"
	"slices"
	"sort"
	"strconv"
)

// ringPoints is how many points a target of weight 1 has on the hash ring: enough for shares
// within some percent, few enough to build a ring in no time.
const ringPoints = 100

// build prepares what choosing needs.
func (s *set) build(by string) {
	if by == "hash" {
		s.buildRing()
	}
	s.buildOrder()
}

// buildOrder spreads the indexes of targets evenly by weight: the smooth weighted round
// robin of nginx, run once in advance. Weights are divided by their greatest common divisor.
func (s *set) buildOrder() {
	total, g := 0, 0
	for _, t := range s.targets {
		g = gcd(g, t.Weight)
	}
	if g == 0 {
		return
	}
	current := make([]int, len(s.targets))
	for _, t := range s.targets {
		total += t.Weight / g
	}
	for range total {
		best := -1
		for i, t := range s.targets {
			current[i] += t.Weight / g
			if best < 0 || current[i] > current[best] {
				best = i
			}
		}
		current[best] -= total
		s.order = append(s.order, int32(best))
	}
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// buildRing puts every target on a ring at points that depend on its address alone, so that
// a target that comes or goes moves only its own share of the calls.
func (s *set) buildRing() {
	for i, t := range s.targets {
		for n := range ringPoints * t.Weight {
			h := fnv.New64a()
			h.Write([]byte(t.Address + "#" + strconv.Itoa(n)))
			s.ring = append(s.ring, point{mix(h.Sum64()), int32(i)})
		}
	}
	slices.SortFunc(s.ring, func(a, b point) int {
		switch {
		case a.hash < b.hash:
			return -1
		case a.hash > b.hash:
			return 1
		}
		return 0
	})
}

func (s *set) byHash(hash uint64, ok func(int32) bool) *Target {
	if len(s.ring) == 0 {
		return nil
	}
	hash = mix(hash)
	i := sort.Search(len(s.ring), func(i int) bool { return s.ring[i].hash >= hash })
	for n := range len(s.ring) {
		if j := s.ring[(i+n)%len(s.ring)].index; ok(j) {
			return s.targets[j]
		}
	}
	return nil
}

// mix spreads a hash over all bits (the finalizer of SplitMix64).
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xBF58476D1CE4E5B9
	h = (h ^ h>>27) * 0x94D049BB133111EB
	return h ^ h>>31
}

// HashOf is a hash of what a document balances on. It is the same on every node and
// after every restart.
func HashOf(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(s); i++ {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}
