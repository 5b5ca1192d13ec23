package reason

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Bytes is a size in bytes. As text it reads "2.1 MiB".
type Bytes int64

// String writes the size with a binary unit, exact where it is whole.
func (b Bytes) String() string {
	const units = "KMGTPE"
	if b > -1024 && b < 1024 {
		return strconv.FormatInt(int64(b), 10) + " B"
	}
	f, i := float64(b)/1024, 0
	for ; (f >= 1024 || f <= -1024) && i < len(units)-1; i++ {
		f /= 1024
	}
	s := strconv.FormatFloat(f, 'f', 1, 64)
	return strings.TrimSuffix(s, ".0") + " " + units[i:i+1] + "iB"
}

// Hop is one row of the table that shows how the client's address was found.
type Hop struct {
	// Address as written there; it may be no address at all.
	Address string `json:"address"`
	// From is "socket", "PROXY", or the field and the position in it: "X-Forwarded-For[2]".
	From string `json:"from"`
	// Trusted says that this hop is one of the gateway's trusted proxies.
	Trusted bool `json:"trusted,omitempty"`
	// Chosen marks the row that became the client's address.
	Chosen bool `json:"chosen,omitempty"`
	// Why it was believed, skipped or ignored.
	Why string `json:"why,omitempty"`
}

// Source is where a wanted value is written.
type Source struct {
	Document string `json:"document,omitempty"` // "API/orders"
	Field    string `json:"field,omitempty"`    // "spec.policies[2].rate-limit.requests"
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"` // from 1
}

// String is "file:line", the form that editors open.
func (s *Source) String() string {
	switch {
	case s == nil:
		return ""
	case s.File == "":
		return s.Document
	}
	return s.File + ":" + strconv.Itoa(s.Line)
}

// Fact is one named value that a decision rested on.
type Fact struct {
	Name  string
	Value any // string, bool, int64, Bytes, time.Duration, time.Time, []string or []Hop
	Tier  Tier
	From  *Source // where a wanted value is written, if it is
}

// Facts are the facts of one verdict, in the order in which they were found.
type Facts []Fact

// Public is a fact that a public manual would tell: header names, methods.
func Public(name string, v any) Fact { return Fact{Name: name, Value: plain(v), Tier: ToAnyone} }

// Own is a fact about the identified caller that they may see.
func Own(name string, v any) Fact { return Fact{Name: name, Value: plain(v), Tier: ToCaller} }

// Rule is a fact about the API's rules: its owner sees it.
func Rule(name string, v any) Fact { return Fact{Name: name, Value: plain(v), Tier: ToOwner} }

// Inner is a fact about this node or other tenants: only the operator sees it.
func Inner(name string, v any) Fact { return Fact{Name: name, Value: plain(v), Tier: ToOperator} }

// At says where the fact's value is written.
func (f Fact) At(s *Source) Fact { f.From = s; return f }

// plain brings a value to one of the types a Fact may hold.
func plain(v any) any {
	switch v := v.(type) {
	case string, bool, int64, Bytes, time.Duration, time.Time, []string, []Hop:
		return v
	case int:
		return int64(v)
	case uint64:
		return int64(v)
	case netip.Addr, netip.Prefix, netip.AddrPort:
		return v.(fmt.Stringer).String()
	case []netip.Prefix:
		list := make([]string, len(v))
		for i, p := range v {
			list[i] = p.String()
		}
		return list
	case fmt.Stringer:
		return v.String()
	}
	panic(fmt.Sprintf("BUG: a fact cannot hold a %T", v))
}

// Find returns the named fact that tier t may see.
func (fs Facts) Find(name string, t Tier) (Fact, bool) {
	for _, f := range fs {
		if f.Name == name && f.Tier <= t {
			return f, true
		}
	}
	return Fact{}, false
}

// For returns the facts that tier t may see. It shares memory with fs when
// nothing had to be left out.
func (fs Facts) For(t Tier) Facts {
	for i, f := range fs {
		if f.Tier > t {
			out := append(Facts{}, fs[:i]...)
			for _, f := range fs[i+1:] {
				if f.Tier <= t {
					out = append(out, f)
				}
			}
			return out
		}
	}
	return fs
}

// Text is the value as a person reads it.
func (f Fact) Text() string {
	switch v := f.Value.(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case Bytes:
		return v.String()
	case time.Duration:
		return Span(v)
	case time.Time:
		return Stamp(v)
	case []string:
		return List(v)
	case []Hop:
		return hopText(v)
	}
	return fmt.Sprint(f.Value)
}

