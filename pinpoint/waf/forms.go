package waf

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// forms finds what is disliked in a request whose content is harmless already: the twin with one thing changed.
func (b *bisection) forms(twin Kept) error {
	b.reserve = 0
	b.res.Status, b.res.Says = Form, "Even harmless content is refused: it is the form of the request, but none of the changes tried made it pass."
	b.res.Bound = 4 + 2*maxForms
	base := b.m.Render(twin)
	for _, f := range b.formTests(base) {
		passes := 0
		for passes < 2 { // a cause from a single request would be too little
			o, err := b.ask(f.request, "form test: "+f.says)
			if err != nil {
				return err
			}
			if o != PASS {
				break
			}
			passes++
		}
		if passes < 2 {
			continue
		}
		o, err := b.ask(base, "form test: harmless twin again")
		if err != nil {
			return err
		}
		if o != BLOCK {
			continue // it passes now without the change, too
		}
		if f.names {
			return b.names()
		}
		if f.cause == "waf-header-policy" {
			if f.field, err = b.guiltyHeader(base, f.dropped); err != nil {
				return err
			}
		}
		b.res.Cause, b.res.Field, b.res.Proved = f.cause, f.field, true
		b.res.Alone, b.res.Without = BLOCK, PASS
		// Other hops limit bodies and methods, too. A firewall it is where its rules say the same; the built-in limit
		// on bodies says nothing of this server.
		if p := b.opts.Replica; p != nil {
			out := p.Predict(b.m.Render(b.m.All()))
			b.res.named = out.Refused && out.Cause == f.cause && (p.own || f.cause != "waf-body-limit")
		}
		b.res.Says = "Harmless content is refused as well; with " + f.says + " it passes."
		return nil
	}
	return nil
}

const maxForms = 16

type formTest struct {
	request *pinpoint.Request
	says    string
	cause   string
	field   string
	dropped []string
	names   bool
}

// formTests are changes of a harmless request, the likely ones first.
func (b *bisection) formTests(base *pinpoint.Request) (list []formTest) {
	covers := func(c Component) bool {
		o, ok := b.oracle.(coverer)
		return !ok || o.Covers(c)
	}
	if !slices.Contains([]string{"GET", "HEAD", "POST", ""}, base.Method) {
		r := base.Clone()
		r.Method, r.Body = "GET", nil
		r.Header = r.Header.Without("Content-Length", "Content-Type", "Transfer-Encoding")
		list = append(list, formTest{request: r, says: "method GET", cause: "waf-method-policy", field: base.Method})
	}
	if host, err := netip.ParseAddr(strings.Trim(hostname(base), "[]")); err == nil && b.opts.Host != "" {
		r := base.Clone()
		r.Header = r.Header.With("Host", b.opts.Host)
		list = append(list, formTest{request: r, says: "a host name instead of " + host.String(), cause: "waf-numeric-host", field: host.String()})
	}
	if value := base.Header.Value("Content-Type"); value != "" {
		media, _ := mediaType(value)
		usual := media == "application/json" || media == "application/x-www-form-urlencoded" || media == "multipart/form-data" || media == "text/xml" || media == "application/xml"
		r := base.Clone()
		switch {
		case !usual && strings.Contains(media, "xml"):
			r.Header = r.Header.With("Content-Type", "application/xml")
		case !usual:
			r.Header = r.Header.With("Content-Type", "application/json")
			if !strings.Contains(media, "json") {
				r.Body = []byte(`{"a":"a"}`)
				r.Header = r.Header.Without("Content-Length")
			}
		}
		if !usual {
			list = append(list, formTest{request: r, says: "Content-Type " + r.Header.Value("Content-Type"), cause: "waf-content-type-policy", field: media})
		}
	}
	kept := []string{"host", "content-length", "content-type", "transfer-encoding", "cookie", "authorization", "accept", "user-agent", "connection"}
	var dropped []string
	for _, f := range base.Header {
		if name := strings.ToLower(f.Name); !slices.Contains(kept, name) && !(name == "content-encoding" && len(base.Body) > 0) && !slices.Contains(dropped, f.Name) {
			dropped = append(dropped, f.Name)
		}
	}
	if len(dropped) > 0 {
		r := base.Clone()
		r.Header = r.Header.Without(dropped...)
		list = append(list, formTest{request: r, says: "fewer header fields", cause: "waf-header-policy", field: strings.Join(dropped, ", "), dropped: dropped})
	}
	if len(base.Body) > 1<<10 {
		empty := base.Clone()
		empty.Header = empty.Header.Without("Content-Length")
		half := b.half(base)
		if half != nil {
			list = append(list, formTest{request: half, says: "a body of half the length", cause: "waf-body-limit", field: "body"})
		}
		media, _ := mediaType(base.Header.Value("Content-Type"))
		switch {
		case strings.Contains(media, "json"):
			empty.Body = []byte("{}")
		case media == "application/x-www-form-urlencoded":
			empty.Body = []byte("a=a")
		default:
			empty = nil
		}
		if empty != nil {
			cause := "waf-body-limit"
			if half != nil && len(b.m.Leaves) > 200 {
				cause = "waf-args-limit"
			}
			list = append(list, formTest{request: empty, says: "a small body", cause: cause, field: "body"})
		}
	}
	if at, query, ok := strings.Cut(base.URL, "?"); ok && strings.Count(query, "&") >= 100 && covers(Query) {
		r := base.Clone()
		r.URL = at
		list = append(list, formTest{request: r, says: "no query", cause: "waf-args-limit", field: "query"})
	}
	if b.m.hasPlain(covers) {
		list = append(list, formTest{request: b.m.Render(Kept{}), says: "other names", names: true})
	}
	missing := base.Clone()
	var added []string
	for _, f := range []pinpoint.Field{{Name: "Accept", Value: "*/*"}, {Name: "User-Agent", Value: "Mozilla/5.0"}} {
		if strings.TrimSpace(base.Header.Value(f.Name)) == "" {
			missing.Header = missing.Header.With(f.Name, f.Value)
			added = append(added, f.Name)
		}
	}
	if len(base.Body) > 0 && !base.Header.Has("Content-Type") {
		missing.Header = missing.Header.With("Content-Type", "application/x-www-form-urlencoded")
		added = append(added, "Content-Type")
	}
	if len(added) > 0 {
		names := strings.Join(added, ", ")
		list = append(list, formTest{request: missing, says: names + " added", cause: "waf-missing-headers", field: names})
	}
	return list[:min(len(list), maxForms)]
}

