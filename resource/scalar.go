package resource

import (
	"encoding"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Form describes a type that is written as one word or number, for messages, the
// JSON Schema and the reference. A type with UnmarshalText may have a method
// Form() Form; without one it is "text".
type Form struct {
	Words   string // with article: "a duration"
	Example string // "30s"
	Pattern string // of the text, a regular expression
	Number  bool   // a number without quotes will do, too
}

type former interface {
	encoding.TextUnmarshaler
	Form() Form
}

// TextError is an error of UnmarshalText that comes with a hint.
type TextError struct{ Message, Hint string }

func (e *TextError) Error() string {
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + ": " + e.Hint
}

func wanted(f Form, found string, hint string) error {
	return &TextError{fmt.Sprintf("wanted %s such as %s, found %s", f.Words, f.Example, clip(found)), hint}
}

// shorten cuts what a person wrote to what a message can hold.
func shorten(s string) string {
	const most = 60
	for i := range s {
		if most <= i {
			return s[:i] + "…"
		}
	}
	return s
}

// clip quotes what a person wrote, and shortens it.
func clip(s string) string {
	s = shorten(s)
	if strings.ContainsAny(s, `"\`) && strconv.CanBackquote(s) {
		return "`" + s + "`"
	}
	return strconv.Quote(s)
}

// Unlimited is the value of a Duration or Size that is written "unlimited".
const Unlimited = -1

const unlimited = "unlimited"

// Duration is a time span: "250ms", "30s", "1m30s", "2h", "1d", "30d", or 0. A
// day is 24 hours.
type Duration time.Duration

// Day is the largest unit of a Duration.
const Day = 24 * time.Hour

var durationUnits = []unit{{"d", int64(Day)}, {"h", int64(time.Hour)}, {"m", int64(time.Minute)}, {"s", int64(time.Second)},
	{"ms", int64(time.Millisecond)}, {"us", int64(time.Microsecond)}, {"µs", int64(time.Microsecond)}, {"μs", int64(time.Microsecond)}, {"ns", 1}}

type unit struct {
	name string
	n    int64
}

// Form describes durations.
func (Duration) Form() Form {
	return Form{"a duration", "30s", `^(0|([0-9]+(\.[0-9]+)?(d|h|ms|m|s|us|µs|ns))+)$`, false}
}

// D is the duration as the standard library has it.
func (d Duration) D() time.Duration { return time.Duration(d) }

// String is the text that reads back as d: "1m30s".
func (d Duration) String() string {
	if d == Unlimited {
		return unlimited
	}
	if d <= 0 {
		return "0s"
	}
	var b strings.Builder
	for _, u := range durationUnits {
		if n := int64(d) / u.n; n > 0 {
			b.WriteString(strconv.FormatInt(n, 10) + u.name)
			d -= Duration(n * u.n)
		}
	}
	return b.String()
}

// MarshalText writes d as String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a duration.
func (d *Duration) UnmarshalText(b []byte) error {
	s := string(b)
	switch {
	case s == "0":
		*d = 0
		return nil
	case s == unlimited:
		*d = Unlimited
		return nil
	case strings.HasPrefix(s, "-"):
		return wanted(d.Form(), s, "a duration cannot be negative")
	}
	var total int64
	last := int64(math.MaxInt64)
	for rest := s; ; {
		digits := numberPrefix(rest)
		name := rest[len(digits):]
		if i := strings.IndexAny(name, "0123456789."); i >= 0 {
			name = name[:i]
		}
		rest = rest[len(digits)+len(name):]
		u := findUnit(durationUnits, name)
		switch {
		case digits == "":
			return wanted(d.Form(), s, "")
		case name == "" && rest == "":
			return wanted(d.Form(), s, fmt.Sprintf("a unit is missing: write %ss for seconds, or one of d, h, m, s, ms", shorten(s)))
		case u == 0:
			return wanted(d.Form(), s, "the units are d, h, m, s, ms, us and ns")
		case u >= last:
			return wanted(d.Form(), s, "write larger units first, and each one once")
		}
		n, ok := multiply(digits, u)
		if !ok || n > math.MaxInt64-total {
			return wanted(d.Form(), s, "the longest duration is "+Duration(math.MaxInt64/int64(Day)*int64(Day)).String())
		}
		total, last = total+n, u
		if rest == "" {
			*d = Duration(total)
			return nil
		}
	}
}

// numberPrefix is the decimal number that s begins with: "1.5" of "1.5MiB".
func numberPrefix(s string) string {
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] == '.' && i > 0 && strings.IndexByte(s[:i], '.') < 0) {
		i++
	}
	return strings.TrimSuffix(s[:i], ".")
}

func findUnit(units []unit, name string) int64 {
	for _, u := range units {
		if u.name == name {
			return u.n
		}
	}
	return 0
}

// multiply is digits, which may have a fraction, times u, cut to a whole number.
func multiply(digits string, u int64) (int64, bool) {
	if len(digits) > 40 {
		return 0, false
	}
	r, ok := new(big.Rat).SetString(digits)
	if !ok {
		return 0, false
	}
	r.Mul(r, new(big.Rat).SetInt64(u))
	n := new(big.Int).Quo(r.Num(), r.Denom())
	return n.Int64(), n.IsInt64()
}

// Size is a number of bytes: "512", "64KiB", "1.5MiB", "10MB". KiB, MiB, GiB and
// TiB are powers of 1024; kB, MB, GB and TB are powers of 1000.
type Size int64

var sizeUnits = []unit{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1}, {"", 1}}

// Form describes sizes.
func (Size) Form() Form {
	return Form{"a size", "64KiB", `^[0-9]+(\.[0-9]+)? ?([KMGT]iB|[kKMGT]B|B)?$`, true}
}

// String is the shortest text that reads back as s: "64KiB".
func (s Size) String() string {
	switch {
	case s == Unlimited:
		return unlimited
	case s == 0:
		return "0"
	}
	best := strconv.FormatInt(int64(s), 10)
	for _, u := range slices.Backward(sizeUnits[:8]) {
		if text := strconv.FormatInt(int64(s)/u.n, 10) + u.name; int64(s)%u.n == 0 && len(text) <= len(best) {
			best = text
		}
	}
	return best
}

// MarshalText writes s as String does.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a size.
func (s *Size) UnmarshalText(b []byte) error {
	t := string(b)
	switch {
	case t == unlimited:
		*s = Unlimited
		return nil
	case strings.HasPrefix(t, "-"):
		return wanted(s.Form(), t, "a size cannot be negative")
	}
	digits := numberPrefix(t)
	name := strings.TrimPrefix(t[len(digits):], " ")
	u := findUnit(sizeUnits, name)
	if digits == "" {
		return wanted(s.Form(), t, "")
	}
	if u == 0 {
		hint := "the units are B, KiB, MiB, GiB, TiB (powers of 1024) and kB, MB, GB, TB (powers of 1000)"
		for _, known := range sizeUnits[:4] { // 64k, 64K, 64Ki, 64kib
			if l := strings.ToLower(name); l == strings.ToLower(known.name[:1]) || l == strings.ToLower(known.name[:2]) || l == strings.ToLower(known.name) {
				hint = fmt.Sprintf("write %s%s", shorten(digits), known.name)
			}
		}
		return wanted(s.Form(), t, hint)
	}
	n, ok := multiply(digits, u)
	if !ok {
		return wanted(s.Form(), t, "the largest size is "+strconv.FormatInt(math.MaxInt64>>40, 10)+"TiB")
	}
	*s = Size(n)
	return nil
}

// Prefix is a network: "10.0.0.0/8", "2001:db8::/32". A bare address is the network of
// that address alone.
type Prefix struct{ netip.Prefix }

// Form describes networks.
func (Prefix) Form() Form {
	return Form{"a network", "10.0.0.0/8", `^[0-9A-Fa-f]*[.:][0-9A-Fa-f.:]*(/[0-9]{1,3})?$`, false}
}

// Equal says that both are the same network.
func (p Prefix) Equal(q Prefix) bool { return p.Prefix == q.Prefix }

// MarshalText writes the network, "" for the zero Prefix.
func (p Prefix) MarshalText() ([]byte, error) { return p.Prefix.MarshalText() }

// UnmarshalText reads a network or an address.
func (p *Prefix) UnmarshalText(b []byte) error {
	s := string(b)
	var n netip.Prefix
	addr, err := netip.ParseAddr(s)
	if err == nil {
		n, err = addr.Prefix(addr.BitLen())
	} else {
		n, err = netip.ParsePrefix(s)
	}
	switch {
	case addr.Zone() != "":
		return wanted(p.Form(), s, "an address with a zone is known to one machine only: leave out "+clip("%"+addr.Zone()))
	case err != nil && strings.Contains(s, "/") && prefixAddr(s).IsValid():
		return wanted(p.Form(), s, fmt.Sprintf("the number after / goes from 0 to %d", prefixAddr(s).BitLen()))
	case err != nil:
		return wanted(p.Form(), s, "")
	case n.Addr().Is4In6():
		hint := ""
		if n.Bits() >= 96 {
			hint = "write " + netip.PrefixFrom(n.Addr().Unmap(), n.Bits()-96).Masked().String()
		}
		return &TextError{fmt.Sprintf("%s is an IPv4 network written as IPv6, which matches no call", clip(s)), hint}
	case n != n.Masked():
		return &TextError{fmt.Sprintf("%s names an address inside of a network", clip(s)),
			fmt.Sprintf("write %s for the network, or %s for the address", n.Masked(), n.Addr())}
	}
	p.Prefix = n
	return nil
}

// prefixAddr is the address before the slash.
func prefixAddr(s string) netip.Addr {
	s, _, _ = strings.Cut(s, "/")
	a, _ := netip.ParseAddr(s)
	return a
}

// Percent is a share: "10%", "0.5%". Zero stands for one that is not set.
type Percent float64

// Form describes shares.
func (Percent) Form() Form {
	return Form{"a share in percent", "10%", `^([0-9]{1,3}(\.[0-9]+)?%)?$`, false}
}

// String is the text that reads back as p.
func (p Percent) String() string {
	if p == 0 {
		return ""
	}
	return strconv.FormatFloat(float64(p), 'f', -1, 64) + "%"
}

// MarshalText writes p as String does.
func (p Percent) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a share above 0 and up to 100.
func (p *Percent) UnmarshalText(b []byte) error {
	s := string(b)
	if s == "" {
		*p = 0
		return nil
	}
	digits, ok := strings.CutSuffix(s, "%")
	if !ok {
		return wanted(p.Form(), s, "add the sign %")
	}
	f, err := strconv.ParseFloat(digits, 64)
	switch {
	case err != nil || strings.ContainsAny(digits, "eExX_+-naifNAIF"):
		return wanted(p.Form(), s, "")
	case f <= 0:
		return wanted(p.Form(), s, "for none of them, write shadow: true")
	case f > 100:
		return wanted(p.Form(), s, "100% is the most")
	}
	*p = Percent(f)
	return nil
}

// Time is a moment: "2026-11-22T09:40:00Z", or "2026-11-22" for midnight UTC of that day.
type Time struct{ time.Time }

// Form describes times.
func (Time) Form() Form {
	return Form{"a time", "2026-11-22T09:40:00Z or 2026-11-22",
		`^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2}))?$`, false}
}

// MarshalText writes the time in RFC 3339, "" for the zero Time.
func (t Time) MarshalText() ([]byte, error) {
	if t.IsZero() {
		return nil, nil
	}
	return t.Time.MarshalText()
}

// MarshalJSON writes the time as MarshalText does.
func (t Time) MarshalJSON() ([]byte, error) {
	b, err := t.MarshalText()
	return []byte(strconv.Quote(string(b))), err
}

// UnmarshalJSON reads what MarshalJSON writes.
func (t *Time) UnmarshalJSON(b []byte) error {
	s, err := strconv.Unquote(string(b))
	if err != nil {
		return wanted(t.Form(), string(b), "")
	}
	return t.UnmarshalText([]byte(s))
}

// UnmarshalText reads a time; "" is the zero Time.
func (t *Time) UnmarshalText(b []byte) error {
	s := string(b)
	if s == "" {
		*t = Time{}
		return nil
	}
	if day, err := time.Parse(time.DateOnly, s); err == nil {
		t.Time = day
		return nil
	}
	var at time.Time
	err := at.UnmarshalText([]byte(strings.ToUpper(s)))
	if err != nil {
		hint := ""
		if _, e := time.Parse("2006-01-02T15:04:05", strings.Replace(s, " ", "T", 1)); e == nil {
			hint = "write " + strings.Replace(s, " ", "T", 1) + "Z for UTC, or the offset such as +01:00"
		}
		return wanted(t.Form(), s, hint)
	}
	t.Time = at
	return nil
}
