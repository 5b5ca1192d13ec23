package machine

import (
	"errors"
	"io/fs"
	"path"
	"strings"
	"syscall"
)

// Component is one object on the way to a file, as the worker sees it.
type Component struct {
	Path    string      `json:"path"`
	Mode    fs.FileMode `json:"mode"`
	UID     uint32      `json:"uid"`
	GID     uint32      `json:"gid"`
	ACL     []Entry     `json:"acl,omitempty"`
	Label   string      `json:"label,omitempty"`  // SELinux context
	Target  string      `json:"target,omitempty"` // of a symbolic link
	Needs   string      `json:"needs,omitempty"`  // "x", "r", "w", "rx" …
	Class   string      `json:"class,omitempty"`  // the rule that decided: "owner", "user", "group", "mask", "other", "capability"
	Denied  bool        `json:"denied,omitempty"`
	Missing bool        `json:"missing,omitempty"`
	Unknown string      `json:"unknown,omitempty"` // why it could not be read here

	perm    uint32 // the twelve mode bits
	last    bool   // nothing follows it
	regular bool
}

// dir says that it is a directory.
func (c *Component) dir() bool { return c.Mode.IsDir() }

// traced is a path that was walked.
type traced struct {
	parts []Component
	err   error // ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG, or what this program may not see
}

// trace walks a path as the kernel does (path_resolution(7)): below root, each link followed where it
// stands. check is asked before a directory is searched and before a link is followed; false ends the walk.
func (m *Machine) trace(root, name string, check func(c, parent *Component) bool) (t traced) {
	add := func(p string) *Component {
		c, err := examine(root + p)
		c.Path = p
		if err != nil {
			t.err = err
			c.Missing = errors.Is(err, fs.ErrNotExist)
			if !c.Missing {
				c.Unknown = reasonOf(err)
			}
		}
		t.parts = append(t.parts, c)
		return &t.parts[len(t.parts)-1]
	}
	if add("/"); t.err != nil {
		return t
	}
	if len(name) >= 4096 {
		t.err = syscall.ENAMETOOLONG
		return t
	}
	rest := strings.Split(name, "/")
	slash := strings.HasSuffix(name, "/") || strings.HasSuffix(name, "/.")
	here, links := 0, 0 // index of the directory where we stand
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		if part == "" {
			continue
		}
		if len(t.parts) >= maxParts {
			t.err = syscall.ELOOP
			return t
		}
		dir := t.parts[here]
		if !dir.dir() {
			t.err = syscall.ENOTDIR
			return t
		}
		if check != nil && !check(&t.parts[here], nil) {
			t.err = syscall.EACCES
			return t
		}
		if part == "." {
			continue
		}
		if part == ".." {
			if dir.Path == "/" {
				continue
			}
			if add(path.Dir(dir.Path)); t.err != nil {
				return t
			}
			here = len(t.parts) - 1
			continue
		}
		if len(part) > 255 {
			t.err = syscall.ENAMETOOLONG
			return t
		}
		c := add(path.Join(dir.Path, part))
		c.last = strings.Join(rest, "") == ""
		if t.err != nil {
			return t
		}
		if c.Mode&fs.ModeSymlink == 0 {
			here = len(t.parts) - 1
			continue
		}
		if links++; links > maxLinks {
			t.err = syscall.ELOOP
			return t
		}
		if check != nil {
			parent := t.parts[here]
			if !check(c, &parent) {
				t.err = syscall.EACCES
				return t
			}
		}
		if c.Target == "" || len(c.Target) >= 4096 {
			t.err = syscall.ENOENT
			return t
		}
		if strings.HasPrefix(c.Target, "/") {
			if add("/"); t.err != nil {
				return t
			}
			here = len(t.parts) - 1
		}
		if strings.HasSuffix(c.Target, "/") && c.last {
			slash = true
		}
		rest = append(strings.Split(c.Target, "/"), rest...)
	}
	// Where we stand is the object itself: it comes last.
	if here != len(t.parts)-1 {
		t.parts = append(t.parts, t.parts[here])
	}
	if slash && !t.parts[here].dir() {
		t.err = syscall.ENOTDIR
	}
	return t
}

// reasonOf is an error without the path that it names.
func reasonOf(err error) string {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return err.Error()
}
