package waf

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// planted is a request with a trigger in one place.
type planted struct {
	r         *pinpoint.Request
	component Component
	name      string
	trigger   string
}

var triggers = []string{`' or 1=1 --`, `<script>alert(1)</script>`, `../../../etc/passwd`, `${jndi:ldap://x}`, `UNION SELECT pw`, `;cat /etc/shadow`, `é"><img src=x>`}

var words = strings.Fields("please send the blue parcel to our new office since nobody was there on Monday 14 it's 3 pm; price: 12.50 € (net) café & more/less a=b")

// tame are words that no rule dislikes.
var tame = strings.Fields("please send the blue parcel to our new office nobody was there on Monday 14 thanks and best wishes")

// plant makes a random request.
func plant(rng *rand.Rand) planted { return plantWith(rng, triggers, words, 40, 3000) }

func plantWith(rng *rand.Rand, triggers, words []string, fields, long int) planted {
	text := func(rng *rand.Rand, n int) string {
		var b strings.Builder
		for b.Len() < n {
			b.WriteString(words[rng.IntN(len(words))] + " ")
		}
		return strings.TrimSpace(b.String())
	}
	n := 2 + rng.IntN(fields)
	at := rng.IntN(n)
	p := planted{trigger: triggers[rng.IntN(len(triggers))]}
	values := make([]string, n)
	for i := range values {
		values[i] = text(rng, 1+rng.IntN(30))
		if rng.IntN(8) == 0 {
			values[i] = text(rng, rng.IntN(long))
		}
	}
	v := []rune(values[at])
	i := rng.IntN(len(v) + 1)
	values[at] = string(v[:i]) + p.trigger + string(v[i:])
	name := func(i int) string { return fmt.Sprintf("field%d", i) }
	p.component, p.name = Body, name(at)
	p.r = ordinary("POST", "http://shop.test/api/v1/orders", "", "")
	typ := ""
	switch rng.IntN(7) {
	case 0, 1: // JSON, of which some values are deeper
		var b strings.Builder
		b.WriteString(`{"kind":"order","n":17,"ok":true`)
		for i, v := range values {
			q, _ := json.Marshal(v)
			switch pointer := ""; i % 3 {
			case 0:
				fmt.Fprintf(&b, `,%q:%s`, name(i), q)
				pointer = "/" + name(i)
				if i == at {
					p.name = pointer
				}
			case 1:
				fmt.Fprintf(&b, `,%q:[1,{"v":%s}]`, name(i), q)
				if i == at {
					p.name = "/" + name(i) + "/1/v"
				}
			case 2:
				fmt.Fprintf(&b, `,%q:{"x":["y",%s]}`, name(i), q)
				if i == at {
					p.name = "/" + name(i) + "/x/1"
				}
			}
		}
		p.r.Body, typ = []byte(b.String()+"}"), "application/json"
	case 2:
		q := url.Values{}
		for i, v := range values {
			q.Set(name(i), v)
		}
		p.r.Body, typ = []byte(q.Encode()), "application/x-www-form-urlencoded"
	case 3:
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		for i, v := range values {
			if i%4 == 3 && i != at {
				f, _ := w.CreateFormFile(name(i), "file.txt")
				io.WriteString(f, v)
				continue
			}
			w.WriteField(name(i), v)
		}
		w.Close()
		p.r.Body, typ = b.Bytes(), w.FormDataContentType()
	case 4:
		var b bytes.Buffer
		b.WriteString(`<order kind="new">`)
		for i, v := range values {
			var e bytes.Buffer
			xml.EscapeText(&e, []byte(v))
			if i%3 == 1 {
				fmt.Fprintf(&b, `<%s v="%s"/>`, name(i), &e)
				if i == at {
					p.name = "/order/" + name(i) + "/@v"
				}
			} else {
				fmt.Fprintf(&b, `<%s>%s</%s>`, name(i), &e, name(i))
				if i == at {
					p.name = "/order/" + name(i)
				}
			}
		}
		p.r.Body, typ = []byte(b.String()+`</order>`), "application/xml"
	case 5:
		q := url.Values{}
		for i, v := range values {
			q.Set(name(i), v)
		}
		p.r.URL += "?" + q.Encode()
		p.r.Method, p.component = "GET", Query
	case 6:
		p.r.Method = "GET"
		if p.component = Cookie; rng.IntN(2) == 0 {
			p.component = Header
		}
		var cookies []string
		for i, v := range values {
			if p.component == Cookie {
				cookies = append(cookies, name(i)+"="+url.QueryEscape(v))
			} else {
				p.r.Header = append(p.r.Header, pinpoint.Field{Name: name(i), Value: v})
			}
		}
		if cookies != nil {
			p.r.Header = append(p.r.Header, pinpoint.Field{Name: "Cookie", Value: strings.Join(cookies, "; ")})
		}
	}
	if typ != "" {
		p.r.Header = append(p.r.Header, pinpoint.Field{Name: "Content-Type", Value: typ})
	}
	return p
}

