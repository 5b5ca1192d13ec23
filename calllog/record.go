// Package calllog keeps one record of every call.
//
// Records go into a journal of preallocated, memory-mapped files: appending is a
// copy into memory, and what was appended survives the death of the process.
// Files are closed by size and age, indexed, and deleted by size and age. Queries
// walk them from the newest record backwards.
//
// The way of a record:
//
//	encode.go     Record to bytes and back: the layout, what is cut
//	journal.go    Append: reserve room in the active segment, fill it, commit
//	segment.go    one file: header, reserving, committing, amending
//	prepare.go    the next segment, ready before it is needed
//	flush.go      to the disk, each second
//	seal.go       a full segment is cut to its size and gets its index
//	retention.go  the oldest segments go
//
// and the way back:
//
//	reader.go     Find: ask the indexes (index.go), walk what has none (walk.go)
//	query.go      Query and Last: filter.go decides from the bytes, newest first
//	follow.go     Follow: new records as they come
//
// A directory holds NNNNNNNNNN.journal and NNNNNNNNNN.index files, numbered in the
// order in which they were written, and the file lock. Readers need no lock and no
// writer; they meet files that grow, rotate, vanish or are damaged at any time.
package calllog

import (
	"net/netip"
	"time"
)

// Outcome is how a call ended, in the order of the path it took.
type Outcome uint8

// The outcomes.
const (
	Allowed  Outcome = iota // forwarded, and the upstream answered below 400
	Relayed                 // forwarded, and the upstream itself answered 400 or above
	Refused                 // a check of the gateway said no
	Failed                  // the upstream could not be reached or broke off
	Answered                // the gateway answered by itself: preflight, well-known page
)

// Flags mark what is worth finding among records.
type Flags uint16

// The flags.
const (
	Streamed   Flags = 1 << iota // the answer was relayed piece by piece
	Upgraded                     // the connection became a tunnel
	ClientGone                   // the client left before the end
	Truncated                    // the upstream broke off within the body
	Shadowed                     // a shadow policy would have refused; Detail says which
	Hinted                       // Detail carries hints, such as stage.left
	Retried                      // more than one target was tried
	Panicked                     // a check or the gateway panicked
	TLS                          // the client came over TLS
)

// Record is one call, as logged. Strings are copied by Append, which cuts them: Path
// to 1024 bytes, UserAgent to 256, RequestID to 128, Detail to 64 KiB, all others
// to 255. A record that was read owns its memory.
type Record struct {
	ID       ID
	Start    time.Time     // when the first byte of the request was read
	Duration time.Duration // until just before the last byte of the answer was written
	Decide   time.Duration // spent on deciding
	Wait     time.Duration // until the head of the upstream's answer; 0 without upstream

	Status  uint16
	Outcome Outcome
	Flags   Flags
	Proto   uint8 // 10, 11 or 20
	Tries   uint8 // upstream attempts

	Method, Host, Path string // path as received, without the query

	Listener                    string
	API, Version, Stage, Route  string
	Application, Credential     string // credential: the public prefix of the key
	Subscription, Plan          string
	Upstream, Target            string
	Client                      netip.Addr // after trusted proxies
	Peer                        netip.Addr // of the socket
	RequestID, UserAgent, Trace string     // truncated by the writer; Trace is the W3C trace id

	BytesIn, BytesOut int64 // bodies, without framing
	Revision          uint64
	Remaining         int32 // left of the tightest limit, -1 without limit

	Reason string // code of the refusal, the failure, or who refused upstream
	Check  string // name of the check that refused
	Step   uint8  // its number among Steps, from 1; 0 for none
	Steps  uint8

	// Detail is JSON of the explanation: facts, trail, hints. Empty for plain allowed calls.
	Detail []byte
}
