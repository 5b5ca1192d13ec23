package policy

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// Bot refuses programs by the name that they give themselves, in the header User-Agent.
//
// A pattern is a text that the name contains, or with * in it a form of the whole name; upper and
// lower case are the same. Regular expressions have lists of their own. Groups are lists that come with the gateway:
//
//   - ai-crawlers: AI2Bot, Amazonbot, anthropic-ai, Bytespider, CCBot, ChatGPT-User, Claude-SearchBot, Claude-User,
//     ClaudeBot, cohere-ai, Diffbot, DuckAssistBot, FacebookBot, Google-CloudVertexBot, GPTBot, ImagesiftBot,
//     meta-externalagent, MistralAI-User, OAI-SearchBot, Omgilibot, Perplexity-User, PerplexityBot, Timpibot, YouBot
//   - search-engines: Applebot, Baiduspider, Bingbot, DuckDuckBot, Googlebot, Mojeekbot, PetalBot, Qwantbot,
//     SeznamBot, Slurp, Sogou, YandexBot, Yeti/
//   - scrapers: 80legs, AhrefsBot, BLEXBot, colly, DotBot, HeadlessChrome, HTTrack, MJ12bot, PhantomJS, Scrapy, SemrushBot,
//     SiteSucker, WebCopier, WebZIP
//   - http-libraries: aiohttp, axios, curl/, Go-http-client, Java/, libwww-perl, node-fetch, okhttp, python-requests,
//     Python-urllib, python-httpx, Wget
//
// What is allowed passes whatever is denied; with deny: ["*"] only that passes. Anybody can write any
// name: this policy keeps away who is honest about it, and is no authentication. Of a name longer than 1024
// bytes the first 1024 are looked at.
//
//	policies:
//	- bot: {denyGroups: [ai-crawlers, scrapers], deny: [BadBot, "Mozilla/4.*"], missing: deny}
type Bot struct {
	// Deny lists patterns of names that may not call.
	Deny []string `json:"deny" example:"[BadBot]"`
	// DenyRegexps lists regular expressions (RE2) for the same. They match anywhere in the name unless they
	// begin with ^ or end with $.
	DenyRegexps []string `json:"denyRegexps" example:"['^Mozilla/[1-4]\\.']"`
	// DenyGroups lists groups that may not call.
	DenyGroups []string `json:"denyGroups" enum:"ai-crawlers,search-engines,scrapers,http-libraries" example:"[ai-crawlers]"`
	// Allow lists patterns of names that may, whatever is denied.
	Allow []string `json:"allow" example:"[acme-monitor/*]"`
	// AllowRegexps lists regular expressions for the same.
	AllowRegexps []string `json:"allowRegexps" example:"['^acme-monitor/\\d+$']"`
	// AllowGroups lists groups that may.
	AllowGroups []string `json:"allowGroups" enum:"ai-crawlers,search-engines,scrapers,http-libraries"`
	// Missing says whether calls without a name may pass.
	Missing string `json:"missing" enum:"allow,deny" default:"allow"`
}

// botGroups are the lists that come with the gateway.
var botGroups = map[string][]string{
	"ai-crawlers": {"AI2Bot", "Amazonbot", "anthropic-ai", "Bytespider", "CCBot", "ChatGPT-User", "Claude-SearchBot", "Claude-User", "ClaudeBot", "cohere-ai", "Diffbot", "DuckAssistBot",
		"FacebookBot", "Google-CloudVertexBot", "GPTBot", "ImagesiftBot", "meta-externalagent", "MistralAI-User", "OAI-SearchBot", "Omgilibot", "Perplexity-User", "PerplexityBot", "Timpibot", "YouBot"},
	"search-engines": {"Applebot", "Baiduspider", "Bingbot", "DuckDuckBot", "Googlebot", "Mojeekbot", "PetalBot", "Qwantbot", "SeznamBot", "Slurp", "Sogou", "YandexBot", "Yeti/"},
	"scrapers":       {"80legs", "AhrefsBot", "BLEXBot", "colly", "DotBot", "HeadlessChrome", "HTTrack", "MJ12bot", "PhantomJS", "Scrapy", "SemrushBot", "SiteSucker", "WebCopier", "WebZIP"},
	"http-libraries": {"aiohttp", "axios", "curl/", "Go-http-client", "Java/", "libwww-perl", "node-fetch", "okhttp", "python-requests", "Python-urllib", "python-httpx", "Wget"},
}

