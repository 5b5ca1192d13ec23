package policy

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whygate/whygate/resource"
)

// shelf compiles policies that name files, and keeps what outlives a revision.
type shelf struct {
	*testbed
	dir  string
	kept map[string]Kept
	log  bytes.Buffer
}

func newShelf(t *testing.T) *shelf {
	return &shelf{testbed: newTestbed(t), dir: t.TempDir(), kept: map[string]Kept{}}
}

func (s *shelf) write(name, content string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shelf) compile(kind, config string) (any, resource.Problems) {
	s.t.Helper()
	k, _, ok := KindNamed(kind)
	if !ok {
		s.t.Fatalf("there is no policy %s", kind)
	}
	node, problems := resource.ParseNode(resource.File{Name: "test.yaml", Data: []byte(config)})
	p := k.New()
	resource.Decode(node, p, &problems)
	if problems.HasErrors() {
		return nil, problems
	}
	made := p.Compile(&Env{Node: node, Name: kind, Problems: &problems, Route: &s.route, Consumers: s.consumers, Trust: s.trust, Memory: s.memory,
		Quotas: s.quotas, Gateway: &s.gateway, LimitName: "test/" + kind, Kinds: s.kinds, Log: slog.New(slog.NewTextHandler(&s.log, nil)),
		Resolve: func(path string) string { return filepath.Join(s.dir, path) },
		Keep: func(name string, create func() Kept) Kept {
			if s.kept[name] == nil {
				s.kept[name] = create()
			}
			return s.kept[name]
		}})
	return made, problems
}

func (s *shelf) check(kind, config string) Check {
	s.t.Helper()
	made, problems := s.compile(kind, config)
	if problems.HasErrors() {
		s.t.Fatalf("%s: %v", kind, problems)
	}
	return made.(Check)
}

// errs asserts that a configuration is refused at that place, in words that contain text.
func (s *shelf) errs(kind, config, place, text string) {
	s.t.Helper()
	_, problems := s.compile(kind, config)
	for _, p := range problems {
		if p.Severity == resource.Error && strings.Contains(p.Pos.String(), place) && strings.Contains(p.Message+" "+p.Hint, text) {
			return
		}
	}
	s.t.Errorf("%s %s: no error at %q with %q: %v", kind, config, place, text, problems)
}

// warns asserts a warning with that code, or with "" that there is none.
func (s *shelf) warns(kind, config, code string) {
	s.t.Helper()
	_, problems := s.compile(kind, config)
	if problems.HasErrors() || (code == "") != (len(problems) == 0) || code != "" && problems[0].Code != code {
		s.t.Errorf("%s %s: want a warning %q: %v", kind, config, code, problems)
	}
}

// TestFollowed: a file is read again when it has changed and stands still, and a bad one leaves the old
// content in use.
func TestFollowed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "list")
	content := func(s string, age time.Duration) {
		t.Helper()
		if err := os.WriteFile(path, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
		at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC).Add(age)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := &followed[string]{path: path, max: 10, log: slog.New(slog.NewTextHandler(&log, nil)), stop: make(chan struct{}), read: func(b []byte) (*string, error) {
			s := string(b)
			if strings.Contains(s, "bad") {
				return nil, errors.New("it is bad")
			}
			return &s, nil
		}}
		if err := f.refresh(); err == nil || f.now.Load() != nil {
			t.Fatal("a file that is not there was read")
		}
		content("one", 0)
		if err := f.refresh(); err != nil || *f.now.Load() != "one" {
			t.Fatal(err)
		}
		f.Start()
		defer f.Close()
		step := func(want string) {
			t.Helper()
			time.Sleep(followEvery)
			synctest.Wait()
			if got := *f.now.Load(); got != want {
				t.Errorf("reads %q, want %q", got, want)
			}
		}
		content("half", time.Second)
		step("one")
		content("whole", 2*time.Second) // still being written
		step("one")
		step("whole")
		content("bad", 3*time.Second)
		step("whole")
		step("whole")
		if f.refresh() == nil || !strings.Contains(log.String(), "it is bad") {
			t.Errorf("a bad content is not told: %s", &log)
		}
		content("much too long", 4*time.Second)
		step("whole")
		step("whole")
		if err := f.refresh(); err == nil || !strings.Contains(err.Error(), "more than 10") {
			t.Errorf("a long file: %v", err)
		}
		os.Remove(path)
		step("whole")
		step("whole")
		content("back", 5*time.Second)
		step("whole")
		step("back")
		if err := f.refresh(); err != nil {
			t.Error(err)
		}
		if n := strings.Count(log.String(), "\n"); n != 5 {
			t.Errorf("%d lines of log, one for each change: %s", n, &log)
		}
	})
	if _, err := resource.ReadFile(dir, 10); err == nil {
		t.Error("a folder was read")
	}
}
