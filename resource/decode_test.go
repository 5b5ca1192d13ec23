package resource

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// level is a type that another package might bring: one word with its own rules.
type level int

func (l *level) UnmarshalText(b []byte) error {
	for i, name := range []string{"low", "high"} {
		if name == string(b) {
			*l = level(i)
			return nil
		}
	}
	return errors.New("wanted low or high")
}

// pair decodes itself.
type pair struct{ A, B string }

func (p *pair) DecodeNode(n Node, ps *Problems) {
	var text string
	Decode(n, &text, ps)
	var ok bool
	if p.A, p.B, ok = strings.Cut(text, "="); !ok {
		*ps = append(*ps, n.Problem("", "wanted a=b", ""))
	}
}

type nested struct {
	Needed string `json:"needed" required:"true" example:"x"`
	Count  int    `json:"count" default:"3" min:"1" max:"9"`
}

type optional struct {
	Wait  Duration `json:"wait" default:"5s" min:"1s"`
	Inner struct {
		Deep string `json:"deep" default:"d"`
	} `json:"inner"`
}

type embedded struct {
	Shared string `json:"shared" default:"s"`
}

type config struct {
	embedded
	Text    string            `json:"text"`
	Enum    string            `json:"enum" enum:"red,green" default:"red"`
	Pattern string            `json:"pattern" pattern:"^[a-z]+$"`
	Formed  string            `json:"formed" pattern:"^[a-z]+$" form:"small letters" example:"abc"`
	Flag    bool              `json:"flag" default:"true"`
	Int     int               `json:"int" min:"-5" max:"5"`
	Small   int8              `json:"small"`
	Uint    uint16            `json:"uint"`
	Float   float64           `json:"float" min:"0" max:"1"`
	Wait    Duration          `json:"wait" default:"1m" min:"1s" max:"1h"`
	Size    Size              `json:"size" default:"1KiB" min:"64B" unlimited:"true"`
	Net     Prefix            `json:"net" default:"10.0.0.0/8"`
	Time    Time              `json:"time"`
	Level   level             `json:"level" default:"high"`
	Pair    pair              `json:"pair"`
	Any     any               `json:"any"`
	Raw     Node              `json:"raw"`
	List    []string          `json:"list" default:"[a, b]" enum:"a,b,c"`
	Ints    []int             `json:"ints" min:"100" max:"599"`
	Map     map[string]string `json:"map" pattern:"^[a-z]+$"`
	Structs []optional        `json:"structs"`
	Pointer *nested           `json:"pointer"`
	Bool    *bool             `json:"bool"`
	Inside  optional          `json:"inside"`
	Ignored string            `json:"-"`

	//lint:ignore U1000 unexported fields are passed over
	hidden int
}

func defaults() config {
	c := config{embedded: embedded{"s"}, Enum: "red", Flag: true, Wait: Duration(time.Minute), Size: 1024, Level: 1, List: []string{"a", "b"}}
	c.Net.UnmarshalText([]byte("10.0.0.0/8"))
	c.Inside.Wait, c.Inside.Inner.Deep = Duration(5*time.Second), "d"
	return c
}

// node reads the first document of a text.
func node(t testing.TB, text string) Node {
	t.Helper()
	n, ps := ParseNode(File{"t.yaml", []byte(text)})
	if len(ps) > 0 {
		t.Fatal(ps)
	}
	return n
}

var compare = cmp.Options{cmp.AllowUnexported(config{}, pair{}), cmpopts.IgnoreFields(config{}, "Raw", "hidden"), cmpopts.IgnoreTypes(Node{})}