// right says that the result names the place, and that the window overlaps the trigger.
func (p *planted) right(res *Result) bool {
	if res.Status != Found || len(res.Triggers) == 0 {
		return false
	}
	f := &res.Triggers[0].Parts[0]
	if len(res.Triggers[0].Parts) != 1 || f.Component != p.component || f.Name != p.name {
		return false
	}
	m := Take(p.r)
	l := &m.Leaves[f.leaf]
	at := strings.Index(l.Text(0, l.Units()), p.trigger)
	from, to := len(l.Text(0, f.From)), len(l.Text(0, f.To))
	return from < at+len(p.trigger) && to > at
}

// read decodes all that a firewall would look at, without the code under test.
func read(r *pinpoint.Request) (values []string) {
	_, query, _ := strings.Cut(r.URL, "?")
	q, _ := url.ParseQuery(query)
	form := func(q url.Values) {
		for k, vs := range q {
			values = append(append(values, k), vs...)
		}
	}
	form(q)
	for _, f := range r.Header {
		if strings.EqualFold(f.Name, "Cookie") {
			for _, c := range strings.Split(f.Value, ";") {
				d, _ := url.QueryUnescape(c)
				values = append(values, d)
			}
			continue
		}
		values = append(values, f.Value)
	}
	typ, params, _ := mime.ParseMediaType(r.Header.Value("Content-Type"))
	switch {
	case typ == "application/json":
		var v any
		json.Unmarshal(r.Body, &v)
		var walk func(v any)
		walk = func(v any) {
			switch v := v.(type) {
			case string:
				values = append(values, v)
			case []any:
				for _, e := range v {
					walk(e)
				}
			case map[string]any:
				for k, e := range v {
					values = append(values, k)
					walk(e)
				}
			}
		}
		walk(v)
	case typ == "application/x-www-form-urlencoded":
		q, _ := url.ParseQuery(string(r.Body))
		form(q)
	case typ == "multipart/form-data":
		m := multipart.NewReader(bytes.NewReader(r.Body), params["boundary"])
		for {
			p, err := m.NextPart()
			if err != nil {
				break
			}
			data, _ := io.ReadAll(p)
			values = append(values, string(data), p.FileName())
		}
	case typ == "application/xml":
		d := xml.NewDecoder(bytes.NewReader(r.Body))
		for {
			t, err := d.Token()
			if err != nil {
				break
			}
			switch t := t.(type) {
			case xml.CharData:
				values = append(values, string(t))
			case xml.StartElement:
				for _, a := range t.Attr {
					values = append(values, a.Value)
				}
			}
		}
	}
	return values
}

// simulated is a server behind a firewall.
type simulated struct {
	t        *testing.T
	rng      *rand.Rand
	prefix   string // all URLs must begin with it
	trigger  func(*pinpoint.Request) bool
	noise    float64 // share of answers that are the other one
	sampling float64 // share of refusals among those due; 0 is all
	banAfter int     // refusals
	perSpan  int     // requests per minute
	now      time.Time
	span     time.Time
	inSpan   int
	sent     int
	refused  int
	afterBan int
}

func (s *simulated) Send(_ context.Context, r *pinpoint.Request) (*pinpoint.Answer, error) {
	s.sent++
	if !strings.HasPrefix(r.URL, s.prefix) {
		s.t.Errorf("%s was called", r.URL)
	}
	if s.perSpan > 0 {
		if s.now.Sub(s.span) >= time.Minute {
			s.span, s.inSpan = s.now, 0
		}
		if s.inSpan++; s.inSpan > s.perSpan {
			return &pinpoint.Answer{Status: 429, Header: pinpoint.Header{{Name: "Retry-After", Value: "60"}}, Body: []byte("slow down")}, nil
		}
	}
	if s.banAfter > 0 && s.refused >= s.banAfter {
		s.afterBan++
		return page(), nil
	}
	block := s.trigger(r)
	if block && s.sampling > 0 && s.rng.Float64() > s.sampling {
		block = false
	}
	if s.rng.Float64() < s.noise {
		block = !block
	}
	if block {
		s.refused++
		return page(), nil
	}
	return &pinpoint.Answer{Status: 404, Body: []byte("no such page " + r.URL)}, nil
}

