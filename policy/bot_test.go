package policy

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/whygate/whygate/reason"
)

func TestBot(t *testing.T) {
	s := newShelf(t)
	c := s.check("bot", `{deny: [badbot, "Mozilla/4.*", "*crawl*er/1"], denyRegexps: ['^evil-\d+$'], denyGroups: [ai-crawlers], allow: [NiceBadBot], allowRegexps: ['^acme-[a-z]+/'], missing: deny}`)
	ask := func(agent string) reason.Verdict { return c.Check(s.call("GET /", "User-Agent: "+agent)) }
	for agent, code := range map[string]string{
		"curl/8.0": "", "a BadBot/1.0": "bot.denied", "NICEBADBOT/2": "", "Mozilla/4.0 (compatible)": "bot.denied", "Mozilla/5.0 (Mozilla/4.0)": "",
		"my crawling spider/1": "bot.denied", "my crawling spider": "", "er/1 crawl": "", "crawler/1": "bot.denied", "x-crawl-x-er/1": "bot.denied", "x-crawl-x-er/12": "",
		"evil-123": "bot.denied", "EVIL-1": "bot.denied", "evil-": "", "not evil-1": "", "Mozilla/5.0 (compatible; GPTBot/1.2)": "bot.denied",
		"acme-monitor/1 gptbot": "", "x acme-monitor/1 gptbot": "bot.denied", "  ": "bot.no-user-agent", "": "bot.no-user-agent", strings.Repeat("x", 2000) + "badbot": "",
	} {
		v := ask(agent)
		wants(t, v, code)
		if v.Refused() && v.Reason.Status != 403 {
			t.Errorf("%q: %d", agent, v.Reason.Status)
		}
	}
	wants(t, ask("a BadBot/1.0"), "bot.denied", `"a BadBot/1.0" may not call`, `it matches "badbot"`, `with "BadBot" in it`, `ask team "orders" (orders@shop.test) to allow your program`)
	wants(t, ask("x GPTBot/1"), "bot.denied", `"GPTBot" of the group ai-crawlers`)
	wants(t, ask("evil-7"), "bot.denied", `the expression ^evil-\d+$`)
	wants(t, ask(""), "bot.no-user-agent", "it is empty")
	wants(t, c.Check(s.call("GET /")), "bot.no-user-agent", "it is not there")
	v := ask("evil-7")
	if f, _ := v.Facts.Find("pattern", reason.ToOwner); f.From == nil || f.From.Field != "denyRegexps[0]" {
		t.Errorf("written at %+v", f.From)
	}
	if f, ok := v.Facts.Find("pattern", reason.ToCaller); ok {
		t.Errorf("callers are told %v", f)
	}
	if f, _ := ask("badbot"+strings.Repeat("ä", 900)).Facts.Find("user_agent", reason.ToAnyone); !utf8.ValidString(f.Text()) || len(f.Text()) > 210 {
		t.Errorf("user agent %q", f.Text())
	}
	x := s.call("GET /", "User-Agent: acme-monitor/1")
	x.Explaining = true
	if f, _ := c.Check(x).Facts.Find("allowed_by", reason.ToOwner); f.Text() != "the expression ^acme-[a-z]+/" {
		t.Errorf("allowed by %q", f.Text())
	}

	c = s.check("bot", `{deny: ["*"], allowGroups: [search-engines]}`)
	wants(t, ask("Mozilla/5.0 (compatible; Googlebot/2.1)"), "")
	wants(t, ask("curl/8"), "bot.denied", `matches "*"`)
	wants(t, ask(""), "")
}

