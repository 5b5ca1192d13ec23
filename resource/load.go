package resource

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// Bounds of what is loaded; syntax.go bounds each document.
const (
	maxFileBytes = 16 << 20
	maxDocuments = 1_000_000
)

// Document is one document: its name, what it says, and where that is written.
type Document[T any] struct {
	Meta Meta
	Spec T

	kind string
	node Node
}

// ID names the document: "API/orders".
func (d *Document[T]) ID() string { return d.kind + "/" + d.Meta.Name }

// Node is the whole document as it is written.
func (d *Document[T]) Node() Node { return d.node }

// At is where the field at a path is written, such as "spec.routes[2].path".
func (d *Document[T]) At(path string) Pos { return d.node.At(path) }

// Problem is an error at the field at a path.
func (d *Document[T]) Problem(path, message, hint string) Problem {
	return d.node.Problem(path, message, hint)
}

// Resolve makes a path that the document contains relative to the working
// directory instead of the document's file.
func (d *Document[T]) Resolve(path string) string { return d.node.Resolve(path) }

// Resolve makes a path that is written here relative to the working directory
// instead of the document's file.
func (n Node) Resolve(path string) string {
	if path == "" || filepath.IsAbs(path) || n.doc == nil {
		return path
	}
	return filepath.Join(filepath.Dir(n.doc.src.name), filepath.FromSlash(path))
}

// Set is the documents of one revision, each kind in order of appearance.
type Set struct {
	Gateway       *Document[Gateway] // nil: the defaults hold
	Upstreams     []*Document[Upstream]
	APIs          []*Document[API]
	Plans         []*Document[Plan]
	Applications  []*Document[Application]
	Credentials   []*Document[Credential]
	Subscriptions []*Document[Subscription]

	upstreams     map[string]*Document[Upstream]
	apis          map[string]*Document[API]
	plans         map[string]*Document[Plan]
	applications  map[string]*Document[Application]
	credentials   map[string]*Document[Credential]
	subscriptions map[string]*Document[Subscription]

	files []*source
	nodes []Node
}

// Upstream finds an upstream by name, or nil.
func (s *Set) Upstream(name string) *Document[Upstream] { return s.upstreams[name] }

// API finds an API by name, or nil.
func (s *Set) API(name string) *Document[API] { return s.apis[name] }

// Plan finds a plan by name, or nil.
func (s *Set) Plan(name string) *Document[Plan] { return s.plans[name] }

// Application finds an application by name, or nil.
func (s *Set) Application(name string) *Document[Application] { return s.applications[name] }

// Credential finds a credential by name, or nil.
func (s *Set) Credential(name string) *Document[Credential] { return s.credentials[name] }

// Subscription finds a subscription by name, or nil.
func (s *Set) Subscription(name string) *Document[Subscription] { return s.subscriptions[name] }

// Documents are all documents of known kinds as they are written, in order of appearance.
func (s *Set) Documents() []Node { return s.nodes }

// Files are the names of the files, in the order in which they were read.
func (s *Set) Files() []string {
	names := make([]string, len(s.files))
	for i, f := range s.files {
		names[i] = f.name
	}
	return names
}

// Sources are the files by name, for Problems.Render.
func (s *Set) Sources() map[string][]byte {
	m := make(map[string][]byte, len(s.files))
	for _, f := range s.files {
		m[f.name] = f.data
	}
	return m
}

// Digest is the SHA-256 of the contents of all files in the order of their names,
// in hexadecimal. The same files give the same digest wherever they lie.
func (s *Set) Digest() string {
	files := slices.Clone(s.files)
	slices.SortStableFunc(files, func(a, b *source) int { return strings.Compare(a.name, b.name) })
	h := sha256.New()
	for _, f := range files {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(f.data)))
		h.Write(n[:])
		h.Write(f.data)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// File is a file that was read already.
type File struct {
	Name string
	Data []byte
}

// Stdin is the path that stands for the standard input.
const Stdin = "-"

