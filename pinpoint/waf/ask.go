package waf

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// This file asks an oracle whose answers may be wrong, and weighs what it says.

// calibrate asks for the twin and the full request twice each. The twin comes first: it is the one that may show
// that a decoy is none.
func (b *bisection) calibrate(full, twin Kept) (refused bool, err error) {
	for range 2 {
		if _, err = b.send(twin, "harmless twin"); err != nil {
			return false, err
		}
		if _, err = b.send(full, "original"); err != nil {
			return false, err
		}
	}
	t, f := b.votesOf(twin), b.votesOf(full)
	for n := 0; n < 3 && t.block > 0 && t.block >= t.pass && t.block < 4; n++ {
		b.res.Retests++
		if _, err = b.send(twin, "harmless twin"); err != nil {
			return false, err
		}
	}
	if t.block > t.pass {
		return false, b.forms(twin)
	}
	for n := 0; n < 6 && f.pass > 0 && f.block < 3 && (f.block > 0 || f.pass < 4); n++ {
		b.res.Retests++
		if _, err = b.send(full, "original"); err != nil {
			return false, err
		}
	}
	if f.block == 0 || f.block*3 < f.pass {
		b.res.Status = NotReproduced
		b.res.Says = "This way the full request is not refused: the path, a credential or something else that differs decides, or the refusal is over."
		return false, nil
	}
	if f.pass+t.block > 0 {
		return true, b.doubt()
	}
	return true, nil
}

// doubt goes over to the assumption that some answers are wrong. The original, which is due to be refused, tells
// whether the firewall refuses only some of equal requests.
func (b *bisection) doubt() error {
	if b.noisy {
		return nil
	}
	b.noisy, b.reserve = true, 8
	full := b.m.All()
	f := b.votesOf(full)
	for f.block+f.pass < 5 {
		b.res.Retests++
		if _, err := b.send(full, "original again"); err != nil {
			return err
		}
	}
	if n := float64(f.block + f.pass); float64(f.block) < 0.85*n {
		b.due = min(0.88, max(0.4, (float64(f.block)+0.5)/(n+1)))
		b.res.Sampled = true
	}
	return nil
}

// model is how often what is due to be refused is refused, how often what is harmless is, and how sure to be
// of one answer (as logarithm of the odds) and of a place (as probability).
func (b *bisection) model() (due, wrong, odds, sure float64) {
	switch {
	case b.due > 0:
		return b.due, 0.03, 3.2, 0.95
	case b.noisy:
		return 0.9, 0.05, 4, 0.97
	}
	return 0.99, 0.01, 3, 0.95
}

// odds are those of being due to be refused, as logarithm.
func (b *bisection) odds(v *votes) float64 {
	due, wrong, _, _ := b.model()
	return float64(v.block)*math.Log(due/wrong) + float64(v.pass)*math.Log((1-due)/(1-wrong))
}

func (b *bisection) key(k Kept) [32]byte {
	r := b.m.Render(k)
	h := sha256.New()
	fmt.Fprintf(h, "%d:%s %d:%s ", len(r.Method), r.Method, len(r.URL), r.URL)
	for _, f := range r.Header {
		fmt.Fprintf(h, "%d:%s=%d:%s ", len(f.Name), f.Name, len(f.Value), f.Value)
	}
	h.Write(r.Body)
	return [32]byte(h.Sum(nil))
}

func (b *bisection) votesOf(k Kept) *votes {
	key := b.key(k)
	v := b.tally[key]
	if v == nil {
		v = &votes{}
		b.tally[key] = v
	}
	return v
}

// send asks the oracle once, and watches over the series.
func (b *bisection) send(k Kept, says string) (blocked bool, err error) {
	if b.watching && (b.sinceSentinel >= watchEvery || b.run >= maxRun) {
		if err := b.watch(); err != nil {
			return false, err
		}
	}
	o, err := b.ask(b.m.Render(k), says)
	if err != nil {
		return false, err
	}
	v := b.votesOf(k)
	if o == BLOCK {
		v.block++
	} else {
		v.pass++
	}
	return o == BLOCK, nil
}

// ask sends one request, and once more when the answer is unclear.
func (b *bisection) ask(r *pinpoint.Request, says string) (Outcome, error) {
	for try := 0; ; try++ {
		if b.res.Requests >= b.opts.MaxRequests-b.reserve || b.res.Strikes >= b.opts.MaxStrikes-b.reserve/2 {
			return UNCLEAR, errCap
		}
		if err := b.ctx.Err(); err != nil {
			return UNCLEAR, err
		}
		o, err := b.oracle.Test(b.ctx, r)
		b.res.Requests++
		b.sinceSentinel++
		if o == BLOCK || o == BANNED {
			b.res.Strikes++
		}
		if b.opts.Told != nil {
			b.opts.Told(Step{says, o, b.res.Requests, b.res.Strikes, b.res.Bound})
		}
		switch {
		case err != nil:
			return UNCLEAR, err
		case o == BANNED:
			return o, errBanned
		case o == BLOCK:
			b.run++
			b.sinceBlock = 0
			return o, nil
		case o == PASS:
			b.run = 0
			b.sinceBlock++
			return o, nil
		case try > 0:
			return o, errOther
		}
		wait := time.Second
		if w, ok := b.oracle.(waiter); ok {
			wait = max(wait, w.Wait())
		}
		if wait > maxWait {
			b.res.Notes = append(b.res.Notes, fmt.Sprintf("the server asks to wait %v; go on then", wait.Round(time.Second)))
			return o, errOther
		}
		b.res.Retests++
		if err := b.opts.Sleep(b.ctx, wait); err != nil {
			return o, err
		}
	}
}

