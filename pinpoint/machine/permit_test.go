//go:build linux

package machine

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whygate/whygate/pinpoint"
)

// TestMain lets the test binary be the worker that opens files.
func TestMain(m *testing.M) {
	if os.Getenv("MACHINE_TEST_WORKER") != "" {
		work(os.Stdin, os.Stdout)
		return
	}
	os.Exit(m.Run())
}

// wish is one line of the worker's orders.
type wish struct{ Path, Want string }

// work tries each wish and prints its errno.
func work(in io.Reader, out io.Writer) {
	w := bufio.NewWriter(out)
	defer w.Flush()
	dec := json.NewDecoder(in)
	for {
		var o wish
		if dec.Decode(&o) != nil {
			return
		}
		var err error
		switch o.Want {
		case "read":
			err = try(o.Path, unix.O_RDONLY)
		case "list":
			err = try(o.Path, unix.O_RDONLY|unix.O_DIRECTORY)
		case "write":
			if err = try(o.Path, unix.O_WRONLY); errors.Is(err, unix.EISDIR) {
				err = unix.Faccessat2(unix.AT_FDCWD, o.Path, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
			} else if errors.Is(err, unix.ENOENT) {
				err = create(o.Path)
			}
		case "search":
			err = try(o.Path+"/.", unix.O_PATH)
		case "exec":
			err = unix.Faccessat2(unix.AT_FDCWD, o.Path, unix.X_OK, unix.AT_EACCESS)
		case "":
			err = try(o.Path, unix.O_PATH)
		}
		n := 0
		if e, ok := errors.AsType[syscall.Errno](err); ok {
			n = int(e)
		}
		fmt.Fprintln(w, n)
	}
}

func try(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// create makes a file and takes it away again.
func create(path string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return err
	}
	return os.Remove(name)
}

// errnos asks a process of that identity for what it may.
func errnos(t *testing.T, binary string, who Identity, wishes []wish) []syscall.Errno {
	t.Helper()
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		enc := json.NewEncoder(pw)
		for _, w := range wishes {
			enc.Encode(w)
		}
		pw.Close()
	}()
	cmd := exec.CommandContext(t.Context(), binary)
	cmd.Env = append(os.Environ(), "MACHINE_TEST_WORKER=1")
	cmd.Dir = "/"
	cmd.Stdin = pr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: who.UID, Gid: who.GID, Groups: who.Groups}}
	out, err := cmd.Output()
	pr.Close()
	if err != nil {
		t.Fatalf("worker %d: %v", who.UID, err)
	}
	var got []syscall.Errno
	for line := range strings.Lines(string(out)) {
		var n int
		fmt.Sscan(line, &n)
		got = append(got, syscall.Errno(n))
	}
	if len(got) != len(wishes) {
		t.Fatalf("worker answered %d of %d", len(got), len(wishes))
	}
	return got
}

// tempTree is a directory that every account may reach, and a copy of this program in it.
func tempTree(t *testing.T) (dir, binary string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can be other users")
	}
	dir, err := os.MkdirTemp("/tmp", "permit")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	binary = dir + "/worker"
	if err := os.WriteFile(binary, self, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir, binary
}

func setACL(t *testing.T, path string, entries []Entry) bool {
	t.Helper()
	raw := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		for tag, name := range aclTags {
			if name == e.Tag {
				raw = binary.LittleEndian.AppendUint16(raw, tag)
			}
		}
		raw = binary.LittleEndian.AppendUint16(raw, uint16(e.Perm))
		id := e.ID
		if e.Tag != "user" && e.Tag != "group" {
			id = ^uint32(0)
		}
		raw = binary.LittleEndian.AppendUint32(raw, id)
	}
	err := unix.Setxattr(path, "system.posix_acl_access", raw, 0)
	if errors.Is(err, unix.ENOTSUP) {
		return false
	}
	if err != nil {
		t.Fatalf("list on %s: %v", path, err)
	}
	return true
}

