package resource

import (
	"encoding"
	"encoding/json"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"
)

// scalars are texts with what they are written back as, or else the error.
var scalars = []struct {
	new   func() scalar
	texts [][2]string
	wrong [][2]string // with a part of the error
}{
	{func() scalar { return new(Duration) }, [][2]string{
		{"0", "0s"}, {"0s", "0s"}, {"250ms", "250ms"}, {"30s", "30s"}, {"1m30s", "1m30s"}, {"2h", "2h"}, {"1d", "1d"}, {"30d", "30d"},
		{"90s", "1m30s"}, {"1.5h", "1h30m"}, {"36h", "1d12h"}, {"1d12h", "1d12h"}, {"1500ms", "1s500ms"}, {"10us", "10us"}, {"10µs", "10us"},
		{"7ns", "7ns"}, {"0.5ns", "0s"}, {"unlimited", "unlimited"}, {"106751d", "106751d"},
	}, [][2]string{
		{"", "wanted a duration"}, {"30", "write 30s"}, {"-1s", "negative"}, {"s", "wanted"}, {"1x", "the units are"}, {"1m1h", "larger units first"},
		{"1s1s", "each one once"}, {"1.2.3s", "the units are"}, {" 1s", "wanted"}, {"1 s", "the units are"}, {"106752d", "the longest"},
		{"99999999999999999999999999999999999999999999s", "the longest"}, {"1w", "the units are"}, {"1S", "the units are"}, {"Unlimited", "wanted"},
	}},
	{func() scalar { return new(Size) }, [][2]string{
		{"0", "0"}, {"512", "512"}, {"512B", "512"}, {"64KiB", "64KiB"}, {"64 KiB", "64KiB"}, {"1.5MiB", "1536KiB"}, {"10MB", "10MB"}, {"1kB", "1kB"},
		{"1KB", "1kB"}, {"1GiB", "1GiB"}, {"1024GiB", "1TiB"}, {"3TB", "3TB"}, {"1000", "1kB"}, {"unlimited", "unlimited"},
	}, [][2]string{
		{"", "wanted a size"}, {"64k", "write 64KiB"}, {"64Ki", "write 64KiB"}, {"64kib", "write 64KiB"}, {"1m", "write 1MiB"}, {"1 gib", "write 1GiB"},
		{"-1", "negative"}, {"KiB", "wanted"}, {"1  KiB", "the units"}, {"1e3", "the units"}, {"9999999TiB", "the largest"}, {"1PiB", "the units"},
	}},
	{func() scalar { return new(Prefix) }, [][2]string{
		{"10.0.0.0/8", "10.0.0.0/8"}, {"10.0.0.1", "10.0.0.1/32"}, {"::1", "::1/128"}, {"2001:db8::/32", "2001:db8::/32"}, {"0.0.0.0/0", "0.0.0.0/0"},
		{"2001:DB8:0::/32", "2001:db8::/32"},
	}, [][2]string{
		{"", "wanted a network"}, {"10.0.0.1/8", "write 10.0.0.0/8 for the network, or 10.0.0.1 for the address"}, {"10.0.0.0/33", "from 0 to 32"},
		{"::/129", "from 0 to 128"}, {"10.0.0", "wanted"}, {"fe80::1%eth0", "zone"}, {"::ffff:10.0.0.1", "write 10.0.0.1/32"}, {"::ffff:10.0.0.0/104", "write 10.0.0.0/8"},
		{"::ffff:0:0/80", "IPv4"}, {"10.0.0.0/-1", "from 0 to 32"}, {"localhost", "wanted"}, {"10.0.0.0/08", "from 0 to 32"},
	}},
	{func() scalar { return new(Time) }, [][2]string{
		{"", ""}, {"2026-11-22", "2026-11-22T00:00:00Z"}, {"2026-11-22T09:40:00Z", "2026-11-22T09:40:00Z"}, {"2026-11-22t09:40:00z", "2026-11-22T09:40:00Z"},
		{"2026-11-22T09:40:00+01:00", "2026-11-22T09:40:00+01:00"}, {"2026-11-22T09:40:00.5Z", "2026-11-22T09:40:00.5Z"}, {"2024-02-29", "2024-02-29T00:00:00Z"},
	}, [][2]string{
		{"2026-11-22T09:40:00", "write 2026-11-22T09:40:00Z for UTC"}, {"2026-11-22 09:40:00", "write 2026-11-22T09:40:00Z"}, {"2026-02-29", "wanted a time"},
		{"22.11.2026", "wanted a time"}, {"2026-11-22T24:00:00Z", "wanted"}, {"2026-11-22T09:40:00+25:00", "wanted"}, {"tomorrow", "wanted"},
	}},
}

