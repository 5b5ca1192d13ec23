package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"unicode"

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
	var application, name, out, until, user string
	var fromInput bool
	c := &cobra.Command{
		Use:   "new --application NAME",
		Short: "Make an API key and the Credential document that recognises it",
		Long: `Makes an API key. The key is shown this once and kept nowhere: the document holds
its SHA-256 and its first characters only. Give the key to the owner of the
application, and the document to the gateway.

With --basic it is a password for a user name instead, made for it or read from
standard input, of which the document holds the bcrypt hash.`,
		Example: `  whygate key new --application acme-shop --out credentials/acme-shop-2.yaml
  whygate key new --application acme-shop --basic acme
  whygate key new --application acme-shop --basic acme --password-stdin < password.txt`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if application == "" {
				return usage("for which application? --application NAME")
			}
			what := "key"
			var key, doc string
			var err error
			switch {
			case fromInput && user == "":
				return usage("--password-stdin is for a password: --basic USER")
			case user != "":
				what = "password"
				key, doc, err = a.newLogin(application, name, until, user, fromInput)
			default:
				key, doc, err = newCredential(application, name, until)
			}
			if err != nil {
				return err
			}
			if out == "" {
				if fromInput {
					fmt.Fprint(a.out, doc)
					return nil
				}
				fmt.Fprintf(a.err, "%s %s\nIt is shown this once. The document below recognises it.\n\n", a.styleFor(a.err).strong(what+":"), key)
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
			if fromInput {
				return nil
			}
			fmt.Fprintln(a.out, key)
			fmt.Fprintf(a.err, "The %s above is shown this once; %s recognises it.\n", what, out)
			return nil
		},
	}
	c.Flags().StringVar(&application, "application", "", "the application that the key identifies")
	c.Flags().StringVar(&name, "name", "", "name of the document (default: the application and the key's prefix)")
	c.Flags().StringVar(&user, "basic", "", "make a password for this user name instead of a key")
	c.Flags().BoolVar(&fromInput, "password-stdin", false, "read the password from standard input, up to the line break")
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
	doc, err = credentialDocument(application, name, until, fmt.Sprintf("  key:\n    prefix: %s\n    sha256: %s\n", prefix, hash))
	return key, doc, err
}

// newLogin makes a password, or takes the one on standard input, and the document that recognises it.
func (a *app) newLogin(application, name, until, user string, fromInput bool) (password, doc string, err error) {
	if strings.ContainsFunc(user, func(r rune) bool { return r == ':' || unicode.IsControl(r) }) || len(user) > 200 {
		return "", "", usage("--basic %q is no user name: it has no colon and no control characters (RFC 7617)", user)
	}
	if name == "" {
		name = application + "-" + user
		if !documentName.MatchString(name) {
			return "", "", usage("what is the document to be called? --name NAME")
		}
	}
	if password = consumer.NewPassword(); fromInput {
		line, err := bufio.NewReader(io.LimitReader(a.in, 1024)).ReadString('\n')
		if err != nil && err != io.EOF {
			return "", "", environment(fmt.Errorf("reading the password: %w", err))
		}
		password = strings.TrimRight(line, "\r\n")
	}
	hash, err := consumer.HashPassword(password)
	if err != nil {
		return "", "", usage("%v", err)
	}
	quoted, err := json.Marshal(user) // which is YAML too
	if err != nil {
		return "", "", err
	}
	doc, err = credentialDocument(application, name, until, fmt.Sprintf("  basic:\n    username: %s\n    hash: %s\n", quoted, hash))
	return password, doc, err
}

func credentialDocument(application, name, until, recognised string) (string, error) {
	for _, n := range []string{application, name} {
		if !documentName.MatchString(n) {
			return "", usage("%q is no name of a document: letters, digits, - _ and .", n)
		}
	}
	if until != "" {
		var t resource.Time
		if err := t.UnmarshalText([]byte(until)); err != nil {
			return "", usage("--until %q is no time, such as 2027-06-30", until)
		}
		recognised += "  until: " + until + "\n"
	}
	return fmt.Sprintf("apiVersion: %s\nkind: Credential\nmetadata:\n  name: %s\nspec:\n  application: %s\n%s", resource.Version, name, application, recognised), nil
}
