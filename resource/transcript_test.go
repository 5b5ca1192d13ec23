package resource

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestProblems reads the files of each transcript and compares what is printed.
func TestProblems(t *testing.T) {
	paths, err := filepath.Glob("testdata/problems/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			intro, files, want := readTranscript(t, path)
			set, ps := Parse(files...)
			var got bytes.Buffer
			if err := ps.Render(&got, set.Sources(), false); err != nil {
				t.Fatal(err)
			}
			if *update {
				var out bytes.Buffer
				out.WriteString(intro)
				for _, f := range append(files, File{"problems", got.Bytes()}) {
					out.WriteString("-- " + f.Name + " --\n")
					out.Write(f.Data)
				}
				if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(want, got.String()); diff != "" {
				t.Errorf("run with -update and look at the change:\n%s", diff)
			}
		})
	}
}

// readTranscript reads the txtar format: an introduction, files below lines
// "-- name --", and last the problems that they have.
func readTranscript(t testing.TB, path string) (intro string, files []File, problems string) {
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		name, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "-- ")
		if name, end := strings.CutSuffix(name, " --"); ok && end {
			files = append(files, File{Name: name})
		} else if len(files) == 0 {
			intro += line
		} else {
			f := &files[len(files)-1]
			f.Data = append(f.Data, line...)
		}
	}
	if n := len(files) - 1; n >= 0 && files[n].Name == "problems" {
		return intro, files[:n], string(files[n].Data)
	}
	return intro, files, ""
}
