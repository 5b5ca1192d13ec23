package gateway_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/whytest"
)

// hurdles are policies of all phases that refuse the call of [TestManyObstacles]. Some are lifted by one change together, and
// behind some another refusal of the same check appears.
func hurdles(w *world) []string {
	return []string{
		"maintenance: {until: 2099-01-01}",
		pickOf(w, "ip-access: {allow: [10.0.0.0/8]}", "ip-access: {deny: [127.0.0.1], allow: [10.0.0.0/8]}"),
		"geo: {database: [" + countries() + "], allow: [FR], unknown: deny}",
		pickOf(w, "bot: {deny: [Bad]}", "bot: {deny: [\"*\"]}"),
		"method: {allow: [" + pickOf(w, "GET, PUT", "PUT") + "]}",
		pickOf(w, "size: {body: 9B}", "size: {body: 9B, uri: 5B}"),
		"size: {uri: 9B}",
		pickOf(w, "key-auth", "anonymous: {}", "anonymous: {}", "anonymous: {}"),
		"access: {allow: {applications: [nobody]}}",
		"scopes: {all: [read]}",
		"roles: {any: [chief]}",
		"groups: {any: [board]}",
		"rule: {rules: [{name: one, effect: deny, when: '" + pickOf(w, `request.method == "POST"`, "true") + "'}]}",
		"rule: {rules: [{name: two, effect: allow, when: '" + pickOf(w, `request.method == "PUT"`, "false") + "'}]}",
		"csrf: {exemptTokens: false}",
		"hotlink: {}",
		"content-type: {allow: [application/json" + pickOf(w, "", ", text/*") + "], charsets: [utf-8]}",
		"json-limits: {depth: 1, maxBody: " + pickOf(w, "5B", "1MiB") + "}",
		"schema: {body: {type: object, required: [id]}}",
	}
}

// manyObstacles is a random API with at least most different policies that refuse a call.
func manyObstacles(w *world, most int) (policies string, q gateway.Question) {
	all := hurdles(w)
	w.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for n, spec := range all[:most] {
		if !strings.Contains(spec, ":") {
			spec += ": {}"
		}
		policies += fmt.Sprintf("  - %s\n    name: p%d\n", spec, n)
	}
	body := []byte(`{"a": [[{"b": 1}]]}`)
	q = gateway.Question{Method: "POST", URL: "http://shop.test/a/long/path", From: netip.MustParseAddr("127.0.0.1"), Body: int64(len(body)), Content: body, At: time.Now(),
		Header: [][2]string{{"Origin", "https://evil.test"}, {"User-Agent", "Bad/1"}, {"Referer", "https://evil.test/"}, {"Content-Type", pickOf(w, "text/plain; charset=latin1", "image/png")}, {"X-Api-Key", "nonsense"}}}
	return policies, q
}

// A call may be refused by as many checks as there are. A way that is told lets it pass, whole, and none of its changes can be
// left out; where all sequences of changes can be tried, none of those for the same parties is shorter.
func TestManyObstacles(t *testing.T) {
	t.Parallel()
	node := whytest.Start(t, "wire", "")
	obstacles, compared, waysOf := map[int]int{}, 0, map[int]int{}
	var slowest time.Duration
	rapid.Check(t, func(rt *rapid.T) {
		w := &world{Rand: rand.New(drawn{rt})}
		policies, q := manyObstacles(w, 6+w.IntN(9))
		if ps := node.Apply(boundDocument("http://127.0.0.1:1", policies)); ps.HasErrors() {
			rt.Fatal(ps)
		}
		snap := node.Snapshot()
		began := time.Now()
		e, err := gateway.Explain(snap, q)
		if err != nil {
			rt.Fatal(err)
		}
		slowest = max(slowest, time.Since(began))
		say := func() string {
			text := trailText(e.Trail) + "\n"
			for _, way := range e.Ways {
				text += fmt.Sprintf("%v: %v\n", way.By, way.Changes)
			}
			return text + policies
		}
		obstacles[e.Obstacles]++
		waysOf[len(e.Ways)]++
		if len(e.Ways) == 0 {
			rt.Fatalf("no way out of %d obstacles\n%s", e.Obstacles, say())
		}
		for _, way := range e.Ways {
			edits := way.Edits()
			if _, then := tried(t, snap, q, edits); !then.Passes {
				rt.Fatalf("with %v the call does not pass: %s\n%s", way.Changes, trailText(then.Trail), say())
			}
			for i := range edits {
				if _, then := tried(t, snap, q, slices.Delete(slices.Clone(edits), i, i+1)); then.Passes {
					rt.Fatalf("%v is needless\n%s", edits[i].Fix, say())
				}
			}
		}
		longest := slices.MaxFunc(e.Ways, func(a, b gateway.Way) int { return len(a.Changes) - len(b.Changes) })
		if e.Obstacles > 7 || len(longest.Changes) > 7 { // of sequences there are more than 3^7 then
			return
		}
		compared++
		passing(t, snap, q, 7, func(set []gateway.Edit) {
			if !slices.ContainsFunc(e.Ways, func(way gateway.Way) bool { return parties(way.Edits())&^parties(set) == 0 }) {
				rt.Fatalf("%v lets it pass, and no way needs its parties alone\n%s", set, say())
			}
			for _, way := range e.Ways {
				if parties(way.Edits()) == parties(set) && len(set) < len(way.Changes) {
					rt.Fatalf("%v lets it pass with fewer changes than %v\n%s", set, way.Changes, say())
				}
			}
		})
	})
	t.Logf("obstacles %v, ways %v, %d compared with all sequences, slowest %v", obstacles, waysOf, compared, slowest)
	if !testing.Short() && (len(obstacles) < 5 || compared == 0) {
		t.Error("the calls are too much alike")
	}
}

// A search that ends early tells one way all the same, without a needless change.
func TestWayWithoutPatience(t *testing.T) {
	t.Parallel()
	policies := ""
	for i := range 12 {
		policies += fmt.Sprintf("  - bot: {deny: [Bad]}\n    name: b%d\n", i)
	}
	n := whytest.Start(t, "wire", boundDocument("http://127.0.0.1:1", policies+"  - hotlink: {}\n  - csrf: {}\n"))
	q := gateway.Question{Method: "GET", URL: "http://shop.test/", At: time.Now(), Header: [][2]string{{"User-Agent", "Bad"}, {"Referer", "https://evil.test/"}}}
	e, err := gateway.Explain(n.Snapshot(), q)
	if err != nil {
		t.Fatal(err)
	}
	for _, trials := range []int{1, 5, 20} {
		ways := gateway.WaysWithin(n.Snapshot(), q, e, trials)
		if len(ways) != 1 || len(ways[0].Changes) != 13 {
			t.Fatalf("%d trials: %+v", trials, ways)
		}
		if _, then := tried(t, n.Snapshot(), q, ways[0].Edits()); !then.Passes {
			t.Errorf("%d trials: the call does not pass", trials)
		}
	}
}
