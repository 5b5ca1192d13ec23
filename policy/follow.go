package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whygate/whygate/resource"
)

// followed is what a file says, read again when the file changes. It outlives revisions (Env.Keep), so that
// a list that grows every minute makes no revision of it. A new content that cannot be read leaves the
// old one in use; that is logged, and a warning to whoever checks the documents meanwhile.
type followed[T any] struct {
	path string
	max  int64 // bytes of the file
	read func(content []byte) (*T, error)
	log  *slog.Logger

	now atomic.Pointer[T] // nil: there never was a content that could be read

	mu    sync.Mutex // guards what follows
	state fileState  // of the content that was read last, readable or not
	next  fileState  // as it looked when a change was first seen
	err   error      // why the content of state is not in use

	stop    chan struct{}
	stopped sync.Once
}

// fileState tells contents apart without reading them.
type fileState struct {
	info fs.FileInfo
	err  string
}

func (s fileState) same(t fileState) bool {
	if s.info == nil || t.info == nil {
		return s.info == nil && t.info == nil && s.err == t.err
	}
	return s.info.Size() == t.info.Size() && s.info.ModTime().Equal(t.info.ModTime()) && os.SameFile(s.info, t.info)
}

// follow is the followed file of a policy: one for all policies that name the same path. What is wrong with
// it is a problem of the field.
func follow[T any](env *Env, kind, field, path string, max int64, read func(content []byte) (*T, error)) *followed[T] {
	if env.Resolve != nil {
		path = env.Resolve(path)
	}
	f := env.Keep(kind+"\x00"+path, func() Kept {
		return &followed[T]{path: path, max: max, read: read, log: env.Log, stop: make(chan struct{})}
	}).(*followed[T])
	err := f.refresh()
	switch {
	case err == nil:
	case f.now.Load() != nil:
		env.Lint(kind+".old-file", field, "what was read before stays in use until the file can be read", "%s cannot be used as it is now: %s", path, oneLine(err))
	default:
		var list resource.Problems
		if errors.As(err, &list) {
			*env.Problems = append(*env.Problems, list...)
			env.Problem(field, "mend the file where it says, or name another one", "%s has %s", path, plural(len(list), "problem"))
		} else {
			env.Problem(field, "the path is relative to the document", "%s cannot be read: %v", path, err)
		}
	}
	return f
}

// how often files are looked at. A change is read when it has looked the same twice: half of a file that
// is being written may well be valid.
const followEvery = time.Second

// Start looks at the file from now on.
func (f *followed[T]) Start() {
	go func() {
		tick := time.NewTicker(followEvery)
		defer tick.Stop()
		for {
			select {
			case <-f.stop:
				return
			case <-tick.C:
				f.look()
			}
		}
	}()
}

// Close ends that. What was read stays readable for calls in flight.
func (f *followed[T]) Close() { f.stopped.Do(func() { close(f.stop) }) }

// look reads the file if it has changed and looks as it did the last time.
func (f *followed[T]) look() {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stat()
	if s.same(f.state) {
		f.next = s
		return
	}
	if !s.same(f.next) {
		f.next = s
		return
	}
	f.load()
	switch {
	case f.log == nil:
	case f.err != nil:
		f.log.Error("a file that policies read cannot be used; the content before stays in use", "file", f.path, "error", oneLine(f.err))
	default:
		f.log.Info("a file that policies read has changed", "file", f.path)
	}
}

// refresh reads the file at once if it has changed, and returns what is wrong with it.
func (f *followed[T]) refresh() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.stat(); f.state == (fileState{}) || !s.same(f.state) {
		f.load()
	}
	return f.err
}

func (f *followed[T]) stat() fileState {
	info, err := os.Stat(f.path)
	if err != nil {
		return fileState{err: resource.PlainFault(err).Error()}
	}
	return fileState{info: info}
}

// load reads the file. f.mu is held.
func (f *followed[T]) load() {
	f.state = f.stat()
	f.next = f.state
	content, err := resource.ReadFile(f.path, f.max)
	if err == nil {
		var v *T
		if v, err = f.read(content); err == nil {
			f.now.Store(v)
		}
	}
	f.err = err
}

// oneLine is an error as logs show it.
func oneLine(err error) string {
	var list resource.Problems
	if errors.As(err, &list) && len(list) > 0 {
		if more := len(list) - 1; more > 0 {
			return fmt.Sprintf("%s (and %d more)", list[0], more)
		}
		return list[0].String()
	}
	return err.Error()
}
