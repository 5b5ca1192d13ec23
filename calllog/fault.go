package calllog

import (
	"errors"
	"unsafe"
)

// A mapped file that somebody cuts short, or whose disk fails, answers an access
// with a memory fault. Code that touches mappings runs under
//
//	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
//	defer s.caught(&err)
//
// so that it is an error of that one file.

var errFault = errors.New("the file was cut short or its disk failed while it was in use")

// caught turns a fault within the segment into errFault. Other panics go on.
func (s *segment) caught(err *error) {
	if p := recover(); p != nil {
		if !s.faulted(p) {
			panic(p)
		}
		*err = errFault
	}
}

func (s *segment) faulted(p any) bool {
	f, ok := p.(interface{ Addr() uintptr })
	if !ok || len(s.mem) == 0 {
		return false
	}
	from := uintptr(unsafe.Pointer(&s.mem[0]))
	return f.Addr() >= from && f.Addr() < from+uintptr(len(s.mem))
}
