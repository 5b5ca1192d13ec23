//go:build linux

package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/snapshot"
)

// Whygate takes the configuration of every row, and each row has the policy that
// it is named for and is compared with a row that lacks only that.
func TestPolicyRowsCompile(t *testing.T) {
	dir := t.TempDir()
	who, err := newCallers(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if len(order) != 300 {
		t.Errorf("the order has %d bytes, not 300", len(order))
	}
	quotas, err := counter.OpenQuotas("")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]policyRow{}
	for _, row := range policyRows {
		if _, twice := known[row.name]; twice {
			t.Errorf("%s is there twice", row.name)
		}
		known[row.name] = row
		beside, ok := known[row.beside]
		switch {
		case row.beside == "":
			if len(row.policies) > 0 {
				t.Errorf("%s has policies and nothing to compare with", row.name)
			}
		case !ok:
			t.Errorf("%s is compared with %q, which is not above it", row.name, row.beside)
		case beside.content != row.content || !slices.Equal(beside.policies, row.policies[:len(row.policies)-1]):
			t.Errorf("%s differs from %s by more than one policy", row.name, row.beside)
		}
		for i, text := range row.policies {
			name, _, _ := strings.Cut(text, ":")
			if _, _, ok := policy.KindNamed(name); !ok || i == len(row.policies)-1 && !strings.HasPrefix(row.name, name) {
				t.Errorf("%s has the policy %s", row.name, name)
			}
		}
		own := filepath.Join(dir, row.name)
		if err := os.Mkdir(own, 0o700); err != nil {
			t.Fatal(err)
		}
		s := site{Dir: own, Config: filepath.Join(own, row.entry().config), Listen: "127.0.0.1:1", Origin: "127.0.0.1:3", Slots: 1088, Policies: row.policies, key: newKey(), callers: who}
		if err := render(s); err != nil {
			t.Fatal(err)
		}
		set, problems := resource.Load(s.Config)
		_, more := snapshot.Compile(set, snapshot.Env{Memory: counter.NewMemory(), Quotas: quotas, Log: slog.New(slog.DiscardHandler)})
		if problems = append(problems, more...); problems.HasErrors() {
			var text strings.Builder
			problems.Render(&text, set.Sources(), false)
			t.Errorf("%s:\n%s", row.name, text.String())
		}
	}
	measured := map[string]bool{}
	for _, row := range policyRows {
		if len(row.policies) > 0 {
			name, _, _ := strings.Cut(row.policies[len(row.policies)-1], ":")
			measured[name] = true
		}
	}
	for _, name := range policy.Names() {
		if !measured[name] {
			t.Errorf("there is no row for %s", name)
		}
	}
	for _, g := range policyGoals {
		if _, ok := known[g.row]; !ok {
			t.Errorf("no row is called %s, which a goal is about", g.row)
		}
	}
}

// wrk sends the order that the check sends.
func TestPostScript(t *testing.T) {
	script := filepath.Join(t.TempDir(), "post.lua")
	if err := render(site{Config: script, Body: order}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(script)
	if err != nil || !bytes.Contains(text, []byte("[==["+order+"]==]")) {
		t.Errorf("%v:\n%s", err, text)
	}
}

func TestVerifyFindsIdlePolicies(t *testing.T) {
	refuses, content := 403, body
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, _ := io.ReadAll(r.Body)
		if r.Header.Get("X-Api-Key") != "k" || r.Header.Get("Referer") == "" {
			w.WriteHeader(400)
		} else if r.Header.Get("Accept") == "" && string(got) == "wrong" && r.URL.Path == "/other" {
			w.WriteHeader(refuses)
		}
		io.WriteString(w, content)
	}))
	defer server.Close()
	for _, test := range []struct {
		name   string
		change func()
		row    policyRow
		err    string
	}{
		{name: "at work", change: func() {}},
		{name: "refuses nothing", change: func() { refuses = 200 }, err: "it answers 200 to what it must refuse with 403"},
		{name: "another answer", change: func() { content = "{}" }, err: "not what the origin does"},
		{name: "no sign", change: func() {}, row: policyRow{shows: "X-Sign: yes"}, err: `its answer has no "X-Sign: yes"`},
		{name: "refuses all", change: func() {}, row: policyRow{call: call{headers: []string{"Referer:"}}}, err: "it answers 400"},
	} {
		t.Run(test.name, func(t *testing.T) {
			refuses, content = 403, body
			test.change()
			row := test.row
			row.wrong, row.status = call{path: "/other", content: "wrong", headers: []string{"Accept:"}}, 403
			err := row.verify(context.Background(), server.Client(), server.URL, key{Key: "k"}, callers{})
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("error is %v, want one with %q", err, test.err)
			}
		})
	}
}

// cost is a sample of n microseconds of CPU in each call of a row.
func cost(row string, round int, n float64) sample {
	s := spent(row, round, n)
	s.Case = casePolicies
	return s
}

func TestPolicyTable(t *testing.T) {
	broken := cost(rowJWT, 3, 99)
	broken.Invalid = "Non-2xx or 3xx responses: 7"
	samples := []sample{
		cost(bare, 1, 50), cost(bareToken, 1, 20), cost(rowJWT, 1, 21.5), cost(rowAnybody, 1, 30), cost(rowRule, 1, 33),
		cost(bareToken, 2, 40), cost(rowJWT, 2, 40.5),
		cost(bareToken, 3, 20), broken,
		cost(rowJWT, 4, 500), // nothing to compare with
	}
	want := [][]string{
		{"", "µs CPU/call", "added µs", "least", "most", "rounds", "compared with"},
		{"none", "50.0", "–", "–", "–", "1 of 1", ""},
		{"none, with a token", "20.0", "–", "–", "–", "3 of 3", ""},
		{"jwt", "40.5", "+1.0", "+0.5", "+1.5", "3 of 4", "none, with a token"},
		{"anonymous", "30.0", "-20.0", "-20.0", "-20.0", "1 of 1", "none"},
		{"rule", "33.0", "+3.0", "+3.0", "+3.0", "1 of 1", "anonymous"},
	}
	if got := policyTable(samples); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}

	var out strings.Builder
	report(&out, &results{Samples: samples, Settings: settings{Connections: 64, PolicyTime: 2 * time.Second}})
	for _, want := range []string{
		"One policy each, closed loop: GET, or POST of 300 bytes of JSON, 64 connections, 2s after 0s of warm-up\n",
		"\njwt                        40.5      +1.0   +0.5   +1.5  3 of 4  none, with a token\n",
		"\ninvalid, not used: policies round 3, jwt: Non-2xx",
		"\ngoal: policy jwt adds ≤ 2.00 µs of CPU to a call: 1.00 met\n",
		"\ngoal: policy rule adds ≤ 2.00 µs of CPU to a call: 3.00 NOT met\n",
		"\ngoal: policy schema, POST adds ≤ 10.00 µs of CPU to a call: not measured\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}
