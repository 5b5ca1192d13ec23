package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/resource"
)

func (a *app) keyCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "key", Short: "Make API keys",
		RunE: func(c *cobra.Command, args []string) error { return usage("key does what? whygate key new") },
	}
	c.Example = "  whygate key new --application acme-shop"
	c.AddCommand(a.keyNewCommand())
	return c
}

func (a *app) keyNewCommand() *cobra.Command {
	var application, name, out, until string
	c := &cobra.Command{
		Use:   "new --application NAME",
		Short: "Make an API key and the Credential document that recognises it",
		Long: `Makes an API key. The key is shown this once and kept nowhere: the document holds
its SHA-256 and its first characters only. Give the key to the owner of the
application, and the document to the gateway.`,
		Example: "  whygate key new --application acme-shop --out credentials/acme-shop-2.yaml",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			if application == "" {
				return usage("for which application? --application NAME")
			}
			key, doc, err := newCredential(application, name, until)
			if err != nil {
				return err
			}
			if out == "" {
				fmt.Fprintf(a.err, "%s %s\nIt is shown this once. The document below recognises it.\n\n", a.styleFor(a.err).strong("key:"), key)
				fmt.Fprint(a.out, doc)
				return nil
			}
			f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
			if err == nil {
				_, err = f.WriteString(doc)
				if cerr := f.Close(); err == nil {
					err = cerr
				}
			}
			if err != nil {
				return environment(fmt.Errorf("writing the document: %w", err))
			}
			fmt.Fprintln(a.out, key)
			fmt.Fprintf(a.err, "The key above is shown this once; %s recognises it.\n", out)
			return nil
		},
	}
	c.Flags().StringVar(&application, "application", "", "the application that the key identifies")
	c.Flags().StringVar(&name, "name", "", "name of the document (default: the application and the key's prefix)")
	c.Flags().StringVar(&until, "until", "", "when the key ceases to be accepted, such as 2027-06-30")
	c.Flags().StringVarP(&out, "out", "o", "", "write the document to this new file and print the key alone")
	return c
}

var documentName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$`)

// newCredential makes a key and the document that recognises it.
func newCredential(application, name, until string) (key, doc string, err error) {
	key, prefix, hash := consumer.NewKey()
	if name == "" {
		name = application + "-" + prefix[len(prefix)-8:]
	}
	for _, n := range []string{application, name} {
		if !documentName.MatchString(n) {
			return "", "", usage("%q is no name of a document: letters, digits, - _ and .", n)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: %s\nkind: Credential\nmetadata:\n  name: %s\nspec:\n  application: %s\n  key:\n    prefix: %s\n    sha256: %s\n", resource.Version, name, application, prefix, hash)
	if until != "" {
		var t resource.Time
		if err := t.UnmarshalText([]byte(until)); err != nil {
			return "", "", usage("--until %q is no time, such as 2027-06-30", until)
		}
		fmt.Fprintf(&b, "  until: %s\n", until)
	}
	return key, b.String(), nil
}
