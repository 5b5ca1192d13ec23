//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package calllog

import (
	"fmt"
	"os"
	"runtime"
)

var errNoMapping = fmt.Errorf("the call journal needs memory-mapped files, which this build does not have on %s", runtime.GOOS)

func mapFile(*os.File, int64, bool) ([]byte, error) { return nil, errNoMapping }
func unmap([]byte)                                  {}
func flush([]byte) error                            { return errNoMapping }
func lock(*os.File) (bool, error)                   { return false, errNoMapping }
func allocate(*os.File, int64) error                { return errNoMapping }
func inOrder([]byte)                                {}
func beginWrite(*os.File, uint64, uint64)           {}
func populate([]byte)                               {}
func release([]byte)                                {}
func noSpace(error) bool                            { return false }