// TestPermitEqualsKernel makes random trees and asks the kernel, through processes of other users, what
// Permit computes: both must say the same of every path.
func TestPermitEqualsKernel(t *testing.T) {
	dir, binary := tempTree(t)
	r := rand.New(rand.NewPCG(4, uint64(time.Now().UnixNano())))
	seed := r.Uint64()
	t.Logf("seed %d", seed)
	r = rand.New(rand.NewPCG(4, seed))
	uids := []uint32{4001, 4002, 4003, 0}
	gids := []uint32{4001, 4002, 4004, 0}
	identities := []Identity{
		{UID: 4001, GID: 4001}, {UID: 4002, GID: 4002, Groups: []uint32{4004}}, {UID: 4003, GID: 4004, Groups: []uint32{4001, 4002}},
		{UID: 4009, GID: 4009}, {UID: 4009, GID: 4009, Groups: []uint32{0, 4001}}, {UID: 0, GID: 0, Caps: ^uint64(0)},
	}
	const trees = 30
	mode := func() uint32 {
		switch r.IntN(6) {
		case 0, 1:
			return 0o755
		case 2:
			return []uint32{0o750, 0o711, 0o701, 0o070, 0o007, 0o705, 0o1777}[r.IntN(7)]
		}
		return uint32(r.IntN(0o1000))
	}
	var all []string
	for i := range trees {
		root := fmt.Sprintf("%s/t%d", dir, i)
		os.Mkdir(root, 0o755)
		dirs, objects := []string{root}, []string{root}
		for j := range 4 + r.IntN(14) {
			parent := dirs[r.IntN(len(dirs))]
			name := fmt.Sprintf("%s/%c%d", parent, 'a'+rune(j), j)
			switch r.IntN(10) {
			case 0, 1, 2, 3:
				os.Mkdir(name, 0o755)
				dirs = append(dirs, name)
			case 4, 5, 6:
				os.WriteFile(name, []byte("x"), 0o644)
			default:
				target := objects[r.IntN(len(objects))]
				switch r.IntN(6) {
				case 0:
					target, _ = filepath.Rel(parent, target)
				case 1:
					target += "/.."
				case 2:
					target = "nowhere"
				case 3:
					target = name
				}
				os.Symlink(target, name)
			}
			objects = append(objects, name)
		}
		for _, o := range objects[1:] {
			st, err := os.Lstat(o)
			if err != nil {
				t.Fatal(err)
			}
			os.Lchown(o, int(uids[r.IntN(len(uids))]), int(gids[r.IntN(len(gids))]))
			if st.Mode()&os.ModeSymlink == 0 {
				unix.Chmod(o, mode())
				if r.IntN(3) == 0 {
					perm := func() uint32 { return uint32(r.IntN(8)) }
					acl := []Entry{{Tag: "user-obj", Perm: perm()}}
					for _, u := range []uint32{4001, 4003, 4009} {
						if r.IntN(2) == 0 {
							acl = append(acl, Entry{Tag: "user", ID: u, Perm: perm()})
						}
					}
					acl = append(acl, Entry{Tag: "group-obj", Perm: perm()})
					for _, g := range []uint32{4001, 4002, 4004} {
						if r.IntN(2) == 0 {
							acl = append(acl, Entry{Tag: "group", ID: g, Perm: perm()})
						}
					}
					setACL(t, o, append(acl, Entry{Tag: "mask", Perm: []uint32{7, 5, 4, 1, 0, perm()}[r.IntN(6)]}, Entry{Tag: "other", Perm: perm()}))
				}
			}
			all = append(all, o)
			if r.IntN(8) == 0 {
				all = append(all, o+"/missing", o+"/../"+filepath.Base(o), o+"/", o+"/./.")
			}
		}
	}
	// Links in a directory that everybody may write, as /tmp is, and chains of links as long as Linux follows.
	sticky := dir + "/sticky"
	os.Mkdir(sticky, 0o755)
	os.Mkdir(dir+"/target", 0o755)
	os.WriteFile(dir+"/target/f", []byte("x"), 0o644)
	for i, uid := range []int{0, 4001, 4002} {
		for _, target := range []string{"/target", "/target/f", "/outer"} {
			name := fmt.Sprintf("%s/%d%s", sticky, i, strings.ReplaceAll(target, "/", "-"))
			os.Symlink(dir+target, name)
			os.Lchown(name, uid, uid)
			all = append(all, name, name+"/", name+"/f", name+"/../target/f")
		}
	}
	os.Symlink(sticky+"/1-target-f", dir+"/outer")
	all = append(all, dir+"/outer")
	os.Chmod(sticky, 0o777|os.ModeSticky)
	os.WriteFile(dir+"/l0", []byte("x"), 0o644)
	for i := range 45 {
		os.Symlink(fmt.Sprintf("l%d", i), fmt.Sprintf("%s/l%d", dir, i+1))
		all = append(all, fmt.Sprintf("%s/l%d", dir, i+1))
	}
	m := New()
	cases, denied, wrong := 0, 0, 0
	began := time.Now()
	for _, who := range identities {
		var wishes []wish
		for _, p := range all {
			for _, want := range []string{"read", "list", "write", "search", "exec", ""} {
				if want == "exec" && strings.HasSuffix(p, "/") {
					continue
				}
				wishes = append(wishes, wish{p, want})
			}
		}
		got := errnos(t, binary, who, wishes)
		for i, w := range wishes {
			ok, clues, walk := m.Permit(pinpoint.Access{Path: w.Path, Want: w.Want}, who)
			last := walk[len(walk)-1]
			cases++
			kernel := "ok"
			switch e := got[i]; e {
			case 0:
			case syscall.EACCES, syscall.EPERM:
				kernel = "denied"
				denied++
			case syscall.ENOENT, syscall.ENOTDIR, syscall.EISDIR:
				kernel = "missing"
			case syscall.ELOOP:
				kernel = "loop"
			default:
				t.Fatalf("%v: %v", w, e)
			}
			ours := "ok"
			switch {
			case ok:
			case last.Missing:
				ours = "missing"
			case len(clues) > 0 && strings.Contains(clues[0].Says, "circle"):
				ours = "loop"
			case last.Denied:
				ours = "denied"
			default:
				ours = "unknown: " + last.Unknown
			}
			if ours == "missing" && kernel == "denied" && w.Want == "search" {
				// The kernel searches the object for ".": of a file it says so first or not.
				if st, err := os.Stat(w.Path); err == nil && !st.IsDir() {
					continue
				}
			}
			if ours != kernel {
				if wrong++; wrong < 6 {
					t.Errorf("uid %d %v %q %s: kernel %s (%v), Permit %s\nwalk %+v\nclues %+v", who.UID, who.Groups, w.Want, w.Path, kernel, got[i], ours, walk, clues)
				}
			}
			if ours == "denied" && len(clues) == 0 {
				t.Fatalf("%s: denied without a clue", w.Path)
			}
		}
	}
	t.Logf("%d cases, %d denied, %d wrong, %v", cases, denied, wrong, time.Since(began))
	if denied < 500 {
		t.Errorf("only %d denials: the trees show nothing", denied)
	}
}