var (
	botDenied = reason.New(reason.Reason{
		Code: "bot.denied", Status: 403,
		Title:  "Programs of this name may not call this API",
		Says:   "the user agent \"{user_agent}\" may not call this API[: it matches {pattern}]",
		Wanted: "a user agent that is not denied[ by {pattern}]",
		Seen:   "User-Agent: {user_agent}[, with \"{match}\" in it]",
		Fixes: []reason.Fix{
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to allow your program[ although {pattern} denies it]"},
			{By: reason.Application, Text: "let the program give itself a name of its own, with an address where you can be reached"},
		},
		Hint: "policy bot: allow goes before deny, so an exception for one program is one line",
	})
	botNameless = reason.New(reason.Reason{
		Code: "bot.no-user-agent", Status: 403,
		Title:  "Programs that do not say their name may not call this API",
		Says:   "this API wants the header User-Agent, and it {seen}",
		Wanted: "the header User-Agent with the name of the program",
		Seen:   "it {seen}",
		Fixes: []reason.Fix{
			{By: reason.Caller, Text: "send the header User-Agent with a name, such as my-program/1.0 (mail@my-company.example)"},
			{By: reason.Owner, Text: "ask {owner|the owner of this API} to set missing: allow of the policy bot"},
		},
		Hint: "policy bot, field missing; a proxy in front may have taken the header away",
	})
)

type botCheck struct {
	deny, allow []botPattern
	nameless    bool // may call
	at          *reason.Source
}

// botPattern is one of: a text, a form with stars, a regular expression.
type botPattern struct {
	text   string   // lower case
	parts  []string // of a form, cut at its stars; lower case
	re     *regexp.Regexp
	all    bool // matches every name
	shown  string
	source *reason.Source
}

// Bounds of regular expressions and of the names that they meet.
const (
	botExpression = 1000
	botName       = 1024
)

// Compile reads the patterns.
func (p *Bot) Compile(env *Env) any {
	c := &botCheck{nameless: p.Missing == "allow", at: env.Source("missing")}
	c.deny = botPatterns(env, "deny", p.Deny, p.DenyRegexps, p.DenyGroups)
	c.allow = botPatterns(env, "allow", p.Allow, p.AllowRegexps, p.AllowGroups)
	denies := len(p.Deny)+len(p.DenyRegexps)+len(p.DenyGroups) > 0
	if !denies && c.nameless {
		hint := "list names under deny, denyRegexps or denyGroups, or set missing: deny"
		if len(p.Allow)+len(p.AllowRegexps)+len(p.AllowGroups) > 0 {
			hint = `to let only those in, set deny: ["*"]`
		}
		env.Problem("", hint, "bot denies nobody")
	}
	for _, g := range p.AllowGroups {
		for i, d := range p.DenyGroups {
			if g == d {
				env.Problem(index("denyGroups", i), "take it off one of the lists", "%s is allowed and denied", g)
			}
		}
	}
	excepts := len(c.allow) > 0
	for i := range c.deny {
		d := &c.deny[i]
		switch {
		case d.all && !excepts:
			env.Lint("bot.denies-everybody", fieldOf(env, d), `narrow it, or allow some: deny: ["*"] goes with allow`, "%s matches every name", d.shown)
		case !d.all && !excepts:
			for _, b := range browsers {
				if d.matches(b.agent, string(appendLower(nil, b.agent))) {
					env.Lint("bot.denies-browsers", fieldOf(env, d), "narrow it to the programs that are meant", "%s matches %s", d.shown, b.name)
					break
				}
			}
		}
	}
	for i := range c.allow {
		a := &c.allow[i]
		switch {
		case a.all:
			env.Lint("bot.allows-everybody", fieldOf(env, a), "narrow it", "%s matches every name, so nothing is denied", a.shown)
		case a.re != nil && !fromStart(a.re):
			env.Lint("bot.unanchored", fieldOf(env, a), "begin it with ^", "%s matches anywhere: whoever has that somewhere in the name passes", a.shown)
		}
	}
	return c
}