// Load reads documents from files and folders. Of a folder it reads all *.yaml,
// *.yml and *.json files, also in folders below; names with a dot in front are
// passed over, links to files are followed.
//
// It returns every problem of every file. The Set holds each document whose kind
// and name are known even if its spec has problems, so that references to it can
// be checked; it must not be used when Problems.HasErrors.
func Load(paths ...string) (*Set, Problems) {
	l := newLoader()
	for _, p := range paths {
		l.path(p)
	}
	return l.done()
}

// Parse reads documents that are in memory.
func Parse(files ...File) (*Set, Problems) {
	l := newLoader()
	for _, f := range files {
		l.parse(f.Name, f.Data)
	}
	return l.done()
}

type loader struct {
	set      *Set
	problems Problems
	seen     map[string]bool // files by their real path
	count    int             // documents
}

func newLoader() *loader {
	return &loader{seen: map[string]bool{}, set: &Set{
		upstreams: map[string]*Document[Upstream]{}, apis: map[string]*Document[API]{}, plans: map[string]*Document[Plan]{},
		applications: map[string]*Document[Application]{}, credentials: map[string]*Document[Credential]{},
		subscriptions: map[string]*Document[Subscription]{},
	}}
}

func (l *loader) done() (*Set, Problems) {
	l.problems.Sort(l.set.Files())
	return l.set, l.problems
}

// unreadable notes a file or folder that cannot be read.
func (l *loader) unreadable(path string, err error) {
	hint := ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
		hint = "check the path, which is relative to the working directory"
	case errors.Is(err, fs.ErrPermission):
		hint = "allow this user to read it"
	}
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		err = pe.Err
	}
	l.problems = append(l.problems, Problem{Pos: Pos{File: path}, Message: fmt.Sprintf("cannot be read: %s", err), Hint: hint})
}

func (l *loader) path(path string) {
	if path == Stdin {
		l.read("stdin", os.Stdin)
		return
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		l.unreadable(path, err)
	case info.IsDir():
		before := len(l.seen)
		l.folder(path)
		if len(l.seen) == before {
			l.problems = append(l.problems, Problem{Pos: Pos{File: path}, Severity: Warning,
				Message: "no documents here", Hint: "documents are in files named *.yaml, *.yml or *.json"})
		}
	default:
		l.file(path)
	}
}

// folder reads the files below a folder in the order of their names. It does not
// follow links to folders, so it cannot run in circles.
func (l *loader) folder(path string) {
	entries, err := os.ReadDir(path)
	if err != nil {
		l.unreadable(path, err)
		return
	}
	for _, e := range entries {
		name := filepath.Join(path, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."):
		case e.IsDir():
			l.folder(name)
		case slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(name))):
			info, err := os.Stat(name)
			if err != nil {
				l.unreadable(name, err)
			} else if info.Mode().IsRegular() {
				l.file(name)
			}
		}
	}
}

// file reads a file, once however often it is named.
func (l *loader) file(path string) {
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		real = path
	}
	if l.seen[real] {
		return
	}
	l.seen[real] = true
	f, err := os.Open(path)
	if err != nil {
		l.unreadable(path, err)
		return
	}
	defer f.Close()
	l.read(path, f)
}

func (l *loader) read(name string, r io.Reader) {
	data, err := io.ReadAll(io.LimitReader(r, maxFileBytes+1))
	if err != nil {
		l.unreadable(name, err)
		return
	}
	l.parse(name, data)
}

