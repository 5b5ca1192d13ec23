// Command whygate is the gateway that tells why, and all that goes with it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/whygate/whygate/resource"
)

// version is set at build time: go build -ldflags "-X main.version=1.2.3".
var version = "dev"

// Exit codes. They are documented in `whygate help exit-codes`.
const (
	exitOK          = 0
	exitWrong       = 1 // what was asked about is wrong: documents, a call that would be refused, an unknown id
	exitUsage       = 2 // the command line
	exitEnvironment = 3 // a node that does not answer, a port in use, a folder that cannot be written
)

// exitError carries an exit code. An empty text has been told already.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

func wrong(format string, args ...any) error {
	return &exitError{exitWrong, fmt.Sprintf(format, args...)}
}

func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Sprintf(format, args...)}
}

func environment(err error) error { return &exitError{exitEnvironment, err.Error()} }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// app is what all subcommands share.
type app struct {
	in       io.Reader
	out, err io.Writer
	style    style
	data     string
	admin    string
	color    string
}

func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	a := &app{in: in, out: out, err: errOut}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code := exitUsage // cobra's own errors are about the command line
	var e *exitError
	if errors.As(err, &e) {
		code = e.code
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(errOut, a.styleFor(errOut).bad("error:"), text)
		if e == nil {
			fmt.Fprintln(errOut, "whygate --help lists the commands; each has a --help with an example")
		}
	}
	return code
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "whygate",
		Short: "The API and AI gateway that tells you why",
		Long: `Whygate stands in front of your services, decides every call by policy, and
explains every refusal: which check, which rule, what was wanted, what was seen,
what would make it pass, and who can change that.`,
		Example: `  whygate serve --upstream http://127.0.0.1:3000
  whygate why last`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			switch a.color {
			case "auto", "always", "never":
			default:
				return usage("--color is auto, always or never, not %q", a.color)
			}
			a.style = a.styleFor(a.out)
			return nil
		},
	}
	root.SetFlagErrorFunc(flagError)
	root.PersistentFlags().StringVar(&a.color, "color", "auto", "when to use colours: auto, always or never")
	completeFlag(root, "color", words("auto\tonly on a terminal", "always", "never"))
	root.SetVersionTemplate("whygate {{.Version}}\n")
	root.AddCommand(
		a.serveCommand(), a.checkCommand(), a.lintCommand(), a.explainCommand(), a.whyCommand(), a.pinpointCommand(), a.callsCommand(), a.wafCommand(), a.reasonsCommand(),
		a.statusCommand(), a.reloadCommand(), a.cacheCommand(), a.keyCommand(), a.schemaCommand(), a.sampleCommand(), a.demoCommand(), a.versionCommand(),
		exitCodesTopic(),
	)
	return root
}

// flagError names the flag that was meant.
func flagError(c *cobra.Command, err error) error {
	name, ok := strings.CutPrefix(err.Error(), "unknown flag: --")
	hint := c.CommandPath() + " --help lists the flags"
	if ok {
		var known []string
		c.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
		if n := resource.Nearest(name, known); n != "" {
			hint = "did you mean --" + n + "?"
		}
	}
	return usage("%v; %s", err, hint)
}

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes of whygate mean",
		Long: `0  it worked; explain: the call would pass
1  what was asked about is wrong: documents with errors, a call that would be
   refused, a call id that is not recorded, a reason that does not exist
2  the command line is wrong
3  the environment is in the way: no node answers, a port is taken, a folder
   cannot be written

pinpoint tells its outcome besides:
0  proved: a log, a configuration or an experiment shows who refused, and why
4  likely: the answer or the request names the cause
5  unknown: at most who refused is known; the report says which log knows more
6  not reproduced: the request passes now, or meets another refusal
7  the input is incomplete: a replay would be another request
8  the rules of safety forbid to send what would be needed; the report names
   the flag that allows it`,
	}
}

// nodeFlags are for commands that talk to a node or read its data.
func (a *app) nodeFlags(c *cobra.Command) {
	c.Flags().StringVar(&a.data, "data", defaultData(), "data directory of the node")
	c.Flags().StringVar(&a.admin, "admin", "", "address of the node's admin API (default: as the node left it in the data directory)")
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  whygate version", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			fmt.Fprintln(a.out, "whygate", version, goVersion())
			return nil
		},
	}
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("%s takes no argument %q", c.CommandPath(), strings.Join(args, " "))
	}
	return nil
}
