package calllog

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestIDAsText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := ID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "a"))
		b := ID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "b"))
		if len(a.String()) != 26 {
			t.Fatalf("%q has not 26 characters", a.String())
		}
		for _, s := range []string{a.String(), strings.ToLower(a.String()), strings.NewReplacer("0", "o", "1", "l").Replace(a.String())} {
			if got, err := ParseID(s); err != nil || got != a {
				t.Fatalf("%q reads %v, %v", s, got, err)
			}
		}
		if a.less(b) != (a.String() < b.String()) {
			t.Fatalf("%s and %s do not sort like their bytes", a, b)
		}
		text, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		var back ID
		if err := json.Unmarshal(text, &back); err != nil || back != a || a.IsZero() != (a == ID{}) {
			t.Fatalf("%s reads %v, %v", text, back, err)
		}
	})
	at := time.UnixMilli(1772366400123)
	if id := NewID(at, 0xABCD, 7); !id.Time().Equal(at) || id.String() != "01KJMMA2KVNF6G000000000007" {
		t.Errorf("%s of %v", id, id.Time())
	}
	for _, s := range []string{"", "01KJMMA23V", "81KJMMA23VNF6G000000000007", "01KJMMA23VNF6G00000000000U", "01KJMMA23VNF6G0000000000077"} {
		if _, err := ParseID(s); err == nil {
			t.Errorf("%q is no id, but is read as one", s)
		}
	}
}
