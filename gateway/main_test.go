package gateway_test

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain proves that no test leaves a goroutine behind: a call, an upload or a watch that
// never ends would be one.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}
