package policy

import (
	"net/url"
	"strings"
	"testing"

	"github.com/whygate/whygate/reason"
)

func TestHotlink(t *testing.T) {
	s := newShelf(t)
	open := s.check("hotlink", `{hosts: [partner.test, "*.friends.test", "[2001:db8::1]"]}`)
	closed := s.check("hotlink", `{hosts: [partner.test], empty: deny}`)
	for _, c := range []struct {
		header       string
		open, closed string
	}{
		{"X-A: b", "", "hotlink.empty"},
		{"Referer:", "", "hotlink.empty"},
		{"Origin: null", "", "hotlink.empty"},
		{"Sec-Fetch-Site: none", "", "hotlink.empty"},
		{"Sec-Fetch-Site: same-site", "", "hotlink.empty"},
		{"Sec-Fetch-Site: same-origin", "", ""},
		{"Sec-Fetch-Site: cross-site", "hotlink.foreign", "hotlink.foreign"},
		{"Referer: https://shop.test/page", "", ""},
		{"Referer: http://SHOP.test:8080", "", ""},
		{"Referer: https://shop.test./", "", ""},
		{"Referer: https://partner.test/?q=https://evil.test", "", ""},
		{"Origin: https://partner.test", "", ""},
		{"Referer: https://a.b.friends.test/", "", "hotlink.foreign"},
		{"Referer: https://friends.test/", "hotlink.foreign", "hotlink.foreign"},
		{"Referer: https://evilfriends.test/", "hotlink.foreign", "hotlink.foreign"},
		{"Referer: https://friends.test.evil.test/", "hotlink.foreign", "hotlink.foreign"},
		{"Referer: https://evil.test/partner.test", "hotlink.foreign", "hotlink.foreign"},
		{"Referer: https://evil.test?https://partner.test/", "hotlink.foreign", "hotlink.foreign"},
		{"Referer: https://evil.test#partner.test", "hotlink.foreign", "hotlink.foreign"},
		{`Referer: https://evil.test\.partner.test/`, "hotlink.foreign", "hotlink.foreign"},
		{"Referer: https://partner.test@evil.test/", "hotlink.foreign", "hotlink.foreign"},
		{"Referer: https://evil.test@partner.test/", "hotlink.foreign", "hotlink.foreign"},
		{"Referer: https://[2001:db8::1]:8443/", "", "hotlink.foreign"},
		{"Referer: https://[2001:db8::1", "hotlink.foreign", "hotlink.foreign"},
		{"Referer: javascript://partner.test/", "hotlink.foreign", "hotlink.foreign"},
		{"Referer: partner.test", "hotlink.foreign", "hotlink.foreign"},
		{"Referer: https:///x", "hotlink.foreign", "hotlink.foreign"},
		{"Referer: https://shop.test/\r\nReferer: https://evil.test/", "hotlink.foreign", "hotlink.foreign"},
		{"Referer: https://shop.test/\r\nOrigin: https://evil.test", "hotlink.foreign", "hotlink.foreign"},
		{"Referer: https://shop.test/\r\nSec-Fetch-Site: cross-site", "", ""}, // led here from elsewhere
	} {
		for check, code := range map[Check]string{open: c.open, closed: c.closed} {
			v := check.Check(s.call(append([]string{"GET /"}, strings.Split(c.header, "\r\n")...)...))
			if v.Refused() != (code != "") || v.Refused() && v.Reason.Code != code {
				t.Errorf("%q: %+v, want %q", c.header, v.Reason, code)
			}
		}
	}
	v := closed.Check(s.call("GET /", "Referer: https://evil.test/album?session=secret"))
	wants(t, v, "hotlink.foreign", "a page of evil.test asks", "pages of shop.test and of partner.test may", "Referer: https://evil.test/album…", "add evil.test to the hosts")
	if f, ok := v.Facts.Find("allowed", reason.ToOwner); !ok || f.From.Field != "hosts" {
		t.Errorf("written at %+v", f)
	}
	if f, ok := v.Facts.Find("allowed", reason.ToCaller); ok {
		t.Errorf("callers are told %v", f)
	}
	for _, f := range v.Facts {
		if strings.Contains(f.Text(), "secret") {
			t.Errorf("the query of somebody's page is the fact %s", f.Name)
		}
	}
	wants(t, open.Check(s.call("GET /", "Sec-Fetch-Site: cross-site")), "hotlink.foreign", "another site, which hides its name")
	wants(t, closed.Check(s.call("GET /", "Sec-Fetch-Site: none")), "hotlink.empty", "neither Referer nor Origin; Sec-Fetch-Site: none")
	x := s.call("GET /", "Referer: https://partner.test/a")
	x.Explaining = true
	if f, _ := closed.Check(x).Facts.Find("page", reason.ToAnyone); f.Text() != "of partner.test" {
		t.Errorf("%v", f)
	}
	x.Explaining = false
	if n := testing.AllocsPerRun(100, func() { closed.Check(x) }); n > 0 {
		t.Errorf("a call that passes allocates %v times", n)
	}
}

func TestHotlinkConfiguration(t *testing.T) {
	s := newShelf(t)
	for _, c := range [][3]string{
		{`{hosts: ["*"]}`, "test.yaml:1:10", "every page"},
		{`{hosts: ["https://shop.test/a"]}`, "test.yaml:1:10", "write shop.test"},
		{`{hosts: ["shop.test:443"]}`, "test.yaml:1:10", "write shop.test"},
		{`{hosts: ["shop.test/a"]}`, "test.yaml:1:10", "write shop.test"},
		{`{hosts: ["shop test"]}`, "test.yaml:1:10", "no host"},
		{`{hosts: ["shop.*.test"]}`, "test.yaml:1:10", "no host"},
		{`{hosts: [""]}`, "test.yaml:1:10", "no host"},
		{`{hosts: ["2001:db8::1"]}`, "test.yaml:1:10", ""},
		{`{empty: maybe}`, "test.yaml", "allow"},
	} {
		s.errs("hotlink", c[0], c[1], c[2])
	}
	s.warns("hotlink", `{hosts: ["*.test"]}`, "hotlink.wide-wildcard")
	s.warns("hotlink", `{hosts: ["*.Shop.test", 192.0.2.1]}`, "")
	s.warns("hotlink", `{}`, "")
}

func BenchmarkHotlink(b *testing.B) {
	c := &hotlinkCheck{exact: []string{"partner.test"}, below: []string{".partner.test"}}
	x := newTestbed(&testing.T{}).call("GET /", "Referer: https://www.partner.test/page", "Sec-Fetch-Site: cross-site")
	b.ReportAllocs()
	for b.Loop() {
		if c.Check(x).Refused() {
			b.Fatal("refused")
		}
	}
}

// FuzzHostOf compares with how browsers split a URL, as far as net/url does.
func FuzzHostOf(f *testing.F) {
	for _, s := range []string{"https://a.test/", "http://a@b/", "https://[::1]:8", `https://a\b`, "https://a:1?x", "//a", "https://"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host := hostOf(s)
		if strings.ContainsAny(host, `/?#\@`) {
			t.Fatalf("the host of %q is %q", s, host)
		}
		if u, err := url.Parse(s); err == nil && host != "" && !strings.Contains(s, "%") && bareHost(u.Host) != host {
			t.Fatalf("the host of %q is %q, to net/url it is %q", s, host, u.Host)
		}
	})
}
