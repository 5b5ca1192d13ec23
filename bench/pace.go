//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The open-loop generator. Calls are due at fixed moments, whether or not earlier
// ones have been answered, and their latency counts from the moment they were
// due: a proxy that stalls pays for every call it kept waiting, which a closed
// loop would simply not have sent.
//
// It is one thread around epoll and a timer descriptor, because Go's own timers
// and network poller wake only to the millisecond when a process is idle, which
// would be most of what is measured.

// keyVariable carries the API key to the generator, out of sight of ps.
const keyVariable = "WHYGATE_BENCH_KEY"

// measuring is the line by which the generator says that its warm-up is over.
const measuring = "measuring"

// paced is the generator's result. Times are microseconds.
type paced struct {
	Calls   int64   `json:"calls"`
	Seconds float64 `json:"seconds"`
	P50     float64 `json:"p50"`
	P99     float64 `json:"p99"`
	P999    float64 `json:"p999"`
	Longest float64 `json:"longest"`
	Lag99   float64 `json:"lag99"` // how late calls were sent, whether for want of a connection or of CPU
}

func pace(args []string) error {
	f := flag.NewFlagSet("pace", flag.ContinueOnError)
	address := f.String("address", "", "host:port")
	rate := f.Float64("rate", 0, "calls per second")
	connections := f.Int("connections", 64, "")
	warmup := f.Duration("warmup", time.Second, "")
	duration := f.Duration("duration", 5*time.Second, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	to, err := netip.ParseAddrPort(*address)
	if err != nil {
		return err
	}
	p, err := newPacer(to, *rate, *connections)
	if err != nil {
		return err
	}
	defer p.close()
	result, err := p.run(*warmup, *duration, func() { fmt.Println(measuring) })
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		return err
	}
	// Stay until the harness has read what this process spent.
	fds := []unix.PollFd{{Fd: 1}}
	for {
		if _, err := unix.Poll(fds, 10_000); err != unix.EINTR {
			return nil
		}
	}
}

// A pacer holds the connections and what is under way on them.
type pacer struct {
	request  []byte
	interval float64 // nanoseconds between calls
	epoll    int
	timer    int
	conns    []pacedConn
	free     []int // connections without a call, used in turn so that none goes stale
	latency  histogram
	lag      histogram
}

type pacedConn struct {
	fd   int
	due  time.Duration // when its call was due, since the start
	got  []byte        // what came of the answer so far
	room [16 << 10]byte
}

func newPacer(to netip.AddrPort, rate float64, connections int) (*pacer, error) {
	if rate <= 0 {
		return nil, fmt.Errorf("rate %g is not positive", rate)
	}
	p := &pacer{
		request:  fmt.Appendf(nil, "GET / HTTP/1.1\r\nHost: %s\r\nX-Api-Key: %s\r\n\r\n", to, os.Getenv(keyVariable)),
		interval: 1e9 / rate,
		epoll:    -1,
		timer:    -1,
		conns:    make([]pacedConn, connections),
	}
	if err := p.open(to); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *pacer) open(to netip.AddrPort) (err error) {
	for i := range p.conns {
		p.conns[i].fd = -1
	}
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	if p.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return fmt.Errorf("timerfd_create: %w", err)
	}
	if err := p.watch(p.timer, len(p.conns)); err != nil {
		return err
	}
	for i := range p.conns {
		c := &p.conns[i]
		if c.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		if err := unix.Connect(c.fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
			return fmt.Errorf("connecting to %s: %w", to, err)
		}
		if err := unix.SetsockoptInt(c.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return fmt.Errorf("TCP_NODELAY: %w", err)
		}
		if err := unix.SetNonblock(c.fd, true); err != nil {
			return err
		}
		if err := p.watch(c.fd, i); err != nil {
			return err
		}
		c.got = c.room[:0]
		p.free = append(p.free, i)
	}
	return nil
}

func (p *pacer) watch(fd, index int) error {
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(index)}); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

func (p *pacer) close() {
	for _, c := range p.conns {
		unix.Close(c.fd)
	}
	unix.Close(p.timer)
	unix.Close(p.epoll)
}