func page() *pinpoint.Answer {
	return &pinpoint.Answer{Status: 403, Body: []byte("<title>Blocked</title>")}
}

func sign(a *pinpoint.Answer) string { return fmt.Sprintf("%d %s", a.Status, a.Body) }

// start puts a decoy in front of a simulated server.
func (s *simulated) start(t *testing.T, r *pinpoint.Request) *Decoy {
	t.Helper()
	s.t = t
	s.now = time.Unix(1_800_000_000, 0)
	s.span = s.now
	d, err := NewDecoy(s, r, page(), sign)
	if err != nil {
		t.Fatal(err)
	}
	s.prefix = d.Prefix()
	if !strings.Contains(s.prefix, "/whygate-probe-") {
		t.Fatalf("decoy %s", s.prefix)
	}
	return d
}

func (s *simulated) sleep(_ context.Context, d time.Duration) error {
	s.now = s.now.Add(d)
	return nil
}

func contains(trigger string) func(*pinpoint.Request) bool {
	return func(r *pinpoint.Request) bool {
		for _, v := range read(r) {
			if strings.Contains(v, trigger) {
				return true
			}
		}
		return false
	}
}

// payloads is how many are tried: few, or as many as the environment says.
func payloads(few int) int {
	if n, err := strconv.Atoi(os.Getenv("WHYGATE_WAF_PAYLOADS")); err == nil && n > 0 {
		return n
	}
	return few
}

func TestBisectFindsPlantedTriggers(t *testing.T) {
	rounds := payloads(60)
	for _, c := range []struct {
		name     string
		noise    float64
		sampling float64
		ban      int
		rate     int
		right    int // at least, of 100
	}{
		{name: "clean", right: 100},
		{name: "noise 1%", noise: 0.01, right: 99},
		{name: "noise 3%", noise: 0.03, right: 99},
		{name: "noise 5%", noise: 0.05, right: 99},
		{name: "rate limit", rate: 15, right: 100},
		{name: "sampling 80%", sampling: 0.8, right: 99},
		{name: "ban", ban: 9},
	} {
		t.Run(c.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(7, 11))
			right, wrong, most, sum, strikes := 0, 0, 0, 0, 0
			ends := map[Status]int{}
			for i := range rounds {
				p := plant(rng)
				s := &simulated{rng: rng, noise: c.noise, sampling: c.sampling, banAfter: c.ban, perSpan: c.rate, trigger: contains(p.trigger)}
				d := s.start(t, p.r)
				var steps []string
				res, err := Bisect(context.Background(), p.r, d, Options{Sleep: s.sleep, Told: func(s Step) { steps = append(steps, fmt.Sprint(s.Says, " ", s.Outcome)) }})
				if err != nil {
					t.Fatal(err)
				}
				ends[res.Status]++
				sum += res.Requests
				most, strikes = max(most, res.Requests), max(strikes, res.Strikes)
				switch {
				case p.right(&res):
					right++
				case res.Status == Found:
					wrong++
					t.Logf("%d: wrong: %q in %s, got %+v\n%s", i, p.trigger, p.name, res.Triggers, strings.Join(steps, "\n"))
				case c.right > 0:
					t.Logf("%d: %q in %s %s: %s %s alone %v without %v, %d requests %d strikes noise %.2f", i, p.trigger, p.component, p.name, res.Status, res.Says, res.Alone, res.Without, res.Requests, res.Strikes, res.Noise)
					if testing.Verbose() {
						t.Log(strings.Join(steps, "\n"))
					}
				}
				if res.Requests != s.sent || res.Requests > MaxRequests || res.Strikes > MaxStrikes {
					t.Errorf("%d: %d requests told, %d sent, %d strikes", i, res.Requests, s.sent, res.Strikes)
				}
				if n := res.Requests - res.Sentinels - res.Retests; res.Status == Found && n > res.Bound {
					t.Errorf("%d: %d requests, bound %d", i, n, res.Bound)
				}
				if c.ban > 0 && s.afterBan > 10 {
					t.Errorf("%d: %d requests after the ban", i, s.afterBan)
				}
			}
			t.Logf("%d of %d right, %d wrong, %v; requests: mean %.1f, most %d; most strikes %d", right, rounds, wrong, ends, float64(sum)/float64(rounds), most, strikes)
			if right*100 < c.right*rounds-60 || wrong*100 > (100-c.right)*rounds && wrong > 1 || wrong > 0 && c.right == 100 {
				t.Errorf("%d right, %d wrong", right, wrong)
			}
		})
	}
}

