package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"
)

const maxJournal = 8 << 20

// Journal runs journalctl with some options, which only read, and returns at most 8 MiB of what it prints.
func (m *Machine) Journal(ctx context.Context, args ...string) ([]byte, error) {
	if m.Root != "" {
		return nil, errors.New("the journal of another root is not read")
	}
	for _, name := range []string{"/usr/bin/journalctl", "/bin/journalctl"} {
		if _, err := os.Stat(name); err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, journalTime)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = []string{"LC_ALL=C", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0"}
		cmd.WaitDelay = time.Second
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		data, err := io.ReadAll(io.LimitReader(out, maxJournal))
		cancel() // what is left is not read
		werr := cmd.Wait()
		if err == nil && len(data) == 0 && werr != nil && ctx.Err() == nil {
			err = werr
		}
		return data, err
	}
	return nil, errors.New("journalctl is not installed")
}

// journalLine reads one line of journalctl -o json. A message that is no text comes as numbers, and is skipped.
func journalLine(line []byte) (at time.Time, text string, ok bool) {
	line = bytes.TrimSpace(line)
	if len(line) == 0 || len(line) > 1<<20 {
		return at, "", false
	}
	var e struct {
		Message any    `json:"MESSAGE"`
		Real    string `json:"__REALTIME_TIMESTAMP"`
		Source  string `json:"_SOURCE_REALTIME_TIMESTAMP"`
	}
	if json.Unmarshal(line, &e) != nil {
		return at, "", false
	}
	text, ok = e.Message.(string)
	if e.Source == "" {
		e.Source = e.Real
	}
	n, err := strconv.ParseInt(e.Source, 10, 64)
	if !ok || err != nil {
		return at, "", false
	}
	return time.UnixMicro(n), text, true
}
