package main

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/whygate/whygate/whytest"
)

// TestDrainDelay: a node that somebody watches says that it is not ready and still takes calls for a while, so that nobody
// is sent to a closed port. Where nobody watches, it leaves at once.
func TestDrainDelay(t *testing.T) {
	up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) })
	start := func(delay string) (cmd *exec.Cmd, base, admin string) {
		return startNode(t, "  drain: {delay: "+delay+"}\n", up.URL)
	}
	get := func(url string) int {
		res, err := http.Get(url)
		if err != nil {
			return 0
		}
		res.Body.Close()
		return res.StatusCode
	}

	cmd, base, admin := start("24h")
	if got := get(admin + "/readyz"); got != 200 {
		t.Fatalf("/readyz answers %d", got)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	whytest.Eventually(t, "the node is not ready", func() bool { return get(admin+"/readyz") == 503 })
	if got := get(base); got != 204 {
		t.Errorf("a call during the delay was answered %d", got)
	}
	cmd.Process.Signal(syscall.SIGTERM) // a second signal waits for nothing
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}

	cmd, base, _ = start("24h")
	if got := get(base); got != 204 {
		t.Fatalf("a call was answered %d", got)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestDrainStop: a call that does not end is broken off at the deadline, and the process ends at the stop whatever it waits for.
func TestDrainStop(t *testing.T) {
	came, hold := make(chan struct{}), make(chan struct{})
	up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) { close(came); <-hold })
	defer close(hold)
	cmd, base, _ := startNode(t, "  drain: {deadline: 24h, stop: 1s}\n", up.URL)
	go http.Get(base)
	<-came
	cmd.Process.Signal(syscall.SIGTERM)
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitEnvironment {
		t.Errorf("the process ended with %v", err)
	}
}

// startNode runs the binary in front of an upstream, with settings of its Gateway.
func startNode(t *testing.T, spec, upstream string) (cmd *exec.Cmd, base, admin string) {
	dir := t.TempDir()
	docs, data := filepath.Join(dir, "docs.yaml"), filepath.Join(dir, "data")
	text := whytest.GatewayDocument("wire", spec) + "---\n" + whytest.API(upstream, "/", "")
	if err := os.WriteFile(docs, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(binary(t), "serve", docs, "--admin", "127.0.0.1:0", "--data", data, "--log-level", "error")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	whytest.Eventually(t, "the node serves", func() bool {
		n, err := readNode(data)
		if err != nil || len(n.Listeners) == 0 || n.Admin == "" {
			return false
		}
		base, admin = "http://"+n.Listeners[0], "http://"+n.Admin
		return true
	})
	return cmd, base, admin
}
