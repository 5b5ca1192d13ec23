package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/whygate/whygate/whytest"
)

// newNode is a node in this process that has loaded its documents.
func newNode(t *testing.T, paths ...string) *node {
	t.Helper()
	o := &serveOptions{paths: paths, listen: "127.0.0.1:0", data: t.TempDir(), node: "test", logFormat: "text", logLevel: "error"}
	log, err := newLogger(io.Discard, o)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{app: &app{in: strings.NewReader(""), out: io.Discard, err: io.Discard}, opts: o, log: log}
	if err := n.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	if err := n.firstLoad(); err != nil {
		t.Fatal(err)
	}
	return n
}

// A document that is changed while the documents are being read is not taken for the one that was read.
func TestChangeWhileReading(t *testing.T) {
	dir := t.TempDir()
	api, slow := filepath.Join(dir, "api.yaml"), filepath.Join(dir, "slow.yaml")
	write := func(path, base string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(whytest.API("http://127.0.0.1:1", base, "")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(api, "/before")
	if err := os.WriteFile(slow, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, api, slow)
	if n.seen != n.state(n.gateway.Snapshot()) {
		t.Error("documents that nobody touches look changed")
	}
	// A pipe holds the reading up behind the first file.
	if err := os.Remove(slow); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(slow, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, good := range []bool{true, false} {
		reloaded := make(chan error, 1)
		go func() {
			_, err := n.reload()
			reloaded <- err
		}()
		pipe, err := os.OpenFile(slow, os.O_WRONLY, 0) // returns when the node reads it
		if err != nil {
			t.Fatal(err)
		}
		write(api, "/after-"+time.Now().Format("150405.000000000"))
		if !good {
			io.WriteString(pipe, "kind: Mistake\n")
		}
		pipe.Close()
		if err := <-reloaded; err != nil {
			t.Fatal(err)
		}
		if n.seen == n.state(n.gateway.Snapshot()) {
			t.Errorf("the change is not seen (good documents: %v)", good)
		}
	}
}

// A node that is leaving does not open its listeners again.
func TestNoReloadWhileDraining(t *testing.T) {
	docs := filepath.Join(t.TempDir(), "docs.yaml")
	if err := os.WriteFile(docs, []byte(whytest.API("http://127.0.0.1:1", "/", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, docs)
	if err := n.gateway.Listen(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.reload(); err != nil || len(n.gateway.Addresses()) != 1 {
		t.Fatalf("reload: %v, listening on %v", err, n.gateway.Addresses())
	}
	if err := n.drain(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.reload(); err == nil || len(n.gateway.Addresses()) != 0 {
		t.Errorf("reload: %v, listening on %v", err, n.gateway.Addresses())
	}
}
