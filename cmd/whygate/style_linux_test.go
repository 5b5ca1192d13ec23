package main

import (
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTerminalWithoutWidth takes a new pseudoterminal, which has no size until somebody sets one (pty(7)):
// it is a terminal all the same, and somebody who sits there can be asked.
func TestTerminalWithoutWidth(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudoterminals: " + err.Error())
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudoterminals: " + err.Error())
	}
	defer slave.Close()
	a := &app{in: slave, err: slave}
	for _, cols := range []struct{ reported, used int }{{0, 80}, {7, 20}, {132, 132}} {
		if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(cols.reported)}); err != nil {
			t.Fatal(err)
		}
		if s := a.styleFor(slave); !s.terminal || s.width != cols.used || !a.interactive() {
			t.Errorf("%d columns: terminal %v, width %d, interactive %v", cols.reported, s.terminal, s.width, a.interactive())
		}
	}
}
