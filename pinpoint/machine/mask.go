package machine

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What a log line may hold that nobody else should read.
var (
	maskHeader = regexp.MustCompile(`(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-[a-z-]*(?:key|token|secret|auth|session)[a-z-]*)(["']?\s*[:=]\s*["']?)[^"'\]\r\n]+`)
	maskPair   = regexp.MustCompile(`(?i)([?&;,{\s"'][\w.%\[\]-]*(?:token|key|secret|passw|pwd|session|signature|assertion|credential|code|auth|\bsid|\bsig|\bjwt)[\w.%\[\]-]*["']?(?:=|:\s*)["']?)[^&;,\s"'}\]]+`)
	// Apache httpd writes the module and the level of a line so: [authz_core:error].
	moduleLevel = regexp.MustCompile(`^\s?\[[a-z0-9_]+:(?:emerg|alert|crit|error|warn|notice|info|debug|trace[1-8])$`)
	maskJWT     = regexp.MustCompile(`\beyJ[\w-]{6,}\.[\w-]*\.?[\w-]*`)
	maskUser    = regexp.MustCompile(`(://[^/\s:@"]{1,128}:)[^@/\s"]+@`)
	maskBearer  = regexp.MustCompile(`(?i)\b(bearer|basic|digest|negotiate)(\s+)[\w.~+/=-]{8,}`)
	maskWithin  = regexp.MustCompile(`(found within [A-Z_]+(?::[^:\]"]{1,64})?: )([^\]"]{12})[^\]"]+`)
	maskData    = regexp.MustCompile(`(Matched Data: )([^\]"]{12})[^\]"]*?( found within)`)
)

const hidden = "‹hidden›"

// mask takes secrets and control characters out of a line of a log, and cuts it.
func mask(line string) string {
	if len(line) > 2000 {
		line = line[:2000]
	}
	line = maskJWT.ReplaceAllString(line, hidden)
	line = maskBearer.ReplaceAllString(line, "$1 "+hidden)
	line = maskUser.ReplaceAllString(line, "${1}"+hidden+"@")
	line = maskData.ReplaceAllString(line, "${1}${2}…$3")
	line = maskWithin.ReplaceAllString(line, "${1}${2}…")
	line = maskHeader.ReplaceAllString(line, "${1}${2}"+hidden)
	line = maskPair.ReplaceAllStringFunc(line, func(m string) string {
		if moduleLevel.MatchString(m) {
			return m
		}
		return maskPair.ReplaceAllString(m, "${1}"+hidden)
	})
	line = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || r != '\t' && !unicode.IsPrint(r) {
			return '·'
		}
		return r
	}, strings.ToValidUTF8(line, "·"))
	if len(line) > 600 {
		cut := 600
		for !utf8.RuneStart(line[cut]) {
			cut--
		}
		line = line[:cut] + "…"
	}
	return line
}
