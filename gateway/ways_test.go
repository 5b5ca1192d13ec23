package gateway_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/snapshot"
	"github.com/whygate/whygate/whytest"
)

// drawn are the random numbers of a rapid test, so that it can make worlds smaller.
type drawn struct{ t *rapid.T }

// Uint64 spreads what rapid draws, which likes small numbers.
func (d drawn) Uint64() uint64 {
	n := rapid.Uint64().Draw(d.t, "n")
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}

// tried is the call with changes made, as it was explained then.
func tried(t testing.TB, s *snapshot.Snapshot, q gateway.Question, edits []gateway.Edit) (gateway.Question, *gateway.Explanation) {
	q.Header = slices.Clone(q.Header)
	var pardoned []string
	for _, ed := range edits {
		if ed.Apply != nil {
			ed.Apply(&q)
		} else {
			pardoned = append(pardoned, ed.Pardon)
		}
	}
	e, err := gateway.Evaluate(s, q, pardoned)
	if err != nil {
		t.Fatalf("%+v: %v", q, err)
	}
	return q, e
}

func parties(edits []gateway.Edit) (set uint) {
	for _, ed := range edits {
		set |= 1 << ed.Fix.By
	}
	return set
}

// asked is how many changes are for others than the caller.
func asked(w gateway.Way) (n int) {
	for _, f := range w.Changes {
		if f.By != reason.Caller {
			n++
		}
	}
	return n
}

// passing calls found with each set of at most most changes after which the call passes: all sequences in which
// each change is one of those for the refusal that is first then.
func passing(t testing.TB, s *snapshot.Snapshot, q gateway.Question, most int, found func([]gateway.Edit)) {
	var extend func(chosen []gateway.Edit, e *gateway.Explanation, depth int)
	extend = func(chosen []gateway.Edit, e *gateway.Explanation, depth int) {
		if e.Passes {
			found(chosen)
			return // more changes are not fewer
		}
		for _, ed := range gateway.EditsOf(e, q.At) {
			next := append(slices.DeleteFunc(slices.Clone(chosen), func(o gateway.Edit) bool { return o.Slot != "" && o.Slot == ed.Slot }), ed)
			if len(next) <= most && depth < most {
				_, then := tried(t, s, q, next)
				extend(next, then, depth+1)
			}
		}
	}
	_, e := tried(t, s, q, nil)
	extend(nil, e, 0)
}

// Whatever documents say and whatever is called: each way that is proposed lets the call pass, and each of its
// changes is needed for that. Those that the caller alone can make are made, and served. Of all sequences of changes
// that remove one refusal after the other, none has fewer changes for the same parties, and none can do
// with other parties than those that are named.
func TestWaysPassAndAreSmallest(t *testing.T) {
	t.Parallel()
	up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {})
	node := whytest.Start(t, "wire", "")
	told, sizes, kinds := map[string]int{}, map[int]int{}, map[string]int{}
	served, empty := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorldOf(rand.New(drawn{rt}))
		docs := w.documents("{engine}", up.URL)
		if ps := node.Apply(docs); ps.HasErrors() {
			rt.Skip("the documents have errors")
		}
		snap := node.Snapshot()
		for range 6 {
			q, body := w.call()
			q.At = time.Now()
			e, err := gateway.Explain(snap, q)
			if err != nil {
				rt.Fatal(err)
			}
			if e.Passes {
				agree(t, node, q, body, e) // which spends of limits
				continue
			}
			say := func() string {
				text := fmt.Sprintf("%s %s %q %q\n%s\n", q.Method, q.URL, q.Header, q.Content, trailText(e.Trail))
				for _, way := range e.Ways {
					text += fmt.Sprintf("%v: %v\n", way.By, way.Changes)
				}
				return text + docs
			}
			by, calls := []uint{}, []gateway.Question{}
			for _, way := range e.Ways {
				edits := way.Edits()
				by = append(by, parties(edits))
				q2, then := tried(t, snap, q, edits)
				if !then.Passes || len(edits) == 0 || len(edits) != len(way.Changes) {
					rt.Fatalf("with %v the call does not pass: %s\n%s", way.Changes, trailText(then.Trail), say())
				}
				for i := range edits {
					if _, then := tried(t, snap, q, slices.Delete(slices.Clone(edits), i, i+1)); then.Passes {
						rt.Fatalf("%v is needless\n%s", edits[i].Fix, say())
					}
				}
				text := ""
				for _, p := range way.By {
					text += " " + p.String()
				}
				told[text]++
				sizes[len(edits)]++
				can := then.Passes && way.Complete
				for _, ed := range edits {
					kinds[ed.Slot]++
					can = can && ed.Apply != nil && ed.Slot != "time" && ed.Slot != "address" // those that a test cannot change
				}
				if can {
					calls = append(calls, q2)
				}
			}
			for i, a := range by {
				for j, b := range by {
					less := a|1 == b && asked(e.Ways[j]) < asked(e.Ways[i]) // the caller does some of it
					if i != j && a&^b == 0 && !less {
						rt.Fatalf("%v can be done without some of its parties, see %v\n%s", e.Ways[j].Changes, e.Ways[i].Changes, say())
					}
				}
			}
			if len(e.Ways) == 0 {
				empty++
			}
			passing(t, snap, q, 5, func(set []gateway.Edit) {
				helps := func(way gateway.Way) bool { return parties(way.Edits())&^parties(set) == 0 }
				if !slices.ContainsFunc(e.Ways, helps) {
					rt.Fatalf("%v lets it pass, and no way needs its parties alone\n%s", set, say())
				}
				for _, way := range e.Ways {
					if parties(way.Edits()) == parties(set) && len(set) < len(way.Changes) {
						rt.Fatalf("%v lets it pass with fewer changes than %v\n%s", set, way.Changes, say())
					}
				}
			})
			for _, q2 := range calls { // in the end, since they spend of limits
				body := q2.Content
				if q2.Content == nil {
					body = bytes.Repeat([]byte("x"), int(q2.Body))
				}
				if _, then := tried(t, snap, q2, nil); then.Passes {
					served++
					agree(t, node, q2, string(body), then)
				}
			}
			if t.Failed() {
				rt.Fatal(say())
			}
		}
	})
	t.Logf("ways by %v, of sizes %v, with edits of %v; %d served, %d refusals without a way", told, sizes, kinds, served, empty)
	if !testing.Short() && (len(told) < 6 || sizes[3] == 0 || len(kinds) < 6 || served == 0) {
		t.Error("the worlds are too much alike")
	}
}

