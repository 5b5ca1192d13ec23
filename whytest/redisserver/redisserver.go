// Package redisserver starts throwaway Redis or Valkey servers for tests, where the binary exists. Only
// tests import it.
package redisserver

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Server is a server on a free port of 127.0.0.1, which writes nothing to the disk but its log.
type Server struct {
	// Addr is host:port, which stays the same when the server is started again.
	Addr string
	// Args are further arguments: "--requirepass", "x".
	Args []string
	dir  string
	cmd  *exec.Cmd
}

// ErrNone says that there is no binary.
var ErrNone = errors.New("there is neither redis-server nor valkey-server on this machine")

// Binary is the path of the server, or ErrNone.
func Binary() (string, error) {
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", ErrNone
}

// Start starts a server, which uses dir.
func Start(dir string, args ...string) (*Server, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: ln.Addr().String(), Args: args, dir: dir}
	ln.Close()
	return s, s.Again()
}

// Again starts the server again at its address, and returns once it answers.
func (s *Server) Again() error {
	path, err := Binary()
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(s.Addr)
	args := append([]string{"--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", s.dir}, s.Args...)
	cmd := exec.Command(path, args...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd = cmd
	for range 500 {
		if s.answers() {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.Kill()
	return fmt.Errorf("the server does not answer:\n%s", &log)
}

func (s *Server) answers() bool {
	nc, err := net.Dial("tcp", s.Addr)
	if err != nil {
		return false
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(time.Second))
	nc.Write([]byte("PING\r\n"))
	b := make([]byte, 64)
	n, _ := nc.Read(b)
	return strings.HasPrefix(string(b[:n]), "+PONG") || strings.HasPrefix(string(b[:n]), "-NOAUTH")
}

// Kill ends the server as a crash does.
func (s *Server) Kill() {
	if s.cmd != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.cmd = nil
	}
}

// Signal sends the process a signal.
func (s *Server) Signal(sig os.Signal) error { return s.cmd.Process.Signal(sig) }
