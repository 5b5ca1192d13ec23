// Package examples holds complete documents and scenarios. The scenarios (*.txtar) are
// terminal sessions that are documentation and tests at once.
package examples

import "embed"

// Shop are the documents of the demonstration.
//
//go:embed shop/*.yaml
var Shop embed.FS
