package policy

import (
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/corazawaf/coraza/v3/types/variables"
)

// Lists in JSON say the same thing many times: the same values under the same names. The rules would look at each of
// them. So a long body is looked at without its repetitions first, and as
// a whole only where a rule had something to say of it.

// The bounds of bodies that are looked at without repetitions.
const (
	minReduced  = 512
	maxLevels   = 64   // SecRequestBodyJsonDepthLimit
	maxLeaves   = 1000 // SecArgumentsLimit
	maxFlatness = 8    // how much longer the engine lets the names and values be than the body
)

// reduceJSON takes the values out of a JSON body that stand under the same names in an earlier element of a list. It
// is not ok where that changes what the rules see in another way, or gains nothing.
func reduceJSON(body string) (reduced string, ok bool) {
	if len(body) < minReduced || levels(body) > maxLevels || !gjson.Valid(body) {
		return "", false
	}
	root := gjson.Parse(body)
	if root.Type != gjson.JSON {
		return "", false
	}
	r := reducer{out: make([]byte, 0, len(body)), seen: map[string]bool{}, names: map[string]bool{}}
	r.value(root)
	if r.unsure || r.leaves >= maxLeaves || r.bytes > maxFlatness*len(body) || r.kept > r.leaves*3/4 {
		return "", false
	}
	return string(r.out), true
}

// levels is how deep a JSON text nests, found without recursion.
func levels(s string) (most int) {
	depth, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
			most = max(most, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return most
}

type reducer struct {
	out          []byte
	name         []byte          // as the engine calls the value: .items.0.note
	place        []byte          // the same without positions in lists, and not ambiguous
	seen         map[string]bool // places with values
	names        map[string]bool
	leaves, kept int
	bytes        int
	// unsure is set where two values have one name: rules count those.
	unsure bool
}

// value writes a value, without what was seen before, and says whether anything was left of it.
func (r *reducer) value(v gjson.Result) bool {
	if v.Type != gjson.JSON {
		return r.leaf(v.Raw)
	}
	array := v.IsArray()
	begin, wrote, i := len(r.out), false, 0
	r.out = append(r.out, v.Raw[0])
	v.ForEach(func(key, value gjson.Result) bool {
		mark, name, place := len(r.out), len(r.name), len(r.place)
		if wrote {
			r.out = append(r.out, ',')
		}
		r.name = append(r.name, '.')
		if array {
			r.name = strconv.AppendInt(r.name, int64(i), 10)
			r.place = append(r.place, '*', 0)
			i++
		} else {
			r.name = append(r.name, strings.ToLower(key.Str)...)
			r.place = strconv.AppendQuote(r.place, key.Str)
			r.out = append(append(r.out, key.Raw...), ':')
		}
		if r.value(value) {
			wrote = true
		} else {
			r.out = r.out[:mark]
		}
		r.name, r.place = r.name[:name], r.place[:place]
		return !r.unsure && r.leaves < maxLeaves && r.bytes <= maxFlatness*cap(r.out)
	})
	if !wrote && begin > 0 {
		r.out = r.out[:begin]
		return false
	}
	if array {
		r.out = append(r.out, ']')
	} else {
		r.out = append(r.out, '}')
	}
	return true
}

func (r *reducer) leaf(raw string) bool {
	r.leaves++
	r.bytes += len("json") + len(r.name) + len(raw)
	if r.names[string(r.name)] {
		r.unsure = true
	}
	r.names[string(r.name)] = true
	end := len(r.place)
	r.place = append(append(r.place, 0), raw...)
	defer func() { r.place = r.place[:end] }()
	if r.seen[string(r.place)] {
		return false
	}
	r.seen[string(r.place)] = true
	r.kept++
	r.out = append(r.out, raw...)
	return true
}

// spoke says that a rule had something to say of parameters, or may have.
func spoke(tx wafTransaction) bool {
	if tx.Interruption() != nil || tx.Variables().RequestBodyError().Get() != "0" {
		return true
	}
	for _, m := range tx.MatchedRules() {
		if m.Rule().Severity() < 0 {
			continue
		}
		for _, d := range m.MatchedDatas() {
			switch d.Variable() {
			case variables.RequestHeaders, variables.RequestHeadersNames, variables.RequestCookies, variables.RequestCookiesNames, variables.RequestURI, variables.RequestURIRaw,
				variables.RequestFilename, variables.RequestBasename, variables.RequestMethod, variables.RequestProtocol, variables.RequestLine, variables.QueryString:
			default:
				return true
			}
		}
	}
	return false
}
