package wire

// socketState is what the kernel knows of the other side.
type socketState uint8

const (
	socketOpen       socketState = iota
	socketHalfClosed             // it sent FIN: it sends no more, or is gone
	socketClosed                 // reset, or closed on our side
)
