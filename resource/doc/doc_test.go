package doc

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestComments(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.go": `package p

// Limit bounds
// calls.
//
// It has:
//   - one
//   - two
//
//	requests: 5
type Limit struct {
	// Requests of
	// each caller.
	Requests int
	A, B     int // A and B.
	Silent   int
	Inner    struct{ X int }
}

type (
	// Other is in a group.
	Other struct{}
	// Word is no struct.
	Word string
)

// New makes one.
func New() Limit { return Limit{} }
`,
		"a_test.go": "package p\n\n// Hidden is in a test.\ntype Hidden struct{}\n",
		"notes.txt": "not Go",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Comments(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"Limit":          "Limit bounds calls.\n\nIt has:\n  - one\n  - two\n\n\trequests: 5",
		"Limit.Requests": "Requests of each caller.",
		"Limit.A":        "A and B.",
		"Limit.B":        "A and B.",
		"Other":          "Other is in a group.",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	os.WriteFile(filepath.Join(dir, "broken.go"), []byte("package"), 0o644)
	if _, err := Comments(dir); err == nil {
		t.Error("a file that is no Go was read")
	}
	if _, err := Comments(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("a folder that is not there was read")
	}
}
