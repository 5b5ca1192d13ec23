// Package reference holds the generated references. `make docs` writes them.
package reference

import _ "embed"

// Schema is the JSON Schema of all kinds of documents.
//
//go:embed schema.json
var Schema []byte
