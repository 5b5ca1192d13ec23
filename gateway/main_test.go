package gateway_test

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain proves that no test leaves a goroutine behind: a call, an upload or a watch that
// never ends would be one.
func TestMain(m *testing.M) {
	flag.Parse()
	flag.VisitAll(func(f *flag.Flag) {
		if f.Name == "test.parallel" && f.Value.String() == f.DefValue {
			f.Value.Set("8") // they wait more than they compute
		}
	})
	goleak.VerifyTestMain(tests{m})
}

type tests struct{ m *testing.M }

// Run ends what the tests share before anybody looks for goroutines.
func (t tests) Run() int {
	defer peers().close()
	defer func() {
		if countriesMade {
			os.Remove(countries())
		}
	}()
	return t.m.Run()
}
