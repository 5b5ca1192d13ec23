package machine

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// An application has no configuration that is read here. Its logs are found by what it holds open.

const (
	maxOpenLogs  = 16
	maxOpenFiles = 1 << 12 // descriptors of one application that are looked at
)

// openLogs are the files that a process and its workers write and that look like logs: standard output and
// error, and files with log in their name.
func (m *Machine) openLogs(p *Process) (logs []pinpoint.LogFile) {
	seen := map[string]bool{}
	left := maxOpenFiles
	for _, q := range m.Processes() {
		if q != p && (q.Parent != p.PID || q.Product != p.Product) || q.Container || q.Root != "/" && q.Root != "" {
			continue
		}
		dir := "/proc/" + strconv.Itoa(q.PID)
		names, err := listReal(m.Root+dir+"/fd", &left)
		if err != nil {
			continue
		}
		for _, fd := range names {
			name := m.link(q.PID, "fd/"+fd)
			if !path.IsAbs(name) || strings.HasSuffix(name, " (deleted)") || strings.HasPrefix(name, "/dev/") || strings.HasPrefix(name, "/proc/") || seen[name] || len(logs) == maxOpenLogs {
				continue
			}
			standard := fd == "1" || fd == "2"
			if !standard && !strings.Contains(strings.ToLower(path.Base(name)), "log") && !strings.Contains(strings.ToLower(path.Dir(name)), "/log") || !m.writes(q.PID, fd) {
				continue
			}
			seen[name] = true
			logs = append(logs, pinpoint.LogFile{Path: name, Product: p.Product, Kind: "error"})
		}
	}
	return logs
}

// writes says that a descriptor is open for writing (proc(5), fdinfo: flags are octal).
func (m *Machine) writes(pid int, fd string) bool {
	for line := range strings.Lines(string(m.proc(pid, "fdinfo/"+fd, 4096))) {
		if v, ok := strings.CutPrefix(line, "flags:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(v), 8, 64)
			return err == nil && n&3 != 0 // 1 is for writing only, 2 for both (open(2))
		}
	}
	return false
}

// answered is the status behind a request line, as application servers log it.
var answered = regexp.MustCompile(`"[A-Z]{3,16} \S+(?: HTTP/[\d.]+)?" (\d{3})\b`)

// application reads the logs of a hop that decides by its own program.
func (w *walker) application(h *Hop) {
	logs := w.openLogs(h.Process)
	if len(logs) == 0 {
		return
	}
	q := w.query
	if h.Arrival.Request != nil && h.N > 1 {
		q = w.behind(q, h.Arrival)
		q.Host = bare(h.Arrival.Request.Host()) // frameworks log the name that they refuse, and little else
		q.Client = h.Arrival.Local.Addr()       // the server before is the client, whoever that was
		if !q.Client.IsLoopback() {
			q.Client = h.Arrival.Client
		}
	}
	h.Logs = w.Search(w.ctx, logs, q, w.readers.Reading)
	var clues []pinpoint.Clue
	wrote := false
	for _, l := range h.Logs {
		w.report.Trail = append(w.report.Trail, pinpoint.Step{Says: fmt.Sprintf("hop %d: %s", h.N, l.Says), At: pinpoint.Place{File: l.Path}})
		for _, line := range l.Lines {
			for _, c := range line.Clues {
				if c.Hop = h.N; c.Refuser == "" && c.Cause != "" {
					c.Refuser = h.Product
				}
				clues = append(clues, c)
			}
			if c, ok := w.verifier(h, line); ok {
				clues = append(clues, c)
			}
			if g := answered.FindStringSubmatch(line.raw); g != nil && !wrote && h.Arrival.Why == "" && g[1] == strconv.Itoa(w.status) && w.status >= 400 && line.By != "like" && line.By != "client" {
				wrote = true
				clues = append(clues, pinpoint.Clue{Source: pinpoint.FromLog, ID: pinpoint.ApplicationLog, Refuser: h.Product, Hop: h.N, Weight: pinpoint.Strong, Quote: line.Text, At: pinpoint.Place{File: l.Path},
					Says: fmt.Sprintf("the log of %s at %s has the request with %d: the refusal was written there, or behind it", pinpoint.ProductName(h.Product), h.At, w.status)})
				clues = append(clues, w.handedOn(h)...)
			}
		}
	}
	w.report.Clues = append(w.report.Clues, clues[:min(len(clues), 64)]...)
}

// handedOn clears the servers before a hop that has the refusal in its own log: a request that one of them had
// refused would not have come there.
func (w *walker) handedOn(h *Hop) (clues []pinpoint.Clue) {
	for _, o := range w.report.Hops {
		product := cmp.Or(o.Decision.Product, o.Product)
		if o.N >= h.N || o.Why != "" || product == "" || product == h.Product {
			continue
		}
		clues = append(clues, pinpoint.Clue{Source: pinpoint.FromLog, ID: "later-hop-log", Against: true, Refuser: product, Hop: o.N, Weight: pinpoint.Certain, Names: map[string]string{"behind": h.Product},
			Says: fmt.Sprintf("%s handed on the answer of %s at %s, whose log has the request with the same status", pinpoint.ProductName(product), pinpoint.ProductName(h.Product), h.At)})
	}
	return clues
}

// verifier reads from the log of a server that another one asked (auth_request) that it said no.
func (w *walker) verifier(h *Hop, line Line) (c pinpoint.Clue, ok bool) {
	g := answered.FindStringSubmatch(line.raw)
	if h.Arrival.Why != "auth_request" || g == nil || !slices.Contains([]string{"401", "403"}, g[1]) || line.By == "like" {
		return c, false
	}
	c = pinpoint.Clue{Source: pinpoint.FromLog, ID: "verifier-log", Cause: "nginx-auth-request-denied", Weight: pinpoint.Certain, Hop: h.N - 1, Quote: line.Text,
		Says: fmt.Sprintf("the verifier at %s answered %s to the question that the server before asked it", h.At, g[1]), Names: map[string]string{"decider": h.At}}
	if i := slices.IndexFunc(w.report.Hops, func(o Hop) bool { return o.N == h.N-1 && o.Why == "" }); i >= 0 {
		c.Refuser = w.report.Hops[i].Product
	}
	return c, true
}
