package gateway_test

import (
	"encoding/xml"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/whygate/whygate/whytest"
)

// h2spec is built from source when this test runs.
const h2spec = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"

// leastPassed is what Go's own HTTP/2 server reaches.
const leastPassed = 136

// TestH2Spec runs the conformance suite in strict mode against both kinds of listener, and compares
// its failures with testdata/h2spec.txt, where each has its cause. It takes some minutes and needs the
// module proxy: set WHYGATE_H2SPEC=1, or to the path of a built h2spec.
func TestH2Spec(t *testing.T) {
	program := os.Getenv("WHYGATE_H2SPEC")
	if program == "" {
		t.Skip("set WHYGATE_H2SPEC=1 to run the HTTP/2 conformance suite")
	}
	if program == "1" {
		dir := t.TempDir()
		build := exec.Command("go", "install", h2spec)
		build.Dir = dir
		build.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-mod=mod")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building h2spec: %v\n%s", err, out)
		}
		program = filepath.Join(dir, "h2spec")
	}
	known := knownFailures(t)
	ca := whytest.NewAuthority(t)
	up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello") })
	n := whytest.Start(t, "wire", secured(t, ca, "wire", "")+whytest.API(up.URL, "/", ""))
	for i, listener := range []string{"h2c", "tls"} {
		t.Run(listener, func(t *testing.T) {
			host, port, _ := net.SplitHostPort(n.Addresses()[i].String())
			report := filepath.Join(t.TempDir(), "report.xml")
			args := []string{"--strict", "-h", host, "-p", port, "-o", "4", "-j", report}
			if listener == "tls" {
				args = append(args, "-t", "-k")
			}
			out, err := exec.Command(program, args...).CombinedOutput()
			cases, failed := readReport(t, report)
			if len(cases) == 0 {
				t.Fatalf("h2spec ran nothing: %v\n%s", err, out)
			}
			t.Logf("%s: %d of %d passed", listener, len(cases)-len(failed), len(cases))
			if passed := len(cases) - len(failed); passed < leastPassed {
				t.Errorf("%d of %d passed, %d are the least", passed, len(cases), leastPassed)
			}
			for _, f := range failed {
				if !slices.Contains(known[listener], f) && !slices.Contains(known["both"], f) {
					t.Errorf("fails, and is not among the known: %s", f)
				}
			}
			for _, k := range append(known[listener], known["both"]...) {
				if !slices.Contains(failed, k) {
					t.Errorf("passes now; take it off testdata/h2spec.txt: %s", k)
				}
			}
		})
	}
	if n.Panics.Load()+n.Server().Panics.Load() != 0 {
		t.Errorf("panicked:\n%s", n.Log)
	}
}

// knownFailures reads the list: "listener | case | cause" on each line.
func knownFailures(t *testing.T) map[string][]string {
	b, err := os.ReadFile("testdata/h2spec.txt")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string][]string{}
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		parts := strings.SplitN(line, " | ", 3)
		if len(parts) != 3 || parts[2] == "" {
			t.Fatalf("testdata/h2spec.txt: %q is not listener | case | cause", line)
		}
		known[parts[0]] = append(known[parts[0]], parts[1])
	}
	return known
}

// readReport reads a report in JUnit's form.
func readReport(t *testing.T, file string) (cases, failed []string) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, nil
	}
	var report struct {
		Suites []struct {
			Package string `xml:"package,attr"`
			Cases   []struct {
				Name    string    `xml:"classname,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b, &report); err != nil {
		t.Fatal(err)
	}
	for _, s := range report.Suites {
		for _, c := range s.Cases {
			name := s.Package + ": " + c.Name
			if cases = append(cases, name); c.Failure != nil || c.Error != nil || c.Skipped != nil {
				failed = append(failed, name)
			}
		}
	}
	return cases, failed
}
