package policy

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
)

// networkTable is networks with the place where each is written: its position in a list, or its line
// in a file.
type networkTable struct {
	table  bart.Table[int32]
	sorted []netip.Prefix
}

func (t *networkTable) add(n netip.Prefix, place int) {
	if _, ok := t.table.Get(n); !ok { // the first one counts
		t.table.Insert(n, int32(place))
		t.sorted = append(t.sorted, n)
	}
}

func (t *networkTable) done() { slices.SortFunc(t.sorted, netip.Prefix.Compare) }

// find is the narrowest network that holds a, and its place.
func (t *networkTable) find(a netip.Addr) (netip.Prefix, int, bool) {
	n, place, ok := t.table.LookupPrefixLPM(netip.PrefixFrom(a, a.BitLen()))
	return n, int(place), ok
}

// nearest is the network that shares the most leading bits with an address that lies in none. In the
// order of their addresses it stands beside that address.
func (t *networkTable) nearest(a netip.Addr) (best netip.Prefix, bits int) {
	i, _ := slices.BinarySearchFunc(t.sorted, a, func(n netip.Prefix, a netip.Addr) int { return n.Addr().Compare(a) })
	bits = -1
	for j := max(i-1, 0); j <= i && j < len(t.sorted); j++ {
		if n := t.sorted[j]; n.Addr().BitLen() == a.BitLen() {
			if same := commonBits(a, n.Addr()); same > bits {
				best, bits = n, same
			}
		}
	}
	return best, bits
}

// commonBits is how many leading bits two addresses of one family share.
func commonBits(a, b netip.Addr) (n int) {
	x, y := a.As16(), b.As16()
	for n < 128 && x[n/8]>>(7-n%8)&1 == y[n/8]>>(7-n%8)&1 {
		n++
	}
	return n
}

// networkSource is where the networks of a policy come from: its own list or a file.
type networkSource struct {
	fixed   *networkTable
	file    *followed[networkTable]
	field   string // "deny", "denyFiles[2]"
	at      *reason.Source
	each    []*reason.Source // of the entries of a fixed list
	written []string         // these entries
}

// networks are those in use at this moment.
func (s *networkSource) networks() *networkTable {
	if s.file == nil {
		return s.fixed
	}
	return s.file.now.Load() // a policy whose file was never read does not compile
}

// place is where an entry is written.
func (s *networkSource) place(i int) *reason.Source {
	if s.file == nil {
		return s.each[i]
	}
	return &reason.Source{Document: s.at.Document, Field: s.at.Field, File: s.file.path, Line: i}
}

// lists writes what the sources hold: networks of lists one by one, those of files counted.
func lists(sources []networkSource) (all []string) {
	for i := range sources {
		s := &sources[i]
		if s.file != nil {
			all = append(all, plural(len(s.networks().sorted), "network")+" of "+s.file.path)
			continue
		}
		all = append(all, s.written...)
	}
	return all
}

// Bounds of files of networks.
const (
	networkFileEntries = 100_000
	networkFileBytes   = 16 << 20
	networkFileLine    = 1024
)

// networkFile reads a list of networks: one on each line, and what follows # or ; is a comment.
func networkFile(path string) func(content []byte) (*networkTable, error) {
	return func(content []byte) (*networkTable, error) {
		t := &networkTable{}
		var problems resource.Problems
		for number := 1; len(content) > 0; number++ {
			var line []byte
			line, content, _ = bytes.Cut(content, []byte("\n"))
			if number == 1 {
				line = bytes.TrimPrefix(line, []byte("\ufeff"))
			}
			if i := bytes.IndexAny(line, "#;"); i >= 0 {
				line = line[:i]
			}
			entry := bytes.TrimSpace(line)
			if len(entry) == 0 {
				continue
			}
			var n resource.Prefix
			var err error
			if len(entry) > networkFileLine {
				err = &resource.TextError{Message: "the line is too long to be a network"}
			} else {
				err = n.UnmarshalText(entry)
			}
			if err != nil {
				p := resource.Problem{Pos: resource.Pos{File: path, Line: number, Col: 1 + bytes.Index(line, entry)}, Message: err.Error()}
				var text *resource.TextError
				if errors.As(err, &text) {
					p.Message, p.Hint = text.Message, text.Hint
				}
				problems = append(problems, p)
				if len(problems) == 20 { // a file of another kind
					break
				}
				continue
			}
			if len(t.sorted) == networkFileEntries {
				problems = append(problems, resource.Problem{Pos: resource.Pos{File: path, Line: number, Col: 1}, Message: "this is network 100,001; a file may hold 100,000",
					Hint: "join neighbouring networks, or split the file"})
				break
			}
			t.add(n.Prefix, number)
		}
		if len(problems) > 0 {
			return nil, problems
		}
		t.done()
		return t, nil
	}
}
