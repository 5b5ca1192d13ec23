package pinpoint

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the files that are made from the data")

func TestReference(t *testing.T) {
	const file = "../docs/reference/causes.md"
	var b bytes.Buffer
	if err := Reference(&b); err != nil {
		t.Fatal(err)
	}
	for _, c := range Causes() {
		if n := strings.Count(b.String(), "\n### "+c.ID+"\n"); n != 1 {
			t.Errorf("%s stands %d times in the reference", c.ID, n)
		}
	}
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, b.Bytes()) {
		t.Error("docs/reference/causes.md is stale: go test ./pinpoint -run TestReference -update")
	}
}
