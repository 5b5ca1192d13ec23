package main

import (
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/snapshot"
)

func (a *app) checkCommand() *cobra.Command {
	var strict bool
	c := &cobra.Command{
		Use:   "check FILE|DIR…",
		Short: "Find everything that is wrong with documents",
		Long: `Reads documents as serve would and says all that is wrong with them at once: file,
line, column and what to do. Warnings are about documents that can be used, but
hardly mean what they say. The exit code is 1 when there are errors.`,
		Example: "  whygate check examples/shop",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("check what? name files or folders with documents")
			}
			snap, set, problems := compileOffline(args)
			return a.judge(snap, set, problems, strict)
		},
	}
	c.Flags().BoolVar(&strict, "strict", false, "treat warnings as errors")
	return c
}

// judge prints what was found, and decides the exit code.
func (a *app) judge(snap *snapshot.Snapshot, set *resource.Set, problems resource.Problems, strict bool) error {
	problems.Render(a.out, set.Sources(), a.style.on)
	errs, warnings := count(problems)
	switch {
	case errs > 0:
		fmt.Fprintf(a.out, "%s, %s\n", plural(errs, "error"), plural(warnings, "warning"))
		return &exitError{code: exitWrong}
	case warnings > 0 && strict:
		fmt.Fprintf(a.out, "%s, and --strict\n", plural(warnings, "warning"))
		return &exitError{code: exitWrong}
	}
	apps, keys, subs := snap.Consumers.Counts()
	fmt.Fprintf(a.out, "%s %s in %s: %s, %s, %s, %s, %s\n", a.style.good("ok"), plural(len(set.Documents()), "document"), plural(len(set.Files()), "file"),
		plural(len(snap.Routes), "route"), plural(len(snap.Upstreams), "upstream"), plural(apps, "application"), plural(keys, "credential"), plural(subs, "subscription"))
	if warnings > 0 {
		fmt.Fprintln(a.out, plural(warnings, "warning"))
	}
	return nil
}

// compileOffline compiles documents without bringing anything to life.
func compileOffline(paths []string) (*snapshot.Snapshot, *resource.Set, resource.Problems) {
	set, problems := loadDocuments(paths)
	quotas, _ := counter.OpenQuotas("")
	env := snapshot.Env{Memory: counter.NewMemory(), Quotas: quotas, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	snap, more := snapshot.Compile(set, env)
	problems = append(problems, more...)
	problems.Sort(set.Files())
	if problems.HasErrors() {
		snap = nil
	}
	return snap, set, problems
}

// loadDocuments reads documents. That there are none is an error to whoever named a path.
func loadDocuments(paths []string) (*resource.Set, resource.Problems) {
	set, problems := resource.Load(paths...)
	if len(set.Documents()) == 0 && !problems.HasErrors() {
		problems = resource.Problems{{Pos: resource.Pos{File: strings.Join(paths, " ")}, Message: "no documents here",
			Hint: "documents are in files named *.yaml, *.yml or *.json; whygate schema says what they look like"}}
	}
	return set, problems
}

func count(ps resource.Problems) (errs, warnings int) {
	for _, p := range ps {
		if p.Severity == resource.Error {
			errs++
		} else {
			warnings++
		}
	}
	return errs, warnings
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	if stem, ok := strings.CutSuffix(word, "y"); ok {
		word = stem + "ie"
	}
	return fmt.Sprintf("%d %ss", n, word)
}
