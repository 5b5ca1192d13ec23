package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/reason"
)

func TestRateLimitCost(t *testing.T) {
	b := newTestbed(t)
	b.kinds["key-auth"] = true
	acme := b.application("acme")
	call := func(c Check, lines ...string) (*Exchange, reason.Verdict) {
		x := b.call(lines...)
		x.Application = acme
		return x, c.Check(x)
	}
	c := b.check("rate-limit", `{requests: 10, period: 1m, cost: 4}`)
	_, v := call(c, "GET /")
	wants(t, v, "")
	x, v := call(c, "GET /")
	wants(t, v, "")
	if x.Tightest.Left != 2 {
		t.Errorf("%d left", x.Tightest.Left)
	}
	_, v = call(c, "GET /")
	wants(t, v, "rate-limit.exceeded", "used 8 of 10 per 1m; 2 left, and this call costs 4", "wait 12 s")
	x.Undo() // gives all four back
	x, v = call(c, "GET /")
	wants(t, v, "")
	x.Undo()
	x.Explaining = true
	if v := c.Check(x); v.Facts.Values()["used"] != int64(4) || v.Facts.Values()["cost"] != int64(4) {
		t.Errorf("explained as %v", v.Facts.Values())
	}

	of := func(expression string) *rateCheck {
		return b.check("rate-limit", `{requests: 100, period: 1m, cost: '`+expression+`'}`).(*rateCheck)
	}
	for _, k := range []struct {
		expression, line string
		want             int64
	}{
		{`request.method == "GET" ? 1 : 5`, "GET /", 1}, {`request.method == "GET" ? 1 : 5`, "POST /", 5}, {`1 + size(request.path) / 2`, "GET /abc", 3},
		{`int(request.query.n)`, "GET /?n=7", 7}, {`int(request.query.n)`, "GET /?n=-7", 0}, {`int(request.query.n)`, "GET /?n=9000000000000000000", 100},
		{`double(request.query.n)`, "GET /?n=1.2", 2}, {`double(request.query.n)`, "GET /?n=inf", 100}, {`double(request.query.n)`, "GET /?n=-inf", 0}, {`uint(request.query.n)`, "GET /?n=18446744073709551615", 100},
		{`int(request.query[?"n"].orValue("2"))`, "GET /", 2},
	} {
		x := b.call(k.line)
		if n, v := of(k.expression).cost.call(x); v.Refused() || n != k.want {
			t.Errorf("%s for %s: %d %v, want %d", k.expression, k.line, n, v.Reason, k.want)
		}
	}
	_, v = call(of(`int(request.query.n)`), "GET /")
	wants(t, v, "rate-limit.cost-unknown", `request.query has no "n"`)
	_, v = call(of(`int(request.query.n)`), "GET /?n=x")
	wants(t, v, "rate-limit.cost-unknown", `request.query.n is "x"`)
	_, v = call(of(`double(request.query.n)`), "GET /?n=nan")
	wants(t, v, "rate-limit.cost-unknown", `request.query.n is "nan"`)
	claims := b.call("GET /")
	claims.Identity = &consumer.Identity{Claims: map[string]any{"n": "many"}}
	wants(t, of(`claims.n`).Check(claims), "rate-limit.cost-unknown", `claims.n is "many"`)

	for config, want := range map[string]string{
		`{requests: 10, cost: 11}`: "can never pass", `{requests: 10, cost: -1}`: "can never pass", `{requests: 10, cost: 1.5}`: "a whole number or an expression",
		`{requests: 10, cost: 'request.method'}`: "the expression is a text, wanted number", `{requests: 10, cost: 'body.n'}`: "limits come before it is read", `{requests: 10, cost: 'requst.size'}`: "there is no variable or function",
	} {
		if _, problems := b.compile("rate-limit", config); !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: %v, want %s", config, problems, want)
		}
	}
	// Numbers that would overflow are cut.
	r := b.check("rate-limit", `{requests: 1, period: 366d, burst: 1000000000, cost: 'int(request.query.n)'}`)
	for range 3 {
		x := b.call("GET /?n=9000000000000000000")
		x.Application, x.Now = b.application("huge"), b.now.Add(time.Hour)
		if v := r.Check(x); v.Refused() && v.Reason != rateExceeded || x.Tightest.Left < 0 {
			t.Errorf("%v, %d left", v.Reason, x.Tightest.Left)
		}
	}
}