func TestBisectNamesWhatIsRefusedTogether(t *testing.T) {
	r := ordinary("POST", "http://shop.test/x", "application/json", `{"a":"one alpha two","b":"hello","c":"omega and more"}`)
	s := &simulated{rng: rand.New(rand.NewPCG(1, 2)), trigger: func(r *pinpoint.Request) bool {
		all := strings.Join(read(r), "\n")
		return strings.Contains(all, "alpha") && strings.Contains(all, "omega")
	}}
	res, err := Bisect(context.Background(), r, s.start(t, r), Options{Sleep: s.sleep})
	if err != nil || !res.Proved || len(res.Triggers) != 1 || len(res.Triggers[0].Parts) != 2 {
		t.Fatalf("%+v, %v", res, err)
	}
	if p := res.Triggers[0].Parts; p[0].Text != "alpha" || p[1].Text != "omega" || !strings.Contains(res.Says, "together") {
		t.Errorf("%+v", res)
	}
}

func TestBisectFindsEachTrigger(t *testing.T) {
	r := ordinary("POST", "http://shop.test/x", "application/json", `{"a":"one alpha two","b":"hello","c":"my alpha and more"}`)
	s := &simulated{rng: rand.New(rand.NewPCG(1, 2)), trigger: contains("alpha")}
	res, err := Bisect(context.Background(), r, s.start(t, r), Options{Sleep: s.sleep})
	if err != nil || !res.Proved || len(res.Triggers) != 2 {
		t.Fatalf("%+v, %v", res, err)
	}
}

func TestDecoyStopsAtSuccess(t *testing.T) {
	r := ticket()
	sent := 0
	d, err := NewDecoy(sender(func(*pinpoint.Request) (*pinpoint.Answer, error) {
		sent++
		return &pinpoint.Answer{Status: 201}, nil
	}), r, page(), sign)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Bisect(context.Background(), r, d, Options{}); !errors.Is(err, ErrAccepted) || sent != 1 {
		t.Errorf("%v after %d requests", err, sent)
	}
	r.Method = "PUT"
	if _, err := NewDecoy(nil, r, page(), sign); !errors.Is(err, ErrCreates) {
		t.Errorf("PUT: %v", err)
	}
}

type sender func(*pinpoint.Request) (*pinpoint.Answer, error)

func (s sender) Send(_ context.Context, r *pinpoint.Request) (*pinpoint.Answer, error) { return s(r) }

