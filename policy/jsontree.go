package policy

// jsonNode is a value of JSON that can be changed. What is not changed is written as it came: the order of
// names, numbers of any length.
type jsonNode struct {
	raw   []byte // of a scalar
	open  byte   // { or [, 0 for a scalar
	keys  [][]byte
	items []*jsonNode
}

// maxJSONNodes bounds what a tree takes: each node is some hundred bytes.
const maxJSONNodes = 100_000

// treeBounds are what a text is held to that becomes a tree.
var treeBounds = func() jsonBounds { b := asWritten; b.values = maxJSONNodes; return b }()

// parseTree reads one value.
func parseTree(b []byte) (*jsonNode, error) {
	s := jsonScans.Get().(*jsonScan)
	defer s.release()
	if s.begin(b, &treeBounds, false) {
		if n := s.tree(); n != nil && s.ended() {
			return n, nil
		}
	}
	return nil, s.fault.err()
}

// tree reads the value that begins here, nil if it is none.
func (s *jsonScan) tree() *jsonNode {
	c := s.peek()
	if c != '{' && c != '[' {
		raw, ok := s.skip()
		if !ok {
			return nil
		}
		return &jsonNode{raw: raw}
	}
	if !s.value("a value") {
		return nil
	}
	n := &jsonNode{open: c}
	for {
		done, ok := s.member()
		if !ok {
			return nil
		}
		if done {
			return n
		}
		if c == '{' {
			name, _ := s.name()
			n.keys = append(n.keys, name)
		}
		item := s.tree()
		if item == nil {
			return nil
		}
		n.items = append(n.items, item)
	}
}

// append writes the value without white space.
func (n *jsonNode) append(b []byte) []byte {
	if n.open == 0 {
		return append(b, n.raw...)
	}
	b = append(b, n.open)
	for i, item := range n.items {
		if i > 0 {
			b = append(b, ',')
		}
		if n.open == '{' {
			b = append(append(b, n.keys[i]...), ':')
		}
		b = item.append(b)
	}
	return append(b, n.open+2)
}

// size is the length of what append writes.
func (n *jsonNode) size() int {
	if n.open == 0 {
		return len(n.raw)
	}
	size := 2 + len(n.items)
	for i, item := range n.items {
		if n.open == '{' {
			size += len(n.keys[i]) + 1
		}
		size += item.size()
	}
	return size
}

// name is the name of a member, "" in arrays; position is the index in arrays, -1 in objects.
func (n *jsonNode) name(i int) (name string, position int) {
	if n.open == '{' {
		return unquote(n.keys[i]), -1
	}
	return "", i
}

// each calls f for what the path leads to: the object or array that it is in, and where.
func (n *jsonNode) each(path jsonPath, f func(in *jsonNode, i int)) {
	for i := len(n.items) - 1; i >= 0; i-- { // from behind, so that f may remove it
		name, position := n.name(i)
		if !path[0].matches(name, position) {
			continue
		}
		if len(path) == 1 {
			f(n, i)
		} else {
			n.items[i].each(path[1:], f)
		}
	}
}

// find is the first value that the path leads to, or nil.
func (n *jsonNode) find(path jsonPath) *jsonNode {
	if len(path) == 0 {
		return n
	}
	for i := range n.items {
		if name, position := n.name(i); path[0].matches(name, position) {
			if found := n.items[i].find(path[1:]); found != nil {
				return found
			}
		}
	}
	return nil
}

func (n *jsonNode) remove(i int) {
	n.items = append(n.items[:i], n.items[i+1:]...)
	if n.open == '{' {
		n.keys = append(n.keys[:i], n.keys[i+1:]...)
	}
}

// set puts a value where the path leads to, and makes the objects on the way to a name.
func (n *jsonNode) set(path jsonPath, v *jsonNode) {
	found := false
	for i := range n.items {
		name, position := n.name(i)
		if !path[0].matches(name, position) {
			continue
		}
		if len(path) == 1 {
			n.items[i] = v
		} else {
			n.items[i].set(path[1:], v)
		}
		found = true
	}
	if found || n.open != '{' || path[0].name == "" {
		return
	}
	item := v
	if len(path) > 1 {
		if path[1].name == "" {
			return
		}
		item = &jsonNode{open: '{'}
		item.set(path[1:], v)
	}
	n.keys = append(n.keys, appendQuoted(nil, path[0].name))
	n.items = append(n.items, item)
}
