package pinpoint

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
	// Apache httpd writes the module and the level of a line so: [authz_core:error]. A status is no secret.
	maskNever  = regexp.MustCompile(`^\s?\[[a-z0-9_]+:(?:emerg|alert|crit|error|warn|notice|info|debug|trace[1-8])$|(?i)status_?code["']?(?:=|:\s*)["']?\d{3}$`)
	maskJWT    = regexp.MustCompile(`\beyJ[\w-]{6,}\.[\w-]*\.?[\w-]*`)
	maskUser   = regexp.MustCompile(`(://[^/\s:@"]{1,128}:)[^@/\s"]+@`)
	maskBearer = regexp.MustCompile(`(?i)\b(bearer|basic|digest|negotiate)(\s+)[\w.~+/=-]{8,}`)
	maskWithin = regexp.MustCompile(`(found within [A-Z_]+(?::[^:\]"]{1,64})?: )([^\]"]{12})[^\]"]+`)
	maskData   = regexp.MustCompile(`(Matched Data: )([^\]"]{12})[^\]"]*?( found within)`)
)

const maskedText = "‹hidden›"

// MaskLine takes what looks like a secret out of a line of a log, and what steers terminals. What the patterns
// of MatchLog look for stays.
func MaskLine(line string) string {
	line = maskJWT.ReplaceAllString(line, maskedText)
	line = maskBearer.ReplaceAllString(line, "$1 "+maskedText)
	line = maskUser.ReplaceAllString(line, "${1}"+maskedText+"@")
	line = maskData.ReplaceAllString(line, "${1}${2}…$3")
	line = maskWithin.ReplaceAllString(line, "${1}${2}…")
	line = maskHeader.ReplaceAllString(line, "${1}${2}"+maskedText)
	line = maskPair.ReplaceAllStringFunc(line, func(m string) string {
		if maskNever.MatchString(m) {
			return m
		}
		return maskPair.ReplaceAllString(m, "${1}"+maskedText)
	})
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || r != '\t' && !unicode.IsPrint(r) {
			return '·'
		}
		return r
	}, strings.ToValidUTF8(line, "·"))
}
