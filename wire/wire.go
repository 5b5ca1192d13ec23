// Package wire speaks HTTP/1.1: it reads requests from clients, writes their
// answers, and carries calls to upstreams, with one goroutine per connection,
// one arena per call and no hidden queues.
//
//	Server ─ accept ─ conn.serve ─ parse ─ Handler.Serve(*Call) ─ answer ─ next call
//	Conn   ─ send head and body ─ read head ─ read body piece by piece
//
// HTTP/2, and HTTP/1.1 where a listener asks for it, arrive through net/http and
// the bridge in std.go as the same *Call, so whoever serves calls does not know the
// engine.
//
// # What may be kept
//
// The strings of a Request point into the connection's buffer. They hold until
// Handler.Serve returns and not a moment longer: who keeps one must clone it. Tests
// set Poison, which overwrites the buffer after each call, so that a string that was
// kept shows itself.
//
// # Strictness
//
// Whatever two servers could read differently is refused with a Fault that says
// which rule was broken and where. The parser never accepts what net/http refuses
// (FuzzRequest proves it).
package wire

// Poison makes the server overwrite the memory of a call after the call has ended.
// Only tests set it.
var Poison = false
