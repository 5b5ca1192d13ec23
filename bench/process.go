//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A launcher starts processes from one thread that lives as long as the harness.
// Pinning needs a thread of its own, because a child inherits the cores of the
// thread that forked it; and the kernel ties a child's parent-death signal to
// that very thread, so it must not end before the children do.
type launcher chan func()

func newLauncher() launcher {
	l := make(launcher)
	go func() {
		runtime.LockOSThread()
		for work := range l {
			work()
		}
	}()
	return l
}

// A process is a child of the harness, in a process group of its own.
type process struct {
	cmd   *exec.Cmd
	pid   int
	ended chan struct{} // closed when it has been waited for
}

// start runs argv on one core, in folder dir. Should the harness die without
// stopping it, the kernel terminates it.
func (l launcher) start(cpu int, dir string, env []string, out, errs io.Writer, argv []string) (*process, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	started := make(chan error)
	l <- func() {
		var before, one unix.CPUSet
		if err := unix.SchedGetaffinity(0, &before); err != nil {
			started <- fmt.Errorf("reading which cores may be used: %w", err)
			return
		}
		one.Set(cpu)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			started <- fmt.Errorf("choosing core %d: %w", cpu, err)
			return
		}
		err := cmd.Start()
		if back := unix.SchedSetaffinity(0, &before); back != nil && err == nil {
			err = back
		}
		started <- err
	}
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", argv[0], err)
	}
	p := &process{cmd: cmd, pid: cmd.Process.Pid, ended: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// stop asks the process to end, and after five seconds makes it and its group, such
// as nginx's worker. It returns when the process is gone.
func (p *process) stop() {
	if p == nil || !p.running() {
		return
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(5 * time.Second):
		syscall.Kill(-p.pid, syscall.SIGKILL)
		<-p.ended
	}
}

// running says whether it has not ended yet.
func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// freeAddress finds an address on loopback that nobody listens on. It stays below
// the ports that the kernel gives to outgoing connections, which come and go.
func freeAddress() (string, error) {
	for range 200 {
		address := "127.0.0.1:" + strconv.Itoa(20000+rand.IntN(12000))
		l, err := net.Listen("tcp", address)
		if err == nil {
			return address, l.Close()
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return "", err
		}
	}
	return "", errors.New("no free port between 20000 and 32000 on 127.0.0.1 in 200 tries")
}

// portTaken reports whether a server complained of its port, in the words that C
// libraries and Go share.
func portTaken(said string) bool {
	return strings.Contains(said, "ddress already in use")
}

// said is the end of what a process printed into a file, as part of a sentence.
func said(path string) string {
	text, err := os.ReadFile(path)
	text = bytes.TrimSpace(text)
	switch {
	case err != nil:
		return "what it said is lost: " + err.Error()
	case len(text) == 0:
		return "it said nothing"
	case len(text) > 600:
		text = text[len(text)-600:]
	}
	return "it said: " + string(text)
}
