package machine

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// forms are the times that logs begin their lines with, and their layouts. Times without a zone are of
// the machine, except those of IIS, which are UTC.
var forms = []struct {
	re      *regexp.Regexp
	layouts []string
}{
	// nginx error.log
	{regexp.MustCompile(`^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d(?:\.\d{1,6})?)`), []string{"2006/01/02 15:04:05"}},
	// Apache error.log
	{regexp.MustCompile(`^\[([A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d{1,9})? \d{4})\]`), []string{"Mon Jan _2 15:04:05 2006", "Mon Jan 02 15:04:05 2006"}},
	// audit.log and the kernel's audit lines, which begin with something else
	{regexp.MustCompile(`\baudit\((\d{9,11}\.\d{1,6}):\d+\)`), nil},
	// combined formats, ModSecurity's section A, php-fpm, HAProxy behind its own prefix
	{regexp.MustCompile(`\[(\d\d?/[A-Z][a-z]{2}/\d{4}[: ]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?: [+-]\d{4})?)[\] ]`), []string{"2/Jan/2006:15:04:05 -0700", "2/Jan/2006:15:04:05", "2/Jan/2006 15:04:05"}},
	{regexp.MustCompile(`^\[(\d\d-[A-Z][a-z]{2}-\d{4} \d\d:\d\d:\d\d(?:\.\d{1,6})?)(?: ([A-Z][A-Za-z_/]*))?\]`), []string{"02-Jan-2006 15:04:05"}},
	// RFC 3339 and RFC 5424
	{regexp.MustCompile(`^(?:<\d{1,3}>1? ?)?\[?(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?)`), []string{"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05-0700", "2006-01-02T15:04:05"}},
	// lighttpd, fail2ban, IIS, Python, log4j
	{regexp.MustCompile(`^\[?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?: ?[+-]\d{4})?)`), []string{"2006-01-02 15:04:05 -0700", "2006-01-02 15:04:05-0700", "2006-01-02 15:04:05"}},
	// RFC 3164: no year
	{regexp.MustCompile(`^(?:<\d{1,3}>)?([A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d{1,6})?) `), []string{"Jan _2 15:04:05", "Jan 02 15:04:05"}},
	// JSON
	{regexp.MustCompile(`"(?:ts|time|timestamp|@timestamp|start_time|time_local|time_iso8601|msec|StartUTC|datetime)" ?: ?"?([^",}]{8,40})`), []string{"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05-0700", "2006-01-02T15:04:05", "02/Jan/2006:15:04:05 -0700", "2006/01/02 15:04:05", "2006-01-02 15:04:05"}},
}

// stamp is the time of a line, and whether it has one. now tells the year where none is written.
func stamp(line string, product string, zone *time.Location, now time.Time) (time.Time, bool) {
	if len(line) > 1024 {
		line = line[:1024]
	}
	if product == "iis" {
		zone = time.UTC
	}
	for _, f := range forms {
		g := f.re.FindStringSubmatch(line)
		if g == nil {
			continue
		}
		text := strings.Replace(g[1], ",", ".", 1)
		if f.layouts == nil || len(text) >= 10 && strings.Trim(text, "0123456789.") == "" {
			if t, ok := epoch(text); ok {
				return t, true
			}
			continue
		}
		for _, layout := range f.layouts {
			in := zone
			if len(g) > 2 && g[2] == "UTC" {
				in = time.UTC
			}
			t, err := time.ParseInLocation(layout, text, in)
			if err != nil {
				continue
			}
			if t.Year() == 0 {
				if t, ok := thisYear(t, in, now); ok {
					return t, true
				}
				continue
			}
			return t, true
		}
	}
	return time.Time{}, false
}

// thisYear gives a time its year: that of now, or the one before if it would lie in the future.
func thisYear(t time.Time, zone *time.Location, now time.Time) (time.Time, bool) {
	now = now.In(zone)
	at := time.Date(now.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), zone)
	if at.After(now.Add(24 * time.Hour)) {
		at = time.Date(now.Year()-1, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), zone)
	}
	return at, true
}

// epoch reads seconds, or milliseconds, since 1970.
func epoch(s string) (time.Time, bool) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f < 1e8 || f > 1e14 {
		return time.Time{}, false
	}
	if f > 1e11 {
		f /= 1000
	}
	return time.UnixMicro(int64(f * 1e6)), true
}