// TestRules has for each rule a text that keeps it and one that does not.
func TestRules(t *testing.T) {
	yes, no := true, false
	tests := []struct {
		text     string
		want     func(*config) // nil: the defaults
		problems string        // without the file, one on each line
	}{
		{"", nil, ""},
		{"text: ", nil, ""},
		{"text: abc", func(c *config) { c.Text = "abc" }, ""},
		{"text: ''", nil, ""},
		{"text: 2026-01-01", func(c *config) { c.Text = "2026-01-01" }, ""},
		{"text: yes", func(c *config) { c.Text = "yes" }, ""},
		{"text: 12", nil, "1:7: text: wanted text, found the number 12"},
		{"text: 1.2", nil, "1:7: text: wanted text, found the number 1.2"},
		{"text: true", nil, "1:7: text: wanted text, found true"},
		{"text: [a]", nil, "1:7: text: wanted text, found a list"},
		{"text: {a: b}", nil, "1:7: text: wanted text, found fields"},
		{"shared: x", func(c *config) { c.Shared = "x" }, ""},
		{"enum: green", func(c *config) { c.Enum = "green" }, ""},
		{"enum: gren", func(c *config) { c.Enum = "gren" }, `1:7: enum: wanted red or green, found "gren"`},
		{"enum: Green", func(c *config) { c.Enum = "Green" }, `1:7: enum: wanted red or green, found "Green"`},
		{"pattern: abc", func(c *config) { c.Pattern = "abc" }, ""},
		{"pattern: ABC", func(c *config) { c.Pattern = "ABC" }, `1:10: pattern: wanted text that matches ^[a-z]+$, found "ABC"`},
		{"formed: ABC", func(c *config) { c.Formed = "ABC" }, `1:9: formed: wanted small letters, found "ABC"`},
		{"flag: false", func(c *config) { c.Flag = false }, ""},
		{"flag: TRUE", nil, ""},
		{"flag: no", nil, `1:7: flag: wanted true or false, found text "no"`},
		{"flag: 'false'", nil, `1:7: flag: wanted true or false, found text "false"`},
		{"int: 5", func(c *config) { c.Int = 5 }, ""},
		{"int: +5", func(c *config) { c.Int = 5 }, ""},
		{"int: 0x5", func(c *config) { c.Int = 5 }, ""},
		{"int: -5", func(c *config) { c.Int = -5 }, ""},
		{"int: 6", func(c *config) { c.Int = 6 }, "1:6: int: wanted at most 5, found 6"},
		{"int: -6", func(c *config) { c.Int = -6 }, "1:6: int: wanted at least -5, found -6"},
		{"int: 05", nil, "1:6: int: wanted a whole number, found 05"},
		{"int: 1_000", nil, `1:6: int: wanted a whole number, found text "1_000"`},
		{"int: 1.0", nil, "1:6: int: wanted a whole number, found the number 1.0"},
		{"int: '5'", nil, `1:6: int: wanted a whole number, found text "5"`},
		{"int: unlimited", nil, "1:6: int: cannot be unlimited"},
		{"small: 127", func(c *config) { c.Small = 127 }, ""},
		{"small: 128", nil, "1:8: small: wanted a whole number of at most 8 bits, found 128, which is out of range"},
		{"uint: 65535", func(c *config) { c.Uint = 65535 }, ""},
		{"uint: -1", nil, "1:7: uint: wanted a whole number of at most 16 bits, found -1"},
		{"float: 0.5", func(c *config) { c.Float = 0.5 }, ""},
		{"float: 1", func(c *config) { c.Float = 1 }, ""},
		{"float: 1e-3", func(c *config) { c.Float = 0.001 }, ""},
		{"float: 1.01", func(c *config) { c.Float = 1.01 }, "1:8: float: wanted at most 1, found 1.01"},
		{"float: .inf", func(c *config) { c.Float = 0 }, "1:8: float: wanted a number, found .inf"},
		{"float: .nan", func(c *config) { c.Float = 0 }, "1:8: float: wanted a number, found .nan"},
		{"wait: 90s", func(c *config) { c.Wait = Duration(90 * time.Second) }, ""},
		{"wait: 90", func(c *config) { c.Wait = 0 }, `1:7: wait: wanted a duration such as 30s, found "90"`},
		{"wait: 2h", func(c *config) { c.Wait = Duration(2 * time.Hour) }, "1:7: wait: wanted at most 1h, found 2h"},
		{"wait: 0", func(c *config) { c.Wait = 0 }, "1:7: wait: wanted at least 1s, found 0"},
		{"wait: unlimited", func(c *config) { c.Wait = 0 }, "1:7: wait: cannot be unlimited"},
		{"size: 2KiB", func(c *config) { c.Size = 2048 }, ""},
		{"size: 2048", func(c *config) { c.Size = 2048 }, ""},
		{"size: unlimited", func(c *config) { c.Size = Unlimited }, ""},
		{"size: 1", func(c *config) { c.Size = 1 }, "1:7: size: wanted at least 64B, found 1"},
		{"net: ::1", func(c *config) { c.Net.UnmarshalText([]byte("::1/128")) }, ""},
		{"net: 10.0.0.1/8", func(c *config) { c.Net = Prefix{} }, `1:6: net: "10.0.0.1/8" names an address inside of a network`},
		{"time: 2026-11-22", func(c *config) { c.Time.Time = time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC) }, ""},
		{"time: 22.11.2026", nil, `1:7: time: wanted a time such as 2026-11-22T09:40:00Z or 2026-11-22, found "22.11.2026"`},
		{"level: low", func(c *config) { c.Level = 0 }, ""},
		{"level: middle", func(c *config) { c.Level = 0 }, "1:8: level: wanted low or high"},
		{"level: {}", func(c *config) { c.Level = 0 }, "1:8: level: wanted text, found fields"},
		{"pair: a=b", func(c *config) { c.Pair = pair{"a", "b"} }, ""},
		{"pair: ab", func(c *config) { c.Pair.A = "ab" }, "1:7: wanted a=b"},
		{"pair: 5", nil, "1:7: pair: wanted text, found the number 5\n1:7: wanted a=b"},
		{"any: {a: [1, 1.5, x, true, null], b: {}}", func(c *config) {
			c.Any = map[string]any{"a": []any{int64(1), 1.5, "x", true, nil}, "b": map[string]any{}}
		}, ""},
		{"any: [010]", func(c *config) { c.Any = []any{nil} }, "1:7: any: 010 begins with 0, which some read as octal"},
		{"list: [c]", func(c *config) { c.List = []string{"c"} }, ""},
		{"list: []", func(c *config) { c.List = []string{} }, ""},
		{"list: [c, x]", func(c *config) { c.List = []string{"c", "x"} }, `1:11: list: wanted a, b or c, found "x"`},
		{"list: [c, ~]", func(c *config) { c.List = []string{"c", ""} }, "1:11: list: an item of the list is empty"},
		{"list: c", func(c *config) { c.List = nil }, `1:7: list: wanted a list of list, found text "c"`},
		{"ints: [200, 404]", func(c *config) { c.Ints = []int{200, 404} }, ""},
		{"ints: [99, 600]", func(c *config) { c.Ints = []int{99, 600} }, "1:8: ints: wanted at least 100, found 99\n1:12: ints: wanted at most 599, found 600"},
		{"map: {A: b}", func(c *config) { c.Map = map[string]string{"A": "b"} }, ""},
		{"map: {a: B}", func(c *config) { c.Map = map[string]string{"a": "B"} }, `1:10: map.a: wanted text that matches ^[a-z]+$, found "B"`},
		{"map: [a]", nil, `1:6: map: wanted names and values ("name: value"), found a list`},
		{"structs: [{}, {wait: 7s}]", func(c *config) {
			a, b := optional{Wait: Duration(5 * time.Second)}, optional{Wait: Duration(7 * time.Second)}
			a.Inner.Deep, b.Inner.Deep = "d", "d"
			c.Structs = []optional{a, b}
		}, ""},
		{"pointer: {needed: x}", func(c *config) { c.Pointer = &nested{"x", 3} }, ""},
		{"pointer: {count: 0}", func(c *config) { c.Pointer = &nested{"", 0} }, "1:18: count: wanted at least 1, found 0\n1:10: \"needed\" is missing"},
		{"pointer: {needed: ''}", func(c *config) { c.Pointer = &nested{"", 3} }, "1:19: needed: must not be empty"},
		{"pointer: {needed: }", func(c *config) { c.Pointer = &nested{"", 3} }, "1:11: \"needed\" is missing"},
		{"pointer: {}", func(c *config) { c.Pointer = &nested{"", 3} }, "1:10: \"needed\" is missing"},
		{"pointer: null", nil, ""},
		{"bool: true", func(c *config) { c.Bool = &yes }, ""},
		{"bool: false", func(c *config) { c.Bool = &no }, ""},
		{"inside: {inner: {deep: x}}", func(c *config) { c.Inside.Inner.Deep = "x" }, ""},
		{"inside: 5", nil, `1:9: inside: wanted fields such as "wait: …", found the number 5`},
		{"inside: {wait: 1ms}", func(c *config) { c.Inside.Wait = Duration(time.Millisecond) }, "1:16: wait: wanted at least 1s, found 1ms"},
		{"Ignored: x", nil, `1:1: unknown field "Ignored"`},
		{"hidden: 1", nil, `1:1: unknown field "hidden"`},
		{"- a", nil, `1:1: wanted fields such as "shared: …", found a list`},
		{"a: 1\nb: 2\nint: 9", func(c *config) { c.Int = 9 }, "1:1: unknown field \"a\"\n2:1: unknown field \"b\"\n3:6: int: wanted at most 5, found 9"},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			want := defaults()
			if tt.want != nil {
				tt.want(&want)
			}
			var got config
			var ps Problems
			Decode(node(t, tt.text), &got, &ps)
			var lines []string
			for _, p := range ps {
				lines = append(lines, fmt.Sprintf("%d:%d: %s", p.Line, p.Col, p.Message))
			}
			if diff := cmp.Diff(tt.problems, strings.Join(lines, "\n")); diff != "" {
				t.Errorf("problems:\n%s", diff)
			}
			// A value that was refused may be zero instead of the default.
			if diff := cmp.Diff(want, got, compare); diff != "" && tt.problems == "" {
				t.Errorf("value:\n%s", diff)
			}
		})
	}
}

