package wire

import "time"

// Underscores is what becomes of header names with "_".
type Underscores uint8

// The choices for Underscores.
const (
	UnderscoreReject Underscores = iota
	UnderscoreDrop
	UnderscoreAllow
)

// Limits bound what one message may hold.
type Limits struct {
	HeaderBytes int // request line and header fields together
	HeaderCount int
	URIBytes    int
	Underscores Underscores
}

// Config is what a server obeys. It may be replaced while it runs; a connection
// takes the new one with its next call.
type Config struct {
	Limits
	HeaderTimeout     time.Duration // first byte to end of the head
	BodyTimeout       time.Duration // between two pieces of a request body
	WriteTimeout      time.Duration // while a client takes nothing of an answer
	IdleTimeout       time.Duration // between two calls
	MaxAge            time.Duration // of a connection; 0 for ever
	HandshakeTimeout  time.Duration // TLS and PROXY header
	HalfClosedTimeout time.Duration // a call goes on after its client sent FIN
	TunnelTimeout     time.Duration // silence on an upgraded connection

	MaxConns        int // 0 for no bound
	MaxConnsPerAddr int // 0 for no bound
	MaxStreams      int // per HTTP/2 connection
	MaxResets       int // of its streams within resetWindow, before they are answered; 0 for no bound
}