// Span writes a duration as people do: "1m", "2h30m", "340 ms", "12 s".
func Span(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + Span(-d)
	case d == 0:
		return "0 s"
	case d < time.Microsecond:
		return strconv.FormatInt(int64(d), 10) + " ns"
	case d < time.Millisecond:
		return trimFloat(float64(d)/float64(time.Microsecond)) + " µs"
	case d < time.Second:
		return trimFloat(float64(d)/float64(time.Millisecond)) + " ms"
	case d < time.Minute:
		return trimFloat(float64(d)/float64(time.Second)) + " s"
	}
	d = d.Round(time.Second)
	day := 24 * time.Hour
	var b strings.Builder
	for _, u := range []struct {
		d    time.Duration
		name string
	}{{day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if n := d / u.d; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			d -= n * u.d
		}
	}
	return b.String()
}

func trimFloat(f float64) string {
	s := strconv.FormatFloat(f, 'f', 2, 64)
	s = strings.TrimRight(s, "0")
	return strings.TrimSuffix(s, ".")
}

// Stamp writes a time to the second in UTC: "2026-11-22 09:40:00 UTC".
func Stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// List writes "a", "a or b", "a, b or c"; an empty list is "none".
func List(v []string) string {
	switch n := len(v); n {
	case 0:
		return "none"
	case 1:
		return v[0]
	default:
		return strings.Join(v[:n-1], ", ") + " or " + v[n-1]
	}
}

func hopText(hops []Hop) string {
	for _, h := range hops {
		if h.Chosen {
			s := h.Address + " (" + h.From
			if h.Why != "" {
				s += ", " + h.Why
			}
			return s + ")"
		}
	}
	return "unknown"
}

// Stored form. A fact keeps its type, so that a record read back renders to
// the same text as the live verdict did.
type storedFact struct {
	Name  string  `json:"n"`
	Kind  string  `json:"k"`
	Value any     `json:"v"`
	Tier  Tier    `json:"t"`
	From  *Source `json:"s,omitempty"`
}

// MarshalJSON writes the stored form. Answers to callers use Values instead.
func (f Fact) MarshalJSON() ([]byte, error) {
	s := storedFact{Name: f.Name, Value: f.Value, Tier: f.Tier, From: f.From}
	switch v := f.Value.(type) {
	case string:
		s.Kind = "text"
	case bool:
		s.Kind = "bool"
	case int64:
		s.Kind = "int"
	case Bytes:
		s.Kind = "bytes"
	case time.Duration:
		s.Kind = "span"
	case time.Time:
		s.Kind, s.Value = "time", v.UnixNano()
	case []string:
		s.Kind = "list"
	case []Hop:
		s.Kind = "hops"
	default:
		return nil, fmt.Errorf("fact %q holds a %T", f.Name, f.Value)
	}
	return json.Marshal(s)
}

// UnmarshalJSON reads the stored form.
func (f *Fact) UnmarshalJSON(b []byte) error {
	var s struct {
		storedFact
		Value json.RawMessage `json:"v"`
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	*f = Fact{Name: s.Name, Tier: s.Tier, From: s.From}
	switch s.Kind {
	case "text":
		return into[string](s.Value, &f.Value)
	case "bool":
		return into[bool](s.Value, &f.Value)
	case "int":
		return into[int64](s.Value, &f.Value)
	case "bytes":
		return into[Bytes](s.Value, &f.Value)
	case "span":
		return into[time.Duration](s.Value, &f.Value)
	case "time":
		var ns int64
		err := json.Unmarshal(s.Value, &ns)
		f.Value = time.Unix(0, ns)
		return err
	case "list":
		return into[[]string](s.Value, &f.Value)
	case "hops":
		return into[[]Hop](s.Value, &f.Value)
	}
	return fmt.Errorf("fact %q is of unknown kind %q", s.Name, s.Kind)
}

func into[T any](b json.RawMessage, dst *any) error {
	var v T
	err := json.Unmarshal(b, &v)
	*dst = v
	return err
}

// Values are the facts as an answer to a caller shows them: plain JSON values
// by name, sizes in bytes, durations in seconds, times in RFC 3339.
func (fs Facts) Values() map[string]any {
	m := make(map[string]any, len(fs))
	for _, f := range fs {
		switch v := f.Value.(type) {
		case Bytes:
			m[f.Name] = int64(v)
		case time.Duration:
			m[f.Name] = v.Seconds()
		case time.Time:
			m[f.Name] = v.UTC().Format(time.RFC3339)
		default:
			m[f.Name] = v
		}
	}
	return m
}
