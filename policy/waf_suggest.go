package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// SuggestWAF proposes the narrowest exclusions that bring a score below the threshold: as few rules as possible, each
// at one place of one route. It is nil where none is known.
func SuggestWAF(matches []WAFMatch, score int, threshold int64, route string) (set []WAFExclusion) {
	units := wafUnits(matches)
	slices.SortStableFunc(units, func(a, b wafUnit) int { return b.score - a.score })
	for _, u := range units {
		if int64(score) < threshold {
			break
		}
		if u.score == 0 {
			continue
		}
		score -= u.score
		for _, x := range u.exclusions(route) {
			if i := slices.IndexFunc(set, x.samePlace); i < 0 {
				set = append(set, x)
			} else if !slices.Contains(set[i].Rules, x.Rules[0]) {
				set[i].Rules = append(set[i].Rules, x.Rules[0])
			}
		}
	}
	if int64(score) >= threshold {
		return nil
	}
	return set
}

// wafUnit is what adds to the score as a whole: a rule at a place, or a chain of rules with all its places.
type wafUnit struct {
	places []WAFMatch
	score  int
}

func wafUnits(matches []WAFMatch) (units []wafUnit) {
	whole := map[int]bool{} // rules with a place that carries no score of its own
	for _, m := range matches {
		whole[m.Rule] = whole[m.Rule] || m.Score == 0
	}
	for _, m := range matches {
		i := -1
		if whole[m.Rule] {
			i = slices.IndexFunc(units, func(u wafUnit) bool { return u.places[0].Rule == m.Rule })
		}
		if i < 0 {
			units = append(units, wafUnit{})
			i = len(units) - 1
		}
		units[i].places = append(units[i].places, m)
		units[i].score += m.Score
	}
	return units
}

// exclusions that take the unit out.
func (u *wafUnit) exclusions(route string) (set []WAFExclusion) {
	for _, m := range u.places {
		x := WAFExclusion{Rules: []int{m.Rule}, Route: route}
		switch m.Variable {
		case "TX": // it is about the call as a whole
		case "ARGS", "ARGS_GET", "ARGS_POST":
			if x.Parameter = m.Key; m.Pointer != "" {
				x.Parameter = anyIndex(m.Pointer)
			}
			if x.Parameter == "" { // a parameter without a name
				x.Variable = "ARGS"
			}
		default:
			if x.Variable = m.Variable; m.Key != "" {
				x.Variable += ":" + m.Key
			}
		}
		if !slices.ContainsFunc(set, x.samePlace) {
			set = append(set, x)
		}
	}
	return set
}

// anyIndex puts a star for numbers in a JSON pointer: another call has its value elsewhere in the list.
func anyIndex(pointer string) string {
	segs := strings.Split(pointer, "/")
	for i, s := range segs {
		if _, err := strconv.ParseUint(s, 10, 32); err == nil {
			segs[i] = "*"
		}
	}
	return strings.Join(segs, "/")
}

// samePlace says that two exclusions differ in their rules at most.
func (w WAFExclusion) samePlace(o WAFExclusion) bool {
	return slices.Equal(w.Tags, o.Tags) && w.Route == o.Route && w.Path == o.Path && w.Parameter == o.Parameter && w.Variable == o.Variable
}

// Covers says that an exclusion of rules at one place takes a match out of calls of a route.
func (w *WAFExclusion) Covers(m *WAFMatch, route string) bool {
	if !slices.Contains(w.Rules, m.Rule) || w.Route != "" && w.Route != route {
		return false
	}
	switch {
	case w.Variable != "":
		name, key, _ := strings.Cut(w.Variable, ":")
		return name == m.Variable && (key == "" || strings.EqualFold(key, m.Key)) || name == "ARGS" && strings.HasPrefix(m.Variable, "ARGS") && !strings.HasSuffix(m.Variable, "NAMES")
	case w.Parameter == "":
		return true
	case m.Variable != "ARGS" && m.Variable != "ARGS_GET" && m.Variable != "ARGS_POST":
		return false
	case w.Parameter[0] == '/' && m.Pointer != "":
		return pointerPattern(w.Parameter).MatchString("json" + strings.ToLower(unescapePointer.Replace(strings.ReplaceAll(m.Pointer, "/", "."))))
	}
	return strings.EqualFold(w.Parameter, m.Key)
}

// RemainingWAF is what is left of the score of a recorded call with exclusions.
func RemainingWAF(matches []WAFMatch, score int, route string, set []WAFExclusion) int {
	for _, u := range wafUnits(matches) {
		out := 0
		for i := range u.places {
			if slices.ContainsFunc(set, func(w WAFExclusion) bool { return w.Covers(&u.places[i], route) }) {
				out++
			}
		}
		if out == len(u.places) {
			score -= u.score
		}
	}
	return max(score, 0)
}

// YAML writes the exclusion as an element of the setting exclusions.
func (w *WAFExclusion) YAML() string {
	parts := []string{}
	if len(w.Rules) > 0 {
		parts = append(parts, "rules: ["+strings.Trim(strings.ReplaceAll(fmt.Sprint(w.Rules), " ", ", "), "[]")+"]")
	}
	for _, f := range [][2]string{{"route", w.Route}, {"path", w.Path}, {"parameter", w.Parameter}, {"variable", w.Variable}} {
		if f[1] != "" {
			parts = append(parts, f[0]+": "+yamlText(f[1]))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// yamlText quotes where a plain word would be read as something else.
func yamlText(s string) string {
	plain := s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z' || s[0] == '/'
	for i := 0; plain && i < len(s); i++ {
		c := s[i]
		plain = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '/' || c == '.'
	}
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "true", "false", "on", "off", "null":
		plain = false
	}
	if plain {
		return s
	}
	return strconv.Quote(s)
}

// yamlOf writes exclusions as the setting of the policy.
func yamlOf(set []WAFExclusion) string {
	list := make([]string, len(set))
	for i := range set {
		list[i] = set[i].YAML()
	}
	return "exclusions: [" + strings.Join(list, ", ") + "]"
}
