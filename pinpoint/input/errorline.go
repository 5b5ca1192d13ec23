package input

import (
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

// maxErrorLines bounds what is read of an error log: the last lines count.
const maxErrorLines = 64

// What the lines of error logs say of the request: nginx (ngx_http_log_error), Apache httpd (ErrorLogFormat), ModSecurity
// 2, and the paths that Django ends its lines with.
var (
	loggedRequest = regexp.MustCompile(`request: "([^"]+)"`)
	loggedHost    = regexp.MustCompile(`\bhost: "([^"/\s]{1,255})"|\[hostname "([^"/\s]{1,255})"\]`)
	loggedURI     = regexp.MustCompile(`\[uri "(/[^"\s]*)"\]|^Forbidden \([^)]{1,200}\): (/\S*)`)
	loggedClient  = regexp.MustCompile(`\bclient: ([0-9a-fA-F.:]{3,45})|\[(?:client|remote) "?([0-9a-fA-F.:]{3,52})"?\]`)
	loggedTime    = regexp.MustCompile(`^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d)|^\[[A-Z][a-z]{2} ([A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d{1,9})? \d{4})\]`)
)

// errorLine reads lines of an error log that name a refusal, nil if none does. Their secrets are taken out here, since
// such a line has no fields that would tell which they are.
func errorLine(text string) *pinpoint.LogLine {
	text = strings.TrimPrefix(text, "\ufeff")
	if len(text) > maxLine {
		text = text[len(text)-maxLine:]
		_, text, _ = strings.Cut(text, "\n")
	}
	var lines []string
	known := false
	for line := range strings.SplitSeq(text, "\n") {
		if line = pinpoint.MaskLine(strings.TrimSpace(line)); line != "" {
			lines = append(lines, line)
			known = known || len(pinpoint.MatchLog("", line)) > 0
		}
	}
	if !known {
		return nil
	}
	lines = lines[max(0, len(lines)-maxErrorLines):]
	l := &pinpoint.LogLine{Format: "error", Fields: map[string]string{pinpoint.ErrorText: strings.Join(lines, "\n")}}
	for _, line := range lines {
		if m := loggedRequest.FindStringSubmatch(line); m != nil {
			setRequest(l, m[1])
		} else if m := loggedURI.FindStringSubmatch(line); m != nil && l.Method == "" {
			l.Path = m[1] + m[2]
		}
		if m := loggedHost.FindStringSubmatch(line); m != nil {
			l.Host = m[1] + m[2]
		}
		if m := loggedClient.FindStringSubmatch(line); m != nil {
			l.Client = client(m[1] + m[2])
		}
		if m := loggedTime.FindStringSubmatch(line); m != nil { // both write the time of their machine
			for _, layout := range []string{"2006/01/02 15:04:05", "Jan _2 15:04:05 2006", "Jan 02 15:04:05 2006"} {
				if t, err := time.ParseInLocation(layout, m[1]+m[2], time.Local); err == nil {
					l.At = t
				}
			}
		}
	}
	l.Path, _, _ = strings.Cut(l.Path, "?") // what was masked there is no query any more
	return l
}

// client takes the port off an address: 192.0.2.7:4000, and Apache's ::1:4000.
func client(s string) string {
	if a, err := netip.ParseAddrPort(s); err == nil {
		return a.Addr().String()
	}
	return s
}