type scalar interface {
	encoding.TextMarshaler
	encoding.TextUnmarshaler
	Form() Form
}

func TestScalars(t *testing.T) {
	for _, s := range scalars {
		pattern := regexp.MustCompile(s.new().Form().Pattern)
		for _, c := range s.texts {
			v := s.new()
			if err := v.UnmarshalText([]byte(c[0])); err != nil {
				t.Errorf("%T %q: %v", v, c[0], err)
				continue
			}
			roundTrip(t, s.new, v, c[1])
			if c[0] != "" && c[0] != unlimited && !pattern.MatchString(c[0]) {
				t.Errorf("%T: the schema refuses %q", v, c[0])
			}
		}
		for _, c := range s.wrong {
			v := s.new()
			if err := v.UnmarshalText([]byte(c[0])); err == nil || !strings.Contains(err.Error(), c[1]) {
				t.Errorf("%T %q: got %v, want %q", v, c[0], err, c[1])
			}
		}
	}
}

func roundTrip(t *testing.T, fresh func() scalar, v scalar, want string) {
	t.Helper()
	text, err := v.MarshalText()
	if err != nil || string(text) != want {
		t.Errorf("%T writes %q, want %q (%v)", v, text, want, err)
	}
	back := fresh()
	if err := back.UnmarshalText(text); err != nil {
		t.Errorf("%T does not read what it wrote: %v", v, err)
	}
	if again, err := back.MarshalText(); err != nil || string(again) != string(text) {
		t.Errorf("%T writes %q, then %q (%v)", v, text, again, err)
	}
	j, err := json.Marshal(v)
	back = fresh()
	if err != nil || json.Unmarshal(j, back) != nil {
		t.Errorf("%T in JSON: %s (%v)", v, j, err)
	}
}

func TestScalarValues(t *testing.T) {
	var d Duration
	if d.UnmarshalText([]byte("1d12h0.5s")); d.D() != 36*time.Hour+500*time.Millisecond {
		t.Error(d.D())
	}
	var s Size
	if s.UnmarshalText([]byte("1.5MiB")); s != 1572864 {
		t.Error(int64(s))
	}
	if Duration(math.MaxInt64).String() == "" || Size(math.MaxInt64).String() == "" {
		t.Error("the largest values have no text")
	}
	if !(Time{}).IsZero() {
		t.Error("the zero Time is not zero")
	}
}

// fuzzScalar: what is read is written so that it reads back as the same.
func fuzzScalar(f *testing.F, i int) {
	for _, c := range append(scalars[i].texts, scalars[i].wrong...) {
		f.Add(c[0])
	}
	f.Fuzz(func(t *testing.T, text string) {
		v := scalars[i].new()
		if err := v.UnmarshalText([]byte(text)); err != nil {
			if err.Error() == "" {
				t.Error("an error that says nothing")
			}
			return
		}
		b, err := v.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, scalars[i].new, v, string(b))
	})
}

func FuzzDuration(f *testing.F) { fuzzScalar(f, 0) }
func FuzzSize(f *testing.F)     { fuzzScalar(f, 1) }
func FuzzPrefix(f *testing.F)   { fuzzScalar(f, 2) }
func FuzzTime(f *testing.F)     { fuzzScalar(f, 3) }