// watch tries what is known: the twin must pass, and the original be refused where nothing was for long.
func (b *bisection) watch() error {
	b.sinceSentinel, b.run = 0, 0
	twin := b.m.Render(b.m.Twin())
	for n := 0; ; n++ {
		b.res.Sentinels++
		o, err := b.ask(twin, "sentinel: harmless twin")
		if err != nil {
			return err
		}
		if o == PASS {
			if b.run = 0; n > 0 {
				return b.doubt()
			}
			break
		}
		if n == 2 && !b.noisy || n == 3 {
			return errBanned
		}
	}
	b.run = 0
	if b.sinceBlock < watchEvery {
		return nil
	}
	full := b.m.Render(b.m.All())
	for n := 0; ; n++ {
		b.res.Sentinels++
		o, err := b.ask(full, "sentinel: original")
		if err != nil {
			return err
		}
		b.sinceSentinel = 0
		if o == BLOCK {
			return nil
		}
		if n == 3 {
			return errFlaky
		}
	}
}

// blocks says whether a request is refused, from memory or by asking as often as needed.
func (b *bisection) blocks(k Kept, says string) (bool, error) {
	return b.until(k, false, says)
}

// until asks until the answer is likely enough, or as sure as a proof must be.
func (b *bisection) until(k Kept, proof bool, says string) (bool, error) {
	v := b.votesOf(k)
	for n := 0; ; n++ {
		_, _, odds, _ := b.model()
		if proof {
			odds = b.certain()
		}
		if o := b.odds(v); o >= odds || o <= -odds || n == 12 {
			return o > 0, nil
		}
		if v.block+v.pass > 0 {
			b.res.Retests++
		}
		if _, err := b.send(k, says); err != nil {
			return false, err
		}
		if v.block > 0 && v.pass > 0 {
			if err := b.doubt(); err != nil {
				return false, err
			}
		}
	}
}

// threshold finds the smallest n with keep(n) refused, where keep(0) passes and keep(most) is refused. It keeps
// how probable each n is, and asks where that is split best: after M. Horstein, Sequential transmission using
// noiseless feedback (1963). Splitting at less than a half provokes fewer refusals, which cost more than passes.
func (b *bisection) threshold(most int, part float64, prior func(int) float64, keep func(int) Kept, says func(int) string) (int, error) {
	if most < 2 {
		return most, nil
	}
	p := make([]float64, most+1)
	used := map[int]votes{}
	weigh := func() {
		due, wrong, _, _ := b.model()
		total := 0.0
		up, down := map[int]float64{}, map[int]float64{}
		factor := 1.0
		for _, m := range slices.Sorted(maps.Keys(used)) {
			v := used[m]
			up[m] = math.Pow(due, float64(v.block)) * math.Pow(1-due, float64(v.pass))
			down[m] = math.Pow(wrong, float64(v.block)) * math.Pow(1-wrong, float64(v.pass))
			factor *= down[m]
		}
		// From n = most down: a point m at or above n is due to be refused.
		for n := most; n >= 1; n-- {
			if u, ok := up[n]; ok {
				factor *= u / down[n]
			}
			p[n] = factor * prior(n)
			total += p[n]
		}
		for n := range p {
			p[n] /= total
		}
	}
	for asked, limit := 0, 4*log2(most)+16; ; asked++ {
		weigh()
		_, _, _, sure := b.model()
		best, sum, at, near := 1, 0.0, 1, 2.0
		for n := 1; n <= most; n++ {
			if p[n] > p[best] {
				best = n
			}
		}
		where := part
		if p[best] > 0.3 { // near the end it must be confirmed from both sides
			where = 0.5
		}
		for n := 1; n < most; n++ {
			if sum += p[n]; math.Abs(sum-where) < near {
				at, near = n, math.Abs(sum-where)
			}
		}
		if p[best] >= sure {
			return best, nil
		}
		if asked >= limit {
			return 0, errFlaky
		}
		k := keep(at)
		v := b.votesOf(k)
		if *v == used[at] { // nothing new in memory
			if v.block+v.pass > 0 {
				b.res.Retests++
			}
			if _, err := b.send(k, says(at)); err != nil {
				return 0, err
			}
			if v.block > 0 && v.pass > 0 {
				if err := b.doubt(); err != nil {
					return 0, err
				}
			}
		}
		used[at] = *v
	}
}

func evenly(int) float64 { return 1 }
