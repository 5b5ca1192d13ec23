package gateway_test

import (
	"flag"
	"os"
	"runtime"
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
	goleak.VerifyTestMain(tests{m}, ofTheRuntime)
}

// ofTheRuntime is the goroutine in which the runtime runs what runtime.AddCleanup was given. It
// never ends, and is seen only while something runs in it: here the journal gives back the memory
// of files that nobody can reach any more, which takes longer than goleak waits on a busy machine.
// No test made it, and none can wait for it.
var ofTheRuntime = goleak.IgnoreAnyFunction("runtime.runCleanups")

// TestNoLeakInCleanups holds a cleanup of the runtime and looks for goroutines meanwhile.
func TestNoLeakInCleanups(t *testing.T) {
	before := goleak.IgnoreCurrent()
	held, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	x := new([64]byte)
	runtime.AddCleanup(x, func(c chan struct{}) { close(c); <-release }, held)
	runtime.GC()
	<-held
	if err := goleak.Find(before, ofTheRuntime); err != nil {
		t.Error(err)
	}
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
