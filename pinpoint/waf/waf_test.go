package waf

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/whygate/whygate/pinpoint"
)

func replica(t testing.TB, level int) *Replica {
	t.Helper()
	p, err := NewReplica(level)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// ordinary is a request with the fields that clients send.
func ordinary(method, url, contentType, body string) *pinpoint.Request {
	r := &pinpoint.Request{Method: method, URL: url, Body: []byte(body), Header: pinpoint.Header{
		{Name: "User-Agent", Value: "shop-client/2.1"}, {Name: "Accept", Value: "application/json"}}}
	if contentType != "" {
		r.Header = append(r.Header, pinpoint.Field{Name: "Content-Type", Value: contentType})
	}
	return r
}

func ticket() *pinpoint.Request {
	return ordinary("POST", "http://shop.test/tickets", "application/json", `{"title":"help","comment":"the form says 1' OR '1'='1 when I save"}`)
}

func TestReplicaPredicts(t *testing.T) {
	long := strings.Repeat("a", 200<<10)
	for _, c := range []struct {
		name, cause string
		rule        int
		level       int
		r           *pinpoint.Request
	}{
		{"SQL in JSON", "waf-crs-anomaly", 942100, 1, ticket()},
		{"DELETE", "waf-method-policy", 911100, 1, ordinary("DELETE", "http://shop.test/items/5", "", "")},
		{"vendor type", "waf-content-type-policy", 920420, 1, ordinary("POST", "http://shop.test/x", "application/vnd.api+json", `{"a":"b"}`)},
		{"no files limit", "waf-body-limit", 0, 1, ordinary("POST", "http://shop.test/x", "application/json", `{"a":"`+long+`"}`)},
		{"broken JSON", "waf-body-parse-error", 200002, 1, ordinary("POST", "http://shop.test/x", "application/json", `{"a":`)},
		{"scanner", "waf-scanner-ua", 913100, 1, &pinpoint.Request{Method: "GET", URL: "http://shop.test/", Header: pinpoint.Header{{Name: "User-Agent", Value: "sqlmap/1.7"}, {Name: "Accept", Value: "*/*"}}}},
		{"extension", "waf-extension-policy", 920440, 1, ordinary("GET", "http://shop.test/shop.sql", "", "")},
		{"ordinary", "", 0, 1, ordinary("POST", "http://shop.test/x", "application/json", `{"a":"hello","n":5}`)},
		{"ordinary form", "", 0, 1, ordinary("POST", "http://shop.test/x", "application/x-www-form-urlencoded", "a=hello+world&b=1")},
		{"a secret is not judged by how it is hidden", "", 0, 2, ordinary("POST", "http://shop.test/x", "application/json", `{"password":"‹secret:3f9c1b2a len=812›"}`)},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := replica(t, c.level).Predict(c.r)
			if p.Cause != c.cause || p.Refused != (c.cause != "") {
				t.Fatalf("refused %v, cause %q, score %d of %d, rule %d, matches %v", p.Refused, p.Cause, p.Score, p.Threshold, p.Rule, p.Matches)
			}
			if c.rule != 0 && p.Rule != c.rule && !strings.Contains(" "+strings.Trim(strings.ReplaceAll(strings.TrimSpace(sprint(p.Rules())), ",", " "), "[]")+" ", " "+sprint(c.rule)+" ") {
				t.Errorf("rules %v, want %d", p.Rules(), c.rule)
			}
		})
	}
}

func TestNumericHostAddsUp(t *testing.T) {
	p := replica(t, 1).Predict(ordinary("GET", "http://127.0.0.1/", "", ""))
	if p.Refused || p.Score != 3 || len(p.Rules()) != 1 || p.Rules()[0] != 920350 {
		t.Errorf("score %d, rules %v; a numeric host adds 3", p.Score, p.Rules())
	}
}

func TestBisectOnReplica(t *testing.T) {
	p := replica(t, 1)
	res, err := Bisect(context.Background(), ticket(), p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if res.Status != Found || !res.Proved || res.Cause != "waf-crs-anomaly" || res.Triggers[0].Parts[0].Name != "/comment" {
		t.Fatalf("%+v", res)
	}
	f := res.Triggers[0].Parts[0]
	if res.Requests > res.Bound {
		t.Errorf("%d requests, bound %d", res.Requests, res.Bound)
	}
	if !strings.Contains(strings.Join(f.Necessary, ""), "'") || len(f.Rules) == 0 || f.Rules[0].Rule != 942100 {
		t.Errorf("necessary %q, rules %v", f.Necessary, f.Rules)
	}
	for _, e := range f.Exclusions {
		want := map[string]string{"modsecurity-2": "942100;ARGS:comment", "modsecurity-3": "942100;ARGS:json.comment", "coraza": "942100;ARGS:json.comment"}[e.Product]
		if !e.Verified || !strings.Contains(e.Directive, want) || !strings.Contains(e.Directive, "/tickets") {
			t.Errorf("%+v", e)
		}
	}
	if len(f.Exclusions) != 3 {
		t.Errorf("%d exclusions", len(f.Exclusions))
	}
}

// Points for the form of a request, such as a numeric host, are told beside what was found.
func TestBisectTellsWhatElseScores(t *testing.T) {
	r := ticket()
	r.URL = "http://127.0.0.1/tickets"
	p, err := Refusing(r)
	if err != nil || p == nil || p.Engine() != "crs-4 PL1" {
		t.Fatalf("%+v, %v", p, err)
	}
	res, err := Bisect(context.Background(), r, p, Options{NoExclusion: true})
	if err != nil || !res.Proved || res.Triggers[0].Parts[0].Name != "/comment" {
		t.Fatalf("%+v, %v", res, err)
	}
	if a := res.Triggers[0].Also; len(a) != 1 || a[0].Rule != 920350 {
		t.Errorf("%+v", a)
	}
	if p, err := Refusing(ordinary("GET", "http://shop.test/", "", "")); p != nil || err != nil {
		t.Errorf("an ordinary request: %+v, %v", p, err)
	}
}

func sprint(v any) string { return fmt.Sprint(v) }
