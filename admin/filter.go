package admin

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/resource"
)

// MaxCalls bounds the answer to one query.
const MaxCalls = 10_000

// filterKeys are the parameters of GET /v1/calls, which are the flags of `whygate calls` too.
var filterKeys = []string{"since", "until", "before", "refused", "outcome", "api", "version", "stage", "route", "application", "credential", "reason", "status", "client", "path", "method", "flag", "limit"}

// ParseFilter reads what calls to look for. since and until are times or spans before now; before is the id of the last
// call of a page.
func ParseFilter(v url.Values, now time.Time) (f calllog.Filter, err error) {
	for k := range v {
		if !slices.Contains(filterKeys, k) {
			hint := ""
			if n := resource.Nearest(k, filterKeys); n != "" {
				hint = "; did you mean " + n + "?"
			}
			return f, fmt.Errorf("there is no filter %q%s", k, hint)
		}
	}
	moment := func(key string) (t time.Time) {
		s := v.Get(key)
		if s == "" || err != nil {
			return t
		}
		var d resource.Duration
		if d.UnmarshalText([]byte(s)) == nil {
			return now.Add(-d.D())
		}
		var at resource.Time
		if e := at.UnmarshalText([]byte(s)); e != nil {
			err = fmt.Errorf("%s=%q is neither a span such as 1h nor a time such as 2026-11-22T09:40:00Z", key, s)
		}
		return at.Time
	}
	f.Since, f.Until = moment("since"), moment("until")
	if err != nil {
		return f, err
	}
	if s := v.Get("before"); s != "" {
		if f.Before, err = calllog.ParseID(s); err != nil {
			return f, fmt.Errorf("before=%q is no call id: %w", short(s), err)
		}
	}
	f.API, f.Version, f.Stage, f.Route = v.Get("api"), v.Get("version"), v.Get("stage"), v.Get("route")
	f.Application, f.Credential = v.Get("application"), v.Get("credential")
	f.Reason, f.Path, f.Method = v.Get("reason"), v.Get("path"), strings.ToUpper(v.Get("method"))
	if on, _ := strconv.ParseBool(v.Get("refused")); on {
		f.Refused, f.Relayed, f.Failed = true, true, true
	}
	for _, o := range v["outcome"] {
		switch o {
		case "allowed":
			f.Allowed = true
		case "relayed":
			f.Relayed = true
		case "refused":
			f.Refused = true
		case "failed":
			f.Failed = true
		case "answered":
			f.Answered = true
		default:
			return f, fmt.Errorf("outcome=%q is none of %s", o, strings.Join(outcomes, ", "))
		}
	}
	for _, name := range v["flag"] {
		i := slices.IndexFunc(flagNames, func(n struct {
			flag calllog.Flags
			name string
		}) bool {
			return n.name == name
		})
		if i < 0 {
			known := make([]string, len(flagNames))
			for i, n := range flagNames {
				known[i] = n.name
			}
			return f, fmt.Errorf("flag=%q is none of %s", name, strings.Join(known, ", "))
		}
		f.Flags |= flagNames[i].flag
	}
	if s := v.Get("status"); s != "" {
		lo, hi, isRange := strings.Cut(s, "-")
		if !isRange {
			hi = lo
		}
		if len(s) == 3 && strings.HasSuffix(s, "xx") {
			lo, hi = s[:1]+"00", s[:1]+"99"
		}
		a, errA := strconv.ParseUint(lo, 10, 16)
		b, errB := strconv.ParseUint(hi, 10, 16)
		if errA != nil || errB != nil || a < 100 || b > 599 || a > b {
			return f, fmt.Errorf("status=%q is no status, such as 403, 4xx or 400-499", s)
		}
		f.MinStatus, f.MaxStatus = uint16(a), uint16(b)
	}
	if s := v.Get("client"); s != "" {
		if f.Client, err = netip.ParseAddr(s); err != nil {
			return f, fmt.Errorf("client=%q is no address", s)
		}
	}
	f.Limit = 50
	if s := v.Get("limit"); s != "" {
		if f.Limit, err = strconv.Atoi(s); err != nil || f.Limit < 1 || f.Limit > MaxCalls {
			return f, fmt.Errorf("limit=%q is no number from 1 to %d", s, MaxCalls)
		}
	}
	return f, nil
}
