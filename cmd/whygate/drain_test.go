package main

import (
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
		dir := t.TempDir()
		docs, data := filepath.Join(dir, "docs.yaml"), filepath.Join(dir, "data")
		text := whytest.GatewayDocument("wire", "  drain: {delay: "+delay+"}\n") + "---\n" + whytest.API(up.URL, "/", "")
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
