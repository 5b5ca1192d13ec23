package policy

import (
	"net/url"
	"strconv"
	"strings"
)

// queryParameter is the decoded value of the first parameter of that name. It decodes
// only where there is something to decode.
func queryParameter(query, name string) string {
	for query != "" {
		var part string
		part, query, _ = strings.Cut(query, "&")
		k, v, _ := strings.Cut(part, "=")
		if k != name {
			if strings.IndexByte(k, '%') < 0 && strings.IndexByte(k, '+') < 0 {
				continue
			}
			if d, err := url.QueryUnescape(k); err != nil || d != name {
				continue
			}
		}
		if strings.IndexByte(v, '%') >= 0 || strings.IndexByte(v, '+') >= 0 {
			if d, err := url.QueryUnescape(v); err == nil {
				return d
			}
		}
		return v
	}
	return ""
}

// withoutParameter takes all parameters of that name out and leaves the rest as it was written.
func withoutParameter(query, name string) string {
	var kept []string
	for part := range strings.SplitSeq(query, "&") {
		k, _, _ := strings.Cut(part, "=")
		if d, err := url.QueryUnescape(k); err == nil {
			k = d
		}
		if k != name {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, "&")
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return strconv.Itoa(n) + " " + word + "s"
}
