//go:build linux

package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// wrkResult is what wrk printed.
type wrkResult struct {
	calls    int64
	took     time.Duration
	p50, p99 time.Duration
	errors   string // "" when every call was answered 2xx or 3xx in time
}

var (
	wrkCalls  = regexp.MustCompile(`^(\d+) requests in (\S+), \S+ read$`)
	wrkLatent = regexp.MustCompile(`^(50|99)%\s+(\S+)$`)
)

// parseWrk reads the output of wrk --latency, version 4.
func parseWrk(text []byte) (wrkResult, error) {
	var r wrkResult
	var errors []string
	for line := range bytes.Lines(text) {
		line := strings.TrimSpace(string(line))
		if m := wrkCalls.FindStringSubmatch(line); m != nil {
			var err error
			if r.calls, err = strconv.ParseInt(m[1], 10, 64); err != nil {
				return r, err
			}
			if r.took, err = wrkDuration(m[2]); err != nil {
				return r, err
			}
		} else if m := wrkLatent.FindStringSubmatch(line); m != nil {
			d, err := wrkDuration(m[2])
			if err != nil {
				return r, err
			}
			if m[1] == "50" {
				r.p50 = d
			} else {
				r.p99 = d
			}
		} else if strings.HasPrefix(line, "Socket errors:") || strings.HasPrefix(line, "Non-2xx") {
			errors = append(errors, line)
		}
	}
	r.errors = strings.Join(errors, "; ")
	if r.took == 0 {
		return r, fmt.Errorf("wrk printed no result: %q", text)
	}
	return r, nil
}

// wrkDuration reads wrk's times: "812.00us", "1.23ms", "5.00s", "1.50m".
func wrkDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("wrk printed %q where a time was expected", text)
	}
	return d, nil
}