// parse reads the documents of one file.
func (l *loader) parse(name string, data []byte) {
	if len(data) > maxFileBytes {
		l.problems = append(l.problems, Problem{Pos: Pos{File: name}, Message: "a file has at most 16 MiB", Hint: "split it"})
		return
	}
	src := newSource(name, data)
	l.set.files = append(l.set.files, src)
	first := len(l.problems)
	for v, ps := range src.documents() {
		l.problems = append(l.problems, ps...)
		if n := (Node{doc: &docRef{src: src}, value: v}); !n.IsZero() {
			l.document(n)
		}
		if l.count++; l.count > maxDocuments {
			l.problems = append(l.problems, Problem{Pos: Pos{File: name}, Message: fmt.Sprintf("a set has at most %d documents", maxDocuments)})
			return
		}
		if len(l.problems)-first >= maxProblems {
			l.problems = append(l.problems[:first+maxProblems], Problem{Pos: l.problems[len(l.problems)-1].Pos,
				Message: "too many problems: the rest of this file was not looked at"})
			return
		}
	}
}

// envelope is what every document looks like from outside.
type envelope struct {
	// APIVersion is the version of the document format.
	APIVersion string `json:"apiVersion" required:"true" enum:"whygate/v1"`
	// Kind of the document.
	Kind string `json:"kind" required:"true" enum:"Gateway,Upstream,API,Plan,Application,Credential,Subscription"`
	// Metadata names the document.
	Metadata Meta `json:"metadata" required:"true" example:"{name: orders}"`
	// Spec is what the document says, by its kind.
	Spec Node `json:"spec"`
	// Status is what a document that was read back from a gateway has. It is ignored.
	Status Node `json:"status"`
}

func (l *loader) document(n Node) {
	var e envelope
	d := decoder{}
	d.value(n, reflect.ValueOf(&e).Elem(), infoOf(reflect.TypeFor[envelope]()), &field{name: "document"})
	defer func() { l.problems = append(l.problems, d.problems...) }()
	n.doc.id = e.Kind + "/" + e.Metadata.Name
	switch e.Kind {
	case KindGateway:
		if g := add[Gateway](l, &d, n, e, nil, nil); l.set.Gateway == nil {
			l.set.Gateway = g
		} else {
			d.problem(n, n.field("kind").mark(), "the first one is at "+l.set.Gateway.At("kind").String()+"; put all into one",
				"a set of documents has one Gateway, this is another")
		}
	case KindUpstream:
		add(l, &d, n, e, &l.set.Upstreams, l.set.upstreams)
	case KindAPI:
		add(l, &d, n, e, &l.set.APIs, l.set.apis)
	case KindPlan:
		add(l, &d, n, e, &l.set.Plans, l.set.plans)
	case KindApplication:
		add(l, &d, n, e, &l.set.Applications, l.set.applications)
	case KindCredential:
		add(l, &d, n, e, &l.set.Credentials, l.set.credentials)
	case KindSubscription:
		add(l, &d, n, e, &l.set.Subscriptions, l.set.subscriptions)
	}
}

// add decodes the spec of a document and puts it into the set.
func add[T any](l *loader, d *decoder, n Node, e envelope, list *[]*Document[T], index map[string]*Document[T]) *Document[T] {
	doc := &Document[T]{Meta: e.Metadata, kind: e.Kind, node: n}
	var ps Problems
	Decode(e.Spec, &doc.Spec, &ps)
	d.add(n, ps)
	l.set.nodes = append(l.set.nodes, n)
	if list == nil || doc.Meta.Name == "" {
		return doc
	}
	if first := index[doc.Meta.Name]; first != nil {
		d.problem(n, n.find("metadata.name").mark(), "the first one is at "+first.At("metadata.name").String(),
			"%s %s is written twice", e.Kind, clip(doc.Meta.Name))
		return doc
	}
	index[doc.Meta.Name] = doc
	*list = append(*list, doc)
	return doc
}

// ParseNode reads a value that is no document, such as the settings of one policy. An
// empty file gives the zero Node; of several values it takes the first.
func ParseNode(f File) (Node, Problems) {
	ref := &docRef{src: newSource(f.Name, f.Data)}
	for v, ps := range ref.src.documents() {
		if v != nil || len(ps) > 0 {
			return Node{doc: ref, value: v}, ps
		}
	}
	return Node{}, nil
}
