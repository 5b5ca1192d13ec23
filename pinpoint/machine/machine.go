// Package machine reads what the server itself knows of a refusal: processes, listeners, permissions, logs.
//
// Walk goes from the port that a request reaches through the configuration of each server to the next
// hop. For every file that a worker opens, Permit computes what the kernel says to that worker; Search
// finds the lines of the request in the logs, and counts it when a log is silent. Nothing is written,
// no other user is taken on, and every read has a bound.
package machine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Bounds of what is read.
const (
	MaxFile    = 4 << 20 // bytes of one file
	MaxGlob    = 4096    // matches of one pattern
	maxEntries = 1 << 16 // directory entries that one pattern or listing looks at
	maxFiles   = 1 << 14 // files of one diagnosis
	maxLinks   = 40      // symbolic links of one path, as Linux has it
	maxParts   = 4096    // components of one path, links resolved
)

var (
	errTooLarge = errors.New("larger than 4 MiB")
	errTooMany  = errors.New("more than this reads")
	errRegular  = errors.New("not a regular file")
)

// Machine is this machine, read only. It serves one diagnosis: processes and listeners are read once.
// It implements pinpoint.Files.
type Machine struct {
	// Root is put before every path; "" on the machine itself.
	Root string
	// Addrs are the addresses of this machine; nil: those of its interfaces.
	Addrs []netip.Addr

	mu        sync.Mutex
	files     map[string]bool // that were read
	procs     []*Process
	listeners []Listener
	scanned   bool
	users     accounts
	mounts    []mount
	labels    *fileContexts
	spent     bool // the file contexts were looked for
}

// New is the machine that this program runs on.
func New() *Machine { return &Machine{} }

// ReadFile reads a regular file of at most MaxFile bytes. A device, a pipe or a socket is not opened.
func (m *Machine) ReadFile(name string) ([]byte, error) {
	f, err := m.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: cause(err)}
	}
	if len(data) > MaxFile {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errTooLarge}
	}
	return data, nil
}

// cause is an error without the name of a file that it holds.
func cause(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// open opens a regular file for reading.
func (m *Machine) open(name string) (*os.File, error) {
	real, err := m.real(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: cause(err)}
	}
	st, err := os.Stat(real)
	if err == nil && !st.Mode().IsRegular() {
		err = errRegular
	}
	if err == nil {
		err = m.note(name)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: cause(err)}
	}
	// What was a file a moment ago may be a pipe by now: do not wait for its other end.
	f, err := os.OpenFile(real, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: cause(err)}
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, &fs.PathError{Op: "open", Path: name, Err: errRegular}
	}
	return f, nil
}

// note remembers that a file is read. What lies in /proc is not of interest.
func (m *Machine) note(name string) error {
	name = path.Clean(name)
	if strings.HasPrefix(name, "/proc/") {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files == nil {
		m.files = map[string]bool{}
	}
	if !m.files[name] && len(m.files) >= maxFiles {
		return errTooMany
	}
	m.files[name] = true
	return nil
}

// Files are the names of the files that were read, in order.
func (m *Machine) Files() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := make([]string, 0, len(m.files))
	for n := range m.files {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// real is the path to hand to the system: below Root, no link leads out of it.
func (m *Machine) real(name string) (string, error) {
	if !path.IsAbs(name) {
		return "", fmt.Errorf("%q is not absolute", name)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", syscall.EINVAL
	}
	if m.Root == "" {
		return name, nil
	}
	t := m.trace(m.Root, name, nil)
	last := t.parts[len(t.parts)-1]
	if t.err != nil {
		return "", t.err
	}
	return m.Root + last.Path, nil
}

// Glob expands a pattern as path/filepath does, over at most 65,536 directory entries. With more matches than
// MaxGlob it returns those it has and an error.
func (m *Machine) Glob(pattern string) ([]string, error) {
	if !path.IsAbs(pattern) {
		return nil, fmt.Errorf("%q is not absolute", pattern)
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, err
	}
	// path.Clean takes away what asks for a directory.
	onlyDirs := strings.HasSuffix(pattern, "/") || strings.HasSuffix(pattern, "/.")
	found := []string{"/"}
	left := maxEntries
	parts := strings.Split(strings.Trim(path.Clean(pattern), "/"), "/")
	if len(parts) > 256 {
		return nil, errTooMany
	}
	for i, part := range parts {
		if part == "" {
			continue
		}
		var next []string
		for _, dir := range found {
			if !strings.ContainsAny(part, `*?[\`) {
				name := path.Join(dir, part)
				if real, err := m.real(name); err == nil {
					if st, err := os.Stat(real); err == nil && (i == len(parts)-1 || st.IsDir()) {
						next = append(next, name)
					}
				}
				continue
			}
			names, err := m.list(dir, &left)
			for _, n := range names {
				if ok, _ := path.Match(part, n); !ok {
					continue
				}
				if len(next) == MaxGlob {
					return next, fmt.Errorf("%q: %w", pattern, errTooMany)
				}
				next = append(next, path.Join(dir, n))
			}
			if errors.Is(err, errTooMany) {
				return next, fmt.Errorf("%q: %w", pattern, err)
			}
		}
		found = next
	}
	if onlyDirs {
		found = slices.DeleteFunc(found, func(name string) bool {
			real, err := m.real(name)
			if err != nil {
				return true
			}
			st, err := os.Stat(real)
			return err != nil || !st.IsDir()
		})
	}
	return found, nil
}

// list is the names in a directory, in order; left is how many more may be looked at.
func (m *Machine) list(dir string, left *int) (names []string, err error) {
	real, err := m.real(dir)
	if err != nil {
		return nil, err
	}
	return listReal(real, left)
}

func listReal(real string, left *int) (names []string, err error) {
	if st, err := os.Stat(real); err != nil || !st.IsDir() {
		return nil, syscall.ENOTDIR
	}
	f, err := os.OpenFile(real, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for {
		some, err := f.Readdirnames(1024)
		*left -= len(some)
		if *left < 0 {
			return nil, errTooMany
		}
		names = append(names, some...)
		if err != nil {
			slices.Sort(names)
			if err == io.EOF {
				return names, nil
			}
			return names, err
		}
	}
}

// local says that an address is one of this machine.
func (m *Machine) local(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if a.IsLoopback() || a.IsUnspecified() {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Addrs == nil {
		m.Addrs = interfaceAddrs()
	}
	return slices.Contains(m.Addrs, a)
}
