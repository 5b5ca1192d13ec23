package input

import (
	"fmt"
	"strings"
	"time"
)

// Choice is one request of an input that holds several.
type Choice struct {
	Index  int
	Name   string // of a Postman item with its folders, of a request of an .http file
	Method string
	URL    string // the values of its query are left out: they may be secrets
	Status int    // 0: no answer, or none that is known
	Err    string
	At     time.Time
}

// Ambiguous is the error when one of several requests must be chosen.
type Ambiguous struct {
	Choices []Choice
	How     string // how to choose
}

func (a *Ambiguous) Error() string {
	return fmt.Sprintf("the input holds %d requests that may be meant: %s", len(a.Choices), a.How)
}

// bare is a URL without what may be secret in it.
func bare(u string) string {
	u, _, _ = strings.Cut(u, "#")
	base, query, ok := strings.Cut(u, "?")
	if scheme, rest, found := strings.Cut(base, "://"); found {
		host, path, slash := strings.Cut(rest, "/")
		if i := strings.LastIndexByte(host, '@'); i >= 0 {
			host = host[i+1:]
		}
		base = scheme + "://" + host
		if slash {
			base += "/" + path
		}
	}
	if ok {
		var names []string
		for pair := range strings.SplitSeq(query, "&") {
			name, _, has := strings.Cut(pair, "=")
			if !has && len(name) > 40 {
				name = ""
			}
			names = append(names, name+"=…")
			if len(names) == 20 {
				break
			}
		}
		base += "?" + strings.Join(names, "&")
	}
	return clip(printable(base), 300)
}