// browsers are names that people come with.
var browsers = []struct{ name, agent string }{
	{"Chrome", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"},
	{"Firefox", "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"},
	{"Safari", "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Safari/605.1.15"},
	{"Safari on an iPhone", "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Mobile/15E148 Safari/604.1"},
}

// fieldOf is the path of a pattern below the configuration.
func fieldOf(env *Env, p *botPattern) string {
	return strings.TrimPrefix(strings.TrimPrefix(p.source.Field, env.Node.Path()), ".")
}

func botPatterns(env *Env, side string, plain, expressions, groups []string) (list []botPattern) {
	for i, s := range plain {
		at := index(side, i)
		if strings.TrimSpace(s) == "" {
			env.Problem(at, `for calls without a name there is missing: deny; for every name write "*"`, "an empty pattern matches every name")
			continue
		}
		list = append(list, newBotPattern(s, fmt.Sprintf("%q", s), env.Source(at)))
	}
	for i, s := range expressions {
		at := index(side+"Regexps", i)
		switch {
		case strings.TrimSpace(s) == "":
			env.Problem(at, `for every name write ".*"`, "an empty expression matches every name")
			continue
		case len(s) > botExpression:
			env.Problem(at, "split it", "a regular expression may have %d characters, this one has %d", botExpression, len(s))
			continue
		}
		re, err := regexp.Compile("(?i:" + s + ")")
		if _, alone := syntax.Parse(s, syntax.Perl); err != nil || alone != nil {
			env.Problem(at, "regular expressions are those of RE2: github.com/google/re2/wiki/Syntax", "%q is no regular expression: %v", s, alone)
			continue
		}
		list = append(list, botPattern{re: re, all: re.MatchString("") && re.MatchString("a b") && re.MatchString(browsers[0].agent), shown: "the expression " + s, source: env.Source(at)})
	}
	for i, g := range groups {
		for _, s := range botGroups[g] {
			list = append(list, newBotPattern(s, fmt.Sprintf("%q of the group %s", s, g), env.Source(index(side+"Groups", i))))
		}
	}
	return list
}

func newBotPattern(s, shown string, at *reason.Source) botPattern {
	p := botPattern{shown: shown, source: at}
	if s = string(appendLower(nil, s)); strings.Contains(s, "*") {
		p.parts = strings.Split(s, "*")
		p.all = strings.Trim(s, "*") == ""
	} else {
		p.text = s
	}
	return p
}

// fromStart says that an expression matches only at the beginning of a text.
func fromStart(re *regexp.Regexp) bool {
	tree, err := syntax.Parse(re.String(), syntax.Perl)
	return err == nil && beginsText(tree.Simplify())
}

func beginsText(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpBeginText:
		return true
	case syntax.OpConcat, syntax.OpCapture:
		return len(re.Sub) > 0 && beginsText(re.Sub[0])
	case syntax.OpAlternate:
		for _, s := range re.Sub {
			if !beginsText(s) {
				return false
			}
		}
		return true
	}
	return false
}

// matches compares with a name and the same in lower case.
func (p *botPattern) matches(name, lower string) bool {
	switch {
	case p.re != nil:
		return p.re.MatchString(name)
	case p.parts != nil:
		return matchParts(p.parts, lower)
	}
	return strings.Contains(lower, p.text)
}

// matchParts says that a text is the parts with anything between them. Taking each part where it is found
// first leaves the most for those behind it, so nothing has to be tried twice.
func matchParts(parts []string, s string) bool {
	last := len(parts) - 1
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	for _, p := range parts[1:last] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return strings.HasSuffix(s, parts[last])
}

// Check compares the name of the program.
func (c *botCheck) Check(x *Exchange) reason.Verdict {
	name, there := x.Fields.Find(wire.UserAgent)
	name = strings.TrimSpace(name)
	if name == "" {
		if !c.nameless {
			seen := "is not there"
			if there {
				seen = "is empty"
			}
			return botNameless.Refuse(reason.Public("seen", seen), reason.Rule("missing", "deny").At(c.at), x.OwnerFact())
		}
		if x.Explaining {
			return reason.Pass(reason.Public("user_agent", "none"), reason.Rule("missing", "allow").At(c.at))
		}
		return reason.Verdict{}
	}
	name = name[:min(len(name), botName)]
	lower := x.lower(name)
	for i := range c.allow {
		if p := &c.allow[i]; p.matches(name, lower) {
			if x.Explaining {
				return reason.Pass(reason.Public("user_agent", shownAgent(name)), reason.Rule("allowed_by", p.shown).At(p.source))
			}
			return reason.Verdict{}
		}
	}
	for i := range c.deny {
		if p := &c.deny[i]; p.matches(name, lower) {
			return botDenied.Refuse(reason.Public("user_agent", shownAgent(name)), reason.Rule("pattern", p.shown).At(p.source), reason.Rule("match", shownAgent(p.part(name, lower))), x.OwnerFact())
		}
	}
	if x.Explaining {
		return reason.Pass(reason.Public("user_agent", shownAgent(name)), reason.Rule("denied_by", "none of "+plural(len(c.deny), "pattern")))
	}
	return reason.Verdict{}
}

// part is what of the name matched.
func (p *botPattern) part(name, lower string) string {
	switch {
	case p.re != nil:
		return p.re.FindString(name)
	case p.parts != nil:
		return name
	}
	i := strings.Index(lower, p.text)
	return name[i : i+len(p.text)]
}

// shownAgent is a name as explanations show it.
func shownAgent(name string) string {
	const most = 200
	if len(name) > most {
		return strings.ToValidUTF8(name[:most], "") + "…"
	}
	return strings.Clone(name)
}

// lower writes a text in lower case, in memory that lasts as long as the call.
func (x *Exchange) lower(s string) string {
	start := len(x.scratch)
	x.scratch = appendLower(x.scratch, s)
	return wire.View(x.scratch[start:])
}

// appendLower has ASCII in lower case only, so that the length stays.
func appendLower(b []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		b = append(b, c)
	}
	return b
}
