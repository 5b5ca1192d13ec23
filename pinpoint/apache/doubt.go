package apache

import (
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// doubts are questions that cannot be answered here: a DNS look-up, a program, a function that is
// not known. A request is walked with each of them answered yes and no, as long as they are few.
type doubts struct {
	assume map[string]bool
	asked  []doubt
}

type doubt struct {
	key  string
	says string
	at   pinpoint.Place
}

// maxDoubts bounds the walks to 2 to this power; more questions are answered with no.
const maxDoubts = 4

func (d *doubts) ask(key, says string, at pinpoint.Place) bool {
	for _, a := range d.asked {
		if a.key == key {
			return d.assume[key]
		}
	}
	if len(d.asked) < 50 {
		d.asked = append(d.asked, doubt{key, says, at})
	}
	return d.assume[key]
}

// doubt asks whether something holds that cannot be evaluated.
func (r *request) doubt(says string, at pinpoint.Place) bool {
	return r.doubts.ask(says, says, at)
}

// Decide says what httpd does with one request. Questions that cannot be answered here are tried
// both ways: if the answer differs, the clues of refusals weigh less, and the Trail says what is open.
func (c *Config) Decide(a pinpoint.Arrival) pinpoint.Decision {
	type walk struct {
		d     pinpoint.Decision
		asked []doubt
	}
	run := func(assume map[string]bool) walk {
		ds := &doubts{assume: assume}
		return walk{c.walk(a, ds), ds.asked}
	}
	first := run(nil)
	if len(first.asked) == 0 {
		return first.d
	}
	walks := []walk{first}
	keys := []doubt{}
	for grown := true; grown && len(keys) < maxDoubts; {
		grown = false
		for _, w := range walks {
			for _, q := range w.asked {
				known := false
				for _, k := range keys {
					known = known || k.key == q.key
				}
				if !known && len(keys) < maxDoubts {
					keys, grown = append(keys, q), true
				}
			}
		}
		if !grown {
			break
		}
		walks = walks[:1]
		for bits := 1; bits < 1<<len(keys); bits++ {
			assume := map[string]bool{}
			for i, k := range keys {
				assume[k.key] = bits>>i&1 == 1
			}
			walks = append(walks, run(assume))
		}
	}
	same := true
	for _, w := range walks {
		same = same && w.d.Status == first.d.Status && cause(w.d) == cause(first.d) && len(w.d.Next) == len(first.d.Next)
	}
	best := first.d
	if !same {
		// What the client saw picks the walk; without it a refusal is only a possibility.
		picked := -1
		for i, w := range walks {
			fits := w.d.Status == a.Status && a.Status != 0
			if !fits && a.Status == 0 {
				fits = len(w.d.Clues) > 0
			}
			if fits && (picked < 0 || len(w.d.Clues) > 0 && len(walks[picked].d.Clues) == 0) {
				picked = i
			}
		}
		if picked >= 0 {
			best = walks[picked].d
		}
		for i := range best.Clues {
			best.Clues[i].Weight = min(best.Clues[i].Weight, pinpoint.Fair)
			best.Clues[i].Says += " This depends on something that cannot be evaluated here: " + keys[0].says + "."
		}
		if a.Status == 0 {
			best.Status = first.d.Status
		}
	}
	for _, k := range keys {
		says := "Not evaluated here, so both answers were tried: " + k.says + "."
		if same {
			says = "Not evaluated here, and it changes nothing: " + k.says + "."
		}
		best.Trail = append(best.Trail, pinpoint.Step{Says: says, At: k.at})
	}
	return best
}

func cause(d pinpoint.Decision) string {
	for _, c := range d.Clues {
		if c.Cause != "" && !c.Against {
			return c.Cause
		}
	}
	return ""
}

// lower is the ASCII lower case that directives are compared in.
func lower(s string) string { return strings.ToLower(s) }