func TestZeroNodeGivesDefaults(t *testing.T) {
	var got config
	var ps Problems
	Decode(Node{}, &got, &ps)
	if diff := cmp.Diff(defaults(), got, compare); diff != "" || len(ps) > 0 {
		t.Errorf("%s\n%v", diff, ps)
	}
	var n nested
	Decode(Node{}, &n, &ps)
	if n.Count != 3 || len(ps) != 1 || ps[0].String() != `error: "needed" is missing` {
		t.Errorf("%+v %v", n, ps)
	}
}

// TestDefaultsAreNotShared: a list by default is a new one each time.
func TestDefaultsAreNotShared(t *testing.T) {
	var a, b config
	var ps Problems
	Decode(Node{}, &a, &ps)
	Decode(Node{}, &b, &ps)
	a.List[0] = "changed"
	if b.List[0] != "a" {
		t.Error("two configs share the default list")
	}
}

func TestPolicyEntries(t *testing.T) {
	set, ps := Parse(File{"a.yaml", []byte(`apiVersion: whygate/v1
kind: API
metadata: {name: orders}
spec:
  policies:
    - cors
    - cors:
    - rate-limit: {requests: 100}
      name: per-minute
      shadow: true
    - {name: per-minute, off: true}
    - limit: {needed: x, count: 12}
  routes:
    - path: /
      policies: [{limit: }]
`)})
	if len(ps) > 0 {
		t.Fatal(ps)
	}
	type entry struct {
		Kind, Name, Path, Pos string
		Shadow, Off, Zero     bool
	}
	var got []entry
	api := set.APIs[0]
	for _, e := range append(api.Spec.Policies, api.Spec.Routes[0].Policies...) {
		got = append(got, entry{e.Kind, e.Name, e.Config.Path(), e.Config.Pos().String(), e.Shadow, e.Off, e.Config.IsZero()})
	}
	want := []entry{
		{"cors", "", "spec.policies[0].cors", "a.yaml:6:7", false, false, true},
		{"cors", "", "spec.policies[1].cors", "a.yaml:7:7", false, false, true},
		{"rate-limit", "per-minute", "spec.policies[2].rate-limit", "a.yaml:8:19", true, false, false},
		{"", "per-minute", "", "", false, true, true},
		{"limit", "", "spec.policies[4].limit", "a.yaml:12:14", false, false, false},
		{"limit", "", "spec.routes[0].policies[0].limit", "a.yaml:15:19", false, false, true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if p := api.Spec.Policies[3].Node(); p.Path() != "spec.policies[3]" || p.Document() != "API/orders" {
		t.Errorf("entry is at %q of %q", p.Path(), p.Document())
	}

	// A policy decodes its settings by the same rules, later.
	var c nested
	Decode(api.Spec.Policies[4].Config, &c, &ps)
	Decode(api.Spec.Routes[0].Policies[0].Config, &c, &ps)
	Decode(api.Spec.Policies[2].Config, &c, &ps)
	want2 := []string{
		"a.yaml:12:33: error: count: wanted at most 9, found 12",
		`a.yaml:15:19: error: "needed" is missing`,
		`a.yaml:8:20: error: unknown field "requests"`,
		`a.yaml:8:19: error: "needed" is missing`,
	}
	var lines []string
	for _, p := range ps {
		lines = append(lines, p.String())
	}
	if diff := cmp.Diff(want2, lines); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeStopsCounting(t *testing.T) {
	text := "{" + strings.Repeat("x", 10)
	for i := range 5000 {
		text += fmt.Sprintf(", x%d: 1", i)
	}
	var c config
	var ps Problems
	Decode(node(t, text+"}"), &c, &ps)
	if len(ps) != maxProblems {
		t.Errorf("%d problems", len(ps))
	}
}

// TestWrongTags: a wrong tag is a bug of ours, found before any document is read.
func TestWrongTags(t *testing.T) {
	for _, v := range []any{
		struct {
			A int `json:"a" min:"x"`
		}{},
		struct {
			A int `json:"a" default:"x"`
		}{},
		struct {
			A int `json:"a" min:"5" default:"3"`
		}{},
		struct {
			A string `json:"a" enum:"x,y" default:"z"`
		}{},
		struct {
			A string `json:"a" pattern:"("`
		}{},
		struct {
			A string `json:"a" min:"1"`
		}{},
		struct{ A string }{},
		struct {
			A time.Duration `json:"a"`
		}{},
		struct {
			A chan int `json:"a"`
		}{},
		struct {
			embedded
			B string `json:"shared"`
		}{},
	} {
		func() {
			defer func() {
				if r := recover(); r == nil || !strings.HasPrefix(fmt.Sprint(r), "BUG: ") {
					t.Errorf("%T: %v", v, r)
				}
			}()
			var ps Problems
			Decode(Node{}, reflect.New(reflect.TypeOf(v)).Interface(), &ps)
		}()
	}
}