// Ways for refusals of each sort, with who has to act.
func TestWaysByParty(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, policies string
		q              gateway.Question
		want           string
	}{
		{"a type that is taken", "  - content-type: {allow: [application/json]}\n", gateway.Question{Method: "POST", Content: []byte("{}"), Header: [][2]string{{"Content-Type", "text/plain"}}},
			"caller: send a body with Content-Type: application/json\n" +
				"owner: ask the owner of API \"shop\" to take text/plain\n"},
		{"a type whose body does not fit", "  - content-type: {allow: [application/json]}\n  - json-limits: {}\n", gateway.Question{Method: "POST", Content: []byte("{"), Header: [][2]string{{"Content-Type", "text/plain"}}},
			"owner: ask the owner of API \"shop\" to take text/plain\n" +
				"caller: send a body with Content-Type: application/json + correct line 1, column 2 of the body: write a name in double quotes or } (…)\n"},
		{"one body for several checks", "  - json-limits: {}\n  - schema: {body: {type: object}}\n  - transform: {request: {body: {set: {seen: true}}}}\n", gateway.Question{Method: "POST", Content: []byte("[1"), Header: [][2]string{{"Content-Type", "application/json"}}},
			"caller: correct line 1, column 3 of the body: write a comma or ] (…)\n"},
		{"a body that must be shorter, and a cookie", "  - size: {body: 1B}\n  - csrf: {exemptTokens: false}\n", gateway.Question{Method: "POST", Content: []byte("{}")},
			"caller: send at most 1 B + let the client keep cookies, make a GET call to this API first, which sets it, and send its token in header X-CSRF-Token or form field csrf_token\n" +
				"owner: ask the owner of API \"shop\" to raise the limit + ask the owner of API \"shop\" to set exemptTokens: true of the policy csrf, which lets programs with credentials of their own call without a token\n"},
		{"no credential, and what does not depend on it", "  - key-auth\n  - hotlink: {}\n  - content-type: {allow: [application/json]}\n", gateway.Question{Method: "POST", Content: []byte("{}"), Header: [][2]string{{"Referer", "https://evil.test/"}, {"Content-Type", "text/plain"}}},
			"caller: send your key in header X-Api-Key + make the call from a page of http://shop.test + send a body with Content-Type: application/json\n" +
				"application owner: ask the owner of API \"shop\" for access if you have no key + ask the owner of API \"shop\" to add evil.test to the hosts of the policy hotlink + ask the owner of API \"shop\" to take text/plain\n"},
		{"a maintenance without an end", "  - maintenance: {}\n  - method: {allow: [GET]}\n", gateway.Question{Method: "POST"},
			"caller owner: ask the owner of API \"shop\" when it will be back, or to let 127.0.0.1 in meanwhile + use GET\n" +
				"owner: ask the owner of API \"shop\" when it will be back, or to let 127.0.0.1 in meanwhile + ask the owner of API \"shop\" to allow POST\n"},
		{"a rule that always holds", "  - rule: {rules: [{name: x, effect: deny, when: 'true'}]}\n", gateway.Question{},
			"owner: ask the owner of API \"shop\" whether this call may be made\n"},
		// Were the origin allowed, the same check would miss the cookie: that is told at once.
		{"two causes in one check", "  - csrf: {}\n", gateway.Question{Method: "POST", Header: [][2]string{{"Origin", "https://evil.test"}}},
			"caller: make the call from a page of http://shop.test + let the client keep cookies, make a GET call to this API first, which sets it, and send its token in header X-CSRF-Token or form field csrf_token\n" +
				"owner: ask the owner of API \"shop\" to add https://evil.test to the origins of the policy csrf + ask the owner of API \"shop\" about credentials for programs, which need no CSRF token\n"},
		{"a denied network that nobody allows", "  - ip-access: {deny: [127.0.0.1], allow: [10.0.0.0/8]}\n", gateway.Question{},
			"caller: call from another network; this call came from 127.0.0.1\n" +
				"owner: ask the owner of API \"shop\" to take your address off the deny list + ask the owner of API \"shop\" to allow your address 127.0.0.1\n"},
		{"the token of the cookie", "  - csrf: {}\n", gateway.Question{Method: "POST", Header: [][2]string{{"Cookie", "csrf_token=abc"}}},
			"owner: ask the owner of API \"shop\" about credentials for programs, which need no CSRF token\n" +
				"caller: send the token of the cookie csrf_token in header X-CSRF-Token + load the page again, which brings a new token\n"},
		{"a page for two checks", "  - csrf: {exemptTokens: false}\n  - hotlink: {}\n  - mock: {answers: [{}]}\n", gateway.Question{Method: "GET", Header: [][2]string{{"Origin", "https://evil.test"}}},
			"caller: make the call from a page of http://shop.test\n" +
				"owner: ask the owner of API \"shop\" to add evil.test to the hosts of the policy hotlink\n"},
		{"no name", "  - bot: {missing: deny}\n", gateway.Question{},
			"caller: send the header User-Agent with a name, such as my-program/1.0\n" +
				"owner: ask the owner of API \"shop\" to set missing: allow of the policy bot\n"},
		{"no credential", "  - key-auth\n  - scopes: {all: [read]}\n", gateway.Question{},
			"caller: send your key in header X-Api-Key (…)\n" +
				"application: ask the owner of API \"shop\" for access if you have no key (…)\n"},
		{"a scope", "  - anonymous\n  - scopes: {all: [read]}\n", gateway.Question{},
			"caller: call with a token or key that has scope \"read\"\n" +
				"owner: ask the owner of API \"shop\" to grant scope \"read\"\n"},
		{"no such answer", "  - mock: {answers: [{}]}\n", gateway.Question{Header: [][2]string{{"Prefer", "code=404"}}},
			"caller: send no Prefer\n" +
				"owner: ask the owner of API \"shop\" to add this answer to the policy mock\n"},
		{"a body that is too large to be read", "  - json-limits: {maxBody: 20B}\n", gateway.Question{Method: "POST", Content: []byte("[1, 2, 3, 4, 5, 6, 7, 8, 9]")},
			"caller: send a body of at most 20 B (…)\n" +
				"owner: ask the owner of API \"shop\" to raise the limit for bodies\n"},
		{"a rule that denies and a network", "  - ip-access: {deny: [127.0.0.1]}\n  - rule: {rules: [{name: x, effect: deny, when: 'request.method == \"GET\"'}]}\n", gateway.Question{},
			"caller: call from another network; this call came from 127.0.0.1 + make a call for which this does not hold: request.method == \"GET\"\n" +
				"owner: ask the owner of API \"shop\" to take your address off the deny list + ask the owner of API \"shop\" whether this call may be made\n"},
		{"an application's own name", "  - bot: {deny: [BadBot]}\n  - groups: {any: [board]}\n", gateway.Question{Header: [][2]string{{"User-Agent", "BadBot/1"}}},
			"caller application: let the program give itself a name of its own, with an address where you can be reached + call as a member of group \"board\"\n" +
				"caller owner: ask the owner of API \"shop\" to allow your program although \"BadBot\" denies it + call as a member of group \"board\"\n" +
				"owner: ask the owner of API \"shop\" to allow your program although \"BadBot\" denies it + ask the owner of API \"shop\" to be taken into group \"board\"\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := whytest.Start(t, "wire", boundDocument("http://127.0.0.1:1", c.policies))
			c.q.URL, c.q.Body = "http://shop.test/", int64(len(c.q.Content))
			e, err := gateway.Explain(n.Snapshot(), c.q)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, w := range e.Ways {
				by, changes := []string{}, []string{}
				for _, p := range w.By {
					by = append(by, p.String())
				}
				for _, f := range w.Changes {
					changes = append(changes, f.Text)
				}
				open := ""
				if !w.Complete {
					open = " (…)"
				}
				got += strings.Join(by, " ") + ": " + strings.Join(changes, " + ") + open + "\n"
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
