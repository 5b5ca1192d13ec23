package reason

import (
	"fmt"
	"slices"
	"strings"
)

// Tier is how much of a record its reader may see. The record is written once;
// tiers only filter it. Each tier sees what the one before it sees, and more.
type Tier uint8

// The tiers. They read as "this fact may be told to …".
const (
	ToAnyone   Tier = iota + 1 // strangers: what a public manual would say
	ToCaller                   // an identified caller: their own values
	ToOwner                    // the owner of the API: rules, wanted values, near misses
	ToOperator                 // whoever runs the node: everything
)

var tiers = [...]string{ToAnyone: "anonymous", ToCaller: "caller", ToOwner: "owner", ToOperator: "operator"}

func (t Tier) String() string { return tiers[t] }

// MarshalText writes the tier's name.
func (t Tier) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads the tier's name.
func (t *Tier) UnmarshalText(b []byte) error {
	i := slices.Index(tiers[:], string(b))
	if i < 1 {
		return fmt.Errorf("tier %q is none of %s", b, strings.Join(tiers[1:], ", "))
	}
	*t = Tier(i)
	return nil
}
