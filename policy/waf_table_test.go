package policy

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"regexp/syntax"
	"strings"
	"sync"
	"testing"
)

// FuzzRxTable holds the tables of expressions against the regexp package: where one says that there is no match, there
// is none; and it says so of every value without a match, as long as it is not full.
func FuzzRxTable(f *testing.F) {
	for _, s := range []string{"(?i)k[as]t", "a(?:b|cd)?e+$", "[^a-z]x{2,3}", "é|\\bfoo\\b", "(?i)(?:union|select)\\s+\\w", "(?i)ſ|\u212a", "^$|^a", "[\\x80-\\xff]b", "(?i)\u0130x", "(a|)b", "\\Bx\\B", "(?s).a.{3}$", "\\Aa\\z|(?m)^b$", "\\pLx", "(?-s)a.b", "[^\\n]\\n^x", "\ufffdz"} {
		f.Add(s, "kat sT foo\nb\nunion select 1\xffz", uint64(7))
	}
	f.Fuzz(func(t *testing.T, expr, value string, seed uint64) {
		if len(expr) > 200 || len(value) > 1000 {
			return
		}
		re, err := regexp.Compile("(?sm)" + expr)
		if err != nil {
			return
		}
		table := newRxTable("(?sm)" + expr)
		if table == nil {
			return
		}
		tree, err := syntax.Parse("(?sm)"+expr, syntax.Perl)
		if err != nil {
			return
		}
		w := writer{Rand: rand.New(rand.NewPCG(seed, 1))}
		w.write(tree)
		text := w.b.String()
		for range 2 { // as they are made, and from what was made
			for _, s := range []string{value, text, mutate(w.Rand, text), value + text + value, text[:len(text)/2] + "\n" + value} {
				matches, misses := re.MatchString(s), table.misses(s)
				if matches == misses && (matches || len(s) < maxTableMade && table.states.Load().size < table.size) {
					t.Fatalf("%q: that %q matches is %v, and that it misses %v", expr, s, matches, misses)
				}
			}
		}
	})
}

// TestRxTableFull fills a table with what nobody sends: thousands of states. It stays within its bounds, is never
// wrong, and begins anew after a while.
func TestRxTableFull(t *testing.T) {
	const expr = "a[ab]{14}c"
	re, table := regexp.MustCompile(expr), newRxTable(expr)
	r := rand.New(rand.NewPCG(1, 2))
	value := func() string {
		var b strings.Builder
		for range 300 {
			b.WriteByte("ab"[r.IntN(2)])
		}
		return b.String() + [...]string{"c", "cc", "", "bcb"}[r.IntN(4)]
	}
	first, unsure, began := table.states.Load(), 0, false
	for range 8000 {
		s := value()
		misses := table.misses(s)
		if misses && re.MatchString(s) {
			t.Fatalf("%q matches, and is said to miss", s)
		}
		if !misses && !re.MatchString(s) {
			unsure++
		}
		states := table.states.Load()
		if states.size > table.size+4096 {
			t.Fatalf("the table takes %d bytes", states.size)
		}
		began = began || states != first
	}
	if unsure == 0 || !began {
		t.Errorf("the table was unsure %d times; that it began anew is %v", unsure, began)
	}
	for range 2 {
		if table = newRxTable(expr); !table.misses("xyz") || table.misses("a"+strings.Repeat("b", 14)+"c") {
			t.Error("a table without strangers is wrong")
		}
	}
}

// TestRxTableTogether has several calls make one table at once.
func TestRxTableTogether(t *testing.T) {
	const expr = `(?i)\b(?:union|select|insert)\b.{0,8}\bfrom\b`
	re, table := regexp.MustCompile(expr), newRxTable(expr)
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 3))
			for range 500 {
				var b strings.Builder
				for range 12 {
					b.WriteString([...]string{"union", "SELECT", " ", "from", "insert", "x", "\n", "é"}[r.IntN(8)])
				}
				if s := b.String(); table.misses(s) == re.MatchString(s) {
					t.Errorf("%q: that it misses is %v", s, table.misses(s))
				}
			}
		})
	}
	all.Wait()
}

// TestRxTableLarge: expressions whose tables would be large have none.
func TestRxTableLarge(t *testing.T) {
	if newRxTable(strings.Repeat("(?:abc|def){900}", 30)) != nil {
		t.Error("an expression of 100,000 instructions has a table")
	}
	var b strings.Builder
	for i := range maxTableClasses + 10 {
		fmt.Fprintf(&b, "|%c%d", rune(0x4e00+i*3), i)
	}
	if newRxTable(b.String()[1:]) != nil {
		t.Error("an expression with many classes of characters has a table")
	}
}

// TestRxTableOfRules: every expression of the rule set has a table, and it is right about texts that match, about those
// that nearly do, and about prose.
func TestRxTableOfRules(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	missed := 0
	for _, re := range expressions(t) {
		table := newRxTable(re.String())
		if table == nil {
			t.Errorf("%s has no table", re)
			continue
		}
		tree, err := syntax.Parse(re.String(), syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		check := func(s string) {
			misses := table.misses(s)
			if misses {
				missed++
			}
			if misses && re.MatchString(s) {
				t.Fatalf("%q matches %s, and is said to miss", s, re)
			}
		}
		for range 30 {
			w := writer{Rand: r}
			w.write(tree)
			text := w.b.String()
			for _, s := range []string{text, mutate(r, text), "the " + text + "\nof", text[len(text)/3:]} {
				check(s)
			}
		}
		prose := jsonNotes(400)
		check(prose)
		table = newRxTable(re.String()) // no strangers have filled this one
		if !re.MatchString(prose) && !table.misses(prose) {
			t.Errorf("%s: the table is not sure about prose", re)
		}
	}
	if missed < 3000 {
		t.Errorf("only %d texts missed", missed)
	}
}
