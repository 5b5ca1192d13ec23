package main

import (
	"github.com/spf13/cobra"

	"github.com/whygate/whygate/docs/reference"
)

func (a *app) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of all documents, for editors",
		Long: `Prints the JSON Schema of all kinds of documents. Editors complete and check documents
with it: put "# yaml-language-server: $schema=whygate.schema.json" on their first line.`,
		Example: "  whygate schema > whygate.schema.json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := a.out.Write(reference.Schema)
			return err
		},
	}
}
