package resource

import "strings"

// Nearest is the known word that was probably meant by word, or "" when none is
// near. Letter case, "-" and "_" do not count, so rate_limit is near to rateLimit;
// of equally near words the first wins.
func Nearest(word string, known []string) string {
	best, least := "", 0
	w := letters(word)
	if len(w) > 64 {
		return ""
	}
	for _, k := range known {
		c := letters(k)
		// One slip in three letters, but at least one: "get" for "set" is near, "id" for "ip" too.
		most := max(1, min(len(w), len(c))/3)
		if len(w) == 0 || len(c) > 64 || len(w)-len(c) > most || len(c)-len(w) > most {
			continue
		}
		if d := distance(w, c); d <= most && d < max(len(w), len(c)) && (best == "" || d < least) {
			best, least = k, d
		}
	}
	return best
}

// letters is what Nearest compares of a word.
func letters(s string) []rune {
	return []rune(strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(s)))
}

// distance counts the letters to insert, remove, replace or swap with their
// neighbour to make b of a (Damerau and Levenshtein, no letter touched twice).
func distance(a, b []rune) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range a {
		row[0] = i + 1
		for j := range b {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