func TestOraclesKeepOff(t *testing.T) {
	r := ticket()
	if _, err := NewNoCredential(nil, r, page(), sign); !errors.Is(err, ErrNoCredential) {
		t.Errorf("without a credential: %v", err)
	}
	r.Header = append(r.Header, pinpoint.Field{Name: "Authorization", Value: "Bearer ‹secret:0123abcd len=30›"}, pinpoint.Field{Name: "Cookie", Value: "sid=1"})
	waf := contains("' OR '")
	calls := 0
	n, err := NewNoCredential(sender(func(q *pinpoint.Request) (*pinpoint.Answer, error) {
		if calls++; q.Header.Has("Authorization") || q.Header.Has("Cookie") {
			t.Error("a credential was sent")
		}
		if waf(q) {
			return page(), nil
		}
		return &pinpoint.Answer{Status: 401}, nil
	}), r, page(), sign)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := Bisect(context.Background(), r, n, Options{}); err != nil || !res.Proved || res.Triggers[0].Parts[0].Name != "/comment" || calls == 0 {
		t.Errorf("%+v, %v", res, err)
	}
	x, err := NewTransposed(sender(func(q *pinpoint.Request) (*pinpoint.Answer, error) {
		if q.Method != "GET" || len(q.Body) > 0 || !strings.HasPrefix(q.URL, "http://shop.test/whygate-probe-") || !strings.Contains(q.URL, "comment=") {
			t.Errorf("%s %s", q.Method, q.URL)
		}
		if waf(q) {
			return page(), nil
		}
		return &pinpoint.Answer{Status: 404}, nil
	}), r, page(), sign)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := Bisect(context.Background(), r, x, Options{}); err != nil || !res.Proved || res.Triggers[0].Parts[0].Name != "/comment" {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestFormTests(t *testing.T) {
	big := strings.Repeat("a", 150<<10)
	for _, c := range []struct {
		cause, field string
		r            *pinpoint.Request
	}{
		{"waf-method-policy", "DELETE", ordinary("DELETE", "http://shop.test/items/5", "", "")},
		{"waf-content-type-policy", "application/vnd.api+json", ordinary("POST", "http://shop.test/x", "application/vnd.api+json", `{"a":"b"}`)},
		{"waf-body-limit", "body", ordinary("POST", "http://shop.test/x", "application/json", `{"a":"`+big+`"}`)},
		{"waf-header-policy", "X-HTTP-Method-Override", func() *pinpoint.Request {
			r := ordinary("POST", "http://shop.test/x", "application/json", `{"a":"b"}`)
			r.Header = append(r.Header, pinpoint.Field{Name: "X-One", Value: "1"}, pinpoint.Field{Name: "X-HTTP-Method-Override", Value: "PUT"}, pinpoint.Field{Name: "X-Two", Value: "2"})
			return r
		}()},
	} {
		t.Run(c.cause, func(t *testing.T) {
			p := replica(t, 1)
			s := &simulated{rng: rand.New(rand.NewPCG(1, 2)), trigger: func(r *pinpoint.Request) bool { return p.Predict(r).Refused }}
			res, err := Bisect(context.Background(), c.r, s.start(t, c.r), Options{Sleep: s.sleep})
			if err != nil || res.Cause != c.cause || res.Field != c.field || !res.Proved || len(res.Clues()) != 1 || res.Clues()[0].Weight > pinpoint.Fair {
				t.Fatalf("%+v, %v", res, err)
			}
			res, err = Bisect(context.Background(), c.r, s.start(t, c.r), Options{Sleep: s.sleep, Replica: p})
			want := pinpoint.Strong // the rules say the same
			if c.cause == "waf-body-limit" {
				want = pinpoint.Hint // their limit is not the server's
			}
			if err != nil || res.Cause != c.cause || res.Clues()[0].Weight != want {
				t.Errorf("%+v, %v", res, err)
			}
		})
	}
}

func TestRealPathIsNotReproduced(t *testing.T) {
	r := ordinary("GET", "http://shop.test/admin/x.sql", "", "")
	s := &simulated{rng: rand.New(rand.NewPCG(1, 2)), trigger: func(r *pinpoint.Request) bool { return strings.Contains(r.URL, ".sql") }}
	res, err := Bisect(context.Background(), r, s.start(t, r), Options{Sleep: s.sleep})
	if err != nil || res.Status != NotReproduced || res.Clues() != nil || s.sent > 8 {
		t.Errorf("%+v, %v", res, err)
	}
}

// What is found is certain only where the rule is known, too.
func TestCauseIsNotGuessed(t *testing.T) {
	r := ordinary("POST", "http://shop.test/x", "application/json", `{"a":"one alpha two","b":"hello"}`)
	for _, c := range []struct {
		given, want string
		weight      float64
	}{{"", "waf-custom-rule", pinpoint.Fair}, {"waf-managed-rule", "waf-managed-rule", pinpoint.Certain}} {
		s := &simulated{rng: rand.New(rand.NewPCG(1, 2)), trigger: contains("alpha")}
		res, err := Bisect(context.Background(), r, s.start(t, r), Options{Sleep: s.sleep, Cause: c.given, Replica: replica(t, 1)})
		if err != nil || res.Cause != c.want || len(res.Clues()) != 1 || res.Clues()[0].Weight != c.weight {
			t.Errorf("%+v, %v", res, err)
		}
	}
}

// A redirect after a success must not pass for a refusal of the login.
func TestRealPathStopsAtRedirects(t *testing.T) {
	r := ticket()
	r.Header = append(r.Header, pinpoint.Field{Name: "Authorization", Value: "Bearer x"})
	for to, want := range map[string]error{"/orders/5": ErrAccepted, "/login?next=/": nil} {
		o, err := NewNoCredential(sender(func(*pinpoint.Request) (*pinpoint.Answer, error) {
			return &pinpoint.Answer{Status: 302, Header: pinpoint.Header{{Name: "Location", Value: to}}}, nil
		}), r, page(), sign)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.Test(context.Background(), r); !errors.Is(err, want) {
			t.Errorf("%s: %v", to, err)
		}
	}
}
