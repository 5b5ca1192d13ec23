//go:build !linux

package wire

import (
	"net"
	"syscall"
)

// askSocket cannot tell on this system: a client that left is noticed when its answer
// is written.
func askSocket(syscall.RawConn) socketState { return socketOpen }

type asker struct{}

func (a *asker) bind(syscall.RawConn) {}

func (a *asker) quiet() bool { return true }

func quiet(syscall.RawConn) bool { return true }

// acceptQueued takes nothing on this system: connections that nobody has accepted yet are reset when a listener closes.
func acceptQueued(net.Listener, func(net.Conn)) {}