// run sends for warmup and duration, and counts the calls that were due after warmup.
func (p *pacer) run(warmup, duration time.Duration, warm func()) (paced, error) {
	var (
		total   = int((warmup + duration).Seconds() * 1e9 / p.interval)
		start   = time.Now()
		due     = func(i int) time.Duration { return time.Duration(float64(i) * p.interval) }
		next    int // the first call that was not sent yet
		done    int
		last    time.Duration
		waiting = true // for the warm-up to end
		events  = make([]unix.EpollEvent, len(p.conns)+1)
	)
	for done < total {
		now := time.Since(start)
		for next < total && due(next) <= now && len(p.free) > 0 {
			if waiting && due(next) >= warmup {
				waiting = false
				warm()
			}
			c := &p.conns[p.free[0]]
			copy(p.free, p.free[1:])
			p.free = p.free[:len(p.free)-1]
			c.due = due(next)
			if n, err := unix.Write(c.fd, p.request); err != nil || n != len(p.request) {
				return paced{}, fmt.Errorf("sending call %d: %d bytes, %w", next, n, err)
			}
			if c.due >= warmup {
				p.lag.add(now - c.due)
			}
			next++
			now = time.Since(start)
		}
		if next < total && len(p.free) > 0 {
			wait := max(due(next)-now, 1)
			if err := unix.TimerfdSettime(p.timer, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(wait))}, nil); err != nil {
				return paced{}, fmt.Errorf("timerfd_settime: %w", err)
			}
		}
		n, err := unix.EpollWait(p.epoll, events, 10_000)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return paced{}, fmt.Errorf("epoll_wait: %w", err)
		}
		if n == 0 {
			return paced{}, fmt.Errorf("no answer for 10 s; %d of %d calls were answered", done, total)
		}
		for _, event := range events[:n] {
			i := int(event.Fd)
			if i == len(p.conns) {
				var count [8]byte
				unix.Read(p.timer, count[:])
				continue
			}
			whole, err := p.conns[i].receive()
			if err != nil {
				return paced{}, fmt.Errorf("after %d answers: %w", done, err)
			}
			if whole {
				last = time.Since(start)
				if d := p.conns[i].due; d >= warmup {
					p.latency.add(last - d)
				}
				p.free = append(p.free, i)
				done++
			}
		}
	}
	return paced{
		Calls:   p.latency.count,
		Seconds: max(last-warmup, duration).Seconds(),
		P50:     micros(p.latency.quantile(0.5)),
		P99:     micros(p.latency.quantile(0.99)),
		P999:    micros(p.latency.quantile(0.999)),
		Longest: micros(p.latency.longest),
		Lag99:   micros(p.lag.quantile(0.99)),
	}, nil
}

// receive takes what has arrived and says whether that completes the answer.
func (c *pacedConn) receive() (whole bool, err error) {
	n, err := unix.Read(c.fd, c.room[len(c.got):])
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("receiving: %w", err)
	case n == 0:
		return false, fmt.Errorf("the connection was closed: %w", io.ErrUnexpectedEOF)
	}
	c.got = c.room[:len(c.got)+n]
	whole, err = complete(c.got)
	if err == nil && !whole && len(c.got) == len(c.room) {
		err = errors.New("the answer does not fit into 16 KiB")
	}
	if whole {
		c.got = c.room[:0]
	}
	return whole, err
}

var (
	headEnd       = []byte("\r\n\r\n")
	lineEnd       = []byte("\r\n")
	success       = []byte("HTTP/1.1 200 ")
	contentLength = []byte("content-length:")
)

// complete says whether an answer is whole. It knows what this origin sends: 200,
// and a body of known length; all else is an error.
func complete(answer []byte) (bool, error) {
	head, rest, ok := bytes.Cut(answer, headEnd)
	if !ok {
		return false, nil
	}
	if !bytes.HasPrefix(head, success) {
		line, _, _ := bytes.Cut(head, lineEnd)
		return false, fmt.Errorf("answered %q", line)
	}
	for len(head) > 0 {
		var line []byte
		line, head, _ = bytes.Cut(head, lineEnd)
		if len(line) < len(contentLength) || !bytes.EqualFold(line[:len(contentLength)], contentLength) {
			continue
		}
		length := 0
		for _, c := range bytes.TrimSpace(line[len(contentLength):]) {
			if c < '0' || c > '9' || length > 1<<20 {
				return false, fmt.Errorf("answered %q", line)
			}
			length = length*10 + int(c-'0')
		}
		if len(rest) > length {
			return false, fmt.Errorf("%d bytes came after the end of the answer", len(rest)-length)
		}
		return len(rest) == length, nil
	}
	return false, errors.New("answered without a Content-Length")
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
