package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/whygate/whygate/reason"
)

// consoles are the blocks of a guide that show a terminal.
var consoles = regexp.MustCompile("(?ms)^```console\n(.*?)^```$")

// prepared are the commands of a guide that the test has done by other means.
var prepared = map[string]bool{
	"make build":                   true,
	`export PATH="$PWD/bin:$PATH"`: true,
	"cp -r examples/guide /tmp/guide && cd /tmp/guide": true,
	"export WHYGATE_DATA=/tmp/guide/data":              true,
}

// TestGuides runs every command of the guides and compares what it prints with what the guide shows.
func TestGuides(t *testing.T) {
	guides, err := filepath.Glob("../../docs/guides/*.md")
	if err != nil || len(guides) == 0 {
		t.Fatal("no guides", err)
	}
	dir := t.TempDir()
	for _, guide := range guides {
		text := read(t, guide)
		if !consoles.MatchString(text) {
			continue // it shows no terminal
		}
		script := guideScript(t, text)
		if err := os.WriteFile(filepath.Join(dir, strings.TrimSuffix(filepath.Base(guide), ".md")+".txtar"), []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := scriptParams(dir)
	setup := p.Setup
	p.Setup = func(env *testscript.Env) error {
		if err := setup(env); err != nil {
			return err
		}
		return os.CopyFS(env.WorkDir, os.DirFS("../../examples/guide"))
	}
	testscript.Run(t, p)
}

// guideScript makes a scenario of the terminals in a guide.
func guideScript(t *testing.T, guide string) string {
	var script, files strings.Builder
	commands, shown := 0, 0
	for _, block := range consoles.FindAllStringSubmatch(guide, -1) {
		first, rest, _ := strings.Cut("\n"+block[1], "\n$ ")
		if first != "" {
			t.Fatalf("a block does not begin with a command:\n%s", block[1])
		}
		for part := range strings.SplitSeq(rest, "\n$ ") {
			command, output, _ := strings.Cut(part, "\n")
			commands++
			if prepared[command] {
				continue
			}
			background, isBackground := strings.CutSuffix(command, " &")
			switch {
			case isBackground:
				fmt.Fprintln(&script, strings.TrimPrefix(background, "whygate "))
				continue
			case strings.HasPrefix(output, "✗") && strings.HasPrefix(command, "whygate explain "):
				script.WriteString("! ")
			}
			fmt.Fprintf(&script, "shell '%s'\n", strings.ReplaceAll(command, "'", "''"))
			if strings.TrimSpace(output) != "" {
				shown++
				fmt.Fprintf(&script, "shows shown-%d.txt\n", shown)
				fmt.Fprintf(&files, "-- shown-%d.txt --\n%s\n", shown, strings.TrimRight(output, "\n"))
			}
		}
	}
	if commands < 10 || shown < 10 {
		t.Fatalf("only %d commands and %d outputs were found", commands, shown)
	}
	return script.String() + "drain\n" + files.String()
}

// scriptShell runs a line as a reader's shell would. The outcomes of pinpoint, and that it asks which request is meant, are no failures.
func scriptShell(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("shell COMMAND")
	}
	line := strings.ReplaceAll(args[0], "127.0.0.1:8080", ts.Getenv("ADDRESS"))
	err := ts.Exec("sh", "-c", strings.ReplaceAll(line, "127.0.0.1:9000", ts.Getenv("SAMPLE")))
	var ended *exec.ExitError
	if errors.As(err, &ended) && strings.HasPrefix(line, "whygate pinpoint ") && (ended.ExitCode() == exitUsage || ended.ExitCode() >= 4 && ended.ExitCode() <= 8) {
		err = nil
	}
	if (err != nil) != neg {
		ts.Fatalf("%s: %v", args[0], err)
	}
}

// TestGuideRefusals: the guide from 403 to fixed explains ten different refusals of the gateway, whose reasons exist.
func TestGuideRefusals(t *testing.T) {
	told := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^  reason    ([a-z-]+\.[a-z-]+)$`).FindAllStringSubmatch(read(t, "../../docs/guides/from-403-to-fixed.md"), -1) {
		if told[m[1]] = true; reason.ByCode(m[1]) == nil {
			t.Errorf("there is no reason %s", m[1])
		}
	}
	if len(told) != 10 {
		t.Errorf("the guide explains %d refusals: %v", len(told), told)
	}
}
