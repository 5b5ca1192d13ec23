package wire

import (
	"net"
	"syscall"
)

// sock reads and writes a TCP socket with fewer and cheaper system calls than package net, which
// tells the scheduler of each, though a socket of Go never blocks. Waiting is left to the runtime's
// poller, with the deadlines of the connection.
//
// One goroutine may read while another one writes.
type sock struct {
	*net.TCPConn
	raw syscall.RawConn

	in      []byte // of Read and exchange
	n       int    // their result
	inErr   error
	readIt  func(fd uintptr) bool // tryRead, bound once
	turnIt  func(fd uintptr) bool // tryExchange
	request []byte                // of exchange: what is not sent yet
	asked   bool                  // exchange has looked for bytes that came unasked
	fresh   bool                  // such bytes are the beginning of an answer

	out     []byte // of Write: what is not sent yet
	outErr  error
	writeIt func(fd uintptr) bool // tryWrite
}

// newSock wraps a TCP connection; for another one it returns nil.
func newSock(nc net.Conn) *sock {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	s := &sock{TCPConn: tcp, raw: raw}
	s.readIt, s.writeIt, s.turnIt = s.tryRead, s.tryWrite, s.tryExchange
	return s
}

// Read reads what is there, or waits.
func (s *sock) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.in = p
	err := s.raw.Read(s.readIt)
	s.in = nil
	if err != nil {
		return 0, err
	}
	return s.n, s.inErr
}

// tryRead reports whether Read has a result.
func (s *sock) tryRead(fd uintptr) bool {
	s.n, s.inErr = readNow(fd, s.in)
	return s.inErr != syscall.EAGAIN
}

// exchange sends a request and reads the beginning of its answer. Package net tries to read before it
// waits, since a wait forgets the events before it, and on a connection that takes turns that first read
// nearly always finds nothing. Here it comes before the request is sent, and sees what nobody asked for.
//
// rest is what the socket would not take, if there was no error: the caller writes it and reads then.
func (s *sock) exchange(request, answer []byte, fresh bool) (n int, rest []byte, err error) {
	s.request, s.in, s.asked, s.fresh = request, answer, false, fresh
	s.n, s.inErr = 0, nil
	err = s.raw.Read(s.turnIt)
	if err == nil {
		err = s.inErr
	}
	rest = s.request
	s.request, s.in = nil, nil
	return s.n, rest, err
}

func (s *sock) tryExchange(fd uintptr) bool {
	if s.asked {
		return s.tryRead(fd)
	}
	s.asked = true
	answered := s.tryRead(fd)
	if answered && !s.fresh {
		s.n, s.inErr = 0, ErrNotQuiet
		return true
	}
	n, err := writeNow(fd, s.request)
	if s.request = s.request[n:]; err != nil {
		s.n, s.inErr = 0, err
		return true
	}
	if answered {
		return true
	}
	s.inErr = nil
	return len(s.request) > 0
}

// Write writes all of p.
func (s *sock) Write(p []byte) (int, error) {
	s.out, s.outErr = p, nil
	err := s.raw.Write(s.writeIt)
	n := len(p) - len(s.out)
	s.out = nil
	if err == nil {
		err = s.outErr
	}
	return n, err
}

func (s *sock) tryWrite(fd uintptr) bool {
	n, err := writeNow(fd, s.out)
	s.out, s.outErr = s.out[n:], err
	return err != nil || len(s.out) == 0
}