func TestBotConfiguration(t *testing.T) {
	s := newShelf(t)
	for _, c := range [][3]string{
		{`{}`, "test.yaml:1:1", "denies nobody"},
		{`{allow: [x]}`, "test.yaml:1:1", `deny: ["*"]`},
		{`{deny: [""]}`, "test.yaml:1:9", "an empty pattern"},
		{`{denyRegexps: ["a("]}`, "test.yaml:1:16", `"a(" is no regular expression`},
		{`{denyRegexps: ["a)(b"]}`, "test.yaml:1:16", "is no regular expression"},
		{`{denyRegexps: ["(?<=a)b"]}`, "test.yaml:1:16", "RE2"},
		{`{denyRegexps: ["((a{900}){900}){900}"]}`, "test.yaml:1:16", "is no regular expression"},
		{`{denyRegexps: ["` + strings.Repeat("a", 1001) + `"]}`, "test.yaml:1:16", "this one has 1001"},
		{`{denyGroups: [robots]}`, "test.yaml:1:15", "ai-crawlers"},
		{`{denyGroups: [scrapers], allowGroups: [scrapers]}`, "test.yaml:1:15", "allowed and denied"},
		{`{deny: [x], missing: maybe}`, "test.yaml", "allow"},
	} {
		s.errs("bot", c[0], c[1], c[2])
	}
	for config, code := range map[string]string{
		`{deny: ["*"]}`: "bot.denies-everybody", `{denyRegexps: [".*"]}`: "bot.denies-everybody", `{denyRegexps: ["x*"]}`: "bot.denies-everybody", `{deny: ["*"], allow: [x]}`: "",
		`{deny: [mozilla]}`: "bot.denies-browsers", `{deny: ["*Safari*"]}`: "bot.denies-browsers", `{denyRegexps: ["^[a-z]"]}`: "bot.denies-browsers", `{denyRegexps: ["^bad"]}`: "",
		`{deny: [bot], allow: ["*"]}`: "bot.allows-everybody", `{deny: [bot], allowRegexps: ["friend"]}`: "bot.unanchored", `{deny: [bot], allowRegexps: ["^friend"]}`: "",
		`{deny: [bot], allowRegexps: ["^friend|foe"]}`: "bot.unanchored", `{deny: [bot], allowRegexps: ["(^friend|^foe)x"]}`: "", `{missing: deny}`: "",
		`{denyGroups: [ai-crawlers, search-engines, scrapers, http-libraries]}`: "",
	} {
		s.warns("bot", config, code)
	}
}

// TestBotGroups: the documentation lists what the groups hold.
func TestBotGroups(t *testing.T) {
	b, err := os.ReadFile("bot.go")
	if err != nil {
		t.Fatal(err)
	}
	doc, _, _ := strings.Cut(string(b), "type Bot struct")
	_, doc, _ = strings.Cut(doc, "// Bot refuses")
	for g, list := range botGroups {
		_, text, ok := strings.Cut(doc, "//   - "+g+": ")
		if !ok {
			t.Errorf("the group %s is not described", g)
			continue
		}
		text, _, _ = strings.Cut(text, "//   - ")
		text, _, _ = strings.Cut(text, "\n//\n")
		if got := strings.Join(strings.Fields(strings.ReplaceAll(text, "//", "")), " "); got != strings.Join(list, ", ") {
			t.Errorf("%s holds %s, the documentation says %s", g, strings.Join(list, ", "), got)
		}
	}
}

func TestBotDoesNotAllocate(t *testing.T) {
	s := newShelf(t)
	c := s.check("bot", `{denyGroups: [ai-crawlers, scrapers], deny: ["x*y"], denyRegexps: ['^evil-\d+$']}`)
	x := s.call("GET /", "User-Agent: "+browsers[0].agent)
	if n := testing.AllocsPerRun(100, func() {
		x.scratch = x.scratch[:0]
		if c.Check(x).Refused() {
			t.Fatal("refused")
		}
	}); n > 0 {
		t.Errorf("a call that passes allocates %v times", n)
	}
}

// FuzzBotForm compares forms with the regular expressions that say the same.
func FuzzBotForm(f *testing.F) {
	for _, s := range [][2]string{{"a*b", "ab"}, {"*", ""}, {"a*a", "a"}, {"*ab*ab*", "abab"}, {"**x", "x"}, {"A*", "abc"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, form, name string) {
		if !strings.Contains(form, "*") || len(form) > 50 || len(name) > 200 || !utf8.ValidString(form) || !utf8.ValidString(name) {
			return
		}
		lower := string(appendLower(nil, name))
		want := regexp.MustCompile("(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(string(appendLower(nil, form))), `\*`, ".*") + "$").MatchString(lower)
		if p := newBotPattern(form, "", nil); p.matches(name, lower) != want {
			t.Fatalf("%q on %q: %v, want %v", form, name, !want, want)
		}
	})
}

func BenchmarkBot(b *testing.B) {
	c := &botCheck{}
	for _, g := range []string{"ai-crawlers", "scrapers"} {
		for _, s := range botGroups[g] {
			c.deny = append(c.deny, newBotPattern(s, s, nil))
		}
	}
	x := newTestbed(&testing.T{}).call("GET /", "User-Agent: "+browsers[0].agent)
	b.ReportAllocs()
	for b.Loop() {
		x.scratch = x.scratch[:0]
		if c.Check(x).Refused() {
			b.Fatal("refused")
		}
	}
}
