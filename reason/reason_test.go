package reason

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRender(t *testing.T) {
	facts := Facts{Public("path", "/a"), Own("limit", 100), Rule("rule", "r1"), Inner("node", "gw-1")}
	for _, c := range []struct {
		template string
		tier     Tier
		want     string
	}{
		{"{path} is missing", ToAnyone, "/a is missing"},
		{"{limit} calls", ToAnyone, ""},
		{"{limit} calls", ToCaller, "100 calls"},
		{"{path}[, limit {limit}]", ToAnyone, "/a"},
		{"{path}[, limit {limit}]", ToCaller, "/a, limit 100"},
		{"[{rule} ]{path}[ on {node}]", ToOwner, "r1 /a"},
		{"[{rule} ]{path}[ on {node}]", ToOperator, "r1 /a on gw-1"},
		{"{nothing}", ToOperator, ""},
		{"[{nothing}]", ToOperator, ""},
		{"no facts", ToAnyone, "no facts"},
		{"open {path", ToAnyone, "open {path"},
	} {
		if got := facts.Render(c.template, c.tier); got != c.want {
			t.Errorf("%q for %v: %q, want %q", c.template, c.tier, got, c.want)
		}
	}
}

func TestCheckTemplate(t *testing.T) {
	for _, bad := range []string{"{a", "a}", "[a", "a]", "[[a]]", "{a{b}}", "{[a]}", "[{a]}"} {
		if checkTemplate(bad) == nil {
			t.Errorf("%q passes", bad)
		}
	}
	for _, good := range []string{"", "a", "{a}", "[{a}]", "[a {b} c] {d}"} {
		if err := checkTemplate(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}

// TestTiers: no tier sees a fact above it, in no part of what it is told.
func TestTiers(t *testing.T) {
	r := &Reason{Code: "test.tiers", Status: 403, Title: "No", Says: "says {own} {rule}", Wanted: "w {rule}", Seen: "s {own}[ {inner}]",
		Fixes: []Fix{{Caller, "f {own}"}, {Owner, "o {rule}"}, {Caller, "generic"}}, Hint: "h {inner}"}
	v := r.Refuse(Public("pub", "PUBLIC"), Own("own", "OWN"), Rule("rule", "RULE"), Inner("inner", "INNER"))
	secrets := map[Tier][]string{ToAnyone: {"OWN", "RULE", "INNER"}, ToCaller: {"RULE", "INNER"}, ToOwner: {"INNER"}, ToOperator: nil}
	for tier, hidden := range secrets {
		b, err := json.Marshal(v.Tell(tier))
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range hidden {
			if strings.Contains(string(b), h) {
				t.Errorf("tier %v is told %s: %s", tier, h, b)
			}
		}
	}
	if told := v.Tell(ToAnyone); told.Says != "No" || len(told.Fixes) != 1 || told.Hint != "" {
		t.Errorf("a stranger is told %+v", told)
	}
	if told := v.Tell(ToOperator); told.Says != "says OWN RULE" || told.Seen != "s OWN INNER" || told.Hint != "h INNER" {
		t.Errorf("the operator is told %+v", told)
	}
}

// TestStoredForm: what a record keeps renders to the same words as the live verdict.
func TestStoredForm(t *testing.T) {
	facts := Facts{
		Own("text", "a"), Own("bool", true), Own("int", 7), Own("bytes", Bytes(2202009)), Own("span", 90*time.Second),
		Own("time", time.Date(2026, 11, 22, 9, 40, 0, 0, time.UTC)), Own("list", []string{"a", "b", "c"}),
		Own("addr", netip.MustParseAddr("203.0.113.7")), Rule("nets", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}).At(&Source{File: "a.yaml", Line: 3}),
		Own("hops", []Hop{{Address: "10.0.0.2", From: "socket", Trusted: true}, {Address: "1.2.3.4", From: "X-Forwarded-For[1]", Chosen: true, Why: "believed"}}),
	}
	b, err := json.Marshal(facts)
	if err != nil {
		t.Fatal(err)
	}
	var back Facts
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	text := func(fs Facts) (list []string) {
		for _, f := range fs {
			list = append(list, f.Name+" "+f.Text()+" "+f.Tier.String()+" "+f.From.String())
		}
		return list
	}
	if d := cmp.Diff(text(facts), text(back)); d != "" {
		t.Error(d)
	}
	want := []string{"text a", "bool true", "int 7", "bytes 2.1 MiB", "span 1m30s", "time 2026-11-22 09:40:00 UTC", "list a, b or c", "addr 203.0.113.7", "nets 10.0.0.0/8", "hops 1.2.3.4 (X-Forwarded-For[1], believed)"}
	for i, w := range want {
		if got := facts[i].Name + " " + facts[i].Text(); got != w {
			t.Errorf("%q, want %q", got, w)
		}
	}
}

func TestTexts(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0 s", 500: "500 ns", 1500: "1.5 µs", 14 * time.Millisecond: "14 ms", 1340 * time.Millisecond: "1.34 s",
		time.Minute: "1m", 90 * time.Minute: "1h30m", 50 * time.Hour: "2d2h", -time.Second: "-1 s"} {
		if got := Span(d); got != want {
			t.Errorf("Span(%d) = %q, want %q", d, got, want)
		}
	}
	for b, want := range map[Bytes]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 10 << 20: "10 MiB", 1 << 40: "1 TiB"} {
		if got := b.String(); got != want {
			t.Errorf("%d bytes = %q, want %q", int64(b), got, want)
		}
	}
}

func TestUnknownCode(t *testing.T) {
	var v Verdict
	if err := json.Unmarshal([]byte(`{"reason":"future.thing"}`), &v); err != nil {
		t.Fatal(err)
	}
	if told := v.Tell(ToOperator); told.Code != "future.thing" || told.Title == "" {
		t.Errorf("%+v", told)
	}
}