func hostname(r *pinpoint.Request) string {
	if u, err := url.Parse("//" + r.Host()); err == nil {
		return u.Hostname()
	}
	return ""
}

func (m *Message) hasPlain(covers func(Component) bool) bool {
	return slices.ContainsFunc(m.Leaves, func(l Leaf) bool { return l.Plain && covers(l.Component) })
}

// half is the twin with a body of half its length: long values are shortened, the structure stays. It is nil
// where the length is not in the values.
func (b *bisection) half(base *pinpoint.Request) *pinpoint.Request {
	r := base.Clone()
	if b.m.opaque {
		media, _ := mediaType(base.Header.Value("Content-Type"))
		switch {
		case base.Header.Has("Content-Encoding"):
			return nil
		case strings.Contains(media, "json"):
			r.Body = []byte(`{"a":"` + strings.Repeat("a", len(base.Body)/2) + `"}`)
		case media == "application/x-www-form-urlencoded":
			r.Body = []byte("a=" + strings.Repeat("a", len(base.Body)/2))
		default:
			return nil
		}
	} else {
		var out strings.Builder
		for _, p := range b.m.body {
			switch {
			case p.leaf == 0:
				out.WriteString(p.fixed)
			case b.m.Leaves[p.leaf-1].Kind == "name" || b.m.Leaves[p.leaf-1].mode == asNumber:
				l := &b.m.Leaves[p.leaf-1]
				l.write(&out, []Span{{0, len(l.units)}})
			default:
				out.WriteString(strings.Repeat("a", len(b.m.Leaves[p.leaf-1].raw)/3))
			}
		}
		if r.Body = []byte(out.String()); len(r.Body) > len(base.Body)*6/10 {
			return nil
		}
	}
	r.Header = r.Header.Without("Content-Length")
	return r
}

// guiltyHeader finds which of some header fields is disliked: with fields dropped the request passes.
func (b *bisection) guiltyHeader(base *pinpoint.Request, dropped []string) (string, error) {
	lo, hi := 0, len(dropped) // with the first hi of them it is refused, with the first lo not
	for hi-lo > 1 {
		mid := (lo + hi) / 2
		r := base.Clone()
		r.Header = r.Header.Without(dropped[mid:]...)
		o, err := b.ask(r, "form test: fewer header fields")
		if err != nil {
			return "", err
		}
		if o == BLOCK {
			hi = mid
		} else {
			lo = mid
		}
	}
	return dropped[hi-1], nil
}

// names goes on with the search for what is disliked among names that look like any other.
func (b *bisection) names() error {
	for i := range b.m.Leaves {
		b.m.Leaves[i].Plain = false
	}
	b.tally = map[[32]byte]*votes{}
	b.res.Status, b.res.Says = "", ""
	full, twin := b.m.All(), b.m.Twin()
	order := b.order()
	slices.SortStableFunc(order, func(x, y int) int { // names first: content was harmless
		a, c := b.m.Leaves[x].Kind == "name", b.m.Leaves[y].Kind == "name"
		switch {
		case a && !c:
			return -1
		case c && !a:
			return 1
		}
		return 0
	})
	err := b.rounds(order, full, twin)
	if err == errAgain {
		err = errFlaky
	}
	return err
}
